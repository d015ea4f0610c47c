"""An exported student computes what the trained module computes, and says what it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from naslib_autokd import cli, load_student
from naslib_autokd.data import prepare_picture
from naslib_autokd.records import TrialStore, derive_seed
from naslib_autokd.runners.finals import read_finals
from naslib_autokd.runners.run_folder import RUN, TRIALS
from naslib_autokd.runners.search import search
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.shipping import export as module
from naslib_autokd.shipping.export import export
from naslib_autokd.shipping.student_file import ExportError, kept_student, read_student

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_exported_student.py"


def test_the_file_gives_back_the_student_that_was_trained(run, evaluator):
    described = read_student(kept_student(run))
    finals = [json.loads(json.dumps(record.result.to_dict())) for record in read_finals(run)]
    assert described.result == max(finals, key=lambda final: final["val_accuracy"])
    student = load_student(described.path)
    with torch.no_grad():
        logits = student(evaluator.data.normalise(evaluator.data.val_images))
    right = (logits.argmax(dim=1) == evaluator.data.val_labels).double().mean()
    assert float(right) == described.result["val_accuracy"]


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_exported_outputs_are_the_students_on_images_from_0_to_1(run, evaluator, tmp_path, format):
    done = export(run, format, tmp_path / f"student{module.FORMATS[format]}")
    runner = (module.onnx_runner if format == "onnx" else module.torch_export_runner)(done.path)
    images = evaluator.data.val_images[:50]
    with torch.no_grad():
        expected = load_student(kept_student(run))(evaluator.data.normalise(images))
    got = runner(images.float() / 255)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    assert done.difference < module.TOLERANCE


def test_an_exported_program_asks_for_no_memory_layout(run, tmp_path):
    done = export(run, "torch-export", tmp_path / "student.pt2")
    nodes = torch.export.load(done.path).graph.nodes
    assert any("batch_norm" in str(node.target) for node in nodes)
    assert not any("memory_format" in node.kwargs for node in nodes), "ExecuTorch's batch norm takes contiguous memory"


def test_the_onnx_file_needs_nothing_of_this_package(run, evaluator, tmp_path):
    from PIL import Image

    done = export(run, "onnx")
    assert done.path == run / "export" / "student.onnx"
    image = evaluator.data.val_images[3, 0].numpy().astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    command = [sys.executable, str(EXAMPLE), str(done.path), str(tmp_path / "image.png")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with torch.no_grad():
        logits = load_student(kept_student(run))(evaluator.data.normalise(evaluator.data.val_images[3:4]))
    assert answer.split()[0] == read_student(kept_student(run)).classes[int(logits.argmax())]
    assert "naslib_autokd" not in EXAMPLE.read_text()


def test_the_card_says_what_it_is_and_how_good(run, tmp_path):
    done = export(run, "safetensors", tmp_path / "student.safetensors")
    card = done.card.read_text()
    described = read_student(kept_student(run))
    for text in (
        f"{described.result['n_params']:,}",
        f"{100 * described.result['test_accuracy']:.1f} %",
        f"seed {described.result['seed']}",
        "`0`, `1`",
        described.result["name"],
    ):
        assert text in card
    assert done.path.read_bytes() == described.path.read_bytes()


def test_a_student_of_an_older_version_is_exported_with_a_warning(run, tmp_path, capsys):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    kept = kept_student(run)
    assert export(run, "safetensors", tmp_path / "new.safetensors").warning == ""
    with safe_open(kept, framework="pt") as file:
        metadata = file.metadata()
    del metadata["preparation"]
    save_file(load_file(kept), tmp_path / "old.safetensors", metadata)
    words = [
        "export",
        str(tmp_path / "old.safetensors"),
        "--format",
        "safetensors",
        "--out",
        str(tmp_path / "x.safetensors"),
    ]
    assert cli.main(words) == 0
    assert "beware: this student was trained by a version without" in capsys.readouterr().err
    assert "Beware: this student" in (tmp_path / "model_card.md").read_text()
    assert (tmp_path / "prepare_picture.py").read_bytes() == Path(prepare_picture.__file__).read_bytes()


def test_an_export_that_differs_is_refused_and_nothing_is_written(run, tmp_path, monkeypatch):
    def wrong(student, described, path):
        with torch.no_grad():
            student.classifier_bias[0] += 1.0
        module_write(student, described, path)
        with torch.no_grad():
            student.classifier_bias[0] -= 1.0

    module_write = module._write_torch_export
    monkeypatch.setattr(module, "_write_torch_export", wrong)
    with pytest.raises(ExportError, match="differs from the student"):
        export(run, "torch-export", tmp_path / "student.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no final students; give the run folder"),
        (lambda folder: (folder / "trials.jsonl").touch(), "its search has not ended"),
        (lambda folder: (folder / "finals.jsonl").write_text('{"torn'), "no finished final student"),
    ],
)
def test_runs_without_a_student_say_what_to_do(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ExportError, match=message):
        export(tmp_path, "safetensors")


def test_other_files_are_no_students(tmp_path, run):
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ExportError, match="cannot be read"):
        export(tmp_path / "x.safetensors", "safetensors")
    with pytest.raises(ExportError, match="did you mean 'onnx'"):
        export(run, "onx")
    with pytest.raises(ExportError, match=r"must end in \.pt2"):
        export(run, "torch-export", tmp_path / "student.onnx")


def test_the_command(run, tmp_path, capsys):
    assert cli.main(["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "s.safetensors")]) == 0
    assert "model_card.md" in capsys.readouterr().out
    assert cli.main(["export", str(tmp_path / "nowhere")]) == 2
    assert "no final students" in capsys.readouterr().err


def test_seeds_of_final_students_are_in_their_files(run):
    seeds = {read_student(run / "students" / f"student-{i}.safetensors").result["seed"] for i in range(2)}
    assert seeds == {derive_seed(0, "final", 0), derive_seed(0, "final", 1)}


def test_the_card_of_a_search_from_python_counts_its_trials(run, evaluator, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    space = HNAGSpace("hnag-small")
    search(evaluator.task, "random_search", evaluator=evaluator, space=space, n_trials=2, out=folder)
    trials = list(TrialStore(folder / TRIALS))
    epochs = sum(trial.student_epochs for trial in trials)
    assert f", 2 trials, {epochs} student-epochs" in export(folder, "safetensors").card.read_text()


def test_the_card_has_the_command_that_it_is_given(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / RUN).write_text("optimizer: autokd\nseed: 1\n")
    done = export(folder, "safetensors", command="naslib-autokd search --max-macs 7")
    assert "Again: `naslib-autokd search --max-macs 7`." in done.card.read_text()
    assert "Its settings: `run.yaml`, `task.yaml`." in export(folder, "safetensors").card.read_text()


@pytest.mark.parametrize(
    ("result", "value", "message"),
    [
        ({"status": "diverged"}, 0.0, "diverged in its training"),
        ({"epochs": 0.0}, 0.0, "was never trained"),
        ({}, float("nan"), "hold NaN or infinity"),
        ({}, float("inf"), "hold NaN or infinity"),
    ],
)
def test_a_student_without_usable_weights_is_never_shipped(run, tmp_path, result, value, message):
    from safetensors.torch import load_file, save_file

    kept = kept_student(run)
    state = {name: tensor + value if tensor.is_floating_point() else tensor for name, tensor in load_file(kept).items()}
    described = read_student(kept)
    fields = ("spec", "classes", "mean", "std", "input", "task")
    about = {name: getattr(described, name) for name in fields} | {"result": {**described.result, **result}}
    save_file(state, tmp_path / "s.safetensors", {key: json.dumps(text) for key, text in about.items()})
    for format in ("torch-export", "safetensors"):
        with pytest.raises(ExportError, match=message):
            export(tmp_path / "s.safetensors", format)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("file_gives", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers_are_no_agreement(run, monkeypatch, file_gives):
    described = read_student(kept_student(run))
    monkeypatch.setattr(
        module, "torch_export_runner", lambda path: lambda images: torch.full((len(images), 3), file_gives)
    )
    for network in (lambda images: torch.ones(len(images), 3), lambda images: torch.full((len(images), 3), file_gives)):
        assert module.compare(network, described, Path("x.pt2")) == float("inf")
