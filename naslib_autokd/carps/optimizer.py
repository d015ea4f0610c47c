"""The optimizers of this package on any task of CARP-S with one objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carps.optimizers.optimizer import Optimizer as CARPSOptimizer
from carps.utils.task import Task
from carps.utils.trials import StatusType, TrialInfo, TrialValue
from ConfigSpace import Configuration, ConfigurationSpace

from naslib_autokd.optimizers.base import Optimizer, get_optimizer, parameters_of
from naslib_autokd.records import FAILURE_COST, Proposal, Trial, content_digest
from naslib_autokd.runners.setup import check_options

STATUS = {
    StatusType.SUCCESS: "success",
    StatusType.CRASHED: "error",
    StatusType.TIMEOUT: "timeout",
    StatusType.MEMORYOUT: "out_of_memory",
}
RANGE = 1e4
"""Costs of trials lie in [0, 1]; those of a task are divided by so many times the first one. The models take their
scale from the costs, so this changes no proposal but by rounding; what lies beyond is taken for the end."""


@dataclass(frozen=True)
class Point:
    """A configuration of any space, as a candidate."""

    items: tuple[tuple[str, Any], ...]

    @property
    def digest(self) -> str:
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return dict(self.items)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Point:
        """Inverse of `to_dict`."""
        return cls(tuple(sorted(values.items())))


class AnySpace:
    """A ConfigSpace as a search space (`optimizers.base.SearchSpaceLike`)."""

    name = "carps"

    def __init__(self, space: ConfigurationSpace) -> None:
        self.space = space

    def configuration_space(self) -> ConfigurationSpace:
        """A copy: optimizers seed theirs."""
        return ConfigurationSpace.from_serialized_dict(self.space.to_serialized_dict())

    def candidate(self, values: Mapping[str, Any]) -> Point:
        return Point.from_dict({name: getattr(value, "tolist", lambda v=value: v)() for name, value in values.items()})

    def values(self, candidate: Point) -> dict[str, Any]:
        return candidate.to_dict()


class AskAndTell(CARPSOptimizer):
    """AutoKD, or another optimizer of this package.

    Args:
        task: With one objective. Fidelities are whole numbers, or multiples of the smallest where that or the largest
            is none; which of them are asked for the optimizer decides.
        optimizer: A name in `optimizers.base.OPTIMIZERS`, or ``module:attribute``.
        options: Of the optimizer.
        loggers, expects_multiple_objectives, expects_fidelities: CARP-S's.

    Raises:
        ValueError: For a task with several objectives, or an unknown optimizer or option.
    """

    def __init__(
        self,
        task: Task,
        optimizer: str = "autokd",
        options: Mapping[str, Any] | None = None,
        loggers: list[Any] | None = None,
        expects_multiple_objectives: bool = False,
        expects_fidelities: bool = False,
    ) -> None:
        super().__init__(task, loggers, expects_multiple_objectives, expects_fidelities)
        if task.output_space.n_objectives != 1:
            raise ValueError(
                f"task {task.name} has {task.output_space.n_objectives} objectives; on tasks of CARP-S the optimizers "
                "of naslib_autokd minimise one (their front is of a student's costs: naslib-autokd search --objectives)"
            )
        self.factory, self.options = get_optimizer(optimizer), dict(options or {})
        check_options(optimizer, self.factory, self.options)
        self.space = AnySpace(task.input_space.configuration_space)
        fidelities = task.input_space.fidelity_space
        self.fidelity_enabled = fidelities.is_multifidelity
        self._unit, self._smallest, self._largest = 1.0, 1, 1
        if self.fidelity_enabled:
            ends = float(fidelities.min_fidelity), float(fidelities.max_fidelity)
            self._unit = 1.0 if all(end.is_integer() for end in ends) and ends[0] >= 1 else ends[0]
            self._smallest, self._largest = (round(end / self._unit) for end in ends)
        self._open: dict[tuple[str, int | None, float | None], Proposal] = {}
        self.history: list[tuple[TrialInfo, TrialValue]] = []
        """Told so far."""
        self._range: float | None = None

    def _setup_optimizer(self) -> Optimizer:
        n_trials, metadata = self.task.optimization_resources.n_trials, self.task.metadata
        exact = metadata is not None and metadata.deterministic and "repeats_exactly" in parameters_of(self.factory)
        made: Optimizer = self.factory(
            self.space,
            seed=self.task.seed or 0,
            max_budget_epochs=self._largest,
            min_budget_epochs=self._smallest,
            total_budget_epochs=None if n_trials is None else n_trials * self._largest,
            **({"repeats_exactly": True} if exact else {}),
            **self.options,
        )
        return made

    def convert_configspace(self, configspace: ConfigurationSpace) -> ConfigurationSpace:
        """As it is."""
        return configspace

    def convert_to_trial(self, proposal: Proposal) -> TrialInfo:
        """What CARP-S evaluates."""
        config = Configuration(
            self.task.input_space.configuration_space,
            values=proposal.candidate.to_dict(),
        )
        epochs, budget = proposal.budget_epochs, None
        if self.fidelity_enabled:
            whole = epochs == self._largest
            budget = float(self.task.input_space.fidelity_space.max_fidelity) if whole else epochs * self._unit
        return TrialInfo(config=config, seed=proposal.seed, budget=budget)

    def ask(self) -> TrialInfo:
        """The next trial."""
        if self.solver is None:
            self.setup_optimizer()
        proposal = self.solver.ask()
        trial = self.convert_to_trial(proposal)
        self._open[self._key(trial)] = proposal
        return trial

    def _key(self, trial: TrialInfo) -> tuple[str, int | None, float | None]:
        return self.space.candidate(dict(trial.config)).digest, trial.seed, trial.budget

    def tell(self, trial_info: TrialInfo, trial_value: TrialValue) -> None:
        """Learn from a trial that was asked for.

        Raises:
            ValueError: If it was not, or its cost is a list.
        """
        proposal = self._open.pop(self._key(trial_info), None)
        if proposal is None:
            raise ValueError(f"no such trial was asked for, or it has been told: {trial_info}")
        if isinstance(trial_value.cost, list):
            raise ValueError(f"one cost is expected, got {trial_value.cost}")
        status, cost, share = STATUS.get(trial_value.status, "error"), float(trial_value.cost), FAILURE_COST
        if status == "success" and not math.isfinite(cost):
            status = "diverged"
        if status == "success":
            if self._range is None:
                self._range = RANGE * max(abs(cost), 1e-6)
            share = min(max(0.5 + cost / self._range, 0.0), 1.0)
        self.history.append((trial_info, trial_value))
        self.solver.tell(Trial.of(proposal, status=status, cost=share, student_epochs=float(proposal.budget_epochs)))

    def get_current_incumbent(self) -> tuple[TrialInfo, TrialValue] | None:
        """The lowest cost at the largest fidelity that has been evaluated; None before the first success."""
        good = [told for told in self.history if told[1].status == StatusType.SUCCESS and math.isfinite(told[1].cost)]
        return min(good, key=lambda told: (-(told[0].budget or 0), told[1].cost), default=None)
