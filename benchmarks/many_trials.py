"""What does a proposal of AutoKD cost after thousands of trials, and what did it before inducing rows?

    python benchmarks/many_trials.py                          # 100 to 10,000 trials: a few minutes of CPU
    python benchmarks/many_trials.py --sizes 100 300 --exact-up-to 300 --proposals 6

CPU seconds of an ask and a tell with a model of so many trials (space ``hnag``, full trainings only, one in flight),
mean and largest of ``--proposals``, and the peak memory of the process. The method before ("exact") uses all rows and
fits the kernel's parameters for each proposal; up to 300 trials the two are the same. The ratio is taken within one
process, one after the other. Results: ``results/many_trials.json``. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from naslib_autokd.optimizers import autokd, budget_aware_gp
from naslib_autokd.optimizers.full_budget import plain_values
from naslib_autokd.records import Trial, derive_seed, environment
from naslib_autokd.search_spaces.hnag import HNAGSpace

RESULTS = Path(__file__).parent / "results"
FULL_EPOCHS = 27


def cost_of(candidate: Any, seed: int) -> float:
    noise = 0.02 * (derive_seed(seed, "noise") / 2**31 - 0.5)
    return 0.1 + 0.1 * abs(candidate.generator.channel_growth - 1) + 0.1 * (1 - candidate.kd.kd_weight) + noise


def filled(n_trials: int) -> autokd.AutoKD:
    """An optimizer that was told so many random full trainings."""
    space = HNAGSpace("hnag")
    optimizer = autokd.AutoKD(space, max_budget_epochs=FULL_EPOCHS, fidelity="full", n_initial=1, random_share=0.0)
    configurations = space.configuration_space()
    configurations.seed(0)
    for number, configuration in enumerate(configurations.sample_configuration(n_trials)):
        candidate = space.candidate(plain_values(configuration))
        cost = cost_of(candidate, number)
        optimizer.tell(Trial(-1 - number, candidate.to_dict(), candidate.digest, FULL_EPOCHS, number, cost=cost))
    optimizer.ask()  # the one point of the first design
    return optimizer


def seconds(optimizer: autokd.AutoKD, n_proposals: int) -> list[float]:
    spent = []
    for _ in range(n_proposals):
        started = time.process_time()
        proposal = optimizer.ask()
        optimizer.tell(Trial.of(proposal, cost=cost_of(proposal.candidate, proposal.seed)))
        spent.append(time.process_time() - started)
    return spent


def row(n_trials: int, n_proposals: int, exact: bool) -> dict[str, Any]:
    now = seconds(filled(n_trials), n_proposals)
    found: dict[str, Any] = {"n_trials": n_trials, "mean_s": float(np.mean(now)), "largest_s": max(now)}
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if exact:
        everything = sys.maxsize
        with (
            mock.patch.object(budget_aware_gp, "EXACT_ROWS", everything),
            mock.patch.object(autokd, "EXACT_ROWS", everything),
        ):
            found["exact_s"] = float(np.mean(seconds(filled(n_trials), min(n_proposals, 4))))
        found["ratio"] = found["exact_s"] / found["mean_s"]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000, 3000, 10_000])
    parser.add_argument("--proposals", type=int, default=20, help="per size (default: 20)")
    parser.add_argument("--exact-up-to", type=int, default=3000, help="sizes for which the method before is run, too")
    options = parser.parse_args(arguments)
    rows = []
    for size in options.sizes:
        rows.append(row(size, options.proposals, size <= options.exact_up_to))
        print(json.dumps(rows[-1]), flush=True)
    path = RESULTS / "many_trials.json"
    path.write_text(json.dumps({"rows": rows, "environment": environment()}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
