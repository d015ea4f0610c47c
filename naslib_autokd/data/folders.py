"""Image folders: one subfolder per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from naslib_autokd.data.decoding import Decoded, read_images
from naslib_autokd.data.images import Indices, Labels, Loaded, Members, Split
from naslib_autokd.data.splits import HELD_OUT_SHARES, first_stratified, hold_out, require_every_class
from naslib_autokd.tasks import Task, TaskError, image_folder_classes, image_folder_splits, iter_images


def load_image_folder(task: Task) -> Loaded:
    root = task.require_data_dir("one subfolder per class")
    folders, classes = image_folder_splits(root), image_folder_classes(root)
    if "all" in folders:
        files = ImageFiles.listed(root, folders["all"], classes)
        everything = np.arange(len(files.labels))
        # Which images are test images is decided on file names; their pixels are read by the final evaluation.
        n_test = task.n_test or max(1, round(len(everything) * HELD_OUT_SHARES["test"]))
        rest, held = hold_out(files.labels, everything, n_test, task, "test")
        train, test = files.part(rest), files.part(held)
    else:
        train = ImageFiles.listed(root, folders["train"], classes)
        if "test" not in folders:
            raise TaskError(
                f"{root} has train/ but neither val/ nor test/: nothing is held out for the final test; "
                "add test/, or put the class folders of train/ directly into the folder, which is then split"
            )
        test = ImageFiles.listed(root, folders["test"], classes)
    val = ImageFiles.listed(root, folders["val"], classes) if "val" in folders else None
    return load_files(task, train, val, test, classes)


@dataclass(frozen=True)
class ImageFiles:
    """Image files below ``root`` with their labels."""

    root: Path
    names: tuple[str, ...]
    labels: Labels

    @classmethod
    def listed(cls, root: Path, folder: Path, classes: tuple[str, ...]) -> ImageFiles:
        found = [sorted(iter_images(folder / name)) for name in classes]
        names = tuple(path.relative_to(root).as_posix() for paths in found for path in paths)
        return cls(root, names, np.repeat(np.arange(len(classes)), [len(paths) for paths in found]))

    def part(self, indices: Indices) -> ImageFiles:
        return ImageFiles(self.root, tuple(self.names[index] for index in indices), self.labels[indices])

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


def load_files(
    task: Task, train: ImageFiles, val: ImageFiles | None, test: ImageFiles, classes: tuple[str, ...]
) -> Loaded:
    """Splits are decided on names and labels; ``val`` is taken from ``train`` if it is None."""
    everything = np.arange(len(train.labels))
    if val is None:
        n_val = task.n_val or max(1, round(len(everything) * HELD_OUT_SHARES["val"]))
        everything, held = hold_out(train.labels, everything, n_val, task, "val")
        val = train.part(held)
    else:
        val = val.part(first_stratified(val.labels, np.arange(len(val.labels)), task.n_val, task, "val"))
    train = train.part(first_stratified(train.labels, everything, task.n_teacher, task, "train"))
    test = test.part(first_stratified(test.labels, np.arange(len(test.labels)), task.n_test, task, "test"))
    train_split, train_names, train_skipped = train.read(task)
    val_split, val_names, val_skipped = val.read(task)
    if not task.n_teacher or train_skipped:
        require_every_class(task, train_split[1], classes)
    members = {"train": train_names, "val": val_names, "test": test.names}
    return Loaded(train_split, val_split, lambda: test.read(task)[0], classes, members, (*train_skipped, *val_skipped))
