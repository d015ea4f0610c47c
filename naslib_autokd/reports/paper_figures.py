"""Every chart of a run for a paper: PDF and PNG at the width of a column, with the table behind each as CSV.

`write_figures` takes what `run_data.read_run` has read: a search, a comparison or a study, finished or not. A chart
whose table is empty is left out. Numbers in the CSV are those of the table (fractions); axes show percent where they
say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from naslib_autokd.records import TrialStore
from naslib_autokd.reports.figures import (
    COLUMN_WIDTH,
    WIDTHS,
    FigureFolder,
    Group,
    Line,
    add_legend,
    critical_difference_chart,
    fit_axes,
    folded,
    interval_chart,
    legend_below,
    line_chart,
    strip_chart,
    style,
)
from naslib_autokd.reports.front import UNITS, box_over_time, front_figure
from naslib_autokd.reports.importance import (
    PartialDependence,
    PermutationImportance,
    dependence_figure,
    permutation_figure,
)
from naslib_autokd.reports.run_data import Row, RunData
from naslib_autokd.runners.run_folder import TRIALS
from naslib_autokd.runners.statistics import SHARE, mean_interval
from naslib_autokd.tasks import did_you_mean

FORMATS = ("pdf", "png", "svg")
"""That `write_figures` can write."""

MOST_CLASSES = 20
"""Above so many, a confusion matrix has no numbers and no names in it."""

CASES = {
    "both": "both right",
    "student": "student alone right",
    "teacher": "teacher alone right",
    "same_error": "both wrong, same class",
    "other_error": "both wrong, differently",
}


def write_figures(
    run: RunData, out_dir: str | Path, formats: Sequence[str] = ("pdf", "png"), width: str = "single"
) -> list[Path]:
    """Write the figures and tables of a run into a folder (made if missing) and return their paths.

    Args:
        run: From `run_data.read_run`.
        formats: Of "pdf", "png" (300 dots an inch) and "svg".
        width: "single" (3.25 inches, a column) or "double" (6.75 inches, a page). A diagram of critical differences
            with long names takes the page in any case.

    Raises:
        ValueError: If a format or the width is unknown.
    """
    if width not in WIDTHS:
        raise ValueError(f"width must be one of {', '.join(WIDTHS)}, got {width!r}{did_you_mean(width, WIDTHS)}")
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"formats must be of {', '.join(FORMATS)}, got {name!r}{did_you_mean(name, FORMATS)}")
    folder = FigureFolder(Path(out_dir), tuple(formats), WIDTHS[width])
    charts = _STUDY if run.kind == "study" else (*_SEARCHES, *(_COMPARISON if run.kind == "comparison" else _SEARCH))
    for chart in charts:
        chart(run, folder)
    return folder.files


def _table(folder: FigureFolder, name: str, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    folder.table(name, columns, [[row.get(column) for column in columns] for row in rows])


def _methods(run: RunData, rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by method, in the order of the run."""
    found: dict[str, list[Row]] = {name: [] for name in run.methods}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return {name: own for name, own in found.items() if own}


def _place(run: RunData, method: str) -> int:
    return run.methods.index(method) if method in run.methods else len(run.methods)


def _column(rows: Sequence[Row], name: str, factor: float = 1.0) -> Any:
    """``(rows,)``; nan where nothing is known."""
    values = [row.get(name) for row in rows]
    return np.array([math.nan if value is None else factor * float(value) for value in values])


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _baseline(run: RunData) -> tuple[str, float] | None:
    accuracy = None if run.teacher is None else run.teacher.get("test_accuracy")
    return None if accuracy is None else ("teacher (test)", 100 * accuracy)


# ---- searches and comparisons --------------------------------------------------------------------------------------


def _anytime(run: RunData, folder: FigureFolder) -> None:
    rows = run.table("anytime")
    if not rows:
        return
    _table(folder, "anytime", rows)
    lines = [
        Line(method, _column(own, "student_epochs"), _column(own, "accuracy", 100), _place(run, method))
        for method, own in _methods(run, rows).items()
    ]
    line_chart(folder, "anytime", lines, xlabel="student-epochs", ylabel="best validation accuracy (%)")


def _anytime_mean(run: RunData, folder: FigureFolder) -> None:
    """Means over seeds with their bands; supernets are dashed, since theirs is another accuracy."""
    rows = run.table("anytime_mean")
    if not rows:
        _anytime(run, folder)
        return
    _table(folder, "anytime", rows)
    one_shot = {row["method"] for row in run.table("anytime") if row.get("one_shot")}
    lines = [
        Line(
            f"{method} (supernet)" if method in one_shot else method,
            _column(own, "student_epochs"),
            _column(own, "accuracy", 100),
            _place(run, method),
            _column(own, "low", 100),
            _column(own, "high", 100),
            steps=method not in one_shot,
            emphasised=_place(run, method) == 0,
            dashed=method in one_shot,
        )
        for method, own in _methods(run, rows).items()
    ]
    line_chart(
        folder,
        "anytime",
        lines,
        xlabel="student-epochs of the search",
        ylabel="validation accuracy (%)",
        baseline=_baseline(run),
    )


def _finals(run: RunData, folder: FigureFolder) -> None:
    """Test accuracies of the final students; the mean of a comparison is over seeds, of a search over students."""
    rows = [row for row in run.table("finals") if row.get("test_accuracy") is not None]
    if not rows:
        return
    _table(folder, "finals", run.table("finals"))
    groups = []
    for method, own in _methods(run, rows).items():
        by_seed: dict[Any, list[float]] = {}
        for row in own:
            key = row["seed"] if run.kind == "comparison" else row["index"]
            by_seed.setdefault(key, []).append(100 * row["test_accuracy"])
        interval = mean_interval([float(np.mean(values)) for values in by_seed.values()], bounds=SHARE)
        # an interval of two or three seeds can leave the possible accuracies
        ends = [None if end is None else min(max(end, 0.0), 100.0) for end in (interval.low, interval.high)]
        label = method if run.kind == "comparison" else "final students"
        values = [value for group in by_seed.values() for value in group]
        groups.append(Group(label, values, _place(run, method), interval.mean, *ends))
    strip_chart(folder, "finals", groups, xlabel="test accuracy (%)", baseline=_baseline(run))


def _trials(run: RunData, folder: FigureFolder) -> None:
    """Validation accuracy of every training over what had been spent, a mark for each budget."""
    trials = run.table("trials")
    places = {id(row): place for place, row in enumerate(trials, start=1)}
    rows = [row for row in trials if row.get("val_accuracy") is not None]
    if not rows:
        return
    _table(folder, "trials", trials)
    budgets = sorted({row["budget_epochs"] for row in rows})
    several = len(budgets) > 1
    with folder.figure("trials", 2.1) as figure:
        axes = figure.subplots()
        marks = []
        for index, budget in enumerate(budgets):
            own = [row for row in rows if row["budget_epochs"] == budget]
            look = {"color": style(index)["color"], "marker": "osD^v"[index % 5], "linestyle": "", "markersize": 3}
            axes.plot([places[id(row)] for row in own], _column(own, "val_accuracy", 100), alpha=0.75, **look)
            marks.append((f"{budget} epoch{'s' * (budget != 1)}", 0.0, look))
        axes.set(xlabel="trial", ylabel="validation accuracy (%)")
        axes.locator_params(axis="x", integer=True)
        axes.grid(True)
        fit_axes(axes, bottom=legend_below(figure, marks) if several else 0.0)


def _families(run: RunData, folder: FigureFolder) -> None:
    rows = run.table("families")
    if not rows or run.kind == "comparison":  # whose families are its final students, drawn there
        return
    _table(folder, "families", rows)
    groups = []
    for index, label in enumerate(dict.fromkeys(row["group"] for row in rows)):
        values = [100 * row["accuracy"] for row in rows if row["group"] == label and row["accuracy"] is not None]
        mean = float(np.mean(values)) if values else None
        groups.append(Group(f"{label} (n = {len(values)})", values, index, mean))
    strip_chart(folder, "families", groups, xlabel="validation accuracy of full trainings (%)", violins=True)


def _importance(run: RunData, folder: FigureFolder) -> None:
    rows = run.table("importance")
    if not rows:
        return
    _table(folder, "importance", rows)
    found = PermutationImportance(
        tuple(str(row["hyperparameter"]) for row in rows),
        _column(rows, "importance"),
        np.nan_to_num(_column(rows, "sd")),
        float(rows[0]["r2"]),
        int(rows[0]["n"]),
    )
    permutation_figure(found, folder, "importance")


def _dependence(run: RunData, folder: FigureFolder) -> None:
    rows = run.table("dependence")
    if not rows:
        return
    _table(folder, "partial_dependence", rows)
    curves = []
    for name in dict.fromkeys(row["hyperparameter"] for row in rows):
        own = [row for row in rows if row["hyperparameter"] == name]
        values = tuple(row["value"] for row in own)
        mean, low, high = (_column(own, column) for column in ("mean", "low", "high"))
        curves.append(PartialDependence(name, values, mean, low, high, (1,) * len(own), bool(own[0]["log"])))
    dependence_figure(curves, folder, "partial_dependence")


def _front(run: RunData, folder: FigureFolder) -> None:
    rows = run.table("front")
    if not rows:
        return
    _table(folder, "front", rows)
    names = ["error", *(name for name in rows[0] if name in UNITS and name != "error")]
    store = run.folder / TRIALS
    over_time = box_over_time(list(TrialStore(store)), names) if store.is_file() else []
    if over_time:
        folder.table("hypervolume", ["student_epochs", "share_of_the_box_of_all_full_trainings"], over_time)
    for name in names[1:]:
        front = [(row[name], row["error"]) for row in rows if row["on_front"]]
        observed = [(row[name], row["error"]) for row in rows if not row["expected"]]
        expected = any(row["expected"] for row in rows)
        front_figure(folder, f"front_{name}", name, front, observed, over_time, expected=expected)


def _budget_agreement(run: RunData, folder: FigureFolder) -> None:
    rows = run.table("budget_agreement")
    known = [row for row in rows if row["kendall_tau"] is not None]
    if not rows:
        return
    _table(folder, "budget_agreement", rows)
    if not known:
        return
    groups: list[Group] = []
    for low, high in dict.fromkeys((row["low"], row["high"]) for row in known):
        own = [row for row in known if (row["low"], row["high"]) == (low, high)]
        n = sum(row["n"] for row in own)
        values = [row["kendall_tau"] for row in own]
        label = f"{low} against {high} epochs (n = {n})"
        groups.append(Group(label, values, len(groups), float(np.mean(values))))
    xlabel = "rank agreement of families (Kendall's tau)"
    strip_chart(folder, "budget_agreement", groups, xlabel=xlabel, violins=True, limits=(-1.05, 1.05))


def _calibration(run: RunData, folder: FigureFolder) -> None:
    """Reliability diagram (Guo et al. 2017, arXiv:1706.04599): accuracy over confidence in bins, larger marks for more
    images, and the share of the images in each bin."""
    rows = run.table("calibration")
    for method, own in _methods(run, rows).items():
        name = _file_name("calibration", method, run, rows)
        _table(folder, name, own)
        with folder.figure(name, 2.9, min(folder.width, COLUMN_WIDTH)) as figure:
            upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
            upper.plot([0, 100], [0, 100], color="#999999", linewidth=0.8, linestyle=":")
            for index, who in enumerate(("student", "teacher")):
                bins = [row for row in own if row["who"] == who and row["n"]]
                if not bins:
                    continue
                n = _column(bins, "n")
                x, y = _column(bins, "confidence", 100), _column(bins, "accuracy", 100)
                error = float(np.sum(n * np.abs(x - y)) / n.sum())
                look: dict[str, Any] = {"color": style(index)["color"], "linestyle": ("-", "--")[index]}
                upper.plot(x, y, label=f"{who}, ECE {error:.1f}%", marker="os"[index], markersize=0, **look)
                # few images, small marks: their accuracy says little
                sizes = 1.0 + 24 * np.sqrt(n / n.max())
                upper.scatter(x, y, s=sizes, color=look["color"], marker="os"[index], zorder=3)
                every = [row for row in own if row["who"] == who]
                edges = [100 * row["low"] for row in every] + [100 * every[-1]["high"]]
                share = 100 * _column(every, "n") / n.sum()
                lower.stairs(share, edges, color=look["color"], linestyle=look["linestyle"])
            upper.set(ylabel="accuracy (%)", xlim=(0, 100), ylim=(0, 100))
            lower.set(xlabel="confidence (%)", ylabel="images (%)")
            lower.set_ylim(bottom=0)
            upper.legend(frameon=False, borderpad=0.1, loc="lower right")
            for axes in (upper, lower):
                axes.grid(True)
            figure.align_ylabels([upper, lower])
            figure.tight_layout(pad=0.3, h_pad=0.5)


def _confusion(run: RunData, folder: FigureFolder) -> None:
    """Counts of the kept student on test images, coloured by the share of the true class; of the teacher once."""
    rows = run.table("confusion")
    classes = list(run.classes)
    for method, own in _methods(run, rows).items():
        for who in ("student", "teacher"):
            mine = [row for row in own if row["who"] == who]
            name = _file_name("confusion_student", method, run, rows) if who == "student" else "confusion_teacher"
            if not mine or folder.path / f"{name}.csv" in folder.files:
                continue
            _table(folder, name, mine)
            counts = np.zeros((len(classes), len(classes)))
            for row in mine:
                counts[classes.index(row["true"]), classes.index(row["predicted"])] = row["n"]
            _matrix(folder, name, counts, classes, who)


def _matrix(folder: FigureFolder, name: str, counts: Any, classes: Sequence[str], who: str) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    small = len(classes) <= MOST_CLASSES
    with folder.figure(name, 2.0, min(folder.width, COLUMN_WIDTH) if len(classes) <= 12 else folder.width) as figure:
        figure.set_figheight(figure.get_figwidth() * 0.92)
        axes = figure.subplots()
        # grey would hide the empty cells: white is 0
        image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
        axes.set(xlabel=f"class that the {who} names", ylabel="true class")
        if small:
            texts = folded(figure, classes, 0.25)
            longest = max((len(line) for text in texts for line in text.split("\n")), default=0)
            axes.set_xticks(range(len(classes)), texts, rotation=90 if longest > 2 else 0)
            axes.set_yticks(range(len(classes)), texts)
            cell = 0.78 * figure.get_figwidth() / len(classes)  # inches
            digits = max(1, len(f"{int(counts.max())}"))
            size = min(8.0, 72 * cell / (0.68 * max(digits, 2)))
            if size >= 4:
                for i, j in zip(*np.nonzero(counts), strict=True):
                    ink = "white" if shares[i, j] > 0.55 else "black"
                    axes.text(j, i, f"{int(counts[i, j])}", ha="center", va="center", fontsize=size, color=ink)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
        bar.set_label("share of the true class (%)")
        bar.outline.set_linewidth(0.5)
        figure.tight_layout(pad=0.3)


def _agreement(run: RunData, folder: FigureFolder) -> None:
    """Who is right on the test images: a stacked bar a method."""
    rows = run.table("agreement")
    if not rows:
        return
    _table(folder, "agreement", rows)
    methods = _methods(run, rows)
    colours = ("#0072B2", "#56B4E9", "#E69F00", "#999999", "#D55E00")
    hatches = ("", "", "///", "", "xxx")
    with folder.figure("agreement", 1.0) as figure:
        labels = folded(figure, list(methods), 0.35)
        figure.set_figheight(0.5 + 0.22 * sum(1 + label.count("\n") for label in labels))
        axes = figure.subplots()
        for row, own in enumerate(methods.values()):
            counts = {entry["case"]: entry["n"] for entry in own}
            total = max(1, sum(counts.values()))
            left = 0.0
            for case, colour, hatch in zip(CASES, colours, hatches, strict=True):
                share = 100 * counts.get(case, 0) / total
                bar: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
                axes.barh(row, share, 0.7, left=left, label=CASES[case] if row == 0 else None, **bar)
                left += share
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlim=(0, 100), xlabel="test images (%)")
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        handles, names = axes.get_legend_handles_labels()
        columns = 2 if folder.width < 5 else 3
        height = add_legend(figure, handles, names, columns)
        fit_axes(axes, bottom=height)


def _file_name(chart: str, method: str, run: RunData, rows: Sequence[Row]) -> str:
    """Of a chart that every method has: with the method's place where there are several."""
    if len(_methods(run, rows)) == 1:
        return chart
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in method.lower()).strip("-")
    return f"{chart}_{_place(run, method) + 1}_{plain}"


# ---- comparisons and studies ---------------------------------------------------------------------------------------


def _tests(run: RunData, folder: FigureFolder) -> None:
    """Each method against the reference."""
    rows = run.table("tests")
    if not rows:
        return
    _table(folder, "tests", rows)
    study = run.kind == "study"
    reference = str(run.answer.get("reference", "reference"))
    groups = []
    for row in rows:
        p = row.get("p_holm")
        said = "" if p is None else f" (p = {p:.2g})"
        ends = [_percent(row[name]) for name in ("difference", "low", "high")]
        groups.append(Group(row["method"] + said, [], _place(run, row["method"]), *ends))
    compared = f"{reference} minus the method, test accuracy"
    if study:
        compared = f"regret of the method minus that of {reference}"
    interval_chart(folder, "tests", groups, xlabel=f"{compared} (% points)")


def _ranks(run: RunData, folder: FigureFolder) -> None:
    rows = run.table("ranks")
    if len(rows) < 2:
        return
    _table(folder, "critical_difference", rows)
    ranks = [(row["method"], row["average_rank"], _place(run, row["method"])) for row in rows]
    critical_difference_chart(folder, "critical_difference", ranks, rows[0]["critical_difference"])


# ---- studies -------------------------------------------------------------------------------------------------------


def _regret(run: RunData, folder: FigureFolder) -> None:
    for table, axis, label in (
        ("anytime", "student_epochs", "student-epochs"),
        ("anytime_trials", "trials", "trainings (of any length)"),
    ):
        rows = run.table(table)
        if not rows:
            continue
        _table(folder, table, rows)
        lines = [
            Line(
                method,
                _column(own, axis),
                _column(own, "regret", 100),
                _place(run, method),
                _column(own, "low", 100),
                _column(own, "high", 100),
                emphasised=method == run.answer.get("reference"),
            )
            for method, own in _methods(run, rows).items()
        ]
        line_chart(folder, table, lines, xlabel=label, ylabel="mean regret (% points)", log_y=True)


def _ranks_over_time(run: RunData, folder: FigureFolder) -> None:
    rows = run.table("ranks_over_time")
    if not rows:
        return
    _table(folder, "ranks_over_time", rows)
    lines = [
        Line(method, _column(own, "student_epochs"), _column(own, "average_rank"), _place(run, method))
        for method, own in _methods(run, rows).items()
    ]
    line_chart(folder, "ranks_over_time", lines, xlabel="student-epochs", ylabel="average rank", invert=True)


def _final_regrets(run: RunData, folder: FigureFolder) -> None:
    rows = run.table("finals")
    if not rows:
        return
    _table(folder, "finals", rows)
    means = {row["method"]: row for row in run.table("methods")}
    groups = [
        Group(
            method,
            _column(own, "regret", 100),
            _place(run, method),
            *(_percent(means[method][name]) for name in ("regret", "regret_low", "regret_high")),
        )
        for method, own in _methods(run, rows).items()
    ]
    groups.sort(key=lambda group: math.inf if group.mean is None else group.mean)
    strip_chart(folder, "finals", groups, xlabel="final regret (% points)", log_x=True)


_SEARCHES = (_finals, _families, _importance, _dependence, _budget_agreement, _calibration, _confusion, _agreement)
_SEARCH = (_anytime, _trials, _front)
_COMPARISON = (_anytime_mean, _tests, _ranks)
_STUDY = (_regret, _ranks_over_time, _final_regrets, _tests, _ranks)
