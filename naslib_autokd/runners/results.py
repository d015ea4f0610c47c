"""What a search shows after each trial, and what it has found in the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from naslib_autokd.optimizers.base import BudgetAgreement, ComparesBudgets, ExpectsCosts, FindsFront, Optimizer
from naslib_autokd.records import CandidateLike, Trial, TrialStore, full_trainings, incumbent
from naslib_autokd.runners.pareto import objective_table, pareto_front

if TYPE_CHECKING:
    from naslib_autokd.evaluators.results import FinalResult
    from naslib_autokd.runners.finals import FinalStudents


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands, after each trial."""

    trial: Trial
    n_trials: int
    """Of the budget: without refused families."""
    student_epochs: float
    fraction: float
    """Share of the budget that is spent, in [0, 1]."""
    best_val_accuracy: float | None
    """Of the observed incumbent."""
    n_in_flight: int = 0
    """Trials that run now."""
    n_failures: int = 0
    n_refused: int = 0
    """Families that cannot keep the limits; nothing was trained."""
    elapsed_s: float = 0.0
    """Of work on this run, earlier sessions included."""


ProgressCallback = Callable[[SearchProgress], None]


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    candidate: CandidateLike
    """The incumbent family, by the optimizer's evidence (AutoKD: posterior mean at the full budget)."""
    trials: tuple[Trial, ...]
    expected_cost: float
    """Validation error that the evidence expects of the family; the observed one if the optimizer has no model."""
    agreement: tuple[dict[str, Any], ...]
    """Rank agreement of pairs of budgets: ``low``, ``high``, ``n``, ``kendall_tau`` (None below 3 pairs)."""
    student_epochs: float
    search_s: float
    """Seconds of work on this run, of all sessions."""
    overhead_s: float
    """Seconds of this session in which the loop did not wait for trials: ask, tell and records."""
    stop_reason: str = ""
    """The budget that ended the search: ``n_trials``, ``student_epochs``, ``training_seconds``, ``wall_s`` or
    ``target_cost``; ``space`` if every point of a finite space was tried before."""
    training_seconds: float = 0.0
    """Modelled CPU seconds of the trials, as far as they are known (`Trial.training_seconds`)."""
    front: tuple[dict[str, Any], ...] = ()
    """With several objectives: the families that no other beats in all of them (``candidate``, ``candidate_digest``,
    ``objectives``: name -> value), by ascending error."""


def what_was_found(
    optimizer: Optimizer, store: TrialStore, objectives: tuple[str, ...], **measured: Any
) -> SearchResult:
    """The incumbent and its evidence, from the optimizer and the trials that it was told.

    Args:
        measured: The other fields of `SearchResult`: budget, seconds and reason.

    Raises:
        RuntimeError: If no trial succeeded at the full budget.
    """
    candidate = optimizer.incumbent()
    if candidate is None:
        reasons = sorted({trial.message for trial in store if trial.message})
        raise RuntimeError(
            f"none of {len(store)} trials succeeded at the full budget, so there is no family to choose"
            + (f"; the reasons were: {'; '.join(reasons[:3])}" if reasons else "")
        )
    expected: Mapping[str, float] = optimizer.expected_costs() if isinstance(optimizer, ExpectsCosts) else {}
    observed = store.incumbent(expected)
    assert observed is not None
    return SearchResult(
        candidate=candidate,
        trials=tuple(store),
        expected_cost=expected.get(candidate.digest, observed.cost),
        agreement=tuple(agreement_rows(optimizer.budget_agreement())) if isinstance(optimizer, ComparesBudgets) else (),
        front=tuple(_front(optimizer, list(store), objectives)),
        **measured,
    )


def result_content(result: SearchResult, finals: FinalStudents, teacher: FinalResult) -> dict[str, Any]:
    """What ``result.json`` says of a search whose final students are trained."""
    digest = result.candidate.digest
    measured = ("expected_cost", "student_epochs", "search_s", "overhead_s", "stop_reason")
    return {
        "candidate": result.candidate.to_dict(),
        "candidate_digest": digest,
        "n_trials": len(result.trials),
        **{name: getattr(result, name) for name in measured},
        "remarks": remarks_on_answer(result.trials, digest),
        "agreement": list(result.agreement),
        **({"front": list(result.front)} if result.front else {}),
        "finals": [final.to_dict() for final in finals.results],
        "kept": finals.kept,
        "teacher": teacher.to_dict(),
    }


def remarks_on_answer(trials: Sequence[Trial], digest: str) -> list[str]:
    """What an answer must not be read without: that it is the family every search starts with, or that another family
    was observed to be better.

    Args:
        trials: Of the search.
        digest: Of the family that is the answer.
    """
    observed = incumbent(trials)
    if observed is None:
        return []
    full = full_trainings(trials)
    n_others = len({trial.candidate_digest for trial in full} - {digest})
    luck = observed.candidate_digest != digest
    lines = []
    if any(trial.number == -1 and trial.candidate_digest == digest for trial in trials):
        found = "nothing better is expected" if luck else "nothing better was found"
        others = f"{n_others} other {'family' if n_others == 1 else 'families'} trained in full"
        told = f"{found} among {others}" if n_others else "no other family was trained in full"
        lines.append(f"the default family, with which the search began, was kept: {told}")
    if luck:
        best = observed.candidate_digest
        lines.append(
            f"best observed: family {best}, validation {_observed(full, best)}; the answer was observed at "
            f"{_observed(full, digest)}, but the optimizer's evidence from all trials favours it: single trainings can "
            "be lucky"
        )
    return lines


def what_decided_widths(trials: Sequence[Trial]) -> str:
    """``max_macs in 20 of 24 trials, max_params in 4``: of a search with limits besides ``max_params``; else empty."""
    counts = Counter(str(trial.info["width_decided_by"]) for trial in trials if "width_decided_by" in trial.info)
    texts = [f"{name} in {n}" for name, n in counts.most_common()]
    return "" if not texts else f"{texts[0]} of {sum(counts.values())} trials" + "".join(f", {t}" for t in texts[1:])


def _observed(trials: Sequence[Trial], digest: str) -> str:
    """``91.2% (mean of 2 trainings)``."""
    found = [1 - trial.cost for trial in trials if trial.candidate_digest == digest]
    if not found:
        return "no full training"
    said = "one training" if len(found) == 1 else f"mean of {len(found)} trainings"
    return f"{100 * sum(found) / len(found):.1f}% ({said})"


def agreement_rows(pairs: Iterable[BudgetAgreement]) -> list[dict[str, Any]]:
    """As JSON can hold it: ``kendall_tau`` is None where it is not known."""
    rows = [pair._asdict() for pair in pairs]
    return [{**row, "kendall_tau": None if math.isnan(row["kendall_tau"]) else row["kendall_tau"]} for row in rows]


def _front(optimizer: Optimizer, trials: Sequence[Trial], objectives: tuple[str, ...]) -> list[dict[str, Any]]:
    """The optimizer's front, by what it expects; of one that knows a single objective that of its full trainings."""
    if len(objectives) == 1:
        return []
    if isinstance(optimizer, FindsFront) and optimizer.objectives == objectives:
        return [
            {"candidate": candidate.to_dict(), "candidate_digest": candidate.digest, "objectives": values}
            for candidate, values in optimizer.front()
        ]
    values, places = objective_table(trials, objectives)
    return [
        {
            "candidate": trials[places[index]].candidate,
            "candidate_digest": trials[places[index]].candidate_digest,
            "objectives": dict(zip(objectives, values[index].tolist(), strict=True)),
        }
        for index in pareto_front(values)
    ]
