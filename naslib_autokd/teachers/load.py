"""A task's teacher by name, from a file, of your own, or several; checked. The door of this folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from naslib_autokd._version import __version__
from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.training import channels_last, limited_threads
from naslib_autokd.files import cache_place, file_name, locked, write_whole
from naslib_autokd.imports import imported
from naslib_autokd.records import GIVEN, content_digest
from naslib_autokd.settings import did_you_mean
from naslib_autokd.teachers.check import check_teacher
from naslib_autokd.teachers.names import (
    ARCHITECTURES,
    SOURCES,
    ArchitectureName,
    TeacherError,
    few,
    is_file_name,
    other_number_of_classes,
    parse_architecture,
    split_teachers,
)
from naslib_autokd.teachers.networks import (
    InputAdapter,
    NetworkInput,
    build_network,
    published_classes,
    published_weights,
)
from naslib_autokd.teachers.onnx import SUFFIX, OnnxNetwork, read_onnx, write_onnx
from naslib_autokd.teachers.outputs import LogitsOf
from naslib_autokd.teachers.teacher import PIXELS, Ensemble, Teacher
from naslib_autokd.teachers.training import FINE_TUNING, TEACHER_BATCH, TEACHER_TRAINING, train_teacher
from naslib_autokd.teachers.weights import (
    WeightsFile,
    default_input,
    load_weights,
    read_weights,
    stated_classes,
    stated_input,
)

TeacherSource = str | Path | nn.Module | Callable[[], nn.Module] | Sequence[Any]


def load_teacher(
    data: TaskData,
    teacher: TeacherSource | None = None,
    *,
    threads: int = 1,
    report: Callable[[str], None] | None = None,
) -> Teacher:
    """The task's teacher, checked.

    Args:
        teacher: None: the task's own, trained on first use and cached in `cache_folder`. Or:

            - A network by name (`teachers.names`). Ours and the zoo's are trained on the task on first use,
              like its own; torchvision's and timm's come with their published weights.
            - A ``.safetensors`` or ``.pt`` file with a state dict, of the architecture that it states or the task's;
              ``architecture@file`` states another, ``module:function@file`` a network of your own.
            - An ``.onnx`` file, for its soft targets (`teachers.onnx`).
            - ``"module:function"``: called without arguments, returns a module; modules of the working directory count.
            - A `Teacher`, or any module that takes images normalised as the students' are.
            - Several of these, in a list or with commas between: an `Ensemble`.
        threads: CPU threads for checking it.
        report: Told what takes time (training the teacher) and what was taken for granted.

    Raises:
        TeacherError: If it cannot be loaded or would spoil the search (`check_teacher`).
    """
    report = report or (lambda _: None)
    own = teacher is None
    with limited_threads(threads):
        loaded = _cached_teacher(data, report) if teacher is None else as_teacher(teacher, data, report)
        loaded = loaded.to(data.device)
        try:
            check_teacher(loaded, data, thorough=not own)
        finally:
            for note in _notes(loaded):
                report(note)
    return loaded


def as_teacher(teacher: TeacherSource, data: TaskData, report: Callable[[str], None] | None = None) -> Teacher:
    """`load_teacher`'s forms of a user's teacher, unchecked (the members of an ensemble are checked one by one).

    Where it states its classes, its answers come in the task's order.
    """
    return in_order_of_task(_as_teacher(teacher, data, report or (lambda _: None)), data)


def in_order_of_task(teacher: Teacher, data: TaskData) -> Teacher:
    """The teacher whose answers are in the order of the task's classes, by the names that it states.

    Raises:
        TeacherError: If it names other classes; says which.
    """
    own = teacher.info.get("classes")
    if own is None or tuple(own) == data.classes or len(own) != len(data.classes):  # the count is `check_teacher`'s
        return teacher
    own = [str(name) for name in own]
    if unknown := [name for name in own if name not in data.classes]:
        missing = [name for name in data.classes if name not in own]
        raise TeacherError(
            f"the teacher's classes are not those of {data.task.name!r}: it alone has {few(unknown)}, the task alone "
            f"has {few(missing)}; rename the folders (or the teacher's classes) so that they are the same"
        )
    order = tuple(own.index(name) for name in data.classes)
    moved = [
        f"{name} is its output {place}"
        for index, (name, place) in enumerate(zip(data.classes, order, strict=True))
        if index != place
    ]
    note = f"its classes come in another order than the task's; its outputs were reordered by name: {few(moved)}"
    info = {**teacher.info, "classes": list(data.classes), "notes": [*_notes(teacher), note]}
    given = replace(teacher.input_for(data.task), order=order)
    return Teacher.of(teacher.members[0], given, data.task, info)


def _as_teacher(teacher: TeacherSource, data: TaskData, report: Callable[[str], None]) -> Teacher:
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, nn.Module):
        return _of_own(teacher, type(teacher).__name__, data)
    if isinstance(teacher, Sequence) and not isinstance(teacher, str):
        return ensemble([as_teacher(one, data, report) for one in teacher], [str(one) for one in teacher], data)
    if callable(teacher):
        return as_teacher(teacher(), data)
    text = str(teacher).strip()
    if text.endswith(GIVEN):
        raise TeacherError(f"{text!r} is an object, which only Python can give again (KDEvaluator(..., teacher=...))")
    path = Path(text).expanduser()
    if len(several := split_teachers(text)) > 1:
        return as_teacher(several, data, report)
    before, at, weights = text.partition("@")
    if path.suffix.lower() == SUFFIX and (path.is_file() or not at):
        network, given, info = read_onnx(path, data)
        return Teacher.of(network, given, data.task, info)
    if path.is_file() or (is_file_name(text) and (not at or "/" in before)):
        return read_checkpoint(path, data)
    if at and is_file_name(weights):
        return read_checkpoint(Path(weights).expanduser(), data, parse_architecture(before, own=True))
    module, colon, _ = text.partition(":")
    if colon and module not in SOURCES:
        made = _factory(text)()
        if isinstance(made, Teacher):
            return made
        return _of_own(made, text, data)
    try:
        architecture = parse_architecture(text)
    except TeacherError as error:
        if colon or at:
            raise
        raise TeacherError(
            f"teacher {text!r} is neither an existing file nor of the form 'module:function'; {error}"
        ) from error
    return _by_name(architecture, data, report)


def _of_own(network: nn.Module, name: str, data: TaskData) -> Teacher:
    """A network that says nothing of its input: taken to be the task's, and that is said."""
    task_input = NetworkInput(data.mean, data.std, data.task.in_channels, None)
    taken, notes = stated_input({}, task_input, "the task's", data.task)
    return Teacher.of(network, taken, data.task, {"architecture": name, "notes": notes})


def name_of_teacher(teacher: TeacherSource | None) -> str | None:
    """What ``--teacher`` takes for it; of an object its kind and `records.GIVEN`."""
    if teacher is None or isinstance(teacher, str | Path):
        return None if teacher is None else str(teacher)
    if isinstance(teacher, Sequence) and all(isinstance(one, str | Path) for one in teacher):
        return ",".join(map(str, teacher))
    return getattr(teacher, "__qualname__", type(teacher).__name__) + GIVEN


def is_trained_here(teacher: TeacherSource) -> bool:
    """Whether it is a name whose network is trained on the task where it is missing, so that its weights may change."""
    if not isinstance(teacher, str) or is_file_name(teacher):
        return False
    try:
        name = parse_architecture(teacher.strip())
    except (TeacherError, ImportError):
        return False
    return name.source in ("ours", "zoo") and not name.weights


def _factory(text: str) -> Callable[[], nn.Module]:
    try:
        factory = imported(text)
    except ImportError as error:
        module = text.partition(":")[0]
        raise TeacherError(
            f"teacher {error}; {module!r} is no source of networks{did_you_mean(module, SOURCES)}"
        ) from error

    def call() -> nn.Module:
        try:
            made = factory()
        except Exception as error:  # of the user's, too
            raise TeacherError(f"teacher {text!r} cannot be made: {type(error).__name__}: {error}") from error
        if not isinstance(made, nn.Module):
            raise TeacherError(f"teacher {text!r} returned a {type(made).__name__}, not a torch module")
        return made

    return call


def _by_name(architecture: ArchitectureName, data: TaskData, report: Callable[[str], None]) -> Teacher:
    task = data.task
    if not architecture.weights and architecture.source in ("ours", "zoo"):
        return _cached_teacher(replace(data, task=replace(task, teacher=str(architecture))), report)
    n_classes = published_classes(architecture)
    if n_classes != task.n_classes:  # told before anything is fetched
        raise TeacherError(
            f"{architecture.full} is published for {n_classes} classes, {task.name!r} has {task.n_classes}: train it "
            "on the task first (naslib-autokd teacher train --task ... --architecture "
            f"{architecture.full}@{architecture.weights or 'pretrained'} --out FILE.safetensors), then give FILE"
        )
    published = published_weights(architecture)
    network, _ = build_network(architecture, published.input.channels, n_classes)
    load_weights(network, WeightsFile.published(architecture, published.state), architecture, n_classes)
    info: dict[str, Any] = {"architecture": architecture.full}
    if set(published.classes) == set(data.classes):  # else they are named otherwise, and only accuracy can tell
        info["classes"] = list(published.classes)
    return Teacher.of(network, published.input, task, info)


def ensemble(teachers: Sequence[Teacher], names: Sequence[str], data: TaskData) -> Teacher:
    """One teacher of several, each of which is checked.

    Raises:
        TeacherError: If there are none, or one of them is unusable; names it.
    """
    if not teachers:
        raise TeacherError("an ensemble needs at least one teacher")
    adapters: list[nn.Module] = []
    for teacher, name in zip(teachers, names, strict=True):
        try:
            check_teacher(teacher.to(data.device), data, thorough=True)
        except TeacherError as error:
            raise TeacherError(f"{name} in the ensemble: {error}") from error
        if isinstance(teacher.network, InputAdapter | Ensemble):
            adapters.append(teacher.network)
        else:
            adapters.append(
                InputAdapter(teacher.network, replace(teacher.input_for(data.task), size=None)).to(data.device)
            )
    architectures = [str(teacher.info.get("architecture", "?")) for teacher in teachers]
    notes = [f"{name}: {note}" for name, teacher in zip(names, teachers, strict=True) for note in _notes(teacher)]
    info = {"architecture": f"ensemble of {', '.join(architectures)}", "notes": notes}
    return Teacher(Ensemble(adapters), *PIXELS, info)


def _notes(teacher: Teacher) -> list[str]:
    return list(teacher.info.get("notes", ()))


def cached_teacher_path(data: TaskData) -> Path:
    """Where the task's own teacher is kept: the name depends on everything that its training depends on."""
    task = data.task
    recipe = {
        "data": data.digest,
        "architecture": [task.teacher, ARCHITECTURES.get(task.teacher)],
        "epochs": task.teacher_epochs,
        "batch": TEACHER_BATCH,
        "settings": repr(FINE_TUNING if "@" in task.teacher else TEACHER_TRAINING),
        "seed": task.split_seed,
        "mean": data.mean,
    }
    return cache_place("teachers") / f"{file_name(task.name)}-{content_digest(recipe)}.safetensors"


def _cached_teacher(data: TaskData, report: Callable[[str], None]) -> Teacher:
    path = cached_teacher_path(data)
    with contextlib.suppress(OSError):  # said when it is written
        path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):  # workers that start together: one trains, the others wait
        if path.exists():
            try:
                return read_checkpoint(path, data)
            except TeacherError as error:
                report(f"the cached teacher is unusable and is trained again: {error}")
        report(f"training the teacher of {data.task.name!r} (once; kept in {path})")
        teacher = train_teacher(data)
        check_teacher(teacher, data)
        try:
            write_checkpoint(teacher, path, data)
            return read_checkpoint(path, data)  # as later runs do: the memory format of weights changes the rounding
        except OSError as error:
            report(
                f"the trained teacher cannot be kept in {path} ({error.strerror}): this process goes on with it from "
                "memory, others train it again; free room there, or set NASLIB_AUTOKD_CACHE to a folder of yours"
            )
            return teacher


def write_checkpoint(teacher: Teacher, path: str | Path, data: TaskData) -> None:
    """Save as safetensors with all that is needed to use it safely; the file appears whole or not at all.

    A network of an ONNX file is saved as one.

    Raises:
        TeacherError: For an ensemble, whose members are files of their own, or another suffix than the network's.
    """
    if isinstance(teacher.network, Ensemble):
        raise TeacherError("an ensemble is not one file: save its members, and give them with commas between")
    path = Path(path)
    network = teacher.members[0]
    if isinstance(network, LogitsOf):  # what it does is found again by the values, as it was
        network = network.network
    suffix = SUFFIX if isinstance(network, OnnxNetwork) else ".safetensors"
    if path.suffix != suffix:
        raise TeacherError(f"{path}: this teacher is saved as a {suffix} file")
    given = teacher.input_for(data.task)
    order = given.order or tuple(range(len(data.classes)))
    metadata = {
        **{key: value for key, value in teacher.info.items() if key != "notes"},
        "classes": [name for _, name in sorted(zip(order, data.classes, strict=True))],
        "mean": list(given.mean),
        "std": list(given.std),
        "input": [given.channels, given.size, given.size],
        **({} if given.crop == 1 else {"crop": given.crop}),
        **({} if given.interpolation == "bilinear" else {"interpolation": given.interpolation}),
        "task": data.task.name,
        "task_digest": data.task.digest,
        "data_digest": data.digest,
        "naslib_autokd": __version__,
        "torch": torch.__version__,
    }
    if isinstance(network, OnnxNetwork):
        write_onnx(network, {key: value for key, value in metadata.items() if key != "architecture"}, path)
        return
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    content = to_safetensors(tensors, {key: json.dumps(value) for key, value in metadata.items()})
    write_whole(path, content)


def read_checkpoint(path: str | Path, data: TaskData, architecture: ArchitectureName | None = None) -> Teacher:
    """A network with the weights of a file (`weights.read_weights`, `weights.load_weights`); nothing of it is run.

    Args:
        path: ``FILE`` or ``FILE#KEY``.
        architecture: Else the one that the file states, else the task's. What a file does not state of classes is
            taken to be the task's; of normalisation and size, what was published for the architecture (torchvision,
            timm), else the task's. One of the user's own is called, and gets the file's weights.

    Raises:
        TeacherError: If the file is missing, corrupt, of a kind that cannot be read safely, or does not fit.
    """
    task = data.task
    file = read_weights(path)
    stated = str(file.metadata.get("architecture", "")) or task.teacher
    try:
        name = architecture or parse_architecture(stated.partition("@")[0])
    except TeacherError as error:
        if ":" in stated and stated.partition(":")[0] not in SOURCES:
            raise TeacherError(
                f"{path} holds the weights of {stated!r}, which is code of somebody's own, and no file has code run: "
                f"if it is yours, give {stated}@{path}"
            ) from error
        raise TeacherError(f"{path} holds a {stated!r}: {error}; say which one: ARCHITECTURE@{path}") from error
    classes = stated_classes(file.metadata)
    if classes is not None and len(classes) != task.n_classes:
        raise TeacherError(f"{path} was trained for {other_number_of_classes(classes, data.classes, task.name)}")
    given, notes = stated_input(file.metadata, *default_input(name, data), task)
    own = name.source not in SOURCES
    network = _factory(name.full)() if own else build_network(name, given.channels, task.n_classes)[0]
    channels_last(network)
    try:
        fitted = load_weights(network, file, name, task.n_classes)
    except TeacherError as error:
        if architecture is not None or "architecture" in file.metadata:
            raise
        raise TeacherError(
            f"{error}; the file does not state its architecture, and {name.full} is the task's: if it is of another, "
            f"give ARCHITECTURE@{path}, of a network of your own module:function@{path}"
        ) from error
    info: dict[str, Any] = {"architecture": name.full}
    if "val_accuracy" in file.metadata:
        info["val_accuracy"] = file.metadata["val_accuracy"]
    if classes is not None:
        info["classes"] = list(classes)
    if notes := [f"{path}: {note}" for note in (*file.notes, *fitted, *notes)]:
        info["notes"] = notes
    return Teacher.of(network, given, task, info)
