"""The table and the figure of a comparison, and its live display."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console

from naslib_autokd.reports.results.run import RunData
from naslib_autokd.reports.tables import comparison_table, print_shown
from naslib_autokd.reports.tables import write_csv as tables_csv
from naslib_autokd.reports.terminal import Live
from naslib_autokd.runners.comparison import Comparison, JobProgress, Method


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The table with its legend; row by row where the console is too narrow for it."""
    shown = comparison_table(comparison)
    print_shown(shown, console)
    console.print(shown.caption, markup=False, highlight=False)


def table_text(comparison: Comparison, width: int = 160) -> str:
    """The table as plain text."""
    console = Console(width=width, file=StringIO(), force_terminal=False)
    print_comparison(comparison, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def write_csv(comparison: Comparison, path: str | Path) -> None:
    """One line per (method, seed): what the figure and the table are made of."""
    columns = ["method", "seed", "test_accuracy", "mean_test_accuracy", "teacher_agreement", "n_params", "macs"]
    columns += ["train_memory_bytes", "search_cpu_s", "student_epochs", "n_students"]
    columns += ["training_seconds", "final_training_seconds"]
    tables_csv(Path(path), columns, [[getattr(job, column) for column in columns] for job in comparison.jobs])


def anytime_figure(run: RunData, path: str | Path) -> None:
    """Anytime curves, and beside them the final test accuracies: the two charts of the report, as .png, .pdf or .svg.

    Curves of one-shot methods (dashed) are of their supernet with shared weights, on the images that train its
    architecture, which says little about the cell that is cut out of it: the final students are what can be compared.
    Bands and intervals are 95% over seeds.
    """
    from naslib_autokd.reports.charts.curves import side_by_side
    from naslib_autokd.reports.figures import run_charts
    from naslib_autokd.reports.paper import PAGE_WIDTH, for_paper, picture

    charts, path = run_charts(run), Path(path)
    chart = side_by_side(charts["anytime"].chart, charts["finals"].chart, names=run.methods)
    path.write_bytes(picture(for_paper(chart, PAGE_WIDTH), path.suffix.lower().removeprefix(".")))


class LiveComparison(Live):
    """Progress of all jobs together, and a line for each that has finished.

    Use as a context manager and pass `update` to ``compare(progress=...)``.
    """

    def __init__(self, methods: Sequence[Method], seeds: Sequence[int], console: Console | None = None) -> None:
        super().__init__("comparison", console)
        self._fractions = {f"{method.label}, seed {seed}": 0.0 for method in methods for seed in seeds}

    def update(self, message: JobProgress) -> None:
        if message.seed is None:
            self.say(f"{message.method}: {message.text}")
            return
        name = f"{message.method}, seed {message.seed}"
        self._fractions[name], text = message.fraction, f"{name}: {message.text}"
        fractions = self._fractions.values()
        if message.fraction >= 1:
            jobs = f"{sum(fraction >= 1 for fraction in fractions)}/{len(fractions)}"
            self.say(f"[{jobs}] {text}")
            text = f"{jobs} jobs"
        self.show(sum(fractions) / len(fractions), text)
