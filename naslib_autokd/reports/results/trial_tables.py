"""The tables of a search's trials: each training, the incumbent over time, what was searched and what matters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from naslib_autokd.records import MEASURED_OBJECTIVES, Trial, TrialStore, full_trainings, objective_value
from naslib_autokd.reports.results.run import Row, RunData, table
from naslib_autokd.runners.pareto import hypervolume_over_time, objective_table, pareto_front
from naslib_autokd.runners.searched import SearchedSettings
from naslib_autokd.runners.trial_importance import LEAST_ANALYSED, analysed, dependence, importance

MOST_SHOWN = 10_000
"""Trials that get a row, and a point in a chart, of their own: a page with more is slow to make and to open."""
N_FAMILIES = 4
"""Families other than the incumbent's that get a violin of their own: those that were trained most often."""

_OUTCOME = (
    "budget_epochs status message val_accuracy train_accuracy teacher_agreement n_params macs depth train_memory_bytes "
    "student_epochs training_seconds"
)


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
    lines, epochs, seconds = [], 0.0, 0.0
    for trial in trials:
        epochs, seconds = epochs + trial.student_epochs, seconds + trial.total_s
        outcome = (getattr(trial, name) for name in _OUTCOME.split())
        about = (method, run_seed, trial.number, trial.candidate_digest)
        measured = (objective_value(trial, name) for name in MEASURED_OBJECTIVES)
        lines.append((*about, *outcome, epochs, seconds, trial.total_s, trial.wiring, *measured))
    columns = f"spent_epochs spent_s seconds wiring {' '.join(MEASURED_OBJECTIVES)}"
    return table(f"method run_seed number family {_OUTCOME} {columns}", lines)


def anytime_rows(trials: Sequence[Trial], method: str, seed: Any) -> list[Row]:
    """The table ``anytime``: the observed incumbent each time it changed, and at the end."""
    store, seconds, before, lines = TrialStore(), 0.0, None, []
    for n, trial in enumerate(trials, start=1):
        store.append(trial)
        seconds += trial.total_s
        best = store.incumbent()
        if best is not None and (best is not before or n == len(trials)):
            spent = store.student_epochs, store.training_seconds, n, seconds
            found = (best.val_accuracy, best.candidate_digest)
            lines.append((method, seed, *spent, *found, False))
            before = best
    return table("method seed student_epochs training_seconds trials seconds accuracy family one_shot", lines)


def failure_rows(trials: Iterable[Trial]) -> list[Row]:
    """The table ``failures``."""
    counts = Counter((trial.status, trial.message) for trial in trials if not trial.succeeded)
    return table("status message n", ((*reason, n) for reason, n in counts.most_common()))


def family_rows(trials: Iterable[Trial], finals: Iterable[Row], incumbent: str) -> list[Row]:
    """The table ``families``; ``incumbent`` is a digest."""
    full = full_trainings(trials)
    others = Counter(trial.candidate_digest for trial in full if trial.candidate_digest != incumbent)
    named = {digest: f"family {digest}" for digest, n in others.most_common(N_FAMILIES) if n > 1}
    groups, rest = {incumbent: "incumbent family", **named}, "all other families"
    found = [(incumbent, row["val_accuracy"], "final student") for row in finals if row["status"] == "success"]
    found += [(trial.candidate_digest, trial.val_accuracy, "trial") for trial in full]
    order = [*groups.values(), rest]
    lines = ((groups.get(family, rest), family, accuracy, source) for family, accuracy, source in found)
    return table("group family accuracy source", sorted(lines, key=lambda line: order.index(line[0])))


def front_rows(
    trials: Sequence[Trial], objectives: Sequence[str], expected: Sequence[Mapping[str, Any]], shown: Iterable[int]
) -> list[Row]:
    """The table ``front``: the full trainings at the places ``shown`` and on the observed front.

    Args:
        expected: The front by the optimizer's evidence (`runners.results.SearchResult.front`), in place of the
            observed one.
    """
    values, places = objective_table(trials, objectives)
    observed, kept, of_each = set(pareto_front(values).tolist()), set(shown), itemgetter(*objectives)
    lines: list[tuple[Any, ...]] = [
        (
            trials[place].number,
            trials[place].candidate_digest,
            index in observed and not expected,
            False,
            *values[index],
        )
        for index, place in enumerate(places)
        if index in observed or place in kept
    ]
    lines += [(None, own["candidate_digest"], True, True, *of_each(own["objectives"])) for own in expected]
    return table(f"number family on_front expected {' '.join(objectives)}", lines)


def hypervolume_rows(trials: Sequence[Trial], objectives: Sequence[str]) -> list[Row]:
    """The table ``hypervolume``, in the box of all full trainings; empty if it has no volume."""
    values, _ = objective_table(trials, objectives)
    if len(values) == 0 or not np.all(values.max(axis=0) > values.min(axis=0)):
        return []
    found = hypervolume_over_time(trials, objectives, values.min(axis=0), values.max(axis=0))
    return table("student_epochs share_of_the_box_of_all_full_trainings", found)


def searched(about: RunData, found: Sequence[tuple[str, Any, Trial]], space: Any, analyse: bool) -> RunData:
    """``about`` with the tables ``settings`` and ``hyperparameters`` and, by a model of the trials, ``importance`` and
    ``dependence``.

    Args:
        found: Method, seed of the run, trial.
        space: As ``run.yaml`` describes it.
        analyse: Whether to make the model.
    """
    trials = [trial for _, _, trial in found]
    settings = SearchedSettings.of(trials, space)
    own = ((method, seed, t.number, t.candidate_digest, t.budget_epochs, t.val_accuracy) for method, seed, t in found)
    rows = table("method run_seed number family budget_epochs val_accuracy", own)
    varied = ((h.name, h.kind, h.log, h.low, h.high, list(map(str, h.choices))) for h in settings.hyperparameters)
    tables = {
        "settings": [{**row, **values} for row, values in zip(rows, settings.values, strict=True)],
        "hyperparameters": table("name type log low high choices", varied),
    }
    if not analyse:
        return about.having(tables, {})
    places, costs, of = analysed(trials)
    both = ("importance", "dependence")
    if (n := len(places)) < LEAST_ANALYSED:
        few = f"It takes at least {LEAST_ANALYSED} successful trainings to say what matters, and this run has {n}."
        return about.having(tables, dict.fromkeys(both, few))
    try:
        shares = importance(settings, places, costs)
    except ValueError as error:
        return about.having(tables, dict.fromkeys(both, f"Nothing can be said of what matters: {error}."))
    lines = [(*line, shares.r2, shares.n, of) for line in zip(shares.names, shares.mean, shares.sd, strict=True)]
    lines.sort(key=lambda line: -line[1])
    tables["importance"] = table("hyperparameter importance sd r2 n trials", lines)
    curves = {curve.name: curve for curve in dependence(settings, places, costs)}
    shown = [curves[name] for name, *_ in lines if name in curves]
    tables["dependence"] = [{**row, "log": curve.log} for curve in shown for row in curve.rows()]
    unknown = "Partial dependence needs the space that was searched, which cannot be made again from this run."
    return about.having(tables, {"dependence": unknown})
