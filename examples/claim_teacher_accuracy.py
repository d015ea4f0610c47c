"""The paper's claim: the teacher's accuracy with a third of its memory and a tenth of its parameters.

Searches for a family whose students keep both limits, trains several students of it, and compares them with the
teacher on the test split. What counts as memory is not known from the paper's abstract; here it is the peak of live
tensors of a training step at the task's batch size (limited), and of a forward pass of one image (reported).

    python examples/claim_teacher_accuracy.py
    python examples/claim_teacher_accuracy.py --task cifar10 --data-dir DATA --teacher wrn_40_2 --trainings 60

As it stands it takes some five minutes on two cores: the teacher is a ResNet-20 (272k parameters) on cluttered digits,
and eight trainings' worth of search is little. An interrupted run continues when it is started again with the same
--out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from naslib_autokd.distillation.costs import inference_memory
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.runners.engine import DaskEngine
from naslib_autokd.runners.search import search, train_family
from naslib_autokd.runners.statistics import mean_interval
from naslib_autokd.tasks import get_task

MARGIN = 0.01
"""A difference of accuracies below this counts as none."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="cluttered-digits", help="name or YAML file (default: %(default)s)")
    parser.add_argument("--data-dir", help="folder of the data, for tasks that are not embedded")
    parser.add_argument("--teacher", default="resnet20", help="architecture to train as teacher (default: %(default)s)")
    parser.add_argument("--teacher-epochs", type=int, help="default: the task's")
    parser.add_argument("--seeds", type=int, default=2, help="searches (default: %(default)s)")
    parser.add_argument("--trainings", type=float, default=8, help="full trainings' worth of each (default: 8)")
    parser.add_argument("--finals", type=int, default=3, help="students trained of each family (default: 3)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=Path("runs/claim-teacher-accuracy"))
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the claim needs, from the run folder where it is there."""
    fields: dict[str, Any] = {"teacher": options.teacher}
    if options.data_dir is not None:
        fields["data_dir"] = options.data_dir
    if options.teacher_epochs is not None:
        fields["teacher_epochs"] = options.teacher_epochs
    task = get_task(options.task, **fields)
    first = KDEvaluator(task, device=options.device, threads=os.cpu_count() or 1, report=print)
    teacher = first.teacher_row()
    task = get_task(first.task, max_params=teacher.n_params // 10)
    limits = StudentLimits(max_train_memory=teacher.train_memory_bytes // 3)
    print(
        f"teacher {options.teacher}: test accuracy {100 * (teacher.test_accuracy or 0):.1f} %, {teacher.n_params:,} "
        f"parameters, {teacher.train_memory_bytes / 2**20:.1f} MiB to train; students may have {task.max_params:,} and "
        f"{teacher.train_memory_bytes / 3 / 2**20:.1f} MiB",
        flush=True,
    )
    evaluator = KDEvaluator(task, device=options.device, data=None, limits=limits)
    students = []
    memory = []
    with DaskEngine(
        partial(KDEvaluator, task, limits=limits), workers=options.workers, devices=tuple(options.device.split(","))
    ) as engine:
        for seed in range(options.seeds):
            folder = options.out / f"seed-{seed}"
            found = search(
                task,
                "autokd",
                engine=engine,
                student_epochs=options.trainings * task.max_budget_epochs,
                seed=seed,
                out=folder,
                evaluation={"limits": {"max_train_memory": limits.max_train_memory}},
            )
            finals = train_family(
                evaluator, found.candidate, n_students=options.finals, seed=seed, out=folder, engine=engine
            )
            spec = evaluator.student_spec(found.candidate, finals.best.seed)
            memory.append(inference_memory(evaluator.build_student(spec, 0), evaluator.image_shape))
            students.append([final.to_dict() for final in finals.results])
            print(f"seed {seed}: {[f'{100 * a:.1f}' for a in finals.test_accuracies]}", flush=True)
    shape = first.image_shape
    return {
        "task": task.name,
        "teacher": teacher.to_dict() | {"inference_memory": inference_memory(first.teacher.network, shape)},
        "students": students,
        "inference_memory": memory,
    }


def conclude(result: dict[str, Any]) -> list[str]:
    """What the numbers say, and what they do not."""
    teacher = result["teacher"]
    means = [sum(s["test_accuracy"] for s in seed) / len(seed) for seed in result["students"]]
    accuracy = mean_interval(means)
    difference = mean_interval([mean - teacher["test_accuracy"] for mean in means])
    every = [student for seed in result["students"] for student in seed]
    params = max(s["n_params"] for s in every) / teacher["n_params"]
    training = max(s["train_memory_bytes"] for s in every) / teacher["train_memory_bytes"]
    inference = max(result["inference_memory"]) / teacher["inference_memory"]
    lines = [
        f"students: test accuracy {accuracy.percent()} % ({len(means)} searches, {len(every)} students); teacher "
        f"{100 * teacher['test_accuracy']:.1f} %; difference {difference.percent()} points",
        f"of the teacher: parameters {params:.3f}, training memory {training:.2f}, inference memory {inference:.2f}",
    ]
    if difference.low is None or difference.high is None:
        lines.append("One search says nothing about the claim: give --seeds.")
    elif difference.low > -MARGIN:
        lines.append(f"The claim holds here: no more than {100 * MARGIN:.0f} point below the teacher (95% interval).")
    elif difference.high < -MARGIN:
        lines.append(f"The claim fails here: more than {100 * MARGIN:.0f} point below the teacher (95% interval).")
    else:
        lines.append(f"Undecided: the interval holds differences on both sides of -{100 * MARGIN:.0f} point.")
    return lines


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    started = time.perf_counter()
    try:
        result = run(options)
    except KeyboardInterrupt:
        print(f"interrupted; the same command with --out {options.out} continues", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines = conclude(result)
    (options.out / "claim.json").write_text(json.dumps(result | {"conclusion": lines}, indent=1), encoding="utf-8")
    print("\n".join(lines))
    print(f"{time.perf_counter() - started:.0f} s; run folder {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
