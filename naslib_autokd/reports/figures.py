"""What the figures and tables of a paper share: column width, colours that all can tell apart, charts, files, formats.

Figures are as wide as a column (`COLUMN_WIDTH`) or a page (`PAGE_WIDTH`) of a two-column paper, with text of 8 points,
embedded fonts and Okabe and Ito's palette; from the eighth method on line styles and markers change too. A chart here
takes plain numbers and knows nothing of runs: reports prepare them (`ablation`, `importance`, `front`,
`paper_figures`).
"""

from __future__ import annotations

import csv
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from naslib_autokd.escaping import csv_cell
from naslib_autokd.reports.comparison import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_WIDTH = 3.25
"""Inches: a column of a two-column paper."""
PAGE_WIDTH = 6.75
"""Inches: both columns."""
WIDTHS = {"single": COLUMN_WIDTH, "double": PAGE_WIDTH}

FORMATS = ("png", "pdf")

TEXT = 8.0
"""Points, of all texts."""

MANY_LINES = 6
"""Above so many lines only the emphasised one's band is shaded."""

LINE_STYLES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1.2, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D")

SETTINGS: Any = {
    "font.size": TEXT,
    "axes.labelsize": TEXT,
    "axes.titlesize": TEXT,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "legend.fontsize": TEXT,
    "axes.linewidth": 0.6,
    "axes.labelpad": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.pad": 2.5,
    "ytick.major.pad": 2.5,
    "lines.linewidth": 1.2,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "pdf.fonttype": 42,  # publishers refuse type 3 fonts
    "savefig.dpi": 300,
    "text.parse_math": False,  # a label may have dollars
}


def style(index: int) -> dict[str, Any]:
    """Colour and line style of the method at this place: different for 28 of them."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]}


def marker(index: int) -> str:
    return MARKERS[index // len(COLOURS) % len(MARKERS)]


@dataclass
class FigureFolder:
    """Where figures and their tables go."""

    path: Path
    """Made if it is missing."""
    formats: Sequence[str] = field(default_factory=lambda: FORMATS)
    """Of "png", "pdf" and what else matplotlib writes."""
    width: float = COLUMN_WIDTH
    """Inches, of a figure that does not need more."""
    files: list[Path] = field(default_factory=list)
    """Written so far."""

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def figure(self, name: str, height: float, width: float | None = None) -> Iterator[Figure]:
        """A figure of this size in inches, written as ``name.png`` and so on when the block ends."""
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with rc_context(SETTINGS):
            figure = Figure(figsize=(self.width if width is None else width, height))
            FigureCanvasAgg(figure)
            yield figure
            for suffix in self.formats:
                path = self.path / f"{name}.{suffix}"
                # without the date, equal results are equal files
                figure.savefig(path, metadata={"CreationDate": None} if suffix == "pdf" else None)
                self.files.append(path)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """``name.csv``."""
        self.files.append(write_csv(self.path / f"{name}.csv", columns, rows))


def text_width(figure: Figure, texts: Sequence[str], size: float = TEXT) -> float:
    """Inches of the longest text."""
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    drawn = [Text(0, 0, text, fontsize=size, figure=figure) for text in texts]
    return max((text.get_window_extent(renderer).width for text in drawn), default=0.0) / figure.dpi


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions in the same order that are at least ``gap`` apart, as near to the given ones as that allows.

    All lie between ``low`` and ``high`` if these have the room; else they are spread evenly over it.
    """
    n = len(positions)
    if n == 0:
        return []
    gap = min(gap, (high - low) / max(1, n - 1))
    order = sorted(range(n), key=lambda i: positions[i])
    # groups of touching labels are centred on the mean of what they would like
    groups: list[tuple[float, int]] = []  # (centre, size)
    for i in order:
        centre, size = min(max(positions[i], low), high), 1
        while True:
            half = gap * (size - 1) / 2
            centre = min(max(centre, low + half), high - half)
            if not groups or groups[-1][0] + gap * (groups[-1][1] - 1) / 2 + gap <= centre - half + 1e-12:
                break
            before, count = groups.pop()
            centre, size = (before * count + centre * size) / (count + size), count + size
        groups.append((centre, size))
    placed = [centre + gap * (k - (size - 1) / 2) for centre, size in groups for k in range(size)]
    answer = [0.0] * n
    for i, position in zip(order, placed, strict=True):
        answer[i] = position
    return answer


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, Mapping[str, Any]]], size: float = TEXT) -> None:
    """Write names right of the axes at the heights where lines end, without overlap: a legend in the lines' order.

    Args:
        ends: ``(label, y in data coordinates, line style)``; labels of lines that end nowhere (nan) come last.
    """
    figure = axes.figure
    height = axes.get_position().height * figure.get_figheight()  # type: ignore[union-attr]
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((axes.get_xlim()[1], y))[1]) if np.isfinite(y) else 0.0 for _, y, _ in ends]
    places = spread(heights, 1.25 * size / 72 / height, 0.0, 1.0)
    inch = 1 / (axes.get_position().width * figure.get_figwidth())  # type: ignore[union-attr]
    for (label, y, line), start, place in zip(ends, heights, places, strict=True):
        if np.isfinite(y):
            xs, ys = [1.0 + 0.02 * inch, 1.0 + 0.12 * inch], [min(max(start, 0.0), 1.0), place]
            axes.plot(xs, ys, color="#999999", linewidth=0.4, transform=axes.transAxes, clip_on=False)
        xs = [1.0 + 0.14 * inch, 1.0 + 0.34 * inch]
        axes.plot(xs, [place, place], transform=axes.transAxes, clip_on=False, **line)
        x = 1.0 + 0.38 * inch
        axes.text(x, place, label, transform=axes.transAxes, fontsize=size, va="center_baseline")


END_LABELS = 0.40
"""Inches between the axes and the text of `label_ends`."""


# ---- charts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of a chart: arrays of equal length, in the units of the axes."""

    label: str
    x: ArrayLike
    y: ArrayLike
    place: int
    """Of its method among all: decides colour and line style."""
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    steps: bool = True
    """A step after each point, as the incumbent's; else straight lines."""
    emphasised: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Group:
    """A row of a strip chart."""

    label: str
    values: ArrayLike
    """Single results; nan are left out."""
    place: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    """Of the mean's interval."""


def line_chart(
    folder: FigureFolder,
    name: str,
    lines: Sequence[Line],
    *,
    xlabel: str,
    ylabel: str,
    log_y: bool = False,
    invert: bool = False,
    baseline: tuple[str, float] | None = None,
) -> None:
    """Curves over what was spent; the axis of x is logarithmic from a factor of 5 on.

    Names stand at the ends of the lines if they leave the axes 55% of the width, else below the axes.

    Args:
        log_y: Logarithmic where all values are above 0 and span more than a factor of 4; zeros are drawn at the edge.
        invert: Small values on top.
        baseline: Name and height of a horizontal line.
    """
    drawn = [line for line in lines if np.isfinite(np.asarray(line.y, dtype=float)).any()]
    labels = [line.label for line in drawn] + ([] if baseline is None else [baseline[0]])
    one = len(labels) == 1
    with folder.figure(name, 2.1) as figure:
        axes = figure.subplots()
        values = np.concatenate([np.asarray(line.y, dtype=float) for line in drawn] or [np.empty(0)])
        values = values[np.isfinite(values)]
        positive = values[values > 0]
        log = log_y and len(positive) > 0 and values.min() >= 0 and positive.max() > 4 * positive.min()
        floor = float(positive.min() / 1.5) if log else -np.inf
        ends: list[tuple[str, float, dict[str, Any]]] = []
        for line in drawn:
            look = {**style(line.place), **({"linestyle": "--"} if line.dashed else {})}
            x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
            known = np.isfinite(y)
            x, y = x[known], np.maximum(y[known], floor)
            if line.low is not None and line.high is not None and (len(drawn) <= MANY_LINES or line.emphasised):
                low, high = (np.asarray(end, dtype=float)[known] for end in (line.low, line.high))
                band: dict[str, Any] = {"step": "post"} if line.steps else {}
                low, high = np.maximum(low, floor), np.maximum(high, floor)
                axes.fill_between(x, low, high, color=look["color"], alpha=0.16, linewidth=0, **band)
            drawstyle = "steps-post" if line.steps else "default"
            axes.plot(x, y, drawstyle=drawstyle, zorder=3 if line.emphasised else 2.5, **look)
            axes.plot(x[-1], y[-1], ".", color=look["color"], markersize=3)
            ends.append((line.label, float(y[-1]), look))
        if baseline is not None:
            look = {"color": "#555555", "linestyle": ":", "linewidth": 1.0}
            axes.axhline(baseline[1], **look)
            ends.append((baseline[0], baseline[1], look))
        if log:
            axes.set_yscale("log")
            axes.set_ylim(bottom=floor)
        if invert:
            axes.invert_yaxis()
        low_x, high_x = axes.dataLim.intervalx
        if high_x > 5 * low_x > 0:
            axes.set_xscale("log")
        if high_x > low_x:
            axes.set_xlim(low_x, high_x)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(True, axis="both", which="major")
        plain_ticks(axes)
        right = END_LABELS + 0.04 + text_width(figure, labels) if labels else 0.0
        beside = not one and figure.get_figwidth() - right >= 0.55 * figure.get_figwidth()
        below = 0.0 if one or beside else legend_below(figure, ends)
        if beside:
            figure.set_figheight(max(2.1, 0.75 + 0.14 * len(labels)))
        fit_axes(axes, right=right if beside else 0.08, bottom=below)
        if beside:
            label_ends(axes, ends)


def legend_below(figure: Figure, ends: Sequence[tuple[str, float, Mapping[str, Any]]]) -> float:
    """A legend under the axes, as many columns as fit; the figure grows by its height, which is returned (inches)."""
    from matplotlib.lines import Line2D

    labels = folded(figure, [label for label, _, _ in ends], 1 - 0.5 / figure.get_figwidth())
    each = text_width(figure, labels) + 0.42
    columns = max(1, min(len(labels), int((figure.get_figwidth() - 0.1) / each)))
    handles = [Line2D([], [], **look) for _, _, look in ends]
    return add_legend(figure, handles, labels, columns)


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int) -> float:
    """A legend at the bottom, by whose height (inches) the figure grows and which is returned."""
    legend = figure.legend(
        list(handles),
        list(labels),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=columns,
        frameon=False,
        borderpad=0.1,
        labelspacing=0.2,
        columnspacing=1.0,
        handlelength=2.0,
        handletextpad=0.5,
    )
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    height = float(legend.get_window_extent(renderer).height) / figure.dpi + 0.06
    figure.set_figheight(figure.get_figheight() + height)
    return height


def fit_axes(
    axes: Axes | Sequence[Axes], *, left: float = 0.0, right: float = 0.08, top: float = 0.06, bottom: float = 0.0
) -> None:
    """Give the axes all of the figure but what their own labels need and the margins (inches); fold long names of x.

    Args:
        axes: One, or several in a row, which share the height.
    """
    row = [axes] if not isinstance(axes, Sequence) else list(axes)
    figure: Any = row[0].figure
    most = np.zeros((len(row), 4))
    for attempt in range(4):  # other ticks may be chosen for the new size
        renderer = figure.canvas.get_renderer()
        width, height = figure.get_figwidth(), figure.get_figheight()
        needs = np.zeros((len(row), 4))
        for index, one in enumerate(row):
            inner, outer = one.get_window_extent(renderer), one.get_tightbbox(renderer)
            assert outer is not None
            overhang = (inner.x0 - outer.x0, outer.x1 - inner.x1, inner.y0 - outer.y0, outer.y1 - inner.y1)
            needs[index] = np.maximum(overhang, 0.0) / figure.dpi
        if attempt:  # with folded names: what any choice of ticks has needed, or the size would never settle
            most = needs = np.maximum(needs, most)
        lowest = bottom + needs[:, 2].max() + 0.03
        highest = height - top - needs[:, 3].max()
        free = width - left - right - needs[:, :2].sum() - 0.03
        each = (free - 0.12 * (len(row) - 1)) / len(row)
        x = left + 0.03
        for one, need in zip(row, needs, strict=True):
            x += need[0]
            one.set_position((x / width, lowest / height, each / width, (highest - lowest) / height))
            x += each + need[1] + 0.12
            label = one.get_xlabel()
            needed = text_width(figure, label.split("\n"))
            if needed > each + 0.3:
                whole = " ".join(label.split())
                parts = whole.split(" (")  # the unit rather goes to the next line
                n_letters = max(12, int(max(map(len, label.split("\n"))) * (each + 0.3) / needed))
                lines = [
                    part for k, text in enumerate(parts) for part in textwrap.wrap("(" * (k > 0) + text, n_letters)
                ]
                one.set_xlabel("\n".join(lines if len(lines) <= 2 else textwrap.wrap(_unbroken(whole), n_letters)))


def plain_ticks(axes: Axes) -> None:
    """1, 2, 5, 10 instead of powers of ten, which few of these axes span."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for scale, ticks in ((axes.get_xscale(), axes.xaxis), (axes.get_yscale(), axes.yaxis)):
        if scale == "log":
            low, high = ticks.get_view_interval()
            subs = (1.0,) if high / low > 2000 else (1.0, 3.0) if high / low > 100 else (1.0, 2.0, 5.0)
            ticks.set_major_locator(LogLocator(subs=subs))
            ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ticks.set_minor_formatter(NullFormatter())


def _unbroken(label: str) -> str:
    """With spaces in short brackets at which no line breaks."""
    return re.sub(r"\([^()]{1,16}\)", lambda match: match[0].replace(" ", "\u00a0"), label)


def folded(figure: Figure, labels: Sequence[str], share: float = 0.42) -> list[str]:
    """Labels in lines that take at most about this share of the figure's width; brackets are not broken."""
    room = share * figure.get_figwidth()
    out = []
    for label in labels:
        needed = text_width(figure, [label])
        n_letters = len(label) if needed <= room else max(8, int(len(label) * room / needed))
        out.append("\n".join(textwrap.wrap(_unbroken(label), n_letters) or [label]))
    return out


def _row_places(labels: Sequence[str]) -> tuple[list[float], float]:
    """Middle of each row from the top, and where the last one ends, in lines of text."""
    places, end = [], 0.0
    for label in labels:
        height = 1.35 + label.count("\n")
        places.append(end + height / 2)
        end += height
    return places, end


def strip_chart(
    folder: FigureFolder,
    name: str,
    groups: Sequence[Group],
    *,
    xlabel: str,
    log_x: bool = False,
    violins: bool = False,
    limits: tuple[float, float] | None = None,
    baseline: tuple[str, float] | None = None,
) -> None:
    """Single results as dots, the mean with its interval; behind them a box (quartiles and median) from 5 results on.

    Args:
        log_x: Logarithmic where all values are above 0 and span more than a factor of 8.
        violins: A density (Gaussian kernel, Scott's rule) instead of the box.
        limits: Of the axis, in place of the data's.
        baseline: Name and place of a vertical line.
    """
    rng = np.random.default_rng(0)
    with folder.figure(name, 0.55) as figure:
        labels = folded(figure, [group.label for group in groups])
        rows, total = _row_places(labels)
        named = baseline is not None
        figure.set_figheight(
            0.5 + 0.155 * (total + 0.3 * len(groups) * violins + 1.1 * named + 0.6 * (len(groups) == 1))
        )
        axes = figure.subplots()
        every = [np.asarray(group.values, dtype=float) for group in groups]
        values = np.concatenate(every or [np.empty(0)])
        values = values[np.isfinite(values)]
        log = log_x and len(values) > 0 and values.min() > 0 and values.max() > 8 * values.min()
        # one run that hit the optimum would stretch the axis over decades: it is drawn at the edge, marked by the label
        floor = float(np.quantile(values, 0.02)) / 2 if log else -np.inf
        for row, group, own in zip(rows, groups, every, strict=True):
            own = own[np.isfinite(own)]
            colour = style(group.place)["color"]
            if len(own) >= 5 and violins and np.ptp(own) > 0:
                from scipy.stats import gaussian_kde

                grid = np.linspace(own.min() - 0.1 * np.ptp(own), own.max() + 0.1 * np.ptp(own), 100)
                density = gaussian_kde(own)(grid)
                half = 0.55 * density / density.max()
                axes.fill_between(grid, row - half, row + half, color=colour, alpha=0.2, linewidth=0)
            elif len(own) >= 5 and not violins:
                first, median, third = np.quantile(own, (0.25, 0.5, 0.75))
                axes.barh(row, third - first, 0.8, left=first, facecolor="none", edgecolor="#888888", linewidth=0.6)
                axes.plot([median, median], [row - 0.4, row + 0.4], color="#444444", linewidth=0.9)
            jitter = rng.uniform(-0.25, 0.25, len(own)) if len(own) > 1 else np.zeros(len(own))
            dots = {"color": colour, "markersize": 2.2, "alpha": 0.55, "markeredgewidth": 0}
            axes.plot(np.maximum(own, floor), row + jitter, marker(group.place), **dots)
            if group.mean is not None and np.isfinite(group.mean):
                axes.plot(group.mean, row, "|", color=colour, markersize=8, markeredgewidth=1.6, zorder=5)
            if group.low is not None and group.high is not None:
                axes.plot([group.low, group.high], [row, row], color=colour, linewidth=1.4, zorder=5)
        if log:
            axes.set_xscale("log")
        if baseline is not None:  # its name stands above the rows
            axes.plot([baseline[1]] * 2, [0.0, total], color="#555555", linestyle=":", linewidth=1.0)
            place = (baseline[1], -0.05)
            axes.annotate(f"{baseline[0]} ", place, ha="right", va="bottom", color="#555555", annotation_clip=False)
        axes.set_yticks(rows, labels)
        axes.set_ylim(total, -1.1 if named else 0.0)
        axes.tick_params(axis="y", length=0)
        below = f"; {floor:.2g}: or less" if np.any(values < floor) else ""
        axes.set_xlabel(xlabel[:-1] + below + ")" if xlabel.endswith(")") else xlabel + below)
        axes.grid(True, axis="x")
        if limits is not None:
            axes.set_xlim(*limits)
        if not log:
            axes.margins(x=0.06)
            axes.locator_params(axis="x", nbins=6)
        plain_ticks(axes)
        fit_axes(axes)


def interval_chart(
    folder: FigureFolder,
    name: str,
    groups: Sequence[Group],
    *,
    xlabel: str,
    limits: tuple[float, float] | None = None,
) -> None:
    """A point with its interval a row, against a line at 0 (a forest plot)."""
    with folder.figure(name, 0.5) as figure:
        labels = folded(figure, [group.label for group in groups], 0.45)
        rows, total = _row_places(labels)
        figure.set_figheight(0.5 + 0.155 * max(total, 2.4))
        axes = figure.subplots()
        axes.axvline(0.0, color="#555555", linewidth=0.7)
        for row, group in zip(rows, groups, strict=True):
            colour = style(group.place)["color"]
            if group.low is not None and group.high is not None:
                axes.plot([group.low, group.high], [row, row], color=colour, linewidth=1.4)
            if group.mean is not None and np.isfinite(group.mean):
                axes.plot(group.mean, row, marker(group.place), color=colour, markersize=4)
        axes.set_yticks(rows, labels)
        axes.set_ylim(total, 0.0)
        axes.tick_params(axis="y", length=0)
        if limits is not None:
            axes.set_xlim(*limits)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(xlabel)
        axes.grid(True, axis="x")
        fit_axes(axes)


def rank_groups(ranks: Sequence[float], critical_difference: float) -> list[tuple[int, int]]:
    """First and last place (in the order of ``ranks``, ascending) of the largest sets that cannot be told apart."""
    groups: list[tuple[int, int]] = []
    for start, rank in enumerate(ranks):
        end = max(place for place, other in enumerate(ranks) if other - rank < critical_difference)
        if end > start and (not groups or end > groups[-1][1]):
            groups.append((start, end))
    return groups


def critical_difference_chart(
    folder: FigureFolder,
    name: str,
    ranks: Sequence[tuple[str, float, int]],
    critical_difference: float,
) -> None:
    """Demsar's diagram (2006, figure 1): average ranks on a line, bars over methods that cannot be told apart.

    It takes the page's width where the names need it.

    Args:
        ranks: (label, average rank, place of the method) in any order.
    """
    ordered = sorted(ranks, key=lambda entry: entry[1])
    places = [rank for _, rank, _ in ordered]
    groups = [(places[first], places[last]) for first, last in rank_groups(places, critical_difference)]
    levels = _levels(groups)
    k, half = len(ordered), (len(ordered) + 1) // 2
    step, bar = 0.165, 0.075  # inches: between names, between bars
    below = 0.12 + bar * (max(levels, default=-1) + 1)
    height = 0.54 + below + step * half + 0.04
    with folder.figure(name, height) as figure:
        names = [f"{label} ({rank:.2f})" for label, rank, _ in ordered]
        left, right = (text_width(figure, part) + 0.14 for part in (names[:half], names[half:]))
        width = figure.get_figwidth()
        if left + right + 0.6 > width:
            width = max(PAGE_WIDTH, left + right + 0.6)
            figure.set_figwidth(width)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)  # inches from the top
        axes.axis("off")
        top, low, high = 0.52, left + 0.05, width - right - 0.05

        def x(rank: float) -> float:
            return low + (rank - 1) / max(1, k - 1) * (high - low)

        line: dict[str, Any] = {"color": "black", "linewidth": 0.7, "solid_capstyle": "butt"}
        axes.plot([low, high], [top, top], **line)
        every = max(1, math.ceil(k / 8))
        for rank in range(1, k + 1):
            axes.plot([x(rank)] * 2, [top - 0.05, top], **line)
            if (rank - 1) % every == 0 or k <= 8:
                axes.text(x(rank), top - 0.07, str(rank), ha="center", va="bottom")
        # wider than the line of ranks: no difference could be shown
        length = min(x(1 + critical_difference) - low, high - low)
        axes.plot([low, low + length], [0.24, 0.24], **line)
        for end in (low, low + length):
            axes.plot([end, end], [0.2, 0.28], **line)
        axes.text(low, 0.17, f"critical difference {critical_difference:.2f}", ha="left", va="bottom")
        for (start, stop), level in zip(groups, levels, strict=True):
            y = top + 0.09 + bar * level
            axes.plot([x(start) - 0.03, x(stop) + 0.03], [y, y], color="black", linewidth=2, solid_capstyle="butt")
        for index, (text, (_, rank_, place)) in enumerate(zip(names, ordered, strict=True)):
            first = index < half
            y = top + below + step * ((index if first else k - 1 - index) + 0.5)
            end = left if first else width - right
            axes.plot([x(rank_), x(rank_), end], [top, y, y], color=style(place)["color"], linewidth=0.8)
            text_x, align = (end - 0.04, "right") if first else (end + 0.04, "left")
            axes.text(text_x, y, text, ha=align, va="center")


def _levels(groups: Sequence[tuple[float, float]]) -> list[int]:
    """Heights of bars such that no two of a height overlap."""
    levels: list[int] = []
    for start, end in groups:
        taken = {level for (s, e), level in zip(groups, levels, strict=False) if start <= e and s <= end}
        levels.append(next(level for level in range(len(groups)) if level not in taken))
    return levels


# ---- tables --------------------------------------------------------------------------------------------------------


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Plain CSV; nan and None are empty cells, and no text is a formula (`escaping.csv_cell`)."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(csv_cell, columns))
        writer.writerows([["" if _is_missing(value) else csv_cell(value) for value in row] for row in rows])
    return path


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"\textbar{}",
}


def latex(text: str) -> str:
    """Text with everything escaped that LaTeX reads as a command."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex_table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A ``table`` for the package booktabs: the first column is text, the others are numbers."""
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex(caption)}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"    \toprule",
        "    " + " & ".join(map(latex, columns)) + r" \\",
        r"    \midrule",
        *("    " + " & ".join(map(latex, row)) + r" \\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; bars in the text are escaped."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
