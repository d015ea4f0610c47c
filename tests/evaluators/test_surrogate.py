"""The surrogate against scikit-learn, against leaving points out, and against tables whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from table_cases import SPACE, TASK, WIRING_SD, trainings, true_error, weights_sd

from naslib_autokd.evaluators import surrogate
from naslib_autokd.evaluators.benchmark import table_of, table_values
from naslib_autokd.evaluators.surrogate import BudgetModel, FamilyEncoding, Matern, Trainings, fit, trainings_of
from naslib_autokd.search_spaces.hnag import Candidate, HNAGSpace

ENCODING = FamilyEncoding(SPACE, TASK)


# --- encoding ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_families_are_encoded_as_the_space_has_them(seed: int) -> None:
    candidate = SPACE.sample(np.random.default_rng(seed))
    values = ENCODING.values(candidate)
    assert {n: v for n, v in zip(ENCODING.names, values, strict=True) if v is not None} == SPACE.values(candidate)
    features = ENCODING.features(values)
    assert len(features) == len(ENCODING.feature_names)
    assert ((features[: len(values)] >= 0) & (features[: len(values)] <= 1)).all()
    assert 0 <= ENCODING.diversity(values) <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.01, 0.5))
def test_drawn_and_moved_families_are_in_the_space(seed: int, sd: float) -> None:
    rng = np.random.default_rng(seed)
    values = ENCODING.sample(rng)
    for known in (values, ENCODING.perturb(values, sd, rng)):
        active = {n: v for n, v in zip(ENCODING.names, known, strict=True) if v is not None}
        assert ENCODING.values(SPACE.candidate(active)) == known


def test_the_ends_of_the_ranges_come_back_exactly() -> None:
    ends = {"channel_growth": (0.6, 2.0), "temperature": (1.0, 10.0), "kd_weight": (0.0, 1.0), "top_nodes": (3, 9)}
    for corner in (0, 1):
        codes = np.full(len(ENCODING.names), float(corner))
        codes[ENCODING.names.index("bottom_nodes")] = 0.0
        values = ENCODING._decoded(codes)
        assert values is not None
        known = dict(zip(ENCODING.names, values, strict=True))
        assert {name: known[name] for name in ends} == {name: both[corner] for name, both in ends.items()}
    assert ENCODING._decoded(np.full(len(ENCODING.names), 1.0)) is None, "9 x 5 operations are forbidden"


def test_log_width_is_that_of_fitted_students() -> None:
    """Not exactly (stem, projections and batch norm take their share), but it must order families by width."""
    rng = np.random.default_rng(1)
    told, fitted = [], []
    from naslib_autokd.search_spaces.hnag import fit_width

    for _ in range(60):
        candidate = SPACE.sample(rng)
        told.append(dict(zip(ENCODING.feature_names, ENCODING.features(ENCODING.values(candidate)), strict=True)))
        wiring = candidate.sample_wiring(0)
        fitted.append(fit_width(wiring, 24_000, in_channels=1, image_size=12, n_classes=10, min_channels=4))
    width = [10 * math.exp(features["log_width"]) for features in told]
    assert np.corrcoef(width, [spec.channels[0] for spec in fitted])[0, 1] > 0.97
    assert np.corrcoef([f["log_macs"] for f in told], np.log([spec.macs for spec in fitted]))[0, 1] > 0.9


def test_what_is_outside_is_refused() -> None:
    default = SPACE.default_candidate()
    wide = HNAGSpace("hnag-wide").default_candidate()
    for candidate, text in (
        (wide, "not in the space hnag-small"),
        (replace(default, generator=replace(default.generator, channel_growth=2.5)), "channel_growth"),
        (replace(default, generator=replace(default.generator, head_ratio=1.0)), "not in the space"),
        (Candidate(default.generator, replace(default.kd, temperature=20.0)), "temperature"),
    ):
        with pytest.raises(ValueError, match=text):
            ENCODING.values(candidate)
    with pytest.raises(ValueError, match="cannot encode the hyperparameters mid_nodes"):
        FamilyEncoding(HNAGSpace("hnag"), TASK)


def test_diversity_counts_wirings() -> None:
    def diversity(**changes: Any) -> float:
        values = {"top_nodes": 6, "top_k": 2, "top_p": 0.1, "bottom_nodes": 1, "channel_growth": 1.0} | changes
        full = [values.get(name) for name in ENCODING.names]
        return ENCODING.diversity(full)

    assert diversity(top_nodes=3, top_p=None, top_k=None) == 0.0, "three nodes have one graph"
    assert diversity(top_nodes=5, top_k=4) == 0.0, "nor can a complete ring be rewired"
    assert diversity() == pytest.approx(1 - 0.9**12)
    assert diversity(top_p=1.0) == 1.0
    # the shares of equal draws, counted
    candidate = SPACE.candidate(
        {"top_nodes": 6, "top_k": 2, "top_p": 0.1, "bottom_nodes": 1, "channel_growth": 1.0, "downsampling": "max"}
        | {"temperature": 4.0, "kd_weight": 0.9}
    )
    drawn = [candidate.sample_wiring(seed).digest for seed in range(600)]
    most = max(drawn.count(digest) for digest in set(drawn)) / len(drawn)
    assert most == pytest.approx(0.9**6, abs=0.06)


# --- Gaussian process -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def points() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.random((30, 4))
    return x, np.sin(4 * x[:, 0]) + x[:, 1], rng.uniform(0.01, 0.1, 30), np.array([0.5, 1.0, 2.0, 5.0])


def test_the_mean_is_that_of_scikit_learn(points) -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel
    from sklearn.gaussian_process.kernels import Matern as Reference

    x, y, noise, scales = points
    kernel = ConstantKernel(1.7) * Reference(scales, nu=2.5)
    reference = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(x, y - y.mean())
    alpha = surrogate._solve(x, y, noise, scales, 1.7)
    ours = Matern(x / scales, scales, alpha[:, None], np.array([y.mean()]), ("y",))
    new = np.random.default_rng(1).random((7, 4))
    assert ours(new)[:, 0] == pytest.approx(reference.predict(new) + y.mean(), abs=1e-6)
    assert [ours(point)[0] for point in new] == pytest.approx(ours(new)[:, 0])
    back = Matern.from_arrays(ours.to_arrays())
    assert back(new) == pytest.approx(ours(new), abs=1e-4), "stored in single precision"
    assert back.outputs == ("y",)


def test_left_out_is_leaving_out(points) -> None:
    x, y, noise, scales = points
    residuals, latent = surrogate._left_out(x, y[:, None], noise, scales, 1.7)
    for i in (0, 11):
        rest = np.arange(30) != i
        # the centre stays that of all points
        weights = np.linalg.solve(surrogate._matrix(x[rest], noise[rest], scales, 1.7), y[rest] - y.mean())
        row = surrogate._matern((((x[rest] - x[i]) / scales) ** 2).sum(axis=1))
        assert residuals[i, 0] == pytest.approx(y[i] - y.mean() - row @ weights, abs=1e-6)
        spread = 1.7 * (1 - row @ np.linalg.solve(surrogate._matrix(x[rest], noise[rest], scales, 1.7), row))
        assert latent[i] == pytest.approx(spread, abs=1e-5)


# --- a table whose truth is known -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known() -> tuple[BudgetModel, Trainings, Trainings, np.ndarray]:
    """Model of the full budget, what it was fitted to, and what it was not."""
    trials, stages = trainings(n_families=160, budgets=(3,))
    table = table_of(trials, stages, SPACE)
    rows = table_values(table, ENCODING)
    features = np.stack([ENCODING.features(values) for values in rows])
    held_out = table["stage"] == "held-out"
    parts = [
        trainings_of({name: column[chosen] for name, column in table.items()}, features[chosen], 3)
        for chosen in (~held_out, held_out)
    ]
    diversity = np.array([ENCODING.diversity(values) for values in rows])
    return fit(parts[0], 3000), parts[0], parts[1], diversity[held_out]


def fresh(n: int) -> list[Candidate]:
    rng = np.random.default_rng(9)
    return [SPACE.sample(rng) for _ in range(n)]


def test_the_mean_is_found(known) -> None:
    model = known[0]
    candidates = fresh(200)
    expected = [model(ENCODING.features(ENCODING.values(c)), 1.0) for c in candidates]
    truth = [true_error(c, 3) for c in candidates]
    assert kendalltau([e.cost for e in expected], truth)[0] > 0.75
    assert np.mean([e.cost for e in expected]) == pytest.approx(np.mean(truth), abs=0.004)
    assert np.mean([e.cost - e.test_error for e in expected]) == pytest.approx(0.01, abs=0.002)


def test_the_noise_depends_on_the_family(known) -> None:
    model = known[0]
    found: dict[str, list[float]] = {"average": [], "max": []}
    for candidate in fresh(200):
        expected = model(ENCODING.features(ENCODING.values(candidate)), 1.0)
        found[candidate.generator.downsampling].append(math.hypot(expected.wiring_sd, expected.weights_sd))
        assert expected.split_sd == pytest.approx(math.sqrt(expected.cost * (1 - expected.cost) / 3000), rel=0.2)
    for downsampling, sd in (("average", 0.03), ("max", 0.015)):
        assert np.mean(found[downsampling]) == pytest.approx(math.hypot(sd, WIRING_SD), rel=0.25)


def test_wirings_have_their_share(known) -> None:
    model, fitted = known[0], known[1]
    # over the families that are nested; the estimate is rough
    sds = [weights_sd(c) for c in fresh(200)]
    share = np.mean([WIRING_SD**2 / (WIRING_SD**2 + sd**2) for sd in sds])
    assert 0.4 * share < model.wiring_share < 2.0 * share
    alone = fitted.where(np.arange(len(fitted.cost)) < 100)
    assert surrogate._wiring_share(alone, np.ones(100)) == surrogate.WIRING_SHARE, "nothing is nested in these"


def test_wiring_share_of_known_components() -> None:
    """Balanced nested analysis of variance by hand: 40 families x 4 wirings x 3 seeds, variances 1 and 3."""
    rng = np.random.default_rng(3)
    family, wiring, _ = (part.ravel() for part in np.meshgrid(np.arange(40), np.arange(4), np.arange(3), indexing="ij"))
    noise = rng.standard_normal((40, 4))[family, wiring] + math.sqrt(3) * rng.standard_normal(len(family))
    made = Trainings(family, wiring, np.zeros((len(family), 1)), noise, noise, np.zeros((len(family), 0)), ())
    share = surrogate._wiring_share(made, np.ones(len(family)))
    groups = noise.reshape(40, 4, 3)
    within = groups.var(axis=2, ddof=1).mean()
    between = max(groups.mean(axis=2).var(axis=1, ddof=1).mean() - within / 3, 0)
    assert share == pytest.approx(between / (between + within))
    assert share == pytest.approx(0.25, abs=0.1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(1.5, 30.0))
def test_drawn_noise_has_mean_0_and_variance_1(seed: int, degrees: float) -> None:
    quantiles = surrogate._quantiles(np.random.default_rng(seed).standard_t(degrees, 300))
    assert (np.diff(quantiles) >= 0).all()
    u = (np.arange(20_000) + 0.5) / 20_000
    drawn = np.interp(u * (len(quantiles) - 1), np.arange(len(quantiles)), quantiles)
    assert drawn.mean() == pytest.approx(0, abs=1e-3)
    assert drawn.std() == pytest.approx(1, abs=2e-3)


def test_quality_of_a_right_and_of_a_wrong_model(known) -> None:
    model, _, held_out, diversity = known
    quality = surrogate.held_out_quality(model, held_out, diversity)
    assert (quality["families"], quality["trainings"]) == (24, 72)
    assert 0.4 < quality["r2"] < quality["r2_ceiling"] + 0.1
    assert quality["tau"] < quality["tau_ceiling"] + 0.1 < 1.1
    assert quality["within_sd"] == pytest.approx(1, abs=0.25)
    assert quality["cover_80"] == pytest.approx(0.8, abs=0.15)
    # a tenth of the noise: intervals are too narrow, the ceiling too high
    sure = replace(model, noise_range=(model.noise_range[0] - 4.6, model.noise_range[0] - 4.6), split_scale=0.1)
    worse = surrogate.held_out_quality(sure, held_out, diversity)
    assert worse["within_sd"] > 4
    assert worse["cover_95"] < 0.5
    assert worse["tau_ceiling"] > quality["tau_ceiling"]
    # a mean that knows nothing
    flat = replace(model, mean=replace(model.mean, alpha=0 * model.mean.alpha))
    assert surrogate.held_out_quality(flat, held_out, diversity)["r2"] < 0.05


@pytest.mark.parametrize("exaggeration", [1.0, 0.5, 2.0])
def test_effects_of_kd_settings_are_judged_without_the_noise_that_settings_share(known, exaggeration: float) -> None:
    """30 generators x 12 settings x 3 wirings whose true effects are those of the model, or smaller or larger."""
    model, rng = known[0], np.random.default_rng(2)
    families = [SPACE.sample(rng) for _ in range(30)]
    kd = [SPACE.sample(rng).kd for _ in range(12)]
    rows = [(g, s, w) for g in range(30) for s in range(12) for w in range(3)]
    order = rng.permutation(len(rows))
    features = np.stack([ENCODING.features(ENCODING.values(replace(families[g], kd=kd[s]))) for g, s, _ in rows])
    expected = model.average(features).reshape(30, 12, 3)
    centre = expected.mean(axis=1, keepdims=True)
    own = rng.normal(0, 0.01, (30, 12, 3))
    average = centre + exaggeration * (expected - centre) + rng.normal(0, 0.2, (30, 1, 3)) + own
    g, s, w = np.array(rows).T
    parts = (12 * g + s, 3 * g + w, features, average.ravel(), average.ravel(), np.zeros((len(rows), 0)))
    made = Trainings(*(part[order] for part in parts), outputs=())
    found = surrogate.kd_quality(model, made, g[order])
    truth = exaggeration**2 * float(np.mean((expected - centre) ** 2))
    assert (found["generators"], found["settings"], found["trainings"]) == (30, 12, 1080)
    assert found["effect_sd"] == pytest.approx(math.sqrt(truth), rel=0.05)
    assert found["r2_ceiling"] == pytest.approx(truth / (truth + 0.01**2 / 3 * 11 / 12), abs=0.03)
    assert found["slope"] == pytest.approx(exaggeration, rel=0.05)
    if exaggeration == 1:
        assert found["r2"] == pytest.approx(found["r2_ceiling"], abs=0.02)
    else:
        assert found["r2"] < found["r2_ceiling"] - 0.1
    failed = made.where(np.arange(len(rows)) != 7)
    assert surrogate.kd_quality(model, failed, g[order][np.arange(len(rows)) != 7])["generators"] == 29


def test_the_ceiling_is_what_the_truth_reaches() -> None:
    """Many held-out families: the true means themselves are as good as the ceiling says."""
    trials, stages = trainings(n_families=80, n_nested=10, n_held_out=150, budgets=(3,))
    table = table_of(trials, stages, SPACE)
    rows = table_values(table, ENCODING)
    features = np.stack([ENCODING.features(values) for values in rows])
    chosen = table["stage"] == "held-out"
    parts = [trainings_of({n: c[where] for n, c in table.items()}, features[where], 3) for where in (~chosen, chosen)]
    model = fit(parts[0], 3000)
    quality = surrogate.held_out_quality(model, parts[1], np.ones(int(chosen.sum())))
    held_out = [
        Candidate.from_dict({**t.candidate, "wiring_seed": None})
        for t, s in zip(trials, stages, strict=True)
        if s == "held-out"
    ]
    costs: dict[str, list[float]] = {}
    for candidate, trial in zip(
        held_out, [t for t, s in zip(trials, stages, strict=True) if s == "held-out"], strict=True
    ):
        costs.setdefault(candidate.digest, []).append(trial.cost)
    truth = {candidate.digest: true_error(candidate, 3) for candidate in held_out}
    tau = kendalltau([truth[d] for d in costs], [np.mean(costs[d]) for d in costs])[0]
    assert quality["tau_ceiling"] == pytest.approx(tau, abs=0.06)
    assert quality["tau"] < quality["tau_ceiling"] + 0.03


def test_regions_left_out_are_not_seen(known) -> None:
    model, fitted = known[0], known[1]
    growth = fitted.features[:, ENCODING.names.index("channel_growth")]
    regions = {"wide growth": growth > 0.7, "few": np.arange(len(growth)) < 3}
    rows = surrogate.region_quality(model, fitted, regions, model.variances(fitted.features))
    assert [row["region"] for row in rows] == ["wide growth"], "three families are no region"
    inside = len(np.unique(fitted.family[growth > 0.7]))
    assert rows[0]["families"] == inside
    changed = replace(fitted, cost=np.where(growth > 0.7, fitted.cost + 0.5, fitted.cost))
    again = surrogate.region_quality(model, changed, regions, model.variances(fitted.features))
    assert again[0]["bias"] == pytest.approx(rows[0]["bias"] - 0.25, abs=1e-6), "what is left out has no influence"


def test_the_best_family_is_better_than_random_ones(known) -> None:
    model = known[0]
    values, error = surrogate.best_family(ENCODING, model)
    assert model.average(ENCODING.features(values)[None]) == pytest.approx(error)
    random = [model(ENCODING.features(ENCODING.values(c)), 1.0) for c in fresh(400)]
    assert error < min((expected.cost + expected.test_error) / 2 for expected in random)
    known_values = dict(zip(ENCODING.names, values, strict=True))
    assert known_values["kd_weight"] > 0.8, "the truth is lowest at 1"


def test_curves_are_expected(known) -> None:
    model, _, held_out, _ = known
    rows = surrogate.curve_quality(model, held_out)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row["tau"] > 0.5 for row in rows)
