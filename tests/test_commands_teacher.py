"""``naslib-autokd teacher``: what it prints, keeps and answers, and one clear line for every kind of bad input."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from naslib_autokd.cli import build_parser, main
from naslib_autokd.teachers.check import as_csv

TINY_TASK = """\
dataset: cluttered-digits
name: tiny
n_train: 64
n_teacher: 600
n_val: 300
n_test: 100
min_teacher_accuracy: 0.0
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "tiny.yaml"
    path.write_text(TINY_TASK)
    return path


@pytest.fixture(scope="module")
def trained(tiny: Path, cache_folder: str) -> Path:
    """After four epochs it names about half of the images correctly."""
    out = tiny.parent / "teacher.safetensors"
    command = ["teacher", "train", "--task", str(tiny), "--architecture", "resnet-small", "--epochs", "4"]
    assert main([*command, "--out", str(out)]) == 0
    return out


def test_a_trained_teacher_states_all_that_it_needs(trained: Path) -> None:
    with safe_open(trained, framework="pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert metadata["architecture"] == "resnet-small"
    assert metadata["classes"] == [str(digit) for digit in range(10)]
    assert metadata["input"] == [1, 12, 12]
    assert metadata["task"] == "tiny"
    assert 0.35 < metadata["val_accuracy"] < 1
    assert 1 <= metadata["epoch"] <= 4


def test_check_finds_what_training_stated(trained: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teacher", "check", "--task", str(tiny), "--teacher", str(trained), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] is True
    assert found["problem"] is None
    assert found["val_accuracy"] == pytest.approx(found["stated_val_accuracy"], abs=0.01)
    assert found["n_params"] == sum(
        value.numel() for name, value in load_file(trained).items() if "running" not in name and "tracked" not in name
    )
    assert found["macs"] > 100_000
    assert found["train_memory_bytes"] > found["inference_memory_bytes"] > 4 * found["n_params"]
    assert main(["teacher", "check", "--task", str(tiny), "--teacher", str(trained)]) == 0
    text = capsys.readouterr().out
    for part in ("resnet-small", "1x12x12, mean", "of 300 validation images, floor 19.0%", "can be used for 'tiny'"):
        assert part in text


def test_memory_on_the_meta_device_is_that_of_a_real_step(
    trained: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from naslib_autokd.distillation.costs import count_macs, train_memory
    from naslib_autokd.teachers.names import parse_architecture
    from naslib_autokd.teachers.networks import build_network

    main(["teacher", "check", "--task", str(tiny), "--teacher", str(trained), "--json"])
    found = json.loads(capsys.readouterr().out)
    network, _ = build_network(parse_architecture("resnet-small"), 1, 10)
    assert found["macs"] == count_macs(network, (1, 12, 12))
    assert found["train_memory_bytes"] == pytest.approx(train_memory(network, (1, 12, 12), 32), rel=0.02)


def test_a_state_dict_is_checked_restated_and_saved(
    trained: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an engineer brings: a .pth of an architecture, trained with a normalisation that only they know."""
    plain, out = tmp_path / "model.pth", tmp_path / "stated.safetensors"
    torch.save({"state_dict": {f"module.{name}": value for name, value in load_file(trained).items()}}, plain)
    command = ["teacher", "check", "--task", str(tiny), "--teacher", str(plain)]
    command += ["--teacher-architecture", "resnet-small"]
    assert main([*command, "--mean", "0.8", "--std", "0.1"]) == 2
    assert "with the task's normalisation as input it reaches" in capsys.readouterr().err
    with safe_open(trained, framework="pt") as file:
        mean, std = (json.loads(file.metadata()[key])[0] for key in ("mean", "std"))
    assert main([*command, "--mean", str(mean), "--std", str(std), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "the prefix 'module.' was cut off" in text
    assert f"kept: {out}" in text
    assert main(["teacher", "check", "--task", str(tiny), "--teacher", f"{out},{trained}", "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["n_members"] == 2
    assert both["n_params"] > 2 * 30_000


OWN_NETWORK = """\
from torch import nn
from naslib_autokd.teachers.names import ARCHITECTURES
from naslib_autokd.teachers.networks import SmallResNet


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = SmallResNet(1, 10, ARCHITECTURES["resnet-small"])

    def forward(self, images):
        logits = self.body(images)
        return {"embedding": logits[:, :3], "logits": logits}
"""


def test_a_network_of_ones_own_with_a_file_of_weights_is_checked_restated_and_read_again(
    trained: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its code is named by who types the command; a file that names code has none run."""
    monkeypatch.chdir(tmp_path)
    Path("own_network.py").write_text(OWN_NETWORK)
    with safe_open(trained, framework="pt") as file:
        mean, std = (str(json.loads(file.metadata()[key])[0]) for key in ("mean", "std"))
    order = [3, 7, 0, 1, 9, 8, 2, 4, 5, 6]
    weights = load_file(trained)
    weights |= {key: weights[key][order] for key in ("head.weight", "head.bias")}
    torch.save({"state_dict": {f"model.body.{name}": value for name, value in weights.items()}}, "lightning.ckpt")
    command = ["teacher", "check", "--task", str(tiny)]
    own = [*command, "--teacher", "own_network:Own@lightning.ckpt"]

    assert main(own) == 2
    told = capsys.readouterr()
    names = ",".join(map(str, order))
    assert f"(--classes {names} of 'naslib-autokd teacher check')" in told.err
    assert "it does not state its input: taken to be the task's" in told.out
    torch.save({"conv.weight": torch.zeros(4, 1, 3, 3)}, "other.pth")
    assert main([*command, "--teacher", "other.pth"]) == 2
    assert "the file does not state its architecture" in capsys.readouterr().err

    stated = ["--classes", names, "--mean", mean, "--std", std]
    assert main([*own, *stated, "--out", "stated.safetensors"]) == 0
    told = capsys.readouterr()
    assert "does not state its input" not in told.out
    assert "kept: stated.safetensors; as a teacher it is own_network:Own@stated.safetensors" in told.out
    accuracies = []
    for teacher in ("own_network:Own@stated.safetensors", str(trained)):
        assert main([*command, "--teacher", teacher, "--json"]) == 0
        accuracies.append(json.loads(capsys.readouterr().out)["class_accuracy"])
    assert accuracies[0] == accuracies[1]

    monkeypatch.setitem(sys.modules, "own_network", None)  # an import of it fails
    assert main([*command, "--teacher", "stated.safetensors"]) == 2
    assert "no file has code run: if it is yours, give own_network:Own@stated.safetensors" in capsys.readouterr().err


def test_what_a_module_of_ones_own_takes_is_said(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_made.py").write_text(OWN_NETWORK)
    command = ["teacher", "check", "--task", str(tiny), "--teacher", "own_made:Own"]
    assert main(command) == 2
    assert "it does not state its input: taken to be the task's: mean 0." in capsys.readouterr().out
    assert main([*command, "--input-size", "24"]) == 2
    told = capsys.readouterr().out
    assert "neither it nor you state is taken: mean 0." in told
    assert "24 pixels, resized from 12 to 24" in told
    assert main([*command[:-1], "torchvison:resnet18"]) == 2
    assert "did you mean 'torchvision'?" in capsys.readouterr().err


def test_a_teacher_that_cannot_be_used_is_shown_and_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from naslib_autokd.distillation.training import seeded
    from naslib_autokd.teachers.zoo import build

    with seeded(0):
        torch.save(build("resnet8x0.5", 1, 10).state_dict(), tmp_path / "fresh.pt")
    command = ["teacher", "check", "--task", str(tiny), "--teacher", f"zoo:resnet8x0.5@{tmp_path / 'fresh.pt'}"]
    assert main([*command, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] is False
    assert "looks untrained" in found["problem"]
    assert found["val_accuracy"] < 0.2
    assert main(command) == 2
    assert "looks untrained" in capsys.readouterr().err


def test_an_interrupted_training_keeps_its_best_epoch(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from naslib_autokd.commands import teacher as command

    out = tmp_path / "t.safetensors"
    real = command.time.perf_counter
    calls: list[float] = []

    def clock() -> float:  # read once before, and once after each epoch
        calls.append(real())
        if len(calls) == 3:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(command, "time", type("Clock", (), {"perf_counter": staticmethod(clock)}))
    arguments = ["teacher", "train", "--task", str(tiny), "--architecture", "resnet8x0.5", "--out", str(out)]
    assert main([*arguments, "--epochs", "5"]) == 130
    assert f"the best epoch so far is kept in {out}" in capsys.readouterr().err
    assert load_file(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--out", "teacher.pt"], "--out must be a .safetensors file"),
        (["train", "--out", "nowhere/t.safetensors"], "the folder nowhere of --out does not exist"),
        (["train", "--out", "t.safetensors", "--epochs", "0"], "--epochs must be at least 1"),
        (["train", "--out", "t.safetensors", "--lr", "0"], "--lr must be more than 0"),
        (["train", "--out", "t.safetensors", "--input-size", "1"], "--input-size must be at least 4"),
        (["train", "--out", "there.safetensors"], "is there already; give another --out, or --overwrite"),
        (["train", "--out", "t.safetensors", "--architecture", "resnet-smal"], "did you mean 'resnet-small'"),
        (["train", "--out", "t.safetensors", "--threads", "0"], "--threads must be at least 1"),
        (["check", "--teacher-architecture", "resnet-small"], "give --teacher FILE too"),
        (["check", "--teacher", "gone.pth"], "gone.pth does not exist"),
        (["check", "--teacher", "model.pt2"], "falls back to unpickling"),
        (["check", "--classes", "0,0"], "different names with commas between"),
        (["check", "--task", "flowers103"], "did you mean 'flowers102'"),
        (["check", "--task", "mit67"], "needs data_dir (--data-dir)"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.safetensors").touch()
    task = [] if "--task" in arguments else ["--task", str(tiny)]
    try:
        status = main(["teacher", *arguments, *task])
    except SystemExit as exit:  # what the parser refuses
        status = int(exit.code or 0)
    assert status == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("naslib-autokd: error: ")
    assert message in error


def test_numbers_that_are_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["teacher", "check", "--mean", "a,b"])
    assert "numbers with commas between, such as 0.485,0.456,0.406" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("cat", "dog"), ("ship, big", 'a "b"', "9", "it's"), ('"a"', ",")])
def test_the_order_of_classes_that_is_told_can_be_typed(names: tuple[str, ...]) -> None:
    """Names of folders may have commas and quotes."""
    typed = ["teacher", "check", "--classes", as_csv(names)]
    assert build_parser().parse_args(typed).classes == names
    typed[-1] = "\n".join(names) + "\n"
    assert build_parser().parse_args(typed).classes == names


def test_names_are_listed_by_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teacher", "list", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)
    assert "resnet-small" in names["ours"]
    assert "resnet32x4" in names["zoo"]
    assert "resnet18" in names["torchvision"]
    assert "timm" in names


def contents(path: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}, metadata


def test_the_same_command_goes_on_with_a_training_that_was_stopped(
    trained: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from naslib_autokd.reports.terminal import Live

    out = tmp_path / "teacher.safetensors"
    command = ["teacher", "train", "--task", str(tiny), "--architecture", "resnet-small", "--epochs", "4"]
    command += ["--out", str(out)]
    shown: list[str] = []

    def stop(live: Live, fraction: float, text: str, *_: object) -> None:
        shown.append(text)
        if len(shown) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Live, "show", stop)
        assert main(command) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert out.exists()
    assert main(command) == 0
    assert "going on with" in capsys.readouterr().err
    assert contents(out) == contents(trained)
    assert sorted(file.name for file in tmp_path.iterdir()) == [out.name]
    assert main(command) == 2, "it is there, finished"


def test_one_signal_finishes_the_running_epoch_and_another_training_of_the_file_is_refused(
    trained: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from naslib_autokd.reports.terminal import Live

    out = tmp_path / "teacher.safetensors"
    command = ["teacher", "train", "--task", str(tiny), "--architecture", "resnet-small", "--epochs", "4"]
    command += ["--out", str(out)]
    shown: list[str] = []

    def second(live: Live, fraction: float, text: str, *_: object) -> None:
        shown.append(text)
        if len(shown) == 2:
            for refused in (command, [*command, "--overwrite"]):
                assert main(refused) == 2
                assert out.with_name(f"{out.name}.unfinished").exists()
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Live, "show", second)
        assert main(command) == 130
    told = capsys.readouterr().err
    assert told.count(f"{out} is being written by another process") == 2
    assert "going on with" not in told
    assert "the same command continues" in told
    assert len(shown) == 2, "the epoch was finished, no other was begun"
    assert main(command) == 0
    assert not list(tmp_path.glob("*unfinished*"))
    assert not list(tmp_path.glob(".*"))
