"""What a report shows of a run: tables, their columns, and what was found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from naslib_autokd.runners.statistics import FriedmanTest, Interval, PairedDifference

Row = dict[str, Any]
"""A line of a table: column -> number, text, or None where a value is not known."""
Tables = dict[str, list[Row]]

TABLES: dict[str, str] = {
    "trials": "Every training of a search, failures too: method, run_seed, number, family (digest), budget_epochs, "
    "status, message, val_accuracy, train_accuracy, teacher_agreement, n_params, macs, depth, train_memory_bytes, "
    "student_epochs (its own), spent_epochs and spent_s (of the run, at its end), seconds, wiring",
    "settings": "Hyperparameters of the trials: method, run_seed, number, family, budget_epochs, val_accuracy, then "
    "one column a hyperparameter (of `hyperparameters`), None where it is inactive",
    "hyperparameters": "name, type ('number' or 'category'), log, low, high, choices",
    "anytime": "Search, comparison: method, seed, student_epochs, trials, seconds, accuracy of the incumbent so far "
    "(validation; of a one-shot method its supernet's, one_shot true); trials and seconds only of a search. "
    "Study: method, student_epochs, regret, low, high, median (over its seeds)",
    "anytime_trials": "Study: the same over trials instead of student_epochs",
    "anytime_mean": "Comparison: method, student_epochs, accuracy (mean over seeds), low, high (95% bootstrap)",
    "ranks_over_time": "Study: method, student_epochs, average_rank (1 is best)",
    "finals": "Final students (study: final regret of each run): method, seed (of the run), index, kept, status, "
    "val_accuracy, test_accuracy, test_agreement, n_params, macs, train_memory_bytes, seconds; study: method, seed, "
    "regret, test_error, n_trials, cpu_s",
    "families": "Validation accuracies of full trainings by family, for violins: group, family, accuracy, source "
    "('trial' or 'final student')",
    "importance": "hyperparameter, importance (share of the variance lost on held-out trials when it is shuffled), sd, "
    "r2 (of the forest on held-out trials), n (trials), trials (which they are)",
    "dependence": "Partial dependence of the validation error on each hyperparameter by a forest fitted to the trials: "
    "hyperparameter, value, mean, low, high (10% and 90% of the single curves), log",
    "hypervolume": "With several objectives: student_epochs, share_of_the_box_of_all_full_trainings that is dominated",
    "front": "With several objectives, full trainings: family, on_front, and a column for each objective",
    "calibration": "Of the kept students on test images: method, who ('student', 'teacher'), bin (from 0), low, high, "
    "n, confidence, accuracy (means in the bin)",
    "confusion": "The same: method, who, true, predicted, n (cells without images are left out)",
    "agreement": "The same: method, case ('both', 'student', 'teacher': who is right; 'same_error', 'other_error'), n",
    "budget_agreement": "Rank agreement of two budgets over families trained with both: method, run_seed, low, high, "
    "n, kendall_tau",
    "methods": "Comparison, study, compare-kd: one row a method, see the keys; intervals as NAME, NAME_low, NAME_high",
    "tests": "compare-kd: a loss minus plain KD of the same student, with p_value and p_holm of paired t tests. "
    "Comparison, study: each method against the reference, paired by seed: method, n, difference (comparison: "
    "reference minus method in mean test accuracy; study: regret of the method minus that of the reference, Hodges and "
    "Lehmann's shift), low, high, p_value (comparison: paired t), p_wilcoxon, p_holm, share_better (of the seeds in "
    "which the method is)",
    "ranks": "Comparison, study: method, average_rank, critical_difference (Nemenyi), p_value (Friedman), n",
    "failures": "status, message, n: failed trials (or jobs: method, seed, message) by reason",
}
"""Every table that a run can have, and its columns. Accuracies, errors and regrets are fractions in [0, 1]."""


@dataclass(frozen=True)
class RunData:
    """All that a report shows of one run folder."""

    kind: str
    """``search``, ``comparison``, ``study``, ``baselines`` (compare-kd), or ``empty`` (nothing recorded yet)."""
    folder: Path
    state: str
    """``finished``, ``running``, ``interrupted``, ``failed``, ``stopped`` or ``empty``."""
    problem: str = ""
    """What a reader must know first: that the run is not finished, that jobs failed; empty if all is well."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Of ``task.yaml``; empty for a study."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of ``run.yaml`` (a study: ``study.yaml``), without the environment."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Versions and hardware at the start of the run."""
    tables: Tables = field(default_factory=dict)
    """By the names of `TABLES`; a name is missing or its list empty where there is nothing."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Table -> why it is empty, in a sentence, for those that may be."""
    answer: Mapping[str, Any] = field(default_factory=dict)
    """What was found, as the reader of each kind says; empty if nothing was yet."""
    teacher: Row | None = None
    """``test_accuracy``, ``n_params``, ``macs``, ``train_memory_bytes`` (None where not known)."""
    conclusions: Sequence[str] = ()
    """Sentences on what the numbers show and what not (comparison, study)."""
    classes: Sequence[str] = ()
    """Names of the classes in the order of the confusion matrix."""
    methods: Sequence[str] = ()
    """Labels in the order of the run, the reference first for a comparison; one, the optimizer, for a search."""
    command: str = ""
    """What started the run, as a shell command; of a comparison as lines of Python."""
    export_command: str = ""
    """What writes the best student as a file of its own; empty if there is none yet."""
    students: Sequence[Mapping[str, Any]] = ()
    """Kept students, the best one first: ``path`` (a .safetensors file), ``candidate`` (None if not known)."""

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name or str(self.folder)

    def table(self, name: str) -> list[Row]:
        """The rows of a table; empty if the run has none."""
        return self.tables.get(name, [])


# ---- what several kinds share --------------------------------------------------------------------------------------

RANKS_MISSING = (
    "Ranks need two methods, and so many seeds that these could show a difference by agreeing (Friedman's test)."
)


def table(columns: str, lines: Iterable[Sequence[Any]]) -> list[Row]:
    """Lines as rows; numbers are Python's, and None where they are not finite."""
    names = columns.split()
    return [dict(zip(names, map(_plain, line), strict=True)) for line in lines]


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def interval_columns(name: str, found: Interval) -> Row:
    """NAME, NAME_low and NAME_high."""
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def method_row(label: str, found: Any, columns: str) -> Row:
    """Of the table ``methods``: attributes; of intervals three columns, and ``n`` of the test accuracy's."""
    row: Row = {"method": label, "n": found.test_accuracy.n}
    for name in columns.split():
        value = getattr(found, name)
        row |= interval_columns(name, value) if isinstance(value, Interval) else {name: value}
    return row


def paired_row(method: str, found: PairedDifference, **more: Any) -> Row:
    """Of the table ``tests``."""
    ends = found.difference
    difference = {"n": ends.n, "difference": ends.mean, "low": ends.low, "high": ends.high}
    return {"method": method, **difference, "p_value": found.p_value, **more}


def rank_rows(labels: Sequence[str], found: FriedmanTest | None) -> list[Row]:
    """The table ``ranks``; empty without a test."""
    if found is None:
        return []
    test = (found.critical_difference, found.p_value, found.n)
    lines = ((label, rank, *test) for label, rank in zip(labels, found.average_ranks, strict=True))
    return table("method average_rank critical_difference p_value n", lines)


def plural(n: int, word: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{n} {word}{'s' * (n != 1)}"
