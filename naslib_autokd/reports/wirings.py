"""Pictures of students: one wiring with its three levels, or a sheet of several from one family, as SVG, PNG or PDF.

How to read them. Cells stand from left to right, in their order, on the colour of their stage; arcs above them are the
edges of the top graph and run to the right. A cell holds frames, one for each node of its mid graph; a frame holds one
mark for each operation. Inside cells and frames all edges run downwards: a node's row is the longest path to it, edges
over several rows go around the nodes between. Edges that enter a learned merge can carry its weight after training
(`edge_weights`), as width and colour.

Pictures are SVG of our own (no scripts, no fonts, no references to anything outside; equal wirings give equal bytes),
which vl-convert turns into PNG and PDF. Nothing is left out of large wirings: `svg` draws every node and every edge of
a network of 1000 operations as an element of its own (about 400 kB), but from `DETAILED` operations on without kernel
sizes in the marks and without tooltips. A sheet draws all edges, and all marks of an operation, together.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from scipy.optimize import isotonic_regression

from naslib_autokd.records import content_digest
from naslib_autokd.reports.terminal import n_parameters
from naslib_autokd.search_spaces.hnag.edges import Edge, Place, graphs_of, operations_of, place_name, wiring_edges
from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.wiring import MERGES, NO_MERGE, OPERATIONS, StudentSpec, Wiring

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
"""From so many operations on, marks have no kernel size in them and edges no tooltip."""
LARGEST = 6000
"""Pixels of a side of a PNG, at most."""

_RADIUS, _STUB = 10.0, 7.0
_OUTLINES = {
    "conv": "m-10 0a10 10 0 1 0 20 0 10 10 0 1 0-20 0z",
    "separable": "m0-12.2l12.2 12.2-12.2 12.2-12.2-12.2z",
    "average": "m-8.8-8.8h17.6v17.6h-17.6z",
    "max": "m11 0l-5.5 9.5h-11l-5.5-9.5 5.5-9.5h11z",
}
"""Marks of the kinds of operations around a centre, of about equal areas."""
_INK, _PAPER = "#1a1a1a", "#ffffff"
_N_WEIGHTS = 24

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""(left, top, width, height)."""


# ---- the layout of one graph ---------------------------------------------------------------------------------------


class _Rows:
    """A graph's nodes in rows; edges over several rows pass those between on lanes, which are nodes of their own.

    The method of Sugiyama, Tagawa & Toda (1981): order within the rows by the mean place of the neighbours, up and
    down, keeping the order with the fewest crossings; then places nearest to the neighbours' that keep the gaps.
    """

    def __init__(self, graph: Graph) -> None:
        rank: list[int] = []  # row of each node: the longest path that ends there
        for sources in graph.predecessors:
            rank.append(max([rank[source] + 1 for source in sources], default=0))
        self.rows: list[list[int]] = [[n for n, row in enumerate(rank) if row == r] for r in range(max(rank) + 1)]
        self.above: list[list[int]] = [[] for _ in rank]
        self.below: list[list[int]] = [[] for _ in rank]
        self.lanes: dict[tuple[int, int], list[int]] = {}
        """Of each edge, from its source's row to its target's; numbered after the nodes."""
        for source, target in graph.edges:
            way = self.lanes[source, target] = []
            for row in range(rank[source] + 1, rank[target]):
                way.append(len(self.above))
                self.rows[row].append(way[-1])
                self.above.append([])
                self.below.append([])
            for upper, lower in pairwise([source, *way, target]):
                self.below[upper].append(lower)
                self.above[lower].append(upper)
        best, fewest = self.rows, self.crossings()
        for sweep in range(8 * (fewest > 0)):
            step, near = (-1, self.above) if sweep % 2 == 0 else (1, self.below)
            self.rows = [list(row) for row in self.rows]
            for index in range(len(self.rows))[::-step]:
                if 0 <= index + step < len(self.rows):
                    own, place = ({item: i for i, item in enumerate(self.rows[i])} for i in (index, index + step))
                    self.rows[index].sort(key=lambda item: _mean([place[o] for o in near[item]], own[item]))
            if (now := self.crossings()) < fewest:
                best, fewest = self.rows, now
        self.rows = best

    def crossings(self) -> int:
        total = 0
        for upper, lower in pairwise(self.rows):
            place = {item: index for index, item in enumerate(lower)}
            ends = [end for item in upper for end in sorted(place[other] for other in self.below[item])]
            total += sum(left > right for left, right in combinations(ends, 2))
        return total

    def centres(self, widths: Sequence[float], gap: float) -> list[float]:
        """Where nodes and lanes stand, so that those of a row keep the gap between them (lanes a smaller one)."""
        n, found = len(widths), [0.0] * len(self.above)
        half = [width / 2 for width in widths] + [0.0] * (len(found) - n)
        offsets = [[0.0] for _ in self.rows]
        for row, offset in zip(self.rows, offsets, strict=True):
            for a, b in pairwise(row):
                offset.append(offset[-1] + half[a] + half[b] + (0.7 * gap if min(a, b) >= n else gap))
            for item, x in zip(row, offset, strict=True):
                found[item] = x - offset[-1] / 2
        for sweep in range(10):
            for row, offset in list(zip(self.rows, offsets, strict=True))[:: -1 if sweep % 2 else 1]:
                wanted = [_mean([found[o] for o in self.above[i] + self.below[i]], found[i]) for i in row]
                weights = [4.0 if item >= n else 1.0 for item in row]  # straight lanes before centred nodes
                for item, x in zip(row, _spread(wanted, weights, offset), strict=True):
                    found[item] = x
        left = min(x - w for x, w in zip(found, half, strict=True))
        return [x - left for x in found]


def _mean(values: Sequence[float], without: float) -> float:
    return sum(values) / len(values) if values else without


def _spread(wanted: Sequence[float], weights: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """Positions nearest to ``wanted`` in least squares whose differences are at least those of ``offsets``."""
    if len(wanted) == 1:
        return list(wanted)
    free = isotonic_regression(np.subtract(wanted, offsets), weights=weights).x
    return [float(x) for x in free + offsets]


# ---- the layout of a wiring ----------------------------------------------------------------------------------------


@dataclass
class _Block:
    """What is drawn of a node, a cell or a network, in pixels; y grows downwards, the upper left corner is (0, 0)."""

    width: float = 2 * _RADIUS
    height: float = 2 * _RADIUS
    boxes: dict[Place, Box] = field(default_factory=dict)
    """Of what is inside, by its place."""
    edges: dict[Edge, list[Point]] = field(default_factory=dict)
    """To the points on the way, drawn by `_curve`."""
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
    found, n = _Rows(graph), len(inside)
    centres = [pad + x for x in found.centres([one.width for one in inside], gap)]
    ends: list[tuple[float, float]] = [(0.0, 0.0)] * len(centres)  # top and bottom of the row of a node or lane
    y = pad
    for row in found.rows:
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
    for (source, target), way in found.lanes.items():  # bent between the rows, straight beside the nodes of a row
        points = [(centres[source], lower[source]), (centres[source], ends[source][1])]
        points += [(centres[lane], y) for lane in way for y in ends[lane]]
        points += [(centres[target], ends[target][0]), (centres[target], upper[target])]
        block.edges[Edge((), source, target)] = list(dict.fromkeys(points))
    stubs = [(node, upper[node], max(0.0, upper[node] - _STUB)) for node in graph.inputs]
    stubs += [(node, lower[node], min(block.height, lower[node] + _STUB)) for node in graph.outputs]
    block.stubs += [[(centres[node], start), (centres[node], end)] for node, start, end in stubs]
    return block


@dataclass
class _Layout(_Block):
    """A whole wiring."""

    bands: list[tuple[int, float, float]] = field(default_factory=list)
    """(stage, left, right)."""
    arcs: dict[tuple[int, int], str] = field(default_factory=dict)
    """Of the top graph's edges, as path data; the stem and the head take part as if they were cells -1 and n."""
    ends: tuple[Point, Point] = ((0.0, 0.0), (0.0, 0.0))
    """Names of the stem and the head."""


_CELL_GAP = 26.0


def _layout(wiring: Wiring) -> _Layout:
    cells = []
    for cell in wiring.cells:
        frames = [_block(node.graph, [_Block()] * node.graph.n_nodes, 9.0, 17.0, 7.0) for node in cell.nodes]
        cells.append(_block(cell.graph, frames, 12.0, 20.0, 9.0))
    n_cells, total = len(cells), sum(cell.width for cell in cells)
    arcs = [*wiring.graph.edges, *((-1, node) for node in wiring.graph.inputs)]
    arcs += [(node, n_cells) for node in wiring.graph.outputs]
    steep = math.sqrt(max(1.0, total / (90.0 * n_cells)))  # arcs over wide cells
    rises = {(a, b): 16.0 * steep * (b - a) ** 0.85 for a, b in arcs}
    floor = max(rises.values()) + 4.0
    margin = max(62.0, 0.03 * total)  # of the stem's and the head's names

    layout = _Layout(height=floor + max(cell.height for cell in cells) + 8.0)
    x = margin
    spans: dict[int, tuple[float, float]] = {}
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
        start, end, top = port(a, b), port(b, a), floor - rise / 0.75
        layout.arcs[a, b] = f"M{start:.1f} {floor:.1f}C{start:.1f} {top:.1f} {end:.1f} {top:.1f} {end:.1f} {floor:.1f}"
    return layout


# ---- shapes --------------------------------------------------------------------------------------------------------


def _rules() -> dict[str, str]:
    """What the classes of a picture's elements look like."""
    line = "fill:none;stroke:currentColor;stroke-opacity:.6;stroke-width:1.1"
    rules = {f"stage{i}": f"fill:{colour};fill-opacity:.12" for i, colour in enumerate(STAGE_COLOURS)}
    rules |= {
        "cell": "fill:none;stroke:currentColor;stroke-opacity:.65;stroke-width:1.1",
        "frame": "fill:currentColor;fill-opacity:.05;stroke:currentColor;stroke-opacity:.3;stroke-width:.8",
        "end": "fill:none;stroke:currentColor;stroke-opacity:.35;stroke-width:.9",
        **{"edge": line, "concat": f"{line};stroke-dasharray:5 3", "mask": f"{line};stroke-dasharray:2 2"},
        **{name: f"fill:{colour};stroke:currentColor;stroke-width:.6" for name, colour in COLOURS.items()},
        "text": "fill:currentColor;font-family:system-ui,Helvetica,Arial,sans-serif",
        **{f"on-{name}": f"fill:{'#000' if _light(colour) else '#fff'}" for name, colour in COLOURS.items()},
    }
    low, high = (np.array([width, *_rgb(colour)]) for width, colour in zip(WEIGHT_WIDTHS, WEIGHT_COLOURS, strict=True))
    for index, share in enumerate(np.linspace(0, 1, _N_WEIGHTS)):
        width, *rgb = low + share * (high - low)
        rules[f"w{index}"] = f"stroke:#{bytes(map(round, rgb)).hex()};stroke-width:{width:.2f};stroke-opacity:1"
    return rules


def _rgb(colour: str) -> list[int]:
    return list(bytes.fromhex(colour[1:]))


def _light(colour: str) -> bool:
    """Whether black is easier to read on it than white."""
    red, green, blue = _rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue > 112


def _number(value: float, digits: int = 1) -> str:
    return f"{round(value, digits) + 0.0:g}"  # + 0.0: no "-0"


def _curve(points: Sequence[Point], digits: int, bent: bool = True) -> str:
    """Path data from point to point, leaving and arriving downwards."""
    (x, y), *others = points
    parts = [f"M{_number(x, digits)} {_number(y, digits)}"]
    for x_next, y_next in others:
        numbers = [x_next, y_next]
        if bent and abs(x - x_next) > 0.05:
            numbers = [x, (y + y_next) / 2, x_next, (y + y_next) / 2, *numbers]
        parts.append("LC"[len(numbers) > 2] + " ".join(_number(value, digits) for value in numbers))
        x, y = x_next, y_next
    return "".join(parts)


def _rectangle(box: Box, radius: int, digits: int) -> str:
    """Path data, with round corners."""
    r, (left, top, wide, high) = radius, box
    x, y, width, height = (_number(v, digits) for v in (left, top + r, wide - 2 * r, high - 2 * r))
    return f"M{x} {y}q0-{r} {r}-{r}h{width}q{r} 0 {r} {r}v{height}q0 {r}-{r} {r}h-{width}q-{r} 0-{r}-{r}z"


def _mark(operation: str, box: Box, digits: int) -> str:
    outline = _OUTLINES[OPERATIONS[operation].kind]
    return f"M{_number(box[0] + _RADIUS, digits)} {_number(box[1] + _RADIUS, digits)}{outline}"


def _shapes(wiring: Wiring, layout: _Layout, digits: int, bent: bool = True) -> Iterator[tuple[str, str, str, str]]:
    """Every node and every edge, from the back to the front: class in `_rules`, path, key and tooltip; arcs of the stem
    and the head have no key."""
    for size, kind, radius in ((1, "cell", 6), (2, "frame", 4)):
        for place, box in layout.boxes.items():
            if len(place) == size:
                yield kind, _rectangle(box, radius, digits), place_name(place), ""
    outer = [arc for (a, b), arc in layout.arcs.items() if a < 0 or b == len(wiring.cells)]
    yield "end", "".join(outer), "", ""
    for place, graph, merges in graphs_of(wiring):
        where = ("cells", "cell {}, nodes", "cell {}, node {},")[len(place)].format(*place)
        for source, target in graph.edges:
            merge, edge = merges[target], Edge(place, source, target)
            makes_mask = merge == "attention" and source == graph.predecessors[target][0]
            kind = "concat" if merge == "concat" else "mask" if makes_mask else "edge"
            data = _curve(layout.edges[edge], digits, bent) if place else layout.arcs[source, target]
            yield kind, data, edge.label, f"{where} {source} to {target}, {merge}"
    for place, name in operations_of(wiring):
        tooltip = "cell {}, node {}, operation {}: {}".format(*place, name)
        yield name, _mark(name, layout.boxes[place], digits), place_name(place), tooltip


# ---- pictures ------------------------------------------------------------------------------------------------------

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold, not even escaped."""
_PAD = 14.0


def _text_width(text: str, size: float) -> float:
    """Pixels, by the width of an average letter of a sans-serif font."""
    return 0.56 * size * len(text)


def _wrapped(text: str, size: float, width: float) -> list[str]:
    """Lines of at most about ``width``; no-break spaces hold a fact together."""
    lines = textwrap.wrap(text, int(width / _text_width("x", size)), break_long_words=False, break_on_hyphens=False)
    return [line.replace(_HARD, " ").removesuffix(" ·") for line in lines]


_HARD = "\xa0"


def _add(parent: Element, tag: str, text: str = "", kind: str = "", **attributes: Any) -> Element:
    """An element of the class ``kind``; names have dashes for underscores, None and "" leave an attribute out."""
    given = {"class": kind, **{name.replace("_", "-"): value for name, value in attributes.items()}}
    known = {k: _number(v) if isinstance(v, float) else str(v) for k, v in given.items() if v not in (None, "")}
    element = SubElement(parent, tag, known)
    element.text = text or None
    return element


class _Picture:
    """An SVG that grows downwards: ``y`` is where the next part stands.

    Args:
        zoom: Pixels for one of the texts' pixels.
    """

    def __init__(self, width: float, title: str, zoom: float = 1.0) -> None:
        self.width, self.y, self.title, self.zoom = width + 2 * _PAD, _PAD + 12.0, title, zoom
        self.description = ""
        self.body = Element("g")

    def text(self, text: str, x: float, y: float, size: float, **attributes: Any) -> None:
        _add(self.body, "text", text, x=x, y=y, font_size=size, **attributes)

    def lines(self, text: str, size: float, step: float, **attributes: Any) -> None:
        for line in _wrapped(text, size, self.width - 2 * _PAD):
            self.text(line, _PAD, self.y, size, **attributes)
            self.y += step

    def group(self, x: float, y: float, scale: float) -> Element:
        return _add(self.body, "g", transform=f"translate({_number(x)} {_number(y)}) scale({scale:.4g})")

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """Marks and lines with what they mean: (class, text)."""
        x, size = _PAD, 11.0
        for kind, text in entries:
            indent = 19.0 if kind in COLOURS else 32.0
            needed = indent + _text_width(text, size) + 15.0
            if x > _PAD and x + needed > self.width - _PAD:
                x, self.y = _PAD, self.y + 20.0
            group = self.group(x + 2.0, self.y - 6.0, 0.6) if kind in COLOURS else self.group(x, self.y, 1.0)
            _add(group, "path", kind=kind, d=_mark(kind, (0, 0, 0, 0), 1) if kind in COLOURS else "M0 0h26")
            self.text(text, x + indent, self.y + 0.35 * size, size)
            x += needed
        self.y += 20.0

    def svg(self, background: str | None) -> str:
        """The whole document; styles are under a class of its own, since those of an inline SVG hold for a page."""
        scope = f"wiring-{content_digest([self.title, self.description, round(self.width), round(self.y)])[:8]}"
        width, height = math.ceil(self.width), math.ceil(self.y)
        root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}"})
        root.attrib |= {"width": _number(width * self.zoom), "height": _number(height * self.zoom), "class": scope}
        root.attrib |= {"role": "img", "aria-labelledby": f"{scope}-t {scope}-d"}
        root.set("style", f"{'' if background is None else f'color:{_INK};'}max-width:100%;height:auto")
        _add(root, "title", self.title, id=f"{scope}-t")
        _add(root, "desc", self.description, id=f"{scope}-d")
        used = {name for element in self.body.iter() for name in element.get("class", "").split()} | {"text"}
        rules = ((name if name == "text" else f".{name}", body) for name, body in _rules().items() if name in used)
        _add(root, "style", "".join(f".{scope} {name}{{{body}}}" for name, body in rules))
        if background is not None:
            _add(root, "rect", width=width, height=height, fill=background)
        root.append(self.body)
        return _NOT_XML.sub("\ufffd", tostring(root, encoding="unicode")) + "\n"


def _count_merges(wirings: Sequence[Wiring]) -> Counter[str]:
    """Number of nodes, over all levels, of every merge that is used."""
    found = Counter(name for wiring in wirings for _, _, merges in graphs_of(wiring) for name in merges)
    return Counter({name: found[name] for name in MERGES if found[name]})


def _facts(wiring: Wiring, spec: StudentSpec | None) -> list[str]:
    merges = ", ".join(f"{n} {name}" for name, n in _count_merges([wiring]).items()) or "none"
    facts = [f"{wiring.n_operations} operations", f"depth {wiring.depth}", f"merges: {merges}"]
    if spec is not None:
        size = f"{spec.n_params:,}" if spec.n_params < 10_000 else n_parameters(spec.n_params)
        facts.insert(0, f"{size} parameters")
    return facts


def _joined(facts: Sequence[str]) -> str:
    return " · ".join(fact.replace(" ", _HARD) for fact in facts)


def _legend(wirings: Sequence[Wiring]) -> list[tuple[str, str]]:
    counts = Counter(name for wiring in wirings for _, name in operations_of(wiring))
    entries = [(name, f"{name} ({counts[name]})" if len(wirings) == 1 else name) for name in OPERATIONS if counts[name]]
    merges = _count_merges(wirings)
    if merges["concat"]:
        entries.append(("concat", "into a concatenation"))
    if merges["attention"] and len(wirings) == 1:
        entries.append(("mask", "makes the mask of an attention merge"))
    return entries


def _describe(wiring: Wiring, weights: Mapping[Edge, float]) -> str:
    stages = ", ".join(f"{n} in stage {stage + 1}" for stage, n in sorted(Counter(wiring.stages).items()))
    operations = sorted(Counter(name for _, name in operations_of(wiring)).items())
    text = (
        f"A network of three levels: {len(wiring.cells)} cells from left to right ({stages}), "
        f"{sum(len(cell.nodes) for cell in wiring.cells)} nodes inside the cells, {wiring.n_operations} operations "
        f"inside the nodes ({', '.join(f'{n} {name}' for name, n in operations)}); {len(wiring_edges(wiring))} edges; "
        f"the longest path has {wiring.depth} operations. {_facts(wiring, None)[-1].capitalize()}."
    )
    if weights:
        text += f" Learned merge weights lie between {min(weights.values()):.2f} and {max(weights.values()):.2f}."
    return text


def _parts(item: Wiring | StudentSpec) -> tuple[Wiring, StudentSpec | None]:
    return (item.wiring, item) if isinstance(item, StudentSpec) else (item, None)


def _picture(item: Wiring | StudentSpec, weights: Mapping[Edge, float], title: str) -> _Picture:
    """One wiring: every node and every edge is an element of its own."""
    wiring, spec = _parts(item)
    edges = wiring_edges(wiring)
    unknown = [edge for edge in weights if edge not in edges]
    if unknown:
        raise ValueError(f"merge_weights has edges that wiring {wiring.digest} lacks, for example {unknown[0].label!r}")
    facts, legend = _facts(wiring, spec), _legend([wiring])
    if spec is not None:
        facts.insert(1, "channels " + ", ".join(str(spec.channels[stage]) for stage in sorted(set(wiring.stages))))
    note = "Arcs run from left to right, edges inside the cells downwards."
    if weights:
        scale_of, samples = _weight_classes(weights)
        legend += [(f"edge {scale_of(w)}", f"{'merge weight ' * (not i)}{w:.2f}") for i, w in enumerate(samples)]
        if NO_MERGE in edges.values():
            legend.append(("edge", "only input: no weight"))
        note += " Merge weights are sigmoid(w) after training, 0.73 before."

    layout = _layout(wiring)
    scale = min(1.0, 1400 / layout.width)  # a large drawing is seen scaled down; its texts shall not be
    title = title or f"Wiring {wiring.digest}"
    picture = _Picture(max(layout.width * scale, 620.0), f"{title}: {', '.join(facts)}", 1 / scale)
    picture.description = _describe(wiring, weights)
    picture.lines(title, 15.0, 19.0, font_weight=600)
    picture.lines(_joined(facts), 11.5, 16.0)
    left, top = (picture.width - layout.width * scale) / 2, picture.y + 2.0
    bottom = top + layout.height * scale
    group = picture.group(left, top, scale)
    for (stage, start, end), name in zip(layout.bands, _stage_names(spec, layout, scale), strict=True):
        box = (start, 0.0, end - start, layout.height + 20.0 / scale)
        _add(group, "path", kind=f"stage{stage}", d=_rectangle(box, 0, 1))
        picture.text(name, left + (start + end) / 2 * scale, bottom + 12.0, 11.0, text_anchor="middle")
    for name, (x, y) in zip(("stem", "head"), layout.ends, strict=True):
        picture.text(name, left + x * scale, top + y * scale + 4.0, 11.0, text_anchor="middle")
    detailed = wiring.n_operations < DETAILED
    _add(group, "path", kind="end", d="".join(_curve(stub, int(detailed)) for stub in layout.stubs))
    labels = {edge.label: weight for edge, weight in weights.items()}
    for kind, data, key, tooltip in _shapes(wiring, layout, int(detailed)):
        if key in labels:
            kind, tooltip = f"{kind} {scale_of(labels[key])}", f"{tooltip}, weight {labels[key]:.3f}"
        element = _add(group, "path", kind=kind, data_key=key, d=data)
        if detailed and tooltip:
            _add(element, "title", tooltip)
    for place, name in operations_of(wiring) if detailed else ():
        kernel = f"{OPERATIONS[name].height}×{OPERATIONS[name].width}"  # noqa: RUF001 (a times sign)
        at = {"x": layout.boxes[place][0] + _RADIUS, "y": layout.boxes[place][1] + _RADIUS + 2.7}
        small = {"font_size": 7.5, "text_anchor": "middle", "pointer_events": "none", "aria_hidden": "true"}
        _add(group, "text", kernel, f"on-{name}", **at, **small)
    picture.y = bottom + 40.0
    picture.legend(legend)
    picture.y += 2.0
    picture.lines(note, 10.5, 15.0, opacity=".75")
    return picture


def _weight_classes(weights: Mapping[Edge, float]) -> tuple[Callable[[float], str], tuple[float, float, float]]:
    """From a weight to its class of width and colour; the smallest, the middle and the largest weight."""
    low, high = min(weights.values()), max(weights.values())
    if high - low < 0.1:  # differences of nothing look like nothing
        low, high = (low + high) / 2 - 0.05, (low + high) / 2 + 0.05

    def of(weight: float) -> str:
        share = min(1.0, max(0.0, (weight - low) / (high - low)))
        return f"w{round(share * (_N_WEIGHTS - 1))}"

    return of, (low, (low + high) / 2, high)


def _stage_names(spec: StudentSpec | None, layout: _Layout, scale: float) -> list[str]:
    """Names of the stages, as long as all of them have room for."""
    stages = [stage for stage, _, _ in layout.bands]
    choices = [[f"stage {stage + 1}" for stage in stages], [str(stage + 1) for stage in stages]]
    if spec is not None:
        size = [f"{n}×{n}" for n in spec.sizes]  # noqa: RUF001 (a times sign)
        choices.insert(0, [f"stage {stage + 1}: {size[stage]}" for stage in stages])
        choices.insert(0, [f"stage {s + 1}: {spec.channels[s]} channels, {size[s]}" for s in stages])
    rooms = [(right - left) * scale for _, left, right in layout.bands]
    fits = [all(_text_width(n, 11.0) < room for n, room in zip(names, rooms, strict=True)) for names in choices]
    return choices[fits.index(True) if True in fits else -1]


_TILE, _TILE_HEIGHT = 400.0, 300.0


def _sheet(items: Sequence[Wiring | StudentSpec], title: str, captions: Sequence[str], columns: int) -> _Picture:
    """Several wirings side by side, at one scale unless sizes differ much."""
    if not items:
        raise ValueError("a sheet needs at least one wiring")
    if captions and len(captions) != len(items):
        raise ValueError(f"captions must be one for each of the {len(items)} wirings, got {len(captions)}")
    wirings = [_parts(item)[0] for item in items]
    layouts = [_layout(wiring) for wiring in wirings]
    columns, gap = min(columns, len(items)), 22.0
    own = [min(1.0, _TILE / one.width, _TILE_HEIGHT / one.height) for one in layouts]
    scales = [min(one, 2.5 * min(own)) for one in own] if max(own) > 2.5 * min(own) else [min(own)] * len(own)
    picture = _Picture(max(columns * (_TILE + gap) - gap, 620.0), title or "Sampled wirings")
    depths = [wiring.depth for wiring in wirings]
    picture.description = f"{len(items)} sampled networks side by side; depth {min(depths)} to {max(depths)}."
    if title:
        picture.lines(title, 15.0, 20.0, font_weight=600)
    for start in range(0, len(items), columns):
        row = range(start, min(start + columns, len(items)))
        tallest = max(layouts[index].height * scales[index] for index in row)
        below = 0
        for index in row:
            layout, scale, caption = layouts[index], scales[index], f"wiring {wirings[index].digest}"
            middle = _PAD + (index - start) * (_TILE + gap) + _TILE / 2
            upper = picture.y + (tallest - layout.height * scale) / 2
            _tile(picture.group(middle - layout.width * scale / 2, upper, scale), wirings[index], layout, scale)
            lines = [(line, 12.0, 600) for line in _wrapped(captions[index] if captions else caption, 12.0, _TILE)]
            facts = _joined(_facts(*_parts(items[index])))
            lines += [(line, 11.0, 400) for line in _wrapped(facts, 11.0, _TILE)]
            for number, (line, size, weight) in enumerate(lines):
                y = picture.y + tallest + 14.0 + 15.0 * number
                picture.text(line, middle, y, size, text_anchor="middle", font_weight=weight)
            below = max(below, len(lines))
        picture.y += tallest + 15.0 * below + 26.0
    picture.legend(_legend(wirings))
    return picture


def _tile(group: Element, wiring: Wiring, layout: _Layout, scale: float) -> None:
    """A small network: all shapes of a kind are one element; nobody sees bends, and lines of less than 0.4 pixels."""
    kinds = {f"stage{s}": [_rectangle((a, 0.0, b - a, layout.height), 0, 1)] for s, a, b in layout.bands}
    for kind, data, _, _ in _shapes(wiring, layout, 0, bent=scale >= 0.4):
        kinds.setdefault("edge" if kind == "mask" else kind, []).append(data)
    for kind, parts in kinds.items():
        thin = f"stroke-width:{0.4 / scale:.2g}" if scale < 0.36 and kind not in COLOURS else None
        _add(group, "path", kind=kind, d="".join(parts), style=thin)


def _drawn(
    items: Wiring | StudentSpec | Sequence[Wiring | StudentSpec],
    *,
    merge_weights: Mapping[Edge, float] | None = None,
    title: str = "",
    captions: Sequence[str] = (),
    columns: int = 3,
) -> _Picture:
    if isinstance(items, Sequence):
        return _sheet(items, title, captions, columns)
    return _picture(items, merge_weights or {}, title)


def svg(
    items: Wiring | StudentSpec | Sequence[Wiring | StudentSpec], *, background: str | None = _PAPER, **options: Any
) -> str:
    """One wiring, or a sheet of several side by side, as a self-contained SVG: a file or a part of an HTML page.

    Args:
        items: One with its three levels, or a list of them: each small, with its size, depth and merges below, at one
            scale unless sizes differ much. A `StudentSpec` adds channels, sizes and parameters.
        background: Any colour of CSS; texts and lines are dark on it. None leaves it out and draws them in the text
            colour of the surrounding page (``currentColor``), light or dark.
        options: ``title``, for one wiring instead of "Wiring" and its digest; ``merge_weights`` of one wiring, weights
            of edges in [0, 1] from `edge_weights`, shown as width and colour with a legend; ``captions`` of a sheet,
            one a wiring instead of its digest; ``columns`` of a sheet, 3 by default.

    Raises:
        ValueError: If ``merge_weights`` has an edge that the wiring lacks, there is no wiring, or not one caption for
            each.
    """
    return _drawn(items, **options).svg(background)


def draw_wirings(items: Sequence[Wiring | StudentSpec], path: str | Path, **options: Any) -> Path:
    """One wiring, or several on a sheet, as a file; its folder is made if it is missing.

    Args:
        path: Ends in .png, .svg or .pdf.
        options: Those of `svg`.

    Raises:
        ValueError: If the suffix is another, or there is no wiring.
    """
    import vl_convert

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"pictures end in {', '.join(SUFFIXES)}, got {path.name!r}")
    picture = _drawn(items[0] if len(items) == 1 else items, **options)
    text, scale = picture.svg(_PAPER), min(2.0, LARGEST / max(picture.width, picture.y) / picture.zoom)
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".svg":
        path.write_text(text, encoding="utf-8")
    else:
        path.write_bytes(vl_convert.svg_to_pdf(text) if suffix == ".pdf" else vl_convert.svg_to_png(text, scale=scale))
    return path
