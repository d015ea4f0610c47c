"""The sections on a search; those on its trials serve a comparison, too."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from naslib_autokd.records import derive_seed
from naslib_autokd.reports.charts.rows import CASES
from naslib_autokd.reports.conclusions import budget_agreement
from naslib_autokd.reports.figures import AXES, by_method, file_names, of_trials, varied_settings
from naslib_autokd.reports.html import _page as ui
from naslib_autokd.reports.results import Row, RunData
from naslib_autokd.reports.tables import UNITS, front_table, interval, objectives_of, percent
from naslib_autokd.runners.run_folder import TASK
from naslib_autokd.runners.trial_importance import LEAST_ANALYSED
from naslib_autokd.search_spaces.hnag import Candidate
from naslib_autokd.search_spaces.hnag.wiring import Wiring


@ui.Section("answer", "Answer", "The answer")
def answer(page: ui.Page, run: RunData) -> Iterator[str]:
    found = run.answer
    student = found.get("student") or {}
    if student.get("test_accuracy") is not None:
        of = "of the final students of the incumbent family the best by validation, judged once on the test images"
        if run.kind == "comparison":
            of = "of all methods' final students the best by validation, judged once"
        yield ui.lead(f"The student that is kept: {of}.")
        yield student_cards(run, student, f"{student['n_test'] or 0:,} test images")
    elif found.get("val_accuracy") is not None:
        yield ui.lead(
            "No student has been judged on the test images yet: this is the best family so far, by validation."
        )
        yield ui.cards(
            ("validation accuracy", percent(found["val_accuracy"]), "of one training"),
            ("family", found["family"]),
            ("trials", str(found["n_trials"]), f"{found['n_failures']} failed"),
        )
    else:
        yield ui.missing("Nothing has been found yet: no full training has succeeded.")
    finder = found.get("student_method")
    says = [f"The student above is of {finder} (seed {found['student_seed']})."] if finder else []
    yield ui.listed([*says, *run.conclusions])
    if run.export_command:
        yield ui.heading("Take it with you") + ui.command(run.export_command)


def student_cards(run: RunData, student: Mapping[str, Any], over: str) -> str:
    """A student against the teacher; ``over``: what its interval is over."""
    teacher = run.teacher.get("test_accuracy")
    ends = interval(student["test_accuracy_low"], student["test_accuracy_high"])
    against: tuple[str, ...] | None = None if teacher is None else ("teacher", percent(teacher))
    if student.get("difference") is not None:
        between = interval(student.get("difference_low"), student.get("difference_high"), signed=True)
        difference = f"{100 * student['difference']:+.1f} points"
        against = ("against the teacher", difference, f"{between and f'{between}, '}teacher {percent(teacher)}")
    agreement, memory = student.get("test_agreement"), student["train_memory_bytes"]
    return ui.cards(
        ("test accuracy", percent(student["test_accuracy"]), f"{ends}, 95% interval over {over}" if ends else ""),
        against,
        ("parameters", ui.count(student["n_params"]), ui.ratio(student.get("params_ratio"), "fewer")),
        ("multiply-adds per image", ui.count(student["macs"]), ui.ratio(student.get("macs_ratio"), "fewer")),
        ("memory of a training step", ui.mebibytes(memory), ui.ratio(student.get("memory_ratio"))),
        None if agreement is None else ("agrees with the teacher", percent(agreement), "same class on test images"),
    )


@ui.Section("anytime", "Anytime", "During the search", needs="anytime")
def anytime(page: ui.Page, run: RunData) -> Iterator[str]:
    yield ui.lead("The incumbent is the family with the best mean of its trainings at the largest budget so far.")
    yield page.chart(*((axis, name) for name, axis, _, _ in AXES))
    agreement = budget_agreement(run.table("budget_agreement"))
    if len(agreement) > 1:
        yield page.chart("budget_agreement")
    yield ui.listed(agreement)


RANGE = "Drag a range: trials outside it turn grey in all charts and leave the table; a click clears it."
SMALL, CHOICE = {"best": "low"}, {"filter": True}
OF_A_RUN = (ui.Column("method", "method", more=CHOICE), ui.Column("seed", "run_seed", 0, more=CHOICE))
TRIAL = (
    ui.Column("trial", "number", 0),
    ui.Column("family", "family"),
    ui.Column("epochs", "budget_epochs", 0, more=CHOICE),
    ui.Column("status", "status", more={**CHOICE, "failed": True}),
    ui.Column("validation, %", "val_accuracy", 2, 100),
    ui.Column("train, %", "train_accuracy", 2, 100),
    ui.Column("agrees, %", "teacher_agreement", 2, 100),
    ui.Column("parameters", "n_params", 0, more=SMALL),
    ui.Column("MMACs", "macs", 2, 1e-6, SMALL),
    ui.Column("train MiB", "train_memory_bytes", 1, 2.0**-20, SMALL),
    ui.Column("depth", "depth", 0),
    ui.Column("seconds", "seconds", 1, more=SMALL),
)
MEASURED = (
    ui.Column("latency, ms", "latency", 3, 1e3, SMALL),
    ui.Column("inference MiB", "inference_memory", 1, 2.0**-20, SMALL),
)
"""Where they were measured."""
REASON = (ui.Column("reason", "message", more={"type": "text"}),)


@ui.Section("trials", "Trials", "Every trial", needs="trials")
def trials(page: ui.Page, run: RunData) -> Iterator[str]:
    rows, family = of_trials(run, "trials"), run.answer.get("family")
    failed = [row for row in run.table("failures") if "status" in row]
    said = f"{len(rows):,} trial{'s' * (len(rows) != 1)}. " + ("The incumbent family is marked. " if family else "")
    said += "" if failed else run.missing.get("failures", "")
    if any(row["number"] == -1 for row in rows):
        said += " Trial -1 is the space's default family, which a search trains first."
    yield ui.lead(said.strip())
    yield page.chart("trials", caption=RANGE)
    if failed:
        yield ui.heading(f"{sum(row['n'] for row in failed)} failed")
        why_failed: ui.Columns = {"reason": lambda row: row["message"] or "no message"}
        yield ui.table(failed[:20], {"status": "status", **why_failed, "trials": "n"}, words=2)
    measured = tuple(column for column in MEASURED if any(row[column.field] is not None for row in rows))
    reason = REASON * any(row["message"] for row in rows)
    columns_of = OF_A_RUN * (run.kind == "comparison") + TRIAL + measured + reason
    marked, ids = ("family", family) if family else None, [row["id"] for row in rows]
    yield page.table("trials", columns_of, rows, ("validation, %", True), marked, ids)


@ui.Section("family", "Family", "The family")
def family(page: ui.Page, run: RunData) -> Iterator[str]:
    chart = page.chart("families")
    if chart:
        yield ui.lead(
            "A family is a distribution over wirings: each point is a full training of one wiring and weight seed. "
            "Fewer than five points are drawn without a density."
        )
    yield chart or ui.why(run, "families")
    if run.table("finals"):
        yield ui.heading("Final students") + page.chart("finals") + finals_table(run)
    else:
        yield ui.why(run, "finals")
    yield from pictures(page, run)


def finals_table(run: RunData) -> str:
    def name(row: Row) -> str:
        status = "" if row["status"] == "success" else f", {row['status']}"
        return f"{row['index']}{' (kept)' if row['kept'] else ''}{status}"

    first: dict[str, ui.Columns] = {
        "search": {"student": name},
        "comparison": {"method": "method", "seed": "seed", "student": name},
        "baselines": {"student, loss": "method", "seed": "seed"},
    }
    columns: ui.Columns = {
        **first[run.kind],
        "validation": lambda row: percent(row["val_accuracy"]),
        "test": lambda row: percent(row["test_accuracy"]),
        "agrees with the teacher": lambda row: percent(row["test_agreement"]),
        "parameters": ui.shown("n_params", 1, ","),
        "MMACs": ui.shown("macs", 1e-6, ".2f"),
        "training memory": lambda row: ui.mebibytes(row["train_memory_bytes"]),
        "seconds": ui.shown("seconds"),
    }
    return ui.table(run.table("finals"), columns, words=len(first[run.kind]))


N_WIRINGS = 6
"""Wirings of a family that are drawn; equal ones are shown once."""


def pictures(page: ui.Page, run: RunData) -> Iterator[str]:
    """The kept student as it was trained, and other wirings of its family."""
    from naslib_autokd.reports.wirings import picture
    from naslib_autokd.shipping.student_file import ExportError, read_trained

    if run.kept:
        try:
            spec, weights = read_trained(run.kept["path"])
        except ExportError as error:
            yield ui.missing(f"The kept student cannot be drawn: {' '.join(str(error).split())}.")
        else:
            yield ui.heading("The kept student, with its merge weights")
            yield page.figure([("", picture(spec, merge_weights=weights))])
    if values := run.kept.get("candidate") or run.answer.get("candidate"):
        try:
            family = Candidate.from_dict(values)
        except ValueError:  # of another search space
            return
        drawn: dict[str, tuple[str, Wiring]] = {}
        for seed in (derive_seed("report", index) for index in range(N_WIRINGS)):
            wiring = family.generator.sample_wiring(seed)
            drawn.setdefault(wiring.digest, (f"seed {seed}", wiring))
        captions, wirings = zip(*drawn.values(), strict=True)
        yield ui.heading("The only wiring of the family" if family.is_one_wiring else "Wirings of the family")
        yield page.figure([("", picture(wirings[0]) if family.is_one_wiring else picture(wirings, captions=captions))])


@ui.Section("settings", "Settings", "Settings of generator and distillation")
def settings(page: ui.Page, run: RunData) -> Iterator[str]:
    if not run.table("hyperparameters") or all(row["val_accuracy"] is None for row in run.table("settings")):
        yield ui.why(run, "settings")
        return
    varied, rows = varied_settings(run)
    if not varied:
        yield ui.missing("All full trainings so far have the same settings.")
        return
    yield ui.lead(f"Successful trainings of {rows[0]['budget_epochs']} epochs, the largest budget.")
    yield page.chart("parallel_coordinates", caption="Drag along an axis for a range, which holds in all charts.")
    yield ui.heading("Accuracy by setting")
    yield page.chart("settings", caption=RANGE)
    if not run.table("dependence"):
        if run.missing.get("dependence") != run.missing.get("importance"):  # which the next section says
            yield ui.why(run, "dependence")
        return
    yield ui.heading("Partial dependence") + ui.lead(
        "Mean validation error by a forest fitted to the trials (R2 "
        f"{run.table('importance')[0]['r2']:.2f} on held-out families) when one setting is changed and the others are "
        "drawn from the space; the band holds 80% of the single curves. Where R2 is low, the curves mean little."
    )
    yield page.chart("partial_dependence")


@ui.Section("importance", "Importance", "What matters", needs="importance")
def importance(page: ui.Page, run: RunData) -> Iterator[str]:
    first = run.table("importance")[0]
    said = (
        f"Permutation importance of a random forest on held-out families, {first['n']} {first['trials']}, R2 "
        f"{first['r2']:.2f}; lines are one standard deviation over folds. Settings that depend on each other share "
        "their importance."
    )
    said += " With so low an R2 the trials do not say what matters." if first["r2"] < 0.2 else ""
    said += " So few trainings give a rough picture at best." if first["n"] < 3 * LEAST_ANALYSED else ""
    yield ui.lead(said)
    yield page.chart("importance")


@ui.Section("front", "Front", "Pareto front", needs="front")
def front(page: ui.Page, run: RunData) -> Iterator[str]:
    rows = run.table("front")
    said = "Families that no other beats in all objectives."
    if any(row["expected"] for row in rows):
        said += " The error is what the optimizer expects by all its trials."
    said += f" Latency: {run.answer['latency_of']}." if run.answer.get("latency_of") else ""
    yield ui.lead(said)
    views = ((UNITS[name][0].split(",")[0], f"front_{name}") for name in objectives_of(rows)[1:])
    yield page.chart(*views, caption=RANGE)
    shown = front_table(rows)
    yield ui.texts(shown)
    yield ui.lead("Each can be trained in full and exported by its digest:")
    yield ui.command(f"naslib-autokd export {shlex.quote(str(run.folder))} --family {shown.rows[0][0]}")


# ---- teacher and student on the test images -----------------------------------------------------------------------

JUDGED = {
    "search": "The kept student on the test images: how sure it is, how often it is right then; and its teacher.",
    "baselines": "The students of all seeds on the test images, together, and their teacher.",
    "comparison": "The kept students of all seeds on the test images, together.",
}


@ui.Section("calibration", "Calibration", "Calibration, and agreement with the teacher", needs="calibration")
def calibration(page: ui.Page, run: RunData) -> Iterator[str]:
    caption = "ECE: expected calibration error. Larger dots hold more images."
    chart = page.chart(*file_names(run, "calibration").items(), caption=caption)
    yield ui.lead(JUDGED[run.kind])
    yield f'<div class="two"><div>{chart}</div><div>{ui.heading("Who is right")}'
    yield f"{page.chart('agreement')}{_agreement(run)}</div></div>"


def _agreement(run: RunData) -> str:
    rows = run.table("agreement")
    totals = {method: max(1, sum(row["n"] for row in own)) for method, own in by_method(run, rows).items()}
    columns: ui.Columns = {
        "on test images": lambda row: CASES[row["case"]],
        "n": ui.shown("n", 1, ","),
        "share": lambda row: percent(row["n"] / totals[row["method"]]),
    }
    if len(run.methods) <= 1:
        return ui.table(rows, columns)
    return ui.folded("As a table", ui.table(rows, {"method": "method", **columns}, words=2))


@ui.Section("confusion", "Confusion", "Confusion matrix", needs="confusion")
def confusion(page: ui.Page, run: RunData) -> Iterator[str]:
    rows, names = run.table("confusion"), file_names(run, "confusion", "confusion_student")
    several, method = len(names) > 1, run.answer.get("best", rows[0]["method"])
    said = "Counts on the test images; the colour is the share of the true class that is taken for another."
    yield ui.lead(said + ("" if run.kind == "search" else " All seeds together."))
    views = [(label if several else "student", name) for label, name in names.items()]
    chart = page.chart(*views, ("teacher", "confusion_teacher"))
    wrong = [r for r in rows if r["method"] == method and r["who"] == "student" and r["true"] != r["predicted"]]
    if not wrong:
        yield chart
        return
    most = sorted(wrong, key=lambda row: -row["n"])[:8]
    errors = ui.table(most, {"true": "true", "predicted": "predicted", "images": "n"}, words=2)
    title = ui.heading(f"Most frequent errors of {method if several else 'the student'}")
    yield f'<div class="two left"><div>{chart}</div><div>{title}{errors}</div></div>'


@ui.Section("reproduce", "Reproduce", "How to reproduce it")
def reproduce(page: ui.Page, run: RunData) -> Iterator[str]:
    if run.command:
        told = "in Python" if run.command.startswith("from ") else "in a shell"
        yield ui.lead(f"The same run again, {told}:") + ui.command(run.command)
        if TASK in run.command:
            yield ui.lead("task.yaml is the file in the run folder.")
    else:
        yield ui.missing("run.yaml is not there, so the command is not known.")
    seeds = {
        "seed": run.settings.get("seed"),
        "seeds": run.answer.get("seeds"),
        "seed of the splits": run.task.get("split_seed"),
    }
    yield _facts({"run folder": run.folder, **{name: value for name, value in seeds.items() if value is not None}})
    if run.environment:
        yield ui.heading("Versions and hardware") + _facts(run.environment)
    else:
        yield ui.missing("The run does not say with which versions and on what hardware it was made.")
    contents = {"Task": run.task, "Settings": run.settings, "The incumbent family": run.answer.get("candidate")}
    for title, content in contents.items():
        if content:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=title != "The incumbent family")
            yield ui.folded(title, f"<pre>{ui.escape(text)}</pre>")
    if jobs := [row for row in run.table("failures") if "seed" in row]:
        columns: ui.Columns = {"method": "method", "seed": "seed", "error": "message"}
        yield ui.heading("Failed jobs") + ui.table(jobs, columns, words=3)


def _facts(facts: Mapping[str, Any]) -> str:
    pairs = (f"<dt>{ui.escape(str(name))}</dt><dd>{ui.escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl>{''.join(pairs)}</dl>"


OF_TRIALS = (settings, importance, front, calibration, confusion)
SECTIONS = (answer, anytime, trials, family, *OF_TRIALS, reproduce)
