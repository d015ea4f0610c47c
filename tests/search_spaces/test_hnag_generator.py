"""Generators and wirings: a pure function of (generator, seed), legal data, round trips, bad input."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naslib_autokd.search_spaces.hnag.generator import ErdosRenyi, Generator, WattsStrogatz
from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.wiring import MERGES, NO_MERGE, OPERATIONS, Wiring


@st.composite
def watts_strogatz(draw: st.DrawFn, largest: int = 10) -> WattsStrogatz:
    n_nodes = draw(st.integers(1, largest))
    k = n_nodes - 1 if n_nodes <= 2 else draw(st.integers(2, min(5, n_nodes - 1)))
    return WattsStrogatz(n_nodes, k, draw(st.floats(0, 1)))


def distributions(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, float]]:
    shares = st.dictionaries(st.sampled_from(names), st.integers(1, 5), min_size=1)
    return shares.map(lambda s: {name: share / sum(s.values()) for name, share in s.items()})


@st.composite
def generators(draw: st.DrawFn, top: int = 10, mid: int = 10, bottom: int = 10) -> Generator:
    """Any generator, of at most the given numbers of nodes."""
    merges = distributions(MERGES)
    return Generator(
        top=draw(watts_strogatz(top)),
        mid=ErdosRenyi(draw(st.integers(1, mid)), draw(st.floats(0, 1))),
        bottom=draw(watts_strogatz(bottom)),
        stage_ratios=draw(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 3.0])] * 3).filter(any)),
        channel_growth=draw(st.floats(0.5, 2.5)),
        downsampling=draw(st.sampled_from(["average", "max"])),
        operations=draw(distributions(tuple(OPERATIONS))),  # type: ignore[arg-type]
        top_merges=draw(merges),  # type: ignore[arg-type]
        mid_merges=draw(merges),  # type: ignore[arg-type]
        bottom_merges=draw(merges),  # type: ignore[arg-type]
        head_ratio=draw(st.sampled_from([0.0, 0.3, 4.7])),
    )


PUBLISHED = Generator(WattsStrogatz(8, 5, 0.3), ErdosRenyi(5, 0.5), WattsStrogatz(5, 2, 0.3), head_ratio=4.7)
SMALL = Generator(WattsStrogatz(9, 2, 0.4), ErdosRenyi(1), WattsStrogatz(1, 0), channel_growth=1.25, downsampling="max")
MIXED = Generator(
    WattsStrogatz(4, 3, 1.0),
    ErdosRenyi(4, 0.2),
    WattsStrogatz(6, 4, 0.7),
    stage_ratios=(1.0, 1.0, 2.0),
    operations=(("conv3x3", 0.5), ("avgpool3x3", 0.25), ("separable5x5", 0.25)),
    top_merges=(("concat", 1.0),),
    bottom_merges=(("sum", 0.5), ("attention", 0.5)),
)

# Printed by `python tests/search_spaces/test_hnag_generator.py`, which draws them with Python 3.11.
GOLDEN = {
    "PUBLISHED": ["5e7dfc4a140e", "f86f45a8d604", "bdc6a59ad9fe", "80118c6a15ae"],
    "SMALL": ["7db38667f01d", "044ca92b015f", "97590544bbab", "415c407d06d1"],
    "MIXED": ["d0962c7b5968", "fc17965f4fe6", "8fe789c5d4bc", "b05df3de0112"],
}
SEEDS = (0, 1, 2**31 - 1)


def digests() -> dict[str, list[str]]:
    families = {"PUBLISHED": PUBLISHED, "SMALL": SMALL, "MIXED": MIXED}
    return {name: [g.digest, *(g.sample_wiring(s).digest for s in SEEDS)] for name, g in families.items()}


def test_digests_of_generators_and_wirings_are_the_golden_ones() -> None:
    assert digests() == GOLDEN


def test_wirings_are_the_same_in_another_process_and_need_no_torch() -> None:
    script = (
        "import sys, random, json, numpy; random.seed(99); numpy.random.seed(99)\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from naslib_autokd.search_spaces.hnag import fit_width, screen\n"
        "import test_hnag_generator as t\n"
        "t.PUBLISHED.sample_wiring(5)\n"  # what was drawn before must not matter
        "fit_width(t.SMALL.sample_wiring(0), 24000, in_channels=1, image_size=12, n_classes=10)\n"
        "list(screen([t.SMALL], 2, max_params=24000, in_channels=1, image_size=12, n_classes=10))\n"
        "assert 'torch' not in sys.modules\n"
        "print(json.dumps(t.digests()))\n"
    )
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == GOLDEN


def test_sampling_neither_reads_nor_moves_global_random_state() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index,union-attr]  # noqa: NPY002
    MIXED.sample_wiring(3)
    assert before == (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[index,union-attr]  # noqa: NPY002


def test_seeds_draw_different_wirings_and_equal_seeds_equal_ones() -> None:
    drawn = [PUBLISHED.sample_wiring(seed) for seed in range(30)]
    assert len({wiring.digest for wiring in drawn}) == 30
    again = Generator.from_json(PUBLISHED.to_json()).sample_wiring(7)
    assert again == drawn[7]
    assert hash(again) == hash(drawn[7])
    assert PUBLISHED.sample_wiring(np.int64(7)) == again  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must be an integer"):
        PUBLISHED.sample_wiring(0.5)  # type: ignore[arg-type]


def test_what_does_not_concern_the_graphs_does_not_redraw_them() -> None:
    plain = Generator(WattsStrogatz(6, 2, 0.5), ErdosRenyi(4, 0.5), WattsStrogatz(5, 2, 0.5))
    other = Generator(
        plain.top,
        plain.mid,
        plain.bottom,
        (1, 1, 2),
        1.3,
        "max",
        {"conv3x3": 0.5, "conv5x5": 0.5},
        head_ratio=1,  # type: ignore[arg-type]
    )
    for seed in range(5):
        a, b = plain.sample_wiring(seed), other.sample_wiring(seed)
        assert a.graph == b.graph
        assert [c.graph for c in a.cells] == [c.graph for c in b.cells]
        assert [n.graph for c in a.cells for n in c.nodes] == [n.graph for c in b.cells for n in c.nodes]


@settings(max_examples=60, deadline=None)
@given(generators(), st.integers(0, 2**31))
def test_any_wiring_is_legal_and_survives_its_dictionary(generator: Generator, seed: int) -> None:
    wiring = generator.sample_wiring(seed)
    assert Wiring.from_dict(json.loads(json.dumps(wiring.to_dict()))) == wiring
    assert Generator.from_yaml(generator.to_yaml()) == generator
    assert Generator.from_json(generator.to_json()) == generator
    graphs = [(wiring.graph, wiring.merges)]
    for cell in wiring.cells:
        graphs.append((cell.graph, cell.merges))
        graphs += [(node.graph, node.merges) for node in cell.nodes]
        assert len(cell.nodes) == generator.mid.n_nodes
    for graph, merges in graphs:
        assert all(a < b for a, b in graph.edges)
        assert graph.inputs[0] == 0
        assert graph.outputs[-1] == graph.n_nodes - 1
        for sources, merge in zip(graph.predecessors, merges, strict=True):
            assert (merge == NO_MERGE) == (len(sources) < 2)
    assert wiring.n_operations == generator.top.n_nodes * generator.mid.n_nodes * generator.bottom.n_nodes


@settings(max_examples=40, deadline=None)
@given(generators(6, 5, 6), st.integers(0, 1000))
def test_depth_is_the_longest_path_of_the_flattened_graph(generator: Generator, seed: int) -> None:
    wiring = generator.sample_wiring(seed)
    flat = wiring.to_networkx()
    assert networkx.is_directed_acyclic_graph(flat)
    assert networkx.dag_longest_path_length(flat) == wiring.depth + 1
    assert len(flat) == wiring.n_operations + 2
    for node in flat:  # every operation is fed by the images and heard by the head
        assert node == "input" or networkx.has_path(flat, "input", node)
        assert node == "output" or networkx.has_path(flat, node, "output")


def test_to_networkx_of_a_drawing_by_hand() -> None:
    # Two cells without an edge between them; in the first two joined mid nodes of one operation, in the second one.
    one = {"graph": [[]], "operations": ["conv3x3"], "merges": ["single"]}
    wiring = Wiring.from_dict(
        {
            "graph": [[], []],
            "merges": ["single", "single"],
            "stages": [0, 2],
            "cells": [
                {"graph": [[], [0]], "merges": ["single", "single"], "nodes": [one, one]},
                {"graph": [[]], "merges": ["single"], "nodes": [one]},
            ],
            "channel_growth": 1.0,
            "downsampling": "max",
            "head_ratio": 0.0,
        }
    )
    a, b, c = (0, 0, 0), (0, 1, 0), (1, 0, 0)
    edges = {("input", a), (a, b), (b, "output"), ("input", c), (c, "output")}
    assert set(wiring.to_networkx().edges) == edges
    assert (wiring.depth, wiring.n_operations) == (2, 3)


@pytest.mark.parametrize(
    ("n_nodes", "ratios", "sizes"),
    [
        (3, (1 / 3, 1 / 3, 1 / 3), (1, 1, 1)),
        (4, (1 / 3, 1 / 3, 1 / 3), (2, 1, 1)),
        (5, (1 / 3, 1 / 3, 1 / 3), (2, 2, 1)),
        (6, (1.0, 1.0, 1.0), (2, 2, 2)),
        (9, (1 / 3, 1 / 3, 1 / 3), (3, 3, 3)),
        (10, (1 / 3, 1 / 3, 1 / 3), (4, 3, 3)),
        (3, (4.0, 1.0, 4.0), (2, 0, 1)),  # an empty stage
        (3, (1.0, 0.0, 0.0), (3, 0, 0)),
        (5, (0.0, 0.0, 1.0), (0, 0, 5)),
        (1, (1.0, 1.0, 1.0), (1, 0, 0)),
    ],
)
def test_stages_follow_their_ratios(
    n_nodes: int, ratios: tuple[float, float, float], sizes: tuple[int, int, int]
) -> None:
    top = WattsStrogatz(n_nodes, min(2, n_nodes - 1), 0.5)
    stages = Generator(top, ErdosRenyi(1), WattsStrogatz(1, 0), stage_ratios=ratios).stages
    assert tuple(stages.count(s) for s in range(3)) == sizes
    assert list(stages) == sorted(stages)


def stages_of_the_authors(n_nodes: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """The rule of vega_NAGO's ``logical_graph.get_stage_list``."""
    if n_nodes == 3:
        return 0, 1, 2
    stage, end, found = 0, shares[0] * n_nodes, []
    for node in range(n_nodes):
        if node >= end:
            stage += 1
            end += shares[stage] * n_nodes
        found.append(stage)
    return tuple(found)


def stages_here(n_nodes: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    return Generator(WattsStrogatz(n_nodes, 2, 0.5), ErdosRenyi(1), WattsStrogatz(1, 0), stage_ratios=shares).stages


def test_the_differences_to_the_authors_stages_are_those_that_the_page_states() -> None:
    page = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d. ]+?)(?: \(`nago.yml`\))? \| ([\d ]+) \| ([\d ]+) \|$", page, re.MULTILINE)
    assert len(rows) == 5
    for n_nodes, shares, theirs, ours in rows:
        setting = int(n_nodes), tuple(map(float, shares.split()))
        assert stages_of_the_authors(*setting) == tuple(map(int, theirs.split()))
        assert stages_here(*setting) == tuple(map(int, ours.split()))
    tenths = [(a / 10, b / 10, (10 - a - b) / 10) for a in range(11) for b in range(11 - a)]
    settings = [(n, shares) for n in range(4, 11) for shares in tenths]
    differ = [setting for setting in settings if stages_of_the_authors(*setting) != stages_here(*setting)]
    assert f"{len(differ)} of {len(settings)} settings differ" in page
    assert all(min(shares) * n < 1 for n, shares in differ)
    assert all(stages_of_the_authors(n, (1 / 3,) * 3) == stages_here(n, (1.0,) * 3) for n in range(3, 11))


def test_k_3_means_2_and_k_5_means_4() -> None:
    for odd, even in ((3, 2), (5, 4)):
        a, b = WattsStrogatz(8, odd, 0.5), WattsStrogatz(8, even, 0.5)
        assert a == b
        assert Generator(a, ErdosRenyi(2, 0.5), a).digest == Generator(b, ErdosRenyi(2, 0.5), b).digest


def test_degenerate_graphs_are_defined() -> None:
    rng = random.Random(0)
    assert WattsStrogatz(1, 0, 0.5).sample(rng).predecessors == ((),)
    assert WattsStrogatz(2, 1, 1.0).sample(rng).edges == ((0, 1),)
    assert ErdosRenyi(1, 1.0).sample(rng).edges == ()
    assert ErdosRenyi(4, 1.0).sample(rng).edges == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    isolated = ErdosRenyi(4, 0.0).sample(rng)
    assert isolated.inputs == isolated.outputs == (0, 1, 2, 3)
    single = Generator(WattsStrogatz(1, 0), ErdosRenyi(1), WattsStrogatz(1, 0)).sample_wiring(0)
    assert (single.n_operations, single.depth) == (1, 1)
    large = WattsStrogatz(40, 6, 0.5).sample(rng)
    assert len(large.edges) == 120


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WattsStrogatz(3, 3, 0.5), "k must be smaller than n_nodes, got k=3 with n_nodes=3; lower k or raise"),
        (lambda: WattsStrogatz(1, 2, 0.5), "k must be smaller than n_nodes"),
        (lambda: WattsStrogatz(2, 0, 0.5), "k of a graph with 2 nodes must be 1"),
        (lambda: WattsStrogatz(5, 1, 0.5), "k must be at least 2"),
        (lambda: WattsStrogatz(5, 2, 1.5), r"p must be in \[0, 1\], got 1.5"),
        (lambda: WattsStrogatz(5, 2, float("nan")), r"p must be in \[0, 1\]"),
        (lambda: WattsStrogatz(5.5, 2, 0.5), "n_nodes must be an integer"),  # type: ignore[arg-type]
        (lambda: ErdosRenyi(0, 0.5), "n_nodes must be at least 1"),
        (lambda: ErdosRenyi(65, 0.5), "n_nodes must be at most 64"),
        (lambda: Graph(((), (1,))), "predecessors of node 1"),
        (lambda: Graph.from_edges(2, [(0, 0)]), "joins two different nodes"),
    ],
)
def test_impossible_graphs_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage_ratios": (0, 0, 0)}, "stage_ratios must be 3 numbers with a positive sum"),
        ({"stage_ratios": (1, 1)}, "stage_ratios must be 3 numbers"),
        ({"channel_growth": 0}, "channel_growth must be greater than 0"),
        ({"channel_growth": float("inf")}, "channel_growth must be greater than 0 and finite"),
        ({"downsampling": "maximum"}, "unknown downsampling 'maximum'; did you mean 'max'"),
        ({"operations": {"conv3x33": 1.0}}, "unknown operation 'conv3x33'; did you mean 'conv3x3'"),
        ({"operations": {"conv3x3": 0.5}}, "must sum to 1, got 0.5"),
        ({"operations": {"conv3x3": 1.5, "conv1x1": -0.5}}, r"must be in \[0, 1\]"),
        ({"bottom_merges": {"summ": 1.0}}, "unknown merge 'summ'; did you mean 'sum'"),
        ({"head_ratio": -1}, "head_ratio must be at least 0"),
        ({"mid": WattsStrogatz(3, 2)}, "mid must be of type ErdosRenyi"),
    ],
)
def test_impossible_generators_are_refused(change: dict[str, object], message: str) -> None:
    parts = {"top": WattsStrogatz(3, 2), "mid": ErdosRenyi(1), "bottom": WattsStrogatz(1, 0)} | change
    with pytest.raises(ValueError, match=message):
        Generator(**parts)  # type: ignore[arg-type]


def test_an_unknown_key_of_a_yaml_file_is_named_with_its_line() -> None:
    text = MIXED.to_yaml()
    line = text.splitlines().index("downsampling: average") + 1
    with pytest.raises(ValueError, match=f"line {line}: unknown key 'downsamplin' in generator; did you mean 'downsa"):
        Generator.from_yaml(text.replace("downsampling", "downsamplin"))
    with pytest.raises(ValueError, match=r"line 4: unknown key 'q' in generator\.top \(known: n_nodes, k, p\)"):
        Generator.from_yaml(text.replace("  p: 1.0", "  q: 1.0"))
    with pytest.raises(ValueError, match="generator lacks 'mid'"):
        Generator.from_dict({"top": {"n_nodes": 3, "k": 2, "p": 0}, "bottom": {"n_nodes": 3, "k": 2, "p": 0}})
    with pytest.raises(ValueError, match=r"generator\.top: k must be smaller"):
        Generator.from_yaml(text.replace("k: 2", "k: 9", 1))
    with pytest.raises(ValueError, match="line 1: not valid YAML"):
        Generator.from_yaml("top: [")
    with pytest.raises(ValueError, match="generator must be a mapping"):
        Generator.from_yaml("- 3")


def test_a_damaged_wiring_is_refused() -> None:
    good = MIXED.sample_wiring(0).to_dict()
    with pytest.raises(ValueError, match="unknown key 'stage' in wiring; did you mean 'stages'"):
        Wiring.from_dict(good | {"stage": []})
    with pytest.raises(ValueError, match=r"stages must be in 0\.\.2 and never fall"):
        Wiring.from_dict(good | {"stages": [0, 1, 0, 2]})
    with pytest.raises(ValueError, match="one entry for each of the 4 top nodes"):
        Wiring.from_dict(good | {"cells": good["cells"][:2]})


if __name__ == "__main__":
    print(json.dumps(digests(), indent=4))


@st.composite
def nearly_certain(draw: st.DrawFn) -> Generator:
    """Small graphs and few choices, so that many draw one wiring only."""
    share = st.sampled_from([0.0, 0.5, 1.0])

    def ring() -> WattsStrogatz:
        n_nodes, k = draw(st.sampled_from([(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (5, 4)]))
        return WattsStrogatz(n_nodes, k, draw(share))

    merges = st.sampled_from([{"sum": 1.0}, {"sum": 0.5, "concat": 0.5}])
    return Generator(
        top=ring(),
        mid=ErdosRenyi(draw(st.integers(1, 3)), draw(share)),
        bottom=ring(),
        operations=draw(st.sampled_from([{"conv3x3": 1.0}, {"conv3x3": 0.5, "conv1x1": 0.5}])),  # type: ignore[arg-type]
        top_merges=draw(merges),  # type: ignore[arg-type]
        mid_merges=draw(merges),  # type: ignore[arg-type]
        bottom_merges=draw(merges),  # type: ignore[arg-type]
    )


@given(generator=nearly_certain())
@settings(max_examples=300)
def test_a_generator_knows_whether_it_draws_one_wiring(generator: Generator) -> None:
    drawn = {generator.sample_wiring(seed).digest for seed in range(30)}
    assert generator.is_one_wiring == (len(drawn) == 1)
