"""A benchmark that is a formula over HNAG families: what studies need, in a few microseconds a query."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from naslib_autokd.optimizers.random_search import RandomSearch
from naslib_autokd.records import Proposal, Trial, derive_seed
from naslib_autokd.search_spaces.hnag import HNAGSpace


class Synthetic:
    """Best where growth is 1.5, top_nodes 6, temperature 3 and kd_weight 0.7. Families that grow by less than
    ``fails_below`` fail, and are charged a third of their budget."""

    name = "synthetic"
    budgets = (1, 3, 9)
    best_test_error = 0.12

    def __init__(self, fails_below: float = 0.0, noise: float = 0.01) -> None:
        self.space: Any = HNAGSpace("hnag-small")
        self.fails_below, self.noise = fails_below, noise
        self.proposals: list[Proposal] = []

    def _error(self, candidate: Any, budget: int) -> float:
        g, kd = candidate.generator, candidate.kd
        error = 0.1 + 0.1 * abs(g.channel_growth - 1.5) + 0.01 * abs(g.top.n_nodes - 6)
        error += 0.05 * math.log(kd.temperature / 3) ** 2 + 0.1 * (kd.kd_weight - 0.7) ** 2
        return error + 0.2 * (1 / budget - 1 / 9)

    def evaluate(self, proposal: Proposal) -> Trial:
        self.proposals.append(proposal)
        if proposal.candidate.generator.channel_growth < self.fails_below:
            spent = proposal.budget_epochs / 3
            return Trial.of(proposal, status="diverged", message="too thin", student_epochs=spent)
        rng = np.random.default_rng(derive_seed(proposal.seed, proposal.candidate.digest, proposal.budget_epochs))
        cost = self._error(proposal.candidate, proposal.budget_epochs) + self.noise * rng.normal()
        return Trial.of(proposal, cost=cost, val_accuracy=1 - cost, student_epochs=float(proposal.budget_epochs))

    def true_cost(self, candidate: Any) -> float:
        return self._error(candidate, 9)

    def true_test_error(self, candidate: Any) -> float:
        return self._error(candidate, 9) + 0.02


class Witness(Synthetic):
    """Writes a line ``PID THREADS`` at its first evaluation in a process: the threads that BLAS and OpenMP may use."""

    def __init__(self, journal: str) -> None:
        super().__init__()
        self.journal = journal
        self.seen = False

    def evaluate(self, proposal: Proposal) -> Trial:
        if not self.seen:
            self.seen = True
            import sklearn.ensemble  # noqa: F401 (brings OpenMP)
            from threadpoolctl import threadpool_info

            with open(self.journal, "a") as file:
                file.write(f"{os.getpid()} {max(library['num_threads'] for library in threadpool_info())}\n")
        return super().evaluate(proposal)


class Broken(RandomSearch):
    """Fails in the run with one seed (its process dies with ``die``), unless there is a file."""

    def __init__(self, space: Any, *, seed: int, bad_seed: int, unless: str, die: bool, **options: Any) -> None:
        super().__init__(space, seed=seed, **options)
        self.bad, self.die = seed == bad_seed and not Path(unless).exists(), die

    def ask(self) -> Proposal:
        if self.bad and self.die:
            os._exit(7)
        if self.bad:
            raise RuntimeError("out of luck")
        return super().ask()
