"""What an evaluator is; anything with this method can stand in for training (a table, a surrogate, a test double)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from naslib_autokd.records import Proposal, Trial


class Evaluator(Protocol):
    """Answers one proposal with one trial."""

    def evaluate(self, proposal: Proposal) -> Trial:
        """Evaluate ``proposal.candidate`` at ``proposal.budget_epochs``.

        Never raises for what a student does (divergence, out of memory, time-out, a bug in its forward pass): that
        is a trial with a status and a message. A family of which no student keeps the limits is ``refused``: it costs
        no training, and no trial of the search's budget. Raises for what the caller does, such as a budget over the
        maximum.
        """
        ...


@runtime_checkable
class NamesTeacher(Protocol):
    """An evaluator whose students learn from a teacher: a run is continued with the same one."""

    @property
    def given_teacher(self) -> str:
        """Digest of a teacher that the user has brought; empty for one that is trained here when it is missing."""


@runtime_checkable
class HasImages(Protocol):
    """An evaluator that trains on a task's images: a run keeps their splits."""

    @property
    def data(self) -> Any:
        """The images (`data.images.TaskData`)."""


@runtime_checkable
class HasObjective(Protocol):
    """An evaluator whose students need not learn from the teacher."""

    @property
    def objective(self) -> str:
        """``kd``, or ``ce`` for the labels alone."""


@runtime_checkable
class SaysWhatWasAsked(Protocol):
    """An evaluator that can be asked for again."""

    @property
    def asked(self) -> dict[str, Any]:
        """What results depend on besides the task, as ``run.yaml`` has it under ``evaluation``."""


@runtime_checkable
class HasTeacher(Protocol):
    """An evaluator with a teacher."""

    @property
    def teacher(self) -> Any:
        """`teachers.teacher.Teacher`."""


@runtime_checkable
class TellsEpochs(Protocol):
    """An evaluator that tells what its training does."""

    watch: Callable[[str], None] | None
    """Called at the begin of a training and after each epoch."""


@runtime_checkable
class HasTask(Protocol):
    """An evaluator of one task."""

    @property
    def task(self) -> Any:
        """`tasks.Task`."""


@runtime_checkable
class HasBudgets(Protocol):
    """An evaluator that answers for some budgets only."""

    @property
    def budgets(self) -> tuple[int, ...]:
        """Ascending."""


@runtime_checkable
class SaysIfItRepeats(Protocol):
    """An evaluator that knows whether the seed of a proposal makes a difference."""

    @property
    def repeats_exactly(self) -> bool:
        """Whether it makes none."""


@runtime_checkable
class BuildsStudents(Protocol):
    """An evaluator that trains, whose students can be had without their training."""

    def student_spec(self, candidate: Any, seed: int) -> Any: ...

    def build_student(self, spec: Any, seed: int) -> Any: ...


@runtime_checkable
class KnowsTestAccuracy(Protocol):
    """An evaluator that trains nothing, and knows what its data say of the test split."""

    def test_accuracy(self, candidate: Any, seed: int) -> float:
        """A fraction."""


@runtime_checkable
class LimitsThreads(Protocol):
    """An evaluator that trains with so many CPU threads."""

    @property
    def threads(self) -> int: ...


@runtime_checkable
class PredictsTrainingSeconds(Protocol):
    """An evaluator that knows what a training costs before it is done (`distillation.training_cost`)."""

    def training_seconds(self, proposal: Proposal) -> float:
        """Modelled CPU seconds of evaluating a proposal; 0 for one that will be refused, or fail before it trains."""


class Score(NamedTuple):
    """A training-free score of one student."""

    value: float
    """Higher is better."""
    student_epochs: float
    """What it cost, as a share of an epoch of student training."""


@runtime_checkable
class ScoresUntrained(Protocol):
    """An evaluator that scores students without training them."""

    def training_free_score(self, candidate: Any, seed: int) -> Score:
        """The score of the student that ``seed`` draws from the candidate's family."""


class Noise(NamedTuple):
    """How far trainings of the same network in full lie apart, in the better half of the table."""

    sd: float
    """Standard deviation of one training's test error within its group, pooled; a fraction."""
    n: int
    """Trainings that are in a group of two or more."""
    groups: int
    of: str
    """What makes a group, in words."""

    def text(self) -> str:
        """In a sentence."""
        return f"{100 * self.sd:.2f} points, the standard deviation within {self.groups} groups of {self.of}"


@runtime_checkable
class KnowsNoise(Protocol):
    """A benchmark that knows how far repeated trainings lie apart (a table with repeats or equivalent cells)."""

    @property
    def training_noise(self) -> Noise | None:
        """Of one full training; None where there are hardly any repeats."""


@runtime_checkable
class Benchmark(Evaluator, Protocol):
    """An evaluator that answers from data, in well under a millisecond, and knows the truth behind its answers."""

    @property
    def name(self) -> str: ...

    @property
    def space(self) -> Any:
        """The search space of its candidates (`optimizers.base.SearchSpaceLike`)."""

    @property
    def budgets(self) -> tuple[int, ...]:
        """Budgets that it answers for, ascending: epochs, or whole units of another fidelity."""

    def true_cost(self, candidate: Any) -> float:
        """Expected validation error at the largest budget, without noise. Never shown to an optimizer."""

    def true_test_error(self, candidate: Any) -> float:
        """The same for the test split."""

    @property
    def best_test_error(self) -> float:
        """The lowest `true_test_error` that is known in the space: regret counts from here."""
