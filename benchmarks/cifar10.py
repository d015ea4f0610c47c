"""CIFAR-10 from a folder: searches at equal cost, then their families and hand-designed students under one protocol.

    naslib-autokd teacher train --task benchmarks/results/cifar10/task.yaml --data-dir IMAGES --out resnet20.safetensors
    python benchmarks/cifar10.py --data-dir IMAGES --teacher resnet20.safetensors --out runs/cifar10 --seeds 1

IMAGES has ``train/CLASS`` and ``test/CLASS``. The teacher is trained on 45,000 images; students have 5,000 of them, and
at most the parameters and multiply-adds of a resnet8.

    searches    AutoKD, random search, regularized evolution, and the default family without a search: seed by seed, at
                equal modelled seconds of training; trainings of 3 and 9 epochs
    families    two students of 27 epochs of every family that was kept
    students    the same of hand-designed networks, with several losses
    report      the table of these trainings, and the records of all parts, in ``results/cifar10``

All parts are run unless ``--only`` names some; the same command continues, also with more seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.reports.tables import markdown_table, write_csv
from naslib_autokd.runners import baselines
from naslib_autokd.runners.comparison import JobProgress, Method, compare
from naslib_autokd.runners.run_folder import COMPARISON, FINALS, RESULT, RUN, TASK, TRIALS
from naslib_autokd.runners.statistics import SHARE, mean_interval
from naslib_autokd.tasks import Task, get_task

RESULTS = Path(__file__).parent / "results" / "cifar10"
LIMITS = StudentLimits(max_macs=12_501_632)
"""A resnet8's; ``max_params`` of the task is, too."""
METHODS = (
    Method("AutoKD", "search", "autokd"),
    Method("random search", "search", "random_search"),
    Method("regularized evolution", "search", "regularized_evolution"),
    Method("default family", "default"),
)
SECONDS = 1200.0
"""Modelled seconds of training of each search: some 20 full trainings."""
EPOCHS = 27
TRAININGS = 2
STUDENTS, LOSSES = ("resnet8", "resnet20x0.5"), ("ce", "kd", "fitnet", "dkd")
PARTS = ("searches", "families", "students", "report")


def searches(options: argparse.Namespace, task: Task) -> None:
    for n in range(1, options.seeds + 1):  # all methods of a seed before the next one
        compare(
            task,
            METHODS,
            seeds=range(n),
            budget=SECONDS,
            budget_unit="training_seconds",
            student_limits=LIMITS,
            out=options.out / "searches",
            n_finals=1,
            workers=options.workers,
            teacher=options.teacher,
            progress=_say,
        )


def _say(state: JobProgress) -> None:
    print(f"{state.method}, seed {state.seed}: {state.text}", flush=True)


def families(options: argparse.Namespace, task: Task) -> None:
    for seed, methods in found_families(options.out / "searches").items():
        compare(
            in_full(task),
            methods,
            seeds=[0],
            budget=EPOCHS,
            student_limits=LIMITS,
            out=options.out / "families" / f"seed-{seed}",
            n_finals=TRAININGS,
            workers=options.workers,
            teacher=options.teacher,
            progress=_say,
        )


def in_full(task: Task) -> Task:
    return replace(task, name=f"{task.name}-{EPOCHS}", max_budget_epochs=EPOCHS)


def students(options: argparse.Namespace, task: Task) -> None:
    for student in STUDENTS:
        baselines.compare(
            in_full(task),
            [student],
            LOSSES,
            seeds=range(TRAININGS),
            out=options.out / "students" / student,
            workers=options.workers,
            teacher=options.teacher,
            progress=lambda done, of, text: print(f"{done}/{of} {text}", flush=True),
        )


def found_families(searches: Path) -> dict[int, list[Method]]:
    """What each search kept, by seed; the default family at the first, for it is the same for all."""
    found: dict[int, list[Method]] = {}
    for job in json.loads((searches / COMPARISON).read_text(encoding="utf-8"))["jobs"]:
        if job["details"]["optimizer"] != "default" or job["seed"] == 0:
            method = Method(job["method"], "family", options=job["details"]["candidate"])
            found.setdefault(job["seed"], []).append(method)
    return found


RECORDS = (COMPARISON, RUN, TASK, TRIALS, FINALS, RESULT, baselines.TRAININGS)
COLUMNS = ("network", "loss", "search_seed", "training", "test_accuracy", "val_accuracy", "n_params", "macs")


def report(options: argparse.Namespace, task: Task) -> None:
    """Records but for weights, ``trainings.csv`` and ``table.md``."""
    for path in sorted(options.out.rglob("*")):
        if path.name in RECORDS:
            kept = RESULTS / "records" / path.relative_to(options.out)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(path.read_bytes())
    rows = [*_of_families(options.out / "families"), *_of_students(options.out / "students")]
    write_csv(RESULTS / "trainings.csv", COLUMNS, rows)
    of_seed: dict[tuple[str, str], dict[int, list[list[Any]]]] = {}
    for row in rows:
        of_seed.setdefault((row[0], row[1]), {}).setdefault(row[2], []).append(row)
    lines = []
    for (network, loss), seeds in of_seed.items():
        means = {seed: mean(row[4] for row in found) for seed, found in seeds.items()}
        found = [row for each in seeds.values() for row in each]
        values = list(means.values()) if len(means) > 1 else [row[4] for row in found]
        size = f"{mean(row[6] for row in found) / 1e3:.0f}k", f"{mean(row[7] for row in found) / 1e6:.1f}"
        counts = str(len(means)), str(len(found))
        lines.append([network, loss, mean_interval(values, bounds=SHARE).percent(), *counts, *size])
    header = ["network", "loss", "test accuracy, % [95%]", "searches", "trainings", "parameters", "MMACs"]
    text = markdown_table(header, lines)
    (RESULTS / "table.md").write_text(f"{text}\n{CAPTION}\n", encoding="utf-8")
    print(text)


CAPTION = (
    f"Students of {EPOCHS} epochs; intervals are over searches where there are several (of the mean of their "
    "trainings), else over trainings, which says nothing about another search."
)


def _of_families(folder: Path) -> Iterator[list[Any]]:
    for path in sorted(folder.glob(f"seed-*/*/seed-0/{FINALS}")):
        seed, method = int(path.parts[-4].removeprefix("seed-")), path.parts[-3].replace("-", " ")
        for index, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            yield [method, "kd", seed, index, *_figures(json.loads(line))]


def _of_students(folder: Path) -> Iterator[list[Any]]:
    for path in sorted(folder.glob(f"*/{baselines.TRAININGS}")):
        for each in baselines.read_trainings(path):
            yield [each.student, each.loss, 0, each.seed, *_figures(each.result.to_dict())]


def _figures(result: dict[str, Any]) -> list[Any]:
    return [result[name] for name in COLUMNS[4:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder of the pictures")
    parser.add_argument("--teacher", required=True, help="file of the teacher")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--seeds", type=int, default=1, help="of the searches (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="trainings at the same time (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts (default: all)")
    options = parser.parse_args()
    task = get_task(str(RESULTS / "task.yaml"), data_dir=options.data_dir)
    for part in options.only:
        {"searches": searches, "families": families, "students": students, "report": report}[part](options, task)


if __name__ == "__main__":
    main()
