"""The model of training time: what it counts, and how well it agrees with what was measured."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from scripts import script

from naslib_autokd.distillation.costs import count_macs
from naslib_autokd.distillation.training_cost import (
    coefficients,
    cost_of,
    module_work,
    network_cost,
    plan_work,
    student_cost,
)
from naslib_autokd.optimizers.darts import DARTS
from naslib_autokd.search_spaces.hnag import HNAGSpace, StudentSpec, fit_width
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.tasks import get_task
from naslib_autokd.teachers import zoo

MACS = ("dense_macs", "pointwise_macs", "depthwise_macs", "grouped_macs")


def spec_of(seed: int) -> StudentSpec:
    wiring = HNAGSpace("hnag-wide").sample(np.random.default_rng(seed)).sample_wiring(seed)
    return fit_width(wiring, 200_000, in_channels=3, image_size=32, n_classes=10)


@pytest.mark.parametrize("seed", range(3))
def test_the_work_of_a_student_has_its_multiply_adds_and_those_of_its_module(seed: int) -> None:
    spec = spec_of(seed)
    work, student = plan_work(spec, 32), Student(spec, 0)
    classifier = student.classifier_weight.numel()
    assert sum(work.get(name, 0.0) for name in MACS) == 32 * (count_macs(student, (3, 32, 32)) - classifier)
    student.execution = "steps"
    counted = module_work(student, (3, 32, 32), 32)
    for name in MACS[:3]:
        assert counted.get(name, 0.0) == work.get(name, 0.0)


def test_a_last_vector_that_is_not_full_takes_as_long_as_a_full_one() -> None:
    seventeen, full = (plan_work(spec_of(0), n)["norm_values"] for n in (17, 32))
    assert seventeen == full


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "shufflenet_v1"])
def test_the_work_of_a_module_is_counted_without_a_trace(name: str) -> None:
    model = zoo.build(name, 3, 10).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    work = module_work(model, (3, 32, 32), 64)
    assert work["steps"] == 1
    assert sum(work.get(key, 0.0) for key in MACS) + work["matrix_macs"] == 64 * count_macs(model, (3, 32, 32))
    twice = module_work(model, (3, 32, 32), 128)
    assert twice["norm_values"] == 2 * work["norm_values"]
    assert twice["operations"] == work["operations"]
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_seconds_are_those_of_the_execution() -> None:
    spec = spec_of(1)
    cost = student_cost(spec, 64)
    assert network_cost(Student(spec, 0), (3, 32, 32), 64) == cost
    assert cost.seconds(10, 100) == pytest.approx(10 * cost.step + 100 * cost.image)
    assert cost.image * 64 == pytest.approx(coefficients()["validation"]["plan"] * cost.step)
    task = get_task("cluttered-digits")
    work = module_work(DARTS().supernet(task, 0), (1, 12, 12), task.batch_size)
    assert DARTS().search_step_seconds(task) == cost_of(work, "supernet", task.batch_size).step


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return script("benchmarks/training_cost.py")


def test_the_model_agrees_with_what_was_measured(benchmark: ModuleType) -> None:
    """The shipped coefficients belong to these counts and these measurements: both together or neither."""
    rows = benchmark.read()
    some = [row for row in rows if row["item"]["size"] == 12 and row["round"] == 0][::2]
    networks = benchmark.measured(some, benchmark.usual_reference(rows))
    assert len(networks) > 20
    errors = [abs(benchmark.error(each, coefficients()["seconds"][each.execution])) for each in networks]
    assert np.median(errors) < 0.15
    assert np.quantile(errors, 0.9) < 0.35
