"""Image files as uint8 arrays of one size: decoded once, by a pool of threads, unreadable ones named.

Images of any size become squares: the shorter side is resized to the wanted size (bilinear, with antialiasing) and the
centre is cut out. Pillow releases Python's lock while it decodes and resizes, so threads use all cores.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from naslib_autokd.tasks import TaskError

log = logging.getLogger(__name__)

OVERSAMPLING = 2
"""A JPEG is decoded at a fraction (1/2, 1/4, 1/8) of its size if that is at least so many times the wanted size: the
result differs by about one grey level, and large photographs take a third of the time."""
SHOWN = 10
"""Unreadable files that a message names."""


@dataclass(frozen=True)
class Decoded:
    """What `read_images` made of a list of files."""

    images: npt.NDArray[np.uint8]
    """``(n_readable, channels, size, size)``, in the order of the files."""
    kept: npt.NDArray[np.int64]
    """Indices of the readable files."""
    skipped: tuple[str, ...]
    """One line for each unreadable file: its path and what is wrong with it."""


def read_images(
    paths: Sequence[Path], size: int, channels: int, *, skip_unreadable: bool = False, threads: int | None = None
) -> Decoded:
    """The images of ``paths`` as uint8 ``(n, channels, size, size)``, grey (1 channel) or colour (3).

    Args:
        skip_unreadable: Leave unreadable files out and list them, instead of raising.
        threads: Files decoded at the same time; as many as there are cores by default. No effect on the result.

    Raises:
        TaskError: If a file cannot be read (names the first one), or none can.
    """
    images = np.empty((len(paths), channels, size, size), dtype=np.uint8)
    wrong: dict[int, str] = {}
    read = partial(_read_into, images, paths, wrong, not skip_unreadable)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for _ in pool.map(read, range(len(paths)), chunksize=16):
            pass
    if not wrong:
        return Decoded(images, np.arange(len(paths)), ())
    lines = [f"{paths[index]} is not a readable image: {wrong[index]}" for index in sorted(wrong)]
    if not skip_unreadable:
        raise TaskError(f"{lines[0]}; mend or remove it, or set skip_unreadable: true in the task to leave such out")
    if len(wrong) == len(paths):
        raise TaskError(f"none of {len(paths)} images can be read; {lines[0]}")
    shown = "; ".join(lines[:SHOWN]) + (f"; ... ({len(lines)} in all)" if len(lines) > SHOWN else "")
    log.warning("%d of %d images are left out: %s", len(lines), len(paths), shown)
    kept = np.asarray([index for index in range(len(paths)) if index not in wrong], dtype=np.int64)
    return Decoded(images[kept], kept, tuple(lines))


def _read_into(
    images: npt.NDArray[np.uint8], paths: Sequence[Path], wrong: dict[int, str], stop: bool, index: int
) -> None:
    if stop and wrong:
        return
    from PIL import Image

    channels, size = images.shape[1:3]
    try:
        with Image.open(paths[index]) as image:
            image.draft(None, (OVERSAMPLING * size, OVERSAMPLING * size))
            images[index] = fit_image(image, size, channels)
    # Pillow's plug-ins raise all of these for damaged files; a bomb is a file that claims to be absurdly large
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        wrong[index] = str(error) or type(error).__name__


def fit_image(image: Any, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """A Pillow image as ``(channels, size, size)``: shorter side resized to ``size``, the centre cut out.

    Raises:
        ValueError: For pixels of 32 bits, whose range nobody knows.
    """
    from PIL import Image, ImageOps

    if image.mode.startswith("I;16"):  # convert() would clip 0..65535 at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are 32-bit numbers of unknown range (mode {image.mode}); save it with 8 or 16 bits"
        )
    mode = "L" if channels == 1 else "RGB"
    fitted = ImageOps.fit(image.convert(mode), (size, size), Image.Resampling.BILINEAR)
    return np.asarray(fitted).reshape(size, size, channels).transpose(2, 0, 1)
