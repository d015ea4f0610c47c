"""A run folder as plain tables, one for each chart: what the HTML report and the figures for papers both draw.

`read_run` reads the folder of a search, a comparison or a study, whether it is finished, running, stopped, failed or
still empty, and writes nothing. Everything is computed from the records; what is not there is said in
`RunData.missing`. Imports neither torch nor a plotting package.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from naslib_autokd.commands._again import command_of, comparison_code
from naslib_autokd.evaluators.results import FinalResult
from naslib_autokd.records import Trial, TrialStore, objective_value
from naslib_autokd.records import incumbent as observed_incumbent
from naslib_autokd.reports.tables import finite_or_none, mean_curves
from naslib_autokd.runners.finals import best_final, read_finals, student_path
from naslib_autokd.runners.pareto import hypervolume_over_time, objective_table, pareto_front
from naslib_autokd.runners.run_folder import (
    COMPARISON,
    RESULT,
    STATUS,
    STUDY,
    STUDY_RUNS,
    TASK,
    TRAININGS,
    TRIALS,
    read_settings,
    read_task,
    read_yaml,
)
from naslib_autokd.runners.session import read_status
from naslib_autokd.runners.statistics import (
    LEVEL,
    SHARE,
    friedman_test,
    holm,
    mean_interval,
    signed_rank_test,
)

Row = dict[str, Any]
"""A line of a table: column -> number, text, or None where a value is not known."""

TABLES: dict[str, str] = {
    "trials": "Every training of a search, failures too: method, run_seed, number, family (digest), budget_epochs, "
    "status, message, val_accuracy, train_accuracy, teacher_agreement, n_params, macs, depth, train_memory_bytes, "
    "student_epochs (its own), spent_epochs and spent_s (of the run, at its end), seconds, wiring",
    "settings": "Hyperparameters of the trials: method, run_seed, number, family, budget_epochs, val_accuracy, then "
    "one column a hyperparameter (of `hyperparameters`), None where it is inactive",
    "hyperparameters": "name, type ('number' or 'category'), log, low, high, choices",
    "anytime": "Search, comparison: method, seed, student_epochs, trials, seconds, accuracy of the incumbent so far "
    "(validation; of a one-shot method its supernet's, one_shot true); trials and seconds are None for a comparison. "
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

MOST_SHOWN = 10_000
"""Trials that get a row, and a point in a chart, of their own: a page with more is slow to make and to open."""

MOST_ANALYSED = 1000
"""Trials that importance and partial dependence are computed from, at most: drawn from all with a fixed seed."""

LEAST_ANALYSED = 20
"""Trainings below which neither says anything."""


@dataclass(frozen=True)
class RunData:
    """All that a report shows of one run folder."""

    kind: str
    """``search``, ``comparison``, ``study``, ``baselines`` (compare-kd), or ``empty`` (nothing has been recorded
    yet)."""
    folder: Path
    state: str
    """``finished``, ``running``, ``interrupted``, ``failed``, ``stopped`` or ``empty``."""
    problem: str
    """What a reader must know first, in a sentence: that the run is not finished, that jobs failed; empty if all is
    well."""
    task: dict[str, Any]
    """Of ``task.yaml``; empty for a study."""
    settings: dict[str, Any]
    """Of ``run.yaml`` (a study: ``study.yaml``), without the environment."""
    environment: dict[str, str]
    """Versions and hardware at the start of the run."""
    tables: dict[str, list[Row]]
    """By the names of `TABLES`; a name is missing or its list empty where there is nothing."""
    missing: dict[str, str]
    """Table -> why it is empty, in a sentence."""
    answer: dict[str, Any]
    """What was found, see `_search_answer`, `_comparison_answer`, `_study_answer`; empty if nothing was yet."""
    teacher: Row | None = None
    """``test_accuracy``, ``n_params``, ``macs``, ``train_memory_bytes`` (None where not known)."""
    conclusions: tuple[str, ...] = ()
    """Sentences on what the numbers show and what not (comparison, study)."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of the confusion matrix."""
    methods: tuple[str, ...] = ()
    """Labels in the order of the run, the reference first for a comparison; one, the optimizer, for a search."""
    command: str = ""
    """What started the run, as a shell command; of a comparison as lines of Python."""
    export_command: str = ""
    """What writes the best student as a file of its own; empty if there is none yet."""
    students: tuple[dict[str, Any], ...] = field(default=())
    """Kept students, the best one first: ``method``, ``seed``, ``path`` (a .safetensors file), ``candidate`` (None if
    not known)."""

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name or str(self.folder)

    def table(self, name: str) -> list[Row]:
        """The rows of a table; empty if the run has none."""
        return self.tables.get(name, [])


def read_run(folder: str | Path, *, analyse: bool = True) -> RunData:
    """Read a run folder: of a search, a comparison (with its jobs) or a study.

    Args:
        analyse: Compute importance and partial dependence from the trials too: some seconds.

    Raises:
        ValueError: If the folder does not exist or holds no run, or a record cannot be read (names the line).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the folder of a run (--out of search, ablate, a comparison)")
    settings = read_settings(folder)
    if (folder / STUDY).is_file():
        return _read_study(folder, settings)
    if "methods" in settings or (folder / COMPARISON).is_file():
        return _read_comparison(folder, settings, analyse)
    if "baselines" in settings or (folder / TRAININGS).is_file():
        return _read_baselines(folder, settings)
    if settings or any((folder / name).exists() for name in (TRIALS, STATUS, TASK)):
        return _read_search(folder, settings, analyse)
    if any(folder.iterdir()):
        raise ValueError(
            f"{folder} holds no run: neither run.yaml, trials.jsonl nor study.yaml; give the folder that was --out"
        )
    return _empty(folder)


def _empty(folder: Path) -> RunData:
    return RunData(
        kind="empty",
        folder=folder,
        state="empty",
        problem="The folder is empty: nothing has been recorded yet.",
        task={},
        settings={},
        environment={},
        tables={},
        missing={},
        answer={},
    )


# ---- a search ------------------------------------------------------------------------------------------------------


def _read_search(folder: Path, settings: dict[str, Any], analyse: bool) -> RunData:
    task = read_task(folder)
    environment = settings.pop("environment", {})
    store = TrialStore(folder / TRIALS)
    status, trials = read_status(folder, store), list(store)
    shown = _shown(trials)
    finals = _finals(folder)
    result = _json(folder / RESULT)
    label = str(settings.get("optimizer", "search"))
    seed = settings.get("seed")
    tables: dict[str, list[Row]] = {}
    missing: dict[str, str] = {}
    rows = _trial_rows(trials, label, seed)
    tables["trials"] = rows if len(shown) == len(trials) else [rows[index] for index in shown]
    some = [trials[index] for index in shown]
    tables["anytime"] = _anytime_rows(trials, label, seed)
    tables["failures"] = _failure_rows(trials)
    tables["finals"] = _final_rows(finals, label, seed)
    incumbent = _incumbent(trials, result)
    tables["families"] = _family_rows(some, tables["finals"], incumbent)
    _add_settings(tables, missing, [(label, seed, trial) for trial in some], settings.get("space"), analyse)
    objectives = list(settings.get("objectives", ["error"]))
    if len(objectives) > 1:
        tables["front"] = _front_rows(trials, objectives, result, set(map(id, some)))
        tables["hypervolume"] = box_rows(trials, objectives)
    else:
        missing["front"] = "The search minimised the error alone, so there is no Pareto front."
    kept = _kept(finals) if finals else None
    counts = [] if kept is None else [finals[kept].get("test_counts") or {}]
    _add_counts(tables, missing, {label: counts}, bool(finals))
    tables["budget_agreement"] = [
        {"method": label, "run_seed": seed, **pair} for pair in (result.get("agreement") or _budget_pairs(trials))
    ]
    teacher = _teacher(result.get("teacher"), counts)
    answer = _search_answer(task, trials, incumbent, finals, kept, teacher, result, status.student_epochs)
    answer["seconds"] = status.elapsed_s or result.get("search_s")
    unfinished = status.state != "finished" or not finals
    students: tuple[dict[str, Any], ...] = ()
    if kept is not None:
        path = student_path(folder, finals[kept]["index"])
        candidate = None if incumbent is None else incumbent[1]
        students = ({"method": label, "seed": seed, "path": path, "candidate": candidate},)
    _say_missing(tables, missing, trials, finals)
    sampled = ""
    if len(some) < len(trials):
        sampled = (
            f"Single trials are shown for {len(some):,} of {len(trials):,}: each that was the best so far, and an even "
            "sample of the others. The answer, the curve over time and all sums are of all trials."
        )
    return RunData(
        kind="search",
        folder=folder,
        state=_state(status.state, trials, folder),
        problem=f"{_search_problem(status, len(trials), len(finals)) if unfinished else ''} {sampled}".strip(),
        task=task,
        settings=settings,
        environment=environment,
        tables=tables,
        missing=missing,
        answer=answer if trials or finals else {},
        teacher=teacher,
        classes=_classes(counts),
        methods=(label,),
        command=command_of(folder),
        export_command=f"naslib-autokd export {shlex.quote(str(folder))} --format onnx" if students else "",
        students=students,
    )


def _shown(trials: Sequence[Trial]) -> list[int]:
    """Indices of the trials that get a row of their own: all, or of very many the best so far and an even sample."""
    if len(trials) <= MOST_SHOWN:
        return list(range(len(trials)))
    chosen = set(range(0, len(trials), -(-len(trials) // MOST_SHOWN)))
    lowest: dict[int, float] = {}
    for index, trial in enumerate(trials):
        if trial.succeeded and trial.cost < lowest.get(trial.budget_epochs, math.inf):
            lowest[trial.budget_epochs] = trial.cost
            chosen.add(index)
    return sorted(chosen)


def _state(state: str, trials: Sequence[Trial], folder: Path) -> str:
    return "empty" if not trials and not (folder / STATUS).exists() else state


def _search_problem(status: Any, n_trials: int, n_finals: int) -> str:
    if status.state == "finished":
        return "The search is finished, its final students are not trained yet: the same command goes on."
    done = f"{100 * status.fraction:.0f}% of the budget, {n_trials} trial{'s' * (n_trials != 1)}"
    if status.state == "running":
        return f"The search is still running ({done}): what follows is the state at the time of this report."
    said = f" ({' '.join(status.message.split())})" if status.message else ""
    if status.finals_of and n_finals < status.finals_of:
        word = {"failed": "ended with an error", "interrupted": "was interrupted"}.get(status.state, "was stopped")
        return f"It {word}{said} after {n_finals} of {status.finals_of} final students: the same command continues it."
    if not n_trials:
        return f"No trial has finished yet{said}: there is nothing to show but the settings."
    word = {"failed": "ended with an error", "interrupted": "was interrupted"}.get(status.state, "was stopped")
    last = "" if not n_finals else " Its final students are those of an earlier session."
    return f"The search {word}{said} after {done}: the same command continues it.{last}"


def _trial_rows(trials: Sequence[Trial], method: str, run_seed: Any) -> list[Row]:
    rows, epochs, seconds = [], 0.0, 0.0
    for trial in trials:
        epochs += trial.student_epochs
        seconds += trial.total_s
        rows.append(
            {
                "method": method,
                "run_seed": run_seed,
                "number": trial.number,
                "family": trial.candidate_digest,
                "budget_epochs": trial.budget_epochs,
                "status": trial.status,
                "message": trial.message,
                "val_accuracy": trial.val_accuracy,
                "train_accuracy": trial.train_accuracy,
                "teacher_agreement": trial.teacher_agreement,
                "n_params": trial.n_params,
                "macs": trial.macs,
                "depth": trial.depth,
                "train_memory_bytes": trial.train_memory_bytes,
                "student_epochs": trial.student_epochs,
                "spent_epochs": epochs,
                "spent_s": seconds,
                "seconds": trial.total_s,
                "wiring": trial.wiring,
            }
        )
    return rows


def _anytime_rows(trials: Sequence[Trial], method: str, seed: Any) -> list[Row]:
    """The observed incumbent each time it changed, and at the end."""
    rows: list[Row] = []
    store = TrialStore()
    seconds, before = 0.0, None

    def add(best: Trial, n: int) -> None:
        rows.append(
            {
                "method": method,
                "seed": seed,
                "student_epochs": store.student_epochs,
                "trials": n,
                "seconds": seconds,
                "accuracy": best.val_accuracy,
                "family": best.candidate_digest,
                "one_shot": False,
            }
        )

    for n, trial in enumerate(trials, start=1):
        store.append(trial)
        seconds += trial.total_s
        best = store.incumbent()
        if best is not None and best is not before:
            add(best, n)
            before = best
    if before is not None and rows[-1]["trials"] != len(trials):
        add(before, len(trials))
    return rows


def _failure_rows(trials: Iterable[Trial]) -> list[Row]:
    counts = Counter((trial.status, trial.message) for trial in trials if not trial.succeeded)
    return [{"status": status, "message": message, "n": n} for (status, message), n in counts.most_common()]


_FINAL_COLUMNS = ("status", "val_accuracy", "test_accuracy", "test_agreement", "n_params", "macs")


def _final_rows(finals: Sequence[Mapping[str, Any]], method: str, seed: Any) -> list[Row]:
    kept = _kept(finals) if finals else None
    rows: list[Row] = []
    for position, final in enumerate(finals):
        values = {name: final.get(name) for name in (*_FINAL_COLUMNS, "train_memory_bytes", "seconds")}
        rows.append({"method": method, "seed": seed, "index": final["index"], "kept": position == kept, **values})
    return rows


def _finals(folder: Path) -> list[dict[str, Any]]:
    """The final students' results, by ``index``."""
    return [{**record.result.to_dict(), "index": record.index} for record in read_finals(folder)]


def _kept(finals: Sequence[Mapping[str, Any]]) -> int:
    """Place of the student that the run keeps."""
    return best_final([FinalResult.from_dict({k: v for k, v in final.items() if k != "index"}) for final in finals])


def _incumbent(trials: Sequence[Trial], result: Mapping[str, Any]) -> tuple[str, dict[str, Any], str] | None:
    """Digest and values of the family that the run favours, and by what: the optimizer's evidence or observed."""
    if "candidate_digest" in result:
        return result["candidate_digest"], result["candidate"], "evidence"
    best = observed_incumbent(trials)
    return None if best is None else (best.candidate_digest, best.candidate, "observed")


def _full(trials: Iterable[Trial]) -> list[Trial]:
    """Successful trials at the largest budget."""
    found = [trial for trial in trials if trial.succeeded]
    largest = max((trial.budget_epochs for trial in found), default=0)
    return [trial for trial in found if trial.budget_epochs == largest]


N_FAMILIES = 4
"""Families other than the incumbent's that get a violin of their own: those that were trained most often."""


def _family_rows(
    trials: Sequence[Trial], finals: Sequence[Row], incumbent: tuple[str, dict[str, Any], str] | None
) -> list[Row]:
    by_family: dict[str, list[Trial]] = defaultdict(list)
    for trial in _full(trials):
        by_family[trial.candidate_digest].append(trial)
    rows: list[Row] = []
    own = "" if incumbent is None else incumbent[0]
    for final in finals:
        if final["status"] == "success":
            rows.append(
                {
                    "group": "incumbent family",
                    "family": own,
                    "accuracy": final["val_accuracy"],
                    "source": "final student",
                }
            )
    others = sorted((digest for digest in by_family if digest != own), key=lambda digest: -len(by_family[digest]))
    named = [digest for digest in others[:N_FAMILIES] if len(by_family[digest]) > 1]
    for digest, members in by_family.items():
        group = "incumbent family" if digest == own else f"family {digest}" if digest in named else "all other families"
        rows += [
            {"group": group, "family": digest, "accuracy": trial.val_accuracy, "source": "trial"} for trial in members
        ]
    order = ["incumbent family", *(f"family {digest}" for digest in named), "all other families"]
    return sorted(rows, key=lambda row: order.index(row["group"]))


def _front_rows(
    trials: Sequence[Trial], objectives: Sequence[str], result: Mapping[str, Any], shown: Container[int]
) -> list[Row]:
    """The front is of all trials; rows besides are of those whose ``id`` is ``shown``."""
    full = [trial for trial in _full(trials) if all(objective_value(trial, name) is not None for name in objectives)]
    values = np.array([[objective_value(trial, name) for name in objectives] for trial in full], dtype=float)
    observed = {int(i) for i in pareto_front(values)} if len(full) else set()
    rows: list[Row] = [
        {
            "family": trial.candidate_digest,
            "on_front": index in observed and not result.get("front"),
            "expected": False,
            **dict(zip(objectives, values[index].tolist(), strict=True)),
        }
        for index, trial in enumerate(full)
        if index in observed or id(trial) in shown
    ]
    for family in result.get("front") or []:
        rows.append({"family": family["candidate_digest"], "on_front": True, "expected": True, **family["objectives"]})
    return rows


def box_rows(trials: Sequence[Trial], names: Sequence[str]) -> list[Row]:
    """The table ``hypervolume``, in the box of all full trainings; empty if it has no volume."""
    values, _ = objective_table(trials, names)
    if len(values) == 0 or not np.all(values.max(axis=0) > values.min(axis=0)):
        return []
    found = hypervolume_over_time(trials, names, values.min(axis=0), values.max(axis=0))
    return [{"student_epochs": x, "share_of_the_box_of_all_full_trainings": y} for x, y in found]


def _budget_pairs(trials: Sequence[Trial]) -> list[Row]:
    """Rank agreement of budgets over families that succeeded at both, of each family's last trial there."""
    costs: dict[int, dict[str, float]] = defaultdict(dict)
    for trial in trials:
        if trial.succeeded:
            costs[trial.budget_epochs][trial.candidate_digest] = trial.cost
    budgets = sorted(costs)
    rows: list[Row] = []
    for i, low in enumerate(budgets):
        for high in budgets[i + 1 :]:
            both = sorted(set(costs[low]) & set(costs[high]))
            tau = None
            if len(both) >= 3:
                found = float(stats.kendalltau([costs[low][d] for d in both], [costs[high][d] for d in both]).statistic)
                tau = None if math.isnan(found) else found
            if both:
                rows.append({"low": low, "high": high, "n": len(both), "kendall_tau": tau})
    return rows


def _teacher(row: Mapping[str, Any] | None, counts: Sequence[Mapping[str, Any]]) -> Row | None:
    """The teacher's numbers; of an unfinished run its accuracy alone, from what was counted beside a student."""
    names = ("test_accuracy", "n_params", "macs", "train_memory_bytes")
    if row:
        return {name: row.get(name) for name in names}
    for count in counts:
        if count:
            right = count["agreement"]["both"] + count["agreement"]["teacher"]
            return {**dict.fromkeys(names), "test_accuracy": right / count["n"]}
    return None


def wilson(accuracy: float, n: int) -> tuple[float, float]:
    """95% interval of an accuracy measured on n images (Wilson 1927)."""
    found = stats.binomtest(round(accuracy * n), n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def _search_answer(
    task: Mapping[str, Any],
    trials: Sequence[Trial],
    incumbent: tuple[str, dict[str, Any], str] | None,
    finals: Sequence[Mapping[str, Any]],
    kept: int | None,
    teacher: Row | None,
    result: Mapping[str, Any],
    student_epochs: float,
) -> dict[str, Any]:
    """``n_trials``, ``n_failures``, ``student_epochs``; once there is one: the incumbent's ``family``, ``candidate``,
    ``chosen_by``, ``val_accuracy`` (best observed full training), ``expected_cost``; once it is trained: ``student``
    (the kept one, see `_student_answer`), ``family_accuracy`` with its ``_low``, ``_high`` and ``_n`` (test, over the
    final students).
    """
    answer: dict[str, Any] = {
        "n_trials": len(trials),
        "n_failures": sum(not trial.succeeded for trial in trials),
        "student_epochs": student_epochs,
        "stop_reason": result.get("stop_reason", ""),
    }
    if incumbent is not None:
        digest, candidate, chosen_by = incumbent
        own = [trial.val_accuracy for trial in _full(trials) if trial.candidate_digest == digest]
        answer |= {
            "family": digest,
            "candidate": candidate,
            "chosen_by": chosen_by,
            "val_accuracy": max((value for value in own if value is not None), default=None),
            "expected_cost": result.get("expected_cost"),
        }
    tested = [final["test_accuracy"] for final in finals if final.get("test_accuracy") is not None]
    if tested:
        interval = mean_interval(tested, bounds=SHARE)
        answer |= {
            "family_accuracy": interval.mean,
            "family_accuracy_low": interval.low,
            "family_accuracy_high": interval.high,
            "family_accuracy_n": interval.n,
        }
    if kept is not None:
        answer["student"] = _student_answer(finals[kept], teacher, task)
    return answer


def _student_answer(final: Mapping[str, Any], teacher: Row | None, task: Mapping[str, Any]) -> dict[str, Any]:
    """A student against its teacher.

    ``test_accuracy`` with ``_low`` and ``_high`` (Wilson, over the ``n_test`` test images), ``test_agreement``,
    ``n_params``, ``macs``, ``train_memory_bytes``; ``difference`` (student minus teacher) with ``_low`` and ``_high``
    (normal interval of paired images, where it is known who was right); ``params_ratio``, ``macs_ratio``,
    ``memory_ratio``: the teacher's over the student's.
    """
    counts = final.get("test_counts") or {}
    n = counts.get("n") or task.get("n_test") or 0
    answer = {name: final.get(name) for name in (*_FINAL_COLUMNS, "train_memory_bytes")}
    accuracy = final.get("test_accuracy")
    if accuracy is None:
        return answer
    low, high = wilson(accuracy, n) if n else (None, None)
    answer |= {"n_test": n or None, "test_accuracy_low": low, "test_accuracy_high": high}
    if teacher is None or teacher["test_accuracy"] is None:
        return answer
    answer["difference"] = accuracy - teacher["test_accuracy"]
    if counts:
        gained, lost = counts["agreement"]["student"], counts["agreement"]["teacher"]
        half = 1.96 * math.sqrt(max(0.0, gained + lost - (gained - lost) ** 2 / n)) / n
        answer |= {
            "difference": (gained - lost) / n,
            "difference_low": (gained - lost) / n - half,
            "difference_high": (gained - lost) / n + half,
        }
    for name, column in (("params", "n_params"), ("macs", "macs"), ("memory", "train_memory_bytes")):
        if teacher[column] and final.get(column):
            answer[f"{name}_ratio"] = teacher[column] / final[column]
    return answer


def _add_counts(
    tables: dict[str, list[Row]],
    missing: dict[str, str],
    counts: Mapping[str, Sequence[Mapping[str, Any]]],
    trained: bool,
) -> None:
    """Calibration, confusion and agreement of each method's kept students, summed over its runs."""
    for name in ("calibration", "confusion", "agreement"):
        tables[name] = []
    for method, found in counts.items():
        known = [entry for entry in found if entry]
        if not known:
            continue
        for who in ("student", "teacher"):
            bins = [entry[who]["calibration"] for entry in known]
            for index in range(len(bins[0])):
                own = [one[index] for one in bins if one[index]["n"]]
                n = sum(one["n"] for one in own)
                means = {
                    name: sum(one["n"] * one[name] for one in own) / n if n else None
                    for name in ("confidence", "accuracy")
                }
                edges = {"low": index / len(bins[0]), "high": (index + 1) / len(bins[0])}
                tables["calibration"].append({"method": method, "who": who, "bin": index, **edges, "n": n, **means})
            matrices = [np.array(entry[who]["confusion"]) for entry in known if entry[who]["confusion"] is not None]
            if matrices:
                classes = known[0]["classes"]
                total = np.sum(matrices, axis=0)
                tables["confusion"] += [
                    {"method": method, "who": who, "true": classes[i], "predicted": classes[j], "n": int(total[i, j])}
                    for i, j in zip(*np.nonzero(total), strict=True)
                ]
        for case in ("both", "student", "teacher", "same_error", "other_error"):
            n = sum(entry["agreement"][case] for entry in known)
            tables["agreement"].append({"method": method, "case": case, "n": n})
    if not tables["agreement"]:
        why = (
            "The run is of a version that did not keep what its final students answer on the test images."
            if trained
            else "No final student has been trained yet."
        )
        missing |= dict.fromkeys(("calibration", "confusion", "agreement"), why)
    elif not tables["confusion"]:
        missing["confusion"] = "The task has too many classes for a confusion matrix to be kept."


def _classes(counts: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return next((tuple(entry["classes"]) for entry in counts if entry), ())


def _add_settings(
    tables: dict[str, list[Row]],
    missing: dict[str, str],
    trials: Sequence[tuple[str, Any, Trial]],
    space: Any,
    analyse: bool,
) -> None:
    """What was searched: settings, hyperparameters and, by a model of the trials, importance and dependence."""
    from naslib_autokd.reports.trial_model import SearchedSettings, analysis

    searched = SearchedSettings.of([trial for _, _, trial in trials], space)
    tables["hyperparameters"] = searched.hyperparameters
    tables["settings"] = [
        {
            "method": method,
            "run_seed": seed,
            "number": trial.number,
            "family": trial.candidate_digest,
            "budget_epochs": trial.budget_epochs,
            "val_accuracy": trial.val_accuracy,
            **values,
        }
        for (method, seed, trial), values in zip(trials, searched.values, strict=True)
    ]
    tables["importance"], tables["dependence"] = [], []
    if not analyse:
        return
    plain = [trial for _, _, trial in trials]
    rows, costs, of = _analysed(plain)
    if len(rows) < LEAST_ANALYSED:
        why = f"It takes at least {LEAST_ANALYSED} successful trainings to say what matters; there are {len(rows)}."
        missing |= {"importance": why, "dependence": why}
        return
    try:
        importance, dependence = analysis(searched, rows, costs)
    except ValueError as error:
        missing |= dict.fromkeys(("importance", "dependence"), f"Nothing can be said of what matters: {error}.")
        return
    importance = [{**row, "trials": of} for row in importance]
    tables["importance"], tables["dependence"] = importance, dependence


def _analysed(trials: Sequence[Trial]) -> tuple[list[int], list[float], str]:
    """Places and costs of the trials that importance is computed from, and what they are.

    The full trainings; of too few those at lower budgets, too, each cost moved by the difference of the mean costs of
    full trainings and of its budget, so that a budget is no cause.
    """
    full = {id(trial) for trial in _full(trials)}
    rows, of = [index for index, trial in enumerate(trials) if id(trial) in full], "full trainings"
    moved: dict[int, float] = defaultdict(float)
    succeeded = [index for index, trial in enumerate(trials) if trial.succeeded]
    if 0 < len(rows) < LEAST_ANALYSED <= len(succeeded):
        by_budget: dict[int, list[float]] = defaultdict(list)
        for index in succeeded:
            by_budget[trials[index].budget_epochs].append(trials[index].cost)
        means = {budget: sum(costs) / len(costs) for budget, costs in by_budget.items()}
        moved |= {budget: means[max(means)] - mean for budget, mean in means.items()}
        rows, of = succeeded, "trainings at all budgets (each error relative to the mean of its budget)"
    if len(rows) > MOST_ANALYSED:
        rows = sorted(np.random.default_rng(0).choice(rows, MOST_ANALYSED, replace=False).tolist())
    return rows, [trials[index].cost + moved[trials[index].budget_epochs] for index in rows], of


def _say_missing(
    tables: Mapping[str, list[Row]], missing: dict[str, str], trials: Sequence[Any], finals: Sequence[Any]
) -> None:
    """A reason for each table of a search that is empty and has none yet."""
    no_trials = "No trial has finished yet."
    failed = "No trial has succeeded yet."
    for name in ("trials", "anytime", "families", "settings", "hyperparameters"):
        if not tables.get(name):
            missing.setdefault(name, failed if trials else no_trials)
    if not finals:
        missing.setdefault("finals", "No final student has been trained yet.")
    if not tables.get("budget_agreement"):
        missing.setdefault("budget_agreement", "No family has been trained with two budgets.")
    if not tables.get("failures"):
        missing.setdefault("failures", "No trial failed.")


# ---- a comparison --------------------------------------------------------------------------------------------------


def _read_comparison(folder: Path, settings: dict[str, Any], analyse: bool) -> RunData:
    from naslib_autokd.reports.comparison import what_it_shows
    from naslib_autokd.runners.comparison import Comparison, JobResult, Method, method_rows

    task = read_task(folder)
    environment = settings.pop("environment", {})
    stored = _json(folder / COMPARISON)
    methods = [Method(**method) for method in settings.get("methods", [])]
    labels = {method.slug: method.label for method in methods}
    jobs: list[JobResult] = []
    failures: list[Row] = []
    unfinished: list[str] = []
    all_trials: list[tuple[str, Any, Trial]] = []
    tables: dict[str, list[Row]] = {"trials": [], "finals": [], "anytime": []}
    missing: dict[str, str] = {}
    counts: dict[str, list[Mapping[str, Any]]] = {method.label: [] for method in methods}
    students: list[dict[str, Any]] = []
    space: Any = None
    running = False
    for path in sorted(
        folder.glob("*/seed-*"),
        key=lambda path: (
            list(labels).index(path.parent.name) if path.parent.name in labels else len(labels),
            int(path.name[5:]),
        ),
    ):
        label, seed = labels.get(path.parent.name, path.parent.name), int(path.name.removeprefix("seed-"))
        trials = list(TrialStore(path / TRIALS))
        all_trials += [(label, seed, trial) for trial in trials]
        tables["trials"] += _trial_rows(trials, label, seed)
        space = read_settings(path).get("space", space)
        finals = _finals(path)
        rows = _final_rows(finals, label, seed)
        tables["finals"] += rows
        result = _json(path / RESULT)
        if not result:
            if (path / STATUS).exists() and read_status(path).state == "running":
                running = True
            error = path / "error.txt"
            if error.is_file() and (text := error.read_text(encoding="utf-8").strip()):
                failures.append({"method": label, "seed": seed, "message": text.split("\n")[-1]})
            else:
                unfinished.append(f"{label}, seed {seed}")
            tables["anytime"] += [
                {**row, "trials": None, "seconds": None} for row in _anytime_rows(trials, label, seed)
            ]
            continue
        job = JobResult.from_dict(result)
        jobs.append(job)
        kept = _kept(finals) if finals else None
        if kept is not None:
            counts.setdefault(label, []).append(finals[kept].get("test_counts") or {})
            students.append(
                {
                    "method": label,
                    "seed": seed,
                    "path": student_path(path, finals[kept]["index"]),
                    "candidate": job.details.get("candidate"),
                    "folder": path,
                    "val_accuracy": max(job.val_accuracies),
                    "one_shot": job.one_shot,
                }
            )
        tables["anytime"] += [
            {
                "method": label,
                "seed": seed,
                "student_epochs": x,
                "trials": None,
                "seconds": None,
                "accuracy": y,
                "family": None,
                "one_shot": job.one_shot,
            }
            for x, y in job.curve
        ]
    known = {(row["method"], row["seed"]) for row in failures}
    failures += [
        {"method": method, "seed": seed, "message": message}
        for method, seed, message in stored.get("failures", [])
        if (method, seed) not in known and all((job.method, job.seed) != (method, seed) for job in jobs)
    ]
    seeds = sorted({job.seed for job in jobs})
    order = {method.label: index for index, method in enumerate(methods)}
    jobs.sort(key=lambda job: (job.seed, order.get(job.method, len(order))))
    trained = [method for method in methods if any(job.method == method.label for job in jobs)]
    rows_of = method_rows(jobs, methods) if trained else []
    all_counts = [entry for found in counts.values() for entry in found]
    teacher = _teacher(stored.get("teacher"), all_counts)
    comparison = Comparison(
        task=str(task.get("name", "")),
        seeds=tuple(seeds),
        budget=float(settings.get("budget", 0.0)),
        jobs=tuple(jobs),
        failures=tuple((row["method"], row["seed"], row["message"]) for row in failures),
        teacher=teacher or {},
        rows=tuple(rows_of),
        wall_s=float(stored.get("wall_s", 0.0)),
    )
    tables["anytime_mean"] = mean_curves(jobs)
    tables["methods"] = [_method_row(row) for row in rows_of]
    tables["tests"], tables["ranks"] = _comparison_tests(rows_of, jobs)
    tables["failures"] = [*failures, *_failure_rows(trial for _, _, trial in all_trials)]
    tables["families"] = [
        {"group": row["method"], "family": "", "accuracy": row["test_accuracy"], "source": "final student (test)"}
        for row in tables["finals"]
        if row["test_accuracy"] is not None and row["status"] == "success"
    ]
    _add_settings(tables, missing, all_trials, space, analyse)
    _add_counts(tables, missing, counts, bool(tables["finals"]))
    tables["budget_agreement"] = [
        {"method": job.method, "run_seed": job.seed, **pair}
        for job in jobs
        for pair in job.details.get("agreement", [])
    ]
    missing["front"] = "A comparison's searches minimise the error alone, so there is no Pareto front."
    missing["ranks"] = RANKS_MISSING
    _say_missing(tables, missing, all_trials, tables["finals"])
    best = _best_student(students)
    answer: dict[str, Any] = {}
    if rows_of:
        answer = {
            "reference": rows_of[0].label,
            "seeds": seeds,
            "budget": comparison.budget,
            "n_jobs": len(jobs),
            "wall_s": stored.get("wall_s"),
        }
        if best is not None:
            finals = _finals(best["folder"])
            answer["student"] = _student_answer(finals[_kept(finals)], teacher, task)
            answer["student_method"], answer["student_seed"] = best["method"], best["seed"]
    export_command = ""
    if best is not None and not best["one_shot"]:
        export_command = f"naslib-autokd export {shlex.quote(str(best['folder']))} --format onnx"
    return RunData(
        kind="comparison",
        folder=folder,
        state="finished" if stored and not unfinished else "running" if running else "stopped" if jobs else "empty",
        problem=_comparison_problem(bool(stored), running, unfinished, failures, len(jobs)),
        task=task,
        settings=settings,
        environment=environment,
        tables=tables,
        missing=missing,
        answer=answer,
        teacher=teacher,
        conclusions=tuple(what_it_shows(comparison)) if rows_of else (),
        classes=_classes(all_counts),
        methods=tuple(method.label for method in methods),
        command=comparison_code(folder, settings, task, seeds),
        export_command=export_command,
        students=tuple(sorted(students, key=lambda student: student is not best)),
    )


def _best_student(students: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Of all methods' kept students the best by validation, whoever found it."""
    return max(students, key=lambda student: student["val_accuracy"], default=None)


def _comparison_problem(
    written: bool, running: bool, unfinished: Sequence[str], failures: Sequence[Row], n_jobs: int
) -> str:
    parts = []
    if not written or unfinished:
        waiting = f", begun and not finished: {'; '.join(unfinished)}" if unfinished else ""
        word = "is still running" if running else "is not finished"
        parts.append(f"The comparison {word} ({n_jobs} jobs are{waiting}): the same command continues it.")
    if failures:
        names = "; ".join(f"{row['method']}, seed {row['seed']}" for row in failures)
        parts.append(f"{len(failures)} job{'s' * (len(failures) > 1)} failed: {names}.")
    return " ".join(parts)


def _method_row(row: Any) -> Row:
    def interval(name: str, found: Any) -> Row:
        return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}

    costs = ("teacher_agreement", "n_params", "macs", "train_memory_bytes", "search_cpu_s", "student_epochs")
    return {
        "method": row.label,
        "n": row.test_accuracy.n,
        **interval("test_accuracy", row.test_accuracy),
        **interval("mean_test_accuracy", row.mean_test_accuracy),
        **{name: getattr(row, name) for name in (*costs, "n_students")},
    }


def _comparison_tests(rows: Sequence[Any], jobs: Sequence[Any]) -> tuple[list[Row], list[Row]]:
    errors: dict[str, dict[int, float]] = defaultdict(dict)
    for job in jobs:
        errors[job.method][job.seed] = 1 - sum(job.test_accuracies) / len(job.test_accuracies)
    if len(rows) < 2:
        return [], []
    reference = rows[0].label
    tests: list[Row] = []
    for row in rows[1:]:
        shared = sorted(set(errors[row.label]) & set(errors[reference]))
        if row.difference is None or not shared:
            continue
        found = row.difference
        rank = signed_rank_test([errors[row.label][s] for s in shared], [errors[reference][s] for s in shared])
        tests.append(
            {
                "method": row.label,
                "n": len(shared),
                "difference": found.difference.mean,
                "low": found.difference.low,
                "high": found.difference.high,
                "p_value": found.p_value,
                "p_wilcoxon": rank.p_value if len(shared) > 1 else None,
                "share_better": rank.share_better,
            }
        )
    known = [row for row in tests if row["p_wilcoxon"] is not None]
    for row, adjusted in zip(known, holm([row["p_wilcoxon"] for row in known]), strict=True):
        row["p_holm"] = float(adjusted)
    common = sorted(set.intersection(*(set(errors[row.label]) for row in rows)))
    ranks: list[Row] = []
    if len(common) > 1:
        friedman = friedman_test([[errors[row.label][seed] for seed in common] for row in rows])
        if friedman.smallest_p_value <= LEVEL:
            ranks = _rank_rows([row.label for row in rows], friedman)
    return tests, ranks


RANKS_MISSING = (
    "Ranks need two methods, and so many seeds that these could show a difference by agreeing (Friedman's test)."
)


def _rank_rows(labels: Sequence[str], friedman: Any) -> list[Row]:
    return [
        {
            "method": label,
            "average_rank": float(rank),
            "critical_difference": friedman.critical_difference,
            "p_value": friedman.p_value,
            "n": friedman.n,
        }
        for label, rank in zip(labels, friedman.average_ranks, strict=True)
    ]


# ---- students with the losses of the literature (compare-kd) -------------------------------------------------------


def _read_baselines(folder: Path, settings: dict[str, Any]) -> RunData:
    from naslib_autokd.commands.compare_kd import conclusions
    from naslib_autokd.runners.baselines import BaselineComparison, make_rows, read_trainings

    task = read_task(folder)
    environment = settings.pop("environment", {})
    stored = _json(folder / "summary.json")
    trainings = read_trainings(folder / TRAININGS)
    found = make_rows(trainings)
    labels = {(row.student, row.loss): f"{row.student}, {row.short_title}" for row in found}
    failures = [tuple(failure) for failure in stored.get("failures", [])]
    tables: dict[str, list[Row]] = {
        "finals": [
            {
                **_final_rows([{**training.result.to_dict(), "index": 0}], labels[training.job[:2]], training.seed)[0],
                "kept": False,
            }
            for training in trainings
        ],
        "methods": [_baseline_row(labels[row.student, row.loss], row) for row in found],
        "tests": [
            {"method": labels[row.student, row.loss], **_paired(row.gain)} for row in found if row.gain is not None
        ],
        "failures": [{"method": f"{s}, {loss}", "seed": seed, "message": error} for s, loss, seed, error in failures],
    }
    known = [row for row in tables["tests"] if row["p_value"] is not None]
    for row, adjusted in zip(known, holm([row["p_value"] for row in known]), strict=True):
        row["p_holm"] = float(adjusted)
    missing = {"finals": "No training has finished yet."}
    counts: dict[str, list[Mapping[str, Any]]] = {label: [] for label in labels.values()}
    for training in trainings:
        counts[labels[training.job[:2]]].append(training.result.test_counts or {})
    _add_counts(tables, missing, counts, bool(trainings))
    every = [entry for own in counts.values() for entry in own]
    seeds = tuple(sorted({training.seed for training in trainings}))
    teacher = _teacher(stored.get("teacher"), every)
    answer: dict[str, Any] = {}
    said: tuple[str, ...] = ()
    if trainings:
        best = max(found, key=lambda row: row.val_accuracy.mean)
        answer = {"best": labels[best.student, best.loss], "seeds": list(seeds), "n_jobs": len(trainings)}
        about = stored.get("teacher")
        numbers = BaselineComparison(
            task=str(task.get("name", "")),
            seeds=seeds,
            epochs=int(task.get("max_budget_epochs", 0)),
            kd_weight=float((settings.get("baselines") or {}).get("kd_weight", 0.0)),
            teacher=FinalResult.from_dict(about) if about else trainings[0].result,  # in no conclusion
            rows=tuple(found),
            trainings=tuple(trainings),
            failures=tuple((str(s), str(loss), int(seed), str(error)) for s, loss, seed, error in failures),
        )
        said = tuple(conclusions(numbers))
    problem = ""
    if not stored:
        n = len(trainings)
        problem = (
            f"The comparison is not finished ({n} training{'s' * (n != 1)} so far): the same command continues it."
        )
    elif failures:
        problem = f"{len(failures)} training{'s' * (len(failures) > 1)} failed: the same command tries them again."
    return RunData(
        kind="baselines",
        folder=folder,
        state="finished" if stored and not failures else "stopped" if trainings else "empty",
        problem=problem,
        task=task,
        settings=settings,
        environment=environment,
        tables=tables,
        missing=missing,
        answer=answer,
        teacher=teacher,
        conclusions=said,
        classes=_classes(every),
        methods=tuple(labels.values()),
        command=command_of(folder),
    )


def _baseline_row(label: str, row: Any) -> Row:
    names = ("n_params", "macs", "train_memory_bytes", "test_agreement", "seconds")
    ends = {"test_accuracy": row.test_accuracy, "val_accuracy": row.val_accuracy}
    intervals = {
        f"{k}{end}": value for k, v in ends.items() for end, value in (("", v.mean), ("_low", v.low), ("_high", v.high))
    }
    return {"method": label, "n": row.test_accuracy.n, **intervals, **{name: getattr(row, name) for name in names}}


def _paired(found: Any) -> Row:
    ends = found.difference
    return {"n": ends.n, "difference": ends.mean, "low": ends.low, "high": ends.high, "p_value": found.p_value}


# ---- a study -------------------------------------------------------------------------------------------------------


def _read_study(folder: Path, about: dict[str, Any]) -> RunData:
    from naslib_autokd.reports.ablation import anytime_curves, conclusions, rank_curves, summary
    from naslib_autokd.runners.ablation import JobFailure, StudyResult, read_runs
    from naslib_autokd.runners.study import Study

    settings = read_yaml(folder / STUDY)
    study = Study.from_dict(settings)
    path = folder / STUDY_RUNS
    found = read_runs(path) if path.is_file() else {}
    lines = _json_lines(path)
    failed = {
        (line["method"], line["seed"]): line["error"]
        for line in lines
        if "error" in line and (line["method"], line["seed"]) not in found
    }
    labels = [method.label for method in study.methods]
    begun = [label for label in labels if any(label == method for method, _ in (*found, *failed))]
    n_jobs = len(begun) * study.seeds
    tables: dict[str, list[Row]] = {
        "failures": [{"method": m, "seed": s, "message": text} for (m, s), text in failed.items()]
    }
    missing: dict[str, str] = {}
    answer: dict[str, Any] = {"question": study.question, "n_runs": len(found), "seeds": study.seeds}
    said: tuple[str, ...] = ()
    if found:
        order = [(label, seed) for label in labels for seed in range(study.seeds)]
        result = StudyResult(
            study=study.only([label for label in labels if any(label == method for method, _ in found)]),
            best_test_error=float(about["benchmark"]["best_test_error"]),
            runs=tuple(found[key] for key in order if key in found),
            failures=tuple(JobFailure(m, s, text) for (m, s), text in failed.items()),
            **{name: about[name] for name in ("noise_sd", "noise") if name in about},
        )
        numbers = summary(result)
        said = tuple(conclusions(numbers))
        answer |= {"reference": numbers.reference, "benchmark": numbers.benchmark}
        answer["best_test_error"] = numbers.best_test_error
        tables["methods"] = [_study_row(method) for method in numbers.methods]
        tables["tests"] = [_study_test(method) for method in numbers.methods if method.test is not None]
        tables["ranks"] = _rank_rows([m.label for m in numbers.methods], numbers.friedman) if numbers.friedman else []
        for name, axis in (("anytime", "student_epochs"), ("anytime_trials", "trials")):
            tables[name] = [
                {
                    "method": label,
                    axis: float(curve.grid[k]),
                    "regret": float(curve.band.centre[k]),
                    "low": finite_or_none(curve.band.low[k]),
                    "high": finite_or_none(curve.band.high[k]),
                    "median": finite_or_none(curve.median[k]),
                }
                for label, curve in anytime_curves(result, axis).items()  # type: ignore[arg-type]
                for k in range(len(curve.grid))
                if not math.isnan(curve.band.centre[k])
            ]
        grid, ranks, _ = rank_curves(result)
        tables["ranks_over_time"] = [
            {"method": label, "student_epochs": float(x), "average_rank": float(y)}
            for label, values in ranks.items()
            for x, y in zip(grid, values, strict=True)
            if not math.isnan(y)
        ]
        tables["finals"] = [
            {
                "method": run.method,
                "seed": run.seed,
                "regret": finite_or_none(run.test_error[-1] - result.best_test_error),
                "test_error": finite_or_none(run.test_error[-1]),
                "n_trials": run.n_trials,
                "cpu_s": run.cpu_s,
            }
            for run in result.runs
        ]
    missing["ranks"] = RANKS_MISSING
    problem = "" if begun else "No run of the study has finished yet."
    if len(found) < n_jobs:
        problem = f"{len(found)} of {n_jobs} runs of the study are there: the same command adds the others."
        if failed:
            problem += f" {len(failed)} failed."
    if begun and (absent := [label for label in labels if label not in begun]):
        problem += f" Without any run: {'; '.join(absent)}; ablate without --methods adds those that can be used here."
    return RunData(
        kind="study",
        folder=folder,
        state="finished" if found and len(found) == n_jobs else "stopped" if found else "empty",
        problem=problem.strip(),
        task={},
        settings=settings,
        environment=about.get("environment", {}),
        tables=tables,
        missing=missing,
        answer=answer,
        conclusions=said,
        methods=tuple(labels),
        command=command_of(folder),
    )


def _study_row(method: Any) -> Row:
    return {
        "method": method.label,
        "n": method.n,
        "n_without": method.n_without,
        "regret": finite_or_none(method.regret),
        "regret_low": method.regret_low,
        "regret_high": method.regret_high,
        "median_regret": finite_or_none(method.median_regret),
        "average_rank": method.average_rank,
        "full_trainings": method.full_trainings,
        "n_trials": method.n_trials,
        "cpu_s": method.cpu_s,
        "speed_up_epochs": "" if method.speed_up_epochs is None else method.speed_up_epochs.text(),
        "speed_up_trials": "" if method.speed_up_trials is None else method.speed_up_trials.text(),
    }


def _study_test(method: Any) -> Row:
    test = method.test
    return {
        "method": method.label,
        "n": test.n,
        "difference": finite_or_none(test.shift),
        "low": test.low,
        "high": test.high,
        "p_value": None,
        "p_wilcoxon": test.p_value,
        "p_holm": method.p_holm,
        "share_better": test.share_better,
    }


# ---- files ---------------------------------------------------------------------------------------------------------


def _json(path: Path) -> dict[str, Any]:
    """A file that is written whole; empty if it is not there."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path} is not valid JSON ({reason}); the command that wrote it makes it anew") from error
    return content if isinstance(content, dict) else {}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may still be written."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return lines
