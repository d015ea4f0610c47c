"""``naslib-autokd ablate``: a study of search methods on a benchmark, in minutes."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd.commands import _config
from naslib_autokd.commands._options import add_option, print_json
from naslib_autokd.commands._parser import epilog
from naslib_autokd.commands._types import whole
from naslib_autokd.files import file_name

if TYPE_CHECKING:
    from naslib_autokd.runners.ablation import StudyProgress
    from naslib_autokd.runners.study import Study


KEYS = (
    "name, title, question, benchmark, best_test_error, reference, methods (label, n, regret, median_regret, "
    "average_rank, test, ...), friedman, missing, failures, left_out, files; with --list: name -> question"
)


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "ablate",
        help="compare search methods over many seeds on a benchmark",
        description="Run a study on a benchmark: every method with every seed, then tables, figures and tests. The "
        "same command continues an interrupted study; with more --seeds it only adds. docs/ablations.md tells more.",
        epilog=epilog(
            "naslib-autokd ablate --list",
            "naslib-autokd ablate optimizers --task cluttered-digits --seeds 20",
            "naslib-autokd ablate kd-settings --print",
            keys=KEYS,
        ),
    )
    parser.add_argument("study", nargs="?", metavar="STUDY", help="name of a study (see --list), or your YAML file")
    benchmark = parser.add_argument_group("benchmark")
    where = benchmark.add_mutually_exclusive_group()
    where.add_argument("--task", help="the benchmark of this task, instead of the study's")
    where.add_argument(
        "--benchmark",
        metavar="NAME",
        help="another benchmark: a name (NASLib has nasbench201-cifar100 ...), a fitted .npz file, a table's .yaml",
    )
    what = parser.add_argument_group("budget and methods")
    add_option(what, "--seeds", default_text="the study's")
    add_option(what, "--student-epochs", default_text="the study's")
    what.add_argument(
        "--budget-unit",
        choices=("student_epochs", "training_seconds"),
        help="training_seconds: runs are charged modelled time, in epochs of the default family (default: the study's)",
    )
    what.add_argument("--methods", help="only these: labels or optimizers, with commas between")
    where_it_runs = parser.add_argument_group("where it runs")
    add_option(
        where_it_runs,
        "--workers",
        default=2,
        type=whole(0),
        help="processes that work at the same time; 0: this one alone",
    )
    output = parser.add_argument_group("output")
    add_option(output, "--out", default_text="runs/ablations/STUDY-BENCHMARK[-UNIT]")
    output.add_argument("--print", action="store_true", help="print the study's YAML, to copy and edit")
    output.add_argument("--list", action="store_true", help="list the studies that come with the package")
    add_option(output, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from naslib_autokd.runners.study import get_study, study_names

    if options.list:
        questions = {name: get_study(name).question for name in study_names()}
        if options.json:
            print_json(questions)
        else:
            print("\n".join(f"{name:22} {question}" for name, question in questions.items()))
        return 0
    if options.study is None:
        raise ValueError(f"give a study, one of {', '.join(study_names())}, or a YAML file")
    study = get_study(options.study)
    if options.print:
        print(_yaml(options.study), end="")
        return 0
    return _run(_changed(study, options), options)


def _yaml(study: str) -> str:
    """The file as it stands, comments and all."""
    from naslib_autokd.runners.study import study_text

    return Path(study).read_text(encoding="utf-8") if study.endswith((".yaml", ".yml")) else study_text(study)


def _changed(study: Study, options: argparse.Namespace) -> Study:
    from dataclasses import replace

    changes: dict[str, Any] = {}
    if options.task is not None or options.benchmark is not None:
        changes["benchmark"] = options.benchmark if options.task is None else options.task
    if options.student_epochs is not None:
        changes |= {"student_epochs": options.student_epochs, "full_trainings": None}
    if options.budget_unit is not None:
        changes["budget_unit"] = options.budget_unit
    if options.seeds is not None:
        changes["seeds"] = options.seeds
    return replace(study, **changes)


def _run(study: Study, options: argparse.Namespace) -> int:
    from naslib_autokd.reports.ablation import print_study, write_study_report
    from naslib_autokd.reports.terminal import Live, console_for, say
    from naslib_autokd.runners.ablation import run_study
    from naslib_autokd.runners.run_folder import RunFolder
    from naslib_autokd.runners.session import StopSignals
    from naslib_autokd.runners.study_summary import summary

    if options.out is None:
        unit = "" if study.budget_unit == "student_epochs" else f"-{study.budget_unit}"
        options.out = Path("runs/ablations") / file_name(f"{study.name}-{Path(str(study.benchmark)).stem}{unit}")
    out: Path = options.out
    methods = None if options.methods is None else [name.strip() for name in options.methods.split(",")]
    keep = _config.keeper(options, out)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.own(out))
        stop = stack.enter_context(StopSignals("the running searches are"))
        live = stack.enter_context(Live("study"))

        def progress(state: StudyProgress) -> None:
            keep()
            if state.error:
                live.say(f"{state.method}, seed {state.seed}: {state.error}")
            live.show(state.done / state.of, f"{state.done} of {state.of} runs", state.left_s)

        result = run_study(study, folder, workers=options.workers, methods=methods, stop=stop, progress=progress)
        keep()
        files = write_study_report(result, out)
    console = console_for(stderr=options.json)
    if options.json:
        problems = {"failures": [f"{f.method}, seed {f.seed}: {f.error}" for f in result.failures]}
        content = {**summary(result).to_dict(), **problems, "left_out": list(result.left_out)}
        print_json({**content, "files": [str(path) for path in files]})
    else:
        print_study(result, console)
    for text in [
        *(f"left out: {reason}" for reason in result.left_out),
        *(f"failed: {f.method}, seed {f.seed}: {f.error}" for f in result.failures),
        f"report: {files[0]} ({len(files) - 1} more files beside it)",
    ]:
        say(console, text)
    return 1 if result.failures else 0  # the same command tries them again
