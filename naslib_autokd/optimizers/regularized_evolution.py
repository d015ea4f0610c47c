"""Regularized (aging) evolution: tournaments in a population from which the oldest dies, however good it is.

Source: Real et al. 2019, "Regularized Evolution for Image Classifier Architecture Search" (AAAI, arXiv:1802.01548),
Algorithm 1. A mutation changes one active hyperparameter to another value, drawn uniformly, as the paper's mutations
redraw one operation or one connection.

Departures: a child that was asked for before is mutated anew (`FRESH_CHILDREN` attempts), since the paper's space is
far too large for that to happen. With several workers the tournament is held among those who have come back, and age
counts from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from naslib_autokd.optimizers.base import SearchSpaceLike
from naslib_autokd.optimizers.full_budget import Evaluated, FullBudgetOptimizer
from naslib_autokd.optimizers.moves import Moves

FRESH_CHILDREN = 20


class RegularizedEvolution(FullBudgetOptimizer):
    """Aging evolution at the full budget.

    Its options, besides the arguments of every `FullBudgetOptimizer`:

    Args:
        population_size: P of the paper, which takes 100 for 20,000 trainings; here for 60 to 500.
        sample_size: S of the paper (25 there): the members drawn, with replacement, into a tournament. On functions A,
            B and hnag of ``benchmarks/optimizers.py`` 10 of 20 was as good as any of six pairs, after 60 and 500.

    Raises:
        ValueError: If a budget is not possible or a size not a whole number of at least 1.
    """

    def __init__(
        self, space: SearchSpaceLike, *, population_size: int = 20, sample_size: int = 10, **common: Any
    ) -> None:
        super().__init__(space, **common)
        for name, value in (("population_size", population_size), ("sample_size", sample_size)):
            if value != int(value) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
        self.population_size, self.sample_size = int(population_size), int(sample_size)
        self.population: deque[Evaluated] = deque(maxlen=self.population_size)
        """Oldest first; a full one drops its first member when another comes."""
        self._moves = Moves(self._configurations)
        self._asked_for: set[tuple[Any, ...]] = set()

    def _next(self, number: int) -> Mapping[str, Any]:
        rng = self._rng(number)
        if not self.population or len(self.population) + len(self._in_flight) < self.population_size:
            point = self._moves.draw(rng)
        else:
            sample = rng.integers(len(self.population), size=self.sample_size)
            parent = min((self.population[i] for i in sample), key=lambda member: member.cost)
            for _ in range(FRESH_CHILDREN):
                point = self._moves.mutated(parent.values, rng)
                if self._moves.key(point) not in self._asked_for:
                    break
        self._asked_for.add(self._moves.key(point))
        return point

    def _learn(self, result: Evaluated, number: int | None) -> None:
        self.population.append(result)
