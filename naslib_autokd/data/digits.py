"""scikit-learn's digits, plain and on cluttered canvases."""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naslib_autokd.data.images import Loaded, Split, resize_nearest
from naslib_autokd.data.splits import members_of, split_rng, stratified_order
from naslib_autokd.records import derive_seed
from naslib_autokd.tasks import Task, TaskError

CLUTTER_BRIGHTNESS = 0.8

NOISE = 0.1

PIECE = 4

BLACK, WHITE = -0.25, 1.25
"""Brightness of the pixel values 0 and 255 of a canvas: dark noise must not be cut off at 0, it would make the task
easier (a CNN of 24k parameters: 83.4 instead of 81.4%)."""

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
    order = stratified_order(_digits()[1], split_rng(task, "originals"))
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


def load_cluttered_digits(task: Task) -> Loaded:
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

    members = {split: members_of(chosen) for split, chosen in originals.items()}
    return Loaded(canvases("train"), canvases("val"), lambda: canvases("test"), _digit_names(), members)


def load_digits(task: Task) -> Loaded:
    images, labels = _digits()
    originals = digit_originals(task)
    wanted = {"train": task.n_teacher, "val": task.n_val, "test": task.n_test}
    for split, number in wanted.items():
        if number > len(originals[split]):
            raise TaskError(f"{task.name}: {split} has {len(originals[split])} digits, the task wants {number}")
    parts = {split: originals[split][: wanted[split] or None] for split in originals}
    resized = resize_nearest(images, task.image_size)
    return Loaded(
        (resized[parts["train"]], labels[parts["train"]]),
        (resized[parts["val"]], labels[parts["val"]]),
        lambda: (resized[parts["test"]], labels[parts["test"]]),
        _digit_names(),
        {split: members_of(part) for split, part in parts.items()},
    )


def _digit_names() -> tuple[str, ...]:
    return tuple(str(digit) for digit in range(10))
