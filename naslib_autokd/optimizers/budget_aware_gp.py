"""A Gaussian process that learns from trials of all budgets, and the maximiser of its expected improvement.

Notation and shapes: ``n`` rows (trials), ``d`` hyperparameters, ``p`` feature columns (a one-hot category has several),
``m`` query points. A cost is modelled as::

    y = offset(budget) + f(x) + g(x, u) + noise(budget),      u = log(budget) / log(largest budget)
    K = (a1 + a2 * exp(-2 |u - u'|)) * Matern52(x, x') + 25 * [budget == budget'] + diag(noise of the budget)

The offset of each budget has a wide prior and is integrated out. It removes the promotion bias: only good families
reach the large budget, so standardising within a budget would make a promoted good family look average. Parameters
are maximum a posteriori (analytic gradient, L-BFGS, one start). Everything is numpy: 0.02 s of CPU per proposal at 20
trials, 0.06 s at 100 (one core, 10 hyperparameters). More than `EXACT_ROWS` rows are seen through as many inducing
ones, so that the cost grows with the rows and not with their cube (``benchmarks/many_trials.py``).

Source: ours; the kernel over (x, budget) follows the multi-task idea of Swersky et al. 2013 (arXiv:1406.3896), inducing
rows are FITC's (Snelson and Ghahramani 2006, "Sparse Gaussian Processes using Pseudo-inputs").
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtri
from scipy.optimize import minimize
from scipy.special import ndtr

from naslib_autokd.search_spaces import ListsPoints

Array = NDArray[np.float64]

OFFSET_VARIANCE = 25.0
BUDGET_DECAY = 2.0
FIT_ROWS = 150
"""Above 200 rows the kernel's parameters are fitted on this many of them; predictions use all."""
EXACT_ROWS = 300
"""Above so many rows they are seen through as many inducing ones (`BudgetAwareGP._condition_sparse`)."""
ALL_POINTS = 4096
"""Points of a finite space that are all scored; of larger ones a draw, and what is near its best."""


class SpaceVectors:
    """The points of a ConfigSpace as plain arrays, for the model and for its maximiser.

    A *vector* is ConfigSpace's own (columns in its order, categories as their index, NaN where inactive). *Features*
    are what the kernel sees: numbers and ordinals in [0, 1], a category of two values as 0 or 1, one of more values
    one-hot (scaled so that two categories are at distance 1); inactive is 0.5; constants are left out.
    """

    def __init__(self, space: Any) -> None:
        from ConfigSpace.hyperparameters import CategoricalHyperparameter, Constant, OrdinalHyperparameter

        self.space = space
        self.points: Array | None = space.legal_vectors if isinstance(space, ListsPoints) else None
        """All legal vectors, of a space that lists them (a table's, `search_spaces.table`)."""
        self.names: list[str] = []
        """Hyperparameters that vary, in the order of their length scales."""
        self._columns: list[int] = []  # of the vector, one per varying hyperparameter
        self._n_choices: list[int] = []  # 0 for numbers, else the number of categories or ordered values
        self._one_hot: list[bool] = []
        self._unordered: list[bool] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._snap: dict[int, Callable[[Array], Array]] = {}
        groups: list[int] = []
        for name, hyperparameter in space.items():
            column = space.index_of[name]
            if isinstance(hyperparameter, Constant):
                continue
            n_choices = 0
            if isinstance(hyperparameter, CategoricalHyperparameter):
                n_choices = len(hyperparameter.choices)
            elif isinstance(hyperparameter, OrdinalHyperparameter):
                n_choices = len(hyperparameter.sequence)
            if n_choices == 1:
                continue
            unordered = isinstance(hyperparameter, CategoricalHyperparameter)
            one_hot = unordered and n_choices > 2
            groups += [len(self.names)] * (n_choices if one_hot else 1)
            self.names.append(name)
            self._columns.append(column)
            self._n_choices.append(n_choices)
            self._unordered.append(unordered)
            self._one_hot.append(one_hot)
            low, high = (0.0, n_choices - 1.0) if n_choices else _vector_bounds(hyperparameter)
            self._low.append(low)
            self._high.append(high)
            if not n_choices and "Integer" in type(hyperparameter).__name__:
                self._snap[column] = _snapper(hyperparameter)
        self.groups = np.array(groups, dtype=int)
        """Which hyperparameter (length scale) each feature column belongs to."""

    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Of each category without order, what it can be."""
        named = zip(self.names, self._unordered, strict=True)
        return {name: tuple(self.space[name].choices) for name, unordered in named if unordered}

    @property
    def n_dimensions(self) -> int:
        return len(self.names)

    def features(self, vectors: Array) -> Array:
        """``(n, columns of the space)`` to ``(n, p)``."""
        vectors = np.atleast_2d(vectors)
        columns: list[Array] = []
        for i, column in enumerate(self._columns):
            values = vectors[:, column]
            inactive = np.isnan(values)
            if self._one_hot[i]:
                hot = (values[:, None] == np.arange(self._n_choices[i])).astype(float)
                hot[inactive] = 0.5
                columns.append(hot / np.sqrt(2.0))
            else:
                scaled = (values - self._low[i]) / (self._high[i] - self._low[i])
                columns.append(np.where(inactive, 0.5, scaled)[:, None])
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(vectors), 0))

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """``n`` legal vectors from the space's own distribution (priors act, clauses and conditions hold)."""
        self.space.seed(int(rng.integers(2**31)))
        # never size 1, which ConfigSpace answers with a single configuration and a warning
        drawn = self.space.sample_configuration(max(n, 2))
        return np.array([configuration.get_array() for configuration in drawn[:n]], dtype=float)

    def perturb(self, vectors: Array, sd: float, rng: np.random.Generator) -> Array:
        """Each vector with about a third of its coordinates moved; illegal results are dropped."""
        n, d = len(vectors), self.n_dimensions
        vectors = vectors.copy()
        moved = rng.random((n, d)) < max(1.0 / 3.0, 1.0 / max(d, 1))
        moved[np.arange(n), rng.integers(d, size=n)] = True
        steps = rng.normal(0.0, sd, (n, d))
        fresh = rng.random((n, d))
        for i, column in enumerate(self._columns):
            low, high = self._low[i], self._high[i]
            values = vectors[:, column]
            random_values = low + fresh[:, i] * (high - low)
            if self._n_choices[i]:
                random_values = np.minimum(np.floor(fresh[:, i] * self._n_choices[i]), high)
            inactive = np.isnan(values)
            if self._unordered[i]:
                new = random_values
            elif self._n_choices[i]:
                step = steps[:, i] * (high - low)
                # at least one place, or a small step would never move an ordinal
                step = np.sign(step) * np.maximum(1.0, np.round(np.abs(step)))
                new = np.clip(values + step, low, high)
            else:
                new = np.clip(values + steps[:, i] * (high - low), low, high)
                if column in self._snap:
                    new = self._snap[column](np.where(inactive, low, new))
                    random_values = self._snap[column](random_values)
            vectors[:, column] = np.where(inactive, random_values, np.where(moved[:, i], new, values))
        return self._legal(vectors)

    def _legal(self, vectors: Array) -> Array:
        """Sets inactive coordinates to NaN and drops what a clause forbids."""
        from ConfigSpace.conditions import Condition

        by_row = vectors.T.copy()  # ConfigSpace wants (hyperparameters, points)
        for _ in range(len(self.space.conditions)):  # a child of an inactive child is inactive too: until all agree
            before = np.isnan(by_row).sum()
            for condition in self.space.conditions:
                satisfied = condition.satisfied_by_vector_array(by_row)
                one = isinstance(condition, Condition)
                children = condition.child_vector_id if one else condition.get_children_vector()
                for child in np.unique(np.atleast_1d(children)):
                    by_row[int(child), ~satisfied] = np.nan
            if np.isnan(by_row).sum() == before:
                break
        legal = np.ones(len(vectors), dtype=bool)
        for clause in self.space.forbidden_clauses:
            legal &= ~clause.is_forbidden_vector_array(by_row)
        return by_row.T[legal]

    def configuration(self, vector: Array) -> Any:
        """The configuration, built from its values.

        From values and never from the vector: the two differ by up to 7e-13, enough for a replayed run to diverge.

        Raises:
            Exception: ConfigSpace's, if the point is not legal (a vector alone is not checked against clauses).
        """
        from ConfigSpace import Configuration

        configuration = Configuration(self.space, values=dict(Configuration(self.space, vector=vector)))
        configuration.check_valid_configuration()
        return configuration


def _vector_bounds(hyperparameter: Any) -> tuple[float, float]:
    low, high = getattr(hyperparameter, "lower_vectorized", 0.0), getattr(hyperparameter, "upper_vectorized", 1.0)
    return (float(low), float(high)) if high > low else (0.0, 1.0)


def _snapper(hyperparameter: Any) -> Callable[[Array], Array]:
    def snap(values: Array) -> Array:
        return np.asarray(hyperparameter.to_vector(hyperparameter.to_value(values)), dtype=float)

    return snap


@dataclass(frozen=True)
class KernelParameters:
    """Natural logarithms of the kernel's parameters, in units of the residuals' standard deviation."""

    length_scales: Array  # (d,)
    shared: float
    """a1: variance of what all budgets have in common."""
    own: float
    """a2: variance of what depends on the budget."""
    noise: Array  # (budgets,), ascending budgets

    def pack(self) -> Array:
        return np.concatenate([self.length_scales, [self.shared, self.own], self.noise])

    @classmethod
    def unpack(cls, theta: Array, d: int) -> KernelParameters:
        return cls(theta[:d], float(theta[d]), float(theta[d + 1]), theta[d + 2 :])


def prior(d: int, n_budgets: int) -> tuple[Array, Array]:
    """Mean and standard deviation of the normal prior on the logarithms, in the order of `KernelParameters.pack`."""
    mean = [np.log(0.35 * np.sqrt(max(d, 1)))] * d + [0.0, np.log(0.3)] + [np.log(0.2)] * n_budgets
    sd = [0.9] * d + [1.0, 1.0] + [1.0] * n_budgets
    return np.array(mean), np.array(sd)


class BudgetAwareGP:
    """See the module. Fit once, then `predict`; `with_pending` gives a model that imagines unfinished trials.

    Args:
        groups: Hyperparameter of each feature column (`SpaceVectors.groups`).
        max_budget: Where ``u`` is 1.
        max_iterations: Of L-BFGS.
    """

    def __init__(self, groups: NDArray[np.int_], *, max_budget: float, max_iterations: int = 40) -> None:
        self.groups = np.asarray(groups, dtype=int)
        self.d = int(self.groups.max()) + 1 if len(self.groups) else 0
        self.max_budget = float(max_budget)
        self.max_iterations = max_iterations
        self._sums: tuple[Array, Array] | None = None
        """Of all rows, with inducing ones."""

    def fit(
        self,
        features: Array,  # (n, p)
        budgets: Array,  # (n,)
        costs: Array,  # (n,), finite
        *,
        parameters: KernelParameters | None = None,
        rng: np.random.Generator | None = None,
    ) -> BudgetAwareGP:
        """Learn the kernel's parameters (unless given) and condition on the rows.

        ``rng`` draws the rows that parameters are fitted on when there are more than 200; without it the last ones.
        It draws inducing rows, too, the same ones as long as its seed is the same.
        """
        budgets = np.asarray(budgets, dtype=float)
        self.budgets = np.unique(budgets)
        means = {b: float(costs[budgets == b].mean()) for b in self.budgets}
        residuals = costs - np.array([means[b] for b in budgets])
        spread = float(residuals.std())
        self.scale = spread if spread > 1e-12 else 1.0
        self.means = means
        self._y = residuals / self.scale
        self._features, self._row_budgets = features, budgets
        keys = np.arange(len(costs))[::-1].astype(float) if rng is None else rng.random(len(costs))
        if parameters is None:
            rows = np.arange(len(costs))
            if len(rows) > 200:
                # the largest budget is what we ask about: its rows first, then a draw from the others
                rows = np.sort(np.lexsort((keys, -budgets))[:FIT_ROWS])
            parameters = self._fit_parameters(features[rows], budgets[rows], self._y[rows])
        self.parameters = parameters
        self.inducing = np.arange(len(costs))
        """Rows that predictions go through: all, or as many as `EXACT_ROWS`."""
        if len(costs) <= EXACT_ROWS:
            self._condition()
        else:
            self.inducing = self._inducing(keys)
            self._condition_sparse()
        return self

    def _inducing(self, keys: Array) -> NDArray[np.int_]:
        """Rows that stand for all: the best of the largest budget, the best of all, and a draw, a third each."""
        third = EXACT_ROWS // 3
        best = np.argsort(self._y, kind="stable")
        top = best[self._row_budgets[best] == self.budgets[-1]][:third]
        good = best[~np.isin(best, top)][:third]
        rest = np.setdiff1d(np.arange(len(keys)), np.concatenate([top, good]))
        drawn = rest[np.argsort(keys[rest], kind="stable")][: EXACT_ROWS - len(top) - len(good)]
        return np.sort(np.concatenate([top, good, drawn]))

    def _u(self, budgets: Array) -> Array:
        top = np.log(self.max_budget)
        return np.log(budgets) / top if top > 0 else np.ones_like(budgets)

    def _squared_distances(self, features: Array) -> Array:
        """``(d, n, n)``: squared distance within each hyperparameter."""
        out = np.zeros((self.d, len(features), len(features)))
        for column, group in enumerate(self.groups):
            out[group] += (features[:, None, column] - features[None, :, column]) ** 2
        return out

    def _fit_parameters(self, features: Array, budgets: Array, y: Array) -> KernelParameters:
        start, _ = prior(self.d, len(self.budgets))
        objective = self.negative_log_posterior(features, budgets, y)
        bounds = [(np.log(1e-2), np.log(1e3))] * self.d + [(-8.0, 5.0)] * 2 + [(np.log(1e-4), 4.0)] * len(self.budgets)
        result = minimize(
            objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": self.max_iterations}
        )
        return KernelParameters.unpack(result.x, self.d)

    def negative_log_posterior(self, features: Array, budgets: Array, y: Array) -> Callable[[Array], Any]:
        """``theta -> (value, gradient)`` of minus the log posterior, up to a constant (`KernelParameters.pack`)."""
        n, d = len(y), self.d
        distances = self._squared_distances(features).reshape(d, n * n)
        u = self._u(budgets)
        decay = np.exp(-BUDGET_DECAY * np.abs(u[:, None] - u[None, :]))
        same = OFFSET_VARIANCE * (budgets[:, None] == budgets[None, :])
        member = (budgets[None, :] == self.budgets[:, None]).astype(float)  # (budgets, n)
        mean, sd = prior(d, len(self.budgets))

        def objective(theta: Array) -> tuple[float, Array]:
            inverse_squares = np.exp(-2.0 * theta[:d])
            a1, a2 = np.exp(theta[d]), np.exp(theta[d + 1])
            noise = np.exp(theta[d + 2 :])
            r = np.sqrt(5.0 * (inverse_squares @ distances)).reshape(n, n)
            exponential = np.exp(-r)
            matern = (1.0 + r + r * r / 3.0) * exponential
            budget_kernel = a1 + a2 * decay
            kernel = budget_kernel * matern + same
            kernel[np.diag_indices(n)] += noise @ member
            try:
                lower = np.linalg.cholesky(kernel)
            except np.linalg.LinAlgError:
                return 1e25, np.zeros_like(theta)
            inverse_lower = _inverse_of_lower(lower)
            inverse = inverse_lower.T @ inverse_lower
            alpha = inverse @ y
            value = 0.5 * y @ alpha + np.log(np.diag(lower)).sum() + 0.5 * (((theta - mean) / sd) ** 2).sum()

            outer = inverse - alpha[:, None] * alpha[None, :]
            weighted = outer * budget_kernel * (5.0 / 3.0) * (1.0 + r) * exponential
            gradient = np.empty_like(theta)
            gradient[:d] = 0.5 * (distances @ weighted.ravel()) * inverse_squares
            gradient[d] = 0.5 * a1 * (outer * matern).sum()
            gradient[d + 1] = 0.5 * a2 * (outer * matern * decay).sum()
            gradient[d + 2 :] = 0.5 * noise * (member @ np.diag(outer))
            return float(value), gradient + (theta - mean) / sd**2

        return objective

    def kernel(self, features: Array, budgets: Array, other: Array, other_budgets: Array) -> Array:
        """Prior covariance of the noise-free costs (offsets included), ``(n, m)``."""
        inverse = np.exp(-self.parameters.length_scales)[self.groups]
        a, b = features * inverse, other * inverse
        squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * a @ b.T
        r = np.sqrt(5.0 * np.maximum(squared, 0.0))
        matern = (1.0 + r + r * r / 3.0) * np.exp(-r)
        # what depends on the budgets is a small table: there are few of them
        rows, at = np.unique(budgets, return_inverse=True)
        columns, other_at = np.unique(other_budgets, return_inverse=True)
        decay = np.exp(-BUDGET_DECAY * np.abs(self._u(rows)[:, None] - self._u(columns)[None, :]))
        own = np.exp(self.parameters.shared) + np.exp(self.parameters.own) * decay
        offset = OFFSET_VARIANCE * (rows[:, None] == columns[None, :])
        return own[at][:, other_at] * matern + offset[at][:, other_at]

    def _noise(self, budgets: Array) -> Array:
        return np.exp(self.parameters.noise)[np.searchsorted(self.budgets, budgets)]

    def _condition(self) -> None:
        kernel = self.kernel(self._features, self._row_budgets, self._features, self._row_budgets)
        kernel[np.diag_indices(len(kernel))] += self._noise(self._row_budgets) + 1e-9
        self._inverse_lower = _inverse_of_lower(np.linalg.cholesky(kernel))
        self._alpha = self._inverse_lower.T @ (self._inverse_lower @ self._y)

    def _condition_sparse(self) -> None:
        """FITC (Snelson and Ghahramani 2006): rows depend on each other through the inducing ones only.

        With ``n`` rows and ``m`` inducing ones O(n m^2). The result has the form of `_condition` for the latter:
        `predict` and `with_pending` know no difference.
        """
        features, budgets, y = self._features, self._row_budgets, self._y
        self._features, self._row_budgets, self._y = (rows[self.inducing] for rows in (features, budgets, y))
        among = self.kernel(self._features, self._row_budgets, self._features, self._row_budgets)
        among[np.diag_indices(len(among))] *= 1.0 + 1e-6
        self._whitening = _inverse_of_lower(np.linalg.cholesky(among))
        self._sums = self._sums_of(features, budgets, y)
        self._solve_sparse(*self._sums)

    def _sums_of(self, features: Array, budgets: Array, y: Array) -> tuple[Array, Array]:
        """What rows say about the whitened inducing values: precision ``(m, m)``, and its product with their mean."""
        seen = self._whitening @ self.kernel(self._features, self._row_budgets, features, budgets)  # (m, n)
        prior_variance = np.exp(self.parameters.shared) + np.exp(self.parameters.own) + OFFSET_VARIANCE
        unseen = np.maximum(prior_variance - np.einsum("mn,mn->n", seen, seen), 0.0) + self._noise(budgets) + 1e-9
        weighted = seen / unseen
        return weighted @ seen.T, weighted @ y

    def _solve_sparse(self, precision: Array, weighted_mean: Array) -> None:
        root = _inverse_of_lower(np.linalg.cholesky(precision + np.eye(len(precision))))
        covariance = root.T @ root
        self._alpha = self._whitening.T @ (covariance @ weighted_mean)
        explained = (1.0 + 1e-9) * np.eye(len(covariance)) - covariance
        self._inverse_lower = np.linalg.cholesky(explained).T @ self._whitening

    def with_rows(self, features: Array, budgets: Array, costs: Array) -> BudgetAwareGP:
        """The same model with further rows, at budgets that it knows; parameters and inducing rows stay.

        O(n^2) for each row, or O(m^2) with inducing ones.
        """
        other = copy.copy(self)
        y = (costs - np.array([self.means[budget] for budget in budgets])) / self.scale
        if self._sums is not None:
            other._solve_sparse(*(a + b for a, b in zip(self._sums, self._sums_of(features, budgets, y), strict=True)))
        else:
            other._append(features, budgets, y)
            other._alpha = other._inverse_lower.T @ (other._inverse_lower @ other._y)
        return other

    def _append(self, features: Array, budgets: Array, y: Array) -> None:
        """The factor with further rows; ``_alpha`` stays as it is."""
        new = self.kernel(features, budgets, features, budgets)
        new[np.diag_indices(len(new))] += self._noise(budgets) + 1e-9
        below = self.kernel(features, budgets, self._features, self._row_budgets) @ self._inverse_lower.T
        corner = _inverse_of_lower(np.linalg.cholesky(new - below @ below.T))
        self._inverse_lower = np.block(
            [
                [self._inverse_lower, np.zeros((len(self._y), len(new)))],
                [-corner @ below @ self._inverse_lower, corner],
            ]
        )
        self._features = np.concatenate([self._features, features])
        self._row_budgets = np.concatenate([self._row_budgets, budgets])
        self._y = np.concatenate([self._y, y])

    def predict(self, features: Array, budget: float) -> tuple[Array, Array]:
        """Mean and standard deviation of the expected cost (without noise) at a budget that has rows, ``(m,)`` each."""
        if budget not in self.means:
            raise ValueError(f"budget {budget:g} has no trials; known are {', '.join(f'{b:g}' for b in self.budgets)}")
        at = np.full(len(features), float(budget))
        cross = self.kernel(features, at, self._features, self._row_budgets)
        mean = cross @ self._alpha
        explained = ((cross @ self._inverse_lower.T) ** 2).sum(1)
        prior_variance = np.exp(self.parameters.shared) + np.exp(self.parameters.own) + OFFSET_VARIANCE
        variance = np.maximum(prior_variance - explained, 1e-12)
        return self.means[budget] + self.scale * mean, self.scale * np.sqrt(variance)

    def noise_sd(self, budget: float) -> float:
        """Standard deviation of one training's noise at a budget that has rows."""
        return float(self.scale * np.sqrt(self._noise(np.array([budget]))[0]))

    def with_pending(self, features: Array, budget: float) -> BudgetAwareGP:
        """The same model with unfinished trials imagined at their posterior mean: means stay, variances shrink."""
        if len(features) == 0:
            return self
        mean, _ = self.predict(features, budget)
        other = copy.copy(self)
        other._append(features, np.full(len(features), float(budget)), (mean - self.means[budget]) / self.scale)
        # a row at its posterior mean teaches nothing about means: the weights of the others stay, its own is 0
        other._alpha = np.concatenate([self._alpha, np.zeros(len(features))])
        return other

    def budget_correlation(self, low: float, high: float) -> float:
        """Correlation that the model assigns to the true costs of one family at two budgets (offsets apart)."""
        u = self._u(np.array([low, high], dtype=float))
        a1, a2 = np.exp(self.parameters.shared), np.exp(self.parameters.own)
        return float((a1 + a2 * np.exp(-BUDGET_DECAY * abs(u[0] - u[1]))) / (a1 + a2))

    def correlation_of_a_training(self, low: float, high: float) -> float:
        """The same between what one training at ``low`` shows, with its noise, and the true cost at ``high``."""
        signal = np.exp(self.parameters.shared) + np.exp(self.parameters.own)
        share = signal / (signal + self._noise(np.array([low]))[0])
        return float(self.budget_correlation(low, high) * np.sqrt(share))


def _inverse_of_lower(lower: NDArray[Any]) -> Array:
    """Inverse of a lower triangular matrix without zeros on its diagonal: a third of the work of solving for it."""
    inverse, _ = dtrtri(lower, lower=1)
    return np.asarray(inverse)


def expected_improvement(mean: Array, sd: Array, best: float) -> Array:
    """``E[max(best - cost, 0)]`` for normal costs (minimisation); 0 standard deviation is allowed."""
    z = np.clip((best - mean) / np.maximum(sd, 1e-12), -40.0, 40.0)
    density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    return np.where(sd > 0, (best - mean) * ndtr(z) + sd * density, np.maximum(best - mean, 0.0))


def maximise(
    vectors: SpaceVectors,
    score: Callable[[Array], Array],
    starts: Array,
    rng: np.random.Generator,
    *,
    n_samples: int = 512,
    n_starts: int = 8,
    n_perturbations: int = 25,
    steps: tuple[float, ...] = (0.15, 0.06, 0.025),
) -> Array:
    """Legal vectors, best score first: samples of the space and ``starts``, then rounds of perturbations.

    Of a space that lists its points (`SpaceVectors.points`) all of them are scored instead, if they are few.

    Args:
        score: Features ``(m, p)`` to values ``(m,)``, larger is better.
        starts: Vectors ``(k, columns)`` to begin from, for example the best known ones.
    """
    if vectors.points is not None and len(vectors.points) <= ALL_POINTS:
        return vectors.points[np.argsort(-score(vectors.features(vectors.points)), kind="stable")]
    drawn = vectors.sample(n_samples, rng) if vectors.points is None else rng.choice(vectors.points, ALL_POINTS // 4)
    pool = np.concatenate([starts.reshape(-1, len(vectors.space)), drawn])
    values = score(vectors.features(pool))
    for sd in steps if vectors.n_dimensions else ():
        best = pool[np.argsort(-values, kind="stable")[:n_starts]]
        moved = vectors.perturb(np.repeat(best, n_perturbations, axis=0), sd, rng)
        if len(moved):
            pool = np.concatenate([pool, moved])
            values = np.concatenate([values, score(vectors.features(moved))])
    return pool[np.argsort(-values, kind="stable")]
