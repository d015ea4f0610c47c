"""Folded operations compute what the student computes, and the runtime finds nothing to fold or to reorder in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from test_hnag_student import CASES, EVERYTHING, randomised, spec_of

from naslib_autokd.distillation.runtime import OnnxSession, onnx_file
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.search_spaces.hnag.folding import Op, fold
from naslib_autokd.search_spaces.hnag.generator import ErdosRenyi, Generator, WattsStrogatz
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec, fit_width

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SPECS: dict[str, StudentSpec] = {
    **CASES,
    **{
        f"everything {seed}": spec_of(
            EVERYTHING, seed, channels=(1 + seed % 8, 5, 13), image_size=9 + seed, stem=("small", "large")[seed % 2]
        )
        for seed in range(20, 28)
    },
    "dense": spec_of(
        Generator(WattsStrogatz(5, 4, 0.5), ErdosRenyi(4, 0.7), WattsStrogatz(5, 4, 0.5), head_ratio=9.0),
        3,
        image_size=13,
        channels=(7, 9, 12),
    ),
}


def images_of(spec: StudentSpec, n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((n, spec.in_channels, spec.image_size, spec.image_size), dtype=np.float32)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_the_file_computes_what_the_student_computes(name: str, fill: bool) -> None:
    spec = SPECS[name]
    student = randomised(spec, seed=4).float().eval()
    mean, std = MEAN[: spec.in_channels], STD[: spec.in_channels]
    images = images_of(spec)
    with torch.no_grad():
        normalised = (torch.from_numpy(images) - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
        expected = student.double()(normalised.double()).numpy()
    shape = images.shape[1:]
    got = OnnxSession(onnx_file(student.float(), shape, mean, std, fill=fill))(images)
    assert np.abs(got - expected).max() / np.abs(expected).max() < 1e-5


def optimised(content: bytes, tmp_path: Path) -> Counter[str]:
    """How often each operation is in what ONNX Runtime makes of a file."""
    OnnxSession(content, save_optimized=str(tmp_path / "optimised.onnx"))
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)


def test_the_runtime_runs_a_convolution_for_each_and_hardly_anything_else(tmp_path: Path) -> None:
    """torch's exporter leaves a multiplication for each edge and reorders around them."""
    spec = fit_width(HNAGSpace("hnag").default_candidate().sample_wiring(0), 300_000, in_channels=3, image_size=32,
                     n_classes=10)  # fmt: skip
    student = randomised(spec, seed=1).float().eval()
    found = optimised(onnx_file(student, (3, 32, 32), MEAN, STD), tmp_path)
    n_convs = len(student.convs)
    assert not found["Mul"]
    assert not found["Add"]  # each is part of a convolution
    assert not found["ReorderInput"]
    assert found["ReorderOutput"] <= 1
    merges = sum(name == "sum" for cell in spec.wiring.cells for node in cell.nodes for name in node.merges)
    assert n_convs <= found["Conv"] <= n_convs + merges / 2


def is_factor(op: Op) -> bool:
    """Whether it only multiplies its input by one number."""
    return op.kind == "conv" and op.weight.shape[1:] == (1, 1, 1) and op.detail[2] > 1 and np.ptp(op.weight) == 0


def test_weights_of_merges_along_a_forest_are_gone() -> None:
    """Of two values and two merges that both read, one of four weights is left; of values with one reader none."""
    n_left = 0
    for spec in SPECS.values():
        ops = fold(randomised(spec, seed=4).float().eval())
        sums, left = [op for op in ops if op.kind == "sum"], [op for op in ops if is_factor(op)]
        assert len(left) <= sum(len(op.inputs) for op in sums) - len(sums)
        readers = Counter(source for op in ops for source in op.inputs)
        assert all(readers[op.inputs[0]] > 1 for op in left)
        n_left += len(left)
    assert n_left > 10  # else nothing was looked at
