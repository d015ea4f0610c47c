"""A run as one HTML file: opens from disk, without network; charts by plotly.js, which is embedded.

`write_report` reads run folders with `run_data` and writes the page. Texts, numbers and small tables are made here and
escaped; large tables, charts and parallel coordinates are data in the page that ``page/report.js`` draws. Colours in
charts are names of the theme ("@c0", "@muted"), so that light and dark are both drawn from one description.
"""

from __future__ import annotations

import datetime
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from naslib_autokd._version import __version__
from naslib_autokd.reports.run_data import LEAST_ANALYSED, Row, RunData, read_run

Spec = dict[str, Any]

escape = partial(html.escape, quote=True)

MOST_POINTS = 3000
"""Single points that a chart draws; of more, those of the best trials and others with equal distances."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""What a browser lets the page do: nothing that needs a network."""

THEME_SCRIPT = """(() => { let name = null; try { name = localStorage.getItem("report-theme"); } catch {}
if (name !== "dark" && name !== "light") name = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
document.documentElement.dataset.theme = name; })();"""


def write_report(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Read the runs in ``folders`` and write one page about them.

    Raises:
        ValueError: If a folder holds no run, or none is given.
    """
    if not folders:
        raise ValueError("give at least one run folder")
    path = Path(out)
    text = page([read_run(folder) for folder in folders])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def page(runs: Sequence[RunData]) -> str:
    """The whole page, as text."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    builder = _Page()
    many = len(runs) > 1
    body = [_overview(builder, runs)] if many else []
    links: list[tuple[str, str]] = []
    for index, run in enumerate(runs):
        prefix = f"run{index}-" if many else ""
        text, own = _article(builder, run, prefix)
        body.append(text)
        links += [(f"{prefix}top", run.name)] if many else own
    title = runs[0].name if not many else f"{len(runs)} runs"
    navigation = "".join(f'<a href="#{escape(name)}">{escape(text)}</a>' for name, text in links)
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    folder = resources.files("naslib_autokd.reports") / "page"
    css, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en" data-theme="light"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)} - AutoKD report</title>",
            f"<script>{THEME_SCRIPT}</script>",
            f"<style>{css}</style></head><body>",
            f'<header class="top"><div><strong>{escape(title)}</strong><nav aria-label="Sections">{navigation}</nav>'
            '<button type="button" id="theme">Dark</button></div></header>',
            "<main>",
            "<noscript><p class='missing'>Charts and the tables of trials need JavaScript; nothing is loaded from a "
            "network.</p></noscript>",
            *body,
            f"<footer>Made by naslib_autokd {escape(__version__)}, {escape(made)}.</footer>",
            "</main>",
            f'<script type="application/json" id="report-data">{embedded_json(builder.payload())}</script>',
            f"<script>{get_plotlyjs()}</script>",
            f"<script>{script}</script>",
            "</body></html>",
        ]
    )


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


class _Page:
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
    return f"{value:.2g}x {less} than the teacher's" if value >= 1 else f"{1 / value:.2g}x the teacher's"


# ---- pieces of the page --------------------------------------------------------------------------------------------


def _section(prefix: str, name: str, title: str, lead: str, *parts: str) -> str:
    said = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f'<section id="{prefix}{name}"><h2>{escape(title)}</h2>{said}{"".join(parts)}</section>'


def _missing(text: str) -> str:
    return f'<p class="missing">{escape(text)}</p>'


def _why(run: RunData, table: str) -> str:
    return _missing(run.missing.get(table, "The run has nothing of this."))


def _card(what: str, value: str, more: str = "", main: bool = False) -> str:
    return (
        f'<div class="card{" main" if main else ""}"><div class="what">{escape(what)}</div>'
        f'<div class="value">{escape(value)}</div><div class="more">{escape(more)}</div></div>'
    )


def _command(text: str) -> str:
    return f'<div class="command"><code>{escape(text)}</code></div>'


def _plain_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
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


def _listed(sentences: Iterable[str]) -> str:
    return f'<ul class="says">{"".join(f"<li>{escape(text)}</li>" for text in sentences)}</ul>'


def _style(index: int) -> tuple[str, str]:
    """Colour and dash of the index-th of several lines."""
    return f"@c{index % 7}", ("solid", "dash", "dot", "dashdot")[index // 7 % 4]


def _axis(title: str, **more: Any) -> Spec:
    return {"title": {"text": plot_text(title)}, **more}


NAMES = {
    "search": "search",
    "comparison": "comparison of search methods",
    "study": "study of search methods on a benchmark",
    "empty": "run",
}


def _article(builder: _Page, run: RunData, prefix: str) -> tuple[str, list[tuple[str, str]]]:
    """All sections of a run, and the links to them."""
    task = run.task.get("name")
    what = NAMES[run.kind] + (f" on {task}" if task else "")
    if run.kind == "search":
        what += f" with {run.methods[0]}, seed {run.settings.get('seed')}"
    head = f'<h1 id="{prefix}top">{escape(run.name)}</h1><p class="subtitle">{escape(what[0].upper() + what[1:])}</p>'
    if run.problem:
        head += f'<p class="problem" role="alert">{escape(run.problem)}</p>'
    makers = {"search": _SEARCH, "comparison": _COMPARISON, "study": _STUDY, "empty": ()}[run.kind]
    sections, links = [], []
    for name, title, make in makers:
        sections.append(make(builder, run, prefix))
        links.append((prefix + name, title))
    return f"<article>{head}{''.join(sections)}</article>", links


def _overview(builder: _Page, runs: Sequence[RunData]) -> str:
    """Several runs side by side: a line each, and the anytime curves of the searches in one chart."""
    rows = []
    for run in runs:
        answer, student = run.answer, run.answer.get("student") or {}
        rows.append(
            [
                run.name,
                run.kind,
                run.state,
                str(run.task.get("name", answer.get("benchmark", ""))),
                percent(student["test_accuracy"]) if student.get("test_accuracy") is not None else "",
                percent(answer["val_accuracy"]) if answer.get("val_accuracy") is not None else "",
                count(student["n_params"]) if student.get("n_params") else "",
                str(answer.get("n_trials", answer.get("n_jobs", answer.get("n_runs", "")))),
            ]
        )
    header = ["run", "kind", "state", "task", "best student (test)", "incumbent (validation)", "parameters", "trials"]
    parts = [_plain_table(header, rows, (4, 5, 6, 7))]
    searches = [run for run in runs if run.kind == "search" and run.table("anytime")]
    if len(searches) > 1:
        traces = []
        for index, run in enumerate(searches):
            colour, dash = _style(index)
            points = run.table("anytime")
            traces.append(_step(points, "student_epochs", run.name, {"color": colour, "dash": dash, "width": 2.5}))
        layout = {"xaxis": _axis("student-epochs"), "yaxis": _axis("validation accuracy of the incumbent, %")}
        parts.append(builder.chart([("", traces, layout)], "Observed incumbents of the searches."))
    return f'<h1 id="overview">{len(runs)} runs</h1>{"".join(parts)}'


def _step(points: Sequence[Row], x: str, name: str, line: Spec, **more: Any) -> Spec:
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


# ---- the answer ----------------------------------------------------------------------------------------------------


def _answer(builder: _Page, run: RunData, prefix: str) -> str:
    answer = run.answer
    student = answer.get("student")
    parts: list[str] = []
    lead = ""
    if student and student.get("test_accuracy") is not None:
        parts.append(_student_cards(run, student))
        lead = (
            "The student that is kept: of the final students of the incumbent family the best by validation, judged "
            "once on the test images."
        )
    elif answer.get("val_accuracy") is not None:
        lead = "No student has been judged on the test images yet: this is the best family so far, by validation."
        failures = answer["n_failures"]
        parts.append(
            '<div class="cards">'
            + _card("validation accuracy", percent(answer["val_accuracy"]), "of one training", main=True)
            + _card("family", answer["family"])
            + _card("trials", str(answer["n_trials"]), f"{failures} failed")
            + "</div>"
        )
    else:
        parts.append(_missing("Nothing has been found yet: no full training has succeeded."))
    says = _answer_sentences(run)
    if says:
        parts.append(_listed(says))
    if run.export_command:
        parts.append("<h3>Take it with you</h3>" + _command(run.export_command))
    return _section(prefix, "answer", "The answer", lead, *parts)


def _student_cards(run: RunData, student: Mapping[str, Any]) -> str:
    teacher = run.teacher or {}
    ends = interval(student.get("test_accuracy_low"), student.get("test_accuracy_high"))
    over = f"95% over {student['n_test']:,} test images" if student.get("n_test") else ""
    cards = [_card("test accuracy", percent(student["test_accuracy"]), f"{ends} {over}".strip(), main=True)]
    if student.get("difference") is not None:
        difference = f"{100 * student['difference']:+.1f} points"
        ends = interval(student.get("difference_low"), student.get("difference_high"), signed=True)
        cards.append(
            _card("against the teacher", difference, f"{ends} teacher {percent(teacher['test_accuracy'])}".strip())
        )
    elif teacher.get("test_accuracy") is not None:
        cards.append(_card("teacher", percent(teacher["test_accuracy"])))
    cards += [
        _card("parameters", count(student["n_params"]), ratio(student.get("params_ratio"), "fewer")),
        _card("multiply-adds per image", count(student["macs"]), ratio(student.get("macs_ratio"), "fewer")),
        _card(
            "memory of a training step", mebibytes(student["train_memory_bytes"]), ratio(student.get("memory_ratio"))
        ),
    ]
    if student.get("test_agreement") is not None:
        cards.append(_card("agrees with the teacher", percent(student["test_agreement"]), "same class on test images"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _answer_sentences(run: RunData) -> list[str]:
    answer = run.answer
    says = []
    if run.kind == "comparison":
        if answer.get("student_method"):
            says.append(
                f"The student above is the best by validation of {answer['student_method']} "
                f"(seed {answer['student_seed']})."
            )
        return [*says, *run.conclusions]
    if answer.get("family_accuracy") is not None:
        n = answer["family_accuracy_n"]
        ends = interval(answer["family_accuracy_low"], answer["family_accuracy_high"])
        says.append(
            f"The family: {n} student{'s' * (n > 1)} of family {answer['family']} trained in full reach "
            f"{percent(answer['family_accuracy'])} {ends} test accuracy"
            + (", mean and 95% interval over wirings and weight seeds." if ends else " (one student: no interval).")
        )
    if answer.get("expected_cost") is not None:
        says.append(
            f"The search expects {percent(1 - answer['expected_cost'])} validation accuracy of a student of this "
            "family; it chose by this expectation, not by the luckiest training."
        )
    elif answer.get("family") and not answer.get("student"):
        says.append(f"Incumbent so far: family {answer['family']}, by the observed mean of its full trainings.")
    if answer.get("n_trials"):
        spent = f"{answer['n_trials']} trials ({answer['n_failures']} failed)"
        spent += f", {answer['student_epochs']:.0f} student-epochs"
        if answer.get("seconds"):
            spent += f", {_duration(answer['seconds'])}"
        stopped = {
            "n_trials": "the number of trials",
            "student_epochs": "the student-epochs",
            "wall_s": "the time",
            "target_cost": "the accuracy that was aimed at",
        }.get(answer.get("stop_reason", ""))
        says.append(f"Spent: {spent}." + (f" What ended it: {stopped}." if stopped else ""))
    return says


def _duration(seconds: float) -> str:
    from naslib_autokd.runners.session import duration

    return duration(seconds)


# ---- anytime -------------------------------------------------------------------------------------------------------

AXES = (
    ("student-epochs", "student_epochs", "spent_epochs"),
    ("trials", "trials", "place"),
    ("seconds", "seconds", "spent_s"),
)


def _anytime(builder: _Page, run: RunData, prefix: str) -> str:
    points = run.table("anytime")
    if not points:
        return _section(prefix, "anytime", "During the search", "", _why(run, "anytime"))
    trials = [{**row, "place": place} for place, row in enumerate(run.table("trials"), start=1)]
    largest = max((row["budget_epochs"] for row in trials if row["status"] == "success"), default=0)
    full = _thinned([row for row in trials if row["status"] == "success" and row["budget_epochs"] == largest])
    variants = []
    for name, column, own in AXES:
        traces: list[Spec] = [
            {
                "type": "scatter",
                "mode": "markers",
                "name": "full trainings",
                "x": [row[own] for row in full],
                "y": [100 * row["val_accuracy"] for row in full],
                "text": [f"trial {row['number']}, family {row['family']}" for row in full],
                "hovertemplate": "%{text}<br>%{y:.2f}%<extra></extra>",
                "marker": {"color": "@soft", "size": 5, "opacity": 0.75},
            },
            _step(points, column, "incumbent", {"color": "@c0", "width": 2.5}),
        ]
        shapes, notes = _teacher_line(run)
        layout = {
            "xaxis": _axis(name, rangemode="tozero"),
            "yaxis": _axis("validation accuracy, %"),
            "shapes": shapes,
            "annotations": notes,
        }
        variants.append((name, traces, layout))
    lead = "The incumbent is the family with the best mean of its trainings at the largest budget so far."
    return _section(prefix, "anytime", "During the search", lead, builder.chart(variants), _budget_agreement(run))


def _thinned(rows: list[Row]) -> list[Row]:
    """At most `MOST_POINTS`, the best among them, in their order."""
    if len(rows) <= MOST_POINTS:
        return rows
    best = sorted(range(len(rows)), key=lambda i: -(rows[i]["val_accuracy"] or 0))[: MOST_POINTS // 3]
    step = len(rows) / (MOST_POINTS - len(best))
    kept = {*best, *(int(i * step) for i in range(MOST_POINTS - len(best)))}
    return [rows[i] for i in sorted(kept)]


def _teacher_line(run: RunData) -> tuple[list[Spec], list[Spec]]:
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


def _budget_agreement(run: RunData) -> str:
    rows = [row for row in run.table("budget_agreement") if row["kendall_tau"] is not None]
    if not rows:
        return ""
    several = len({row["run_seed"] for row in rows}) > 1
    return _listed(
        f"Rank agreement of {row['low']} with {row['high']} epochs: Kendall's tau {row['kendall_tau']:+.2f} over "
        f"{row['n']} families trained with both" + (f" (seed {row['run_seed']})." if several else ".")
        for row in rows
    )


def _comparison_anytime(builder: _Page, run: RunData, prefix: str) -> str:
    points = run.table("anytime")
    if not points:
        return _section(prefix, "anytime", "During the searches", "", _missing("No search has an incumbent yet."))
    traces: list[Spec] = []
    one_shot = False
    for index, method in enumerate(run.methods):
        colour, _ = _style(index)
        own = [row for row in points if row["method"] == method]
        dash = "dash" if any(row["one_shot"] for row in own) else "solid"
        one_shot |= dash == "dash"
        mean = [row for row in run.table("anytime_mean") if row["method"] == method]
        banded = [row for row in mean if row["low"] is not None and row["high"] is not None]
        if banded:
            traces.append(_band(banded, "student_epochs", "low", "high", colour, method))
        for seed in dict.fromkeys(row["seed"] for row in own):
            line = {"color": f"{colour}/0.35", "width": 1, "dash": dash}
            curve = _step([row for row in own if row["seed"] == seed], "student_epochs", f"{method}, seed {seed}", line)
            traces.append({**curve, "showlegend": False, "legendgroup": method})
        if mean:
            line = {"color": colour, "width": 2.8, "dash": dash}
            traces.append(_step(mean, "student_epochs", method, line, legendgroup=method))
    shapes, notes = _teacher_line(run)
    layout = {
        "xaxis": _axis("student-epochs spent on the search", rangemode="tozero"),
        "yaxis": _axis("accuracy, %"),
        "shapes": shapes,
        "annotations": notes,
    }
    lead = (
        "Validation accuracy of the incumbent: thin lines are seeds, thick ones their mean with a 95% bootstrap band."
    )
    if one_shot:
        lead += (
            " Dashed: a supernet with shared weights on the images that train its architecture, which says little "
            "about the network that is cut out of it."
        )
    return _section(prefix, "anytime", "During the searches", lead, builder.chart([("", traces, layout)], height=440))


def _band(rows: Sequence[Row], x: str, low: str, high: str, colour: str, group: str) -> Spec:
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


# ---- trials --------------------------------------------------------------------------------------------------------


def _column(label: str, digits: int | None = None, **more: Any) -> Spec:
    return {"label": label, "type": "word" if digits is None else "number", "digits": digits, **more}


def _trials(builder: _Page, run: RunData, prefix: str) -> str:
    rows = run.table("trials")
    title = "Every trial"
    if not rows:
        return _section(prefix, "trials", title, "", _why(run, "trials"))
    several = run.kind == "comparison"

    def scaled(value: float | None, factor: float, digits: int) -> float | None:
        return None if value is None else round(value * factor, digits)

    columns: list[tuple[Spec, Any]] = [
        (_column("trial", 0), lambda row: row["number"]),
        (_column("family"), lambda row: row["family"]),
        (_column("epochs", 0, filter=True), lambda row: row["budget_epochs"]),
        (_column("status", filter=True, failed=True), lambda row: row["status"]),
        (_column("validation, %", 2), lambda row: scaled(row["val_accuracy"], 100, 4)),
        (_column("train, %", 2), lambda row: scaled(row["train_accuracy"], 100, 4)),
        (_column("agrees, %", 2), lambda row: scaled(row["teacher_agreement"], 100, 4)),
        (_column("parameters", 0, best="low"), lambda row: row["n_params"]),
        (_column("MMACs", 2, best="low"), lambda row: scaled(row["macs"], 1e-6, 4)),
        (_column("train MiB", 1, best="low"), lambda row: scaled(row["train_memory_bytes"], 2**-20, 2)),
        (_column("depth", 0), lambda row: row["depth"]),
        (_column("seconds", 1, best="low"), lambda row: scaled(row["seconds"], 1, 2)),
        ({"label": "reason", "type": "text"}, lambda row: row["message"]),
    ]
    if several:
        columns.insert(0, (_column("seed", 0, filter=True), lambda row: row["run_seed"]))
        columns.insert(0, (_column("method", filter=True), lambda row: row["method"]))
    if not any(row["message"] for row in rows):
        columns.pop()
    labels = [column["label"] for column, _ in columns]
    table = builder.table(
        "trials",
        [column for column, _ in columns],
        [[value(row) for _, value in columns] for row in rows],
        sort=(labels.index("validation, %"), True),
        marked=(labels.index("family"), run.answer["family"]) if run.answer.get("family") else None,
    )
    failed = [row for row in run.table("failures") if "status" in row]
    why = ""
    if failed:
        n = sum(row["n"] for row in failed)
        why = f"<h3>{n} failed</h3>" + _plain_table(
            ["status", "reason", "trials"],
            [[r["status"], r["message"] or "no message", str(r["n"])] for r in failed[:20]],
            (2,),
        )
    lead = f"{len(rows):,} trials. " + ("The incumbent family is marked. " if run.answer.get("family") else "")
    lead += "" if failed else run.missing.get("failures", "")
    return _section(prefix, "trials", title, lead.strip(), why, table)


# ---- the family ----------------------------------------------------------------------------------------------------


def _violins(rows: Sequence[Row], order: Sequence[str]) -> list[Spec]:
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
                    "spanmode": "soft" if max(common["y"]) < 99 else "hard",
                    "fillcolor": f"{colour}/0.18",
                    "line": {"color": colour, "width": 1.2},
                    "meanline": {"visible": True},
                    "hoveron": "points",
                }
            )
        else:  # too few for a density
            traces.append({**common, "type": "scatter", "mode": "markers", "marker": {"color": colour, "size": 8}})
    return traces


def _family(builder: _Page, run: RunData, prefix: str) -> str:
    rows = [row for row in run.table("families") if row["accuracy"] is not None]
    parts = []
    if rows:
        order = list(dict.fromkeys(row["group"] for row in rows))
        layout = {"xaxis": {"type": "category", "automargin": True}, "yaxis": _axis("validation accuracy, %")}
        lead = (
            "A family is a distribution over wirings: each point is a full training of one wiring and weight seed. "
            "Fewer than five points are drawn without a density."
        )
        parts.append(builder.chart([("", _violins(rows, order), layout)], height=380))
    else:
        lead = ""
        parts.append(_why(run, "families"))
    finals = run.table("finals")
    if finals:
        parts.append("<h3>Final students</h3>" + _finals_table(finals, False))
    else:
        parts.append(_why(run, "finals"))
    parts.append(_pictures(run))
    return _section(prefix, "family", "The family", lead, *parts)


def _finals_table(finals: Sequence[Row], several: bool) -> str:
    header = [*(["method", "seed"] if several else []), "student", "validation", "test", "agrees with the teacher"]
    header += ["parameters", "MMACs", "training memory", "seconds"]

    def cells(row: Row) -> list[str]:
        name = f"{row['index']}{' (kept)' if row['kept'] else ''}"
        name += "" if row["status"] == "success" else f", {row['status']}"
        return [
            *([row["method"], str(row["seed"])] if several else []),
            name,
            percent(row["val_accuracy"]),
            percent(row["test_accuracy"]),
            percent(row["test_agreement"]),
            f"{row['n_params']:,}" if row["n_params"] is not None else "",
            f"{row['macs'] / 1e6:.2f}" if row["macs"] is not None else "",
            mebibytes(row["train_memory_bytes"]),
            f"{row['seconds']:.1f}" if row["seconds"] is not None else "",
        ]

    return _plain_table(header, [cells(row) for row in finals], range(3 if several else 1, len(header)))


def _pictures(run: RunData) -> str:
    return ""


def _comparison_family(builder: _Page, run: RunData, prefix: str) -> str:
    rows = run.table("families")
    title = "What was found"
    if not rows:
        return _section(prefix, "family", title, "", _why(run, "finals"))
    layout = {"xaxis": {"type": "category", "automargin": True}, "yaxis": _axis("test accuracy, %")}
    shapes, notes = _teacher_line(run)
    order = [method for method in run.methods if any(row["group"] == method for row in rows)]
    chart = builder.chart([("", _violins(rows, order), {**layout, "shapes": shapes, "annotations": notes})], height=380)
    lead = "Final students of all seeds, each trained from scratch under the same protocol and judged once."
    table = _finals_table(run.table("finals"), True)
    if len(run.table("finals")) > 12:
        table = f"<details><summary>All {len(run.table('finals'))} final students</summary>{table}</details>"
    return _section(prefix, "family", title, lead, chart, table, _pictures(run))


# ---- settings ------------------------------------------------------------------------------------------------------

PRETTY = {"temperature": "KD temperature", "kd_weight": "KD weight"}


def _pretty(name: str) -> str:
    return PRETTY.get(name, name.replace("_", " "))


def _settings(builder: _Page, run: RunData, prefix: str) -> str:
    title = "Settings of generator and distillation"
    meta = run.table("hyperparameters")
    rows = [row for row in run.table("settings") if row["val_accuracy"] is not None]
    if not meta or not rows:
        return _section(prefix, "settings", title, "", _why(run, "settings"))
    largest = max(row["budget_epochs"] for row in rows)
    rows = _thinned([row for row in rows if row["budget_epochs"] == largest])
    parts = [_parallel(builder, meta, rows)]
    if run.table("dependence"):
        r2 = run.table("importance")[0]["r2"]
        parts.append(
            "<h3>Partial dependence</h3><p class='lead'>Mean validation error by a forest fitted to the trials (R2 "
            f"{r2:.2f} on held-out families) when one setting is changed and the others are drawn from the space; the "
            "band holds 80% of the single curves. Where R2 is low, the curves mean little.</p>"
        )
        parts.append(_dependence(builder, run))
    else:
        why = run.missing.get("dependence", "")
        parts.append(
            f"<h3>Accuracy by setting</h3><p class='lead'>{escape(f'The full trainings themselves. {why}')}</p>"
        )
        parts.append(_scatter(builder, meta, rows))
    lead = f"Successful trainings of {largest} epochs, the largest budget."
    return _section(prefix, "settings", title, lead, *parts)


def _parallel(builder: _Page, meta: Sequence[Row], rows: Sequence[Row]) -> str:
    axes: list[Spec] = []
    columns: list[list[Any]] = []
    for entry in meta:
        values = [row.get(entry["name"]) for row in rows]
        known = [value for value in values if value is not None]
        if len(set(map(str, known))) < 2:
            continue
        number = entry["type"] == "number"
        choices = [] if number else [name for name in entry["choices"] if name in set(map(str, known))]
        axes.append(
            {
                "label": _pretty(entry["name"]),
                "log": bool(entry["log"]) and number,
                "low": min(known) if number else None,
                "high": max(known) if number else None,
                "choices": choices,
            }
        )
        columns.append([None if v is None else v if number else choices.index(str(v)) for v in values])
    accuracy = [100 * row["val_accuracy"] for row in rows]
    axes.append({"label": "validation, %", "log": False, "low": min(accuracy), "high": max(accuracy), "choices": []})
    columns.append(accuracy)
    return builder.parallel(axes, [list(line) for line in zip(*columns, strict=True)])


def _panels(charts: Sequence[str]) -> str:
    return f'<div class="small">{"".join(charts)}</div>'


def _setting_axis(name: str, values: Sequence[Any], log: bool) -> Spec:
    """Of a small chart: words, few whole numbers as they are, else linear or (over a factor of 4) logarithmic."""
    if any(isinstance(value, str) for value in values):
        return _axis(_pretty(name), type="category")
    known = sorted(set(values))
    if len(known) <= 8 and all(isinstance(value, int) for value in known):
        return _axis(_pretty(name), type="linear", tickvals=known)
    if log and known[0] > 0 and known[-1] / known[0] > 4:
        return _axis(_pretty(name), type="log", dtick="D2")
    return _axis(_pretty(name), type="linear")


def _dependence(builder: _Page, run: RunData) -> str:
    rows = run.table("dependence")
    low = 100 * min(row["low"] for row in rows)
    high = 100 * max(row["high"] for row in rows)
    margin = 0.05 * (high - low) or 1.0
    charts = []
    for name in dict.fromkeys(row["hyperparameter"] for row in rows):
        own = [row for row in rows if row["hyperparameter"] == name]
        numeric = all(not isinstance(row["value"], str) for row in own)
        x = [row["value"] if numeric else plot_text(row["value"]) for row in own]
        mean = [100 * row["mean"] for row in own]
        xaxis = _setting_axis(name, [row["value"] for row in own], own[0]["log"])
        line: Spec = {
            "type": "scatter", "mode": "lines+markers" if numeric else "markers", "x": x, "y": mean,
            "showlegend": False,
            "line": {"color": "@c0", "width": 2}, "marker": {"color": "@c0", "size": 6 if numeric else 9},
            "hovertemplate": "%{x}: %{y:.2f}%<extra></extra>",
        }  # fmt: skip
        traces: list[Spec] = [line]
        if numeric:
            band = [100 * row["high"] for row in own] + [100 * row["low"] for row in reversed(own)]
            traces.insert(
                0,
                {
                    "type": "scatter", "mode": "lines", "x": [*x, *reversed(x)], "y": band, "fill": "toself",
                    "fillcolor": "@c0/0.15", "line": {"width": 0, "color": "@c0/0"}, "hoverinfo": "skip",
                    "showlegend": False,
                },
            )  # fmt: skip
        else:
            line["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": [100 * (row["high"] - row["mean"]) for row in own],
                "arrayminus": [100 * (row["mean"] - row["low"]) for row in own],
                "color": "@c0/0.5",
            }
        yaxis = _axis("error, %", range=[low - margin, high + margin])
        charts.append(builder.chart([("", traces, {"xaxis": xaxis, "yaxis": yaxis})], height=215))
    return _panels(charts)


def _scatter(builder: _Page, meta: Sequence[Row], rows: Sequence[Row]) -> str:
    charts = []
    low, high = (100 * end(row["val_accuracy"] for row in rows) for end in (min, max))
    margin = 0.06 * (high - low) or 1.0
    for entry in meta:
        own = [row for row in rows if row.get(entry["name"]) is not None]
        if len({str(row[entry["name"]]) for row in own}) < 2:
            continue
        number = entry["type"] == "number"
        trace = {
            "type": "scatter", "mode": "markers", "showlegend": False,
            "x": [row[entry["name"]] if number else plot_text(row[entry["name"]]) for row in own],
            "y": [100 * row["val_accuracy"] for row in own],
            "text": [f"trial {row['number']}" for row in own],
            "hovertemplate": "%{text}<br>%{x}: %{y:.2f}%<extra></extra>",
            "marker": {"color": "@c0", "size": 7, "opacity": 0.75},
        }  # fmt: skip
        xaxis = _setting_axis(entry["name"], [row[entry["name"]] for row in own], bool(entry["log"]))
        layout = {"xaxis": xaxis, "yaxis": _axis("validation, %", range=[low - margin, high + margin])}
        charts.append(builder.chart([("", [trace], layout)], height=215))
    return _panels(charts)


def _importance(builder: _Page, run: RunData, prefix: str) -> str:
    rows = run.table("importance")
    title = "What matters"
    if not rows:
        return _section(prefix, "importance", title, "", _why(run, "importance"))
    shown = list(reversed(rows))
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [100 * row["importance"] for row in shown],
        "y": [plot_text(_pretty(row["hyperparameter"])) for row in shown],
        "error_x": {"type": "data", "array": [100 * row["sd"] for row in shown], "color": "@muted", "thickness": 1.2},
        "marker": {"color": "@c0"},
        "hovertemplate": "%{y}: %{x:.1f}%<extra></extra>",
    }
    layout = {
        "xaxis": _axis("what shuffling it costs, % of the variance"),
        "yaxis": {"type": "category"},
        "bargap": 0.35,
    }
    r2, n = rows[0]["r2"], rows[0]["n"]
    lead = (
        f"Permutation importance of a random forest on held-out families, {n} full trainings, R2 {r2:.2f}; bars are "
        "one standard deviation over folds. Settings that depend on each other share their importance."
    )
    if r2 < 0.2:
        lead += " With so low an R2 the trials do not say what matters."
    if n < 3 * LEAST_ANALYSED:
        lead += " So few trainings give a rough picture at best."
    chart = builder.chart([("", [trace], layout)], height=90 + 30 * len(rows))
    return _section(prefix, "importance", title, lead, chart)


# ---- front ---------------------------------------------------------------------------------------------------------


def _front(builder: _Page, run: RunData, prefix: str) -> str:
    from naslib_autokd.reports.front import UNITS

    rows = run.table("front")
    title = "Pareto front"
    if not rows:
        return _section(prefix, "front", title, "", _why(run, "front"))
    objectives = [name for name in rows[0] if name in UNITS and name != "error"]
    variants = []
    for name in objectives:
        label, factor = UNITS[name]
        observed = [row for row in rows if not row["expected"]]
        front = sorted((row for row in rows if row["on_front"]), key=lambda row: row[name])
        expected = any(row["expected"] for row in front)

        def points(own: Sequence[Row], name: str = name, factor: float = factor) -> Spec:
            return {
                "type": "scatter",
                "x": [row[name] * factor for row in own],
                "y": [100 * row["error"] for row in own],
                "text": [f"family {row['family']}" for row in own],
                "hovertemplate": "%{text}<br>%{x:.4g}, error %{y:.2f}%<extra></extra>",
            }

        traces = [
            {**points(observed), "mode": "markers", "name": "full trainings", "marker": {"color": "@soft", "size": 6}},
            {
                **points(front),
                "mode": "markers" if len(objectives) > 1 else "lines+markers",
                "name": "front, expected" if expected else "front, observed",
                "marker": {"color": "@c0", "size": 9},
                "line": {"color": "@c0", "width": 1.2, "shape": "hv"},
            },
        ]
        layout = {"xaxis": _axis(label, type="log", dtick="D2"), "yaxis": _axis("validation error, %")}
        variants.append((label.split(",")[0], traces, layout))
    front = sorted((row for row in rows if row["on_front"]), key=lambda row: row["error"])
    names = ["error", *objectives]
    table = _plain_table(
        ["family", *(UNITS[name][0] for name in names)],
        [[row["family"], *(f"{row[name] * UNITS[name][1]:.4g}" for name in names)] for row in front],
        range(1, len(names) + 1),
    )
    lead = "Families that no other beats in all objectives."
    return _section(prefix, "front", title, lead, builder.chart(variants), table)


# ---- teacher and student on the test images -----------------------------------------------------------------------


def _calibration(builder: _Page, run: RunData, prefix: str) -> str:
    title = "Calibration, and agreement with the teacher"
    rows = run.table("calibration")
    parts = []
    if rows:
        method = rows[0]["method"]
        parts.append('<div class="two"><div>' + _reliability(builder, rows, method) + "</div><div>")
        parts.append(_agreement(run, method) + "</div></div>")
    else:
        parts.append(_why(run, "calibration"))
    trials = [
        row for row in run.table("trials") if row["teacher_agreement"] is not None and row["val_accuracy"] is not None
    ]
    if trials:
        parts.append("<h3>Agreement over the search</h3>" + _agreement_scatter(builder, trials))
    lead = ""
    if rows:
        lead = "The kept student on the test images: how sure it is, how often it is right then; and its teacher."
        if run.kind == "comparison":
            lead = f"{rows[0]['method']}: the kept students of all seeds on the test images, together."
    return _section(prefix, "calibration", title, lead, *parts)


def expected_calibration_error(rows: Sequence[Row]) -> float | None:
    """Mean gap of confidence and accuracy over the bins of one table ``calibration``, weighted by images."""
    known = [row for row in rows if row["n"]]
    total = sum(row["n"] for row in known)
    return sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in known) / total if total else None


def _reliability(builder: _Page, rows: Sequence[Row], method: str) -> str:
    traces: list[Spec] = [
        {
            "type": "scatter", "mode": "lines", "x": [0, 100], "y": [0, 100], "name": "perfect", "hoverinfo": "skip",
            "line": {"color": "@muted", "dash": "dot", "width": 1.2},
        }
    ]  # fmt: skip
    errors = []
    for who, colour in (("teacher", "@c1"), ("student", "@c0")):
        own = [row for row in rows if row["who"] == who and row["method"] == method]
        error = expected_calibration_error(own)
        if error is None:
            continue
        errors.append(f"{who} {100 * error:.1f} points")
        known = [row for row in own if row["n"]]
        most = max(row["n"] for row in known)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": who,
                "x": [100 * row["confidence"] for row in known],
                "y": [100 * row["accuracy"] for row in known],
                "text": [f"{row['n']:,} images" for row in known],
                "hovertemplate": who + "<br>%{text}: confidence %{x:.1f}%, right %{y:.1f}%<extra></extra>",
                "marker": {"color": colour, "size": [5 + 11 * math.sqrt(row["n"] / most) for row in known]},
                "line": {"color": colour, "width": 1.5},
            }
        )
    layout = {"xaxis": _axis("confidence, %", range=[0, 102]), "yaxis": _axis("right, %", range=[0, 104])}
    caption = f"Expected calibration error: {', '.join(reversed(errors))}. Larger dots hold more images."
    return builder.chart([("", traces, layout)], caption, height=360)


CASES = {
    "both": "both are right",
    "student": "only the student is right",
    "teacher": "only the teacher is right",
    "same_error": "both are wrong in the same way",
    "other_error": "both are wrong in different ways",
}


def _agreement(run: RunData, method: str) -> str:
    rows = [row for row in run.table("agreement") if row["method"] == method]
    total = sum(row["n"] for row in rows)
    if not total:
        return _why(run, "agreement")
    cells = [[CASES[row["case"]], f"{row['n']:,}", percent(row["n"] / total)] for row in rows]
    return "<h3>Who is right</h3>" + _plain_table(["on test images", "n", "share"], cells, (1, 2))


def _agreement_scatter(builder: _Page, trials: Sequence[Row]) -> str:
    own = _thinned(list(trials))
    budgets = sorted({row["budget_epochs"] for row in own})
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"{budget} epochs",
            "x": [100 * row["teacher_agreement"] for row in own if row["budget_epochs"] == budget],
            "y": [100 * row["val_accuracy"] for row in own if row["budget_epochs"] == budget],
            "text": [f"trial {row['number']}" for row in own if row["budget_epochs"] == budget],
            "hovertemplate": "%{text}<br>agreement %{x:.2f}%, accuracy %{y:.2f}%<extra></extra>",
            "marker": {"color": f"@c{index % 7}", "size": 6, "opacity": 0.75},
        }
        for index, budget in enumerate(reversed(budgets))
    ]
    layout = {
        "xaxis": _axis("names the teacher's class, % of validation images"),
        "yaxis": _axis("validation accuracy, %"),
    }
    return builder.chart([("", traces, layout)], height=340)


def _confusion(builder: _Page, run: RunData, prefix: str) -> str:
    rows = run.table("confusion")
    title = "Confusion matrix"
    if not rows:
        return _section(prefix, "confusion", title, "", _why(run, "confusion"))
    method = rows[0]["method"]
    names = list(run.classes)
    place = {name: index for index, name in enumerate(names)}
    variants = []
    for who in ("student", "teacher"):
        matrix = [[0] * len(names) for _ in names]
        for row in rows:
            if row["method"] == method and row["who"] == who:
                matrix[place[row["true"]]][place[row["predicted"]]] += row["n"]
        totals = [max(1, sum(line)) for line in matrix]
        shares = [[100 * n / total for n in line] for line, total in zip(matrix, totals, strict=True)]
        errors = [[None if i == j else value for j, value in enumerate(line)] for i, line in enumerate(shares)]
        trace: Spec = {
            "type": "heatmap",
            "x": [plot_text(name) for name in names],
            "y": [plot_text(name) for name in names],
            "z": errors,
            "customdata": matrix,
            "hovertemplate": "true %{y}, said %{x}<br>%{customdata} images, %{z:.1f}%<extra></extra>",
            "colorscale": [[0, "@bg"], [1, "@heat"]],
            "zmin": 0,
            "showscale": len(names) > 12,
            "colorbar": {"title": {"text": "%"}, "thickness": 12},
            "hoverongaps": False,
            "xgap": 1,
            "ygap": 1,
        }
        layout: Spec = {
            "xaxis": _axis("said", type="category", showgrid=False),
            "yaxis": _axis("true", type="category", autorange="reversed", showgrid=False),
            "annotations": [],
        }
        if len(names) <= 12:
            layout["annotations"] = [
                {
                    "x": j, "y": i, "text": str(matrix[i][j]), "showarrow": False,
                    "font": {"color": "@text" if matrix[i][j] else "@muted", "size": 11},
                }
                for i in range(len(names))
                for j in range(len(names))
                if matrix[i][j]
            ]  # fmt: skip
        variants.append((who, [trace], layout))
    wrong = sorted(
        (r for r in rows if r["method"] == method and r["who"] == "student" and r["true"] != r["predicted"]),
        key=lambda row: -row["n"],
    )[:8]
    table = _plain_table(["true", "said", "images"], [[r["true"], r["predicted"], str(r["n"])] for r in wrong], (2,))
    lead = "Counts on the test images; the colour is the share of the true class that is taken for another."
    if run.kind == "comparison":
        lead += f" {method}, all seeds together."
    chart = builder.chart(variants, height=min(760, 170 + 34 * len(names)))
    if not wrong:
        return _section(prefix, "confusion", title, lead, chart)
    errors_table = f"<h3>Most frequent errors of the student</h3>{table}"
    return _section(
        prefix, "confusion", title, lead, f'<div class="two left"><div>{chart}</div><div>{errors_table}</div></div>'
    )


# ---- several methods -----------------------------------------------------------------------------------------------


def _comparison_answer(builder: _Page, run: RunData, prefix: str) -> str:
    text = _answer(builder, run, prefix)
    rows = run.table("methods")
    if not rows:
        return text
    return text.removesuffix("</section>") + "<h3>Methods</h3>" + _methods_table(run) + "</section>"


def _methods_table(run: RunData) -> str:
    tests = {row["method"]: row for row in run.table("tests")}
    first = run.table("methods")[0]["method"]
    several = any(row["test_accuracy"] != row["mean_test_accuracy"] for row in run.table("methods"))
    header = ["method", "n", "kept student, %", *(["mean student, %"] if several else []), f"{first} minus it"]
    header += ["agrees, %", "parameters", "MMACs", "train MiB", "search CPU s", "trained"]
    lines = []
    for row in run.table("methods"):
        test = tests.get(row["method"])
        minus = ""
        if test is not None:
            minus = f"{100 * test['difference']:+.1f} {interval(test['low'], test['high'], signed=True)}".strip()
        lines.append(
            [
                row["method"],
                str(row["n"]),
                f"{100 * row['test_accuracy']:.1f} {interval(row['test_accuracy_low'], row['test_accuracy_high'])}",
                *(
                    [f"{100 * row['mean_test_accuracy']:.1f} "
                     f"{interval(row['mean_test_accuracy_low'], row['mean_test_accuracy_high'])}"]
                    if several
                    else []
                ),
                minus,
                f"{100 * row['teacher_agreement']:.1f}",
                count(row["n_params"]),
                f"{row['macs'] / 1e6:.2f}",
                f"{row['train_memory_bytes'] / 2**20:.1f}",
                f"{row['search_cpu_s']:.0f}",
                f"{row['n_students']:.0f}",
            ]
        )  # fmt: skip
    teacher = run.teacher
    if teacher is not None and teacher["n_params"] is not None:
        cells = [""] * len(header)
        cells[0], cells[2] = "teacher", f"{100 * teacher['test_accuracy']:.1f}"
        cells[-5:-2] = [
            count(teacher["n_params"]),
            f"{teacher['macs'] / 1e6:.2f}",
            f"{teacher['train_memory_bytes'] / 2**20:.1f}",
        ]
        lines.append(cells)
    note = "Means over seeds with 95% t intervals; the difference is paired by seed, of the mean of a seed's students."
    return _plain_table(header, lines, range(1, len(header))) + f"<p class='lead'>{escape(note)}</p>"


def _statistics(builder: _Page, run: RunData, prefix: str) -> str:
    tests, ranks = run.table("tests"), run.table("ranks")
    parts = []
    study = run.kind == "study"
    if tests:
        first = run.answer.get("reference", run.methods[0] if run.methods else "")
        header = ["method", "pairs", "difference, points", "it is better in"]
        header += [*([] if study else ["p (paired t)"]), "p (Wilcoxon)", "p (Holm)"]
        lines = [
            [
                row["method"],
                str(row["n"]),
                "not known"
                if row["difference"] is None
                else f"{100 * row['difference']:+.2f} {interval(row['low'], row['high'], 2, signed=True)}".strip(),
                f"{round(row['share_better'] * row['n'])} of {row['n']}",
                *([] if study else [p_value(row["p_value"])]),
                p_value(row["p_wilcoxon"]),
                p_value(row.get("p_holm")),
            ]
            for row in tests
        ]
        what = (
            f"Final regret of each method minus that of {first} on the same seeds (Hodges and Lehmann's shift with its "
            "95% interval): positive means that the method is worse."
            if study
            else f"{first} minus each method on the same seeds, of the mean test accuracy of a seed's final students: "
            f"positive means that {first} is better. Intervals and the t test assume normal differences, Wilcoxon's "
            "signed-rank test does not; Holm's correction is over the methods."
        )
        parts.append(f"<h3>Paired differences</h3><p class='lead'>{escape(what)}</p>")
        parts.append(
            _difference_chart(
                builder, tests, f"{'method minus ' if study else ''}{first}{'' if study else ' minus method'}, points"
            )
        )
        parts.append(_plain_table(header, lines, range(1, len(header))))
    else:
        parts.append(_missing("There is nothing to pair: it takes two methods with results on the same seed."))
    if ranks:
        parts.append("<h3>Average ranks</h3>" + _rank_chart(builder, ranks))
    else:
        parts.append(_why(run, "ranks"))
    return _section(prefix, "statistics", "Statistics", "", *parts)


def _difference_chart(builder: _Page, tests: Sequence[Row], label: str) -> str:
    known = [row for row in reversed(tests) if row["difference"] is not None]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [100 * row["difference"] for row in known],
        "y": [plot_text(row["method"]) for row in known],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [
                100 * ((row["high"] if row["high"] is not None else row["difference"]) - row["difference"])
                for row in known
            ],
            "arrayminus": [
                100 * (row["difference"] - (row["low"] if row["low"] is not None else row["difference"]))
                for row in known
            ],
            "color": "@c0",
            "thickness": 1.6,
        },
        "marker": {"color": "@c0", "size": 9},
        "hovertemplate": "%{y}: %{x:+.2f} points<extra></extra>",
    }
    zero = {
        "type": "line",
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "x0": 0,
        "x1": 0,
        "line": {"color": "@muted", "dash": "dot", "width": 1.2},
    }
    layout = {"xaxis": _axis(label), "yaxis": {"type": "category"}, "shapes": [zero]}
    return builder.chart([("", [trace], layout)], height=110 + 32 * len(known))


def _rank_chart(builder: _Page, ranks: Sequence[Row]) -> str:
    ordered = sorted(ranks, key=lambda row: -row["average_rank"])
    best = ordered[-1]["average_rank"]
    difference = ordered[0]["critical_difference"]
    near = [row["average_rank"] - best < difference for row in ordered]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [row["average_rank"] for row in ordered],
        "y": [plot_text(row["method"]) for row in ordered],
        "marker": {"color": ["@c0" if close else "@soft" for close in near]},
        "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
    }
    layout = {"xaxis": _axis("average rank (1 is the best)"), "yaxis": {"type": "category"}, "bargap": 0.35}
    p, n = ordered[0]["p_value"], ordered[0]["n"]
    said = f"Over {n} seeds. " + ("" if p is None else f"Friedman's test: p = {p:.2g}. ")
    said += f"Blue: not told apart from the best (Nemenyi's critical difference {difference:.2f})."
    return builder.chart([("", [trace], layout)], said, height=110 + 26 * len(ordered))


# ---- a study -------------------------------------------------------------------------------------------------------


def _study_answer(builder: _Page, run: RunData, prefix: str) -> str:
    rows = run.table("methods")
    lead = str(run.answer.get("question", ""))
    if not rows:
        return _section(prefix, "answer", "The answer", lead, _missing("No run of the study has finished yet."))
    best = min((row for row in rows if row["regret"] is not None), key=lambda row: row["regret"], default=None)
    parts = []
    if best is not None:
        ends = interval(best["regret_low"], best["regret_high"], 2)
        cards = _card("lowest mean regret", best["method"], f"{100 * best['regret']:.2f} points {ends}", main=True)
        ranked = min((row for row in rows if row["average_rank"]), key=lambda row: row["average_rank"], default=None)
        if ranked is not None:
            cards += _card(
                "best average rank", ranked["method"], f"{ranked['average_rank']:.2f} of {len(rows)} methods"
            )
        cards += _card(
            "runs", str(run.answer["n_runs"]), f"{run.answer['seeds']} seeds, benchmark {run.answer['benchmark']}"
        )
        parts.append(f'<div class="cards">{cards}</div>')
    parts.append(_listed(run.conclusions))
    header = [
        "method",
        "n",
        "regret, points",
        "median",
        "rank",
        "full trainings",
        "trained",
        "CPU s",
        "reference's speed-up",
    ]
    lines = [
        [
            row["method"],
            str(row["n"] - row["n_without"])
            if not row["n_without"]
            else f"{row['n'] - row['n_without']} of {row['n']}",
            "none"
            if row["regret"] is None
            else f"{100 * row['regret']:.2f} {interval(row['regret_low'], row['regret_high'], 2)}",
            "" if row["median_regret"] is None else f"{100 * row['median_regret']:.2f}",
            "" if row["average_rank"] is None else f"{row['average_rank']:.2f}",
            f"{row['full_trainings']:.4g}",
            f"{row['n_trials']:.4g}",
            f"{row['cpu_s']:.1f}",
            row["speed_up_epochs"],
        ]
        for row in rows
    ]
    parts.append("<h3>Methods</h3>" + _plain_table(header, lines, range(1, len(header))))
    note = (
        f"Regret: true test error of the chosen family above {100 * run.answer['best_test_error']:.2f}%, the lowest "
        "known in the benchmark; mean with a 95% bootstrap interval over runs."
    )
    parts.append(f"<p class='lead'>{escape(note)}</p>")
    return _section(prefix, "answer", "The answer", lead, *parts)


def _study_anytime(builder: _Page, run: RunData, prefix: str) -> str:
    variants = []
    reference = run.answer.get("reference")
    for name, table, x in (("student-epochs", "anytime", "student_epochs"), ("trainings", "anytime_trials", "trials")):
        rows = run.table(table)
        labels = list(dict.fromkeys(row["method"] for row in rows))
        traces: list[Spec] = []
        for index, label in enumerate(labels):
            colour, dash = _style(index)
            own = [row for row in rows if row["method"] == label]
            banded = [row for row in own if row["low"] is not None and row["high"] is not None]
            if banded and (len(labels) <= 6 or label == reference):
                traces.append(_band(banded, x, "low", "high", colour, label))
            points = [{**row, "accuracy": row["regret"]} for row in own]
            line = {"color": colour, "dash": dash, "width": 3.2 if label == reference else 1.6}
            traces.append(_step(points, x, label, line, legendgroup=label))
        if traces:
            layout = {
                "xaxis": _axis(name, type="log", dtick="D2"),
                "yaxis": _axis("mean regret, points", type="log", dtick="D2"),
            }
            variants.append((name, traces, layout))
    rows = run.table("ranks_over_time")
    if rows:
        traces = []
        for index, label in enumerate(dict.fromkeys(row["method"] for row in rows)):
            colour, dash = _style(index)
            own = [{**row, "accuracy": row["average_rank"] / 100} for row in rows if row["method"] == label]
            line = {"color": colour, "dash": dash, "width": 3.2 if label == reference else 1.6}
            curve = _step(own, "student_epochs", label, line)
            curve["hovertemplate"] = f"{plot_text(label)}<br>%{{x:.4g}}: %{{y:.2f}}<extra></extra>"
            traces.append(curve)
        layout = {
            "xaxis": _axis("student-epochs", type="log", dtick="D2"),
            "yaxis": _axis("average rank", autorange="reversed"),
        }
        variants.append(("average rank", traces, layout))
    if not variants:
        return _section(prefix, "anytime", "During the searches", "", _missing("No run has an incumbent yet."))
    lead = "Mean regret of the incumbent over what was spent; click a name to hide its line. The reference is thick."
    return _section(prefix, "anytime", "During the searches", lead, builder.chart(variants, height=560))


def _study_finals(builder: _Page, run: RunData, prefix: str) -> str:
    rows = [row for row in run.table("finals") if row["regret"] is not None]
    if not rows:
        return _section(prefix, "family", "Final regrets", "", _missing("No run has finished with an incumbent."))
    order = [method for method in run.methods if any(row["method"] == method for row in rows)]
    values = [
        {"group": row["method"], "accuracy": row["regret"], "source": f"seed {row['seed']}", "family": ""}
        for row in rows
    ]
    layout = {"xaxis": {"type": "category", "automargin": True}, "yaxis": _axis("final regret, points")}
    chart = builder.chart([("", _violins(values, order), layout)], height=460)
    table = builder.table(
        "runs",
        [
            _column("method", filter=True),
            _column("seed", 0),
            _column("regret, points", 3, best="low"),
            _column("test error, %", 3, best="low"),
            _column("trained", 0),
            _column("CPU s", 2, best="low"),
        ],
        [
            [
                r["method"],
                r["seed"],
                None if r["regret"] is None else round(100 * r["regret"], 5),
                None if r["test_error"] is None else round(100 * r["test_error"], 5),
                r["n_trials"],
                round(r["cpu_s"], 3),
            ]
            for r in run.table("finals")
        ],
        sort=(2, False),
    )
    return _section(prefix, "family", "Final regrets", "A point is a run.", chart, table)


# ---- how to reproduce ----------------------------------------------------------------------------------------------


def _reproduce(builder: _Page, run: RunData, prefix: str) -> str:
    parts = []
    if run.command:
        told = "in Python" if run.command.startswith("runners.") else "in a shell"
        parts.append(f"<p class='lead'>The same run again, {told}:</p>" + _command(run.command))
        if "task.yaml" in run.command:
            parts.append("<p class='lead'>task.yaml is the file in the run folder.</p>")
    else:
        parts.append(_missing("run.yaml is not there, so the command is not known."))
    facts: dict[str, Any] = {"run folder": run.folder}
    if run.settings.get("seed") is not None:
        facts["seed"] = run.settings["seed"]
    if run.answer.get("seeds") is not None:
        facts["seeds"] = run.answer["seeds"]
    if run.task.get("split_seed") is not None:
        facts["seed of the splits"] = run.task["split_seed"]
    parts.append(_facts(facts))
    if run.environment:
        parts.append("<h3>Versions and hardware</h3>" + _facts(run.environment))
    else:
        parts.append(_missing("The run does not say with which versions and on what hardware it was made."))
    for title, content in (("Task", run.task), ("Settings", run.settings)):
        if content:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            parts.append(f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>")
    candidate = run.answer.get("candidate")
    if candidate:
        text = yaml.safe_dump(candidate, sort_keys=False)
        parts.append(f"<details><summary>The incumbent family</summary><pre>{escape(text)}</pre></details>")
    jobs = [row for row in run.table("failures") if "seed" in row]
    if jobs:
        parts.append(
            "<h3>Failed jobs</h3>"
            + _plain_table(["method", "seed", "error"], [[r["method"], str(r["seed"]), r["message"]] for r in jobs])
        )
    return _section(prefix, "reproduce", "How to reproduce it", "", *parts)


def _facts(facts: Mapping[str, Any]) -> str:
    pairs = (f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl>{''.join(pairs)}</dl>"


_SEARCH = (
    ("answer", "Answer", _answer),
    ("anytime", "Anytime", _anytime),
    ("trials", "Trials", _trials),
    ("family", "Family", _family),
    ("settings", "Settings", _settings),
    ("importance", "Importance", _importance),
    ("front", "Front", _front),
    ("calibration", "Calibration", _calibration),
    ("confusion", "Confusion", _confusion),
    ("reproduce", "Reproduce", _reproduce),
)
_COMPARISON = (
    ("answer", "Answer", _comparison_answer),
    ("anytime", "Anytime", _comparison_anytime),
    ("trials", "Trials", _trials),
    ("family", "Found", _comparison_family),
    *_SEARCH[4:9],
    ("statistics", "Statistics", _statistics),
    ("reproduce", "Reproduce", _reproduce),
)
_STUDY = (
    ("answer", "Answer", _study_answer),
    ("anytime", "Anytime", _study_anytime),
    ("family", "Final regrets", _study_finals),
    ("statistics", "Statistics", _statistics),
    ("reproduce", "Reproduce", _reproduce),
)
"""Sections: name, link and what makes it, in the order of the page."""
