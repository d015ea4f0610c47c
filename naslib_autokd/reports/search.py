"""What a single search shows while it runs and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from naslib_autokd.runners.search import FinalStudents, SearchProgress, SearchResult
from naslib_autokd.runners.session import duration
from naslib_autokd.runners.statistics import mean_interval

if TYPE_CHECKING:
    from naslib_autokd.evaluators.kd import FinalResult


class LiveSearch:
    """A bar in a terminal; in a log file a line now and then (at most twenty in all)."""

    def __init__(self, console: Console, budget: Mapping[str, Any]) -> None:
        self.console = console
        self._next_line = 0.0
        self._progress = Progress(
            TextColumn("search"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        names = {"n_trials": "trials", "student_epochs": "student-epochs", "wall_s": "s"}
        limits = " or ".join(f"{budget[name]:g} {word}" for name, word in names.items() if budget.get(name))
        self._of = f"of {budget['n_trials']}" if limits.endswith(" trials") else f"(at most {limits})"
        self._task = self._progress.add_task("search", total=1.0, text=f"trial 0 {self._of}")

    def __enter__(self) -> LiveSearch:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, state: SearchProgress) -> None:
        best = "none yet" if state.best_val_accuracy is None else f"{100 * state.best_val_accuracy:.1f}%"
        text = f"trial {state.n_trials} {self._of}, best validation {best}"
        if state.n_in_flight:
            text += f", {state.n_in_flight} running"
        if state.n_failures:
            text += f", {state.n_failures} failed"
        self._progress.update(self._task, completed=state.fraction, text=text)
        if not self.console.is_terminal and state.fraction >= self._next_line:
            left = state.elapsed_s * (1 - state.fraction) / state.fraction if state.fraction else None
            text += f", about {duration(left)} to go" if left else ""
            self.console.print(text, markup=False, highlight=False)
            self._next_line = state.fraction + 0.05


class TensorBoardLog:
    """A search's scalars for TensorBoard, by number of trials.

    Raises:
        ImportError: If tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f"--tensorboard needs the package tensorboard: pip install tensorboard ({error})"
            ) from error
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def update(self, state: SearchProgress) -> None:
        scalars = {
            "trial/val_accuracy": state.trial.val_accuracy,
            "trial/budget_epochs": state.trial.budget_epochs,
            "trial/seconds": state.trial.total_s,
            "search/best_val_accuracy": state.best_val_accuracy,
            "search/student_epochs": state.student_epochs,
            "search/failures": state.n_failures,
        }
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, state.n_trials)
        self._writer.flush()


@dataclass(frozen=True)
class SearchReport:
    """The result of a search as data, and how to print it."""

    data: dict[str, Any]
    lines: tuple[str, ...]

    def print(self, console: Console) -> None:
        for line in self.lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def search_report(result: SearchResult, finals: FinalStudents, teacher: FinalResult) -> SearchReport:
    """Incumbent family, distribution of its students, the kept student against the teacher, agreement of budgets."""
    test = mean_interval(finals.test_accuracies)
    best = finals.best
    assert best.test_accuracy is not None
    assert teacher.test_accuracy is not None
    generator = result.candidate.to_dict()
    agreement = []
    for pair in result.agreement:
        tau = pair["kendall_tau"]
        value = "too few" if tau is None else f"Kendall's tau {tau:+.2f}"
        agreement.append(f"  {pair['low']} against {pair['high']} epochs: {value} (n = {pair['n']} families)")
    n = len(finals.results)
    lines = (
        f"incumbent family {result.candidate.digest}: expected validation error {100 * result.expected_cost:.1f}% "
        f"after {len(result.trials)} trials, {result.student_epochs:.0f} student-epochs, {result.search_s:.0f} s"
        f" (stopped by {result.stop_reason})",
        f"its students, {n} trained in full: test accuracy {test.percent()}",
        f"kept by validation: test accuracy {100 * best.test_accuracy:.1f}%, {best.n_params / 1e3:.1f}k parameters, "
        f"{best.macs / 1e6:.2f} MMACs, agrees with the teacher on {100 * (best.test_agreement or 0):.1f}%",
        f"teacher: test accuracy {100 * teacher.test_accuracy:.1f}%, {teacher.n_params / 1e3:.1f}k parameters, "
        f"{teacher.macs / 1e6:.2f} MMACs",
        *(["rank agreement of the budgets:", *agreement] if agreement else []),
    )
    data = {
        "candidate": generator,
        "candidate_digest": result.candidate.digest,
        "expected_cost": result.expected_cost,
        "n_trials": len(result.trials),
        "student_epochs": result.student_epochs,
        "search_s": result.search_s,
        "overhead_s": result.overhead_s,
        "stop_reason": result.stop_reason,
        "agreement": list(result.agreement),
        **({"front": list(result.front)} if result.front else {}),
        "finals": [final.to_dict() for final in finals.results],
        "kept": finals.kept,
        "teacher": teacher.to_dict(),
    }
    return SearchReport(data=data, lines=lines)
