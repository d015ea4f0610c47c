"""What one proposal costs after so many trials: ours, SMAC's, Optuna's and BoTorch's.

    python benchmarks/proposals.py                   # minutes; results/proposals.csv, .png and .pdf
    python benchmarks/proposals.py --trials 30,100 --optimizers autokd,tpe

An optimizer makes 20 proposals of its own on `hnag`, is told trials of random families (every third a full training,
all with a made-up cost), and asked nine times, each answer told: CPU seconds of these asks, their mean and the largest
(one that fits its model anew). One BLAS thread. One that needs more than ``--limit`` CPU seconds for an ask is asked no
more.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from naslib_autokd.optimizers import get_optimizer
from naslib_autokd.records import Proposal, Trial
from naslib_autokd.reports.charts.curves import curves
from naslib_autokd.reports.paper import FigureFolder
from naslib_autokd.search_spaces.hnag import HNAGSpace

RESULTS = Path(__file__).parent / "results"
LABELS = {
    "autokd": "AutoKD",
    "smac-gp": "SMAC (Gaussian process)",
    "smac-rf": "SMAC (random forest)",
    "tpe": "Optuna (TPE)",
    "optuna-gp": "Optuna (Gaussian process)",
    "botorch-mf": "BoTorch (multi-fidelity)",
}
LOW, FULL = 3, 9
N_OWN, N_ASKS = 20, 9


def answer(proposal: Proposal) -> Trial:
    """Smooth in the space, a little noise, worse at the low budget."""
    values = proposal.candidate.generator
    error = 0.1 + 0.05 * math.log(values.channel_growth) ** 2 + 0.01 * values.bottom.n_nodes
    noise = 0.01 * np.random.default_rng(proposal.seed).standard_normal()
    return Trial.of(proposal, cost=error + 0.2 / proposal.budget_epochs + noise, student_epochs=proposal.budget_epochs)


def seconds_of_asks(name: str, n_trials: int, limit: float) -> list[float]:
    """CPU seconds of each of `N_ASKS` asks after so many trials; fewer if one takes longer than ``limit``."""
    space, rng = HNAGSpace("hnag"), np.random.default_rng(0)
    optimizer = get_optimizer(name)(space, seed=0, max_budget_epochs=FULL, min_budget_epochs=LOW)
    for _ in range(N_OWN):  # beyond every initial design; they are among the trials
        optimizer.tell(answer(optimizer.ask()))
    for i in range(n_trials - N_OWN):
        optimizer.tell(answer(Proposal(space.sample(rng), FULL if i % 3 == 0 else LOW, seed=i, number=-1 - i)))
    found = []
    for _ in range(N_ASKS):
        started = time.process_time()
        proposal = optimizer.ask()
        found.append(time.process_time() - started)
        optimizer.tell(answer(proposal))
        if found[-1] > limit:
            break
    return found


def write(rows: list[list[Any]]) -> None:
    folder = FigureFolder(RESULTS)
    columns = ["method", "trials", "mean_cpu_s", "largest_cpu_s"]
    folder.table("proposals", columns, rows)
    chart = curves(
        [dict(zip(columns, row, strict=True)) for row in rows],
        "trials",
        "mean_cpu_s",
        methods=list(dict.fromkeys(str(row[0]) for row in rows)),
        x_title="trials",
        y_title="CPU s of a proposal",
        factor=1.0,
        log_x=True,
        log_y=True,
        steps=False,
    )
    folder.chart("proposals", chart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--trials", type=lambda text: tuple(map(int, text.split(","))), default=(30, 100, 300, 1000, 3000)
    )
    parser.add_argument("--optimizers", type=lambda text: tuple(text.split(",")), default=tuple(LABELS))
    parser.add_argument("--limit", type=float, default=10.0)
    options = parser.parse_args()
    rows: list[list[Any]] = []
    warnings.simplefilter("ignore")
    with threadpool_limits(limits=1):
        for name in options.optimizers:
            for n in options.trials:
                try:
                    seconds = seconds_of_asks(name, n, options.limit)
                except ImportError as error:
                    print(f"left out: {name}: {error}")
                    break
                rows.append([LABELS.get(name, name), n, fmean(seconds), max(seconds)])
                print(*rows[-1], flush=True)
                if max(seconds) > options.limit:
                    break
    write(rows)


if __name__ == "__main__":
    main()
