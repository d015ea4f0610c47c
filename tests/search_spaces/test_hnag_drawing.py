"""Pictures exist, are not empty, and leave matplotlib's global state alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_hnag_generator import MIXED, PUBLISHED, SMALL

from naslib_autokd.reports.wirings import COLOURS, draw_sheet, draw_wiring
from naslib_autokd.search_spaces.hnag.wiring import OPERATIONS, fit_width


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_wiring_and_a_sheet_are_drawn(tmp_path: Path, suffix: str) -> None:
    pyplot_before = "matplotlib.pyplot" in sys.modules
    spec = fit_width(SMALL.sample_wiring(0), 24_000, in_channels=1, image_size=12, n_classes=10)
    for number, item in enumerate((spec, MIXED.sample_wiring(0))):
        path = draw_wiring(item, tmp_path / "new" / f"{number}{suffix}")
        content = path.read_bytes()
        assert len(content) > 5_000
        assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    sheet = draw_sheet(
        [spec, *(SMALL.sample_wiring(seed) for seed in range(4))], tmp_path / f"s{suffix}", title="small"
    )
    assert sheet.stat().st_size > 10_000
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before


def test_every_operation_has_a_colour() -> None:
    assert set(COLOURS) == set(OPERATIONS)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_other_suffixes_and_empty_sheets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pictures end in .png, .svg, .pdf, got 'a.txt'"):
        draw_wiring(PUBLISHED.sample_wiring(0), tmp_path / "a.txt")
    with pytest.raises(ValueError, match="at least one wiring"):
        draw_sheet([], tmp_path / "a.png")
