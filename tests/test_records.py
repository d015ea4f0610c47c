"""Records survive kills and writers; incumbents follow the evidence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naslib_autokd.records import (
    CorruptStoreError,
    Proposal,
    StoreLockedError,
    Trial,
    TrialStore,
    content_digest,
    derive_seed,
    incumbent,
)


def trial(number: int = 0, cost: float = 0.3, budget_epochs: int = 9, digest: str = "a", **values: Any) -> Trial:
    defaults: dict[str, Any] = {"seed": number, "student_epochs": float(budget_epochs), "val_accuracy": 1 - cost}
    return Trial(number, {"x": 1}, digest, budget_epochs, cost=cost, **{**defaults, **values})


def test_derived_seeds_are_stable_and_distinct() -> None:
    # sha256 of "0/trial/0", first four bytes, one bit shorter; a change would silently change every published run
    assert derive_seed(0, "trial", 0) == 1725501518
    seeds = {derive_seed(run, "trial", number) for run in range(20) for number in range(100)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_digest_ignores_the_order_of_keys_and_refuses_nan() -> None:
    assert content_digest({"a": 1, "b": 2}) == content_digest({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        content_digest({"a": float("nan")})


@given(
    cost=st.floats(0, 1),
    curve=st.lists(st.floats(0, 10), max_size=5),
    message=st.text(),
    accuracy=st.none() | st.floats(0, 1),
)
def test_trial_survives_json(cost: float, curve: list[float], message: str, accuracy: float | None) -> None:
    before = trial(cost=cost, curve=tuple(curve), message=message, val_accuracy=accuracy)
    assert Trial.from_dict(json.loads(before.to_json())) == before
    assert "\n" not in before.to_json()


@pytest.mark.parametrize("cost", [float("nan"), float("inf")])
def test_trial_refuses_a_cost_that_would_poison_a_model(cost: float) -> None:
    with pytest.raises(ValueError, match="cost must be finite"):
        trial(cost=cost)


def test_trial_refuses_unknown_status_and_fields() -> None:
    with pytest.raises(ValueError, match="status must be one of"):
        trial(status="crashed")
    with pytest.raises(ValueError, match="unknown fields flavour"):
        Trial.from_dict({**trial().to_dict(), "flavour": 1})
    with pytest.raises(ValueError, match="incomplete"):
        Trial.from_dict({"number": 1})


def test_outcome_leaves_out_the_times_alone() -> None:
    assert trial(train_s=1.0).outcome() == trial(train_s=2.0).outcome()
    assert trial(cost=0.1).outcome() != trial(cost=0.2).outcome()


def test_proposal_needs_a_budget() -> None:
    with pytest.raises(ValueError, match="budget_epochs must be at least 1"):
        Proposal(None, 0, 0, 0)  # type: ignore[arg-type]


def test_store_keeps_what_append_returned_from(tmp_path: Path) -> None:
    path = tmp_path / "run" / "trials.jsonl"
    with TrialStore(path) as store:
        for number in range(3):
            store.append(trial(number))
    assert list(TrialStore(path)) == [trial(number) for number in range(3)]


def test_torn_last_line_is_dropped_with_a_warning_and_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    with TrialStore(path) as store:
        store.append(trial(0))
    with open(path, "ab") as file:
        file.write(trial(1).to_json().encode()[:40])
    with pytest.warns(RuntimeWarning, match="torn last line of 40 bytes"):
        store = TrialStore(path)
    assert len(store) == 1
    with store:
        store.append(trial(2))
    assert [t.number for t in TrialStore(path)] == [0, 2]


def test_corrupt_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(f"{trial(0).to_json()}\nnonsense\n{trial(1).to_json()}\n")
    with pytest.raises(CorruptStoreError, match="line 2"):
        TrialStore(path)


def test_two_writers_cannot_share_a_store(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    with TrialStore(path) as first:
        first.append(trial(0))
        second = TrialStore(path)
        with pytest.raises(StoreLockedError, match="another process"):
            second.append(trial(1))
    second.append(trial(1))  # the lock went with the first writer
    second.close()
    assert len(TrialStore(path)) == 2


WRITER = """
import sys
from naslib_autokd.records import Trial, TrialStore
store = TrialStore(sys.argv[1])
number = 0
while True:
    store.append(Trial(number, {"x": "y" * 500}, "a", 9, number))
    print(number, flush=True)
    number += 1
"""


def test_kill_9_loses_no_trial_that_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    last = max([19, *map(int, process.stdout.read().split())])
    process.wait()
    process.stdout.close()
    content = path.read_bytes()
    torn = not content.endswith(b"\n")
    if torn:
        with pytest.warns(RuntimeWarning, match="torn"):
            store = TrialStore(path)
    else:
        store = TrialStore(path)
    assert len(store) >= last + 1
    with store:  # the lock of the killed process does not block the next one
        store.append(trial(len(store)))


def test_incumbent_is_chosen_among_the_largest_budget() -> None:
    trials = [trial(0, 0.1, 3, "low"), trial(1, 0.3, 9, "a"), trial(2, 0.2, 9, "b")]
    best = incumbent(trials)
    assert best is not None
    assert best.candidate_digest == "b"


def test_incumbent_averages_repeats_and_follows_the_evidence_over_luck() -> None:
    trials = [trial(0, 0.10, digest="lucky"), trial(1, 0.40, digest="lucky"), trial(2, 0.2, digest="steady")]
    best = incumbent(trials)
    assert best is not None
    assert best.candidate_digest == "steady"
    best = incumbent(trials, {"lucky": 0.15, "steady": 0.2})
    assert best is not None
    assert best.candidate_digest == "lucky"


def test_failures_are_never_incumbents() -> None:
    assert incumbent([trial(0, 1.0, status="error", message="boom")]) is None


def test_trajectory_is_over_student_epochs() -> None:
    store = TrialStore()
    for number, cost in enumerate([0.5, 0.6, 0.4]):
        store.append(trial(number, cost, digest=str(number)))
    assert [(spent, t.number) for spent, t in store.trajectory()] == [(9.0, 0), (27.0, 2)]
    assert store.student_epochs == 27
