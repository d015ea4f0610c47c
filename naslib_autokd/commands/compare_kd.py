"""``naslib-autokd compare-kd``: hand-designed students with the losses of the literature, beside a searched family."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd.commands import _config
from naslib_autokd.commands._options import (
    DEFAULT_TASK,
    OPTIONS,
    add_limit_options,
    add_option,
    add_runtime_options,
    add_task_options,
    asks_for_latency,
    print_json,
    runtime_from_options,
    student_limits,
    task_from_options,
    tell_of_images,
)
from naslib_autokd.commands._parser import epilog
from naslib_autokd.commands._types import SHARE, NumberOr, positive
from naslib_autokd.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console

    from naslib_autokd.evaluators.results import FinalResult
    from naslib_autokd.reports.tables import Shown
    from naslib_autokd.runners.baselines import BaselineComparison, BaselineRow
    from naslib_autokd.runners.statistics import PairedDifference

LOSSES = "kd,fitnet,at,sp,cc,vid,rkd,pkt,ft,nst,crd,dkd"
ALPHA = 0.05
COLUMNS = ["student", "loss", "n", "test", "minus plain KD", "family minus it", "validation", "agrees", "params"]
COLUMNS += ["MMACs", "train MiB", "s", "CIFAR-100: minus KD"]


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "compare-kd",
        help="train hand-designed students with plain KD and with the losses of the literature",
        description="Train hand-designed students (ResNets, wide ResNets, VGG, MobileNetV2, ShuffleNets) with plain KD "
        "and with eleven losses of the literature, and a searched family with plain KD, all under the task's protocol "
        "and paired by seed. --rivals: networks that one would take instead of the family, in the width that the "
        "limits allow, and which student to take. The same command with the same --out continues, and may have more "
        "seeds or losses.",
        epilog=epilog(
            "naslib-autokd compare-kd --student resnet8x0.5 --losses kd,fitnet,at --seeds 3 --out runs/kd",
            "naslib-autokd compare-kd --losses kd --family runs/first --out runs/kd",
            "naslib-autokd compare-kd --family runs/first --rivals all --seeds 5 --out runs/rivals",
            keys="task, epochs, kd_weight, seeds, teacher, rows (student, loss, test_accuracy, gain, ...), failures, "
            "rivals, left_out, latencies_ms, conclusions",
        ),
    )
    default = {"default": None, "default_text": f"that of the run in --family, else {DEFAULT_TASK}"}
    add_task_options(parser, "--teacher", task=default)
    what = parser.add_argument_group("students and losses")
    what.add_argument(
        "--student",
        action="append",
        help="network of the zoo, for example resnet20, wrn_16_2, vgg8, mobilenet_v2, shufflenet_v1 (repeatable; "
        "default: resnet8; with --rivals none)",
    )
    what.add_argument(
        "--losses",
        default=LOSSES,
        help="with commas between; NAME=WEIGHT for another weight than the literature's; ce is labels only",
    )
    what.add_argument("--family", "--candidate", **OPTIONS["--candidate"])
    what.add_argument(
        "--family-losses",
        metavar="LOSSES",
        default="",
        help="train the family with these losses too, for example fitnet,at (default: plain KD only)",
    )
    what.add_argument(
        "--rivals",
        metavar="NAMES",
        default="",
        help="all, or with commas between: resnet8, resnet14, resnet20, mobilenet_v2, shufflenet_v2, timm (a small "
        "one), timm:NAME, pruned-teacher; in the width that the limits allow, with plain KD, beside the family "
        "(without --family the space's default)",
    )
    what.add_argument(
        "--rival-epochs",
        type=NumberOr(int, 1, 10**6, word="time"),
        metavar="N",
        help="of a rival's training; time: as many as fit into the training time of the family's search (default: the "
        "task's)",
    )
    what.add_argument("--temperature", type=positive(1e6), default=4.0, metavar="T", help="of the Hinton term")
    what.add_argument(
        "--kd-weight",
        type=SHARE,
        default=0.9,
        metavar="W",
        help="share of the Hinton term, also beside the other losses; 0 leaves it out, as RepDistiller's tables do",
    )
    add_option(what, "--seeds", default=3)
    add_limit_options(parser)
    add_runtime_options(parser)
    where = parser.add_argument_group("where it runs")
    add_option(where, "--device")
    add_option(where, "--workers", default=2)
    output = parser.add_argument_group("output")
    add_option(output, "--out", required=True)
    add_option(output, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from naslib_autokd.commands._again import task_of_run
    from naslib_autokd.reports.terminal import Live, console_for
    from naslib_autokd.runners.baselines import compare, read_family, time_of_search
    from naslib_autokd.runners.run_folder import RunFolder
    from naslib_autokd.runners.session import StopSignals
    from naslib_autokd.search_spaces.hnag import HNAGSpace

    run_of_family = options.family if options.family is not None and options.family.is_dir() else None
    family = None if options.family is None else read_family(options.family)
    if options.task is None:
        options.task = DEFAULT_TASK if run_of_family is None else task_of_run(run_of_family)
    if options.rivals:
        take_limits(options, run_of_family)
    limits = student_limits(options)
    with_latency = asks_for_latency(options)
    task = task_from_options(options)
    if options.rivals and family is None:
        family = HNAGSpace(task.preset).default_candidate()
    seconds = time_of_search(run_of_family) if options.rival_epochs == "time" and run_of_family else None
    students = options.student or ([] if options.rivals else ["resnet8"])
    losses = [loss for loss in options.losses.split(",") if loss.strip()] if students else []
    tell_of_images(task)
    keep = _config.keeper(options, options.out)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.own(options.out))
        stop = stack.enter_context(StopSignals("the running trainings are"))
        live = stack.enter_context(Live("compare-kd", step=0))

        def progress(done: int, of: int, text: str) -> None:
            if done:
                keep()
            live.show(done / of, f"[{done}/{of}] {text}")

        comparison = compare(
            task,
            students,
            losses,
            seeds=range(options.seeds),
            out=folder,
            workers=options.workers,
            teacher=options.teacher,
            family=family,
            rivals=[name for name in options.rivals.split(",") if name.strip()],
            rival_epochs=options.rival_epochs if options.rival_epochs != "time" else None,
            rival_seconds=seconds,
            limits=limits,
            runtime=runtime_from_options(options) if with_latency else None,
            family_losses=[loss for loss in options.family_losses.split(",") if loss.strip()],
            temperature=options.temperature,
            kd_weight=options.kd_weight,
            device=options.device,
            stop=stop,
            progress=progress,
            watch=live.note,
        )
        keep()
        write_summary(comparison, options.out)
    if options.json:
        print_json(summary(comparison))
    else:
        print_report(comparison, console_for())
    return 1 if comparison.failures else 0


def take_limits(options: argparse.Namespace, run_of_family: Path | None) -> None:
    """Give the options that were not typed the limits, the runtime and the teacher that a family was searched with.

    Raises:
        ValueError: If the options ask for another task than the run's, or for the time of a search that is not known.
    """
    from naslib_autokd.commands._again import LIMIT_OPTIONS
    from naslib_autokd.distillation.runtime import Runtime
    from naslib_autokd.runners.run_folder import read_settings, read_task
    from naslib_autokd.tasks import get_task

    if run_of_family is None:
        if options.rival_epochs == "time":
            raise ValueError("--rival-epochs time is that of a search: give its run folder as --family")
        return
    of_run, name = read_task(run_of_family), get_task(options.task).name
    if of_run.get("name") != name:
        raise ValueError(f"{run_of_family} is a search on {of_run.get('name')!r}, not on {name!r}: give its --task")
    evaluation = read_settings(run_of_family).get("evaluation") or {}
    limits = evaluation.get("limits") or {}
    found = {name: of_run.get(name) for name in ("max_params", "width_multiple")}
    found["teacher"] = evaluation.get("teacher")
    for field, (option, units) in LIMIT_OPTIONS.items():
        if (value := limits.get(field)) is not None:
            found[option] = str(value) if option.endswith("memory") else value * units
    for option, value in found.items():
        if getattr(options, option) is None:
            setattr(options, option, value)
    if "runtime" in evaluation and runtime_from_options(options) == Runtime():
        for field, value in evaluation["runtime"].items():
            setattr(options, f"latency_{field}", value)


def say(done: int, of: int, text: str) -> None:
    """One line on stderr for each finished training."""
    print(f"[{done}/{of}] {text}", file=sys.stderr, flush=True)


def summary(comparison: BaselineComparison) -> dict[str, Any]:
    from dataclasses import asdict

    content = asdict(comparison)
    del content["trainings"]  # they are in results.jsonl
    return content | {"conclusions": conclusions(comparison)}


def write_summary(comparison: BaselineComparison, out: Path) -> None:
    """``summary.json`` and ``table.txt``, beside the ``results.jsonl`` that they are made of."""
    from naslib_autokd.runners.baselines import SUMMARY

    write_whole(out / SUMMARY, json.dumps(summary(comparison), indent=1).encode())
    write_whole(out / "table.txt", (report(comparison) + "\n").encode())


# --- the report -----------------------------------------------------------------------------------------------------


def report(comparison: BaselineComparison) -> str:
    """Tables and conclusions as plain text."""
    from rich.console import Console

    from naslib_autokd.reports.terminal import WIDE

    console = Console(width=WIDE, file=StringIO(), force_terminal=False, highlight=False)
    print_report(comparison, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().rstrip()


def print_report(comparison: BaselineComparison, console: Console) -> None:
    from naslib_autokd.reports.tables import print_shown

    lines = []
    rivals = comparison.rival_rows
    by_hand = [row for row in comparison.rows if row not in rivals]
    if comparison.rivals or comparison.left_out:
        print_shown(rivals_table(comparison), console)
        lines += rival_explanations(comparison)
    if by_hand != [comparison.family] or not lines:
        for shown in (results_table(comparison), published_table([row.student for row in by_hand])):
            if shown.rows:
                print_shown(shown, console)
        lines += explanations(comparison)
    for line in (*lines, "", *conclusions(comparison)):
        console.print(line, markup=False)


def rivals_table(comparison: BaselineComparison) -> Shown:
    from naslib_autokd.distillation.runtime import BATCHES
    from naslib_autokd.reports.tables import Shown
    from naslib_autokd.reports.terminal import n_parameters

    n = len(comparison.seeds)
    said = "which student? Test accuracy in %, mean [95% interval] over"
    title = f"{comparison.task}: {said} {n} seed{'s' * (n > 1)}, plain KD"
    batches = [f"ms at {batch}" for batch in BATCHES]
    columns = ["student", "test", "family minus it", "params", "MMACs", *batches, "epochs", "training s"]
    epochs = {rival.name: rival.epochs for rival in comparison.rivals}

    def milliseconds(name: str) -> list[str]:
        return [f"{value:.3g}" for value in comparison.latencies_ms.get(name, ())] or [""] * len(BATCHES)

    family = comparison.family
    rows = [
        [
            comparison.name_of(row),
            row.test_accuracy.percent(),
            _signed(row.behind_family),
            n_parameters(row.n_params),
            f"{row.macs / 1e6:.2f}",
            *milliseconds(row.student),
            str(epochs.get(row.student, comparison.epochs)),
            f"{row.seconds:.1f}",
        ]
        for row in ([] if family is None else [family]) + comparison.rival_rows
    ]
    if (teacher := comparison.teacher) is not None:
        costs = [n_parameters(teacher.n_params), f"{teacher.macs / 1e6:.2f}", *milliseconds("teacher")]
        rows.append(["teacher", f"{100 * (teacher.test_accuracy or 0):.1f}", "", *costs, "", ""])
    return Shown(columns, rows, "", title)


def rival_explanations(comparison: BaselineComparison) -> list[str]:
    """What the columns are, which rivals are special, and why others are not there."""
    lines = [
        "Every student keeps the limits of the family and learns from the same teacher. ms: a call in ONNX Runtime of "
        "so many images, on one thread, the least of calls in turns; the family's files are ours (folded), the others' "
        "torch's. training s: as measured here, of students by compiled kernels of ours."
    ]
    lines += [f"{rival.name} {rival.note}." for rival in comparison.rivals if rival.note]
    lines += [f"Without {name}: {reason}." for name, reason in comparison.left_out.items()]
    return lines


LIKE_FASTEST = 1.05
"""Latencies of networks that are called as fast as the fastest: measurements differ by as much."""


def recommendation(comparison: BaselineComparison) -> list[str]:
    """Which student to take, as far as the seeds tell: paired t tests of each rival against the family, with Holm's
    correction. Of those that the tests cannot tell apart it is the fastest."""
    from naslib_autokd.runners.statistics import holm_of_known

    def the(row: BaselineRow) -> str:
        return f"the {comparison.family_name}" if row is family else row.student

    family, rows = comparison.family, comparison.rival_rows
    tested = [(row, row.behind_family) for row in rows if row.behind_family is not None]
    if family is None or not tested:
        return []
    adjusted = holm_of_known([difference.p_value for _, difference in tested])
    judged = [(row, difference, p) for (row, difference), p in zip(tested, adjusted, strict=True)]
    n = len(comparison.seeds)
    if all(p is None for *_, p in judged):
        best = max([family, *rows], key=lambda row: row.val_accuracy.mean)
        few = "One seed shows" if n == 1 else f"{n} seeds that all differ by the same show"
        return [
            f"Which student? {few} nothing: no difference can be judged; run more (--seeds 5). The highest validation "
            f"accuracy is that of {the(best)}."
        ]
    ahead = [(row, difference, p) for row, difference, p in judged if _told(p) and difference.difference.mean < 0]
    behind = [(row, difference, p) for row, difference, p in judged if _told(p) and difference.difference.mean > 0]
    unclear = [(row, p) for row, _, p in judged if not _told(p)]
    n_tests = sum(p is not None for p in adjusted)
    tests = f"Paired t tests over {n} seeds on the test images, Holm's correction for {n_tests}."
    lines = []
    if ahead:
        take, difference, p_value = max(ahead, key=lambda one: one[0].val_accuracy.mean)
        others = [row.student for row, *_ in ahead if row is not take]
        too = f"; behind {', '.join(others)}, too, whose validation accuracy is no higher" if others else ""
        lines.append(
            f"Take {the(take)}: the family is behind it, {_signed(difference)} points (p = {p_value:.2g}){too}."
        )
    elif not unclear:
        lines.append(f"Take {the(family)}: it is ahead of every rival.")
    else:
        alike = [family, *(row for row, _ in unclear)]
        speed, what = _speed(comparison, alike)
        fastest = min(speed.values())
        quick = [row for row in alike if speed[row.student] <= LIKE_FASTEST * fastest]
        take = max(quick, key=lambda row: row.val_accuracy.mean)
        names = ", ".join(f"{the(row)} ({'not judged' if p is None else f'p = {p:.2g}'})" for row, p in unclear)
        share = "" if take is family else f", {speed[take.student] / speed[family.student]:.2f} of the family's"
        lines.append(
            f"{names} cannot be told from {the(family)} by accuracy. Take {the(take)}: of these it "
            f"{'has' if len(quick) == 1 else 'is among those with'} the {what} ({speed[take.student]:.3g}{share})."
        )
    if behind:
        lines.append(f"The family is ahead of {', '.join(f'{the(row)} ({_signed(d)})' for row, d, _ in behind)}.")
    lines[-1] += f" {tests}"
    return lines


def _told(p_value: float | None) -> bool:
    return p_value is not None and p_value <= ALPHA


def _speed(comparison: BaselineComparison, rows: Sequence[BaselineRow]) -> tuple[dict[str, float], str]:
    """What makes one of these students quick: milliseconds if all have been measured, else multiply-adds."""
    known = comparison.latencies_ms
    if all(row.student in known for row in rows):
        return {row.student: known[row.student][0] for row in rows}, "fewest milliseconds at batch 1 in ONNX Runtime"
    return {row.student: row.macs / 1e6 for row in rows}, "fewest millions of multiply-adds"


def results_table(comparison: BaselineComparison) -> Shown:
    """Of the terminal and the report."""
    from naslib_autokd.reports.tables import Shown
    from naslib_autokd.reports.terminal import n_parameters

    def costs(of: BaselineRow | FinalResult) -> dict[str, str]:
        memory = f"{of.train_memory_bytes / 2**20:.1f}"
        return {"params": n_parameters(of.n_params), "MMACs": f"{of.macs / 1e6:.2f}", "train MiB": memory}

    rows: list[dict[str, str]] = [
        {
            **{"student": comparison.name_of(row), "loss": row.short_title, "n": str(row.test_accuracy.n)},
            **{"test": row.test_accuracy.percent(), "minus plain KD": _signed(row.gain)},
            **{"family minus it": _signed(row.behind_family), "validation": f"{100 * row.val_accuracy.mean:.1f}"},
            **{"agrees": f"{100 * row.test_agreement:.1f}", **costs(row), "s": f"{row.seconds:.0f}"},
            "CIFAR-100: minus KD": published_gain(row.loss),
        }
        for row in comparison.rows
    ]
    columns = [*COLUMNS]
    if all(row.behind_family is None for row in comparison.rows):
        columns.remove("family minus it")
    if (teacher := comparison.teacher) is not None:
        rows.append({"student": "teacher", "test": f"{100 * (teacher.test_accuracy or 0):.1f}", **costs(teacher)})
    n = len(comparison.seeds)
    return Shown(
        columns,
        [[row.get(column, "") for column in columns] for row in rows],
        " ".join(explanations(comparison)),
        f"{comparison.task}: test accuracy in %, mean [95% interval] over {n} seed{'s' * (n > 1)}, "
        f"{comparison.epochs} epochs",
        words=2,
    )


def _signed(difference: PairedDifference | None) -> str:
    if difference is None:
        return ""
    interval = difference.difference
    if interval.low is None or interval.high is None:
        return f"{100 * interval.mean:+.1f}"
    return f"{100 * interval.mean:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def published_gain(loss: str) -> str:
    """``+0.4 (-1.5 to +1.9)``: the loss minus KD on CIFAR-100, mean and range over the published pairs; or nothing."""
    from naslib_autokd.distillation.baselines import published_results

    accuracy = {(row.teacher, row.student, row.loss): row.top1 for row in published_results()}
    gains = [top1 - accuracy[t, s, "kd"] for (t, s, name), top1 in accuracy.items() if name == loss.partition("=")[0]]
    if not gains or loss.partition("=")[0] == "kd":
        return ""
    return f"{sum(gains) / len(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})"


def published_table(students: Sequence[str]) -> Shown:
    """The published accuracies of the students that have some."""
    from naslib_autokd.distillation.baselines import TITLES, published_results
    from naslib_autokd.reports.tables import Shown

    rows = [row for student in dict.fromkeys(students) for row in published_results(student)]
    pairs = list(dict.fromkeys((row.teacher, row.student) for row in rows))
    table = []
    for loss, title in {"teacher": "teacher", **TITLES}.items():
        found = {(row.teacher, row.student): f"{row.top1:.2f}" for row in rows if row.loss == loss}
        if found:
            table.append([title, *(found.get(pair, "") for pair in pairs)])
    columns = ["loss", *(f"{teacher} -> {student}" for teacher, student in pairs)]
    return Shown(columns, table, "", "Published: CIFAR-100 test accuracy in % (another task, another protocol)")


def explanations(comparison: BaselineComparison) -> list[str]:
    """What the columns are."""
    from naslib_autokd.distillation.baselines import PUBLISHED_PROTOCOL, published_results

    sources = {row.source.split()[0]: row.commit[:7] for row in published_results()}
    cited = " and ".join(f"{source} (commit {commit})" for source, commit in sources.items())
    hinton = "every loss keeps the Hinton term, whose place DKD takes"
    if comparison.kd_weight == 0:
        hinton = "the losses stand beside the cross-entropy alone (KD weight 0: the rows of plain KD are labels only)"
    return [
        "minus plain KD: the student's test accuracy minus its own with plain KD, paired by seed. agrees: same class "
        "as the teacher on test images (%). train MiB: peak live tensors of a training step. s: seconds of a training. "
        f"Every training: {comparison.epochs} epochs, judged once on the test split "
        f"after its last epoch; {hinton}.",
        f"CIFAR-100: minus KD: mean and range over the published teacher-student pairs, from {cited}. They are of "
        f"another task and protocol, so their sizes cannot be compared with ours: {PUBLISHED_PROTOCOL}.",
    ]


def conclusions(comparison: BaselineComparison) -> list[str]:
    """What a reader may conclude from this run, and what not, from its own numbers."""
    lines = recommendation(comparison)
    tested = [(row, row.gain) for row in comparison.rows if row.gain is not None]
    judged = [(row, gain, row.p_holm) for row, gain in tested if row.p_holm is not None]
    groups: dict[str, list[str]] = {"helps": [], "hurts": [], "cannot be told from plain KD": []}
    for row, gain, p_value in judged:
        direction = "helps" if gain.difference.mean > 0 else "hurts"
        verdict = direction if p_value <= ALPHA else "cannot be told from plain KD"
        groups[verdict].append(f"{comparison.name_of(row)} {row.short_title} (p = {p_value:.2g})")
    for verdict, names in groups.items():
        if names:
            lines.append(f"{verdict[0].upper()}{verdict[1:]}: {'; '.join(names)}.")
    if judged:
        n = f"{len(judged)} comparison{'s' * (len(judged) > 1)}"
        lines[-1] += f" p of paired t tests over {len(comparison.seeds)} seeds, Holm's correction for {n}."
    elif len(comparison.seeds) == 1 and tested:
        lines.append("One seed: no difference can be judged; run more (--seeds).")
    lines += family_conclusions(comparison)
    if comparison.failures:
        lines.append(
            "Not finished: "
            + "; ".join(
                f"{student}, {loss}, seed {seed}: {error}" for student, loss, seed, error in comparison.failures
            )
        )
    return lines


def family_conclusions(comparison: BaselineComparison) -> list[str]:
    """The claim "plain KD on a searched family beats advanced losses on hand-designed students", on these numbers."""
    family, best = comparison.family, comparison.best_advanced
    if family is None or best is None:
        return []
    lines = [
        f"The best advanced loss by validation accuracy: {best.student} with {best.title}; test {_test(best)}, "
        f"{_costs(best)}. The {comparison.family_name} with plain KD: test {_test(family)}, {_costs(family)}."
    ]
    assert best.behind_family is not None
    interval = best.behind_family.difference
    name = f"Plain KD on the {comparison.family_name}"
    if interval.low is None or interval.high is None:
        few = "one seed" if interval.n == 1 else f"{interval.n} seeds that all differ by the same"
        lines.append(f"{name} against it: {_signed(best.behind_family)} points on {few}, which shows nothing.")
    elif interval.low > 0:
        lines.append(f"{name} is ahead of it by {_signed(best.behind_family)} points: the claim holds in this run.")
    elif interval.high < 0:
        lines.append(f"{name} is behind it, {_signed(best.behind_family)} points: the claim does not hold in this run.")
    else:
        lines.append(
            f"{name} cannot be told from it ({_signed(best.behind_family)} points): the claim is neither shown nor "
            "refuted."
        )
    origin = "was not searched" if comparison.family_is_default else "was searched on this task's validation split"
    lines.append(
        "What this cannot show: that it holds on another task, for other teachers, or at equal cost of design: the "
        f"family {origin}, the hand-designed students and the losses' weights were "
        "taken as the literature has them for CIFAR-100, and the optimizer's settings are the ones that families were "
        "developed with."
    )
    return lines


def _test(row: BaselineRow) -> str:
    return row.test_accuracy.percent()


def _costs(row: BaselineRow) -> str:
    from naslib_autokd.reports.terminal import n_parameters

    return f"{n_parameters(row.n_params)} parameters and {row.macs / 1e6:.2f} MMACs"
