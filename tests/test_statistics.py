"""Intervals and paired tests against known answers and their nominal coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from naslib_autokd.runners.statistics import (
    bootstrap_band,
    critical_difference,
    friedman_test,
    holm,
    mean_interval,
    paired_difference,
    paired_shares,
    ranks,
    signed_rank_test,
    speed_up,
    step_curve,
    wilson_interval,
)


def test_interval_of_a_worked_example() -> None:
    # mean 3, sd sqrt(2.5), n 5: half width t(0.975, 4) * sqrt(2.5 / 5) = 2.7764 * 0.7071
    interval = mean_interval([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.low == pytest.approx(3 - 1.96324, abs=1e-4)
    assert interval.high == pytest.approx(3 + 1.96324, abs=1e-4)


def test_interval_covers_the_truth_at_its_nominal_rate() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        interval = mean_interval(rng.normal(size=5).tolist())
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0 <= interval.high
    assert stats.binomtest(hits, 2000, 0.95).pvalue > 1e-3


def test_one_value_has_no_interval() -> None:
    interval = mean_interval([0.5])
    assert (interval.low, interval.high, interval.percent()) == (None, None, "50.0 [one value]")


# extra hours of sleep with two drugs, Cushny and Peebles (1905), as Student (1908) has them; R's `sleep`
SLEEP = (
    (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0),
    (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4),
)


def test_paired_t_test_of_a_published_example() -> None:
    # R: with(sleep, t.test(extra[group == 1], extra[group == 2], paired = TRUE))
    found = paired_difference(*SLEEP)
    assert found.p_value == pytest.approx(0.002833, abs=5e-7)
    assert found.difference.mean == pytest.approx(-1.58)
    assert (found.difference.low, found.difference.high) == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_of_a_share_is_that_of_newcombes_table(right: int, n: int, low: float, high: float) -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3 (score without correction)
    assert wilson_interval(right / n, n) == pytest.approx((low, high), abs=5e-5)


def test_interval_of_paired_shares_of_a_published_example() -> None:
    # approval of a prime minister in two surveys of the same 1600, Agresti, Categorical Data Analysis, 10.1.1
    found = paired_shares(86, 150, 1600)
    assert found.mean == pytest.approx(-0.04)
    assert (found.low, found.high) == pytest.approx((-0.04 - 1.96 * 0.0095, -0.04 + 1.96 * 0.0095), abs=1e-4)


@pytest.mark.parametrize("n", [2, 5, 8, 20])
def test_paired_test_finds_nothing_between_equals_at_its_nominal_rate(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(2, 1000, n)) + rng.normal(size=(1000, n))
    p_values = [paired_difference(*pair).p_value for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert None not in p_values
    found = sum(p is not None and p < 0.05 for p in p_values)
    assert stats.binomtest(found, 1000, 0.05).pvalue > 1e-3


def test_pairing_removes_the_noise_that_seeds_share() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(size=10) * 10
    a, b = shared + 1 + 0.1 * rng.normal(size=10), shared
    result = paired_difference(a.tolist(), b.tolist())
    assert result.p_value is not None
    assert result.p_value < 1e-6
    assert stats.ttest_ind(a, b).pvalue > 0.5


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])
    with pytest.raises(ValueError, match="equal lengths"):
        paired_difference([1], [1, 2])
    with pytest.raises(ValueError, match="confidence must be in"):
        mean_interval([1, 2], confidence=95)
    assert paired_difference([1, 2], [0, 1]).p_value is None


# ---- anytime curves ------------------------------------------------------------------------------------------------


def test_step_curve_is_right_continuous_and_keeps_its_last_value() -> None:
    curve = step_curve([2, 5, 5], [0.9, 0.5, 0.4], [1, 2, 4.999, 5, 100])
    np.testing.assert_array_equal(curve, [np.nan, 0.9, 0.9, 0.4, 0.4])
    np.testing.assert_array_equal(step_curve([], [], [1.0, 2.0]), [np.nan, np.nan])
    np.testing.assert_array_equal(step_curve([1, 3], [np.nan, 0.2], [2, 3]), [np.nan, 0.2])


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=20), st.lists(st.floats(0.1, 1e4), min_size=1, max_size=9))
def test_step_curve_is_what_a_loop_over_the_points_finds(positions: list[float], grid: list[float]) -> None:
    positions.sort()
    values = np.arange(len(positions), dtype=float)
    for x, y in zip(grid, step_curve(positions, values, grid), strict=True):
        reached = [value for position, value in zip(positions, values, strict=True) if position <= x]
        assert y == reached[-1] if reached else np.isnan(y)


def test_bootstrap_of_a_two_point_sample_has_the_binomial_ends() -> None:
    # the mean of n resampled zeros and ones is binomial: its quantiles are known
    curves = np.array([0.0] * 6 + [1.0] * 14)[:, None]
    band = bootstrap_band(curves, n_resamples=20_000)
    tail = stats.norm.cdf(-np.sqrt(20 / 19) * stats.t.ppf(0.975, 19))
    assert band.centre == pytest.approx([0.7])
    assert band.low == pytest.approx([stats.binom.ppf(tail, 20, 0.7) / 20])
    assert band.high == pytest.approx([stats.binom.ppf(1 - tail, 20, 0.7) / 20])


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("n", [8, 20])
def test_bootstrap_intervals_cover_the_truth_at_their_nominal_rate(statistic: str, n: int) -> None:
    # the columns are 2000 independent samples of n seeds; the plain percentile interval of the mean has 90.6% at n = 8
    samples = np.random.default_rng(3).normal(size=(n, 2000))
    band = bootstrap_band(samples, statistic, n_resamples=1000)  # type: ignore[arg-type]
    covered = float(((band.low <= 0) & (band.high >= 0)).mean())
    assert 0.93 < covered < 0.98


def test_bootstrap_is_repeatable_and_pairs_methods() -> None:
    curves = np.random.default_rng(4).normal(size=(12, 5))
    both = bootstrap_band(np.stack([curves, curves + 1]))
    np.testing.assert_allclose(both.low[1], both.low[0] + 1)  # the same resamples for both methods
    np.testing.assert_array_equal(both.high, bootstrap_band(np.stack([curves, curves + 1])).high)
    assert (bootstrap_band(curves, seed=1).low != both.low[0]).any()


def test_a_seed_without_incumbent_hides_the_mean_and_is_the_worst_for_the_median() -> None:
    curves = np.array([[np.nan, 1.0], [2.0, 2.0], [4.0, 6.0]])
    mean, median = bootstrap_band(curves), bootstrap_band(curves, "median")
    np.testing.assert_array_equal(mean.centre, [np.nan, 3.0])
    assert np.isnan([mean.low[0], mean.high[0]]).all()
    np.testing.assert_array_equal(median.centre, [4.0, 2.0])
    assert median.high[0] == np.inf
    assert np.isnan(bootstrap_band(np.array([[np.nan], [np.nan], [1.0]]), "median").centre).all()
    single = bootstrap_band(curves[1:2])
    np.testing.assert_array_equal(single.centre, [2.0, 2.0])
    assert np.isnan(single.low).all()


def test_ranks_share_ties_and_put_missing_values_last() -> None:
    values = np.array([[0.1, 0.2, np.nan], [0.1, 0.3, np.nan], [0.5, 0.1, 0.9], [0.4, np.nan, np.nan]])
    np.testing.assert_array_equal(ranks(values), [[1.5, 2, 3], [1.5, 3, 3], [4, 1, 1], [3, 4, 3]])
    over_time = ranks(np.stack([values, values[:, ::-1]], axis=-1))
    np.testing.assert_array_equal(over_time[..., 1], ranks(values)[:, ::-1])


# ---- speed-up ------------------------------------------------------------------------------------------------------


def test_speed_up_of_a_curve_that_runs_four_times_faster() -> None:
    grid = np.arange(1, 201, dtype=float)
    rng = np.random.default_rng(5)
    scale = rng.lognormal(0, 0.1, size=(20, 1))
    rival, method = 1 / (grid * scale), 1 / (4 * grid * scale)
    result = speed_up(method, rival, grid)
    assert (result.needed, result.rival_needed, result.spent) == (50, 200, 200)
    assert result.level == pytest.approx(rival[:, -1].mean())
    assert result.ratio == 4
    assert result.low == result.high == 4  # both curves share their noise, so every resample says 4
    shuffled = speed_up(method[::-1], rival, grid)
    assert shuffled.low is not None
    assert shuffled.high is not None
    assert 3 < shuffled.low < 4 < shuffled.high < 5
    assert result.text() == "4x [4, 4]"


def test_speed_up_does_not_count_that_the_rival_stood_still() -> None:
    grid = np.arange(1, 101, dtype=float)
    rival = np.where(grid < 20, 1.0, 0.5)[None].repeat(6, axis=0)
    method = np.where(grid < 10, 1.0, 0.5)[None].repeat(6, axis=0)
    result = speed_up(method, rival, grid)
    assert (result.needed, result.rival_needed, result.ratio) == (10, 20, 2)


def test_speed_up_that_is_not_reached_is_a_bound() -> None:
    grid = np.arange(1, 101, dtype=float)
    rival = np.where(grid < 80, 1.0, 0.5)[None].repeat(6, axis=0)
    method = np.full((6, 100), 0.6)
    result = speed_up(method, rival, grid)
    assert not result.reached
    assert result.needed is None
    assert result.ratio == pytest.approx(0.8)
    assert (result.low, result.high) == (0.0, pytest.approx(0.8))
    assert result.text() == "< 0.8x"
    # a method that spent a quarter says less about what it would have needed
    assert speed_up(method, rival, grid, spent=25).ratio == pytest.approx(80 / 25)


def test_speed_up_with_resamples_that_do_not_reach_has_no_lower_end() -> None:
    grid = np.arange(1, 11, dtype=float)
    rival = np.where(grid < 10, 1.0, 0.5)[None].repeat(10, axis=0)
    method = np.where(grid < 5, 1.0, np.where(np.arange(10)[:, None] < 3, 0.8, 0.3))
    result = speed_up(method, rival, grid)  # the mean is 0.45; with five unlucky seeds of ten it is 0.55
    assert result.reached
    assert result.ratio == 2
    assert result.low == 0.0
    assert result.high == pytest.approx(2)
    assert result.text() == "2x [0, 2]"


def test_speed_up_of_one_seed_has_no_interval() -> None:
    result = speed_up([[1.0, 0.5, 0.5]], [[1.0, 1.0, 0.5]], [1.0, 2.0, 3.0])
    assert (result.ratio, result.low, result.text()) == (1.5, None, "1.5x [one seed]")
    median = speed_up([[1.0, 0.5]] * 3, [[1.0, 0.5], [np.nan, 0.5], [1.0, 0.5]], [1.0, 2.0], "median")
    assert median.ratio == 1


# ---- tests ---------------------------------------------------------------------------------------------------------

# Hamilton depression scale before and after a tranquilizer, Hollander and Wolfe (1973); the example of R's wilcox.test
BEFORE = (1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30)
AFTER = (0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29)


def test_signed_rank_test_of_a_published_example() -> None:
    result = signed_rank_test(AFTER, BEFORE)
    assert result.p_value == pytest.approx(2 * 0.01953125)  # R: V = 40, one-sided p-value = 0.01953
    assert (result.n, result.n_equal) == (9, 0)
    assert result.share_better == pytest.approx(7 / 9)
    assert result.median_difference == pytest.approx(-0.49)
    assert result.shift == pytest.approx(-0.46)  # Hollander and Wolfe's example 3.3


def test_shift_and_interval_agree_with_the_test_that_they_invert() -> None:
    # all 2**n signs by brute force: shifts inside the interval are not rejected, those outside are
    difference = np.subtract(AFTER, BEFORE)
    result = signed_rank_test(AFTER, BEFORE)
    assert result.low is not None
    assert result.high is not None
    sums = np.array([sum(r for r, s in enumerate(signs, 1) if s) for signs in itertools.product((0, 1), repeat=9)])

    def p_value(shift: float) -> float:
        positive = stats.rankdata(np.abs(difference - shift))[difference > shift].sum()
        return float(2 * min((sums <= positive).mean(), (sums >= positive).mean()))

    for inside, outside in ((result.low + 1e-6, result.low - 1e-6), (result.high - 1e-6, result.high + 1e-6)):
        assert p_value(inside) > 0.05 >= p_value(outside)


@pytest.mark.parametrize("n", [10, 60])
def test_shift_interval_covers_the_truth_at_its_nominal_rate(n: int) -> None:
    rng, covered = np.random.default_rng(6), 0
    for _ in range(400):
        result = signed_rank_test(rng.normal(size=n) + 0.3, np.zeros(n))
        assert result.low is not None
        assert result.high is not None
        covered += result.low <= 0.3 <= result.high
    assert stats.binomtest(covered, 400, 0.955).pvalue > 1e-3  # the steps of an exact test: 95.1% and 95.2% at least


def test_equal_pairs_and_missing_values_of_the_signed_rank_test() -> None:
    same = signed_rank_test([0.1, 0.2], [0.1, 0.2])
    assert (same.p_value, same.n_equal, same.share_better, same.shift, same.low) == (1.0, 2, 0.0, 0.0, None)
    six = signed_rank_test([0, 0, 0, 0, 0, 0, 5], [1, 2, 3, 4, 5, 6, 5])
    assert six.p_value == pytest.approx(2 / 2**6)
    assert six.n_equal == 1
    failed = signed_rank_test([0.1, 0.2, 0.3, np.nan], [np.nan, np.nan, 0.2, np.nan])
    assert (failed.n, failed.n_equal, failed.share_better) == (4, 1, 0.5)
    assert failed.median_difference == pytest.approx(0.1)
    # two missing values of b are two wins of a, and the largest: signed ranks 2.5, 2.5 against 1
    assert failed.p_value == pytest.approx(stats.wilcoxon([-3, -3, 1]).pvalue)
    assert np.isnan(signed_rank_test([np.nan], [0.1]).shift)


def test_differences_that_differ_by_rounding_are_ties() -> None:
    # accuracies of 400 images: five differences of one image, three of one in the other direction
    a = np.array([364, 352, 341, 333, 371, 360, 349, 338])
    b = a + np.array([1, 1, 1, 1, 1, 1, 1, -1])
    counted, shares = signed_rank_test(a, b), signed_rank_test(a / 400, b / 400)
    assert len(set(np.abs(a / 400 - b / 400).tolist())) > 1  # what rounding makes of one image
    # 8 equal sizes: the sum of positive ranks is 4.5 times the number of positive signs, a sign test
    assert shares.p_value == counted.p_value == pytest.approx(2 * (1 + 8) / 2**8)
    assert signed_rank_test([0.1 + 0.2], [0.3]).n_equal == 1


@pytest.mark.parametrize("n", [2, 5, 8])
def test_signed_rank_p_value_is_that_of_all_signs(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(40):
        images = rng.integers(-4, 5, size=n)
        unequal = images[images != 0]
        ranks_of = stats.rankdata(np.abs(unequal))
        observed = abs(float((ranks_of * np.sign(unequal)).sum()))
        signs = itertools.product((-1, 1), repeat=len(unequal))
        expected = np.mean([abs(float((ranks_of * s).sum())) >= observed - 1e-9 for s in signs])
        base = rng.integers(300, 390, size=n)
        assert signed_rank_test((base + images) / 400, base / 400).p_value == pytest.approx(expected)


def test_holm_of_a_worked_example() -> None:
    # sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1 and never less than the one before
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert len(holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], alpha: float) -> None:
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    rejected = set()
    for step, index in enumerate(order):
        if p_values[index] * (len(p_values) - step) > alpha:
            break
        rejected.add(index)
    assert set(np.flatnonzero(holm(p_values) <= alpha)) == rejected


# AUC of C4.5 in four versions on 14 data sets, Demsar 2006, table 6
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.975, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
).T


def test_friedman_test_of_demsars_example() -> None:
    result = friedman_test(-DEMSAR)
    # he gives 3.143, 2.000, 2.893, 1.964, breaking the tie of "voting" by digits that he does not print
    np.testing.assert_allclose(result.average_ranks, [3.143, 2.000, 2.893 + 0.5 / 14, 1.964 - 0.5 / 14], atol=5e-4)
    assert result.n == 14
    assert result.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert friedman_test(-DEMSAR, alpha=0.1).critical_difference == pytest.approx(1.12, abs=5e-3)
    reference = stats.friedmanchisquare(*DEMSAR)
    f_statistic = 13 * reference.statistic / (14 * 3 - reference.statistic)
    assert result.p_value == pytest.approx(stats.f.sf(f_statistic, 3, 39))
    assert result.p_value < 0.05
    assert result.groups == ((3, 1, 2, 0),)  # "the post-hoc test is not powerful enough": 3.143 - 1.964 < 1.25


def test_critical_differences_are_those_of_demsars_table() -> None:
    # table 5 (a): q of the two-tailed Nemenyi test for 2 to 10 methods
    table = {
        0.05: (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164),
        0.10: (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920),
    }
    for alpha, qs in table.items():
        for k, q in enumerate(qs, start=2):
            expected = q * np.sqrt(k * (k + 1) / (6 * 25))
            assert critical_difference(k, 25, alpha) == pytest.approx(expected, rel=1e-3)
    assert critical_difference(1, 25) == 0.0


def test_groups_are_the_largest_sets_within_the_critical_difference() -> None:
    # five methods that always keep their order, 50 seeds: CD = 2.728 sqrt(30 / 300) = 0.863, so no two are alike
    order = np.arange(5.0)[:, None].repeat(50, axis=1)
    clear = friedman_test(order)
    assert clear.groups == ()
    assert clear.p_value == pytest.approx(math.factorial(5) ** -49.0)  # all seeds agree
    # 10 seeds: CD 1.93; neighbours cannot be told apart, others can
    few = friedman_test(order[[2, 0, 1, 4, 3], :10])
    assert few.groups == ((1, 2), (2, 0), (0, 4), (4, 3))
    np.testing.assert_array_equal(few.average_ranks, [3, 1, 2, 5, 4])
    alike = friedman_test(np.zeros((3, 8)))
    assert (alike.p_value, alike.groups) == (1.0, ((0, 1, 2),))
    alone = friedman_test(np.zeros((1, 8)))
    assert (alone.p_value, alone.groups, alone.critical_difference) == (None, (), 0.0)
    assert friedman_test(np.array([[1.0], [2.0]])).p_value is None


@pytest.mark.parametrize(("k", "n", "p_value"), [(3, 2, 1 / 6), (2, 3, 1 / 4), (4, 3, 1 / 576), (2, 40, 2.0**-39)])
def test_friedmans_p_value_is_exact_where_all_seeds_agree(k: int, n: int, p_value: float) -> None:
    found = friedman_test(np.arange(float(k))[:, None].repeat(n, axis=1))
    assert found.p_value == pytest.approx(p_value)
    assert found.smallest_p_value == pytest.approx(p_value)


def test_friedmans_p_value_is_that_of_the_published_table() -> None:
    # Hollander and Wolfe's table A.15 for k = 3 and n = 4: P(S >= 6.5) = 0.042, P(S >= 8) = 0.005
    def orders(*columns: str) -> np.ndarray:
        return np.array([[float(c.index(method)) for c in columns] for method in "abc"])

    for values, statistic, expected in (
        (orders("abc", "abc", "abc", "bac"), 6.5, 0.042),
        (orders("abc", "abc", "abc", "abc"), 8.0, 0.005),
        (orders("abc", "abc", "abc", "abc", "cab"), None, None),
    ):
        found = friedman_test(values)
        chi_square = stats.friedmanchisquare(*values).statistic
        assert found.p_value is not None
        if statistic is not None:
            assert chi_square == pytest.approx(statistic)
            assert found.p_value == pytest.approx(expected, abs=6e-4)
        each = [list(itertools.permutations(range(3)))] * values.shape[1]
        sums = np.array([np.sum(draw, axis=0) for draw in itertools.product(*each)])
        far = ((sums - values.shape[1]) ** 2).sum(axis=1) >= ((values.sum(axis=1) - values.shape[1]) ** 2).sum() - 1e-9
        assert found.p_value == pytest.approx(far.mean())


@pytest.mark.parametrize("n", [2, 5, 8, 20])
def test_false_alarms_are_at_most_nominal_at_every_number_of_seeds(n: int) -> None:
    rng = np.random.default_rng(n)
    studies = rng.integers(330, 370, size=(100, 4, n)) / 400  # with ties
    friedman = [friedman_test(study).p_value for study in studies]
    wilcoxon = [signed_rank_test(study[0], study[1]).p_value for study in studies]
    for p_values in (friedman, wilcoxon):
        alarms = sum(p is not None and p <= 0.05 for p in p_values)
        assert stats.binomtest(alarms, len(studies), 0.05, alternative="greater").pvalue > 1e-3


# ---- nothing is found between equals, but at the nominal rate -------------------------------------------------------

N_STUDIES = 500
N_METHODS, N_SEEDS = 5, 20


@pytest.fixture(scope="module")
def studies_of_equals() -> np.ndarray:
    """Final values of studies of five optimizers that all draw 30 families at random and keep the best: skewed, with
    what their seeds share (the same first draws)."""
    rng = np.random.default_rng(7)
    shared = rng.gamma(2.0, size=(N_STUDIES, 1, N_SEEDS, 5)).min(axis=-1)
    return np.minimum(shared, rng.gamma(2.0, size=(N_STUDIES, N_METHODS, N_SEEDS, 30)).min(axis=-1))


def is_nominal(found: int, rate: float = 0.05) -> bool:
    return bool(stats.binomtest(found, N_STUDIES, rate).pvalue > 1e-3)


def test_friedman_and_nemenyi_find_equals_different_at_their_nominal_rate(studies_of_equals: np.ndarray) -> None:
    tests = [friedman_test(study) for study in studies_of_equals]
    assert is_nominal(sum(test.p_value is not None and test.p_value < 0.05 for test in tests))
    # any pair at all: ties make it a little conservative
    apart = sum(np.ptp(test.average_ranks) >= test.critical_difference for test in tests)
    assert 0.02 < apart / N_STUDIES < 0.05 + 3 * np.sqrt(0.05 * 0.95 / N_STUDIES)


def test_signed_rank_test_and_holm_find_equals_different_at_their_nominal_rate(studies_of_equals: np.ndarray) -> None:
    p_values = np.array([[signed_rank_test(a, s[0]).p_value for a in s[1:]] for s in studies_of_equals])
    assert is_nominal(int((p_values[:, 0] <= 0.05).sum()), rate=0.0487)  # the exact test's step below 5% at n = 20
    uncorrected = (p_values <= 0.05).any(axis=1).mean()
    family_wise = (np.array([holm(row) for row in p_values]) <= 0.05).any(axis=1).mean()
    assert uncorrected > 0.1  # why the correction is needed
    # below 5% since the four tests share their reference
    assert 0.02 < family_wise < 0.05 + 3 * np.sqrt(0.05 * 0.95 / N_STUDIES)


def test_speed_up_between_equals_is_claimed_at_its_nominal_rate() -> None:
    rng = np.random.default_rng(8)
    grid = np.unique(np.geomspace(1, 60, 40).astype(int)).astype(float)
    claimed = covered = 0
    for _ in range(400):
        draws = rng.gamma(2.0, size=(2, 20, 60))
        method, rival = np.minimum.accumulate(draws, axis=-1)[..., grid.astype(int) - 1]
        result = speed_up(method, rival, grid, n_resamples=400)
        assert result.low is not None
        assert result.high is not None
        claimed += result.low > 1
        covered += result.low <= 1 <= result.high
    assert claimed / 400 < 0.05
    assert covered / 400 > 0.93


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        step_curve([1, 2], [1], [1])
    with pytest.raises(ValueError, match="must not descend"):
        step_curve([2, 1], [1, 1], [1])
    with pytest.raises(ValueError, match=r"shape \(\.\.\., seeds, grid\)"):
        bootstrap_band(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="'mean' or 'median'"):
        bootstrap_band(np.zeros((2, 3)), "mode")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="confidence must be in"):
        bootstrap_band(np.zeros((2, 3)), confidence=95)
    with pytest.raises(ValueError, match="with the same seeds"):
        speed_up(np.zeros((2, 3)), np.zeros((3, 3)), [1, 2, 3])
    with pytest.raises(ValueError, match="positive and ascending"):
        speed_up(np.zeros((2, 2)), np.zeros((2, 2)), [2, 1])
    with pytest.raises(ValueError, match="no final value"):
        speed_up([[1.0]], [[np.nan]], [1])
    with pytest.raises(ValueError, match="equal lengths"):
        signed_rank_test([1], [1, 2])
    with pytest.raises(ValueError, match="at least one pair"):
        signed_rank_test([], [])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        holm([0.5, np.nan])
    with pytest.raises(ValueError, match="without zeros"):
        friedman_test(np.zeros((2, 0)))
    with pytest.raises(ValueError, match="alpha must be in"):
        critical_difference(3, 10, alpha=5)
    with pytest.raises(ValueError, match="needs methods and blocks"):
        critical_difference(3, 0)
