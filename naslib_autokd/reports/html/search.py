"""The sections on a search; those on its trials serve a comparison, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from naslib_autokd.records import derive_seed
from naslib_autokd.reports.charts.rows import CASES
from naslib_autokd.reports.figures import AXES, by_method, file_names, varied_settings
from naslib_autokd.reports.html._page import (
    Page,
    Spec,
    card,
    command,
    count,
    escape,
    interval,
    listed,
    mebibytes,
    missing,
    percent,
    plain_table,
    ratio,
    section,
    why,
)
from naslib_autokd.reports.results import Row, RunData
from naslib_autokd.reports.results.setting_tables import LEAST_ANALYSED
from naslib_autokd.reports.tables import UNITS
from naslib_autokd.runners.run_folder import TASK

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
        if run.kind == "comparison":
            lead = "The student that is kept: of all methods' final students the best by validation, judged once."
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
            says.append(f"The student above is of {answer['student_method']} (seed {answer['student_seed']}).")
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


def anytime(builder: Page, run: RunData, prefix: str) -> str:
    title = "During the search"
    if not run.table("anytime"):
        return section(prefix, "anytime", title, "", why(run, "anytime"))
    lead = "The incumbent is the family with the best mean of its trainings at the largest budget so far."
    chart = builder.chart(*((axis, name) for name, axis, _, _ in AXES))
    return section(prefix, "anytime", title, lead, chart, _budget_agreement(builder, run))


def _budget_agreement(builder: Page, run: RunData) -> str:
    rows = [row for row in run.table("budget_agreement") if row["kendall_tau"] is not None]
    if not rows:
        return ""
    several = len({row["run_seed"] for row in rows}) > 1
    chart = builder.chart(("", "budget_agreement")) if len(rows) > 1 else ""
    return chart + listed(
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
    chart = builder.chart(("", "trials"), caption="Drag a range in one panel: trials outside it turn grey in all.")
    return section(prefix, "trials", title, lead.strip(), chart, reasons, table)


# ---- the family ----------------------------------------------------------------------------------------------------


def family(builder: Page, run: RunData, prefix: str) -> str:
    lead = ""
    parts = [builder.chart(("", "families"))]
    if parts[0]:
        lead = (
            "A family is a distribution over wirings: each point is a full training of one wiring and weight seed. "
            "Fewer than five points are drawn without a density."
        )
    else:
        parts = [why(run, "families")]
    finals = run.table("finals")
    if finals:
        parts += ["<h3>Final students</h3>", builder.chart(("", "finals")), finals_table(finals, False)]
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
    from naslib_autokd.reports.wirings import read_trained, svg
    from naslib_autokd.search_spaces.hnag.parameters import Candidate
    from naslib_autokd.shipping.student_file import ExportError

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
        drawn = svg(
            [generator.sample_wiring(seed) for seed in seeds],
            title=f"{N_WIRINGS} wirings of the family",
            captions=[f"seed {seed}" for seed in seeds],
            background=None,
        )
        parts.append(f'<h3>Wirings of the family</h3><div class="picture">{drawn}</div>')
    return "".join(parts)


# ---- settings ------------------------------------------------------------------------------------------------------


def settings(builder: Page, run: RunData, prefix: str) -> str:
    title = "Settings of generator and distillation"
    meta = run.table("hyperparameters")
    rows = [row for row in run.table("settings") if row["val_accuracy"] is not None]
    if not meta or not rows:
        return section(prefix, "settings", title, "", why(run, "settings"))
    varied, rows = varied_settings(run)
    if not varied:
        why_not = "All full trainings so far have the same settings."
        return section(prefix, "settings", title, "", missing(why_not))
    parts = [_parallel(builder, varied, rows), "<h3>Accuracy by setting</h3>"]
    parts.append(builder.chart(("", "settings"), caption="Drag a range in one panel to see its trainings in all."))
    if run.table("dependence"):
        r2 = run.table("importance")[0]["r2"]
        parts.append(
            "<h3>Partial dependence</h3><p class='lead'>Mean validation error by a forest fitted to the trials (R2 "
            f"{r2:.2f} on held-out families) when one setting is changed and the others are drawn from the space; the "
            "band holds 80% of the single curves. Where R2 is low, the curves mean little.</p>"
        )
        parts.append(builder.chart(("", "partial_dependence")))
    else:
        parts.append(why(run, "dependence"))
    lead = f"Successful trainings of {rows[0]['budget_epochs']} epochs, the largest budget."
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
                "label": entry["title"],
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


def importance(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("importance")
    title = "What matters"
    if not rows:
        return section(prefix, "importance", title, "", why(run, "importance"))
    r2, n = rows[0]["r2"], rows[0]["n"]
    lead = (
        f"Permutation importance of a random forest on held-out families, {n} {rows[0]['trials']}, R2 {r2:.2f}; bars "
        "are "
        "one standard deviation over folds. Settings that depend on each other share their importance."
    )
    if r2 < 0.2:
        lead += " With so low an R2 the trials do not say what matters."
    if n < 3 * LEAST_ANALYSED:
        lead += " So few trainings give a rough picture at best."
    return section(prefix, "importance", title, lead, builder.chart(("", "importance")))


# ---- front ---------------------------------------------------------------------------------------------------------


def front(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("front")
    title = "Pareto front"
    if not rows:
        return section(prefix, "front", title, "", why(run, "front"))
    objectives = [name for name in rows[0] if name in UNITS and name != "error"]
    front = sorted((row for row in rows if row["on_front"]), key=lambda row: row["error"])
    names = ["error", *objectives]
    table = plain_table(
        ["family", *(UNITS[name][0] for name in names)],
        [[row["family"], *(f"{row[name] * UNITS[name][1]:.4g}" for name in names)] for row in front],
        range(1, len(names) + 1),
    )
    lead = "Families that no other beats in all objectives."
    chart = builder.chart(*((UNITS[name][0].split(",")[0], f"front_{name}") for name in objectives))
    return section(prefix, "front", title, lead, chart, table)


# ---- teacher and student on the test images -----------------------------------------------------------------------


def calibration(builder: Page, run: RunData, prefix: str) -> str:
    title = "Calibration, and agreement with the teacher"
    if not run.table("calibration"):
        return section(prefix, "calibration", title, "", why(run, "calibration"))
    lead = "The kept student on the test images: how sure it is, how often it is right then; and its teacher."
    if run.kind == "baselines":
        lead = "The students of all seeds on the test images, together, and their teacher."
    if run.kind == "comparison":
        lead = "The kept students of all seeds on the test images, together."
    names = file_names(run, "calibration")
    caption = "ECE: expected calibration error. Larger dots hold more images."
    parts = ['<div class="two"><div>', builder.chart(*names.items(), caption=caption), "</div><div>"]
    parts += ["<h3>Who is right</h3>", builder.chart(("", "agreement")), _agreement(run), "</div></div>"]
    return section(prefix, "calibration", title, lead, *parts)


def _agreement(run: RunData) -> str:
    cells = []
    for method, own in by_method(run, run.table("agreement")).items():
        total = max(1, sum(row["n"] for row in own))
        cells += [[method, CASES[row["case"]], f"{row['n']:,}", percent(row["n"] / total)] for row in own]
    several = len(run.methods) > 1
    rows = cells if several else [row[1:] for row in cells]
    header = [*(["method"] if several else []), "on test images", "n", "share"]
    table = plain_table(header, rows, (len(header) - 2, len(header) - 1))
    return f"<details><summary>As a table</summary>{table}</details>" if several else table


def confusion(builder: Page, run: RunData, prefix: str) -> str:
    rows = run.table("confusion")
    title = "Confusion matrix"
    if not rows:
        return section(prefix, "confusion", title, "", why(run, "confusion"))
    names = {
        method: name.replace("confusion", "confusion_student", 1)
        for method, name in file_names(run, "confusion").items()
    }
    several, method = len(names) > 1, rows[0]["method"]
    views = [(label if several else "student", name) for label, name in names.items()]
    chart = builder.chart(*views, ("teacher", "confusion_teacher"))
    wrong = sorted(
        (r for r in rows if r["method"] == method and r["who"] == "student" and r["true"] != r["predicted"]),
        key=lambda row: -row["n"],
    )[:8]
    table = plain_table(["true", "said", "images"], [[r["true"], r["predicted"], str(r["n"])] for r in wrong], (2,))
    lead = "Counts on the test images; the colour is the share of the true class that is taken for another."
    if run.kind != "search":
        lead += " All seeds together."
    if not wrong:
        return section(prefix, "confusion", title, lead, chart)
    errors_table = f"<h3>Most frequent errors of {escape(method) if several else 'the student'}</h3>{table}"
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
