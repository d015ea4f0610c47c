"""AutoKD's search: SMAC3 over the joint space of generator and KD settings, asked and told.

The default is SMAC's multi-fidelity pipeline with two of its parts replaced (the public slots ``config_selector`` and
``intensifier``): Hyperband on two budgets, a third of the maximum and the maximum, and a budget-aware Gaussian process
(`budget_aware_gp`) that learns from the trials of all budgets. SMAC's stock facades did not beat random search on
noisy 10-dimensional problems within 60 trainings; this does (``benchmarks/optimizers.py``). The stock ones are kept as
``model="rf"``, ``"gp"`` and ``"random"``.

Departures from SMAC's habits, each because the other way was measured to be worse or unsafe:

* The wiring and weight seeds of a trial come from (run seed, trial number). SMAC allows one seed with budgets, and
  every family would be judged on the same one; SMAC's seed stays a part of its key only.
* Failures are told at a finite cost, so that brackets drop them, and enter the model at the worst success of their
  budget: a cost of 1.0 would destroy the model's scale.
* The incumbent is the lowest posterior mean among families trained at the largest budget, not the luckiest training.
* Where evaluations repeat exactly (a table) there are no brackets: they never trained in full what a low budget had
  judged and not promoted, so the search stood still. Budgets take turns, each with the best expected improvement.
* Proposal ``k`` depends only on (seed, k, trials so far): no hidden random state, no dependence on PYTHONHASHSEED.
  SMAC's own files are not used (``overwrite=True``, a temporary folder removed at once); the run's store is the record,
  and a run is continued by `AutoKD.fast_forward`: SMAC's brackets are fed the stored proposals, no model is fitted.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ConfigSpace import Configuration, ConfigurationSpace
from ConfigSpace.forbidden import ForbiddenConjunction, ForbiddenRelation
from smac import BlackBoxFacade, HyperparameterOptimizationFacade, MultiFidelityFacade, Scenario
from smac.acquisition.maximizer import LocalAndSortedRandomSearch, LocalSearch
from smac.initial_design import RandomInitialDesign, SobolInitialDesign
from smac.intensifier.hyperband import Hyperband
from smac.main.config_selector import ConfigSelector
from smac.main.exceptions import ConfigurationSpaceExhaustedException
from smac.runhistory import StatusType, TrialInfo, TrialValue

from naslib_autokd.optimizers.base import (
    BudgetAgreement,
    ReplayMismatch,
    SearchSpaceLike,
    SpaceExhausted,
    answers,
    ask_again,
    budget_agreement,
    budget_ladder,
    check_budgets,
    check_replayed,
    drop_ratios,
    in_order,
    n_started,
    nearest,
)
from naslib_autokd.optimizers.budget_aware_gp import (
    EXACT_ROWS,
    Array,
    BudgetAwareGP,
    SpaceVectors,
    expected_improvement,
    maximise,
)
from naslib_autokd.optimizers.full_budget import candidate_of, plain_values
from naslib_autokd.records import (
    OBJECTIVES,
    Ask,
    CandidateLike,
    Proposal,
    Trial,
    derive_seed,
    incumbent,
    objective_value,
)

MODELS = ("budget-aware-gp", "rf", "gp", "random")
FIDELITIES = ("auto", "full", "even", "hyperband", "hyperband-2", "hyperband-3")
CHOICES = ("model", "observed")

THREE_RUNGS_BELOW = 20
"""Full trainings below which "auto" takes three budgets: short searches want more and cheaper ones. On a table of real
KD trainings (40 seeds) 12 trainings gave 0.346 with three and 0.360 with two, 30 gave 0.338 and 0.335. On functions of
the benchmark (12 trainings, 10 seeds), three minus two: A -0.002 +- 0.004, B -0.005 +- 0.003, hnag -0.004 +- 0.008.
Not where budgets take turns (``repeats_exactly``) and the lowest gets a third of the epochs, whatever it is worth: on
the same table 12 trainings gave 0.339 with two and 0.360 with three."""

MIN_PAIRS = 5
MIN_CORRELATION = 0.75
"""When the low budget is given up (`AutoKD.low_budgets_mislead`). Measured over 20 seeds of 60 trainings, with the rule
minus without: C (low budgets mislead) 8 runs gave it up, mean -0.0011; A 1 run, 0.0000; B 1 run, +0.0001; hnag 1 run,
+0.0001; A20 (high noise) 1 run, +0.0007. Weak evidence, used only where both witnesses agree."""

PENDING_PER_STALE = 4
"""With so many trials in flight a proposal may miss one result: with 64 one model serves 16 proposals."""

CROWD = 16
"""Points that are waited for from which on a proposal is chosen among a quarter of the points: time matters more."""

_SMAC_STATUS = {
    "success": StatusType.SUCCESS,
    "timeout": StatusType.TIMEOUT,
    "out_of_memory": StatusType.MEMORYOUT,
    "diverged": StatusType.CRASHED,
    "error": StatusType.CRASHED,
    "refused": StatusType.CRASHED,
}


@dataclass(frozen=True)
class _Row:
    """One finished trial as the model sees it."""

    vector: Array
    digest: str
    budget: int
    cost: float
    succeeded: bool


class _Batch(NamedTuple):
    """What a batch of proposals is made from: a continued run makes the rest of it from the same."""

    n_trials: int = -1
    """Told before it began."""
    n_asked: int = -1
    n_chosen: int = 0
    """Points asked for or taken for a rung before it began; those since are imagined, too."""
    size: int = 0
    """One or less: each proposal is made from all that is known."""
    by_brackets: bool = True
    waiting: tuple[str, ...] = ()
    """Digests of points that had no answer yet."""


class _View(NamedTuple):
    """What a proposal is made from; those of a batch have it in common."""

    batch: _Batch | None
    model: BudgetAwareGP
    """Of the error, with what had no answer imagined."""
    others: list[BudgetAwareGP]
    """Of further objectives."""
    top: int
    """The largest budget that is known."""
    seen: list[str]
    known: Array
    """Families behind the model, digests and vectors."""
    means: Array
    """Their expected objectives ``(n, objectives)``."""
    best: float
    own_noise: float
    crowded: bool


class _Fitted(NamedTuple):
    model: BudgetAwareGP
    rows: list[_Row]
    """The trials behind it; of very many those that it sees through, and the latest."""


_Key = tuple[int, str, int, int]  # number, digest, budget, seed of a trial


class AutoKD:
    """Bayesian optimisation of families and KD settings with SMAC3.

    Args:
        space: Search space.
        seed: Seed of the run; the same seed and the same answers give the same proposals in any process.
        max_budget_epochs: Full training.
        min_budget_epochs: Smallest budget that may be used: a task where few epochs mislead says so here.
        total_budget_epochs: Student-epochs the whole run may spend; chooses the ladder. None: a long run.
        fidelity: "auto" (three budgets below 20 full trainings, else and if ``repeats_exactly`` two; full trainings
            only once the low budget is seen to mislead), "full", "hyperband" (as many rungs as fit), "hyperband-2",
            "hyperband-3"; "even" (budgets as "auto", without brackets: `AutoKD.budgets_by_turn`), which "auto" is if
            ``repeats_exactly``.
        model: "budget-aware-gp", or SMAC's own "rf", "gp" (full fidelity only), "random" (plain Hyperband).
        choose_by: How `incumbent` judges: "model" (posterior mean of the budget-aware model) or "observed".
        eta: Ratio of neighbouring budgets, and of families dropped at a rung.
        evaluator_budgets: All that the evaluator answers for: the ladder is made of these, and as many families are
            dropped at a rung as the next one is dearer (`optimizers.base.budget_ladder`). None: any number of epochs.
        repeats_exactly: Whether the seed of a proposal makes no difference, as in a table without repeats. What was
            observed is the truth then: the incumbent is the best that was trained in full, improvement counts from
            it, and what the model calls noise is what a point has to itself.
        priors: Beta priors of numerical dimensions, name -> (alpha, beta). Off by default: a good prior gained
            nothing and a wrong one cost most of the advantage.
        n_initial: Size of the initial Sobol design.
        random_share: Share of random proposals.
        stock_options: Keyword arguments for SMAC's stock parts: ``retrain_after``, ``max_config_calls``.
        objectives: What is minimised (`records.OBJECTIVES`), the error first. With several, SMAC promotes by
            non-dominated sorting, and each proposal improves one random compromise (ParEGO, Knowles 2006) of the
            posteriors of all objectives, each with a model of its own; `front` tells what came of it.

    Raises:
        ValueError: If an option or a budget is not possible.
    """

    def __init__(
        self,
        space: SearchSpaceLike,
        *,
        seed: int = 0,
        max_budget_epochs: int,
        min_budget_epochs: int = 1,
        total_budget_epochs: float | None = None,
        fidelity: str = "auto",
        model: str = "budget-aware-gp",
        choose_by: str = "model",
        eta: int = 3,
        priors: Mapping[str, tuple[float, float]] | None = None,
        n_initial: int = 9,
        random_share: float = 0.1,
        stock_options: Mapping[str, int] | None = None,
        objectives: Sequence[str] = ("error",),
        evaluator_budgets: Iterable[int] | None = None,
        repeats_exactly: bool = False,
    ) -> None:
        for value, known, what in ((model, MODELS, "model"), (fidelity, FIDELITIES, "fidelity")):
            if value not in known:
                raise ValueError(nearest(value, known, what))
        if choose_by not in CHOICES:
            raise ValueError(nearest(choose_by, CHOICES, "choose_by"))
        check_budgets(max_budget_epochs, min_budget_epochs, total_budget_epochs)
        if eta != int(eta) or eta < 2:
            raise ValueError(f"eta must be a whole number of at least 2, got {eta}")
        if not 0.0 <= random_share <= 1.0:
            raise ValueError(f"random_share must be in [0, 1], got {random_share}")
        if n_initial < 1:
            raise ValueError(f"n_initial must be at least 1, got {n_initial}")
        if model == "gp" and fidelity not in ("auto", "full"):
            raise ValueError(f'SMAC\'s "gp" knows no budgets: use fidelity="full" with it, got {fidelity!r}')
        unknown = sorted(set(stock_options or {}) - {"retrain_after", "max_config_calls"})
        if unknown:
            raise ValueError(nearest(unknown[0], ("retrain_after", "max_config_calls"), "stock option"))
        self.objectives = tuple(objectives)
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown:
            raise ValueError(nearest(unknown[0], OBJECTIVES, "objective"))
        if self.objectives[:1] != ("error",) or len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"objectives must differ and begin with the error, got {', '.join(self.objectives)}")
        if len(self.objectives) > 1 and model in ("rf", "gp"):
            raise ValueError(f'several objectives need model="budget-aware-gp" or "random", got {model!r}')
        self.space, self.seed, self.model = space, int(seed), model
        self.repeats_exactly = repeats_exactly
        self.choose_by = "observed" if repeats_exactly else choose_by
        self.n_initial, self.random_share = n_initial, random_share
        self.max_budget_epochs = int(max_budget_epochs)
        if model == "gp":
            fidelity = "full"
        self.fidelity = fidelity
        self.eta = int(eta)
        own = None if evaluator_budgets is None else tuple(evaluator_budgets)
        n_rungs = self._n_rungs(total_budget_epochs)
        self.ladder = budget_ladder(self.max_budget_epochs, int(min_budget_epochs), self.eta, n_rungs, own)
        """Budgets that are used, ascending."""
        self._drops = drop_ratios(self.ladder, self.eta, own)

        configurations = with_priors(space.configuration_space(), priors)
        self.vectors = SpaceVectors(configurations)
        self._asked = 0
        self._pending: dict[int, tuple[Proposal, TrialInfo | None]] = {}
        self._configurations: dict[str, Any] = {}  # digest -> Configuration, of all that was ever looked at
        self._at: dict[bytes, CandidateLike] = {}  # vector -> candidate, of the same
        self._candidates: dict[str, CandidateLike] = {}  # digest -> candidate, of all that was asked or told
        self._trials: dict[_Key, Trial] = {}
        self._untold: list[Trial] = []  # foreign trials that SMAC's own model has not seen yet
        self._smac_seed: int | None = None
        self._full_only = len(self.ladder) == 1
        even = fidelity == "even" or (fidelity == "auto" and repeats_exactly)
        self._even = even and model == "budget-aware-gp" and not self._full_only
        self._asked_epochs = dict.fromkeys(self.ladder, 0)
        self._exhausted = False
        self._replayed_budget: int | None = None
        self._watch_budgets = fidelity in ("auto", "even") and model == "budget-aware-gp"
        self._fitted: tuple[int, _Fitted | None] = (-1, None)
        self._batch = _Batch()
        self._checkpoint: tuple[int, _Fitted | None] = (-1, None)  # the model of so many first trials
        self._fitted_others: tuple[int, list[BudgetAwareGP]] = (-1, [])
        self._version = 0  # counts tells
        self._selector: BudgetAwareSelector | None = None
        self._own_selector = model in ("budget-aware-gp", "random")
        self._facade = self._build(
            configurations, total_budget_epochs, with_prior_draws=bool(priors), stock=dict(stock_options or {})
        )
        # bounds of several objectives, from all trials at each ask and tell: 2 ms at 500 trials, and only SMAC's own
        # models read them
        self._facade.runhistory._update_objective_bounds = lambda: None

    def _n_rungs(self, total_budget_epochs: float | None) -> int:
        if self.fidelity == "full":
            return 1
        if self.fidelity == "hyperband":
            return 64
        if self.fidelity == "hyperband-2":
            return 2
        if self.fidelity == "hyperband-3":
            return 3
        short = total_budget_epochs is not None and total_budget_epochs < THREE_RUNGS_BELOW * self.max_budget_epochs
        return 3 if short and not self.repeats_exactly else 2

    @property
    def full_only(self) -> bool:
        """Whether all further proposals are full trainings (asked for, or because the low budget misleads)."""
        return self._full_only

    # --- SMAC

    def _n_trials(self, total_budget_epochs: float | None) -> int:
        """Does not stop ask/tell, but sizes the initial designs: a quarter of it at most for SMAC's stock models."""
        if self._own_selector or total_budget_epochs is None:
            return 1_000_000 if self._own_selector else 100
        per_training = 2.5 if len(self.ladder) > 1 else 1.0  # Hyperband: about 150 trials for the price of 60
        return max(20, round(per_training * total_budget_epochs / self.max_budget_epochs))

    def _build(
        self,
        configurations: ConfigurationSpace,
        total_budget_epochs: float | None,
        *,
        with_prior_draws: bool,
        stock: dict[str, int],
    ) -> Any:
        multi_fidelity = len(self.ladder) > 1 or self._own_selector
        budgets: dict[str, float] = {}
        if multi_fidelity:
            budgets = {"min_budget": float(self.ladder[0]), "max_budget": float(self.max_budget_epochs)}
        several: dict[str, Any] = {}
        if len(self.objectives) > 1:
            several = {"objectives": list(self.objectives), "crash_cost": [1.0] * len(self.objectives)}
        with tempfile.TemporaryDirectory(prefix="naslib_autokd_smac_") as folder:  # only its construction writes there
            scenario = Scenario(
                configspace=configurations,
                name="autokd",
                output_directory=Path(folder),
                deterministic=False,
                **several,
                n_trials=self._n_trials(total_budget_epochs),
                seed=derive_seed(self.seed, "smac"),
                **budgets,
            )
            common: dict[str, Any] = {"overwrite": True, "logging_level": False}
            if multi_fidelity:
                common["intensifier"] = LadderHyperband(scenario, self.ladder, self._drops)
            if self._own_selector:
                if with_prior_draws:  # SMAC's designs ignore priors: the first draws come from the space itself
                    design = RandomInitialDesign(scenario, n_configs=1, max_ratio=1.0)
                else:
                    # clauses thin a Sobol design (9 asked, 4 left): ask for more and take the first legal ones
                    design = SobolInitialDesign(scenario, n_configs=max(64, 8 * self.n_initial), max_ratio=1.0)
                self._selector = BudgetAwareSelector(
                    scenario, self, n_initial=0 if with_prior_draws else self.n_initial
                )
                return MultiFidelityFacade(scenario, initial_design=design, config_selector=self._selector, **common)
            return self._stock_facade(scenario, common, stock)

    def _stock_facade(self, scenario: Scenario, common: dict[str, Any], stock: dict[str, int]) -> Any:
        facade: Any = BlackBoxFacade
        if self.model == "rf":
            facade = MultiFidelityFacade if len(self.ladder) > 1 else HyperparameterOptimizationFacade
            common["model"] = facade.get_model(scenario)
            # 2**20 reserved leaves make scikit-learn slow (0.92 s -> 0.06 s); threads fight on a shared machine
            common["model"]._rf_opts.update(max_leaf_nodes=4096, n_jobs=1)
        if len(self.ladder) == 1:
            calls = stock.get("max_config_calls", 1 if self.model == "gp" else 3)
            common["intensifier"] = facade.get_intensifier(scenario, max_config_calls=calls)
        retrain_after = stock.get("retrain_after", 4 if self.model == "gp" else 8)
        common["config_selector"] = facade.get_config_selector(scenario, retrain_after=retrain_after)
        maximizer = LocalAndSortedRandomSearch(
            scenario.configspace, challengers=1000, local_search_iterations=5, seed=scenario.seed
        )
        maximizer._local_search = StableLocalSearch(scenario.configspace, seed=scenario.seed)
        return facade(scenario, acquisition_maximizer=maximizer, **common)

    # --- ask and tell

    def ask(self) -> Proposal:
        """The next evaluation.

        Where the brackets find no new point any more, in a small finite space, every point that was not trained in full
        gets a full training.

        Raises:
            SpaceExhausted: If every point of a finite space has been proposed so.
        """
        if self._watch_budgets and not self._full_only and self.low_budgets_mislead():
            self._full_only = True
        number = self._asked
        config, budget, info = self._next()
        candidate = self.candidate_at(config.get_array()) or self.space.candidate(plain_values(config))
        proposal = Proposal(candidate, budget, self._trial_seed(number), number)
        self._asked += 1
        self._pending[number] = (proposal, info)
        self._candidates.setdefault(candidate.digest, candidate)
        self._configurations.setdefault(candidate.digest, config)
        self._tell_untold()
        return proposal

    def _next(self) -> tuple[Any, int, TrialInfo | None]:
        """Configuration, budget, and SMAC's name for it (None: SMAC is not told)."""
        self._begin_batch()
        if self._selector is not None and self._even and not self._full_only:
            return self._next_even(self._selector)
        try:
            if self._selector is not None and not self._by_brackets:
                # SMAC need not know: the selector is asked directly
                return self._selector.propose(self.max_budget_epochs), self.max_budget_epochs, None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-learn and numpy inside SMAC's stock models
                info = self._facade.ask()
        except (StopIteration, ConfigurationSpaceExhaustedException) as error:
            if self._exhausted or self._selector is None:
                raise SpaceExhausted(f"the space {self.space.name!r} has no more points to propose") from error
            self._exhausted = True
            return self._next()
        self._smac_seed = info.seed
        return info.config, self.max_budget_epochs if info.budget is None else int(info.budget), info

    @property
    def _by_brackets(self) -> bool:
        """False once they are given up."""
        return not (self._exhausted or (self._full_only and len(self.ladder) > 1))

    def _begin_batch(self) -> None:
        """Another one if the last one is used up or too old for the trials that are in flight."""
        if self._selector is None or self._even:
            return
        last, size = self._batch, min(len(self._pending), len(self._trials)) // PENDING_PER_STALE
        age = max(self._asked - last.n_asked, len(self._trials) - last.n_trials)
        if age >= max(size, 1) or last.by_brackets != self._by_brackets:
            waiting = tuple(self._selector.waiting(self._by_brackets)) if size > 1 else ()
            n_chosen = self._selector.n_chosen
            self._batch = _Batch(len(self._trials), self._asked, n_chosen, size, self._by_brackets, waiting)

    @property
    def batch(self) -> _Batch | None:
        """The one that the next proposal belongs to; None if that is made from all that is known."""
        return self._batch if self._batch.size > 1 else None

    def budgets_by_turn(self) -> list[int]:
        """Of "even": budgets in the order in which they are next, so that as many epochs are spent on each."""
        return sorted(self.ladder, key=lambda budget: self._asked_epochs[budget] + budget)

    def _next_even(self, selector: BudgetAwareSelector) -> tuple[Any, int, None]:
        for budget in [self._replayed_budget] if self._replayed_budget else self.budgets_by_turn():
            try:
                configuration = selector.propose(budget)
            except ConfigurationSpaceExhaustedException:  # in a small space everything was judged there
                continue
            self._asked_epochs[budget] += budget
            return configuration, budget, None
        raise SpaceExhausted(f"the space {self.space.name!r} has no more points to propose")

    def _trial_seed(self, number: int) -> int:
        """Of a proposal; it also tells a replay which ones were made after the brackets found no new point."""
        return derive_seed(self.seed, "remaining" if self._exhausted else "trial", number)

    def tell(self, trial: Trial) -> None:
        """Learn from a trial; one that was never proposed here enters the model like any other.

        Raises:
            ValueError: If the trial's candidate does not belong to this space.
        """
        pending = self._pending.get(trial.number)
        if pending is not None and answers(trial, pending[0]):
            del self._pending[trial.number]
            if pending[1] is not None:
                self._tell_smac(pending[1], trial)
        else:
            self._adopt(trial)
        key = (trial.number, trial.candidate_digest, trial.budget_epochs, trial.seed)
        if self._trials.get(key, trial) != trial:
            self._checkpoint = (-1, None)
        self._trials[key] = trial
        self._version += 1

    def _adopt(self, trial: Trial) -> None:
        known = (trial.number, trial.candidate_digest, trial.budget_epochs, trial.seed) in self._trials
        if trial.candidate_digest not in self._candidates:
            self._candidates[trial.candidate_digest] = self._recorded(trial)
        if not known and self._selector is None:
            self._untold.append(trial)
            self._tell_untold()

    def _recorded(self, record: Trial | Ask) -> CandidateLike:
        """The candidate of a record; its configuration is known from then on."""
        candidate = candidate_of(self.space, record, self.vectors.space)
        if candidate.digest != record.candidate_digest:
            raise ValueError(
                f"trial {record.number} names its candidate {record.candidate_digest}, but its values have the "
                f"digest {candidate.digest}: it was written by another version"
            )
        self.configuration_of(candidate)
        return candidate

    def configuration_of(self, candidate: CandidateLike) -> Any:
        """The configuration that stands for a candidate, built from its values.

        From values and never from a vector: the two differ by up to 7e-13, enough for a replayed run to diverge. In
        spaces where several configurations mean one candidate this is the one of ``space.values``.
        """
        digest = candidate.digest
        if digest not in self._configurations:
            kind = _Configuration if self._own_selector else Configuration  # SMAC's own are plain: never mixed
            configuration = kind(self.vectors.space, values=self.space.values(candidate))
            self._configurations[digest] = configuration
            self._at[configuration.get_array().tobytes()] = candidate
        return self._configurations[digest]

    def candidate_at(self, vector: Array) -> CandidateLike | None:
        """The candidate whose configuration has this vector, if it was ever looked at."""
        return self._at.get(vector.tobytes())

    def _tell_untold(self) -> None:
        # before the first ask SMAC would take them for first-rung candidates and evaluate them again
        if self._smac_seed is None:
            return
        for trial in self._untold:
            budget = None
            if len(self.ladder) > 1:
                budget = float(min(self.ladder, key=lambda rung: abs(rung - trial.budget_epochs)))
            info = TrialInfo(self._configurations[trial.candidate_digest], seed=self._smac_seed, budget=budget)
            self._tell_smac(info, trial)
        self._untold.clear()

    def _tell_smac(self, info: TrialInfo, trial: Trial) -> None:
        cost: Any = float(trial.cost)
        if len(self.objectives) > 1:
            # of a failure everything is unknown or useless: worse than any student in every objective
            values = [objective_value(trial, name) if trial.succeeded else None for name in self.objectives[1:]]
            cost = [cost, *(1e18 if value is None else value for value in values)]
        value = TrialValue(cost=cost, time=trial.total_s, status=_SMAC_STATUS[trial.status])
        self._facade.tell(info, value, save=False)

    # --- replay

    def fast_forward(self, asks: Sequence[Ask], trials: Sequence[Trial]) -> list[Proposal]:
        """Go through the asks and tells of a run without fitting models, and continue as if it had never stopped.

        SMAC's brackets need configurations and costs only, so the selector hands out the stored proposals. SMAC's own
        models keep random states, so with these every proposal is made again.

        Returns:
            Proposals in flight, in the order of asking.

        Raises:
            ReplayMismatch: Naming the first proposal that does not fit.
            ValueError: If this optimizer has been asked or told before.
        """
        if self._asked:
            raise ValueError("fast_forward needs a fresh optimizer: this one has been asked before")
        if self._selector is None:
            return ask_again(self, asks, trials)
        known: dict[str, CandidateLike] = {}
        for ask in asks:
            if ask.candidate_digest not in known:
                known[ask.candidate_digest] = self._replayed(ask)
        candidates = [known[ask.candidate_digest] for ask in asks]
        for trial in trials:
            if trial.candidate_digest not in self._configurations:
                self._recorded(trial)
        exhausted = next(
            (i for i, ask in enumerate(asks) if ask.seed == derive_seed(self.seed, "remaining", ask.number)), len(asks)
        )
        given_up = min(self._given_up_at(asks, trials), exhausted)
        script = self._selector.script
        if not self._even:
            script.extend({ask.candidate_digest: known[ask.candidate_digest] for ask in asks[:given_up]}.values())
        watching, self._watch_budgets = self._watch_budgets, False
        index = 0
        for event in in_order(asks, trials):
            if isinstance(event, Trial):
                self.tell(event)
                continue
            if index == exhausted:
                self._exhausted = True
            elif index == given_up:
                self._full_only = True
            if self._even or index >= given_up:
                script.clear()
                script.append(candidates[index])
                self._replayed_budget = event.budget_epochs
            check_replayed(event, self.ask())
            index += 1
        script.clear()
        self._replayed_budget = None
        self._watch_budgets = watching
        return [proposal for proposal, _ in self._pending.values()]

    def _replayed(self, ask: Ask) -> CandidateLike:
        try:
            return self._recorded(ask)
        except ValueError as error:
            raise ReplayMismatch(f"proposal {ask.number} can not be made again: {error}") from error

    def _given_up_at(self, asks: Sequence[Ask], trials: Sequence[Trial]) -> int:
        """Index of the first ask after `low_budgets_mislead`; the number of asks if it came to no such point.

        Every ask at a low budget was made before it, so only those after the last one have to be looked at.
        """
        if not self._watch_budgets or self._full_only:
            return len(asks)
        last_low = max((i for i, ask in enumerate(asks) if ask.budget_epochs < self.max_budget_epochs), default=-1)
        told = list(self._trials.values())  # before the run
        misleads = False
        n_looked_at = -1
        for index in range(last_low + 1, len(asks)):
            if asks[index].after != n_looked_at:
                n_looked_at = asks[index].after
                misleads = self._misleads(_distinct([*told, *trials[:n_looked_at]]))
            if misleads:
                return index
        return len(asks)

    # --- what the trials say

    def rows(self) -> list[_Row]:
        """Finished trials in a fixed order, failures at the worst success of their budget.

        Failures at a budget without a success take the worst success of all; without any success there are no rows.
        """
        return self._rows(self._trials)

    def _rows(self, of: Mapping[_Key, Trial], worst_of: Mapping[_Key, Trial] | None = None) -> list[_Row]:
        trials = [of[key] for key in sorted(of)]
        worst: dict[int, float] = {}
        for trial in (of if worst_of is None else worst_of).values():
            if trial.succeeded:
                worst[trial.budget_epochs] = max(trial.cost, worst.get(trial.budget_epochs, -math.inf))
        if not worst:
            return []
        overall = max(worst.values())
        rows = []
        for trial in trials:
            cost = trial.cost if trial.succeeded else worst.get(trial.budget_epochs, overall)
            vector = self._configurations[trial.candidate_digest].get_array()
            rows.append(_Row(vector, trial.candidate_digest, trial.budget_epochs, cost, trial.succeeded))
        return rows

    def fitted_model(self) -> BudgetAwareGP | None:
        """The budget-aware model of all trials so far; None below 2 rows."""
        fitted = self._fit_once()
        return None if fitted is None else fitted.model

    def fitted(self, n: int | None = None) -> _Fitted:
        """The model of the first ``n`` trials, or of all (there is one: trials have succeeded)."""
        fitted = self._fit_once() if n is None else self._fit(self.first_trials(n))
        assert fitted is not None
        return fitted

    def first_trials(self, n: int | None) -> Mapping[_Key, Trial]:
        """So many of those that were told, in this order; None: all."""
        return self._trials if n is None else dict(islice(self._trials.items(), n))

    def _fit_once(self) -> _Fitted | None:
        if self._fitted[0] != self._version:
            self._fitted = (self._version, self._fit(self._trials))
        return self._fitted[1]

    def _fit(self, trials: Mapping[_Key, Trial]) -> _Fitted | None:
        """The model of these trials: the one of the last checkpoint (`last_checkpoint`) and the rows since."""
        n = last_checkpoint(len(trials), 20 if self._even else EXACT_ROWS)
        if self._checkpoint[0] != n:
            first = trials if n == len(trials) else dict(islice(trials.items(), n))
            self._checkpoint = (n, self._fit_all(self._rows(first), n))
        fitted = self._checkpoint[1]
        if n == len(trials):
            return fitted
        rows = self._rows(dict(islice(trials.items(), n, None)), trials)
        if fitted is None or not {row.budget for row in rows} <= set(fitted.model.means):
            return self._fit_all(self._rows(trials), len(trials))
        return _Fitted(fitted.model.with_rows(*self._arrays(rows)), [*fitted.rows, *rows])

    def _fit_all(self, rows: Sequence[_Row], n: int) -> _Fitted | None:
        if len(rows) < 2:
            return None
        model = BudgetAwareGP(self.vectors.groups, max_budget=self.max_budget_epochs)
        model.fit(*self._arrays(rows), rng=np.random.default_rng([self.seed, 1, n]))
        return _Fitted(model, [rows[int(i)] for i in model.inducing])

    def _arrays(self, rows: Sequence[_Row]) -> tuple[Array, Array, Array]:
        """Features, budgets and costs."""
        return (
            self.vectors.features(np.array([row.vector for row in rows])),
            np.array([row.budget for row in rows], dtype=float),
            np.array([row.cost for row in rows]),
        )

    def expected_costs(self) -> dict[str, float]:
        """Posterior mean cost of every known family at the largest successful budget (for `TrialStore.incumbent`).

        Empty with ``choose_by="observed"``: the observed costs decide then.
        """
        if self.choose_by == "observed":
            return {}
        model = self.fitted_model()
        largest = self._largest_budget()
        if model is None or largest is None:
            return {}
        digests = sorted({trial.candidate_digest for trial in self._trials.values()})
        mean, _ = model.predict(self.features_of(digests), float(largest))
        return {digest: float(cost) for digest, cost in zip(digests, mean, strict=True)}

    def other_models(self, n: int | None = None) -> list[BudgetAwareGP]:
        """A model of the logarithm of each objective besides the error, from all successful trials, or the first ``n``.

        An objective that does not vary has none, nor has one that no trial knows.
        """
        version, models = self._fitted_others
        if n is None and version == self._version:
            return models
        models = []
        for name in self.objectives[1:]:
            told = [(t.candidate_digest, objective_value(t, name)) for _, t in sorted(self.first_trials(n).items())]
            known = [(digest, math.log(value)) for digest, value in told if value is not None and value > 0]
            values = np.array([value for _, value in known])
            if len(known) < 2 or values.std() == 0:
                continue
            full = np.full(len(known), float(self.max_budget_epochs))  # no objective but the error knows budgets
            features = self.features_of([digest for digest, _ in known])
            model = BudgetAwareGP(self.vectors.groups, max_budget=self.max_budget_epochs)
            models.append(model.fit(features, full, values, rng=np.random.default_rng(self.seed)))
        if n is None:
            self._fitted_others = (self._version, models)
        return models

    def expected_objectives(self, digests: Sequence[str], budget: float) -> tuple[Array, Array]:
        """Posterior means and standard deviations ``(n, objectives)``: of the error at ``budget``, of others' logs."""
        model = self.fitted_model()
        assert model is not None
        return self.predict_objectives(self.features_of(digests), budget, [model, *self.other_models()])

    def predict_objectives(
        self, features: Array, budget: float, models: Sequence[BudgetAwareGP]
    ) -> tuple[Array, Array]:
        """The same by these models, the error's first."""
        columns = [model.predict(features, self.max_budget_epochs if i else budget) for i, model in enumerate(models)]
        return np.stack([mean for mean, _ in columns], axis=1), np.stack([sd for _, sd in columns], axis=1)

    def front(self) -> list[tuple[CandidateLike, dict[str, float]]]:
        """Families that no other one beats in all objectives, with what is expected of them, by ascending error.

        Among the families trained at the largest budget. The error is the posterior mean (with
        ``choose_by="observed"`` or without a model the observed mean); other objectives are means over the family's
        trials.
        """
        largest = self._largest_budget()
        groups: dict[str, list[Trial]] = {}
        for _, trial in sorted(self._trials.items()):
            if trial.succeeded and all(objective_value(trial, name) is not None for name in self.objectives):
                groups.setdefault(trial.candidate_digest, []).append(trial)
        expected = self.expected_costs()
        families = []
        for digest, trials in groups.items():
            full = [trial for trial in trials if trial.budget_epochs == largest]
            if full:
                values = {name: float(np.mean([objective_value(t, name) for t in trials])) for name in self.objectives}
                values["error"] = expected.get(digest, float(np.mean([trial.cost for trial in full])))
                families.append((self._candidates[digest], values))
        families.sort(key=lambda family: list(family[1].values()))
        front: list[tuple[CandidateLike, dict[str, float]]] = []
        for family in families:
            if not any(all(kept[name] <= family[1][name] for name in self.objectives) for _, kept in front):
                front.append(family)
        return front

    def _largest_budget(self) -> int | None:
        return max((trial.budget_epochs for trial in self._trials.values() if trial.succeeded), default=None)

    def incumbent(self) -> CandidateLike | None:
        """The family that the evidence favours among those trained at the largest budget; None before a success."""
        trials = [self._trials[key] for key in sorted(self._trials)]
        best = incumbent(trials, self.expected_costs())
        return None if best is None else self._candidates[best.candidate_digest]

    def budget_agreement(self) -> list[BudgetAgreement]:
        """Rank agreement of each pair of budgets over the families that succeeded at both."""
        return budget_agreement(self._trials.values())

    def low_budgets_mislead(self) -> bool:
        """Whether two witnesses agree that the rung below the top does not order families as the top does.

        The ranks of the promoted families (at least `MIN_PAIRS` of them, Kendall's tau not above 0) and the model,
        which sees all trials (correlation below `MIN_CORRELATION`; where budgets take turns that of one training with
        its noise, and for what it costs). Either alone is too noisy: where the low budget
        is good, tau of 5 pairs is below 0 in every fourth run.
        """
        return self._misleads(self._trials)

    def _misleads(self, trials: Mapping[_Key, Trial]) -> bool:
        if len(self.ladder) < 2 or last_checkpoint(len(trials), EXACT_ROWS) < len(trials):
            return False
        low, high = self.ladder[-2:]
        at_both = [trial for trial in trials.values() if trial.budget_epochs in (low, high)]
        pair = next((p for p in budget_agreement(at_both) if (p.low, p.high) == (low, high)), None)
        if pair is None or pair.n < MIN_PAIRS or not pair.kendall_tau <= 0.0:
            return False
        fitted = self._fit_once() if trials is self._trials else self._fit(trials)
        if fitted is None or not self._even:
            return fitted is not None and fitted.model.budget_correlation(low, high) < MIN_CORRELATION
        # what one low training tells (its squared correlation) for its cost; on the ratio of eta as with brackets
        needed = MIN_CORRELATION * math.sqrt(self.eta * low / high)
        return fitted.model.correlation_of_a_training(low, high) < needed

    # --- used by the selector

    def features_of(self, digests: Sequence[str]) -> Array:
        return self.vectors.features(np.array([self._configurations[digest].get_array() for digest in digests]))

    def n_succeeded(self, n: int | None = None) -> int:
        """Of the first ``n`` trials, or of all."""
        return sum(trial.succeeded for trial in islice(self._trials.values(), n))

    def best_costs(self, n: int | None = None) -> list[tuple[int, float]]:
        """Lowest observed cost of each budget with a success, ascending budgets, of the first ``n`` trials."""
        best: dict[int, float] = {}
        for trial in self.first_trials(n).values():
            if trial.succeeded:
                best[trial.budget_epochs] = min(trial.cost, best.get(trial.budget_epochs, math.inf))
        return sorted(best.items())

    def trained_from(self, budget: int) -> set[str]:
        return {t.candidate_digest for t in self._trials.values() if t.budget_epochs >= budget}

    @property
    def judges_at_low_budgets(self) -> bool:
        return self._even and not self._full_only


def last_checkpoint(n_rows: int, always_below: int) -> int:
    """The last number of rows at which kernel parameters are fitted: each, and above a limit 5% more than before.

    Examples:
        >>> [last_checkpoint(n, 300) for n in (7, 300, 301, 314, 315, 10_000)]
        [7, 300, 300, 300, 315, 9866]
    """
    if n_rows <= always_below:
        return n_rows
    checkpoint = always_below
    while (following := math.ceil(1.05 * checkpoint)) <= n_rows:
        checkpoint = following
    return checkpoint


def _distinct(trials: Iterable[Trial]) -> dict[_Key, Trial]:
    """A trial told twice counts once."""
    return {(t.number, t.candidate_digest, t.budget_epochs, t.seed): t for t in trials}


class LadderHyperband(Hyperband):
    """SMAC's Hyperband on budgets that need not be powers of one ratio.

    Args:
        ladder: Budgets, ascending.
        drops: Of how many configurations one goes on from each rung but the last (`optimizers.base.drop_ratios`).
    """

    def __init__(self, scenario: Scenario, ladder: Sequence[int], drops: Sequence[float]) -> None:
        super().__init__(scenario, incumbent_selection="highest_budget")
        self._ladder, self._drops = ladder, drops

    def __post_init__(self) -> None:
        super().__post_init__()
        self._s_max = len(self._drops)
        for bracket in range(self._s_max + 1):
            n_configs = [n_started(self._drops, bracket)]
            for drop in self._drops[bracket:]:
                n_configs.append(max(int(n_configs[-1] / drop + 1e-6), 1))
            self._budgets_in_stage[bracket] = list(map(float, self._ladder[bracket:]))
            self._n_configs_in_stage[bracket] = n_configs
            self._max_iterations[bracket] = len(n_configs)


class _Configuration(Configuration):
    """One that keeps its text: with 64 trials in flight SMAC compares 4000 pairs for each proposal, at 0.1 ms each.

    Equal to its like only, of the same space.
    """

    @cached_property
    def _text(self) -> str:
        return str(super().__str__())

    def __str__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Configuration) and self._text == other._text


class BudgetAwareSelector(ConfigSelector):
    """SMAC's source of configurations, replaced: each proposal is made from all trials of all budgets.

    Expected improvement at the largest budget with trials, over the lowest posterior mean of the families seen;
    configurations without a result are imagined at their posterior mean; a share of the proposals is random.
    """

    def __init__(self, scenario: Scenario, owner: AutoKD, *, n_initial: int) -> None:
        super().__init__(scenario)
        self._owner = owner
        self._n_initial = n_initial
        self._chosen: list[str] = []  # digests; more than were asked for, since a rung is filled at once
        self._view: _View | None = None  # of the last batch
        self.script: deque[CandidateLike] = deque()
        """Chosen without a model while there are any: the stored proposals of a run that is replayed."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.propose()

    @cached_property
    def _design(self) -> list[Any]:
        return covering(self._initial_design_configs, self._owner.vectors.choices(), self._n_initial)

    def propose(self, budget: int | None = None) -> Any:
        """The next configuration. With a ``budget`` one may come again that is known from lower ones only."""
        candidate = self.script.popleft() if self.script else self._next(budget)
        self._chosen.append(candidate.digest)
        return self._owner.configuration_of(candidate)

    def _next(self, budget: int | None) -> CandidateLike:
        owner = self._owner
        rng = np.random.default_rng([owner.seed, 0, len(self._chosen)])  # no hidden state: replay gives the same
        taken = self._taken(budget)
        for configuration in self._in_order_of_preference(rng, budget, taken):
            candidate: CandidateLike = owner.space.candidate(plain_values(configuration))
            if candidate.digest not in taken:
                return candidate
        raise ConfigurationSpaceExhaustedException()

    def _in_order_of_preference(self, rng: np.random.Generator, budget: int | None, taken: set[str]) -> Iterator[Any]:
        owner, index = self._owner, len(self._chosen)
        if index < len(self._design):
            yield self._design[index]
        # a full training is too dear for chance where low budgets look around
        share = 0.0 if budget == owner.max_budget_epochs and owner.judges_at_low_budgets else owner.random_share
        n = None if owner.batch is None else owner.batch.n_trials
        if owner.model != "random" and owner.n_succeeded(n) >= 5 and rng.random() >= share:
            pool = self._best_first(rng, budget, taken)
        else:
            pool = owner.vectors.sample(64, rng)
        for further in range(17):  # more for a finite space
            for vector in self._further(rng) if further else pool:
                known = owner.candidate_at(vector)
                if known is not None and known.digest in taken:
                    continue
                try:
                    yield owner.vectors.configuration(vector)
                except ValueError:  # not legal after all
                    continue

    def _further(self, rng: np.random.Generator) -> Array:
        points = self._owner.vectors.points
        return self._owner.vectors.sample(256, rng) if points is None else rng.permutation(points)

    def _taken(self, budget: int | None) -> set[str]:
        """Digests that are not to be proposed: trained or in flight at the budget or above, or known at all."""
        owner = self._owner
        if budget is None:
            return {*self._chosen, *owner._candidates}
        return owner.trained_from(budget) | {
            proposal.candidate.digest for proposal, _ in owner._pending.values() if proposal.budget_epochs >= budget
        }

    def waiting(self, for_rungs: bool) -> list[str]:
        """Digests of what has no answer yet: in flight, or ``for_rungs`` taken and not asked for."""
        waiting = [proposal.candidate.digest for proposal, _ in self._owner._pending.values()]
        if for_rungs:  # when brackets are given up they never will be
            answered = {*waiting, *self._owner.trained_from(0)}
            waiting += [digest for digest in self._chosen if digest not in answered]
        return waiting

    @property
    def n_chosen(self) -> int:
        return len(self._chosen)

    def _look(self, budget: int | None) -> _View:
        """Made once for a batch."""
        owner, batch, n = self._owner, self._owner.batch, None
        if batch is not None:
            if self._view is not None and self._view.batch is batch:
                return self._view
            n = batch.n_trials
        model, rows = owner.fitted(n)
        top, lowest = owner.best_costs(n)[-1]
        seen, first = np.unique([row.digest for row in rows], return_index=True)
        known = np.array([row.vector for row in rows])[first]
        others = owner.other_models(n)
        means, _ = owner.predict_objectives(owner.vectors.features(known), top, [model, *others])
        best, own_noise = float(means[:, 0].min()), 0.0
        if owner.repeats_exactly:
            best, own_noise = lowest, model.noise_sd(top)
        waiting = self.waiting(budget is None) if batch is None else batch.waiting
        if waiting:
            model = model.with_pending(owner.features_of(waiting), top)
        crowded = len(waiting) >= CROWD
        self._view = _View(batch, model, others, top, seen.tolist(), known, means, best, own_noise, crowded)
        return self._view

    def _best_first(self, rng: np.random.Generator, budget: int | None, taken: set[str]) -> Array:
        owner, view = self._owner, self._look(budget)
        model, top, mean, best = view.model, view.top, view.means[:, 0], view.best
        if budget is not None and budget > top:  # nothing is known there: the best of what was judged below
            return view.known[np.argsort(mean, kind="stable")]
        if view.batch is not None and (since := self._chosen[view.batch.n_chosen :]):
            model = model.with_pending(owner.features_of(since), top)

        def score(features: Array) -> Array:
            expected, sd = model.predict(features, top)
            return expected_improvement(expected, np.hypot(sd, view.own_noise), best)

        if len(owner.objectives) > 1:
            compromise = Compromise(view.means, rng)
            mean = compromise.of(view.means)
            best = float(mean.min())

            def score(features: Array) -> Array:
                return compromise.improvement(*owner.predict_objectives(features, top, [model, *view.others]), best)

        order = np.argsort(mean, kind="stable")
        starts = view.known[order[:8]]
        if owner.judges_at_low_budgets and budget is not None:  # what lower budgets found to be good
            judged = [i for i in order[:64] if view.seen[i] not in taken]
            starts = np.concatenate([starts, view.known[judged]])
        few: dict[str, Any] = {"n_samples": 128, "n_starts": 4, "n_perturbations": 12} if view.crowded else {}
        return maximise(owner.vectors, score, starts, rng, **few)


def covering(points: Sequence[Any], choices: Mapping[str, Sequence[Any]], n: int) -> list[Any]:
    """The first ``n`` points, if they have every choice of every category; else those that do, as far as there are any.

    Then as many as the largest category has choices at least, each the first of the points with the most new choices.
    """
    design = list(points[:n])
    wanted = {(name, choice) for name, values in choices.items() for choice in values}

    def of(point: Any) -> set[tuple[str, Any]]:
        return {(name, point[name]) for name in choices if name in point}

    if not n or wanted <= set().union(*map(of, design)):
        return design
    n, left, design = max(n, *map(len, choices.values())), list(points), []
    while left and len(design) < n:
        design.append(left.pop(max(range(len(left)), key=lambda i: len(of(left[i]) & wanted))))
        wanted -= of(design[-1])
    return design


class Compromise:
    """One random compromise between objectives: the augmented Tchebycheff norm of ParEGO (Knowles 2006, eq. 2).

    ``max_j(w_j f_j) + 0.05 sum_j(w_j f_j)`` of objectives scaled to [0, 1] over the known families; smaller is better.

    Args:
        means: ``(n, k)``: expected objectives of the known families.
        rng: Draws the weights (uniform on the simplex) and the normal numbers of `improvement`.
    """

    N_DRAWS = 64

    def __init__(self, means: Array, rng: np.random.Generator) -> None:
        self.low = means.min(axis=0)
        spread = means.max(axis=0) - self.low
        self.spread = np.where(spread > 0, spread, 1.0)
        self.weights = rng.dirichlet(np.ones(means.shape[1]))
        half = rng.standard_normal((self.N_DRAWS // 2, means.shape[1]))
        self._normals = np.concatenate([half, -half])  # antithetic: the mean of the draws is exact

    def of(self, objectives: Array) -> Array:
        """``(..., k)`` to ``(...)``."""
        weighted = self.weights * (objectives - self.low) / self.spread
        return np.asarray(weighted.max(axis=-1) + 0.05 * weighted.sum(axis=-1))

    def improvement(self, mean: Array, sd: Array, best: float) -> Array:
        """Expected improvement over ``best`` of independent normal objectives ``(m, k)``; the same draws for all."""
        draws = mean[:, None, :] + sd[:, None, :] * self._normals[None, :, :]
        return np.asarray(np.maximum(best - self.of(draws), 0.0).mean(axis=1))


class StableLocalSearch(LocalSearch):
    """SMAC's local search without its dependence on PYTHONHASHSEED (it starts from a set)."""

    def _get_init_points_from_previous_configs(self, *args: Any, **kwargs: Any) -> list[Any]:
        points = super()._get_init_points_from_previous_configs(*args, **kwargs)
        return sorted(points, key=lambda c: tuple(np.nan_to_num(c.get_array(), nan=-1.0)))


def with_priors(space: ConfigurationSpace, priors: Mapping[str, tuple[float, float]] | None) -> ConfigurationSpace:
    """The space with Beta distributions on some numerical dimensions (shape parameters above 1).

    Raises:
        ValueError: If a name is unknown (with the nearest ones), not numerical, or has a condition or a clause.
    """
    if not priors:
        return space
    from ConfigSpace import Beta, Float, Integer
    from ConfigSpace.hyperparameters import FloatHyperparameter, IntegerHyperparameter

    bound = {name for name in space if space.children_of[name] or space.parents_of[name]}
    out = ConfigurationSpace(name=space.name)
    replaced = {}
    for name, (alpha, beta) in priors.items():
        if name not in space:
            raise ValueError(nearest(name, list(space), "hyperparameter in priors"))
        old = space[name]
        if name in bound or (space.forbidden_clauses and name in _clause_names(space)):
            raise ValueError(f"no prior on {name!r}: it takes part in a condition or a forbidden clause")
        if not isinstance(old, (FloatHyperparameter, IntegerHyperparameter)):
            raise ValueError(f"no prior on {name!r}: only numerical dimensions have one")
        if min(alpha, beta) < 1:
            raise ValueError(f"prior of {name!r}: both shape parameters must be at least 1, got ({alpha}, {beta})")
        kind: Any = Float if isinstance(old, FloatHyperparameter) else Integer
        replaced[name] = kind(name, (old.lower, old.upper), distribution=Beta(alpha, beta), log=old.log)
    out.add([replaced.get(name, hyperparameter) for name, hyperparameter in space.items()])
    if space.conditions:
        out.add(space.conditions)
    if space.forbidden_clauses:
        out.add(space.forbidden_clauses)
    return out


def _clause_names(space: ConfigurationSpace) -> set[str]:
    names = set()
    for clause in space.forbidden_clauses:
        stack = [clause]
        while stack:
            part = stack.pop()
            if isinstance(part, ForbiddenConjunction):
                stack += part.components
            elif isinstance(part, ForbiddenRelation):
                names |= {part.left.name, part.right.name}
            else:
                names.add(part.hyperparameter.name)
    return names
