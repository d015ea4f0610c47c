"""The tables of a comparison of search methods."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from naslib_autokd.commands._again import comparison_code
from naslib_autokd.records import Trial, TrialStore
from naslib_autokd.reports.conclusions import what_it_shows
from naslib_autokd.reports.results import final_tables, run, trial_tables
from naslib_autokd.reports.results.search import missing_of
from naslib_autokd.reports.tables import comparison_table
from naslib_autokd.runners.comparison import (
    Comparison,
    JobFolder,
    JobResult,
    mean_curves,
    rank_methods,
    read_comparison,
)
from naslib_autokd.runners.comparison import Row as MethodResult
from naslib_autokd.runners.finals import FinalRecord, kept_of, read_finals
from naslib_autokd.runners.run_folder import COMPARISON, STATUS, TRIALS, read_settings
from naslib_autokd.runners.session import read_status

_OF_METHODS = (
    "test_accuracy mean_test_accuracy teacher_agreement n_params macs train_memory_bytes search_cpu_s student_epochs "
    "n_students training_seconds final_training_seconds"
)


def comparison_tables(about: run.RunData, analyse: bool) -> run.RunData:
    """The run of which ``about`` holds the folder, the task and the settings.

    Its ``answer``: ``reference``, ``seeds``, ``n_jobs``, ``tables`` (as texts); of all methods' kept students the best
    by validation, whoever found it: ``student`` (see `student_answer`), ``student_method``, ``student_seed``.
    """
    comparison, jobs = read_comparison(about.folder)
    methods = [method["label"] for method in about.settings.get("methods", [])]
    tables: run.Tables = {"trials": [], "finals": [], "anytime": []}
    trials: list[tuple[str, int, Trial]] = []
    kept: list[tuple[JobFolder, JobResult, FinalRecord]] = []
    for job in jobs:
        own, finals = list(TrialStore(job.path / TRIALS)), read_finals(job.path)
        trials += [(job.method, job.seed, trial) for trial in own]
        tables["trials"] += trial_tables.trial_rows(own, job.method, job.seed)
        tables["finals"] += final_tables.final_rows(finals, job.method, job.seed)
        if job.result is None:
            tables["anytime"] += trial_tables.anytime_rows(own, job.method, job.seed)
            continue
        about_curve = {"method": job.method, "seed": job.seed, "one_shot": job.result.one_shot}
        tables["anytime"] += [{**about_curve, job.result.curve_unit: x, "accuracy": y} for x, y in job.result.curve]
        if (student := kept_of(finals)) is not None:
            kept.append((job, job.result, student))
    kept.sort(key=lambda item: -item[2].result.val_accuracy)
    counts = {name: [student.result.test_counts for job, _, student in kept if job.method == name] for name in methods}
    space = next((space for job in reversed(jobs) if (space := read_settings(job.path).get("space"))), None)
    about = final_tables.judged(about, counts, comparison.teacher, bool(tables["finals"]))
    about = trial_tables.searched(about, trials, space, analyse)
    failures = run.table("method seed message", comparison.failures)
    tables |= {
        "anytime_mean": mean_curves(comparison.jobs),
        "methods": [run.method_row(row.label, row, _OF_METHODS) for row in comparison.rows],
        "failures": [*failures, *trial_tables.failure_rows(trial for _, _, trial in trials)],
        "budget_agreement": [
            {"method": job.method, "run_seed": job.seed, **pair}
            for job in comparison.jobs
            for pair in job.details.get("agreement", [])
        ],
        "tests": [_test_row(row) for row in comparison.rows if row.difference is not None],
        "ranks": run.rank_rows([row.label for row in comparison.rows], rank_methods(comparison)),
    }
    answer: dict[str, Any] = {}
    if comparison.rows:
        answer = {"reference": comparison.rows[0].label, "n_jobs": len(comparison.jobs)}
        answer |= {"seeds": list(comparison.seeds), "tables": [comparison_table(comparison)]}
    if kept:
        best, result, student = kept[0]
        answer |= {"student_method": best.method, "student_seed": best.seed}
        answer["student"] = final_tables.student_answer(student.result, about.teacher, about.task)
        about = replace(about, kept={"path": student.path, "candidate": result.details.get("candidate")})
        if not result.one_shot:
            about = replace(about, export_command=f"naslib-autokd export {shlex.quote(str(best.path))} --format onnx")
    state, problem = _progress(about, comparison, jobs)
    front = "A comparison's searches minimise the error alone, so there is no Pareto front."
    return about.having(
        tables,
        {**missing_of([trial for _, _, trial in trials]), "front": front, "ranks": run.RANKS_MISSING},
        kind="comparison",
        state=state,
        problem=problem,
        answer=answer,
        conclusions=what_it_shows(comparison) if comparison.rows else (),
        methods=methods,
        command=comparison_code(about.folder, about.settings, about.task, comparison.seeds),
    )


def _test_row(row: MethodResult) -> run.Row:
    test = row.rank_test
    assert row.difference is not None
    assert test is not None
    more = {"p_wilcoxon": test.p_value if test.n > 1 else None, "p_holm": row.p_holm, "share_better": test.share_better}
    return run.paired_row(row.label, row.difference, **more)


def _progress(about: run.RunData, comparison: Comparison, jobs: Sequence[JobFolder]) -> tuple[str, str]:
    """``state`` and ``problem``."""
    waiting = [job for job in jobs if job.result is None and not job.error]
    running = any((job.path / STATUS).exists() and read_status(job.path).state == "running" for job in waiting)
    finished = (about.folder / COMPARISON).exists() and not waiting
    state = "finished" if finished else "running" if running else "stopped" if comparison.jobs else "empty"
    begun = f", begun and not finished: {'; '.join(job.name for job in waiting)}" if waiting else ""
    word, n = "is still running" if running else "is not finished", run.plural(len(comparison.jobs), "finished job")
    failed = "; ".join(f"{method}, seed {seed}" for method, seed, _ in comparison.failures)
    said = "" if finished else f"The comparison {word} ({n}{begun}): the same command continues it. "
    said += f"{run.plural(len(comparison.failures), 'job')} failed: {failed}." if failed else ""
    return state, said.strip()
