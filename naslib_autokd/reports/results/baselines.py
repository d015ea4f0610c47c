"""The tables of students with the losses of the literature (compare-kd)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from naslib_autokd.commands._again import command_of
from naslib_autokd.evaluators.results import FinalResult
from naslib_autokd.reports.results import final_tables
from naslib_autokd.reports.results.run import COSTS, RunData, columns_of, paired_row, plural, with_holm
from naslib_autokd.runners.run_folder import TRAININGS, read_json

_OF_LOSSES = ("test_accuracy", "val_accuracy", *COSTS, "test_agreement", "seconds")


def baseline_tables(about: RunData) -> RunData:
    """The run of which ``about`` holds the folder, the task and the settings.

    Its ``answer``: ``best`` (by validation accuracy), ``seeds``, ``n_jobs``.
    """
    from naslib_autokd.commands.compare_kd import conclusions
    from naslib_autokd.runners.baselines import BaselineComparison, make_rows, read_trainings

    stored, trainings = read_json(about.folder / "summary.json"), read_trainings(about.folder / TRAININGS)
    failures = [(str(s), str(loss), int(seed), str(error)) for s, loss, seed, error in stored.get("failures", [])]
    rows = {f"{row.student}, {row.short_title}": row for row in make_rows(trainings)}
    labels = {(row.student, row.loss): label for label, row in rows.items()}
    results = [(labels[training.job[:2]], training.seed, training.result) for training in trainings]
    counts: dict[str, list[Mapping[str, Any]]] = {label: [] for label in rows}
    for label, _, result in results:
        counts[label].append(result.test_counts)
    every = [count for own in counts.values() for count in own]
    counted, uncounted = final_tables.count_tables(counts, bool(trainings))
    tests = [paired_row(label, row.gain) for label, row in rows.items() if row.gain is not None]
    tables = {
        "finals": [final_tables.final_row(result, label, seed) for label, seed, result in results],
        "methods": [{"method": label, **columns_of(row, _OF_LOSSES)} for label, row in rows.items()],
        "tests": with_holm(tests, "p_value"),
        "failures": [{"method": f"{s}, {loss}", "seed": seed, "message": error} for s, loss, seed, error in failures],
        **counted,
    }
    answer: dict[str, Any] = {}
    said: list[str] = []
    if trainings:
        seeds = sorted({training.seed for training in trainings})
        best = max(rows, key=lambda label: rows[label].val_accuracy.mean)
        answer = {"best": best, "seeds": seeds, "n_jobs": len(trainings)}
        teacher = stored.get("teacher")
        comparison = BaselineComparison(
            task=str(about.task.get("name", "")),
            seeds=tuple(seeds),
            epochs=int(about.task.get("max_budget_epochs", 0)),
            kd_weight=float((about.settings.get("baselines") or {}).get("kd_weight", 0.0)),
            teacher=FinalResult.from_dict(teacher) if teacher else trainings[0].result,  # in no conclusion
            rows=tuple(rows.values()),
            trainings=tuple(trainings),
            failures=tuple(failures),
        )
        said = conclusions(comparison)
    problem = ""
    if not stored:
        n = plural(len(trainings), "training")
        problem = f"The comparison is not finished ({n} so far): the same command continues it."
    elif failures:
        problem = f"{plural(len(failures), 'training')} failed: the same command tries them again."
    return replace(
        about,
        kind="baselines",
        state="finished" if stored and not failures else "stopped" if trainings else "empty",
        problem=problem,
        tables=tables,
        missing={"finals": "No training has finished yet.", **uncounted},
        answer=answer,
        teacher=final_tables.teacher_row(stored.get("teacher"), every),
        conclusions=said,
        classes=final_tables.classes_of(every),
        methods=list(rows),
        command=command_of(about.folder),
    )
