"""What a search is expected to cost, told before it starts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.records import Proposal
from naslib_autokd.runners.estimate import Estimate, estimate
from naslib_autokd.search_spaces.hnag import HNAGSpace

SPACE = HNAGSpace("hnag-small")
NOTHING = dict.fromkeys(("n_trials", "student_epochs", "wall_s", "target_cost"))


@pytest.fixture(scope="module")
def evaluator(tiny_data, cluttered_teacher):
    return KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher.network)


def expected(evaluator: Any, optimizer: str = "autokd", **changed: Any) -> Estimate:
    """With a clock that goes on by a second a look: a step takes one, an epoch of two steps two."""
    told: dict[str, Any] = {"options": {}, "budget": NOTHING | {"n_trials": 24}, "n_finals": 4, "workers": 1}
    found = estimate(evaluator, SPACE, optimizer=optimizer, clock=itertools.count().__next__, **told | changed)
    assert found is not None
    return found


def test_the_sums(evaluator):
    full = evaluator.task.max_budget_epochs
    found = expected(evaluator)
    assert (found.epoch_s, found.n_trials, found.student_epochs) == (2.0, 24, 16 * full)
    assert found.seconds == pytest.approx(24 * (full * 2 / 3 * 2 + found.trial_s) + 4 * (full * 2 + found.trial_s))
    assert expected(evaluator, "random_search").student_epochs == 24 * full
    assert expected(evaluator, options={"fidelity": "full"}).student_epochs == 24 * full
    assert expected(evaluator, budget=NOTHING | {"n_trials": 24, "student_epochs": 50.0}).student_epochs == 50
    assert expected(evaluator, budget=NOTHING | {"n_trials": 1}).n_trials == 1  # the default family, in full
    limited = expected(evaluator, n_finals=0, budget=NOTHING | {"n_trials": 24, "wall_s": 60.0})
    assert 60 < limited.seconds < 60 + 2 * full + limited.trial_s
    assert limited.n_trials < 24
    assert expected(evaluator, workers=2).memory_bytes > 2.5 * found.memory_bytes
    assert 50_000 < found.disk_bytes < 2_000_000
    assert "24 trials" in found.text()
    assert replace(found, seconds=30.0, memory_bytes=3 * 2**30, disk_bytes=5 * 2**20).text() == (
        f"expected, from a measured step: 30 s (24 trials, {16 * full} student-epochs of 2 s), 3.0 GB of memory, 5 MB "
        "on disk"
    )


def test_what_is_loaded_once_is_not_expected_of_every_trial(evaluator, monkeypatch):
    """Kernels are compiled at first use, which takes longer than many trainings of small students."""
    build, slept = evaluator.build_student, []

    def compile_first(*arguments):
        if not slept:
            slept.append(1000)
        return build(*arguments)

    monkeypatch.setattr(evaluator, "build_student", compile_first)
    clock = itertools.count()
    told: dict[str, Any] = {"options": {}, "budget": NOTHING | {"n_trials": 24}, "n_finals": 4}
    found = estimate(evaluator, SPACE, optimizer="autokd", clock=lambda: next(clock) + sum(slept), **told)
    assert slept
    assert found is not None
    assert found.seconds == expected(evaluator).seconds


def test_it_draws_no_random_numbers_and_changes_no_trial(evaluator):
    proposal = Proposal(SPACE.default_candidate(), 1, 3, 0)
    before, state = evaluator.evaluate(proposal), torch.get_rng_state()
    expected(evaluator)
    assert torch.equal(torch.get_rng_state(), state)
    assert evaluator.evaluate(proposal).outcome() == before.outcome()


def test_what_cannot_be_measured_stops_nothing(evaluator):
    budget = NOTHING | {"n_trials": 2}
    assert estimate(evaluator, object(), optimizer="autokd", options={}, budget=budget, n_finals=1) is None


@pytest.mark.slow  # trains for some seconds; of time alone, so it may fail on a machine that is busy at times
def test_an_epoch_takes_what_was_expected_within_a_factor_of_two(cluttered_data, cluttered_teacher):
    evaluator = KDEvaluator(cluttered_data.task, data=cluttered_data, teacher=cluttered_teacher.network)
    found = estimate(evaluator, SPACE, optimizer="autokd", options={}, budget=NOTHING | {"n_trials": 6}, n_finals=0)
    assert found is not None
    trial = evaluator.evaluate(Proposal(SPACE.default_candidate(), 3, 0, 0))
    assert 0.5 < found.epoch_s / (trial.train_s / 3) < 2
