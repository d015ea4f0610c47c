"""The table and the figure of a comparison, and its live display."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from statistics import mean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from naslib_autokd.reports import tables
from naslib_autokd.reports.terminal import console_for, n_parameters, print_table, say
from naslib_autokd.runners.comparison import Comparison, JobProgress, Method, mean_curves
from naslib_autokd.runners.statistics import SHARE, mean_interval


def comparison_table(comparison: Comparison) -> Table:
    """The rows of ``comparison`` and the teacher's, for a terminal or a text file."""
    first = comparison.rows[0].label if comparison.rows else ""
    several_finals = any(len(job.test_accuracies) > 1 for job in comparison.jobs)
    table = Table(box=SIMPLE_HEAD, title=_title(comparison), title_justify="left", title_style="bold")
    table.add_column("method")
    names = ["kept student", *(["mean student"] if several_finals else []), f"{first} minus it"]
    for name in (*names, "agrees", "params", "MMACs", "train MB", "search", "trained"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(
            row.label,
            row.test_accuracy.percent(),
            *([row.mean_test_accuracy.percent()] if several_finals else []),
            "" if row.difference is None else row.difference.difference.percent(),
            f"{100 * row.teacher_agreement:.1f}",
            *_costs(row.n_params, row.macs, row.train_memory_bytes),
            f"{row.search_cpu_s:.0f} s",
            f"{row.n_students:.0f}",
        )
    teacher = comparison.teacher
    costs = _costs(teacher["n_params"], teacher["macs"], teacher["train_memory_bytes"])
    table.add_row("teacher", f"{100 * teacher['test_accuracy']:.1f}", *[""] * len(names), *costs)
    return table


def _costs(n_params: float, macs: float, train_memory_bytes: float) -> tuple[str, str, str]:
    return n_parameters(n_params), f"{macs / 1e6:.2f}", f"{train_memory_bytes / 2**20:.1f}"


def _title(comparison: Comparison) -> str:
    n = len(comparison.seeds)
    return (
        f"{comparison.task}: test accuracy in %, mean [95% interval] over {n} seed{'s' * (n > 1)}, "
        f"{comparison.budget:.0f} student-epochs for each search"
    )


LEGEND = (
    "kept student: of each seed the final student with the best validation accuracy, judged once; mean student: mean "
    "of a seed's final students (what the differences are made of); agrees: same class as the teacher on test images "
    "(%); train MB: peak live tensors of a training step; search: CPU seconds of the search; trained: students (or "
    "supernets) trained in the search."
)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The table with its legend; row by row where the console is too narrow for it."""
    print_table(console, comparison_table(comparison))
    console.print(LEGEND, markup=False, highlight=False)


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
    tables.write_csv(Path(path), columns, [[row[column] for column in columns] for row in rows])


def anytime_figure(comparison: Comparison, path: str | Path) -> None:
    """Anytime curves over student-epochs, and beside them the final test accuracies.

    Thin lines are seeds, thick ones their mean with a 95% bootstrap band; intervals of the final students are 95% over
    seeds. A search's curve is the validation accuracy of its best full training so far; a one-shot method's (dashed) is
    that of its supernet with shared weights (of the search that was chosen), on the images that train its architecture,
    which says little about the cell that is cut out of it: the final students are what can be compared. The format
    follows the suffix of ``path``: .png, .pdf or .svg.
    """
    from naslib_autokd.reports.charts import curves, rows
    from naslib_autokd.reports.charts.look import percents
    from naslib_autokd.reports.paper import PAGE_WIDTH, for_paper, picture

    jobs, teacher = comparison.jobs, comparison.teacher["test_accuracy"]
    methods = [row.label for row in comparison.rows]
    points = [
        {"method": job.method, "seed": job.seed, "student_epochs": x, "accuracy": y, "one_shot": job.one_shot}
        for job in jobs
        for x, y in job.curve
    ]
    groups = []
    for place, method in enumerate(methods):
        own = [job.test_accuracies for job in jobs if job.method == method]
        found = mean_interval([mean(values) for values in own], bounds=SHARE)
        ends = percents(found.mean, found.low, found.high)
        groups.append(rows.Group(method, [100 * value for values in own for value in values], place, *ends))
    left = curves.comparison_curves(mean_curves(jobs), points, methods, teacher)
    right = rows.strips(groups, "test accuracy of final students (%)", reference=("teacher", 100 * teacher))
    chart = curves.side_by_side(left, right, names=methods)
    path = Path(path)
    path.write_bytes(picture(for_paper(chart, PAGE_WIDTH), path.suffix.lower().removeprefix(".")))


class LiveComparison:
    """Progress of all jobs: bars in a terminal, a line per finished job in a log file or a notebook.

    Use as a context manager and pass `update` to ``compare(progress=...)``.
    """

    def __init__(self, methods: Sequence[Method], seeds: Sequence[int], console: Console | None = None) -> None:
        self.console = console or console_for(stderr=True)
        self._has_bars = self.console.is_terminal and not self.console.is_dumb_terminal
        self._total = len(methods) * len(seeds)
        self._done = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self._has_bars,
        )
        self._tasks: dict[tuple[str, int], TaskID] = {}

    def __enter__(self) -> LiveComparison:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, message: JobProgress) -> None:
        if message.seed is None:
            self._line(f"{message.method}: {message.text}")
            return
        key = (message.method, message.seed)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(f"{message.method}, seed {message.seed}", total=1.0, text="")
        self._progress.update(self._tasks[key], completed=message.fraction, text=message.text)
        if message.fraction >= 1:
            self._done += 1
            self._progress.stop_task(self._tasks[key])
            if not self._has_bars:
                self._line(f"[{self._done}/{self._total}] {message.method}, seed {message.seed}: {message.text}")

    def _line(self, text: str) -> None:
        say(self.console, text)
