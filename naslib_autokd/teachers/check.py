"""Whether a teacher can be trusted on labelled images, and which of the usual mistakes it looks like."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.training import accuracy
from naslib_autokd.tasks import Task
from naslib_autokd.teachers.names import TeacherError, few, other_number_of_classes
from naslib_autokd.teachers.outputs import add_note, as_logits, some_training_images, take_logits
from naslib_autokd.teachers.teacher import Ensemble, Teacher

STATED_TOLERANCE = 0.03
"""How far a teacher may stay below the accuracy that its checkpoint states, beside three standard errors."""

SUSPICIOUS_GAIN = 0.05
"""A teacher that names so many more images correctly on another scale was given the wrong one."""

TRIAL_IMAGES = {64: 1000, 1 << 30: 200}
"""Labelled images on which other scales are tried, by the largest image size."""


FEW = 30
"""With so many validation images or fewer, what a teacher reaches on them is told as an interval."""

EVIDENCE = 1000
"""Where the validation split has fewer than `FEW` images of a class, training images are looked at too, so many in all
at most."""

LEAST_EVIDENCE = 10
"""Fewer images say nothing of the classes."""

CHANCE_OF_A_MISTAKE = 1e-3
"""Largest p-value (sign test) at which other inputs are said to be better for a teacher than those that it gets."""

FLAT_SPREAD, FLAT_CONFIDENCE = 0.2, 0.99
"""Soft targets are flat where the logits of the wrong classes spread by less than this share of their distance to the
largest one (median), and nine in ten of the largest probabilities on training images are below this. Teachers of the
embedded tasks, trained on plain labels: 0.23 to 0.43 and, once trained, 0.994 to 1; with a label smoothing of 0.05 to
0.2, trained to the end: 0.11 to 0.17 and 0.87 to 0.987."""


def clear_floor(n_classes: int) -> float:
    """Accuracy that is clearly above chance: a tenth of the way from chance to 1, and no more than twice chance."""
    return min(2 / n_classes, 1 / n_classes + 0.1 * (1 - 1 / n_classes))


def accuracy_floor(task: Task) -> float:
    """Validation accuracy that a teacher must reach: the task's, and never less than `clear_floor`."""
    return max(task.min_teacher_accuracy, clear_floor(task.n_classes))


def interval(n_right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share of which ``n_right`` of ``n`` are seen."""
    from scipy.stats import binomtest

    found = binomtest(n_right, n).proportion_ci(confidence, "exact")
    return float(found.low), float(found.high)


def check_teacher(teacher: Teacher, data: TaskData, *, thorough: bool = False) -> float:
    """Accuracy of the teacher on the validation split, if it can be trusted.

    A teacher that returns its logits inside something else, or probabilities that are logits up to a constant, answers
    with logits from now on (`outputs`). What was done, and what is worth telling, is in ``teacher.info["notes"]``.

    Args:
        thorough: Also look for a wrong scale and for exchanged classes in a teacher that is good enough as it is, and
            for flat soft targets.

    Raises:
        TeacherError: Wrong number of classes, no logits, outputs that are not finite or not the same for the same
            image, worse than the task's floor, hardly better than one class for all images, or clearly worse than its
            checkpoint states. The message says which mistake it looks like.
    """
    task, labels = data.task, data.val_labels
    classes = teacher.info.get("classes")
    if classes is not None and len(classes) != task.n_classes:
        raise TeacherError(f"the teacher was made for {other_number_of_classes(classes, data.classes, task.name)}")
    logits = _answers(teacher, data)
    if classes is not None and tuple(classes) != data.classes:
        raise TeacherError(
            f"the teacher's classes are {few(classes)}, those of {task.name!r} are {few(data.classes)}: "
            "another order or other classes"
        )
    reached, n = accuracy(logits, labels), len(labels)
    low, high = interval(round(reached * n), n)
    floor = accuracy_floor(task)
    evidence = _Evidence.of(teacher, data, logits)
    if (high if n <= FEW else reached) < floor:
        surely = f" (with so few, 95% interval: {low:.1%} to {high:.1%})" if n <= FEW else ""
        raise TeacherError(
            f"the teacher names {reached:.1%} of the validation images of {task.name!r} correctly{surely}, below the "
            f"floor of {floor:.1%} (chance {1 / task.n_classes:.1%}): {_diagnosis(teacher, data, evidence, reached)}"
        )
    named = f"the teacher names {reached:.1%} of the validation images of {task.name!r} correctly, but"
    if one_sided := _one_sided(data, evidence):
        raise TeacherError(f"{named} {_mistake(teacher, data, evidence) or one_sided}")
    stated = teacher.info.get("val_accuracy")
    below = stated is not None and not _as_stated(teacher, reached, n)
    mistake = _mistake(teacher, data, evidence, inputs=stated is None or below) if thorough or below else None
    if below:
        raise TeacherError(
            f"the teacher names {reached:.1%} of the validation images correctly, but its checkpoint states "
            f"{float(stated or 0):.1%}: {mistake or 'other data, another normalisation or a damaged file'}"
        )
    if mistake is not None:
        raise TeacherError(f"{named} {mistake}")
    if n <= FEW:
        add_note(
            teacher,
            f"{n} validation image{'s are' if n > 1 else ' is'} few: {round(reached * n)} of {n} named correctly means "
            f"an accuracy between {low:.0%} and {high:.0%} (95% interval); a larger validation split would tell",
        )
    if thorough:
        for note in (*_missed_classes(data, logits), *_flat_targets(teacher, data)):
            add_note(teacher, note)
    return reached


def _as_stated(teacher: Teacher, reached: float, n: int) -> bool:
    """Whether it reaches on ``n`` images what its training reached, so that it is fed what it was trained on."""
    stated = teacher.info.get("val_accuracy")
    if stated is None:
        return False
    _, surely_below = interval(round(reached * n), n, 0.997)  # three standard errors
    return surely_below >= float(stated) - STATED_TOLERANCE


def _are_indices(outputs: Tensor, n_classes: int) -> bool:
    """Whether all are whole numbers of classes, and not all the same."""
    whole = (outputs == outputs.round()) & (outputs >= 0) & (outputs < n_classes)
    return bool(whole.all()) and bool((outputs != outputs.flatten()[0]).any())


def _answers(teacher: Teacher, data: TaskData) -> Tensor:
    """Logits of the validation images, if they are such."""
    task, images = data.task, data.val_images
    try:
        take_logits(teacher, data)
        outputs = teacher.predict(images)
    except TeacherError:
        raise
    except Exception as error:  # the network is the user's: it may raise anything
        shape = f"{task.in_channels}x{task.image_size}x{task.image_size}"
        advice = "; if it was made for another size, state it (--input-size of 'naslib-autokd teacher check')"
        resized = teacher.input_for(task).size != task.image_size
        raise TeacherError(
            f"the teacher cannot take the images of {task.name!r} ({shape}): {error}{'' if resized else advice}"
        ) from error
    if outputs.numel() == len(images) and task.n_classes > 2 and _are_indices(outputs, task.n_classes):
        raise TeacherError(
            f"the teacher returns class indices (shape {tuple(outputs.shape)} for {len(images)} images); return "
            f"logits, {task.n_classes} for each image: what the argmax is taken of"
        )
    if outputs.ndim != 2 or outputs.shape[1] != task.n_classes:
        one = outputs.ndim == 2 and outputs.shape[1] == 1 and task.n_classes == 2
        raise TeacherError(
            f"the teacher answers with shape {tuple(outputs.shape)} for {len(images)} images, but {task.name!r} has "
            f"{task.n_classes} classes; "
            + ("return two logits, those of the one output z are (0, z)" if one else "it was made for other classes")
            + ("; if the task's are among them, return these alone" if outputs.shape[-1] > task.n_classes else "")
        )
    if not outputs.is_floating_point():
        kind = str(outputs.dtype).removeprefix("torch.")
        raise TeacherError(
            f"the teacher answers with numbers of type {kind}, but logits are floats; return them as such"
        )
    if not bool(torch.isfinite(outputs).all()):
        if not bool(torch.isnan(outputs).any()) and bool((outputs.max(dim=1).values <= 0).all()):
            raise TeacherError(
                "the teacher's outputs are minus infinity for some classes, as the logarithm of a softmax is where the "
                "softmax is 0: return what goes into the softmax, the logits, or log_softmax of them"
            )
        raise TeacherError("the teacher's outputs are not finite; its checkpoint is damaged")
    logits = as_logits(teacher, outputs, data)
    some = max(1, min(32, len(images) // 2))
    again = teacher(images[:some])
    if float((again - logits[:some]).abs().max()) > 0.05 * float(logits.std(correction=0)):
        raise TeacherError(
            "the teacher answers the same images differently when it is asked again with fewer beside them: it draws "
            "at random (dropout that is always on) or normalises with the batch (batch norm without running "
            "statistics), so its soft targets would be accidents; give a network that answers for each image by itself"
        )
    return logits


@dataclass(frozen=True)
class _Evidence:
    """Images that a teacher is judged on: the validation split, and training images where that has few of a class."""

    images: Tensor
    labels: Tensor
    logits: Tensor
    with_training: bool

    @classmethod
    def of(cls, teacher: Teacher, data: TaskData, logits: Tensor) -> _Evidence:
        images, labels = data.val_images, data.val_labels
        counts = torch.bincount(labels, minlength=data.task.n_classes)
        missing = EVIDENCE - len(labels)
        if int(counts.min()) >= FEW or missing <= 0:
            return cls(images, labels, logits, False)
        seen, labels_seen = some_training_images(data, missing)
        joined = torch.cat([logits, teacher.predict(seen)])
        return cls(torch.cat([images, seen]), torch.cat([labels, labels_seen]), joined, True)

    @property
    def where(self) -> str:
        return "validation and training images" if self.with_training else "validation images"


def _recalls(logits: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Of each class: the share of its images that are named correctly (nan without images), and their number."""
    counts = torch.bincount(labels, minlength=n_classes)
    right = torch.bincount(labels[logits.argmax(dim=1) == labels], minlength=n_classes)
    return right / counts, counts


def _one_sided(data: TaskData, evidence: _Evidence) -> str | None:
    """What is to be said of a teacher that is right by naming the most frequent class."""
    recalls, counts = _recalls(evidence.logits, evidence.labels, data.task.n_classes)
    present = counts > 0
    n_present = int(present.sum())
    if n_present < 2:
        return None
    if len(evidence.labels) < LEAST_EVIDENCE:
        alike = bool((evidence.logits == evidence.logits[0]).all())
        return f"it answers all {len(evidence.labels)} {evidence.where} alike" if alike else None
    balanced, needed = float(recalls[present].mean()), clear_floor(n_present)
    if balanced >= needed:
        return None
    largest = int(counts.argmax())
    uneven = int(counts[largest]) > 2 * int(counts[present].min())
    advice = "Train it longer" + (" with the classes balanced (weights, or the rare ones drawn more often)" * uneven)
    weak = [
        f"{data.classes[index]} {float(recalls[index]):.1%} of {int(counts[index])}"
        for index in torch.argsort(torch.where(present, recalls, torch.inf))[: min(3, n_present - 1)].tolist()
    ]
    return (
        f"it tells the classes hardly apart: on {evidence.where}, of which "
        f"{int(counts[largest]) / len(evidence.labels):.1%} are {data.classes[largest]!r}, it names {', '.join(weak)} "
        f"correctly, and {balanced:.1%} in the mean of the classes (one answer for all images: {1 / n_present:.1%}; "
        f"needed: {needed:.1%}). {advice}"
    )


def _missed_classes(data: TaskData, logits: Tensor) -> list[str]:
    recalls, counts = _recalls(logits, data.val_labels, data.task.n_classes)
    missed = [data.classes[i] for i in range(len(counts)) if counts[i] >= LEAST_EVIDENCE and recalls[i] == 0]
    return [f"it names no validation image of {few(missed)} correctly"] if missed else []


def _flat_targets(teacher: Teacher, data: TaskData) -> list[str]:
    """Whether soft targets say little of the wrong classes, as label smoothing leaves them.

    Müller et al. 2019, arXiv:1906.02629, section 4: such teachers are more accurate and teach less.
    """
    if data.task.n_classes < 4:
        return []
    images, labels = some_training_images(data, EVIDENCE // 2)
    logits = teacher.predict(images).float()
    logits = logits[logits.argmax(dim=1) == labels]
    if len(logits) < FEW:
        return []
    ranked = logits.sort(dim=1, descending=True).values
    wrong = ranked[:, 1:]
    spread = float((wrong.std(dim=1) / (ranked[:, 0] - wrong.mean(dim=1))).median())
    sure = logits.softmax(dim=1).max(dim=1).values
    if spread >= FLAT_SPREAD or float(sure.quantile(0.9)) >= FLAT_CONFIDENCE:
        return []
    return [
        f"its soft targets are flat: on training images its largest probability is {float(sure.median()):.2f} (median; "
        f"nine in ten are below {float(sure.quantile(0.9)):.3f}) and the other classes are nearly alike, as label "
        "smoothing (or mixup) leaves them. Such a teacher is likely a poor one, however accurate: prefer one that was "
        "trained on plain labels"
    ]


def _diagnosis(teacher: Teacher, data: TaskData, evidence: _Evidence, reached: float) -> str:
    task, chance = data.task, 1 / data.task.n_classes
    as_stated = _as_stated(teacher, reached, len(data.val_labels))
    if mistake := _mistake(teacher, data, evidence, inputs=not as_stated):
        return mistake
    if len(evidence.labels) < FEW:
        return f"{len(evidence.labels)} images are too few to say why"
    clear = clear_floor(task.n_classes)
    lower = f"to no less than {clear:.1%}, which is clearly above chance" if clear < accuracy_floor(task) else ""
    advice = "train it longer" + (f", or lower the task's min_teacher_accuracy ({lower})" if lower else "")
    learned = reached > chance + 0.2 * (1 - chance)
    if as_stated:
        return (
            "its input is right, for its training reached as much, and no order of the classes helps: it has learned "
            f"{'not well enough' if learned else 'next to nothing'}; {advice}"
        )
    return "no order of the classes and no usual scale helps; it " + (
        f"has learned this task, but not well enough: {advice}"
        if learned
        else "looks untrained or trained for something else"
    )


def as_csv(names: Sequence[str]) -> str:
    """What ``--classes`` takes: names with commas are in quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


def _mistake(teacher: Teacher, data: TaskData, evidence: _Evidence, inputs: bool = True) -> str | None:
    """Which of the usual mistakes explains a bad teacher: try to undo each and see which one helps most.

    Other inputs are tried with ``inputs`` only.

    Undoing another scale must gain `SUSPICIOUS_GAIN` and four standard errors, by more images than chance explains
    (`CHANCE_OF_A_MISTAKE`), and make the teacher about as good as one must be here. Classes that are exchanged must
    themselves be right after the exchange and wrong before it.
    """
    task, n = data.task, len(evidence.labels)
    now = accuracy(evidence.logits, evidence.labels)
    if now > 1 - SUSPICIOUS_GAIN:
        return None

    def of(accuracy: float) -> str:  # what it is compared with, where that is not the validation accuracy
        return f" of {evidence.where} instead of {accuracy:.1%}" if evidence.with_training else ""

    worth = max(min(3 / task.n_classes, 0.6), accuracy_floor(task) / 2)
    found: list[tuple[float, str]] = []

    permuted, mapping = _best_assignment(evidence.logits, evidence.labels, task.n_classes)
    moved = {source: target for source, target in mapping.items() if source != target}
    enough = min(worth, accuracy_floor(task))
    if permuted >= enough and moved and _are_exchanged(evidence.logits, evidence.labels, moved):
        shown = ", ".join(f"{source}->{target}" for source, target in list(moved.items())[:5])
        order = [data.classes[mapping[output]] for output in range(task.n_classes)]
        names = as_csv(order) if len(order) <= FEW else "NAME,NAME,..."
        advice = "bring its classes into the order of the task, or state theirs (--classes "
        advice += f"{shlex.quote(names)} of 'naslib-autokd teacher check')"
        if permuted < worth:
            advice = f"so either {advice}, or it has learned too little so far (train it longer)"
        permutation = f"{shown}{', ...' if len(moved) > 5 else ''}"
        reached = f"it would reach {permuted:.1%}{of(now)}"
        found.append((permuted, f"with its classes permuted ({permutation}) {reached}; {advice}"))
    n_images = next(number for size, number in TRIAL_IMAGES.items() if task.image_size <= size)
    images, labels = evidence.images[:n_images], evidence.labels[:n_images]
    right = evidence.logits[:n_images].argmax(dim=1) == labels
    here = float(right.float().mean())
    needed = max(worth, here + max(SUSPICIOUS_GAIN, 4 * (here * (1 - here) / min(n, n_images)) ** 0.5))
    for name, advice, other, shown_images in _other_inputs(teacher, data, images) if inputs else ():
        right_then = other.predict(shown_images).argmax(dim=1) == labels
        rescaled = float(right_then.float().mean())
        if rescaled >= needed and _is_better(int((right_then & ~right).sum()), int((right & ~right_then).sum())):
            # a network that was hardly trained may be better on another scale than on its own
            cause = f"so it is fed {advice}"
            if rescaled < accuracy_floor(task):
                cause = f"so either it is fed {advice}, or it has learned too little so far (train it longer)"
            found.append((rescaled, f"with {name} as input it reaches {rescaled:.1%}{of(here)}, {cause}"))
    return max(found, key=lambda one: one[0], default=(0.0, None))[1]


def _is_better(gained: int, lost: int) -> bool:
    """Whether images that are named correctly only then outnumber those that are so only now (sign test)."""
    from scipy.stats import binomtest

    p_value: float = binomtest(gained, gained + lost, alternative="greater").pvalue
    return p_value <= CHANCE_OF_A_MISTAKE


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
    network = teacher.members[0]
    others: list[tuple[str, str, Teacher, Tensor]] = []
    for name, mean, std in scales:
        if len(mean) in (1, given.channels):
            typed = " ".join(
                f"--{option} {','.join(f'{value:.6g}' for value in values)}"
                for option, values in (("mean", mean), ("std", std))
            )
            remedy = (
                f"images on the wrong scale; state the normalisation that it was trained with ({typed}, if it is this, "
                "of 'naslib-autokd teacher check', or Teacher(network, mean, std))"
            )
            others.append((name, remedy, Teacher.of(network, replace(given, mean=mean, std=std), task), images))
    if given.size not in (None, task.image_size) or given.crop != 1:
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
