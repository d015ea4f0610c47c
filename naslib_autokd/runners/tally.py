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


def fraction_spent(budget: Mapping[str, Any], **spent: float) -> float:
    """Share of the budget that is spent (by the names of budgets), in [0, 1]: of the limit that is nearest."""
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
        self.training_seconds = 0.0
        """Modelled CPU seconds of all trials that have any."""
        self.n_trials = 0
        """Those that count for the budget: all that were not refused, for these cost no training."""
        self.n_failures = 0
        self.n_refused = 0
        self.target_reached = False
        self._failed: list[Trial] = []
        self._refused: list[Trial] = []

    def add(self, trial: Trial) -> None:
        self.trained += trial.student_epochs
        self.training_seconds += trial.training_seconds or 0.0
        self.n_trials += not trial.refused
        self.n_failures += not (trial.succeeded or trial.refused)
        self.n_refused += trial.refused
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

        Those of student-epochs and of training seconds depend on the next proposal: `unaffordable`.
        """
        n_trials, wall_s = self.budget["n_trials"], self.budget["wall_s"]
        if self.target_reached:
            return "target_cost"
        if n_trials is not None and self.n_trials + n_in_flight >= n_trials:
            return "n_trials"
        if wall_s is not None and elapsed_s >= wall_s:
            return "wall_s"
        return ""

    def unaffordable(self, **spent: float) -> str:
        """The budget (``student_epochs``, ``training_seconds``) that all that was trained, runs and comes next would
        exceed, by its name; empty if none."""
        return next((name for name in spent if (limit := self.budget.get(name)) and spent[name] > limit), "")

    def fraction(self, **spent: float) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        return 1.0 if self.target_reached else fraction_spent(self.budget, n_trials=self.n_trials, **spent)


def _likely_reason(failed: Sequence[Trial]) -> str:
    (message, count), *_ = Counter(f"{trial.status}: {trial.message}" for trial in failed).most_common(1)
    return (
        f"{len(failed)} trials in a row failed, {count} of them with {message!r}; the search is stopped. "
        "Mend the reason and start the same command again, or raise the number of failures that is allowed"
    )
