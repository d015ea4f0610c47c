"""The generator: the numbers that describe a family of students, and how one wiring is drawn from it.

Three levels (Ru et al. 2020, NAGO, arXiv:2004.01395, section 3; AutoKD, arXiv:2111.03555, searches the same space):
a Watts-Strogatz graph of cells, in every cell an Erdos-Renyi graph, in every node of that a Watts-Strogatz graph of
operations. Every cell and every mid node draws its own graph.

The published work fixes stage ratios, channel growth and downsampling; measured on small tasks they decide more than
all graph parameters together, so they are hyperparameters like the others here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import operator
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from typing import Any

import yaml

from naslib_autokd.records import content_digest
from naslib_autokd.search_spaces.hnag._checks import UnknownKeyError, check_mapping, check_name, check_real
from naslib_autokd.search_spaces.hnag.graphs import ErdosRenyi, Graph, WattsStrogatz, longest_path, members
from naslib_autokd.search_spaces.hnag.wiring import (
    DENSE,
    DEPTHWISE,
    DOWNSAMPLINGS,
    MERGES,
    N_STAGES,
    NO_MERGE,
    OPERATIONS,
    PAIR_INDEX,
    STAGE_PAIRS,
    BottomGraph,
    Cell,
    Counts,
    Wiring,
)
from naslib_autokd.settings import Document, read_yaml

__all__ = ["Distribution", "ErdosRenyi", "Generator", "WattsStrogatz"]

Distribution = tuple[tuple[str, float], ...]
"""Names with their probabilities, which sum to 1."""


@dataclass(frozen=True)
class Generator:
    """Hyperparameters of a distribution over wirings. Frozen, hashable; equal means equal content.

    Raises:
        ValueError: If a number is outside its range or a name is unknown.
    """

    top: WattsStrogatz
    mid: ErdosRenyi
    bottom: WattsStrogatz
    stage_ratios: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    """Shares of the top nodes in the three stages; only their proportions count. See `stages`."""
    channel_growth: float = 2.0
    """Channels of a stage over those of the stage before; positive, below 1 shrinks."""
    downsampling: str = "average"
    """"average" or "max": 2x2 pooling between stages."""
    operations: Distribution = (("conv3x3", 1.0),)
    """Of every bottom node, drawn independently; a mapping is accepted. The authors draw pooling only for nodes that
    are no outputs; here the distribution holds for all."""
    top_merges: Distribution = (("sum", 1.0),)
    """Of every top node with at least two inputs, drawn independently; likewise below."""
    mid_merges: Distribution = (("sum", 1.0),)
    bottom_merges: Distribution = (("sum", 1.0),)
    head_ratio: float = 0.0
    """Width of the head's 1x1 convolution in channels of the last stage; 0 leaves it out."""

    def __post_init__(self) -> None:
        for name, kind in (("top", WattsStrogatz), ("mid", ErdosRenyi), ("bottom", WattsStrogatz)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be of type {kind.__name__}, got {getattr(self, name)!r}")
        ratios = tuple(check_real(r, "stage_ratios", 0.0, math.inf) for r in self.stage_ratios)
        if len(ratios) != N_STAGES or sum(ratios) <= 0:
            raise ValueError(f"stage_ratios must be {N_STAGES} numbers with a positive sum, got {self.stage_ratios}")
        check_name(self.downsampling, DOWNSAMPLINGS, "downsampling")
        checked: dict[str, Any] = {
            "stage_ratios": ratios,
            "channel_growth": check_real(self.channel_growth, "channel_growth", 0.0, math.inf, open_low=True),
            "head_ratio": check_real(self.head_ratio, "head_ratio", 0.0, math.inf),
            "operations": _distribution(self.operations, OPERATIONS, "operation"),
        }
        for name in ("top_merges", "mid_merges", "bottom_merges"):
            checked[name] = _distribution(getattr(self, name), MERGES, "merge")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @cached_property
    def stages(self) -> tuple[int, ...]:
        """Stage of each top node: node i is in the first stage whose cumulated share of the nodes exceeds i.

        So fractions are rounded up in favour of the earlier stage, as in the authors' code: 4 nodes at equal ratios
        are 2 + 1 + 1, 5 are 2 + 2 + 1, 10 are 4 + 3 + 3. Three nodes are 1 + 1 + 1 at equal ratios and follow the
        same law otherwise (the authors' code then ignores the ratios; it also never skips a stage, and takes ratios for
        shares that sum to one: see the page Concepts). A stage can be empty, by a zero ratio or
        because the others took all nodes: its halving still happens on the way, and the network's output is in the
        stage of the last node.
        """
        total = sum(self.stage_ratios)
        n_nodes = self.top.n_nodes
        # The tolerance keeps 9 * (1/3 + 1/3) from being more or less than 6 by rounding.
        ends = [n_nodes * share / total - 1e-9 for share in accumulate(self.stage_ratios)]
        return tuple(min(bisect_right(ends, node), N_STAGES - 1) for node in range(n_nodes))

    @property
    def is_one_wiring(self) -> bool:
        """Whether every seed draws the same wiring: the family is one network, as 5 top nodes with k=4 are."""
        levels = ((self.top, self.top_merges), (self.mid, self.mid_merges), (self.bottom, self.bottom_merges))
        return len(self.operations) == 1 and all(
            graphs.is_fixed and (len(merges) == 1 or all(len(p) < 2 for p in _any(graphs).predecessors))
            for graphs, merges in levels
        )

    def sample_wiring(self, seed: int) -> Wiring:
        """Draw one wiring: a pure function of (generator, seed), the same on every machine and Python version.

        The stream is seeded by ``seed`` alone, so two generators that differ in, say, ``channel_growth`` draw the
        same graphs from the same seed, and near ones draw similar graphs: common random numbers make a comparison at
        paired seeds sharper. Graphs come first, top to bottom, then, only where a distribution leaves a choice,
        operations and merges from streams of their own; so these do not change the graphs.

        Departure: the authors' graphs are seeded by a counter in a class, and their merges and operations by numpy's
        global state, so a wiring depends on everything that the process built before.
        """
        graphs = _stream("graphs", seed)
        sample_mid, sample_bottom = self.mid.sample, self.bottom.sample
        top = self.top.sample(graphs)
        drawn: list[tuple[Graph, list[Graph]]] = []
        for _ in range(top.n_nodes):
            mid = sample_mid(graphs)
            drawn.append((mid, [sample_bottom(graphs) for _ in range(mid.n_nodes)]))

        operations = _drawer(self.operations, seed, "operations")
        bottom_merges = _drawer(self.bottom_merges, seed, "bottom merges")
        mid_merges = _drawer(self.mid_merges, seed, "mid merges")
        top_merges = _drawer(self.top_merges, seed, "top merges")
        cells = []
        for mid, bottoms in drawn:
            nodes = [
                BottomGraph(bottom, operations(bottom.n_nodes), _for_nodes(bottom, bottom_merges(bottom.n_nodes)))
                for bottom in bottoms
            ]
            cells.append(Cell(mid, _for_nodes(mid, mid_merges(mid.n_nodes)), tuple(nodes)))
        return Wiring(
            graph=top,
            merges=_for_nodes(top, top_merges(top.n_nodes)),
            stages=self.stages,
            cells=tuple(cells),
            channel_growth=self.channel_growth,
            downsampling=self.downsampling,
            head_ratio=self.head_ratio,
        )

    def draw_counts(self, seed: int) -> Counts:
        """``sample_wiring(seed).counts``, several times faster where operations and merges leave no choice: the same
        graphs are drawn and counted as sets of bits, and no wiring is made of them."""
        certain = [d[0][0] for d in (self.operations, self.top_merges, self.mid_merges, self.bottom_merges)]
        if any(len(d) > 1 for d in (self.operations, self.top_merges, self.mid_merges, self.bottom_merges)):
            return self.sample_wiring(seed).counts
        operation, top_merge, mid_merge, bottom_merge = certain
        uniform = _stream("graphs", seed).random
        draw_mid, draw_bottom = self.mid.draw, self.bottom.draw
        n_mid, n_bottom, bottom_edges = self.mid.n_nodes, self.bottom.n_nodes, self.bottom.n_edges
        stages, last = self.stages, self.stages[-1]
        dense, nodes = [0] * len(STAGE_PAIRS), [0] * N_STAGES
        merge_weights = 0
        finished: list[int] = []  # as in `count`
        top = self.top.draw(uniform)
        for stage, top_sources in zip(stages, top, strict=True):
            sources = members(top_sources)
            together = top_merge == "concat" and len(sources) > 1
            for source_stage in [stages[source] for source in sources] or [0]:
                if together or source_stage != stage:
                    dense[PAIR_INDEX[source_stage, stage]] += 1
            if len(sources) > 1 and not together:
                merge_weights += len(sources)

            mid_inputs, bottom_inputs = 0, n_mid * bottom_edges  # of merges: all edges but those that come alone
            mid_finished: list[int] = []
            longest = 0
            for mid_sources in draw_mid(uniform):
                depth, n_single = longest_path(draw_bottom(uniform))
                bottom_inputs -= n_single
                if mid_sources:
                    inputs = members(mid_sources)
                    if len(inputs) > 1:
                        mid_inputs += len(inputs)
                    depth += max([mid_finished[i] for i in inputs])
                mid_finished.append(depth)
                longest = max(longest, depth)
            square = DENSE[operation] * n_mid * n_bottom
            for merge, n_inputs in ((mid_merge, mid_inputs), (bottom_merge, bottom_inputs)):
                if merge == "concat":
                    square += n_inputs
                else:
                    merge_weights += n_inputs
            dense[PAIR_INDEX[stage, stage]] += square
            nodes[stage] += n_mid * n_bottom
            finished.append(longest + (max([finished[i] for i in sources]) if sources else 0))
        read = functools.reduce(operator.or_, top)
        for node, stage in enumerate(stages):
            if stage != last and not read >> node & 1:
                dense[PAIR_INDEX[stage, last]] += 1
        return Counts(
            dense=tuple(dense),
            depthwise=tuple([DEPTHWISE[operation] * n for n in nodes]),
            nodes=tuple(nodes),
            merge_weights=merge_weights,
            depth=max(finished),
            n_operations=sum(nodes),
        )

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the content, the same on every machine."""
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and YAML hold them."""
        return {
            "top": {"n_nodes": self.top.n_nodes, "k": self.top.k, "p": self.top.p},
            "mid": {"n_nodes": self.mid.n_nodes, "p": self.mid.p},
            "bottom": {"n_nodes": self.bottom.n_nodes, "k": self.bottom.k, "p": self.bottom.p},
            "stage_ratios": list(self.stage_ratios),
            "channel_growth": self.channel_growth,
            "downsampling": self.downsampling,
            "operations": dict(self.operations),
            "top_merges": dict(self.top_merges),
            "mid_merges": dict(self.mid_merges),
            "bottom_merges": dict(self.bottom_merges),
            "head_ratio": self.head_ratio,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Generator:
        """Inverse of `to_dict`; what has a default may be missing.

        Raises:
            UnknownKeyError: A ValueError that names the key and the nearest known one.
            ValueError: If a value is missing or outside its range.
        """
        names = tuple(field.name for field in fields(cls))
        check_mapping(values, names, "generator", path, required=("top", "mid", "bottom"))
        built = dict(values)
        for name, kind in (("top", WattsStrogatz), ("mid", ErdosRenyi), ("bottom", WattsStrogatz)):
            parts = tuple(field.name for field in fields(kind))
            level = check_mapping(values[name], parts, f"generator.{name}", (*path, name), required=parts[:-1])
            try:
                built[name] = kind(**level)
            except ValueError as error:
                raise ValueError(f"generator.{name}: {error}") from error
        if "stage_ratios" in built:
            built["stage_ratios"] = tuple(built["stage_ratios"])
        return cls(**built)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Generator:
        return cls.from_dict(json.loads(text))

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> Generator:
        """Inverse of `to_yaml`.

        Raises:
            ValueError: As `from_dict`; an unknown key is named with its line.
        """
        return from_yaml(text, cls.from_dict)


def from_yaml(text: str, from_dict: Callable[[Mapping[str, Any]], Any]) -> Any:
    """``from_dict`` of a YAML document, with the line in the error if a key is unknown."""
    return from_document(read_yaml(text, "family"), from_dict)


def from_document(document: Document, from_dict: Callable[[Mapping[str, Any]], Any]) -> Any:
    """``from_dict`` of a document that was read, with the line in the error if a key is unknown."""
    try:
        return from_dict(document.values)
    except UnknownKeyError as error:
        raise UnknownKeyError(f"{document.place(error.path)}: {error}", error.path) from None


def _stream(purpose: str, seed: int) -> random.Random:
    """A private stream; seeding by an integer and `random.Random.random` are the same in every Python version."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ValueError(f"seed must be an integer, got {seed!r}")
    content = hashlib.sha256(f"hnag wiring/{purpose}/{seed.__index__()}".encode()).digest()
    return random.Random(int.from_bytes(content[:8], "big"))


def _any(graphs: WattsStrogatz | ErdosRenyi) -> Graph:
    return graphs.sample(random.Random(0))


def _drawer(distribution: Distribution, seed: int, purpose: str) -> Callable[[int], tuple[str, ...]]:
    """A function that draws n independent names."""
    certain = [name for name, probability in distribution if probability == 1.0]
    if certain:
        return lambda n: (certain[0],) * n
    names = [name for name, _ in distribution]
    ends = list(accumulate(probability for _, probability in distribution))
    ends[-1] = math.inf  # the sum may fall short of 1 by rounding
    draw = _stream(purpose, seed).random
    return lambda n: tuple([names[bisect_right(ends, draw())] for _ in range(n)])


def _for_nodes(graph: Graph, merges: tuple[str, ...]) -> tuple[str, ...]:
    """A node with fewer than two inputs does not merge: what was drawn for it is dropped."""
    return tuple([m if len(sources) > 1 else NO_MERGE for m, sources in zip(merges, graph.predecessors, strict=True)])


def _distribution(given: Any, allowed: Iterable[str], what: str) -> Distribution:
    """Checked, without zero probabilities, in the order of ``allowed`` so that equal distributions are equal data."""
    pairs = list(given.items() if isinstance(given, Mapping) else given)
    allowed = tuple(allowed)
    probabilities: dict[str, float] = {}
    for name, probability in pairs:
        check_name(name, allowed, what)
        if name in probabilities:
            raise ValueError(f"{what} {name!r} is given twice")
        probabilities[name] = check_real(probability, f"probability of {what} {name!r}", 0.0, 1.0)
    if abs(sum(probabilities.values()) - 1.0) > 1e-6:
        raise ValueError(f"probabilities of the {what}s must sum to 1, got {sum(probabilities.values()):g}")
    return tuple((name, probabilities[name]) for name in allowed if probabilities.get(name, 0.0) > 0.0)
