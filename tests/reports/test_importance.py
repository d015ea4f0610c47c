"""Importance against functions whose decomposition is known, and on a benchmark whose truth is written down."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ConfigSpace.exceptions import ForbiddenValueError
from ConfigSpace.util import deactivate_inactive_hyperparameters

from naslib_autokd.records import Proposal, Trial
from naslib_autokd.reports.importance import sentences, write_importance_report
from naslib_autokd.runners.importance import (
    ImportanceReport,
    SpaceInputs,
    grid_of,
    importance_of,
    partial_dependence,
    permutation_importance,
    sobol_indices,
    tied_hyperparameters,
)
from naslib_autokd.search_spaces.hnag.parameters import HNAGSpace


def ishigami(unit: np.ndarray) -> np.ndarray:
    x = np.pi * (2 * unit - 1)
    return np.sin(x[:, 0]) + 7 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])


def test_indices_of_ishigamis_function() -> None:
    # Ishigami and Homma 1990; with a = 7, b = 0.1, see Saltelli et al., Global Sensitivity Analysis (2008), section 4
    found = sobol_indices(ishigami, ["x1", "x2", "x3"], 2048, 0)
    np.testing.assert_allclose(found.first, [0.3139, 0.4424, 0.0], atol=0.02)
    np.testing.assert_allclose(found.total, [0.5576, 0.4424, 0.2437], atol=0.02)
    assert found.pairs["x1", "x3"] == pytest.approx(0.2437, abs=0.03)
    assert found.pairs["x1", "x2"] == pytest.approx(0.0, abs=0.03)
    assert found.interactions == pytest.approx(0.2437, abs=0.03)
    assert found.mean == pytest.approx(3.5, abs=0.05)
    assert found.variance == pytest.approx(49 / 8 + 0.1 * np.pi**4 / 5 + 0.01 * np.pi**8 / 18 + 0.5, rel=0.03)
    for truth, interval in zip([0.3139, 0.4424, 0.0], found.first_interval, strict=True):
        assert interval[0] - 0.02 < truth < interval[1] + 0.02


def test_indices_of_an_additive_function_are_the_shares_of_its_variances() -> None:
    weights = np.array([3.0, 2.0, 1.0, 0.0])
    found = sobol_indices(lambda unit: unit @ weights + 5, ["a", "b", "c", "d"], 512, 1)
    np.testing.assert_allclose(found.first, weights**2 / 14, atol=0.02)
    np.testing.assert_allclose(found.total, weights**2 / 14, atol=0.02)
    assert found.total[3] == 0.0
    assert all(abs(share) < 0.03 for share in found.pairs.values())


def test_indices_of_a_product_are_an_interaction() -> None:
    # (u - 1/2)(v - 1/2): nothing alone, everything together
    found = sobol_indices(lambda unit: (unit - 0.5).prod(axis=1), ["u", "v"], 1024, 0)
    np.testing.assert_allclose(found.first, 0, atol=0.05)
    np.testing.assert_allclose(found.total, 1, atol=0.05)
    assert found.pairs["u", "v"] == pytest.approx(1, abs=0.08)


def test_indices_are_repeatable_and_do_not_depend_on_scale_and_offset() -> None:
    first = sobol_indices(ishigami, "abc", 128, 3, pairs=False)
    again = sobol_indices(lambda unit: 1e-3 * ishigami(unit) + 7, "abc", 128, 3, pairs=False)
    np.testing.assert_allclose(again.first, first.first, atol=1e-9)
    np.testing.assert_allclose(again.total_interval, first.total_interval, atol=1e-9)
    assert first.pairs == {}
    assert (sobol_indices(ishigami, "abc", 128, 4).first != first.first).all()


def test_a_cut_shows_what_matters_below_it() -> None:
    # the best half is u < 0.5, within which only v matters
    def function(unit: np.ndarray) -> np.ndarray:
        return np.where(unit[:, 0] < 0.5, 0.1 * unit[:, 1], 10 + unit[:, 0])

    everything = sobol_indices(function, "uv", 512, 0)

    def cut(unit: np.ndarray) -> np.ndarray:
        return np.minimum(function(unit), np.quantile(function(unit), 0.25))

    best = sobol_indices(cut, "uv", 512, 0)
    assert everything.total[1] < 0.01
    assert best.total[1] > 0.3


def test_bad_designs_are_refused() -> None:
    with pytest.raises(ValueError, match="power of 2, at least 16, got 1000; the nearest is 1024"):
        sobol_indices(ishigami, "abc", 1000)
    with pytest.raises(ValueError, match="no variance"):
        sobol_indices(lambda unit: np.ones(len(unit)), "a", 16)
    with pytest.raises(ValueError, match="one finite number"):
        sobol_indices(lambda unit: unit[:, 0] * np.nan, "a", 16)
    with pytest.raises(ValueError, match="at least one input"):
        sobol_indices(ishigami, [], 16)
    with pytest.raises(ValueError, match="needs points and values"):
        partial_dependence(lambda points: np.zeros(len(points)), [], "x", [1])


# ---- partial dependence --------------------------------------------------------------------------------------------


def of_points(function: Callable[..., float]) -> Callable[[Sequence[Any]], np.ndarray]:
    return lambda points: np.array([function(**point) for point in points], dtype=float)


def test_partial_dependence_averages_over_the_others() -> None:
    points = [{"x": 0, "y": y} for y in range(11)]
    found = partial_dependence(of_points(lambda x, y: x**2 + y), points, "x", [0, 1, 3])
    np.testing.assert_allclose(found.mean, [5, 6, 14])
    np.testing.assert_allclose(found.low, [1, 2, 10])  # the 10% quantile of 0..10
    np.testing.assert_allclose(found.high, [9, 10, 18])
    assert (found.n, found.range) == ((11, 11, 11), 9)


def test_means_are_over_points_that_are_legal_at_every_value_if_there_are_any() -> None:
    points = [{"x": 0, "y": y} for y in range(4)]
    function = of_points(lambda x, y: x + y if x + y < 5 else math.nan)
    found = partial_dependence(function, points, "x", [0, 3])
    np.testing.assert_allclose(found.mean, [0.5, 3.5])  # not 1.5 at 0: that would be over more points than 3.5
    assert found.n == (2, 2)
    found = partial_dependence(function, points, "x", [0, 3, 9])
    np.testing.assert_allclose(found.mean, [1.5, 3.5, np.nan])
    assert found.n == (4, 2, 0)
    assert found.range == 2


# ---- spaces --------------------------------------------------------------------------------------------------------


class Toy:
    """A benchmark of the demo's space with a truth that is written down."""

    name, budgets, best_test_error = "toy", (1, 3, 9), 0.1

    def __init__(self) -> None:
        self.space = HNAGSpace("hnag-small")
        self.asked = 0

    def true_cost(self, candidate: Any) -> float:
        self.asked += 1
        values = self.space.values(candidate)
        return float(
            0.12
            + 0.05 * np.log(values["channel_growth"] / 1.2) ** 2
            + 0.01 * (values["downsampling"] == "average")
            + 0.02 * (values.get("top_p", 0.5) - 0.5)
            + 0.002 * (values["bottom_nodes"] - 1)
        )

    true_test_error = true_cost

    def evaluate(self, proposal: Proposal) -> Trial:
        raise AssertionError("importance is of the truth, not of trainings")


def test_tied_hyperparameters_are_one_input() -> None:
    groups = tied_hyperparameters(HNAGSpace("hnag-small").configuration_space())
    assert ("bottom_nodes", "top_nodes") in groups
    assert sum(map(len, groups)) == 10
    assert len(tied_hyperparameters(HNAGSpace("hnag").configuration_space())) == 10


def test_inputs_of_a_space_are_legal_independent_and_distributed_as_its_points() -> None:
    space = HNAGSpace("hnag-small")
    inputs = SpaceInputs(space)
    points = inputs.points(np.random.default_rng(0).random((800, len(inputs.names))))
    assert all(len(point) == 10 for point in points)
    active = [inputs.active(point) for point in points]
    assert None not in active  # no forbidden point can be drawn
    for values in active[:20]:
        assert values is not None
        assert space.values(space.candidate(values)) == values
    drawn = [dict(point) for point in space.configuration_space().sample_configuration(2000)]
    for pair in itertools.product(range(1, 6), range(3, 10)):
        shares = [np.mean([(p["bottom_nodes"], p["top_nodes"]) == pair for p in sample]) for sample in (points, drawn)]
        assert abs(shares[0] - shares[1]) < 0.05
    growth = np.log([point["channel_growth"] for point in points])
    assert abs(np.corrcoef(growth, [point["top_nodes"] for point in points])[0, 1]) < 0.12
    assert np.median(growth) == pytest.approx(np.log(0.6 * 2) / 2, abs=0.06)  # log-uniform on [0.6, 2]
    # the smallest graphs have no p: drawn all the same, without effect
    small = {**points[0], "top_nodes": 3, "bottom_nodes": 1}
    function = inputs.function(Toy().true_cost)
    assert function([{**small, "top_p": 0.2}]) == function([{**small, "top_p": 0.9}])
    assert not inputs.is_active("top_p", small)
    assert np.isnan(function([{**small, "top_nodes": 9, "bottom_nodes": 5}])).all()


@pytest.mark.parametrize("preset", ["hnag-small", "hnag"])
def test_what_is_active_is_what_configspace_says(preset: str) -> None:
    space = HNAGSpace(preset)
    inputs, configspace = SpaceInputs(space, n_pool=64), space.configuration_space()
    rng = np.random.default_rng(0)
    n_forbidden = 0
    for point in inputs.sample(40):
        name = str(rng.choice(list(inputs.hyperparameters)))
        changed = {**point, name: rng.choice(grid_of(inputs.hyperparameters[name])).item()}
        try:
            expected: dict[str, Any] | None = dict(deactivate_inactive_hyperparameters(dict(changed), configspace))
        except ForbiddenValueError:
            expected, n_forbidden = None, n_forbidden + 1
        found = inputs.active(changed)
        assert (found is None) == (expected is None)
        for setting, value in (expected or {}).items():
            assert found[setting] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-12))
        assert set(found or {}) == set(expected or {})
    assert n_forbidden > 0 or preset == "hnag"


def test_grids_cover_a_hyperparameters_range_on_its_scale() -> None:
    space = HNAGSpace("hnag-small").configuration_space()
    assert grid_of(space["top_nodes"]) == [3, 4, 5, 6, 7, 8, 9]
    assert grid_of(space["top_k"]) == [2, 4]
    assert grid_of(space["downsampling"]) == ["average", "max"]
    temperatures = grid_of(space["temperature"], 3)
    np.testing.assert_allclose(temperatures, [1, math.sqrt(10), 10])


@pytest.fixture(scope="module")
def toy_report() -> tuple[Toy, ImportanceReport]:
    toy = Toy()
    return toy, importance_of(toy, n=50, seed=0)  # the nearest power of 2 is 64


@pytest.mark.slow
def test_report_names_what_the_truth_is_made_of(toy_report: tuple[Toy, ImportanceReport], tmp_path: Path) -> None:
    folder = tmp_path / "new"
    files = write_importance_report(toy_report[1], folder)
    found = json.loads((folder / "importance.json").read_text())
    inputs = found["overall"]["inputs"]
    ranking = sorted(inputs, key=lambda name: -inputs[name]["total"])
    # variances: growth 0.05 log(g / 1.2)^2, downsampling 0.01^2 / 4 = 2.5e-5, top_p 0.02^2 0.9^2 / 12 = 2.7e-5
    assert set(ranking[:3]) == {"channel_growth", "downsampling", "top_p"}
    assert inputs["kd_weight"]["total"] == inputs["bottom_k"]["total"] == 0.0
    assert files[0].name == "importance.md"
    assert {path.name for path in files} == {
        "importance.md",
        "importance.json",
        "importance.csv",
        "importance.vl.json",
        "importance.png",
        "importance.pdf",
        "interactions.csv",
        "partial_dependence.csv",
        "partial_dependence.vl.json",
        "partial_dependence.png",
        "partial_dependence.pdf",
    }
    with open(folder / "partial_dependence.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["hyperparameter"] == "downsampling"]
    effect = float(rows[0]["mean_cost"]) - float(rows[1]["mean_cost"])
    assert (rows[0]["value"], rows[1]["value"]) == ("average", "max")
    assert effect == pytest.approx(0.01)
    with open(folder / "partial_dependence.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["hyperparameter"] == "top_p"]
    assert float(rows[-1]["mean_cost"]) - float(rows[0]["mean_cost"]) == pytest.approx(0.02 * 0.9)
    assert {row["n"] for row in rows} == {rows[0]["n"]}
    assert int(rows[0]["n"]) < 16  # only families in which p has an effect


def test_questions_are_asked_once(toy_report: tuple[Toy, ImportanceReport]) -> None:
    toy, found = toy_report
    assert found.overall.n == 64
    assert toy.asked <= 64 * (2 * 9 + 2) + 16 * 70  # both decompositions read the same answers
    lines = sentences(found)
    assert any(line.startswith("downsampling: mean error ") and " at max, " in line for line in lines)
    assert lines[1].startswith("What matters: ")


# ---- permutation importance ----------------------------------------------------------------------------------------


def test_permutation_importance_finds_the_columns_that_count() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((300, 4))
    found = permutation_importance(x, 4 * x[:, 1] + 2 * x[:, 3], ["a", "b", "c", "d"], n_folds=2, n_repeats=3)
    # shuffling a column of an additive function costs twice its share of the variance
    assert found.mean[1] == pytest.approx(2 * 16 / 20, abs=0.25)
    assert found.mean[3] == pytest.approx(2 * 4 / 20, abs=0.15)
    assert abs(found.mean[[0, 2]]).max() < 0.03
    assert found.r2 > 0.9
    assert found.n == 300


def test_rows_of_one_family_are_held_out_together() -> None:
    # the target is a property of the family that no column tells but by its identity: nothing can be predicted
    rng = np.random.default_rng(1)
    family = np.repeat(np.arange(40), 8)
    x, y = rng.random(40)[family][:, None], rng.random(40)[family]
    assert permutation_importance(x, y, ["id"], n_folds=2, n_repeats=1).r2 > 0.5
    assert permutation_importance(x, y, ["id"], family, n_folds=2, n_repeats=1).r2 < 0.1


def test_bad_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(rows, columns\)"):
        permutation_importance(np.zeros((3, 2)), np.zeros(4), ["a", "b"])
    with pytest.raises(ValueError, match="all targets are equal"):
        permutation_importance(np.zeros((9, 1)), np.zeros(9), ["a"])
