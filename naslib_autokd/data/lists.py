"""Datasets whose splits are lists: MIT Indoor 67 and Oxford Flowers 102."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from naslib_autokd.data.folders import ImageFiles, load_files
from naslib_autokd.data.images import Loaded
from naslib_autokd.tasks import Task, TaskError


def load_mit67(task: Task) -> Loaded:
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
        ImageFiles(
            folder, tuple(f"Images/{name}" for name in names), np.asarray([number[n.split("/")[0]] for n in names])
        )
        for names in named.values()
    )
    return load_files(task, train, None, test, classes)


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


def load_flowers102(task: Task) -> Loaded:
    """Oxford's 102 flowers in torchvision's layout: ``jpg/image_00001.jpg``, ...; labels and splits are .mat files."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    folder = task.dataset_folder()
    try:
        labels = loadmat(folder / "imagelabels.mat")["labels"].ravel().astype(np.int64)
        sets = loadmat(folder / "setid.mat")
        chosen = {split: sets[key].ravel().astype(np.int64) for split, key in FLOWER_SPLITS.items()}
    except (MatReadError, OSError, ValueError, LookupError, TypeError, NotImplementedError) as error:
        raise TaskError(f"imagelabels.mat or setid.mat in {folder} cannot be read: {error}") from error
    numbers = np.concatenate(list(chosen.values()))
    if len(set(numbers.tolist())) < len(numbers) or numbers.min() < 1 or numbers.max() > len(labels):
        raise TaskError(f"{folder}: the splits of setid.mat overlap or name images that imagelabels.mat does not have")
    classes = tuple(str(number) for number in range(1, int(labels.max()) + 1))
    files = {
        split: ImageFiles(folder, tuple(f"jpg/image_{number:05d}.jpg" for number in part), labels[part - 1] - 1)
        for split, part in chosen.items()
    }
    absent = [name for part in files.values() for name in part.names if not (folder / name).is_file()]
    if absent:
        raise TaskError(
            f"{folder}: {len(absent)} images are missing, for example {absent[0]}; extract 102flowers.tgz again"
        )
    return load_files(task, files["train"], files["val"], files["test"], classes)
