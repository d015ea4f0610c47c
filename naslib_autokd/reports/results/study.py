"""The tables of a study of search methods on a benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from naslib_autokd.commands._again import command_of
from naslib_autokd.reports.conclusions import conclusions
from naslib_autokd.reports.results.run import RANKS_MISSING, Row, RunData, Tables, finite_or_none, rank_rows
from naslib_autokd.runners.ablation import StudyResult, read_study
from naslib_autokd.runners.run_folder import STUDY, read_yaml
from naslib_autokd.runners.study_summary import Axis, StudySummary, anytime_curves, rank_curves, summary

_OF_METHODS: tuple[str, ...] = (
    "n",
    "n_without",
    "regret",
    "regret_low",
    "regret_high",
    "median_regret",
    "average_rank",
)
_OF_METHODS += ("average_rank", "full_trainings", "n_trials", "cpu_s")


def study_tables(about: RunData) -> RunData:
    """The run of which ``about`` holds the folder.

    Its ``answer``: ``question``, ``seeds``, ``n_runs``; with a run: ``reference``, ``benchmark``, ``best_test_error``.
    """
    result = read_study(about.folder)
    study, n_runs = result.study, len(result.runs)
    answer: dict[str, Any] = {"question": study.question, "n_runs": n_runs, "seeds": study.seeds}
    failures: list[Row] = [{"method": f.method, "seed": f.seed, "message": f.error} for f in result.failures]
    tables: Tables = {"failures": failures}
    said: list[str] = []
    if result.runs:
        found = summary(result)
        said, plain = conclusions(found), found.to_dict()
        answer |= {name: plain[name] for name in ("reference", "benchmark", "best_test_error")}
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
    methods = found.to_dict()["methods"]
    speed_ups = [method.speed_up_epochs for method in found.methods]
    return {
        "methods": [
            {"method": method["label"], **{name: method[name] for name in _OF_METHODS}}
            | {"speed_up_epochs": "" if ratio is None else ratio.text()}
            for method, ratio in zip(methods, speed_ups, strict=True)
        ],
        "tests": [_test_row(method) for method in methods if method["test"] is not None],
        "ranks": rank_rows([method.label for method in found.methods], found.friedman) if found.friedman else [],
        **_run_tables(result),
    }


def _test_row(method: Mapping[str, Any]) -> Row:
    test = method["test"]
    ends = {"n": test["n"], "difference": test["shift"], "low": test["low"], "high": test["high"]}
    p_values = {"p_value": None, "p_wilcoxon": test["p_value"], "p_holm": method["p_holm"]}
    return {"method": method["label"], **ends, **p_values, "share_better": test["share_better"]}


def _run_tables(result: StudyResult) -> Tables:
    """The curves and ends of all runs."""

    def curves(axis: Axis) -> list[Row]:
        return [
            {"method": label, axis: float(x), "regret": float(y)}
            | {
                "low": finite_or_none(low),
                "high": finite_or_none(high),
                "median": finite_or_none(median),
                "n": curve.band.n,
            }
            for label, curve in anytime_curves(result, axis).items()
            for x, y, low, high, median in zip(
                curve.grid, curve.band.centre, curve.band.low, curve.band.high, curve.median, strict=True
            )
            if not math.isnan(y)
        ]

    grid, ranks, n = rank_curves(result)
    return {
        "anytime": curves("student_epochs"),
        "anytime_trials": curves("trials"),
        "ranks_over_time": [
            {"method": label, "student_epochs": float(x), "average_rank": float(y), "n": n}
            for label, values in ranks.items()
            for x, y in zip(grid, values, strict=True)
            if not math.isnan(y)
        ],
        "finals": [
            {
                "method": run.method,
                "seed": run.seed,
                "regret": finite_or_none(run.test_error[-1] - result.best_test_error),
            }
            | {"test_error": finite_or_none(run.test_error[-1]), "n_trials": run.n_trials, "cpu_s": run.cpu_s}
            for run in result.runs
        ],
    }


def _problem(result: StudyResult, begun: set[str], n_jobs: int) -> str:
    parts = [] if begun else ["No run of the study has finished yet."]
    if len(result.runs) < n_jobs:
        parts.append(f"{len(result.runs)} of {n_jobs} runs of the study are there: the same command adds the others.")
        if result.failures:
            parts.append(f"{len(result.failures)} failed.")
    absent = [method.label for method in result.study.methods if method.label not in begun]
    if begun and absent:
        parts.append(
            f"Without any run: {'; '.join(absent)}; ablate without --methods adds those that can be used here."
        )
    return " ".join(parts)
