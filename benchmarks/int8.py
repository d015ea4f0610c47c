"""What 8 bits cost, and what fine-tuning in 8 bits wins back: beside as many epochs of training without rounding.

    OMP_NUM_THREADS=1 python benchmarks/int8.py                # the table of docs/shipping.md; half an hour
    python benchmarks/int8.py --seeds 1 --families "17, 18, 21"

Students of cluttered-digits with separable convolutions, of three random families and the default one. The last has
steps of activations 16 times as wide as calibration finds them, so that rounding costs much. "longer" trains the same
network for the same epochs with the same seeds, but for the rounding, and is calibrated then. Accuracies in %, of
validation and test.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch
from torch import Tensor

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.runtime import OnnxSession
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.runners.finals import train_family
from naslib_autokd.search_spaces.hnag import Candidate, HNAGSpace
from naslib_autokd.search_spaces.hnag.parameters import PRESETS
from naslib_autokd.shipping import int8
from naslib_autokd.shipping.export import onnx_content
from naslib_autokd.shipping.quantisation_aware import FakeQuantised, fine_tuned
from naslib_autokd.shipping.student_file import kept_student, load_student, read_student

SMALL = replace(PRESETS["hnag-small"], operations=("separable3x3",))
WIDE = replace(
    PRESETS["hnag-wide"],
    operations=("separable3x3",),
    top_nodes=(3, 5),
    mid_nodes=(1, 3),
    bottom_nodes=(3, 4),
    head_ratio=0.0,
)


@dataclass(frozen=True)
class Case:
    family: Candidate
    max_params: int
    spread: float = 1.0
    """How many times as wide the steps of activations are as calibration finds them."""


CASES = {
    "17, 18, 21": Case(list(HNAGSpace(SMALL).sample_many(2, seed=5))[1], 8000),
    "8, 13, 24": Case(list(HNAGSpace(WIDE).sample_many(7, seed=5))[6], 8000),
    "9, 16, 28": Case(list(HNAGSpace(WIDE).sample_many(6, seed=5))[5], 8000),
    "12, 15, 19": Case(HNAGSpace(SMALL).default_candidate(), 4000, spread=16.0),
}
"""By the channels of the first seed's stages."""


class Unrounded(FakeQuantised):
    """The same network without rounding."""

    def __init__(self, float_file: bytes, *rest: Any) -> None:
        super().__init__(float_file, *rest)
        self.float_file = float_file

    def forward(self, images: Tensor) -> Tensor:
        def clipped(values: Tensor, scale: float, zero: int, low: int, high: int) -> Tensor:
            return values.clamp(min=0.0) if zero == 0 else values  # where the file has no ReLU but the clipping

        with (
            patch("torch.fake_quantize_per_tensor_affine", clipped),
            patch("torch.fake_quantize_per_channel_affine", lambda values, *rest: values),
        ):
            return super().forward(images)

    @torch.no_grad()
    def file(self) -> bytes:
        """In float32."""
        model = onnx.load_from_string(self.float_file)
        for tensor in model.graph.initializer:
            if (name := f"{tensor.name}_quantized") in self.learned:
                values = self.learned[name].detach().contiguous().numpy()
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return bytes(model.SerializeToString())


def accuracies(content: bytes, data: TaskData) -> tuple[float, float]:
    """Of validation and test, in %."""
    session, found = OnnxSession(content), []
    for images, labels in ((data.val_images, data.val_labels), data.read_test()):
        named = np.concatenate([session(int8.as_input(part)).argmax(axis=1) for part in images.split(256)])
        found.append(100 * float((named == labels.numpy()).mean()))
    return found[0], found[1]


def measure(case: Case, evaluator: KDEvaluator, seed: int, epochs: int) -> dict[str, tuple[float, float]]:
    data = evaluator.data
    evaluator.task = replace(data.task, max_params=case.max_params)
    with tempfile.TemporaryDirectory() as folder:
        train_family(evaluator, case.family, n_students=1, seed=seed, out=folder)
        path = kept_student(Path(folder))
        described, student = read_student(path), load_student(path)
    images = np.float32(case.spread) * int8.as_input(data.train_images[: int8.N_CALIBRATION])
    plain = onnx_content(student, described, fill=False)
    calibrated = int8.quantised(plain, images)
    tuned = fine_tuned(plain, calibrated, described, evaluator, epochs)
    with patch("naslib_autokd.shipping.quantisation_aware.FakeQuantised", Unrounded):
        longer = fine_tuned(plain, calibrated, described, evaluator, epochs)
    assert tuned is not None
    assert longer is not None
    files = {"float32": plain, "calibrated": calibrated, "fine-tuned": tuned, "longer": int8.quantised(longer, images)}
    return {name: accuracies(content, data) for name, content in files.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    evaluator = KDEvaluator("cluttered-digits")
    print("| channels | seed | float32 | calibrated | fine-tuned | longer, calibrated |\n|---|---|---|---|---|---|")
    for name in options.families:
        found = [measure(CASES[name], evaluator, seed, options.epochs) for seed in range(options.seeds)]
        means = {what: tuple(statistics.mean(one[what][i] for one in found) for i in range(2)) for what in found[0]}
        for seed, row in (*enumerate(found), ("mean", means)):
            cells = [f"{val:.2f}, {test:.2f}" for val, test in row.values()]
            print("|", " | ".join([name, str(seed), *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
