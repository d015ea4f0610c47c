from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest
from PIL import Image

from naslib_autokd.data.load import resolve
from naslib_autokd.tasks import TASKS, Task, TaskError, get_task


@pytest.mark.parametrize("name", TASKS)
def test_task_survives_yaml(name, tmp_path):
    task = get_task(name)
    assert Task.from_yaml(task.to_yaml()) == task
    task.to_yaml(tmp_path / "task.yaml")
    assert get_task(str(tmp_path / "task.yaml")) == task
    assert Task.from_dict(task.to_dict()) == task


def test_yaml_fills_what_is_left_out_from_the_dataset():
    task = Task.from_yaml("name: mine\ndataset: digits\nn_train: 100\n")
    assert task == dataclasses.replace(get_task("digits"), name="mine", n_train=100)


def test_unknown_key_is_named_with_its_line_and_the_nearest_key():
    with pytest.raises(TaskError, match=r"line 3: unknown key 'n_trian'; did you mean 'n_train'"):
        Task.from_yaml("name: x\ndataset: digits\nn_trian: 5\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: digits\nn_train: many\n", "line 2: n_train must be int, got 'many'"),
        ("dataset: digits\ndownload: 1\n", "line 2: download must be bool"),
        ("dataset: digits\nn_train: 5\nn_train: 6\n", "line 3: key 'n_train' appears twice"),
        ("dataset: digist\nn_val: 5\n", "did you mean 'digits'"),
        ("- digits\n- more\n", "a task is a mapping"),
        ("dataset: [digits\n", "not valid YAML"),
    ],
)
def test_wrong_yaml_says_what_is_wrong_and_where(text, message):
    with pytest.raises(TaskError, match=message):
        Task.from_yaml(text)


def test_unknown_task_names_the_nearest():
    with pytest.raises(TaskError, match="unknown task 'cifar-10'; did you mean 'cifar10'"):
        get_task("cifar-10")
    with pytest.raises(TaskError, match="did you mean 'max_params'"):
        get_task("digits", max_param=3)
    with pytest.raises(TaskError, match="does not exist"):
        get_task("nowhere.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augmentation": "flip"}, "did you mean 'crop-flip'"),
        ({"image_size": 2}, "image_size must be at least 4"),
        ({"in_channels": 2}, "must be 1 .* or 3"),
        ({"min_budget_epochs": 10, "max_budget_epochs": 9}, "min_budget_epochs <= max_budget_epochs"),
        ({"min_budget_epochs": 0}, "1 <= min_budget_epochs"),
        ({"max_params": 0}, "max_params must be at least 1"),
        ({"n_train": 7000}, "raise n_teacher"),
        ({"augmentation": "none"}, "has one view"),
        ({"min_teacher_accuracy": 85.0}, "fraction in"),
        ({"n_val": "3000"}, "n_val must be int"),
    ],
)
def test_illegal_settings_are_refused(change, message):
    with pytest.raises(TaskError, match=message):
        get_task("cluttered-digits", **change)


def test_digest_ignores_where_the_data_lie_and_nothing_else():
    task = get_task("cifar10")
    assert get_task(task, data_dir="/somewhere", download=True).digest == task.digest
    assert get_task(task, split_seed=1).digest != task.digest


def test_missing_data_is_an_error_that_says_what_to_put_where(tmp_path):
    with pytest.raises(TaskError, match=r"needs data_dir .*cifar-10-batches-py, of https://www.cs.toronto.edu"):
        resolve(get_task("cifar10"))
    with pytest.raises(TaskError, match="does not exist"):
        resolve(get_task("cifar10", data_dir=str(tmp_path / "nowhere")))
    with pytest.raises(TaskError, match=r"cifar-100-python.train does not exist.*download: true"):
        resolve(get_task("cifar100", data_dir=str(tmp_path)))


def test_image_folder_must_have_two_classes_and_none_empty(tmp_path):
    task = get_task("imagefolder", data_dir=str(tmp_path))
    with pytest.raises(TaskError, match="found 0"):
        resolve(task)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    with pytest.raises(TaskError, match=r"class folder .*cat has no images"):
        resolve(task)
    for name in ("cat", "dog"):
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    assert resolve(task).n_classes == 2
    with pytest.raises(TaskError, match="has 2 classes, but the task says n_classes=3"):
        resolve(get_task(task, n_classes=3))


def test_image_folder_splits_must_have_the_same_classes(tmp_path):
    for folder in ("train/cat", "train/dog", "test/cat", "test/cow"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / folder / "a.png")
    with pytest.raises(TaskError, match="different classes: dog in train/ alone; cow in test/ alone"):
        resolve(get_task("imagefolder", data_dir=str(tmp_path)))


def test_tasks_do_not_import_torch():
    code = "import sys, naslib_autokd.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


DIGESTS = {
    "cluttered-digits": "5694f79654c2",
    "digits": "a7d1eaa20ebc",
    "cifar10": "f008dca32dd3",
    "cifar100": "6fcaf0054839",
    "imagefolder": "c63f6c278ecf",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_digests_of_tasks_stay_as_they_were(name):
    """Run folders, cached teachers and benchmark tables name them: a new field must not change them at its default."""
    task = get_task(name)
    assert task.digest == DIGESTS[name]
    assert "skip_unreadable" not in task.to_dict()
    skipping = get_task(name, skip_unreadable=True)
    assert skipping.digest != task.digest
    assert Task.from_yaml(skipping.to_yaml()) == skipping


def test_a_relative_folder_that_is_missing_is_told_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match=rf"data_dir photos does not exist in {re.escape(str(tmp_path))}; it should be"):
        resolve(get_task("imagefolder", data_dir="photos"))


@pytest.mark.parametrize("name", ["mit67", "flowers102"])
def test_large_images_come_with_the_large_stem(name, tmp_path):
    from naslib_autokd.search_spaces.hnag.wiring import LARGE_IMAGE

    assert get_task(name).image_size >= LARGE_IMAGE
    with pytest.raises(TaskError, match=r"needs data_dir \(--data-dir\): the folder with .*http"):
        resolve(get_task(name))
    with pytest.raises(TaskError, match=rf"{name} not found: .* has no .*\. Get .* from http.* and put them into"):
        resolve(get_task(name, data_dir=str(tmp_path)))
