"""Pictures without labels: loss, order of an epoch, and where they come from."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from naslib_autokd.data.check import check_folder
from naslib_autokd.data.load import load_data
from naslib_autokd.distillation.costs import _LiveBytes
from naslib_autokd.distillation.losses import distillation_loss, partly_labelled_loss
from naslib_autokd.distillation.training import train
from naslib_autokd.search_spaces.hnag.parameters import KDSettings
from naslib_autokd.tasks import TaskError, get_task
from naslib_autokd.teachers.soft_targets import SoftTargets, soft_targets_path

KD = KDSettings(4.0, 0.9)


def logits_of(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9, 1.0])
def test_the_loss_is_the_usual_one_on_labelled_and_the_divergence_alone_on_others(weight):
    student, teacher = logits_of(12, 5).requires_grad_(), logits_of(12, 5, seed=1)
    labels = torch.arange(12) % 5
    settings = {"temperature": 3.0, "kd_weight": weight}
    whole = partly_labelled_loss(student, teacher, labels, **settings)
    torch.testing.assert_close(whole, distillation_loss(student, teacher, labels, **settings))
    mixed = torch.where(torch.arange(12) < 8, labels, -1)
    expected = (
        8 * distillation_loss(student[:8], teacher[:8], labels[:8], **settings)
        + 4 * distillation_loss(student[8:], teacher[8:], labels[8:], temperature=3.0, kd_weight=1.0)
    ) / 12
    found = partly_labelled_loss(student, teacher, mixed, **settings)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, student), torch.autograd.grad(expected, student), strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        probabilities = (teacher / 3).softmax(dim=1).numpy().astype(np.float64)
        ratio = np.log(probabilities) - F.log_softmax(student / 3, dim=1).numpy()
        by_hand = 9 * (probabilities * ratio).sum(axis=1).mean()
    alone = partly_labelled_loss(student, teacher, torch.full((12,), -1), **settings)
    assert alone.item() == pytest.approx(by_hand, rel=1e-5)


class Seen(torch.nn.Module):
    """Answers like a linear network and keeps the batches that it was shown."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.batches = torch.nn.Linear(144, 10), []

    def forward(self, images):
        self.batches.append(images.detach().clone())
        return self.linear(images.flatten(1))


@pytest.fixture(scope="module")
def partly(cluttered_data):
    """64 labelled images and 96 without labels, of the teacher's 200."""
    task = get_task("cluttered-digits", n_train=64, n_unlabelled=96, n_teacher=200, n_val=50, n_test=50)
    return load_data(task)


def rows(batches, views):
    """Which sample of ``views`` each image is."""
    known = {image.numpy().tobytes(): index for view in views for index, image in enumerate(view)}
    return [known[image.numpy().tobytes()] for batch in batches for image in batch]


def test_an_epoch_passes_over_labelled_and_unlabelled_images_once(partly):
    assert partly.n_shown == 160
    assert partly.student_labels.tolist() == [*partly.train_labels.tolist(), *[-1] * 96]
    model = Seen()
    soft = logits_of(2, 160, 10)
    result = train(model, partly, soft, kd=KD, epochs=2, seed=0)
    assert result.status == "success"
    assert [len(batch) for batch in model.batches] == [32] * 10
    seen = rows(model.batches, partly.normalise(partly.teacher_views.drawn))
    assert sorted(seen[:160]) == sorted(seen[160:]) == list(range(160))


def test_without_a_teacher_an_epoch_takes_as_many_steps_over_labelled_images(partly):
    model = Seen()
    train(model, partly, None, kd=None, epochs=1, seed=0)
    seen = rows(model.batches, partly.normalise(partly.teacher_views.drawn))
    assert len(seen) == 160
    counts = np.bincount(seen, minlength=160)
    assert set(counts[:64].tolist()) == {2, 3}
    assert counts[64:].sum() == 0


def test_labels_of_unlabelled_images_are_not_used(partly):
    """Exchanging them changes nothing, bit for bit; exchanging those of labelled ones does."""
    soft = logits_of(2, 160, 10)

    def weights(data):
        model = Seen()
        train(model, data, soft, kd=KD, epochs=1, seed=0)
        return model.linear.weight

    labels = partly.teacher_labels.clone()
    labels[64:] = (labels[64:] + 1) % 10
    assert torch.equal(weights(partly), weights(replace(partly, teacher_labels=labels)))
    labels[:64] = (labels[:64] + 1) % 10
    assert not torch.equal(weights(partly), weights(replace(partly, teacher_labels=labels)))


def test_soft_targets_are_of_both_parts(partly, cluttered_teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    found = SoftTargets.cached(cluttered_teacher, partly)
    assert found.train.shape == (2, 160, 10)
    expected = cluttered_teacher(partly.teacher_views[[1, 1], [3, 150]])
    torch.testing.assert_close(found.train[[1, 1], [3, 150]], expected, rtol=1e-4, atol=1e-4)


# --- a folder of pictures -------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """24 photos of 3 classes, and 10 pictures of no class in folders of their own."""
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path / "cache"))
    rng = np.random.RandomState(0)

    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.randint(0, 256, size=(12, 9, 3)).astype(np.uint8)).save(path)

    for index in range(24):
        write(tmp_path / "photos" / f"class{index % 3}" / f"{index}.png")
    for index in range(10):
        write(tmp_path / "more" / f"deep{index % 2}" / f"{index}.png")
    (tmp_path / "more" / ".hidden.png").write_bytes(b"")
    return tmp_path


def task_of(folders, **overrides):
    values = {"data_dir": str(folders / "photos"), "unlabelled_dir": str(folders / "more"), "image_size": 8}
    return get_task("imagefolder", **(values | overrides))


def test_a_folder_of_pictures_follows_the_labelled_ones(folders):
    data = load_data(task_of(folders))
    n = data.task.n_train
    assert data.task.n_unlabelled == 10
    assert data.student_views.shape == (4, n + 10, 3, 8, 8)
    assert data.student_labels.tolist() == [*data.train_labels.tolist(), *[-1] * 10]
    names = data.members["unlabelled"]
    assert sorted(names) == sorted(f"deep{index % 2}/{index}.png" for index in range(10))
    assert torch.equal(data.student_views[[0] * 10, list(range(n, n + 10))], data.unlabelled_views[0])
    assert torch.equal(data.student_views[[2, 1], [1, n + 3]][1:], data.unlabelled_views[[1], [3]])
    plain = load_data(task_of(folders, unlabelled_dir=None))
    assert plain.digest == data.digest  # the same teacher
    assert torch.equal(plain.train_views.drawn, data.train_views.drawn)
    assert plain.task.digest != data.task.digest
    some = load_data(task_of(folders, n_unlabelled=4))
    assert some.members["unlabelled"] == names[:4]


def test_soft_targets_depend_on_the_unlabelled_pictures(folders):
    data = load_data(task_of(folders))
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    from naslib_autokd.teachers.teacher import Teacher

    teacher = Teacher(teacher, data.mean, data.std)
    path = soft_targets_path(teacher, data, 1)
    Image.new("RGB", (9, 12)).save(folders / "more" / "deep0" / "0.png")
    assert soft_targets_path(teacher, load_data(task_of(folders)), 1) != path


def test_the_images_of_the_task_itself_are_no_unlabelled_pictures(folders, caplog):
    """Above all not the test images."""
    test = load_data(task_of(folders)).members["test"]
    (folders / "more" / "linked.png").symlink_to(folders / "photos" / test[0])
    shutil.copy(folders / "photos" / test[1], folders / "more" / "copied.jpg")
    (folders / "more" / "longer.png").write_bytes((folders / "more" / "copied.jpg").read_bytes() + b"0")
    assert check_folder(task_of(folders))["n_unlabelled"] == 11  # the longer one is another file
    (folders / "more" / "longer.png").unlink()
    data = load_data(task_of(folders))
    assert "2 of 12 pictures are images of the task already" in caplog.text
    assert data.task.n_unlabelled == 10
    with pytest.raises(TaskError, match=r"has 0 pictures that the task has not already; put some there"):
        load_data(task_of(folders, unlabelled_dir=str(folders / "photos")))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"unlabelled_dir": "/nowhere/at/all"}, "unlabelled_dir /nowhere/at/all does not exist"),
        ({"n_unlabelled": 11}, "has 10 pictures that the task has not already; the task wants 11"),
        ({"n_unlabelled": -1}, "n_unlabelled must be at least 0, got -1"),
        ({"unlabelled_dir": None, "n_unlabelled": 1}, "n_unlabelled=1 of the teacher's images beyond n_train="),
    ],
)
def test_what_cannot_be_is_refused(overrides, message, folders):
    with pytest.raises(TaskError, match=message):
        load_data(task_of(folders, **overrides))


@pytest.mark.parametrize("taught", [False, True])
def test_a_training_holds_no_more_for_more_steps(taught, cluttered_data, monkeypatch):
    """Live bytes at their peak, with 2 and with 16 steps of 0.5 MB of logits each."""
    monkeypatch.setattr("naslib_autokd.distillation.training.CHUNK_PIXELS", 1)  # as for large pictures

    def peak(n):
        data = replace(cluttered_data, task=replace(cluttered_data.task, n_train=n))
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 4000))
        soft = torch.zeros(1, 1, 1).expand(2, n, 4000) if taught else None
        with _LiveBytes() as memory:
            train(model, data, soft, kd=KD if taught else None, epochs=1, seed=0)
        return memory.peak

    assert peak(512) - peak(64) < 32 * 4000 * 4
