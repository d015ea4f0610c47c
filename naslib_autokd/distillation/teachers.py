"""Frozen teachers: trained on first use, checked, cached as safetensors; and their soft targets.

A teacher takes uint8 images and brings its own normalisation, so it cannot be fed images on the wrong scale by
accident. `check_teacher` catches what would silently spoil a search: untrained weights, permuted classes, another
scale. Checkpoints are loaded strictly and never unpickled: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping
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
from naslib_autokd.distillation.data import TaskData, normalise
from naslib_autokd.distillation.training import TrainingSettings, accuracy, limited_threads, predict, seeded, train
from naslib_autokd.records import content_digest, derive_seed
from naslib_autokd.tasks import did_you_mean

STATED_TOLERANCE = 0.03
"""How far a teacher may stay below the accuracy that its checkpoint states, beside three standard errors."""


class TeacherError(ValueError):
    """The teacher cannot be used; the message says why and what to do."""


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, downsample: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if downsample else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network for small images: a 3x3 stem, then one block per entry of ``channels``.

    The resolution is halved (maximum pooling) before every block but the first. Plain He initialisation.
    """

    def __init__(self, in_channels: int, n_classes: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(channels[0])
        widths = (channels[0], *channels)
        self.blocks = nn.Sequential(
            *(_ResidualBlock(widths[i], widths[i + 1], downsample=i > 0) for i in range(len(channels)))
        )
        self.head = nn.Linear(channels[-1], n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem_bn(self.stem(images)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))


ARCHITECTURES: dict[str, tuple[int, ...]] = {
    "resnet-small": (16, 32, 32),  # 38k parameters
    "resnet-medium": (64, 128, 256),  # 1.2M parameters
}
"""Channels of the `SmallResNet` blocks of the teachers that we train ourselves."""


class Teacher(nn.Module):
    """A frozen network with its normalisation: uint8 images in, logits out; always in eval mode.

    Args:
        network: Takes normalised float32 images.
        mean, std: Per channel, of pixels in [0, 1]: what the network was trained with.
        info: What is known of it (architecture, stated accuracy, classes); JSON values.
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

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode, whatever is asked: batch statistics would change the soft targets."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.network(normalise(images, self.mean, self.std))

    def predict(self, images: Tensor, batch_size: int = 250) -> Tensor:
        """Logits ``(n, classes)`` of uint8 ``images``."""
        return torch.cat([self(part) for part in images.split(batch_size)])


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
    teacher: str | Path | nn.Module | Callable[[], nn.Module] | None = None,
    *,
    threads: int = 1,
    report: Callable[[str], None] | None = None,
) -> Teacher:
    """The task's teacher, checked.

    Args:
        teacher: None: the task's own, trained on first use and cached in `cache_folder`. A path: a state dict of a
            `SmallResNet` in a ``.safetensors`` or ``.pt`` file. ``"module:function"``: called without arguments, it
            returns a module. A `Teacher`, or any module that takes images normalised as the students' are.
        threads: CPU threads for checking it.
        report: Told what takes time (training the teacher).

    Raises:
        TeacherError: If it cannot be loaded or would spoil the search (`check_teacher`).
    """
    if teacher is None:
        teacher = _cached_teacher(data, report or (lambda _: None))
    loaded = as_teacher(teacher, data).to(data.device)
    with limited_threads(threads):
        check_teacher(loaded, data)
    return loaded


def as_teacher(teacher: str | Path | nn.Module | Callable[[], nn.Module], data: TaskData) -> Teacher:
    """`load_teacher`'s forms of a user's teacher, unchecked."""
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, nn.Module):
        return Teacher(teacher, data.mean, data.std, {"architecture": type(teacher).__name__})
    if callable(teacher):
        return as_teacher(teacher(), data)
    path = Path(teacher).expanduser()
    if path.suffix in (".safetensors", ".pt", ".pth") or path.exists():
        return read_checkpoint(path, data)
    module, _, function = str(teacher).partition(":")
    if not function:
        raise TeacherError(f"teacher {str(teacher)!r} is neither an existing file nor of the form 'module:function'")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise TeacherError(f"teacher {str(teacher)!r} cannot be imported: {error}") from error
    made = factory()
    if not isinstance(made, nn.Module):
        raise TeacherError(f"teacher {str(teacher)!r} returned a {type(made).__name__}, not a torch module")
    return as_teacher(made, data)


def train_teacher(data: TaskData, *, epochs: int | None = None) -> Teacher:
    """Train the task's teacher on its ``n_teacher`` images; a pure function of the task and its data.

    Always on one CPU thread, since the number of threads changes the rounding, and with it every later result.
    """
    task = data.task
    if task.teacher not in ARCHITECTURES:
        raise TeacherError(f"unknown teacher {task.teacher!r}{did_you_mean(task.teacher, ARCHITECTURES)}")
    seed = derive_seed("teacher", task.split_seed)
    with limited_threads(1), seeded(seed):
        network = _build(task.teacher, data)
        all_images = replace(data, task=replace(task, n_train=task.n_teacher, batch_size=TEACHER_BATCH))
        result = train(
            network,
            all_images,
            None,
            kd=None,
            epochs=epochs or task.teacher_epochs,
            seed=seed,
            settings=TEACHER_TRAINING,
        )
        if result.status != "success":
            raise TeacherError(f"training the teacher of {task.name!r} failed: {result.message}")
        val_accuracy = accuracy(predict(network, data, data.val_images), data.val_labels)
    info = {"architecture": task.teacher, "val_accuracy": val_accuracy, "classes": list(data.classes)}
    return Teacher(network, data.mean, data.std, info)


TEACHER_BATCH = 64
TEACHER_TRAINING = TrainingSettings()


def _build(architecture: str, data: TaskData) -> nn.Module:
    # channels_last: about 20% less time per step than the default layout with these few channels (CPU).
    network = SmallResNet(data.task.in_channels, data.task.n_classes, ARCHITECTURES[architecture])
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


# --- check ----------------------------------------------------------------------------------------------------------


def check_teacher(teacher: Teacher, data: TaskData) -> float:
    """Accuracy of the teacher on the validation split, if it can be trusted.

    Raises:
        TeacherError: Wrong number of classes, outputs that are not finite, worse than the task's floor or than
            twice chance, or clearly worse than its checkpoint states. The message says which mistake it looks like.
    """
    task, images, labels = data.task, data.val_images, data.val_labels
    try:
        logits = teacher.predict(images)
    except (RuntimeError, TypeError, ValueError) as error:
        shape = f"{task.in_channels}x{task.image_size}x{task.image_size}"
        raise TeacherError(f"the teacher cannot take the images of {task.name!r} ({shape}): {error}") from error
    if logits.ndim != 2 or logits.shape[1] != task.n_classes:
        raise TeacherError(
            f"the teacher answers with shape {tuple(logits.shape)} for {len(images)} images, but {task.name!r} has "
            f"{task.n_classes} classes; it was made for other classes"
        )
    if not bool(torch.isfinite(logits).all()):
        raise TeacherError("the teacher's outputs are not finite; its checkpoint is damaged")
    classes = teacher.info.get("classes")
    if classes is not None and tuple(classes) != data.classes:
        raise TeacherError(
            f"the teacher's classes are {_few(classes)}, those of {task.name!r} are {_few(data.classes)}: "
            "another order or other classes"
        )
    reached = accuracy(logits, labels)
    floor = max(task.min_teacher_accuracy, 2 / task.n_classes if task.n_classes > 2 else 0.55)
    if reached < floor:
        raise TeacherError(
            f"the teacher names {reached:.1%} of the validation images of {task.name!r} correctly, below the floor of "
            f"{floor:.1%} (chance {1 / task.n_classes:.1%}): {_diagnosis(teacher, data, logits, reached)}"
        )
    stated = teacher.info.get("val_accuracy")
    standard_error = (reached * (1 - reached) / len(labels)) ** 0.5
    if stated is not None and reached < float(stated) - STATED_TOLERANCE - 3 * standard_error:
        raise TeacherError(
            f"the teacher names {reached:.1%} of the validation images correctly, but its checkpoint states "
            f"{float(stated):.1%}: other data, another normalisation or a damaged file"
        )
    return reached


def _diagnosis(teacher: Teacher, data: TaskData, logits: Tensor, reached: float) -> str:
    """Which of the usual mistakes explains a bad teacher: try to undo each and see which one helps."""
    labels, convincing = data.val_labels, max(3 / data.task.n_classes, 2 * reached, 0.5)
    permuted, mapping = _best_assignment(logits, labels, data.task.n_classes)
    if permuted >= convincing:
        wrong = {source: target for source, target in mapping.items() if source != target}
        shown = ", ".join(f"{source}->{target}" for source, target in list(wrong.items())[:5])
        return (
            f"with its classes permuted ({shown}{', ...' if len(wrong) > 5 else ''}) it would reach {permuted:.1%}; "
            "bring its classes into the order of the task"
        )
    channels = data.task.in_channels
    for name, mean, std in (
        ("pixels in [0, 1]", (0.0,) * channels, (1.0,) * channels),
        ("pixels in [-1, 1]", (0.5,) * channels, (0.5,) * channels),
        ("pixels in 0..255", (0.0,) * channels, (1 / 255,) * channels),
        ("the task's normalisation", data.mean, data.std),
    ):
        rescaled = accuracy(Teacher(teacher.network, mean, std).predict(data.val_images), labels)
        if rescaled >= convincing:
            return (
                f"with {name} as input it reaches {rescaled:.1%}, so it is fed images on the wrong scale; "
                "give the normalisation that it was trained with (Teacher(network, mean, std))"
            )
    return "no order of the classes and no usual scale helps; it looks untrained or trained for something else"


def _best_assignment(logits: Tensor, labels: Tensor, n_classes: int) -> tuple[float, dict[int, int]]:
    """Accuracy under the best renaming of the classes, and that renaming."""
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(confusion, (logits.argmax(dim=1).cpu().numpy(), labels.cpu().numpy()), 1)
    named, true = linear_sum_assignment(confusion, maximize=True)
    mapping = {int(a): int(b) for a, b in zip(named, true, strict=True)}
    return float(confusion[named, true].sum()) / len(labels), mapping


def _few(names: Any) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:5]) + (f", ... ({len(shown)})" if len(shown) > 5 else "")


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
        "settings": repr(TEACHER_TRAINING),
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
    """Save as safetensors with all that is needed to use it safely; the file appears whole or not at all."""
    path = Path(path)
    metadata = {
        **teacher.info,
        "classes": list(data.classes),
        "mean": list(teacher.mean),
        "std": list(teacher.std),
        "input": [data.task.in_channels, data.task.image_size, data.task.image_size],
        "task": data.task.name,
        "task_digest": data.task.digest,
        "data_digest": data.digest,
        "naslib_autokd": __version__,
        "torch": torch.__version__,
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in teacher.network.state_dict().items()}
    content = to_safetensors(tensors, {key: json.dumps(value) for key, value in metadata.items()})
    write_whole(path, content)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: str | Path, data: TaskData) -> Teacher:
    """A `SmallResNet` from a ``.safetensors`` file or a ``.pt`` state dict; strict, and never unpickled.

    A ``.pt`` file, and a safetensors file without metadata, is taken to have the task's architecture, classes and
    normalisation.

    Raises:
        TeacherError: If the file is missing, corrupt, holds anything but tensors, or does not fit the architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise TeacherError(f"teacher checkpoint {path} does not exist")
    metadata: dict[str, Any] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items() if key != "format"}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, ValueError) as error:
        raise TeacherError(f"teacher checkpoint {path} is corrupt: {error}") from error
    except Exception as error:  # torch.load: UnpicklingError, EOFError, RuntimeError, ... all mean an unusable file
        raise TeacherError(
            f"teacher checkpoint {path} cannot be loaded; it must be a state dict of plain tensors: {error}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TeacherError(f"teacher checkpoint {path} must hold a state dict of plain tensors")
    state = {name.removeprefix("module."): value for name, value in state.items()}  # DataParallel's prefix
    architecture = metadata.get("architecture", data.task.teacher)
    if architecture not in ARCHITECTURES:
        raise TeacherError(f"{path} holds a {architecture!r}{did_you_mean(architecture, ARCHITECTURES)}")
    network = _build(architecture, data)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise TeacherError(
            f"teacher checkpoint {path} does not fit {architecture} with {data.task.n_classes} classes: {error}"
        ) from error
    mean, std = metadata.get("mean", data.mean), metadata.get("std", data.std)
    known: dict[str, Any] = {key: metadata[key] for key in ("val_accuracy", "classes") if key in metadata}
    return Teacher(network, tuple(mean), tuple(std), {"architecture": architecture, **known})
