"""Every chart of a run, each defined once: what the page and a paper both show.

`run_charts` makes them by name from the tables of `results.read_run`, by the definitions in `charts`; a chart whose
table is empty is not there. `write_figures` writes them for papers. Accuracies are fractions in tables and percent in
charts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altair.utils.schemapi import debug_mode

from naslib_autokd.reports.charts import curves, images, rows
from naslib_autokd.reports.charts.curves import thinned
from naslib_autokd.reports.charts.look import AnyChart, percent, percents
from naslib_autokd.reports.charts.methods import (
    comparison_curves,
    front_chart,
    rank_chart,
    regret_curves,
    regret_strips,
)
from naslib_autokd.reports.charts.rows import Group
from naslib_autokd.reports.paper import DEFAULT_FORMATS, FORMATS, WIDTHS, FigureFolder
from naslib_autokd.reports.results import Row, RunData
from naslib_autokd.reports.tables import UNITS
from naslib_autokd.runners.statistics import SHARE, mean_interval
from naslib_autokd.tasks import did_you_mean


@dataclass(frozen=True)
class Figure:
    """A chart and the table behind it."""

    chart: AnyChart
    table: str
    """Name of the CSV file."""
    rows: Sequence[Row]


Figures = Iterator[tuple[str, Figure]]


def run_charts(run: RunData) -> dict[str, Figure]:
    """The charts of a run by the names of their files, in the order of `CHARTS`."""
    with debug_mode(False):  # that our charts are valid is tested, and takes two seconds
        return dict(figure for make in CHARTS.get(run.kind, ()) for figure in make(run))


def write_figures(
    run: RunData, out_dir: str | Path, formats: Sequence[str] = DEFAULT_FORMATS, width: str = "single"
) -> list[Path]:
    """Write the figures and tables of a run into a folder (made if missing) and return their paths.

    Args:
        run: From `results.read_run`: a search, a comparison or a study, finished or not. A chart whose table is empty
            is left out.
        formats: Of "pdf", "png" (300 dots an inch) and "svg".
        width: "single" (3.25 inches, a column) or "double" (6.75 inches, a page).

    Raises:
        ValueError: If a format or the width is unknown.
    """
    if width not in WIDTHS:
        raise ValueError(f"width must be one of {', '.join(WIDTHS)}, got {width!r}{did_you_mean(width, WIDTHS)}")
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"formats must be of {', '.join(FORMATS)}, got {name!r}{did_you_mean(name, FORMATS)}")
    folder = FigureFolder(Path(out_dir), tuple(formats), WIDTHS[width])
    for name, figure in run_charts(run).items():
        if folder.path / f"{figure.table}.csv" not in folder.files:
            folder.rows(figure.table, figure.rows)
        folder.chart(name, figure.chart)
    if run.table("hypervolume"):
        folder.rows("hypervolume", run.table("hypervolume"))
    return folder.files


PRETTY = {"temperature": "KD temperature", "kd_weight": "KD weight"}


def pretty(name: str) -> str:
    """A setting as a reader knows it."""
    return PRETTY.get(name, name.replace("_", " "))


def by_method(run: RunData, found: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by method, in the order of the run."""
    out: dict[str, list[Row]] = {name: [] for name in run.methods}
    for row in found:
        out.setdefault(row["method"], []).append(row)
    return {name: own for name, own in out.items() if own}


def file_names(run: RunData, chart: str) -> dict[str, str]:
    """Method -> name of its chart, for charts that every method has: with its place where there are several."""
    methods = list(by_method(run, run.table(chart)))
    if len(methods) == 1:
        return {methods[0]: chart}
    return {method: f"{chart}_{_place(run, method) + 1}_{_plain(method)}" for method in methods}


def _plain(method: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in method.lower()).strip("-")


def _place(run: RunData, method: str) -> int:
    return run.methods.index(method) if method in run.methods else len(run.methods)


def _teacher(run: RunData) -> float | None:
    return None if run.teacher is None else run.teacher.get("test_accuracy")


def _reference(run: RunData) -> tuple[str, float] | None:
    accuracy = _teacher(run)
    return None if accuracy is None else (f"teacher (test): {100 * accuracy:.1f}", 100 * accuracy)


# ---- searches and comparisons --------------------------------------------------------------------------------------

AXES = (
    ("anytime", "student-epochs", "student_epochs", "spent_epochs"),
    ("anytime_trials", "trials", "trials", "place"),
    ("anytime_seconds", "seconds", "seconds", "spent_s"),
)
"""What a search's curve is over: name of the chart, of the axis, column of the curve and of a trial."""


def _anytime(run: RunData) -> Figures:
    points = run.table("anytime")
    if not points:
        return
    done = [{**row, "place": place} for place, row in enumerate(run.table("trials"), 1) if row["status"] == "success"]
    largest = max((row["budget_epochs"] for row in done), default=0)
    full = [row for row in done if row["budget_epochs"] == largest]
    for name, title, column, own in AXES:
        moved = [{**row, column: row[own]} for row in full]
        yield name, Figure(curves.incumbent_curve(points, moved, column, title, _teacher(run)), "anytime", points)


def _searches(run: RunData) -> Figures:
    means, points = run.table("anytime_mean"), run.table("anytime")
    if points:
        chart = comparison_curves(means, points, run.methods, _teacher(run))
        yield "anytime", Figure(chart, "anytime", means or points)


def several_searches(runs: Sequence[RunData]) -> AnyChart:
    """The incumbents of searches over student-epochs, by the names of their folders."""
    points = [{**row, "method": run.name} for run in runs for row in run.table("anytime")]
    return curves.curves(
        points,
        "student_epochs",
        "accuracy",
        methods=list(dict.fromkeys(run.name for run in runs)),
        x_title="student-epochs",
        y_title="validation accuracy (%)",
    )


def _trials(run: RunData) -> Figures:
    found = run.table("trials")
    if any(row["val_accuracy"] is not None for row in found):
        yield "trials", Figure(curves.trials(found), "trials", found)


def _finals(run: RunData) -> Figures:
    """Test accuracies of the final students; the mean of a comparison is over seeds, of a search over students."""
    several = run.kind != "search"
    groups = []
    for method, own in by_method(run, (row for row in run.table("finals") if row["test_accuracy"] is not None)).items():
        by_seed: dict[Any, list[float]] = {}
        for row in own:
            by_seed.setdefault(row["seed"] if several else row["index"], []).append(row["test_accuracy"])
        found = mean_interval([sum(values) / len(values) for values in by_seed.values()], bounds=SHARE)
        tips = [f"seed {row['seed']}, student {row['index']}{' (kept)' if row['kept'] else ''}" for row in own]
        label = method if several else f"final students (n = {len(own)})"
        values = [100 * row["test_accuracy"] for row in own]
        ends = percents(found.mean, found.low, found.high)
        groups.append(Group(label, values, _place(run, method), *ends, tips=tips))
    if groups:
        chart = rows.strips(groups, "test accuracy (%)", reference=_reference(run))
        yield "finals", Figure(chart, "finals", run.table("finals"))


def _families(run: RunData) -> Figures:
    found = [row for row in run.table("families") if row["accuracy"] is not None]
    groups = []
    for index, label in enumerate(dict.fromkeys(row["group"] for row in found)):
        own = [row for row in found if row["group"] == label]
        values = [100 * row["accuracy"] for row in own]
        tips = [f"{row['source']}, family {row['family']}" for row in own]
        groups.append(Group(f"{label} (n = {len(own)})", values, index, sum(values) / len(values), tips=tips))
    if groups:
        title = "validation accuracy of full trainings (%)"
        chart = rows.strips(groups, title, violins=True, bounds=(0.0, 100.0))
        yield "families", Figure(chart, "families", run.table("families"))


def varied_settings(run: RunData) -> tuple[list[Row], list[Row]]:
    """Hyperparameters that differ among the successful trainings at the largest budget, and these trainings."""
    found = [row for row in run.table("settings") if row["val_accuracy"] is not None]
    largest = max((row["budget_epochs"] for row in found), default=0)
    found = thinned([row for row in found if row["budget_epochs"] == largest])
    meta = [
        {**entry, "title": pretty(entry["name"])}
        for entry in run.table("hyperparameters")
        if len({str(row[entry["name"]]) for row in found if entry["name"] in row}) > 1
    ]
    return meta, found


def _settings(run: RunData) -> Figures:
    meta, found = varied_settings(run)
    if meta:
        yield "settings", Figure(curves.settings(meta, found), "settings", run.table("settings"))


def _importance(run: RunData) -> Figures:
    found = run.table("importance")
    if found:
        shares = [{**row, "label": pretty(str(row["hyperparameter"]))} for row in found]
        title = rows.importance_title(found[0]["r2"], found[0]["n"])
        yield "importance", Figure(rows.importance(shares, title), "importance", found)


def _dependence(run: RunData) -> Figures:
    found = run.table("dependence")
    if found:
        titles = {name: pretty(name) for name in dict.fromkeys(row["hyperparameter"] for row in found)}
        yield "partial_dependence", Figure(curves.dependence(found, titles), "partial_dependence", found)


def _front(run: RunData) -> Figures:
    found = run.table("front")
    names = [name for name in (found[0] if found else ()) if name in UNITS and name != "error"]
    for name in names:
        chart = front_chart(found, name, run.table("hypervolume"), staircase=len(names) == 1)
        yield f"front_{name}", Figure(chart, "front", found)


def _budget_agreement(run: RunData) -> Figures:
    known = [row for row in run.table("budget_agreement") if row["kendall_tau"] is not None]
    groups: list[Group] = []
    for low, high in dict.fromkeys((row["low"], row["high"]) for row in known):
        own = [row for row in known if (row["low"], row["high"]) == (low, high)]
        values = [row["kendall_tau"] for row in own]
        label = f"{low} against {high} epochs (n = {sum(row['n'] for row in own)})"
        groups.append(Group(label, values, len(groups), sum(values) / len(values)))
    if groups:
        title = "rank agreement of families (Kendall's tau)"
        chart = rows.strips(groups, title, violins=True, limits=(-1.05, 1.05), bounds=(-1.0, 1.0))
        yield "budget_agreement", Figure(chart, "budget_agreement", run.table("budget_agreement"))


def _calibration(run: RunData) -> Figures:
    names = file_names(run, "calibration")
    for method, own in by_method(run, run.table("calibration")).items():
        yield names[method], Figure(images.calibration(own), names[method], own)


def _confusion(run: RunData) -> Figures:
    """Of each method's kept students, and once of the teacher."""
    names = file_names(run, "confusion")
    for place, (method, own) in enumerate(by_method(run, run.table("confusion")).items()):
        for who in ("student", "teacher")[: 1 + (place == 0)]:
            mine = [row for row in own if row["who"] == who]
            name = names[method].replace("confusion", "confusion_student", 1)
            name = name if who == "student" else "confusion_teacher"
            if mine:
                yield name, Figure(images.confusion(mine, run.classes, who), name, mine)


def _agreement(run: RunData) -> Figures:
    found = run.table("agreement")
    if found:
        methods = by_method(run, found)
        shares = [(name, {row["case"]: row["n"] for row in own}) for name, own in methods.items()]
        yield "agreement", Figure(rows.agreement(shares), "agreement", found)


# ---- several methods -----------------------------------------------------------------------------------------------


def _tests(run: RunData) -> Figures:
    """Each method against the reference."""
    found = run.table("tests")
    if not found:
        return
    reference = run.answer.get("reference", "reference")
    groups = []
    for row in found:
        p = row.get("p_holm")
        ends = percents(row["difference"], row["low"], row["high"])
        label = row["method"] + ("" if p is None else f" (p = {p:.2g})")
        groups.append(Group(label, (), _place(run, row["method"]), *ends))
    compared = f"{reference} minus the method, test accuracy"
    if run.kind == "study":
        compared = f"regret of the method minus that of {reference}"
    if run.kind == "baselines":
        compared = "test accuracy minus that with plain KD"
    yield "tests", Figure(rows.intervals(groups, f"{compared} (% points)"), "tests", found)


def _ranks(run: RunData) -> Figures:
    found = run.table("ranks")
    if len(found) > 1:
        ranks = [(row["method"], row["average_rank"], _place(run, row["method"])) for row in found]
        chart = rows.critical_difference(ranks, found[0]["critical_difference"])
        yield "critical_difference", Figure(chart, "critical_difference", found)


# ---- studies -------------------------------------------------------------------------------------------------------

STUDY_AXES = (
    ("anytime", "student-epochs", "student_epochs"),
    ("anytime_trials", "trainings (of any length)", "trials"),
)


def _regret(run: RunData) -> Figures:
    for name, title, column in STUDY_AXES:
        found = run.table(name)
        if found:
            reference = run.answer.get("reference", "")
            yield name, Figure(regret_curves(found, column, "regret", title, run.methods, reference), name, found)


def _ranks_over_time(run: RunData) -> Figures:
    found = run.table("ranks_over_time")
    if found:
        chart = rank_chart(found, "average rank", run.methods, run.answer.get("reference", ""))
        yield "ranks_over_time", Figure(chart, "ranks_over_time", found)


def _final_regrets(run: RunData) -> Figures:
    found = run.table("finals")
    means = {row["method"]: row for row in run.table("methods")}
    groups = []
    for method, own in by_method(run, found).items():
        ends = percents(*(means[method][name] for name in ("regret", "regret_low", "regret_high")))
        values = [percent(row["regret"]) for row in own]
        tips = [f"seed {row['seed']}" for row in own]
        groups.append(Group(method, values, _place(run, method), *ends, tips=tips))
    if groups:
        yield "finals", Figure(regret_strips(groups), "finals", found)


_BOTH = (_finals, _settings, _importance, _dependence, _budget_agreement, _calibration, _confusion, _agreement)
CHARTS: dict[str, tuple[Callable[[RunData], Figures], ...]] = {
    "search": (_anytime, _trials, _families, *_BOTH, _front),
    "comparison": (_searches, _trials, *_BOTH, _tests, _ranks),
    "baselines": (_finals, _calibration, _confusion, _agreement, _tests),
    "study": (_regret, _ranks_over_time, _final_regrets, _tests, _ranks),
}
"""What makes the charts of each kind of run."""
