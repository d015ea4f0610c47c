"""REINFORCE against its definition: the score function, its expectation, Adam, and a bandit."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from ConfigSpace import Categorical, ConfigurationSpace, EqualsCondition, Float, Integer

from naslib_autokd.optimizers.reinforce import Reinforce
from naslib_autokd.records import Trial, content_digest
from naslib_autokd.search_spaces.hnag import HNAGSpace


class Point:
    def __init__(self, values: dict[str, Any]) -> None:
        self._values = dict(values)
        self.digest = content_digest(self._values)

    def to_dict(self) -> dict[str, Any]:
        return self._values

    from_dict = classmethod(lambda cls, values: cls(values))


class Space:
    """Two arms that matter, one of them a condition for a third; a float in parts."""

    name = "arms"

    def configuration_space(self) -> ConfigurationSpace:
        space = ConfigurationSpace()
        space.add(Categorical("arm", ["a", "b", "c", "d"]), Integer("n", (1, 3)), Categorical("child", ["u", "v"]))
        space.add(Float("x", (1.0, 100.0), log=True))
        space.add(EqualsCondition(space["child"], space["arm"], "c"))
        return space

    def candidate(self, values: Any) -> Point:
        return Point(values)

    def values(self, candidate: Point) -> dict[str, Any]:
        return candidate.to_dict()


def agent(space: Any = None, **options: Any) -> Reinforce:
    return Reinforce(space or Space(), seed=2, max_budget_epochs=9, **options)


def run(optimizer: Reinforce, n: int, cost: Any) -> list[dict[str, Any]]:
    points = []
    for _ in range(n):
        proposal = optimizer.ask()
        points.append(proposal.candidate.to_dict())
        optimizer.tell(Trial.of(proposal, cost=cost(points[-1])))
    return points


def log_probability(optimizer: Reinforce, values: dict[str, Any]) -> float:
    """Written down anew: the sum over the active hyperparameters."""
    rows = {"arm": ["a", "b", "c", "d"], "n": [1, 2, 3], "child": ["u", "v"]}
    total = 0.0
    for name, value in values.items():
        logits = optimizer.logits[list(optimizer._moves.dimensions).index(name)]
        index = rows[name].index(value) if name in rows else min(int(math.log(value) / math.log(100) * 10), 9)
        total += logits[index] - math.log(sum(math.exp(logit) for logit in logits if math.isfinite(logit)))
    return total


@pytest.mark.parametrize("values", [{"arm": "b", "n": 3, "x": 20.0}, {"arm": "c", "n": 1, "x": 1.0, "child": "v"}])
def test_the_score_is_the_gradient_of_the_log_probability(values: dict[str, Any]) -> None:
    optimizer = agent()
    optimizer.logits += np.random.default_rng(0).normal(size=optimizer.logits.shape)  # infinite ones stay infinite
    score = optimizer.score(values)
    for row, column in itertools.product(*map(range, score.shape)):
        before = optimizer.logits[row, column]
        if not np.isfinite(before):
            assert score[row, column] == 0.0
            continue
        sides = []
        for step in (1e-6, -1e-6):
            optimizer.logits[row, column] = before + step
            sides.append(log_probability(optimizer, values))
        optimizer.logits[row, column] = before
        assert score[row, column] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-6)


def test_what_is_asked_follows_the_policy() -> None:
    optimizer = agent()
    row = list(optimizer._moves.dimensions).index("arm")
    optimizer.logits[row, :4] = np.log([0.7, 0.1, 0.1, 0.1])
    points = [optimizer.ask().candidate.to_dict() for _ in range(600)]
    assert sum(point["arm"] == "a" for point in points) / 600 == pytest.approx(0.7, abs=0.06)  # 3 standard errors
    assert all(("child" in point) == (point["arm"] == "c") for point in points)
    np.testing.assert_allclose(optimizer.probabilities().sum(1), 1.0)


def test_updates_are_those_of_adam() -> None:
    """Kingma and Ba's Algorithm 1, number by number."""
    optimizer = agent(learning_rate=0.05)
    gradients = np.where(optimizer._exists, np.random.default_rng(0).normal(size=(5, *optimizer.logits.shape)), 0.0)
    for gradient in gradients:
        optimizer._ascend(gradient)
    for row, column in zip(*np.nonzero(optimizer._exists), strict=True):
        m = v = logit = 0.0
        for t, g in enumerate(gradients[:, row, column], start=1):
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g * g
            logit += 0.05 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert optimizer.logits[row, column] == pytest.approx(logit)


def test_the_baseline_is_the_moving_average_of_the_rewards() -> None:
    """The first reward is its own baseline and changes nothing; then better than the average is reinforced."""
    optimizer = agent(baseline_momentum=0.8)
    first = run(optimizer, 1, lambda point: 0.4)[0]
    finite = optimizer.logits[optimizer._exists]
    assert not finite.any()
    better = run(optimizer, 1, lambda point: 0.1)[0]
    row = list(optimizer._moves.dimensions).index("n")
    assert optimizer.logits[row, better["n"] - 1] > 0
    total, weight = optimizer._baseline
    assert total / weight == pytest.approx((0.8 * 0.6 + 0.9) / 1.8)  # weights 0.8 * 0.2 and 0.2, normalised
    assert first != better


def test_a_bandit_is_solved() -> None:
    def cost(point: dict[str, Any]) -> float:
        best = point["arm"] == "c" and point.get("child") == "v"
        return 0.30 - 0.05 * best - 0.02 * (point["n"] == 2) + 0.02 * abs(math.log10(point["x"]) - 0.75)

    optimizer = agent()
    run(optimizer, 500, cost)
    names = list(optimizer._moves.dimensions)
    likely = {name: int(np.argmax(optimizer.logits[names.index(name)])) for name in names}
    assert (likely["arm"], likely["child"], likely["n"]) == (2, 1, 1)
    assert likely["x"] in (2, 3, 4)
    assert optimizer.probabilities()[names.index("arm"), 2] > 0.8


def test_failures_are_rewarded_with_nothing() -> None:
    optimizer = agent()
    run(optimizer, 10, lambda point: 0.3)
    failed = optimizer.ask()
    before = optimizer.logits.copy()
    optimizer.tell(Trial.of(failed, status="diverged"))
    row = list(optimizer._moves.dimensions).index("n")
    chosen = failed.candidate.to_dict()["n"] - 1
    assert optimizer.logits[row, chosen] < before[row, chosen]


def test_forbidden_points_are_sampled_anew() -> None:
    space = HNAGSpace("hnag-small")  # at most 20 operations, by clauses
    optimizer = agent(space)
    names = list(optimizer._moves.dimensions)
    optimizer.logits[names.index("top_nodes"), 6] = 5.0  # 9 nodes
    optimizer.logits[names.index("bottom_nodes"), 4] = 5.0  # of 5 operations each: forbidden
    for _ in range(50):
        values = space.values(optimizer.ask().candidate)  # type: ignore[arg-type]
        assert values["top_nodes"] * values["bottom_nodes"] <= 20


@pytest.mark.parametrize("options", [{"learning_rate": 0.0}, {"baseline_momentum": 1.0}, {"n_bins": 1}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        agent(**options)
