"""What people write: the one reader of YAML, with line numbers, and the nearest names for unknown ones.

Everything that a file of settings may hold is plain: mappings, lists, text, numbers, true, false and null. Tags, merge
keys (``<<``), aliases that grow without end, keys that appear twice and control characters are refused with their line.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**20
"""Of one file; read in a few seconds. The largest that is shipped has 3 KiB."""
MAX_DEPTH = 40
MAX_VALUES = 100_000
"""Of one document, what aliases repeat counted each time."""

KeyPath = tuple[str | int, ...]


class SettingsError(ValueError):
    """A file of settings cannot be read; the text has the file and the line."""


@dataclass(frozen=True)
class Document:
    """A YAML document and where its keys stand."""

    values: Any
    where: str
    """Its file, for errors."""
    lines: Mapping[KeyPath, int]
    """Line of each key and list entry, counted from 1."""

    def place(self, path: KeyPath = ()) -> str:
        """``"study.yaml, line 7"``: of the key at ``path``, or the nearest one above it that has a line."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.where}, line {self.lines[path]}" if path else self.where


def read_yaml(
    text: str, where: str, *, error: type[ValueError] = SettingsError, scalars_as_text: bool = False
) -> Document:
    """Read a YAML document.

    Args:
        where: What errors call it.
        error: The class of errors.
        scalars_as_text: Leave numbers, dates and the rest as they are written.

    Raises:
        ValueError: ``error``, with the line, if it is no YAML or holds what is refused (see the module).
    """
    if (found := yaml.reader.Reader.NON_PRINTABLE.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise error(f"{where}, line {line}: not valid YAML: the character {found[0]!a} may not stand in it")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        values = None if node is None else _Reading(loader, lines, scalars_as_text).of(node, ())
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        place = "" if mark is None else f", line {mark.line + 1}"
        what = "" if isinstance(problem, _RefusedError) else "not valid YAML: "
        raise error(f"{where}{place}: {what}{problem.problem or problem.context}") from None
    finally:
        loader.dispose()
    return Document(values, where, lines)


def read_yaml_file(
    path: str | Path, *, error: type[ValueError] = SettingsError, what: str = "", scalars_as_text: bool = False
) -> Document:
    """`read_yaml` of a file; ``what`` (for example "cluster file") stands before its name in errors.

    Raises:
        ValueError: Also if the file is missing, too large or no text.
    """
    named = f"{what} {path}".strip()
    return read_yaml(read_text(path, named, error), str(path), error=error, scalars_as_text=scalars_as_text)


def read_document(path: str | Path) -> Document:
    """`read_yaml_file`, or a JSON file of any size if it is named so: to YAML 1.1, its ``1e-05`` would be text.

    Raises:
        SettingsError: As `read_yaml_file`.
    """
    if Path(path).suffix != ".json":
        return read_yaml_file(path)
    try:
        return Document(json.loads(Path(path).read_bytes()), str(path), {})
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid JSON: {error}") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error


def read_text(path: str | Path, named: str, error: type[ValueError] = SettingsError) -> str:
    """A small UTF-8 file.

    Raises:
        ValueError: ``error``, if it cannot be read, is larger than `MAX_BYTES` or no text.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as problem:
        raise error(f"{named} cannot be read: {problem.strerror}") from problem
    except ValueError as problem:  # a NUL in its name
        raise error(f"{named!r} is no name of a file: {problem}") from problem
    if len(content) > MAX_BYTES:
        raise error(f"{named} cannot be read: it is larger than {MAX_BYTES / 2**20:g} MiB, far too much for settings")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(f"{named}, line {line}: it is no UTF-8 text") from problem


class _RefusedError(yaml.MarkedYAMLError):
    """Valid YAML that is not read here."""


def _refuse(message: str, node: Any) -> _RefusedError:
    return _RefusedError(problem=message, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    """Composes nodes; explicit tags and deep nesting are refused on the way."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _refuse("tags (words that begin with !) are not read; write the value without one", event)
        if self._depth >= MAX_DEPTH:
            raise _refuse(f"nested deeper than {MAX_DEPTH} levels", event)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Reading:
    """Nodes to values, filling in ``lines``."""

    def __init__(self, loader: _Loader, lines: dict[KeyPath, int], scalars_as_text: bool) -> None:
        self._loader, self._lines, self._as_text = loader, lines, scalars_as_text
        self._n_values = 0
        self._open: list[yaml.Node] = []

    def of(self, node: yaml.Node, path: KeyPath) -> Any:
        self._n_values += 1
        if self._n_values > MAX_VALUES:
            raise _refuse(f"more than {MAX_VALUES:,} values, aliases (*name) counted each time", node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if any(node is outer for outer in self._open):
            raise _refuse("an alias (*name) stands within what it repeats", node)
        self._open.append(node)
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._sequence(node, path)
        self._open.pop()
        return value

    def _sequence(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        values = []
        for index, inner in enumerate(node.value):
            self._lines[(*path, index)] = inner.start_mark.line + 1
            values.append(self.of(inner, (*path, index)))
        return values

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        for key_node, inner in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refuse("a key must be a word or a number", key_node)
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise _refuse("merge keys (<<) are not read; write the keys out", key_node)
            key, here = self._scalar(key_node), (*path, str(key_node.value))
            if key in values or here in self._lines:
                self._lines[here] = key_node.start_mark.line + 1
                raise _refuse(f"key {key_node.value!r} appears twice", key_node)
            self._lines[here] = key_node.start_mark.line + 1
            values[key] = self.of(inner, here)
        return values

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if any(unicodedata.category(sign) == "Cc" and sign not in "\n\t" for sign in node.value):
            raise _refuse(f"{node.value[:40]!a} holds control characters", node)
        if self._as_text:
            return node.value
        try:
            return self._loader.construct_object(node)
        except (ValueError, OverflowError) as problem:  # the 31st of February, a number of 5,000 digits
            raise _refuse(f"{node.value[:40]!r} cannot be read ({problem}); text stands in quotes", node) from problem


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'? (known: ...)"``: the end of an error about an unknown name, the same everywhere."""
    known = list(choices)
    near = difflib.get_close_matches(str(name)[:80], known, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{hint} (known: {', '.join(known)})"
