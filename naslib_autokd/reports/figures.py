"""Every chart of a run, each defined once: what the page and a paper both show.

`run_charts` makes them by name from the tables of `results.read_run`, by the definitions in `charts`; a chart whose
table is empty is not there. `write_figures` writes them for papers. Accuracies are fractions in tables and percent in
charts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from altair.utils.schemapi import debug_mode

from naslib_autokd.reports.charts import curves, images, rows
from naslib_autokd.reports.charts.curves import thinned
from naslib_autokd.reports.charts.look import AnyChart
from naslib_autokd.reports.charts.rows import Group
from naslib_autokd.reports.paper import DEFAULT_FORMATS, FORMATS, WIDTHS, FigureFolder
from naslib_autokd.reports.results import Row, RunData
from naslib_autokd.reports.tables import UNITS, objectives_of
from naslib_autokd.runners.comparison import BUDGET_UNITS
from naslib_autokd.runners.statistics import SHARE, mean_interval
from naslib_autokd.tasks import did_you_mean


@dataclass(frozen=True)
class Figure:
    """A chart and the table behind it."""

    chart: AnyChart
    table: str
    """Name of the CSV file."""
    rows: Sequence[Row]


Rows = Sequence[Row]
Figures = Iterator[tuple[str, Figure]]
Maker = Callable[[RunData], Figures]


def _of_table(table: str, name: str = "") -> Callable[[Callable[[RunData, Rows], AnyChart | None]], Maker]:
    """Makes the one chart of a table, where it has rows, by what draws it; its CSV is called as the chart."""

    def maker(draw: Callable[[RunData, Rows], AnyChart | None]) -> Maker:
        def make(run: RunData) -> Figures:
            found = run.table(table)
            if found and (chart := draw(run, found)) is not None:
                yield name or table, Figure(chart, name or table, found)

        return make

    return maker


def run_charts(run: RunData) -> dict[str, Figure]:
    """The charts of a run by the names of their files, in the order of `CHARTS`."""
    # that our charts are valid is tested, and takes two seconds; that panels share a selection is meant
    with debug_mode(False), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return dict(figure for make in CHARTS[run.kind] for figure in make(run))


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
    add_figures(folder, run)
    folder.rows("hypervolume", run.table("hypervolume"))
    return folder.files


def add_figures(folder: FigureFolder, run: RunData) -> None:
    """All charts of a run, and their tables."""
    for name, figure in run_charts(run).items():
        if folder.path / f"{figure.table}.csv" not in folder.files:
            folder.rows(figure.table, figure.rows)
        folder.chart(name, figure.chart)


def of_trials(run: RunData, table: str) -> list[Row]:
    """Rows of a table on trials with an ``id``, the same in all tables: by it charts of the page are linked."""
    if run.kind == "search":
        return [{**row, "id": row["number"]} for row in run.table(table)]
    return [{**row, "id": f"{row['method']}, {row['run_seed']}, {row['number']}"} for row in run.table(table)]


def pretty(name: str) -> str:
    """A setting as a reader knows it."""
    return {"temperature": "KD temperature", "kd_weight": "KD weight"}.get(name, name.replace("_", " "))


def by_method(run: RunData, found: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by method, in the order of the run."""
    groups = _grouped(found, lambda row: row["method"])
    return {name: groups[name] for name in (*run.methods, *groups) if name in groups}


def _grouped(found: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in found:
        groups.setdefault(key(row), []).append(row)
    return groups


def file_names(run: RunData, table: str, name: str = "") -> dict[str, str]:
    """Method -> name of its chart, for charts of a table that every method has: with its place where there are several.

    Args:
        name: Of the charts, if it is not the table's.
    """
    methods, name = list(by_method(run, run.table(table))), name or table
    if len(methods) == 1:
        return {methods[0]: name}
    slugs = ["".join(c if c.isalnum() and c.isascii() else "-" for c in method.lower()) for method in methods]
    return {m: f"{name}_{_place(run, m) + 1}_{slug.strip('-')}" for m, slug in zip(methods, slugs, strict=True)}


def _place(run: RunData, method: str) -> int:
    return run.methods.index(method) if method in run.methods else len(run.methods)


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
    done = [{**row, "place": n} for n, row in enumerate(of_trials(run, "trials"), 1) if row["status"] == "success"]
    full = _at_the_largest_budget(done)
    for name, title, column, own in AXES:
        moved = [{**row, column: row[own]} for row in full]
        chart = curves.incumbent_curve(points, moved, column, title, run.teacher.get("test_accuracy"))
        yield name, Figure(chart, "anytime", points)


def _at_the_largest_budget(rows: Sequence[Row]) -> list[Row]:
    largest = max((row["budget_epochs"] for row in rows), default=0)
    return [row for row in rows if row["budget_epochs"] == largest]


def _searches(run: RunData) -> Figures:
    """Means over seeds with their bands, single seeds behind them; supernets are dashed, theirs is another accuracy."""
    means, points = run.table("anytime_mean"), run.table("anytime")
    unit = str(run.settings.get("budget_unit", "student_epochs"))
    if not all(unit in row for row in [*means, *points]):  # results of older versions
        unit = "student_epochs"
    if points:
        look: dict[str, Any] = {"x_title": f"{BUDGET_UNITS[unit]} of the search", "singles": points}
        look |= {"methods": run.methods, "emphasised": next(iter(run.methods), "")}
        look |= {"teacher": run.teacher.get("test_accuracy"), "dashed": {r["method"] for r in points if r["one_shot"]}}
        yield "anytime", Figure(curves.curves(means, unit, "accuracy", **look), "anytime", means or points)


def several_searches(runs: Sequence[RunData]) -> AnyChart:
    """The incumbents of searches over student-epochs, by the names of their folders."""
    points = [{**row, "method": run.name} for run in runs for row in run.table("anytime")]
    methods = list(dict.fromkeys(run.name for run in runs))
    return curves.curves(points, "student_epochs", "accuracy", methods=methods, x_title="student-epochs")


@_of_table("trials")
def _trials(run: RunData, found: Rows) -> AnyChart | None:
    return curves.trials(of_trials(run, "trials")) if any(row["val_accuracy"] is not None for row in found) else None


@_of_table("finals")
def _finals(run: RunData, found: Rows) -> AnyChart | None:
    """Test accuracies of the final students; the mean of a comparison is over seeds, of a search over students."""
    several = run.kind != "search"
    groups = []
    for method, own in by_method(run, (row for row in found if row["test_accuracy"] is not None)).items():
        units = _grouped(own, lambda row: row["seed" if several else "index"]).values()
        mean = mean_interval([fmean(row["test_accuracy"] for row in unit) for unit in units], bounds=SHARE)
        tips = [f"seed {row['seed']}, student {row['index']}{' (kept)' if row['kept'] else ''}" for row in own]
        label = method if several else f"final students (n = {len(own)})"
        values = [row["test_accuracy"] for row in own]
        groups.append(Group(label, values, _place(run, method), mean.mean, mean.low, mean.high, tips=tips))
    teacher = run.teacher.get("test_accuracy")
    lines = {} if teacher is None else {f"teacher (test): {100 * teacher:.1f}": teacher}
    return rows.strips(groups, "test accuracy (%)", lines=lines) if groups else None


@_of_table("families")
def _families(_: RunData, found: Rows) -> AnyChart | None:
    families = _grouped((row for row in found if row["accuracy"] is not None), lambda row: row["group"])
    groups = []
    for index, (label, own) in enumerate(families.items()):
        values = [row["accuracy"] for row in own]
        tips = [f"{row['source']}, family {row['family']}" for row in own]
        groups.append(Group(f"{label} (n = {len(own)})", values, index, fmean(values), tips=tips))
    title = "validation accuracy of full trainings (%)"
    return rows.strips(groups, title, violins=SHARE) if groups else None


def varied_settings(run: RunData) -> tuple[list[Row], list[Row]]:
    """Hyperparameters that differ among the successful trainings at the largest budget, and these trainings."""
    known = [row for row in of_trials(run, "settings") if row["val_accuracy"] is not None]
    found = thinned(_at_the_largest_budget(known))
    meta = [
        {**entry, "title": pretty(entry["name"])}
        for entry in run.table("hyperparameters")
        if len({str(row[entry["name"]]) for row in found if entry["name"] in row}) > 1
    ]
    return meta, found


def _settings(run: RunData) -> Figures:
    meta, found = varied_settings(run)
    for name, draw in {"settings": curves.settings, "parallel_coordinates": curves.parallel}.items():
        if meta:
            yield name, Figure(draw(meta, found), "settings", run.table("settings"))


@_of_table("importance")
def _importance(_: RunData, found: Rows) -> AnyChart:
    shares = [{**row, "label": pretty(row["hyperparameter"])} for row in found]
    title = f"what shuffling costs (% of variance); held-out R2 = {found[0]['r2']:.2f}, n = {found[0]['n']}"
    return rows.importance(shares, title)


@_of_table("dependence", "partial_dependence")
def _dependence(_: RunData, found: Rows) -> AnyChart:
    return curves.dependence(found, {row["hyperparameter"]: pretty(row["hyperparameter"]) for row in found})


def front_figures(run: RunData) -> Figures:
    """Of each objective besides the error."""
    found = run.table("front")
    names = objectives_of(found)[1:]
    for name in names:
        chart = curves.front(found, name, *UNITS[name], run.table("hypervolume"), steps=len(names) == 1)
        yield f"front_{name}", Figure(chart, "front", found)


@_of_table("budget_agreement")
def _budget_agreement(_: RunData, found: Rows) -> AnyChart | None:
    known = (row for row in found if row["kendall_tau"] is not None)
    groups = []
    for index, ((low, high), own) in enumerate(_grouped(known, lambda row: (row["low"], row["high"])).items()):
        label = f"{low} against {high} epochs (n = {sum(row['n'] for row in own)})"
        values = [row["kendall_tau"] for row in own]
        groups.append(Group(label, values, index, fmean(values)))
    title = "rank agreement of families (Kendall's tau)"
    return rows.strips(groups, title, factor=1.0, violins=(-1.0, 1.0), limits=(-1.05, 1.05)) if groups else None


def _calibration(run: RunData) -> Figures:
    names = file_names(run, "calibration")
    for method, own in by_method(run, run.table("calibration")).items():
        yield names[method], Figure(images.calibration(own), names[method], own)


def _confusion(run: RunData) -> Figures:
    """Of each method's kept students, and once of the teacher."""
    own = by_method(run, run.table("confusion"))
    charts = [(name, m, "student") for m, name in file_names(run, "confusion", "confusion_student").items()]
    charts += [("confusion_teacher", method, "teacher") for method in list(own)[:1]]
    for name, method, who in charts:
        found = [row for row in own[method] if row["who"] == who]
        yield name, Figure(images.confusion(found, run.classes, who), name, found)


@_of_table("agreement")
def _agreement(run: RunData, found: Rows) -> AnyChart:
    methods = by_method(run, found).items()
    return rows.agreement([(name, {row["case"]: row["n"] for row in own}) for name, own in methods])


# ---- several methods -----------------------------------------------------------------------------------------------


@_of_table("tests")
def _tests(run: RunData, found: Rows) -> AnyChart:
    """Each method against the reference."""
    reference = run.answer.get("reference", "reference")
    groups = []
    for row in found:
        label = row["method"] + ("" if row["p_holm"] is None else f" (p = {row['p_holm']:.2g})")
        groups.append(Group(label, (), _place(run, row["method"]), row["difference"], row["low"], row["high"]))
    compared = {
        "comparison": f"{reference} minus the method, test accuracy",
        "study": f"regret of the method minus that of {reference}",
        "baselines": "test accuracy minus that with plain KD",
    }[run.kind]
    return rows.strips(groups, f"{compared} (% points)", lines={"": 0.0})


@_of_table("ranks", "critical_difference")
def _ranks(run: RunData, found: Rows) -> AnyChart | None:
    ranks = [(row["method"], row["average_rank"], _place(run, row["method"])) for row in found]
    return rows.critical_difference(ranks, found[0]["critical_difference"]) if len(found) > 1 else None


_REGRET = {"y_title": "mean regret (% points)", "log_y": True}
_RANK = {"y_title": "average rank", "factor": 1.0, "invert": True}
OVER_TIME: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "regret_over_student_epochs": ("anytime", "student_epochs", "regret", _REGRET),
    "regret_over_trials": ("anytime_trials", "trials", "regret", _REGRET),
    "average_rank": ("ranks_over_time", "student_epochs", "average_rank", _RANK),
}
"""Curves of a study: name of the chart, its table, columns and look."""


def _over_time(run: RunData) -> Figures:
    unit, reference = (str(run.answer.get(name, "")) for name in ("unit", "reference"))
    for name, (table, x, y, own) in OVER_TIME.items():
        if found := run.table(table):
            x_title = "trainings (of any length)" if x == "trials" else unit
            look = {**own, "x_title": x_title, "emphasised": reference, "log_x": True}
            yield name, Figure(curves.curves(found, x, y, methods=run.methods, **look), name, found)


@_of_table("finals", "final_regret")
def _final_regrets(run: RunData, found: Rows) -> AnyChart:
    means = {row["method"]: row for row in run.table("methods")}
    groups = []
    for method, own in by_method(run, found).items():
        ends = (means[method][name] for name in ("regret", "regret_low", "regret_high"))
        tips = [f"seed {row['seed']}" for row in own]
        groups.append(Group(method, [row["regret"] for row in own], _place(run, method), *ends, tips=tips))
    groups.sort(key=lambda group: math.inf if group.mean is None else group.mean)  # the best on top
    return rows.strips(groups, "final regret (% points)", log=True)


_ANSWERS = (_calibration, _confusion, _agreement)
_SEARCHED = (_settings, _importance, _dependence, _budget_agreement)
CHARTS: dict[str, tuple[Maker, ...]] = {
    "search": (_anytime, _trials, _families, _finals, *_SEARCHED, *_ANSWERS, front_figures),
    "comparison": (_searches, _trials, _finals, *_SEARCHED, *_ANSWERS, _tests, _ranks),
    "baselines": (_finals, *_ANSWERS, _tests),
    "study": (_over_time, _final_regrets, _tests, _ranks),
}
"""What makes the charts of each kind of run."""
