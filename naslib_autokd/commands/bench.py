"""``naslib-autokd bench``: make a benchmark (build, fit), look at it (info, query), check it (verify)."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd.commands import _config, _options
from naslib_autokd.commands._options import (
    add_option,
    add_task_options,
    add_worker_options,
    check_places,
    print_json,
    read_candidate,
    task_from_options,
    tell_of_images,
    trial_limits,
)
from naslib_autokd.commands._parser import epilog
from naslib_autokd.commands._types import whole

if TYPE_CHECKING:
    from contextlib import ExitStack

    from naslib_autokd.runners.bench import BuildPlan, BuildProgress
    from naslib_autokd.runners.engine import Engine
    from naslib_autokd.tasks import Task

SIZES = {
    "space_families": ("n_space", "families spread over the space, at every budget"),
    "dense_families": ("n_dense", "more families near the best of these"),
    "nested_families": ("n_nested", "of the first, with further wirings and weight seeds in full"),
    "dense_nested_families": ("n_dense_nested", "of the second, likewise"),
    "held_out_families": ("n_held_out", "families that are never fitted, spread over the space"),
    "dense_held_out_families": ("n_dense_held_out", "families that are never fitted, near the best"),
    "dense_trainings": ("n_dense_trainings", "full trainings of each of the second"),
    "repeats": ("n_repeats", "families trained once more in full"),
    "kd_generators": ("n_kd", "generators of the second, in full with several KD settings and the same seeds"),
    "kd_held_out_generators": ("n_kd_held_out", "likewise, never fitted"),
    "kd_settings": ("n_kd_settings", "KD settings of these generators"),
    "wirings": ("n_wirings", "wirings of a nested family or a KD setting, and full trainings of a held-out family"),
    "weight_seeds": ("n_seeds", "weight seeds of each wiring of a nested family"),
}
"""Option -> (field of `runners.bench.BuildPlan`, help)."""


JSON_KEYS = {
    "fit": "the datasheet: name, task, space, budgets, stages, n_trainings, n_families, best, quality, made, ...",
    "query": "a trial record: status, cost, val_accuracy, n_params, macs, candidate, ... (as in trials.jsonl)",
    "importance": "benchmark, overall (inputs, pairs, mean, sd, n, ...), best_0.25, range_of_means, sentences, files",
    "verify": "validation and test: n, correlations, exact, difference, coverage, ...",
    "correlations": "benchmark, reference, correlations (kd, fidelity, kendall_tau, n)",
}


def add(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="make, show, query and check queryable benchmarks",
        description="Benchmarks that answer without training: make one (build, fit), look at it (info, query), compare "
        "it with trainings made now (verify). docs/benchmark.md tells more.",
        epilog=epilog("naslib-autokd bench info", "naslib-autokd bench query --budget 9"),
    )
    parts = bench.add_subparsers(title="commands", required=True, metavar="COMMAND")

    build = parts.add_parser(
        "build",
        help="train the table of a benchmark (hours; resumable)",
        description="Train what a benchmark's table holds. Ctrl-C finishes and saves the running trainings; the same "
        "command goes on.",
        epilog=epilog("naslib-autokd bench build --task cluttered-digits --workers 2 --out runs/table"),
    )
    add_task_options(build, "--teacher")
    space = build.add_argument_group("search space")
    add_option(space, "--preset")
    add_option(space, "--seed")
    sizes = build.add_argument_group("sizes", "default: the sizes of the benchmark that is shipped")
    for option, (_, text) in SIZES.items():
        sizes.add_argument(f"--{option.replace('_', '-')}", type=whole(0), metavar="N", help=text)
    add_worker_options(build)
    add_option(build.add_argument_group("output"), "--out", required=True)
    build.set_defaults(run=run_build)

    fit = parts.add_parser(
        "fit",
        help="fit a table's surrogate and write the benchmark",
        description="Fit a surrogate to the trainings of a build (a part of it will do) and write the benchmark: FILE "
        "and a .json with its datasheet beside it. Prints its quality on families that it has not seen.",
        epilog=epilog("naslib-autokd bench fit runs/table --out my-task-v1.npz", keys=JSON_KEYS["fit"]),
    )
    fit.add_argument("folder", type=Path, metavar="RUN", help="folder of a build")
    fit.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, .npz")
    add_option(fit, "--json")
    fit.set_defaults(run=run_fit)

    info = parts.add_parser(
        "info",
        help="what a benchmark is made of and how good it is",
        description="Print the datasheet of a benchmark: what it was trained on, and how good its answers are.",
        epilog=epilog("naslib-autokd bench info", keys=JSON_KEYS["fit"]),
    )
    add_name(info)
    add_option(info, "--json")
    info.set_defaults(run=run_info)

    query = parts.add_parser(
        "query",
        help="one answer of a benchmark",
        description="Print the trial that the benchmark answers with; without --candidate for the space's default "
        "family. Test accuracies are not in it: those are for judging a finished search "
        "(KDBenchmark.final_test_error).",
        epilog=epilog(
            "naslib-autokd bench query --budget 9",
            "naslib-autokd bench query --candidate family.yaml --budget 9 --seed 0",
            keys=JSON_KEYS["query"],
        ),
    )
    add_name(query)
    add_option(query, "--candidate")
    add_option(query, "--budget")
    add_option(query, "--seed")
    query.add_argument("--no-noise", action="store_true", help="answer with the expectation")
    add_option(query, "--json")
    query.set_defaults(run=run_query)

    importance = parts.add_parser(
        "importance",
        help="which family traits make good students",
        description="Sobol indices and partial dependence of the benchmark's true error on the hyperparameters: a "
        "table, figures and the CSV behind them.",
        epilog=epilog("naslib-autokd bench importance --out runs/importance", keys=JSON_KEYS["importance"]),
    )
    add_name(importance)
    importance.add_argument("--samples", type=whole(2, 2**20), default=512, metavar="N", help="base samples")
    add_option(importance, "--seed")
    importance.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the report")
    add_option(importance, "--json")
    importance.set_defaults(run=run_importance)

    verify = parts.add_parser(
        "verify",
        help="compare a benchmark with trainings made now",
        description="Train random families that the table does not have and compare their errors with the "
        "benchmark's expectations. Ctrl-C finishes and saves the running trainings; the same command goes on.",
        epilog=epilog("naslib-autokd bench verify --families 30 --seed 1 --out runs/verify", keys=JSON_KEYS["verify"]),
    )
    add_name(verify)
    verify.add_argument("--families", "--generators", type=whole(), default=30, metavar="N", help="families to train")
    add_option(verify, "--seed")
    add_worker_options(verify)
    output = verify.add_argument_group("output")
    add_option(output, "--out", required=True)
    add_option(output, "--json")
    verify.set_defaults(run=run_verify, teacher=None)

    correlations = parts.add_parser(
        "correlations",
        help="what the cheap fidelities of a foreign table are worth",
        description="Kendall's tau between the validation accuracy at each fidelity of a foreign table and the test "
        "accuracy of its reference trainings, for each KD setting (docs/foreign_tables.md).",
        epilog=epilog("naslib-autokd bench correlations table.yaml", keys=JSON_KEYS["correlations"]),
    )
    correlations.add_argument("table", type=Path, metavar="FILE", help="YAML file that describes the table")
    add_option(correlations, "--json")
    correlations.set_defaults(run=run_correlations)


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "benchmark", nargs="?", default="cluttered-digits", metavar="NAME", help="benchmark: name or .npz file"
    )


def run_build(options: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from naslib_autokd.reports.terminal import Live
    from naslib_autokd.runners.bench import build
    from naslib_autokd.runners.run_folder import RunFolder
    from naslib_autokd.runners.session import StopSignals
    from naslib_autokd.search_spaces.hnag import HNAGSpace

    task = task_from_options(options)
    plan, space = plan_from_options(options), HNAGSpace(task.preset)
    space.check(task)
    tell_of_images(task)
    print(f"{plan.student_epochs(task):,.0f} student-epochs in all", file=sys.stderr)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.own(options.out))
        engine = recording_engine(options, task, stack)
        live = stack.enter_context(Live("build"))
        stop = stack.enter_context(StopSignals())
        keep = _config.keeper(options, options.out)

        def progress(state: BuildProgress) -> None:
            keep()
            live.show(state.epochs_done / state.epochs_of, build_line(state))

        complete = build(
            task,
            space,
            engine,
            folder,
            plan,
            stop=stop,
            max_failures=options.max_failures,
            progress=progress,
        )
        keep()
    if not complete:
        print(f"stopped; what was trained is in {options.out}, the same command goes on", file=sys.stderr)
        return _options.INTERRUPTED
    print(f"complete; now: naslib-autokd bench fit {options.out} --out FILE.npz")
    return 0


def plan_from_options(options: argparse.Namespace) -> BuildPlan:
    from naslib_autokd.runners.bench import BuildPlan

    given = {field: getattr(options, option) for option, (field, _) in SIZES.items()}
    sizes: dict[str, Any] = {field: n for field, n in given.items() if n is not None}
    if options.space_families is not None:  # the other stages shrink with the first
        default = BuildPlan()
        for field in ("n_dense", "n_nested", "n_dense_nested", "n_held_out", "n_dense_held_out"):
            sizes.setdefault(field, -(-getattr(default, field) * options.space_families // default.n_space))
    return BuildPlan(seed=options.seed, **sizes)


def recording_engine(options: argparse.Namespace, task: Task, stack: ExitStack) -> Engine:
    """Where trainings run; the teacher is trained, and what is wrong told, before workers start."""
    from naslib_autokd.evaluators.recording import RecordingEvaluator
    from naslib_autokd.runners.engine import DaskEngine, InProcessEngine, LimitedEngine, read_cluster

    check_places(options)
    devices, limits = tuple(options.device.split(",")), trial_limits(options)
    factory = partial(RecordingEvaluator, task, threads=options.threads, teacher=options.teacher)
    evaluator = factory(device=devices[0], report=lambda text: print(text, file=sys.stderr))
    if (options.workers or 1) > 1 or options.scheduler is not None or options.cluster is not None:
        cluster = None if options.cluster is None else read_cluster(options.cluster)
        return stack.enter_context(
            DaskEngine(
                factory,
                workers=options.workers,
                scheduler=options.scheduler,
                cluster=cluster,
                devices=devices,
                limits=limits,
            )
        )
    return stack.enter_context(LimitedEngine(factory, limits, devices)) if limits else InProcessEngine(evaluator)


def build_line(state: BuildProgress) -> str:
    trial = state.trial
    said = f"error {100 * trial.cost:.1f}%" if trial.succeeded else trial.status
    return f"{state.stage} {state.done}/{state.of}, last {trial.budget_epochs} epochs: {said}"


def run_fit(options: argparse.Namespace) -> int:
    from naslib_autokd.evaluators.benchmark import fit_files
    from naslib_autokd.records import TrialStore
    from naslib_autokd.runners.bench import stage_of
    from naslib_autokd.runners.run_folder import TASK, TRIALS, read_settings
    from naslib_autokd.search_spaces.hnag import HNAGSpace
    from naslib_autokd.tasks import get_task

    run = read_settings(options.folder)
    if not isinstance(run.get("benchmark"), dict) or "name" not in run["benchmark"] or "seed" not in run:
        raise ValueError(f"{options.folder} is not the folder of a build (naslib-autokd bench build)")
    if options.out.suffix != ".npz":
        raise ValueError(f"--out must end in .npz, got {options.out}")
    trials = list(TrialStore(options.folder / TRIALS))
    sheet = fit_files(
        trials,
        [stage_of(trial) for trial in trials],
        get_task(str(options.folder / TASK)),
        HNAGSpace(run["benchmark"]["name"]),
        options.out,
        seed=run["seed"],
        environment=run.get("environment", {}),
    )
    if options.json:
        print_json(sheet)
    else:
        print_datasheet(sheet)
        print(f"written: {options.out} and {options.out.with_suffix('.json').name}")
    return 0


def run_info(options: argparse.Namespace) -> int:
    from naslib_autokd.evaluators.benchmark import KDBenchmark, get_benchmark

    benchmark = get_benchmark(options.benchmark)
    if not isinstance(benchmark, KDBenchmark):
        raise ValueError(f"{options.benchmark} is a foreign table, which has no datasheet")
    if options.json:
        print_json(benchmark.datasheet)
    else:
        print(f"benchmark {benchmark.name} ({benchmark.path})")
        print_datasheet(benchmark.datasheet)
    return 0


def print_datasheet(sheet: dict[str, Any]) -> None:
    """Sizes, how it was made, and the quality table."""
    task, made = sheet["task"], sheet["made"]
    versions = {"naslib_autokd": made["naslib_autokd"], **made.get("environment", {})}
    print(f"task        {task['name']}: {task['n_train']} images, at most {task['max_params']} parameters")
    print(f"space       {sheet['space']['name']}; budgets of {', '.join(map(str, sheet['budgets']))} epochs")
    stages = ", ".join(f"{stage} {n}" for stage, n in sheet["stages"].items())
    print(f"trainings   {sheet['n_trainings']} ({stages}) of {sheet['n_families']} families")
    print(
        "made with   " + ", ".join(f"{k} {versions[k]}" for k in ("naslib_autokd", "torch", "python") if k in versions)
    )
    print(f"best        expected test error {100 * sheet['best']['test_error']:.2f}%")
    for title, rows in sheet.get("quality", {}).items():
        print(f"\n{title}")
        if isinstance(rows, list):
            names = list(rows[0])
            table = [names, *[[_cell(row[name]) for name in names] for row in rows]]
            widths = [max(len(str(line[i])) for line in table) for i in range(len(names))]
            for line in table:
                print("  " + "  ".join(str(cell).rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)


def run_importance(options: argparse.Namespace) -> int:
    from naslib_autokd.evaluators.benchmark import get_benchmark
    from naslib_autokd.reports.importance import sentences, write_importance_report
    from naslib_autokd.runners.importance import importance_of

    if options.samples < 2:
        raise ValueError(f"--samples must be at least 2, got {options.samples}")
    found = importance_of(get_benchmark(options.benchmark), options.samples, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    files = write_importance_report(found, options.out)
    if options.json:
        print_json({**found.to_dict(), "sentences": sentences(found), "files": [str(path) for path in files]})
    else:
        print("\n".join(sentences(found)))
        print(f"report: {files[0]}")
    return 0


def run_query(options: argparse.Namespace) -> int:
    from naslib_autokd.evaluators.benchmark import get_benchmark
    from naslib_autokd.records import Proposal

    if str(options.benchmark).endswith((".yaml", ".yml")):
        raise ValueError(f"{options.benchmark} is a foreign table: look its rows up in its CSV")
    benchmark = get_benchmark(options.benchmark, noise=not options.no_noise)
    candidate = benchmark.space.default_candidate() if options.candidate is None else read_candidate(options.candidate)
    budget = benchmark.budgets[-1] if options.budget is None else options.budget
    trial = benchmark.evaluate(Proposal(candidate, budget, options.seed, 0))
    if options.json:
        print(trial.to_json())
        return 0
    for name, value in trial.to_dict().items():
        if value not in ("", None, {}, ()) and not name.endswith("_s"):
            print(f"{name:20} {value}")
    wirings, seeds = benchmark.noise_sd(candidate, budget)
    print(f"{'noise':20} sd {100 * wirings:.2f} points by wirings, {100 * seeds:.2f} by weight seeds and split")
    return 0


def run_correlations(options: argparse.Namespace) -> int:
    from naslib_autokd.evaluators.foreign import (
        ForeignBenchmark,
        correlation_notes,
        correlation_table,
        fidelity_correlations,
    )

    benchmark = ForeignBenchmark(options.table)
    correlations = fidelity_correlations(benchmark)
    if options.json:
        rows = [{**c._asdict(), "kd": dict(c.kd), "picked": dict(c.picked)} for c in correlations]
        content = {"benchmark": benchmark.name, "reference": dict(benchmark.reference), "correlations": rows}
        print_json({**content, "notes": correlation_notes(benchmark, correlations)})
        return 0
    reference = ", ".join(f"{k}={v}" for k, v in benchmark.reference.items())
    for what, title in (
        ("tau", f"{benchmark.name}: Kendall's tau with {reference} (test)"),
        ("regret", "Regret of what each would pick, in points of the same test error"),
    ):
        print(title)
        _print_aligned(correlation_table(benchmark, correlations, what))
    for note in correlation_notes(benchmark, correlations):
        print(note)
    n = sorted({correlation.n for correlation in correlations})
    print(f"n = {' to '.join(map(str, (n[0], n[-1]) if len(n) > 1 else n))} architectures")
    return 0


def _print_aligned(table: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        cells = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        print("  ".join([line[0].ljust(widths[0]), *cells]).rstrip())


def run_verify(options: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from naslib_autokd.evaluators.benchmark import KDBenchmark, agreement, get_benchmark
    from naslib_autokd.reports.terminal import Live
    from naslib_autokd.runners.bench import train_fresh
    from naslib_autokd.runners.run_folder import RunFolder
    from naslib_autokd.runners.session import StopSignals

    benchmark = get_benchmark(options.benchmark)
    if not isinstance(benchmark, KDBenchmark):
        raise ValueError("a foreign table cannot be verified: nothing here can repeat its trainings")
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.own(options.out))
        engine = recording_engine(options, benchmark.task, stack)
        live = stack.enter_context(Live("verify"))
        stop = stack.enter_context(StopSignals())
        keep = _config.keeper(options, options.out)

        def progress(done: int) -> None:
            keep()
            live.show(done / options.families, f"{done} of {options.families} families")

        trials = train_fresh(
            benchmark.task,
            benchmark.table_space,
            engine,
            folder,
            options.families,
            options.seed,
            stop=stop,
            max_failures=options.max_failures,
            progress=progress,
        )
        keep()
    if len(trials) < options.families:
        print(f"stopped; what was trained is in {options.out}, the same command goes on", file=sys.stderr)
        return _options.INTERRUPTED
    found = {split: agreement(benchmark, trials, split) for split in ("validation", "test")}
    if options.json:
        print_json({split: asdict(result) for split, result in found.items()})
        return 0
    for split, result in found.items():
        print(f"{split} error of {result.n} families trained now, against {benchmark.name}:")
        for name, (value, low, high) in result.correlations.items():
            exact = "{:.2f} to {:.2f}".format(*result.exact[name])
            print(f"  {name:9} {value:.2f} [{low:.2f}, {high:.2f}]   an exact benchmark: {exact}")
        mean, low, high = (100 * value for value in result.difference)
        print(f"  mean difference {mean:+.2f} points [{low:+.2f}, {high:+.2f}]")
        print(f"  {100 * result.coverage:.0f}% lie in the benchmark's 95% intervals")
    return 0
