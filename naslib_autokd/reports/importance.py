"""What matters in a benchmark's space, in sentences, tables and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from naslib_autokd.reports.paper import FigureFolder
from naslib_autokd.reports.results.run import table
from naslib_autokd.reports.tables import markdown_table
from naslib_autokd.runners.importance import BEST_SHARE, ImportanceReport, SobolIndices


def sentences(found: ImportanceReport) -> list[str]:
    """What the numbers say."""
    overall = found.overall
    lines = [
        f"Over the space the true validation error of a full training is {100 * overall.mean:.1f}% on average, with a "
        f"standard deviation of {100 * math.sqrt(overall.variance):.1f} points. Single inputs explain "
        f"{100 * min(1.0, overall.first.sum()):.0f}% of the variance, the rest is interactions.",
        f"What matters: {_ranked(overall)}.",
    ]
    if found.best is not None:
        lines.append(
            f"What tells the best {BEST_SHARE:.0%} from each other and from the rest (all other errors counted as "
            f"equal): {_ranked(found.best)}."
        )
    total = dict(zip(overall.names, overall.total.tolist(), strict=True))
    # an interaction is part of both totals: what exceeds them is the error of the estimate
    pairs = [(pair, min(share, *(total[name] for name in pair))) for pair, share in overall.pairs.items()]
    pairs = sorted((pair for pair in pairs if pair[1] > 0.01), key=lambda pair: -pair[1])[:3]
    if pairs:
        shares = "; ".join(f"{a} with {b} {100 * share:.0f}%" for (a, b), share in pairs)
        lines.append(f"Largest interactions of two: {shares}.")
    for curve in sorted(found.curves, key=lambda curve: -curve.range)[:5]:
        rows = curve.rows()
        if len(rows) > 1:
            ends = (pick(rows, key=lambda row: row["mean"]) for pick in (min, max))
            best, worst = (f"{100 * row['mean']:.1f}% at {_short(row['value'])}" for row in ends)
            lines.append(f"{curve.name}: mean error {best}, {worst}.")
    return lines


def _ranked(indices: SobolIndices, most: int = 5) -> str:
    shares = 100 * np.column_stack([indices.total, indices.total_interval])
    named = [(indices.names[i], *shares[i]) for i in indices.ranking[:most]]
    return "; ".join(f"{name} {total:.0f}% [{low:.0f}, {high:.0f}]" for name, total, low, high in named)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


MOST_PANELS = 12
"""Hyperparameters in a figure of partial dependence, those with the largest effect; the table has all."""


def write_importance_report(found: ImportanceReport, out: Path) -> list[Path]:
    """Figures (PNG, PDF), the CSV behind each, ``importance.json`` and ``importance.md``, which comes first."""
    from naslib_autokd.reports.charts.curves import dependence
    from naslib_autokd.reports.charts.rows import decomposition

    folder = FigureFolder(Path(out))
    best = f"best {BEST_SHARE:.0%}"
    decompositions = {"overall": found.overall, **({} if found.best is None else {f"best_{BEST_SHARE:g}": found.best})}
    folder.text("importance.json", json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
    rows = [
        (which, name, i.first[k], *i.first_interval[k], i.total[k], *i.total_interval[k])
        for which, i in decompositions.items()
        for k, name in enumerate(i.names)
    ]
    columns = ["of", "input", "first", "first_low", "first_high", "total", "total_low", "total_high"]
    folder.table("importance", columns, rows)
    pairs = [(which, *pair, share) for which, i in decompositions.items() for pair, share in i.pairs.items()]
    folder.table("interactions", ["of", "input", "with", "share"], pairs)
    points = [(c.name, *p) for c in found.curves for p in zip(c.values, c.mean, c.low, c.high, c.n, strict=True)]
    columns = ["hyperparameter", "value", "mean_cost", "ice_10", "ice_90", "n"]
    folder.table("partial_dependence", columns, points)

    order = found.overall.ranking
    titles = ("over the space", best)
    panels = [(title, _chart_rows(i, order)) for title, i in zip(titles, decompositions.values(), strict=False)]
    folder.chart("importance", decomposition(panels))
    if most := sorted(found.curves, key=lambda curve: -curve.range)[:MOST_PANELS]:
        curves = [{**row, "log": curve.log} for curve in most for row in curve.rows()]
        folder.chart("partial_dependence", dependence(curves, {curve.name: curve.name for curve in most}))

    shares = {"alone (%)": found.overall.first, "with interactions (%)": found.overall.total}
    shares |= {} if found.best is None else {f"for the {best} (%)": found.best.total}
    # estimates a little below 0 are 0
    shown = [[found.overall.names[i], *(f"{100 * max(own[i], 0.0):.1f}" for own in shares.values())] for i in order]
    lines = [
        f"# What matters in {found.benchmark}",
        "",
        markdown_table(["input", *shares], shown),
        "Sobol indices: shares of the variance of the true validation error. Hyperparameters that the space's "
        "forbidden clauses tie together are one input; one that has an effect only under a condition is drawn always "
        "and does nothing where it is inactive.",
        "",
        *(f"- {line}" for line in sentences(found)),
    ]
    return folder.report("importance.md", lines)


def _chart_rows(found: SobolIndices, order: Sequence[int]) -> list[dict[str, Any]]:
    """In the order of all panels; estimates a little below 0 are 0, and nothing alone exceeds its total."""
    first = np.minimum(found.first, found.total)
    shares = np.column_stack([first, found.total, found.total_interval]).clip(0).tolist()
    return table("label first total low high", ((found.names[i], *shares[i]) for i in order))
