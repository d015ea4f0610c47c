"""``naslib-autokd sample``: what the search space holds, counted and drawn."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from naslib_autokd.commands._options import add_max_params, add_option, check_counts, read_candidate, task_from_options
from naslib_autokd.commands._parser import epilog


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "sample",
        help="draw wirings of the search space: count and picture them",
        description="Draw families from a preset (or one family from --candidate) and a wiring of each; print "
        "parameters, MACs and depth of the students at the task's parameter limit.",
        epilog=epilog(
            "naslib-autokd sample --preset hnag --seed 0 --count 6 --draw wirings.png",
            "naslib-autokd sample --candidate runs/first --count 4",
            keys="one object a wiring: wiring, wiring_seed, channels, n_params, budget_used, macs, depth, "
            "n_operations, candidate",
        ),
    )
    task = parser.add_argument_group("task")
    add_option(task, "--task", default=None, default_text="one made for the preset")
    add_max_params(task)
    space = parser.add_argument_group("family")
    add_option(space, "--candidate")
    add_option(space, "--preset")
    add_option(space, "--seed")
    space.add_argument("--count", type=int, default=1, metavar="N", help="number of wirings")
    output = parser.add_argument_group("output")
    output.add_argument("--draw", type=Path, metavar="FILE", help="picture of the wirings (.png, .svg or .pdf)")
    add_option(output, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    import numpy as np

    from naslib_autokd.records import derive_seed
    from naslib_autokd.search_spaces.hnag import HNAGSpace, fit_width

    check_counts(options, "count")
    if options.task is None:
        options.task = "cluttered-digits" if options.preset in (None, "hnag-small") else "cifar10"
    task = task_from_options(options)
    if task.n_classes == 0:
        task = task.resolve()
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
