"""``naslib-autokd search``: the search, its final students, one test."""

from __future__ import annotations

import argparse
import itertools
import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from naslib_autokd.commands import _config
from naslib_autokd.commands._options import (
    add_limit_options,
    add_option,
    add_runtime_options,
    add_task_options,
    add_worker_options,
    asked_evaluation,
    check_places,
    engine_from_options,
    evaluator_from_options,
    parse_options,
    print_json,
    student_limits,
    task_from_options,
    tell_of_images,
)
from naslib_autokd.commands._parser import epilog
from naslib_autokd.commands._types import Number, positive, whole

if TYPE_CHECKING:
    from naslib_autokd.runners.results import SearchProgress

DEFAULT_TRIALS = 24
KEYS = (
    "candidate, candidate_digest, expected_cost, n_trials, student_epochs, search_s, overhead_s, stop_reason, remarks, "
    "agreement, finals, kept, teacher (and front, with several objectives)"
)


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "search",
        help="search a family of students, train the best in full, test once",
        description="Search a family of students for a task, then train several of its students in full, keep the "
        "best by validation and test once. The same command with the same --out continues an interrupted run.",
        epilog=epilog(
            "naslib-autokd search --task cluttered-digits --trials 24 --seed 0 --out runs/first",
            "naslib-autokd search --config examples/search.yaml --out runs/configured",
            "naslib-autokd search --trials 60 --workers 4 --trial-seconds 600 --out runs/four",
            keys=KEYS,
        ),
    )
    add_task_options(parser, "--unlabelled", "--teacher", "--objective")
    space = parser.add_argument_group("search space")
    add_option(space, "--preset")
    space.add_argument("--space", help="another space, for example nasbench201 (with NASLib), instead of families")
    optimizer = parser.add_argument_group("optimizer")
    optimizer.add_argument("--optimizer", default="autokd", help="name of the optimizer, or module:class")
    optimizer.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the optimizer, as YAML (repeatable), for example fidelity=full; in a configuration file a "
        "mapping",
    )
    optimizer.add_argument(
        "--objectives",
        default="error",
        help="what is minimised, with commas between: error, params, macs, train_memory, inference_memory, latency; "
        "several give a front of families",
    )
    optimizer.add_argument(
        "--continue-from-checkpoint",
        action="store_true",
        help="a promoted trial goes on with its family's student of the lower budget, kept in RUN/checkpoints, in "
        "place of a new student from the start; cheaper but biased, see docs/performance.md",
    )
    add_option(optimizer, "--precision")
    optimizer.add_argument(
        "--no-cuda-graph",
        action="store_true",
        help="on a GPU, launch the kernels of a training step one by one, in place of one CUDA graph a step",
    )
    budget = parser.add_argument_group("budget", "the first one that is reached ends the search")
    budget.add_argument(
        "--trials",
        type=whole(),
        metavar="N",
        help=f"number of trials (default: {DEFAULT_TRIALS} if no other budget is given)",
    )
    add_option(budget, "--student-epochs")
    add_option(budget, "--training-seconds")
    budget.add_argument(
        "--max-seconds", type=positive(), metavar="S", help="start no trial after so many seconds of work on this run"
    )
    budget.add_argument(
        "--target-accuracy",
        type=Number(float, 0.0, 1.0, above=True),
        metavar="A",
        help="stop once a full training reaches it (0 to 1)",
    )
    add_option(budget, "--finals", default=4)
    add_option(budget, "--seed")
    add_limit_options(parser)
    add_runtime_options(parser)
    add_worker_options(parser)
    output = parser.add_argument_group("output")
    add_option(output, "--out", required=True)
    output.add_argument(
        "--loggers",
        metavar="NAMES",
        help="also write scalars to tensorboard (RUN/tensorboard), mlflow, wandb, MODULE:CLASS; commas between",
    )
    add_option(output, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    import numpy as np

    from naslib_autokd.evaluators.student_limits import check_reachable
    from naslib_autokd.reports.results import read_run
    from naslib_autokd.reports.search import LiveSearch, answer_lines, write_front
    from naslib_autokd.reports.tables import front_table, print_shown
    from naslib_autokd.reports.terminal import console_for, say
    from naslib_autokd.runners.engine import DaskEngine
    from naslib_autokd.runners.estimate import estimate
    from naslib_autokd.runners.finals import train_family
    from naslib_autokd.runners.loggers import RunLoggers, logger_names
    from naslib_autokd.runners.pareto import check_objectives
    from naslib_autokd.runners.results import result_content
    from naslib_autokd.runners.run_folder import RESULT, RUN, RunFolder, budget_change, check_run
    from naslib_autokd.runners.search import search
    from naslib_autokd.runners.session import StopSignals
    from naslib_autokd.runners.setup import check_space, make_optimizer, run_settings, space_of_run
    from naslib_autokd.search_spaces.hnag import HNAGSpace

    check_places(options)
    task = task_from_options(options)
    others = (options.student_epochs, options.training_seconds, options.max_seconds)
    if options.trials is None and all(other is None for other in others):
        options.trials = DEFAULT_TRIALS
    budget: dict[str, Any] = {
        "n_trials": options.trials,
        "student_epochs": options.student_epochs,
        "training_seconds": options.training_seconds,
        "wall_s": options.max_seconds,
        "target_cost": None if options.target_accuracy is None else 1 - options.target_accuracy,
    }
    names = logger_names(options.loggers) if options.loggers else []
    limits = student_limits(options)
    evaluation = asked_evaluation(options)
    objectives = check_objectives(options.objectives.split(","))
    optimizer_options = parse_options(options.option)
    # what is wrong is told before the teacher is trained
    space = space_of_run(task, options.space, objectives, options.objective, options.out)
    check_space(task, space)
    searched: dict[str, Any] = {"options": optimizer_options, "objectives": objectives}
    make_optimizer(task, options.optimizer, space=space, **searched, **budget)
    tell_of_images(task)
    settings = run_settings(options.optimizer, space, seed=options.seed, evaluation=evaluation, **searched, **budget)
    check_run(options.out, task, settings)
    console, remarks = console_for(), console_for(stderr=True)
    if change := budget_change(options.out, settings):
        say(remarks, change)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.own(options.out))
        loggers = stack.enter_context(RunLoggers(names, options.out, {"task": task.to_dict(), **settings}))
        # also with workers: what is wrong with data or teacher is told, and the teacher trained, before they start
        live = LiveSearch(remarks, budget)
        stack.enter_context(live)
        evaluator = evaluator_from_options(options, task, live.say)
        evaluator.watch = live.note
        if limits and isinstance(space, HNAGSpace):
            rng, some = np.random.default_rng(0), [space.default_candidate()]
            families = itertools.chain(some, (space.sample(rng) for _ in range(32)))  # drawn only if needed
            live.note("looking for students within the limits")
            check_reachable(lambda family: evaluator.student_spec(family, options.seed), families)
        engine = engine_from_options(options, task, live.note)
        if engine is not None:
            stack.callback(engine.close)
        keep = _config.keeper(options, options.out)
        if not (options.out / RUN).exists():
            keep()
            costs = {"n_finals": options.finals, "workers": options.workers or 1, "options": optimizer_options}
            live.note("measuring training steps")
            if expected := estimate(evaluator, space, optimizer=options.optimizer, budget=budget, **costs):
                live.say(expected.text())

        def progress(state: SearchProgress) -> None:
            keep()
            live.update(state)
            loggers(state)

        stop = stack.enter_context(StopSignals())
        result = search(
            task,
            options.optimizer,
            evaluator=evaluator if engine is None else None,
            engine=engine,
            scorer=evaluator,
            space=space,
            **budget,
            seed=options.seed,
            out=folder,
            **searched,
            max_failures=options.max_failures,
            evaluation=evaluation,
            stop=stop,
            progress=progress,
        )
        keep()
        live.say(f"training the final students ({options.finals}) of the incumbent family in full")
        finals = train_family(
            evaluator,
            result.candidate,
            n_students=options.finals,
            seed=options.seed,
            out=folder,
            engine=engine if isinstance(engine, DaskEngine) else None,
            stop=stop,
        )
        teacher = evaluator.teacher_row()
        content = result_content(result, finals, teacher)
        loggers.kept(finals.best, len(result.trials))
        if evaluator.data.skipped:
            folder.keep_splits(evaluator.data)  # the test split has been read here, too
        folder.write(RESULT, json.dumps(content, indent=1))
        found = read_run(options.out, analyse=False)
        if result.front:
            write_front(found, result.front, options.out)
    if options.json:
        print_json(content)
        return 0
    for line in answer_lines(found):
        say(console, line)
    if result.front:
        print_shown(front_table(found.table("front"), found.answer["latency_of"]), console)
        say(console, f"any of them, trained in full: naslib-autokd export {options.out} --family FAMILY")
    say(console, f"run folder: {options.out}")
    say(console, f"next: naslib-autokd report {options.out} (look at it), naslib-autokd export {options.out} (ship it)")
    return 0
