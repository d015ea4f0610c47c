"""``naslib-autokd data check`` tells what is wrong with a folder of images; commands that read one say it in short."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from naslib_autokd.cli import main
from naslib_autokd.data.check import check_folder, summary
from naslib_autokd.data.load import load_data
from naslib_autokd.tasks import TaskError, get_task


def noise(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with splits of 20, 10 and 10 pictures, all different."""
    root = tmp_path / "photos"
    for index in range(40):
        split, name = ("train", "train", "val", "test")[index % 4], ("ash", "bay")[index // 4 % 2]
        (root / split / name).mkdir(parents=True, exist_ok=True)
        noise(index).save(root / split / name / f"{index}.png")
    return root


def check(root: Path, **settings) -> dict:
    return check_folder(get_task("imagefolder", data_dir=str(root), **settings))


def test_a_clean_folder_has_nothing_to_tell(photos):
    found = check(photos)
    assert found["usable"]
    assert found["splits"] == {"train": 20, "val": 10, "test": 10}
    assert found["classes"] == {name: {"train": 10, "val": 5, "test": 5} for name in ("ash", "bay")}
    assert (found["shorter_side"], found["longest_shape"]) == ([30, 30, 30], pytest.approx(4 / 3))
    assert (found["formats"], found["majority_share"]) == ({"PNG": 40}, 0.5)
    assert found["array_bytes"] == 40 * 3 * 32 * 32
    assert found["disk_free_bytes"] > 0
    assert 0 < found["decode_seconds"] < 60
    assert not any(found["duplicates"].values())
    assert found["left_out"] == {}
    assert found["warnings"] == ["40 images are smaller than the task's 32 pixels and are enlarged"]
    assert check(photos, image_size=30)["warnings"] == []


def test_counts_are_those_of_what_is_loaded(photos):
    for folder in ("val", "test"):
        shutil.rmtree(photos / folder)
    for name in ("ash", "bay"):
        (photos / "train" / name).rename(photos / name)
    (photos / "train").rmdir()
    task = get_task("imagefolder", data_dir=str(photos), image_size=16)
    data, found = load_data(task), check_folder(task)
    assert found["splits"] == {"train": len(data.train_labels), "val": len(data.val_labels), "test": 4}
    assert [found["classes"][name]["train"] for name in data.classes] == data.train_labels.bincount().tolist()
    assert found["splits_from"] == "validation and test are drawn, by class"


def test_the_same_picture_in_two_splits_or_classes_is_found_by_content_and_by_pixels(photos):
    shutil.copy(photos / "train" / "ash" / "0.png", photos / "test" / "ash" / "copy.png")
    noise(0).save(photos / "val" / "ash" / "again.bmp")  # other bytes, the same pixels
    shutil.copy(photos / "train" / "ash" / "1.png", photos / "train" / "bay" / "wrong.png")
    noise(8).save(photos / "train" / "ash" / "twice.png", optimize=True, compress_level=1)
    same = check(photos)["duplicates"]
    assert [(sorted(group["files"]), group["same_file"]) for group in same["between_splits"]] == [
        (["test/ash/copy.png", "train/ash/0.png", "val/ash/again.bmp"], True)
    ]
    assert [sorted(group["files"]) for group in same["in_two_classes"]] == [["train/ash/1.png", "train/bay/wrong.png"]]
    assert [(sorted(group["files"]), group["same_file"]) for group in same["within_a_split"]] == [
        (["train/ash/8.png", "train/ash/twice.png"], False)
    ]


def test_test_images_among_the_unlabelled_ones_are_found(photos, tmp_path):
    (tmp_path / "more").mkdir()
    noise(7).save(tmp_path / "more" / "x.png", compress_level=1)
    noise(99).save(tmp_path / "more" / "y.png")
    found = check(photos, unlabelled_dir=str(tmp_path / "more"))
    assert (found["n_images"], found["n_unlabelled"]) == (40, 2)
    (same,) = found["duplicates"]["between_splits"]
    assert same["files"] == ["test/bay/7.png", str(tmp_path / "more" / "x.png")]
    assert found["duplicates"]["in_two_classes"] == []


def test_an_unlabelled_folder_beside_the_labelled_one_is_named_relatively(photos, tmp_path, monkeypatch):
    (tmp_path / "more").mkdir()
    noise(99).save(tmp_path / "more" / "y.png")
    monkeypatch.chdir(tmp_path)
    found = check_folder(get_task("imagefolder", data_dir=photos.name, image_size=16, unlabelled_dir="more"))
    assert (found["n_unlabelled"], found["unreadable"], found["problem"]) == (1, [], None)
    wanted = get_task("imagefolder", data_dir=photos.name, image_size=16, unlabelled_dir="more", n_unlabelled=2)
    with pytest.raises(TaskError, match="has 1 pictures that the task has not already; the task wants 2") as error:
        load_data(wanted)
    assert check_folder(wanted)["problem"] == str(error.value)


def test_uneven_and_small_classes_are_told(photos):
    for number in range(100, 160):
        noise(number).save(photos / "train" / "bay" / f"{number}.png")
    for file in list((photos / "train" / "ash").iterdir())[4:]:
        file.unlink()
    found = check(photos, image_size=30)
    assert found["majority_share"] == pytest.approx(80 / 94)
    assert found["warnings"] == [
        "uneven: the largest class has 5.7 times the images of the smallest, and who always answers with it is right "
        "on 85.1%",
        "fewer than 10 training images of ash (4)",
    ]


def test_images_that_cannot_be_read_are_named_and_make_the_folder_unusable(photos, capsys):
    (photos / "train" / "ash" / "broken.jpg").write_bytes(b"nothing")
    assert main(["data", "check", str(photos)]) == 2
    captured = capsys.readouterr()
    assert "unreadable     1: train/ash/broken.jpg: cannot identify image file\n" in captured.out
    assert "naslib-autokd: error: 1 of 41 images cannot be read, such as train/ash/broken.jpg" in captured.err
    skipping = check(photos, skip_unreadable=True)
    assert skipping["usable"]
    assert (skipping["n_images"], skipping["splits"]["train"]) == (40, 20)  # those that will be trained on
    assert skipping["classes"]["ash"]["train"] == 10


def test_the_command(photos, capsys):
    (photos / "notes.txt").write_text("x")
    (photos / ".DS_Store").write_text("x")
    assert main(["data", "check", str(photos)]) == 0
    said = capsys.readouterr().out.splitlines()
    for line in (
        f"folder         {photos}: 40 images",
        "classes        2: ash 20, bay 20",
        "splits         20 for training, 10 for validation, 10 for test; train/, val/, test/ of the folder",
        "left out       1 (no pictures): notes.txt",
        "left out       1 (hidden, or left by systems and tools): .DS_Store",
    ):
        assert line in said
    assert said[-1] == "these images can be used"
    assert main(["data", "check", str(photos), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {
        "hidden, or left by systems and tools": [".DS_Store"],
        "no pictures": ["notes.txt"],
    }


def test_what_is_no_folder_of_images_is_refused_in_one_line(tmp_path, capsys):
    for words, message in (
        ([str(tmp_path / "nowhere")], "does not exist"),
        ([str(tmp_path)], "at least two; found 0"),
        ([], "needs data_dir"),
        (["--task", "digits"], "task 'digits' is read as digits"),
    ):
        assert main(["data", "check", *words]) == 2
        assert message in capsys.readouterr().err


def test_every_command_that_reads_a_folder_says_in_short_what_it_holds(photos, tmp_path, capsys):
    (photos / "train" / "ash" / "phone.heic").write_bytes(b"x")
    expected = [
        f"{photos}: 2 classes, 40 images (20 for training, 10 for validation, 10 for test; train/, val/, test/ of the "
        "folder)",
        f"{photos}: left out: 1 file (HEIC pictures, which Pillow reads with pip install pillow-heif alone): "
        "train/ash/phone.heic",
    ]
    task = ["--task", "imagefolder", "--data-dir", str(photos)]
    nowhere = str(tmp_path / "no.safetensors")
    for words in (
        [
            "search",
            "--teacher",
            nowhere,
            "--trials",
            "1",
            "--optimizer",
            "random_search",
            "--out",
            str(tmp_path / "run"),
        ],
        ["evaluate", "--teacher", nowhere],
        ["compare-kd", "--teacher", nowhere, "--seeds", "1", "--out", str(tmp_path / "kd")],
        ["teacher", "check", "--teacher", nowhere],
    ):
        assert main([*words, *task]) != 0
        said = capsys.readouterr().err.splitlines()
        assert [line for line in said if line.startswith(str(photos))] == expected, words
    assert summary(get_task("imagefolder", data_dir=str(photos))) == expected
    with pytest.raises(TaskError, match="needs data_dir"):
        summary(get_task("imagefolder"))
