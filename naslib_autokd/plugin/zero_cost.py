"""NASLib's zero-cost measures as optimizers: families are evolved by a score of untrained students, the best trained.

The search is `optimizers.diswot.DisWOT`'s (evolution by scores, then full trainings in order of the score) with one of
NASLib's measures in place of DisWOT's (``naslib.predictors.zerocost``; Abdelfattah et al. 2021, arXiv:2101.08134, and
the papers named in NASLib's files). Names: ``naslib-zerocost:synflow`` and so on. Measures see labels and images, never
the teacher nor the KD settings.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import io
import logging
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from naslib_autokd.distillation.diswot import SCORE_BATCH, watched_features
from naslib_autokd.distillation.training import limited_threads, seeded
from naslib_autokd.evaluators.base import BuildsStudents, HasTask, Score
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.optimizers.base import SearchSpaceLike, nearest
from naslib_autokd.optimizers.diswot import DisWOT
from naslib_autokd.plugin.layers import LayeredStudent, without_batch_norms
from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.records import derive_seed
from naslib_autokd.search_spaces.hnag.student import Student

load_naslib()

from naslib.predictors.zerocost import ZeroCost  # noqa: E402

logger = logging.getLogger(__name__)

COSTS: dict[str, float] = {
    "epe_nas": 4.0,
    "fisher": 4.5,
    "grad_norm": 4.0,
    "grasp": 13.0,
    "jacov": 5.0,
    "l2_norm": 1.0,
    "nwot": 3.5,
    "plain": 4.0,
    "snip": 5.0,
    "synflow": 2.0,
    "zen": 4.0,
}
"""What a score costs, building the student included, as a share of training with its `SCORE_BATCH` images once: CPU
time of each over that of an epoch (``benchmarks/zero_cost.py``)."""

MEASURES = tuple(COSTS)
"""NASLib's measures that work on students here; its ``params`` and ``flops`` need tensorwatch."""

NOT_A_NUMBER = -1e8
"""What NASLib answers in its place."""


class Measured(nn.Module):
    """A network as NASLib's measures want one: of torch's layers, and with the members that they ask for."""

    def __init__(self, network: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.network = LayeredStudent(network) if isinstance(network, Student) else network
        self.num_classes = n_classes

    def forward(self, images: Tensor, *_: Any) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def get_loss_fn(self) -> Any:
        return nn.functional.cross_entropy

    def get_prunable_copy(self, bn: bool = True) -> nn.Module:
        twin = copy.deepcopy(self)
        return twin if bn else without_batch_norms(twin)

    def forward_before_global_avg_pool(self, images: Tensor) -> Tensor:
        """The last feature map (for zen)."""
        return watched_features(self.network, images)


class ZeroCostScorer:
    """One of NASLib's measures on the student that a candidate and a seed draw.

    On the same `SCORE_BATCH` training images for all students. A student that cannot be built or measured has the score
    minus infinity.

    Args:
        measure: One of `MEASURES`.
        evaluator: Has the images and builds the students (`KDEvaluator`), or a benchmark of its trainings.

    Raises:
        ValueError: For an unknown measure (names the nearest), or an evaluator that builds no students.
    """

    def __init__(self, measure: str, evaluator: Any) -> None:
        if measure not in MEASURES:
            raise ValueError(nearest(measure, MEASURES, "zero-cost measure of NASLib"))
        if not isinstance(evaluator, BuildsStudents):
            if not isinstance(evaluator, HasTask):
                raise ValueError(
                    f"zero-cost measures need students, which {type(evaluator).__name__} does not build: give a "
                    "KDEvaluator, or the benchmark of its trainings"
                )
            evaluator = KDEvaluator(evaluator.task)
        self.evaluator, self._measure = evaluator, ZeroCost(measure)
        self._measure.device = evaluator.device
        data = evaluator.data
        rng = torch.Generator().manual_seed(derive_seed("score", evaluator.task.split_seed))
        drawn = torch.randperm(len(data.train_labels), generator=rng)[:SCORE_BATCH].to(data.device)
        images = data.normalise(data.train_views[torch.zeros_like(drawn), drawn])
        self._batches = [(images, data.train_labels[drawn])]
        self.student_epochs: float = COSTS[measure] * len(drawn) / data.n_shown
        """Of each score."""

    def __call__(self, candidate: Any, seed: int) -> Score:
        evaluator = self.evaluator
        with limited_threads(evaluator.threads), _quiet(), seeded(derive_seed(seed, "measure")):
            try:
                student = evaluator.build_student(evaluator.student_spec(candidate, seed), seed).to(evaluator.device)
                network = Measured(student, evaluator.data.task.n_classes)
                value = float(self._measure.query(network, dataloader=self._batches))
            except Exception as error:  # what a student does is never the caller's fault
                logger.warning("candidate %s cannot be measured: %s: %s", candidate.digest, type(error).__name__, error)
                value = -math.inf
        return Score(-math.inf if value == NOT_A_NUMBER or not math.isfinite(value) else value, self.student_epochs)


class ZeroCostSearch(DisWOT):
    """DisWOT's search by one of NASLib's measures; its arguments and ``measure``.

    Raises:
        ValueError: As `DisWOT`, and for an unknown measure.
    """

    def __init__(self, measure: str, space: SearchSpaceLike, **options: Any) -> None:
        if measure not in MEASURES:
            raise ValueError(nearest(measure, MEASURES, "zero-cost measure of NASLib"))
        super().__init__(space, **options)
        self.measure = measure

    def attach(self, evaluator: Any) -> None:
        """Give what builds students. Before the first ask.

        Raises:
            ValueError: If the evaluator builds none.
        """
        self._score = ZeroCostScorer(self.measure, evaluator)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No prints and warnings of NASLib's measures, and no half a second for the garbage of all other modules each."""
    gc.freeze()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gc.unfreeze()


def __getattr__(name: str) -> Any:
    """The factory of each measure, by its name: what the entry points ``naslib-zerocost:...`` name."""
    if name not in MEASURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    factory = functools.partial(ZeroCostSearch, name)
    functools.update_wrapper(factory, ZeroCostSearch, updated=())
    factory.__name__ = factory.__qualname__ = f"naslib-zerocost:{name}"  # type: ignore[attr-defined]
    return factory
