"""Charts of what students and teachers answer on the test images: reliability, confusion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from naslib_autokd.reports.charts.look import AnyChart, Row, data, layer, number, plain, sized, tips
from naslib_autokd.runners.statistics import calibration_error

MOST_COUNTS = 12
"""Above so many classes a confusion matrix has no numbers in it."""


def calibration(rows: Sequence[Row]) -> AnyChart:
    """Reliability diagram (Guo et al. 2017, arXiv:1706.04599): accuracy over confidence in bins, larger marks for more
    images; and the share of the images in each bin.

    Args:
        rows: Of the table ``calibration``, of one method.
    """
    names, points, steps = [], [], []
    for who in ("student", "teacher"):
        own = [row for row in rows if row["who"] == who]
        if not any(row["n"] for row in own):
            continue
        name = f"{who}, ECE {100 * calibration_error(own):.1f}%"
        names.append(name)
        total, most = sum(row["n"] for row in own), max(row["n"] for row in own)
        for row in own:
            steps.append({"of": name, "x": 100 * row["low"], "share": 100 * row["n"] / total})
            if row["n"]:
                place = {"of": name, "x": 100 * row["confidence"], "y": 100 * row["accuracy"]}
                points.append({**place, "n": row["n"], "size": math.sqrt(row["n"] / most)})
        steps.append({**steps[-1], "x": 100 * own[-1]["high"]})
    x, y = number("x", "confidence (%)", domain=[0, 100]), number("y", "accuracy (%)", domain=[0, 100])
    channels = {"x": x, "color": alt.Color("of:N", scale=alt.Scale(domain=names))}
    said = tips(("of:N", "", "who"), ("n:Q", "", "images"))
    said += tips(("x:Q", ".1f", "confidence, %"), ("y:Q", ".1f", "right, %"))
    size = alt.Size("size:Q", legend=None, scale=alt.Scale(domain=[0, 1]))
    bins = data(points)
    upper = alt.layer(
        layer("line", [{"x": 0, "y": 0}, {"x": 100, "y": 100}], "reference", x=x, y=y),
        layer("line", bins, y=y, **channels),
        layer("point", bins, {"opacity": 1}, y=y, size=size, tooltip=said, **channels),
    )
    share = number("share", "images (%)", zero=True)
    lower = layer("line", steps, {"interpolate": "step-after"}, y=share, **channels)
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
    order, few = alt.Scale(domain=list(classes)), len(classes) <= MOST_COUNTS
    angle = 0 if max(map(len, classes), default=0) <= 4 else -45
    bare = {"labelOverlap": "greedy", "grid": False, "ticks": False}
    x = alt.X("said:N", title=f"class that the {who} names", scale=order, axis=alt.Axis(**bare, labelAngle=angle))
    y = alt.Y("true:N", title="true class", scale=order, axis=alt.Axis(**bare))
    most = max((cell["wrong"] for cell in cells if cell["wrong"]), default=1.0)
    legend = None if few else alt.Legend(title="% of the true class")
    heat = alt.Scale(domain=[0, most], range=["@bg", "@heat"], interpolate="rgb")  # hcl goes by way of other hues
    colour = alt.Color("wrong:Q", scale=heat, legend=legend)
    said = tips("true:N", "said:N", ("n:Q", "", "images"), ("wrong:Q", ".1f", "%"))
    layers = [layer("rect", [cell for cell in cells if cell["wrong"]], x=x, y=y, color=colour, tooltip=said)]
    if few:
        layers.append(layer("text", cells, "count", x=x, y=y, text=alt.Text("n:Q"), tooltip=said))
    return sized(alt.layer(*layers), min(560, 60 + 34 * len(classes)), 0.47)
