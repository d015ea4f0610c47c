"""Picture files as uint8 arrays of one size: decoded once, by a pool of threads, unreadable ones named.

`prepare_picture` says how one picture becomes numbers, and exported students come with it; only that file and this one
open pictures. Pillow releases Python's lock while it decodes and resizes, so threads use all cores.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naslib_autokd.data.prepare_picture import prepare_image
from naslib_autokd.tasks import TaskError

log = logging.getLogger(__name__)

SHOWN = 10
"""Unreadable files that a message names."""
BATCH = 64
"""Files that a thread takes at a time."""


@dataclass(frozen=True)
class Decoded:
    """What `read_images` made of a list of files."""

    images: npt.NDArray[np.uint8]
    """``(n_readable, channels, size, size)``, in the order of the files."""
    kept: npt.NDArray[np.int64]
    """Indices of the readable files."""
    skipped: tuple[str, ...]
    """One line for each unreadable file: its path and what is wrong with it."""

    def tell(self) -> None:
        """Log how many files were left out, and some of them."""
        if n := len(self.skipped):
            shown = "; ".join(self.skipped[:SHOWN]) + (f"; ... ({n} in all)" if n > SHOWN else "")
            log.warning("left out: %d unreadable of %d images: %s", n, n + len(self.kept), shown)


def read_images(
    paths: Sequence[Path],
    size: int,
    channels: int,
    *,
    skip_unreadable: bool = False,
    threads: int | None = None,
    out: npt.NDArray[np.uint8] | None = None,
) -> Decoded:
    """The images of ``paths`` as uint8 ``(n, channels, size, size)``, grey (1 channel) or colour (3).

    Args:
        skip_unreadable: Leave unreadable files out and list them, instead of raising.
        threads: Files decoded at the same time; as many as there are cores by default. No effect on the result.
        out: Where the images are written, such as a memory-mapped array; a new array by default. Readable ones come
            first where unreadable ones are left out.

    Raises:
        TaskError: If a file cannot be read (names the first one), or none can.
    """
    images = np.empty((len(paths), channels, size, size), dtype=np.uint8) if out is None else out
    wrong: dict[int, str] = {}
    guessed: dict[int, str] = {}
    read = partial(_read_batch, images, paths, wrong, guessed, not skip_unreadable)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for _ in pool.map(read, range(0, len(paths), BATCH)):
            pass
    if guessed:
        log.warning(
            "%d of %d pictures are 16-bit grey without a stated range, for example %s: %s; state the bits in the files "
            "(TIFF MaxSampleValue, PNG sBIT) or save them with 8 bits if that is wrong",
            *(len(guessed), len(paths), paths[min(guessed)], guessed[min(guessed)]),
        )
    if not wrong:
        return Decoded(images, np.arange(len(paths)), ())
    lines = [f"{paths[index]} is not a readable image: {wrong[index]}" for index in sorted(wrong)]
    if not skip_unreadable:
        raise TaskError(f"{lines[0]}; mend or remove it, or set skip_unreadable: true in the task to leave such out")
    if len(wrong) == len(paths):
        raise TaskError(f"none of {len(paths)} images can be read; {lines[0]}")
    kept = np.asarray([index for index in range(len(paths)) if index not in wrong], dtype=np.int64)
    for place, index in enumerate(kept):
        if place != index:
            images[place] = images[index]
    return Decoded(images[: len(kept)], kept, tuple(lines))


def _read_batch(
    images: npt.NDArray[np.uint8],
    paths: Sequence[Path],
    wrong: dict[int, str],
    guessed: dict[int, str],
    stop: bool,
    first: int,
) -> None:
    from PIL import Image

    channels, size = images.shape[1:3]
    for index in range(first, min(first + BATCH, len(paths))):
        if stop and wrong:
            return
        guesses: list[str] = []
        try:
            with Image.open(paths[index]) as image:
                images[index] = prepare_image(image, size, channels, guesses)
        except DAMAGED as error:
            wrong[index] = str(error) or type(error).__name__
        except Image.DecompressionBombError as error:  # a file that claims to be absurdly large
            wrong[index] = str(error)
        if guesses:
            guessed[index] = guesses[0]


def seconds_a_picture(paths: Sequence[Path], size: int, channels: int, sample: int = 32) -> float:
    """What reading one of the files takes on one thread, by some of them."""
    some = paths[:: max(1, len(paths) // sample)][:sample]
    started = time.perf_counter()
    _read_batch(np.empty((len(some), channels, size, size), dtype=np.uint8), some, {}, {}, False, 0)
    return (time.perf_counter() - started) / len(some)


DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, RuntimeError, MemoryError, struct.error)
"""What Pillow's plug-ins raise for damaged files."""


FINGERPRINT = 64
"""Height and width at which the pixels of two files are compared."""


@dataclass(frozen=True)
class Look:
    """What a picture file holds, or why it cannot be read."""

    format: str = ""
    width: int = 0
    height: int = 0
    """Width and height as stored, before it is turned upright."""
    content: str = ""
    """Digest of the file."""
    pixels: str = ""
    """Digest of the prepared picture, of `FINGERPRINT` pixels in colour."""
    guess: str = ""
    """What had to be guessed of its grey levels."""
    problem: str = ""


def look_at(path: Path) -> Look:
    """Read one picture file for what there is to know of it."""
    from PIL import Image

    guesses: list[str] = []
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size  # before a JPEG is decoded at a fraction
            pixels = prepare_image(image, FINGERPRINT, 3, guesses)
            return Look(
                image.format or "", width, height, _digest(content), _digest(pixels.tobytes()), "".join(guesses)
            )
    except (*DAMAGED, Image.DecompressionBombError) as error:
        # Pillow names what it was given, which is no file here
        return Look(problem=re.sub(r" <_io\.BytesIO object at \w+>", "", str(error)) or type(error).__name__)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


PICTURE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff",
    ".webp", ".gif", ".jp2", ".j2k", ".jpx", ".jpf", ".avif", ".tga",
)  # fmt: skip
"""Files with these are pictures, if Pillow has their format; of others the content says it."""
OTHER_SUFFIXES = (
    ".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".md", ".yaml", ".yml", ".html", ".py", ".ipynb", ".npy", ".npz",
    ".mat", ".pkl", ".db", ".zip", ".gz",
)  # fmt: skip
"""Files with these are no pictures."""
CANNOT_READ = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC pictures, which Pillow reads with pip install pillow-heif alone"),
    **dict.fromkeys(
        (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
        "camera raw, of which Pillow shows a preview: convert them",
    ),
    **dict.fromkeys((".jxl", ".svg", ".eps", ".wmf", ".emf"), "pictures that Pillow cannot read: convert them"),
}
NOT_READ_HERE = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow only recognises, or leaves to other programs."""


def why_no_picture(path: str | Path) -> str:
    """Why a file of an image folder is left out; empty for a picture, which may turn out to be damaged."""
    from PIL import Image

    suffix = os.path.splitext(path)[1].lower()
    formats = _formats_of_suffixes()
    if formats.get(suffix) and suffix in PICTURE_SUFFIXES:
        return ""
    if suffix in CANNOT_READ and formats.get(suffix) in (None, *NOT_READ_HERE):
        return CANNOT_READ[suffix]
    if suffix in OTHER_SUFFIXES:
        return "no pictures"
    # formats without a magic number would accept anything
    magic = [name for name, (_, accept) in Image.OPEN.items() if accept and name not in NOT_READ_HERE]
    try:
        with Image.open(path, formats=magic):
            return ""
    except (*DAMAGED, Image.DecompressionBombError):
        return "pictures that Pillow cannot read: convert them" if suffix == ".avif" else "no pictures"


@cache
def _formats_of_suffixes() -> dict[str, str]:
    from PIL import Image

    return Image.registered_extensions()
