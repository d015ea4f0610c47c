"""Charts of what happens during searches: curves over what was spent, single trials, their settings, fronts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import altair as alt

from naslib_autokd.reports.charts.look import (
    AnyChart,
    Row,
    by_method,
    data,
    level,
    logarithmic,
    number,
    percent,
    sized,
)

MOST_POINTS = 3000
"""Single points that a chart draws; of more, those of the best trials and others with equal distances."""
MOST_LINKED = 1200
"""The same for a chart of several panels, in which a range can be chosen."""
MANY_LINES = 6
"""Above so many lines only the emphasised one's band is shaded."""


def thinned(rows: Sequence[Row], most: int = MOST_POINTS) -> list[Row]:
    """At most ``most`` rows, the best by ``val_accuracy`` among them, in their order."""
    if len(rows) <= most:
        return list(rows)
    best = sorted(range(len(rows)), key=lambda i: -(rows[i]["val_accuracy"] or 0))[: most // 3]
    step = len(rows) / (most - len(best))
    kept = {*best, *(int(i * step) for i in range(most - len(best)))}
    return [rows[i] for i in sorted(kept)]


def incumbent_curve(
    points: Sequence[Row], full: Sequence[Row], x: str, title: str, teacher: float | None = None
) -> AnyChart:
    """The best family's accuracy so far, and the full trainings themselves.

    Args:
        points: ``x``, ``accuracy``.
        full: ``x``, ``val_accuracy``, ``number``, ``family``.
    """
    names = ["incumbent", "full trainings"]
    colour = alt.Color("of:N", scale=alt.Scale(domain=names, range=["@c0", "@soft"]))
    channels = {"x": alt.X(**number("x", title, zero=True)), "y": alt.Y(**number("y", "validation accuracy (%)"))}
    trials = [
        {"x": r[x], "y": percent(r["val_accuracy"]), "trial": r["number"], "family": r["family"], "of": names[1]}
        for r in thinned(full)
    ]
    tips = [alt.Tooltip("trial:N"), alt.Tooltip("family:N"), alt.Tooltip("y:Q", format=".2f", title="validation, %")]
    line = [{"x": row[x], "y": percent(row["accuracy"]), "of": names[0]} for row in points]
    tip = [alt.Tooltip("x:Q", title=title), alt.Tooltip("y:Q", format=".2f", title="incumbent, %")]
    layers = [
        alt.Chart(data(trials)).mark_point(style="soft").encode(**channels, color=colour, tooltip=tips),
        alt.Chart(data(line)).mark_line(style="strong", interpolate="step-after").encode(**channels, color=colour),
        alt.Chart(data(line)).mark_point(opacity=0).encode(**channels, tooltip=tip),
        *level(percent(teacher), "teacher (test)"),
    ]
    return sized(alt.layer(*layers), 380, 0.36, names=names)


def curves(
    rows: Sequence[Row],
    x: str,
    y: str,
    *,
    methods: Sequence[str],
    x_title: str,
    y_title: str,
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

    def of(found: Sequence[Row]) -> list[Row]:
        out = []
        for row in found:
            ends = {end: row.get(end) for end in ("low", "high")}
            point = {"method": row["method"], "x": row[x], "y": max(factor * row[y], floor), "seed": row.get("seed")}
            known = all(end is not None and math.isfinite(end) for end in ends.values())
            out.append(
                {**point, **({k: max(factor * v, floor) for k, v in ends.items() if v is not None} if known else {})}
            )
        return out

    shape: Any = "step-after" if steps else "linear"
    channels: dict[str, Any] = {"x": alt.X(**x_axis), "y": alt.Y(**y_axis)}
    look = by_method(shown, dashed)
    picked = alt.selection_point(name="picked", fields=["method"], bind="legend")
    faded = {"opacity": alt.condition(picked, alt.value(1), alt.value(0.12))} if len(shown) > 1 else {}
    points = of(rows)
    banded = [row for row in points if "low" in row and (len(shown) <= MANY_LINES or row["method"] == emphasised)]
    layers: list[alt.Chart] = []
    if banded:
        band = alt.Chart(data(banded)).mark_area(style="band", interpolate=shape)
        layers.append(
            band.encode(x=channels["x"], y=alt.Y(**{**y_axis, "field": "low"}), y2=alt.Y2("high"), color=look["color"])
        )
    if singles:
        thin = alt.Chart(data(of(singles))).mark_line(style="faint", interpolate=shape)
        layers.append(thin.encode(**channels, **look, detail=alt.Detail("seed:N")))
    for name in ("", "strong"):
        own = [row for row in points if (row["method"] == emphasised) == bool(name)]
        if own:
            line = alt.Chart(data(own)).mark_line(interpolate=shape, **({"style": name} if name else {}))
            layers.append(line.encode(**channels, **look, **faded))
    tips = [
        alt.Tooltip("method:N"),
        alt.Tooltip("x:Q", title=x_title),
        alt.Tooltip("y:Q", format=".3~f", title=y_title),
    ]
    hover = alt.Chart(data(points)).mark_point(opacity=0).encode(**channels, tooltip=tips)
    layers += [hover.add_params(picked) if faded else hover, *level(percent(teacher), "teacher (test)")]
    return sized(alt.layer(*layers), 400, 0.34, names=shown if len(shown) > 1 else ())


def brushed(panels: Sequence[alt.Chart], height: float, shrink: float, names: Sequence[str], panel: float) -> AnyChart:
    """Panels of the same trials: those inside a range that is drawn in one stay coloured in all."""
    return sized(alt.concat(*(one.properties(height=height) for one in panels)), None, shrink, names=names, panel=panel)


def linked(rows: Sequence[Row], panels: Sequence[tuple[Mapping[str, Any], str]], colour: Any) -> list[alt.Chart]:
    """Scatter charts of the accuracy (``y``) over several channels; a range drawn in one is kept in all."""
    brush = alt.selection_interval(name="brush")
    # one object holds the selection for all panels
    values = data(rows)
    y = alt.Y(**number("y", "validation accuracy (%)"))
    charts = []
    for channel, kind in panels:
        x = alt.X(**{**channel, "type": kind})
        tips = [
            alt.Tooltip("trial:N"),
            alt.Tooltip(**{"field": channel["field"], "type": kind, "title": channel["title"]}),
        ]
        tips.append(alt.Tooltip("y:Q", format=".2f", title="validation, %"))
        chart = alt.Chart(values).mark_point().encode(x=x, y=y, color=alt.condition(brush, colour, alt.value("@grid")))
        charts.append(chart.encode(tooltip=tips))
    charts[0] = charts[0].add_params(brush)
    return charts


def trials(rows: Sequence[Row]) -> AnyChart:
    """Every successful training: its accuracy over its place, its agreement with the teacher and its parameters.

    Args:
        rows: Of the table ``trials`` of one or several searches, in their order.
    """
    found = []
    for place, row in enumerate(rows, start=1):
        if row["val_accuracy"] is not None:
            found.append({**row, "place": place})
    budgets = sorted({row["budget_epochs"] for row in found}, reverse=True)
    names = [epochs(budget) for budget in budgets]
    points = [
        {
            "trial": row["number"],
            "place": row["place"],
            "y": percent(row["val_accuracy"]),
            "agreement": percent(row["teacher_agreement"]),
            "params": None if row["n_params"] is None else row["n_params"] / 1000,
            "budget": epochs(row["budget_epochs"]),
        }
        for row in thinned(found, MOST_LINKED)
    ]
    panels = [number("place", "trial")]
    for field, title in (("agreement", "agrees with the teacher (% of images)"), ("params", "parameters (thousand)")):
        if len({point[field] for point in points}) > 2:
            panels.append(number(field, title))
    legend = alt.Legend() if len(names) > 1 else None
    colour = alt.Color("budget:N", scale=alt.Scale(domain=names), legend=legend)
    charts = linked(points, [(panel, "quantitative") for panel in panels], colour)
    return brushed(charts, 250, 0.48, names, 150)


def side_by_side(left: AnyChart, right: AnyChart, names: Sequence[str]) -> AnyChart:
    """Two charts in one, as high as the left one."""
    parts = [chart.properties(height=380) for chart in (left, right)]
    for part in parts:
        part.usermeta = alt.Undefined  # what `sized` says is of the whole
    apart = alt.concat(*parts).resolve_scale(color="independent", strokeDash="independent")
    return sized(apart, None, 0.4, names=names, panel=200)


def epochs(budget: float) -> str:
    return f"{budget:g} epoch{'s' * (budget != 1)}"


def setting(field: str, title: str, values: Sequence[Any], log: bool) -> tuple[dict[str, Any], str]:
    """Channel and type of a hyperparameter: words, few whole numbers as they are, else linear or (over a factor of 4)
    logarithmic."""
    if any(isinstance(value, str) for value in values):
        return {"field": field, "title": title, "axis": alt.Axis(labelAngle=0)}, "nominal"
    known = sorted(set(values))
    if len(known) <= 8 and all(isinstance(value, int) for value in known):
        return {**number(field, title), "axis": alt.Axis(values=known, format="d")}, "quantitative"
    if log and known[0] > 0 and known[-1] / known[0] > 4:
        return logarithmic(field, title, known), "quantitative"
    return {**number(field, title), "axis": alt.Axis(tickCount=4)}, "quantitative"


def settings(meta: Sequence[Row], rows: Sequence[Row]) -> AnyChart:
    """The accuracy of full trainings over each setting that varies, a panel each.

    Args:
        meta: ``name``, ``title``, ``log`` of the settings.
        rows: ``number``, ``val_accuracy`` and a column a setting.
    """
    points = [
        {
            "trial": row["number"],
            "y": percent(row["val_accuracy"]),
            **{f"s{index}": row.get(entry["name"]) for index, entry in enumerate(meta)},
        }
        for row in thinned(rows, MOST_LINKED)
    ]
    panels = []
    for index, entry in enumerate(meta):
        values = [row[entry["name"]] for row in rows if row.get(entry["name"]) is not None]
        panels.append(setting(f"s{index}", entry["title"], values, bool(entry["log"])))
    return brushed(linked(points, panels, alt.value("@c0")), 150, 0.6, (), 105)


def dependence(rows: Sequence[Row], titles: Mapping[str, str]) -> AnyChart:
    """Partial dependence of the validation error: the mean, and where 80% of the single curves are; a panel a setting.

    Args:
        rows: ``hyperparameter``, ``value``, ``mean``, ``low``, ``high`` (shares), ``log``.
        titles: Of the hyperparameters, in the panels' order.
    """
    ends = [100 * row[name] for row in rows for name in ("low", "high") if math.isfinite(row[name])]
    domain = [min(ends), max(ends)] if ends and max(ends) > min(ends) else None
    panels = []
    for name, title in titles.items():
        own = [row for row in rows if row["hyperparameter"] == name]
        channel, kind = setting("x", title, [row["value"] for row in own], bool(own[0]["log"]))
        points = [
            {"x": row["value"], "mean": percent(row["mean"]), "low": percent(row["low"]), "high": percent(row["high"])}
            for row in own
        ]
        x = alt.X(**{**channel, "type": kind})
        y = number("mean", "error (%)", **({"domain": domain} if domain else {}))
        low = alt.Y(**{**y, "field": "low", "axis": alt.Axis(tickCount=4)})
        y["axis"] = alt.Axis(tickCount=4)
        base = alt.Chart(data(points))
        spread = base.mark_area(style="band") if kind == "quantitative" else base.mark_rule(opacity=0.4)
        layers = [spread.encode(x=x, y=low, y2=alt.Y2("high"))]
        if kind == "quantitative":
            layers.append(base.mark_line().encode(x=x, y=alt.Y(**y)))
        tip = [alt.Tooltip(field="x", type=kind, title=title), alt.Tooltip("mean:Q", format=".2f", title="error, %")]
        layers.append(base.mark_point(opacity=1).encode(x=x, y=alt.Y(**y), tooltip=tip))
        panels.append(alt.layer(*layers).properties(height=150))
    return sized(alt.concat(*panels), None, 0.5, panel=105)


def front(
    rows: Sequence[Row], name: str, title: str, factor: float, over_time: Sequence[Row], *, staircase: bool
) -> AnyChart:
    """The front and all full trainings over one objective, and the dominated share of the box over student-epochs.

    Args:
        rows: ``family``, ``error``, the objective ``name``, ``on_front``, ``expected`` (by a model, not observed).
        over_time: Of the table ``hypervolume``; empty leaves the second panel out.
        staircase: Whether the error and this objective are all there is, so that steps bound what is dominated.
    """
    chosen = sorted((row for row in rows if row["on_front"]), key=lambda row: row[name])
    kind = "expected" if any(row["expected"] for row in chosen) else "observed"
    names = [f"front, {kind}", "full trainings"]

    def of(found: Sequence[Row], label: str) -> list[Row]:
        return [
            {"x": factor * row[name], "y": 100 * row["error"], "family": row["family"], "of": label} for row in found
        ]

    observed = of([row for row in rows if not row["expected"]], names[1])
    points = of(chosen, names[0])
    x = alt.X(**logarithmic("x", title, [point["x"] for point in [*observed, *points]]))
    y = alt.Y(**number("y", "validation error (%)"))
    colour = alt.Color("of:N", scale=alt.Scale(domain=names, range=["@c0", "@soft"]))
    tips = [
        alt.Tooltip("family:N"),
        alt.Tooltip("x:Q", title=title, format=".4~g"),
        alt.Tooltip("y:Q", title="error, %", format=".2f"),
    ]
    layers = [alt.Chart(data(observed)).mark_point(style="soft").encode(x=x, y=y, color=colour, tooltip=tips)]
    if staircase:
        layers.append(alt.Chart(data(points)).mark_line(interpolate="step-after").encode(x=x, y=y, color=colour))
    mark = alt.Chart(data(points)).mark_point(shape="diamond", opacity=1)
    layers.append(mark.encode(x=x, y=y, color=colour, tooltip=tips))
    panels: list[Any] = [alt.layer(*layers).properties(height=300)]
    if over_time:
        column = "share_of_the_box_of_all_full_trainings"
        share = alt.Y(**{**number(column, "dominated share of the box"), "scale": alt.Scale(domain=[0, 1])})
        line = alt.Chart(data(over_time)).mark_line(interpolate="step-after")
        panels.append(
            line.encode(x=alt.X(**number("student_epochs", "student-epochs", zero=True)), y=share).properties(
                height=300
            )
        )
    return sized(alt.concat(*panels), None, 0.45, names=names, panel=200)
