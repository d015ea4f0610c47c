"""What is public says what it is: docstrings of all that the package exports, with markup that renders."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import naslib_autokd

PACKAGE = Path(naslib_autokd.__file__).parent
NAMES = [name for name in naslib_autokd.__all__ if name != "__version__"]
OBVIOUS = {"self", "cls", "values", "path", "text", "seed", "task", "data", "evaluator"}
"""Parameters whose name and annotation say all, where a docstring has nothing to add."""


def members(thing: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions that a reader meets: itself, or a class's methods."""
    if inspect.isfunction(thing):
        yield thing.__name__, thing
        return
    for name, member in vars(thing).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(function, property):
            function = function.fget
        if not name.startswith("_") and inspect.isfunction(function):
            yield f"{thing.__name__}.{name}", function


def undocumented_parameters(docstring: str, function: Callable[..., Any]) -> list[str]:
    """Parameters that a function of three or more does not mention."""
    names = [name for name in inspect.signature(function).parameters if name not in OBVIOUS]
    if len(names) < 3:
        return []
    return [name for name in names if not re.search(rf"\b{name}\b", docstring)]


@pytest.mark.parametrize("name", NAMES)
def test_exports_have_docstrings(name: str) -> None:
    thing = getattr(naslib_autokd, name)
    assert len(inspect.getdoc(thing) or "") > 30
    assert (inspect.getdoc(thing) or "")[0].isupper() or (inspect.getdoc(thing) or "").startswith("``")
    without = [full for full, function in members(thing) if not function.__doc__ and not is_trivial(function)]
    assert not without


def is_trivial(function: Callable[..., Any]) -> bool:
    """Serialisation under its usual name, or a body of one line."""
    if function.__name__ in ("to_dict", "to_json", "from_json", "to_yaml", "from_yaml", "from_dict"):
        return True
    lines = [line for line in inspect.getsource(function).splitlines() if not line.strip().startswith("@")]
    return len(lines) <= 2


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_explained(name: str) -> None:
    thing = getattr(naslib_autokd, name)
    missing = {}
    for full, function in members(thing):
        if bad := undocumented_parameters(function.__doc__ or "", function):
            missing[full] = bad
    if inspect.isclass(thing) and not is_dataclass(thing) and "__init__" in vars(thing):
        text = f"{inspect.getdoc(thing)} {thing.__init__.__doc__ or ''}"
        if bad := undocumented_parameters(text, thing.__init__):
            missing[name] = bad
    assert not missing


@pytest.mark.parametrize("name", [n for n in NAMES if is_dataclass(getattr(naslib_autokd, n))])
def test_fields_are_explained_or_speak_for_themselves(name: str) -> None:
    """Every other field has a text below it, or is named in the docstring."""
    thing = getattr(naslib_autokd, name)
    source = inspect.getsource(thing)
    explained = [
        field.name
        for field in fields(thing)
        if re.search(rf"^    {field.name}:[^\n]*(\n {{5,}}[^\n]*)*\n    (\)\n    )?\"\"\"", source, re.MULTILINE)
        or re.search(rf"\b{field.name}\b", thing.__doc__ or "")
    ]
    assert 2 * len(explained) >= len(fields(thing)), [f.name for f in fields(thing) if f.name not in explained]


def test_a_parameter_that_is_not_explained_is_found() -> None:
    def function(first: int, second: int, third: int) -> None:
        """Adds first and second."""

    assert undocumented_parameters(function.__doc__ or "", function) == ["third"]


@pytest.mark.parametrize("name", NAMES)
def test_markup_is_balanced(name: str) -> None:
    """An odd backtick would turn the rest of a paragraph into code on the site."""
    thing = getattr(naslib_autokd, name)
    texts = [inspect.getdoc(thing) or "", *(function.__doc__ or "" for _, function in members(thing))]
    for text in texts:
        for paragraph in text.split("\n\n"):
            assert len(re.findall(r"`+", paragraph)) % 2 == 0, paragraph


WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_are_true(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_stand_in_a_section(path: Path) -> None:
    """Elsewhere the site shows them as running text."""
    text = path.read_text(encoding="utf-8")
    sections = re.findall(r"^( *)Examples:\n((?:\1 {4}.*\n)+)", text, re.MULTILINE)
    assert sum(body.count(">>> ") for _, body in sections) == text.count(">>> ")
