"""Tables and figures of a study: in a terminal, and as a paper takes them.

Figures are of column width as PNG and PDF, the chart as data and its CSV beside each (those of the page:
`figures.run_charts`); tables are CSV, LaTeX and Markdown. What they show is said by `conclusions`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from naslib_autokd.reports.conclusions import conclusions
from naslib_autokd.reports.figures import run_charts
from naslib_autokd.reports.paper import FigureFolder
from naslib_autokd.reports.results import RunData
from naslib_autokd.reports.results.study import result_tables
from naslib_autokd.reports.tables import latex_table, markdown_table
from naslib_autokd.reports.terminal import print_table
from naslib_autokd.runners.ablation import StudyResult
from naslib_autokd.runners.study_summary import MethodSummary, StudySummary, summary


class _Table(NamedTuple):
    """As all formats show it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    title: str

    @classmethod
    def of(cls, methods: Sequence[Any], columns: Mapping[str, Callable[[Any], str]], *texts: str) -> _Table:
        return cls(list(columns), [[cell(method) for cell in columns.values()] for method in methods], *texts)


def _points(fraction: float, form: str = ".2f") -> str:
    """A fraction as percentage points."""
    if math.isnan(fraction):
        return "-"
    text = f"{100 * fraction:{form}}"
    return text.replace("-0.00", "0.00") if float(text) == 0 else text


def _ends(low: float | None, high: float | None, without: str = "") -> str:
    return without if low is None or high is None else f" [{_points(low)}, {_points(high)}]"


def _tables(found: StudySummary) -> list[_Table]:
    """The results, and what is paired with the reference's if anything is."""

    def regret(method: MethodSummary) -> str:
        one = " [one run]" if method.n - method.n_without == 1 else ""
        return _points(method.regret) + _ends(method.regret_low, method.regret_high, one)

    results = _Table.of(
        found.methods,
        {
            "method": lambda m: m.label,
            "n": lambda m: f"{m.n - m.n_without} of {m.n}" if m.n_without else str(m.n),
            "regret": regret,
            "median": lambda m: _points(m.median_regret),
            "rank": lambda m: "-" if m.average_rank is None else f"{m.average_rank:.2f}",
            "full trainings": lambda m: f"{m.full_trainings:.4g}",
            "trained": lambda m: f"{m.n_trials:.4g}",
            "CPU s": lambda m: f"{m.cpu_s:.1f}",
        },
        f"{found.title}. Benchmark {found.benchmark}: regret of the chosen family in percentage points of test error "
        f"above {100 * found.best_test_error:.2f}%, the lowest known; mean over n runs with a 95% bootstrap interval, "
        "median, average rank; what a run spends in full trainings; how many trainings of any length it makes of them; "
        "CPU seconds of the optimizer itself.",
        f"{found.title}: {found.question}".rstrip(": "),
    )
    paired = _Table.of(
        [method for method in found.methods if method.test is not None and method.p_holm is not None],
        {
            "method": lambda m: m.label,
            f"minus {found.reference}": lambda m: _points(m.test.shift, "+.2f") + _ends(m.test.low, m.test.high),
            "it is better": lambda m: f"{round(m.test.share_better * m.test.n)} of {m.test.n}",
            "p (Holm)": lambda m: f"{m.p_holm:.2g}",
            "in student-epochs": lambda m: "-" if m.speed_up_epochs is None else m.speed_up_epochs.text(),
            "in trainings": lambda m: "-" if m.speed_up_trials is None else m.speed_up_trials.text(),
        },
        f"{found.title}: each method's final regret minus that of {found.reference} on the same seeds (Hodges and "
        "Lehmann's shift in percentage points, 95% interval; positive is worse), in how many pairs it is better, "
        f"Wilcoxon's signed-rank test after Holm's correction, and how many times less {found.reference} needs to "
        "reach the mean regret that the method ends with (95% bootstrap interval; from 0 if some resamples never "
        "reach it).",
        f"Against {found.reference}",
    )
    return [results, *([paired] if paired.rows else [])]


def print_study(result: StudyResult | StudySummary, console: Console) -> None:
    """Two tables and what may be concluded from them."""
    found = result if isinstance(result, StudySummary) else summary(result)
    for columns, rows, caption, title in _tables(found):
        table = Table(box=SIMPLE_HEAD, title=Text(title), title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            table.add_column(Text(column), justify="right" if index else "left", no_wrap=False)
        for row in rows:
            table.add_row(*map(Text, row))
        print_table(console, table)
        console.print(Text(caption), style="dim")
        console.print()
    for line in conclusions(found):
        console.print(Text(line))


# ---- files ---------------------------------------------------------------------------------------------------------

FIGURES = {
    "anytime": "regret_over_student_epochs",
    "anytime_trials": "regret_over_trials",
    "finals": "final_regret",
    "ranks_over_time": "average_rank",
    "critical_difference": "critical_difference",
}
"""The page's charts and tables to their files."""


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
    tables = _tables(found)
    folder.text("tables.tex", "\n".join(latex_table(table.columns, table.rows, table.caption) for table in tables))
    columns = ["method", "seed", "test_error", "regret", "cost", "n_trials", "cpu_s"]
    runs = [(run, run.test_error[-1]) for run in sorted(result.runs, key=lambda run: run.seed)]
    finals = [
        (run.method, run.seed, error, error - result.best_test_error, run.cost[-1], run.n_trials, run.cpu_s)
        for method in found.methods
        for run, error in runs
        if run.method == method.label
    ]
    folder.table("finals", columns, finals)
    labels = [method.label for method in found.methods]
    answer = {"reference": found.reference}
    about = RunData(
        "study", folder.path, "finished", tables=result_tables(result, found), answer=answer, methods=labels
    )
    ranked = found.friedman is not None  # else ranks say nothing
    for name, figure in run_charts(about).items():
        if name in FIGURES and (ranked or "rank" not in name):
            if name != "finals":  # `finals.csv` has them
                folder.rows(FIGURES[name], figure.rows)
            folder.chart(FIGURES[name], figure.chart)
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
