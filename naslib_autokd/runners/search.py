"""The search loop: ask, evaluate, record, tell. Its folder is `run_folder`'s, the final students are `finals`'.

A run is a folder: ``task.yaml``, ``run.yaml`` (what was asked for, seed, versions, hardware), ``trials.jsonl``, and
after the search ``finals.jsonl`` and ``students/`` (checkpoints of the final students). Everything shown is computed
from these. Starting again with the same folder continues: stored trials are replayed into the optimizer, which must
propose them again, and nothing that is on disk is trained twice.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from naslib_autokd.evaluators.base import Evaluator
from naslib_autokd.optimizers.base import (
    MULTI_OBJECTIVE,
    Optimizer,
    OptimizerFactory,
    ReplayMismatch,
    SearchSpaceLike,
    SpaceExhausted,
    asks_of_one_worker,
    get_optimizer,
    known_to,
    replay,
)
from naslib_autokd.records import Ask, AskLog, CandidateLike, Proposal, Trial, TrialStore, derive_seed
from naslib_autokd.runners.engine import Engine, InProcessEngine
from naslib_autokd.runners.finals import FinalStudents as FinalStudents
from naslib_autokd.runners.finals import train_family as train_family
from naslib_autokd.runners.finals import train_finals as train_finals
from naslib_autokd.runners.pareto import check_objectives, objective_table, pareto_front
from naslib_autokd.runners.run_folder import (
    ASKS,
    BUDGETS,
    TRIALS,
    RunFolder,
    check_run,
    log,
    open_run,
    read_settings,
)
from naslib_autokd.runners.run_folder import RunFolderError as RunFolderError
from naslib_autokd.runners.run_folder import budget_change as budget_change
from naslib_autokd.runners.session import SearchInterrupted, Session, fraction_spent
from naslib_autokd.search_spaces import get_search_space, without_kd
from naslib_autokd.tasks import Task, did_you_mean, get_task


class ReplayError(RuntimeError):
    """The optimizer did not propose the stored trials again, so the run cannot be continued."""


class TooManyFailures(RuntimeError):
    """So many trials failed in a row that something is wrong; the message says what most likely."""


REFUSALS = ("LimitError", "ParameterBudgetError")
"""Errors of a family that no width brings within the limits. It costs no training, and is no trial of ``n_trials``."""
REFUSALS_PER_FAILURE = 10
"""So many of them in a row count as one failure."""


def is_refusal(trial: Trial) -> bool:
    """Whether a trial ended before any training because no student of its family keeps the limits."""
    return trial.status == "error" and trial.message.partition(":")[0] in REFUSALS


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands, after each trial."""

    trial: Trial
    n_trials: int
    """Of the budget: without those that `is_refusal`."""
    student_epochs: float
    fraction: float
    """Share of the budget that is spent, in [0, 1]."""
    best_val_accuracy: float | None
    """Of the observed incumbent."""
    n_in_flight: int = 0
    """Trials that run now."""
    n_failures: int = 0
    elapsed_s: float = 0.0
    """Of work on this run, earlier sessions included."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    candidate: CandidateLike
    """The incumbent family, by the optimizer's evidence (AutoKD: posterior mean at the full budget)."""
    trials: tuple[Trial, ...]
    expected_cost: float
    """Validation error that the evidence expects of the family; the observed one if the optimizer has no model."""
    agreement: tuple[dict[str, Any], ...]
    """Rank agreement of pairs of budgets: ``low``, ``high``, ``n``, ``kendall_tau`` (None below 3 pairs)."""
    student_epochs: float
    search_s: float
    overhead_s: float
    """Seconds in which the loop did not wait for trials: ask, tell and records."""
    stop_reason: str = ""
    """The budget that ended the search: ``n_trials``, ``student_epochs``, ``wall_s`` or ``target_cost``; ``space`` if
    every point of a finite space was tried before."""
    front: tuple[dict[str, Any], ...] = ()
    """With several objectives: the families that no other beats in all of them (``candidate``, ``candidate_digest``,
    ``objectives``: name -> value), by ascending error."""


ProgressCallback = Callable[[SearchProgress], None]


def check_space(task: Task, space: SearchSpaceLike) -> None:
    """Let the space check, before any work, whether it can be searched on this task.

    Raises:
        ValueError: If it cannot; HNAG's: if the images are too small or the parameter limit is too low.
    """
    check = getattr(space, "check", None)
    if check is not None:
        check(task)


def search_space(
    task: Task,
    space: str | SearchSpaceLike | None = None,
    *,
    objective: str = "kd",
    out: str | Path | None = None,
) -> SearchSpaceLike:
    """The space that a search on ``task`` uses: the one given, by name or as it is, or the task's preset.

    Args:
        objective: With "ce" the KD settings change nothing, and are no dimensions of the search...
        out: ...but in a run folder that was begun with them.

    Raises:
        ValueError: If the name is unknown (with the nearest ones).
    """
    found: SearchSpaceLike = get_search_space(task.preset if space is None else space)
    if objective != "ce" or (out is not None and read_settings(out).get("space") == _described(found)):
        return found
    return without_kd(found)


def _described(space: SearchSpaceLike) -> Any:
    return space.describe() if hasattr(space, "describe") else space.name


def run_settings(
    optimizer: str,
    space: SearchSpaceLike,
    *,
    seed: int,
    options: Mapping[str, Any] | None,
    n_trials: int | None = None,
    student_epochs: float | None = None,
    wall_s: float | None = None,
    target_cost: float | None = None,
    planned_epochs: float | None = None,
    objectives: Sequence[str] = ("error",),
    start_with_default: bool = True,
    evaluation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What ``run.yaml`` says of a search, besides the environment."""
    return {
        "optimizer": optimizer,
        "options": dict(options or {}),
        **({} if len(objectives) == 1 else {"objectives": list(objectives)}),
        "space": _described(space),
        "seed": seed,
        "start_with_default": start_with_default,
        **({} if evaluation is None else {"evaluation": dict(evaluation)}),
        "n_trials": n_trials,
        "student_epochs": student_epochs,
        "wall_s": wall_s,
        "target_cost": target_cost,
        "planned_epochs": planned_epochs,
    }


def planned_epochs(out: str | Path, task: Task, planned: float | None) -> float | None:
    """Student-epochs that the run in ``out`` was planned for, ``planned`` if it is new.

    The optimizer chooses its ladder by them, so a run that is made longer keeps them: it could not be replayed else.
    """
    stored = read_settings(out)
    if not stored:
        return planned
    if "planned_epochs" in stored:
        return None if stored["planned_epochs"] is None else float(stored["planned_epochs"])
    budget = {name: stored.get(name) for name in BUDGETS}
    return check_budget(task, **budget) if any(value is not None for value in budget.values()) else planned


def search(
    task: str | Task,
    optimizer: str | OptimizerFactory | Optimizer = "autokd",
    *,
    evaluator: Evaluator | None = None,
    engine: Engine | None = None,
    scorer: Any = None,
    space: str | SearchSpaceLike | None = None,
    n_trials: int | None = None,
    student_epochs: float | None = None,
    wall_s: float | None = None,
    target_cost: float | None = None,
    seed: int = 0,
    out: str | Path | RunFolder | None = None,
    options: Mapping[str, Any] | None = None,
    objectives: Sequence[str] = ("error",),
    start_with_default: bool = True,
    max_failures: int | None = 10,
    evaluation: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] | None = None,
    progress: ProgressCallback | None = None,
) -> SearchResult:
    """Search for the best family of students.

    Asynchronous: a worker that becomes free gets the next proposal at once. With one worker the run is exactly
    reproducible; with several, given the order of the results.

    Args:
        task: Name or `Task`.
        optimizer: Name in ``OPTIMIZERS``, a class with the same arguments, or an object that asks and tells.
        evaluator: Trains the students in this process, one at a time (`KDEvaluator`), or answers from a table.
        engine: Runs the trials instead, on workers or with limits (`engine.DaskEngine`, `engine.LimitedEngine`); it
            builds its evaluators itself and is closed by the caller. Either this or ``evaluator``.
        scorer: Scores untrained students for an optimizer that wants it (``attach``, DisWOT), in this process, and
            knows the images whose splits are kept in ``out``; the evaluator by default, so of use with an engine of
            workers only.
        space: What is searched, a name or an object; the task's preset with the KD settings by default. These are no
            dimensions where students learn from the labels alone (``objective="ce"`` of the evaluator).
        n_trials: Stop after so many trials; families of which no student keeps the limits do not count.
        student_epochs: Stop before a trial would bring the epochs trained above this; running trials count in full.
        wall_s: Start no trial after so many seconds of work on this run, earlier sessions of it included.
        target_cost: Stop once a full training has a cost (``1 - val_accuracy``) of this or less. One of the other
            three budgets is required; with several, whichever is first.
        seed: Everything random follows from it.
        out: Run folder, held until the search ends (or by the caller: `run_folder.RunFolder.own`); nothing is
            written if None. An existing one is continued: trials that ran when it stopped
            are run again first, and nothing else is. Its budget may be changed, nothing else.
        options: Keyword arguments of the optimizer.
        objectives: What is minimised (`records.OBJECTIVES`): the error, alone or with others. An optimizer that knows
            one objective (all but AutoKD's) minimises the error, and the front is that of its trials. Objectives of
            `records.MEASURED_OBJECTIVES` need an evaluator that measures them.
        start_with_default: Before the optimizer is asked, train the space's default family in full and tell it: a
            floor for short searches, whatever the optimizer. The trial has number -1 and counts in the budget. A
            space without a default (it has no ``default_candidate``) starts with the optimizer.
        max_failures: So many failed trials in a row end the search; None: never.
        evaluation: What the results depend on besides the task (teacher, objective): kept in ``run.yaml``, and a run
            is continued with the same only.
        stop: Asked before each trial; once true the running trials are finished and saved, and the search ends with
            `SearchInterrupted` (see `session.StopSignals`).
        progress: Called after each trial.

    Raises:
        ValueError: Before any work, for settings that cannot work.
        RunFolderError: If ``out`` holds another run.
        StoreLockedError: If another process writes ``out``.
        TaskError: If the images of the task have changed since the run in ``out`` began.
        ReplayError: If the stored trials of ``out`` cannot be reproduced.
        TooManyFailures: After ``max_failures`` failed trials in a row.
        SearchInterrupted: After ``stop``.
        RuntimeError: If no trial succeeded at the full budget.
    """
    task = get_task(task)
    objective = str((evaluation or {}).get("objective") or getattr(scorer or evaluator, "objective", "kd"))
    space = search_space(task, space, objective=objective, out=None if out is None else _path(out))
    check_space(task, space)
    objectives = check_objectives(objectives)
    if (evaluator is None) == (engine is None):
        raise ValueError("give an evaluator (one trial at a time in this process) or an engine (workers), not both")
    if max_failures is not None and max_failures < 1:
        raise ValueError(f"max_failures must be at least 1, got {max_failures}")
    if engine is None:
        assert evaluator is not None
        engine = InProcessEngine(evaluator)
    budget: dict[str, Any] = {
        "n_trials": n_trials,
        "student_epochs": student_epochs,
        "wall_s": wall_s,
        "target_cost": target_cost,
    }
    planned = check_budget(task, **budget)
    given = isinstance(optimizer, Optimizer) and not isinstance(optimizer, type)
    name = type(optimizer).__name__ if given else _name(optimizer)
    settings: dict[str, Any] = {}
    if out is not None:
        settings = run_settings(
            name,
            space,
            seed=seed,
            **budget,
            planned_epochs=planned,
            options=options,
            objectives=objectives,
            start_with_default=start_with_default,
            evaluation=evaluation,
        )
        check_run(out, task, settings)
        planned = planned_epochs(_path(out), task, planned)
    chosen = (
        cast(Optimizer, optimizer)
        if given
        else make_optimizer(
            task,
            cast(Any, optimizer),
            space=space,
            **budget,
            planned_epochs=planned,
            seed=seed,
            options=options,
            objectives=objectives,
            evaluator=evaluator,
        )
    )
    if hasattr(chosen, "attach"):
        if scorer is None:  # the engine of an evaluator has it
            scorer = getattr(engine, "evaluator", None)
        if scorer is None:
            raise ValueError(f"optimizer {name!r} scores students in this process; with an engine give a scorer too")
        chosen.attach(scorer)
    with ExitStack() as stack:
        owned = None if out is None else stack.enter_context(RunFolder.own(out))
        folder = None if owned is None else owned.path
        store = stack.enter_context(TrialStore(None if folder is None else folder / TRIALS))
        asks = stack.enter_context(AskLog(None if folder is None else folder / ASKS))
        store.lock()
        asks.lock()
        session = stack.enter_context(Session(folder, budget))
        if owned is not None and folder is not None:
            open_run(owned, task, settings)
            data = getattr(scorer or evaluator, "data", None)
            if data is not None:
                from naslib_autokd.data.splits import save_splits

                save_splits(data, folder)
        run = _Search(task, space, chosen, engine, store, asks, session, budget, max_failures, stop, progress)
        run.objectives = objectives
        run.resume(seed, start_with_default)
        session.update(stop_reason=(reason := run.run()))
        return run.result(reason)


def _path(out: str | Path | RunFolder) -> Path:
    return out.path if isinstance(out, RunFolder) else Path(out)


def _name(optimizer: object) -> str:
    return optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", repr(optimizer))


class _Search:
    """A search while it runs."""

    def __init__(
        self,
        task: Task,
        space: SearchSpaceLike,
        optimizer: Optimizer,
        engine: Engine,
        store: TrialStore,
        asks: AskLog,
        session: Session,
        budget: Mapping[str, Any],
        max_failures: int | None,
        stop: Callable[[], bool] | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.task, self.space, self.optimizer, self.engine = task, space, optimizer, engine
        self.store, self.asks, self.session, self.budget = store, asks, session, budget
        self.max_failures, self.stop, self.progress = max_failures, stop or (lambda: False), progress
        self.started = time.perf_counter()
        self.waited_s = 0.0
        self.trained = 0.0
        self.n_failures = 0
        self.n_refusals = 0
        self.failed_in_a_row: list[Trial] = []
        self.refused_in_a_row: list[Trial] = []
        self.target_reached = False
        self.exhausted = False
        self.in_flight: dict[int, tuple[Proposal, float]] = {}
        self.objectives: tuple[str, ...] = ("error",)
        self.waiting: deque[Proposal] = deque()
        """Asked for, not handed out: trials that ran at the kill, or one that cannot be paid yet."""

    @property
    def n_trials(self) -> int:
        """Finished trials that count for the budget."""
        return len(self.store) - self.n_refusals

    @property
    def spent(self) -> float:
        """Student-epochs of all trials, and what the optimizer has spent beside them."""
        return self.trained + _extra_epochs(self.optimizer)

    def resume(self, seed: int, start_with_default: bool) -> None:
        """Bring the optimizer to where the run was; what ran then comes first."""
        in_flight = _replay(self.optimizer, self.store, self.asks)
        if start_with_default and all(trial.number != -1 for trial in self.store):
            first = _first_proposal(self.task, self.space, seed)
            self.waiting.extend([] if first is None else [first])
        self.waiting.extend(in_flight)
        for trial in self.store:
            self._count(trial)
        self.failed_in_a_row.clear()  # whoever continues has had a look
        self.refused_in_a_row.clear()
        if len(self.store):
            log.info("continuing after %d trials, %d to run again", len(self.store), len(self.waiting))

    def _count(self, trial: Trial) -> None:
        self.trained += trial.student_epochs
        if is_refusal(trial):
            self.n_refusals += 1
            self.refused_in_a_row.append(trial)
        else:
            self.refused_in_a_row.clear()
        if trial.succeeded:
            self.failed_in_a_row.clear()
            target = self.budget["target_cost"]
            full = trial.budget_epochs >= self.task.max_budget_epochs
            self.target_reached |= target is not None and full and trial.cost <= target
        else:
            self.n_failures += 1
            if not is_refusal(trial):
                self.failed_in_a_row.append(trial)

    def run(self) -> str:
        """Work until a budget is spent; its name."""
        reason = ""
        while True:
            while not reason and not self.stop() and len(self.in_flight) < self.engine.n_slots:
                reason = self._spent_budget()
                if reason or not self._hand_out():
                    break
            if self.in_flight:
                self._collect()
            elif reason:
                return reason
            elif self.stop():
                raise SearchInterrupted(f"stopped after {len(self.store)} trials; the same command continues")
            elif self.waiting and self.engine.n_slots:
                return "student_epochs"
            else:
                time.sleep(0.2)  # no worker has joined yet

    def _spent_budget(self) -> str:
        budget = self.budget
        if self.target_reached:
            return "target_cost"
        if self.exhausted:
            return "space"
        if budget["n_trials"] is not None and self.n_trials + len(self.in_flight) >= budget["n_trials"]:
            return "n_trials"
        if budget["wall_s"] is not None and self.session.elapsed_s >= budget["wall_s"]:
            return "wall_s"
        return ""

    def _hand_out(self) -> bool:
        """Start the next trial; False if it has to wait until running ones have shown what they cost."""
        if not self.waiting:
            try:
                proposal = self.optimizer.ask()
            except SpaceExhausted:
                self.exhausted = True
                return False
            self.asks.append(Ask.of(proposal, len(self.store)))  # on disk before it is handed out
            self.waiting.append(proposal)
        proposal = self.waiting[0]
        limit = self.budget["student_epochs"]
        running = sum(p.budget_epochs for p, _ in self.in_flight.values())
        if limit is not None and self.spent + running + proposal.budget_epochs > limit:
            return False
        self.waiting.popleft()
        self.in_flight[proposal.number] = (proposal, time.time())
        self.engine.submit(proposal)
        self._show_in_flight()
        return True

    def _collect(self) -> None:
        """Wait for a result, and take all that are there: the model is then fitted once for all of them."""
        before = time.perf_counter()
        finished = self.engine.next_finished(1.0)
        self.waited_s += time.perf_counter() - before
        while finished is not None:
            self._take(*finished)
            finished = self.engine.next_finished(0.0) if self.in_flight else None
        if self.max_failures is not None and len(self.failed_in_a_row) >= self.max_failures:
            raise TooManyFailures(_likely_reason(self.failed_in_a_row))
        if self.max_failures is not None and len(self.refused_in_a_row) >= REFUSALS_PER_FAILURE * self.max_failures:
            raise TooManyFailures(_likely_reason(self.refused_in_a_row))

    def _take(self, proposal: Proposal, trial: Trial) -> None:
        del self.in_flight[proposal.number]
        self.store.append(trial)  # on disk before the optimizer knows of it
        self.optimizer.tell(trial)
        self._count(trial)
        self._show_in_flight()
        said = f"cost {trial.cost:.4f}" if trial.succeeded else f"{trial.status}: {trial.message}"
        log.log(
            logging.INFO if trial.succeeded else logging.WARNING,
            "trial %d, %s, %d epochs, %.1f s: %s",
            trial.number,
            trial.candidate_digest,
            trial.budget_epochs,
            trial.total_s,
            said,
        )
        if self.progress is not None:
            self.progress(self._progress(trial))

    def _show_in_flight(self) -> None:
        self.session.update(
            in_flight=[
                {"number": number, "budget_epochs": proposal.budget_epochs, "since": since}
                for number, (proposal, since) in self.in_flight.items()
            ],
            extra_student_epochs=_extra_epochs(self.optimizer),
        )

    def _progress(self, trial: Trial) -> SearchProgress:
        best = self.store.incumbent()
        elapsed = self.session.elapsed_s
        fraction = fraction_spent(self.budget, n_trials=self.n_trials, student_epochs=self.spent, wall_s=elapsed)
        return SearchProgress(
            trial=trial,
            n_trials=self.n_trials,
            student_epochs=self.spent,
            fraction=1.0 if self.target_reached else fraction,
            best_val_accuracy=None if best is None else best.val_accuracy,
            n_in_flight=len(self.in_flight),
            n_failures=self.n_failures,
            elapsed_s=elapsed,
        )

    def result(self, reason: str) -> SearchResult:
        candidate = self.optimizer.incumbent()
        log.info("stopped by %s after %d trials", reason, len(self.store))
        if candidate is None:
            reasons = sorted({trial.message for trial in self.store if trial.message})
            raise RuntimeError(
                f"none of {len(self.store)} trials succeeded at the full budget, so there is no family to choose"
                + (f"; the reasons were: {'; '.join(reasons[:3])}" if reasons else "")
            )
        elapsed = time.perf_counter() - self.started
        expected = _expected_costs(self.optimizer)
        observed = self.store.incumbent(expected)
        assert observed is not None
        return SearchResult(
            candidate=candidate,
            trials=tuple(self.store),
            expected_cost=expected.get(candidate.digest, observed.cost),
            agreement=tuple(_agreement(self.optimizer)),
            student_epochs=self.spent,
            search_s=elapsed,
            overhead_s=elapsed - self.waited_s,
            stop_reason=reason,
            front=tuple(_front(self.optimizer, list(self.store), self.objectives)),
        )


def _likely_reason(failed: Sequence[Trial]) -> str:
    (message, count), *_ = Counter(f"{trial.status}: {trial.message}" for trial in failed).most_common(1)
    return (
        f"{len(failed)} trials in a row failed, {count} of them with {message!r}; the search is stopped. "
        "Mend the reason and start the same command again, or raise the number of failures that is allowed"
    )


def make_optimizer(
    task: Task,
    optimizer: str | OptimizerFactory,
    *,
    space: str | SearchSpaceLike | None = None,
    n_trials: int | None = None,
    student_epochs: float | None = None,
    wall_s: float | None = None,
    target_cost: float | None = None,
    planned_epochs: float | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    objectives: Sequence[str] = ("error",),
    evaluator: Evaluator | None = None,
) -> Optimizer:
    """The optimizer that `search` would use; takes no part in any training, so it serves to check settings early.

    ``evaluator``: tells its budgets (`optimizers.base.known_to`).

    Raises:
        ValueError: For an unknown name or option, or a budget that cannot work.
    """
    factory = get_optimizer(optimizer)
    worth = check_budget(task, n_trials, student_epochs, wall_s, target_cost)
    if len(objectives) > 1 and optimizer in MULTI_OBJECTIVE:
        options = {**(options or {}), "objectives": tuple(objectives)}
    check_options(optimizer, factory, options or {})
    try:
        return factory(
            search_space(task, space),
            seed=seed,
            max_budget_epochs=task.max_budget_epochs,
            min_budget_epochs=task.min_budget_epochs,
            total_budget_epochs=worth if planned_epochs is None else planned_epochs,
            **{**known_to(factory, evaluator), **(options or {})},
        )
    except TypeError as error:  # an option that the optimizer does not have
        raise ValueError(f"optimizer {optimizer!r}: {error}") from error


def check_options(optimizer: str | OptimizerFactory, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that the optimizer does not have.

    Raises:
        ValueError: Names the option and the nearest one.
    """
    try:
        parameters = inspect.signature(getattr(factory, "load", lambda: factory)()).parameters
    except (TypeError, ValueError):  # no signature: the call itself will tell
        return
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    given = {"space", "seed", "max_budget_epochs", "min_budget_epochs", "total_budget_epochs"}
    for name in options:
        if name not in parameters:
            known = [parameter for parameter in parameters if parameter not in given]
            hint = did_you_mean(name, known) if known else "; it has none"
            raise ValueError(f"optimizer {optimizer!r} has no option {name!r}{hint}")


def check_budget(
    task: Task,
    n_trials: int | None = None,
    student_epochs: float | None = None,
    wall_s: float | None = None,
    target_cost: float | None = None,
) -> float | None:
    """Student-epochs that a budget is worth: a trial of Hyperband with two rungs costs two thirds of a full one.

    None if only the time is limited.

    Raises:
        ValueError: If there is no budget that ends the search for certain, or less than one full training.
    """
    if n_trials is None and student_epochs is None and wall_s is None:
        raise ValueError(
            "give a budget: n_trials (number of trials), student_epochs (total epochs of training) or wall_s (seconds)"
            + ("" if target_cost is None else "; a target alone may never be reached")
        )
    if n_trials is not None and n_trials < 1:
        raise ValueError(f"n_trials must be at least 1, got {n_trials}")
    if student_epochs is not None and not student_epochs >= task.max_budget_epochs:
        raise ValueError(
            f"student_epochs must be at least one full training ({task.max_budget_epochs} epochs), "
            f"got {student_epochs:g}"
        )
    if wall_s is not None and not wall_s > 0:
        raise ValueError(f"wall_s must be a positive number of seconds, got {wall_s}")
    if target_cost is not None and not 0 <= target_cost < 1:
        raise ValueError(f"target_cost (1 - validation accuracy) must be in [0, 1), got {target_cost}")
    worth = [] if student_epochs is None else [float(student_epochs)]
    if n_trials is not None:
        worth.append(max(1.0, n_trials * 2 / 3) * task.max_budget_epochs)
    return min(worth, default=None)


def _first_proposal(task: Task, space: SearchSpaceLike, seed: int) -> Proposal | None:
    default = getattr(space, "default_candidate", None)
    if default is None:
        return None
    return Proposal(default(), task.max_budget_epochs, derive_seed(seed, "trial", -1), -1)


def _replay(optimizer: Optimizer, store: TrialStore, asks: AskLog) -> list[Proposal]:
    """Restore the optimizer from asks and trials; the proposals that were in flight."""
    try:
        if len(asks) >= sum(trial.number >= 0 for trial in store):
            return replay(optimizer, list(store), list(asks))
        in_flight = replay(optimizer, list(store))  # a run of before asks were logged, with one worker
        for ask in asks_of_one_worker(list(store))[len(asks) :]:  # a kill may have come while they were written
            asks.append(ask)
        return in_flight
    except ReplayMismatch as error:
        raise ReplayError(f"{store.path}: {error}") from error


def _extra_epochs(optimizer: Optimizer) -> float:
    return float(getattr(optimizer, "extra_student_epochs", 0.0))  # only optimizers that score students have it


def _front(optimizer: Optimizer, trials: Sequence[Trial], objectives: tuple[str, ...]) -> list[dict[str, Any]]:
    """The optimizer's front, by what it expects; of one that knows a single objective that of its full trainings."""
    if len(objectives) == 1:
        return []
    if getattr(optimizer, "objectives", None) == objectives:
        return [
            {"candidate": candidate.to_dict(), "candidate_digest": candidate.digest, "objectives": values}
            for candidate, values in cast(Any, optimizer).front()
        ]
    values, places = objective_table(trials, objectives)
    return [
        {
            "candidate": trials[places[index]].candidate,
            "candidate_digest": trials[places[index]].candidate_digest,
            "objectives": dict(zip(objectives, values[index].tolist(), strict=True)),
        }
        for index in pareto_front(values)
    ]


def _expected_costs(optimizer: Optimizer) -> dict[str, float]:
    method = getattr(optimizer, "expected_costs", None)  # only optimizers with a model have it
    return dict(method()) if method is not None else {}


def _agreement(optimizer: Optimizer) -> list[dict[str, Any]]:
    method = getattr(optimizer, "budget_agreement", None)
    if method is None:
        return []
    pairs = [dict(pair._asdict()) for pair in method()]
    for pair in pairs:
        if math.isnan(pair["kendall_tau"]):
            pair["kendall_tau"] = None
    return pairs
