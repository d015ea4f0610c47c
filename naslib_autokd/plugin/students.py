"""Students of NASLib's cell spaces: the network of one architecture, as wide as a task's parameter limit allows.

NASLib's networks have one size (128 channels in NAS-Bench-101, 16 in the others), made for CIFAR. Here the architecture
is the cell, and the network around it is fitted to the task: as many cells as in NASLib if the heaviest architecture
then has `ENOUGH_CHANNELS`, else fewer (that depends on the task alone, so all architectures are equally deep), and the
largest width within the limit. Every batch norm is affine and has running statistics.

* NAS-Bench-201 and simple cell: NASLib's own graph, resized (`networks`).
* NAS-Bench-101: the cells of ``nasbench_pytorch``, which NASLib uses too, without the placeholder parameters that it
  leaves in them, and with torch's momentum of 0.1 (it gives batch norm TensorFlow's 0.997, which in torch means that
  the running statistics are those of the last batch).
* NAS-Bench-301: `search_spaces.cell.network.CellNetwork`, the same network as NASLib's graph, which costs seconds to
  build; only that batch norms have affine parameters and pooling has none, as in DARTS' final network.
"""

from __future__ import annotations

import bisect
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from torch import Tensor, nn

from naslib_autokd.distillation.costs import count_macs, count_params
from naslib_autokd.distillation.training import seeded
from naslib_autokd.plugin.architectures import ARCHITECTURES, Architecture, NASBench301
from naslib_autokd.plugin.loader import HOW_TO_GET, NASLibError
from naslib_autokd.records import content_digest
from naslib_autokd.search_spaces.cell.genotype import CellSpec, Genotype
from naslib_autokd.search_spaces.cell.genotype import fit_width as fit_cells
from naslib_autokd.search_spaces.cell.network import CellNetwork
from naslib_autokd.search_spaces.hnag.wiring import ParameterBudgetError
from naslib_autokd.tasks import Task

ENOUGH_CHANNELS = 8
"""Of the first stage of the heaviest architecture: below it, the network gets fewer cells instead."""

Channels = tuple[int, ...]


@dataclass(frozen=True)
class DrawnArchitecture:
    """What a record calls the wiring: the architecture without its KD settings."""

    space: str
    architecture: Architecture

    @property
    def digest(self) -> str:
        return content_digest({"space": self.space, "architecture": self.architecture})


@dataclass(frozen=True)
class NetworkSpec:
    """The network of one architecture for one task (`evaluators.kd.SpecLike`)."""

    space: str
    architecture: Architecture
    task: Task
    channels: Channels
    """Of each stage."""
    n_cells: int
    """In the whole network."""
    n_params: int
    macs: int
    depth: int | None = None
    """Of NAS-Bench-301 only; see `CellSpec.depth`."""

    @property
    def wiring(self) -> DrawnArchitecture:
        return DrawnArchitecture(self.space, self.architecture)

    def to_dict(self) -> dict[str, Any]:
        """What the network is, as JSON can hold it (for checkpoints)."""
        return {
            "space": self.space,
            "architecture": self.architecture,
            "channels": self.channels,
            "n_cells": self.n_cells,
            "in_channels": self.task.in_channels,
            "image_size": self.task.image_size,
            "n_classes": self.task.n_classes,
        }

    def build(self, seed: int) -> nn.Module:
        """The network, float ``(N, C, H, W)`` to logits ``(N, n_classes)``, with weights drawn from ``seed``."""
        with seeded(seed):
            network = _plan(self.space, self.architecture, self.task).build(seed)
        network.spec = self  # type: ignore[assignment]
        return network


def student_spec(space: str, architecture: Architecture, task: Task) -> NetworkSpec:
    """The largest network of an architecture within ``task.max_params`` parameters. Cached.

    Raises:
        ParameterBudgetError: If even the narrowest (``task.min_channels``) is too large; names the smallest limit.
        ValueError: If the space does not suit the task's images.
        NASLibError: If what builds it is missing: NASLib (NAS-Bench-201, simple cell) or ``nasbench_pytorch``.
    """
    return _student_spec(space, architecture, task)


@lru_cache(maxsize=1024)
def _student_spec(space: str, architecture: Architecture, task: Task) -> NetworkSpec:
    plan = _plan(space, architecture, task)
    with seeded(0):
        network = plan.build(0)
    return NetworkSpec(
        space,
        architecture,
        task,
        plan.channels,
        plan.n_cells,
        count_params(network),
        count_macs(network, (task.in_channels, task.image_size, task.image_size)),
        plan.depth,
    )


@dataclass(frozen=True)
class _Plan:
    channels: Channels
    n_cells: int
    build: Callable[[int], nn.Module]
    """Takes a seed; torch's global generator is seeded with it too."""
    depth: int | None = None


def _plan(space: str, architecture: Architecture, task: Task) -> _Plan:
    if space == "nasbench101":
        if importlib.util.find_spec("nasbench_pytorch") is None:
            raise NASLibError(f"nasbench101 needs the package nasbench-pytorch, with NASLib's others:\n{HOW_TO_GET}")
        return _plan_nasbench101(architecture, task)
    if space == "nasbench301":
        return _plan_nasbench301(architecture, task)
    from naslib_autokd.plugin.networks import GROWTH, discrete_network, fit_network

    size = fit_network(space, architecture, task)
    n_cells = len(GROWTH[space]) * size.cells_per_stage + (space == "simple_cell")  # its one reduction cell
    return _Plan(size.channels, n_cells, lambda seed: discrete_network(space, architecture, task))


# NAS-Bench-301 --------------------------------------------------------------------------------------------------------


def genotype_of(architecture: Architecture) -> Genotype:
    """NASLib's compact tuple as a genotype of ours."""
    cells = [
        tuple(
            tuple((NASBench301.operations[operation], source) for source, operation in cell[2 * node : 2 * node + 2])
            for node in range(4)
        )
        for cell in architecture
    ]
    return Genotype(*cells)  # type: ignore[arg-type]


_HEAVIEST_301 = (((0, 4), (1, 4)) * 4,) * 2
"""A separable 5x5 convolution everywhere."""


@cache
def _n_cells_301(task: Task) -> int:
    width = ENOUGH_CHANNELS
    for n_cells in range(8, 3, -1):
        spec = CellSpec(
            genotype_of(_HEAVIEST_301),
            n_cells,
            3 * width,
            (width, 2 * width, 4 * width),
            task.in_channels,
            task.image_size,
            task.n_classes,
        )
        if spec.n_params <= task.max_params:
            return n_cells
    return 3


def _plan_nasbench301(architecture: Architecture, task: Task) -> _Plan:
    spec = fit_cells(
        genotype_of(architecture),
        task.max_params,
        in_channels=task.in_channels,
        image_size=task.image_size,
        n_classes=task.n_classes,
        n_cells=_n_cells_301(task),
        min_channels=task.min_channels,
    )
    return _Plan(spec.channels, spec.n_cells, lambda seed: CellNetwork(spec, seed), spec.depth)


# NAS-Bench-101 --------------------------------------------------------------------------------------------------------


class NASBench101Network(nn.Module):
    """Stem, three stacks of cells with a max pooling between them, global average, classifier.

    Args:
        architecture: Canonical form (`architectures.NASBench101`).
        channels: Of the three stacks; NAS-Bench-101 has (128, 256, 512).
        cells_per_stack: NAS-Bench-101 has 3.

    Weights are drawn from torch's global generator.
    """

    def __init__(
        self, architecture: Architecture, channels: Channels, cells_per_stack: int, in_channels: int, n_classes: int
    ) -> None:
        from nasbench_pytorch.model.base_ops import ConvBnRelu
        from nasbench_pytorch.model.model import Cell

        super().__init__()
        spec = model_spec(architecture)
        layers: list[nn.Module] = [ConvBnRelu(in_channels, channels[0], 3, 1, 1)]
        before = channels[0]
        for stack, width in enumerate(channels):
            if stack:
                layers.append(nn.MaxPool2d(2))
            for _ in range(cells_per_stack):
                layers.append(_without_placeholders(Cell(spec, before, width)))
                before = width
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as in nasbench_pytorch
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.layers(images).mean(dim=(2, 3)))


def model_spec(architecture: Architecture) -> Any:
    """The cell as ``nasbench_pytorch``'s ModelSpec: pruned matrix and operations."""
    from nasbench_pytorch.model.model_spec import ModelSpec

    operations = ARCHITECTURES["nasbench101"].naslib_operations  # type: ignore[attr-defined]
    matrix = np.array(architecture[:49]).reshape(7, 7)
    return ModelSpec(matrix, [operations[index] for index in architecture[49:]])


def _without_placeholders(cell: Any) -> nn.Module:
    """The cell without its parameters that do nothing: a number per missing operation, an empty one for the device."""
    from nasbench_pytorch.model.model import Placeholder

    for operations in (cell.input_op, cell.vertex_op):
        for index, operation in enumerate(operations):
            if isinstance(operation, Placeholder):
                operations[index] = nn.Identity()
    cell.last_inop = cell.input_op[-1]
    empty = cell.dev_param.data
    del cell.dev_param
    cell.register_buffer("dev_param", empty, persistent=False)
    return cell


def count_nasbench101(
    architecture: Architecture, channels: Channels, cells_per_stack: int, in_channels: int, n_classes: int
) -> int:
    """Parameters of a `NASBench101Network`, without building it."""
    from nasbench_pytorch.model.model import compute_vertex_channels

    spec = model_spec(architecture)
    areas = {"conv3x3-bn-relu": 9, "conv1x1-bn-relu": 1, "maxpool3x3": None}

    def conv(n_in: int, n_out: int, area: int = 1) -> int:
        return area * n_in * n_out + 2 * n_out

    total, before = conv(in_channels, channels[0], 9), channels[0]
    for width in channels:
        for _ in range(cells_per_stack):
            widths = compute_vertex_channels(before, width, spec.matrix)
            total += sum(conv(before, widths[v]) for v in range(1, len(widths)) if spec.matrix[0, v])
            for operation, n in zip(spec.ops[1:-1], widths[1:-1], strict=True):
                if (area := areas[operation]) is not None:
                    total += conv(n, n, area)
            before = width
    return total + (before + 1) * n_classes


def _channels_101(width: float) -> Channels:
    return tuple(int(width * growth + 0.5) for growth in (1, 2, 4))


_HEAVIEST_101 = ARCHITECTURES["nasbench101"].of_cell(  # type: ignore[attr-defined]
    {(i, i + 1) for i in range(6)} | {(0, 2), (0, 3), (0, 4)}, ["conv3x3-bn-relu"] * 5
)
"""A chain of five 3x3 convolutions, all of them as wide as the cell, and three more projections of the input."""


@cache
def _cells_per_stack(task: Task) -> int:
    channels = _channels_101(ENOUGH_CHANNELS)
    for cells in (3, 2):
        if count_nasbench101(_HEAVIEST_101, channels, cells, task.in_channels, task.n_classes) <= task.max_params:
            return cells
    return 1


def _plan_nasbench101(architecture: Architecture, task: Task) -> _Plan:
    cells = _cells_per_stack(task)

    def count(channels: Channels) -> int:
        return count_nasbench101(architecture, channels, cells, task.in_channels, task.n_classes)

    n_joined = sum(architecture[7 * vertex + 6] for vertex in range(1, 6))  # they share the channels of the output
    narrowest = max(task.min_channels, n_joined)
    if (fewest := count(_channels_101(narrowest))) > task.max_params:
        raise ParameterBudgetError(
            f"architecture {architecture} of nasbench101 has at least {fewest} parameters (at least {narrowest} "
            f"channels), max_params of task {task.name!r} is {task.max_params}; raise it, or lower min_channels",
            fewest,
        )
    # widths at which the last stack gets a channel more (the others too at some of them)
    steps = range(4 * narrowest, max(4 * narrowest, task.max_params // task.n_classes) + 2)
    fits = bisect.bisect_right(steps, task.max_params, key=lambda step: count(_channels_101(step / 4)))
    channels = _channels_101(steps[max(fits, 1) - 1] / 4)
    for stack in (2, 1, 0):  # wide cells make coarse steps
        larger = tuple(width + (index == stack) for index, width in enumerate(channels))
        if count(larger) <= task.max_params:
            channels = larger
    return _Plan(
        channels,
        3 * cells,
        lambda seed: NASBench101Network(architecture, channels, cells, task.in_channels, task.n_classes),
    )
