"""docs/teachers_and_data.md does what it says, from the first block to the last, on a small folder of images."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from naslib_autokd.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "teachers_and_data.md"


def write_photos(root: Path) -> None:
    """40 noisy pictures of unequal size for each of three colours."""
    rng = np.random.RandomState(0)
    for name, colour in (("ash", (190, 80, 90)), ("bay", (60, 180, 160)), ("cob", (110, 120, 210))):
        (root / name).mkdir(parents=True)
        for number in range(40):
            size = (*rng.randint(36, 60, size=2), 3)
            pixels = (np.array(colour) + rng.normal(scale=25, size=size)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03d}.jpg")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    scope: dict[str, Any] = {}
    said = ""
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if kind == "yaml":
            name = block.splitlines()[0].removeprefix("# ")
            (tmp_path / name).write_text(block)
        elif kind == "bash":
            for line in block.strip().splitlines():
                program, *arguments = shlex.split(line)
                assert program == "naslib-autokd"
                status = main(arguments)
                said += (printed := capsys.readouterr()).out
                assert status == 0, printed.err
        elif kind == "python":
            exec(compile(block, str(PAGE), "exec"), scope)
            said += capsys.readouterr().out
    assert said.count("this teacher can be used for 'photos'") == 3
    assert "61 11 ('dark', 'grey', 'light')" in said
    assert re.search(r"torch\.Size\(\[14, 3\]\) 2", said)
    assert (tmp_path / "restated.safetensors").is_file()
    assert (tmp_path / "runs" / "shades" / "splits.json").is_file()
