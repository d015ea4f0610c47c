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
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from naslib_autokd.evaluators.base import Benchmark
from naslib_autokd.optimizers.base import Optimizer, OptimizerFactory, SearchSpaceLike, get_optimizer
from naslib_autokd.records import Proposal, StoreLockedError, derive_seed, environment
from naslib_autokd.runners.limits import Handler, Outcome, WorkerProcess, attempt, pickled
from naslib_autokd.runners.search import TooManyFailures
from naslib_autokd.tasks import did_you_mean

GRID_POINTS = 80
"""Points of a run that are looked at, at most: above so many full trainings they are spaced logarithmically."""

MAX_FAILURES = 100
"""Failed trials in a row that end a run: one that is charged nothing would go on for ever."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class StudyError(ValueError):
    """A study cannot be used; ``path`` says where (``("methods", 2, "options")``)."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class StudyFolderError(ValueError):
    """The folder holds another study."""


# --- what a study is ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyMethod:
    """One row of a study: an optimizer on a variant of the space."""

    label: str
    """What tables and figures say; unique in a study."""
    optimizer: str | OptimizerFactory
    """Name in ``OPTIMIZERS`` (or of an entry point), ``module:attribute``, or the factory itself."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the optimizer."""
    space: Mapping[str, Any] = field(default_factory=dict)
    """How the benchmark's space is changed, see `variant`: ``mode``, ``search_kd``, ``kd``, ``freeze``."""
    student_epochs: float | None = None
    """A budget of its own; None: the study's."""
    full_trainings: float | None = None
    """The same in full trainings."""
    optional: bool = False
    """Left out, with a word about it, where it cannot be built (a package is missing); else that is an error."""

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not self.label.strip():
            raise StudyError(f"a method needs a label, got {self.label!r}", ("label",))
        if not callable(self.optimizer) and not (isinstance(self.optimizer, str) and self.optimizer):
            raise StudyError(f"optimizer must be a name, got {self.optimizer!r}", ("optimizer",))
        for name, value in (("options", self.options), ("space", self.space)):
            if not isinstance(value, Mapping):
                raise StudyError(f"{name} must be a mapping, got {value!r}", (name,))
        for key in self.space:
            if key not in SPACE_KEYS:
                raise StudyError(f"unknown key {key!r} in space{did_you_mean(key, SPACE_KEYS)}", ("space", str(key)))
        if not isinstance(self.optional, bool):
            raise StudyError(f"optional must be true or false, got {self.optional!r}", ("optional",))
        _check_amounts(self.student_epochs, self.full_trainings, required=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON and YAML can hold it; what has its default is left out."""
        name = self.optimizer if isinstance(self.optimizer, str) else _name_of(self.optimizer)
        values = {**{f.name: getattr(self, f.name) for f in fields(self)}, "optimizer": name}
        values |= {"options": dict(self.options), "space": dict(self.space)}
        return {key: value for key, value in values.items() if value not in ({}, None, False)}

    @classmethod
    def from_dict(cls, values: Any) -> StudyMethod:
        """Inverse of `to_dict`; the label is the optimizer's name by default.

        Raises:
            StudyError: For an unknown key (names the nearest) or a wrong value.
        """
        _check_keys(values, [f.name for f in fields(cls)], ("optimizer",), "a method")
        label = values.get("label", values["optimizer"])
        return cls(**{**values, "label": label})


@dataclass(frozen=True)
class Study:
    """A question about search methods, and the runs that answer it."""

    name: str
    title: str
    question: str
    benchmark: str | Benchmark
    """Name in ``BENCHMARKS``, a file, or the benchmark itself."""
    student_epochs: float | None = None
    """What a run may spend: epochs of student training. None: ``full_trainings`` says it."""
    seeds: int = 20
    """Runs of each method, with the seeds 0 to ``seeds - 1``."""
    reference: str = ""
    """Label of the method that the others are compared with; the first by default."""
    methods: tuple[StudyMethod, ...] = ()
    full_trainings: float | None = None
    """The budget in trainings at the benchmark's largest budget; None once `resolved`."""
    start_with_default: bool = False
    """As in `search.search`: each run first trains the space's default family in full. A search of ours does so; off
    here, where optimizers are compared from nothing: one good guess would be the incumbent of all of them for long."""
    min_budget_epochs: int | None = None
    """Smallest budget that optimizers may use; None: the minimum of the benchmark's task, or its smallest budget."""

    def __post_init__(self) -> None:
        for name in ("name", "title", "question"):
            if not isinstance(getattr(self, name), str):
                raise StudyError(f"{name} must be text, got {getattr(self, name)!r}", (name,))
        if isinstance(self.seeds, bool) or not isinstance(self.seeds, int) or self.seeds < 1:
            raise StudyError(f"seeds must be a whole number, at least 1, got {self.seeds!r}", ("seeds",))
        _check_amounts(self.student_epochs, self.full_trainings, required=True)
        lowest = self.min_budget_epochs
        if lowest is not None and (isinstance(lowest, bool) or not isinstance(lowest, int) or lowest < 1):
            raise StudyError(
                f"min_budget_epochs must be a whole number, at least 1, got {lowest!r}", ("min_budget_epochs",)
            )
        if not isinstance(self.start_with_default, bool):
            raise StudyError(
                f"start_with_default must be true or false, got {self.start_with_default!r}", ("start_with_default",)
            )
        object.__setattr__(self, "methods", tuple(self.methods))
        if not self.methods:
            raise StudyError("a study needs at least one method", ("methods",))
        labels = [method.label for method in self.methods]
        for index, label in enumerate(labels):
            if label in labels[:index]:
                raise StudyError(f"label {label!r} appears twice: give the methods different ones", ("methods", index))
        if not self.reference:
            object.__setattr__(self, "reference", labels[0])
        if self.reference not in labels:
            raise StudyError(
                f"reference must be a method's label, got {self.reference!r}{did_you_mean(self.reference, labels)}",
                ("reference",),
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON and YAML can hold it; what has its default is left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["benchmark"] = self.benchmark if isinstance(self.benchmark, str) else self.benchmark.name
        values["methods"] = [method.to_dict() for method in self.methods]
        return {key: value for key, value in values.items() if value is not None and value is not False}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=100)

    @classmethod
    def from_dict(cls, values: Any) -> Study:
        """Inverse of `to_dict`.

        Raises:
            StudyError: For an unknown key (names the nearest), a missing one or a wrong value, with its path.
        """
        required = ("name", "title", "question", "benchmark", "methods")
        _check_keys(values, [f.name for f in fields(cls)], required, "a study")
        if not isinstance(values["benchmark"], str):
            raise StudyError(f"benchmark must be a name or a file, got {values['benchmark']!r}", ("benchmark",))
        if not isinstance(values["methods"], Sequence) or isinstance(values["methods"], str):
            raise StudyError(f"methods must be a list, got {values['methods']!r}", ("methods",))
        methods = []
        for index, content in enumerate(values["methods"]):
            try:
                methods.append(StudyMethod.from_dict(content))
            except StudyError as error:
                raise StudyError(str(error), ("methods", index, *error.path)) from None
        return cls(**{**values, "methods": tuple(methods)})

    @classmethod
    def from_yaml(cls, source: str | Path) -> Study:
        """Read a study from YAML: a path, or the text itself if it has a newline.

        Raises:
            StudyError: With the line of what is wrong.
        """
        if isinstance(source, str) and "\n" in source:
            text, where = source, "study"
        else:
            text, where = Path(source).read_text(encoding="utf-8"), str(source)
        lines: dict[tuple[str | int, ...], int] = {}
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise StudyError(f"{where}: not valid YAML: {error}") from error
        try:
            if node is not None:
                _find_lines(node, (), lines)
            return cls.from_dict(values)
        except StudyError as error:
            path = error.path
            while path and path not in lines:
                path = path[:-1]
            line = f", line {lines[path]}" if path else ""
            raise StudyError(f"{where}{line}: {error}", error.path) from error

    def resolved(self, benchmark: Benchmark) -> Study:
        """The study with all budgets in student-epochs of ``benchmark``.

        Raises:
            StudyError: If a budget does not pay one full training, or the smallest budget exceeds the largest.
        """
        full = benchmark.budgets[-1]

        def epochs(owner: Study | StudyMethod) -> float | None:
            if owner.full_trainings is not None:
                return float(owner.full_trainings * full)
            return None if owner.student_epochs is None else float(owner.student_epochs)

        methods = tuple(replace(m, student_epochs=epochs(m), full_trainings=None) for m in self.methods)
        study = replace(self, student_epochs=epochs(self), full_trainings=None, methods=methods)
        budgets = {f"method {method.label!r}": method.student_epochs for method in methods}
        for what, given in {"the study": study.student_epochs, **budgets}.items():
            if given is not None and given < full:
                raise StudyError(f"student_epochs of {what} must pay one full training ({full} epochs), got {given:g}")
        if study.min_budget_epochs is not None and study.min_budget_epochs > full:
            raise StudyError(
                f"min_budget_epochs={study.min_budget_epochs} exceeds the benchmark's full training of {full} epochs"
            )
        return study

    def epochs_of(self, method: StudyMethod) -> float:
        """Student-epochs that a run of this method may spend (of a `resolved` study)."""
        epochs = self.student_epochs if method.student_epochs is None else method.student_epochs
        assert epochs is not None, "the study is not resolved"
        return epochs

    def only(self, names: Sequence[str]) -> Study:
        """The study with these methods only (labels or optimizers), in its own order.

        Without its reference the first method is the reference.

        Raises:
            StudyError: If a name is unknown (names the nearest).
        """
        labels = [method.label for method in self.methods]
        for name in names:
            if name not in labels and all(name != method.optimizer for method in self.methods):
                raise StudyError(f"unknown method {name!r}{did_you_mean(name, labels)}")
        methods = tuple(method for method in self.methods if method.label in names or method.optimizer in names)
        kept = any(method.label == self.reference for method in methods)
        return replace(self, methods=methods, reference=self.reference if kept else "")


def _check_amounts(student_epochs: Any, full_trainings: Any, *, required: bool) -> None:
    for name, value in (("student_epochs", student_epochs), ("full_trainings", full_trainings)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise StudyError(f"{name} must be a positive number, got {value!r}", (name,))
    if student_epochs is not None and full_trainings is not None:
        raise StudyError("give student_epochs or full_trainings, not both", ("full_trainings",))
    if required and student_epochs is None and full_trainings is None:
        raise StudyError("a study needs a budget: student_epochs or full_trainings")


def _check_keys(values: Any, known: Sequence[str], required: Sequence[str], what: str) -> None:
    if not isinstance(values, Mapping):
        raise StudyError(f"{what} must be a mapping, got {values!r}")
    for key in values:
        if key not in known:
            raise StudyError(f"unknown key {key!r} in {what}{did_you_mean(key, known)}", (str(key),))
    missing = [key for key in required if key not in values]
    if missing:
        raise StudyError(f"{what} lacks {', '.join(map(repr, missing))}")


def _find_lines(node: Any, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> None:
    """Line of each key and list entry of a YAML document; a key that appears twice is refused."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            again = inner in lines
            lines[inner] = key.start_mark.line + 1
            if again:
                raise StudyError(f"key {key.value!r} appears twice", inner)
            _find_lines(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            _find_lines(value, (*path, index), lines)


def _name_of(factory: Any) -> str:
    return f"{factory.__module__}:{getattr(factory, '__qualname__', type(factory).__name__)}"


def study_names() -> list[str]:
    """The studies that come with the package."""
    folder = resources.files("naslib_autokd.runners") / "studies"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def study_text(name: str) -> str:
    """The YAML of a shipped study.

    Raises:
        StudyError: If there is none of this name (with the nearest ones).
    """
    if name not in study_names():
        raise StudyError(f"unknown study {name!r}{did_you_mean(name, study_names())}, or give a YAML file")
    return (resources.files("naslib_autokd.runners") / "studies" / f"{name}.yaml").read_text(encoding="utf-8")


def get_study(study: str | Path | Study) -> Study:
    """A shipped study by name, one of yours by path of its YAML file, or an object as it is.

    Raises:
        StudyError: If there is none, or it is wrong (with the line).
    """
    if isinstance(study, Study):
        return study
    if str(study).endswith((".yaml", ".yml")):
        if not Path(study).is_file():
            raise StudyError(f"study file {study} does not exist")
        return Study.from_yaml(Path(study))
    return Study.from_yaml(study_text(str(study)))


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


SPACE_KEYS = ("mode", "search_kd", "kd", "freeze")


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
        preset = space.preset if space.name == "custom" else space.name
        space = HNAGSpace(preset, search_kd=search_kd, kd=kd, mode=hnag.get("mode", space.mode))
    if changes.get("freeze"):
        space = FrozenSpace(space, changes["freeze"])
    found: SearchSpaceLike = space
    return found


def get_factory(optimizer: str | OptimizerFactory) -> OptimizerFactory:
    """As `get_optimizer`, and ``module:attribute`` is imported (the current folder's modules, too).

    Raises:
        ValueError: If there is no such optimizer.
    """
    if not isinstance(optimizer, str) or ":" not in optimizer:
        return get_optimizer(optimizer)
    import sys

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module, _, attribute = optimizer.partition(":")
    try:
        factory: OptimizerFactory = getattr(import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"optimizer {optimizer!r} cannot be imported: {error}") from error
    return factory


def grid(student_epochs: float, full: int) -> tuple[float, ...]:
    """Where a run is looked at: at each full training's worth, or `GRID_POINTS` of them, and at the end.

    >>> grid(40, 9)
    (9.0, 18.0, 27.0, 36.0, 40.0)
    """
    n = int(student_epochs // full)
    worth = range(1, n + 1)
    if n > GRID_POINTS:
        worth = sorted({round(n ** (i / (GRID_POINTS - 1))) for i in range(GRID_POINTS)})  # type: ignore[assignment]
    points = [float(k * full) for k in worth]
    return tuple(points if points[-1] == student_epochs else [*points, float(student_epochs)])


def min_budget_of(benchmark: Benchmark, given: int | None = None) -> int:
    """The smallest budget that optimizers may use."""
    if given is not None:
        return given
    task = getattr(benchmark, "task", None)
    return int(getattr(task, "min_budget_epochs", benchmark.budgets[0]))


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
    factory = get_factory(method.optimizer)
    try:
        optimizer = factory(
            space,
            seed=seed,
            max_budget_epochs=benchmark.budgets[-1],
            min_budget_epochs=min_budget_of(benchmark, min_budget_epochs),
            total_budget_epochs=student_epochs,
            **method.options,
        )
    except TypeError as error:  # an option that the optimizer does not have
        raise ValueError(f"optimizer {method.to_dict()['optimizer']!r}: {error}") from error
    attach = getattr(optimizer, "attach", None)  # of training-free methods, which score students themselves
    if attach is not None:
        attach(benchmark)
    return optimizer, space


def simulate(
    benchmark: Benchmark,
    method: str | StudyMethod,
    seed: int,
    *,
    student_epochs: float | None = None,
    min_budget_epochs: int | None = None,
    start_with_default: bool = False,
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

    Raises:
        ValueError: If the method cannot be built (see `make_optimizer`), or there is no budget.
        TooManyFailures: After `MAX_FAILURES` failed trials in a row.
    """
    started = time.process_time()
    if isinstance(method, str):
        method = StudyMethod(method, method)
    total = student_epochs if method.student_epochs is None else method.student_epochs
    if total is None:
        raise ValueError("give a budget: student_epochs, of the run or of its method")
    optimizer, space = make_optimizer(
        benchmark, method, seed, student_epochs=total, min_budget_epochs=min_budget_epochs
    )
    full = benchmark.budgets[-1]
    record = _Recorder(benchmark, optimizer, grid(total, full))
    first = _default_proposal(space, full, seed) if start_with_default else None
    trained, n_trials, failed_in_a_row = 0.0, 0, 0
    while True:
        proposal, first = first or optimizer.ask(), None
        spent = trained + getattr(optimizer, "extra_student_epochs", 0.0)  # asking may have cost
        if spent + proposal.budget_epochs > total:
            record.until(math.inf, n_trials)
            break
        trial = benchmark.evaluate(proposal)
        record.until(spent + trial.student_epochs, n_trials)
        trained += trial.student_epochs
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


def _default_proposal(space: SearchSpaceLike, full: int, seed: int) -> Proposal | None:
    default = getattr(space, "default_candidate", None)
    return None if default is None else Proposal(default(), full, derive_seed(seed, "trial", -1), -1)


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
    out: str | Path | None = None,
    *,
    workers: int = 2,
    seeds: int | None = None,
    methods: Sequence[str] | None = None,
    progress: Callable[[StudyProgress], None] | None = None,
) -> StudyResult:
    """Run every (method, seed) of a study that ``out`` does not hold yet.

    The results depend on neither the number of workers nor on interruptions. Slow methods start first, so that the
    workers end together.

    Args:
        study: Name of a shipped one, a YAML file, or a `Study`.
        out: Folder; an existing one is continued. None: nothing is written.
        workers: Processes, of one thread each; 0: in this process.
        seeds: Another number of seeds than the study's.
        methods: Labels or optimizers; only these are run.
        progress: Called after each job.

    Raises:
        StudyError: For a study that cannot be run, before any work.
        StudyFolderError: If ``out`` holds another study, with the differences.
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
        runs = _Runs(None if out is None else Path(out))
        if out is not None:
            stack.enter_context(runs)
            _open_folder(Path(out), whole, benchmark)
        jobs = [(method, seed) for method in chosen.methods for seed in range(chosen.seeds)]
        wanted = {(method.label, seed) for method, seed in jobs}
        done = {key: run for key, run in runs.found.items() if key in wanted}
        waiting = [(method, seed) for method, seed in jobs if (method.label, seed) not in done]
        failures: dict[tuple[str, int], JobFailure] = {}
        if waiting:
            schedule = _Schedule(waiting, done.values(), max(1, workers))
            for method, seed, outcome in _run_jobs(schedule, chosen, workers):
                key = (method.label, seed)
                if outcome.status == "success":
                    done[key] = outcome.value
                    runs.append(outcome.value)
                else:
                    failures[key] = JobFailure(method.label, seed, outcome.message)
                    runs.append(failures[key])
                schedule.ended(method.label, outcome.seconds)
                if progress is not None:
                    n_done = len(done) + len(failures)
                    error = "" if outcome.status == "success" else outcome.message
                    progress(StudyProgress(method.label, seed, n_done, len(jobs), schedule.left_s(), error))
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
    )


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


def _run_jobs(schedule: _Schedule, study: Study, workers: int) -> Iterator[tuple[StudyMethod, int, Outcome]]:
    """Results as they come."""
    if workers == 0:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1):
            handler = partial(_run_job, get_benchmark(study.benchmark), study)
            while schedule:
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
            while schedule or running:
                while schedule and len(running) < len(processes):
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
    )


# --- the folder -----------------------------------------------------------------------------------------------------


class _Runs:
    """``runs.jsonl``: a line for each job that ended, on disk when `append` returns. In memory without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.found: dict[tuple[str, int], SimulatedRun] = {}
        self._path = None if folder is None else folder / "runs.jsonl"

    def __enter__(self) -> _Runs:
        import filelock

        assert self._path is not None
        if self._path.parent.exists() and not self._path.parent.is_dir():
            raise StudyFolderError(f"--out {self._path.parent} is a file; give a folder")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(f"{self._path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise StoreLockedError(f"{self._path} is being written by another process; wait for it") from error
        if self._path.exists():
            self.found = read_runs(self._path)
            content = self._path.read_bytes()
            os.truncate(self._path, content.rfind(b"\n") + 1)  # a torn last line: that job is run again
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def append(self, record: SimulatedRun | JobFailure) -> None:
        if self._path is None:
            return
        line = record.to_json() if isinstance(record, SimulatedRun) else json.dumps(asdict(record))
        with open(self._path, "ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def read_runs(path: Path) -> dict[tuple[str, int], SimulatedRun]:
    """The runs of ``runs.jsonl``, by label and seed; failures and a torn last line are passed over.

    Raises:
        StudyFolderError: If a line cannot be read.
    """
    found: dict[tuple[str, int], SimulatedRun] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                values = json.loads(line)
                if "error" not in values:
                    run = SimulatedRun.from_dict(values)
                    found[run.method, run.seed] = run
            except (ValueError, TypeError, KeyError) as error:
                raise StudyFolderError(f"{path}, line {number}: not a run of a study ({error})") from error
    return found


FREE_TO_CHANGE = ("title", "question", "reference", "seeds", "methods")
"""Keys of a study that may differ from the folder's; methods with the same label may not."""


def _open_folder(folder: Path, study: Study, benchmark: Benchmark) -> None:
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
    path, about_path = folder / "study.yaml", folder / "run.yaml"
    if path.exists():
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        known = {method["label"]: method for method in stored["methods"]}
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
            about_there = yaml.safe_load(about_path.read_text(encoding="utf-8"))["benchmark"]
            if about_there != about:
                differences.append(f"the benchmark: {about_there} there, {about} now")
        if differences:
            raise StudyFolderError(
                f"{folder} holds another study ({'; '.join(differences)}); give another --out, or that study"
            )
        kept = {method["label"]: method for method in asked["methods"]}
        asked["methods"] = list({**known, **kept}.values())
        asked["seeds"] = max(asked["seeds"], stored["seeds"])
    _write(path, asked)
    if not about_path.exists():
        _write(about_path, {"benchmark": about, "environment": environment()})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(temporary, path)
