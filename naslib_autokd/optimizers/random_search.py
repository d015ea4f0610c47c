"""Random search: draws from the space, every one trained in full. The baseline that a search has to beat."""

from __future__ import annotations

from typing import Any

from naslib_autokd.optimizers.full_budget import FullBudgetOptimizer, plain_values
from naslib_autokd.records import derive_seed


class RandomSearch(FullBudgetOptimizer):
    """Proposal ``number`` is a draw from the space's own distribution that depends on (seed, number) alone.

    `incumbent` is the candidate with the lowest observed cost: random search has no model to discount luck with.
    """

    def _next(self, number: int) -> dict[str, Any]:
        self._configurations.seed(derive_seed(self.seed, "candidate", number))
        return plain_values(self._configurations.sample_configuration())
