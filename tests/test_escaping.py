"""Names of others cannot become formulas in a spreadsheet or markup in a model card."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from naslib_autokd.escaping import code, csv_cell, markdown
from naslib_autokd.reports.tables import write_csv

FORMULAS = ["=1+2", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1", "\t=1", '=HYPERLINK("http://x")']


def test_formulas_are_text_and_numbers_stay_numbers(tmp_path: Path) -> None:
    numbers = [-0.5, 3, "-0.5", "+1e-3", "-inf", float("nan"), None]
    path = write_csv(tmp_path / "table.csv", ["=name", "value"], [*([text, 1] for text in FORMULAS), numbers[:2]])
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["'=name", "value"]
    assert [row[0] for row in rows[:-1]] == [f"'{text}" for text in FORMULAS]
    assert rows[-1] == ["-0.5", "3"]
    assert [csv_cell(value) for value in numbers[:5]] == numbers[:5]
    assert [csv_cell(text) for text in ("KD", "a=b", "", "1-2")] == ["KD", "a=b", "", "1-2"]


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "[x](http://y)", "a|b", "*b*", "# heading", "`c`", "a\nb"]
)
def test_markup_is_shown_as_it_is(text: str) -> None:
    shown = markdown(text)
    assert "\n" not in shown
    for position, sign in enumerate(shown):
        if sign in "<>[]|*#`":
            assert shown[position - 1] == "\\"
    assert shown.replace("\\", "") == " ".join(text.split())


@pytest.mark.parametrize("text", ["student.onnx", "a`b", "``", "`", "", "a\n# b", "<b>"])
def test_code_stays_code(text: str) -> None:
    shown = code(text)
    fence = shown[: len(shown) - len(shown.lstrip("`"))]
    inner = shown[len(fence) : -len(fence)]
    assert fence not in inner
    assert inner.strip() == " ".join(text.split())
    assert "\n" not in shown
