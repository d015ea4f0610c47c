"""Details of the optimizer adapters: what they share with NASLib's own runs, what they correct, and how they fail."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.records import Proposal, Trial
from naslib_autokd.search_spaces.hnag import HNAGSpace

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from naslib_toy import ToyAPI, ToyGraph, ToySpace, accuracy, answer

pytestmark = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

SMALL = {"num_init": 6, "k": 3, "num_candidates": 20, "num_ensemble": 2, "predictor_type": "lgb"}
UPSTREAM = {
    "random_search": "RandomSearch",
    "regularized_evolution": "RegularizedEvolution",
    "local_search": "LocalSearch",
    "bananas": "Bananas",
    "npenas": "Npenas",
}


@pytest.fixture(scope="module")
def plugin() -> Any:
    return importlib.import_module("naslib_autokd.plugin.optimizers")


def build(plugin: Any, kind: str, seed: int = 0, space: Any = None, **options: Any) -> Any:
    return plugin.NASLibOptimizer(kind, space or ToySpace(), seed=seed, max_budget_epochs=9, **options)


def run(optimizer: Any, n: int, respond: Any = answer) -> tuple[list[Proposal], list[Trial]]:
    proposals, trials = [], []
    for _ in range(n):
        proposals.append(optimizer.ask())
        trials.append(respond(proposals[-1]))
        optimizer.tell(trials[-1])
    return proposals, trials


def naslib_config(out: Path, dataset: str = "toy", epochs: int = 30, seed: int = 0, **search: Any) -> Any:
    from fvcore.common.config import CfgNode

    (out / "search").mkdir(parents=True, exist_ok=True)
    search = {
        **{"epochs": epochs, "seed": seed, "checkpoint_freq": 10, "fidelity": -1, "population_size": 30},
        **{"sample_size": 10, "num_init": 10, "k": 10, "num_ensemble": 3, "predictor_type": "lgb"},
        **{"acq_fn_type": "its", "acq_fn_optimization": "mutation", "encoding_type": "adjacency_one_hot"},
        **{"num_arches_to_mutate": 5, "max_mutations": 1, "num_candidates": 200, "debug_predictor": False},
        **search,
    }
    return CfgNode({"save": str(out), "dataset": dataset, "seed": seed, "search": search})


def in_naslibs_trainer(out: Path, kind: str, graph: Any, api: Any, **settings: Any) -> Any:
    """NASLib's own optimizer in NASLib's own Trainer, seeded as its runners do."""
    optimizers, trainer = (
        importlib.import_module("naslib.optimizers"),
        importlib.import_module("naslib.defaults.trainer"),
    )
    config = naslib_config(out, **settings)
    importlib.import_module("naslib.utils").set_seed(config.seed)
    optimizer = getattr(optimizers, UPSTREAM[kind])(config)
    optimizer.adapt_search_space(graph, dataset_api=api)
    trainer.Trainer(optimizer, config).search()
    return optimizer


class HashAPI:
    """Answers for HNAG from the candidate's digest; records what is asked for the objective."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __deepcopy__(self, memo: Any) -> HashAPI:
        return self

    def query(self, arch: Any, metric: Any, dataset: Any = None, epoch: int = -1, full_lc: bool = False) -> float:
        return hash_accuracy(arch.candidate)


def hash_accuracy(candidate: Any) -> float:
    return int(candidate.digest[:6], 16) / 16**6 * 90.0


def hash_answer(proposal: Proposal) -> Trial:
    value = hash_accuracy(proposal.candidate) / 100.0
    candidate = proposal.candidate
    return Trial(
        proposal.number,
        candidate.to_dict(),
        candidate.digest,
        proposal.budget_epochs,
        proposal.seed,
        cost=1.0 - value,
        val_accuracy=value,
        student_epochs=float(proposal.budget_epochs),
    )


class HashEvaluator:
    """For our runner; fails or stops where it is told to."""

    def __init__(self, stop_after: int | None = None, failing: tuple[int, ...] = ()) -> None:
        self.n, self.stop_after, self.failing = 0, stop_after, failing

    def evaluate(self, proposal: Proposal) -> Trial:
        if self.n == self.stop_after:
            raise KeyboardInterrupt
        self.n += 1
        trial = hash_answer(proposal)
        if proposal.number in self.failing:
            values = {
                **trial.to_dict(),
                "status": "diverged",
                "cost": 1.0,
                "val_accuracy": None,
                "message": "loss is nan",
            }
            return Trial.from_dict(values)
        return trial


# --- the same search as NASLib's own


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("random_search", {}),
        ("regularized_evolution", {"population_size": 8, "sample_size": 4}),
        ("local_search", {"num_init": 4}),
        ("bananas", SMALL),
        ("npenas", SMALL),
    ],
)
def test_the_adapter_evaluates_what_naslibs_trainer_evaluates(
    plugin: Any, kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    api = ToyAPI()
    in_naslibs_trainer(tmp_path, kind, ToyGraph(), api, epochs=40, seed=3, **options)
    theirs = [point for point, _ in api.evaluated[::2]]  # after each, the incumbent's statistics ask again
    published = {"as_published": True} if kind in ("bananas", "npenas") else {}
    ours, _ = run(build(plugin, kind, seed=3, **options, **published), 40)
    assert [tuple(proposal.candidate.to_dict().values()) for proposal in ours] == theirs


@pytest.mark.parametrize("mode", ["family", "individual"])
@pytest.mark.parametrize("kind", ["random_search", "regularized_evolution", "local_search"])
def test_it_does_so_on_hnag(plugin: Any, kind: str, mode: str, tmp_path: Path) -> None:
    asked: list[str] = []

    class API(HashAPI):
        def query(self, arch: Any, metric: Any, *args: Any, **kwargs: Any) -> float:
            if metric.name == "VAL_ACCURACY":
                asked.append(arch.candidate.digest)
            return super().query(arch, metric)

    space = HNAGSpace("hnag-small", mode=mode)
    options = {"population_size": 6, "sample_size": 3} if kind == "regularized_evolution" else {}
    options = {"num_init": 3} if kind == "local_search" else options
    in_naslibs_trainer(tmp_path, kind, plugin.graph_of(space), API(), epochs=20, **options)
    ours, _ = run(build(plugin, kind, space=space, **options), 20, hash_answer)
    assert [p.candidate.digest for p in ours] == asked[::2]


def test_naslibs_code_runs_quietly_on_one_thread(plugin: Any, capsys: Any) -> None:
    """Sums of several threads, and so the architectures, could depend on their number."""
    from threadpoolctl import threadpool_info

    seen = set()

    class Loud(ToyGraph):
        def clone(self) -> Any:
            clone = Loud()
            clone.point = self.point
            return clone

        def encode(self, encoding_type: Any = None) -> list[float]:
            print("loud")
            print("loud", file=sys.stderr)
            warnings.warn("loud", stacklevel=1)
            seen.add((torch.get_num_threads(), max(pool["num_threads"] for pool in threadpool_info())))
            return super().encode(encoding_type)

    class Space(ToySpace):
        def graph(self) -> Any:
            return Loud()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(build(plugin, "bananas", space=Space(), **SMALL), 7)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {(1, 1)}
    assert tuple(capsys.readouterr()) == ("", "")


# --- corrections


def test_ranked_candidates_of_random_sampling_are_not_evaluated(plugin: Any, tmp_path: Path) -> None:
    options = {**SMALL, "acq_fn_optimization": "random_sampling"}
    api = ToyAPI()
    in_naslibs_trainer(tmp_path, "bananas", ToyGraph(), api, epochs=12, **options)
    assert len(api.evaluated) == 2 * 12 + 2 * 20  # NASLib evaluates 20 candidates at each of two fits
    optimizer = build(plugin, "bananas", **options)
    _, trials = run(optimizer, 12)
    assert len({trial.candidate_digest for trial in trials}) == 12


@pytest.mark.parametrize("kind", ["bananas", "npenas"])
@pytest.mark.parametrize(("as_published", "furthest"), [(False, 1), (True, 3)])
def test_mutations_start_from_their_parent(plugin: Any, kind: str, as_published: bool, furthest: int) -> None:
    options = {**SMALL, "num_arches_to_mutate": 1, "as_published": as_published}
    optimizer = build(plugin, kind, **options)
    run(optimizer, 6)
    upstream = optimizer._optimizer
    parent = max(upstream.train_data, key=lambda m: m.accuracy).arch.get_hash()
    with optimizer._streams.inside():
        candidates = upstream._get_new_candidates(ytrain=upstream._get_train()[1])
    distances = [sum(a != b for a, b in zip(c.arch.get_hash(), parent, strict=True)) for c in candidates]
    assert len(candidates) == 20
    assert max(distances) == furthest


@pytest.mark.parametrize("acquisition", ["its", "ucb", "ei", "exploit_only"])
def test_every_acquisition_function_works(plugin: Any, acquisition: str) -> None:
    run(build(plugin, "bananas", **{**SMALL, "predictor_type": "rf"}, acq_fn_type=acquisition), 7)


def test_base_predictor_goes_on_after_its_schedule(plugin: Any) -> None:
    optimizer = build(plugin, "base_predictor", total_budget_epochs=9 * 20.0, predictor_type="lgb")
    upstream = optimizer._optimizer
    assert (upstream.epochs, upstream.k, upstream.num_init) == (20, 2, 18)
    proposals, trials = run(optimizer, 26)
    assert len({proposal.candidate for proposal in proposals}) == 26
    assert [len(upstream.train_data), len(upstream.choices)] == [18 + 6, 2]
    chosen = [trial.val_accuracy for trial in trials[18:]]
    assert np.mean(chosen) > np.mean([trial.val_accuracy for trial in trials[:18]])


def test_nothing_is_kept_that_records_have(plugin: Any) -> None:
    optimizer = build(plugin, "random_search")
    run(optimizer, 120)
    assert len(optimizer._optimizer.history) == 0
    assert optimizer._optimizer.sampled_archs == []
    assert optimizer._pending == {}


# --- asks before tells, and strangers


def test_an_untold_trial_counts_as_the_worst_that_was_told(plugin: Any) -> None:
    optimizer = build(plugin, "regularized_evolution", population_size=4, sample_size=2)
    _, trials = run(optimizer, 3)
    pending = optimizer.ask()
    population = optimizer._optimizer.population
    worst = 100.0 * min(trial.val_accuracy for trial in trials)
    assert population[-1].accuracy == pytest.approx(worst)
    optimizer.tell(answer(pending))
    assert population[-1].accuracy == pytest.approx(accuracy(pending.candidate.to_dict()))


def test_local_search_learns_its_best_architecture_late(plugin: Any) -> None:
    optimizer = build(plugin, "local_search", num_init=4)
    batch = [optimizer.ask() for _ in range(4)]
    for proposal in reversed(batch):
        optimizer.tell(answer(proposal))
    best = max(batch, key=lambda p: accuracy(p.candidate.to_dict()))
    assert optimizer._optimizer.best_arch.arch.candidate == best.candidate
    neighbour = optimizer.ask().candidate  # of the best of the first four
    assert (
        sum(a != b for a, b in zip(neighbour.to_dict().values(), best.candidate.to_dict().values(), strict=True)) <= 1
    )


def test_local_search_whose_first_accuracy_was_the_worst(plugin: Any) -> None:
    """What was assumed of a pending best was too good: the others count again."""
    optimizer = build(plugin, "local_search", num_init=3)
    first, second = optimizer.ask(), optimizer.ask()
    optimizer.tell(answer(second))
    optimizer.tell(answer(first, "error"))
    assert optimizer._optimizer.best_arch.arch.candidate == second.candidate


def test_local_search_forgets_nothing_while_its_best_is_only_assumed(plugin: Any) -> None:
    optimizer = build(plugin, "local_search", num_init=3)
    run(optimizer, 1)  # the worst so far, assumed of what is in flight
    upstream = optimizer._optimizer
    upstream.climb.clear()  # as a restart does
    centre, neighbour = optimizer.ask(), optimizer.ask()
    told = answer(neighbour)
    optimizer.tell(Trial.from_dict({**told.to_dict(), "cost": 0.99}))
    assert upstream.best_arch.arch.candidate == centre.candidate
    optimizer.tell(answer(centre, "error"))
    assert upstream.best_arch.arch.candidate == neighbour.candidate


@pytest.mark.parametrize("kind", ["regularized_evolution", "local_search", "bananas", "npenas", "base_predictor"])
def test_strangers_are_learned_from_at_the_full_budget_only(plugin: Any, kind: str) -> None:
    optimizer = build(plugin, kind)
    star = ToySpace().candidate({"x": 0.3, "y": 0.7, "z": 0.5})
    for budget in (3, 9):
        optimizer.tell(Trial(-1, star.to_dict(), star.digest, budget, 5, cost=0.01))
    upstream = optimizer._optimizer
    kept = {"regularized_evolution": "population", "local_search": "climb"}.get(kind, "train_data")
    assert [model.accuracy for model in getattr(upstream, kept)] == [99.0]
    assert optimizer.incumbent() == star


# --- in our runner


def searched(
    out: Path, evaluator: Any, optimizer: str = "naslib-regularized_evolution", n: int = 16, **options: Any
) -> Any:
    from naslib_autokd.runners.search import search

    return search(
        "cluttered-digits",
        optimizer,
        evaluator=evaluator,
        n_trials=n,
        seed=2,
        out=out,
        space="hnag-small",
        options=options,
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("naslib-regularized_evolution", {"population_size": 5, "sample_size": 3}),
        ("naslib-local_search", {"num_init": 3}),
        ("naslib-bananas", SMALL),
        ("naslib-base_predictor", {"predictor_type": "lgb"}),
    ],
)
def test_our_runner_continues_a_search_that_was_stopped(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    failing = (4, 7)
    whole = searched(tmp_path / "whole", HashEvaluator(failing=failing), name, **options)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "stopped", HashEvaluator(stop_after=9, failing=failing), name, **options)
    evaluator = HashEvaluator(failing=failing)
    continued = searched(tmp_path / "stopped", evaluator, name, **options)
    assert [trial.outcome() for trial in continued.trials] == [trial.outcome() for trial in whole.trials]
    assert evaluator.n == 16 - 9
    assert continued.candidate == whole.candidate


# --- errors


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("regularised_evolution", {}, "did you mean 'regularized_evolution'"),
        ("regularized_evolution", {"populaton_size": 5}, "did you mean 'population_size'"),
        ("random_search", {"k": 5}, "has no options, got 'k'"),
        ("local_search", {"num_init": 0}, "num_init must be a whole number of at least 1, got 0"),
        ("local_search", {"num_init": 2.5}, "num_init must be a whole number"),
        ("bananas", {"predictor_type": "xgboost"}, "unknown predictor_type 'xgboost'.*'xgb'"),
        ("bananas", {"acq_fn_type": "eii"}, "did you mean 'ei'"),
        ("bananas", {"acq_fn_optimization": "mutations"}, "did you mean 'mutation'"),
        ("bananas", {"acq_fn_type": "ei", "predictor_type": "xgb"}, "needs an ensemble whose members differ"),
        ("npenas", {"num_candidates": 4}, "num_candidates must be at least num_arches_to_mutate"),
        ("npenas", {"acq_fn_type": "ei"}, "unknown option of NASLib's npenas 'acq_fn_type'"),
        ("base_predictor", {"num_ensemble": 1}, "num_ensemble must be at least 2"),
        ("base_predictor", {"total_budget_epochs": 3.0}, "does not pay one full training"),
    ],
)
def test_bad_options_are_refused_before_any_work(plugin: Any, kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(plugin, kind, **options)


def test_a_space_without_a_graph_is_refused(plugin: Any) -> None:
    class Bare:
        name = "bare"

    with pytest.raises(ValueError, match="the space 'bare' has no NASLib graph"):
        build(plugin, "random_search", space=Bare())


def test_an_error_of_naslibs_code_is_ours_and_leaves_no_trace(plugin: Any, capsys: Any) -> None:
    optimizer = build(plugin, "bananas", **{**SMALL, "predictor_type": "gcn"})  # a predictor for NASLib's own spaces
    run(optimizer, 6)
    np.random.seed(5)  # noqa: NPY002
    threads, stdout = torch.get_num_threads(), sys.stdout
    with pytest.raises(RuntimeError, match="NASLib's bananas failed before evaluation 6"):
        optimizer.ask()
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert drawn == np.random.random()  # noqa: NPY002
    assert (torch.get_num_threads(), sys.stdout) == (threads, stdout)


# --- ours as NASLib's


def adapted(plugin: Any, config: Any, name: Any = "autokd", graph: Any = None, api: Any = None, **options: Any) -> Any:
    optimizer = plugin.AskTellOptimizer(config, name, **options)
    optimizer.adapt_search_space(graph or ToyGraph(), dataset_api=api or ToyAPI())
    return optimizer


def test_autokd_reads_its_options_from_the_config(plugin: Any, tmp_path: Path) -> None:
    config = naslib_config(tmp_path, fidelity=9, eta=2, n_initial=4, choose_by="observed", seed=11)
    optimizer = plugin.AutoKD(config, random_share=0.5)
    optimizer.adapt_search_space(ToyGraph(), dataset_api=ToyAPI(27))
    found = optimizer.optimizer
    assert (found.eta, found.n_initial, found.choose_by, found.random_share) == (2, 4, "observed", 0.5)
    assert (found.seed, found.max_budget_epochs) == (11, 9)
    word = plugin.AutoKD(naslib_config(tmp_path, fidelity="full"))
    word.adapt_search_space(ToyGraph(), dataset_api=ToyAPI(27))
    assert (word.optimizer.fidelity, word.optimizer.ladder) == ("full", (27,))


@pytest.mark.parametrize("name", ["autokd", "hyperband", "random_search"])
def test_an_epoch_can_be_the_cost_of_a_full_training(plugin: Any, tmp_path: Path, name: str) -> None:
    """NASLib's epochs count evaluations, and those of ours are mostly short."""
    epochs, full = 12, 9
    counted = adapted(plugin, naslib_config(tmp_path, fidelity=full), name)
    optimizer = adapted(plugin, naslib_config(tmp_path, fidelity=full, equal_cost=True, epochs=epochs), name)
    for epoch in range(epochs):
        counted.new_epoch(epoch)
        optimizer.new_epoch(epoch)
        spent = sum(trial.student_epochs for trial in optimizer.trials)
        assert epoch * full < spent + full
        assert spent <= (epoch + 1) * full
    assert len(counted.trials) == epochs
    if name == "random_search":
        assert spent == sum(trial.student_epochs for trial in counted.trials) == epochs * full
    else:
        assert spent > (epochs - 1) * full > sum(trial.student_epochs for trial in counted.trials)
    # continued from a checkpoint in the middle, it goes on as if it had never stopped
    again = adapted(plugin, naslib_config(tmp_path, fidelity=full, equal_cost=True, epochs=epochs), name)
    half = adapted(plugin, naslib_config(tmp_path, fidelity=full, equal_cost=True, epochs=epochs), name)
    for epoch in range(epochs // 2):
        half.new_epoch(epoch)
    again.get_checkpointables()["model"].load_state_dict(half.get_checkpointables()["model"].state_dict())
    for epoch in range(epochs // 2, epochs):
        again.new_epoch(epoch)
    assert [t.candidate_digest for t in again.trials] == [t.candidate_digest for t in optimizer.trials]


def test_an_epoch_of_refusals_ends(plugin: Any, tmp_path: Path) -> None:
    class Nothing(ToyAPI):
        def evaluate_proposal(self, proposal: Any) -> Any:
            return dataclasses.replace(answer(proposal, "error"), student_epochs=0.0)

    optimizer = adapted(plugin, naslib_config(tmp_path, fidelity=9, equal_cost=True), "random_search", api=Nothing())
    for epoch in range(3):
        optimizer.new_epoch(epoch)
    assert len(optimizer.trials) == 3 * 9 - 8  # a refusal counts as one epoch, and a full training must be left


def test_what_is_wrong_with_a_config_is_said(plugin: Any, tmp_path: Path) -> None:
    config = naslib_config(tmp_path)
    del config.search["epochs"]
    with pytest.raises(ValueError, match=r"the config has no search\.epochs"):
        plugin.AutoKD(config)
    del config["dataset"]
    with pytest.raises(ValueError, match="the config has no dataset"):
        plugin.AutoKD(config)
    config = naslib_config(tmp_path)
    with pytest.raises(ValueError, match="did you mean 'autokd'"):
        plugin.AskTellOptimizer(config, "autokdd")
    with pytest.raises(ValueError, match=r"optimizer 'autokd'.*etta"):
        adapted(plugin, config, etta=3)
    with pytest.raises(ValueError, match="did you mean 'hyperband'"):
        adapted(plugin, naslib_config(tmp_path), fidelity="hyperbanda")

    class Closed(ToyGraph):
        QUERYABLE = False

    with pytest.raises(ValueError, match="toy cannot be queried"):
        adapted(plugin, config, graph=Closed())

    class Unknown(ToyGraph):
        space = None

    with pytest.raises(ValueError, match="no search space that our optimizers know"):
        adapted(plugin, config, graph=Unknown())


def test_failures_are_told_as_failures(plugin: Any, tmp_path: Path) -> None:
    class Sometimes(ToyAPI):
        def query(self, arch: Any, metric: Any, *args: Any, **kwargs: Any) -> float:
            value = super().query(arch, metric, *args, **kwargs)
            bad = metric.name == "VAL_ACCURACY" and len(self.evaluated) % 2 == 1
            return math.nan if bad else value

    optimizer = adapted(plugin, naslib_config(tmp_path), "random_search", api=Sometimes())
    optimizer.new_epoch(0)
    assert optimizer.train_statistics() == (0.0, 0.0, -1.0, 0.0)
    with pytest.raises(RuntimeError, match=r"none of 1 trials succeeded.*answered is nan"):
        optimizer.get_final_architecture()
    optimizer.new_epoch(1)
    assert [trial.status for trial in optimizer.trials] == ["error", "success"]
    assert optimizer.train_statistics(report_incumbent=False)[1] > 0
    optimizer.new_epoch(2)
    assert optimizer.train_statistics(report_incumbent=False)[1] == 0.0
    assert all(type(value) is float for value in optimizer.train_statistics())


def test_statistics_cost_no_training(plugin: Any, tmp_path: Path) -> None:
    optimizer = adapted(plugin, naslib_config(tmp_path))
    for epoch in range(12):
        optimizer.new_epoch(epoch)
        before = len(optimizer.dataset_api.evaluated)
        optimizer.train_statistics()
        assert len(optimizer.dataset_api.evaluated) == before == epoch + 1


def test_the_final_architecture_is_the_optimizers_incumbent_not_the_luckiest(plugin: Any, tmp_path: Path) -> None:
    class Noisy(ToyAPI):
        def query(self, arch: Any, metric: Any, *args: Any, **kwargs: Any) -> float:
            luck = (hash(arch.get_hash()) % 1000) / 50.0  # a hash of numbers does not depend on PYTHONHASHSEED
            return super().query(arch, metric, *args, **kwargs) - luck

    optimizer = adapted(plugin, naslib_config(tmp_path, fidelity=9), api=Noisy(), fidelity="full")
    lucky = []
    for epoch in range(20):
        optimizer.new_epoch(epoch)
        incumbent = optimizer.optimizer.incumbent()
        assert optimizer.get_final_architecture().candidate == incumbent
        best = min(optimizer.trials, key=lambda trial: trial.cost)
        lucky.append(best.candidate_digest == incumbent.digest)
        own = next(trial for trial in optimizer.trials if trial.candidate_digest == incumbent.digest)
        assert optimizer.train_statistics()[1] == pytest.approx(100.0 * own.val_accuracy)
    assert not all(lucky)


def test_a_checkpoint_is_taken_by_a_fresh_optimizer_only_if_it_is_the_same_search(plugin: Any, tmp_path: Path) -> None:
    from naslib import utils

    config = naslib_config(tmp_path)
    first = adapted(plugin, config)
    assert first.get_checkpointables()["model"].state_dict() == {}
    for epoch in range(8):
        first.new_epoch(epoch)
    saver = utils.Checkpointer(first.get_checkpointables()["model"], save_dir=str(tmp_path))
    saver.save("model", iteration=7)
    path = str(tmp_path / "model.pth")

    again = adapted(plugin, config)
    utils.Checkpointer(again.get_checkpointables()["model"], save_dir=str(tmp_path / "else")).load(path)
    assert again.trials == first.trials
    assert again.get_final_architecture().get_hash() == first.get_final_architecture().get_hash()
    first.new_epoch(8)
    again.new_epoch(8)
    assert again.trials == first.trials
    saver.load(path)  # as Trainer.evaluate does after a search: nothing is lost
    assert len(first.trials) == 9

    other = adapted(plugin, naslib_config(tmp_path, seed=1))
    utils.Checkpointer(other.get_checkpointables()["model"], save_dir=str(tmp_path / "else")).load(path)
    with pytest.raises(ValueError, match=r"proposal 0|checkpoint's 8 trials"):
        other.new_epoch(8)


@pytest.mark.parametrize("failing", [(), (3, 5, 6)])
def test_autokd_with_the_kd_evaluator_as_dataset_api(plugin: Any, failing: tuple[int, ...], tmp_path: Path) -> None:
    """Proposals keep their numbers, seeds and budgets; all is in the run's store; NASLib's Trainer drives."""
    api_class = importlib.import_module("naslib_autokd.plugin.evaluation").KDDatasetAPI
    trainer = importlib.import_module("naslib.defaults.trainer").Trainer
    api = api_class(HashEvaluator(failing=failing), task="cluttered-digits")
    config = naslib_config(tmp_path, dataset="cluttered-digits", epochs=15)
    optimizer = plugin.AutoKD(config)
    optimizer.adapt_search_space(plugin.graph_of(HNAGSpace("hnag-small")), dataset_api=api)
    trainer(optimizer, config).search()
    assert list(api.store) == optimizer.trials
    assert [trial.number for trial in optimizer.trials] == list(range(15))
    assert [trial.number for trial in optimizer.trials if not trial.succeeded] == list(failing)
    assert {trial.budget_epochs for trial in optimizer.trials} >= set(optimizer.optimizer.ladder[-2:])
    written = json.loads((tmp_path / "errors.json").read_text(encoding="utf-8"))
    best = optimizer.get_final_architecture().candidate
    assert written["valid_acc"][-1] == pytest.approx(hash_accuracy(best))
    assert set(written["test_acc"]) == {-1.0}


# --- NASLib's tables


@pytest.fixture(scope="module")
def nb201_table() -> dict[str, Any]:
    """NAS-Bench-201 in NASLib's format with made-up learning curves: all 15,625 architectures, 200 epochs."""
    operations = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")  # in NASLib's order
    worth = np.array([0.5, 0.0, 1.0, 0.8, 0.3])
    indices = np.stack(np.meshgrid(*[np.arange(5)] * 6, indexing="ij"), axis=-1).reshape(-1, 6)
    final = 50.0 + 40.0 * worth[indices].mean(axis=1) + np.random.default_rng(0).normal(0.0, 1.0, len(indices))
    curves = (final[:, None] * (1.0 - 0.5 * np.exp(-np.arange(1, 201) / 40.0))).tolist()
    table = {}
    for row, curve in zip(indices, curves, strict=True):
        # NASLib's six edges are (1,2), (1,3), (1,4), (2,3), (2,4), (3,4)
        a, b, c, d, e, f = (operations[index] for index in row)
        name = f"|{a}~0|+|{b}~0|{d}~1|+|{c}~0|{e}~1|{f}~2|"
        result = {"eval_acc1es": curve, "train_acc1es": curve, "cost_info": {"train_time": 100.0}}
        table[name] = {"cifar10-valid": result}
    return {"nb201_data": table}


def test_autokd_on_nas_bench_201_in_naslibs_trainer(plugin: Any, nb201_table: Any, tmp_path: Path) -> None:
    spaces = importlib.import_module("naslib.search_spaces")
    metric = importlib.import_module("naslib.search_spaces.core.query_metrics").Metric
    trainer = importlib.import_module("naslib.defaults.trainer").Trainer
    config = naslib_config(tmp_path, dataset="cifar10")
    optimizer = plugin.AutoKD(config)
    optimizer.adapt_search_space(spaces.NasBench201SearchSpace(), dataset_api=nb201_table)
    assert optimizer.max_budget_epochs == 200
    run_of_trainer = trainer(optimizer, config)
    run_of_trainer.search()
    trials = optimizer.trials
    assert len(trials) == 30
    assert len({trial.budget_epochs for trial in trials}) == 2
    best = optimizer.get_final_architecture()
    assert isinstance(best, spaces.NasBench201SearchSpace)
    for trial in (trials[0], trials[-1]):
        graph = spaces.NasBench201SearchSpace()
        graph.instantiate_model = False
        graph.set_spec(trial.candidate["architecture"])
        looked_up = graph.query(metric.VAL_ACCURACY, "cifar10", epoch=trial.budget_epochs - 1, dataset_api=nb201_table)
        assert 100.0 * trial.val_accuracy == pytest.approx(looked_up)
    written = json.loads((tmp_path / "errors.json").read_text(encoding="utf-8"))
    assert written["train_time"][-1] == 100.0
    tested = run_of_trainer.evaluate(dataset_api=nb201_table)
    assert tested == best.query(metric.TEST_ACCURACY, "cifar10", dataset_api=nb201_table) > 75.0
    assert written["test_acc"][-1] == tested
    assert written["valid_acc"][-1] == pytest.approx(tested)  # NAS-Bench-201's two are the same in NASLib


@pytest.mark.parametrize("kind", ["random_search", "regularized_evolution", "local_search"])
@pytest.mark.parametrize("own", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_naslibs_optimizers_on_nas_bench_201(
    plugin: Any, kind: str, own: bool, nb201_table: Any, tmp_path: Path
) -> None:
    """``own``: NASLib's own class, whose clones take half a second; else ours of the same space."""
    spaces = importlib.import_module("naslib_autokd.plugin.spaces")
    space = spaces.nasbench201(search_kd=False)
    graph = importlib.import_module("naslib.search_spaces").NasBench201SearchSpace() if own else space.graph()
    theirs = in_naslibs_trainer(
        tmp_path, kind, graph, nb201_table, dataset="cifar10", population_size=8, sample_size=4, num_init=4
    )
    best = theirs.get_final_architecture()
    tabular = importlib.import_module("naslib_autokd.plugin.tabular").TabularEvaluator(nb201_table)
    options = {"regularized_evolution": {"population_size": 8, "sample_size": 4}, "local_search": {"num_init": 4}}
    optimizer = plugin.NASLibOptimizer(kind, space, max_budget_epochs=200, **options.get(kind, {}))
    run(optimizer, 30, tabular.evaluate)
    if not own or kind == "random_search":  # LocalSearch's own neighbours come in another order
        assert optimizer.incumbent().architecture == tuple(int(op) for op in best.get_hash())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["bananas", "npenas"])
def test_equal_answers_teach_a_predictor_nothing_and_end_nothing(plugin: Any, kind: str) -> None:
    """NASLib's predictors divide by the spread of the accuracies, and XGBoost refuses what comes of 0."""
    optimizer = build(plugin, kind, num_init=2, predictor_type="xgb")

    def chance(proposal: Proposal) -> Trial:
        return Trial.of(proposal, cost=0.9, val_accuracy=0.1, student_epochs=1.0)

    proposals, _ = run(optimizer, 4, chance)
    assert len({proposal.candidate.digest for proposal in proposals}) == 4
    run(optimizer, 3)  # answers that differ, from which it learns
