"""Making a benchmark of families: which trainings its table holds, and running them (resumable, on any workers).

The design has stages, each a list of trainings that depends on the plan alone (``dense`` also on the results of
``space``), so a build that was cut off goes on where it stopped. A plan with more families in a stage keeps every
training of the smaller plan, as long as no later stage was built from it (the dense stages from ``space``, ``repeats``
from both); `build` refuses a plan that does not hold the trainings that are there.

``space``: a Sobol sequence over the space, each family drawn once at every budget, with new wirings and weights.
``nested``: for some of these, further wirings and weight seeds at the full budget (wirings crossed with seeds), which
tell the noise of wirings from that of weights.
``held-out``: families that no surrogate is fitted to, several trainings each: its quality and the noise ceiling.
``dense``: more families where good ones are, by perturbing the best of ``space``; ``dense-nested`` and
``dense-held-out`` are their nested and held-out trainings.
``kd``: generators of ``dense`` in full with the same KD settings for all of them, and with the same wirings and weight
seeds, so that settings are compared in pairs; ``kd-held-out``: the same of ``dense-held-out``.
``repeats``: one more wiring at the full budget for every family of ``space`` and ``dense``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naslib_autokd.records import Proposal, Trial, TrialStore, derive_seed
from naslib_autokd.runners.engine import Engine
from naslib_autokd.runners.run_folder import TRIALS, RunFolder, RunFolderError, open_run
from naslib_autokd.runners.tally import TooManyFailures
from naslib_autokd.search_spaces.hnag.parameters import MAX_WIRING_SEED, Candidate, HNAGSpace
from naslib_autokd.tasks import Task

STAGES = ("space", "held-out", "nested", "dense", "dense-held-out", "dense-nested", "repeats", "kd", "kd-held-out")

STAGE_SIZE = 1_000_000
"""Trainings are numbered from a multiple of this, so that a longer stage renumbers no other."""


@dataclass(frozen=True)
class BuildPlan:
    """How large the table is; numbers of families, except where said otherwise."""

    n_space: int = 512
    n_dense: int = 300
    n_nested: int = 10
    n_dense_nested: int = 6
    n_held_out: int = 24
    n_dense_held_out: int = 12
    n_repeats: int = 0
    n_kd: int = 0
    """Generators of ``dense`` with each of ``n_kd_settings`` and ``n_wirings`` wirings."""
    n_kd_held_out: int = 0
    n_kd_settings: int = 12
    n_dense_trainings: int = 1
    """In full, of each family of ``dense``."""
    n_wirings: int = 3
    """Of a nested family; each is crossed with ``n_seeds`` weight seeds. Held-out families have as many trainings."""
    n_seeds: int = 2
    budgets: tuple[int, ...] = ()
    """Epochs; empty: the task's minimum and maximum, and a third of the minimum."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name not in ("budgets", "seed") and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if self.n_space < 1:
            raise ValueError(f"a benchmark needs at least one family, got n_space={self.n_space}")
        if self.n_kd > self.n_dense or self.n_kd_held_out > self.n_dense_held_out:
            raise ValueError(
                "generators that get several KD settings are those of dense families, got "
                f"n_kd={self.n_kd} of n_dense={self.n_dense} and n_kd_held_out={self.n_kd_held_out} of "
                f"n_dense_held_out={self.n_dense_held_out}"
            )
        if min(self.n_kd_settings, self.n_wirings) < 2 and self.n_kd + self.n_kd_held_out > 0:
            raise ValueError(
                "KD settings are compared on several wirings: at least 2 of each are needed, "
                f"got n_kd_settings={self.n_kd_settings} and n_wirings={self.n_wirings}"
            )
        if min(self.n_wirings, self.n_seeds) < 2 and self.n_nested + self.n_dense_nested > 0:
            raise ValueError(
                "nested families need at least 2 wirings and 2 weight seeds to tell their noises apart, "
                f"got n_wirings={self.n_wirings} and n_seeds={self.n_seeds}"
            )

    def student_epochs(self, task: Task) -> float:
        """Of all trainings together."""
        *lower, full = self.budgets_of(task)
        single = self.n_space + self.n_dense
        n_full = (
            self.n_space
            + self.n_dense * self.n_dense_trainings
            + min(self.n_repeats, single)
            + self.n_wirings
            * (self.n_held_out + self.n_dense_held_out + self.n_seeds * (min(self.n_nested, self.n_space)))
        )
        n_full += self.n_wirings * self.n_seeds * min(self.n_dense_nested, self.n_dense)
        n_full += (self.n_kd + self.n_kd_held_out) * self.n_kd_settings * self.n_wirings
        return float(n_full * full + (single + self.n_held_out + self.n_dense_held_out) * sum(lower))

    def budgets_of(self, task: Task) -> tuple[int, ...]:
        """Ascending.

        Raises:
            ValueError: If a budget is not in 1 to the task's ``max_budget_epochs``, or the maximum is missing.
        """
        lowest = max(1, task.min_budget_epochs // 3)
        budgets = self.budgets or (lowest, task.min_budget_epochs, task.max_budget_epochs)
        unique = tuple(sorted(set(budgets)))
        if unique[0] < 1 or unique[-1] != task.max_budget_epochs:
            raise ValueError(
                f"budgets must lie in 1 to max_budget_epochs={task.max_budget_epochs} and include it, got {budgets}"
            )
        return unique


def uniform_families(space: HNAGSpace, n: int, seed: int) -> list[Candidate]:
    """The first ``n`` legal points of a scrambled Sobol sequence over the space (uniform on each scale)."""
    from scipy.stats import qmc

    configuration_space = space.configuration_space()
    sampler = qmc.Sobol(len(configuration_space), seed=seed)
    families: list[Candidate] = []
    while len(families) < n:
        for point in sampler.random(64):
            family = _family_at(space, configuration_space, point)
            if family is not None:
                families.append(family)
    return families[:n]


def _family_at(space: HNAGSpace, configuration_space: Any, point: Any) -> Candidate | None:
    """The family at a point of the unit cube; None if the space forbids it."""
    from ConfigSpace.hyperparameters import CategoricalHyperparameter, OrdinalHyperparameter

    values: dict[str, Any] = {}
    for hyperparameter, u in zip(configuration_space.values(), point, strict=True):
        # choices and ordinals have vectors 0, 1, ...; numbers have [0, 1], integers at the middle of their share
        discrete = isinstance(hyperparameter, CategoricalHyperparameter | OrdinalHyperparameter)
        vector = min(int(u * hyperparameter.size), hyperparameter.size - 1) if discrete else float(u)
        values[hyperparameter.name] = hyperparameter.to_value(vector)
    return _legal_family(space, configuration_space, values)


def _legal_family(space: HNAGSpace, configuration_space: Any, values: Mapping[str, Any]) -> Candidate | None:
    """The candidate with these values (those of inactive hyperparameters are dropped); None if it is forbidden."""
    from ConfigSpace.exceptions import ForbiddenValueError
    from ConfigSpace.util import deactivate_inactive_hyperparameters

    try:
        configuration = deactivate_inactive_hyperparameters(dict(values), configuration_space)
        configuration.check_valid_configuration()
    except ForbiddenValueError:
        return None
    return space.candidate(dict(configuration))


def dense_families(space: HNAGSpace, trials: Sequence[Trial], n: int, seed: int) -> list[Candidate]:
    """``n`` families near the best fifth of those in ``trials`` (at their largest budget), by perturbing them.

    A parent is drawn by its rank (the best most often); each number moves by a normal step (sd 0.15 of its range)
    with probability one half, each choice is redrawn with probability 0.2.
    """
    from ConfigSpace.hyperparameters import CategoricalHyperparameter, OrdinalHyperparameter

    largest = max(trial.budget_epochs for trial in trials)
    full = sorted((t for t in trials if t.budget_epochs == largest), key=lambda t: (t.cost, t.number))
    parents = [Candidate.from_dict({**trial.candidate, "wiring_seed": None}) for trial in full[: -(-len(full) // 5)]]
    rng = np.random.default_rng(seed)
    configuration_space = space.configuration_space()
    families: list[Candidate] = []
    while len(families) < n:
        rank = int(len(parents) * rng.random() ** 1.5)
        known = space.values(parents[rank])
        values: dict[str, Any] = {}
        for name, hyperparameter in configuration_space.items():
            value = known.get(name, hyperparameter.default_value)
            choices: Sequence[Any] | None = None
            if isinstance(hyperparameter, CategoricalHyperparameter):
                choices = hyperparameter.choices
            elif isinstance(hyperparameter, OrdinalHyperparameter):
                choices = hyperparameter.sequence
            if choices is not None:
                value = choices[int(rng.integers(len(choices)))] if rng.random() < 0.2 else value
            elif rng.random() < 0.5:
                moved = np.clip(hyperparameter.to_vector(value) + rng.normal(0, 0.15), 0, 1)
                value = hyperparameter.to_value(float(moved))
            values[name] = value
        family = _legal_family(space, configuration_space, values)
        if family is not None:
            families.append(family)
    return families


class Design:
    """The trainings of a plan, stage by stage."""

    def __init__(self, task: Task, space: HNAGSpace, plan: BuildPlan) -> None:
        self.plan, self.space, self.budgets = plan, space, plan.budgets_of(task)

    def stages(self, results: Callable[[str], Sequence[Trial]]) -> Iterator[tuple[str, list[Proposal]]]:
        """``(stage, proposals)``; ``results(stage)`` gives the trials of a finished stage."""
        plan, full = self.plan, self.budgets[-1:]
        crossed = (plan.n_wirings, plan.n_seeds)
        uniform = uniform_families(self.space, plan.n_space, derive_seed(plan.seed, "space"))
        yield "space", self._trainings("space", uniform, self.budgets)
        held_out = uniform_families(self.space, plan.n_held_out, derive_seed(plan.seed, "held-out"))
        yield "held-out", self._held_out("held-out", held_out)
        yield "nested", self._trainings("nested", uniform[: plan.n_nested], full, crossed)
        dense: list[Candidate] = []
        if plan.n_dense or plan.n_dense_held_out:
            size = STAGES.index("space") * STAGE_SIZE + plan.n_space * len(self.budgets)
            found = [trial for trial in results("space") if trial.number < size]  # not those of a larger plan
            dense = dense_families(self.space, found, plan.n_dense, derive_seed(plan.seed, "dense"))
            yield "dense", self._trainings("dense", dense, (*self.budgets[:-1], *full * plan.n_dense_trainings))
            held_out = dense_families(self.space, found, plan.n_dense_held_out, derive_seed(plan.seed, "held-out"))
            yield "dense-held-out", self._held_out("dense-held-out", held_out)
            yield "dense-nested", self._trainings("dense-nested", dense[: plan.n_dense_nested], full, crossed)
            settings = [family.kd for family in uniform_families(self.space, plan.n_kd_settings, plan.seed)]
            for stage, families in {"kd": dense[: plan.n_kd], "kd-held-out": held_out[: plan.n_kd_held_out]}.items():
                several = [Candidate(family.generator, kd) for family in families for kd in settings]
                yield stage, self._trainings(stage, several, full, (plan.n_wirings, 1), alike=len(settings))
        # the dense ones first: there the surrogate has to be sharp
        yield "repeats", self._trainings("repeats", [*dense, *uniform][: plan.n_repeats], full)

    def _held_out(self, stage: str, families: Sequence[Candidate]) -> list[Proposal]:
        budgets = (*self.budgets[:-1], *self.budgets[-1:] * self.plan.n_wirings)
        return self._trainings(stage, families, budgets)

    def _trainings(
        self,
        stage: str,
        families: Sequence[Candidate],
        budgets: Sequence[int],
        crossed: tuple[int, int] = (1, 1),
        alike: int = 1,
    ) -> list[Proposal]:
        """One training per family, budget, wiring and weight seed. Every training names its wiring seed; so many
        families that follow each other have the same seeds."""
        proposals: list[Proposal] = []
        number = STAGES.index(stage) * STAGE_SIZE
        for row, family in enumerate(families):
            index = row // alike
            for place, budget in enumerate(budgets):
                for wiring in range(crossed[0]):
                    wiring_seed = derive_seed(self.plan.seed, stage, index, "wiring", place, wiring) & MAX_WIRING_SEED
                    for weights in range(crossed[1]):
                        candidate = Candidate(family.generator, family.kd, wiring_seed)
                        seed = derive_seed(self.plan.seed, stage, index, "weights", place, wiring, weights)
                        proposals.append(Proposal(candidate, budget, seed, number))
                        number += 1
        return proposals


def stage_of(trial: Trial) -> str:
    """The stage that a training of the table belongs to."""
    return STAGES[trial.number // STAGE_SIZE]


@dataclass(frozen=True)
class BuildProgress:
    """Where a build stands, after each training."""

    stage: str
    done: int
    """Trainings of this stage that are finished, earlier sessions included."""
    of: int
    epochs_done: float
    """Of the whole plan, earlier sessions included."""
    epochs_of: float
    trial: Trial


def build(
    task: Task,
    space: HNAGSpace,
    engine: Engine,
    out: str | Path | RunFolder,
    plan: BuildPlan | None = None,
    *,
    stop: Callable[[], bool] | None = None,
    max_failures: int = 10,
    progress: Callable[[BuildProgress], None] | None = None,
) -> bool:
    """Run the trainings of ``plan`` that ``out`` does not hold yet; one line each in ``out/trials.jsonl``.

    A failed training is a row of the table like any other and is not tried again.

    Args:
        engine: With a `evaluators.recording.RecordingEvaluator` behind it.
        stop: Asked before each training is started; running ones are finished and kept.
        max_failures: So many failed trainings in a row end the build.

    Returns:
        Whether the plan is complete (False after ``stop``).

    Raises:
        RunFolderError: If ``out`` belongs to another task, space or seed, or holds trainings that this plan does not
            have (see the module's text for what may differ).
        TooManyFailures: After ``max_failures`` failed trainings in a row; what was recorded stays.
    """
    plan = plan or BuildPlan()
    design = Design(task, space, plan)
    settings = {"benchmark": space.describe(), "budgets": list(design.budgets), "seed": plan.seed}
    with RunFolder.own(out) as owned, TrialStore(owned.path / TRIALS) as store:
        folder = open_run(owned, task, settings)
        store.lock()
        done = {trial.number: trial for trial in store}
        epochs_of, epochs_done = plan.student_epochs(task), 0.0

        def results(stage: str) -> list[Trial]:
            return sorted((t for t in done.values() if stage_of(t) == stage), key=lambda t: t.number)

        for stage, proposals in design.stages(results):
            _check_same(folder, stage, proposals, done)
            waiting = [proposal for proposal in proposals if proposal.number not in done]
            n_done = len(proposals) - len(waiting)
            epochs_done += sum(p.budget_epochs for p in proposals if p.number in done)
            for trial in _train(engine, waiting, stop or (lambda: False), max_failures, store):
                done[trial.number] = trial
                n_done += 1
                epochs_done += trial.budget_epochs
                if progress is not None:
                    progress(BuildProgress(stage, n_done, len(proposals), epochs_done, epochs_of, trial))
            if n_done < len(proposals):
                return False
        return True


def _train(
    engine: Engine, proposals: Sequence[Proposal], stop: Callable[[], bool], max_failures: int, store: TrialStore
) -> Iterator[Trial]:
    """Train ``proposals`` on all workers; each trial is on disk when it comes. Ends early after ``stop``."""
    waiting, running, failed_in_a_row = list(proposals), 0, 0
    while True:
        while waiting and running < engine.n_slots and not stop():
            engine.submit(waiting.pop(0))
            running += 1
        if not running and (stop() or not waiting):
            return
        finished = engine.next_finished(1.0)
        if finished is None:
            continue
        _, trial = finished
        running -= 1
        store.append(trial)
        yield trial
        failed_in_a_row = 0 if trial.succeeded else failed_in_a_row + 1
        if failed_in_a_row >= max_failures:
            raise TooManyFailures(
                f"{failed_in_a_row} trainings in a row failed, the last one with {trial.status}: {trial.message}. "
                f"Put this right, delete their lines from {store.path}, and start again"
            )


def _check_same(folder: Path, stage: str, proposals: Sequence[Proposal], done: Mapping[int, Trial]) -> None:
    """Raise RunFolderError if a stored training is not the one that the plan has under its number."""
    for proposal in proposals:
        trial = done.get(proposal.number)
        planned = (proposal.candidate.digest, proposal.budget_epochs, proposal.seed)
        if trial is not None and planned != (trial.candidate_digest, trial.budget_epochs, trial.seed):
            raise RunFolderError(
                f"{folder} was built by another plan: training {trial.number} (stage {stage}) is candidate "
                f"{trial.candidate_digest} for {trial.budget_epochs} epochs there, and candidate {planned[0]} for "
                f"{planned[1]} epochs in this plan. A stage can grow only before later ones are built from it; "
                "take the sizes that the folder was built with, or a new folder"
            )


FRESH_SEED = "fresh"
"""Word that keeps the families of `train_fresh` apart from those of a design with the same seed."""


def train_fresh(
    task: Task,
    space: HNAGSpace,
    engine: Engine,
    out: str | Path | RunFolder,
    n_families: int,
    seed: int,
    *,
    stop: Callable[[], bool] | None = None,
    max_failures: int = 10,
    progress: Callable[[int], None] | None = None,
) -> list[Trial]:
    """Train one student in full of each of ``n_families`` random families, to judge a benchmark by; resumable.

    Returns:
        The trials in ``out`` by number; fewer than ``n_families`` after ``stop``.

    Raises:
        RunFolderError, TooManyFailures: As `build`.
    """
    if n_families < 3:
        raise ValueError(f"a correlation needs at least 3 families, got {n_families}")
    families = uniform_families(space, n_families, derive_seed(seed, FRESH_SEED))
    proposals = [
        Proposal(family, task.max_budget_epochs, derive_seed(seed, FRESH_SEED, number), number)
        for number, family in enumerate(families)
    ]
    with RunFolder.own(out) as owned, TrialStore(owned.path / TRIALS) as store:
        folder = open_run(owned, task, {"fresh": space.describe(), "seed": seed})
        store.lock()
        done = {trial.number: trial for trial in store}
        _check_same(folder, FRESH_SEED, proposals, done)
        waiting = [proposal for proposal in proposals if proposal.number not in done]
        for trial in _train(engine, waiting, stop or (lambda: False), max_failures, store):
            done[trial.number] = trial
            if progress is not None:
                progress(len(done))
    return [done[number] for number in sorted(done) if number < n_families]
