"""Shared by the tests of the dataset_api, the trainer and the registration: an evaluator without training, a config."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch

from naslib_autokd.records import Proposal, Trial
from naslib_autokd.tasks import Task, get_task


class TableEvaluator:
    """Answers at once with an accuracy that is a hash of the candidate; worse at small budgets.

    Disturbs the three global random states, as a training could. ``killed_at``: the process dies (SIGKILL) in the
    middle of this evaluation.
    """

    def __init__(self, task: Task | None = None, killed_at: int | None = None, fails: bool = False) -> None:
        self.task = task or get_task("cluttered-digits")
        self.killed_at, self.fails = killed_at, fails
        self.n_calls = 0

    def evaluate(self, proposal: Proposal) -> Trial:
        if self.n_calls == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.n_calls += 1
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        accuracy = int(proposal.candidate.digest, 16) % 9000 / 10000 * proposal.budget_epochs / 9
        record: dict[str, Any] = {
            "number": proposal.number,
            "candidate": proposal.candidate.to_dict(),
            "candidate_digest": proposal.candidate.digest,
            "budget_epochs": proposal.budget_epochs,
            "seed": proposal.seed,
            "student_epochs": float(proposal.budget_epochs),
        }
        if self.fails:
            return Trial(**record, status="diverged", message="as told")
        return Trial(
            **record, cost=1 - accuracy, val_accuracy=accuracy, train_accuracy=accuracy, curve=(2.0, 1.0), train_s=3.0
        )


class JudgedTable(TableEvaluator):
    """Knows test accuracies, too."""

    def test_accuracy(self, candidate: Any, seed: int) -> float:
        return 0.5


def config(save: str | Path, epochs: int = 5, dataset: str = "cluttered-digits", seed: int = 0, **search: Any) -> Any:
    """NASLib's configuration of a discrete search."""
    from fvcore.common.config import CfgNode

    keys = {"fidelity": -1, "checkpoint_freq": 100, "sample_size": 3, "population_size": 5, "num_init": 3}
    return CfgNode(
        {
            "save": str(save),
            "dataset": dataset,
            "search": keys | {"epochs": epochs, "seed": seed} | search,
            "evaluation": {"epochs": 1, "checkpoint_freq": 1},
        }
    )


def random_states() -> list[Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), kind, keys.tolist(), rest, torch.get_rng_state().tolist()]
