"""Checks of plain data that all parts of the space share: names with their nearest neighbour, keys with their path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from naslib_autokd.tasks import did_you_mean


class UnknownKeyError(ValueError):
    """A mapping has a key that means nothing; ``path`` says where it stands (``("generator", "topp")``)."""

    def __init__(self, message: str, path: tuple[str, ...]) -> None:
        super().__init__(message)
        self.path = path


def check_name(name: str, allowed: Iterable[str], what: str) -> None:
    """Raise ValueError unless ``name`` is one of ``allowed``."""
    allowed = tuple(allowed)
    if name not in allowed:
        raise ValueError(f"unknown {what} {name!r}{did_you_mean(name, allowed)}")


def check_mapping(
    values: Any, allowed: Iterable[str], what: str, path: tuple[str, ...] = (), required: Iterable[str] = ()
) -> Mapping[str, Any]:
    """``values`` if it is a mapping with known keys and without missing ones.

    Raises:
        UnknownKeyError: Names the key and the nearest known one.
        ValueError: If it is not a mapping or lacks a required key.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} must be a mapping, got {values!r}")
    allowed = tuple(allowed)
    for key in values:
        if key not in allowed:
            raise UnknownKeyError(f"unknown key {key!r} in {what}{did_you_mean(key, allowed)}", (*path, str(key)))
    missing = [key for key in required if key not in values]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(map(repr, missing))}")
    return values


def check_integer(value: Any, what: str, smallest: int) -> int:
    """``value`` as int (numpy's integers and integral floats pass), at least ``smallest``."""
    if isinstance(value, bool) or not hasattr(value, "__int__") or isinstance(value, str) or int(value) != value:
        raise ValueError(f"{what} must be an integer, got {value!r}")
    if value < smallest:
        raise ValueError(f"{what} must be at least {smallest}, got {value}")
    return int(value)


def check_real(value: Any, what: str, low: float, high: float, *, open_low: bool = False) -> float:
    """``value`` as float in [low, high] (or (low, high] with ``open_low``); NaN is never inside."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise ValueError(f"{what} must be a number, got {value!r}")
    number = float(value)
    if not (low < number if open_low else low <= number) or not number <= high or number == float("inf"):
        if high == float("inf"):
            allowed = f"{'greater than' if open_low else 'at least'} {low:g} and finite"
        else:
            allowed = f"in {'(' if open_low else '['}{low:g}, {high:g}]"
        raise ValueError(f"{what} must be {allowed}, got {value}")
    return number


def check_range(bounds: Any, what: str, low: float, high: float, *, open_low: bool = False) -> tuple[Any, Any]:
    """``bounds`` if they are two numbers in ascending order (equal ones fix a value), each as `check_real` wants it."""
    if isinstance(bounds, str) or not hasattr(bounds, "__len__") or len(bounds) != 2:
        raise ValueError(f"the range of {what} is two numbers, the smallest and the largest value, got {bounds!r}")
    for bound in bounds:
        check_real(bound, f"the range of {what}", low, high, open_low=open_low)
    if bounds[0] > bounds[1]:
        raise ValueError(f"the range of {what} is reversed: {bounds[0]} is larger than {bounds[1]}")
    return bounds[0], bounds[1]
