"""Engines: the same trials wherever they run, workers that die, devices, job queues."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from faulty import FormulaEvaluator, NeedsAFile, handler, indexed_handler

from naslib_autokd.records import Proposal, Trial
from naslib_autokd.runners import engine as engine_module
from naslib_autokd.runners.engine import (
    GPU_MEMORY,
    SCHEDULER_SETTINGS,
    TRIALS_PER_GPU,
    ClusterConfigError,
    DaskEngine,
    DaskPool,
    Engine,
    EngineError,
    InProcessEngine,
    LimitedEngine,
    default_workers,
    pick_device,
    read_cluster,
    share,
    trial_handler,
    worker_bases,
)
from naslib_autokd.runners.limits import Limits, WorkerStartError
from naslib_autokd.runners.search import search
from naslib_autokd.search_spaces.hnag import HNAGSpace

CANDIDATE = HNAGSpace("hnag-small").default_candidate()


def proposals(n: int) -> list[Proposal]:
    return [Proposal(CANDIDATE, 3, 100 + number, number) for number in range(n)]


def run_all(engine: Engine, n: int) -> dict[int, Trial]:
    waiting, running, trials = proposals(n), 0, {}
    while waiting or running:
        while waiting and running < engine.n_slots:
            engine.submit(waiting.pop(0))
            running += 1
        finished = engine.next_finished(5.0)
        if finished is not None:
            proposal, trial = finished
            assert proposal.number == trial.number
            trials[trial.number] = trial
            running -= 1
    return trials


def test_engines_give_the_same_trials() -> None:
    here = run_all(InProcessEngine(FormulaEvaluator()), 6)
    with LimitedEngine(FormulaEvaluator, Limits(seconds=60)) as engine:
        limited = run_all(engine, 6)
    with DaskEngine(FormulaEvaluator, workers=2) as engine:
        dask = run_all(engine, 6)
    for number, trial in here.items():
        assert trial.outcome() == limited[number].outcome() == dask[number].outcome()


FAULTS = {1: "die", 2: "raise", 3: "hang", 4: "memory", 5: "diverge"}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_failure_is_a_trial_and_the_others_go_on(workers: int) -> None:
    factory, limits = partial(FormulaEvaluator, faults=FAULTS), Limits(seconds=1.5)
    engine: Any = LimitedEngine(factory, limits) if workers == 1 else DaskEngine(factory, workers=2, limits=limits)
    with engine:
        trials = run_all(engine, 8)
    statuses = {number: trial.status for number, trial in trials.items() if not trial.succeeded}
    assert statuses == {1: "error", 2: "error", 3: "timeout", 4: "out_of_memory", 5: "diverged"}
    assert "SIGKILL" in trials[1].message
    assert trials[1].student_epochs == trials[3].student_epochs == 3.0, "charged in full"
    assert trials[3].train_s == pytest.approx(1.5, abs=0.7)


def test_an_exception_of_the_evaluator_is_a_trial_here_too() -> None:
    trials = run_all(InProcessEngine(FormulaEvaluator(faults={0: "raise"})), 2)
    assert (trials[0].status, trials[0].message) == ("error", "RuntimeError: a broken student")
    assert "misbehave" in trials[0].info["traceback"]


def test_workers_that_cannot_start_stop_the_search() -> None:
    with DaskEngine(NeedsAFile, workers=2) as engine:
        engine.submit(proposals(1)[0])
        with pytest.raises(WorkerStartError, match="FileNotFoundError: the data are not here"):
            engine.next_finished(60)


def test_kill_9_of_workers_under_load_costs_their_trials_only() -> None:
    rng = random.Random(0)
    with DaskPool(indexed_handler, workers=3) as pool:
        for job in range(24):
            pool.submit(job, "sleep 0.1")
        pids: list[int] = []
        outcomes, kills = {}, 0
        while len(outcomes) < 24:
            finished = pool.next_finished(30)
            assert finished is not None
            name, outcome = finished
            outcomes[name] = outcome
            if outcome.status == "success":
                pids.append(outcome.value[1])
                if kills < 4 and rng.random() < 0.4:
                    os.kill(pids[-1], signal.SIGKILL)  # it is at its next job by now, or about to take it
                    kills += 1
                    time.sleep(0.02)
    failed = [outcome for outcome in outcomes.values() if outcome.status != "success"]
    assert kills == 4
    assert len(failed) <= kills
    assert all("SIGKILL" in outcome.message for outcome in failed)


def test_a_dask_worker_that_disappears_costs_its_own_trial_only() -> None:
    import dask
    from distributed import LocalCluster

    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with (
        dask.config.set(SCHEDULER_SETTINGS),
        LocalCluster(**settings) as cluster,
        DaskPool(indexed_handler, scheduler=cluster.scheduler_address) as pool,
    ):
        deadline = time.monotonic() + 30
        while pool.n_slots < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert pool.n_slots == 2
        for job in range(6):
            pool.submit(job, "sleep 0.5" if job < 2 else "quick")
        time.sleep(0.3)
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        outcomes = dict(filter(None, (pool.next_finished(60) for _ in range(6))))
    statuses = Counter(outcome.status for outcome in outcomes.values())
    assert statuses == {"success": 5, "error": 1}
    for outcome in outcomes.values():
        assert outcome.status == "success" or "disappeared" in outcome.message


def test_sixty_four_workers_are_kept_busy() -> None:
    with DaskEngine(partial(FormulaEvaluator, 0.5), workers=64, isolate=False) as engine:
        cpu, wall = time.process_time(), time.perf_counter()
        result = search("cluttered-digits", "random_search", engine=engine, n_trials=256, start_with_default=False)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert len(result.trials) == 256
    assert wall < 0.5 * 256 / 8, "at least eight ran at a time, however busy this machine is"
    # what is left for trials of 1 s: 64 workers finish 64 a second (quiet machine: benchmarks/workers.py measures it)
    assert 64 * cpu / 256 < 0.5, f"{1000 * cpu / 256:.0f} ms of CPU a trial"


def test_wrong_addresses_and_settings_are_told() -> None:
    with pytest.raises(ValueError, match="no Dask scheduler answers at 'nonsense://x'"):
        DaskPool(indexed_handler, scheduler="nonsense://x")
    with pytest.raises(ValueError, match="workers must be at least 1"):
        DaskPool(indexed_handler, workers=0)
    with pytest.raises(ValueError, match="has its own workers"):
        DaskPool(indexed_handler, workers=2, scheduler="tcp://localhost:1")


def test_pools_side_by_side_are_in_nobodys_way() -> None:
    with DaskPool(indexed_handler, workers=1) as first, DaskPool(indexed_handler, workers=1) as second:
        for pool in (first, second):
            pool.submit(0, "a")
        finished = [pool.next_finished(30) for pool in (first, second)]
    assert all(one is not None and one[1].status == "success" for one in finished)


def test_a_pool_that_is_closed_leaves_no_process_and_no_thread() -> None:
    before = psutil.Process().children()
    with DaskPool(indexed_handler, workers=2) as pool:
        threads, slots = pool._threads, pool._local
        pool.submit(0, "sleep 60")
        time.sleep(0.5)
    started = time.monotonic()
    threads.shutdown(wait=True)
    assert time.monotonic() - started < 30
    assert slots is not None
    with pytest.raises(EngineError, match="closed"):  # a job whose thread comes too late
        slots.run("a", 1, print)
    assert psutil.Process().children() == before


def test_what_trainings_do_is_told_by_workers_but_not_all_of_it() -> None:
    for make in (partial(LimitedEngine, limits=Limits(seconds=60)), partial(DaskEngine, workers=1)):
        said: list[str] = []
        with make(FormulaEvaluator, on_message=said.append) as engine:
            result = search("cluttered-digits", "random_search", engine=engine, n_trials=1, start_with_default=False)
        assert len(result.trials) == 1
        assert said == ["trial 0: begun"]


def test_messages_of_handlers_arrive() -> None:
    said: list[Any] = []
    with DaskPool(indexed_handler, workers=1, on_message=said.append) as pool:
        pool.submit(0, "a")
        finished = pool.next_finished(30)
        assert finished is not None
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
    assert said == [{"doing": "a"}]


def test_a_scheduler_that_closes_stops_the_run() -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    ) as cluster:
        pool = DaskPool(indexed_handler, cluster=cluster)
        pool.submit(0, "sleep 5")
        time.sleep(0.3)
    with pytest.raises(EngineError, match="scheduler"):
        pool.next_finished(20)
    pool.close()


# --- devices --------------------------------------------------------------------------------------------------------


def test_devices_are_given_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert pick_device((), 3) is None
    assert [pick_device(("cpu",), i) for i in range(2)] == ["cpu", "cpu"]
    assert [pick_device(("cuda:0", "cuda:1"), i) for i in range(5)] == ["cuda:0", "cuda:1"] * 2 + ["cuda:0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [pick_device(("cuda",), i) for i in range(4)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert [pick_device(("cuda", "cpu"), i) for i in range(4)] == ["cuda:0", "cuda:1", "cuda:2", "cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device(("cuda",), 1) == "cuda"  # the evaluator says that there is none


@pytest.mark.slow
def test_each_worker_has_its_device() -> None:
    with DaskEngine(partial(FormulaEvaluator, 0.2), workers=2, devices=("cuda:0", "cuda:1")) as engine:
        trials = run_all(engine, 4)
    assert {trials[number].info["device"] for number in (0, 1)} == {"cuda:0", "cuda:1"}  # the first of each worker


def test_workers_of_one_gpu_share_its_memory_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    devices, workers = ("cuda:0", "cpu", "cuda:1"), 7
    shares: Counter[str] = Counter()
    for index in range(workers):
        device = pick_device(devices, index)
        assert device is not None
        shares[device] += share(devices, workers, index)  # type: ignore[assignment]
    assert shares["cuda:0"] == pytest.approx(GPU_MEMORY)  # three workers
    assert shares["cuda:1"] == pytest.approx(GPU_MEMORY)  # two

    limits: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: limits.append(given))
    for index in range(3):
        trial_handler(FormulaEvaluator, devices, index, workers=workers)
    trial_handler(FormulaEvaluator, devices, 0, workers=workers, gpu_memory=0.5)
    trial_handler(FormulaEvaluator, devices, 0)
    trial_handler(FormulaEvaluator, (), 0, workers=workers, gpu_memory=0.5)
    one, two = torch.device("cuda:0"), torch.device("cuda:1")
    assert limits == [(GPU_MEMORY / 3, one), (GPU_MEMORY / 2, two), (0.5, one)]
    with pytest.raises(ValueError, match=r"gpu_memory is a share in \(0, 1\], got 2"):
        DaskEngine(FormulaEvaluator, workers=2, gpu_memory=2)


def test_the_default_number_of_workers_fits_cores_memory_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil
    import torch

    memory = type("Memory", (), {"available": 100 * 2**30})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert [default_workers(threads) for threads in (1, 3, 99)] == [8, 2, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert default_workers(devices=("cuda:1",)) == TRIALS_PER_GPU
    assert default_workers(devices=("cuda",)) == 8  # not more than cores
    memory.available = 3 * 2**30
    assert default_workers() == 3
    with pytest.raises(ValueError, match="threads must be at least 1"):
        default_workers(0)


def test_an_engine_without_a_number_of_workers_takes_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(engine_module, "default_workers", lambda *given: asked.append(given) or 3)
    with DaskEngine(partial(FormulaEvaluator, 0.0), devices=("cpu",)) as engine:
        assert engine.n_slots == 3
    with DaskEngine(partial(FormulaEvaluator, threads=2)) as engine:  # type: ignore[call-arg]
        assert engine.n_slots == 3
    with DaskEngine(FormulaEvaluator, workers=1) as engine:
        assert engine.n_slots == 1
    assert asked == [(1, ("cpu",)), (2, ())]


class Witness(FormulaEvaluator):
    """Says from when to when it trained."""

    def evaluate(self, proposal: Proposal) -> Trial:
        started = time.time()
        trial = super().evaluate(proposal)
        trial.info["ran"] = (started, time.time())
        return trial


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_no_more_trials_run_at_once_than_there_are_workers(workers: int) -> None:
    with DaskEngine(partial(Witness, 0.2), workers=workers) as engine:
        for proposal in proposals(6):
            engine.submit(proposal)  # all of them at once
        spans = []
        while len(spans) < 6:
            finished = engine.next_finished(5.0)
            if finished is not None:
                spans.append(finished[1].info["ran"])
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = list(itertools.accumulate(step for _, step in events))
    assert max(running) == workers


def test_slots_of_a_host_are_numbered_without_gaps_and_stay() -> None:
    first = worker_bases({"tcp://a:1": 1, "tcp://a:2": 1, "tcp://b:9": 2}, {})
    assert first == {"tcp://a:1": 0, "tcp://a:2": 1, "tcp://b:9": 0}
    second = worker_bases({"tcp://a:2": 1, "tcp://a:3": 1, "tcp://b:9": 2}, first)
    assert second == {"tcp://a:2": 1, "tcp://a:3": 0, "tcp://b:9": 0}


# --- job queues -----------------------------------------------------------------------------------------------------

EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster-slurm.yaml"


def test_the_example_makes_a_slurm_script() -> None:
    config = read_cluster(EXAMPLE)
    assert config.workers == 8
    with config.cluster() as cluster:
        script = cluster.job_script()
    for line in ("#SBATCH -p gpu", "#SBATCH -A my-project", "#SBATCH --gres=gpu:1", "#SBATCH -t 08:00:00"):
        assert line in script
    assert "source ~/venv/bin/activate" in script
    assert "--lifetime 7h50m" in script


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: slrum\noptions: {cores: 1, memory: 1GB}", "unknown kind 'slrum'; did you mean 'slurm'"),
        ("kind: pbs\noption: {}", "unknown key 'option'; did you mean 'options'"),
        ("kind: pbs\noptions: {cores: 1, memory: 1GB, wall_time: x}", "unknown option 'wall_time' of pbs"),
        ("kind: slurm\noptions: {cores: 1}", "options need memory"),
        ("kind: slurm\nworkers: none\noptions: {cores: 1, memory: 1GB}", "workers must be a whole number"),
        ("kind: pbs\noptions: {cores: 0, memory: 1GB}", "line 2: cores must be a whole number of at least 1"),
        ("kind: pbs\noptions:\n  cores: 1\n  memory: much", "line 4: memory must be a size such as 8GB, got 'much'"),
        ("just words", "must hold keys"),
        ("kind: [", "line 1: not valid YAML"),
        ("kind: pbs\nworkers: true\noptions: {}", "line 2: workers must be a whole number"),
    ],
)
def test_cluster_files_are_checked(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(ClusterConfigError) as caught:
        read_cluster(path)
    assert message in str(caught.value)
    with pytest.raises(ClusterConfigError, match="cannot be read"):
        read_cluster(tmp_path / "missing.yaml")


@pytest.mark.parametrize("workers", ["evaluator=FormulaEvaluator()", "engine=DaskEngine(FormulaEvaluator, workers=2)"])
def test_workers_of_this_machine_need_no_dask(workers: str) -> None:
    code = (
        "import sys; from faulty import FormulaEvaluator; from naslib_autokd.runners.search import search;"
        "from naslib_autokd.runners.engine import DaskEngine;"
        f"search('cluttered-digits', 'random_search', {workers}, n_trials=2);"
        "print([m for m in ('dask', 'distributed', 'torch') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


assert handler  # used by worker processes
