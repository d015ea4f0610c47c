"""What a reader may conclude from a run, and what not, in sentences from its own numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from naslib_autokd.reports.tables import interval, percent
from naslib_autokd.runners.comparison import Comparison
from naslib_autokd.runners.session import duration
from naslib_autokd.runners.statistics import LEVEL, FriedmanTest
from naslib_autokd.runners.study_summary import MethodSummary, StudySummary


def said(start: str, entries: Sequence[str], end: str = "") -> list[str]:
    """A sentence on several entries; none without any."""
    return [f"{start} {'; '.join(entries)}{end}."] if entries else []


STOPPED = {
    "n_trials": "the number of trials",
    "student_epochs": "the student-epochs",
    "training_seconds": "the modelled seconds of training",
    "wall_s": "the time",
    "target_cost": "the accuracy that was aimed at",
    "space": "the space, of which every point was tried",
}
"""What ended a search."""


def what_was_found(answer: Mapping[str, Any]) -> list[str]:
    """Of a search, by its answer (`results.search`)."""
    says = []
    if answer.get("family_accuracy") is not None:
        n = answer["family_accuracy_n"]
        ends = interval(answer["family_accuracy_low"], answer["family_accuracy_high"])
        family = f" of family {answer['family']}" if "family" in answer else ""  # its trials may be lost
        over = ", mean and 95% interval over wirings and weight seeds"
        if answer.get("one_wiring"):
            over = ", mean and 95% interval over weight seeds: every wiring of this family is the same network"
        without = f" ({'one student' if n == 1 else 'all equal'}: no interval)"
        says.append(
            f"The family: {n} student{'s' * (n > 1)}{family} trained in full reach{'es' * (n == 1)} "
            f"{percent(answer['family_accuracy'])}{ends and f' {ends}'} test accuracy{over if ends else without}."
        )
    if answer.get("expected_cost") is not None:
        says.append(
            f"The search expects {percent(1 - answer['expected_cost'])} validation accuracy of a student of this "
            "family; it chose by this expectation, not by the luckiest training."
        )
    elif answer.get("family"):
        chosen = "The search chose" if answer.get("student") else "Incumbent so far:"
        says.append(
            f"{chosen} family {answer['family']}, by the observed mean of its full trainings; the highest of several "
            "families' is partly luck."
        )
    says += [f"{remark[0].upper()}{remark[1:]}." for remark in answer.get("remarks", ())]
    if answer.get("width_decided_by"):
        says.append(f"The width of the students was decided by {answer['width_decided_by']}.")
    if answer.get("n_trials"):
        spent = f"{answer['n_trials']} trial{'s' * (answer['n_trials'] != 1)} ({answer['n_failures']} failed)"
        if refused := answer.get("n_refused"):
            spent += f", {refused} famil{'y' if refused == 1 else 'ies'} refused before training"
        spent += f", {answer['student_epochs']:.0f} student-epochs"
        if (modelled := answer.get("training_seconds")) is not None:
            spent += f", {modelled:.3g} modelled s of training"
        spent += f", {duration(answer['seconds'])}" if answer.get("seconds") else ""
        stopped = STOPPED.get(answer.get("stop_reason", ""))
        says.append(f"Spent: {spent}." + (f" What ended it: {stopped}." if stopped else ""))
    return says


def budget_agreement(rows: Iterable[Mapping[str, Any]], whose: str = "") -> list[str]:
    """Of the table ``budget_agreement``, where there were enough families."""
    return [
        f"Rank agreement of {row['low']} with {row['high']} epochs{whose}: Kendall's tau {row['kendall_tau']:+.2f} "
        f"over {row['n']} families trained with both."
        for row in rows
        if row["kendall_tau"] is not None
    ]


def what_it_shows(comparison: Comparison) -> list[str]:
    """Of a comparison of search methods on a task."""
    lines, first = [], comparison.rows[0].label
    compared = [(row.label, row.difference, row.p_holm) for row in comparison.rows[1:] if row.difference is not None]
    ahead = set[str]()
    for label, found, p_holm in compared:
        interval = found.difference
        shown = f"{interval.n} paired seeds" + ("" if found.p_value is None else f", p = {found.p_value:.2g}")
        if interval.low is None or interval.high is None:
            few = "one seed" if interval.n == 1 else f"{interval.n} seeds with equal differences"
            lines.append(f"{first} against {label}: {few}, no interval; run more (--seeds).")
            continue
        side, place = ("ahead of", "above") if interval.low > 0 else ("behind", "below")
        if interval.low <= 0 <= interval.high:
            lines.append(f"{first} and {label} cannot be told apart: the interval includes 0 ({shown}).")
        elif p_holm is not None and p_holm > LEVEL:
            lines.append(
                f"{first} and {label} cannot be told apart: the interval lies {place} 0 ({shown}), but one of "
                f"{len(compared)} comparisons may do so by chance (p = {p_holm:.2g} after Holm's correction)."
            )
        else:
            ahead |= {label} if interval.low > 0 else set()
            lines.append(f"{first} is {side} {label}: the interval lies {place} 0 ({shown}).")
    # no search has to be worth more than methods without a model: random draws of families, and the default one
    draws = {job.method for job in comparison.jobs if job.details.get("optimizer") in ("random_search", "default")}
    if matched := [row.label for row in comparison.rows[1:] if row.label in draws - ahead]:
        lines.append(f"So nothing here shows that {first} pays: it is not ahead of {' nor of '.join(matched)}.")
    searched = {job.method for job in comparison.jobs if job.details.get("optimizer") == "random_search"}
    if not searched and max((row.n_students for row in comparison.rows), default=0) < 60:
        lines.append(
            "So short a search compares the space of families with DARTS's cells; it cannot tell the optimizer from "
            "random draws of families (that takes some 60 trainings and 20 seeds: benchmarks/optimizers.py)."
        )
    for job in comparison.jobs:
        lines += budget_agreement(job.details.get("agreement", ()), f", {job.method} seed {job.seed}")
    for row in comparison.rows:
        own = [job for job in comparison.jobs if job.method == row.label]
        if kept := [job.details["is_default"] for job in own if "is_default" in job.details]:
            of = f"{sum(kept)} of {len(kept)} runs"
            lines.append(f"{row.label} kept the space's default family, which it trains first, in {of}.")
    collapsed = [job for job in comparison.jobs if job.details.get("collapsed")]
    return lines + [f"{j.method} seed {j.seed} collapsed: {j.details.get('message')}." for j in collapsed]


def conclusions(found: StudySummary) -> list[str]:
    """Of a study of optimizers on a benchmark."""
    compared = [method for method in found.methods if method.test is not None]
    lines = [*_verdicts(found.reference, compared), *_within_noise(found)]
    lines += _savings(found.reference, compared, found.unit)
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
            f"The methods had different budgets in {found.unit} ({spent}): final regrets, ranks and tests compare "
            "them after different efforts; the speed-ups do not."
        )
    lines += [
        f"{method.label}: {method.n_without} of {method.n} runs ended without an incumbent (no training at the "
        "largest budget succeeded); its mean, curve and speed-up are those of the others."
        for method in found.methods
        if method.n_without
    ]
    lines += [f"Missing: {reason}." for reason in found.missing]
    return [
        *lines,
        "These are answers of the benchmark, with its errors, and of its task; they say nothing about other tasks.",
    ]


def _verdicts(reference: str, compared: Sequence[MethodSummary]) -> list[str]:
    """Whom the reference is ahead of, behind, or not told apart from: Wilcoxon's test after Holm's correction."""
    sides: dict[str, list[str]] = {"ahead": [], "behind": [], "apart": [], "once": []}
    for method in compared:
        test, p_value = method.test, method.p_holm
        assert test is not None
        assert p_value is not None
        if test.n == 1:
            sides["once"].append(method.label)
            continue
        ahead = round(test.share_better * test.n)
        behind = test.n - test.n_equal - ahead
        # of the rank sum; the shift has its sign wherever there are two values
        worse = test.shift > 0 if not math.isnan(test.shift) and test.shift != 0 else behind > ahead
        equal = f", equal in {test.n_equal}" if test.n_equal else ""
        sides["apart" if p_value > LEVEL else "ahead" if worse else "behind"].append(
            f"{method.label} (lower regret in {behind} of {test.n} seeds{equal}; p = {p_value:.2g})"
        )
    return [
        *said(f"{reference} is ahead of", sides["ahead"]),
        *said(f"{reference} is behind", sides["behind"]),
        *said(f"{reference} cannot be told apart from", sides["apart"]),
        *said(f"{reference} against", sides["once"], ": one seed says nothing about the next; run more (--seeds)"),
    ]


def _within_noise(found: StudySummary) -> list[str]:
    """Whose mean regret differs from the reference's by less than two trainings of one network do."""
    if found.noise_sd is None:
        return []
    regret = {method.label: method.regret for method in found.methods}
    own = regret.pop(found.reference)
    near = [label for label, value in regret.items() if abs(value - own) < found.noise_sd]
    return [
        f"One full training's noise in this table is {found.noise}: regrets below it are luck of the table.",
        *said(f"{found.reference} differs by less than one training's noise from", near),
    ]


def _savings(reference: str, compared: Sequence[MethodSummary], unit: str) -> list[str]:
    """Speed-ups in ``unit``, by what their intervals say; each for itself, without a correction."""
    clear, unclear, slower, unreached = (list[str]() for _ in range(4))
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
        faster, behind = (epochs.low or 0) > 1, epochs.high is not None and epochs.high < 1
        (slower if behind else clear if faster else unclear).append(text)
    reaches = f"{reference} reaches the mean regret that these end with in so many times fewer {unit}:"
    less = f"It is not clear that {reference} needs fewer {unit} than these (interval with 1, or none):"
    never = f"{reference} does not reach the mean regret that these end with, so its speed-up has only a bound:"
    more = f"{reference} needs more {unit} than these (ratio below 1):"
    return [*said(reaches, clear), *said(less, unclear), *said(more, slower), *said(never, unreached)]


def _friedman_sentence(found: StudySummary, test: FriedmanTest) -> list[str]:
    if test.p_value is None:
        return []
    over = f"Average ranks over {test.n} seeds"
    if test.p_value > LEVEL:
        return [f"{over} do not show that any method differs from another (Friedman's test, p = {test.p_value:.2g})."]
    rank = {method.label: float(value) for method, value in zip(found.methods, test.average_ranks, strict=True)}
    best = found.methods[int(np.argmin(test.average_ranks))].label
    near = [name for name in rank if name != best and rank[name] - rank[best] < test.critical_difference]
    apart = f"not told apart from it: {'; '.join(near)}" if near else "all others are told apart from it"
    return [
        f"{over} differ (Friedman's test, p = {test.p_value:.2g}). {best} has the best; {apart} (Nemenyi's critical "
        f"difference {test.critical_difference:.2f})."
    ]
