"""The one reader of YAML: what it refuses, with the line, and that every file of settings goes through it."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

import naslib_autokd
from naslib_autokd.settings import MAX_BYTES, SettingsError, read_document, read_yaml, read_yaml_file

PACKAGE = Path(naslib_autokd.__file__).parent
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def test_a_document_has_values_and_lines() -> None:
    document = read_yaml("a: 1\nb:\n  - x\n  - {c: 2.5}\nshared: &s [1]\nagain: *s\n", "f.yaml")
    assert document.values == {"a": 1, "b": ["x", {"c": 2.5}], "shared": [1], "again": [1]}
    assert document.place(("b", 1, "c")) == "f.yaml, line 4"
    assert document.place(("b", 1, "unknown", "deeper")) == "f.yaml, line 4"
    assert document.place(("unknown",)) == "f.yaml"
    assert read_yaml("", "f").values is None
    assert read_yaml("a: 1/27\nb: 0x1f\n", "f", scalars_as_text=True).values == {"a": "1/27", "b": "0x1f"}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\n<<: {b: 2}", 2, "merge keys (<<) are not read; write the keys out"),
        ("base: &b {c: 1}\nd:\n  <<: *b", 3, "merge keys (<<) are not read"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", 2, "tags (words that begin with !) are not read"),
        ("a: !mine 3", 1, "tags"),
        (BOMB, None, "more than 100,000 values, aliases (*name) counted each time"),
        ("a: &a [1, *a]", 1, "an alias (*name) stands within what it repeats"),
        ("[" * 5000, 1, "nested deeper than 40 levels"),
        ("a: 1\nb: " + "{a: " * 60, 2, "nested deeper than 40 levels"),
        ("a: 1\n[1, 2]: 3", 2, "a key must be a word or a number"),
        ("a: 1\nb: 2\na: 3", 3, "key 'a' appears twice"),
        ("a: 1\nb: 2020-13-45", 2, "'2020-13-45' cannot be read (month must be in 1..12)"),
        ("a: " + "9" * 5000, 1, "cannot be read"),
        ("a: 1\nb: =", 2, "not valid YAML"),
        ('a: 1\nb: "\\e]0;x"', 2, "'\\x1b]0;x' holds control characters"),
        ("a: 1\nb: \0", 2, "not valid YAML: the character '\\x00' may not stand in it"),
        ("a: 1\n\tb: 2", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2", 2, "not valid YAML"),
        ("a: *nothing", 1, "not valid YAML: found undefined alias 'nothing'"),
    ],
)
def test_what_is_refused_is_told_with_its_line_and_soon(text: str, line: int | None, message: str) -> None:
    started = time.process_time()
    with pytest.raises(SettingsError) as caught:
        read_yaml(text, "f.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    if line is not None:
        assert str(caught.value).startswith(f"f.yaml, line {line}: ")
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"a: 1\nb: \xff\n", "line 2: it is no UTF-8 text"),
        (b"#" * (MAX_BYTES + 1), "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_text_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        read_yaml_file(path, what="cluster file")
    assert str(caught.value).startswith(f"cluster file {path}")
    with pytest.raises(SettingsError, match="Is a directory"):
        read_yaml_file(tmp_path)
    with pytest.raises(SettingsError, match="is no name of a file"):
        read_yaml_file("a\0b")


def test_numbers_of_json_files_stay_numbers(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"candidate": {"size": 1e-05}}')
    assert read_document(tmp_path / "result.json").values == {"candidate": {"size": 1e-05}}
    (tmp_path / "bad.json").write_text("[" * 100_000)
    with pytest.raises(SettingsError, match="is not valid JSON"):
        read_document(tmp_path / "bad.json")


def test_nobody_else_reads_yaml() -> None:
    elsewhere = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("yaml", "safe_load"), ("yaml", "compose"), ("yaml", "load")}
    }
    assert elsewhere <= {"runners/ablation.py", "runners/search.py", "runners/run_folder.py"}
