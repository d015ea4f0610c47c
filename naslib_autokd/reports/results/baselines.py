"""The tables of students with the losses of the literature (compare-kd)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from naslib_autokd.commands._again import command_of
from naslib_autokd.reports.results import final_tables
from naslib_autokd.reports.results.run import RunData, method_row, paired_row, plural, table

_OF_LOSSES = "test_accuracy val_accuracy n_params macs train_memory_bytes test_agreement seconds"


def baseline_tables(about: RunData) -> RunData:
    """The run of which ``about`` holds the folder.

    Its ``answer``: ``best`` (by validation accuracy), ``seeds``, ``n_jobs``, ``tables`` (as texts).
    """
    from naslib_autokd.commands.compare_kd import conclusions, results_table
    from naslib_autokd.runners.baselines import read_comparison

    found = read_comparison(about.folder)
    rows = {f"{found.name_of(row)}, {row.short_title}": row for row in found.rows}
    labels = {(row.student, row.loss): label for label, row in rows.items()}
    results = [(labels[training.job[:2]], training.seed, training.result) for training in found.trainings]
    counts = {label: [result.test_counts for name, _, result in results if name == label] for label in rows}
    teacher = None if found.teacher is None else asdict(found.teacher)
    about = final_tables.judged(about, counts, teacher, bool(results))
    failures = ((f"{student}, {loss}", seed, error) for student, loss, seed, error in found.failures)
    tables = {
        "finals": [final_tables.final_row(result, label, seed) for label, seed, result in results],
        "methods": [method_row(label, row, _OF_LOSSES) for label, row in rows.items()],
        "tests": [paired_row(name, row.gain, p_holm=row.p_holm) for name, row in rows.items() if row.gain is not None],
        "failures": table("method seed message", failures),
    }
    answer: dict[str, Any] = {}
    said, n_failed = list[str](), len(found.failures)
    if results:
        best = max(rows, key=lambda label: rows[label].val_accuracy.mean)
        answer = {"best": best, "seeds": list(found.seeds), "n_jobs": len(results)}
        answer["tables"] = [results_table(found)]
        said = conclusions(found)
    problem = f"{plural(n_failed, 'training')} failed: the same command tries again." if n_failed else ""
    if found.teacher is None:
        n = plural(len(results), "training")
        problem = f"The comparison is not finished ({n} so far): the same command continues it."
    return about.having(
        tables,
        {"finals": "No training has finished yet."},
        kind="baselines",
        state="empty" if not results else "stopped" if problem else "finished",
        problem=problem,
        answer=answer,
        conclusions=said,
        methods=list(rows),
        command=command_of(about.folder),
    )
