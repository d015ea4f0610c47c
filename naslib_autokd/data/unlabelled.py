"""Pictures without labels: students learn from the teacher's answers on them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
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

    Folders below it mean nothing. Files that the task has already, its test images above all, and copies
    of them are left out.

    Raises:
        TaskError: If the folder is not there, has no pictures of its own or fewer than ``n_unlabelled``.
    """
    root = Path(str(task.unlabelled_dir)).expanduser()
    if not root.is_dir():
        where = "" if root.is_absolute() else f" in {Path.cwd()}"
        raise TaskError(f"unlabelled_dir {root} does not exist{where}; it should be a folder of pictures")
    found, lines = pictures_below(root)
    names = others(root, found, _files_of(task, loaded))
    if left_out := len(found) - len(names):
        lines = [*lines, f"{left_out} of {len(found)} pictures are images of the task already, and are left out"]
    for line in lines:
        log.warning("%s: %s", root, line)
    if problem := too_few(task, len(names)):
        raise TaskError(problem)
    order = split_rng(task, "order unlabelled").permutation(len(names))[: task.n_unlabelled or None]
    chosen = [names[index] for index in order]
    decoded = stored_images(
        [root / name for name in chosen], task.image_size, task.in_channels, skip_unreadable=task.skip_unreadable
    )
    return Unlabelled(decoded.images, tuple(chosen[index] for index in decoded.kept), decoded.skipped)


def too_few(task: Task, n: int) -> str | None:
    """What is wrong with ``n`` unlabelled pictures, if they are fewer than the task needs."""
    if n and n >= task.n_unlabelled:
        return None
    wanted = f"the task wants {task.n_unlabelled}" if task.n_unlabelled else "put some there"
    root = Path(str(task.unlabelled_dir)).expanduser()
    return f"unlabelled_dir {root} has {n} pictures that the task has not already; {wanted}"


def others(root: Path, names: Sequence[str], files: Sequence[Path]) -> list[str]:
    """Those of ``names`` below ``root`` that are none of ``files``, and hold the bytes of none."""
    own = {os.path.realpath(path) for path in files}
    left = [name for name in names if os.path.realpath(root / name) not in own]
    copies, originals = left, list(own)
    for share in (0, 4096, -1):  # most files differ in size already, and nearly all others in their first bytes
        ours, theirs = (
            {name: _known(root / name, share) for name in copies},
            {f: _known(Path(f), share) for f in originals},
        )
        both = {*ours.values()} & {*theirs.values()} - {None}
        copies = [name for name, value in ours.items() if value in both]
        originals = [file for file, value in theirs.items() if value in both]
    same = set(copies)
    return [name for name in left if name not in same]


def _known(path: Path, share: int) -> tuple[int, str] | None:
    """Size of a file and digest of its first ``share`` bytes (-1: of all); None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return size, hashlib.sha256(file.read(share)).hexdigest()
    except OSError:  # decoding it will say why
        return None


def _files_of(task: Task, loaded: Loaded) -> list[Path]:
    """Files of all splits; none for data that are not read from files."""
    if task.dataset in FILES_OF:
        root = task.dataset_folder()
    elif task.dataset == "imagefolder" and task.data_dir is not None:
        root = Path(task.data_dir).expanduser()
    else:
        return []
    return [root / str(name) for names in loaded.members.values() for name in names]
