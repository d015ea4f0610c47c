"""Names and values of others (tasks, classes, methods) in files that programs interpret: spreadsheets, Markdown,
JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: numpy's arrays and numbers as Python's; nan and infinity are None."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_cell(value: Any) -> Any:
    """``value`` as a cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe.

    Examples:
        >>> csv_cell("=1+2"), csv_cell("-0.5"), csv_cell(-0.5), csv_cell("KD")
        ("'=1+2", '-0.5', -0.5, 'KD')
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("=", "+", "-", "@")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def markdown(text: Any) -> str:
    """``text`` in one line of Markdown, where it is shown as it is.

    Examples:
        >>> markdown("cluttered-digits"), markdown("<b>[x](http://y)")
        ('cluttered-digits', '\\\\<b\\\\>\\\\[x\\\\](http://y)')
    """
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", " ".join(str(text).split()))


def code(text: Any) -> str:
    """``text`` in one line of Markdown, as code, also if it has backticks.

    Examples:
        >>> code("student.onnx"), code("a`b")
        ('`student.onnx`', '``a`b``')
    """
    line = " ".join(str(text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line[:1] == "`" or line[-1:] == "`" or not line else ""
    return f"{fence}{pad}{line}{pad}{fence}"
