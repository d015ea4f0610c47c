"""Records survive kills and writers; incumbents follow the evidence."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naslib_autokd import records
from naslib_autokd.records import (
    Ask,
    AskLog,
    CorruptStoreError,
    Proposal,
    StoreLockedError,
    StoreWriteError,
    Trial,
    TrialStore,
    content_digest,
    derive_seed,
    incumbent,
    with_digest,
    without_digest,
)
from naslib_autokd.search_spaces.hnag import HNAGSpace


def trial(number: int = 0, cost: float = 0.3, budget_epochs: int = 9, digest: str = "a", **values: Any) -> Trial:
    defaults: dict[str, Any] = {"seed": number, "student_epochs": float(budget_epochs), "val_accuracy": 1 - cost}
    return Trial(number, {"x": 1}, digest, budget_epochs, cost=cost, **{**defaults, **values})


def test_records_of_versions_that_did_not_know_training_seconds_are_read(tmp_path: Path) -> None:
    def old(number: int) -> bytes:
        values = trial(number).to_dict()
        del values["training_seconds"]
        return with_digest(json.dumps(values, separators=(",", ":")))

    path = tmp_path / "trials.jsonl"
    path.write_bytes(old(0) + old(1))
    with TrialStore(path) as store:
        assert store._parse_together([old(2)])[0][0] == trial(2)  # and quickly
        store.append(trial(3, training_seconds=2.5))
    assert list(TrialStore(path)) == [trial(0), trial(1), trial(3, training_seconds=2.5)]
    assert TrialStore(path).training_seconds == 2.5
    for wrong in (-1.0, "2"):
        with pytest.raises(ValueError, match=r"training_seconds|sizes and costs"):
            Trial.from_dict(trial().to_dict() | {"training_seconds": wrong})


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
    with pytest.raises(ValueError, match=r"cost in \[0, 1\]"):
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


def test_torn_last_line_is_dropped_with_a_warning_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    with TrialStore(path) as store:
        store.append(trial(0))
    with open(path, "ab") as file:
        file.write(trial(1).to_json().encode()[:40])
    store = TrialStore(path)  # a reader neither warns nor touches the file: the writer may be at work
    assert len(store) == 1
    assert path.stat().st_size == len(with_digest(trial(0).to_json())) + 40
    with pytest.warns(RuntimeWarning, match="torn last line of 40 bytes"):
        store.lock()
    with store:
        store.append(trial(2))
    assert [t.number for t in TrialStore(path)] == [0, 2]


def test_corrupt_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(f"{trial(0).to_json()}\nnonsense\n{trial(1).to_json()}\n")
    with pytest.raises(CorruptStoreError, match="line 2"):
        TrialStore(path)


@pytest.mark.parametrize("line", ["3", "null", "[]", '{"number": 1}'])
def test_a_line_that_is_no_record_is_named_too(tmp_path: Path, line: str) -> None:
    for kind, make in ((TrialStore, trial), (AskLog, ask)):
        path = tmp_path / kind.__name__
        path.write_text(f"{make(0).to_json()}\n{make(1).to_json()}\n{line}\n")
        with pytest.raises(CorruptStoreError, match="line 3"):
            kind(path)


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


def test_a_writer_that_read_too_early_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    early, locking = TrialStore(path), TrialStore(path)
    with TrialStore(path) as store:
        store.append(trial(0))
        store.append(trial(1))
    with pytest.raises(StoreLockedError, match="another process has written 2 records"):
        early.append(trial(0))
    assert len(TrialStore(path)) == 2
    with locking:
        locking.lock()  # from here on what is seen is what is appended to
        assert [t.number for t in locking] == [0, 1]
        locking.append(trial(2))
    assert len(TrialStore(path)) == 3


def test_the_lock_is_that_of_the_process_and_not_of_a_thread(tmp_path: Path) -> None:
    import threading

    store = TrialStore(tmp_path / "trials.jsonl")
    thread = threading.Thread(target=store.lock)
    thread.start()
    thread.join()
    store.append(trial(0))
    with pytest.raises(StoreLockedError):
        TrialStore(store.path).lock()
    store.close()
    TrialStore(store.path).lock()


@pytest.mark.parametrize("kind", [TrialStore, AskLog])
def test_a_full_disk_leaves_the_file_whole(tmp_path: Path, kind: Any) -> None:
    """RLIMIT_FSIZE is the kernel's own refusal, after a part of the line has been written."""
    record = trial if kind is TrialStore else ask
    store = kind(tmp_path / "records.jsonl")
    with store:
        store.append(record(0))
        store.append(record(1))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.stat().st_size + 50, hard))
        try:
            with pytest.raises(StoreWriteError, match=r"records before are whole and safe, this one was not recorded"):
                store.append(record(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(store) == 2
        assert store.path.read_bytes() == with_digest(record(0).to_json()) + with_digest(record(1).to_json())
        store.append(record(3))  # there is room again
    assert [each.number for each in kind(store.path)] == [0, 1, 3]


def test_a_sync_that_fails_leaves_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    with TrialStore(tmp_path / "trials.jsonl") as store:
        store.append(trial(0))
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreWriteError, match="No space left on device"):
            store.append(trial(1))
        monkeypatch.undo()
        assert list(TrialStore(store.path)) == list(store) == [trial(0)]
        store.path.unlink()  # somebody removes the run folder's file
        with pytest.raises(StoreWriteError, match="and has 0 now"):
            store.append(trial(1))


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
    store = TrialStore(path)
    assert len(store) >= last + 1
    if path.read_bytes().endswith(b"\n"):
        store.lock()
    else:
        with pytest.warns(RuntimeWarning, match="torn"):
            store.lock()
    with store:  # the lock of the killed process does not block the next one
        store.append(trial(len(store)))


def test_a_reader_beside_a_writer_sees_whole_records_alone(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        reader, looks = TrialStore(path), 0
        while (len(reader) < 200 or looks < 200) and time.monotonic() < deadline:
            known = len(reader)
            assert reader.refresh() == len(reader) - known  # a warning would be an error here
            fresh = TrialStore(path)
            assert len(fresh) >= len(reader)
            for store in (reader, fresh):
                assert [t.number for t in store] == list(range(len(store)))
                assert all(t.candidate == {"x": "y" * 500} for t in store)
            looks += 1
        assert len(reader) >= 200
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_line_that_is_finished_while_it_is_read_waits_for_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`readlines` goes on after the end of the file that it came to, so a torn line need not be the last one."""
    path = tmp_path / "trials.jsonl"
    lines = [with_digest(trial(number).to_json()) for number in range(3)]
    path.write_bytes(lines[0] + lines[1][:40])

    class Growing(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            n_read = super().readinto(buffer)
            if n_read == 0 and path.stat().st_size == len(lines[0]) + 40:
                with path.open("ab") as writer:
                    writer.write(lines[1][40:] + lines[2])
            return n_read

    monkeypatch.setattr(records, "open", lambda path, mode: io.BufferedReader(Growing(path)), raising=False)
    store = TrialStore(path)
    assert len(store) == 1
    assert store.refresh() == 2
    assert [t.number for t in store] == [0, 1, 2]


@pytest.mark.slow
def test_a_hundred_thousand_trials_load_in_seconds_and_300_megabytes(tmp_path: Path) -> None:
    """Measured: 0.7 times the json.loads of the lines alone, and 200 MB."""
    import psutil

    path = tmp_path / "trials.jsonl"
    space, rng = HNAGSpace("hnag-small"), np.random.default_rng(0)
    families = [space.sample(rng).to_dict() for _ in range(500)]
    with open(path, "wb") as file:
        for number in range(100_000):
            curve = tuple(2.3 / (epoch + 1 + number / 1e5) for epoch in range((1, 3, 9)[number % 3]))
            values = trial(number, 0.1 + number % 977 / 1100, digest=str(number % 5000), curve=curve, macs=number)
            file.write(with_digest(replace(values, candidate=families[number % 500]).to_json()))
    started = time.process_time()
    with open(path, "rb") as file:
        for line in file:
            json.loads(line)
    lines = time.process_time() - started
    before, started = psutil.Process().memory_info().rss, time.process_time()
    store = TrialStore(path)
    took, more = time.process_time() - started, psutil.Process().memory_info().rss - before
    assert len(store) == 100_000
    assert (store[7].candidate, store[99_999].candidate) == (families[7], families[499])
    assert took < 1.2 * lines
    assert more < 300e6


def test_trajectory_and_incumbent_of_many_trials_are_not_quadratic() -> None:
    store = TrialStore()
    started = time.process_time()
    for number in range(20_000):
        store.append(trial(number, 0.9 - number / 40_000, digest=str(number % 7000)))
        store.incumbent()
        assert store.student_epochs == 9.0 * (number + 1)
    assert len(store.trajectory()) > 5000
    assert time.process_time() - started < 10  # one second; looking at all trials each time takes minutes


def test_asking_after_each_trial_does_not_walk_the_trials_from_the_first() -> None:
    class Counted(list[Any]):
        walks = 0

        def __iter__(self) -> Any:
            Counted.walks += 1
            return super().__iter__()

    store = TrialStore()
    store._records = Counted()
    for number in range(20):
        store.append(trial(number, cost=0.5 - number / 100, digest=str(number)))
        assert store.incumbent() is not None
    assert Counted.walks == 0


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


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.2, 0.25, 0.3]), st.sampled_from([3, 9]), st.sampled_from("abc"), st.booleans()
        )
    )
)
def test_trajectory_is_the_incumbent_of_each_prefix(draws: list[tuple[float, int, str, bool]]) -> None:
    store, expected = TrialStore(), []
    for number, (cost, budget, digest, good) in enumerate(draws):
        store.append(trial(number, cost, budget, digest, status="success" if good else "error"))
        best = incumbent(store)
        assert store.incumbent() is best
        if best is not None and (not expected or expected[-1][1] is not best):
            expected.append((store.student_epochs, best))
    assert store.trajectory() == expected


# --- asks


class Point:
    digest = "abc"

    def to_dict(self) -> dict[str, Any]:
        return {"x": 0.1}


def ask(number: int, after: int = 0) -> Ask:
    return Ask.of(Proposal(Point(), 9, 7, number), after)


def test_asks_survive_in_order(tmp_path: Path) -> None:
    path = tmp_path / "run" / "asks.jsonl"
    asks = [ask(0), ask(1), ask(2, after=2)]
    with AskLog(path) as log:
        for each in asks:
            log.append(each)
        with pytest.raises(StoreLockedError):
            AskLog(path).append(ask(3))
    assert list(AskLog(path)) == asks
    assert asks[2] == Ask(2, {"x": 0.1}, "abc", 9, 7, 2)
    with pytest.raises(ValueError, match="unknown fields flavour"):
        Ask.from_dict({**asks[0].to_dict(), "flavour": 1})


# --- what is read is checked ----------------------------------------------------------------------------------------


def stored(path: Path, n: int = 5) -> list[str]:
    """Lines of a store of ``n`` successful trials."""
    with TrialStore(path) as store:
        for number in range(n):
            store.append(trial(number))
    return path.read_text().splitlines()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cost", -5),
        ("cost", 7.0),
        ("cost", float("nan")),
        ("cost", "0.2"),
        ("val_accuracy", 7),
        ("val_accuracy", float("nan")),
        ("teacher_agreement", -0.1),
        ("student_epochs", float("nan")),
        ("student_epochs", -1.0),
        ("budget_epochs", 0),
        ("budget_epochs", 1.5),
        ("number", True),
        ("number", None),
        ("seed", "7"),
        ("status", "done"),
        ("candidate", []),
        ("candidate_digest", 12),
        ("n_params", -1),
        ("macs", float("inf")),
        ("train_s", float("inf")),
        ("curve", [1.0, None]),
        ("curve", [float("nan")]),
        ("curve", [float("-inf")]),
        ("channels", "8"),
        ("curve", "long"),
        ("channels", [[8]]),
        ("info", "cpu"),
        ("more", 1),
    ],
)
@pytest.mark.parametrize("has_digest", [True, False])
def test_a_trial_that_cannot_be_is_refused_with_its_line(
    field: str, value: Any, has_digest: bool, tmp_path: Path
) -> None:
    path = tmp_path / "trials.jsonl"
    texts = [trial(number).to_json() for number in range(5)]
    texts[2] = json.dumps({**json.loads(texts[2]), field: value})
    path.write_bytes(b"".join(with_digest(text) if has_digest else text.encode() + b"\n" for text in texts))
    with pytest.raises(CorruptStoreError, match=r"trials.jsonl, line 3: .*put back what was there") as told:
        TrialStore(path)
    assert "\n" not in str(told.value)
    assert "crc32" not in str(told.value)


@pytest.mark.parametrize(
    "line",
    ["", "null", "[]", "7", '{"number": 1}', "\x00", "[" * 5000, "{} {}", "{},{}", '{"number":' + "9" * 5000 + "}"],
)
def test_a_line_that_is_no_record_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    lines = stored(path)
    path.write_text("\n".join([*lines[:3], line, *lines[3:], ""]))
    with pytest.raises(CorruptStoreError, match="line 4: "):
        TrialStore(path)


@pytest.mark.parametrize("lines_of", [lambda lines: [*lines, lines[1]], lambda lines: [lines[0], lines[0], *lines[1:]]])
def test_a_trial_that_stands_there_twice_is_refused(lines_of: Any, tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text("\n".join([*lines_of(stored(path)), ""]))
    with pytest.raises(CorruptStoreError, match=r"line (2|6): trial [01] stands here twice"):
        TrialStore(path)


def test_candidates_read_as_they_were(tmp_path: Path) -> None:
    values = [
        {"a": {"p": p}, "b": [p, 1], "c": {"x": {"p": p}, "y": 1, "z": 2, "w": 3}} for p in (0, 0.0, -0.0, False, 0)
    ]
    path = tmp_path / "trials.jsonl"
    trials = [replace(trial(number), candidate=value) for number, value in enumerate(values)]
    for lines in (
        [with_digest(each.to_json()) for each in trials],
        [each.to_json().encode() + b"\n" for each in trials],
    ):
        path.write_bytes(b"".join(lines))
        read = list(TrialStore(path))
        assert [each.to_json() for each in read] == [each.to_json() for each in trials]
        assert read == trials


def test_all_that_a_trial_can_be_is_read_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "trials.jsonl"
    odd = [
        trial(0, message="\ud800 \u2028 é \x00", info={"a": {"b": [1, 2.5, None, True]}}),  # msgspec takes no \ud800
        trial(1, cost=1, status="timeout", student_epochs=3, train_s=0, val_accuracy=None),  # integers stay integers
        trial(2, status="diverged", budget_used=2**70, seed=2**70, curve=(1, 10**400), channels=(), macs=0),
        trial(3, cost=5e-324, val_accuracy=1.0, train_s=1.7976931348623157e308),
    ]
    some = [
        trial(
            number,
            cost=float(rng.random()),
            train_s=float(10 ** rng.uniform(-9, 9)),
            curve=tuple(rng.random(3).tolist()),
        )
        for number in range(len(odd), 700)
    ]
    with TrialStore(path) as store:
        for each in [*odd, *some]:
            store.append(each)
    read = list(TrialStore(path))
    assert read == [*odd, *some]
    assert [each.to_json() for each in read] == [each.to_json() for each in [*odd, *some]]
    assert [type(each.student_epochs) for each in read[:2]] == [type(each.student_epochs) for each in odd[:2]]


EDITS: dict[str, tuple[bytes, bytes]] = {
    "seed": (rb'"seed":', b'"seed":1'),
    "candidate": (rb'"candidate":{', b'"candidate":{"size":0.5,'),
    "digest": (rb'"crc32":"', b'"crc32":"0'),
    "no digest": (rb',"crc32":"\w+"', b""),
    "spaces": (rb'":', b'": '),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize(("kind", "make"), [(TrialStore, trial), (AskLog, ask)], ids=["trials", "asks"])
def test_an_edited_line_is_refused_though_its_values_are_possible(kind: Any, make: Any, edit: str, tmp_path: Path):
    path = tmp_path / "records.jsonl"
    with kind(path) as store:
        for number in range(4):
            store.append(make(number))
    lines = path.read_bytes().splitlines(keepends=True)
    changed = re.sub(*EDITS[edit], lines[2])
    assert changed != lines[2]
    path.write_bytes(b"".join([*lines[:2], changed, lines[3]]))
    with pytest.raises(CorruptStoreError, match=r"records.jsonl, line 3: .*(crc32).*put back what was there"):
        kind(path)


def test_every_changed_character_of_a_line_is_noticed(tmp_path: Path) -> None:
    line = with_digest(trial(3).to_json())
    assert without_digest(line) == (trial(3).to_json().encode(), True)
    path = tmp_path / "trials.jsonl"
    for place in range(len(line) - 1):
        path.write_bytes(with_digest(trial(2).to_json()) + line[:place] + b"~" + line[place + 1 :])
        with pytest.raises(CorruptStoreError, match="line 2"):
            TrialStore(path)


def test_a_run_of_before_lines_had_digests_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    refused = trial(1, cost=1.0, status="error", message="LimitError: max_macs=3, the student needs 7")
    path.write_text(
        "".join(each.to_json() + "\n" for each in (trial(0), refused, replace(refused, number=2, message="?")))
    )
    with TrialStore(path) as store:
        store.append(replace(refused, number=3))
    read = TrialStore(path)
    assert read.n_without_digest == 3
    assert [each.status for each in read] == ["success", "refused", "error", "error"]
    with open(path, "ab") as file:
        file.write(trial(4).to_json().encode() + b"\n")
    with pytest.raises(CorruptStoreError, match=r"line 5: it has no digest \(crc32\), the lines before it have"):
        TrialStore(path)


@pytest.mark.parametrize(("kind", "make"), [(TrialStore, trial), (AskLog, ask)], ids=["trials", "asks"])
def test_a_power_cut_after_the_first_record_leaves_the_file(kind: Any, make: Any, tmp_path: Path, monkeypatch: Any):
    """The folder is synced after the first line is, for the file is an entry of the folder; then it is there."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "records.jsonl"
    with kind(path) as store:
        store.append(make(0))
        store.append(make(1))
    assert synced == [str(path), str(tmp_path), str(path)]
