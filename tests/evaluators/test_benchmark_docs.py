"""The Python of docs/benchmark.md runs as it stands, one script from the first block to the last."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from naslib_autokd.plugin.loader import naslib_missing

PAGE = Path(__file__).parents[2] / "docs" / "benchmark.md"


def test_the_page_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    if naslib_missing() is not None:
        blocks = [block for block in blocks if not block.startswith("# needs NASLib")]
        assert len(blocks) == 5
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line in (r"validation error 0\.\d+, \d+ parameters", r"mean of 200 trainings 0\.", r"regret \d+\.\d\d points"):
        assert re.search(line, done.stdout), done.stdout
    mean, expected = re.findall(r"mean of 200 trainings (\S+), expected (\S+)", done.stdout)[0]
    assert abs(float(mean) - float(expected)) < 0.01
