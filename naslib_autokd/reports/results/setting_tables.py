"""The tables of what was searched, and of what a random forest says of the trials' errors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from naslib_autokd.records import Trial, full_trainings
from naslib_autokd.reports.results.run import Row, Tables
from naslib_autokd.runners.importance import SpaceInputs, dependences, forest, permutation_importance
from naslib_autokd.runners.searched import Hyperparameter, SearchedSettings
from naslib_autokd.runners.statistics import FloatArray

MOST_ANALYSED = 1000
"""Trials that importance and partial dependence are computed from, at most: drawn from all with a fixed seed."""
LEAST_ANALYSED = 20
"""Trainings below which neither says anything."""
N_POINTS = 32
"""Points of the space that a partial dependence is averaged over."""


def searched_tables(
    found: Sequence[tuple[str, Any, Trial]], space: Any, analyse: bool
) -> tuple[Tables, dict[str, str]]:
    """The tables ``settings`` and ``hyperparameters``, by a model of the trials ``importance`` and ``dependence``, and
    why the latter two are empty.

    Args:
        found: Method, seed of the run, trial.
        space: As ``run.yaml`` describes it.
    """
    trials = [trial for _, _, trial in found]
    searched = SearchedSettings.of(trials, space)
    rows: list[Row] = [
        {"method": method, "run_seed": seed, "number": trial.number, "family": trial.candidate_digest}
        | {"budget_epochs": trial.budget_epochs, "val_accuracy": trial.val_accuracy, **values}
        for (method, seed, trial), values in zip(found, searched.values, strict=True)
    ]
    tables = {"settings": rows, "hyperparameters": list(map(_hyperparameter_row, searched.hyperparameters))}
    if not analyse:
        return tables, {}
    places, costs, of = analysed(trials)
    why = f"It takes at least {LEAST_ANALYSED} successful trainings to say what matters; there are {len(places)}."
    if len(places) >= LEAST_ANALYSED:
        try:
            shares = importance(searched, places, costs)
        except ValueError as error:
            why = f"Nothing can be said of what matters: {error}."
        else:
            tables["importance"] = [{**row, "trials": of} for row in shares]
            tables["dependence"] = dependence(searched, places, costs, [row["hyperparameter"] for row in shares])
    unknown = "Partial dependence needs the space that was searched, which cannot be made again from this run."
    return tables, {"importance": why, "dependence": unknown if tables.get("importance") else why}


def analysed(trials: Sequence[Trial]) -> tuple[list[int], list[float], str]:
    """Places and costs of the trials that importance is computed from, and what they are.

    The full trainings; of too few those at lower budgets, too, each cost moved by the difference of the mean costs of
    full trainings and of its budget, so that a budget is no cause.
    """
    full = set(map(id, full_trainings(trials)))
    places, of = [place for place, trial in enumerate(trials) if id(trial) in full], "full trainings"
    succeeded = [place for place, trial in enumerate(trials) if trial.succeeded]
    costs: dict[int, list[float]] = defaultdict(list)
    moved: dict[int, float] = defaultdict(float)
    if 0 < len(places) < LEAST_ANALYSED <= len(succeeded):
        for place in succeeded:
            costs[trials[place].budget_epochs].append(trials[place].cost)
        means = {budget: sum(own) / len(own) for budget, own in costs.items()}
        moved |= {budget: means[max(means)] - mean for budget, mean in means.items()}
        places, of = succeeded, "trainings at all budgets (each error relative to the mean of its budget)"
    if len(places) > MOST_ANALYSED:
        places = sorted(np.random.default_rng(0).choice(places, MOST_ANALYSED, replace=False).tolist())
    return places, [trials[place].cost + moved[trials[place].budget_epochs] for place in places], of


def _hyperparameter_row(own: Hyperparameter) -> Row:
    kind = "category" if own.low is None else "number"
    choices = list(map(str, own.choices))
    return {"name": own.name, "type": kind, "log": own.log, "low": own.low, "high": own.high, "choices": choices}


def importance(searched: SearchedSettings, places: Sequence[int], costs: Sequence[float]) -> list[Row]:
    """The table ``importance`` of the trials at these places, the largest first.

    Raises:
        ValueError: If there are too few families, or all settings or costs are equal.
    """
    if not searched.hyperparameters:
        raise ValueError("all trials have the same settings")
    values = [searched.values[place] for place in places]
    families = [repr(sorted(row.items())) for row in values]
    names = [each.name for each in searched.hyperparameters]
    found = permutation_importance(searched.encoded(values), np.array(costs), names, families, n_repeats=3)
    rows: list[Row] = [
        {"hyperparameter": name, "importance": float(mean), "sd": float(sd), "r2": found.r2, "n": found.n}
        for name, mean, sd in zip(names, found.mean, found.sd, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["importance"])


def dependence(
    searched: SearchedSettings, places: Sequence[int], costs: Sequence[float], names: Iterable[str]
) -> list[Row]:
    """The table ``dependence``, by ``names``; empty for a space that is not HNAG's."""
    if searched.space is None:
        return []
    model = forest().fit(searched.encoded(searched.values[place] for place in places), costs)
    inputs = SpaceInputs(searched.space, n_pool=512)

    def predict(points: Sequence[Mapping[str, Any]]) -> FloatArray:
        active = [inputs.active(point) for point in points]
        known, answers = [values is not None for values in active], np.full(len(points), math.nan)
        if any(known):
            answers[known] = model.predict(searched.encoded(values for values in active if values is not None))
        return answers

    curves = {curve.name: curve for curve in dependences(predict, inputs, inputs.sample(N_POINTS))}
    return [{**row, "log": curves[name].log} for name in names if name in curves for row in curves[name].rows()]
