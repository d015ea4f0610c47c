"""``naslib-autokd sample``: what the search space holds, counted and drawn."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd.commands._options import (
    add_max_params,
    add_option,
    print_json,
    read_candidate,
    task_from_options,
)
from naslib_autokd.commands._parser import epilog
from naslib_autokd.commands._types import whole

if TYPE_CHECKING:
    from naslib_autokd.search_spaces.hnag import StudentSpec


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "sample",
        help="draw wirings of the search space: count and picture them",
        description="Draw families from a preset (or one family from --candidate) and a wiring of each; print "
        "parameters, MACs and depth of the students at the task's parameter limit. With --run instead: the student "
        "that a run keeps, with the merge weights that it has learned.",
        epilog=epilog(
            "naslib-autokd sample --preset hnag --seed 0 --count 6 --draw wirings.png",
            "naslib-autokd sample --candidate runs/first --count 6 --draw family.svg",
            "naslib-autokd sample --run runs/first --draw student.svg",
            keys="one object a wiring: wiring, wiring_seed, channels, n_params, budget_used, macs, depth, "
            "n_operations, candidate; with --run merge_weights (edge: weight) instead of the seed, budget_used and "
            "candidate",
        ),
    )
    task = parser.add_argument_group("task")
    add_option(task, "--task", default=None, default_text="one made for the preset")
    add_max_params(task)
    space = parser.add_argument_group("family")
    add_option(space, "--candidate")
    add_option(space, "--preset")
    add_option(space, "--seed")
    space.add_argument("--count", type=whole(), default=1, metavar="N", help="number of wirings")
    space.add_argument(
        "--run",
        dest="trained",
        type=Path,
        metavar="RUN",
        help="run folder of a finished search, or a student's .safetensors: its student instead of a family's",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--draw",
        type=Path,
        metavar="FILE",
        help="picture (.png, .svg or .pdf): one wiring with its three levels, several side by side",
    )
    add_option(output, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    import numpy as np

    from naslib_autokd.records import derive_seed
    from naslib_autokd.search_spaces.hnag import HNAGSpace, fit_width

    if options.trained is not None:
        return _run_trained(options)
    if options.task is None:
        options.task = "cluttered-digits" if options.preset in (None, "hnag-small", "hnag-small-untuned") else "cifar10"
    task = task_from_options(options)
    if task.n_classes == 0:
        from naslib_autokd.data.load import resolve

        task = resolve(task)
    rng = np.random.default_rng(options.seed)
    space = HNAGSpace(task.preset)
    family = None if options.candidate is None else read_candidate(options.candidate)
    specs, captions = [], []
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
            width_multiple=task.width_multiple,
        )
        specs.append(spec)
        captions.append(f"wiring seed {wiring_seed}" if family else f"family {candidate.digest}")
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
            print_json(line)
        else:
            print(_line(spec, f" ({100 * line['budget_used']:.1f}% of the limit)"))
    if options.draw is not None:
        from naslib_autokd.reports.wirings import draw_wirings

        draw_wirings(
            specs,
            options.draw,
            title=""
            if family is None
            else f"{'One wiring of family' if len(specs) == 1 else 'Family'} {family.digest}",
            captions=captions if len(specs) > 1 else (),
        )
        print(f"drawn: {options.draw}", file=sys.stderr)
    return 0


def _line(spec: StudentSpec, more: str = "") -> str:
    wiring = spec.wiring
    return (
        f"{wiring.digest}  {spec.n_params:>8,} parameters{more}  {spec.macs / 1e6:8.2f} MMACs  depth {spec.depth:>3}  "
        f"{wiring.n_operations:>4} operations  channels {'-'.join(map(str, spec.channels))}"
    )


def _run_trained(options: argparse.Namespace) -> int:
    from naslib_autokd.reports.wirings import draw_wirings
    from naslib_autokd.shipping.student_file import read_trained

    given = [name for name in ("candidate", "preset", "task", "max_params") if getattr(options, name) is not None]
    if given or options.count != 1:
        names = ", ".join("--" + name.replace("_", "-") for name in given) or "--count"
        raise ValueError(f"--run shows the trained student of a run, which is given: leave out {names}")
    spec, weights = read_trained(options.trained)
    if options.json:
        line = {
            "wiring": spec.wiring.digest,
            "channels": list(spec.channels),
            "n_params": spec.n_params,
            "macs": spec.macs,
            "depth": spec.depth,
            "n_operations": spec.wiring.n_operations,
            "merge_weights": {edge.label: weight for edge, weight in weights.items()},
        }
        print_json(line)
    else:
        low_high = f"{min(weights.values()):.2f} to {max(weights.values()):.2f}" if weights else "none"
        print(f"{_line(spec)}  merge weights {low_high}")
    if options.draw is not None:
        title = f"Student of {options.trained.name or options.trained}, trained"
        draw_wirings([spec], options.draw, merge_weights=weights, title=title)
        print(f"drawn: {options.draw}", file=sys.stderr)
    return 0
