"""What a search will cost, before it starts: from a measured training step of a few of its students."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from naslib_autokd.runners.session import duration
from naslib_autokd.runners.setup import epochs_for_seconds
from naslib_autokd.search_spaces import HasDefault

if TYPE_CHECKING:
    from naslib_autokd.evaluators.kd import KDEvaluator

LOW_BUDGETS = ("autokd", "hyperband", "smac-mf", "tpe-hyperband", "two-stage-random", "botorch-mf")
"""Optimizers most of whose trainings are shorter than full ones: two thirds of their epochs in the mean."""
N_STUDENTS = 4
N_STEPS = 3
LONGEST_S = 3.0
"""No further student is measured after so many seconds."""
RECORDS_OF_A_TRIAL, RECORDS_OF_A_FINAL = 1500, 12_000
"""Bytes of its lines besides the candidate; of a final student's line and its file's metadata."""


@dataclass(frozen=True)
class Estimate:
    """Expected costs of a search and its final students."""

    epoch_s: float
    """Of training one student for an epoch, seconds."""
    trial_s: float
    """Of a trial besides its epochs: drawing, building, validating."""
    n_trials: float
    student_epochs: float
    seconds: float
    memory_bytes: int
    """Of all processes at their peak."""
    disk_bytes: int
    """Of the run folder."""

    def text(self) -> str:
        epoch = f"{self.epoch_s:.2g} s" if self.epoch_s < 10 else duration(self.epoch_s)
        return (
            f"expected, from a measured step: {duration(self.seconds)} ({self.n_trials:.0f} trials, "
            f"{self.student_epochs:.0f} student-epochs of {epoch}), {_size(self.memory_bytes)} of memory, "
            f"{_size(self.disk_bytes)} on disk"
        )


def _size(n: float) -> str:
    return f"{n / 2**30:.1f} GB" if n >= 2**30 else f"{n / 2**20:.0f} MB" if n >= 2**20 else f"{n / 2**10:.0f} KB"


def estimate(
    evaluator: KDEvaluator,
    space: Any,
    *,
    optimizer: str,
    options: dict[str, Any],
    budget: dict[str, Any],
    n_finals: int,
    workers: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate | None:
    """The expected costs; None where they cannot be told. Changes nothing: no random number of the run is drawn.

    Args:
        budget: Of the search, by the names of `run_folder.BUDGETS`.
    """
    try:
        return _estimate(evaluator, space, optimizer, options, budget, n_finals, workers, clock)
    except Exception:  # a student that cannot be built is a failed trial, and no reason to end here
        return None


@dataclass(frozen=True)
class _Measured:
    """Of one student."""

    epoch_s: float
    trial_s: float
    memory: int
    file_bytes: int
    record_bytes: int


def _estimate(
    evaluator: KDEvaluator,
    space: Any,
    optimizer: str,
    options: dict[str, Any],
    budget: dict[str, Any],
    n_finals: int,
    workers: int,
    clock: Callable[[], float],
) -> Estimate:
    import psutil

    full = evaluator.task.max_budget_epochs
    families = [space.default_candidate()] if isinstance(space, HasDefault) else []
    _measure(evaluator, families[0] if families else space.sample(np.random.default_rng(0)), clock)  # loads the kernels
    rng, started = np.random.default_rng(0), clock()
    found: list[_Measured] = []
    while len(found) < N_STUDENTS and (not found or clock() - started < LONGEST_S):
        family = families.pop() if families else space.sample(rng)
        found.append(_measure(evaluator, family, clock))
    share = 2 / 3 if optimizer in LOW_BUDGETS and options.get("fidelity") != "full" else 1.0
    asked, epochs = budget["n_trials"], budget["student_epochs"]
    by_trials = np.inf if asked is None else max(1.0, asked * share) * full
    epochs = min(by_trials, np.inf if epochs is None else epochs)
    if (seconds := budget.get("training_seconds")) is not None:
        epochs = min(epochs, epochs_for_seconds(evaluator.task, space, evaluator, seconds)[0])
    epoch_s, trial_s = (float(np.mean([getattr(one, name) for one in found])) for name in ("epoch_s", "trial_s"))
    at_once = max(1, min(workers, os.cpu_count() or 1))
    a_trial = share * full * epoch_s + trial_s
    seconds = epochs / (share * full) * a_trial / at_once
    if budget["wall_s"] is not None and seconds > budget["wall_s"]:
        seconds = budget["wall_s"] + a_trial
        epochs = seconds * at_once / a_trial * share * full
    n_trials = min(epochs / (share * full), np.inf if asked is None else asked)
    processes = 1 if workers == 1 else 1 + workers
    memory = processes * psutil.Process().memory_info().rss + at_once * max(one.memory for one in found)
    record = float(np.mean([one.record_bytes for one in found]))
    file_bytes = max(one.file_bytes for one in found)
    return Estimate(
        epoch_s,
        trial_s,
        n_trials,
        epochs,
        seconds + n_finals * (full * epoch_s + trial_s) / at_once,
        int(memory),
        int(n_trials * (2 * record + RECORDS_OF_A_TRIAL) + n_finals * (file_bytes + RECORDS_OF_A_FINAL)),
    )


def _measure(evaluator: KDEvaluator, family: Any, clock: Callable[[], float]) -> _Measured:
    import torch

    from naslib_autokd.distillation.costs import train_memory
    from naslib_autokd.distillation.cuda_graphs import WARM_UP_STEPS, Step
    from naslib_autokd.distillation.training import (
        NesterovSGD,
        TrainingStep,
        limited_threads,
        predict,
        without_graph,
    )
    from naslib_autokd.search_spaces.hnag.wiring import StudentSpec

    data, task = evaluator.data, evaluator.task
    with limited_threads(evaluator.threads):
        begun = clock()
        spec = evaluator.student_spec(family, 0)
        student = evaluator.build_student(spec, 0).to(evaluator.device)
        memory = train_memory(student, evaluator.image_shape, task.batch_size)
        made_s = clock() - begun
        n = min(task.batch_size, data.n_shown, len(data.train_labels))
        index = torch.arange(n, device=evaluator.device)
        view = torch.zeros_like(index)
        kd = None if evaluator.objective == "ce" else family.kd
        step = TrainingStep(student.train(), NesterovSGD(student.parameters(), evaluator.settings), kd, None)
        graph = not without_graph(evaluator.device, evaluator.settings, kd_loss=evaluator.kd_loss)
        run: Step = step.graphed() if graph else step
        taken = []
        for _ in range(1 + WARM_UP_STEPS * graph + N_STEPS):  # the first warms up
            begun = clock()
            targets = None if kd is None else evaluator.soft_targets.train[view, index]
            images = data.normalise(data.train_views[view, index])
            run(images, data.train_labels[index], targets, 0.0, view, index, 0.0)[1].item()
            taken.append(clock() - begun)
        some = data.val_images[: min(256, len(data.val_images))]
        begun = clock()
        predict(student, data, some).sum().item()
        validated_s = (clock() - begun) * len(data.val_images) / len(some)
    described = len(json.dumps(spec.to_dict())) if isinstance(spec, StudentSpec) else 0
    return _Measured(
        epoch_s=min(taken[-N_STEPS:]) * max(1, data.n_shown // task.batch_size),
        trial_s=made_s + validated_s,
        memory=int(memory),
        file_bytes=4 * spec.n_params + described,
        record_bytes=len(json.dumps(family.to_dict())),
    )
