"""The page in a browser: Chromium opens reports of a real search and of comparisons, from disk.

Chromium comes from the system (Debian, Ubuntu: ``apt-get install chromium``); without it these tests are skipped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from report_folders import NASTY, counts, final, write_comparison, write_search, write_study

from naslib_autokd.reports.html import write_report
from naslib_autokd.tasks import get_task

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="needs a browser: apt-get install chromium")

CONTRAST = """() => {
  const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, style, noscript")) continue;
    if (element.closest("button:disabled, .picture")) continue; // of pictures the colours mean something
    const style = getComputedStyle(element);
    const text = numbers(element instanceof SVGElement ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(text), light(behind(element).slice(0, 3))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.tagName, walk.currentNode.data.trim()]);
  }
  return found.sort((a, b) => a[0] - b[0]).slice(0, 5).concat([[found.length, "", ""]]);
}"""
"""The five texts with the least contrast to what is behind them (WCAG 2.1), and the number of texts."""


@dataclass
class Opened:
    """A page, and what went wrong while it was open."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def scroll_through(self) -> None:
        """Bring every part into view, so that all charts are drawn."""
        for element in self.page.locator("[data-chart]").all():
            element.scroll_into_view_if_needed()
            self.page.wait_for_function("e => e.dataset.drawn === 'true'", arg=element.element_handle())

    def check(self) -> None:
        assert self.complaints == []
        assert self.requests == []


class Browser:
    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._contexts: list[Any] = []

    def open(self, path: Path, **settings: Any) -> Opened:
        context = self._browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **settings})
        self._contexts.append(context)
        opened = Opened(context.new_page())
        page = opened.page
        page.set_default_timeout(120_000)  # loaded machines
        page.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))

        def block(route: Any) -> None:
            if route.request.url.startswith(("file:", "data:", "blob:")):
                route.continue_()
            else:
                opened.requests.append(route.request.url)
                route.abort()

        page.route("**/*", block)
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("html[data-ready=true]")
        return opened

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        self._contexts.clear()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        # inside containers Chromium's own sandbox needs rights that tests do not have; the pages are ours
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Browser]:
    opener = Browser(chromium)
    yield opener
    opener.close()


def small_task() -> Any:
    """Small images: trainings of a moment, from a teacher that has hardly learned."""
    images = {"image_size": 12, "n_train": 64, "n_teacher": 600, "n_val": 100, "n_test": 200}
    teacher = {"teacher_epochs": 4, "min_teacher_accuracy": 0.0, "batch_size": 32}
    return get_task("cluttered-digits", **images, **teacher, min_budget_epochs=1, max_budget_epochs=3)


@pytest.fixture(scope="module")
def real_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real trials of a few epochs, two final students, as ``naslib-autokd search`` leaves them."""
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.runners.finals import train_family
    from naslib_autokd.runners.results import result_content
    from naslib_autokd.runners.search import search

    folder = tmp_path_factory.mktemp("runs") / "real"
    evaluator = KDEvaluator(small_task())
    found = search(evaluator.task, "random_search", evaluator=evaluator, n_trials=4, out=folder)
    finals = train_family(evaluator, found.candidate, n_students=2, seed=0, out=folder)
    data = result_content(found, finals, evaluator.teacher_row())
    (folder / "result.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def report_of(*folders: Path) -> Path:
    return write_report(folders, folders[0].parent / f"{folders[0].name}.html")


def test_report_of_a_real_search(browser: Browser, real_search: Path) -> None:
    opened = browser.open(report_of(real_search))
    page = opened.page
    opened.scroll_through()
    finals = [json.loads(line) for line in (real_search / "finals.jsonl").read_text().splitlines()]
    kept = max(finals, key=lambda line: line["val_accuracy"])
    assert page.locator("#answer .card.main .value").inner_text() == f"{100 * kept['test_accuracy']:.1f}%"
    n = json.loads((real_search / "status.json").read_text())["budget"]["n_trials"]
    assert page.locator("#trials tbody tr").count() == n == 4
    names = ("answer", "anytime", "trials", "family", "settings", "importance", "front", "calibration", "confusion")
    for name in (*names, "reproduce"):
        assert page.locator(f"section#{name}").is_visible(), name
    assert page.locator("#family .picture svg").count() == 2  # the kept student and its family
    counted = sum(int(text) for text in page.locator("#confusion .mark-text.role-mark text").all_text_contents())
    assert counted == 200, "every test image is in the matrix"
    opened.check()


def test_trials_are_sorted_filtered_and_turned_over(browser: Browser, tmp_path: Path) -> None:
    failures = {number: ("diverged", f"loss is nan at step {number}") for number in (3, 10, 20)}
    opened = browser.open(report_of(write_search(tmp_path / "run", 52, finals=[final(0, 0.9)], failures=failures)))
    page = opened.page
    column = {text: index for index, text in enumerate(page.locator("#trials .grid th").all_inner_texts())}

    def values(name: str) -> list[str]:
        return page.locator(f"#trials .grid tbody td:nth-child({column[name] + 1})").all_inner_texts()

    shown = [float(value) for value in values("validation, %")]
    assert shown == sorted(shown, reverse=True), "the best come first"
    assert len(shown) == 25
    page.get_by_role("button", name="Next", exact=True).click()
    page.get_by_role("button", name="Next", exact=True).click()
    assert values("validation, %")[-2:] == ["", ""], "failures have no accuracy and come last"
    assert "page 3 of 3" in page.locator("#trials").inner_text()
    page.get_by_role("button", name="Previous", exact=True).click()
    page.locator("#trials .grid th button", has_text="trial").first.click()
    assert values("trial")[:3] == ["50", "49", "48"]
    page.locator("#trials .grid th button", has_text="trial").first.click()
    assert values("trial")[:3] == ["-1", "0", "1"]
    assert page.locator("#trials th[aria-sort=ascending]").inner_text() == "trial"
    page.get_by_label("status").select_option(label="diverged")
    assert values("trial") == ["3", "10", "20"]
    assert page.locator("#trials tr.failed").count() == 3
    page.locator("#trials input[type=search]").fill("step 20")
    page.wait_for_function("() => document.querySelectorAll('#trials .grid tbody tr').length === 1")
    assert values("reason") == ["loss is nan at step 20"]
    assert page.locator("#trials .tools .count").first.inner_text() == "1 of 52 rows"
    opened.check()


def test_a_range_in_one_chart_holds_in_all_and_in_the_table(browser: Browser, tmp_path: Path) -> None:
    opened = browser.open(report_of(write_search(tmp_path / "run", 24, finals=[final(0, 0.9)])))
    opened.scroll_through()
    page = opened.page
    cells = "#trials .grid tbody tr td:nth-child"

    def drag(chart: Any, area: Any, left: float, top: float, right: float, bottom: float) -> None:
        """Pixels from the area's left edge, and shares of its height."""
        chart.scroll_into_view_if_needed()
        box = area.bounding_box()
        page.mouse.move(box["x"] + left, box["y"] + top * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + right, box["y"] + bottom * box["height"], steps=6)
        page.mouse.up()

    def wait_for_rows(text: str) -> None:
        page.wait_for_function(f"() => document.querySelector('#trials .count').textContent{text}")

    def n_grey(section: str) -> int:
        return int(page.locator(f'#{section} .mark-symbol path[fill="#e4e8ec"]').count())

    wait_for_rows(" === '24 rows'")
    points = page.locator("#trials [data-chart]")
    panel = points.locator(".background").nth(1)  # the first is of the whole: over the trials
    width = panel.bounding_box()["width"]
    drag(points, panel, 2, 0.01, width / 3, 0.99)
    wait_for_rows(".includes('of 24 rows')")
    trials = page.locator(f"{cells}(1)").all_inner_texts()
    assert 4 <= len(trials) <= 10
    assert max(map(int, trials)) <= 9, "those of the first third"
    assert n_grey("anytime") > 0
    assert n_grey("settings") > 0
    # the last axis of the parallel coordinates is the accuracy: the upper half, in the first third of the trials
    lines = page.locator("#settings [data-chart]").first
    axis = lines.locator(".role-axis-grid line").last
    drag(lines, axis, -9, 0.01, 4, 0.4)
    page.wait_for_function(f"() => document.querySelectorAll('#trials .grid tbody tr').length < {len(trials)}")
    assert set(page.locator(f"{cells}(3)").all_inner_texts()) == {"9"}, "full trainings"
    assert set(page.locator(f"{cells}(1)").all_inner_texts()) < set(trials)
    drag(lines, axis, -20, 0.9, -20, 0.9)  # a click
    drag(points, panel, 0.9 * width, 0.02, 0.9 * width, 0.02)
    wait_for_rows(" === '24 rows'")
    assert n_grey("settings") == 0
    opened.check()


@pytest.mark.slow
def test_texts_can_be_read_in_both_themes_and_run_nothing(browser: Browser, tmp_path: Path) -> None:
    task = get_task("cluttered-digits", data_dir=NASTY)
    lines = [final(0, 0.9, test_counts=counts((NASTY, *"123456789")))]
    folder = write_search(tmp_path / "a <i>b", 20, finals=lines, failures={2: ("error", NASTY)}, task=task)
    opened = browser.open(report_of(folder), color_scheme="dark")
    opened.page.on("dialog", lambda dialog: (opened.complaints.append(dialog.message), dialog.dismiss()))
    page = opened.page
    assert page.evaluate("document.documentElement.dataset.theme") == "dark", "follows the system"
    opened.scroll_through()
    assert page.locator("img, i").count() == 0
    words = "<img src=x onerror"
    assert words in page.locator("#trials").inner_text()
    labels = page.locator("#confusion text").all_text_contents()
    assert any(text.startswith(NASTY[:8]) for text in labels), "cut off by the axis, but text"
    assert page.locator("h1").inner_text() == "a <i>b"
    *worst, (n, _, _) = page.evaluate(CONTRAST)
    assert n > 200
    assert worst[0][0] >= 4.5, worst
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    *worst, _ = page.evaluate(CONTRAST)
    assert worst[0][0] >= 4.5, worst
    opened.check()
    drawn = "document.querySelector('#anytime .role-axis-title text').getAttribute('fill')"
    page.wait_for_function(f"() => {drawn} === '#1b1f24'")
    opened.check()


@pytest.mark.slow
def test_a_phone_shows_all_without_scrolling_sideways(browser: Browser, tmp_path: Path) -> None:
    folders = [
        write_search(tmp_path / "search", 20, finals=[final(0, 0.9)], objectives=("error", "macs")),
        write_comparison(tmp_path / "comparison", 3),
        write_study(tmp_path / "study"),
    ]
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    opened = browser.open(report_of(*folders), **phone)
    opened.scroll_through()
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("visualViewport.scale") == 1
    assert "AutoKD is ahead of DARTS" in page.locator("#run1-answer").inner_text()
    assert page.locator("#run1-statistics [data-chart]").count() == 2
    page.locator("#run2-anytime").get_by_role("button", name="average rank").click()
    titles = "[...document.querySelectorAll('#run2-anytime .role-axis-title text')].map((e) => e.textContent)"
    page.wait_for_function(f"() => {titles}.includes('average rank')")
    assert page.locator("#run2-anytime button[aria-pressed=true]").inner_text() == "average rank"
    opened.check()


@pytest.mark.slow
def test_tables_fit_a_wide_window_and_sheets_of_wirings_a_phone(browser: Browser, tmp_path: Path) -> None:
    failures = dict.fromkeys((3, 10), ("diverged", "loss is nan"))
    folder = write_search(tmp_path / "search", 20, finals=[final(0, 0.9)], failures=failures)
    report = report_of(folder, write_comparison(tmp_path / "comparison", 3))
    wider = "found => found.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.innerText)"
    wide = browser.open(report, viewport={"width": 1280, "height": 900})
    assert wide.page.locator(".scroll").count() > 6
    assert wide.page.locator(".scroll").evaluate_all(wider) == []
    phone = browser.open(report, viewport={"width": 390, "height": 844}, is_mobile=True)
    phone.scroll_through()
    assert phone.page.locator(".picture").count() == 1
    assert phone.page.locator(".picture").evaluate_all(wider) == []


@pytest.mark.slow
def test_report_of_a_real_comparison(browser: Browser, tmp_path: Path) -> None:
    from naslib_autokd.runners.comparison import compare

    found = compare(small_task(), seeds=[0, 1], budget=12, n_finals=1, out=tmp_path / "comparison")
    opened = browser.open(report_of(tmp_path / "comparison"))
    opened.scroll_through()
    page = opened.page
    rows = page.locator("#answer table").last.locator("tbody tr").all_inner_texts()
    assert len(rows) == 4
    for row, text in zip(found.rows, rows, strict=False):
        assert row.label in text
        assert f"{100 * row.test_accuracy.mean:.1f}" in text
    assert page.locator("#statistics table").is_visible()
    opened.check()
