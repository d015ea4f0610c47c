"""NASLib's NAS-Bench-201 and simple cell at other sizes: the same networks, fitted to a parameter limit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from naslib_autokd.distillation.training import seeded
from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.search_spaces.hnag import ParameterBudgetError
from naslib_autokd.tasks import get_task

pytestmark = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

SPACES = ("nasbench201", "simple_cell")
N_EDGES = {"nasbench201": 6, "simple_cell": 10}


@pytest.fixture(scope="module")
def networks() -> Any:
    from naslib_autokd.plugin import networks

    return networks


def draws(space: str, n: int) -> list[tuple[int, ...]]:
    rng = random.Random(space)
    return [tuple(rng.randrange(5) for _ in range(N_EDGES[space])) for _ in range(n)]


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("space", SPACES)
def test_architectures_fill_the_parameter_limit_and_no_more(networks: Any, space: str) -> None:
    uniform = [(op,) * N_EDGES[space] for op in range(5)]
    for task in (get_task("cluttered-digits"), get_task("cifar10", max_params=120_000, n_classes=7)):
        for architecture in [*uniform, *draws(space, 2)]:
            size = networks.fit_network(space, architecture, task)
            network = networks.discrete_network(space, architecture, task)
            assert count(network) == size.n_params(architecture) <= task.max_params
            wider = networks.size_at(space, task, size.channels[0] + 1)
            assert wider.n_params(architecture) > task.max_params
            assert size.n_params(architecture) > 0.85 * task.max_params
            assert networks.architecture_of(network, space) == architecture == tuple(network.get_hash())


@pytest.mark.parametrize("space", SPACES)
def test_networks_train(networks: Any, space: str) -> None:
    task = get_task("cluttered-digits")
    # without nones, which cut parameters off
    for architecture in (tuple((0, 2, 3, 4)[i % 4] for i in range(N_EDGES[space])), (3,) * N_EDGES[space]):
        network = networks.discrete_network(space, architecture, task)
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert norms
        assert all(norm.affine and norm.track_running_stats for norm in norms)
        logits = network(torch.randn(3, 1, 12, 12))
        assert logits.shape == (3, 10)
        logits.logsumexp(dim=1).sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
        assert sum(bool((p.grad != 0).any()) for p in network.parameters()) >= 0.8 * len(list(network.parameters()))
        network.eval()
        alone = network(torch.ones(1, 1, 12, 12))
        assert torch.allclose(alone, network(torch.ones(5, 1, 12, 12))[:1], atol=1e-5)  # statistics, not the batch's


@pytest.mark.parametrize("space", SPACES)
def test_weights_are_drawn_from_the_global_generator(networks: Any, space: str) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        with seeded(seed):
            return list(networks.discrete_network(space, draws(space, 1)[0], get_task("digits")).parameters())

    same = zip(weights(1), weights(1), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not all(torch.equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))


def test_at_naslibs_own_size_the_network_is_naslibs(networks: Any) -> None:
    from naslib.search_spaces import NasBench201SearchSpace

    task = get_task("cifar10", max_params=1_600_000)
    architecture = (3, 0, 2, 4, 1, 2)
    theirs = NasBench201SearchSpace(n_classes=10)
    theirs.set_spec(list(architecture))
    theirs.parse()
    ours = networks.discrete_network("nasbench201", architecture, task, width=16)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))
    supernet = networks.size_at("nasbench201", task, 16).graph()
    assert type(supernet).__mro__[1] is NasBench201SearchSpace
    assert [[str(op) for op in edges] for edges in op_lists(supernet)] == [
        [str(op) for op in edges] for edges in op_lists(NasBench201SearchSpace(n_classes=10))
    ]


def op_lists(graph: Any) -> list[Sequence[Any]]:
    return [edge.op for cell in graph._get_child_graphs() for _, _, edge in cell.edges.data()]


def test_naslibs_simple_cell_takes_no_images_and_ours_does(networks: Any) -> None:
    from naslib.search_spaces import SimpleCellSearchSpace

    def output(graph: Any) -> torch.Tensor:
        for cell in graph._get_child_graphs():
            for u, v in ((1, 3), (1, 4), (2, 3), (2, 4), (3, 4)):
                cell.edges[u, v].set("op", cell.edges[u, v].op[3])
        graph.parse()
        logits: torch.Tensor = graph(torch.randn(2, 3, 12, 12))
        return logits

    with pytest.raises(RuntimeError, match="to have 16 channels, but got 3 channels"):
        output(SimpleCellSearchSpace())
    assert output(networks.ResizedSimpleCell()).shape == (2, 10)


@pytest.mark.parametrize("space", SPACES)
def test_supernets_offer_all_operations_and_survive_naslibs_copies(networks: Any, space: str) -> None:
    task = get_task("cluttered-digits")
    size = networks.fit_supernet(space, task)
    graph = size.graph()
    scopes = {cell.scope for cell in graph._get_child_graphs()}
    assert scopes == set(graph.OPTIMIZER_SCOPE)
    mean = sum(size.n_params(architecture) for architecture in draws(space, 400)) / 400
    assert mean == pytest.approx(size.mean_params(), rel=0.03)
    assert 0.9 * task.max_params < size.mean_params() <= task.max_params
    assert size.most_params() == size.n_params([row.index(max(row)) for row in size.operation_params()])
    for twin in (graph.clone(), type(graph)()):
        twin.set_spec(list(draws(space, 1)[0]))
        twin.parse()
        twin.unparse()
        assert networks.architecture_of(twin, space) == draws(space, 1)[0]


def test_cells_per_stage_follow_from_the_limit(networks: Any) -> None:
    cifar = get_task("cifar10")
    by_limit = {limit: networks.cells_per_stage("nasbench201", replace(cifar, max_params=limit)) for limit in (
        24_000, 164_000, 166_000, 239_000, 312_000, 384_000, 386_000, 2_000_000)}  # fmt: skip
    assert list(by_limit.values()) == [1, 1, 2, 3, 4, 4, 5, 5]
    assert networks.cells_per_stage("simple_cell", cifar) == 1
    network = networks.discrete_network("nasbench201", (2,) * 6, replace(cifar, max_params=170_000))
    cells = [edge.op for _, _, edge in network.edges.data() if getattr(edge.op, "name", "") == "cell"]
    assert len(cells) == 6


def test_what_cannot_be_built_is_refused(networks: Any) -> None:
    task = get_task("cluttered-digits")
    with pytest.raises(ValueError, match="did you mean 'nasbench201'"):
        networks.fit_supernet("nasbench202", task)
    with pytest.raises(ValueError, match=r"multiple of 4; task .* has image_size=10: change it to 12"):
        networks.discrete_network("nasbench201", (0,) * 6, replace(task, image_size=10))
    networks.discrete_network("simple_cell", (0,) * 10, replace(task, image_size=10))
    with pytest.raises(ValueError, match="6 operation indices from 0 to 4"):
        networks.discrete_network("nasbench201", (0, 1, 2), task)
    with pytest.raises(ValueError, match="10 operation indices from 0 to 4"):
        networks.discrete_network("simple_cell", (0,) * 9 + (5,), task)
    with pytest.raises(ParameterBudgetError, match="raise max_params, or lower min_channels") as error:
        networks.discrete_network("nasbench201", (2,) * 6, replace(task, max_params=20_000))
    enough = replace(task, max_params=error.value.smallest)
    assert networks.fit_network("nasbench201", (2,) * 6, enough).channels == (4, 8, 16)
