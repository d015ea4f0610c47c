"""Worker processes: every way in which a trial can end, limits that hold, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from faulty import handler

from naslib_autokd.runners.limits import Limits, WorkerProcess, WorkerStartError, ending, pickled, resident_bytes


@pytest.fixture
def worker() -> Any:
    process = WorkerProcess(pickled(handler), Limits(seconds=60.0, memory_bytes=300 << 20))
    yield process
    process.close()


def test_a_worker_serves_many_jobs_and_reports(worker: WorkerProcess) -> None:
    said: list[Any] = []
    first, second = worker.run("a", said.append), worker.run("b", said.append)
    assert said == [{"doing": "a"}, {"doing": "b"}]
    assert (first.value[0], second.value[0]) == ("a", "b")
    assert first.value[1] == second.value[1] == worker.pid != os.getpid()


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("hang", "timeout", "killed after 1 s, the limit of one trial"),
        ("eat", "out_of_memory", "of resident memory, the limit is 300 MiB"),
        ("die", "error", "killed by SIGKILL"),
        ("crash", "error", "killed by SIGSEGV"),
        ("exit", "error", "ended with exit code 7"),
        ("raise", "error", "RuntimeError: a broken student"),
        ("memory", "out_of_memory", "MemoryError: no more"),
    ],
)
def test_every_end_of_a_job_has_its_status_and_the_worker_goes_on(
    worker: WorkerProcess, fault: str, status: str, message: str
) -> None:
    if fault == "hang":
        worker.limits = Limits(seconds=1.0)
    started = time.monotonic()
    outcome = worker.run(fault)
    assert outcome.status == status
    assert message in outcome.message
    assert time.monotonic() - started < 20
    assert worker.run("again").value[0] == "again"


def test_a_worker_killed_between_two_jobs_is_replaced(worker: WorkerProcess) -> None:
    pid = worker.run("a").value[1]
    os.kill(pid, signal.SIGKILL)
    assert worker.run("b").value[0] == "b"
    assert worker.pid != pid


@pytest.mark.parametrize(
    ("fault", "limits", "message"),
    [
        ("raise", Limits(), "a worker cannot start: RuntimeError: a broken student"),
        ("die", Limits(), "ended before its first trial: the worker process was killed by SIGKILL"),
        ("eat", Limits(memory_bytes=100 << 20), "ended before its first trial: killed at"),
    ],
)
def test_a_worker_that_cannot_start_is_no_trials_fault(fault: str, limits: Limits, message: str) -> None:
    worker = WorkerProcess(pickled(partial(handler, fault)), limits)
    with pytest.raises(WorkerStartError, match=message):
        worker.run("a")
    assert worker.pid is None


def killed_once(marker: Path, payload: bytes) -> Any:
    """A handler, but for the first process that loads it, which dies."""
    if not marker.exists():
        marker.write_bytes(payload[:0])
        os.kill(os.getpid(), signal.SIGKILL)
    return handler()


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_worker_killed_while_it_loads_is_replaced(tmp_path: Path, size: int) -> None:
    worker = WorkerProcess(pickled(partial(killed_once, tmp_path / "marker", bytes(size))))
    assert worker.run("a").value[0] == "a"
    worker.close()
    assert (tmp_path / "marker").exists()


def test_what_cannot_be_pickled_is_refused() -> None:
    lock = __import__("threading").Lock()
    with pytest.raises(ValueError, match=r"cannot be pickled.*functools\.partial"):
        pickled(lambda: lock)


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="seconds must be positive"):
        Limits(seconds=0)
    with pytest.raises(ValueError, match="memory_bytes must be positive"):
        Limits(memory_bytes=-1)
    assert not Limits()
    assert Limits(seconds=1)


def test_signals_are_named() -> None:
    assert "SIGTERM" in ending(-signal.SIGTERM)
    assert "signal 63" in ending(-63)
    assert ending(3) == "ended with exit code 3"


PARENT = """
import faulty, sys
from naslib_autokd.runners.limits import WorkerProcess, pickled
worker = WorkerProcess(pickled(faulty.handler))
print(worker.run("a").value[1], flush=True)
worker.run("hang")
"""


def test_a_hanging_child_ends_with_its_parent() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.3)
        assert child.is_running()
        parent.kill()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()


def test_a_child_whose_parent_was_killed_while_it_was_started_ends_at_once() -> None:
    gone = 2**22 + 1  # beyond the largest number of a process
    code = f"from naslib_autokd.runners.limits import end_with_parent; end_with_parent({gone}); print('it works on')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")


def test_mapped_files_are_no_memory_of_a_trial(tmp_path):
    """All workers map one file of decoded pictures: its pages are not those of one process."""
    path = tmp_path / "pictures.u8"
    path.write_bytes(bytes(64 << 20))
    before = resident_bytes(os.getpid())
    mapped = np.memmap(path, np.uint8, "r")
    assert int(mapped.max()) == 0
    assert resident_bytes(os.getpid()) - before < 16 << 20
