"""Intervals, anytime curves and tests over seeds: pure functions on arrays.

Curves are arrays ``(methods, seeds, grid)`` of something to be minimised (regret, error) on a common grid of what was
spent; nan means that a run has no incumbent there. Each function says what it makes of nan.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with a Student-t confidence interval; ``low`` and ``high`` are None where values show no spread."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def percent(self) -> str:
        """``86.2 [84.1, 88.3]``; ``86.2 [one value]`` or ``86.2 [2 equal]`` without an interval."""
        if self.low is None or self.high is None:
            return f"{100 * self.mean:.1f} [{'one value' if self.n == 1 else f'{self.n} equal'}]"
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


LEVEL = 0.05
"""Where p values count as differences."""

SHARE = (0.0, 1.0)
"""Bounds of an accuracy."""


def mean_interval(
    values: Sequence[float], confidence: float = 0.95, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Interval:
    """Mean of independent values and its t interval, as far as it lies in what the values can be.

    One value has no interval, nor have several equal ones: no spread among two or three students of 40 test images
    does not mean that there is none.

    Args:
        bounds: The least and the largest possible value (`SHARE` for accuracies).

    Raises:
        ValueError: If ``values`` is empty or ``confidence`` is not in (0, 1).
    """
    if len(values) == 0:
        raise ValueError("mean_interval needs at least one value, got none")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if np.ptp(array) <= 1e-12 * np.abs(array).max():
        return Interval(mean, None, None, len(array))
    half = float(stats.t.ppf(0.5 + confidence / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), len(array))


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95% interval of a share that was counted among n (Wilson 1927), such as an accuracy on n images."""
    found = stats.binomtest(round(share * n), n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def paired_shares(gained: int, lost: int, n: int) -> Interval:
    """Difference of two shares of the same n, such as accuracies on the same images, with its 95% normal interval.

    Args:
        gained: Counted by the first alone.
        lost: Counted by the second alone.
    """
    mean, half = (gained - lost) / n, 1.96 * math.sqrt(max(0.0, gained + lost - (gained - lost) ** 2 / n)) / n
    return Interval(mean, mean - half, mean + half, n)


def calibration_error(bins: Sequence[Mapping[str, Any]]) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over images (Guo et al. 2017,
    arXiv:1706.04599, equation 3); nan without images.

    Args:
        bins: Of the confidence, each with ``n`` images and the means ``confidence`` and ``accuracy``.
    """
    full = [bin for bin in bins if bin["n"]]
    distances = sum(bin["n"] * abs(bin["confidence"] - bin["accuracy"]) for bin in full)
    return float(distances / sum(bin["n"] for bin in full)) if full else math.nan


@dataclass(frozen=True)
class PairedDifference:
    """``a - b`` over matched seeds, with a two-sided paired t test (``p_value`` None below two pairs)."""

    difference: Interval
    p_value: float | None


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> PairedDifference:
    """Compare two methods on the same seeds.

    Raises:
        ValueError: If the lengths differ: pairs share a seed.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must have equal lengths, got {len(a)} and {len(b)}; match them by seed")
    differences = np.subtract(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))
    interval = mean_interval(differences.tolist(), confidence)
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    if spread < 1e-12:  # the t test is not defined: no spread but rounding, or one pair
        return PairedDifference(interval, None)
    return PairedDifference(interval, float(stats.ttest_rel(a, b).pvalue))


# ---- anytime curves of several runs; lower values are better everywhere below ------------------------------------


def step_curve(positions: ArrayLike, values: ArrayLike, grid: ArrayLike) -> FloatArray:
    """A run's values on a grid, as the right-continuous step function that an incumbent is.

    Args:
        positions: ``(points,)``, ascending: what was spent when the value changed (student-epochs, trials).
        values: ``(points,)``; nan stands for "no incumbent yet". Of points at one position the last counts.
        grid: ``(grid,)``, in any order.

    Returns:
        ``(grid,)``: the value at the last position that is not beyond the grid point; nan before the first position;
        after the last position the last value, since a run that has ended keeps what it found.

    Raises:
        ValueError: If the lengths differ or the positions descend.
    """
    x, y = np.asarray(positions, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"positions and values must be vectors of one length, got shapes {x.shape} and {y.shape}")
    if (np.diff(x) < 0).any():
        raise ValueError("positions must not descend: they are what a run had spent, in its order")
    index = np.searchsorted(x, np.asarray(grid, dtype=np.float64), side="right")
    return np.concatenate([[np.nan], y])[index]


@dataclass(frozen=True)
class Band:
    """A centre over seeds with its bootstrap interval, at each grid point: arrays of shape ``(..., grid)``.

    ``low`` and ``high`` are nan where there is no interval (one seed, or no centre).
    """

    centre: FloatArray
    low: FloatArray
    high: FloatArray
    n: int
    """Seeds."""


def bootstrap_band(
    curves: ArrayLike,
    statistic: Literal["mean", "median"] = "mean",
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Band:
    """Mean or median over seeds with percentile bootstrap intervals, pointwise.

    Args:
        curves: ``(..., seeds, grid)``. All leading entries (methods) are resampled by the same seeds: pairs stay pairs.
        statistic: The mean is nan where any seed is (the mean of those that already have an incumbent would be that of
            the lucky ones). The median takes nan for the worst value, and is nan where half of the seeds or more are;
            the upper end of its interval may be infinite.
        confidence: Nominal coverage. The percentiles are widened as Hesterberg (2015, section 5.3, "expanded
            percentile interval", doi:10.1080/00031305.2015.1089789) proposes: without that, intervals of the mean of
            n values are too short by sqrt((n - 1) / n) and by the t distribution. No resample leaves the range of the
            values, so below six seeds the coverage stays under 95% whatever the percentiles are.
        seed: Of the resampling: equal arguments give equal bands.

    Raises:
        ValueError: If there is no seed, the statistic is unknown or the confidence not in (0, 1).
    """
    array = np.asarray(curves, dtype=np.float64)
    if array.ndim < 2 or array.shape[-2] == 0:
        raise ValueError(f"curves must have the shape (..., seeds, grid) with at least one seed, got {array.shape}")
    if statistic not in ("mean", "median"):
        raise ValueError(f"statistic must be 'mean' or 'median', got {statistic!r}")
    n = array.shape[-2]
    tail = _tail(n, confidence)
    centre = _centre(array, statistic)
    if n == 1:
        nothing = np.full_like(centre, np.nan)
        return Band(centre, nothing, nothing.copy(), 1)
    rng = np.random.default_rng(seed)
    low, high = np.empty_like(centre), np.empty_like(centre)
    if statistic == "mean":
        counts = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64)
    else:
        indices = rng.integers(n, size=(n_resamples, n))
    # one method, some grid points at a time: all resamples of a study with 200 seeds would take gigabytes
    chunk = max(1, 10_000_000 // (n_resamples * n))
    for which in np.ndindex(array.shape[:-2]):
        for start in range(0, array.shape[-1], chunk):
            part = np.s_[start : start + chunk]
            values = array[which][:, part]
            draws = counts @ values / n if statistic == "mean" else _centre(values[indices], "median", keep_inf=True)
            # without interpolation: inf - inf is nan
            ends = np.quantile(draws, (tail, 1 - tail), axis=0, method="inverted_cdf")
            undefined = np.isnan(centre[which][part])
            low[which][part] = np.where(undefined, np.nan, ends[0])
            high[which][part] = np.where(undefined, np.nan, ends[1])
    return Band(centre, low, high, n)


def _tail(n: int, confidence: float) -> float:
    """The share of resamples beyond each end of an expanded percentile interval."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if n < 2:
        return 0.0
    return float(stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.5 + confidence / 2, n - 1)))


def _centre(values: FloatArray, statistic: str, keep_inf: bool = False) -> FloatArray:
    """Over the second last axis, the seeds."""
    if statistic == "mean":
        return np.asarray(values.mean(axis=-2))
    median = np.median(np.where(np.isnan(values), np.inf, values), axis=-2)
    return np.asarray(median if keep_inf else np.where(np.isinf(median), np.nan, median))


def ranks(values: ArrayLike) -> FloatArray:
    """Ranks of methods within each column: 1 is the lowest value, ties get their mean rank, nan is the worst.

    Args:
        values: ``(methods, ...)``, e.g. ``(methods, seeds)`` or ``(methods, seeds, grid)``; ranks have the same shape.
            The mean over seeds is the average rank (over time).
    """
    array = np.asarray(values, dtype=np.float64)
    return np.asarray(stats.rankdata(np.where(np.isnan(array), np.inf, array), axis=0), dtype=np.float64)


# ---- speed-up at equal quality -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpeedUp:
    """How many times less a method needed than a rival to reach the rival's final value."""

    level: float
    """The rival's final value."""
    needed: float | None
    """What the method had spent when it first was at the level; None if it never was."""
    rival_needed: float
    """What the rival had spent when it first was there: at most all, less if it stood still afterwards."""
    spent: float
    """All that the method spent."""
    ratio: float
    """``rival_needed / needed``; if the level was not reached, the bound ``rival_needed / spent`` that the ratio is
    below."""
    low: float | None
    """0 if so many resamples do not reach the level that nothing bounds the ratio from below; None for one seed."""
    high: float | None
    n: int
    """Paired seeds."""

    @property
    def reached(self) -> bool:
        return self.needed is not None

    def text(self) -> str:
        """``4.2x [2.1, 7.5]``, ``< 0.8x`` if the level was not reached, ``1.5x [one seed]``."""
        ratio = f"{self.ratio:.2g}x" if self.ratio < 9.95 else f"{self.ratio:.0f}x"
        if not self.reached:
            return f"< {ratio}"
        if self.low is None or self.high is None:
            return f"{ratio} [one seed]"
        low, high = (f"{end:.2g}" if end < 99.5 else f"{end:.0f}" for end in (self.low, self.high))
        return f"{ratio} [{low}, {high}]"


def speed_up(
    method: ArrayLike,
    rival: ArrayLike,
    grid: ArrayLike,
    statistic: Literal["mean", "median"] = "mean",
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    spent: float | None = None,
) -> SpeedUp:
    """What a method saves at the quality that its rival ends with.

    Both curves are means (medians) over seeds; each time is the first grid point at which a curve is at or below the
    rival's final value. For the rival itself that is often before its end, so standing still is not counted as need.
    The interval is of the percentile bootstrap over paired seeds, widened as in `bootstrap_band`; level and both times
    are found again in each resample. A resample that does not reach the level counts as the lowest ratio for the
    lower end, and with its bound for the upper end: the interval may be too wide by this, not too narrow.

    Args:
        method: ``(seeds, grid)``, lower is better; nan before a seed's first incumbent.
        rival: ``(seeds, grid)``, of the same seeds in the same order.
        grid: ``(grid,)``, ascending, positive: student-epochs or trials. It is the resolution of the answer.
        spent: Where the method's runs ended, if before the grid does.

    Raises:
        ValueError: If the shapes differ, the grid is not ascending, or the rival has no final value.
    """
    a, b = np.asarray(method, dtype=np.float64), np.asarray(rival, dtype=np.float64)
    x = np.asarray(grid, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or a.shape[1:] != x.shape or len(a) == 0:
        raise ValueError(
            f"speed_up needs curves of the shape (seeds, grid) with the same seeds, got {a.shape}, {b.shape} on a grid "
            f"of {x.shape}"
        )
    if (np.diff(x) <= 0).any() or x[0] <= 0:
        raise ValueError("the grid must be positive and ascending")
    n = len(a)
    end = float(x[-1] if spent is None else spent)
    mean_a, mean_b = _centre(a, statistic)[None], _centre(b, statistic)[None]
    if np.isnan(mean_b[0, -1]):
        raise ValueError("the rival has no final value: leave out seeds without an incumbent")
    needed, rival_needed = (float(times[0]) for times in _times_to_final(mean_a, mean_b, x))
    reached = np.isfinite(needed)
    low = high = None
    if n > 1:
        rng = np.random.default_rng(seed)
        if statistic == "mean":
            counts = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64)
            draws_a, draws_b = counts @ a / n, counts @ b / n
        else:
            indices = rng.integers(n, size=(n_resamples, n))
            draws_a, draws_b = (np.array([_centre(c[i], statistic) for i in indices]) for c in (a, b))
        times_a, times_b = _times_to_final(draws_a, draws_b, x)
        tail = _tail(n, confidence)
        lower = np.where(np.isfinite(times_a), times_b / times_a, 0.0)
        upper = times_b / np.minimum(times_a, end)
        low = float(np.quantile(lower, tail, method="inverted_cdf"))
        high = float(np.quantile(upper, 1 - tail, method="inverted_cdf"))
    return SpeedUp(
        level=float(mean_b[0, -1]),
        needed=needed if reached else None,
        rival_needed=rival_needed,
        spent=end,
        ratio=rival_needed / (needed if reached else end),
        low=low,
        high=high,
        n=n,
    )


def _times_to_final(a: FloatArray, b: FloatArray, grid: FloatArray) -> tuple[FloatArray, FloatArray]:
    """First grid points at which curves ``(resamples, grid)`` are at or below the last value of ``b``; inf if never."""
    # centres of equal values differ in the last digit when they are summed in another order
    level = b[:, -1:] + 1e-12
    answers = []
    for curve in (a, b):
        below = curve <= level  # nan is not
        answers.append(np.where(below.any(axis=1), grid[below.argmax(axis=1)], np.inf))
    return answers[0], answers[1]


# ---- tests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SignedRankTest:
    """Wilcoxon's signed-rank test of paired values ``a`` and ``b`` (lower is better), with the size of the effect."""

    n: int
    """Pairs."""
    n_equal: int
    """Pairs without a difference: the test leaves them out."""
    p_value: float
    """Two-sided; 1 if no pair differs."""
    share_better: float
    """Share of all pairs in which ``a`` is lower."""
    median_difference: float
    """Of ``a - b`` over pairs with two values, as is the shift; nan if there is none."""
    shift: float
    """Hodges and Lehmann's estimate of ``a - b``: the median of all averages of two differences."""
    low: float | None
    """Interval of the shift by inverting the test; None below six pairs, which cannot give 95%."""
    high: float | None


def signed_rank_test(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> SignedRankTest:
    """Compare two methods on the same seeds without assuming normal differences.

    Exact, also with ties: all signs of the observed mid-ranks (Hollander and Wolfe, 3.1). Differences that differ by
    nothing but rounding (0.91 - 0.90 and 0.61 - 0.60) are ties. A missing value (nan: a run without an incumbent) is
    worse than any other; two of them are equal.

    Raises:
        ValueError: If the lengths differ or there is no pair.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"paired values must be vectors of equal lengths, got {x.shape} and {y.shape}")
    if len(x) == 0:
        raise ValueError("signed_rank_test needs at least one pair, got none")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    both = ~np.isnan(x) & ~np.isnan(y)
    finite = x[both] - y[both]
    finite = _without_rounding(finite, float(np.abs([x[both], y[both]]).max(initial=0.0)))
    worst = 1.0 + 2.0 * float(np.abs(finite).max(initial=0.0))
    differences = worst * (np.isnan(x).astype(np.float64) - np.isnan(y))
    differences[both] = finite
    unequal = differences[differences != 0]
    shift, low, high = _hodges_lehmann(finite, confidence)
    return SignedRankTest(
        n=len(x),
        n_equal=len(x) - len(unequal),
        p_value=_signed_rank_p_value(unequal),
        share_better=float((differences < 0).mean()),
        median_difference=float(np.median(finite)) if len(finite) else float("nan"),
        shift=shift,
        low=low,
        high=high,
    )


def _without_rounding(differences: FloatArray, scale: float) -> FloatArray:
    """Differences of values of size ``scale``; sizes closer than its 12th digit become one, those near 0 become 0."""
    sizes = np.abs(differences)
    order = np.argsort(sizes, kind="stable")
    ascending = np.concatenate([[0.0], sizes[order]])
    new = np.diff(ascending) > 1e-12 * scale
    values = np.concatenate([[0.0], ascending[1:][new]])
    merged = np.empty_like(sizes)
    merged[order] = values[np.cumsum(new)]
    return np.copysign(merged, differences)


def _signed_rank_p_value(unequal: FloatArray) -> float:
    """Two-sided, exact: how often random signs put the sum of positive ranks as far from its mean; 1 without pairs."""
    doubled = np.rint(2 * stats.rankdata(np.abs(unequal))).astype(int)  # mid-ranks are multiples of a half
    distribution = _rank_sum_distribution(tuple(doubled.tolist()))
    observed = abs(2 * doubled[unequal > 0].sum() - doubled.sum())
    as_far = np.abs(2 * np.arange(len(distribution)) - doubled.sum()) >= observed
    return float(min(1.0, distribution[as_far].sum()))


@lru_cache(maxsize=64)
def _rank_sum_distribution(ranks: tuple[int, ...]) -> FloatArray:
    """Probabilities of the sums 0, 1, ... of positive ranks, where each rank is in the sum or not."""
    distribution = np.zeros(sum(ranks) + 1)
    distribution[0] = 1.0
    for rank in ranks:
        distribution[rank:] += distribution[:-rank].copy()
        distribution *= 0.5
    return distribution


def _hodges_lehmann(differences: FloatArray, confidence: float) -> tuple[float, float | None, float | None]:
    """Hollander and Wolfe, Nonparametric Statistical Methods, 3.2 and 3.3: estimate and interval by Walsh averages."""
    n = len(differences)
    if n == 0:
        return float("nan"), None, None
    rows, columns = np.triu_indices(n)
    averages = np.sort((differences[rows] + differences[columns]) / 2)
    estimate = float(np.median(averages))
    tail = (1 - confidence) / 2
    if n > 50:  # normal approximation of the sum of positive ranks
        mean, deviation = n * (n + 1) / 4, np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        cut = int(np.floor(mean + stats.norm.ppf(tail) * deviation))
    else:
        distribution = _rank_sum_distribution(tuple(range(1, n + 1)))
        # the largest sum with P(sum <= cut) <= tail, so cut + 1 sums are that improbable
        cut = int(np.searchsorted(np.cumsum(distribution), tail * (1 + 1e-9), side="right")) - 1
    if cut < 0:
        return estimate, None, None
    return estimate, float(averages[cut]), float(averages[-1 - cut])


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p values, in the given order: reject those at or below the family-wise level.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979).

    Raises:
        ValueError: If a value is not in [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p values must be a vector of numbers in [0, 1], got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def holm_of_known(p_values: Sequence[float | None]) -> list[float | None]:
    """`holm` of those that are known; None of the others."""
    adjusted = iter(holm([p for p in p_values if p is not None]).tolist())
    return [None if p is None else next(adjusted) for p in p_values]


@dataclass(frozen=True)
class FriedmanTest:
    """Friedman's test of several methods on the same seeds, with Nemenyi's critical difference."""

    average_ranks: FloatArray
    """``(methods,)``, 1 is the best."""
    n: int
    """Seeds."""
    p_value: float | None
    """None for one method or one seed."""
    smallest_p_value: float
    """What the p value would be if all seeds agreed: where it is above the level, ranks say nothing."""
    critical_difference: float
    """Average ranks that differ by less cannot be told apart."""
    groups: tuple[tuple[int, ...], ...]
    """Largest sets of two or more methods (indices, best first) that cannot be told apart."""


def friedman_test(values: ArrayLike, alpha: float = 0.05) -> FriedmanTest:
    """Are some of the methods better than others, and which cannot be told apart?

    The p value is the exact one of the permutations within each seed where those are at most 50,000 (2 seeds of 7
    methods, 6 of 3, 16 of 2), of 10,000 random ones below 10 seeds, and that of Iman and Davenport's F statistic, with
    the correction for ties, above; never less than all permutations can give.

    Args:
        values: ``(methods, seeds)``, lower is better; nan (no incumbent) is the worst.
        alpha: Family-wise level of the critical difference.

    Raises:
        ValueError: If there is no method or no seed, or alpha is not in (0, 1).

    Source: J. Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006), section 3.2.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"values must have the shape (methods, seeds) without zeros, got {array.shape}")
    k, n = array.shape
    ranked = ranks(array)
    average = ranked.mean(axis=1)
    smallest = float(math.factorial(k)) ** (1 - n)
    p_value = max(_friedman_p_value(ranked), smallest) if k > 1 and n > 1 else None
    difference = critical_difference(k, n, alpha)
    order = np.argsort(average, kind="stable")
    groups: list[tuple[int, ...]] = []
    last = 0  # the rank order's index after the end of the group before
    for start in range(k):
        end = start + int((average[order[start:]] - average[order[start]] < difference).sum())
        if end > max(last, start + 1):
            groups.append(tuple(int(i) for i in order[start:end]))
        last = max(last, end)
    return FriedmanTest(average, n, p_value, smallest, difference, tuple(groups))


def _friedman_p_value(ranked: FloatArray) -> float:
    """Of ranks ``(methods, seeds)``; the first seed's stay, since the statistic does not know the methods' names."""
    k, n = ranked.shape
    middle = (k + 1) / 2
    spread = float(((ranked - middle) ** 2).sum()) / (n * (k - 1))  # k (k + 1) / 12 without ties
    if spread == 0:
        return 1.0
    orders = math.factorial(k) ** (n - 1)
    if orders > 50_000 and n >= 10:
        chi_square = float(((ranked.sum(axis=1) - n * middle) ** 2).sum()) / (n * spread)
        rest = n * (k - 1) - chi_square
        return float(stats.f.sf((n - 1) * chi_square / rest, k - 1, (k - 1) * (n - 1))) if rest > 1e-9 else 0.0
    if orders <= 50_000:
        sums = ranked[:, 0][None]
        for seed in range(1, n):
            permuted = np.array(list(itertools.permutations(ranked[:, seed])))
            sums = (sums[:, None] + permuted[None]).reshape(-1, k)
        extra = 0
    else:
        rng = np.random.default_rng(0)
        sums = rng.permuted(np.broadcast_to(ranked, (10_000, k, n)), axis=1).sum(axis=2)
        extra = 1  # the observed order is one of the permutations
    observed = ((ranked.sum(axis=1) - n * middle) ** 2).sum()
    as_far = (((sums - n * middle) ** 2).sum(axis=1) >= observed - 1e-9).sum() + extra
    return float(as_far / (len(sums) + extra))


@lru_cache
def critical_difference(n_methods: int, n_blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's: average ranks of two of ``n_methods`` over ``n_blocks`` that differ by this are different (at alpha).

    ``q_alpha * sqrt(k (k + 1) / (6 N))``, with q_alpha the studentized range over sqrt(2). 0 for one method.

    Raises:
        ValueError: If a number is below 1 or alpha is not in (0, 1).

    Source: Demsar 2006, section 3.2.2 and table 5.
    """
    if n_methods < 1 or n_blocks < 1:
        raise ValueError(f"critical_difference needs methods and blocks, got {n_methods} and {n_blocks}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    if n_methods == 1:
        return 0.0
    q = float(stats.studentized_range.ppf(1 - alpha, n_methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_blocks)))
