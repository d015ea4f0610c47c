"""Pictures of students: one wiring with its three levels, or a sheet of several from one family, as SVG, PNG or PDF.

How to read them. Cells stand from left to right, in their order, on the colour of their stage; arcs above them are the
edges of the top graph and run to the right. A cell holds frames, one for each node of its mid graph; a frame holds one
mark for each operation. Inside cells and frames all edges run downwards: a node's row is the longest path to it, edges
over several rows go around the nodes between. Edges that enter a learned merge can carry its weight after training
(`edge_weights`), as width and colour.

Every picture is laid out once, as a list of shapes in pixels, and written as an SVG of our own (no scripts, no fonts,
no references to anything outside; equal wirings give equal bytes), which vl-convert turns into PNG and PDF. Nothing is
left out of large wirings: `svg` draws every node and every edge of a network of 1000 operations as an element of its
own (about 400 kB), but from `DETAILED` operations on without kernel sizes in the marks and without tooltips. A sheet
draws all edges, and all marks of an operation, together, and small ones without bends.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from naslib_autokd.reports.terminal import n_parameters
from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.wiring import MERGES, NO_MERGE, OPERATIONS, Cell, StudentSpec, Wiring

if TYPE_CHECKING:
    from naslib_autokd.search_spaces.hnag.generator import Generator

SUFFIXES = (".png", ".svg", ".pdf")

COLOURS = {
    "conv3x3": "#4477aa",
    "conv5x5": "#223377",
    "conv1x1": "#88ccee",
    "conv1x3": "#44aa99",
    "conv3x1": "#117733",
    "avgpool3x3": "#ddcc77",
    "avgpool5x5": "#997700",
    "maxpool3x3": "#ee8866",
    "maxpool5x5": "#cc3311",
    "separable3x3": "#aa4499",
    "separable5x5": "#662255",
}
"""Of the operations; told apart with the common colour blindnesses, by shape (`_SHAPES`) and the size in the mark."""

STAGE_COLOURS = ("#4477aa", "#228833", "#ee7733")
"""Of the stages, at `_STAGE_OPACITY`, so that they suit light and dark pages."""
_STAGE_OPACITY = 0.12

WEIGHT_COLOURS = ("#8c9bab", "#d55e00")
"""Of the smallest and the largest merge weight of a picture; both readable on white and on black."""
WEIGHT_WIDTHS = (0.8, 4.2)
"""Pixels, likewise."""

DETAILED = 150
"""From so many operations on, marks have no kernel size in them and edges no tooltip."""

_SHAPES = {"conv": "circle", "separable": "diamond", "average": "square", "max": "hexagon"}
_RADIUS = 10.0
_INK, _PAPER = "#1a1a1a", "#ffffff"

Point = tuple[float, float]
Curve = tuple[tuple[str, tuple[float, ...]], ...]
"""("M", (x, y)), ("L", (x, y)) and ("C", (x1, y1, x2, y2, x, y)) in turn, as in SVG."""


class Edge(NamedTuple):
    """An edge of one of a wiring's graphs."""

    level: str
    """"top", "mid" or "bottom"."""
    cell: int | None
    """Top node whose graph it is; None at the top level."""
    node: int | None
    """Mid node whose graph it is; None above the bottom level."""
    source: int
    target: int

    @property
    def label(self) -> str:
        """``"0-2"``, ``"c3/0-2"`` or ``"c3/n1/0-2"``."""
        return _place(self.cell, self.node) + f"{self.source}-{self.target}"


def _place(cell: int | None, node: int | None) -> str:
    return ("" if cell is None else f"c{cell}/") + ("" if node is None else f"n{node}/")


def _graphs(wiring: Wiring) -> Iterator[tuple[str, int | None, int | None, Graph, tuple[str, ...]]]:
    """(level, cell, node, graph, merges) of every graph, the top one first."""
    yield "top", None, None, wiring.graph, wiring.merges
    for top, cell in enumerate(wiring.cells):
        yield "mid", top, None, cell.graph, cell.merges
        for mid, bottom in enumerate(cell.nodes):
            yield "bottom", top, mid, bottom.graph, bottom.merges


def wiring_edges(wiring: Wiring) -> dict[Edge, str]:
    """Every edge, with the merge of its target ("sum", "concat", "attention", or "single" for an only input)."""
    return {
        Edge(level, cell, node, source, target): merges[target]
        for level, cell, node, graph, merges in _graphs(wiring)
        for source, target in graph.edges
    }


def edge_weights(spec: StudentSpec, merge_weights: Sequence[float]) -> dict[Edge, float]:
    """The weight of every edge that enters a learned merge: ``sigmoid(w)``, in (0, 1), 0.73 before training.

    In an attention merge the first input's weight is added to the mask that the input makes (`student.Student`);
    inputs of concatenations and only inputs have no weight and are left out.

    Args:
        merge_weights: ``(n,)``: the raw values of `student.Student.merge_weights`, in its order.

    Raises:
        ValueError: If their number is not the student's.
    """
    from naslib_autokd.search_spaces.hnag.steps import Plan

    plan, wiring = Plan(spec), spec.wiring
    if len(merge_weights) != plan.n_merge_weights:
        raise ValueError(
            f"a student of wiring {wiring.digest} has {plan.n_merge_weights} merge weights, got {len(merge_weights)}"
        )
    steps = (step for step in plan.steps if step.kind in MERGES and step.kind != "concat")
    found: dict[Edge, float] = {}

    def merge(level: str, cell: int | None, node: int | None, graph: Graph, merges: Sequence[str], target: int) -> None:
        if merges[target] not in ("sum", "attention"):
            return
        step = next(steps)  # the plan makes its steps in the order of this walk
        assert step.kind == merges[target]
        for place, source in enumerate(graph.predecessors[target]):
            weight = float(merge_weights[step.slot + place])
            found[Edge(level, cell, node, source, target)] = 0.5 * (1.0 + math.tanh(0.5 * weight))

    for top, cell in enumerate(wiring.cells):
        merge("top", None, None, wiring.graph, wiring.merges, top)
        for mid, bottom in enumerate(cell.nodes):
            merge("mid", top, None, cell.graph, cell.merges, mid)
            for target in range(bottom.graph.n_nodes):
                merge("bottom", top, mid, bottom.graph, bottom.merges, target)
    assert next(steps, None) is None
    return found


def read_trained(run: str | Path) -> tuple[StudentSpec, dict[Edge, float]]:
    """The student that a run keeps, or that of a ``.safetensors`` file, and the weights of its edges after training.

    Raises:
        runners.export.ExportError: If there is none (yet), or the file cannot be read.
    """
    from safetensors import safe_open

    from naslib_autokd.runners.export import kept_student, read_student

    path = kept_student(run)
    spec = StudentSpec.from_dict(read_student(path).spec)
    with safe_open(path, framework="np") as file:
        weights = file.get_tensor("merge_weights") if "merge_weights" in file.keys() else ()  # noqa: SIM118 (no dict)
    return spec, edge_weights(spec, [float(weight) for weight in weights])


# ---- the layout of one graph ---------------------------------------------------------------------------------------


def _ranks(graph: Graph) -> list[int]:
    """Row of each node: the longest path that ends there."""
    rows: list[int] = []
    for sources in graph.predecessors:
        rows.append(max([rows[source] + 1 for source in sources], default=0))
    return rows


def _fit_positions(wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Positions in the given order, at least ``gaps[i]`` between i and i + 1, nearest to ``wanted`` in least squares.

    Pool-adjacent-violators on the positions less the cumulated gaps.
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    blocks: list[tuple[float, float, int]] = []  # (mean, weight, members)
    for value, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, total, size = value - offset, weight, 1
        while blocks and blocks[-1][0] >= mean:
            other, other_total, other_size = blocks.pop()
            mean = (mean * total + other * other_total) / (total + other_total)
            total, size = total + other_total, size + other_size
        blocks.append((mean, total, size))
    means = [mean for mean, _, size in blocks for _ in range(size)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


@dataclass(frozen=True)
class _Layered:
    """A graph drawn downwards, its upper left corner at (0, 0)."""

    corners: list[Point]
    """Upper left corner of each node."""
    curves: dict[tuple[int, int], Curve]
    width: float
    height: float


def _layered(graph: Graph, sizes: Sequence[Point], gap: float, row_gap: float) -> _Layered:
    """Rows by longest path; edges over several rows pass the rows between on lanes of their own.

    The method of Sugiyama, Tagawa & Toda (1981): order within the rows by the mean place of the neighbours, up and
    down, keeping the order with the fewest crossings; then places nearest to the neighbours' that keep the gaps.
    """
    ranks = _ranks(graph)
    rows: list[list[int]] = [[] for _ in range(max(ranks) + 1)]
    above: list[list[int]] = [[] for _ in ranks]
    below: list[list[int]] = [[] for _ in ranks]
    for node, rank in enumerate(ranks):
        rows[rank].append(node)
    lanes: dict[tuple[int, int], list[int]] = {}  # of each edge: the dummy nodes on its way
    for source, target in graph.edges:
        before, way = source, []
        for rank in range(ranks[source] + 1, ranks[target] + 1):
            item = target if rank == ranks[target] else len(above)
            if item != target:
                above.append([])
                below.append([])
                rows[rank].append(item)
                way.append(item)
            below[before].append(item)
            above[item].append(before)
            before = item
        lanes[source, target] = way

    def crossings() -> int:
        total = 0
        for upper, lower in pairwise(rows):
            place = {item: index for index, item in enumerate(lower)}
            seen: list[int] = []  # ends of the edges so far, sorted: those right of a new end cross it
            for item in upper:
                ends = [place[other] for other in below[item]]
                total += sum(len(seen) - bisect_right(seen, end) for end in ends)
                for end in ends:
                    insort(seen, end)
        return total

    best, fewest = [list(row) for row in rows], crossings()
    for sweep in range(8):
        if fewest == 0:
            break
        downwards = sweep % 2 == 0
        order = range(1, len(rows)) if downwards else range(len(rows) - 2, -1, -1)
        for index in order:
            place = {item: i for i, item in enumerate(rows[index - 1 if downwards else index + 1])}
            neighbours = above if downwards else below
            own = {item: i for i, item in enumerate(rows[index])}

            def mean(item: int, place: dict[int, int] = place, own: dict[int, int] = own, n: Any = neighbours) -> float:
                return sum(place[o] for o in n[item]) / len(n[item]) if n[item] else float(own[item])

            rows[index].sort(key=mean)
        if (now := crossings()) < fewest:
            best, fewest = [list(row) for row in rows], now
    rows = best

    n_nodes = len(sizes)

    def width(item: int) -> float:
        return sizes[item][0] if item < n_nodes else 0.0

    def room(a: int, b: int) -> float:
        both_lanes = a >= n_nodes and b >= n_nodes
        return (width(a) + width(b)) / 2 + (0.7 * gap if both_lanes else gap)

    centres = [0.0] * len(above)
    for row in rows:
        x = 0.0
        for index, item in enumerate(row):
            x += room(row[index - 1], item) if index else 0.0
            centres[item] = x
        middle = x / 2
        for item in row:
            centres[item] -= middle
    for sweep in range(10):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted, weights = [], []
            for item in row:
                near = above[item] + below[item]
                wanted.append(sum(centres[o] for o in near) / len(near) if near else centres[item])
                weights.append(4.0 if item >= n_nodes else 1.0)  # straight lanes before centred nodes
            gaps = [room(a, b) for a, b in pairwise(row)]
            for item, x in zip(row, _fit_positions(wanted, weights, gaps), strict=True):
                centres[item] = x
    left = min(centres[item] - width(item) / 2 for row in rows for item in row)
    right = max(centres[item] + width(item) / 2 for row in rows for item in row)
    heights = [max(sizes[item][1] for item in row if item < n_nodes) for row in rows]
    tops = [sum(heights[:rank]) + rank * row_gap for rank in range(len(rows))]

    corners = []
    for node, rank in enumerate(ranks):
        y = tops[rank] + (heights[rank] - sizes[node][1]) / 2
        corners.append((centres[node] - width(node) / 2 - left, y))
    curves = {}
    for (source, target), way in lanes.items():
        x, y = centres[source] - left, corners[source][1] + sizes[source][1]
        curve: list[tuple[str, tuple[float, ...]]] = [("M", (x, y))]
        for rank, item in enumerate([source, *way, target], ranks[source]):
            # curved between the rows, straight beside the nodes of a row
            if item != source:
                x_next, y_next = centres[item] - left, tops[rank]
                bend = (y_next - y) / 2
                curve.append(("C", (x, y + bend, x_next, y_next - bend, x_next, y_next)))
                x, y = x_next, y_next
            end = corners[target][1] if item == target else tops[rank] + heights[rank]
            if end - y > 0.05:
                y = end
                curve.append(("L", (x, y)))
        curves[source, target] = tuple(curve)
    return _Layered(corners, curves, right - left, tops[-1] + heights[-1])


# ---- the layout of a wiring ----------------------------------------------------------------------------------------


@dataclass
class _Layout:
    """A wiring in pixels; y grows downwards, the upper left corner is (0, 0)."""

    width: float = 0.0
    height: float = 0.0
    bands: list[tuple[int, float, float]] = field(default_factory=list)
    """(stage, left, right)."""
    cells: list[tuple[float, float, float, float]] = field(default_factory=list)
    """(left, top, width, height)."""
    frames: dict[tuple[int, int], tuple[float, float, float, float]] = field(default_factory=dict)
    """Of (cell, node)."""
    marks: dict[tuple[int, int, int], Point] = field(default_factory=dict)
    """Centre of (cell, node, operation)."""
    edges: dict[Edge, Curve] = field(default_factory=dict)
    ends: list[tuple[str, Curve]] = field(default_factory=list)
    """From the stem, to the head, and from and to the borders of cells and frames."""
    stem: Point = (0.0, 0.0)
    head: Point = (0.0, 0.0)
    floor: float = 0.0
    """Where the cells start."""


_FRAME_PAD, _CELL_PAD, _CELL_GAP, _STUB = 7.0, 9.0, 26.0, 7.0


def _shifted(curve: Curve, dx: float, dy: float, scale: float = 1.0) -> Curve:
    return tuple(
        (code, tuple(scale * value + (dy if index % 2 else dx) for index, value in enumerate(values)))
        for code, values in curve
    )


def _stubs(graph: Graph, boxes: Sequence[tuple[float, float, float, float]], top: float, bottom: float) -> list[Curve]:
    """Short lines from the border to nodes without predecessors, and from nodes without successors to the border."""
    lines: list[Curve] = []
    for node in graph.inputs:
        x, y, width, _ = boxes[node]
        lines.append((("M", (x + width / 2, max(top, y - _STUB))), ("L", (x + width / 2, y))))
    for node in graph.outputs:
        x, y, width, height = boxes[node]
        lines.append((("M", (x + width / 2, y + height)), ("L", (x + width / 2, min(bottom, y + height + _STUB)))))
    return lines


def _cell_layouts(cell: Cell) -> tuple[_Layered, list[_Layered], float, float]:
    """The mid graph, the bottom graphs, and the cell's width and height."""
    mark = 2 * _RADIUS
    inner = [_layered(node.graph, [(mark, mark)] * node.graph.n_nodes, 9.0, 17.0) for node in cell.nodes]
    sizes = [(one.width + 2 * _FRAME_PAD, one.height + 2 * (_FRAME_PAD)) for one in inner]
    outer = _layered(cell.graph, sizes, 12.0, 20.0)
    return outer, inner, outer.width + 2 * _CELL_PAD, outer.height + 2 * _CELL_PAD


def _layout(wiring: Wiring) -> _Layout:
    layout = _Layout()
    n_cells = len(wiring.cells)

    # The stem and the head take part in the arcs as if they were cells -1 and n_cells.
    arcs = [(a, b) for a, b in wiring.graph.edges]
    arcs += [(-1, node) for node in wiring.graph.inputs] + [(node, n_cells) for node in wiring.graph.outputs]
    inside = [_cell_layouts(cell) for cell in wiring.cells]
    steep = math.sqrt(max(1.0, sum(width for _, _, width, _ in inside) / (90.0 * n_cells)))  # arcs over wide cells

    def arc_height(distance: int) -> float:
        return 16.0 * steep * distance**0.85

    layout.floor = floor = arc_height(max(b - a for a, b in arcs)) + 4.0

    margin = max(62.0, 0.03 * sum(width for _, _, width, _ in inside))  # of the stem's and the head's names
    x = margin
    spans: dict[int, tuple[float, float]] = {}
    for top, (cell, stage) in enumerate(zip(wiring.cells, wiring.stages, strict=True)):
        outer, inner, width, height = inside[top]
        layout.cells.append((x, floor, width, height))
        boxes = []
        for mid, (corner, one) in enumerate(zip(outer.corners, inner, strict=True)):
            left, upper = x + _CELL_PAD + corner[0], floor + _CELL_PAD + corner[1]
            box = (left, upper, one.width + 2 * _FRAME_PAD, one.height + 2 * _FRAME_PAD)
            layout.frames[top, mid] = box
            boxes.append(box)
            dx, dy = left + _FRAME_PAD, upper + _FRAME_PAD
            marks = [(dx + cx, dy + cy, 2 * _RADIUS, 2 * _RADIUS) for cx, cy in one.corners]
            for index, (cx, cy, _, _) in enumerate(marks):
                layout.marks[top, mid, index] = (cx + _RADIUS, cy + _RADIUS)
            for (source, target), curve in one.curves.items():
                layout.edges[Edge("bottom", top, mid, source, target)] = _shifted(curve, dx, dy)
            graph = cell.nodes[mid].graph
            layout.ends += [("stub", line) for line in _stubs(graph, marks, upper, upper + box[3])]
        for (source, target), curve in outer.curves.items():
            layout.edges[Edge("mid", top, None, source, target)] = _shifted(curve, x + _CELL_PAD, floor + _CELL_PAD)
        layout.ends += [("stub", line) for line in _stubs(cell.graph, boxes, floor, floor + height)]
        left = spans.get(stage, (x, 0.0))[0]
        spans[stage] = (left, x + width)
        x += width + _CELL_GAP
    layout.width = x - _CELL_GAP + margin
    layout.height = floor + max(height for _, _, _, height in layout.cells) + 8.0
    layout.bands = [(stage, left - _CELL_GAP / 2, right + _CELL_GAP / 2) for stage, (left, right) in spans.items()]
    layout.stem, layout.head = (margin / 2 - 6, floor + 12.0), (layout.width - margin / 2 + 6, floor + 12.0)

    # Arrivals share the left half of a cell's top, departures the right half; the farther, the nearer to the middle on
    # arrival and the farther left on departure, so that arcs which share a cell do not cross.
    def port(node: int, other: int) -> float:
        if node in (-1, n_cells):
            return layout.stem[0] if node == -1 else layout.head[0]
        left, _, width, _ = layout.cells[node]
        arriving = other < node
        group = sorted({a if arriving else b for a, b in arcs if (b if arriving else a) == node}, reverse=True)
        share = (group.index(other) + 1) / (len(group) + 1)
        return left + width * (0.08 + 0.40 * share + (0.0 if arriving else 0.44))

    for a, b in arcs:
        start, end, rise = port(a, b), port(b, a), arc_height(b - a) / 0.75
        arc: Curve = (("M", (start, floor)), ("C", (start, floor - rise, end, floor - rise, end, floor)))
        if a == -1 or b == n_cells:
            layout.ends.append(("stem" if a == -1 else "head", arc))
        else:
            layout.edges[Edge("top", None, None, a, b)] = arc
    return layout


# ---- shapes --------------------------------------------------------------------------------------------------------


class _Rectangle(NamedTuple):
    box: tuple[float, float, float, float]
    radius: float
    style: str
    key: str = ""
    width: float | None = None
    """Of its line, if it is not that of the style."""


class _Line(NamedTuple):
    curves: tuple[Curve, ...]
    style: str
    key: str = ""
    tooltip: str = ""
    width: float | None = None
    weight: int | None = None
    """Class of its merge weight, of `_N_WEIGHTS`, which gives width and colour."""


class _Mark(NamedTuple):
    centres: tuple[Point, ...]
    radius: float
    operation: str
    key: str = ""
    tooltip: str = ""
    text: str = ""


class _Text(NamedTuple):
    place: Point
    text: str
    size: float
    anchor: str = "start"
    bold: bool = False
    faint: bool = False


_Shape = _Rectangle | _Line | _Mark | _Text

_STYLES: dict[str, dict[str, Any]] = {
    **{f"stage{i}": {"fill": colour, "fill-opacity": _STAGE_OPACITY} for i, colour in enumerate(STAGE_COLOURS)},
    "cell": {"fill": "none", "stroke": "ink", "stroke-opacity": 0.65, "stroke-width": 1.1},
    "frame": {"fill": "ink", "fill-opacity": 0.05, "stroke": "ink", "stroke-opacity": 0.3, "stroke-width": 0.8},
    "edge": {"fill": "none", "stroke": "ink", "stroke-opacity": 0.6, "stroke-width": 1.1},
    "concat": {"fill": "none", "stroke": "ink", "stroke-opacity": 0.6, "stroke-width": 1.1, "stroke-dasharray": "5 3"},
    "mask": {"fill": "none", "stroke": "ink", "stroke-opacity": 0.6, "stroke-width": 1.1, "stroke-dasharray": "2 2"},
    "end": {"fill": "none", "stroke": "ink", "stroke-opacity": 0.35, "stroke-width": 0.9},
}


@dataclass(frozen=True)
class _Picture:
    width: float
    height: float
    shapes: list[_Shape]
    title: str
    description: str
    digits: int = 1
    """Decimals of coordinates."""


_N_WEIGHTS = 24


def _mix(share: float) -> str:
    """Colour between `WEIGHT_COLOURS`, for a share in [0, 1]."""
    low, high = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in WEIGHT_COLOURS)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(low, high, strict=True))


class _WeightScale:
    """From the weights of a picture to one of `_N_WEIGHTS` widths and colours."""

    def __init__(self, weights: Mapping[Edge, float]) -> None:
        self.low, self.high = min(weights.values()), max(weights.values())
        if self.high - self.low < 0.1:  # differences of nothing look like nothing
            middle = (self.low + self.high) / 2
            self.low, self.high = middle - 0.05, middle + 0.05

    def __call__(self, weight: float) -> int:
        share = (weight - self.low) / (self.high - self.low)
        return round(min(1.0, max(0.0, share)) * (_N_WEIGHTS - 1))

    def samples(self) -> list[float]:
        return [self.low + share * (self.high - self.low) for share in (0.0, 0.5, 1.0)]


def _weight_style(index: int) -> tuple[float, str]:
    """Width and colour of a class of weights."""
    share = index / (_N_WEIGHTS - 1)
    return WEIGHT_WIDTHS[0] + share * (WEIGHT_WIDTHS[1] - WEIGHT_WIDTHS[0]), _mix(share)


def _kernel(operation: str) -> str:
    return f"{OPERATIONS[operation].height}×{OPERATIONS[operation].width}"  # noqa: RUF001 (a times sign)


def _network_shapes(
    wiring: Wiring,
    layout: _Layout,
    weights: Mapping[Edge, float],
    scale: _WeightScale | None,
    detailed: bool,
) -> list[_Shape]:
    """Every node and every edge as a shape of its own."""
    shapes: list[_Shape] = []
    for top, box in enumerate(layout.cells):
        shapes.append(_Rectangle(box, 6.0, "cell", f"c{top}"))
    for (top, mid), box in layout.frames.items():
        shapes.append(_Rectangle(box, 4.0, "frame", f"c{top}/n{mid}"))
    shapes.append(_Line(tuple(curve for _, curve in layout.ends), "end"))
    merges = wiring_edges(wiring)
    first = {
        (level, cell, node, target): sources[0]
        for level, cell, node, graph, _ in _graphs(wiring)
        for target, sources in enumerate(graph.predecessors)
        if sources
    }
    for edge, curve in layout.edges.items():
        merge, weight = merges[edge], weights.get(edge)
        where = {"top": "cells", "mid": f"cell {edge.cell}, nodes", "bottom": f"cell {edge.cell}, node {edge.node},"}
        tooltip = f"{where[edge.level]} {edge.source} to {edge.target}, {merge}" if detailed else ""
        style = "concat" if merge == "concat" else "edge"
        if merge == "attention" and first[edge.level, edge.cell, edge.node, edge.target] == edge.source:
            style = "mask"
        if weight is not None:
            tooltip += f", weight {weight:.3f}" if detailed else ""
        index = None if weight is None or scale is None else scale(weight)
        shapes.append(_Line((curve,), style, edge.label, tooltip, weight=index))
    for (top, mid, index), centre in layout.marks.items():
        operation = wiring.cells[top].nodes[mid].operations[index]
        tooltip = f"cell {top}, node {mid}, operation {index}: {operation}" if detailed else ""
        text = _kernel(operation) if detailed else ""
        shapes.append(_Mark((centre,), _RADIUS, operation, f"c{top}/n{mid}/{index}", tooltip, text))
    return shapes


def _small_network(wiring: Wiring, layout: _Layout, scale: float, dx: float, dy: float) -> list[_Shape]:
    """A tile of a sheet: frames as shapes of their own, the edges of a kind and the marks of an operation together."""
    shapes: list[_Shape] = []

    def moved(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        return box[0] * scale + dx, box[1] * scale + dy, box[2] * scale, box[3] * scale

    for stage, left, right in layout.bands:
        shapes.append(_Rectangle(moved((left, 0.0, right - left, layout.height)), 0.0, f"stage{stage}"))
    thin = max(0.4, scale)
    shapes += [_Rectangle(moved(box), 6.0 * scale, "cell", width=thin) for box in layout.cells]
    shapes += [_Rectangle(moved(box), 4.0 * scale, "frame", width=0.6 * thin) for box in layout.frames.values()]

    def small(curve: Curve) -> Curve:
        if scale < 0.4:  # nobody sees the bends
            curve = tuple((code if code == "M" else "L", values[-2:]) for code, values in curve)
        return _shifted(curve, dx, dy, scale)

    outer = [_shifted(curve, dx, dy, scale) for kind, curve in layout.ends if kind != "stub"]
    shapes.append(_Line(tuple(outer), "end", width=thin))
    kinds: dict[str, list[Curve]] = {}
    for edge, merge in wiring_edges(wiring).items():
        style = "concat" if merge == "concat" else "edge"
        curve = layout.edges[edge]
        kinds.setdefault(style, []).append(small(curve) if edge.level != "top" else _shifted(curve, dx, dy, scale))
    for style, curves in sorted(kinds.items()):
        shapes.append(_Line(tuple(curves), style, width=thin))
    centres: dict[str, list[Point]] = {}
    for (top, mid, index), (x, y) in layout.marks.items():
        operation = wiring.cells[top].nodes[mid].operations[index]
        centres.setdefault(operation, []).append((x * scale + dx, y * scale + dy))
    shapes += [_Mark(tuple(points), _RADIUS * scale, operation) for operation, points in sorted(centres.items())]
    return shapes


# ---- pictures ------------------------------------------------------------------------------------------------------


def _parts(item: Wiring | StudentSpec) -> tuple[Wiring, StudentSpec | None]:
    return (item.wiring, item) if isinstance(item, StudentSpec) else (item, None)


def _used_operations(wirings: Sequence[Wiring]) -> Counter[str]:
    return Counter(name for w in wirings for cell in w.cells for node in cell.nodes for name in node.operations)


def _used_merges(wirings: Sequence[Wiring]) -> Counter[str]:
    """Number of nodes, over all levels, of every merge that is used."""
    found = Counter(name for w in wirings for _, _, _, _, merges in _graphs(w) for name in merges if name in MERGES)
    return Counter({name: found[name] for name in MERGES if found[name]})


def _merge_text(wirings: Sequence[Wiring]) -> str:
    found = _used_merges(wirings)
    return ", ".join(f"{n} {name}" for name, n in found.items()) if found else "none"


def _params_text(n_params: int) -> str:
    if n_params < 10_000:
        return f"{n_params:,} parameters"
    return f"{n_parameters(n_params)} parameters"


def _text_width(text: str, size: float) -> float:
    """Pixels, by the width of an average letter of a sans-serif font."""
    return 0.56 * size * len(text)


def _legend(
    wirings: Sequence[Wiring], scale: _WeightScale | None, x: float, y: float, width: float, unit: float
) -> tuple[list[_Shape], float]:
    """The shapes of a legend in lines of at most ``width``, and where it ends."""
    size, shapes = 11.0 * unit, list[_Shape]()
    start, line = x, 20.0 * unit

    def advance(needed: float) -> None:
        nonlocal x, y
        if x > start and x + needed > start + width:
            x, y = start, y + line

    counts = _used_operations(wirings)
    for name in OPERATIONS:
        if counts[name]:
            text = f"{name} ({counts[name]})" if len(wirings) == 1 else name
            needed = 20.0 * unit + _text_width(text, size) + 16.0 * unit
            advance(needed)
            shapes.append(_Mark(((x + 8.0 * unit, y),), 6.0 * unit, name))
            shapes.append(_Text((x + 19.0 * unit, y + 0.35 * size), text, size))
            x += needed
    lines: list[tuple[str, str, int | None]] = []
    merges = _used_merges(wirings)
    if merges["concat"]:
        lines.append(("concat", "into a concatenation", None))
    if merges["attention"] and len(wirings) == 1:
        lines.append(("mask", "makes the mask of an attention merge", None))
    if scale is not None:
        names = [f"{weight:.2f}" for weight in scale.samples()]
        names[0] = f"merge weight {names[0]}"
        lines += [("edge", name, scale(weight)) for name, weight in zip(names, scale.samples(), strict=True)]
        if any(merge == NO_MERGE for w in wirings for merge in wiring_edges(w).values()):
            lines.append(("edge", "only input: no weight", None))
    for style, text, weight_class in lines:
        needed = 32.0 * unit + _text_width(text, size) + 14.0 * unit
        advance(needed)
        curve: Curve = (("M", (x, y)), ("L", (x + 26.0 * unit, y)))
        shapes.append(_Line((curve,), style, weight=weight_class))
        shapes.append(_Text((x + 32.0 * unit, y + 0.35 * size), text, size))
        x += needed
    return shapes, y + line


def _wrapped(text: str, size: float, width: float, separator: str = " ") -> list[str]:
    """Lines of at most about ``width``, broken at the separator only."""
    lines: list[str] = []
    for word in text.split(separator):
        if lines and _text_width(lines[-1] + separator + word, size) <= width:
            lines[-1] += separator + word
        else:
            lines.append(word)
    return lines


def _describe(wiring: Wiring, weights: Mapping[Edge, float]) -> str:
    stages = ", ".join(f"{n} in stage {stage + 1}" for stage, n in sorted(Counter(wiring.stages).items()))
    operations = ", ".join(f"{n} {name}" for name, n in sorted(_used_operations([wiring]).items()))
    text = (
        f"A network of three levels: {len(wiring.cells)} cells from left to right ({stages}), "
        f"{sum(len(cell.nodes) for cell in wiring.cells)} nodes inside the cells, {wiring.n_operations} operations "
        f"inside the nodes ({operations}); {len(wiring_edges(wiring))} edges; the longest path has {wiring.depth} "
        f"operations. Merges: {_merge_text([wiring])}."
    )
    if weights:
        text += f" Learned merge weights lie between {min(weights.values()):.2f} and {max(weights.values()):.2f}."
    return text


def _picture(item: Wiring | StudentSpec, merge_weights: Mapping[Edge, float] | None, title: str) -> _Picture:
    wiring, spec = _parts(item)
    weights = dict(merge_weights or {})
    edges = wiring_edges(wiring)
    unknown = [edge for edge in weights if edge not in edges]
    if unknown:
        raise ValueError(f"merge_weights has edges that wiring {wiring.digest} lacks, for example {unknown[0].label!r}")
    scale = _WeightScale(weights) if weights else None
    layout = _layout(wiring)
    detailed = wiring.n_operations < DETAILED
    unit = max(1.0, layout.width / 1400)  # a large drawing is seen scaled down; its texts shall not be
    pad = 14.0 * unit
    width = max(layout.width, 620.0) + 2 * pad
    room = width - 2 * pad

    facts = [f"{wiring.n_operations} operations", f"depth {wiring.depth}", f"merges: {_merge_text([wiring])}"]
    if spec is not None:
        channels = ", ".join(str(spec.channels[stage]) for stage in sorted(set(wiring.stages)))
        facts = [_params_text(spec.n_params), f"channels {channels}", *facts]
    title = title or f"Wiring {wiring.digest}"
    shapes: list[_Shape] = []
    y = pad + 12.0 * unit
    for line in _wrapped(title, 15.0 * unit, room):
        shapes.append(_Text((pad, y), line, 15.0 * unit, bold=True))
        y += 19.0 * unit
    for line in _wrapped(" · ".join(facts), 11.5 * unit, room, " · "):
        shapes.append(_Text((pad, y), line, 11.5 * unit))
        y += 16.0 * unit
    y += 2.0 * unit

    dx, dy = (width - layout.width) / 2, y
    inner: list[_Shape] = []
    strip, label_size = 20.0 * unit, 11.0 * unit  # below the cells, for the stages' names
    names = [_stage_names(spec, stage) for stage, _, _ in layout.bands]
    fits = [
        all(_text_width(n, label_size) < right - left for n, (_, left, right) in zip(c, layout.bands, strict=True))
        for c in zip(*names, strict=True)
    ]
    chosen = fits.index(True) if True in fits else -1  # as long as all stages have room for
    for (stage, left, right), candidates in zip(layout.bands, names, strict=True):
        inner.append(_Rectangle((left, 0.0, right - left, layout.height + strip), 0.0, f"stage{stage}"))
        place = ((left + right) / 2, layout.height + 0.6 * strip)
        inner.append(_Text(place, candidates[chosen], label_size, "middle"))
    for (x, below), name in ((layout.stem, "stem"), (layout.head, "head")):
        inner.append(_Text((x, below + 4.0 * unit), name, label_size, "middle"))
    inner += _network_shapes(wiring, layout, weights, scale, detailed)
    shapes += [_moved(shape, dx, dy) for shape in inner]
    legend, y = _legend([wiring], scale, pad, dy + layout.height + strip + 20.0 * unit, room, unit)
    shapes += legend
    note = "Arcs run from left to right, edges inside the cells downwards."
    if scale is not None:
        note += " Merge weights are sigmoid(w) after training, 0.73 before."
    for line in _wrapped(note, 10.5 * unit, room):
        shapes.append(_Text((pad, y + 2.0 * unit), line, 10.5 * unit, faint=True))
        y += 15.0 * unit
    name, description = f"{title}: {', '.join(facts)}", _describe(wiring, weights)
    return _Picture(width, y + 2.0 * unit, shapes, name, description, digits=1 if detailed else 0)


def _stage_names(spec: StudentSpec | None, stage: int) -> list[str]:
    """The same, shorter and shorter."""
    name = f"stage {stage + 1}"
    if spec is None:
        return [name, str(stage + 1)]
    size = f"{spec.sizes[stage]}×{spec.sizes[stage]}"  # noqa: RUF001 (a times sign)
    return [f"{name}: {spec.channels[stage]} channels, {size}", f"{name}: {size}", name, str(stage + 1)]


def _moved(shape: _Shape, dx: float, dy: float) -> _Shape:
    if isinstance(shape, _Rectangle):
        x, y, width, height = shape.box
        return shape._replace(box=(x + dx, y + dy, width, height))
    if isinstance(shape, _Line):
        return shape._replace(curves=tuple(_shifted(curve, dx, dy) for curve in shape.curves))
    if isinstance(shape, _Mark):
        return shape._replace(centres=tuple((x + dx, y + dy) for x, y in shape.centres))
    return shape._replace(place=(shape.place[0] + dx, shape.place[1] + dy))


_TILE, _TILE_HEIGHT = 400.0, 300.0


def _sheet(items: Sequence[Wiring | StudentSpec], title: str, captions: Sequence[str], columns: int) -> _Picture:
    if not items:
        raise ValueError("a sheet needs at least one wiring")
    if captions and len(captions) != len(items):
        raise ValueError(f"captions must be one for each of the {len(items)} wirings, got {len(captions)}")
    wirings = [_parts(item)[0] for item in items]
    layouts = [_layout(wiring) for wiring in wirings]
    columns = min(columns, len(items))
    # one scale for all, so that sizes compare, unless some would be too small to see
    own = [min(1.0, _TILE / one.width, _TILE_HEIGHT / one.height) for one in layouts]
    scales = [min(one, 2.5 * min(own)) for one in own] if max(own) > 2.5 * min(own) else [min(own)] * len(own)
    gap, pad = 22.0, 14.0
    width = max(columns * _TILE + (columns - 1) * gap, 620.0) + 2 * pad
    shapes: list[_Shape] = []
    y = pad + 12.0
    for line in _wrapped(title, 15.0, width - 2 * pad) if title else ():
        shapes.append(_Text((pad, y), line, 15.0, bold=True))
        y += 20.0
    for start in range(0, len(items), columns):
        row = range(start, min(start + columns, len(items)))
        tallest = max(layouts[index].height * scales[index] for index in row)
        lines = 0
        for index in row:
            wiring, spec = _parts(items[index])
            layout, scale = layouts[index], scales[index]
            x = pad + (index - start) * (_TILE + gap)
            upper = y + (tallest - layout.height * scale) / 2
            shapes += _small_network(wiring, layout, scale, x + (_TILE - layout.width * scale) / 2, upper)
            caption = captions[index] if captions else f"wiring {wiring.digest}"
            below = [
                *([_params_text(spec.n_params)] if spec is not None else []),
                f"depth {wiring.depth}",
                f"{wiring.n_operations} operations",
                f"merges: {_merge_text([wiring])}",
            ]
            bold = _wrapped(caption, 12.0, _TILE)
            texts = [*bold, *_wrapped(" · ".join(below), 11.0, _TILE, " · ")]
            for number, line in enumerate(texts):
                place = (x + _TILE / 2, y + tallest + 14.0 + 15.0 * number)
                heading = number < len(bold)
                shapes.append(_Text(place, line, 12.0 if heading else 11.0, "middle", heading))
            lines = max(lines, len(texts))
        y += tallest + 15.0 * lines + 26.0
    legend, y = _legend(wirings, None, pad, y, width - 2 * pad, 1.0)
    depths = sorted({wiring.depth for wiring in wirings})
    text = f"{len(items)} sampled networks side by side; depth {depths[0]} to {depths[-1]}."
    return _Picture(width, y, [*shapes, *legend], title or "Sampled wirings", text)


def svg(
    wiring: Wiring | StudentSpec,
    *,
    merge_weights: Mapping[Edge, float] | None = None,
    title: str = "",
    background: str | None = _PAPER,
) -> str:
    """One wiring as a self-contained SVG, to be saved as a file or put into an HTML page.

    Args:
        wiring: A `StudentSpec` adds channels, sizes and parameters.
        merge_weights: Weights of edges in [0, 1], from `edge_weights`: shown as width and colour, with a legend.
        title: Instead of "Wiring" and its digest.
        background: Any colour of CSS; texts and lines are dark on it. None leaves it out and draws them in the text
            colour of the surrounding page (``currentColor``), light or dark.

    Raises:
        ValueError: If ``merge_weights`` has an edge that the wiring lacks.
    """
    return _write_svg(_picture(wiring, merge_weights, title), background)


def sheet_svg(
    items: Sequence[Wiring | StudentSpec],
    *,
    title: str = "",
    captions: Sequence[str] = (),
    columns: int = 3,
    background: str | None = _PAPER,
) -> str:
    """Several wirings side by side, each with its size, depth and merges below; at one scale, unless sizes differ much.

    Args:
        captions: One a wiring, instead of its digest.
        background: As in `svg`.

    Raises:
        ValueError: If there is no wiring, or not one caption for each.
    """
    return _write_svg(_sheet(items, title, captions, columns), background)


def family_svg(
    generator: Generator,
    seeds: Sequence[int],
    *,
    student: Callable[[Wiring], StudentSpec] | None = None,
    title: str = "",
    columns: int = 3,
    background: str | None = _PAPER,
) -> str:
    """The wirings that a family draws with these seeds, side by side.

    Args:
        student: Makes the student of a wiring (`fit_width` with a task's numbers), which adds its parameters.
        title: As in `sheet_svg`; its default names the family.
        columns: As in `sheet_svg`.
        background: As in `svg`.

    Raises:
        ValueError: If there is no seed.
    """
    wirings = [generator.sample_wiring(seed) for seed in seeds]
    items = wirings if student is None else [student(wiring) for wiring in wirings]
    return sheet_svg(
        items,
        title=title or f"Family {generator.digest}",
        captions=[f"seed {seed}" for seed in seeds],
        columns=columns,
        background=background,
    )


def draw_wirings(
    items: Sequence[Wiring | StudentSpec],
    path: str | Path,
    *,
    merge_weights: Mapping[Edge, float] | None = None,
    title: str = "",
    captions: Sequence[str] = (),
) -> Path:
    """One wiring with its three levels, or several on a sheet, as a file; its folder is made if it is missing.

    Args:
        path: Ends in .png, .svg or .pdf.
        merge_weights: Of the only wiring, as in `svg`; a sheet shows none.

    Raises:
        ValueError: If the suffix is another, or there is no wiring.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"pictures end in {', '.join(SUFFIXES)}, got {path.name!r}")
    picture = _picture(items[0], merge_weights, title) if len(items) == 1 else _sheet(items, title, captions, columns=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".svg":
        path.write_text(_write_svg(picture, _PAPER), encoding="utf-8")
    else:
        path.write_bytes(_rendered(picture, path.suffix.lower()))
    return path


LARGEST = 6000
"""Pixels of a side of a PNG, at most."""


def _rendered(picture: _Picture, suffix: str) -> bytes:
    """PNG with two pixels for one of the drawing, or PDF."""
    import vl_convert

    text = _write_svg(picture, _PAPER)
    if suffix == ".png":
        return bytes(vl_convert.svg_to_png(text, scale=min(2.0, LARGEST / max(picture.width, picture.height))))
    return bytes(vl_convert.svg_to_pdf(text))


# ---- SVG -----------------------------------------------------------------------------------------------------------

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold, not even escaped."""


def _clean(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))


def _number(value: float, digits: int = 1) -> str:
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _path_data(curves: Sequence[Curve], digits: int) -> str:
    return "".join(code + " ".join(_number(v, digits) for v in values) for curve in curves for code, values in curve)


def _outline(shape: str, centre: Point, radius: float) -> list[Point]:
    """Corners of a mark that is no circle, of about the circle's area."""
    x, y = centre
    n, size, turn = {"diamond": (4, 1.22, 0.0), "square": (4, 1.25, 0.125), "hexagon": (6, 1.1, 0.0)}[shape]
    angles = [2 * math.pi * (k / n + turn) for k in range(n)]
    return [(x + radius * size * math.cos(a), y + radius * size * math.sin(a)) for a in angles]


def _mark_data(mark: _Mark) -> str:
    shape, r = _SHAPES[OPERATIONS[mark.operation].kind], mark.radius
    parts = []
    for x, y in mark.centres:
        if r < 1.5:  # a dot
            side = _number(1.8 * r)
            parts.append(f"M{_number(x - 0.9 * r)} {_number(y - 0.9 * r)}h{side}v{side}h-{side}z")
        elif shape == "circle":
            round_ = f"{_number(r)} {_number(r)} 0 1 1"
            parts.append(f"M{_number(x - r)} {_number(y)}a{round_} {_number(2 * r)} 0a{round_} {_number(-2 * r)} 0")
        else:
            corners = " ".join(f"{_number(a)} {_number(b)}" for a, b in _outline(shape, (x, y), r))
            parts.append(f"M{corners}z")
    return "".join(parts)


def _light(colour: str) -> bool:
    """Whether black is easier to read on it than white (relative luminance of WCAG 2.1 above 0.18)."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18


def _css(picture: _Picture, scope: str) -> str:
    """The rules that the picture needs, under a class of its own: styles of an inline SVG hold for the whole page."""
    used = {shape.style for shape in picture.shapes if isinstance(shape, _Rectangle | _Line)}
    rules = []
    for name, style in _STYLES.items():
        if name in used:
            body = ";".join(f"{key}:{'currentColor' if value == 'ink' else value}" for key, value in style.items())
            rules.append(f".{scope} .{name}{{{body}}}")
    for name in sorted({shape.operation for shape in picture.shapes if isinstance(shape, _Mark)}):
        rules.append(f".{scope} .{name}{{fill:{COLOURS[name]};stroke:currentColor;stroke-width:.6}}")
    rules.append(f".{scope} text{{fill:currentColor;font-family:system-ui,Helvetica,Arial,sans-serif}}")
    rules.append(f".{scope} .k{{font-size:7.5px;text-anchor:middle}}")
    for index in sorted({s.weight for s in picture.shapes if isinstance(s, _Line) and s.weight is not None}):
        width, colour = _weight_style(index)
        rules.append(f".{scope} .w{index}{{stroke:{colour};stroke-width:{width:.2f};stroke-opacity:1}}")
    return "".join(rules)


def _key(shape: _Rectangle | _Line | _Mark) -> str:
    return f' data-key="{shape.key}"' if shape.key else ""


def _own_width(shape: _Rectangle | _Line) -> str:
    return "" if shape.width is None else f' style="stroke-width:{shape.width:.2f}"'


def _with_tooltip(name: str, attributes: str, tooltip: str) -> str:
    return f"<{name} {attributes}" + (f"><title>{_clean(tooltip)}</title></{name}>" if tooltip else "/>")


def _write_svg(picture: _Picture, background: str | None) -> str:
    from naslib_autokd.records import content_digest

    scope = f"wiring-{content_digest([picture.title, picture.description, picture.width, picture.height])[:8]}"
    width, height = math.ceil(picture.width), math.ceil(picture.height)
    colour = "" if background is None else f"color:{_INK};"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'class="{scope}" role="img" aria-labelledby="{scope}-t {scope}-d" style="{colour}max-width:100%;height:auto">',
        f'<title id="{scope}-t">{_clean(picture.title)}</title>',
        f'<desc id="{scope}-d">{_clean(picture.description)}</desc>',
        f"<style>{_css(picture, scope)}</style>",
    ]
    if background is not None:
        out.append(f'<rect width="{width}" height="{height}" fill={quoteattr(_NOT_XML.sub("", background))}/>')
    for shape in picture.shapes:
        if isinstance(shape, _Rectangle):
            x, y, w, h = (_number(value, picture.digits) for value in shape.box)
            radius = f' rx="{_number(shape.radius)}"' if shape.radius else ""
            start = f'<rect class="{shape.style}"{_key(shape)}{_own_width(shape)} '
            out.append(f'{start}x="{x}" y="{y}" width="{w}" height="{h}"{radius}/>')
        elif isinstance(shape, _Line):
            name = shape.style if shape.weight is None else f"{shape.style} w{shape.weight}"
            data = _path_data(shape.curves, picture.digits)
            out.append(
                _with_tooltip("path", f'class="{name}"{_key(shape)}{_own_width(shape)} d="{data}"', shape.tooltip)
            )
        elif isinstance(shape, _Mark):
            start = f'class="{shape.operation}"{_key(shape)}'
            if len(shape.centres) == 1 and _SHAPES[OPERATIONS[shape.operation].kind] == "circle":
                x, y, r = (_number(value, picture.digits) for value in (*shape.centres[0], shape.radius))
                out.append(_with_tooltip("circle", f'{start} cx="{x}" cy="{y}" r="{r}"', shape.tooltip))
            else:
                out.append(_with_tooltip("path", f'{start} d="{_mark_data(shape)}"', shape.tooltip))
            if shape.text:
                ((cx, cy),) = shape.centres
                ink = "#000" if _light(COLOURS[shape.operation]) else "#fff"
                text = (
                    f'<text class="k" x="{_number(cx)}" y="{_number(cy + 2.7)}" style="fill:{ink}" aria-hidden="true"'
                )
                out.append(f'{text} pointer-events="none">{shape.text}</text>')
        else:
            x, y = map(_number, shape.place)
            anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
            bold = ' font-weight="600"' if shape.bold else ""
            faint = ' opacity=".75"' if shape.faint else ""
            out.append(
                f'<text x="{x}" y="{y}" font-size="{_number(shape.size)}"{anchor}{bold}{faint}>'
                f"{_clean(shape.text)}</text>"
            )
    out.append("</svg>")
    return "\n".join(out) + "\n"
