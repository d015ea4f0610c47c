"""CIFAR-10 from a folder: searches at equal cost, then their families and hand-designed students under one protocol.

    naslib-autokd teacher train --task benchmarks/results/cifar10/task.yaml --data-dir IMAGES --out resnet20.safetensors
    python benchmarks/cifar10.py --data-dir IMAGES --teacher resnet20.safetensors --out runs/teacher-90 --seeds 2

IMAGES has ``train/CLASS`` and ``test/CLASS``. The teacher is trained on 45,000 images; students have 5,000 of them, and
at most the parameters and multiply-adds of a resnet8.

    searches    AutoKD, random search, regularized evolution, and the default family without a search: seed by seed, at
                equal modelled seconds of training; trainings of 3 and 9 epochs
    families    two students of 27 epochs of every family that was kept
    students    the same of hand-designed networks, with several losses
    losses      the same of AutoKD's families with plain KD and other losses (the best of these, FitNet)
    report      every training and the records of all parts, in ``results/cifar10/BLOCK``, and the table of all blocks

All parts are run unless ``--only`` names some; the same command continues, also with more seeds. With ``--all-images
teacher-87.6 teacher-88.0`` students learn from all 45,000 images: the families that AutoKD found in these blocks from
5,000 (``losses``), and hand-designed networks (``students``). A block is one teacher
on one machine, named as the run folder: all methods of a block learn from the same teacher, so that only differences
within blocks count. Teachers are not kept: another machine trains its own.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.reports.tables import markdown_table, write_csv
from naslib_autokd.runners import baselines
from naslib_autokd.runners.comparison import JobProgress, Method, compare
from naslib_autokd.runners.run_folder import COMPARISON, FINALS, RESULT, RUN, TASK, TRIALS
from naslib_autokd.runners.statistics import paired_difference
from naslib_autokd.search_spaces.hnag import Candidate
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
PARTS = ("searches", "families", "students", "losses", "report")


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


def with_all_images(task: Task) -> Task:
    """Fewer views of each image, for there are nine times as many."""
    return replace(in_full(task), name=f"cifar10-45k-{EPOCHS}", n_train=task.n_teacher, n_views=4, batch_size=64)


def students(options: argparse.Namespace, task: Task) -> None:
    for student in options.students:
        baselines.compare(
            with_all_images(task) if options.all_images else in_full(task),
            [student],
            options.losses,
            seeds=range(options.trainings),
            out=options.out / "students" / student,
            workers=options.workers,
            teacher=options.teacher,
            progress=lambda done, of, text: print(f"{done}/{of} {text}", flush=True),
        )


def losses(options: argparse.Namespace, task: Task) -> None:
    if options.all_images:
        blocks = [found_families(RESULTS / name / "records" / "searches")[0] for name in options.all_images]
    else:
        blocks = list(found_families(options.out / "searches").values())
    for seed, methods in enumerate(blocks):
        baselines.compare(
            with_all_images(task) if options.all_images else in_full(task),
            [],
            [],
            seeds=range(options.trainings),
            out=options.out / "losses" / f"seed-{seed}",
            workers=options.workers,
            teacher=options.teacher,
            family=next(Candidate.from_dict(dict(one.options)) for one in methods if one.label == METHODS[0].label),
            family_losses=options.family_losses,
            limits=LIMITS,
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
    """Of this block the records but for weights, and ``trainings.csv``; ``table.md`` of all blocks of its kind."""
    results = RESULTS.with_name("cifar10-all-images") if options.all_images else RESULTS
    block = results / options.out.resolve().name
    for path in sorted(options.out.rglob("*")):
        if path.name in RECORDS:
            kept = block / "records" / path.relative_to(options.out)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(path.read_bytes())
    rows = [*_of_families(options.out / "families"), *_of_students(options.out / "students")]
    rows += _of_losses(options.out / "losses")
    write_csv(block / "trainings.csv", COLUMNS, rows)
    text = table(sorted(results.glob("*/trainings.csv")))
    (results / "table.md").write_text(text, encoding="utf-8")
    print(text)


def table(files: Sequence[Path]) -> str:
    """Accuracy in each block, and what AutoKD's families are ahead, paired by search."""
    blocks: dict[str, dict[tuple[str, str], dict[int, list[dict[str, str]]]]] = {}
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                own = blocks.setdefault(path.parent.name, {}).setdefault((row["network"], row["loss"]), {})
                own.setdefault(int(row["search_seed"]), []).append(row)
    networks = list(dict.fromkeys(key for found in blocks.values() for key in found))
    accuracy = {
        (name, key): {seed: mean(float(row["test_accuracy"]) for row in rows) for seed, rows in seeds.items()}
        for name, found in blocks.items()
        for key, seeds in found.items()
    }
    lines = []
    for key in networks:
        of_blocks = [accuracy.get((name, key), {}) for name in blocks]
        shown = [f"{100 * mean(own.values()):.1f}" if own else "" for own in of_blocks]
        pairs = [
            (reference, own.get(seed, mean(own.values())))  # of those that no search found: the block's mean
            for name, own in zip(blocks, of_blocks, strict=True)
            for seed, reference in accuracy.get((name, AUTOKD), {}).items()
            if own
        ]
        ahead = "" if key == AUTOKD or not pairs else _points(pairs)
        every = [row for found in blocks.values() for rows in found.get(key, {}).values() for row in rows]
        size = f"{mean(float(row['n_params']) for row in every) / 1e3:.0f}k"
        macs = f"{mean(float(row['macs']) for row in every) / 1e6:.1f}"
        lines.append([*key, *shown, ahead, str(len(pairs)), str(len(every)), size, macs])
    header = ["network", "loss", *(f"{name}, %" for name in blocks), "AutoKD minus it, points [95%]", "pairs"]
    return f"{markdown_table([*header, 'trainings', 'parameters', 'MMACs'], lines)}\n{CAPTION}\n"


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    found = paired_difference([one for one, _ in pairs], [other for _, other in pairs])
    low, high = found.difference.low, found.difference.high
    ends = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * found.difference.mean:+.1f}{ends}"


AUTOKD = ("autokd", "kd")
CAPTION = (
    f"Test accuracy of students of {EPOCHS} epochs, one column for each teacher. Pairs: searches of AutoKD, each with "
    "the search of the same teacher and seed, or with the mean of that teacher's students that no search found (pairs "
    "of one teacher are then not independent)."
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


def _of_losses(folder: Path) -> Iterator[list[Any]]:
    for path in sorted(folder.glob(f"seed-*/{baselines.TRAININGS}")):
        seed = int(path.parts[-2].removeprefix("seed-"))
        for each in baselines.read_trainings(path):
            yield [AUTOKD[0], each.loss, seed, f"losses-{each.seed}", *_figures(each.result.to_dict())]


def _figures(result: dict[str, Any]) -> list[Any]:
    return [result[name] for name in COLUMNS[4:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder of the pictures")
    parser.add_argument("--teacher", required=True, help="file of the teacher")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--seeds", type=int, default=1, help="of the searches (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="trainings at the same time (default: %(default)s)")
    parser.add_argument("--all-images", nargs="+", metavar="BLOCK", help="blocks whose families learn from all images")
    parser.add_argument("--students", nargs="+", default=STUDENTS, help="hand-designed networks (default: %(default)s)")
    parser.add_argument("--losses", nargs="+", default=LOSSES, help="of these (default: %(default)s)")
    parser.add_argument("--family-losses", nargs="*", default=["fitnet"], help="of AutoKD's families, beside plain KD")
    parser.add_argument("--trainings", type=int, default=TRAININGS, help="of each student (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts (default: all that there are)")
    options = parser.parse_args()
    task = get_task(str(RESULTS / "task.yaml"), data_dir=options.data_dir)
    for part in options.only or (PARTS[2:] if options.all_images else PARTS):
        {"searches": searches, "families": families, "students": students, "losses": losses, "report": report}[part](
            options, task
        )


if __name__ == "__main__":
    main()
