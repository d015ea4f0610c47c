"""Students in 8 bits: weights and activations, by ONNX Runtime's static quantisation.

Weights have a scale for each output channel, activations one each, from the range that they take on training pictures.
Whether a student bears it is measured on the validation split, never assumed.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.runtime import BATCHES, OnnxSession, latencies_ms

N_CALIBRATION = 256
"""Training pictures that the ranges of the activations are taken from, the first of the split."""
OLDEST_OPSET = 13
"""Scales per channel came with it."""
WORTH_FINE_TUNING = 0.5
"""Points of validation accuracy that calibration may cost before fine-tuning is recommended."""
MAX_DROP = 1.0
"""Points of validation accuracy that 8 bits may cost by default."""
LEAST_GAIN = 0.05
"""Share of size or time that has to be saved to be called a gain; repeated measurements of time differ by as much."""


@dataclass(frozen=True)
class FineTuning:
    """A training in 8 bits (`quantisation_aware`) and what it gained on the validation split."""

    epochs: int
    calibrated_accuracy: float
    """Before it."""
    accuracy: float | None
    """After it; None if it diverged."""

    @property
    def kept(self) -> bool:
        """Whether the file has the weights of it: only if they are better."""
        return self.accuracy is not None and self.accuracy > self.calibrated_accuracy

    def __str__(self) -> str:
        found = "it diverged" if self.accuracy is None else f"{100 * self.accuracy:.2f} %"
        return (
            f"calibrated {100 * self.calibrated_accuracy:.2f} %, after {self.epochs} epochs of fine-tuning in 8 bits "
            f"{found}: the {'fine-tuned' if self.kept else 'calibrated'} weights are kept"
        )


@dataclass(frozen=True)
class Int8Report:
    """What 8 bits cost and bring; accuracies are of the validation split, but `test_accuracy`."""

    n_val: int
    float_accuracy: float
    int8_accuracy: float
    agreement: float
    """Share of the validation pictures that both name alike."""
    float_ms: tuple[float, ...]
    """Latency of a call with `BATCHES` images."""
    int8_ms: tuple[float, ...]
    float_bytes: int
    int8_bytes: int
    max_drop: float = MAX_DROP
    """Points that were allowed."""
    test_accuracy: float | None = None
    """Of the 8 bits, read once they were allowed."""
    fine_tuning: FineTuning | None = None

    @property
    def drop(self) -> float:
        """Points of accuracy lost; negative if it gained."""
        return 100 * (self.float_accuracy - self.int8_accuracy)

    @property
    def worth(self) -> float:
        """Points of accuracy that one picture makes."""
        return 100 / self.n_val

    @property
    def warning(self) -> str:
        if not 0 < self.max_drop < self.worth:
            return ""
        return (
            f"--max-drop {self.max_drop:g} is less than one of the {self.n_val:,} validation pictures is worth "
            f"({self.worth:.2g} points), so it allows no loss, as 0 does"
        )

    @property
    def advice(self) -> str:
        if self.drop <= WORTH_FINE_TUNING or self.fine_tuning:
            return ""
        return f"8 bits cost {self.drop:.2f} points: --int8-fine-tune 5 trains the student on in 8 bits, for 5 epochs"

    @property
    def shares(self) -> dict[str, float]:
        """Of size and times, of the float32 file's."""
        times = zip(BATCHES, self.float_ms, self.int8_ms, strict=True)
        return {
            "size": self.int8_bytes / self.float_bytes,
            **{f"time at batch {batch}": now / before for batch, before, now in times},
        }

    @property
    def gains(self) -> dict[str, float]:
        """Those of `shares` that are smaller by at least `LEAST_GAIN`."""
        return {name: share for name, share in self.shares.items() if share <= 1 - LEAST_GAIN}

    def sentence(self) -> str:
        times = ", ".join(
            f"{before:.3f} to {now:.3f} ms at batch {batch}"
            for batch, before, now in zip(BATCHES, self.float_ms, self.int8_ms, strict=True)
        )
        lost = [f"no {name} ({share:.2f})" for name, share in self.shares.items() if name not in self.gains]
        gained = [f"{name} ({share:.2f})" for name, share in self.gains.items()]
        return (
            f"validation accuracy {100 * self.float_accuracy:.2f} to {100 * self.int8_accuracy:.2f} % "
            f"({self.n_val:,} pictures, {self.worth:.2g} points each; {100 * self.agreement:.1f} % named alike), "
            + (f"{self.fine_tuning}; " if self.fine_tuning else "")
            + f"latency {times}, {self.float_bytes / 1024:.0f} to {self.int8_bytes / 1024:.0f} KiB; 8 bits gain "
            + (", ".join([*gained, *lost]) if gained else f"nothing: {', '.join(lost)}. Ship the float32 file")
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"gains": list(self.gains), "warning": self.warning}


def quantised(content: bytes, images: np.ndarray) -> bytes:
    """A float32 file of ours in 8 bits.

    Args:
        content: Of `distillation.runtime.onnx_file` with ``fill=False``: 8 bits run in another layout.
        images: float32 ``(n, channels, height, width)`` in [0, 1], to calibrate on.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.parts = iter(np.array_split(images, max(1, len(images) // 32)))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": part}

    before = onnx.load_from_string(content)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(content)
        quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        model = onnx.load(str(target))
    model.ir_version = before.ir_version
    onnx.helper.set_model_props(model, {one.key: one.value for one in before.metadata_props})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs advice through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def as_input(images: Any) -> np.ndarray:
    """uint8 images as a file takes them."""
    array: np.ndarray = images.cpu().numpy().astype(np.float32) / np.float32(255)
    return array


def report(
    float_file: bytes, int8_file: bytes, data: TaskData, shape: tuple[int, int, int], max_drop: float = MAX_DROP
) -> Int8Report:
    """Measure both files on the validation split, and their latencies, in turns."""
    labels = data.val_labels.cpu().numpy()
    before, now = (_named(content, data.val_images) for content in (float_file, int8_file))
    float_ms, int8_ms = (latencies_ms(content, shape) for content in (float_file, int8_file))
    return Int8Report(
        n_val=len(labels),
        float_accuracy=float((before == labels).mean()),
        int8_accuracy=float((now == labels).mean()),
        agreement=float((before == now).mean()),
        float_ms=float_ms,
        int8_ms=int8_ms,
        float_bytes=len(float_file),
        int8_bytes=len(int8_file),
        max_drop=max_drop,
    )


def with_test_accuracy(report: Int8Report, int8_file: bytes, data: TaskData) -> tuple[bytes, Int8Report]:
    """The file that is shipped, stating its own accuracies and apart from them those in float32.

    Reads the test split: for files that nothing is decided for any more.
    """
    import onnx

    images, labels = data.read_test()
    tested = replace(report, test_accuracy=float((_named(int8_file, images) == labels.cpu().numpy()).mean()))
    model = onnx.load_from_string(int8_file)
    stated = {one.key: one.value for one in model.metadata_props}
    stated |= {
        "float32_result": stated["result"],
        "result": json.dumps({"val_accuracy": tested.int8_accuracy, "test_accuracy": tested.test_accuracy}),
    }
    onnx.helper.set_model_props(model, stated)
    return bytes(model.SerializeToString()), tested


def _named(content: bytes, images: Any) -> np.ndarray:
    """The classes that a file names on uint8 images."""
    session = OnnxSession(content)
    return np.concatenate([session(as_input(part)).argmax(axis=1) for part in images.split(256)])
