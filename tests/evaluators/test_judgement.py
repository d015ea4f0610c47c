"""What a student did on the test split, against counts made by hand and by scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from naslib_autokd.evaluators.judgement import MOST_CLASSES, N_BINS, judgement


def test_counts_of_a_worked_example():
    # four images of three classes; the student is right on images 0 and 1, the teacher on 0, 2 and 3
    labels = torch.tensor([0, 1, 2, 2])
    student = torch.log(torch.tensor([[0.9, 0.05, 0.05], [0.2, 0.6, 0.2], [0.5, 0.3, 0.2], [0.8, 0.1, 0.1]]))
    teacher = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.1, 0.2, 0.7]]))
    found = judgement(student, teacher, labels, ["a", "b", "c"])
    assert found["agreement"] == {"both": 1, "student": 1, "teacher": 2, "same_error": 0, "other_error": 0}
    assert found["student"]["confusion"] == [[1, 0, 0], [0, 1, 0], [2, 0, 0]]
    assert found["teacher"]["confusion"] == [[1, 0, 0], [1, 0, 0], [0, 0, 2]]
    bins = found["student"]["calibration"]
    assert sum(entry["n"] for entry in bins) == found["n"] == 4
    assert bins[13]["n"] == 1
    assert bins[13]["accuracy"] == 1.0
    assert bins[13]["confidence"] == pytest.approx(0.9)
    assert bins[7]["accuracy"] == 0.0
    assert bins[7]["confidence"] == pytest.approx(0.5)
    assert bins[0] == {"n": 0, "confidence": None, "accuracy": None}


def test_counts_agree_with_scikit_learn_and_add_up():
    rng = torch.Generator().manual_seed(0)
    logits, teacher = (3 * torch.randn(500, 7, generator=rng) for _ in range(2))
    labels = torch.randint(7, (500,), generator=rng)
    found = judgement(logits, teacher, labels, [str(i) for i in range(7)])
    expected = confusion_matrix(labels.numpy(), logits.argmax(dim=1).numpy(), labels=range(7))
    assert np.array_equal(found["student"]["confusion"], expected)
    assert sum(found["agreement"].values()) == 500
    right = sum(entry["n"] * (entry["accuracy"] or 0) for entry in found["student"]["calibration"])
    assert right == pytest.approx(np.trace(expected))
    for index, entry in enumerate(found["student"]["calibration"]):
        assert entry["n"] == 0 or index / N_BINS <= entry["confidence"] <= (index + 1) / N_BINS
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_many_classes_keep_no_matrix():
    logits = torch.randn(4, MOST_CLASSES + 1, generator=torch.Generator().manual_seed(0))
    found = judgement(logits, logits, torch.zeros(4, dtype=torch.long), ["x"] * (MOST_CLASSES + 1))
    assert found["student"]["confusion"] is None
    assert found["classes"] == []
    assert found["agreement"]["student"] == found["agreement"]["teacher"] == 0
