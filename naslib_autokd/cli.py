"""The command ``naslib-autokd``: search, sample, evaluate.

Heavy packages are imported by the commands that need them, so that ``--help`` and errors are quick. Errors that a
user can mend are one line on stderr and exit status 2; ``--debug`` shows the traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd._version import __version__
from naslib_autokd.records import derive_seed

if TYPE_CHECKING:
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.search_spaces.hnag import Candidate
    from naslib_autokd.tasks import Task

DESCRIPTION = "Search for families of small students that learn well from a big teacher (AutoKD)."


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 done, 1 failed while working, 2 bad input, 130 interrupted)."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        print("interrupted; the trials that finished are saved, the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has gone: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if options.debug:
            raise
        print(f"naslib-autokd: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | OSError) else 1


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
    search.add_argument("--trials", type=int, help="number of trials (default: 24 unless --student-epochs is given)")
    search.add_argument("--student-epochs", type=float, help="total epochs of training, instead of --trials")
    search.add_argument("--seed", type=int, default=0, help="everything random follows from it (default: 0)")
    search.add_argument("--finals", type=int, default=4, help="final students of the family (default: 4)")
    search.add_argument("--out", type=Path, required=True, help="run folder; an existing one is continued")
    search.add_argument("--json", action="store_true", help="print the result as JSON")
    search.set_defaults(run=run_search)

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

    for command in (search, sample, evaluate, doctor):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what is trained on, from whom, and where; shared with the examples."""
    parser.add_argument("--task", default="cluttered-digits", help="name or YAML file (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder of the data, for tasks that are not embedded")
    parser.add_argument("--teacher", help="checkpoint (.safetensors or .pt) or module:function, instead of the task's")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--objective", choices=("kd", "ce"), default="kd", help="learn from the teacher, or labels only"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of one training (default: 1)")


def task_from_options(options: argparse.Namespace) -> Task:
    """The task that the command line describes."""
    from naslib_autokd.tasks import get_task

    overrides: dict[str, Any] = {}
    if getattr(options, "data_dir", None) is not None:
        overrides["data_dir"] = str(options.data_dir)
    if getattr(options, "preset", None) is not None:
        overrides["preset"] = options.preset
    return get_task(options.task, **overrides)


def evaluator_from_options(options: argparse.Namespace, task: Task) -> KDEvaluator:
    from naslib_autokd.evaluators.kd import KDEvaluator

    return KDEvaluator(
        task,
        device=options.device,
        threads=options.threads,
        objective=options.objective,
        teacher=options.teacher,
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
    from rich.console import Console

    from naslib_autokd.reports.search import LiveSearch, search_report
    from naslib_autokd.runners.search import (
        check_run,
        check_space,
        make_optimizer,
        run_settings,
        search,
        search_space,
        train_family,
    )

    task = task_from_options(options)
    trials = options.trials
    if trials is None and options.student_epochs is None:
        trials = 24
    if options.finals < 1:
        raise ValueError(f"--finals must be at least 1, got {options.finals}")
    optimizer_options = parse_options(options.option)
    # what is wrong is told before the teacher is trained
    budget = {"n_trials": trials, "student_epochs": options.student_epochs}
    space = search_space(task)
    check_space(task, space)
    make_optimizer(task, options.optimizer, space=space, options=optimizer_options, **budget)
    settings = run_settings(options.optimizer, space, seed=options.seed, options=optimizer_options, **budget)
    check_run(options.out, task, settings)
    console = Console(stderr=options.json)
    evaluator = evaluator_from_options(options, task)
    with LiveSearch(console, trials, options.student_epochs) as live:
        result = search(
            task,
            options.optimizer,
            evaluator=evaluator,
            space=space,
            **budget,
            seed=options.seed,
            out=options.out,
            options=optimizer_options,
            progress=live.update,
        )
    console.print(f"training {options.finals} students of the incumbent family in full", highlight=False)
    finals = train_family(evaluator, result.candidate, n_students=options.finals, seed=options.seed, out=options.out)
    report = search_report(result, finals, evaluator.teacher_row())
    (options.out / "result.json").write_text(json.dumps(report.data, indent=1), encoding="utf-8")
    if options.json:
        print(json.dumps(report.data))
    else:
        report.print(console)
        console.print(f"run folder: {options.out}", markup=False, highlight=False, soft_wrap=True)
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
