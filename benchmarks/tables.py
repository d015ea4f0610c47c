"""All optimizers on tables of trainings, at several budgets and equal cost.

    python benchmarks/tables.py run TABLE.yaml ... --out runs/tables      # the study; the same command continues it
    python benchmarks/tables.py report TABLE.yaml ... --out runs/tables   # adds to results/tables/*.csv, *.md
    python benchmarks/tables.py optimum TABLE.yaml ...                    # local search until the best row is found

A budget is a study of its own (`naslib-autokd ablate optimizers --benchmark TABLE.yaml` with its ``--student-epochs``),
since some optimizers plan by it. Each has a folder ``OUT/TABLE-BUDGET``, to which methods and seeds can be added.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from naslib_autokd.evaluators.base import Benchmark
from naslib_autokd.evaluators.benchmark import get_benchmark
from naslib_autokd.optimizers.local_search import LocalSearch
from naslib_autokd.reports.tables import markdown_table, write_csv
from naslib_autokd.runners.ablation import SimulatedRun, read_runs, run_study
from naslib_autokd.runners.run_folder import STUDY_RUNS
from naslib_autokd.runners.statistics import bootstrap_band, holm, signed_rank_test
from naslib_autokd.runners.study import Study, StudyMethod, get_study

RESULTS = Path(__file__).parent / "results" / "tables"
BUDGETS = (10, 30, 50, 100)
"""Full trainings."""
REFERENCE = "AutoKD"
WITHOUT = ("diswot",)
"""Score students that are built, which the rows of a table are not."""
MORE = tuple(
    StudyMethod(f"{name} (NASLib with XGBoost)", f"naslib-{name.lower()}", {"predictor_type": "xgb"}, optional=True)
    for name in ("BANANAS", "NPENAS")
)
"""The study has them with LightGBM, which cannot split the first ten cells (leaves of 5, 8 cells drawn)."""


def study_of(benchmark: Benchmark, budget: int, seeds: int) -> Study:
    study = get_study("optimizers")
    methods = (*(method for method in study.methods if method.optimizer not in WITHOUT), *MORE)
    name = f"{benchmark.name}-{budget}"
    return replace(study, name=name, benchmark=benchmark, full_trainings=float(budget), seeds=seeds, methods=methods)


def run(options: argparse.Namespace) -> None:
    methods = None if options.methods is None else options.methods.split(",")
    benchmarks = [get_benchmark(table) for table in options.tables]
    for budget in options.budgets:
        for benchmark in benchmarks:
            study = study_of(benchmark, budget, options.seeds)
            found = run_study(
                study,
                options.out / study.name,
                workers=options.workers,
                methods=methods,
                progress=lambda state, name=study.name: print(  # type: ignore[misc]
                    f"{name}: {state.done}/{state.of} {state.method}, seed {state.seed} {state.error}", flush=True
                ),
            )
            for reason in found.left_out:
                print(f"{study.name}: left out: {reason}", flush=True)


# --- what came of it ------------------------------------------------------------------------------------------------


def regrets(folder: Path, best: float) -> dict[str, dict[int, SimulatedRun]]:
    """Runs by method and seed, of all sessions."""
    found: dict[str, dict[int, SimulatedRun]] = {}
    for (label, seed), each in read_runs(folder / STUDY_RUNS).items():
        found.setdefault(label, {})[seed] = each
    return found


def report(options: argparse.Namespace) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for table in options.tables:
        benchmark = get_benchmark(table)
        best, lines, cells = benchmark.best_test_error, [], dict[tuple[str, int], str]()
        labels = [method.label for method in study_of(benchmark, 1, 1).methods]
        for budget in options.budgets:
            folder = options.out / f"{benchmark.name}-{budget}"
            runs = regrets(folder, best) if (folder / STUDY_RUNS).is_file() else {}
            rows = {row[0]: row for row in _rows([label for label in labels if label in runs], runs, best)}
            kept = {row[0]: row for row in _committed(benchmark.name, budget) if row[0] not in rows}
            rows = {label: (rows | kept)[label] for label in labels if label in rows or label in kept}
            _adjust(list(rows.values()))
            lines += [[budget, *row] for row in rows.values()]
            cells |= {(label, budget): _cell(row) for label, row in rows.items()}
        known = [label for label in labels if any((label, budget) in cells for budget in options.budgets)]
        write_csv(RESULTS / f"{benchmark.name}.csv", COLUMNS, lines)
        header = ["method", *(f"{budget} full trainings" for budget in options.budgets)]
        body = [[label, *(cells.get((label, budget), "-") for budget in options.budgets)] for label in known]
        text = markdown_table(header, body)
        (RESULTS / f"{benchmark.name}.md").write_text(f"{text}\n{CAPTION}\n", encoding="utf-8")
        print(text)


def _committed(table: str, budget: int) -> list[list[Any]]:
    """Rows of the results so far: what `report` keeps of methods that this machine has no runs of."""
    path = RESULTS / f"{table}.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["full_trainings"] == str(budget)]
    whole = ("n", "n_optimum", "n_pairs")
    return [
        [row["method"], *((int if key in whole else float)(row[key]) if row[key] else None for key in COLUMNS[2:])]
        for row in found
    ]


def _adjust(rows: list[list[Any]]) -> None:
    """Holm's correction of the p values, over all methods of one budget."""
    tested = [row for row in rows if row[-2] is not None]
    for row, p_holm in zip(tested, holm([row[-2] for row in tested]), strict=True):
        row[-1] = float(p_holm)


COLUMNS = ["full_trainings", "method", "n", "regret", "low", "high", "median", "n_optimum", "n_trials", "cpu_s"]
COLUMNS += ["n_pairs", "shift", "p_value", "p_holm"]

CAPTION = (
    "Regret in points of test error: mean over the runs [95% bootstrap interval]; n where it is not 20; how many ended "
    "at the best row of the table; * after Holm's correction within the column AutoKD differs (Wilcoxon's signed-rank "
    "test on the same seeds, 5%)."
)


def _rows(labels: Sequence[str], runs: dict[str, dict[int, SimulatedRun]], best: float) -> list[list[Any]]:
    """A row of the CSV file for each method; all others are tested against `REFERENCE`, p values not yet corrected."""
    finals = {label: {s: 100 * (r.test_error[-1] - best) for s, r in sorted(runs[label].items())} for label in labels}
    reference = finals.get(REFERENCE, {})
    pairs = {label: [s for s in finals[label] if s in reference] for label in labels if label != REFERENCE}
    tests = {
        label: signed_rank_test([finals[label][s] for s in seeds], [reference[s] for s in seeds])
        for label, seeds in pairs.items()
        if seeds
    }
    rows: list[list[Any]] = []
    for label in labels:
        values = np.array(list(finals[label].values()))
        values = values[~np.isnan(values)]
        band = bootstrap_band(values[:, None])
        own, test = list(runs[label].values()), tests.get(label)
        centre = [float(band.centre[0]), float(band.low[0]), float(band.high[0]), float(np.median(values))]
        effort = [float(np.mean([each.n_trials for each in own])), float(np.mean([each.cpu_s for each in own]))]
        tested = [None] * 4 if test is None else [test.n, test.shift, test.p_value, None]
        rows.append([label, len(own), *centre, int((values < 1e-9).sum()), *effort, *tested])
    return rows


def _cell(row: list[Any]) -> str:
    n, regret, low, high, n_optimum, p_holm = row[1], row[2], row[3], row[4], row[6], row[-1]
    star = "*" if p_holm is not None and p_holm <= 0.05 else ""
    many = "" if n == 20 else f", n = {n}"
    interval = "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
    return f"{regret:.2f}{interval}{star} ({n_optimum}{many})"


# --- local search until the optimum ---------------------------------------------------------------------------------


def until_optimum(benchmark: Any, seed: int, limit: int = 5000, **options: Any) -> float:
    """Full trainings that local search takes until it trains the best row; nan if that is more than ``limit``."""
    optimizer = LocalSearch(benchmark.space, seed=seed, max_budget_epochs=benchmark.budgets[-1], **options)
    for n in range(1, limit + 1):
        proposal = optimizer.ask()
        if benchmark.true_test_error(proposal.candidate) == benchmark.best_test_error:
            return n
        optimizer.tell(benchmark.evaluate(proposal))
    return math.nan


def optimum(options: argparse.Namespace) -> None:
    for table in options.tables:
        benchmark = get_benchmark(table)
        for name, settings in (
            ("as published: one start, all neighbours", {"n_initial": 1, "first_improvement": False}),
            ("query until lower: one start", {"n_initial": 1}),
            ("default", {}),
        ):
            found = np.array([until_optimum(benchmark, seed, **settings) for seed in range(options.seeds)])
            band = bootstrap_band(found[:, None])
            print(
                f"{benchmark.name}, {name}: {band.centre[0]:.0f} [{band.low[0]:.0f}, {band.high[0]:.0f}] trainings in "
                f"the mean, median {np.median(found):.0f} (n = {len(found)})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "report", "optimum"))
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--budgets", type=lambda text: tuple(map(int, text.split(","))), default=BUDGETS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--methods", help="labels or optimizers, with commas between")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    {"run": run, "report": report, "optimum": optimum}[options.action](options)


if __name__ == "__main__":
    main()
