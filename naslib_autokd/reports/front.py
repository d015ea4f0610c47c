"""The result of a search with several objectives: the front of families, as table, CSV and figure."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from naslib_autokd.records import Trial
from naslib_autokd.reports.figures import COLUMN_WIDTH, paper_figure
from naslib_autokd.runners.pareto import hypervolume_over_time, objective_table

UNITS = {
    "error": ("expected validation error, %", 100.0),
    "params": ("parameters, k", 1e-3),
    "macs": ("MMACs", 1e-6),
    "train_memory": ("training memory, MiB", 2.0**-20),
    "inference_memory": ("inference memory, MiB", 2.0**-20),
    "latency": ("latency, ms", 1e3),
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
        front: Families with ``candidate``, ``candidate_digest`` and ``objectives`` (`runners.search.SearchResult`).
        trials: All trials of the search. The box of the hypervolume is that of its successful full trainings.
    """
    if not front:
        return []
    names = list(front[0]["objectives"])
    files = [out / "front.csv"]
    with open(files[0], "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["family", *names, "candidate"])
        for family in front:
            row = [family["objectives"][name] for name in names]
            writer.writerow([family["candidate_digest"], *row, json.dumps(family["candidate"])])
    values, _ = objective_table(trials, names)
    ideal, reference = values.min(axis=0), values.max(axis=0)
    over_time: list[tuple[float, float]] = []
    if np.all(reference > ideal):
        over_time = hypervolume_over_time(trials, names, ideal, reference)
        files.append(out / "hypervolume.csv")
        with open(files[-1], "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["student_epochs", "share_of_the_box_of_all_full_trainings"])
            writer.writerows(over_time)
    for name in names[1:]:
        _figure(front, values[:, [0, names.index(name)]], name, over_time, out, files)
    return files


def _figure(
    front: Sequence[Mapping[str, Any]],
    observed: Any,  # (n, 2): error and the objective of each full training
    name: str,
    over_time: Sequence[tuple[float, float]],
    out: Path,
    files: list[Path],
) -> None:
    label, factor = UNITS[name]
    panels = 2 if over_time else 1
    with paper_figure(out, f"front_{name}", COLUMN_WIDTH * panels, 2.4, files) as figure:
        axes = figure.subplots(1, panels, squeeze=False)[0]
        axes[0].plot(
            observed[:, 1] * factor, 100 * observed[:, 0], "o", color="#999999", ms=2.5, label="full trainings"
        )
        points = np.array([[family["objectives"][name], family["objectives"]["error"]] for family in front])
        points = points[np.argsort(points[:, 0])] * (factor, 100)
        axes[0].plot(*points.T, "o", color="#0072B2", ms=4, label="front of families, expected")
        axes[0].step(*points.T, where="post", color="#0072B2", lw=0.8)
        axes[0].set(xlabel=label, ylabel="validation error, %", xscale="log")
        axes[0].legend(frameon=False)
        if over_time:
            axes[1].step(*np.array(over_time).T, where="post", color="#0072B2")
            axes[1].set(xlabel="student-epochs", ylabel="dominated share of the box", ylim=(0, None))
        figure.tight_layout()
