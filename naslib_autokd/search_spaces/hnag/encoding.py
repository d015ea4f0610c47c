"""Candidates as numbers in [0, 1], for predictors that learn from a vector or from a graph.

`vector` encodes what both kinds of candidates have; of a single wiring the edges count, not the family's parameters
that they were once drawn with. `operation_graph` is the graph of all operations, for graph networks. Imports no torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.individual import WiringCandidate
from naslib_autokd.search_spaces.hnag.parameters import OPERATION_MIXES, Candidate, HNAGSpace
from naslib_autokd.search_spaces.hnag.wiring import MERGES, N_STAGES, OPERATIONS, Wiring

INACTIVE = 0.5
"""Code of a hyperparameter that has no effect in a candidate."""

MAX_OPERATIONS = 64
"""`operation_graph` refuses spaces with larger wirings: its matrices are dense."""

# They describe how graphs are drawn, so nothing of one wiring.
_DRAWING = frozenset(f"{level}_{name}" for level in ("top", "mid", "bottom") for name in ("k", "p")) | {"wiring_seed"}


def vector(space: HNAGSpace, candidate: Candidate | WiringCandidate) -> NDArray[np.float64]:
    """The candidate as a vector in [0, 1], of the same length for all of one kind in the space.

    A family: one number per hyperparameter, on its own scale (logarithmic ones too), `INACTIVE` where it has no
    effect; a choice of n names is n numbers, one of them 1. A wiring: the same without what describes the drawing of
    graphs, then the upper triangle of the top graph's adjacency matrix, padded by zeros to the largest graph of the
    space, the means of those of the mid and of the bottom graphs, the shares of the operations and merges where the
    space has several, and the depth over the number of operations.

    Raises:
        ValueError: If the candidate is not in the space.
    """
    from ConfigSpace import CategoricalHyperparameter, OrdinalHyperparameter

    single = isinstance(candidate, WiringCandidate)
    values = check(space, candidate)
    codes: list[float] = []
    for name, hyperparameter in space._space.items():
        if name in _DRAWING and (single or name == "wiring_seed"):
            continue
        value = values.get(name)
        if isinstance(hyperparameter, CategoricalHyperparameter):
            codes += [float(value == choice) for choice in hyperparameter.choices]
        elif value is None:
            codes.append(INACTIVE)
        elif isinstance(hyperparameter, OrdinalHyperparameter):
            codes.append(float(hyperparameter.to_vector(value)) / (hyperparameter.size - 1))
        else:
            codes.append(float(hyperparameter.to_vector(value)))
    if isinstance(candidate, WiringCandidate):
        codes += _wiring_codes(space, candidate.wiring)
    return np.clip(np.array(codes, dtype=np.float64), 0.0, 1.0)


def check(space: HNAGSpace, candidate: Candidate | WiringCandidate) -> dict[str, Any]:
    """The values of the space's hyperparameters in a candidate; of a wiring those of its family.

    Raises:
        ValueError: If the candidate is not in the space.
    """
    if isinstance(candidate, WiringCandidate):
        candidate = Candidate(candidate.generator, candidate.kd, 0 if space.mode == "individual" else None)
    return space.values(candidate)


def _wiring_codes(space: HNAGSpace, wiring: Wiring) -> list[float]:
    preset = space.preset
    bottoms = [bottom for cell in wiring.cells for bottom in cell.nodes]
    codes = _mean_edges([wiring.graph], preset.top_nodes[1])
    codes += _mean_edges([cell.graph for cell in wiring.cells], preset.mid_nodes[1])
    codes += _mean_edges([bottom.graph for bottom in bottoms], preset.bottom_nodes[1])
    names = _operations(space)
    if len(names) > 1:
        drawn = [name for bottom in bottoms for name in bottom.operations]
        codes += [drawn.count(name) / len(drawn) for name in names]
    if len(preset.merges) > 1:
        merges = [*wiring.merges, *(m for cell in wiring.cells for m in cell.merges)]
        merges += [m for bottom in bottoms for m in bottom.merges]
        codes += [merges.count(name) / len(merges) for name in MERGES]
    return [*codes, wiring.depth / wiring.n_operations]


def _mean_edges(graphs: list[Graph], n_nodes: int) -> list[float]:
    """Share of the graphs that have each edge of the complete DAG, ordered by its end, then its start."""
    counts = np.zeros((n_nodes, n_nodes))
    for graph in graphs:
        for node, sources in enumerate(graph.predecessors):
            counts[node, list(sources)] += 1
    return [float(share) for share in counts[np.tril_indices(n_nodes, -1)] / len(graphs)]


def _operations(space: HNAGSpace) -> list[str]:
    """Operations that wirings of the space can have, in the order of `OPERATIONS`."""
    drawn = {name for mix in space.preset.operations for name, _ in OPERATION_MIXES[mix]}
    return [name for name in OPERATIONS if name in drawn]


def operation_graph(space: HNAGSpace, candidate: WiringCandidate) -> dict[str, Any]:
    """The operations of a wiring and a global node as a graph network reads them, in the form of BONAS.

    Nodes are the input, the operations in topological order, padding, the output and the global node, which all
    others send to. Returns ``adjacency`` (float32 (n, n), row = receiver, with ones on the diagonal) and
    ``operations`` (float32 (n, features): input, output and global node, operations, stages one-hot; the global node
    also carries `vector`, since KD settings belong to no node).

    Raises:
        ValueError: If wirings of the space can have more than `MAX_OPERATIONS` operations.
    """
    preset, wiring = space.preset, candidate.wiring
    largest = preset.top_nodes[1] * preset.bottom_nodes[1]
    largest = preset.mid_nodes[1] * (min(largest, preset.max_operations) if preset.max_operations else largest)
    if largest > MAX_OPERATIONS:
        raise ValueError(
            f"wirings of the space {space.name} have up to {largest} operations, and a graph for a graph network at "
            f"most {MAX_OPERATIONS}; use a predictor that takes a vector"
        )
    size = largest + 3
    flat = wiring.to_networkx()
    index = {name: place for place, name in enumerate(sorted(set(flat) - {"input", "output"}), start=1)}
    index |= {"input": 0, "output": size - 2}
    names = _operations(space)
    everything = vector(space, candidate)
    adjacency = np.eye(size, dtype=np.float32)
    features = np.zeros((size, 3 + len(names) + N_STAGES + len(everything)), dtype=np.float32)
    for source, target in flat.edges:
        adjacency[index[target], index[source]] = 1.0
    adjacency[-1, list(index.values())] = 1.0
    for place, column in ((0, 0), (size - 2, 1), (size - 1, 2)):
        features[place, column] = 1.0
    for name, attributes in flat.nodes.items():
        if attributes:
            features[index[name], 3 + names.index(attributes["operation"])] = 1.0
            features[index[name], 3 + len(names) + attributes["stage"]] = 1.0
    features[-1, 3 + len(names) + N_STAGES :] = everything
    return {"adjacency": adjacency, "operations": features}
