"""Pictures without labels: students learn from the teacher's answers on them."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from naslib_autokd.data.cache import stored_images
from naslib_autokd.data.images import Images, Loaded
from naslib_autokd.data.layout import pictures_below
from naslib_autokd.data.splits import split_rng
from naslib_autokd.tasks import FILES_OF, Task, TaskError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unlabelled:
    """Pictures of a folder that are in no split of the task."""

    images: Images
    names: tuple[str, ...]
    skipped: tuple[str, ...]


def read_unlabelled(task: Task, loaded: Loaded) -> Unlabelled:
    """The first ``n_unlabelled`` (all if 0) pictures below ``unlabelled_dir``, in an order that the task's seed draws.

    Folders below it mean nothing. Files that the task has already, its test images above all, are left out.

    Raises:
        TaskError: If the folder is not there, has no pictures of its own or fewer than ``n_unlabelled``.
    """
    root = Path(str(task.unlabelled_dir)).expanduser()
    if not root.is_dir():
        raise TaskError(f"unlabelled_dir {root} does not exist; it should be a folder of pictures")
    found, lines = pictures_below(root)
    own = {os.path.realpath(path) for path in _files_of(task, loaded)}
    names = [name for name in found if os.path.realpath(root / name) not in own]
    if left_out := len(found) - len(names):
        lines = [*lines, f"{left_out} of {len(found)} pictures are images of the task already, and are left out"]
    for line in lines:
        log.warning("%s: %s", root, line)
    if not names or len(names) < task.n_unlabelled:
        wanted = f"the task wants {task.n_unlabelled}" if task.n_unlabelled else "put some there"
        raise TaskError(f"unlabelled_dir {root} has {len(names)} pictures that the task has not already; {wanted}")
    order = split_rng(task, "order unlabelled").permutation(len(names))[: task.n_unlabelled or None]
    chosen = [names[index] for index in order]
    decoded = stored_images(
        [root / name for name in chosen], task.image_size, task.in_channels, skip_unreadable=task.skip_unreadable
    )
    return Unlabelled(decoded.images, tuple(chosen[index] for index in decoded.kept), decoded.skipped)


def _files_of(task: Task, loaded: Loaded) -> list[Path]:
    """Files of all splits; none for data that are not read from files."""
    if task.dataset in FILES_OF:
        root = task.dataset_folder()
    elif task.dataset == "imagefolder" and task.data_dir is not None:
        root = Path(task.data_dir).expanduser()
    else:
        return []
    return [root / str(name) for names in loaded.members.values() for name in names]
