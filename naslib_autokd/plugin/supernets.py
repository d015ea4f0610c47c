"""What NASLib's one-shot optimizers search: the supernet of each space at a task's size, and what its weights mean.

NAS-Bench-201 and the simple cell keep one operation on every edge (`networks`). DARTS's own space, NASLib's
``nasbench301``, keeps the two strongest inputs of every node, which may not be "none"; what is found there is built as
every architecture of that space is (`students`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from naslib_autokd.distillation.costs import count_params
from naslib_autokd.distillation.training import seeded
from naslib_autokd.plugin.architectures import ARCHITECTURES, NASBench301
from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.plugin.networks import (
    CELLS,
    EDGES,
    GRAPHS,
    OPERATIONS,
    NetworkSize,
    architecture_of,
    check_space,
    discrete_network,
    fit_network,
    fit_supernet,
)
from naslib_autokd.plugin.students import genotype_of, student_spec
from naslib_autokd.search_spaces.cell.genotype import CellSpec
from naslib_autokd.tasks import Task

load_naslib()

from naslib.search_spaces.nasbench301.graph import NasBench301SearchSpace  # noqa: E402

Architecture = tuple[Any, ...]
Described = dict[str, Any]


class OneOperationPerEdge:
    """NAS-Bench-201 and the simple cell: an architecture is an operation's index for each edge."""

    def __init__(self, name: str) -> None:
        self.name, self.operations = name, OPERATIONS[name]

    def check(self, task: Task) -> None:
        """Raise ValueError if the space does not suit the task's images, or its heaviest architecture does not fit."""
        check_space(self.name, task)
        fit_network(self.name, [row.index(max(row)) for row in fit_supernet(self.name, task).operation_params()], task)

    def supernet(self, task: Task) -> NetworkSize:
        return fit_supernet(self.name, task)

    def strongest(self, optimizer: Any) -> Architecture:
        """The operation of the largest alpha of every edge: NASLib's discretisation."""
        return tuple(int(alpha.detach().argmax()) for alpha in optimizer.architectural_weights)

    def found(self, optimizer: Any) -> Architecture:
        """What NASLib's optimizer hands out."""
        return architecture_of(optimizer.get_final_architecture(), self.name)

    def described(self, architecture: Architecture, task: Task) -> Described:
        size = fit_network(self.name, architecture, task)
        return {
            "space": self.name,
            "op_indices": list(architecture),
            "operations": {
                f"{cell}({u},{v})": self.operations[op]
                for (cell, u, v), op in zip(EDGES[self.name], architecture, strict=True)
            },
            "channels": list(size.channels),
            "cells_per_stage": size.cells_per_stage,
        }

    @staticmethod
    def architecture(described: Described) -> Architecture:
        """Of what `described` gave."""
        return tuple(described["op_indices"])

    def kept(self, architecture: Architecture) -> list[str]:
        """Operations of all cells."""
        return [self.operations[op] for op in architecture]

    def collapse(self, architecture: Architecture) -> str:
        cell = CELLS[self.name][0]
        kept = [
            self.operations[op] for (name, *_), op in zip(EDGES[self.name], architecture, strict=True) if name == cell
        ]
        return _collapse(kept, cell.replace("_", " "))

    def network(self, architecture: Architecture, task: Task, seed: int) -> nn.Module:
        with seeded(seed):
            return discrete_network(self.name, architecture, task)


# DARTS's space --------------------------------------------------------------------------------------------------------


class ResizedNASBench301(NasBench301SearchSpace):
    """NASLib's graph of DARTS's eight cells with other channels, without the auxiliary head."""

    def __init__(self, n_classes: int = 10, in_channels: int = 3, channels: Sequence[int] = (16, 32, 64)) -> None:
        self._wanted = tuple(channels)
        super().__init__(n_classes=n_classes, in_channels=in_channels, auxiliary=False)

    def _set_makrograph_ops(self, *arguments: Any, **options: Any) -> None:
        self.channels = list(self._wanted)
        super()._set_makrograph_ops(*arguments, **options)


@dataclass(frozen=True)
class DARTSSupernet:
    """The size of NASLib's supernet of DARTS's space."""

    channels: tuple[int, ...]
    """Of each stage; NASLib has (16, 32, 64)."""
    in_channels: int
    n_classes: int
    space: str = "nasbench301"

    def graph(self) -> Any:
        """NASLib's graph, all operations on every edge, not parsed."""
        return ResizedNASBench301(self.n_classes, self.in_channels, self.channels)

    def all_params(self) -> int:
        """Parameters of the supernet."""
        return _params_of(self)


@lru_cache(maxsize=8)
def _params_of(size: DARTSSupernet) -> int:
    with seeded(0):
        graph = size.graph()
    graphs = [graph, *graph._get_child_graphs(single_instances=False)]
    at_edges = [data.op for part in graphs for *_, data in part.edges.data()]
    operations = [op for at_edge in at_edges for op in (at_edge if isinstance(at_edge, list) else [at_edge])]
    return sum(count_params(op) for op in operations)


class TwoInputsPerNode:
    """DARTS's space: of each node the two inputs whose strongest operation, "none" apart, has the largest weight."""

    name = "nasbench301"
    operations = (
        *("skip_connect", "none", "max_pool_3x3", "avg_pool_3x3"),
        *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
    )
    """Of every edge of the supernet, in NASLib's order."""
    n_cells = 8

    def check(self, task: Task) -> None:
        if task.image_size % 4:
            raise ValueError(
                f"NASLib's nasbench301 halves the images 2 times, so that their size must be a multiple of 4; task "
                f"{task.name!r} has image_size={task.image_size}: change it to {-(-task.image_size // 4) * 4}"
            )
        student_spec(self.name, (((0, 4), (1, 4)) * 4,) * 2, task)

    def supernet(self, task: Task) -> DARTSSupernet:
        """The width at which the eight cells with each operation everywhere have the task's limit on average.

        At least ``task.min_channels`` (rounded up to an even number, for NASLib's way to halve images), even where that
        is more than the limit: a supernet is no student, and is charged by its work.
        """
        cells = [genotype_of(((((0, op), (1, op)) * 4),) * 2) for op in range(len(NASBench301.operations))]

        def mean_params(width: int) -> float:
            sizes = (width, 2 * width, 4 * width)
            shape = (task.in_channels, task.image_size, task.n_classes)
            return sum(CellSpec(cell, self.n_cells, 3 * width, sizes, *shape).n_params for cell in cells) / len(cells)

        width = task.min_channels + task.min_channels % 2
        while mean_params(width + 2) <= task.max_params:
            width += 2
        return DARTSSupernet((width, 2 * width, 4 * width), task.in_channels, task.n_classes)

    def strongest(self, optimizer: Any) -> Architecture:
        graphs = {cell.name: cell for cell in optimizer.graph._get_child_graphs(single_instances=False)}
        return ARCHITECTURES[self.name].canonical(
            [self._cell(graphs[name]) for name in ("normal_cell", "reduction_cell")]
        )

    def _cell(self, graph: Any) -> list[tuple[int, int]]:
        none = self.operations.index("none")
        pairs = []
        for node in range(3, 7):
            inputs = []
            for source in range(1, node):
                alpha = graph.edges[source, node].alpha.detach().clone()
                alpha[none] = -torch.inf
                inputs.append((float(alpha.softmax(0).max()), source, int(alpha.argmax())))
            kept = sorted(inputs, key=lambda one: -one[0])[:2]  # NASLib's order: the first of equals
            pairs += [(source - 1, NASBench301.operations.index(self.operations[op])) for _, source, op in kept]
        return pairs

    def found(self, optimizer: Any) -> Architecture:
        """As `strongest`: NASLib's own discretisation takes seconds, and deletes edges of the optimizer's graph."""
        return self.strongest(optimizer)

    def described(self, architecture: Architecture, task: Task) -> Described:
        spec = student_spec(self.name, architecture, task)
        return {
            "space": self.name,
            "compact": architecture,
            "operations": {
                f"{cell}({source},{2 + place // 2})": NASBench301.operations[op]
                for cell, pairs in zip(NASBench301.cells, architecture, strict=True)
                for place, (source, op) in enumerate(pairs)
            },
            "channels": list(spec.channels),
            "n_cells": spec.n_cells,
        }

    def architecture(self, described: Described) -> Architecture:
        return ARCHITECTURES[self.name].canonical(described["compact"])

    def kept(self, architecture: Architecture) -> list[str]:
        return [NASBench301.operations[op] for cell in architecture for _, op in cell]

    def collapse(self, architecture: Architecture) -> str:
        return _collapse([NASBench301.operations[op] for _, op in architecture[0]], "normal cell")

    def network(self, architecture: Architecture, task: Task, seed: int) -> nn.Module:
        return student_spec(self.name, architecture, task).build(seed)


SPACES: dict[str, OneOperationPerEdge | TwoInputsPerNode] = {
    **{name: OneOperationPerEdge(name) for name in GRAPHS},
    "nasbench301": TwoInputsPerNode(),
}
"""Spaces that NASLib's one-shot optimizers search here, by name."""


def supernet_from_dict(values: dict[str, Any]) -> NetworkSize | DARTSSupernet:
    kind: Any = DARTSSupernet if values["space"] == "nasbench301" else NetworkSize
    size: NetworkSize | DARTSSupernet = kind(**values | {"channels": tuple(values["channels"])})
    return size


def _collapse(kept: Sequence[str], cell: str) -> str:
    """Why a cell of these operations counts as collapsed: mostly skip or none, or no weights at all; "" if not."""
    empty = sum(operation in ("skip_connect", "none") for operation in kept)
    if 2 * empty > len(kept):
        return f"{empty} of {len(kept)} edges of the {cell} are skip connections or none"
    if not any("conv" in operation for operation in kept):
        return f"none of the {len(kept)} edges of the {cell} has weights"
    return ""
