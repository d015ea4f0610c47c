"""The images of a task in memory: splits, fixed views, normalisation; the test split stays closed until it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from naslib_autokd.data.seen import SeenPictures
from naslib_autokd.data.views import Views, as_tensor
from naslib_autokd.tasks import Task

Images = npt.NDArray[np.uint8]  # (n, channels, height, width)

Labels = npt.NDArray[np.int64]  # (n,)

Split = tuple[Images, Labels]

Members = tuple[int | str, ...]
"""Which images of its source a split holds: file names below ``data_dir``, or positions in the source's own order."""

MOMENT_IMAGES = 10_000
"""Mean and standard deviation are taken over at most so many training images."""

FLOAT_PIXELS = MOMENT_IMAGES * 3 * 32 * 32
"""More pixels than these are not made floats to take their moments (these take 250 MB)."""


@dataclass
class TaskData:
    """The images of a task. uint8 ``(n, channels, size, size)``; labels are int64 ``(n,)``."""

    task: Task
    teacher_views: Views
    """``(n_views, n_teacher, channels, size, size)``: what the teacher trains on; view 0 is the image itself. A tensor
    of views that exist already may be given."""
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
    skipped: list[str] = field(default_factory=list)
    """A line for each image that could not be read and was left out; those of the test split once it was read."""
    unlabelled_views: Views | None = None
    """Likewise of the pictures of ``unlabelled_dir``, ``n_unlabelled`` of them."""

    def __post_init__(self) -> None:
        if isinstance(self.teacher_views, Tensor):
            self.teacher_views = Views.given(self.teacher_views)
        self._test: tuple[Tensor, Tensor] | None = None
        self._digest: str | None = None
        self._seen: SeenPictures | None = None
        self._offset, self._scale = _affine(self.mean, self.std, self.device)  # a copy per batch would wait for a GPU

    @property
    def train_views(self) -> Views:
        """``(n_views, n_train, channels, size, size)``: what students train on, the first of the teacher's."""
        return self.teacher_views[:, : self.task.n_train]

    @property
    def train_images(self) -> Tensor:
        """View 0 of `train_views`."""
        images: Tensor = self.train_views[0]
        return images

    @property
    def train_labels(self) -> Tensor:
        return self.teacher_labels[: self.task.n_train]

    @property
    def student_views(self) -> Views:
        """`train_views` and, after them, those of the ``n_unlabelled`` pictures without labels."""
        if self.unlabelled_views is not None:
            return self.train_views.joined(self.unlabelled_views)
        return self.teacher_views[:, : self.n_shown]

    @property
    def student_labels(self) -> Tensor:
        """Of `student_views`; -1 where there is none."""
        return torch.cat([self.train_labels, self.train_labels.new_full((self.task.n_unlabelled,), -1)])

    @property
    def n_shown(self) -> int:
        """Images of an epoch of a student, with and without labels."""
        return self.task.n_train + self.task.n_unlabelled

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
            self._test = as_tensors(self.make_test(), self.device)
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
            unlabelled_views=None if self.unlabelled_views is None else self.unlabelled_views.to(device),
        )

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the training images, views and labels: part of the key of cached teachers."""
        if self._digest is None:
            content = _digest_of(self.teacher_views)
            labels = self.teacher_labels.cpu().contiguous()
            content.update(str(tuple(labels.shape)).encode())
            content.update(labels.numpy().data)
            self._digest = content.hexdigest()[:12]
        return self._digest

    @property
    def seen(self) -> SeenPictures:
        """A sample of the pictures that students are trained or chosen on, not of their views."""
        if self._seen is None:
            views, n = self.student_views, self.n_shown
            parts = (range(start, min(start + 1024, n)) for start in range(0, n, 1024))
            shown = (views[[0] * len(part), list(part)] for part in parts)
            self._seen = SeenPictures.of(part.cpu().numpy() for part in chain(shown, self.val_images.split(1024)))
        return self._seen

    @property
    def unlabelled_digest(self) -> str:
        """The same of the pictures of ``unlabelled_dir``; empty without one."""
        return "" if self.unlabelled_views is None else _digest_of(self.unlabelled_views).hexdigest()[:12]


def _digest_of(views: Views) -> Any:
    content = hashlib.sha256(str(views.shape).encode())
    for part in views.content():
        content.update(part)
    return content


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
    skipped: list[str] = field(default_factory=list)
    """A line for each image that could not be read; ``make_test`` adds those of the test split."""


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


def as_tensors(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    return as_tensor(split[0]).to(device), torch.from_numpy(split[1]).to(device)


def resize_nearest(images: Images, size: int) -> Images:
    pick = np.arange(size) * images.shape[-1] // size
    return np.ascontiguousarray(images[:, :, pick][:, :, :, pick])


Indices = npt.NDArray[np.int64]
