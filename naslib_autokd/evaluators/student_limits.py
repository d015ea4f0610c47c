"""Hard limits that every student has to keep, checked before it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

LIMITS = {
    "max_macs": ("macs", "multiply-adds of an image, --max-macs"),
    "max_train_memory": ("train_memory", "of a training step, --max-memory"),
    "max_inference_memory": ("inference_memory", "of a forward pass of one image, --max-inference-memory"),
    "max_latency_s": ("latency", "of a call in ONNX Runtime, --max-latency-ms"),
}
"""Limit -> (cost, what it is and its option); the first is counted, the others take a measurement."""


class LimitError(ValueError):
    """No student of a family keeps the limits; the message and ``needed`` (limit -> value) say what would."""

    def __init__(self, message: str, needed: Mapping[str, float]) -> None:
        super().__init__(message)
        self.needed = dict(needed)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.needed)


@dataclass(frozen=True)
class StudentLimits:
    """Upper bounds of one student, besides the task's ``max_params``; None: no bound.

    Memory is that of `distillation.costs` (live tensors), at the task's batch size in training and of one image in
    inference. The latency is measured in ONNX Runtime (`distillation.runtime`): a run with it depends on the machine.
    """

    max_macs: int | None = None
    max_train_memory: int | None = None
    max_inference_memory: int | None = None
    max_latency_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")

    def __bool__(self) -> bool:
        return any(value is not None for value in asdict(self).values())

    def first_broken(self, measure: Callable[[str], float]) -> str:
        """The first limit that a student breaks, in the order of `LIMITS`, measured no further; empty: it keeps all."""
        for name, (cost, _) in LIMITS.items():
            if (limit := getattr(self, name)) is not None and not measure(cost) <= limit:
                return name
        return ""

    def broken(self, measure: Callable[[str], float]) -> dict[str, tuple[float, float]]:
        """Limits that a student breaks: name -> (its value, the limit); ``measure`` gives a cost of it by name."""
        found = {}
        for name, (cost, _) in LIMITS.items():
            limit = getattr(self, name)
            if limit is not None and (value := measure(cost)) > limit:
                found[name] = (value, float(limit))
        return found


def amount(limit: str, value: float) -> str:
    """A value of a limit with its unit, rounded up to three digits: enough, if it is given as the limit."""
    if limit == "max_macs":
        unit, scale = "", 1.0
    elif limit == "max_latency_s":
        unit, scale = " ms", 1e-3
    else:
        unit, scale = ("MB", 2.0**20) if value >= 2**20 else ("KB", 2.0**10)
    digit = 10.0 ** (math.floor(math.log10(value / scale)) - 2)
    return f"{round(math.ceil(value / scale / digit - 1e-9) * digit, 9):.12g}{unit}"


def widest_within(
    limits: StudentLimits,
    fit: Callable[[int], Any],
    measure: Callable[[Any, str], float],
    max_params: int,
    smallest: int,
    narrowest: str = "the narrowest student of the family",
    advice: str = "raise the limit or choose families with fewer nodes",
) -> tuple[Any, str]:
    """The student of the largest width that keeps the limits, to within 2% of its parameters, and what decides it.

    That is the first limit that a wider student breaks; empty if ``max_params`` does.

    All costs grow with the width (latency up to its noise), so the number of parameters is bisected.

    Args:
        fit: Parameters to the widest student with at most so many (``fit_width``).
        measure: Cost of a student by its name in `records.OBJECTIVES`.
        smallest: Parameters of the narrowest student.
        narrowest: What an error calls it; ``advice`` is what it says to do.

    Raises:
        LimitError: If even the narrowest student breaks a limit, with what it needs.
    """
    # the narrowest first: what no width can keep is told without measuring a wide student, which is dear
    best = fit(smallest)
    broken = limits.broken(lambda cost: measure(best, cost))
    if broken:
        texts = [
            f"{name}={amount(name, limit)}, but {narrowest} needs {amount(name, value)} ({LIMITS[name][1]})"
            for name, (value, limit) in broken.items()
        ]
        needed = {name: value for name, (value, _) in broken.items()}
        raise LimitError(f"{'; '.join(texts)}: {advice}", needed)
    widest = fit(max_params)
    decides = limits.first_broken(lambda cost: measure(widest, cost))
    if not decides:
        return widest, ""
    low, high = smallest, max_params
    while high > 1.02 * low:
        middle = round((low * high) ** 0.5)
        student = fit(middle)
        broken_now = limits.first_broken(lambda cost: measure(student, cost))  # noqa: B023  (called at once)
        if broken_now:
            high, decides = middle, broken_now
        else:
            low, best = middle, student
    return best, decides


def check_reachable(student_spec: Callable[[Any], Any], families: Iterable[Any]) -> None:
    """Check before a search that some of ``families`` has a student within the limits.

    Args:
        student_spec: Family to student (``KDEvaluator.student_spec`` with a seed); raises what does not fit.

    Raises:
        LimitError: If none has, with the smallest values that any of them can reach.
    """
    reachable: dict[str, float] = {}
    n = 0
    for family in families:
        n += 1
        try:
            student_spec(family)
            return
        except LimitError as error:
            for name, value in error.needed.items():
                reachable[name] = min(value, reachable.get(name, value))
    texts = [f"{name} must be at least {amount(name, value)} ({LIMITS[name][1]})" for name, value in reachable.items()]
    raise LimitError(
        f"no student of {n} families keeps the limits; the smallest that they reach: {'; '.join(texts)}. Raise the "
        "limits, or search a space of smaller families (--preset hnag-small)",
        reachable,
    )
