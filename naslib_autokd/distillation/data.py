"""Images of a task: all in memory as uint8, splits and augmented views fixed by the task.

`load_data` is a pure function of the task (and of the files in its data folder). Training images come in ``n_views``
fixed augmented views, so that a teacher's logits can be cached by (sample, view); two to four views do as well as a
live teacher and cost a gather per batch. Floats exist for one batch at a time (`TaskData.normalise`).

The test split is closed: it is made when `TaskData.read_test` is called, which counts its calls, and only
`KDEvaluator.judge` and `teacher_row` call it.

`data_from_dataset` makes the same of any map-style torch dataset; `save_splits` keeps which image is in which split.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from naslib_autokd.distillation.decoding import Decoded, fit_image, read_images
from naslib_autokd.records import derive_seed
from naslib_autokd.tasks import (
    TASKS,
    Task,
    TaskError,
    get_task,
    image_folder_classes,
    image_folder_splits,
    iter_images,
)

Images = npt.NDArray[np.uint8]  # (n, channels, height, width)
Labels = npt.NDArray[np.int64]  # (n,)
Split = tuple[Images, Labels]
Members = tuple[int | str, ...]
"""Which images of its source a split holds: file names below ``data_dir``, or positions in the source's own order."""

CLUTTER_BRIGHTNESS = 0.8
NOISE = 0.1
PIECE = 4
BLACK, WHITE = -0.25, 1.25
"""Brightness of the pixel values 0 and 255 of a canvas: dark noise must not be cut off at 0, it would make the task
easier (a CNN of 24k parameters: 83.4 instead of 81.4%)."""
MOMENT_IMAGES = 10_000
"""Mean and standard deviation are taken over at most so many training images."""
FLOAT_PIXELS = MOMENT_IMAGES * 3 * 32 * 32
"""More pixels than these are not made floats to take their moments (these take 250 MB)."""
HELD_OUT_SHARES = {"val": 0.15, "test": 0.2}
"""Of an image folder, or a dataset, that says nothing itself."""
SPLITS_FILE = "splits.json"
"""Written by `save_splits`."""


@dataclass
class TaskData:
    """The images of a task. uint8 ``(n, channels, size, size)``; labels are int64 ``(n,)``."""

    task: Task
    teacher_views: Tensor
    """``(n_views, n_teacher, channels, size, size)``: what the teacher trains on; view 0 is the image itself."""
    teacher_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1], over the training images."""
    std: tuple[float, ...]
    make_test: Callable[[], Split] = field(repr=False)
    test_reads: int = 0
    """How often the test split was read; 0 during any search."""
    members: Mapping[str, Members] = field(default_factory=dict, repr=False)
    """Of ``train`` (the teacher's, in order; students see the first ``n_train``), ``val`` and ``test`` (not where the
    dataset keeps its test images in files of their own)."""
    skipped: tuple[str, ...] = ()
    """A line for each training or validation image that could not be read and was left out."""

    def __post_init__(self) -> None:
        self._test: tuple[Tensor, Tensor] | None = None
        self._offset, self._scale = _affine(self.mean, self.std, self.device)  # a copy per batch would wait for a GPU

    @property
    def train_views(self) -> Tensor:
        """``(n_views, n_train, channels, size, size)``: what students train on, the first of the teacher's."""
        return self.teacher_views[:, : self.task.n_train]

    @property
    def train_images(self) -> Tensor:
        """View 0 of `train_views`."""
        return self.train_views[0]

    @property
    def train_labels(self) -> Tensor:
        return self.teacher_labels[: self.task.n_train]

    @property
    def device(self) -> torch.device:
        return self.teacher_views.device

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images as float32 with the training split's mean 0 and standard deviation 1 per channel."""
        return images.to(torch.float32).sub_(self._offset).mul_(self._scale)

    def read_test(self) -> tuple[Tensor, Tensor]:
        """Test images and labels. Only the final evaluation may call this; `test_reads` counts."""
        self.test_reads += 1
        if self._test is None:
            self._test = _tensors(self.make_test(), self.device)
        return self._test

    def to(self, device: torch.device | str) -> TaskData:
        """The same data on another device (itself if it is already there)."""
        device = torch.device(device)
        if device == self.device:
            return self
        return TaskData(
            task=self.task,
            teacher_views=self.teacher_views.to(device),
            teacher_labels=self.teacher_labels.to(device),
            val_images=self.val_images.to(device),
            val_labels=self.val_labels.to(device),
            classes=self.classes,
            mean=self.mean,
            std=self.std,
            make_test=self.make_test,
            members=self.members,
            skipped=self.skipped,
        )

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the training images, views and labels: part of the key of cached teachers."""
        content = hashlib.sha256()
        for tensor in (self.teacher_views, self.teacher_labels):
            content.update(str(tuple(tensor.shape)).encode())
            content.update(tensor.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()[:12]


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``(images / 255 - mean) / std`` per channel, float32."""
    offset, scale = _affine(mean, std, images.device)
    return images.to(torch.float32).sub_(offset).mul_(scale)


def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What `normalise` subtracts from a pixel and then multiplies it by: ``(channels, 1, 1)`` each."""
    offset = torch.tensor(mean).mul_(255).view(-1, 1, 1)
    scale = torch.tensor(std).mul_(255).reciprocal_().view(-1, 1, 1)
    return offset.to(device), scale.to(device)


@dataclass(frozen=True)
class Loaded:
    """What a loader reads: the teacher's images, those for validation, and how to read the test images."""

    train: Split
    val: Split
    make_test: Callable[[], Split]
    classes: tuple[str, ...]
    members: Mapping[str, Members]
    skipped: tuple[str, ...] = ()


def load_data(task: Task | str, device: torch.device | str = "cpu") -> TaskData:
    """Read and prepare the images of a task; the result's ``task`` has all sizes filled in.

    Raises:
        TaskError: If the data folder is missing, damaged, or a class is empty, or the task wants more images than
            there are.
    """
    task = get_task(task).resolve()
    return _prepared(task, LOADERS[task.dataset](task), device)


def _prepared(task: Task, loaded: Loaded, device: torch.device | str) -> TaskData:
    teacher, val, classes = loaded.train, loaded.val, loaded.classes
    if len(classes) != task.n_classes:
        raise TaskError(f"{task.name}: the data have {len(classes)} classes, the task says {task.n_classes}")
    n_teacher = len(teacher[1])
    n_train = task.n_train or n_teacher
    if n_train > n_teacher:
        raise TaskError(f"{task.name}: n_train={n_train}, but there are only {n_teacher} training images")
    task = get_task(task, n_train=n_train, n_teacher=n_teacher, n_val=len(val[1]))
    mean, std = moments(teacher[0])  # of all the teacher's: n_train must not change a teacher
    views = draw_views(teacher[0], task)
    val_images, val_labels = _tensors(val, torch.device(device))
    return TaskData(
        task=task,
        teacher_views=torch.from_numpy(views).to(device),
        teacher_labels=torch.from_numpy(teacher[1]).to(device),
        val_images=val_images,
        val_labels=val_labels,
        classes=classes,
        mean=mean,
        std=std,
        make_test=loaded.make_test,
        members=loaded.members,
        skipped=loaded.skipped,
    )


def moments(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of the pixels in [0, 1], over the first `MOMENT_IMAGES` images."""
    chosen = images[:MOMENT_IMAGES]
    if chosen.size <= FLOAT_PIXELS:
        pixels = chosen.astype(np.float64) / 255
        mean, std = pixels.mean(axis=(0, 2, 3)), pixels.std(axis=(0, 2, 3))
    else:  # 5,000 photographs of 224 pixels would take 6 GB as floats
        counts = np.zeros((images.shape[1], 256))
        for image in chosen:
            for channel, plane in enumerate(image):
                counts[channel] += np.bincount(plane.ravel(), minlength=256)
        shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
        mean = shares @ values
        std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(float(value) for value in mean), tuple(float(value) for value in std.clip(min=1e-3))


def _tensors(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(split[0]).to(device), torch.from_numpy(split[1]).to(device)


def _rng(task: Task, purpose: str) -> np.random.RandomState:
    # RandomState's streams are frozen for good, those of numpy's newer Generator may change between versions.
    return np.random.RandomState(derive_seed(task.dataset, task.split_seed, purpose))


def stratified_order(labels: Labels, rng: np.random.RandomState) -> npt.NDArray[np.int64]:
    """A random order of the samples in which every contiguous part has each class in proportion, give or take two."""
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + rng.uniform()) / len(members)
    return np.argsort(position, kind="stable")


def draw_views(images: Images, task: Task) -> Images:
    """``(n_views, n, channels, size, size)``; view 0 is the image itself, the others are drawn once per sample.

    ``shift``: moved by up to ``max_shift`` pixels in each direction (by at least one), the border is repeated.
    ``crop-flip``: cut out of the image with ``max_shift`` zeros around it, and mirrored with probability one half.
    """
    views = np.broadcast_to(images, (task.n_views, *images.shape)).copy()
    rng, n, size, margin = _rng(task, "views"), len(images), task.image_size, task.max_shift
    border = ((0, 0), (0, 0), (margin, margin), (margin, margin))
    padded = np.pad(images, border, mode="constant" if task.augmentation == "crop-flip" else "edge")
    n_places = (2 * margin + 1) ** 2
    for view in views[1:]:
        place = rng.randint(1 if task.augmentation == "shift" else 0, n_places, size=n)  # 0 is the middle
        corner = np.divmod((place + n_places // 2) % n_places, 2 * margin + 1)
        rows, columns = (start[:, None] + np.arange(size) for start in corner)
        if task.augmentation == "crop-flip":
            mirrored = rng.uniform(size=n) < 0.5
            columns[mirrored] = columns[mirrored, ::-1]
        for channel in range(images.shape[1]):
            view[:, channel] = padded[np.arange(n)[:, None, None], channel, rows[:, :, None], columns[:, None, :]]
    return views


# --- scikit-learn's digits ------------------------------------------------------------------------------------------

DIGIT_SPLITS = {"train": 900, "val": 300, "test": 597}
"""Originals of scikit-learn's 1,797 digits behind each split; canvases of different splits share none."""


@lru_cache(maxsize=1)
def _digits() -> Split:
    """Images ``(1797, 1, 8, 8)`` and labels of ``sklearn.datasets.load_digits``."""
    spec = importlib.util.find_spec("sklearn")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else Path()
    file = folder / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():  # importing sklearn.datasets takes 1.5 s in every process, reading its file 0.1 s
        table = np.loadtxt(file, delimiter=",")
    else:
        from sklearn.datasets import load_digits

        table = np.column_stack(load_digits(return_X_y=True))
    images = (table[:, :-1] / 16 * 255).round().astype(np.uint8).reshape(-1, 1, 8, 8)
    return images, table[:, -1].astype(np.int64)


def digit_originals(task: Task) -> dict[str, npt.NDArray[np.int64]]:
    """Indices of the original digits behind each split: disjoint, stratified, fixed by ``task.split_seed``."""
    order = stratified_order(_digits()[1], _rng(task, "originals"))
    ends = np.cumsum(list(DIGIT_SPLITS.values()))[:-1]
    return dict(zip(DIGIT_SPLITS, np.split(order, ends), strict=True))


def draw_canvases(originals: Split, count: int, size: int, seed: int) -> Split:
    """``count`` canvases of ``size x size`` pixels, each with one original, a piece of another digit, and noise.

    A pure function of its arguments. Originals are taken in turn, so that their classes keep their proportions. The
    digit lies at a random place with brightness 0.6 to 1; a 4x4 piece of a digit of another class lies at another
    random place with brightness 0.8, over or under it, whichever is brighter; every pixel gets Gaussian noise of
    standard deviation 0.1. Brightness -0.25 to 1.25 is stored as 0 to 255.
    """
    images, labels = originals
    side = images.shape[-1]
    rng = np.random.RandomState(seed)
    digits = images[:, 0].astype(np.float64) / 255
    index = np.arange(count) % len(digits)
    canvases = np.zeros((count, size, size))
    brightness = rng.uniform(0.6, 1, size=(count, 1, 1))
    _paste(canvases, digits[index] * brightness, rng.randint(0, size - side + 1, size=(2, count)))
    other = rng.randint(len(digits), size=count)
    while (same := labels[other] == labels[index]).any():
        other[same] = rng.randint(len(digits), size=int(same.sum()))
    corner = rng.randint(0, side - PIECE + 1, size=(2, count, 1)) + np.arange(PIECE)
    pieces = digits[other[:, None, None], corner[0][:, :, None], corner[1][:, None, :]] * CLUTTER_BRIGHTNESS
    _paste(canvases, pieces, rng.randint(0, size - PIECE + 1, size=(2, count)))
    canvases += rng.normal(scale=NOISE, size=canvases.shape)
    pixels = (canvases.clip(BLACK, WHITE) - BLACK) / (WHITE - BLACK) * 255
    return pixels.round().astype(np.uint8)[:, None], labels[index]


def _paste(canvases: npt.NDArray[np.float64], pieces: npt.NDArray[np.float64], place: npt.NDArray[np.int64]) -> None:
    """Brighten ``canvases`` in place by ``pieces`` with their upper left corners at ``place`` (rows, columns)."""
    span = np.arange(pieces.shape[-1])
    at = (
        np.arange(len(canvases))[:, None, None],
        (place[0][:, None] + span)[:, :, None],
        (place[1][:, None] + span)[:, None, :],
    )
    canvases[at] = np.maximum(canvases[at], pieces)


def _load_cluttered_digits(task: Task) -> Loaded:
    if task.image_size < 8:
        raise TaskError(
            f"{task.name}: the digits have 8x8 pixels, image_size must be at least 8, got {task.image_size}"
        )
    images, labels = _digits()
    originals = digit_originals(task)
    counts = {"train": task.n_teacher or 6000, "val": task.n_val or 3000, "test": task.n_test or 3000}

    def canvases(split: str) -> Split:
        chosen = originals[split]
        seed = derive_seed(task.dataset, task.split_seed, "canvases", split)
        return draw_canvases((images[chosen], labels[chosen]), counts[split], task.image_size, seed)

    members = {split: _members(chosen) for split, chosen in originals.items()}
    return Loaded(canvases("train"), canvases("val"), lambda: canvases("test"), _digit_names(), members)


def _load_digits(task: Task) -> Loaded:
    images, labels = _digits()
    originals = digit_originals(task)
    wanted = {"train": task.n_teacher, "val": task.n_val, "test": task.n_test}
    for split, number in wanted.items():
        if number > len(originals[split]):
            raise TaskError(f"{task.name}: {split} has {len(originals[split])} digits, the task wants {number}")
    parts = {split: originals[split][: wanted[split] or None] for split in originals}
    resized = _resize_nearest(images, task.image_size)
    return Loaded(
        (resized[parts["train"]], labels[parts["train"]]),
        (resized[parts["val"]], labels[parts["val"]]),
        lambda: (resized[parts["test"]], labels[parts["test"]]),
        _digit_names(),
        {split: _members(part) for split, part in parts.items()},
    )


def _digit_names() -> tuple[str, ...]:
    return tuple(str(digit) for digit in range(10))


def _resize_nearest(images: Images, size: int) -> Images:
    pick = np.arange(size) * images.shape[-1] // size
    return np.ascontiguousarray(images[:, :, pick][:, :, :, pick])


# --- CIFAR ----------------------------------------------------------------------------------------------------------


def _load_cifar(task: Task) -> Loaded:
    from naslib_autokd.distillation.vision import import_torchvision

    root = task.require_data_dir(f"the extracted {task.dataset}")
    datasets = import_torchvision().datasets
    reader = datasets.CIFAR10 if task.dataset == "cifar10" else datasets.CIFAR100

    def read(train: bool) -> tuple[Images, Labels, tuple[str, ...]]:
        try:
            dataset = reader(root, train=train, download=task.download)
        except RuntimeError as error:
            raise TaskError(f"{task.dataset} in {root} cannot be read: {error}") from error
        images = np.ascontiguousarray(np.asarray(dataset.data).transpose(0, 3, 1, 2))
        return _fit(images, task), np.asarray(dataset.targets, dtype=np.int64), tuple(dataset.classes)

    images, labels, classes = read(train=True)
    train, val = _hold_out(labels, np.arange(len(labels)), task.n_val or len(labels) // 10, task, "val")
    train = _first(labels, train, task.n_teacher, task, "train")

    def test() -> Split:
        test_images, test_labels, _ = read(train=False)
        chosen = _first(test_labels, np.arange(len(test_labels)), task.n_test, task, "test")
        return test_images[chosen], test_labels[chosen]

    members = {"train": _members(train), "val": _members(val)}
    return Loaded((images[train], labels[train]), (images[val], labels[val]), test, classes, members)


def _fit(images: Images, task: Task) -> Images:
    if images.shape[1] != task.in_channels:
        raise TaskError(f"{task.name}: the images have {images.shape[1]} channels, the task {task.in_channels}")
    return images if images.shape[-1] == task.image_size else _resize_nearest(images, task.image_size)


# --- who is in which split ------------------------------------------------------------------------------------------

Indices = npt.NDArray[np.int64]


def _hold_out(labels: Labels, among: Indices, count: int, task: Task, purpose: str) -> tuple[Indices, Indices]:
    """``(rest, held out)`` of the samples ``among``: ``count`` held out, stratified; both in stratified order."""
    if not 0 < count < len(among):
        raise TaskError(f"{task.name}: cannot hold out {count} of {len(among)} images for {purpose}")
    order = among[stratified_order(labels[among], _rng(task, f"hold out {purpose}"))]
    return order[count:], order[:count]


def _first(labels: Labels, among: Indices, count: int, task: Task, purpose: str) -> Indices:
    """The first ``count`` (all if 0) of the samples ``among`` in stratified order."""
    if count > len(among):
        raise TaskError(f"{task.name}: {purpose} has {len(among)} images, the task wants {count}")
    return among[stratified_order(labels[among], _rng(task, f"order {purpose}"))[: count or None]]


def _members(indices: Indices) -> Members:
    return tuple(indices.tolist())


def save_splits(data: TaskData, folder: str | Path) -> Path:
    """Keep in ``folder`` which image is in which split, or check that a run that began there has the same ones.

    ``splits.json``: ``task``, ``task_digest``, ``data_digest``, ``classes``, ``splits`` (`TaskData.members`) and
    ``skipped``. File names are relative to the data folder, so the folder may be moved.

    Raises:
        TaskError: If the splits that are kept there are others: says which images came, went or changed.
    """
    path = Path(folder) / SPLITS_FILE
    content: dict[str, Any] = {
        "task": data.task.name,
        "task_digest": data.task.digest,
        "data_digest": data.digest,
        "classes": list(data.classes),
        "splits": {split: list(members) for split, members in data.members.items()},
        "skipped": list(data.skipped),
    }
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            splits = {split: list(members) for split, members in kept["splits"].items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise TaskError(f"{path} is damaged: {error}; remove it if the images have not changed") from error
        for split, members in content["splits"].items():
            if splits.get(split) != members:
                raise TaskError(f"{path}: {_what_changed(split, splits.get(split, []), members)}")
        if kept.get("data_digest") != content["data_digest"]:
            raise TaskError(
                f"{path}: the files are the same as when this run began, but the pixels of some, or the way they are "
                "drawn, have changed; give another folder for the run, or the images as they were"
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1).encode())
    return path


def _what_changed(split: str, before: Sequence[object], now: Sequence[object]) -> str:
    gone, new = ([str(m) for m in one if m not in others] for one, others in ((before, set(now)), (now, set(before))))
    parts = [
        f"{len(part)} {word} ({', '.join(part[:3])}{', ...' if len(part) > 3 else ''})"
        for part, word in ((gone, "went"), (new, "came"))
        if part
    ]
    what = " and ".join(parts) or "the order is another"
    return (
        f"the images of split {split!r} are not those with which this run began: {what}; "
        "give another folder for the run, or the images as they were"
    )


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


# --- image files ----------------------------------------------------------------------------------------------------


def _load_image_folder(task: Task) -> Loaded:
    root = task.require_data_dir("one subfolder per class")
    folders, classes = image_folder_splits(root), image_folder_classes(root)
    if "all" in folders:
        files = _Files.listed(root, folders["all"], classes)
        everything = np.arange(len(files.labels))
        # Which images are test images is decided on file names; their pixels are read by the final evaluation.
        n_test = task.n_test or max(1, round(len(everything) * HELD_OUT_SHARES["test"]))
        rest, held = _hold_out(files.labels, everything, n_test, task, "test")
        train, test = files.part(rest), files.part(held)
    else:
        train = _Files.listed(root, folders["train"], classes)
        if "test" not in folders:
            raise TaskError(
                f"{root} has train/ but neither val/ nor test/: nothing is held out for the final test; "
                "add test/, or put the class folders of train/ directly into the folder, which is then split"
            )
        test = _Files.listed(root, folders["test"], classes)
    val = _Files.listed(root, folders["val"], classes) if "val" in folders else None
    return _load_files(task, train, val, test, classes)


def _load_mit67(task: Task) -> Loaded:
    """The Indoor Scene folder with the lists of 67 x 80 training and 67 x 20 test images."""
    folder = task.dataset_folder()
    named = {split: _read_list(folder, f"{split}Images.txt") for split in ("Train", "Test")}
    if twice := sorted(set(named["Train"]) & set(named["Test"])):
        raise TaskError(
            f"{folder}: {twice[0]} and {len(twice) - 1} others are in both lists, for training and for test"
        )
    classes = tuple(sorted({name.split("/")[0] for name in named["Train"]}))
    if odd := sorted({name.split("/")[0] for name in named["Test"]} - set(classes)):
        raise TaskError(f"{folder}: TestImages.txt has classes that TrainImages.txt has not: {', '.join(odd[:5])}")
    number = {name: index for index, name in enumerate(classes)}
    train, test = (
        _Files(folder, tuple(f"Images/{name}" for name in names), np.asarray([number[n.split("/")[0]] for n in names]))
        for names in named.values()
    )
    return _load_files(task, train, None, test, classes)


def _read_list(folder: Path, name: str) -> list[str]:
    names = []
    for number, line in enumerate((folder / name).read_text(encoding="utf-8").splitlines(), 1):
        if not (image := line.strip()):
            continue
        if "/" not in image:
            raise TaskError(f"{folder / name}, line {number}: expected class/file, got {image!r}")
        if not (folder / "Images" / image).is_file():
            raise TaskError(
                f"{folder / name}, line {number}: {folder / 'Images' / image} does not exist; "
                "the images are incomplete, extract the archive again"
            )
        names.append(image)
    return names


FLOWER_SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}
"""Names of the splits in ``setid.mat``; some papers train on ``tstid``, the largest."""


def _load_flowers102(task: Task) -> Loaded:
    """Oxford's 102 flowers in torchvision's layout: ``jpg/image_00001.jpg``, ...; labels and splits are .mat files."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    folder = task.dataset_folder()
    try:
        labels = loadmat(folder / "imagelabels.mat")["labels"].ravel().astype(np.int64)
        sets = loadmat(folder / "setid.mat")
        chosen = {split: sets[key].ravel().astype(np.int64) for split, key in FLOWER_SPLITS.items()}
    except (MatReadError, OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise TaskError(f"imagelabels.mat or setid.mat in {folder} cannot be read: {error}") from error
    numbers = np.concatenate(list(chosen.values()))
    if len(set(numbers.tolist())) < len(numbers) or numbers.min() < 1 or numbers.max() > len(labels):
        raise TaskError(f"{folder}: the splits of setid.mat overlap or name images that imagelabels.mat does not have")
    classes = tuple(str(number) for number in range(1, int(labels.max()) + 1))
    files = {
        split: _Files(folder, tuple(f"jpg/image_{number:05d}.jpg" for number in part), labels[part - 1] - 1)
        for split, part in chosen.items()
    }
    absent = [name for part in files.values() for name in part.names if not (folder / name).is_file()]
    if absent:
        raise TaskError(
            f"{folder}: {len(absent)} images are missing, for example {absent[0]}; extract 102flowers.tgz again"
        )
    return _load_files(task, files["train"], files["val"], files["test"], classes)


@dataclass(frozen=True)
class _Files:
    """Image files below ``root`` with their labels."""

    root: Path
    names: tuple[str, ...]
    labels: Labels

    @classmethod
    def listed(cls, root: Path, folder: Path, classes: tuple[str, ...]) -> _Files:
        found = [sorted(iter_images(folder / name)) for name in classes]
        names = tuple(path.relative_to(root).as_posix() for paths in found for path in paths)
        return cls(root, names, np.repeat(np.arange(len(classes)), [len(paths) for paths in found]))

    def part(self, indices: Indices) -> _Files:
        return _Files(self.root, tuple(self.names[index] for index in indices), self.labels[indices])

    def read(self, task: Task) -> tuple[Split, Members, tuple[str, ...]]:
        """Images and labels, names and complaints; without the unreadable files, if the task says so."""
        decoded: Decoded = read_images(
            [self.root / name for name in self.names],
            task.image_size,
            task.in_channels,
            skip_unreadable=task.skip_unreadable,
        )
        kept = self.part(decoded.kept)
        return (decoded.images, kept.labels), kept.names, decoded.skipped


def _load_files(task: Task, train: _Files, val: _Files | None, test: _Files, classes: tuple[str, ...]) -> Loaded:
    """Splits are decided on names and labels; ``val`` is taken from ``train`` if it is None."""
    everything = np.arange(len(train.labels))
    if val is None:
        n_val = task.n_val or max(1, round(len(everything) * HELD_OUT_SHARES["val"]))
        everything, held = _hold_out(train.labels, everything, n_val, task, "val")
        val = train.part(held)
    else:
        val = val.part(_first(val.labels, np.arange(len(val.labels)), task.n_val, task, "val"))
    train = train.part(_first(train.labels, everything, task.n_teacher, task, "train"))
    test = test.part(_first(test.labels, np.arange(len(test.labels)), task.n_test, task, "test"))
    train_split, train_names, train_skipped = train.read(task)
    val_split, val_names, val_skipped = val.read(task)
    if not task.n_teacher or train_skipped:
        _no_class_is_empty(task, train_split[1], classes)
    members = {"train": train_names, "val": val_names, "test": test.names}
    return Loaded(train_split, val_split, lambda: test.read(task)[0], classes, members, (*train_skipped, *val_skipped))


def _no_class_is_empty(task: Task, labels: Labels, classes: tuple[str, ...]) -> None:
    if empty := [name for index, name in enumerate(classes) if not (labels == index).any()]:
        raise TaskError(
            f"{task.name}: no training image is left of class {', '.join(map(repr, empty[:5]))} once validation and "
            "test images are held out (and unreadable ones left out); add images or remove the class"
        )


# --- any torch dataset ----------------------------------------------------------------------------------------------


def data_from_dataset(
    train: Any,
    test: Any = None,
    *,
    val: Any = None,
    name: str | None = None,
    classes: Sequence[str] = (),
    **overrides: Any,
) -> TaskData:
    """The images of map-style torch datasets as the data of a task, for ``KDEvaluator(data.task, data=data)``.

    An item is ``(image, label)``. Images may be Pillow's, of any size; arrays ``(height, width[, channels])``; or
    tensors ``(channels, height, width)``; arrays and tensors are uint8, or floats in [0, 1]. They are kept as uint8 of
    one size: the shorter side is resized, the centre cut out. Every item is read once, so what a transform draws at
    random is drawn once; give the task's ``augmentation`` instead.

    Args:
        train: Has a length and ``train[0], train[1], ...``; labels are numbers of classes from 0.
        test: Read when the final evaluation asks for it. None: a stratified fifth of ``train`` is kept aside.
        val: None: a stratified part of ``train`` is held out (``n_val`` images, else 15%).
        name: Of the task; by default that of the dataset's class.
        classes: Their names; by default the dataset's own ``classes``, else "0", "1", ...
        overrides: Fields of the `Task`; those left out are as in the task ``imagefolder``, but for ``image_size`` and
            ``in_channels``, which the first image decides, and no augmentation.

    Raises:
        TaskError: For items that are not like that (names the first), labels that leave a class empty, images of
            unequal size without ``image_size``.
    """
    name = name or type(train).__name__
    chosen: dict[str, Any] = {} if "augmentation" in overrides else {"augmentation": "none", "n_views": 1}
    reader = _DatasetReader(name, overrides.get("image_size"), overrides.get("in_channels"))
    images, labels = reader.read(train, "train")
    names = tuple(map(str, classes or getattr(train, "classes", ()) or range(int(labels.max()) + 1)))
    if (n_labels := int(labels.max()) + 1) > len(names):
        raise TaskError(f"{name}: there are labels up to {n_labels - 1}, but {len(names)} names of classes")
    task = get_task(
        replace(TASKS["imagefolder"], name=name, n_classes=len(names)),
        **(chosen | overrides | {"image_size": images.shape[-1], "in_channels": images.shape[1]}),
    )
    everything = np.arange(len(labels))
    members: dict[str, Members] = {}
    if test is None:
        n_test = task.n_test or max(1, round(len(labels) * HELD_OUT_SHARES["test"]))
        everything, held = _hold_out(labels, everything, n_test, task, "test")
        kept_aside, members["test"] = (images[held], labels[held]), _members(held)
    if val is None:
        n_val = task.n_val or max(1, round(len(everything) * HELD_OUT_SHARES["val"]))
        everything, held = _hold_out(labels, everything, n_val, task, "val")
        val_split = images[held], labels[held]
    else:
        val_images, val_labels = reader.read(val, "val", len(names))
        held = _first(val_labels, np.arange(len(val_labels)), task.n_val, task, "val")
        val_split = val_images[held], val_labels[held]
    rest = _first(labels, everything, task.n_teacher, task, "train")
    if not task.n_teacher:
        _no_class_is_empty(task, labels[rest], names)
    members |= {"train": _members(rest), "val": _members(held)}

    def make_test() -> Split:
        if test is None:
            return kept_aside
        test_images, test_labels = reader.read(test, "test", len(names))
        part = _first(test_labels, np.arange(len(test_labels)), task.n_test, task, "test")
        return test_images[part], test_labels[part]

    return _prepared(task, Loaded((images[rest], labels[rest]), val_split, make_test, names, members), "cpu")


@dataclass
class _DatasetReader:
    """Reads torch datasets into arrays; the first image decides what nobody has said."""

    name: str
    size: int | None
    channels: int | None

    def read(self, dataset: Any, split: str, n_classes: int | None = None) -> Split:
        if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__") or not len(dataset):
            raise TaskError(f"{self.name}: {split} must be a map-style dataset with a length of at least 1")
        images: list[Images] = []
        labels: list[int] = []
        for index in range(len(dataset)):
            where = f"{self.name}: item {index} of {split}"
            item = dataset[index]
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise TaskError(f"{where} must be (image, label), got {type(item).__name__}")
            images.append(self._pixels(item[0], where))
            labels.append(_label(item[1], where, n_classes))
        return np.stack(images), np.asarray(labels, dtype=np.int64)

    def _pixels(self, image: Any, where: str) -> Images:
        if hasattr(image, "getbands"):
            picture, channels = image, 1 if image.mode in ("1", "L", "I;16") else 3
        else:
            array = _uint8(image, where)
            if array.ndim != 3 or array.shape[-1] not in (1, 3):
                raise TaskError(
                    f"{where}: an image is (channels, height, width) as a tensor, (height, width, channels) as an "
                    f"array, with 1 or 3 channels; got {tuple(np.shape(image))}"
                )
            channels = array.shape[-1]
            if array.shape[:2] == (self.size or array.shape[0],) * 2 and channels == (self.channels or channels):
                self.size, self.channels = array.shape[0], channels
                return np.ascontiguousarray(array.transpose(2, 0, 1))
            from PIL import Image

            picture = Image.fromarray(array[:, :, 0] if channels == 1 else array)
        if self.size is None:
            if picture.width != picture.height:
                raise TaskError(
                    f"{where} has {picture.width}x{picture.height} pixels; give image_size, to which all are resized "
                    "and cut"
                )
            self.size = picture.width
        self.channels = self.channels or channels
        return fit_image(picture, self.size, self.channels)


def _uint8(image: Any, where: str) -> Images:
    """``(height, width, channels)`` of an array, or of a tensor ``(channels, height, width)``."""
    is_tensor = isinstance(image, Tensor)
    array = image.detach().cpu().numpy() if is_tensor else np.asarray(image)
    array = (
        array[:, :, None] if array.ndim == 2 else array.transpose(1, 2, 0) if is_tensor and array.ndim == 3 else array
    )
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise TaskError(f"{where} has {array.dtype} pixels; they must be uint8, or floats from 0 to 1")
    low, high = float(array.min()), float(array.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise TaskError(
            f"{where} has values from {low:.3g} to {high:.3g}; they must lie in [0, 1]: leave Normalize out of the "
            "transforms, networks get the task's normalisation and teachers bring their own"
        )
    return (array * 255).round().clip(0, 255).astype(np.uint8)


def _label(label: Any, where: str, n_classes: int | None) -> int:
    value = label.item() if hasattr(label, "item") and np.prod(np.shape(label)) == 1 else label
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TaskError(f"{where}: a label is the number of a class, from 0, got {label!r}")
    if n_classes is not None and value >= n_classes:
        raise TaskError(f"{where} has label {value}, the training data {n_classes} classes")
    return value


LOADERS: dict[str, Callable[[Task], Loaded]] = {
    "cluttered-digits": _load_cluttered_digits,
    "digits": _load_digits,
    "cifar10": _load_cifar,
    "cifar100": _load_cifar,
    "mit67": _load_mit67,
    "flowers102": _load_flowers102,
    "imagefolder": _load_image_folder,
}
