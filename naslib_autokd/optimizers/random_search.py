"""Random search: draws from the space, every one trained in full. The baseline that a search has to beat."""

from __future__ import annotations

from typing import Any

from naslib_autokd.optimizers.base import SearchSpaceLike, check_budgets
from naslib_autokd.records import Ask, CandidateLike, Proposal, Trial, derive_seed, incumbent


class RandomSearch:
    """Proposal ``number`` is a draw that depends on (seed, number) alone.

    Args:
        space: Search space to draw from.
        seed: Seed of the run.
        max_budget_epochs: Epochs of every trial.
        min_budget_epochs: Accepted for uniformity; random search has one budget.
        total_budget_epochs: Accepted for uniformity; the caller counts.
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
        self.space, self.seed, self.max_budget_epochs = space, seed, max_budget_epochs
        self._configurations = space.configuration_space()
        self._asked = 0
        self._candidates: dict[str, CandidateLike] = {}
        self._trials: list[Trial] = []

    def ask(self) -> Proposal:
        number = self._asked
        self._asked += 1
        self._configurations.seed(derive_seed(self.seed, "candidate", number))
        candidate = self.space.candidate(plain_values(self._configurations.sample_configuration()))
        self._candidates[candidate.digest] = candidate
        return Proposal(candidate, self.max_budget_epochs, derive_seed(self.seed, "trial", number), number)

    def tell(self, trial: Trial) -> None:
        if trial.candidate_digest not in self._candidates:
            self._candidates[trial.candidate_digest] = candidate_of(self.space, trial, self._configurations)
        self._trials.append(trial)

    def incumbent(self) -> CandidateLike | None:
        """The candidate with the lowest observed cost: random search has no model to discount luck with."""
        best = incumbent(self._trials)
        return None if best is None else self._candidates[best.candidate_digest]


def plain_values(configuration: Any) -> dict[str, Any]:
    """Values of the active hyperparameters as plain Python objects that JSON can hold."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in dict(configuration).items()}


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
