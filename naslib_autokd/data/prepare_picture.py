"""How a picture file becomes the numbers that a network takes. Needs Pillow and numpy, nothing else.

Training reads its pictures with this file, and ``naslib-autokd export`` writes a copy of it beside each student, so a
server that calls it feeds the student what it was trained on, to the last grey level (given the same Pillow)::

    from prepare_picture import network_input
    logits = session.run(None, {"images": network_input(["photo.jpg"], size=224, channels=3)})[0]
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from os import PathLike
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

BACKGROUND = (255, 255, 255)
"""Transparent pixels are blended on this colour (red, green, blue)."""
OVERSAMPLING = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is at least so many times the wanted size: the result
differs from that of the whole picture by about one grey level, and large photographs take a third of the time."""
PREPARATION = {
    "frame": "the first, of pictures that have several",
    "orientation": "turned upright as EXIF says",
    "transparency": f"blended on the colour {BACKGROUND}",
    "colour": "RGB as stored (CMYK as Pillow converts it, colour profiles are not applied); grey is ITU-R 601-2 luma",
    "grey_scaling": "16-bit grey: floor(256 value / (largest + 1)); largest by the file's stated bits (TIFF "
    "BitsPerSample, MaxSampleValue, PNG sBIT, PGM), else the smallest of 255, 4095 and 65535 that holds all its values",
    "crop": "the centred square with the shorter side, at fractions of a pixel",
    "resize": "the square to the input's height and width",
    "interpolation": "bilinear with antialiasing (Pillow's BILINEAR), 8 bits a channel",
    "jpeg": f"decoded at 1/2, 1/4 or 1/8 of its size if that is at least {OVERSAMPLING} times the input's (libjpeg)",
    "values": "float32, divided by 255, channels first",
}
"""What `prepare` does, in words."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright."""
ORIENTATION, BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 0x0112, 258, 281
PROGRAMS = ("EPS", "WMF")
"""Pillow has other software run these (Ghostscript, Windows), whatever the name of the file is."""
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
GREY = ("1", "L", "LA", "La", *DEEP_GREY)
"""Pillow's modes without colour."""

with contextlib.suppress(ImportError):  # HEIC, which Pillow reads with this package's help alone
    from pillow_heif import register_heif_opener

    register_heif_opener()


def network_input(
    sources: Iterable[str | PathLike[str] | IO[bytes]], size: int, channels: int
) -> npt.NDArray[np.float32]:
    """Picture files as an exported student takes them: ``(n, channels, size, size)`` with values in [0, 1]."""
    return np.stack([prepare(source, size, channels) for source in sources]).astype(np.float32) / np.float32(255)


def prepare(source: str | PathLike[str] | IO[bytes], size: int, channels: int) -> npt.NDArray[np.uint8]:
    """A picture file as uint8 ``(channels, size, size)``, grey (1 channel) or colour (3).

    Raises:
        OSError: If it is no picture, or a damaged one (Pillow's ``UnidentifiedImageError`` is one).
        ValueError: For pixels whose range nobody knows.
    """
    with Image.open(source) as image:
        return prepare_image(image, size, channels)


def prepare_image(
    image: Image.Image, size: int, channels: int, guesses: list[str] | None = None
) -> npt.NDArray[np.uint8]:
    """The same of a Pillow image. ``guesses`` gets a line if the range of its grey levels had to be guessed.

    Raises:
        ValueError: For pixels of 32 bits, for 16-bit colours of which Pillow's 8 bits keep next to nothing, and for
            `PROGRAMS`.
    """
    if image.format in PROGRAMS:
        raise ValueError(f"it is a program that draws a picture ({image.format}), which is not run; save it as PNG")
    depth, significant = _stated_bits(image)
    image.draft(None, (OVERSAMPLING * size, OVERSAMPLING * size))  # JPEG alone has this
    if image.format == "TIFF" and hasattr(image, "filename"):
        image.filename = ""  # else Pillow 13 maps a file that it turns into memory with the wrong length of a row
    image.load()
    if image.mode in DEEP_GREY or (image.mode == "I" and image.format in ("PNG", "PPM")):
        shown = _eight_bits(image, significant, guesses)
    elif image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are 32-bit numbers of unknown range (mode {image.mode}); save it with 8 or 16 bits"
        )
    else:
        if depth == 16 and 0 < _largest(image) < 16:
            raise ValueError(
                "its 16-bit colours use the lowest 12 bits only, and Pillow keeps the upper 8; save it with 8 bits"
            )
        shown = image
    shown = _in_mode(_upright(shown, image), "L" if channels == 1 else "RGB")
    if shown.size != (size, size):
        side = min(shown.size)
        left, top = (shown.width - side) / 2, (shown.height - side) / 2
        shown = shown.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(shown).reshape(size, size, channels).transpose(2, 0, 1)


def _upright(shown: Image.Image, image: Image.Image) -> Image.Image:
    """``shown`` turned as the EXIF data of ``image`` say."""
    if image.format == "TIFF":  # turned when it was loaded; older Pillows leave the entry there
        return shown
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):  # damaged EXIF data say nothing
        turn = None
    return shown if turn is None else shown.transpose(turn)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Opaque, grey (``L``) or colour (``RGB``)."""
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or palette.endswith("A") or "transparency" in image.info:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKGROUND, 255)), layer)
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image, significant: int | None, guesses: list[str] | None) -> Image.Image:
    """16-bit grey as 8-bit grey: by the bits that the file states, else by those that its values need."""
    values = np.asarray(image).astype(np.int64)
    highest = int(values.max())
    if significant is not None and highest < 2**significant:
        largest = 2**significant - 1
    elif significant is not None:  # PNG's way: fewer bits, moved up to fill 16
        largest = 65535
    else:
        largest = next(limit for limit in (255, 4095, 65535) if highest <= limit)
        if guesses is not None and largest < 65535 and highest > 0:
            guesses.append(f"its 16-bit grey levels end at {highest}: scaled as {largest.bit_length()}-bit ones")
    levels = (values * 256 // (largest + 1)).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):
        levels[values == clear] = BACKGROUND[0]
    return Image.fromarray(levels)


def _stated_bits(image: Image.Image) -> tuple[int | None, int | None]:
    """``(bits of a sample, bits of these that mean something)`` as a TIFF or PNG file states them."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        depth, most = (_first(tags.get(tag)) for tag in (BITS_PER_SAMPLE, MAX_SAMPLE_VALUE))
        # some write the largest value of this very picture: only 1023, 4095 and their like are a range
        is_range = most is not None and most >= 255 and most & (most + 1) == 0
        return depth, most.bit_length() if most is not None and is_range else depth if depth != 16 else None
    if image.format == "PPM":  # states its largest value, which Pillow makes 65535
        return 16, 16
    file: Any = getattr(image, "fp", None)
    if image.format == "PNG" and file is not None:
        place = file.tell()
        try:
            return _png_bits(file)
        finally:
            file.seek(place)
    return None, None


def _png_bits(file: Any) -> tuple[int | None, int | None]:
    """The bit depth of the header and the first value of ``sBIT``, which stands before the pixels."""
    depth = None
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name in (b"IDAT", b"IEND"):
            break
        content = file.read(length)
        file.seek(4, 1)
        if name == b"IHDR":
            depth = content[8]
        if name == b"sBIT" and content and 1 <= content[0] <= 16:
            return depth, content[0]
    return depth, None


def _first(value: Any) -> int | None:
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else None


def _largest(image: Image.Image) -> int:
    """The largest sample of the picture, but for its transparency."""
    colours = image.convert("RGB") if image.mode != "RGB" else image
    return max(int(high) for _, high in colours.getextrema())  # type: ignore[misc]
