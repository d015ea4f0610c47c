"""Where trials run: in this process, in worker processes of this machine, or on a Dask cluster.

An `Engine` takes proposals and gives finished trials back in any order. `InProcessEngine` is the default (no Dask, one
trial at a time). `DaskEngine` runs as many as there are workers: on this machine (without Dask), on a running cluster
(``scheduler="tcp://host:port"``) or on SLURM, PBS and others through dask-jobqueue (`read_cluster`). On every machine a
trial runs in a process of its own (`limits.WorkerProcess`) that loads data and teacher once and is replaced when it
dies, so a worker outlives its trials. Only plain values travel: candidates and trials as dictionaries.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import hashlib
import logging
import math
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from naslib_autokd.evaluators.base import Evaluator, TellsEpochs
from naslib_autokd.records import CandidateLike, Proposal, Trial
from naslib_autokd.runners.limits import (
    Handler,
    Limits,
    Outcome,
    Report,
    WorkerProcess,
    WorkerStartError,
    attempt,
    pickled,
)
from naslib_autokd.settings import did_you_mean, read_yaml_file

log = logging.getLogger(__name__)

EvaluatorFactory = Callable[..., Evaluator]
"""Builds the evaluator in a worker, for example ``functools.partial(KDEvaluator, task)``. It is called without
arguments, or with ``device="cuda:1"`` where devices are assigned."""


class EngineError(RuntimeError):
    """The workers cannot go on, for a reason that is no trial's fault; the run can be continued."""


class Engine(Protocol):
    """Runs trials. `search` keeps ``n_slots`` of them running."""

    @property
    def n_slots(self) -> int:
        """Trials that can run at the same time; may change, and be 0 while a cluster's workers are awaited."""

    def submit(self, proposal: Proposal) -> None:
        """Start a trial."""

    def next_finished(self, timeout_s: float | None = None) -> tuple[Proposal, Trial] | None:
        """Wait for a trial to finish; None if none did within ``timeout_s``.

        Raises:
            EngineError, WorkerStartError: If the workers cannot go on.
        """

    def close(self) -> None:
        """Stop; trials that still run are lost."""


def failed_trial(proposal: Proposal, outcome: Outcome) -> Trial:
    """The record of a trial that did not come back with one: it is charged its whole budget."""
    return Trial.of(
        proposal,
        status=outcome.status,
        message=outcome.message,
        student_epochs=float(proposal.budget_epochs),
        train_s=outcome.seconds,
        info={"traceback": outcome.details} if outcome.details else {},
    )


class InProcessEngine:
    """One trial at a time, in this process. Without limits: nothing here can stop a training that hangs."""

    n_slots = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._proposal: Proposal | None = None

    def submit(self, proposal: Proposal) -> None:
        assert self._proposal is None
        self._proposal = proposal

    def next_finished(self, timeout_s: float | None = None) -> tuple[Proposal, Trial] | None:
        proposal, self._proposal = self._proposal, None
        if proposal is None:
            return None
        outcome = attempt(lambda job, _: self.evaluator.evaluate(job), proposal, lambda _: None)
        if outcome.status == "success":
            return proposal, outcome.value
        return proposal, failed_trial(proposal, outcome)

    def close(self) -> None:
        self._proposal = None


# --- what a worker does ---------------------------------------------------------------------------------------------


def plain_job(proposal: Proposal) -> dict[str, Any]:
    """A proposal as plain values (the candidate's class travels by its name)."""
    return {
        "candidate_type": type(proposal.candidate),
        "candidate": proposal.candidate.to_dict(),
        "budget_epochs": proposal.budget_epochs,
        "seed": proposal.seed,
        "number": proposal.number,
    }


def trial_handler(
    factory: EvaluatorFactory,
    devices: Sequence[str],
    index: int,
    *,
    gpu_memory: float | None = None,
    workers: int | None = None,
) -> Handler:
    """Build the evaluator, once a worker; the handler trains one student of a `plain_job`.

    Args:
        gpu_memory: Share of its GPU's memory that the worker may take.
        workers: Processes of this machine, which take equal shares if ``gpu_memory`` does not say more.
    """
    device = pick_device(devices, index)
    if device is not None and device.startswith("cuda"):
        if gpu_memory is None and workers is not None:
            gpu_memory = share(devices, workers, index)
        if gpu_memory is not None:
            limit_gpu_memory(device, gpu_memory)
    evaluator = factory() if device is None else factory(device=device)

    def handle(job: Mapping[str, Any], report: Report) -> dict[str, Any]:
        if isinstance(evaluator, TellsEpochs):
            evaluator.watch = now_and_then(report)
        candidate = job["candidate_type"].from_dict(job["candidate"])
        if "label" in job:
            what = f"final student {job['index'] + 1}"
            return _final_student(evaluator, candidate, job["seed"], job["label"], what)
        return evaluator.evaluate(Proposal(candidate, job["budget_epochs"], job["seed"], job["number"])).to_dict()

    return handle


def now_and_then(report: Report, pause_s: float = 1.0) -> Report:
    """``report`` of what is told at least ``pause_s`` after the last: epochs of small students are many a second."""
    last = -math.inf

    def tell(text: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= pause_s:
            last = time.monotonic()
            report(text)

    return tell


def _final_student(evaluator: Any, candidate: Any, seed: int, label: str, what: str) -> dict[str, Any]:
    """The common final protocol for one student (as `search.train_finals`), with its file."""
    spec = evaluator.student_spec(candidate, seed)
    build = partial(evaluator.build_student, spec, seed)
    model, result = evaluator.train_final(build, candidate.kd, seed, name=label, what=what)
    result = evaluator.judge(model, result)
    return {"result": result.to_dict(), "file": evaluator.student_file(model, result)}


def pick_device(devices: Sequence[str], index: int) -> str | None:
    """The device of worker ``index`` of a machine: round robin; ``cuda`` stands for all GPUs that are visible.

    Examples:
        >>> [pick_device(["cuda:0", "cuda:1"], i) for i in range(4)]
        ['cuda:0', 'cuda:1', 'cuda:0', 'cuda:1']
    """
    if not devices:
        return None
    if "cuda" in devices:
        import torch

        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cuda"]
        devices = [d for device in devices for d in (gpus if device == "cuda" else [device])]
    return devices[index % len(devices)]


GPU_MEMORY = 0.95
"""Share of a GPU's memory that its workers may take together; the rest is for what CUDA itself keeps per process."""
TRIALS_PER_GPU = 4
"""Default; a guess, not measured. A small student's step is launch overhead of one host thread."""


def share(devices: Sequence[str], workers: int, index: int) -> float:
    """Share of its GPU's memory for worker ``index`` of ``workers`` on a machine: equal for all of one GPU.

    Examples:
        >>> [share(["cuda:0", "cuda:1"], 3, i) for i in range(3)]
        [0.475, 0.95, 0.475]
    """
    device = pick_device(devices, index)
    return GPU_MEMORY / sum(pick_device(devices, other) == device for other in range(workers))


def limit_gpu_memory(device: str, fraction: float) -> None:
    """Let this process take no more of a GPU: a student that needs more is out of memory, its neighbours are not.

    Without CUDA nothing happens here; the evaluator says then that there is no such device.
    """
    import torch

    if not torch.cuda.is_available():
        return
    torch.cuda.set_per_process_memory_fraction(fraction, torch.device(device))


def default_workers(threads: int = 1, devices: Sequence[str] = ()) -> int:
    """Trials that this machine should run at the same time.

    On CPUs as many as there are cores for their ``threads`` and memory for `WORKER_BYTES` each: processes of one thread
    train more students per hour than threads of one process (``benchmarks/trials.py``). On GPUs `TRIALS_PER_GPU` each,
    but no more than cores, because every trial keeps one busy with launching kernels.

    Raises:
        ValueError: If ``threads`` is not positive.
    """
    import psutil

    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = {device for index in range(64) if (device := pick_device(devices, index) or "cpu").startswith("cuda")}
    if gpus:
        return max(1, min(cores, TRIALS_PER_GPU * len(gpus)))
    return max(1, min(cores // threads, psutil.virtual_memory().available // WORKER_BYTES))


WORKER_BYTES = 2**30
"""Memory that `default_workers` reserves for a worker: Python and torch (0.3 GiB), the images, a student's training."""


class _Slots:
    """The worker processes of one Dask worker, or of this machine, for one run."""

    def __init__(self, recipe: bytes, limits: Limits, isolate: bool) -> None:
        self.recipe, self.limits, self.isolate = recipe, limits, isolate
        self._busy: set[int] = set()
        self._processes: dict[int, WorkerProcess] = {}
        self._handlers: dict[int, Handler] = {}
        self._closed = False
        self._lock = threading.Lock()

    def run(self, job: Any, base_index: int, report: Report) -> Outcome:
        with self._lock:
            slot = next(i for i in range(len(self._busy) + 1) if i not in self._busy)
            self._busy.add(slot)
        try:
            return (self._run_isolated if self.isolate else self._run_here)(slot, job, base_index, report)
        finally:
            with self._lock:
                self._busy.discard(slot)

    def _run_isolated(self, slot: int, job: Any, base_index: int, report: Report) -> Outcome:
        with self._lock:
            if self._closed:
                raise EngineError("the workers are closed")
            process = self._processes.get(slot)
            if process is None:
                import cloudpickle

                make = partial(_with_index, self.recipe, base_index + slot)
                process = self._processes[slot] = WorkerProcess(cloudpickle.dumps(make), self.limits)
        return process.run(job, report)

    def _run_here(self, slot: int, job: Any, base_index: int, report: Report) -> Outcome:
        if slot not in self._handlers:
            self._handlers[slot] = _with_index(self.recipe, base_index + slot)
        return attempt(self._handlers[slot], job, report)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        for process in self._processes.values():
            process.close()


def _with_index(recipe: bytes, index: int) -> Handler:
    import pickle

    return pickle.loads(recipe)(index)


_SLOTS: dict[str, _Slots] = {}
_SLOTS_LOCK = threading.Lock()


def run_in_worker(
    key: str, recipe: bytes, limits: Limits, isolate: bool, bases: Mapping[str, int], topic: str, job: Any
) -> Outcome:
    """A Dask task: one job in this Dask worker's slots, which stay for the next ones."""
    from distributed import get_worker

    worker = get_worker()
    with _SLOTS_LOCK:
        if not _SLOTS:
            atexit.register(_close_all)
        slots = _SLOTS.setdefault(key, _Slots(recipe, limits, isolate))
    # in a tuple, since Dask writes into dictionaries
    return slots.run(job, bases.get(worker.address, 0), lambda message: worker.log_event(topic, (message,)))


def close_slots(key: str) -> None:
    """End this Dask worker's processes of one run."""
    with _SLOTS_LOCK:
        slots = _SLOTS.pop(key, None)
    if slots is not None:
        slots.close()


def _close_all() -> None:
    for key in list(_SLOTS):
        close_slots(key)


# --- Dask -----------------------------------------------------------------------------------------------------------


SCHEDULER_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,  # a job that kills its worker must not be tried on three more
}
"""Of the schedulers that we start; a foreign one keeps its own."""


class DaskPool:
    """Jobs on workers of this machine, which need no Dask, or on Dask workers: any handler, results in any order.

    Args:
        make_handler: ``make_handler(index) -> Handler``, called once in every worker process; ``index`` counts the
            processes of a machine.
        workers: Processes on this machine; jobs asked of the cluster with ``cluster``.
        scheduler: Address of a running Dask scheduler; one job per thread of its workers.
        cluster: Description of a job queue (`ClusterConfig`), or a Dask cluster object.
        limits: Of one job.
        isolate: False runs jobs in the threads of the workers: for evaluators that only wait.
        on_message: Called with what handlers report, in another thread.

    Raises:
        ValueError: If no scheduler answers, or for settings that cannot work.
    """

    def __init__(
        self,
        make_handler: Callable[[int], Handler],
        *,
        workers: int | None = None,
        scheduler: str | None = None,
        cluster: Any = None,
        limits: Limits | None = None,
        isolate: bool = True,
        on_message: Callable[[Any], None] | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        if scheduler is not None and (cluster is not None or workers is not None):
            raise ValueError("a running scheduler has its own workers: give either it, or workers (and a cluster)")
        self._recipe = pickled(make_handler)  # type: ignore[arg-type]
        self._limits, self._isolate = limits or Limits(), isolate
        digest = hashlib.sha256(self._recipe + repr((self._limits, isolate, time.time_ns())).encode()).hexdigest()
        self._key = f"naslib_autokd-{digest[:16]}"
        self._finished: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._futures: dict[Any, Any] = {}
        self._waiting: deque[tuple[Any, Any]] = deque()
        self._counter = 0
        self._slots = (0.0, 0)
        self._bases: dict[str, int] = {}
        self._cluster: Any = None
        self._scratch: str | None = None
        self._local: _Slots | None = None
        if scheduler is None and cluster is None:
            self._local, self._report = _Slots(self._recipe, self._limits, isolate), on_message or (lambda _: None)
            self._slots = (math.inf, workers or 1)  # for ever
            self._threads = ThreadPoolExecutor(workers or 1)  # one watches each process
            return
        self._connect(scheduler, cluster, workers)
        if on_message is not None:
            self._client.subscribe_topic(self._key, lambda event: on_message(event[1][0]))

    def _connect(self, scheduler: str | None, cluster: Any, workers: int | None) -> None:
        import dask
        from distributed import Client

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what happens is told by the outcomes
        if scheduler is not None:
            self._client = connected(scheduler)
            return
        # Dask's own, /tmp/dask-scratch-space, is the same folder for all users, and it imports from there
        self._scratch = tempfile.mkdtemp(prefix="naslib_autokd-dask-")
        with dask.config.set({**SCHEDULER_SETTINGS, "temporary-directory": self._scratch}):
            self._cluster = cluster.start(workers) if isinstance(cluster, ClusterConfig) else cluster
            self._client = Client(self._cluster, set_as_default=False)
        sys.path[:] = [place for place in sys.path if not place.startswith(self._scratch)]

    @property
    def n_slots(self) -> int:
        """Jobs that can run at once: threads of all workers; asked of a scheduler once a second."""
        now = time.monotonic()
        if now - self._slots[0] > 1.0:
            try:
                threads = self._client.nthreads()
            except (OSError, TimeoutError) as error:
                raise EngineError(f"the Dask scheduler does not answer any more: {error}") from error
            self._bases = worker_bases(threads, self._bases)
            self._slots = (now, sum(threads.values()))
        return self._slots[1]

    def submit(self, name: Any, job: Any) -> None:
        """Run a job as soon as there is a slot; Dask gets it then, so that none waits at a worker that may die."""
        self._waiting.append((name, job))
        self._feed()

    def _feed(self) -> None:
        while self._waiting and len(self._futures) < self.n_slots:
            self._start(*self._waiting.popleft())

    def _start(self, name: Any, job: Any) -> None:
        self._counter += 1
        future: Any
        if self._local is not None:
            future = self._threads.submit(self._local.run, job, 0, self._report)
        else:
            future = self._client.submit(
                run_in_worker,
                self._key,
                self._recipe,
                self._limits,
                self._isolate,
                self._bases,
                self._key,
                job,
                key=f"{self._key}-{self._counter}",
                pure=False,
            )
        self._futures[name] = future
        future.add_done_callback(lambda done: self._finished.put((name, done)))

    def next_finished(self, timeout_s: float | None = None) -> tuple[Any, Outcome] | None:
        """``(name, outcome)`` of a finished job; None if there was none within ``timeout_s``."""
        if not self._futures and not self._waiting:
            return None
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:  # a wait without end could not be interrupted, and would not see a lost scheduler
            self._feed()
            wait = 1.0 if deadline is None else max(0.0, min(1.0, deadline - time.monotonic()))
            try:
                name, future = self._finished.get(timeout=wait)
                break
            except queue.Empty:
                if self._local is None and self._client.status not in ("running", "connecting", "newly-created"):
                    raise EngineError(f"the connection to the Dask scheduler is lost ({self._client.status})") from None
                if not self._futures and (refusal := refused_by_queue(self._cluster)):
                    raise EngineError(refusal) from None
                if deadline is not None and time.monotonic() >= deadline:
                    return None
        del self._futures[name]
        self._feed()
        return name, self._outcome(future)

    def _outcome(self, future: Any) -> Outcome:
        killed: Any = ()
        if self._local is None:
            from distributed.scheduler import KilledWorker

            killed = KilledWorker
            if future.status in ("cancelled", "lost"):
                raise EngineError("the Dask scheduler dropped a running trial: it was restarted or closed")
        try:
            outcome: Outcome = future.result()
            return outcome
        except killed as error:
            where = getattr(error.last_worker, "address", "?")
            return Outcome(None, "error", f"the Dask worker {where} disappeared while it ran this")
        except (WorkerStartError, EngineError):
            raise
        except ImportError as error:
            raise EngineError(f"the workers cannot import what they need, install it there: {error}") from error
        except Exception as error:
            raise EngineError(f"a worker failed outside a trial: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """End all worker processes; jobs that still run are lost."""
        self._futures.clear()
        self._waiting.clear()
        if self._local is not None:
            self._local.close()
            self._threads.shutdown(wait=False)
            return
        with contextlib.suppress(Exception):  # whatever state the cluster is in, we are leaving
            self._client.run(close_slots, self._key)
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)
        if self._cluster is not None:
            with contextlib.suppress(Exception):
                self._cluster.close(timeout=5)
        self._cluster = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> DaskPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connected(scheduler: str) -> Any:
    """A client of a running scheduler; the certificates of a ``tls://`` one are those of Dask's configuration.

    Raises:
        ValueError: If none answers, or the certificates are missing or wrong; says how they are given.
    """
    from distributed import Client

    try:
        return Client(scheduler, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without certificates
        reason = str(error).partition("\n")[0]
    # a client that failed stops its loop when it is collected: now, while distributed does not hold its lock
    gc.collect()
    hint = f"; {TLS_HINT}" if scheduler.startswith("tls://") else ""
    raise ValueError(f"no Dask scheduler answers at {scheduler!r} ({reason}){hint}")


TLS_HINT = (
    "certificates are read from DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ..__TLS__CLIENT__CERT and ..__TLS__CLIENT__KEY, "
    "or Dask's configuration files"
)


def worker_bases(threads: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int]:
    """First slot number of each Dask worker among those of its host, so that a host's slots spread over its devices.

    Workers that are ``known`` keep theirs; a new one takes the lowest numbers that are free on its host.

    Examples:
        >>> worker_bases({"tcp://a:1": 2, "tcp://a:2": 2, "tcp://b:1": 1}, {})
        {'tcp://a:1': 0, 'tcp://a:2': 2, 'tcp://b:1': 0}
    """
    bases = {address: base for address, base in known.items() if address in threads}
    for address in sorted(set(threads) - set(bases)):
        host = address.rpartition(":")[0]
        taken = {
            slot
            for other, base in bases.items()
            if other.rpartition(":")[0] == host
            for slot in range(base, base + threads[other])
        }
        base = 0
        while taken & set(range(base, base + threads[address])):
            base += 1
        bases[address] = base
    return bases


class DaskEngine:
    """Trials on Dask workers (see `DaskPool` for the arguments).

    Args:
        factory: Builds the evaluator in each worker (`EvaluatorFactory`).
        workers: Default on this machine: `default_workers`, for the factory's ``threads``.
        devices: Given to the workers of a machine in turn; ``("cuda",)`` stands for all its GPUs. Empty: the
            factory's own. More workers than GPUs: several trials share one.
        gpu_memory: Share of its GPU's memory that a worker may take, in (0, 1]. Default: with ``workers`` of this
            machine, equal shares of `GPU_MEMORY`; on a cluster no limit.
        on_message: Told what the workers' trainings do, about once a second each, in another thread.

    Raises:
        ValueError: If ``gpu_memory`` is not in (0, 1], or as `DaskPool`.
    """

    def __init__(
        self,
        factory: EvaluatorFactory,
        *,
        workers: int | None = None,
        scheduler: str | None = None,
        cluster: Any = None,
        devices: Sequence[str] = (),
        gpu_memory: float | None = None,
        limits: Limits | None = None,
        isolate: bool = True,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        if gpu_memory is not None and not 0 < gpu_memory <= 1:
            raise ValueError(f"gpu_memory is a share in (0, 1], got {gpu_memory}")
        here = scheduler is None and cluster is None
        if here and workers is None:
            threads = factory.keywords.get("threads", 1) if isinstance(factory, partial) else 1
            workers = default_workers(threads, tuple(devices))
        known = workers if here and isolate else None
        self._pool = DaskPool(
            partial(trial_handler, factory, tuple(devices), gpu_memory=gpu_memory, workers=known),
            workers=workers,
            scheduler=scheduler,
            cluster=cluster,
            limits=limits,
            isolate=isolate,
            on_message=on_message,
        )
        self._proposals: dict[int, Proposal] = {}

    @property
    def n_slots(self) -> int:
        return self._pool.n_slots

    def submit(self, proposal: Proposal) -> None:
        self._proposals[proposal.number] = proposal
        self._pool.submit(proposal.number, plain_job(proposal))

    def next_finished(self, timeout_s: float | None = None) -> tuple[Proposal, Trial] | None:
        finished = self._pool.next_finished(timeout_s)
        if finished is None:
            return None
        number, outcome = finished
        return _answer(self._proposals.pop(number), outcome)

    def final_students(
        self, candidate: CandidateLike, seeds: Mapping[int, int], label: str, stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Outcome]]:
        """Train final students (index -> seed) of a family side by side; each one's outcome as it ends.

        The value of a success is ``{"result", "file"}``. After ``stop`` none is started, and those that run are
        finished.
        """
        waiting, running = deque(seeds.items()), 0
        while running or (waiting and not stop()):
            while waiting and running < self.n_slots and not stop():
                index, seed = waiting.popleft()
                job = {"candidate_type": type(candidate), "candidate": candidate.to_dict()}
                self._pool.submit(index, {**job, "seed": seed, "label": label, "index": index})
                running += 1
            finished = self._pool.next_finished(1.0) if running else None
            if finished is not None:
                running -= 1
                yield finished
            elif not running:
                time.sleep(0.2)  # no worker has joined yet

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> DaskEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LimitedEngine:
    """One trial at a time in a process of its own, with limits; no Dask."""

    n_slots = 1

    def __init__(
        self,
        factory: EvaluatorFactory,
        limits: Limits,
        devices: Sequence[str] = (),
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self._report = on_message
        self._process = WorkerProcess(pickled(partial(trial_handler, factory, tuple(devices), 0)), limits)
        self._proposal: Proposal | None = None

    def submit(self, proposal: Proposal) -> None:
        assert self._proposal is None
        self._proposal = proposal

    def next_finished(self, timeout_s: float | None = None) -> tuple[Proposal, Trial] | None:
        proposal, self._proposal = self._proposal, None
        return None if proposal is None else _answer(proposal, self._process.run(plain_job(proposal), self._report))

    def close(self) -> None:
        self._process.close()

    def __enter__(self) -> LimitedEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answer(proposal: Proposal, outcome: Outcome) -> tuple[Proposal, Trial]:
    if outcome.status == "success":
        return proposal, Trial.from_dict(outcome.value)
    return proposal, failed_trial(proposal, outcome)


# --- job queues -----------------------------------------------------------------------------------------------------

CLUSTERS = {
    "htcondor": "HTCondorCluster",
    "lsf": "LSFCluster",
    "moab": "MoabCluster",
    "oar": "OARCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "slurm": "SLURMCluster",
}
"""Kinds of job queues, and dask-jobqueue's classes for them."""


TEXT_OPTIONS = {"account", "interface", "job_name", "local_directory", "log_directory", "project", "protocol", "python"}
TEXT_OPTIONS |= {"queue", "shebang", "walltime"}
"""Options of dask-jobqueue that it takes as they are, whatever they are."""
MOST_WORKERS = 4096
"""That a cluster file may ask for, as ``--workers``."""


class ClusterConfigError(ValueError):
    """A cluster file that cannot be used; the message says what to change."""


@dataclass(frozen=True)
class ClusterConfig:
    """A job queue: what ``--cluster cluster.yaml`` describes."""

    kind: str
    options: Mapping[str, Any]
    """Keyword arguments of dask-jobqueue's class: ``cores``, ``memory``, ``walltime``, ``queue``, ..."""
    workers: int = 1
    """Dask workers that are asked for (a job of the queue holds ``processes`` of them)."""

    def cluster(self) -> Any:
        """The dask-jobqueue cluster, without any job yet (its ``job_script()`` shows what would be submitted).

        Its dashboard is for this machine alone, unless ``scheduler_options`` say more.
        """
        import dask_jobqueue

        kind = getattr(dask_jobqueue, CLUSTERS[self.kind])
        shown = {"dashboard_address": "127.0.0.1:0", **(self.options.get("scheduler_options") or {})}
        return kind(**{"job_cls": _watched(kind.job_cls), **self.options, "scheduler_options": shown})

    def start(self, workers: int | None = None) -> Any:
        """The cluster with its jobs submitted; they join when the queue lets them run."""
        cluster = self.cluster()
        cluster.scale(workers or self.workers)
        return cluster


def _watched(job_class: Any) -> Any:
    """dask-jobqueue's class of jobs, which keeps a refusal of the queue: Dask waits for the workers all the same."""
    from distributed.deploy.spec import ProcessInterface

    class Job(job_class):
        refusal = ""

        async def start(self) -> None:
            try:
                await super().start()
            except Exception as error:  # whatever the queue's command ended with
                self.refusal = str(error) or type(error).__name__
                await ProcessInterface.start(self)  # to Dask it runs, else it reports the error in its own ten lines

    return Job


def refused_by_queue(cluster: Any) -> str:
    """What the queue said if it has refused all jobs; empty as long as it has accepted one, or has not answered."""
    refusals = [getattr(job, "refusal", "") for job in list(getattr(cluster, "workers", {}).values())]
    if not refusals or not all(refusals):
        return ""
    command, _, said = refusals[0].rpartition("stderr:\n")  # as dask-jobqueue reports a command that failed
    text = " ".join((said.strip() or command).split())
    return f"the queue refused all {len(refusals)} jobs: {text}; mend the options of the cluster file, or the queue"


def read_cluster(path: str | Path) -> ClusterConfig:
    """Read and check a cluster file.

    Raises:
        ClusterConfigError: If the file is missing or no YAML, a key, kind or option is unknown (with the nearest),
            or ``cores`` and ``memory`` are not given.
        ImportError: If dask-jobqueue is not installed.
    """
    from dask.utils import parse_bytes

    document = read_yaml_file(path, error=ClusterConfigError, what="cluster file")

    def refused(message: str, *at: str) -> ClusterConfigError:
        return ClusterConfigError(f"{document.place(at)}: {message}")

    content = document.values
    if not isinstance(content, dict):
        raise ClusterConfigError(f"cluster file {path} must hold keys (kind, workers, options)")
    keys = ("kind", "workers", "options")
    for key in content:
        if key not in keys:
            raise refused(f"unknown key {key!r}{did_you_mean(key, keys)}", str(key))
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in CLUSTERS:
        raise refused(f"unknown kind {kind!r}{did_you_mean(kind, CLUSTERS)}", "kind")
    workers = content.get("workers", 1)
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MOST_WORKERS:
        raise refused(f"workers must be a whole number from 1 to {MOST_WORKERS}, got {workers!r}", "workers")
    options = content.get("options") or {}
    if not isinstance(options, dict):
        raise refused(f"options must hold dask-jobqueue's arguments, got {options!r}", "options")
    known = _job_options(kind)
    for option in options:
        if option not in known:
            raise refused(f"unknown option {option!r} of {kind}{did_you_mean(option, known)}", "options", str(option))
    for required in ("cores", "memory"):
        if required not in options:
            raise refused(f"options need {required} (of one job), for example cores: 4, memory: 8GB", "options")
    for name in ("cores", "processes"):
        value = options.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise refused(f"{name} must be a whole number of at least 1, got {value!r}", "options", name)
    for name in TEXT_OPTIONS & set(options):
        if not isinstance(options[name], str | None):
            raise refused(f"{name} must be text (in quotes), got {options[name]!r}", "options", name)
    try:
        right = parse_bytes(options["memory"]) > 0
    except (ValueError, TypeError, AttributeError, OverflowError):
        right = False
    if not right:
        raise refused(f"memory must be a size such as 8GB, got {options['memory']!r}", "options", "memory")
    return ClusterConfig(kind, options, workers)


def _job_options(kind: str) -> list[str]:
    """Arguments that dask-jobqueue's class of this kind takes."""
    import inspect

    try:
        import dask_jobqueue
        from dask_jobqueue.core import Job, JobQueueCluster
    except ImportError as error:
        raise ImportError("job queues need dask-jobqueue: pip install dask-jobqueue") from error
    job_class = getattr(dask_jobqueue, CLUSTERS[kind]).job_cls
    names: Counter[str] = Counter()
    for function in (job_class.__init__, Job.__init__, JobQueueCluster.__init__):
        names.update(name for name, p in inspect.signature(function).parameters.items() if p.kind is not p.VAR_KEYWORD)
    return sorted(set(names) - {"self", "n_workers", "job_cls", "loop", "asynchronous"})
