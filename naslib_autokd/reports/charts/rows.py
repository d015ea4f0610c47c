"""Charts with a row for each method, family or setting: single results, intervals, ranks, importances, shares.

The name of a row stands above its marks, so that it may be as long as the chart is wide.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from naslib_autokd.reports.charts.look import AnyChart, Row, data, logarithmic, number, sized

ROW = 40
"""Pixels of a row on the page."""
SHRINK = 0.5


@dataclass(frozen=True)
class Group:
    """A row: numbers in the units of the axis."""

    label: str
    values: Sequence[float | None] = ()
    """Single results; what is not known is left out."""
    place: int = 0
    """Of its method among all: decides the colour."""
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    """Of the mean's interval."""
    tips: Sequence[str] = ()
    """What to say of each single result."""


LONGEST = 50
"""Letters of a line in the title of an axis: what a phone has room for."""


def axis_of(field: str, title: str, **scale: Any) -> dict[str, Any]:
    """A quantitative channel with its title in lines."""
    lines = textwrap.wrap(title, LONGEST)
    return {**number(field, title, **scale), "title": lines if len(lines) > 1 else title}


def finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _place(field: str, n: float) -> alt.Y:
    return alt.Y(field, type="quantitative", axis=None, scale=alt.Scale(domain=[n, 0], nice=False, zero=False))


def _labels(labels: Sequence[str], first: float = 0.0, n: float | None = None) -> alt.Chart:
    rows = [{"label": label, "at": first + index + 0.3} for index, label in enumerate(labels)]
    text = alt.Chart(data(rows)).mark_text(align="left", baseline="middle", dx=2, limit=alt.ExprRef("width"))
    return text.encode(
        x=alt.value(0), y=_place("at", first + len(labels) if n is None else n), text=alt.Text("label:N")
    )


def _colour(places: Sequence[int]) -> alt.Color:
    """Of rows by the place of their method."""
    domain = list(range(max(places, default=0) + 1))
    return alt.Color("place:N", scale=alt.Scale(domain=domain), legend=None)


def strips(
    groups: Sequence[Group],
    title: str,
    *,
    log: bool = False,
    violins: bool = False,
    limits: tuple[float, float] | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    reference: tuple[str, float] | None = None,
) -> AnyChart:
    """Single results as dots, the mean with its interval; behind them a box (quartiles and median) from 5 results on.

    Args:
        log: Logarithmic where all values are above 0 and span more than a factor of 8; the lowest two in a hundred are
            drawn at the edge, which the title says.
        violins: A density (Gaussian kernel, Scott's rule) between the lowest and the highest value instead of the box.
        limits: Of the axis.
        bounds: Values that are possible.
        reference: Name and place of a vertical line, with a row of its own.
    """
    rng = np.random.default_rng(0)
    n = len(groups) + (reference is not None)
    every = [np.array([v for v in group.values if v is not None and math.isfinite(v)]) for group in groups]
    values = np.concatenate(every or [np.empty(0)])
    log = log and len(values) > 0 and values.min() > 0 and values.max() > 8 * values.min()
    floor = float(np.quantile(values, 0.02)) / 2 if log else -math.inf
    title = _with_floor(title, floor) if np.any(values < floor) else title
    dots, boxes, densities, means = [], [], [], []
    for row, (group, own) in enumerate(zip(groups, every, strict=True)):
        middle, about = row + 0.72, {"place": group.place, "row": row, "group": group.label}
        jitter = rng.uniform(-0.17, 0.17, len(own)) if len(own) > 1 else np.zeros(len(own))
        tips = [tip for tip, value in zip(group.tips, group.values, strict=False) if finite(value)] or [""] * len(own)
        dots += [
            {**about, "x": max(x, floor), "at": middle + shift, "tip": tip or group.label}
            for x, shift, tip in zip(own.tolist(), jitter.tolist(), tips, strict=True)
        ]
        if len(own) >= 5 and violins and np.ptp(own) > 0:
            densities += [{**about, "x": x, "at": middle - d, "to": middle + d} for x, d in _density(own, bounds)]
        elif len(own) >= 5 and not violins:
            first, median, third = np.maximum(np.quantile(own, (0.25, 0.5, 0.75)), floor).tolist()
            boxes.append({"x": first, "x2": third, "median": median, "at": middle - 0.2, "to": middle + 0.2})
        if finite(group.mean):
            ends = {"low": group.low, "high": group.high} if finite(group.low) and finite(group.high) else {}
            means.append({**about, "x": group.mean, "at": middle, **ends})
    axis = logarithmic("x", title, [max(v, floor) for v in values]) if log else axis_of("x", title)
    if limits is not None:
        axis["scale"] = alt.Scale(domain=list(limits))
    x, y, to = alt.X(**axis), _place("at", n), alt.Y2("to")
    colour = _colour([group.place for group in groups])
    layers: list[alt.Chart] = []
    if reference is not None:
        line = alt.Chart(data([{"x": reference[1]}])).mark_rule(style="reference").encode(x=x)
        mark = alt.Chart(data([{"x": reference[1], "at": n - 0.28}])).mark_point(
            style="soft", shape="diamond", opacity=1
        )
        layers += [line, mark.encode(x=x, y=y, tooltip=alt.Tooltip("x:Q", format=".2f", title=reference[0]))]
    if densities:
        area = alt.Chart(data(densities)).mark_area(style="band", orient="vertical")
        layers.append(area.encode(x=x, y=y, y2=to, color=colour, detail=alt.Detail("row:N")))
    if boxes:
        box = alt.Chart(data(boxes))
        layers.append(box.mark_rect(style="frame").encode(x=x, x2=alt.X2("x2"), y=y, y2=to))
        layers.append(
            box.mark_rule(color="@soft", strokeWidth=1).encode(x=alt.X(**{**axis, "field": "median"}), y=y, y2=to)
        )
    tip = [alt.Tooltip("tip:N", title="result"), alt.Tooltip("x:Q", format=".3~f", title=title)]
    layers.append(alt.Chart(data(dots)).mark_point(opacity=0.55).encode(x=x, y=y, color=colour, tooltip=tip))
    layers += _means(means, axis, n, colour)
    labels = [*(group.label for group in groups), *([] if reference is None else [reference[0]])]
    return sized(alt.layer(*layers, _labels(labels)), ROW * n, SHRINK)


def _with_floor(title: str, floor: float) -> str:
    said = f"; {floor:.2g}: or less"
    return f"{title[:-1]}{said})" if title.endswith(")") else title + said


def _density(own: Any, bounds: tuple[float, float]) -> list[tuple[float, float]]:
    from scipy.stats import gaussian_kde

    margin = 0.1 * np.ptp(own)
    grid = np.linspace(max(own.min() - margin, bounds[0]), min(own.max() + margin, bounds[1]), 60)
    density = gaussian_kde(own)(grid)
    return list(zip(grid.tolist(), (0.26 * density / density.max()).tolist(), strict=True))


def _means(means: Sequence[Row], axis: dict[str, Any], n: float, colour: Any) -> list[alt.Chart]:
    """A short line for each mean, and its interval."""
    layers: list[alt.Chart] = []
    y = _place("at", n)
    banded = [row for row in means if "low" in row]
    if banded:
        rule = alt.Chart(data(banded)).mark_rule(style="mean")
        layers.append(rule.encode(x=alt.X(**{**axis, "field": "low"}), x2=alt.X2("high"), y=y, color=colour))
    if means:
        tips = [alt.Tooltip("group:N"), alt.Tooltip("x:Q", format=".3~f", title="mean")]
        tips += [alt.Tooltip(f"{end}:Q", format=".3~f") for end in ("low", "high")] if banded else []
        mark = alt.Chart(data(means)).mark_tick(orient="vertical", opacity=1)
        layers.append(mark.encode(x=alt.X(**axis), y=y, color=colour, tooltip=tips))
    return layers


def intervals(groups: Sequence[Group], title: str) -> AnyChart:
    """A point with its interval a row, against a line at 0 (a forest plot)."""
    n = max(1, len(groups))
    rows = [
        {"place": g.place, "group": g.label, "at": index + 0.72, "x": g.mean, "low": g.low, "high": g.high}
        for index, g in enumerate(groups)
        if finite(g.mean)
    ]
    axis, y = axis_of("x", title), _place("at", n)
    colour = _colour([group.place for group in groups])
    zero = alt.Chart(data([{"x": 0}])).mark_rule(style="reference").encode(x=alt.X(**axis))
    known = [row for row in rows if finite(row["low"]) and finite(row["high"])]
    rule = (
        alt.Chart(data(known))
        .mark_rule(style="mean")
        .encode(x=alt.X(**{**axis, "field": "low"}), x2=alt.X2("high"), y=y)
    )
    tips = [alt.Tooltip("group:N"), *(alt.Tooltip(f"{name}:Q", format="+.2f") for name in ("x", "low", "high"))]
    points = alt.Chart(data(rows)).mark_point(style="big").encode(x=alt.X(**axis), y=y, color=colour, tooltip=tips)
    layers = [zero, *([rule.encode(color=colour)] if known else []), points, _labels([g.label for g in groups], n=n)]
    return sized(alt.layer(*layers), ROW * n, SHRINK)


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
    k = len(ordered)
    sets = rank_groups(places, difference)
    top = 1 + 0.25 * len(sets) + 0.1
    n = top + k
    x = number("x", "average rank (1 is the best)", domain=[1, max(k, 2)], nice=False)
    x["axis"] = alt.Axis(orient="bottom", tickMinStep=1)
    ruler = {"x": 1, "x2": min(1 + difference, max(k, 2)), "at": 0.72}
    bars = [ruler, *({"x": places[a], "x2": places[b], "at": 1.1 + 0.25 * i} for i, (a, b) in enumerate(sets))]
    rows = [
        {"x": rank, "at": top + index + 0.72, "label": label, "place": place}
        for index, (label, rank, place) in enumerate(ordered)
    ]
    y = _place("at", n)
    line = alt.Chart(data(bars[:1])).mark_rule(style="mean", color="@text").encode(x=alt.X(**x), x2=alt.X2("x2"), y=y)
    same = alt.Chart(data(bars[1:])).mark_rule(strokeWidth=4, color="@soft").encode(x=alt.X(**x), x2=alt.X2("x2"), y=y)
    said = f"critical difference {difference:.2f}" + ("; grey bars: not told apart" if sets else "")
    tips = [alt.Tooltip("label:N"), alt.Tooltip("x:Q", format=".2f", title="average rank")]
    points = alt.Chart(data(rows)).mark_point(style="big")
    colour = _colour([place for _, _, place in ordered])
    layers = [
        line,
        *([same] if sets else []),
        points.encode(x=alt.X(**x), y=y, color=colour, tooltip=tips),
        _labels([said], n=n),
        _labels([f"{label} ({rank:.2f})" for label, rank, _ in ordered], first=top, n=n),
    ]
    return sized(alt.layer(*layers), 0.9 * ROW * n, SHRINK)


def importance(rows: Sequence[Row], title: str) -> AnyChart:
    """Bars of the importances with one standard deviation, in the order of the rows.

    Args:
        rows: ``label``, ``importance``, ``sd`` (shares of the variance).
    """
    bars = []
    for index, row in enumerate(rows):
        share, sd = 100 * row["importance"], 100 * (row["sd"] or 0.0)
        ends = {"x": 0, "x2": share, "low": share - sd, "high": share + sd}
        bars.append({**ends, "label": row["label"], "at": index + 0.52, "to": index + 0.92, "middle": index + 0.72})
    n = max(1, len(rows))
    x, base = axis_of("x", title), alt.Chart(data(bars))
    tip = [alt.Tooltip("label:N"), alt.Tooltip("x2:Q", format=".1f", title="%"), alt.Tooltip("low:Q", format=".1f")]
    tip.append(alt.Tooltip("high:Q", format=".1f"))
    bar = base.mark_rect(opacity=0.55).encode(
        x=alt.X(**x), x2=alt.X2("x2"), y=_place("at", n), y2=alt.Y2("to"), tooltip=tip
    )
    error = base.mark_rule(color="@muted").encode(
        x=alt.X(**{**x, "field": "low"}), x2=alt.X2("high"), y=_place("middle", n)
    )
    return sized(alt.layer(bar, error, _labels([row["label"] for row in rows], n=n)), ROW * n, SHRINK)


def importance_title(r2: float, n: int) -> str:
    return f"what shuffling costs (% of variance); held-out R2 = {r2:.2f}, n = {n}"


def decomposition(panels: Sequence[tuple[str, Sequence[Row]]]) -> AnyChart:
    """Sobol indices: the share explained alone (dark) and with interactions (light, with its interval); a panel each.

    Args:
        panels: (title, rows) with ``label``, ``first``, ``total``, ``low``, ``high`` (shares), the order of all panels.
    """
    charts = []
    for title, rows in panels:
        n, bars = max(1, len(rows)), []
        for index, row in enumerate(rows):
            total = max(0.0, 100 * row["total"])
            place = {"label": row["label"], "at": index + 0.52, "to": index + 0.92, "middle": index + 0.72}
            share = {"total": total, "first": min(total, max(0.0, 100 * row["first"])), "zero": 0}
            bars.append({**place, **share, "low": max(0.0, 100 * row["low"]), "high": max(0.0, 100 * row["high"])})
        x, base, y = number("zero", "% of the variance", zero=True), alt.Chart(data(bars)), _place("at", n)
        tip = [alt.Tooltip("label:N"), alt.Tooltip("first:Q", format=".1f", title="alone, %")]
        tip.append(alt.Tooltip("total:Q", format=".1f", title="with interactions, %"))
        layers = [
            base.mark_rect(opacity=0.35).encode(x=alt.X(**x), x2=alt.X2("total"), y=y, y2=alt.Y2("to"), tooltip=tip),
            base.mark_rect().encode(x=alt.X(**x), x2=alt.X2("first"), y=y, y2=alt.Y2("to"), tooltip=tip),
            base.mark_rule(color="@muted").encode(
                x=alt.X(**{**x, "field": "low"}), x2=alt.X2("high"), y=_place("middle", n)
            ),
            _labels([row["label"] for row in rows], n=n),
        ]
        charts.append(alt.layer(*layers).properties(title=title, height=ROW * n))
    return sized(alt.concat(*charts), None, SHRINK, panel=100)


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
    n, bars = max(1, len(shares)), []
    for index, (method, counts) in enumerate(shares):
        total, left = max(1, sum(counts.values())), 0.0
        for case, said in CASES.items():
            width = 100 * counts.get(case, 0) / total
            place = {"at": index + 0.52, "to": index + 0.92, "x": left, "x2": left + width, "n": counts.get(case, 0)}
            bars.append({**place, "method": method, "case": said, "share": width})
            left += width
    scale = alt.Scale(domain=list(CASES.values()), range=["@c0", "@c5", "@c4", "@soft", "@c1"])
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("case:N"),
        alt.Tooltip("n:Q", title="images"),
        alt.Tooltip("share:Q", format=".1f", title="%"),
    ]
    bar = (
        alt.Chart(data(bars))
        .mark_rect()
        .encode(
            x=alt.X(**{**number("x", "test images (%)"), "scale": alt.Scale(domain=[0, 100])}),
            x2=alt.X2("x2"),
            y=_place("at", n),
            y2=alt.Y2("to"),
            color=alt.Color("case:N", scale=scale),
            tooltip=tips,
        )
    )
    chart = alt.layer(bar, _labels([method for method, _ in shares], n=n))
    return sized(chart, 1.2 * ROW * n, SHRINK, names=list(CASES.values()))
