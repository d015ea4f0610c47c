"""What a study of search methods is: its budget, its methods and what each changes of the space, read from YAML.

`ablation.run_study` runs it. The format is described in ``docs/ablations.md``; the studies that come with the package
are the files in ``studies/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from naslib_autokd.evaluators.base import Benchmark, PredictsTrainingSeconds
from naslib_autokd.optimizers.base import OptimizerFactory
from naslib_autokd.settings import did_you_mean, read_yaml, read_yaml_file

SPACE_KEYS = ("mode", "search_kd", "kd", "freeze")
"""What a method may change of the benchmark's space, see `ablation.variant`."""


UNITS_IN_WORDS = {"student_epochs": "student-epochs", "training_seconds": "default-epochs of time"}
"""Name -> what charts and sentences call it."""


class StudyError(ValueError):
    """A study cannot be used; ``path`` says where (``("methods", 2, "options")``)."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


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
    """How the benchmark's space is changed, see `ablation.variant`: ``mode``, ``search_kd``, ``kd``, ``freeze``."""
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
    budget_unit: str = "student_epochs"
    """What a budget counts (a key of `UNITS_IN_WORDS`). ``training_seconds``: modelled CPU time, in epochs of the
    space's default family: a training that takes half as long as the default's counts half of its epochs."""
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
        if self.budget_unit not in UNITS_IN_WORDS:
            near = did_you_mean(self.budget_unit, UNITS_IN_WORDS)
            raise StudyError(f"unknown budget_unit {self.budget_unit!r}{near}", ("budget_unit",))
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
        if self.budget_unit == "student_epochs":
            del values["budget_unit"]  # files of older versions say nothing
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
            document = read_yaml(source, "study", error=StudyError)
        else:
            document = read_yaml_file(source, error=StudyError, what="study file")
        try:
            return cls.from_dict(document.values)
        except StudyError as error:
            raise StudyError(f"{document.place(error.path)}: {error}", error.path) from error

    def resolved(self, benchmark: Benchmark) -> Study:
        """The study with all budgets in student-epochs of ``benchmark``.

        Raises:
            StudyError: If a budget does not pay one full training, or the smallest budget exceeds the largest.
        """
        full = benchmark.budgets[-1]
        if self.budget_unit == "training_seconds" and not isinstance(benchmark, PredictsTrainingSeconds):
            raise StudyError(f"budget_unit training_seconds: {benchmark.name} does not tell what a training takes")

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
