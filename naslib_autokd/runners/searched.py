"""What a search varied: the hyperparameters of its recorded trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from naslib_autokd.records import Trial
from naslib_autokd.runners.statistics import FloatArray

Values = dict[str, Any]
"""Hyperparameter -> value, of those that are active."""


@dataclass(frozen=True)
class Hyperparameter:
    """One that was searched: a range of numbers, or some choices."""

    name: str
    choices: tuple[Any, ...]
    """Empty for a range."""
    low: Any
    high: Any
    """Ends of the range, or the least and the largest choice; None for words."""
    log: bool
    whole: bool
    """A range of whole numbers."""
    default: Any
    code: Callable[[Any], float]
    """A value as a number: ConfigSpace's own in [0, 1]; observed words by their order."""

    @property
    def kind(self) -> str:
        """``number`` or ``category``."""
        return "category" if self.low is None else "number"

    @classmethod
    def of_space(cls, own: Any) -> Hyperparameter:
        """As ConfigSpace has it."""
        from ConfigSpace.hyperparameters import IntegerHyperparameter, NumericalHyperparameter, OrdinalHyperparameter

        code = lru_cache(maxsize=None)(lambda value: float(own.to_vector(value)))
        default = _plain(own.default_value)
        if isinstance(own, NumericalHyperparameter):
            whole = isinstance(own, IntegerHyperparameter)
            return cls(own.name, (), own.lower, own.upper, bool(own.log), whole, default, code)
        listed: Sequence[Any] = own.sequence if isinstance(own, OrdinalHyperparameter) else own.choices
        choices = tuple(map(_plain, listed))
        ends: tuple[Any, Any] = (min(choices), max(choices)) if all(map(_is_number, choices)) else (None, None)
        return cls(own.name, choices, *ends, False, False, default, code)

    @classmethod
    def observed(cls, name: str, values: Sequence[Any]) -> Hyperparameter:
        """With the range or the words that trials had; the first one's is the default."""
        if not all(map(_is_number, values)):
            words = tuple(sorted(set(map(str, values))))
            return cls(name, words, None, None, False, False, str(values[0]), lambda value: words.index(str(value)))
        whole = all(isinstance(value, int) for value in values)
        return cls(name, (), min(values), max(values), False, whole, values[0], float)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class SearchedSettings:
    """Hyperparameters of trials, and the space if it can be made again from what the run says of it."""

    values: list[Values]
    """One for each trial."""
    hyperparameters: list[Hyperparameter]
    space: Any = None
    """None for a space that is not HNAG's: its candidates are then flat numbers and words without ranges."""

    @classmethod
    def of(cls, trials: Sequence[Trial], described: Any) -> SearchedSettings:
        """Of trials whose run described its space so (``run.yaml``)."""
        from naslib_autokd.search_spaces.hnag.parameters import HNAGSpace

        try:
            space = HNAGSpace.of({"name": described} if isinstance(described, str) else dict(described or {}))
            own = space.configuration_space()
            found = [Hyperparameter.of_space(own[name]) for name in own if name != "wiring_seed"]
            return cls(_values(trials, space), found, space)
        except (ValueError, TypeError):  # another space, or candidates that are not of this one: taken as they are
            pass
        flat = [_flat(trial.candidate) for trial in trials]
        names = list(dict.fromkeys(name for row in flat for name in row))
        varied = [name for name in names if len({repr(row.get(name)) for row in flat}) > 1]
        values = [{name: row[name] for name in varied if name in row} for row in flat]
        return cls(values, [Hyperparameter.observed(n, [row[n] for row in values if n in row]) for n in varied])

    def encoded(self, values: Iterable[Values]) -> FloatArray:
        """``(rows, hyperparameters)``: `Hyperparameter.code`, -1 where inactive."""
        return np.array(
            [
                [each.code(row[each.name]) if each.name in row else -1.0 for each in self.hyperparameters]
                for row in values
            ]
        )


def _values(trials: Sequence[Trial], space: Any) -> list[Values]:
    from naslib_autokd.search_spaces.hnag.parameters import Candidate

    known: dict[str, Values] = {}
    for trial in trials:
        if trial.candidate_digest not in known:
            values = space.values(Candidate.from_dict(trial.candidate))
            values.pop("wiring_seed", None)  # which wiring of its family, no property of it
            known[trial.candidate_digest] = values
    return [known[trial.candidate_digest] for trial in trials]


def _flat(content: Any, prefix: str = "") -> Values:
    """Numbers and words of nested values by dotted names."""
    if isinstance(content, Mapping):
        found: Values = {}
        for key, value in content.items():
            found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(content, list | tuple):
        return _flat(dict(enumerate(content)), prefix) if len(content) <= 32 else {}
    return {prefix: content} if isinstance(content, str | int | float) else {}
