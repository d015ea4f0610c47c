"""What a final student did on the test split, as counts that a report can draw without the images: plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

N_BINS = 15
"""Bins of equal width of the confidence, as in the calibration literature (Guo et al. 2017, arXiv:1706.04599)."""

MOST_CLASSES = 200
"""Above so many classes no confusion matrix is kept: it grows with their square."""


def judgement(
    logits: Tensor,  # (images, classes)
    teacher_logits: Tensor,  # (images, classes)
    labels: Tensor,  # (images,), int64
    classes: Sequence[str],
) -> dict[str, Any]:
    """Counts of a student and its teacher on the same images, as JSON can hold them.

    Returns:
        ``n``: images. ``classes``: their names. ``student`` and ``teacher``: each with ``confusion`` (rows are true
        classes, columns predicted ones; None above `MOST_CLASSES`) and ``calibration`` (for each of `N_BINS` bins of
        the confidence, the largest softmax probability: ``n``, and the means ``confidence`` and ``accuracy``, None in
        an empty bin). ``agreement``: images by who is right (``both``, ``student``, ``teacher``) and, where neither
        is, whether they name the same class (``same_error``, ``other_error``).
    """
    student_class, teacher_class = logits.argmax(dim=1), teacher_logits.argmax(dim=1)
    right, teacher_right, same = student_class == labels, teacher_class == labels, student_class == teacher_class
    return {
        "n": len(labels),
        "classes": [str(name) for name in classes] if len(classes) <= MOST_CLASSES else [],
        "student": {"confusion": confusion(logits, labels), "calibration": calibration(logits, labels)},
        "teacher": {
            "confusion": confusion(teacher_logits, labels),
            "calibration": calibration(teacher_logits, labels),
        },
        "agreement": {
            "both": int((right & teacher_right).sum()),
            "student": int((right & ~teacher_right).sum()),
            "teacher": int((~right & teacher_right).sum()),
            "same_error": int((~right & ~teacher_right & same).sum()),
            "other_error": int((~right & ~teacher_right & ~same).sum()),
        },
    }


def confusion(logits: Tensor, labels: Tensor) -> list[list[int]] | None:
    """Images by true class (rows) and predicted class (columns); None above `MOST_CLASSES`."""
    n_classes = logits.shape[1]
    if n_classes > MOST_CLASSES:
        return None
    cells = labels.long() * n_classes + logits.argmax(dim=1)
    counts: list[list[int]] = torch.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes).tolist()
    return counts


def calibration(logits: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """For each of `N_BINS` bins of the confidence ``n``, and the means ``confidence`` and ``accuracy``."""
    confidence, predicted = logits.double().softmax(dim=1).nan_to_num().max(dim=1)
    right = (predicted == labels).double()
    # a confidence of exactly 1 belongs to the last bin
    bins = (confidence * N_BINS).long().clamp(max=N_BINS - 1)
    found: list[dict[str, Any]] = []
    for index in range(N_BINS):
        own = bins == index
        n = int(own.sum())
        found.append(
            {
                "n": n,
                "confidence": float(confidence[own].mean()) if n else None,
                "accuracy": float(right[own].mean()) if n else None,
            }
        )
    return found
