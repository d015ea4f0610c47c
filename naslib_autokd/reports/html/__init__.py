"""A run as one HTML file: opens from disk, without network; charts by Vega, which is embedded.

`write_report` reads run folders with `results` and writes the page. Texts, numbers and small tables are made here and
escaped; large tables and charts (`reports.charts`) are data in the page that ``report.js`` draws. Charts run under a
policy that forbids evaluating text as code (their expressions are interpreted).
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from naslib_autokd._version import __version__
from naslib_autokd.reports.figures import run_charts, several_searches
from naslib_autokd.reports.html import comparison, search
from naslib_autokd.reports.html._page import Columns, Page, count, embedded_json, escape, shown, table
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
    body += [_article(builder, run, f"run{index}-" if many else "") for index, run in enumerate(runs)]
    links = [(section.name, section.link) for section in KINDS[runs[0].kind][1]]
    links = [(f"run{index}-top", run.name) for index, run in enumerate(runs)] if many else links
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


KINDS = {
    "search": ("search", search.SECTIONS),
    "comparison": ("comparison of search methods", comparison.SECTIONS),
    "study": ("study of search methods on a benchmark", comparison.OF_A_STUDY),
    "baselines": ("students and distillation losses", comparison.OF_BASELINES),
}
"""What a run is called, and the sections of its page in their order."""


def _article(builder: Page, run: RunData, prefix: str) -> str:
    """All sections of a run."""
    what, sections = KINDS[run.kind]
    what += f" on {run.task['name']}" if run.task.get("name") else ""
    if run.kind == "search":
        what += f" with {run.methods[0]}, seed {run.settings.get('seed')}"
    head = f'<h1 id="{prefix}top">{escape(run.name)}</h1><p class="subtitle">{escape(what[0].upper() + what[1:])}</p>'
    if run.problem:
        head += f'<p class="problem" role="alert">{escape(run.problem)}</p>'
    builder.figures = run_charts(run)
    return f"<article>{head}{''.join(section.html(builder, run, prefix) for section in sections)}</article>"


def _overview(builder: Page, runs: Sequence[RunData]) -> str:
    """Several runs side by side: a line each, and the anytime curves of the searches in one chart."""
    columns: Columns = {
        **{"run": "name", "kind": "kind", "state": "state", "task": "task"},
        "best student (test)": shown("test_accuracy", form=".1%"),
        "incumbent (validation)": shown("val_accuracy", form=".1%"),
        "parameters": lambda row: count(row["n_params"]) if row["n_params"] else "",
        "trials": lambda row: row.get("n_trials", row.get("n_jobs", row.get("n_runs", ""))),
    }
    rows = []
    for run in runs:
        about = {"name": run.name, "kind": run.kind, "state": run.state}
        about["task"] = run.task.get("name", run.answer.get("benchmark", ""))
        student = run.answer.get("student") or {}
        rows.append({**run.answer, **{name: student.get(name) for name in ("test_accuracy", "n_params")}, **about})
    parts = [table(rows, columns, words=4)]
    searches = [run for run in runs if run.kind == "search" and run.table("anytime")]
    if len(searches) > 1:
        parts.append(builder.figure([("", several_searches(searches))], "Observed incumbents of the searches."))
    return f'<h1 id="overview">{len(runs)} runs</h1>{"".join(parts)}'
