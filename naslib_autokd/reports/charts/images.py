"""Charts of what students and teachers answer on the test images: reliability, confusion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from naslib_autokd.reports.charts.look import AnyChart, Row, data, number, plain, sized

MOST_COUNTS = 12
"""Above so many classes a confusion matrix has no numbers in it."""


def calibration_error(rows: Sequence[Row]) -> float | None:
    """Mean gap of confidence and accuracy over the bins of a table ``calibration``, weighted by images."""
    known = [row for row in rows if row["n"]]
    total = sum(row["n"] for row in known)
    return sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in known) / total if total else None


def calibration(rows: Sequence[Row]) -> AnyChart:
    """Reliability diagram (Guo et al. 2017, arXiv:1706.04599): accuracy over confidence in bins, larger marks for more
    images; and the share of the images in each bin.

    Args:
        rows: Of the table ``calibration``, of one method.
    """
    names, points, steps = [], [], []
    for who in ("student", "teacher"):
        own = [row for row in rows if row["who"] == who]
        error = calibration_error(own)
        if error is None:
            continue
        name = f"{who}, ECE {100 * error:.1f}%"
        names.append(name)
        total, most = sum(row["n"] for row in own), max(row["n"] for row in own)
        points += [
            {
                "of": name,
                "x": 100 * r["confidence"],
                "y": 100 * r["accuracy"],
                "n": r["n"],
                "size": math.sqrt(r["n"] / most),
            }
            for r in own
            if r["n"]
        ]
        steps += [{"of": name, "x": 100 * row["low"], "share": 100 * row["n"] / total} for row in own]
        steps.append({"of": name, "x": 100 * own[-1]["high"], "share": 100 * own[-1]["n"] / total})
    whole = alt.Scale(domain=[0, 100])
    colour = alt.Color("of:N", scale=alt.Scale(domain=names))
    x = alt.X(**{**number("x", "confidence (%)"), "scale": whole})
    y = alt.Y(**{**number("y", "accuracy (%)"), "scale": whole})
    diagonal = alt.Chart(data([{"x": 0, "y": 0}, {"x": 100, "y": 100}])).mark_line(style="reference").encode(x=x, y=y)
    base = alt.Chart(data(points))
    tips: list[Any] = [alt.Tooltip("of:N", title="who"), alt.Tooltip("n:Q", title="images")]
    tips += [
        alt.Tooltip("x:Q", format=".1f", title="confidence, %"),
        alt.Tooltip("y:Q", format=".1f", title="right, %"),
    ]
    size = alt.Size("size:Q", legend=None, scale=alt.Scale(domain=[0, 1]))
    dots = base.mark_point(opacity=1).encode(x=x, y=y, color=colour, size=size, tooltip=tips)
    upper = alt.layer(diagonal, base.mark_line().encode(x=x, y=y, color=colour), dots)
    share = alt.Y(**number("share", "images (%)", zero=True))
    lower = alt.Chart(data(steps)).mark_line(interpolate="step-after").encode(x=x, y=share, color=colour)
    chart = alt.concat(upper.properties(height=280), lower.properties(height=80))
    return sized(chart, None, 0.5, names=names, panel=10_000)


def confusion(rows: Sequence[Row], classes: Sequence[str], who: str) -> AnyChart:
    """Counts on test images; the colour is the share of the true class that is taken for another.

    Args:
        rows: ``true``, ``predicted``, ``n``, of one method and of ``who``.
    """
    totals = {name: max(1, sum(row["n"] for row in rows if row["true"] == name)) for name in classes}
    cells = []
    for row in rows:
        wrong = None if row["true"] == row["predicted"] else plain(100 * row["n"] / totals[row["true"]])
        cells.append({"true": row["true"], "said": row["predicted"], "n": row["n"], "wrong": wrong})
    order, few = list(classes), len(classes) <= MOST_COUNTS
    angle = 0 if max(map(len, order), default=0) <= 4 else -45
    axis = alt.Axis(labelOverlap="greedy", grid=False, ticks=False)
    x_axis = alt.Axis(labelOverlap="greedy", grid=False, ticks=False, labelAngle=angle)
    x = alt.X("said:N", title=f"class that the {who} names", scale=alt.Scale(domain=order), axis=x_axis)
    y = alt.Y("true:N", title="true class", scale=alt.Scale(domain=order), axis=axis)
    most = max((cell["wrong"] for cell in cells if cell["wrong"]), default=1.0)
    legend = None if few else alt.Legend(title="% of the true class")
    colour = alt.Color("wrong:Q", scale=alt.Scale(domain=[0, most], range=["@bg", "@heat"]), legend=legend)
    tips = [
        alt.Tooltip("true:N"),
        alt.Tooltip("said:N"),
        alt.Tooltip("n:Q", title="images"),
        alt.Tooltip("wrong:Q", format=".1f", title="%"),
    ]
    layers = [
        alt.Chart(data([cell for cell in cells if cell["wrong"]]))
        .mark_rect()
        .encode(x=x, y=y, color=colour, tooltip=tips)
    ]
    if few:
        layers.append(
            alt.Chart(data(cells)).mark_text(style="count").encode(x=x, y=y, text=alt.Text("n:Q"), tooltip=tips)
        )
    return sized(alt.layer(*layers), min(560, 60 + 34 * len(classes)), 0.47)
