"""Intervals and paired tests against known answers and their nominal coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from naslib_autokd.runners.statistics import mean_interval, paired_difference


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
    assert (interval.low, interval.high, interval.percent()) == (None, None, "50.0 [one seed]")


def test_paired_test_finds_nothing_between_equals_at_its_nominal_rate() -> None:
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(1000, 8))
    found = 0
    for row in shared:
        result = paired_difference((row + rng.normal(size=8)).tolist(), (row + rng.normal(size=8)).tolist())
        assert result.p_value is not None
        found += result.p_value < 0.05
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
