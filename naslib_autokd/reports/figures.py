"""What the figures and tables of a paper share: column width, colours that all can tell apart, files and formats."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from naslib_autokd.reports.comparison import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_WIDTH = 3.4
"""Inches: a column of a two-column paper."""

FORMATS = ("png", "pdf")

LINE_STYLES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1.2, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D")

SETTINGS: Any = {
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
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


@contextmanager
def paper_figure(out: Path, name: str, width: float, height: float, files: list[Path]) -> Iterator[Figure]:
    """A figure of this size in inches, written as ``name.png`` and ``name.pdf`` when the block ends; adds to files."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure
        for suffix in FORMATS:
            path = out / f"{name}.{suffix}"
            # without the date, equal results are equal files
            figure.savefig(path, metadata={"CreationDate": None} if suffix == "pdf" else None)
            files.append(path)


def text_width(figure: Figure, texts: Sequence[str], size: float) -> float:
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


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, Mapping[str, Any]]], size: float = 6.5) -> None:
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


# ---- tables --------------------------------------------------------------------------------------------------------


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Plain CSV; nan and None are empty cells."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if _is_missing(value) else value for value in row] for row in rows])
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
