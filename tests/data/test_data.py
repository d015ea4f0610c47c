from __future__ import annotations

import json
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.io import savemat
from sklearn.datasets import load_digits

from naslib_autokd.data import digits as digits_module
from naslib_autokd.data import images as images_module
from naslib_autokd.data.dataset import data_from_dataset
from naslib_autokd.data.decoding import read_images
from naslib_autokd.data.digits import BLACK, DIGIT_SPLITS, WHITE, digit_originals, draw_canvases
from naslib_autokd.data.load import load_data
from naslib_autokd.data.splits import save_splits, stratified_order
from naslib_autokd.data.views import _free_bytes, draw_views
from naslib_autokd.tasks import TaskError, get_task

FALSE_ALARM_RATE = 1e-4


def brightness(canvases):
    return BLACK + canvases.astype(np.float64) / 255 * (WHITE - BLACK)


# --- cluttered-digits -----------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn():
    images, labels = digits_module._digits()
    theirs = load_digits()
    np.testing.assert_array_equal(images[:, 0], (theirs.images / 16 * 255).round())
    np.testing.assert_array_equal(labels, theirs.target)


def test_splits_have_disjoint_stratified_originals():
    originals = digit_originals(get_task("cluttered-digits"))
    _, labels = digits_module._digits()
    everything = np.concatenate(list(originals.values()))
    assert len(everything) == len(set(everything)) == 1797
    for split, size in DIGIT_SPLITS.items():
        assert len(originals[split]) == size
        expected = np.bincount(labels) * size / 1797
        assert np.abs(np.bincount(labels[originals[split]]) - expected).max() <= 1


def test_no_pixel_of_a_test_original_reaches_training_or_validation(monkeypatch):
    task = get_task("cluttered-digits", n_teacher=900, n_train=100, n_val=300, n_test=300)
    before = load_data(task)
    images, labels = digits_module._digits()
    blanked = images.copy()
    blanked[digit_originals(task)["test"]] = 0
    monkeypatch.setattr(digits_module, "_digits", lambda: (blanked, labels))
    after = load_data(task)
    assert after.digest == before.digest
    torch.testing.assert_close(after.val_images, before.val_images, rtol=0, atol=0)
    assert not torch.equal(after.read_test()[0], before.read_test()[0])


def test_canvases_are_a_pure_function_of_their_arguments():
    originals = digits_module._digits()
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
    monkeypatch.setattr(digits_module, "NOISE", 0.0)
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
    assert cluttered_data.train_images.dtype == torch.uint8
    assert len(cluttered_data.val_images) == 3000
    _, labels = digits_module._digits()
    share = np.bincount(labels) / 1797
    for split in (cluttered_data.train_labels, cluttered_data.val_labels):
        np.testing.assert_allclose(np.bincount(split) / len(split), share, atol=0.005)


def test_test_split_is_made_when_it_is_read_and_reads_are_counted(monkeypatch):
    drawn = []
    original = digits_module.draw_canvases
    monkeypatch.setattr(
        digits_module, "draw_canvases", lambda *args: (drawn.append(args[1]), original(*args))[1], raising=True
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
    views = draw_views(images, task).drawn.numpy()
    np.testing.assert_array_equal(views[0], images)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    shifts = np.stack([padded[:, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)])
    for view in views[1:]:
        matches = (shifts == view).all(axis=(2, 3, 4))
        np.testing.assert_array_equal(matches.sum(axis=0), 1)  # every sample has its own shift
        assert matches[4].sum() == 0  # not the image itself once more
        assert stats.chisquare(np.delete(matches.sum(axis=1), 4)).pvalue > FALSE_ALARM_RATE
    np.testing.assert_array_equal(views, draw_views(images, task).drawn)


def test_crops_are_mirrored_half_of_the_time():
    task = get_task("cifar10", n_views=3, image_size=8, max_shift=0)
    images = np.random.RandomState(0).randint(0, 256, size=(400, 3, 8, 8)).astype(np.uint8)
    for view in draw_views(images, task).drawn.numpy()[1:]:
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
    from naslib_autokd.data.vision import import_torchvision

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


# --- files that cannot be read --------------------------------------------------------------------------------------


def test_unreadable_files_are_left_out_counted_and_listed_if_asked(tmp_path, caplog):
    write_images(tmp_path, {"a": 20, "b": 20})
    (tmp_path / "a" / "90.png").write_bytes(b"not an image")
    whole = (tmp_path / "b" / "3.png").read_bytes()
    (tmp_path / "b" / "3.png").write_bytes(whole[: len(whole) // 2])
    task = get_task("imagefolder", data_dir=str(tmp_path), image_size=8)
    with pytest.raises(TaskError, match=r"(90|3)\.png is not a readable image: .*skip_unreadable: true"):
        load_data(task).read_test()
    data = load_data(get_task(task, skip_unreadable=True))
    n_read = len(data.teacher_labels) + len(data.val_labels) + len(data.read_test()[1])
    assert n_read == 39
    listed = [line.split(" is not")[0] for line in data.skipped]
    assert set(listed) == {str(tmp_path / "a" / "90.png"), str(tmp_path / "b" / "3.png")}
    assert "unreadable" in caplog.text
    for split, images in (("train", data.teacher_labels), ("val", data.val_labels)):
        assert len(data.members[split]) == len(images)
        assert not {"a/90.png", "b/3.png"} & set(data.members[split])


def test_splits_of_a_run_name_what_could_not_be_read_of_the_test_images_once_they_were(tmp_path):
    write_images(tmp_path / "images", {"a": 20, "b": 20})
    task = get_task("imagefolder", data_dir=str(tmp_path / "images"), image_size=8, skip_unreadable=True)
    damaged = tmp_path / "images" / load_data(task).members["test"][0]
    damaged.write_bytes(b"not an image")
    data = load_data(task)
    file = save_splits(data, tmp_path)
    assert json.loads(file.read_text())["skipped"] == []
    data.to("cpu").read_test()
    before = json.loads(file.read_text())
    assert json.loads(save_splits(data, tmp_path).read_text()) == {**before, "skipped": data.skipped}
    assert data.skipped[0].startswith(f"{damaged} is not a readable image")
    save_splits(load_data(task), tmp_path)
    assert json.loads(file.read_text())["skipped"] == data.skipped, "a later session has not read them"


def test_a_class_that_unreadable_files_leave_empty_is_an_error(tmp_path):
    write_images(tmp_path, {"a": 20, "b": 20})
    for file in (tmp_path / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(TaskError, match="no training image is left of class 'b'"):
        load_data(get_task("imagefolder", data_dir=str(tmp_path), image_size=8, skip_unreadable=True))


def test_a_class_whose_only_image_is_held_out_is_an_error(tmp_path):
    write_images(tmp_path, {"a": 30, "b": 1})
    task = get_task("imagefolder", data_dir=str(tmp_path), image_size=8)
    said = set()
    for seed in range(12):  # it falls into each of the three splits
        try:
            load_data(get_task(task, split_seed=seed))
        except TaskError as error:
            said.add(str(error).partition(" once ")[0])
    assert said == {"imagefolder: no training image is left of class 'b'"}


def test_images_of_unequal_size_are_resized_by_the_shorter_side_and_cut(tmp_path):
    """A wide and a tall picture: red middle, blue ends; only the middle is left."""
    for name, size in (("wide", (60, 20)), ("tall", (20, 60))):
        picture = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        picture[:] = (0, 0, 255)
        picture[(size[1] - 20) // 2 : (size[1] + 20) // 2, (size[0] - 20) // 2 : (size[0] + 20) // 2] = (255, 0, 0)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    decoded = read_images([tmp_path / "wide.png", tmp_path / "tall.png"], 20, 3)
    assert (decoded.images == np.array([255, 0, 0], dtype=np.uint8)[:, None, None]).all()


def test_large_photographs_are_decoded_at_a_fraction_and_stay_the_same_to_two_grey_levels(tmp_path, monkeypatch):
    from naslib_autokd.data import prepare_picture

    rows, columns = np.mgrid[0:512, 0:512] / 512
    smooth = np.stack([rows, columns, (rows + columns) / 2], axis=-1) * 255
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "large.jpg", quality=95)
    quick = read_images([tmp_path / "large.jpg"], 32, 3).images
    monkeypatch.setattr(prepare_picture, "OVERSAMPLING", 10_000)
    slow = read_images([tmp_path / "large.jpg"], 32, 3).images
    assert np.abs(quick.astype(int) - slow).max() <= 2


def test_16_bit_pictures_are_scaled_and_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_images([tmp_path / "deep.png"], 8, 1).images[0, 0], levels >> 8)
    Image.fromarray(np.zeros((8, 8), dtype=np.int32)).save(tmp_path / "deeper.tiff")
    with pytest.raises(TaskError, match="32-bit numbers of unknown range"):
        read_images([tmp_path / "deeper.tiff"], 8, 1)


def test_the_number_of_threads_changes_nothing(tmp_path):
    write_images(tmp_path, {"a": 40})
    files = sorted((tmp_path / "a").iterdir())
    one, four = (read_images(files, 8, 3, threads=threads).images for threads in (1, 4))
    np.testing.assert_array_equal(one, four)


def test_moments_of_many_pixels_are_counted(monkeypatch):
    images = np.random.RandomState(0).randint(0, 256, size=(20, 3, 9, 9)).astype(np.uint8)
    floats = images_module.moments(images)
    monkeypatch.setattr(images_module, "FLOAT_PIXELS", 0)
    np.testing.assert_allclose(images_module.moments(images), floats, rtol=1e-12)


# --- MIT67 ----------------------------------------------------------------------------------------------------------


def write_mit67(root, n_train=8, n_test=2):
    """Three of the 67 rooms in the official layout; the number in a file's name is its colour."""
    lists: dict[str, list[str]] = {"TrainImages.txt": [], "TestImages.txt": []}
    for index, room in enumerate(("kitchen", "airport_inside", "bar")):
        (root / "Images" / room).mkdir(parents=True)
        for number in range(n_train + n_test):
            value = 60 * index + number
            Image.new("RGB", (40 + number, 30), (value, 0, 0)).save(root / "Images" / room / f"{value}.png")
            lists["TrainImages.txt" if number < n_train else "TestImages.txt"].append(f"{room}/{value}.png")
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n\n")
    return lists


def mit67_task(root, **overrides):
    return get_task("mit67", data_dir=str(root), n_classes=3, n_val=6, image_size=24, **overrides)


def test_mit67_follows_the_official_lists(tmp_path):
    lists = write_mit67(tmp_path)
    data = load_data(mit67_task(tmp_path))
    assert data.classes == ("airport_inside", "bar", "kitchen")
    np.testing.assert_array_equal(np.bincount(data.val_labels), [2, 2, 2])
    np.testing.assert_array_equal(np.bincount(data.teacher_labels), [6, 6, 6])
    named = {f"Images/{name}" for name in lists["TrainImages.txt"]}
    assert set(data.members["train"]) | set(data.members["val"]) == named
    assert set(data.members["test"]) == {f"Images/{name}" for name in lists["TestImages.txt"]}
    images, labels = data.read_test()
    for image, label, name in zip(images, labels, data.members["test"], strict=True):
        assert data.classes[label] == name.split("/")[1]
        assert image[0].unique().tolist() == [int(name.split("/")[2].removesuffix(".png"))]
    inside = tmp_path / "elsewhere"
    inside.mkdir()
    write_mit67(inside / "indoor")
    assert load_data(mit67_task(inside)).digest == data.digest


def test_mit67_says_what_is_missing_and_where_to_get_it(tmp_path):
    with pytest.raises(TaskError, match=r"needs data_dir .*Images, TrainImages.txt.*web\.mit\.edu/torralba"):
        load_data("mit67")
    write_mit67(tmp_path)
    (tmp_path / "TestImages.txt").rename(tmp_path / "Test.txt")
    with pytest.raises(TaskError, match=r"has no TestImages\.txt\. Get .*indoor\.html and put them into"):
        load_data(mit67_task(tmp_path))
    (tmp_path / "Test.txt").rename(tmp_path / "TestImages.txt")
    (tmp_path / "Images" / "bar" / "121.png").unlink()
    with pytest.raises(TaskError, match=r"TrainImages\.txt, line 18: .*121\.png does not exist"):
        load_data(mit67_task(tmp_path))


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("TestImages.txt", "bar/120.png", "bar/120.png and 0 others are in both lists"),
        ("TestImages.txt", "120.png", r"TestImages\.txt, line 8: expected class/file"),
        ("TrainImages.txt", "cellar/1.png", r"has 4 classes, the task says 3|have 4 classes"),
        ("TestImages.txt", "cellar/1.png", "has classes that TrainImages.txt has not: cellar"),
    ],
)
def test_mit67_lists_that_cannot_be_right(tmp_path, file, line, message):
    write_mit67(tmp_path)
    (tmp_path / "Images" / "cellar").mkdir()
    for number in range(8):
        Image.new("RGB", (9, 9)).save(tmp_path / "Images" / "cellar" / f"{number}.png")
    lines = (tmp_path / file).read_text().split()
    more = [f"cellar/{number}.png" for number in range(8)] if "Train" in file else [line]
    (tmp_path / file).write_text("\n".join([*lines, *([""] if "line 8" in message else []), *more]))
    with pytest.raises(TaskError, match=message):
        load_data(mit67_task(tmp_path))


# --- Flowers102 -----------------------------------------------------------------------------------------------------


def write_flowers(root, n_classes=3, per_split=(4, 2, 3)):
    """Oxford's layout with three flowers; an image's number is its colour."""
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    n = n_classes * sum(per_split)
    labels = np.arange(n) % n_classes + 1
    for number in range(1, n + 1):
        Image.new("RGB", (30, 20), (7 * number, 0, 0)).save(folder / "jpg" / f"image_{number:05d}.jpg", quality=100)
    splits = np.split(np.arange(1, n + 1), np.cumsum(np.array(per_split) * n_classes)[:-1])
    savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    savemat(folder / "setid.mat", dict(zip(("trnid", "valid", "tstid"), (s[None] for s in splits), strict=True)))
    return folder, labels


def flowers_task(root, **overrides):
    return get_task("flowers102", **{"data_dir": str(root), "n_classes": 3, "n_val": 0, "image_size": 16} | overrides)


def test_flowers102_has_the_official_splits(tmp_path):
    folder, labels = write_flowers(tmp_path)
    for root in (tmp_path, folder):
        data = load_data(flowers_task(root))
        assert data.classes == ("1", "2", "3")
        assert [len(data.members[split]) for split in ("train", "val", "test")] == [12, 6, 9]
        images, test_labels = data.read_test()
        for split, pixels, numbers in (
            ("train", data.teacher_views[0], data.teacher_labels),
            ("val", data.val_images, data.val_labels),
            ("test", images, test_labels),
        ):
            for name, image, label in zip(data.members[split], pixels, numbers, strict=True):
                number = int(name.split("_")[1].removesuffix(".jpg"))
                assert label == labels[number - 1] - 1
                assert abs(int(image[0].float().mean()) - 7 * number) <= 3
    assert {int(name[10:15]) for name in data.members["train"]} == set(range(1, 13))


def test_flowers102_that_cannot_be_right(tmp_path):
    folder, _ = write_flowers(tmp_path)
    with pytest.raises(TaskError, match="have 3 classes, the task says 102"):
        load_data(flowers_task(tmp_path, n_classes=102))
    savemat(folder / "setid.mat", {"trnid": [[1, 2, 3]], "valid": [[3, 4]], "tstid": [[5]]})
    with pytest.raises(TaskError, match="overlap"):
        load_data(flowers_task(tmp_path))
    (folder / "setid.mat").write_bytes(b"no matlab file")
    with pytest.raises(TaskError, match=r"setid\.mat in .* cannot be read"):
        load_data(flowers_task(tmp_path))
    (folder / "setid.mat").unlink()
    with pytest.raises(TaskError, match=r"has no setid\.mat\. Get .*robots\.ox\.ac\.uk"):
        load_data(flowers_task(tmp_path))


def test_missing_flowers_are_counted(tmp_path):
    folder, _ = write_flowers(tmp_path)
    (folder / "jpg" / "image_00002.jpg").unlink()
    with pytest.raises(TaskError, match=r"1 images are missing, for example jpg/image_00002\.jpg"):
        load_data(flowers_task(tmp_path))


# --- any torch dataset ----------------------------------------------------------------------------------------------


def pictures(n, size=(12, 12), kind="pil", n_classes=3):
    """Items of a map-style dataset whose images are of the grey level 10 x index."""
    found = []
    for index in range(n):
        image = Image.new("RGB", size, (10 * index % 256,) * 3)
        array = np.asarray(image)
        tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
        kinds = {"pil": image, "array": array, "uint8": tensor, "float": tensor / 255, "grey": array[:, :, 0]}
        found.append((kinds[kind], index % n_classes))
    return found


@pytest.mark.parametrize("kind", ["pil", "array", "uint8", "float", "grey"])
def test_any_kind_of_image_of_a_dataset_is_read(kind):
    data = data_from_dataset(pictures(24, kind=kind), pictures(9, kind=kind), name="mine", n_val=6, max_params=5000)
    assert data.task.in_channels == (1 if kind == "grey" else 3)
    assert (data.task.n_classes, data.task.image_size, data.task.n_train, data.task.max_params) == (3, 12, 18, 5000)
    for index, image, label in zip(data.members["train"], data.train_images, data.train_labels, strict=True):
        assert image.unique().tolist() == [10 * index % 256]
        assert label == index % 3
    assert len(data.read_test()[1]) == 9
    assert set(data.members["train"]) | set(data.members["val"]) == set(range(24))


def test_a_dataset_alone_is_split_by_class_in_proportion():
    data = data_from_dataset(pictures(60), name="alone", classes=("x", "y", "z"))
    parts = [data.members[split] for split in ("train", "val", "test")]
    assert sorted(sum(parts, ())) == list(range(60))
    assert [len(part) for part in parts] == [41, 7, 12]
    np.testing.assert_array_equal(np.bincount(data.read_test()[1]), [4, 4, 4])
    assert data.classes == ("x", "y", "z")
    again = data_from_dataset(pictures(60), name="alone", split_seed=1)
    assert again.members["train"] != data.members["train"]


def test_the_test_set_is_read_when_it_is_asked_for():
    class Counting(list):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    test = Counting(pictures(6))
    data = data_from_dataset(pictures(30), test, val=pictures(9))
    assert (test.reads, len(data.val_labels), len(data.train_labels)) == (0, 9, 30)
    data.read_test()
    assert test.reads == 6


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (pictures(9, size=(12, 10)), {}, "item 0 of train has 12x10 pixels; give image_size"),
        ([*pictures(9), ("cat.png", 1)], {}, "item 9 of train has <U7 pixels"),
        ([(torch.randn(3, 8, 8), 0)], {}, r"values from -.*leave Normalize out"),
        ([(torch.zeros(3, 8, 8, dtype=torch.int64), 0)], {}, "int64 pixels"),
        ([(torch.zeros(2, 8, 8), 0)], {}, "with 1 or 3 channels"),
        ([torch.zeros(3, 8, 8)], {}, r"must be \(image, label\), got Tensor"),
        ([(torch.zeros(3, 8, 8), "cat")], {}, "a label is the number of a class, from 0, got 'cat'"),
        (iter([]), {}, "map-style dataset with a length"),
        ([], {}, "map-style dataset with a length"),
        (pictures(30), {"classes": ("a", "b")}, "labels up to 2, but 2 names of classes"),
        (pictures(30), {"classes": ("a", "b", "c", "d")}, "no training image is left of class 'd'"),
        (pictures(30), {"test": pictures(3, n_classes=1), "n_tran": 5}, "did you mean 'n_train'"),
    ],
)
def test_datasets_that_cannot_be_used(train, options, message):
    with pytest.raises(TaskError, match=message):
        data_from_dataset(train, **options)


def test_unequal_images_of_a_dataset_are_fitted_if_a_size_is_given():
    mixed = [*pictures(12, size=(20, 14)), *pictures(12, size=(9, 31))]
    data = data_from_dataset(mixed, image_size=8, name="mixed")
    assert data.train_views.shape[2:] == (3, 8, 8)


# --- splits kept ----------------------------------------------------------------------------------------------------


def test_splits_are_kept_and_a_changed_folder_is_noticed(tmp_path):
    photos, run = tmp_path / "photos", tmp_path / "run"
    write_images(photos, {"a": 20, "b": 20})
    task = get_task("imagefolder", data_dir=str(photos), image_size=8)
    path = save_splits(load_data(task), run)
    kept = json.loads(path.read_text())
    assert path == run / "splits.json"
    assert sorted(name for part in kept["splits"].values() for name in part) == sorted(
        f"{name}/{number}.png" for name in "ab" for number in range(20)
    )
    assert kept["classes"] == ["a", "b"]
    before = path.read_bytes()
    assert save_splits(load_data(task), run).read_bytes() == before

    moved = photos.rename(tmp_path / "moved")
    task = get_task(task, data_dir=str(moved))
    assert save_splits(load_data(task), run).read_bytes() == before
    Image.new("RGB", (9, 9)).save(moved / "a" / "77.png")
    with pytest.raises(TaskError, match=r"the images are not those with which this run began: 1 came \(a/77.png\);"):
        save_splits(load_data(task), run)
    (moved / "a" / "77.png").unlink()
    name = load_data(task).members["train"][0]
    Image.new("RGB", (9, 9), (1, 2, 3)).save(moved / name)
    with pytest.raises(TaskError, match=r"files are the same .* but the pixels"):
        save_splits(load_data(task), run)
    path.write_text("{")
    with pytest.raises(TaskError, match="is damaged"):
        save_splits(load_data(task), run)


def test_splits_of_the_embedded_tasks_are_their_originals(cluttered_data, tmp_path):
    kept = json.loads(save_splits(cluttered_data, tmp_path).read_text())["splits"]
    originals = digit_originals(cluttered_data.task)
    assert {split: sorted(indices) for split, indices in kept.items()} == {
        split: sorted(indices.tolist()) for split, indices in originals.items()
    }


def test_another_device_keeps_the_splits(tmp_path):
    data = data_from_dataset(pictures(30), name="small")
    moved = data.to("meta")
    assert moved.members == data.members


def test_memory_of_a_gpu_that_a_worker_may_still_take(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: 0.25)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    for free, left in ((1000, 200), (150, 150)):  # of a share of 250 bytes
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1000))
        assert _free_bytes(torch.device("cuda:0")) == left
