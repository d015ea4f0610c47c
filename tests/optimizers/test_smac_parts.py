"""What AutoKD takes of SMAC that SMAC does not promise to keep: says which part has changed in a newer version."""

from __future__ import annotations

from importlib.metadata import requires, version
from pathlib import Path

import pytest
from ConfigSpace import ConfigurationSpace
from packaging.requirements import Requirement
from smac import MultiFidelityFacade, Scenario
from smac.acquisition.maximizer import LocalAndSortedRandomSearch, LocalSearch
from smac.initial_design import RandomInitialDesign
from smac.intensifier.hyperband import Hyperband
from smac.main.config_selector import ConfigSelector
from smac.runhistory import RunHistory

from naslib_autokd.optimizers.autokd import LadderHyperband, StableLocalSearch

SPACE = ConfigurationSpace({"x": (0.0, 1.0), "y": ["a", "b", "c"]}, seed=0)


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(SPACE, n_trials=20, min_budget=3, max_budget=27, seed=0, output_directory=tmp_path)


def test_only_versions_with_these_parts_are_installed() -> None:
    asked = next(r for text in requires("naslib_autokd") or [] if (r := Requirement(text)).name == "smac")
    assert version("smac") in asked.specifier
    assert any(each.operator == "<" for each in asked.specifier), "no upper bound on smac"


def test_the_forest_takes_its_options_of_a_dictionary(scenario: Scenario) -> None:
    model = MultiFidelityFacade.get_model(scenario)
    assert {"max_leaf_nodes", "n_jobs"} <= set(model._rf_opts), "RandomForest._rf_opts: used in AutoKD._stock_facade"


def test_the_maximizer_has_its_local_search_as_an_attribute(scenario: Scenario) -> None:
    maximizer = LocalAndSortedRandomSearch(SPACE, seed=0)
    assert type(maximizer._local_search) is LocalSearch, "_local_search: replaced in AutoKD._stock_facade"
    assert "_get_init_points_from_previous_configs" in vars(LocalSearch), "overridden in StableLocalSearch"
    assert issubclass(StableLocalSearch, LocalSearch)


def test_the_selector_has_the_initial_design(scenario: Scenario) -> None:
    def target(config: object, seed: int, budget: float) -> float:
        return 0.0

    selector = ConfigSelector(scenario)
    design = RandomInitialDesign(scenario, n_configs=3, max_ratio=1.0)
    facade = MultiFidelityFacade(
        scenario, target, initial_design=design, config_selector=selector, overwrite=True, logging_level=False
    )
    assert facade is not None
    assert selector._initial_design_configs == design.select_configurations(), "read by BudgetAwareSelector._design"


def test_hyperbands_stages_are_three_attributes(scenario: Scenario) -> None:
    """As SMAC fills them in for powers of eta, `LadderHyperband` fills them in for any ladder."""
    stock = Hyperband(scenario, eta=3, incumbent_selection="highest_budget")
    ours = LadderHyperband(scenario, (3, 9, 27), (3.0, 3.0))
    for each in (stock, ours):
        each.runhistory = RunHistory()
        each.__post_init__()
    assert stock._s_max == ours._s_max == 2
    assert stock._budgets_in_stage == {bracket: ours._budgets_in_stage[bracket] for bracket in stock._budgets_in_stage}
    assert stock._max_iterations == {bracket: ours._max_iterations[bracket] for bracket in stock._max_iterations}
    assert set(stock._n_configs_in_stage) == set(ours._n_configs_in_stage)
    for bracket, n_configs in ours._n_configs_in_stage.items():
        assert len(n_configs) == len(stock._n_configs_in_stage[bracket])
        assert n_configs == sorted(n_configs, reverse=True)
