"""``naslib-autokd report``: one page about a run, to open in a browser."""

from __future__ import annotations

import argparse
import glob
from pathlib import Path
from typing import Any

from naslib_autokd.commands._options import add_option, print_json
from naslib_autokd.commands._parser import epilog
from naslib_autokd.files import write_whole


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="make one HTML page of a search, a comparison or a study",
        description="Read run folders, finished or not, and write one HTML file that opens from disk without a "
        "network: what was found and how sure it is, every trial, charts and how to reproduce it. With --figures every "
        "chart is written for papers, too (PDF and PNG, with the chart as data and the CSV beside each).",
        epilog=epilog(
            "naslib-autokd report runs/first",
            "naslib-autokd report runs/first runs/second --out both.html --figures figures",
            "naslib-autokd report runs/first --export optuna exported",
            keys="report, figures, exported, runs (run, kind, state)",
        ),
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a search, a comparison, a study (ablate) or compare-kd",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: report.html in the first RUN)"
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write the charts as figures for papers to DIR")
    parser.add_argument(
        "--export",
        nargs=2,
        metavar=("TOOL", "DIR"),
        help="write every trial for another tool to DIR: optuna (a storage for its dashboard) or deepcave (its tables)",
    )
    add_option(parser, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:

    from naslib_autokd.reports.html import page
    from naslib_autokd.reports.results import read_run
    from naslib_autokd.runners.run_folder import remove_leftovers

    out = options.runs[0] / "report.html" if options.out is None else options.out
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give a file, for example {out / 'report.html'}")
    exported: list[Path] = []
    if options.export is not None:
        from naslib_autokd.shipping.searches import export_runs

        exported = export_runs(options.runs, options.export[0], Path(options.export[1]))
    runs = [read_run(folder) for folder in options.runs]
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out.parent, f"{glob.escape(out.name)}.*.tmp")
    write_whole(out, page(runs).encode())
    figures: list[Path] = []
    if options.figures is not None:
        from naslib_autokd.reports.figures import write_figures

        for found in runs:
            folder = options.figures if len(runs) == 1 else options.figures / found.name
            figures += write_figures(found, folder)
    if options.json:
        states = [{"run": str(found.folder), "kind": found.kind, "state": found.state} for found in runs]
        written = {"figures": [str(path) for path in figures], "exported": [str(path) for path in exported]}
        print_json({"report": str(out), **written, "runs": states})
        return 0
    for found in runs:
        if found.problem:
            print(f"{found.folder}: {found.problem}")
    print(f"report: {out} ({out.stat().st_size / 1e6:.1f} MB), open it in a browser")
    if figures:
        print(f"figures: {options.figures} ({len(figures)} files)")
    for path in exported:
        print(f"for {options.export[0]}: {path}")
    return 0
