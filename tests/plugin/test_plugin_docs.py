"""The Python of docs/naslib.md runs as it stands, one script from the first block to the last."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.tasks import get_task

PAGE = Path(__file__).parents[2] / "docs" / "naslib.md"


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")
def test_the_page_runs(tmp_path: Path, cache_folder: str) -> None:
    """Only the dataset is exchanged for a task of moments."""
    sizes = {"n_train": 64, "n_teacher": 600, "n_val": 100, "n_test": 100, "teacher_epochs": 6, "batch_size": 16}
    limits = {"min_teacher_accuracy": 0.0, "max_budget_epochs": 3, "min_budget_epochs": 1}
    task = get_task("cluttered-digits", name="tiny", **sizes, **limits)
    task.to_yaml(tmp_path / "tiny.yaml")
    script = "\n".join(python_blocks(PAGE.read_text(encoding="utf-8")))
    script, n = re.subn(r'^DATASET = "cluttered-digits"', 'DATASET = "tiny.yaml"', script, flags=re.MULTILINE)
    assert n == 1
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line in (r"regularized evolution: \d", r"AutoKD: \d", r"AutoKD on NAS-Bench-201: \d", r"BANANAS: \d"):
        assert re.search(line, done.stdout), done.stdout
    assert "10 8 " in done.stdout  # classes and size of the CustomDataset
    assert (tmp_path / "runs" / "naslib" / "autokd" / "0" / "trials.jsonl").exists()
