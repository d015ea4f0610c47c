"""Judging what is shipped, where it will run: a student's file on pictures, in ONNX Runtime.

A run is judged on its own test split, and gives the numbers that it reported; any folder of class folders is decoded by
the preprocessing of training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from naslib_autokd.data.cache import stored_images
from naslib_autokd.data.layout import is_left_behind, pictures_below, role_of
from naslib_autokd.data.load import load_data
from naslib_autokd.data.seen import SeenPictures
from naslib_autokd.data.splits import check_splits
from naslib_autokd.distillation.runtime import (
    OnnxSession,
    Runtime,
    RuntimeUnavailableError,
    runtime_version,
    session_latency_s,
)
from naslib_autokd.evaluators.judgement import calibration, confusion
from naslib_autokd.runners.run_folder import read_task
from naslib_autokd.runners.statistics import calibration_error, wilson_interval
from naslib_autokd.shipping.export import onnx_content
from naslib_autokd.shipping.student_file import (
    kept_student,
    load_student,
    read_student,
    refuse_untrained,
    run_of,
)
from naslib_autokd.tasks import Task, did_you_mean
from naslib_autokd.teachers.names import few

BATCH = 256
"""Images that are judged at a time."""


class JudgeError(ValueError):
    """The file or the pictures cannot be judged; says what to do."""


@dataclass(frozen=True)
class Network:
    """A file that answers with logits."""

    path: Path
    classes: tuple[str, ...]
    input: tuple[int, int, int]
    """Channels, height, width."""
    session: OnnxSession
    stated: dict[str, Any] = field(default_factory=dict)
    """``test_accuracy`` as its training reported it, if the file says so."""
    seen: SeenPictures | None = None
    """What it was trained or chosen on; files of older versions do not say it."""


@dataclass(frozen=True)
class Pictures:
    """What is judged on: uint8 ``(n, channels, height, width)`` and labels, in the order of the network's classes."""

    images: torch.Tensor
    labels: torch.Tensor
    what: str
    """In words."""
    own: bool = False
    """Whether it is the test split of the student's own run."""


@dataclass(frozen=True)
class Verdict:
    """How good a file is on some pictures."""

    file: str
    pictures: str
    own_test_split: bool
    n: int
    accuracy: float
    interval: tuple[float, float]
    """Wilson's, 95%: of the accuracy on other pictures of the same kind."""
    stated_accuracy: float | None
    """What the run reported for its test split; None for other pictures."""
    calibration_error: float
    """Expected calibration error, 15 bins (Guo et al. 2017)."""
    per_class: list[dict[str, Any]]
    """``name``, ``n``, ``right``, ``accuracy`` (of its pictures), ``interval``, ``precision`` (of those called so)."""
    confusion: list[list[int]] | None
    """Rows are true classes; None above 200 classes."""
    calibration: list[dict[str, Any]]
    latency_ms: float
    """Median of a call."""
    latency_of: str
    seen: dict[str, Any] | None = None
    """``share`` of the pictures that the student was trained or chosen on, by pixels: estimated from ``n_told`` of
    them, of which ``n_seen`` are such. None: its file does not say what it has seen, or none could be told."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(file: str | Path, folder: str | Path | None = None, runtime: Runtime | None = None) -> Verdict:
    """Judge a student.

    Args:
        file: A run folder (its kept student), a student's ``.safetensors``, or an ``.onnx`` file of ours.
        folder: Pictures in folders named as the student's classes, or with such folders below one named as a test
            split. Without it, and for the folder that the run learned from, it is the run's test split.
        runtime: Of the latency.

    Raises:
        JudgeError: If the file says too little, or the folder has other classes.
        ExportError: If there is no such student.
    """
    runtime = runtime or Runtime()
    file = Path(file)
    network = open_network(file, runtime)
    run = run_of(file)
    task = None if run is None else Task.from_dict(read_task(run))
    if folder is not None and not (task and task.data_dir and _same(task.data_dir, folder)):
        pictures = read_pictures(Path(folder), network)
    elif run is None or task is None:
        raise JudgeError(f"{file} belongs to no run whose test split could be taken: give a folder of pictures")
    else:
        pictures = own_test_split(run, task, network)
    logits = answers(network, pictures.images)
    if not bool(torch.isfinite(logits).all()):
        raise JudgeError(f"{file} answers with NaN or infinity")
    right = logits.argmax(dim=1) == pictures.labels
    n, n_right = len(right), int(right.sum())
    bins = calibration(logits, pictures.labels)
    return Verdict(
        file=str(network.path),
        pictures=pictures.what,
        own_test_split=pictures.own,
        n=n,
        accuracy=n_right / n,
        interval=wilson_interval(n_right / n, n),
        stated_accuracy=network.stated.get("test_accuracy") if pictures.own else None,
        calibration_error=calibration_error(bins),
        per_class=_per_class(logits.argmax(dim=1), pictures.labels, network.classes),
        confusion=confusion(logits, pictures.labels),
        calibration=bins,
        latency_ms=1e3 * session_latency_s(network.session, network.input),
        latency_of=f"{runtime_version()}, {runtime}",
        seen=_seen(network, pictures),
    )


def _seen(network: Network, pictures: Pictures) -> dict[str, Any] | None:
    if network.seen is None:
        return None
    counts = [network.seen.count(part.numpy()) for part in pictures.images.split(BATCH)]
    n_seen, n_told = (sum(column) for column in zip(*counts, strict=True))
    return {"share": n_seen / n_told, "n_seen": n_seen, "n_told": n_told} if n_told else None


def _per_class(predicted: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for index, name in enumerate(classes):
        own, called = labels == index, predicted == index
        n, right, n_called = int(own.sum()), int((own & called).sum()), int(called.sum())
        found.append(
            {
                "name": name,
                "n": n,
                "right": right,
                "accuracy": right / n if n else None,
                "interval": wilson_interval(right / n, n) if n else None,
                "precision": right / n_called if n_called else None,
            }
        )
    return found


def answers(network: Network, images: torch.Tensor) -> torch.Tensor:
    """Logits ``(n, classes)`` of uint8 images, as a caller of the file would get them."""
    parts = [part.numpy().astype(np.float32) / np.float32(255) for part in images.split(BATCH)]
    return torch.from_numpy(np.concatenate([network.session(part) for part in parts]))


# --- the file -------------------------------------------------------------------------------------------------------


def open_network(file: Path, runtime: Runtime) -> Network:
    """The network of a run folder or a file, in ONNX Runtime.

    Raises:
        JudgeError: If it is an ONNX file that does not say its classes and input as ours do, or a package is missing.
        ExportError: If there is no such student.
    """
    try:
        if file.suffix.lower() == ".onnx":
            return _open_onnx(file, runtime)
        if file.suffix in (".pt2", ".c"):
            kind = "of torch.export" if file.suffix == ".pt2" else "a C file"
            raise JudgeError(f"{file} is {kind}, which is not judged: give the run, its .safetensors or .onnx")
        path = kept_student(file)
        described = read_student(path)
        student = load_student(path)
        refuse_untrained(student, described)
        session = OnnxSession(onnx_content(student, described), runtime)
    except RuntimeUnavailableError as error:
        raise JudgeError(str(error)) from error
    return Network(path, described.classes, described.input, session, described.result, described.seen)


def _open_onnx(file: Path, runtime: Runtime) -> Network:
    if not file.is_file():
        raise JudgeError(f"{file} does not exist")
    try:
        session = OnnxSession(file.read_bytes(), runtime)
    except ValueError as error:
        raise JudgeError(f"{file}: {error}") from error
    try:
        classes = tuple(map(str, json.loads(session.metadata["classes"])))
        _, channels, height, width = json.loads(session.metadata["input"])
        stated = json.loads(session.metadata.get("result", "{}"))
        seen = SeenPictures.from_dict(json.loads(raw)) if (raw := session.metadata.get("seen")) else None
        if json.loads(session.metadata["input_range"]) != [0.0, 1.0]:
            raise ValueError("input_range is not [0, 1]")
    except (KeyError, ValueError, TypeError) as error:
        raise JudgeError(
            f"{file} does not state classes, input, input_range and what it has seen as `naslib-autokd export` writes "
            f"them ({error}): export the student again"
        ) from error
    return Network(file, classes, (channels, height, width), session, stated, seen)


# --- the pictures ---------------------------------------------------------------------------------------------------


def own_test_split(run: Path, task: Task, network: Network) -> Pictures:
    """The test split of a run.

    Raises:
        TaskError: If the images have changed since.
        JudgeError: If the file is of other classes, so of another run.
    """
    data = load_data(task)
    if data.classes != network.classes:
        raise JudgeError(f"{network.path} has other classes than the run {run}: give a folder of pictures")
    check_splits(data, run)
    images, labels = data.read_test()
    return Pictures(images, labels, f"the test split of {run} ({len(labels):,} pictures)", own=True)


def read_pictures(folder: Path, network: Network) -> Pictures:
    """The pictures of a folder, decoded as training did.

    Raises:
        JudgeError: If it has folders that are no class of the network, or none that is.
    """
    root = _class_root(folder, network.classes)
    names: list[str] = []
    labels: list[int] = []
    for index, name in enumerate(network.classes):
        if (root / name).is_dir():
            found, _ = pictures_below(root / name)
            names += [f"{name}/{one}" for one in found]
            labels += [index] * len(found)
    if not names:
        raise JudgeError(f"{root} has no pictures in its class folders")
    channels, height, _ = network.input
    decoded = stored_images([root / name for name in names], height, channels, skip_unreadable=True)
    kept = torch.tensor(labels)[torch.from_numpy(decoded.kept)]
    left_out = f", {len(decoded.skipped)} unreadable left out" if decoded.skipped else ""
    missing = [name for index, name in enumerate(network.classes) if index not in set(labels)]
    without = f", none of {few(missing)}" if missing else ""
    what = f"{root} ({len(kept):,} pictures{left_out}{without})"
    return Pictures(torch.from_numpy(np.array(decoded.images)), kept, what)


def _class_root(folder: Path, classes: Sequence[str]) -> Path:
    """``folder``, or the folder of a test split in it, if its folders are classes."""
    if not folder.is_dir():
        raise JudgeError(f"{folder} is no folder of pictures")
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_left_behind(path.name))
    if not set(inner) & set(classes):
        tests = [name for name in inner if role_of(name) == "test"]
        if len(tests) == 1:
            return _class_root(folder / tests[0], classes)
        some = ", ".join(map(repr, classes[:5])) + (", ..." if len(classes) > 5 else "")
        raise JudgeError(f"{folder} has no folder named as a class of the student ({some})")
    if odd := [name for name in inner if name not in classes]:
        raise JudgeError(
            f"{folder / odd[0]} is no class of the student{did_you_mean(odd[0], classes)}; rename it or take it away"
        )
    return folder


def _same(one: str | Path, other: str | Path) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
