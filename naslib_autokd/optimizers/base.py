"""What an optimizer is, and which ones there are.

An `Optimizer` proposes candidates one at a time (ask) and learns from trials (tell). A `OneShotMethod` trains shared
weights instead (DARTS) and answers with one architecture. Both are found by name in a plain dict that entry points
extend (groups ``naslib_autokd.optimizers`` and ``naslib_autokd.one_shot_methods``), or as ``module:class``; an object
is accepted wherever a name is. Importing this module imports neither smac nor torch: an optimizer's module is loaded
when it is built.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

from naslib_autokd.evaluators.base import HasBudgets, SaysIfItRepeats
from naslib_autokd.imports import imported
from naslib_autokd.records import Ask, CandidateLike, Proposal, Trial
from naslib_autokd.tasks import did_you_mean


@runtime_checkable
class SearchSpaceLike(Protocol):
    """What an optimizer needs from a search space (HNAG's is `search_spaces.hnag.HNAGSpace`).

    The runners use three more methods where a space has them: ``check(task)``, ``default_candidate()`` and
    ``describe()``. A candidate can be read back (``from_dict``, a class method, from what ``to_dict`` gave), has its KD
    settings in ``kd``, and, of a space other than HNAG's, describes its students itself (``student_spec(task, seed)``
    answers with something that has ``build(seed)``, see `evaluators.kd`).
    """

    @property
    def name(self) -> str: ...

    def configuration_space(self) -> Any:
        """A fresh ``ConfigSpace.ConfigurationSpace``, built the same way every time."""

    def candidate(self, values: Mapping[str, Any]) -> Any:
        """The candidate with these values of the active hyperparameters."""

    def values(self, candidate: Any) -> dict[str, Any]:
        """Plain values of the active hyperparameters; inverse of `candidate`."""


@runtime_checkable
class Optimizer(Protocol):
    """Proposes what to evaluate next. Random search and SMAC fit; so can yours.

    The contract, held for every entry of `OPTIMIZERS` by ``tests/contract/test_optimizers.py``: proposals are legal
    points of the space with budgets between the minimum and the maximum; the same seed gives the same proposals in
    any process; `ask` may be called several times before `tell`; trials are told in any order; a failed trial is
    told like any other; a trial that was never proposed (warm start) is learned from. The proposals depend on nothing
    but the arguments and the order of asks and tells, so that `replay` can continue a run.

    What more an optimizer can do it says by having all members of `ScoresStudents`, `ExpectsCosts`, `FindsFront`,
    `ComparesBudgets` or `GoesOnQuickly`.
    """

    def ask(self) -> Proposal:
        """The next evaluation, numbered from 0."""

    def tell(self, trial: Trial) -> None:
        """Learn from a finished trial, its own or a foreign one."""

    def incumbent(self) -> CandidateLike | None:
        """The candidate that the evidence favours, among those trained at the largest budget."""


@runtime_checkable
class ScoresStudents(Protocol):
    """An optimizer that scores students without training them."""

    def attach(self, evaluator: Any) -> None:
        """Called by the runners before the first ask and before `replay`, with an evaluator
        (`evaluators.base.ScoresUntrained`)."""

    @property
    def extra_student_epochs(self) -> float:
        """What it has spent itself, which the runners add to what trials were charged; a function of the asks, never
        falling."""


@runtime_checkable
class ExpectsCosts(Protocol):
    """An optimizer with a model of what families cost."""

    def expected_costs(self) -> Mapping[str, float]:
        """Cost expected at the largest budget of each candidate that was trained there (digest -> cost)."""


@runtime_checkable
class FindsFront(Protocol):
    """An optimizer that minimises several objectives."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names in `records.OBJECTIVES`."""

    def front(self) -> Sequence[tuple[CandidateLike, dict[str, float]]]:
        """Families that no other is expected to beat in all objectives, by ascending error."""


class BudgetAgreement(NamedTuple):
    """How alike two budgets order the families that were trained at both."""

    low: int
    high: int
    n: int
    """Families trained at both. They were promoted, so they are the better ones, and harder to order."""
    kendall_tau: float
    """In [-1, 1]; nan if ``n`` is below 3 or all costs are equal."""


@runtime_checkable
class ComparesBudgets(Protocol):
    """An optimizer that uses several budgets."""

    def budget_agreement(self) -> Sequence[BudgetAgreement]:
        """Rank agreement of pairs of budgets."""


@runtime_checkable
class GoesOnQuickly(Protocol):
    """An optimizer that continues from the files of a run without searching for its old proposals again."""

    def fast_forward(self, asks: Sequence[Ask], trials: Sequence[Trial]) -> Sequence[Proposal]:
        """As `replay`."""


class OneShotResult(Protocol):
    """What a one-shot search found."""

    @property
    def architecture(self) -> dict[str, Any]:
        """The found architecture as plain data (JSON)."""

    @property
    def student_epochs(self) -> float:
        """Charged to the search: a supernet epoch counts by its cost relative to a student's."""

    @property
    def n_students(self) -> int:
        """Networks trained by the search, supernets included."""

    @property
    def curve(self) -> list[tuple[float, float]]:
        """``(student-epochs, accuracy of the supernet)``."""

    @property
    def info(self) -> dict[str, Any]:
        """Anything else that JSON can hold; ``collapsed`` and ``message`` are shown."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it, for the run folder."""

    def build(self, seed: int = 0) -> Any:
        """The found network (an ``nn.Module``) with new weights, for the final training."""


@runtime_checkable
class ChargesSeconds(Protocol):
    """A `OneShotResult` that says what the search was charged in modelled CPU seconds, too."""

    @property
    def training_seconds(self) -> float:
        """By `distillation.training_cost`."""


@runtime_checkable
class OneShotMethod(Protocol):
    """Trains shared weights and derives one architecture from them (DARTS)."""

    @property
    def kd(self) -> Any:
        """KD settings of the final training (``temperature``, ``kd_weight``)."""

    def search(
        self,
        evaluator: Any,
        budget_student_epochs: float | None,
        seed: int,
        progress: Callable[[float, str], None] | None = None,
    ) -> OneShotResult:
        """Search within the budget; ``progress(share done, text)`` is called now and then.

        One that can be given modelled seconds instead of student-epochs has an argument ``budget_training_seconds``.
        One that goes on from where it was killed has an argument ``checkpoint`` (a `Checkpoint`), too.
        """


class Checkpoint(Protocol):
    """Where a search keeps what it goes on from after it was killed (`run_folder.CheckpointFile`)."""

    def read(self) -> bytes | None:
        """What was written last; None if nothing was, or it cannot be used."""

    def write(self, content: bytes) -> None:
        """Whole or not at all; on disk when this returns."""


@runtime_checkable
class RestoresResults(Protocol):
    """A one-shot method whose finished search need not be repeated after its final students were interrupted."""

    def restore(self, values: Mapping[str, Any], task: Any) -> OneShotResult:
        """Inverse of `OneShotResult.to_dict`, for a search of this method on ``task``.

        Raises:
            ValueError, KeyError, TypeError: If no search found this.
        """


OptimizerFactory = Callable[..., Optimizer]
"""``factory(space, *, seed, max_budget_epochs, min_budget_epochs, total_budget_epochs, **options)``

One that has an argument ``evaluator_budgets`` or ``repeats_exactly`` is told what the evaluator says of itself
(`known_to`).
"""


class _Lazy:
    """A factory that imports its module when it is called; ``defaults`` are options the caller may override."""

    def __init__(self, module: str, attribute: str, **defaults: Any) -> None:
        self._place, self._defaults = (module, attribute), defaults
        self.__name__ = self.__qualname__ = attribute

    def load(self) -> Callable[..., Any]:
        """What is called."""
        module, attribute = self._place
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return found

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.load()(*args, **(self._defaults | options))


OPTIMIZERS: dict[str, OptimizerFactory] = {
    "autokd": _Lazy("naslib_autokd.optimizers.autokd", "AutoKD"),
    "autokd-full": _Lazy("naslib_autokd.optimizers.autokd", "AutoKD", fidelity="full"),
    "random_search": _Lazy("naslib_autokd.optimizers.random_search", "RandomSearch"),
    "two-stage-random": _Lazy("naslib_autokd.optimizers.two_stage_random", "TwoStageRandom"),
    "regularized_evolution": _Lazy("naslib_autokd.optimizers.regularized_evolution", "RegularizedEvolution"),
    "local_search": _Lazy("naslib_autokd.optimizers.local_search", "LocalSearch"),
    "reinforce": _Lazy("naslib_autokd.optimizers.reinforce", "Reinforce"),
    "diswot": _Lazy("naslib_autokd.optimizers.diswot", "DisWOT"),
    "tpe": _Lazy("naslib_autokd.optimizers.tpe", "TPE"),
    "tpe-hyperband": _Lazy("naslib_autokd.optimizers.tpe", "TPE", hyperband=True),
    "optuna-gp": _Lazy("naslib_autokd.optimizers.optuna_gp", "OptunaGP"),
    "botorch-mf": _Lazy("naslib_autokd.optimizers.botorch_mf", "BoTorchMF"),
    "hyperband": _Lazy("naslib_autokd.optimizers.autokd", "AutoKD", model="random", choose_by="observed"),
    "smac-rf": _Lazy("naslib_autokd.optimizers.autokd", "AutoKD", model="rf", fidelity="full", choose_by="observed"),
    "smac-gp": _Lazy("naslib_autokd.optimizers.autokd", "AutoKD", model="gp", fidelity="full", choose_by="observed"),
    "smac-mf": _Lazy("naslib_autokd.optimizers.autokd", "AutoKD", model="rf", choose_by="observed"),
}
"""Ask-and-tell optimizers by name. The ``smac-*`` entries are SMAC's stock facades, kept for comparison."""

MULTI_OBJECTIVE = ("autokd", "autokd-full", "hyperband")
"""Those that search for a front when they are given ``objectives``; the others minimise the error alone."""

ONE_SHOT_METHODS: dict[str, Callable[..., OneShotMethod]] = {
    "darts": _Lazy("naslib_autokd.optimizers.darts", "DARTS"),
}


def nearest(given: object, known: Iterable[str], what: str) -> str:
    """Error text for a name that is not known: what was given, the nearest names, and all of them."""
    return f"unknown {what} {given!r}{did_you_mean(str(given).lower().replace(' ', '_'), sorted(known))}"


def _get(given: Any, table: Mapping[str, Any], group: str, what: str) -> Any:
    if not isinstance(given, str):
        return given
    if given in table:
        return table[given]
    extra = {point.name: point for point in entry_points(group=group)}
    if given in extra:
        return extra[given].load()
    if ":" in given:
        try:
            return imported(given)
        except ImportError as error:
            raise ValueError(f"{what} {error}") from error
    raise ValueError(nearest(given, [*table, *extra], what))


def get_optimizer(name: str | OptimizerFactory) -> OptimizerFactory:
    """The factory of this name, or of the name ``module:class`` (modules of the working directory count).

    An object (a class or function with the same arguments) is returned as it is.

    Raises:
        ValueError: If there is no such optimizer (with the nearest names), or importing it fails.
    """
    return _get(name, OPTIMIZERS, "naslib_autokd.optimizers", "optimizer")


def get_one_shot_method(name: str | Callable[..., OneShotMethod]) -> Callable[..., OneShotMethod]:
    """As `get_optimizer`, for one-shot methods."""
    return _get(name, ONE_SHOT_METHODS, "naslib_autokd.one_shot_methods", "one-shot method")


def check_budgets(max_budget_epochs: int, min_budget_epochs: int, total_budget_epochs: float | None) -> None:
    """Refuse budgets that no run can follow.

    Raises:
        ValueError: If the minimum is not in [1, maximum], or the total does not pay one full training.
    """
    for name, value in (("max_budget_epochs", max_budget_epochs), ("min_budget_epochs", min_budget_epochs)):
        if value != int(value) or value < 1:
            raise ValueError(f"{name} must be a whole number of epochs, at least 1, got {value}")
    if min_budget_epochs > max_budget_epochs:
        raise ValueError(
            f"min_budget_epochs must not exceed max_budget_epochs, got {min_budget_epochs} > {max_budget_epochs}"
        )
    if total_budget_epochs is not None and not total_budget_epochs >= max_budget_epochs:
        raise ValueError(
            f"total_budget_epochs={total_budget_epochs} does not pay one full training of {max_budget_epochs} epochs; "
            f"raise the total or lower max_budget_epochs"
        )


def budget_ladder(
    max_budget: int, min_budget: int, eta: int, n_rungs: int, budgets: Iterable[int] | None = None
) -> tuple[int, ...]:
    """At most ``n_rungs`` budgets, ascending: ``max_budget / eta**k``, rounded, none below ``min_budget``.

    Args:
        budgets: All that the evaluator answers for (`known_to`). Each rung is then the one of these that is nearest
            to ``max_budget / eta**k`` in ratio; neighbouring rungs are at least the square root of ``eta`` apart.

    Raises:
        ValueError: If ``budgets`` lacks ``max_budget``.

    Examples:
        >>> budget_ladder(27, 3, 3, 2), budget_ladder(9, 3, 3, 3), budget_ladder(8, 3, 3, 3), budget_ladder(40, 1, 3, 3)
        ((9, 27), (3, 9), (3, 8), (4, 13, 40))
        >>> budget_ladder(200, 1, 3, 2, (12, 200)), budget_ladder(108, 1, 3, 64, (4, 12, 36, 100, 108))
        ((12, 200), (4, 12, 36, 108))
    """
    ladder = [max_budget]
    if budgets is not None:
        own = sorted({int(budget) for budget in budgets})
        if max_budget not in own:
            raise ValueError(f"max_budget_epochs={max_budget} is none of the budgets {', '.join(map(str, own))}")
        own = [budget for budget in own if budget >= max(min_budget, 1)]
    for k in range(1, n_rungs):
        ideal = max_budget / eta**k
        if budgets is None:
            budget = round(ideal)
            if budget < max(min_budget, 1) or budget >= ladder[-1]:
                break
        else:
            lower = [budget for budget in own if budget**2 * eta <= ladder[-1] ** 2]
            if not lower:
                break
            budget = min(lower, key=lambda budget: abs(math.log(budget / ideal)))
        ladder.append(budget)
    return tuple(reversed(ladder))


def drop_ratios(ladder: Sequence[int], eta: int, budgets: Iterable[int] | None = None) -> tuple[float, ...]:
    """Of how many points one goes from each rung to the next, so that rungs cost the same.

    ``eta``, but on an evaluator's own ``budgets`` the ratio of the two.

    Examples:
        >>> drop_ratios((4, 13, 40), 3), drop_ratios((12, 48, 200), 3, (12, 48, 200))
        ((3.0, 3.0), (4.0, 4.166666666666667))
    """
    return tuple(float(eta) if budgets is None else high / low for low, high in pairwise(ladder))


def n_started(drops: Sequence[float], first_rung: int) -> int:
    """Points that a bracket of Hyperband starts on its first rung (Li et al. 2018, Algorithm 1, line 2)."""
    n_rungs = len(drops) + 1
    return math.ceil(round(math.prod(drops[first_rung:]) * n_rungs / (n_rungs - first_rung), 6))


def known_to(factory: Callable[..., Any], evaluator: Any) -> dict[str, Any]:
    """What the evaluator says about itself and the optimizer has an argument for, to be passed to ``factory``.

    ``evaluator_budgets``: of a benchmark, all that it answers for (its ``budgets``). ``repeats_exactly``: whether the
    seed of a proposal makes no difference (the evaluator's attribute of this name; not known of most).
    """
    facts: dict[str, Any] = {}
    if isinstance(evaluator, HasBudgets):
        facts["evaluator_budgets"] = evaluator.budgets
    if isinstance(evaluator, SaysIfItRepeats):
        facts["repeats_exactly"] = evaluator.repeats_exactly
    parameters = parameters_of(factory)
    return {name: fact for name, fact in facts.items() if fact is not None and name in parameters}


def parameters_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a factory can be called with; empty if it does not tell."""
    try:
        return inspect.signature(factory.load() if isinstance(factory, _Lazy) else factory).parameters
    except (TypeError, ValueError):
        return {}


def budget_agreement(trials: Iterable[Trial]) -> list[BudgetAgreement]:
    """Of each pair of budgets, by the mean cost of each family that succeeded at both."""
    import numpy as np
    from scipy.stats import kendalltau

    costs: dict[int, dict[str, list[float]]] = {}
    for trial in trials:
        if trial.succeeded:
            costs.setdefault(trial.budget_epochs, {}).setdefault(trial.candidate_digest, []).append(trial.cost)
    pairs = []
    budgets = sorted(costs)
    for i, low in enumerate(budgets):
        for high in budgets[i + 1 :]:
            both = sorted(set(costs[low]) & set(costs[high]))
            a, b = ([float(np.mean(costs[budget][digest])) for digest in both] for budget in (low, high))
            varied = len(both) >= 3 and len(set(a)) > 1 and len(set(b)) > 1
            tau = float(kendalltau(a, b).statistic) if varied else math.nan
            pairs.append(BudgetAgreement(low, high, len(both), tau))
    return pairs


class SpaceExhausted(RuntimeError):
    """Every point of a finite space has been proposed: the search ends with what it has."""


class OptimizerError(RuntimeError):
    """An optimizer does not keep what `Optimizer` promises: says what it did, and what was expected."""


def asked(optimizer: Optimizer, known: Container[int], max_budget_epochs: int) -> Proposal:
    """The optimizer's next proposal, if it can be recorded and run.

    Args:
        known: Numbers of the proposals before.
        max_budget_epochs: Of the task, which no proposal may exceed.

    Raises:
        OptimizerError: If it is none.
        SpaceExhausted: From the optimizer.
    """
    proposal: Any = optimizer.ask()
    name = f"{type(optimizer).__name__}.ask()"
    if not isinstance(proposal, Proposal) or not isinstance(proposal.candidate, CandidateLike):
        raise OptimizerError(
            f"{name} returned {proposal!r:.200}, not a Proposal of a candidate of the search space; where nothing is "
            "left to propose it raises SpaceExhausted"
        )
    if proposal.budget_epochs > max_budget_epochs:
        raise OptimizerError(
            f"{name} asked for a training of {proposal.budget_epochs} epochs; the most is max_budget_epochs="
            f"{max_budget_epochs}, which it is made with"
        )
    if proposal.number < 0 or proposal.number in known:
        why = "negative" if proposal.number < 0 else "taken"
        raise OptimizerError(f"{name} gave a proposal the number {proposal.number}, which is {why}: count from 0")
    return proposal


class ReplayMismatch(ValueError):
    """The optimizer does not propose again what the run's files say it proposed."""


def replay(optimizer: Optimizer, trials: Iterable[Trial], asks: Iterable[Ask] | None = None) -> list[Proposal]:
    """Bring a fresh optimizer (same arguments, same seed) to where a run was, from the run's own files.

    Asks and tells follow each other exactly as they did in the run, whatever its number of workers, so that the
    optimizer goes on as if it had never stopped. One that `GoesOnQuickly` is given the files and
    need not search for its old proposals again (AutoKD fits no model); every other one is asked again.

    Args:
        trials: All trials in the order of ``trials.jsonl``, those that the optimizer did not propose (negative
            numbers, a warm start) included.
        asks: ``asks.jsonl``. Lines with negative numbers are the runner's own and are passed over. None: a run with
            one worker from before asks were logged.

    Returns:
        Proposals without a trial (in flight when the run stopped), in the order of asking. They are to be evaluated
        before the next `ask`.

    Raises:
        ReplayMismatch: Naming the first proposal that differs, or if the files do not belong together.
    """
    told = list(trials)
    asked = asks_of_one_worker(told) if asks is None else [ask for ask in asks if ask.number >= 0]
    if isinstance(optimizer, GoesOnQuickly):
        return list(optimizer.fast_forward(asked, told))
    return ask_again(optimizer, asked, told)


def ask_again(optimizer: Optimizer, asks: Sequence[Ask], trials: Sequence[Trial]) -> list[Proposal]:
    """`replay` by asking for every proposal again."""
    in_flight: dict[int, Proposal] = {}
    for event in in_order(asks, trials):
        if isinstance(event, Ask):
            in_flight[event.number] = check_replayed(event, optimizer.ask())
        else:
            optimizer.tell(event)
            proposal = in_flight.get(event.number)
            if proposal is not None and answers(event, proposal):
                del in_flight[event.number]
    return list(in_flight.values())


def in_order(asks: Sequence[Ask], trials: Sequence[Trial]) -> Iterator[Ask | Trial]:
    """Asks and tells as they followed each other.

    Raises:
        ReplayMismatch: If an ask came after more trials than there are.
    """
    n_told = 0
    for ask in asks:
        if ask.after > len(trials):
            raise ReplayMismatch(
                f"proposal {ask.number} was made after {ask.after} trials, but there are {len(trials)}: "
                "trials.jsonl has lost lines, or asks.jsonl belongs to another run"
            )
        yield from trials[n_told : ask.after]
        n_told = max(n_told, ask.after)
        yield ask
    yield from trials[n_told:]


def check_replayed(ask: Ask, proposal: Proposal) -> Proposal:
    """The proposal, if it is what was asked for in the run.

    Raises:
        ReplayMismatch: If not, with what differs.
    """
    now = Ask.of(proposal, ask.after)
    differences = [
        f"{name} {getattr(ask, name)} there, {getattr(now, name)} now"
        for name in ("number", "budget_epochs", "seed", "candidate_digest")
        if getattr(ask, name) != getattr(now, name)
    ]
    if ask.candidate_digest != now.candidate_digest:
        missing = object()
        differences += [
            f"{name} {ask.candidate.get(name)!r} there, {now.candidate.get(name)!r} now"
            for name in sorted({*ask.candidate, *now.candidate})
            if ask.candidate.get(name, missing) != now.candidate.get(name, missing)
        ]
    if differences:
        raise ReplayMismatch(
            f"proposal {ask.number} is not proposed again ({'; '.join(differences)}): the run was made with other "
            "versions or settings; see its run.yaml, or start a new folder"
        )
    return proposal


def asks_of_one_worker(trials: Sequence[Trial]) -> list[Ask]:
    """The asks that led to these trials, if each was told before the next ask."""
    asks: list[Ask] = []
    for position, trial in enumerate(trials):
        if trial.number == len(asks):
            asks.append(
                Ask(
                    number=trial.number,
                    candidate=trial.candidate,
                    candidate_digest=trial.candidate_digest,
                    budget_epochs=trial.budget_epochs,
                    seed=trial.seed,
                    after=position,
                )
            )
        elif trial.number > len(asks):
            raise ReplayMismatch(
                f"trial {trial.number} comes before trial {len(asks)}, so the run had several workers; without "
                "asks.jsonl nobody knows in which order they asked"
            )
    return asks


def answers(trial: Trial, proposal: Proposal) -> bool:
    """Whether ``trial`` is the evaluation that ``proposal`` asked for."""
    return (trial.number, trial.candidate_digest, trial.budget_epochs, trial.seed) == (
        proposal.number,
        proposal.candidate.digest,
        proposal.budget_epochs,
        proposal.seed,
    )
