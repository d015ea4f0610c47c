"""Tables as files (CSV, LaTeX, Markdown), and what several tables share."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from naslib_autokd.escaping import csv_cell
from naslib_autokd.reports.terminal import n_parameters, say
from naslib_autokd.runners.comparison import Comparison
from naslib_autokd.runners.study_summary import StudySummary

UNITS = {
    "error": ("validation error (%)", 100.0),
    "params": ("parameters (k)", 1e-3),
    "macs": ("MMACs", 1e-6),
    "train_memory": ("training memory (MiB)", 2.0**-20),
    "inference_memory": ("inference memory (MiB)", 2.0**-20),
    "latency": ("latency (ms)", 1e3),
}
"""How an objective is shown: its name with the unit, and the factor."""


def objective(name: str, value: float) -> str:
    """In its unit: two places of an error, three digits of others, never with an exponent."""
    value *= UNITS[name][1]
    places = 2 if name == "error" or value <= 0 else max(0, 2 - math.floor(math.log10(float(f"{value:.3g}"))))
    return f"{value:,.{places}f}"


def objectives_of(front: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the table ``front``, the error first."""
    return ["error", *(name for name in (front[0] if front else ()) if name in UNITS and name != "error")]


def percent(value: float | None, digits: int = 1) -> str:
    return "not known" if value is None else f"{100 * value:.{digits}f}%"


def _points(fraction: float, form: str = ".2f") -> str:
    """A fraction as percentage points."""
    if math.isnan(fraction):
        return "-"
    text = f"{100 * fraction:{form}}"
    return text.replace("-0.00", "0.00") if float(text) == 0 else text


def interval(low: float | None, high: float | None, digits: int = 1, signed: bool = False) -> str:
    """``[90.2, 92.3]`` in percent; empty without ends."""
    form = f"{'+' * signed}.{digits}f"
    return "" if low is None or high is None else f"[{_points(low, form)}, {_points(high, form)}]"


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Plain CSV; nan and None are empty cells, and no text is a formula (`escaping.csv_cell`)."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(csv_cell, columns))
        for row in rows:
            writer.writerow(["" if value is None or value != value else csv_cell(value) for value in row])
    return path


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "|": r"\textbar{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def latex(text: str) -> str:
    """Text with everything escaped that LaTeX reads as a command."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex_table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A ``table`` for the package booktabs: the first column is text, the others are numbers."""
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex(caption)}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"    \toprule",
        "    " + " & ".join(map(latex, columns)) + r" \\",
        r"    \midrule",
        *("    " + " & ".join(map(latex, row)) + r" \\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; bars in the text are escaped."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# ---- what several formats show -------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """A table as the terminal, the page and papers show it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    title: str
    words: int = 1
    """Columns of words before those of numbers."""

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, str]], caption: str, title: str) -> Shown:
        """Of rows by column; the first row has all columns."""
        columns = list(rows[0]) if rows else []
        return cls(columns, [[row.get(column, "") for column in columns] for row in rows], caption, title)


def print_shown(shown: Shown, console: Console) -> None:
    """In a terminal, without its caption; where it has no room, its rows one below the other, each value with its name.

    Numbers with their intervals are never broken: before rows are taken apart, only headers and the first column are.
    """
    table = Table(box=SIMPLE_HEAD, title=Text(shown.title), title_justify="left", title_style="bold")
    for index, column in enumerate(shown.columns):
        table.add_column(Text(column), justify="right" if index >= shown.words else "left")
    for row in shown.rows:
        table.add_row(*map(Text, row))
    room = console.options.update(width=10_000)
    fits = console.measure(table, options=room).maximum <= console.width
    if not fits:
        table.padding, table.pad_edge = (0, 1, 0, 0), False
        for index, own in enumerate(table.columns[1:], 1):
            own.no_wrap, own.min_width = True, max((len(row[index]) for row in shown.rows), default=0)
            own.header = Text("\n".join(shown.columns[index].split()), justify="right")
        fits = console.measure(table, options=room).minimum <= console.width
    if fits:
        console.print(table)
        return
    console.print(Text(shown.title), style="bold")
    width = max(map(len, shown.columns[1:]), default=0)
    for first, *cells in shown.rows:
        console.print()
        console.print(Text(first), style="bold")
        for name, cell in zip(shown.columns[1:], cells, strict=True):
            if cell:
                say(console, f"  {name:{width}}  {cell}")


def front_table(front: Sequence[Mapping[str, Any]], latency_of: str = "") -> Shown:
    """Families of the table ``front`` that no other beats, by ascending error; ``latency_of``: what was measured."""
    names = objectives_of(front)
    chosen = sorted((row for row in front if row["on_front"]), key=lambda row: float(row["error"]))
    expected = "expected " * any(row["expected"] for row in chosen)
    return Shown(
        ["family", *(f"{expected * (name == 'error')}{UNITS[name][0]}" for name in names)],
        [[row["family"], *(objective(name, row[name]) for name in names)] for row in chosen],
        "",
        f"families that no other beats in all objectives{latency_of and f' (latency: {latency_of})'}",
    )


def comparison_table(comparison: Comparison) -> Shown:
    """The methods of a comparison, and the teacher once it is known."""
    first, n = comparison.rows[0].label if comparison.rows else "", len(comparison.seeds)
    several = any(len(job.test_accuracies) > 1 for job in comparison.jobs)

    def costs(of: Mapping[str, Any]) -> dict[str, str]:
        macs, memory = f"{of['macs'] / 1e6:.2f}", f"{of['train_memory_bytes'] / 2**20:.1f}"
        return {"params": n_parameters(of["n_params"]), "MMACs": macs, "train MiB": memory}

    def seconds(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    rows = []
    for row in comparison.rows:
        cells = {"method": row.label, "kept student": row.test_accuracy.percent()}
        cells |= {"mean student": row.mean_test_accuracy.percent()} if several else {}
        cells[f"{first} minus it"] = "" if row.difference is None else row.difference.difference.percent()
        cells |= {"agrees": f"{100 * row.teacher_agreement:.1f}", **costs(vars(row))}
        cells["final s"] = seconds(row.final_training_seconds)
        spent = f"{row.student_epochs:.0f}", seconds(row.training_seconds), f"{row.search_cpu_s:.0f}"
        searched = (*spent, f"{row.n_students:.0f}") if row.n_students else [""] * 4
        rows.append(cells | dict(zip(("epochs", "model s", "CPU s", "trained"), searched, strict=True)))
    if teacher := comparison.teacher:
        rows.append({"method": "teacher", "kept student": f"{100 * teacher['test_accuracy']:.1f}", **costs(teacher)})
    mean_student = "; mean student: mean of a seed's final students (what the differences are made of)"
    return Shown.of(
        rows,
        "kept student: of each seed the final student with the best validation accuracy, judged once"
        f"{mean_student * several}; agrees: same class as the teacher on test images (%); train MiB: peak live tensors "
        "of a training step; final s: CPU seconds of a final training by the cost model. Of each search: its "
        "student-epochs, CPU seconds of its trainings by the model, all that it took as measured, and students "
        "(or supernets) trained.",
        f"{comparison.task}: test accuracy in %, mean [95% interval] over {n} seed{'s' * (n > 1)}, "
        f"{comparison.budget_text} for each search",
    )


def study_tables(found: StudySummary) -> list[Shown]:
    """Of a study: the results, and what is paired with the reference's if anything is."""
    results = []
    for method in found.methods:
        n, one = method.n - method.n_without, "[one run]" * (method.n - method.n_without == 1)
        ends = interval(method.regret_low, method.regret_high, 2) or one
        results.append(
            {
                "method": method.label,
                "n": f"{n} of {method.n}" if method.n_without else str(n),
                "regret": f"{_points(method.regret)} {ends}".rstrip(),
                "median": _points(method.median_regret),
                "rank": "-" if method.average_rank is None else f"{method.average_rank:.2f}",
                "full trainings": f"{method.full_trainings:.4g}",
                "trained": f"{method.n_trials:.4g}",
                "CPU s": f"{method.cpu_s:.1f}",
            }
        )
    paired = []
    for method in found.methods:
        if (test := method.test) is not None and method.p_holm is not None:
            ratios = [ratio.text() if ratio else "-" for ratio in (method.speed_up_epochs, method.speed_up_trials)]
            shift = f"{_points(test.shift, '+.2f')} {interval(test.low, test.high, 2)}".rstrip()
            cells = {"method": method.label, f"minus {found.reference}": shift}
            cells["it is better"] = f"{round(test.share_better * test.n)} of {test.n}"
            cells["p (Holm)"] = f"{method.p_holm:.2g}"
            paired.append(cells | {f"in {found.unit}": ratios[0], "in trainings": ratios[1]})
    in_time = (
        " Runs are charged modelled CPU time: a training that takes half as long as the default family's counts half "
        "of its epochs."
    )
    shown = Shown.of(
        results,
        f"{found.title}. Benchmark {found.benchmark}: regret of the chosen family in percentage points of test error "
        f"above {100 * found.best_test_error:.2f}%, the lowest known; mean over n runs with a 95% bootstrap interval, "
        "median, average rank; what a run spends in full trainings; how many trainings of any length it makes of them; "
        f"CPU seconds of the optimizer itself.{in_time * (found.unit != 'student-epochs')}",
        f"{found.title}: {found.question}".rstrip(": "),
    )
    if not paired:
        return [shown]
    against = Shown.of(
        paired,
        f"{found.title}: each method's final regret minus that of {found.reference} on the same seeds (Hodges and "
        "Lehmann's shift in percentage points, 95% interval; positive is worse), in how many pairs it is better, "
        f"Wilcoxon's signed-rank test after Holm's correction, and how many times less {found.reference} needs to "
        "reach the mean regret that the method ends with (95% bootstrap interval; from 0 if some resamples never "
        "reach it).",
        f"Against {found.reference}",
    )
    return [shown, against]
