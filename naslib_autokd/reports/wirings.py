"""Pictures of students: one wiring with its three levels, or a sheet of several from one family.

How to read them. Cells stand from left to right, in their order, on the colour of their stage; arcs above them are the
edges of the top graph and run to the right. A cell holds frames, one for each node of its mid graph; a frame holds one
mark for each operation. Inside cells and frames all edges run downwards: a node's row is the longest path to it, edges
over several rows go around the nodes between. Edges that enter a learned merge can carry its weight after training
(`edge_weights`), as width and colour.

A picture is a chart as all others are: the page draws it in its colours, with tooltips, and `draw_wirings` writes it as
SVG, PNG or PDF; equal wirings give equal SVG. Nothing is left out of large wirings, whose marks only have no kernel
sizes in them from `DETAILED` operations on.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from altair.utils.schemapi import debug_mode
from scipy.optimize import isotonic_regression

from naslib_autokd.reports.charts.look import PAGE, PALETTES, AnyChart, Row, coloured, layer, specification, tips
from naslib_autokd.reports.terminal import n_parameters
from naslib_autokd.search_spaces.hnag.edges import Edge, Place, graphs_of, operations_of, place_name, wiring_edges
from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.wiring import MERGES, OPERATIONS, StudentSpec, Wiring

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
"""Of the operations; told apart with the common colour blindnesses, by shape (`_OUTLINES`) and the size in the mark."""

STAGE_COLOURS = ("#4477aa", "#228833", "#ee7733")
"""Of the stages, so faint that they suit light and dark pages."""
WEIGHT_COLOURS = ("#8c9bab", "#d55e00")
"""Of the smallest and the largest merge weight of a picture; both readable on white and on black."""
WEIGHT_WIDTHS = (0.8, 4.2)
"""Pixels, likewise."""
DETAILED = 150
"""From so many operations on, marks have no kernel size in them."""
WIDEST = 1400
"""Pixels of a picture; wider layouts are scaled down."""

_RADIUS, _STUB = 10.0, 7.0
_OUTLINES = {
    "conv": "circle",
    "separable": "M0-1.22l1.22 1.22-1.22 1.22-1.22-1.22z",
    "average": "M-.88-.88h1.76v1.76h-1.76z",
    "max": "M1.1 0l-.55.95h-1.1l-.55-.95.55-.95h1.1z",
}
"""Marks of the kinds of operations, of about equal areas."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""(left, top, width, height)."""
Weights = Mapping[Edge, float]
"""Of edges that enter a learned merge, in [0, 1]."""
Lanes = dict[tuple[int, int], list[int]]


# ---- the layout ----------------------------------------------------------------------------------------------------


def _arrange(graph: Graph, widths: Sequence[float], gap: float) -> tuple[list[list[int]], Lanes, list[float]]:
    """A graph's nodes in rows, the lanes of its edges (numbered after the nodes) in the rows on their way, and the
    centres of both, so that those of a row keep the gap between them (lanes a smaller one).

    After Sugiyama, Tagawa & Toda (1981): by turns each row is ordered by the mean place of the neighbours, above or
    below, and stands as near to all neighbours as the gaps allow; the turn with the shortest edges is kept.
    """
    rank: list[int] = []
    for sources in graph.predecessors:
        rank.append(max([rank[source] + 1 for source in sources], default=0))
    rows = [[node for node, own in enumerate(rank) if own == row] for row in range(max(rank) + 1)]
    half, lanes, joints = [width / 2 for width in widths], {}, list[tuple[int, int]]()
    for source, target in graph.edges:
        way = lanes[source, target] = list(range(len(half), len(half) + rank[target] - rank[source] - 1))
        half += [0.0] * len(way)
        for lane, below in zip(way, rows[rank[source] + 1 :], strict=False):
            below.append(lane)
        joints += pairwise([source, *way, target])
    near = [[[a for a, b in joints if b == item] for item in range(len(half))]]
    near.append([[b for a, b in joints if a == item] for item in range(len(half))])
    near.append([above + below for above, below in zip(*near, strict=True)])
    x, shortest, best = [0.0] * len(half), math.inf, [0.0] * len(half)
    for turn in range(10):
        for row in rows[:: -1 if turn % 2 else 1]:
            order = {item: _mean([x[other] for other in near[turn % 2][item]], x[item]) for item in row}
            row.sort(key=order.__getitem__)
            between = [half[a] + half[b] + (0.7 * gap if min(a, b) >= len(widths) else gap) for a, b in pairwise(row)]
            wanted = [_mean([x[other] for other in near[2][item]], x[item]) for item in row]
            straight = [4.0 if item >= len(widths) else 1.0 for item in row]  # lanes before centred nodes
            for item, place in zip(row, _spread(wanted, straight, list(accumulate([0.0, *between]))), strict=True):
                x[item] = place
        length = sum(abs(x[a] - x[b]) for a, b in joints)
        if length < shortest - 1e-6:
            shortest, best = length, list(x)
    left = min(place - own for place, own in zip(best, half, strict=True))
    return rows, lanes, [place - left for place in best]


def _mean(values: Sequence[float], without: float) -> float:
    return sum(values) / len(values) if values else without


def _spread(wanted: Sequence[float], weights: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """Positions nearest to ``wanted`` in least squares whose differences are at least those of ``offsets``."""
    free = isotonic_regression(np.subtract(wanted, offsets), weights=weights).x
    return [float(x) for x in free + offsets]


@dataclass
class _Block:
    """What is drawn of a node, a cell or a network, in pixels; y grows downwards, the upper left corner is (0, 0)."""

    width: float = 2 * _RADIUS
    height: float = 2 * _RADIUS
    boxes: dict[Place, Box] = field(default_factory=dict)
    """Of what is inside, by its place."""
    edges: dict[Edge, list[Point]] = field(default_factory=dict)
    """To the points on the way: those of a basis spline."""
    stubs: list[list[Point]] = field(default_factory=list)
    """Between the border and nodes without predecessors or without successors."""

    def add(self, index: int, inner: _Block, dx: float, dy: float) -> None:
        """Put another block inside, its corner there."""

        def moved(points: Sequence[Point]) -> list[Point]:
            return [(x + dx, y + dy) for x, y in points]

        self.boxes[index,] = (dx, dy, inner.width, inner.height)
        self.boxes |= {(index, *place): (x + dx, y + dy, w, h) for place, (x, y, w, h) in inner.boxes.items()}
        self.edges |= {Edge((index, *place), a, b): moved(points) for (place, a, b), points in inner.edges.items()}
        self.stubs += map(moved, inner.stubs)


def _block(graph: Graph, inside: Sequence[_Block], gap: float, row_gap: float, pad: float) -> _Block:
    """A graph drawn downwards, with a block for each node and a border around it."""
    rows, lanes, places = _arrange(graph, [one.width for one in inside], gap)
    n, centres = len(inside), [pad + x for x in places]
    ends: list[Point] = [(0.0, 0.0)] * len(centres)  # top and bottom of the row of a node or lane
    y = pad
    for row in rows:
        height = max(inside[item].height for item in row if item < n)
        for item in row:
            ends[item] = (y, y + height)
        y += height + row_gap
    right = max(x + (inside[item].width / 2 if item < n else 0) for item, x in enumerate(centres))
    block = _Block(right + pad, y - row_gap + pad)
    upper = [sum(ends[node]) / 2 - one.height / 2 for node, one in enumerate(inside)]
    lower = [top + one.height for top, one in zip(upper, inside, strict=True)]
    for node, one in enumerate(inside):
        block.add(node, one, centres[node] - one.width / 2, upper[node])
    for (source, target), way in lanes.items():  # straight beside the nodes of a row, else a control polygon
        stops = [(centres[source], lower[source], ends[source][1]), *((centres[lane], *ends[lane]) for lane in way)]
        points = [(centres[source], lower[source])]
        for (x, _, bottom), (x_next, top, _) in pairwise([*stops, (centres[target], *ends[target])]):
            middle = (bottom + top) / 2
            points += [(x, bottom), (x, middle), (x_next, middle), (x_next, top)]
        block.edges[Edge((), source, target)] = list(dict.fromkeys([*points, (centres[target], upper[target])]))
    stubs = [(node, upper[node], max(0.0, upper[node] - _STUB)) for node in graph.inputs]
    stubs += [(node, lower[node], min(block.height, lower[node] + _STUB)) for node in graph.outputs]
    block.stubs += [[(centres[node], start), (centres[node], end)] for node, start, end in stubs]
    return block


@dataclass
class _Layout(_Block):
    """A whole wiring; the edges of its top graph are arcs, and so are ``stubs`` of the stem and the head."""

    bands: list[tuple[int, float, float]] = field(default_factory=list)
    """(stage, left, right)."""
    ends: tuple[Point, Point] = ((0.0, 0.0), (0.0, 0.0))
    """Names of the stem and the head."""


_CELL_GAP = 26.0


def _layout(wiring: Wiring) -> _Layout:
    cells = []
    for cell in wiring.cells:
        frames = [_block(node.graph, [_Block()] * node.graph.n_nodes, 9.0, 17.0, 7.0) for node in cell.nodes]
        cells.append(_block(cell.graph, frames, 12.0, 20.0, 9.0))
    n_cells, total = len(cells), sum(cell.width for cell in cells)
    arcs = [*wiring.graph.edges, *((-1, node) for node in wiring.graph.inputs)]  # the stem and the head are as cells
    arcs += [(node, n_cells) for node in wiring.graph.outputs]
    steep = math.sqrt(max(1.0, total / (90.0 * n_cells)))  # arcs over wide cells
    rises = {(a, b): 16.0 * steep * (b - a) ** 0.85 for a, b in arcs}
    floor = max(rises.values()) + 4.0
    margin = max(62.0, 0.03 * total)  # of the stem's and the head's names

    layout = _Layout(height=floor + max(cell.height for cell in cells) + 8.0)
    x = margin
    spans: dict[int, Point] = {}
    for index, (block, stage) in enumerate(zip(cells, wiring.stages, strict=True)):
        layout.add(index, block, x, floor)
        spans[stage] = (spans.get(stage, (x, 0.0))[0], x + block.width)
        x += block.width + _CELL_GAP
    layout.width = x - _CELL_GAP + margin
    layout.bands = [(stage, left - _CELL_GAP / 2, right + _CELL_GAP / 2) for stage, (left, right) in spans.items()]
    layout.ends = ((margin / 2 - 6, floor + 12.0), (layout.width - margin / 2 + 6, floor + 12.0))

    # Arrivals share the left half of a cell's top, departures the right half; the farther, the nearer to the middle on
    # arrival and the farther left on departure, so that arcs which share a cell do not cross.
    def port(node: int, other: int) -> float:
        if node in (-1, n_cells):
            return layout.ends[node == n_cells][0]
        left, _, width, _ = layout.boxes[node,]
        arriving = other < node
        group = sorted({a if arriving else b for a, b in arcs if (b if arriving else a) == node}, reverse=True)
        share = (group.index(other) + 1) / (len(group) + 1)
        return left + width * (0.08 + 0.40 * share + (0.0 if arriving else 0.44))

    for (a, b), rise in rises.items():
        start, end = port(a, b), port(b, a)
        points = [(start, floor), (start, floor - rise), (end, floor - rise), (end, floor)]
        if a < 0 or b == n_cells:
            layout.stubs.append(points)
        else:
            layout.edges[Edge((), a, b)] = points
    return layout


# ---- the chart -----------------------------------------------------------------------------------------------------

_PLAIN, _CONCAT, _MASK = "edge", "into a concatenation", "makes the mask of an attention merge"
_DASHES = {_PLAIN: [1, 0], _CONCAT: [5, 3], _MASK: [2, 2]}
"""Of the kinds of edges."""
_LETTER = 6.5
"""Pixels of a letter."""


def _line(points: Sequence[Point]) -> Row:
    """Columns, of which the chart makes points."""
    x, y = zip(*points, strict=True)
    return {"x": [round(value, 1) for value in x], "y": [round(value, 1) for value in y]}


def _box(left: float, top: float, width: float, height: float) -> Row:
    return {"x": left, "x2": left + width, "y": top, "y2": top + height}


def _of_weight(weights: Weights, scale: float, legend: Mapping[str, Any]) -> dict[str, Any]:
    """Channels of a line for the weight of its edge."""
    low, high = min(weights.values()), max(weights.values())
    if high - low < 0.1:  # differences of nothing look like nothing
        low, high = (low + high) / 2 - 0.05, (low + high) / 2 + 0.05
    head = {"title": "merge weight", "titleOrient": "left", "titleFontWeight": "normal"}
    key = alt.Legend(**legend, **head, type="symbol", format=".2f", values=[low, (low + high) / 2, high])
    both, width = {"domain": [low, high], "clamp": True}, [scale * width for width in WEIGHT_WIDTHS]
    colours = alt.Scale(**both, range=list(WEIGHT_COLOURS), interpolate="rgb")
    return {
        "stroke": alt.Stroke("weight:Q", scale=colours, legend=key),
        "strokeWidth": alt.StrokeWidth("weight:Q", scale=alt.Scale(**both, range=width), legend=key),
    }


def _outline(scale: float, **look: Any) -> dict[str, Any]:
    return {"stroke": "@text", "strokeWidth": 1.1 * scale, **look}


def _network(
    wiring: Wiring,
    layout: _Layout,
    scale: float,
    among: Sequence[Wiring],
    weights: Weights,
    stages: Sequence[str] = (),
) -> alt.LayerChart:
    """The chart of one wiring: every cell, frame, operation and edge is a row of its data.

    Args:
        among: All wirings of the picture, which share its legend.
        stages: Their names; none for a tile of a sheet.
    """
    height, span = layout.height + (20 / scale if stages else 0), {"x2": alt.X2("x2"), "y2": alt.Y2("y2")}
    layers = []
    for stage, left, right in layout.bands:
        tint = {"fill": STAGE_COLOURS[stage], "opacity": 0.12}
        layers.append(layer("rect", [_box(left, 0, right - left, height)], tint, **span))
    frame = {"strokeOpacity": 0.3, "fill": "@text", "fillOpacity": 0.05}
    for size, look in ((1, {"filled": False, "strokeOpacity": 0.65}), (2, frame)):
        boxes = [{"key": place_name(p), **_box(*box)} for p, box in layout.boxes.items() if len(p) == size]
        layers.append(layer("rect", boxes, _outline(scale, cornerRadius=(8 - 2 * size) * scale, **look), **span))
    layers += _lines(wiring, layout, scale, among, weights)
    layers += _marks(wiring, layout, scale, among, bool(stages))
    if stages:
        middles = ((left + right) / 2 for _, left, right in layout.bands)
        names = [(x, height - 10 / scale, name) for x, name in zip(middles, stages, strict=True)]
        names += [(*place, name) for place, name in zip(layout.ends, ("stem", "head"), strict=True)]
        layers.append(layer("text", [{"x": x, "y": y, "name": name} for x, y, name in names], text=alt.Text("name:N")))
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, layout.width], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[height, 0], nice=False))
    width, high = (round(side * scale) for side in (layout.width, height))
    return alt.layer(*layers).encode(x=x, y=y).properties(width=width, height=high)


def _lines(wiring: Wiring, layout: _Layout, scale: float, among: Sequence[Wiring], weights: Weights) -> Iterator[Any]:
    plain, weighted = list[Row](), list[Row]()
    for place, graph, merges in graphs_of(wiring):
        for source, target in graph.edges:
            edge, merge = Edge(place, source, target), merges[target]
            makes_mask = merge == "attention" and source == graph.predecessors[target][0]
            kind = _CONCAT if merge == "concat" else _MASK if makes_mask else _PLAIN
            about = {"key": edge.label, "merge": merge, "kind": kind, "weight": weights.get(edge)}
            (weighted if edge in weights else plain).append({**about, **_line(layout.edges[edge])})
    used = {merge for wiring in among for _, _, merges in graphs_of(wiring) for merge in merges}
    dashed = [kind for kind, merge in ((_CONCAT, "concat"), (_MASK, "attention")) if merge in used]
    dashes = alt.Scale(domain=list(_DASHES), range=list(_DASHES.values()))
    legend = {"orient": "bottom", "symbolSize": 400, "symbolType": "stroke"}
    key = alt.Legend(**legend, values=dashed) if dashed else None
    tip = tips(("key:N", "", "edge"), "merge:N")
    own: dict[str, Any] = {"strokeDash": alt.StrokeDash("kind:N", scale=dashes, legend=key), "tooltip": tip}
    stubs = [{"key": index, **_line(points)} for index, points in enumerate(layout.stubs)]
    layers = [(stubs, _outline(scale, strokeOpacity=0.35), {}), (plain, _outline(scale, strokeOpacity=0.6), own)]
    if weighted:
        told = {"tooltip": [*tip, *tips(("weight:Q", ".3f"))], **_of_weight(weights, scale, legend)}
        layers.append((weighted, {}, own | told))
    for rows, look, channels in layers:
        if rows:
            look = {"interpolate": "basis", "order": False, **look}
            yield layer("line", rows, look, detail=alt.Detail("key:N"), **channels).transform_flatten(["x", "y"])


def _marks(wiring: Wiring, layout: _Layout, scale: float, among: Sequence[Wiring], detailed: bool) -> Iterator[Any]:
    rows = []
    for place, name in operations_of(wiring):
        left, top, _, _ = layout.boxes[place]
        kernel = f"{OPERATIONS[name].height}×{OPERATIONS[name].width}"  # noqa: RUF001 (a times sign)
        about = {"key": place_name(place), "operation": name, "kernel": kernel, "ink": _ink_on(COLOURS[name])}
        rows.append({**about, "x": left + _RADIUS, "y": top + _RADIUS})
    counts = Counter(name for wiring in among for _, name in operations_of(wiring))
    names = [name for name in OPERATIONS if counts[name]]
    said = {name: f"{name} ({counts[name]})" if len(among) == 1 else name for name in names}
    key = alt.Legend(orient="bottom", labelExpr=f"{json.dumps(said)}[datum.value]", symbolStrokeWidth=0.6)
    fills = alt.Scale(domain=names, range=[COLOURS[name] for name in names])
    shapes = alt.Scale(domain=names, range=[_OUTLINES[OPERATIONS[name].kind] for name in names])
    fill, shape = alt.Fill("operation:N", scale=fills, legend=key), alt.Shape("operation:N", scale=shapes, legend=key)
    look = _outline(scale, size=(2 * _RADIUS * scale) ** 2, opacity=1, strokeWidth=0.6 * scale)
    yield layer("point", rows, look, fill=fill, shape=shape, tooltip=tips(("key:N", "", "place"), "operation:N"))
    if detailed and len(rows) < DETAILED:
        small = {"fontSize": 7.5 * scale, "tooltip": False}
        yield layer("text", rows, small, text=alt.Text("kernel:N"), color=alt.Color("ink:N", scale=None))


def _ink_on(colour: str) -> str:
    """What is easier to read on it: black or white."""
    red, green, blue = bytes.fromhex(colour[1:])
    return "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 112 else "#fff"


# ---- pictures ------------------------------------------------------------------------------------------------------

_TILE, _TILE_HEIGHT, _COLUMNS = 400.0, 300.0, 3
_FIXED = {"fixed": True, "longest": 20}
"""What the page must know: the size stays, and letters of a name in the legend."""
Part = tuple[Wiring, StudentSpec | None]


def picture(
    items: Wiring | StudentSpec | Sequence[Wiring | StudentSpec],
    *,
    merge_weights: Weights | None = None,
    title: str = "",
    captions: Sequence[str] = (),
) -> AnyChart:
    """One wiring, or a sheet of several side by side, as a chart of fixed size.

    Args:
        items: One with its three levels, or a list of them: each small, with its size, depth and merges below, at one
            scale unless sizes differ much. A `StudentSpec` adds channels, sizes and parameters.
        merge_weights: Of one wiring: weights of edges in [0, 1] from `edge_weights`, shown as width and colour.
        title: Of one wiring instead of "Wiring" and its digest.
        captions: Of a sheet, one a wiring instead of its digest.

    Raises:
        ValueError: If ``merge_weights`` has an edge that the wiring lacks, there is no wiring, or not one caption for
            each.
    """
    several = items if isinstance(items, Sequence) else [items]
    parts = [(item.wiring, item) if isinstance(item, StudentSpec) else (item, None) for item in several]
    with debug_mode(False):  # that our charts are valid is tested, and takes seconds
        return _sheet(parts, title, captions) if several is items else _one(parts[0], merge_weights or {}, title)


def _one(part: Part, weights: Weights, title: str) -> AnyChart:
    wiring, spec = part
    if unknown := [edge for edge in weights if edge not in wiring_edges(wiring)]:
        raise ValueError(f"merge_weights has edges that wiring {wiring.digest} lacks, for example {unknown[0].label!r}")
    note = "Arcs run from left to right, edges inside the cells downwards."
    if weights:
        note += " Merge weights are sigmoid(w) after training, 0.73 before; only inputs have none."
    layout = _layout(wiring)
    scale = min(1.0, WIDEST / layout.width)
    network = _network(wiring, layout, scale, [wiring], weights, _stage_names(spec, layout, scale))
    lines, title = [_facts(part, channels=True), note], title or f"Wiring {wiring.digest}"
    head = _title(title, lines, max(600, layout.width * scale), anchor="start")
    chart: AnyChart = network.properties(title=head, usermeta=_FIXED, description=f"{title}: {lines[0]}")
    return chart


def _sheet(parts: Sequence[Part], title: str, captions: Sequence[str]) -> AnyChart:
    if not parts:
        raise ValueError("a sheet needs at least one wiring")
    if captions and len(captions) != len(parts):
        raise ValueError(f"captions must be one for each of the {len(parts)} wirings, got {len(captions)}")
    wirings = [wiring for wiring, _ in parts]
    layouts = [_layout(wiring) for wiring in wirings]
    own = [min(1.0, _TILE / one.width, _TILE_HEIGHT / one.height) for one in layouts]
    names = captions or [f"wiring {wiring.digest}" for wiring in wirings]
    tiles = []
    for part, layout, scale, name in zip(parts, layouts, own, names, strict=True):
        scale = min(scale, 2.5 * min(own)) if max(own) > 2.5 * min(own) else min(own)
        head = _title(name, [_facts(part)], _TILE, anchor="middle", orient="bottom", fontSize=12)
        tiles.append(_network(part[0], layout, scale, wirings, {}).properties(title=head))
    chart: AnyChart = alt.concat(*tiles, columns=_COLUMNS, center=True, spacing=22)
    head = {"title": _title(title, [], _COLUMNS * _TILE, anchor="start")} if title else {}
    return chart.properties(usermeta={**_FIXED, "panel": 170}, description=f"{title}: {', '.join(captions)}", **head)


def _title(text: str, more: Sequence[str], width: float, **look: Any) -> alt.TitleParams:
    """A title and lines below it, which are as long as there is room."""
    lines = [line for part in more for line in textwrap.wrap(part, int(width / _LETTER))]
    look = {"fontSize": 15, "fontWeight": 600, "subtitleFontSize": 11.5, "subtitleColor": "@text", **look}
    return alt.TitleParams(text=textwrap.wrap(text, int(width / _LETTER / 1.3)), subtitle=lines, **look)


def _facts(part: Part, channels: bool = False) -> str:
    wiring, spec = part
    counts = Counter(name for _, _, merges in graphs_of(wiring) for name in merges)
    merges = ", ".join(f"{counts[name]} {name}" for name in MERGES if counts[name]) or "none"
    facts = [f"{wiring.n_operations} operations", f"depth {wiring.depth}", f"merges: {merges}"]
    if spec is not None:
        used = ", ".join(str(spec.channels[stage]) for stage in sorted(set(wiring.stages)))
        size = f"{spec.n_params:,}" if spec.n_params < 10_000 else n_parameters(spec.n_params)
        facts = [f"{size} parameters", *[f"channels {used}"] * channels, *facts]
    return " · ".join(fact.replace(" ", "\xa0") for fact in facts)  # a line does not end within one


def _stage_names(spec: StudentSpec | None, layout: _Layout, scale: float) -> list[str]:
    """Names of the stages, as long as all of them have room for."""
    stages = [stage for stage, _, _ in layout.bands]
    choices = [[f"stage {stage + 1}" for stage in stages], [str(stage + 1) for stage in stages]]
    if spec is not None:
        size = [f"{n}×{n}" for n in spec.sizes]  # noqa: RUF001 (a times sign)
        choices.insert(0, [f"stage {stage + 1}: {size[stage]}" for stage in stages])
        choices.insert(0, [f"stage {s + 1}: {spec.channels[s]} channels, {size[s]}" for s in stages])
    rooms = [(right - left) * scale / _LETTER for _, left, right in layout.bands]
    fits = [all(len(name) < room for name, room in zip(names, rooms, strict=True)) for names in choices]
    return choices[fits.index(True) if True in fits else -1]


def draw_wirings(items: Sequence[Wiring | StudentSpec], path: str | Path, **options: Any) -> Path:
    """One wiring, or several on a sheet, as a file; its folder is made if it is missing.

    Args:
        path: Ends in .png, .svg or .pdf.
        options: Those of `picture`.

    Raises:
        ValueError: If the suffix is another, or there is no wiring.
    """
    import vl_convert

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"pictures end in {', '.join(SUFFIXES)}, got {path.name!r}")
    chart = specification(picture(items[0] if len(items) == 1 else items, **options))
    look = {**PAGE, "aria": False, "background": "@bg", "padding": 14, "legend": {**PAGE["legend"], "columns": 5}}
    svg = vl_convert.vegalite_to_svg(coloured({**chart, "config": look}, PALETTES["paper"]))
    svg = re.sub(r"\d+\.\d\d+", lambda number: f"{float(number[0]):.2f}", svg)  # of 16 digits
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".svg":
        path.write_text(svg, encoding="utf-8")
    else:
        path.write_bytes(vl_convert.svg_to_pdf(svg) if suffix == ".pdf" else vl_convert.svg_to_png(svg, scale=2))
    return path
