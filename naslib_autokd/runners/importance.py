"""Which traits of a family make good students: variance decomposition, partial dependence, permutation importance.

`sobol_indices` decomposes the variance of a function of independent inputs (the fANOVA of the hyperparameter
literature, Hutter et al. 2014, on the benchmark's truth instead of a forest). A search space is turned into such
inputs by `SpaceInputs`: hyperparameters that a forbidden clause ties together are one input, and a conditional one is
always drawn, without effect where it is inactive. `partial_dependence` shows the direction of effects.
`permutation_importance` is for recorded trials, where nothing can be asked again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naslib_autokd.evaluators.base import Benchmark
from naslib_autokd.runners.statistics import FloatArray

Values = Mapping[str, Any]
"""Hyperparameter -> value."""


# ---- variance decomposition ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SobolIndices:
    """Shares of a function's variance. Estimates: they may lie a little outside [0, 1]."""

    names: tuple[str, ...]
    first: FloatArray
    """``(inputs,)``: what an input explains alone."""
    total: FloatArray
    """``(inputs,)``: what is lost without it, that is, with its part in all interactions."""
    first_interval: FloatArray
    """``(inputs, 2)``: 95% bootstrap interval over the design's points."""
    total_interval: FloatArray
    pairs: Mapping[tuple[str, str], float]
    """What two inputs explain together beyond what each explains alone; empty if it was not asked for."""
    mean: float
    variance: float
    n: int
    """Points of the design; the function was asked for ``n (inputs + 2)``, or ``n (2 inputs + 2)`` with pairs."""

    @property
    def interactions(self) -> float:
        """The share that no input explains alone."""
        return float(1 - self.first.sum())

    @property
    def ranking(self) -> list[int]:
        """Places of the inputs, the largest total first."""
        return [int(place) for place in np.argsort(-self.total)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        columns = ("first", "first_interval", "total", "total_interval")
        return {
            "inputs": {n: {c: getattr(self, c)[i].tolist() for c in columns} for i, n in enumerate(self.names)},
            "pairs": {" x ".join(pair): share for pair, share in self.pairs.items()},
            "interactions": self.interactions,
            "mean": self.mean,
            "sd": math.sqrt(self.variance),
            "n": self.n,
        }


def sobol_indices(
    function: Callable[[FloatArray], FloatArray],
    names: Sequence[str],
    n: int = 1024,
    seed: int = 0,
    *,
    pairs: bool = True,
) -> SobolIndices:
    """Sobol indices of a function of independent inputs that are uniform in [0, 1].

    Args:
        function: ``(points, inputs)`` to ``(points,)``; asked once, for all points.
        names: Of the inputs.
        n: Points of the design: a power of 2, for the scrambled Sobol sequence. Intervals shrink with its root.
        seed: Of the scrambling and the bootstrap.
        pairs: Second-order indices too, for nearly twice the points.

    Raises:
        ValueError: If there is no input, n is not a power of 2 (at least 16), or the function does not vary or is not
            finite.

    Source: Saltelli et al. 2010, doi:10.1016/j.cpc.2009.09.018, table 2: (b) for the first order, (f), Jansen's, for
    the total; Saltelli 2002, doi:10.1016/S0010-4655(02)00280-1, for pairs. Departure: values are centred first, which
    lessens the error of products. (`scipy.stats.sobol_indices` has no pairs, and nan where an input does nothing.)
    """
    from scipy.stats import qmc

    d = len(names)
    if d == 0:
        raise ValueError("sobol_indices needs at least one input")
    if n < 16 or n & (n - 1):
        raise ValueError(f"n must be a power of 2, at least 16, got {n}; the nearest is {_power_of_2(n)}")
    a, b = np.split(qmc.Sobol(2 * d, seed=seed).random(n), 2, axis=1)
    column = np.eye(d, dtype=bool)[:, None]  # (d, 1, d): one input is exchanged in each
    designs = [a, b, *np.where(column, b, a), *(np.where(column, a, b) if pairs else ())]
    values = np.asarray(function(np.concatenate(designs)), dtype=np.float64)
    if values.shape != (len(designs) * n,) or not np.isfinite(values).all():
        raise ValueError("the function must return one finite number for each point")
    mean, variance = float(values[: 2 * n].mean()), float(values[: 2 * n].var())
    if np.ptp(values[: 2 * n]) == 0:
        raise ValueError(f"the function is {mean:g} everywhere: there is no variance to explain")
    y_a, y_b, *others = (values - mean).reshape(len(designs), n)
    y_ab, y_ba = others[:d], others[d:]
    # all indices are ratios of means over the design's points, so that the bootstrap only weighs these again
    order = list(itertools.combinations(range(d), 2)) if pairs else []
    terms = [y_b * (y - y_a) for y in y_ab] + [(y_a - y) ** 2 / 2 for y in y_ab]
    terms += [y_ba[i] * y_ab[j] - y_a * y_b for i, j in order]
    stacked = np.stack([*terms, (y_a**2 + y_b**2) / 2, (y_a + y_b) / 2], axis=1)

    def shares(means: FloatArray) -> FloatArray:
        return np.asarray(means[..., :-2] / (means[..., -2] - means[..., -1] ** 2)[..., None])

    found = shares(stacked.mean(axis=0))
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=500)
    ends = np.quantile(shares(counts @ stacked / n), (0.025, 0.975), axis=0).T
    both = {(names[i], names[j]): float(found[2 * d + k] - found[i] - found[j]) for k, (i, j) in enumerate(order)}
    first, total = slice(d), slice(d, 2 * d)
    return SobolIndices(tuple(names), found[first], found[total], ends[first], ends[total], both, mean, variance, n)


def _power_of_2(n: int) -> int:
    return max(16, int(2 ** round(math.log2(max(1, n)))))


class SpaceInputs:
    """A search space as independent inputs, each uniform in [0, 1], and as points that can be changed.

    An input is a hyperparameter with its distribution in the space, or several that occur in one forbidden clause: the
    values that legal points have together, in their order. A conditional hyperparameter has a value in every point,
    drawn from those that it has where it is active; where it is inactive the value has no effect, so that a parent
    and its children interact.

    Args:
        space: Anything with ``configuration_space()`` and ``candidate(values)``.
        n_pool: Legal points drawn from the space, whose values the inputs take.
    """

    def __init__(self, space: Any, n_pool: int = 4096, seed: int = 0) -> None:
        self.space = space
        self._configspace = space.configuration_space()
        self._configspace.seed(seed)
        self.hyperparameters: dict[str, Any] = {name: self._configspace[name] for name in self._configspace}
        self._conditions = [(condition.child.name, condition) for condition in self._configspace.conditions]
        drawn = [{k: _plain(v) for k, v in point.items()} for point in self._configspace.sample_configuration(n_pool)]
        self.groups = tied_hyperparameters(self._configspace)
        """Hyperparameters of each input."""
        self.names = tuple(", ".join(group) for group in self.groups)
        self._pools = [self._pool(group, drawn) for group in self.groups]

    def _pool(self, group: Sequence[str], drawn: Sequence[Values]) -> list[tuple[Any, ...]]:
        """Values that the group has in drawn points, in their order; the default if it is active too seldom."""
        own = [self.hyperparameters[name] for name in group]
        pool = [tuple(point[name] for name in group) for point in drawn if all(name in point for name in group)]
        pool = pool or [tuple(each.default_value for each in own)]
        return sorted(pool, key=lambda values: [float(h.to_vector(v)) for h, v in zip(own, values, strict=True)])

    def points(self, unit: FloatArray) -> list[dict[str, Any]]:
        """Values of all hyperparameters, inactive ones too, at ``(points, inputs)`` in [0, 1)."""
        return [
            {
                name: value
                for group, pool, u in zip(self.groups, self._pools, row, strict=True)
                for name, value in zip(group, pool[min(int(u * len(pool)), len(pool) - 1)], strict=True)
            }
            for row in unit
        ]

    def sample(self, n: int, seed: int = 0) -> list[dict[str, Any]]:
        return self.points(np.random.default_rng(seed).random((n, len(self.groups))))

    def is_active(self, name: str, values: Values) -> bool:
        return name in (self.active(values) or ())

    def active(self, values: Values) -> dict[str, Any] | None:
        """Only what has an effect; None if the point is forbidden.

        As ConfigSpace's ``deactivate_inactive_hyperparameters``, which takes 80 times as long.
        """
        found = _Known(values)
        while off := {name for name, own in self._conditions if name in found and not own.satisfied_by_value(found)}:
            found = _Known((name, value) for name, value in found.items() if name not in off)
        forbidden = any(clause.is_forbidden_value(found) for clause in self._configspace.forbidden_clauses)
        return None if forbidden else dict(found)

    def function(self, truth: Callable[[Any], float]) -> Callable[[Sequence[Values]], FloatArray]:
        """``truth`` of the points' candidates, remembered; nan for forbidden points."""
        known: dict[tuple[Any, ...], float] = {}

        def answer(values: Values) -> float:
            active = self.active(values)
            if active is None:
                return math.nan
            key = tuple(active.items())
            if key not in known:
                known[key] = float(truth(self.space.candidate(active)))
            return known[key]

        return lambda points: np.array([answer(values) for values in points])


class _Known(dict[str, Any]):
    """Values among which an inactive parent is what ConfigSpace takes for not set."""

    def __missing__(self, name: str) -> Any:
        from ConfigSpace.types import NotSet

        return NotSet


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def tied_hyperparameters(space: Any) -> list[tuple[str, ...]]:
    """Names of a ConfigSpace in groups that no forbidden clause crosses, in the space's order."""
    groups = {name: {name} for name in space}
    for clause in space.forbidden_clauses:
        tied = set().union(*(groups[name] for name in _names_of(clause)))
        groups |= dict.fromkeys(tied, tied)
    return list(dict.fromkeys(tuple(name for name in space if name in groups[first]) for first in space))


def _names_of(clause: Any) -> set[str]:
    from ConfigSpace.forbidden import ForbiddenConjunction, ForbiddenRelation

    if isinstance(clause, ForbiddenConjunction):
        return set().union(*map(_names_of, clause.components))
    if isinstance(clause, ForbiddenRelation):
        return {clause.left.name, clause.right.name}
    return {clause.hyperparameter.name}


# ---- partial dependence --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartialDependence:
    """How a function depends on one input, averaged over the others: arrays ``(values,)``."""

    name: str
    values: tuple[Any, ...]
    mean: FloatArray
    low: FloatArray
    """10% quantile of the single curves (individual conditional expectation, ICE)."""
    high: FloatArray
    """90% quantile."""
    n: tuple[int, ...]
    """Points behind each value."""
    log: bool = False
    """Whether the input has a logarithmic scale."""

    @property
    def range(self) -> float:
        """Of the mean."""
        finite = self.mean[np.isfinite(self.mean)]
        return float(np.ptp(finite)) if len(finite) else 0.0

    def rows(self) -> list[dict[str, Any]]:
        """A row for each value that has a mean."""
        return [
            {"hyperparameter": self.name, "value": value, "mean": float(m), "low": float(a), "high": float(b), "n": n}
            for value, m, a, b, n in zip(self.values, self.mean, self.low, self.high, self.n, strict=True)
            if n
        ]


def partial_dependence(
    function: Callable[[Sequence[Values]], FloatArray],
    points: Sequence[Values],
    name: str,
    values: Sequence[Any],
    *,
    log: bool = False,
) -> PartialDependence:
    """The mean of the function over ``points`` when the input ``name`` is set to each of ``values``.

    Args:
        function: Points to ``(points,)``; nan where a point is illegal. Means are over the points that are legal at
            every value, so that they can be compared; if there is none, over the legal ones of each value.
        points: Draws of all inputs.

    Raises:
        ValueError: If there are no points or values.

    Source: Friedman 2001, doi:10.1214/aos/1013203451, section 8.2; Goldstein et al. 2015 for the single curves.
    """
    if not points or not values:
        raise ValueError("partial_dependence needs points and values")
    changed = [{**point, name: value} for value in values for point in points]
    answers = np.asarray(function(changed), dtype=np.float64).reshape(len(values), len(points))
    everywhere = np.isfinite(answers).all(axis=0)
    own = [row[np.isfinite(row)] for row in (answers[:, everywhere] if everywhere.any() else answers)]
    found = [(row.mean(), *np.quantile(row, (0.1, 0.9))) if len(row) else (math.nan,) * 3 for row in own]
    mean, low, high = np.array(found).T
    return PartialDependence(name, tuple(values), mean, low, high, tuple(map(len, own)), log)


def grid_of(hyperparameter: Any, n: int = 9) -> list[Any]:
    """Values of a hyperparameter of ConfigSpace over its range: all of a few, else ``n`` on its own scale."""
    from ConfigSpace import CategoricalHyperparameter, Constant, OrdinalHyperparameter

    if isinstance(hyperparameter, CategoricalHyperparameter):
        return list(hyperparameter.choices)
    if isinstance(hyperparameter, Constant):
        return [hyperparameter.value]
    if isinstance(hyperparameter, OrdinalHyperparameter):
        values = list(hyperparameter.sequence)
        return values if len(values) <= 2 * n else [values[round(i)] for i in np.linspace(0, len(values) - 1, n)]
    found = [_plain(hyperparameter.to_value(float(u))) for u in np.linspace(0, 1, n)]
    if isinstance(found[0], int) and hyperparameter.upper - hyperparameter.lower < 2 * n:
        return list(range(hyperparameter.lower, hyperparameter.upper + 1))
    return sorted(set(found))


def dependences(
    function: Callable[[Sequence[Values]], FloatArray], inputs: SpaceInputs, points: Sequence[Values]
) -> list[PartialDependence]:
    """The partial dependence of each hyperparameter that varies, over those of the points where it has an effect."""
    curves = []
    for name, hyperparameter in inputs.hyperparameters.items():
        own = [point for point in points if inputs.is_active(name, point)]
        values = grid_of(hyperparameter)
        if own and len(values) > 1:
            log = bool(vars(hyperparameter).get("log", False))
            curves.append(partial_dependence(function, own, name, values, log=log))
    return curves


# ---- permutation importance ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PermutationImportance:
    """What a random forest loses on held-out rows when a column is shuffled, in shares of their variance."""

    names: tuple[str, ...]
    mean: FloatArray
    """``(columns,)``: R2 minus R2 with the column shuffled."""
    sd: FloatArray
    """Over folds and repeats."""
    r2: float
    """Of the forest on held-out rows: where it is low, the importances mean little."""
    n: int
    """Rows."""


def forest(n_trees: int = 100, seed: int = 0) -> Any:
    """The model of recorded trials."""
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(n_trees, min_samples_leaf=2, max_features=1 / 2, random_state=seed)


def permutation_importance(
    features: FloatArray,
    targets: FloatArray,
    names: Sequence[str],
    groups: Sequence[Any] | None = None,
    *,
    n_folds: int = 5,
    n_repeats: int = 10,
    seed: int = 0,
) -> PermutationImportance:
    """Importance of columns for a forest's predictions of rows that it was not fitted to.

    Columns that depend on each other share their importance: shuffling one leaves the information in the other.

    Args:
        features: ``(rows, columns)``; categories as numbers.
        targets: ``(rows,)``.
        groups: ``(rows,)``: rows of one group (trainings of one family) are held out together.

    Raises:
        ValueError: If shapes differ, there are fewer groups than folds, or the targets are all equal.

    Source: Breiman 2001, doi:10.1023/A:1010933404324, section 10; on held-out folds instead of out-of-bag rows, which
    would hold other trainings of the same family. All columns are predicted in one call, unlike sklearn's.
    """
    from sklearn.model_selection import GroupKFold

    x, y = np.asarray(features, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    of_row = np.arange(len(y)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if x.ndim != 2 or x.shape != (len(y), len(names)) or len(of_row) != len(y):
        raise ValueError(f"features must have the shape (rows, columns), got {x.shape} for {len(y)} rows, {len(names)}")
    n_groups = len(np.unique(of_row))
    if n_groups < n_folds:
        raise ValueError(f"{n_folds} folds need as many families, got {n_groups}; take more trials")
    if np.ptp(y) == 0:
        raise ValueError("all targets are equal: there is nothing to explain")
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(n_groups)[of_row]  # GroupKFold depends on the order of the groups' names
    losses: list[FloatArray] = []
    errors = np.empty(len(y))
    for train, test in GroupKFold(n_folds).split(x, y, shuffled):
        model = forest(seed=seed).fit(x[train], y[train])
        errors[test] = (model.predict(x[test]) - y[test]) ** 2
        for _ in range(n_repeats):
            changed = np.repeat(x[test][None], len(names), axis=0)
            for column in range(len(names)):
                changed[column, :, column] = rng.permutation(x[test, column])
            predicted = model.predict(changed.reshape(-1, len(names))).reshape(len(names), len(test))
            losses.append(((predicted - y[test]) ** 2).mean(axis=1) - errors[test].mean())
    mean, sd = np.mean(losses, axis=0) / y.var(), np.std(losses, axis=0) / y.var()
    return PermutationImportance(tuple(names), mean, sd, float(1 - errors.mean() / y.var()), len(y))


# ---- a benchmark's report ------------------------------------------------------------------------------------------

BEST_SHARE = 0.25
"""Errors above this quantile count as equal in the second decomposition: what tells good families from each other."""


@dataclass(frozen=True)
class ImportanceReport:
    """What matters in a benchmark's space for the true validation error of a full training."""

    benchmark: str
    overall: SobolIndices
    best: SobolIndices | None
    """Of the error cut off at its `BEST_SHARE` quantile; None if nothing varies there."""
    curves: tuple[PartialDependence, ...]
    """Of each hyperparameter, over points where it has an effect."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "benchmark": self.benchmark,
            "overall": self.overall.to_dict(),
            f"best_{BEST_SHARE:g}": None if self.best is None else self.best.to_dict(),
            "range_of_means": {curve.name: curve.range for curve in self.curves},
        }


def importance_of(benchmark: Benchmark, n: int = 512, seed: int = 0) -> ImportanceReport:
    """Decompose ``benchmark.true_cost`` over ``benchmark.space``: about ``20 n`` questions for nine inputs.

    Args:
        n: Points of the design, rounded to a power of 2; a quarter of them carry the partial dependence.
    """
    inputs = SpaceInputs(benchmark.space, seed=seed)
    truth = inputs.function(benchmark.true_cost)
    size = _power_of_2(n)
    overall = sobol_indices(lambda unit: truth(inputs.points(unit)), inputs.names, size, seed)

    def among_the_best(unit: FloatArray) -> FloatArray:
        costs = truth(inputs.points(unit))
        return np.minimum(costs, np.quantile(costs, BEST_SHARE))

    try:
        best = sobol_indices(among_the_best, inputs.names, size, seed)
    except ValueError:  # a quarter of all points have the lowest error
        best = None
    curves = dependences(truth, inputs, inputs.sample(max(16, size // 4), seed))
    return ImportanceReport(benchmark.name, overall, best, tuple(curves))
