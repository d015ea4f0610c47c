"""The folder of a run: how its files are called, what they say of the run, and the one process that writes them.

A command that writes holds the folder for as long as it may write, from the first trial to the last final student
(`RunFolder.own`); another one is told who that is. Reading takes no lock. Files appear whole or not at all, and lines
are appended and synced, so a kill or a power cut leaves the old or the new state; what it leaves behind besides is
removed by the next owner.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from naslib_autokd.files import foreign_link, is_alive, sync_folder, write_whole
from naslib_autokd.optimizers.base import Optimizer, ReplayMismatch, asks_of_one_worker, replay
from naslib_autokd.records import (
    Ask,
    AskLog,
    Proposal,
    RecordWarning,
    StoreLockedError,
    TrialStore,
    environment,
)
from naslib_autokd.settings import SettingsError, read_yaml_file
from naslib_autokd.tasks import Task

TASK, RUN, TRIALS, ASKS = "task.yaml", "run.yaml", "trials.jsonl", "asks.jsonl"
FINALS, STUDENTS, RESULT = "finals.jsonl", "students", "result.json"
FOUND, UNFINISHED, CPU = "search.json", "search.checkpoint", "cpu.json"
STATUS, LOG, LOCK = "status.json", "search.log", "run.lock"
COMPARISON, TRAININGS, STUDY, STUDY_RUNS = "comparison.json", "results.jsonl", "study.yaml", "runs.jsonl"
RIVALS = "rivals.json"
EXPORT = "export"

BUDGETS = ("n_trials", "student_epochs", "training_seconds", "wall_s", "target_cost")
"""Settings that may change between the sessions of a run."""

log = logging.getLogger("naslib_autokd.search")


Found = TypeVar("Found")


class RunFolderError(ValueError):
    """The run folder belongs to another run (task, space, optimizer or seed), or says nothing that can be used."""


class RunFolder:
    """A run folder that this process holds (`own`), or reads."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.owned = False

    @classmethod
    @contextmanager
    def own(cls, out: str | Path | RunFolder) -> Iterator[RunFolder]:
        """Hold the folder (made if it is missing) inside the block; a `RunFolder` that is held already is given back.

        What killed commands left in it is removed.

        Raises:
            RunFolderError: If ``out`` is a file, or another user has laid links in it.
            StoreLockedError: If another process, or another search of this one, holds it: says who.
        """
        if isinstance(out, RunFolder) and out.owned:
            yield out
            return
        folder = cls(folder_path(out))
        folder.refuse_files()
        new = [place for place in (folder.path, *folder.path.parents) if not place.exists()]
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.refuse_foreign_links()
        with _held(folder.path / LOCK, folder.in_use):
            remove_leftovers(folder.path)
            folder.owned = True
            try:
                yield folder
            finally:
                folder.owned = False
                with contextlib.suppress(OSError):
                    if new and [path.name for path in folder.path.iterdir()] == [LOCK]:  # refused before any work
                        (folder.path / LOCK).unlink()
                        for place in new:
                            place.rmdir()

    def refuse_files(self) -> None:
        """Raise RunFolderError if there is a file in the folder's place."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"--out {self.path} is a file; give a folder")

    def refuse_foreign_links(self) -> None:
        """Raise RunFolderError if writing would follow a link of another user."""
        for path in (self.path, *self.path.iterdir()):
            if foreign_link(path):
                raise RunFolderError(f"{path} is a link of another user; remove it, or give another folder")

    def refuse_if_in_use(self) -> None:
        """Raise StoreLockedError if another process holds the folder now; takes and writes nothing."""
        import filelock

        if self.owned or not (self.path / LOCK).exists():
            return
        try:
            filelock.FileLock(self.path / LOCK, thread_local=False).acquire(timeout=0).lock.release()
        except filelock.Timeout as error:
            raise StoreLockedError(self.in_use()) from error
        except OSError:  # may not be written by us: whoever tries to will be told
            return

    def in_use(self) -> str:
        """Who holds the folder, in words."""
        return in_use(self.path, self.path / LOCK, "wait for it or use another run folder")

    def keep_splits(self, data: Any, teacher: str = "") -> None:
        """Write which image is for what, and the digest of the teacher; or check that it is still so.

        Raises:
            TaskError: If the images or the teacher have changed since.
        """
        from naslib_autokd.data.splits import save_splits  # loads torch

        save_splits(data, self.path, teacher)

    def write(self, name: str, content: str) -> Path:
        """Write a file of the folder, whole or not at all."""
        path = self.path / name
        write_whole(path, content.encode())
        return path

    def keep_found(self, found: Mapping[str, Any], recipe: str) -> None:
        """Write what a one-shot search found (``search.json``); on disk when this returns.

        Args:
            recipe: Digest of everything that the search depends on.
        """
        content = json.loads(json.dumps({**found, "recipe": recipe}))
        self.write(FOUND, json.dumps({**content, "sha256": _digest(content)}, indent=1) + "\n")

    def found(self, recipe: str, restore: Callable[[dict[str, Any]], Found]) -> Found | None:
        """What `keep_found` wrote, as ``restore`` reads it; None if there is nothing.

        A file that is damaged, edited or another search's is passed over with a `RecordWarning`: the search is made
        again, and finds the same.
        """
        path = self.path / FOUND
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("sha256") != _digest(content):
                raise ValueError("it is not what was written")
            if content.pop("recipe") != recipe:
                raise ValueError("it is another search's")
            return restore(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"there is no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
            warnings.warn(f"{path}: {reason}; the search is made again", RecordWarning, stacklevel=2)
            return None


class CheckpointFile:
    """What a one-shot search goes on from, in the folder of its run (``search.checkpoint``).

    Args:
        recipe: Digest of everything that the search depends on.
        written: Called after each writing.
    """

    def __init__(self, folder: RunFolder, recipe: str, written: Callable[[], object] = lambda: None) -> None:
        self._path, self._recipe, self._written = folder.path / UNFINISHED, recipe.encode(), written

    def read(self) -> bytes | None:
        """What was written last; None if there is nothing. One that is damaged or another search's is passed over.

        Then a `RecordWarning` says so.
        """
        try:
            head, _, content = self._path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if head == self._head(content):
            return content
        warnings.warn(f"{self._path} is not what this search has written; it begins anew", RecordWarning, stacklevel=2)
        return None

    def write(self, content: bytes) -> None:
        """Whole or not at all; on disk when this returns."""
        write_whole(self._path, self._head(content) + b"\n" + content)
        self._written()

    def remove(self) -> None:
        """The search is over."""
        self._path.unlink(missing_ok=True)

    def _head(self, content: bytes) -> bytes:
        return hashlib.sha256(self._recipe + content).hexdigest().encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def folder_path(out: str | Path | RunFolder) -> Path:
    return out.path if isinstance(out, RunFolder) else Path(out)


class ReplayError(RuntimeError):
    """The optimizer did not propose the stored trials again, so the run cannot be continued."""


class Records:
    """What a search asked for and was answered, which this process writes; in memory alone without a folder.

    ``with Records(folder) as records``: the files are locked inside.

    Raises:
        CorruptStoreError: If a line that is there cannot be used.
        StoreLockedError: If another process writes them.
    """

    def __init__(self, folder: RunFolder | None) -> None:
        self.trials = TrialStore(None if folder is None else folder.path / TRIALS)
        self.asks = AskLog(None if folder is None else folder.path / ASKS)

    def __enter__(self) -> Records:
        with contextlib.ExitStack() as stack:
            for file in (self.trials, self.asks):
                file.lock()
                stack.callback(file.close)
            self._open = stack.pop_all()
        if old := max(self.trials.n_without_digest, self.asks.n_without_digest):
            warnings.warn(
                f"{old} records of {self.trials.path} or {ASKS} carry no digests (an older version wrote them): "
                "the run goes on with what they say, edited or not",
                RecordWarning,
                stacklevel=2,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def ask(self, proposal: Proposal) -> None:
        """Keep a proposal; on disk when this returns."""
        self.asks.append(Ask.of(proposal, len(self.trials)))

    def replay(self, optimizer: Optimizer) -> list[Proposal]:
        """Bring a fresh optimizer to where the run was; the proposals that were in flight.

        Raises:
            ReplayError: If it does not propose again what is recorded.
        """
        trials = list(self.trials)
        try:
            if len(self.asks) >= sum(trial.number >= 0 for trial in trials):
                return replay(optimizer, trials, list(self.asks))
            in_flight = replay(optimizer, trials)  # a run of before asks were logged, with one worker
            for ask in asks_of_one_worker(trials)[len(self.asks) :]:  # a kill may have come while they were written
                self.asks.append(ask)
            return in_flight
        except ReplayMismatch as error:
            raise ReplayError(f"{self.trials.path}: {error}") from error


@contextmanager
def own_file(path: Path) -> Iterator[None]:
    """Be the one process that makes a file of its own (``--out FILE``), beside which there is a lock meanwhile.

    Raises:
        StoreLockedError: If another process makes it: says who.
    """
    lock = path.with_name(f".{path.name}.lock")
    with _held(lock, lambda: in_use(path, lock, "wait for it or give another file")):
        remove_leftovers(path.parent, f"{path.name}.*.tmp")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _held(lock_file: Path, refusal: Callable[[], str]) -> Iterator[None]:
    import filelock

    lock = filelock.FileLock(lock_file, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise StoreLockedError(refusal()) from error
    try:
        lock_file.write_text(json.dumps(_this_process()), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            os.truncate(lock_file, 0)
        lock.release()


def in_use(what: Path, lock: Path, advice: str) -> str:
    """Who holds a lock, in words."""
    try:
        who = json.loads(lock.read_text(encoding="utf-8"))
        since = time.strftime("%d %b %H:%M", time.localtime(who["since"]))
        text = f": {who['command']}, process {who['pid']} on {who['host']}, since {since}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        text = ""
    return f"{what} is being written by another process{text}; {advice}"


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, on disk when this returns."""
    new = not path.exists()
    with open(path, "ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync_folder(path.parent)


def cut_torn_line(path: Path) -> None:
    """Take an unfinished last line, which a kill leaves, off a file of lines."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def _this_process() -> dict[str, Any]:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]]) if sys.argv and sys.argv[0] else "python"
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "command": command}


def remove_leftovers(folder: Path, pattern: str = "*.tmp") -> None:
    """Remove temporary files and folders of processes that are gone."""
    for where in (folder, folder / STUDENTS, folder / EXPORT, folder / "checkpoints"):
        for path in where.glob(pattern):
            writer = re.search(r"\.(\d+)\.tmp$", path.name)
            if writer is not None and is_alive(int(writer[1])):
                continue
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


# --- what it says of the run ----------------------------------------------------------------------------------------


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file of a run folder; empty if there is no such file.

    Raises:
        RunFolderError: If it is empty, no YAML, or no mapping of names to plain values: says what to do.
    """
    advice = "put back what was there, or give another folder"
    if not path.exists():
        return {}
    try:
        content = read_yaml_file(path).values
    except SettingsError as error:
        raise RunFolderError(f"{error}; {advice}") from error
    if content is None:
        raise RunFolderError(
            f"{path} is empty (a copy that was cut off, a full disk?); delete it, and the same command writes it anew"
        )
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise RunFolderError(f"{path} holds no mapping of names to values; {advice}")
    return content


_SETTINGS: dict[str, tuple[type, ...]] = {
    "optimizer": (str,),
    "options": (dict,),
    "objectives": (list,),
    "space": (str, dict),
    "seed": (int,),
    "start_with_default": (bool,),
    "evaluation": (dict,),
    "n_trials": (int,),
    "student_epochs": (int, float),
    "training_seconds": (int, float),
    "wall_s": (int, float),
    "target_cost": (int, float),
    "planned_epochs": (int, float),
    "environment": (dict,),
    "methods": (list,),
}
"""Types of what ``run.yaml`` may hold; what is not here may be anything."""


def read_json(path: Path) -> dict[str, Any]:
    """A file that is written whole; empty if it is not there.

    Raises:
        RunFolderError: If it is no JSON.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RunFolderError(f"{path} is not valid JSON ({reason}); the command that wrote it makes it anew") from error
    return content if isinstance(content, dict) else {}


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What ``run.yaml`` says; empty if there is none.

    Raises:
        RunFolderError: If it cannot be read, or a value has a type or range that no run has.
    """
    path = Path(folder) / RUN
    content = read_yaml(path)
    for name, types in _SETTINGS.items():
        value = content.get(name)
        if value is None:
            continue
        good = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if good and name in (*BUDGETS, "planned_epochs"):
            good = math.isfinite(value) and value >= 0
        if not good:
            raise RunFolderError(
                f"{path}: {name} cannot be {str(value)[:60]!r}; put back what was there, or give another folder"
            )
    return content


def read_task(folder: str | Path) -> dict[str, Any]:
    """What ``task.yaml`` says; empty if there is none.

    Raises:
        RunFolderError: If it cannot be read or describes no task.
    """
    path = Path(folder) / TASK
    content = read_yaml(path)
    if content:
        try:
            Task.from_dict(content)
        except (ValueError, TypeError, OverflowError) as error:
            raise RunFolderError(f"{path}: {error}; put back what was there, or give another folder") from error
    return content


def check_run(out: str | Path | RunFolder, task: Task, settings: Mapping[str, Any]) -> None:
    """Check, without writing, that ``out`` is new or belongs to this task and these settings.

    The budget may differ: a run can be made longer (`budget_change` tells).

    Raises:
        RunFolderError: With the differences, if the folder holds another run.
        StoreLockedError: If another process holds it.
    """
    folder = out if isinstance(out, RunFolder) else RunFolder(out)
    folder.refuse_files()
    folder.refuse_if_in_use()
    for name, stored, content in (
        (TASK, read_yaml(folder.path / TASK), task.to_dict()),
        (RUN, read_settings(folder.path), dict(settings)),
    ):
        if not stored:
            continue
        differences = [
            text
            for key in sorted({*stored, *content} - {"environment", "planned_epochs", *BUDGETS})
            if not (key == "evaluation" and None in (stored.get(key), content.get(key)))
            for text in _differences(key, stored.get(key), content.get(key))
        ]
        if differences:
            raise RunFolderError(
                f"{folder.path} belongs to another run ({name} differs: {'; '.join(differences)}); "
                "give another --out, or the settings of that run"
            )


def _differences(name: str, there: Any, asked: Any) -> list[str]:
    """In words, of mappings only the keys that differ."""
    if isinstance(there, Mapping) and isinstance(asked, Mapping):
        keys = sorted({*there, *asked}, key=str)
        return [text for key in keys for text in _differences(f"{name}.{key}", there.get(key), asked.get(key))]
    return [] if there == asked else [f"{name}: {there!r} there, {asked!r} asked for"]


def open_run(out: str | Path | RunFolder, task: Task, settings: Mapping[str, Any]) -> Path:
    """Create the run folder, or check that an existing one belongs to this task and these settings (`check_run`).

    Raises:
        RunFolderError: With the differences, if the folder holds another run.
        StoreLockedError: If another process holds it and there is something to write.
    """
    path = folder_path(out)
    check_run(out, task, settings)
    change = budget_change(path, settings)
    if (path / TASK).exists() and (path / RUN).exists() and not change:
        return path
    with RunFolder.own(out) as folder:
        if not (path / TASK).exists():
            folder.write(TASK, task.to_yaml())
        stored = read_settings(path)
        if change:
            log.info("%s", change)
        content = (
            stored | {name: settings[name] for name in BUDGETS if name in settings}
            if stored
            else {**settings, "environment": environment()}
        )
        if content != stored:
            folder.write(RUN, yaml.safe_dump(content, sort_keys=False))
    return path


def budget_change(out: str | Path, settings: Mapping[str, Any]) -> str:
    """How the budget differs from that of the run in ``out``, in words; empty if it does not, or the run is new."""
    stored = read_settings(out)
    changes = [
        f"{name} {stored.get(name)} -> {settings[name]}"
        for name in BUDGETS
        if stored and name in settings and stored.get(name) != settings[name]
    ]
    return f"the budget of {out} is changed: {', '.join(changes)}" if changes else ""
