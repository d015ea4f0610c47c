"""What a report shows of a run: tables, their columns, and what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from naslib_autokd.escaping import plain
from naslib_autokd.runners.statistics import FriedmanTest, Interval, PairedDifference

Row = dict[str, Any]
"""A line of a table: column -> number, text, or None where a value is not known."""
Tables = dict[str, list[Row]]
"""By name; ``docs/report.md`` lists the columns. Accuracies, errors and regrets are fractions in [0, 1]."""
Missing = dict[str, str]
"""Table -> why it is empty, in a sentence."""


@dataclass(frozen=True)
class RunData:
    """All that a report shows of one run folder."""

    kind: str
    """``search``, ``comparison``, ``study`` or ``baselines`` (compare-kd)."""
    folder: Path
    state: str
    """``finished``, ``running``, ``interrupted``, ``failed``, ``stopped`` or ``empty``."""
    problem: str = ""
    """What a reader must know first: that the run is not finished, that jobs failed; empty if all is well."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Of ``task.yaml``; empty for a study."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of ``run.yaml`` (a study: ``study.yaml``), without the environment."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Versions and hardware at the start of the run."""
    tables: Tables = field(default_factory=dict)
    """A name is missing or its list empty where there is nothing."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """For tables that may be."""
    answer: Mapping[str, Any] = field(default_factory=dict)
    """What was found, as the reader of each kind says; empty if nothing was yet."""
    teacher: Row = field(default_factory=dict)
    """``test_accuracy``, ``n_params``, ``macs``, ``train_memory_bytes`` (None where not known); or empty."""
    conclusions: Sequence[str] = ()
    """Sentences on what the numbers show and what not."""
    classes: Sequence[str] = ()
    """Names of the classes in the order of the confusion matrix."""
    methods: Sequence[str] = ()
    """Labels in the order of the run, the reference first for a comparison; one, the optimizer, for a search."""
    command: str = ""
    """What started the run, as a shell command; of a comparison as lines of Python."""
    export_command: str = ""
    """What writes the best student as a file of its own; empty if there is none yet."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """The best student that is kept: ``path`` (a .safetensors file), ``candidate`` (None if not known)."""

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name or str(self.folder)

    def table(self, name: str) -> list[Row]:
        """The rows of a table; empty if the run has none."""
        return self.tables.get(name, [])

    def having(self, tables: Tables, missing: Missing, **more: Any) -> RunData:
        """The run with more tables, reasons why some are empty, and other fields."""
        return replace(self, tables={**self.tables, **tables}, missing={**self.missing, **missing}, **more)


# ---- what several kinds share --------------------------------------------------------------------------------------

RANKS_MISSING = (
    "Average ranks are left out: they take two methods, and so many seeds that Friedman's test would find a difference "
    "if all of them agreed."
)


def table(columns: str, lines: Iterable[Sequence[Any]]) -> list[Row]:
    """Lines as rows; numbers are Python's, and None where they are not finite."""
    names = columns.split()
    return [dict(zip(names, map(plain, line), strict=True)) for line in lines]


def interval_columns(name: str, found: Interval) -> Row:
    """NAME, NAME_low and NAME_high."""
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def method_row(label: str, found: Any, columns: str) -> Row:
    """Of the table ``methods``: attributes; of intervals three columns, and ``n`` of the test accuracy's."""
    row: Row = {"method": label, "n": found.test_accuracy.n}
    for name in columns.split():
        value = getattr(found, name)
        row |= interval_columns(name, value) if isinstance(value, Interval) else {name: value}
    return row


def paired_row(method: str, found: PairedDifference, **more: Any) -> Row:
    """Of the table ``tests``."""
    ends = found.difference
    difference = {"n": ends.n, "difference": ends.mean, "low": ends.low, "high": ends.high}
    return {"method": method, **difference, "p_value": found.p_value, **more}


def rank_rows(labels: Sequence[str], found: FriedmanTest | None) -> list[Row]:
    """The table ``ranks``; empty without a test."""
    if found is None:
        return []
    test = (found.critical_difference, found.p_value, found.n)
    lines = ((label, rank, *test) for label, rank in zip(labels, found.average_ranks, strict=True))
    return table("method average_rank critical_difference p_value n", lines)


def plural(n: int, word: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{n} {word}{'s' * (n != 1)}"
