"""Optimizers across the two packages: NASLib's discrete optimizers as ours, and ours under NASLib's real Trainer.

To run it on an optimizer of your own, add it to `TO_NASLIB` (a name in ``OPTIMIZERS``, an entry point, or a factory)
or, with its options, to `FROM_NASLIB` (a kind of `NASLibOptimizer`). naslib_toy.py has the toy space and says what a
space needs.
"""

from __future__ import annotations

import importlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naslib_toy import ToyAPI, ToyGraph, ToySpace, accuracy, answer

from naslib_autokd.optimizers import Optimizer, replay
from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.records import Ask, Proposal, Trial, derive_seed

pytestmark = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

SPACE: Any = ToySpace
Graph: Any = ToyGraph
MAX_EPOCHS = 9
SMALL = {"num_init": 8, "k": 4, "num_candidates": 20, "num_ensemble": 2, "predictor_type": "lgb"}
FROM_NASLIB: dict[str, dict[str, Any]] = {
    "random_search": {},
    "regularized_evolution": {"population_size": 6, "sample_size": 3},
    "local_search": {"num_init": 3},
    "bananas": SMALL,
    "npenas": SMALL,
    "base_predictor": {"predictor_type": "lgb", "num_ensemble": 2, "epochs": 14},
}
TO_NASLIB = ["autokd", "autokd-full", "random_search", "hyperband", "naslib-regularized_evolution"]
MULTI_FIDELITY = {"autokd", "hyperband"}


def build(kind: str, seed: int = 0, **options: Any) -> Optimizer:
    from naslib_autokd.plugin.optimizers import NASLibOptimizer

    chosen = {**FROM_NASLIB[kind], **options}
    return NASLibOptimizer(kind, SPACE(), seed=seed, max_budget_epochs=MAX_EPOCHS, **chosen)


def run(
    optimizer: Optimizer, n: int, respond: Callable[[Proposal], Trial] = answer
) -> tuple[list[Proposal], list[Trial]]:
    proposals, trials = [], []
    for _ in range(n):
        proposals.append(optimizer.ask())
        trials.append(respond(proposals[-1]))
        optimizer.tell(trials[-1])
    return proposals, trials


def config(tmp_path: Path, epochs: int = 30, seed: int = 0, **search: Any) -> Any:
    from fvcore.common.config import CfgNode

    (tmp_path / "search").mkdir(parents=True, exist_ok=True)
    values = {"epochs": epochs, "seed": seed, "checkpoint_freq": 1, "fidelity": -1, **search}
    return CfgNode({"save": str(tmp_path), "dataset": "toy", "seed": seed, "search": values})


# --- NASLib's optimizers as ours


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_its_own_model_is_reached_and_proposals_are_numbered_and_seeded(kind: str) -> None:
    proposals, _ = run(build(kind, seed=4), 20)
    for number, proposal in enumerate(proposals):
        assert proposal.number == number
        assert proposal.budget_epochs == MAX_EPOCHS
        assert proposal.seed == derive_seed(4, "trial", number)
        assert SPACE().candidate(SPACE().values(proposal.candidate)) == proposal.candidate
    assert len({proposal.candidate.digest for proposal in proposals}) >= 10


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_a_repeated_seed_repeats_the_proposals_and_another_seed_does_not(kind: str) -> None:
    first, again, other = (run(build(kind, seed=seed), 16)[0] for seed in (1, 1, 2))
    assert first == again
    assert [p.candidate for p in first] != [p.candidate for p in other]


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_the_global_random_streams_are_left_alone_and_do_not_matter(kind: str) -> None:
    quiet, _ = run(build(kind), 14)

    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # noqa: NPY002

    before = states()
    optimizer = build(kind)
    run(optimizer, 14)
    assert states() == before

    def disturb(proposal: Proposal) -> Trial:
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)
        torch.manual_seed(1)
        return answer(proposal)

    assert run(build(kind), 14, disturb)[0] == quiet


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_failures_are_survived_and_not_chosen(kind: str) -> None:
    def respond(proposal: Proposal) -> Trial:
        statuses = ("error", "diverged", "timeout", "out_of_memory")
        return answer(proposal, "success" if proposal.number % 3 else statuses[proposal.number % 4])

    optimizer = build(kind)
    _, trials = run(optimizer, 20, respond)
    incumbent = optimizer.incumbent()
    assert incumbent is not None
    best = max((t for t in trials if t.succeeded), key=lambda t: t.val_accuracy)
    assert incumbent.digest == best.candidate_digest


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_a_run_of_failures_alone_has_no_incumbent_and_goes_on(kind: str) -> None:
    optimizer = build(kind)
    assert optimizer.incumbent() is None
    run(optimizer, 15, lambda proposal: answer(proposal, "error"))
    assert optimizer.incumbent() is None
    optimizer.ask()


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_several_asks_and_tells_out_of_order(kind: str) -> None:
    optimizers = build(kind), build(kind)
    for _ in range(5):
        batches = [[optimizer.ask() for _ in range(4)] for optimizer in optimizers]
        assert batches[0] == batches[1]
        for optimizer, batch in zip(optimizers, batches, strict=True):
            for proposal in (batch[2], batch[0], batch[3], batch[1]):
                optimizer.tell(answer(proposal))
    assert [optimizers[0].ask().number for _ in range(3)] == [20, 21, 22]


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_trials_it_never_proposed_are_taken(kind: str) -> None:
    _, old = run(build("random_search", seed=77), 12)
    optimizer = build(kind)
    for trial in old[:6]:
        optimizer.tell(trial)
    assert optimizer.incumbent() is not None
    proposals, _ = run(optimizer, 4)
    assert [proposal.number for proposal in proposals] == [0, 1, 2, 3]
    for trial in old[6:]:
        optimizer.tell(trial)
    star = SPACE().candidate({"x": 0.3, "y": 0.7, "z": 0.5})
    optimizer.tell(Trial(900, star.to_dict(), star.digest, MAX_EPOCHS, 5, cost=0.001))
    assert optimizer.incumbent() == star
    run(optimizer, 12)


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_a_trial_told_twice_counts_once(kind: str) -> None:
    optimizer, once = build(kind, seed=3), build(kind, seed=3)
    for _ in range(14):
        a, b = optimizer.ask(), once.ask()
        assert a == b
        optimizer.tell(answer(a))
        optimizer.tell(answer(a))
        once.tell(answer(b))


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_replay_brings_a_fresh_optimizer_to_where_the_run_was(kind: str) -> None:
    optimizer = build(kind, seed=5)
    _, trials = run(optimizer, 13)
    lost = optimizer.ask()  # in flight when the run is killed
    resumed = build(kind, seed=5)
    assert replay(resumed, trials) == []
    assert resumed.ask() == lost
    assert [p.candidate for p in run(resumed, 5)[0]] == [p.candidate for p in run(optimizer, 5)[0]]


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_replay_of_a_run_with_several_workers(kind: str) -> None:
    """Three in flight at any time, answered out of order: the order of asks and tells is all that is needed."""
    optimizer, asks, trials, flying = build(kind), [], [], []
    for step in range(14):
        flying.append(optimizer.ask())
        asks.append(Ask.of(flying[-1], len(trials)))
        if len(flying) == 3:
            trials.append(answer(flying.pop(step % 3)))
            optimizer.tell(trials[-1])
    resumed = build(kind)
    assert replay(resumed, trials, asks) == flying
    for proposal in flying:
        for both in (optimizer, resumed):
            both.tell(answer(proposal))
    assert [p.candidate for p in run(resumed, 6)[0]] == [p.candidate for p in run(optimizer, 6)[0]]


@pytest.mark.parametrize("kind", FROM_NASLIB)
def test_a_trial_of_another_space_is_refused(kind: str) -> None:
    from naslib_autokd.records import content_digest

    stranger = {"colour": "red"}
    with pytest.raises(ValueError, match="is not a candidate of toy"):
        build(kind).tell(Trial(0, stranger, content_digest(stranger), MAX_EPOCHS, 0, cost=0.1))


# --- ours under NASLib's Trainer


def trained(
    tmp_path: Path, name: Any, epochs: int = 30, seed: int = 0, **search: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """An optimizer of ours after a search by NASLib's Trainer, the Trainer, and what it wrote."""
    from naslib.defaults.trainer import Trainer

    from naslib_autokd.plugin.optimizers import AskTellOptimizer

    settings = config(tmp_path, epochs, seed, **search)
    optimizer = AskTellOptimizer(settings, name)
    optimizer.adapt_search_space(Graph(), dataset_api=ToyAPI(MAX_EPOCHS))
    trainer = Trainer(optimizer, settings)
    trainer.search()
    return optimizer, trainer, json.loads((tmp_path / "errors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TO_NASLIB)
def test_thirty_epochs_in_naslibs_trainer(name: str, tmp_path: Path) -> None:
    optimizer, trainer, written = trained(tmp_path, name)
    api = optimizer.dataset_api
    budgets = [budget for _, budget in api.evaluated]
    assert [trial.number for trial in optimizer.trials] == list(range(30))
    assert all(1 <= trial.budget_epochs <= MAX_EPOCHS for trial in optimizer.trials)
    assert (len({trial.budget_epochs for trial in optimizer.trials}) > 1) == (name in MULTI_FIDELITY)
    assert set(budgets) == {trial.budget_epochs for trial in optimizer.trials}
    assert all(len(written[key]) == 30 for key in ("train_acc", "valid_acc", "test_acc", "train_time", "runtime"))
    best = optimizer.get_final_architecture()
    assert written["valid_acc"][-1] == pytest.approx(accuracy(best.get_spec(), MAX_EPOCHS))
    assert written["train_time"][-1] == 2.0 * MAX_EPOCHS
    assert trainer.evaluate(dataset_api=api) == -1.0  # its test split is closed
    assert best.get_hash() == optimizer.get_final_architecture().get_hash()


@pytest.mark.parametrize("name", TO_NASLIB)
def test_naslibs_trainer_gives_the_same_search_as_ours(name: str, tmp_path: Path) -> None:
    """The proposals are those of the optimizer asked and told directly: NASLib adds nothing to them."""
    from naslib_autokd.optimizers import get_optimizer

    optimizer, _, _ = trained(tmp_path, name, epochs=12, seed=3)
    direct = get_optimizer(name)(
        SPACE(), seed=3, max_budget_epochs=MAX_EPOCHS, min_budget_epochs=1, total_budget_epochs=8.0 * MAX_EPOCHS
    )
    _, trials = run(direct, 12)
    assert [(t.candidate, t.budget_epochs, t.seed) for t in optimizer.trials] == [
        (t.candidate, t.budget_epochs, t.seed) for t in trials
    ]


_RESUME = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_naslib_optimizers import resume
resume(Path({out!r}), {name!r})
"""


def resume(out: Path, name: str) -> None:
    """In a process of its own: continue the search in ``out`` from its checkpoint."""
    from naslib_autokd.plugin.optimizers import AskTellOptimizer  # finds NASLib

    Trainer = importlib.import_module("naslib.defaults.trainer").Trainer
    settings = config(out, epochs=16)
    optimizer = AskTellOptimizer(settings, name)
    optimizer.adapt_search_space(Graph(), dataset_api=ToyAPI(MAX_EPOCHS))
    Trainer(optimizer, settings).search(resume_from=str(out / "search" / "last_checkpoint"))
    rows = [trial.outcome() for trial in optimizer.trials]
    (out / "trials.json").write_text(json.dumps([len(optimizer.dataset_api.evaluated), rows]), encoding="utf-8")


@pytest.mark.parametrize("name", ["autokd", pytest.param("naslib-regularized_evolution", marks=pytest.mark.slow)])
def test_a_search_that_died_goes_on_in_a_new_process_as_if_it_had_not(name: str, tmp_path: Path) -> None:
    from naslib.defaults.trainer import Trainer

    from naslib_autokd.plugin.optimizers import AskTellOptimizer

    class Died(Exception):
        pass

    def after_epoch(epoch: int) -> None:
        if epoch == 5:
            raise Died

    whole, _, _ = trained(tmp_path / "whole", name, epochs=16)
    out = tmp_path / "died"
    settings = config(out, epochs=16)
    optimizer = AskTellOptimizer(settings, name)
    optimizer.adapt_search_space(Graph(), dataset_api=ToyAPI(MAX_EPOCHS))
    with pytest.raises(Died):
        Trainer(optimizer, settings).search(after_epoch=after_epoch)
    script = _RESUME.format(folder=str(Path(__file__).parent), out=str(out), name=name)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    _, resumed = json.loads((out / "trials.json").read_text(encoding="utf-8"))
    assert resumed == json.loads(json.dumps([trial.outcome() for trial in whole.trials]))
