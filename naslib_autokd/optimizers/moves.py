"""Points of a ConfigSpace as plain values, and moves between them, for the optimizers without a model.

ConfigSpace's own objects cost 0.1 to 1 ms each (a neighbourhood of 38 points 0.7 ms); plain values cost microseconds,
and a candidate made from them is the same in every process. A *position* is where a number lies in its range, in
[0, 1] on the hyperparameter's scale (the logarithm's, if it has one); an integer is the middle of its cell.
Conditions and forbidden clauses hold in everything that leaves this module. Priors do not act.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ConfigSpace.conditions import Conjunction, OrConjunction
from ConfigSpace.hyperparameters import (
    CategoricalHyperparameter,
    Constant,
    IntegerHyperparameter,
    OrdinalHyperparameter,
)

from naslib_autokd.search_spaces import ListsPoints

Values = dict[str, Any]
"""Values of the active hyperparameters, parents before their children."""

ATTEMPTS = 1000
"""Draws before a space is taken to have no legal point there."""


SMALL_RANGE = 20
"""Integers of up to so many values are moved by one; in steps of two half of them could not be reached."""


@dataclass(frozen=True)
class Choice:
    """A categorical, an ordinal or a constant."""

    items: tuple[Any, ...]
    ordered: bool = False

    @property
    def n_values(self) -> int:
        return len(self.items)

    def draw(self, rng: np.random.Generator) -> Any:
        return self.items[int(rng.integers(len(self.items)))]

    def draw_other(self, value: Any, rng: np.random.Generator) -> Any:
        """Uniformly among the others; there must be one."""
        index = int(rng.integers(len(self.items) - 1))
        return self.items[index + (index >= self.items.index(value))]

    def key(self, value: Any) -> Any:
        return value

    def adjacent(self, value: Any, step: float) -> list[Any]:
        """All other items; of an ordinal the next lower and the next higher one."""
        if not self.ordered:
            return [item for item in self.items if item != value]
        i = self.items.index(value)
        return [self.items[j] for j in (i - 1, i + 1) if 0 <= j < len(self.items)]


@dataclass(frozen=True)
class Number:
    """A float or an integer between two bounds (both included)."""

    lower: float
    upper: float
    integer: bool = False
    log: bool = False

    @property
    def n_values(self) -> float:
        return self.upper - self.lower + 1 if self.integer else math.inf

    def _ends(self) -> tuple[float, float]:
        pad = 0.5 if self.integer else 0.0
        low, high = self.lower - pad, self.upper + pad
        return (math.log(low), math.log(high)) if self.log else (low, high)

    def at(self, position: float) -> Any:
        low, high = self._ends()
        value = low + position * (high - low)
        if self.log:
            value = math.exp(value)
        value = min(max(value, self.lower), self.upper)  # rounding may leave the range by an ulp
        return min(max(round(value), int(self.lower)), int(self.upper)) if self.integer else value

    def position(self, value: Any) -> float:
        low, high = self._ends()
        return ((math.log(value) if self.log else value) - low) / (high - low)

    def draw(self, rng: np.random.Generator) -> Any:
        return self.at(rng.random())

    def draw_other(self, value: Any, rng: np.random.Generator) -> Any:
        """A draw that is not ``value``; there must be one."""
        other = value
        while other == value:
            other = self.draw(rng)
        return other

    def key(self, value: Any) -> Any:
        return value if self.integer else round(self.position(value), 6)

    def adjacent(self, value: Any, step: float) -> list[Any]:
        """``step`` up and down in position; the next integers, if there are at most `SMALL_RANGE`.

        One at its bound has one neighbour only.
        """
        found = []
        for sign in (-1, 1):
            if self.n_values <= SMALL_RANGE:
                moved = min(max(value + sign, self.lower), self.upper)
            else:
                moved = self.at(min(max(self.position(value) + sign * step, 0.0), 1.0))
            if self.key(moved) != self.key(value):
                found.append(moved)
        return found


class Moves:
    """Draws, mutations and neighbourhoods in a ConfigSpace.

    Args:
        configurations: A ``ConfigSpace.ConfigurationSpace``. It is only read, its random state is left alone. One
            of a table (``search_spaces.table``) is drawn from by row, and a move goes to the nearest row.
    """

    def __init__(self, configurations: Any) -> None:
        self.dimensions: dict[str, Choice | Number] = {
            name: _dimension(hyperparameter) for name, hyperparameter in configurations.items()
        }
        """By name, parents before their children (ConfigSpace's order)."""
        self._conditions = {name: configurations.parent_conditions_of[name] for name in configurations}
        self._clauses = list(configurations.forbidden_clauses)
        self._table = configurations if isinstance(configurations, ListsPoints) else None

    def is_active(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether ``name`` has a value, given those of its parents."""
        return all(_is_satisfied(condition, values) for condition in self._conditions[name])

    def is_forbidden(self, values: Mapping[str, Any]) -> bool:
        return any(clause.is_forbidden_value(values) for clause in self._clauses)

    def completed(self, values: Mapping[str, Any], rng: np.random.Generator) -> Values:
        """The point with these values where they are active; what became active beside them is drawn."""
        point: Values = {}
        for name, dimension in self.dimensions.items():
            if self.is_active(name, point):
                point[name] = values[name] if name in values else dimension.draw(rng)
        return point

    def _moved(self, values: Mapping[str, Any], name: str, value: Any, rng: np.random.Generator) -> Values:
        """``values`` with another value of one active hyperparameter; in a table the nearest row that has it."""
        if self._table is not None:
            row: Values = self._table.nearest_row({**values, name: value}, name)
            return row
        return self.completed({**values, name: value}, rng)

    def draw(self, rng: np.random.Generator) -> Values:
        """A legal point, every hyperparameter uniform on its scale.

        Raises:
            RuntimeError: If `ATTEMPTS` draws were all forbidden.
        """
        if self._table is not None:
            row: Values = self._table.draw_row(rng)
            return row
        for _ in range(ATTEMPTS):
            point = self.completed({}, rng)
            if not self.is_forbidden(point):
                return point
        raise RuntimeError(f"no legal point in {ATTEMPTS} draws: the forbidden clauses leave (almost) nothing")

    def mutated(self, values: Mapping[str, Any], rng: np.random.Generator) -> Values:
        """``values`` with one active hyperparameter, chosen uniformly, at another value, drawn uniformly.

        A point where no single change is legal is answered with a draw from the whole space.
        """
        names = [name for name in values if self.dimensions[name].n_values > 1]
        for _ in range(ATTEMPTS if names else 0):
            name = names[int(rng.integers(len(names)))]
            point = self._moved(values, name, self.dimensions[name].draw_other(values[name], rng), rng)
            if not self.is_forbidden(point):
                return point
        return self.draw(rng)

    def neighbours(self, values: Mapping[str, Any], rng: np.random.Generator, step: float) -> Iterator[Values]:
        """All legal points that differ in one active hyperparameter, in the space's order.

        A categorical takes each other item, an ordinal the next ones, a number those ``step`` away in position
        (`Number.adjacent`). Hyperparameters that become active by the change are drawn.
        """
        for name, value in values.items():
            for other in self.dimensions[name].adjacent(value, step):
                point = self._moved(values, name, other, rng)
                if not self.is_forbidden(point):
                    yield point

    def key(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Equal for equal points, positions rounded to 1e-6: a step up and one down lead back."""
        return tuple((name, self.dimensions[name].key(value)) for name, value in values.items())


def _is_satisfied(condition: Any, values: Mapping[str, Any]) -> bool:
    """ConfigSpace's ``satisfied_by_value``, which raises if the parent is inactive itself; here it is not satisfied."""
    if isinstance(condition, Conjunction):
        parts = (_is_satisfied(part, values) for part in condition.components)
        return any(parts) if isinstance(condition, OrConjunction) else all(parts)
    return condition.parent.name in values and bool(condition.satisfied_by_value(values))


def _dimension(hyperparameter: Any) -> Choice | Number:
    def plain(value: Any) -> Any:
        return value.item() if isinstance(value, np.generic) else value

    if isinstance(hyperparameter, CategoricalHyperparameter):
        return Choice(tuple(plain(item) for item in hyperparameter.choices))
    if isinstance(hyperparameter, OrdinalHyperparameter):
        return Choice(tuple(plain(item) for item in hyperparameter.sequence), ordered=True)
    if isinstance(hyperparameter, Constant):
        return Choice((plain(hyperparameter.value),))
    integer = isinstance(hyperparameter, IntegerHyperparameter)
    return Number(plain(hyperparameter.lower), plain(hyperparameter.upper), integer, bool(hyperparameter.log))
