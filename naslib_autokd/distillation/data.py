"""Images of a task: all in memory as uint8, splits and augmented views fixed by the task.

`load_data` is a pure function of the task (and of the files in its data folder). Training images come in ``n_views``
fixed augmented views, so that a teacher's logits can be cached by (sample, view); two to four views do as well as a
live teacher and cost a gather per batch. Floats exist for one batch at a time (`TaskData.normalise`).

The test split is closed: it is made when `TaskData.read_test` is called, which counts its calls, and only
`KDEvaluator.judge` and `teacher_row` call it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from naslib_autokd.records import derive_seed
from naslib_autokd.tasks import (
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

CLUTTER_BRIGHTNESS = 0.8
NOISE = 0.1
PIECE = 4
BLACK, WHITE = -0.25, 1.25
"""Brightness of the pixel values 0 and 255 of a canvas: dark noise must not be cut off at 0, it would make the task
easier (a CNN of 24k parameters: 83.4 instead of 81.4%)."""
MOMENT_IMAGES = 10_000
"""Mean and standard deviation are taken over at most so many training images (as float64 they take 250 MB)."""
HELD_OUT_SHARES = {"val": 0.15, "test": 0.2}
"""Of an image folder that says nothing itself."""


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

    def __post_init__(self) -> None:
        self._test: tuple[Tensor, Tensor] | None = None

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
        return normalise(images, self.mean, self.std)

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
    offset = torch.tensor(mean, device=images.device).mul_(255).view(-1, 1, 1)
    scale = torch.tensor(std, device=images.device).mul_(255).reciprocal_().view(-1, 1, 1)
    return images.to(torch.float32).sub_(offset).mul_(scale)


def load_data(task: Task | str, device: torch.device | str = "cpu") -> TaskData:
    """Read and split the images of a task, and draw its views.

    Raises:
        TaskError: If the data are missing, a class is empty, or the task wants more images than there are.
    """
    task = get_task(task).resolve()
    teacher, val, make_test, classes = LOADERS[task.dataset](task)
    if len(classes) != task.n_classes:
        raise TaskError(f"{task.name}: the data have {len(classes)} classes, the task says {task.n_classes}")
    n_teacher = len(teacher[1])
    n_train = task.n_train or n_teacher
    if n_train > n_teacher:
        raise TaskError(f"{task.name}: n_train={n_train}, but there are only {n_teacher} training images")
    task = get_task(task, n_train=n_train, n_teacher=n_teacher, n_val=len(val[1]))
    pixels = teacher[0][:MOMENT_IMAGES].astype(np.float64) / 255  # all the teacher's: n_train must not change a teacher
    views = draw_views(teacher[0], task)
    val_images, val_labels = _tensors(val, torch.device(device))
    return TaskData(
        task=task,
        teacher_views=torch.from_numpy(views).to(device),
        teacher_labels=torch.from_numpy(teacher[1]).to(device),
        val_images=val_images,
        val_labels=val_labels,
        classes=classes,
        mean=tuple(float(value) for value in pixels.mean(axis=(0, 2, 3))),
        std=tuple(float(value) for value in pixels.std(axis=(0, 2, 3)).clip(min=1e-3)),
        make_test=make_test,
    )


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


def _load_cluttered_digits(task: Task) -> tuple[Split, Split, Callable[[], Split], tuple[str, ...]]:
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

    return canvases("train"), canvases("val"), lambda: canvases("test"), _digit_names()


def _load_digits(task: Task) -> tuple[Split, Split, Callable[[], Split], tuple[str, ...]]:
    images, labels = _digits()
    originals = digit_originals(task)
    wanted = {"train": task.n_teacher, "val": task.n_val, "test": task.n_test}
    for split, number in wanted.items():
        if number > len(originals[split]):
            raise TaskError(f"{task.name}: {split} has {len(originals[split])} digits, the task wants {number}")
    parts = {split: originals[split][: wanted[split] or None] for split in originals}
    resized = _resize_nearest(images, task.image_size)
    return (
        (resized[parts["train"]], labels[parts["train"]]),
        (resized[parts["val"]], labels[parts["val"]]),
        lambda: (resized[parts["test"]], labels[parts["test"]]),
        _digit_names(),
    )


def _digit_names() -> tuple[str, ...]:
    return tuple(str(digit) for digit in range(10))


def _resize_nearest(images: Images, size: int) -> Images:
    pick = np.arange(size) * images.shape[-1] // size
    return np.ascontiguousarray(images[:, :, pick][:, :, :, pick])


# --- CIFAR ----------------------------------------------------------------------------------------------------------


def _load_cifar(task: Task) -> tuple[Split, Split, Callable[[], Split], tuple[str, ...]]:
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
    train, val = _hold_out(images, labels, task.n_val or len(labels) // 10, task, "val")

    def test() -> Split:
        test_images, test_labels, _ = read(train=False)
        return _first(test_images, test_labels, task.n_test, task, "test")

    return _first(*train, task.n_teacher, task, "train"), val, test, classes


def _fit(images: Images, task: Task) -> Images:
    if images.shape[1] != task.in_channels:
        raise TaskError(f"{task.name}: the images have {images.shape[1]} channels, the task {task.in_channels}")
    return images if images.shape[-1] == task.image_size else _resize_nearest(images, task.image_size)


def _hold_out(images: Images, labels: Labels, count: int, task: Task, purpose: str) -> tuple[Split, Split]:
    """``(rest, held out)``: ``count`` samples held out, stratified; both in stratified order."""
    if not 0 < count < len(labels):
        raise TaskError(f"{task.name}: cannot hold out {count} of {len(labels)} images for {purpose}")
    order = stratified_order(labels, _rng(task, f"hold out {purpose}"))
    held, rest = order[:count], order[count:]
    return (images[rest], labels[rest]), (images[held], labels[held])


def _first(images: Images, labels: Labels, count: int, task: Task, purpose: str) -> Split:
    """The first ``count`` samples (all if 0) in stratified order."""
    if count > len(labels):
        raise TaskError(f"{task.name}: {purpose} has {len(labels)} images, the task wants {count}")
    order = stratified_order(labels, _rng(task, f"order {purpose}"))[: count or None]
    return images[order], labels[order]


# --- image folders --------------------------------------------------------------------------------------------------


def _load_image_folder(task: Task) -> tuple[Split, Split, Callable[[], Split], tuple[str, ...]]:
    root = task.require_data_dir("one subfolder per class")
    folders, classes = image_folder_splits(root), image_folder_classes(root)
    if "all" in folders:
        # Which images are test images is decided on file names; their pixels are read by the final evaluation.
        paths, labels = _list_images(folders["all"], classes)
        n_test = task.n_test or max(1, round(len(labels) * HELD_OUT_SHARES["test"]))
        order = stratified_order(labels, _rng(task, "hold out test"))
        if n_test >= len(labels):
            raise TaskError(f"{task.name}: cannot hold out {n_test} of {len(labels)} images for test")
        test_part, rest = order[:n_test], order[n_test:]
        test_paths, test_labels = [paths[i] for i in test_part], labels[test_part]
        paths, labels = [paths[i] for i in rest], labels[rest]
    else:
        paths, labels = _list_images(folders["train"], classes)
        if "test" not in folders:
            raise TaskError(f"{root} has train/ but neither val/ nor test/: nothing is held out for the final test")
        test_paths, test_labels = _list_images(folders["test"], classes)
    train = _read_images(paths, task), labels
    if "val" in folders:
        val_paths, val_labels = _list_images(folders["val"], classes)
        val = _first(_read_images(val_paths, task), val_labels, task.n_val, task, "val")
    else:
        n_val = task.n_val or max(1, round(len(labels) * HELD_OUT_SHARES["val"]))
        train, val = _hold_out(*train, n_val, task, "val")

    def test() -> Split:
        return _first(_read_images(test_paths, task), test_labels, task.n_test, task, "test")

    return _first(*train, task.n_teacher, task, "train"), val, test, classes


def _list_images(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], Labels]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(iter_images(folder / name))
        paths += found
        labels += [label] * len(found)
    return paths, np.asarray(labels, dtype=np.int64)


def _read_images(paths: list[Path], task: Task) -> Images:
    """Shorter side resized to ``image_size``, the centre cut out; grey or colour as the task says."""
    from PIL import Image, ImageOps

    size = task.image_size
    images = np.empty((len(paths), task.in_channels, size, size), dtype=np.uint8)
    for index, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                fitted = ImageOps.fit(
                    image.convert("L" if task.in_channels == 1 else "RGB"), (size, size), Image.Resampling.BILINEAR
                )
        except OSError as error:
            raise TaskError(f"{path} is not a readable image: {error}") from error
        images[index] = np.asarray(fitted).reshape(size, size, task.in_channels).transpose(2, 0, 1)
    return images


LOADERS: dict[str, Callable[[Task], tuple[Split, Split, Callable[[], Split], tuple[str, ...]]]] = {
    "cluttered-digits": _load_cluttered_digits,
    "digits": _load_digits,
    "cifar10": _load_cifar,
    "cifar100": _load_cifar,
    "imagefolder": _load_image_folder,
}
