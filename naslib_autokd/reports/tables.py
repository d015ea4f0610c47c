"""Tables as files (CSV, LaTeX, Markdown), and what several tables share."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from naslib_autokd.escaping import csv_cell

UNITS = {
    "error": ("expected validation error (%)", 100.0),
    "params": ("parameters (k)", 1e-3),
    "macs": ("MMACs", 1e-6),
    "train_memory": ("training memory (MiB)", 2.0**-20),
    "inference_memory": ("inference memory (MiB)", 2.0**-20),
    "latency": ("latency (ms)", 1e3),
}
"""How an objective is shown: its name with the unit, and the factor."""


def objective(name: str, value: float) -> str:
    """In its unit: two places of an error, three digits of others, never with an exponent."""
    value *= UNITS[name][1]
    places = 2 if name == "error" or value <= 0 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{places}f}"


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Plain CSV; nan and None are empty cells, and no text is a formula (`escaping.csv_cell`)."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(csv_cell, columns))
        for row in rows:
            writer.writerow(["" if value is None or value != value else csv_cell(value) for value in row])
    return path


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "|": r"\textbar{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def latex(text: str) -> str:
    """Text with everything escaped that LaTeX reads as a command."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex_table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A ``table`` for the package booktabs: the first column is text, the others are numbers."""
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex(caption)}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"    \toprule",
        "    " + " & ".join(map(latex, columns)) + r" \\",
        r"    \midrule",
        *("    " + " & ".join(map(latex, row)) + r" \\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; bars in the text are escaped."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
