"""Several objectives, all minimised: which results no other beats, and how much space they dominate.

Arrays are ``(n, k)``: n results, k objectives. The hypervolume of a set is the volume that it dominates up to a
reference point (Zitzler & Thiele 1999); only its share of the box between an ideal point and the reference point is
comparable over tasks, so that is what `hypervolume_over_time` gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from naslib_autokd.records import OBJECTIVES, Trial, objective_value
from naslib_autokd.tasks import did_you_mean

Array = NDArray[np.float64]


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """The objectives of a search, the error first.

    Raises:
        ValueError: If a name is unknown (with the nearest) or named twice, or ``error`` is missing.
    """
    for name in names:
        if name not in OBJECTIVES:
            raise ValueError(f"unknown objective {name!r}{did_you_mean(name, OBJECTIVES)}")
    if len(set(names)) != len(names):
        raise ValueError(f"objectives must differ, got {', '.join(names)}")
    if "error" not in names:
        raise ValueError(f"a search minimises the error, alone or with others: got {', '.join(names) or 'nothing'}")
    return ("error", *(name for name in names if name != "error"))


def pareto_front(values: ArrayLike) -> NDArray[np.int_]:
    """Indices of the rows that no other row dominates (as small everywhere, smaller somewhere), by first objective.

    Of equal rows the first counts.
    """
    points = np.asarray(values, dtype=float)
    order = np.lexsort(points.T[::-1])  # by the first objective, then the second, ...
    front: list[int] = []
    for index in order:
        if not any(np.all(points[kept] <= points[index]) for kept in front):
            front.append(int(index))
    return np.array(front, dtype=int)


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Volume dominated by the rows up to ``reference``; rows that are not better than it everywhere add nothing.

    Exact, by slicing along the last objective: fine for the fronts of a search (hundreds of points, 2 to 4 objectives).
    """
    points, corner = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    points = points[np.all(points < corner, axis=1)] if len(points) else points.reshape(0, len(corner))
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    edges = np.append(points[1:, -1], corner[-1])
    volume = 0.0
    for n, (start, end) in enumerate(zip(points[:, -1], edges, strict=True), start=1):
        if end > start:
            slab = points[:n, :-1]
            volume += (end - start) * hypervolume(slab[pareto_front(slab)], corner[:-1])
    return volume


def objective_table(
    trials: Sequence[Trial], names: Sequence[str], budget: int | None = None
) -> tuple[Array, list[int]]:
    """Objectives of the successful trials at ``budget`` (default: the largest): values ``(n, k)`` and their places."""
    good = [index for index, trial in enumerate(trials) if trial.succeeded]
    if budget is None:
        budget = max((trials[index].budget_epochs for index in good), default=0)
    rows: list[list[float]] = []
    places: list[int] = []
    for index in good:
        values = [objective_value(trials[index], name) for name in names]
        if trials[index].budget_epochs == budget and None not in values:
            rows.append([float(value) for value in values if value is not None])
            places.append(index)
    return np.array(rows, dtype=float).reshape(len(rows), len(names)), places


def hypervolume_over_time(
    trials: Sequence[Trial], names: Sequence[str], ideal: ArrayLike, reference: ArrayLike
) -> list[tuple[float, float]]:
    """``(student-epochs, share of the box from ideal to reference that is dominated)`` after each full training.

    Objectives other than the error are taken on a logarithmic scale, as they differ by factors.
    """
    values, places = objective_table(trials, names)
    spent = np.cumsum([trial.student_epochs for trial in trials])
    low, high = _scaled(np.atleast_2d(ideal), names)[0], _scaled(np.atleast_2d(reference), names)[0]
    unit = (_scaled(values, names) - low) / (high - low)
    points: list[tuple[float, float]] = []
    kept = np.empty((0, len(names)))
    for row, place in zip(unit, places, strict=True):
        kept = np.vstack([kept, np.maximum(row, 0.0)])
        kept = kept[pareto_front(kept)]
        points.append((float(spent[place]), hypervolume(kept, np.ones(len(names)))))
    return points


def _scaled(values: Array, names: Sequence[str]) -> Array:
    scaled = np.array(values, dtype=float)
    for column, name in enumerate(names):
        if name != "error":
            scaled[:, column] = np.log(scaled[:, column])
    return scaled
