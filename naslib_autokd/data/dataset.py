"""Any map-style torch dataset as the images of a task."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from naslib_autokd.data.images import Images, Loaded, Members, Split, TaskData
from naslib_autokd.data.load import prepared
from naslib_autokd.data.prepare_picture import GREY, prepare_image
from naslib_autokd.data.splits import HELD_OUT_SHARES, first_stratified, hold_out, members_of, require_every_class
from naslib_autokd.tasks import TASKS, TaskError, get_task

log = logging.getLogger(__name__)


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
        everything, held = hold_out(labels, everything, n_test, task, "test")
        kept_aside, members["test"] = (images[held], labels[held]), members_of(held)
    if val is None:
        n_val = task.n_val or max(1, round(len(everything) * HELD_OUT_SHARES["val"]))
        everything, held = hold_out(labels, everything, n_val, task, "val")
        val_split = images[held], labels[held]
    else:
        val_images, val_labels = reader.read(val, "val", len(names))
        held = first_stratified(val_labels, np.arange(len(val_labels)), task.n_val, task, "val")
        val_split = val_images[held], val_labels[held]
    rest = first_stratified(labels, everything, task.n_teacher, task, "train")
    if not task.n_teacher:
        require_every_class(task, labels[rest], names)
    members |= {"train": members_of(rest), "val": members_of(held)}

    def make_test() -> Split:
        if test is None:
            return kept_aside
        test_images, test_labels = reader.read(test, "test", len(names))
        part = first_stratified(test_labels, np.arange(len(test_labels)), task.n_test, task, "test")
        return test_images[part], test_labels[part]

    return prepared(task, Loaded((images[rest], labels[rest]), val_split, make_test, names, members), "cpu")


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
        guesses: list[str] = []
        for index in range(len(dataset)):
            where = f"{self.name}: item {index} of {split}"
            item = dataset[index]
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise TaskError(f"{where} must be (image, label), got {type(item).__name__}")
            images.append(self._pixels(item[0], where, guesses))
            labels.append(class_number(item[1], where, n_classes))
        if guesses:
            log.warning("%s: %d pictures of %s are 16-bit grey: %s", self.name, len(guesses), split, guesses[0])
        return np.stack(images), np.asarray(labels, dtype=np.int64)

    def _pixels(self, image: Any, where: str, guesses: list[str]) -> Images:
        if isinstance(image, Image.Image):
            picture, channels = image, 1 if image.mode in GREY else 3
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
            picture = Image.fromarray(array[:, :, 0] if channels == 1 else array)
        if self.size is None:
            if picture.width != picture.height:
                raise TaskError(
                    f"{where} has {picture.width}x{picture.height} pixels; give image_size, to which all are resized "
                    "and cut"
                )
            self.size = picture.width
        self.channels = self.channels or channels
        try:
            return prepare_image(picture, self.size, self.channels, guesses)
        except (OSError, ValueError) as error:
            raise TaskError(f"{where} cannot be read: {error}") from error


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


def class_number(label: Any, where: str, n_classes: int | None = None) -> int:
    """``label`` as a Python int: a number of numpy's, or a tensor of one element, too; ``where`` is told in errors.

    Raises:
        TaskError: If it is no number of a class.
    """
    value = label.item() if hasattr(label, "item") and np.prod(np.shape(label)) == 1 else label
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TaskError(f"{where}: a label is the number of a class, from 0, got {label!r}")
    if n_classes is not None and value >= n_classes:
        raise TaskError(f"{where} has label {value}, the training data {n_classes} classes")
    return value
