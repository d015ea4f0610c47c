"""The numbers of a study: regrets of its methods, paired tests, ranks, speed-ups, curves over what was spent.

Regret is the true expected test error of a run's incumbent minus the lowest known in the benchmark. A run without an
incumbent is the worst in ranks and tests, and missing in means; how many there are is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from naslib_autokd.escaping import plain
from naslib_autokd.runners.ablation import SimulatedRun, StudyResult
from naslib_autokd.runners.statistics import (
    LEVEL,
    Band,
    FloatArray,
    FriedmanTest,
    SignedRankTest,
    SpeedUp,
    bootstrap_band,
    friedman_test,
    holm,
    ranks,
    signed_rank_test,
    speed_up,
    step_curve,
)
from naslib_autokd.runners.study import UNITS_IN_WORDS

GRID_POINTS = 200
"""Resolution of curves and speed-ups over trials: a factor of 1.03 for 500 trials."""

Axis = Literal["student_epochs", "trials"]


@dataclass(frozen=True)
class MethodSummary:
    """A method over its seeds. Regrets are fractions (0.01 is one percentage point)."""

    label: str
    n: int
    """Runs."""
    n_without: int
    """Runs that never had an incumbent: not in the mean and the median, the worst in ranks and tests."""
    regret: float
    """Mean of the final regrets; nan without any."""
    regret_low: float | None
    regret_high: float | None
    median_regret: float
    student_epochs: float
    """What a run could spend."""
    full_trainings: float
    """The same in trainings at the largest budget."""
    n_trials: float
    """Mean number of trainings, of any length."""
    cpu_s: float
    """Mean CPU seconds of a run: the optimizer's own."""
    average_rank: float | None = None
    """Over the seeds that all methods have; None if there are none."""
    test: SignedRankTest | None = None
    """Final regret of this method (a) against the reference's (b), paired by seed; None for the reference."""
    p_holm: float | None = None
    speed_up_epochs: SpeedUp | None = None
    """Of the reference over this method, in the unit of the budget."""
    speed_up_trials: SpeedUp | None = None


@dataclass(frozen=True)
class StudySummary:
    """All methods of a study, in its order."""

    name: str
    title: str
    question: str
    benchmark: str
    best_test_error: float
    reference: str
    methods: tuple[MethodSummary, ...]
    friedman: FriedmanTest | None
    """Over the seeds that all methods have; None for one method or without such seeds."""
    missing: tuple[str, ...] = ()
    """What was asked for and is not there: failed runs, methods that were left out."""
    noise_sd: float | None = None
    """Of one training's test error, where the benchmark is a table whose repeats show it; a fraction."""
    noise: str = ""
    """The same in words."""
    unit: str = "student-epochs"
    """What budgets count, in words (`study.UNITS_IN_WORDS`)."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: nan and infinity become None."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def summary(result: StudyResult) -> StudySummary:
    """The numbers of a study's tables. Methods without any run are left out."""
    runs = _by_method(result)
    reference = result.study.reference if result.study.reference in runs else next(iter(runs))
    labels = list(runs)
    common = sorted(set.intersection(*(set(of_method) for of_method in runs.values())))
    friedman = None
    if len(labels) > 1 and common:
        friedman = friedman_test([[_final(result, runs[label][seed]) for seed in common] for label in labels], LEVEL)
        if friedman.smallest_p_value > LEVEL:  # ranks of so few seeds say nothing
            friedman = None
    tests = {
        label: signed_rank_test(*_pairs(result, runs[label], runs[reference]))
        for label in labels
        if label != reference and set(runs[label]) & set(runs[reference])
    }
    adjusted = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))
    rows = []
    for index, label in enumerate(labels):
        own = list(runs[label].values())
        finals = np.array([_final(result, run) for run in own])
        finals = finals[~np.isnan(finals)]
        band = bootstrap_band(finals[:, None]) if len(finals) else None
        full = own[0].student_epochs[0]  # runs are looked at after each full training's worth
        rows.append(
            MethodSummary(
                label=label,
                n=len(own),
                n_without=len(own) - len(finals),
                regret=float(band.centre[0]) if band else float("nan"),
                regret_low=float(band.low[0]) if band and band.n > 1 else None,
                regret_high=float(band.high[0]) if band and band.n > 1 else None,
                median_regret=float(np.median(finals)) if band else float("nan"),
                student_epochs=own[0].student_epochs[-1],
                full_trainings=own[0].student_epochs[-1] / full,
                n_trials=float(np.mean([run.n_trials for run in own])),
                cpu_s=float(np.mean([run.cpu_s for run in own])),
                average_rank=float(friedman.average_ranks[index]) if friedman else None,
                test=tests.get(label),
                p_holm=float(adjusted[label]) if label in adjusted else None,
                speed_up_epochs=_speed_up(result, runs[reference], runs[label], "student_epochs"),
                speed_up_trials=_speed_up(result, runs[reference], runs[label], "trials"),
            )
        )
    study = result.study
    missing = [f"{failure.method}, seed {failure.seed}: {failure.error}" for failure in result.failures]
    missing += [f"left out: {reason}" for reason in result.left_out]
    return StudySummary(
        name=study.name,
        title=study.title,
        question=study.question,
        benchmark=study.benchmark if isinstance(study.benchmark, str) else study.benchmark.name,
        best_test_error=result.best_test_error,
        reference=reference,
        methods=tuple(rows),
        friedman=friedman,
        missing=tuple(missing),
        noise_sd=result.noise_sd,
        noise=result.noise,
        unit=UNITS_IN_WORDS[study.budget_unit],
    )


def _by_method(result: StudyResult) -> dict[str, dict[int, SimulatedRun]]:
    """Runs by label, in the study's order, and by seed."""
    runs: dict[str, dict[int, SimulatedRun]] = {method.label: {} for method in result.study.methods}
    for run in result.runs:
        runs.setdefault(run.method, {})[run.seed] = run
    found = {label: dict(sorted(of_method.items())) for label, of_method in runs.items() if of_method}
    if not found:
        raise ValueError("the study has no finished run: there is nothing to report")
    return found


def _final(result: StudyResult, run: SimulatedRun) -> float:
    return run.test_error[-1] - result.best_test_error


def _pairs(
    result: StudyResult, a: Mapping[int, SimulatedRun], b: Mapping[int, SimulatedRun]
) -> tuple[list[float], list[float]]:
    """Final regrets of two methods on the seeds that both have."""
    seeds = [seed for seed in a if seed in b]
    return [_final(result, a[seed]) for seed in seeds], [_final(result, b[seed]) for seed in seeds]


def _speed_up(
    result: StudyResult, reference: Mapping[int, SimulatedRun], rival: Mapping[int, SimulatedRun], axis: Axis
) -> SpeedUp | None:
    """Of the reference over the rival, on the seeds where both have an incumbent in the end."""
    if reference is rival:
        return None
    seeds = [
        seed
        for seed in reference
        if seed in rival and not math.isnan(reference[seed].test_error[-1] + rival[seed].test_error[-1])
    ]
    if not seeds:
        return None
    both = [[of_method[seed] for seed in seeds] for of_method in (reference, rival)]
    grid = _grid([*both[0], *both[1]], axis)
    spent = min(getattr(run, axis)[-1] for run in both[0])
    curves = [_curves(result, of_method, axis, grid) for of_method in both]
    return speed_up(curves[0], curves[1], grid, spent=spent)


def _grid(runs: Sequence[SimulatedRun], axis: Axis) -> FloatArray:
    """Where curves are evaluated: the points at which the runs were looked at; numbers of trials are thinned."""
    points = np.unique(np.concatenate([np.asarray(getattr(run, axis), dtype=np.float64) for run in runs]))
    points = points[points > 0]
    if axis == "trials" and len(points) > GRID_POINTS:
        points = np.unique(np.round(np.geomspace(points[0], points[-1], GRID_POINTS)))
    return points if len(points) else np.ones(1)


def _curves(result: StudyResult, runs: Sequence[SimulatedRun], axis: Axis, grid: FloatArray) -> FloatArray:
    """Regrets ``(seeds, grid)``; nan before a seed's first incumbent."""
    return np.array([step_curve(getattr(run, axis), run.test_error, grid) for run in runs]) - result.best_test_error


@dataclass(frozen=True)
class Curve:
    """Mean regret over what was spent, of the runs that end with an incumbent."""

    grid: FloatArray
    """As far as the method's runs went."""
    band: Band
    median: FloatArray


def anytime_curves(result: StudyResult, axis: Axis = "student_epochs") -> dict[str, Curve]:
    """By label; a method that never finds an incumbent has no curve."""
    runs = _by_method(result)
    grid = _grid([run for of_method in runs.values() for run in of_method.values()], axis)
    curves = {}
    for label, of_method in runs.items():
        own = [run for run in of_method.values() if not math.isnan(run.test_error[-1])]
        if own:
            end = np.median([getattr(run, axis)[-1] for run in own])
            part = grid[grid <= max(end, grid[0])]
            values = _curves(result, own, axis, part)
            curves[label] = Curve(part, bootstrap_band(values), bootstrap_band(values, "median", n_resamples=1).centre)
    return curves


def rank_curves(result: StudyResult) -> tuple[FloatArray, dict[str, FloatArray], int]:
    """Average ranks over student-epochs, on the seeds that all methods have: grid, rank by label, number of seeds.

    A method that has ended keeps its incumbent; one without an incumbent is the worst.
    """
    runs = _by_method(result)
    common = sorted(set.intersection(*(set(of_method) for of_method in runs.values())))
    grid = _grid([run for of_method in runs.values() for run in of_method.values()], "student_epochs")
    if not common:
        return grid, {label: np.full(len(grid), np.nan) for label in runs}, 0
    curves = [_curves(result, [of[seed] for seed in common], "student_epochs", grid) for of in runs.values()]
    return grid, dict(zip(runs, ranks(np.array(curves)).mean(axis=1), strict=True)), len(common)
