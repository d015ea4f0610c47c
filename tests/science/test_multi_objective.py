"""Several objectives: the front of AutoKD against that of random search, and the arithmetic of compromises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from naslib_autokd.evaluators.benchmark import KDBenchmark
from naslib_autokd.optimizers.autokd import AutoKD, Compromise
from naslib_autokd.optimizers.random_search import RandomSearch
from naslib_autokd.records import Proposal, Trial
from naslib_autokd.runners.pareto import hypervolume, objective_table, pareto_front
from naslib_autokd.search_spaces.hnag import Candidate, HNAGSpace

OBJECTIVES = ("error", "macs")
EPOCHS = 180


def true_hypervolume(benchmark, chosen):
    """Of families ``(candidate, MACs)``, by their expected errors without noise, MACs on a logarithmic scale."""
    points = [
        [(benchmark.true_cost(candidate) - 0.05) / 0.35, np.log(macs / 3e5) / np.log(2.5e6 / 3e5)]
        for candidate, macs in chosen
    ]
    return hypervolume(np.maximum(points, 0.0), (1.0, 1.0))


def run(benchmark, optimizer):
    trials, spent = [], 0.0
    while True:
        proposal = optimizer.ask()
        if spent + proposal.budget_epochs > EPOCHS:
            return trials
        trial = benchmark.evaluate(proposal)
        optimizer.tell(trial)
        trials.append(trial)
        spent += trial.student_epochs


@pytest.mark.slow
def test_the_front_dominates_that_of_random_search_at_equal_cost():
    benchmark = KDBenchmark("cluttered-digits")
    budgets = {"max_budget_epochs": 9, "min_budget_epochs": 3, "total_budget_epochs": EPOCHS}
    ours, theirs = [], []
    for seed in range(6):
        autokd = AutoKD(benchmark.space, seed=seed, objectives=OBJECTIVES, **budgets)
        run(benchmark, autokd)
        ours.append(true_hypervolume(benchmark, [(family, values["macs"]) for family, values in autokd.front()]))
        trials = run(benchmark, RandomSearch(benchmark.space, seed=seed, **budgets))
        values, places = objective_table(trials, OBJECTIVES)
        front = pareto_front(values)
        theirs.append(
            true_hypervolume(
                benchmark,
                [(Candidate.from_dict(trials[places[index]].candidate), values[index, 1]) for index in front],
            )
        )
    assert np.mean(ours) > np.mean(theirs)
    assert stats.wilcoxon(ours, theirs, alternative="greater").pvalue < 0.05


def test_compromises_are_parego():
    means = np.array([[0.1, 5.0], [0.3, 1.0], [0.2, 3.0]])
    compromise = Compromise(means, np.random.default_rng(0))
    weights = compromise.weights
    scaled = (means - [0.1, 1.0]) / [0.2, 4.0]
    expected = [max(w * row) + 0.05 * sum(w * row) for row, w in ((r, weights) for r in scaled)]
    np.testing.assert_allclose(compromise.of(means), expected)
    assert weights.sum() == pytest.approx(1)
    # without uncertainty the improvement is the difference
    best = float(compromise.of(means).max())
    improvement = compromise.improvement(means, np.zeros_like(means), best)
    np.testing.assert_allclose(improvement, np.maximum(best - compromise.of(means), 0), atol=1e-12)


def test_bad_objectives_are_errors_before_any_work():
    space = HNAGSpace("hnag-small")
    for objectives, message in (
        (("error", "mac"), "did you mean 'macs'"),
        (("macs", "error"), "begin with the error"),
        (("error", "macs", "macs"), "must differ"),
    ):
        with pytest.raises(ValueError, match=message):
            AutoKD(space, max_budget_epochs=9, objectives=objectives)
    with pytest.raises(ValueError, match="several objectives need"):
        AutoKD(space, max_budget_epochs=9, model="rf", objectives=OBJECTIVES)


def test_failures_and_replay_with_several_objectives():
    """A failure knows no objectives; a run is continued exactly."""
    space = HNAGSpace("hnag-small")
    budgets = {"max_budget_epochs": 9, "min_budget_epochs": 3, "total_budget_epochs": EPOCHS}

    def answer(proposal: Proposal) -> Trial:
        if proposal.number % 5 == 4:
            return Trial.of(proposal, status="diverged", message="x", student_epochs=1.0)
        generator = proposal.candidate.generator
        return Trial.of(proposal, cost=0.1 * generator.channel_growth, macs=10 * generator.top.n_nodes)

    first, second = (AutoKD(space, seed=3, objectives=OBJECTIVES, **budgets) for _ in range(2))
    trials = []
    for _ in range(25):
        trials.append(answer(first.ask()))
        first.tell(trials[-1])
    from naslib_autokd.optimizers import replay

    assert replay(second, trials) == []
    for _ in range(4):
        ours, theirs = first.ask(), second.ask()
        assert ours == theirs
        first.tell(answer(ours))
        second.tell(answer(theirs))
    errors = [values["error"] for _, values in first.front()]
    macs = [values["macs"] for _, values in first.front()]
    assert errors == sorted(errors)
    assert macs == sorted(macs, reverse=True)
