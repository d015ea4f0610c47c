"""What was asked, what came back, and the files that keep both.

`Proposal` is what an optimizer asks for, `Trial` what the evaluator answers. `TrialStore` is the append-only file of
trials, `AskLog` that of proposals; together they hold the exact order of asks and tells, from which a run with any
number of workers is continued (`optimizers.base.replay`). Everything shown later (incumbents, curves, tables) is
computed from these records, never stored beside them. Imports neither torch nor any other heavy package, so that
records can be read anywhere.
"""

from __future__ import annotations

import gc
import hashlib
import heapq
import json
import math
import os
import platform
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import reduce
from itertools import takewhile
from numbers import Integral
from operator import add
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Protocol, Self, TypeVar, Union, runtime_checkable

import filelock
import msgspec

from naslib_autokd._version import __version__
from naslib_autokd.files import sync_folder

STATUSES = ("success", "diverged", "out_of_memory", "timeout", "error", "refused")

FAILURE_COST = 1.0
"""Cost of a trial that failed: the worst possible validation error, finite (smac-safe)."""

_CHUNK_BYTES = 2**16
"""Of a file of records, parsed at once."""
_Record = TypeVar("_Record", "Trial", "Ask")

_OLD_REFUSALS = ("LimitError:", "ParameterBudgetError:")
"""What messages of refused families begin with in records of older versions, where their status is "error"."""

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")

GIVEN = " (given in Python)"
"""Ends the name of a teacher that is an object, in ``run.yaml``: no command can ask for it."""

TIMING_FIELDS = ("sample_s", "build_s", "train_s", "evaluate_s")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the CPU or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


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


@runtime_checkable
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
        for name in ("budget_epochs", "seed", "number"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise ValueError(f"{name} of a proposal must be an integer, got {value!r}")
            object.__setattr__(self, name, int(value))  # records hold no numpy integers
        if self.budget_epochs < 1:
            raise ValueError(f"budget_epochs must be at least 1, got {self.budget_epochs}")


@dataclass(frozen=True, slots=True)
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
    """One of `STATUSES`; ``refused``: no student of the family keeps the limits, and none was trained."""
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
    training_seconds: float | None = None
    """CPU seconds that the training costs by the model (`distillation.training_cost`), the same on every machine; None
    where nobody knows (a table, records of older versions)."""

    def __post_init__(self) -> None:
        if not (self.status in STATUSES and 0 <= self.cost <= 1 and self.budget_epochs >= 1):  # false for NaN, too
            raise ValueError(
                f"status must be one of {', '.join(STATUSES)}, cost in [0, 1] (of a failure {FAILURE_COST}) and "
                f"budget_epochs at least 1, got {self.status!r}, {self.cost} and {self.budget_epochs}"
            )
        for share in (self.val_accuracy, self.train_accuracy, self.teacher_agreement):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"accuracies and agreement must be in [0, 1], got {share}")
        for amount in (self.student_epochs, self.sample_s, self.build_s, self.train_s, self.evaluate_s):
            if not 0 <= amount < math.inf:
                raise ValueError(f"epochs and seconds must be finite and not negative, got {amount}")
        for name in _SIZES:
            count = getattr(self, name)
            if count is not None and not 0 <= count < math.inf:
                raise ValueError(f"sizes and costs must be finite and not negative, got {count}")
        if type(self.curve) is not tuple:
            object.__setattr__(self, "curve", tuple(self.curve))
        if type(self.channels) is not tuple:
            object.__setattr__(self, "channels", tuple(self.channels))

    @classmethod
    def of(cls, proposal: Proposal, **results: Any) -> Trial:
        """The trial that answers ``proposal``, with these further fields."""
        return cls(
            number=proposal.number,
            candidate=proposal.candidate.to_dict(),
            candidate_digest=proposal.candidate.digest,
            budget_epochs=proposal.budget_epochs,
            seed=proposal.seed,
            **results,
        )

    @property
    def succeeded(self) -> bool:
        return self.status == "success"

    @property
    def refused(self) -> bool:
        """Whether it ended before any training, for no student of its family keeps the limits."""
        return self.status == "refused"

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
            ValueError: If a field is unknown (a record of a newer version) or missing, or has a type or a value that
                no trial has.
        """
        return _from_fields(cls, values, "trial", _TRIAL_TYPES)


@dataclass(frozen=True, slots=True)
class Ask:
    """One proposal as it was handed out: one line of ``asks.jsonl``."""

    number: int
    candidate: dict[str, Any]
    """The candidate as plain values (``Candidate.to_dict()``)."""
    candidate_digest: str
    budget_epochs: int
    seed: int
    after: int
    """Trials that the optimizer had been told before this ask: the position in ``trials.jsonl``."""

    @classmethod
    def of(cls, proposal: Proposal, after: int) -> Ask:
        candidate = proposal.candidate
        return cls(proposal.number, candidate.to_dict(), candidate.digest, proposal.budget_epochs, proposal.seed, after)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ask:
        """Inverse of `to_dict`.

        Raises:
            ValueError: If a field is unknown (a record of a newer version) or missing, or has a type or a value that
                no ask has.
        """
        ask = _from_fields(cls, values, "ask", _ASK_TYPES)
        if ask.budget_epochs < 1 or ask.after < 0:
            raise ValueError(f"budget_epochs and after must be at least 1 and 0, got {ask.budget_epochs}, {ask.after}")
        return ask


_NONE, _NUMBER = type(None), (int, float)
_ASK_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("number", "budget_epochs", "seed", "after"), (int,)),
    "candidate": (dict,),
    "candidate_digest": (str,),
}
_TRIAL_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("number", "budget_epochs", "seed"), (int,)),
    **dict.fromkeys(("candidate", "info"), (dict,)),
    **dict.fromkeys(("candidate_digest", "status", "message", "wiring"), (str,)),
    **dict.fromkeys(("cost", "student_epochs", *TIMING_FIELDS), _NUMBER),
    **dict.fromkeys(
        ("val_accuracy", "train_accuracy", "teacher_agreement", "budget_used", "training_seconds"), (*_NUMBER, _NONE)
    ),
    **dict.fromkeys(("wiring_seed", "n_params", "macs", "depth", "train_memory_bytes"), (int, _NONE)),
    **dict.fromkeys(("channels", "curve"), (list, tuple)),
}
"""What the values of a record are; `from_dict` takes nothing else."""
_SHARES = ("cost", "val_accuracy", "train_accuracy", "teacher_agreement")
_SIZES = ("n_params", "budget_used", "macs", "depth", "train_memory_bytes", "training_seconds")
_LEAST = dict.fromkeys((*_SHARES, *_SIZES, "student_epochs", *TIMING_FIELDS, "after"), 0) | {"budget_epochs": 1}
"""The least values, as `Trial` and `Ask` check them; shares are at most 1."""


def _from_fields(
    cls: type[_Record], values: Mapping[str, Any], what: str, types: Mapping[str, tuple[type, ...]]
) -> _Record:
    if not isinstance(values, Mapping):
        raise ValueError(f"no {what}: {str(values)[:40]!r}")
    for name, value in values.items():
        if name in types and type(value) not in types[name]:
            wanted = " or ".join("null" if kind is _NONE else kind.__name__ for kind in types[name])
            raise ValueError(f"{name} must be {wanted}, got {str(value)[:40]!r}")
    for name in ("curve", "channels"):
        numbers = values.get(name, ())
        if not all(type(number) in _NUMBER and -math.inf < number < math.inf for number in numbers):
            raise ValueError(f"{name} must be finite numbers, got {str(numbers)[:60]}")
    try:
        return cls(**values)
    except TypeError as error:
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(
                f"{what} has unknown fields {', '.join(unknown)}: "
                f"it was written by another version of naslib_autokd (this is {__version__})"
            ) from error
        raise ValueError(f"{what} is incomplete: {error}") from error


OBJECTIVES = {
    "error": "validation error, in [0, 1]",
    "params": "parameters",
    "macs": "multiply-adds per image",
    "train_memory": "bytes, peak of a training step",
    "inference_memory": "bytes, peak of a forward pass of one image",
    "latency": "seconds of a call in ONNX Runtime",
}
"""What a search can minimise, and its unit. ``error`` is a trial's ``cost``."""

MEASURED_OBJECTIVES = ("inference_memory", "latency")
"""Those that are measured only when asked for; they are in a trial's ``info``."""


def objective_value(trial: Trial, name: str) -> float | None:
    """The value of an objective of `OBJECTIVES` in a trial; None where it is not known (a failure before it was)."""
    fields_of = {"error": "cost", "params": "n_params", "macs": "macs", "train_memory": "train_memory_bytes"}
    value = getattr(trial, fields_of[name]) if name in fields_of else trial.info.get(name)
    return None if value is None else float(value)


class StoreLockedError(RuntimeError):
    """Another process writes this store."""


class RecordWarning(RuntimeWarning):
    """Something about the records of a run that its owner should know, and that stops nothing."""


class CorruptStoreError(ValueError):
    """A line of the store that is not the last one cannot be read."""


class StoreWriteError(RuntimeError):
    """A record could not be written (disk full, folder gone); what was written before is whole."""


class _Candidate:
    """The field ``candidate`` of records: of one that was read it is text until it is looked at, anew each time.

    Most of a line is its candidate, and few readers look at all of them.
    """

    def __init__(self, slot: Any) -> None:
        self._slot = slot

    def __get__(self, record: Any, owner: Any = None) -> Any:
        value = self._slot.__get__(record, owner)
        return json.loads(value) if type(value) is bytes else value

    def __set__(self, record: Any, value: Any) -> None:
        self._slot.__set__(record, bytes(value) if type(value) is msgspec.Raw else value)


for _kind in (Trial, Ask):
    setattr(_kind, "candidate", _Candidate(vars(_kind)["candidate"]))  # noqa: B010
_SLOTS = {kind: [vars(kind)[name].__set__ for name in kind.__slots__] for kind in (Trial, Ask)}


_LATER: dict[str, tuple[None]] = {"training_seconds": (None,)}
"""Fields that older versions did not write, with what is then in them."""


def _decoder(kind: type[Trial] | type[Ask]) -> msgspec.json.Decoder[list[Any]]:
    """Decodes an array of records as this version writes them: all fields and none else, each as `from_dict` wants it.

    Fields of `_LATER` may be missing.

    It refuses a few that `from_dict` takes (lone surrogates in a message), and takes none that `from_dict` refuses.
    """
    types = _TRIAL_TYPES if kind is Trial else _ASK_TYPES
    line = msgspec.defstruct(
        "Line",
        [(name, _field_type(name, types[name]), *_LATER.get(name, ())) for name in kind.__slots__],
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(list[line])  # type: ignore[valid-type]


def _field_type(name: str, kinds: tuple[type, ...]) -> Any:
    if name == "candidate":
        return msgspec.Raw
    if name == "status":
        return Literal[STATUSES]
    if list in kinds:
        return tuple[int | float, ...]
    if name in _LEAST:
        limits = msgspec.Meta(ge=_LEAST[name], le=1 if name in _SHARES else None)
        kinds = tuple(kind if kind is _NONE else Annotated[kind, limits] for kind in kinds)  # type: ignore[misc]
    return Union[kinds]  # noqa: UP007


_DECODERS = {kind: _decoder(kind) for kind in (Trial, Ask)}


_DIGEST = b',"crc32":"%08x"}\n'
_DIGEST_BYTES = 21


def with_digest(text: str) -> bytes:
    """The line of a file of records for a JSON object: its last field is the CRC-32 of all that is before it."""
    body = text.encode()[:-1]
    return body + _DIGEST % zlib.crc32(body)


def without_digest(line: bytes) -> tuple[bytes, bool]:
    """The JSON object of a line, and whether it had a digest (older versions wrote none).

    Raises:
        ValueError: If the line is not the one that was written.
    """
    body, stated = line[:-_DIGEST_BYTES], line[-_DIGEST_BYTES:]
    if b'"crc32"' not in line[-2 * _DIGEST_BYTES :]:  # also with the spaces that other software writes
        return line, False
    if stated != _DIGEST % zlib.crc32(body):
        raise ValueError("this is not the line that was written, its digest (crc32) does not fit")
    return body + b"}", True


def _is_whole(line: bytes) -> bool:
    return line.endswith(b"\n")


class _RecordFile(ABC, Generic[_Record]):
    """Append-only file of records, one JSON object per line; in memory alone if ``path`` is None.

    Each line ends with its digest (`with_digest`), so that an edited one is noticed whatever it says.

    A record that `append` returned from survives ``kill -9``: the line is written, flushed and synced. The file is
    locked against a second writer from `lock` or the first `append` until `close`. Reading needs no lock, at any
    moment of a running writer: whole lines are read, an unfinished last one is left alone. Whoever takes the lock
    finds the last line unfinished only if its writer was killed, and drops it with a warning.

    Raises:
        CorruptStoreError: If a line other than the last cannot be read (names the line).
        StoreLockedError: In `lock` and the first `append`, if another process writes the file or has written to it
            since it was read.
        StoreWriteError: In `append`, if the file system refuses.
    """

    _kind: type[_Record]

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._records: list[_Record] = []
        self._keys: set[int] = set()
        self.n_without_digest = 0
        """The first lines, of an older version: an edited value that is possible is not noticed there."""
        self._lock: filelock.BaseFileLock | None = None
        self._good_bytes = 0
        self._load()

    @staticmethod
    @abstractmethod
    def _parse(values: Mapping[str, Any], has_digest: bool) -> _Record:
        """A line as a record; without a digest it is of an older version."""

    def _added(self, record: _Record) -> None:
        """Called for each record, in order."""

    def _load(self) -> int:
        """Read the whole lines beyond those that are known; the number of bytes of an unfinished last line."""
        if self.path is None or not self.path.exists():
            return 0
        collecting = gc.isenabled()
        gc.disable()  # nothing here is garbage, and looking for it takes a third of the time
        try:
            with open(self.path, "rb") as file:
                file.seek(self._good_bytes)
                while lines := file.readlines(_CHUNK_BYTES):
                    # a writer goes on meanwhile: what it adds to a torn line would be a line of its own
                    whole = list(takewhile(_is_whole, lines))
                    torn = sum(map(len, lines)) - sum(map(len, whole))
                    for line, (record, has_digest) in zip(whole, self._parse_lines(whole), strict=True):
                        self._keep(record, has_digest)
                        self._good_bytes += len(line)
                    if torn:
                        return torn
        finally:
            if collecting:
                gc.enable()
        return 0

    def _parse_lines(self, lines: Sequence[bytes]) -> Iterator[tuple[_Record, bool]]:
        """The records of whole lines, in order, and whether they have a digest; quicker together than one by one."""
        try:
            yield from self._parse_together(lines)
            return
        except (ValueError, msgspec.MsgspecError, RecursionError):
            pass  # one of them is not as this version writes it
        for line in lines:
            try:
                text, has_digest = without_digest(line)
                record = self._parse(json.loads(text), has_digest)
            except (ValueError, TypeError, RecursionError) as error:
                raise self._corrupt("nested too deeply" if isinstance(error, RecursionError) else str(error)) from error
            yield record, has_digest

    def _parse_together(self, lines: Sequence[bytes]) -> list[tuple[_Record, bool]]:
        texts, have_digests = zip(*map(without_digest, lines), strict=True)
        values = _DECODERS[self._kind].decode(b"[" + b",".join(texts) + b"]")
        objects = all(bytes(line.candidate).startswith(b"{") for line in values)
        if not (objects and all(have_digests) and len(values) == len(lines)):
            raise ValueError("a line of an older version, or no record")
        return [(self._restored(line), True) for line in values]

    def _restored(self, line: msgspec.Struct) -> _Record:
        """The record with these values, which are known to be good."""
        record: _Record = object.__new__(self._kind)
        for set_field, value in zip(_SLOTS[self._kind], msgspec.structs.astuple(line), strict=True):
            set_field(record, value)
        return record

    def _corrupt(self, reason: str) -> CorruptStoreError:
        return CorruptStoreError(
            f"{self.path}, line {len(self._records) + 1}: {' '.join(reason.split())[:300]}; the file was damaged or "
            "edited: put back what was there, or start a new run folder"
        )

    def _keep(self, record: _Record, has_digest: bool) -> None:
        """Take in a record that was read."""
        if not has_digest and self.n_without_digest < len(self._records):
            raise self._corrupt("it has no digest (crc32), the lines before it have")
        self.n_without_digest += not has_digest
        key = hash((record.number, record.candidate_digest, record.budget_epochs, record.seed))
        if key in self._keys:
            raise self._corrupt(f"{type(record).__name__.lower()} {record.number} stands here twice")
        self._keys.add(key)
        self._records.append(record)
        self._added(record)

    def refresh(self) -> int:
        """Read what another process has added since; the number of new records."""
        before = len(self._records)
        self._load()
        return len(self._records) - before

    def lock(self) -> None:
        """Become the one writer, and read what was added since; nothing if that is so already or there is no file.

        Raises:
            StoreLockedError: If another process writes the file.
        """
        if self.path is None or self._lock is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(f"{self.path}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise StoreLockedError(
                f"{self.path} is being written by another process; wait for it or use another run folder"
            ) from error
        self._lock = lock
        try:
            torn = self._load()
        except CorruptStoreError:
            self.close()
            raise
        if torn:
            warnings.warn(
                f"{self.path}: dropped a torn last line of {torn} bytes (the run was killed while writing it)",
                RecordWarning,
                stacklevel=3,
            )
            os.truncate(self.path, self._good_bytes)

    def append(self, record: _Record) -> None:
        """Add a record; on disk when this returns.

        Raises:
            StoreWriteError: If it could not be written; then it is neither in the file nor in memory.
        """
        if self.path is not None:
            if self._lock is None:
                known = len(self._records)
                self.lock()
                if len(self._records) > known:
                    self.close()
                    raise StoreLockedError(
                        f"another process has written {len(self._records) - known} records to {self.path} since it "
                        "was read; they are read now, look at them before writing more"
                    )
            self._write(with_digest(record.to_json()))
        self._records.append(record)
        self._added(record)

    def _write(self, line: bytes) -> None:
        assert self.path is not None
        new = not self.path.exists()
        try:
            with open(self.path, "ab", buffering=0) as file:  # a buffer would be written again when it is closed
                if file.tell() < self._good_bytes:
                    raise OSError(f"it was {self._good_bytes} bytes long and has {file.tell()} now")
                try:
                    file.truncate(self._good_bytes)  # of an earlier write that failed, if anything
                    rest = memoryview(line)
                    while rest:
                        rest = rest[file.write(rest) :]
                    os.fsync(file.fileno())
                except OSError:
                    os.truncate(self.path, self._good_bytes)  # a part of the line may be there
                    raise
            if new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise StoreWriteError(
                f"{self.path} could not be written: {error}. The {len(self._records)} records before are whole and "
                "safe, this one was not recorded; make room and start the run again to continue it"
            ) from error
        self._good_bytes += len(line)

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[_Record]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> _Record:
        return self._records[index]


class AskLog(_RecordFile[Ask]):
    """``asks.jsonl``: every proposal, written before it is handed out, in the order of asking."""

    _kind = Ask

    @staticmethod
    def _parse(values: Mapping[str, Any], has_digest: bool) -> Ask:
        return Ask.from_dict(values)


class TrialStore(_RecordFile[Trial]):
    """``trials.jsonl``: every finished trial, in the order in which the optimizer was told of them."""

    _kind = Trial

    def __init__(self, path: str | Path | None = None) -> None:
        self._student_epochs = self._training_seconds = 0.0
        self._observed = _ObservedIncumbent()
        self._n_observed = 0
        super().__init__(path)

    @staticmethod
    def _parse(values: Mapping[str, Any], has_digest: bool) -> Trial:
        trial = Trial.from_dict(values)
        if not has_digest and trial.status == "error" and trial.message.startswith(_OLD_REFUSALS):
            return replace(trial, status="refused")
        return trial

    def _added(self, record: Trial) -> None:
        self._student_epochs += record.student_epochs
        self._training_seconds += record.training_seconds or 0.0

    @property
    def student_epochs(self) -> float:
        """Student-epochs spent so far, failures included."""
        return self._student_epochs

    @property
    def training_seconds(self) -> float:
        """Modelled CPU seconds of the trials that have any."""
        return self._training_seconds

    def incumbent(self, expected_costs: Mapping[str, float] | None = None) -> Trial | None:
        """A trial of the family that the evidence favours, among those at the largest budget.

        Args:
            expected_costs: Cost expected of each candidate (digest -> cost), from a model that saw all trials
                (AutoKD's posterior mean). Without it the observed mean over a candidate's trials counts, which
                rewards luck: one training decides.

        Returns:
            The best trial of that candidate at the largest budget, or None while no trial has succeeded.
        """
        if expected_costs is not None:
            return incumbent(self._records, expected_costs)
        return self._observe().best

    def trajectory(self) -> list[tuple[float, Trial]]:
        """``(student-epochs spent, observed incumbent)`` each time the observed incumbent changed."""
        return list(self._observe().points)

    def _observe(self) -> _ObservedIncumbent:
        for index in range(self._n_observed, len(self._records)):  # islice would walk there from the first
            self._observed.add(self._records[index])
        self._n_observed = len(self._records)
        return self._observed


class _ObservedIncumbent:
    """`incumbent` of a growing list of trials, without looking at all of them again for each new one."""

    def __init__(self) -> None:
        self.best: Trial | None = None
        self.points: list[tuple[float, Trial]] = []
        self._spent = 0.0
        self._largest = 0
        self._families: dict[str, tuple[int, float, int, Trial]] = {}  # first seen, sum of costs, number, best trial
        self._queue: list[tuple[float, int, str]] = []  # (mean, first seen, digest), outdated entries included

    def add(self, trial: Trial) -> None:
        self._spent += trial.student_epochs
        if not trial.succeeded or trial.budget_epochs < self._largest:
            return
        if trial.budget_epochs > self._largest:
            self._largest = trial.budget_epochs
            self._families, self._queue = {}, []
        digest = trial.candidate_digest
        first, total, n, best = self._families.get(digest, (len(self._families), 0.0, 0, trial))
        total, n, best = total + trial.cost, n + 1, min(best, trial, key=lambda t: t.cost)
        self._families[digest] = (first, total, n, best)
        heapq.heappush(self._queue, (total / n, first, digest))
        while True:
            mean, _, leader = self._queue[0]
            _, total, n, best = self._families[leader]
            if mean == total / n:
                break
            heapq.heappop(self._queue)
        if best is not self.best:
            self.best = best
            self.points.append((self._spent, best))


def full_trainings(trials: Iterable[Trial]) -> list[Trial]:
    """The successful trials at the largest budget at which one succeeded."""
    successes = [trial for trial in trials if trial.succeeded]
    largest = max((trial.budget_epochs for trial in successes), default=0)
    return [trial for trial in successes if trial.budget_epochs == largest]


def incumbent(trials: Iterable[Trial], expected_costs: Mapping[str, float] | None = None) -> Trial | None:
    """See `TrialStore.incumbent`."""
    families: dict[str, list[Trial]] = {}
    for trial in full_trainings(trials):
        families.setdefault(trial.candidate_digest, []).append(trial)
    if not families:
        return None

    def expected(digest: str) -> float:
        if expected_costs is not None and digest in expected_costs:
            return expected_costs[digest]
        costs = [trial.cost for trial in families[digest]]
        return reduce(add, costs) / len(costs)  # one by one as in _ObservedIncumbent: ties must be the same ties

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
