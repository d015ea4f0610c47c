"""HNAG as NASLib's search space: what the contract suite (tests/contract/test_naslib_spaces.py) does not ask of all."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.records import derive_seed
from naslib_autokd.search_spaces import HNAG_PRESETS
from naslib_autokd.search_spaces.hnag import (
    Candidate,
    ErdosRenyi,
    Generator,
    HNAGSpace,
    KDSettings,
    ParameterBudgetError,
    Preset,
    WattsStrogatz,
)
from naslib_autokd.search_spaces.hnag import encoding as encodings
from naslib_autokd.search_spaces.hnag.graphs import Graph as Wires
from naslib_autokd.search_spaces.hnag.individual import WiringCandidate
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.search_spaces.hnag.wiring import MERGES, OPERATIONS, StudentSpec

pytestmark = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

MODES = ("family", "individual")
MEASURES = (
    *("jacov", "snip", "synflow", "grad_norm", "fisher", "grasp"),
    *("plain", "l2_norm", "nwot", "zen", "epe_nas"),
)


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    from naslib_autokd.plugin.loader import load_naslib

    load_naslib()


def sampled(mode: str = "family", seed: int = 0, **options: Any) -> Any:
    from naslib_autokd.plugin.hnag import HNAGSearchSpace

    np.random.seed(seed)  # noqa: NPY002
    graph = HNAGSearchSpace(mode=mode, **options)
    graph.sample_random_architecture()
    return graph


class Answer:
    """A ``dataset_api`` with one answer."""

    def __init__(self, value: Any) -> None:
        self.value, self.asked = value, []  # type: ignore[var-annotated]

    def query(self, arch: Any, metric: Any, dataset: str, **options: Any) -> Any:
        self.asked.append((arch.candidate.digest, metric.name, dataset, options))
        return self.value


# --- architectures


def test_an_architecture_is_a_family_or_a_wiring_of_the_space() -> None:
    family, individual = sampled("family"), sampled("individual")
    assert isinstance(family.candidate, Candidate)
    family.space.values(family.candidate)  # refuses what is not in the space
    assert isinstance(individual.candidate, WiringCandidate)
    individual.space.values(replace(Candidate(individual.candidate.generator, individual.candidate.kd), wiring_seed=0))
    assert family.get_hash() == ("family", family.candidate.digest)
    assert family != individual


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("preset", HNAG_PRESETS)
def test_every_preset_searches(preset: str, mode: str) -> None:
    graph = sampled(mode, preset=preset)
    length = len(graph.encode())
    for _ in range(20):
        child = graph.clone()
        child.mutate(graph)
        assert child != graph
        assert len(child.encode()) == length
        twin = child.clone()
        twin.set_spec(json.loads(json.dumps(child.get_spec())))
        assert twin == child
        graph = child


def test_options_reach_the_space_and_the_task() -> None:
    from naslib_autokd.plugin.hnag import HNAGSearchSpace

    graph = HNAGSearchSpace("hnag", "individual", task="cifar10", search_kd=False, n_classes=100)
    assert (graph.space.name, graph.space.mode, graph.space.search_kd) == ("hnag", "individual", False)
    assert (graph.task.name, graph.num_classes, graph.task.in_channels) == ("cifar10", 100, 3)
    assert HNAGSearchSpace(in_channels=3).task.in_channels == 3
    space = HNAGSpace(Preset(top_nodes=(3, 4), mid_nodes=(1, 1)), search_kd=False, kd=KDSettings(2.0, 0.5))
    own = HNAGSearchSpace(space=space)
    own.sample_random_architecture()
    assert own.candidate.kd == KDSettings(2.0, 0.5)
    assert own.candidate.generator.top.n_nodes in (3, 4)
    with pytest.raises(ValueError, match="unknown preset 'hnag-smal'; did you mean 'hnag-small'"):
        HNAGSearchSpace("hnag-smal")
    with pytest.raises(ValueError, match="unknown mode 'familly'; did you mean 'family'"):
        HNAGSearchSpace(mode="familly")
    with pytest.raises(ValueError, match="unknown task 'cifar1'; did you mean 'cifar10'"):
        HNAGSearchSpace(task="cifar1")


@pytest.mark.parametrize("mode", MODES)
def test_copies_share_the_space_and_keep_what_was_set(mode: str) -> None:
    graph = sampled(mode)
    graph.labeled_archs = [graph.get_spec()]
    graph.instantiate_model, graph.QUERYABLE = True, False
    graph.note = "mine"
    graph.set_scope("stage_1")
    for other in (graph.clone(), copy.copy(graph), copy.deepcopy(graph), graph.copy(), graph.unparse()):
        assert other is not graph
        assert other == graph
        assert (other.instantiate_model, other.QUERYABLE, other.note, other.scope) == (True, False, "mine", "stage_1")
        assert other.labeled_archs == graph.labeled_archs
        assert other.nodes is not graph.nodes
    assert graph.clone().space is graph.space, "a ConfigSpace in every clone would cost a millisecond"
    pair = copy.deepcopy([graph, graph])
    assert pair[0] is pair[1]


@pytest.mark.parametrize("mode", MODES)
def test_graphs_can_be_pickled_with_their_network(mode: str, tmp_path: Path) -> None:
    graph = sampled(mode)
    assert pickle.loads(pickle.dumps(graph)) == graph
    graph.parse()
    graph.eval()
    torch.save(graph, tmp_path / "graph.pt")
    back = torch.load(tmp_path / "graph.pt", weights_only=False)
    images = torch.randn(2, 1, 12, 12)
    assert back == graph
    assert not back.training
    assert torch.equal(back(images), graph(images))


def test_labeled_architectures_without_replacement() -> None:
    graph = sampled()
    with pytest.raises(ValueError, match="set labeled_archs"):
        graph.sample_random_architecture(load_labeled=True)
    labeled = [sampled(seed=seed).get_spec() for seed in range(4)]
    graph.labeled_archs, graph.sample_without_replacement = list(labeled), True
    drawn = []
    for _ in range(4):
        clone = graph.clone()  # an optimizer samples with clones, and must not draw the same again
        clone.sample_random_architecture(load_labeled=True)
        drawn.append(clone.get_spec())
    assert all(drawn.count(spec) == 1 for spec in labeled)
    with pytest.raises(ValueError, match="no labeled architectures"):
        graph.sample_random_architecture(load_labeled=True)


def test_what_our_optimizers_propose_is_kept_as_it_is() -> None:
    """In mode "individual" they propose a wiring seed: the same wiring is the same architecture."""
    proposed = HNAGSpace("hnag-small", mode="individual").sample(np.random.default_rng(0))
    graph, twin = sampled("individual"), sampled("individual")
    graph.set_spec(proposed)
    assert graph.candidate == proposed
    assert graph.get_spec() == proposed.to_dict()
    twin.set_spec(WiringCandidate.draw(proposed, 0))
    assert graph == twin
    assert graph.get_hash() == twin.get_hash()
    assert np.array_equal(graph.encode(), twin.encode())
    assert graph.student_spec(3).wiring == proposed.sample_wiring(0)
    child = graph.clone()
    child.mutate(graph)
    assert isinstance(child.candidate, WiringCandidate)


def test_specs_that_do_not_fit_are_refused() -> None:
    family, individual = sampled("family"), sampled("individual")
    held = family.get_hash()
    with pytest.raises(ValueError, match="single wiring, and the mode is 'family'"):
        family.set_spec(individual.get_spec())
    with pytest.raises(ValueError, match="single wiring, and the mode is 'family'"):
        family.set_spec(replace(family.candidate, wiring_seed=3))
    with pytest.raises(ValueError, match=r"a family, and the mode is 'individual'; draw a wiring"):
        individual.set_spec(family.get_spec())
    with pytest.raises(ValueError, match="not list"):
        family.set_spec([1, 2, 3])
    with pytest.raises(ValueError, match="did you mean 'generator'"):
        family.set_spec({"generater": {}})
    large = Candidate(Generator(WattsStrogatz(30, 4, 0.5), ErdosRenyi(1), WattsStrogatz(1, 0)))
    with pytest.raises(ValueError, match="not in the space hnag-small"):
        family.set_spec(large)
    with pytest.raises(ValueError, match="not in the space hnag-small"):
        individual.set_spec(WiringCandidate.draw(large, 0))
    assert family.get_hash() == held, "what was refused is not held"
    with pytest.raises(ValueError, match="the parent's mode is 'family', and this space's 'individual'"):
        individual.mutate(family)
    with pytest.raises(ValueError, match="must be an HNAGSearchSpace, got Module"):
        individual.mutate(torch.nn.Module())


# --- search


def test_a_family_mutation_moves_one_hyperparameter() -> None:
    graph = sampled("family")
    space = graph.space
    moved: set[str] = set()
    searched = set(space.configuration_space())
    for step in range(3000):
        if step >= 200 and moved == searched:
            break
        child = graph.clone()
        child.mutate(graph)
        before, after = space.values(graph.candidate), space.values(child.candidate)
        different = {name for name in before.keys() & after.keys() if before[name] != after[name]}
        assert len(different) == 1
        name = different.pop()
        others = before.keys() ^ after.keys()
        assert not others or name.endswith("_nodes"), "what comes or goes depends on the number of nodes"
        if others:
            assert all(other.startswith(name.removesuffix("nodes")) for other in others)
        moved.add(name)
        graph = child
    assert moved == searched


def test_fixed_kd_settings_do_not_move() -> None:
    for mode in MODES:
        graph = sampled(mode, search_kd=False)
        for _ in range(50):
            child = graph.clone()
            child.mutate(graph)
            assert child.candidate.kd == graph.candidate.kd == KDSettings()
            graph = child


@pytest.mark.parametrize("mode", MODES)
def test_a_neighbourhood_is_bounded_and_one_step_away(mode: str) -> None:
    from naslib_autokd.plugin.hnag import N_NEIGHBOURS

    graph = sampled(mode)
    found = [wrapper.arch for wrapper in graph.get_nbhd()]
    assert 15 <= len(found) <= N_NEIGHBOURS
    assert len(set(found)) == len(found)
    if mode == "individual":
        for arch in found:
            same = (arch.candidate.wiring == graph.candidate.wiring, arch.candidate.kd == graph.candidate.kd)
            assert sorted(same) == [False, True]
    else:
        before = graph.space.values(graph.candidate)
        names = set()
        for arch in found:
            after = graph.space.values(arch.candidate)
            (name,) = (name for name in before.keys() & after.keys() if before[name] != after[name])
            names.add(name)
        assert len(names) >= 5, "in all directions"


# --- predictors


def test_the_vector_of_a_family() -> None:
    graph = sampled("family")
    space = graph.space
    names = list(space.configuration_space())
    generator = Generator(
        WattsStrogatz(4, 2, 0.1), ErdosRenyi(1), WattsStrogatz(5, 4, 1.0), channel_growth=2.0, downsampling="max",
        stage_ratios=(1 / 3, 1 / 3, 1 / 3),
    )  # fmt: skip
    graph.set_spec(Candidate(generator, KDSettings(10**0.5, 0.25)))
    codes, position = {}, 0
    vector = graph.encode()
    for name in names:
        n = 2 if name == "downsampling" else 1
        codes[name] = [round(float(code), 6) for code in vector[position : position + n]]
        position += n
    assert position == len(vector)
    assert codes["top_k"] == [0.5], "inactive below 5 nodes"
    assert codes["top_p"] == [0.0]
    assert codes["bottom_k"] == [1.0]
    assert codes["bottom_p"] == [1.0]
    assert codes["channel_growth"] == [1.0]
    assert codes["downsampling"] == [0.0, 1.0]
    assert codes["temperature"] == [0.5], "the middle on a logarithmic scale"
    assert codes["kd_weight"] == [0.25]


def test_the_vector_of_a_wiring_follows_its_edges() -> None:
    graph = sampled("individual")
    candidate = graph.candidate
    n = candidate.wiring.graph.n_nodes
    edges = set(candidate.wiring.graph.edges)
    edge = (0, n - 1)
    changed = Wires.from_edges(n, list(edges ^ {edge}))
    merges = tuple("sum" if len(sources) > 1 else "single" for sources in changed.predecessors)
    child = graph.clone()
    child.set_spec(replace(candidate, wiring=replace(candidate.wiring, graph=changed, merges=merges)))
    different = np.flatnonzero(graph.encode() != child.encode())
    positions = dict(zip(zip(*np.tril_indices(9, -1), strict=True), range(36), strict=True))
    first = len(graph.encode()) - 1 - 36 - 10  # before: the space's numbers; behind: bottom graphs and the depth
    assert first + positions[edge[1], edge[0]] in different
    assert set(different) <= {first + positions[edge[1], edge[0]], len(graph.encode()) - 1}
    shape = graph.encode()[first : first + 36]
    assert {(a, b) for (b, a), k in positions.items() if shape[k]} == edges


def test_shares_of_operations_and_merges_are_encoded_where_the_space_has_several() -> None:
    space = HNAGSpace("hnag-wide")
    candidate = WiringCandidate.draw(space.sample(np.random.default_rng(0)), 0)
    code = encodings.vector(space, candidate)
    shares = code[-1 - len(MERGES) - 8 : -1 - len(MERGES)]
    assert shares.sum() == pytest.approx(1.0)
    assert code[-1] == candidate.wiring.depth / candidate.wiring.n_operations
    assert code[-1 - len(MERGES) : -1].sum() <= 1.0


def test_the_graph_for_bonas() -> None:
    from naslib.utils.encodings import EncodingType

    graph = sampled("individual")
    code = graph.encode(EncodingType.BONAS)
    adjacency, features = code["adjacency"], code["operations"]
    flat = graph.candidate.wiring.to_networkx()
    n = graph.candidate.wiring.n_operations
    assert adjacency.shape == (23, 23)  # 20 operations, input, output and global node
    assert len(features) == 23
    off = adjacency - np.eye(23)
    assert off[:-1].sum() == flat.number_of_edges()
    assert off[-1].sum() == n + 2, "the global node listens to all"
    assert (np.triu(adjacency, 1) == 0).all(), "no node listens to a later one"
    assert features[:, 3].sum() == n
    assert features[:, 4:7].sum() == n
    stages = [features[1 : n + 1, 4 + stage].sum() for stage in range(3)]
    wiring = graph.candidate.wiring
    assert stages == [
        sum(len(c.nodes[0].operations) for c, s in zip(wiring.cells, wiring.stages, strict=True) if s == stage)
        for stage in range(3)
    ]
    assert np.allclose(features[-1, 7:], graph.encode())
    with pytest.raises(ValueError, match="up to 1000 operations"):
        sampled("individual", preset="hnag").encode(EncodingType.BONAS)


def test_encodings_that_do_not_exist_name_the_predictors_that_work() -> None:
    from naslib.utils.encodings import EncodingType

    for mode, kind in (
        ("family", EncodingType.BONAS),
        ("family", EncodingType.GCN),
        ("individual", EncodingType.SEMINAS),
    ):
        with pytest.raises(NotImplementedError, match=rf"no encoding {kind.name}; predictors that work: .*mlp.*xgb"):
            sampled(mode).encode(kind)
    with pytest.raises(NotImplementedError, match="no encoding path"):
        sampled().encode("path")


@pytest.mark.parametrize(
    ("mode", "predictor"),
    [*((mode, name) for mode in MODES for name in ("rf", "lgb", "xgb")), ("individual", "bonas")],
)
def test_predictors_learn(mode: str, predictor: str) -> None:
    from naslib.predictors.ensemble import Ensemble

    torch.manual_seed(0)
    archs = [sampled(mode, seed) for seed in range(80)]
    if predictor == "bonas":  # what a graph shows
        truth = np.array([float(arch.candidate.wiring.n_operations) for arch in archs])
    else:
        truth = np.array([arch.candidate.kd.kd_weight * 10 + 80 for arch in archs])
    ensemble = Ensemble(num_ensemble=1, ss_type="hnag", predictor_type=predictor)
    ensemble.fit(archs[:60], truth[:60])
    predicted = np.squeeze(ensemble.query(archs[60:]))
    assert np.corrcoef(predicted, truth[60:])[0, 1] > 0.6


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore")  # of the packages behind the predictors
def test_every_predictor_that_is_said_to_work_does(mode: str) -> None:
    from naslib.predictors.ensemble import Ensemble

    from naslib_autokd.plugin.hnag import VECTOR_PREDICTORS

    archs = [sampled(mode, seed) for seed in range(40)]
    truth = np.array([arch.candidate.kd.kd_weight * 10 + 80 for arch in archs])
    for predictor in VECTOR_PREDICTORS:
        torch.manual_seed(0)
        ensemble = Ensemble(num_ensemble=1, ss_type="hnag", predictor_type=predictor)
        ensemble.fit(archs[:30], truth[:30])
        assert np.isfinite(ensemble.query(archs[30:])).all(), predictor


# --- queries


@pytest.mark.parametrize("mode", MODES)
def test_queries_pass_on_what_is_asked(mode: str) -> None:
    from naslib.search_spaces.core.query_metrics import Metric

    graph = sampled(mode)
    api = Answer(np.float32(71.5))
    value = graph.query(Metric.VAL_ACCURACY, "digits", path="ignored", epoch=5, dataset_api=api)
    assert type(value) is float
    assert value == 71.5
    assert api.asked == [(graph.candidate.digest, "VAL_ACCURACY", "digits", {"epoch": 5, "full_lc": False})]
    assert graph.query(Metric.TRAIN_LOSS, "digits", full_lc=True, dataset_api=Answer(torch.ones(3))) == [1.0] * 3
    everything = {"anything": object()}
    for metric in (Metric.RAW, Metric.HP, Metric.ALL):
        assert graph.query(metric, "digits", dataset_api=Answer(everything)) is everything


def test_answers_that_would_spoil_a_search_are_refused() -> None:
    from naslib.search_spaces.core.query_metrics import Metric

    graph = sampled()
    for value in (float("nan"), float("inf"), np.float32("nan")):
        with pytest.raises(ValueError, match=r"(nan|inf) for VAL_ACCURACY, .* worst possible value"):
            graph.query(Metric.VAL_ACCURACY, "digits", dataset_api=Answer(value))
    with pytest.raises(ValueError, match="answers None for TRAIN_TIME, which is no number"):
        graph.query(Metric.TRAIN_TIME, "digits", dataset_api=Answer(None))
    with pytest.raises(ValueError, match=r"is a dict of another space: .*KDDatasetAPI"):
        graph.query(Metric.VAL_ACCURACY, "digits", dataset_api={"nb201_data": {}})
    with pytest.raises(ValueError, match="must be a naslib Metric"):
        graph.query("VAL_ACCURACY", "digits", dataset_api=Answer(1.0))


# --- networks


def small_spec(seed: int) -> StudentSpec:
    merges = {name: 1 / len(MERGES) for name in MERGES}
    generator = Generator(
        WattsStrogatz(5, 2, 0.5),
        ErdosRenyi(2, 0.5),
        WattsStrogatz(3, 2, 0.5),
        downsampling=("average", "max")[seed % 2],
        operations={name: 1 / len(OPERATIONS) for name in OPERATIONS},  # type: ignore[arg-type]
        top_merges=merges,  # type: ignore[arg-type]
        mid_merges=merges,  # type: ignore[arg-type]
        bottom_merges=merges,  # type: ignore[arg-type]
        head_ratio=1.5 * (seed % 3),
    )
    stem = ("small", "large")[seed % 2]
    return StudentSpec(generator.sample_wiring(seed), (3, 4, 5), 1 + 2 * (seed % 2), 32, 4, stem)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_layers_compute_what_the_student_computes(seed: int) -> None:
    from naslib_autokd.plugin.layers import LayeredStudent

    spec = small_spec(seed)
    student = Student(spec, seed=seed)
    layered = LayeredStudent(student)
    assert sum(p.numel() for p in layered.parameters()) == spec.n_params
    images = torch.randn(3, spec.in_channels, 32, 32, generator=torch.Generator().manual_seed(seed))
    for training in (True, False):  # the first moves the running statistics of both
        expected, computed = student.train(training)(images), layered.train(training)(images)
        torch.testing.assert_close(computed, expected, rtol=1e-3, atol=1e-3)
    expected.square().sum().backward()
    computed.square().sum().backward()
    norms = [
        sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None) for net in (student, layered)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)
    assert layered.features(images).ndim == 4


@pytest.mark.parametrize("mode", MODES)
def test_parse_builds_the_student_that_an_evaluation_trains(mode: str) -> None:
    graph = sampled(mode)
    graph.parse(seed=5)
    wiring = graph.candidate.sample_wiring(derive_seed(5, "wiring"))
    assert graph.student.spec.wiring == wiring
    assert graph.student.spec.n_params <= graph.task.max_params
    images = torch.randn(2, 1, 12, 12)
    expected = Student(graph.student.spec, seed=derive_seed(5, "weights")).eval()(images)
    torch.testing.assert_close(graph.eval()(images), expected, rtol=1e-4, atol=1e-4)
    assert graph.forward(images, None).shape == (2, 10)
    other = graph.clone()
    other.parse(seed=6)
    assert (other.student.spec.wiring == wiring) == (mode == "individual"), "of a family the seed draws the wiring"


def test_networks_that_are_not_there_or_do_not_fit() -> None:
    graph, parsed = sampled(), sampled()
    parsed.parse()
    images = torch.zeros(1, 1, 12, 12)
    assert torch.equal(graph(images), parsed(images)), "parsed when a network is asked for"
    with pytest.raises(ValueError, match="sample it first"):
        type(graph)()(images)
    huge = sampled(preset="hnag", seed=2)
    huge.set_spec(
        Candidate(Generator(WattsStrogatz(10, 4, 0.5), ErdosRenyi(10, 0.5), WattsStrogatz(10, 4, 0.5), head_ratio=4.7))
    )
    with pytest.raises(ParameterBudgetError, match="raise max_params to at least"):
        huge.parse()


@pytest.fixture
def cheap_collections() -> Iterator[None]:
    """NASLib's measures collect garbage every time, which takes half a second with so many modules loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.usefixtures("cheap_collections")
def test_zero_cost_measures_see_the_network(measure: str, mode: str) -> None:
    from naslib.predictors.zerocost import ZeroCost

    images = torch.randn(32, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    batches = [(images, torch.arange(32) % 10)]
    scores = []
    for seed in (1, 2, 1):
        graph = sampled(mode, seed)
        if len(scores) < 2:
            graph.parse()  # the third time the measure asks for the network, as in NASLib's Bananas
        torch.manual_seed(0)
        scores.append(float(ZeroCost(measure).query(graph, dataloader=batches)))
    assert np.isfinite(scores).all()
    assert -1e8 not in scores, "what NASLib writes for NaN"
    assert 0.0 not in scores, "what it adds up where it finds no layer"
    assert scores[0] == pytest.approx(scores[2], rel=1e-3)
    assert scores[0] != pytest.approx(scores[1], rel=1e-3)


def test_a_measured_graph_is_measured_itself_not_what_it_was_cloned_from() -> None:
    """NASLib ties its own copying function to the first graph that it measures; clones would carry it along."""
    first = sampled("family", 1)
    copied = first.get_prunable_copy(bn=False)
    assert first.student is None
    norms = [layer for layer in copied.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    images = torch.randn(2, norms[0].num_features, 4, 4)
    assert norms
    assert all(layer(images) is images for layer in norms)
    twin = first.clone()
    twin.set_spec(sampled("family", 2).get_spec())
    assert twin.get_prunable_copy().candidate == sampled("family", 2).candidate


def test_naslibs_trainer_retrains_the_network(tmp_path: Path) -> None:
    """Its path for spaces without a benchmark: new weights, drop path on edges (there are none), test accuracy."""
    from fvcore.common.config import CfgNode
    from naslib.defaults.trainer import Trainer
    from naslib.optimizers import RandomSearch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 10
    images = torch.randn(64, 1, 12, 12, generator=generator) + labels.view(-1, 1, 1, 1)
    batches = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]

    class Own(Trainer):  # type: ignore[misc]
        @staticmethod
        def build_eval_dataloaders(config: Any) -> Any:
            return batches, None, batches

    evaluation = {"epochs": 12, "checkpoint_freq": 10, "learning_rate": 0.05, "learning_rate_min": 0.0}
    evaluation |= {"momentum": 0.9, "weight_decay": 0.0, "grad_clip": 5, "drop_path_prob": 0.2}
    (tmp_path / "eval").mkdir()
    config = CfgNode(
        {
            "save": str(tmp_path),
            "dataset": "toy",
            "search": {"epochs": 1, "seed": 0, "fidelity": -1, "checkpoint_freq": 1},
            "evaluation": evaluation,
        }
    )
    graph = sampled("individual")
    graph.QUERYABLE = False
    graph.parse()
    torch.manual_seed(0)
    before = copy.deepcopy(graph.state_dict())
    accuracy = Own(RandomSearch(config), config).evaluate(best_arch=graph)
    assert accuracy > 30.0  # of 10 classes
    assert any(not torch.equal(value, before[name]) for name, value in graph.state_dict().items())


# --- with the KD evaluator


@pytest.mark.parametrize("mode", MODES)
def test_architectures_are_trained_with_the_teacher(mode: str, tiny_data: Any, cluttered_teacher: Any) -> None:
    from naslib.search_spaces.core.query_metrics import Metric

    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.plugin.evaluation import KDDatasetAPI

    api = KDDatasetAPI(KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher.network), budget_epochs=3)
    graph = sampled(mode)
    val = graph.query(Metric.VAL_ACCURACY, "cluttered-digits", epoch=1, dataset_api=api)
    assert 0.0 < val <= 100.0
    assert graph.query(Metric.VAL_ACCURACY, "cluttered-digits", epoch=1, dataset_api=api) == val
    assert graph.clone().query(Metric.HP, "cluttered-digits", epoch=1, dataset_api=api)
    assert api.n_trained == 1
    (trial,) = api.store
    assert trial.status == "success"
    assert trial.candidate_digest == graph.candidate.digest
    twin = sampled(mode, seed=1)
    twin.set_spec(trial.candidate)
    assert twin == graph
    spec = graph.student_spec(trial.seed)
    assert (spec.wiring.digest, spec.n_params, spec.channels) == (trial.wiring, trial.n_params, trial.channels)
