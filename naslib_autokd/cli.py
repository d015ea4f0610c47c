"""The command ``naslib-autokd``: search, status, sample, evaluate.

Heavy packages are imported by the commands that need them, so that ``--help`` and errors are quick. Errors that a
user can mend are one line on stderr and exit status 2; ``--debug`` shows the traceback.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd._version import __version__
from naslib_autokd.commands import MODULES
from naslib_autokd.records import StoreLockedError, StoreWriteError, derive_seed

if TYPE_CHECKING:
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.evaluators.student_limits import StudentLimits
    from naslib_autokd.runners.engine import DaskEngine, LimitedEngine
    from naslib_autokd.runners.limits import Limits
    from naslib_autokd.runners.search import SearchProgress
    from naslib_autokd.search_spaces.hnag import Candidate
    from naslib_autokd.tasks import Task

INTERRUPTED = 130

DESCRIPTION = "Search for families of small students that learn well from a big teacher (AutoKD)."


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status.

    0 done, 1 failed while working, 2 bad input or refused, 3 too many failed trials in a row, 4 no room to save
    results, 130 interrupted. After 1, 3, 4 and 130 the same command continues a search.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        print("interrupted; the trials that finished are saved, the same command continues", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has gone: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if options.debug:
            raise
        text = str(error) if isinstance(error, ImportError) else " ".join(str(error).split())  # commands stay on lines
        print(f"naslib-autokd: error: {text}", file=sys.stderr)
        return exit_status(error)


def exit_status(error: Exception) -> int:
    """What scripts are told of an error (see `main`)."""
    from naslib_autokd.runners.search import TooManyFailures

    if isinstance(error, TooManyFailures):
        return 3
    if isinstance(error, StoreWriteError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return 4
    return 2 if isinstance(error, ValueError | OSError | StoreLockedError | ImportError) else 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="naslib-autokd", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"naslib-autokd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    search = commands.add_parser(
        "search",
        help="search a family of students, train the best in full, test once",
        description="Search a family of students for a task, then train several of its students in full, keep the "
        "best by validation and test once. The same command with the same --out continues an interrupted run.",
        epilog="example: naslib-autokd search --task cluttered-digits --trials 24 --seed 0 --out runs/first",
    )
    add_task_options(search)
    search.add_argument("--optimizer", default="autokd", help="name of the optimizer (default: %(default)s)")
    search.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the optimizer, as YAML (repeatable), for example fidelity=full",
    )
    search.add_argument("--preset", help="preset of the search space (default: the task's)")
    search.add_argument(
        "--space", help="another search space, for example nasbench201 (with NASLib), instead of families"
    )
    search.add_argument("--trials", type=int, help="number of trials (default: 24 if no other budget is given)")
    search.add_argument("--student-epochs", type=float, help="total epochs of training")
    search.add_argument("--max-seconds", type=float, help="start no trial after so many seconds of work on this run")
    search.add_argument("--target-accuracy", type=float, help="stop once a full training reaches it (0 to 1)")
    search.add_argument("--seed", type=int, default=0, help="everything random follows from it (default: 0)")
    search.add_argument(
        "--objectives",
        default="error",
        help="what is minimised, with commas between: error, params, macs, train_memory, inference_memory, latency "
        "(default: error); several give a front of families",
    )
    search.add_argument("--finals", type=int, default=4, help="final students of the family (default: 4)")
    search.add_argument("--out", type=Path, required=True, help="run folder; an existing one is continued")
    search.add_argument("--json", action="store_true", help="print the result as JSON")
    search.add_argument("--tensorboard", action="store_true", help="write scalars to RUN/tensorboard as well")
    add_limit_options(search)
    add_worker_options(search)
    search.set_defaults(run=run_search)

    status = commands.add_parser(
        "status",
        help="show where a run stands, from any shell",
        description="Show where a run stands: live, dead or finished. Reads the run folder only.",
    )
    status.add_argument("folder", type=Path, metavar="RUN", help="run folder of a search or a comparison")
    status.add_argument("--json", action="store_true", help="print one JSON object per search")
    status.set_defaults(run=run_status)

    sample = commands.add_parser(
        "sample",
        help="draw wirings of the search space: count and picture them",
        description="Draw families from a preset (or one family from --candidate) and a wiring of each; print "
        "parameters, MACs and depth of the students at the task's parameter limit.",
        epilog="example: naslib-autokd sample --preset hnag --seed 0 --count 6 --draw wirings.png",
    )
    sample.add_argument("--task", help="image size, classes and parameter limit (default: one made for the preset)")
    sample.add_argument("--preset", help="preset of the search space (default: the task's)")
    sample.add_argument("--candidate", type=Path, help="YAML or JSON file of one candidate: draw its family")
    sample.add_argument("--max-params", type=int, help="another parameter limit than the task's")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--count", type=int, default=1, help="number of wirings (default: 1)")
    sample.add_argument("--draw", type=Path, help="picture of the wirings (.png, .svg or .pdf)")
    sample.add_argument("--json", action="store_true", help="print one JSON object per line")
    sample.set_defaults(run=run_sample)

    evaluate = commands.add_parser(
        "evaluate",
        help="train one candidate and print its trial",
        description="Train one student of one candidate and print the trial record. Without --candidate a "
        "random one is drawn from the preset.",
        epilog="example: naslib-autokd evaluate --task cluttered-digits --candidate family.yaml --budget 9",
    )
    add_task_options(evaluate)
    evaluate.add_argument("--candidate", type=Path, help="YAML or JSON file of the candidate")
    evaluate.add_argument("--preset", help="preset of the search space (default: the task's)")
    evaluate.add_argument("--budget", type=int, help="epochs (default: the task's maximum)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--json", action="store_true", help="print the trial as JSON")
    evaluate.set_defaults(run=run_evaluate)

    doctor = commands.add_parser(
        "doctor",
        help="say what is installed and what is missing",
        description="Look at this installation: packages, torch, GPU, NASLib and its commit, data, teachers; print the "
        "commands that put right what is missing. The exit code is 1 if something is missing that everything needs.",
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(run=run_doctor)

    for name in MODULES:
        importlib.import_module(f"naslib_autokd.commands.{name}").add(commands)
    for command in parsers(commands):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def parsers(commands: Any) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands that run something, those of nested commands (``bench build``) too."""
    for command in dict.fromkeys(commands.choices.values()):
        nested = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
        if nested:
            yield from parsers(nested[0])
        else:
            yield command


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what is trained on, from whom, and where; shared with the examples."""
    parser.add_argument("--task", default="cluttered-digits", help="name or YAML file (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder of the data, for tasks that are not embedded")
    parser.add_argument(
        "--teacher",
        help="instead of the task's: name of a network ('teacher list' shows them), file (.safetensors, .pt), "
        "NAME@FILE, module:function, or several with commas between",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="torch device; several, with commas between, are given to the workers in turn, and cuda stands for all "
        "GPUs (default: cpu)",
    )
    parser.add_argument(
        "--objective", choices=("kd", "ce"), default="kd", help="learn from the teacher, or labels only"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of one training (default: 1)")


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """Hard limits of every student: it gets the largest width that keeps them, before it is trained."""
    group = parser.add_argument_group("limits of a student", "each gets the largest width that keeps them")
    group.add_argument("--max-params", type=int, help="parameters (default: the task's)")
    group.add_argument("--max-macs", type=int, help="multiply-adds per image")
    group.add_argument("--max-memory", metavar="SIZE", help="live tensors of a training step, for example 64MB")
    group.add_argument("--max-inference-memory", metavar="SIZE", help="the same for one image in inference")
    group.add_argument("--max-latency-ms", type=float, help="one image on the device of the trainings, in this process")


def student_limits(options: argparse.Namespace) -> StudentLimits:
    """The limits that the command line describes, besides the number of parameters (`task_from_options`).

    Raises:
        ValueError: If one is no size or not positive.
    """
    from naslib_autokd.evaluators.student_limits import StudentLimits

    sizes = (options.max_memory, options.max_inference_memory)
    train, inference = (None if size is None else parse_size(size) for size in sizes)
    latency = None if options.max_latency_ms is None else options.max_latency_ms / 1e3
    return StudentLimits(options.max_macs, train, inference, latency)


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """The options that say where trials run and what each may take."""
    group = parser.add_argument_group("workers and limits", "docs/scaling.md tells more")
    group.add_argument("--workers", type=int, help="trials at the same time (default: 1)")
    group.add_argument("--scheduler", metavar="ADDRESS", help="running Dask scheduler, for example tcp://host:8786")
    group.add_argument("--cluster", type=Path, metavar="YAML", help="SLURM, PBS, ...: file with kind and options")
    group.add_argument("--trial-seconds", type=float, help="a trial that takes longer is killed, and a failure")
    group.add_argument("--trial-memory", metavar="SIZE", help="the same for its process's memory, for example 2GB")
    group.add_argument(
        "--max-failures", type=int, default=10, help="failed trials in a row that end the search (default: 10)"
    )


def parse_size(text: str) -> int:
    """Bytes of ``2GB``, ``512 MiB`` or ``1.5e9``; the units are powers of 1024.

    Raises:
        ValueError: If it is no size.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if match is None:
        raise ValueError(f"size must be a number with a unit, for example 2GB or 512MB, got {text!r}")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def check_places(options: argparse.Namespace) -> None:
    """Refuse what `engine_from_options` would, before anything is loaded."""
    from naslib_autokd.runners.engine import read_cluster

    trial_limits(options)
    if options.cluster is not None:
        read_cluster(options.cluster)
    if options.scheduler is not None and (options.workers is not None or options.cluster is not None):
        raise ValueError("a running scheduler has its own workers: give --scheduler alone")
    alone = (options.workers or 1) == 1 and options.scheduler is None and options.cluster is None
    if alone and "," in options.device:
        raise ValueError(f"several devices need --workers, got --device {options.device} for one trial at a time")


def trial_limits(options: argparse.Namespace) -> Limits:
    from naslib_autokd.runners.limits import Limits

    return Limits(options.trial_seconds, None if options.trial_memory is None else parse_size(options.trial_memory))


def engine_from_options(options: argparse.Namespace, task: Task) -> DaskEngine | LimitedEngine | None:
    """The workers that the command line describes; None: one trial at a time in this process."""
    from naslib_autokd.runners.engine import DaskEngine, LimitedEngine, read_cluster

    limits = trial_limits(options)
    several = (options.workers or 1) > 1 or options.scheduler is not None or options.cluster is not None
    if not several and not limits:
        return None
    from naslib_autokd.evaluators.kd import KDEvaluator

    factory = partial(
        KDEvaluator,
        task,
        threads=options.threads,
        objective=options.objective,
        teacher=options.teacher,
        **evaluation_options(options),
    )
    devices = tuple(options.device.split(","))
    if not several:
        return LimitedEngine(factory, limits, devices)
    return DaskEngine(
        factory,
        workers=options.workers,
        scheduler=options.scheduler,
        cluster=None if options.cluster is None else read_cluster(options.cluster),
        devices=devices,
        limits=limits,
    )


def task_from_options(options: argparse.Namespace) -> Task:
    """The task that the command line describes."""
    from naslib_autokd.tasks import get_task

    overrides: dict[str, Any] = {}
    if getattr(options, "data_dir", None) is not None:
        overrides["data_dir"] = str(options.data_dir)
    if getattr(options, "preset", None) is not None:
        overrides["preset"] = options.preset
    if getattr(options, "max_params", None) is not None:
        overrides["max_params"] = options.max_params
    return get_task(options.task, **overrides)


def evaluation_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the evaluator of a search keeps and measures besides the training; nothing for other commands."""
    if not hasattr(options, "objectives"):
        return {}
    from naslib_autokd.records import MEASURED_OBJECTIVES

    measure = tuple(name for name in MEASURED_OBJECTIVES if name in options.objectives.split(","))
    return {"limits": student_limits(options), "measure": measure}


def evaluator_from_options(options: argparse.Namespace, task: Task) -> KDEvaluator:
    from naslib_autokd.evaluators.kd import KDEvaluator

    return KDEvaluator(
        task,
        device=options.device.split(",")[0],
        threads=options.threads,
        objective=options.objective,
        teacher=options.teacher,
        **evaluation_options(options),
        report=lambda text: print(text, file=sys.stderr),
    )


def read_candidate(path: Path) -> Candidate:
    """A candidate from a YAML or JSON file (the ``candidate`` of a trial record, or what ``sample --json`` prints)."""
    import yaml

    from naslib_autokd.search_spaces.hnag import Candidate

    text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
        if isinstance(content, dict) and "candidate" in content:
            return Candidate.from_dict(content["candidate"])
        return Candidate.from_yaml(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} holds no candidate: {error}") from error


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    import yaml

    parsed = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ValueError(f"--option needs NAME=VALUE, got {pair!r}")
        parsed[name.replace("-", "_")] = yaml.safe_load(value)
    return parsed


def run_search(options: argparse.Namespace) -> int:
    import numpy as np
    from rich.console import Console

    from naslib_autokd.evaluators.student_limits import check_reachable
    from naslib_autokd.reports.front import front_table, write_front
    from naslib_autokd.reports.search import LiveSearch, TensorBoardLog, search_report
    from naslib_autokd.runners.engine import DaskEngine
    from naslib_autokd.runners.pareto import check_objectives
    from naslib_autokd.runners.search import (
        budget_change,
        check_run,
        check_space,
        make_optimizer,
        run_settings,
        search,
        search_space,
        train_family,
    )
    from naslib_autokd.runners.session import StopSignals
    from naslib_autokd.search_spaces.hnag import HNAGSpace

    task = task_from_options(options)
    budget: dict[str, Any] = {
        "n_trials": options.trials,
        "student_epochs": options.student_epochs,
        "wall_s": options.max_seconds,
        "target_cost": None if options.target_accuracy is None else 1 - options.target_accuracy,
    }
    if options.trials is None and options.student_epochs is None and options.max_seconds is None:
        budget["n_trials"] = 24
    if options.finals < 1:
        raise ValueError(f"--finals must be at least 1, got {options.finals}")
    if options.max_failures < 1:
        raise ValueError(f"--max-failures must be at least 1, got {options.max_failures}")
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {options.workers}")
    if options.target_accuracy is not None and not 0 < options.target_accuracy <= 1:
        raise ValueError(f"--target-accuracy must be from 0 to 1, got {options.target_accuracy:g}")
    check_places(options)
    limits = student_limits(options)
    objectives = check_objectives(options.objectives.split(","))
    optimizer_options = parse_options(options.option)
    # what is wrong is told before the teacher is trained
    space = search_space(task, options.space)
    if len(objectives) > 1 and isinstance(space, HNAGSpace):
        space = HNAGSpace(space.preset if space.name == "custom" else space.name, search_size=True)
    check_space(task, space)
    searched: dict[str, Any] = {"options": optimizer_options, "objectives": objectives}
    make_optimizer(task, options.optimizer, space=space, **searched, **budget)
    evaluation: dict[str, Any] = {"objective": options.objective, "teacher": options.teacher}
    if limits:
        evaluation["limits"] = asdict(limits)
    settings = run_settings(options.optimizer, space, seed=options.seed, evaluation=evaluation, **searched, **budget)
    check_run(options.out, task, settings)
    console = Console(stderr=options.json)
    if change := budget_change(options.out, settings):
        console.print(change, markup=False, highlight=False, soft_wrap=True)
    with ExitStack() as stack:
        board = stack.enter_context(TensorBoardLog(options.out / "tensorboard")) if options.tensorboard else None
        # also with workers: what is wrong with data or teacher is told, and the teacher trained, before they start
        evaluator = evaluator_from_options(options, task)
        if limits and isinstance(space, HNAGSpace):
            rng, some = np.random.default_rng(0), [space.default_candidate()]
            families = itertools.chain(some, (space.sample(rng) for _ in range(32)))  # drawn only if needed
            check_reachable(lambda family: evaluator.student_spec(family, options.seed), families)
        engine = engine_from_options(options, task)
        if engine is not None:
            stack.callback(engine.close)
        live = LiveSearch(console, budget)

        def progress(state: SearchProgress) -> None:
            live.update(state)
            if board is not None:
                board.update(state)

        with StopSignals() as stop, live:
            result = search(
                task,
                options.optimizer,
                evaluator=evaluator if engine is None else None,
                engine=engine,
                scorer=evaluator,
                space=space,
                **budget,
                seed=options.seed,
                out=options.out,
                **searched,
                max_failures=options.max_failures,
                evaluation=evaluation,
                stop=stop,
                progress=progress,
            )
        console.print(f"training {options.finals} students of the incumbent family in full", highlight=False)
        finals = train_family(
            evaluator,
            result.candidate,
            n_students=options.finals,
            seed=options.seed,
            out=options.out,
            engine=engine if isinstance(engine, DaskEngine) else None,
        )
    report = search_report(result, finals, evaluator.teacher_row())
    (options.out / "result.json").write_text(json.dumps(report.data, indent=1), encoding="utf-8")
    if result.front:
        write_front(result.front, result.trials, options.out)
    if options.json:
        print(json.dumps(report.data))
    else:
        report.print(console)
        if result.front:
            console.print(front_table(result.front))
        console.print(f"run folder: {options.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def run_status(options: argparse.Namespace) -> int:
    from naslib_autokd.runners.session import read_status

    folders = [options.folder]
    if not (options.folder / "trials.jsonl").exists():  # a comparison: one search a job
        folders = sorted(path.parent for path in options.folder.glob("*/seed-*/status.json")) or folders
    for folder in folders:
        status = read_status(folder)
        print(json.dumps(status.to_dict()) if options.json else "\n".join(status.lines()))
    return 0


def run_sample(options: argparse.Namespace) -> int:
    import numpy as np

    from naslib_autokd.search_spaces.hnag import HNAGSpace, fit_width

    if options.task is None:
        options.task = "cluttered-digits" if options.preset in (None, "hnag-small") else "cifar10"
    task = task_from_options(options)
    if task.n_classes == 0:
        task = task.resolve()
    if options.count < 1:
        raise ValueError(f"--count must be at least 1, got {options.count}")
    rng = np.random.default_rng(options.seed)
    space = HNAGSpace(task.preset)
    family = None if options.candidate is None else read_candidate(options.candidate)
    specs = []
    for index in range(options.count):
        candidate = family or space.sample(rng)
        wiring_seed = derive_seed(options.seed, "sample", index)
        wiring = candidate.sample_wiring(wiring_seed)
        spec = fit_width(
            wiring,
            options.max_params or task.max_params,
            in_channels=task.in_channels,
            image_size=task.image_size,
            n_classes=task.n_classes,
            stem=task.stem,
            min_channels=task.min_channels,
        )
        specs.append(spec)
        line: dict[str, Any] = {
            "wiring": wiring.digest,
            "wiring_seed": wiring_seed,
            "channels": list(spec.channels),
            "n_params": spec.n_params,
            "budget_used": spec.n_params / (options.max_params or task.max_params),
            "macs": spec.macs,
            "depth": spec.depth,
            "n_operations": wiring.n_operations,
            "candidate": candidate.to_dict(),
        }
        if options.json:
            print(json.dumps(line))
        else:
            print(
                f"{wiring.digest}  {spec.n_params:>8,} parameters ({100 * line['budget_used']:.1f}% of the limit)  "
                f"{spec.macs / 1e6:8.2f} MMACs  depth {spec.depth:>3}  {wiring.n_operations:>4} operations  "
                f"channels {'-'.join(map(str, spec.channels))}"
            )
    if options.draw is not None:
        from naslib_autokd.reports.wirings import draw_wirings

        draw_wirings(specs, options.draw)
        print(f"drawn: {options.draw}", file=sys.stderr)
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    import numpy as np

    from naslib_autokd.records import Proposal
    from naslib_autokd.search_spaces.hnag import HNAGSpace

    task = task_from_options(options)
    if options.candidate is not None:
        candidate = read_candidate(options.candidate)
    else:
        candidate = HNAGSpace(task.preset).sample(np.random.default_rng(options.seed))
    budget = task.max_budget_epochs if options.budget is None else options.budget
    if not 1 <= budget <= task.max_budget_epochs:
        raise ValueError(
            f"--budget must be from 1 to the task's maximum of {task.max_budget_epochs} epochs, got {budget}"
        )
    proposal = Proposal(candidate, budget, derive_seed(options.seed, "trial", 0), 0)
    trial = evaluator_from_options(options, task).evaluate(proposal)
    if options.json:
        print(trial.to_json())
    else:
        for name, value in trial.to_dict().items():
            if value not in ("", None, {}, ()):
                print(f"{name:20} {value}")
    return 0 if trial.succeeded else 1


def run_doctor(options: argparse.Namespace) -> int:
    from naslib_autokd.plugin.doctor import examine, print_report, report, works

    findings = examine()
    if options.json:
        print(json.dumps(report(findings)))
    else:
        print_report(findings)
    return 0 if works(findings) else 1


if __name__ == "__main__":
    sys.exit(main())
