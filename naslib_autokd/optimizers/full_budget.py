"""What optimizers have in common that train every candidate in full and have no model of the space."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from naslib_autokd.optimizers.base import SearchSpaceLike, answers, check_budgets
from naslib_autokd.records import Ask, CandidateLike, Proposal, Trial, TrialStore, derive_seed


class Evaluated(NamedTuple):
    """A point and what its training said."""

    cost: float
    """Infinity if the training failed."""
    values: Mapping[str, Any]


class FullBudgetOptimizer(ABC):
    """Asks for one full training after the other and remembers what came back.

    A subclass says what to train (`_next`) and may learn from what came back (`_learn`). Randomness is drawn from the
    generator given to `_next`, which depends on (seed, number) alone, so that a run is replayed by asking again.
    An ask and a tell take O(log n) steps beside the subclass's own.

    Args:
        space: Search space.
        seed: Seed of the run.
        max_budget_epochs: Epochs of every trial.
        min_budget_epochs: Accepted for uniformity: there is one budget.
        total_budget_epochs: Accepted for uniformity: the caller counts.

    Raises:
        ValueError: If a budget is not possible.
    """

    def __init__(
        self,
        space: SearchSpaceLike,
        *,
        seed: int = 0,
        max_budget_epochs: int,
        min_budget_epochs: int = 1,
        total_budget_epochs: float | None = None,
    ) -> None:
        check_budgets(max_budget_epochs, min_budget_epochs, total_budget_epochs)
        self.space, self.seed, self.max_budget_epochs = space, seed, int(max_budget_epochs)
        self._configurations = space.configuration_space()
        self._asked = 0
        self._in_flight: dict[int, tuple[Proposal, Mapping[str, Any]]] = {}
        self._candidates: dict[str, CandidateLike] = {}  # digest -> candidate, of all that was asked or told
        self._told: set[tuple[int, str, int, int]] = set()
        self._trials = TrialStore()

    @abstractmethod
    def _next(self, number: int) -> Mapping[str, Any]:
        """Values of the point to train as proposal ``number``."""

    def _learn(self, result: Evaluated, number: int | None) -> None:  # noqa: B027  (random search learns nothing)
        """A training at the full budget ended; ``number`` of its proposal, None if it was not proposed here."""

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, "candidate", number))

    def ask(self) -> Proposal:
        return self._proposed(self._next(self._asked), self.max_budget_epochs)

    def _proposed(self, values: Mapping[str, Any], budget: int) -> Proposal:
        """The next proposal, in flight from now on."""
        number = self._asked
        candidate = self.space.candidate(values)
        proposal = Proposal(candidate, budget, derive_seed(self.seed, "trial", number), number)
        self._asked += 1
        self._in_flight[number] = proposal, values
        self._candidates.setdefault(candidate.digest, candidate)
        return proposal

    def tell(self, trial: Trial) -> None:
        """Learn from a trial, its own or a foreign one; one that was told before changes nothing.

        Raises:
            ValueError: If the trial's candidate does not belong to this space.
        """
        key = (trial.number, trial.candidate_digest, trial.budget_epochs, trial.seed)
        if key in self._told:
            return
        if trial.candidate_digest not in self._candidates:
            self._candidates[trial.candidate_digest] = candidate_of(self.space, trial, self._configurations)
        self._told.add(key)
        self._trials.append(trial)
        cost = trial.cost if trial.succeeded else math.inf
        proposal, values = self._in_flight.get(trial.number, (None, None))
        if proposal is not None and values is not None and answers(trial, proposal):
            del self._in_flight[trial.number]
            self._learn(Evaluated(cost, values), trial.number)
        elif trial.budget_epochs == self.max_budget_epochs:  # costs of other budgets do not compare
            self._learn(Evaluated(cost, self.space.values(self._candidates[trial.candidate_digest])), None)

    def incumbent(self) -> CandidateLike | None:
        """The candidate with the lowest observed cost (mean, if trained several times); None before a success."""
        best = self._trials.incumbent()
        return None if best is None else self._candidates[best.candidate_digest]


def plain_values(configuration: Any) -> dict[str, Any]:
    """Values of the active hyperparameters as plain Python objects that JSON can hold."""
    return {
        name: value.item() if isinstance(value, np.generic) else value for name, value in dict(configuration).items()
    }


def candidate_of(space: SearchSpaceLike, trial: Trial | Ask, configurations: Any = None) -> Any:
    """The candidate of a trial or an ask that another process or run recorded.

    Args:
        configurations: The ConfigurationSpace of ``space``, if the caller has it (building one takes milliseconds).

    Raises:
        ValueError: If it is not a candidate of this space.
    """
    configurations = space.configuration_space() if configurations is None else configurations
    default = configurations.get_default_configuration()
    try:
        candidate = type(space.candidate(plain_values(default))).from_dict(trial.candidate)
        type(default)(configurations, values=space.values(candidate))  # checks names, ranges and clauses
    except Exception as error:  # ConfigSpace has many
        raise ValueError(
            f"trial {trial.number} ({trial.candidate_digest}) is not a candidate of the space {space.name!r}: {error}"
        ) from error
    return candidate
