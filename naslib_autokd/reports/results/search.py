"""The tables of a single search."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from naslib_autokd.commands._again import command_of
from naslib_autokd.optimizers.base import budget_agreement
from naslib_autokd.records import Trial, TrialStore, full_trainings, incumbent
from naslib_autokd.reports.conclusions import what_was_found
from naslib_autokd.reports.results import final_tables, trial_tables
from naslib_autokd.reports.results.run import Missing, Row, RunData, interval_columns, plural
from naslib_autokd.runners.finals import kept_of, read_finals
from naslib_autokd.runners.results import agreement_rows, remarks_on_answer, what_decided_widths
from naslib_autokd.runners.run_folder import RESULT, STATUS, TRIALS, read_json
from naslib_autokd.runners.session import RunStatus, read_status
from naslib_autokd.runners.statistics import SHARE, mean_interval
from naslib_autokd.search_spaces.hnag import Candidate


def missing_of(trials: Sequence[Trial]) -> Missing:
    """Why tables of trials and students are empty."""
    why = "No trial has succeeded yet." if trials else "No trial has finished yet."
    tables = ("trials", "anytime", "families", "settings", "hyperparameters", "front")
    more = {"finals": "No final student has been trained yet.", "failures": "No trial failed."}
    return {**dict.fromkeys(tables, why), **more}


def search_tables(about: RunData, analyse: bool) -> RunData:
    """The run of which ``about`` holds the folder, the task and the settings.

    Its ``answer`` is of `_answer`.
    """
    folder, settings = about.folder, about.settings
    store = TrialStore(folder / TRIALS)
    status, trials = read_status(folder, store), list(store)
    records, result = read_finals(folder), read_json(folder / RESULT)
    label, seed = str(settings.get("optimizer", "search")), settings.get("seed")
    objectives = settings.get("objectives") or ["error"]
    places, kept = trial_tables.shown_places(trials), kept_of(records)
    shown = [trials[place] for place in places]
    counts = [] if kept is None else [kept.result.test_counts]
    rows, finals = trial_tables.trial_rows(trials, label, seed), final_tables.final_rows(records, label, seed)
    about = final_tables.judged(about, {label: counts}, result.get("teacher"), bool(records))
    about = trial_tables.searched(about, [(label, seed, trial) for trial in shown], settings.get("space"), analyse)
    answer = _answer(trials, finals, result)
    if kept is not None:
        answer["student"] = final_tables.student_answer(kept.result, about.teacher, about.task)
    in_seconds = status.training_seconds if status.budget.get("training_seconds") else None
    answer |= {"student_epochs": status.student_epochs, "training_seconds": in_seconds}
    answer |= {"seconds": status.elapsed_s or result.get("search_s")}
    pairs = result.get("agreement") or agreement_rows(budget_agreement(trials))
    several = len(objectives) > 1
    tables = {
        "trials": [rows[place] for place in places],
        "anytime": trial_tables.anytime_rows(trials, label, seed),
        "failures": trial_tables.failure_rows(trials),
        "finals": finals,
        "families": trial_tables.family_rows(shown, finals, answer.get("family", "")),
        "front": trial_tables.front_rows(trials, objectives, result.get("front") or (), places) if several else [],
        "hypervolume": trial_tables.hypervolume_rows(trials, objectives) if several else [],
        "budget_agreement": [{"method": label, "run_seed": seed, **pair} for pair in pairs],
    }
    missing = missing_of(trials)
    if not several:
        missing["front"] = "The search minimised the error alone, so there is no Pareto front."
    return about.having(
        tables,
        missing,
        kind="search",
        state=status.state if trials or (folder / STATUS).exists() else "empty",
        problem=f"{_problem(status, len(finals))} {_sample(len(shown), len(trials))}".strip(),
        answer=answer if trials or finals else {},
        conclusions=what_was_found(answer),
        methods=(label,),
        command=command_of(folder),
        export_command=f"naslib-autokd export {shlex.quote(str(folder))} --format onnx" if kept else "",
        kept={"path": kept.path, "candidate": answer.get("candidate")} if kept else {},
    )


def _answer(trials: Sequence[Trial], finals: Sequence[Row], result: Mapping[str, Any]) -> dict[str, Any]:
    """``n_trials``, ``n_failures``, ``n_refused`` (in neither), ``student_epochs``, ``training_seconds`` (modelled, if
    the budget counts them), ``seconds``, ``stop_reason``; once there is one: the incumbent's ``family`` and
    ``candidate``, by the optimizer's evidence or as observed, ``one_wiring`` (of the random-graph space:
    `Candidate.is_one_wiring`), ``val_accuracy`` (best observed full training), ``expected_cost``, ``remarks``
    (`remarks_on_answer`); ``width_decided_by`` (`what_decided_widths`); ``latency_of`` (what was measured); once it is
    trained: ``student`` (the kept one, see `student_answer`), ``family_accuracy`` with its ``_low``, ``_high`` and
    ``_n`` (test, over the final students).
    """
    n_refused = sum(trial.refused for trial in trials)
    n_failures = sum(not trial.succeeded for trial in trials) - n_refused
    answer: dict[str, Any] = {"n_trials": len(trials) - n_refused, "n_failures": n_failures, "n_refused": n_refused}
    answer["stop_reason"] = result.get("stop_reason", "")
    family, candidate = result.get("candidate_digest"), result.get("candidate")
    if family is None and (best := incumbent(trials)) is not None:
        family, candidate = best.candidate_digest, best.candidate
    if family is not None:
        own = [trial for trial in full_trainings(trials) if trial.candidate_digest == family]
        best_accuracy = max((trial.val_accuracy for trial in own if trial.val_accuracy is not None), default=None)
        answer |= {"family": family, "candidate": candidate, "val_accuracy": best_accuracy}
        with suppress(ValueError, KeyError, TypeError):  # of another space
            answer["one_wiring"] = Candidate.from_dict(candidate or {}).is_one_wiring
        expected = result.get("expected_cost")  # of an optimizer without a model the lowest that was observed
        answer["expected_cost"] = None if expected == min((trial.cost for trial in own), default=None) else expected
        answer["remarks"] = remarks_on_answer(trials, family)
    answer["width_decided_by"] = what_decided_widths(trials)
    # by the last trial: runtime, batch, threads
    answer["latency_of"] = next((t.info["latency_of"] for t in reversed(trials) if "latency_of" in t.info), "")
    if tested := [row["test_accuracy"] for row in finals if row["test_accuracy"] is not None]:
        answer |= interval_columns("family_accuracy", mean_interval(tested, bounds=SHARE))
        answer["family_accuracy_n"] = len(tested)
    return answer


def _problem(status: RunStatus, n_finals: int) -> str:
    if status.state == "finished":
        again = "The search is finished, its final students are not trained yet: the same command goes on."
        return "" if n_finals else again
    done = f"{100 * status.fraction:.0f}% of the budget, {plural(status.n_trials, 'trial')}"
    if status.state == "running":
        return f"The search is still running ({done}): what follows is the state at the time of this report."
    said = f" ({' '.join(status.message.split())})" if status.message else ""
    ended = {"failed": "ended with an error", "interrupted": "was interrupted"}.get(status.state, "was stopped") + said
    if status.finals_of and n_finals < status.finals_of:
        return f"It {ended} after {n_finals} of {status.finals_of} final students: the same command continues it."
    if not status.n_trials:
        return f"No trial has finished yet{said}: there is nothing to show but the settings."
    last = "" if not n_finals else " Its final students are those of an earlier session."
    return f"The search {ended} after {done}: the same command continues it.{last}"


def _sample(n_shown: int, n_trials: int) -> str:
    if n_shown == n_trials:
        return ""
    return (
        f"Single trials are shown for {n_shown:,} of {n_trials:,}: each that was the best so far, and an even sample "
        "of the others. The answer, the curve over time and all sums are of all trials."
    )
