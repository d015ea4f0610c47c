"""Charts: every one there, drawn from one definition on the page and on paper, with the numbers of the tables."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import altair as alt
import numpy as np
import pytest
import vl_convert
from report_folders import Text, counts, final, write_baselines, write_comparison, write_search, write_study

from naslib_autokd.records import TrialStore
from naslib_autokd.reports import paper
from naslib_autokd.reports.charts import images
from naslib_autokd.reports.charts.curves import DASHES, by_method, curves, trials
from naslib_autokd.reports.charts.look import N_COLOURS, PAGE, PALETTES, coloured, log_ticks, specification
from naslib_autokd.reports.charts.rows import Group, rank_groups, strips
from naslib_autokd.reports.comparison import anytime_figure
from naslib_autokd.reports.figures import run_charts, write_figures
from naslib_autokd.reports.html import page
from naslib_autokd.reports.paper import COLUMN_WIDTH, for_paper, picture
from naslib_autokd.reports.results import RunData, read_run
from naslib_autokd.runners.pareto import hypervolume_over_time, objective_table
from naslib_autokd.runners.statistics import friedman_test

FINALS = [final(0, 0.91), final(1, 0.92, test_accuracy=0.905), final(2, 0.9, test_accuracy=0.893)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunData]:
    folder = tmp_path_factory.mktemp("runs")
    search = read_run(write_search(folder / "search", 30, finals=FINALS, objectives=("error", "params")), analyse=False)
    importance = [
        {"hyperparameter": name, "importance": share, "sd": 0.1, "r2": 0.41, "n": 45, "trials": "full trainings"}
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
        "baselines": read_run(write_baselines(folder / "baselines")),
    }


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts of several panels are drawn to find their width."""
    monkeypatch.setattr(paper, "picture", lambda *_: b'<svg width="234"')


def drawn(run: RunData) -> dict[str, str]:
    """Every chart of a run at the width of a column, as SVG."""
    found = run_charts(run).items()
    return {name: picture(for_paper(figure.chart, COLUMN_WIDTH), "svg").decode() for name, figure in found}


def texts(svg: str) -> list[tuple[str, float]]:
    """Texts of a drawing, and their sizes."""
    found = [e for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text") if len(e) or e.text]
    return [(" ".join(e.itertext()), float(str(e.get("font-size")).removesuffix("px"))) for e in found]


def png_width(path: Path) -> int:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return int(struct.unpack(">I", content[16:20])[0])


LOSSES = ("1_resnet8--kd", "2_resnet8--labels-only", "3_resnet8--fitnet-hints")
EXPECTED = {
    "search": {
        "anytime": ["student-epochs", "validation accuracy (%)", "incumbent", "full trainings", "teacher (test)"],
        "anytime_trials": ["trials", "validation accuracy (%)"],
        "anytime_seconds": ["seconds", "validation accuracy (%)"],
        "trials": ["trial", "validation accuracy (%)", "agrees with the teacher (% of images)", "9 epochs", "3 epochs"],
        "finals": ["test accuracy (%)", "final students (n = 3)", "teacher (test): 95.0"],
        "families": ["validation accuracy of full trainings (%)", "all other families (n = 10)"],
        "settings": ["KD weight", "channel growth", "downsampling", "validation accuracy (%)"],
        "parallel_coordinates": ["KD weight", "channel growth", "average", "inactive", "validation, %"],
        "importance": ["what shuffling costs (% of variance); held-out R2 = 0.41, n = 45", "bottom operation dropout"],
        "partial_dependence": ["KD weight", "KD temperature", "top k", "downsampling", "average", "error (%)"],
        "front_params": ["parameters (k)", "student-epochs", "validation error (%)", "dominated share of the box"],
        "budget_agreement": ["rank agreement of families (Kendall's tau)", "3 against 9 epochs (n = 5)"],
        "calibration": ["confidence (%)", "accuracy (%)", "images (%)", "student, ECE 9.0%", "teacher, ECE 6.0%"],
        "confusion_student": ["class that the student names", "true class", "18", "2"],
        "confusion_teacher": ["class that the teacher names", "true class", "19", "1"],
        "agreement": ["test images (%)", "both right", "both wrong, differently"],
    },
    "comparison": {
        "anytime": ["student-epochs of the search", "validation accuracy (%)", "AutoKD", "DARTS", "teacher (test)"],
        "trials": ["trial"],
        "finals": ["test accuracy (%)", "AutoKD", "DARTS with KD", "DARTS"],
        "settings": ["KD weight"],
        "parallel_coordinates": ["KD weight", "validation, %"],
        **{f"calibration_{name}": ["confidence (%)"] for name in ("1_autokd", "2_darts-with-kd", "3_darts")},
        **{f"confusion_student_{name}": ["true class"] for name in ("1_autokd", "2_darts-with-kd", "3_darts")},
        "confusion_teacher": ["class that the teacher names"],
        "agreement": ["DARTS with KD", "only the teacher right"],
        "tests": ["AutoKD minus the method, test accuracy (% points)", "DARTS (p = 0.00013)"],
        "critical_difference": ["average rank (1 is the best)", "AutoKD (1.00)", "DARTS (3.00)"],
    },
    "baselines": {
        "finals": ["test accuracy (%)", "resnet8, KD", "teacher (test): 95.0"],
        **{f"calibration_{name}": ["confidence (%)"] for name in LOSSES},
        **{f"confusion_student_{name}": ["true class"] for name in LOSSES},
        "agreement": ["both right"],
        "tests": ["test accuracy minus that with plain KD (% points)"],
        "confusion_teacher": ["true class"],
    },
    "study": {
        "regret_over_student_epochs": ["student-epochs", "mean regret (% points)", "First", "Second"],
        "regret_over_trials": ["trainings (of any length)", "mean regret (% points)"],
        "average_rank": ["student-epochs", "average rank"],
        "final_regret": ["final regret (% points)", "First"],
        "tests": ["regret of the method minus that of First (% points)", "Second (p = 0.031)"],
        "critical_difference": ["critical difference 0.80", "First (1.00)"],
    },
}
"""Every chart of every kind of run, and words that it must show."""

KINDS = [kind if kind == "study" else pytest.param(kind, marks=pytest.mark.slow) for kind in EXPECTED]
"""Of which one is quick."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_chart_is_drawn_at_a_columns_width_and_named_with_its_unit(kind: str, runs: dict[str, RunData]) -> None:
    charts = drawn(runs[kind])
    assert set(charts) == set(EXPECTED[kind])
    for name, words in EXPECTED[kind].items():
        found = texts(charts[name])
        shown = {text for text, _ in found}
        assert set(words) <= shown, (name, set(words) - shown)
        assert {size for _, size in found} <= {8.0, 6.8}, name  # points; 6.8: counts in a matrix
        assert 214 <= float(ElementTree.fromstring(charts[name]).get("width", "")) <= 235.5, name


@pytest.mark.parametrize("kind", KINDS)
def test_no_mark_is_in_the_black_that_vega_takes_without_a_colour(kind: str, runs: dict[str, RunData]) -> None:
    """It would not be seen on the dark page."""
    for name, figure in run_charts(runs[kind]).items():
        spec = coloured({**specification(figure.chart), "config": PAGE}, PALETTES["dark"])
        svg = str(vl_convert.vegalite_to_svg(spec))
        assert not re.findall(r'(?:fill|stroke)="(?:black|#000|#000000)"', svg), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_chart_is_on_the_page(kind: str, runs: dict[str, RunData]) -> None:
    """The same object: what the page's script is given are the chart's own specification and data."""
    payload = Text(page([runs[kind]])).payload
    on_page = [json.dumps(variant["spec"], sort_keys=True) for views in payload["charts"].values() for variant in views]
    for name, figure in run_charts(runs[kind]).items():
        own = specification(figure.chart)
        data = own.pop("datasets")
        if name == "budget_agreement":  # one pair of budgets is a sentence
            continue
        assert json.dumps({k: v for k, v in own.items() if k not in ("$schema", "config")}, sort_keys=True) in on_page
        for key, rows in data.items():
            table = payload["data"][key]
            assert len(table["rows"]) == len(rows)
            assert dict(zip(table["columns"], table["rows"][0], strict=True)).items() >= rows[0].items()


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(EXPECTED))
def test_every_chart_is_valid_vega_lite(kind: str, runs: dict[str, RunData]) -> None:
    for name, figure in run_charts(runs[kind]).items():
        assert alt.Chart.from_dict(specification(figure.chart)).to_dict(), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(EXPECTED))
def test_every_chart_is_written_in_every_format_and_width(kind: str, runs: dict[str, RunData], tmp_path: Path) -> None:
    for width, dots in (("single", 975), ("double", 2025)):
        folder = tmp_path / width
        files = write_figures(runs[kind], folder, formats=("pdf", "png", "svg"), width=width)
        assert all(path.is_file() for path in files)
        assert len(set(files)) == len(files)
        for name in EXPECTED[kind]:
            assert png_width(folder / f"{name}.png") == pytest.approx(dots, abs=84), name
            assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF-1.")
            assert (folder / f"{name}.svg").read_bytes().startswith(b"<svg")


def test_the_chart_beside_a_figure_is_whole(runs: dict[str, RunData], tmp_path: Path) -> None:
    """A ``.vl.json`` file needs nothing of ours: it has its data, and drawn it is the figure."""
    write_figures(runs["study"], tmp_path, formats=("svg",))
    spec = json.loads((tmp_path / "final_regret.vl.json").read_text(encoding="utf-8"))
    assert spec["$schema"].startswith("https://vega.github.io/schema/vega-lite/v6")
    assert picture(spec, "svg") == (tmp_path / "final_regret.svg").read_bytes()
    points = [row["x"] for rows in spec["datasets"].values() for row in rows if "tip" in row]
    assert points == pytest.approx([100 * row["regret"] for row in runs["study"].table("finals")])
    assert "@" not in json.dumps(spec["config"]), "colours are those of a paper"


@pytest.mark.parametrize(
    ("kind", "tables"),
    [
        (
            "search",
            ["anytime", "trials", "finals", "families", "importance", "front", "budget_agreement", "calibration"],
        ),
        ("comparison", ["finals", "tests"]),
        (
            "study",
            {
                **{"regret_over_student_epochs": "anytime", "regret_over_trials": "anytime_trials"},
                **{"average_rank": "ranks_over_time", "final_regret": "finals", "tests": "tests"},
            },
        ),
    ],
)
def test_csv_files_hold_the_tables(
    kind: str, tables: list[str] | dict[str, str], runs: dict[str, RunData], tmp_path: Path, undrawn: None
) -> None:
    write_figures(runs[kind], tmp_path, formats=())
    for file_name, name in tables.items() if isinstance(tables, dict) else zip(tables, tables, strict=True):
        with open(tmp_path / f"{file_name}.csv", newline="", encoding="utf-8") as file:
            read = list(csv.DictReader(file))
        rows = runs[kind].table(name)
        assert len(read) == len(rows)
        for line, row in zip(read, rows, strict=True):
            for column, value in row.items():
                assert line[column] == ("" if value is None else str(value)), (name, column)
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".json"}


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


def test_the_hypervolume_is_that_of_the_trials(runs: dict[str, RunData], tmp_path: Path, undrawn: None) -> None:
    write_figures(runs["search"], tmp_path, formats=())
    trials = list(TrialStore(runs["search"].folder / "trials.jsonl"))
    values, _ = objective_table(trials, ["error", "params"])
    expected = hypervolume_over_time(trials, ["error", "params"], values.min(axis=0), values.max(axis=0))
    with open(tmp_path / "hypervolume.csv", newline="", encoding="utf-8") as file:
        found = [tuple(map(float, row.values())) for row in csv.DictReader(file)]
    np.testing.assert_allclose(found, expected)
    assert len(found) > 5


def test_equal_runs_give_equal_files(runs: dict[str, RunData], tmp_path: Path) -> None:
    few = {name: runs["study"].table(name) for name in ("anytime", "ranks")}
    run = replace(runs["study"], tables=few)
    files = write_figures(run, tmp_path / "a")
    assert {path.name.split(".", 1)[1] for path in files} == {"csv", "vl.json", "pdf", "png"}
    assert {path.name.split(".", 1)[0] for path in files} == {"regret_over_student_epochs", "critical_difference"}
    for path in write_figures(run, tmp_path / "b", formats=("png",)):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_texts_are_in_the_files_with_their_fonts(runs: dict[str, RunData]) -> None:
    """Publishers ask for embedded fonts; an unknown font would leave all texts out without a word."""
    chart = run_charts(runs["study"])["critical_difference"].chart
    content = picture(for_paper(chart, COLUMN_WIDTH), "pdf")
    parts = []
    for part in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
        with contextlib.suppress(zlib.error):
            parts.append(zlib.decompress(part))
    whole = content + b"".join(parts)
    assert re.search(rb"/FontFile[23]", whole)
    assert b"/Type3" not in whole


def test_an_unfinished_run_has_the_figures_of_what_there_is(tmp_path: Path, undrawn: None) -> None:
    failures = {1: ("diverged", "the loss is nan")}
    run = read_run(write_search(tmp_path / "run", 5, state="running", failures=failures), analyse=False)
    found = run_charts(run)
    assert {"anytime", "trials", "families"} <= set(found)
    assert not any(name.startswith(("finals", "confusion", "importance")) for name in found)
    two = write_comparison(tmp_path / "two", 1, finished=False, failed=("DARTS", 0, "out of memory"))
    files = write_figures(read_run(two, analyse=False), tmp_path / "two_figures", formats=())
    assert {"anytime.vl.json", "finals.vl.json"} <= {path.name for path in files}


def test_wrong_widths_and_formats_are_refused_before_anything_is_written(
    runs: dict[str, RunData], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="width must be one of single, double, got 'singel'; did you mean 'single'"):
        write_figures(runs["study"], tmp_path / "x", width="singel")
    with pytest.raises(ValueError, match="formats must be of pdf, png, svg, got 'jpg'"):
        write_figures(runs["study"], tmp_path / "x", formats=("pdf", "jpg"))
    assert not (tmp_path / "x").exists()


def test_many_methods_with_long_names_are_all_named() -> None:
    rng = np.random.default_rng(0)
    names = [f"a method with a rather long name (variant {i}) $x_{i}$" for i in range(12)]
    rows = [{"method": name, "x": x, "y": rng.gamma(2) / x} for name in names for x in range(1, 20)]
    lines = curves(rows, "x", "y", methods=names, x_title="student-epochs", y_title="regret (% points)", log_y=True)
    groups = [Group(name, rng.gamma(2, size=9).tolist(), i, 2.0, 1.0, 3.0) for i, name in enumerate(names)]
    for chart in (lines, strips(groups, "final regret (% points)")):
        svg = picture(for_paper(chart, COLUMN_WIDTH), "svg").decode()
        assert set(names) <= {text for text, _ in texts(svg)}
        assert float(ElementTree.fromstring(svg).get("width", "")) == pytest.approx(234, abs=1.5)
    looks = json.dumps(specification(lines))
    assert looks.count("[6, 3]") >= 1, "from the eighth on, lines are dashed"


def test_a_legend_shows_the_dashes_that_tell_methods_of_one_colour_apart() -> None:
    names = [f"method {i}" for i in range(N_COLOURS + 1)]
    few, many = (by_method(some, some) for some in (names[:-1], names))
    assert "strokeDash" not in few
    sizes = {many[name].to_dict()["legend"]["symbolSize"] for name in ("color", "strokeDash")}
    assert min(sizes) ** 0.5 >= max(map(sum, DASHES))
    assert len(sizes) == 1


def test_panels_of_settings_have_one_axis_of_the_accuracy(runs: dict[str, RunData]) -> None:
    """Also where a setting is inactive in the best and the worst trainings."""
    spec = specification(run_charts(runs["search"])["settings"].chart)
    domains = {tuple(panel["encoding"]["y"]["scale"]["domain"]) for panel in spec["concat"]}
    (rows,) = spec["datasets"].values()
    accuracies = [row["y"] for row in rows]
    assert domains == {(min(accuracies), max(accuracies))}
    assert any(
        {row["y"] for row in rows if row[f"s{i}"] is not None} < set(accuracies) for i in range(len(spec["concat"]))
    )


NAMED: dict[str, Any] = {"x_title": "epochs", "y_title": "accuracy"}


def test_a_curve_under_the_thick_one_is_seen() -> None:
    rows = [{"method": name, "x": x, "y": 0.9} for name in ("ours", "as good") for x in (1.0, 2.0)]
    found = specification(curves(rows, "x", "y", methods=["ours", "as good"], emphasised="ours", **NAMED))
    lines = [own for own in found["layer"] if own["mark"]["type"] == "line"]  # from the lowest to the uppermost
    assert [found["datasets"][own["data"]["name"]][0]["method"] for own in lines] == ["ours", "as good"]


def test_a_curve_of_one_point_is_seen() -> None:
    rows = [{"method": "long", "x": x, "y": 0.9} for x in (1.0, 2.0)] + [{"method": "short", "x": 1.0, "y": 0.8}]
    chart = curves(rows, "x", "y", methods=["long", "short"], **NAMED)
    found = specification(chart)
    seen = [own for own in found["layer"] if own["mark"]["type"] == "point" and own["mark"].get("opacity") != 0]
    (points,) = (found["datasets"][own["data"]["name"]] for own in seen)
    assert [row["method"] for row in points] == ["short"]


@pytest.mark.parametrize("value", [48.8, 0.0488, 1250.5])
def test_the_only_tick_of_an_axis_is_where_it_says(value: float) -> None:
    charts = [
        strips([Group("family", [value, value], mean=value)], "accuracy (%)", factor=1.0),
        strips([Group("family", [value, value], mean=value)], "accuracy (%)", factor=1.0, violins=(0.0, 1e4)),
        curves([{"method": "one", "x": x, "y": value / 100} for x in (1.0, 2.0)], "x", "y", methods=["one"], **NAMED),
    ]
    for chart in charts:
        shown = [text for text, _ in texts(picture(for_paper(chart, COLUMN_WIDTH), "svg").decode())]
        assert f"{value:,}" in shown


def test_no_tick_stands_between_two_trials() -> None:
    about = {"budget_epochs": 9, "teacher_agreement": None, "n_params": None}
    for n in (2, 3, 9, 30):
        rows = [{"number": i - 1, "id": i - 1, "val_accuracy": 0.8 + i / 100, **about} for i in range(n)]
        ticks = [text for text, _ in texts(picture(for_paper(trials(rows), COLUMN_WIDTH), "svg").decode())]
        named = ticks[: ticks.index("trial")]
        assert len(named) > 1
        assert not [text for text in named if "." in text], named


def test_the_figure_of_a_comparison_names_every_method(runs: dict[str, RunData], tmp_path: Path) -> None:
    for suffix in ("png", "pdf", "svg"):
        anytime_figure(runs["comparison"], tmp_path / f"anytime.{suffix}")
        assert (tmp_path / f"anytime.{suffix}").stat().st_size > 5000
    shown = [text for text, _ in texts((tmp_path / "anytime.svg").read_text())]
    assert [shown.count(method) for method in runs["comparison"].methods] == [2, 2, 2]  # the legend, beside the row
    assert "1" not in shown  # no legend of places
    ticks = shown[: shown.index("test accuracy (%)")]  # of all three axes: those of the right chart come last
    assert all(re.fullmatch(r"[\d.]+", text) for text in ticks[-2:]), ticks


def test_a_method_without_a_curve_leaves_the_others_their_colours() -> None:
    """Beside the strips of a comparison's final students, which has all of them (the default family has no search)."""
    names = ["a", "without a curve", "c"]
    rows = [{"method": name, "x": x, "y": 1 / x} for name in ("a", "c") for x in (1, 2, 3)]
    chart = curves(rows, "x", "y", methods=names, x_title="epochs", y_title="regret", dashed=["c"])
    colours = [layer["encoding"]["color"] for layer in specification(chart)["layer"] if "color" in layer["encoding"]]
    assert colours
    assert all(colour["scale"]["domain"] == names for colour in colours)
    assert all(colour["legend"]["values"] == ["a", "c"] for colour in colours)
    assert "without a curve" not in {text for text, _ in texts(picture(for_paper(chart, COLUMN_WIDTH), "svg").decode())}


@pytest.mark.parametrize(("low", "high"), [(9, 540), (1e3, 5e6), (0.5, 1.1)])
def test_ticks_of_a_logarithmic_axis_are_in_its_range(low: float, high: float) -> None:
    assert len([tick for tick in log_ticks([low, high]) if low <= tick <= high]) >= 2


def test_values_at_zero_are_drawn_at_the_edge_and_said() -> None:
    spec = specification(strips([Group("one", [1e-9, 1.0, 2.0, 30.0, 4.0, 9.0])], "regret (%)", factor=1.0, log=True))
    points = [row["x"] for rows in spec["datasets"].values() for row in rows if "tip" in row]
    floor = min(points)
    assert floor > 1e-3 or floor == pytest.approx(1e-9)
    titles = re.findall(r'"title": "(regret[^"]*)"', json.dumps(spec))
    assert titles
    assert all("or less)" in title for title in titles) == (floor > 1e-9)


def test_groups_of_equal_ranks_are_those_of_the_test() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        found = friedman_test(rng.normal(size=(7, 6)) + np.arange(7)[:, None] * rng.uniform(0, 1))
        order = np.argsort(found.average_ranks, kind="stable")
        groups = rank_groups(list(found.average_ranks[order]), found.critical_difference)
        assert [tuple(order[first : last + 1]) for first, last in groups] == list(found.groups)


def test_the_palette_is_okabe_and_itos() -> None:
    own = {PALETTES["paper"][f"c{i}"] for i in range(N_COLOURS)}
    assert own == {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"}
    assert set(PALETTES["light"]) == set(PALETTES["dark"]) == set(PALETTES["paper"])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_few_and_many_confusions_have_one_hue(theme: str) -> None:
    rows = [{"true": "a", "predicted": name, "n": n} for name, n in (("a", 85), ("b", 4), ("c", 11))]
    spec = {**specification(images.confusion(rows, ["a", "b", "c"], "student")), "config": PAGE}
    svg = str(vl_convert.vegalite_to_svg(coloured(spec, PALETTES[theme])))
    found = np.array(re.findall(r'fill="rgb\((\d+), (\d+), (\d+)\)"', svg), dtype=float)
    ground, heat = (np.array([*bytes.fromhex(PALETTES[theme][name][1:])], dtype=float) for name in ("bg", "heat"))
    np.testing.assert_allclose(found, [ground + share * (heat - ground) for share in (4 / 11, 1.0)], atol=1)


def test_lines_of_the_worst_trainings_do_not_look_as_outside_a_range(runs: dict[str, RunData]) -> None:
    spec = specification(run_charts(runs["search"])["parallel_coordinates"].chart)
    colour = spec["layer"][0]["encoding"]["color"]
    assert colour["value"] == "@grid"  # outside
    assert "@grid" not in colour["condition"]["scale"]["range"]


def test_counts_of_many_classes_are_a_matrix_without_numbers(tmp_path: Path) -> None:
    classes = tuple(f"class {i}" for i in range(40))
    finals = [final(0, 0.9, test_counts=counts(classes, n=400))]
    run = read_run(write_search(tmp_path / "run", 4, finals=finals), analyse=False)
    spec = specification(run_charts(run)["confusion_student"].chart)
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["rect"]
