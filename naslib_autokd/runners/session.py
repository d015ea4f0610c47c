"""What a search shows to other shells while it runs, and how it is stopped from outside.

A running search keeps two files in its run folder: ``search.log`` (what happened, one line each) and ``status.json``
(the process, its running trials or final students, a sign of life every few seconds). Neither is needed to continue
the run, whatever they hold: `read_status` takes everything else from the records.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from naslib_autokd.records import Proposal, Trial, TrialStore
from naslib_autokd.runners.run_folder import BUDGETS, FINALS, LOG, RESULT, RUN, STATUS, TRIALS, log
from naslib_autokd.runners.tally import fraction_spent

HEARTBEAT_S = 5.0
"""Between two signs of life of a running search."""
SILENT_S = 60.0
"""A search on another machine without a sign of life for so long is taken for dead."""

log.addHandler(logging.NullHandler())


class SearchInterrupted(KeyboardInterrupt):
    """The search was asked to stop and has finished and saved what ran."""


class Session:
    """One process working on a run folder; without a folder it only keeps the time.

    ``with Session(folder, budget) as session``: the state becomes ``finished``, ``interrupted`` or ``failed`` at the
    end. A disk that is full is the store's affair: what fails here is passed over.
    """

    def __init__(self, folder: Path | None, budget: Mapping[str, Any], *, counts: bool = True) -> None:
        self.folder, self._counts = folder, counts
        self._started = time.monotonic()
        self._before = 0.0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._state: dict[str, Any] = {
            "state": "running",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
            "budget": dict(budget),
            "in_flight": [],
            "stop_reason": "",
            "message": "",
        }
        self._handler: logging.Handler | None = None

    @classmethod
    def of_finals(cls, folder: Path | None) -> Session:
        """The training of final students: after a search, whose budget and seconds stay as they are."""
        said = {} if folder is None else read_said(folder)
        session = cls(folder, said["budget"] if said else {}, counts=False)
        session._state.update({key: said[key] for key in ("stop_reason", "extra_student_epochs") if key in said})
        return session

    @property
    def elapsed_s(self) -> float:
        """Seconds that processes worked on the search of this run, earlier ones included."""
        return self._before + (time.monotonic() - self._started if self._counts else 0.0)

    def __enter__(self) -> Session:
        if self.folder is None:
            return self
        self._before = read_said(self.folder)["elapsed_s"]
        with contextlib.suppress(OSError):
            self._handler = _QuietFileHandler(self.folder / LOG, encoding="utf-8")
            self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            log.addHandler(self._handler)
            log.setLevel(logging.INFO)
        self._write()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._end.set()
        if kind is None:
            state = "finished"
        elif issubclass(kind, KeyboardInterrupt):
            state = "interrupted"
            log.warning("interrupted; the same command continues")
        else:
            state = "failed"
            log.error("%s: %s", kind.__name__, error)
        self.update(state=state, message=str(error or ""), in_flight=[])
        if self._handler is not None:
            log.removeHandler(self._handler)
            self._handler.close()

    def update(self, **values: Any) -> None:
        """Change what ``status.json`` says."""
        with self._lock:
            self._state.update(values)
        self._write()

    def show_running(self, running: Iterable[tuple[Proposal, float]], extra_student_epochs: float) -> None:
        """Say which proposals run, and since when, and what the optimizer has spent beside the trials."""
        in_flight = [
            {"number": proposal.number, "budget_epochs": proposal.budget_epochs, "since": since}
            for proposal, since in running
        ]
        self.update(in_flight=in_flight, extra_student_epochs=extra_student_epochs)

    @staticmethod
    def tell_of(trial: Trial) -> None:
        """A line of the log for a finished trial."""
        said = f"cost {trial.cost:.4f}" if trial.succeeded else f"{trial.status}: {trial.message}"
        level = logging.INFO if trial.succeeded else logging.WARNING
        about = (trial.number, trial.candidate_digest, trial.budget_epochs, trial.total_s, said)
        log.log(level, "trial %d, %s, %d epochs, %.1f s: %s", *about)

    def _beat(self) -> None:
        while not self._end.wait(HEARTBEAT_S):
            self._write()

    def _write(self) -> None:
        if self.folder is None:
            return
        with self._lock, contextlib.suppress(OSError):
            path = self.folder / STATUS
            temporary = path.with_name(f"{STATUS}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps({**self._state, "elapsed_s": self.elapsed_s}), encoding="utf-8")
            os.replace(temporary, path)


class _QuietFileHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A log that cannot be written must not end a search."""


def read_said(folder: Path) -> dict[str, Any]:
    """What ``status.json`` says; values that no session writes are passed over, for nothing depends on the file."""
    try:
        content = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = {}
    said = content if isinstance(content, dict) else {}
    budget = said.get("budget")
    finals = said.get("finals")
    return {
        "state": said.get("state") if said.get("state") in STATES else "stopped",
        "pid": said.get("pid") if isinstance(said.get("pid"), int) else 0,
        "host": said.get("host"),
        "budget": {
            name: value
            for name, value in (budget.items() if isinstance(budget, dict) else ())
            if name in BUDGETS and (value is None or _is_number(value))
        },
        "in_flight": [
            {key: each[key] for key in ("number", "budget_epochs", "since")}
            for each in (said["in_flight"] if isinstance(said.get("in_flight"), list) else ())
            if isinstance(each, dict) and all(_is_number(each.get(k), -1) for k in ("number", "budget_epochs", "since"))
        ],
        "finals": finals if isinstance(finals, dict) and all(_is_number(finals.get(k)) for k in ("done", "of")) else {},
        **{key: said[key] if isinstance(said.get(key), str) else "" for key in ("stop_reason", "message")},
        **{
            key: float(said[key]) if _is_number(said.get(key)) else 0.0 for key in ("elapsed_s", "extra_student_epochs")
        },
    }


STATES = ("running", "finished", "interrupted", "failed", "stopped")


def _is_number(value: Any, least: float = 0.0) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= 1e15


class StopSignals:
    """Ctrl-C (SIGINT) and SIGTERM: the first asks to finish what runs, the second stops at once.

    ``with StopSignals() as stop: search(..., stop=stop)``. Outside the main thread signals are left alone.

    Args:
        running: What is finished and saved, for the message.
    """

    def __init__(self, running: str = "the running trials are") -> None:
        self._running = running
        self._count = 0
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self._count > 0

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, _: Any) -> None:
        self._count += 1
        if self._count > 1:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        # os.write: print is not safe inside a handler
        text = f"\n{name}: {self._running} finished and saved; once more stops at once\n"
        with contextlib.suppress(OSError):
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands, live, dead or finished."""

    folder: str
    state: str
    """``running``, ``finished``, ``interrupted``, ``failed``, or ``stopped`` (its process is gone without a word)."""
    n_trials: int
    """Of the budget: without refused families."""
    failures: dict[str, int]
    """Failed trials by status, and refused families."""
    in_flight: tuple[dict[str, Any], ...]
    """Trials that run now: ``number``, ``budget_epochs``, ``since`` (seconds since 1970)."""
    best_val_accuracy: float | None
    best_candidate: str
    """Digest of the observed incumbent: the family with the best mean of its full trainings."""
    answer: str
    """Digest of the family that the search chose in the end, by the optimizer's evidence; empty before."""
    student_epochs: float
    training_seconds: float
    """Modelled CPU seconds of its trainings; 0 where nobody knows them."""
    budget: dict[str, Any]
    fraction: float
    elapsed_s: float
    expected_s: float | None
    """Until the end, while it runs and enough is known."""
    finals: int
    """Final students that are trained."""
    finals_of: int | None
    """Of so many; None before their training has begun."""
    stop_reason: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        of = ", ".join(f"{name} {value:g}" for name, value in self.budget.items() if value is not None)
        lines = [f"{self.folder}: {self.state}" + (f" ({self.stop_reason})" if self.stop_reason else "")]
        if self.message:
            lines.append(f"  {' '.join(self.message.split())}")
        best = "none yet" if self.best_val_accuracy is None else f"{100 * self.best_val_accuracy:.1f}%"
        spent = f"{self.n_trials} trials, {self.student_epochs:g} student-epochs"
        if self.budget.get("training_seconds"):
            spent += f", {self.training_seconds:.3g} modelled s of training"
        lines.append(f"  {spent}; budget: {of or 'unknown'}")
        lines.append(f"  best validation {best}" + (f", family {self.best_candidate}" if self.best_candidate else ""))
        if self.answer:
            same = self.answer == self.best_candidate
            why = "which the optimizer's evidence from all trials favours: single trainings can be lucky"
            lines.append(f"  answer: {'this family' if same else f'family {self.answer}, {why}'}")
        if self.failures:
            counts = ", ".join(f"{count} {status}" for status, count in sorted(self.failures.items()))
            lines.append(f"  failures: {counts}")
        if self.in_flight:
            now = time.time()
            running = ", ".join(
                f"{t['number']} ({t['budget_epochs']} epochs, {duration(now - t['since'])})" for t in self.in_flight
            )
            lines.append(f"  running: {running}")
        if self.finals_of:
            lines.append(f"  {self.finals} of {self.finals_of} final students trained")
        end = f", about {duration(self.expected_s)} to go" if self.expected_s is not None else ""
        lines.append(f"  {100 * self.fraction:.0f}% of the budget after {duration(self.elapsed_s)}{end}")
        return lines


def read_status(folder: str | Path, store: TrialStore | None = None) -> RunStatus:
    """Read where a run stands; takes no lock and writes nothing, so it may be called at any time.

    Args:
        store: Its trials, if they have been read.

    Raises:
        ValueError: If ``folder`` holds no run.
    """
    folder = Path(folder)
    if not any((folder / name).exists() for name in (RUN, TRIALS, STATUS)):
        raise ValueError(f"{folder} holds no run (neither {RUN} nor {TRIALS})")
    said = read_said(folder)
    store = TrialStore(folder / TRIALS) if store is None else store
    state = said["state"]
    if state == "running" and not _alive(folder, said):
        state = "stopped"
    best = store.incumbent()
    elapsed, budget = said["elapsed_s"], said["budget"]
    spent = store.student_epochs + said["extra_student_epochs"]
    failures = Counter(trial.status for trial in store if not trial.succeeded)
    n_trials = len(store) - failures["refused"]
    fraction = fraction_spent(
        budget, n_trials=n_trials, student_epochs=spent, training_seconds=store.training_seconds, wall_s=elapsed
    )
    running = state == "running"
    finals = (folder / FINALS).read_bytes().count(b"\n") if (folder / FINALS).is_file() else 0
    of = said["finals"].get("of")
    return RunStatus(
        folder=str(folder),
        state=state,
        n_trials=n_trials,
        failures=dict(failures),
        in_flight=tuple(said["in_flight"]) if running else (),
        best_val_accuracy=None if best is None else best.val_accuracy,
        best_candidate="" if best is None else best.candidate_digest,
        answer=_answer(folder) if state == "finished" else "",
        student_epochs=spent,
        training_seconds=store.training_seconds,
        budget=budget,
        fraction=fraction,
        elapsed_s=elapsed,
        expected_s=elapsed * (1 - fraction) / fraction if running and fraction and not of else None,
        finals=finals,
        finals_of=int(of) if of else None,
        stop_reason=said["stop_reason"],
        message=said["message"],
    )


def _answer(folder: Path) -> str:
    """The digest in ``result.json``; empty before it is written, or if it cannot be read."""
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))["candidate_digest"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""


def _alive(folder: Path, said: Mapping[str, Any]) -> bool:
    if said.get("host") == socket.gethostname():
        try:
            if said["pid"] <= 0:
                return False
            os.kill(said["pid"], 0)
        except PermissionError:
            return True
        except (OSError, OverflowError):
            return False
        # the number may belong to another process by now, which does not write here
    try:
        return time.time() - (folder / STATUS).stat().st_mtime < SILENT_S
    except OSError:
        return False


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h`` or ``2.1 d``."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if unit < 3600 else f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86_400:.1f} d"
