"""What a search is made of (its space, its budget, its optimizer), checked before any work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from naslib_autokd.evaluators.base import Evaluator, PredictsTrainingSeconds
from naslib_autokd.optimizers.base import (
    MULTI_OBJECTIVE,
    Optimizer,
    OptimizerFactory,
    SearchSpaceLike,
    get_optimizer,
    known_to,
    parameters_of,
)
from naslib_autokd.records import Proposal, derive_seed
from naslib_autokd.runners.run_folder import BUDGETS, read_settings
from naslib_autokd.search_spaces import ChecksTask, DescribesItself, HasDefault, get_search_space, without_kd
from naslib_autokd.tasks import Task, did_you_mean


def check_space(task: Task, space: SearchSpaceLike) -> None:
    """Let the space check, before any work, whether it can be searched on this task.

    Raises:
        ValueError: If it cannot; HNAG's: if the images are too small or the parameter limit is too low.
    """
    if isinstance(space, ChecksTask):
        space.check(task)


def search_space(
    task: Task,
    space: str | SearchSpaceLike | None = None,
    *,
    objective: str = "kd",
    out: str | Path | None = None,
) -> SearchSpaceLike:
    """The space that a search on ``task`` uses: the one given, by name or as it is, or the task's preset.

    Args:
        objective: With "ce" the KD settings change nothing, and are no dimensions of the search...
        out: ...but in a run folder that was begun with them.

    Raises:
        ValueError: If the name is unknown (with the nearest ones).
    """
    found: SearchSpaceLike = get_search_space(task.preset if space is None else space)
    if objective != "ce" or (out is not None and read_settings(out).get("space") == described_space(found)):
        return found
    return without_kd(found)


def space_of_run(
    task: Task,
    name: str | None = None,
    objectives: Sequence[str] = ("error",),
    objective: str = "kd",
    out: str | Path | None = None,
) -> SearchSpaceLike:
    """`search_space` as the command line has it: with several objectives the size of a student is a dimension, too."""
    from naslib_autokd.search_spaces.hnag.parameters import HNAGSpace

    space = get_search_space(task.preset if name is None else name)
    if len(objectives) > 1 and isinstance(space, HNAGSpace):
        space = space.replaced(search_size=True)
    return search_space(task, space, objective=objective, out=out)


def described_space(space: SearchSpaceLike) -> Any:
    """What ``run.yaml`` says of a space: its name, or more."""
    return space.describe() if isinstance(space, DescribesItself) else space.name


def first_proposal(task: Task, space: SearchSpaceLike, seed: int) -> Proposal | None:
    """The default family, trained in full; None if the space has none."""
    if not isinstance(space, HasDefault):
        return None
    return Proposal(space.default_candidate(), task.max_budget_epochs, derive_seed(seed, "trial", -1), -1)


def check_budget(
    task: Task,
    n_trials: int | None = None,
    student_epochs: float | None = None,
    wall_s: float | None = None,
    target_cost: float | None = None,
    training_seconds: float | None = None,
) -> float | None:
    """Student-epochs that a budget is worth: a trial of Hyperband with two rungs costs two thirds of a full one.

    None if only seconds are limited (`epochs_for_seconds`).

    Raises:
        ValueError: If there is no budget that ends the search for certain, or less than one full training.
    """
    if n_trials is None and student_epochs is None and wall_s is None and training_seconds is None:
        raise ValueError(
            "give a budget: n_trials (number of trials), student_epochs (total epochs of training), training_seconds "
            "(modelled seconds of training) or wall_s (seconds)"
            + ("" if target_cost is None else "; a target alone may never be reached")
        )
    if n_trials is not None and n_trials < 1:
        raise ValueError(f"n_trials must be at least 1, got {n_trials}")
    if student_epochs is not None and not student_epochs >= task.max_budget_epochs:
        raise ValueError(
            f"student_epochs must be at least one full training ({task.max_budget_epochs} epochs), "
            f"got {student_epochs:g}"
        )
    for name, seconds in (("wall_s", wall_s), ("training_seconds", training_seconds)):
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{name} must be a positive number of seconds, got {seconds}")
    if target_cost is not None and not 0 <= target_cost < 1:
        raise ValueError(f"target_cost (1 - validation accuracy) must be in [0, 1), got {target_cost}")
    worth = [] if student_epochs is None else [float(student_epochs)]
    if n_trials is not None:
        worth.append(max(1.0, n_trials * 2 / 3) * task.max_budget_epochs)
    return min(worth, default=None)


REFERENCES = 5
"""Families whose median cost counts in a space without a default."""


def reference_seconds(space: SearchSpaceLike, evaluator: PredictsTrainingSeconds, epochs: int) -> float:
    """Modelled seconds of a training of the space's default family, or of the median of some random ones."""
    if isinstance(space, HasDefault):
        candidates = [space.default_candidate()]
    else:
        points = space.configuration_space()
        candidates = [space.candidate(dict(points.sample_configuration())) for _ in range(REFERENCES)]
    seeds = [derive_seed(0, "reference", index) for index in range(len(candidates))]
    proposals = [Proposal(*each, 0) for each in zip(candidates, [epochs] * len(seeds), seeds, strict=True)]
    return sorted(map(evaluator.training_seconds, proposals))[len(candidates) // 2]


def epochs_for_seconds(
    task: Task, space: SearchSpaceLike, evaluator: PredictsTrainingSeconds, training_seconds: float
) -> tuple[float, float]:
    """Student-epochs that so many modelled seconds are worth, and the seconds of one (`reference_seconds`).

    Raises:
        ValueError: If they do not pay one full training.
    """
    full = reference_seconds(space, evaluator, task.max_budget_epochs)
    if training_seconds < full:
        raise ValueError(
            f"training_seconds must pay at least one full training ({full:.3g} s of {task.max_budget_epochs} epochs), "
            f"got {training_seconds:g}"
        )
    if not full:
        raise ValueError("training_seconds: a student of this space cannot be trained on this task")
    return task.max_budget_epochs * training_seconds / full, full / task.max_budget_epochs


def planned_epochs(out: str | Path, task: Task, planned: float | None) -> float | None:
    """Student-epochs that the run in ``out`` was planned for, ``planned`` if it is new.

    The optimizer chooses its ladder by them, so a run that is made longer keeps them: it could not be replayed else.
    """
    stored = read_settings(out)
    if not stored:
        return planned
    if "planned_epochs" in stored:
        return None if stored["planned_epochs"] is None else float(stored["planned_epochs"])
    budget = {name: stored.get(name) for name in BUDGETS}
    return check_budget(task, **budget) if any(value is not None for value in budget.values()) else planned


def make_optimizer(
    task: Task,
    optimizer: str | OptimizerFactory,
    *,
    space: str | SearchSpaceLike | None = None,
    n_trials: int | None = None,
    student_epochs: float | None = None,
    training_seconds: float | None = None,
    wall_s: float | None = None,
    target_cost: float | None = None,
    planned_epochs: float | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    objectives: Sequence[str] = ("error",),
    evaluator: Evaluator | None = None,
) -> Optimizer:
    """The optimizer that `search` would use; takes no part in any training, so it serves to check settings early.

    ``evaluator``: tells its budgets (`optimizers.base.known_to`).

    Raises:
        ValueError: For an unknown name or option, or a budget that cannot work.
    """
    factory = get_optimizer(optimizer)
    worth = check_budget(task, n_trials, student_epochs, wall_s, target_cost, training_seconds)
    if len(objectives) > 1 and optimizer in MULTI_OBJECTIVE:
        options = {**(options or {}), "objectives": tuple(objectives)}
    check_options(optimizer, factory, options or {})
    try:
        return factory(
            search_space(task, space),
            seed=seed,
            max_budget_epochs=task.max_budget_epochs,
            min_budget_epochs=task.min_budget_epochs,
            total_budget_epochs=worth if planned_epochs is None else planned_epochs,
            **{**known_to(factory, evaluator), **(options or {})},
        )
    except TypeError as error:  # an option that the optimizer does not have
        raise ValueError(f"optimizer {optimizer!r}: {error}") from error


def check_options(optimizer: str | OptimizerFactory, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that the optimizer does not have.

    Raises:
        ValueError: Names the option and the nearest one.
    """
    parameters = parameters_of(factory)
    if not parameters:  # the call itself will tell
        return
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    given = {"space", "seed", "max_budget_epochs", "min_budget_epochs", "total_budget_epochs"}
    for name in options:
        if name not in parameters:
            known = [parameter for parameter in parameters if parameter not in given]
            hint = did_you_mean(name, known) if known else "; it has none"
            raise ValueError(f"optimizer {optimizer!r} has no option {name!r}{hint}")


def is_optimizer(optimizer: object) -> TypeGuard[Optimizer]:
    """Whether this asks and tells, and is no name or factory of what does."""
    return isinstance(optimizer, Optimizer) and not isinstance(optimizer, type)


def optimizer_name(optimizer: object) -> str:
    """Its name, or that of its class or function."""
    if is_optimizer(optimizer):
        return type(optimizer).__name__
    return optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", repr(optimizer))


def run_settings(
    optimizer: str,
    space: SearchSpaceLike,
    *,
    seed: int,
    options: Mapping[str, Any] | None,
    n_trials: int | None = None,
    student_epochs: float | None = None,
    training_seconds: float | None = None,
    wall_s: float | None = None,
    target_cost: float | None = None,
    planned_epochs: float | None = None,
    objectives: Sequence[str] = ("error",),
    start_with_default: bool = True,
    evaluation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What ``run.yaml`` says of a search, besides the environment."""
    return {
        "optimizer": optimizer,
        "options": dict(options or {}),
        **({} if len(objectives) == 1 else {"objectives": list(objectives)}),
        "space": described_space(space),
        "seed": seed,
        "start_with_default": start_with_default,
        **({} if evaluation is None else {"evaluation": dict(evaluation)}),
        "n_trials": n_trials,
        "student_epochs": student_epochs,
        "training_seconds": training_seconds,
        "wall_s": wall_s,
        "target_cost": target_cost,
        "planned_epochs": planned_epochs,
    }
