"""Files that appear whole or not at all, and the folder of the caches."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, also after a power cut."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlast a power cut, as far as its file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # may be written, not read
        return
    try:
        os.fsync(descriptor)
    except OSError:  # a file system that syncs no folders
        return
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """``$NASLIB_AUTOKD_CACHE``, else ``naslib_autokd`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("NASLIB_AUTOKD_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "naslib_autokd"
