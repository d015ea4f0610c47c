"""``naslib-autokd data``: what lies in a folder of images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from naslib_autokd.commands._options import add_option, print_json
from naslib_autokd.commands._parser import epilog

KEYS = (
    "folder, n_classes, n_images, n_unlabelled, classes (name: split: images), splits, splits_from, shorter_side "
    "(smallest, median, largest), longest_shape, formats, left_out (why: names), unreadable, duplicates "
    "(between_splits, in_two_classes, within_a_split: files, same_file), majority_share, array_bytes, decode_seconds, "
    "disk_free_bytes, notes, warnings, usable, problem"
)


def add(commands: Any) -> None:
    group = commands.add_parser(
        "data",
        help="say what a folder of images holds",
        description="Look at the images of a task before anything is trained on them.",
        epilog=epilog("naslib-autokd data check photos"),
    )
    verbs = group.add_subparsers(title="commands", required=True, metavar="COMMAND")
    check = verbs.add_parser(
        "check",
        help="classes, splits, sizes, duplicates and what is left out",
        description="Read every image of a folder once, as a search would, and print classes and counts, splits, "
        "sizes and formats, what is left out and why, images that stand in more than one split or class, and how even "
        "the classes are. The exit status is 0 if the images can be used, 2 if not.",
        epilog=epilog("naslib-autokd data check photos", "naslib-autokd data check --task photos.yaml", keys=KEYS),
    )
    check.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="folder of the images (default: the task's)"
    )
    add_option(check, "--task", default="imagefolder")
    add_option(check, "--json")
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from naslib_autokd.data.check import check_folder, lines_of
    from naslib_autokd.tasks import get_task

    task = get_task(options.task, **({} if options.folder is None else {"data_dir": str(options.folder)}))
    found = check_folder(task, lambda line: print(line, file=sys.stderr))
    if options.json:
        print_json(found)
        return 0 if found["usable"] else 2
    for name, text in lines_of(found):
        print(f"{name:14} {text}")
    if not found["usable"]:
        print(f"naslib-autokd: error: {found['problem']}", file=sys.stderr)
        return 2
    print("these images can be used")
    return 0
