"""The student: the torch module that a `StudentSpec` defines.

What it computes is in `steps`. Parameters stay contiguous, as checkpoints want them. All merge weights are one
parameter, and so are the scales and the shifts of all batch norms, which keeps the number of tensors that an optimizer
touches near the number of convolutions.

The forward pass uses no random numbers, and initialisation takes its own seed; torch's global generator is not touched.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.search_spaces.hnag import execution
from naslib_autokd.search_spaces.hnag._checks import check_name
from naslib_autokd.search_spaces.hnag.steps import Plan, run_steps
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec

MERGE_WEIGHT_START = 1.0
"""sigmoid(1) = 0.731, as in the authors' code; starting at sigmoid(2) was worse (81.9% against 83.1% on
cluttered-digits, 12 trainings each, se 0.8)."""


EXECUTIONS = ("auto", "plan", "steps")
STUDENT_PRECISIONS = ("float32", "bfloat16")


class Student(nn.Module):
    """The network of a specification: images to logits.

    Merges (``w`` are learned scalars, one per input, starting at 1; see `wiring` for the rest):

    * ``sum``: the sum of ``sigmoid(w_i) * x_i``; with one input the input itself.
    * ``concat``: a 1x1 convolution of the concatenated inputs.
    * ``attention``: ``(sigmoid(w_0) + sigmoid(x_0)) * sum of sigmoid(w_i) * x_i over i > 0``. The authors' code scales
      the mask by its minimum and maximum over the whole batch, so that the output for one image depends on the others,
      and divides by zero for a constant mask; the sigmoid does neither.

    Average poolings inside a graph count the padding as zeros (as the authors'); poolings between stages drop an odd
    last row and column.

    Args:
        spec: What to build.
        seed: Of the initial weights; they depend on (spec, seed) alone, whatever the device or torch's global state.
    """

    def __init__(self, spec: StudentSpec, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.plan = plan = Plan(spec)
        self._execution = "auto"
        self._precision = "float32"
        self.convs = nn.ParameterList([nn.Parameter(torch.empty(conv.shape)) for conv in plan.convs])
        n_channels = sum(plan.norm_channels)
        self.norm_weight = nn.Parameter(torch.empty(n_channels))
        self.norm_bias = nn.Parameter(torch.empty(n_channels))
        self.register_buffer("running_mean", torch.empty(n_channels))
        self.register_buffer("running_var", torch.empty(n_channels))
        self.merge_weights = nn.Parameter(torch.empty(plan.n_merge_weights)) if plan.n_merge_weights else None
        self.classifier_weight = nn.Parameter(torch.empty(spec.n_classes, plan.features))
        self.classifier_bias = nn.Parameter(torch.empty(spec.n_classes))
        # They compute nothing: named places where hooks find the features (`teachers.zoo.features`).
        self.stage_maps = nn.ModuleList([nn.Identity() for _ in plan.stage_ends])
        self.pooled = nn.Identity()
        self.feature_points = tuple(f"stage_maps.{index}" for index in range(len(plan.stage_ends)))
        self.pooled_point = "pooled"
        self.running_mean: Tensor
        self.running_var: Tensor
        self.reset_parameters(torch.Generator().manual_seed(seed))

    @property
    def execution(self) -> str:
        """How the body runs, always with the same results: "steps", one operation after the other as `run_steps`
        defines them; "plan", by `execution`, wherever it can take over; "auto", the same where that is also faster."""
        return self._execution

    @execution.setter
    def execution(self, value: str) -> None:
        check_name(value, EXECUTIONS, "execution")
        self._execution = value

    @property
    def precision(self) -> str:
        """What training stores between its operations, on a CPU: "float32"; or "bfloat16", where the processor and a
        compiler allow it (`execution.without_bfloat16`), in half the memory. Parameters, statistics, gradients of
        parameters and all sums stay in float32, and so does everything outside of training."""
        return self._precision

    @precision.setter
    def precision(self, value: str) -> None:
        check_name(value, STUDENT_PRECISIONS, "precision")
        self._precision = value

    @property
    def without_bfloat16(self) -> str:
        """Why this processor does not train it in bfloat16; empty where it does."""
        return "execution='steps'" if self.execution == "steps" else execution.without_bfloat16()

    def train(self, mode: bool = True) -> Student:
        """As in torch; memory that training keeps between its steps is freed when it ends."""
        if not mode and self.plan.programs is not None:
            self.plan.programs.spare.clear()
        return super().train(mode)

    @torch.no_grad()
    def reset_parameters(self, rng: torch.Generator) -> None:
        """Draw new weights from ``rng`` (a CPU generator), in a fixed order.

        Convolutions of nodes, projections and head start as the identity plus half of He's normal values: measured
        +5.7 ± 3.4 points over He alone in a short training. The stem starts with He's. A projection between different
        numbers of channels takes the identity on the common ones; one of concatenated values their mean.
        """

        def normal(shape: tuple[int, ...], std: float) -> Tensor:
            return torch.randn(shape, generator=rng, dtype=torch.float32, device="cpu") * std

        for weight, conv in zip(self.convs, self.plan.convs, strict=True):
            n_out, n_in, height, width = conv.shape
            value = normal(conv.shape, math.sqrt(2.0 / (n_in * height * width)))
            if conv.role != "stem":
                value *= 0.5
                channels = torch.arange(n_out, device="cpu")
                if n_in == 1 and conv.role == "node":  # depthwise, or a single channel
                    value[channels, 0, height // 2, width // 2] += 1.0
                else:
                    value[channels, channels % n_in, height // 2, width // 2] += 1.0
            weight.copy_(value)
        self.norm_weight.fill_(1.0)
        self.norm_bias.zero_()
        self.running_mean.zero_()
        self.running_var.fill_(1.0)
        if self.merge_weights is not None:
            self.merge_weights.fill_(MERGE_WEIGHT_START)
        features = self.plan.features
        self.classifier_weight.copy_(normal((self.spec.n_classes, features), 1.0 / math.sqrt(features)))
        self.classifier_bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, n_classes) of images (batch, in_channels, image_size, image_size)."""
        gates = self.norm_weight.new_empty(0) if self.merge_weights is None else torch.sigmoid(self.merge_weights)
        features = self.pooled(self._body(images, gates))
        return F.linear(features, self.classifier_weight, self.classifier_bias)

    def _body(self, images: Tensor, gates: Tensor) -> Tensor:
        parameters: dict[str, Any] = {
            "convs": list(self.convs),
            "norm_weight": self.norm_weight,
            "norm_bias": self.norm_bias,
            "running": (self.running_mean, self.running_var),
            "gates": gates,
            "training": self.training,
        }
        if self.execution != "steps" and not torch.compiler.is_compiling():
            engine = execution.chosen(self, images)
            if engine is not None:
                return execution.body(self.plan, engine, images, **parameters)
        return run_steps(self.plan, images, **parameters, stage_maps=list(self.stage_maps))
