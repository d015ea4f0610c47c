"""What all parts of a report are made of: sections, charts, tables and cards as text and data, numbers as words."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from naslib_autokd.escaping import plain
from naslib_autokd.reports.charts.look import PAGE, PALETTES, AnyChart, specification
from naslib_autokd.reports.figures import Figure
from naslib_autokd.reports.results import Row, RunData
from naslib_autokd.reports.tables import Shown

Spec = dict[str, Any]

escape = partial(html.escape, quote=True)


def embedded_json(content: Any) -> str:
    """JSON that may stand in a script element: no text can end it or be read as markup; nan becomes null."""
    try:
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 is escaped
    except ValueError:
        text = json.dumps(plain(content), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class Column(NamedTuple):
    """Of a table to sort and filter."""

    label: str
    field: str
    digits: int | None = None
    """Of a number, which is sorted as one; None for words."""
    factor: float = 1.0
    more: Mapping[str, Any] = {}
    """What else report.js is told: ``filter`` (a choice of its values), ``best`` ("low" where small is good),
    ``failed`` (whether rows without success are red), ``type``."""

    def spec(self) -> Spec:
        kind = "word" if self.digits is None else "number"
        return {"label": self.label, "type": kind, "digits": self.digits, **self.more}

    def value(self, row: Row) -> Any:
        value = row[self.field]
        return round(value * self.factor, 2 * self.digits) if self.digits and value is not None else value


class Page:
    """What the scripts of the page draw, collected while the text is made."""

    def __init__(self) -> None:
        self.figures: Mapping[str, Figure] = {}
        """Charts of the run whose text is made (`charts.run_charts`)."""
        self._payload: dict[str, dict[str, Any]] = {name: {} for name in ("charts", "data", "tables")}

    def payload(self) -> dict[str, Any]:
        return {"config": PAGE, "palettes": {name: PALETTES[name] for name in ("light", "dark")}, **self._payload}

    def _add(self, kind: str, content: Any) -> str:
        """Its key, under which the scripts find it."""
        key = f"{kind[0]}{len(self._payload[kind])}"
        self._payload[kind][key] = content
        return key

    def chart(self, *views: tuple[str, str] | str, caption: str = "") -> str:
        """A figure of one or several views (what the reader chooses by, name of the chart); those that there are."""
        named = [("", view) if isinstance(view, str) else view for view in views]
        found = [(label, self.figures[name].chart) for label, name in named if name in self.figures]
        return self.figure(found, caption) if found else ""

    def figure(self, views: Sequence[tuple[str, AnyChart]], caption: str = "") -> str:
        """The same of charts."""
        variants: list[Spec] = []
        for label, chart in views:
            spec = specification(chart)
            del spec["$schema"], spec["config"]
            found = spec.pop("datasets", {})
            data = self._payload["data"]
            data |= {key: _columnar(rows) for key, rows in found.items() if key not in data}
            variants.append({"name": label, "spec": spec, "data": list(found)})
        key = self._add("charts", variants)
        text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        first = variants[0]["spec"]
        kind = "chart" if "fixed" not in first["usermeta"] else f"chart picture{' one' * ('concat' not in first)}"
        return f'<figure><div class="{kind}" data-chart="{key}"></div>{text}</figure>'

    def table(
        self,
        name: str,
        columns: Sequence[Column],
        rows: Sequence[Row],
        sort: tuple[str, bool],
        marked: tuple[str, Any] | None = None,
        ids: Sequence[Any] | None = None,
    ) -> str:
        """A table to sort and filter; ``sort`` is (column, descending), ``marked`` rows have this value there; rows
        with ``ids`` are those inside the ranges of the charts."""
        place = {column.label: index for index, column in enumerate(columns)}
        values = [[column.value(row) for column in columns] for row in rows]
        order, known = (place[sort[0]], sort[1]), marked and (place[marked[0]], marked[1])
        specs = [column.spec() for column in columns]
        content = {"name": name, "columns": specs, "rows": values, "sort": order, "marked": known, "ids": ids}
        key = self._add("tables", content)
        return f'<div class="grid" data-table="{key}"></div>'


def _columnar(rows: Sequence[Row]) -> Spec:
    """Rows without their names repeated."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return {"columns": columns, "rows": [[row.get(column) for column in columns] for row in rows]}


# ---- numbers as text -----------------------------------------------------------------------------------------------


def shown(name: str, factor: float = 1, form: str = ".1f") -> Callable[[Row], str]:
    """The number of a column as text; empty where it is not known."""
    return lambda row: "" if row.get(name) is None else f"{factor * row[name]:{form}}"


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


@dataclass(frozen=True)
class Section:
    """A part of the page, with a link in its navigation; decorates the function that yields its content."""

    name: str
    link: str
    title: str
    needs: str = ""
    """Table without which only `without`, or why it is empty, is said."""
    without: str = ""
    make: Callable[[Page, RunData], Iterator[str]] = lambda page, run: iter(())

    def __call__(self, make: Callable[[Page, RunData], Iterator[str]]) -> Section:
        return replace(self, make=make)

    def html(self, page: Page, run: RunData, prefix: str) -> str:
        parts = why(run, self.needs, self.without) if self.needs and not run.table(self.needs) else ""
        content = parts or "".join(self.make(page, run))
        return f'<section id="{prefix}{self.name}"><h2>{escape(self.title)}</h2>{content}</section>'


def lead(text: str) -> str:
    return f'<p class="lead">{escape(text)}</p>' if text else ""


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def missing(text: str) -> str:
    return f'<p class="missing">{escape(text)}</p>'


def why(run: RunData, table: str, without: str = "") -> str:
    return missing(without or run.missing.get(table, "The run has nothing of this."))


def cards(*entries: tuple[str, ...] | None) -> str:
    """(what, value, more) each, the first one first; None is left out."""

    def card(index: int, what: str, value: str, more: str = "") -> str:
        return (
            f'<div class="card{"" if index else " main"}"><div class="what">{escape(what)}</div>'
            f'<div class="value">{escape(value)}</div><div class="more">{escape(more)}</div></div>'
        )

    known = [entry for entry in entries if entry is not None]
    return f'<div class="cards">{"".join(card(index, *entry) for index, entry in enumerate(known))}</div>'


def command(text: str) -> str:
    return f'<div class="command"><code>{escape(text)}</code></div>'


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


Columns = Mapping[str, str | Callable[[Row], Any]]
"""Of a table: the head, and what stands below it, by the name in the rows or made of a row."""


def table(rows: Iterable[Any], columns: Columns, words: int = 1) -> str:
    """A small table as it stands; all columns but the first ``words`` are numbers, aligned to the right."""

    def cells(tag: str, values: Iterable[Any], more: str = "") -> str:
        entries = enumerate(values)
        return "".join(f"<{tag}{more}{' class=number' * (i >= words)}>{escape(str(v))}</{tag}>" for i, v in entries)

    values = ([row[of] if isinstance(of, str) else of(row) for of in columns.values()] for row in rows)
    lines = "".join(f"<tr>{cells('td', line)}</tr>" for line in values)
    head = cells("th", columns, ' scope="col"')
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def texts(shown: Shown) -> str:
    """A table that is text already, with its caption."""
    columns = {name: itemgetter(index) for index, name in enumerate(shown.columns)}
    return table(shown.rows, columns, shown.words) + lead(shown.caption)


def listed(sentences: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(text)}</li>" for text in sentences)
    return f'<ul class="says">{lines}</ul>' if lines else ""
