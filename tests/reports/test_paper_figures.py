"""Figures for papers: all there, valid files, the numbers of the tables, and nothing written over something else."""

from __future__ import annotations

import csv
import itertools
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from naslib_autokd.reports.figures import FigureFolder, Group, Line, line_chart, rank_groups, strip_chart
from naslib_autokd.reports.paper_figures import write_figures
from report_folders import counts, final, write_comparison, write_search, write_study

from naslib_autokd.records import TrialStore
from naslib_autokd.reports import figures
from naslib_autokd.reports.run_data import RunData, read_run
from naslib_autokd.runners.pareto import hypervolume_over_time, objective_table
from naslib_autokd.runners.statistics import friedman_test

FINALS = [final(0, 0.91), final(1, 0.92, test_accuracy=0.905), final(2, 0.9, test_accuracy=0.893)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunData]:
    folder = tmp_path_factory.mktemp("runs")
    search = read_run(write_search(folder / "search", 30, finals=FINALS, objectives=("error", "params")), analyse=False)
    importance = [
        {"hyperparameter": name, "importance": share, "sd": 0.1, "r2": 0.41, "n": 45}
        for name, share in (("kd_weight", 0.5), ("channel_growth", 0.25), ("bottom_operation_dropout", -0.01))
    ]
    dependence = [
        {"hyperparameter": name, "value": value, "mean": 0.1 + 0.01 * i, "low": 0.09, "high": 0.2, "log": log}
        for name, values, log in (
            ("kd_weight", (0.0, 0.5, 1.0), False),
            ("temperature", (1.0, 3.0, 10.0), True),
            ("downsampling", ("average", "max"), False),
            ("top_k", (2, 4), False),
        )
        for i, value in enumerate(values)
    ]
    return {
        "search": replace(search, tables={**search.tables, "importance": importance, "dependence": dependence}),
        "comparison": read_run(write_comparison(folder / "comparison"), analyse=False),
        "study": read_run(write_study(folder / "study")),
    }


def boxes(texts: list[Any]) -> list[Any]:
    return [text.get_window_extent() for text in texts if text.get_visible() and text.get_text().strip()]


def check_readable(name: str, figure: Figure, problems: list[str]) -> None:
    """All texts inside the figure and of 8 points or so, tick labels apart from each other, room for the data."""
    width, height = figure.bbox.width, figure.bbox.height
    figure.canvas.draw()
    area = 0.0
    for axes in figure.axes:
        if not axes.get_visible() or not axes.axison:
            continue
        area += axes.get_position().width * axes.get_position().height
        names = [axes.xaxis.label, axes.yaxis.label, axes.title]
        for label in ("x", "y"):
            low, high = sorted(axes.viewLim.intervalx if label == "x" else axes.viewLim.intervaly)
            axis = axes.xaxis if label == "x" else axes.yaxis
            slack = 1e-9 * (high - low)
            ticks = [t.label1 for t in axis.get_major_ticks() if low - slack <= t.get_loc() <= high + slack]
            for one, other in itertools.combinations(boxes(ticks), 2):
                if one.shrunk(0.98, 0.9).overlaps(other.shrunk(0.98, 0.9)):
                    problems.append(f"{name}: tick labels of {label} overlap")
            names += ticks
        for box in boxes(names):
            if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
                problems.append(f"{name}: a text leaves the figure: {box}")
        for text in names:
            if text.get_text() and not 7.5 <= text.get_fontsize() <= 9:
                problems.append(f"{name}: {text.get_text()!r} has {text.get_fontsize()} points")
    for legend in figure.legends:
        box = legend.get_window_extent()
        below = min(axes.get_tightbbox().y0 for axes in figure.axes if axes.axison)  # type: ignore[union-attr]
        if box.y1 > below + 2 or box.x0 < -1 or box.x1 > width + 1 or box.y0 < -2:
            problems.append(f"{name}: the legend covers the axes or leaves the figure")
    if any(axes.axison for axes in figure.axes) and area < 0.1:
        problems.append(f"{name}: {100 * area:.0f}% of the figure is left for the data")


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[str, str]]]:
    """Checks every figure as it is saved; gives the names of the axes of each."""
    seen: dict[str, tuple[str, str]] = {}
    problems: list[str] = []
    save = Figure.savefig

    def savefig(self: Figure, path: Path, **options: Any) -> None:
        if path.stem not in seen:
            check_readable(path.stem, self, problems)
            shown = [axes for axes in self.axes if axes.axison]
            x, y = ([" ".join(getattr(axes, f"get_{k}label")().split()) for axes in shown] for k in "xy")
            seen[path.stem] = ("|".join(filter(None, x)), "|".join(filter(None, [*y, self.get_supylabel()])))
        save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    monkeypatch.setitem(figures.SETTINGS, "savefig.dpi", 50)  # the layout does not depend on it
    yield seen
    assert not problems, "\n".join(problems)


def png_width(path: Path) -> int:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return int(struct.unpack(">I", content[16:20])[0])


EXPECTED = {
    "search": {
        "anytime": ("student-epochs", "best validation accuracy (%)"),
        "trials": ("trial", "validation accuracy (%)"),
        "finals": ("test accuracy (%)", ""),
        "families": ("validation accuracy of full trainings (%)", ""),
        "importance": ("what shuffling costs (% of variance)", ""),
        "partial_dependence": ("kd_weight", "validation error (%)"),
        "front_params": ("parameters (k)|student-epochs", "validation error (%)|dominated share of the box"),
        "budget_agreement": ("rank agreement of families (Kendall's tau)", ""),
        "calibration": ("confidence (%)", "accuracy (%)|images (%)"),
        "confusion_student": ("class that the student names", "true class|share of the true class (%)"),
        "confusion_teacher": ("class that the teacher names", "true class|share of the true class (%)"),
        "agreement": ("test images (%)", ""),
    },
    "comparison": {
        "anytime": ("student-epochs of the search", "validation accuracy (%)"),
        "finals": ("test accuracy (%)", ""),
        "tests": ("AutoKD minus the method, test accuracy (% points)", ""),
        "critical_difference": ("", ""),
    },
    "study": {
        "anytime": ("student-epochs", "mean regret (% points)"),
        "anytime_trials": ("trainings (of any length)", "mean regret (% points)"),
        "ranks_over_time": ("student-epochs", "average rank"),
        "finals": ("final regret (% points", ""),
        "tests": ("regret of the method minus that of First (% points)", ""),
        "critical_difference": ("", ""),
    },
}


@pytest.mark.parametrize("kind", list(EXPECTED))
def test_every_chart_is_there_readable_and_named_with_its_unit(
    kind: str, runs: dict[str, RunData], readable: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    files = write_figures(runs[kind], tmp_path / "new" / "figures", formats=("png",))
    assert all(path.is_file() for path in files)
    assert len(set(files)) == len(files)
    for name, (x, y) in EXPECTED[kind].items():
        assert readable[name][0].startswith(x) or x in readable[name][0], name
        assert readable[name][1] == y, name
        assert png_width(tmp_path / "new" / "figures" / f"{name}.png") == 162  # 3.25 inches at 50 dots
    if kind == "comparison":  # what a method has of its own, under its name
        assert "confusion_student_3_darts" in readable
        assert set(EXPECTED[kind]) < set(readable)
    else:
        assert set(readable) == set(EXPECTED[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(EXPECTED))
def test_figures_of_a_pages_width_are_readable_too(
    kind: str, runs: dict[str, RunData], readable: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    files = write_figures(runs[kind], tmp_path, formats=("png",), width="double")
    assert png_width(tmp_path / "anytime.png") == 337  # 6.75 inches
    assert {path.stem for path in files if path.suffix == ".png"} == set(readable)


@pytest.mark.parametrize(
    ("kind", "tables"),
    [
        (
            "search",
            ["anytime", "trials", "finals", "families", "importance", "front", "budget_agreement", "calibration"],
        ),
        ("comparison", ["finals", "tests"]),
        ("study", ["anytime", "anytime_trials", "ranks_over_time", "finals", "tests"]),
    ],
)
def test_csv_files_hold_the_tables(kind: str, tables: list[str], runs: dict[str, RunData], tmp_path: Path) -> None:
    write_figures(runs[kind], tmp_path, formats=())
    for name in tables:
        with open(tmp_path / f"{name}.csv", newline="", encoding="utf-8") as file:
            read = list(csv.DictReader(file))
        rows = runs[kind].table(name)
        assert len(read) == len(rows)
        for line, row in zip(read, rows, strict=True):
            for column, value in row.items():
                assert line[column] == ("" if value is None else str(value)), (name, column)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".csv"]


@pytest.mark.slow
def test_the_comparisons_curves_are_the_means_and_pairs_are_from_the_tables(
    runs: dict[str, RunData], tmp_path: Path
) -> None:
    write_figures(runs["comparison"], tmp_path, formats=())
    with open(tmp_path / "anytime.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "AutoKD"]
    assert [(float(row["student_epochs"]), float(row["accuracy"])) for row in rows] == [
        (9.0, pytest.approx(0.815)),
        (27.0, pytest.approx(0.85)),
        (45.0, pytest.approx(0.88)),
    ]
    with open(tmp_path / "confusion_student_1_autokd.csv", newline="", encoding="utf-8") as file:
        matrix = {(row["true"], row["predicted"]): int(row["n"]) for row in csv.DictReader(file)}
    assert matrix["0", "0"] == 4 * (20 - 2)  # four seeds, two of the 20 errors in each class
    assert matrix["0", "1"] == 4 * 2


def test_the_hypervolume_is_that_of_the_trials(runs: dict[str, RunData], tmp_path: Path) -> None:
    write_figures(runs["search"], tmp_path, formats=())
    trials = list(TrialStore(runs["search"].folder / "trials.jsonl"))
    values, _ = objective_table(trials, ["error", "params"])
    expected = hypervolume_over_time(trials, ["error", "params"], values.min(axis=0), values.max(axis=0))
    with open(tmp_path / "hypervolume.csv", newline="", encoding="utf-8") as file:
        found = [tuple(map(float, row.values())) for row in csv.DictReader(file)]
    np.testing.assert_allclose(found, expected)
    assert len(found) > 5


def test_pdf_files_embed_their_fonts_and_equal_runs_give_equal_files(runs: dict[str, RunData], tmp_path: Path) -> None:
    few = {name: runs["study"].table(name) for name in ("anytime", "ranks")}
    run = replace(runs["study"], tables=few)
    files = write_figures(run, tmp_path / "a")
    assert {path.stem for path in files} == {"anytime", "critical_difference"}
    assert {path.suffix for path in files} == {".csv", ".pdf", ".png"}
    for path in files:
        if path.suffix == ".pdf":
            content = path.read_bytes()
            assert content.startswith(b"%PDF-1.4")
            assert content.rstrip().endswith(b"%%EOF")
            assert b"/FontFile2" in content  # TrueType outlines, which is type 42 in PDF
            assert b"/Type3" not in content
        if path.suffix == ".png":
            assert png_width(path) == 975  # 3.25 inches at 300 dots
    for path in write_figures(run, tmp_path / "b", formats=("pdf",)):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_an_unfinished_run_has_the_figures_of_what_there_is(
    readable: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    failures = {1: ("diverged", "the loss is nan")}
    run = read_run(write_search(tmp_path / "run", 5, state="running", failures=failures), analyse=False)
    files = write_figures(run, tmp_path / "figures", formats=("png",))
    assert {path.stem for path in files} == {"anytime", "trials", "families", "budget_agreement"} - (
        set() if run.table("budget_agreement") else {"budget_agreement"}
    )
    assert {"anytime", "trials", "families"} <= set(readable)
    assert not any(name.startswith(("finals", "confusion", "importance")) for name in readable)
    (tmp_path / "empty").mkdir()
    assert write_figures(read_run(tmp_path / "empty"), tmp_path / "none") == []
    two = read_run(
        write_comparison(tmp_path / "two", 1, finished=False, failed=("DARTS", 0, "out of memory")), analyse=False
    )
    files = write_figures(two, tmp_path / "two_figures", formats=("png",))
    assert {"anytime.png", "finals.png"} <= {path.name for path in files}


def test_wrong_widths_and_formats_are_refused_before_anything_is_written(
    runs: dict[str, RunData], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="width must be one of single, double, got 'singel'; did you mean 'single'"):
        write_figures(runs["study"], tmp_path / "x", width="singel")
    with pytest.raises(ValueError, match="formats must be of pdf, png, svg, got 'jpg'"):
        write_figures(runs["study"], tmp_path / "x", formats=("pdf", "jpg"))
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_many_methods_with_long_names_stay_readable(readable: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"a method with a rather long name (variant {i}) $x_{i}$" for i in range(12)]
    folder = FigureFolder(tmp_path, ("png",))
    x = np.arange(1, 60)
    lines = [Line(name, x, rng.gamma(2, size=59) / x, i) for i, name in enumerate(names)]
    line_chart(folder, "lines", lines, xlabel="student-epochs", ylabel="regret (% points)", log_y=True)
    groups = [Group(name, rng.gamma(2, size=9), i, 2.0, 1.0, 3.0) for i, name in enumerate(names)]
    strip_chart(folder, "strips", groups, xlabel="final regret, over many seeds and all of the budgets (% points)")
    strip_chart(folder, "violins", groups[:1], xlabel="regret (%)", violins=True, baseline=("the teacher", 1.0))
    assert set(readable) == {"lines", "strips", "violins"}
    # as wide as the column: long names fold, or go below
    assert {png_width(tmp_path / f"{name}.png") for name in readable} == {162}


def test_groups_of_equal_ranks_are_those_of_the_test() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        found = friedman_test(rng.normal(size=(7, 6)) + np.arange(7)[:, None] * rng.uniform(0, 1))
        order = np.argsort(found.average_ranks, kind="stable")
        groups = rank_groups(list(found.average_ranks[order]), found.critical_difference)
        assert [tuple(order[first : last + 1]) for first, last in groups] == list(found.groups)


def test_the_palette_is_okabe_and_itos_and_styles_repeat_late() -> None:
    assert len({figures.style(i)["color"] for i in range(7)}) == 7
    assert len({(s["color"], str(s["linestyle"])) for s in map(figures.style, range(28))}) == 28
    assert set(figures.COLOURS) == {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"}


@pytest.mark.slow
def test_counts_of_many_classes_are_a_matrix_without_numbers(
    readable: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    classes = tuple(f"class {i}" for i in range(40))
    finals = [final(0, 0.9, test_counts=counts(classes, n=400))]
    run = read_run(write_search(tmp_path / "run", 4, finals=finals), analyse=False)
    write_figures(run, tmp_path / "figures", formats=("png",))
    assert "confusion_student" in readable
