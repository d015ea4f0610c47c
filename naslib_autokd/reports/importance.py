"""Which traits of a family make good students: variance decomposition, partial dependence, permutation importance.

`sobol_indices` decomposes the variance of a function of independent inputs (the fANOVA of the hyperparameter
literature, Hutter et al. 2014, on the benchmark's truth instead of a forest). A search space is turned into such
inputs by `SpaceInputs`: hyperparameters that a forbidden clause ties together are one input, and a conditional one is
always drawn, without effect where it is inactive. `partial_dependence` shows the direction of effects.
`permutation_importance` is for recorded trials, where nothing can be asked again.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naslib_autokd.evaluators.base import Benchmark
from naslib_autokd.records import Trial
from naslib_autokd.reports.paper import FigureFolder
from naslib_autokd.reports.tables import markdown_table, write_csv
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


def sobol_indices(
    function: Callable[[FloatArray], FloatArray],
    names: Sequence[str],
    n: int = 1024,
    seed: int = 0,
    *,
    pairs: bool = True,
    transform: Callable[[FloatArray], FloatArray] | None = None,
) -> SobolIndices:
    """Sobol indices of a function of independent inputs that are uniform in [0, 1].

    Args:
        function: ``(points, inputs)`` to ``(points,)``.
        names: Of the inputs.
        n: Points of the design: a power of 2, for the scrambled Sobol sequence. Intervals shrink with its root.
        seed: Of the scrambling and the bootstrap.
        pairs: Second-order indices too, for nearly twice the points.
        transform: Applied to all values together (such as a cut at one of their quantiles) before the decomposition.

    Raises:
        ValueError: If there is no input, n is not a power of 2 (at least 16), or the function does not vary or is not
            finite.

    Source: Saltelli et al. 2010, doi:10.1016/j.cpc.2009.09.018, table 2: (b) for the first order, (f), Jansen's, for
    the total; Saltelli 2002, doi:10.1016/S0010-4655(02)00280-1, for pairs. Departure: values are centred first, which
    lessens the error of products.
    """
    from scipy.stats import qmc

    d = len(names)
    if d == 0:
        raise ValueError("sobol_indices needs at least one input")
    if n < 16 or n & (n - 1):
        raise ValueError(f"n must be a power of 2, at least 16, got {n}; the nearest is {_power_of_2(n)}")
    points = qmc.Sobol(2 * d, seed=seed).random(n)
    a, b = points[:, :d], points[:, d:]

    def mixed(base: FloatArray, other: FloatArray, column: int) -> FloatArray:
        copy = base.copy()
        copy[:, column] = other[:, column]
        return copy

    designs = [a, b, *(mixed(a, b, i) for i in range(d)), *((mixed(b, a, i) for i in range(d)) if pairs else ())]
    values = np.asarray(function(np.concatenate(designs)), dtype=np.float64)
    if values.shape != (len(designs) * n,) or not np.isfinite(values).all():
        raise ValueError("the function must return one finite number for each point")
    if transform is not None:
        values = np.asarray(transform(values), dtype=np.float64)
    mean = float(values[: 2 * n].mean())
    if np.ptp(values[: 2 * n]) == 0:
        raise ValueError(f"the function is {mean:g} everywhere: there is no variance to explain")
    y = (values - mean).reshape(len(designs), n)
    y_a, y_b, y_ab = y[0], y[1], y[2 : 2 + d]
    # all indices are ratios of means over the design's points, so that the bootstrap only weighs these again
    order = list(itertools.combinations(range(d), 2)) if pairs else []
    terms = [
        *(y_b * (y_ab[i] - y_a) for i in range(d)),
        *((y_a - y_ab[i]) ** 2 / 2 for i in range(d)),
        *(y[2 + d + i] * y_ab[j] - y_a * y_b for i, j in order),
        (y_a**2 + y_b**2) / 2,
        (y_a + y_b) / 2,
    ]
    stacked = np.stack(terms, axis=1)

    def shares(means: FloatArray) -> FloatArray:
        variance = means[..., -2] - means[..., -1] ** 2
        return np.asarray(means[..., :-2] / variance[..., None])

    found = shares(stacked.mean(axis=0))
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=500)
    ends = np.quantile(shares(counts @ stacked / n), (0.025, 0.975), axis=0).T
    first = found[:d]
    return SobolIndices(
        names=tuple(names),
        first=first,
        total=found[d : 2 * d],
        first_interval=ends[:d],
        total_interval=ends[d : 2 * d],
        pairs={(names[i], names[j]): float(found[2 * d + k] - first[i] - first[j]) for k, (i, j) in enumerate(order)},
        mean=mean,
        variance=float(values[: 2 * n].var()),
        n=n,
    )


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
        drawn = [
            {name: value.item() if hasattr(value, "item") else value for name, value in dict(point).items()}
            for point in self._configspace.sample_configuration(n_pool)
        ]
        self.groups = tied_hyperparameters(self._configspace)
        """Hyperparameters of each input."""
        self.names = tuple(", ".join(group) for group in self.groups)
        self._pools: list[list[tuple[Any, ...]]] = []
        for group in self.groups:
            pool = [tuple(point[name] for name in group) for point in drawn if all(name in point for name in group)]
            if not pool:  # active too seldom to be drawn
                pool = [tuple(self.hyperparameters[name].default_value for name in group)]
            self._pools.append(sorted(pool, key=lambda values, group=group: self._order(group, values)))  # type: ignore[misc]

    def _order(self, group: Sequence[str], values: Sequence[Any]) -> tuple[float, ...]:
        return tuple(float(self.hyperparameters[name].to_vector(v)) for name, v in zip(group, values, strict=True))

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
        active = self.active(values)
        return active is not None and name in active

    def active(self, values: Values) -> dict[str, Any] | None:
        """Only what has an effect; None if the point is forbidden."""
        from ConfigSpace.exceptions import ForbiddenValueError
        from ConfigSpace.util import deactivate_inactive_hyperparameters

        try:
            return dict(deactivate_inactive_hyperparameters(dict(values), self._configspace))
        except ForbiddenValueError:
            return None

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


def tied_hyperparameters(space: Any) -> list[tuple[str, ...]]:
    """Names of a ConfigSpace in groups that no forbidden clause crosses, in the space's order."""
    groups = {name: {name} for name in space}
    for clause in space.forbidden_clauses:
        tied = set().union(*(groups[name] for name in _names_of(clause)))
        for name in tied:
            groups[name] = tied
    order = list(space)
    found = {tuple(sorted(group, key=order.index)) for group in groups.values()}
    return sorted(found, key=lambda group: order.index(group[0]))


def _names_of(clause: Any) -> set[str]:
    if hasattr(clause, "components"):
        return set().union(*(_names_of(part) for part in clause.components))
    if hasattr(clause, "left"):  # a relation of two hyperparameters
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
    if everywhere.any():
        answers = answers[:, everywhere]
    n = tuple(int(count) for count in np.isfinite(answers).sum(axis=1))
    mean, low, high = (np.full(len(values), np.nan) for _ in range(3))
    for k, row in enumerate(answers):
        if n[k]:
            own = row[np.isfinite(row)]
            mean[k], (low[k], high[k]) = own.mean(), np.quantile(own, (0.1, 0.9))
    return PartialDependence(name, tuple(values), mean, low, high, n, log)


def grid_of(hyperparameter: Any, n: int = 9) -> list[Any]:
    """Values of a hyperparameter of ConfigSpace over its range: all of a few, else ``n`` on its own scale."""
    from ConfigSpace import CategoricalHyperparameter, OrdinalHyperparameter
    from ConfigSpace.hyperparameters import Constant, NumericalHyperparameter

    if isinstance(hyperparameter, CategoricalHyperparameter):
        return list(hyperparameter.choices)
    if isinstance(hyperparameter, OrdinalHyperparameter):
        values = list(hyperparameter.sequence)
        return values if len(values) <= 2 * n else [values[round(i)] for i in np.linspace(0, len(values) - 1, n)]
    if isinstance(hyperparameter, Constant):
        return [hyperparameter.value]
    assert isinstance(hyperparameter, NumericalHyperparameter)
    found = [hyperparameter.to_value(float(u)) for u in np.linspace(0, 1, n)]
    plain = [value.item() if hasattr(value, "item") else value for value in found]
    if isinstance(plain[0], int) and hyperparameter.upper - hyperparameter.lower < 2 * n:
        return list(range(hyperparameter.lower, hyperparameter.upper + 1))
    return sorted(set(plain))


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
    would hold other trainings of the same family.
    """
    from sklearn.ensemble import RandomForestRegressor
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
        forest = RandomForestRegressor(200, min_samples_leaf=2, max_features=1 / 2, random_state=seed)
        forest.fit(x[train], y[train])
        errors[test] = (forest.predict(x[test]) - y[test]) ** 2
        for _ in range(n_repeats):
            changed = np.repeat(x[test][None], len(names), axis=0)
            for column in range(len(names)):
                changed[column, :, column] = rng.permutation(x[test, column])
            predicted = forest.predict(changed.reshape(-1, len(names))).reshape(len(names), len(test))
            losses.append(((predicted - y[test]) ** 2).mean(axis=1) - errors[test].mean())
    variance = y.var()
    return PermutationImportance(
        names=tuple(names),
        mean=np.mean(losses, axis=0) / variance,
        sd=np.std(losses, axis=0) / variance,
        r2=float(1 - errors.mean() / variance),
        n=len(y),
    )


def trial_importance(trials: Iterable[Trial], space: Any, *, seed: int = 0) -> PermutationImportance:
    """Importance of a space's hyperparameters for the cost of recorded trainings, by `permutation_importance`.

    Only successful trials at the largest budget count. The space is that of the trials: for a benchmark's table, whose
    trainings have their wiring's seed, one in "individual" mode; the seed is noise here and no column. An inactive
    hyperparameter has the code -1, so that its column also tells whether it is active, and shares the importance of
    its parent.

    Raises:
        ValueError: If there are too few trials.
    """
    found = [trial for trial in trials if trial.succeeded]
    largest = max((trial.budget_epochs for trial in found), default=0)
    found = [trial for trial in found if trial.budget_epochs == largest]
    configspace = space.configuration_space()
    names = [name for name in configspace if name != "wiring_seed"]
    candidate_type = type(space.default_candidate())
    rows = [space.values(candidate_type.from_dict(trial.candidate)) for trial in found]
    features = [
        [float(configspace[name].to_vector(row[name])) if name in row else -1.0 for name in names] for row in rows
    ]
    families = [json.dumps({name: row.get(name) for name in names}, sort_keys=True, default=str) for row in rows]
    x = np.array(features, dtype=np.float64).reshape(len(found), len(names))
    return permutation_importance(x, np.array([trial.cost for trial in found]), names, families, seed=seed)


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

        def indices(found: SobolIndices) -> dict[str, Any]:
            return {
                "inputs": {
                    name: {
                        "first": float(found.first[i]),
                        "first_interval": found.first_interval[i].tolist(),
                        "total": float(found.total[i]),
                        "total_interval": found.total_interval[i].tolist(),
                    }
                    for i, name in enumerate(found.names)
                },
                "pairs": {" x ".join(pair): share for pair, share in found.pairs.items()},
                "interactions": found.interactions,
                "mean": found.mean,
                "sd": math.sqrt(found.variance),
                "n": found.n,
            }

        return {
            "benchmark": self.benchmark,
            "overall": indices(self.overall),
            f"best_{BEST_SHARE:g}": None if self.best is None else indices(self.best),
            "range_of_means": {curve.name: curve.range for curve in self.curves},
        }


def importance_of(benchmark: Benchmark, n: int = 512, seed: int = 0) -> ImportanceReport:
    """Decompose ``benchmark.true_cost`` over ``benchmark.space``: about ``20 n`` questions for nine inputs.

    Args:
        n: Points of the design, rounded to a power of 2; a quarter of them carry the partial dependence.
    """
    inputs = SpaceInputs(benchmark.space, seed=seed)
    truth = inputs.function(benchmark.true_cost)
    known: dict[bytes, FloatArray] = {}

    def at(unit: FloatArray) -> FloatArray:
        key = unit.tobytes()
        if key not in known:
            known[key] = truth(inputs.points(unit))
        return known[key]

    size = _power_of_2(n)
    overall = sobol_indices(at, inputs.names, size, seed)
    try:
        best = sobol_indices(
            at, inputs.names, size, seed, transform=lambda y: np.minimum(y, np.quantile(y, BEST_SHARE))
        )
    except ValueError:  # a quarter of all points have the lowest error
        best = None
    points = inputs.sample(max(16, size // 4), seed)
    curves = []
    for name, hyperparameter in inputs.hyperparameters.items():
        own = [point for point in points if inputs.is_active(name, point)]
        values = grid_of(hyperparameter)
        if own and len(values) > 1:
            log = bool(getattr(hyperparameter, "log", False))
            curves.append(partial_dependence(truth, own, name, values, log=log))
    return ImportanceReport(benchmark.name, overall, best, tuple(curves))


def run(benchmark: Benchmark, out: Path, n: int = 512, seed: int = 0) -> list[Path]:
    """Compute and write the report on a benchmark; returns its files, ``importance.md`` first."""
    return write_importance_report(importance_of(benchmark, n, seed), out)


def sentences(found: ImportanceReport) -> list[str]:
    """What the numbers say."""
    overall = found.overall
    lines = [
        f"Over the space the true validation error of a full training is {100 * overall.mean:.1f}% on average, with a "
        f"standard deviation of {100 * math.sqrt(overall.variance):.1f} points. Single inputs explain "
        f"{100 * min(1.0, overall.first.sum()):.0f}% of the variance, the rest is interactions.",
        f"What matters: {_ranking(overall)}.",
    ]
    if found.best is not None:
        lines.append(
            f"What tells the best {BEST_SHARE:.0%} from each other and from the rest (all other errors counted as "
            f"equal): {_ranking(found.best)}."
        )
    total = dict(zip(overall.names, overall.total.tolist(), strict=True))
    # an interaction is part of both totals: what exceeds them is the error of the estimate
    pairs = [(pair, min(share, *(total[name] for name in pair))) for pair, share in overall.pairs.items()]
    pairs = sorted((pair for pair in pairs if pair[1] > 0.01), key=lambda pair: -pair[1])[:3]
    if pairs:
        shares = "; ".join(f"{a} with {b} {100 * share:.0f}%" for (a, b), share in pairs)
        lines.append(f"Largest interactions of two: {shares}.")
    for curve in sorted(found.curves, key=lambda curve: -curve.range)[:5]:
        finite = np.flatnonzero(np.isfinite(curve.mean))
        if len(finite) > 1:
            best, worst = (int(finite[pick(curve.mean[finite])]) for pick in (np.argmin, np.argmax))
            lines.append(
                f"{curve.name}: mean error {100 * curve.mean[best]:.1f}% at {_short(curve.values[best])}, "
                f"{100 * curve.mean[worst]:.1f}% at {_short(curve.values[worst])}."
            )
    return lines


def _ranking(indices: SobolIndices, most: int = 5) -> str:
    order = np.argsort(-indices.total)[:most]
    return "; ".join(
        f"{indices.names[i]} {100 * indices.total[i]:.0f}% [{100 * indices.total_interval[i, 0]:.0f}, "
        f"{100 * indices.total_interval[i, 1]:.0f}]"
        for i in order
    )


def _percent(share: float) -> str:
    """Estimates a little below 0 are 0."""
    return f"{100 * max(share, 0.0):.1f}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_importance_report(found: ImportanceReport, out: Path) -> list[Path]:
    """Figures (PNG, PDF), the CSV behind each, ``importance.json`` and ``importance.md``, which comes first."""
    folder = FigureFolder(Path(out))
    out, files = folder.path, folder.files
    path = out / "importance.json"
    path.write_text(json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    files.append(path)
    decompositions = {"overall": found.overall, **({} if found.best is None else {f"best_{BEST_SHARE:g}": found.best})}
    rows = [
        (which, name, i.first[k], *i.first_interval[k], i.total[k], *i.total_interval[k])
        for which, i in decompositions.items()
        for k, name in enumerate(i.names)
    ]
    columns = ["of", "input", "first", "first_low", "first_high", "total", "total_low", "total_high"]
    files.append(write_csv(out / "importance.csv", columns, rows))
    pairs = [(which, *pair, share) for which, i in decompositions.items() for pair, share in i.pairs.items()]
    files.append(write_csv(out / "interactions.csv", ["of", "input", "with", "share"], pairs))
    points = [
        (curve.name, *point)
        for curve in found.curves
        for point in zip(curve.values, curve.mean, curve.low, curve.high, curve.n, strict=True)
    ]
    columns = ["hyperparameter", "value", "mean_cost", "ice_10", "ice_90", "n"]
    files.append(write_csv(out / "partial_dependence.csv", columns, points))
    _importance_figure(decompositions, folder)
    _dependence_figure(found.curves, folder, "partial_dependence")
    order = np.argsort(-found.overall.total)
    table = [
        [found.overall.names[i], _percent(found.overall.first[i]), _percent(found.overall.total[i])]
        + ([] if found.best is None else [_percent(found.best.total[i])])
        for i in order
    ]
    header = ["input", "alone (%)", "with interactions (%)"]
    header += [] if found.best is None else [f"for the best {BEST_SHARE:.0%} (%)"]
    text = [
        f"# What matters in {found.benchmark}",
        "",
        markdown_table(header, table),
        "Sobol indices: shares of the variance of the true validation error. Hyperparameters that the space's "
        "forbidden clauses tie together are one input; one that has an effect only under a condition is drawn always "
        "and does nothing where it is inactive.",
        "",
        *(f"- {line}" for line in sentences(found)),
        "",
        *(f"![{path.stem.replace('_', ' ')}]({path.name})" for path in files if path.suffix == ".png"),
    ]
    path = out / "importance.md"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return [path, *files]


def _importance_figure(decompositions: Mapping[str, SobolIndices], folder: FigureFolder) -> None:
    """The shares explained alone and with interactions, largest on top."""
    from naslib_autokd.reports.charts.rows import decomposition

    order = np.argsort(-decompositions["overall"].total)
    panels = []
    for which, found in decompositions.items():
        rows = [
            {
                "label": found.names[i],
                "first": float(found.first[i]),
                "total": float(found.total[i]),
                "low": float(found.total_interval[i, 0]),
                "high": float(found.total_interval[i, 1]),
            }
            for i in order
        ]
        panels.append(("over the space" if which == "overall" else f"best {BEST_SHARE:.0%}", rows))
    folder.chart("importance", decomposition(panels))


MOST_PANELS = 12
"""Hyperparameters in a figure of partial dependence, those with the largest effect; the table has all."""


def _dependence_figure(curves: Sequence[PartialDependence], folder: FigureFolder, name: str) -> None:
    """A panel for each hyperparameter, by the range of its mean."""
    from naslib_autokd.reports.charts.curves import dependence

    ordered = sorted(curves, key=lambda curve: -curve.range)[:MOST_PANELS]
    rows = [
        {
            "hyperparameter": curve.name,
            "value": curve.values[k],
            "mean": float(curve.mean[k]),
            "low": float(curve.low[k]),
            "high": float(curve.high[k]),
            "log": curve.log,
        }
        for curve in ordered
        for k in range(len(curve.values))
    ]
    if rows:
        folder.chart(name, dependence(rows, {curve.name: curve.name for curve in ordered}))


def write_permutation_report(found: PermutationImportance, out: Path, name: str = "permutation") -> list[Path]:
    """A bar figure (PNG, PDF) of `permutation_importance` and its CSV, which comes first."""
    from naslib_autokd.reports.charts.rows import importance, importance_title

    folder = FigureFolder(Path(out))
    order = np.argsort(-found.mean)
    rows = [(found.names[i], found.mean[i], found.sd[i], found.r2, found.n) for i in order]
    folder.table(name, ["column", "importance", "sd", "forest_r2", "n"], rows)
    shares = [{"label": found.names[i], "importance": float(found.mean[i]), "sd": float(found.sd[i])} for i in order]
    folder.chart(name, importance(shares, importance_title(found.r2, found.n)))
    return folder.files
