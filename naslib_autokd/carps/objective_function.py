"""Benchmarks of families as objective functions of CARP-S."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from carps.objective_functions.objective_function import ObjectiveFunction
from carps.utils.trials import StatusType, TrialInfo, TrialValue
from ConfigSpace import ConfigurationSpace

from naslib_autokd.evaluators.base import Benchmark
from naslib_autokd.evaluators.benchmark import get_benchmark
from naslib_autokd.records import MEASURED_OBJECTIVES, OBJECTIVES, Proposal, derive_seed, objective_value
from naslib_autokd.tasks import did_you_mean

STATUS = {"success": StatusType.SUCCESS, "timeout": StatusType.TIMEOUT, "out_of_memory": StatusType.MEMORYOUT}
"""`CRASHED` for the others; of these no objective is known, and costs are the worst that there are."""

KNOWN = tuple(name for name in OBJECTIVES if name not in MEASURED_OBJECTIVES)


def configuration_space(benchmark: str = "cluttered-digits") -> ConfigurationSpace:
    """The space of a benchmark's candidates: the generator's hyperparameters and those of distillation."""
    space: ConfigurationSpace = get_benchmark(benchmark).space.configuration_space()
    return space


class FamilyBenchmark(ObjectiveFunction):
    """Validation error, and other costs, of a student of a family, by a benchmark of this package.

    Args:
        benchmark: As `get_benchmark` takes it: a name, an ``.npz`` file, the ``.yaml`` of a table of trainings.
        objectives: Minimised: ``error`` (a fraction in [0, 1]), ``params``, ``macs``, ``train_memory`` (bytes). One
            gives a number as cost, several a list.
        seed: With their number it draws the wiring and the noise of evaluations that come without a seed.
        loggers: CARP-S's.

    Raises:
        BenchmarkError: If there is no such benchmark.
        ValueError: For an unknown objective.
    """

    def __init__(
        self,
        benchmark: str = "cluttered-digits",
        objectives: Sequence[str] = ("error",),
        seed: int = 0,
        loggers: list[Any] | None = None,
    ) -> None:
        super().__init__(loggers)
        for name in objectives:
            if name not in KNOWN:
                raise ValueError(f"unknown objective {name!r}{did_you_mean(name, KNOWN)}")
        self.benchmark: Benchmark = get_benchmark(benchmark)
        self.objectives, self.seed = tuple(objectives), seed
        self._configspace: ConfigurationSpace = self.benchmark.space.configuration_space()

    @property
    def configspace(self) -> ConfigurationSpace:
        """A fixed object: configurations remember theirs."""
        return self._configspace

    @property
    def f_min(self) -> float | None:
        """Not known: what `best_test_error` tells is of the test split, and an optimizer sees validation."""
        return None

    def _evaluate(self, trial_info: TrialInfo) -> TrialValue:
        """Of a student trained for ``trial_info.budget`` epochs (in full without one).

        Raises:
            ValueError: For a budget that the benchmark does not answer for.
        """
        began = time.time()
        budget = self.benchmark.budgets[-1] if trial_info.budget is None else round(trial_info.budget)
        if budget not in self.benchmark.budgets:
            known = ", ".join(map(str, self.benchmark.budgets))
            raise ValueError(
                f"the benchmark {self.benchmark.name} answers for {known} epochs, got {trial_info.budget:g}"
            )
        values: Mapping[str, Any] = {name: _plain(value) for name, value in dict(trial_info.config).items()}
        number = self.n_function_calls
        seed = derive_seed(self.seed, "carps", number) if trial_info.seed is None else trial_info.seed
        trial = self.benchmark.evaluate(Proposal(self.benchmark.space.candidate(values), budget, seed, number))
        costs = [_worst(value) for value in (objective_value(trial, name) for name in self.objectives)]
        return TrialValue(
            cost=costs[0] if len(costs) == 1 else costs,
            time=time.time() - began,
            virtual_time=trial.total_s,
            status=STATUS.get(trial.status, StatusType.CRASHED),
            starttime=began,
            endtime=time.time(),
            additional_info={"student_epochs": trial.student_epochs},
        )


def _worst(value: float | None) -> float:
    return float("inf") if value is None else value


def _plain(value: Any) -> Any:
    """ConfigSpace gives numpy's scalars."""
    import numpy as np

    return value.item() if isinstance(value, np.generic) else value
