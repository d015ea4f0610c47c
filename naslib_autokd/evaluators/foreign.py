"""Anybody's table of trainings as a benchmark: a CSV file, and a short YAML file that names its columns.

A row of the CSV is one training: an architecture, how it was taught (KD columns), at which fidelity (epochs, or a share
of the data), its validation and test accuracy or error, and what it cost. `ForeignBenchmark` answers proposals from it,
so that every optimizer can search it; `fidelity_correlations` says what its cheap fidelities are worth. The YAML file
is described in docs/foreign_tables.md, examples/foreign_table.yaml is one to copy.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from scipy.stats import kendalltau

from naslib_autokd.evaluators.base import Noise
from naslib_autokd.records import Proposal, Trial, derive_seed
from naslib_autokd.search_spaces import nasbench201
from naslib_autokd.search_spaces.table import RowCandidate, TableSpace, Value
from naslib_autokd.settings import did_you_mean, read_yaml, read_yaml_file

SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
"""Units of the cost column."""

SCALES = {"fraction": 1.0, "percent": 100.0}

KEYS = (
    "name",
    "csv",
    "space",
    "architecture",
    "kd",
    "categorical",
    "fidelity",
    "validation_accuracy",
    "validation_error",
    "test_accuracy",
    "test_error",
    "scale",
    "cost",
    "classes",
    "baselines",
    "reference",
)

CELL_SPACES = ("nasbench201",)
"""Spaces of NASLib whose cells a table can hold."""

SHOWN_PROBLEMS = 5

MIN_REPEATS = 5
"""Degrees of freedom below which no noise is estimated."""

Fidelity = float | str
"""A number where the cell is one (``1/27`` is), else its text."""


class TableError(ValueError):
    """The YAML or CSV file of a foreign table can not be used; the text names the file and the line."""


class Training(NamedTuple):
    """One row of the CSV file."""

    candidate: RowCandidate
    fidelity: Fidelity
    val_error: float
    test_error: float
    seconds: float
    baselines: tuple[float, ...] = ()
    """Values of the columns under ``baselines``."""


COLLAPSED = 0.05
"""A training has collapsed that is not so far above chance, as a share of the way to the best of its column."""

MANY = 0.05
"""Share of collapsed trainings from which a column is flagged."""


class FidelityCorrelation(NamedTuple):
    """What one fidelity of one KD setting says about the reference trainings of the same architectures."""

    kd: tuple[tuple[str, Value], ...]
    fidelity: Fidelity
    n: int
    """Architectures that have both."""
    kendall_tau: float
    """Tau-b, in [-1, 1]; nan below 3 architectures or where all are equal."""
    regret: float = math.nan
    """Test error of the reference, of the architecture that is best here minus the lowest; mean over ties."""
    picked: tuple[tuple[str, Value], ...] = ()
    """That architecture; the first of ties."""
    n_collapsed: int = 0
    """Architectures whose training here is hardly above chance (`COLLAPSED`)."""
    baseline: str = ""
    """Column that was ranked by in place of the accuracy, the largest value first: it needs no training's result."""

    @property
    def flagged(self) -> bool:
        """Whether so many trainings collapsed that the column says little."""
        return self.n_collapsed >= MANY * max(self.n, 1)


class TrainingTable:
    """Answers from trainings that others made.

    Every pair of architecture and KD setting needs a training at each budget. Where it has several (repeated
    trainings), the proposal's seed draws one, and the truth is their mean.

    Args:
        name: For messages and results.
        trainings: All that are known; those of fidelities that are no budget are kept for `fidelity_correlations`.
        budgets: Budget in whole units -> fidelity.
        cells: Name of NASLib's space whose cells the architectures are (`search_spaces.table.TableSpace`).
        texts: What the fidelities are called.
        source: What messages name.

    Raises:
        TableError: If a pair has no training at a budget.
    """

    def __init__(
        self,
        name: str,
        trainings: tuple[Training, ...],
        budgets: Mapping[int, Fidelity],
        *,
        cells: str | None = None,
        texts: Mapping[Fidelity, str] | None = None,
        source: str = "",
    ) -> None:
        self.name, self.trainings, self.source = name, trainings, source or name
        self._fidelities = dict(budgets)
        self._fidelity_texts = {each: f"{each:g}" for each in budgets.values()} if texts is None else dict(texts)
        self.budgets = tuple(sorted(self._fidelities))
        """Budgets that it answers for, ascending, in whole units of the fidelity."""
        self._answers = self._table()
        self.repeats_exactly = all(len(rows) == 1 for cell in self._answers.values() for rows in cell.values())
        """Whether no training was repeated, so that a seed makes no difference."""
        self.space = TableSpace(self.name, tuple(self._answers), cells)
        """The pairs of architecture and KD setting that were trained."""
        self._truth = {candidate: _mean(by_budget[self.budgets[-1]]) for candidate, by_budget in self._answers.items()}
        self.best_candidate = min(self._truth, key=lambda candidate: self._truth[candidate][1])
        """The one with the lowest `true_test_error`."""

    def group_of(self, candidate: RowCandidate) -> Any:
        """Equal for candidates whose trainings are repeats of one network: cells that compute the same function."""
        if self.space.cells is None:
            return candidate
        cell = dict(candidate.architecture)
        return nasbench201.function_of([str(cell[edge]) for edge in nasbench201.EDGES]), candidate.kd

    @cached_property
    def training_noise(self) -> Noise | None:
        """What repeats and equivalent cells say of one full training; None where there are hardly any."""
        groups: dict[Any, list[float]] = {}
        for candidate, by_budget in self._answers.items():
            errors = [training.test_error for training in by_budget[self.budgets[-1]]]
            groups.setdefault(self.group_of(candidate), []).extend(errors)
        middle = median(error for _, error in self._truth.values())
        repeated = [errors for errors in groups.values() if len(errors) > 1 and fmean(errors) <= middle]
        freedom = sum(len(errors) - 1 for errors in repeated)
        if freedom < MIN_REPEATS:
            return None
        squares = math.fsum((error - fmean(errors)) ** 2 for errors in repeated for error in errors)
        of = "repeated trainings" if self.space.cells is None else "cells that compute the same function"
        return Noise(math.sqrt(squares / freedom), sum(map(len, repeated)), len(repeated), of)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self.space.rows)} candidates, budgets {self.budgets})"

    def _table(self) -> dict[RowCandidate, dict[int, list[Training]]]:
        budget_of = {fidelity: budget for budget, fidelity in self._fidelities.items()}
        table: dict[RowCandidate, dict[int, list[Training]]] = {}
        for training in self.trainings:
            if training.fidelity in budget_of:
                by_budget = table.setdefault(training.candidate, {})
                by_budget.setdefault(budget_of[training.fidelity], []).append(training)
        missing = [(c, b) for c, by_budget in table.items() for b in self.budgets if b not in by_budget]
        if missing:
            candidate, budget = missing[0]
            fidelity = self._fidelity_texts[self._fidelities[budget]]
            raise TableError(
                f"{self.source}: {len(missing)} trainings are missing, the first at fidelity {fidelity} for "
                f"{candidate.to_dict()}. Every pair of architecture and KD setting needs a row at each budget: add "
                "the rows, delete the pair's other rows, or name fewer fidelities under fidelity: values"
            )
        return table

    def fidelity_of(self, budget: int) -> str:
        """What the CSV file calls a budget."""
        return self._fidelity_texts[self._fidelities[budget]]

    def evaluate(self, proposal: Proposal) -> Trial:
        """Look the proposal up. ``cost`` is the validation error, ``train_s`` the cost column in seconds.

        Raises:
            ValueError: If the table has no such budget or candidate.
        """
        repeats = self._rows_of(proposal.candidate).get(proposal.budget_epochs)
        if repeats is None:
            raise ValueError(
                f"{self.name} has no results at budget {proposal.budget_epochs}, only at "
                f"{', '.join(map(str, self.budgets))}; give the optimizer evaluator_budgets={self.budgets}"
            )
        drawn = repeats[derive_seed(proposal.seed, "repeat") % len(repeats)]
        return Trial.of(
            proposal,
            cost=drawn.val_error,
            val_accuracy=1.0 - drawn.val_error,
            student_epochs=float(proposal.budget_epochs),
            train_s=drawn.seconds,
            info={"benchmark": self.name},
        )

    def _rows_of(self, candidate: Any) -> dict[int, list[Training]]:
        if candidate not in self._answers:
            self.space.values(candidate)  # raises
        return self._answers[candidate]

    def true_cost(self, candidate: RowCandidate) -> float:
        """Mean validation error of its trainings at the largest budget.

        Raises:
            ValueError: If the table has no such candidate.
        """
        self._rows_of(candidate)
        return self._truth[candidate][0]

    def true_test_error(self, candidate: RowCandidate) -> float:
        """Mean test error of its trainings at the largest budget.

        Raises:
            ValueError: If the table has no such candidate.
        """
        self._rows_of(candidate)
        return self._truth[candidate][1]

    @property
    def best_test_error(self) -> float:
        """The lowest `true_test_error` of all candidates."""
        return self._truth[self.best_candidate][1]


class ForeignBenchmark(TrainingTable):
    """The table that a CSV file and a YAML file describe.

    Budgets are whole units of the table's fidelity, ascending. They end at the largest fidelity at which every KD
    setting of the table occurs, so that what is compared is comparable.

    Args:
        source: Path of the YAML file, or its text (with a newline; ``csv`` is then relative to the working folder).

    Raises:
        TableError: If a file is missing or cannot be used: an unknown key or column (with the nearest one), a cell that
            is no number, a pair without a row. Names the file and the line.
    """

    def __init__(self, source: str | Path) -> None:
        description = _Description(source)
        self.csv = description.csv
        self._classes, self._baselines = description.classes, description.baselines
        self._cost = description.cost
        self.reference = description.reference
        """KD columns and fidelity column -> value: the trainings that fidelities are judged by. May be empty."""
        trainings, texts = _read_csv(description)
        budgets = _budgets(description, trainings, texts)
        super().__init__(
            description.name, trainings, budgets, cells=description.space, texts=texts, source=str(self.csv)
        )

    def free_baselines(self) -> list[tuple[str, Callable[[Training], float]]]:
        """Columns that may rank architectures without any training's result, and how they are read."""
        read = [(name, lambda t, i=i: float(t.baselines[i])) for i, name in enumerate(self._baselines)]
        return [*([(self._cost, lambda t: t.seconds)] if self._cost else []), *read]

    def collapse_below(self, errors: Sequence[float]) -> float:
        """Validation accuracy below which a training of a column with these errors has collapsed."""
        chance = 1 / self._classes if self._classes else 0.0
        return chance + COLLAPSED * max(1 - min(errors) - chance, 0.0)


def fidelity_correlations(
    benchmark: ForeignBenchmark, reference: Mapping[str, str] | None = None
) -> tuple[FidelityCorrelation, ...]:
    """Do cheap trainings order architectures as the reference trainings do, and what would they pick?

    Kendall's tau-b between the validation accuracy at each fidelity of each KD setting and the test accuracy of the
    reference, over the architectures that have both. Repeats are averaged first. After the KD settings come baselines
    that look at no result: the cost of the reference's KD setting, and the YAML file's ``baselines``.

    Args:
        reference: A value of each KD column and of the fidelity column, for example full training without KD:
            ``{"method": "nokd", "data_fraction": "1"}``. None: the one of the YAML file.

    Returns:
        KD settings in the order of the CSV file, then baselines, and for each its fidelities, ascending.

    Raises:
        TableError: If there is no reference, or the table has no such trainings.
    """
    wanted = dict(benchmark.reference if reference is None else reference)
    if not wanted:
        raise TableError(
            f"{benchmark.name} names no reference trainings; add a value of each KD column and of the fidelity column "
            "to its YAML file, for example reference: {method: none, epochs: 90}"
        )
    test_errors: dict[Any, list[Training]] = {}
    cells: dict[Any, dict[Fidelity, dict[Any, list[Training]]]] = {}
    for training in benchmark.trainings:
        architecture, kd = training.candidate.architecture, training.candidate.kd
        by_fidelity = cells.setdefault(kd, {})
        by_fidelity.setdefault(training.fidelity, {}).setdefault(architecture, []).append(training)
        described = {column: _fidelity(str(value)) for column, value in kd}
        if all(described.get(column, training.fidelity) == _fidelity(str(v)) for column, v in wanted.items()):
            test_errors.setdefault(architecture, []).append(training)
    if not test_errors:
        raise TableError(f"{benchmark.csv} has no rows with {', '.join(f'{k}={v}' for k, v in wanted.items())}")
    truth = {architecture: _mean(trainings)[1] for architecture, trainings in test_errors.items()}
    ranked: list[tuple[Any, str, Callable[[Sequence[Training]], float]]] = [
        (kd, "", lambda trainings: _mean(trainings)[0]) for kd in cells
    ]
    of_reference = next(iter(test_errors.values()))[0].candidate.kd
    for name, value in benchmark.free_baselines():
        ranked.append((of_reference, name, partial(_better_first, value)))
    correlations = []
    for kd, baseline, low in ranked:
        for fidelity in _ascending(cells[kd]):
            trained = {each: trainings for each, trainings in cells[kd][fidelity].items() if each in truth}
            if trained:
                found = _agreement({each: low(trainings) for each, trainings in trained.items()}, truth)
                errors = [_mean(trainings)[0] for trainings in trained.values()]
                collapsed = 0 if baseline else sum(1 - error < benchmark.collapse_below(errors) for error in errors)
                correlations.append(FidelityCorrelation(kd, fidelity, len(trained), *found, collapsed, baseline))
    return tuple(correlations)


def _agreement(low: Mapping[Any, float], truth: Mapping[Any, float]) -> tuple[float, float, Any]:
    """Tau-b of the two over ``low``'s architectures, and the regret and name of the one that ``low`` picks."""
    values, errors = list(low.values()), [truth[each] for each in low]
    varied = len(values) >= 3 and len(set(values)) > 1 and len(set(errors)) > 1
    tau = float(kendalltau(values, errors).statistic) if varied else math.nan
    picked = [each for each, value in low.items() if value == min(values)]
    return tau, fmean(truth[each] for each in picked) - min(errors), picked[0]


def correlation_table(
    benchmark: ForeignBenchmark, correlations: Iterable[FidelityCorrelation], what: str = "tau"
) -> list[list[str]]:
    """The correlations as rows of text, the header first: KD settings and baselines down, fidelities across.

    Args:
        what: "tau", or "regret" in points of test error. A column of which many trainings collapsed has a ``!``.
    """
    correlations = tuple(correlations)
    fidelities = _ascending({c.fidelity: None for c in correlations})

    def text(c: FidelityCorrelation) -> str:
        value = f"{c.kendall_tau:.3f}" if what == "tau" else f"{100 * c.regret:.2f}"
        value = "-" if value == "nan" else value
        return f"{value}!" if c.flagged else value

    found = {(c.kd, c.baseline, c.fidelity): text(c) for c in correlations}
    rows = dict.fromkeys((c.kd, c.baseline) for c in correlations)
    names = [column for column, _ in next(iter(rows), ((), ""))[0]]
    header = [", ".join(names) or "KD", *(benchmark._fidelity_texts[f] for f in fidelities)]
    return [header, *([_label(*row), *(found.get((*row, f), "") for f in fidelities)] for row in rows)]


def _label(kd: Sequence[tuple[str, Value]], baseline: str) -> str:
    return f"({baseline} alone)" if baseline else ", ".join(str(value) for _, value in kd) or "all"


def correlation_notes(benchmark: ForeignBenchmark, correlations: Sequence[FidelityCorrelation]) -> list[str]:
    """What a reader of the taus might miss, a sentence each: collapsed columns, baselines ahead, one pick for all."""
    notes = [
        f"! {_label(c.kd, '')} at {benchmark._fidelity_texts[c.fidelity]}: {c.n_collapsed} of {c.n} trainings "
        "collapsed (hardly above chance), so this column says little."
        for c in correlations
        if c.flagged
    ]
    for fidelity in _ascending({c.fidelity: None for c in correlations}):
        where = benchmark._fidelity_texts[fidelity]
        columns = [c for c in correlations if c.fidelity == fidelity and not c.baseline]
        for free in (c for c in correlations if c.fidelity == fidelity and c.baseline):
            behind = sum(c.kendall_tau < free.kendall_tau for c in columns)
            if behind:
                notes.append(
                    f"At {where}, {free.baseline} alone orders better than {behind} of {len(columns)} columns (tau "
                    f"{free.kendall_tau:.2f})."
                )
        picks = Counter(c.picked for c in columns)
        most = max(picks.values(), default=0)
        if len(columns) > 2 and most > len(columns) / 2:
            taus = [c.kendall_tau for c in columns if picks[c.picked] == most]
            notes.append(
                f"At {where}, {most} of {len(columns)} columns pick the very same architecture, with taus from "
                f"{min(taus):.2f} to {max(taus):.2f}."
            )
    return notes


class _Description:
    """The YAML file, checked as far as it goes without the CSV file; the attributes are its keys."""

    def __init__(self, source: str | Path) -> None:
        if isinstance(source, str) and "\n" in source:
            # scalars as text: cells are compared as they are written
            self._document = read_yaml(source, "table", error=TableError, scalars_as_text=True)
            folder = Path()
        else:
            path = Path(source)
            if not path.is_file():
                raise TableError(f"table file {path} does not exist")
            self._document, folder = read_yaml_file(path, error=TableError, scalars_as_text=True), path.parent
        content = self._document.values
        if not isinstance(content, dict):
            raise self.error((), "expected a mapping of keys to values, such as 'csv: table.csv'")
        for key in content:
            if key not in KEYS:
                raise self.error((key,), f"unknown key {key!r}{did_you_mean(key, KEYS)}")
        for key in ("name", "csv", "architecture"):
            if key not in content:
                raise self.error((), f"key {key!r} is missing")
        self.name = self._text(content, "name")
        self.csv = folder / self._text(content, "csv")
        if not self.csv.is_file():
            raise self.error(("csv",), f"{self.csv} does not exist; csv is the table's path, relative to this file")
        self.space = self._space(content)
        self.architecture = self._list(content, "architecture")
        self.kd = self._list(content, "kd")
        if not self.architecture:
            raise self.error(("architecture",), "architecture must name at least one column")
        if self.space is not None and len(self.architecture) not in (1, len(nasbench201.EDGES)):
            raise self.error(
                ("architecture",),
                f"architecture of cells of {self.space} is one column with the benchmark's own strings, or the six "
                f"columns of {', '.join(nasbench201.EDGES)} in this order, got {len(self.architecture)} columns",
            )
        self.categorical = self._list(content, "categorical")
        self.fidelity, self.fidelity_values = self._fidelity(content)
        self.validation, self.validation_is_error = self._measure(content, "validation")
        self.test, self.test_is_error = self._measure(content, "test")
        scale = self._text(content, "scale") if "scale" in content else "fraction"
        if scale not in SCALES:
            raise self.error(("scale",), f"unknown scale {scale!r}{did_you_mean(scale, SCALES)}")
        self.scale = SCALES[scale]
        self.cost, self.seconds = self._cost(content)
        self.classes = self._n_classes(content)
        self.baselines = self._list(content, "baselines")
        roles = [("architecture", c) for c in self.architecture] + [("kd", c) for c in self.kd]
        roles += [("fidelity", self.fidelity)] if self.fidelity else []
        roles += [(self.validation_key, self.validation), (self.test_key, self.test)]
        seen: dict[str, str] = {}
        for role, column in roles:
            measured = {role, seen.get(column)} == {self.validation_key, self.test_key}
            if column in seen and not measured:  # a table without a test split may name the same column for both
                raise self.error((role,), f"column {column!r} is named under {seen[column]} and under {role}")
            seen[column] = role
        for column in self.categorical:
            if column not in (*self.architecture, *self.kd):
                raise self.error(
                    ("categorical",),
                    f"{column!r} is not among the columns of architecture and kd"
                    f"{did_you_mean(column, (*self.architecture, *self.kd))}",
                )
        self.reference = self._reference(content)

    def error(self, path: tuple[str, ...], message: str) -> TableError:
        return TableError(f"{self._document.place(path)}: {message}")

    def _text(self, content: Mapping[str, Any], *path: str) -> str:
        value = content[path[-1]]
        if not isinstance(value, str) or not value:
            raise self.error(path, f"{path[-1]} must be a word or a number, got {value!r}")
        return value

    def _space(self, content: Mapping[str, Any]) -> str | None:
        if "space" not in content:
            return None
        name = self._text(content, "space")
        if name not in CELL_SPACES:
            raise self.error(
                ("space",),
                f"unknown space {name!r}{did_you_mean(name, CELL_SPACES)}; tables of other spaces need no key space",
            )
        return name

    def _list(self, content: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error((key,), f"{key} must be a list of columns, such as [width, depth], got {value!r}")
        repeated = [column for i, column in enumerate(value) if column in value[:i]]
        if repeated:
            raise self.error((key,), f"{key} names the column {repeated[0]!r} twice")
        return tuple(value)

    def _section(self, content: Mapping[str, Any], key: str, allowed: Sequence[str]) -> dict[str, Any]:
        """A mapping with a ``column``; a bare name is the column."""
        value = content[key]
        if isinstance(value, str) and value:
            return {"column": value}
        if not isinstance(value, dict) or "column" not in value:
            raise self.error((key,), f"{key} must be a column or a mapping with 'column', got {value!r}")
        for name in value:
            if name not in allowed:
                raise self.error((key, name), f"unknown key {name!r} in {key}{did_you_mean(name, allowed)}")
        self._text(value, key, "column")
        return value

    def _fidelity(self, content: Mapping[str, Any]) -> tuple[str | None, dict[Fidelity, int]]:
        if "fidelity" not in content:
            return None, {}
        section = self._section(content, "fidelity", ("column", "values"))
        if "values" not in section:
            return section["column"], {}
        path = ("fidelity", "values")
        values = section["values"]
        if not isinstance(values, dict) or not values:
            raise self.error(path, f"values must map what the column says to whole units, such as {{1/3: 9}}: {values}")
        units: dict[Fidelity, int] = {}
        for cell, unit in values.items():
            if not (isinstance(unit, str) and unit.isdecimal() and int(unit) >= 1):
                raise self.error((*path, cell), f"a budget is a whole number of at least 1, got {unit!r} for {cell}")
            if int(unit) in units.values():
                raise self.error((*path, cell), f"two fidelities have the budget {unit}")
            units[_fidelity(cell)] = int(unit)
        return section["column"], units

    def _measure(self, content: Mapping[str, Any], split: str) -> tuple[str, bool]:
        keys = (f"{split}_accuracy", f"{split}_error")
        given = [key for key in keys if key in content]
        if len(given) != 1:
            raise self.error(
                tuple(given[1:]), f"give one of {keys[0]} and {keys[1]}, got {' and '.join(given) or 'none'}"
            )
        setattr(self, f"{split}_key", given[0])
        return self._text(content, given[0]), given[0] == keys[1]

    validation_key: str
    test_key: str

    def _cost(self, content: Mapping[str, Any]) -> tuple[str | None, float]:
        if "cost" not in content:
            return None, 0.0
        section = self._section(content, "cost", ("column", "unit"))
        unit = section.get("unit", "s")
        if unit not in SECONDS:
            raise self.error(("cost", "unit"), f"unknown unit {unit!r}{did_you_mean(unit, SECONDS)}")
        return section["column"], SECONDS[unit]

    def _n_classes(self, content: Mapping[str, Any]) -> int | None:
        if "classes" not in content:
            return None
        text = self._text(content, "classes")
        if not (text.isdecimal() and int(text) >= 2):
            raise self.error(("classes",), f"classes must be a whole number of at least 2, got {text!r}")
        return int(text)

    def _reference(self, content: Mapping[str, Any]) -> dict[str, str]:
        value = content.get("reference", {})
        expected = [*self.kd, *([self.fidelity] if self.fidelity else [])]
        if not isinstance(value, dict):
            raise self.error(("reference",), f"reference must map {', '.join(expected)} to values, got {value!r}")
        for column in value:
            if column not in expected:
                raise self.error(
                    ("reference", column),
                    f"reference names {column!r}, which is neither a KD column nor the fidelity"
                    f"{did_you_mean(column, expected)}",
                )
        missing = [column for column in expected if column not in value]
        if value and missing:
            raise self.error(("reference",), f"reference lacks {', '.join(missing)}")
        return value


def _read_csv(description: _Description) -> tuple[tuple[Training, ...], dict[Fidelity, str]]:
    """All rows, and what each fidelity is called in the file."""
    with open(description.csv, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        lines = [(reader.line_num, cells) for cells in reader if cells]
    where = str(description.csv)
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise TableError(f"{where}, line 1: column {repeated[0]!r} appears twice")
    named: list[tuple[tuple[str, ...], str | None]] = [
        *((("architecture",), column) for column in description.architecture),
        *((("kd",), column) for column in description.kd),
        (("fidelity", "column"), description.fidelity),
        ((description.validation_key,), description.validation),
        ((description.test_key,), description.test),
        (("cost", "column"), description.cost),
        *((("baselines",), column) for column in description.baselines),
    ]
    for path, column in named:
        if column is not None and column not in header:
            raise description.error(path, f"{where} has no column {column!r}{did_you_mean(column, header)}")
    for line, cells in lines:
        if len(cells) != len(header):
            raise TableError(f"{where}, line {line}: {len(cells)} cells, but the header names {len(header)} columns")
    if not lines:
        raise TableError(f"{where} has no rows")
    columns = {name: [cells[i].strip() for _, cells in lines] for i, name in enumerate(header)}
    problems: list[tuple[int, str]] = []  # index of the row, text

    def numbers(column: str, scale: float, largest: float, hint: str) -> list[float]:
        found = []
        for i, cell in enumerate(columns[column]):
            value = _number(cell)
            if value is None:
                problems.append((i, f"{column} must be a number, got {cell!r}"))
            elif not 0.0 <= value / scale <= largest:
                problems.append((i, f"{column} must be in [0, {largest * scale:g}]{hint}, got {cell}"))
            found.append(math.nan if value is None else value / scale)
        return found

    def characteristic(column: str) -> list[Value]:
        cells = columns[column]
        parsed = [_number(cell) for cell in cells]
        problems.extend((i, f"{column} is empty") for i, cell in enumerate(cells) if not cell)
        given = [number for number, cell in zip(parsed, cells, strict=True) if cell]
        if column in description.categorical or all(number is None for number in given):
            return list(cells)
        problems.extend(
            (i, f"{column} is a number elsewhere, got {cell!r}; if both are meant, name {column} under categorical")
            for i, cell in enumerate(cells)
            if cell and parsed[i] is None
        )
        whole = all(number is None or number.is_integer() for number in parsed)
        return [math.nan if n is None else int(n) if whole else n for n in parsed]

    hint = "" if description.scale > 1 else " (if these are percent, say scale: percent)"
    val, test = (numbers(column, description.scale, 1.0, hint) for column in (description.validation, description.test))
    cost = numbers(description.cost, 1.0, math.inf, "") if description.cost else [0.0] * len(lines)
    baselines = [numbers(column, 1.0, math.inf, "") for column in description.baselines]

    def operations() -> dict[str, list[Value]]:
        """Operations by edge, from one column of strings or six of operations."""
        if len(description.architecture) == 1:
            texts = columns[description.architecture[0]]
            found = [checked(i, nasbench201.parse_cell, text) or ("",) * 6 for i, text in enumerate(texts)]
            return {edge: [cell[k] for cell in found] for k, edge in enumerate(nasbench201.EDGES)}
        by_edge = zip(nasbench201.EDGES, (columns[column] for column in description.architecture), strict=True)
        return {
            edge: [checked(i, nasbench201.checked_operation, text) or "" for i, text in enumerate(texts)]
            for edge, texts in by_edge
        }

    def checked(i: int, read: Callable[[str], Any], text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            problems.append((i, str(error)))
            return None

    if description.space is not None:
        architecture = operations()
    else:
        architecture = {column: characteristic(column) for column in description.architecture}
    kd = {column: characteristic(column) for column in description.kd}
    texts = columns[description.fidelity] if description.fidelity else ["full"] * len(lines)
    problems.extend((i, f"{description.fidelity} is empty") for i, text in enumerate(texts) if not text)
    if problems:
        shown = [f"line {lines[i][0]}: {text}" for i, text in sorted(problems)[:SHOWN_PROBLEMS]]
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise TableError(f"{where}, {'; '.join(shown)}{more}. Rows of failed trainings: correct or delete them")

    names: dict[Fidelity, str] = {}
    trainings = []
    for i in range(len(lines)):
        fidelity = _fidelity(texts[i])
        names.setdefault(fidelity, texts[i])
        trainings.append(
            Training(
                RowCandidate.of({c: v[i] for c, v in architecture.items()}, {c: v[i] for c, v in kd.items()}),
                fidelity,
                val[i] if description.validation_is_error else 1.0 - val[i],
                test[i] if description.test_is_error else 1.0 - test[i],
                cost[i] * description.seconds,
                tuple(column[i] for column in baselines),
            )
        )
    return tuple(trainings), names


def _budgets(
    description: _Description, trainings: Sequence[Training], texts: Mapping[Fidelity, str]
) -> dict[int, Fidelity]:
    """Budget -> fidelity: as the YAML file says, or the fidelities at which all KD settings occur, in whole units."""
    if description.fidelity_values:
        for fidelity in description.fidelity_values:
            if fidelity not in texts:
                raise description.error(
                    ("fidelity", "values"),
                    f"column {description.fidelity!r} never says {fidelity}{did_you_mean(fidelity, texts.values())}",
                )
        return {unit: fidelity for fidelity, unit in description.fidelity_values.items()}
    settings: dict[Fidelity, set[Any]] = {}
    for training in trainings:
        settings.setdefault(training.fidelity, set()).add(training.candidate.kd)
    everything = set().union(*settings.values())
    complete = [fidelity for fidelity, kd in settings.items() if kd == everything]
    if not complete:
        raise description.error(
            ("fidelity",),
            "there is no fidelity at which all KD settings occur; name the budgets under fidelity: values",
        )
    if len(complete) == 1:
        return {1: complete[0]}
    values = [fidelity for fidelity in complete if not isinstance(fidelity, str)]
    if len(values) < len(complete) or min(values) <= 0:
        raise description.error(
            ("fidelity",),
            f"fidelities {', '.join(texts[f] for f in complete)} are not all positive numbers; say what they are worth "
            "in whole units under fidelity: values",
        )
    values.sort()
    unit = 1.0 if all(value.is_integer() for value in values) else values[0]
    budgets: dict[int, Fidelity] = {round(value / unit): value for value in values}
    if len(budgets) < len(values) or any(abs(v / unit / b - 1) > 0.02 for b, v in budgets.items() if v != b):  # type: ignore[operator]
        raise description.error(
            ("fidelity",),
            f"fidelities {', '.join(texts[v] for v in values)} are no whole multiples of the smallest; say what they "
            "are worth in whole units under fidelity: values",
        )
    return budgets


@cache  # a table says the same few words again and again
def _number(cell: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@cache
def _fidelity(cell: str) -> Fidelity:
    """``0.5``, ``1/27`` and ``1e-3`` are numbers, so that ``1`` and ``1.0`` are the same."""
    try:
        return float(Fraction(cell))
    except (ValueError, ZeroDivisionError):
        return cell


def _ascending(fidelities: Iterable[Fidelity]) -> list[Fidelity]:
    """Numbers ascending, then words as they came."""
    fidelities = list(fidelities)
    numbers = sorted(f for f in fidelities if not isinstance(f, str))
    return [*numbers, *(f for f in fidelities if isinstance(f, str))]


def _better_first(value: Callable[[Training], float], trainings: Sequence[Training]) -> float:
    """Minus the mean value: what ranks the largest first."""
    return -fmean(map(value, trainings))


def _mean(trainings: Sequence[Training]) -> tuple[float, float]:
    """Mean validation and test error."""
    n = len(trainings)
    return math.fsum(t.val_error for t in trainings) / n, math.fsum(t.test_error for t in trainings) / n
