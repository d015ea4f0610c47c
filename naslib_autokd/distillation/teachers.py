"""Frozen teachers: by name, from a file, of your own, or several; checked on labelled images; and their soft targets.

A teacher takes uint8 images and brings its own input (normalisation, size, channels), so it cannot be fed images on
the wrong scale by accident. `check_teacher` catches what would silently spoil a search: untrained weights, permuted
classes, another scale. Checkpoints are loaded strictly and never unpickled: safetensors, or
``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from naslib_autokd._version import __version__
from naslib_autokd.distillation.architectures import (
    ARCHITECTURES,
    SOURCES,
    ArchitectureName,
    InputAdapter,
    NetworkInput,
    SmallResNet,
    TeacherError,
    build_network,
    is_file_name,
    parse_architecture,
    published_classes,
    published_input,
    published_weights,
    read_state,
)
from naslib_autokd.distillation.data import TaskData, normalise, write_whole
from naslib_autokd.distillation.training import TrainingSettings, accuracy, limited_threads, predict, seeded, train
from naslib_autokd.records import content_digest, derive_seed
from naslib_autokd.tasks import Task

__all__ = [
    "ARCHITECTURES",
    "SmallResNet",
    "SoftTargets",
    "Teacher",
    "TeacherError",
    "as_teacher",
    "cache_folder",
    "cached_teacher_path",
    "check_teacher",
    "load_teacher",
    "read_checkpoint",
    "soft_targets_path",
    "train_teacher",
    "write_checkpoint",
    "write_whole",
]

STATED_TOLERANCE = 0.03
"""How far a teacher may stay below the accuracy that its checkpoint states, beside three standard errors."""
SUSPICIOUS_GAIN = 0.05
"""A teacher that names so many more images correctly on another scale was given the wrong one."""
TRIAL_IMAGES = {64: 1000, 1 << 30: 200}
"""Labelled images on which other scales are tried, by the largest image size."""
PREDICT_PIXELS = 250 * 64 * 64
"""Of the images of one batch, at most; 250 images of up to 64 pixels."""

TeacherSource = str | Path | nn.Module | Callable[[], nn.Module] | Sequence[Any]


class Teacher(nn.Module):
    """A frozen network with its normalisation: uint8 images in, logits out; always in eval mode.

    Args:
        network: Takes normalised float32 images; an `InputAdapter` normalises by itself (mean 0, std 1 here).
        mean: Per channel, of pixels in [0, 1]: what the network was trained with.
        std: Likewise.
        info: What is known of it (architecture, stated accuracy, classes, notes on its loading); JSON values.
    """

    def __init__(
        self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], info: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = tuple(mean), tuple(std)
        self.info = dict(info or {})
        self.requires_grad_(False)
        self.train()

    @classmethod
    def of(cls, network: nn.Module, given: NetworkInput, task: Task, info: Mapping[str, Any] | None = None) -> Teacher:
        """A teacher for the images of ``task``, which are adapted to what the network was made for."""
        if is_plain(given, task):
            return cls(network, given.mean, given.std, info)
        return cls(InputAdapter(network, given), *PIXELS, info)

    @property
    def members(self) -> tuple[nn.Module, ...]:
        """The networks of an ensemble; else the one network, without its adapter."""
        if isinstance(self.network, Ensemble):
            return tuple(self.network)
        return (self.network.network if isinstance(self.network, InputAdapter) else self.network,)

    def input_for(self, task: Task) -> NetworkInput:
        """What the network takes when it is shown images of ``task``."""
        if isinstance(self.network, InputAdapter):
            return replace(self.network.input, size=self.network.input.size or task.image_size)
        return NetworkInput(self.mean, self.std, task.in_channels, task.image_size)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode, whatever is asked: batch statistics would change the soft targets."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.network(normalise(images, self.mean, self.std))

    def predict(self, images: Tensor, batch_size: int | None = None) -> Tensor:
        """Logits ``(n, classes)`` of uint8 ``images``; batches are smaller for larger images."""
        batch_size = batch_size or predict_batch(self.network, images.shape[-1])
        return torch.cat([self(part) for part in images.split(batch_size)])


PIXELS = ((0.0,), (1.0,))
"""Mean and standard deviation with which images become pixels in [0, 1]."""


def predict_batch(network: nn.Module, image_size: int) -> int:
    """Images of one batch of predictions, so that a batch of large ones fits into memory."""
    sizes = [module.input.size or 0 for module in network.modules() if isinstance(module, InputAdapter)]
    return max(8, min(250, PREDICT_PIXELS // max(image_size, *sizes, 1) ** 2))


def is_plain(given: NetworkInput, task: Task) -> bool:
    """Whether the task's images need no more than normalisation."""
    return given.channels == task.in_channels and given.size in (None, task.image_size)


class Ensemble(nn.ModuleList):
    """Networks behind their inputs; the logits are the mean of theirs.

    That is the geometric mean of their predictions, at every temperature alike, which the mean of the probabilities is
    at one temperature only. Hinton et al. 2015, arXiv:1503.02531, section 1, name both.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of pixels in [0, 1], float32 ``(batch, channels, height, width)``."""
        return torch.stack([network(pixels) for network in self]).mean(dim=0)


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's logits, computed once and read by every student."""

    train: Tensor
    """``(n_views, n_train, classes)``, float32."""
    val: Tensor
    """``(n_val, classes)``, float32."""

    @classmethod
    def of(cls, teacher: Teacher, data: TaskData) -> SoftTargets:
        views = data.train_views
        train = teacher.predict(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return cls(train.float().contiguous(), teacher.predict(data.val_images).float())

    @classmethod
    def cached(cls, teacher: Teacher, data: TaskData, *, threads: int = 1) -> SoftTargets:
        """As `of`, computed once on this machine and kept in `cache_folder` beside the teachers.

        The file's name depends on the teacher's weights, the images, and all that changes the rounding. What is read
        is checked against the teacher itself on one batch; a file that is damaged or wrong is computed again.
        """
        with limited_threads(threads):
            path = soft_targets_path(teacher, data, threads)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with filelock.FileLock(f"{path}.lock"):  # workers that start together: one computes, the others wait
                    found = cls._read(path, teacher, data)
                    if found is None:
                        found = cls.of(teacher, data)
                        tensors = {"train": found.train.cpu(), "val": found.val.cpu()}
                        write_whole(path, to_safetensors(tensors))
                    return found
            except OSError:  # no cache folder, or no room in it
                return cls.of(teacher, data)

    @classmethod
    def _read(cls, path: Path, teacher: Teacher, data: TaskData) -> SoftTargets | None:
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                train, val = (file.get_tensor(name).to(data.device) for name in ("train", "val"))
        except SafetensorError:
            return None
        n, views = len(data.val_images), data.train_views
        right = train.shape[:2] == views.shape[:2] and len(val) == n and bool(torch.isfinite(train).all())
        now = teacher.predict(data.val_images[:250]).float()
        right = right and val[:250].shape == now.shape and torch.allclose(val[:250], now, rtol=1e-3, atol=1e-3)
        return cls(train, val) if right else None


def soft_targets_path(teacher: Teacher, data: TaskData, threads: int) -> Path:
    """Where `SoftTargets.cached` keeps the logits of this teacher for these images."""
    content = hashlib.sha256(str(teacher.network).encode())
    for name, tensor in sorted(teacher.network.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    content.update(data.val_images.cpu().contiguous().numpy().tobytes())
    recipe = {
        "teacher_and_val": content.hexdigest(),
        "data": data.digest,
        "n_train": data.task.n_train,
        "moments": [teacher.mean, teacher.std],
        "rounding": [str(torch.__version__), data.device.type, threads],
    }
    return cache_folder() / "soft-targets" / f"{data.task.name}-{content_digest(recipe)}.safetensors"


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

            - A network by name (`distillation.architectures`). Ours and the zoo's are trained on the task on first use,
              like its own; torchvision's and timm's come with their published weights.
            - A ``.safetensors`` or ``.pt`` file with a state dict, of the architecture that it states or the task's;
              ``architecture@file`` states another.
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
        for note in loaded.info.get("notes", ()):
            report(note)
        check_teacher(loaded, data, thorough=not own)
    return loaded


def as_teacher(teacher: TeacherSource, data: TaskData, report: Callable[[str], None] | None = None) -> Teacher:
    """`load_teacher`'s forms of a user's teacher, unchecked (the members of an ensemble are checked one by one)."""
    report = report or (lambda _: None)
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, nn.Module):
        return Teacher(teacher, data.mean, data.std, {"architecture": type(teacher).__name__})
    if isinstance(teacher, Sequence) and not isinstance(teacher, str):
        return ensemble([as_teacher(one, data, report) for one in teacher], [str(one) for one in teacher], data)
    if callable(teacher):
        return as_teacher(teacher(), data)
    text = str(teacher).strip()
    path = Path(text).expanduser()
    if "," in text and not path.is_file():
        return as_teacher([part for part in text.split(",") if part.strip()], data, report)
    before, at, weights = text.partition("@")
    if path.is_file() or (is_file_name(text) and (not at or "/" in before)):
        return read_checkpoint(path, data)
    if at and is_file_name(weights):
        return read_checkpoint(Path(weights).expanduser(), data, parse_architecture(before))
    module, colon, function = text.partition(":")
    if colon and module not in SOURCES:
        return as_teacher(_factory(text, module, function)(), data)
    try:
        architecture = parse_architecture(text)
    except TeacherError as error:
        if colon or at:
            raise
        raise TeacherError(
            f"teacher {text!r} is neither an existing file nor of the form 'module:function'; {error}"
        ) from error
    return _by_name(architecture, data, report)


def _factory(text: str, module: str, function: str) -> Callable[[], nn.Module]:
    here = os.getcwd()
    sys.path.insert(0, here)  # an installed command does not look there by itself
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise TeacherError(f"teacher {text!r} cannot be imported: {error}") from error
    finally:
        sys.path.remove(here)

    def call() -> nn.Module:
        made = factory()
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
    _load_strictly(network, published.state, f"published weights of {architecture.full}", architecture, task)
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


# --- training one ---------------------------------------------------------------------------------------------------

TEACHER_BATCH = 64
TEACHER_TRAINING = TrainingSettings()
FINE_TUNING = TrainingSettings(lr=0.01)
"""From weights that are trained already, a tenth of the learning rate."""


def teacher_training(architecture: ArchitectureName) -> TrainingSettings:
    """How a network is trained: `TEACHER_TRAINING` from scratch, `FINE_TUNING` from weights."""
    return FINE_TUNING if architecture.weights else TEACHER_TRAINING


def train_teacher(
    data: TaskData,
    *,
    epochs: int | None = None,
    architecture: str | None = None,
    settings: TrainingSettings | None = None,
    input_size: int | None = None,
    threads: int = 1,
    keep: Callable[[Teacher], None] | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> Teacher:
    """Train a teacher on the task's ``n_teacher`` images; a pure function of the task and its data.

    By default on one CPU thread, since the number of threads changes the rounding, and with it every later result.

    Args:
        epochs: The task's ``teacher_epochs`` by default.
        architecture: Name with its source and weights to start from (`architectures`); the task's by default. Started
            from weights, the classifier is made anew where its classes are others.
        settings: `teacher_training` by default.
        input_size: The network's; by default the task's, and with published weights that of these.
        keep: Given the teacher after every epoch in which it is at least as good as before on the validation split. The
            result is then the best epoch's (the latest of equal ones), else the last one's.
        progress: Called with epochs done, mean loss and validation accuracy after each epoch.

    Raises:
        TeacherError: If the architecture is unknown, cannot take the images, or its training fails.
    """
    task = data.task
    name = parse_architecture(architecture or task.teacher)
    settings = settings or teacher_training(name)
    seed = derive_seed("teacher", task.split_seed)
    with limited_threads(threads), seeded(seed):
        network, given, notes = _to_train(name, data, input_size)
        plain = is_plain(given, task)
        model = (network if plain else InputAdapter(network, given)).to(data.device)
        mean, std = (given.mean, given.std) if plain else PIXELS
        sizes = replace(task, n_train=task.n_teacher, batch_size=TEACHER_BATCH)
        all_images = replace(data, task=sizes, mean=mean, std=std)
        _check_forward(model, all_images, name)
        info: dict[str, Any] = {"architecture": name.full, "classes": list(data.classes), "notes": notes}
        best: dict[str, Any] = {"val_accuracy": -1.0}

        def validate(epoch: int, loss: float) -> None:
            reached = accuracy(_predict(model, all_images), data.val_labels)
            if keep is not None and reached >= best["val_accuracy"]:  # of equal ones the one at the lowest rate
                weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                best.update(val_accuracy=reached, epoch=epoch, weights=weights)
                keep(Teacher.of(copy.deepcopy(network), given, task, {**info, "val_accuracy": reached}))
            if progress is not None:
                progress(epoch, loss, reached)

        result = train(
            model,
            all_images,
            None,
            kd=None,
            epochs=epochs or task.teacher_epochs,
            seed=seed,
            settings=settings,
            progress=None if keep is None and progress is None else validate,
        )
        if "weights" in best:
            model.load_state_dict(best["weights"])
            info |= {"epoch": best["epoch"]}
        elif result.status != "success":
            raise TeacherError(f"training the teacher of {task.name!r} failed: {result.message}")
        info["val_accuracy"] = accuracy(_predict(model, all_images), data.val_labels)
    return Teacher.of(network, given, task, info)


def _predict(model: nn.Module, data: TaskData) -> Tensor:
    return predict(model, data, data.val_images, predict_batch(model, data.task.image_size))


def _check_forward(model: nn.Module, data: TaskData, name: ArchitectureName) -> None:
    """Two images through the network as it trains, so that what cannot work is told before any work."""
    size, before = data.task.image_size, {key: value.clone() for key, value in model.state_dict().items()}
    try:
        with torch.no_grad():
            out = model.train()(data.normalise(data.val_images[:2]))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise TeacherError(
            f"{name.full} cannot take images of {size} pixels: {error}; give another --input-size, to which they are "
            "resized"
        ) from error
    finally:
        model.load_state_dict(before)
    if not isinstance(out, Tensor):
        raise TeacherError(f"{name.full} returns a {type(out).__name__} in training, not logits; take another network")


def _to_train(
    name: ArchitectureName, data: TaskData, input_size: int | None
) -> tuple[nn.Module, NetworkInput, list[str]]:
    """The network that a training starts from, its input, and what is worth telling."""
    task = data.task
    if not name.weights:
        network, channels = build_network(name, task.in_channels, task.n_classes)
        if isinstance(network, SmallResNet):
            channels_last(network)
        return network, NetworkInput(data.mean, data.std, channels, input_size), []
    if is_file_name(name.weights):
        file = read_state(Path(name.weights).expanduser())
        state: Mapping[str, Tensor] = file.state
        given, said = _stated_input(file.metadata, name, data)
        notes = [*file.notes, *said]
    else:
        published = published_weights(name)
        state, given, notes = published.state, published.input, []
    if input_size is not None:
        given = replace(given, size=input_size)
    network, channels = build_network(name, given.channels, task.n_classes)
    own = network.state_dict()
    anew = [key for key, value in own.items() if key in state and state[key].shape != value.shape]
    if any(own[key].shape[0] != task.n_classes or own[key].shape[1:] != state[key].shape[1:] for key in anew):
        raise TeacherError(
            f"the weights {name.weights} are not those of {name.full}: {', '.join(anew[:5])} have other shapes"
        )
    if anew:
        notes = [*notes, f"the classifier ({', '.join(anew)}) is made anew for {task.n_classes} classes"]
    _load_strictly(network, {**state, **{key: own[key] for key in anew}}, f"weights {name.weights}", name, task)
    return network, given, notes


def channels_last(network: nn.Module) -> None:
    """Weights in channels_last: 20% less time a step than the default layout with few channels (CPU)."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


# --- check ----------------------------------------------------------------------------------------------------------


def accuracy_floor(task: Task) -> float:
    """Validation accuracy that a teacher must reach: the task's, and never less than twice chance."""
    return max(task.min_teacher_accuracy, 2 / task.n_classes if task.n_classes > 2 else 0.55)


def check_teacher(teacher: Teacher, data: TaskData, *, thorough: bool = False) -> float:
    """Accuracy of the teacher on the validation split, if it can be trusted.

    Args:
        thorough: Also look for a wrong scale and for exchanged classes in a teacher that is good enough as it is.

    Raises:
        TeacherError: Wrong number of classes, outputs that are not finite, worse than the task's floor or than
            twice chance, or clearly worse than its checkpoint states. The message says which mistake it looks like.
    """
    task, images, labels = data.task, data.val_images, data.val_labels
    classes = teacher.info.get("classes")
    if classes is not None and len(classes) != task.n_classes:
        raise TeacherError(
            f"the teacher was made for {len(classes)} classes ({_few(classes)}), {task.name!r} has {task.n_classes} "
            f"({_few(data.classes)})"
        )
    try:
        logits = teacher.predict(images)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        shape = f"{task.in_channels}x{task.image_size}x{task.image_size}"
        raise TeacherError(f"the teacher cannot take the images of {task.name!r} ({shape}): {error}") from error
    if logits.ndim != 2 or logits.shape[1] != task.n_classes:
        raise TeacherError(
            f"the teacher answers with shape {tuple(logits.shape)} for {len(images)} images, but {task.name!r} has "
            f"{task.n_classes} classes; it was made for other classes"
        )
    if not bool(torch.isfinite(logits).all()):
        raise TeacherError("the teacher's outputs are not finite; its checkpoint is damaged")
    if classes is not None and tuple(classes) != data.classes:
        raise TeacherError(
            f"the teacher's classes are {_few(classes)}, those of {task.name!r} are {_few(data.classes)}: "
            "another order or other classes"
        )
    reached = accuracy(logits, labels)
    floor = accuracy_floor(task)
    if reached < floor:
        raise TeacherError(
            f"the teacher names {reached:.1%} of the validation images of {task.name!r} correctly, below the floor of "
            f"{floor:.1%} (chance {1 / task.n_classes:.1%}): {_diagnosis(teacher, data, logits, reached)}"
        )
    stated = teacher.info.get("val_accuracy")
    standard_error = (reached * (1 - reached) / len(labels)) ** 0.5
    below = stated is not None and reached < float(stated) - STATED_TOLERANCE - 3 * standard_error
    mistake = _mistake(teacher, data, logits, reached) if thorough or below else None
    if below:
        raise TeacherError(
            f"the teacher names {reached:.1%} of the validation images correctly, but its checkpoint states "
            f"{float(stated or 0):.1%}: {mistake or 'other data, another normalisation or a damaged file'}"
        )
    if mistake is not None:
        raise TeacherError(
            f"the teacher names {reached:.1%} of the validation images of {task.name!r} correctly, but {mistake}"
        )
    return reached


def _diagnosis(teacher: Teacher, data: TaskData, logits: Tensor, reached: float) -> str:
    chance = 1 / data.task.n_classes
    learned = reached > chance + 0.2 * (1 - chance)
    return _mistake(teacher, data, logits, reached) or "no order of the classes and no usual scale helps; it " + (
        "has learned this task, but not well enough: train it longer, or lower the task's min_teacher_accuracy"
        if learned
        else "looks untrained or trained for something else"
    )


def _mistake(teacher: Teacher, data: TaskData, logits: Tensor, reached: float) -> str | None:
    """Which of the usual mistakes explains a bad teacher: try to undo each and see which one helps most.

    Undoing another scale must gain `SUSPICIOUS_GAIN` and four standard errors, and make the teacher about as good as
    one must be here. Classes that are exchanged must themselves be right after the exchange and wrong before it.
    """
    task, n = data.task, len(data.val_labels)
    if reached > 1 - SUSPICIOUS_GAIN:
        return None
    worth = max(min(3 / task.n_classes, 0.6), accuracy_floor(task) / 2)
    found: list[tuple[float, str]] = []

    permuted, mapping = _best_assignment(logits, data.val_labels, task.n_classes)
    moved = {source: target for source, target in mapping.items() if source != target}
    if permuted >= worth and moved and _are_exchanged(logits, data.val_labels, moved):
        shown = ", ".join(f"{source}->{target}" for source, target in list(moved.items())[:5])
        found.append(
            (
                permuted,
                f"with its classes permuted ({shown}{', ...' if len(moved) > 5 else ''}) it would reach "
                f"{permuted:.1%}; bring its classes into the order of the task",
            )
        )
    n_images = next(number for size, number in TRIAL_IMAGES.items() if task.image_size <= size)
    images, labels = data.val_images[:n_images], data.val_labels[:n_images]
    here = accuracy(logits[:n_images], labels)
    needed = max(worth, here + max(SUSPICIOUS_GAIN, 4 * (here * (1 - here) / min(n, n_images)) ** 0.5))
    for name, advice, other, shown_images in _other_inputs(teacher, data, images):
        rescaled = accuracy(other.predict(shown_images), labels)
        if rescaled >= needed:
            found.append((rescaled, f"with {name} as input it reaches {rescaled:.1%}, so it is fed {advice}"))
    return max(found, key=lambda one: one[0], default=(0.0, None))[1]


def _are_exchanged(logits: Tensor, labels: Tensor, moved: Mapping[int, int]) -> bool:
    """Whether the images of the classes that ``moved`` renames are right after it and wrong before it."""
    named = logits.argmax(dim=1)
    concerned = torch.isin(labels, torch.tensor(sorted(moved.values()), device=labels.device))
    renamed = torch.arange(logits.shape[1], device=labels.device)
    for source, target in moved.items():
        renamed[source] = target
    before = int((named == labels)[concerned].sum())
    after = int((renamed[named] == labels)[concerned].sum())
    return int(concerned.sum()) >= 10 and after >= 0.5 * int(concerned.sum()) and before <= 0.25 * after


def _other_inputs(teacher: Teacher, data: TaskData, images: Tensor) -> list[tuple[str, str, Teacher, Tensor]]:
    """What else a teacher may have been trained on: (name, what it is fed instead, the teacher on it, images)."""
    if isinstance(teacher.network, Ensemble):  # its members are checked one by one
        return []
    task, given = data.task, teacher.input_for(data.task)
    scales = [
        ("pixels in [0, 1]", (0.0,), (1.0,)),
        ("pixels in [-1, 1]", (0.5,), (0.5,)),
        ("pixels in 0..255", (0.0,), (1 / 255,)),
        ("the task's normalisation", data.mean, data.std),
    ]
    if given.channels == 3:
        scales.append(("ImageNet's normalisation", *IMAGENET))
    remedy = "images on the wrong scale; state the normalisation that it was trained with (--mean and --std of "
    remedy += "'naslib-autokd teacher check', or Teacher(network, mean, std))"
    network = teacher.members[0]
    others: list[tuple[str, str, Teacher, Tensor]] = []
    for name, mean, std in scales:
        if len(mean) in (1, given.channels):
            others.append((name, remedy, Teacher.of(network, replace(given, mean=mean, std=std), task), images))
    if given.size not in (None, task.image_size):
        unresized = Teacher.of(network, replace(given, size=None), task)
        advice = f"images resized to {given.size} pixels; state the size that it was trained with (--input-size)"
        others.append((f"images of {task.image_size} pixels, as they are,", advice, unresized, images))
    if task.in_channels == 3:
        advice = "red and blue exchanged; reverse the input channels of its first layer"
        others.append(("channels in the order blue, green, red", advice, teacher, images.flip(1)))
    return others


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _best_assignment(logits: Tensor, labels: Tensor, n_classes: int) -> tuple[float, dict[int, int]]:
    """Accuracy under the best renaming of the classes, and that renaming."""
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(confusion, (logits.argmax(dim=1).cpu().numpy(), labels.cpu().numpy()), 1)
    named, true = linear_sum_assignment(confusion, maximize=True)
    mapping = {int(a): int(b) for a, b in zip(named, true, strict=True)}
    return float(confusion[named, true].sum()) / len(labels), mapping


def _few(names: Any, count: int = 5) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:count]) + (f", ... ({len(shown)})" if len(shown) > count else "")


# --- checkpoints ----------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """``$NASLIB_AUTOKD_CACHE``, else ``naslib_autokd`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("NASLIB_AUTOKD_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "naslib_autokd"


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
    return cache_folder() / "teachers" / f"{task.name}-{content_digest(recipe)}.safetensors"


def _cached_teacher(data: TaskData, report: Callable[[str], None]) -> Teacher:
    path = cached_teacher_path(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):  # workers that start together: one trains, the others wait
        if path.exists():
            try:
                return read_checkpoint(path, data)
            except TeacherError as error:
                report(f"the cached teacher is unusable and is trained again: {error}")
        report(f"training the teacher of {data.task.name!r} (once; kept in {path})")
        teacher = train_teacher(data)
        check_teacher(teacher, data)
        write_checkpoint(teacher, path, data)
        return teacher


def write_checkpoint(teacher: Teacher, path: str | Path, data: TaskData) -> None:
    """Save as safetensors with all that is needed to use it safely; the file appears whole or not at all.

    Raises:
        TeacherError: For an ensemble, whose members are files of their own.
    """
    if isinstance(teacher.network, Ensemble):
        raise TeacherError("an ensemble is not one file: save its members, and give them with commas between")
    path = Path(path)
    given = teacher.input_for(data.task)
    metadata = {
        **{key: value for key, value in teacher.info.items() if key != "notes"},
        "classes": list(data.classes),
        "mean": list(given.mean),
        "std": list(given.std),
        "input": [given.channels, given.size, given.size],
        "task": data.task.name,
        "task_digest": data.task.digest,
        "data_digest": data.digest,
        "naslib_autokd": __version__,
        "torch": torch.__version__,
    }
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in teacher.members[0].state_dict().items()}
    content = to_safetensors(tensors, {key: json.dumps(value) for key, value in metadata.items()})
    write_whole(path, content)


def read_checkpoint(path: str | Path, data: TaskData, architecture: ArchitectureName | None = None) -> Teacher:
    """A network from a ``.safetensors`` file or a ``.pt`` state dict; strict, and never unpickled.

    Args:
        architecture: Else the one that the file states, else the task's. What a file does not state of classes is
            taken to be the task's; of normalisation and size, what was published for the architecture (torchvision,
            timm), else the task's.

    Raises:
        TeacherError: If the file is missing, corrupt, holds anything but tensors, or does not fit the architecture.
    """
    path, task = Path(path), data.task
    file = read_state(path)
    stated = str(file.metadata.get("architecture", "")) or task.teacher
    try:
        name = architecture or parse_architecture(stated.partition("@")[0])
    except TeacherError as error:
        raise TeacherError(f"{path} holds a {stated!r}: {error}; say which one: ARCHITECTURE@{path}") from error
    classes = file.metadata.get("classes")
    if isinstance(classes, list) and len(classes) != task.n_classes:
        raise TeacherError(
            f"{path} was trained for {len(classes)} classes ({_few(classes)}), {task.name!r} has {task.n_classes} "
            f"({_few(data.classes)}); give a teacher for these classes, or train one (naslib-autokd teacher train)"
        )
    given, notes = _stated_input(file.metadata, name, data)
    network, _ = build_network(name, given.channels, task.n_classes)
    if isinstance(network, SmallResNet):
        channels_last(network)
    _load_strictly(network, file.state, f"teacher checkpoint {path}", name, task)
    known: dict[str, Any] = {key: file.metadata[key] for key in ("val_accuracy", "classes") if key in file.metadata}
    info = {"architecture": name.full, **known}
    if notes := [f"{path}: {note}" for note in (*file.notes, *notes)]:
        info["notes"] = notes
    return Teacher.of(network, given, task, info)


def _load_strictly(
    network: nn.Module, state: Mapping[str, Tensor], what: str, name: ArchitectureName, task: Task
) -> None:
    own = network.state_dict()
    shapes = [key for key, value in state.items() if key in own and own[key].shape != value.shape]
    wrong = {
        "lacks": [key for key in own if key not in state],
        "has besides": [key for key in state if key not in own],
        "has in other shapes": [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in shapes],
    }
    if any(wrong.values()):
        listed = "; ".join(f"it {word} {_few(names, 3)}" for word, names in wrong.items() if names)
        raise TeacherError(f"{what} does not fit {name.full} with {task.n_classes} classes: {listed}")
    network.load_state_dict(dict(state), strict=True)


def _stated_input(
    metadata: Mapping[str, Any], name: ArchitectureName, data: TaskData
) -> tuple[NetworkInput, list[str]]:
    """The input that a file states (``mean``, ``std``, ``input``), or what is taken for granted, and that said."""
    task = data.task
    default = published_input(name)
    notes = []
    if default is None:
        default = NetworkInput(data.mean, data.std, task.in_channels, None)
    elif "mean" not in metadata:
        notes.append(
            f"it does not state its input: taken to be as published for {name.full}: mean {_numbers(default.mean)}, "
            f"standard deviation {_numbers(default.std)}, {default.size or task.image_size} pixels"
        )
    shape = metadata.get("input", [default.channels, default.size])
    try:
        mean, std = (tuple(float(v) for v in metadata.get(key, getattr(default, key))) for key in ("mean", "std"))
        size = None if shape[1] is None else int(shape[1])
        return NetworkInput(mean, std, int(shape[0]), size), notes
    except (TypeError, ValueError, IndexError) as error:
        raise TeacherError(f"the file's metadata mean, std or input cannot be read: {error}") from error


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
