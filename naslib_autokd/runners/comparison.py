"""Several search methods under one protocol: the same task, teacher, splits, seeds and final trainings, and the same
cost of each search, in student-epochs or in modelled seconds of training (`distillation.training_cost`).

Each (method, seed) is a job with its own folder and its own process of one thread; jobs run side by side, on this
machine or on a cluster (`engine.DaskPool`). A job that has finished is never run again, a search that was cut off goes
on after its last trial, so an interrupted comparison continues where it stopped.
"""

from __future__ import annotations

import json
import math
import os
import resource
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from naslib_autokd.evaluators.results import check_value
from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.optimizers.base import (
    ChargesSeconds,
    OneShotMethod,
    OneShotResult,
    RestoresResults,
    get_one_shot_method,
    parameters_of,
)
from naslib_autokd.records import content_digest, derive_seed, environment
from naslib_autokd.runners.engine import DaskPool, LimitedEngine, pick_device
from naslib_autokd.runners.finals import FinalStudents, train_family, train_finals
from naslib_autokd.runners.limits import Handler, Limits
from naslib_autokd.runners.results import SearchProgress
from naslib_autokd.runners.run_folder import (
    COMPARISON,
    CPU,
    RESULT,
    CheckpointFile,
    RunFolder,
    RunFolderError,
    check_run,
    open_run,
    read_json,
    read_settings,
    read_task,
)
from naslib_autokd.runners.search import search
from naslib_autokd.runners.setup import check_space, search_space
from naslib_autokd.runners.statistics import (
    LEVEL,
    SHARE,
    FriedmanTest,
    Interval,
    PairedDifference,
    SignedRankTest,
    bootstrap_band,
    friedman_test,
    holm_of_known,
    mean_interval,
    paired_difference,
    signed_rank_test,
    step_curve,
)
from naslib_autokd.search_spaces import HasDefault
from naslib_autokd.search_spaces.hnag import Candidate
from naslib_autokd.tasks import Task, did_you_mean, get_task

if TYPE_CHECKING:
    from naslib_autokd.evaluators.kd import KDEvaluator


@dataclass(frozen=True)
class Method:
    """One row of a comparison: an optimizer with its options, and what its students learn from."""

    label: str
    """What the table says."""
    kind: str
    """``"search"``: an ask-and-tell optimizer on families of students; ``"one-shot"``: DARTS on its cells;
    ``"default"``: the space's default family as it is, without a search; ``"family"``: the one in ``options``
    (`search_spaces.hnag.Candidate.to_dict`)."""
    optimizer: str = ""
    objective: str = "kd"
    """``"kd"`` or ``"ce"``: what the students learn from, in the search and in the final trainings."""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.label.lower()).strip("-")


AUTOKD_VS_DARTS = (
    Method("AutoKD", "search", "autokd"),
    Method("DARTS with KD", "one-shot", "darts", "kd"),
    Method("DARTS", "one-shot", "darts", "ce"),
)


KINDS = ("one-shot", "search", "default", "family")
"""Of methods, the longest jobs first."""

BUDGET_UNITS = {"student_epochs": "student-epochs", "training_seconds": "modelled seconds of training"}
"""What a search's budget counts."""


@dataclass(frozen=True)
class JobResult:
    """What one (method, seed) came to."""

    method: str
    seed: int
    test_accuracies: tuple[float, ...]
    """Of the final students, each judged once."""
    test_accuracy: float
    """Of the student kept by validation."""
    val_accuracies: tuple[float, ...]
    teacher_agreement: float
    """Share of test images on which the kept student and the teacher name the same class."""
    n_params: int
    macs: int
    train_memory_bytes: int
    search_cpu_s: float
    student_epochs: float
    """Charged to the search."""
    n_students: int
    """Trained during the search (a supernet counts as one)."""
    curve: tuple[tuple[float, float], ...]
    """``(spent, accuracy)``: the incumbent's on the validation split (so far, at the largest budget), or the supernet's
    on the images that train its architecture."""
    one_shot: bool
    """Whether ``curve`` is a supernet's."""
    details: dict[str, Any] = field(default_factory=dict)
    training_seconds: float | None = None
    """Of the search, in CPU seconds by the model; None in results of older versions."""
    final_training_seconds: float | None = None
    """Of one final training, the mean of them."""
    curve_unit: str = "student_epochs"
    """Of what was spent in ``curve``, see `BUDGET_UNITS`: that of the comparison's budget."""

    @property
    def mean_test_accuracy(self) -> float:
        """Of the final students."""
        return _mean(self.test_accuracies)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> JobResult:
        """Inverse of `asdict`.

        Raises:
            ValueError, KeyError, TypeError: If a field is missing or has a value that no job comes to.
        """
        for name, value in values.items():
            for number in value if name in ("test_accuracies", "val_accuracies") else (value,):
                if types := _TYPES.get(name):
                    check_value(name, number, types, optional=name in _LATER, share=name in _SHARES)
        lists = {key: tuple(values[key]) for key in ("test_accuracies", "val_accuracies")}
        return cls(**{**values, **lists, "curve": tuple((float(x), float(y)) for x, y in values["curve"])})


_TYPES: dict[str, tuple[type, ...]] = {
    "method": (str,),
    **dict.fromkeys(("seed", "n_params", "macs", "train_memory_bytes", "n_students"), (int,)),
    **dict.fromkeys(("test_accuracies", "val_accuracies", "test_accuracy", "teacher_agreement"), (int, float)),
    **dict.fromkeys(("search_cpu_s", "student_epochs", "training_seconds", "final_training_seconds"), (int, float)),
    "one_shot": (bool,),
    "details": (dict,),
    "curve_unit": (str,),
}
_SHARES = ("test_accuracies", "val_accuracies", "test_accuracy", "teacher_agreement")


_LATER = ("training_seconds", "final_training_seconds")


@dataclass(frozen=True)
class JobProgress:
    """A message from a running job, or from the preparation of the teacher (``seed`` None)."""

    method: str
    seed: int | None
    fraction: float
    text: str


@dataclass(frozen=True)
class Row:
    """One method over all seeds."""

    label: str
    test_accuracy: Interval
    """Of the students kept by validation, over seeds."""
    mean_test_accuracy: Interval
    """Mean of all final students of a seed, over seeds."""
    difference: PairedDifference | None
    """The first method minus this one in mean test accuracy, paired by seed; None for the first."""
    rank_test: SignedRankTest | None
    """Mean test errors of this method (a) and the first (b)."""
    p_holm: float | None
    """Of the paired t tests over the methods; None where there is none."""
    teacher_agreement: float
    n_params: float
    macs: float
    train_memory_bytes: float
    search_cpu_s: float
    student_epochs: float
    n_students: float
    training_seconds: float | None = None
    final_training_seconds: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All results, and the teacher's own row."""

    task: str
    seeds: tuple[int, ...]
    budget: float
    jobs: tuple[JobResult, ...]
    failures: tuple[tuple[str, int, str], ...]
    """``(method, seed, error)`` of jobs that did not finish."""
    teacher: dict[str, Any]
    rows: tuple[Row, ...]
    wall_s: float
    budget_unit: str = "student_epochs"
    """A name in `BUDGET_UNITS`."""

    @property
    def budget_text(self) -> str:
        """The budget of each search, in words."""
        return f"{self.budget:.0f} {BUDGET_UNITS[self.budget_unit]}"


def compare(
    task: str | Task,
    methods: Sequence[Method] = AUTOKD_VS_DARTS,
    *,
    seeds: Sequence[int],
    budget: float,
    budget_unit: str = "student_epochs",
    out: str | Path | RunFolder,
    n_finals: int = 3,
    workers: int = 2,
    device: str = "cpu",
    teacher: str | None = None,
    scheduler: str | None = None,
    cluster: Any = None,
    limits: Limits | None = None,
    student_limits: StudentLimits | None = None,
    progress: Callable[[JobProgress], None] | None = None,
) -> Comparison:
    """Run every method with every seed and put the results side by side.

    Args:
        task: Name or `Task`.
        methods: Rows of the table; the first one is what the others are compared with.
        seeds: Shared by all methods: seed k of one is paired with seed k of the others.
        budget: Student-epochs that each search may spend. A one-shot method's supernet epoch is charged by its cost
            relative to a student's.
        budget_unit: ``training_seconds``: the budget counts modelled CPU seconds of training instead
            (`distillation.training_cost`), of students and supernets alike.
        out: Run folder, held until the comparison ends; each job holds its own folder in it.
        n_finals: Students that are trained in full and judged after each search.
        workers: Jobs at the same time on this machine, one thread each.
        device: Torch device of all trainings; several, with commas between, are given to the workers in turn.
        teacher: Another teacher than the task's (a checkpoint or ``module:function``).
        scheduler: Address of a running Dask scheduler whose workers do the jobs; they must see ``out``.
        cluster: A job queue (`engine.ClusterConfig`) to do the same.
        limits: Of each trial of the searches.
        student_limits: Of every student, besides the task's ``max_params``; not for one-shot methods.
        progress: Called with each message of a running job.

    Raises:
        ValueError: For settings that cannot work, before any work.
        StoreLockedError: If another process writes ``out``.
    """
    task = get_task(task)
    if not seeds:
        raise ValueError("a comparison needs at least one seed, got none")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must differ, got {list(seeds)}")
    if budget_unit not in BUDGET_UNITS:
        raise ValueError(f"unknown budget_unit {budget_unit!r}{did_you_mean(budget_unit, BUDGET_UNITS)}")
    if not budget > 0 or (budget_unit == "student_epochs" and budget < task.max_budget_epochs):
        raise ValueError(
            f"budget must be at least one full training ({task.max_budget_epochs} student-epochs), got {budget:g}"
        )
    if n_finals < 1 or workers < 1:
        raise ValueError(f"n_finals and workers must be at least 1, got {n_finals} and {workers}")
    check_space(task, search_space(task))
    for method in methods:
        _check_method(method, task, budget_unit)
        if student_limits and method.kind == "one-shot":
            raise ValueError(f"{method.label}: cells keep max_params alone, leave student_limits out")
    started = time.perf_counter()
    settings = {
        "methods": [asdict(method) for method in methods],
        "budget": float(budget),
        **({} if budget_unit == "student_epochs" else {"budget_unit": budget_unit}),
        "n_finals": n_finals,
        "device": device,
        "teacher": teacher,
        **({"student_limits": asdict(student_limits)} if student_limits else {}),
    }
    settings = json.loads(json.dumps(settings))  # as YAML will give it back
    with RunFolder.own(out) as folder:
        check_run(folder, task, settings)
        teacher_row = _prepare(task, device.split(",")[0], teacher, progress)
        open_run(folder, task, settings)  # not before: the folder of a refused teacher is free for the right one
        jobs = [(method, seed) for seed in seeds for method in methods]
        places = {"scheduler": scheduler, "cluster": cluster}
        if scheduler is None and cluster is None:
            places["workers"] = min(workers, len(jobs))
        results, failures = _run_jobs(jobs, task, settings, folder.path, progress, limits, places)
        comparison = Comparison(
            task=task.name,
            seeds=tuple(seeds),
            budget=float(budget),
            jobs=tuple(results),
            failures=tuple(failures),
            teacher=teacher_row,
            rows=tuple(method_rows(results, methods)),
            wall_s=time.perf_counter() - started,
            budget_unit=budget_unit,
        )
        folder.write(COMPARISON, json.dumps({**asdict(comparison), "environment": environment()}, indent=1))
    return comparison


def _check_method(method: Method, task: Task, budget_unit: str) -> None:
    """Raise ValueError if there is no such method here, or it cannot be given such a budget."""
    if method.kind not in KINDS:
        raise ValueError(f"{method.label}: unknown kind {method.kind!r}{did_you_mean(method.kind, KINDS)}")
    if method.kind == "family":
        Candidate.from_dict(dict(method.options))
    if method.kind == "default" and not isinstance(search_space(task), HasDefault):
        raise ValueError(f"{method.label}: the space of task {task.name!r} has no default family")
    if method.kind == "one-shot" and budget_unit == "training_seconds":
        one_shot = get_one_shot_method(method.optimizer)(objective=method.objective, **method.options)
        if "budget_training_seconds" not in parameters_of(one_shot.search):
            raise ValueError(f"{method.label}: {method.optimizer} cannot be given a budget in training_seconds")


def _prepare(
    task: Task, device: str, teacher: str | None, progress: Callable[[JobProgress], None] | None
) -> dict[str, Any]:
    """Train or load the teacher once, on all cores, before the jobs start; its own row of the table."""
    from naslib_autokd.evaluators.kd import KDEvaluator

    def say(text: str) -> None:
        if progress is not None:
            progress(JobProgress("teacher", None, 0.0, text))

    evaluator = KDEvaluator(task, device=device, teacher=teacher, threads=os.cpu_count() or 1, report=say)
    return evaluator.teacher_row().to_dict()


def _run_jobs(
    jobs: Sequence[tuple[Method, int]],
    task: Task,
    settings: Mapping[str, Any],
    folder: Path,
    progress: Callable[[JobProgress], None] | None,
    limits: Limits | None,
    places: Mapping[str, Any],
) -> tuple[list[JobResult], list[tuple[str, int, str]]]:
    results: list[JobResult] = []
    failures: list[tuple[str, int, str]] = []
    messages: SimpleQueue[dict[str, Any]] = SimpleQueue()
    make_handler = partial(job_handler, task.to_dict(), dict(settings), limits)
    # the workers are killed when this block is left, also by Ctrl-C; what they have on disk stays
    with DaskPool(make_handler, on_message=messages.put, **places) as pool:
        waiting: dict[str, tuple[Method, int]] = {}
        # the longest jobs first, so that the workers end together
        for method, seed in sorted(jobs, key=lambda item: KINDS.index(item[0].kind)):
            job = _job_folder(folder, method, seed).absolute()
            waiting[str(job)] = (method, seed)
            pool.submit(str(job), {"method": asdict(method), "seed": seed, "out": str(job)})
        while waiting:
            finished = pool.next_finished(0.2)
            _drain(messages, progress)
            if finished is None:
                continue
            name, outcome = finished
            method, seed = waiting.pop(name)
            if outcome.status == "success":
                results.append(JobResult.from_dict(outcome.value))
                text = f"test {100 * results[-1].test_accuracy:.1f}"
            else:
                failures.append((method.label, seed, outcome.message))
                text = f"failed: {outcome.message}"
            if progress is not None:
                progress(JobProgress(method.label, seed, 1.0, text))
        _drain(messages, progress)
    order = {(method.label, seed): index for index, (method, seed) in enumerate(jobs)}
    results.sort(key=lambda result: order[result.method, result.seed])
    return results, failures


def _job_folder(folder: Path, method: Method, seed: int) -> Path:
    return folder / method.slug / f"seed-{seed}"


def _drain(messages: SimpleQueue[dict[str, Any]], progress: Callable[[JobProgress], None] | None) -> None:
    while True:
        try:
            message = messages.get_nowait()
        except Empty:
            return
        if progress is not None:
            progress(JobProgress(**message))


def job_handler(task: dict[str, Any], settings: dict[str, Any], limits: Limits | None, index: int) -> Handler:
    """What a worker process does with the jobs of a comparison."""
    import torch

    torch.set_num_threads(1)
    device = pick_device(settings["device"].split(","), index)

    def handle(job: dict[str, Any], report: Callable[[Any], None]) -> dict[str, Any]:
        return run_job(job["method"], job["seed"], task, {**settings, "device": device}, job["out"], report, limits)

    return handle


def run_job(
    method: dict[str, Any],
    seed: int,
    task: dict[str, Any],
    settings: dict[str, Any],
    out: str,
    report_message: Callable[[Any], None],
    limits: Limits | None = None,
) -> dict[str, Any]:
    """One (method, seed) in this process; the finished result is read from ``out`` if it is there."""
    spec = Method(**method)
    with RunFolder.own(out) as folder:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # else it is made of its parts again
            stored: dict[str, Any] = json.loads((folder.path / RESULT).read_text(encoding="utf-8"))
            JobResult.from_dict(stored)
            return stored
        return _run_job(spec, seed, Task.from_dict(task), settings, folder, report_message, limits)


def _run_job(
    spec: Method,
    seed: int,
    task: Task,
    settings: Mapping[str, Any],
    folder: RunFolder,
    report_message: Callable[[Any], None],
    limits: Limits | None,
) -> dict[str, Any]:

    def report(fraction: float, text: str) -> None:
        report_message({"method": spec.label, "seed": seed, "fraction": fraction, "text": text})

    report(0.0, "starting")
    try:
        if spec.kind in ("default", "family"):
            result = _run_family(spec, seed, task, settings, folder, report)
        elif spec.kind == "search":
            result = _run_search(spec, seed, task, settings, folder, report, limits)
        else:
            result = _run_one_shot(spec, seed, task, settings, folder, report)
    except Exception:
        folder.write("error.txt", traceback.format_exc())
        raise
    folder.write(RESULT, json.dumps(asdict(result), indent=1))
    return asdict(result)


Report = Callable[[float, str], None]

SEARCH_SHARE = 0.75
"""Share of the progress bar that belongs to the search; the rest to the final trainings."""


def _evaluator_factory(method: Method, task: Task, settings: Mapping[str, Any]) -> Callable[..., KDEvaluator]:
    from naslib_autokd.evaluators.kd import KDEvaluator

    return partial(
        KDEvaluator,
        task,
        device=settings["device"],
        teacher=settings["teacher"],
        objective=method.objective,
        limits=StudentLimits(**settings.get("student_limits", {})),
        threads=1,
    )


def _cpu_s() -> float:
    """CPU seconds of this process and of its processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class CPUSeconds:
    """CPU seconds that a job's search has taken, in sessions before this one, too (``cpu.json``)."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._started, self._before = folder, _cpu_s(), 0.0
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # nothing but a column depends on it
            before = float(json.loads((folder.path / CPU).read_text(encoding="utf-8"))["search_cpu_s"])
            self._before = before if 0 <= before < math.inf else 0.0

    @property
    def so_far(self) -> float:
        return self._before + _cpu_s() - self._started

    def keep(self) -> float:
        """Write them, and give them."""
        so_far = self.so_far
        self._folder.write(CPU, json.dumps({"search_cpu_s": so_far}))
        return so_far


def _budget(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The budget of a search, by its name in `BUDGET_UNITS`."""
    return {prefix + _unit(settings): settings["budget"]}


def _unit(settings: Mapping[str, Any]) -> str:
    return str(settings.get("budget_unit", "student_epochs"))


def _run_family(
    method: Method, seed: int, task: Task, settings: Mapping[str, Any], folder: RunFolder, report: Report
) -> JobResult:
    evaluator = _evaluator_factory(method, task, settings)()
    if method.kind == "family":
        candidate = Candidate.from_dict(dict(method.options))
    else:
        candidate = search_space(task, objective=method.objective).default_candidate()  # type: ignore[attr-defined]
    report(0.0, "final trainings")
    finals = train_family(evaluator, candidate, n_students=settings["n_finals"], seed=seed, out=folder)
    nothing: dict[str, Any] = {"search_cpu_s": 0.0, "student_epochs": 0.0, "training_seconds": 0.0, "n_students": 0}
    return _job_result(
        method,
        seed,
        finals,
        **nothing,
        curve=(),
        curve_unit=_unit(settings),
        one_shot=False,
        details={"optimizer": method.kind, "candidate": candidate.to_dict()},
    )


def _run_search(
    method: Method,
    seed: int,
    task: Task,
    settings: Mapping[str, Any],
    folder: RunFolder,
    report: Report,
    limits: Limits | None,
) -> JobResult:
    factory = _evaluator_factory(method, task, settings)
    evaluator = factory()

    def progress(state: SearchProgress) -> None:
        best = "-" if state.best_val_accuracy is None else f"{100 * state.best_val_accuracy:.1f}"
        report(SEARCH_SHARE * state.fraction, f"trial {state.n_trials}, best validation {best}")
        cpu.keep()

    cpu = CPUSeconds(folder)
    with LimitedEngine(factory, limits) if limits else nullcontext() as engine:
        found = search(
            task,
            method.optimizer,
            evaluator=None if engine else evaluator,
            engine=engine,
            scorer=evaluator,
            **_budget(settings),
            seed=seed,
            out=folder,
            options=method.options,
            progress=progress,
        )
    search_cpu_s = cpu.keep()
    report(SEARCH_SHARE, "final trainings")
    finals = train_family(evaluator, found.candidate, n_students=settings["n_finals"], seed=seed, out=folder)
    unit, curve, best = _unit(settings), [], 0.0
    costs = [getattr(trial, unit) or 0.0 for trial in found.trials]
    spent = getattr(found, unit) - sum(costs)  # scores without training
    largest = max(trial.budget_epochs for trial in found.trials)
    for trial, cost in zip(found.trials, costs, strict=True):
        spent += cost
        if trial.val_accuracy is not None and trial.budget_epochs == largest:
            best = max(best, trial.val_accuracy)
            curve.append((spent, best))
    return _job_result(
        method,
        seed,
        finals,
        search_cpu_s=search_cpu_s,
        student_epochs=found.student_epochs,
        training_seconds=found.training_seconds,
        n_students=len(found.trials),
        curve=curve,
        curve_unit=unit,
        one_shot=False,
        details={
            "optimizer": method.optimizer,
            "candidate": found.candidate.to_dict(),
            "is_default": found.candidate.digest == found.trials[0].candidate_digest,
            "agreement": list(found.agreement),
            "expected_cost": found.expected_cost,
            "overhead_s": found.overhead_s,
            "search_s": found.search_s,
        },
    )


def _run_one_shot(
    method: Method, seed: int, task: Task, settings: Mapping[str, Any], folder: RunFolder, report: Report
) -> JobResult:
    evaluator = _evaluator_factory(method, task, settings)()
    one_shot = get_one_shot_method(method.optimizer)(objective=method.objective, **method.options)
    unit = [settings["budget_unit"]] if "budget_unit" in settings else []
    recipe = content_digest([asdict(method), seed, task.to_dict(), settings["budget"], settings["teacher"], *unit])
    search_cpu_s, found = _search_once(one_shot, evaluator, seed, settings, folder, recipe, report)
    report(SEARCH_SHARE, "final trainings")
    seeds = [derive_seed(seed, "final", index) for index in range(settings["n_finals"])]
    students = [(partial(found.build, derive_seed(s, "weights")), s) for s in seeds]
    label = f"{task.name}/{content_digest(found.architecture)}"
    charged, rate = _unit(settings), 1.0
    if charged == "training_seconds":
        assert isinstance(found, ChargesSeconds)  # `_check_method`
        rate = found.training_seconds / found.student_epochs  # all steps of a supernet cost as much
    finals = train_finals(evaluator, students, kd=one_shot.kd, label=label, out=folder)
    return _job_result(
        method,
        seed,
        finals,
        search_cpu_s=search_cpu_s,
        student_epochs=found.student_epochs,
        training_seconds=found.training_seconds if isinstance(found, ChargesSeconds) else None,
        n_students=found.n_students,
        curve=[(rate * epochs, reached) for epochs, reached in found.curve],
        curve_unit=charged,
        one_shot=True,
        details={**found.info, "architecture": found.architecture},
    )


def _search_once(
    one_shot: OneShotMethod,
    evaluator: KDEvaluator,
    seed: int,
    settings: Mapping[str, Any],
    folder: RunFolder,
    recipe: str,
    report: Report,
) -> tuple[float, OneShotResult]:
    """CPU seconds of the search and what it found; of one that is over from ``search.json``."""
    cpu = CPUSeconds(folder)
    checkpoint = CheckpointFile(folder, recipe, cpu.keep)
    known = None
    if isinstance(one_shot, RestoresResults):
        known = folder.found(
            recipe, lambda values: (float(values.pop("search_cpu_s")), one_shot.restore(values, evaluator.task))
        )
    if known is None:
        more: dict[str, Any] = {"budget_student_epochs": None, **_budget(settings, "budget_")}
        if "checkpoint" in parameters_of(one_shot.search):
            more["checkpoint"] = checkpoint
        found = one_shot.search(
            evaluator,
            seed=seed,
            progress=lambda fraction, text: report(SEARCH_SHARE * fraction, text),
            **more,
        )
        known = cpu.so_far, found
        folder.keep_found({**found.to_dict(), "search_cpu_s": known[0]}, recipe)
    checkpoint.remove()
    return known


def _job_result(
    method: Method,
    seed: int,
    finals: FinalStudents,
    *,
    search_cpu_s: float,
    student_epochs: float,
    training_seconds: float | None,
    n_students: int,
    curve: Sequence[tuple[float, float]],
    curve_unit: str,
    one_shot: bool,
    details: dict[str, Any],
) -> JobResult:
    best = finals.best
    assert best.test_accuracy is not None
    assert best.test_agreement is not None
    return JobResult(
        method=method.label,
        seed=seed,
        test_accuracies=tuple(finals.test_accuracies),
        test_accuracy=best.test_accuracy,
        val_accuracies=tuple(result.val_accuracy for result in finals.results),
        teacher_agreement=best.test_agreement,
        n_params=best.n_params,
        macs=best.macs,
        train_memory_bytes=best.train_memory_bytes,
        search_cpu_s=search_cpu_s,
        student_epochs=student_epochs,
        n_students=n_students,
        curve=tuple(curve),
        curve_unit=curve_unit,
        one_shot=one_shot,
        details=details,
        training_seconds=training_seconds,
        final_training_seconds=_known_mean([result.training_seconds for result in finals.results]),
    )


@dataclass(frozen=True)
class JobFolder:
    """What the folder of one (method, seed) tells."""

    method: str
    """Label."""
    seed: int
    path: Path
    result: JobResult | None
    """None while it is not finished."""
    error: str
    """Last line of what ended it; empty if nothing did."""

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.seed}"


def read_jobs(folder: Path, methods: Sequence[Method]) -> list[JobFolder]:
    """The jobs of a comparison that were begun, by method and seed.

    Raises:
        RunFolderError: If a result cannot be read.
    """
    labels = {method.slug: method.label for method in methods}
    order = list(labels)
    found = []
    for path in folder.glob("*/seed-*"):
        slug, seed = path.parent.name, int(path.name.removeprefix("seed-"))
        content, error = read_json(path / RESULT), path / "error.txt"
        try:
            result = JobResult.from_dict(content) if content else None
        except (ValueError, KeyError, TypeError) as reason:
            raise RunFolderError(f"{path / RESULT} holds no result of a job: {reason!r}") from reason
        text = error.read_text(encoding="utf-8").strip() if result is None and error.is_file() else ""
        place = order.index(slug) if slug in labels else len(order)
        found.append((place, seed, JobFolder(labels.get(slug, slug), seed, path, result, text.split("\n")[-1])))
    return [job for _, _, job in sorted(found, key=lambda item: item[:2])]


def read_comparison(folder: Path) -> tuple[Comparison, list[JobFolder]]:
    """What has come of a comparison so far, and its jobs; ``teacher`` is empty before its end.

    Raises:
        RunFolderError: If a file cannot be read.
    """
    settings, stored = read_settings(folder), read_json(folder / COMPARISON)
    methods = [Method(**method) for method in settings.get("methods", [])]
    order = [method.label for method in methods]
    jobs = read_jobs(folder, methods)
    results = [job.result for job in jobs if job.result is not None and job.method in order]
    failures = [(job.method, job.seed, job.error) for job in jobs if job.error]
    known = {(job.method, job.seed) for job in jobs if job.error or job.result}
    failures += [
        (method, seed, error) for method, seed, error in stored.get("failures", []) if (method, seed) not in known
    ]
    comparison = Comparison(
        task=str(read_task(folder).get("name", "")),
        seeds=tuple(sorted({result.seed for result in results})),
        budget=float(settings.get("budget", 0.0)),
        jobs=tuple(sorted(results, key=lambda result: (result.seed, order.index(result.method)))),
        failures=tuple(failures),
        teacher=stored.get("teacher", {}),
        rows=tuple(method_rows(results, methods)) if results else (),
        wall_s=float(stored.get("wall_s", 0.0)),
        budget_unit=str(settings.get("budget_unit", "student_epochs")),
    )
    return comparison, jobs


def method_rows(results: Sequence[JobResult], methods: Sequence[Method]) -> list[Row]:
    """One row a method that has results, in the order of ``methods``; the first one is the reference."""
    by_method = {method.label: {r.seed: r for r in results if r.method == method.label} for method in methods}
    reference = by_method[methods[0].label]
    rows = []
    for method in methods:
        jobs = by_method[method.label]
        if not jobs:
            continue
        shared = sorted(set(jobs) & set(reference))
        difference = rank_test = None
        if method.label != methods[0].label and shared:
            theirs, own = ([of[seed].mean_test_accuracy for seed in shared] for of in (reference, jobs))
            difference = paired_difference(theirs, own)
            rank_test = signed_rank_test([1 - share for share in own], [1 - share for share in theirs])
        values = list(jobs.values())
        rows.append(
            Row(
                label=method.label,
                test_accuracy=mean_interval([job.test_accuracy for job in values], bounds=SHARE),
                mean_test_accuracy=mean_interval([job.mean_test_accuracy for job in values], bounds=SHARE),
                difference=difference,
                rank_test=rank_test,
                p_holm=None,
                teacher_agreement=_mean([job.teacher_agreement for job in values]),
                n_params=_mean([job.n_params for job in values]),
                macs=_mean([job.macs for job in values]),
                train_memory_bytes=_mean([job.train_memory_bytes for job in values]),
                search_cpu_s=_mean([job.search_cpu_s for job in values]),
                student_epochs=_mean([job.student_epochs for job in values]),
                n_students=_mean([job.n_students for job in values]),
                training_seconds=_known_mean([job.training_seconds for job in values]),
                final_training_seconds=_known_mean([job.final_training_seconds for job in values]),
            )
        )
    adjusted = holm_of_known([None if row.difference is None else row.difference.p_value for row in rows])
    return [replace(row, p_holm=p_value) for row, p_value in zip(rows, adjusted, strict=True)]


def rank_methods(comparison: Comparison) -> FriedmanTest | None:
    """By the mean test error over the seeds that all methods have; None where so few seeds or methods say nothing."""
    errors: dict[str, dict[int, float]] = {row.label: {} for row in comparison.rows}
    for job in comparison.jobs:
        errors[job.method][job.seed] = 1 - job.mean_test_accuracy
    common = sorted(set.intersection(*map(set, errors.values()))) if len(errors) > 1 else []
    if len(common) < 2:
        return None
    found = friedman_test([[own[seed] for seed in common] for own in errors.values()])
    return found if found.smallest_p_value <= LEVEL else None


def mean_curves(jobs: Sequence[JobResult]) -> list[dict[str, Any]]:
    """Mean accuracy over seeds of each method on a common grid, from where all of its seeds have an incumbent, with its
    95% bootstrap interval: ``method``, what was spent (`JobResult.curve_unit`), ``accuracy``, ``low``, ``high`` (None
    without one)."""
    rows: list[dict[str, Any]] = []
    for label in dict.fromkeys(job.method for job in jobs):
        own = [np.array(job.curve) for job in jobs if job.method == label and job.curve]
        unit = next(job.curve_unit for job in jobs if job.method == label)
        if not own:
            continue
        grid = np.unique(np.concatenate([curve[:, 0] for curve in own]))
        band = bootstrap_band(np.array([step_curve(curve[:, 0], curve[:, 1], grid) for curve in own]))
        for x, y, *ends in zip(grid, band.centre, band.low, band.high, strict=True):
            if not math.isnan(y):
                low, high = (None if math.isnan(end) else float(end) for end in ends)
                point = {unit: float(x), "accuracy": float(y), "low": low, "high": high}
                rows.append({"method": label, **point})
    return rows


def _known_mean(values: Sequence[float | None]) -> float | None:
    """None where one is not known."""
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
