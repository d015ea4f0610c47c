"""The loss against independent references: numpy in float64, torch's own functions, limits and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch.nn import functional as F

from naslib_autokd.distillation.losses import distillation_loss


def logits(seed: int, batch: int = 8, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(batch, classes, dtype=torch.float64, generator=rng) for _ in range(2))
    return student, teacher, torch.randint(classes, (batch,), generator=rng)


def reference(student, teacher, labels, temperature, kd_weight):
    student, teacher, labels = student.numpy(), teacher.numpy(), labels.numpy()
    hard = -np.mean(log_softmax(student, axis=1)[np.arange(len(labels)), labels])
    p = softmax(teacher / temperature, axis=1)
    soft = np.mean(np.sum(p * (np.log(p) - log_softmax(student / temperature, axis=1)), axis=1))
    return (1 - kd_weight) * hard + kd_weight * temperature**2 * soft


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("kd_weight", [0.0, 0.3, 0.9, 1.0])
def test_loss_equals_the_formula_in_numpy(temperature, kd_weight):
    student, teacher, labels = logits(0)
    ours = distillation_loss(student, teacher, labels, temperature=temperature, kd_weight=kd_weight)
    assert ours.item() == pytest.approx(reference(student, teacher, labels, temperature, kd_weight), rel=1e-12)


def test_soft_term_equals_torch_kl_div_times_temperature_squared():
    student, teacher, labels = logits(1)
    theirs = F.kl_div(F.log_softmax(student / 4, 1), F.softmax(teacher / 4, 1), reduction="batchmean") * 16
    ours = distillation_loss(student, teacher, labels, temperature=4.0, kd_weight=1.0)
    torch.testing.assert_close(ours, theirs)


def test_without_weight_it_is_cross_entropy_whatever_the_teacher_says():
    student, teacher, labels = logits(2)
    ours = distillation_loss(student, teacher * float("nan"), labels, temperature=4.0, kd_weight=0.0)
    torch.testing.assert_close(ours, F.cross_entropy(student, labels))


def test_loss_is_continuous_at_both_ends_of_the_weight():
    # torchdistill's KDLoss leaves T**2 out when its weight is exactly 0: a jump by a factor of 16 at T = 4.
    student, teacher, labels = logits(3)
    for end, inside in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        a, b = (distillation_loss(student, teacher, labels, temperature=4.0, kd_weight=w) for w in (end, inside))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_a_student_that_equals_its_teacher_has_no_soft_loss_and_no_gradient():
    _, teacher, labels = logits(4)
    student = (teacher + 5).requires_grad_()  # a softmax does not see the shift
    loss = distillation_loss(student, teacher, labels, temperature=4.0, kd_weight=1.0)
    (grad,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(grad, torch.zeros_like(grad))


def test_gradient_tends_to_logit_matching_at_high_temperature():
    # Hinton et al. 2015, section 2.1. Catches a missing T**2; the KL's direction needs the numpy reference.
    student, teacher, labels = logits(5)
    student.requires_grad_()
    loss = distillation_loss(student, teacher, labels, temperature=1e5, kd_weight=1.0)
    (grad,) = torch.autograd.grad(loss, student)
    difference = (student - teacher).detach()
    expected = (difference - difference.mean(dim=1, keepdim=True)) / (8 * 10)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-6)


def test_gradient_agrees_with_finite_differences():
    student, teacher, labels = logits(6, batch=3, classes=4)

    def loss(student):
        return distillation_loss(student, teacher, labels, temperature=3.0, kd_weight=0.7)

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(),))


def test_extreme_logits_stay_finite():
    student, teacher, labels = logits(7)
    student, teacher = (1e4 * student).float().requires_grad_(), (1e4 * teacher).float()
    loss = distillation_loss(student, teacher, labels, temperature=1.0, kd_weight=0.9)
    (grad,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize(
    ("temperature", "kd_weight", "message"),
    [
        (0.0, 0.5, "temperature must be positive"),
        (-1.0, 0.5, "temperature must be positive"),
        (float("nan"), 0.5, "temperature must be positive"),
        (4.0, -0.1, "kd_weight must be in"),
        (4.0, 1.1, "kd_weight must be in"),
        (4.0, float("nan"), "kd_weight must be in"),
    ],
)
def test_illegal_settings_are_refused(temperature, kd_weight, message):
    student, teacher, labels = logits(8)
    with pytest.raises(ValueError, match=message):
        distillation_loss(student, teacher, labels, temperature=temperature, kd_weight=kd_weight)
