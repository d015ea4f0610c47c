"""What a student computes: a flat list of steps over numbered values, and the one reading of it that is the definition.

Anything faster (`execution`) has to agree with `run_steps`. A `Plan` is made once when a student is built: no module
per node or edge, the ReLU of a value is computed once for all its readers, a value halved for one reader serves the
next, and values are dropped at their last use. Activations are channels-last, which took 0.7 to 0.85 of the contiguous
layout's time for students of 10 to 20 channels (x86, torch 2.13, batch 32, 12x12).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.wiring import (
    OPERATIONS,
    BottomGraph,
    Cell,
    StudentSpec,
    head_hidden,
    stem_hidden,
)

BATCH_NORM_MOMENTUM = 0.1
BATCH_NORM_EPS = 1e-5


class Step(NamedTuple):
    """One step of the forward pass: a new value from earlier ones."""

    kind: str
    sources: tuple[int, ...]
    target: int
    slot: int
    """Of the convolution, of the batch norm, or of the merge's first weight."""
    detail: Any
    """Of a convolution (stride, padding, groups); of a pooling (kernel, stride, padding)."""


class ConvShape(NamedTuple):
    shape: tuple[int, int, int, int]
    role: str
    """"stem", "node", "projection" or "head": decides the initial values."""
    n_sources: int
    """Values concatenated at its input."""


class Plan:
    """The steps of a student and the shapes of its parameters; plain data, no tensors."""

    def __init__(self, spec: StudentSpec) -> None:
        self.spec = spec
        self.steps: list[Step] = []
        self.convs: list[ConvShape] = []
        self.norm_channels: list[int] = []
        self.n_merge_weights = 0
        self.n_values = 1  # value 0 is the images
        self._shared: dict[tuple[Any, ...], int] = {}
        self.programs: Any = None
        """What `execution` makes of these steps (`execution.Programs`)."""

        wiring, channels = spec.wiring, spec.channels
        stages, last = wiring.stages, wiring.stages[-1]
        stem = self._stem()

        def cell(top: int, before: list[int]) -> int:
            stage, together = stages[top], wiring.merges[top] == "concat"
            predecessors = wiring.graph.predecessors[top]
            from_stages = [stages[p] for p in predecessors] or [0]
            values = [self._halve(v, stage - s) for v, s in zip(before, from_stages, strict=True)]
            if together:
                value = self._concat(values, [channels[s] for s in from_stages], channels[stage])
            else:
                values = [
                    v if s == stage else self._project(v, channels[s], channels[stage])
                    for v, s in zip(values, from_stages, strict=True)
                ]
                value = self._merge(wiring.merges[top], values, channels[stage])
            return self._cell(wiring.cells[top], value, channels[stage])

        ends = self._nodes(wiring.graph, stem, cell)
        outputs = []
        for node in wiring.graph.outputs:
            value = self._halve(ends[node], last - stages[node])
            outputs.append(
                value if stages[node] == last else self._project(value, channels[stages[node]], channels[last])
            )
        value = self._relu(self._mean(outputs))
        self.features = channels[last]
        last_map = value
        hidden = head_hidden(wiring.head_ratio, self.features)
        if hidden:
            value = self._relu(self._norm(self._conv(value, (hidden, self.features, 1, 1), "head"), hidden))
            self.features = hidden
        self.output = value
        self.stage_ends: dict[int, int] = {}
        """The value that is the feature map of each stage -> its place among them: what the stage's last node made, and
        what the head reads."""
        for stage in sorted(set(stages) - {last}):
            self.stage_ends[ends[max(node for node, s in enumerate(stages) if s == stage)]] = len(self.stage_ends)
        self.stage_ends[last_map] = len(self.stage_ends)
        # Values read for the last time by each step, so that the forward pass can drop them.
        last_use = {source: i for i, step in enumerate(self.steps) for source in step.sources}
        self.dead = [tuple({s for s in step.sources if last_use[s] == i}) for i, step in enumerate(self.steps)]

    def _add(self, kind: str, sources: Sequence[int], slot: int = 0, detail: Any = None) -> int:
        self.steps.append(Step(kind, tuple(sources), self.n_values, slot, detail))
        self.n_values += 1
        return self.n_values - 1

    def _once(self, kind: str, source: int, detail: Any = None) -> int:
        """A step without parameters on one value, shared by all that ask for the same."""
        key = (kind, source, detail)
        if key not in self._shared:
            self._shared[key] = self._add(kind, (source,), detail=detail)
        return self._shared[key]

    def _relu(self, value: int) -> int:
        return self._once("relu", value)

    def _conv(
        self,
        value: int,
        shape: tuple[int, int, int, int],
        role: str,
        stride: int = 1,
        groups: int = 1,
        n_sources: int = 1,
    ) -> int:
        self.convs.append(ConvShape(shape, role, n_sources))
        detail = (stride, (shape[2] // 2, shape[3] // 2), groups)
        return self._add("conv", (value,), len(self.convs) - 1, detail)

    def _norm(self, value: int, channels: int) -> int:
        self.norm_channels.append(channels)
        return self._add("norm", (value,), len(self.norm_channels) - 1)

    def _mean(self, values: list[int]) -> int:
        return values[0] if len(values) == 1 else self._add("mean", values)

    def _halve(self, value: int, times: int) -> int:
        for _ in range(times):
            value = self._once(self.spec.wiring.downsampling, value, (2, 2, 0))
        return value

    def _project(self, value: int, source: int, target: int) -> int:
        return self._conv(value, (target, source, 1, 1), "projection")

    def _concat(self, values: list[int], sources: list[int], target: int) -> int:
        value = self._add("concat", values)
        return self._conv(value, (target, sum(sources), 1, 1), "projection", n_sources=len(values))

    def _merge(self, merge: str, values: list[int], channels: int) -> int:
        if len(values) == 1:
            return values[0]
        if merge == "concat":
            return self._concat(values, [channels] * len(values), channels)
        self.n_merge_weights += len(values)
        return self._add(merge, values, self.n_merge_weights - len(values))

    def _nodes(self, graph: Graph, value: int, node: Callable[[int, list[int]], int]) -> list[int]:
        """The output of every node of a graph whose input is ``value``."""
        ends: list[int] = []
        for index, predecessors in enumerate(graph.predecessors):
            ends.append(node(index, [ends[p] for p in predecessors] or [value]))
        return ends

    def _stem(self) -> int:
        channels, in_channels, large = self.spec.channels[0], self.spec.in_channels, self.spec.stem == "large"
        first = stem_hidden(channels) if large else channels
        value = self._add("layout", (0,))
        value = self._conv(value, (first, in_channels, 3, 3), "stem", stride=2 if large else 1)
        if (
            in_channels == 1
        ):  # with one channel both layouts are the same memory, and the convolution picks the wrong one
            value = self._add("layout", (value,))
        value = self._norm(value, first)
        if large:
            value = self._norm(self._conv(self._relu(value), (channels, first, 3, 3), "stem", stride=2), channels)
        return value

    def _cell(self, cell: Cell, value: int, channels: int) -> int:
        def mid(index: int, before: list[int]) -> int:
            return self._bottom(cell.nodes[index], self._merge(cell.merges[index], before, channels), channels)

        ends = self._nodes(cell.graph, value, mid)
        return self._mean([ends[node] for node in cell.graph.outputs])

    def _bottom(self, bottom: BottomGraph, value: int, channels: int) -> int:
        def operation(index: int, before: list[int]) -> int:
            value = self._relu(self._merge(bottom.merges[index], before, channels))
            kind, height, width = OPERATIONS[bottom.operations[index]]
            if kind == "conv":
                value = self._conv(value, (channels, channels, height, width), "node")
            elif kind == "separable":
                value = self._conv(value, (channels, 1, height, width), "node", groups=channels)
                value = self._conv(value, (channels, channels, 1, 1), "node")
            else:
                value = self._once(kind, value, (height, 1, height // 2))
            return self._norm(value, channels)

        ends = self._nodes(bottom.graph, value, operation)
        return self._mean([ends[node] for node in bottom.graph.outputs])


def run_steps(
    plan: Plan,
    images: Tensor,
    *,
    convs: Sequence[Tensor],
    norm_weight: Tensor,
    norm_bias: Tensor,
    running: tuple[Tensor, Tensor],
    gates: Tensor,
    training: bool,
    stage_maps: Sequence[Callable[[Tensor], Tensor]] | None = None,
) -> Tensor:
    """The body of a student, step by step: images to pooled features (batch, features).

    Args:
        running: Running means and variances; updated in training.
        gates: Sigmoids of the merge weights.
        stage_maps: Called with the feature map of each stage; what they return takes its place.
    """
    channels = plan.norm_channels
    norm_weights, norm_biases = norm_weight.split(channels), norm_bias.split(channels)
    means, variances = running[0].split(channels), running[1].split(channels)
    kind = images.device.type
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):  # on GPUs addcmul promotes all of its inputs
        gates = gates.to(torch.get_autocast_dtype(kind))
    gate = gates.unbind()
    values: list[Any] = [None] * plan.n_values
    values[0] = images
    for step, dead in zip(plan.steps, plan.dead, strict=True):
        kind, i = step.kind, step.slot
        x = values[step.sources[0]]
        if kind == "conv":
            stride, padding, groups = step.detail
            y = F.conv2d(x, convs[i], None, stride, padding, 1, groups)
        elif kind == "norm":
            y = F.batch_norm(
                x,
                means[i],
                variances[i],
                norm_weights[i],
                norm_biases[i],
                training,
                BATCH_NORM_MOMENTUM,
                BATCH_NORM_EPS,
            )
        elif kind == "relu":
            y = torch.relu(x)
        elif kind == "sum":
            y = weighted_sum([values[s] for s in step.sources], gate[i : i + len(step.sources)])
        elif kind == "attention":
            rest = [values[s] for s in step.sources[1:]]
            y = (gate[i] + torch.sigmoid(x)) * weighted_sum(rest, gate[i + 1 : i + 1 + len(rest)])
        elif kind == "concat":
            y = torch.cat([values[s] for s in step.sources], dim=1)
        elif kind == "mean":
            y = x
            for source in step.sources[1:]:
                y = y + values[source]
            y = y * (1.0 / len(step.sources))
        elif kind == "layout":
            # an exported program is run by others, and ExecuTorch's batch norm takes contiguous memory alone
            y = x if torch.compiler.is_exporting() else x.contiguous(memory_format=torch.channels_last)
        elif kind == "average":
            y = F.avg_pool2d(x, *step.detail)
        else:
            y = F.max_pool2d(x, *step.detail)
        if stage_maps is not None and step.target in plan.stage_ends:
            y = stage_maps[plan.stage_ends[step.target]](y)
        values[step.target] = y
        for source in dead:
            values[source] = None
    return values[plan.output].mean(dim=(2, 3))


def weighted_sum(values: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Sum of ``weights[i] * values[i]``; the weights are scalars."""
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = torch.addcmul(total, value, weight)
    return total
