"""From a task to its images: the door of this folder."""

from __future__ import annotations

from collections.abc import Callable

import torch

from naslib_autokd.data.cifar import load_cifar
from naslib_autokd.data.digits import load_cluttered_digits, load_digits
from naslib_autokd.data.folders import load_image_folder
from naslib_autokd.data.images import Loaded, TaskData, as_tensors, moments
from naslib_autokd.data.lists import load_flowers102, load_mit67
from naslib_autokd.data.views import draw_views
from naslib_autokd.tasks import Task, TaskError, get_task


def load_data(task: Task | str, device: torch.device | str = "cpu") -> TaskData:
    """Read and prepare the images of a task; the result's ``task`` has all sizes filled in.

    Raises:
        TaskError: If the data folder is missing, damaged, or a class is empty, or the task wants more images than
            there are.
    """
    task = get_task(task).resolve()
    return prepared(task, LOADERS[task.dataset](task), device)


def prepared(task: Task, loaded: Loaded, device: torch.device | str) -> TaskData:
    teacher, val, classes = loaded.train, loaded.val, loaded.classes
    if len(classes) != task.n_classes:
        raise TaskError(f"{task.name}: the data have {len(classes)} classes, the task says {task.n_classes}")
    n_teacher = len(teacher[1])
    n_train = task.n_train or n_teacher
    if n_train > n_teacher:
        raise TaskError(f"{task.name}: n_train={n_train}, but there are only {n_teacher} training images")
    task = get_task(task, n_train=n_train, n_teacher=n_teacher, n_val=len(val[1]))
    mean, std = moments(teacher[0])  # of all the teacher's: n_train must not change a teacher
    val_images, val_labels = as_tensors(val, torch.device(device))
    return TaskData(
        task=task,
        teacher_views=draw_views(teacher[0], task).to(torch.device(device)),
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


LOADERS: dict[str, Callable[[Task], Loaded]] = {
    "cluttered-digits": load_cluttered_digits,
    "digits": load_digits,
    "cifar10": load_cifar,
    "cifar100": load_cifar,
    "mit67": load_mit67,
    "flowers102": load_flowers102,
    "imagefolder": load_image_folder,
}
