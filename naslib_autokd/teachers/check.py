"""Whether a teacher can be trusted on labelled images, and which of the usual mistakes it looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.training import accuracy
from naslib_autokd.tasks import Task
from naslib_autokd.teachers.names import TeacherError, few
from naslib_autokd.teachers.teacher import Ensemble, Teacher

STATED_TOLERANCE = 0.03
"""How far a teacher may stay below the accuracy that its checkpoint states, beside three standard errors."""

SUSPICIOUS_GAIN = 0.05
"""A teacher that names so many more images correctly on another scale was given the wrong one."""

TRIAL_IMAGES = {64: 1000, 1 << 30: 200}
"""Labelled images on which other scales are tried, by the largest image size."""


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
            f"the teacher was made for {len(classes)} classes ({few(classes)}), {task.name!r} has {task.n_classes} "
            f"({few(data.classes)})"
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
            f"the teacher's classes are {few(classes)}, those of {task.name!r} are {few(data.classes)}: "
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
    if given.size not in (None, task.image_size) or given.crop < 1:
        unresized = Teacher.of(network, replace(given, size=None, crop=1.0), task)
        advice = f"images resized to {given.size} pixels; state the size that it was trained with (--input-size)"
        if _takes(unresized, images):
            others.append((f"images of {task.image_size} pixels, as they are,", advice, unresized, images))
    if task.in_channels == 3:
        advice = "red and blue exchanged; reverse the input channels of its first layer"
        others.append(("channels in the order blue, green, red", advice, teacher, images.flip(1)))
    return others


def _takes(teacher: Teacher, images: Tensor) -> bool:
    """Whether it can take images of this size; vision transformers and ONNX files may have one size only."""
    try:
        teacher(images[:2])
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _best_assignment(logits: Tensor, labels: Tensor, n_classes: int) -> tuple[float, dict[int, int]]:
    """Accuracy under the best renaming of the classes, and that renaming."""
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(confusion, (logits.argmax(dim=1).cpu().numpy(), labels.cpu().numpy()), 1)
    named, true = linear_sum_assignment(confusion, maximize=True)
    mapping = {int(a): int(b) for a, b in zip(named, true, strict=True)}
    return float(confusion[named, true].sum()) / len(labels), mapping
