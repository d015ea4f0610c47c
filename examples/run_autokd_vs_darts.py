"""AutoKD against DARTS on real data, in about three minutes on two cores.

Searches with the same task, teacher, splits, seeds and time for every method, trains what each found from scratch under
one protocol, and prints a table (and a figure and everything else in the run folder). Rows: AutoKD, random draws of
families, the default family without a search, DARTS searching and training with the KD loss, and the teacher itself;
with --labels-only also DARTS as published. Time is modelled CPU seconds of training, the same on every machine
(naslib_autokd.distillation.training_cost), so that a run can be repeated and continued.

The task is cluttered-digits with full trainings of 12 epochs in place of 9: on its 1,500 images the default family has
89.8, 91.0 and 91.3% validation accuracy after 9, 18 and 27 epochs (2 trainings each), and a training of one of DARTS's
cells takes ten times as long.

    python examples/run_autokd_vs_darts.py
    python examples/run_autokd_vs_darts.py --seeds 5 --out runs/five-seeds
    python examples/run_autokd_vs_darts.py --budget 120 --unit student_epochs --host builtin

DARTS is NASLib's own where NASLib is there (naslib-autokd doctor says), and the one of this package otherwise; --host
chooses, and the rows say which. NASLib's searches its simple cell, of its two spaces that run on small images the one
in which DARTS does better.

An interrupted run continues when it is started again with the same --out.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from naslib_autokd.cli import task_from_options, terminate_as_interrupt
from naslib_autokd.plugin.doctor import OK, examine
from naslib_autokd.reports.comparison import (
    LiveComparison,
    anytime_figure,
    print_comparison,
    table_text,
    write_csv,
)
from naslib_autokd.reports.conclusions import what_it_shows
from naslib_autokd.reports.results import read_run
from naslib_autokd.reports.terminal import console_for
from naslib_autokd.runners.comparison import AUTOKD_VS_DARTS, BUDGET_UNITS, Method, compare
from naslib_autokd.tasks import get_task

DEFAULT_SEEDS = 3
DEFAULT_SECONDS = 20.0  # of each search: some seven full trainings of families
DEFAULT_TRAININGS = 5  # or so many full trainings' worth of student-epochs

TASK = get_task("cluttered-digits-12")

FAMILIES = (
    Method("random search", "search", "random_search"),
    Method("default family", "default"),
)

HOSTS = ("auto", "naslib", "builtin")

# Validation accuracy of what NASLib's DARTS found on cluttered-digits in 45 student-epochs (24k parameters, two final
# trainings each of seeds 0 and 1): simple cell 88.9% with KD and 86.8% without, NAS-Bench-201 75.8 and
# 78.4%, whose two halvings leave 7 channels for the first stage.
SIMPLE_CELL = {"space": "simple_cell"}
NASLIB_DARTS = (
    Method("NASLib DARTS with KD", "one-shot", "naslib-darts", "kd", SIMPLE_CELL),
    Method("NASLib DARTS", "one-shot", "naslib-darts", "ce", SIMPLE_CELL),
)


def rivals(host: str) -> tuple[tuple[Method, ...], str]:
    """The rows of DARTS, with KD and without, and a line of text that says whose DARTS it is.

    Raises:
        ValueError: If ``host`` is ``"naslib"`` and NASLib or a package that it needs is missing.
    """
    if host == "builtin":
        return AUTOKD_VS_DARTS[1:], "DARTS of this package (--host builtin)"
    findings = [finding for finding in examine() if "NASLib" in finding.what]
    missing = next((finding for finding in findings if finding.state != OK), None)
    if missing is None:
        return NASLIB_DARTS, f"NASLib's DARTS, from {findings[0].detail}"
    if host == "naslib":
        raise ValueError(f"--host naslib: {missing.what}: {missing.detail}; to put it right:\n{missing.fix}")
    return AUTOKD_VS_DARTS[1:], f"DARTS of this package, as NASLib cannot be used: {missing.detail}"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, default=DEFAULT_SEEDS, help="number of paired seeds (default: %(default)s)"
    )
    parser.add_argument(
        "--budget",
        type=float,
        help=f"of each search (default: {DEFAULT_SECONDS:g} seconds, or {DEFAULT_TRAININGS} full trainings)",
    )
    parser.add_argument(
        "--unit",
        choices=tuple(BUDGET_UNITS),
        default="training_seconds",
        help="what the budget counts: modelled CPU seconds of training (default) or student-epochs",
    )
    parser.add_argument("--task", default=TASK.name, help="task: a name or a YAML file (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder of the data, for tasks that are not embedded")
    parser.add_argument("--teacher", help="checkpoint (.safetensors or .pt) or module:function, instead of the task's")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/autokd-vs-darts-<time>)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--objective",
        choices=("kd", "ce"),
        default="kd",
        help="what AutoKD's students learn from: the teacher (kd, default) or the labels alone (ce)",
    )
    parser.add_argument(
        "--host",
        choices=HOSTS,
        default="auto",
        help="whose DARTS: NASLib's (naslib), this package's (builtin), or NASLib's where it is there (auto, default)",
    )
    parser.add_argument("--labels-only", action="store_true", help="DARTS as published, too: on the labels alone")
    parser.add_argument("--finals", type=int, default=1, help="final trainings after each search (default: 1)")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes (default: 2)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    out = options.out or Path("runs") / f"autokd-vs-darts-{time.strftime('%Y%m%d-%H%M%S')}"
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
    console = console_for()
    task = TASK if options.task == TASK.name else task_from_options(options)
    if options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {options.seeds}")
    darts, whose = rivals(options.host)
    families = [replace(method, objective=options.objective) for method in FAMILIES]
    own = Method("AutoKD", "search", "autokd", options.objective)
    methods = (own, *families, *(darts if options.labels_only else darts[:1]))
    seconds = options.unit == "training_seconds"
    budget = options.budget or (DEFAULT_SECONDS if seconds else DEFAULT_TRAININGS * task.max_budget_epochs)
    seeds = range(options.seeds)
    console.print(
        f"task {task.name}; seeds: {len(seeds)}; {budget:g} {BUDGET_UNITS[options.unit]} per search; run folder {out}",
        soft_wrap=True,
        highlight=False,
    )
    console.print(f"rival: {whose}", soft_wrap=True, highlight=False)
    with LiveComparison(methods, seeds, console) as live:
        comparison = compare(
            task,
            methods,
            seeds=seeds,
            budget=budget,
            budget_unit=options.unit,
            out=out,
            n_finals=options.finals,
            workers=options.workers,
            device=options.device,
            teacher=options.teacher,
            progress=live.update,
        )
    for method, seed, message in comparison.failures:
        console.print(f"{method}, seed {seed} did not finish: {message}", style="red", markup=False)
    if not comparison.rows:
        return 1
    (out / "table.txt").write_text(table_text(comparison), encoding="utf-8")
    write_csv(comparison, out / "results.csv")
    anytime_figure(read_run(out, analyse=False), out / "anytime.png")
    print_comparison(comparison, console)
    for line in what_it_shows(comparison):
        print(line)
    print(
        f"{comparison.wall_s:.0f} s. In {out}: table.txt, results.csv, anytime.png, comparison.json, one folder a job."
    )
    return 1 if comparison.failures else 0


if __name__ == "__main__":
    sys.exit(main())
