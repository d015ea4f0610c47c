"""The two claims of the paper, as a user runs them, on tasks of a few images."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scripts import script

SMALL_TASK = """\
dataset: cluttered-digits
n_train: 64
n_val: 100
n_test: 200
min_budget_epochs: 1
max_budget_epochs: 1
"""

SMALL_CIFAR = """\
dataset: cifar10
n_train: 40
n_teacher: 80
n_val: 20
n_test: 20
preset: hnag-small
n_views: 1
min_budget_epochs: 1
max_budget_epochs: 1
teacher: resnet-small
teacher_epochs: 25
min_teacher_accuracy: 0.5
"""


@pytest.fixture
def teacher_claim() -> ModuleType:
    return script("examples/claim_teacher_accuracy.py")


@pytest.fixture
def small(tmp_path: Path) -> str:
    (tmp_path / "small.yaml").write_text(SMALL_TASK)
    return str(tmp_path / "small.yaml")


@pytest.mark.slow
def test_the_teachers_claim_is_a_table_a_verdict_and_files(
    teacher_claim: ModuleType,
    small: str,
    cluttered_teacher: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(teacher_claim, "PARAMS_SHARE", 4)  # the embedded task's own teacher is small already
    monkeypatch.setattr(teacher_claim, "MEMORY_SHARE", 2)
    out = tmp_path / "run"
    arguments = ["--task", small, "--teacher", "resnet-small", "--trainings", "1", "--finals", "2", "--workers", "1"]
    assert teacher_claim.main([*arguments, "--seeds", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "One search says nothing about the claim" in printed
    kept = json.loads((out / "claim.json").read_text())
    students = kept["searches"][0]["students"]
    assert len(students) == 2
    assert all(student["n_params"] <= kept["teacher"]["n_params"] // 4 for student in students)
    assert all(student["train_memory_bytes"] <= kept["teacher"]["train_memory_bytes"] // 2 for student in students)
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    accuracies = [student["test_accuracy"] for student in students]
    assert float(row["test_accuracy"]) == pytest.approx(np.mean(accuracies))
    assert float(row["minus_teacher"]) == pytest.approx(np.mean(accuracies) - kept["teacher"]["test_accuracy"])
    assert (out / "table.txt").read_text() in printed

    # a second seed goes on in the same folder, and the first is not trained again
    before = (out / "seed-0" / "trials.jsonl").read_bytes(), (out / "seed-0" / "finals.jsonl").read_bytes()
    assert teacher_claim.main([*arguments, "--seeds", "2", "--out", str(out)]) == 0
    assert before == ((out / "seed-0" / "trials.jsonl").read_bytes(), (out / "seed-0" / "finals.jsonl").read_bytes())
    assert json.loads((out / "claim.json").read_text())["searches"][0]["students"] == students
    assert "over 2 searches" in capsys.readouterr().out


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a task on files in CIFAR's official format, whose ten classes are colours."""
    from naslib_autokd.data.vision import import_torchvision

    # torchvision knows the checksums of the real files
    monkeypatch.setattr(import_torchvision().datasets.cifar, "check_integrity", lambda *_: True)
    rng = np.random.default_rng(0)
    colours = np.random.default_rng(1).integers(30, 226, (10, 3))
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
        labels = np.arange(20) % 10
        images = colours[labels][:, :, None] + rng.normal(0, 25, (20, 3, 1024))
        batch = {"data": np.clip(images, 0, 255).astype(np.uint8).reshape(20, -1), "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"colour {label}" for label in range(10)]}))
    (tmp_path / "cifar.yaml").write_text(SMALL_CIFAR)
    return ["--task", str(tmp_path / "cifar.yaml"), "--data-dir", str(tmp_path / "data"), "--workers", "1"]


@pytest.mark.slow
def test_both_claims_run_on_cifars_files(
    teacher_claim: ModuleType,
    cifar: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(teacher_claim, "PARAMS_SHARE", 4)
    monkeypatch.setattr(teacher_claim, "MEMORY_SHARE", 2)
    run = [*cifar, "--seeds", "1"]
    searched = tmp_path / "teacher-claim"
    arguments = [*run, "--teacher", "resnet-small", "--trainings", "1", "--finals", "1", "--out", str(searched)]
    assert teacher_claim.main(arguments) == 0
    assert "cifar10: teacher resnet-small" in capsys.readouterr().out
    family = tmp_path / "family.json"
    family.write_text(json.dumps(json.loads((searched / "claim.json").read_text())["searches"][0]["family"]))
    variants = [*run, "--students", "resnet8x0.5", "--losses", "kd,at", "--family", str(family)]
    assert script("examples/claim_kd_variants.py").main([*variants, "--out", str(tmp_path / "kd-claim")]) == 0
    printed = capsys.readouterr().out
    for part in ("cifar10: test accuracy", "searched family", "AT", "teacher", "One seed"):
        assert part in printed


def test_bad_input_is_one_line(
    teacher_claim: ModuleType, small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--task", "cifar10"], "needs data_dir (--data-dir)"),
        (["--task", small, "--teacher", "resnet19"], "did you mean"),
    ):
        assert teacher_claim.main([*arguments, "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
