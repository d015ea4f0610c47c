"""From a task to its images: the door of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psutil
import torch

from naslib_autokd.data.cache import gigabytes, shared
from naslib_autokd.data.cifar import load_cifar
from naslib_autokd.data.digits import load_cluttered_digits, load_digits
from naslib_autokd.data.folders import layout_of, load_image_folder
from naslib_autokd.data.images import Loaded, TaskData, as_tensors, moments
from naslib_autokd.data.lists import load_flowers102, load_mit67
from naslib_autokd.data.unlabelled import read_unlabelled
from naslib_autokd.data.views import draw_views
from naslib_autokd.tasks import CIFAR_FOLDERS, CIFAR_SOURCE, FILES_OF, Task, TaskError, get_task


def load_data(task: Task | str, device: torch.device | str = "cpu") -> TaskData:
    """Read and prepare the images of a task; the result's ``task`` has all sizes filled in, but for those of the test
    split (``n_test``), which is read at the end.

    Raises:
        TaskError: If the data folder is missing, damaged, or a class is empty, or the task wants more images than
            there are.
    """
    task = resolve(get_task(task))
    if task.dataset in ("cluttered-digits", "digits"):  # drawn in float64; pictures are stored, see `cache`
        n = max(task.n_teacher or 6000, task.n_val or 3000, task.n_test or 3000)
        require_memory(task, f"{n:,} images of image_size={task.image_size}", 8 * n * task.image_size**2)
    return prepared(task, LOADERS[task.dataset](task), device)


def resolve(task: Task) -> Task:
    """Check that the images are there, and fill in the classes of an image folder. Cheap: decodes no image.

    Raises:
        TaskError: If the data folder is missing or empty or a class has no images; says what to put where.
    """
    if task.dataset == "imagefolder":
        n_classes = len(layout_of(task).classes)
        if task.n_classes not in (0, n_classes):
            raise TaskError(f"{task.data_dir} has {n_classes} classes, but the task says n_classes={task.n_classes}")
        return replace(task, n_classes=n_classes)
    if task.dataset in CIFAR_FOLDERS and not task.download:
        folder, first = CIFAR_FOLDERS[task.dataset]
        root = task.require_data_dir(f"{folder}, of {CIFAR_SOURCE}")
        if not (root / folder / first).is_file():
            raise TaskError(
                f"{task.dataset} not found: {root / folder / first} does not exist. Extract the archive of "
                f"{CIFAR_SOURCE} into {root}, or set 'download: true' in the task's file"
            )
    if task.dataset in FILES_OF:
        task.dataset_folder()
    return task


def prepared(task: Task, loaded: Loaded, device: torch.device | str) -> TaskData:
    classes = loaded.classes
    teacher, val = ((shared(images), labels) for images, labels in (loaded.train, loaded.val))
    if len(classes) != task.n_classes:
        raise TaskError(f"{task.name}: the data have {len(classes)} classes, the task says {task.n_classes}")
    n_teacher = len(teacher[1])
    n_train = task.n_train or n_teacher
    if n_train > n_teacher:
        raise TaskError(f"{task.name}: n_train={n_train}, but there are only {n_teacher} training images")
    views = task.n_views * (4 * n_train * len(classes) + 24 * n_teacher)  # soft targets; offsets and mirrors
    require_memory(task, f"n_views={task.n_views} of {n_teacher:,} images", views)
    task = get_task(task, n_train=n_train, n_teacher=n_teacher, n_val=len(val[1]))
    members, unlabelled = loaded.members, None
    if task.unlabelled_dir is not None:
        found = read_unlabelled(task, loaded)
        unlabelled = draw_views(found.images, task, "views of unlabelled")
        members = {**members, "unlabelled": found.names}
        loaded.skipped.extend(found.skipped)
        task = get_task(task, n_unlabelled=len(found.names))
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
        members=members,
        skipped=loaded.skipped,
        unlabelled_views=None if unlabelled is None else unlabelled.to(torch.device(device)),
    )


def require_memory(task: Task, what: str, nbytes: int) -> None:
    """Refuse what the memory of this machine cannot hold, before it is made.

    Raises:
        TaskError: Says what it would take.
    """
    total = psutil.virtual_memory().total
    if nbytes > 0.8 * total:
        raise TaskError(
            f"{task.name}: {what} would take {gigabytes(nbytes)} of memory, this machine has {gigabytes(total)}; give "
            "the task a smaller image_size, n_views or n_teacher"
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
