"""Fine-tuning in 8 bits: the module is the file, what it learns makes up for rounding, and the better one is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from naslib_autokd import cli
from naslib_autokd.distillation.runtime import OnnxSession
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.runners.finals import train_family
from naslib_autokd.runners.run_folder import TASK
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.search_spaces.hnag.parameters import PRESETS
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.shipping import int8, quantisation_aware
from naslib_autokd.shipping.export import export, onnx_content
from naslib_autokd.shipping.quantisation_aware import FakeQuantised, fine_tuned
from naslib_autokd.shipping.student_file import ExportError, kept_student, load_student, read_student


def in_both(student, described, data, spread=1.0):
    """A student's file in float32, and in 8 bits with steps for values ``spread`` times as large as they are."""
    plain = onnx_content(student, described, fill=False)
    images = np.float32(spread) * int8.as_input(data.train_images[: int8.N_CALIBRATION])
    return plain, int8.quantised(plain, images)


def node_by_node(content, images):
    """Logits of a file as it is written, in float32, whatever 8-bit instructions the processor has."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options).run(None, {"images": images})[0]


def val_accuracy(content, data):
    named = OnnxSession(content)(int8.as_input(data.val_images)).argmax(axis=1)
    return float((named == data.val_labels.numpy()).mean())


@pytest.mark.parametrize(
    ("operations", "merges", "downsampling", "most"),
    [
        ("conv3x3", "sum", "max", 0.01),
        ("separable3x3", "concat", "max", 0.05),
        # means of whole numbers often lie in the middle between two, and many layers follow
        ("all", "attention", "average", 0.8),
    ],
)
def test_the_forward_pass_is_onnx_runtimes(run, evaluator, operations, merges, downsampling, most):
    ranges = {"operations": (operations,), "merges": (merges,), "downsampling": (downsampling,), "default": {}}
    family = HNAGSpace(replace(PRESETS["hnag-small"], **ranges)).default_candidate()
    described, data = read_student(kept_student(run)), evaluator.data
    student = Student(evaluator.student_spec(family, 0), seed=0).train()
    with torch.no_grad():
        for _ in range(30):  # batch norms need statistics
            student(data.normalise(data.train_images))
    plain, content = in_both(student.eval(), described, data)
    network = FakeQuantised(plain, content, described.mean, described.std)
    with torch.no_grad():
        got = network(data.normalise(data.val_images)).numpy()
    expected = node_by_node(content, int8.as_input(data.val_images))
    steps = np.rint(np.abs(got - expected) / network.constants["logits_scale"].item())
    assert (steps > 0).mean() < most
    assert (steps > 5).mean() < 0.01


def test_what_has_learned_nothing_is_the_file_of_calibration(run, evaluator):
    described = read_student(kept_student(run))
    plain, content = in_both(load_student(kept_student(run)), described, evaluator.data)
    before, after = (
        {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_from_string(file).graph.initializer}
        for file in (content, FakeQuantised(plain, content, described.mean, described.std).file())
    )
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert after[name].dtype == values.dtype
        # dividing by a step, or multiplying by its inverse, rounds a few in the middle otherwise
        far = np.abs(after[name].astype(np.float64) - values) > (1 if name.endswith("_quantized") else 0)
        assert not far.any(), name
        assert np.mean(after[name] != values) < 0.05, name


@pytest.fixture(scope="module")
def losing(cluttered_data, cluttered_teacher, tmp_path_factory):
    """A trained student with depthwise convolutions, and its 8 bits with steps 16 times too wide."""
    folder = tmp_path_factory.mktemp("losing")
    data = replace(cluttered_data, task=replace(cluttered_data.task, max_params=4000))
    evaluator = KDEvaluator(data.task, data=data, teacher=cluttered_teacher.network)
    space = HNAGSpace(replace(PRESETS["hnag-small"], operations=("separable3x3",)))
    train_family(evaluator, space.default_candidate(), n_students=1, seed=0, out=folder)
    described = read_student(kept_student(folder))
    return evaluator, described, *in_both(load_student(kept_student(folder)), described, data, spread=16)


def test_fine_tuning_makes_up_for_rounding_by_the_training_split(losing):
    evaluator, described, plain, content = losing
    data, told, read = evaluator.data, [], evaluator.data.test_reads
    whole, before = val_accuracy(plain, data), val_accuracy(content, data)
    tuned = fine_tuned(plain, content, described, evaluator, 2, told.append)
    after = val_accuracy(tuned, data)
    assert before < whole - 0.05
    assert after > before + 0.03
    assert [text[:22] for text in told] == ["8 bits: 1 of 2 epochs,", "8 bits: 2 of 2 epochs,"]
    network = FakeQuantised(plain, tuned, described.mean, described.std)
    calibrated = FakeQuantised(plain, content, described.mean, described.std)
    assert network.scales == calibrated.scales
    for name in calibrated.constants.keys() - calibrated.learned.keys():  # scales and zero points are as they were
        assert torch.equal(network.constants[name], calibrated.constants[name])
    assert tuned == fine_tuned(plain, content, described, evaluator, 2)
    assert data.test_reads == read
    blind = replace(data, val_images=torch.zeros_like(data.val_images), val_labels=torch.zeros_like(data.val_labels))
    evaluator.data = blind
    assert tuned == fine_tuned(plain, content, described, evaluator, 2)


@pytest.fixture
def ready(run, evaluator, monkeypatch):
    """The run as `export` finds it; its own evaluator trains."""
    evaluator.task.to_yaml(run / TASK)
    monkeypatch.setattr("naslib_autokd.data.load.load_data", lambda task: evaluator.data)
    monkeypatch.setattr("naslib_autokd.shipping.members.evaluator_of", lambda run, **training: evaluator)
    return run


@pytest.mark.parametrize("accuracy", [0.85, 0.8, None])
def test_the_better_one_is_kept_and_told(ready, tmp_path, monkeypatch, capsys, accuracy):
    def other(plain, content, *rest):
        network = FakeQuantised(plain, content, (0.0,), (1.0,))
        network.learned["bias_2_quantized"].data.fill_(0.123)
        return None if accuracy is None else network.file()

    measured, accuracies = int8.report, iter([0.8, accuracy])
    monkeypatch.setattr(quantisation_aware, "fine_tuned", other)
    monkeypatch.setattr(
        int8, "report", lambda *given: replace(measured(*given), float_accuracy=0.9, int8_accuracy=next(accuracies))
    )
    path = tmp_path / "student.onnx"
    words = ["export", str(ready), "--int8", "--int8-fine-tune", "3", "--max-drop", "20", "--out", str(path), "--json"]
    assert cli.main(words) == 0
    said = json.loads(capsys.readouterr().out)["int8"]
    assert said["fine_tuning"] == {"epochs": 3, "calibrated_accuracy": 0.8, "accuracy": accuracy}
    kept = accuracy == 0.85
    assert said["int8_accuracy"] == (0.85 if kept else 0.8)
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    bias = constants["bias_2_quantized"] * constants["bias_2_quantized_scale"]
    assert bool(np.allclose(bias, 0.123, atol=1e-3)) == kept
    found = "it diverged" if accuracy is None else f"{100 * accuracy:.2f} %"
    assert (
        f"calibrated 80.00 %, after 3 epochs of fine-tuning in 8 bits {found}: the "
        f"{'fine-tuned' if kept else 'calibrated'} weights are kept"
    ) in (tmp_path / "model_card.md").read_text()


def test_a_training_that_diverges_is_no_file(run, evaluator, monkeypatch):
    described = read_student(kept_student(run))
    files = in_both(load_student(kept_student(run)), described, evaluator.data)
    monkeypatch.setattr(evaluator, "kd_loss", lambda student, *given, **settings: student.sum() * float("nan"))
    assert fine_tuned(*files, described, evaluator, 2) is None


@pytest.mark.parametrize(("accuracy", "advised"), [(0.893, True), (0.896, False)])
def test_who_loses_more_than_half_a_point_is_told_of_it(ready, tmp_path, monkeypatch, capsys, accuracy, advised):
    measured = int8.report
    monkeypatch.setattr(
        int8, "report", lambda *given: replace(measured(*given), float_accuracy=0.9, int8_accuracy=accuracy)
    )
    words = ["export", str(ready), "--int8", "--out", str(tmp_path / "student.onnx")]
    assert cli.main(words) == 0
    assert ("8 bits cost 0.70 points: --int8-fine-tune 5 trains" in capsys.readouterr().err) == advised
    assert cli.main([*words, "--max-drop", "0.1"]) == 2
    assert ("--int8-fine-tune 5 trains" in capsys.readouterr().err) == advised
    assert cli.main([*words, "--int8-fine-tune", "1", "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert "8 bits: 1 of 1 epochs, loss" in captured.err
    assert "--int8-fine-tune" not in captured.err
    assert "after 1 epochs of fine-tuning in 8 bits" in captured.out


def test_epochs_without_8_bits_are_refused(run):
    with pytest.raises(ExportError, match="int8_fine_tune is of int8"):
        export(run, int8_fine_tune=1)
    with pytest.raises(ExportError, match="at least 1 epoch, got 0"):
        export(run, int8=True, int8_fine_tune=0)
