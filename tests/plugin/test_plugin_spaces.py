"""NASLib's own spaces: as data and ConfigSpace, as students trained with KD, as graphs, and as tables."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from naslib_autokd.distillation.costs import count_macs, count_params, train_memory
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.plugin.architectures import ARCHITECTURES
from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.plugin.spaces import ArchitectureCandidate, NASLibSpace, candidate_of
from naslib_autokd.records import Proposal, Trial, derive_seed
from naslib_autokd.runners.search import search
from naslib_autokd.search_spaces import get_search_space
from naslib_autokd.search_spaces.hnag import KDSettings, ParameterBudgetError
from naslib_autokd.tasks import get_task

needs_naslib = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

SPACES = tuple(ARCHITECTURES)
TASK = get_task("cluttered-digits")
NB101: Any = ARCHITECTURES["nasbench101"]


def draws(space: str, n: int, seed: int = 0, **options: Any) -> list[ArchitectureCandidate]:
    rng = np.random.default_rng(seed)
    made = NASLibSpace(space, **options)
    return [made.sample(rng) for _ in range(n)]


def graph_of(space: str, **options: Any) -> Any:
    return NASLibSpace(space, **options).graph()


def sampled(space: str, seed: int = 0, **options: Any) -> Any:
    graph = graph_of(space, **options)
    np.random.seed(seed)  # noqa: NPY002 - NASLib draws from it
    graph.sample_random_architecture()
    return graph


def upstream(space: str, **options: Any) -> Any:
    from naslib import search_spaces

    return {
        "nasbench101": search_spaces.NasBench101SearchSpace,
        "nasbench201": search_spaces.NasBench201SearchSpace,
        "nasbench301": search_spaces.NasBench301SearchSpace,
        "simple_cell": search_spaces.SimpleCellSearchSpace,
    }[space](**options)


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_candidates_and_configurations_are_inverse(space: str) -> None:
    made = get_search_space(space)
    for candidate in [made.default_candidate(), *draws(space, 40)]:
        values = made.values(candidate)
        assert set(values) == set(made.configuration_space())
        assert made.candidate(values) == candidate
        assert json.loads(json.dumps(values)) == values
        stored = json.loads(json.dumps(candidate.to_dict()))
        assert ArchitectureCandidate.from_dict(stored) == candidate
        assert ArchitectureCandidate.from_dict(stored).digest == candidate.digest
    digests = {candidate.digest for candidate in draws(space, 40)}
    assert len(digests) == 40


@pytest.mark.parametrize("space", SPACES)
def test_kd_is_a_dimension_only_if_it_is_searched(space: str) -> None:
    fixed = NASLibSpace(space, search_kd=False, kd=KDSettings(2.0, 0.5))
    assert set(NASLibSpace(space).configuration_space()) - set(fixed.configuration_space()) == {
        "temperature",
        "kd_weight",
    }
    assert {candidate.kd for candidate in draws(space, 5, search_kd=False, kd=KDSettings(2.0, 0.5))} == {fixed.kd}
    assert len({candidate.kd for candidate in draws(space, 5)}) == 5
    with pytest.raises(ValueError, match=r"this space fixes"):
        fixed.values(NASLibSpace(space).default_candidate())
    assert fixed.describe() != NASLibSpace(space, search_kd=False).describe()


def test_all_cells_of_nasbench201_have_a_point() -> None:
    edges: Any = ARCHITECTURES["nasbench201"]
    points = itertools.product(edges.operations, repeat=6)
    reached = {edges.architecture(dict(zip(edges.edges, point, strict=True))) for point in points}
    assert reached == set(itertools.product(range(5), repeat=6))


@pytest.mark.parametrize(
    ("space", "size"), [("nasbench201", 5**6), ("simple_cell", 5**10), ("nasbench301", (1 * 3 * 6 * 10 * 7**8) ** 2)]
)
def test_the_spaces_have_as_many_points_as_architectures(space: str, size: int) -> None:
    choices = [len(made.choices) for made in ARCHITECTURES[space].hyperparameters()]
    assert np.prod(choices, dtype=object) == size


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n_edges=st.integers(1, 9),
    priorities=st.lists(st.floats(0, 1), min_size=21, max_size=21),
    operations=st.lists(st.sampled_from(NB101.operations), min_size=5, max_size=5),
)
def test_every_point_of_nasbench101_is_a_cell(n_edges: int, priorities: list[float], operations: list[str]) -> None:
    names = [f"edge_{i}_{j}" for i, j in NB101.pairs]
    values = dict(zip(names, priorities, strict=True)) | {f"op_{v}": operations[v - 1] for v in range(1, 6)}
    cell = NB101.architecture({"n_edges": n_edges, **values})
    edges = NB101.edges(cell)
    assert 1 <= len(edges) <= 9
    # every vertex has a way in and a way out, and they are numbered without gaps
    inner = {vertex for edge in edges for vertex in edge} - {0, 6}
    assert inner == set(range(1, len(inner) + 1))
    assert inner | {0} == {source for source, _ in edges}
    assert inner | {6} == {target for _, target in edges}
    assert NB101.canonical(cell) == cell
    assert NB101.architecture(NB101.values(cell)) == cell
    assert NB101.values(cell)["n_edges"] == len(edges)


def test_nasbench101_has_the_number_of_edges_that_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    asked, found = [], []
    for _ in range(300):
        values = {f"edge_{i}_{j}": rng.random() for i, j in NB101.pairs} | {
            f"op_{v}": "maxpool3x3" for v in range(1, 6)
        }
        asked.append(int(rng.integers(1, 10)))
        found.append(len(NB101.edges(NB101.architecture(values | {"n_edges": asked[-1]}))))
    difference = np.array(found) - np.array(asked)
    assert np.mean(difference == 0) > 0.4
    assert np.mean(difference >= 0) > 0.95  # fewer only where every further edge would bring more than 9 into use


@pytest.mark.parametrize("space", SPACES)
def test_neighbours_are_different_architectures_and_one_step_away(space: str) -> None:
    architectures = ARCHITECTURES[space]
    for candidate in draws(space, 2):
        found = architectures.neighbours(candidate.architecture)
        assert candidate.architecture not in found
        assert len(found) > 1
        if space != "nasbench101":  # where an edge more or less can number all vertices anew
            assert len(set(found)) == len(found)
            assert all(candidate.architecture in architectures.neighbours(neighbour) for neighbour in found[::7])
        assert all(architectures.canonical(neighbour) != candidate.architecture for neighbour in found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NASLibSpace("nasbench200"), "unknown space of NASLib 'nasbench200'; did you mean 'nasbench201'"),
        (lambda: ArchitectureCandidate("nasbench201", (0, 1, 2, 3, 4)), "is 6 integers"),
        (lambda: ArchitectureCandidate("nasbench201", (0, 1, 2, 3, 4, 5)), "are 0 to 4"),
        (lambda: ArchitectureCandidate("nasbench201", (0, 1, 2, 3, 4, 0.5)), "is 6 integers"),
        (lambda: ArchitectureCandidate("nasbench101", [0] * 49 + [0, 2, 2, 2, 2, 2, 1]), "no way from input to output"),
        (lambda: ArchitectureCandidate("nasbench101", [1] * 49 + [0, 2, 2, 2, 2, 2, 1]), "upper triangular"),
        (lambda: NB101.of_cell(set(NB101.pairs), ["maxpool3x3"] * 5), "at most 9 edges, this one uses 21"),
        (lambda: ArchitectureCandidate("nasbench301", [[(0, 0), (0, 1)] * 4] * 2), "two different inputs"),
        (lambda: ArchitectureCandidate("nasbench301", [[(0, 0), (1, 9)] * 4] * 2), "are 0 to 6"),
        (lambda: ArchitectureCandidate("nasbench301", 7), "two cells of eight pairs"),
        (lambda: ArchitectureCandidate.from_dict({"space": "nasbench201"}), "lacks 'architecture'"),
        (lambda: ArchitectureCandidate.from_dict({"space": "nasbench201", "architectur": 1}), "did you mean"),
        (lambda: get_search_space("nasbench201").candidate({"edge_1_2": "none"}), "not a configuration"),
        (lambda: get_search_space("nasbench201").candidate({"edge_1_22": "none"}), "did you mean 'edge_1_2'"),
        (lambda: get_search_space("nasbench201").values(draws("simple_cell", 1)[0]), "not a candidate of nasbench201"),
        (lambda: get_search_space("nasbench201", serach_kd=False), "serach_kd"),
    ],
)
def test_wrong_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r".*") as error:
        make()
    assert message in str(error.value)


def test_the_order_of_a_node_s_inputs_means_nothing() -> None:
    default = ARCHITECTURES["nasbench301"].default
    swapped = [[cell[i ^ 1] for i in range(8)] for cell in default]
    assert swapped != default
    assert ArchitectureCandidate("nasbench301", swapped) == ArchitectureCandidate("nasbench301", default)


# --- NASLib agrees ----------------------------------------------------------------------------------------------------


@needs_naslib
@pytest.mark.parametrize("space", SPACES)
def test_naslib_accepts_what_is_sampled(space: str) -> None:
    from naslib_autokd.plugin.graphs import upstream_network

    for candidate in draws(space, 1 if space == "nasbench101" else 2):
        network: Any = upstream_network(candidate).eval()
        assert network(torch.rand(2, 3, 16, 16)).shape == (2, 10)
        if space == "nasbench301":
            from naslib.search_spaces.nasbench301.conversions import convert_naslib_to_compact

            assert convert_naslib_to_compact(network) == candidate.architecture  # from the graph's operations
        elif space == "nasbench201":
            from naslib.search_spaces.nasbench201.conversions import convert_naslib_to_op_indices

            assert tuple(convert_naslib_to_op_indices(network)) == candidate.architecture
        else:
            assert network.get_hash() == candidate.architecture
        assert candidate_of(network).architecture == candidate.architecture


@needs_naslib
def test_nasbench101_s_own_rule_accepts_every_point_and_its_hash_every_cell() -> None:
    from naslib.search_spaces.nasbench101.conversions import convert_spec_to_tuple, convert_tuple_to_spec
    from naslib.utils import nb101_api

    from naslib_autokd.plugin.graphs import KDNASBench101

    rules = KDNASBench101.rules["nb101_data"]
    for candidate in draws("nasbench101", 100):
        assert rules.is_valid(nb101_api.ModelSpec(**convert_tuple_to_spec(candidate.architecture)))
    np.random.seed(0)  # noqa: NPY002
    plain = upstream("nasbench101")
    plain.instantiate_model = False
    for _ in range(100):  # cells as NASLib draws them, idle vertices included, have a point too
        plain.sample_random_architecture(dataset_api=KDNASBench101.rules)
        cell = NB101.canonical(convert_spec_to_tuple(plain.spec))
        hashes = {rules._hash_spec(nb101_api.ModelSpec(**spec)) for spec in (plain.spec, convert_tuple_to_spec(cell))}
        assert len(hashes) == 1
        assert NB101.architecture(NB101.values(cell)) == cell


@needs_naslib
def test_candidate_of_reads_naslib_s_own_graphs() -> None:
    np.random.seed(0)  # noqa: NPY002
    graph = upstream("nasbench201")
    with pytest.raises(ValueError, match=r"NasBench201SearchSpace has no architecture yet"):
        candidate_of(graph)
    graph.sample_random_architecture()
    assert candidate_of(graph) == ArchitectureCandidate("nasbench201", graph.get_hash())
    for other in ("nasbench101", "nasbench301", "simple_cell"):
        with pytest.raises(ValueError, match=r"has no architecture yet"):
            candidate_of(upstream(other))
    with pytest.raises(ValueError, match=r"Linear is no graph of nasbench101, nasbench201, nasbench301, simple_cell"):
        candidate_of(nn.Linear(1, 1))


# --- students ---------------------------------------------------------------------------------------------------------


@needs_naslib
@pytest.mark.parametrize("limit", [24_000, 200_000])
@pytest.mark.parametrize("space", SPACES)
def test_students_use_the_parameter_limit(space: str, limit: int) -> None:
    task = get_task(TASK, max_params=limit)
    for candidate in [NASLibSpace(space).default_candidate(), *draws(space, 3, seed=1)]:
        spec = candidate.student_spec(task, 0)
        network = spec.build(0)
        assert count_params(network) == spec.n_params
        assert 0.9 * limit <= spec.n_params <= limit
        assert min(spec.channels) >= task.min_channels
        assert spec.macs == count_macs(network, (1, 12, 12)) > 0


@needs_naslib
@pytest.mark.parametrize("space", SPACES)
def test_students_are_ready_to_be_trained(space: str) -> None:
    first, second = draws(space, 2, seed=2)
    spec = first.student_spec(TASK, 0)
    state = torch.get_rng_state()
    network, same, other_weights = (spec.build(seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    images = torch.rand(4, 1, 12, 12)
    outputs = [built.eval()(images) for built in (network, same, other_weights)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.affine and norm.track_running_stats and norm.momentum == 0.1 for norm in norms)
    assert train_memory(network, (1, 12, 12), 8) > 4 * spec.n_params
    assert spec.wiring.digest == replace(first, kd=KDSettings(2.0, 0.1)).student_spec(TASK, 0).wiring.digest
    assert spec.wiring.digest != second.student_spec(TASK, 0).wiring.digest
    assert json.loads(json.dumps(network.spec.to_dict()))["space"] == space
    other = second.student_spec(TASK, 0).build(5).eval()
    assert {name: p.shape for name, p in other.named_parameters()} != {
        name: p.shape for name, p in network.named_parameters()
    }


@needs_naslib
@pytest.mark.parametrize("space", SPACES)
def test_a_limit_too_low_is_an_error_that_names_the_lowest(space: str) -> None:
    made = NASLibSpace(space)
    with pytest.raises(ParameterBudgetError) as error:
        made.check(get_task(TASK, max_params=500))
    smallest = get_task(TASK, max_params=error.value.smallest)
    assert made.default_candidate().student_spec(smallest, 0).n_params == smallest.max_params
    made.check(TASK)


@needs_naslib
def test_students_of_nasbench101_are_the_networks_of_nasbench_pytorch() -> None:
    from nasbench_pytorch.model import Network

    from naslib_autokd.plugin.students import NASBench101Network, count_nasbench101, model_spec

    one_edge = ArchitectureCandidate("nasbench101", NB101.of_cell({(0, 6)}, ["maxpool3x3"] * 5))
    for candidate in [one_edge, NASLibSpace("nasbench101").default_candidate(), *draws("nasbench101", 6)]:
        cell = candidate.architecture
        reference = Network(model_spec(cell), num_labels=7, in_channels=3, stem_out_channels=12).eval()
        ours = NASBench101Network(cell, (12, 24, 48), 3, 3, 7).eval()
        missing = ours.load_state_dict(reference.state_dict(), strict=False)
        assert missing.missing_keys == []
        assert all(name.endswith((".a", ".dev_param")) for name in missing.unexpected_keys)
        images = torch.rand(2, 3, 12, 12)
        torch.testing.assert_close(ours(images), reference(images), rtol=1e-4, atol=1e-6)
        assert count_params(ours) == count_nasbench101(cell, (12, 24, 48), 3, 3, 7)


@needs_naslib
def test_students_of_nasbench301_have_the_weights_of_naslib_s_network() -> None:
    from naslib_autokd.plugin.students import genotype_of
    from naslib_autokd.search_spaces.cell.genotype import CellSpec
    from naslib_autokd.search_spaces.cell.network import CellNetwork

    def shapes(network: nn.Module) -> list[tuple[int, ...]]:
        return sorted(tuple(m.weight.shape) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))

    for candidate in draws("nasbench301", 2):
        spec = CellSpec(genotype_of(candidate.architecture), 8, 48, (16, 32, 64), 3, 32, 10)
        reference = upstream("nasbench301", auxiliary=False)
        reference.set_spec(candidate.architecture)
        reference.parse()
        assert shapes(CellNetwork(spec)) == shapes(reference)


@needs_naslib
@pytest.mark.parametrize("space", SPACES)
def test_a_student_is_trained_with_kd(space: str, tiny_data: Any, cluttered_teacher: Any) -> None:
    evaluator = KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher)
    candidate = NASLibSpace(space).default_candidate()
    trial = evaluator.evaluate(Proposal(candidate, 1, 3, 0))
    assert (trial.status, trial.message) == ("success", "")
    assert trial.candidate == candidate.to_dict()
    assert 0.9 < trial.budget_used <= 1
    assert trial.macs
    assert trial.train_memory_bytes
    assert trial.outcome() == evaluator.evaluate(Proposal(candidate, 1, 3, 0)).outcome()
    untaught = replace(candidate, kd=KDSettings(4.0, 0.0))
    assert evaluator.evaluate(Proposal(untaught, 1, 3, 0)).curve != trial.curve


@needs_naslib
@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES)
def test_a_student_learns(space: str, cluttered_data: Any, cluttered_teacher: Any) -> None:
    evaluator = KDEvaluator(TASK, data=cluttered_data, teacher=cluttered_teacher)
    trial = evaluator.evaluate(Proposal(NASLibSpace(space).default_candidate(), 9, 0, 0))
    assert trial.val_accuracy is not None
    assert trial.val_accuracy > 0.6, trial


# --- graphs -----------------------------------------------------------------------------------------------------------


@needs_naslib
@pytest.mark.parametrize("search_kd", [True, False])
@pytest.mark.parametrize("space", SPACES)
def test_a_graph_holds_and_returns_an_architecture(space: str, search_kd: bool) -> None:
    graph = sampled(space, search_kd=search_kd)
    assert isinstance(graph, type(upstream(space)))
    assert (graph.get_type(), graph.space_name, graph.QUERYABLE, bool(graph)) == (space, space, True, True)
    assert graph.candidate == candidate_of(graph)
    kd = (graph.candidate.kd.temperature, graph.candidate.kd.kd_weight)
    assert graph.get_hash() == graph.candidate.architecture + (kd if search_kd else ())
    assert hash(graph.get_hash()) == hash(copy.deepcopy(graph).get_hash())
    for spec in (graph.get_spec(), graph.get_hash(), graph.candidate, graph.candidate.to_dict()):
        other = graph_of(space, search_kd=search_kd)
        other.set_spec(spec)
        assert other.candidate == graph.candidate
    assert NASLibSpace(space, search_kd=search_kd).values(graph.candidate)


@needs_naslib
@pytest.mark.parametrize("space", SPACES)
def test_a_clone_is_cheap_and_independent(space: str) -> None:
    graph = sampled(space)
    before = graph.candidate
    state = random.getstate()
    clone = graph.clone()
    assert random.getstate() == state
    assert clone.space is graph.space
    assert clone.candidate == before
    clone.mutate(graph)
    assert clone.candidate != before or space == "nasbench101"
    assert graph.candidate == before
    clone.sample_random_architecture()
    assert graph.candidate == before
    assert clone.get_hash() != graph.get_hash()


@needs_naslib
@pytest.mark.parametrize("space", SPACES)
def test_mutation_changes_the_cell_or_one_kd_setting(space: str) -> None:
    graph = sampled(space)
    kinds = []
    for _ in range(200):
        child = graph_of(space)
        child.mutate(graph)
        cell = child.candidate.architecture != graph.candidate.architecture
        changed = [a != b for a, b in zip(child._kd_pair(), graph._kd_pair(), strict=True)]
        assert not (cell and any(changed))
        assert sum(changed) <= 1
        kinds.append("cell" if cell else "kd" if any(changed) else "none")
    share = 2 / (ARCHITECTURES[space].n_decisions + 2)
    assert abs(kinds.count("kd") / 200 - share) < 4 * (share * (1 - share) / 200) ** 0.5 + 0.01
    if space in ("nasbench201", "simple_cell"):
        assert kinds.count("none") <= 2  # a KD setting at its end


@needs_naslib
@pytest.mark.parametrize("space", ["nasbench101", "nasbench201", "nasbench301"])
def test_without_kd_the_same_random_numbers_give_naslib_s_architectures(space: str) -> None:
    def trajectory(graph: Any) -> list[Any]:
        from naslib_autokd.plugin.graphs import KDNASBench101

        graph.instantiate_model = False
        np.random.seed(1)  # noqa: NPY002
        hashes = []
        parent, child = graph, copy.deepcopy(graph)
        for _ in range(20):
            parent.sample_random_architecture(dataset_api=KDNASBench101.rules)
            child.mutate(parent, dataset_api=KDNASBench101.rules)
            hashes += [candidate_of(parent).architecture, candidate_of(child).architecture]
        return hashes

    assert trajectory(graph_of(space, search_kd=False)) == trajectory(upstream(space))


@needs_naslib
@pytest.mark.parametrize("space", SPACES)
def test_neighbours_of_a_graph(space: str) -> None:
    graph = sampled(space)
    found = [neighbour.arch.candidate for neighbour in graph.get_nbhd()]
    assert graph.candidate not in found
    cells = [c.architecture for c in found if c.kd == graph.candidate.kd]
    architectures = ARCHITECTURES[space]
    expected = [
        architectures.canonical(n) for n in architectures.neighbours(graph._data_of(getattr(graph, graph._held)))
    ]
    assert len(cells) > 10
    assert sorted(cells) == sorted(expected)
    assert cells != expected  # shuffled
    assert 2 <= len(found) - len(cells) <= 4


@needs_naslib
@pytest.mark.slow
@pytest.mark.parametrize("space", ["nasbench101", "nasbench201"])
def test_neighbours_are_those_of_naslib(space: str) -> None:
    from naslib_autokd.plugin.graphs import KDNASBench101

    graph = sampled(space, search_kd=False)
    plain = upstream(space)
    plain.set_spec(
        {"matrix": graph.spec["matrix"], "ops": graph.spec["ops"]} if space == "nasbench101" else graph.op_indices
    )
    theirs = [candidate_of(n.arch).architecture for n in plain.get_nbhd(dataset_api=KDNASBench101.rules)]
    ours = [n.arch.architecture for n in graph.get_nbhd()]
    assert sorted(theirs) == sorted(ours)


@needs_naslib
@pytest.mark.parametrize("space", SPACES)
def test_vectors_for_predictors_end_with_the_kd_settings(space: str) -> None:
    from naslib.utils.encodings import EncodingType

    graph, plain = sampled(space), sampled(space, search_kd=False)  # the same architecture
    assert plain.architecture == graph.architecture
    for kind in (EncodingType.ADJACENCY_ONE_HOT, EncodingType.PATH):
        vector = graph.encode(encoding_type=kind)
        np.testing.assert_array_equal(vector[:-2], plain.encode(encoding_type=kind))
        assert vector[-1] == graph.candidate.kd.kd_weight
        assert vector[-2] == pytest.approx(np.log10(graph.candidate.kd.temperature))
    if space != "simple_cell":
        assert set(graph.encode(encoding_type=EncodingType.GCN)) == set(plain.encode(encoding_type=EncodingType.GCN))


@needs_naslib
def test_a_graph_becomes_its_student() -> None:
    from naslib_autokd.plugin.graphs import graph_class

    graph = graph_class("nasbench101")(NASLibSpace("nasbench101"), TASK)
    graph.set_spec(NASLibSpace("nasbench101").default_candidate())
    assert graph(torch.rand(2, 1, 12, 12)).shape == (2, 10)  # parsed when a network is asked for
    graph.parse()
    graph.eval()
    images = torch.rand(2, 1, 12, 12)
    assert graph(images).shape == (2, 10)
    assert count_params(graph) == graph.candidate.student_spec(TASK, 0).n_params
    assert torch.equal(graph.clone().eval()(images), graph(images))
    assert not list(graph.unparse().parameters())


@needs_naslib
@pytest.mark.parametrize("space", SPACES)
def test_a_query_goes_to_the_evaluator(space: str) -> None:
    from naslib.search_spaces.core.query_metrics import Metric

    class API:
        def query(self, arch: Any, metric: Any, dataset: Any, epoch: int = -1, full_lc: bool = False) -> float:
            return float(arch.candidate.kd.kd_weight + epoch)

    graph = sampled(space)
    answer = graph.query(Metric.VAL_ACCURACY, "cluttered-digits", epoch=3, dataset_api=API())
    assert answer == graph.candidate.kd.kd_weight + 3
    with pytest.raises(ValueError, match=r"queried through dataset_api"):
        graph.query(Metric.VAL_ACCURACY, "cifar10")
    with pytest.raises(ValueError, match=r"has no architecture yet"):
        graph_of(space).query(Metric.VAL_ACCURACY, "cifar10", dataset_api=API())


@needs_naslib
def test_errors_of_graphs() -> None:
    from naslib.search_spaces.core.query_metrics import Metric

    from naslib_autokd.plugin.graphs import graph_class

    with pytest.raises(ValueError, match=r"unknown space of NASLib 'nasbench211'; did you mean"):
        graph_class("nasbench211")
    with pytest.raises(ValueError, match=r"this is a graph of nasbench201, got the space nasbench101"):
        graph_class("nasbench201")(NASLibSpace("nasbench101"))
    with pytest.raises(ValueError, match=r"not a candidate of nasbench201"):
        graph_of("nasbench201").set_spec(draws("simple_cell", 1)[0])
    with pytest.raises(ValueError, match=r"no benchmark of the simple cell space"):
        sampled("simple_cell").query(Metric.VAL_ACCURACY, "cifar10", dataset_api={})
    graph = sampled("nasbench101")
    before = graph.candidate
    with pytest.raises(ValueError, match=r"no way from input to output"):
        graph.set_spec({"matrix": np.zeros((7, 7), int), "ops": ["input", *["maxpool3x3"] * 5, "output"]})
    assert graph.candidate == before


# --- search -----------------------------------------------------------------------------------------------------------


class FormulaEvaluator:
    """Answers at once: skips and cheap operations are bad, a high KD weight is good, more epochs are better."""

    def __init__(self, die_after: int | None = None) -> None:
        self.n, self.die_after = 0, die_after

    def evaluate(self, proposal: Proposal) -> Trial:
        if self.n == self.die_after:
            raise KeyboardInterrupt
        self.n += 1
        candidate: Any = proposal.candidate
        noise = 0.02 * derive_seed(proposal.seed, "noise") / 2**31
        error = 0.5 - 0.05 * candidate.architecture.count(2) - 0.1 * candidate.kd.kd_weight
        cost = min(1.0, max(0.0, error + 0.3 / proposal.budget_epochs + noise))
        return Trial.of(
            proposal,
            cost=cost,
            val_accuracy=1 - cost,
            student_epochs=float(proposal.budget_epochs),
        )


@needs_naslib
@pytest.mark.parametrize("space", ["nasbench201", "nasbench101"])
def test_autokd_searches_naslib_s_space_and_a_killed_run_goes_on(space: str, tmp_path: Path) -> None:
    def run(evaluator: FormulaEvaluator, out: str, n_trials: int = 14) -> Any:
        return search(TASK, "autokd", evaluator=evaluator, space=space, n_trials=n_trials, seed=3, out=tmp_path / out)

    whole = run(FormulaEvaluator(), "whole")
    assert whole.trials[0].candidate == NASLibSpace(space).default_candidate().to_dict()
    assert len({trial.candidate_digest for trial in whole.trials}) > 5
    with pytest.raises(KeyboardInterrupt):
        run(FormulaEvaluator(die_after=8), "killed")
    rest = FormulaEvaluator()
    again = run(rest, "killed")
    assert rest.n == 14 - 8
    assert [t.outcome() for t in again.trials] == [t.outcome() for t in whole.trials]
    assert again.candidate == whole.candidate
    assert ArchitectureCandidate.from_dict(whole.candidate.to_dict()) == whole.candidate


# --- tables -----------------------------------------------------------------------------------------------------------


def nasbench201_table(n_epochs: int = 20) -> dict[str, Any]:
    """All cells in the format of NASLib's pickle; conv3x3 is good, training helps."""
    from naslib.search_spaces.nasbench201.conversions import convert_op_indices_to_str

    table = {}
    for cell in itertools.product(range(5), repeat=6):
        end = 50 + 5 * cell.count(2) + cell[0] - cell[5]
        curve = [end * (epoch + 1) / n_epochs for epoch in range(n_epochs)]
        results = {"train_acc1es": curve, "eval_acc1es": curve, "cost_info": {"train_time": 1.0}}
        table[convert_op_indices_to_str(cell)] = {"cifar10-valid": results}
    return {"nb201_data": table}


def proposal(candidate: ArchitectureCandidate, budget: int, seed: int = 0) -> Proposal:
    return Proposal(candidate, budget, seed, 0)


@needs_naslib
def test_nasbench201_s_table_answers_a_search() -> None:
    from naslib.search_spaces.core.query_metrics import Metric

    from naslib_autokd.plugin.tabular import TabularEvaluator

    api = nasbench201_table()
    evaluator = TabularEvaluator(api, "nasbench201", "cifar10")
    assert evaluator.budgets == range(1, 21)
    best = ArchitectureCandidate("nasbench201", (2,) * 6)
    trial = evaluator.evaluate(proposal(best, 5))
    assert (trial.val_accuracy, trial.cost) == pytest.approx((0.2, 0.8))
    assert (trial.student_epochs, trial.budget_epochs, trial.status) == (5.0, 5, "success")
    assert trial.train_accuracy == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"nasbench201 has no results after 21 epochs, only after 1 to 20"):
        evaluator.evaluate(proposal(best, 21))
    with pytest.raises(ValueError, match=r"not a candidate of nasbench201"):
        evaluator.evaluate(proposal(draws("simple_cell", 1)[0], 5))
    task = get_task(TASK, min_budget_epochs=2, max_budget_epochs=20)
    result = search(
        task, "autokd", evaluator=evaluator, space=NASLibSpace("nasbench201", search_kd=False), n_trials=20, seed=1
    )
    assert all(trial.succeeded for trial in result.trials)
    # and NASLib's own graph reads the same number
    found: Any = result.candidate
    plain = upstream("nasbench201")
    plain.set_spec(list(found.architecture))
    accuracy = plain.query(Metric.VAL_ACCURACY, "cifar10", epoch=19, dataset_api=api)
    assert evaluator.evaluate(proposal(found, 20)).val_accuracy == pytest.approx(accuracy / 100)


@needs_naslib
def test_nasbench101_s_file_answers_at_its_epochs(tmp_path: Path, capsys: Any) -> None:
    from naslib.search_spaces.core.query_metrics import Metric
    from naslib.search_spaces.nasbench101.conversions import convert_tuple_to_spec
    from naslib.utils import nb101_api

    from naslib_autokd.plugin.graphs import KDNASBench101
    from naslib_autokd.plugin.tabular import TabularEvaluator

    known, unknown = NASLibSpace("nasbench101").default_candidate(), draws("nasbench101", 1)[0]
    spec = nb101_api.ModelSpec(**convert_tuple_to_spec(known.architecture))

    def training(epochs: int, repeat: int) -> dict[str, float]:
        accuracy = 0.5 + epochs / 300 + repeat / 1000
        names = ("train_accuracy", "validation_accuracy", "test_accuracy")
        return {f"{at}_{name}": accuracy for at in ("halfway", "final") for name in names} | {
            "halfway_training_time": 1.0,
            "final_training_time": 2.0,
        }

    fixed = {"module_adjacency": spec.matrix, "module_operations": spec.ops, "trainable_parameters": 12345}
    computed = {epochs: [training(epochs, repeat) for repeat in range(3)] for epochs in (4, 12, 36, 108)}
    path = tmp_path / "nasbench.pkl"
    path.write_bytes(pickle.dumps({KDNASBench101.rules["nb101_data"]._hash_spec(spec): [fixed, computed]}))
    api = {"api": nb101_api, "nb101_data": nb101_api.NASBench(str(path))}

    evaluator = TabularEvaluator(api, "nasbench101")
    assert evaluator.budgets == (4, 12, 36, 108)
    state, numpy_state = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    trials = [evaluator.evaluate(proposal(known, 12, seed)) for seed in range(12)]
    assert random.getstate() == state
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert {round(trial.val_accuracy or 0, 6) for trial in trials} == {0.54, 0.541, 0.542}  # its three trainings
    assert trials[3].outcome() == evaluator.evaluate(proposal(known, 12, 3)).outcome()
    assert trials[0].n_params == 12345
    with pytest.raises(ValueError, match=r"no results after 20 epochs, only after 4, 12, 36, 108; set min_budget"):
        evaluator.evaluate(proposal(known, 20))
    with pytest.raises(ValueError, match=r"has no architecture \(0, 1"):
        evaluator.evaluate(proposal(unknown, 108))
    graph = graph_of("nasbench101")
    graph.set_spec(known)
    assert graph.query(Metric.VAL_ACCURACY, "cifar10", dataset_api=api) > 80


@needs_naslib
def test_nasbench301_s_surrogate_answers_for_the_end_of_training() -> None:
    from naslib_autokd.plugin.tabular import TabularEvaluator

    class Surrogate:
        def predict(self, config: Any, representation: str) -> float:
            assert representation == "genotype"
            return 90 + sum(op.startswith("sep") for op, _ in config.normal) / 10 + np.random.normal() / 100  # noqa: NPY002

    evaluator = TabularEvaluator({"nb301_model": [Surrogate(), Surrogate()]}, "nasbench301")
    default = NASLibSpace("nasbench301").default_candidate()
    first, second, other = (evaluator.evaluate(proposal(default, 100, seed)) for seed in (0, 0, 1))
    assert first.val_accuracy == pytest.approx(0.905, abs=1e-3)
    assert first.outcome() == second.outcome()
    assert first.val_accuracy != other.val_accuracy
    with pytest.raises(ValueError, match=r"only after 100"):
        evaluator.evaluate(proposal(default, 50))


@needs_naslib
def test_missing_benchmark_data_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from naslib_autokd.plugin.tabular import BenchmarkDataError, TabularEvaluator

    module = sys.modules["naslib.utils.get_dataset_api"]
    monkeypatch.setattr(module, "get_project_root", lambda: tmp_path)  # where NASLib looks for its files
    for space, file in (
        ("nasbench101", "nasbench_only108.pkl"),
        ("nasbench201", "nb201_cifar10_full_training.pickle"),
    ):
        with pytest.raises(BenchmarkDataError, match=rf"{file}.*trained with KD without it") as error:
            TabularEvaluator(space=space)
        assert str(tmp_path) in str(error.value)
    with pytest.raises(BenchmarkDataError, match=r"there is no benchmark of nasbench201 on 'cifar1'; did you mean"):
        TabularEvaluator({}, "nasbench201", "cifar1")
    with pytest.raises(BenchmarkDataError, match=r"there is no benchmark of the space 'simple_cell'"):
        TabularEvaluator({}, "simple_cell")
    with pytest.raises(BenchmarkDataError, match=r"a dict with 'nb101_data'; got a dict with 'nb201_data'"):
        TabularEvaluator({"nb201_data": {}}, "nasbench101")
    with pytest.raises(BenchmarkDataError, match=r"holds no results on cifar100, only cifar10-valid"):
        TabularEvaluator({"nb201_data": {"a": {"cifar10-valid": {}}}}, "nasbench201", "cifar100")
