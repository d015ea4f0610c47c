"""All commands and options, walked through: help, examples that parse, one name and one meaning for the same thing."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from naslib_autokd.cli import build_parser, main
from naslib_autokd.commands._parser import leaves, subcommands, walk
from naslib_autokd.commands._types import name_of
from naslib_autokd.search_spaces import SEARCH_SPACES

ROOT = Path(__file__).parents[1]
PARSER = build_parser()
COMMANDS = {command.prog.partition(" ")[2]: command for command in leaves(PARSER)}

WITHOUT_JSON = {
    "bench build": "its result is the run folder, and `status --json` tells where it stands",
    "completion": "its result is a script",
}
OTHER_MEANING = {
    "--out": "a run folder, or the file that the command writes",
    "--device": "several devices need workers",
    "--workers": "`ablate` may run in its own process: 0",
    "--family": "of `export` one of the run's by its digest, of `compare-kd` a file",
    "--task": "of `ablate` the task of the benchmark",
}
"""Options whose help differs between commands, and why."""


def test_the_help_names_the_presets() -> None:
    preset = next(action for action in COMMANDS["search"]._actions if "--preset" in action.option_strings)
    assert f": {', '.join(SEARCH_SPACES)} (" in str(preset.help)


def test_the_commands_are_those_that_we_know() -> None:
    single = {"search", "status", "report", "export", "sample", "evaluate", "ablate", "compare-kd", "doctor"}
    assert {*single, "completion", "bench build", "bench query", "teacher train", "teacher check", "data check"} <= set(
        COMMANDS
    )
    assert set(WITHOUT_JSON) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help_and_every_command_an_example_that_parses(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = COMMANDS[name]
    monkeypatch.chdir(ROOT)  # of --config examples/search.yaml
    assert command.description
    for action in command._actions:
        assert action.help, f"{name}: {name_of(action)} has no help"
        assert action.help[-1] != ".", f"{name}: {name_of(action)}: help is a phrase"
    examples = re.findall(r"^(?:example: |  )naslib-autokd (.*)$", command.epilog or "", re.MULTILINE)
    assert examples, f"{name} has no example"
    for example in examples:
        words = shlex.split(re.split(r" > |;", example)[0])
        parsed = build_parser().parse_args(words)
        assert parsed.command_parser.prog == command.prog, f"the example of {name} is one of another command"


def test_groups_of_commands_have_help_and_examples() -> None:
    for group in walk(PARSER):
        if subcommands(group) is not None:
            assert group.description
            assert "naslib-autokd " in (group.epilog or "")


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(WITHOUT_JSON)))
def test_every_result_can_be_had_as_json_whose_keys_are_told(name: str) -> None:
    command = COMMANDS[name]
    assert "--json" in command._option_string_actions
    assert "--json prints " in (command.epilog or ""), f"{name} does not say what --json prints"


def inconsistencies(parsers: dict[str, argparse.ArgumentParser]) -> dict[str, list[str]]:
    """Options that mean different things in different commands: option -> what its help is where."""
    seen: dict[str, dict[tuple[object, ...], str]] = {}
    for name, command in parsers.items():
        for action in command._actions:
            text = re.sub(r" \(default: [^)]*\)", "", action.help or "")
            for option in action.option_strings:
                key = (text, action.type, action.metavar, tuple(action.choices or ()), type(action))
                seen.setdefault(option, {}).setdefault(key, name)
    return {option: [f"{n}: {key[0]}" for key, n in uses.items()] for option, uses in seen.items() if len(uses) > 1}


def test_the_same_option_is_the_same_everywhere() -> None:
    found = inconsistencies(COMMANDS)
    assert {option: uses for option, uses in found.items() if option not in OTHER_MEANING} == {}
    assert set(OTHER_MEANING) - set(found) == set(), "these do not differ any more"


def test_the_check_of_options_can_fail() -> None:
    one, two = argparse.ArgumentParser(), argparse.ArgumentParser()
    one.add_argument("--seed", type=int, help="everything random follows from it (default: 0)")
    two.add_argument("--seed", type=int, help="everything random follows from it")
    assert "--seed" not in inconsistencies({"one": one, "two": two})
    three = argparse.ArgumentParser()
    three.add_argument("--seed", type=float, help="everything random follows from it")
    assert "--seed" in inconsistencies({"one": one, "three": three})


def test_options_stand_in_groups_and_defaults_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit, match="0"):
        main(["search", "--help"])
    text = capsys.readouterr().out
    headings = re.findall(r"^(\w[\w ]+):$", text, re.MULTILINE)
    assert headings == [
        "task",
        "search space",
        "optimizer",
        "budget",
        "limits of a student",
        "latency",
        "workers and limits of a trial",
        "output",
        "options",
        "examples",
    ]
    assert text.startswith("usage: naslib-autokd search [options] --out DIR\n")
    assert "everything random follows from it (default: 0)" in text
    assert "name of the optimizer, or module:class (default: autokd)" in text
    assert "(default: None)" not in text
    assert "(default: False)" not in text
    shown = [line for line in text.splitlines() if "naslib-autokd" not in line]
    assert max(map(len, shown)) <= 100


def test_help_needs_no_heavy_package() -> None:
    code = (
        "import sys; from naslib_autokd.cli import build_parser; build_parser().format_help();"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "yaml", "rich", "altair", "vl_convert", "scipy", "smac", "shtab", "filelock", "dask"}
    assert not heavy & set(done.stdout.split())


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["bench"], ["teacher"]):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "commands:" in captured.err


@pytest.mark.parametrize("command", ["bench query --budget 9 --json", "ablate kd-settings --print", "ablate --list"])
def test_examples_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 0
    assert capsys.readouterr().out
