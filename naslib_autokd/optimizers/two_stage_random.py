"""Two-stage random search: many draws at the lowest budget, the best few of them in full.

It has no model and one decision, how much of the budget the full trainings get, and is what every multi-fidelity
method has to beat: on NAS-Bench-201 (CIFAR-100, docs/nasbench201.md) it is as good as random search with 13 times its
budget.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

from naslib_autokd.optimizers.base import SearchSpaceLike
from naslib_autokd.optimizers.full_budget import Evaluated, FullBudgetOptimizer, plain_values
from naslib_autokd.records import Proposal, derive_seed

ATTEMPTS = 20
"""Draws that may fall on points which were drawn before; then a small space is taken to be used up."""


class TwoStageRandom(FullBudgetOptimizer):
    """Random draws at ``min_budget_epochs``; then full trainings of the best, in the order of their costs.

    The numbers of both follow from ``total_budget_epochs``: at the cost of 30 full trainings of 200 epochs, draws of 12
    epochs are 416 and full trainings 5. Without a total the two take turns at the same ratio. With one budget it is
    random search.

    Args:
        space: Search space.
        seed: Seed of the run.
        max_budget_epochs: Full training.
        min_budget_epochs: Epochs of the first stage.
        total_budget_epochs: Student-epochs of the whole run.
        evaluator_budgets: What the evaluator answers for; the first stage takes the lowest that is allowed.
        full_share: Share of the total for full trainings, in (0, 1).

    Raises:
        ValueError: If a budget or the share is not possible.
    """

    def __init__(
        self,
        space: SearchSpaceLike,
        *,
        seed: int = 0,
        max_budget_epochs: int,
        min_budget_epochs: int = 1,
        total_budget_epochs: float | None = None,
        evaluator_budgets: Sequence[int] | None = None,
        full_share: float = 1 / 6,
    ) -> None:
        super().__init__(
            space,
            seed=seed,
            max_budget_epochs=max_budget_epochs,
            min_budget_epochs=min_budget_epochs,
            total_budget_epochs=total_budget_epochs,
        )
        if not 0.0 < full_share < 1.0:
            raise ValueError(f"full_share must be between 0 and 1, got {full_share}")
        allowed = [int(each) for each in evaluator_budgets or () if min_budget_epochs <= each <= max_budget_epochs]
        self.min_budget_epochs = min(allowed, default=int(min_budget_epochs))
        self.full_share = full_share
        self.first_stage_epochs: float | None = None
        """Student-epochs for the first stage; None: the stages take turns."""
        if total_budget_epochs is not None:
            n_full = max(1, round(full_share * total_budget_epochs / self.max_budget_epochs))
            self.first_stage_epochs = total_budget_epochs - n_full * self.max_budget_epochs
        self._one_stage = self.min_budget_epochs == self.max_budget_epochs or (
            self.first_stage_epochs is not None and self.first_stage_epochs < self.min_budget_epochs
        )
        self._spent = {self.min_budget_epochs: 0, self.max_budget_epochs: 0}
        self._ranked: list[tuple[float, int, Mapping[str, Any]]] = []  # cost, number, values: a heap
        self._drawn: set[str] = set()
        self._trained: set[str] = set()  # in full

    def ask(self) -> Proposal:
        best = self._best_of_first_stage() if self._full_is_due() else None
        full = best is not None or self._one_stage
        values = self._next(self._asked) if best is None else best
        proposal = self._proposed(values, self.max_budget_epochs if full else self.min_budget_epochs)
        self._spent[proposal.budget_epochs] += proposal.budget_epochs
        self._drawn.add(proposal.candidate.digest)
        if full:
            self._trained.add(proposal.candidate.digest)
        return proposal

    def _full_is_due(self) -> bool:
        first, full = self._spent[self.min_budget_epochs], self._spent[self.max_budget_epochs]
        if self.first_stage_epochs is not None:
            return first + self.min_budget_epochs > self.first_stage_epochs
        return first * self.full_share >= (1 - self.full_share) * (full + self.max_budget_epochs)

    def _best_of_first_stage(self) -> Mapping[str, Any] | None:
        """The best that was not trained in full; None while nothing is known (several workers)."""
        while self._ranked:
            values = heapq.heappop(self._ranked)[2]
            if self.space.candidate(values).digest not in self._trained:
                return values
        return None

    def _next(self, number: int) -> dict[str, Any]:
        self._configurations.seed(derive_seed(self.seed, "candidate", number))
        for _ in range(ATTEMPTS):
            values = plain_values(self._configurations.sample_configuration())
            if self.space.candidate(values).digest not in self._drawn:
                break
        return values

    def _learn(self, result: Evaluated, number: int | None) -> None:
        if number is not None and result.cost < math.inf:
            heapq.heappush(self._ranked, (result.cost, number, result.values))
