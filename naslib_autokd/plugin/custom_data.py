"""Own data: a subclass of NASLib's ``CustomDataset`` as a task (what NASLib's issues 120 and 150 ask for)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sized
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from naslib_autokd.data.dataset import class_number
from naslib_autokd.data.images import Images, Labels, Split, TaskData
from naslib_autokd.data.splits import stratified_order
from naslib_autokd.data.views import draw_views
from naslib_autokd.plugin.evaluation import untouched_rng
from naslib_autokd.records import derive_seed
from naslib_autokd.tasks import TASKS, TaskError, get_task

VAL_SHARE = 0.15
"""Of the training data, where the config's ``train_portion`` leaves nothing for validation."""

Floats = npt.NDArray[np.float32]


def task_from_custom_dataset(dataset: Any, config: Any = None, **overrides: Any) -> TaskData:
    """The images of a ``CustomDataset`` as the data of a task, for ``KDEvaluator(data.task, data=data)``.

    Training and validation images come from the training set it returns, split by class in proportion; test images
    from its test set, read when the final evaluation asks for them. Its *validation* transform is applied to all of
    them: a teacher's answers are kept per image, so what a random training transform draws cannot be used. To train
    with augmentation, give the task's own (``augmentation="crop-flip", max_shift=4, n_views=4``).

    A training of ours reads 8-bit images. What the transform returns (floats, after ``ToTensor`` and perhaps
    ``Normalize``) is stored in 255 steps between the smallest and the largest value of each channel, and every network
    (students and teacher) gets it back on the transform's own scale: exact for images of 8 bits that use the whole
    range, else off by 1/510 of the range at most. Images that stay uint8 are normalised to mean 0 and standard
    deviation 1 per channel.

    Args:
        dataset: The subclass, or an object of it.
        config: NASLib's configuration, for a subclass; ``train_portion`` (or ``search.train_portion``) says which share
            of the training set is trained on, 1 is taken as 0.85.
        overrides: Fields of the `Task`, such as ``max_params``, ``max_budget_epochs`` or ``teacher``. Limits come from
            the task ``imagefolder``; image size, channels and numbers of images from the data.

    Raises:
        TaskError: If the data cannot be used: not square, other than one or three channels, labels that are no classes.
    """
    if isinstance(dataset, type):
        if config is None:
            raise TaskError(f"{dataset.__name__} is a class: give NASLib's config too, or an object of it")
        dataset = dataset(config)
    missing = [name for name in ("get_transforms", "get_data") if not callable(getattr(dataset, name, None))]
    if missing:
        raise TaskError(
            f"{type(dataset).__name__} is no CustomDataset of NASLib's: it has no {' and no '.join(missing)}"
        )
    name = str(getattr(dataset, "dataset", None) or type(dataset).__name__)
    with untouched_rng():
        _, transform = dataset.get_transforms(getattr(dataset, "config", config))
        train_set, test_set = dataset.get_data(getattr(dataset, "data", None), transform, transform)
        pixels, labels = _read(train_set, name)
    classes = _classes(train_set, labels, name)
    scale = _Scale.of(pixels)
    images = scale.store(pixels)
    order = stratified_order(labels, _rng(overrides.get("split_seed", 0), name, "hold out val"))
    n_val = overrides.get("n_val") or max(1, round(len(labels) * _val_share(dataset)))
    if n_val >= len(labels):
        raise TaskError(f"{name}: cannot hold out {n_val} of {len(labels)} images for validation")
    held, rest = order[:n_val], order[n_val:]
    rest = rest[stratified_order(labels[rest], _rng(overrides.get("split_seed", 0), name, "order train"))]
    defaults = {"n_views": 1, "augmentation": "none"} if "augmentation" not in overrides else {}
    limits: dict[str, Any] = defaults | overrides
    n_teacher = limits.get("n_teacher") or len(rest)
    wanted = max(n_teacher, limits.get("n_train", 0))
    if wanted > len(rest):
        raise TaskError(f"{name}: there are only {len(rest)} training images, {wanted} are wanted")
    task = get_task(
        dataclasses.replace(TASKS["imagefolder"], name=name),
        **limits
        | {
            "n_classes": len(classes),
            "in_channels": images.shape[1],
            "image_size": images.shape[2],
            "n_teacher": n_teacher,
            "n_train": limits.get("n_train") or n_teacher,
            "n_val": n_val,
            "n_test": len(test_set),
        },
    )
    if task.unlabelled_dir is not None:
        raise TaskError(f"{name}: unlabelled_dir goes with image files, which the transform of {name} does not read")
    rest = rest[:n_teacher]
    mean, std = scale.moments(images[rest])

    def make_test() -> Split:
        with untouched_rng():
            test_pixels, test_labels = _read(test_set, name)
        if test_labels.max(initial=0) >= len(classes):
            raise TaskError(
                f"{name}: the test data have label {test_labels.max()}, the training data {len(classes)} classes"
            )
        return scale.store(test_pixels), test_labels

    return TaskData(
        task=task,
        teacher_views=draw_views(images[rest], task),
        teacher_labels=torch.from_numpy(labels[rest]),
        val_images=torch.from_numpy(images[held]),
        val_labels=torch.from_numpy(labels[held]),
        classes=classes,
        mean=mean,
        std=std,
        make_test=make_test,
    )


@dataclasses.dataclass(frozen=True)
class _Scale:
    """What the stored values 0 and 255 of each channel mean; None for images that are uint8 anyway."""

    low: Floats | None
    high: Floats | None

    @classmethod
    def of(cls, pixels: Images | Floats) -> _Scale:
        if pixels.dtype == np.uint8:
            return cls(None, None)
        low, high = pixels.min(axis=(0, 2, 3)), pixels.max(axis=(0, 2, 3))
        return cls(low, np.where(high > low, high, low + 1).astype(np.float32))

    def store(self, pixels: Images | Floats) -> Images:
        if self.low is None or self.high is None:
            return pixels.astype(np.uint8)
        low, span = self.low[:, None, None], (self.high - self.low)[:, None, None]
        return ((pixels - low) / span * 255).round().clip(0, 255).astype(np.uint8)

    def moments(self, images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """``mean`` and ``std`` with which `TaskData.normalise` gives the transform's own values back."""
        if self.low is None or self.high is None:
            values = images.astype(np.float64) / 255
            mean, std = values.mean(axis=(0, 2, 3)), values.std(axis=(0, 2, 3)).clip(min=1e-3)
        else:
            low, span = self.low.astype(np.float64), (self.high - self.low).astype(np.float64)
            mean, std = -low / span, 1 / span
        return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def _read(dataset: Any, name: str) -> tuple[Images | Floats, Labels]:
    """All images ``(n, channels, size, size)``, uint8 or float32, and labels of a torch Dataset."""
    if not isinstance(dataset, Sized) or not len(dataset):
        raise TaskError(
            f"{name}: get_data must return datasets with a length, at least 1; got {type(dataset).__name__}"
        )
    images: list[Tensor] = []
    labels: list[int] = []
    for index in range(len(dataset)):
        image, label = dataset[index]  # type: ignore[index]
        images.append(_as_tensor(image, name))
        labels.append(class_number(label, f"{name}: image {index}"))
        if images[-1].shape != images[0].shape:
            raise TaskError(
                f"{name}: image {index} has shape {tuple(images[-1].shape)}, the first {tuple(images[0].shape)}; the "
                "validation transform must make all images the same size"
            )
    stacked = torch.stack(images)
    if stacked.shape[1] not in (1, 3) or stacked.shape[2] != stacked.shape[3]:
        raise TaskError(
            f"{name}: images must be square with 1 or 3 channels, got (channels, height, width) = "
            f"{tuple(stacked.shape[1:])}; let the validation transform resize or crop them"
        )
    if stacked.dtype == torch.uint8:
        return stacked.numpy(), np.asarray(labels, dtype=np.int64)
    if not bool(torch.isfinite(stacked).all()):
        raise TaskError(f"{name}: some images have values that are not finite")
    return stacked.to(torch.float32).numpy(), np.asarray(labels, dtype=np.int64)


def _as_tensor(image: Any, name: str) -> Tensor:
    if isinstance(image, Tensor):
        found = image.detach().cpu()
    elif isinstance(image, Image.Image):
        array = np.asarray(image)
        found = torch.from_numpy(array.copy().reshape(*array.shape[:2], -1)).permute(2, 0, 1)
    else:
        raise TaskError(
            f"{name}: images must be tensors (channels, height, width) or PIL images, got {type(image).__name__}; "
            "end the transforms with ToTensor()"
        )
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3:
        raise TaskError(f"{name}: an image must be (channels, height, width), got shape {tuple(found.shape)}")
    return found


def _classes(dataset: Any, labels: Labels, name: str) -> tuple[str, ...]:
    n_classes = int(labels.max()) + 1
    empty = sorted(set(range(n_classes)) - set(labels.tolist()))
    if n_classes < 2 or empty:
        raise TaskError(
            f"{name}: labels must be 0 to the number of classes minus 1, each with images, at least two classes; "
            + (f"there are none of {', '.join(map(str, empty[:5]))}" if empty else "there is only one")
        )
    names = getattr(dataset, "classes", None)
    return (
        tuple(map(str, names)) if names is not None and len(names) == n_classes else tuple(map(str, range(n_classes)))
    )


def _val_share(dataset: Any) -> float:
    portion = getattr(dataset, "train_portion", None)
    return 1 - portion if isinstance(portion, float) and 0 < portion < 1 else VAL_SHARE


def _rng(split_seed: int, name: str, purpose: str) -> np.random.RandomState:
    return np.random.RandomState(derive_seed(name, split_seed, purpose))
