"""Tables, sentences and figures of a study: what it shows, and what it does not.

Regret is the true expected test error of a run's incumbent minus the lowest known in the benchmark. A run without an
incumbent is the worst in ranks and tests, and missing in means; how many there are is said. Everything is written as
a paper takes it: figures of column width as PNG and PDF, the chart as data and its CSV beside each; tables as CSV,
LaTeX and Markdown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from naslib_autokd.reports.paper import FigureFolder
from naslib_autokd.reports.tables import latex_table, markdown_table, write_csv
from naslib_autokd.reports.terminal import print_table
from naslib_autokd.runners.ablation import SimulatedRun, StudyResult
from naslib_autokd.runners.statistics import (
    LEVEL,
    Band,
    FloatArray,
    FriedmanTest,
    SignedRankTest,
    SpeedUp,
    bootstrap_band,
    friedman_test,
    holm,
    ranks,
    signed_rank_test,
    speed_up,
    step_curve,
)

GRID_POINTS = 200
"""Resolution of curves and speed-ups over trials: a factor of 1.03 for 500 trials."""

Axis = Literal["student_epochs", "trials"]

AXIS_NAMES: dict[Axis, str] = {"student_epochs": "student-epochs", "trials": "trainings (of any length)"}


# ---- numbers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MethodSummary:
    """A method over its seeds. Regrets are fractions (0.01 is one percentage point)."""

    label: str
    n: int
    """Runs."""
    n_without: int
    """Runs that never had an incumbent: not in the mean and the median, the worst in ranks and tests."""
    regret: float
    """Mean of the final regrets; nan without any."""
    regret_low: float | None
    regret_high: float | None
    median_regret: float
    student_epochs: float
    """What a run could spend."""
    full_trainings: float
    """The same in trainings at the largest budget."""
    n_trials: float
    """Mean number of trainings, of any length."""
    cpu_s: float
    """Mean CPU seconds of a run: the optimizer's own."""
    average_rank: float | None = None
    """Over the seeds that all methods have; None if there are none."""
    test: SignedRankTest | None = None
    """Final regret of this method (a) against the reference's (b), paired by seed; None for the reference."""
    p_holm: float | None = None
    speed_up_epochs: SpeedUp | None = None
    """Of the reference over this method, in student-epochs."""
    speed_up_trials: SpeedUp | None = None


@dataclass(frozen=True)
class StudySummary:
    """All methods of a study, in its order."""

    name: str
    title: str
    question: str
    benchmark: str
    best_test_error: float
    reference: str
    methods: tuple[MethodSummary, ...]
    friedman: FriedmanTest | None
    """Over the seeds that all methods have; None for one method or without such seeds."""
    missing: tuple[str, ...] = ()
    """What was asked for and is not there: failed runs, methods that were left out."""
    noise_sd: float | None = None
    """Of one training's test error, where the benchmark is a table whose repeats show it; a fraction."""
    noise: str = ""
    """The same in words."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: nan and infinity become None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(result: StudyResult) -> StudySummary:
    """The numbers of a study's tables. Methods without any run are left out."""
    runs = _by_method(result)
    reference = result.study.reference if result.study.reference in runs else next(iter(runs))
    labels = list(runs)
    common = sorted(set.intersection(*(set(of_method) for of_method in runs.values())))
    friedman = None
    if len(labels) > 1 and common:
        friedman = friedman_test([[_final(result, runs[label][seed]) for seed in common] for label in labels], LEVEL)
        if friedman.smallest_p_value > LEVEL:  # ranks of so few seeds say nothing
            friedman = None
    tests = {
        label: signed_rank_test(*_pairs(result, runs[label], runs[reference]))
        for label in labels
        if label != reference and set(runs[label]) & set(runs[reference])
    }
    adjusted = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))
    rows = []
    for index, label in enumerate(labels):
        own = list(runs[label].values())
        finals = np.array([_final(result, run) for run in own])
        finals = finals[~np.isnan(finals)]
        band = bootstrap_band(finals[:, None]) if len(finals) else None
        full = own[0].student_epochs[0]  # runs are looked at after each full training's worth
        rows.append(
            MethodSummary(
                label=label,
                n=len(own),
                n_without=len(own) - len(finals),
                regret=float(band.centre[0]) if band else float("nan"),
                regret_low=float(band.low[0]) if band and band.n > 1 else None,
                regret_high=float(band.high[0]) if band and band.n > 1 else None,
                median_regret=float(np.median(finals)) if band else float("nan"),
                student_epochs=own[0].student_epochs[-1],
                full_trainings=own[0].student_epochs[-1] / full,
                n_trials=float(np.mean([run.n_trials for run in own])),
                cpu_s=float(np.mean([run.cpu_s for run in own])),
                average_rank=float(friedman.average_ranks[index]) if friedman else None,
                test=tests.get(label),
                p_holm=float(adjusted[label]) if label in adjusted else None,
                speed_up_epochs=_speed_up(result, runs[reference], runs[label], "student_epochs"),
                speed_up_trials=_speed_up(result, runs[reference], runs[label], "trials"),
            )
        )
    study = result.study
    missing = [f"{failure.method}, seed {failure.seed}: {failure.error}" for failure in result.failures]
    missing += [f"left out: {reason}" for reason in result.left_out]
    return StudySummary(
        name=study.name,
        title=study.title,
        question=study.question,
        benchmark=study.benchmark if isinstance(study.benchmark, str) else study.benchmark.name,
        best_test_error=result.best_test_error,
        reference=reference,
        methods=tuple(rows),
        friedman=friedman,
        missing=tuple(missing),
        noise_sd=result.noise_sd,
        noise=result.noise,
    )


def _by_method(result: StudyResult) -> dict[str, dict[int, SimulatedRun]]:
    """Runs by label, in the study's order, and by seed."""
    runs: dict[str, dict[int, SimulatedRun]] = {method.label: {} for method in result.study.methods}
    for run in result.runs:
        runs.setdefault(run.method, {})[run.seed] = run
    found = {label: dict(sorted(of_method.items())) for label, of_method in runs.items() if of_method}
    if not found:
        raise ValueError("the study has no finished run: there is nothing to report")
    return found


def _final(result: StudyResult, run: SimulatedRun) -> float:
    return run.test_error[-1] - result.best_test_error


def _pairs(
    result: StudyResult, a: Mapping[int, SimulatedRun], b: Mapping[int, SimulatedRun]
) -> tuple[list[float], list[float]]:
    """Final regrets of two methods on the seeds that both have."""
    seeds = [seed for seed in a if seed in b]
    return [_final(result, a[seed]) for seed in seeds], [_final(result, b[seed]) for seed in seeds]


def _speed_up(
    result: StudyResult, reference: Mapping[int, SimulatedRun], rival: Mapping[int, SimulatedRun], axis: Axis
) -> SpeedUp | None:
    """Of the reference over the rival, on the seeds where both have an incumbent in the end."""
    if reference is rival:
        return None
    seeds = [
        seed
        for seed in reference
        if seed in rival and not math.isnan(reference[seed].test_error[-1] + rival[seed].test_error[-1])
    ]
    if not seeds:
        return None
    both = [[of_method[seed] for seed in seeds] for of_method in (reference, rival)]
    grid = _grid([*both[0], *both[1]], axis)
    spent = min(getattr(run, axis)[-1] for run in both[0])
    curves = [_curves(result, of_method, axis, grid) for of_method in both]
    return speed_up(curves[0], curves[1], grid, spent=spent)


def _grid(runs: Sequence[SimulatedRun], axis: Axis) -> FloatArray:
    """Where curves are evaluated: the points at which the runs were looked at; numbers of trials are thinned."""
    points = np.unique(np.concatenate([np.asarray(getattr(run, axis), dtype=np.float64) for run in runs]))
    points = points[points > 0]
    if axis == "trials" and len(points) > GRID_POINTS:
        points = np.unique(np.round(np.geomspace(points[0], points[-1], GRID_POINTS)))
    return points if len(points) else np.ones(1)


def _curves(result: StudyResult, runs: Sequence[SimulatedRun], axis: Axis, grid: FloatArray) -> FloatArray:
    """Regrets ``(seeds, grid)``; nan before a seed's first incumbent."""
    return np.array([step_curve(getattr(run, axis), run.test_error, grid) for run in runs]) - result.best_test_error


@dataclass(frozen=True)
class Curve:
    """Mean regret over what was spent, of the runs that end with an incumbent."""

    grid: FloatArray
    """As far as the method's runs went."""
    band: Band
    median: FloatArray


def anytime_curves(result: StudyResult, axis: Axis = "student_epochs") -> dict[str, Curve]:
    """By label; a method that never finds an incumbent has no curve."""
    runs = _by_method(result)
    grid = _grid([run for of_method in runs.values() for run in of_method.values()], axis)
    curves = {}
    for label, of_method in runs.items():
        own = [run for run in of_method.values() if not math.isnan(run.test_error[-1])]
        if own:
            end = np.median([getattr(run, axis)[-1] for run in own])
            part = grid[grid <= max(end, grid[0])]
            values = _curves(result, own, axis, part)
            curves[label] = Curve(part, bootstrap_band(values), bootstrap_band(values, "median", n_resamples=1).centre)
    return curves


def rank_curves(result: StudyResult) -> tuple[FloatArray, dict[str, FloatArray], int]:
    """Average ranks over student-epochs, on the seeds that all methods have: grid, rank by label, number of seeds.

    A method that has ended keeps its incumbent; one without an incumbent is the worst.
    """
    runs = _by_method(result)
    common = sorted(set.intersection(*(set(of_method) for of_method in runs.values())))
    grid = _grid([run for of_method in runs.values() for run in of_method.values()], "student_epochs")
    if not common:
        return grid, {label: np.full(len(grid), np.nan) for label in runs}, 0
    curves = [_curves(result, [of[seed] for seed in common], "student_epochs", grid) for of in runs.values()]
    return grid, dict(zip(runs, ranks(np.array(curves)).mean(axis=1), strict=True)), len(common)


# ---- sentences -----------------------------------------------------------------------------------------------------


def conclusions(found: StudySummary) -> list[str]:
    """What a reader may conclude from this study, and what not, from its own numbers."""
    compared = [method for method in found.methods if method.test is not None]
    lines = [*_verdicts(found.reference, compared), *_within_noise(found), *_savings(found.reference, compared)]
    smallest = min((method.test.n for method in compared if method.test), default=0)
    if compared and smallest > 1 and len(compared) * 2.0 ** (1 - smallest) > LEVEL:
        enough = math.ceil(1 + math.log2(len(compared) / LEVEL))
        lines.append(
            f"{smallest} paired seeds cannot show a difference at the {LEVEL:.0%} level in {len(compared)} "
            f"comparison{'s' * (len(compared) > 1)}, whatever the runs are; take at least {enough}."
        )
    if found.friedman is not None:
        lines += _friedman_sentence(found, found.friedman)
    if len({method.student_epochs for method in found.methods}) > 1:
        spent = "; ".join(f"{method.label} {method.student_epochs:g}" for method in found.methods)
        lines.append(
            f"The methods had different budgets in student-epochs ({spent}): final regrets, ranks and tests compare "
            "them after different efforts; the speed-ups do not."
        )
    for method in found.methods:
        if method.n_without:
            lines.append(
                f"{method.label}: {method.n_without} of {method.n} runs ended without an incumbent (no training at the "
                "largest budget succeeded); its mean, curve and speed-up are those of the others."
            )
    lines += [f"Missing: {reason}." for reason in found.missing]
    lines.append(
        "These are answers of the benchmark, with its errors, and of its task; they say nothing about other tasks."
    )
    return lines


def _verdicts(reference: str, compared: Sequence[MethodSummary]) -> list[str]:
    """Whom the reference is ahead of, behind, or not told apart from: Wilcoxon's test after Holm's correction."""
    sides: dict[str, list[str]] = {"ahead of": [], "behind": [], "apart": [], "once": []}
    for method in compared:
        test, p_value = method.test, method.p_holm
        assert test is not None
        assert p_value is not None
        ahead = round(test.share_better * test.n)
        behind = test.n - test.n_equal - ahead
        detail = f"lower regret in {behind} of {test.n} seeds" + f", equal in {test.n_equal}" * (test.n_equal > 0)
        detail = f"{method.label} ({detail}; p = {p_value:.2g})"
        if test.n == 1:
            sides["once"].append(method.label)
        elif p_value > LEVEL:
            sides["apart"].append(detail)
        else:
            # of the rank sum; the shift has its sign wherever there are two values
            worse = test.shift > 0 if not math.isnan(test.shift) and test.shift != 0 else behind > ahead
            sides["ahead of" if worse else "behind"].append(detail)
    lines = [f"{reference} is {side} {'; '.join(sides[side])}." for side in ("ahead of", "behind") if sides[side]]
    if sides["apart"]:
        lines.append(f"{reference} cannot be told apart from {'; '.join(sides['apart'])}.")
    if sides["once"]:
        lines.append(
            f"{reference} against {'; '.join(sides['once'])}: one seed says nothing about the next; run more (--seeds)."
        )
    return lines


def _within_noise(found: StudySummary) -> list[str]:
    """Whose mean regret differs from the reference's by less than two trainings of one network do."""
    if found.noise_sd is None:
        return []
    regret = {method.label: method.regret for method in found.methods}
    near = [
        label
        for label, value in regret.items()
        if label != found.reference and abs(value - regret[found.reference]) < found.noise_sd
    ]
    lines = [f"One full training's noise in this table is {found.noise}: regrets below it are luck of the table."]
    if near:
        lines.append(f"{found.reference} differs by less than one training's noise from {'; '.join(near)}.")
    return lines


def _savings(reference: str, compared: Sequence[MethodSummary]) -> list[str]:
    """Speed-ups in student-epochs, by what their intervals say; each for itself, without a correction."""
    clear: list[str] = []
    unclear: list[str] = []
    slower: list[str] = []
    unreached: list[str] = []
    for method in compared:
        epochs, trials = method.speed_up_epochs, method.speed_up_trials
        if epochs is None:
            continue
        if not epochs.reached:
            unreached.append(f"{method.label} (below {epochs.ratio:.2g}x)")
            continue
        text = f"{method.label} {epochs.text()}"
        if trials is not None and trials.reached and trials.text() != epochs.text():
            text += f", in trainings {trials.text()}"
        side = clear if epochs.low is not None and epochs.low > 1 else unclear
        (slower if epochs.high is not None and epochs.high < 1 else side).append(text)
    lines = []
    if clear:
        lines.append(
            f"{reference} reaches the mean regret that these end with in so many times fewer student-epochs: "
            f"{'; '.join(clear)}."
        )
    if unclear:
        lines.append(
            f"It is not clear that {reference} needs fewer student-epochs than these (interval with 1, or none): "
            f"{'; '.join(unclear)}."
        )
    if slower:
        lines.append(f"{reference} needs more student-epochs than these (ratio below 1): {'; '.join(slower)}.")
    if unreached:
        lines.append(
            f"{reference} does not reach the mean regret that these end with, so its speed-up has only a bound: "
            f"{'; '.join(unreached)}."
        )
    return lines


def _friedman_sentence(found: StudySummary, test: FriedmanTest) -> list[str]:
    if test.p_value is None:
        return []
    over = f"Average ranks over {test.n} seeds"
    if test.p_value > LEVEL:
        return [f"{over} do not show that any method differs from another (Friedman's test, p = {test.p_value:.2g})."]
    labels = [method.label for method in found.methods]
    best = int(np.argmin(test.average_ranks))
    near = [
        label
        for label, rank in zip(labels, test.average_ranks, strict=True)
        if label != labels[best] and rank - test.average_ranks[best] < test.critical_difference
    ]
    text = f"{over} differ (Friedman's test, p = {test.p_value:.2g}). {labels[best]} has the best; "
    text += f"not told apart from it: {'; '.join(near)}" if near else "all others are told apart from it"
    return [f"{text} (Nemenyi's critical difference {test.critical_difference:.2f})."]


# ---- tables --------------------------------------------------------------------------------------------------------


def _points(fraction: float, sign: bool = False) -> str:
    """A fraction as percentage points."""
    if math.isnan(fraction):
        return "-"
    text = f"{100 * fraction:+.2f}" if sign else f"{100 * fraction:.2f}"
    return text.replace("-0.00", "0.00") if float(text) == 0 else text


def _regret(method: MethodSummary) -> str:
    if method.regret_low is None or method.regret_high is None:
        return _points(method.regret) + (" [one run]" if method.n - method.n_without == 1 else "")
    return f"{_points(method.regret)} [{_points(method.regret_low)}, {_points(method.regret_high)}]"


def _result_rows(found: StudySummary) -> tuple[list[str], list[list[str]]]:
    columns = ["method", "n", "regret", "median", "rank", "full trainings", "trained", "CPU s"]
    rows = [
        [
            method.label,
            str(method.n) if not method.n_without else f"{method.n - method.n_without} of {method.n}",
            _regret(method),
            _points(method.median_regret),
            "-" if method.average_rank is None else f"{method.average_rank:.2f}",
            f"{method.full_trainings:.4g}",
            f"{method.n_trials:.4g}",
            f"{method.cpu_s:.1f}",
        ]
        for method in found.methods
    ]
    return columns, rows


def _paired_rows(found: StudySummary) -> tuple[list[str], list[list[str]]]:
    columns = ["method", f"minus {found.reference}", "it is better", "p (Holm)", "in student-epochs", "in trainings"]
    rows = []
    for method in found.methods:
        test = method.test
        if test is None or method.p_holm is None:
            continue
        interval = "" if test.low is None or test.high is None else f" [{_points(test.low)}, {_points(test.high)}]"
        rows.append(
            [
                method.label,
                _points(test.shift, sign=True) + interval,
                f"{round(test.share_better * test.n)} of {test.n}",
                f"{method.p_holm:.2g}",
                "-" if method.speed_up_epochs is None else method.speed_up_epochs.text(),
                "-" if method.speed_up_trials is None else method.speed_up_trials.text(),
            ]
        )
    return columns, rows


def _results_caption(found: StudySummary) -> str:
    return (
        f"{found.title}. Benchmark {found.benchmark}: regret of the chosen family in percentage points of test error "
        f"above {100 * found.best_test_error:.2f}%, the lowest known; mean over n runs with a 95% bootstrap interval, "
        "median, average rank; what a run spends in full trainings; how many trainings of any length it makes of them; "
        "CPU seconds of the optimizer itself."
    )


def _paired_caption(found: StudySummary) -> str:
    return (
        f"{found.title}: each method's final regret minus that of {found.reference} on the same seeds (Hodges and "
        "Lehmann's shift in percentage points, 95% interval; positive is worse), in how many pairs it is better, "
        f"Wilcoxon's signed-rank test after Holm's correction, and how many times less {found.reference} needs to "
        "reach the mean regret that the method ends with (95% bootstrap interval; from 0 if some resamples never "
        "reach it)."
    )


def print_study(result: StudyResult | StudySummary, console: Console) -> None:
    """Two tables and what may be concluded from them."""
    found = result if isinstance(result, StudySummary) else summary(result)
    for (columns, rows), caption, title in (
        (_result_rows(found), _results_caption(found), f"{found.title}: {found.question}".rstrip(": ")),
        (_paired_rows(found), _paired_caption(found), f"Against {found.reference}"),
    ):
        if not rows:
            continue
        table = Table(box=SIMPLE_HEAD, title=Text(title), title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            table.add_column(Text(column), justify="right" if index else "left", no_wrap=False)
        for row in rows:
            table.add_row(*map(Text, row))
        print_table(console, table)
        console.print(Text(caption), style="dim")
        console.print()
    for line in conclusions(found):
        console.print(Text(line))


# ---- files ---------------------------------------------------------------------------------------------------------


def write_study_report(result: StudyResult, out: Path) -> list[Path]:
    """Write all figures and tables into a folder (made if missing) and return their paths, ``report.md`` first.

    Raises:
        ValueError: If no run has finished.
    """
    found = summary(result)
    folder = FigureFolder(Path(out))
    _write_tables(result, found, folder.path, folder.files)
    _anytime_figure(result, found, "student_epochs", folder)
    _anytime_figure(result, found, "trials", folder)
    _finals_figure(result, found, folder)
    if found.friedman is not None:
        _rank_figure(result, found, folder)
        _critical_difference_figure(found, found.friedman, folder)
    return [_write_markdown(found, folder.path, folder.files), *folder.files]


def _write_tables(result: StudyResult, found: StudySummary, out: Path, files: list[Path]) -> None:
    path = out / "summary.json"
    path.write_text(json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    files.append(path)
    columns = ["method", "n", "n_without", "regret", "regret_low", "regret_high", "median_regret", "average_rank"]
    columns += ["student_epochs", "full_trainings", "n_trials", "cpu_s"]
    paired = ["n", "n_equal", "share_better", "median_difference", "shift", "low", "high", "p_value"]
    ratios = ["level", "needed", "rival_needed", "ratio", "low", "high"]
    header = [*columns, *(f"paired_{name}" for name in paired), "p_holm"]
    header += [f"speed_up_{axis}_{name}" for axis in ("epochs", "trials") for name in ratios]
    rows = [
        [getattr(method, "label" if name == "method" else name) for name in columns]
        + [None if method.test is None else getattr(method.test, name) for name in paired]
        + [method.p_holm]
        + [
            None if ratio is None else getattr(ratio, name)
            for ratio in (method.speed_up_epochs, method.speed_up_trials)
            for name in ratios
        ]
        for method in found.methods
    ]
    files.append(write_csv(out / "summary.csv", header, rows))
    text = latex_table(*_result_rows(found), _results_caption(found))
    if _paired_rows(found)[1]:
        text += "\n" + latex_table(*_paired_rows(found), _paired_caption(found))
    path = out / "tables.tex"
    path.write_text(text, encoding="utf-8")
    files.append(path)
    path = out / "finals.csv"
    finals = [
        (run.method, run.seed, run.test_error[-1], _final(result, run), run.cost[-1], run.n_trials, run.cpu_s)
        for of_method in _by_method(result).values()
        for run in of_method.values()
    ]
    columns = ["method", "seed", "test_error", "regret", "cost", "n_trials", "cpu_s"]
    files.append(write_csv(path, columns, finals))


def _write_markdown(found: StudySummary, out: Path, files: Sequence[Path]) -> Path:
    lines = [f"# {found.title}", "", found.question, "", markdown_table(*_result_rows(found)), _results_caption(found)]
    if _paired_rows(found)[1]:
        lines += ["", markdown_table(*_paired_rows(found)), _paired_caption(found)]
    lines += ["", "## What it shows", "", *(f"- {line}" for line in conclusions(found)), "", "## Figures", ""]
    lines += [f"![{path.stem.replace('_', ' ')}]({path.name})" for path in files if path.suffix == ".png"]
    path = out / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# ---- figures -------------------------------------------------------------------------------------------------------


def _anytime_figure(result: StudyResult, found: StudySummary, axis: Axis, folder: FigureFolder) -> None:
    from naslib_autokd.reports.charts.methods import regret_curves

    points = _curve_rows(anytime_curves(result, axis), axis)
    name, labels = f"regret_over_{axis}", [method.label for method in found.methods]
    folder.rows(name, points)
    folder.chart(name, regret_curves(points, axis, "mean_regret", AXIS_NAMES[axis], labels, found.reference))


def _curve_rows(curves: Mapping[str, Curve], axis: Axis) -> list[dict[str, Any]]:
    """The points of curves as rows."""
    return [
        {
            "method": label,
            axis: float(curve.grid[k]),
            "mean_regret": float(curve.band.centre[k]),
            "low": float(curve.band.low[k]),
            "high": float(curve.band.high[k]),
            "median_regret": float(curve.median[k]),
            "n": curve.band.n,
        }
        for label, curve in curves.items()
        for k in range(len(curve.grid))
    ]


def _rank_figure(result: StudyResult, found: StudySummary, folder: FigureFolder) -> None:
    from naslib_autokd.reports.charts.methods import rank_chart

    grid, averages, n = rank_curves(result)
    rows = [
        {"method": label, "student_epochs": float(x), "average_rank": float(y), "n": n}
        for label, curve in averages.items()
        for x, y in zip(grid, curve, strict=True)
    ]
    folder.rows("average_rank", rows)
    title = f"average rank over {n} seed{'s' * (n > 1)}"
    labels = [method.label for method in found.methods]
    folder.chart("average_rank", rank_chart(rows, title, labels, found.reference))


def _finals_figure(result: StudyResult, found: StudySummary, folder: FigureFolder) -> None:
    """The final regrets, best mean on top."""
    from naslib_autokd.reports.charts.look import percents
    from naslib_autokd.reports.charts.methods import Group, regret_strips

    runs = _by_method(result)

    groups = [
        Group(
            method.label,
            [100 * _final(result, run) for run in runs[method.label].values()],
            place,
            *percents(method.regret, method.regret_low, method.regret_high),
        )
        for place, method in enumerate(found.methods)
    ]
    folder.chart("final_regret", regret_strips(groups))


def _critical_difference_figure(found: StudySummary, test: FriedmanTest, folder: FigureFolder) -> None:
    from naslib_autokd.reports.charts.rows import critical_difference

    order = [int(i) for i in np.argsort(test.average_ranks, kind="stable")]
    ranks = [(found.methods[i].label, float(test.average_ranks[i]), i) for i in order]
    rows = [[label, rank, test.n, test.critical_difference] for label, rank, _ in ranks]
    folder.table("critical_difference", ["method", "average_rank", "n", "critical_difference"], rows)
    folder.chart("critical_difference", critical_difference(ranks, test.critical_difference))
