"""What all parts of a report are made of: charts, tables and cards as text and data, numbers as words."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from naslib_autokd.reports.charts.look import PAGE, PALETTES, AnyChart, specification
from naslib_autokd.reports.figures import Figure
from naslib_autokd.reports.results import Row, RunData

Spec = dict[str, Any]

escape = partial(html.escape, quote=True)


def embedded_json(content: Any) -> str:
    """JSON that may stand in a script element: no text can end it or be read as markup; nan becomes null."""
    try:
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 is escaped
    except ValueError:
        text = json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


class Page:
    """What the scripts of the page draw, collected while the text is made."""

    def __init__(self) -> None:
        self.figures: Mapping[str, Figure] = {}
        """Charts of the run whose text is made (`charts.run_charts`)."""
        self._charts: dict[str, Any] = {}
        self._data: dict[str, Any] = {}
        self._tables: dict[str, Any] = {}
        self._parallel: dict[str, Any] = {}

    def payload(self) -> dict[str, Any]:
        return {
            "config": PAGE,
            "palettes": {name: PALETTES[name] for name in ("light", "dark")},
            "charts": self._charts,
            "data": self._data,
            "tables": self._tables,
            "parallel": self._parallel,
        }

    def chart(self, *views: tuple[str, str], caption: str = "") -> str:
        """A figure of one or several views (what the reader chooses by, name of the chart); those that there are."""
        return self.figure(
            [(label, self.figures[name].chart) for label, name in views if name in self.figures], caption
        )

    def figure(self, views: Sequence[tuple[str, AnyChart]], caption: str = "") -> str:
        """The same of charts; empty without any."""
        if not views:
            return ""
        name = f"c{len(self._charts)}"
        variants: list[Spec] = []
        for label, chart in views:
            spec = specification(chart)
            del spec["$schema"], spec["config"]
            found = spec.pop("datasets", {})
            self._data |= {key: _columnar(rows) for key, rows in found.items() if key not in self._data}
            variants.append({"name": label, "spec": spec, "data": list(found)})
        height = max(_height(variant["spec"]) for variant in variants)
        self._charts[name] = variants
        text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return f'<figure><div class="chart" style="--height:{height:.0f}px" data-chart="{name}"></div>{text}</figure>'

    def table(
        self,
        name: str,
        columns: Sequence[Spec],
        rows: Sequence[Sequence[Any]],
        sort: tuple[int, bool],
        marked: tuple[int, Any] | None = None,
    ) -> str:
        """A table to sort and filter; ``sort`` is (column, descending), ``marked`` rows have this value there."""
        key = f"t{len(self._tables)}"
        self._tables[key] = {"name": name, "columns": columns, "rows": rows, "sort": sort, "marked": marked}
        return f'<div class="grid" data-table="{key}"></div>'

    def parallel(self, axes: Sequence[Spec], rows: Sequence[Sequence[Any]]) -> str:
        key = f"p{len(self._parallel)}"
        self._parallel[key] = {"axes": axes, "rows": rows}
        return f'<div data-parallel="{key}" style="min-height:400px"></div>'


def _columnar(rows: Sequence[Row]) -> Spec:
    """Rows without their names repeated."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return {"columns": columns, "rows": [[row.get(column) for column in columns] for row in rows]}


ROOM = 72
"""Pixels of axes and legend below and above a chart."""


def _height(spec: Spec) -> float:
    """About what a chart takes in a wide window, so that texts do not jump when it is drawn."""
    parts = spec.get("concat")
    if parts is None:
        return float(spec["height"]) + ROOM
    columns = max(1, min(len(parts), int(1110 / (PANEL_SCALE * spec["usermeta"]["panel"]))))
    return sum(max(part["height"] for part in parts[k : k + columns]) + ROOM for k in range(0, len(parts), columns))


PANEL_SCALE = 2.1
"""Least width of a panel on the page, in pixels, for a point of that on paper; as in report.js."""


# ---- numbers as text -----------------------------------------------------------------------------------------------


def percent(value: float | None, digits: int = 1) -> str:
    return "not known" if value is None else f"{100 * value:.{digits}f}%"


def interval(low: float | None, high: float | None, digits: int = 1, signed: bool = False) -> str:
    """``[90.2, 92.3]`` in percent; empty without ends."""
    if low is None or high is None:
        return ""
    sign = "+" if signed else ""
    return f"[{100 * low:{sign}.{digits}f}, {100 * high:{sign}.{digits}f}]"


def count(value: float | None) -> str:
    """``23.6k``, ``1.98M``."""
    if value is None:
        return "not known"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def mebibytes(value: float | None) -> str:
    return "not known" if value is None else f"{value / 2**20:.1f} MiB"


def p_value(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def ratio(value: float | None, less: str = "smaller") -> str:
    """``1.6x smaller`` for a teacher that has 1.6 times as much, ``1.4x the teacher's`` where the student has more."""
    if value is None or value <= 0:
        return ""
    times = max(value, 1 / value)
    if times < 1.05:
        return "about the teacher's"
    said = f"{times:.2g}" if times < 99.5 else f"{times:.0f}"
    return f"{said}x {less} than the teacher's" if value >= 1 else f"{said}x the teacher's"


# ---- pieces of the page --------------------------------------------------------------------------------------------


def section(prefix: str, name: str, title: str, lead: str, *parts: str) -> str:
    said = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f'<section id="{prefix}{name}"><h2>{escape(title)}</h2>{said}{"".join(parts)}</section>'


def missing(text: str) -> str:
    return f'<p class="missing">{escape(text)}</p>'


def why(run: RunData, table: str) -> str:
    return missing(run.missing.get(table, "The run has nothing of this."))


def card(what: str, value: str, more: str = "", main: bool = False) -> str:
    return (
        f'<div class="card{" main" if main else ""}"><div class="what">{escape(what)}</div>'
        f'<div class="value">{escape(value)}</div><div class="more">{escape(more)}</div></div>'
    )


def command(text: str) -> str:
    return f'<div class="command"><code>{escape(text)}</code></div>'


def plain_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A small table as it stands; columns of ``numbers`` are aligned to the right."""
    right = set(numbers)

    def cells(tag: str, values: Sequence[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(
            f"<{tag}{scope}{' class=number' if i in right else ''}>{escape(str(value))}</{tag}>"
            for i, value in enumerate(values)
        )

    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{cells("th", header)}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def listed(sentences: Iterable[str]) -> str:
    return f'<ul class="says">{"".join(f"<li>{escape(text)}</li>" for text in sentences)}</ul>'
