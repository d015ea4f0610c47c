"""Search spaces: ``hnag`` (families of random-graph students) and ``cell`` (the DARTS cells of the rival).

`get_search_space` finds a space by name, as an optimizer needs it: the presets of HNAG here, and what entry points of
the group ``naslib_autokd.search_spaces`` add (NASLib's own spaces do, see ``naslib_autokd.plugin``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from naslib_autokd.tasks import did_you_mean

ENTRY_POINTS = "naslib_autokd.search_spaces"


def _hnag(preset: str, **options: Any) -> Any:
    from naslib_autokd.search_spaces.hnag.parameters import HNAGSpace

    return HNAGSpace(preset, **options)


HNAG_PRESETS = ("hnag", "hnag-wide", "hnag-small", "hnag-small-untuned", "hnag-device")
"""The names of `hnag.parameters.PRESETS`."""
SEARCH_SPACES: dict[str, Callable[..., Any]] = {preset: partial(_hnag, preset) for preset in HNAG_PRESETS}
"""Name -> ``factory(**options)``; entry points extend it. Importing this imports no space."""


def get_search_space(space: Any, **options: Any) -> Any:
    """The search space of this name with these options; an object is returned as it is.

    Raises:
        ValueError: If there is no such space (with the nearest names), or it does not take an option.
    """
    if not isinstance(space, str):
        return space
    factory = SEARCH_SPACES.get(space)
    if factory is None:
        extra = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
        if space not in extra:
            raise ValueError(f"unknown search space {space!r}{did_you_mean(space, [*SEARCH_SPACES, *sorted(extra)])}")
        factory = extra[space].load()
    try:
        return factory(**options)
    except TypeError as error:
        raise ValueError(f"search space {space!r}: {error}") from error


@runtime_checkable
class ChecksTask(Protocol):
    """A space that cannot be searched on every task."""

    def check(self, task: Any) -> None:
        """Raise ValueError, with what to do, if it cannot be searched on this one (`tasks.Task`)."""


@runtime_checkable
class HasDefault(Protocol):
    """A space with a point that is worth a try in every search."""

    def default_candidate(self) -> Any: ...


@runtime_checkable
class DescribesItself(Protocol):
    """A space whose name does not say everything of it."""

    def describe(self) -> dict[str, Any]:
        """Plain values, for ``run.yaml``: a run is continued with the same only."""


@runtime_checkable
class FreezesItself(Protocol):
    """A space whose points with some values fixed are another space of its own kind (a table's rows)."""

    def frozen(self, fixed: Mapping[str, Any]) -> Any: ...


@runtime_checkable
class ListsPoints(Protocol):
    """A ``ConfigurationSpace`` of listed points (a table's rows): all others mean the nearest of these."""

    @property
    def legal_vectors(self) -> Any:
        """All of them, as ConfigSpace's vectors, ``(n_points, n_hyperparameters)``."""

    def draw_row(self, rng: Any) -> dict[str, Any]:
        """The values of one, drawn uniformly."""

    def nearest_row(self, values: Mapping[str, Any], held: str) -> dict[str, Any]:
        """The values of the one nearest to ``values`` with the same value of ``held``."""


@runtime_checkable
class DescribesStudents(Protocol):
    """A candidate of a space other than HNAG: it draws and fits its students itself."""

    def student_spec(self, task: Any, seed: int) -> Any:
        """The student that ``seed`` draws (`evaluators.kd.SpecLike`, and `BuildsItself`)."""


@runtime_checkable
class BuildsItself(Protocol):
    """A description of a student of another kind than HNAG's."""

    def build(self, seed: int) -> Any:
        """The ``nn.Module``, with weights drawn by ``seed``."""


@runtime_checkable
class HasSize(Protocol):
    """A candidate whose students are a share of the largest that the task allows."""

    @property
    def size(self) -> float:
        """In (0, 1]."""


@runtime_checkable
class SearchesKD(Protocol):
    """A space that may have the KD settings among its dimensions."""

    def without_kd(self) -> Any:
        """The space without them; itself if it has none."""


def without_kd(space: Any) -> Any:
    """``space`` without temperature and weight of the distillation, for students that learn from the labels alone."""
    return space.without_kd() if isinstance(space, SearchesKD) else space
