"""``naslib-autokd status``: where a run stands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from naslib_autokd.commands._options import add_option, print_json
from naslib_autokd.commands._parser import epilog

KEYS = (
    "folder, state, n_trials, failures, in_flight, best_val_accuracy, best_candidate, student_epochs, budget, "
    "fraction, elapsed_s, expected_s, stop_reason, message; one object a search"
)


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="show where a run stands, from any shell",
        description="Show where a run stands: live, dead or finished. Reads the run folder only.",
        epilog=epilog("naslib-autokd status runs/first", keys=KEYS),
    )
    parser.add_argument(
        "folder", type=Path, metavar="RUN", help="run folder of a search, a comparison or a benchmark's build"
    )
    add_option(parser, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from naslib_autokd.runners.session import read_status

    folders = [options.folder]
    if not (options.folder / "trials.jsonl").exists():  # a comparison: one search a job
        folders = sorted(path.parent for path in options.folder.glob("*/seed-*/status.json")) or folders
    for folder in folders:
        status = read_status(folder)
        if options.json:
            print_json(status.to_dict())
        else:
            print("\n".join(status.lines()))
    return 0
