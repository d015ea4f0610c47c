"""From a folder of images and a torchvision model to an ONNX student, by the commands of the README.

The pictures are of many formats, shapes and orientations, and what is shipped has to see each as training did.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from naslib_autokd import load_student
from naslib_autokd.cli import main
from naslib_autokd.data.load import load_data
from naslib_autokd.data.prepare_picture import PREPARATION
from naslib_autokd.tasks import get_task

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
max_budget_epochs: 5
min_teacher_accuracy: 0.7
"""

CLASSES = ("checks", "columns", "rows & <b>bars</b>")


def draw(name: str, rng: np.random.Generator) -> np.ndarray:
    """A 16x16 picture of stripes or checks of a random colour and phase, with noise."""
    y, x = np.indices((16, 16)) + rng.integers(4, size=2)[:, None, None]
    stripes = {"rows": y // 2 % 2, "columns": x // 2 % 2, "checks": (x // 2 + y // 2) % 2}[name.split()[0]]
    colour = rng.uniform(80, 200, 3)
    picture = 30 + stripes[..., None] * colour + rng.normal(0, 6, (16, 16, 3))
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)


def save_somehow(square: np.ndarray, path: Path, index: int) -> None:
    """A square of 16x16 as the middle of a file of a format, shape and orientation that follow from ``index``."""
    name = f"{index:03}{KINDS[index % len(KINDS)]}"
    times, longer = 1 + index % 4, (1, 2, 16 / 9, 4 / 3)[index // 3 % 4]  # large JPEGs are decoded at a fraction
    square = square.repeat(times, axis=0).repeat(times, axis=1)
    side, wide = len(square), round(len(square) * longer / 2) * 2
    picture = np.full((side, wide, 3), 90, dtype=np.uint8)
    picture[:, (wide - side) // 2 : (wide + side) // 2] = square
    image, exif = Image.fromarray(picture), Image.Exif()
    if index % 3 == 1 and not name.endswith(".gif"):  # stored sideways, as cameras do
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    if "grey" in name:
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif "clear" in name:
        image.putalpha(Image.new("L", image.size, 200))
    elif "palette" in name:
        image = image.quantize(64)
    elif "cmyk" in name:
        image = image.convert("CMYK")
    image.save(path / name, format="JPEG" if name.endswith(("photo", "jfif")) else None, exif=exif)


KINDS = (
    ".jpg", "clear.png", "palette.png", "grey.png", "grey.tif", "cmyk.jpeg", ".webp", "clear.tiff", ".gif", ".jfif",
    ".photo",
)  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for name in CLASSES:
        (folder / name.replace("/", "_")).mkdir(parents=True)
        for index in range(66):
            save_somehow(draw(name, rng), folder / name.replace("/", "_"), index)
    return folder


SERVER = """
import json, sys
sys.modules["naslib_autokd"] = sys.modules["torch"] = None  # importing them fails
import numpy as np, onnxruntime
from prepare_picture import network_input
names = json.load(sys.stdin)
images = network_input(names, size=16, channels=3)
session = onnxruntime.InferenceSession("student.onnx")
np.savez(sys.argv[1], images=images, logits=session.run(None, {"images": images})[0])
"""


def test_from_a_folder_and_a_torchvision_model_to_an_onnx_student(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "patterns.yaml").write_text(TASK)
    task = ["--task", str(tmp_path / "patterns.yaml"), "--data-dir", str(photos)]
    teacher, run = str(tmp_path / "teacher.safetensors"), tmp_path / "run"

    train = ["teacher", "train", *task, "--architecture", "torchvision:resnet18", "--epochs", "6", "--out", teacher]
    assert main(train) == 0
    capsys.readouterr()
    assert main(["teacher", "check", *task, "--teacher", teacher, "--json"]) == 0
    assert "11" in capsys.readouterr().out  # million parameters
    search = ["search", *task, "--teacher", teacher, "--max-params", "12000", "--max-memory", "3MB", "--trials", "2"]
    assert main([*search, "--finals", "2", "--out", str(run)]) == 0
    assert main(["export", str(run), "--format", "onnx"]) == 0

    result = json.loads((run / "result.json").read_text())
    kept = result["finals"][result["kept"]]
    assert kept["n_params"] <= 12_000
    assert kept["train_memory_bytes"] <= 3 * 2**20
    # the folder that is shipped, by itself, in another process, on the files as they lie in the folder
    session = onnxruntime.InferenceSession(str(run / "export" / "student.onnx"))
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    classes = about["classes"]
    splits = json.loads((run / "splits.json").read_text())["splits"]
    members = [name for split in ("train", "val", "test") for name in splits[split]]
    names = json.dumps([str(photos / name) for name in members])
    server = [sys.executable, "-c", SERVER, str(tmp_path / "answer.npz")]
    subprocess.run(server, input=names, text=True, check=True, cwd=run / "export")
    answer = np.load(tmp_path / "answer.npz")

    # it sees what training saw, to the last grey level
    data = load_data(get_task(str(tmp_path / "patterns.yaml"), data_dir=str(photos)))
    test_images, test_labels = data.read_test()
    seen = np.concatenate([data.teacher_views[0], data.val_images, test_images])
    np.testing.assert_array_equal(answer["images"], seen.astype(np.float32) / np.float32(255))

    # its accuracy is the one that was reported, picture by picture
    logits = answer["logits"][-len(test_labels) :]
    right = [classes[row.argmax()] == Path(name).parent.name for row, name in zip(logits, splits["test"], strict=True)]
    assert np.mean(right) == pytest.approx(kept["test_accuracy"], abs=1e-9)
    assert kept["test_accuracy"] > 0.5
    student = load_student(run / "students" / f"student-{result['kept']}.safetensors")
    with torch.no_grad():
        ours = student(data.normalise(test_images)).argmax(dim=1)
    np.testing.assert_array_equal(ours, logits.argmax(axis=1))
    assert about["preparation"] == PREPARATION

    # judged by the command: on the run's own test split its numbers are the run's, also if its folder is given
    capsys.readouterr()
    for words in ([str(run)], [str(run / "export" / "student.onnx"), str(photos)]):
        assert main(["test", *words, "--json"]) == 0
        verdict = json.loads(capsys.readouterr().out)
        assert verdict["own_test_split"]
        assert verdict["accuracy"] == verdict["stated_accuracy"] == kept["test_accuracy"]
        assert verdict["n"] == len(splits["test"])
        assert verdict["confusion"] == kept["test_counts"]["student"]["confusion"]
    for name in splits["test"]:
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / name, tmp_path / "new" / name)
    assert main(["test", str(run / "export" / "student.onnx"), str(tmp_path / "new")]) == 0
    assert f"accuracy {100 * kept['test_accuracy']:.1f} [" in capsys.readouterr().out

    # in 8 bits, calibrated on the run's own pictures
    assert main(["export", str(run), "--int8", "--max-drop", "10", "--json"]) == 0
    int8 = json.loads(capsys.readouterr().out)["int8"]
    assert int8["float_accuracy"] == pytest.approx(kept["val_accuracy"])
    assert int8["int8_bytes"] < int8["float_bytes"]
    assert main(["test", str(run / "export" / "student-int8.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(kept["test_accuracy"], abs=0.1)

    command = [sys.executable, str(EXAMPLE), str(run / "export" / "student.onnx"), str(photos / splits["test"][0])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(classes[int(logits[0].argmax())])
    card = (run / "export" / "model_card.md").read_text()
    assert f"{100 * kept['test_accuracy']:.1f} %" in card
    assert all(f"`{name}`" in card for name in classes)
    again = shlex.split(re.search(r"Again: `(.*)`\.", card)[1])  # of the folder where both commands were typed
    assert [again[again.index(option) + 1] for option in ("--task", "--out")] == [
        f"{tmp_path.name}/run/task.yaml",
        f"{tmp_path.name}/run-again",
    ]
    assert all(text in card for text in PREPARATION.values())
