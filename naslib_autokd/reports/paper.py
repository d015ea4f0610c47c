"""Charts for a paper: PDF, PNG and SVG at the width of a column, the chart as data, its table as CSV.

Beside each figure lies ``NAME.vl.json``, the chart itself with its data: any editor of Vega-Lite opens it, and changes
there need none of our code. Text has 8 points; PDF and SVG need neither a browser nor LaTeX (vl-convert). Numbers in
the CSV are those of the table (fractions); axes show percent where they say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd.reports.tables import write_csv

if TYPE_CHECKING:
    from naslib_autokd.reports.charts.look import AnyChart, Row

COLUMN_WIDTH = 3.25
"""Inches: a column of a two-column paper."""
PAGE_WIDTH = 6.75
"""Inches: both columns."""
WIDTHS = {"single": COLUMN_WIDTH, "double": PAGE_WIDTH}
FORMATS = ("pdf", "png", "svg")
"""That can be written."""
DEFAULT_FORMATS = ("pdf", "png")
RESOLUTION = 300
"""Dots an inch of PNG files."""
POINTS = 72
"""An inch; a pixel of Vega is a point of a paper."""


@dataclass
class FigureFolder:
    """Where figures and their tables go."""

    path: Path
    """Made if it is missing."""
    formats: Sequence[str] = field(default_factory=lambda: DEFAULT_FORMATS)
    """Of `FORMATS`."""
    width: float = COLUMN_WIDTH
    """Inches."""
    files: list[Path] = field(default_factory=list)
    """Written so far."""

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def chart(self, name: str, chart: AnyChart) -> None:
        """``name.vl.json`` and the pictures."""
        spec = for_paper(chart, self.width)
        text = json.dumps(spec, indent=1, ensure_ascii=False, allow_nan=False)
        self._write(f"{name}.vl.json", (text + "\n").encode())
        for suffix in self.formats:
            self._write(f"{name}.{suffix}", picture(spec, suffix))

    def rows(self, name: str, rows: Sequence[Row]) -> None:
        """``name.csv`` with all columns of the rows; nothing without rows."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        if rows:
            self.table(name, columns, [[row.get(column) for column in columns] for row in rows])

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """``name.csv``."""
        self.files.append(write_csv(self.path / f"{name}.csv", columns, rows))

    def text(self, name: str, content: str) -> None:
        self._write(name, content.encode())

    def report(self, name: str, lines: Sequence[str]) -> list[Path]:
        """A Markdown file that ends with all pictures; returns it and all files before it."""
        pictures = [f"![{path.stem.replace('_', ' ')}]({path.name})" for path in self.files if path.suffix == ".png"]
        self.text(name, "\n".join([*lines, "", *pictures]) + "\n")
        return [self.files[-1], *self.files[:-1]]

    def _write(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.write_bytes(content)
        self.files.append(path)


def picture(spec: Mapping[str, Any], suffix: str) -> bytes:
    """A chart as the content of a file; equal charts give equal SVG and PNG."""
    import vl_convert

    if suffix == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(dict(spec)))
    if suffix == "png":
        return bytes(vl_convert.vegalite_to_png(dict(spec), ppi=RESOLUTION))
    return str(vl_convert.vegalite_to_svg(dict(spec))).encode()


def for_paper(chart: AnyChart, inches: float) -> dict[str, Any]:
    """The specification of a chart in a paper's colours and sizes."""
    from naslib_autokd.reports.charts.look import PALETTES, PAPER, coloured, specification

    spec = coloured(specification(chart), PALETTES["paper"])
    about, points = spec.pop("usermeta", {}), POINTS * inches
    look = coloured(PAPER, PALETTES["paper"])
    text = look["legend"]["labelFontSize"]  # the page's legends: report.js
    look["legend"]["columns"] = max(1, int(points / (0.5 * text * about.get("longest", 0) + 2.6 * text)))
    spec["config"] = look
    parts = spec.get("concat")
    for part in [spec] if parts is None else parts:
        if "height" in part:
            part["height"] = round(part["height"] * about.get("shrink", 1.0), 1)
    if parts is None:
        return {**spec, "width": points, "autosize": {"type": "fit-x", "contains": "padding"}}
    spec["columns"] = max(1, min(len(parts), int(points / about["panel"])))
    return _as_wide_as(spec, points)


def _as_wide_as(spec: dict[str, Any], points: float) -> dict[str, Any]:
    """Several panels take their width inside the axes, which only a drawing tells."""
    columns = spec["columns"]
    inner = points / columns - 40
    for attempt in range(5):  # other ticks may be chosen for the new width: then rather a little less
        for part in spec["concat"]:
            part["width"] = round(inner, 1)
        found = re.search(rb'<svg[^>]* width="([\d.]+)"', picture(spec, "svg"))
        assert found is not None
        missing = points - float(found[1])
        if -1 <= missing <= (1 if attempt < 2 else 20):
            break
        inner += missing / columns
    return spec
