"""The knowledge-distillation objective, a plain function of logits."""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from naslib_autokd.imports import imported


class KDLoss(Protocol):
    """What a student learns from its teacher's logits: `distillation_loss`, or a function of one's own.

    ``temperature`` and ``kd_weight`` are a candidate's KD settings; what they mean is the function's business.
    """

    def __call__(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float, kd_weight: float
    ) -> Tensor:
        """The mean over the batch, in nats; shapes as `distillation_loss` has them. Of a sample without a label
        ``labels`` is -1."""


@cache
def get_loss(name: str) -> KDLoss:
    """The function that ``module:function`` names; modules of the working directory count. Tried on a small batch.

    Raises:
        ValueError: If it cannot be imported or called so, or is no finite number with a gradient.
    """
    try:
        loss: KDLoss = imported(name)
    except ImportError as error:
        raise ValueError(f"loss {error}") from error
    student = torch.tensor([[0.5, -1.0, 0.2], [1.0, 0.1, -0.3]], requires_grad=True)
    try:
        value = loss(student, student.detach().flip(0), torch.tensor([0, 2]), temperature=4.0, kd_weight=0.5)
        value.backward()
    except Exception as error:  # it is the user's
        raise ValueError(
            f"loss {name!r} cannot be used: {type(error).__name__}: {error}; it is called as "
            "loss(student_logits, teacher_logits, labels, temperature=..., kd_weight=...) and returns a number"
        ) from error
    if not (value.isfinite() and student.grad is not None and student.grad.isfinite().all()):
        raise ValueError(f"loss {name!r} is not finite, or without a gradient for the student's logits")
    return loss


def distillation_loss(
    student_logits: Tensor,  # (batch, classes)
    teacher_logits: Tensor,  # (batch, classes), without gradient
    labels: Tensor,  # (batch,), int64
    *,
    temperature: float,
    kd_weight: float,
) -> Tensor:  # ()
    """Cross-entropy with the labels, mixed with softened KL divergence to the teacher.

    ``(1 - kd_weight) * CE + kd_weight * temperature**2 * KL(teacher || student)``,
    averaged over the batch, in nats.

    Args:
        temperature: Softens both distributions; 1 leaves them as they are.
        kd_weight: Share of the teacher's term, in [0, 1]. 0 is ordinary training,
            1 ignores the labels.

    Raises:
        ValueError: If ``temperature`` is not positive or ``kd_weight`` not in [0, 1].

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2. Departure: none.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if not 0 <= kd_weight <= 1:
        raise ValueError(f"kd_weight must be in [0, 1], got {kd_weight}")
    if kd_weight == 0:
        return F.cross_entropy(student_logits, labels)
    student_log_p = F.log_softmax(student_logits / temperature, dim=1)
    teacher_log_p = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student_log_p, teacher_log_p, reduction="batchmean", log_target=True)
    soft = temperature**2 * divergence
    if kd_weight == 1:
        return soft
    return (1 - kd_weight) * F.cross_entropy(student_logits, labels) + kd_weight * soft


def partly_labelled_loss(
    student_logits: Tensor,  # (batch, classes)
    teacher_logits: Tensor,  # (batch, classes), without gradient
    labels: Tensor,  # (batch,), int64; -1: unknown
    *,
    temperature: float,
    kd_weight: float,
) -> Tensor:  # ()
    """`distillation_loss` where a sample has a label; where it has none, that with ``kd_weight=1``; the mean of both.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2 ("the transfer set could consist entirely of unlabeled
    data"). Departure: labelled and unlabelled samples are mixed in a batch.
    """
    student_log_p = F.log_softmax(student_logits / temperature, dim=1)
    teacher_log_p = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student_log_p, teacher_log_p, reduction="none", log_target=True).sum(dim=1)
    hard = F.cross_entropy(student_logits, labels, ignore_index=-1, reduction="none")  # 0 where there is no label
    weight = torch.where(labels < 0, 1.0, kd_weight)
    return ((1 - weight) * hard + weight * temperature**2 * divergence).mean()
