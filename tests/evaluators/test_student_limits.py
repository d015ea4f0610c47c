"""Limits are kept by narrower students, and a limit that none keeps says what would."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from naslib_autokd.commands._options import parse_size
from naslib_autokd.distillation.runtime import Latency, Runtime
from naslib_autokd.evaluators import kd
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.evaluators.student_limits import (
    LimitError,
    StudentLimits,
    amount,
    check_reachable,
    widest_within,
)
from naslib_autokd.records import Proposal
from naslib_autokd.runners.results import what_decided_widths
from naslib_autokd.search_spaces.hnag import HNAGSpace


@pytest.fixture(scope="module")
def make(tiny_data, cluttered_teacher):
    def evaluator(**options):
        return KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher.network, **options)

    return evaluator


FAMILY = HNAGSpace("hnag-small").default_candidate()


@pytest.mark.parametrize(("limit", "cost"), [("max_train_memory", "train_memory"), ("max_macs", "macs")])
def test_a_student_within_a_limit_is_the_widest_such(make, limit, cost):
    free = make()
    widest = free.student_spec(FAMILY, 1)
    allowed = 0.6 * free.cost_of(widest, cost)
    spec = make(limits=StudentLimits(**{limit: allowed})).student_spec(FAMILY, 1)
    assert spec.wiring == widest.wiring
    assert free.cost_of(spec, cost) <= allowed
    wider = spec.__class__(spec.wiring, tuple(c + 1 for c in spec.channels), 1, 12, 10, "small")
    assert free.cost_of(wider, cost) > allowed


def test_the_size_is_a_share_of_the_parameter_limit_and_1_is_what_it_always_was(make):
    space = HNAGSpace("hnag-small", search_size=True)
    values = space.values(FAMILY) | {"size": 0.25}
    small = space.candidate(values)
    assert space.values(small) == values
    assert small.from_dict(small.to_dict()) == small
    assert space.candidate(values | {"size": 1.0}) == FAMILY
    assert "size" not in FAMILY.to_dict()
    assert small.digest != FAMILY.digest
    evaluator = make()
    limit = evaluator.task.max_params
    assert 0.9 * limit / 4 < evaluator.student_spec(small, 1).n_params <= limit / 4
    with pytest.raises(ValueError, match="size"):
        space.candidate(values | {"size": 2.0})


def test_limits_that_are_kept_change_nothing(make):
    wide = StudentLimits(max_train_memory=10**9, max_macs=10**9, max_inference_memory=10**9, max_latency_s=100.0)
    assert make(limits=wide).student_spec(FAMILY, 1) == make().student_spec(FAMILY, 1)


def test_a_limit_that_no_width_keeps_is_a_trial_without_epochs_that_says_the_smallest(make):
    evaluator = make(limits=StudentLimits(max_train_memory=1000))
    with pytest.raises(LimitError, match="narrowest student"):
        evaluator.student_spec(FAMILY, 1)
    trial = evaluator.evaluate(Proposal(FAMILY, 3, 1, 0))
    assert (trial.status, trial.student_epochs) == ("refused", 0.0)
    needed = re.search(r"needs ([0-9.]+[KM]B) \(of a training step, --max-memory\)", trial.message)
    assert needed is not None
    reachable = StudentLimits(max_train_memory=parse_size(needed[1]))
    assert make(limits=reachable).student_spec(FAMILY, 1).channels[0] == 4


@pytest.mark.parametrize(
    ("limit", "value", "text"),
    [
        ("max_train_memory", 489_120, "478KB"),
        ("max_train_memory", 2**30 + 1, "1030MB"),
        ("max_inference_memory", 500 * 2**20, "500MB"),
        ("max_macs", 33_310, "33400"),
        ("max_macs", 4_000_000, "4000000"),
        ("max_latency_s", 0.0002111, "0.212 ms"),
    ],
)
def test_what_a_limit_must_be_is_rounded_up_with_its_unit(limit, value, text):
    assert amount(limit, value) == text


def test_the_smallest_reachable_limits_of_all_families_are_told():
    def student_spec(family):
        raise LimitError("too small", {"max_train_memory": family * 2**20, "max_macs": 3000 / family})

    with pytest.raises(
        LimitError, match=r"no student of 3 families.*at least 2MB.*--max-memory.*at least 750 "
    ) as told:
        check_reachable(student_spec, [4, 2, 3])
    assert told.value.needed == {"max_train_memory": 2 * 2**20, "max_macs": 750}


def test_what_no_width_keeps_is_told_from_the_narrowest_student_alone():
    measured = []

    def measure(size, cost):
        measured.append((size, cost))
        return size

    limits = StudentLimits(max_train_memory=5, max_macs=1000)
    with pytest.raises(LimitError):
        widest_within(limits, lambda n: n, measure, max_params=10_000, smallest=10)
    assert {size for size, _ in measured} == {10}
    measured.clear()
    widest_within(replace(limits, max_train_memory=10**9), lambda n: n, measure, max_params=10_000, smallest=10)
    assert all(size <= 1000 for size, cost in measured if cost == "train_memory")  # what counting rules out is enough


def test_costs_are_measured_on_request(make):
    plain = make().evaluate(Proposal(FAMILY, 1, 1, 0))
    assert "latency" not in plain.info
    trial = make(measure=("latency", "inference_memory")).evaluate(Proposal(FAMILY, 1, 1, 0))
    assert trial.info["latency"] > 0
    assert re.fullmatch(r"onnxruntime \S+, batch 1, 1 thread, cpu", trial.info["latency_of"])
    assert trial.info["device"] == "cpu"
    assert 4 * trial.n_params < trial.info["inference_memory"] < trial.train_memory_bytes
    assert trial.cost == plain.cost
    with pytest.raises(ValueError, match="nothing to measure"):
        make(measure=("latencyy",))


def test_a_limit_of_latency_is_that_of_the_runtime_that_is_asked_for(make, monkeypatch):
    asked = []

    def known(network, shape, runtime):
        asked.append(runtime)
        return Latency(1e-6 * runtime.batch * network.spec.macs / 1000, "a rule")

    monkeypatch.setattr(kd, "latency", known)
    widest = make().student_spec(FAMILY, 1)
    limits, runtime = StudentLimits(max_latency_s=4e-6 * widest.macs / 2000), Runtime(threads=2, batch=4)
    evaluator = make(limits=limits, runtime=runtime)
    found = evaluator.student_spec(FAMILY, 1)
    assert 0.8 * widest.macs / 2 < found.macs <= widest.macs / 2
    assert set(asked) == {runtime}
    trial = evaluator.evaluate(Proposal(FAMILY, 1, 1, 0))
    assert trial.info["latency"] <= limits.max_latency_s
    assert (trial.info["latency_of"], trial.info["width_decided_by"]) == ("a rule", "max_latency_s")
    with pytest.raises(ValueError, match="onnxruntime here has no CoreML"):
        make(runtime=Runtime(provider="coreml"), measure=("latency",))


def test_bisection_finds_the_last_size_within_the_limit():
    asked = []

    def measure(size, cost):
        asked.append(size)
        return size**2

    found, decides = widest_within(StudentLimits(max_macs=2500), lambda n: n, measure, max_params=1000, smallest=10)
    assert 49 <= found <= 50
    assert decides == "max_macs"
    assert len(asked) < 15
    with pytest.raises(ValueError, match="must be positive"):
        StudentLimits(max_macs=0)


def test_the_limit_that_decides_the_width_is_the_one_that_a_wider_student_breaks():
    costs = {"macs": lambda n: 3 * n, "train_memory": lambda n: n + 500}

    def decides(**limits):
        return widest_within(StudentLimits(**limits), lambda n: n, lambda n, cost: costs[cost](n), 1000, 10)[1]

    assert decides(max_macs=10_000, max_train_memory=10_000) == ""
    assert decides(max_macs=300, max_train_memory=900) == "max_macs"
    assert decides(max_macs=2400, max_train_memory=900) == "max_train_memory"


def test_a_trial_says_which_limit_decided_its_width(make):
    free = make()
    macs = free.student_spec(FAMILY, 1).macs
    assert free._fitted(FAMILY, 1)[1] == "max_params"
    assert "width_decided_by" not in free.evaluate(Proposal(FAMILY, 1, 1, 0)).info
    tight = make(limits=StudentLimits(max_macs=macs // 2, max_train_memory=10**9))
    trial = tight.evaluate(Proposal(FAMILY, 1, 1, 0))
    assert trial.info["width_decided_by"] == "max_macs"
    assert make(limits=StudentLimits(max_macs=10 * macs))._fitted(FAMILY, 1)[1] == "max_params"
    small = HNAGSpace("hnag-small", search_size=True)
    assert free._fitted(small.candidate(small.values(FAMILY) | {"size": 0.25}), 1)[1] == "size"
    assert what_decided_widths([trial, trial, replace(trial, info={"width_decided_by": "max_params"})]) == (
        "max_macs in 2 of 3 trials, max_params in 1"
    )


class Shares:
    """Predicts a latency from the multiply-adds, wrong by a factor."""

    def __init__(self, factor, error):
        self.factor, self.error, self.asked = factor, error, 0

    def predict(self, spec):
        self.asked += 1
        return self.factor * 1e-9 * spec.macs


@pytest.mark.parametrize(
    ("factor", "least", "most"), [(None, 8, 12), (1.0, 1, 4), (1.1, 1, 4), (0.5, 2, 5), (3.0, 2, 5)]
)
def test_a_width_is_found_with_few_measurements_and_keeps_its_limit_whatever_was_predicted(
    make, monkeypatch, factor, least, most
):
    measured = []

    def known(network, shape, runtime):
        measured.append(network.spec)
        return Latency(1e-9 * network.spec.macs, "a rule")

    monkeypatch.setattr(kd, "latency", known)
    widest = make().student_spec(FAMILY, 1)
    evaluator = make(limits=StudentLimits(max_latency_s=1e-9 * widest.macs / 2))
    evaluator._predictor = lambda: None if factor is None else Shares(factor, 0.15)
    found = evaluator.student_spec(FAMILY, 1)
    assert found.macs <= widest.macs / 2
    assert found in measured
    assert found.macs > 0.45 * widest.macs
    assert len(measured) == len(set(measured))
    assert least <= len(measured) <= most


def test_what_is_far_from_the_limit_is_refused_without_a_measurement(make, monkeypatch):
    monkeypatch.setattr(kd, "latency", None)
    evaluator = make(limits=StudentLimits(max_latency_s=1e-6))
    evaluator._predictor = lambda: Shares(1.0, 0.15)
    with pytest.raises(LimitError, match="narrowest student"):
        evaluator.student_spec(FAMILY, 1)


def test_the_latency_of_a_trial_is_the_one_that_kept_its_limit(make, monkeypatch):
    times = iter(range(1, 1000))
    monkeypatch.setattr(kd, "latency", lambda *_: Latency(1e-6 * next(times), "a clock"))
    trial = make(limits=StudentLimits(max_latency_s=1.0)).evaluate(Proposal(FAMILY, 1, 1, 0))
    assert trial.info["latency"] == 2e-6  # the narrowest and the widest; the latter was not measured again
