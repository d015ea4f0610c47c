"""What a training costs, in CPU seconds, by a model that says the same on every machine.

A student-epoch is no unit of cost: one of a DARTS cell takes ten times the time of one of a family's student, and one
family's thirty times that of another. Measured times differ from run to run, so that a search which they end cannot be
repeated. Here the work of a training step is counted (multiply-adds, values that pass through memory,
operations, parameters) and weighed by coefficients in ``training_cost.json``, which ``benchmarks/training_cost.py`` has
fitted to measured steps, for each way in which a step runs:

``plan``      students of HNAG, by the compiled plan (`search_spaces.hnag.execution`), counted without building them;
``torch``     any other network, counted in a forward pass of two images;
``supernet``  a step of a DARTS search (`optimizers.darts`): both levels.

The seconds are those of one thread of the machine in the file, in float32. Machines without a compiler, GPUs, several
threads and bfloat16 have other ratios; the model then remains what it is, a common measure.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from naslib_autokd.distillation.costs import _Mode, count_params
from naslib_autokd.search_spaces.hnag.steps import Plan
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec

COEFFICIENTS = Path(__file__).with_suffix(".json")
LANES = 16
"""Images that the compiled plan works on at a time: a last vector that is not full takes as long."""
PROBE = 2
"""Images of the forward pass in which the work of a module is counted."""


@dataclass(frozen=True)
class TrainingCost:
    """What training one network costs."""

    step: float
    """CPU seconds of a training step."""
    image: float
    """CPU seconds of an image in validation."""

    def seconds(self, n_steps: float, n_validated: int) -> float:
        """CPU seconds of so many steps, and of validating so many images once."""
        return self.step * n_steps + self.image * n_validated


def student_cost(spec: StudentSpec, batch_size: int) -> TrainingCost:
    """Of a student of HNAG."""
    return cost_of(plan_work(spec, batch_size), "plan", batch_size)


def network_cost(model: nn.Module, image_shape: tuple[int, int, int], batch_size: int) -> TrainingCost:
    """Of any network."""
    if isinstance(model, Student):
        return student_cost(model.spec, batch_size)
    return cost_of(module_work(model, image_shape, batch_size), "torch", batch_size)


def cost_of(work: Mapping[str, float], execution: str, batch_size: int) -> TrainingCost:
    """Of a training step of this work."""
    fitted = coefficients()
    own = fitted["seconds"][execution]
    step = sum(own.get(name, 0.0) * amount for name, amount in work.items())
    return TrainingCost(step, fitted["validation"].get(execution, 0.0) * step / batch_size)


@functools.cache
def coefficients() -> dict[str, Any]:
    """``seconds``: of each unit of work, by execution; ``validation``: an image in validation as a share of one in
    training; and of what they were fitted to."""
    content: dict[str, Any] = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    return content


# Students of HNAG: the steps of their plan tell everything ----------------------------------------------------------


def plan_work(spec: StudentSpec, batch_size: int) -> dict[str, float]:
    """The work of a training step of a student by the compiled plan."""
    plan = Plan(spec)
    shapes: dict[int, tuple[int, int, int]] = {0: (spec.in_channels, spec.image_size, spec.image_size)}
    images = math.ceil(batch_size / LANES) * LANES
    work: Counter[str] = Counter()
    for step in plan.steps:
        channels, height, width = shapes[step.sources[0]]
        before = channels * height * width
        if step.kind == "conv":
            n_out, n_in, *kernel = plan.convs[step.slot].shape
            stride, padding, groups = step.detail
            height = (height + 2 * padding[0] - kernel[0]) // stride + 1
            width = (width + 2 * padding[1] - kernel[1]) // stride + 1
            channels = n_out
            kind = "depthwise" if groups > 1 else "pointwise" if kernel == [1, 1] else "dense"
            work[f"{kind}_macs"] += images * height * width * n_out * n_in * kernel[0] * kernel[1]
        elif step.kind in ("average", "max"):
            size, stride, pad = step.detail
            height, width = ((side + 2 * pad - size) // stride + 1 for side in (height, width))
            work[f"{step.kind}_values"] += images * channels * height * width * size * size
        elif step.kind == "concat":
            channels = sum(shapes[source][0] for source in step.sources)
            work["merge_values"] += images * channels * height * width
        elif step.kind in ("sum", "mean", "attention"):
            work["merge_values"] += images * before * len(step.sources)
        elif step.kind in ("norm", "relu"):
            work[f"{step.kind}_values"] += images * before
        shapes[step.target] = channels, height, width
        work["operations"] += 1
    work["parameters"] = spec.n_params
    work["images"] = batch_size * spec.in_channels * spec.image_size**2
    work["steps"] = 1
    return dict(work)


# Other networks: a forward pass tells what is done --------------------------------------------------------------------


class _Work(_Mode):
    """Adds up the work of the operations of a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.work: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple | list) and out else out
        if not isinstance(first, Tensor) or func.is_view:
            return out
        name, n = func._overloadpacket.__name__, first.numel()
        work = self.work
        if name == "convolution":
            images, weight, groups = args[0], args[1], args[8]
            kind = "grouped" if groups > 1 else "pointwise" if weight[0, 0].numel() == 1 else "dense"
            if groups > 1 and weight.shape[1] == 1:
                kind = "depthwise"
            self.operations[f"{kind}_operations"] += 1
            work[f"{kind}_macs"] += n * weight[0].numel()
            work[f"{kind}_values"] += images.numel() + n
        elif name in ("mm", "addmm", "bmm", "baddbmm"):
            work["matrix_macs"] += n * args[-1].shape[-2]
        elif "norm" in name:
            work["norm_values"] += n
        elif "pool" in name:
            work["pool_values"] += n
        elif name in ("relu", "clamp", "hardtanh", "clamp_min", "relu_"):
            work["relu_values"] += n
        else:
            work["other_values"] += n
        work["values"] += n
        self.operations["operations"] += 1
        return out


def module_work(model: nn.Module, image_shape: tuple[int, int, int], batch_size: int) -> dict[str, float]:
    """The work of a training step of any network, from a pass of two blank images; the network stays as it is."""
    training, state = model.training, {name: buffer.clone() for name, buffer in model.named_buffers()}
    parameter = next(model.parameters(), torch.zeros(()))
    counter = _Work()
    model.train()
    with torch.no_grad(), counter:
        model(torch.zeros(PROBE, *image_shape, device=parameter.device))
    for name, buffer in model.named_buffers():
        buffer.copy_(state[name])
    model.train(training)
    return {
        **{name: amount * batch_size / PROBE for name, amount in counter.work.items()},
        **counter.operations,
        "parameters": count_params(model),
        "images": batch_size * math.prod(image_shape),
        "steps": 1,
    }
