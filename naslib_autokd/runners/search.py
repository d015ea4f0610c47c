"""The search loop: ask, evaluate, record, tell. What surrounds it has its own rooms.

What is searched and within which budget is checked in `setup`; the folder and its records, with which a run is
continued, are `run_folder`'s; what other shells see is `session`'s; budgets and failures are counted in `tally`; what
was found is told in `results`; the final students are `finals`'.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from naslib_autokd.evaluators.base import (
    Evaluator,
    HasImages,
    HasObjective,
    NamesTeacher,
    PredictsTrainingSeconds,
    SaysWhatWasAsked,
)
from naslib_autokd.optimizers.base import (
    Optimizer,
    OptimizerFactory,
    ScoresStudents,
    SearchSpaceLike,
    SpaceExhausted,
    asked,
)
from naslib_autokd.records import Proposal, Trial
from naslib_autokd.runners.engine import Engine, InProcessEngine
from naslib_autokd.runners.pareto import check_objectives
from naslib_autokd.runners.results import ProgressCallback, SearchProgress, SearchResult, what_was_found
from naslib_autokd.runners.run_folder import Records, RunFolder, check_run, folder_path, open_run
from naslib_autokd.runners.session import SearchInterrupted, Session, log
from naslib_autokd.runners.setup import (
    check_budget,
    check_space,
    epochs_for_seconds,
    first_proposal,
    is_optimizer,
    make_optimizer,
    optimizer_name,
    planned_epochs,
    run_settings,
    search_space,
)
from naslib_autokd.runners.tally import Tally
from naslib_autokd.tasks import Task, get_task


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
    training_seconds: float | None = None,
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
        training_seconds: The same of modelled CPU seconds of training (`distillation.training_cost`): equal time for
            all, and the same run on every machine. Needs an evaluator that predicts them.
        wall_s: Start no trial after so many seconds of work on this run, earlier sessions of it included.
        target_cost: Stop once a full training has a cost (``1 - val_accuracy``) of this or less. One of the other
            four budgets is required; with several, whichever is first.
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
        evaluation: What the results depend on besides the task (teacher, objective, limits): kept in ``run.yaml``, and
            a run is continued with the same only. None: what the evaluator says of itself.
        stop: Asked before each trial; once true the running trials are finished and saved, and the search ends with
            `SearchInterrupted` (see `session.StopSignals`).
        progress: Called after each trial.

    Raises:
        ValueError: Before any work, for settings that cannot work.
        RunFolderError: If ``out`` holds another run.
        StoreLockedError: If another process writes ``out``.
        TaskError: If the images of the task, or the teacher, have changed since the run in ``out`` began.
        ReplayError: If the stored trials of ``out`` cannot be reproduced.
        TooManyFailures: After ``max_failures`` failed trials in a row.
        SearchInterrupted: After ``stop``.
        RuntimeError: If no trial succeeded at the full budget.
    """
    task = get_task(task)
    scorer = _scorer(scorer, evaluator, engine)
    if evaluation is None and isinstance(scorer, SaysWhatWasAsked):
        evaluation = scorer.asked
    objective = (evaluation or {}).get("objective") or (scorer.objective if isinstance(scorer, HasObjective) else "kd")
    space = search_space(task, space, objective=objective, out=None if out is None else folder_path(out))
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
        "training_seconds": training_seconds,
        "wall_s": wall_s,
        "target_cost": target_cost,
    }
    asked: dict[str, Any] = {**budget, "seed": seed, "options": options, "objectives": objectives}
    planned = check_budget(task, **budget)
    seconds_per_epoch = 0.0
    if training_seconds is not None:
        if not isinstance(scorer, PredictsTrainingSeconds):
            raise ValueError("training_seconds: this evaluator does not tell what trainings cost; give student_epochs")
        worth, seconds_per_epoch = epochs_for_seconds(task, space, scorer, training_seconds)
        planned = worth if planned is None else min(planned, worth)
    name = optimizer_name(optimizer)
    settings: dict[str, Any] = {}
    if out is not None:
        asked_too: dict[str, Any] = {"start_with_default": start_with_default, "evaluation": evaluation}
        settings = run_settings(name, space, **asked, **asked_too, planned_epochs=planned)
        check_run(out, task, settings)
        planned = planned_epochs(folder_path(out), task, planned)
    if is_optimizer(optimizer):
        chosen = optimizer
    else:
        chosen = make_optimizer(
            task, cast(Any, optimizer), space=space, **asked, planned_epochs=planned, evaluator=evaluator
        )
    if isinstance(chosen, ScoresStudents):
        if scorer is None:
            raise ValueError(f"optimizer {name!r} scores students in this process; with an engine give a scorer too")
        chosen.attach(scorer)
    with ExitStack() as stack:
        folder = None if out is None else stack.enter_context(RunFolder.own(out))
        records = stack.enter_context(Records(folder))
        session = stack.enter_context(Session(None if folder is None else folder.path, budget))
        if folder is not None:
            open_run(folder, task, settings)
            if isinstance(scorer, HasImages):
                folder.keep_splits(scorer.data, scorer.given_teacher if isinstance(scorer, NamesTeacher) else "")
        tally = Tally(budget, task.max_budget_epochs, max_failures)
        loop = _Loop(chosen, engine, records, session, tally)
        if training_seconds is not None:
            loop.predictor, loop.seconds_per_epoch = scorer, seconds_per_epoch
        loop.resume(first_proposal(task, space, seed) if start_with_default else None)
        reason = loop.run(stop or (lambda: False), progress or (lambda _: None))
        session.update(stop_reason=reason)
        log.info("stopped by %s after %d trials", reason, len(records.trials))
        return what_was_found(chosen, records.trials, objectives, stop_reason=reason, **loop.spending())


def _scorer(scorer: Any, evaluator: Evaluator | None, engine: Engine | None) -> Any:
    """What knows the images, and may score untrained students, in this process; None with workers alone."""
    if scorer is None:
        scorer = engine.evaluator if isinstance(engine, InProcessEngine) else evaluator
    return scorer


class _Loop:
    """A search while it runs."""

    def __init__(self, optimizer: Optimizer, engine: Engine, records: Records, session: Session, tally: Tally) -> None:
        self.optimizer, self.engine, self.records, self.session, self.tally = optimizer, engine, records, session, tally
        self.scoring = optimizer if isinstance(optimizer, ScoresStudents) else None
        self.started, self.waited_s = time.perf_counter(), 0.0
        self.in_flight: dict[int, tuple[Proposal, float]] = {}
        self.waiting: deque[Proposal] = deque()
        """Asked for, not handed out: trials that ran at the kill, or one that cannot be paid yet."""
        self.numbers: set[int] = set()
        """Of all proposals so far."""
        self.predictor: PredictsTrainingSeconds | None = None
        """Tells what trials cost in seconds, if that is a budget."""
        self.seconds_per_epoch = 0.0
        """Of what the optimizer spends beside the trials."""
        self.predicted: dict[int, float] = {}
        """Seconds of the trials that run, and of the next, by number."""

    def resume(self, first: Proposal | None) -> None:
        """Bring the optimizer to where the run was; ``first``, if it has no trial yet, and what ran then come first."""
        in_flight = self.records.replay(self.optimizer)
        self.numbers.update(ask.number for ask in self.records.asks)
        if first is not None and all(trial.number != first.number for trial in self.records.trials):
            self.waiting.append(first)
        self.waiting.extend(in_flight)
        for trial in self.records.trials:
            if self.predictor is not None and trial.training_seconds is None:
                raise ValueError(
                    "the trials of this run do not say what they cost in training_seconds (an older version, or a "
                    "table): continue it with student_epochs"
                )
            self.tally.add(trial)
        self.tally.forgive()
        if len(self.records.trials):
            log.info("continuing after %d trials, %d to run again", len(self.records.trials), len(self.waiting))

    def run(self, stop: Callable[[], bool], progress: ProgressCallback) -> str:
        """Work until a budget is spent; its name."""
        reason = ""
        while True:
            while not reason and not stop() and len(self.in_flight) < self.engine.n_slots:
                reason = self.tally.spent_budget(len(self.in_flight), self.session.elapsed_s)
                try:
                    if reason or not self._hand_out():
                        break
                except SpaceExhausted:
                    reason = "space"
            if self.in_flight:
                self._collect(progress)
            elif reason:
                return reason
            elif stop():
                n_trials = len(self.records.trials)
                raise SearchInterrupted(f"stopped after {n_trials} trials; the same command continues")
            elif self.waiting and self.engine.n_slots:
                return self._unaffordable()
            else:
                time.sleep(0.2)  # no worker has joined yet

    def _hand_out(self) -> bool:
        """Start the next trial; False if it has to wait until running ones have shown what they cost."""
        if not self.waiting:
            proposal = asked(self.optimizer, self.numbers, self.tally.full_epochs)
            self.numbers.add(proposal.number)
            self.records.ask(proposal)  # on disk before it is handed out
            self.waiting.append(proposal)
        if self._unaffordable():
            return False
        proposal = self.waiting.popleft()
        self.in_flight[proposal.number] = (proposal, time.time())
        self.engine.submit(proposal)
        self.session.show_running(self.in_flight.values(), self.extra_epochs)
        return True

    def _unaffordable(self) -> str:
        """The budget that the next trial would exceed, by its name."""
        following = self.waiting[0]
        running = sum(proposal.budget_epochs for proposal, _ in self.in_flight.values())
        spent = {"student_epochs": self.student_epochs + running + following.budget_epochs}
        if self.predictor is not None:
            if following.number not in self.predicted:
                self.predicted[following.number] = self.predictor.training_seconds(following)
            spent["training_seconds"] = self.training_seconds + sum(self.predicted.values())
        return self.tally.unaffordable(**spent)

    def _collect(self, progress: ProgressCallback) -> None:
        """Wait for a result, and take all that are there: the model is then fitted once for all of them."""
        before = time.perf_counter()
        finished = self.engine.next_finished(1.0)
        self.waited_s += time.perf_counter() - before
        while finished is not None:
            proposal, trial = finished
            del self.in_flight[proposal.number]
            expected = self.predicted.pop(proposal.number, None)
            if trial.training_seconds is None and expected is not None:  # its worker died
                trial = replace(trial, training_seconds=expected)
            self.records.trials.append(trial)  # on disk before the optimizer knows of it
            self.optimizer.tell(trial)
            self.tally.add(trial)
            self.session.show_running(self.in_flight.values(), self.extra_epochs)
            self.session.tell_of(trial)
            progress(self._progress(trial))
            finished = self.engine.next_finished(0.0) if self.in_flight else None
        self.tally.check_failures()

    @property
    def extra_epochs(self) -> float:
        """Student-epochs that the optimizer has spent beside the trials."""
        return 0.0 if self.scoring is None else float(self.scoring.extra_student_epochs)

    @property
    def student_epochs(self) -> float:
        return self.tally.trained + self.extra_epochs

    @property
    def training_seconds(self) -> float:
        return self.tally.training_seconds + self.seconds_per_epoch * self.extra_epochs

    def _progress(self, trial: Trial) -> SearchProgress:
        best = self.records.trials.incumbent()
        elapsed = self.session.elapsed_s
        return SearchProgress(
            trial=trial,
            n_trials=self.tally.n_trials,
            student_epochs=self.student_epochs,
            fraction=self.tally.fraction(
                student_epochs=self.student_epochs, training_seconds=self.training_seconds, wall_s=elapsed
            ),
            best_val_accuracy=None if best is None else best.val_accuracy,
            n_in_flight=len(self.in_flight),
            n_failures=self.tally.n_failures,
            n_refused=self.tally.n_refused,
            elapsed_s=elapsed,
        )

    def spending(self) -> dict[str, float]:
        """Student-epochs and seconds, as `SearchResult` has them."""
        return {
            "student_epochs": self.student_epochs,
            "training_seconds": self.training_seconds,
            "search_s": self.session.elapsed_s,
            "overhead_s": time.perf_counter() - self.started - self.waited_s,
        }
