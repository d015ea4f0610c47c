"""A student in 8 bits: what it costs is measured on the validation split, and too much is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from naslib_autokd import cli, load_student
from naslib_autokd.distillation.runtime import OnnxSession
from naslib_autokd.runners.run_folder import TASK
from naslib_autokd.shipping import export as export_module
from naslib_autokd.shipping import int8
from naslib_autokd.shipping.export import export, onnx_content
from naslib_autokd.shipping.student_file import ExportError, kept_student, read_student


@pytest.fixture(scope="module")
def files(run, evaluator):
    """The kept student in float32, and in 8 bits with scales of training pictures and of black ones."""
    described, student = read_student(kept_student(run)), load_student(kept_student(run))
    plain = onnx_content(student, described, fill=False)
    pictures = int8.as_input(evaluator.data.train_images)
    good, bad = (int8.quantised(plain, images) for images in (pictures, 0 * pictures))
    return onnx_content(student, described), good, bad


def test_weights_have_8_bits_and_a_scale_for_each_channel(files):
    model = onnx.load_from_string(files[1])
    types = {one.name: one.data_type for one in model.graph.initializer}
    kernels = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    made_by = {node.output[0]: node for node in model.graph.node}
    for kernel in kernels:
        weight, scale = made_by[kernel].input[:2]
        assert types[weight] == onnx.TensorProto.INT8
        shapes = {one.name: tuple(one.dims) for one in model.graph.initializer}
        assert shapes[scale] == shapes[weight][:1]
    assert {one.key for one in model.metadata_props} >= {"classes", "input", "input_range"}
    assert len(files[1]) < 0.6 * len(files[0])


def test_the_report_is_that_of_the_validation_split(files, run, evaluator):
    data = evaluator.data
    found = int8.report(files[0], files[1], data, read_student(kept_student(run)).input)
    with torch.no_grad():
        expected = load_student(kept_student(run))(data.normalise(data.val_images)).argmax(dim=1)
    got = torch.from_numpy(OnnxSession(files[1])(int8.as_input(data.val_images)).argmax(axis=1))
    assert found.n_val == 200
    assert found.float_accuracy == float((expected == data.val_labels).double().mean())
    assert found.int8_accuracy == float((got == data.val_labels).double().mean())
    assert found.agreement == float((expected == got).double().mean())
    assert abs(found.drop) <= 3
    assert found.agreement > 0.9


def test_scales_of_the_wrong_pictures_are_seen(files, run, evaluator):
    found = int8.report(files[0], files[2], evaluator.data, read_student(kept_student(run)).input)
    assert found.agreement < 0.8


def test_a_student_that_loses_too_much_is_refused_and_nothing_is_written(run, evaluator, tmp_path, monkeypatch, capsys):
    evaluator.task.to_yaml(run / TASK)
    monkeypatch.setattr("naslib_autokd.data.load.load_data", lambda task: evaluator.data)
    measured = int8.report

    def worse(*given):
        return replace(measured(*given), float_accuracy=0.9, int8_accuracy=0.885)

    monkeypatch.setattr(int8, "report", worse)
    words = ["export", str(run), "--int8", "--out", str(tmp_path / "student.onnx")]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "8 bits cost 1.50 points, more than --max-drop 1" in said
    assert not list(tmp_path.iterdir())
    assert cli.main([*words, "--max-drop", "2"]) == 0
    card = (tmp_path / "model_card.md").read_text()
    assert "This file computes in 8 bits" in card
    assert "validation accuracy 90.00 to 88.50 %" in card
    session = OnnxSession((tmp_path / "student.onnx").read_bytes())
    assert np.isfinite(session(int8.as_input(evaluator.data.val_images[:2]))).all()


def test_the_file_and_its_card_state_its_own_accuracy(run, evaluator, tmp_path, monkeypatch):
    evaluator.task.to_yaml(run / TASK)
    monkeypatch.setattr("naslib_autokd.data.load.load_data", lambda task: evaluator.data)
    done = export(run, int8=True, max_drop=100, out=tmp_path / "student.onnx")
    images, labels = evaluator.data.read_test()
    session = OnnxSession(done.path.read_bytes())
    own = {
        "val_accuracy": np.mean(
            session(int8.as_input(evaluator.data.val_images)).argmax(axis=1) == evaluator.data.val_labels.numpy()
        ),
        "test_accuracy": np.mean(session(int8.as_input(images)).argmax(axis=1) == labels.numpy()),
    }
    assert json.loads(session.metadata["result"]) == own
    trained = read_student(kept_student(run)).result
    assert json.loads(session.metadata["float32_result"]) == {name: trained[name] for name in own}
    card = done.card.read_text()
    assert f"| this student in 8 bits | {100 * own['test_accuracy']:.1f} % |" in card
    assert f"| the same in float32 | {100 * trained['test_accuracy']:.1f} % |" in card


FOUND = int8.Int8Report(3000, 0.9, 0.9, 1.0, (1.0, 10.0), (1.1, 9.9), 100_000, 110_000)


def test_8_bits_that_gain_nothing_are_called_so():
    assert FOUND.gains == {}
    assert (
        "8 bits gain nothing: no size (1.10), no time at batch 1 (1.10), no time at batch 64 (0.99). Ship the float32"
        in FOUND.sentence()
    )
    faster = replace(FOUND, int8_ms=(0.97, 5.0))
    assert faster.sentence().endswith("8 bits gain time at batch 64 (0.50), no size (1.10), no time at batch 1 (0.97)")
    assert faster.to_dict()["gains"] == ["time at batch 64"]


@pytest.mark.parametrize(("max_drop", "warned"), [(0.0, False), (0.01, True), (0.04, False)])
def test_a_limit_below_one_pictures_worth_is_told(max_drop, warned):
    said = replace(FOUND, max_drop=max_drop).warning
    assert said == (
        "--max-drop 0.01 is less than one of the 3,000 validation pictures is worth (0.033 points), so it allows no "
        "loss, as 0 does"
        if warned
        else ""
    )
    assert "(3,000 pictures, 0.033 points each" in FOUND.sentence()


def test_what_makes_no_sense_is_refused_before_any_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "load_student", None)
    for settings, message in (
        ({"int8": True, "format": "safetensors"}, "8 bits are of ONNX files"),
        ({"max_drop": 1.0}, "max_drop is of int8"),
        ({"opset": 13, "format": "torch-export"}, "has no opset"),
    ):
        with pytest.raises(ExportError, match=message):
            export(run, **settings)
