"""Whether NASLib's zero-cost measures say anything of families, what they cost, and whether searching by them pays.

    NASLIB_HOME=/path/to/NASLib python benchmarks/zero_cost.py scores --families 100   # once: scores.npz in the cache
    NASLIB_HOME=/path/to/NASLib python benchmarks/zero_cost.py analyse                 # results/zero_cost.md
    NASLIB_HOME=/path/to/NASLib python benchmarks/zero_cost.py screen                  # results/zero_cost.md, appended

``scores`` draws families of the embedded benchmark's space, measures one untrained student of each, and times every
measure against an epoch of training (CPU seconds, one thread). ``analyse`` compares scores with the benchmark's true
cost of the families: rank agreement, and the regret of the families that come first. ``screen`` simulates AutoKD with
and without the best-scored of some families trained first, at equal cost.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.stats import kendalltau

RESULTS = Path(__file__).parent / "results"
TASK = "cluttered-digits"
N_TIMED = 8


def scores(n_families: int, out: Path) -> None:
    from naslib_autokd.distillation.diswot import SCORE_COST
    from naslib_autokd.distillation.training import train
    from naslib_autokd.evaluators.benchmark import KDBenchmark
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.plugin.zero_cost import MEASURES, ZeroCostScorer

    benchmark, evaluator = KDBenchmark(TASK), KDEvaluator(TASK)
    rng = np.random.default_rng(0)
    families = [benchmark.space.sample(rng) for _ in range(n_families)]
    found: dict[str, Any] = {"true_cost": [benchmark.true_cost(family) for family in families]}
    epoch_s = []
    for index, family in enumerate(families[:N_TIMED]):
        student = evaluator.build_student(evaluator.student_spec(family, index), index)
        start = time.process_time()
        train(
            student,
            evaluator.data,
            evaluator.soft_targets.train,
            kd=family.kd,
            epochs=2,
            seed=index,
            settings=evaluator.settings,
        )
        epoch_s.append((time.process_time() - start) / 2)
    share = 64 / evaluator.data.n_shown  # of an epoch, training with the images of one score once
    found["share"] = share
    for measure in MEASURES:
        scorer = ZeroCostScorer(measure, evaluator)
        values, seconds = [], []
        for index, family in enumerate(families):
            start = time.process_time()
            values.append(scorer(family, index).value)
            seconds.append(time.process_time() - start)
        found[measure] = values
        found[f"{measure}_cost"] = [s / e / share for s, e in zip(seconds, epoch_s, strict=False)]
        print(measure, np.median(found[f"{measure}_cost"]), _tau(values, found["true_cost"]), flush=True)
    found["diswot_cost"] = [SCORE_COST]
    found["diswot"] = [evaluator.training_free_score(family, index).value for index, family in enumerate(families)]
    np.savez(out, **found)


def _tau(values: Any, costs: Any) -> float:
    finite = np.nan_to_num(np.asarray(values, dtype=float), neginf=-1e30)
    return float(kendalltau(finite, -np.asarray(costs)).statistic)


def analyse(path: Path) -> None:
    found = {name: np.asarray(values) for name, values in np.load(path).items()}
    true = found["true_cost"]
    rng = np.random.default_rng(0)
    resamples = [rng.integers(len(true), size=len(true)) for _ in range(1000)]
    best = true.min()
    rows, measured = [], [name for name in found if name not in ("true_cost", "share") and not name.endswith("_cost")]
    for name in measured:
        values = np.nan_to_num(found[name].astype(float), neginf=-1e30)
        low, high = np.percentile([_tau(values[part], true[part]) for part in resamples], [2.5, 97.5])
        cost = float(np.median(found[f"{name}_cost"])) if f"{name}_cost" in found else float("nan")
        order = np.argsort(-values, kind="stable")
        regrets = [100 * (true[order[:n]].min() - best) for n in (1, 5, 10)]
        rows.append(
            {"measure": name, "tau": _tau(values, true), "low": low, "high": high, "cost": cost, "regret": regrets}
        )
    at_random = [
        100 * float(np.mean([true[rng.permutation(len(true))[:n]].min() for _ in range(2000)]) - best)
        for n in (1, 5, 10)
    ]
    rows.sort(key=lambda row: -float(row["tau"]))
    lines = [
        "# NASLib's zero-cost measures on families: are they worth using?\n",
        f"Made by `python benchmarks/zero_cost.py` from {len(true)} families of the embedded benchmark, one untrained "
        "student each. Kendall tau with the benchmark's true accuracy of the family (95% bootstrap interval); regret "
        "(points of accuracy below the best of the drawn families) after the 1, 5 and 10 families that it puts "
        "first; cost of a score, as a multiple of training with its 64 images once (median of 8 students, CPU time).\n",
        "| measure | tau | regret, 1 | 5 | 10 | cost |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        regret = " | ".join(f"{value:.2f}" for value in row["regret"])
        cost = "" if np.isnan(row["cost"]) else f"{row['cost']:.1f}"
        lines.append(
            f"| {row['measure']} | {row['tau']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] | {regret} | {cost} |"
        )
    lines.append(f"| at random | 0 | {' | '.join(f'{value:.2f}' for value in at_random)} | |")
    (RESULTS / "zero_cost.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (RESULTS / "zero_cost.json").write_text(
        json.dumps({"rows": rows, "at_random": at_random}, indent=1) + "\n", encoding="utf-8"
    )
    print("\n".join(lines))


def screen(measures: Sequence[str], n_seeds: int) -> None:
    """AutoKD as it is against AutoKD that first trains the best-scored of some families, at equal cost.

    Each seed scores families of its own: the best of one pool that all seeds share would decide the answer.
    """
    from naslib_autokd.evaluators.benchmark import KDBenchmark

    benchmark = KDBenchmark(TASK)
    screens = [None, *("diswot" if measure == "diswot" else f"naslib-zerocost:{measure}" for measure in measures)]
    table = {name: [screened_regrets(benchmark, name, seed) for seed in range(n_seeds)] for name in screens}
    lines = [
        "\n## As a screen before AutoKD's proposals\n",
        f"{N_SCREENED} random families (default KD settings) are scored, the best {N_FIRST} trained in full, then "
        "AutoKD goes on. Regret in points of accuracy at the cost of so many full trainings, scores charged: mean over "
        f"{n_seeds} seeds, which draw families of their own, and the paired difference to AutoKD (standard error).\n",
        "| | " + " | ".join(f"{budget} | difference" for budget in SCREEN_BUDGETS) + " |",
        "| --- |" + " --- | --- |" * len(SCREEN_BUDGETS),
    ]
    alone = np.array(table[None])
    for name, rows in table.items():
        regrets = np.array(rows)
        cells = [f"{mean:.2f}" for mean in regrets.mean(axis=0)]
        error = (regrets - alone).std(axis=0, ddof=1) / np.sqrt(n_seeds)
        differences = [f"{d:+.2f} ({e:.2f})" for d, e in zip((regrets - alone).mean(axis=0), error, strict=True)]
        columns = [text for pair in zip(cells, differences if name else [""] * 3, strict=True) for text in pair]
        label = "AutoKD" if name is None else f"screened by {name.rpartition(':')[2]}"
        lines.append(f"| {label} | " + " | ".join(columns) + " |")
    with open(RESULTS / "zero_cost.md", "a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


N_SCREENED, N_FIRST = 20, 3
SCREEN_BUDGETS = (10, 20, 40)
"""Full trainings."""


def screened_regrets(benchmark: Any, screen: str | None, seed: int) -> list[float]:
    """Regret of AutoKD's choice at the cost of `SCREEN_BUDGETS`."""
    from naslib_autokd.optimizers.base import get_optimizer
    from naslib_autokd.records import derive_seed

    full = benchmark.budgets[-1]
    autokd = get_optimizer("autokd")(
        benchmark.space, seed=seed, max_budget_epochs=full, total_budget_epochs=SCREEN_BUDGETS[-1] * full
    )
    spent, first, regrets = 0.0, [], list[float]()
    if screen is not None:
        settings = {"n_scored": N_SCREENED, "population": N_SCREENED}  # drawn, not evolved
        scoring: Any = get_optimizer(screen)(
            benchmark.space, seed=derive_seed(seed, "screen"), max_budget_epochs=full, **settings
        )
        scoring.attach(benchmark)
        first = [replace(scoring.ask(), number=-1 - index) for index in range(N_FIRST)]
        spent = scoring.extra_student_epochs
    while len(regrets) < len(SCREEN_BUDGETS):
        proposal = first.pop(0) if first else autokd.ask()
        while (
            len(regrets) < len(SCREEN_BUDGETS) and spent + proposal.budget_epochs > SCREEN_BUDGETS[len(regrets)] * full
        ):
            chosen = benchmark.true_cost(autokd.incumbent())
            regrets.append(100 * (chosen - benchmark.true_cost(benchmark.best_candidate)))
        trial = benchmark.evaluate(proposal)
        autokd.tell(trial)
        spent += trial.student_epochs
    return regrets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scores", "analyse", "screen"])
    parser.add_argument("--measures", default="diswot,jacov", type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--families", type=int, default=100)
    parser.add_argument("--file", type=Path, default=Path("zero_cost.npz"))
    options = parser.parse_args()
    if options.what == "scores":
        scores(options.families, options.file)
    elif options.what == "analyse":
        analyse(options.file)
    else:
        screen(options.measures, options.seeds)


if __name__ == "__main__":
    main()
