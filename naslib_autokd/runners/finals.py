"""The final students of a family: several are drawn, trained in full and judged once each; one is kept.

Each is on disk as soon as it is trained: its file in ``students/``, then its line in ``finals.jsonl`` with the digest
of that file (the file holds the digest of its record). Those that are there, whole and of the same family, are never
trained again; one that is missing, damaged or another's is.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd.evaluators.base import HasImages
from naslib_autokd.evaluators.results import FinalResult
from naslib_autokd.files import sync_folder, write_whole
from naslib_autokd.records import RecordWarning, content_digest, derive_seed
from naslib_autokd.runners.run_folder import FINALS, STUDENTS, RunFolder, append_line
from naslib_autokd.runners.session import SearchInterrupted, Session, log

if TYPE_CHECKING:
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.runners.engine import DaskEngine

ATTEMPTS = 2
"""How often a final student is tried whose worker died."""


class FinalsError(RuntimeError):
    """Some final students could not be trained; the others are kept, and the same command tries these again."""


class FinalsFileError(ValueError):
    """A line of ``finals.jsonl`` cannot be used; says which, and what to do."""


@dataclass(frozen=True)
class FinalRecord:
    """A final student as ``finals.jsonl`` has it."""

    index: int
    result: FinalResult
    path: Path
    """Of its file."""
    file_digest: str | None
    """SHA-256 of the file; None in folders of older versions."""

    def line(self) -> str:
        return json.dumps({**self.result.to_dict(), "index": self.index, "file": self.file_digest})

    def problem(self) -> str:
        """What is wrong with the student's file; empty if it is whole and belongs to this record."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            return f"{self.path} cannot be read: {error.strerror}"
        if self.file_digest is not None and hashlib.sha256(content).hexdigest() != self.file_digest:
            return f"{self.path} is not the file that was written: it is damaged, or another student's"
        try:
            metadata = _metadata(content)
            stored = json.loads(metadata["result"])
            digest = json.loads(metadata["record"]) if "record" in metadata else content_digest(stored)
        except (ValueError, KeyError, TypeError, RecursionError, UnicodeDecodeError):
            return f"{self.path} is no student's file"
        record = content_digest(json.loads(json.dumps(self.result.to_dict())))
        if digest != record or content_digest(stored) != record:
            return f"{self.path} belongs to another record than this"
        return ""


def _metadata(content: bytes) -> dict[str, str]:
    """Of the bytes of a safetensors file: eight bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata


@dataclass(frozen=True)
class FinalStudents:
    """Several students of one family (or of one cell), trained in full and judged once each."""

    results: tuple[FinalResult, ...]
    kept: int
    """Index of the student with the best validation accuracy: the one that is shipped."""

    @classmethod
    def of(cls, results: Sequence[FinalResult]) -> FinalStudents:
        return cls(tuple(results), best_final(results))

    @property
    def test_accuracies(self) -> list[float]:
        return [result.test_accuracy for result in self.results if result.test_accuracy is not None]

    @property
    def best(self) -> FinalResult:
        return self.results[self.kept]


def best_final(results: Sequence[FinalResult]) -> int:
    """Index of the student to keep: of those that were trained the best by validation accuracy, the first of equals."""
    return max(range(len(results)), key=lambda i: (is_trained(results[i]), results[i].val_accuracy))


def is_trained(result: FinalResult) -> bool:
    """Whether a student came out of its training with usable weights (one that diverged, or took no step, did not)."""
    return result.status != "diverged" and result.epochs > 0


def train_family(
    evaluator: KDEvaluator,
    candidate: Any,
    *,
    n_students: int,
    seed: int,
    out: str | Path | RunFolder | None = None,
    engine: DaskEngine | None = None,
    stop: Callable[[], bool] | None = None,
) -> FinalStudents:
    """Draw ``n_students`` students from a family, train them in full, judge each once on the test split.

    Args:
        candidate: The family, `SearchResult.candidate`.
        seed: Draws wirings and weights; the search's own is fine, the streams differ.
        out: Run folder, which is held meanwhile: finished students are kept there (``finals.jsonl``, ``students/``)
            and not trained again, unless their files are lost or damaged.
        engine: Trains them side by side on its workers; else they are trained here, one after the other.
        stop: Asked before each student; once true those in training are finished and saved.

    Returns:
        The students' results, and which one is kept: the best by validation accuracy.

    Raises:
        StoreLockedError: If another process holds ``out``.
        FinalsError: If workers failed to train one, twice.
        SearchInterrupted: After ``stop``.
    """
    label = f"{evaluator.task.name}/{candidate.digest}"
    seeds = [derive_seed(seed, "final", index) for index in range(n_students)]
    if engine is not None:
        with ExitStack() as stack:
            finals = _Finals.open(stack, label, n_students, out)
            _train_on_workers(engine, candidate, seeds, label, finals, stop or (lambda: False))
            return finals.result()

    def builder(final_seed: int) -> Callable[[], Any]:
        spec = evaluator.student_spec(candidate, final_seed)
        return lambda: evaluator.build_student(spec, final_seed)

    students = [(builder(final_seed), final_seed) for final_seed in seeds]
    return train_finals(evaluator, students, kd=candidate.kd, label=label, out=out, stop=stop)


def _train_on_workers(
    engine: DaskEngine,
    candidate: Any,
    seeds: Sequence[int],
    label: str,
    finals: _Finals,
    stop: Callable[[], bool],
) -> None:
    failed: dict[int, str] = {}
    for _ in range(ATTEMPTS):
        missing = {index: seeds[index] for index in finals.missing()}
        failed = {}
        for index, outcome in engine.final_students(candidate, missing, label, stop):
            if outcome.status == "success":
                finals.add(index, FinalResult.from_dict(outcome.value["result"]), outcome.value["file"])
            else:
                failed[index] = f"{outcome.status}: {outcome.message}"
                log.warning("final student %d was not trained: %s", index, failed[index])
        finals.check_stop(stop)
        if not failed:
            return
    said = "; ".join(f"final student {index} was not trained ({why})" for index, why in sorted(failed.items()))
    raise FinalsError(
        f"{said}. The {len(finals.done)} others of {len(seeds)} are kept; the same command trains what is missing"
    )


def train_finals(
    evaluator: KDEvaluator,
    students: Sequence[tuple[Callable[[], Any], int]],
    *,
    kd: Any,
    label: str,
    out: str | Path | RunFolder | None = None,
    stop: Callable[[], bool] | None = None,
) -> FinalStudents:
    """The common final protocol: train each ``(build, seed)`` in full, keep the best by validation, test once.

    With ``out`` each finished student is on disk (``finals.jsonl``, ``students/``) before the next one starts, and
    those that are there are not trained again. ``out``, ``stop`` and errors: as of `train_family`.
    """
    with ExitStack() as stack:
        finals = _Finals.open(stack, label, len(students), out)
        for index in finals.missing():
            finals.check_stop(stop)
            build, seed = students[index]
            model, result = evaluator.train_final(build, kd, seed, name=label, what=f"final student {index + 1}")
            result = evaluator.judge(model, result)
            finals.add(index, result, evaluator.student_file(model, result) if finals.folder is not None else b"")
        if finals.folder is not None and isinstance(evaluator, HasImages) and evaluator.data.skipped:
            RunFolder(finals.folder).keep_splits(evaluator.data)  # the test split has been read
        return finals.result()


class _Finals:
    """The final students of one family so far, on disk as well with a folder."""

    def __init__(self, label: str, n_students: int, folder: Path | None, session: Session) -> None:
        self.folder, self.session, self.n_students = folder, session, n_students
        self.done: dict[int, FinalResult] = {}
        if folder is not None:
            self.done = {record.index: record.result for record in _usable(folder, label)}
        self._show()

    @classmethod
    def open(cls, stack: ExitStack, label: str, n_students: int, out: str | Path | RunFolder | None) -> _Finals:
        """Hold the folder and show signs of life in it until ``stack`` is left."""
        if n_students < 1:
            raise ValueError("at least one final student is needed, got none")
        folder = None if out is None else stack.enter_context(RunFolder.own(out)).path
        return cls(label, n_students, folder, stack.enter_context(Session.of_finals(folder)))

    def missing(self) -> list[int]:
        return [index for index in range(self.n_students) if index not in self.done]

    def check_stop(self, stop: Callable[[], bool] | None) -> None:
        """Raise SearchInterrupted if a stop was asked for and something is left to do."""
        if stop is not None and stop() and self.missing():
            n = self.n_students - len(self.missing())
            raise SearchInterrupted(
                f"stopped after {n} of {self.n_students} final students; the same command continues"
            )

    def add(self, index: int, result: FinalResult, file: bytes) -> None:
        """Keep a trained student: on disk when this returns."""
        if self.folder is not None:
            record = FinalRecord(index, result, student_path(self.folder, index), hashlib.sha256(file).hexdigest())
            if not record.path.parent.exists():
                record.path.parent.mkdir()
                sync_folder(self.folder)
            write_whole(record.path, file)
            append_line(self.folder / FINALS, record.line())
        self.done[index] = result
        self._show()

    def _show(self) -> None:
        self.session.update(finals={"done": self.n_students - len(self.missing()), "of": self.n_students})

    def result(self) -> FinalStudents:
        return FinalStudents.of([self.done[index] for index in range(self.n_students)])


def student_path(folder: Path, index: int) -> Path:
    return folder / STUDENTS / f"student-{index}.safetensors"


# --- what is there --------------------------------------------------------------------------------------------------


def read_finals(folder: str | Path) -> list[FinalRecord]:
    """The final students that a folder (or a file like its ``finals.jsonl``) has, by index; their files are not read.

    An unfinished last line is left alone.

    Raises:
        FinalsFileError: If a line cannot be read, has a value that no training has, or a student stands there twice.
    """
    path = Path(folder)
    path = path if path.is_file() else path / FINALS
    records: dict[int, FinalRecord] = {}
    for number, found in _lines(path):
        if isinstance(found, FinalRecord) and found.index in records:
            found = f"final student {found.index} stands here twice"
        if isinstance(found, str):
            raise FinalsFileError(
                f"{path}, line {number}: {found}; run the same command again, which trains this student anew"
            )
        records[found.index] = found
    return [records[index] for index in sorted(records)]


def kept_final(folder: str | Path) -> FinalRecord | None:
    """The final student that a folder keeps (`best_final`); None if there is none yet.

    Raises:
        FinalsFileError: As `read_finals`.
    """
    return kept_of(read_finals(folder))


def kept_of(records: Sequence[FinalRecord]) -> FinalRecord | None:
    """The one of a family's final students that is kept (`best_final`); None without any."""
    return records[best_final([record.result for record in records])] if records else None


def _lines(path: Path) -> Iterator[tuple[int, FinalRecord | str]]:
    """Whole lines of ``finals.jsonl``: ``(number, record or what is wrong with it)``."""
    if not path.exists():
        return
    content = path.read_bytes()
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            yield number, _parse(json.loads(line), path.parent, number - 1)
        except (ValueError, TypeError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            yield number, f"not a final student's record ({' '.join(reason.split())[:200]})"


def _parse(values: Any, folder: Path, position: int) -> FinalRecord:
    if not isinstance(values, Mapping):
        raise ValueError("no JSON object")
    values = dict(values)
    index, digest = values.pop("index", position), values.pop("file", None)
    if type(index) is not int or not 0 <= index < 1_000_000:
        raise ValueError(f"index must be a whole number from 0, got {str(index)[:40]!r}")
    if digest is not None and not isinstance(digest, str):
        raise ValueError(f"file must be a digest, got {str(digest)[:40]!r}")
    return FinalRecord(index, FinalResult.from_dict(values), student_path(folder, index), digest)


def _usable(folder: Path, label: str) -> list[FinalRecord]:
    """The students of ``label`` that are there and whole; what is not is taken out of the file, with a warning."""
    path = folder / FINALS
    if not path.exists():
        return []
    lines = list(_lines(path))
    found = [record for _, record in lines if isinstance(record, FinalRecord)]
    if any(record.result.name != label for record in found):
        # the search went on (a larger budget) and chose another family: the old finals are kept beside the new ones
        os.replace(path, path.with_name(f"finals-{found[0].result.name.replace('/', '-')}.jsonl"))
        sync_folder(folder)
        return []
    usable: dict[int, FinalRecord] = {}
    for number, record in lines:
        if isinstance(record, str):
            problem = record
        elif record.index in usable:
            problem = f"final student {record.index} stands there twice"
        elif not (problem := record.problem()):
            usable[record.index] = record
            continue
        again = "" if isinstance(record, FinalRecord) and record.index in usable else "; it is trained again"
        warnings.warn(f"{path}, line {number}: {problem}{again}", RecordWarning, stacklevel=2)
    content = "".join(record.line() + "\n" for record in usable.values())
    if len(usable) < len(lines) or not path.read_bytes().endswith(b"\n"):
        write_whole(path, content.encode())
    return list(usable.values())
