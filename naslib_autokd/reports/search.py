"""What a single search shows while it runs and at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from naslib_autokd.reports.conclusions import budget_agreement
from naslib_autokd.reports.results.run import RunData
from naslib_autokd.reports.tables import percent
from naslib_autokd.reports.terminal import Live, n_parameters
from naslib_autokd.runners.results import SearchProgress


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
        words = {**names, "wall_s": "s"}
        limits = {name: f"{budget[name]:g} {word}" for name, word in words.items() if budget and budget.get(name)}
        self._of = f" (at most {' or '.join(limits.values())})" if limits else ""
        if budget and list(limits) == ["n_trials"]:
            self._of = f" of {budget['n_trials']:g}"

    def update(self, state: SearchProgress) -> None:
        """Show where the search stands, after a trial."""
        best = "none yet" if state.best_val_accuracy is None else f"{100 * state.best_val_accuracy:.1f}%"
        text = f"trial {state.n_trials}{self._of}, best validation {best}"
        counts = {"running": state.n_in_flight, "failed": state.n_failures, "refused": state.n_refused}
        text += "".join(f", {n} {what}" for what, n in counts.items() if n)
        left = state.elapsed_s * (1 - state.fraction) / state.fraction if state.fraction else None
        self.show(state.fraction, text, left)


def answer_lines(run: RunData) -> list[str]:
    """Of a finished search: the kept student against the teacher, what was found, agreement of budgets."""

    def about(of: Mapping[str, Any]) -> str:
        macs = f"{of['macs'] / 1e6:.2f} MMACs" if of["macs"] else "multiply-adds not counted"
        return f"test accuracy {percent(of['test_accuracy'])}, {n_parameters(of['n_params'])} parameters, {macs}"

    student = run.answer["student"]
    agrees = f"agrees with the teacher on {percent(student['test_agreement'])}"
    lines = [f"kept by validation: {about(student)}, {agrees}", f"teacher: {about(run.teacher)}"]
    return [*lines, *run.conclusions, *budget_agreement(run.table("budget_agreement"))]


def write_front(run: RunData, front: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """``front.csv``, ``hypervolume.csv`` and, for each objective besides the error, a figure ``front_NAME``.

    Args:
        front: Families with ``candidate``, ``candidate_digest`` and ``objectives`` (`runners.results.SearchResult`).
    """
    from naslib_autokd.reports.figures import front_figures
    from naslib_autokd.reports.paper import FigureFolder

    folder = FigureFolder(out)
    columns = ["family", *(front[0]["objectives"] if front else ()), "candidate"]
    lines = [(own["candidate_digest"], *own["objectives"].values(), json.dumps(own["candidate"])) for own in front]
    folder.table("front", columns, lines)
    folder.rows("hypervolume", run.table("hypervolume"))
    for name, figure in front_figures(run):
        folder.chart(name, figure.chart)
    return folder.files
