"""Wirings and student specifications: what a student is, as plain data, counted before any tensor exists.

A `Wiring` is one drawn three-level DAG. A `StudentSpec` adds what turns it into one network: the channels of the three
stages, the images and the classes. `fit_width` finds the channels that use a parameter budget best. Parameters,
multiply-adds and depth follow in closed form, and the torch module (`student.Student`) has exactly those.

How a wiring computes:

* A bottom node merges its inputs, then ReLU, operation, batch norm. No convolution has a bias (batch norm removes it).
* At every level a node without predecessors takes its graph's input, and the outputs of a graph's nodes without
  successors are averaged, unweighted, to be the output of the node that contains the graph.
* At every level a node with several inputs merges them: ``sum`` weighs every input with the sigmoid of one learned
  scalar; ``concat`` concatenates and projects back by a 1x1 convolution; ``attention`` multiplies with a mask that the
  first input makes (see `student.Student`). With one input there is nothing to merge, and no weight.
* Top nodes (cells) belong to three stages. A value that is read in a later stage is halved once per stage on the way
  (``downsampling``) and projected to the reader's channels by a 1x1 convolution of its own, without batch norm
  (measured worse with it), also where both stages happen to have equal channels: so the number of parameters never
  falls when the width grows. ``concat`` at the top projects its halved inputs once, together.
* The output of the top graph lives in the stage of its last node; the other outputs are halved and projected to it.
* The head is ReLU, global average pooling and a linear layer; with ``head_ratio > 0`` a 1x1 convolution to
  ``round(head_ratio * channels)``, batch norm and ReLU come before the pooling.

Departures from the authors' code (Ru et al. 2020, arXiv:2004.01395; github.com/rubinxin/vega_NAGO), each on purpose:
outputs are chosen by node, not by their position in a dictionary (which takes wrong cells in 14 of 199 wirings); single
nodes work at every level; an input of another stage gets a weight like the others and no bias; pooling operations have
ReLU and batch norm like the others; the head follows the student's width (theirs is 1280 wide whatever the student:
44% of the parameters of a small one); the stem for small images is one convolution, not two; no dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from naslib_autokd.records import content_digest
from naslib_autokd.search_spaces.hnag._checks import check_integer, check_mapping, check_name, check_real
from naslib_autokd.search_spaces.hnag.graphs import Graph

if TYPE_CHECKING:
    import networkx

N_STAGES = 3
DOWNSAMPLINGS = ("average", "max")
MERGES = ("sum", "concat", "attention")
NO_MERGE = "single"
"""Merge of a node with fewer than two inputs."""
STEMS = ("small", "large")
LARGE_IMAGE = 64
"""From this image size on, ``stem="auto"`` means "large"."""


class Operation(NamedTuple):
    kind: str
    """"conv", "separable" (depthwise, then 1x1), "average" or "max" (pooling)."""
    height: int
    width: int


OPERATIONS = {
    "conv3x3": Operation("conv", 3, 3),
    "conv5x5": Operation("conv", 5, 5),
    "conv1x1": Operation("conv", 1, 1),
    "conv1x3": Operation("conv", 1, 3),
    "conv3x1": Operation("conv", 3, 1),
    "avgpool3x3": Operation("average", 3, 3),
    "avgpool5x5": Operation("average", 5, 5),
    "maxpool3x3": Operation("max", 3, 3),
    "maxpool5x5": Operation("max", 5, 5),
    "separable3x3": Operation("separable", 3, 3),
    "separable5x5": Operation("separable", 5, 5),
}
"""What a bottom node may do. The authors' seven are the five convolutions and the two average poolings."""

# Weights of an operation: DENSE times channels squared, plus DEPTHWISE times channels.
DENSE = {
    name: op.height * op.width if op.kind == "conv" else int(op.kind == "separable") for name, op in OPERATIONS.items()
}
DEPTHWISE = {name: op.height * op.width * (op.kind == "separable") for name, op in OPERATIONS.items()}

STAGE_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""(stage of the input channels, stage of the output channels) of a convolution, in the order of `Counts.dense`."""
PAIR_INDEX = {pair: index for index, pair in enumerate(STAGE_PAIRS)}


SHAPE_TOLERANCE = 2**0.5
"""With a ``width_multiple``, channels differ from those of the width by at most this factor, or by one channel:
multiples that follow each other are at most a factor of 2 apart."""
SHAPE_TOLERANCE_UP = (1.1, SHAPE_TOLERANCE, SHAPE_TOLERANCE)
"""Upwards, by stage: maps of the first are the largest, and what others leave over would cost most time there."""


class ParameterBudgetError(ValueError):
    """The parameter budget is below the smallest student of the wiring, which the message and ``smallest`` name."""

    def __init__(self, message: str, smallest: int) -> None:
        super().__init__(message)
        self.smallest = smallest


@dataclass(frozen=True)
class BottomGraph:
    """What a mid node holds: a graph of operations."""

    graph: Graph
    operations: tuple[str, ...]
    """Of each node, names in `OPERATIONS`."""
    merges: tuple[str, ...]
    """Of each node, names in `MERGES`, or `NO_MERGE` for fewer than two inputs."""

    def to_dict(self) -> dict[str, Any]:
        return {"graph": _lists(self.graph), "operations": list(self.operations), "merges": list(self.merges)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BottomGraph:
        keys = ("graph", "operations", "merges")
        check_mapping(values, keys, "bottom graph", required=keys)
        graph, operations = _graph(values["graph"]), tuple(values["operations"])
        if len(operations) != graph.n_nodes:
            raise ValueError(f"a bottom graph of {graph.n_nodes} nodes has {len(operations)} operations")
        for name in operations:
            check_name(name, OPERATIONS, "operation")
        return cls(graph, operations, _merges(graph, values["merges"]))


@dataclass(frozen=True)
class Cell:
    """What a top node holds: the mid graph."""

    graph: Graph
    merges: tuple[str, ...]
    nodes: tuple[BottomGraph, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "graph": _lists(self.graph),
            "merges": list(self.merges),
            "nodes": [node.to_dict() for node in self.nodes],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cell:
        keys = ("graph", "merges", "nodes")
        check_mapping(values, keys, "cell", required=keys)
        graph = _graph(values["graph"])
        nodes = tuple(BottomGraph.from_dict(node) for node in values["nodes"])
        if len(nodes) != graph.n_nodes:
            raise ValueError(f"a cell whose graph has {graph.n_nodes} nodes holds {len(nodes)} bottom graphs")
        return cls(graph, _merges(graph, values["merges"]), nodes)


@dataclass(frozen=True)
class Wiring:
    """One network drawn from a family: nested DAGs, before any tensor exists; equal means equal content."""

    graph: Graph
    """The top level."""
    merges: tuple[str, ...]
    stages: tuple[int, ...]
    """Of each top node, 0 to 2, never falling. A stage may be empty; its halving still happens."""
    cells: tuple[Cell, ...]
    channel_growth: float = 2.0
    """Stage s has about ``channel_growth ** s`` times the channels of stage 0."""
    downsampling: str = "average"
    """"average" or "max": 2x2 pooling between stages."""
    head_ratio: float = 0.0
    """Width of the 1x1 convolution in the head, in channels of the last stage; 0 means no such layer."""

    def __post_init__(self) -> None:
        n_nodes = self.graph.n_nodes
        if not n_nodes == len(self.merges) == len(self.stages) == len(self.cells):
            raise ValueError(f"merges, stages and cells must have one entry for each of the {n_nodes} top nodes")
        if list(self.stages) != sorted(self.stages) or self.stages[0] < 0 or self.stages[-1] >= N_STAGES:
            raise ValueError(f"stages must be in 0..{N_STAGES - 1} and never fall, got {list(self.stages)}")
        if self.downsampling not in DOWNSAMPLINGS:
            check_name(self.downsampling, DOWNSAMPLINGS, "downsampling")

    @cached_property
    def counts(self) -> Counts:
        return count(self)

    @property
    def depth(self) -> int:
        """Operations on the longest path from input to output (stem, projections and head not counted)."""
        return self.counts.depth

    @property
    def n_operations(self) -> int:
        """Bottom nodes in all."""
        return self.counts.n_operations

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the content, the same on every machine."""
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; a graph is the list of its nodes' predecessors."""
        return {
            "graph": _lists(self.graph),
            "merges": list(self.merges),
            "stages": list(self.stages),
            "cells": [cell.to_dict() for cell in self.cells],
            "channel_growth": self.channel_growth,
            "downsampling": self.downsampling,
            "head_ratio": self.head_ratio,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Wiring:
        """Inverse of `to_dict`.

        Raises:
            ValueError: If a key is unknown or missing, or the content is no wiring.
        """
        keys = tuple(field.name for field in fields(cls))
        check_mapping(values, keys, "wiring", required=keys)
        graph = _graph(values["graph"])
        return cls(
            graph=graph,
            merges=_merges(graph, values["merges"]),
            stages=tuple(check_integer(stage, "stage", 0) for stage in values["stages"]),
            cells=tuple(Cell.from_dict(cell) for cell in values["cells"]),
            channel_growth=check_real(values["channel_growth"], "channel_growth", 0.0, math.inf, open_low=True),
            downsampling=str(values["downsampling"]),
            head_ratio=check_real(values["head_ratio"], "head_ratio", 0.0, math.inf),
        )

    def to_networkx(self) -> networkx.DiGraph:
        """The flattened graph: a node ``(top, mid, bottom)`` per operation, and "input" and "output".

        Nodes carry ``operation`` and ``stage``. An edge to a node that holds a graph goes to all its input nodes, an
        edge from it leaves all its output nodes, so the longest path has ``depth + 1`` edges. Needs networkx.
        """
        import networkx

        flat = networkx.DiGraph()
        flat.add_node("input")

        def connect(graph: Graph, sources: list[Any], inner: Any) -> list[Any]:
            """Add the nodes of ``graph`` after ``sources`` and return where its output comes from."""
            ends: list[list[Any]] = []
            for node, predecessors in enumerate(graph.predecessors):
                before = [end for p in predecessors for end in ends[p]] if predecessors else sources
                ends.append(inner(node, before))
            return [end for node in graph.outputs for end in ends[node]]

        def cell_nodes(top: int, before: list[Any]) -> list[Any]:
            cell = self.cells[top]

            def bottom_nodes(mid: int, before: list[Any]) -> list[Any]:
                bottom = cell.nodes[mid]

                def operation(index: int, before: list[Any]) -> list[Any]:
                    name = (top, mid, index)
                    flat.add_node(name, operation=bottom.operations[index], stage=self.stages[top])
                    flat.add_edges_from((source, name) for source in before)
                    return [name]

                return connect(bottom.graph, before, operation)

            return connect(cell.graph, before, bottom_nodes)

        ends = connect(self.graph, ["input"], cell_nodes)
        flat.add_edges_from((end, "output") for end in ends)
        return flat


def _lists(graph: Graph) -> list[list[int]]:
    return [list(sources) for sources in graph.predecessors]


def _graph(lists: Any) -> Graph:
    return Graph(tuple(tuple(check_integer(source, "predecessor", 0) for source in sources) for sources in lists))


def _merges(graph: Graph, names: Any) -> tuple[str, ...]:
    merges = tuple(names)
    if len(merges) != graph.n_nodes:
        raise ValueError(f"a graph of {graph.n_nodes} nodes has {len(merges)} merges")
    for sources, name in zip(graph.predecessors, merges, strict=True):
        check_name(name, MERGES if len(sources) > 1 else (NO_MERGE,), "merge")
    return merges


@dataclass(frozen=True)
class Counts:
    """A wiring's sizes as coefficients: parameters and multiply-adds at any width follow from these few numbers."""

    dense: tuple[int, ...]
    """Kernel elements of all convolutions from stage t's channels to stage s's, in the order of `STAGE_PAIRS`."""
    depthwise: tuple[int, ...]
    """Kernel elements of the depthwise convolutions, per channel, by stage."""
    nodes: tuple[int, ...]
    """Operations, each with a batch norm, by stage."""
    merge_weights: int
    depth: int
    n_operations: int


class Outline(NamedTuple):
    """What the size of a student depends on: a `Wiring` without its wires, where nobody needs them (`screening`)."""

    counts: Counts
    stages: tuple[int, ...]
    channel_growth: float
    head_ratio: float


def count(wiring: Wiring) -> Counts:
    """Count a wiring once, at every level."""
    dense, depthwise, nodes = [0] * len(STAGE_PAIRS), [0] * N_STAGES, [0] * N_STAGES
    merge_weights = 0
    stages = wiring.stages
    finished: list[int] = []  # of each cell: operations on the longest path that ends with it
    for stage, cell, sources, merge in zip(stages, wiring.cells, wiring.graph.predecessors, wiring.merges, strict=True):
        together = merge == "concat"
        source_stages = [stages[source] for source in sources] if sources else [0]  # the stem is in stage 0
        for source_stage in source_stages:
            if together or source_stage != stage:
                dense[PAIR_INDEX[source_stage, stage]] += 1
        if len(sources) > 1 and not together:
            merge_weights += len(sources)

        square = linear = 0
        mid_finished: list[int] = []
        for bottom, mid_sources, mid_merge in zip(cell.nodes, cell.graph.predecessors, cell.merges, strict=True):
            if len(mid_sources) > 1:
                if mid_merge == "concat":
                    square += len(mid_sources)
                else:
                    merge_weights += len(mid_sources)
            operations = bottom.operations
            first = operations[0]
            if operations.count(first) == len(operations):
                square += DENSE[first] * len(operations)
                linear += DEPTHWISE[first] * len(operations)
            else:
                for name in operations:
                    square += DENSE[name]
                    linear += DEPTHWISE[name]
            bottom_finished: list[int] = []
            for inputs, bottom_merge in zip(bottom.graph.predecessors, bottom.merges, strict=True):
                if not inputs:
                    bottom_finished.append(1)
                elif len(inputs) == 1:
                    bottom_finished.append(bottom_finished[inputs[0]] + 1)
                else:
                    if bottom_merge == "concat":
                        square += len(inputs)
                    else:
                        merge_weights += len(inputs)
                    bottom_finished.append(max([bottom_finished[i] for i in inputs]) + 1)
            before = max([mid_finished[i] for i in mid_sources]) if mid_sources else 0
            mid_finished.append(before + max(bottom_finished))
            nodes[stage] += len(operations)
        before = max([finished[i] for i in sources]) if sources else 0
        finished.append(before + max(mid_finished))
        dense[PAIR_INDEX[stage, stage]] += square
        depthwise[stage] += linear
    for output in wiring.graph.outputs:
        if stages[output] != stages[-1]:
            dense[PAIR_INDEX[stages[output], stages[-1]]] += 1
    return Counts(tuple(dense), tuple(depthwise), tuple(nodes), merge_weights, max(finished), sum(nodes))


def round_half_up(value: float) -> int:
    """2.5 becomes 3, and 3.5 becomes 4: unlike `round`, never falls behind when ``value`` grows by 1."""
    return math.floor(value + 0.5)


def channels_at(width: float, channel_growth: float, min_channels: int = 1) -> tuple[int, int, int]:
    """Channels of the three stages: ``max(min_channels, round(width * channel_growth**stage))``."""
    ratios = _stage_ratios(channel_growth)
    first, second, third = (max(min_channels, round_half_up(width * ratio)) for ratio in ratios)
    return first, second, third


def _stage_ratios(channel_growth: float) -> tuple[float, float, float]:
    return 1.0, channel_growth, channel_growth * channel_growth


def stem_hidden(channels: int) -> int:
    """Channels between the two convolutions of the large stem."""
    return (channels + 1) // 2


def head_hidden(head_ratio: float, channels: int) -> int:
    """Width of the head's 1x1 convolution; 0 if there is none."""
    return max(1, round_half_up(head_ratio * channels)) if head_ratio > 0 else 0


@dataclass(frozen=True)
class StudentSpec:
    """Everything that defines one student but its weights.

    Raises:
        ValueError: If a number is outside its range, or the images are too small for the stages (every stage halves
            the resolution, rounding down, and one pixel must remain in the last one that is used).
    """

    wiring: Wiring
    channels: tuple[int, int, int]
    """Of the three stages; that of an unused stage has no effect, but for stage 0, which is the stem's too."""
    in_channels: int
    image_size: int
    """Height and width of the images, in pixels."""
    n_classes: int
    stem: str = "small"
    """"small": 3x3 convolution at full resolution; "large": two of stride 2; both with batch norm."""

    def __post_init__(self) -> None:
        check_name(self.stem, STEMS, "stem")
        if len(self.channels) != N_STAGES:
            raise ValueError(f"channels must have {N_STAGES} entries, got {self.channels}")
        object.__setattr__(self, "channels", tuple([check_integer(c, "channels", 1) for c in self.channels]))
        for name, smallest in (("in_channels", 1), ("image_size", 1), ("n_classes", 2)):
            object.__setattr__(self, name, check_integer(getattr(self, name), name, smallest))
        last = self.wiring.stages[-1]
        if self.sizes[last] < 1:
            smallest = 2**last if self.stem == "small" else 4 * 2**last - 3
            raise ValueError(
                f"image_size {self.image_size} is too small: {last} halvings between the stages and the {self.stem} "
                f"stem need at least {smallest} pixels"
            )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Height and width of the feature maps in each stage."""
        return stage_sizes(self.image_size, self.stem)

    @cached_property
    def n_params(self) -> int:
        """All parameters: stem, operations, projections, batch norm (2 per channel), merge weights, head."""
        return parameter_count(self.wiring, self.in_channels, self.n_classes, self.stem)(*self.channels)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of one image, each counted once, in convolutions and the linear layer.

        Positions in the padding count (as in fvcore and in torch's FlopCounterMode, whose FLOPs are twice this). Not
        counted: batch norm, ReLU, merges, pooling, biases.
        """
        return multiply_adds(self.wiring, self.channels, self.in_channels, self.image_size, self.n_classes, self.stem)

    @property
    def depth(self) -> int:
        """Operations on the longest path, as in `Wiring.depth`."""
        return self.wiring.depth

    def budget_used(self, max_params: int) -> float:
        """``n_params / max_params``."""
        return self.n_params / max_params

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the content, the same on every machine."""
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {
            "wiring": self.wiring.to_dict(),
            "channels": list(self.channels),
            "in_channels": self.in_channels,
            "image_size": self.image_size,
            "n_classes": self.n_classes,
            "stem": self.stem,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudentSpec:
        """Inverse of `to_dict`.

        Raises:
            ValueError: If a key is unknown or missing, or the content is no student.
        """
        keys = tuple(field.name for field in fields(cls))
        check_mapping(values, keys, "student specification", required=keys)
        rest = {key: value for key, value in values.items() if key not in ("wiring", "channels")}
        return cls(wiring=Wiring.from_dict(values["wiring"]), channels=tuple(values["channels"]), **rest)


def stage_sizes(image_size: int, stem: str) -> tuple[int, int, int]:
    """Height and width of the feature maps in each stage, in pixels; 0 where the images are too small for a stage."""
    first = image_size if stem == "small" else -(-image_size // 4)
    return first, first // 2, first // 4


def multiply_adds(
    wiring: Wiring | Outline,
    channels: tuple[int, int, int],
    in_channels: int,
    image_size: int,
    n_classes: int,
    stem: str,
) -> int:
    """`StudentSpec.macs`."""
    areas = [size * size for size in stage_sizes(image_size, stem)]
    counts, last = wiring.counts, wiring.stages[-1]
    total = sum(
        [n * channels[t] * channels[s] * areas[s] for n, (t, s) in zip(counts.dense, STAGE_PAIRS, strict=True) if n]
    )
    total += sum([n * c * area for n, c, area in zip(counts.depthwise, channels, areas, strict=True) if n])
    if stem == "small":
        total += 9 * in_channels * channels[0] * areas[0]
    else:
        middle = stem_hidden(channels[0])
        total += 9 * in_channels * middle * (-(-image_size // 2)) ** 2 + 9 * middle * channels[0] * areas[0]
    hidden = head_hidden(wiring.head_ratio, channels[last])
    return total + channels[last] * hidden * areas[last] + (hidden or channels[last]) * n_classes


def parameter_count(
    wiring: Wiring | Outline, in_channels: int, n_classes: int, stem: str
) -> Callable[[int, int, int], int]:
    """The number of parameters as a function of the three stages' channels, ready to be called many times."""
    counts, last, head_ratio = wiring.counts, wiring.stages[-1], wiring.head_ratio
    q00, q01, q02, q11, q12, q22 = counts.dense
    l0, l1, l2 = (d + 2 * n for d, n in zip(counts.depthwise, counts.nodes, strict=True))
    fixed = counts.merge_weights + n_classes
    if stem == "small":
        l0 += 9 * in_channels + 2
    if head_ratio == 0:  # the linear layer reads the last stage
        l0, l1, l2 = (value + n_classes * (stage == last) for stage, value in enumerate((l0, l1, l2)))

    def n_params(c0: int, c1: int, c2: int) -> int:
        total = c0 * (q00 * c0 + q01 * c1 + q02 * c2 + l0) + c1 * (q11 * c1 + q12 * c2 + l1) + c2 * (q22 * c2 + l2)
        if stem == "large":
            middle = (c0 + 1) // 2
            total += middle * (9 * in_channels + 2 + 9 * c0) + 2 * c0
        if head_ratio > 0:
            channels = (c0, c1, c2)[last]
            total += head_hidden(head_ratio, channels) * (channels + 2 + n_classes)
        return total + fixed

    return n_params


def resolve_stem(stem: str, image_size: int) -> str:
    """``stem``, or what "auto" means: "large" from images of 64 pixels on.

    Raises:
        ValueError: If there is no such stem.
    """
    if stem == "auto":
        return "large" if image_size >= LARGE_IMAGE else "small"
    check_name(stem, STEMS, "stem")
    return stem


def fit_width(
    wiring: Wiring,
    max_params: int,
    *,
    in_channels: int,
    image_size: int,
    n_classes: int,
    stem: str = "auto",
    min_channels: int = 1,
    width_multiple: int = 1,
) -> StudentSpec:
    """The student of the largest width that has at most ``max_params`` parameters, all of them counted.

    Width is a real number and stage s has ``round(width * channel_growth**s)`` channels, at least ``min_channels``.
    The number of parameters is a step function of the width that never falls, so the last step within the budget is
    found exactly: start at the root of the continuous quadratic and walk step by step. Stages that would round up at
    the same width (all three if the growth is 1) are raised one at a time, the last stage first: the limit of a growth
    just above 1.

    If that uses less than 95% of the budget (few channels make coarse steps), stages may have one channel more than
    their rounding: of the seven ways to add one channel to some stages, the largest within the budget is taken. So
    the channel ratios are exact to one channel, and 95% is missed only by students of few channels.

    With ``width_multiple`` (16 for vector units: a convolution of 17 channels takes twice the time of one of 16) a
    stage has a multiple of it, or fewer channels than that. Such channels may differ from those of the width by the
    factors of `SHAPE_TOLERANCE` (the multiple above or below), and of all of them, over all widths, those with most
    parameters within the budget are taken: what one stage leaves over goes to another, and the number of parameters
    never falls when the budget grows. Half of the students use 99% as many parameters as without, the worst (a last
    stage just short of 32 channels) half as many.

    Departure: the authors take the integer part of ``sqrt(limit / node weights)`` and count neither stem, head,
    projections nor batch norm; they reach 54% to 156% of the limit, and that looks like a difference between families.

    Args:
        wiring: What to build the student from.
        max_params: The budget.
        in_channels: Of the images: 1 grey, 3 colour.
        image_size: Height and width of the images, in pixels.
        n_classes: Outputs of the student.
        stem: "auto" takes "large" from images of 64 pixels on.
        min_channels: Floor of every stage, since starved students train badly. Always allowed, multiple or not.
        width_multiple: 1 allows all numbers of channels.

    Raises:
        ParameterBudgetError: If even all stages at ``min_channels`` are too large; names the smallest possible budget.
        ValueError: If the images are too small for the stages.
    """
    stem = resolve_stem(stem, image_size)
    min_channels = check_integer(min_channels, "min_channels", 1)
    width_multiple = check_integer(width_multiple, "width_multiple", 1)
    smallest = StudentSpec(wiring, (min_channels, min_channels, min_channels), in_channels, image_size, n_classes, stem)
    n_params = parameter_count(wiring, smallest.in_channels, smallest.n_classes, stem)
    channels = fit_channels(wiring, n_params, max_params, in_channels, n_classes, stem, min_channels, width_multiple)
    if channels == smallest.channels:
        return smallest
    return StudentSpec(wiring, channels, in_channels, image_size, n_classes, stem)


def fit_channels(
    wiring: Wiring | Outline,
    n_params: Callable[[int, int, int], int],
    max_params: int,
    in_channels: int,
    n_classes: int,
    stem: str,
    min_channels: int,
    width_multiple: int,
) -> tuple[int, int, int]:
    """The channels of `fit_width`; ``n_params`` is `parameter_count` of the wiring.

    Raises:
        ParameterBudgetError: As `fit_width`.
    """
    needed = n_params(min_channels, min_channels, min_channels)
    if needed > max_params:
        raise ParameterBudgetError(
            f"max_params={max_params} is too small for this wiring of {wiring.counts.n_operations} operations: with "
            f"{min_channels} channels in every stage it has {needed} parameters; raise max_params to at least {needed} "
            f"or choose a family with fewer nodes",
            needed,
        )
    ratios = _stage_ratios(wiring.channel_growth)
    start = _continuous_width(wiring, max_params, ratios, in_channels, n_classes, stem)
    channels = [max(min_channels, round_half_up(start * ratio)) for ratio in ratios]
    while n_params(*channels) > max_params:
        channels[_falls_first(channels, ratios, min_channels)] -= 1
    while True:
        stage = _rises_first(channels, ratios)
        channels[stage] += 1
        if n_params(*channels) > max_params:
            channels[stage] -= 1
            break
    if width_multiple > 1:
        return _shaped(channels, ratios, n_params, max_params, min_channels, width_multiple)
    c0, c1, c2 = channels
    if n_params(c0, c1, c2) < 0.95 * max_params:
        options = [(c0 + a, c1 + b, c2 + c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
        return max(options, key=lambda o: n if (n := n_params(*o)) <= max_params else -1)
    return c0, c1, c2


def _rises_first(channels: list[int], ratios: tuple[float, float, float]) -> int:
    """The stage that has one channel more at the next larger width.

    A stage rounds up at width ``(channels + 0.5) / ratio``; of several at the same width the last rises first.
    """
    return -min([((c + 0.5) / r, -s) for s, (c, r) in enumerate(zip(channels, ratios, strict=True))])[1]


def _falls_first(channels: list[int], ratios: tuple[float, float, float], min_channels: int) -> int:
    """The stage that has one channel less at the next smaller width."""
    above = [(s, c, r) for s, (c, r) in enumerate(zip(channels, ratios, strict=True)) if c > min_channels]
    return -max([((c - 0.5) / r, -s) for s, c, r in above])[1]


def _shaped(
    channels: list[int],
    ratios: tuple[float, float, float],
    n_params: Callable[[int, int, int], int],
    max_params: int,
    min_channels: int,
    multiple: int,
) -> tuple[int, int, int]:
    """The channels of `fit_width` with a multiple; ``channels`` are those without."""

    def choices(c: int, ratio: float, up: float) -> list[tuple[int, float, float]]:
        """Numbers of channels around ``c``, descending, with the smallest and the largest width that may have them."""
        found = []
        for n in range(2 * c + 1, max(min_channels, c // 4) - 1, -1):
            if n < multiple or n % multiple == 0 or n == min_channels:
                low = 0.0 if n == min_channels else min(n - 1, n / up)
                found.append((n, low / ratio, max(n + 1, n * SHAPE_TOLERANCE) / ratio))
        return found

    first, second, third = (choices(*stage) for stage in zip(channels, ratios, SHAPE_TOLERANCE_UP, strict=True))
    best, most = (min_channels, min_channels, min_channels), -1
    for c0, low0, high0 in first:
        for c1, low1, high1 in second:
            low, high = max(low0, low1), min(high0, high1)
            if low > high:
                continue
            for c2, low2, high2 in third:
                if low2 > high or high2 < low:
                    continue
                if (n := n_params(c0, c1, c2)) <= max_params:
                    if n > most:
                        best, most = (c0, c1, c2), n
                    break
    return best


def _continuous_width(
    wiring: Wiring | Outline,
    max_params: int,
    ratios: tuple[float, float, float],
    in_channels: int,
    n_classes: int,
    stem: str,
) -> float:
    """Width whose unrounded channels have ``max_params`` parameters: the root of a quadratic."""
    counts, head = wiring.counts, ratios[wiring.stages[-1]]
    square = sum([n * ratios[t] * ratios[s] for n, (t, s) in zip(counts.dense, STAGE_PAIRS, strict=True)])
    linear = sum([(d + 2 * n) * r for d, n, r in zip(counts.depthwise, counts.nodes, ratios, strict=True)])
    if stem == "small":
        linear += 9 * in_channels + 2
    else:
        square += 4.5
        linear += 4.5 * in_channels + 3
    if wiring.head_ratio > 0:
        square += wiring.head_ratio * head * head
        linear += wiring.head_ratio * head * (2 + n_classes)
    else:
        linear += head * n_classes
    rest = max(0, max_params - counts.merge_weights - n_classes)
    if square == 0:  # nothing but poolings in one stage
        return rest / linear
    return (math.sqrt(linear * linear + 4 * square * rest) - linear) / (2 * square)
