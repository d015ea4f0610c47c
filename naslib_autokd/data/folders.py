"""Image folders: one subfolder per class; `layout` says which folder is what."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from naslib_autokd.data.cache import stored_images
from naslib_autokd.data.images import Indices, Labels, Loaded, Members, Split
from naslib_autokd.data.layout import Layout, read_layout
from naslib_autokd.data.splits import HELD_OUT_SHARES, first_stratified, hold_out, require_every_class
from naslib_autokd.tasks import Task

log = logging.getLogger(__name__)

TOLD: set[str] = set()
"""Lines on what is left out that this process has said, to say them once."""


def load_image_folder(task: Task) -> Loaded:
    layout = layout_of(task)
    for line in layout.lines_left_out():
        if (told := f"{layout.root}: {line}") not in TOLD:
            log.warning("%s", told)
            TOLD.add(told)
    return load_files(task, *split_files(task, layout), layout.classes)


def layout_of(task: Task) -> Layout:
    """What lies in the folder of a task ``imagefolder``."""
    return read_layout(task.require_data_dir("one subfolder per class"))


def split_files(task: Task, layout: Layout) -> tuple[ImageFiles, ImageFiles | None, ImageFiles]:
    """Files for training, validation (None: to be taken from those for training) and test."""
    files = {split: ImageFiles.of(layout, split) for split in layout.files}
    if "all" not in files:
        return files["train"], files.get("val"), files["test"]
    labels = files["all"].labels
    # Which images are test images is decided on file names; their pixels are read by the final evaluation.
    n_test = task.n_test or max(1, round(len(labels) * HELD_OUT_SHARES["test"]))
    rest, held = hold_out(labels, np.arange(len(labels)), n_test, task, "test")
    return files["all"].part(rest), None, files["all"].part(held)


@dataclass(frozen=True)
class ImageFiles:
    """Image files below ``root`` with their labels."""

    root: Path
    names: tuple[str, ...]
    labels: Labels

    @classmethod
    def of(cls, layout: Layout, split: str) -> ImageFiles:
        files = layout.files[split]
        names = tuple(name for one in files for name in one)
        return cls(layout.root, names, np.repeat(np.arange(len(files)), [len(one) for one in files]))

    def part(self, indices: Indices) -> ImageFiles:
        return ImageFiles(self.root, tuple(self.names[index] for index in indices), self.labels[indices])

    def read(self, task: Task) -> tuple[Split, Members, tuple[str, ...]]:
        """Images and labels, names and complaints; without the unreadable files, if the task says so."""
        decoded = stored_images(
            [self.root / name for name in self.names],
            task.image_size,
            task.in_channels,
            skip_unreadable=task.skip_unreadable,
        )
        kept = self.part(decoded.kept)
        return (decoded.images, kept.labels), kept.names, decoded.skipped


def load_files(
    task: Task, train: ImageFiles, val: ImageFiles | None, test: ImageFiles, classes: tuple[str, ...]
) -> Loaded:
    """Read the images of `decided` splits; those of the test when they are asked for."""
    train, val, test = decided(task, train, val, test)
    train_split, train_names, train_skipped = train.read(task)
    val_split, val_names, val_skipped = val.read(task)
    if not task.n_teacher or train_skipped:
        require_every_class(task, train_split[1], classes)
    members = {"train": train_names, "val": val_names, "test": test.names}
    skipped = [*train_skipped, *val_skipped]

    def read_test() -> Split:
        split, _, left_out = test.read(task)
        skipped.extend(line for line in left_out if line not in skipped)
        return split

    return Loaded(train_split, val_split, read_test, classes, members, skipped)


def decided(
    task: Task, train: ImageFiles, val: ImageFiles | None, test: ImageFiles
) -> tuple[ImageFiles, ImageFiles, ImageFiles]:
    """The files for training, validation (taken from those for training if it is None) and test.

    Decided on names and labels alone.

    Raises:
        TaskError: If the task wants more images than there are.
    """
    everything = np.arange(len(train.labels))
    if val is None:
        n_val = task.n_val or max(1, round(len(everything) * HELD_OUT_SHARES["val"]))
        everything, held = hold_out(train.labels, everything, n_val, task, "val")
        val = train.part(held)
    else:
        val = val.part(first_stratified(val.labels, np.arange(len(val.labels)), task.n_val, task, "val"))
    train = train.part(first_stratified(train.labels, everything, task.n_teacher, task, "train"))
    test = test.part(first_stratified(test.labels, np.arange(len(test.labels)), task.n_test, task, "test"))
    return train, val, test
