"""TPE, the tree-structured Parzen estimator of Optuna, at the full budget or with Hyperband's rungs.

Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (NeurIPS); Li et al. 2018, "Hyperband" (JMLR
18). The sampler is Optuna's with its defaults, an optional dependency: ``pip install 'naslib_autokd[optuna]'``.

The rungs are ours, after Optuna's `HyperbandPruner`: its brackets in its proportions, one after the other, and its
rule, that a point is trained on if it is among the best third of its bracket's so far. Optuna's own trains every point
on all rungs below the first of its bracket too, which costs nothing where training continues, and a sixth of the budget
here, where each rung is a training of its own.

The space is suggested hyperparameter by hyperparameter, parents first, so that inactive ones are never sampled. Optuna
knows no forbidden clauses: a forbidden suggestion is discarded (Optuna's state FAIL, from which the sampler learns
nothing, and which costs nothing). So are failed trainings, as when an Optuna objective raises.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from naslib_autokd.optimizers.base import (
    SearchSpaceLike,
    answers,
    budget_ladder,
    check_budgets,
    drop_ratios,
    n_started,
)
from naslib_autokd.optimizers.full_budget import candidate_of
from naslib_autokd.optimizers.moves import ATTEMPTS, Choice, Moves, Number, Values
from naslib_autokd.records import CandidateLike, Proposal, Trial, TrialStore, derive_seed

if TYPE_CHECKING:
    import optuna

ETA = 3
"""Ratio of neighbouring rungs, where the evaluator leaves a choice; one point in so many is trained on."""


class _Point(NamedTuple):
    """A point on its way up the rungs."""

    trial: Any
    """Optuna's."""
    candidate: CandidateLike
    bracket: int
    """Its first rung."""
    rung: int


class TPE:
    """Optuna's `TPESampler`, asked and told.

    Args:
        space: Search space.
        seed: Seed of the run.
        max_budget_epochs: Full training.
        min_budget_epochs: Lowest rung of Hyperband.
        total_budget_epochs: Accepted for uniformity: the caller counts.
        hyperband: Train on rungs of ``max_budget_epochs / 3**k`` epochs, each a training of its own that is paid in
            full. False: full trainings only.
        evaluator_budgets: All that the evaluator answers for: the rungs are among them. None: any number of epochs.

    Raises:
        ImportError: If Optuna is not installed.
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
        hyperband: bool = False,
        evaluator_budgets: Iterable[int] | None = None,
    ) -> None:
        check_budgets(max_budget_epochs, min_budget_epochs, total_budget_epochs)
        try:
            import optuna
        except ImportError as error:
            raise ImportError("Optuna is missing: pip install 'naslib_autokd[optuna]'") from error
        self.space, self.seed, self.max_budget_epochs = space, seed, int(max_budget_epochs)
        rungs = 64 if hyperband else 1
        own = None if evaluator_budgets is None else tuple(evaluator_budgets)
        self.ladder = budget_ladder(self.max_budget_epochs, int(min_budget_epochs), ETA, rungs, own)
        """Budgets that are used, ascending."""
        self._configurations = space.configuration_space()
        self._moves = Moves(self._configurations)
        with _quiet(optuna):
            self._study = optuna.create_study(sampler=self._sampler(optuna))
        self._asked = self._started = 0
        self._drops = drop_ratios(self.ladder, ETA, own)
        self._brackets = [s for s in range(len(self.ladder)) for _ in range(n_started(self._drops, s))]
        self._costs: dict[tuple[int, int], list[float]] = {}  # (bracket, rung): what was reported there, ascending
        self._promoted: deque[_Point] = deque()
        self._in_flight: dict[int, tuple[Proposal, _Point]] = {}
        self._candidates: dict[str, CandidateLike] = {}
        self._told: set[tuple[int, str, int, int]] = set()
        self._trials = TrialStore()

    def _sampler(self, optuna: Any) -> Any:
        return optuna.samplers.TPESampler(seed=derive_seed(self.seed, "tpe"))

    def ask(self) -> Proposal:
        import optuna

        number = self._asked
        if self._promoted:
            point = self._promoted.popleft()
        else:
            with _quiet(optuna):
                trial, values = self._suggested()
            bracket = self._brackets[self._started % len(self._brackets)]
            self._started += 1
            point = _Point(trial, self.space.candidate(values), bracket, bracket)
        budget = self.ladder[point.rung]
        proposal = Proposal(point.candidate, budget, derive_seed(self.seed, "trial", number), number)
        self._asked += 1
        self._in_flight[number] = proposal, point
        self._candidates.setdefault(point.candidate.digest, point.candidate)
        return proposal

    def _suggested(self) -> tuple[optuna.Trial, Values]:
        from optuna.trial import TrialState

        for _ in range(ATTEMPTS):
            trial = self._study.ask()
            values: Values = {}
            for name, dimension in self._moves.dimensions.items():
                if self._moves.is_active(name, values):
                    values[name] = _suggest(trial, name, dimension)
            if not self._moves.is_forbidden(values):
                return trial, values
            self._study.tell(trial, state=TrialState.FAIL)
        raise RuntimeError(f"no legal point in {ATTEMPTS} suggestions: forbidden clauses leave (almost) nothing")

    def tell(self, trial: Trial) -> None:
        """Learn from a trial, its own or a foreign one; one that was told before changes nothing.

        Raises:
            ValueError: If the trial's candidate does not belong to this space.
        """
        import optuna

        key = (trial.number, trial.candidate_digest, trial.budget_epochs, trial.seed)
        if key in self._told:
            return
        if trial.candidate_digest not in self._candidates:
            self._candidates[trial.candidate_digest] = candidate_of(self.space, trial, self._configurations)
        self._told.add(key)
        self._trials.append(trial)
        own = self._in_flight.get(trial.number)
        with _quiet(optuna):
            if own is not None and answers(trial, own[0]):
                del self._in_flight[trial.number]
                self._tell_own(trial, own[1])
            elif trial.succeeded and trial.budget_epochs == self.max_budget_epochs:
                self._adopt(trial)

    def _tell_own(self, trial: Trial, point: _Point) -> None:
        from optuna.trial import TrialState

        if not trial.succeeded:
            self._study.tell(point.trial, state=TrialState.FAIL)
        elif point.rung == len(self.ladder) - 1:
            self._study.tell(point.trial, trial.cost)
        else:
            point.trial.report(trial.cost, trial.budget_epochs)
            costs = self._costs.setdefault((point.bracket, point.rung), [])
            bisect.insort(costs, trial.cost)
            if trial.cost <= costs[max(int(len(costs) / self._drops[point.rung]), 1) - 1]:
                self._promoted.append(point._replace(rung=point.rung + 1))
            else:
                self._study.tell(point.trial, state=TrialState.PRUNED)

    def _adopt(self, trial: Trial) -> None:
        """A foreign full training, as if it had been suggested here; one on a lower rung has no bracket to be in."""
        import optuna

        values = self.space.values(self._candidates[trial.candidate_digest])
        dimensions = {
            name: self._moves.dimensions[name] for name in values if self._moves.dimensions[name].n_values > 1
        }
        self._study.add_trial(
            optuna.trial.create_trial(
                params={name: _parameter(each, values[name]) for name, each in dimensions.items()},
                distributions={name: _distribution(each) for name, each in dimensions.items()},
                value=trial.cost,
            )
        )

    def incumbent(self) -> CandidateLike | None:
        """The lowest observed cost among those trained at the largest budget; None before a success."""
        best = self._trials.incumbent()
        return None if best is None else self._candidates[best.candidate_digest]


def _suggest(trial: optuna.Trial, name: str, dimension: Choice | Number) -> Any:
    if isinstance(dimension, Number):
        suggest = trial.suggest_int if dimension.integer else trial.suggest_float
        return suggest(name, dimension.lower, dimension.upper, log=dimension.log)
    if dimension.n_values == 1:
        return dimension.items[0]
    if dimension.ordered:
        return dimension.items[trial.suggest_int(name, 0, dimension.n_values - 1)]
    return trial.suggest_categorical(name, dimension.items)


def _distribution(dimension: Choice | Number) -> Any:
    """What `_suggest` makes Optuna use."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        return (
            IntDistribution(0, dimension.n_values - 1)
            if dimension.ordered
            else CategoricalDistribution(dimension.items)
        )
    kind = IntDistribution if dimension.integer else FloatDistribution
    return kind(dimension.lower, dimension.upper, log=dimension.log)


def _parameter(dimension: Choice | Number, value: Any) -> Any:
    return dimension.items.index(value) if isinstance(dimension, Choice) and dimension.ordered else value


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna does not log each trial; its verbosity is put back afterwards."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
