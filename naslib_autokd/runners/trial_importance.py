"""What matters of what a search varied: a random forest of its recorded trials."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from naslib_autokd.records import Trial, full_trainings
from naslib_autokd.runners.importance import (
    PartialDependence,
    PermutationImportance,
    SpaceInputs,
    dependences,
    forest,
    permutation_importance,
)
from naslib_autokd.runners.searched import SearchedSettings
from naslib_autokd.runners.statistics import FloatArray

MOST_ANALYSED = 1000
"""Trials that importance and partial dependence are computed from, at most: drawn from all with a fixed seed."""
LEAST_ANALYSED = 20
"""Trainings below which neither says anything."""
N_POINTS = 32
"""Points of the space that a partial dependence is averaged over."""


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


def importance(searched: SearchedSettings, places: Sequence[int], costs: Sequence[float]) -> PermutationImportance:
    """Of each hyperparameter, by the trials at these places.

    Raises:
        ValueError: If there are too few families, or all settings or costs are equal.
    """
    if not searched.hyperparameters:
        raise ValueError("all trials have the same settings")
    values = [searched.values[place] for place in places]
    families = [repr(sorted(row.items())) for row in values]
    names = [each.name for each in searched.hyperparameters]
    return permutation_importance(searched.encoded(values), np.array(costs), names, families, n_repeats=3)


def dependence(searched: SearchedSettings, places: Sequence[int], costs: Sequence[float]) -> list[PartialDependence]:
    """Of the cost on each hyperparameter; empty for a space that is not HNAG's."""
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

    return dependences(predict, inputs, inputs.sample(N_POINTS))
