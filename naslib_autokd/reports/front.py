"""The result of a search with several objectives: the front of families, as table, CSV and figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from naslib_autokd.records import Trial
from naslib_autokd.reports.figures import COLUMN_WIDTH, FigureFolder, fit_axes, plain_ticks
from naslib_autokd.runners.pareto import hypervolume_over_time, objective_table

UNITS = {
    "error": ("expected validation error (%)", 100.0),
    "params": ("parameters (k)", 1e-3),
    "macs": ("MMACs", 1e-6),
    "train_memory": ("training memory (MiB)", 2.0**-20),
    "inference_memory": ("inference memory (MiB)", 2.0**-20),
    "latency": ("latency (ms)", 1e3),
}
"""How an objective is shown: its name with the unit, and the factor."""


def front_table(front: Sequence[Mapping[str, Any]]) -> Table:
    """One row a family, by ascending error."""
    table = Table(box=SIMPLE_HEAD, title="families that no other beats in all objectives", title_justify="left")
    table.add_column("family")
    names = list(front[0]["objectives"]) if front else []
    for name in names:
        table.add_column(UNITS[name][0], justify="right")
    for family in front:
        values = [f"{family['objectives'][name] * UNITS[name][1]:.4g}" for name in names]
        table.add_row(family["candidate_digest"], *values)
    return table


def write_front(front: Sequence[Mapping[str, Any]], trials: Sequence[Trial], out: Path) -> list[Path]:
    """``front.csv``, ``hypervolume.csv`` and, for each objective besides the error, a figure ``front_NAME``.

    Args:
        front: Families with ``candidate``, ``candidate_digest`` and ``objectives`` (`runners.results.SearchResult`).
        trials: All trials of the search. The box of the hypervolume is that of its successful full trainings.
    """
    if not front:
        return []
    folder = FigureFolder(Path(out))
    names = list(front[0]["objectives"])
    folder.table(
        "front",
        ["family", *names, "candidate"],
        [
            [f["candidate_digest"], *(f["objectives"][name] for name in names), json.dumps(f["candidate"])]
            for f in front
        ],
    )
    values, _ = objective_table(trials, names)
    over_time = box_over_time(trials, names)
    if over_time:
        folder.table("hypervolume", ["student_epochs", "share_of_the_box_of_all_full_trainings"], over_time)
    for name in names[1:]:
        points = [(family["objectives"][name], family["objectives"]["error"]) for family in front]
        observed = [(row[names.index(name)], row[0]) for row in values]
        front_figure(folder, f"front_{name}", name, points, observed, over_time, expected=True)
    return folder.files


def box_over_time(trials: Sequence[Trial], names: Sequence[str]) -> list[tuple[float, float]]:
    """`hypervolume_over_time` in the box of all full trainings; empty if it has no volume."""
    values, _ = objective_table(trials, names)
    if len(values) == 0 or not np.all(values.max(axis=0) > values.min(axis=0)):
        return []
    return hypervolume_over_time(trials, names, values.min(axis=0), values.max(axis=0))


def front_figure(
    folder: FigureFolder,
    file: str,
    name: str,
    front: Sequence[tuple[float, float]],
    observed: Sequence[tuple[float, float]],
    over_time: Sequence[tuple[float, float]],
    *,
    expected: bool,
) -> None:
    """The front and all full trainings over one objective, and the dominated share of the box over student-epochs.

    Args:
        file: Name without suffix.
        name: Of the objective, in `UNITS`.
        front: (objective, error) of its families; ``observed``: of the full trainings.
        over_time: (student-epochs, share); empty leaves the second panel out.
        expected: Whether the front's errors are expectations of a model, not observed.
    """
    label, factor = UNITS[name]
    panels = 2 if over_time else 1
    side_by_side = folder.width >= 1.8 * COLUMN_WIDTH
    with folder.figure(file, 2.3 if side_by_side or panels == 1 else 4.2) as figure:
        axes = list(
            figure.subplots(
                *((1, panels) if side_by_side else (panels, 1)),
                squeeze=False,
            ).ravel()
        )
        x, y = np.array(observed, dtype=float).reshape(-1, 2).T
        axes[0].plot(x * factor, 100 * y, "o", color="#999999", ms=2.5, label="full trainings")
        points = np.array(sorted(front), dtype=float).reshape(-1, 2) * (factor, 100)
        kind = "expected" if expected else "observed"
        axes[0].plot(*points.T, "D", color="#0072B2", ms=4, label=f"front, {kind}")
        axes[0].step(*points.T, where="post", color="#0072B2", lw=0.8)
        axes[0].set(xlabel=label, ylabel="validation error (%)", xscale="log")
        axes[0].legend(frameon=False, borderpad=0.1, handletextpad=0.3, loc="best")
        axes[0].margins(0.06, 0.08)
        axes[0].grid(True)
        plain_ticks(axes[0])
        if over_time:
            axes[1].step(*np.array(over_time).T, where="post", color="#0072B2")
            axes[1].set(xlabel="student-epochs", ylabel="dominated share of the box", ylim=(0, 1))
            axes[1].grid(True)
        if panels == 1 or side_by_side:
            fit_axes(axes)
        else:
            fit_axes(axes[0], bottom=figure.get_figheight() / 2)
            fit_axes(axes[1], top=figure.get_figheight() / 2 + 0.06)
