"""One picture becomes the same numbers whatever its file's format, orientation, transparency and depth."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from naslib_autokd.data.dataset import data_from_dataset
from naslib_autokd.data.decoding import look_at, read_images
from naslib_autokd.data.prepare_picture import BACKGROUND, TURNS, network_input, prepare

QUARTERS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    """Smooth, of 80x60 pixels, without symmetry."""
    rng = np.random.default_rng(0)
    coarse = np.clip(rng.normal(128, 60, (6, 8, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **settings) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return io.BytesIO(file.getvalue())


def with_orientation(scene: Image.Image, orientation: int, format: str) -> io.BytesIO:
    """A file that stores ``scene`` turned so that EXIF's ``orientation`` makes it upright."""
    turn = TURNS.get(orientation)
    back = QUARTERS[turn == QUARTERS[0]] if turn in QUARTERS else turn
    stored = scene if back is None else scene.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = (
        {"quality": 100, "subsampling": 0} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    )
    return encoded(stored, format, exif=exif, **lossless)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(scene, orientation, format):
    upright = prepare(encoded(scene, "PNG"), 24, 3).astype(int)
    sideways = prepare(with_orientation(scene, orientation, format), 24, 3)
    assert np.abs(sideways - upright).max() <= (3 if format == "JPEG" else 1)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_turned_tiff_files_are_not_garbled(tmp_path, scene, mode, orientation):
    """Pillow 13 maps uncompressed ones with the sides exchanged, unless they are opened as streams."""
    stored = scene.convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(stored).astype(np.uint16) * 257)
    (tmp_path / "turned.tif").write_bytes(with_orientation(stored, orientation, "TIFF").getvalue())
    upright = prepare(encoded(stored, "TIFF"), 24, 3).astype(int)
    assert np.abs(prepare(tmp_path / "turned.tif", 24, 3) - upright).max() <= 1


def test_the_orientations_differ_from_one_another(scene):
    """What the test above would not notice if turning did nothing."""
    views = [np.asarray(scene.resize((24, 24)).transpose(turn)).astype(int) for turn in TURNS.values()]
    assert min(np.abs(a - b).max() for i, a in enumerate(views) for b in views[:i]) > 30


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_leave_a_picture_as_it_is_stored(scene):
    plain = prepare(encoded(scene, "PNG"), 24, 3)
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"nonsense"):
        np.testing.assert_array_equal(prepare(encoded(scene, "PNG", exif=exif), 24, 3), plain)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_blended_on_the_stated_colour(scene, channels):
    """RGBA, LA, a palette and a transparent colour show the same: their clear half is the background."""
    half = np.zeros((60, 80), dtype=np.uint8)
    half[:, 40:] = 255
    for mode, files in {
        "RGBA": ("PNG", "TIFF", "WEBP"),
        "LA": ("PNG", "TIFF"),
    }.items():
        clear = scene.convert(mode)
        clear.putalpha(Image.fromarray(half))
        for format in files:
            settings = {"lossless": True, "exact": True} if format == "WEBP" else {}
            shown = prepare(encoded(clear, format, **settings), 20, channels)
            opaque = prepare(encoded(scene.convert(mode.rstrip("A")), "PNG"), 20, channels)
            assert (shown[:, :, :9] == BACKGROUND[0]).all()
            np.testing.assert_array_equal(shown[:, :, 11:], opaque[:, :, 11:])
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(0, (0, 0, 10, 20))
    for format in ("PNG", "GIF"):
        shown = prepare(encoded(palette, format, transparency=0), 20, 3)
        np.testing.assert_array_equal(shown[:, :, 0], np.full((3, 20), 255))
        np.testing.assert_array_equal(shown[:, :, 15], np.repeat([[200], [100], [50]], 20, axis=1))


def test_half_transparent_is_half_the_background():
    half = Image.new("RGBA", (8, 8), (100, 0, 50, 128))
    shown = prepare(encoded(half, "PNG"), 8, 3)[:, 0, 0]
    np.testing.assert_allclose(shown, 255 + (np.array([100, 0, 50]) - 255) * 128 / 255, atol=0.51)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_every_mode_shows_what_pillow_shows(scene, mode):
    stored = scene.convert(mode)
    expected = stored.convert("RGB").resize((24, 24), Image.Resampling.BILINEAR, box=(10, 0, 70, 60))
    shown = prepare(encoded(stored, "TIFF"), 24, 3)
    np.testing.assert_array_equal(shown, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(120, 60), (60, 120), (160, 90), (61, 60), (1, 50)])
def test_the_centred_square_is_what_is_left(size):
    """Columns (or rows) of ever larger values: the mean of the square is that of its middle."""
    width, height = size
    ramp = np.linspace(0, 250, max(size))
    picture = np.tile(ramp, (height, 1)) if width >= height else np.tile(ramp[:, None], (1, width))
    shown = prepare(encoded(Image.fromarray(picture.round().astype(np.uint8)), "PNG"), 16, 1)
    assert shown.shape == (1, 16, 16)
    assert shown.mean() == pytest.approx(125, abs=1)
    assert np.ptp(shown) == pytest.approx(250 * min(size) / max(size) * 15 / 16, abs=4)


# --- grey levels ----------------------------------------------------------------------------------------------------

LEVELS = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)


def deep(bits: int, format: str, **settings) -> io.BytesIO:
    """A 16-bit file with values of so many bits."""
    return encoded(Image.fromarray(LEVELS >> (16 - bits)), format, **settings)


def with_sbit(file: io.BytesIO, bits: int) -> io.BytesIO:
    content, chunk = file.getvalue(), b"sBIT" + bytes([bits])
    whole = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return io.BytesIO(content[:33] + whole + content[33:])


def test_16_bit_grey_keeps_256_levels_whatever_its_range():
    expected = LEVELS >> 8
    pgm = io.BytesIO(b"P5 8 8 4095\n" + (LEVELS >> 4).astype(">u2").tobytes())
    files = [deep(bits, format) for bits in (8, 12, 16) for format in ("PNG", "TIFF")]
    stated = [deep(10, "TIFF", tiffinfo={281: 1023}), with_sbit(deep(10, "PNG"), 10), with_sbit(deep(16, "PNG"), 12)]
    for file in (*files, *stated, deep(16, "PPM"), pgm):
        shown = prepare(file, 8, 1)[0].astype(int)
        assert np.abs(shown - expected).max() <= 1
        assert len(np.unique(shown)) == 64
        np.testing.assert_array_equal(prepare(io.BytesIO(file.getvalue()), 8, 3)[2], shown)


def test_a_dark_picture_stays_dark_where_the_file_states_16_bits():
    for file in (with_sbit(deep(12, "PNG"), 16), deep(12, "TIFF", tiffinfo={281: 65535}), deep(12, "PPM")):
        assert prepare(file, 8, 1).max() == 15


def test_a_guessed_range_is_said_once_with_a_file_and_what_to_do(tmp_path, caplog):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(deep(12 if number else 16, "PNG").getvalue())
    with caplog.at_level(logging.WARNING):
        read_images(sorted(tmp_path.iterdir()), 8, 1)
    assert [record.getMessage() for record in caplog.records] == [
        f"2 of 3 pictures are 16-bit grey without a stated range, for example {tmp_path / '1.png'}: its 16-bit grey "
        "levels end at 4095: scaled as 12-bit ones; state the bits in the files (TIFF MaxSampleValue, PNG sBIT) or "
        "save them with 8 bits if that is wrong"
    ]


def test_16_bit_pictures_of_a_dataset_are_scaled_and_told_of(caplog):
    items = [(Image.fromarray(LEVELS >> 4), index % 2) for index in range(20)]
    data = data_from_dataset(items, name="x-rays")
    np.testing.assert_array_equal(data.train_images[0, 0], LEVELS >> 8)
    assert "x-rays: 20 pictures of train are 16-bit grey: its 16-bit grey levels end at 4095" in caplog.text


def png_16_bit_colour(values: np.ndarray) -> io.BytesIO:
    """``(height, width, 3)`` uint16 as PNG, which Pillow itself cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_16_bit_colours_of_which_nothing_would_be_left_are_refused():
    colours = np.repeat(LEVELS[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(prepare(png_16_bit_colour(colours), 8, 3)[0], LEVELS >> 8)
    assert prepare(png_16_bit_colour(colours * 0), 8, 3).max() == 0
    with pytest.raises(ValueError, match="16-bit colours use the lowest 12 bits only"):
        prepare(png_16_bit_colour(colours >> 4), 8, 3)


def test_network_input_is_the_prepared_picture_in_0_to_1(scene):
    batch = network_input([encoded(scene, "PNG"), encoded(scene, "JPEG")], 24, 3)
    assert (batch.shape, batch.dtype) == ((2, 3, 24, 24), np.float32)
    np.testing.assert_array_equal((batch[0] * 255).round(), prepare(encoded(scene, "PNG"), 24, 3))


def test_read_images_fills_the_array_that_it_is_given(tmp_path, scene):
    for name in "abc":
        scene.save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"nonsense")
    out = np.zeros((3, 3, 8, 8), dtype=np.uint8)
    decoded = read_images(sorted(tmp_path.iterdir()), 8, 3, skip_unreadable=True, out=out)
    assert decoded.images.base is out
    assert decoded.kept.tolist() == [0, 2]
    np.testing.assert_array_equal(out[0], out[1])


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF data")
def test_damaged_files_are_named_whatever_pillow_raises(tmp_path, scene):
    """Its AVIF plug-in raises RuntimeError, others OSError, SyntaxError, ValueError, struct.error."""
    for format in ("JPEG", "PNG", "TIFF", "GIF", "WEBP", "JPEG2000", "AVIF", "PPM", "BMP", "TGA", "ICO"):
        content = encoded(scene, format).getvalue()
        for number, cut in enumerate((0, 4, 20, len(content) // 2)):
            (tmp_path / f"{format}-{number}.png").write_bytes(content[:cut])
    avif = encoded(scene, "AVIF").getvalue()
    (tmp_path / "index.png").write_bytes(avif.replace(b"pitm", b"mtip"))
    files = sorted(tmp_path.iterdir())
    scene.save(tmp_path / "whole.png")
    decoded = read_images([*files, tmp_path / "whole.png"], 8, 3, skip_unreadable=True)
    assert {len(files)} <= set(decoded.kept.tolist())
    assert len(decoded.skipped) == len(files) + 1 - len(decoded.kept) >= len(files) - 2
    for file in files:
        assert bool(look_at(file).problem) == any(str(file) in line for line in decoded.skipped)


def test_pictures_that_are_programs_are_not_run(tmp_path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    with pytest.raises(ValueError, match="a program that draws a picture"):
        prepare(path, 8, 3)
