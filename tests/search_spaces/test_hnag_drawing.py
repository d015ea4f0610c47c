"""Pictures of wirings: everything is drawn once and where it belongs, files are valid, global state is left alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_hnag_generator import MIXED, PUBLISHED, SMALL, generators

from naslib_autokd.cli import main
from naslib_autokd.evaluators.results import FinalResult
from naslib_autokd.reports import wirings
from naslib_autokd.reports.charts.look import specification
from naslib_autokd.reports.wirings import COLOURS, draw_wirings, picture
from naslib_autokd.search_spaces.hnag.edges import Edge, edge_weights, graphs_of, wiring_edges
from naslib_autokd.search_spaces.hnag.generator import ErdosRenyi, Generator, WattsStrogatz
from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.search_spaces.hnag.wiring import OPERATIONS, StudentSpec, Wiring, fit_width
from naslib_autokd.shipping.student_file import ExportError, load_student, read_trained

SVG = "{http://www.w3.org/2000/svg}"
XL = Generator(WattsStrogatz(10, 4, 0.3), ErdosRenyi(10, 0.4), WattsStrogatz(10, 4, 0.3))


def student_of(wiring: Wiring) -> StudentSpec:
    return fit_width(wiring, 2_000_000, in_channels=3, image_size=16, n_classes=10)


def rows_of(*items: Wiring | StudentSpec, **options: Any) -> list[dict[str, Any]]:
    """All that one picture draws."""
    chart = specification(picture(items[0] if len(items) == 1 else items, **options))
    return [row for rows in chart["datasets"].values() for row in rows]


def check_is_whole(wiring: Wiring, rows: list[dict[str, Any]]) -> None:
    cells, n_nodes = range(len(wiring.cells)), [len(cell.nodes) for cell in wiring.cells]
    boxes = Counter(row["key"] for row in rows if "x2" in row and "key" in row)
    assert boxes == Counter([*(f"c{i}" for i in cells), *(f"c{i}/n{j}" for i in cells for j in range(n_nodes[i]))])
    assert Counter((row["key"], row["operation"]) for row in rows if "operation" in row) == Counter(
        (f"c{i}/n{j}/{k}", name)
        for i in cells
        for j in range(n_nodes[i])
        for k, name in enumerate(wiring.cells[i].nodes[j].operations)
    )
    expected = Counter(f"{a}-{b}" for a, b in wiring.graph.edges)
    for i, cell in enumerate(wiring.cells):
        expected.update(f"c{i}/{a}-{b}" for a, b in cell.graph.edges)
        for j, node in enumerate(cell.nodes):
            expected.update(f"c{i}/n{j}/{a}-{b}" for a, b in node.graph.edges)
    assert Counter(row["key"] for row in rows if "merge" in row) == expected


@settings(max_examples=12, deadline=None)
@given(generator=generators(top=6, mid=4, bottom=5), seed=st.integers(0, 1000))
def test_every_node_and_every_edge_is_drawn_once(generator: Generator, seed: int) -> None:
    wiring = generator.sample_wiring(seed)
    rows = rows_of(wiring)
    check_is_whole(wiring, rows)
    assert rows == rows_of(wiring)


def test_a_network_of_1000_operations_is_whole(tmp_path: Path) -> None:
    wiring = XL.sample_wiring(0)
    rng = np.random.default_rng(0)
    spec = student_of(wiring)
    weights = edge_weights(spec, rng.normal(size=spec.wiring.counts.merge_weights).tolist())
    check_is_whole(wiring, rows_of(spec, merge_weights=weights))
    assert wiring.n_operations == 1000
    path = draw_wirings([spec], tmp_path / "large.svg", merge_weights=weights)
    drawn = ElementTree.parse(path).getroot()
    assert sum(1 for e in drawn.iter(f"{SVG}path") if e.get("fill") in COLOURS.values()) >= 1000
    assert path.stat().st_size < 2_500_000


@pytest.mark.parametrize("family", [PUBLISHED, MIXED, XL], ids=["published", "mixed", "1000 operations"])
def test_marks_lie_in_their_frames_frames_in_their_cells_and_none_overlap(family: Generator) -> None:
    layout = wirings._layout(family.sample_wiring(1))
    for place, (left, upper, width, height) in layout.boxes.items():
        if len(place) > 1:
            x, y, w, h = layout.boxes[place[:-1]]
            assert x < left
            assert left + width < x + w
            assert y < upper
            assert upper + height < y + h
    for parent in {place[:-1] for place in layout.boxes}:
        boxes = np.array([box for place, box in layout.boxes.items() if place[:-1] == parent])
        left, upper, right, lower = boxes[:, 0], boxes[:, 1], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
        apart = (right[:, None] < left) | (lower[:, None] < upper)
        assert (apart | apart.T | np.eye(len(boxes), dtype=bool)).all()


def test_edges_start_and_end_at_their_nodes_and_pass_between_the_others() -> None:
    graph = Graph(((), (0,), (1,), (0, 2), (0, 3)))  # a chain with two edges around it
    placed = wirings._block(graph, [wirings._Block(20.0, 20.0)] * 5, 9.0, 17.0, 7.0)
    for (_, source, target), points in placed.edges.items():
        (x, y, _, _), (x_end, y_end, _, _) = placed.boxes[source,], placed.boxes[target,]
        assert points[0] == pytest.approx((x + 10, y + 20))
        assert points[-1] == pytest.approx((x_end + 10, y_end))
        for node in range(source + 1, target):  # straight beside the nodes on the way, at a distance
            left, upper, _, _ = placed.boxes[node,]
            (beside,) = [a[0] for a, b in pairwise(points) if a[0] == b[0] and a[1] <= upper and b[1] >= upper + 20]
            assert not left - 3 < beside < left + 23


def test_positions_keep_their_gaps_and_are_nearest() -> None:
    assert wirings._spread([0.0, 10.0, 11.0], [1, 1, 1], [0.0, 2.0, 7.0]) == pytest.approx([0.0, 8.0, 13.0])
    assert wirings._spread([5.0, 0.0], [3, 1], [0.0, 2.0]) == pytest.approx([3.25, 5.25])


# ---- merge weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [PUBLISHED, MIXED], ids=["sums", "three merges"])
def test_edge_weights_belong_to_the_edges_that_carry_them(family: Generator) -> None:
    """One weight for each edge into a learned merge; one raised scalar raises one edge, drawn thickest."""
    spec = student_of(family.sample_wiring(3))
    student = Student(spec)
    assert student.merge_weights is not None
    n = len(student.merge_weights)
    found = edge_weights(spec, list(range(n)))
    merges = wiring_edges(spec.wiring)
    assert set(found) == {edge for edge, merge in merges.items() if merge in ("sum", "attention")}
    assert len(found) == n
    for index in (0, n // 2, n - 1):
        raised = np.zeros(n)
        raised[index] = 2.0
        (edge,) = (edge for edge, value in edge_weights(spec, raised.tolist()).items() if value > 0.6)
        rows = [row for row in rows_of(spec, merge_weights=edge_weights(spec, raised.tolist())) if row.get("weight")]
        assert [row["key"] for row in rows if row["weight"] > 0.6] == [edge.label]
        assert len(rows) == n


def test_an_edge_weight_scales_exactly_that_input_of_the_network() -> None:
    """Independent of the plan's bookkeeping: without an edge (weight 0) the network computes what the network of the
    wiring without that edge computes, once the latter's other weights are the same."""
    full, without = Graph(((), (0,), (0, 1))), Graph(((), (0,), (1,)))
    single = Generator(WattsStrogatz(3, 2, 0.0), ErdosRenyi(1), WattsStrogatz(1, 0)).sample_wiring(0)
    assert single.graph == full
    spec = student_of(single)
    student = Student(spec).eval()
    assert student.merge_weights is not None
    edges = list(edge_weights(spec, [0.0, 1.0]))
    assert edges == [Edge((), 0, 2), Edge((), 1, 2)]
    values = edge_weights(spec, [-100.0, 100.0])
    assert list(values.values()) == pytest.approx([0.0, 1.0])
    reduced = Wiring(without, ("single",) * 3, single.stages, single.cells)
    small = Student(StudentSpec(reduced, spec.channels, 3, 16, 10)).eval()
    with torch.no_grad():
        student.merge_weights.copy_(torch.tensor([-100.0, 100.0]))
        # the small network lacks the projection of the edge 0-2; all other tensors are the large one's
        shapes = [tuple(p.shape) for p in small.convs]
        order = [s.slot for s in student.plan.steps if s.kind == "conv"]
        into_sum = next(s for s in student.plan.steps if s.kind == "sum").sources[0]
        dropped = next(s.slot for s in student.plan.steps if s.kind == "conv" and s.target == into_sum)
        kept = [student.convs[slot] for slot in order if slot != dropped]
        assert [tuple(p.shape) for p in kept] == shapes
        for target, source in zip(small.convs, kept, strict=True):
            target.copy_(source)
        small.classifier_weight.copy_(student.classifier_weight)
        images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(student(images), small(images))


def test_wrong_numbers_of_weights_and_foreign_edges_are_refused() -> None:
    spec = student_of(PUBLISHED.sample_wiring(0))
    with pytest.raises(ValueError, match=r"has \d+ merge weights, got 2"):
        edge_weights(spec, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"edges that wiring .* lacks, for example 'c0/99-100'"):
        picture(spec, merge_weights={Edge((0,), 99, 100): 0.5})


def save_student(spec: StudentSpec, path: Path, result: dict[str, Any] | None = None) -> Path:
    """The file of a student whose merge weights are drawn with seed 0."""
    student = Student(spec)
    assert student.merge_weights is not None
    with torch.no_grad():
        student.merge_weights.normal_(generator=torch.Generator().manual_seed(0))
    about = {"spec": spec.to_dict(), "classes": ["a"], "mean": [0], "std": [1], "input": [3, 16, 16]}
    metadata = {key: json.dumps(value) for key, value in {**about, "task": "t", "result": result or {}}.items()}
    path.parent.mkdir(exist_ok=True)
    save_file(dict(student.state_dict()), path, metadata)
    return path


def test_the_kept_student_of_a_run_is_read_with_its_weights(tmp_path: Path) -> None:
    spec = student_of(MIXED.sample_wiring(5))
    folder = tmp_path / "students"
    expected = torch.empty(spec.wiring.counts.merge_weights).normal_(generator=torch.Generator().manual_seed(0))
    result = FinalResult("family", 1, "success", "", 9.0, 0.75, 0.5, 1, 1, 1, 1.0)
    save_student(spec, folder / "student-1.safetensors", result.to_dict())
    worse = replace(result, val_accuracy=0.5)
    lines = "".join(json.dumps(each.to_dict()) + "\n" for each in (worse, result))
    (tmp_path / "finals.jsonl").write_text(lines, encoding="utf-8")
    for where in (tmp_path, folder / "student-1.safetensors"):
        read, weights = read_trained(where)
        assert read == spec
        assert list(weights.values()) == pytest.approx(torch.sigmoid(expected).tolist(), abs=1e-6)
    with pytest.raises(ValueError, match="give the run folder of a finished search"):
        read_trained(folder)


@pytest.mark.parametrize("spec", [{"genotype": {}, "channels": [8, 16, 32]}, None])
def test_a_kept_student_without_a_wiring_is_refused(tmp_path: Path, spec: dict[str, Any] | None) -> None:
    """A comparison keeps one of cells where DARTS wins; its report has to be made all the same."""
    about = {"spec": spec, "classes": ["a"], "mean": [0], "std": [1], "input": [3, 16, 16], "task": "t", "result": {}}
    file = tmp_path / "student.safetensors"
    save_file({"weight": torch.zeros(1)}, file, {key: json.dumps(value) for key, value in about.items()})
    for read in (read_trained, load_student):
        with pytest.raises(ExportError, match="students of the HNAG families can be drawn and exported"):
            read(file)


# ---- documents -----------------------------------------------------------------------------------------------------


def texts(path: Path) -> list[str]:
    return ["".join(e.itertext()).replace("\xa0", " ") for e in ElementTree.parse(path).iter(f"{SVG}text")]


def test_a_picture_is_valid_self_contained_and_its_texts_are_text(tmp_path: Path) -> None:
    title, spec = "<script>alert('a & b')</script> ]]>", student_of(MIXED.sample_wiring(0))
    weights = edge_weights(spec, [0.0] * spec.wiring.counts.merge_weights)
    for items, options in (([spec], {"merge_weights": weights}), ([spec.wiring, SMALL.sample_wiring(1)], {})):
        found = picture(items[0] if len(items) == 1 else items, title=title, **options)
        assert found.to_dict(validate=True)["description"].startswith(title)
        path = draw_wirings(items, tmp_path / "one.svg", title=title, **options)
        assert not [e for e in ElementTree.parse(path).iter() if "script" in e.tag]
        assert any("<script>alert('a & b')</script> ]]>" in text for text in texts(path))
        assert not re.search(r"https?://(?!www\.w3\.org/)|url\(|href=|@import", path.read_text(encoding="utf-8"))
    legend = " ".join(texts(draw_wirings([spec], tmp_path / "one.svg", merge_weights=weights)))
    for name, n in Counter(op for cell in spec.wiring.cells for node in cell.nodes for op in node.operations).items():
        assert f"{name} ({n})" in legend
    for words in ("into a concatenation", "makes the mask of an attention merge", "merge weight", "0.45", "stem"):
        assert words in legend


def test_a_family_sheet_names_seeds_parameters_depth_and_merges(tmp_path: Path) -> None:
    students, captions = [student_of(MIXED.sample_wiring(seed)) for seed in (3, 7)], ["seed 3", "seed 7"]
    shown = texts(draw_wirings(students, tmp_path / "sheet.svg", title=f"Family {MIXED.digest}", captions=captions))
    assert f"Family {MIXED.digest}" in shown
    for seed in (3, 7):
        spec = student_of(MIXED.sample_wiring(seed))
        assert f"seed {seed}" in shown
        line = next(s for s in shown if f"depth {spec.depth}" in s)
        assert f"{spec.n_params / 1e6:.2f}M parameters" in line
        merges = Counter(m for _, _, names in graphs_of(spec.wiring) for m in names)
        assert any(
            f"{merges['sum']} sum, {merges['concat']} concat, {merges['attention']} attention" in s for s in shown
        )


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_wiring_and_a_sheet_are_drawn_as_files(tmp_path: Path, suffix: str) -> None:
    spec = fit_width(SMALL.sample_wiring(0), 24_000, in_channels=1, image_size=12, n_classes=10)
    start = {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}[suffix]
    weights = edge_weights(spec, [0.0] * spec.wiring.counts.merge_weights)
    one = draw_wirings([spec], tmp_path / "new" / f"one{suffix}", merge_weights=weights)
    sheet = draw_wirings([spec, MIXED.sample_wiring(1)], tmp_path / f"sheet{suffix}", title="cost in $: 5 $")
    for path in (one, sheet):
        assert path.read_bytes().startswith(start)
        assert path.stat().st_size > 5_000


def test_every_operation_has_a_colour() -> None:
    assert set(COLOURS) == set(OPERATIONS)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_other_suffixes_empty_sheets_and_captions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pictures end in .png, .svg, .pdf, got 'a.txt'"):
        draw_wirings([PUBLISHED.sample_wiring(0)], tmp_path / "a.txt")
    with pytest.raises(ValueError, match="at least one wiring"):
        draw_wirings([], tmp_path / "a.png")
    with pytest.raises(ValueError, match="one for each of the 1 wirings, got 2"):
        picture([SMALL.sample_wiring(0)], captions=["a", "b"])


def test_the_command_draws_a_family_and_a_trained_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = student_of(MIXED.sample_wiring(5))
    file = save_student(spec, tmp_path / "student.safetensors")
    drawing, sheet = tmp_path / "student.svg", tmp_path / "sheet.svg"
    assert main(["sample", "--run", str(file), "--draw", str(drawing), "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["merge_weights"] == {edge.label: weight for edge, weight in read_trained(file)[1].items()}
    assert "Student of student.safetensors, trained" in texts(drawing)
    assert main(["sample", "--count", "2", "--draw", str(sheet)]) == 0
    assert sum("family " in text for text in texts(sheet)) == 2
    assert main(["sample", "--run", str(file), "--preset", "hnag"]) == 2
    assert "--run shows the trained student of a run, which is given: leave out --preset" in capsys.readouterr().err
