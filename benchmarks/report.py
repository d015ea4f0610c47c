"""The report of a large search: seconds to make it, its size, and seconds until Chromium has opened it.

A run folder with real records of invented trainings is written to a temporary folder; the page is made as
``naslib-autokd report`` makes it, in this process, imports included. "Opened" is from the navigation until texts and
tables are there and can be used, "drawn" until the first chart is; of ``--repeats`` fresh browsers.

    python benchmarks/report.py --trials 5000

The picture of docs/report.md is the top of a report as Chromium shows it, of the search of docs/start.md:

    python benchmarks/report.py --run runs/first --picture docs/images/report.png
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "reports"))

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3, help="browsers that open the page")
    parser.add_argument("--out", type=Path, help="keep the page here")
    parser.add_argument("--run", type=Path, help="a search's run folder, in place of invented trials")
    parser.add_argument("--picture", type=Path, help="write the top of the page here, as PNG, and time nothing")
    options = parser.parse_args()
    from report_folders import final, write_search

    with tempfile.TemporaryDirectory() as folder:
        run = options.run or write_search(
            Path(folder) / "large", options.trials, finals=[final(0, 0.9), final(1, 0.91)]
        )
        start, cpu = time.perf_counter(), time.process_time()
        from naslib_autokd.reports.html import write_report

        page = write_report([run], options.out or Path(folder) / "report.html")
        if options.picture is not None:
            open_in_browser(page, options.picture)
            return
        print(f"{options.run or f'{options.trials} trials'}: made in {time.perf_counter() - start:.1f} s", end="")
        print(f" ({time.process_time() - cpu:.1f} s of CPU), {page.stat().st_size / 1e6:.2f} MB")
        times = [open_in_browser(page) for _ in range(options.repeats)]
        for name, seconds in zip(("opened", "drawn"), zip(*times, strict=True), strict=True):
            print(f"{name} in {', '.join(f'{s:.2f}' for s in seconds)} s (median {statistics.median(seconds):.2f} s)")


def open_in_browser(page: Path, picture: Path | None = None) -> tuple[float, float]:
    """Seconds from the navigation until the page can be used, and until its first chart is drawn."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        raise SystemExit("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        size = {"width": 1036, "height": 1150} if picture else {"width": 1200, "height": 900}
        view = browser.new_page(viewport=size, device_scale_factor=1.5 if picture else 1)
        view.goto(page.resolve().as_uri())
        view.wait_for_selector("[data-chart][data-drawn=true]")
        ready, drawn = (
            view.evaluate("name => performance.getEntriesByName(name)[0].startTime / 1000", f"report-{name}")
            for name in ("ready", "drawn")
        )
        assert view.locator("[data-table] tbody tr").count() > 0, "the table of trials is empty"
        if picture is not None:
            view.screenshot(path=picture)
        browser.close()
    return ready, drawn


if __name__ == "__main__":
    main()
