"""What NASLib (Develop, 0b51bc18) asks of a search space, as tests that any space can be put to.

To run them on a space of your own, add one line to `SPACES`: a name, a function without arguments that makes the
space, and one that makes its ``dataset_api``. A space here

* samples, mutates and is queried without benchmark files (``QUERYABLE``),
* takes its performance from ``dataset_api.query(arch, metric, dataset, epoch=..., full_lc=...)``; `SmoothAPI` gives
  every architecture a score that only depends on ``arch.encode()``, so that you need not write one,
* answers ``parse()`` and ``forward`` with a network (leave `IMAGES` as they are, or give your own).

Run: ``NASLIB_HOME=... python -m pytest tests/contract/test_naslib_spaces.py``.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from naslib_autokd.plugin.loader import naslib_missing

pytestmark = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

DATASET = "toy"
IMAGES = (4, 1, 12, 12)
"""Shape of a batch that the parsed network takes."""


class SmoothAPI:
    """A ``dataset_api`` that computes: the nearer the encoding to 0.4, the better; longer trainings are better."""

    max_epochs = 9

    def __init__(self) -> None:
        self.queried: list[tuple[Any, str]] = []

    def query(self, arch: Any, metric: Any, dataset: str, epoch: int = -1, full_lc: bool = False) -> Any:
        from naslib.utils.encodings import EncodingType

        assert dataset == DATASET
        self.queried.append((arch.get_hash(), metric.name))
        code = np.asarray(arch.encode(encoding_type=EncodingType.ADJACENCY_ONE_HOT))
        curve = [90 - 40 * float(np.mean((code - 0.4) ** 2)) - 10 / (e + 1) for e in range(self.max_epochs)]
        if metric.name in ("RAW", "HP"):
            return {"curve": curve, "epochs": self.max_epochs}
        if metric.name == "TRAIN_TIME":
            return np.float32(2.0)  # what must not reach errors.json
        return curve if full_lc else np.float32(curve[-1 if epoch == -1 else epoch - 1])

    @property
    def evaluated(self) -> list[Any]:
        """Hashes of the architectures that optimizers evaluated or the trainer reported."""
        return [arch for arch, metric in self.queried if metric == "VAL_ACCURACY"]


def hnag(mode: str) -> Any:
    from naslib_autokd.plugin.hnag import HNAGSearchSpace

    return HNAGSearchSpace("hnag-small", mode)


SPACES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "hnag family": (lambda: hnag("family"), SmoothAPI),
    "hnag individual": (lambda: hnag("individual"), SmoothAPI),
}

PREDICTOR = {"predictor_type": "rf", "encoding_type": "adjacency_one_hot", "debug_predictor": False}
MUTATING = {"num_init": 10, "k": 10, "num_ensemble": 2, "num_arches_to_mutate": 4, "max_mutations": 1, **PREDICTOR}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "RandomSearch": {"fidelity": -1},
    "RegularizedEvolution": {"population_size": 8, "sample_size": 4},
    "LocalSearch": {"num_init": 5},
    "Bananas": {**MUTATING, "num_candidates": 20, "acq_fn_type": "its", "acq_fn_optimization": "mutation"},
    "Npenas": {**MUTATING, "num_candidates": 20},
    "BasePredictor": {**PREDICTOR, "num_ensemble": 2},
}
EPOCHS = 30


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    from naslib_autokd.plugin.loader import load_naslib

    load_naslib()


@pytest.fixture(params=SPACES)
def make(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return SPACES[request.param][0]


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Any:
    name = request.node.callspec.params["make"]
    return SPACES[name][1]()


def sampled(make: Callable[[], Any], seed: int = 0) -> Any:
    np.random.seed(seed)  # noqa: NPY002 - as NASLib's trainer seeds
    space = make()
    assert space.sample_random_architecture(dataset_api=None) is None, "sampling works in place"
    return space


# --- members


def test_attributes_that_optimizers_read(make: Callable[[], Any]) -> None:
    from naslib.search_spaces.core.graph import Graph

    space = make()
    assert isinstance(space, (Graph, torch.nn.Module))
    assert space.QUERYABLE is True
    assert space.OPTIMIZER_SCOPE is not None
    assert isinstance(space.space_name, str)
    assert isinstance(space.get_type(), str)
    assert space.instantiate_model is False, "otherwise Bananas and Npenas parse every architecture"
    assert space.labeled_archs is None
    type(space)()  # networkx rebuilds graphs without arguments


def test_sampling_is_in_place_takes_every_keyword_and_replaces(make: Callable[[], Any], api: Any) -> None:
    space = sampled(make)
    hashes = {space.get_hash()}
    for _ in range(30):
        space.sample_random_architecture(dataset_api=api, load_labeled=False)
        hashes.add(space.get_hash())
    assert len(hashes) >= 30
    assert not api.queried


def test_labeled_architectures_are_sampled_from_their_list(make: Callable[[], Any]) -> None:
    space = sampled(make)
    specs = []
    for _ in range(3):
        space.sample_random_architecture()
        specs.append(space.get_spec())
    space.labeled_archs = list(specs)
    clone = space.clone()
    drawn = []
    for _ in range(20):
        clone.sample_random_architecture(dataset_api=None, load_labeled=True)
        drawn.append(clone.get_spec())
    assert all(spec in specs for spec in drawn)
    assert all(spec in drawn for spec in specs)


def test_mutation_changes_the_child_and_not_the_parent(make: Callable[[], Any], api: Any) -> None:
    parent = sampled(make)
    before = parent.get_spec(), parent.get_hash()
    children = set()
    for _ in range(30):
        child = parent.clone()
        assert child.mutate(parent, dataset_api=api) is None
        assert child.get_hash() != parent.get_hash()
        children.add(child.get_hash())
    assert (parent.get_spec(), parent.get_hash()) == before
    assert len(children) >= 10
    fresh = make()
    fresh.mutate(parent)  # a space that held nothing


def test_long_chains_of_mutations_stay_legal(make: Callable[[], Any], api: Any) -> None:
    from naslib.search_spaces.core.query_metrics import Metric

    arch = sampled(make)
    length = len(arch.encode())
    for _ in range(100):
        child = arch.clone()
        child.mutate(arch)
        arch = child
        assert len(arch.encode()) == length
        assert math.isfinite(arch.query(Metric.VAL_ACCURACY, DATASET, dataset_api=api))
        other = make()
        other.set_spec(arch.get_spec())
        assert other.get_hash() == arch.get_hash()


def test_neighbours_are_wrapped_different_and_shuffled(make: Callable[[], Any], api: Any) -> None:
    space = sampled(make)
    np.random.seed(3)  # noqa: NPY002
    found = space.get_nbhd(dataset_api=api)
    assert isinstance(found, list)  # LocalSearch pops from its end
    assert all(isinstance(neighbour, torch.nn.Module) for neighbour in found)
    hashes = [neighbour.arch.get_hash() for neighbour in found]
    assert len(set(hashes)) == len(hashes) >= 10
    assert space.get_hash() not in hashes
    np.random.seed(3)  # noqa: NPY002
    assert [neighbour.arch.get_hash() for neighbour in space.get_nbhd()] == hashes
    assert [neighbour.arch.get_hash() for neighbour in space.get_nbhd()] != hashes
    found.pop().arch.get_nbhd()


def test_hashes_and_specs_describe_the_architecture(make: Callable[[], Any]) -> None:
    space = sampled(make)
    key = space.get_hash()
    assert isinstance(key, tuple)
    assert {key: 1}[space.clone().get_hash()] == 1
    spec = json.loads(json.dumps(space.get_spec(), allow_nan=False))
    other = sampled(make, seed=1)
    assert other.get_hash() != key
    other.set_spec(spec, dataset_api=None)  # replaces what it held
    assert other.get_hash() == key
    assert other.get_spec() == space.get_spec() == spec
    other.sample_random_architecture()
    assert other.get_hash() != key
    assert space.get_hash() == key


def test_a_clone_is_independent(make: Callable[[], Any]) -> None:
    space = sampled(make)
    key = space.get_hash()
    for clone in (space.clone(), copy.deepcopy(space), space.copy(), space.unparse()):
        assert type(clone) is type(space)
        assert clone.get_hash() == key
        assert len(clone.get_nbhd()) > 0
        clone.sample_random_architecture()
        assert clone.get_hash() != key
        assert space.get_hash() == key
        assert clone.space_name == space.space_name


def test_equality_is_that_of_architectures(make: Callable[[], Any]) -> None:
    space, other = sampled(make), sampled(make, seed=1)
    twin = make()
    twin.set_spec(space.get_spec())
    assert space == twin == space.clone()
    assert hash(space) == hash(twin)
    assert space != other
    assert space not in [other, None, "hnag"]
    assert len({space, twin, other}) == 2
    assert make() == make()
    assert make() != space
    assert bool(make())
    assert bool(space), "Trainer.evaluate(best_arch=...) ignores what is false"


# --- performance


def test_answers_are_python_floats(make: Callable[[], Any], api: Any) -> None:
    from naslib.search_spaces.core.query_metrics import Metric

    space = sampled(make)
    for metric in (Metric.TRAIN_ACCURACY, Metric.VAL_ACCURACY, Metric.TEST_ACCURACY, Metric.TRAIN_TIME):
        value = space.query(metric, DATASET, dataset_api=api)
        assert type(value) is float
        json.dumps(value)
    assert space.query(Metric.RAW, DATASET, dataset_api=api) is not None
    assert isinstance(space.query(Metric.HP, DATASET, dataset_api=api), dict)
    curve = space.query(Metric.VAL_ACCURACY, DATASET, full_lc=True, dataset_api=api)
    assert isinstance(curve, list)
    assert all(type(value) is float for value in curve)
    short = space.query(metric=Metric.VAL_ACCURACY, dataset=DATASET, path=None, epoch=2, dataset_api=api)
    assert short == pytest.approx(curve[1])
    assert short < space.query(Metric.VAL_ACCURACY, DATASET, epoch=-1, dataset_api=api)


def test_what_cannot_be_queried_is_explained(make: Callable[[], Any], api: Any) -> None:
    from naslib.search_spaces.core.query_metrics import Metric

    space = sampled(make)
    with pytest.raises(ValueError, match="dataset_api"):
        space.query(Metric.VAL_ACCURACY, DATASET)
    with pytest.raises(ValueError, match="dataset_api"):
        space.query(Metric.VAL_ACCURACY, DATASET, dataset_api={"nb201_data": {}})
    with pytest.raises(ValueError, match="sample"):
        make().query(Metric.VAL_ACCURACY, DATASET, dataset_api=api)
    for call in ("get_hash", "get_spec", "encode", "get_nbhd", "parse"):
        with pytest.raises(ValueError, match="sample"):
            getattr(make(), call)()
    with pytest.raises(ValueError, match="sample"):
        make().mutate(make())


def test_encodings_are_vectors_of_one_length(make: Callable[[], Any]) -> None:
    from naslib.utils.encodings import EncodingType

    space = sampled(make)
    for encoding in (EncodingType.ADJACENCY_ONE_HOT, EncodingType.PATH):  # what the predictors for vectors ask for
        codes = []
        for _ in range(20):
            space.sample_random_architecture()
            code = np.asarray(space.encode(encoding_type=encoding))
            assert np.array_equal(code, space.clone().encode(encoding_type=encoding))
            codes.append(code)
        stacked = np.stack(codes)
        assert stacked.ndim == 2
        assert np.isfinite(stacked).all()
        assert stacked.min() >= 0
        assert stacked.max() <= 1
        assert len(np.unique(stacked, axis=0)) == 20


def test_draws_follow_numpys_seed_alone(make: Callable[[], Any]) -> None:
    def draw(seed: int, noise: int) -> list[Any]:
        random.seed(noise)
        torch.manual_seed(noise)
        space = sampled(make, seed)
        child = make()
        child.mutate(space)
        return [space.get_hash(), child.get_hash(), *(neighbour.arch.get_hash() for neighbour in child.get_nbhd())]

    assert draw(5, 1) == draw(5, 2)
    assert draw(5, 1) != draw(6, 1)


# --- the network


def test_the_parsed_network_trains(make: Callable[[], Any]) -> None:
    space = sampled(make)
    assert not list(space.parameters())
    space.parse()
    parameters = list(space.parameters())
    assert sum(p.numel() for p in parameters) > 0
    images = torch.randn(IMAGES, generator=torch.Generator().manual_seed(0))
    logits = space(images)
    assert logits.shape == (IMAGES[0], space.num_classes)
    space.get_loss_fn()(logits, torch.zeros(IMAGES[0], dtype=torch.long)).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in parameters)

    space.eval()
    before = space(images)
    assert torch.equal(space.clone()(images), before)
    twin = make()
    twin.set_spec(space.get_spec())
    twin.parse()
    twin.load_state_dict(space.state_dict())
    assert torch.equal(twin.eval()(images), before)
    space.update_edges(update_func=lambda edge: None, scope=space.OPTIMIZER_SCOPE, private_edge_data=True)
    torch.manual_seed(0)
    space.reset_weights(inplace=True)
    assert not torch.equal(space(images), before)
    space.sample_random_architecture()
    assert not list(space.parameters()), "another architecture has another network"


# --- NASLib's optimizers under its Trainer


def search(optimizer: str, space: Any, api: Any, folder: Path, seed: int = 0, epochs: int = EPOCHS) -> tuple[Any, Any]:
    """NASLib's own trainer and optimizer, from a config to ``errors.json``; returns (trainer, what the file holds)."""
    from fvcore.common.config import CfgNode
    from naslib import optimizers
    from naslib.defaults.trainer import Trainer

    from naslib_autokd.plugin.optimizers import BasePredictor

    (folder / "search").mkdir(parents=True)
    settings = {"epochs": epochs, "seed": seed, "checkpoint_freq": 10, **OPTIMIZERS[optimizer]}
    config = CfgNode({"save": str(folder), "dataset": DATASET, "search": settings})
    cls = BasePredictor if optimizer == "BasePredictor" else getattr(optimizers, optimizer)
    chosen = cls(config)
    chosen.adapt_search_space(space, dataset_api=api)
    trainer = Trainer(chosen, config, lightweight_output=True)
    trainer.search(report_incumbent=True)
    return trainer, json.loads((folder / "errors.json").read_text())[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_search_of_30_epochs(make: Callable[[], Any], api: Any, optimizer: str, tmp_path: Path) -> None:
    space = make()
    trainer, written = search(optimizer, space, api, tmp_path)
    for name in ("train_acc", "valid_acc", "test_acc", "train_time"):
        assert len(written[name]) == EPOCHS
        assert np.isfinite(written[name]).all()
    curve = written["valid_acc"]
    assert curve == sorted(curve), "the incumbent never gets worse"
    assert curve[-1] > curve[0]
    best = trainer.optimizer.get_final_architecture()
    assert best.query(trainer.optimizer.performance_metric, DATASET, dataset_api=api) == curve[-1]
    final = trainer.evaluate(dataset_api=api)
    assert type(final) is float
    assert trainer.evaluate(best_arch=best, dataset_api=api) == final
    with pytest.raises(ValueError, match="sample"):
        space.get_hash()  # the space itself was cloned, not changed
    assert len(set(api.evaluated)) >= 15


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_seed_repeats_the_trajectory(make: Callable[[], Any], optimizer: str, tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        random.seed(name)  # NASLib's trainer does not seed it
        api = SmoothAPI()
        _, written = search(optimizer, make(), api, tmp_path / name, seed=seed, epochs=14)
        runs.append((api.queried, written["valid_acc"]))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
