"""``naslib-autokd completion``: a script with which a shell completes commands, options, names and paths."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from naslib_autokd.commands._parser import epilog, leaves

INSTALL = {
    "bash": "naslib-autokd completion bash > ~/.local/share/bash-completion/completions/naslib-autokd",
    "zsh": 'naslib-autokd completion zsh > "${fpath[1]}/_naslib-autokd"',
    "tcsh": "naslib-autokd completion tcsh > ~/.naslib-autokd.tcsh; echo 'source ~/.naslib-autokd.tcsh' >> ~/.tcshrc",
}
"""Shell -> what installs its script; the next shell that is started has it."""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "completion",
        help="print the script with which bash, zsh or tcsh completes what you type",
        description="Print a script for your shell: it completes commands, options, paths and names (of optimizers, "
        "tasks, presets, studies, networks, formats, also those that other packages add; print it again after "
        "installing some). Made by shtab.",
        epilog=epilog(*INSTALL.values(), note="The next shell that you start has it."),
    )
    parser.add_argument("shell", metavar="SHELL", help=", ".join(INSTALL))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.shell not in INSTALL:
        raise ValueError(f"there is no completion for {options.shell!r}; give one of {', '.join(INSTALL)}")
    print(script(options.shell))
    return 0


def script(shell: str) -> str:
    """The completion script of ``shell``.

    Raises:
        ImportError: If shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError(f"completion needs the package shtab: pip install shtab ({error})") from error

    from naslib_autokd.cli import build_parser

    parser = build_parser()
    known = dict(_words())
    functions: list[str] = []
    for action in dict.fromkeys(action for command in leaves(parser) for action in command._actions):
        completed: Any = action
        name = next((text for text in (*action.option_strings, action.metavar) if text in known), None)
        if name is None:
            if action.type is Path or action.dest == "config":
                completed.complete = shtab.DIRECTORY if action.metavar in ("DIR", "RUN") else shtab.FILE
            continue
        names, or_file = known[name]
        action.choices = sorted(names())
        if or_file:
            words, function = " ".join(action.choices), f"_naslib_autokd_file_or_word_{len(functions)}"
            functions.append(f'{function}() {{ compgen -W "{words}" -- "$1"; compgen -f -- "$1"; }}')
            completed.complete = {"bash": function, "zsh": f"{{compadd {words}; _files}}", "tcsh": f"({words})"}
    preamble = "\n".join(functions) if shell == "bash" else ""
    return str(shtab.complete(parser, shell, preamble=preamble))


def _words() -> Iterator[tuple[str, tuple[Callable[[], Iterable[str]], bool]]]:
    """Option, or name of an argument -> (what it can be, whether a file will do as well)."""
    from naslib_autokd.records import OBJECTIVES
    from naslib_autokd.runners.study import study_names
    from naslib_autokd.tasks import TASKS

    yield "--task", (lambda: TASKS, True)
    yield "--optimizer", (_optimizers, False)
    yield "--preset", (_presets, False)
    yield "--space", (_spaces, False)
    yield "--teacher", (_networks, True)
    yield "--architecture", (_networks, False)
    yield "--teacher-architecture", (_networks, False)
    yield "--student", (_networks, False)
    yield "--objective", (lambda: ("kd", "ce"), False)
    yield "--objectives", (lambda: OBJECTIVES, False)
    yield "--benchmark", (_benchmarks, True)
    yield "NAME", (_benchmarks, True)
    yield "STUDY", (study_names, True)
    yield "SHELL", (lambda: INSTALL, False)


def _optimizers() -> Iterable[str]:
    from importlib.metadata import entry_points

    from naslib_autokd.optimizers import OPTIMIZERS

    return {*OPTIMIZERS, *(entry.name for entry in entry_points(group="naslib_autokd.optimizers"))}


def _presets() -> Iterable[str]:
    from naslib_autokd.search_spaces.hnag import PRESETS

    return PRESETS


def _spaces() -> Iterable[str]:
    from importlib.metadata import entry_points

    return {*_presets(), *(entry.name for entry in entry_points(group="naslib_autokd.search_spaces"))}


def _networks() -> Iterable[str]:
    from naslib_autokd.teachers.names import ARCHITECTURES
    from naslib_autokd.teachers.zoo import ZOO

    return {*ARCHITECTURES, *ZOO}


def _benchmarks() -> Iterable[str]:
    from naslib_autokd.evaluators.benchmark import BENCHMARKS

    return BENCHMARKS
