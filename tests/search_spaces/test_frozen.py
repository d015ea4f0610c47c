"""Spaces with fixed hyperparameters: exactly the candidates of the space that have the fixed values, and no others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
    ForbiddenInClause,
    GreaterThanCondition,
    InCondition,
    Integer,
    NotEqualsCondition,
    OrConjunction,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from naslib_autokd.records import content_digest
from naslib_autokd.search_spaces.frozen import FrozenSpace
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.tasks import get_task


@dataclass(frozen=True)
class Point:
    items: tuple[tuple[str, Any], ...]

    @property
    def digest(self) -> str:
        return content_digest([list(item) for item in self.items])


class Tangled:
    """Conditions on conditions, conjunctions, clauses of two and three, a relation, values of all kinds."""

    name = "tangled"

    def __init__(self) -> None:
        self._space = self.configuration_space()

    def configuration_space(self) -> ConfigurationSpace:
        space = ConfigurationSpace(seed=0)
        space.add(
            Integer("nodes", (3, 10)),
            Integer("k", (2, 6), default=2),
            Float("temperature", (1, 20), log=True),
            Categorical("operation", ["conv", "pool", "depthwise"]),
            Categorical("pool", ["mean", "max"]),
            Float("pool_p", (0.0, 1.0)),
            Constant("stem", "small"),
            Categorical("width", [4, 8, 16], ordered=True),
            Float("both", (0.0, 1.0)),
            Float("either", (0.0, 1.0)),
            Integer("deep", (1, 8), log=True),
        )
        pool, operation, nodes, width, k = (space[n] for n in ("pool", "operation", "nodes", "width", "k"))
        space.add(EqualsCondition(pool, operation, "pool"), EqualsCondition(space["pool_p"], pool, "max"))
        both, either, deep = space["both"], space["either"], space["deep"]
        space.add(AndConjunction(GreaterThanCondition(both, nodes, 5), InCondition(both, width, [8, 16])))
        space.add(OrConjunction(EqualsCondition(either, operation, "conv"), GreaterThanCondition(either, nodes, 7)))
        space.add(NotEqualsCondition(deep, width, 4))
        space.add(
            ForbiddenGreaterThanEqualsRelation(k, nodes),
            ForbiddenAndConjunction(ForbiddenEqualsClause(operation, "conv"), ForbiddenInClause(nodes, [8, 9, 10])),
            ForbiddenAndConjunction(
                ForbiddenEqualsClause(operation, "depthwise"),
                ForbiddenEqualsClause(width, 16),
                ForbiddenInClause(nodes, [3, 4]),
            ),
        )
        return space

    def candidate(self, values: Mapping[str, Any]) -> Point:
        Configuration(self._space, values=dict(values)).check_valid_configuration()
        return Point(tuple(sorted(values.items())))

    def values(self, candidate: Point) -> dict[str, Any]:
        return dict(candidate.items)


SPACES: dict[str, Any] = {
    "tangled": Tangled(),
    "hnag": HNAGSpace("hnag"),
    "hnag-small": HNAGSpace("hnag-small"),
    "hnag-wide": HNAGSpace("hnag-wide", mode="individual"),
}


def plain(configuration: Any) -> dict[str, Any]:
    values = {name: v.item() if hasattr(v, "item") else v for name, v in dict(configuration).items()}
    return {name: str(value) if isinstance(value, str) else value for name, value in values.items()}


WHOLE: dict[str, ConfigurationSpace] = {name: space.configuration_space() for name, space in SPACES.items()}


def drawn(name: str, seed: int) -> dict[str, Any]:
    """A legal point of a space."""
    WHOLE[name].seed(seed)
    return plain(WHOLE[name].sample_configuration())


def frozen_at(name: str, seed: int) -> tuple[FrozenSpace, dict[str, Any], dict[str, Any]]:
    """A space with some hyperparameters fixed at a point's values, the point, and what was fixed.

    Where a value is fixed that only counts under a condition, its parents are fixed, too, so that clauses can be said.
    """
    point = drawn(name, seed)
    rng = np.random.default_rng(seed)
    chosen = {n for n in point if n != "stem" and rng.random() < 0.35}
    if name == "tangled":
        for _ in range(2):
            chosen |= {parent.name for n in chosen for parent in WHOLE[name].parents_of[n]}
    fixed = {n: point[n] for n in sorted(chosen)}
    return FrozenSpace(SPACES[name], fixed), point, fixed


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_is_drawn_is_legal_and_has_the_fixed_values(name: str, seed: int) -> None:
    frozen, _, fixed = frozen_at(name, seed)
    space = SPACES[name]
    rng = np.random.default_rng(seed)
    what_is_left = frozen.configuration_space()
    assert not set(fixed) & set(what_is_left)
    for candidate in [frozen.default_candidate(), *(frozen.sample(rng) for _ in range(3))]:
        values = space.values(candidate)  # HNAG's checks that it is a point of the space; Tangled's candidate() did
        for hyperparameter, value in fixed.items():
            if hyperparameter in values:
                assert values[hyperparameter] == pytest.approx(value)
        left = frozen.values(candidate)
        assert frozen.candidate(left) == candidate
        Configuration(what_is_left, values=left).check_valid_configuration()
        assert set(values) - set(left) <= set(frozen._single)


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_point_with_the_fixed_values_is_still_there(name: str, seed: int) -> None:
    frozen, point, _ = frozen_at(name, seed)
    candidate = SPACES[name].candidate(point)
    left = frozen.values(candidate)
    Configuration(frozen.configuration_space(), values=left).check_valid_configuration()
    assert frozen.candidate(left) == candidate


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_fixed_values_under_open_conditions_come_and_go_with_them(seed: int) -> None:
    frozen = FrozenSpace(SPACES["hnag"], {"top_k": 4, "top_p": 0.25, "mid_p": 0.75})
    values = SPACES["hnag"].values(frozen.sample(np.random.default_rng(seed)))
    assert values.get("top_k") == (4 if values["top_nodes"] > 4 else None)
    assert values.get("top_p") == (0.25 if values["top_nodes"] > 3 else None)
    assert values.get("mid_p") == (0.75 if values["mid_nodes"] > 1 else None)


def test_a_fixed_parent_hands_its_own_condition_on() -> None:
    frozen = FrozenSpace(Tangled(), {"pool": "max"})  # pool_p is there if pool is max, and pool if pooling is chosen
    rng = np.random.default_rng(0)
    for values in (dict(frozen.sample(rng).items) for _ in range(20)):
        assert ("pool_p" in values) == ("pool" in values) == (values["operation"] == "pool")
    assert "pool_p" not in FrozenSpace(Tangled(), {"pool": "mean"}).configuration_space()


def test_conditions_are_decided() -> None:
    def left(fixed: Mapping[str, Any]) -> set[str]:
        return set(FrozenSpace(Tangled(), fixed).configuration_space())

    everything = set(Tangled().configuration_space())
    # conv: no pooling, "either" always; nodes are at most 7
    assert left({"operation": "conv"}) == everything - {"operation", "pool", "pool_p"}
    assert left({"operation": "pool", "pool": "mean"}) == everything - {"operation", "pool", "pool_p"}
    space = FrozenSpace(Tangled(), {"operation": "pool", "pool": "max"}).configuration_space()
    assert "pool_p" in space.unconditional_hyperparameters
    # nodes above 5 leave the other half of a conjunction, up to 5 none of it
    half = FrozenSpace(Tangled(), {"nodes": 7}).configuration_space()
    assert [condition.parent.name for condition in half.conditions if condition.child.name == "both"] == ["width"]
    assert "both" not in left({"nodes": 5})
    assert "both" not in left({"width": 4})


def test_ranges_shrink_to_what_clauses_leave() -> None:
    space = FrozenSpace(Tangled(), {"operation": "conv"}).configuration_space()
    assert (space["nodes"].lower, space["nodes"].upper) == (3, 7)
    space = FrozenSpace(Tangled(), {"k": 6}).configuration_space()
    assert (space["nodes"].lower, space["nodes"].upper) == (7, 10)
    # four nodes and 16 channels forbid depthwise; the relation leaves 2 and 3 of k
    space = FrozenSpace(Tangled(), {"nodes": 4, "width": 16}).configuration_space()
    assert set(space["operation"].choices) == {"conv", "pool"}
    assert (space["k"].lower, space["k"].upper) == (2, 3)
    assert not space.forbidden_clauses
    # three nodes leave one k: it is no hyperparameter any more, and every candidate has it
    frozen = FrozenSpace(Tangled(), {"nodes": 3})
    assert "k" not in frozen.configuration_space()
    assert dict(frozen.default_candidate().items)["k"] == 2
    # of HNAG: bottom graphs of 5 nodes leave top graphs of 3 and 4, in which k is no choice
    space = FrozenSpace(SPACES["hnag-small"], {"bottom_nodes": 5}).configuration_space()
    assert (space["top_nodes"].lower, space["top_nodes"].upper) == (3, 4)
    assert "top_k" not in space


def test_draws_are_uniform_on_what_is_left() -> None:
    frozen = FrozenSpace(SPACES["hnag-small"], {"bottom_nodes": 5})
    rng = np.random.default_rng(1)
    nodes = [frozen.sample(rng).generator.top.n_nodes for _ in range(300)]
    assert 110 < nodes.count(3) < 190  # 150 +- 8.7, so 4.6 standard deviations


def test_default_stands_for_the_default_and_for_nothing_where_it_is_inactive() -> None:
    space = SPACES["hnag-small"]
    default = space.values(space.default_candidate())
    level = dict.fromkeys(("bottom_nodes", "bottom_k", "bottom_p"), "default")
    frozen = FrozenSpace(space, level)
    assert frozen.fixed == {"bottom_nodes": default["bottom_nodes"]}
    assert frozen.default_candidate() == space.default_candidate()
    everything_else = {name: "default" for name in default if name != "temperature"}
    assert list(FrozenSpace(space, everything_else).configuration_space()) == ["temperature"]


@pytest.mark.parametrize(
    ("name", "fixed", "message"),
    [
        ("hnag", {"topnodes": 3}, "unknown hyperparameter 'topnodes'; did you mean 'top_nodes'"),
        ("hnag", {"top_nodes": 11}, "top_nodes cannot be fixed at 11: it is an integer from 3 to 10"),
        ("hnag", {"top_nodes": 3.5}, "top_nodes cannot be fixed at 3.5"),
        ("hnag", {"top_nodes": True}, "top_nodes cannot be fixed at True"),
        ("hnag", {"kd_weight": "much"}, "kd_weight cannot be fixed at 'much': it is a number from 0.0 to 1.0"),
        ("hnag", {"kd_weight": None}, "kd_weight cannot be fixed at None"),
        ("hnag-small", {"downsampling": "min"}, "it is one of 'average', 'max'"),
        ("hnag", {"top_nodes": 4, "top_k": 2}, "top_k cannot be fixed at 2: with the other fixed values it is never"),
        ("hnag-small", {"top_nodes": 9, "bottom_nodes": 5}, "are forbidden"),
        ("tangled", {"k": 5, "nodes": 5}, "are forbidden"),
    ],
)
def test_what_cannot_be_fixed_is_told(name: str, fixed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        FrozenSpace(SPACES[name], fixed)
    assert message in str(caught.value)


def test_a_space_of_which_nothing_is_left_is_refused() -> None:
    space = HNAGSpace("hnag-small")
    with pytest.raises(ValueError, match="nothing is left to search in hnag-small"):
        FrozenSpace(space, space.values(space.default_candidate()))


def test_a_clause_that_no_configspace_can_say_is_an_error_that_says_what_to_do() -> None:
    class Related(Tangled):
        def configuration_space(self) -> ConfigurationSpace:
            space = ConfigurationSpace(seed=0)
            space.add(
                Float("low", (0.0, 1.0), default=0.1), Float("high", (0.0, 1.0), default=0.9), Integer("n", (1, 3))
            )
            space.add(ForbiddenGreaterThanEqualsRelation(space["low"], space["high"]))
            return space

    with pytest.raises(ValueError, match=r"low cannot be fixed alone .*: fix high, too"):
        FrozenSpace(Related(), {"low": 0.5})
    assert list(FrozenSpace(Related(), {"low": 0.5, "high": 0.6}).configuration_space()) == ["n"]

    class Conditional(Tangled):
        def configuration_space(self) -> ConfigurationSpace:
            space = ConfigurationSpace(seed=0)
            space.add(Integer("a", (1, 3)), Integer("b", (1, 3)), Integer("c", (1, 3)))
            space.add(GreaterThanCondition(space["b"], space["a"], 1))
            space.add(
                ForbiddenAndConjunction(ForbiddenEqualsClause(space["b"], 2), ForbiddenEqualsClause(space["c"], 3))
            )
            return space

    with pytest.raises(ValueError, match=r"b cannot be fixed alone .*: fix its parent, too"):
        FrozenSpace(Conditional(), {"b": 2})
    space = FrozenSpace(Conditional(), {"b": 2, "a": 3}).configuration_space()
    assert (space["c"].lower, space["c"].upper) == (1, 2)


def test_candidates_of_elsewhere_are_refused() -> None:
    space = SPACES["hnag-small"]
    frozen = FrozenSpace(space, {"top_nodes": 6})
    other = space.candidate({**space.values(space.default_candidate()), "top_nodes": 7})
    with pytest.raises(ValueError, match="has top_nodes=7, fixed at 6 here"):
        frozen.values(other)
    with pytest.raises(ValueError, match="top_nodes is fixed at 6 and cannot be given"):
        frozen.candidate(space.values(other))
    with pytest.raises(ValueError, match="unknown hyperparameter 'temprature'; did you mean 'temperature'"):
        frozen.candidate({"temprature": 3})
    with pytest.raises(ValueError, match="not a configuration"):
        frozen.candidate({"temperature": 3})


def test_it_describes_and_checks_itself() -> None:
    frozen = FrozenSpace(SPACES["hnag-small"], {"top_nodes": "default"})
    assert frozen.name == "hnag-small"
    described = json.loads(json.dumps(frozen.describe()))
    assert described == {**SPACES["hnag-small"].describe(), "fixed": {"top_nodes": 5}}
    assert FrozenSpace(Tangled(), {"k": 2}).describe() == {"name": "tangled", "fixed": {"k": 2}}
    frozen.check(get_task("cluttered-digits"))
    with pytest.raises(ValueError):
        frozen.check(get_task("cluttered-digits", max_params=10))
    FrozenSpace(Tangled(), {"k": 2}).check(get_task("cluttered-digits"))
    assert "FrozenSpace(" in repr(frozen)


def test_frozen_spaces_can_be_frozen_again_and_are_the_same_every_time() -> None:
    space = SPACES["hnag-small"]
    twice = FrozenSpace(FrozenSpace(space, {"top_nodes": 6}), {"kd_weight": 0.5})
    once = FrozenSpace(space, {"top_nodes": 6, "kd_weight": 0.5})
    assert twice.configuration_space() == once.configuration_space() == once.configuration_space()
    assert twice.sample(np.random.default_rng(0)) == once.sample(np.random.default_rng(0))
