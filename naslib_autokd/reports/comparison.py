"""The table and the figure of a comparison, and its live display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from statistics import mean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from naslib_autokd.reports import tables as files
from naslib_autokd.reports.results.run import RunData
from naslib_autokd.reports.terminal import Live, n_parameters, print_table
from naslib_autokd.runners.comparison import Comparison, JobProgress, Method, mean_curves


def comparison_table(comparison: Comparison) -> Table:
    """The rows of ``comparison`` and the teacher's, for a terminal or a text file."""
    first = comparison.rows[0].label if comparison.rows else ""
    several_finals = _has_several(comparison)
    table = Table(box=SIMPLE_HEAD, title=_title(comparison), title_justify="left", title_style="bold")
    table.add_column("method")
    names = ["kept student", *(["mean student"] if several_finals else []), f"{first} minus it"]
    for name in (*names, "agrees", "params", "MMACs", "train MiB", "search", "trained"):
        table.add_column(name, justify="right", no_wrap=True)

    def costs(of: Mapping[str, Any]) -> tuple[str, str, str]:
        return n_parameters(of["n_params"]), f"{of['macs'] / 1e6:.2f}", f"{of['train_memory_bytes'] / 2**20:.1f}"

    for row in comparison.rows:
        table.add_row(
            row.label,
            row.test_accuracy.percent(),
            *([row.mean_test_accuracy.percent()] if several_finals else []),
            "" if row.difference is None else row.difference.difference.percent(),
            f"{100 * row.teacher_agreement:.1f}",
            *costs(vars(row)),
            f"{row.search_cpu_s:.0f} s",
            f"{row.n_students:.0f}",
        )
    teacher = comparison.teacher
    table.add_row("teacher", f"{100 * teacher['test_accuracy']:.1f}", *[""] * len(names), *costs(teacher))
    return table


def _title(comparison: Comparison) -> str:
    n = len(comparison.seeds)
    return (
        f"{comparison.task}: test accuracy in %, mean [95% interval] over {n} seed{'s' * (n > 1)}, "
        f"{comparison.budget:.0f} student-epochs for each search"
    )


def legend(comparison: Comparison) -> str:
    """What the columns are."""
    mean_student = "; mean student: mean of a seed's final students (what the differences are made of)"
    return (
        "kept student: of each seed the final student with the best validation accuracy, judged once"
        f"{mean_student * _has_several(comparison)}; agrees: same class as the teacher on test images (%); train MiB: "
        "peak live tensors of a training step; search: CPU seconds of the search; trained: students (or supernets) "
        "trained in the search."
    )


def _has_several(comparison: Comparison) -> bool:
    """Final students of a seed."""
    return any(len(job.test_accuracies) > 1 for job in comparison.jobs)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The table with its legend; row by row where the console is too narrow for it."""
    print_table(console, comparison_table(comparison))
    console.print(legend(comparison), markup=False, highlight=False)


def table_text(comparison: Comparison, width: int = 132) -> str:
    """The table as plain text."""
    console = Console(width=width, file=StringIO(), force_terminal=False)
    print_comparison(comparison, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def write_csv(comparison: Comparison, path: str | Path) -> None:
    """One line per (method, seed): what the figure and the table are made of."""
    columns = ["method", "seed", "test_accuracy", "mean_test_accuracy", "teacher_agreement", "n_params", "macs"]
    columns += ["train_memory_bytes", "search_cpu_s", "student_epochs", "n_students"]
    rows = [{**vars(job), "mean_test_accuracy": mean(job.test_accuracies)} for job in comparison.jobs]
    files.write_csv(Path(path), columns, [[row[column] for column in columns] for row in rows])


def anytime_figure(comparison: Comparison, path: str | Path) -> None:
    """Anytime curves over student-epochs, and beside them the final test accuracies.

    Thin lines are seeds, thick ones their mean with a 95% bootstrap band; intervals of the final students are 95% over
    seeds. A search's curve is the validation accuracy of its best full training so far; a one-shot method's (dashed) is
    that of its supernet with shared weights (of the search that was chosen), on the images that train its architecture,
    which says little about the cell that is cut out of it: the final students are what can be compared. The format
    follows the suffix of ``path``: .png, .pdf or .svg.
    """
    from naslib_autokd.reports.charts.curves import side_by_side
    from naslib_autokd.reports.figures import run_charts
    from naslib_autokd.reports.paper import PAGE_WIDTH, for_paper, picture

    jobs, path = comparison.jobs, Path(path)
    points = [
        {"method": job.method, "seed": job.seed, "student_epochs": x, "accuracy": y, "one_shot": job.one_shot}
        for job in jobs
        for x, y in job.curve
    ]
    finals = [
        {"method": job.method, "seed": job.seed, "index": index, "kept": False, "test_accuracy": value}
        for job in jobs
        for index, value in enumerate(job.test_accuracies)
    ]
    tables = {"anytime": points, "anytime_mean": mean_curves(jobs), "finals": finals}
    methods = [row.label for row in comparison.rows]
    run = RunData("comparison", path, "finished", tables=tables, teacher=dict(comparison.teacher), methods=methods)
    charts = run_charts(run)
    chart = side_by_side(charts["anytime"].chart, charts["finals"].chart, names=methods)
    path.write_bytes(picture(for_paper(chart, PAGE_WIDTH), path.suffix.lower().removeprefix(".")))


class LiveComparison(Live):
    """Progress of all jobs together, and a line for each that has finished.

    Use as a context manager and pass `update` to ``compare(progress=...)``.
    """

    def __init__(self, methods: Sequence[Method], seeds: Sequence[int], console: Console | None = None) -> None:
        super().__init__("comparison", console)
        self._fractions = {f"{method.label}, seed {seed}": 0.0 for method in methods for seed in seeds}

    def update(self, message: JobProgress) -> None:
        name = message.method if message.seed is None else f"{message.method}, seed {message.seed}"
        if message.seed is None:
            self.say(f"{name}: {message.text}")
            return
        self._fractions[name] = message.fraction
        fractions = self._fractions.values()
        jobs = f"{sum(fraction >= 1 for fraction in fractions)}/{len(fractions)}"
        if message.fraction >= 1:
            self.say(f"[{jobs}] {name}: {message.text}")
        self.show(
            sum(fractions) / len(fractions), f"{name}: {message.text}" if message.fraction < 1 else f"{jobs} jobs"
        )
