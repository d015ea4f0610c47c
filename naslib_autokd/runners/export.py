"""The student, shipped: the kept student of a run as ONNX, torch.export or safetensors file, with a model card.

Exported networks take images as ``float32 (N, C, H, W)`` with values in [0, 1] (what torchvision's ``ToTensor``
gives) and answer with logits ``(N, classes)``: the normalisation is inside, so that nobody can get it wrong. A file is
called done only after its outputs were compared with the module's, at two batch sizes. Beside it lies
`prepare_picture.py`, a copy of the file with which training reads its pictures.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd._version import __version__
from naslib_autokd.data import prepare_picture
from naslib_autokd.data.prepare_picture import PREPARATION
from naslib_autokd.escaping import code, markdown
from naslib_autokd.evaluators.results import FinalResult
from naslib_autokd.files import write_whole
from naslib_autokd.runners.finals import kept_final
from naslib_autokd.runners.run_folder import FINALS, RESULT, TRIALS, RunFolder, read_settings, remove_leftovers
from naslib_autokd.runners.statistics import SHARE, mean_interval
from naslib_autokd.tasks import did_you_mean

if TYPE_CHECKING:
    import torch

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}

PREPARATION_FILE = "prepare_picture.py"

TOLERANCE = 1e-4
"""Largest difference of a logit from the module's, relative to the largest logit (float32 kernels differ)."""


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
    if values["spec"] is None:
        raise ExportError(
            f"{path} is a student of another search space, whose file cannot say how it is built; "
            "students of the HNAG families can be exported"
        )
    channels, height, width = values["input"]
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


def export(run: str | Path, format: str = "onnx", out: str | Path | None = None, *, command: str = "") -> Exported:
    """Write the kept student of a run; beside it a model card, and the file that prepares pictures for it.

    Args:
        run: Run folder of a search, or the ``.safetensors`` file of one student.
        format: ``onnx``, ``torch-export`` (a ``.pt2`` file: load it only from whom you trust) or ``safetensors`` (the
            weights and the description; loading it needs this package).
        out: File to write; default ``RUN/export/student.onnx`` and so on. The card is ``model_card.md`` beside it.

    Raises:
        ExportError: Before any work, if there is no such student, it was never trained or diverged, or a package is
            missing; at the end, if the exported network's outputs differ from the student's (nothing is written then).
        StoreLockedError: If the file goes into the run folder, which another process writes.
    """
    import torch

    if format not in FORMATS:
        raise ExportError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}")
    if format == "onnx":
        _require_onnx()
    described = read_student(kept_student(run))
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    path = Path(out) if out is not None else folder / "export" / f"student{FORMATS[format]}"
    if path.suffix != FORMATS[format]:
        raise ExportError(f"--out {path} must end in {FORMATS[format]} for the format {format}")
    student = load_student(described.path)
    refuse_untrained(student, described)
    network = with_normalisation(student, described)
    with ExitStack() as stack:
        if out is None and Path(run).is_dir():
            stack.enter_context(RunFolder.own(run))
        stack.enter_context(torch.no_grad())
        new = stack.enter_context(_scratch(path)) / path.name
        difference = 0.0
        if format == "safetensors":
            new.write_bytes(described.path.read_bytes())
        else:
            (_write_onnx if format == "onnx" else _write_torch_export)(network, described, new)
            difference = compare(network, described, new)
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"the exported network differs from the student by {difference:.2g} of the largest logit (allowed "
                    f"{TOLERANCE:g}); nothing was written"
                )
        write_whole(path, new.read_bytes())
        card = path.with_name("model_card.md")
        write_whole(card, model_card(described, folder, path, difference, command).encode())
        preparation = path.with_name(PREPARATION_FILE)
        write_whole(preparation, Path(prepare_picture.__file__).read_bytes())
    return Exported(path, card, preparation, difference, described.warning)


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


def compare(network: torch.nn.Module, described: StudentFile, path: Path) -> float:
    """Largest difference of the file's logits from the network's, relative to the largest, over two batch sizes."""
    import torch

    run = _onnx_runner(path) if path.suffix == ".onnx" else _torch_export_runner(path)
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


def with_normalisation(student: torch.nn.Module, described: StudentFile) -> torch.nn.Module:
    """The student behind the normalisation of its images, in eval mode."""
    import torch
    from torch import Tensor, nn

    class WithNormalisation(nn.Module):
        """``student((images - mean) / std)`` for images with values in [0, 1]."""

        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.student = student
            self.register_buffer("mean", torch.tensor(described.mean).view(-1, 1, 1))
            self.register_buffer("std", torch.tensor(described.std).view(-1, 1, 1))

        def forward(self, images: Tensor) -> Any:
            return self.student((images - self.mean) / self.std)

    return WithNormalisation().eval()


def _require_onnx() -> None:
    import importlib.util

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"ONNX needs {', '.join(missing)}: pip install 'naslib_autokd[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporters warn of their own internals and log each step."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _example(described: StudentFile) -> Any:
    import torch

    return torch.rand(2, *described.input, generator=torch.Generator().manual_seed(1))


def _exported_program(network: torch.nn.Module, described: StudentFile) -> Any:
    import torch

    with _quiet():
        return torch.export.export(
            network, (_example(described),), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
        )


def _write_torch_export(network: torch.nn.Module, described: StudentFile, path: Path) -> None:
    import torch

    extra = {"metadata.json": json.dumps(_metadata(described))}
    with _quiet():
        torch.export.save(_exported_program(network, described), path, extra_files=extra)


def _write_onnx(network: torch.nn.Module, described: StudentFile, path: Path) -> None:
    import onnx
    import torch

    with _quiet():
        program = torch.onnx.export(
            _exported_program(network, described),
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto  # type: ignore[union-attr]
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in _metadata(described).items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _metadata(described: StudentFile) -> dict[str, Any]:
    return {
        "classes": list(described.classes),
        "input": ["batch", *described.input],
        "input_range": [0.0, 1.0],
        "preparation": PREPARATION,
        "mean": list(described.mean),
        "std": list(described.std),
        "task": described.task,
        "made_by": f"naslib_autokd {__version__}",
    }


def _onnx_runner(path: Path) -> Any:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _torch_export_runner(path: Path) -> Any:
    import torch

    return torch.export.load(path).module()  # our own file, written a moment ago


def model_card(described: StudentFile, folder: Path, exported: Path, difference: float, command: str = "") -> str:
    """What a user of the file has to know, as Markdown: what it does, how good it is, how to run and to remake it."""
    from naslib_autokd.search_spaces.hnag.wiring import StudentSpec

    run, result = read_settings(folder), described.result
    report = _report(folder / RESULT)
    teacher = report.get("teacher", {})
    finals = report.get("finals", [])
    environment: Mapping[str, Any] = run.get("environment", {})
    lines = [
        f"# Student for {markdown(described.task)}",
        "",
        f"A student of {result['n_params']:,} parameters and {result['macs'] / 1e6:.2f} million multiply-adds per "
        "image, found by searching for a family of students that learn well from a teacher (AutoKD, arXiv 2111.03555) "
        f"with naslib_autokd {__version__}.",
        "",
        "## Use",
        "",
        f"File: {code(exported.name)}. Input: float32 images `(batch, {', '.join(map(str, described.input))})` with "
        "values in [0, 1]; the normalisation is inside."
        if exported.suffix != ".safetensors"
        else f"File: {code(exported.name)}: weights and description; `naslib_autokd.load_student` builds the network. "
        f"Input: float32 images `(batch, {', '.join(map(str, described.input))})`, with values in [0, 1] normalised by "
        f"mean {list(described.mean)} and standard deviation {list(described.std)}.",
        f"Output: logits `(batch, {len(described.classes)})`.",
        "",
        f"Pictures become such images by `{PREPARATION_FILE}`, which needs Pillow and numpy alone: "
        f"`network_input(paths, size={described.input[1]}, channels={described.input[0]})`"
        + (", minus mean, divided by the deviation." if exported.suffix == ".safetensors" else ".")
        + " Training read its pictures in the same way. Another way (a plain resize to the input's size, say) costs "
        "accuracy. In words:",
        "",
        *(f"- {name.replace('_', ' ')}: {text}" for name, text in PREPARATION.items()),
        "",
        *([f"Beware: {markdown(described.warning)}.", ""] if described.warning else []),
        f"Classes, in the order of the logits: {', '.join(map(code, described.classes))}.",
        "",
        "## Results",
        "",
        "| | test accuracy | parameters | MACs | training memory |",
        "|---|---|---|---|---|",
        _row("this student", result),
    ]
    if teacher:
        lines.append(_row("teacher", teacher))
    lines.append("")
    if len(finals) > 1:
        interval = mean_interval([final["test_accuracy"] for final in finals], bounds=SHARE)
        lines += [
            f"{len(finals)} students of the same family, trained in full: test accuracy {interval.percent()} % "
            "(mean and 95% interval). This one was kept by its validation accuracy "
            f"({100 * result['val_accuracy']:.1f} %); the test split was read once, after that.",
            "",
        ]
    if result.get("test_agreement") is not None:
        lines += [
            f"It names the same class as the teacher on {100 * result['test_agreement']:.1f} % of the test images."
        ]
    if exported.suffix != ".safetensors":
        lines += [
            f"Outputs of this file were compared with the trained module's: they differ by {difference:.1e} of "
            "the largest logit."
        ]
    kd = (
        "labels alone"
        if result["temperature"] is None
        else (
            f"temperature {result['temperature']:.3g}, weight of the teacher {result['kd_weight']:.3g} "
            "(Hinton et al. 2015)"
        )
    )
    lines += [
        "",
        "## How it was made",
        "",
        f"- Distillation: {kd}; {result['epochs']:g} epochs, seed {result['seed']}.",
        f"- Family: {code(json.dumps(report['candidate']) if report else result['name'])}",
        f"- Wiring {StudentSpec.from_dict(described.spec).wiring.digest}, stage channels {described.spec['channels']}: "
        f"in full in the metadata of {code(f'students/{described.path.name}')}.",
    ]
    if run:
        lines.append(
            f"- Search: optimizer {markdown(run.get('optimizer'))}, seed {markdown(run.get('seed'))}, "
            f"{markdown(report.get('n_trials', '?'))} trials, {markdown(report.get('student_epochs', '?'))} "
            f"student-epochs. {f'Again: {code(command)}.' if command else 'Its settings: `run.yaml`, `task.yaml`.'}"
        )
        versions = ", ".join(f"{name} {value}" for name, value in environment.items() if isinstance(value, str))
        lines.append(f"- Environment: {markdown(versions)}.")
    lines += [
        "",
        "## Limits",
        "",
        "Trained and tested on images of this task alone; nothing is known of its behaviour on others.",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, result: Mapping[str, Any]) -> str:
    test = result.get("test_accuracy")
    accuracy = "not measured" if test is None else f"{100 * test:.1f} %"
    return (
        f"| {name} | {accuracy} | {result['n_params']:,} | {result['macs']:,} | "
        f"{result['train_memory_bytes'] / 2**20:.1f} MiB |"
    )


def _report(path: Path) -> dict[str, Any]:
    """What ``result.json`` says; empty if it is not there or cannot be read, for the card can do without."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for result in (content["teacher"], *content["finals"]):
            if result and FinalResult.from_dict(result).test_accuracy is None:
                return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    return content if isinstance(content.get("candidate"), dict) else {}
