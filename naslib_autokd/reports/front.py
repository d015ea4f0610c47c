"""The result of a search with several objectives: the front of families, as table, CSV and figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from naslib_autokd.records import Trial
from naslib_autokd.reports.tables import UNITS
from naslib_autokd.runners.pareto import objective_table


def front_table(front: Sequence[Mapping[str, Any]]) -> Table:
    """One row a family, by ascending error."""
    table = Table(box=SIMPLE_HEAD, title="families that no other beats in all objectives", title_justify="left")
    table.add_column("family")
    names = list(front[0]["objectives"]) if front else []
    for name in names:
        table.add_column(UNITS[name][0], justify="right")
    for family in front:
        values = [f"{family['objectives'][name] * UNITS[name][1]:.4g}" for name in names]
        table.add_row(family["candidate_digest"], *values)
    return table


def write_front(front: Sequence[Mapping[str, Any]], trials: Sequence[Trial], out: Path) -> list[Path]:
    """``front.csv``, ``hypervolume.csv`` and, for each objective besides the error, a figure ``front_NAME``.

    Args:
        front: Families with ``candidate``, ``candidate_digest`` and ``objectives`` (`runners.results.SearchResult`).
        trials: All trials of the search. The box of the hypervolume is that of its successful full trainings.
    """
    if not front:
        return []
    from naslib_autokd.reports.charts.methods import front_chart
    from naslib_autokd.reports.paper import FigureFolder
    from naslib_autokd.reports.results.trial_tables import hypervolume_rows

    folder = FigureFolder(Path(out))
    names = list(front[0]["objectives"])
    folder.table(
        "front",
        ["family", *names, "candidate"],
        [
            [f["candidate_digest"], *(f["objectives"][name] for name in names), json.dumps(f["candidate"])]
            for f in front
        ],
    )
    over_time = hypervolume_rows(trials, names)
    if over_time:
        folder.rows("hypervolume", over_time)
    values, _ = objective_table(trials, names)
    rows = [
        *({"family": "", "on_front": False, "expected": False, **dict(zip(names, row, strict=True))} for row in values),
        *({"family": f["candidate_digest"], "on_front": True, "expected": True, **f["objectives"]} for f in front),
    ]
    for name in names[1:]:
        folder.chart(f"front_{name}", front_chart(rows, name, over_time, staircase=len(names) == 2))
    return folder.files
