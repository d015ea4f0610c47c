"""A network as an ONNX file: read by runtimes of many ages, named axes, measured where it will run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from naslib_autokd.distillation import runtime
from naslib_autokd.distillation.runtime import Latency, OnnxSession, Runtime, latency, onnx_file
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.search_spaces.hnag.wiring import fit_width

SHAPE, MEAN, STD = (1, 12, 12), (0.4,), (0.2,)


def student() -> Student:
    wiring = HNAGSpace("hnag-small").default_candidate().sample_wiring(0)
    return Student(fit_width(wiring, 6000, in_channels=1, image_size=12, n_classes=10))


def images(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((n, *SHAPE), dtype=np.float32)


@pytest.mark.parametrize(("opset", "ir_version"), [(11, 4), (13, 7), (17, 8), (21, 10)])
def test_opset_and_format_are_what_was_asked_for(opset: int, ir_version: int) -> None:
    network = student().eval()
    content = onnx_file(network, SHAPE, MEAN, STD, opset=opset, ir_version=ir_version, metadata={"classes": ["a"]})
    model = onnx.load_from_string(content)
    assert (model.opset_import[0].version, model.ir_version) == (opset, ir_version)
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    usual = OnnxSession(onnx_file(network, SHAPE, MEAN, STD))(images())
    np.testing.assert_allclose(OnnxSession(content)(images()), usual)


def test_what_onnx_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="opset must be from 11 to"):
        onnx_file(student(), SHAPE, MEAN, STD, opset=9)
    with pytest.raises(ValueError, match="IR version must be from 4 to"):
        onnx_file(student(), SHAPE, MEAN, STD, ir_version=99)


def test_other_networks_go_through_torchs_exporter() -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)).eval()
    with torch.no_grad():
        expected = network((torch.from_numpy(images(5)) - MEAN[0]) / STD[0]).numpy()
    got = OnnxSession(onnx_file(network, SHAPE, MEAN, STD))(images(5))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_latency_is_that_of_onnx_runtime_and_grows_with_the_batch() -> None:
    network = student()
    one, many = (latency(network, SHAPE, Runtime(batch=batch)) for batch in (1, 64))
    assert isinstance(one, Latency)
    assert one.measured.startswith("onnxruntime ")
    assert one.measured.endswith("batch 1, 1 thread, cpu")
    assert 2 < many.seconds / one.seconds < 200
    assert network.training


def test_without_onnxruntime_latency_is_eager_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "missing_packages", lambda *names: ["onnx"])
    found = latency(student(), SHAPE)
    assert found.measured.startswith("eager PyTorch")
    assert "pip install onnx" in found.measured
    assert found.seconds > 0


def test_a_runtime_that_cannot_be_is_refused() -> None:
    for settings, message in (
        ({"threads": 0}, "threads must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"provider": "cpus"}, "did you mean 'cpu'"),
    ):
        with pytest.raises(ValueError, match=message):
            Runtime(**settings)
    with pytest.raises(ValueError, match=r"onnxruntime here has no .*take .*cpu"):
        OnnxSession(b"", Runtime(provider="coreml"))
    with pytest.raises(ValueError, match="cannot load it"):
        OnnxSession(b"nonsense")


def test_a_session_is_measured_by_its_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of CPU time on one thread, where other work does not count; of wall time on several."""
    session = OnnxSession(onnx_file(student().eval(), SHAPE, MEAN, STD))
    for name, step in (("thread_time", 0.5), ("perf_counter", 0.7)):
        # one call in three is interrupted
        ticks = iter(np.cumsum([(step if index % 6 != 1 else 9.0) * (index % 2) for index in range(400)]).tolist())
        monkeypatch.setattr(runtime.time, name, lambda ticks=ticks: next(ticks))
        assert runtime.session_latency_s(session, SHAPE) == pytest.approx(step)
        session.runtime = Runtime(threads=2)
