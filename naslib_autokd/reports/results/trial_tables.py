"""The tables of a search's trials: each training, the incumbent over time, what was searched and what matters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from naslib_autokd.records import Trial, TrialStore, full_trainings
from naslib_autokd.reports.results.run import Row
from naslib_autokd.runners.pareto import hypervolume_over_time, objective_table, pareto_front

MOST_SHOWN = 10_000
"""Trials that get a row, and a point in a chart, of their own: a page with more is slow to make and to open."""
N_FAMILIES = 4
"""Families other than the incumbent's that get a violin of their own: those that were trained most often."""

_OUTCOME: tuple[str, ...] = (
    "budget_epochs",
    "status",
    "message",
    "val_accuracy",
    "train_accuracy",
    "teacher_agreement",
    "n_params",
)
_OUTCOME += ("macs", "depth", "train_memory_bytes", "student_epochs")


def shown_places(trials: Sequence[Trial]) -> list[int]:
    """Of the trials that get a row of their own: all, or of very many the best so far and an even sample."""
    if len(trials) <= MOST_SHOWN:
        return list(range(len(trials)))
    chosen = set(range(0, len(trials), -(-len(trials) // MOST_SHOWN)))
    lowest: dict[int, float] = {}
    for index, trial in enumerate(trials):
        if trial.succeeded and trial.cost < lowest.get(trial.budget_epochs, math.inf):
            lowest[trial.budget_epochs] = trial.cost
            chosen.add(index)
    return sorted(chosen)


def trial_rows(trials: Sequence[Trial], method: str, run_seed: Any) -> list[Row]:
    """The table ``trials``."""
    spent = zip(accumulate(t.student_epochs for t in trials), accumulate(t.total_s for t in trials), strict=True)
    return [
        {
            "method": method,
            "run_seed": run_seed,
            "number": trial.number,
            "family": trial.candidate_digest,
            **{name: getattr(trial, name) for name in _OUTCOME},
            "spent_epochs": epochs,
            "spent_s": seconds,
            "seconds": trial.total_s,
            "wiring": trial.wiring,
        }
        for trial, (epochs, seconds) in zip(trials, spent, strict=True)
    ]


def anytime_rows(trials: Sequence[Trial], method: str, seed: Any) -> list[Row]:
    """The table ``anytime``: the observed incumbent each time it changed, and at the end."""
    rows: list[Row] = []
    store, seconds, before = TrialStore(), 0.0, None
    for n, trial in enumerate(trials, start=1):
        store.append(trial)
        seconds += trial.total_s
        best = store.incumbent()
        if best is not None and (best is not before or n == len(trials)):
            spent = {"student_epochs": store.student_epochs, "trials": n, "seconds": seconds}
            found = {"accuracy": best.val_accuracy, "family": best.candidate_digest, "one_shot": False}
            rows.append({"method": method, "seed": seed, **spent, **found})
            before = best
    return rows


def failure_rows(trials: Iterable[Trial]) -> list[Row]:
    """The table ``failures``."""
    counts = Counter((trial.status, trial.message) for trial in trials if not trial.succeeded)
    return [{"status": status, "message": message, "n": n} for (status, message), n in counts.most_common()]


def family_rows(trials: Iterable[Trial], finals: Iterable[Row], incumbent: str) -> list[Row]:
    """The table ``families``; ``incumbent`` is a digest."""
    full = full_trainings(trials)
    others = Counter(trial.candidate_digest for trial in full if trial.candidate_digest != incumbent)
    named = {digest: f"family {digest}" for digest, n in others.most_common(N_FAMILIES) if n > 1}
    groups, rest = {incumbent: "incumbent family", **named}, "all other families"
    found = [(incumbent, row["val_accuracy"], "final student") for row in finals if row["status"] == "success"]
    found += [(trial.candidate_digest, trial.val_accuracy, "trial") for trial in full]
    rows = [
        {"group": groups.get(family, rest), "family": family, "accuracy": accuracy, "source": source}
        for family, accuracy, source in found
    ]
    order = [*groups.values(), rest]
    return sorted(rows, key=lambda row: order.index(row["group"]))


def front_rows(
    trials: Sequence[Trial],
    objectives: Sequence[str],
    expected: Sequence[Mapping[str, Any]] = (),
    shown: Iterable[int] | None = None,
) -> list[Row]:
    """The table ``front``: all full trainings, or those at the places ``shown`` and on the observed front.

    Args:
        expected: The front by the optimizer's evidence (`runners.results.SearchResult.front`), in place of the
            observed one.
    """
    values, places = objective_table(trials, objectives)
    observed, kept = set(pareto_front(values).tolist()), set(places if shown is None else shown)
    rows: list[Row] = [
        {"family": trials[place].candidate_digest, "on_front": index in observed and not expected, "expected": False}
        | dict(zip(objectives, values[index].tolist(), strict=True))
        for index, place in enumerate(places)
        if index in observed or place in kept
    ]
    on_front = {"on_front": True, "expected": True}
    return rows + [{"family": family["candidate_digest"], **on_front, **family["objectives"]} for family in expected]


def hypervolume_rows(trials: Sequence[Trial], objectives: Sequence[str]) -> list[Row]:
    """The table ``hypervolume``, in the box of all full trainings; empty if it has no volume."""
    values, _ = objective_table(trials, objectives)
    if len(values) == 0 or not np.all(values.max(axis=0) > values.min(axis=0)):
        return []
    found = hypervolume_over_time(trials, objectives, values.min(axis=0), values.max(axis=0))
    return [{"student_epochs": x, "share_of_the_box_of_all_full_trainings": y} for x, y in found]
