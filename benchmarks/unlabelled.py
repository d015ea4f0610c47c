"""What pictures without labels bring to students of an embedded task.

    OMP_NUM_THREADS=1 python benchmarks/unlabelled.py --task cluttered-digits --seeds 6
    OMP_NUM_THREADS=1 python benchmarks/unlabelled.py --task digits --seeds 20

The teacher's images beyond ``n_train`` are given without their labels. For each seed the same student of the task's
default family (same wiring, same initial weights) is trained six times, at temperature 4 and weight 0.9:

    on as many steps as a full training of the labelled images takes
        labels           the labels alone
        teacher          and the teacher, on the labelled images
        unlabelled       and the pictures without labels (fewer epochs, since one passes over both)
    on as many steps as a full training with the pictures without labels takes
        labels, long; teacher, long; unlabelled, long

Test accuracy in percent; intervals are of the paired differences (`statistics.paired_difference`).
``results/unlabelled-TASK.jsonl`` has a line for each seed and is continued; ``results/unlabelled-TASK.json`` is the
summary.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.runners.statistics import mean_interval, paired_difference
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.search_spaces.hnag.parameters import KDSettings
from naslib_autokd.tasks import get_task

RESULTS = Path(__file__).parent / "results"
KD = KDSettings(temperature=4.0, kd_weight=0.9)
ARMS = ("labels", "teacher", "unlabelled", "labels, long", "teacher, long", "unlabelled, long")
COMPARED = (
    ("teacher", "labels"),
    ("unlabelled", "labels"),
    ("unlabelled", "teacher"),
    ("teacher, long", "labels, long"),
    ("unlabelled, long", "labels, long"),
    ("unlabelled, long", "teacher, long"),
    ("unlabelled, long", "teacher"),
)


def run_seed(plain: KDEvaluator, more: KDEvaluator, seed: int) -> dict[str, Any]:
    task, n_shown = plain.task, more.data.n_shown
    short, of_all = task.n_train // task.batch_size, n_shown // task.batch_size
    epochs = task.max_budget_epochs
    spec = plain.student_spec(HNAGSpace(task.preset).default_candidate(), seed)
    row: dict[str, Any] = {"seed": seed, "accuracy": {}, "steps": {}}
    for arm, evaluator, kd, n_epochs in (
        ("labels", plain, None, epochs),
        ("teacher", plain, KD, epochs),
        ("unlabelled", more, KD, max(1, round(epochs * short / of_all))),
        ("labels, long", plain, None, round(epochs * of_all / short)),
        ("teacher, long", plain, KD, round(epochs * of_all / short)),
        ("unlabelled, long", more, KD, epochs),
    ):
        model, result = evaluator.train_final(partial(evaluator.build_student, spec, seed), kd, seed, n_epochs)
        row["accuracy"][arm] = 100 * (evaluator.judge(model, result).test_accuracy or 0.0)
        row["steps"][arm] = n_epochs * (of_all if evaluator is more else short)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    table = {arm: [row["accuracy"][arm] for row in rows] for arm in ARMS}
    differences = {}
    for better, worse in COMPARED:
        found = paired_difference(table[better], table[worse]).difference
        differences[f"{better} - {worse}"] = [None if v is None else round(v, 2) for v in astuple(found)[:3]]
    return {
        "seeds": len(rows),
        "accuracy": {arm: round(mean_interval(values).mean, 2) for arm, values in table.items()},
        "steps": rows[0]["steps"],
        "difference [mean, low, high]": differences,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("cluttered-digits", "digits"), default="cluttered-digits")
    parser.add_argument("--seeds", type=int, default=6)
    options = parser.parse_args()
    task = get_task(options.task)
    plain = KDEvaluator(task, report=print)
    more = KDEvaluator(get_task(task, n_unlabelled=task.n_teacher - task.n_train), report=print)
    kept = RESULTS / f"unlabelled-{task.name}.jsonl"
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    for seed in range(options.seeds):
        if seed not in {row["seed"] for row in rows}:
            rows.append(run_seed(plain, more, seed))
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    found = summary(rows)
    kept.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
