"""The architectures of NASLib's own cell spaces as plain data: what an optimizer searches, without NASLib or torch.

Every space names its architectures as NASLib does (``get_hash``), in one canonical form, so that records can be
compared with NASLib's: six operation indices in NAS-Bench-201, NASLib's tuple of 49 matrix entries and 7 operations in
NAS-Bench-101, the compact tuple of NAS-Bench-301. NASLib has no such form for its simple cell space; ours is the index
of each edge's operation.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from naslib_autokd.tasks import did_you_mean

if TYPE_CHECKING:
    import numpy

Architecture = tuple[Any, ...]
"""Nested tuples of ints: the canonical form of one architecture of one space."""


class Architectures(ABC):
    """The architectures of one space: their canonical form, their hyperparameters, their neighbours."""

    name: str
    n_decisions: int
    """Edges and operations that NASLib's own mutation chooses from."""
    default: Architecture
    """A sensible first guess, from the literature where there is one."""

    @abstractmethod
    def canonical(self, architecture: Any) -> Architecture:
        """The canonical form of anything that means an architecture of this space (nested sequences of ints).

        Raises:
            ValueError: If it is none.
        """

    @abstractmethod
    def hyperparameters(self) -> list[Any]:
        """ConfigSpace's hyperparameters; every point is an architecture."""

    @abstractmethod
    def architecture(self, values: Mapping[str, Any]) -> Architecture:
        """The architecture of a configuration."""

    @abstractmethod
    def values(self, architecture: Architecture) -> dict[str, Any]:
        """A configuration of the architecture; `architecture` is its inverse."""

    @abstractmethod
    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """What NASLib's ``get_nbhd`` calls neighbours: one operation or one edge differs. In a fixed order.

        Takes and gives any form that `canonical` takes.
        """

    def sample(self, rng: numpy.random.Generator) -> Architecture:
        """Draw uniformly over the hyperparameters (not over distinct architectures)."""
        from ConfigSpace import ConfigurationSpace

        space = ConfigurationSpace(seed=int(rng.integers(2**31)))
        space.add(self.hyperparameters())
        return self.architecture(dict(space.sample_configuration()))


def _integers(values: Any, length: int, what: str) -> tuple[int, ...]:
    """``values`` as that many ints (numpy's pass)."""
    try:
        integers = tuple(int(value) for value in values)
        exact = all(integer == value for integer, value in zip(integers, values, strict=True))
    except (TypeError, ValueError):
        exact = False
    if not exact or len(integers) != length:
        raise ValueError(f"{what} is {length} integers, got {values!r}")
    return integers


def _operation(name: Any, operations: Sequence[str]) -> int:
    if name not in operations:
        raise ValueError(f"unknown operation {name!r}{did_you_mean(name, operations)}")
    return operations.index(name)


class EdgeOperations(Architectures):
    """One operation on each edge of fixed cells: NAS-Bench-201 and the simple cell space.

    Args:
        edges: Names of the edges, in the order of the tuple.
        operations: Names of the operations, in the order of NASLib's indices.
    """

    def __init__(self, name: str, edges: Sequence[str], operations: Sequence[str], default: Mapping[str, str]) -> None:
        self.name, self.edges, self.operations = name, tuple(edges), tuple(operations)
        self.n_decisions = len(self.edges)
        self.default = self.architecture(default)

    def canonical(self, architecture: Any) -> Architecture:
        indices = _integers(architecture, len(self.edges), f"an architecture of {self.name}")
        if not all(0 <= index < len(self.operations) for index in indices):
            raise ValueError(
                f"operations of {self.name} are 0 to {len(self.operations) - 1} ({', '.join(self.operations)}), "
                f"got {indices}"
            )
        return indices

    def hyperparameters(self) -> list[Any]:
        from ConfigSpace import Categorical

        default = self.values(self.default)
        return [Categorical(edge, list(self.operations), default=default[edge]) for edge in self.edges]

    def architecture(self, values: Mapping[str, Any]) -> Architecture:
        return tuple(_operation(values[edge], self.operations) for edge in self.edges)

    def values(self, architecture: Architecture) -> dict[str, Any]:
        return {edge: self.operations[index] for edge, index in zip(self.edges, architecture, strict=True)}

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        return [
            (*architecture[:position], index, *architecture[position + 1 :])
            for position in range(len(self.edges))
            for index in range(len(self.operations))
            if index != architecture[position]
        ]


class NASBench101(Architectures):
    """Cells of at most 7 vertices and 9 edges (Ying et al. 2019, arXiv:1902.09635).

    Canonical form: NASLib's tuple (49 entries of the 7x7 matrix, row by row, then 7 operation indices) of the *pruned*
    cell (vertices that are not between input and output removed, the rest moved together) in NASLib's frame (blank
    rows and ``conv3x3-bn-relu`` where vertices are missing). Isomorphic cells stay different, as in NASLib; the
    benchmark's own hash is the same for them.

    Hyperparameters, after the continuous encoding of the paper: the number of edges, one priority in [0, 1] per
    possible edge, and the operations. There a point takes its first ``n_edges`` edges by priority, and with few edges
    most points lead nowhere. Here edges are taken in that order until ``n_edges`` of them
    are *in use* (on a way from input to output); one that would bring more than 9 into use is passed over. So every
    point is a valid cell, every valid cell has a point, and only an edge that joins several idle ones can bring more
    into use than asked for. Of 2000 random points 0.7% use all seven vertices (0.2% with the paper's encoding, of whose
    points 58% are no cell at all, and 0.2% as NASLib samples).
    """

    name = "nasbench101"
    n_vertices = 7
    max_edges = 9
    operations = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
    naslib_operations = ("input", "output", "maxpool3x3", "conv1x1-bn-relu", "conv3x3-bn-relu")
    """In the order of NASLib's indices."""
    pairs = tuple(itertools.combinations(range(7), 2))
    n_decisions = 21 + 5

    def __init__(self) -> None:
        # a residual block of two convolutions
        self.default = self.of_cell({(0, 1), (1, 2), (2, 6), (0, 6)}, ["conv3x3-bn-relu"] * 5)

    def canonical(self, architecture: Any) -> Architecture:
        integers = _integers(architecture, 56, "an architecture of nasbench101 (7x7 matrix, 7 operations)")
        edges = {(i, j) for i in range(7) for j in range(7) if integers[7 * i + j]}
        if not set(integers[:49]) <= {0, 1} or not edges <= set(self.pairs):
            raise ValueError(f"the matrix of nasbench101 is upper triangular, of 0 and 1, got {integers[:49]}")
        indices = integers[49:]
        if indices[0] != 0 or indices[6] != 1 or not all(2 <= index <= 4 for index in indices[1:6]):
            raise ValueError(f"operations of nasbench101 are 0 (input), five of 2 to 4, and 1 (output), got {indices}")
        return self.of_cell(edges, [self.naslib_operations[index] for index in indices[1:6]])

    def of_cell(self, edges: Iterable[tuple[int, int]], operations: Sequence[str]) -> Architecture:
        """The canonical form of a cell: pairs of vertices 0 (input) to 6 (output), operations of vertices 1 to 5.

        Raises:
            ValueError: If input and output are not connected, or more than 9 edges are in use.
        """
        used = self.used_edges(edges)
        if not used:
            raise ValueError("not a cell of nasbench101: there is no way from input to output")
        if len(used) > self.max_edges:
            raise ValueError(f"a cell of nasbench101 has at most {self.max_edges} edges, this one uses {len(used)}")
        vertices = sorted({vertex for edge in used for vertex in edge} - {0, 6})
        place = {0: 0, 6: 6} | {vertex: 1 + index for index, vertex in enumerate(vertices)}
        matrix = [0] * 49
        for source, target in used:
            matrix[7 * place[source] + place[target]] = 1
        chosen = [operations[vertex - 1] for vertex in vertices]
        chosen += [self.operations[0]] * (5 - len(chosen))
        return (*matrix, 0, *(_operation(name, self.naslib_operations) for name in chosen), 1)

    @staticmethod
    def used_edges(edges: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """The edges on a way from vertex 0 to vertex 6 (every edge goes from a lower to a higher vertex)."""
        ordered = sorted(edges)
        reached, reaching = {0}, {6}
        for source, target in ordered:
            if source in reached:
                reached.add(target)
        for source, target in reversed(ordered):
            if target in reaching:
                reaching.add(source)
        return {(source, target) for source, target in ordered if source in reached and target in reaching}

    def edges(self, architecture: Architecture) -> set[tuple[int, int]]:
        return {(i, j) for i, j in self.pairs if architecture[7 * i + j]}

    def hyperparameters(self) -> list[Any]:
        from ConfigSpace import Categorical, Float, Integer

        default = self.values(self.default)
        return [
            Integer("n_edges", (1, self.max_edges), default=default["n_edges"]),
            *(Float(name := f"edge_{i}_{j}", (0.0, 1.0), default=default[name]) for i, j in self.pairs),
            *(Categorical(name := f"op_{v}", list(self.operations), default=default[name]) for v in range(1, 6)),
        ]

    def architecture(self, values: Mapping[str, Any]) -> Architecture:
        by_priority = sorted(self.pairs, key=lambda pair: -values[f"edge_{pair[0]}_{pair[1]}"])  # ties: by vertices
        taken: set[tuple[int, int]] = set()
        for pair in by_priority:
            n_used = len(self.used_edges(taken | {pair}))
            if n_used <= self.max_edges:
                taken.add(pair)
            if self.max_edges >= n_used >= values["n_edges"]:
                break
        return self.of_cell(taken, [values[f"op_{vertex}"] for vertex in range(1, 6)])

    def values(self, architecture: Architecture) -> dict[str, Any]:
        edges = self.edges(architecture)
        # the middle of each half, so that a step of an optimizer can go either way
        priorities = {f"edge_{i}_{j}": 0.75 if (i, j) in edges else 0.25 for i, j in self.pairs}
        operations = {f"op_{v}": self.naslib_operations[architecture[49 + v]] for v in range(1, 6)}
        return {"n_edges": len(edges), **priorities, **operations}

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """As NASLib, of a pruned cell or one with idle edges, which the neighbours keep: they may come into use."""
        edges = self.edges(architecture)
        used = self.used_edges(edges)
        found = []
        for vertex in sorted({vertex for edge in used for vertex in edge} - {0, 6}):
            for name in self.operations:
                index = self.naslib_operations.index(name)
                if index != architecture[49 + vertex]:
                    found.append((*architecture[: 49 + vertex], index, *architecture[50 + vertex :]))
        for pair in self.pairs:
            after = self.used_edges(edges ^ {pair})
            if after and len(after) <= self.max_edges and pair in (used if pair in edges else after):
                position = 7 * pair[0] + pair[1]
                flipped = 1 - architecture[position]
                found.append((*architecture[:position], flipped, *architecture[position + 1 :]))
        return found


class NASBench301(Architectures):
    """Two cells of DARTS (Liu et al. 2019): four nodes, each with two different inputs and an operation on each.

    Canonical form: NASLib's compact tuple, ``(normal, reduction)``, each of eight pairs ``(input, operation)``, the two
    pairs of a node sorted by input (their order means nothing). Inputs 0 and 1 are the previous cells' outputs.
    """

    name = "nasbench301"
    operations = (
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )
    """In the order of NASLib's indices."""
    cells = ("normal", "reduction")
    n_decisions = 2 * 8 * 2
    # DARTS (second order) of Liu et al., figure 5
    default: Architecture = (
        ((0, 3), (1, 3), (0, 3), (1, 3), (0, 2), (1, 3), (0, 2), (2, 5)),
        ((0, 0), (1, 0), (1, 0), (2, 2), (0, 0), (2, 2), (1, 0), (2, 2)),
    )

    def canonical(self, architecture: Any) -> Architecture:
        try:
            cells = [[_integers(pair, 2, "an edge") for pair in cell] for cell in architecture]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"an architecture of nasbench301 is two cells of eight pairs, got {architecture!r}"
            ) from error
        if [len(cell) for cell in cells] != [8, 8]:
            raise ValueError(f"an architecture of nasbench301 is two cells of eight pairs, got {architecture!r}")
        for name, cell in zip(self.cells, cells, strict=True):
            for node in range(4):
                (first, op_first), (second, op_second) = sorted(cell[2 * node : 2 * node + 2])
                if not 0 <= first < second < node + 2:
                    raise ValueError(
                        f"{name} node {node + 2} needs two different inputs of 0 to {node + 1}, got {first}, {second}"
                    )
                if not all(0 <= operation < len(self.operations) for operation in (op_first, op_second)):
                    raise ValueError(
                        f"operations of nasbench301 are 0 to {len(self.operations) - 1}, got {op_first} and {op_second}"
                    )
                cell[2 * node : 2 * node + 2] = [(first, op_first), (second, op_second)]
        return tuple(tuple(cell) for cell in cells)

    @staticmethod
    def input_pairs(node: int) -> list[str]:
        """Choices of node 2 to 5: ``"0,1"``, ``"0,2"``, ..."""
        return [f"{first},{second}" for first, second in itertools.combinations(range(node), 2)]

    def hyperparameters(self) -> list[Any]:
        from ConfigSpace import Categorical

        default = self.values(self.default)
        found = []
        for cell, node in itertools.product(self.cells, range(2, 6)):
            if node > 2:
                name = f"{cell}_{node}_inputs"
                found.append(Categorical(name, self.input_pairs(node), default=default[name]))
            for edge in (1, 2):
                name = f"{cell}_{node}_op_{edge}"
                found.append(Categorical(name, list(self.operations), default=default[name]))
        return found

    def architecture(self, values: Mapping[str, Any]) -> Architecture:
        cells: dict[str, list[tuple[int, int]]] = {cell: [] for cell in self.cells}
        for cell, node in itertools.product(self.cells, range(2, 6)):
            chosen = values[f"{cell}_{node}_inputs"] if node > 2 else "0,1"
            if chosen not in self.input_pairs(node):
                raise ValueError(f"{cell}_{node}_inputs: {chosen!r}{did_you_mean(chosen, self.input_pairs(node))}")
            for edge, source in enumerate(chosen.split(","), 1):
                cells[cell].append((int(source), _operation(values[f"{cell}_{node}_op_{edge}"], self.operations)))
        return tuple(tuple(cells[cell]) for cell in self.cells)

    def values(self, architecture: Architecture) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for cell, edges in zip(self.cells, architecture, strict=True):
            for node in range(2, 6):
                (first, op_first), (second, op_second) = edges[2 * node - 4 : 2 * node - 2]
                if node > 2:
                    found[f"{cell}_{node}_inputs"] = f"{first},{second}"
                found[f"{cell}_{node}_op_1"] = self.operations[op_first]
                found[f"{cell}_{node}_op_2"] = self.operations[op_second]
        return found

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        found = []
        for which, position in itertools.product(range(2), range(8)):
            source, operation = architecture[which][position]
            other = architecture[which][position ^ 1][0]
            edges = [(source, index) for index in range(len(self.operations)) if index != operation]
            edges += [(index, operation) for index in range(position // 2 + 2) if index not in (source, other)]
            for edge in edges:
                cells = [list(cell) for cell in architecture]
                cells[which][position] = edge
                found.append(self.canonical(cells))
        return found


NASBENCH201_OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
"""The benchmark's names in the order of NASLib's indices."""
NASBENCH201_EDGES = ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))

SIMPLE_CELL_OPERATIONS = ("skip_connect", "none", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3")
"""In the order of ``edge_attributes["op"]`` of NASLib's space."""
SIMPLE_CELL_EDGES = ((1, 3), (1, 4), (2, 3), (2, 4), (3, 4))
"""Of each of the two cells; 1 and 2 are the inputs, 3 and 4 the intermediate nodes."""

ARCHITECTURES: dict[str, Architectures] = {
    architectures.name: architectures
    for architectures in (
        NASBench101(),
        EdgeOperations(
            "nasbench201",
            [f"edge_{i}_{j}" for i, j in NASBENCH201_EDGES],
            NASBENCH201_OPERATIONS,
            # "ResNet" of Dong and Yang 2020 (arXiv:2001.00326)
            {
                "edge_1_2": "nor_conv_3x3",
                "edge_1_3": "none",
                "edge_1_4": "skip_connect",
                "edge_2_3": "nor_conv_3x3",
                "edge_2_4": "none",
                "edge_3_4": "skip_connect",
            },
        ),
        NASBench301(),
        EdgeOperations(
            "simple_cell",
            [f"{cell}_{i}_{j}" for cell in ("normal", "reduction") for i, j in SIMPLE_CELL_EDGES],
            SIMPLE_CELL_OPERATIONS,
            {
                f"{cell}_{i}_{j}": "sep_conv_3x3" if (i, j) in ((1, 3), (2, 4), (3, 4)) else "skip_connect"
                for cell in ("normal", "reduction")
                for i, j in SIMPLE_CELL_EDGES
            },
        ),
    )
}
"""By the name of the space."""
