"""A folder of images is read as people make it, or refused with the reason; nothing is left out without a line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from naslib_autokd.data.layout import BY_TOOLS, read_layout, role_of
from naslib_autokd.data.load import load_data, resolve
from naslib_autokd.tasks import TaskError, get_task


def fill(root: Path, *folders: str, count: int = 2, name: str = "{}.png", format: str = "PNG") -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("L", (4, 4), number).save(root / folder / name.format(number), format)
    return root


def classes_in(*splits: str) -> list[str]:
    return [f"{split}/{name}" for split in splits for name in ("cat", "dog")]


def shape(root: Path) -> dict[str, tuple[str, list[int]]]:
    layout = read_layout(root)
    return {s: (layout.folders[s], [len(files) for files in layout.files[s]]) for s in layout.files}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(
            (name, "train")
            for name in ("train", "Train", "TRAINING", "seg_train", "TrainSet", "train_data", "trainset")
        ),
        *((name, "train") for name in ("train2017", "01-train", "trainset", "train images", "trn")),
        *((name, "val") for name in ("val", "Valid", "validation", "dev", "val_images", "eval", "Validation Set")),
        *((name, "test") for name in ("test", "Testing", "seg_test", "test-set", "holdout")),
        *((name, None) for name in ("cat", "trainer", "contest", "training_val", "set", "images", "brown", "protest")),
        *((name, None) for name in ("train_cat", "x_train", "validity", "2017", "")),
    ],
)
def test_names_of_splits(name, role):
    assert role_of(name) == role


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Train", "Val", "Test"), ("Train", "Val", "Test")),
        (("training", "validation", "testing"), ("training", "validation", "testing")),
        (("train", "validation", "test"), ("train", "validation", "test")),
        (("train", "valid", "test"), ("train", "valid", "test")),
        (("train", "val", "eval"), ("train", "val", "eval")),
        (("train", "eval", "test"), ("train", "eval", "test")),
        (("seg_train", "seg_test"), ("seg_train", None, "seg_test")),
        (("seg_train/seg_train", "seg_test/seg_test"), ("seg_train/seg_train", None, "seg_test/seg_test")),
        (("TRAIN", "Validation"), ("TRAIN", None, "Validation")),
        (("photos/train", "photos/test"), ("photos/train", None, "photos/test")),
    ],
)
def test_usual_splits_are_recognised(tmp_path, folders, expected):
    fill(tmp_path, *classes_in(*folders))
    layout = read_layout(tmp_path)
    assert layout.classes == ("cat", "dog")
    assert tuple(layout.folders.get(split) for split in ("train", "val", "test")) == expected
    assert {len(files) for split in layout.files.values() for files in split} == {2}


def test_the_middle_split_is_validated_on(tmp_path):
    """``validation/`` beside ``train/`` and ``test/`` was not looked at."""
    fill(tmp_path, *classes_in("train"), count=10)
    fill(tmp_path, *classes_in("validation"), count=3)
    fill(tmp_path, *classes_in("test"), count=4)
    data = load_data(get_task("imagefolder", data_dir=str(tmp_path), image_size=8))
    assert (len(data.train_labels), len(data.val_labels), len(data.read_test()[1])) == (20, 6, 8)
    assert {name.split("/")[0] for name in data.members["val"]} == {"validation"}


def test_a_class_called_train_is_a_class(tmp_path):
    fill(tmp_path, "bus", "car", "train")
    layout = read_layout(tmp_path)
    assert layout.classes == ("bus", "car", "train")
    assert layout.notes == ["train/ is taken as a class, since it stands beside other class folders"]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (classes_in("train", "Training", "test"), "Training/ and train/ both look like the train split"),
        (classes_in("val", "test"), "has test/, val/ but no training images"),
        (classes_in("train"), "neither val/ nor test/"),
        ([*classes_in("train", "test"), "cat"], "look like splits, and cat/ beside them like a class"),
        (classes_in("train", "test", "extra"), r"and extra/ beside them like another \(cat, dog\)"),
        (["train", "test"], "named as splits, but have no class folders"),
        ([*classes_in("train"), "test"], "test/ has no class folders"),
        (["cat", "dog", "test"], "test/ is named as a split, but has no class folders and stands beside"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "class folders hold test/, train/; splits must stand"),
        (classes_in("first", "second"), "first/, second/ all hold the folders cat, dog"),
        (["Cat", "cat", "dog"], "'Cat' and 'cat' differ only in how they are written"),
        (["Cafe\u0301", "Caf\u00e9"], "differ only in how they are written"),
        (
            ["train/cat", "train/dog", "test/Cat", "test/dog"],
            "; Cat in test/ alone; they differ only in how",
        ),
        (
            ["train/cat", "train/dog", "test/cat", "test/cow"],
            "classes: dog in train/ alone; cow in test/ alone$",
        ),
        (["cat"], "at least two; found 1"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(tmp_path, folders, message):
    fill(tmp_path, *folders)
    with pytest.raises(TaskError, match=message):
        read_layout(tmp_path)


def test_a_list_of_labels_is_named_where_folders_are_missing(tmp_path):
    fill(tmp_path, "images")
    (tmp_path / "labels.csv").write_text("file,label\n")
    with pytest.raises(TaskError, match=r"found 1; a list of labels \(labels.csv\) is not read: put each image into"):
        read_layout(tmp_path)


def test_images_of_unknown_class_beside_the_splits_are_left_out_with_a_line(tmp_path):
    fill(tmp_path, *classes_in("seg_train", "seg_test"), "seg_pred")
    assert read_layout(tmp_path).lines_left_out() == [
        "left out: 2 files (in none of the splits): seg_pred/0.png, seg_pred/1.png"
    ]
    fill(tmp_path / "more", *classes_in("train", "val"), "test")
    layout = read_layout(tmp_path / "more")
    assert layout.folders == {"train": "train", "test": "val"}
    assert layout.lines_left_out() == [
        "left out: 2 files (in no class folder, so nothing tells their class): test/0.png, test/1.png"
    ]


def test_folders_below_classes_and_years_are_images_of_the_class(tmp_path):
    fill(tmp_path, "cat/2020", "cat/2021", "dog/2020", "dog/2021", "dog")
    assert shape(tmp_path) == {"all": ("", [4, 6])}
    assert read_layout(tmp_path).notes == ["images in folders below a class folder count to the class (2020, 2021)"]
    fill(tmp_path / "years", "cat/2020", "cat/2021", "dog/2020", "dog/2021")
    assert shape(tmp_path / "years") == {"all": ("", [4, 4])}


def test_what_systems_and_tools_leave_behind_does_not_exist(tmp_path):
    fill(tmp_path, *classes_in("train", "test"), count=6)
    before = shape(tmp_path)
    for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".AppleDouble", "$RECYCLE.BIN"):
        fill(tmp_path, folder, f"train/{folder}", f"train/cat/{folder}")
    for folder in ("", "train", "train/cat"):
        for name in ("._0.png", ".hidden.jpg", "Thumbs.db", "desktop.ini", ".DS_Store", "9.jpg.part", "~$x.png"):
            (tmp_path / folder / name).write_bytes(b"nothing")
    layout = read_layout(tmp_path)
    assert shape(tmp_path) == before
    assert layout.lines_left_out() == []
    assert len(layout.left_out[BY_TOOLS]) == 15 + 21
    load_data(get_task("imagefolder", data_dir=str(tmp_path), image_size=8)).read_test()


def test_pictures_are_known_by_their_content(tmp_path):
    fill(tmp_path, "cat", "dog", count=5)
    for name, format in {
        "a.jfif": "JPEG", "b.GIF": "GIF", "c.jp2": "JPEG2000", "d": "PNG", "e.photo": "JPEG", "f.PNG": "PNG",
        "g.avif": "AVIF", "h.jpe": "JPEG", "i.TIF": "TIFF", "j.tga": "TGA", "k.dat": "BMP",
    }.items():  # fmt: skip
        fill(tmp_path, "cat", count=1, name=name, format=format)
    layout = read_layout(tmp_path)
    assert [len(files) for files in layout.files["all"]] == [16, 5]
    assert layout.left_out == {}
    data = load_data(get_task("imagefolder", data_dir=str(tmp_path), image_size=8))
    assert len(data.train_labels) + len(data.val_labels) + len(data.read_test()[1]) == 21


def test_everything_else_is_counted_and_named(tmp_path, caplog):
    fill(tmp_path, "cat", "dog", count=5)
    fill(tmp_path, "", count=1, name="contact-sheet.png")
    (tmp_path / "notes.txt").write_text("P5 is not a picture")
    (tmp_path / "cat" / "boxes").write_text("Python")
    (tmp_path / "cat" / "movie.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (tmp_path / "dog" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "dog" / "camera.NEF").write_bytes(b"MM\0*\0\0\0\x08")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    layout = read_layout(tmp_path)
    assert [len(files) for files in layout.files["all"]] == [5, 5]
    with caplog.at_level(logging.WARNING):
        load_data(get_task("imagefolder", data_dir=str(tmp_path), image_size=8))
    said = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert said == layout.lines_left_out()
    assert set(said) == {
        "left out: 1 file (in no class folder): contact-sheet.png",
        "left out: 3 files (no pictures): notes.txt, cat/boxes, cat/movie.mp4",
        "left out: 1 file (HEIC pictures, which Pillow reads with pip install pillow-heif alone): dog/phone.heic",
        "left out: 1 file (camera raw, of which Pillow shows a preview: convert them): dog/camera.NEF",
        "left out: 1 file (links to nothing): dog/gone.png",
    }


def test_names_that_would_move_the_cursor_are_shown_as_text(tmp_path):
    fill(tmp_path, "cat", "dog")
    (tmp_path / "a\n\x1b[2J.txt").touch()
    assert read_layout(tmp_path).lines_left_out() == [r"left out: 1 file (no pictures): a\n\x1b[2J.txt"]


def test_an_empty_class_is_named_with_what_it_has_instead(tmp_path):
    fill(tmp_path, "cat", "dog", "cow", count=1)
    (tmp_path / "cow" / "0.png").rename(tmp_path / "cow" / "0.heic")
    with pytest.raises(TaskError, match=r"class folder .*cow has no images \(but 1 file, HEIC pictures, which"):
        resolve(get_task("imagefolder", data_dir=str(tmp_path)))


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    fill(tmp_path / "elsewhere", "", count=3)
    root = fill(tmp_path / "photos", "cat", "dog")
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "again").symlink_to(root / "cat")
    assert shape(root) == {"all": ("", [5, 2])}
