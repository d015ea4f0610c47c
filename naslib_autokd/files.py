"""Files that appear whole or not at all, locks that cannot be waited for without end, and the folder of the caches."""

from __future__ import annotations

import contextlib
import functools
import glob
import logging
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import filelock

log = logging.getLogger(__name__)


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file that appears whole or not at all, also if the power fails.

    Links that somebody else laid in its place are replaced, never followed. ``mode``: who may read and write it, less
    what the process's mask forbids.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_name(text: str) -> str:
    """``text`` as a part of a file's name: no folder, no hidden file, at most 80 signs.

    Examples:
        >>> file_name("cluttered-digits"), file_name("../../etc/x y")
        ('cluttered-digits', 'etc_x_y')
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("._")[:80] or "_"


# --- locks ----------------------------------------------------------------------------------------------------------

SIGN_OF_LIFE_S = 5.0
"""Between two signs of life of a lock's owner: it touches the lock's file."""
SILENT_S = 60.0
"""An owner without one for so long stands still; who waits goes on without the lock."""


def _nobody_asks() -> None:
    pass


waiting: Callable[[], None] = _nobody_asks
"""Called for each sign of life of the owner of a lock that is waited for; workers replace it, to give their own."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a file in a cache (``path.lock``), so that one process makes it and the others wait.

    Where there can be no lock (a folder that is read-only or another user's) or its owner stands still, the body runs
    without (the value is False): files are written whole, so two processes that make the same lose time, nothing else.
    """
    import filelock  # help and errors of the command line do without it

    place = Path(f"{path}.lock")
    lock = filelock.FileLock(place)
    if not _acquired(lock, place):
        yield False
        return
    end = threading.Event()

    def live() -> None:
        while not end.wait(SIGN_OF_LIFE_S):
            with contextlib.suppress(OSError):
                os.utime(place)

    threading.Thread(target=live, daemon=True).start()
    try:
        _remove_leftovers(path)
        yield True
    finally:
        end.set()
        lock.release()


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of ``path`` (`write_whole`) whose writers were killed."""
    for left in path.parent.glob(f"{glob.escape(path.stem)}.*tmp"):
        writer = re.search(r"\.(\d+)\.tmp$", left.name)
        if writer is not None and not is_alive(int(writer[1])):
            with contextlib.suppress(OSError):
                left.unlink()


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return pid != os.getpid()  # a number that is ours again belonged to a process before


def _acquired(lock: filelock.BaseFileLock, place: Path) -> bool:
    from filelock import Timeout

    seen, since = -1, time.monotonic()
    while True:
        try:
            lock.acquire(timeout=0)
            return True
        except Timeout:
            pass
        except OSError as error:
            log.debug("no lock %s: %s", place, error)
            return False
        with contextlib.suppress(OSError):
            if (now := place.stat().st_mtime_ns) != seen:
                seen, since = now, time.monotonic()
                waiting()
        if time.monotonic() - since > SILENT_S:
            log.warning("%s: its owner has given no sign of life for %.0f s; going on without it", place, SILENT_S)
            return False
        time.sleep(0.1)


# --- caches ---------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """``$NASLIB_AUTOKD_CACHE``, else ``naslib_autokd`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    For a user without a home (containers) a private folder of the machine's temporary one; that is said once.
    """
    if own := os.environ.get("NASLIB_AUTOKD_CACHE"):
        return _expanded(own)
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "naslib_autokd"


def cache_place(name: str) -> Path:
    """The folder ``name`` of `cache_folder`, or of `private_folder` where another user has laid a link in its place."""
    folder = cache_folder() / name
    if not foreign_link(folder):
        return folder
    log.warning("%s is a link of another user and is not followed; %s is used", folder, private_folder() / name)
    return private_folder() / name


def foreign_link(path: Path) -> bool:
    """Whether a path is a link that neither this user nor the machine's owner has laid."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) and status.st_uid not in (os.getuid(), 0)


def _expanded(place: str) -> Path:
    try:
        return Path(place).expanduser()
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return _homeless()


@functools.cache
def _homeless() -> Path:
    folder = private_folder()
    log.warning("no home directory: teachers and compiled kernels are kept in %s (set NASLIB_AUTOKD_CACHE)", folder)
    return folder


def private_folder() -> Path:
    """A folder of this user alone in the machine's temporary one; the same for all of the user's processes.

    Another user may have laid a file, link or folder in its place: then one of this process alone.
    """
    folder = Path(tempfile.gettempdir()) / f"naslib_autokd-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="naslib_autokd-"))


def ours_alone(path: Path) -> bool:
    """Whether only this user, or the machine's owner, can have written a file or folder: it may be run."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return status.st_uid in (os.getuid(), 0) and not status.st_mode & 0o022 and not stat.S_ISLNK(status.st_mode)
