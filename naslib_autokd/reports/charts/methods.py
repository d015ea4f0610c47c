"""Charts that several reports share: curves and results of search methods, fronts of objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from naslib_autokd.reports.charts import curves, rows
from naslib_autokd.reports.charts.look import AnyChart, Row, percents
from naslib_autokd.reports.charts.rows import Group
from naslib_autokd.reports.tables import UNITS
from naslib_autokd.runners.comparison import mean_curves
from naslib_autokd.runners.statistics import SHARE, mean_interval

if TYPE_CHECKING:
    from naslib_autokd.runners.comparison import JobResult


def comparison_curves(
    means: Sequence[Row], points: Sequence[Row], methods: Sequence[str], teacher: float | None
) -> AnyChart:
    """Means over seeds with their bands, single seeds behind them; supernets are dashed, theirs is another accuracy."""
    return curves.curves(
        means,
        "student_epochs",
        "accuracy",
        methods=methods,
        x_title="student-epochs of the search",
        y_title="validation accuracy (%)",
        emphasised=methods[0] if methods else "",
        dashed={row["method"] for row in points if row.get("one_shot")},
        singles=points,
        teacher=teacher,
    )


def comparison_chart(jobs: Sequence[JobResult], methods: Sequence[str], teacher: float) -> AnyChart:
    """The anytime curves of a comparison, and beside them its final students."""
    points = [
        {"method": job.method, "seed": job.seed, "student_epochs": x, "accuracy": y, "one_shot": job.one_shot}
        for job in jobs
        for x, y in job.curve
    ]
    groups = []
    for place, method in enumerate(methods):
        own = [job.test_accuracies for job in jobs if job.method == method]
        found = mean_interval([sum(values) / len(values) for values in own], bounds=SHARE)
        ends = percents(found.mean, found.low, found.high)
        groups.append(Group(method, [100 * value for values in own for value in values], place, *ends))
    left = comparison_curves(mean_curves(jobs), points, methods, teacher)
    right = rows.strips(groups, "test accuracy of final students (%)", reference=("teacher", 100 * teacher))
    return curves.side_by_side(left, right, names=methods)


def front_chart(found: Sequence[Row], name: str, hypervolume: Sequence[Row], *, staircase: bool) -> AnyChart:
    title, factor = UNITS[name]
    return curves.front(found, name, title, factor, hypervolume, staircase=staircase)


def regret_curves(found: Sequence[Row], x: str, y: str, title: str, methods: Sequence[str], reference: str) -> AnyChart:
    return curves.curves(
        found,
        x,
        y,
        methods=methods,
        x_title=title,
        y_title="mean regret (% points)",
        log_x=True,
        log_y=True,
        emphasised=reference,
    )


def rank_chart(found: Sequence[Row], y_title: str, methods: Sequence[str], reference: str) -> AnyChart:
    return curves.curves(
        found,
        "student_epochs",
        "average_rank",
        methods=methods,
        x_title="student-epochs",
        y_title=y_title,
        factor=1.0,
        log_x=True,
        invert=True,
        emphasised=reference,
    )


def regret_strips(groups: Sequence[Group]) -> AnyChart:
    """The best mean on top."""
    ordered = sorted(groups, key=lambda group: math.inf if not rows.finite(group.mean) else group.mean or 0.0)
    return rows.strips(ordered, "final regret (% points)", log=True)
