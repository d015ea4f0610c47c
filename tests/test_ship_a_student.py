"""From a folder of images and a torchvision model to an ONNX student, by the commands of the README."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from naslib_autokd.cli import main

EXAMPLE = Path(__file__).parents[1] / "examples" / "run_exported_student.py"

TASK = """\
dataset: imagefolder
name: patterns
image_size: 16
in_channels: 3
max_params: 20000
preset: hnag-small
augmentation: none
n_views: 1
batch_size: 16
min_budget_epochs: 2
max_budget_epochs: 6
min_teacher_accuracy: 0.8
"""

CLASSES = ("checks", "columns", "rows & <b>bars</b>")


def draw(name: str, rng: np.random.Generator) -> np.ndarray:
    """A 16x16 picture of stripes or checks of a random colour and phase, with noise."""
    y, x = np.indices((16, 16)) + rng.integers(4, size=2)[:, None, None]
    stripes = {"rows": y // 2 % 2, "columns": x // 2 % 2, "checks": (x // 2 + y // 2) % 2}[name.split()[0]]
    colour = rng.uniform(80, 200, 3)
    picture = 30 + stripes[..., None] * colour + rng.normal(0, 12, (16, 16, 3))
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for name in CLASSES:
        (folder / name.replace("/", "_")).mkdir(parents=True)
        for index in range(90):
            Image.fromarray(draw(name, rng)).save(folder / name.replace("/", "_") / f"{index:03}.png")
    return folder


def test_from_a_folder_and_a_torchvision_model_to_an_onnx_student(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    (tmp_path / "patterns.yaml").write_text(TASK)
    task = ["--task", str(tmp_path / "patterns.yaml"), "--data-dir", str(photos)]
    teacher, run = str(tmp_path / "teacher.safetensors"), tmp_path / "run"

    train = ["teacher", "train", *task, "--architecture", "torchvision:resnet18", "--epochs", "10", "--out", teacher]
    assert main(train) == 0
    capsys.readouterr()
    assert main(["teacher", "check", *task, "--teacher", teacher, "--json"]) == 0
    assert "11" in capsys.readouterr().out  # million parameters
    search = ["search", *task, "--teacher", teacher, "--max-params", "12000", "--max-memory", "3MB", "--trials", "4"]
    assert main([*search, "--finals", "2", "--out", str(run)]) == 0
    assert main(["export", str(run), "--format", "onnx"]) == 0

    result = json.loads((run / "result.json").read_text())
    kept = result["finals"][result["kept"]]
    assert kept["n_params"] <= 12_000
    assert kept["train_memory_bytes"] <= 3 * 2**20
    # the file by itself, on the images of the test split as they lie in the folder: the accuracy that was reported
    session = onnxruntime.InferenceSession(str(run / "export" / "student.onnx"))
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    members = json.loads((run / "splits.json").read_text())["splits"]["test"]
    images = np.stack([np.asarray(Image.open(photos / name).convert("RGB")) for name in members])
    logits = session.run(None, {"images": images.transpose(0, 3, 1, 2).astype(np.float32) / 255})[0]
    right = [classes[row.argmax()] == Path(name).parent.name for row, name in zip(logits, members, strict=True)]
    assert np.mean(right) == pytest.approx(kept["test_accuracy"], abs=1e-9)
    assert kept["test_accuracy"] > 0.5

    command = [sys.executable, str(EXAMPLE), str(run / "export" / "student.onnx"), str(photos / members[0])]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert answer.startswith(classes[int(logits[0].argmax())])
    card = (run / "export" / "model_card.md").read_text()
    assert f"{100 * kept['test_accuracy']:.1f} %" in card
    assert all(f"`{name}`" in card for name in classes)
