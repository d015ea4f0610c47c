"""With the real CARP-S: our benchmarks as its tasks, our optimizers on these and on its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("carps", reason="pip install carps")

from carps.utils.running import make_optimizer, make_task
from hydra import compose, initialize_config_module

from naslib_autokd.evaluators.benchmark import get_benchmark
from naslib_autokd.records import Proposal

SEARCHPATH = "hydra.searchpath=[pkg://naslib_autokd.carps.configs]"


def config(*overrides: str) -> Any:
    with initialize_config_module("carps.configs", version_base=None):
        return compose("base.yaml", [SEARCHPATH, "~loggers", "baserundir=.", *overrides])


def run(optimizer: str, task: str, *overrides: str, seed: int = 1, n_trials: int = 5) -> Any:
    """The optimizer after its run."""
    resources = f"task.optimization_resources.n_trials={n_trials}"
    cfg = config(f"+optimizer/{optimizer}=config", f"+task/{task}", f"seed={seed}", resources, *overrides)
    made = make_optimizer(cfg, make_task(cfg))
    made.run()
    return made


def test_a_trial_is_the_benchmarks_answer() -> None:
    optimizer = run("autokd", "autokd=multifidelity", seed=3, n_trials=4)
    trial, value = optimizer.get_current_incumbent()
    benchmark = get_benchmark("cluttered-digits")
    candidate = benchmark.space.candidate(optimizer.space.candidate(dict(trial.config)).to_dict())
    answer = benchmark.evaluate(Proposal(candidate, int(trial.budget), trial.seed, 0))
    assert value.cost == answer.cost
    assert value.virtual_time == pytest.approx(answer.total_s)
    assert 0.05 < value.cost < 0.5


@pytest.mark.parametrize("optimizer", ["autokd=config", "smac20=multifidelity"])
def test_the_commands(optimizer: str, tmp_path: Path) -> None:
    """As the documentation has them, but for the number of trials."""
    words = [
        f"+optimizer/{optimizer}",
        "+task/autokd=multifidelity",
        "seed=1",
        "task.optimization_resources.n_trials=3",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "carps.run", SEARCHPATH, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Solution found" in done.stdout
    lines = [json.loads(line) for log in tmp_path.rglob("trial_logs.jsonl") for line in log.read_text().splitlines()]
    assert {line["trial_info"]["budget"] for line in lines} == {3.0, 9.0}
    assert all(0 < line["trial_value"]["cost"] <= 1 for line in lines)


def test_costs_are_charged_in_full_trainings() -> None:
    optimizer = run("autokd", "autokd=multifidelity", seed=0, n_trials=8)
    budgets = [trial.budget for trial, _ in optimizer.history]
    assert set(budgets) == {3, 9}
    assert optimizer.trial_counter == pytest.approx(sum(budgets) / 9)
    assert 8 <= optimizer.trial_counter < 9


@pytest.mark.parametrize("task", ["blackbox", "multifidelity", "multiobjective", "momf"])
def test_the_metadata_of_a_task_is_true(task: str) -> None:
    made = make_task(config("+optimizer/autokd=config", f"+task/autokd={task}"))
    space, metadata = made.input_space.configuration_space, made.metadata
    kinds = [type(hyperparameter).__name__ for hyperparameter in space.values()]
    assert metadata.dimensions == len(space)
    for kind in ("Categorical", "Ordinal", "UniformInteger", "UniformFloat"):
        name = {"UniformInteger": "integers", "UniformFloat": "floats"}.get(kind, f"{kind.lower()}s")
        assert getattr(metadata, f"search_space_n_{name}") == kinds.count(f"{kind}Hyperparameter")
    assert metadata.search_space_has_conditionals is bool(space.conditions)
    assert metadata.search_space_has_forbiddens is bool(space.forbidden_clauses)
    fidelities, budgets = made.input_space.fidelity_space, made.objective_function.benchmark.budgets
    if fidelities.is_multifidelity:
        assert fidelities.min_fidelity in budgets
        assert fidelities.max_fidelity == budgets[-1]
    assert len(made.objective_function.objectives) == made.output_space.n_objectives


def test_several_objectives_with_an_optimizer_of_carps() -> None:
    optimizer = run("randomsearch", "autokd=momf")
    for _, value in optimizer.history:
        error, macs = value.cost
        assert 0 < error <= 1 < macs
    assert len({tuple(value.cost) for _, value in optimizer.history}) == 5


def test_bad_settings_say_what_is_wrong() -> None:
    with pytest.raises(Exception, match="has 2 objectives"):
        run("autokd", "autokd=momf")
    with pytest.raises(Exception, match="'macs'"):
        run(
            "randomsearch",
            "autokd=multiobjective",
            "task.objective_function.objectives=[error,mac]",
        )
    with pytest.raises(Exception, match="'fidelity'"):
        run("autokd", "autokd=blackbox", "+optimizer.options={fidelty: full}")
    with pytest.raises(ValueError, match="answers for 1, 3, 9 epochs, got 10"):
        run("autokd", "autokd=multifidelity", "task.input_space.fidelity_space.max_fidelity=10")


def bowl(scale: float) -> Any:
    """A task with costs far from [0, 1] and failures, to be minimised at x = 3 and y = b."""
    from carps.objective_functions.objective_function import ObjectiveFunction
    from carps.utils.task import FidelitySpace, InputSpace, OptimizationResources, OutputSpace, Task, TaskMetadata
    from carps.utils.trials import StatusType, TrialValue
    from ConfigSpace import ConfigurationSpace

    space = ConfigurationSpace({"x": (-10.0, 10.0), "y": ["a", "b"]})

    class Function(ObjectiveFunction):  # type: ignore[misc]
        configspace = space

        def _evaluate(self, trial_info: Any) -> Any:
            x, y = trial_info.config["x"], trial_info.config["y"]
            if x < -5:
                return TrialValue(cost=math.inf, status=StatusType.CRASHED)
            return TrialValue(cost=scale * ((x - 3) ** 2 + (y == "a") - 40))

    fidelities, resources = FidelitySpace(True, "share", 0.1, 1.0), OptimizationResources(n_trials=25)
    return Task("bowl", Function(), InputSpace(space, fidelities), OutputSpace(), resources, TaskMetadata(), seed=1)


def test_any_scale_of_costs_any_fidelities_and_failures() -> None:
    from naslib_autokd.carps.optimizer import AskAndTell

    configurations = []
    for scale in (2.0**-20, 1.0, 2.0**20):
        optimizer = AskAndTell(bowl(scale))
        trial, value = optimizer.run()
        assert {round(told.budget, 6) for told, _ in optimizer.history} == {0.3, 1.0}
        assert any(value.cost == math.inf for _, value in optimizer.history)
        assert (trial.budget, trial.config["y"]) == (1.0, "b")
        assert abs(trial.config["x"] - 3) < 0.5
        assert value.cost == scale * ((trial.config["x"] - 3) ** 2 - 40)
        configurations.append([dict(trial.config) for trial, _ in optimizer.history])
    assert configurations[0] == configurations[1] == configurations[2]
