"""A subclass of NASLib's CustomDataset as a task: the images, their scale, the splits, and a training on them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from api_cases import random_states

from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.records import Proposal
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.tasks import TaskError

pytestmark = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

N, N_TEST, SIZE = 120, 40, 8
MEAN, STD = 0.4, 0.2
LIMITS = {"max_params": 7000, "min_channels": 2, "min_budget_epochs": 1, "max_budget_epochs": 2, "batch_size": 16}


class Bars(torch.utils.data.Dataset[Any]):
    """Bright rows (class 0), columns (1) or squares (2) on noise, as 8-bit arrays; counts what is read."""

    classes = ("row", "column", "square")

    def __init__(self, n: int, seed: int, transform: Any) -> None:
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(3, size=n)
        self.images = rng.integers(100, size=(n, SIZE, SIZE), dtype=np.uint8)
        for image, label in zip(self.images, self.labels, strict=True):
            place = int(rng.integers(SIZE - 2))
            if label == 0:
                image[place] = 255
            elif label == 1:
                image[:, place] = 255
            else:
                image[place : place + 3, 2:5] = 255
        self.images[:, 0, 0] = 0
        self.transform, self.n_read = transform, 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.n_read += 1
        return self.transform(self.images[index]), int(self.labels[index])


@pytest.fixture(scope="module")
def custom() -> Any:
    """A subclass as NASLib's docs have it, with torchvision's transforms."""
    from naslib_autokd.plugin import load_naslib

    load_naslib()
    from naslib.utils.custom_dataset import CustomDataset
    from torchvision import transforms

    class BarsDataset(CustomDataset):
        def get_transforms(self, config: Any) -> Any:
            both = [transforms.ToTensor(), transforms.Normalize([MEAN], [STD])]
            return transforms.Compose([transforms.RandomHorizontalFlip(), *both]), transforms.Compose(both)

        def get_data(self, data: Any, train_transform: Any, valid_transform: Any) -> Any:
            np.random.seed(0)  # noqa: NPY002  (as such code does)
            self.train, self.test = Bars(N, 0, train_transform), Bars(N_TEST, 1, valid_transform)
            return self.train, self.test

    return BarsDataset


def naslib_config(train_portion: float = 0.75) -> Any:
    search = SimpleNamespace(seed=0, batch_size=16, train_portion=train_portion)
    return SimpleNamespace(data="nowhere", dataset="bars", search=search, evaluation=search)


@pytest.fixture
def task_from() -> Any:
    from naslib_autokd.plugin import task_from_custom_dataset

    return task_from_custom_dataset


def test_the_task_says_what_the_data_are(task_from, custom):
    before = random_states()
    dataset = custom(naslib_config())
    data = task_from(dataset, **LIMITS)
    task = data.task
    assert (task.name, task.n_classes, task.in_channels, task.image_size) == ("bars", 3, 1, SIZE)
    assert (task.n_train, task.n_teacher, task.n_val, task.n_test) == (90, 90, 30, N_TEST)
    assert data.classes == ("row", "column", "square")
    assert (task.max_params, task.max_budget_epochs) == (7000, 2)
    assert data.train_views.shape == (1, 90, 1, SIZE, SIZE)
    assert data.train_images.dtype == torch.uint8
    assert random_states() == before
    assert dataset.test.n_read == 0  # the test split is read by the final evaluation
    images, labels = data.read_test()
    assert len(images) == len(labels) == N_TEST == dataset.test.n_read


def test_networks_get_what_the_validation_transform_gives(task_from, custom):
    dataset = custom(naslib_config())
    data = task_from(dataset, **LIMITS)
    raw = torch.from_numpy(dataset.train.images[:, None])
    expected = (raw.float() / 255 - MEAN) / STD
    got, origin = normalised(data, expected)
    # the same images with the same labels, in another order: exact, as the images use all 256 values
    torch.testing.assert_close(got, expected[origin], rtol=0, atol=1e-5)
    assert torch.cat([data.train_labels, data.val_labels]).tolist() == dataset.train.labels[origin].tolist()
    assert sorted(origin.tolist()) == list(range(N))


def normalised(data: Any, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a network gets, and which of the given images each is."""
    got = torch.cat([data.normalise(data.train_images), data.normalise(data.val_images)])
    return got, torch.cdist(got.flatten(1), given.flatten(1)).argmin(dim=1)


def test_the_split_is_stratified_fixed_and_disjoint(task_from, custom):
    data, again = (task_from(custom, naslib_config(), **LIMITS) for _ in range(2))
    assert data.train_images.equal(again.train_images)
    other = task_from(custom, naslib_config(), split_seed=1, **LIMITS)
    assert not data.val_images.equal(other.val_images)
    shares = [torch.bincount(labels, minlength=3) / len(labels) for labels in (data.train_labels, data.val_labels)]
    assert float((shares[0] - shares[1]).abs().max()) < 0.05
    seen = {image.numpy().tobytes() for image in data.train_images}
    assert not seen & {image.numpy().tobytes() for image in data.val_images}


def test_a_training_portion_of_one_leaves_fifteen_percent(task_from, custom):
    assert task_from(custom, naslib_config(1.0), **LIMITS).task.n_val == 18


def test_augmentation_is_the_tasks(task_from, custom):
    data = task_from(custom, naslib_config(), augmentation="shift", n_views=3, **LIMITS)
    assert data.train_views.shape[0] == 3
    assert not data.train_views[0].equal(data.train_views[1])


def test_other_floats_are_off_by_half_a_step_at_most(task_from):
    rng = np.random.default_rng(0)
    pixels = (rng.normal(size=(60, 3, 6, 6)) * [[[[1.0]], [[5.0]], [[0.1]]]]).astype(np.float32)
    data = task_from(pair(pixels, np.arange(60) % 2), **LIMITS)
    got, origin = normalised(data, torch.from_numpy(pixels))
    span = pixels.max(axis=(0, 2, 3)) - pixels.min(axis=(0, 2, 3))
    error = (got - torch.from_numpy(pixels)[origin]).abs().amax(dim=(0, 2, 3)).numpy()
    assert (error <= span / 510 * 1.01).all()
    assert (error > 0).all()


def test_images_that_stay_8_bit_are_standardised(task_from):
    rng = np.random.default_rng(0)
    data = task_from(pair(rng.integers(256, size=(60, 1, 8, 8), dtype=np.uint8), np.arange(60) % 2), **LIMITS)
    values = data.normalise(data.train_images)
    assert float(values.mean()) == pytest.approx(0, abs=1e-4)
    assert float(values.std()) == pytest.approx(1, abs=1e-3)


def pair(images: Any, labels: Any, test: Any = None) -> Any:
    """An object with a CustomDataset's two methods."""
    train = [(torch.as_tensor(image), label) for image, label in zip(images, labels, strict=True)]
    return SimpleNamespace(
        get_transforms=lambda config: (None, None), get_data=lambda *_: (train, train if test is None else test)
    )


def test_students_learn_from_a_teacher_on_it(task_from, custom, cache_folder):
    data = task_from(custom, naslib_config(), teacher_epochs=25, min_teacher_accuracy=0.8, **LIMITS)
    evaluator = KDEvaluator(data.task, data=data)  # trains the task's own teacher
    candidate = HNAGSpace("hnag-small").default_candidate()
    trial = evaluator.evaluate(Proposal(candidate, 2, 0, 0))
    assert trial.status == "success", trial.message
    model, result = evaluator.train_final(
        lambda: evaluator.build_student(evaluator.student_spec(candidate, 1), 1), candidate.kd, 1, epochs=20
    )
    judged = evaluator.judge(model, result)
    assert data.test_reads == 1
    assert judged.test_accuracy is not None
    assert judged.test_accuracy > 0.6  # chance is 0.33


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((20, 1, 8, 9), np.float32), np.arange(20) % 2, "images must be square with 1 or 3 channels"),
        (np.zeros((20, 2, 8, 8), np.float32), np.arange(20) % 2, "images must be square with 1 or 3 channels"),
        (np.full((20, 1, 8, 8), np.nan, np.float32), np.arange(20) % 2, "values that are not finite"),
        (np.zeros((20, 1, 8, 8), np.float32), np.arange(20) % 2 * 2, "there are none of 1"),
        (np.zeros((20, 1, 8, 8), np.float32), np.zeros(20, int), "there is only one"),
        (np.zeros((20, 1, 8, 8), np.float32), np.linspace(0, 1, 20), "a label is the number of a class"),
        (np.zeros((1, 1, 8, 8), np.float32), np.zeros(1, int), "there is only one"),
        (np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, int), "datasets with a length, at least 1"),
    ],
)
def test_data_that_cannot_be_used(task_from, images, labels, message):
    with pytest.raises(TaskError, match=message):
        task_from(pair(images, labels), **LIMITS)


def test_wrong_calls(task_from, custom):
    with pytest.raises(TaskError, match="BarsDataset is a class: give NASLib's config too"):
        task_from(custom)
    with pytest.raises(TaskError, match="is no CustomDataset of NASLib's: it has no get_transforms and no get_data"):
        task_from(SimpleNamespace())
    with pytest.raises(TaskError, match="unknown field of a task 'max_parms'; did you mean 'max_params'"):
        task_from(custom, naslib_config(), max_parms=7)
    with pytest.raises(TaskError, match="there are only 90 training images, 500 are wanted"):
        task_from(custom, naslib_config(), n_train=500)
    images, labels = np.zeros((20, 1, 8, 8), np.float32), np.arange(20) % 2
    data = task_from(pair(images, labels, test=[(torch.zeros(1, 8, 8), 2)]), **LIMITS)
    with pytest.raises(TaskError, match="the test data have label 2, the training data 2 classes"):
        data.read_test()
