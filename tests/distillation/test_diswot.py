"""DisWOT's score against plain loops, its invariances, and where the last feature map is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from naslib_autokd.data.images import normalise
from naslib_autokd.distillation.diswot import (
    DisWOTError,
    DisWOTScore,
    LastFeatures,
    class_activation_maps,
    class_correlations,
    compare,
    last_features,
    relation_distance,
    sample_relations,
    semantic_distance,
)
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.records import derive_seed
from naslib_autokd.search_spaces.hnag import HNAGSpace, Student
from naslib_autokd.teachers.teacher import Teacher


def features(seed: int, batch: int = 3, classes: int = 4, channels: int = 5, size: int = 2) -> LastFeatures:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    return LastFeatures(normal(batch, channels, size, size), normal(batch, classes, channels))


# --- the distances --------------------------------------------------------------------------------------------------


def by_loops(teacher: LastFeatures, student: LastFeatures) -> DisWOTScore:
    """The definitions, one number at a time."""

    def activation_map(f: LastFeatures, image: int, n: int) -> list[float]:
        maps, weights = f.maps[image].flatten(1), f.class_weights[image, n]
        return [
            sum(float(weights[c]) * float(maps[c, place]) for c in range(len(maps))) for place in range(maps.shape[1])
        ]

    def gram(rows: list[list[float]]) -> list[list[float]]:
        products = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]
        return [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in products]

    def length(one: list[float], other: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))

    batch, classes = teacher.class_weights.shape[:2]
    semantic = 0.0
    for image in range(batch):
        ours, theirs = (gram([activation_map(f, image, n) for n in range(classes)]) for f in (student, teacher))
        semantic += sum(length(a, b) for a, b in zip(ours, theirs, strict=True))
    ours, theirs = (gram([f.maps[image].flatten().tolist() for image in range(batch)]) for f in (student, teacher))
    relation = sum(length(a, b) for a, b in zip(ours, theirs, strict=True))
    return DisWOTScore(math.sqrt(semantic / (batch * classes)), math.sqrt(relation / batch))


def test_the_distances_are_those_of_plain_loops() -> None:
    teacher, student = features(0, channels=6, size=3), features(1)
    assert compare(teacher, student) == pytest.approx(by_loops(teacher, student))


def test_a_case_by_hand() -> None:
    """Two images, one position, two channels, two classes that read one channel each."""
    read_one_each = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    teacher = LastFeatures(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()[:, :, None, None], read_one_each)
    student = LastFeatures(torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()[:, :, None, None], read_one_each)
    # Gram matrices of the images: the identity, and ones (rows of length 1: 0.707); both rows differ by
    # (0.293, 0.707), of squared length 0.586.
    assert float(relation_distance(teacher, student)) == pytest.approx(math.sqrt(2 - math.sqrt(2)))
    # Image 0 agrees; of image 1 class 0 is dead in the teacher and class 1 in the student: 2 rows of 4 differ by 1.
    assert float(semantic_distance(teacher, student)) == pytest.approx(math.sqrt(0.5))
    assert compare(teacher, student).value == pytest.approx(-math.sqrt(2 - math.sqrt(2)) - math.sqrt(0.5))


def test_a_student_that_is_the_teacher_has_the_highest_score() -> None:
    teacher = features(3)
    assert compare(teacher, teacher).value == 0
    assert all(compare(teacher, features(seed)).value < 0 for seed in range(4, 14))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 6), st.integers(1, 4))
def test_what_the_score_does_not_see(seed: int, channels: int, batch: int, size: int) -> None:
    """The order of the student's channels, a rotation of them, and its scale."""
    teacher, student = features(0, batch=batch, channels=3), features(seed + 1, batch, channels=channels, size=size)
    expected = compare(teacher, student)
    rng = np.random.default_rng(seed)
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(channels, channels)))[0])
    order = torch.from_numpy(rng.permutation(channels))
    rotated = LastFeatures(
        torch.einsum("dc,bchw->bdhw", rotation, student.maps), student.class_weights @ rotation.T.contiguous()
    )
    permuted = LastFeatures(student.maps[:, order], student.class_weights[:, :, order])
    scaled = LastFeatures(3 * student.maps, 0.1 * student.class_weights)
    for other in (rotated, permuted, scaled):
        assert compare(teacher, other) == pytest.approx(expected)
    assert 0 <= expected.semantic <= 2
    assert 0 <= expected.relation <= 2


def test_what_the_score_sees() -> None:
    """The relation of images and classes: teacher and student must be shown the same ones in the same order."""
    teacher, student = features(0), features(1)
    swapped = LastFeatures(student.maps, student.class_weights[:, [1, 0, 2, 3]])
    assert compare(teacher, swapped).semantic != pytest.approx(compare(teacher, student).semantic)
    assert compare(teacher, swapped).relation == compare(teacher, student).relation
    turned = LastFeatures(student.maps[[1, 2, 0]], student.class_weights[[1, 2, 0]])
    assert compare(teacher, turned).relation != pytest.approx(compare(teacher, student).relation)


def test_dead_features_have_a_distance() -> None:
    dead = LastFeatures(torch.zeros(3, 5, 2, 2).double(), features(1).class_weights)
    assert compare(features(0), dead) == pytest.approx((1.0, 1.0))  # of rows of length 1 to nothing
    assert not class_correlations(class_activation_maps(dead)).any()
    assert not sample_relations(dead.maps).any()


def test_features_that_overflow_have_none() -> None:
    with pytest.raises(DisWOTError, match="not finite"):
        compare(features(0), features(1)._replace(maps=torch.full((3, 5, 2, 2), math.inf).double()))


# --- the last feature map -------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Ends like torchvision's: pooled map of one position, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).relu_()
        self.map = x + self.conv(x)
        return self.fc(torch.flatten(self.pool(self.map), 1))


def test_grad_cam_of_a_pooled_linear_head_is_class_activation_mapping() -> None:
    torch.manual_seed(0)
    network, images = Residual(), torch.randn(4, 1, 8, 8)
    found = last_features(network, images)
    assert torch.equal(found.maps, network.map)
    assert found.maps.shape == (4, 6, 6, 6)
    torch.testing.assert_close(found.class_weights * 36, network.fc.weight.expand(4, 10, 6))
    pooled = class_activation_maps(found).sum(dim=(2, 3)) + network.fc.bias
    torch.testing.assert_close(pooled, network(images))


def test_a_head_of_several_layers_weights_channels_by_their_gradient() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    images = torch.randn(2, 1, 5, 5)
    found = last_features(network, images)
    pooled = found.maps.mean(dim=(2, 3))
    for image in range(2):
        jacobian = torch.autograd.functional.jacobian(head, pooled[image])
        torch.testing.assert_close(found.class_weights[image] * 9, jacobian)


def test_students_and_the_teachers_that_we_train(evaluator, cluttered_teacher, tiny_data) -> None:
    images = tiny_data.normalise(tiny_data.train_images)
    network = cluttered_teacher.network
    found = last_features(network, images)
    assert found.maps.shape == (64, 32, 3, 3)
    torch.testing.assert_close(found.class_weights * 9, network.head.weight.expand(64, 10, 32))
    spec = evaluator.student_spec(default(), 3)
    student = Student(spec, seed=1).train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    found = last_features(student, images)
    assert found.maps.shape == (64, spec.channels[-1], 3, 3)
    torch.testing.assert_close(found.class_weights * 9, student.classifier_weight.expand(64, 10, spec.channels[-1]))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())
    assert student.training


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 10)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(self.patches(images).flatten(2).transpose(1, 2)).mean(dim=1))


class Ignorant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        self.conv(images)
        return self.head(images.flatten(1))


def test_networks_without_a_last_feature_map_are_refused() -> None:
    images = torch.randn(4, 1, 8, 8)
    for network, message in (
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no convolution was seen in Sequential"),
        (Tokens(), "Tokens classifies from tokens"),
        (Ignorant(), "logits of Ignorant do not depend"),
    ):
        with pytest.raises(DisWOTError, match=message):
            last_features(network, images)


def test_a_map_of_one_position_is_the_last_resort() -> None:
    network = nn.Sequential(nn.Conv2d(1, 6, 8), nn.ReLU(), nn.Flatten(), nn.Linear(6, 10))
    assert last_features(network, torch.randn(4, 1, 8, 8)).maps.shape == (4, 6, 1, 1)


# --- KDEvaluator.training_free_score --------------------------------------------------------------------------------


def default():
    return HNAGSpace("hnag-small").default_candidate()


@pytest.fixture(scope="module")
def evaluator(tiny_data, cluttered_teacher) -> KDEvaluator:
    return KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher)


def test_the_score_is_that_of_the_student_that_would_be_trained(evaluator, tiny_data, cluttered_teacher) -> None:
    candidate = default()
    score = evaluator.training_free_score(candidate, 5)
    student = Student(evaluator.student_spec(candidate, 5), seed=derive_seed(5, "weights")).train()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(derive_seed("score", 0)))
    images = tiny_data.train_images[order]
    of_teacher = last_features(
        cluttered_teacher.network, normalise(images, cluttered_teacher.mean, cluttered_teacher.std)
    )
    expected = compare(of_teacher, last_features(student, tiny_data.normalise(images)))
    assert score.value == pytest.approx(expected.value, rel=1e-5)
    assert -4 < score.value < 0
    assert score.student_epochs == 0.5  # as many images as an epoch has, half the work each


def test_the_score_depends_on_student_and_seed_alone(evaluator, tiny_data, cluttered_teacher) -> None:
    candidate, reads = default(), tiny_data.test_reads
    first = [evaluator.training_free_score(candidate, seed) for seed in (1, 2)]
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    again = KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher)
    assert [again.training_free_score(candidate, seed) for seed in (1, 2)] == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first[0] != first[1]
    taught = type(candidate)(candidate.generator, type(candidate.kd)(1.5, 0.1))
    assert evaluator.training_free_score(taught, 1) == first[0]
    assert tiny_data.test_reads == reads


def test_students_that_cannot_be_scored_are_the_worst_and_are_charged(evaluator, caplog) -> None:
    class Broken:
        digest = "broken"

        def student_spec(self, task, seed):
            raise RuntimeError("no such student")

    score = evaluator.training_free_score(Broken(), 0)
    assert (score.value, score.student_epochs) == (-math.inf, 0.5)
    assert "candidate broken cannot be scored: RuntimeError: no such student" in caplog.text


def test_a_teacher_without_a_feature_map_is_an_error(evaluator, tiny_data) -> None:
    other = KDEvaluator.__new__(KDEvaluator)
    other.__dict__ |= evaluator.__dict__ | {"_score_batch": None}
    other.teacher = Teacher(Tokens(), (0.5,), (0.5,))
    with pytest.raises(DisWOTError, match="classifies from tokens"):
        other.training_free_score(default(), 0)
