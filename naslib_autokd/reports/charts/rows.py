"""Charts with a row for each method, family or setting: single results, intervals, ranks, importances, shares.

The name of a row stands above its marks, so that it may be as long as the chart is wide.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import altair as alt
import numpy as np

from naslib_autokd.reports.charts.look import AnyChart, Row, data, layer, logarithmic, number, sized, tips

ROW = 40
"""Pixels of a row on the page."""
SHRINK = 0.5
LONGEST = 50
"""Letters of a line in the title of an axis: what a phone has room for."""
MIDDLE = 0.72
"""Where marks stand in a row, whose name is above."""


@dataclass(frozen=True)
class Group:
    """A row."""

    label: str
    values: Sequence[float | None] = ()
    """Single results; what is not known is left out."""
    place: int = 0
    """Of its method among all: decides the colour."""
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    """Of the mean's interval."""
    tips: Sequence[str] = field(default=(), kw_only=True)
    """What to say of each single result."""


def finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def axis_of(field: str, title: str, **scale: Any) -> dict[str, Any]:
    """A quantitative channel with its title in lines of about equal length, and no more ticks than can be read."""
    lines = textwrap.wrap(title, len(title) // -(-len(title) // LONGEST) + 6)
    ticks = alt.Axis(tickCount=alt.ExprRef("width ? min(14, ceil(width / 40)) : 5"))  # 0 beside another chart
    return {**number(field, title, **scale), "title": lines if len(lines) > 1 else title, "axis": ticks}


class _Rows:
    """A chart of ``n`` rows: its layers, and the channels that they share."""

    def __init__(self, n: float, places: Sequence[int] = ()) -> None:
        self.n = n
        self.layers: list[alt.Chart] = []
        domain = list(range(max(places, default=0) + 1))  # of rows by the place of their method
        self.colour = alt.Color("place:N", scale=alt.Scale(domain=domain), legend=None)

    def add(self, mark: str, rows: Any, look: Any = "", y: str = "at", to: str = "", **channels: Any) -> None:
        """A layer, unless it has no rows; ``to`` is the lower end of what has a height."""
        if isinstance(rows, alt.InlineData) or rows:
            ends = {"y2": alt.Y2(to)} if to else {}
            place = {**number(y, domain=[self.n, 0], nice=False), "axis": None}
            self.layers.append(layer(mark, rows, look, y=place, **ends, **channels))

    def label(self, labels: Sequence[str], first: float = 0.0) -> None:
        rows = [{"label": label, "at": first + index + 0.3} for index, label in enumerate(labels)]
        look = {"align": "left", "baseline": "middle", "dx": 2, "limit": alt.ExprRef("width")}
        self.add("text", data(rows), look, x=alt.value(0), text=alt.Text("label:N"))

    def chart(self, height: float = 1.0, **sizes: Any) -> AnyChart:
        return sized(alt.layer(*self.layers), ROW * self.n * height, SHRINK, **sizes)


def _bar(index: int) -> Row:
    """Where the bar of a row is."""
    return {"at": index + MIDDLE - 0.2, "to": index + MIDDLE + 0.2, "middle": index + MIDDLE}


def strips(
    groups: Sequence[Group],
    title: str,
    *,
    factor: float = 100.0,
    log: bool = False,
    violins: tuple[float, float] | None = None,
    limits: tuple[float, float] | None = None,
    lines: Mapping[str, float] | None = None,
) -> AnyChart:
    """Single results as dots, the mean with its interval; behind them a box (quartiles and median) from 5 results on.

    Args:
        factor: Of all numbers: 100 for shares.
        log: Logarithmic where all values are above 0 and span more than a factor of 8; the lowest two in a hundred are
            drawn at the edge, which the title says.
        violins: Values that are possible: within them a density (Gaussian kernel, Scott's rule) around the lowest and
            the highest value, instead of the box.
        limits: Of the axis.
        lines: Name and place of vertical lines; those with a name have a row of their own.
    """
    rng, lines = np.random.default_rng(0), lines or {}
    named = list(filter(None, lines))
    chart = _Rows(len(groups) + len(named), [group.place for group in groups])
    every = [factor * np.array([v for v in group.values if finite(v)], dtype=np.float64) for group in groups]
    values = np.concatenate(every or [np.empty(0)])
    log = log and len(values) > 0 and values.min() > 0 and values.max() > 8 * values.min()
    floor = float(np.quantile(values, 0.02)) / 2 if log else -math.inf
    if np.any(values < floor):
        title = f"{title.removesuffix(')')}; {floor:.2g}: or less{')' * title.endswith(')')}"
    dots, boxes, densities, means = [], [], [], []
    for row, (group, own) in enumerate(zip(groups, every, strict=True)):
        middle, about = row + MIDDLE, {"place": group.place, "row": row, "group": group.label}
        jitter = rng.uniform(-0.17, 0.17, len(own)) if len(own) > 1 else np.zeros(len(own))
        said = [tip for tip, value in zip(group.tips, group.values, strict=False) if finite(value)] or [""] * len(own)
        dots += [
            {**about, "x": max(x, floor), "at": middle + shift, "tip": tip or group.label}
            for x, shift, tip in zip(own.tolist(), jitter.tolist(), said, strict=True)
        ]
        if len(own) >= 5 and violins and np.ptp(own) > 0:
            density = _density(own, factor * violins[0], factor * violins[1])
            densities += [{**about, "x": x, "at": middle - d, "to": middle + d} for x, d in density]
        elif len(own) >= 5 and not violins:
            first, median, third = np.maximum(np.quantile(own, (0.25, 0.5, 0.75)), floor).tolist()
            boxes.append({"x": first, "x2": third, "median": median, "at": middle - 0.2, "to": middle + 0.2})
        if finite(group.mean):
            means.append({**about, "x": factor * group.mean, "at": middle})
            if finite(group.low) and finite(group.high):
                means[-1] |= {"low": factor * group.low, "high": factor * group.high}
    x = logarithmic("x", title, [max(v, floor) for v in values]) if log else axis_of("x", title)
    if limits is not None:
        x["scale"] = alt.Scale(domain=list(limits))
    colour = chart.colour
    for name, place in lines.items():
        chart.layers.append(layer("rule", [{"x": factor * place}], "reference", x=x))
        if name:
            look, at = {"style": "soft", "shape": "diamond", "opacity": 1}, len(groups) + named.index(name) + MIDDLE
            chart.add("point", [{"x": factor * place, "at": at}], look, x=x, tooltip=tips(("x:Q", ".2f", name)))
    area = {"style": "band", "orient": "vertical"}
    chart.add("area", densities, area, to="to", x=x, color=colour, detail=alt.Detail("row:N"))
    chart.add("rect", boxes, "frame", to="to", x=x, x2=alt.X2("x2"))
    chart.add("rule", boxes, {"color": "@soft", "strokeWidth": 1}, to="to", x={**x, "field": "median"})
    tip = tips(("tip:N", "", "result"), ("x:Q", ".3~f", title))
    chart.add("point", dots, {"opacity": 0.55}, x=x, color=colour, tooltip=tip)
    banded = [row for row in means if "low" in row]
    chart.add("rule", banded, "mean", x={**x, "field": "low"}, x2=alt.X2("high"), color=colour)
    tip = tips("group:N", ("x:Q", ".3~f", "mean"), *[("low:Q", ".3~f"), ("high:Q", ".3~f")] * bool(banded))
    chart.add("tick", means, {"orient": "vertical", "opacity": 1}, x=x, color=colour, tooltip=tip)
    chart.label([*(group.label for group in groups), *named])
    return chart.chart()


def _density(own: Any, least: float, most: float) -> list[tuple[float, float]]:
    from scipy.stats import gaussian_kde

    margin = 0.1 * np.ptp(own)
    grid = np.linspace(max(own.min() - margin, least), min(own.max() + margin, most), 60)
    density = gaussian_kde(own)(grid)
    return list(zip(grid.tolist(), (0.26 * density / density.max()).tolist(), strict=True))


def rank_groups(ranks: Sequence[float], critical_difference: float) -> list[tuple[int, int]]:
    """First and last place (in the order of ``ranks``, ascending) of the largest sets that cannot be told apart."""
    groups: list[tuple[int, int]] = []
    for start, rank in enumerate(ranks):
        end = max(place for place, other in enumerate(ranks) if other - rank < critical_difference)
        if end > start and (not groups or end > groups[-1][1]):
            groups.append((start, end))
    return groups


def critical_difference(ranks: Sequence[tuple[str, float, int]], difference: float) -> AnyChart:
    """Average ranks, the best on top, bars over those that cannot be told apart (after Demsar 2006, figure 1).

    Args:
        ranks: (label, average rank, place of the method) in any order.
        difference: Nemenyi's, for the level 5%.
    """
    ordered = sorted(ranks, key=lambda entry: entry[1])
    places = [rank for _, rank, _ in ordered]
    k = max(len(ordered), 2)
    sets = rank_groups(places, difference)
    top = 1 + 0.25 * len(sets) + 0.1
    chart = _Rows(top + len(ordered), [place for _, _, place in ordered])
    axis = number("x", "average rank (1 is the best)", domain=[1, k], nice=False)
    x = {**axis, "axis": alt.Axis(orient="bottom", tickMinStep=1)}
    ruler = {"x": 1, "x2": min(1 + difference, k), "at": MIDDLE}
    same = [{"x": places[a], "x2": places[b], "at": 1.1 + 0.25 * i} for i, (a, b) in enumerate(sets)]
    chart.add("rule", [ruler], {"style": "mean", "color": "@text"}, x=x, x2=alt.X2("x2"))
    chart.add("rule", same, {"strokeWidth": 4, "color": "@soft"}, x=x, x2=alt.X2("x2"))
    rows = [
        {"x": rank, "at": top + i + MIDDLE, "label": label, "place": place}
        for i, (label, rank, place) in enumerate(ordered)
    ]
    said = tips("label:N", ("x:Q", ".2f", "average rank"))
    chart.add("point", rows, "big", x=x, color=chart.colour, tooltip=said)
    chart.label([f"critical difference {difference:.2f}" + ("; grey bars: not told apart" if sets else "")])
    chart.label([f"{label} ({rank:.2f})" for label, rank, _ in ordered], first=top)
    return chart.chart(0.9)


def importance(rows: Sequence[Row], title: str) -> AnyChart:
    """Bars of the importances with one standard deviation, in the order of the rows.

    Args:
        rows: ``label``, ``importance``, ``sd`` (shares of the variance).
    """
    ends = ((row["label"], row["importance"], row["sd"] or 0.0) for row in rows)
    bars = [{"label": label, "total": share, "low": share - sd, "high": share + sd} for label, share, sd in ends]
    return _bars(bars, axis_of("zero", title, zero=True), {"total": "%"}).chart()


def decomposition(panels: Sequence[tuple[str, Sequence[Row]]]) -> AnyChart:
    """Sobol indices: the share explained alone (dark) and with interactions (light, with its interval); a panel each.

    Args:
        panels: (title, rows) with ``label``, ``first``, ``total``, ``low``, ``high`` (shares), the order of all panels.
    """
    charts, axis = [], number("zero", "% of the variance", zero=True)
    for title, rows in panels:
        chart = _bars(rows, axis, {"total": "with interactions, %", "first": "alone, %"})
        charts.append(alt.layer(*chart.layers).properties(title=title, height=ROW * chart.n))
    return sized(alt.concat(*charts), None, SHRINK, panel=100)


def _bars(rows: Sequence[Row], axis: Mapping[str, Any], ends: Mapping[str, str]) -> _Rows:
    """Bars from 0 to each of the ``ends`` (column of shares -> what it is), the last one dark, with ``low`` to
    ``high``."""
    chart, titles = _Rows(max(1, len(rows))), {**ends, "low": "", "high": ""}
    bars = [{**_bar(i), "label": row["label"], "zero": 0} for i, row in enumerate(rows)]
    bars = data({**bar, **{name: 100 * row[name] for name in titles}} for bar, row in zip(bars, rows, strict=True))
    said = tips("label:N", *((f"{name}:Q", ".1f", title) for name, title in titles.items()))
    for end, opacity in zip(ends, (0.35, 1) if len(ends) > 1 else (0.55,), strict=True):
        chart.add("rect", bars, {"opacity": opacity}, to="to", x=axis, x2=alt.X2(end), tooltip=said)
    chart.add("rule", bars, {"color": "@muted"}, "middle", x={**axis, "field": "low"}, x2=alt.X2("high"))
    chart.label([row["label"] for row in rows])
    return chart


CASES = {
    "both": "both right",
    "student": "only the student right",
    "teacher": "only the teacher right",
    "same_error": "both wrong, same class",
    "other_error": "both wrong, differently",
}


def agreement(shares: Sequence[tuple[str, dict[str, int]]]) -> AnyChart:
    """Who is right on the test images: a stacked bar a method.

    Args:
        shares: (method, images of each of `CASES`).
    """
    chart, bars = _Rows(max(1, len(shares))), []
    for index, (method, counts) in enumerate(shares):
        total, left = max(1, sum(counts.values())), 0.0
        for case, said in CASES.items():
            n = counts.get(case, 0)
            share = 100 * n / total
            about = {"method": method, "case": said, "share": share, "n": n}
            bars.append({**_bar(index), **about, "x": left, "x2": left + share})
            left += share
    names = list(CASES.values())
    colour = alt.Color("case:N", scale=alt.Scale(domain=names, range=["@c0", "@c5", "@c4", "@soft", "@c1"]))
    x = number("x", "test images (%)", domain=[0, 100])
    tip = tips("method:N", "case:N", ("n:Q", "", "images"), ("share:Q", ".1f", "%"))
    chart.add("rect", data(bars), to="to", x=x, x2=alt.X2("x2"), color=colour, tooltip=tip)
    chart.label([method for method, _ in shares])
    return chart.chart(1.2, names=names)
