"""``naslib-autokd test``: how good a student's file is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from naslib_autokd.commands._options import add_option, add_runtime_options, print_json, runtime_from_options
from naslib_autokd.commands._parser import epilog

MOST_CONFUSED = 5
KEYS = (
    "file, pictures, own_test_split, n, accuracy, interval, stated_accuracy, calibration_error, per_class, confusion, "
    "calibration, latency_ms, latency_of, seen"
)


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "test",
        help="judge a trained student on pictures: accuracy, classes, calibration, latency",
        description="Run a trained student in ONNX Runtime, as it is shipped, on pictures, and say how good it is: "
        "accuracy with its 95% interval, of each class, what is taken for what, calibration, latency. Without a folder "
        "it is the test split of the student's own run. Trains nothing.",
        epilog=epilog(
            "naslib-autokd test runs/first",
            "naslib-autokd test runs/photos/export/student.onnx new_photos",
            keys=KEYS,
        ),
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="run folder, a student's .safetensors, or an exported .onnx"
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="FOLDER",
        help="pictures in folders named as the classes (default: the run's test split)",
    )
    add_runtime_options(parser)
    add_option(parser, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from naslib_autokd.shipping.judge import judge

    verdict = judge(options.file, options.folder, runtime_from_options(options))
    if options.json:
        print_json(verdict.to_dict())
    else:
        show(verdict)
    return 0


def show(verdict: Any) -> None:
    from naslib_autokd.reports.tables import Shown, print_shown
    from naslib_autokd.reports.terminal import console_for, say

    console = console_for()
    say(console, f"{verdict.file} on {verdict.pictures}")
    say(console, f"accuracy {_percent(verdict.accuracy, verdict.interval)} %")
    if verdict.seen is not None and verdict.seen["n_seen"]:
        share = "all" if verdict.seen["share"] == 1 else f"{100 * verdict.seen['share']:.1f} %"
        say(
            console,
            f"beware: it was trained or chosen on {share} of these pictures ({verdict.seen['n_seen']} of the "
            f"{verdict.seen['n_told']} that can be told): on them its accuracy says little of new pictures",
        )
    elif verdict.seen is None and not verdict.own_test_split:
        say(console, "whether it was trained on these pictures is not known: its file does not tell")
    if verdict.stated_accuracy is not None:
        same = abs(verdict.stated_accuracy - verdict.accuracy) < 1e-9
        say(console, f"its file states {100 * verdict.stated_accuracy:.1f} %{': the same' if same else ''}")
    say(console, f"expected calibration error {100 * verdict.calibration_error:.1f} %")
    say(console, f"latency {verdict.latency_ms:.3f} ms ({verdict.latency_of})")
    rows = []
    for found in verdict.per_class:
        right = "" if found["accuracy"] is None else _percent(found["accuracy"], found["interval"])
        precision = "" if found["precision"] is None else f"{100 * found['precision']:.1f}"
        rows.append([found["name"], str(found["n"]), right, precision])
    print_shown(Shown(["class", "pictures", "right, %", "of those called so, %"], rows, "", ""), console)
    if confused := most_confused(verdict.confusion, [found["name"] for found in verdict.per_class]):
        say(console, f"most often taken for another: {'; '.join(confused)}")


def most_confused(counts: list[list[int]] | None, names: list[str]) -> list[str]:
    """The classes that are taken for each other most often, in words."""
    pairs = [
        (n, names[true], names[called])
        for true, row in enumerate(counts or [])
        for called, n in enumerate(row)
        if n and true != called
    ]
    return [f"{true} for {called} ({n})" for n, true, called in sorted(pairs, reverse=True)[:MOST_CONFUSED]]


def _percent(share: float, interval: tuple[float, float]) -> str:
    return f"{100 * share:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
