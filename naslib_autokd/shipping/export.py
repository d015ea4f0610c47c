"""The student, shipped: the kept student of a run as ONNX, C, torch.export or safetensors file, with a model card.

Exported networks take images as ``float32 (N, C, H, W)`` with values in [0, 1] (what torchvision's ``ToTensor``
gives) and answer with logits ``(N, classes)``: the normalisation is inside, so that nobody can get it wrong. A file is
called done only after its outputs were compared with the module's, at two batch sizes. Beside it lies
`prepare_picture.py`, a copy of the file with which training reads its pictures.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd._version import __version__
from naslib_autokd.data import prepare_picture
from naslib_autokd.data.prepare_picture import PREPARATION
from naslib_autokd.files import write_whole
from naslib_autokd.runners.run_folder import RunFolder, read_task, remove_leftovers
from naslib_autokd.shipping.card import model_card
from naslib_autokd.shipping.student_file import (
    PREPARATION_FILE,
    ExportError,
    StudentFile,
    kept_student,
    load_student,
    read_student,
    refuse_untrained,
    run_of,
)
from naslib_autokd.tasks import Task, did_you_mean

if TYPE_CHECKING:
    import torch

    from naslib_autokd.distillation.runtime import Session
    from naslib_autokd.shipping.c_file import CSession
    from naslib_autokd.shipping.int8 import Int8Report

FORMATS = {"onnx": ".onnx", "c": ".c", "torch-export": ".pt2", "safetensors": ".safetensors"}

TOLERANCE = 1e-4
"""Largest difference of a logit from the module's, relative to the largest logit (float32 kernels differ)."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    path: Path
    card: Path
    preparation: Path
    """The file that makes the network's input of pictures."""
    difference: float
    """Largest difference of a logit from the module's, relative to the largest logit; 0 for safetensors."""
    warning: str = ""
    """What the preparation does otherwise than this student's training."""
    latency_ms: tuple[float, ...] = ()
    """Of an ONNX or C file here, on one thread, with `distillation.runtime.BATCHES` images."""
    int8: Int8Report | None = None


def export(
    run: str | Path,
    format: str = "onnx",
    out: str | Path | None = None,
    *,
    opset: int | None = None,
    ir_version: int | None = None,
    int8: bool = False,
    int8_fine_tune: int | None = None,
    max_drop: float | None = None,
    device: str | None = None,
    threads: int | None = None,
    command: str = "",
    report: Callable[[str], None] | None = None,
) -> Exported:
    """Write the kept student of a run; beside it a model card, and the file that prepares pictures for it.

    Args:
        run: Run folder of a search, or the ``.safetensors`` file of one student.
        format: ``onnx``, ``c`` (one file of C99, `c_file`), ``torch-export`` (a ``.pt2`` file: load it only from whom
            you trust) or ``safetensors`` (the weights and the description; loading it needs this package).
        out: File to write; default ``RUN/export/student.onnx`` and so on. The card is ``model_card.md`` beside it.
        opset: Of an ONNX file's operations; the default is `distillation.runtime.OPSET`.
        ir_version: Of an ONNX file's format; the default is `distillation.runtime.IR_VERSION`.
        int8: Write an ONNX file in 8 bits (`int8`), calibrated on training pictures and measured on the validation
            split, both of the student's run; default ``RUN/export/student-int8.onnx``.
        int8_fine_tune: Epochs that the student is trained on in 8 bits (`quantisation_aware`), on the run's training
            split by its own loss; what is better on the validation split is kept.
        max_drop: Points of validation accuracy that 8 bits may cost; the default is `int8.MAX_DROP`.
        device: Of that training; the default is ``cpu``.
        threads: Of that training; the default is 1.
        command: That made the run, for the card.
        report: Told how that training gets on.

    Raises:
        ExportError: Before any work, if there is no such student, it was never trained or diverged, or a package is
            missing; at the end, if the exported network's outputs differ from the student's, or 8 bits cost more than
            ``max_drop`` (nothing is written then).
        StoreLockedError: If the file goes into the run folder, which another process writes.
        TeacherError: With ``int8_fine_tune``, if the run's teacher is not what it was.
    """
    import torch

    from naslib_autokd.shipping.c_file import CSession

    check_request(format, opset, ir_version, int8, max_drop, int8_fine_tune)
    described = read_student(kept_student(run))
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    name = f"student{'-int8' if int8 else ''}{FORMATS[format]}"
    path = Path(out) if out is not None else folder / "export" / name
    if path.suffix != FORMATS[format]:
        raise ExportError(f"--out {path} must end in {FORMATS[format]} for the format {format}")
    student = load_student(described.path)
    refuse_untrained(student, described)
    latency: tuple[float, ...] = ()
    in_int8: Int8Report | None = None
    with ExitStack() as stack:
        if out is None and Path(run).is_dir():
            stack.enter_context(RunFolder.own(run))
        stack.enter_context(torch.no_grad())
        new = stack.enter_context(_scratch(path)) / path.name
        difference, compiled = 0.0, None
        if format == "safetensors":
            new.write_bytes(described.path.read_bytes())
        else:
            if format == "onnx":
                new.write_bytes(onnx_content(student, described, opset=opset, ir_version=ir_version))
            elif format == "c":
                new.write_bytes(c_content(student, described))
            else:
                _write_torch_export(student, described, new)
            compiled = CSession(new) if format == "c" else None
            difference = compare(student, described, new, compiled)
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"the exported network differs from the student by {difference:.2g} of the largest logit (allowed "
                    f"{TOLERANCE:g}); nothing was written"
                )
        if format == "onnx":
            from naslib_autokd.distillation.runtime import latencies_ms

            if int8:
                plain = onnx_content(student, described, opset=opset, ir_version=ir_version, fill=False)
                training = {"device": device or "cpu", "threads": threads or 1, "report": report}
                content, in_int8 = in_8_bits(
                    new.read_bytes(), plain, described, max_drop, int8_fine_tune or 0, **training
                )
                new.write_bytes(content)
            latency = in_int8.int8_ms if in_int8 else latencies_ms(new.read_bytes(), described.input)
        elif compiled is not None:
            latency = c_latencies_ms(compiled, described)
        write_whole(path, new.read_bytes())
        card = path.with_name("model_card.md")
        write_whole(card, model_card(described, folder, path, difference, command, latency, in_int8).encode())
        preparation = path.with_name(PREPARATION_FILE)
        write_whole(preparation, Path(prepare_picture.__file__).read_bytes())
    return Exported(path, card, preparation, difference, described.warning, latency, in_int8)


def in_8_bits(
    float_file: bytes,
    plain_file: bytes,
    described: StudentFile,
    max_drop: float | None = None,
    fine_tune_epochs: int = 0,
    **training: Any,
) -> tuple[bytes, Int8Report]:
    """A student's file in 8 bits, and what that costs.

    Args:
        float_file: What 8 bits are compared with.
        plain_file: What is made of 8 bits: the same without added channels.
        fine_tune_epochs: Of a training in 8 bits, whose weights are kept if they are better on the validation split.
        training: Of it, for `members.evaluator_of`.

    Raises:
        ExportError: If the student's run is not there, the opset is older than 8 bits need, or accuracy falls by more
            than ``max_drop`` points.
    """
    import onnx

    from naslib_autokd.data.load import load_data
    from naslib_autokd.data.splits import check_splits
    from naslib_autokd.shipping import int8
    from naslib_autokd.shipping.members import evaluator_of
    from naslib_autokd.shipping.quantisation_aware import fine_tuned

    run = run_of(described.path)
    if run is None:
        raise ExportError(f"{described.path} lies in no run: 8 bits need the pictures that it was trained on")
    if (opset := onnx.load_from_string(plain_file).opset_import[0].version) < int8.OLDEST_OPSET:
        raise ExportError(f"8 bits with a scale for each channel need opset {int8.OLDEST_OPSET} or newer, got {opset}")
    evaluator = evaluator_of(run, **training) if fine_tune_epochs else None
    data = load_data(Task.from_dict(read_task(run))) if evaluator is None else evaluator.data
    check_splits(data, run)
    allowed = int8.MAX_DROP if max_drop is None else max_drop
    content = int8.quantised(plain_file, int8.as_input(data.train_images[: int8.N_CALIBRATION]))
    report = int8.report(float_file, content, data, described.input, allowed)
    if evaluator is not None:
        tuned = fine_tuned(plain_file, content, described, evaluator, fine_tune_epochs, training.get("report"))
        after = None if tuned is None else int8.report(float_file, tuned, data, described.input, allowed)
        accuracy = None if after is None else after.int8_accuracy
        tried = int8.FineTuning(fine_tune_epochs, report.int8_accuracy, accuracy)
        if tuned is not None and after is not None and tried.kept:
            content, report = tuned, after
        report = replace(report, fine_tuning=tried)
    if report.drop > allowed:
        hints = "; ".join(hint for hint in (report.warning, report.advice) if hint)
        raise ExportError(
            f"8 bits cost {report.drop:.2f} points, more than --max-drop {allowed:g}: {report.sentence()}; nothing was "
            f"written. Export it without --int8, or allow more{f' ({hints})' if hints else ''}"
        )
    return int8.with_test_accuracy(report, content, data)


def check_request(
    format: str,
    opset: int | None = None,
    ir_version: int | None = None,
    int8: bool = False,
    max_drop: float | None = None,
    int8_fine_tune: int | None = None,
) -> None:
    """Raise ExportError if `export` has no such format, its settings do not go together, or a package is missing."""
    if format not in FORMATS:
        raise ExportError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}")
    if format != "onnx" and (opset is not None or ir_version is not None):
        raise ExportError(f"the format {format} has no opset and no IR version: these are of ONNX files")
    if max_drop is not None and not int8:
        raise ExportError("max_drop is of int8: without it nothing is lost")
    if int8_fine_tune is not None and not int8:
        raise ExportError("int8_fine_tune is of int8: without it nothing is trained")
    if int8_fine_tune is not None and int8_fine_tune < 1:
        raise ExportError(f"int8_fine_tune must be at least 1 epoch, got {int8_fine_tune}")
    if int8 and format != "onnx":
        raise ExportError(f"8 bits are of ONNX files, got the format {format}")
    if format == "onnx":
        require_onnx()
    if format == "c":
        from naslib_autokd.search_spaces.hnag.execution import c_compiler

        try:
            c_compiler()
        except FileNotFoundError as error:
            raise ExportError(f"{error}: the format c needs one here, which checks the file; install gcc") from error


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` for what the exporters write, gone afterwards; those of killed exports go too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    folder = path.with_name(f"{path.name}.scratch.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_onnx() -> None:
    """Raise ExportError if a package that ONNX files need is not installed."""
    from naslib_autokd.distillation.runtime import RuntimeUnavailableError, require_packages

    try:
        require_packages()
    except RuntimeUnavailableError as error:
        raise ExportError(str(error)) from error


def compare(student: torch.nn.Module, described: StudentFile, path: Path, compiled: CSession | None = None) -> float:
    """Largest difference of the file's logits from the student's, relative to the largest, over two batch sizes.

    Args:
        compiled: The file, if it is C.
    """
    import torch

    from naslib_autokd.distillation.runtime import Normalised

    network = Normalised(student, described.mean, described.std)
    if compiled is not None:
        run = _of_tensors(compiled)
    else:
        run = onnx_runner(path) if path.suffix == ".onnx" else torch_export_runner(path)
    rng = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in (1, 7):
        images = torch.rand(batch, *described.input, generator=rng)
        expected, got = network(images), run(images)
        if got.shape != expected.shape:
            return float("inf")
        difference = float((got - expected).abs().max() / expected.abs().max())
        if not math.isfinite(difference):  # max() would pass over NaN
            return float("inf")
        worst = max(worst, difference)
    return worst


def _write_torch_export(student: torch.nn.Module, described: StudentFile, path: Path) -> None:
    import torch

    from naslib_autokd.distillation.runtime import Normalised, exported_program, quiet_exporters

    extra = {"metadata.json": json.dumps(_metadata(described))}
    program = exported_program(Normalised(student, described.mean, described.std).eval(), described.input)
    with quiet_exporters():
        torch.export.save(program, path, extra_files=extra)


def onnx_content(
    student: torch.nn.Module,
    described: StudentFile,
    *,
    opset: int | None = None,
    ir_version: int | None = None,
    fill: bool = True,
) -> bytes:
    """A student as an ONNX file (`distillation.runtime.onnx_file`).

    Raises:
        ExportError: If onnx is not installed, or has no such opset or version.
    """
    from naslib_autokd.distillation import runtime

    try:
        return runtime.onnx_file(
            student,
            described.input,
            described.mean,
            described.std,
            opset=runtime.OPSET if opset is None else opset,
            ir_version=runtime.IR_VERSION if ir_version is None else ir_version,
            fill=fill,
            metadata=_metadata(described),
        )
    except (ValueError, runtime.RuntimeUnavailableError) as error:
        raise ExportError(str(error)) from error


def c_content(student: torch.nn.Module, described: StudentFile) -> bytes:
    """A student as one file of C (`c_file`).

    Raises:
        ExportError: If it has an operation that C files do not know.
    """
    from naslib_autokd.search_spaces.hnag.student import Student
    from naslib_autokd.shipping.c_file import c_file

    assert isinstance(student, Student)
    accuracy = described.result.get("test_accuracy")
    about = (
        f"A student for {described.task}: {described.result['n_params']:,} parameters"
        + (f", {100 * accuracy:.1f} % of the test split right" if accuracy is not None else "")
        + f". Written by naslib_autokd {__version__}.\n{PREPARATION_FILE} makes its images of picture files."
    )
    return c_file(student, described.input, described.mean, described.std, classes=described.classes, about=about)


def c_latencies_ms(session: CSession, described: StudentFile) -> tuple[float, ...]:
    """Of a C file, as `distillation.runtime.latencies_ms`."""
    from naslib_autokd.distillation.runtime import BATCHES, Runtime, session_latency_s

    found = []
    for batch in BATCHES:
        session.runtime = Runtime(batch=batch)
        found.append(1e3 * session_latency_s(session, described.input))
    return tuple(found)


def _metadata(described: StudentFile) -> dict[str, Any]:
    return {
        "classes": list(described.classes),
        "input": ["batch", *described.input],
        "input_range": [0.0, 1.0],
        "preparation": PREPARATION,
        "mean": list(described.mean),
        "std": list(described.std),
        "task": described.task,
        **({} if described.seen is None else {"seen": described.seen.to_dict()}),
        "result": {name: described.result.get(name) for name in ("val_accuracy", "test_accuracy")},
        "made_by": f"naslib_autokd {__version__}",
    }


def onnx_runner(path: Path) -> Any:
    """An ONNX file as a function of tensors."""
    from naslib_autokd.distillation.runtime import OnnxSession

    return _of_tensors(OnnxSession(path.read_bytes()))


def _of_tensors(session: Session) -> Any:
    import torch

    return lambda images: torch.from_numpy(session(images.numpy()))


def torch_export_runner(path: Path) -> Any:
    """A ``.pt2`` file as a function of tensors; only for our own, written a moment ago."""
    import torch

    return torch.export.load(path).module()
