"""Tables and figures of a study: in a terminal, and as a paper takes them.

Figures are of column width as PNG and PDF, the chart as data and its CSV beside each (those of the page:
`figures.run_charts`); tables are CSV, LaTeX and Markdown. What they show is said by `conclusions`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from naslib_autokd.reports.conclusions import conclusions
from naslib_autokd.reports.figures import add_figures
from naslib_autokd.reports.paper import FigureFolder
from naslib_autokd.reports.results import RunData
from naslib_autokd.reports.results.study import result_tables
from naslib_autokd.reports.tables import latex_table, markdown_table, print_shown, study_tables
from naslib_autokd.runners.ablation import StudyResult
from naslib_autokd.runners.study_summary import StudySummary, summary


def print_study(result: StudyResult | StudySummary, console: Console) -> None:
    """Two tables and what may be concluded from them."""
    found = result if isinstance(result, StudySummary) else summary(result)
    for shown in study_tables(found):
        print_shown(shown, console)
        console.print(Text(shown.caption), style="dim")
        console.print()
    for line in conclusions(found):
        console.print(Text(line))


def write_study_report(result: StudyResult, out: Path) -> list[Path]:
    """Write all figures and tables into a folder (made if missing) and return their paths, ``report.md`` first.

    Raises:
        ValueError: If no run has finished.
    """
    found = summary(result)
    folder = FigureFolder(Path(out))
    folder.text("summary.json", json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
    rows = [_flat(method) for method in found.to_dict()["methods"]]
    folder.table("summary", list(rows[0]), [list(row.values()) for row in rows])
    tables = study_tables(found)
    folder.text("tables.tex", "\n".join(latex_table(table.columns, table.rows, table.caption) for table in tables))
    about: dict[str, Any] = {"answer": {"reference": found.reference, "unit": found.unit}}
    about |= {"methods": [method.label for method in found.methods], "tables": result_tables(result, found)}
    add_figures(folder, RunData("study", folder.path, "finished", **about))
    lines = [f"# {found.title}", "", found.question]
    for table in tables:
        lines += ["", markdown_table(table.columns, table.rows), table.caption]
    lines += ["", "## What it shows", "", *(f"- {line}" for line in conclusions(found)), "", "## Figures"]
    return folder.report("report.md", lines)


def _flat(method: Mapping[str, Any]) -> dict[str, Any]:
    """A line of ``summary.csv``: what is nested has the name of its part before its own."""
    test = ("n", "n_equal", "share_better", "median_difference", "shift", "low", "high", "p_value")
    ratio = ("level", "needed", "rival_needed", "ratio", "low", "high")
    parts = {"test": ("paired", test), "speed_up_epochs": ("speed_up_epochs", ratio)}
    parts |= {"speed_up_trials": ("speed_up_trials", ratio)}
    row = {"method" if name == "label" else name: value for name, value in method.items() if name not in parts}
    for part, (start, names) in parts.items():
        row |= {f"{start}_{name}": (method[part] or {}).get(name) for name in names}
    return row
