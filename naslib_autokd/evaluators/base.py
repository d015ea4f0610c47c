"""What an evaluator is; anything with this method can stand in for training (a table, a surrogate, a test double)."""

from __future__ import annotations

from typing import Protocol

from naslib_autokd.records import Proposal, Trial


class Evaluator(Protocol):
    """Answers one proposal with one trial."""

    def evaluate(self, proposal: Proposal) -> Trial:
        """Evaluate ``proposal.candidate`` at ``proposal.budget_epochs``.

        Never raises for what a student does (divergence, out of memory, time-out, a bug in its forward pass): that
        is a trial with a status and a message. Raises for what the caller does, such as a budget over the maximum.
        """
        ...
