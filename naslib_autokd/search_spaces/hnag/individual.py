"""One wiring as the thing that is searched: drawn once from a family, then changed edge by edge.

This is how a NAS optimizer that knows nothing of families searches HNAG, the comparison that AutoKD is about. Compare
``HNAGSpace(mode="individual")``, whose wiring seed is a dimension without neighbours: there wirings can only be drawn,
here they mutate. `rewire` changes a wiring, `mutate` a candidate (its wiring or its KD settings). Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from naslib_autokd.records import content_digest
from naslib_autokd.search_spaces.hnag._checks import check_mapping
from naslib_autokd.search_spaces.hnag.generator import Distribution, Generator
from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.parameters import Candidate, HNAGSpace, KDSettings
from naslib_autokd.search_spaces.hnag.wiring import NO_MERGE, BottomGraph, Wiring

if TYPE_CHECKING:
    from numpy.random import Generator as Random

KD_SHARE = 0.25
"""Probability that `mutate` changes the KD settings: they are 2 of the 8 or so active hyperparameters of a family."""

STEP = 0.2
"""Standard deviation of a KD step, in the unit interval of its range: that of ConfigSpace's neighbourhood."""


@dataclass(frozen=True)
class WiringCandidate:
    """One wiring and how it is taught.

    Two are equal, with equal digests, when they train alike: the generator does not count. It is kept because a
    mutation needs it: operations and merges are drawn from its distributions.

    Raises:
        ValueError: If the generator cannot draw a wiring of these sizes, stages, operations and merges.
    """

    wiring: Wiring
    kd: KDSettings
    generator: Generator = field(compare=False)
    """The family that the wiring was drawn from, and the one whose sizes and distributions its mutations keep."""

    def __post_init__(self) -> None:
        _check_family(self.wiring, self.generator)

    @classmethod
    def draw(cls, candidate: Candidate, seed: int) -> WiringCandidate:
        """The wiring that ``seed`` draws from a family (one that has a wiring seed of its own keeps to that)."""
        return cls(candidate.sample_wiring(seed), candidate.kd, candidate.generator)

    def sample_wiring(self, seed: int) -> Wiring:
        """The wiring, whatever ``seed``: an evaluator takes this for a family of one."""
        return self.wiring

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of wiring and KD settings, the same on every machine."""
        return content_digest({"wiring": self.wiring.to_dict(), "kd": self.kd.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        return {"wiring": self.wiring.to_dict(), "kd": self.kd.to_dict(), "generator": self.generator.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WiringCandidate:
        """Inverse of `to_dict`; ``kd`` may be missing.

        Raises:
            UnknownKeyError: A ValueError that names the key and the nearest known one.
            ValueError: If a value is missing or outside its range.
        """
        names = tuple(field.name for field in fields(cls))
        check_mapping(values, names, "wiring candidate", required=("wiring", "generator"))
        return cls(
            wiring=Wiring.from_dict(values["wiring"]),
            kd=KDSettings.from_dict(values.get("kd", {}), ("kd",)),
            generator=Generator.from_dict(values["generator"], ("generator",)),
        )


def _check_family(wiring: Wiring, generator: Generator) -> None:
    """Raise ValueError unless the generator draws wirings of this kind (edges may be any)."""
    bottoms = [bottom for cell in wiring.cells for bottom in cell.nodes]
    found: dict[str, tuple[Any, Any]] = {
        "stages": (wiring.stages, generator.stages),
        "channel_growth": (wiring.channel_growth, generator.channel_growth),
        "downsampling": (wiring.downsampling, generator.downsampling),
        "head_ratio": (wiring.head_ratio, generator.head_ratio),
        "mid nodes": ({cell.graph.n_nodes for cell in wiring.cells}, {generator.mid.n_nodes}),
        "bottom nodes": ({bottom.graph.n_nodes for bottom in bottoms}, {generator.bottom.n_nodes}),
    }
    for name, (has, drawn) in found.items():
        if has != drawn:
            raise ValueError(f"the wiring is not of its generator's family: {name} are {has}, not {drawn}")
    used = {
        "operations": {name for bottom in bottoms for name in bottom.operations},
        "top_merges": set(wiring.merges),
        "mid_merges": {name for cell in wiring.cells for name in cell.merges},
        "bottom_merges": {name for bottom in bottoms for name in bottom.merges},
    }
    for name, names in used.items():
        if unknown := names - {NO_MERGE} - dict(getattr(generator, name)).keys():
            raise ValueError(
                f"the wiring is not of its generator's family: {name} of the generator lack {sorted(unknown)}"
            )


def rewire(wiring: Wiring, generator: Generator, rng: Random) -> Wiring:
    """A wiring that differs in one place, drawn from ``rng``.

    One kind of change is drawn uniformly among those that are possible: the edges of a graph of one of the three
    levels, an operation, or a merge of one of the levels (the last two only where the generator leaves a choice). Then
    the graph or the node is drawn uniformly. Of a graph, one edge is added, removed or moved, with equal probability
    as far as possible, so every DAG over its nodes can be reached. A new operation or merge is drawn from the
    generator's distribution without the present one; a node that comes to have two inputs draws its merge.

    Raises:
        ValueError: If no other wiring has these sizes (single nodes at every level and one operation).
    """
    changes = _changes(wiring, generator)
    if not changes:
        raise ValueError("this wiring has no neighbour: single nodes at every level and no choice of operations")
    kind, level = changes[rng.integers(len(changes))]
    distribution: Distribution = getattr(generator, "operations" if kind == "operation" else f"{level}_merges")

    def changed(graph: Graph, merges: tuple[str, ...], operations: tuple[str, ...] = ()) -> dict[str, Any]:
        if kind == "edge":
            new = _change_edge(graph, rng)
            return {"graph": new, "merges": _merges(new, merges, distribution, rng)}
        if kind == "operation":
            return {"operations": _redraw(operations, range(graph.n_nodes), distribution, rng)}
        return {"merges": _redraw(merges, _merging(merges), distribution, rng)}

    if level == "top":
        return replace(wiring, **changed(wiring.graph, wiring.merges))
    if level == "mid":
        places = [i for i, cell in enumerate(wiring.cells) if kind != "merge" or _merging(cell.merges)]
        i = places[rng.integers(len(places))]
        cell = replace(wiring.cells[i], **changed(wiring.cells[i].graph, wiring.cells[i].merges))
    else:
        pairs = [
            (i, j)
            for i, cell in enumerate(wiring.cells)
            for j, bottom in enumerate(cell.nodes)
            if kind != "merge" or _merging(bottom.merges)
        ]
        i, j = pairs[rng.integers(len(pairs))]
        bottom: BottomGraph = wiring.cells[i].nodes[j]
        bottom = replace(bottom, **changed(bottom.graph, bottom.merges, bottom.operations))
        nodes = wiring.cells[i].nodes
        cell = replace(wiring.cells[i], nodes=(*nodes[:j], bottom, *nodes[j + 1 :]))
    return replace(wiring, cells=(*wiring.cells[:i], cell, *wiring.cells[i + 1 :]))


def _changes(wiring: Wiring, generator: Generator) -> list[tuple[str, str]]:
    """Kinds of change that are possible, as (kind, level)."""
    changes = [("edge", level) for level in ("top", "mid", "bottom") if getattr(generator, level).n_nodes > 1]
    if len(generator.operations) > 1:
        changes.append(("operation", "bottom"))
    merging = {
        "top": bool(_merging(wiring.merges)),
        "mid": any(_merging(cell.merges) for cell in wiring.cells),
        "bottom": any(_merging(bottom.merges) for cell in wiring.cells for bottom in cell.nodes),
    }
    for level, some in merging.items():
        if some and len(getattr(generator, f"{level}_merges")) > 1:
            changes.append(("merge", level))
    return changes


def _merging(merges: tuple[str, ...]) -> list[int]:
    return [node for node, merge in enumerate(merges) if merge != NO_MERGE]


def _change_edge(graph: Graph, rng: Random) -> Graph:
    """Add, remove or move one edge of a graph of at least two nodes."""
    n_nodes, present = graph.n_nodes, list(graph.edges)
    absent = sorted({(a, b) for b in range(n_nodes) for a in range(b)} - set(present))
    ways = ["add"] * bool(absent) + ["remove"] * bool(present) + ["move"] * bool(absent and present)
    way = ways[rng.integers(len(ways))]
    if way != "add":
        del present[rng.integers(len(present))]
    if way != "remove":
        present.append(absent[rng.integers(len(absent))])
    return Graph.from_edges(n_nodes, present)


def _merges(graph: Graph, merges: tuple[str, ...], distribution: Distribution, rng: Random) -> tuple[str, ...]:
    """Merges for new edges: kept where the node still has several inputs, drawn where it newly has."""
    return tuple(
        NO_MERGE if len(sources) < 2 else (_draw(distribution, rng) if merge == NO_MERGE else merge)
        for sources, merge in zip(graph.predecessors, merges, strict=True)
    )


def _redraw(names: tuple[str, ...], places: Any, distribution: Distribution, rng: Random) -> tuple[str, ...]:
    """``names`` with another one at one of ``places``."""
    place = places[rng.integers(len(places))]
    others = tuple(pair for pair in distribution if pair[0] != names[place])
    return (*names[:place], _draw(others, rng), *names[place + 1 :])


def _draw(distribution: Distribution, rng: Random) -> str:
    names, weights = zip(*distribution, strict=True)
    total = sum(weights)
    return str(names[rng.choice(len(names), p=[weight / total for weight in weights])])


def mutate(candidate: WiringCandidate, space: HNAGSpace, rng: Random) -> WiringCandidate:
    """A candidate that differs in one place: its wiring (`rewire`) or, where ``space`` searches them, a KD setting.

    KD settings change with probability `KD_SHARE`: one of them takes a normal step of `STEP` within its range (in the
    logarithm of the temperature).

    Raises:
        ValueError: If nothing can change.
    """
    ranges = _kd_ranges(space)
    if ranges and (rng.random() < KD_SHARE or not _changes(candidate.wiring, candidate.generator)):
        return replace(candidate, kd=_kd_step(candidate.kd, ranges, rng))
    return replace(candidate, wiring=rewire(candidate.wiring, candidate.generator, rng))


def neighbours(candidate: WiringCandidate, space: HNAGSpace, rng: Random, n: int) -> list[WiringCandidate]:
    """Up to ``n`` different mutations of a candidate, in random order; fewer only where there are hardly more."""
    found: dict[WiringCandidate, None] = {}
    for _ in range(10 * n):
        if len(found) == n:
            break
        found[mutate(candidate, space, rng)] = None
    return list(found)


def _kd_ranges(space: HNAGSpace) -> dict[str, tuple[float, float, bool]]:
    """(low, high, logarithmic) of the searched KD settings."""
    preset = space.preset
    ranges = {"temperature": (*preset.temperature, True), "kd_weight": (*preset.kd_weight, False)}
    return {name: values for name, values in ranges.items() if space.search_kd and values[0] < values[1]}


def _kd_step(kd: KDSettings, ranges: Mapping[str, tuple[float, float, bool]], rng: Random) -> KDSettings:
    name = list(ranges)[rng.integers(len(ranges))]
    low, high, logarithmic = ranges[name]
    present = getattr(kd, name)
    to, back = (math.log, math.exp) if logarithmic else (float, float)
    unit = min(max((to(present) - to(low)) / (to(high) - to(low)), 0.0), 1.0)
    while True:
        step = unit + STEP * rng.standard_normal()
        if 0.0 <= step <= 1.0:
            value = min(max(back(to(low) + step * (to(high) - to(low))), low), high)
            if value != present:
                return replace(kd, **{name: value})
