"""A search that dies anywhere is continued: nothing lost, nothing run twice; and every reason to stop has its name."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faulty import FormulaEvaluator

from naslib_autokd.records import AskLog, Proposal, StoreLockedError, Trial, TrialStore
from naslib_autokd.reports.results import read_run
from naslib_autokd.runners.engine import LimitedEngine
from naslib_autokd.runners.limits import Limits
from naslib_autokd.runners.results import SearchProgress, SearchResult
from naslib_autokd.runners.run_folder import budget_change
from naslib_autokd.runners.search import search
from naslib_autokd.runners.session import SearchInterrupted, StopSignals, duration, read_status
from naslib_autokd.runners.tally import TooManyFailures
from naslib_autokd.tasks import get_task

TASK = get_task("cluttered-digits")


def start(out: Path, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("faulty.py")), str(out), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **popen
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out + err


def wait_for_trials(out: Path, n: int, process: subprocess.Popen[str]) -> None:
    path = out / "trials.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.01)


def starts(out: Path) -> list[int]:
    path = out.with_suffix(".journal")
    return [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []


def kill_and_continue(out: Path, kills: int, *arguments: str, trials: int, seed: int) -> None:
    """Kill a search ``kills`` times at random moments, check what is started after each kill, and let it end."""
    rng = random.Random(seed)
    for kill in range(kills):
        recorded = [trial.number for trial in TrialStore(out / "trials.jsonl")]
        asked = [ask.number for ask in AskLog(out / "asks.jsonl")]
        in_flight = [n for n in asked if n not in recorded]
        before = len(starts(out))
        process = start(out, "--trials", str(trials), *arguments)
        # leave something to do for the kills that follow
        wait_for_trials(
            out, len(recorded) + rng.randint(0, max(0, (trials - len(recorded)) // (kills - kill + 1))), process
        )
        time.sleep(rng.random() * 0.15)
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        assert process.returncode == -signal.SIGKILL
        started = starts(out)[before:]
        assert not set(started) & set(recorded), "a completed trial was run again"
        if "--workers" not in arguments:
            expected = ([-1] if -1 not in recorded else []) + in_flight
            assert started[: len(expected)] == expected[: len(started)], "what ran at the kill comes first"
        kept = [trial.number for trial in TrialStore(out / "trials.jsonl")]
        assert kept[: len(recorded)] == recorded, "a completed trial was lost"
    code, text = finish(start(out, "--trials", str(trials), *arguments))
    assert code == 0, text
    numbers = [trial.number for trial in TrialStore(out / "trials.jsonl")]
    assert sorted(numbers) == list(range(-1, trials - 1))


@pytest.mark.filterwarnings("ignore:.*dropped a torn last line:RuntimeWarning")
@pytest.mark.parametrize(
    ("optimizer", "kills", "trials"),
    [
        pytest.param("random_search", 5, 16, marks=pytest.mark.slow),
        pytest.param("autokd", 20, 60, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_kill_9_anywhere_and_the_run_is_as_if_it_had_not_been(
    optimizer: str, kills: int, trials: int, tmp_path: Path
) -> None:
    whole = search("cluttered-digits", optimizer, evaluator=FormulaEvaluator(), n_trials=trials, seed=3)
    out = tmp_path / "run"
    kill_and_continue(out, kills, "--optimizer", optimizer, trials=trials, seed=1)
    again = [trial.outcome() for trial in TrialStore(out / "trials.jsonl")]
    assert again == [trial.outcome() for trial in whole.trials]


@pytest.mark.filterwarnings("ignore:.*dropped a torn last line:RuntimeWarning")
@pytest.mark.parametrize(
    ("optimizer", "kills", "trials"),
    [
        pytest.param("random_search", 2, 16, marks=pytest.mark.slow),
        pytest.param("autokd", 10, 60, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_kill_9_with_workers_loses_nothing(optimizer: str, kills: int, trials: int, tmp_path: Path) -> None:
    kill_and_continue(tmp_path / "run", kills, "--optimizer", optimizer, "--workers", "3", trials=trials, seed=2)


def test_a_full_disk_stops_the_run_and_leaves_the_file_whole(tmp_path: Path) -> None:
    out = tmp_path / "run"
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (9000, 9000))  # as a full disk for every file
    code, text = finish(start(out, "--sleep", "0", preexec_fn=limit))
    assert code == 1
    assert "could not be written" in text
    assert "make room and start the run again" in text
    kept = len(TrialStore(out / "trials.jsonl"))
    assert 2 <= kept < 20
    code, text = finish(start(out, "--sleep", "0"))
    assert code == 0, text
    assert len(TrialStore(out / "trials.jsonl")) == 20


def test_ctrl_c_once_finishes_the_running_trial_and_twice_stops_at_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--sleep", "0.5")
    wait_for_trials(out, 1, process)
    assert read_status(out).state == "running"
    os.kill(process.pid, signal.SIGINT)
    code, text = finish(process)
    assert code == 130
    assert "the running trials are finished and saved" in text
    recorded = [trial.number for trial in TrialStore(out / "trials.jsonl")]
    assert set(starts(out)) == set(recorded), "what had been started was saved"
    assert read_status(out).state == "interrupted"

    process = start(out, "--sleep", "30")
    before = len(starts(out))
    while len(starts(out)) == before:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    code, text = finish(process, timeout=10)
    assert "KeyboardInterrupt" in text
    assert code != 0
    assert [trial.number for trial in TrialStore(out / "trials.jsonl")] == recorded


def test_a_second_writer_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--sleep", "30")
    deadline = time.monotonic() + 60
    while not (out / "status.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    before = (out / "status.json").read_bytes()[:60]
    with pytest.raises(StoreLockedError, match="being written by another process"):
        search("cluttered-digits", "random_search", evaluator=FormulaEvaluator(), n_trials=3, seed=3, out=out)
    assert (out / "status.json").read_bytes()[:60] == before
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert read_status(out).state == "stopped"


# --- in this process ------------------------------------------------------------------------------------------------


class SimulatedEngine:
    """``n_slots`` workers without any process: results come in a random order; it can die."""

    def __init__(self, n_slots: int, evaluator: Any = None, seed: int = 0, die_after: int | None = None) -> None:
        self.n_slots, self.evaluator, self.die_after = n_slots, evaluator or FormulaEvaluator(), die_after
        self.rng = random.Random(seed)
        self.running: list[Proposal] = []
        self.started: list[int] = []
        self.n_done = 0
        self.most = 0.0

    def submit(self, proposal: Proposal) -> None:
        assert len(self.running) < self.n_slots
        self.running.append(proposal)
        self.started.append(proposal.number)

    def next_finished(self, timeout_s: float | None = None) -> tuple[Proposal, Trial] | None:
        if timeout_s == 0.0 and self.rng.random() < 0.5:
            return None
        if self.die_after is not None and self.n_done >= self.die_after:
            raise KeyboardInterrupt
        self.n_done += 1
        proposal = self.running.pop(self.rng.randrange(len(self.running)))
        return proposal, self.evaluator.evaluate(proposal)

    def close(self) -> None: ...


def simulate(n_slots: int, out: Path | None = None, *, optimizer: str = "autokd", **settings: Any) -> SearchResult:
    engine = settings.pop("engine", None) or SimulatedEngine(n_slots)
    return search(TASK, optimizer, engine=engine, out=out, **{"n_trials": 24, "seed": 3, **settings})


@pytest.mark.parametrize("optimizer", ["autokd", "random_search"])
def test_with_several_workers_what_ran_at_the_stop_comes_first_and_nothing_else(optimizer: str, tmp_path: Path) -> None:
    done: list[int] = []
    for session, die_after in enumerate((0, 3, 7, None)):
        engine = SimulatedEngine(4, seed=session, die_after=die_after)
        asked = [ask.number for ask in AskLog(tmp_path / "asks.jsonl")]
        in_flight = ([] if -1 in done else [-1]) + [number for number in asked if number not in done]
        if die_after is None:
            result = simulate(4, tmp_path, optimizer=optimizer, engine=engine)
        else:
            with pytest.raises(KeyboardInterrupt):
                simulate(4, tmp_path, optimizer=optimizer, engine=engine)
        assert engine.started[: len(in_flight)] == in_flight
        assert not set(engine.started) & set(done)
        done = [trial.number for trial in TrialStore(tmp_path / "trials.jsonl")]
    assert sorted(done) == list(range(-1, 23))
    assert [trial.number for trial in result.trials] == done


@pytest.mark.parametrize("n_slots", [1, 3, 8])
@pytest.mark.parametrize("budget", [9, 40, 108])
def test_workers_never_overshoot_the_student_epochs(n_slots: int, budget: int) -> None:
    result = simulate(n_slots, optimizer="random_search", n_trials=None, student_epochs=budget)
    assert budget - TASK.max_budget_epochs < result.student_epochs <= budget
    assert result.stop_reason == "student_epochs"


def test_epochs_that_running_trials_did_not_use_are_spent_after_all() -> None:
    class Halving(FormulaEvaluator):
        def evaluate(self, proposal: Proposal) -> Trial:
            trial = super().evaluate(proposal)
            return Trial.from_dict({**trial.to_dict(), "student_epochs": trial.student_epochs / 3})

    engine = SimulatedEngine(4, Halving())
    result = simulate(4, optimizer="random_search", engine=engine, n_trials=None, student_epochs=36)
    assert 27 < result.student_epochs <= 36
    assert len(result.trials) > 8


def test_whichever_budget_is_first_stops_and_is_named() -> None:
    slow = SimulatedEngine(2, FormulaEvaluator(sleep_s=0.05))
    timed = simulate(2, optimizer="random_search", engine=slow, n_trials=1000, wall_s=0.4)
    assert timed.stop_reason == "wall_s"
    assert 2 <= len(timed.trials) <= 10
    assert simulate(2, optimizer="random_search", n_trials=5, wall_s=1e6, student_epochs=1e6).stop_reason == "n_trials"
    reached = simulate(1, optimizer="random_search", n_trials=200, target_cost=0.25)
    assert reached.stop_reason == "target_cost"
    assert reached.trials[-1].cost <= 0.25
    assert all(t.cost > 0.25 or t.budget_epochs < TASK.max_budget_epochs for t in reached.trials[:-1])


def test_budgets_that_cannot_work_are_refused() -> None:
    for settings, message in (
        ({"n_trials": None, "target_cost": 0.1}, "a target alone may never be reached"),
        ({"wall_s": -1}, "wall_s must be a positive"),
        ({"target_cost": 1.5}, "target_cost"),
        ({"max_failures": 0}, "max_failures must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate(1, **settings)
    with pytest.raises(ValueError, match="not both"):
        search(TASK, evaluator=FormulaEvaluator(), engine=SimulatedEngine(1), n_trials=3)
    with pytest.raises(ValueError, match="not both"):
        search(TASK, n_trials=3)


def test_too_many_failures_in_a_row_stop_the_search_with_the_likely_reason(tmp_path: Path) -> None:
    class Mixed(FormulaEvaluator):
        def evaluate(self, proposal: Proposal) -> Trial:
            good = super().evaluate(proposal).to_dict()
            message = "data lost" if proposal.number % 3 else "loss is NaN"
            return Trial.from_dict({**good, "status": "error", "cost": 1.0, "message": message})

    with pytest.raises(TooManyFailures, match=r"6 trials in a row failed, 4 of them with 'error: data lost'"):
        simulate(1, tmp_path, optimizer="random_search", engine=SimulatedEngine(1, Mixed()), max_failures=6)
    assert read_status(tmp_path).state == "failed"
    assert "6 trials in a row" in read_status(tmp_path).message
    assert len(simulate(1, tmp_path, optimizer="random_search", max_failures=6).trials) == 24, "it can go on"


class Narrow(FormulaEvaluator):
    """No student of most families keeps the limits."""

    every = 5

    def evaluate(self, proposal: Proposal) -> Trial:
        if proposal.number % self.every == 0:
            return super().evaluate(proposal)
        message = "max_train_memory=4MB, but the narrowest student of the family needs 9MB"
        return Trial.of(proposal, status="refused", message=message)


def test_families_that_no_width_brings_within_the_limits_are_no_trials_of_the_budget(tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": "random_search", "max_failures": 2}
    shares: list[float] = []
    said: list[str] = []

    def look(state: SearchProgress) -> None:
        assert state.n_trials + state.n_refused == len(TrialStore(tmp_path / "trials.jsonl"))
        status = read_status(tmp_path)
        shares.append(status.fraction)
        said.append(" ".join(status.lines()))
        assert status.n_trials == state.n_trials
        assert status.fraction == pytest.approx(state.n_trials / 6)
        assert state.n_failures == 0

    result = simulate(1, tmp_path, engine=SimulatedEngine(1, Narrow()), n_trials=6, progress=look, **options)
    assert sum(trial.succeeded for trial in result.trials) == 6
    assert len(result.trials) > 20
    assert shares[-1] == 1
    assert f"6 trials, {result.student_epochs:g} student-epochs" in said[-1]
    n_refused = len(result.trials) - 6
    assert f"failures: {n_refused} refused" in said[-1]
    (spent,) = (line for line in read_run(tmp_path).conclusions if line.startswith("Spent: "))
    assert spent.startswith(f"Spent: 6 trials (0 failed), {n_refused} families refused before training, ")
    again = simulate(1, tmp_path, engine=SimulatedEngine(1, Narrow()), n_trials=6, **options)
    assert again.trials == result.trials
    Narrow.every = 10**9
    try:
        with pytest.raises(TooManyFailures, match=r"20 trials in a row failed, 20 of them with 'refused: max_train"):
            simulate(1, engine=SimulatedEngine(1, Narrow()), n_trials=6, **options)
    finally:
        Narrow.every = 5


def test_a_stop_saves_what_runs_and_starts_nothing(tmp_path: Path) -> None:
    engine = SimulatedEngine(4)
    with pytest.raises(SearchInterrupted, match="the same command continues"):
        simulate(4, tmp_path, engine=engine, stop=lambda: len(engine.started) >= 9)
    recorded = [trial.number for trial in TrialStore(tmp_path / "trials.jsonl")]
    assert sorted(recorded) == sorted(engine.started)
    assert len(recorded) == 9
    assert len(simulate(4, tmp_path).trials) == 24


def test_a_run_made_longer_keeps_its_plan_and_says_what_changed(tmp_path: Path) -> None:
    simulate(1, tmp_path, n_trials=10)  # three rungs: a short search
    assert budget_change(tmp_path, {"n_trials": 32}).endswith("n_trials 10 -> 32")
    longer = simulate(1, tmp_path, n_trials=32)  # planned like this it would have two
    assert len(longer.trials) == 32
    assert "n_trials 10 -> 32" in (tmp_path / "search.log").read_text()
    shorter = simulate(1, tmp_path, n_trials=5)
    assert len(shorter.trials) == 32
    assert "n_trials 32 -> 5" in (tmp_path / "search.log").read_text()


def test_the_evaluation_of_a_run_cannot_be_changed(tmp_path: Path) -> None:
    simulate(1, tmp_path, optimizer="random_search", n_trials=2, evaluation={"objective": "kd"})
    with pytest.raises(ValueError, match="evaluation"):
        simulate(1, tmp_path, optimizer="random_search", n_trials=2, evaluation={"objective": "ce"})
    simulate(1, tmp_path, optimizer="random_search", n_trials=2)


def test_limits_in_a_search_make_failures_and_not_ends(tmp_path: Path) -> None:
    factory = partial(FormulaEvaluator, faults={0: "hang", 2: "die"})
    with LimitedEngine(factory, Limits(seconds=1.0)) as engine:
        result = search(TASK, "random_search", engine=engine, n_trials=6, seed=3, out=tmp_path)
    assert [trial.status for trial in result.trials] == ["success", "timeout", "success", "error", "success", "success"]
    assert read_status(tmp_path).failures == {"timeout": 1, "error": 1}


def quality(n_slots: int, seed: int) -> float:
    """True error of the family that is chosen (the formula without its noise)."""
    candidate: Any = simulate(n_slots, engine=SimulatedEngine(n_slots, seed=seed), seed=seed).candidate
    return 0.1 * abs(candidate.generator.channel_growth - 1) + 0.1 * (1 - candidate.kd.kd_weight)


@pytest.mark.slow
def test_more_workers_find_comparably_good_families_with_as_many_trials() -> None:
    means = {n: sum(quality(n, seed) for seed in range(10)) / 10 for n in (1, 2, 4)}
    assert max(means.values()) - min(means.values()) < 0.02, means


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_of_a_finished_run(tmp_path: Path) -> None:
    result = simulate(2, tmp_path, optimizer="random_search", n_trials=8)
    status = read_status(tmp_path)
    assert (status.state, status.stop_reason, status.n_trials, status.fraction) == ("finished", "n_trials", 8, 1.0)
    assert status.best_val_accuracy == max(t.val_accuracy for t in result.trials if t.val_accuracy is not None)
    assert status.in_flight == ()
    text = "\n".join(status.lines())
    assert "8 trials" in text
    assert "n_trials 8" in text
    json.dumps(status.to_dict())


def test_status_of_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        read_status(tmp_path)


def test_status_shows_what_runs(tmp_path: Path) -> None:
    class Looking(FormulaEvaluator):
        def evaluate(self, proposal: Proposal) -> Trial:
            seen.append(read_status(tmp_path))
            return super().evaluate(proposal)

    seen: list[Any] = []
    simulate(3, tmp_path, optimizer="random_search", engine=SimulatedEngine(3, Looking()), n_trials=9)
    assert [trial["number"] for trial in seen[0].in_flight] == [-1, 0, 1]
    assert all(status.state == "running" for status in seen)
    assert seen[4].expected_s is not None
    assert "running: " in "\n".join(seen[4].lines())


def test_durations_are_read_at_a_glance() -> None:
    assert [duration(s) for s in (7, 600, 9000, 400_000)] == ["7 s", "10 min", "2.5 h", "4.6 d"]


@pytest.fixture
def interrupts() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_signals_are_given_back(interrupts: None) -> None:
    with StopSignals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
