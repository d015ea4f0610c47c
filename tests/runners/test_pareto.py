"""Fronts and hypervolumes against slow definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naslib_autokd.records import Trial
from naslib_autokd.runners.pareto import (
    check_objectives,
    hypervolume,
    hypervolume_over_time,
    objective_table,
    pareto_front,
)

points = st.integers(2, 4).flatmap(lambda k: st.lists(st.tuples(*[st.integers(0, 6)] * k), min_size=1, max_size=12))


def dominated_by(a, b):
    return all(y <= x for x, y in zip(a, b, strict=True)) and any(y < x for x, y in zip(a, b, strict=True))


@given(points)
def test_the_front_is_what_nobody_dominates_without_copies(rows):
    front = [rows[index] for index in pareto_front(rows)]
    assert front == sorted({row for row in rows if not any(dominated_by(row, other) for other in rows)})


@settings(max_examples=60)
@given(points)
def test_the_hypervolume_is_the_number_of_dominated_unit_cells(rows):
    k = len(rows[0])
    cells = itertools.product(range(5), repeat=k)  # [0, 5)^k, up to the reference point 5
    dominated = sum(any(all(p <= c for p, c in zip(row, cell, strict=True)) for row in rows) for cell in cells)
    assert hypervolume(rows, [5] * k) == pytest.approx(dominated)


def test_two_known_areas():
    assert hypervolume([(1, 3), (2, 2), (3, 1)], (4, 4)) == pytest.approx(6)
    assert hypervolume([(0, 0, 0)], (2, 3, 4)) == pytest.approx(24)
    assert hypervolume([(5, 0)], (4, 4)) == 0
    assert hypervolume(np.empty((0, 2)), (1, 1)) == 0


def trial(number, cost, macs, budget=9, status="success"):
    return Trial(number, {}, f"{number}", budget, 0, status=status, cost=cost, macs=macs, student_epochs=float(budget))


def test_the_table_has_the_successes_at_the_largest_budget():
    trials = [trial(0, 0.5, 10, budget=3), trial(1, 0.2, 100), trial(2, 1.0, None, status="error"), trial(3, 0.3, 50)]
    values, places = objective_table(trials, ("error", "macs"))
    assert values.tolist() == [[0.2, 100.0], [0.3, 50.0]]
    assert places == [1, 3]


def test_the_hypervolume_over_time_is_charged_with_everything_and_grows():
    trials = [trial(0, 0.5, 10, budget=3), trial(1, 0.5, 100), trial(2, 0.25, 100), trial(3, 0.9, 1000)]
    points = hypervolume_over_time(trials, ("error", "macs"), ideal=(0.0, 10), reference=(1.0, 1000))
    # the error's axis is linear, that of MACs logarithmic: 100 lies in the middle of 10 and 1000
    assert points == [(12.0, pytest.approx(0.25)), (21.0, pytest.approx(0.375)), (30.0, pytest.approx(0.375))]


def test_objectives_are_checked():
    assert check_objectives(["macs", "error"]) == ("error", "macs")
    with pytest.raises(ValueError, match="did you mean 'macs'"):
        check_objectives(["error", "mac"])
    with pytest.raises(ValueError, match="minimises the error"):
        check_objectives(["macs"])
    with pytest.raises(ValueError, match="must differ"):
        check_objectives(["error", "macs", "macs"])
