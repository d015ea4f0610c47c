"""Which widths of a student keep a latency, with few measurements: what is far from the limit is predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

NEAR = 0.05
"""Relative error of predictions once another width of the same wiring was measured, and the prediction scaled to it."""


class Model(Protocol):
    """What predicts latencies (`distillation.latency_model.LatencyModel`)."""

    error: float
    """Relative error that most predictions keep."""

    def predict(self, student: Any) -> float:
        """Seconds of a call."""


class LatencyScreen:
    """Latencies of the students of one wiring: seconds that tell on which side of ``limit`` each is.

    Args:
        measure: Student to seconds.
        model: None measures all. A prediction is used where it is farther from the limit than its error.
    """

    def __init__(self, measure: Callable[[Any], float], limit: float, model: Model | None = None) -> None:
        self._measure, self._limit, self._model = measure, limit, model
        self._error = 0.0 if model is None else model.error
        self._scale, self._surprised = 1.0, False
        self._measured: dict[Any, float] = {}

    def __call__(self, student: Any) -> float:
        if self._model is None or student.channels in self._measured:
            return self.measured(student)
        seconds = self._scale * self._model.predict(student)
        margin = 1 + self._error
        return seconds if seconds > self._limit * margin or seconds * margin < self._limit else self.measured(student)

    def measured(self, student: Any) -> float:
        if student.channels not in self._measured:
            seconds = self._measured[student.channels] = self._measure(student)
            if self._model is not None:
                scale = seconds / self._model.predict(student)
                self._surprised |= abs(scale / self._scale - 1) > self._error
                self._scale, self._error = scale, min(self._error, NEAR)
        return self._measured[student.channels]

    def settles(self, student: Any) -> bool:
        """Whether a student, measured, keeps the limit, and no prediction was wrong since this was last asked."""
        kept = self.measured(student) <= self._limit
        surprised, self._surprised = self._surprised, False
        return kept and not surprised

    def distrust(self) -> None:
        """Measure all from now on."""
        self._model = None
