"""``naslib-autokd status``: where a run stands."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from naslib_autokd.commands._options import add_option, print_json
from naslib_autokd.commands._parser import epilog

KEYS = (
    "folder, state, n_trials, failures, in_flight, best_val_accuracy, best_candidate, answer, student_epochs, "
    "training_seconds, budget, fraction, elapsed_s, expected_s, finals, finals_of, stop_reason, message, lost, one "
    "object a search; of a study or a compare-kd: folder, command, n_runs, n_failures"
)


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="show where a run stands, from any shell",
        description="Show where a run stands: live, dead or finished. Reads the run folder only.",
        epilog=epilog("naslib-autokd status runs/first", keys=KEYS),
    )
    parser.add_argument(
        "folder", type=Path, metavar="RUN", help="run folder of a search, a comparison, a study or a benchmark's build"
    )
    add_option(parser, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from naslib_autokd.runners.run_folder import STATUS, TRIALS
    from naslib_autokd.runners.session import read_status

    folder: Path = options.folder
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the run folder of a search, a comparison, a study or a build")
    if (counted := _finished(folder)) is not None:
        print_json(counted) if options.json else print(_line(counted))
        return 0
    folders = [folder]
    if not (folder / TRIALS).exists():  # a comparison: one search a job
        folders = sorted(path.parent for path in folder.glob(f"*/seed-*/{STATUS}")) or folders
    for each in folders:
        status = read_status(each)
        lost = _lost(each)
        if options.json:
            print_json({**status.to_dict(), "lost": lost})
        else:
            print("\n".join([*status.lines(), *([f"  beware: {lost}"] if lost else [])]))
    return 0


def _lost(folder: Path) -> str:
    """What is wrong with the file of the final student that a run keeps, and what to do; empty if nothing is."""
    from naslib_autokd.runners.finals import FinalsFileError, kept_final

    try:
        kept = kept_final(folder)
    except FinalsFileError as error:
        return str(error)
    problem = "" if kept is None else kept.problem()
    return problem and f"{problem}; the same search command trains the kept student anew"


def _finished(folder: Path) -> dict[str, Any] | None:
    """Of a study (``ablate``) or a ``compare-kd``, which keep no signs of life: how many runs are on disk."""
    from naslib_autokd.runners.run_folder import STUDY_RUNS, TRAININGS

    for command, name in (("ablate", STUDY_RUNS), ("compare-kd", TRAININGS)):
        if not (folder / name).is_file():
            continue
        last: dict[Any, dict[str, Any]] = {}
        with open(folder / name, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):  # it is half written
                    break
                try:
                    found = json.loads(line)
                    last[found.get("method"), found.get("student"), found.get("loss"), found["seed"]] = found
                except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
                    where = f"{folder / name}, line {number}"
                    raise ValueError(f"{where}: not a run of {command}; delete the line") from error
        failed = sum("error" in found for found in last.values())
        return {"folder": str(folder), "command": command, "n_runs": len(last) - failed, "n_failures": failed}
    return None


def _line(counted: dict[str, Any]) -> str:
    failed = f", {counted['n_failures']} failed" if counted["n_failures"] else ""
    return (
        f"{counted['folder']}: {counted['n_runs']} runs of {counted['command']} are on disk{failed}; the same command "
        "with more --seeds adds some"
    )
