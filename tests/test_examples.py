"""The examples run as a user starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import script

from naslib_autokd.plugin.loader import HOME, naslib_missing
from naslib_autokd.runners.comparison import read_comparison

EXAMPLES = Path(__file__).parents[1] / "examples"

SMALL_TASK = """\
dataset: cluttered-digits
n_train: 64
n_val: 200
n_test: 200
min_budget_epochs: 1
max_budget_epochs: 2
"""


@pytest.fixture
def example() -> ModuleType:
    return script("examples/run_autokd_vs_darts.py")


@pytest.mark.parametrize(
    ("host", "whose", "rows", "unit"),
    [
        ("builtin", "DARTS of this package", ("DARTS with KD",), "training_seconds"),
        pytest.param(
            "naslib",
            "NASLib's DARTS, from ",
            ("NASLib DARTS with KD", "NASLib DARTS"),
            "student_epochs",
            marks=pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}"),
        ),
    ],
)
def test_autokd_vs_darts_prints_its_table_and_keeps_everything(
    host: str,
    whose: str,
    rows: tuple[str, ...],
    unit: str,
    example: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task, out = tmp_path / "small.yaml", tmp_path / "run"
    task.write_text(SMALL_TASK)
    budget, said = {"training_seconds": (0.4, "modelled seconds of training"), "student_epochs": (8, "student-epochs")}[
        unit
    ]
    arguments = ["--task", str(task), "--seeds", "2", "--unit", unit, "--budget", str(budget), "--workers", "1"]
    arguments += ["--out", str(out), "--host", host, *(["--labels-only"] if len(rows) == 2 else [])]
    assert example.main(arguments) == 0
    text = capsys.readouterr().out
    assert f"rival: {whose}" in text
    for name in ("AutoKD", "random search", "default family", *rows, "teacher"):
        assert f"\n  {name} " in text
    assert f"{said} for each search" in text
    assert "2 paired seeds" in text
    for name in ("table.txt", "results.csv", "anytime.png", "comparison.json", "task.yaml", "run.yaml"):
        assert (out / name).stat().st_size > 0
    assert len(list(out.glob("*/seed-*/students/*.safetensors"))) == 2 * (3 + len(rows))
    for job in read_comparison(out)[0].jobs:
        assert job.training_seconds is not None
        assert job.final_training_seconds is not None
        assert unit == "student_epochs" or job.training_seconds <= budget
        assert job.curve_unit == unit
        spent = job.training_seconds if unit == "training_seconds" else job.student_epochs
        assert all(0 < x <= spent * (1 + 1e-9) for x, _ in job.curve)
        assert (job.training_seconds == 0) == (job.method == "default family")


def test_auto_takes_naslib_where_it_is_there(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whose = "NASLib's DARTS" if naslib_missing() is None else "DARTS of this package, as NASLib cannot be used"
    assert example.rivals("auto")[1].startswith(whose)
    monkeypatch.setenv(HOME, str(tmp_path))  # no checkout
    methods, text = example.rivals("auto")
    assert text.startswith("DARTS of this package, as NASLib cannot be used")
    assert "no checkout" in text
    assert [method.label for method in methods] == ["DARTS with KD", "DARTS"]
    assert example.rivals("builtin")[0] == methods


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "clutered-digits"], "did you mean 'cluttered-digits'"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--unit", "student_epochs", "--budget", "3"], "at least one full training"),
        (["--budget", "-1"], "got -1"),
        (["--task", "cifar10", "--data-dir", "/nowhere"], "does not exist"),
        (["--teacher", "nowhere.pt"], "nowhere.pt"),
        (["--host", "naslib"], "git clone https://github.com/automl/NASLib.git"),
    ],
)
def test_bad_input_is_an_error_before_any_training(
    arguments: list[str],
    message: str,
    example: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME, str(tmp_path))  # no checkout
    assert example.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/*/seed-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_comparison_in_order(
    number: int,
    example: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("it went on")

    monkeypatch.setattr(example, "compare", interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    before = signal.getsignal(signal.SIGTERM)
    assert example.main(["--out", str(tmp_path / "run"), "--host", "builtin"]) == 130
    said = capsys.readouterr().err.splitlines()
    assert said == [f"interrupted; what has finished is kept, and --out {tmp_path / 'run'} continues"]
    assert signal.getsignal(signal.SIGTERM) is before


def job_results(out: Path) -> dict[str, tuple[int, bytes]]:
    """When each job's result was written, and what it is."""
    return {str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes()) for p in out.glob("*/seed-*/result.json")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_comparison_goes_on_and_repeats_no_job(number: int, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL_TASK)
    command = [sys.executable, str(EXAMPLES / "run_autokd_vs_darts.py"), "--task", "small.yaml", "--seeds", "1"]
    command += ["--unit", "student_epochs", "--budget", "8", "--workers", "1", "--host", "builtin", "--out"]
    subprocess.run([*command, "whole"], cwd=tmp_path, check=True, capture_output=True)
    with subprocess.Popen([*command, "run"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while len(before := job_results(tmp_path / "run")) < 2 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted; what has finished is kept, and --out run continues"
    subprocess.run([*command, "run"], cwd=tmp_path, check=True, capture_output=True)
    after, whole = job_results(tmp_path / "run"), job_results(tmp_path / "whole")
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
    for name, (_, content) in whole.items():
        ours, theirs = json.loads(after[name][1]), json.loads(content)
        assert (ours["test_accuracies"], ours["curve"]) == (theirs["test_accuracies"], theirs["curve"])


def test_ablation_optimizers_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    module = script("examples/ablation_optimizers.py")
    assert module.main(replace(module.STUDY, seeds=2, full_trainings=5), workers=0) == 0
    text = capsys.readouterr().out
    assert module.STUDY.question in " ".join(text.split())
    for method in module.STUDY.methods:
        assert method.label.split()[0] in text
