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


def screen(path: Path, measure: str, n_seeds: int) -> None:
    """AutoKD as it is against AutoKD that first trains the best-scored of some families, at equal cost."""
    from naslib_autokd.evaluators.benchmark import KDBenchmark
    from naslib_autokd.optimizers.autokd import AutoKD
    from naslib_autokd.records import Proposal, derive_seed

    benchmark, found = KDBenchmark(TASK), {name: np.asarray(values) for name, values in np.load(path).items()}
    rng = np.random.default_rng(0)
    families = [benchmark.space.sample(rng) for _ in range(len(found["true_cost"]))]
    full, budgets = benchmark.budgets[-1], (10, 20, 40)
    total = budgets[-1] * full

    def run(seed: int, n_scored: int, n_first: int, measure: str = "") -> list[float]:
        values = np.nan_to_num(found[measure].astype(float), neginf=-1e30) if measure else np.zeros(len(families))
        score_epochs = float(np.median(found[f"{measure}_cost"])) * float(found["share"]) if measure else 0.0
        optimizer = AutoKD(benchmark.space, seed=seed, max_budget_epochs=full, total_budget_epochs=total)
        drawn = np.random.default_rng(seed).permutation(len(families))[:n_scored]
        first = [families[i] for i in drawn[np.argsort(-values[drawn], kind="stable")][:n_first]]
        spent, regrets, number = n_scored * score_epochs, [], 0
        while len(regrets) < len(budgets):
            if number < len(first):
                proposal = Proposal(first[number], full, derive_seed(seed, "screen", number), -1 - number)
            else:
                proposal = optimizer.ask()
            while len(regrets) < len(budgets) and spent + proposal.budget_epochs > budgets[len(regrets)] * full:
                best = optimizer.incumbent()
                regrets.append(
                    100 * (benchmark.true_cost(best) - benchmark.true_cost(benchmark.best_candidate))
                    if best is not None
                    else np.nan
                )
            trial = benchmark.evaluate(proposal)
            optimizer.tell(trial)
            spent, number = spent + trial.student_epochs, number + 1
        return regrets

    table = {
        "AutoKD": [run(seed, 0, 0) for seed in range(n_seeds)],
        "3 random families first": [run(seed, 3, 3) for seed in range(n_seeds)],
        f"3 of 20 by {measure} first": [run(seed, 20, 3, measure) for seed in range(n_seeds)],
        "3 of 20 by diswot first": [run(seed, 20, 3, "diswot") for seed in range(n_seeds)],
    }
    lines = [
        "\n## As a screen before AutoKD's proposals\n",
        f"Mean regret (points of accuracy, standard error) over {n_seeds} paired seeds at the cost of so many full "
        "trainings, scores charged: some families are trained in full first, then AutoKD goes on.\n",
        "| | " + " | ".join(map(str, budgets)) + " |",
        "| --- |" + " --- |" * len(budgets),
    ]
    for name, rows in table.items():
        means, errors = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / np.sqrt(n_seeds)
        lines.append(
            f"| {name} | " + " | ".join(f"{m:.2f} ({e:.2f})" for m, e in zip(means, errors, strict=True)) + " |"
        )
    with open(RESULTS / "zero_cost.md", "a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scores", "analyse", "screen"])
    parser.add_argument("--measure", default="epe_nas")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--families", type=int, default=100)
    parser.add_argument("--file", type=Path, default=Path("zero_cost.npz"))
    options = parser.parse_args()
    if options.what == "scores":
        scores(options.families, options.file)
    elif options.what == "analyse":
        analyse(options.file)
    else:
        screen(options.file, options.measure, options.seeds)


if __name__ == "__main__":
    main()
