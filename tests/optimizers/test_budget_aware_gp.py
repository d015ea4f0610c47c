"""The model against independent references, and the maximiser against what it promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import check_grad

from naslib_autokd.optimizers import budget_aware_gp
from naslib_autokd.optimizers.budget_aware_gp import (
    BudgetAwareGP,
    KernelParameters,
    SpaceVectors,
    expected_improvement,
    maximise,
    prior,
)


def data(n: int = 25, d: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.random((n, d))
    budgets = rng.choice([3.0, 9.0, 27.0], n)
    costs = 0.1 + 0.2 * ((features - 0.4) ** 2).sum(1) + 0.5 / budgets + 0.01 * rng.normal(size=n)
    return features, budgets, costs


def reference_posterior(
    parameters: KernelParameters, features: Any, budgets: Any, costs: Any, query: Any, budget: float, max_budget: float
) -> tuple[np.ndarray, np.ndarray]:
    """Element by element, with plain inverses: nothing in common with the code under test."""
    known = sorted(set(budgets))
    means = {b: np.mean([c for c, at in zip(costs, budgets, strict=True) if at == b]) for b in known}
    residuals = np.array([c - means[b] for c, b in zip(costs, budgets, strict=True)])
    scale = residuals.std()

    def covariance(x: Any, b: float, z: Any, c: float) -> float:
        r = np.sqrt(sum(((p - q) / np.exp(s)) ** 2 for p, q, s in zip(x, z, parameters.length_scales, strict=True)))
        matern = (1 + np.sqrt(5) * r + 5 / 3 * r**2) * np.exp(-np.sqrt(5) * r)
        apart = abs(np.log(b) - np.log(c)) / np.log(max_budget)
        own = np.exp(parameters.shared) + np.exp(parameters.own) * np.exp(-2 * apart)
        return own * matern + 25.0 * (b == c)

    n = len(costs)
    kernel = np.array(
        [[covariance(features[i], budgets[i], features[j], budgets[j]) for j in range(n)] for i in range(n)]
    )
    kernel += np.diag([np.exp(parameters.noise[known.index(b)]) for b in budgets])
    inverse = np.linalg.inv(kernel)
    mean, sd = [], []
    for x in query:
        cross = np.array([covariance(x, budget, features[i], budgets[i]) for i in range(n)])
        mean.append(means[budget] + scale * cross @ inverse @ (residuals / scale))
        sd.append(scale * np.sqrt(covariance(x, budget, x, budget) - cross @ inverse @ cross))
    return np.array(mean), np.array(sd)


def test_posterior_equals_an_independent_reference() -> None:
    features, budgets, costs = data()
    parameters = KernelParameters(np.log([0.5, 1.0, 0.3]), 0.2, -1.0, np.log([0.1, 0.2, 0.3]))
    model = BudgetAwareGP(np.arange(3), max_budget=27).fit(features, budgets, costs, parameters=parameters)
    query = np.random.default_rng(1).random((7, 3))
    for budget in (3.0, 27.0):
        mean, sd = model.predict(query, budget)
        expected = reference_posterior(parameters, features, budgets, costs, query, budget, 27.0)
        np.testing.assert_allclose(mean, expected[0], rtol=1e-7)
        np.testing.assert_allclose(sd, expected[1], rtol=1e-6)


def test_gradient_of_the_posterior_equals_finite_differences() -> None:
    features, budgets, costs = data(20)
    groups = np.array([0, 1, 1])  # a one-hot pair shares its length scale
    model = BudgetAwareGP(groups, max_budget=27).fit(features, budgets, costs)
    objective = model.negative_log_posterior(features, budgets, model._y)
    rng = np.random.default_rng(2)
    for _ in range(3):
        theta = prior(2, 3)[0] + rng.normal(0, 0.7, 2 + 2 + 3)
        value, gradient = objective(theta)
        error = check_grad(lambda t: objective(t)[0], lambda t: objective(t)[1], theta, epsilon=1e-6)
        assert error < 1e-4 * max(1.0, np.linalg.norm(gradient)), (error, gradient)
        assert np.isfinite(value)


def test_marginal_likelihood_equals_scipys_density() -> None:
    from scipy.stats import multivariate_normal, norm

    features, budgets, costs = data(15)
    model = BudgetAwareGP(np.arange(3), max_budget=27).fit(features, budgets, costs)
    theta = model.parameters.pack() + 0.1
    model.parameters = KernelParameters.unpack(theta, 3)
    kernel = model.kernel(features, budgets, features, budgets) + np.diag(model._noise(budgets))
    mean, sd = prior(3, 3)
    expected = multivariate_normal(np.zeros(15), kernel).logpdf(model._y) + norm(mean, sd).logpdf(theta).sum()
    value, _ = model.negative_log_posterior(features, budgets, model._y)(theta)
    other, _ = model.negative_log_posterior(features, budgets, model._y)(theta - 0.3)
    model.parameters = KernelParameters.unpack(theta - 0.3, 3)
    kernel = model.kernel(features, budgets, features, budgets) + np.diag(model._noise(budgets))
    expected_other = (
        multivariate_normal(np.zeros(15), kernel).logpdf(model._y) + norm(mean, sd).logpdf(theta - 0.3).sum()
    )
    assert value - other == pytest.approx(expected_other - expected, rel=1e-8)  # equal up to the constant


def test_promoted_families_are_not_taken_for_average() -> None:
    """Only good families reach 27 epochs. Standardised within the budget the worse half of them would look bad."""
    rng = np.random.default_rng(0)
    x = rng.random((30, 1))
    low = 0.3 + 0.2 * x[:, 0] + 0.002 * rng.normal(size=30)
    promoted = np.argsort(low)[:8]
    features = np.concatenate([x, x[promoted]])
    budgets = np.array([9.0] * 30 + [27.0] * 8)
    costs = np.concatenate([low, low[promoted] - 0.2])
    model = BudgetAwareGP(np.array([0]), max_budget=27).fit(features, budgets, costs)
    mean, _ = model.predict(np.array([[0.9]]), 27.0)
    assert mean[0] > costs[30:].max() + 0.05  # far worse than every family trained there: learned from the low budget
    assert mean[0] == pytest.approx(0.1 + 0.2 * 0.9, abs=0.03)


def test_imagined_trials_keep_the_mean_and_shrink_the_deviation() -> None:
    features, budgets, costs = data()
    model = BudgetAwareGP(np.arange(3), max_budget=27).fit(features, budgets, costs)
    query = np.random.default_rng(3).random((6, 3))
    pending = model.with_pending(query[:2], 27.0)
    mean, sd = model.predict(query, 27.0)
    pending_mean, pending_sd = pending.predict(query, 27.0)
    np.testing.assert_allclose(pending_mean, mean, atol=1e-8)
    assert (pending_sd <= sd + 1e-12).all()
    assert (pending_sd[:2] < 0.99 * sd[:2]).all()
    assert model.with_pending(query[:0], 27.0) is model
    # the same as a model conditioned on all rows at once
    pending._condition()
    whole_mean, whole_sd = pending.predict(query, 27.0)
    np.testing.assert_allclose(pending_mean, whole_mean, rtol=1e-8)
    np.testing.assert_allclose(pending_sd, whole_sd, rtol=1e-7)


def test_expected_improvement_equals_numerical_integration() -> None:
    from scipy.integrate import quad
    from scipy.stats import norm

    for mean, sd, best in ((0.1, 0.02, 0.09), (0.2, 0.05, 0.1), (0.05, 0.01, 0.1)):
        expected, _ = quad(lambda y: (best - y) * norm(mean, sd).pdf(y), mean - 12 * sd, best)  # noqa: B023
        assert expected_improvement(np.array([mean]), np.array([sd]), best)[0] == pytest.approx(expected, rel=1e-6)
    assert expected_improvement(np.array([0.1, 0.3]), np.zeros(2), 0.2).tolist() == [pytest.approx(0.1), 0.0]


def test_more_than_200_rows_are_fitted_on_fewer_and_predicted_from_all() -> None:
    features, budgets, costs = data(260)
    model = BudgetAwareGP(np.arange(3), max_budget=27).fit(features, budgets, costs, rng=np.random.default_rng(0))
    assert len(model._alpha) == 260
    mean, _ = model.predict(features, 27.0)
    truth = 0.1 + 0.2 * ((features - 0.4) ** 2).sum(1) + 0.5 / 27
    assert np.abs(mean - truth).mean() < 0.005


def fitc_posterior(model: BudgetAwareGP, rows: Any, y: Any, query: Any, budget: float) -> tuple[np.ndarray, np.ndarray]:
    """Snelson and Ghahramani 2006, eq. 6 to 8, with dense matrices of all rows."""
    features, budgets = rows
    at = np.full(len(query), budget)
    inducing = model._features, model._row_budgets
    among = model.kernel(*inducing, *inducing)
    through = np.linalg.solve(among, model.kernel(*inducing, features, budgets))
    low_rank = model.kernel(features, budgets, *inducing) @ through
    full = low_rank + np.diag(np.diag(model.kernel(features, budgets, features, budgets) - low_rank))
    full += np.diag(model._noise(budgets))
    cross = model.kernel(query, at, *inducing) @ through
    mean = model.means[budget] + model.scale * cross @ np.linalg.solve(full, y)
    explained = np.einsum("ij,ji->i", cross, np.linalg.solve(full, cross.T))
    prior_variance = np.diag(model.kernel(query, at, query, at))
    return mean, model.scale * np.sqrt(prior_variance - explained)


def test_many_rows_are_seen_through_inducing_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_aware_gp, "EXACT_ROWS", 30)
    features, budgets, costs = data(90)
    query = np.random.default_rng(1).random((5, 3))
    whole = BudgetAwareGP(np.arange(3), max_budget=27).fit(features, budgets, costs, rng=np.random.default_rng(0))
    assert len(whole._features) == 30
    best = min(np.flatnonzero(budgets == 27.0), key=lambda row: costs[row])
    assert best in whole.inducing
    y = (costs - np.array([whole.means[b] for b in budgets])) / whole.scale
    expected = fitc_posterior(whole, (features, budgets), y, query, 27.0)
    np.testing.assert_allclose(whole.predict(query, 27.0), expected, rtol=2e-3)


@pytest.mark.parametrize("exact_rows", [30, 300])
def test_rows_may_come_later(exact_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_aware_gp, "EXACT_ROWS", exact_rows)
    features, budgets, costs = data(90)
    query = np.random.default_rng(1).random((5, 3))
    early = BudgetAwareGP(np.arange(3), max_budget=27).fit(features[:70], budgets[:70], costs[:70])
    late = early.with_rows(features[70:], budgets[70:], costs[70:])
    y = (costs - np.array([early.means[b] for b in budgets])) / early.scale
    through = early if exact_rows == 30 else late  # with all rows inducing FITC is exact
    np.testing.assert_allclose(
        late.predict(query, 27.0), fitc_posterior(through, (features, budgets), y, query, 27.0), rtol=2e-3
    )
    assert (late.predict(query, 27.0)[1] < early.predict(query, 27.0)[1]).all()


def test_equal_costs_and_one_budget_are_no_problem() -> None:
    model = BudgetAwareGP(np.arange(2), max_budget=1).fit(np.eye(2), np.ones(2), np.full(2, 0.3))
    mean, sd = model.predict(np.eye(2), 1.0)
    np.testing.assert_allclose(mean, 0.3, atol=1e-6)
    assert np.isfinite(sd).all()
    with pytest.raises(ValueError, match="budget 9 has no trials; known are 1"):
        model.predict(np.eye(2), 9.0)


def space() -> Any:
    from ConfigSpace import (
        Categorical,
        ConfigurationSpace,
        Constant,
        EqualsCondition,
        Float,
        ForbiddenGreaterThanEqualsRelation,
        Integer,
    )

    out = ConfigurationSpace()
    out.add(Integer("nodes", (3, 10)), Integer("k", (2, 5), default=2), Float("temperature", (1, 100), log=True))
    out.add(Categorical("operation", ["conv", "pool", "depthwise"]), Categorical("pool", ["mean", "max"]))
    out.add(Categorical("width", [4, 8, 16], ordered=True), Constant("stem", "small"), Float("pool_p", (0, 1)))
    out.add(EqualsCondition(out["pool"], out["operation"], "pool"))
    out.add(EqualsCondition(out["pool_p"], out["pool"], "max"))
    out.add(ForbiddenGreaterThanEqualsRelation(out["k"], out["nodes"]))
    return out


def features_of(vectors: SpaceVectors, **values: Any) -> dict[str, list[float]]:
    from ConfigSpace import Configuration

    row = vectors.features(Configuration(vectors.space, values=values).get_array())[0]
    return {name: row[vectors.groups == i].tolist() for i, name in enumerate(vectors.names)}


def test_features_of_a_known_point() -> None:
    vectors = SpaceVectors(space())
    known = {"nodes": 10, "k": 2, "temperature": 10.0, "operation": "pool", "width": 8, "stem": "small"}
    row = features_of(vectors, **known, pool="max", pool_p=0.25)
    assert "stem" not in row
    assert row["temperature"] == pytest.approx([0.5])
    assert row["width"] == [0.5]  # the second of three ordered values
    assert sorted(row["operation"]) == pytest.approx([0.0, 0.0, 0.5**0.5])
    assert row["pool"] in ([0.0], [1.0])
    assert row["pool_p"] == [0.25]
    inactive = features_of(vectors, **(known | {"operation": "conv"}))
    assert inactive["pool"] == [0.5]
    assert inactive["pool_p"] == [0.5]


def test_two_categories_are_at_distance_one_and_share_a_length_scale() -> None:
    vectors = SpaceVectors(space())
    known = {"nodes": 10, "k": 2, "temperature": 10.0, "width": 8, "stem": "small"}
    a = np.array(features_of(vectors, **known, operation="conv")["operation"])
    b = np.array(features_of(vectors, **known, operation="depthwise")["operation"])
    assert ((a - b) ** 2).sum() == pytest.approx(1.0)
    assert vectors.n_dimensions == 7
    assert len(vectors.groups) == 9


def test_perturbed_points_are_legal_and_move_every_dimension() -> None:
    vectors = SpaceVectors(space())
    rng = np.random.default_rng(0)
    start = vectors.sample(200, rng)
    moved = vectors.perturb(np.repeat(start, 5, axis=0), 0.1, rng)
    assert 500 < len(moved) <= 1000  # what a clause forbids is dropped
    for vector in moved[::10]:
        vectors.configuration(vector)  # checks conditions and clauses
    seen = [set(np.round(column[~np.isnan(column)], 6)) for column in moved.T]
    space_ = vectors.space
    assert len(seen[space_.index_of["nodes"]]) == 8
    assert len(seen[space_.index_of["operation"]]) == 3
    assert len(seen[space_.index_of["pool_p"]]) > 50


def test_the_maximiser_finds_an_optimum_that_samples_miss() -> None:
    vectors = SpaceVectors(space())
    temperature = vectors.names.index("temperature")
    target = 0.731

    def score(features: np.ndarray) -> np.ndarray:
        return -np.abs(features[:, vectors.groups == temperature][:, 0] - target) - features[:, 0]

    best = maximise(vectors, score, np.empty((0, len(vectors.space))), np.random.default_rng(0))
    values = score(vectors.features(best))
    assert (np.diff(values) <= 0).all()
    sampled = score(vectors.features(vectors.sample(512, np.random.default_rng(0)))).max()
    assert values[0] > sampled or values[0] == pytest.approx(sampled, abs=1e-3)
    again = maximise(vectors, score, np.empty((0, len(vectors.space))), np.random.default_rng(0))
    np.testing.assert_array_equal(best, again)
