"""What more workers bring, and what a proposal costs.

    OMP_NUM_THREADS=1 python benchmarks/workers.py              # all of it (about ten minutes on two quiet cores)
    python benchmarks/workers.py --only busy overhead

    speedup   trials per hour of 2 workers against 1 on a real task, one thread each (start-up not counted)
    busy      share of the time in which 64 workers are busy, for sleeping evaluators of several durations, with random
              search and with AutoKD: where it falls, the optimizer is the bottleneck
    steady    the same share in the middle of a long search with trials of one second, without its start and its end:
              three rounds of all workers from trials 300 and 1,000 on; and the CPU seconds of the search a trial
    overhead  seconds of ask + tell + record a trial after 100, 200 and 500 trials, against a default trial's time

Writes ``results/workers.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from naslib_autokd.records import Proposal, Trial, derive_seed, environment
from naslib_autokd.runners.engine import DaskEngine, InProcessEngine
from naslib_autokd.runners.search import search
from naslib_autokd.tasks import get_task

RESULTS = Path(__file__).parent / "results"
TASK = "cluttered-digits"


class Sleeper:
    """A trial takes ``seconds`` and costs nothing else; its cost is a formula."""

    def __init__(self, seconds: float = 0.0, device: str | None = None) -> None:
        self.seconds = seconds

    def evaluate(self, proposal: Proposal) -> Trial:
        time.sleep(self.seconds)
        candidate: Any = proposal.candidate
        noise = 0.02 * (derive_seed(proposal.seed, "noise") / 2**31 - 0.5)
        cost = 0.1 + 0.1 * abs(candidate.generator.channel_growth - 1) + 0.1 * (1 - candidate.kd.kd_weight) + noise
        return Trial.of(
            proposal,
            cost=cost,
            val_accuracy=1 - cost,
            student_epochs=float(proposal.budget_epochs),
        )


def speedup(n_trials: int) -> dict[str, Any]:
    """The same trials (random search: full trainings) on one and on two workers."""
    from naslib_autokd.evaluators.kd import KDEvaluator

    KDEvaluator(TASK)  # the teacher is trained before the clock starts
    seconds = {}
    for workers in (1, 2):
        with DaskEngine(partial(KDEvaluator, TASK), workers=workers) as engine:
            warm = partial(search, TASK, "random_search", engine=engine, start_with_default=False)
            warm(n_trials=workers, seed=99)  # workers load data and teacher
            started = time.perf_counter()
            result = warm(n_trials=n_trials, seed=0)
            seconds[workers] = time.perf_counter() - started
        assert all(trial.succeeded for trial in result.trials)
    return {
        "n_trials": n_trials,
        "seconds": {str(workers): s for workers, s in seconds.items()},
        "trials_per_hour": {str(workers): 3600 * n_trials / s for workers, s in seconds.items()},
        "ratio": seconds[1] / seconds[2],
    }


def busy(workers: int) -> list[dict[str, Any]]:
    rows = []
    for optimizer in ("random_search", "autokd"):
        for seconds in (1.0, 4.0, 16.0):
            n_trials = 4 * workers
            with DaskEngine(partial(Sleeper, seconds), workers=workers, isolate=False) as engine:
                started = time.perf_counter()
                result = search(TASK, optimizer, engine=engine, n_trials=n_trials, start_with_default=False)
                elapsed = time.perf_counter() - started
            rows.append(
                {
                    "optimizer": optimizer,
                    "workers": workers,
                    "trial_s": seconds,
                    "n_trials": n_trials,
                    "busy": n_trials * seconds / (workers * elapsed),
                    "overhead_s_per_trial": result.overhead_s / n_trials,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def steady(workers: int) -> list[dict[str, Any]]:
    """Within one search an optimizer: what its start and its last trials cost is left out."""
    rows = []
    for optimizer in ("random_search", "autokd"):
        stamps: list[tuple[float, float]] = []
        with DaskEngine(partial(Sleeper, 1.0), workers=workers, isolate=False) as engine:
            search(
                TASK,
                optimizer,
                engine=engine,
                n_trials=1200,
                start_with_default=False,
                progress=lambda _, stamps=stamps: stamps.append((time.perf_counter(), time.process_time())),
            )
        for first in (300, 1000):
            last = first + 3 * workers  # whole rounds: results come in the rhythm in which the workers began
            (wall, cpu), n = (b - a for a, b in zip(stamps[first], stamps[last], strict=True)), last - first
            rows.append(
                {
                    "optimizer": optimizer,
                    "workers": workers,
                    "trial_s": 1.0,
                    "from_trial": first,
                    "busy": n * 1.0 / (workers * wall),
                    "cpu_s_per_trial": cpu / n,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def overhead(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Overhead of the trials just before each size, with everything on disk as in a real run."""
    times: list[tuple[int, float]] = []

    class Clocked(Sleeper):
        def evaluate(self, proposal: Proposal) -> Trial:
            trial = super().evaluate(proposal)
            times.append((proposal.number, time.perf_counter()))
            return trial

    with tempfile.TemporaryDirectory() as folder:
        engine = InProcessEngine(Clocked())
        search(TASK, "autokd", engine=engine, n_trials=max(sizes), out=folder, start_with_default=False)
    rows = []
    for size in sizes:
        last = [stamp for number, stamp in times if size - 21 <= number < size]
        rows.append({"n_trials": size, "seconds": (last[-1] - last[0]) / (len(last) - 1)})
    return rows


def default_trial_s() -> float:
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.search_spaces.hnag import HNAGSpace

    task = get_task(TASK)
    candidate = HNAGSpace(task.preset).default_candidate()
    evaluator = KDEvaluator(task)
    return min(evaluator.evaluate(Proposal(candidate, task.max_budget_epochs, 1, 0)).total_s for _ in range(3))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("speedup", "busy", "steady", "overhead"))
    parser.add_argument("--trials", type=int, default=12, help="of the speed-up (default: 12)")
    parser.add_argument("--workers", type=int, default=64, help="sleeping workers (default: 64)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 200, 500])
    options = parser.parse_args(arguments)
    path = RESULTS / "workers.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    parts: dict[str, Callable[[], Any]] = {
        "speedup": lambda: speedup(options.trials),
        "busy": lambda: busy(options.workers),
        "steady": lambda: steady(options.workers),
        "overhead": lambda: {"default_trial_s": default_trial_s(), "rows": overhead(tuple(options.sizes))},
    }
    for name in options.only or parts:
        results[name] = parts[name]()
    results["environment"] = environment()
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    show(results)
    return 0


def show(results: dict[str, Any]) -> None:
    if found := results.get("speedup"):
        rates = found["trials_per_hour"]
        print(f"2 workers against 1: {found['ratio']:.2f} ({rates['1']:.0f} -> {rates['2']:.0f} trials per hour)")
    for row in results.get("busy", []):
        own = 1000 * row["overhead_s_per_trial"]
        print(
            f"{row['workers']} workers, {row['optimizer']:14} trials of {row['trial_s']:3.0f} s: "
            f"{row['busy']:4.0%} busy, {own:.0f} ms of the search itself a trial"
        )
    for row in results.get("steady", []):
        print(
            f"{row['workers']} workers, {row['optimizer']:14} from trial {row['from_trial']:4} on, trials of 1 s: "
            f"{row['busy']:4.0%} busy, {1000 * row['cpu_s_per_trial']:.0f} CPU ms a trial"
        )
    if found := results.get("overhead"):
        for row in found["rows"]:
            share = row["seconds"] / found["default_trial_s"]
            print(f"after {row['n_trials']} trials: {1000 * row['seconds']:.0f} ms a proposal, {share:.1%} of a trial")


if __name__ == "__main__":
    sys.exit(main())
