"""A run as one HTML file: opens from disk, without network; charts by Vega, which is embedded.

`write_report` reads run folders with `results` and writes the page. Texts, numbers and small tables are made here and
escaped; large tables, charts (`reports.charts`) and parallel coordinates are data in the page that ``report.js`` draws.
Vega-Lite's charts run under a policy that forbids evaluating text as code (their expressions are interpreted). Parallel
coordinates are a canvas of our own: Vega-Lite tests a range against one mark, not against a whole line, so that ranges
on several axes cannot be chosen together.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from naslib_autokd._version import __version__
from naslib_autokd.reports.figures import run_charts, several_searches
from naslib_autokd.reports.html._page import Page, count, embedded_json, escape, percent, plain_table
from naslib_autokd.reports.html.comparison import (
    baselines_answer,
    baselines_found,
    baselines_statistics,
    comparison_answer,
    comparison_anytime,
    comparison_family,
    statistics,
    study_answer,
    study_anytime,
    study_finals,
)
from naslib_autokd.reports.html.search import (
    answer_section,
    anytime,
    calibration,
    confusion,
    family,
    front,
    importance,
    reproduce,
    settings,
    trials,
)
from naslib_autokd.reports.html.vega import vega
from naslib_autokd.reports.results import RunData, read_run

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
    builder = Page()
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
    folder = resources.files("naslib_autokd.reports.html")
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
            f'<script type="text/plain" id="vega-source">{vega()}</script>',  # run by the next one
            f"<script>{script}</script>",
            "</body></html>",
        ]
    )


NAMES = {
    "search": "search",
    "comparison": "comparison of search methods",
    "study": "study of search methods on a benchmark",
    "baselines": "students and distillation losses",
    "empty": "run",
}


def _article(builder: Page, run: RunData, prefix: str) -> tuple[str, list[tuple[str, str]]]:
    """All sections of a run, and the links to them."""
    task = run.task.get("name")
    what = NAMES[run.kind] + (f" on {task}" if task else "")
    if run.kind == "search":
        what += f" with {run.methods[0]}, seed {run.settings.get('seed')}"
    head = f'<h1 id="{prefix}top">{escape(run.name)}</h1><p class="subtitle">{escape(what[0].upper() + what[1:])}</p>'
    if run.problem:
        head += f'<p class="problem" role="alert">{escape(run.problem)}</p>'
    makers = {"search": _SEARCH, "comparison": _COMPARISON, "study": _STUDY, "baselines": _BASELINES, "empty": ()}[
        run.kind
    ]
    builder.figures = run_charts(run)
    sections, links = [], []
    for name, title, make in makers:
        sections.append(make(builder, run, prefix))
        links.append((prefix + name, title))
    return f"<article>{head}{''.join(sections)}</article>", links


def _overview(builder: Page, runs: Sequence[RunData]) -> str:
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
    parts = [plain_table(header, rows, (4, 5, 6, 7))]
    searches = [run for run in runs if run.kind == "search" and run.table("anytime")]
    if len(searches) > 1:
        parts.append(builder.figure([("", several_searches(searches))], "Observed incumbents of the searches."))
    return f'<h1 id="overview">{len(runs)} runs</h1>{"".join(parts)}'


_SEARCH = (
    ("answer", "Answer", answer_section),
    ("anytime", "Anytime", anytime),
    ("trials", "Trials", trials),
    ("family", "Family", family),
    ("settings", "Settings", settings),
    ("importance", "Importance", importance),
    ("front", "Front", front),
    ("calibration", "Calibration", calibration),
    ("confusion", "Confusion", confusion),
    ("reproduce", "Reproduce", reproduce),
)
_COMPARISON = (
    ("answer", "Answer", comparison_answer),
    ("anytime", "Anytime", comparison_anytime),
    ("trials", "Trials", trials),
    ("family", "Found", comparison_family),
    *_SEARCH[4:9],
    ("statistics", "Statistics", statistics),
    ("reproduce", "Reproduce", reproduce),
)
_BASELINES = (
    ("answer", "Answer", baselines_answer),
    ("family", "Trainings", baselines_found),
    ("calibration", "Calibration", calibration),
    ("confusion", "Confusion", confusion),
    ("statistics", "Statistics", baselines_statistics),
    ("reproduce", "Reproduce", reproduce),
)
_STUDY = (
    ("answer", "Answer", study_answer),
    ("anytime", "Anytime", study_anytime),
    ("family", "Final regrets", study_finals),
    ("statistics", "Statistics", statistics),
    ("reproduce", "Reproduce", reproduce),
)
"""Sections: name, link and what makes it, in the order of the page."""
