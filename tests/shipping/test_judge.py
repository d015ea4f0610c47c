"""A student's file is judged as it would be used, on pictures that are decoded as in training."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from scipy import stats
from torch.nn import functional as F

from naslib_autokd import cli, load_student
from naslib_autokd.evaluators.judgement import N_BINS, calibration
from naslib_autokd.runners.statistics import calibration_error
from naslib_autokd.shipping.export import export
from naslib_autokd.shipping.judge import JudgeError, judge
from naslib_autokd.shipping.student_file import kept_student


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export(run, out=tmp_path_factory.mktemp("exported") / "student.onnx").path


@pytest.fixture
def pictures(evaluator, tmp_path):
    """The first 60 validation images as PNG files in class folders, with a frame at both sides."""
    data = evaluator.data
    for index in range(60):
        folder = tmp_path / "new" / data.classes[int(data.val_labels[index])]
        folder.mkdir(parents=True, exist_ok=True)
        square = data.val_images[index, 0].numpy()
        Image.fromarray(np.pad(square, ((0, 0), (3, 3)))).save(folder / f"{index:03}.png")
    return tmp_path / "new"


def test_accuracy_classes_and_calibration_are_those_of_the_module(run, exported, evaluator, pictures):
    data = evaluator.data
    with torch.no_grad():
        logits = load_student(kept_student(run))(data.normalise(data.val_images[:60]))
    labels, called = data.val_labels[:60], logits.argmax(dim=1)
    right = int((called == labels).sum())
    for file in (exported, run):
        found = judge(file, pictures)
        assert (found.n, found.accuracy) == (60, right / 60)
        assert found.interval == tuple(stats.binomtest(right, 60).proportion_ci(method="wilson"))
        for index, one in enumerate(found.per_class):
            assert one["name"] == data.classes[index]
            assert one["n"] == int((labels == index).sum())
            assert one["right"] == int(((labels == index) & (called == index)).sum())
            assert found.confusion[index] == [int(((labels == index) & (called == k)).sum()) for k in range(10)]
        assert found.calibration_error == pytest.approx(calibration_error(calibration(logits, labels)), abs=1e-5)
        assert found.latency_ms > 0
        assert not found.own_test_split
        assert found.stated_accuracy is None


def test_calibration_error_is_that_of_the_literature():
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 4, generator=rng) * 2, torch.randint(4, (500,), generator=rng)
    confidence, called = F.softmax(logits.double(), dim=1).max(dim=1)
    bins = np.minimum((confidence.numpy() * N_BINS).astype(int), N_BINS - 1)
    expected = sum(
        (bins == b).mean() * abs((called == labels).numpy()[bins == b].mean() - confidence.numpy()[bins == b].mean())
        for b in set(bins)
    )
    assert calibration_error(calibration(logits, labels)) == pytest.approx(expected)


def test_pictures_that_the_student_was_trained_or_chosen_on_are_noticed(run, exported, pictures, evaluator, capsys):
    for file in (exported, run):  # the pictures are of the validation split
        assert judge(file, pictures).seen == {"share": 1.0, "n_seen": 60, "n_told": 60}
    assert cli.main(["test", str(exported), str(pictures)]) == 0
    assert "beware: it was trained or chosen on all of these pictures (60 of the 60 that" in capsys.readouterr().out
    for index, file in enumerate(sorted(pictures.rglob("*.png"))):
        if index < 30:
            with Image.open(file) as image:
                image.point(lambda grey: 255 - grey).save(file)
        elif index == 30:
            train = evaluator.data.train_images[5, 0].numpy()
            Image.fromarray(train).save(file)
    assert judge(exported, pictures).seen == {"share": 0.5, "n_seen": 30, "n_told": 60}
    assert cli.main(["test", str(exported), str(pictures), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seen"]["share"] == 0.5


def test_a_file_that_does_not_tell_what_it_has_seen_says_so(exported, pictures, tmp_path, capsys):
    model = onnx.load(str(exported))
    kept = {one.key: one.value for one in model.metadata_props if one.key != "seen"}
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, str(tmp_path / "older.onnx"))
    assert cli.main(["test", str(tmp_path / "older.onnx"), str(pictures)]) == 0
    assert "whether it was trained on these pictures is not known" in capsys.readouterr().out
    onnx.helper.set_model_props(model, {**kept, "seen": '{"whole": true}'})
    onnx.save(model, str(tmp_path / "damaged.onnx"))
    with pytest.raises(JudgeError, match="no sample of seen pictures"):
        judge(tmp_path / "damaged.onnx", pictures)


def test_a_folder_with_a_test_split_is_judged_on_it(exported, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "all" / "test")
    (tmp_path / "all" / "train").mkdir()
    assert judge(exported, tmp_path / "all").n == 60


def test_classes_without_pictures_and_unreadable_files_are_told(exported, pictures):
    shutil.rmtree(pictures / "3")
    (pictures / "4" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    found = judge(exported, pictures)
    assert "1 unreadable left out, none of 3" in found.pictures
    assert found.per_class[3]["accuracy"] is None


def test_what_cannot_be_judged_is_refused_with_what_to_do(run, exported, pictures, tmp_path):
    with pytest.raises(JudgeError, match="belongs to no run"):
        judge(exported)
    for name in ("gone.onnx", "gone.ONNX"):
        with pytest.raises(JudgeError, match="does not exist"):
            judge(tmp_path / name, pictures)
    with pytest.raises(JudgeError, match="which is not judged: give the run"):
        judge(tmp_path / "student.pt2", pictures)
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(JudgeError, match="cannot load it"):
        judge(tmp_path / "x.onnx", pictures)
    with pytest.raises(JudgeError, match="is no folder"):
        judge(exported, tmp_path / "nowhere")
    (pictures / "eleven").mkdir()
    with pytest.raises(JudgeError, match="eleven is no class of the student"):
        judge(exported, pictures)
    (tmp_path / "odd" / "cats").mkdir(parents=True)
    with pytest.raises(JudgeError, match="has no folder named as a class"):
        judge(exported, tmp_path / "odd")
