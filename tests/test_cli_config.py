"""Configuration files: the options of a command under the same names, checked with line numbers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from naslib_autokd.cli import build_parser, main
from naslib_autokd.commands import _config
from naslib_autokd.commands._again import words as words_of
from naslib_autokd.commands._options import parse_options
from naslib_autokd.commands._parser import leaves
from naslib_autokd.commands._types import objective, settings_of

EXAMPLE = Path(__file__).parents[1] / "examples" / "search.yaml"
CONFIGURABLE = [
    command.prog.partition(" ")[2] for command in leaves(build_parser()) if "--config" in command._option_string_actions
]


def parse(*words: str) -> dict[str, Any]:
    found = vars(build_parser().parse_args(words))
    return {name: value for name, value in found.items() if name not in ("command_parser", "config", "run")}


def file(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text)
    return str(path)


def test_commands_with_more_than_a_few_options_take_a_file() -> None:
    assert {"search", "evaluate", "sample", "ablate", "compare-kd", "bench build", "bench verify"} <= set(CONFIGURABLE)
    assert {"teacher train", "teacher check"} <= set(CONFIGURABLE)


def test_a_file_says_what_the_command_line_would(tmp_path: Path) -> None:
    config = file(
        tmp_path,
        """\
task: digits
trials: 7
student_epochs: 1e2  # either sign between the words; YAML alone takes 1e2 for text
max-memory: 64MB
max-inference-memory: 1048576
objectives: [error, macs]
option: {fidelity: full, n-initial: 4}
loggers: tensorboard
teacher:  # nothing: the default
out: runs/x
""",
    )
    typed = "--task digits --trials 7 --student-epochs 100 --max-memory 64MB --max-inference-memory 1048576"
    typed += " --objectives error,macs --option fidelity=full --option n-initial=4 --loggers tensorboard --out runs/x"
    read, said = parse("search", "--config", config), parse("search", *typed.split())
    assert (
        parse_options(read.pop("option")) == parse_options(said.pop("option")) == {"fidelity": "full", "n_initial": 4}
    )
    assert read == said
    assert parse("search", f"--config={config}")["trials"] == 7


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    config = file(tmp_path, "trials: 7\nseed: 3\nout: there\noption: {fidelity: full, eta: 4}\nobjectives: error\n")
    for words in (
        ["--config", config, "--trials", "9", "--out=here"],
        ["--out=here", "--trials=9", "--config", config],
    ):
        options = parse("search", *words, "--option", "eta=2")
        assert (options["trials"], options["seed"], options["out"]) == (9, 3, Path("here"))
        assert parse_options(options["option"]) == {"fidelity": "full", "eta": 2}  # of a mapping, single keys
    students = file(tmp_path, "student: [resnet8, vgg8]\nout: runs/kd\n")
    assert parse("compare-kd", "--config", students)["student"] == ["resnet8", "vgg8"]
    assert parse("compare-kd", "--config", students, "--student", "resnet20")["student"] == ["resnet20"]
    study = file(tmp_path, "study: optimizers\ntask: cluttered-digits\n")
    assert parse("ablate", "--config", study)["study"] == "optimizers"
    changed = parse("ablate", "levels", "--config", study, "--benchmark", "mine.npz")
    assert (changed["study"], changed["task"], changed["benchmark"]) == ("levels", None, "mine.npz")


def test_numbers_of_a_list_are_read_as_typed(tmp_path: Path) -> None:
    config = file(tmp_path, "teacher: t.pt\nmean: [0.5, 0.25, 0.125]\n")
    assert parse("teacher", "check", "--config", config)["mean"] == (0.5, 0.25, 0.125)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\ntrails: 3", "line 2: unknown key 'trails' for search; did you mean 'trials'"),
        ("json: true", "line 1: unknown key 'json' for search"),
        ("seed: 1\n\ntrials: three", "line 3: trials must be a whole number, got 'three'"),
        ("trials: 2.5", "trials must be a whole number, got 2.5"),
        ("trials: true", "trials must be a whole number, got True"),
        ("max-seconds: soon", "max-seconds must be a number, got 'soon'"),
        ("trials: 3\nseed: 1\ntrials: 4", "line 3: key 'trials' appears twice"),
        ("max_params: 3\nmax-params: 4", "line 2: 'max-params' appears twice"),
        ("objective: kdd", "line 1: objective must be kd, ce or MODULE:FUNCTION, got 'kdd'"),
        ("continue-from-checkpoint: 1", "continue-from-checkpoint must be true or false, got 1"),
        ("option: fidelity", "option must be a mapping of names to values"),
        ("teacher: yes", "teacher must be text (in quotes), got True"),
        ("teacher: {a: 1}", "teacher must be text (in quotes), got {'a': 1}"),
        ("command: ablate", "line 1: this is a configuration of 'naslib-autokd ablate', not of search"),
        ("- trials", "a configuration has keys and values, such as 'trials: 24'"),
        ("seed: 1\ntrials: [", "line 3: not valid YAML"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = file(tmp_path, text + "\n")
    with pytest.raises(SystemExit, match="2"):
        main(["search", "--config", config, "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(f"naslib-autokd: error: {config}")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_what_excludes_each_other_is_refused_in_a_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["ablate", "--config", file(tmp_path, "study: levels\ntask: digits\nbenchmark: x\n")])
    assert "task and benchmark exclude each other; give one" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SystemExit, match="2"):
            main(["search", "--config", str(path), "--out", "x"])
        assert f"--config {path} cannot be read: " in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["search", "--config"])
    assert "--config needs a value" in capsys.readouterr().err


def parser_of(name: str) -> argparse.ArgumentParser:
    return next(parser for parser in leaves(build_parser()) if parser.prog.partition(" ")[2] == name)


def every_option(name: str) -> list[str]:
    """Words that give every option of a command another value than its default."""
    words = name.split()
    for index, action in enumerate(settings_of(parser_of(name))):
        if not action.option_strings or action.dest == "benchmark":  # excluded by --task
            continue
        kind = getattr(action.type, "kind", action.type)
        value = {
            int: str(index + 4),
            float: "0.5",
            None: f"text{index}",
            Path: f"folder/{index}",
            objective: "my:loss",
        }.get(kind)
        if action.nargs == 0:
            words.append(action.option_strings[0])
        elif isinstance(action, argparse._AppendAction):
            given = ["a=1e-05", "b=[1, two]"] if action.metavar == "NAME=VALUE" else ["one", "two"]
            words += [word for each in given for word in (action.option_strings[0], each)]
        else:
            words += [action.option_strings[0], str(action.choices[-1]) if action.choices else value or "0.1,0.2,0.3"]
    return words


@pytest.mark.parametrize("name", CONFIGURABLE)
def test_what_is_kept_repeats_the_command(name: str, tmp_path: Path) -> None:
    """For every command: what a run was asked for, written and read back, is what it was asked for."""
    named = [f"runs/{a.dest}" for a in parser_of(name)._actions if a.required and not a.option_strings]
    typed = [*every_option(name), *named]
    _config.keep(build_parser().parse_args(typed), tmp_path)
    stored = yaml.safe_load((tmp_path / _config.FILE).read_text())
    assert stored["command"] == name
    first, again = parse(*typed), parse(*name.split(), *named, "--config", str(tmp_path / _config.FILE))
    printed = words_of(parser_of(name), again)
    assert printed[: 1 + len(name.split())] == ["naslib-autokd", *name.split()]
    by_hand = parse(*printed[1:], *named)
    if "option" in first:
        options = [parse_options(each.pop("option")) for each in (first, again, by_hand)]
        assert options[0] == options[1] == options[2]
    assert first == again == by_hand


def test_every_number_on_the_command_line_has_a_range() -> None:
    for command in leaves(build_parser()):
        for action in command._actions:
            assert action.type not in (int, float), f"{command.prog} {action.dest}: give it a Number"


def test_the_example_is_a_search_and_its_run_repeats_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = set(yaml.safe_load(EXAMPLE.read_text()))
    assert {"task", "optimizer", "option", "trials", "seed"} <= stated
    monkeypatch.chdir(tmp_path)
    task = tmp_path / "small.yaml"
    task.write_text(
        "dataset: cluttered-digits\nname: small\nn_train: 64\nn_teacher: 800\nn_val: 300\nn_test: 300\n"
        "min_budget_epochs: 1\nmax_budget_epochs: 3\nteacher_epochs: 3\nmin_teacher_accuracy: 0.0\n"
    )
    small = ["--task", str(task), "--trials", "2", "--finals", "1"]
    assert main(["search", "--config", str(EXAMPLE), *small, "--out", "run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kept = yaml.safe_load(Path("run/config.yaml").read_text())
    assert kept["option"] == {"fidelity": "hyperband", "eta": 3}
    assert (kept["trials"], kept["max-memory"], kept["out"]) == (2, "16MB", "run")
    trials = Path("run/trials.jsonl").read_bytes()
    assert main(["search", "--config", "run/config.yaml", "--json"]) == 0  # the same run: nothing is trained again
    assert json.loads(capsys.readouterr().out)["candidate"] == found["candidate"]
    assert Path("run/trials.jsonl").read_bytes() == trials
    assert main(["search", "--config", "run/config.yaml", "--seed", "1"]) == 2
    assert "seed: 0 there, 1 asked for" in capsys.readouterr().err
