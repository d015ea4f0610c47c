"""How all charts look: palettes, the configuration of Vega-Lite, axes, sizes.

A chart is an Altair chart, that is, data. It names colours by what they are for ("@c0", "@muted"), so that one
definition is drawn light, dark and on paper (`coloured`), and says by `sized` how high it is on the page and on paper.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import altair as alt

Row = dict[str, Any]
AnyChart: TypeAlias = "alt.Chart | alt.LayerChart | alt.ConcatChart"

_NAMES = ("c0", "c1", "c2", "c3", "c4", "c5", "c6", "text", "muted", "grid", "line", "bg", "soft", "heat")
_PALETTES = {
    # Okabe and Ito: distinguishable with every common colour blindness
    "paper": "0072B2 D55E00 009E73 CC79A7 E69F00 56B4E9 000000 000000 555555 dddddd 888888 ffffff 8a8a8a f3a872",
    # on the page darker or lighter, so that also texts in these colours can be read
    "light": "0072B2 D55E00 00805e b5578c a86f00 3387bd 5b5f66 1b1f24 57606a e4e8ec b8c0c8 ffffff 9aa4ae f3a872",
    "dark": "5cb3f0 ff9457 3fd0a2 e79ac8 f2c14e 9fd4f7 b4bcc6 e6e9ee a3adb8 2a323d 4a5563 0f1318 6d7885 9a4a17",
}
PALETTES = {
    palette: {name: f"#{colour}" for name, colour in zip(_NAMES, colours.split(), strict=True)}
    for palette, colours in _PALETTES.items()
}
N_COLOURS = 7


def coloured(spec: Any, palette: Mapping[str, str]) -> Any:
    """A specification with the colours of a palette in place of their names; data and domains stay as they are."""
    if isinstance(spec, str):
        return palette.get(spec[1:], spec) if spec.startswith("@") else spec
    if isinstance(spec, Mapping):
        kept = ("datasets", "domain", "usermeta")
        return {key: value if key in kept else coloured(value, palette) for key, value in spec.items()}
    return [coloured(value, palette) for value in spec] if isinstance(spec, list | tuple) else spec


def config(text: float, scale: float, font: str, *, background: str | None, legend: str) -> dict[str, Any]:
    """Of Vega-Lite.

    Args:
        text: Size of all texts in pixels (of a paper: points).
        scale: Of lines and marks.
        legend: Where legends stand: "top" or "bottom".
    """
    fonts = {f"{part}FontSize": text for part in ("label", "title")}
    widths = {f"{part}Width": scale for part in ("grid", "tick", "domain")}
    axis = {
        **{**fonts, **widths, "titleFontWeight": "normal", "labelLimit": 10 * text},
        **{"labelColor": "@text", "titleColor": "@text", "gridColor": "@grid", "domainColor": "@line"},
        **{"tickColor": "@line", "tickSize": 4 * scale, "titlePadding": 6 * scale, "labelPadding": 3 * scale},
        **{"labelFlush": False, "labelOverlap": "greedy", "labelSeparation": 6 * scale},
    }
    area = scale * scale
    key = {
        **{"orient": legend, "title": None, "labelFontSize": text, "labelColor": "@text", "labelLimit": 0},
        **{"symbolStrokeWidth": 2 * scale, "symbolSize": 80 * area, "gradientLength": 100 * scale},
        **{"rowPadding": 2 * scale, "columnPadding": 12 * scale, "offset": 8 * scale},
    }
    return {
        **{"background": background, "font": font, "padding": 3, "view": {"stroke": None}},
        "numberFormat": ",.6~r",  # Vega's own rounds the only tick of an axis with one value: 49 where 48.8 is meant
        **{"concat": {"spacing": 14 * scale}, "axis": axis, "legend": key},
        "title": {"fontSize": text, "fontWeight": "normal", "color": "@text", "offset": 4 * scale},
        "range": {"category": [f"@c{i}" for i in range(N_COLOURS)], "heatmap": ["@bg", "@heat"]},
        "scale": {"minSize": 12 * area, "maxSize": 260 * area},
        "mark": {"color": "@c0", "tooltip": None},
        "point": {"filled": True},
        "tick": {"thickness": 2.4 * scale, "size": 16 * scale},
        "style": {  # of marks, too: what stands outside, a mark's own style cannot change
            "text": {"color": "@text", "fontSize": text},
            "point": {"size": 40 * area, "opacity": 0.75},
            "line": {"strokeWidth": 1.8 * scale},
            "rule": {"strokeWidth": 1.8 * scale},
            "strong": {"strokeWidth": 3.2 * scale},
            "faint": {"strokeWidth": scale, "opacity": 0.35},
            "band": {"opacity": 0.16},
            "reference": {"color": "@muted", "strokeWidth": 1.2 * scale, "strokeDash": [2, 2]},
            "note": {"color": "@muted", "fontSize": 0.85 * text if text > 10 else text},
            "soft": {"color": "@soft", "size": 28 * area},
            "mean": {"strokeWidth": 2.4 * scale, "opacity": 1},
            "frame": {"color": "@soft", "strokeWidth": scale, "filled": False},
            "big": {"size": 70 * area, "opacity": 1},
            "count": {"fontSize": 0.85 * text},
        },
    }


PAGE = config(13, 1.0, 'system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif', background=None, legend="top")
PAPER = config(8, 0.6, "Arial, Helvetica, sans-serif", background="@bg", legend="bottom")
"""With a generic family at the end: without one vl-convert draws no text at all where the named fonts are missing."""

# ---- pieces --------------------------------------------------------------------------------------------------------


def data(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Rows as a chart holds them: what is not finite is missing."""
    # a tuple: Altair copies lists whenever a chart is changed
    return alt.InlineData(values=tuple({key: plain(value) for key, value in row.items()} for row in rows))


def plain(value: Any) -> Any:
    """As JSON can hold it; floats to seven digits, more than a chart shows."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def percent(value: float | None) -> Any:
    return None if value is None else plain(100 * value)


def layer(mark: str, rows: Any, look: str | Mapping[str, Any] = "", **channels: Any) -> alt.Chart:
    """A mark for each row, or one through all of them.

    Args:
        mark: "point", "line", ...
        rows: Or what `data` made of them.
        look: Properties of the mark, or the name of its style.
        channels: ``x`` and ``y`` may be axes (`number`, `logarithmic`).
    """
    own = {"style": look} if isinstance(look, str) and look else look or {}
    for name, of in {"x": alt.X, "y": alt.Y}.items():
        if isinstance(channels.get(name), Mapping):
            channels[name] = of(**channels[name])
    chart = alt.Chart(rows if isinstance(rows, alt.InlineData) else data(rows))
    made: alt.Chart = getattr(chart, f"mark_{mark}")(**own).encode(**channels)
    return made


def tips(*entries: str | tuple[str, ...]) -> list[alt.Tooltip]:
    """What a mark says: ``"field:N"``, or that with a format ("" for none) and a title."""
    found = []
    for entry in entries:
        field, *more = [entry] if isinstance(entry, str) else entry
        found.append(alt.Tooltip(field, **{k: v for k, v in zip(("format", "title"), more, strict=False) if v}))
    return found


def sized(chart: Any, height: float | None, shrink: float, *, names: Sequence[str] = (), panel: float = 0) -> Any:
    """With its height on the page in pixels, and how much of it is left on paper.

    Args:
        height: None where the parts have their own.
        names: Of the legend, whose columns follow from the longest one.
        panel: Least width of one of several panels on paper, in points; 0 for one panel.
    """
    about = {"shrink": shrink, "longest": max(map(len, names), default=0), **({"panel": panel} if panel else {})}
    chart = chart.properties(usermeta=about)
    return chart if height is None else chart.properties(height=height)


def number(field: str, title: str | None = None, **scale: Any) -> dict[str, Any]:
    """A quantitative channel; its axis need not begin at 0."""
    return {"field": field, "type": "quantitative", "title": title, "scale": alt.Scale(**{"zero": False, **scale})}


def logarithmic(field: str, title: str, values: Iterable[float | None]) -> dict[str, Any]:
    """With ticks that say the whole number, the more the fewer decades there are; linear below a factor of 2."""
    known = [value for value in values if value is not None and value > 0]
    if not known or max(known) < 2 * min(known):
        return {**number(field, title), "axis": alt.Axis(tickCount=5)}
    axis = alt.Axis(values=log_ticks(known), format=",.6~g", labelOverlap="greedy")
    return {**number(field, title), "scale": alt.Scale(type="log", nice=False), "axis": axis}


def log_ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around positive values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = max(values) / min(values)
    steps: Sequence[float] = (1, 1.5, 2, 3, 5, 7) if span <= 10 else (1, 2, 5) if span <= 100 else (1,)
    return [float(f"{step}e{power}") for power in range(low, high + 1) for step in steps]


def specification(chart: AnyChart) -> dict[str, Any]:
    """A chart as Vega-Lite has it, with its data under names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that panels share a selection is meant
        found = dict(chart.to_dict(validate=False))
    return {**found, "datasets": {name: list(rows) for name, rows in found.get("datasets", {}).items()}}
