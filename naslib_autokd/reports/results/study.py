"""The tables of a study of search methods on a benchmark."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from naslib_autokd.commands._again import command_of
from naslib_autokd.reports.conclusions import conclusions
from naslib_autokd.reports.results.run import RANKS_MISSING, Row, RunData, Tables, rank_rows, table
from naslib_autokd.reports.tables import study_tables as shown_tables
from naslib_autokd.runners.ablation import StudyResult, read_study
from naslib_autokd.runners.run_folder import STUDY, read_yaml
from naslib_autokd.runners.study_summary import Axis, StudySummary, anytime_curves, rank_curves, summary

_OF_METHODS = "n n_without regret regret_low regret_high median_regret average_rank full_trainings n_trials cpu_s"
_OF_TESTS = "n difference low high p_value p_wilcoxon share_better"


def study_tables(about: RunData) -> RunData:
    """The run of which ``about`` holds the folder.

    Its ``answer``: ``question``, ``seeds``, ``n_runs``; with a run: ``reference``, ``benchmark``, ``best_test_error``,
    ``unit`` (of the budget), ``tables`` (as texts).
    """
    result = read_study(about.folder)
    study, n_runs = result.study, len(result.runs)
    answer: dict[str, Any] = {"question": study.question, "n_runs": n_runs, "seeds": study.seeds}
    failures = ((failure.method, failure.seed, failure.error) for failure in result.failures)
    tables, said = {"failures": table("method seed message", failures)}, []
    if result.runs:
        found = summary(result)
        said = conclusions(found)
        answer |= {name: getattr(found, name) for name in ("reference", "benchmark", "best_test_error", "unit")}
        answer["tables"] = shown_tables(found)
        tables |= result_tables(result, found)
    begun = {run.method for run in result.runs} | {failure.method for failure in result.failures}
    n_jobs = len(begun) * study.seeds
    return replace(
        about,
        kind="study",
        settings=read_yaml(about.folder / STUDY),
        state="empty" if not n_runs else "finished" if n_runs == n_jobs else "stopped",
        problem=_problem(result, begun, n_jobs),
        tables=tables,
        missing={"ranks": RANKS_MISSING},
        answer=answer,
        conclusions=said,
        methods=[method.label for method in study.methods],
        command=command_of(about.folder),
    )


def result_tables(result: StudyResult, found: StudySummary) -> Tables:
    """Of a study with a run, and its summary."""
    best = result.best_test_error
    methods = []
    for own in found.methods:
        ratio = "" if own.speed_up_epochs is None else own.speed_up_epochs.text()
        methods.append((own.label, *(getattr(own, name) for name in _OF_METHODS.split()), ratio))
    tests = [
        (own.label, test.n, test.shift, test.low, test.high, None, test.p_value, test.share_better, own.p_holm)
        for own in found.methods
        if (test := own.test) is not None
    ]
    runs = ((run.method, run.seed, run.test_error[-1], run.n_trials, run.cpu_s) for run in result.runs)
    grid, ranks, n = rank_curves(result)
    shown = ranks.items() if found.friedman is not None else ()  # else ranks say nothing
    points = ((label, x, y, n) for label, own in shown for x, y in zip(grid, own, strict=True) if y == y)
    return {
        "methods": table(f"method {_OF_METHODS} speed_up_epochs", methods),
        "tests": table(f"method {_OF_TESTS} p_holm", tests),
        "ranks": rank_rows([method.label for method in found.methods], found.friedman),
        "anytime": _curve_rows(result, "student_epochs"),
        "anytime_trials": _curve_rows(result, "trials"),
        "ranks_over_time": table("method student_epochs average_rank n", points),
        "finals": table(
            "method seed regret test_error n_trials cpu_s",
            ((method, seed, error - best, error, *spent) for method, seed, error, *spent in runs),
        ),
    }


def _curve_rows(result: StudyResult, axis: Axis) -> list[Row]:
    lines = (
        (label, *point, curve.band.n)
        for label, curve in anytime_curves(result, axis).items()
        for point in zip(curve.grid, curve.band.centre, curve.band.low, curve.band.high, curve.median, strict=True)
        if not math.isnan(point[1])
    )
    return table(f"method {axis} regret low high median n", lines)


def _problem(result: StudyResult, begun: set[str], n_jobs: int) -> str:
    if not begun:
        return "No run of the study has finished yet."
    n, absent = len(result.runs), [method.label for method in result.study.methods if method.label not in begun]
    said = f"{n} of {n_jobs} runs of the study are there: the same command adds the others. " if n < n_jobs else ""
    said += f"{len(result.failures)} failed. " if result.failures else ""
    more = f"Without any run: {'; '.join(absent)}; ablate without --methods adds those that can be used here."
    return f"{said}{more if absent else ''}".strip()
