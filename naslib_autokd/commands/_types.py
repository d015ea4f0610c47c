"""What the values of options are: numbers with ranges, texts; and what errors and configuration files call them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

GENERAL = ("help", "config", "json", "debug")
"""Options of the commands themselves, the same for all."""


@dataclass(frozen=True)
class Number:
    """Type of the options that take a number: finite, and in the range that they allow.

    Called with what was typed, or with the number of a configuration file; what is wrong is told as what it must be.
    """

    kind: type[int] | type[float]
    low: float
    high: float
    above: bool = False
    """Whether ``low`` itself is refused."""

    def __call__(self, given: str | float) -> int | float:
        try:
            number = self.kind(given)
            right = number == given or isinstance(given, str)
        except (ValueError, OverflowError):  # no number; infinity as an int
            right = False
        if not right or number != number:
            raise argparse.ArgumentTypeError("a whole number" if self.kind is int else "a number")
        if number < self.low or (self.above and number == self.low):
            raise argparse.ArgumentTypeError(f"{'more than' if self.above else 'at least'} {self.low:g}")
        if number > self.high:
            raise argparse.ArgumentTypeError(f"at most {self.high:.10g}")
        return number


@dataclass(frozen=True)
class NumberOr(Number):
    """The same, or a word."""

    word: str = ""

    def __call__(self, given: str | float) -> Any:
        return given if given == self.word else super().__call__(given)


def whole(low: int = 1, high: int = 10**9) -> Number:
    """A whole number from ``low`` to ``high``."""
    return Number(int, low, high)


def positive(high: float = 1e9) -> Number:
    """A number above 0, up to ``high``: 1e9 seconds are 30 years."""
    return Number(float, 0.0, high, above=True)


SEED = whole(0, 2**32 - 1)
SHARE = Number(float, 0.0, 1.0)


def check_text(text: str) -> str:
    """What is typed or written as the value of an option.

    Raises:
        ArgumentTypeError: If it is empty, or no system call would take it.
    """
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("a text that is not empty and holds no NUL")
    return text


def objective(text: str) -> str:
    """What students learn from.

    Raises:
        ArgumentTypeError: If it is neither a name nor the form of one's own loss.
    """
    if text not in ("kd", "ce") and not all(text.partition(":")):
        raise argparse.ArgumentTypeError("kd, ce or MODULE:FUNCTION")
    return text


def name_of(action: argparse.Action) -> str:
    """What errors and configuration files call an option or an argument."""
    if action.option_strings:
        return max(action.option_strings, key=lambda text: (text.startswith("--"), -action.option_strings.index(text)))
    return str(action.metavar or action.dest)


def settings_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What of a command may stand in a configuration file: all options but the general ones, and optional arguments."""
    return [
        action
        for action in parser._actions
        if action.dest not in GENERAL
        and action.help != argparse.SUPPRESS
        and (action.option_strings or action.nargs == "?")
    ]
