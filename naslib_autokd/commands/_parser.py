"""How every command is read and explained: grouped help with examples, one-line errors with the nearest name.

The modules of commands use plain argparse (``add(commands)``); `Parser` is the class of the parsers that they make.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from naslib_autokd.commands._types import check_text, name_of

WIDEST_HELP = 112
"""Columns; longer lines are hard to read."""


def epilog(*examples: str, keys: str = "", note: str = "") -> str:
    """What stands below the options: commands that work, the keys that ``--json`` prints, a remark."""
    shown = [f"example: {examples[0]}"] if len(examples) == 1 else ["examples:", *(f"  {line}" for line in examples)]
    told = [f"--json prints {keys}"] if keys else []
    return "\n".join([*shown, *told, *([note] if note else [])])


class Formatter(argparse.HelpFormatter):
    """Shows defaults, keeps the lines of examples, and does not list forty options in the line of usage."""

    def __init__(self, prog: str, **settings: Any) -> None:
        columns = min(shutil.get_terminal_size().columns, WIDEST_HELP) - 2
        super().__init__(prog, **{"max_help_position": 30, "width": max(columns, 30), **settings})

    def _format_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: Iterable[Any], prefix: str | None
    ) -> str:
        actions = list(actions)
        optional = [action for action in actions if action.option_strings and not action.required]
        if usage is not None or len(optional) <= 3:
            return super()._format_usage(usage, actions, groups, prefix)
        needed = [action for action in actions if action not in optional]
        return super()._format_usage(None, needed, [], prefix).replace(self._prog, f"{self._prog} [options]", 1)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = []
        for line in text.splitlines():
            keep = "naslib-autokd " in line and line.startswith(("example", "  "))
            lines.append(indent + line if keep else super()._fill_text(line, width, indent))
        return "\n".join(lines)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        shown = not any(action.default is nothing for nothing in (None, False, argparse.SUPPRESS))
        shown = shown and action.default != []
        if shown and "default" not in text and (action.option_strings or action.nargs == "?"):
            text += " (default: %(default)s)"
        return text


class Parser(argparse.ArgumentParser):
    """Errors are one line that names what was given, what is allowed and the nearest name."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings.setdefault("formatter_class", Formatter)
        super().__init__(*args, **settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        self._check_names(words)
        if any(action.dest == "config" for action in self._actions):
            from naslib_autokd.commands import _config

            try:
                _config.apply(self, words)
            except ValueError as error:
                self.error(str(error))
        options, extra = super().parse_known_args(words, namespace)
        if extra:
            self.error(f"unexpected argument {extra[0]!r}")
        return options, extra

    def error(self, message: str) -> NoReturn:
        message = shortened(re.sub(r"^argument ", "", message))
        message = message.replace(": expected one argument", " needs a value")
        message = message.replace("the following arguments are required: ", "missing ")
        if message == "missing COMMAND":
            self.print_help(sys.stderr)
            self.exit(2)
        self.exit(2, f"naslib-autokd: error: {message} ({self.prog} --help tells more)\n")

    def _check_names(self, words: Sequence[str]) -> None:
        """Refuse unknown options, abbreviations too, before argparse says that another one is missing."""
        group = subcommands(self)
        for word in words:
            if word == "--" or (group is not None and not word.startswith("-")):
                return  # what follows belongs to the command
            name = word.partition("=")[0]
            if word[0:1] != "-" or len(word) < 2 or self._negative_number_matcher.match(word) or " " in name:
                continue
            if name in self._option_string_actions:
                continue
            near = difflib.get_close_matches(name, self._option_string_actions, n=2, cutoff=0.6)
            near = near or [known for known in self._option_string_actions if known.startswith(name)][:3]
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            after = "; the options of a command stand after its name" if group is not None and not near else ""
            self.error(f"unknown option {name}{hint}{after}")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and "--" in arg_strings:  # which argparse would drop
            self.error(f"{name_of(action)} needs a value, got '--'")
        return super()._get_values(action, arg_strings)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            # a command's words, which its own parser names better, come along with its name
            if arg_string is not action.default and action.nargs != argparse.PARSER:
                check_text(arg_string)
            return arg_string if action.type is None else action.type(arg_string)  # type: ignore[operator]
        except argparse.ArgumentTypeError as error:
            self.error(f"{name_of(action)} must be {error}, got {arg_string!r}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        from naslib_autokd.tasks import did_you_mean

        what = "command" if isinstance(action, argparse._SubParsersAction) else f"value of {name_of(action)}"
        self.error(f"unknown {what} {value!r}{did_you_mean(value, map(str, action.choices))}")


def shortened(text: str, longest: int = 1000) -> str:
    """An error in one line that a terminal can show, whatever was given: no control characters, no thousand columns."""
    text = " ".join(
        "".join(sign if sign.isprintable() or sign.isspace() else ascii(sign)[1:-1] for sign in text).split()
    )
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 2 :]}"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser] | None:
    """The parsers below ``parser`` by name; None if it is a command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return None


def walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """``parser`` and all below it."""
    yield parser
    for inner in (subcommands(parser) or {}).values():
        yield from walk(inner)


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands that run something, those of nested commands (``bench build``) too."""
    return (inner for inner in walk(parser) if subcommands(inner) is None)
