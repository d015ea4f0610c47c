"""The sections on a search; those on its trials serve a comparison, too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from naslib_autokd.records import derive_seed
from naslib_autokd.reports.html._page import (
    Page,
    Spec,
    axis,
    card,
    command,
    count,
    escape,
    interval,
    listed,
    log_axis,
    mebibytes,
    missing,
    percent,
    plain_table,
    plot_text,
    ratio,
    section,
    step,
    teacher_line,
    violins,
    why,
)
from naslib_autokd.reports.run_data import LEAST_ANALYSED, Row, RunData
from naslib_autokd.runners.run_folder import TASK

MOST_POINTS = 3000
"""Single points that a chart draws; of more, those of the best trials and others with equal distances."""

# ---- the answer ----------------------------------------------------------------------------------------------------


def answer_section(builder: Page, run: RunData, prefix: str) -> str:
    answer = run.answer
    student = answer.get("student")
    parts: list[str] = []
    lead = ""
    if student and student.get("test_accuracy") is not None:
        parts.append(_student_cards(run, student))
        lead = (
            "The student that is kept: of the final students of the incumbent family the best by validation, judged "
            "once on the test images."
        )
    elif answer.get("val_accuracy") is not None:
        lead = "No student has been judged on the test images yet: this is the best family so far, by validation."
        failures = answer["n_failures"]
        parts.append(
            '<div class="cards">'
            + card("validation accuracy", percent(answer["val_accuracy"]), "of one training", main=True)
            + card("family", answer["family"])
            + card("trials", str(answer["n_trials"]), f"{failures} failed")
            + "</div>"
        )
    else:
        parts.append(missing("Nothing has been found yet: no full training has succeeded."))
    says = _answer_sentences(run)
    if says:
        parts.append(listed(says))
    if run.export_command:
        parts.append("<h3>Take it with you</h3>" + command(run.export_command))
    return section(prefix, "answer", "The answer", lead, *parts)


def _student_cards(run: RunData, student: Mapping[str, Any]) -> str:
    teacher = run.teacher or {}
    ends = interval(student.get("test_accuracy_low"), student.get("test_accuracy_high"))
    over = f"95% over {student['n_test']:,} test images" if student.get("n_test") else ""
    cards = [card("test accuracy", percent(student["test_accuracy"]), f"{ends} {over}".strip(), main=True)]
    if student.get("difference") is not None:
        difference = f"{100 * student['difference']:+.1f} points"
        ends = interval(student.get("difference_low"), student.get("difference_high"), signed=True)
        cards.append(
            card("against the teacher", difference, f"{ends} teacher {percent(teacher['test_accuracy'])}".strip())
        )
    elif teacher.get("test_accuracy") is not None:
        cards.append(card("teacher", percent(teacher["test_accuracy"])))
    cards += [
        card("parameters", count(student["n_params"]), ratio(student.get("params_ratio"), "fewer")),
        card("multiply-adds per image", count(student["macs"]), ratio(student.get("macs_ratio"), "fewer")),
        card("memory of a training step", mebibytes(student["train_memory_bytes"]), ratio(student.get("memory_ratio"))),
    ]
    if student.get("test_agreement") is not None:
        cards.append(card("agrees with the teacher", percent(student["test_agreement"]), "same class on test images"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _answer_sentences(run: RunData) -> list[str]:
    answer = run.answer
    says = []
    if run.kind == "comparison":
        if answer.get("student_method"):
            says.append(
                "The student above is the best by validation of all methods' students: it is of "
                f"{answer['student_method']} (seed {answer['student_seed']})."
            )
        return [*says, *run.conclusions]
    if answer.get("family_accuracy") is not None:
        n = answer["family_accuracy_n"]
        ends = interval(answer["family_accuracy_low"], answer["family_accuracy_high"])
        family = f" of family {answer['family']}" if "family" in answer else ""  # its trials may be lost
        says.append(
            f"The family: {n} student{'s' * (n > 1)}{family} trained in full reach "
            f"{percent(answer['family_accuracy'])} {ends} test accuracy"
            + (
                ", mean and 95% interval over wirings and weight seeds."
                if ends
                else f" ({'one student' if n == 1 else 'all equal'}: no interval)."
            )
        )
    if answer.get("expected_cost") is not None:
        says.append(
            f"The search expects {percent(1 - answer['expected_cost'])} validation accuracy of a student of this "
            "family; it chose by this expectation, not by the luckiest training."
        )
    elif answer.get("family") and not answer.get("student"):
        says.append(f"Incumbent so far: family {answer['family']}, by the observed mean of its full trainings.")
    if answer.get("n_trials"):
        spent = f"{answer['n_trials']} trials ({answer['n_failures']} failed)"
        spent += f", {answer['student_epochs']:.0f} student-epochs"
        if answer.get("seconds"):
            spent += f", {_duration(answer['seconds'])}"
        stopped = {
            "n_trials": "the number of trials",
            "student_epochs": "the student-epochs",
            "wall_s": "the time",
            "target_cost": "the accuracy that was aimed at",
            "space": "the space, of which every point was tried",
        }.get(answer.get("stop_reason", ""))
        says.append(f"Spent: {spent}." + (f" What ended it: {stopped}." if stopped else ""))
    return says


def _duration(seconds: float) -> str:
    from naslib_autokd.runners.session import duration

    return duration(seconds)


# ---- anytime -------------------------------------------------------------------------------------------------------

AXES = (
    ("student-epochs", "student_epochs", "spent_epochs"),
    ("trials", "trials", "place"),
    ("seconds", "seconds", "spent_s"),
)


def anytime(builder: Page, run: RunData, prefix: str) -> str:
    points = run.table("anytime")
    if not points:
        return section(prefix, "anytime", "During the search", "", why(run, "anytime"))
    trials = [{**row, "place": place} for place, row in enumerate(run.table("trials"), start=1)]
    largest = max((row["budget_epochs"] for row in trials if row["status"] == "success"), default=0)
    full = thinned([row for row in trials if row["status"] == "success" and row["budget_epochs"] == largest])
    variants = []
    for name, column, own in AXES:
        traces: list[Spec] = [
            {
                "type": "scatter",
                "mode": "markers",
                "name": "full trainings",
                "x": [row[own] for row in full],
                "y": [100 * row["val_accuracy"] for row in full],
                "text": [f"trial {row['number']}, family {row['family']}" for row in full],
                "hovertemplate": "%{text}<br>%{y:.2f}%<extra></extra>",
                "marker": {"color": "@soft", "size": 5, "opacity": 0.75},
            },
            step(points, column, "incumbent", {"color": "@c0", "width": 2.5}),
        ]
        shapes, notes = teacher_line(run)
        layout = {
            "xaxis": axis(name, rangemode="tozero"),
            "yaxis": axis("validation accuracy, %"),
            "shapes": shapes,
            "annotations": notes,
        }
        variants.append((name, traces, layout))
    lead = "The incumbent is the family with the best mean of its trainings at the largest budget so far."
    return section(prefix, "anytime", "During the search", lead, builder.chart(variants), _budget_agreement(run))


def thinned(rows: list[Row]) -> list[Row]:
    """At most `MOST_POINTS`, the best among them, in their order."""
    if len(rows) <= MOST_POINTS:
        return rows
    best = sorted(range(len(rows)), key=lambda i: -(rows[i]["val_accuracy"] or 0))[: MOST_POINTS // 3]
    step = len(rows) / (MOST_POINTS - len(best))
    kept = {*best, *(int(i * step) for i in range(MOST_POINTS - len(best)))}
    return [rows[i] for i in sorted(kept)]


def _budget_agreement(run: RunData) -> str:
    rows = [row for row in run.table("budget_agreement") if row["kendall_tau"] is not None]
    if not rows:
        return ""
    several = len({row["run_seed"] for row in rows}) > 1
    return listed(
        f"Rank agreement of {row['low']} with {row['high']} epochs: Kendall's tau {row['kendall_tau']:+.2f} over "
        f"{row['n']} families trained with both" + (f" (seed {row['run_seed']})." if several else ".")
        for row in rows
    )


# ---- trials --------------------------------------------------------------------------------------------------------


def column(label: str, digits: int | None = None, **more: Any) -> Spec:
    return {"label": label, "type": "word" if digits is None else "number", "digits": digits, **more}


def trials(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("trials")
    title = "Every trial"
    if not rows:
        return section(prefix, "trials", title, "", why(run, "trials"))
    several = run.kind == "comparison"

    def scaled(value: float | None, factor: float, digits: int) -> float | None:
        return None if value is None else round(value * factor, digits)

    columns: list[tuple[Spec, Any]] = [
        (column("trial", 0), lambda row: row["number"]),
        (column("family"), lambda row: row["family"]),
        (column("epochs", 0, filter=True), lambda row: row["budget_epochs"]),
        (column("status", filter=True, failed=True), lambda row: row["status"]),
        (column("validation, %", 2), lambda row: scaled(row["val_accuracy"], 100, 4)),
        (column("train, %", 2), lambda row: scaled(row["train_accuracy"], 100, 4)),
        (column("agrees, %", 2), lambda row: scaled(row["teacher_agreement"], 100, 4)),
        (column("parameters", 0, best="low"), lambda row: row["n_params"]),
        (column("MMACs", 2, best="low"), lambda row: scaled(row["macs"], 1e-6, 4)),
        (column("train MiB", 1, best="low"), lambda row: scaled(row["train_memory_bytes"], 2**-20, 2)),
        (column("depth", 0), lambda row: row["depth"]),
        (column("seconds", 1, best="low"), lambda row: scaled(row["seconds"], 1, 2)),
        ({"label": "reason", "type": "text"}, lambda row: row["message"]),
    ]
    if several:
        columns.insert(0, (column("seed", 0, filter=True), lambda row: row["run_seed"]))
        columns.insert(0, (column("method", filter=True), lambda row: row["method"]))
    if not any(row["message"] for row in rows):
        columns.pop()
    labels = [column["label"] for column, _ in columns]
    table = builder.table(
        "trials",
        [column for column, _ in columns],
        [[value(row) for _, value in columns] for row in rows],
        sort=(labels.index("validation, %"), True),
        marked=(labels.index("family"), run.answer["family"]) if run.answer.get("family") else None,
    )
    failed = [row for row in run.table("failures") if "status" in row]
    reasons = ""
    if failed:
        n = sum(row["n"] for row in failed)
        reasons = f"<h3>{n} failed</h3>" + plain_table(
            ["status", "reason", "trials"],
            [[r["status"], r["message"] or "no message", str(r["n"])] for r in failed[:20]],
            (2,),
        )
    lead = f"{len(rows):,} trials. " + ("The incumbent family is marked. " if run.answer.get("family") else "")
    lead += "" if failed else run.missing.get("failures", "")
    if any(row["number"] == -1 for row in rows):
        lead += " Trial -1 is the space's default family, which a search trains first."
    return section(prefix, "trials", title, lead.strip(), reasons, table)


# ---- the family ----------------------------------------------------------------------------------------------------


def family(builder: Page, run: RunData, prefix: str) -> str:
    rows = [row for row in run.table("families") if row["accuracy"] is not None]
    parts = []
    if rows:
        order = list(dict.fromkeys(row["group"] for row in rows))
        layout = {"xaxis": {"type": "category", "automargin": True}, "yaxis": axis("validation accuracy, %")}
        lead = (
            "A family is a distribution over wirings: each point is a full training of one wiring and weight seed. "
            "Fewer than five points are drawn without a density."
        )
        parts.append(builder.chart([("", violins(rows, order), layout)], height=380))
    else:
        lead = ""
        parts.append(why(run, "families"))
    finals = run.table("finals")
    if finals:
        parts.append("<h3>Final students</h3>" + finals_table(finals, False))
    else:
        parts.append(why(run, "finals"))
    parts.append(pictures(run))
    return section(prefix, "family", "The family", lead, *parts)


def finals_table(finals: Sequence[Row], several: bool) -> str:
    header = [*(["method", "seed"] if several else []), "student", "validation", "test", "agrees with the teacher"]
    header += ["parameters", "MMACs", "training memory", "seconds"]

    def cells(row: Row) -> list[str]:
        name = f"{row['index']}{' (kept)' if row['kept'] else ''}"
        name += "" if row["status"] == "success" else f", {row['status']}"
        return [
            *([row["method"], str(row["seed"])] if several else []),
            name,
            percent(row["val_accuracy"]),
            percent(row["test_accuracy"]),
            percent(row["test_agreement"]),
            f"{row['n_params']:,}" if row["n_params"] is not None else "",
            f"{row['macs'] / 1e6:.2f}" if row["macs"] is not None else "",
            mebibytes(row["train_memory_bytes"]),
            f"{row['seconds']:.1f}" if row["seconds"] is not None else "",
        ]

    return plain_table(header, [cells(row) for row in finals], range(3 if several else 1, len(header)))


N_WIRINGS = 6
"""Wirings of a family that are drawn."""


def pictures(run: RunData) -> str:
    """The kept student as it was trained, and other wirings of its family."""
    from naslib_autokd.reports.wirings import family_svg, read_trained, svg
    from naslib_autokd.runners.export import ExportError
    from naslib_autokd.search_spaces.hnag.parameters import Candidate

    parts = []
    kept = run.students[0] if run.students else None
    if kept is not None:
        try:
            spec, weights = read_trained(kept["path"])
        except ExportError as error:
            parts.append(missing(f"The kept student cannot be drawn: {' '.join(str(error).split())}."))
        else:
            drawn = svg(spec, merge_weights=weights, background=None)
            parts.append(f'<h3>The kept student, with its merge weights</h3><div class="picture">{drawn}</div>')
    values = run.answer.get("candidate") if kept is None else kept["candidate"]
    if values:
        try:
            generator = Candidate.from_dict(values).generator
        except ValueError:  # of another search space
            return "".join(parts)
        seeds = [derive_seed("report", index) for index in range(N_WIRINGS)]
        drawn = family_svg(generator, seeds, title=f"{N_WIRINGS} wirings of the family", background=None)
        parts.append(f'<h3>Wirings of the family</h3><div class="picture">{drawn}</div>')
    return "".join(parts)


# ---- settings ------------------------------------------------------------------------------------------------------

PRETTY = {"temperature": "KD temperature", "kd_weight": "KD weight"}


def _pretty(name: str) -> str:
    return PRETTY.get(name, name.replace("_", " "))


def settings(builder: Page, run: RunData, prefix: str) -> str:
    title = "Settings of generator and distillation"
    meta = run.table("hyperparameters")
    rows = [row for row in run.table("settings") if row["val_accuracy"] is not None]
    if not meta or not rows:
        return section(prefix, "settings", title, "", why(run, "settings"))
    largest = max(row["budget_epochs"] for row in rows)
    rows = thinned([row for row in rows if row["budget_epochs"] == largest])
    varied = [entry for entry in meta if len({str(row[entry["name"]]) for row in rows if entry["name"] in row}) > 1]
    if not varied:
        why_not = "All full trainings so far have the same settings."
        return section(prefix, "settings", title, "", missing(why_not))
    parts = [_parallel(builder, varied, rows)]
    if run.table("dependence"):
        r2 = run.table("importance")[0]["r2"]
        parts.append(
            "<h3>Partial dependence</h3><p class='lead'>Mean validation error by a forest fitted to the trials (R2 "
            f"{r2:.2f} on held-out families) when one setting is changed and the others are drawn from the space; the "
            "band holds 80% of the single curves. Where R2 is low, the curves mean little.</p>"
        )
        parts.append(_dependence(builder, run))
    else:
        reason = run.missing.get("dependence", "")
        parts.append(
            f"<h3>Accuracy by setting</h3><p class='lead'>{escape(f'The full trainings themselves. {reason}')}</p>"
        )
        parts.append(_scatter(builder, varied, rows))
    lead = f"Successful trainings of {largest} epochs, the largest budget."
    return section(prefix, "settings", title, lead, *parts)


def _parallel(builder: Page, meta: Sequence[Row], rows: Sequence[Row]) -> str:
    axes: list[Spec] = []
    columns: list[list[Any]] = []
    for entry in meta:
        values = [row.get(entry["name"]) for row in rows]
        known = [value for value in values if value is not None]
        number = entry["type"] == "number"
        choices = [] if number else [name for name in entry["choices"] if name in set(map(str, known))]
        axes.append(
            {
                "label": _pretty(entry["name"]),
                "log": bool(entry["log"]) and number,
                "low": min(known) if number else None,
                "high": max(known) if number else None,
                "choices": choices,
            }
        )
        columns.append([None if v is None else v if number else choices.index(str(v)) for v in values])
    accuracy = [100 * row["val_accuracy"] for row in rows]
    axes.append({"label": "validation, %", "log": False, "low": min(accuracy), "high": max(accuracy), "choices": []})
    columns.append(accuracy)
    return builder.parallel(axes, [list(line) for line in zip(*columns, strict=True)])


def _panels(charts: Sequence[str]) -> str:
    return f'<div class="small">{"".join(charts)}</div>'


def _setting_axis(name: str, values: Sequence[Any], log: bool) -> Spec:
    """Of a small chart: words, few whole numbers as they are, else linear or (over a factor of 4) logarithmic."""
    if any(isinstance(value, str) for value in values):
        return axis(_pretty(name), type="category")
    known = sorted(set(values))
    if len(known) <= 8 and all(isinstance(value, int) for value in known):
        return axis(_pretty(name), type="linear", tickvals=known)
    if log and known[0] > 0 and known[-1] / known[0] > 4:
        return log_axis(_pretty(name), known)
    return axis(_pretty(name), type="linear")


def _dependence(builder: Page, run: RunData) -> str:
    rows = run.table("dependence")
    low = 100 * min(row["low"] for row in rows)
    high = 100 * max(row["high"] for row in rows)
    margin = 0.05 * (high - low) or 1.0
    charts = []
    for name in dict.fromkeys(row["hyperparameter"] for row in rows):
        own = [row for row in rows if row["hyperparameter"] == name]
        numeric = all(not isinstance(row["value"], str) for row in own)
        x = [row["value"] if numeric else plot_text(row["value"]) for row in own]
        mean = [100 * row["mean"] for row in own]
        xaxis = _setting_axis(name, [row["value"] for row in own], own[0]["log"])
        line: Spec = {
            "type": "scatter", "mode": "lines+markers" if numeric else "markers", "x": x, "y": mean,
            "showlegend": False,
            "line": {"color": "@c0", "width": 2}, "marker": {"color": "@c0", "size": 6 if numeric else 9},
            "hovertemplate": "%{x}: %{y:.2f}%<extra></extra>",
        }  # fmt: skip
        traces: list[Spec] = [line]
        if numeric:
            band = [100 * row["high"] for row in own] + [100 * row["low"] for row in reversed(own)]
            traces.insert(
                0,
                {
                    "type": "scatter", "mode": "lines", "x": [*x, *reversed(x)], "y": band, "fill": "toself",
                    "fillcolor": "@c0/0.15", "line": {"width": 0, "color": "@c0/0"}, "hoverinfo": "skip",
                    "showlegend": False,
                },
            )  # fmt: skip
        else:
            line["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": [100 * (row["high"] - row["mean"]) for row in own],
                "arrayminus": [100 * (row["mean"] - row["low"]) for row in own],
                "color": "@c0/0.5",
            }
        yaxis = axis("error, %", range=[low - margin, high + margin])
        charts.append(builder.chart([("", traces, {"xaxis": xaxis, "yaxis": yaxis})], height=215))
    return _panels(charts)


def _scatter(builder: Page, meta: Sequence[Row], rows: Sequence[Row]) -> str:
    charts = []
    low, high = (100 * end(row["val_accuracy"] for row in rows) for end in (min, max))
    margin = 0.06 * (high - low) or 1.0
    for entry in meta:
        own = [row for row in rows if row.get(entry["name"]) is not None]
        number = entry["type"] == "number"
        trace = {
            "type": "scatter", "mode": "markers", "showlegend": False,
            "x": [row[entry["name"]] if number else plot_text(row[entry["name"]]) for row in own],
            "y": [100 * row["val_accuracy"] for row in own],
            "text": [f"trial {row['number']}" for row in own],
            "hovertemplate": "%{text}<br>%{x}: %{y:.2f}%<extra></extra>",
            "marker": {"color": "@c0", "size": 7, "opacity": 0.75},
        }  # fmt: skip
        xaxis = _setting_axis(entry["name"], [row[entry["name"]] for row in own], bool(entry["log"]))
        layout = {"xaxis": xaxis, "yaxis": axis("validation, %", range=[low - margin, high + margin])}
        charts.append(builder.chart([("", [trace], layout)], height=215))
    return _panels(charts)


def importance(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("importance")
    title = "What matters"
    if not rows:
        return section(prefix, "importance", title, "", why(run, "importance"))
    shown = list(reversed(rows))
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [100 * row["importance"] for row in shown],
        "y": [plot_text(_pretty(row["hyperparameter"])) for row in shown],
        "error_x": {"type": "data", "array": [100 * row["sd"] for row in shown], "color": "@muted", "thickness": 1.2},
        "marker": {"color": "@c0"},
        "hovertemplate": "%{y}: %{x:.1f}%<extra></extra>",
    }
    layout = {
        "xaxis": axis("what shuffling it costs, % of the variance"),
        "yaxis": {"type": "category"},
        "bargap": 0.35,
    }
    r2, n = rows[0]["r2"], rows[0]["n"]
    lead = (
        f"Permutation importance of a random forest on held-out families, {n} full trainings, R2 {r2:.2f}; bars are "
        "one standard deviation over folds. Settings that depend on each other share their importance."
    )
    if r2 < 0.2:
        lead += " With so low an R2 the trials do not say what matters."
    if n < 3 * LEAST_ANALYSED:
        lead += " So few trainings give a rough picture at best."
    chart = builder.chart([("", [trace], layout)], height=90 + 30 * len(rows))
    return section(prefix, "importance", title, lead, chart)


# ---- front ---------------------------------------------------------------------------------------------------------


def front(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("front")
    title = "Pareto front"
    if not rows:
        return section(prefix, "front", title, "", why(run, "front"))
    from naslib_autokd.reports.front import UNITS

    objectives = [name for name in rows[0] if name in UNITS and name != "error"]
    variants = []
    for name in objectives:
        label, factor = UNITS[name]
        observed = [row for row in rows if not row["expected"]]
        front = sorted((row for row in rows if row["on_front"]), key=lambda row: row[name])
        expected = any(row["expected"] for row in front)

        def points(own: Sequence[Row], name: str = name, factor: float = factor) -> Spec:
            return {
                "type": "scatter",
                "x": [row[name] * factor for row in own],
                "y": [100 * row["error"] for row in own],
                "text": [f"family {row['family']}" for row in own],
                "hovertemplate": "%{text}<br>%{x:.4g}, error %{y:.2f}%<extra></extra>",
            }

        traces = [
            {**points(observed), "mode": "markers", "name": "full trainings", "marker": {"color": "@soft", "size": 6}},
            {
                **points(front),
                "mode": "markers" if len(objectives) > 1 else "lines+markers",
                "name": "front, expected" if expected else "front, observed",
                "marker": {"color": "@c0", "size": 9},
                "line": {"color": "@c0", "width": 1.2, "shape": "hv"},
            },
        ]
        shown = [row[name] * factor for row in rows]
        layout = {"xaxis": log_axis(label, shown), "yaxis": axis("validation error, %")}
        variants.append((label.split(",")[0], traces, layout))
    front = sorted((row for row in rows if row["on_front"]), key=lambda row: row["error"])
    names = ["error", *objectives]
    table = plain_table(
        ["family", *(UNITS[name][0] for name in names)],
        [[row["family"], *(f"{row[name] * UNITS[name][1]:.4g}" for name in names)] for row in front],
        range(1, len(names) + 1),
    )
    lead = "Families that no other beats in all objectives."
    return section(prefix, "front", title, lead, builder.chart(variants), table)


# ---- teacher and student on the test images -----------------------------------------------------------------------


def calibration(builder: Page, run: RunData, prefix: str) -> str:
    title = "Calibration, and agreement with the teacher"
    rows = run.table("calibration")
    parts = []
    if rows:
        method = rows[0]["method"]
        parts.append('<div class="two"><div>' + _reliability(builder, rows, method) + "</div><div>")
        parts.append(_agreement(run, method) + "</div></div>")
    else:
        parts.append(why(run, "calibration"))
    trials = [
        row for row in run.table("trials") if row["teacher_agreement"] is not None and row["val_accuracy"] is not None
    ]
    if trials:
        parts.append("<h3>Agreement over the search</h3>" + _agreement_scatter(builder, trials))
    lead = ""
    if rows:
        lead = "The kept student on the test images: how sure it is, how often it is right then; and its teacher."
        if run.kind == "comparison":
            lead = f"{rows[0]['method']}: the kept students of all seeds on the test images, together."
    return section(prefix, "calibration", title, lead, *parts)


def expected_calibration_error(rows: Sequence[Row]) -> float | None:
    """Mean gap of confidence and accuracy over the bins of one table ``calibration``, weighted by images."""
    known = [row for row in rows if row["n"]]
    total = sum(row["n"] for row in known)
    return sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in known) / total if total else None


def _reliability(builder: Page, rows: Sequence[Row], method: str) -> str:
    traces: list[Spec] = [
        {
            "type": "scatter", "mode": "lines", "x": [0, 100], "y": [0, 100], "name": "perfect", "hoverinfo": "skip",
            "line": {"color": "@muted", "dash": "dot", "width": 1.2},
        }
    ]  # fmt: skip
    errors = []
    for who, colour in (("teacher", "@c1"), ("student", "@c0")):
        own = [row for row in rows if row["who"] == who and row["method"] == method]
        error = expected_calibration_error(own)
        if error is None:
            continue
        errors.append(f"{who} {100 * error:.1f} points")
        known = [row for row in own if row["n"]]
        most = max(row["n"] for row in known)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": who,
                "x": [100 * row["confidence"] for row in known],
                "y": [100 * row["accuracy"] for row in known],
                "text": [f"{row['n']:,} images" for row in known],
                "hovertemplate": who + "<br>%{text}: confidence %{x:.1f}%, right %{y:.1f}%<extra></extra>",
                "marker": {"color": colour, "size": [5 + 11 * math.sqrt(row["n"] / most) for row in known]},
                "line": {"color": colour, "width": 1.5},
            }
        )
    layout = {"xaxis": axis("confidence, %", range=[0, 102]), "yaxis": axis("right, %", range=[0, 104])}
    caption = f"Expected calibration error: {', '.join(reversed(errors))}. Larger dots hold more images."
    return builder.chart([("", traces, layout)], caption, height=360)


CASES = {
    "both": "both are right",
    "student": "only the student is right",
    "teacher": "only the teacher is right",
    "same_error": "both are wrong in the same way",
    "other_error": "both are wrong in different ways",
}


def _agreement(run: RunData, method: str) -> str:
    rows = [row for row in run.table("agreement") if row["method"] == method]
    total = sum(row["n"] for row in rows)
    if not total:
        return why(run, "agreement")
    cells = [[CASES[row["case"]], f"{row['n']:,}", percent(row["n"] / total)] for row in rows]
    return "<h3>Who is right</h3>" + plain_table(["on test images", "n", "share"], cells, (1, 2))


def _agreement_scatter(builder: Page, trials: Sequence[Row]) -> str:
    own = thinned(list(trials))
    budgets = sorted({row["budget_epochs"] for row in own})
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"{budget} epochs",
            "x": [100 * row["teacher_agreement"] for row in own if row["budget_epochs"] == budget],
            "y": [100 * row["val_accuracy"] for row in own if row["budget_epochs"] == budget],
            "text": [f"trial {row['number']}" for row in own if row["budget_epochs"] == budget],
            "hovertemplate": "%{text}<br>agreement %{x:.2f}%, accuracy %{y:.2f}%<extra></extra>",
            "marker": {"color": f"@c{index % 7}", "size": 6, "opacity": 0.75},
        }
        for index, budget in enumerate(reversed(budgets))
    ]
    layout = {
        "xaxis": axis("names the teacher's class, % of validation images"),
        "yaxis": axis("validation accuracy, %"),
    }
    return builder.chart([("", traces, layout)], height=340)


def confusion(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("confusion")
    title = "Confusion matrix"
    if not rows:
        return section(prefix, "confusion", title, "", why(run, "confusion"))
    method = rows[0]["method"]
    names = list(run.classes)
    place = {name: index for index, name in enumerate(names)}
    variants = []
    for who in ("student", "teacher"):
        matrix = [[0] * len(names) for _ in names]
        for row in rows:
            if row["method"] == method and row["who"] == who:
                matrix[place[row["true"]]][place[row["predicted"]]] += row["n"]
        totals = [max(1, sum(line)) for line in matrix]
        shares = [[100 * n / total for n in line] for line, total in zip(matrix, totals, strict=True)]
        errors = [[None if i == j else value for j, value in enumerate(line)] for i, line in enumerate(shares)]
        trace: Spec = {
            "type": "heatmap",
            "x": [plot_text(name) for name in names],
            "y": [plot_text(name) for name in names],
            "z": errors,
            "customdata": matrix,
            "hovertemplate": "true %{y}, said %{x}<br>%{customdata} images, %{z:.1f}%<extra></extra>",
            "colorscale": [[0, "@bg"], [1, "@heat"]],
            "zmin": 0,
            "showscale": len(names) > 12,
            "colorbar": {"title": {"text": "%"}, "thickness": 12},
            "hoverongaps": False,
            "xgap": 1,
            "ygap": 1,
        }
        layout: Spec = {
            "xaxis": axis("said", type="category", showgrid=False),
            "yaxis": axis("true", type="category", autorange="reversed", showgrid=False),
            "annotations": [],
        }
        if len(names) <= 12:
            layout["annotations"] = [
                {
                    "x": j, "y": i, "text": str(matrix[i][j]), "showarrow": False,
                    "font": {"color": "@text" if matrix[i][j] else "@muted", "size": 11},
                }
                for i in range(len(names))
                for j in range(len(names))
                if matrix[i][j]
            ]  # fmt: skip
        variants.append((who, [trace], layout))
    wrong = sorted(
        (r for r in rows if r["method"] == method and r["who"] == "student" and r["true"] != r["predicted"]),
        key=lambda row: -row["n"],
    )[:8]
    table = plain_table(["true", "said", "images"], [[r["true"], r["predicted"], str(r["n"])] for r in wrong], (2,))
    lead = "Counts on the test images; the colour is the share of the true class that is taken for another."
    if run.kind == "comparison":
        lead += f" {method}, all seeds together."
    chart = builder.chart(variants, height=min(760, 170 + 34 * len(names)))
    if not wrong:
        return section(prefix, "confusion", title, lead, chart)
    errors_table = f"<h3>Most frequent errors of the student</h3>{table}"
    return section(
        prefix, "confusion", title, lead, f'<div class="two left"><div>{chart}</div><div>{errors_table}</div></div>'
    )


# ---- how to reproduce ----------------------------------------------------------------------------------------------


def reproduce(builder: Page, run: RunData, prefix: str) -> str:
    parts = []
    if run.command:
        told = "in Python" if run.command.startswith("from ") else "in a shell"
        parts.append(f"<p class='lead'>The same run again, {told}:</p>" + command(run.command))
        if TASK in run.command:
            parts.append("<p class='lead'>task.yaml is the file in the run folder.</p>")
    else:
        parts.append(missing("run.yaml is not there, so the command is not known."))
    facts: dict[str, Any] = {"run folder": run.folder}
    if run.settings.get("seed") is not None:
        facts["seed"] = run.settings["seed"]
    if run.answer.get("seeds") is not None:
        facts["seeds"] = run.answer["seeds"]
    if run.task.get("split_seed") is not None:
        facts["seed of the splits"] = run.task["split_seed"]
    parts.append(_facts(facts))
    if run.environment:
        parts.append("<h3>Versions and hardware</h3>" + _facts(run.environment))
    else:
        parts.append(missing("The run does not say with which versions and on what hardware it was made."))
    for title, content in (("Task", run.task), ("Settings", run.settings)):
        if content:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            parts.append(f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>")
    candidate = run.answer.get("candidate")
    if candidate:
        text = yaml.safe_dump(candidate, sort_keys=False)
        parts.append(f"<details><summary>The incumbent family</summary><pre>{escape(text)}</pre></details>")
    jobs = [row for row in run.table("failures") if "seed" in row]
    if jobs:
        parts.append(
            "<h3>Failed jobs</h3>"
            + plain_table(["method", "seed", "error"], [[r["method"], str(r["seed"]), r["message"]] for r in jobs])
        )
    return section(prefix, "reproduce", "How to reproduce it", "", *parts)


def _facts(facts: Mapping[str, Any]) -> str:
    pairs = (f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl>{''.join(pairs)}</dl>"
