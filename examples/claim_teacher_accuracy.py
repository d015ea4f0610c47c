"""The paper's claim: the teacher's accuracy with a third of its memory and a tenth of its parameters.

Searches, once a seed, for a family whose students keep both limits, trains several students of it in full, and
compares them with the teacher on the test split. What counts as memory is not known from the paper's abstract; here it
is the peak of live tensors of a training step at the task's batch size (limited), and of a forward pass of one image
(reported). Prints a table and a verdict, and writes table.txt, results.csv and claim.json into the run folder.

    python examples/claim_teacher_accuracy.py
    python examples/claim_teacher_accuracy.py --task cifar10 --data-dir DATA --teacher wrn_40_2 --trainings 60

As it stands it takes three minutes of CPU: the teacher is a ResNet-20 (272k parameters) on
cluttered digits, and eight trainings' worth of search is little. An interrupted run continues when it is started again
with the same --out, also with more seeds. Results: docs/claims.md.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from naslib_autokd.cli import terminate_as_interrupt

MARGIN = 0.01
"""A difference of accuracies below this counts as none."""
PARAMS_SHARE, MEMORY_SHARE = 10, 3
"""What a student may have: a tenth of the teacher's parameters, a third of its memory."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="cluttered-digits", help="name or YAML file (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder of the data, for tasks that are not embedded")
    parser.add_argument(
        "--teacher", default="resnet20", help="as for naslib-autokd search: a name or a file (default: %(default)s)"
    )
    parser.add_argument("--teacher-epochs", type=int, help="of a teacher that is trained here (default: the task's)")
    parser.add_argument("--seeds", type=int, default=4, help="searches (default: %(default)s)")
    parser.add_argument("--trainings", type=float, default=8, help="full trainings' worth of each (default: 8)")
    parser.add_argument("--finals", type=int, default=3, help="students trained of each family (default: 3)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/claim-teacher-accuracy"), help="run folder")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the claim needs, from the run folder where it is there."""
    import numpy as np

    from naslib_autokd.distillation.costs import inference_memory
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.evaluators.student_limits import StudentLimits, check_reachable
    from naslib_autokd.runners.engine import DaskEngine
    from naslib_autokd.runners.finals import train_family
    from naslib_autokd.runners.search import search
    from naslib_autokd.search_spaces.hnag import HNAGSpace
    from naslib_autokd.tasks import get_task

    for name, least in (("seeds", 1), ("finals", 1), ("workers", 1), ("trainings", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(options, name):g}")
    fields: dict[str, Any] = {}
    if options.data_dir is not None:
        fields["data_dir"] = str(options.data_dir)
    if options.teacher_epochs is not None:
        fields["teacher_epochs"] = options.teacher_epochs
    task = get_task(options.task, **fields)
    devices = tuple(options.device.split(","))
    first = KDEvaluator(task, device=devices[0], teacher=options.teacher, report=print)
    teacher = first.teacher_row()
    max_memory = teacher.train_memory_bytes // MEMORY_SHARE
    task = get_task(first.task, max_params=teacher.n_params // PARAMS_SHARE)
    limits = StudentLimits(max_train_memory=max_memory)
    print(
        f"teacher {options.teacher}: {100 * (teacher.test_accuracy or 0):.1f} % of the test images, "
        f"{teacher.n_params:,} parameters, {teacher.train_memory_bytes / 2**20:.1f} MiB to train; students may have "
        f"{task.max_params:,} parameters and {max_memory / 2**20:.1f} MiB",
        flush=True,
    )
    make = partial(KDEvaluator, task, teacher=options.teacher, limits=limits)
    evaluator = make(device=devices[0])
    space, rng = HNAGSpace(task.preset), np.random.default_rng(0)
    families = itertools.chain([space.default_candidate()], (space.sample(rng) for _ in range(32)))
    check_reachable(lambda family: evaluator.student_spec(family, 0), families)
    searches = []
    with ExitStack() as stack:
        engine = None
        if options.workers > 1:
            engine = stack.enter_context(DaskEngine(make, workers=options.workers, devices=devices))
        for seed in range(options.seeds):
            folder = options.out / f"seed-{seed}"
            found = search(
                task,
                "autokd",
                evaluator=evaluator if engine is None else None,
                engine=engine,
                student_epochs=options.trainings * task.max_budget_epochs,
                seed=seed,
                out=folder,
                evaluation={"objective": "kd", "teacher": options.teacher, "limits": asdict(limits)},
            )
            finals = train_family(
                evaluator, found.candidate, n_students=options.finals, seed=seed, out=folder, engine=engine
            )
            spec = evaluator.student_spec(found.candidate, finals.best.seed)
            searches.append(
                {
                    "seed": seed,
                    "family": found.candidate.to_dict(),
                    "kept": finals.kept,
                    "students": [final.to_dict() for final in finals.results],
                    "inference_memory": inference_memory(evaluator.build_student(spec, 0), evaluator.image_shape),
                }
            )
            print(f"seed {seed}: {', '.join(f'{100 * a:.1f}' for a in finals.test_accuracies)} %", flush=True)
    memory = inference_memory(first.teacher.network, first.image_shape)
    return {
        "task": task.name,
        "n_test": len(evaluator.data.read_test()[1]),
        "trainings": options.trainings,
        "teacher": teacher.to_dict() | {"network": options.teacher, "inference_memory": memory},
        "searches": searches,
    }


def table(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a search: accuracies as fractions, costs as shares of the teacher's (the dearest student's)."""
    teacher = result["teacher"]
    rows = []
    for one in result["searches"]:
        students = one["students"]
        mean = sum(student["test_accuracy"] for student in students) / len(students)
        rows.append(
            {
                "search_seed": one["seed"],
                "students": len(students),
                "test_accuracy": mean,
                "test_accuracy_kept": students[one["kept"]]["test_accuracy"],
                "minus_teacher": mean - teacher["test_accuracy"],
                "params": max(student["n_params"] for student in students),
                "params_share": max(student["n_params"] for student in students) / teacher["n_params"],
                "train_memory_share": max(s["train_memory_bytes"] for s in students) / teacher["train_memory_bytes"],
                "inference_memory_share": one["inference_memory"] / teacher["inference_memory"],
                "macs_share": max(student["macs"] for student in students) / teacher["macs"],
            }
        )
    return rows


def conclude(result: dict[str, Any]) -> list[str]:
    """The table as text, what its numbers say, and what they do not."""
    from naslib_autokd.runners.statistics import SHARE, mean_interval

    teacher, rows = result["teacher"], table(result)
    accuracy = mean_interval([row["test_accuracy"] for row in rows], bounds=SHARE)
    kept = mean_interval([row["test_accuracy_kept"] for row in rows], bounds=SHARE)
    difference = mean_interval([row["minus_teacher"] for row in rows])
    heads = ("search", "students", "test %", "kept student", "minus teacher", "params", "share", "train mem", "MACs")
    lines = [
        f"{result['task']}: teacher {teacher['network']}, {100 * teacher['test_accuracy']:.1f} % of "
        f"{result['n_test']:,} test images; shares are of the teacher's, the dearest student's",
        "{:>7} {:>8}  {:>17}  {:>17}  {:>17} {:>8} {:>6} {:>9} {:>6}".format(*heads),
    ]
    lines += [
        f"{row['search_seed']:>7} {row['students']:>8}  {100 * row['test_accuracy']:>17.1f}  "
        f"{100 * row['test_accuracy_kept']:>17.1f}  {100 * row['minus_teacher']:>+17.1f} {row['params']:>8,} "
        f"{row['params_share']:>6.3f} {row['train_memory_share']:>9.2f} {row['macs_share']:>6.3f}"
        for row in rows
    ]
    lines += [
        f"{'mean':>7} {sum(row['students'] for row in rows):>8}  {accuracy.percent():>17}  {kept.percent():>17}  "
        f"{difference.percent():>17}    [95% interval over {len(rows)} search{'es' * (len(rows) > 1)}]",
        "",
    ]
    over = max(row["inference_memory_share"] for row in rows)
    lines.append(f"Memory of a forward pass of one image: {over:.2f} of the teacher's at most (not limited).")
    noise = (teacher["test_accuracy"] * (1 - teacher["test_accuracy"]) / result["n_test"]) ** 0.5
    if difference.low is None or difference.high is None:
        few = "One search says" if difference.n == 1 else "Searches that all differ by the same say"
        lines.append(f"{few} nothing about the claim: give --seeds.")
    elif difference.low > -MARGIN:
        lines.append(f"The claim holds here: at most {100 * MARGIN:.0f} point below the teacher (95% interval).")
    elif difference.high < -MARGIN:
        lines.append(f"The claim fails here: more than {100 * MARGIN:.0f} point below the teacher (95% interval).")
    else:
        lines.append(f"Undecided: the interval holds differences on both sides of -{100 * MARGIN:.0f} point.")
    lines.append(
        "The interval holds the noise of searches, wirings and weights, but the teacher is one training, and one "
        f"accuracy on these test images has a standard error of {100 * noise:.1f} points."
    )
    return lines


def write(result: dict[str, Any], lines: list[str], out: Path) -> None:
    rows = table(result)
    (out / "claim.json").write_text(json.dumps(result | {"conclusion": lines}, indent=1), encoding="utf-8")
    (out / "table.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with open(out / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    started = time.perf_counter()
    try:
        with terminate_as_interrupt():
            result = run(options)
    except KeyboardInterrupt:
        print(f"interrupted; the same command with --out {options.out} continues", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines = conclude(result)
    write(result, lines, options.out)
    print("\n".join(lines))
    print(f"{time.perf_counter() - started:.0f} s. In {options.out}: table.txt, results.csv, claim.json, seed-*/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
