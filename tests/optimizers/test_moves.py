"""Moves in a ConfigSpace against ConfigSpace itself: everything legal, and what a neighbour is."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from ConfigSpace import (
    AndConjunction,
    Categorical,
    Configuration,
    ConfigurationSpace,
    Constant,
    EqualsCondition,
    Float,
    ForbiddenAndConjunction,
    ForbiddenEqualsClause,
    ForbiddenGreaterThanEqualsRelation,
    GreaterThanCondition,
    Integer,
    OrConjunction,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from naslib_autokd.optimizers.full_budget import plain_values
from naslib_autokd.optimizers.moves import Moves
from naslib_autokd.search_spaces.hnag import HNAGSpace

FALSE_ALARM_RATE = 1e-3


def everything() -> ConfigurationSpace:
    """Conditions on conditions, conjunctions, clauses, every kind of hyperparameter."""
    space = ConfigurationSpace()
    space.add(Integer("nodes", (3, 10)), Integer("k", (2, 5), default=2), Float("temperature", (1, 20), log=True))
    space.add(Categorical("operation", ["conv", "pool", "depthwise"]), Categorical("pool", ["mean", "max"]))
    space.add(Float("pool_p", (0.0, 1.0)), Constant("stem", "small"), Integer("width", (1, 128), log=True))
    space.add(Categorical("growth", [1, 2, 4], ordered=True), Float("either", (-1.0, 1.0)), Float("both", (0, 5)))
    space.add(EqualsCondition(space["pool"], space["operation"], "pool"))
    space.add(EqualsCondition(space["pool_p"], space["pool"], "max"))
    either, both = space["either"], space["both"]
    space.add(OrConjunction(EqualsCondition(either, space["pool"], "max"), EqualsCondition(either, space["growth"], 4)))
    space.add(AndConjunction(GreaterThanCondition(both, space["nodes"], 5), EqualsCondition(both, space["growth"], 2)))
    space.add(ForbiddenGreaterThanEqualsRelation(space["k"], space["nodes"]))
    space.add(
        ForbiddenAndConjunction(
            ForbiddenEqualsClause(space["growth"], 4), ForbiddenEqualsClause(space["operation"], "conv")
        )
    )
    return space


SPACES: dict[str, Any] = {name: HNAGSpace(name).configuration_space() for name in ("hnag", "hnag-wide", "hnag-small")}
SPACES |= {
    "individual": HNAGSpace("hnag-small", mode="individual").configuration_space(),
    "everything": everything(),
}
MOVES = {name: Moves(space) for name, space in SPACES.items()}


def check(space: ConfigurationSpace, values: dict[str, Any]) -> None:
    """ConfigSpace's own judgement: names, ranges, activity and clauses."""
    theirs = plain_values(Configuration(space, values=values))
    assert theirs == {
        n: pytest.approx(v, rel=1e-9, abs=1e-12) if isinstance(v, float) else v for n, v in values.items()
    }
    assert all(type(value) in (int, float, str) for value in values.values())


@pytest.mark.parametrize("name", SPACES)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_every_point_is_legal_and_a_move_changes_one_thing(name: str, seed: int) -> None:
    space, moves, rng = SPACES[name], MOVES[name], np.random.default_rng(seed)
    point = moves.draw(rng)
    check(space, point)
    for _ in range(3):
        changed = [moves.mutated(point, rng), *moves.neighbours(point, rng, 0.2)]
        for other in changed:
            check(space, other)
            both = [n for n in point if n in other and other[n] != point[n]]
            assert len(both) == 1
            # whatever else differs has come or gone by a condition
            children = {c.name for c in space.children_of[both[0]]}
            grandchildren = {g.name for c in children for g in space.children_of[c]}
            assert set(point) ^ set(other) <= children | grandchildren
        keys = [moves.key(other) for other in changed[1:]]
        assert len(set(keys)) == len(keys)
        assert moves.key(point) not in keys
        point = changed[0]


def test_neighbours_are_these() -> None:
    space = ConfigurationSpace()
    space.add(Categorical("a", ["x", "y", "z"]), Categorical("b", [1, 2, 4, 8], ordered=True), Integer("c", (1, 10)))
    space.add(Integer("d", (0, 999)), Float("e", (0.0, 10.0)), Float("f", (1.0, 100.0), log=True), Constant("g", 3))
    centre = {"a": "y", "b": 1, "c": 10, "d": 500, "e": 9.5, "f": 10.0, "g": 3}
    found = list(Moves(space).neighbours(centre, np.random.default_rng(0), 0.2))
    changes = [(name, value) for point in found for name, value in point.items() if value != centre[name]]
    expected = [
        *[("a", "x"), ("a", "z"), ("b", 2), ("c", 9), ("d", 300), ("d", 700)],
        *[("e", 7.5), ("e", 10.0), ("f", 10 ** (1 - 0.4)), ("f", 10 ** (1 + 0.4))],
    ]
    assert [name for name, _ in changes] == [name for name, _ in expected]
    assert [value for _, value in changes[:6]] == [value for _, value in expected[:6]]
    np.testing.assert_allclose([v for _, v in changes[6:]], [v for _, v in expected[6:]])


@given(position=st.floats(0, 1), log=st.booleans(), integer=st.booleans())
def test_a_position_and_its_value_are_each_other(position: float, log: bool, integer: bool) -> None:
    space = ConfigurationSpace()
    space.add((Integer if integer else Float)("x", (2, 40), log=log))
    number: Any = Moves(space).dimensions["x"]
    value = number.at(position)
    assert 2 <= value <= 40
    assert number.at(number.position(value)) == pytest.approx(value)
    if not integer:
        assert number.position(value) == pytest.approx(position, abs=1e-9)
    up_and_down = [back for up in number.adjacent(value, 0.05) for back in number.adjacent(up, 0.05)]
    if not integer and 0.06 < position < 0.94:
        assert number.key(value) in [number.key(back) for back in up_and_down]


def test_draws_are_uniform_on_their_scales_and_follow_configspace() -> None:
    moves, rng, n = MOVES["everything"], np.random.default_rng(0), 2000
    drawn = [moves.draw(rng) for _ in range(n)]
    temperature = np.array([point["temperature"] for point in drawn])
    assert stats.kstest(np.log(temperature) / math.log(20), "uniform").pvalue > FALSE_ALARM_RATE
    space = everything()
    space.seed(1)
    theirs = [plain_values(configuration) for configuration in space.sample_configuration(n)]
    for name in ("nodes", "k", "operation", "growth", "pool", "stem"):
        ours, other = (Counter(str(point.get(name)) for point in points) for points in (drawn, theirs))
        table = [[ours[key] for key in sorted(ours | other)], [other[key] for key in sorted(ours | other)]]
        if len(table[0]) > 1:
            assert stats.chi2_contingency(table).pvalue > FALSE_ALARM_RATE, name


def test_mutations_choose_among_the_active_ones_uniformly() -> None:
    moves, rng = MOVES["hnag"], np.random.default_rng(0)
    point = moves.draw(rng)
    changed: Counter[str] = Counter()
    for _ in range(2000):
        other = moves.mutated(point, rng)
        changed[next(name for name in point if name in other and other[name] != point[name])] += 1
    assert set(changed) == set(point)
    assert stats.chisquare(list(changed.values())).pvalue > FALSE_ALARM_RATE


def test_a_space_without_a_legal_point_is_reported() -> None:
    space = ConfigurationSpace()
    space.add(Categorical("a", ["x", "y"]))
    moves = Moves(space)
    moves._clauses = [ForbiddenEqualsClause(space["a"], "x"), ForbiddenEqualsClause(space["a"], "y")]
    with pytest.raises(RuntimeError, match="no legal point in 1000 draws"):
        moves.draw(np.random.default_rng(0))
