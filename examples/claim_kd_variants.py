"""The claim "plain KD on a searched family beats advanced KD losses on hand-designed students", tested.

Searches a family of students with plain KD, trains students of it, and trains hand-designed students of the
distillation literature with plain KD and with advanced losses, all under one protocol and paired by seed. Prints a
table, which losses helped, and whether the claim held: the family against the advanced loss and student that were best
by validation accuracy. The seeds repeat the final trainings, not the search; --search-seed repeats that.

    python examples/claim_kd_variants.py
    python examples/claim_kd_variants.py --seeds 5 --losses kd,fitnet,at,sp,cc,vid,rkd,pkt,ft,nst,crd,dkd
    python examples/claim_kd_variants.py --task cifar10 --data-dir data --device cuda --students resnet20,wrn_16_1

As it stands: the embedded task, resnet8x0.5 (20k parameters, the task's limit is 24k) with six losses, 3 seeds, 12
trials of search; two minutes of CPU. With eight seeds the family was 1.3 points [0.6, 2.0] ahead of the best advanced
loss, FitNet, at 2.6 times the multiply-adds; three seeds may not tell them apart. Results: docs/claims.md.

An interrupted run continues when it is started again with the same --out, also with more seeds or losses.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import cast

import yaml

from naslib_autokd.cli import task_from_options, terminate_as_interrupt
from naslib_autokd.commands.compare_kd import report, say, write_summary
from naslib_autokd.search_spaces.hnag import Candidate

DEFAULT_LOSSES = "kd,fitnet,at,vid,pkt,dkd"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="cluttered-digits", help="task: a name or a YAML file (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder of the data, for tasks that are not embedded")
    parser.add_argument("--teacher", help="another teacher than the task's, as for naslib-autokd search")
    parser.add_argument(
        "--students", default="resnet8x0.5", help="hand-designed, with commas between (default: %(default)s)"
    )
    parser.add_argument("--losses", default=DEFAULT_LOSSES, help="with commas between (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=12, help="trainings of the search (default: %(default)s)")
    parser.add_argument("--search-seed", type=int, default=0, help="seed of the search (default: 0)")
    parser.add_argument("--family", type=Path, help="a family that was searched before, instead of a search")
    parser.add_argument("--seeds", type=int, default=3, help="paired seeds of the trainings (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes (default: 2)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/claim-kd-variants-<time>)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    out = options.out or Path("runs") / f"claim-kd-variants-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        with terminate_as_interrupt():
            return run(options, out)
    except KeyboardInterrupt:
        print(f"interrupted; what has finished is kept, and --out {out} continues", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace, out: Path) -> int:
    from naslib_autokd.runners.baselines import check, compare, read_family

    started = time.perf_counter()
    task = task_from_options(options)
    if options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {options.seeds}")
    students, losses = options.students.split(","), options.losses.split(",")
    check(task, students, losses, range(options.seeds), options.workers)
    if options.family is not None:
        family = read_family(options.family)
    else:
        print(f"searching a family with plain KD: {options.trials} trials; run folder {out}", flush=True)
        family = search_family(options, out / "search")
        out.mkdir(parents=True, exist_ok=True)
        (out / "family.yaml").write_text(yaml.safe_dump(family.to_dict(), sort_keys=False), encoding="utf-8")
    comparison = compare(
        task,
        students,
        losses,
        seeds=range(options.seeds),
        out=out / "trainings",
        workers=options.workers,
        teacher=options.teacher,
        family=family,
        device=options.device,
        progress=say,
    )
    write_summary(comparison, out)
    print(report(comparison))
    print(
        f"{time.perf_counter() - started:.0f} s. In {out}: table.txt, summary.json, family.yaml, search/, trainings/."
    )
    return 1 if comparison.failures else 0


def search_family(options: argparse.Namespace, out: Path) -> Candidate:
    """The incumbent family of a search; a search in ``out`` that was cut off goes on."""
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.runners.engine import DaskEngine
    from naslib_autokd.runners.search import search

    task, devices = task_from_options(options), tuple(options.device.split(","))
    KDEvaluator(task, device=devices[0], teacher=options.teacher, report=print)  # the teacher, once, before the workers
    factory = partial(KDEvaluator, task, teacher=options.teacher)
    with DaskEngine(factory, workers=options.workers, devices=devices) as engine:
        found = search(task, "autokd", engine=engine, n_trials=options.trials, seed=options.search_seed, out=out)
    print(f"found in {found.search_s:.0f} s: {found.candidate.digest}", flush=True)
    return cast(Candidate, found.candidate)


if __name__ == "__main__":
    sys.exit(main())
