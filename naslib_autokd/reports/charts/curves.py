"""Charts of what happens during searches: curves over what was spent, single trials, their settings, fronts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from naslib_autokd.reports.charts.look import N_COLOURS, AnyChart, Row, layer, logarithmic, number, percent, sized, tips

MOST_POINTS = 3000
"""Single points that a chart draws; of more, those of the best trials and others with equal distances."""
MOST_LINKED = 1200
"""The same for a chart of several panels, in which a range can be chosen."""
MOST_LINES = 600
"""The same for lines through all settings."""
MANY_LINES = 6
"""Above so many lines only the emphasised one's band is shaded."""

ACCURACY = "validation accuracy (%)"
STEPS: dict[str, Any] = {"interpolate": "step-after"}
DASHES: tuple[list[float], ...] = ([1, 0], [6, 3], [2, 2], [6, 2, 2, 2])
"""Of lines, one for each round through the colours."""
DASHED_SYMBOL = 15.0**2
"""Of legends with dashes: longer than their periods, so that they are seen; its rows are as high."""


def thinned(rows: Sequence[Row], most: int = MOST_POINTS) -> list[Row]:
    """At most ``most`` rows, the best by ``val_accuracy`` among them, in their order."""
    if len(rows) <= most:
        return list(rows)
    best = sorted(range(len(rows)), key=lambda i: -(rows[i]["val_accuracy"] or 0))[: most // 3]
    step = len(rows) / (most - len(best))
    kept = {*best, *(int(i * step) for i in range(most - len(best)))}
    return [rows[i] for i in sorted(kept)]


BRUSH = alt.selection_interval(name="brush")
"""The range that is dragged in a chart of trials."""
LINKED = alt.param(name="linked", value=None)
"""Ids of the trials inside the ranges of all charts of a page, as keys; None without a range. The page sets it."""


def where_linked(colour: Any, *own: alt.Parameter) -> Any:
    """A colour of trials; grey outside the ranges of all charts, the chart's ``own`` among them."""
    inside = [*({"param": range.name} for range in own), "!linked || datum.id == null || linked[datum.id]"]
    return alt.condition({"test": {"and": inside}}, colour, alt.value("@grid"))


def _point(row: Row, **more: Any) -> Row:
    """Of a trial, over something."""
    return {"id": row["id"], "trial": row["number"], "y": percent(row["val_accuracy"]), **more}


def of_two(names: Sequence[str]) -> alt.Color:
    """What counts and what is behind it."""
    return alt.Color("of:N", scale=alt.Scale(domain=list(names), range=["@c0", "@soft"]))


def incumbent_curve(points: Sequence[Row], full: Sequence[Row], x: str, title: str, teacher: float | None) -> AnyChart:
    """The best family's accuracy so far, and the full trainings themselves.

    Args:
        points: ``x``, ``accuracy``.
        full: ``x``, ``val_accuracy``, ``number``, ``family``, ``id``.
    """
    names = ["incumbent", "full trainings"]
    channels = {"x": number("x", title, zero=True), "y": number("y", ACCURACY)}
    trials = [_point(row, family=row["family"], x=row[x], of=names[1]) for row in thinned(full)]
    line = [{"x": row[x], "y": percent(row["accuracy"]), "of": names[0]} for row in points]
    tip, colour = tips("trial:N", "family:N", ("y:Q", ".2f", "validation, %")), of_two(names)
    hover = tips(("x:Q", "", title), ("y:Q", ".2f", "incumbent, %"))
    layers = [
        layer("point", trials, "soft", **channels, color=where_linked(colour), tooltip=tip),
        layer("line", line, {"style": "strong", **STEPS}, **channels, color=colour),
        layer("point", line, {"opacity": 0}, **channels, tooltip=hover),
        *teacher_line(teacher),
    ]
    return sized(alt.layer(*layers).add_params(LINKED), 380, 0.36, names=names)


def by_method(methods: Sequence[str], shown: Sequence[str], dashed: Collection[str] = ()) -> dict[str, Any]:
    """Channels that tell lines of methods apart: colour, from the eighth on dashes, too; ``dashed`` in any case. The
    legend has those ``shown``, so that a method without rows takes no other's colour away from it."""
    has_dashes = bool(dashed) or len(methods) > N_COLOURS
    long = {"symbolSize": DASHED_SYMBOL} if has_dashes else {}
    legend = None if len(shown) < 2 else alt.Legend(symbolType="stroke", symbolOpacity=1, values=shown, **long)
    own = {"field": "method", "type": "nominal"}
    channels: dict[str, Any] = {"color": alt.Color(**own, scale=alt.Scale(domain=list(methods)), legend=legend)}
    if has_dashes:
        places = [1 if name in dashed else place // N_COLOURS % len(DASHES) for place, name in enumerate(methods)]
        scale = alt.Scale(domain=list(methods), range=[DASHES[place] for place in places])
        channels["strokeDash"] = alt.StrokeDash(**own, scale=scale, legend=legend)
    return channels


def teacher_line(accuracy: float | None) -> list[alt.Chart]:
    """A dotted line across the chart; its name, a word a line, stands beside the chart, where no mark is."""
    if accuracy is None:
        return []
    at = {"y": alt.YDatum(percent(accuracy))}
    look = {"style": "note", "align": "left", "baseline": "middle", "dx": 4, "text": ["teacher", "(test)"]}
    return [layer("rule", [{}], "reference", **at), layer("text", [{}], look, x=alt.value("width"), **at)]


def curves(
    rows: Sequence[Row],
    x: str,
    y: str,
    *,
    methods: Sequence[str],
    x_title: str,
    y_title: str = ACCURACY,
    factor: float = 100.0,
    log_x: bool = False,
    log_y: bool = False,
    invert: bool = False,
    emphasised: str = "",
    dashed: Collection[str] = (),
    singles: Sequence[Row] = (),
    teacher: float | None = None,
    steps: bool = True,
) -> AnyChart:
    """A line for each method over what was spent, with bands where they are known.

    Args:
        rows: ``method``, the columns ``x`` and ``y``, and ``low``, ``high`` of a band.
        methods: All of them in their order, which decides the colours; those without rows are left out of the legend.
        factor: Of y: 100 for shares.
        log_x: Logarithmic from a factor of 5 on.
        log_y: Logarithmic where no value is below 0 and they span more than a factor of 4; zeros are drawn at the edge.
        invert: Small values on top.
        dashed: Methods whose curve is of another kind.
        singles: Thin lines behind: ``method``, ``seed``, ``x``, ``y``.
        steps: A step after each point, as the incumbent's; else straight lines.
    """
    shape = STEPS if steps else {"interpolate": "linear"}
    rows = [row for row in rows if row[y] is not None and not math.isnan(row[y])]
    shown = [name for name in methods if any(row["method"] == name for row in [*rows, *singles])]
    values = [factor * row[y] for row in rows]
    positive = [value for value in values if value > 0]
    log = log_y and bool(positive) and min(values) >= 0 and max(positive) > 4 * min(positive)
    floor = min(positive) / 1.5 if log else -math.inf
    spent = [row[x] for row in rows]
    wide = log_x and bool(spent) and max(spent) > 5 * min(spent) > 0
    x_axis = logarithmic("x", x_title, spent) if wide else number("x", x_title, zero=not log_x)
    y_axis = logarithmic("y", y_title, [*positive, floor]) if log else number("y", y_title, reverse=invert)

    def of(found: Iterable[Row]) -> list[Row]:
        lines = []
        for row in found:
            about = {"method": row["method"], "seed": row.get("seed")}
            lines.append({**about, "x": row[x], "y": max(factor * row[y], floor)})
            ends = {end: factor * row[end] for end in ("low", "high") if row.get(end) is not None}
            if len(ends) == 2 and all(map(math.isfinite, ends.values())):
                lines[-1] |= {end: max(value, floor) for end, value in ends.items()}
        return lines

    channels, look = {"x": x_axis, "y": y_axis}, by_method(methods, shown, dashed)
    picked = alt.selection_point(name="picked", fields=["method"], bind="legend")
    faded = {"opacity": alt.condition(picked, alt.value(1), alt.value(0.12))} if len(shown) > 1 else {}
    points = of(rows)
    banded = [row for row in points if "low" in row and (len(shown) <= MANY_LINES or row["method"] == emphasised)]
    layers: list[alt.Chart] = []
    if banded:
        ends = {"x": x_axis, "y": {**y_axis, "field": "low"}, "y2": alt.Y2("high")}
        layers.append(layer("area", banded, {"style": "band", **shape}, **ends, color=look["color"]))
    if singles:
        thin = {"style": "faint", **shape}
        layers.append(layer("line", of(singles), thin, **channels, **look, detail=alt.Detail("seed:N")))
    for style in ({"style": "strong"}, {}):  # a thin line is seen on a thick one
        own = [row for row in points if (row["method"] == emphasised) == bool(style)]
        if own:
            layers.append(layer("line", own, {**shape, **style}, **channels, **look, **faded))
    both = [*points, *of(singles)]
    n = Counter((row["method"], row["seed"]) for row in both)
    if alone := [row for row in both if n[row["method"], row["seed"]] == 1]:
        layers.append(layer("point", alone, **channels, color=look["color"]))  # no line can be seen there
    said = tips("method:N", ("x:Q", "", x_title), ("y:Q", ".3~f", y_title))
    hover = layer("point", points, {"opacity": 0}, **channels, tooltip=said)
    layers += [hover.add_params(picked) if faded else hover, *teacher_line(teacher)]
    return sized(alt.layer(*layers), 400, 0.34, names=shown if len(shown) > 1 else ())


def linked(rows: Sequence[Row], axes: Sequence[Mapping[str, Any]], colour: Any, height: float) -> alt.ConcatChart:
    """Panels of the accuracy (``y``, the same axis in all) over several channels.

    Trials inside a range drawn in one stay coloured in all; on the page in all charts of the run's trials (``id``).
    """
    ends = [end(row["y"] for row in rows) for end in (min, max)]
    channels = {"y": number("y", ACCURACY, domain=ends, nice=True), "color": where_linked(colour, BRUSH)}
    panel = layer("point", rows, **channels).properties(height=height)  # whose data hold the selection for all
    panels = []
    for axis in axes:
        own = [] if axis["field"] == "trial" else [(f"{axis['field']}:{axis['type']}", "", axis["title"])]
        said = tips(("id:N", "", "trial"), *own, ("y:Q", ".2f", "validation, %"))
        panels.append(panel.encode(x=alt.X(**axis), tooltip=said))
    return alt.concat(*panels).add_params(BRUSH, LINKED)


def trials(rows: Sequence[Row]) -> AnyChart:
    """Every successful training: its accuracy over its number, its agreement with the teacher and its parameters.

    Args:
        rows: Of the table ``trials`` of one or several searches, in their order, and ``id``.
    """
    found = [row for row in rows if row["val_accuracy"] is not None]
    names = [epochs(budget) for budget in sorted({row["budget_epochs"] for row in found}, reverse=True)]
    points = []
    for row in thinned(found, MOST_LINKED):
        params = None if row["n_params"] is None else row["n_params"] / 1000
        about = {"agreement": percent(row["teacher_agreement"]), "params": params}
        points.append(_point(row, **about, budget=epochs(row["budget_epochs"])))
    panels = [setting("trial", "trial", [point["trial"] for point in points], log=False)]
    for field, title in (("agreement", "agrees with the teacher (% of images)"), ("params", "parameters (thousand)")):
        if len({point[field] for point in points}) > 2:
            panels.append(number(field, title))
    legend = alt.Legend() if len(names) > 1 else None
    colour = alt.Color("budget:N", scale=alt.Scale(domain=names), legend=legend)
    return sized(linked(points, panels, colour, 250), None, 0.48, names=names, panel=150)


def side_by_side(left: AnyChart, right: AnyChart, names: Sequence[str]) -> AnyChart:
    """Two charts in one, as high as the left one."""
    parts = [chart.properties(height=380) for chart in (left, right)]
    for part in parts:
        part.usermeta = alt.Undefined  # what `sized` says is of the whole
    apart = alt.concat(*parts).resolve_scale(color="independent", strokeDash="independent")
    return sized(apart, None, 0.4, names=names, panel=200)


def epochs(budget: float) -> str:
    return f"{budget:g} epoch{'s' * (budget != 1)}"


def setting(field: str, title: str, values: Sequence[Any], log: bool) -> dict[str, Any]:
    """Axis of a hyperparameter: words, few whole numbers as they are, else linear or (over a factor of 4)
    logarithmic."""
    if any(isinstance(value, str) for value in values):
        return {"field": field, "type": "nominal", "title": title, "axis": alt.Axis(labelAngle=0)}
    known = sorted(set(values))
    if len(known) <= 8 and all(isinstance(value, int) for value in known):
        return {**number(field, title), "axis": alt.Axis(values=known, format="d")}
    if log and known[0] > 0 and known[-1] / known[0] > 4:
        return logarithmic(field, title, known)
    return {**number(field, title), "axis": alt.Axis(tickCount=4)}


def settings(meta: Sequence[Row], rows: Sequence[Row]) -> AnyChart:
    """The accuracy of full trainings over each setting that varies, a panel each.

    Args:
        meta: ``name``, ``title``, ``log`` of the settings.
        rows: ``id``, ``number``, ``val_accuracy`` and a column a setting.
    """
    points = [
        _point(row, **{f"s{index}": row.get(entry["name"]) for index, entry in enumerate(meta)})
        for row in thinned(rows, MOST_LINKED)
    ]
    panels = []
    for index, entry in enumerate(meta):
        values = [row[entry["name"]] for row in rows if row.get(entry["name"]) is not None]
        panels.append(setting(f"s{index}", entry["title"], values, bool(entry["log"])))
    return sized(linked(points, panels, alt.value("@c0"), 150), None, 0.6, panel=105)


def parallel(meta: Sequence[Row], rows: Sequence[Row]) -> AnyChart:
    """Parallel coordinates: a line through the settings and the accuracy of each full training, by colour the accuracy.

    Settings that have no effect stand below their axis. On the page a range on an axis holds in all charts.

    Args:
        meta: Of the settings that vary: ``name``, ``title``, ``type``, ``log``, ``choices``.
        rows: ``id``, ``val_accuracy`` and a column a setting.
    """
    accuracy = {"name": "val_accuracy", "title": "validation, %", "type": "number", "log": False}
    found = sorted(thinned(rows, MOST_LINES), key=lambda row: row["val_accuracy"])
    points, marks = [], []
    for index, entry in enumerate([*meta, accuracy]):
        values = [row.get(entry["name"]) for row in found]
        places, ticks = _places(entry, [value for value in values if value is not None])
        ticks += [("inactive", INACTIVE)] if None in values else []
        marks += [{"axis": index, "share": share, "label": label} for label, share in ticks]
        points += [
            {"id": row["id"], "axis": index, "share": places.get(value, INACTIVE), "y": percent(row["val_accuracy"])}
            for row, value in zip(found, values, strict=True)
        ]
    titles = json.dumps([entry["title"] for entry in (*meta, accuracy)])
    axis = alt.Axis(labelExpr=f"{titles}[datum.value]", labelAngle=-35, grid=True, labelOverlap=False, domain=False)
    x, y = alt.X("axis:O", title=None, axis=axis, scale=alt.Scale(type="point")), alt.Y("share:Q", axis=None)
    scale = alt.Scale(range=["@line", "@c0", "@text"], zero=False)
    colour = where_linked(alt.Color("y:Q", scale=scale, legend=None))
    thin = {"style": "faint", "opacity": max(0.15, min(0.8, 60 / len(found)))}
    said = tips(("id:N", "", "trial"), ("y:Q", ".2f", "validation, %"))
    lines = layer("line", points, thin, x=x, y=y, color=colour, detail=alt.Detail("id:N"), tooltip=said)
    note = {"style": "note", "align": "left", "baseline": "middle", "angle": 325, "dx": 2}
    names = layer("text", marks, note, x=x, y=y, text=alt.Text("label:N"))
    return sized(alt.layer(lines.add_params(BRUSH), names).add_params(LINKED), 300, 0.55)


INACTIVE = -0.15
"""Where a value stands that has no effect; 0 and 1 are the ends of an axis."""


def _places(entry: Row, values: Sequence[Any]) -> tuple[dict[Any, float], list[tuple[str, float]]]:
    """Of each value on its axis, in [0, 1], and what is written there."""
    if entry["type"] != "number":
        names = [name for name in entry["choices"] if name in set(map(str, values))]
        at = {name: index / max(1, len(names) - 1) for index, name in enumerate(names)}
        return {value: at[str(value)] for value in values}, list(at.items())
    low, high, of = min(values), max(values), math.log if entry["log"] else float
    span, factor = of(high) - of(low), 100 if entry["name"] == "val_accuracy" else 1
    places = {value: (of(value) - of(low)) / span if span else 0.5 for value in values}
    return places, [(f"{factor * end:.3g}", places[end]) for end in (low, high)]


def dependence(rows: Sequence[Row], titles: Mapping[str, str]) -> AnyChart:
    """Partial dependence of the validation error: the mean, and where 80% of the single curves are; a panel a setting.

    Args:
        rows: ``hyperparameter``, ``value``, ``mean``, ``low``, ``high`` (shares), ``log``.
        titles: Of the hyperparameters, in the panels' order.
    """
    ends = [100 * row[name] for row in rows for name in ("low", "high") if math.isfinite(row[name])]
    domain = {"domain": [min(ends), max(ends)]} if ends and max(ends) > min(ends) else {}
    y = {**number("mean", "error (%)", **domain), "axis": alt.Axis(tickCount=4)}
    panels = []
    for name, title in titles.items():
        own = [row for row in rows if row["hyperparameter"] == name]
        x = setting("x", title, [row["value"] for row in own], bool(own[0]["log"]))
        points = [{"x": row["value"], **{n: percent(row[n]) for n in ("mean", "low", "high")}} for row in own]
        words = x["type"] == "nominal"
        spread = ("rule", points, {"opacity": 0.4, "color": "@c0"}) if words else ("area", points, "band")
        said = tips((f"x:{x['type']}", "", title), ("mean:Q", ".2f", "error, %"))
        layers = [layer(*spread, x=x, y={**y, "field": "low"}, y2=alt.Y2("high"))]
        layers += [] if words else [layer("line", points, x=x, y=y)]
        layers.append(layer("point", points, {"opacity": 1}, x=x, y=y, tooltip=said))
        panels.append(alt.layer(*layers).properties(height=150))
    return sized(alt.concat(*panels), None, 0.5, panel=105)


def front(rows: Sequence[Row], name: str, title: str, factor: float, over_time: Sequence[Row], steps: bool) -> AnyChart:
    """The front and all full trainings over one objective, and the dominated share of the box over student-epochs.

    Args:
        rows: ``family``, ``error``, the objective ``name``, ``on_front``, ``expected`` (by a model, not observed).
        over_time: Of the table ``hypervolume``; empty leaves the second panel out.
        steps: Whether the error and this objective are all there is, so that steps bound what is dominated.
    """
    chosen = sorted((row for row in rows if row["on_front"]), key=lambda row: row[name])
    kind = "expected" if any(row["expected"] for row in chosen) else "observed"
    names = [f"front, {kind}", "full trainings"]

    def point(row: Row, label: str) -> Row:
        about = {"id": row["number"], "family": row["family"], "of": label}
        return {**about, "x": factor * row[name], "y": 100 * row["error"]}

    observed = [point(row, names[1]) for row in rows if not row["expected"]]
    points = [point(row, names[0]) for row in chosen]
    x = logarithmic("x", title, [point["x"] for point in [*observed, *points]])
    channels, colour = {"x": x, "y": number("y", "validation error (%)")}, of_two(names)
    said = tips("family:N", ("x:Q", ".4~g", title), ("y:Q", ".2f", "error, %"))
    brushed = layer("point", observed, "soft", **channels, color=where_linked(colour, BRUSH), tooltip=said)
    layers = [brushed.add_params(BRUSH)]
    channels["color"] = colour
    layers += [layer("line", points, STEPS, **channels)] if steps else []
    layers.append(layer("point", points, {"shape": "diamond", "opacity": 1}, **channels, tooltip=said))
    panels: list[Any] = [alt.layer(*layers)]
    if over_time:
        share = number("share_of_the_box_of_all_full_trainings", "dominated share of the box", domain=[0, 1])
        panels.append(layer("line", over_time, STEPS, x=number("student_epochs", "student-epochs", zero=True), y=share))
    chart = alt.concat(*(panel.properties(height=300) for panel in panels)).add_params(LINKED)
    return sized(chart, None, 0.45, names=names, panel=200)
