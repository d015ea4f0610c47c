"""What a final training came to: one row of a result table, and a line of ``finals.jsonl``. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class FinalResult:
    """A network after its final training (or the teacher): one row of a result table."""

    name: str
    seed: int
    status: str
    """``success`` or ``diverged``; accuracies of a diverged training are 0."""
    message: str
    epochs: float
    val_accuracy: float
    teacher_agreement: float
    """On the validation split."""
    n_params: int
    macs: int
    train_memory_bytes: int
    """See `costs.train_memory`, at the task's batch size."""
    seconds: float
    """Of training."""
    temperature: float | None = None
    """None if trained without a teacher."""
    kd_weight: float | None = None
    curve: tuple[float, ...] = ()
    test_accuracy: float | None = None
    """None until `KDEvaluator.judge`."""
    test_agreement: float | None = None
    test_counts: dict[str, Any] = field(default_factory=dict)
    """What the student and the teacher did on the test split (`judgement.judgement`); empty until `judge`."""
    precision: str = "float32"
    """What it was trained in: ``float32`` or ``bfloat16``."""
    training_seconds: float | None = None
    """CPU seconds of the training by the model (`distillation.training_cost`); None where it was not asked."""

    def to_dict(self) -> dict[str, Any]:
        """Without ``training_seconds`` where there are none: files of older versions keep their digests."""
        return {name: v for name, v in asdict(self).items() if name != "training_seconds" or v is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinalResult:
        """Inverse of `to_dict`.

        Raises:
            ValueError: If a field is unknown (a record of a newer version) or missing, or has a type or a value that
                no training has.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"final result has unknown fields {', '.join(unknown)}: written by another version")
        for name, value in values.items():
            check_value(name, value, _TYPES[name], optional=name in _OPTIONAL, share=name in _SHARES)
        try:
            return cls(**{**values, "curve": tuple(values.get("curve", ()))})
        except TypeError as error:
            raise ValueError(f"final result is incomplete: {error}") from error


def same_bytes(file: bytes) -> bytes:
    """A safetensors file with its metadata sorted: its library writes them in another order each time."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[8 + length :]


_NUMBER = (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "status", "message", "precision"), (str,)),
    **dict.fromkeys(("seed", "n_params", "macs", "train_memory_bytes"), (int,)),
    **dict.fromkeys(("epochs", "val_accuracy", "teacher_agreement", "seconds", "temperature", "kd_weight"), _NUMBER),
    **dict.fromkeys(("test_accuracy", "test_agreement", "training_seconds"), _NUMBER),
    "curve": (list, tuple),
    "test_counts": (dict,),
}
_OPTIONAL = ("temperature", "kd_weight", "test_accuracy", "test_agreement", "training_seconds")
_SHARES = ("val_accuracy", "teacher_agreement", "test_accuracy", "test_agreement", "kd_weight")


def check_value(name: str, value: Any, types: tuple[type, ...], *, optional: bool, share: bool) -> None:
    """Raise ValueError unless a record's value has one of these types and is finite, >= 0 and, a share, <= 1."""
    if value is None and optional:
        return
    if type(value) not in types:
        raise ValueError(f"{name} must be {' or '.join(t.__name__ for t in types)}, got {str(value)[:40]!r}")
    if isinstance(value, int | float) and not (0 <= value <= (1 if share else math.inf) and math.isfinite(value)):
        raise ValueError(f"{name} must be {'in [0, 1]' if share else 'finite and not negative'}, got {value}")
