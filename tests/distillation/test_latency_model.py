"""Latencies are predicted from shapes: what is counted is what ONNX Runtime runs, and prices are found again."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from scipy.stats import spearmanr

from naslib_autokd.distillation import latency_model
from naslib_autokd.distillation.latency_model import calibrated, calibration_students, features, fitted, kept, numbers
from naslib_autokd.distillation.runtime import OnnxSession, Runtime, onnx_file
from naslib_autokd.search_spaces.hnag import HNAGSpace, Student
from naslib_autokd.search_spaces.hnag.folding import fold
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec

SHAPE = (1, 12, 12)


def wirings(n, preset="hnag-wide"):
    rng, space = np.random.default_rng(0), HNAGSpace(preset)
    return [space.sample(rng).sample_wiring(seed) for seed in range(n)]


def student(wiring, channels):
    return Student(StudentSpec(wiring, channels, 1, 12, 10)).eval()


@pytest.mark.parametrize("index", range(4))
def test_what_is_counted_is_what_onnx_runtime_runs_after_its_fusions(index, tmp_path):
    network = student(wirings(4)[index], (16, 20, 24))
    OnnxSession(onnx_file(network, SHAPE, (0.5,), (0.25,)), save_optimized=str(tmp_path / "optimised.onnx"))
    run = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    counted = {"Conv", "Relu", "Add", "Mul", "Sigmoid", "MaxPool", "AveragePool"}
    assert numbers(network, 1)["nodes"] == sum(kind in counted for kind in run)


def test_channels_that_the_runtime_fills_up_cost_alike():
    wiring = wirings(1, "hnag-small")[0]
    filled = numbers(student(wiring, (32, 32, 48)), 1)
    assert numbers(student(wiring, (20, 32, 33)), 1) == filled
    assert numbers(student(wiring, (33, 32, 33)), 1) != filled


def test_numbers_of_pixels_grow_with_the_batch_and_those_of_nodes_do_not():
    ops = fold(student(wirings(1)[0], (16, 16, 16)), fill=True)
    one, many = features(ops, 12, 1), features(ops, 12, 8)
    assert many["call"], many["nodes"] == (one["call"], one["nodes"])
    assert all(many[name] == 8 * one[name] for name in ("products", "rows", "written"))


def test_prices_of_measured_graphs_are_found_again():
    found = [numbers(one, 1) for one in calibration_students(SHAPE, 80)]
    prices = {"call": 1e-5, "nodes": 1e-6, "products": 2e-11, "plain": 3e-11, "rows": 1e-9, "depthwise": 4e-10}
    seconds = [sum(prices.get(name, 0.0) * value for name, value in one.items()) for one in found]
    model = fitted(Runtime(), found, seconds)
    assert model.error < 1e-3
    network = student(wirings(1)[0], (16, 20, 24))
    expected = sum(prices.get(name, 0.0) * value for name, value in numbers(network, 1).items())
    assert model.predict(network) == pytest.approx(expected, rel=1e-2)
    noisy = np.array(seconds) * np.random.default_rng(0).uniform(0.8, 1.2, len(seconds))
    assert 0.1 < fitted(Runtime(), found, noisy).error < 0.4


@pytest.mark.slow
def test_a_machine_is_measured_once_and_its_model_ranks_other_students(tmp_path, monkeypatch):
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    monkeypatch.setattr(latency_model, "N_GRAPHS", 40)
    monkeypatch.setattr(latency_model, "ROUNDS", 3)
    monkeypatch.setattr(latency_model, "EACH_LARGE", 40)
    said = []
    assert kept(SHAPE, Runtime()) is None
    model = calibrated(SHAPE, Runtime(), said.append)
    assert kept(SHAPE, Runtime()) == model
    assert kept(SHAPE, Runtime(batch=2)) is None
    assert [text.split()[0] for text in said] == ["measuring", "latencies"]
    monkeypatch.setattr(latency_model, "calibrate", None)
    assert calibrated(SHAPE, Runtime(), said.append) == model
    assert len(said) == 2
    others = [student(wiring, (c, c, c)) for wiring in wirings(4, "hnag-small") for c in (8, 24, 64)]
    measured = latency_model.least_seconds([latency_model.session_of(one, Runtime()) for one in others], SHAPE, 3)
    assert spearmanr([model.predict(one) for one in others], measured).statistic > 0.85


@pytest.mark.parametrize(
    ("seconds", "block"), [((1, 2, 2, 2), 16), ((1, 1.5, 1.5, 2), 8), ((1, 1.25, 1.5, 2), 1), ((1, 1, 1, 1), 1)]
)
def test_the_block_of_a_runtime_is_read_from_the_steps_of_its_times(seconds, block):
    assert latency_model._block(*seconds) == block
