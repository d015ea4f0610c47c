"""What every ask-and-tell optimizer keeps, whoever wrote it: run for each entry of `OPTIMIZERS`."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from naslib_autokd.evaluators.base import Score
from naslib_autokd.optimizers import OPTIMIZERS, Optimizer, ReplayMismatch, get_optimizer, replay
from naslib_autokd.records import Ask, Proposal, Trial, content_digest, derive_seed
from naslib_autokd.search_spaces import HNAG_PRESETS
from naslib_autokd.search_spaces.hnag import HNAGSpace

MAX_EPOCHS, MIN_EPOCHS, TOTAL = 9, 3, 9 * 40
NEEDS = {"tpe": "optuna", "tpe-hyperband": "optuna", "optuna-gp": "optuna", "botorch-mf": "botorch"}
MISSING = {name for name, package in NEEDS.items() if importlib.util.find_spec(package) is None}  # said once, below
SLOW = [name for name in ("smac-gp", "smac-rf", "optuna-gp", "botorch-mf") if name not in MISSING]  # a second per fit
QUICK = [*(name for name in OPTIMIZERS if name not in {*SLOW, *MISSING}), "autokd:hyperband-3"]  # name:fidelity
CASES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@dataclass(frozen=True)
class Point:
    items: tuple[tuple[str, Any], ...]

    @property
    def digest(self) -> str:
        return content_digest([list(item) for item in self.items])

    def to_dict(self) -> dict[str, Any]:
        return dict(self.items)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Point:
        return cls(tuple(sorted(values.items())))


class Space:
    """Small, with everything that a space can have: integer, log, ordinal, category, condition, clause, constant."""

    name = "test"

    def configuration_space(self) -> Any:
        from ConfigSpace import (
            Categorical,
            ConfigurationSpace,
            Constant,
            EqualsCondition,
            Float,
            ForbiddenGreaterThanEqualsRelation,
            Integer,
        )

        space = ConfigurationSpace()
        space.add(Integer("nodes", (3, 10)), Integer("k", (2, 5), default=2), Float("temperature", (1, 20), log=True))
        space.add(Categorical("operation", ["conv", "pool", "depthwise"]), Categorical("pool", ["mean", "max"]))
        space.add(Float("pool_p", (0.0, 1.0)), Constant("stem", "small"))
        space.add(Categorical("width", [4, 8, 16], ordered=True))
        space.add(EqualsCondition(space["pool"], space["operation"], "pool"))
        space.add(EqualsCondition(space["pool_p"], space["pool"], "max"))
        space.add(ForbiddenGreaterThanEqualsRelation(space["k"], space["nodes"]))
        return space

    def candidate(self, values: Mapping[str, Any]) -> Point:
        return Point(tuple(sorted(values.items())))

    def values(self, candidate: Point) -> dict[str, Any]:
        return candidate.to_dict()


class Scorer:
    """What the runners attach to an optimizer that scores students without training them."""

    def training_free_score(self, candidate: Any, seed: int) -> Score:
        digits = int(content_digest([candidate.digest, seed]), 16)
        return Score(-abs(candidate.to_dict().get("nodes", 5) - 7) + digits % 1000 / 1000, 0.02)


def build(case: str, seed: int = 0, space: Any = None) -> Optimizer:
    name, _, fidelity = case.partition(":")
    options: dict[str, Any] = {"fidelity": fidelity} if fidelity else {}
    if name == "diswot":
        options["n_scored"] = 110  # enough for every test here
    optimizer = get_optimizer(name)(
        space or Space(),
        seed=seed,
        max_budget_epochs=MAX_EPOCHS,
        min_budget_epochs=MIN_EPOCHS,
        total_budget_epochs=TOTAL,
        **options,
    )
    if hasattr(optimizer, "attach"):
        optimizer.attach(Scorer())
    return optimizer


def cost_of(proposal: Proposal) -> float:
    values = proposal.candidate.to_dict()
    error = 0.1 + 0.004 * abs(values.get("nodes", 5) - 7) + 0.02 * abs(math.log(values.get("temperature", 4)) - 1.5)
    return error + 0.3 / proposal.budget_epochs + (proposal.seed % 1000) / 1e5


def answer(proposal: Proposal, *, cost: float | None = None, status: str = "success") -> Trial:
    return Trial.of(
        proposal,
        status=status,
        cost=1.0 if status != "success" else cost_of(proposal) if cost is None else cost,
        message="" if status == "success" else status,
    )


def run(
    optimizer: Optimizer, n: int, respond: Callable[[Proposal], Trial] = answer
) -> tuple[list[Proposal], list[Trial]]:
    proposals, trials = [], []
    for _ in range(n):
        proposals.append(optimizer.ask())
        trials.append(respond(proposals[-1]))
        optimizer.tell(trials[-1])
    return proposals, trials


def test_every_optimizer_is_tested_here() -> None:
    assert {*OPTIMIZERS} - {*QUICK, *SLOW} == MISSING
    if MISSING:
        packages = ",".join(sorted({NEEDS[name] for name in MISSING}))
        pytest.skip(f"{', '.join(sorted(MISSING))}: pip install 'naslib_autokd[{packages}]'")


@pytest.mark.parametrize("case", [*QUICK, *SLOW])
def test_its_own_model_is_reached_and_proposes(case: str) -> None:
    """The shortest run of all: 12 trials are just beyond every initial design."""
    proposals, trials = run(build(case), 12)
    assert len({p.candidate.digest for p in proposals}) >= 5
    assert all(trial.succeeded for trial in trials)


@pytest.mark.parametrize("case", CASES)
def test_proposals_are_legal_numbered_and_seeded(case: str) -> None:
    from ConfigSpace import Configuration

    proposals, _ = run(build(case, seed=4), 25)
    space = Space().configuration_space()
    for number, proposal in enumerate(proposals):
        assert isinstance(proposal.budget_epochs, int)
        assert MIN_EPOCHS <= proposal.budget_epochs <= MAX_EPOCHS
        assert proposal.number == number
        assert proposal.seed == derive_seed(4, "trial", number)
        Configuration(space, values=proposal.candidate.to_dict()).check_valid_configuration()
    assert len({proposal.seed for proposal in proposals}) == 25


@pytest.mark.parametrize("case", CASES)
def test_a_repeated_seed_repeats_the_proposals_and_another_seed_does_not(case: str) -> None:
    first, again, other = (run(build(case, seed=seed), 18)[0] for seed in (1, 1, 2))
    assert first == again
    assert [p.candidate for p in first] != [p.candidate for p in other]


@pytest.mark.parametrize("case", CASES)
def test_failures_are_survived_and_not_chosen(case: str) -> None:
    def respond(proposal: Proposal) -> Trial:
        statuses = ("error", "diverged", "timeout", "out_of_memory")
        return answer(proposal, status="success" if proposal.number % 3 else statuses[proposal.number % 4])

    optimizer = build(case)
    _, trials = run(optimizer, 24, respond)
    incumbent = optimizer.incumbent()
    assert incumbent is not None
    largest = max(trial.budget_epochs for trial in trials if trial.succeeded)
    winners = {t.candidate_digest for t in trials if t.succeeded and t.budget_epochs == largest}
    assert incumbent.digest in winners


@pytest.mark.parametrize("case", CASES)
def test_a_run_of_failures_alone_has_no_incumbent_and_goes_on(case: str) -> None:
    optimizer = build(case)
    assert optimizer.incumbent() is None
    run(optimizer, 15, lambda proposal: answer(proposal, status="error"))
    assert optimizer.incumbent() is None
    optimizer.ask()


@pytest.mark.parametrize("case", CASES)
def test_several_asks_and_tells_out_of_order(case: str) -> None:
    optimizer = build(case)
    for _ in range(5):
        batch = [optimizer.ask() for _ in range(4)]
        for proposal in (batch[2], batch[0], batch[3], batch[1]):
            optimizer.tell(answer(proposal))
    numbers = [proposal.number for proposal in [optimizer.ask() for _ in range(3)]]
    assert numbers == [20, 21, 22]


@pytest.mark.parametrize("case", CASES)
def test_trials_it_never_proposed_are_learned_from(case: str) -> None:
    """A warm start: told before the first ask, and in the middle of a run; the best of them can be the incumbent."""
    _, old = run(build("random_search", seed=77), 12)
    optimizer = build(case)
    for trial in old[:6]:
        optimizer.tell(trial)
    assert optimizer.incumbent() is not None
    proposals, _ = run(optimizer, 4)
    assert [proposal.number for proposal in proposals] == [0, 1, 2, 3]
    for trial in old[6:]:
        optimizer.tell(trial)
    star = Space().candidate(old[0].candidate | {"nodes": 7, "k": 2, "temperature": 4.4817})
    optimizer.tell(Trial(900, star.to_dict(), star.digest, MAX_EPOCHS, 5, cost=0.001))
    assert optimizer.incumbent() == star
    run(optimizer, 5)


@pytest.mark.parametrize("case", CASES)
def test_a_trial_told_twice_counts_once(case: str) -> None:
    optimizer, once = build(case, seed=3), build(case, seed=3)
    for _ in range(14):
        a, b = optimizer.ask(), once.ask()
        assert a == b
        optimizer.tell(answer(a))
        optimizer.tell(answer(a))
        once.tell(answer(b))


@pytest.mark.parametrize("case", CASES)
def test_replay_brings_a_fresh_optimizer_to_where_the_run_was(case: str) -> None:
    optimizer = build(case, seed=5)
    _, trials = run(optimizer, 13)
    lost = optimizer.ask()  # in flight when the run is killed
    resumed = build(case, seed=5)
    assert replay(resumed, trials) == []
    assert resumed.ask() == lost
    assert [p.candidate for p in run(resumed, 5)[0]] == [p.candidate for p in run(optimizer, 5)[0]]


@dataclass
class Run:
    """A run with several workers whose trials end in an order that ``schedule`` (random numbers) decides."""

    optimizer: Optimizer
    asks: list[Ask]
    trials: list[Trial]
    in_flight: list[Proposal]
    respond: Callable[[Proposal], Trial]

    def work(self, schedule: list[int], n_workers: int) -> Run:
        for number in schedule:
            if len(self.in_flight) < n_workers:
                self.in_flight.append(self.optimizer.ask())
                self.asks.append(Ask.of(self.in_flight[-1], after=len(self.trials)))
            else:
                self.trials.append(self.respond(self.in_flight.pop(number % len(self.in_flight))))
                self.optimizer.tell(self.trials[-1])
        return self

    def continued(self, fresh: Optimizer) -> Run:
        """From the run's files alone."""
        asks = [Ask.from_dict(each.to_dict()) for each in self.asks]
        trials = [Trial.from_dict(each.to_dict()) for each in self.trials]
        return Run(fresh, asks, trials, replay(fresh, trials, asks), self.respond)


def mixed(proposal: Proposal) -> Trial:
    """Every sixth trial fails."""
    return answer(proposal, status="success" if proposal.seed % 6 else ("error", "timeout")[proposal.number % 2])


@pytest.mark.parametrize(
    ("n_workers", "n_events", "cuts"), [pytest.param(1, 52, (1, 20, 37), marks=pytest.mark.slow), (4, 48, (2, 17, 36))]
)
@pytest.mark.parametrize("case", CASES)
def test_a_run_cut_anywhere_continues_as_if_it_had_not_been(
    case: str, n_workers: int, n_events: int, cuts: tuple[int, ...]
) -> None:
    import numpy as np

    schedule = np.random.default_rng(n_workers).integers(0, 1000, n_events).tolist()
    whole = Run(build(case, 7), [], [], [], mixed).work(schedule, n_workers)
    for cut in cuts:
        killed = Run(build(case, 7), [], [], [], mixed).work(schedule[:cut], n_workers)
        resumed = killed.continued(build(case, 7))
        assert resumed.in_flight == killed.in_flight
        resumed.work(schedule[cut:], n_workers)
        assert resumed.asks == whole.asks
        assert resumed.trials == whole.trials
        assert resumed.optimizer.incumbent() == whole.optimizer.incumbent()


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_was_continued_is_continued_again(case: str) -> None:
    """With trials it did not propose: the default family before the first ask, a warm start in the middle."""
    default = Space().candidate(dict(Space().configuration_space().get_default_configuration()))
    first = answer(Proposal(default, MAX_EPOCHS, 11, -1))
    foreign = answer(run(build("random_search", 50), 3)[0][2])
    foreign = Trial.from_dict({**foreign.to_dict(), "number": -2})
    runs = [Run(build(case, 8), [], [], [], mixed) for _ in range(2)]
    schedule = list(range(3, 15))
    for index, each in enumerate(runs):  # the second is killed after each step
        each.optimizer.tell(first)
        each.trials.append(first)
        for step in range(3):
            if index:
                each = each.continued(build(case, 8))
            each.work(schedule, 3)
            if step == 1:
                each.optimizer.tell(foreign)
                each.trials.append(foreign)
        runs[index] = each
    assert runs[0].asks == runs[1].asks
    assert runs[0].trials == runs[1].trials
    assert runs[0].optimizer.ask() == runs[1].optimizer.ask()


@pytest.mark.parametrize("case", CASES)
def test_replay_says_what_is_not_proposed_again(case: str) -> None:
    whole = Run(build(case, 9), [], [], [], answer).work(list(range(26)), 2)
    assert replay(build(case, 9), whole.trials, whole.asks) == whole.in_flight
    with pytest.raises(ReplayMismatch, match=r"proposal \d+ is not proposed again \(.*seed \d+ there, \d+ now"):
        replay(build(case, 10), whole.trials, whole.asks)
    with pytest.raises(ReplayMismatch, match=r"after 10 trials, but there are 9: trials\.jsonl has lost lines"):
        replay(build(case, 9), whole.trials[:9], whole.asks)
    with pytest.raises(ReplayMismatch, match=r"so the run had several workers; without asks\.jsonl"):
        replay(build(case, 9), list(reversed(whole.trials)))
    stranger = Ask(0, {"colour": "red"}, "0" * 12, MAX_EPOCHS, whole.asks[0].seed, 0)
    with pytest.raises(ReplayMismatch, match=r"proposal 0 .*colour"):
        replay(build(case, 9), [], [stranger])
    runners_own = Ask(-1, {"colour": "red"}, "0" * 12, MAX_EPOCHS, 5, 0)
    assert replay(build(case, 9), whole.trials, [runners_own, *whole.asks]) == whole.in_flight


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith("smac") or name in SLOW else ())
        for name in [*QUICK, *SLOW]
    ],
)
def test_sixty_four_workers_get_different_points_at_once(case: str) -> None:
    """Before any result, and with 64 in flight later; brackets that wait for a trial do not block the others."""
    optimizer = build(case, 12)
    in_flight = [optimizer.ask() for _ in range(64)]
    lost = in_flight.pop(0)  # a worker that never answers
    assert len({(p.candidate.digest, p.budget_epochs) for p in in_flight}) == 63
    for step in range(40):
        optimizer.tell(mixed(in_flight.pop(step * 7 % 63)))
        in_flight.append(optimizer.ask())
        assert MIN_EPOCHS <= in_flight[-1].budget_epochs <= MAX_EPOCHS
        assert len({(p.candidate.digest, p.budget_epochs) for p in [lost, *in_flight]}) == 64


@pytest.mark.parametrize("case", CASES)
def test_the_global_random_state_and_the_working_directory_are_left_alone(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import random

    import numpy as np

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    run(build(case), 12)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", CASES)
def test_a_trial_of_another_space_is_refused(case: str) -> None:
    stranger = Point((("colour", "red"),))
    optimizer = build(case)
    with pytest.raises(ValueError, match="test"):
        optimizer.tell(Trial(0, stranger.to_dict(), stranger.digest, MAX_EPOCHS, 0, cost=0.1))


@pytest.mark.parametrize("case", [name for name in QUICK if not name.startswith("smac") and ":" not in name])
@pytest.mark.parametrize("preset", HNAG_PRESETS)
def test_the_real_space_is_searched(case: str, preset: str) -> None:
    space = HNAGSpace(preset)
    optimizer = build(case, space=space)
    proposals, trials = run(optimizer, 20)
    for proposal in proposals:
        assert space.candidate(space.values(proposal.candidate)) == proposal.candidate
    warm = build(case, seed=1, space=space)
    for trial in trials:
        warm.tell(Trial.from_dict(trial.to_dict()))
    assert warm.incumbent() is not None
    run(warm, 3)


_SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from test_optimizers import build, replay, run
for case in {cases!r}:
    told, trials = run(build(case, seed=6), 9)
    optimizer = build(case, seed=6)  # continued in the middle
    replay(optimizer, trials)
    print(case, [(p.candidate.digest, p.budget_epochs, p.seed) for p in told + run(optimizer, 7)[0]])
"""


@pytest.mark.parametrize("cases", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_proposals_do_not_depend_on_the_process_or_its_hash_seed(cases: list[str]) -> None:
    script = _SCRIPT.format(folder=str(Path(__file__).parent), cases=cases)
    environment = {**os.environ, "PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    here = [
        f"{case} {[(p.candidate.digest, p.budget_epochs, p.seed) for p in run(build(case, seed=6), 16)[0]]}"
        for case in cases
    ]
    assert done.stdout.splitlines() == here
