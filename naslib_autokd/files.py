"""Files that appear whole or not at all, and the folder of the caches."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """``$NASLIB_AUTOKD_CACHE``, else ``naslib_autokd`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("NASLIB_AUTOKD_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "naslib_autokd"
