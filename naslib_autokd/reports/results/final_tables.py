"""The tables of students that were trained in full, against their teacher on the test images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from naslib_autokd.evaluators.results import FinalResult
from naslib_autokd.reports.results.run import Row, RunData, interval_columns, table
from naslib_autokd.runners.finals import FinalRecord, kept_of
from naslib_autokd.runners.statistics import paired_shares, wilson_interval

Counts = Mapping[str, Any]
"""What a student and its teacher answer on the test images (`FinalResult.test_counts`); empty where it is not known."""

COSTS = ("n_params", "macs", "train_memory_bytes")
_MEASURED = ("status", "val_accuracy", "test_accuracy", "test_agreement", *COSTS)


def final_row(result: FinalResult, method: str, seed: Any, index: int = 0, kept: bool = False) -> Row:
    """Of the table ``finals``."""
    measured = {name: getattr(result, name) for name in (*_MEASURED, "seconds")}
    return {"method": method, "seed": seed, "index": index, "kept": kept, **measured}


def final_rows(records: Sequence[FinalRecord], method: str, seed: Any) -> list[Row]:
    """The table ``finals`` of one family's students."""
    kept = kept_of(records)
    return [final_row(record.result, method, seed, record.index, record is kept) for record in records]


def _teacher_row(known: Mapping[str, Any] | None, counts: Iterable[Counts]) -> Row:
    """The teacher's numbers; of an unfinished run its accuracy alone, from what was counted beside a student."""
    names = ("test_accuracy", *COSTS)
    if known:
        return {name: known.get(name) for name in names}
    for count in counts:
        right = count["agreement"]["both"] + count["agreement"]["teacher"]
        return {**dict.fromkeys(names), "test_accuracy": right / count["n"]}
    return {}


def student_answer(final: FinalResult, teacher: Row, task: Mapping[str, Any]) -> Row:
    """A student against its teacher.

    ``test_accuracy`` with ``_low`` and ``_high`` (Wilson, over the ``n_test`` test images), ``test_agreement``,
    ``n_params``, ``macs``, ``train_memory_bytes``; ``difference`` (student minus teacher) with ``_low`` and ``_high``
    (normal interval of paired images, where it is known who was right); ``params_ratio``, ``macs_ratio``,
    ``memory_ratio``: the teacher's over the student's.
    """
    answer, accuracy = {name: getattr(final, name) for name in _MEASURED}, final.test_accuracy
    if accuracy is None:
        return answer
    counts = final.test_counts
    n = counts.get("n") or task.get("n_test") or 0
    low, high = wilson_interval(accuracy, n) if n else (None, None)
    answer |= {"n_test": n or None, "test_accuracy_low": low, "test_accuracy_high": high}
    if teacher.get("test_accuracy") is None:
        return answer
    answer["difference"] = accuracy - teacher["test_accuracy"]
    if counts:
        paired = paired_shares(counts["agreement"]["student"], counts["agreement"]["teacher"], n)
        answer |= interval_columns("difference", paired)
    for name, column in zip(("params_ratio", "macs_ratio", "memory_ratio"), COSTS, strict=True):
        if teacher[column] and answer[column]:
            answer[name] = teacher[column] / answer[column]
    return answer


def judged(about: RunData, counts: Mapping[str, Sequence[Counts]], teacher: Any, trained: bool) -> RunData:
    """``about`` with the teacher, the classes, and the tables ``calibration``, ``confusion`` and ``agreement`` of each
    method's students, summed over its runs.

    Args:
        teacher: What is known of it, if anything is.
        trained: Whether a final student was.
    """
    every = [count for own in counts.values() for count in own if count]
    known = {method: own for method, found in counts.items() if (own := [count for count in found if count])}
    bins, cells, agreement = list[Any](), list[Any](), list[Any]()
    for method, own in known.items():
        for who in ("student", "teacher"):
            bins += [(method, who, *bin) for bin in _bins([count[who]["calibration"] for count in own])]
            matrices = [count[who]["confusion"] for count in own]
            cells += [(method, who, *cell) for cell in _cells(matrices, own[0]["classes"])]
        for case in ("both", "student", "teacher", "same_error", "other_error"):
            agreement.append((method, case, sum(count["agreement"][case] for count in own)))
    tables = {
        "calibration": table("method who bin low high n confidence accuracy", bins),
        "confusion": table("method who true predicted n", cells),
        "agreement": table("method case n", agreement),
    }
    why = "No final student has been trained yet."
    if trained:
        why = "The run is of a version that did not keep what its final students answer on the test images."
    of_classes = "The task has too many classes for a confusion matrix to be kept." if known else why
    missing = {"calibration": why, "agreement": why, "confusion": of_classes}
    classes = tuple(every[0]["classes"]) if every else ()
    return about.having(tables, missing, teacher=_teacher_row(teacher, every), classes=classes)


def _bins(runs: Sequence[Sequence[Counts]]) -> Iterator[tuple[Any, ...]]:
    """Bins of confidence, each the mean over runs, weighted by images."""
    for index, bins in enumerate(zip(*runs, strict=True)):
        n, full = sum(bin["n"] for bin in bins), [bin for bin in bins if bin["n"]]
        means = [sum(bin["n"] * bin[name] for bin in full) / n if n else None for name in ("confidence", "accuracy")]
        yield index, index / len(runs[0]), (index + 1) / len(runs[0]), n, *means


def _cells(runs: Sequence[Sequence[Sequence[int]] | None], classes: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Confusions of the classes, summed over the runs that counted them."""
    matrices = [matrix for matrix in runs if matrix is not None]
    if matrices:
        total = np.sum(matrices, axis=0)
        for true, said in zip(*np.nonzero(total), strict=True):
            yield classes[true], classes[said], total[true, said]
