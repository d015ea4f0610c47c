"""What a single search shows while it runs and at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from naslib_autokd.records import Trial
from naslib_autokd.reports.tables import UNITS, objective
from naslib_autokd.reports.terminal import Live, n_parameters
from naslib_autokd.runners.finals import FinalStudents
from naslib_autokd.runners.results import SearchProgress, SearchResult, remarks_on_answer, what_decided_widths
from naslib_autokd.runners.statistics import SHARE, mean_interval

if TYPE_CHECKING:
    from naslib_autokd.evaluators.kd import FinalResult


class LiveSearch(Live):
    """A bar in a terminal; in a log file or a notebook a line now and then (at most twenty in all).

    From Python: ``with LiveSearch() as live: search(..., progress=live.update)``.

    Args:
        console: That of stderr by default.
        budget: Of the search (``n_trials``, ``student_epochs``, ``wall_s``), to say how much there is.
    """

    def __init__(self, console: Console | None = None, budget: Mapping[str, Any] | None = None) -> None:
        super().__init__("search", console)
        names = {"n_trials": "trials", "student_epochs": "student-epochs", "training_seconds": "s of training"}
        names["wall_s"] = "s"
        limits = [f"{budget[name]:g} {word}" for name, word in names.items() if budget and budget.get(name)]
        self._of = f" (at most {' or '.join(limits)})" if limits else ""
        if len(limits) == 1 and limits[0].endswith(" trials"):
            self._of = f" of {limits[0].removesuffix(' trials')}"

    def update(self, state: SearchProgress) -> None:
        """Show where the search stands, after a trial."""
        best = "none yet" if state.best_val_accuracy is None else f"{100 * state.best_val_accuracy:.1f}%"
        text = f"trial {state.n_trials}{self._of}, best validation {best}"
        if state.n_in_flight:
            text += f", {state.n_in_flight} running"
        if state.n_failures:
            text += f", {state.n_failures} failed"
        left = state.elapsed_s * (1 - state.fraction) / state.fraction if state.fraction else None
        self.show(state.fraction, text, left)


def answer_lines(result: SearchResult, finals: FinalStudents, teacher: FinalResult) -> list[str]:
    """Incumbent family, distribution of its students, the kept student against the teacher, agreement of budgets."""
    best, digest, test = finals.best, result.candidate.digest, mean_interval(finals.test_accuracies, bounds=SHARE)
    assert best.test_accuracy is not None
    assert teacher.test_accuracy is not None
    lines = [
        f"incumbent family {digest}: expected validation error {100 * result.expected_cost:.1f}% "
        f"after {len(result.trials)} trials, {result.student_epochs:.0f} student-epochs, {result.search_s:.0f} s"
        f" (stopped by {result.stop_reason})",
        *remarks_on_answer(result.trials, digest),
    ]
    if decided := what_decided_widths(result.trials):
        lines.append(f"the width of the students was decided by {decided}")
    lines += [
        f"its students, {len(finals.results)} trained in full: test accuracy {test.percent()}",
        f"kept by validation: test accuracy {100 * best.test_accuracy:.1f}%, {n_parameters(best.n_params)} parameters, "
        f"{best.macs / 1e6:.2f} MMACs, agrees with the teacher on {100 * (best.test_agreement or 0):.1f}%",
        f"teacher: test accuracy {100 * teacher.test_accuracy:.1f}%, {n_parameters(teacher.n_params)} parameters, "
        f"{f'{teacher.macs / 1e6:.2f} MMACs' if teacher.macs else 'multiply-adds not counted'}",
    ]
    if result.agreement:
        lines.append("rank agreement of the budgets:")
    for pair in result.agreement:
        tau = pair["kendall_tau"]
        value = "too few" if tau is None else f"Kendall's tau {tau:+.2f}"
        lines.append(f"  {pair['low']} against {pair['high']} epochs: {value} (n = {pair['n']} families)")
    return lines


# ---- several objectives --------------------------------------------------------------------------------------------


def front_table(front: Sequence[Mapping[str, Any]], latency_of: str = "") -> Table:
    """One row a family, by ascending error; ``latency_of``: what was measured."""
    title = f"families that no other beats in all objectives{latency_of and f' (latency: {latency_of})'}"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("family")
    names = list(front[0]["objectives"]) if front else []
    for name in names:
        table.add_column(UNITS[name][0], justify="right")
    for family in front:
        table.add_row(family["candidate_digest"], *(objective(name, family["objectives"][name]) for name in names))
    return table


def write_front(front: Sequence[Mapping[str, Any]], trials: Sequence[Trial], out: Path) -> list[Path]:
    """``front.csv``, ``hypervolume.csv`` and, for each objective besides the error, a figure ``front_NAME``.

    Args:
        front: Families with ``candidate``, ``candidate_digest`` and ``objectives`` (`runners.results.SearchResult`).
        trials: All trials of the search. The box of the hypervolume is that of its successful full trainings.
    """
    if not front:
        return []
    from naslib_autokd.reports.figures import front_figures
    from naslib_autokd.reports.paper import FigureFolder
    from naslib_autokd.reports.results import trial_tables

    folder, names = FigureFolder(out), list(front[0]["objectives"])
    families = [
        {"family": f["candidate_digest"], **f["objectives"], "candidate": json.dumps(f["candidate"])} for f in front
    ]
    folder.rows("front", families)
    if hypervolume := trial_tables.hypervolume_rows(trials, names):
        folder.rows("hypervolume", hypervolume)
    for name, figure in front_figures(trial_tables.front_rows(trials, names, front), hypervolume):
        folder.chart(name, figure.chart)
    return folder.files
