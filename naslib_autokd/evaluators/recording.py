"""Trainings for a benchmark: a trial with the validation curve and, once, the test accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from torch import nn

from naslib_autokd.distillation.training import KDLike, TrainingResult, accuracy, limited_threads, predict
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.records import Proposal, Trial

N_CURVE = 600
"""Images of the validation split that make the curve (its first ones): a fifth of cluttered-digits's, so that the curve
costs 7% of a training instead of a third. The trial's own ``val_accuracy`` is on the whole split."""


class RecordingEvaluator(KDEvaluator):
    """A `KDEvaluator` whose trials tell more: what a row of a benchmark's table needs.

    ``info`` of a trial gets ``val_curve`` (accuracy after each epoch on the first `N_CURVE` validation images) and, of
    a success, ``test_accuracy`` and ``test_agreement``. It reads the test split for every student, which only the
    maker of a benchmark may do: a search with it could choose by the test split.
    """

    _student: nn.Module | None = None
    _curve: list[float]

    def evaluate(self, proposal: Proposal) -> Trial:
        """As `KDEvaluator.evaluate`, with the fields named above in ``info``."""
        self._student, self._curve = None, []
        trial = super().evaluate(proposal)
        info: dict[str, Any] = trial.info | {"val_curve": self._curve}
        if trial.succeeded:
            images, labels = self.data.read_test()
            with limited_threads(self.threads):
                logits = predict(cast(nn.Module, self._student), self.data, images)
                teacher = self._teacher_on_test(images)
            info |= {
                "test_accuracy": accuracy(logits, labels),
                "test_agreement": accuracy(logits, teacher.argmax(dim=1)),
            }
        return replace(trial, info=info)

    def _train(
        self,
        model: nn.Module,
        kd: KDLike | None,
        epochs: int,
        seed: int,
        progress: Callable[[int, float], None] | None = None,
    ) -> TrainingResult:
        images, labels = self.data.val_images[:N_CURVE], self.data.val_labels[:N_CURVE]

        def record(epoch: int, loss: float) -> None:
            self._curve.append(accuracy(predict(model, self.data, images), labels))
            if progress is not None:
                progress(epoch, loss)

        self._student = model
        return super()._train(model, kd, epochs, seed, record)
