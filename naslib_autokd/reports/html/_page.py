"""What all parts of a report are made of: charts, tables and cards as text and data, numbers as words."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from naslib_autokd.reports.run_data import Row, RunData

Spec = dict[str, Any]

escape = partial(html.escape, quote=True)


def embedded_json(content: Any) -> str:
    """JSON that may stand in a script element: no text can end it or be read as markup; nan becomes null."""
    text = json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 is escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def plot_text(text: Any) -> str:
    """Text that plotly.js shows as it is: it reads a part of HTML in labels."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Page:
    """What the scripts of the page draw, collected while the text is made."""

    def __init__(self) -> None:
        self._charts: dict[str, Any] = {}
        self._tables: dict[str, Any] = {}
        self._parallel: dict[str, Any] = {}

    def payload(self) -> dict[str, Any]:
        return {"charts": self._charts, "tables": self._tables, "parallel": self._parallel}

    def chart(self, variants: Sequence[tuple[str, list[Spec], Spec]], caption: str = "", height: int = 400) -> str:
        """A figure of one or several views (name, traces, layout) between which the reader switches."""
        name = f"c{len(self._charts)}"
        self._charts[name] = {
            "height": height,
            "variants": [{"name": view, "data": data, "layout": layout} for view, data, layout in variants],
        }
        text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return f'<figure><div class="chart" style="--height:{height}px" data-chart="{name}"></div>{text}</figure>'

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


def line_style(index: int) -> tuple[str, str]:
    """Colour and dash of the index-th of several lines."""
    return f"@c{index % 7}", ("solid", "dash", "dot", "dashdot")[index // 7 % 4]


def axis(title: str, **more: Any) -> Spec:
    return {"title": {"text": plot_text(title)}, **more}


def log_axis(title: str, values: Iterable[float]) -> Spec:
    """With ticks that say the whole number, the more the fewer decades there are."""
    known = [value for value in values if value > 0]
    if not known:
        return axis(title, type="log")
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    span = max(known) / min(known)
    steps: Sequence[float] = (1, 1.5, 2, 3, 5, 7) if span <= 10 else (1, 2, 5) if span <= 100 else (1,)
    ticks = [float(f"{step}e{power}") for power in range(low, high + 1) for step in steps]
    return axis(title, type="log", tickvals=ticks, ticktext=[f"{tick:,.6g}" for tick in ticks])


def step(points: Sequence[Row], x: str, name: str, line: Spec, **more: Any) -> Spec:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plot_text(name),
        "x": [point[x] for point in points],
        "y": [None if point["accuracy"] is None else 100 * point["accuracy"] for point in points],
        "line": {"shape": "hv", **line},
        "hovertemplate": f"{plot_text(name)}<br>%{{x:.4g}}: %{{y:.2f}}%<extra></extra>",
        **more,
    }


def band(rows: Sequence[Row], x: str, low: str, high: str, colour: str, group: str) -> Spec:
    """Between two step curves."""
    xs: list[float] = []
    tops: list[float] = []
    bottoms: list[float] = []
    for k, row in enumerate(rows):
        if k:
            xs.append(row[x])
            tops.append(100 * rows[k - 1][high])
            bottoms.append(100 * rows[k - 1][low])
        xs.append(row[x])
        tops.append(100 * row[high])
        bottoms.append(100 * row[low])
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*xs, *reversed(xs)],
        "y": [*tops, *reversed(bottoms)],
        "fill": "toself",
        "fillcolor": f"{colour}/0.15",
        "line": {"width": 0, "color": f"{colour}/0"},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": group,
    }


def violins(rows: Sequence[Row], order: Sequence[str], *, bounded: bool = False) -> list[Spec]:
    """Of the rows' ``accuracy`` by ``group``; ``bounded`` densities end at the lowest and the highest value."""
    traces = []
    for index, group in enumerate(order):
        colour = f"@c{index % 7}"
        own = [row for row in rows if row["group"] == group]
        common: Spec = {
            "name": plot_text(group),
            "y": [100 * row["accuracy"] for row in own],
            "x": [plot_text(group)] * len(own),
            "text": [f"{row['source']}{', family ' + row['family'] if row['family'] else ''}" for row in own],
            "hovertemplate": "%{text}<br>%{y:.2f}%<extra></extra>",
            "showlegend": False,
            "marker": {"color": colour, "size": 5, "opacity": 0.8},
        }
        if len(own) >= 5:
            points: Any = "all" if len(own) <= 300 else "outliers"
            traces.append(
                {
                    **common,
                    "type": "violin",
                    "points": points,
                    "pointpos": 0,
                    "jitter": 0.35,
                    "spanmode": "hard" if bounded or max(common["y"]) > 99 else "soft",
                    "fillcolor": f"{colour}/0.18",
                    "line": {"color": colour, "width": 1.2},
                    "meanline": {"visible": True},
                    "hoveron": "points",
                }
            )
        else:  # too few for a density
            traces.append({**common, "type": "scatter", "mode": "markers", "marker": {"color": colour, "size": 8}})
    return traces


def teacher_line(run: RunData) -> tuple[list[Spec], list[Spec]]:
    if run.teacher is None or run.teacher["test_accuracy"] is None:
        return [], []
    y = 100 * run.teacher["test_accuracy"]
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "line": {"color": "@muted", "dash": "dot", "width": 1.2},
    }
    note = {
        "xref": "paper", "x": 0, "xanchor": "left", "y": y, "yanchor": "bottom", "showarrow": False,
        "text": "teacher (test)", "font": {"color": "@muted", "size": 11},
    }  # fmt: skip
    return [line], [note]
