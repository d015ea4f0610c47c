from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits

from naslib_autokd.distillation import data as data_module
from naslib_autokd.distillation.data import (
    BLACK,
    DIGIT_SPLITS,
    WHITE,
    digit_originals,
    draw_canvases,
    draw_views,
    load_data,
    stratified_order,
)
from naslib_autokd.tasks import TaskError, get_task

FALSE_ALARM_RATE = 1e-4


def brightness(canvases):
    return BLACK + canvases.astype(np.float64) / 255 * (WHITE - BLACK)


# --- cluttered-digits -----------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn():
    images, labels = data_module._digits()
    theirs = load_digits()
    np.testing.assert_array_equal(images[:, 0], (theirs.images / 16 * 255).round())
    np.testing.assert_array_equal(labels, theirs.target)


def test_splits_have_disjoint_stratified_originals():
    originals = digit_originals(get_task("cluttered-digits"))
    _, labels = data_module._digits()
    everything = np.concatenate(list(originals.values()))
    assert len(everything) == len(set(everything)) == 1797
    for split, size in DIGIT_SPLITS.items():
        assert len(originals[split]) == size
        expected = np.bincount(labels) * size / 1797
        assert np.abs(np.bincount(labels[originals[split]]) - expected).max() <= 1


def test_no_pixel_of_a_test_original_reaches_training_or_validation(monkeypatch):
    task = get_task("cluttered-digits", n_teacher=900, n_train=100, n_val=300, n_test=300)
    before = load_data(task)
    images, labels = data_module._digits()
    blanked = images.copy()
    blanked[digit_originals(task)["test"]] = 0
    monkeypatch.setattr(data_module, "_digits", lambda: (blanked, labels))
    after = load_data(task)
    assert after.digest == before.digest
    torch.testing.assert_close(after.val_images, before.val_images, rtol=0, atol=0)
    assert not torch.equal(after.read_test()[0], before.read_test()[0])


def test_canvases_are_a_pure_function_of_their_arguments():
    originals = data_module._digits()
    first = draw_canvases(originals, 50, 12, seed=3)
    np.random.seed(99)  # noqa: NPY002 (another global state must not matter)
    second = draw_canvases(originals, 50, 12, seed=3)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], draw_canvases(originals, 50, 12, seed=4)[0])


def test_noise_is_gaussian_with_the_stated_width():
    blank = (np.zeros((20, 1, 8, 8), dtype=np.uint8), np.arange(20) % 10)
    pixels = brightness(draw_canvases(blank, 200, 12, seed=0)[0]).ravel()
    # tolerance of five standard errors, plus what rounding to 1/170 and cutting off at -0.25 takes
    assert pixels.mean() == pytest.approx(0, abs=5 * 0.1 / np.sqrt(pixels.size) + 1e-3)
    assert pixels.std() == pytest.approx(0.1, rel=0.01)
    assert abs(stats.skew(pixels)) < 0.1  # cutting off at 2.5 deviations makes 0.06; at 0 it would be 1.6


def test_digit_has_random_place_and_brightness_and_clutter_is_a_dimmer_piece_of_another_class(monkeypatch):
    monkeypatch.setattr(data_module, "NOISE", 0.0)
    white = np.zeros((2, 1, 8, 8), dtype=np.uint8)
    white[1] = 255  # class 0 is black, class 1 white: a canvas of class 0 shows only its clutter, and class 1 none
    canvases, labels = draw_canvases((white, np.array([0, 1])), 2000, 12, seed=0)
    canvases = brightness(canvases[:, 0])
    clutter, digits = canvases[labels == 0], canvases[labels == 1]
    assert len(clutter) == len(digits) == 1000
    np.testing.assert_array_equal((clutter > 0.5).sum(axis=(1, 2)), 16)
    np.testing.assert_allclose(clutter.max(axis=(1, 2)), 0.8, atol=0.004)
    np.testing.assert_array_equal((digits > 0.5).sum(axis=(1, 2)), 64)
    assert stats.kstest(digits.max(axis=(1, 2)), stats.uniform(0.6, 0.4).cdf).pvalue > FALSE_ALARM_RATE
    for shown, side in ((clutter, 4), (digits, 8)):
        for axis in (1, 2):
            first = (shown > 0.5).any(axis=3 - axis).argmax(axis=1)
            counts = Counter(first.tolist())
            assert set(counts) == set(range(12 - side + 1))
            assert stats.chisquare(list(counts.values())).pvalue > FALSE_ALARM_RATE


def test_every_split_has_the_promised_size_and_all_classes_in_proportion(cluttered_data):
    task = cluttered_data.task
    assert cluttered_data.train_views.shape == (task.n_views, 1500, 1, 12, 12)
    assert cluttered_data.teacher_views.shape == (task.n_views, 6000, 1, 12, 12)
    assert cluttered_data.train_views.dtype == torch.uint8
    assert len(cluttered_data.val_images) == 3000
    _, labels = data_module._digits()
    share = np.bincount(labels) / 1797
    for split in (cluttered_data.train_labels, cluttered_data.val_labels):
        np.testing.assert_allclose(np.bincount(split) / len(split), share, atol=0.005)


def test_test_split_is_made_when_it_is_read_and_reads_are_counted(monkeypatch):
    drawn = []
    original = data_module.draw_canvases
    monkeypatch.setattr(
        data_module, "draw_canvases", lambda *args: (drawn.append(args[1]), original(*args))[1], raising=True
    )
    data = load_data(get_task("cluttered-digits", n_teacher=100, n_train=50, n_val=70, n_test=80))
    assert (drawn, data.test_reads) == ([100, 70], 0)
    images, labels = data.read_test()
    assert (len(images), len(labels), data.test_reads, drawn) == (80, 80, 1, [100, 70, 80])
    data.read_test()
    assert (data.test_reads, drawn) == (2, [100, 70, 80])


def test_normalised_training_images_have_mean_0_and_deviation_1(cluttered_data):
    images = cluttered_data.normalise(cluttered_data.teacher_views[0])
    assert images.dtype == torch.float32
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std().item() == pytest.approx(1, abs=1e-3)


def test_plain_digits_are_the_second_task():
    data = load_data("digits")
    assert data.train_views.shape == (4, 200, 1, 8, 8)
    assert np.bincount(data.train_labels).min() >= 19
    assert len(data.val_images) == 300
    assert len(data.read_test()[0]) == 597
    with pytest.raises(TaskError, match="val has 300 digits, the task wants 301"):
        load_data(get_task("digits", n_val=301))


# --- splits and views -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_every_part_of_a_stratified_order_has_the_classes_in_proportion(seed):
    rng = np.random.RandomState(seed)
    labels = rng.choice(4, size=500, p=[0.5, 0.3, 0.15, 0.05])
    order = stratified_order(labels, rng)
    assert sorted(order) == list(range(500))
    for start, stop in ((0, 37), (37, 250), (250, 500)):
        expected = np.bincount(labels, minlength=4) * (stop - start) / 500
        assert np.abs(np.bincount(labels[order[start:stop]], minlength=4) - expected).max() <= 2


def test_shifted_views_are_shifts_and_the_first_is_the_image():
    task = get_task("digits", n_views=4, max_shift=1)
    images = np.random.RandomState(0).randint(0, 256, size=(200, 1, 8, 8)).astype(np.uint8)
    views = draw_views(images, task)
    np.testing.assert_array_equal(views[0], images)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    shifts = np.stack([padded[:, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)])
    for view in views[1:]:
        matches = (shifts == view).all(axis=(2, 3, 4))
        np.testing.assert_array_equal(matches.sum(axis=0), 1)  # every sample has its own shift
        assert matches[4].sum() == 0  # not the image itself once more
        assert stats.chisquare(np.delete(matches.sum(axis=1), 4)).pvalue > FALSE_ALARM_RATE
    np.testing.assert_array_equal(views, draw_views(images, task))


def test_crops_are_mirrored_half_of_the_time():
    task = get_task("cifar10", n_views=3, image_size=8, max_shift=0)
    images = np.random.RandomState(0).randint(0, 256, size=(400, 3, 8, 8)).astype(np.uint8)
    for view in draw_views(images, task)[1:]:
        plain = (view == images).all(axis=(1, 2, 3))
        mirrored = (view == images[..., ::-1]).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(plain ^ mirrored, True)
        assert stats.binomtest(int(mirrored.sum()), 400, 0.5).pvalue > FALSE_ALARM_RATE


# --- CIFAR ----------------------------------------------------------------------------------------------------------


def write_cifar(root, fine: bool):
    """Files in CIFAR's official format (a pickled dict per batch), with 10 classes and tiny splits."""
    rng = np.random.RandomState(0)

    def batch(n: int) -> dict:
        labels = (np.arange(n) % 10).tolist()
        key = "fine_labels" if fine else "labels"
        return {"data": rng.randint(0, 256, size=(n, 3072)).astype(np.uint8), key: labels}

    if fine:
        folder, files = root / "cifar-100-python", {"train": 100, "test": 20}
        meta = ("meta", {"fine_label_names": [f"class{i}" for i in range(10)]})
    else:
        folder = root / "cifar-10-batches-py"
        files = {f"data_batch_{i}": 20 for i in range(1, 6)} | {"test_batch": 20}
        meta = ("batches.meta", {"label_names": [f"class{i}" for i in range(10)]})
    folder.mkdir(parents=True)
    written = {}
    for name, content in [*((name, batch(n)) for name, n in files.items()), meta]:
        with open(folder / name, "wb") as file:
            pickle.dump(content, file)
        written[name] = content
    return written


@pytest.fixture
def without_checksums(monkeypatch):
    """torchvision knows the checksums of the real files; ours are smaller."""
    from naslib_autokd.distillation.vision import import_torchvision

    monkeypatch.setattr(import_torchvision().datasets.cifar, "check_integrity", lambda *_: True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_its_official_files(name, tmp_path, without_checksums):
    written = write_cifar(tmp_path, fine=name == "cifar100")
    task = get_task(name, data_dir=str(tmp_path), n_classes=10, n_train=30, n_teacher=40, n_val=20, n_test=20)
    data = load_data(task)
    assert data.train_views.shape == (4, 30, 3, 32, 32)
    assert data.classes == tuple(f"class{i}" for i in range(10))
    np.testing.assert_allclose(np.bincount(data.teacher_labels), 4, atol=1)
    np.testing.assert_allclose(np.bincount(data.val_labels), 2, atol=1)
    test_images, test_labels = data.read_test()
    raw = written["test" if name == "cifar100" else "test_batch"]
    theirs = {image.tobytes(): label for image, label in zip(raw["data"], raw[list(raw)[1]], strict=True)}
    ours = {image.numpy().tobytes(): int(label) for image, label in zip(test_images, test_labels, strict=True)}
    assert ours == theirs  # 3 planes of 32 rows, as the format says
    seen = {image.numpy().tobytes() for image in (*data.teacher_views[0], *data.val_images)}
    assert len(seen) == 60
    assert load_data(task).digest == data.digest


def test_a_damaged_cifar_folder_is_an_error(tmp_path):
    write_cifar(tmp_path, fine=False)
    with pytest.raises(TaskError, match=r"cifar10 in .* cannot be read: .*corrupted"):
        load_data(get_task("cifar10", data_dir=str(tmp_path)))


# --- image folders --------------------------------------------------------------------------------------------------


def write_images(root, counts, size=(20, 14)):
    for index, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", size, (80 * index + number, 10, 200)).save(root / name / f"{number}.png")


def test_image_folder_without_splits_gets_stratified_ones(tmp_path):
    write_images(tmp_path, {"cat": 40, "cow": 40, "dog": 20})
    task = get_task("imagefolder", data_dir=str(tmp_path), image_size=8)
    data = load_data(task)
    assert data.classes == ("cat", "cow", "dog")
    assert data.task.n_classes == 3
    assert data.task.n_train == len(data.train_labels) == 68
    test_images, test_labels = data.read_test()
    np.testing.assert_allclose(np.bincount(test_labels), [8, 8, 4], atol=1)
    np.testing.assert_allclose(np.bincount(data.val_labels), [5, 5, 2], atol=1)
    parts = [data.train_images, data.val_images, test_images]
    colours = [set(part[:, 0, 0, 0].tolist()) for part in parts]
    assert sum(map(len, colours)) == len(set.union(*colours)) == 100  # every file in one split
    assert data.train_images[0].float().std(dim=(1, 2)).max() == 0  # a plain colour stays plain
    assert load_data(task).digest == data.digest


def test_image_folder_takes_the_splits_that_are_there(tmp_path):
    for split, count in (("train", 10), ("val", 4), ("test", 6)):
        write_images(tmp_path / split, {"a": count, "b": count})
    data = load_data(get_task("imagefolder", data_dir=str(tmp_path), image_size=8, in_channels=1))
    assert data.train_views.shape == (4, 20, 1, 8, 8)
    assert (len(data.val_labels), len(data.read_test()[1])) == (8, 12)


def test_image_folder_with_train_and_val_tests_on_val(tmp_path):
    for split, count in (("train", 20), ("val", 5)):
        write_images(tmp_path / split, {"a": count, "b": count})
    data = load_data(get_task("imagefolder", data_dir=str(tmp_path), image_size=8))
    assert (len(data.train_labels), len(data.val_labels), len(data.read_test()[1])) == (34, 6, 10)


def test_image_folder_names_the_file_that_is_no_image(tmp_path):
    write_images(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "9.png").write_bytes(b"not an image")
    data = get_task("imagefolder", data_dir=str(tmp_path), image_size=8)
    with pytest.raises(TaskError, match=r"9\.png is not a readable image"):
        load_data(data).read_test()


def test_image_folder_with_train_alone_has_nothing_to_test_on(tmp_path):
    write_images(tmp_path / "train", {"a": 5, "b": 5})
    with pytest.raises(TaskError, match="neither val/ nor test/"):
        load_data(get_task("imagefolder", data_dir=str(tmp_path)))
