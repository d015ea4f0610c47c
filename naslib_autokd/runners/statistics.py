"""Means, intervals and paired comparisons over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean with a Student-t confidence interval; ``low`` and ``high`` are None for a single value."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def percent(self) -> str:
        """``86.2 [84.1, 88.3]``, or ``86.2 [one seed]``."""
        if self.low is None or self.high is None:
            return f"{100 * self.mean:.1f} [one seed]"
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent values and its t interval.

    Raises:
        ValueError: If ``values`` is empty or ``confidence`` is not in (0, 1).
    """
    if len(values) == 0:
        raise ValueError("mean_interval needs at least one value, got none")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) == 1:
        return Interval(mean, None, None, 1)
    half = float(stats.t.ppf(0.5 + confidence / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return Interval(mean, mean - half, mean + half, len(array))


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
    if spread == 0.0:  # the t test is not defined: no spread, or one pair
        return PairedDifference(interval, None)
    return PairedDifference(interval, float(stats.ttest_rel(a, b).pvalue))
