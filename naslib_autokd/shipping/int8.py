"""Students in 8 bits: weights and activations, by ONNX Runtime's static quantisation.

Weights have a scale for each output channel, activations one each, from the range that they take on training pictures.
Whether a student bears it is measured on the validation split, never assumed.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.runtime import BATCHES, OnnxSession, latencies_ms

N_CALIBRATION = 256
"""Training pictures that the ranges of the activations are taken from, the first of the split."""
OLDEST_OPSET = 13
"""Scales per channel came with it."""
MAX_DROP = 1.0
"""Points of validation accuracy that 8 bits may cost by default."""


@dataclass(frozen=True)
class Int8Report:
    """What 8 bits cost and bring; accuracies are of the validation split."""

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

    @property
    def drop(self) -> float:
        """Points of accuracy lost; negative if it gained."""
        return 100 * (self.float_accuracy - self.int8_accuracy)

    def sentence(self) -> str:
        times = ", ".join(
            f"{before:.3f} to {now:.3f} ms at batch {batch}"
            for batch, before, now in zip(BATCHES, self.float_ms, self.int8_ms, strict=True)
        )
        return (
            f"validation accuracy {100 * self.float_accuracy:.2f} to {100 * self.int8_accuracy:.2f} % "
            f"({self.n_val:,} pictures, {100 * self.agreement:.1f} % named alike), latency {times}, "
            f"{self.float_bytes / 1024:.0f} to {self.int8_bytes / 1024:.0f} KiB"
        )


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


def report(float_file: bytes, int8_file: bytes, data: TaskData, shape: tuple[int, int, int]) -> Int8Report:
    """Measure both files on the validation split, and their latencies, in turns."""
    labels = data.val_labels.cpu().numpy()
    accuracies, classes = [], []
    for content in (float_file, int8_file):
        session = OnnxSession(content)
        parts = [session(as_input(part)).argmax(axis=1) for part in data.val_images.split(256)]
        classes.append(np.concatenate(parts))
        accuracies.append(float((classes[-1] == labels).mean()))
    float_ms, int8_ms = (latencies_ms(content, shape) for content in (float_file, int8_file))
    return Int8Report(
        n_val=len(labels),
        float_accuracy=accuracies[0],
        int8_accuracy=accuracies[1],
        agreement=float((classes[0] == classes[1]).mean()),
        float_ms=float_ms,
        int8_ms=int8_ms,
        float_bytes=len(float_file),
        int8_bytes=len(int8_file),
    )
