"""Random graphs of one level: Watts-Strogatz and Erdos-Renyi, sampled fast and alike on every machine.

Graphs are drawn undirected, as the two models define them, and then every edge is directed from the lower to the
higher index: a DAG whose numbering is a topological order. Nothing is redrawn: a disconnected graph is legal (a node
without predecessors takes its graph's input, the outputs of nodes without successors are averaged).

Departure: the authors' code redraws until the graph is connected, at most 30 times, and swallows what goes wrong
after that; this changes the distribution (at small p all graphs become nearly trees) and fails for 84% of mid graphs
at n_nodes=10, p=0.1. Ours are exactly ``networkx.watts_strogatz_graph`` and ``networkx.gnp_random_graph``.

Sources: Watts & Strogatz 1998; Erdos & Renyi 1959 in Gilbert's form G(n, p); Ru et al. 2020 (NAGO), arXiv:2004.01395,
section 3, for their use as generators of networks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from naslib_autokd.search_spaces.hnag._checks import check_integer, check_real

MAX_NODES = 64
"""Largest graph: far beyond the published 10, small enough for a node set to be one machine word."""

_TABLE_BITS = 10
_BITS = [tuple(i for i in range(_TABLE_BITS) if mask >> i & 1) for mask in range(1 << _TABLE_BITS)]


def members(mask: int) -> tuple[int, ...]:
    """Indices of the bits set in ``mask``, ascending (a table up to the published size of graphs)."""
    if mask < 1 << _TABLE_BITS:
        return _BITS[mask]
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


@dataclass(frozen=True)
class Graph:
    """One drawn DAG: every edge goes from a smaller to a larger index, so that the nodes run in order."""

    predecessors: tuple[tuple[int, ...], ...]
    """Of each node, ascending."""

    def __post_init__(self) -> None:
        if not self.predecessors:
            raise ValueError("a graph has at least one node")
        for node, sources in enumerate(self.predecessors):
            if sources and (sources[-1] >= node or sources[0] < 0 or tuple(sorted(set(sources))) != sources):
                raise ValueError(
                    f"predecessors of node {node} must be ascending and in 0..{node - 1}, got {list(sources)}"
                )

    @classmethod
    def from_edges(cls, n_nodes: int, edges: list[tuple[int, int]]) -> Graph:
        """From ``(source, target)`` pairs in any order; an edge may be given in either direction.

        Raises:
            ValueError: For a loop or a node outside ``0..n_nodes - 1``.
        """
        sources: list[set[int]] = [set() for _ in range(n_nodes)]
        for a, b in edges:
            if a == b or not (0 <= a < n_nodes and 0 <= b < n_nodes):
                raise ValueError(f"an edge joins two different nodes in 0..{n_nodes - 1}, got ({a}, {b})")
            sources[max(a, b)].add(min(a, b))
        return cls(tuple(tuple(sorted(s)) for s in sources))

    @classmethod
    def _trusted(cls, predecessors: tuple[tuple[int, ...], ...]) -> Graph:
        """Without the checks: for the samplers, whose graphs are right by construction."""
        graph = object.__new__(cls)
        graph.__dict__["predecessors"] = predecessors
        return graph

    @property
    def n_nodes(self) -> int:
        return len(self.predecessors)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Sorted ``(source, target)`` pairs."""
        return tuple(sorted((a, b) for b, sources in enumerate(self.predecessors) for a in sources))

    @property
    def inputs(self) -> tuple[int, ...]:
        """Nodes without predecessors; node 0 is always one of them."""
        return tuple(node for node, sources in enumerate(self.predecessors) if not sources)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Nodes without successors; the last node is always one of them."""
        used = {a for sources in self.predecessors for a in sources}
        return tuple(node for node in range(self.n_nodes) if node not in used)


@cache
def _ring(n_nodes: int, per_side: int) -> tuple[tuple[int, ...], tuple[tuple[int, int, int, int], ...]]:
    """The ring in which every node knows ``per_side`` nodes on each side.

    Of each node the set (as bits) of itself and its neighbours; and the edges ``(u, v, bit of u, bit of v)`` in the
    order in which networkx visits them.
    """
    known = [1 << u for u in range(n_nodes)]
    edges = []
    for step in range(1, per_side + 1):
        for u in range(n_nodes):
            v = (u + step) % n_nodes
            known[u] |= 1 << v
            known[v] |= 1 << u
            edges.append((u, v, 1 << u, 1 << v))
    return tuple(known), tuple(edges)


_BELOW = [(1 << v) - 1 for v in range(MAX_NODES)]
"""Nodes with a smaller index, as bits."""


def longest_path(predecessors: Sequence[int]) -> tuple[int, int]:
    """Nodes on the longest path of a DAG, and the number of its nodes with exactly one predecessor.

    Args:
        predecessors: Of each node, as bits; only smaller indices.
    """
    layers = [-1]  # nodes by the longest path that ends with them; whatever the sources, layer 0 has one
    longest = n_single = 0
    bit = 1
    for sources in predecessors:
        if sources:
            layer = longest
            while not sources & layers[layer]:
                layer -= 1
            if not sources & (sources - 1):
                n_single += 1
        else:
            layer = 0
        if layer == longest:
            layers.append(bit)
            longest += 1
        else:
            layers[layer + 1] |= bit
        bit <<= 1
    return longest, n_single


@dataclass(frozen=True)
class WattsStrogatz:
    """A ring of ``k // 2`` neighbours per side whose edges are rewired with probability ``p``.

    Distributed as ``networkx.watts_strogatz_graph(n_nodes, k, p)``: the edges of the ring are visited in networkx's
    order; each is, with probability ``p``, replaced by one to a uniformly drawn node that its source does not know
    yet, and kept if there is none. So a complete ring (3 nodes with k=2, 5 with k=4) has nothing to rewire.

    Because of ``k // 2``, 3 means 2 and 5 means 4. Both are accepted and stored as the even number, so that equal
    families are equal data with equal digests (the authors' space counts the two as different).

    Two sizes below the published range are defined, since single operations are good bottom graphs: one node has
    ``k=0``; two nodes have ``k=1`` and are joined by their only possible edge. (networkx gives no edge for two nodes
    with k=1; the authors' code crashes or gives up for both.) ``p`` has no effect on them.

    Raises:
        ValueError: If ``k >= n_nodes`` (the authors' code clamps k in silence, and networkx accepts ``k == n_nodes``
            as a complete graph), or another number is outside its range.
    """

    n_nodes: int
    """1 to 64 (published: 3 to 10)."""
    k: int
    """2 to 5 and below ``n_nodes``; larger even rings are accepted; 0 for one node, 1 for two."""
    p: float = 0.0
    """Probability of rewiring, in [0, 1] (published: 0.1 to 1)."""

    def __post_init__(self) -> None:
        n_nodes = check_integer(self.n_nodes, "n_nodes", 1)
        k = check_integer(self.k, "k", 0)
        p = check_real(self.p, "p", 0.0, 1.0)
        if n_nodes > MAX_NODES:
            raise ValueError(f"n_nodes must be at most {MAX_NODES}, got {n_nodes}")
        if k >= n_nodes:
            raise ValueError(
                f"k must be smaller than n_nodes, got k={k} with n_nodes={n_nodes}; lower k or raise n_nodes"
            )
        if n_nodes <= 2 and k != n_nodes - 1:
            raise ValueError(f"k of a graph with {n_nodes} nodes must be {n_nodes - 1}, got k={k}")
        if n_nodes > 2 and k < 2:
            raise ValueError(f"k must be at least 2 from 3 nodes on, got k={k} with n_nodes={n_nodes}")
        object.__setattr__(self, "n_nodes", n_nodes)
        object.__setattr__(self, "k", k if n_nodes <= 2 else k - k % 2)
        object.__setattr__(self, "p", p)

    @property
    def n_edges(self) -> int:
        """Rewiring keeps their number."""
        return self.n_nodes * self.k // 2 if self.n_nodes > 2 else self.n_nodes - 1

    @property
    def is_fixed(self) -> bool:
        """Whether it draws the same graph every time: there is nothing to rewire in a complete ring."""
        return self.n_nodes <= 2 or self.k == self.n_nodes - 1 or self.p == 0

    def sample(self, rng: random.Random) -> Graph:
        """Draw one graph; uses ``rng.random()`` alone, whose stream is the same in every Python version."""
        if self.n_nodes <= 2:
            return _PAIR if self.n_nodes == 2 else _SINGLE
        return _graph(self.draw(rng.random))

    def draw(self, random: Callable[[], float]) -> list[int]:
        """Draw one graph as the set of predecessors of each node, as bits; ``random`` draws from [0, 1)."""
        n_nodes, p = self.n_nodes, self.p
        if n_nodes <= 2:
            return [0, 1][:n_nodes]
        ring, edges = _ring(n_nodes, self.k // 2)
        known, everyone = list(ring), (1 << n_nodes) - 1
        choices = _BITS.__getitem__ if n_nodes <= _TABLE_BITS else members
        for u, v, bit_u, bit_v in edges:
            if random() < p:
                strangers = everyone ^ known[u]
                if strangers:
                    choice = choices(strangers)
                    w = choice[int(random() * len(choice))]
                    known[u] ^= bit_v | 1 << w
                    known[v] ^= bit_u
                    known[w] ^= bit_u
        return [mask & below for mask, below in zip(known, _BELOW, strict=False)]


@dataclass(frozen=True)
class ErdosRenyi:
    """Every pair of nodes is joined with probability ``p``, independently: ``networkx.gnp_random_graph(n_nodes, p)``.

    One node is legal (and has no edge, whatever ``p``). Isolated nodes are legal and common at small ``p``: such a
    node takes the graph's input and is one of the averaged outputs.

    Raises:
        ValueError: If a number is outside its range.
    """

    n_nodes: int
    """1 to 64 (published: 1 to 10)."""
    p: float = 0.0
    """Probability of an edge, in [0, 1] (published: 0.1 to 1)."""

    def __post_init__(self) -> None:
        n_nodes = check_integer(self.n_nodes, "n_nodes", 1)
        if n_nodes > MAX_NODES:
            raise ValueError(f"n_nodes must be at most {MAX_NODES}, got {n_nodes}")
        object.__setattr__(self, "n_nodes", n_nodes)
        object.__setattr__(self, "p", check_real(self.p, "p", 0.0, 1.0))

    @property
    def is_fixed(self) -> bool:
        """Whether it draws the same graph every time."""
        return self.n_nodes == 1 or self.p in (0, 1)

    def sample(self, rng: random.Random) -> Graph:
        """Draw one graph; uses ``rng.random()`` alone."""
        return _SINGLE if self.n_nodes == 1 else _graph(self.draw(rng.random))

    def draw(self, random: Callable[[], float]) -> list[int]:
        """Draw one graph as the set of predecessors of each node, as bits; ``random`` draws from [0, 1)."""
        p = self.p
        return [sum([bit for bit in bits if random() < p]) for bits in _pairs(self.n_nodes)]


@cache
def _pairs(n_nodes: int) -> tuple[tuple[int, ...], ...]:
    """Of each node the nodes before it, each as a bit."""
    return tuple(tuple(1 << a for a in range(b)) for b in range(n_nodes))


def _graph(predecessors: list[int]) -> Graph:
    if len(predecessors) <= _TABLE_BITS:
        return Graph._trusted(tuple([_BITS[mask] for mask in predecessors]))
    return Graph._trusted(tuple([members(mask) for mask in predecessors]))


_SINGLE = Graph(((),))
_PAIR = Graph(((), (0,)))
