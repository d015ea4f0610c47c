"""A trained student as its file has it, and which file a run keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd.data.prepare_picture import PREPARATION
from naslib_autokd.data.seen import SeenPictures
from naslib_autokd.runners.finals import kept_final
from naslib_autokd.runners.run_folder import FINALS, TASK, TRIALS
from naslib_autokd.search_spaces.hnag.edges import Edge, edge_weights
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec

if TYPE_CHECKING:
    import torch

PREPARATION_FILE = "prepare_picture.py"


class ExportError(ValueError):
    """The run has nothing that can be exported, or a package is missing; says what to do."""


@dataclass(frozen=True)
class StudentFile:
    """A trained student as its file has it."""

    path: Path
    spec: dict[str, Any]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of images with values in [0, 1]."""
    std: tuple[float, ...]
    input: tuple[int, int, int]
    """Channels, height, width."""
    task: str
    result: dict[str, Any]
    """Of its final training (`evaluators.kd.FinalResult`)."""
    preparation: dict[str, str] | None = None
    """How training prepared its pictures; older files do not state it."""
    seen: SeenPictures | None = None
    """The pictures that it was trained or chosen on; likewise."""

    @property
    def warning(self) -> str:
        """What the file that prepares pictures does otherwise than the training of this student; empty if nothing."""
        if self.preparation == PREPARATION:
            return ""
        if self.preparation is None:
            return (
                "this student was trained by a version without a stated preparation: it did not turn pictures by EXIF, "
                f"dropped transparency and kept the upper 8 of 16 bits; {PREPARATION_FILE} differs on such pictures"
            )
        then, now = self.preparation, PREPARATION
        odd = [name for name in {**now, **then} if now.get(name) != then.get(name)]
        return f"this student was trained by a version that prepared pictures in another way: {', '.join(odd)}"


def read_student(path: str | Path) -> StudentFile:
    """The description in a student's file, without its weights.

    Raises:
        ExportError: If the file is missing, no student of ours, or of a space whose students have no spec.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, framework="np") as file:
            raw = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path} cannot be read as a student's safetensors file: {error}") from error
    missing = [key for key in ("spec", "classes", "mean", "std", "input", "task", "result") if key not in raw]
    if missing:
        raise ExportError(f"{path} is no student of a run: its metadata lacks {', '.join(missing)}")
    values = {key: json.loads(text) for key, text in raw.items()}
    if values["spec"] is None or "genotype" in values["spec"]:
        what = (
            "of another search space, whose file cannot say how it is built" if values["spec"] is None else "of cells"
        )
        raise ExportError(f"{path} is a student {what}; students of the HNAG families can be drawn and exported")
    channels, height, width = values["input"]
    try:
        seen = SeenPictures.from_dict(values["seen"]) if "seen" in values else None
    except ValueError as error:
        raise ExportError(f"{path}: its metadata is damaged: {error}") from error
    return StudentFile(
        path=path,
        spec=values["spec"],
        classes=tuple(str(name) for name in values["classes"]),
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        input=(channels, height, width),
        task=values["task"],
        result=values["result"],
        preparation=values.get("preparation"),
        seen=seen,
    )


def load_student(path: str | Path) -> torch.nn.Module:
    """The trained student of a file, in eval mode; takes images normalised with the file's mean and std.

    Raises:
        ExportError: As `read_student`, or if the weights do not belong to the spec.
    """
    from safetensors.torch import load_file

    from naslib_autokd.search_spaces.hnag.student import Student
    from naslib_autokd.search_spaces.hnag.wiring import StudentSpec

    described = read_student(path)
    student = Student(StudentSpec.from_dict(described.spec))
    try:
        student.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ExportError(f"{path}: the weights do not belong to the student that it describes: {error}") from error
    return student.eval()


def run_of(file: str | Path) -> Path | None:
    """The run that a student's file lies in, at most four folders up; the folder itself if it is one."""
    path = Path(file)
    places = [path.absolute().parents[index] for index in range(min(4, len(path.absolute().parents)))]
    return next((place for place in [path, *places] if (place / TASK).is_file()), None)


def kept_student(run: str | Path) -> Path:
    """File of the student that a run keeps: the best of its final students by validation accuracy.

    Raises:
        ExportError: If the run has no final students (yet), or the kept one's file is lost, damaged or another's.
    """
    folder = Path(run)
    if folder.is_file():
        return folder
    if not (folder / FINALS).is_file():
        unfinished = (folder / TRIALS).is_file()
        raise ExportError(
            f"{folder} has no final students"
            + (
                ": its search has not ended, run the same search command again"
                if unfinished
                else "; give the run folder of a finished search, or a student's .safetensors file"
            )
        )
    kept = kept_final(folder)
    if kept is None:
        raise ExportError(f"{folder} has no finished final student yet; run the same search command again")
    if problem := kept.problem():
        raise ExportError(f"{problem}; run the same search command again, which trains this student anew")
    return kept.path


def refuse_untrained(student: torch.nn.Module, described: StudentFile) -> None:
    """Raise ExportError if the student diverged or was never trained, or has a weight that is no finite number."""
    status, epochs = described.result.get("status"), described.result.get("epochs")
    if status == "diverged" or not epochs:
        what = "diverged in its training" if status == "diverged" else "was never trained"
        raise ExportError(f"{described.path}: the student {what}, so there is nothing to ship; search or train again")
    broken = [name for name, tensor in student.state_dict().items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ExportError(
            f"{described.path}: {len(broken)} tensors of the student hold NaN or infinity "
            f"({', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}), so nothing can be shipped; train it again"
        )


def read_trained(run: str | Path) -> tuple[StudentSpec, dict[Edge, float]]:
    """The student that a run keeps, or that of a ``.safetensors`` file, and the weights of its edges after training.

    Raises:
        ExportError: If there is none (yet), or as `read_student`.
    """
    from safetensors import safe_open

    path = kept_student(run)
    spec = StudentSpec.from_dict(read_student(path).spec)
    with safe_open(path, framework="np") as file:
        weights = file.get_tensor("merge_weights") if "merge_weights" in file.keys() else ()  # noqa: SIM118 (no dict)
    return spec, edge_weights(spec, [float(weight) for weight in weights])
