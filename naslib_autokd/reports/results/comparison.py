"""The tables of a comparison of search methods."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from naslib_autokd.commands._again import comparison_code
from naslib_autokd.records import Trial, TrialStore
from naslib_autokd.reports.results import final_tables, setting_tables, trial_tables
from naslib_autokd.reports.results.run import (
    COSTS,
    RANKS_MISSING,
    Row,
    RunData,
    Tables,
    columns_of,
    paired_row,
    plural,
    rank_rows,
    with_holm,
)
from naslib_autokd.reports.results.search import MISSING, no_trials
from naslib_autokd.runners.comparison import Comparison, JobFolder, mean_curves, read_comparison
from naslib_autokd.runners.finals import FinalRecord, kept_of, read_finals
from naslib_autokd.runners.run_folder import COMPARISON, STATUS, TRIALS, read_settings
from naslib_autokd.runners.session import read_status
from naslib_autokd.runners.statistics import LEVEL, friedman_test, signed_rank_test

_OF_METHODS: tuple[str, ...] = ("test_accuracy", "mean_test_accuracy", "teacher_agreement", *COSTS)
_OF_METHODS += ("search_cpu_s", "student_epochs", "n_students")


def comparison_tables(about: RunData, analyse: bool) -> RunData:
    """The run of which ``about`` holds the folder, the task and the settings.

    Its ``answer``: ``reference``, ``seeds``, ``n_jobs``; of all methods' kept students the best by validation, whoever
    found it: ``student`` (see `student_answer`), ``student_method``, ``student_seed``.
    """
    from naslib_autokd.reports.conclusions import what_it_shows

    comparison, jobs = read_comparison(about.folder)
    methods = [method["label"] for method in about.settings.get("methods", [])]
    tables: Tables = {"trials": [], "finals": [], "anytime": []}
    trials: list[tuple[str, int, Trial]] = []
    kept: list[tuple[JobFolder, FinalRecord]] = []
    for job in jobs:
        own, finals = list(TrialStore(job.path / TRIALS)), read_finals(job.path)
        trials += [(job.method, job.seed, trial) for trial in own]
        tables["trials"] += trial_tables.trial_rows(own, job.method, job.seed)
        tables["finals"] += final_tables.final_rows(finals, job.method, job.seed)
        tables["anytime"] += _anytime_rows(job, own)
        if job.result is not None and (student := kept_of(finals)) is not None:
            kept.append((job, student))
    kept.sort(key=lambda item: -item[1].result.val_accuracy)
    counts = {name: [student.result.test_counts for job, student in kept if job.method == name] for name in methods}
    every = [count for own in counts.values() for count in own]
    counted, uncounted = final_tables.count_tables(counts, bool(tables["finals"]))
    space = next((space for job in reversed(jobs) if (space := read_settings(job.path).get("space"))), None)
    searched, unknown = setting_tables.searched_tables(trials, space, analyse)
    failures = [{"method": name, "seed": seed, "message": error} for name, seed, error in comparison.failures]
    tables |= {
        "anytime_mean": mean_curves(comparison.jobs),
        "methods": [{"method": row.label, **columns_of(row, _OF_METHODS)} for row in comparison.rows],
        "failures": [*failures, *trial_tables.failure_rows(trial for _, _, trial in trials)],
        "budget_agreement": [
            {"method": job.method, "run_seed": job.seed, **pair}
            for job in comparison.jobs
            for pair in job.details.get("agreement", [])
        ],
        **_test_tables(comparison),
        **searched,
        **counted,
    }
    teacher = final_tables.teacher_row(comparison.teacher, every)
    answer: dict[str, Any] = {}
    export = ""
    if comparison.rows:
        answer = {
            "reference": comparison.rows[0].label,
            "seeds": list(comparison.seeds),
            "n_jobs": len(comparison.jobs),
        }
    if kept:
        best, student = kept[0]
        answer |= {"student_method": best.method, "student_seed": best.seed}
        answer["student"] = final_tables.student_answer(student.result, teacher, about.task)
        if best.result is not None and not best.result.one_shot:
            export = f"naslib-autokd export {shlex.quote(str(best.path))} --format onnx"
    state, problem = _progress(about, comparison, jobs)
    front = "A comparison's searches minimise the error alone, so there is no Pareto front."
    none = no_trials([trial for _, _, trial in trials])
    return replace(
        about,
        kind="comparison",
        state=state,
        problem=problem,
        tables=tables,
        missing={**MISSING, **none, "front": front, "ranks": RANKS_MISSING, **unknown, **uncounted},
        answer=answer,
        teacher=teacher,
        conclusions=what_it_shows(comparison) if comparison.rows else (),
        classes=final_tables.classes_of(every),
        methods=methods,
        command=comparison_code(about.folder, about.settings, about.task, comparison.seeds),
        export_command=export,
        students=[
            {"path": student.path, "candidate": job.result and job.result.details.get("candidate")}
            for job, student in kept
        ],
    )


def _anytime_rows(job: JobFolder, trials: Sequence[Trial]) -> list[Row]:
    if job.result is None:
        return trial_tables.anytime_rows(trials, job.method, job.seed)
    about = {"method": job.method, "seed": job.seed, "one_shot": job.result.one_shot}
    return [{**about, "student_epochs": x, "accuracy": y} for x, y in job.result.curve]


def _test_tables(comparison: Comparison) -> Tables:
    """The tables ``tests`` and ``ranks``, of the mean test error of a seed's students."""
    errors: dict[str, dict[int, float]] = {row.label: {} for row in comparison.rows}
    for job in comparison.jobs:
        errors[job.method][job.seed] = 1 - job.mean_test_accuracy
    tests, ranks = [], []
    for row in comparison.rows:
        if row.difference is not None:
            own, reference = errors[row.label], errors[comparison.rows[0].label]
            shared = sorted(set(own) & set(reference))
            rank = signed_rank_test([own[seed] for seed in shared], [reference[seed] for seed in shared])
            more = {"p_wilcoxon": rank.p_value if len(shared) > 1 else None, "share_better": rank.share_better}
            tests.append(paired_row(row.label, row.difference, **more))
    common = sorted(set.intersection(*map(set, errors.values()))) if len(errors) > 1 else []
    if len(common) > 1:
        found = friedman_test([[own[seed] for seed in common] for own in errors.values()])
        if found.smallest_p_value <= LEVEL:
            ranks = rank_rows(list(errors), found)
    return {"tests": with_holm(tests, "p_wilcoxon"), "ranks": ranks}


def _progress(about: RunData, comparison: Comparison, jobs: Sequence[JobFolder]) -> tuple[str, str]:
    """``state`` and ``problem``."""
    waiting = [job for job in jobs if job.result is None and not job.error]
    running = any((job.path / STATUS).exists() and read_status(job.path).state == "running" for job in waiting)
    finished = (about.folder / COMPARISON).exists() and not waiting
    parts = []
    if not finished:
        begun = f", begun and not finished: {'; '.join(job.name for job in waiting)}" if waiting else ""
        word, n = "is still running" if running else "is not finished", len(comparison.jobs)
        parts.append(f"The comparison {word} ({n} jobs are{begun}): the same command continues it.")
    if comparison.failures:
        names = "; ".join(f"{method}, seed {seed}" for method, seed, _ in comparison.failures)
        parts.append(f"{plural(len(comparison.failures), 'job')} failed: {names}.")
    state = "finished" if finished else "running" if running else "stopped" if comparison.jobs else "empty"
    return state, " ".join(parts)
