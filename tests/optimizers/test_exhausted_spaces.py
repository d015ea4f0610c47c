"""Small finite spaces: an optimizer that has tried every point ends the search with what it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from naslib_autokd.optimizers.base import SpaceExhausted, get_optimizer, known_to, replay
from naslib_autokd.records import Ask, Proposal, Trial, derive_seed
from naslib_autokd.runners.ablation import simulate
from naslib_autokd.runners.search import search
from naslib_autokd.search_spaces.frozen import FrozenSpace
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.search_spaces.table import RowCandidate, TableSpace

pytestmark = pytest.mark.filterwarnings("ignore")  # of scikit-learn inside SMAC's stock models


def table_of(n: int) -> TableSpace:
    return TableSpace("tiny", [RowCandidate.of({"a": i, "b": "xy"[i % 2]}) for i in range(n)])


class Table:
    """A benchmark of ``n`` rows with fixed random errors."""

    name, best_test_error = "tiny", 0.1
    budgets: tuple[int, ...] = (1, 3, 9)

    def __init__(self, n: int = 6, space: Any = None, repeats_exactly: bool = False) -> None:
        self.repeats_exactly = repeats_exactly
        self.space: Any = space or table_of(n)
        self.evaluated: list[Proposal] = []

    def true_cost(self, candidate: Any) -> float:
        return 0.1 + derive_seed(candidate.digest, "error") / 2**32

    true_test_error = true_cost

    def evaluate(self, proposal: Proposal) -> Trial:
        self.evaluated.append(proposal)
        cost = self.true_cost(proposal.candidate) + 0.1 / proposal.budget_epochs
        return Trial.of(proposal, cost=cost, val_accuracy=1 - cost, student_epochs=float(proposal.budget_epochs))


def start(name: str, table: Table) -> Any:
    budgets = {"min_budget_epochs": 1, "max_budget_epochs": 9, "total_budget_epochs": 1000}
    factory = get_optimizer(name)
    return factory(table.space, seed=3, **budgets, **known_to(factory, table))


def drive(optimizer: Any, table: Table, asks: list[Ask], trials: list[Trial], waiting: list[Proposal]) -> None:
    """Two at a time, in the order of asking, until the space is exhausted."""
    exhausted = False
    while waiting or not exhausted:
        while len(waiting) < 2 and not exhausted:
            try:
                proposal = optimizer.ask()
            except SpaceExhausted:
                exhausted = True
                break
            asks.append(Ask.of(proposal, len(trials)))
            waiting.append(proposal)
        if waiting:
            trials.append(table.evaluate(waiting.pop(0)))
            optimizer.tell(trials[-1])


@pytest.mark.parametrize(
    ("name", "exact", "n"),
    [
        ("autokd", False, 6),
        pytest.param("autokd", False, 24, marks=pytest.mark.slow),
        ("autokd", True, 12),
        ("hyperband", False, 6),
        pytest.param("hyperband", False, 24, marks=pytest.mark.slow),
    ],
)
def test_every_point_is_tried_in_full_and_a_replay_anywhere_goes_on_the_same(name: str, exact: bool, n: int) -> None:
    table, asks, trials = Table(n, repeats_exactly=exact), list[Ask](), list[Trial]()
    optimizer = start(name, table)
    drive(optimizer, table, asks, trials, [])
    full = [trial.candidate_digest for trial in trials if trial.budget_epochs == 9]
    assert set(full) == {row.digest for row in table.space.rows}
    best = min(table.space.rows, key=table.true_cost)
    assert optimizer.incumbent() == best
    for cut in (n // 2, len(trials) - 3, len(trials) - 1):
        told = trials[:cut]
        asked = [ask for ask in asks if ask.after <= cut]
        again = start(name, table)
        waiting = replay(again, told, asked)
        drive(again, table, asked, told, waiting)
        assert [trial.to_dict() for trial in told] == [trial.to_dict() for trial in trials]


@pytest.mark.parametrize("name", ["autokd", "autokd-full", "hyperband", "smac-mf", "smac-rf", "random_search"])
def test_a_study_does_not_take_an_exhausted_space_for_a_failure(name: str) -> None:
    table = Table(6)
    run = simulate(table, name, 0, student_epochs=9 * 40.0)
    assert run.test_error[-1] == min(map(table.true_test_error, table.space.rows))
    assert run.n_trials == len(table.evaluated) > 0


@pytest.mark.parametrize("name", ["autokd", "autokd-full"])
def test_without_noise_the_answer_is_never_worse_than_the_best_evaluated(name: str) -> None:
    """Errors without any pattern: the model takes them for noise, and its mean would choose worse rows."""
    table = Table(60, repeats_exactly=True)
    optimizer, best = start(name, table), 1.0
    for _ in range(60):
        trial = table.evaluate(optimizer.ask())
        optimizer.tell(trial)
        if trial.budget_epochs == 9:
            best = min(best, trial.cost)
        chosen = optimizer.incumbent()
        if best < 1.0:
            assert table.true_cost(chosen) + 0.1 / 9 == best


def test_budgets_take_turns_and_what_a_low_one_found_is_trained_in_full() -> None:
    table = Table(60, repeats_exactly=True)
    optimizer = start("autokd", table)
    trials = []
    for _ in range(48):
        trials.append(table.evaluate(optimizer.ask()))
        optimizer.tell(trials[-1])
    spent = {budget: sum(t.budget_epochs for t in trials if t.budget_epochs == budget) for budget in (3, 9)}
    assert abs(spent[3] - spent[9]) <= 9
    judged, full = ({t.candidate_digest for t in trials if t.budget_epochs == b} for b in (3, 9))
    assert len(judged & full) >= 6


@pytest.mark.parametrize("name", ["autokd", "hyperband", "smac-mf", "tpe-hyperband"])
def test_only_budgets_that_the_benchmark_has_are_asked_for(name: str) -> None:
    if name == "tpe-hyperband":
        pytest.importorskip("optuna")
    table = Table(40)
    table.budgets = (12, 200)
    simulate(table, name, 0, student_epochs=200.0 * 12)
    assert {proposal.budget_epochs for proposal in table.evaluated} == {12, 200}


@pytest.mark.parametrize("name", ["autokd", pytest.param("hyperband", marks=pytest.mark.slow)])
def test_a_search_of_four_points_ends_well_and_the_same_command_does_nothing_new(name: str, tmp_path: Path) -> None:
    whole = HNAGSpace("hnag-small")
    default = whole.values(whole.default_candidate())
    space = FrozenSpace(
        whole, {name: value for name, value in default.items() if name not in ("downsampling", "top_k")}
    )
    for session in range(2):
        table = Table(space=space)
        found = search("cluttered-digits", name, evaluator=table, space=space, n_trials=60, seed=1, out=tmp_path)
        assert found.stop_reason == "space"
        assert bool(table.evaluated) == (session == 0)
    assert len({trial.candidate_digest for trial in found.trials}) == 4
