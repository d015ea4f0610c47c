"""What a teacher is judged by: each class, how few images say, whether it answers alike, and what its targets say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from small_tasks import Readout, bars
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.training import seeded, train
from naslib_autokd.teachers.check import accuracy_floor, check_teacher, clear_floor, interval
from naslib_autokd.teachers.load import load_teacher
from naslib_autokd.teachers.names import ARCHITECTURES, TeacherError
from naslib_autokd.teachers.networks import SmallResNet
from naslib_autokd.teachers.teacher import Teacher


def notes(teacher: Teacher) -> str:
    return "\n".join(teacher.info.get("notes", ()))


def problem(teacher: Teacher, data: TaskData) -> str:
    try:
        check_teacher(teacher, data, thorough=True)
    except TeacherError as error:
        return str(error)
    return ""


class Constant(nn.Module):
    """One answer for all images."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(self.n_classes)[:1].expand(len(images), -1)


class Partly(nn.Module):
    """Right about a share of the images, drawn by their pixels; else it names the next class."""

    def __init__(self, n_classes: int, share: float) -> None:
        super().__init__()
        self.network, self.share = Readout(n_classes), share

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        wrong = images.flatten(1).argmin(dim=1) % 20 >= 20 * self.share  # the same at every scale
        return torch.where(wrong[:, None], logits.roll(1, dims=1), logits)


# --- each class counts


@pytest.mark.parametrize("n_val", [(90, 10), (35, 5), (14, 2)])
def test_naming_the_most_frequent_class_is_not_knowing_it(n_val: tuple[int, int]) -> None:
    data = bars((180, 20), n_val)
    share = n_val[0] / sum(n_val)
    message = (
        rf"names {share:.1%} .*but it tells the classes hardly apart: .* are 'a', it names b 0.0% of \d+ correctly, "
    )
    message += r"and 50.0% in the mean .*: 50.0%; needed: 55.0%\). Train it longer with the classes balanced"
    with pytest.raises(TeacherError, match=message):
        load_teacher(data, Constant(2))


def test_one_answer_for_all_images_is_seen_on_a_handful_of_them() -> None:
    with pytest.raises(TeacherError, match="it answers all 6 validation and training images alike"):
        load_teacher(bars((3, 2), (1, 0)), Constant(2))


def test_a_teacher_that_is_right_about_rare_classes_passes_where_classes_are_unequal() -> None:
    data = bars((180, 20), (90, 10))
    assert check_teacher(Teacher(Readout(2), data.mean, data.std), data, thorough=True) > 0.95
    # 80% of each class: less accurate than naming the frequent one always, and worth more
    assert 0.7 < check_teacher(Teacher(Partly(2, 0.8), data.mean, data.std), data) < 0.9


def test_a_class_that_is_never_named_is_told() -> None:
    data = bars((40, 40, 40, 40))

    class Never(Readout):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            return torch.cat([logits.min(dim=1, keepdim=True).values - 1, logits[:, 1:]], dim=1)

    teacher = load_teacher(data, Teacher(Never(4), data.mean, data.std))
    assert "it names no validation image of a correctly" in notes(teacher)


@pytest.mark.parametrize(("n_classes", "floor"), [(2, 0.55), (3, 0.4), (4, 0.325), (10, 0.19), (100, 0.02)])
def test_what_is_clearly_above_chance(n_classes: int, floor: float) -> None:
    assert clear_floor(n_classes) == pytest.approx(floor)
    assert 1 / n_classes < clear_floor(n_classes) <= 2 / n_classes


def test_the_floor_of_three_classes_can_be_lowered_as_the_message_says() -> None:
    data = bars((100, 100, 100), min_teacher_accuracy=0.7)
    teacher = Teacher(Partly(3, 0.55), data.mean, data.std)
    with pytest.raises(TeacherError, match=r"below the floor of 70.0% .* min_teacher_accuracy \(to no less than 40.0%"):
        check_teacher(teacher, data)
    lowered = replace(data, task=replace(data.task, min_teacher_accuracy=0.45))
    assert accuracy_floor(lowered.task) == 0.45
    assert 0.45 < check_teacher(teacher, lowered) < 0.66
    no_better = Teacher(Partly(3, 0.3), data.mean, data.std)
    nothing = replace(data, task=replace(data.task, min_teacher_accuracy=0.0))
    with pytest.raises(TeacherError, match=r"below the floor of 40.0% \(chance 33.3%\)") as error:
        check_teacher(no_better, nothing)
    assert "min_teacher_accuracy" not in str(error.value), "it cannot be lowered further"


# --- few images


@pytest.mark.parametrize("n_val", [(1, 0), (1, 1), (3, 2), (15, 15)])
def test_few_images_give_an_interval_in_words(n_val: tuple[int, int]) -> None:
    data = bars((60, 60), n_val, noise=10.0)
    n = sum(n_val)
    teacher = load_teacher(data, Teacher(Readout(2), data.mean, data.std))
    low, _ = interval(n, n)
    assert low == pytest.approx(0.025 ** (1 / n))  # Clopper and Pearson's, where all are right
    plural = " is" if n == 1 else "s are"
    expected = (
        f"{n} validation image{plural} few: {n} of {n} named correctly means an accuracy between {low:.0%} and 100%"
    )
    assert expected in notes(teacher)


def test_intervals_are_those_of_clopper_and_pearson() -> None:
    low, high = interval(3, 10)
    assert binomtest(3, 10, low).pvalue < 0.1
    assert sum(_binomial(10, k, low) for k in range(3, 11)) == pytest.approx(0.025, abs=1e-6)
    assert sum(_binomial(10, k, high) for k in range(4)) == pytest.approx(0.025, abs=1e-6)


def _binomial(n: int, k: int, p: float) -> float:
    from math import comb

    return comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize("n_val", [(1, 0), (2, 1), (5, 5), (10, 10)])
def test_few_images_give_no_false_diagnoses(n_val: tuple[int, int]) -> None:
    """Networks without weights worth the name: on so few images one of the scales always looks better."""
    data = bars((3, 3), n_val)
    for seed in range(20):
        with seeded(seed):
            teacher = Teacher(SmallResNet(1, 2, (4, 4)), data.mean, data.std)
        said = problem(teacher, data)
        assert "so it is fed" not in said
        assert "permuted" not in said


def test_a_wrong_scale_is_still_found_with_few_validation_images() -> None:
    data = bars((60, 60, 60, 60), (3, 3, 3, 3))

    class WantsPixels(nn.Module):
        """Made for 0..255; at any other scale its first class is always the largest."""

        def forward(self, images: Tensor) -> Tensor:
            columns = images.mean(dim=(1, 2))[:, :4] - 100
            return columns.clamp_min(0) - torch.tensor([-1e-3, 0.0, 0.0, 0.0])

    compared = r"reaches 100\.0% of validation and training images instead of 2\d\.\d%"  # not with those of validation
    with pytest.raises(TeacherError, match=rf"with pixels in 0\.\.255 as input it {compared}, .*on the wrong scale"):
        load_teacher(data, WantsPixels())


def test_few_images_are_not_held_against_what_a_file_states() -> None:
    data = bars((60, 60), (3, 2))
    teacher = Teacher(Partly(2, 0.6), data.mean, data.std, {"val_accuracy": 0.9})
    assert check_teacher(teacher, data) < 0.9


# --- the same image, the same answer


class Noisy(nn.Module):
    """Dropout and batch norm, which matter where they are in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Readout(4, gain=3.0)
        self.norm, self.dropout = nn.BatchNorm1d(4, affine=False), nn.Dropout(0.3)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(self.norm(self.network(images)))


@pytest.mark.parametrize("part", ["", "norm", "dropout"])
@pytest.mark.parametrize("n_members", [1, 2])
def test_a_teacher_is_in_eval_mode_whatever_is_done_to_its_parts(part: str, n_members: int) -> None:
    data = bars((60, 60, 60, 60))
    networks = [Noisy() for _ in range(n_members)]
    teacher = load_teacher(data, networks if n_members > 1 else networks[0])
    before = teacher.predict(data.val_images)
    networks[-1].get_submodule(part).train()
    assert torch.equal(teacher.predict(data.val_images), before)
    assert not any(module.training for module in teacher.modules())
    assert int(networks[-1].norm.num_batches_tracked or 0) == 0


def test_a_network_that_ignores_eval_is_put_into_it() -> None:
    class Stubborn(Noisy):
        def train(self, mode: bool = True) -> Stubborn:
            super().train(True)
            return self

    data = bars((60, 60, 60, 60))
    teacher = load_teacher(data, Stubborn())
    assert torch.equal(teacher.predict(data.val_images), teacher.predict(data.val_images))


@pytest.mark.parametrize(
    "noise",
    [
        lambda z: F.dropout(z, 0.3, training=True),
        lambda z: F.batch_norm(z, None, None, training=True),
    ],
)
def test_a_teacher_whose_answers_are_accidents_is_refused(noise: Any) -> None:
    class Accidental(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Readout(4)

        def forward(self, images: Tensor) -> Tensor:
            return noise(self.network(images))

    data = bars((60, 60, 60, 60), (50, 5, 5, 5))
    with seeded(0), pytest.raises(TeacherError, match="answers the same images differently"):
        load_teacher(data, Accidental())


# --- flat soft targets


class Smoothed:
    """Cross-entropy with label smoothing."""

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def parameters(self) -> list[Tensor]:
        return []

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        logits = model(images)
        return logits, F.cross_entropy(logits, labels, label_smoothing=self.smoothing)


def digits_teacher(smoothing: float, epochs: int = 30) -> tuple[Teacher, Any]:
    from naslib_autokd.data.load import load_data

    data = load_data("digits")
    with seeded(1):
        network = SmallResNet(1, 10, ARCHITECTURES["resnet-small"])
    train(network, data, None, kd=None, epochs=epochs, seed=1, objective=Smoothed(smoothing))
    return Teacher(network, data.mean, data.std), data


def test_a_teacher_trained_with_label_smoothing_is_named_as_a_likely_poor_one() -> None:
    teacher, data = digits_teacher(0.1)
    assert check_teacher(teacher, data, thorough=True) > 0.95, "never refused for it"
    assert "its soft targets are flat: on training images its largest probability is 0.9" in notes(teacher)
    assert "label smoothing" in notes(teacher)


@pytest.mark.slow
@pytest.mark.parametrize(("smoothing", "epochs"), [(0.0, 10), (0.0, 30), (0.0, 60), (0.05, 30), (0.2, 30)])
def test_flat_soft_targets_of_other_trainings(smoothing: float, epochs: int) -> None:
    teacher, data = digits_teacher(smoothing, epochs)
    check_teacher(teacher, data, thorough=True)
    assert ("its soft targets are flat" in notes(teacher)) is (smoothing > 0)


def test_teachers_of_the_embedded_tasks_are_not_called_flat(cluttered_teacher: Teacher, cluttered_data: Any) -> None:
    teacher = Teacher(cluttered_teacher.network, cluttered_data.mean, cluttered_data.std)
    check_teacher(teacher, cluttered_data, thorough=True)
    assert notes(teacher) == ""
