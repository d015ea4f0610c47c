"""TPE against a plain Optuna loop, and the rungs against their rule."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest

from naslib_autokd.optimizers import get_optimizer
from naslib_autokd.optimizers.tpe import TPE
from naslib_autokd.records import Proposal, Trial, derive_seed
from naslib_autokd.search_spaces.hnag import HNAGSpace


@pytest.mark.parametrize(("name", "package"), [("tpe", "optuna"), ("optuna-gp", "optuna"), ("botorch-mf", "botorch")])
def test_without_its_package_the_error_says_how_to_install_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"is missing: pip install 'naslib_autokd\[{package}\]'"):
        get_optimizer(name)(HNAGSpace("hnag"), max_budget_epochs=9)


class Numbers:
    """Without conditions and clauses: the suggestions of a plain Optuna study are known."""

    name = "numbers"

    def configuration_space(self) -> Any:
        from ConfigSpace import Categorical, ConfigurationSpace, Float, Integer

        space = ConfigurationSpace()
        space.add(Categorical("a", ["p", "q", "r"]), Integer("b", (1, 9)), Float("c", (1.0, 20.0), log=True))
        space.add(Categorical("d", [2, 4, 8], ordered=True))
        return space

    def candidate(self, values: Mapping[str, Any]) -> Any:
        from naslib_autokd.search_spaces.table import RowCandidate

        return RowCandidate.of(values)

    def values(self, candidate: Any) -> dict[str, Any]:
        return dict(candidate.architecture)


def cost(values: Mapping[str, Any]) -> float:
    return 0.1 + 0.01 * values["b"] + 0.02 * abs(values["c"] - 5) + 0.05 * (values["a"] != "q") + 0.01 * values["d"]


def test_the_proposals_are_optunas() -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ours = TPE(Numbers(), seed=3, max_budget_epochs=9)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=derive_seed(3, "tpe")))
    for _ in range(25):
        proposal, trial = ours.ask(), study.ask()
        theirs = {
            "a": trial.suggest_categorical("a", ["p", "q", "r"]),
            "b": trial.suggest_int("b", 1, 9),
            "c": trial.suggest_float("c", 1.0, 20.0, log=True),
            "d": [2, 4, 8][trial.suggest_int("d", 0, 2)],
        }
        assert Numbers().values(proposal.candidate) == theirs
        ours.tell(Trial.of(proposal, cost=cost(theirs)))
        study.tell(trial, cost(theirs))
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


def test_it_learns_from_foreign_full_trainings_and_not_from_failures() -> None:
    optuna = pytest.importorskip("optuna")
    source, optimizer = (TPE(HNAGSpace("hnag-wide"), seed=seed, max_budget_epochs=9) for seed in (1, 2))
    foreign = [Trial.of(source.ask(), cost=0.3) for _ in range(3)]
    foreign.append(Trial.of(source.ask(), status="error"))
    low = source.ask()
    foreign.append(Trial.of(Proposal(low.candidate, 3, low.seed, low.number), cost=0.1))
    for trial in foreign:
        optimizer.tell(trial)
    assert len(optimizer._study.trials) == 3
    optimizer.tell(Trial.of(optimizer.ask(), status="diverged"))
    states = [trial.state for trial in optimizer._study.trials]
    assert states == [optuna.trial.TrialState.COMPLETE] * 3 + [optuna.trial.TrialState.FAIL]


def test_clauses_are_respected_at_no_cost() -> None:
    pytest.importorskip("optuna")
    space = HNAGSpace("hnag-small")
    optimizer = TPE(space, seed=0, max_budget_epochs=9)
    for number in range(30):
        proposal = optimizer.ask()
        assert proposal.number == number
        values = space.values(proposal.candidate)  # type: ignore[arg-type]
        # the forbidden corner is the best: the sampler is drawn to it
        assert values["top_nodes"] * values["bottom_nodes"] <= 20
        optimizer.tell(Trial.of(proposal, cost=0.5 - 0.02 * values["top_nodes"] - 0.02 * values["bottom_nodes"]))
    assert len(optimizer._study.trials) > 30


def test_brackets_are_hyperbands_and_the_best_third_goes_on() -> None:
    """Three budgets: 9 points from 3 epochs on, 5 from 9, 3 trained in full at once, again and again."""
    pytest.importorskip("optuna")
    optimizer = TPE(HNAGSpace("hnag"), seed=0, max_budget_epochs=27, min_budget_epochs=3, hyperband=True)
    assert optimizer.ladder == (3, 9, 27)
    first: list[int] = []
    seen: dict[str, tuple[int, int]] = {}  # digest -> bracket, rung
    costs: dict[tuple[int, int], list[float]] = {}
    expected: list[str] = []  # who goes on, in order
    for _ in range(80):
        proposal = optimizer.ask()
        digest, rung = proposal.candidate.digest, (3, 9, 27).index(proposal.budget_epochs)
        if digest in seen:
            assert digest == expected.pop(0)
            bracket = seen[digest][0]
            assert rung == seen[digest][1] + 1
        else:
            assert not expected  # who was promoted comes first
            bracket = rung
            first.append(bracket)
        seen[digest] = bracket, rung
        value = (proposal.seed % 997) / 1000
        optimizer.tell(Trial.of(proposal, cost=value))
        here = costs.setdefault((bracket, rung), [])
        here.append(value)
        if rung < 2 and sum(other < value for other in here) < max(len(here) // 3, 1):
            expected.append(digest)
    assert first[:34] == ([0] * 9 + [1] * 5 + [2] * 3) * 2
    best = optimizer.incumbent()
    assert best is not None
    assert seen[best.digest][1] == 2
