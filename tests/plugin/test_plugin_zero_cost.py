"""NASLib's zero-cost measures as optimizers: they measure the student that would be trained, and are charged."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from api_cases import random_states

from naslib_autokd.evaluators.base import Score
from naslib_autokd.optimizers.base import ScoresStudents, replay
from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.records import Trial, derive_seed
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.tasks import get_task

pytestmark = [
    pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}"),
    pytest.mark.filterwarnings("ignore"),  # of NASLib's import
]

MEASURES = (
    *("epe_nas", "fisher", "grad_norm", "grasp", "jacov", "l2_norm"),
    *("nwot", "plain", "snip", "synflow", "zen"),
)
SPACE = HNAGSpace("hnag-small")


@pytest.fixture(scope="module")
def evaluator() -> Any:
    """Images and students as a KDEvaluator's, without its teacher."""
    from naslib_autokd.plugin.hnag import HNAGSearchSpace
    from naslib_autokd.plugin.loaders import task_data

    data = task_data(get_task("cluttered-digits"))
    space = HNAGSearchSpace(task=data.task)

    def student_spec(candidate: Any, seed: int) -> Any:
        if hasattr(candidate, "student_spec"):
            return candidate.student_spec(data.task, seed)
        space.set_spec(candidate)
        return space.student_spec(seed)

    def build_student(spec: Any, seed: int) -> Any:
        weights = derive_seed(seed, "weights")
        return spec.build(weights) if hasattr(spec, "build") else Student(spec, seed=weights)

    return SimpleNamespace(
        data=data,
        task=data.task,
        device=torch.device("cpu"),
        threads=1,
        student_spec=student_spec,
        build_student=build_student,
    )


def test_every_measure_is_an_optimizer_by_name() -> None:
    from naslib_autokd.plugin import zero_cost

    assert zero_cost.MEASURES == MEASURES
    made = zero_cost.synflow(SPACE, seed=3, max_budget_epochs=9, n_scored=40)
    assert isinstance(made, ScoresStudents)
    assert (made.measure, made.seed, made.n_scored) == ("synflow", 3, 40)
    with pytest.raises(ValueError, match="did you mean 'synflow'"):
        zero_cost.ZeroCostSearch("synflo", SPACE, max_budget_epochs=9)
    with pytest.raises(AttributeError, match="no attribute 'params'"):
        zero_cost.params  # noqa: B018


@pytest.mark.parametrize("measure", MEASURES)
def test_the_student_that_would_be_trained_is_measured(measure: str, evaluator: Any) -> None:
    """As NASLib measures HNAG's graph of the same student; alike every time, and different for another student."""
    from naslib.predictors.zerocost import ZeroCost

    from naslib_autokd.plugin.hnag import HNAGSearchSpace
    from naslib_autokd.plugin.zero_cost import ZeroCostScorer, _quiet

    score = ZeroCostScorer(measure, evaluator)
    first, second = (SPACE.sample(np.random.default_rng(seed)) for seed in (1, 2))
    before = random_states()
    value = score(first, 5).value
    assert math.isfinite(value)
    assert value == score(first, 5).value != score(second, 5).value
    assert random_states() == before
    graph = HNAGSearchSpace(task=evaluator.task)
    graph.set_spec(first)
    graph.parse(5)
    with _quiet():
        torch.manual_seed(derive_seed(5, "measure"))
        theirs = float(ZeroCost(measure).query(graph, dataloader=score._batches))
    assert value == pytest.approx(theirs, rel=1e-3)
    assert score(first, 5).student_epochs == score.student_epochs > 0


def test_cells_of_naslibs_spaces_are_measured(evaluator: Any) -> None:
    from naslib_autokd.plugin.spaces import nasbench201
    from naslib_autokd.plugin.zero_cost import ZeroCostScorer

    space, rng = nasbench201(), np.random.default_rng(0)
    values = [ZeroCostScorer("jacov", evaluator)(space.sample(rng), 1).value for _ in range(2)]
    assert all(map(math.isfinite, values))
    assert values[0] != values[1]


def test_what_cannot_be_measured_has_the_lowest_score(evaluator: Any) -> None:
    from naslib_autokd.plugin.zero_cost import ZeroCostScorer

    broken = SimpleNamespace(**vars(evaluator) | {"build_student": lambda spec, seed: torch.nn.Flatten()})
    score = ZeroCostScorer("synflow", broken)(SPACE.default_candidate(), 0)
    assert score.value == -math.inf
    with pytest.raises(ValueError, match="need students, which object does not build: give a KDEvaluator"):
        ZeroCostScorer("synflow", object())


def test_scores_come_first_are_charged_and_are_replayed(monkeypatch: pytest.MonkeyPatch, evaluator: Any) -> None:
    from naslib_autokd.plugin import zero_cost

    def value(candidate: Any) -> float:
        return float(int(candidate.digest, 16) % 1000)

    monkeypatch.setattr(
        zero_cost.ZeroCostScorer, "__call__", lambda self, candidate, seed: Score(value(candidate), self.student_epochs)
    )

    def made() -> Any:
        optimizer = zero_cost.jacov(SPACE, seed=0, max_budget_epochs=9, total_budget_epochs=90, n_scored=30)
        optimizer.attach(evaluator)
        return optimizer

    optimizer = made()
    asked, trials = [], []
    for _ in range(4):
        proposal = optimizer.ask()
        asked.append(proposal.candidate)
        trials.append(Trial.of(proposal, status="success", cost=0.5, val_accuracy=0.5, student_epochs=9.0))
        optimizer.tell(trials[-1])
    values = [value(candidate) for candidate in asked]
    assert values == sorted(values, reverse=True)
    cost = zero_cost.COSTS["jacov"] * 64 / evaluator.data.n_shown
    assert optimizer.extra_student_epochs == pytest.approx(30 * cost)
    again = made()
    assert replay(again, trials) == []
    assert again.ask().candidate == optimizer.ask().candidate
