"""Pictures decoded once on a machine: files in the cache folder that all processes map into memory.

A store is ``pictures/KEY.u8``, the bytes of uint8 ``(n, channels, size, size)``, and ``KEY.json``, which is written
last and says what they are. Mapped pages belong to the file: however many workers read it, it is in memory once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from naslib_autokd.data import prepare_picture
from naslib_autokd.data.decoding import Decoded, read_images, seconds_a_picture
from naslib_autokd.files import cache_place, locked, write_whole
from naslib_autokd.records import content_digest
from naslib_autokd.tasks import TaskError

Images = npt.NDArray[np.uint8]

CHECKED_BYTES = 2**28
"""Stores up to this size are compared with their digest whenever they are opened (half a second); larger ones when the
file was written to since."""
SHARED_BYTES = 2**26
"""Images that were not decoded from files are shared by a store if they take at least so much."""
WORTH_SAYING_S = 5.0

log = logging.getLogger(__name__)


def stored_images(paths: Sequence[Path], size: int, channels: int, *, skip_unreadable: bool = False) -> Decoded:
    """As `decoding.read_images`, from a store that is made on first use; ``images`` is mapped and must not be written.

    The store's name depends on names, sizes and times of the files and on how pictures are prepared. What it will take
    is said before the work, and what was left out whenever a store is opened. Without room on the disk the images are
    kept in memory, if they fit.

    Raises:
        TaskError: If a file cannot be read, or neither the disk nor the memory has room.
    """
    shape = (len(paths), channels, size, size)
    recipe = [[str(path.absolute()), *_state(path)] for path in paths]
    how = [hashlib.sha256(Path(prepare_picture.__file__).read_bytes()).hexdigest(), _pillow(), skip_unreadable]
    key = content_digest({"files": recipe, "shape": shape, "preparation": how})

    def decode(out: Images | None) -> Decoded:
        return read_images(paths, size, channels, skip_unreadable=skip_unreadable, out=out)

    def announce(where: str) -> None:
        seconds = seconds_a_picture(paths, size, channels) * len(paths) / (os.cpu_count() or 1)
        level = logging.WARNING if seconds > WORTH_SAYING_S else logging.INFO
        log.log(
            level,
            "decoding %s pictures to %d x %d pixels, once: %s %s, about %s",
            *(f"{len(paths):,}", size, size, gigabytes(math.prod(shape)), where, _duration(seconds)),
        )

    decoded = stored(key, shape, decode, announce)
    decoded.tell()
    return decoded


def shared(images: Images) -> Images:
    """The same images, mapped from a store that all processes share, if they are many and there is room for it."""
    if images.nbytes < SHARED_BYTES or getattr(images, "filename", None) is not None:
        return images
    images = np.ascontiguousarray(images)
    key = hashlib.sha256(str(images.shape).encode())
    key.update(images.data)

    def copy(out: Images | None) -> Decoded:
        if out is None:
            return Decoded(images, np.arange(len(images)), ())
        out[:] = images
        return Decoded(out, np.arange(len(images)), ())

    return stored(key.hexdigest()[:12], images.shape, copy, lambda where: None).images


def content_of(images: Images) -> str | None:
    """SHA-256 of a whole store that ``images`` are mapped from; None for images of another kind."""
    path = getattr(images, "filename", None)
    about = None if path is None else _about(Path(path))
    return None if about is None else str(about["sha256"])


def stored(
    key: str, shape: tuple[int, ...], fill: Callable[[Images | None], Decoded], announce: Callable[[str], None]
) -> Decoded:
    """The store ``key``; ``fill`` makes it in the mapped array it is given, or in memory (None) as a last resort."""
    path = cache_place("pictures") / f"{key}.u8"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):  # workers that start together: one decodes, the others wait
            found = _open(path)
            if found is None:
                require_room(math.prod(shape), path.parent)
                announce(f"in {path.parent}")
                _write(path, shape, fill)
                found = _open(path)
            if found is None:
                raise OSError(f"{path} does not hold what was written to it")
            return found
    except OSError as error:  # no cache folder, or no room in it
        needed, free = math.prod(shape), psutil.virtual_memory().available
        if needed > free // 2:
            raise TaskError(
                f"the decoded pictures need {gigabytes(needed)}: {error}, and of the memory {gigabytes(free)} are "
                "free; make room, name another folder with NASLIB_AUTOKD_CACHE, or give the task a smaller image_size "
                "or n_teacher"
            ) from error
        announce(f"of memory in each process ({error})")
        return fill(None)


def require_room(nbytes: int, folder: Path) -> None:
    """Raises OSError if the disk of ``folder`` has no room for a file of so many bytes."""
    free = shutil.disk_usage(folder).free
    if nbytes + 2**26 > free:
        raise OSError(f"{folder} has {gigabytes(free)} free")
    total = psutil.virtual_memory().total
    if nbytes > 0.8 * total:
        log.warning(
            "%s of pictures do not fit into %s of memory: each epoch reads them from the disk anew",
            *(gigabytes(nbytes), gigabytes(total)),
        )


def _write(path: Path, shape: tuple[int, ...], fill: Callable[[Images | None], Decoded]) -> None:
    temporary, nbytes = path.with_suffix(f".{os.getpid()}.tmp"), math.prod(shape)
    try:
        with open(temporary, "w+b") as file:
            if hasattr(os, "posix_fallocate"):  # a mapped file that the disk has no room for kills the process
                os.posix_fallocate(file.fileno(), 0, nbytes)
            else:
                file.truncate(nbytes)
            decoded = fill(np.memmap(file, np.uint8, "r+", shape=shape))
            kept, skipped, shape = decoded.kept, decoded.skipped, decoded.images.shape
            del decoded
            file.truncate(math.prod(shape))
            os.fsync(file.fileno())
        digest = _file_digest(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    about = {
        "shape": shape,
        "sha256": digest,
        "mtime_ns": path.stat().st_mtime_ns,
        "kept": kept.tolist() if skipped else None,
        "skipped": skipped,
    }
    write_whole(path.with_suffix(".json"), json.dumps(about).encode())


def _open(path: Path) -> Decoded | None:
    """The store, mapped; None if there is none, or it is damaged."""
    about = _about(path)
    if about is None or not path.is_file():
        return None
    shape, state = tuple(about["shape"]), path.stat()
    right = state.st_size == math.prod(shape)
    if right and (state.st_size <= CHECKED_BYTES or state.st_mtime_ns != about["mtime_ns"]):
        right = _file_digest(path) == about["sha256"]
    if not right:
        log.warning("the decoded pictures in %s are damaged and are made again", path)
        return None
    images: Images = np.memmap(path, np.uint8, "r", shape=shape)
    kept = np.arange(len(images)) if about["kept"] is None else np.asarray(about["kept"], dtype=np.int64)
    return Decoded(images, kept, tuple(about["skipped"]))


def _about(path: Path) -> dict[str, Any] | None:
    try:
        about: dict[str, Any] = json.loads(path.with_suffix(".json").read_bytes())
        return about if {"shape", "sha256", "mtime_ns", "kept", "skipped"} <= set(about) else None
    except (OSError, ValueError, TypeError):
        return None


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file does."""
    try:
        state = path.stat()
    except OSError:  # reading it will say why
        return 0, 0, 0
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _pillow() -> str:
    from PIL import __version__

    return str(__version__)


def gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
