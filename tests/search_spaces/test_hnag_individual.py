"""Single wirings: one legal change at a time, every DAG within reach, plain data, and students that train."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hnag_generator import MIXED, PUBLISHED, SMALL, generators
from test_hnag_student import EVERYTHING

from naslib_autokd.search_spaces import HNAG_PRESETS
from naslib_autokd.search_spaces.hnag import Candidate, ErdosRenyi, Generator, HNAGSpace, KDSettings, WattsStrogatz
from naslib_autokd.search_spaces.hnag.individual import KD_SHARE, WiringCandidate, mutate, neighbours, rewire
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.search_spaces.hnag.wiring import NO_MERGE, Wiring, fit_width

SINGLE = Generator(WattsStrogatz(1, 0), ErdosRenyi(1), WattsStrogatz(1, 0))
SEEDS = st.integers(0, 2**31)


def candidate_of(generator: Generator, seed: int = 0, kd: KDSettings | None = None) -> WiringCandidate:
    return WiringCandidate.draw(Candidate(generator, kd or KDSettings()), seed)


def places(wiring: Wiring) -> dict[object, object]:
    """Everything that a wiring consists of, by place; the merges of a graph go with it."""
    found: dict[object, object] = {"top": (wiring.graph, wiring.merges)}
    for i, cell in enumerate(wiring.cells):
        found[i] = (cell.graph, cell.merges)
        for j, bottom in enumerate(cell.nodes):
            found[i, j] = (bottom.graph, bottom.merges)
            found |= {(i, j, k): name for k, name in enumerate(bottom.operations)}
    return found


@settings(max_examples=100, deadline=None)
@given(generator=generators(6, 4, 5), seed=SEEDS)
def test_rewiring_changes_one_place_and_stays_legal(generator: Generator, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wiring = generator.sample_wiring(seed)
    for _ in range(6):
        try:
            new = rewire(wiring, generator, rng)
        except ValueError:  # nothing but single nodes: only without a choice of operations
            assert len(generator.operations) == 1
            assert all(graph.n_nodes == 1 for graph in (generator.top, generator.mid, generator.bottom))
            return
        before, after = places(wiring), places(new)
        assert before.keys() == after.keys(), "numbers of nodes changed"
        assert sum(before[place] != after[place] for place in before) == 1
        assert Wiring.from_dict(json.loads(json.dumps(new.to_dict()))) == new  # from_dict checks DAGs, names and merges
        assert new.digest != wiring.digest
        fields = ("stages", "channel_growth", "downsampling", "head_ratio")
        assert all(getattr(new, name) == getattr(wiring, name) for name in fields)
        WiringCandidate(new, KDSettings(), generator)  # refuses what the generator cannot draw
        wiring = new


@settings(max_examples=50, deadline=None)
@given(generator=generators(6, 4, 5), seed=SEEDS)
def test_a_changed_graph_differs_by_one_edge_or_one_moved_edge(generator: Generator, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wiring = generator.sample_wiring(seed)
    for _ in range(5):
        new = rewire(wiring, generator, rng) if generator.top.n_nodes > 1 else wiring
        before, after = places(wiring), places(new)
        for place in before:
            if before[place] != after[place] and not isinstance(before[place], str):
                (old_graph, old_merges), (new_graph, new_merges) = before[place], after[place]  # type: ignore[misc]
                removed, added = (
                    set(old_graph.edges) - set(new_graph.edges),
                    set(new_graph.edges) - set(old_graph.edges),
                )
                assert len(removed) <= 1
                assert len(added) <= 1
                kept = [
                    (a, b) for a, b in zip(old_merges, new_merges, strict=True) if NO_MERGE not in (a, b) and a != b
                ]
                assert len(kept) == (0 if removed or added else 1), "a merge changes by itself or not at all"
        wiring = new


def test_every_dag_over_the_nodes_is_reached() -> None:
    generator = replace(SINGLE, top=WattsStrogatz(4, 2, 0.0), top_merges=(("sum", 0.5), ("concat", 0.5)))
    rng = np.random.default_rng(0)
    wiring = generator.sample_wiring(0)
    seen, merged = set(), set()
    for _ in range(3000):
        wiring = rewire(wiring, generator, rng)
        seen.add(wiring.graph)
        merged.add((wiring.graph, wiring.merges))
    assert len(seen) == 2**6  # all subsets of the 6 edges from a lower to a higher of 4 nodes
    # Node 2 has two inputs in 1/4 of the graphs, node 3 at least two in 1/2 of them: both merge in 8, one in 32.
    assert len(merged) == 8 * 4 + (8 + 24) * 2 + 24


def test_kinds_and_levels_of_change_are_equally_likely() -> None:
    rng = np.random.default_rng(0)
    wiring = EVERYTHING.sample_wiring(0)
    kinds: Counter[str] = Counter()
    for _ in range(2100):
        before, after = places(wiring), places(rewire(wiring, EVERYTHING, rng))
        place = next(place for place in before if before[place] != after[place])
        if isinstance(before[place], str):
            kinds["operation"] += 1
        else:
            level = "top" if place == "top" else "mid" if isinstance(place, int) else "bottom"
            edge = before[place][0] != after[place][0]  # type: ignore[index]
            kinds[f"{level} {'edge' if edge else 'merge'}"] += 1
    assert len(kinds) == 7
    # 300 expected of each, standard deviation 16.
    assert all(220 < count < 380 for count in kinds.values()), kinds


def test_new_operations_follow_the_distribution() -> None:
    wiring = MIXED.sample_wiring(0)
    rng = np.random.default_rng(1)
    counts: Counter[str] = Counter()
    for _ in range(3000):
        wiring = rewire(wiring, MIXED, rng)
        counts.update(name for cell in wiring.cells for node in cell.nodes for name in node.operations)
    shares = {name: count / counts.total() for name, count in counts.items()}
    # A chain that draws among the others in proportion settles at p(1-p): here 4/10, 3/10 and 3/10.
    assert shares == pytest.approx({"conv3x3": 0.4, "avgpool3x3": 0.3, "separable5x5": 0.3}, abs=0.06)


def test_nothing_to_change_is_an_error() -> None:
    with pytest.raises(ValueError, match="no neighbour"):
        rewire(SINGLE.sample_wiring(0), SINGLE, np.random.default_rng(0))
    with pytest.raises(ValueError, match="no neighbour"):
        mutate(candidate_of(SINGLE), HNAGSpace(search_kd=False), np.random.default_rng(0))
    start = candidate_of(SINGLE)
    for seed in range(20):
        changed = mutate(start, HNAGSpace(), np.random.default_rng(seed))
        assert changed.wiring == start.wiring
        assert changed.kd != start.kd


@settings(max_examples=30, deadline=None)
@given(generator=generators(5, 3, 4), seed=SEEDS)
def test_students_of_rewired_wirings_fit_and_train(generator: Generator, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wiring = generator.sample_wiring(seed)
    if generator.top.n_nodes > 1:
        for _ in range(10):
            wiring = rewire(wiring, generator, rng)
    spec = fit_width(wiring, 400_000, in_channels=1, image_size=8, n_classes=3)
    student = Student(spec)
    assert sum(p.numel() for p in student.parameters()) == spec.n_params <= 400_000
    logits = student(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed)))
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    gradients = [p.grad for p in student.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


@settings(max_examples=50, deadline=None)
@given(generator=generators(6, 4, 5), seed=SEEDS, temperature=st.floats(1, 10), kd_weight=st.floats(0, 1))
def test_candidates_are_plain_data(generator: Generator, seed: int, temperature: float, kd_weight: float) -> None:
    candidate = candidate_of(generator, seed, KDSettings(temperature, kd_weight))
    back = WiringCandidate.from_dict(json.loads(json.dumps(candidate.to_dict(), allow_nan=False)))
    assert back == candidate
    assert back.generator == candidate.generator
    assert back.digest == candidate.digest
    assert hash(back) == hash(candidate)
    assert candidate.sample_wiring(seed + 1) is candidate.wiring


def test_equal_means_trained_alike() -> None:
    """The generator is what mutations need, not what is trained."""
    ring = replace(SMALL, top=WattsStrogatz(3, 2))
    same = replace(ring, top=WattsStrogatz(3, 2, 0.9))  # a ring of 3 has nothing to rewire
    a, b = candidate_of(ring), candidate_of(same)
    assert a.generator != b.generator
    assert (a, a.digest, hash(a)) == (b, b.digest, hash(b))
    other = replace(a, kd=KDSettings(2.0, 0.5))
    assert other != a
    assert other.digest != a.digest


@pytest.mark.parametrize("preset", HNAG_PRESETS)
def test_mutations_stay_in_the_space(preset: str) -> None:
    space = HNAGSpace(preset)
    rng = np.random.default_rng(3)
    candidate = WiringCandidate.draw(space.sample(rng), 7)
    changed_kd = 0
    for _ in range(400):
        new = mutate(candidate, space, rng)
        assert new != candidate
        assert new.digest != candidate.digest
        assert new.generator == candidate.generator
        assert (new.wiring == candidate.wiring) != (new.kd == candidate.kd), "one of the two changes"
        assert 1.0 <= new.kd.temperature <= space.preset.temperature[1]
        assert 0.0 <= new.kd.kd_weight <= 1.0
        changed_kd += new.kd != candidate.kd
        candidate = new
    assert changed_kd / 400 == pytest.approx(KD_SHARE, abs=0.08)  # standard deviation 0.022
    space.values(Candidate(candidate.generator, candidate.kd))  # refuses what is not in the space


def test_fixed_kd_settings_stay() -> None:
    space = HNAGSpace("hnag-small", search_kd=False)
    rng = np.random.default_rng(0)
    candidate = WiringCandidate.draw(space.sample(rng), 0)
    assert all(mutate(candidate, space, rng).kd == candidate.kd for _ in range(100))


def test_neighbours_are_different_and_repeatable() -> None:
    space = HNAGSpace("hnag-small")
    candidate = WiringCandidate.draw(space.sample(np.random.default_rng(1)), 0)
    found = neighbours(candidate, space, np.random.default_rng(5), 24)
    assert len(found) == len(set(found)) == 24
    assert candidate not in found
    assert neighbours(candidate, space, np.random.default_rng(5), 24) == found
    assert neighbours(candidate, space, np.random.default_rng(6), 24) != found
    pair = candidate_of(replace(SINGLE, top=WattsStrogatz(2, 1)))
    assert len(neighbours(pair, HNAGSpace(search_kd=False), np.random.default_rng(0), 5)) == 1  # with or without edge


def test_the_wiring_seed_of_a_candidate_is_kept() -> None:
    candidate = Candidate(PUBLISHED, wiring_seed=11)
    assert WiringCandidate.draw(candidate, 0).wiring == PUBLISHED.sample_wiring(11)
    assert WiringCandidate.draw(Candidate(PUBLISHED), 4).wiring == PUBLISHED.sample_wiring(4)


def test_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].tobytes()  # type: ignore[index,union-attr]  # noqa: NPY002
    mutate(candidate_of(PUBLISHED), HNAGSpace("hnag"), np.random.default_rng(0))
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[index,union-attr]  # noqa: NPY002


def test_bad_input_is_named() -> None:
    values = candidate_of(PUBLISHED).to_dict()
    with pytest.raises(ValueError, match=r"unknown key 'wirng' in wiring candidate; did you mean 'wiring'"):
        WiringCandidate.from_dict({"wirng": values["wiring"], "generator": values["generator"]})
    with pytest.raises(ValueError, match="lacks 'generator'"):
        WiringCandidate.from_dict({"wiring": values["wiring"]})
    with pytest.raises(ValueError, match="not of its generator's family: stages"):
        WiringCandidate(SMALL.sample_wiring(0), KDSettings(), PUBLISHED)
    with pytest.raises(ValueError, match="mid nodes"):
        WiringCandidate(PUBLISHED.sample_wiring(0), KDSettings(), replace(PUBLISHED, mid=ErdosRenyi(4, 0.5)))
    conv = replace(MIXED, operations=(("conv3x3", 1.0),))
    with pytest.raises(ValueError, match=r"operations of the generator lack .'avgpool3x3', 'separable5x5'"):
        WiringCandidate(MIXED.sample_wiring(0), KDSettings(), conv)
