"""A table as a search space: whatever is proposed is a row, and the optimizers know which."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from ConfigSpace import ConfigurationSpace
from hypothesis import given, settings
from hypothesis import strategies as st

from naslib_autokd.optimizers import OPTIMIZERS, get_optimizer, replay
from naslib_autokd.optimizers.budget_aware_gp import SpaceVectors, maximise
from naslib_autokd.optimizers.moves import Moves
from naslib_autokd.records import Ask, Trial
from naslib_autokd.runners.ablation import variant
from naslib_autokd.search_spaces.table import RowCandidate, TableSpace
from naslib_autokd.tasks import get_task

WIDTHS, DEPTHS, METHODS = (8, 16, 24, 64), (1, 2, 3), ("kd", "none", "hint")


def row(width: int, depth: float, method: str, temperature: float = 1.0) -> RowCandidate:
    return RowCandidate.of({"width": width, "depth": depth}, {"method": method, "temperature": temperature})


def table(n: int = 40, seed: int = 0) -> TableSpace:
    """Rows scattered over a much larger product of columns."""
    rng = np.random.default_rng(seed)
    architectures = {
        (*((f"c{i}", int(rng.integers(1, 12))) for i in range(6)), ("op", str(rng.choice(["conv", "pool"]))))
        for _ in range(n)
    }
    return TableSpace(
        "scattered", [RowCandidate.of(dict(a), {"method": m}) for a in sorted(architectures) for m in METHODS]
    )


@pytest.fixture
def small() -> TableSpace:
    """Not a full product: hint has temperatures, and 64 wide is never trained with it."""
    rows = [row(w, d, m) for w in WIDTHS for d in DEPTHS for m in ("kd", "none")]
    return TableSpace("small", rows + [row(w, 2, "hint", t) for w in WIDTHS[:3] for t in (1.0, 4.0)])


def test_a_row_is_plain_data_whatever_the_order_of_its_columns() -> None:
    a = RowCandidate.of({"width": 8, "depth": 2}, {"method": "kd"})
    b = RowCandidate.of({"depth": 2, "width": 8}, {"method": "kd"})
    assert (a, a.digest) == (b, b.digest)
    assert RowCandidate.from_dict(a.to_dict()) == a
    assert a.to_dict() == {"architecture": {"depth": 2, "width": 8}, "kd": {"method": "kd"}}
    assert a.digest != RowCandidate.of({"depth": 2, "width": 8}).digest
    with pytest.raises(ValueError, match=r"unknown key 'architectur'.*did you mean 'architecture'"):
        RowCandidate.from_dict({"architectur": {}})


def test_columns_become_hyperparameters(small: TableSpace) -> None:
    space = small.configuration_space()
    assert small.columns == ("depth", "width", "method", "temperature")
    assert set(space) == set(small.columns)
    assert list(space["width"].sequence) == [8, 16, 24, 64]
    assert set(space["method"].choices) == set(METHODS)
    assert dict(space.get_default_configuration()) == small.values(small.default_candidate())
    only = TableSpace("one", [row(8, 2, "kd")])
    assert only.candidate(dict(only.configuration_space().get_default_configuration())) == row(8, 2, "kd")


def test_every_row_is_its_own_point(small: TableSpace) -> None:
    for space in (small, table()):
        for candidate in space.rows:
            assert space.candidate(space.values(candidate)) == candidate


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_other_points_are_the_nearest_row_with_the_same_kd(data: st.DataObject) -> None:
    space = table()
    point = {column: data.draw(st.sampled_from(choices)) for column, choices in space.choices.items()}
    found = space.candidate(point)
    assert found in space.rows
    assert dict(found.kd)["method"] == point["method"]

    def distance(values: dict[str, Any]) -> float:
        total = float(values["op"] != point["op"])
        for i in range(6):
            ranks = space.choices[f"c{i}"]
            total += ((ranks.index(values[f"c{i}"]) - ranks.index(point[f"c{i}"])) / (len(ranks) - 1)) ** 2
        return total

    same = [space.values(c) for c in space.rows if dict(c.kd)["method"] == point["method"]]
    assert distance(space.values(found)) == pytest.approx(min(map(distance, same)))


def test_a_kd_category_holds_and_its_numbers_give_way(small: TableSpace) -> None:
    # hint was never trained 64 wide, and kd never at temperature 4
    assert small.candidate({"width": 64, "depth": 3, "method": "hint", "temperature": 4.0}) == row(24, 2, "hint", 4.0)
    assert small.candidate({"width": 64, "depth": 3, "method": "kd", "temperature": 4.0}) == row(64, 3, "kd", 1.0)
    # even where all else is as far away as can be
    far = TableSpace("far", [row(8, 1, "kd"), row(64, 3, "hint")])
    assert far.candidate({"width": 8, "depth": 1, "method": "hint", "temperature": 1.0}) == row(64, 3, "hint")


def test_a_held_column_keeps_its_value(small: TableSpace) -> None:
    values = {"width": 64, "depth": 3, "method": "hint", "temperature": 4.0}
    assert dict(small.candidate(values, held="width").architecture)["width"] == 64


def test_wrong_values_are_named(small: TableSpace) -> None:
    values = small.values(small.rows[0])
    with pytest.raises(ValueError, match=r"unknown key 'widht'.*did you mean 'width'"):
        small.candidate(values | {"widht": 8})
    with pytest.raises(ValueError, match="lacks 'width'"):
        small.candidate({k: v for k, v in values.items() if k != "width"})
    with pytest.raises(ValueError, match="width=9 is not a value of the space 'small': 8, 16, 24, 64"):
        small.candidate(values | {"width": 9})
    with pytest.raises(ValueError, match="has no row"):
        small.values(row(9, 1, "kd"))
    with pytest.raises(ValueError, match="looked up"):
        small.check(get_task("cluttered-digits"))


def test_wrong_rows_are_named() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        TableSpace("empty", [])
    with pytest.raises(ValueError, match="1 rows twice"):
        TableSpace("twice", [row(8, 1, "kd"), row(8, 1, "kd")])
    with pytest.raises(ValueError, match=r"row 1 .* other columns"):
        TableSpace("other", [row(8, 1, "kd"), RowCandidate.of({"width": 8}, {"method": "kd"})])
    with pytest.raises(ValueError, match="both architecture and kd"):
        TableSpace("both", [RowCandidate.of({"width": 8}, {"width": 8})])
    with pytest.raises(ValueError, match="'width' mixes numbers and text"):
        TableSpace("mixed", [RowCandidate.of({"width": 8}), RowCandidate.of({"width": "wide"})])


def test_draws_are_rows_with_equal_probability(small: TableSpace) -> None:
    n, rows = 3000, len(small.rows)
    space = small.configuration_space()
    space.seed(1)
    by_configuration = Counter(small.candidate(dict(c)) for c in space.sample_configuration(n))
    rng = np.random.default_rng(2)
    by_rng = Counter(small.sample(rng) for _ in range(n))
    for counts in (by_configuration, by_rng):
        assert set(counts) == set(small.rows)
        squares = sum((counts[r] - n / rows) ** 2 for r in small.rows) / (n / rows)
        assert squares < 60  # chi-squared with 29 degrees of freedom: 6e-4 by chance
    # an uniform draw of the columns would land on a row in 30 of 96 cases only
    drawn = [dict(c) for c in space.sample_configuration(50)]
    assert all(small.values(small.candidate(values)) == values for values in drawn)


def test_spaces_are_equal_by_their_rows(small: TableSpace) -> None:
    a, b = small.configuration_space(), small.configuration_space()
    assert a == b
    assert a == pickle.loads(pickle.dumps(a))
    assert a != small.frozen({"method": "kd"}).configuration_space()
    assert a != ConfigurationSpace("small")
    assert [dict(c) for c in a.sample_configuration(5)] == [dict(c) for c in b.sample_configuration(5)]
    assert dict(a.sample_configuration()) == dict(b.sample_configuration())
    assert small.describe()["digest"] != small.frozen({"method": "kd"}).describe()["digest"]


def test_a_frozen_table_has_the_rows_with_these_values(small: TableSpace) -> None:
    frozen = small.frozen({"method": "hint", "temperature": 4.0})
    assert frozen.rows == tuple(row(w, 2, "hint", 4.0) for w in WIDTHS[:3])
    default = small.values(small.default_candidate())["depth"]
    assert {small.values(r)["depth"] for r in small.frozen({"depth": "default"}).rows} == {default}
    kept = variant(small, {"freeze": {"width": 16}})
    assert {kept.values(r)["width"] for r in kept.rows} == {16}
    with pytest.raises(ValueError, match=r"no row with \{'method': 'hint', 'width': 64\}"):
        small.frozen({"method": "hint", "width": 64})
    with pytest.raises(ValueError, match="did you mean 'method'"):
        small.frozen({"methods": "kd"})


def test_moves_lead_from_row_to_row() -> None:
    """Changing one column and taking the nearest row would mostly lead back: architectures are far apart."""
    space = table()
    moves, rng = Moves(space.configuration_space()), np.random.default_rng(0)
    back = 0
    for candidate in space.rows:
        values = space.values(candidate)
        moved = moves.mutated(values, rng)
        assert space.values(space.candidate(moved)) == moved
        assert moved != values
        column = next(c for c in space.columns if moved[c] != values[c])
        back += space.candidate(values | {column: moved[column]}) == candidate
        neighbours = [space.candidate(point) for point in moves.neighbours(values, rng, 0.1)]
        assert candidate not in neighbours
        assert len({n.architecture for n in neighbours} - {candidate.architecture}) >= 3
        assert {n.kd for n in neighbours if n.architecture == candidate.architecture} >= {
            (("method", m),) for m in METHODS if m != values["method"]
        }
    assert back > len(space.rows) / 3, "then holding the column would not be needed"
    drawn = Counter(space.candidate(moves.draw(rng)) for _ in range(2000))
    assert set(drawn) == set(space.rows)


def test_the_model_judges_all_rows() -> None:
    """Between rows there is nothing: what climbs there would be sent back to a row that it did not choose."""
    space = table()
    vectors = SpaceVectors(space.configuration_space())

    def score(features: Any) -> Any:
        return -((features - 0.3) ** 2).sum(axis=1)

    found = maximise(vectors, score, vectors.points[:3], np.random.default_rng(0))
    values = score(vectors.features(found))
    assert list(values) == sorted(values, reverse=True)
    proposed = [space.candidate(dict(vectors.configuration(vector))) for vector in found]
    assert Counter(proposed) == Counter(space.rows)


def answer(proposal: Any) -> Trial:
    architecture = dict(proposal.candidate.architecture)
    cost = 0.05 * abs(architecture["c0"] - 5) + 0.02 * abs(architecture["c1"] - 5) + 0.3 / proposal.budget_epochs
    return Trial.of(proposal, cost=cost + 0.2 * (dict(proposal.candidate.kd)["method"] != "kd"))


def start(name: str, space: TableSpace) -> Any:
    return get_optimizer(name)(space, seed=3, max_budget_epochs=9, min_budget_epochs=1, total_budget_epochs=9 * 20)


NEEDS_EVALUATOR = {"diswot"}  # its scores are those of students that can be built
SLOW = {"smac-gp", "optuna-gp", "botorch-mf"}
CASES = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in OPTIMIZERS
    if name not in NEEDS_EVALUATOR
]


@pytest.mark.parametrize("name", CASES)
def test_every_optimizer_searches_a_table_and_continues(name: str) -> None:
    if name.startswith(("tpe", "optuna", "botorch")):
        pytest.importorskip("botorch" if name.startswith("botorch") else "optuna")
    space = table()
    optimizer = start(name, space)
    asks, trials = [], []
    for _ in range(16):
        proposal = optimizer.ask()
        assert proposal.candidate in space.rows
        assert proposal.budget_epochs in (1, 3, 9)
        asks.append(Ask.of(proposal, len(trials)))
        trials.append(answer(proposal))
        optimizer.tell(trials[-1])
    assert optimizer.incumbent() in space.rows
    again = start(name, space)
    assert replay(again, trials, asks) == []
    assert again.ask() == optimizer.ask()


def test_autokd_is_told_what_was_really_evaluated() -> None:
    """Its model sees the row's values, not those of the point that the row was nearest to."""
    space = table()
    optimizer = start("autokd", space)
    for _ in range(12):
        optimizer.tell(answer(optimizer.ask()))
    rows = {candidate.digest: space.values(candidate) for candidate in space.rows}
    for digest, configuration in optimizer._configurations.items():
        assert dict(configuration) == rows[digest]


def test_autokd_ends_when_every_row_was_proposed() -> None:
    space = TableSpace("few", [row(w, 1, "kd") for w in WIDTHS])
    optimizer = get_optimizer("autokd-full")(space, seed=0, max_budget_epochs=3, total_budget_epochs=300)
    seen = []
    for _ in space.rows:
        proposal = optimizer.ask()
        seen.append(proposal.candidate)
        optimizer.tell(Trial.of(proposal, cost=1.0 / dict(proposal.candidate.architecture)["width"]))
    with pytest.raises(RuntimeError, match="'few' has no more points"):
        optimizer.ask()
    assert sorted(seen, key=str) == sorted(space.rows, key=str)
    assert optimizer.incumbent() == row(64, 1, "kd")
