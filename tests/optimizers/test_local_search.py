"""Local search against Algorithm 1 of White et al. on grids where every step can be written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from naslib_autokd.optimizers.local_search import LocalSearch
from naslib_autokd.records import Trial, content_digest

Cell = tuple[int, int]


@dataclass(frozen=True)
class Point:
    x: int
    y: int

    @property
    def digest(self) -> str:
        return content_digest([self.x, self.y])

    def to_dict(self) -> dict[str, Any]:
        return {"x": self.x, "y": self.y}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Point:
        return cls(**values)


class Grid:
    name = "grid"

    def __init__(self, size: int) -> None:
        self.size = size

    def configuration_space(self) -> Any:
        from ConfigSpace import ConfigurationSpace, Integer

        space = ConfigurationSpace()
        space.add(Integer("x", (0, self.size - 1)), Integer("y", (0, self.size - 1)))
        return space

    def candidate(self, values: Mapping[str, Any]) -> Point:
        return Point(**values)

    def values(self, candidate: Point) -> dict[str, Any]:
        return candidate.to_dict()


def search(size: int = 9, seed: int = 0, **options: Any) -> LocalSearch:
    return LocalSearch(Grid(size), seed=seed, max_budget_epochs=9, **options)


def run(optimizer: LocalSearch, n: int, cost: Callable[[Cell], float]) -> list[Cell]:
    cells = []
    for _ in range(n):
        proposal = optimizer.ask()
        cells.append(tuple(proposal.candidate.to_dict().values()))
        optimizer.tell(Trial.of(proposal, cost=cost(cells[-1])))
    return cells


def bowl(cell: Cell) -> float:
    """One optimum, in a corner of the middle; no two cells cost the same."""
    return (cell[0] - 5.1) ** 2 / 100 + (cell[1] - 3.2) ** 2 / 90


def around(cell: Cell, size: int = 9) -> set[Cell]:
    steps = [(cell[0] + i, cell[1] + j) for i, j in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    return {step for step in steps if min(step) >= 0 and max(step) < size}


@pytest.mark.parametrize("seed", range(5))
def test_all_neighbours_are_trained_and_the_best_is_next_until_none_is_better(seed: int) -> None:
    cells = run(search(seed=seed, n_initial=1, first_improvement=False), 60, bowl)
    centre, position, trained = cells[0], 1, {cells[0]}
    while True:
        new = around(centre) - trained
        assert set(cells[position : position + len(new)]) == new
        trained |= new
        position += len(new)
        best = min(around(centre) | {centre}, key=bowl)
        if best == centre:
            break
        centre = best
    assert centre == (5, 3)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_better_neighbour_is_the_next_centre(seed: int) -> None:
    cells = run(search(seed=seed, n_initial=1), 40, bowl)
    centre = cells[0]
    for cell in cells[1:]:
        if centre == (5, 3):
            break
        assert cell in around(centre)
        centre = min(centre, cell, key=bowl)
    assert centre == (5, 3)


def test_the_best_of_the_random_points_is_the_start() -> None:
    cells = run(search(n_initial=6), 7, bowl)
    assert cells[6] in around(min(cells[:6], key=bowl))


def test_a_local_optimum_is_left_by_a_restart_and_no_point_is_trained_twice_in_a_climb() -> None:
    def eggs(cell: Cell) -> float:
        return 0.5 + 0.4 * math.cos(1.7 * cell[0]) * math.cos(1.7 * cell[1]) + (cell[0] + cell[1]) / 1000

    optimizer = search(size=20, n_initial=2)
    cells = run(optimizer, 200, eggs)
    optima = [c for c in set(cells) if all(eggs(c) < eggs(n) for n in around(c, 20))]
    assert len(optima) > 3
    assert len(set(cells)) > 170  # a draw may meet a known point, a neighbour never does
    best = optimizer.incumbent()
    assert best is not None
    assert eggs(tuple(best.to_dict().values())) == min(eggs(cell) for cell in cells)


def test_a_space_that_was_searched_through_goes_on() -> None:
    assert set(run(search(size=2), 30, bowl)) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_several_workers_climb_together() -> None:
    optimizer = search(n_initial=2)
    in_flight = [optimizer.ask() for _ in range(4)]
    for _ in range(60):
        proposal = in_flight.pop(0)
        optimizer.tell(Trial.of(proposal, cost=bowl(tuple(proposal.candidate.to_dict().values()))))
        in_flight.append(optimizer.ask())
    best = optimizer.incumbent()
    assert best is not None
    assert best.to_dict() == {"x": 5, "y": 3}


@pytest.mark.parametrize("options", [{"n_initial": 0}, {"step": 0.0}, {"step": 1.5}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        search(**options)
