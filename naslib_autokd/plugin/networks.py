"""NASLib's NAS-Bench-201 and simple cell spaces at the size of a task: supernets, and networks of one architecture.

NASLib's classes have 16 channels, three colours and ten classes. The subclasses here put its own operations on the same
edges with other sizes, and repair what does not run: the simple cell's stem, which takes images of as many channels as
its width.

An architecture is a tuple of operation indices, one per edge, in NASLib's order of operations (`OPERATIONS`) and edges
(`EDGES`): six numbers for NAS-Bench-201, as its ``get_hash``; for the simple cell five of the normal cell and five of
the reduction cell.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.search_spaces.hnag.wiring import ParameterBudgetError
from naslib_autokd.tasks import Task, did_you_mean

load_naslib()

from naslib.search_spaces.core import primitives as ops  # noqa: E402
from naslib.search_spaces.nasbench201.graph import NasBench201SearchSpace  # noqa: E402
from naslib.search_spaces.nasbench201.primitives import ResNetBasicblock  # noqa: E402
from naslib.search_spaces.simple_cell.graph import SimpleCellSearchSpace  # noqa: E402

OPERATIONS: dict[str, tuple[str, ...]] = {
    "nasbench201": ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3"),
    "simple_cell": ("skip_connect", "none", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3"),
}
"""Operations of every edge, in NASLib's order."""

CELL_EDGES = {
    "nasbench201": ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)),
    "simple_cell": ((1, 3), (1, 4), (2, 3), (2, 4), (3, 4)),
}
CELLS = {"nasbench201": ("cell",), "simple_cell": ("normal_cell", "reduction_cell")}
EDGES: dict[str, tuple[tuple[str, int, int], ...]] = {
    space: tuple((cell, u, v) for cell in cells for u, v in CELL_EDGES[space]) for space, cells in CELLS.items()
}
"""``(cell, source, target)`` of each number of an architecture."""

GROWTH = {"nasbench201": (1, 2, 4), "simple_cell": (1, 2)}
"""Channels of the stages, as multiples of the first's."""

MOST_CELLS = {"nasbench201": 5, "simple_cell": 1}
"""Cells per stage in NASLib."""

ENOUGH_CHANNELS = 8
"""Half of NASLib's width: below it, stages get fewer cells instead (see `cells_per_stage`)."""

Channels = tuple[int, ...]
Architecture = tuple[int, ...]


# Graphs ---------------------------------------------------------------------------------------------------------------


class ResizedNASBench201(NasBench201SearchSpace):
    """NASLib's NAS-Bench-201 with other channels and fewer cells; the same 20 nodes.

    A cell too many is an identity. All arguments have defaults, as NASLib rebuilds graphs by calling their class.
    """

    def __init__(
        self,
        n_classes: int = 10,
        in_channels: int = 3,
        channels: Sequence[int] = (16, 32, 64),
        cells_per_stage: int = MOST_CELLS["nasbench201"],
    ) -> None:
        super().__init__(n_classes=n_classes, in_channels=in_channels)
        self.channels = list(channels)
        first, second, third = channels
        self.edges[1, 2].set("op", ops.Stem(C_in=in_channels, C_out=first))
        self.edges[7, 8].set("op", ResNetBasicblock(C_in=first, C_out=second, stride=2))
        self.edges[13, 14].set("op", ResNetBasicblock(C_in=second, C_out=third, stride=2))
        self.edges[19, 20].set(
            "op",
            ops.Sequential(
                nn.BatchNorm2d(third), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(third, n_classes)
            ),
        )
        for start in (2, 8, 14):
            for node in range(start + cells_per_stage, start + MOST_CELLS["nasbench201"]):
                self.edges[node, node + 1].set("op", ops.Identity())
        self._set_cell_ops()


class ResizedSimpleCell(SimpleCellSearchSpace):
    """NASLib's simple cell space with other channels, its stem repaired, and the methods that it lacks.

    The second stage must have twice the channels of the first: its zero operation doubles them.
    """

    def __init__(
        self,
        n_classes: int = 10,
        in_channels: int = 3,
        channels: Sequence[int] = (16, 32),
        cells_per_stage: int = MOST_CELLS["simple_cell"],
    ) -> None:
        super().__init__(classes=n_classes, cells_per_stage=cells_per_stage, channels=list(channels))
        self.channels = list(channels)
        self.edges[1, 2].set("op", ops.Stem(C_in=in_channels, C_out=channels[0]))

    def get_hash(self) -> Architecture:
        return architecture_of(self, "simple_cell")

    def set_spec(self, op_indices: Iterable[int], dataset_api: Any = None) -> None:
        """Keep one operation of each edge."""
        chosen = dict(zip(EDGES["simple_cell"], op_indices, strict=True))
        for cell in self._get_child_graphs():
            for u, v in CELL_EDGES["simple_cell"]:
                data = cell.edges[u, v]
                data.set("op", data.op[chosen[cell.name, u, v]])

    def get_type(self) -> str:
        return "simple_cell"


GRAPHS: dict[str, Callable[..., Any]] = {"nasbench201": ResizedNASBench201, "simple_cell": ResizedSimpleCell}

_OP_NAMES = {
    "nasbench201": ("Identity", "Zero", "ReLUConvBN3x3", "ReLUConvBN1x1", "AvgPool1x1"),
    "simple_cell": ("FactorizedReduce", "Zero1x1", "MaxPool1x1", "SepConv3x3", "DilConv3x3"),
}


def architecture_of(graph: Any, space: str) -> Architecture:
    """Operation indices of a NASLib graph that has one operation on every edge."""
    cells = {cell.name: cell for cell in graph._get_child_graphs(single_instances=True)}
    return tuple(_OP_NAMES[space].index(cells[cell].edges[u, v].op.get_op_name) for cell, u, v in EDGES[space])


# Sizes ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkSize:
    """How large a network is built."""

    space: str
    channels: Channels
    """Of each stage."""
    cells_per_stage: int
    in_channels: int
    n_classes: int

    def fixed_params(self) -> int:
        """Parameters of everything but the operations that an architecture chooses (affine batch norms)."""
        c, k = self.channels, self.n_classes
        stem = 9 * self.in_channels * c[0] + 2 * c[0]
        head = c[-1] * k + k
        if self.space == "nasbench201":
            blocks = sum(9 * a * b + 9 * b * b + a * b + 4 * b for a, b in itertools.pairwise(c))
            return stem + blocks + 2 * c[-1] + head
        merges = [2 * width * width + 2 * width for width in c]  # of a cell's two nodes
        return stem + self.cells_per_stage * sum(merges) + merges[1] + head

    def operation_params(self) -> list[list[int]]:
        """Parameters per edge of `EDGES` and operation, in all the cells together (affine batch norms)."""
        c, cells = self.channels, self.cells_per_stage
        if self.space == "nasbench201":
            row = [0, 0, *(cells * sum(area * w * w + 2 * w for w in c) for area in (9, 1)), 0]
            return [row] * 6

        def normal(w: int) -> list[int]:
            return [0, 0, 0, 2 * (9 * w + w * w + 2 * w), 9 * w + w * w + 2 * w]

        a, b = c
        everywhere = [cells * (first + second) for first, second in zip(normal(a), normal(b), strict=True)]
        separable = (9 * a + a * a + 2 * a) + (9 * a + a * b + 2 * b)
        reducing = [a * b + 2 * b, 0, a * b + 2 * b, separable, 9 * a + a * b + 2 * b]
        return [everywhere] * 5 + [reducing] * 4 + [normal(b)]

    def n_params(self, architecture: Sequence[int]) -> int:
        """Parameters of the network of one architecture."""
        table = self.operation_params()
        return self.fixed_params() + sum(row[op] for row, op in zip(table, architecture, strict=True))

    def mean_params(self) -> float:
        """Of an architecture that is drawn at random, on average."""
        return self.fixed_params() + sum(sum(row) / len(row) for row in self.operation_params())

    def most_params(self) -> int:
        """Of the heaviest architecture."""
        return self.fixed_params() + sum(map(max, self.operation_params()))

    def all_params(self) -> int:
        """Of the supernet."""
        return self.fixed_params() + sum(map(sum, self.operation_params()))

    def graph(self) -> Any:
        """NASLib's graph of this size, all operations on every edge, not parsed."""
        return GRAPHS[self.space](
            n_classes=self.n_classes,
            in_channels=self.in_channels,
            channels=self.channels,
            cells_per_stage=self.cells_per_stage,
        )


def check_space(space: str, task: Task) -> None:
    """Refuse what NASLib's networks cannot do.

    Raises:
        ValueError: For an unknown space, or images that cannot be halved in each stage but the first.
    """
    if space not in GRAPHS:
        raise ValueError(f"unknown NASLib space {space!r}{did_you_mean(space, GRAPHS)}")
    divisor = GROWTH[space][-1]
    if task.image_size % divisor:
        raise ValueError(
            f"NASLib's {space} halves the images {len(GROWTH[space]) - 1} times, so that their size must be a multiple "
            f"of {divisor}; task {task.name!r} has image_size={task.image_size}: change it to "
            f"{-(-task.image_size // divisor) * divisor}"
        )


def size_at(space: str, task: Task, width: float, cells: int | None = None) -> NetworkSize:
    """The size at ``width`` channels in the first stage; a real number, the stages are rounded.

    The simple cell's stages are multiples of the whole number next below.
    """
    cells = cells_per_stage(space, task) if cells is None else cells
    if space == "simple_cell":
        width = math.floor(width + 1e-9)
    channels = tuple(max(1, math.floor(width * growth + 0.5)) for growth in GROWTH[space])
    return NetworkSize(space, channels, cells, task.in_channels, task.n_classes)


def cells_per_stage(space: str, task: Task) -> int:
    """As many as in NASLib, or as few as the heaviest architecture needs to have 8 channels within the task's limit.

    At least one. The number depends on the task alone: all architectures are equally deep. NAS-Bench-201 has five
    cells a stage from 385,000 parameters on, and one below 165,000.
    """
    check_space(space, task)
    for cells in range(MOST_CELLS[space], 1, -1):
        if size_at(space, task, ENOUGH_CHANNELS, cells).most_params() <= task.max_params:
            return cells
    return 1


def _largest(space: str, task: Task, count: Callable[[NetworkSize], float], what: str) -> NetworkSize:
    """The largest size with ``count`` within the task's limit."""
    smallest = size_at(space, task, task.min_channels)
    if (fewest := math.ceil(count(smallest))) > task.max_params:
        raise ParameterBudgetError(
            f"{what} of NASLib's {space} has at least {fewest} parameters (at least {task.min_channels} channels), "
            f"max_params of task {task.name!r} is {task.max_params}; raise max_params, or lower min_channels",
            fewest,
        )
    most = math.isqrt(task.max_params) + 2
    growths = (1,) if space == "simple_cell" else GROWTH[space]
    half = 0.0 if space == "simple_cell" else 0.5  # where a rounded number of channels steps up
    steps = sorted({(n + half) / growth for growth in growths for n in range(most) if n >= task.min_channels * growth})
    cells = smallest.cells_per_stage

    def count_at(width: float) -> float:
        return count(size_at(space, task, width, cells))

    fits = bisect.bisect_right(steps, float(task.max_params), key=count_at)
    return size_at(space, task, steps[fits - 1], cells) if fits else smallest


def fit_network(space: str, architecture: Sequence[int], task: Task) -> NetworkSize:
    """The largest network of an architecture within ``task.max_params`` parameters.

    Raises:
        ParameterBudgetError: If even the smallest, ``task.min_channels`` channels wide, is too large.
        ValueError: If it is no architecture of the space, or the space does not suit the task's images.
    """
    check_space(space, task)
    check_architecture(space, architecture)
    return _largest(space, task, lambda size: size.n_params(architecture), f"architecture {tuple(architecture)}")


def fit_supernet(space: str, task: Task) -> NetworkSize:
    """The size at which an architecture drawn at random has ``task.max_params`` parameters on average."""
    check_space(space, task)
    return _largest(space, task, NetworkSize.mean_params, "an average architecture")


def check_architecture(space: str, architecture: Sequence[int]) -> None:
    """Refuse what is no architecture of the space.

    Raises:
        ValueError: If the number of operations is wrong, or one is out of range.
    """
    n_edges, n_ops = len(EDGES[space]), len(OPERATIONS[space])
    if len(architecture) != n_edges or not all(isinstance(op, int) and 0 <= op < n_ops for op in architecture):
        raise ValueError(
            f"an architecture of NASLib's {space} is {n_edges} operation indices from 0 to {n_ops - 1} "
            f"({', '.join(OPERATIONS[space])}), got {architecture!r}"
        )


# Networks -------------------------------------------------------------------------------------------------------------


def discrete_network(space: str, architecture: Sequence[int], task: Task, width: float | None = None) -> nn.Module:
    """The network of one architecture: a parsed NASLib graph, float ``(N, C, H, W)`` to logits ``(N, n_classes)``.

    All batch norms are affine and track statistics (those of a graph that a NASLib optimizer hands out do not). Weights
    are drawn from torch's global generator.

    Args:
        width: Channels of the first stage; by default `fit_network`'s.

    Raises:
        ParameterBudgetError, ValueError: As `fit_network`.
    """
    check_space(space, task)
    check_architecture(space, architecture)
    size = fit_network(space, architecture, task) if width is None else size_at(space, task, width)
    graph = size.graph()
    graph.set_spec(list(architecture))
    if space == "nasbench201":  # it keeps the other operations for later, each clone would copy them
        graph.update_edges(
            lambda edge: edge.data.remove("primitives"), scope=graph.OPTIMIZER_SCOPE, private_edge_data=True
        )
    graph.parse()
    network: nn.Module = graph
    return network
