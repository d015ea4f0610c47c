"""Points of NASLib's own search spaces, and the spaces as our optimizers see them: plain data and ConfigSpace.

A point is an `ArchitectureCandidate`: an architecture (plain data, in NASLib's own form) and the KD settings that its
training uses. NASLib and torch are imported only where a student's network is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from naslib_autokd.plugin.architectures import ARCHITECTURES, Architecture, Architectures
from naslib_autokd.records import content_digest
from naslib_autokd.search_spaces.hnag._checks import check_mapping, check_name
from naslib_autokd.search_spaces.hnag.parameters import KDSettings

if TYPE_CHECKING:
    import ConfigSpace
    import numpy

    from naslib_autokd.tasks import Task

TEMPERATURE_RANGE = (1.0, 10.0)
KD_WEIGHT_RANGE = (0.0, 1.0)


def architectures_of(space: str) -> Architectures:
    """The architectures of the space of this name.

    Raises:
        ValueError: If there is no such space (names the nearest).
    """
    check_name(space, ARCHITECTURES, "space of NASLib")
    return ARCHITECTURES[space]


@dataclass(frozen=True)
class ArchitectureCandidate:
    """One architecture of one of NASLib's spaces, and how it is taught. Plain data.

    Raises:
        ValueError: If there is no such space, or it has no such architecture.
    """

    space: str
    """A name in `architectures.ARCHITECTURES`."""
    architecture: Architecture
    """In the canonical form of the space; other forms that NASLib takes are brought into it."""
    kd: KDSettings = field(default_factory=KDSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "architecture", architectures_of(self.space).canonical(self.architecture))

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the content, the same on every machine."""
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {"space": self.space, "architecture": _lists(self.architecture), "kd": self.kd.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArchitectureCandidate:
        """Inverse of `to_dict`; ``kd`` may be missing.

        Raises:
            UnknownKeyError: A ValueError that names the key and the nearest known one.
            ValueError: If a value is missing or no architecture of the space.
        """
        required = ("space", "architecture")
        check_mapping(values, (*required, "kd"), "candidate", required=required)
        return cls(values["space"], values["architecture"], KDSettings.from_dict(values.get("kd", {}), ("kd",)))

    def student_spec(self, task: Task, seed: int) -> Any:
        """The architecture's network at the task's image size, channels and classes, within its parameter limit.

        Args:
            seed: Takes no part: an architecture is one network, only its weights are random.

        Raises:
            ParameterBudgetError: If even the narrowest network is too large for the task.
            NASLibError: If NASLib, which builds it, is missing.
        """
        from naslib_autokd.plugin.students import student_spec

        return student_spec(self.space, self.architecture, task)


class ArchitectureSpace:
    """One of NASLib's search spaces as our optimizers see it, without NASLib's graph (`spaces.NASLibSpace` has it).

    Args:
        name: A name in `architectures.ARCHITECTURES`.
        search_kd: Whether temperature and kd_weight are searched too. False for a benchmark's table, which knows
            nothing of teachers; trainings then use ``kd`` for all.
        kd: Fixed KD settings, and the defaults of searched ones.

    Raises:
        ValueError: If there is no such space (names the nearest).
    """

    def __init__(self, name: str, *, search_kd: bool = True, kd: KDSettings | None = None) -> None:
        self.architectures = architectures_of(name)
        self.name, self.search_kd = name, search_kd
        self.kd = kd if kd is not None else KDSettings()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, search_kd={self.search_kd}, kd={self.kd})"

    def without_kd(self) -> Self:
        """The space without temperature and kd_weight, for trainings on the labels alone; itself if it has none."""
        return self if not self.search_kd else type(self)(self.name, search_kd=False, kd=self.kd)

    def configuration_space(self) -> ConfigSpace.ConfigurationSpace:
        """A fresh ConfigSpace, the same every time (its random state too: seed 0). Every point is an architecture."""
        from ConfigSpace import ConfigurationSpace, Float

        space = ConfigurationSpace(name=self.name, seed=0)
        space.add(self.architectures.hyperparameters())
        if self.search_kd:
            for name, bounds, log in (
                ("temperature", TEMPERATURE_RANGE, True),
                ("kd_weight", KD_WEIGHT_RANGE, False),
            ):
                default = min(max(getattr(self.kd, name), bounds[0]), bounds[1])
                space.add(Float(name, bounds, default=default, log=log))
        return space

    @cached_property
    def _space(self) -> ConfigSpace.ConfigurationSpace:
        return self.configuration_space()

    def describe(self) -> dict[str, Any]:
        """What tells this space from others, as JSON can hold it (for ``run.yaml``)."""
        return {"name": self.name, "search_kd": self.search_kd, "kd": self.kd.to_dict()}

    def check(self, task: Task) -> None:
        """Check before any work that the default architecture fits the task's images and parameter limit.

        Raises:
            ParameterBudgetError: A ValueError, if the limit is too low.
            NASLibError: If NASLib, which builds the students, is missing.
        """
        self.default_candidate().student_spec(task, 0)

    def candidate(self, values: Mapping[str, Any]) -> ArchitectureCandidate:
        """The candidate of a configuration (ConfigSpace's, or any mapping of all hyperparameters).

        Raises:
            ValueError: If a name is unknown (names the nearest), a value missing or outside its range.
        """
        from ConfigSpace import Configuration

        plain = {name: _plain(value) for name, value in dict(values).items()}
        check_mapping(plain, list(self._space), f"configuration of {self.name}")
        try:
            Configuration(self._space, values=plain)
        except (ValueError, KeyError) as error:  # ConfigSpace's own errors are these
            raise ValueError(f"not a configuration of {self.name}: {error}") from error
        kd = KDSettings(plain["temperature"], plain["kd_weight"]) if self.search_kd else self.kd
        return ArchitectureCandidate(self.name, self.architectures.architecture(plain), kd)

    def values(self, candidate: ArchitectureCandidate) -> dict[str, Any]:
        """A configuration of the candidate, plain values; `candidate` is its inverse.

        Raises:
            ValueError: If the candidate is not in this space.
        """
        self.check_candidate(candidate)
        values = self.architectures.values(candidate.architecture)
        return values | candidate.kd.to_dict() if self.search_kd else values

    def check_candidate(self, candidate: Any) -> None:
        """Raise ValueError unless ``candidate`` is one of this space."""
        if not isinstance(candidate, ArchitectureCandidate) or candidate.space != self.name:
            raise ValueError(f"not a candidate of {self.name}: {candidate!r}")
        kd = candidate.kd
        if not self.search_kd and kd != self.kd:
            raise ValueError(f"candidate {candidate.digest} has {kd}, but this space fixes {self.kd}")
        for name, (low, high) in (("temperature", TEMPERATURE_RANGE), ("kd_weight", KD_WEIGHT_RANGE)):
            if self.search_kd and not low <= getattr(kd, name) <= high:
                raise ValueError(f"{name} of this space is in [{low:g}, {high:g}], got {getattr(kd, name):g}")

    def default_candidate(self) -> ArchitectureCandidate:
        """A sensible first guess (`Architectures.default`) with the default KD settings."""
        return ArchitectureCandidate(self.name, self.architectures.default, self.kd)

    def sample(self, rng: numpy.random.Generator) -> ArchitectureCandidate:
        """Draw a candidate uniformly over the hyperparameters (the temperature log-uniformly)."""
        self._space.seed(int(rng.integers(2**31)))
        return self.candidate(self._space.sample_configuration())


def _lists(value: Any) -> Any:
    return [_lists(part) for part in value] if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    """numpy's scalars as Python's."""
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, str) else value
