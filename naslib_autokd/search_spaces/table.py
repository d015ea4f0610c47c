"""The rows of a table as a search space: what somebody has trained is all that can be proposed.

A point is an architecture and a KD objective that occur together in the table. Each column is a hyperparameter:
numbers are ordered values (the ones that occur; half-way between two neighbours counts the same everywhere), text is a
category. The ConfigSpace has more points than the table has rows, so three things keep a search on the table:

* `TableSpace.candidate` answers with the nearest row (`TableSpace`), and `TableSpace.values` with that row's own
  values, so that an optimizer learns from what was really evaluated;
* the ConfigSpace draws rows, each with the same probability, and not points between them; it lists them
  (``legal_vectors``), so that a model can judge all of them instead of climbing between them;
* a move from row to row changes a column and goes to the nearest row that has the new value
  (`RowsConfigurationSpace.nearest_row`); snapping alone would lead most moves back to where they began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from ConfigSpace import Categorical, Configuration, ConfigurationSpace, Constant
from numpy.typing import NDArray

from naslib_autokd.records import content_digest
from naslib_autokd.search_spaces.hnag._checks import check_mapping

if TYPE_CHECKING:
    from naslib_autokd.tasks import Task

Array = NDArray[np.float64]
Value = int | float | str

_EXACT = 1e6
"""Squared distance of two different KD categories: beyond what all other columns together can make up for."""


@dataclass(frozen=True)
class RowCandidate:
    """One trained network: an architecture and how it was taught, as sorted ``(column, value)`` pairs."""

    architecture: tuple[tuple[str, Value], ...]
    kd: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, architecture: Mapping[str, Value], kd: Mapping[str, Value] | None = None) -> RowCandidate:
        """From mappings, in any order."""
        return cls(tuple(sorted(architecture.items())), tuple(sorted((kd or {}).items())))

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the content, the same on every machine."""
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {"architecture": dict(self.architecture), "kd": dict(self.kd)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RowCandidate:
        """Inverse of `to_dict`; ``kd`` may be missing.

        Raises:
            UnknownKeyError: A ValueError that names the key and the nearest known one.
            ValueError: If ``architecture`` is missing.
        """
        check_mapping(values, ("architecture", "kd"), "candidate", required=("architecture",))
        return cls.of(values["architecture"], values.get("kd"))


class TableSpace:
    """The space of these rows.

    The nearest row to a point has the point's KD categories if any row has them; among those the squared distance
    counts, summed over columns: numbers by their rank among the column's values, scaled to [0, 1], different
    categories 1. Of equally near rows the first.

    Args:
        name: For messages and ``run.yaml``.
        rows: Different candidates with the same columns; a column holds numbers or text.
        cells: Name of NASLib's space whose cells the architectures are ("nasbench201"), so that NASLib's optimizers
            search the table, too; the columns are then `nasbench201.EDGES`.

    Raises:
        ValueError: If there are no rows, two are the same, columns differ, or a column mixes numbers and text.
    """

    def __init__(self, name: str, rows: Sequence[RowCandidate], cells: str | None = None) -> None:
        self.name, self.cells = name, cells
        self.rows = tuple(rows)
        if not self.rows:
            raise ValueError(f"the space {name!r} needs at least one row")
        self._index = {row: i for i, row in enumerate(self.rows)}
        if len(self._index) < len(self.rows):
            raise ValueError(f"the space {name!r} has {len(self.rows) - len(self._index)} rows twice")
        self._kd_columns = tuple(column for column, _ in self.rows[0].kd)
        self.columns = (*(column for column, _ in self.rows[0].architecture), *self._kd_columns)
        """Names of the hyperparameters: architecture first, then KD."""
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"the space {name!r} has a column that is both architecture and kd")
        self._values = [dict((*row.architecture, *row.kd)) for row in self.rows]
        self.choices: dict[str, tuple[Value, ...]] = {}
        """The values of each column: numbers ascending, text sorted."""
        for i, values in enumerate(self._values):
            if tuple(values) != self.columns or len(self.rows[i].kd) != len(self._kd_columns):
                raise ValueError(f"row {i} of the space {name!r} has other columns than row 0")
        for column in self.columns:
            distinct = {values[column] for values in self._values}
            if len({isinstance(value, str) for value in distinct}) > 1:
                raise ValueError(f"column {column!r} mixes numbers and text: {sorted(map(str, distinct))}")
            self.choices[column] = tuple(sorted(distinct))
        self._exact = {tuple(values.values()): row for values, row in zip(self._values, self.rows, strict=True)}
        points = {column: self._points(column) for column in self.columns}  # of each value once: tables can be large
        self._coordinates = np.array(
            [[x for column, value in values.items() for x in points[column][value]] for values in self._values]
        )

    def __repr__(self) -> str:
        return f"TableSpace({self.name!r}, {len(self.rows)} rows)"

    def _is_text(self, column: str) -> bool:
        return isinstance(self.choices[column][0], str)

    def _points(self, column: str) -> dict[Value, list[float]]:
        """Coordinates of each value of a column, whose squared distances `candidate` compares."""
        choices = self.choices[column]
        if self._is_text(column):
            side = float(np.sqrt((_EXACT if column in self._kd_columns else 1.0) / 2))
            return {value: [side * (value == choice) for choice in choices] for value in choices}
        if len(choices) == 1:
            return {choices[0]: []}
        return {value: [i / (len(choices) - 1)] for i, value in enumerate(choices)}

    def _point(self, values: Mapping[str, Value]) -> Array:
        return np.array([x for column in self.columns for x in self._points(column)[values[column]]])

    def configuration_space(self) -> RowsConfigurationSpace:
        """A fresh ConfigSpace, the same every time (its random state too: seed 0)."""
        default = self.values(self.default_candidate())
        hyperparameters = [
            Constant(column, choices[0])
            if len(choices) == 1
            else Categorical(column, list(choices), default=default[column], ordered=not self._is_text(column))
            for column, choices in self.choices.items()
        ]
        return RowsConfigurationSpace(self, hyperparameters)

    def candidate(self, values: Mapping[str, Any], *, held: str | None = None) -> RowCandidate:
        """The row with these values, or the nearest one (see the class).

        Args:
            held: A column whose value the row must have.

        Raises:
            ValueError: If a column is unknown (names the nearest) or missing, or a value does not occur in its column.
        """
        plain = {name: _plain(value) for name, value in dict(values).items()}
        check_mapping(plain, self.columns, f"configuration of {self.name}", required=self.columns)
        for column in self.columns:
            if plain[column] not in self.choices[column]:
                raise ValueError(
                    f"{column}={plain[column]!r} is not a value of the space {self.name!r}: "
                    f"{', '.join(map(str, self.choices[column]))}"
                )
        row = self._exact.get(tuple(plain[column] for column in self.columns))
        if row is not None:
            return row
        distances = ((self._coordinates - self._point(plain)) ** 2).sum(axis=1)
        if held is not None:
            distances[[row[held] != plain[held] for row in self._values]] = np.inf
        return self.rows[int(distances.argmin())]

    def values(self, candidate: RowCandidate) -> dict[str, Any]:
        """The values of a row, by column.

        Raises:
            ValueError: If the table has no such row.
        """
        if candidate not in self._index:
            raise ValueError(f"the space {self.name!r} has no row {candidate.to_dict()}")
        return dict(self._values[self._index[candidate]])

    def frozen(self, fixed: Mapping[str, Any]) -> TableSpace:
        """The space of the rows that have these values ("default": that of the default row).

        Raises:
            ValueError: If a column is unknown (names the nearest), or no row has these values together.
        """
        check_mapping(fixed, self.columns, f"fixed values of {self.name}")
        default = self.values(self.default_candidate())
        fixed = {column: default[column] if value == "default" else value for column, value in fixed.items()}
        kept = [i for i, row in enumerate(self._values) if all(row[column] == v for column, v in fixed.items())]
        if not kept:
            raise ValueError(f"the space {self.name!r} has no row with {dict(fixed)}")
        return TableSpace(self.name, [self.rows[i] for i in kept], self.cells)

    def default_candidate(self) -> RowCandidate:
        """The row nearest to the middle of all: the median of each number, categories as far as most rows agree."""
        middle = np.median(self._coordinates, axis=0)
        return self.rows[int(((self._coordinates - middle) ** 2).sum(axis=1).argmin())]

    def sample(self, rng: np.random.Generator) -> RowCandidate:
        """Draw a row uniformly."""
        return self.rows[int(rng.integers(len(self.rows)))]

    def describe(self) -> dict[str, Any]:
        """What tells this space from others, as JSON can hold it (for ``run.yaml``)."""
        return {
            "name": self.name,
            "rows": len(self.rows),
            "columns": list(self.columns),
            "digest": content_digest([row.to_dict() for row in self.rows]),
        }

    def check(self, task: Task) -> None:
        """Raise ValueError: rows were trained elsewhere and can not be built here, on any task."""
        raise ValueError(
            f"the space {self.name!r} is a table of finished trainings; its students can be looked up "
            f"(evaluators.foreign.ForeignBenchmark) but not trained on the task {task.name!r}"
        )


class RowsConfigurationSpace(ConfigurationSpace):
    """The ConfigSpace of a `TableSpace`: its draws are rows, uniformly, and it knows the row nearest to a point."""

    def __init__(self, table: TableSpace, hyperparameters: Sequence[Any]) -> None:
        super().__init__(name=table.name, seed=0)
        self.add(list(hyperparameters))
        self._table = table
        encoded = {name: {value: self[name].to_vector(value) for value in table.choices[name]} for name in self}
        values = [table.values(row) for row in table.rows]
        self.legal_vectors: Array = np.array([[encoded[name][row[name]] for name in self] for row in values])
        """``(rows, columns)``: every legal point in ConfigSpace's own encoding."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowsConfigurationSpace) and (
            self._table is other._table or (self.name, self._table.rows) == (other.name, other._table.rows)
        )

    def sample_configuration(self, size: int | None = None) -> Any:
        """One row, or ``size`` of them, drawn with replacement."""
        drawn = self.random.randint(len(self.legal_vectors), size=1 if size is None else size)
        configurations = [Configuration(self, vector=self.legal_vectors[index].copy()) for index in drawn]
        return configurations[0] if size is None else configurations

    def draw_row(self, rng: np.random.Generator) -> dict[str, Any]:
        """The values of a row, drawn uniformly."""
        return self._table.values(self._table.sample(rng))

    def nearest_row(self, values: Mapping[str, Any], held: str) -> dict[str, Any]:
        """The values of the nearest row that has the value of the column ``held``, whatever its KD categories."""
        return self._table.values(self._table.candidate(values, held=held))


def _plain(value: Any) -> Any:
    """numpy's scalars as Python's."""
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, str) else value
