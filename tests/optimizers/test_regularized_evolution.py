"""Regularized evolution against Algorithm 1 of Real et al. 2019."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from naslib_autokd.optimizers.regularized_evolution import RegularizedEvolution
from naslib_autokd.records import Proposal, Trial
from naslib_autokd.search_spaces.hnag import HNAGSpace

SPACE = HNAGSpace("hnag")


def evolution(**options: Any) -> RegularizedEvolution:
    return RegularizedEvolution(SPACE, seed=1, max_budget_epochs=9, **options)


def answer(proposal: Proposal, cost: float | None = None) -> Trial:
    values = SPACE.values(proposal.candidate)  # type: ignore[arg-type]
    # the number makes costs differ: a mutation of something else leaves kd_weight as it is
    return Trial.of(proposal, cost=values["kd_weight"] / 2 + proposal.number / 1e6 if cost is None else cost)


def n_changed(a: dict[str, Any], b: dict[str, Any]) -> int:
    return sum(a[name] != b[name] for name in a if name in b)


def run(optimizer: RegularizedEvolution, n: int) -> list[dict[str, Any]]:
    """Values of the proposals."""
    asked = []
    for _ in range(n):
        proposal = optimizer.ask()
        asked.append(SPACE.values(proposal.candidate))  # type: ignore[arg-type]
        optimizer.tell(answer(proposal))
    return asked


def test_the_population_is_the_youngest_and_the_best_dies_too() -> None:
    optimizer = evolution(population_size=5, sample_size=2)
    asked = run(optimizer, 5)
    best = optimizer.ask()
    optimizer.tell(answer(best, cost=0.0))
    assert [dict(member.values) for member in optimizer.population][:4] == asked[1:]
    run(optimizer, 5)
    assert all(member.cost > 0.0 for member in optimizer.population)
    assert optimizer.incumbent() == best.candidate  # found once, it is what the search answers


def test_a_child_is_one_mutation_away_from_the_best_of_its_sample() -> None:
    optimizer = evolution(population_size=6, sample_size=300)  # the best is missing with probability 1e-24
    run(optimizer, 6)
    for _ in range(30):
        best = min(optimizer.population, key=lambda member: member.cost)
        proposal = optimizer.ask()
        assert n_changed(SPACE.values(proposal.candidate), dict(best.values)) == 1  # type: ignore[arg-type]
        optimizer.tell(answer(proposal))


def test_with_a_sample_of_one_every_member_is_a_parent_equally_often() -> None:
    optimizer = evolution(population_size=4, sample_size=1)
    run(optimizer, 4)
    members = [dict(member.values) for member in optimizer.population]
    counts = [0] * 4
    for _ in range(200):  # nothing is told, so the population stays
        child = SPACE.values(optimizer.ask().candidate)  # type: ignore[arg-type]
        counts[min(range(4), key=lambda i: n_changed(child, members[i]))] += 1
    assert stats.chisquare(counts).pvalue > 1e-3


def test_failures_fill_the_population_and_lose_every_tournament() -> None:
    optimizer = evolution(population_size=4, sample_size=100)
    proposals = [optimizer.ask() for _ in range(4)]
    for proposal in proposals[:3]:
        optimizer.tell(Trial.of(proposal, status="error", cost=0.0))
    optimizer.tell(answer(proposals[3]))
    child = SPACE.values(optimizer.ask().candidate)  # type: ignore[arg-type]
    assert n_changed(child, SPACE.values(proposals[3].candidate)) == 1  # type: ignore[arg-type]


def test_it_climbs() -> None:
    costs = [values["kd_weight"] for values in run(evolution(), 120)]
    assert sum(costs[60:]) < 0.6 * sum(costs[:20]) * 3


@pytest.mark.parametrize("options", [{"population_size": 0}, {"sample_size": 0}, {"sample_size": 2.5}])
def test_impossible_sizes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="whole number of at least 1"):
        evolution(**options)
