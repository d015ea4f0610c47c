"""Fine-tuning in 8 bits: weights learn with the rounding that their file has.

A forward pass is that of the 8-bit ONNX file, node by node: it rounds weights, biases and activations in the same
places with the same scales, which stay as they were calibrated. Gradients pass straight through the rounding, and are
zero where it clips. What was learned goes back into the file.

Source: Jacob et al. 2018, arXiv:1712.05877, section 3. Departures: ranges are calibrated before, not learned, and batch
norms are folded before, with the statistics of the training in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.distillation.training import TrainingSettings, limited_threads, train
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.records import derive_seed
from naslib_autokd.search_spaces.hnag import KDSettings
from naslib_autokd.shipping.student_file import StudentFile

SETTINGS = TrainingSettings(lr=0.003, weight_decay=0.0, cuda_graph=False)
"""Folded weights have no batch norms behind them, which would bear the rate of trainings, 0.1."""
WHOLE = "_quantized"
"""What ONNX Runtime appends to the name of a constant."""
LARGEST = {torch.int8: 127, torch.int32: 2**31 - 1}
"""Whole numbers of a weight and of a bias; ONNX Runtime quantises both symmetrically."""


class FakeQuantised(nn.Module):
    """An 8-bit file as a module that can be trained: logits of normalised images.

    Logits are those of ONNX Runtime, but for values that lie in the middle between two steps, as means of an average
    pooling often do: these are rounded up by one and down by the other.

    Args:
        float_file: What `int8.quantised` was given; its weights and biases are where the training begins.
        int8_file: What `int8.quantised` made of it.
        mean: Of the images per channel, if their values are in [0, 1].
        std: Likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, float_file: bytes, int8_file: bytes, mean: Sequence[float], std: Sequence[float]) -> None:
        import onnx

        super().__init__()
        self.model = onnx.load_from_string(int8_file)
        self.constants, floats = _constants(self.model), _constants(onnx.load_from_string(float_file))
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.learned = nn.ParameterDict(
            {
                name: nn.Parameter(floats[name.removesuffix(WHOLE)])
                for node in self.model.graph.node
                if (name := node.input[0]).endswith(WHOLE) and name in self.constants
            }
        )
        """Weights and biases, by the names of their whole numbers in the file."""
        self.nodes = [
            (
                node.op_type,
                list(node.input),
                node.output[0],
                {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute},
            )
            for node in self.model.graph.node
        ]
        self.scales = {node.input[0]: node.input[1] for node in self.model.graph.node if node.input[0] in self.learned}

    def forward(self, images: Tensor) -> Tensor:
        values = {"images": images * self.std + self.mean}
        for kind, (first, *others), output, attributes in self.nodes:
            if first in self.learned:
                values[output] = self._rounded(first)
            elif kind == "QuantizeLinear":
                scale, zero = (self.constants[name].item() for name in others)
                values[output] = torch.fake_quantize_per_tensor_affine(values[first], scale, int(zero), 0, 255)
            elif kind == "DequantizeLinear":
                values[output] = values[first]
            else:
                rest = [values[name] if name in values else self.constants[name].to(images) for name in others]
                values[output] = _computed(kind, values[first], rest, attributes)
        return values["logits"]

    def _rounded(self, name: str) -> Tensor:
        values, scale = self.learned[name], self.constants[self.scales[name]].to(self.mean.device)
        zeros, largest = torch.zeros_like(scale, dtype=torch.int32), LARGEST[self.constants[name].dtype]
        return torch.fake_quantize_per_channel_affine(values, scale, zeros, 0, -largest, largest)

    @torch.no_grad()
    def file(self) -> bytes:
        """The 8-bit file with what was learned."""
        from onnx import numpy_helper

        for tensor in self.model.graph.initializer:
            if tensor.name in self.learned:
                rounded = self._rounded(tensor.name).cpu().double()
                scale = self.constants[self.scales[tensor.name]].double()
                whole = (
                    (rounded / scale.view(-1, *[1] * (rounded.ndim - 1))).round().to(self.constants[tensor.name].dtype)
                )
                tensor.CopyFrom(numpy_helper.from_array(whole.contiguous().numpy(), tensor.name))
        return bytes(self.model.SerializeToString())


def _constants(model: Any) -> dict[str, Tensor]:
    from onnx import numpy_helper

    return {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.graph.initializer}


def _computed(kind: str, value: Tensor, rest: Sequence[Tensor], attributes: dict[str, Any]) -> Tensor:
    """An operation of `distillation.runtime.onnx_file`."""
    if kind == "Conv":
        stride, padding, groups = attributes["strides"], attributes["pads"][:2], attributes["group"]
        return F.conv2d(value, rest[0], rest[1], stride, padding, 1, groups)
    if kind in ("MaxPool", "AveragePool"):
        pool = F.max_pool2d if kind == "MaxPool" else F.avg_pool2d
        return pool(value, attributes["kernel_shape"], attributes["strides"], attributes["pads"][0])
    if kind == "GlobalAveragePool":
        return value.mean((2, 3), keepdim=True)
    simple: dict[str, Callable[..., Tensor]] = {
        "Add": torch.add,
        "Sub": torch.sub,
        "Mul": torch.mul,
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Flatten": lambda x: x.flatten(1),
        "Gemm": F.linear,
    }
    return simple[kind](value, *rest)


@torch.enable_grad()
def fine_tuned(
    float_file: bytes,
    int8_file: bytes,
    described: StudentFile,
    evaluator: KDEvaluator,
    epochs: int,
    report: Callable[[str], None] | None = None,
) -> bytes | None:
    """An 8-bit file whose weights were trained on, on the training split, by the loss of the student's own training.

    Args:
        evaluator: Of the student's run; its seeds, batches and the teacher's soft targets are those of trainings.
        report: Told the loss of each epoch.

    Returns:
        The file, the same on every call; None if the training diverged.
    """
    result = described.result
    alone = result["temperature"] is None
    network = FakeQuantised(float_file, int8_file, described.mean, described.std)
    with limited_threads(evaluator.threads):
        trained = train(
            network,
            evaluator.data,
            None if alone else evaluator.soft_targets.train,
            kd=None if alone else KDSettings(result["temperature"], result["kd_weight"]),
            kd_loss=evaluator.kd_loss,
            epochs=epochs,
            seed=derive_seed(result["seed"], "int8"),
            settings=SETTINGS,
            progress=None
            if report is None
            else lambda done, loss: report(f"8 bits: {done} of {epochs} epochs, loss {loss:.3g}"),
        )
    return network.cpu().file() if trained.status == "success" else None
