"""The graphs of a wiring by their places, its edges, and the weights that a trained student gives them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec, Wiring

Place = tuple[int, ...]
"""Of a graph or a node: (), (cell,), (cell, node) or (cell, node, operation)."""


def place_name(place: Place) -> str:
    """``"c3"``, ``"c3/n1"`` or ``"c3/n1/0"``."""
    return "/".join(f"{level}{index}" for level, index in zip(("c", "n", ""), place, strict=False))


class Edge(NamedTuple):
    """An edge of one of a wiring's graphs."""

    place: Place
    """Of the graph: () for the top level, (cell,) for a mid graph, (cell, node) for a bottom graph."""
    source: int
    target: int

    @property
    def label(self) -> str:
        """``"0-2"``, ``"c3/0-2"`` or ``"c3/n1/0-2"``."""
        return f"{place_name(self.place)}{'/' if self.place else ''}{self.source}-{self.target}"


def graphs_of(wiring: Wiring) -> Iterator[tuple[Place, Graph, tuple[str, ...]]]:
    """Every graph with its place and its nodes' merges, the top one first."""
    yield (), wiring.graph, wiring.merges
    for top, cell in enumerate(wiring.cells):
        yield (top,), cell.graph, cell.merges
        for mid, bottom in enumerate(cell.nodes):
            yield (top, mid), bottom.graph, bottom.merges


def operations_of(wiring: Wiring) -> Iterator[tuple[Place, str]]:
    """Every operation with its place."""
    for top, cell in enumerate(wiring.cells):
        for mid, node in enumerate(cell.nodes):
            yield from (((top, mid, index), name) for index, name in enumerate(node.operations))


def wiring_edges(wiring: Wiring) -> dict[Edge, str]:
    """Every edge, with the merge of its target ("sum", "concat", "attention", or "single" for an only input)."""
    return {
        Edge(place, source, target): merges[target]
        for place, graph, merges in graphs_of(wiring)
        for source, target in graph.edges
    }


def edge_weights(spec: StudentSpec, merge_weights: Sequence[float]) -> dict[Edge, float]:
    """The weight of every edge that enters a learned merge: ``sigmoid(w)``, in (0, 1), 0.73 before training.

    In an attention merge the first input's weight is added to the mask that the input makes (`student.Student`);
    inputs of concatenations and only inputs have no weight and are left out.

    Args:
        merge_weights: ``(n,)``: the raw values of `student.Student.merge_weights`, in its order.

    Raises:
        ValueError: If their number is not the student's.
    """
    from naslib_autokd.search_spaces.hnag.steps import Plan

    plan, wiring = Plan(spec), spec.wiring
    if len(merge_weights) != plan.n_merge_weights:
        raise ValueError(
            f"a student of wiring {wiring.digest} has {plan.n_merge_weights} merge weights, got {len(merge_weights)}"
        )
    targets = sorted(  # the plan merges a node's inputs before what the node holds
        ((*place, target), graph.predecessors[target])
        for place, graph, merges in graphs_of(wiring)
        for target in range(graph.n_nodes)
        if merges[target] in ("sum", "attention")
    )
    steps = [step for step in plan.steps if step.kind in ("sum", "attention")]
    return {
        Edge(tuple(place), source, target): 0.5 * (1.0 + math.tanh(0.5 * float(merge_weights[step.slot + index])))
        for step, ((*place, target), sources) in zip(steps, targets, strict=True)
        for index, source in enumerate(sources)
    }
