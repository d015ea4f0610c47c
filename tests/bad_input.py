"""A seeded generator of command lines and files that must be refused: every case holds something that is wrong.

``case(index)`` is always the same; `test_bad_input` runs them.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from naslib_autokd.cli import build_parser
from naslib_autokd.commands._parser import leaves
from naslib_autokd.commands._types import Number

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@dataclass
class Case:
    """One command line, with the files it names, and what is wrong with it."""

    words: list[str]
    wrong: str
    files: dict[str, bytes] = field(default_factory=dict)


def case(index: int) -> Case:
    rng = random.Random(f"bad input {index}")
    return rng.choice(KINDS)(rng)


@cache
def commands() -> dict[str, argparse.ArgumentParser]:
    """Commands that take something, by name."""
    return {
        name: command
        for command in leaves(build_parser())
        if (name := command.prog.partition(" ")[2]) not in ("completion", "doctor", "teacher list")
    }


NEEDED = {
    "search": ["--out", "run"],
    "bench build": ["--out", "run"],
    "bench verify": ["--out", "run"],
    "bench fit": ["run", "--out", "table.npz"],
    "bench importance": ["--out", "run"],
    "bench correlations": ["table.yaml"],
    "compare-kd": ["--out", "run"],
    "teacher train": ["--out", "teacher.safetensors"],
    "report": ["run"],
    "status": ["run"],
    "export": ["run"],
    "ablate": ["levels", "--out", "run"],
}
"""What a command cannot do without."""


def words_of(name: str) -> list[str]:
    return [*name.split(), *NEEDED.get(name, [])]


# --- the command line -----------------------------------------------------------------------------------------------


def bad_number(rng: random.Random, number: Number) -> str:
    """A text that is no number of this range."""
    low, high = number.low, number.high
    out = [repr(number.kind(low - 1)), repr(number.kind(high * 10)), "1" + "0" * 60, "-" + "9" * 30]
    if number.above:
        out += ["0", "-0.0"]
    never = ["nan", "inf", "-inf", "1e999", "", " ", "abc", "0x10", "1,5", "1;2", "--", "1e", "None", "true", "[1]"]
    never += ["9" * 5000, "1.5.2", "½", "1 000", "\x1b[31m5"]
    return rng.choice(out + never + (["1.5", "1e3"] if number.kind is int else []))


@cache
def valued() -> list[tuple[str, argparse.Action]]:
    """Options with values that can be wrong, of all commands."""
    return [
        (name, action)
        for name, command in sorted(commands().items())
        for action in command._actions
        if action.option_strings
        and action.nargs is None
        and (isinstance(action.type, Number) or action.choices or action.type is Path or action.dest in SIZES)
    ]


def option_value(rng: random.Random) -> Case:
    name, action = rng.choice(valued())
    if isinstance(action.type, Number):
        value = bad_number(rng, action.type)
    elif action.choices:
        value = rng.choice(["", "x", "KD", str(action.choices[0]) + "x", noise(rng)])
    elif action.dest in SIZES:
        value = rng.choice(["0", "", "-1GB", "1e400GB", "1.2.3MB", "nan", "inf", "5 parsecs", "GB", "1e99", noise(rng)])
    else:
        value = rng.choice(["", " ", "\t"])
    return Case([*words_of(name), f"{action.option_strings[0]}={value}"], f"{action.dest}={value!r:.40}")


SIZES = ("max_memory", "max_inference_memory", "trial_memory")


def noise(rng: random.Random) -> str:
    return "?" + "".join(rng.choices(string.printable.strip() + "äß→\x07\x1b", k=rng.randint(1, 40)))


def wrong_words(rng: random.Random) -> Case:
    name, action = rng.choice(valued())
    words, option = words_of(name), action.option_strings[0]
    kind = rng.choice(["typo", "no value", "unknown", "more", "command", "before"])
    if kind == "typo":
        return Case([*words, option[:3] + "q" + option[3:], "5"], "a misspelt option")
    if kind == "no value":
        return Case([*words, option], "an option without its value")
    if kind == "unknown":
        return Case([*words, "--" + rng.choice(["x", "yes", "force", "é", "a" * 5000])], "an unknown option")
    if kind == "command":
        return Case([words[0] + rng.choice(["x", "h", " "]), *words[1:]], "an unknown command")
    if kind == "before":
        return Case([option, "5", *words], "an option before its command")
    return Case([*words, "more", "and", noise(rng), "again"], "too many words")


def wrong_place(rng: random.Random) -> Case:
    """Names of files and folders that are not there, are of another kind, or hold noise."""
    content = rng.choice([b"", b"\0" * 100, rng.randbytes(200), b"PK\x03\x04junk", b"{}", b"[]", b"- 1\n", b"null\n"])
    name = rng.choice(["nothing", "junk", "folder/nothing", "x" * 300, "junk/inside", "a\nb"])
    words = rng.choice(
        [
            ["status", name],
            ["report", name],
            ["export", name],
            ["report", name, name],
            ["evaluate", "--candidate", name],
            ["sample", "--candidate", name],
            ["sample", "--run", name, "--draw", "x.svg"],
            ["compare-kd", "--family", name, "--out", "run"],
            ["bench", "info", f"{name}.npz"],
            ["bench", "query", f"{name}.npz"],
            ["bench", "fit", name, "--out", "t.npz"],
            ["bench", "correlations", name],
            ["evaluate", "--task", f"{name}.yaml"],
            ["evaluate", "--task", "imagefolder", "--data-dir", name],
            ["search", "--config", name, "--out", "run"],
            ["search", "--cluster", name, "--out", "run"],
            ["ablate", f"{name}.yaml"],
        ]
    )
    return Case(words, f"{words[-1]!r:.40} holds {content[:10]!r}", {"junk": content})


# --- files ----------------------------------------------------------------------------------------------------------

FAMILY = json.loads(
    '{"generator": {"top": {"n_nodes": 3, "k": 2, "p": 0.5}, "mid": {"n_nodes": 1, "p": 0.5}, "bottom": {"n_nodes": 5, '
    '"k": 4, "p": 0.6}, "stage_ratios": [0.25, 0.25, 0.5], "channel_growth": 0.7, "downsampling": "max", "operations": '
    '{"conv3x3": 1.0}, "top_merges": {"sum": 1.0}, "mid_merges": {"sum": 1.0}, "bottom_merges": {"sum": 1.0}, '
    '"head_ratio": 0.5}, "kd": {"temperature": 3.2, "kd_weight": 0.8}}'
)
TASK = {
    "dataset": "cluttered-digits",
    "image_size": 12,
    "max_params": 24000,
    "n_train": 64,
    "n_teacher": 600,
    "n_val": 200,
    "n_views": 2,
    "batch_size": 32,
    "teacher_epochs": 6,
    "min_budget_epochs": 3,
    "max_budget_epochs": 9,
    "min_teacher_accuracy": 0.5,
    "augmentation": "shift",
}
STUDY = {
    "name": "mine",
    "title": "A title",
    "question": "What is better?",
    "benchmark": "cluttered-digits",
    "full_trainings": 20,
    "seeds": 3,
    "methods": [{"label": "KD", "optimizer": "autokd"}, {"label": "Random", "optimizer": "random_search"}],
}
TABLE = {
    "name": "mine",
    "csv": "table.csv",
    "architecture": ["width"],
    "kd": ["method"],
    "fidelity": {"column": "epochs", "values": {"1": 1, "3": 3}},
    "validation_accuracy": "val",
    "test_accuracy": "test",
    "scale": "percent",
}
CSV = b"width,method,epochs,val,test\n1,kd,1,50,50\n1,kd,3,60,60\n2,kd,1,55,55\n2,kd,3,70,70\n"
CLUSTER = {"kind": "slurm", "workers": 2, "options": {"cores": 1, "memory": "1GB", "walltime": "01:00:00"}}
CONFIG = {"trials": 3, "seed": 1, "task": "cluttered-digits", "finals": 2, "max-seconds": 10.5}


def yaml_file(rng: random.Random) -> Case:
    content, name, words = rng.choice(
        [
            (TASK, "task.yaml", ["sample", "--task", "task.yaml"]),
            (TASK, "task.yaml", ["evaluate", "--task", "task.yaml"]),
            (TASK, "task.yaml", ["search", "--task", "task.yaml", "--out", "run"]),
            (TASK, "task.yaml", ["teacher", "check", "--task", "task.yaml"]),
            (TASK, "task.yaml", ["compare-kd", "--task", "task.yaml", "--out", "run"]),
            (STUDY, "study.yaml", ["ablate", "study.yaml", "--out", "run"]),
            (FAMILY, "family.yaml", ["sample", "--candidate", "family.yaml"]),
            (FAMILY, "family.yaml", ["evaluate", "--candidate", "family.yaml"]),
            (FAMILY, "family.yaml", ["bench", "query", "--candidate", "family.yaml"]),
            (FAMILY, "family.yaml", ["compare-kd", "--family", "family.yaml", "--out", "run"]),
            (TABLE, "table.yaml", ["bench", "correlations", "table.yaml"]),
            (CLUSTER, "cluster.yaml", ["search", "--cluster", "cluster.yaml", "--out", "run"]),
            (CONFIG, "config.yaml", ["search", "--config", "config.yaml", "--out", "run"]),
        ]
    )
    files = {"table.csv": CSV} if content is TABLE else {}
    if rng.random() < 0.5:
        text, wrong = structure(rng, yaml.safe_dump(content, sort_keys=False))
    else:
        text, wrong = value(rng, content)
    return Case(words, f"{name}: {wrong}", {name: text, **files})


def structure(rng: random.Random, text: str) -> tuple[bytes, str]:
    """YAML that is broken, or holds what is not read."""
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    head = next(line for line in lines if not line.startswith((" ", "-")))
    broken: list[tuple[str, Callable[[], bytes | str]]] = [
        ("a tag", lambda: f"{text}x: !!python/object/apply:os.system [ls]\n"),
        ("a merge key", lambda: f"{text}<<: {{a: 1}}\n"),
        ("a key twice", lambda: f"{text}{head.partition(':')[0]}: 1\n"),
        ("a bomb", lambda: BOMB + text),
        ("depth", lambda: f"{text}x: {'[' * rng.choice([60, 3000])}"),
        ("a tab", lambda: "\n".join([*lines[:at], "\t" + lines[at], *lines[at + 1 :]])),
        ("an open bracket", lambda: text + "x: ["),
        ("an open quote", lambda: text + 'x: "a'),
        ("a NUL", lambda: text[:at] + "\0" + text[at:]),
        ("no text", lambda: b"\xff\xfe" + text.encode()),
        ("bytes", lambda: rng.randbytes(300) + b"\xff"),
        ("a list", lambda: "- 1\n- 2\n"),
        ("a word", lambda: "word\n"),
        ("a number", lambda: "5\n"),
        ("two documents", lambda: f"{text}---\n{text}"),
        ("a recursion", lambda: f"{text}x: &x [*x]\n"),
        ("an unknown alias", lambda: f"{text}x: *nothing\n"),
        ("a date that is none", lambda: f"{text}x: 2020-13-45\n"),
        ("a key that is a list", lambda: f"{text}[1, 2]: 3\n"),
        ("an unknown key", lambda: f"{text}{rng.choice(['x', 'nnn', 'Name', '5', 'null', '~', 'é' * 2000])}: 3\n"),
        ("a misspelt key", lambda: text.replace(head, "q" + head, 1)),
        ("size", lambda: text + "#" * 2**21),
    ]
    name, make = rng.choice(broken)
    made = make()
    return (made if isinstance(made, bytes) else made.encode()), name


def value(rng: random.Random, content: Any) -> tuple[bytes, str]:
    """The file with one value of a kind or size that it cannot have."""
    changed = copy.deepcopy(content)
    place, path = changed, []
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        path.append(key)
        if not isinstance(place[key], dict | list) or rng.random() < 0.2:
            break
        place = place[key]
    old = place[key]
    free = key in ("name", "title", "question", "label")  # any text is right
    if "stage_ratios" in path:  # only their proportions count
        old = "ratio"
    place[key] = rng.choice([bad for bad in BAD[kind_of(old)] if bad != old and not (free and bad in ("", UNKNOWN))])
    return yaml.safe_dump(changed, sort_keys=False).encode(), f"{path} = {place[key]!r:.60}"


def kind_of(old: Any) -> str:
    return "text" if isinstance(old, str) else "number" if isinstance(old, int | float) else "many"


UNKNOWN = "no such name ../.."
BAD: dict[str, list[Any]] = {
    "text": [[1], {"a": 1}, "", "\x1b]0;x\x07", UNKNOWN, [["x"]]],
    "number": [-1, -1e30, float("nan"), float("inf"), 10**40, "abc", [1], {"a": 1}, "", "1e", 1e308],
    "many": [5, "abc", -1.5, [[[1]]], {"a": {"b": 1}}, "", float("nan")],
}

KINDS = [option_value, option_value, wrong_words, wrong_place, yaml_file, yaml_file, yaml_file]
