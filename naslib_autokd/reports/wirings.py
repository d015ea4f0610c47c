"""Pictures of wirings: the three levels of one, or a sheet of several from one family.

Matplotlib is imported when a picture is drawn, through its object interface: no backend is chosen and no global
state of pyplot touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.wiring import OPERATIONS, Cell, StudentSpec, Wiring

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

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
"""Of the operations; told apart with the common colour blindnesses, and named in the legend."""

STAGE_COLOURS = ("#e8f0f8", "#eaf6ea", "#fbf1e2")
RING_COLOURS = ("#88aadd", "#228833", "#ee7733")


def draw_wiring(wiring: Wiring | StudentSpec, path: str | Path) -> Path:
    """Draw one wiring: cells from left to right on the colour of their stage, in each cell its mid nodes as frames, in
    each frame the graph of operations, coloured by operation. A `StudentSpec` adds channels and parameters.

    Edges run from left to right at the top (arcs over the cells) and from top to bottom inside the cells. Dashed arcs
    come from the stem or go to the head.

    Args:
        path: Ends in .png, .svg or .pdf; its folder is made if it is missing.

    Raises:
        ValueError: If the suffix is another.
    """
    path = _checked(path)
    spec = wiring if isinstance(wiring, StudentSpec) else None
    wiring = wiring.wiring if isinstance(wiring, StudentSpec) else wiring
    widths = [_cell_size(cell)[0] for cell in wiring.cells]
    height = max(_cell_size(cell)[1] for cell in wiring.cells)
    gap = 0.9
    total = sum(widths) + gap * (len(widths) + 1)
    arcs = 0.55 * max([1, *(b - a for a, b in wiring.graph.edges)]) ** 0.8 + 0.9
    scale = min(0.55, 28 / total)
    figure = _figure(max(7.0, total * scale), max(3.2, (height + arcs + 2.2) * scale))
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_aspect("equal")
    _draw_cells(axes, wiring, detailed=len(wiring.cells) * height < 400)
    axes.set_title(_title(wiring, spec), fontsize=10, loc="left")
    _legend(axes, wiring)
    return _save(figure, path)


def draw_wirings(wirings: Sequence[Wiring | StudentSpec], path: str | Path, *, title: str = "") -> Path:
    """`draw_wiring` for one, `draw_sheet` for several."""
    return draw_wiring(wirings[0], path) if len(wirings) == 1 else draw_sheet(wirings, path, title=title)


def draw_sheet(wirings: Sequence[Wiring | StudentSpec], path: str | Path, *, title: str = "") -> Path:
    """Draw several wirings on one sheet, as their flattened graphs: one dot per operation (filled by operation, ringed
    by stage), one column per step of the longest path.

    Raises:
        ValueError: If there is none, or the suffix of ``path`` is unknown.
    """
    if not wirings:
        raise ValueError("a sheet needs at least one wiring")
    path = _checked(path)
    columns = min(3, len(wirings))
    rows = math.ceil(len(wirings) / columns)
    figure = _figure(4.6 * columns, 2.5 * rows + 0.6)
    for number, item in enumerate(wirings):
        spec = item if isinstance(item, StudentSpec) else None
        wiring = item.wiring if isinstance(item, StudentSpec) else item
        axes = figure.add_subplot(rows, columns, number + 1)
        _draw_flat(axes, wiring)
        axes.set_title(_title(wiring, spec), fontsize=7, loc="left")
        axes.set_axis_off()
    used = {name for item in wirings for name in _operations(item)}
    rings = [_mark("white", f"stage {stage + 1}", colour) for stage, colour in enumerate(RING_COLOURS)]
    figure.legend(
        handles=[*_operation_marks(used), *rings], loc="outside lower center", ncols=9, fontsize=7, frameon=False
    )
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"pictures end in {', '.join(SUFFIXES)}, got {path.name!r}")
    return path


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _title(wiring: Wiring, spec: StudentSpec | None) -> str:
    parts = [f"wiring {wiring.digest}", f"{wiring.n_operations} operations", f"depth {wiring.depth}"]
    if spec is not None:
        channels = ", ".join(str(spec.channels[stage]) for stage in sorted(set(wiring.stages)))
        parts += [f"channels {channels}", f"{spec.n_params:,} parameters"]
    return " · ".join(parts)


def _levels(graph: Graph) -> list[int]:
    """Row of each node: the longest path that ends there."""
    rows: list[int] = []
    for sources in graph.predecessors:
        rows.append(max([rows[s] + 1 for s in sources], default=0))
    return rows


def _layout(graph: Graph) -> tuple[list[tuple[int, int]], int, int]:
    """(column, row) of each node, and the numbers of columns and rows: rows by longest path, columns in turn.

    Columns shift with the row, so that an edge over several rows does not run through the nodes between."""
    rows = _levels(graph)
    seen: dict[int, int] = {}
    places = []
    for row in rows:
        column = seen.get(row, 0)
        seen[row] = column + 1
        places.append((column, row))
    skips = any(rows[b] - rows[a] > 1 for a, b in graph.edges)
    if skips:
        places = [(2 * column + row % 2, row) for column, row in places]
    return places, max(column for column, _ in places) + 1, max(rows) + 1


def _bottom_size(graph: Graph) -> tuple[float, float]:
    _, columns, rows = _layout(graph)
    return 0.8 * columns + 0.5, 0.9 * rows + 0.4


def _cell_layout(cell: Cell) -> tuple[list[tuple[float, float]], float, float]:
    """Lower left corner of each mid node's frame (y downwards from 0), and the cell's width and height."""
    places, _, n_rows = _layout(cell.graph)
    sizes = [_bottom_size(node.graph) for node in cell.nodes]
    gap = 0.5
    corners: list[tuple[float, float]] = [(0.0, 0.0)] * len(places)
    widest, y = 0.0, 0.0
    for row in range(n_rows):
        members = sorted((column, node) for node, (column, r) in enumerate(places) if r == row)
        x = 0.45 * (row % 2) if len(cell.nodes) > 1 else 0.0
        tallest = max(sizes[node][1] for _, node in members)
        for _, node in members:
            corners[node] = (x, y - sizes[node][1])
            x += sizes[node][0] + gap
        widest = max(widest, x - gap)
        y -= tallest + gap
    return corners, widest, -y - gap


def _cell_size(cell: Cell) -> tuple[float, float]:
    _, width, height = _cell_layout(cell)
    return width + 0.6, height + 0.6


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    curve: float = 0.0,
    shrink: tuple[float, float] = (0.0, 0.0),
    colour: str = "#555555",
    dashed: bool = False,
) -> None:
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            connectionstyle=f"arc3,rad={curve}",
            mutation_scale=6,
            linewidth=0.7,
            linestyle="--" if dashed else "-",
            color=colour,
            shrinkA=shrink[0],
            shrinkB=shrink[1],
            zorder=3,
        )
    )


def _draw_cells(axes: Axes, wiring: Wiring, detailed: bool) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

    gap, x, tops = 0.9, 0.0, []
    height = max(_cell_size(cell)[1] for cell in wiring.cells)
    spans: dict[int, tuple[float, float]] = {}
    for index, (cell, stage) in enumerate(zip(wiring.cells, wiring.stages, strict=True)):
        width, own_height = _cell_size(cell)
        corner = (x, -own_height)
        axes.add_patch(
            FancyBboxPatch(
                corner,
                width,
                own_height,
                boxstyle="round,pad=0,rounding_size=0.2",
                facecolor="white",
                edgecolor="#333333",
            )
        )
        tops.append(x + width / 2)
        axes.annotate(str(index), (x + 0.12, -own_height + 0.08), fontsize=6, color="#333333")
        corners, _, _ = _cell_layout(cell)
        boxes = []
        for node, (corner_x, corner_y) in zip(cell.nodes, corners, strict=True):
            w, h = _bottom_size(node.graph)
            left, low = x + 0.3 + corner_x, corner_y - 0.3
            boxes.append((left, low, w, h))
            if len(cell.nodes) > 1:
                axes.add_patch(Rectangle((left, low), w, h, facecolor="#f7f7f7", edgecolor="#aaaaaa", linewidth=0.7))
            places, _, _ = _layout(node.graph)
            points = [(left + 0.65 + 0.8 * column, low + h - 0.65 - 0.9 * row) for column, row in places]
            for point, name in zip(points, node.operations, strict=True):
                axes.add_patch(Circle(point, 0.24, facecolor=COLOURS[name], edgecolor="black", linewidth=0.4, zorder=4))
            for a, b in node.graph.edges:
                _arrow(axes, points[a], points[b], shrink=(3, 4 if detailed else 2))
        for a, b in cell.graph.edges:
            left, low, w, _ = boxes[a]
            left_b, low_b, w_b, h_b = boxes[b]
            start, end = (left + w / 2, low), (left_b + w_b / 2, low_b + h_b)
            _arrow(axes, start, end, curve=0.15 if abs(start[0] - end[0]) < 0.3 else 0.0, colour="#996633")
        first, _ = spans.get(stage, (x, 0.0))
        spans[stage] = (first, x + width)
        x += width + gap
    top = 0.55 * max([1, *(b - a for a, b in wiring.graph.edges)]) ** 0.8 + 0.9
    for stage, (left, right) in spans.items():
        axes.add_patch(
            Rectangle(
                (left - gap / 2, -height - 0.9),
                right - left + gap,
                height + top + 0.9,
                facecolor=STAGE_COLOURS[stage],
                zorder=-2,
            )
        )
        axes.annotate(f"stage {stage + 1}", ((left + right) / 2, -height - 0.65), fontsize=8, ha="center")
    for a, b in wiring.graph.edges:
        _arc(axes, tops[a], tops[b], 0.55 * (b - a) ** 0.8)
    for source in wiring.graph.inputs:
        _arrow(axes, (tops[source] - 0.5, 0.75), (tops[source] - 0.15, 0.0), dashed=True)
    for output in wiring.graph.outputs:
        _arrow(axes, (tops[output] + 0.15, 0.0), (tops[output] + 0.5, 0.75), dashed=True)
    axes.set_xlim(-gap / 2 - 0.1, x - gap / 2 + 0.1)
    axes.set_ylim(-height - 1.0, top + 0.1)


def _arc(axes: Axes, start: float, end: float, height: float) -> None:
    """An arc above the cells, from cell to cell."""
    from matplotlib.path import Path as Curve

    curve = Curve(
        [(start, 0.0), (start, 1.3 * height), (end, 1.3 * height), (end, 0.0)],
        [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4],
    )
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=8, linewidth=0.9, color="#333333", zorder=3)
    )


def _draw_flat(axes: Axes, wiring: Wiring) -> None:
    """The flattened graph: columns by longest path, one lane per cell."""
    from matplotlib.collections import LineCollection

    flat = wiring.to_networkx()
    nodes = sorted(node for node in flat if node not in ("input", "output"))  # a topological order
    column: dict[Any, int] = {"input": -1}
    rows: dict[int, list[Any]] = {}
    for node in nodes:
        column[node] = max(column[before] for before in flat.predecessors(node)) + 1
        rows.setdefault(column[node], []).append(node)
    place = {
        node: (float(c), row - (len(members) - 1) / 2 + 0.3 * (c % 2))  # shifted, so that long edges miss the dots
        for c, members in rows.items()
        for row, node in enumerate(members)
    }
    lines = [(place[a], place[b]) for a, b in flat.edges if a in place and b in place]
    alpha = min(1.0, max(0.15, 300 / max(1, len(lines))))
    axes.add_collection(LineCollection(lines, colors="#777777", linewidths=0.5, alpha=alpha, zorder=1))
    size = max(4.0, min(40.0, 900 / len(nodes)))
    for stage, edge in enumerate(RING_COLOURS):
        members = [node for node in nodes if wiring.stages[node[0]] == stage]
        if members:
            xs, ys = zip(*(place[node] for node in members), strict=True)
            colours = [COLOURS[flat.nodes[node]["operation"]] for node in members]
            axes.scatter(xs, ys, s=size, c=colours, edgecolors=edge, linewidths=1.4, zorder=2)
    axes.margins(0.08)


def _operations(item: Wiring | StudentSpec) -> set[str]:
    wiring = item.wiring if isinstance(item, StudentSpec) else item
    return {name for cell in wiring.cells for node in cell.nodes for name in node.operations}


def _mark(colour: str, label: str, edge: str = "black") -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], linestyle="", marker="o", markerfacecolor=colour, markeredgecolor=edge, markeredgewidth=1.4, label=label
    )


def _operation_marks(used: set[str]) -> list[Line2D]:
    return [_mark(COLOURS[name], name, COLOURS[name]) for name in OPERATIONS if name in used]


def _legend(axes: Axes, wiring: Wiring) -> None:
    marks = _operation_marks(_operations(wiring))
    axes.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=6, fontsize=7, frameon=False)
