"""The search loop and what follows it: ask, evaluate, record, tell; then the final students of the incumbent family.

A run is a folder: ``task.yaml``, ``run.yaml`` (what was asked for, seed, versions, hardware), ``trials.jsonl``, and
after the search ``finals.jsonl`` and ``students/`` (checkpoints of the final students). Everything shown is computed
from these. Starting again with the same folder continues: stored trials are replayed into the optimizer, which must
propose them again, and nothing that is on disk is trained twice.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from naslib_autokd.evaluators.base import Evaluator
from naslib_autokd.optimizers.base import Optimizer, OptimizerFactory, SearchSpaceLike, get_optimizer, replay
from naslib_autokd.records import CandidateLike, Proposal, Trial, TrialStore, derive_seed, environment
from naslib_autokd.search_spaces import get_search_space
from naslib_autokd.tasks import Task, get_task

if TYPE_CHECKING:
    from naslib_autokd.evaluators.kd import FinalResult, KDEvaluator


class RunFolderError(ValueError):
    """The run folder belongs to another run (task, space, optimizer or seed)."""


class ReplayError(RuntimeError):
    """The optimizer did not propose the stored trials again, so the run cannot be continued."""


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands, after each trial."""

    trial: Trial
    n_trials: int
    student_epochs: float
    fraction: float
    """Share of the budget that is spent, in [0, 1]."""
    best_val_accuracy: float | None
    """Of the observed incumbent."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    candidate: CandidateLike
    """The incumbent family, by the optimizer's evidence (AutoKD: posterior mean at the full budget)."""
    trials: tuple[Trial, ...]
    expected_cost: float
    """Validation error that the evidence expects of the family; the observed one if the optimizer has no model."""
    agreement: tuple[dict[str, Any], ...]
    """Rank agreement of pairs of budgets: ``low``, ``high``, ``n``, ``kendall_tau`` (None below 3 pairs)."""
    student_epochs: float
    search_s: float
    overhead_s: float
    """Seconds of the loop outside the evaluator: ask, tell and records."""


ProgressCallback = Callable[[SearchProgress], None]


def check_space(task: Task, space: SearchSpaceLike) -> None:
    """Let the space check, before any work, whether it can be searched on this task.

    Raises:
        ValueError: If it cannot; HNAG's: if the images are too small or the parameter limit is too low.
    """
    check = getattr(space, "check", None)
    if check is not None:
        check(task)


def search_space(task: Task, space: str | SearchSpaceLike | None = None) -> SearchSpaceLike:
    """The space that a search on ``task`` uses: the one given, by name or as it is, or the task's preset.

    Raises:
        ValueError: If the name is unknown (with the nearest ones).
    """
    found: SearchSpaceLike = get_search_space(task.preset if space is None else space)
    return found


def run_settings(
    optimizer: str,
    space: SearchSpaceLike,
    *,
    seed: int,
    n_trials: int | None,
    student_epochs: float | None,
    options: Mapping[str, Any] | None,
    start_with_default: bool = True,
) -> dict[str, Any]:
    """What ``run.yaml`` says of a search, besides the environment."""
    return {
        "optimizer": optimizer,
        "options": dict(options or {}),
        "space": space.describe() if hasattr(space, "describe") else space.name,
        "seed": seed,
        "start_with_default": start_with_default,
        "n_trials": n_trials,
        "student_epochs": student_epochs,
    }


def check_run(out: str | Path, task: Task, settings: Mapping[str, Any]) -> None:
    """Check, without writing, that ``out`` is new or belongs to this task and these settings.

    The budget (``n_trials``, ``student_epochs``) may differ: a run can be made longer.

    Raises:
        RunFolderError: With the differences, if the folder holds another run.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"--out {folder} is a file; give a folder")
    for name, content in (("task.yaml", task.to_dict()), ("run.yaml", dict(settings))):
        path = folder / name
        if not path.exists():
            continue
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        stored = stored if isinstance(stored, dict) else {}
        differences = [
            f"{key}: {stored.get(key)!r} there, {content.get(key)!r} asked for"
            for key in sorted({*stored, *content} - {"environment", "n_trials", "student_epochs"})
            if stored.get(key) != content.get(key)
        ]
        if differences:
            raise RunFolderError(
                f"{folder} belongs to another run ({name} differs: {'; '.join(differences)}); "
                "give another --out, or the settings of that run"
            )


def open_run(out: str | Path, task: Task, settings: Mapping[str, Any]) -> Path:
    """Create the run folder, or check that an existing one belongs to this task and these settings (`check_run`).

    Raises:
        RunFolderError: With the differences, if the folder holds another run.
    """
    check_run(out, task, settings)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "task.yaml").exists():
        _write_atomically(folder / "task.yaml", task.to_yaml())
    if not (folder / "run.yaml").exists():
        content = {**settings, "environment": environment()}
        _write_atomically(folder / "run.yaml", yaml.safe_dump(content, sort_keys=False))
    return folder


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def search(
    task: str | Task,
    optimizer: str | OptimizerFactory | Optimizer = "autokd",
    *,
    evaluator: Evaluator,
    space: str | SearchSpaceLike | None = None,
    n_trials: int | None = None,
    student_epochs: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    start_with_default: bool = True,
    progress: ProgressCallback | None = None,
) -> SearchResult:
    """Search for the best family of students.

    Args:
        task: Name or `Task`.
        optimizer: Name in ``OPTIMIZERS``, a class with the same arguments, or an object that asks and tells.
        evaluator: Trains the students (`KDEvaluator`), or answers from a table.
        space: What is searched, a name or an object; the task's preset with the KD settings by default.
        n_trials: Stop after so many trials.
        student_epochs: Stop before a trial would bring the epochs trained above this. One of the two is required.
        seed: Everything random follows from it.
        out: Run folder; nothing is written if None. An existing one is continued.
        options: Keyword arguments of the optimizer.
        start_with_default: Before the optimizer is asked, train the space's default family in full and tell it: a
            floor for short searches, whatever the optimizer. The trial has number -1 and counts in the budget. A
            space without a default (it has no ``default_candidate``) starts with the optimizer.
        progress: Called after each trial.

    Raises:
        ValueError: Before any work, for settings that cannot work.
        RunFolderError: If ``out`` holds another run.
        ReplayError: If the stored trials of ``out`` cannot be reproduced.
    """
    task = get_task(task)
    space = search_space(task, space)
    check_space(task, space)
    if isinstance(optimizer, Optimizer) and not isinstance(optimizer, type):
        check_budget(task, n_trials, student_epochs)
        name, chosen = type(optimizer).__name__, optimizer
    else:
        name = optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", repr(optimizer))
        chosen = make_optimizer(
            task, optimizer, space=space, n_trials=n_trials, student_epochs=student_epochs, seed=seed, options=options
        )
    store = TrialStore()
    if out is not None:
        settings = run_settings(
            name,
            space,
            seed=seed,
            n_trials=n_trials,
            student_epochs=student_epochs,
            options=options,
            start_with_default=start_with_default,
        )
        store = TrialStore(open_run(out, task, settings) / "trials.jsonl")
    started, inside = time.perf_counter(), 0.0
    with store:
        _replay(chosen, store)
        spent = store.student_epochs
        first = _first_proposal(task, space, seed) if start_with_default and not len(store) else None
        while n_trials is None or len(store) < n_trials:
            proposal, first = first or chosen.ask(), None
            if student_epochs is not None and spent + proposal.budget_epochs > student_epochs:
                break
            before = time.perf_counter()
            trial = evaluator.evaluate(proposal)
            inside += time.perf_counter() - before
            store.append(trial)  # on disk before the optimizer knows of it
            chosen.tell(trial)
            spent += trial.student_epochs
            if progress is not None:
                progress(_progress(store, spent, n_trials, student_epochs))
    candidate = chosen.incumbent()
    if candidate is None:
        reasons = sorted({trial.message for trial in store if trial.message})
        raise RuntimeError(
            f"none of {len(store)} trials succeeded at the full budget, so there is no family to choose"
            + (f"; the reasons were: {'; '.join(reasons[:3])}" if reasons else "")
        )
    elapsed = time.perf_counter() - started
    expected = _expected_costs(chosen)
    observed = store.incumbent(expected)
    assert observed is not None
    return SearchResult(
        candidate=candidate,
        trials=tuple(store),
        expected_cost=expected.get(candidate.digest, observed.cost),
        agreement=tuple(_agreement(chosen)),
        student_epochs=spent,
        search_s=elapsed,
        overhead_s=elapsed - inside,
    )


def make_optimizer(
    task: Task,
    optimizer: str | OptimizerFactory,
    *,
    space: str | SearchSpaceLike | None = None,
    n_trials: int | None = None,
    student_epochs: float | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Optimizer:
    """The optimizer that `search` would use; takes no part in any training, so it serves to check settings early.

    Raises:
        ValueError: For an unknown name or option, or a budget that cannot work.
    """
    factory = get_optimizer(optimizer)
    try:
        return factory(
            search_space(task, space),
            seed=seed,
            max_budget_epochs=task.max_budget_epochs,
            min_budget_epochs=task.min_budget_epochs,
            total_budget_epochs=check_budget(task, n_trials, student_epochs),
            **(options or {}),
        )
    except TypeError as error:  # an option that the optimizer does not have
        raise ValueError(f"optimizer {optimizer!r}: {error}") from error


def check_budget(task: Task, n_trials: int | None, student_epochs: float | None) -> float:
    """Student-epochs that a budget is worth: a trial of Hyperband with two rungs costs two thirds of a full one.

    Raises:
        ValueError: If there is no budget, or less than one full training.
    """
    if n_trials is None and student_epochs is None:
        raise ValueError("give a budget: n_trials (number of trials) or student_epochs (total epochs of training)")
    if n_trials is not None and n_trials < 1:
        raise ValueError(f"n_trials must be at least 1, got {n_trials}")
    if student_epochs is not None and not student_epochs >= task.max_budget_epochs:
        raise ValueError(
            f"student_epochs must be at least one full training ({task.max_budget_epochs} epochs), "
            f"got {student_epochs:g}"
        )
    if student_epochs is not None:
        return float(student_epochs)
    assert n_trials is not None
    return max(1.0, n_trials * 2 / 3) * task.max_budget_epochs


def _first_proposal(task: Task, space: SearchSpaceLike, seed: int) -> Proposal | None:
    default = getattr(space, "default_candidate", None)
    if default is None:
        return None
    return Proposal(default(), task.max_budget_epochs, derive_seed(seed, "trial", -1), -1)


def _replay(optimizer: Optimizer, store: TrialStore) -> None:
    for trial in store:
        if trial.number < 0:
            optimizer.tell(trial)
    unanswered = replay(optimizer, [trial for trial in store if trial.number >= 0])
    if unanswered:
        raise ReplayError(
            f"trial {unanswered[0].number} of {store.path} is not proposed again: the run was made with other versions "
            "or settings; see its run.yaml, or start a new folder"
        )


def _progress(store: TrialStore, spent: float, n_trials: int | None, student_epochs: float | None) -> SearchProgress:
    best = store.incumbent()
    shares = [len(store) / n_trials] if n_trials else []
    shares += [spent / student_epochs] if student_epochs else []
    return SearchProgress(
        trial=store[-1],
        n_trials=len(store),
        student_epochs=spent,
        fraction=min(1.0, max(shares)),
        best_val_accuracy=None if best is None else best.val_accuracy,
    )


def _expected_costs(optimizer: Optimizer) -> dict[str, float]:
    method = getattr(optimizer, "expected_costs", None)  # only optimizers with a model have it
    return dict(method()) if method is not None else {}


def _agreement(optimizer: Optimizer) -> list[dict[str, Any]]:
    method = getattr(optimizer, "budget_agreement", None)
    if method is None:
        return []
    pairs = [dict(pair._asdict()) for pair in method()]
    for pair in pairs:
        if math.isnan(pair["kendall_tau"]):
            pair["kendall_tau"] = None
    return pairs


@dataclass(frozen=True)
class FinalStudents:
    """Several students of one family (or of one cell), trained in full and judged once each."""

    results: tuple[FinalResult, ...]
    kept: int
    """Index of the student with the best validation accuracy: the one that is shipped."""

    @property
    def test_accuracies(self) -> list[float]:
        return [result.test_accuracy for result in self.results if result.test_accuracy is not None]

    @property
    def best(self) -> FinalResult:
        return self.results[self.kept]


def train_family(
    evaluator: KDEvaluator, candidate: Any, *, n_students: int, seed: int, out: str | Path | None = None
) -> FinalStudents:
    """Draw ``n_students`` students from a family, train them in full, judge each once on the test split."""
    task = evaluator.task

    def builder(index: int) -> Callable[[], Any]:
        final_seed = derive_seed(seed, "final", index)
        spec = evaluator.student_spec(candidate, final_seed)
        return lambda: evaluator.build_student(spec, final_seed)

    return train_finals(
        evaluator,
        [(builder(index), derive_seed(seed, "final", index)) for index in range(n_students)],
        kd=candidate.kd,
        label=f"{task.name}/{candidate.digest}",
        out=out,
    )


def train_finals(
    evaluator: KDEvaluator,
    students: Sequence[tuple[Callable[[], Any], int]],
    *,
    kd: Any,
    label: str,
    out: str | Path | None = None,
) -> FinalStudents:
    """The common final protocol: train each ``(build, seed)`` in full, keep the best by validation, test once.

    With ``out`` each finished student is on disk (``finals.jsonl``, ``students/``) before the next one starts, and
    those that are there are not trained again.
    """
    from naslib_autokd.evaluators.kd import FinalResult

    if not students:
        raise ValueError("at least one final student is needed, got none")
    done: list[FinalResult] = []
    path = None
    if out is not None:
        path = Path(out) / "finals.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        done = _read_finals(path, FinalResult, label)
    for index, (build, seed) in enumerate(students):
        if index < len(done):
            continue
        model, result = evaluator.train_final(build, kd, seed, name=label)
        result = evaluator.judge(model, result)
        if path is not None:
            evaluator.save_student(model, result, path.parent / "students" / f"student-{index}.safetensors")
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(result.to_dict()) + "\n")
                file.flush()
                os.fsync(file.fileno())
        done.append(result)
    done = done[: len(students)]
    kept = max(range(len(done)), key=lambda index: done[index].val_accuracy)
    return FinalStudents(results=tuple(done), kept=kept)


def _read_finals(path: Path, result_type: type[FinalResult], label: str) -> list[FinalResult]:
    """Complete lines of ``finals.jsonl`` that belong to ``label``; a torn last line is cut off."""
    if not path.exists():
        return []
    content = path.read_text(encoding="utf-8")
    complete = content[: content.rfind("\n") + 1]
    if complete != content:
        _write_atomically(path, complete)
    results = [result_type.from_dict(json.loads(line)) for line in complete.splitlines()]
    if any(result.name != label for result in results):
        # the search went on (a larger budget) and chose another family: the old finals are kept beside the new ones
        os.replace(path, path.with_name(f"finals-{results[0].name.replace('/', '-')}.jsonl"))
        return []
    return results
