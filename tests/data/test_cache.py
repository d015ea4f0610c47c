"""Pictures are decoded once on a machine, mapped by all processes, and believed by their digest."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from naslib_autokd.data import cache, decoding
from naslib_autokd.data.cache import shared, stored_images
from naslib_autokd.data.decoding import read_images
from naslib_autokd.data.load import load_data
from naslib_autokd.data.views import draw_views
from naslib_autokd.tasks import TaskError, get_task


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pictures"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.RandomState(0)
    for index in range(24):
        path = tmp_path / "photos" / f"class{index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.randint(0, 256, size=(20, 14, 3)).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def task_of(folder, **overrides):
    return get_task("imagefolder", data_dir=str(folder), image_size=8, **overrides)


def pixels_of(data):
    return [*data.teacher_views.batches(50), data.val_images, data.read_test()[0]]


def test_pictures_are_decoded_once_and_then_mapped(folder, own_cache, monkeypatch):
    first = load_data(task_of(folder))
    expected = pixels_of(first)
    monkeypatch.setattr(decoding, "prepare_image", None)  # no picture is opened any more
    again = load_data(task_of(folder))
    for one, other in zip(expected, pixels_of(again), strict=True):
        assert torch.equal(one, other)
    assert again.digest == first.digest
    assert again.members == first.members
    assert sum(file.stat().st_size for file in own_cache.glob("*.u8")) == 24 * 3 * 8 * 8  # once the raw size
    assert not list(own_cache.glob("*.tmp"))


def test_a_changed_picture_is_decoded_anew(folder, own_cache):
    before = load_data(task_of(folder))
    kept = before.teacher_views[0].clone()
    path = folder / before.members["train"][0]
    Image.fromarray(np.full((20, 14, 3), 7, dtype=np.uint8)).save(path)
    now = load_data(task_of(folder)).teacher_views[0]
    assert bool((now[0] == 7).all())
    assert torch.equal(now[1:], kept[1:])


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_bit,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[::-1]),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text("[]"),
    ],
    ids=["one bit", "truncated", "reversed", "gone", "torn description", "other description"],
)
@pytest.mark.parametrize("checked", [cache.CHECKED_BYTES, 0], ids=["small", "large"])
def test_a_damaged_store_is_made_again(damage, checked, folder, own_cache, monkeypatch):
    monkeypatch.setattr(cache, "CHECKED_BYTES", checked)
    paths = sorted(folder.rglob("*.png"))
    expected = read_images(paths, 8, 3).images
    stored_images(paths, 8, 3)
    (path,) = own_cache.glob("*.u8")
    damage(path)
    for _ in range(2):
        np.testing.assert_array_equal(stored_images(paths, 8, 3).images, expected)


def test_unreadable_pictures_are_left_out_and_remembered(folder, own_cache, monkeypatch, caplog):
    paths = sorted(folder.rglob("*.png"))
    paths[3].write_bytes(b"no picture")
    with pytest.raises(TaskError, match=paths[3].name):
        stored_images(paths, 8, 3)
    assert not list(own_cache.glob("*.u8")) + list(own_cache.glob("*.tmp"))
    expected = read_images(paths, 8, 3, skip_unreadable=True)
    for _ in range(2):
        found = stored_images(paths, 8, 3, skip_unreadable=True)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.kept, expected.kept)
        assert found.skipped == expected.skipped
        assert f"left out: 1 unreadable of 24 images: {paths[3]} is not a readable image" in caplog.text
        caplog.clear()
        monkeypatch.setattr(decoding, "prepare_image", None)


def test_what_the_work_will_take_is_said_before_it(folder, own_cache, monkeypatch, caplog):
    monkeypatch.setattr(cache, "seconds_a_picture", lambda *_: 10.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with caplog.at_level(logging.INFO):
        stored_images(sorted(folder.rglob("*.png")), 8, 3)
    assert f"decoding 24 pictures to 8 x 8 pixels, once: 0.0 MB in {own_cache}, about 2 min" in caplog.text


Usage = namedtuple("Usage", "free total")


def test_without_room_on_the_disk_pictures_are_kept_in_memory_if_they_fit(folder, own_cache, monkeypatch):
    paths = sorted(folder.rglob("*.png"))
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: Usage(1000, 10**12))
    np.testing.assert_array_equal(stored_images(paths, 8, 3).images, read_images(paths, 8, 3).images)
    Memory = namedtuple("Memory", "available total")
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: Memory(1000, 10**10))
    with pytest.raises(TaskError, match=r"need 0\.0 MB: .* has 0\.0 MB free, and of the memory 0\.0 MB are free; make"):
        stored_images(paths, 8, 3)
    assert not list(own_cache.glob("*.u8"))


def test_without_a_cache_folder_pictures_are_kept_in_memory(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path / "file"))
    assert load_data(task_of(folder)).teacher_views.shape[1] > 10


def test_images_of_other_origin_are_shared_where_they_are_many(own_cache, monkeypatch):
    images = np.random.RandomState(0).randint(0, 256, size=(40, 3, 8, 8)).astype(np.uint8)
    assert shared(images) is images
    monkeypatch.setattr(cache, "SHARED_BYTES", 1)
    mapped = shared(images[::-1])
    np.testing.assert_array_equal(mapped, images[::-1])
    assert mapped.filename is not None
    assert shared(mapped) is mapped
    assert len(list(own_cache.glob("*.u8"))) == 1


def test_large_stores_count_by_their_own_digest_and_the_places(own_cache, monkeypatch):
    monkeypatch.setattr(cache, "SHARED_BYTES", 1)
    monkeypatch.setattr("naslib_autokd.data.views.DRAWN_BYTES", 0)
    monkeypatch.setattr("naslib_autokd.data.views.DIGESTED_BYTES", 0)
    images = np.random.RandomState(0).randint(0, 256, size=(40, 3, 8, 8)).astype(np.uint8)
    other = images.copy()
    other[3, 1, 2, 5] ^= 1
    task = get_task("cifar10", n_views=2, image_size=8)

    def content(images, task):
        return b"".join(draw_views(shared(images), task).content())

    assert content(images, task) == content(images.copy(), task)
    assert content(images, task) != content(other, task)
    assert content(images, task) != content(images, get_task(task, split_seed=1))
    assert len(content(images, task)) < 1000  # not the pixels


MEMORY = """
import sys, json
from pathlib import Path
import numpy as np, torch
from naslib_autokd.data import cache, views
from naslib_autokd.data.decoding import Decoded
from naslib_autokd.tasks import get_task

def own():
    return 1024 * int(next(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous")))

def fill(out):
    for image in out:
        image[:] = 3
    return Decoded(out, np.arange(len(out)), ())

task = get_task("cifar10", n_views=2, image_size=96, max_shift=8)
list(views.draw_views(np.zeros((64, 3, 96, 96), np.uint8), task).batches(32))
before = own()
images = cache.stored("many", (3000, 3, 96, 96), fill, lambda where: None).images
drawn = views.draw_views(images, task)
assert drawn.drawn is None
total = sum(int(batch.sum()) for batch in drawn.batches(32))
print(json.dumps([(own() - before) / images.nbytes, total, Path(images.filename).stat().st_size / images.nbytes]))
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory of the process itself: Linux")
def test_a_process_holds_no_copy_of_the_pictures(own_cache):
    """The file is in the memory once, whatever the number of views and processes."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    own, total, size = json.loads(done.stdout)
    assert size == 1.0
    assert own < 0.7  # what reading takes, whatever their number; a copy would be 1
    assert 0.95 * 2 * 3000 * 3 * 96**2 * 3 < total <= 2 * 3000 * 3 * 96**2 * 3  # every view was read
