"""Cells of DARTS as data: which operations a cell keeps, how wide the network built from it is, and what it costs.

Imports no torch, so that a genotype can be read, compared and counted anywhere.

Source: Liu et al. 2019, DARTS: Differentiable Architecture Search, arXiv:1806.09055, section 2.1 and appendix A.1, and
its released code (github.com/quark0/darts, ``cnn/model.py``).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from naslib_autokd.records import content_digest
from naslib_autokd.search_spaces.hnag.wiring import ParameterBudgetError

OPERATIONS: tuple[str, ...] = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The eight candidate operations of the paper, in the order of its code."""

SMALL_OPERATIONS: tuple[str, ...] = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "dil_conv_3x3",
)
"""Without the 5x5 kernels, for images of a few pixels: six operations, about half of the supernet's time."""

PARAMETER_FREE: frozenset[str] = frozenset({"none", "skip_connect", "max_pool_3x3", "avg_pool_3x3"})

Edge = tuple[str, int]
"""``(operation, input)``. Inputs 0 and 1 are the outputs of the two previous cells, ``2 + i`` is node ``i``."""


@dataclass(frozen=True)
class Genotype:
    """What the search decides: for each intermediate node of both cells the two edges that it keeps.

    A cell's output is the concatenation of all its nodes, so its width is ``n_nodes`` times the width of a node.
    """

    normal: tuple[tuple[Edge, Edge], ...]
    reduction: tuple[tuple[Edge, Edge], ...]

    def __post_init__(self) -> None:
        for name in ("normal", "reduction"):
            cell = tuple(tuple((str(op), int(source)) for op, source in node) for node in getattr(self, name))
            object.__setattr__(self, name, cell)
            if not cell:
                raise ValueError(f"the {name} cell has no nodes")
            for index, node in enumerate(cell):
                if len(node) != 2:
                    raise ValueError(f"{name} node {index} must keep two edges, got {len(node)}")
                for operation, source in node:
                    if operation not in OPERATIONS or operation == "none":
                        raise ValueError(f"{name} node {index}: {operation!r} is not an operation that a cell can keep")
                    if not 0 <= source < index + 2:
                        raise ValueError(f"{name} node {index} can read inputs 0 to {index + 1}, got {source}")
        if len(self.normal) != len(self.reduction):
            raise ValueError(
                f"both cells must have the same number of nodes, got {len(self.normal)} and {len(self.reduction)}"
            )

    @property
    def n_nodes(self) -> int:
        return len(self.normal)

    @property
    def operations(self) -> tuple[str, ...]:
        """All kept operations: normal cell, then reduction cell, node by node."""
        return tuple(operation for cell in (self.normal, self.reduction) for node in cell for operation, _ in node)

    @property
    def skip_share(self) -> float:
        """Share of the kept edges that are skip connections, in [0, 1]."""
        return self.operations.count("skip_connect") / len(self.operations)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the content, the same on every machine and Python version."""
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {
            name: [[[operation, source] for operation, source in node] for node in getattr(self, name)]
            for name in ("normal", "reduction")
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Genotype:
        """Inverse of `to_dict`; raises ValueError if it does not describe a genotype."""
        unknown = sorted(set(values) - {"normal", "reduction"})
        if unknown or len(values) != 2:
            raise ValueError(f"a genotype has the keys normal and reduction, got {', '.join(map(str, values))}")
        try:
            cells = {
                name: tuple(tuple((operation, source) for operation, source in node) for node in values[name])
                for name in ("normal", "reduction")
            }
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a genotype: {error}") from error
        return cls(**cells)  # type: ignore[arg-type]  # the number of edges is checked by __post_init__

    def __str__(self) -> str:
        def text(cell: tuple[tuple[Edge, Edge], ...]) -> str:
            return "; ".join(" + ".join(f"{operation}({source})" for operation, source in node) for node in cell)

        return f"normal: {text(self.normal)} | reduction: {text(self.reduction)}"


@dataclass(frozen=True)
class CellSpec:
    """Everything that defines one network of cells: the genotype and all sizes."""

    genotype: Genotype
    n_cells: int
    stem_channels: int
    channels: tuple[int, int, int]
    """Channels of a node before, between and after the two reduction cells (which belong to the later stage)."""
    in_channels: int
    image_size: int
    n_classes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.n_cells < 3:
            raise ValueError(f"n_cells must be at least 3 (two of them reduce), got {self.n_cells}")
        if self.image_size < 4:
            raise ValueError(f"image_size must be at least 4 (it is halved twice), got {self.image_size}")
        if len(self.channels) != 3 or min(*self.channels, self.stem_channels) < 1:
            raise ValueError(f"channels must be three positive numbers, got {self.channels}, stem {self.stem_channels}")

    @property
    def layout(self) -> tuple[CellLayout, ...]:
        """Sizes of every cell, in order."""
        return cell_layout(self.n_cells, self.stem_channels, self.channels, self.genotype.n_nodes, self.image_size)

    @property
    def n_params(self) -> int:
        return self._count()[0]

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and the classifier for one image, a multiply-add counted once."""
        return self._count()[1]

    @property
    def depth(self) -> int:
        """Convolutions and classifier on the longest path (a separable convolution counts its four)."""
        before = after = 1
        for cell in self.layout:
            depths = [before + 1, after + 1]  # the preprocessing of both inputs
            nodes = self.genotype.reduction if cell.reduces else self.genotype.normal
            for node in nodes:
                depths.append(max(depths[source] + self._depth_of(op, cell, source) for op, source in node))
            before, after = after, max(depths[2:])
        return after + 1

    @staticmethod
    def _depth_of(operation: str, cell: CellLayout, source: int) -> int:
        if operation == "skip_connect":
            return int(cell.reduces and source < 2)
        return {"sep": 4, "dil": 2}.get(operation[:3], 0)

    def _count(self) -> tuple[int, int]:
        size = self.image_size
        weights = 9 * self.in_channels * self.stem_channels
        params, macs = weights + 2 * self.stem_channels, weights * size**2
        for cell in self.layout:
            for n_in, shrinks in ((cell.channels_before, cell.input_reduces), (cell.channels_previous, False)):
                # both the 1x1 convolution and FactorizedReduce have n_in * channels weights
                params += n_in * cell.channels + 2 * cell.channels
                inner = -(-cell.size_before // 2) if shrinks else cell.size
                macs += n_in * cell.channels * inner**2
            nodes = self.genotype.reduction if cell.reduces else self.genotype.normal
            for node in nodes:
                for operation, source in node:
                    stride = 2 if cell.reduces and source < 2 else 1
                    added = operation_cost(
                        operation, cell.channels, cell.size if stride == 1 else cell.size_out, stride
                    )
                    if stride == 1 and cell.reduces:
                        added = operation_cost(operation, cell.channels, cell.size_out, 1)
                    params, macs = params + added[0], macs + added[1]
        features = self.genotype.n_nodes * self.channels[2]
        return params + (features + 1) * self.n_classes, macs + features * self.n_classes

    @property
    def digest(self) -> str:
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {
            "genotype": self.genotype.to_dict(),
            "n_cells": self.n_cells,
            "stem_channels": self.stem_channels,
            "channels": list(self.channels),
            "in_channels": self.in_channels,
            "image_size": self.image_size,
            "n_classes": self.n_classes,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CellSpec:
        """Inverse of `to_dict`."""
        try:
            return cls(**{**values, "genotype": Genotype.from_dict(values["genotype"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a network of cells: {error}") from error


@dataclass(frozen=True)
class CellLayout:
    """Sizes of one cell of a network."""

    reduces: bool
    input_reduces: bool
    """The previous cell reduced, so the output of the one before it is halved in the preprocessing."""
    channels: int
    channels_before: int
    """Channels of input 0, the output of the cell before the previous one."""
    channels_previous: int
    size_before: int
    """Pixels per side of input 0."""
    size: int
    """Pixels per side of input 1, and of both inputs after preprocessing."""
    size_out: int


def cell_layout(
    n_cells: int, stem_channels: int, channels: Sequence[int], n_nodes: int, image_size: int
) -> tuple[CellLayout, ...]:
    """Where a network of cells reduces (at 1/3 and 2/3, as in the paper) and how large everything is."""
    cells = []
    before = previous = stem_channels
    size_before = size = image_size
    stage, reduced = 0, False
    for index in range(n_cells):
        reduces = index in (n_cells // 3, 2 * n_cells // 3)
        stage += reduces
        size_out = -(-size // 2) if reduces else size
        cells.append(CellLayout(reduces, reduced, channels[stage], before, previous, size_before, size, size_out))
        before, previous = previous, n_nodes * channels[stage]
        size_before, size, reduced = size, size_out, reduces
    return tuple(cells)


def operation_cost(operation: str, channels: int, size_out: int, stride: int) -> tuple[int, int]:
    """``(parameters, multiply-adds)`` of one discrete operation; batch norm counts two parameters per channel."""
    if operation == "skip_connect":
        return (channels**2 + 2 * channels, channels**2 * size_out**2) if stride == 2 else (0, 0)
    if operation in PARAMETER_FREE:
        return 0, 0
    weights = int(operation[-1]) ** 2 * channels + channels**2
    blocks = 2 if operation.startswith("sep") else 1
    return blocks * (weights + 2 * channels), blocks * weights * size_out**2


def fit_width(
    genotype: Genotype,
    max_params: int,
    *,
    in_channels: int,
    image_size: int,
    n_classes: int,
    n_cells: int = 3,
    channel_growth: float = 2.0,
    stem_multiplier: float = 3.0,
    min_channels: int = 1,
) -> CellSpec:
    """The largest network of ``genotype`` within ``max_params`` parameters.

    The width is a real number: a stage has ``round(width * channel_growth**stage)`` channels, the stem
    ``round(stem_multiplier * width)``. The largest width that fits is found exactly. Where several stages step up at
    the same width (``channel_growth=1``) that can leave more than 5% unspent; then single stages get one channel more,
    the last (and cheapest in time) first.

    Raises:
        ParameterBudgetError: If even the smallest network exceeds ``max_params``; names its number of parameters.
        ValueError: If a size is out of range.
    """
    if channel_growth <= 0 or stem_multiplier <= 0 or min_channels < 1:
        raise ValueError(
            f"channel_growth and stem_multiplier must be positive and min_channels at least 1, got "
            f"{channel_growth}, {stem_multiplier} and {min_channels}"
        )
    ratios = [stem_multiplier, *(channel_growth**stage for stage in range(3))]

    def spec(width: float) -> CellSpec:
        stem, *channels = (max(min_channels, math.floor(width * ratio + 0.5 + 1e-9)) for ratio in ratios)
        return CellSpec(genotype, n_cells, stem, tuple(channels), in_channels, image_size, n_classes)  # type: ignore[arg-type]

    smallest = spec(0.0)
    if smallest.n_params > max_params:
        raise ParameterBudgetError(
            f"a network of these cells has at least {smallest.n_params} parameters ({n_cells} cells, at least "
            f"{min_channels} channels), max_params is {max_params}; raise max_params or use fewer cells",
            smallest.n_params,
        )
    # A width can be useful only where some count steps up; the classifier alone bounds the last stage.
    most = max(2, math.isqrt(max_params) + max_params // (genotype.n_nodes * n_classes) + 2)
    steps = sorted({(count + 0.5) / ratio for ratio in ratios for count in range(1, most)})
    fits = bisect_right(_Monotone(lambda index: spec(steps[index]).n_params, len(steps)), max_params)
    best = spec(steps[fits - 1]) if fits else smallest
    if best.n_params < 0.95 * max_params:
        for stage in (2, 1, 0):
            c0, c1, c2 = (count + (index == stage) for index, count in enumerate(best.channels))
            larger = replace(best, channels=(c0, c1, c2))
            if larger.n_params <= max_params:
                best = larger
    return best


class _Monotone(Sequence[int]):
    """A non-decreasing function of an index, for `bisect`."""

    def __init__(self, function: Callable[[int], int], length: int) -> None:
        self._function, self._length = function, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        return self._function(index)
