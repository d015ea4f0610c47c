"""What is said of a search's answer."""

from __future__ import annotations

import json
from pathlib import Path

from naslib_autokd.records import Trial, TrialStore
from naslib_autokd.runners.results import remarks_on_answer
from naslib_autokd.runners.session import read_status

DEFAULT, OTHER = "d" * 12, "e" * 12


def trial(number: int, digest: str, cost: float, epochs: int = 9) -> Trial:
    told = {"candidate": {}, "candidate_digest": digest, "budget_epochs": epochs, "seed": number}
    return Trial(number=number, **told, cost=cost, val_accuracy=1 - cost, student_epochs=float(epochs))


def test_it_is_said_when_the_default_family_was_kept() -> None:
    trials = [trial(-1, DEFAULT, 0.1), trial(0, OTHER, 0.2), trial(1, "f", 0.05, epochs=3)]
    assert remarks_on_answer(trials, DEFAULT) == [
        "the default family, with which the search began, was kept: nothing better was found among 1 other family "
        "trained in full"
    ]
    assert remarks_on_answer(trials[:1], DEFAULT)[0].endswith("no other family was trained in full")
    assert remarks_on_answer([trial(0, OTHER, 0.2)], OTHER) == []
    assert remarks_on_answer([], DEFAULT) == []


def test_two_incumbents_are_named_with_the_reason() -> None:
    trials = [trial(-1, DEFAULT, 0.1), trial(0, OTHER, 0.08), trial(1, DEFAULT, 0.12)]
    kept, two = remarks_on_answer(trials, DEFAULT)
    assert "nothing better is expected among 1 other family" in kept
    assert two.startswith(
        f"best observed: family {OTHER}, validation 92.0% (one training); the answer was observed at 89.0% (mean of 2 "
        "trainings), but the optimizer's evidence"
    )


def test_status_names_the_answer_of_a_finished_search_beside_the_best_observed(tmp_path: Path) -> None:
    with TrialStore(tmp_path / "trials.jsonl") as store:
        store.append(trial(-1, DEFAULT, 0.1))
        store.append(trial(0, OTHER, 0.08))
    (tmp_path / "result.json").write_text(json.dumps({"candidate_digest": DEFAULT}))
    (tmp_path / "status.json").write_text(json.dumps({"state": "finished"}))
    text = "\n".join(read_status(tmp_path).lines())
    assert f"best validation 92.0%, family {OTHER}" in text
    assert f"answer: family {DEFAULT}, which the optimizer's evidence from all trials favours" in text
    (tmp_path / "result.json").write_text(json.dumps({"candidate_digest": OTHER}))
    assert "  answer: this family" in read_status(tmp_path).lines()
    (tmp_path / "status.json").write_text(json.dumps({"state": "interrupted"}))  # it is being made longer
    assert read_status(tmp_path).answer == ""
    (tmp_path / "result.json").write_text("[")
    (tmp_path / "status.json").write_text(json.dumps({"state": "finished"}))
    assert read_status(tmp_path).answer == ""
