"""Two-stage random search: how the budget is divided, and who is promoted."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from naslib_autokd.optimizers.two_stage_random import TwoStageRandom
from naslib_autokd.records import Proposal, Trial
from naslib_autokd.search_spaces.table import RowCandidate, TableSpace


@cache
def space(n: int = 2000) -> TableSpace:
    return TableSpace("rows", [RowCandidate.of({"width": i}) for i in range(n)])


def cost(proposal: Proposal) -> float:
    return 0.1 + ((7 * dict(proposal.candidate.architecture)["width"]) % 2003) / 1e4


def run(optimizer: TwoStageRandom, n: int, failed: frozenset[int] = frozenset()) -> list[tuple[Proposal, Trial]]:
    pairs = []
    for _ in range(n):
        proposal = optimizer.ask()
        good = proposal.number not in failed
        trial = Trial.of(proposal, cost=cost(proposal) if good else 1.0, status="success" if good else "error")
        optimizer.tell(trial)
        pairs.append((proposal, trial))
    return pairs


def two_stage(total: float | None = None, n: int = 2000, **options: Any) -> TwoStageRandom:
    budgets = {"max_budget_epochs": 200, "min_budget_epochs": 12} | options
    return TwoStageRandom(space(n), seed=3, total_budget_epochs=total, **budgets)


def test_the_cost_of_thirty_full_trainings_is_416_short_ones_and_5_full_ones() -> None:
    pairs = run(two_stage(6000), 421)
    short = [(trial.cost, p.candidate) for p, trial in pairs if p.budget_epochs == 12]
    full = [p.candidate for p, _ in pairs if p.budget_epochs == 200]
    assert (len(short), len(full)) == (416, 5)
    assert len({candidate.digest for _, candidate in short}) == 416
    assert [p.budget_epochs for p, _ in pairs] == [12] * 416 + [200] * 5
    assert full == [candidate for _, candidate in sorted(short, key=lambda pair: pair[0])[:5]]


@pytest.mark.parametrize(("trainings", "n_short", "n_full"), [(10, 133, 2), (1.5, 8, 1)])
def test_other_totals_are_divided_at_the_same_ratio(trainings: float, n_short: int, n_full: int) -> None:
    pairs = run(two_stage(200 * trainings), n_short + n_full)
    budgets = [p.budget_epochs for p, _ in pairs]
    assert budgets == [12] * n_short + [200] * n_full
    assert 200 * (trainings - 1) < sum(budgets) <= 200 * trainings


def test_without_a_total_the_stages_take_turns() -> None:
    pairs = run(two_stage(), 600)
    full = [i for i, (p, _) in enumerate(pairs) if p.budget_epochs == 200]
    assert full[0] == 84  # five full trainings' worth of draws, then the best of them
    first = sum(p.budget_epochs for p, _ in pairs if p.budget_epochs == 12)
    assert len(full) == pytest.approx(first / 5 / 200, abs=1)
    assert len({pairs[i][0].candidate for i in full}) == len(full)


def test_failures_are_not_promoted() -> None:
    first = run(two_stage(6000), 416)
    best = min(range(416), key=lambda i: first[i][1].cost)
    pairs = run(two_stage(6000), 417, failed=frozenset({best}))
    assert pairs[-1][0].budget_epochs == 200
    assert pairs[-1][0].candidate != first[best][0].candidate


@pytest.mark.parametrize("options", [{"min_budget_epochs": 200}, {"total": 200.0}])
def test_where_there_is_no_first_stage_draws_are_trained_in_full(options: dict[str, Any]) -> None:
    pairs = run(two_stage(**{"total": 2000.0, **options}), 12)
    assert {p.budget_epochs for p, _ in pairs} == {200}
    assert len({p.candidate for p, _ in pairs}) == 12


def test_the_first_stage_has_a_budget_of_the_evaluator() -> None:
    pairs = run(two_stage(6000, min_budget_epochs=3, evaluator_budgets=(2, 12, 50, 200)), 3)
    assert {p.budget_epochs for p, _ in pairs} == {12}


def test_a_small_space_is_searched_to_its_end() -> None:
    optimizer = two_stage(6000, n=10)
    pairs = run(optimizer, 421)
    assert {p.candidate for p, _ in pairs if p.budget_epochs == 200} <= set(space(10).rows)
    assert optimizer.incumbent() == min((p for p, _ in pairs), key=cost).candidate


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_that_leaves_a_stage_out_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="full_share must be between 0 and 1"):
        two_stage(full_share=share)
