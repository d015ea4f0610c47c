"""Ablation studies on benchmarks: optimizers and variants of the space, compared over many seeds in seconds.

A `Study` (from YAML or Python) names a benchmark, a budget of student-epochs and methods. Every (method, seed) is a
job: `simulate` runs one search in memory, charged exactly as `runners.search.search` charges it, and records the truth
about its incumbent on a grid of student-epochs. `run_study` runs the jobs on worker processes of one thread each.

A study is a folder: ``study.yaml`` (what was asked for), ``run.yaml`` (versions, hardware, the benchmark) and
``runs.jsonl`` (one line per finished job). The same command continues it; more seeds and methods only add to it.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import queue
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from naslib_autokd.evaluators.base import Benchmark, HasTask, KnowsNoise, PredictsTrainingSeconds
from naslib_autokd.optimizers.base import (
    Optimizer,
    ScoresStudents,
    SearchSpaceLike,
    SpaceExhausted,
    asked,
    get_optimizer,
    known_to,
)
from naslib_autokd.records import Proposal, derive_seed, environment
from naslib_autokd.runners.limits import Handler, Outcome, WorkerProcess, attempt, pickled
from naslib_autokd.runners.run_folder import RUN, STUDY, STUDY_RUNS, RunFolder, append_line, cut_torn_line, read_yaml
from naslib_autokd.runners.session import SearchInterrupted
from naslib_autokd.runners.setup import check_options, reference_seconds
from naslib_autokd.runners.study import Study, StudyError, StudyMethod, get_study
from naslib_autokd.runners.tally import TooManyFailures
from naslib_autokd.search_spaces import FreezesItself, HasDefault

GRID_POINTS = 80
"""Points of a run that are looked at, at most: above so many full trainings they are spaced logarithmically."""

MAX_FAILURES = 100
"""Failed trials in a row that end a run: one that is charged nothing would go on for ever."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class StudyFolderError(ValueError):
    """The folder holds another study."""


# --- one run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimulatedRun:
    """What one (method, seed) came to: the truth about its incumbent at points of its budget."""

    method: str
    seed: int
    student_epochs: tuple[float, ...]
    """Where the run was looked at, ascending; the last is its whole budget."""
    trials: tuple[int, ...]
    """Trials that were finished by then."""
    test_error: tuple[float, ...]
    """True expected test error of the incumbent at these points; nan before the first incumbent."""
    cost: tuple[float, ...]
    """The same for the validation split."""
    candidate: dict[str, Any]
    """The final incumbent as plain values; empty if there was none."""
    n_trials: int
    cpu_s: float
    """Of the whole search, all of it the optimizer's and the benchmark's own."""

    def to_json(self) -> str:
        values = asdict(self)
        for name in ("test_error", "cost"):
            values[name] = [None if math.isnan(value) else value for value in values[name]]
        return json.dumps(values, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SimulatedRun:
        """Inverse of `to_json`."""
        curves = {
            name: tuple(math.nan if value is None else float(value) for value in values[name])
            for name in ("student_epochs", "test_error", "cost")
        }
        return cls(**{**values, **curves, "trials": tuple(values["trials"])})


def variant(space: Any, changes: Mapping[str, Any]) -> SearchSpaceLike:
    """The space with some changes, which every candidate of the result shares with it.

    Args:
        changes: ``mode``: "family" or "individual" (a candidate is one wiring). ``search_kd``: false takes temperature
            and kd_weight out of the search. ``kd``: their values then (a mapping; "none": labels only). The three need
            an HNAG space. ``freeze``: hyperparameter -> value, or "default"; of any space.

    Raises:
        ValueError: If the space does not have what is to be changed.
    """
    from naslib_autokd.search_spaces.frozen import FrozenSpace
    from naslib_autokd.search_spaces.hnag.parameters import HNAGSpace, KDSettings

    hnag = {key: changes[key] for key in ("mode", "search_kd", "kd") if key in changes}
    if hnag:
        if not isinstance(space, HNAGSpace):
            raise ValueError(
                f"{', '.join(hnag)} of a method change HNAG spaces only, and {space.name!r} is another: use freeze"
            )
        kd = hnag.get("kd", space.kd)
        search_kd = hnag.get("search_kd", space.search_kd and "kd" not in hnag)
        if search_kd and "kd" in hnag:
            raise ValueError("kd fixes what search_kd searches: give one of them")
        if kd == "none":
            kd = KDSettings(space.kd.temperature, kd_weight=0.0)
        elif not isinstance(kd, KDSettings):
            kd = KDSettings.from_dict(kd)
        if "kd" in hnag and space.name == "custom":  # what is said here stands above what its preset fixes
            temperature, kd_weight = (kd.temperature,) * 2, (kd.kd_weight,) * 2
            preset = replace(space.preset, temperature=temperature, kd_weight=kd_weight)
            space = HNAGSpace(preset, mode=space.mode, search_size=space.search_size)
        space = space.replaced(search_kd=search_kd, kd=kd, mode=hnag.get("mode", space.mode))
    if changes.get("freeze"):
        # of a table the rows that have these values: a point of it means its nearest row, which may have others
        frozen = changes["freeze"]
        space = space.frozen(frozen) if isinstance(space, FreezesItself) else FrozenSpace(space, frozen)
    found: SearchSpaceLike = space
    return found


def grid(student_epochs: float, full: int) -> tuple[float, ...]:
    """Where a run is looked at: at each full training's worth, or `GRID_POINTS` of them, and at the end.

    Examples:
        >>> grid(40, 9)
        (9.0, 18.0, 27.0, 36.0, 40.0)
    """
    n = int(student_epochs // full)
    worth = range(1, n + 1)
    if n > GRID_POINTS:
        worth = sorted({round(n ** (i / (GRID_POINTS - 1))) for i in range(GRID_POINTS)})  # type: ignore[assignment]
    points = [float(k * full) for k in worth]
    return tuple(points if points and points[-1] == student_epochs else [*points, float(student_epochs)])


def min_budget_of(benchmark: Benchmark, given: int | None = None) -> int:
    """The smallest budget that optimizers may use."""
    if given is not None:
        return given
    return int(benchmark.task.min_budget_epochs if isinstance(benchmark, HasTask) else benchmark.budgets[0])


def make_optimizer(
    benchmark: Benchmark,
    method: StudyMethod,
    seed: int,
    *,
    student_epochs: float,
    min_budget_epochs: int | None = None,
) -> tuple[Optimizer, SearchSpaceLike]:
    """The method's optimizer and the space that it searches.

    Raises:
        ValueError: For an unknown name, option or hyperparameter, or if the benchmark lacks what the optimizer needs.
        ImportError: If a package is missing.
    """
    space = variant(benchmark.space, method.space)
    factory = get_optimizer(method.optimizer)
    check_options(method.to_dict()["optimizer"], factory, method.options)
    try:
        optimizer = factory(
            space,
            seed=seed,
            max_budget_epochs=benchmark.budgets[-1],
            min_budget_epochs=min_budget_of(benchmark, min_budget_epochs),
            total_budget_epochs=student_epochs,
            **{**known_to(factory, benchmark), **method.options},
        )
    except TypeError as error:  # an option that the optimizer does not have
        raise ValueError(f"optimizer {method.to_dict()['optimizer']!r}: {error}") from error
    if isinstance(optimizer, ScoresStudents):
        optimizer.attach(benchmark)
    return optimizer, space


def simulate(
    benchmark: Benchmark,
    method: str | StudyMethod,
    seed: int,
    *,
    student_epochs: float | None = None,
    min_budget_epochs: int | None = None,
    start_with_default: bool = False,
    budget_unit: str = "student_epochs",
) -> SimulatedRun:
    """One search on a benchmark, in memory: a pure function of its arguments (but for ``cpu_s``).

    Charged as `search.search` charges it: a trial costs the student-epochs that it reports, a failed one too; what an
    optimizer spends itself (``extra_student_epochs``) is added; the trial that would exceed the budget is not started,
    and ends the run.

    Args:
        method: A `StudyMethod`, or the name of an optimizer.
        seed: Of the run; everything random follows from it.
        student_epochs: Budget; the method's own wins.
        min_budget_epochs: Smallest budget that the optimizer may use; None: the minimum of the benchmark's task.
        start_with_default: Train the space's default candidate in full first, as `search.search` does.
        budget_unit: ``training_seconds``: a trial costs modelled time instead, in epochs of the default family
            (`study.Study.budget_unit`); the benchmark has to be a `PredictsTrainingSeconds`.

    Raises:
        ValueError: If the method cannot be built (see `make_optimizer`), or there is no budget.
        TooManyFailures: After `MAX_FAILURES` failed trials in a row.
    """
    started = time.process_time()
    if isinstance(method, str):
        method = StudyMethod(method, method)
    full = benchmark.budgets[-1]
    own = method.student_epochs if method.full_trainings is None else method.full_trainings * full
    total = student_epochs if own is None else own
    if total is None:
        raise ValueError("give a budget: student_epochs, of the run or of its method")
    optimizer, space = make_optimizer(
        benchmark, method, seed, student_epochs=total, min_budget_epochs=min_budget_epochs
    )
    record = _Recorder(benchmark, optimizer, grid(total, full))
    first = _default_proposal(space, full, seed) if start_with_default else None
    scoring = optimizer if isinstance(optimizer, ScoresStudents) else None
    cost_of = _cost_in_time(benchmark, full) if budget_unit == "training_seconds" else None
    trained, n_trials, failed_in_a_row = 0.0, 0, 0
    numbers: set[int] = set()
    while True:
        try:
            proposal, first = first or asked(optimizer, numbers, full), None
            numbers.add(proposal.number)
        except SpaceExhausted:  # what it has found by now is all that it will find
            record.until(math.inf, n_trials)
            break
        spent = trained + (scoring.extra_student_epochs if scoring else 0.0)  # asking may have cost
        cost = proposal.budget_epochs if cost_of is None else cost_of(proposal)
        if spent + cost > total:
            record.until(math.inf, n_trials)
            break
        trial = benchmark.evaluate(proposal)
        cost = trial.student_epochs if cost_of is None else cost
        record.until(spent + cost, n_trials)
        trained += cost
        n_trials += 1
        optimizer.tell(trial)
        failed_in_a_row = 0 if trial.succeeded else failed_in_a_row + 1
        if failed_in_a_row >= MAX_FAILURES:
            raise TooManyFailures(f"{failed_in_a_row} trials in a row failed, the last one with {trial.message!r}")
    return SimulatedRun(
        method=method.label,
        seed=seed,
        student_epochs=record.points,
        trials=tuple(record.trials),
        test_error=tuple(record.test_error),
        cost=tuple(record.cost),
        candidate={} if record.candidate is None else record.candidate.to_dict(),
        n_trials=n_trials,
        cpu_s=time.process_time() - started,
    )


def _cost_in_time(benchmark: Benchmark, full: int) -> Callable[[Proposal], float]:
    """What a training takes, in epochs of the default family (or of the median of some random ones)."""
    assert isinstance(benchmark, PredictsTrainingSeconds)
    seconds_per_epoch = reference_seconds(benchmark.space, benchmark, full) / full
    return lambda proposal: benchmark.training_seconds(proposal) / seconds_per_epoch


def _default_proposal(space: SearchSpaceLike, full: int, seed: int) -> Proposal | None:
    if not isinstance(space, HasDefault):
        return None
    return Proposal(space.default_candidate(), full, derive_seed(seed, "trial", -1), -1)


class _Recorder:
    """The truth about the incumbent at the points of a grid; it is asked for there only, since it can be costly."""

    def __init__(self, benchmark: Benchmark, optimizer: Optimizer, points: tuple[float, ...]) -> None:
        self.benchmark, self.optimizer, self.points = benchmark, optimizer, points
        self.trials: list[int] = []
        self.test_error: list[float] = []
        self.cost: list[float] = []
        self.candidate: Any = None
        self._told = 0

    def until(self, student_epochs: float, n_trials: int) -> None:
        """Fill in the points below ``student_epochs``: what is known there comes from ``n_trials`` trials."""
        while len(self.trials) < len(self.points) and self.points[len(self.trials)] < student_epochs:
            self._look(n_trials)
            self.trials.append(n_trials)

    def _look(self, n_trials: int) -> None:
        if n_trials in (0, self._told):  # nothing was learned since the last point
            candidate = self.candidate
        else:
            candidate, self._told = self.optimizer.incumbent(), n_trials
        if candidate is None:
            self.test_error.append(math.nan)
            self.cost.append(math.nan)
        elif self.candidate is not None and candidate.digest == self.candidate.digest:
            self.test_error.append(self.test_error[-1])
            self.cost.append(self.cost[-1])
        else:
            self.test_error.append(float(self.benchmark.true_test_error(candidate)))
            self.cost.append(float(self.benchmark.true_cost(candidate)))
        self.candidate = candidate


# --- many runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyProgress:
    """Where a study stands, after each job."""

    method: str
    seed: int
    done: int
    """Jobs finished, those of earlier sessions and failed ones included."""
    of: int
    left_s: float
    """Expected seconds to the end, from what the jobs so far took."""
    error: str = ""
    """Why this job failed; empty for a success."""


@dataclass(frozen=True)
class JobFailure:
    """A (method, seed) that ended with an error; the same command tries it again."""

    method: str
    seed: int
    error: str


@dataclass(frozen=True)
class StudyResult:
    """All runs of a study."""

    study: Study
    """As it was run: budgets in student-epochs, without the methods that were left out."""
    best_test_error: float
    """The lowest known in the benchmark: regret counts from here."""
    runs: tuple[SimulatedRun, ...]
    """In the order of the methods, then of the seeds."""
    failures: tuple[JobFailure, ...] = ()
    left_out: tuple[str, ...] = ()
    """Optional methods that could not be built: ``label: reason``."""
    noise_sd: float | None = None
    """Standard deviation of the test error of one full training of a table, where its repeats show it."""
    noise: str = ""
    """The same in words, with where it comes from."""


def get_benchmark(benchmark: str | Benchmark) -> Benchmark:
    """The benchmark of this name or file, or the object as it is.

    Raises:
        ValueError: If there is none (with the nearest names).
    """
    if not isinstance(benchmark, str):
        return benchmark
    from naslib_autokd.evaluators.benchmark import get_benchmark as named

    found: Benchmark = named(benchmark)
    return found


def buildable(study: Study, benchmark: Benchmark) -> tuple[Study, tuple[str, ...]]:
    """The study with the methods that can be built here, and ``label: reason`` of the optional ones that cannot.

    Raises:
        StudyError: If a method that is not optional cannot be built, or none is left.
    """
    kept, left_out = [], []
    for method in study.methods:
        epochs = study.epochs_of(method)
        try:
            make_optimizer(benchmark, method, 0, student_epochs=epochs, min_budget_epochs=study.min_budget_epochs)
        except (ValueError, ImportError) as error:
            if not method.optional:
                raise StudyError(
                    f"method {method.label!r} cannot be used: {error} ('optional: true' leaves it out then)"
                ) from error
            left_out.append(f"{method.label}: {' '.join(str(error).split())}")
        else:
            kept.append(method.label)
    if not kept:
        raise StudyError(f"no method of the study can be used: {'; '.join(left_out)}")
    return study.only(kept), tuple(left_out)


def run_study(
    study: str | Path | Study,
    out: str | Path | RunFolder | None = None,
    *,
    workers: int = 2,
    seeds: int | None = None,
    methods: Sequence[str] | None = None,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[StudyProgress], None] | None = None,
) -> StudyResult:
    """Run every (method, seed) of a study that ``out`` does not hold yet.

    The results depend on neither the number of workers nor on interruptions. Slow methods start first, so that the
    workers end together.

    Args:
        study: Name of a shipped one, a YAML file, or a `Study`.
        out: Folder, held until the study ends; an existing one is continued. None: nothing is written.
        workers: Processes, of one thread each; 0: in this process.
        seeds: Another number of seeds than the study's.
        methods: Labels or optimizers; only these are run.
        stop: Asked before each job; once true those that run are finished and saved.
        progress: Called after each job.

    Raises:
        StudyError: For a study that cannot be run, before any work.
        StudyFolderError: If ``out`` holds another study, with the differences.
        StoreLockedError: If another process writes ``out``.
        SearchInterrupted: After ``stop``.
        RuntimeError: If every job failed.
    """
    study = get_study(study)
    if workers < 0:
        raise ValueError(f"workers must be at least 0 (0: in this process), got {workers}")
    if seeds is not None:
        study = replace(study, seeds=seeds)
    benchmark = get_benchmark(study.benchmark)
    whole = study.resolved(benchmark)
    chosen, left_out = buildable(whole if methods is None else whole.only(methods), benchmark)
    with ExitStack() as stack:
        folder = None if out is None else stack.enter_context(RunFolder.own(out))
        runs = _Runs(None if folder is None else folder.path)
        if folder is not None:
            _open_folder(folder, whole, benchmark)
        jobs = [(method, seed) for method in chosen.methods for seed in range(chosen.seeds)]
        wanted = {(method.label, seed) for method, seed in jobs}
        done = {key: run for key, run in runs.found.items() if key in wanted}
        waiting = [(method, seed) for method, seed in jobs if (method.label, seed) not in done]
        failures: dict[tuple[str, int], JobFailure] = {}
        if waiting:
            schedule = _Schedule(waiting, done.values(), max(1, workers))
            for method, seed, outcome in _run_jobs(schedule, chosen, workers, stop or (lambda: False)):
                key = (method.label, seed)
                if outcome.status == "success":
                    done[key] = outcome.value
                    runs.append(outcome.value)
                else:
                    failures[key] = JobFailure(method.label, seed, outcome.message + outcome.place)
                    runs.append(failures[key])
                schedule.ended(method.label, outcome.seconds)
                if progress is not None:
                    n_done = len(done) + len(failures)
                    error = failures[key].error if key in failures else ""
                    progress(StudyProgress(method.label, seed, n_done, len(jobs), schedule.left_s(), error))
        if stop is not None and stop() and len(done) + len(failures) < len(jobs):
            raise SearchInterrupted(f"stopped after {len(done)} of {len(jobs)} runs; the same command continues")
    if not done:
        reasons = sorted({failure.error for failure in failures.values()})
        raise RuntimeError(f"all {len(jobs)} runs of the study failed: {'; '.join(reasons[:3])}")
    order = [(method.label, seed) for method, seed in jobs]
    return StudyResult(
        study=chosen,
        best_test_error=float(benchmark.best_test_error),
        runs=tuple(done[key] for key in order if key in done),
        failures=tuple(failures[key] for key in order if key in failures),
        left_out=left_out,
        **_noise_of(benchmark),
    )


def _noise_of(benchmark: Benchmark) -> dict[str, Any]:
    """``noise_sd`` and ``noise`` of a `StudyResult`; nothing where the benchmark does not tell."""
    noise = benchmark.training_noise if isinstance(benchmark, KnowsNoise) else None
    return {} if noise is None else {"noise_sd": noise.sd, "noise": noise.text()}


class _Schedule:
    """Which job is next: one of a method that nobody has timed yet, then those of the slowest method."""

    def __init__(self, jobs: Sequence[tuple[StudyMethod, int]], done: Iterable[SimulatedRun], workers: int) -> None:
        self.workers = workers
        self._waiting: dict[str, list[tuple[StudyMethod, int]]] = defaultdict(list)
        self._running: Counter[str] = Counter()
        self._times: dict[str, list[float]] = defaultdict(list)
        for method, seed in jobs:
            self._waiting[method.label].append((method, seed))
        for run in done:
            self._times[run.method].append(run.cpu_s)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def next(self) -> tuple[StudyMethod, int]:
        def urgency(label: str) -> float:
            return self._seconds(label) if self._times[label] or self._running[label] else math.inf

        label = max((label for label, jobs in self._waiting.items() if jobs), key=urgency)
        self._running[label] += 1
        return self._waiting[label].pop(0)

    def ended(self, label: str, seconds: float) -> None:
        """A job that `next` gave has ended."""
        self._running[label] -= 1
        self._times[label].append(seconds)

    def _seconds(self, label: str) -> float:
        """What a job of a method takes: the median, since the first one imports packages; of all if none has ended."""
        times = self._times[label] or [second for seconds in self._times.values() for second in seconds]
        return median(times) if times else 1.0

    def left_s(self) -> float:
        """Expected seconds to the end; a running job counts half."""
        labels = {*self._waiting, *self._running}
        work = [(len(self._waiting[label]) + self._running[label] / 2) * self._seconds(label) for label in labels]
        return sum(work) / self.workers


def _run_jobs(
    schedule: _Schedule, study: Study, workers: int, stop: Callable[[], bool]
) -> Iterator[tuple[StudyMethod, int, Outcome]]:
    """Results as they come; no job is started after ``stop``."""
    if workers == 0:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1):
            handler = partial(_run_job, get_benchmark(study.benchmark), study)
            while schedule and not stop():
                method, seed = schedule.next()
                yield method, seed, attempt(handler, (method, seed), lambda _: None)
        return
    recipe = pickled(partial(_make_handler, pickled(study)))  # type: ignore[arg-type]
    processes = [WorkerProcess(recipe) for _ in range(min(workers, len(schedule)))]
    idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
    for process in processes:
        idle.put(process)

    def work(job: Any) -> Outcome:
        process = idle.get()
        try:
            return process.run(job)
        finally:
            idle.put(process)

    running: dict[Future[Outcome], tuple[StudyMethod, int]] = {}
    # threads that watch one process each; they outlive their processes, which end with the thread that started them
    with ThreadPoolExecutor(len(processes)) as pool:
        try:
            while running or (schedule and not stop()):
                while schedule and len(running) < len(processes) and not stop():
                    method, seed = schedule.next()
                    running[pool.submit(work, (method.label, seed))] = (method, seed)
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    method, seed = running.pop(future)
                    yield method, seed, future.result()
        finally:
            for process in processes:
                process.close()


def _make_handler(content: bytes) -> Handler:
    """What a worker does: load study and benchmark once, then run after run."""
    from threadpoolctl import threadpool_limits

    os.environ.update(ONE_THREAD)  # for libraries that are loaded later
    threadpool_limits(limits=1)  # for those that are there
    study: Study = pickle.loads(content)
    methods = {method.label: method for method in study.methods}
    run = partial(_run_job, get_benchmark(study.benchmark), study)
    return lambda job, report: run((methods[job[0]], job[1]), report)


def _run_job(benchmark: Benchmark, study: Study, job: tuple[StudyMethod, int], _: Any) -> SimulatedRun:
    method, seed = job
    return simulate(
        benchmark,
        method,
        seed,
        student_epochs=study.student_epochs,
        min_budget_epochs=study.min_budget_epochs,
        start_with_default=study.start_with_default,
        budget_unit=study.budget_unit,
    )


# --- the folder -----------------------------------------------------------------------------------------------------


class _Runs:
    """``runs.jsonl``: a line for each job that ended, on disk when `append` returns. In memory without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / STUDY_RUNS
        self.found: dict[tuple[str, int], SimulatedRun] = {}
        if self._path is not None and self._path.exists():
            cut_torn_line(self._path)  # that job is run again
            self.found = read_runs(self._path)

    def append(self, record: SimulatedRun | JobFailure) -> None:
        if self._path is not None:
            append_line(
                self._path, record.to_json() if isinstance(record, SimulatedRun) else json.dumps(asdict(record))
            )


def read_runs(path: Path) -> dict[tuple[str, int], SimulatedRun]:
    """The runs of ``runs.jsonl``, by label and seed; failures and a torn last line are passed over.

    Raises:
        StudyFolderError: If a line cannot be read.
    """
    return _read_lines(path)[0]


def read_study(folder: Path) -> StudyResult:
    """What has come of a study so far, without any run perhaps.

    Raises:
        StudyFolderError, StudyError: If a file cannot be read, or does not say what regret counts from.
    """
    study, about = Study.from_dict(read_yaml(folder / STUDY)), read_yaml(folder / RUN)
    path = folder / STUDY_RUNS
    runs, failures = _read_lines(path) if path.is_file() else ({}, {})
    order = [(method.label, seed) for method in study.methods for seed in range(study.seeds)]
    try:
        best = float(about["benchmark"]["best_test_error"]) if runs else math.nan
    except (KeyError, TypeError, ValueError) as error:
        raise StudyFolderError(
            f"{folder / RUN} does not say the lowest test error of the benchmark; put back what was there"
        ) from error
    return StudyResult(
        study=study,
        best_test_error=best,
        runs=tuple(runs[key] for key in order if key in runs),
        failures=tuple(failure for key, failure in failures.items() if key not in runs),
        **{name: about[name] for name in ("noise_sd", "noise") if name in about},
    )


def _read_lines(path: Path) -> tuple[dict[tuple[str, int], SimulatedRun], dict[tuple[str, int], JobFailure]]:
    runs: dict[tuple[str, int], SimulatedRun] = {}
    failures: dict[tuple[str, int], JobFailure] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                values = json.loads(line)
                if not isinstance(values, dict):
                    raise ValueError("no JSON object")
                if "error" in values:
                    failures[values["method"], values["seed"]] = JobFailure(**values)
                    continue
                run = SimulatedRun.from_dict(values)
                if (run.method, run.seed) in runs:
                    raise ValueError("it stands there twice")
                runs[run.method, run.seed] = run
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                reason = " ".join(str(error).split())[:200]
                raise StudyFolderError(
                    f"{path}, line {number}: not a run of a study ({reason}); delete the line, and the same command "
                    "runs this again"
                ) from error
    return runs, failures


FREE_TO_CHANGE = ("title", "question", "reference", "seeds", "methods")
"""Keys of a study that may differ from the folder's; methods with the same label may not."""


def _open_folder(out: RunFolder, study: Study, benchmark: Benchmark) -> None:
    """Write ``study.yaml`` and ``run.yaml``, or check that those of an earlier session fit.

    Raises:
        StudyFolderError: With the differences, if the folder holds another study.
    """
    about = {
        "name": benchmark.name,
        "budgets": list(benchmark.budgets),
        "best_test_error": float(benchmark.best_test_error),  # another one after another fit
    }
    asked = yaml.safe_load(study.to_yaml())
    folder = out.path
    path, about_path = folder / STUDY, folder / RUN
    if path.exists():
        stored = read_yaml(path)
        try:
            known = {method["label"]: method for method in stored["methods"]}
            seeds_there = int(stored["seeds"])
        except (KeyError, TypeError, ValueError) as error:
            raise StudyFolderError(
                f"{path} describes no study (methods with labels, seeds); put back what was there or give another --out"
            ) from error
        differences = [
            f"{key}: {stored.get(key)!r} there, {asked.get(key)!r} asked for"
            for key in sorted({*stored, *asked} - set(FREE_TO_CHANGE))
            if stored.get(key) != asked.get(key)
        ]
        for method in asked["methods"]:
            there = known.get(method["label"], method)
            differences += [
                f"{key} of method {method['label']!r}: {there.get(key)!r} there, {method.get(key)!r} asked for"
                for key in sorted({*there, *method} - {"optional"})
                if there.get(key) != method.get(key)
            ]
        if about_path.exists():
            about_there = read_yaml(about_path).get("benchmark")
            if about_there != about:
                differences.append(f"the benchmark: {about_there} there, {about} now")
        if differences:
            raise StudyFolderError(
                f"{folder} holds another study ({'; '.join(differences)}); give another --out, or that study"
            )
        kept = {method["label"]: method for method in asked["methods"]}
        asked["methods"] = list({**known, **kept}.values())
        asked["seeds"] = max(asked["seeds"], seeds_there)
    out.write(STUDY, yaml.safe_dump(asked, sort_keys=False, allow_unicode=True))
    if not about_path.exists():
        told = {"benchmark": about, **_noise_of(benchmark), "environment": environment()}
        out.write(RUN, yaml.safe_dump(told, sort_keys=False))
