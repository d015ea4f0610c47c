"""Work in a process of its own, so that a hang, a crash or a lack of memory costs one trial and nothing else.

`WorkerProcess` keeps one child process that loads data and teacher once and then takes job after job. The parent
watches it: over its time or memory it is killed, dead it is replaced, and either way the job has an `Outcome`.
The child is started afresh (not forked: forked torch threads deadlock) and ends with its parent, however that ends.
Imports nothing heavy; POSIX only.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from naslib_autokd import files
from naslib_autokd.imports import place_in_own_code
from naslib_autokd.records import is_out_of_memory

POLL_S = 0.1
"""How often time and memory are looked at."""
STILL_S = 30.0
"""Shortest time without any work after which a worker that loads is taken to stand still."""

Report = Callable[[Any], None]
Handler = Callable[[Any, Report], Any]
"""``handler(job, report) -> value``; what it reports on the way reaches the parent at once."""


class WorkerStartError(RuntimeError):
    """A worker process could not load what it needs (data, teacher, code): no trial's fault, so the run stops."""


@dataclass(frozen=True)
class Limits:
    """What one trial may take. They hold even if the training hangs: its process is killed.

    Raises:
        ValueError: If a limit is not positive.
    """

    seconds: float | None = None
    """Wall-clock seconds of one trial; loading data and teacher does not count, but may not stand still for as long (30
    s at least): neither compute nor read anything."""
    memory_bytes: int | None = None
    """Resident memory of the trial's process (CPU) but for the files that it maps, such as the decoded pictures, which
    all processes share: Python and torch alone take 0.2 GiB."""

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("memory_bytes", self.memory_bytes)):
            if value is not None and not value > 0:
                raise ValueError(f"limit {name} must be positive, got {value}")

    def __bool__(self) -> bool:
        return self.seconds is not None or self.memory_bytes is not None


@dataclass(frozen=True)
class Outcome:
    """What a job came to."""

    value: Any = None
    """What the handler returned; None for a failure."""
    status: str = "success"
    """One of `records.STATUSES`."""
    message: str = ""
    details: str = ""
    """Traceback, or the last output of a process that died."""
    seconds: float = 0.0
    place: str = ""
    """Where in the user's own code the error was (`imports.place_in_own_code`)."""


class WorkerProcess:
    """One child process; it is started by the first job and replaced when it was killed or died.

    Args:
        recipe: Pickled function without arguments that loads what is needed and returns the `Handler`
            (`pickled` makes it).
        limits: Of one job.
    """

    def __init__(self, recipe: bytes, limits: Limits | None = None) -> None:
        self.recipe, self.limits = recipe, limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._output: Any = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Of the running child; None if there is none."""
        return None if self._process is None else self._process.pid

    def run(self, job: Any, report: Report | None = None) -> Outcome:
        """Do one job in the child.

        Raises:
            WorkerStartError: If the child cannot load what it needs.
        """
        if not self._begin(job):  # it died, or stood still, between two jobs: this one is not to blame
            self._end()
            if not self._begin(job):
                raise WorkerStartError("a new worker died or stood still before it took its first job")
        started = time.perf_counter()
        deadline = None if self.limits.seconds is None else time.monotonic() + self.limits.seconds
        answer = self._receive(deadline, report or (lambda _: None))
        if isinstance(answer, Outcome):  # dead or over a limit
            self._end()
            return replace(answer, seconds=time.perf_counter() - started)
        outcome: Outcome = answer[1]
        return outcome

    def _begin(self, job: Any) -> bool:
        """Whether the child, a new one if there is none, has taken the job."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._connection is not None
        try:
            self._connection.send(job)
        except OSError:
            return False
        return not isinstance(self._receive(None, lambda _: None, self._still()), Outcome)

    def close(self) -> None:
        """Kill the child. May be called from another thread: the job that runs then ends as a failure."""
        self._closed = True
        self._end()

    def _start(self) -> None:
        answer, killed = self._load()
        if killed:  # for want of memory, by a hand: no fault of what it loads, unless it happens again
            answer, _ = self._load()
        if isinstance(answer, Outcome):
            self._end()
            details = f": {answer.details.strip().splitlines()[-1]}" if answer.details.strip() else ""
            if answer.status == "timeout":
                raise WorkerStartError(f"a worker cannot start: {answer.message}")
            raise WorkerStartError(f"a worker ended before its first trial: {answer.message}{details}")
        if answer[0] != "ready":
            self._end()
            raise WorkerStartError(f"a worker cannot start: {answer[1]}")

    def _load(self) -> tuple[tuple[Any, ...] | Outcome, bool]:
        """A new child's first answer, and whether a signal, none of ours, ended it before."""
        self._end()
        with self._lock:
            if self._closed:
                raise WorkerStartError("the worker is closed")
            ours, theirs = socket.socketpair()
            self._output = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
            path = import_path(sys.path)
            start = f"from {__name__} import child; child({theirs.fileno()}, {os.getpid()})"
            code = f"import sys; sys.path[:] = {path!r}; {start}"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
            )
            theirs.close()
            self._connection = Connection(ours.detach())
            with contextlib.suppress(OSError):  # dead already: its answer says so
                self._connection.send_bytes(self.recipe)
            process = self._process
        answer = self._receive(None, lambda _: None, self._still())
        killed = isinstance(answer, Outcome) and answer.status == "error" and (process.returncode or 0) < 0
        return answer, killed

    def _still(self) -> Stillness | None:
        """What watches the child while no trial runs in it; nothing without a limit of time."""
        if self.limits.seconds is None or self._process is None:
            return None
        return Stillness(self._process.pid, max(self.limits.seconds, STILL_S))

    def _receive(
        self, deadline: float | None, report: Report, still: Stillness | None = None
    ) -> tuple[Any, ...] | Outcome:
        """The child's answer, or the outcome if it died or was killed for a limit, or for standing ``still``."""
        connection, process = self._connection, self._process
        assert connection is not None
        assert process is not None
        while True:
            wait = POLL_S if deadline is None else max(0.0, min(POLL_S, deadline - time.monotonic()))
            try:
                if connection.poll(wait):
                    answer = connection.recv()
                    if answer[0] == "waits" and still is not None:
                        still.begin()
                    if answer[0] not in ("report", "waits"):
                        return answer
                    if answer[0] == "waits":
                        continue
                    report(answer[1])
                    continue
            except (EOFError, OSError):
                return self._death(process)
            except Exception as error:  # an answer that does not unpickle here
                return Outcome(None, "error", f"the worker's answer cannot be read: {type(error).__name__}: {error}")
            if deadline is not None and time.monotonic() >= deadline:
                return Outcome(None, "timeout", f"killed after {self.limits.seconds:g} s, the limit of one trial")
            if still is not None and still.too_long():
                where = self._last_line(process)
                return Outcome(None, "timeout", f"it stood still for {still.seconds:g} s while it loaded{where}")
            limit = self.limits.memory_bytes
            if limit is not None and (used := resident_bytes(process.pid)) > limit:
                message = f"killed at {used / 2**20:.0f} MiB of resident memory, the limit is {limit / 2**20:.0f} MiB"
                return Outcome(None, "out_of_memory", message)

    def _last_line(self, process: subprocess.Popen[bytes]) -> str:
        """Where the child stands, in words; the child is ended for that."""
        with contextlib.suppress(OSError):
            process.send_signal(signal.SIGABRT)  # its faulthandler writes the stack
        *_, main = self._death(process).details.split("hread 0x")  # its main thread comes last
        frame = re.search(r'File "(.+)", line (\d+) in (\S+)', main)
        return " (in {2}, {0}, line {1})".format(*frame.groups()) if frame else ""

    def _death(self, process: subprocess.Popen[bytes]) -> Outcome:
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it closed its connection but lives
            process.kill()
            code = process.wait()
        output = self._output
        details = ""
        if output is not None and not output.closed:
            output.seek(max(0, output.seek(0, os.SEEK_END) - 2000))
            details = output.read().decode(errors="replace")
        return Outcome(None, "error", f"the worker process {ending(code)}", details)

    def _end(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            for resource in (self._connection, self._output):
                if resource is not None:
                    with contextlib.suppress(OSError):
                        resource.close()
            self._process = self._connection = self._output = None


class Stillness:
    """Whether a process, with its children, has done nothing for so long: no processor time, nothing read or written.

    A process that loads, compiles or trains its teacher works; one that waits for a lock or a server does not.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        self.pid, self.seconds = pid, seconds
        self._work = 0.0
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._work, self._since = work_of(self.pid), time.monotonic()

    def too_long(self) -> bool:
        now = time.monotonic()
        if now - self._since < 1.0:
            return False
        work = work_of(self.pid)
        if work - self._work > IDLE_SHARE * (now - self._since):
            self._work, self._since = work, now
            return False
        return now - self._since > self.seconds


IDLE_SHARE = 0.02
"""Processor seconds in a second, below which a process only waits: polling a lock takes less, reading takes more."""
READ_BYTES_S = 2**28
"""Bytes that count as one second of work."""


def work_of(pid: int) -> float:
    """Processor seconds of a process and its children, and what they read and wrote in `READ_BYTES_S`; 0 if gone."""
    import psutil

    work = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                work += times.user + times.system
                if hasattr(one, "io_counters"):  # not on macOS
                    io = one.io_counters()
                    work += (getattr(io, "read_chars", 0) + getattr(io, "write_chars", 0)) / READ_BYTES_S
    return work


def import_path(path: Sequence[str]) -> list[str]:
    """Where children import from: ``path`` without scratch folders of Dask that another user may write to.

    Dask puts the folder of its files first, in ``/tmp`` the same for all users of a machine.
    """

    def ours(place: str) -> bool:
        if "dask-scratch-space" not in place:
            return True
        try:
            status = os.stat(place)
        except OSError:
            return False
        return status.st_uid == os.getuid() and not status.st_mode & 0o022

    return [place for place in path if ours(place)]


def pickled(make_handler: Callable[[], Handler]) -> bytes:
    """What `WorkerProcess` starts from. Functions of the main script are taken along by value.

    Raises:
        ValueError: If it cannot be pickled.
    """
    import cloudpickle

    try:
        return cloudpickle.dumps(make_handler)
    except Exception as error:  # PicklingError, TypeError, RecursionError, whatever __reduce__ raises
        raise ValueError(
            f"what the workers are built from cannot be pickled ({error}); "
            "give a function or functools.partial(KDEvaluator, task, ...)"
        ) from error


def ending(code: int) -> str:
    """Words for a process's return code; a signal is named."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (often by the kernel, for want of memory)" if name == "SIGKILL" else "")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process without the files that it maps, which others share; 0 if it is gone."""
    import psutil

    try:
        memory = psutil.Process(pid).memory_info()
        return int(memory.rss - getattr(memory, "shared", 0))
    except psutil.Error:
        return 0


# --- in the child ---------------------------------------------------------------------------------------------------


def child(descriptor: int, parent: int) -> None:
    """Main function of the child: load, then job after job until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    end_with_parent(parent)
    faulthandler.enable()
    keep_freed_memory()
    connection = Connection(descriptor)
    files.waiting = lambda: connection.send(("waits",))
    try:
        handler = pickle.loads(connection.recv_bytes())()
    except Exception as error:
        connection.send(("unusable", f"{type(error).__name__}: {error}"))
        return
    connection.send(("ready",))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(("began",))
        connection.send(("done", attempt(handler, job, lambda message: connection.send(("report", message)))))


def attempt(handler: Handler, job: Any, report: Report) -> Outcome:
    """One job; an exception is a failure like any other."""
    started = time.perf_counter()
    try:
        return Outcome(handler(job, report), seconds=time.perf_counter() - started)
    except Exception as error:
        status = "out_of_memory" if is_out_of_memory(error) else "error"
        message, details = f"{type(error).__name__}: {error}", traceback.format_exc(limit=-5)
        return Outcome(None, status, message, details, time.perf_counter() - started, place_in_own_code(error))


def end_with_parent(parent: int) -> None:
    """Have this process killed when its parent ends, even by kill -9; at once if that has come while it was started."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also if this process hangs in C (Linux)
    if os.getppid() != parent:
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Options of glibc's ``mallopt``."""


def keep_freed_memory() -> None:
    """Keep freed memory in the process: fresh pages for every activation cost DARTS's networks a third more time."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 64 << 20)):
            mallopt(option, value)
