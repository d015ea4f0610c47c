"""Configuration files: the options of a command as YAML, under the same names, checked with line numbers.

    trials: 60
    max-memory: 64MB
    option: {fidelity: full}

The command line overrides the file. Paths are those that would be typed: relative to the current folder.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from naslib_autokd.commands._types import Number, NumberOr, check_text, name_of, settings_of
from naslib_autokd.files import write_whole

FILE = "config.yaml"
"""In a run folder: what the run was asked for."""


class ConfigFileError(ValueError):
    """A configuration file cannot be used; the text has the file and the line."""


def apply(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Make the file after ``--config``, if there is one, the defaults of ``parser``.

    Raises:
        ConfigFileError: For an unknown key (names the nearest), a wrong value or a key that appears twice.
    """
    path = _path(words)
    if path is None:
        return
    given = {
        id(parser._option_string_actions[name])
        for name in (word.partition("=")[0] for word in words)
        if name in parser._option_string_actions
    }
    values = read(path, parser)
    for group in parser._mutually_exclusive_groups:
        members = [action for action in group._group_actions if action.dest in values]
        if any(id(action) in given for action in group._group_actions):
            for action in members:
                del values[action.dest]
        elif len(members) > 1:
            raise ConfigFileError(f"{path}: {' and '.join(map(_key, members))} exclude each other; give one")
    for action in settings_of(parser):
        if action.dest not in values:
            continue
        if isinstance(action, argparse._AppendAction) and id(action) in given and not is_mapping(action):
            continue  # what is typed replaces the list; of a mapping it replaces single keys
        action.default, action.required = values[action.dest], False


def _path(words: Sequence[str]) -> Path | None:
    for index, word in enumerate(words):
        if word.startswith("--config="):
            return Path(word.partition("=")[2])
        if word == "--config" and index + 1 < len(words):
            return Path(words[index + 1])
    return None


def read(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The settings in a file, by the names of argparse; what is null there is left out.

    Raises:
        ConfigFileError: If it is no configuration of this command.
    """
    from naslib_autokd.settings import did_you_mean, read_yaml_file

    document = read_yaml_file(path, error=ConfigFileError, what="--config")
    content = document.values
    if content is None:
        return {}
    if not isinstance(content, dict):
        got = repr(content)[:40]
        raise ConfigFileError(f"{path}: a configuration has keys and values, such as 'trials: 24'; got {got}")
    actions = {_key(action): action for action in settings_of(parser)}
    names = {key.replace("-", "_"): key for key in actions}
    command = parser.prog.partition(" ")[2]
    values: dict[str, Any] = {}
    for key, value in content.items():
        where = document.place((str(key),))
        if key == "command":
            if value != command:
                raise ConfigFileError(f"{where}: this is a configuration of 'naslib-autokd {value}', not of {command}")
            continue
        name = names.get(str(key).replace("-", "_"))
        if name is None:
            hint = did_you_mean(key, actions)
            hint = hint.partition(" (known:")[0] if "did you mean" in hint else hint
            raise ConfigFileError(f"{where}: unknown key {key!r} for {command}{hint}")
        dest = actions[name].dest
        if dest in values:
            raise ConfigFileError(f"{where}: {name!r} appears twice")
        if value is None or value == actions[name].default == "":  # as `keep` writes what was not given
            continue
        try:
            values[dest] = _value(actions[name], value)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ConfigFileError(f"{where}: {key} must be {error}, got {value!r}") from None
    return values


def _key(action: argparse.Action) -> str:
    return name_of(action).lstrip("-") if action.option_strings else action.dest


def is_mapping(action: argparse.Action) -> bool:
    """Whether an option takes ``NAME=VALUE``, again and again."""
    return isinstance(action, argparse._AppendAction) and "=" in str(action.metavar)


def _value(action: argparse.Action, value: Any) -> Any:
    """``value`` as the command line would give it.

    Raises:
        ValueError: With what it must be.
    """
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if is_mapping(action):
        if not isinstance(value, Mapping):
            raise ValueError("a mapping of names to values, such as {fidelity: full}")
        return [(str(name).replace("-", "_"), inner) for name, inner in value.items()]
    if isinstance(action, argparse._AppendAction):
        return [_text(each) for each in (value if isinstance(value, list) else [value])]
    if isinstance(action.type, Number):
        word = isinstance(action.type, NumberOr) and value == action.type.word
        written = word or (isinstance(value, str) and action.type.kind is float)  # YAML 1.1 takes 1e-3 for text
        return action.type(value if written or type(value) in (int, action.type.kind) else "no number")
    if isinstance(value, list) and action.type is not Path:
        value = ",".join(map(_text, value))
    text = _text(value)
    if action.choices is not None and text not in action.choices:
        raise ValueError(f"one of {', '.join(map(str, action.choices))}")
    return action.type(text) if callable(action.type) else text


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("text (in quotes)")
    return check_text(str(value))


def keep(options: argparse.Namespace, folder: Path) -> None:
    """Write what a run was asked for into its folder (made if missing): ``--config FOLDER/config.yaml`` repeats it."""
    import yaml

    parser = getattr(options, "command_parser", None)
    if parser is None:  # called from Python, not from the command line
        return
    command = parser.prog.partition(" ")[2]
    content: dict[str, Any] = {"command": command}
    for action in settings_of(parser):
        value = getattr(options, action.dest)
        if value is None or value is False or value == []:
            continue
        content[_key(action)] = _plain(action, value)
    text = f"# what this run was asked for; repeat it: naslib-autokd {command} --config {folder / FILE} --out OTHER\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, (text + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).encode())


def keeper(options: argparse.Namespace, folder: Path) -> Callable[[], None]:
    """`keep`, once however often it is called: commands call it when the first result shows that the run is theirs."""
    return functools.cache(functools.partial(keep, options, folder))


def _plain(action: argparse.Action, value: Any) -> Any:
    if is_mapping(action):
        from naslib_autokd.commands._options import parse_options

        return parse_options(value)
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
