"""``naslib-autokd evaluate``: one training of one family. What is trained already is judged by `test`."""

from __future__ import annotations

import argparse
from typing import Any

from naslib_autokd.commands._options import (
    add_option,
    add_task_options,
    evaluator_from_options,
    read_candidate,
    task_from_options,
    tell_of_images,
)
from naslib_autokd.commands._parser import epilog


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="TRAIN one student of one family and print its trial (to judge a trained one: test)",
        description="Train one student of one family and print the trial record. This TRAINS: what is trained already "
        "is judged by 'naslib-autokd test'. Without --candidate a random family is drawn from the preset.",
        epilog=epilog(
            "naslib-autokd evaluate --task cluttered-digits --budget 3",
            "naslib-autokd evaluate --task cluttered-digits --candidate family.yaml --budget 9",
            keys="a trial record: status, cost, val_accuracy, n_params, macs, candidate, ... (as in trials.jsonl)",
        ),
    )
    add_task_options(parser, "--unlabelled", "--teacher", "--objective")
    space = parser.add_argument_group("family")
    add_option(space, "--candidate")
    add_option(space, "--preset")
    budget = parser.add_argument_group("budget")
    add_option(budget, "--budget")
    add_option(budget, "--seed")
    where = parser.add_argument_group("where it runs")
    add_option(where, "--device", help="torch device")
    add_option(where, "--threads")
    add_option(parser, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    import numpy as np

    from naslib_autokd.records import Proposal, derive_seed
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
    tell_of_images(task)
    proposal = Proposal(candidate, budget, derive_seed(options.seed, "trial", 0), 0)
    trial = evaluator_from_options(options, task).evaluate(proposal)
    if options.json:
        print(trial.to_json())
    else:
        for name, value in trial.to_dict().items():
            if value not in ("", None, {}, ()):
                print(f"{name:20} {value}")
    return 0 if trial.succeeded else 1
