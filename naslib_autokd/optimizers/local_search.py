"""Local search: climb from neighbour to neighbour, and start anew at a local optimum.

Source: White et al. 2021, "Exploring the Loss Landscape in Neural Architecture Search" (UAI, arXiv:2005.02960; first
called "Local Search is State of the Art for NAS Benchmarks"), Algorithm 1, with the variants of the authors' code: the
best of several random points as a start, and moving to the first neighbour that is better.

A neighbour differs in one active hyperparameter: another item of a categorical, the next item of an ordinal, and of a
number, which the paper's spaces do not have, ``step`` of its range up or down on its own scale (an integer of a small
range by 1). The neighbours are taken in random order. As in the paper a point is trained once: that it was lucky is
not found out, and such a point passes for a local optimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from naslib_autokd.optimizers.base import SearchSpaceLike
from naslib_autokd.optimizers.full_budget import Evaluated, FullBudgetOptimizer
from naslib_autokd.optimizers.moves import Moves, Values


class LocalSearch(FullBudgetOptimizer):
    """Hill climbing with restarts at the full budget.

    Its options, besides the arguments of every `FullBudgetOptimizer`:

    Args:
        n_initial: Random points of which the best is a start, and again at each restart.
        first_improvement: Move to the first neighbour that is better; False: train all neighbours, then move to the
            best (Algorithm 1).
        step: Share of its range by which a number is moved, in (0, 1].

    Raises:
        ValueError: If a budget is not possible or an option outside its range.
    """

    def __init__(
        self,
        space: SearchSpaceLike,
        *,
        n_initial: int = 10,
        first_improvement: bool = True,
        step: float = 0.2,
        **common: Any,
    ) -> None:
        super().__init__(space, **common)
        if n_initial != int(n_initial) or n_initial < 1:
            raise ValueError(f"n_initial must be a whole number of at least 1, got {n_initial}")
        if not 0.0 < step <= 1.0:
            raise ValueError(f"step must be in (0, 1], got {step}")
        self.n_initial, self.first_improvement, self.step = int(n_initial), first_improvement, step
        self.centre: Evaluated | None = None
        """Whose neighbours are being trained; None while starts are drawn."""
        self._best: Evaluated | None = None  # better than the centre, the best of those
        self._queue: list[Values] = []  # neighbours of the centre that were never asked for
        self._starts: list[Evaluated] = []  # for the next start
        self._is_start: set[int] = set()  # proposals in flight that are draws, not neighbours
        self._known: dict[tuple[Any, ...], float | None] = {}  # cost of every point asked or told; None: not yet
        self._moves = Moves(self._configurations)

    def _next(self, number: int) -> Mapping[str, Any]:
        rng = self._rng(number)
        while not self._queue:
            # with several workers some neighbours may be out still: they can improve on the next centre as well
            if self._best is not None:
                centre = self._best
            elif len(self._starts) >= self.n_initial:
                centre = min(self._starts, key=lambda start: start.cost)
                self._starts.clear()
            else:
                self.centre = None  # a local optimum, or no start yet
                break
            self._move(centre, rng)
        if self._queue:
            point = self._queue.pop()
        else:
            point = self._moves.draw(rng)
            self._is_start.add(number)
        self._known.setdefault(self._moves.key(point), None)
        return point

    def _move(self, centre: Evaluated, rng: Any) -> None:
        self.centre, self._best = centre, None
        fresh = []
        for point in self._moves.neighbours(centre.values, rng, self.step):
            key = self._moves.key(point)
            if key not in self._known:
                fresh.append(point)
                continue
            cost = self._known[key]  # trained before, from another side: looked up as in the paper
            if cost is not None and cost < (self._best or centre).cost:
                self._best = Evaluated(cost, point)
        self._queue = [fresh[i] for i in rng.permutation(len(fresh))]
        if self._best is not None and self.first_improvement:
            self._queue.clear()

    def _learn(self, result: Evaluated, number: int | None) -> None:
        self._known[self._moves.key(result.values)] = result.cost
        is_start = number is None or number in self._is_start
        self._is_start.discard(-1 if number is None else number)
        if self.centre is not None and result.cost < (self._best or self.centre).cost:
            self._best = result
            if self.first_improvement:
                self._queue.clear()
        elif is_start or self.centre is None:
            self._starts.append(result)
