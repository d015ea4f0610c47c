"""CIFAR-10 and CIFAR-100 as torchvision reads them."""

from __future__ import annotations

import numpy as np

from naslib_autokd.data.images import Images, Labels, Loaded, Split, resize_nearest
from naslib_autokd.data.splits import first_stratified, hold_out, members_of
from naslib_autokd.tasks import Task, TaskError


def load_cifar(task: Task) -> Loaded:
    from naslib_autokd.data.vision import import_torchvision

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
    train, val = hold_out(labels, np.arange(len(labels)), task.n_val or len(labels) // 10, task, "val")
    train = first_stratified(labels, train, task.n_teacher, task, "train")

    def test() -> Split:
        test_images, test_labels, _ = read(train=False)
        chosen = first_stratified(test_labels, np.arange(len(test_labels)), task.n_test, task, "test")
        return test_images[chosen], test_labels[chosen]

    members = {"train": members_of(train), "val": members_of(val)}
    return Loaded((images[train], labels[train]), (images[val], labels[val]), test, classes, members)


def _fit(images: Images, task: Task) -> Images:
    if images.shape[1] != task.in_channels:
        raise TaskError(f"{task.name}: the images have {images.shape[1]} channels, the task {task.in_channels}")
    return images if images.shape[-1] == task.image_size else resize_nearest(images, task.image_size)
