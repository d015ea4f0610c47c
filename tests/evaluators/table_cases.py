"""Tables of trainings whose mean and noise are known, for the tests of the surrogate and the benchmark."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from naslib_autokd.records import Proposal, Trial, derive_seed
from naslib_autokd.search_spaces.hnag import Candidate, HNAGSpace, fit_width
from naslib_autokd.tasks import get_task

SPACE = HNAGSpace("hnag-small")
TASK = get_task("cluttered-digits", max_budget_epochs=3, min_budget_epochs=1)
BUDGETS = (1, 3)
WIRING_SD = 0.01


def true_error(candidate: Candidate, budget: int) -> float:
    """Mean validation error; the test error is 0.01 lower."""
    generator, kd = candidate.generator, candidate.kd
    error = 0.12 + 0.06 * math.log(generator.channel_growth) ** 2 + 0.1 * (1 - kd.kd_weight) ** 2
    return error + 0.01 * generator.bottom.n_nodes + 0.3 / budget


def weights_sd(candidate: Candidate) -> float:
    return 0.03 if candidate.generator.downsampling == "average" else 0.015


def training(candidate: Candidate, budget: int, wiring_seed: int, seed: int, number: int) -> Trial:
    """A training as `RecordingEvaluator` records it."""
    drawn = Candidate(candidate.generator, candidate.kd, wiring_seed)
    rng = np.random.default_rng(derive_seed(seed, "noise"))
    effect = np.random.default_rng(derive_seed(candidate.generator.digest, wiring_seed)).standard_normal()
    noise = WIRING_SD * effect + weights_sd(candidate) * rng.standard_normal()
    error = true_error(candidate, budget) + noise
    split = math.sqrt(error * (1 - error) / 3000)
    cost, test_error = error + split * rng.standard_normal(), error - 0.01 + split * rng.standard_normal()
    spec = fit_width(drawn.sample_wiring(0), 24_000, in_channels=1, image_size=12, n_classes=10, min_channels=4)
    curve = [1 - error - 0.1 * (budget - epoch - 1) for epoch in range(budget)]
    return Trial.of(
        Proposal(drawn, budget, seed, number),
        cost=cost,
        val_accuracy=1 - cost,
        train_accuracy=1 - error / 2,
        teacher_agreement=1 - error,
        student_epochs=float(budget),
        wiring=spec.wiring.digest,
        channels=spec.channels,
        n_params=spec.n_params,
        macs=spec.macs,
        depth=spec.depth,
        train_memory_bytes=2 * spec.macs,
        train_s=0.5 * budget,
        evaluate_s=0.1,
        curve=[5 * error + budget - epoch for epoch in range(budget)],
        info={"val_curve": curve, "test_accuracy": 1 - test_error, "test_agreement": 0.9},
    )


def trainings(
    n_families: int = 100, n_nested: int = 30, n_held_out: int = 24, budgets: tuple[int, ...] = BUDGETS
) -> tuple[list[Trial], list[str]]:
    """Trials and their stages, of a table like that of `runners.bench.build`."""
    rng = np.random.default_rng(0)
    trials: list[Trial] = []
    stages: list[str] = []

    def add(stage: str, candidate: Candidate, budget: int, wiring_seed: int) -> None:
        number = len(trials)
        trials.append(training(candidate, budget, wiring_seed, derive_seed("weights", number), number))
        stages.append(stage)

    families: list[Any] = [SPACE.sample(rng) for _ in range(n_families + n_held_out)]
    for index, family in enumerate(families):
        held_out = index >= n_families
        for budget in budgets:
            for repeat in range(3 if held_out and budget == budgets[-1] else 1):
                add("held-out" if held_out else "space", family, budget, 10 * index + repeat)
    for index, family in enumerate(families[:n_nested]):
        for wiring in range(3):
            for _ in range(2):
                add("nested", family, budgets[-1], 50_000 + 10 * index + wiring)
    return trials, stages
