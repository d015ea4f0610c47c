"""What was asked, what came back, and the file that keeps it.

`Proposal` is what an optimizer asks for, `Trial` what the evaluator answers, `TrialStore` the append-only file of
trials. Everything shown later (incumbents, curves, tables) is computed from these records, never stored beside them.
Imports neither torch nor any other heavy package, so that records can be read anywhere.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import filelock

from naslib_autokd._version import __version__

STATUSES = ("success", "diverged", "out_of_memory", "timeout", "error")

FAILURE_COST = 1.0
"""Cost of a trial that failed: the worst possible validation error, finite (smac-safe)."""

TIMING_FIELDS = ("sample_s", "build_s", "train_s", "evaluate_s")


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed that depends on all ``parts``, the same on every machine and Python version.

    Independent streams get different words: ``derive_seed(run_seed, "trial", 17)``.
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def content_digest(content: Any) -> str:
    """Twelve hexadecimal digits of the JSON of ``content`` (keys sorted), the same on every machine."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class CandidateLike(Protocol):
    """What a search space proposes: plain data with a digest (HNAG's is `search_spaces.hnag.Candidate`)."""

    @property
    def digest(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Proposal:
    """One evaluation that an optimizer asks for."""

    candidate: CandidateLike
    budget_epochs: int
    """Epochs of student training, at least 1."""
    seed: int
    """Draws the wiring (``derive_seed(seed, "wiring")``) and the weights (``derive_seed(seed, "weights")``)."""
    number: int
    """Position in the run, from 0."""

    def __post_init__(self) -> None:
        if self.budget_epochs < 1:
            raise ValueError(f"budget_epochs must be at least 1, got {self.budget_epochs}")


@dataclass(frozen=True)
class Trial:
    """One evaluation of (candidate, seed, budget), successful or not: one line of ``trials.jsonl``.

    Accuracies are fractions in [0, 1]; times are seconds and end in ``_s``; MACs are per image and count a
    multiply-add once. Two runs with the same seed agree in everything but the times (`outcome`).
    """

    number: int
    candidate: dict[str, Any]
    """The candidate as plain values (``Candidate.to_dict()``)."""
    candidate_digest: str
    budget_epochs: int
    seed: int
    status: str = "success"
    """One of `STATUSES`."""
    cost: float = FAILURE_COST
    """What is minimised: ``1 - val_accuracy``; `FAILURE_COST` for a failure. Always finite."""
    message: str = ""
    """Why it failed; empty for a success."""
    val_accuracy: float | None = None
    train_accuracy: float | None = None
    teacher_agreement: float | None = None
    """Share of validation images on which student and teacher name the same class."""
    student_epochs: float = 0.0
    """Epochs actually trained: what the trial is charged in a comparison."""
    wiring: str = ""
    """Digest of the wiring that was drawn."""
    wiring_seed: int | None = None
    channels: tuple[int, ...] = ()
    """Channels of the three stages."""
    n_params: int | None = None
    budget_used: float | None = None
    """``n_params / max_params`` of the task."""
    macs: int | None = None
    depth: int | None = None
    train_memory_bytes: int | None = None
    """Peak of live tensor bytes during one training step (parameters, gradients and optimizer state included)."""
    sample_s: float = 0.0
    build_s: float = 0.0
    train_s: float = 0.0
    evaluate_s: float = 0.0
    curve: tuple[float, ...] = ()
    """Mean training loss of each epoch, in nats."""
    info: dict[str, Any] = field(default_factory=dict)
    """Anything else that JSON can hold (device, versions, rung)."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")
        if not math.isfinite(self.cost):
            raise ValueError(f"cost must be finite, got {self.cost}; a failed trial costs {FAILURE_COST}")
        object.__setattr__(self, "curve", tuple(self.curve))
        object.__setattr__(self, "channels", tuple(self.channels))

    @property
    def succeeded(self) -> bool:
        return self.status == "success"

    @property
    def total_s(self) -> float:
        return self.sample_s + self.build_s + self.train_s + self.evaluate_s

    def outcome(self) -> dict[str, Any]:
        """Everything but the times: equal, bit for bit, for two runs with the same seed on the same machine."""
        return {name: value for name, value in self.to_dict().items() if name not in TIMING_FIELDS}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """Inverse of `to_dict`.

        Raises:
            ValueError: If a field is unknown (a record of a newer version) or missing.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"trial has unknown fields {', '.join(unknown)}: "
                f"it was written by another version of naslib_autokd (this is {__version__})"
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"trial is incomplete: {error}") from error


class StoreLockedError(RuntimeError):
    """Another process writes this store."""


class CorruptStoreError(ValueError):
    """A line of the store that is not the last one cannot be read."""


class TrialStore:
    """Append-only file of trials, one JSON object per line; in memory alone if ``path`` is None.

    A trial that `append` returned from survives ``kill -9``: the line is written, flushed and synced. A torn last
    line (a kill in the middle of a write) is dropped at load with a warning. The file is locked against a second
    writer from the first `append` until `close`; reading needs no lock.

    Raises:
        CorruptStoreError: If a line other than the last cannot be read (names the line).
        StoreLockedError: At the first `append`, if another process writes the same file.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._trials: list[Trial] = []
        self._lock: filelock.BaseFileLock | None = None
        self._good_bytes = 0
        if self.path is not None and self.path.exists():
            self._load()

    def _load(self) -> None:
        assert self.path is not None
        content = self.path.read_bytes()
        lines = content.split(b"\n")
        complete, last = lines[:-1], lines[-1]
        for number, line in enumerate(complete, start=1):
            try:
                self._trials.append(Trial.from_dict(json.loads(line)))
            except ValueError as error:
                raise CorruptStoreError(f"{self.path}, line {number}: {error}") from error
        self._good_bytes = len(content) - len(last)
        if last:
            warnings.warn(
                f"{self.path}: dropped a torn last line of {len(last)} bytes (the run was killed while writing it)",
                RuntimeWarning,
                stacklevel=3,
            )

    def _acquire(self) -> None:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            self._lock = None
            raise StoreLockedError(
                f"{self.path} is being written by another process; wait for it or use another run folder"
            ) from error
        if self.path.exists() and self.path.stat().st_size > self._good_bytes:
            with open(self.path, "r+b") as file:  # drop the torn line before the next one is glued to it
                file.truncate(self._good_bytes)

    def append(self, trial: Trial) -> None:
        """Add a trial; on disk when this returns."""
        if self.path is not None:
            if self._lock is None:
                self._acquire()
            line = trial.to_json().encode() + b"\n"
            with open(self.path, "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._good_bytes += len(line)
        self._trials.append(trial)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> TrialStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, index: int) -> Trial:
        return self._trials[index]

    @property
    def student_epochs(self) -> float:
        """Student-epochs spent so far, failures included."""
        return sum(trial.student_epochs for trial in self._trials)

    def incumbent(self, expected_costs: Mapping[str, float] | None = None) -> Trial | None:
        """A trial of the family that the evidence favours, among those at the largest budget.

        Args:
            expected_costs: Cost expected of each candidate (digest -> cost), from a model that saw all trials
                (AutoKD's posterior mean). Without it the observed mean over a candidate's trials counts, which
                rewards luck: one training decides.

        Returns:
            The best trial of that candidate at the largest budget, or None while no trial has succeeded.
        """
        return incumbent(self._trials, expected_costs)

    def trajectory(self) -> list[tuple[float, Trial]]:
        """``(student-epochs spent, observed incumbent)`` each time the observed incumbent changed."""
        points: list[tuple[float, Trial]] = []
        spent = 0.0
        for index, trial in enumerate(self._trials, start=1):
            spent += trial.student_epochs
            best = incumbent(self._trials[:index])
            if best is not None and (not points or points[-1][1] is not best):
                points.append((spent, best))
        return points


def incumbent(trials: Iterable[Trial], expected_costs: Mapping[str, float] | None = None) -> Trial | None:
    """See `TrialStore.incumbent`."""
    successes = [trial for trial in trials if trial.succeeded]
    if not successes:
        return None
    largest = max(trial.budget_epochs for trial in successes)
    families: dict[str, list[Trial]] = {}
    for trial in successes:
        if trial.budget_epochs == largest:
            families.setdefault(trial.candidate_digest, []).append(trial)

    def expected(digest: str) -> float:
        if expected_costs is not None and digest in expected_costs:
            return expected_costs[digest]
        return sum(trial.cost for trial in families[digest]) / len(families[digest])

    best = min(families, key=expected)
    return min(families[best], key=lambda trial: trial.cost)


def environment() -> dict[str, str]:
    """Versions and hardware of this process, for ``run.yaml``; packages are looked up, not imported."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"naslib_autokd": __version__, "python": platform.python_version()}
    for package in ("torch", "smac", "ConfigSpace", "networkx", "numpy", "scikit-learn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    return versions | {"platform": platform.platform(), "processor": _processor(), "cpus": str(os.cpu_count())}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
