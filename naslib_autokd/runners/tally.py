"""What the trials of a search have cost so far, which of its budgets is spent, and when so much fails that it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from naslib_autokd.records import Trial

REFUSALS_PER_FAILURE = 10
"""So many families in a row whose trials are refused count as one failure."""


class TooManyFailures(RuntimeError):
    """So many trials failed in a row that something is wrong; the message says what most likely."""


def fraction_spent(budget: Mapping[str, Any], *, n_trials: int, student_epochs: float, wall_s: float) -> float:
    """Share of the budget that is spent, in [0, 1]: of the limit that is nearest."""
    spent = {"n_trials": n_trials, "student_epochs": student_epochs, "wall_s": wall_s}
    shares = [spent[name] / budget[name] for name in spent if budget.get(name)]
    return min(1.0, max(shares, default=0.0))


class Tally:
    """Counts the finished trials of a search.

    Args:
        budget: Limits by the names in `run_folder.BUDGETS`; None: without.
        full_epochs: Of a full training; only such a trial can reach the target.
        max_failures: So many failed trials in a row are too many; None: never.
    """

    def __init__(self, budget: Mapping[str, Any], full_epochs: int, max_failures: int | None = None) -> None:
        self.budget, self.full_epochs, self.max_failures = budget, full_epochs, max_failures
        self.trained = 0.0
        """Student-epochs of all trials."""
        self.n_trials = 0
        """Those that count for the budget: all that were not refused, for these cost no training."""
        self.n_failures = 0
        """Refusals included."""
        self.target_reached = False
        self._failed: list[Trial] = []
        self._refused: list[Trial] = []

    def add(self, trial: Trial) -> None:
        self.trained += trial.student_epochs
        self.n_trials += not trial.refused
        self.n_failures += not trial.succeeded
        if trial.refused:
            self._refused.append(trial)
            return
        self._refused.clear()
        if not trial.succeeded:
            self._failed.append(trial)
            return
        self._failed.clear()
        target = self.budget["target_cost"]
        self.target_reached |= target is not None and trial.budget_epochs >= self.full_epochs and trial.cost <= target

    def forgive(self) -> None:
        """Begin to count failures in a row anew: whoever continues a run has had a look."""
        self._failed.clear()
        self._refused.clear()

    def check_failures(self) -> None:
        """Raise TooManyFailures if too many trials failed, or families were refused, in a row."""
        if self.max_failures is None:
            return
        for failed, limit in ((self._failed, 1), (self._refused, REFUSALS_PER_FAILURE)):
            if len(failed) >= limit * self.max_failures:
                raise TooManyFailures(_likely_reason(failed))

    def spent_budget(self, n_in_flight: int, elapsed_s: float) -> str:
        """The budget that allows no further trial, by its name; empty if all do.

        That of student-epochs depends on the next proposal: `affords`.
        """
        n_trials, wall_s = self.budget["n_trials"], self.budget["wall_s"]
        if self.target_reached:
            return "target_cost"
        if n_trials is not None and self.n_trials + n_in_flight >= n_trials:
            return "n_trials"
        if wall_s is not None and elapsed_s >= wall_s:
            return "wall_s"
        return ""

    def affords(self, student_epochs: float) -> bool:
        """Whether so many student-epochs, of all that was trained, runs and comes next, are within the budget."""
        limit = self.budget["student_epochs"]
        return limit is None or student_epochs <= limit

    def fraction(self, student_epochs: float, elapsed_s: float) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        spent = fraction_spent(self.budget, n_trials=self.n_trials, student_epochs=student_epochs, wall_s=elapsed_s)
        return 1.0 if self.target_reached else spent


def _likely_reason(failed: Sequence[Trial]) -> str:
    (message, count), *_ = Counter(f"{trial.status}: {trial.message}" for trial in failed).most_common(1)
    return (
        f"{len(failed)} trials in a row failed, {count} of them with {message!r}; the search is stopped. "
        "Mend the reason and start the same command again, or raise the number of failures that is allowed"
    )
