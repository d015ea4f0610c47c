"""Does the search beat random search? Every optimizer on noisy functions with known truth, paired over seeds.

    python benchmarks/optimizers.py                     # what is not in the results yet (all: an hour of CPU)
    python benchmarks/optimizers.py --quick             # 3 seeds, 15 full trainings, the cheap methods: a minute
    python benchmarks/optimizers.py --table             # only print what is there
    python benchmarks/optimizers.py --methods autokd random_search --functions A C --seeds 5

The functions stand for a KD search of 60 trainings of 27 epochs. They have the properties that real ones showed, and
the properties are measured and printed, not assumed: optimum, noise, error of random draws, and how well the true
errors after 3 and 9 epochs rank families as 27 epochs do (all families, and within the best fifth).

    A        quadratic with interactions, optimum near the middle; budgets agree well
    A05,A20  A with half and with twice the noise
    B        optimum far from the middle, worse families noisier
    C        A, with low budgets that mislead
    hnag     effects on the real space's ConfigSpace (preset hnag-wide: categories, inactive k and p), noise as B

Every method may spend 60 x 27 epochs and pays each rung in full. Score: the *true* 27-epoch error of the family that
it names at the end; lower is better. Finished runs are lines of ``results/optimizers.jsonl`` and are never repeated;
``results/optimizers.{json,md}`` hold the table. Set OMP_NUM_THREADS=1 for the times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from naslib_autokd.optimizers import get_optimizer
from naslib_autokd.optimizers.full_budget import plain_values
from naslib_autokd.records import Trial, content_digest, derive_seed, environment

RESULTS = Path(__file__).parent / "results"
FULL_EPOCHS = 27
MIN_EPOCHS = 3
FULL_TRAININGS = 60
SEEDS = 20


# --- spaces ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A candidate of the plain space."""

    items: tuple[tuple[str, Any], ...]

    @property
    def digest(self) -> str:
        return content_digest([list(item) for item in self.items])

    def to_dict(self) -> dict[str, Any]:
        return dict(self.items)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Point:
        return cls(tuple(sorted(values.items())))


class PlainSpace:
    """Ten numerical dimensions without conditions or clauses: eight of a generator, two of the KD objective."""

    name = "plain"

    def configuration_space(self) -> Any:
        from ConfigSpace import ConfigurationSpace, Float, Integer

        space = ConfigurationSpace()
        for level in ("top", "mid", "bottom"):
            space.add(Integer(f"{level}_nodes", (1 if level == "mid" else 3, 10)), Float(f"{level}_p", (0.1, 1.0)))
        space.add(Float("top_k_fraction", (0.0, 1.0)), Float("bottom_k_fraction", (0.0, 1.0)))
        space.add(Float("temperature", (1.0, 20.0), log=True), Float("kd_weight", (0.0, 1.0)))
        return space

    def candidate(self, values: Mapping[str, Any]) -> Point:
        return Point(tuple(sorted(values.items())))

    def values(self, candidate: Point) -> dict[str, Any]:
        return candidate.to_dict()


class RealSpace(PlainSpace):
    """The ConfigSpace of HNAG (``hnag-wide``); candidates stay plain values, since nothing is trained here."""

    name = "hnag-wide"

    def configuration_space(self) -> Any:
        from naslib_autokd.search_spaces.hnag.parameters import HNAGSpace

        return HNAGSpace("hnag-wide").configuration_space()


# --- functions ------------------------------------------------------------------------------------------------------


def _unit(values: Mapping[str, Any], space: Any) -> dict[str, float]:
    """Each active hyperparameter in [0, 1]; categories as their index."""
    out = {}
    for name, value in values.items():
        hyperparameter = space[name]
        out[name] = float(hyperparameter.to_vector(value))
        if hasattr(hyperparameter, "sequence"):
            out[name] /= max(len(hyperparameter.sequence) - 1, 1)
    return out


@dataclass(frozen=True)
class Function:
    """True error of a family at a budget, and the noise of one training.

    ``error(x, 27) = optimum + saturation of q(x)``, where q is a quadratic form around an optimum with interactions
    between neighbouring dimensions; lower budgets add a level and ``mislead * h(x)``, where h is another quadratic
    form with its optimum elsewhere (small networks learn fast), centred on its mean.
    """

    name: str
    space: Any
    optimum: float
    height: float
    """Errors saturate at ``optimum + height``."""
    steepness: float
    centre: float
    """Distance of the optimum from the middle, per dimension (0.5 is the edge)."""
    mislead: dict[int, float]
    fade: float
    """How quickly the misleading fades for worse families."""
    noise: tuple[float, float]
    """Standard deviation at 27 epochs of the best and of the worst families."""

    def true_error(self, values: Mapping[str, Any], budget: int) -> float:
        return float(self._errors(self._vector(values)[None], budget)[0])

    def _vector(self, values: Mapping[str, Any]) -> np.ndarray:
        space, names, *_ = self._geometry()
        unit = _unit(values, space)
        return np.array([unit.get(name, np.nan) for name in names])

    def _geometry(self) -> Any:
        return _geometry("A" if self.name[0] in "AC" else self.name, self.space, self.centre)

    def _errors(self, vectors: np.ndarray, budget: int) -> np.ndarray:
        _, _, numeric, target, weights, pairs, effects, other, other_weights = self._geometry()
        away = np.where(np.isnan(vectors) | ~numeric, 0.0, vectors - target)
        q = (weights * away**2).sum(1)
        for i, j, strength in pairs:
            q = q + strength * (away[:, i] + away[:, j]) ** 2 * np.sqrt(weights[i] * weights[j])
        for column, table in effects:
            index = np.nan_to_num(vectors[:, column], nan=0.0).astype(int)
            q = q + table[index]
        error = self.optimum + self.height * (1.0 - np.exp(-self.steepness * q))
        if budget < FULL_EPOCHS:
            apart = np.where(np.isnan(vectors) | ~numeric, 0.0, vectors - other)
            h = (other_weights * apart**2).sum(1)
            level = 0.08 * (math.sqrt(FULL_EPOCHS / budget) - 1.0)
            # good families are harder to tell apart early than bad ones
            error = error + level + self.mislead[budget] * (h - 0.6) * np.exp(-((error - self.optimum) / self.fade))
        return error

    def noise_sd(self, values: Mapping[str, Any], budget: int) -> float:
        error = self.true_error(values, FULL_EPOCHS)
        share = min(max((error - self.optimum) / 0.15, 0.0), 1.0)
        sd = self.noise[0] + (self.noise[1] - self.noise[0]) * share
        return sd * (FULL_EPOCHS / budget) ** 0.25  # shorter trainings are noisier

    def observe(self, values: Mapping[str, Any], budget: int, seed: int, *, shared: float = 0.0) -> float:
        """One training. ``shared``: part of the variance that all budgets of one seed have in common."""
        draws = [np.random.default_rng([seed, b]).normal() for b in (0, budget)]
        noise = math.sqrt(shared) * draws[0] + math.sqrt(1.0 - shared) * draws[1]
        cost = self.true_error(values, budget) + self.noise_sd(values, budget) * noise
        return min(max(cost, 0.001), 0.999)


@cache
def _geometry(name: str, space: Any, centre: float) -> Any:
    """Optimum, weights, interactions and effects of categories: drawn once per function, from its name."""
    configurations = space.configuration_space()
    names = [n for n in configurations if not hasattr(configurations[n], "value")]
    rng = np.random.default_rng(derive_seed("function", name))
    d = len(names)
    numeric = np.array([not hasattr(configurations[n], "choices") for n in names])
    target = 0.5 + centre * rng.choice([-1.0, 1.0], d) * rng.uniform(0.6, 1.4, d)
    target = np.clip(target, 0.05, 0.95)
    weights = rng.permutation(np.geomspace(1.0, 0.08, d))  # a few dimensions decide
    weights = weights / weights.sum() * 10.0
    pairs = [(i, (i + 1) % d, 0.25) for i in range(0, d, 2) if numeric[i] and numeric[(i + 1) % d]]
    effects = []
    for column in np.flatnonzero(~numeric):
        table = rng.permutation(np.linspace(0.0, 1.0, len(configurations[names[column]].choices)))
        effects.append((int(column), table * weights[column] * 0.3))
    other = np.clip(target + rng.choice([-1.0, 1.0], d) * rng.uniform(0.3, 0.6, d), 0.0, 1.0)
    other_weights = rng.permutation(np.geomspace(1.0, 0.1, d))
    return (
        configurations,
        names,
        numeric,
        target,
        weights,
        pairs,
        effects,
        other,
        other_weights / other_weights.sum() * 5,
    )


PLAIN, REAL = PlainSpace(), RealSpace()
_A = {"space": PLAIN, "optimum": 0.060, "height": 0.12, "steepness": 0.4, "centre": 0.15}
FUNCTIONS: dict[str, Function] = {
    "A": Function("A", **_A, fade=0.05, mislead={3: 0.045, 9: 0.032}, noise=(0.0107, 0.0107)),
    "A05": Function("A05", **_A, fade=0.05, mislead={3: 0.045, 9: 0.032}, noise=(0.0054, 0.0054)),
    "A20": Function("A20", **_A, fade=0.05, mislead={3: 0.045, 9: 0.032}, noise=(0.021, 0.021)),
    "B": Function("B", PLAIN, 0.0645, 0.3, 0.12, 0.35, {3: 0.14, 9: 0.06}, 0.15, (0.008, 0.039)),
    "C": Function("C", **_A, fade=0.03, mislead={3: 0.2, 9: 0.1}, noise=(0.0107, 0.0107)),
    "hnag": Function("hnag", REAL, 0.10, 0.3, 0.12, 0.25, {3: 0.08, 9: 0.035}, 0.15, (0.010, 0.030)),
}


def properties(function: Function, n: int = 4000) -> dict[str, float]:
    """What the function is like, over ``n`` random draws."""
    space = function.space.configuration_space()
    space.seed(0)
    drawn = [plain_values(c) for c in space.sample_configuration(n)]
    vectors = np.array([function._vector(values) for values in drawn])
    errors = {b: function._errors(vectors, b) for b in (3, 9, 27)}
    best = np.argsort(errors[27])[: n // 5]
    noise = np.array([function.noise_sd(values, 27) for values in drawn[:500]])
    out = {
        "optimum": function.optimum,
        "default": function.true_error(plain_values(space.get_default_configuration()), 27),
        "median": float(np.median(errors[27])),
        "best_of_60": float(np.mean([errors[27][i : i + 60].min() for i in range(0, n - 60, 60)])),
        "noise_low": float(noise.min()),
        "noise_high": float(noise.max()),
    }
    for b in (3, 9):
        out[f"rank_{b}"] = float(stats.spearmanr(errors[b], errors[27]).statistic)
        out[f"rank_{b}_best_fifth"] = float(stats.spearmanr(errors[b][best], errors[27][best]).statistic)
    return out


# --- methods --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What one run found: ``chosen`` by the method's own rule, ``by_model`` by the budget-aware model's."""

    chosen: float
    by_model: float
    cpu_s: float
    n_proposals: int
    epochs: float
    late_cpu_s: float | None = None
    """CPU seconds of one ask with 80 and more trials, mean."""


def _by_model(function: Function, trials: list[tuple[dict[str, Any], int, float]]) -> float:
    """True error of the family with the lowest posterior mean, given any method's trials."""
    from naslib_autokd.optimizers.autokd import AutoKD

    judge = AutoKD(function.space, seed=0, max_budget_epochs=FULL_EPOCHS, min_budget_epochs=1)
    for number, (values, budget, cost) in enumerate(trials):
        candidate = function.space.candidate(values)
        judge.tell(Trial(number, candidate.to_dict(), candidate.digest, budget, number, cost=cost))
    best = judge.incumbent()
    assert best is not None
    return function.true_error(function.space.values(best), FULL_EPOCHS)


def run_ours(function: Function, seed: int, total: float, name: str, **options: Any) -> Outcome:
    """Any ask-and-tell optimizer of the package."""
    started = time.process_time()
    optimizer = get_optimizer(name)(
        function.space,
        seed=seed,
        max_budget_epochs=FULL_EPOCHS,
        min_budget_epochs=MIN_EPOCHS,
        total_budget_epochs=total,
        **options,
    )
    spent, observing, trials, late = 0.0, 0.0, [], []
    while spent < total:
        before = time.process_time()
        proposal = optimizer.ask()
        if len(trials) >= 80:
            late.append(time.process_time() - before)
        before = time.process_time()
        values = function.space.values(proposal.candidate)
        cost = function.observe(values, proposal.budget_epochs, proposal.seed)
        observing += time.process_time() - before
        trials.append((values, proposal.budget_epochs, cost))
        optimizer.tell(
            Trial.of(
                proposal,
                cost=cost,
                student_epochs=proposal.budget_epochs,
            )
        )
        spent += proposal.budget_epochs
    best = optimizer.incumbent()
    cpu_s = time.process_time() - started - observing
    assert best is not None
    chosen = function.true_error(function.space.values(best), FULL_EPOCHS)  # type: ignore[arg-type]
    return Outcome(
        chosen, _by_model(function, trials), cpu_s, len(trials), spent, float(np.mean(late)) if late else None
    )


def run_tpe_continuing(function: Function, seed: int, total: float) -> Outcome:
    """Optuna's TPE with its Hyperband pruner on 3, 9, 27 epochs, where a promoted trial goes on training.

    It pays only the epochs that it has not trained yet, and its noise has half of its variance in common between
    budgets. (``tpe-hyperband`` pays every rung in full, as the other methods do.)
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = function.space.configuration_space()
    started, observing = time.process_time(), 0.0
    study = optuna.create_study(
        study_name="benchmark",  # the pruner hashes it into the brackets: without it a seeded run does not repeat
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(min_resource=MIN_EPOCHS, max_resource=FULL_EPOCHS, reduction_factor=3),
    )
    spent, trials, best, n_asked = 0.0, [], (math.inf, {}), 0
    while spent < total:
        trial = study.ask()
        values = _suggest(trial, space)
        if values is None:  # a clause forbids it: costs nothing, the sampler is not told a value
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        n_asked += 1
        cost, done, pruned = math.nan, 0, False
        for budget in (3, 9, 27):
            before = time.process_time()
            cost = function.observe(values, budget, derive_seed(seed, "trial", n_asked), shared=0.5)
            observing += time.process_time() - before
            spent += budget - done
            done = budget
            trials.append((values, budget, cost))
            trial.report(cost, budget)
            if budget < FULL_EPOCHS and (trial.should_prune() or spent >= total):
                pruned = True
                break
        if pruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, cost)
            best = min(best, (cost, values), key=lambda pair: pair[0])
    cpu_s = time.process_time() - started - observing
    return Outcome(function.true_error(best[1], FULL_EPOCHS), _by_model(function, trials), cpu_s, len(trials), spent)


def _suggest(trial: Any, space: Any) -> dict[str, Any] | None:
    """Define-by-run suggestions for a ConfigSpace; None if a clause forbids the point."""
    from ConfigSpace import Configuration
    from ConfigSpace.exceptions import ForbiddenValueError

    values: dict[str, Any] = {}
    for name, hyperparameter in space.items():  # parents come before their children
        conditions = space.parent_conditions_of[name]
        if any(c.parent.name not in values or not c.satisfied_by_value(values) for c in conditions):
            continue
        if hasattr(hyperparameter, "choices"):
            choice = trial.suggest_categorical(name, [plain(c) for c in hyperparameter.choices])
            values[name] = choice
        elif hasattr(hyperparameter, "sequence"):
            sequence = hyperparameter.sequence
            values[name] = plain(sequence[trial.suggest_int(name, 0, len(sequence) - 1)])
        elif not hasattr(hyperparameter, "lower"):
            values[name] = plain(hyperparameter.value)
        elif "Integer" in type(hyperparameter).__name__:
            values[name] = trial.suggest_int(
                name, int(hyperparameter.lower), int(hyperparameter.upper), log=bool(hyperparameter.log)
            )
        else:
            values[name] = trial.suggest_float(
                name, float(hyperparameter.lower), float(hyperparameter.upper), log=bool(hyperparameter.log)
            )
    try:
        return plain_values(Configuration(space, values=values))
    except ForbiddenValueError:
        return None


def plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _ours(name: str, **options: Any) -> Callable[[Function, int, float], Outcome]:
    return lambda function, seed, total: run_ours(function, seed, total, name, **options)


METHODS: dict[str, Callable[[Function, int, float], Outcome]] = {
    "random_search": _ours("random_search"),
    "hyperband": _ours("hyperband", fidelity="hyperband"),
    "regularized_evolution": _ours("regularized_evolution"),
    "local_search": _ours("local_search"),
    "reinforce": _ours("reinforce"),
    "tpe": _ours("tpe"),
    "tpe-hyperband": _ours("tpe-hyperband"),
    "autokd": _ours("autokd"),
    "autokd-full": _ours("autokd-full"),
    "tpe-hb-continuing": run_tpe_continuing,
    "smac-mf": _ours("smac-mf", fidelity="hyperband"),
    "smac-rf": _ours("smac-rf"),
    "smac-gp": _ours("smac-gp"),
}
"""Most wanted first: the order of the runs. Hyperband, smac-mf and TPE have rungs 3, 9, 27; autokd 9, 27."""

QUICK = ("random_search", "hyperband", "regularized_evolution", "local_search", "reinforce", "autokd", "autokd-full")


# --- running and reporting ------------------------------------------------------------------------------------------

Key = tuple[str, str, int, int]


def load(path: Path) -> dict[Key, dict[str, Any]]:
    """Finished runs; a torn last line is ignored."""
    done = {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            done[(record["function"], record["method"], record["seed"], record["full_trainings"])] = record
    return done


def one(function: str, method: str, seed: int, full_trainings: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # of optuna's and scikit-learn's insides
    outcome = METHODS[method](FUNCTIONS[function], seed, full_trainings * FULL_EPOCHS)
    key = {"function": function, "method": method, "seed": seed, "full_trainings": full_trainings}
    return key | {
        "chosen": outcome.chosen,
        "by_model": outcome.by_model,
        "cpu_s": round(outcome.cpu_s, 3),
        "late_cpu_s": None if outcome.late_cpu_s is None else round(outcome.late_cpu_s, 4),
        "n_proposals": outcome.n_proposals,
        "epochs": outcome.epochs,
    }


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean and 95% interval (Student's t)."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return mean, math.nan, math.nan
    half = float(stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1))
    return mean, mean - half, mean + half


def summarise(done: Mapping[Key, Mapping[str, Any]], full_trainings: int) -> list[dict[str, Any]]:
    rows = []
    for function in FUNCTIONS:
        ours = {k[2]: r for k, r in done.items() if k[0] == function and k[1] == "autokd" and k[3] == full_trainings}
        for method in METHODS:
            runs = {k[2]: r for k, r in done.items() if k[0] == function and k[1] == method and k[3] == full_trainings}
            if not runs:
                continue
            chosen = [r["chosen"] for r in runs.values()]
            by_model = [r["by_model"] for r in runs.values()]
            late = [r["late_cpu_s"] for r in runs.values() if r.get("late_cpu_s") is not None]
            common = sorted(set(runs) & set(ours))
            row = {
                "function": function,
                "method": method,
                "n": len(runs),
                "chosen": float(np.mean(chosen)),
                "chosen_se": float(stats.sem(chosen)) if len(chosen) > 1 else math.nan,
                "by_model": float(np.mean(by_model)),
                "cpu_s_per_proposal": float(np.sum([r["cpu_s"] for r in runs.values()]))
                / float(np.sum([r["n_proposals"] for r in runs.values()])),
            }
            if late:
                row["cpu_s_per_ask_late"] = float(np.mean(late))
            if common and method != "autokd":
                differences = [ours[s]["chosen"] - runs[s]["chosen"] for s in common]
                mean, low, high = interval(differences)
                row |= {"autokd_minus": mean, "low": low, "high": high, "n_paired": len(common)}
                row["autokd_better"] = sum(d < 0 for d in differences)
            rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]], measured: Mapping[str, Mapping[str, float]], full_trainings: int) -> str:
    lines = [
        f"True {FULL_EPOCHS}-epoch error of the chosen family after {full_trainings} x {FULL_EPOCHS} epochs, "
        "mean ± standard error over n seeds (lower is better).",
        "`by model`: had the method chosen by the budget-aware model instead of its own rule. "
        "Paired difference: AutoKD minus the method, 95% interval, in how many seeds AutoKD is better.",
        "`CPU s`: of everything but the function, per proposal; in brackets of one ask with 80 and more trials.",
        "",
        "| function | method | n | error | by model | AutoKD minus it | better in | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        paired, better = "", ""
        if "autokd_minus" in row:
            paired = f"{row['autokd_minus']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
            better = f"{row['autokd_better']} of {row['n_paired']}"
        late_cpu = f" ({row['cpu_s_per_ask_late']:.3f})" if "cpu_s_per_ask_late" in row else ""
        lines.append(
            f"| {row['function']} | {row['method']} | {row['n']} | {row['chosen']:.4f} ± {row['chosen_se']:.4f} | "
            f"{row['by_model']:.4f} | {paired} | {better} | {row['cpu_s_per_proposal']:.3f}{late_cpu} |"
        )
    lines += [
        "",
        "Properties of the functions (random draws; rank correlation of true errors with those at 27 epochs, in "
        "brackets within the best fifth):",
        "",
        "| function | optimum | default configuration | median | best of 60 | noise sd | budget 3 | budget 9 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, p in measured.items():
        lines.append(
            f"| {name} | {p['optimum']:.4f} | {p['default']:.4f} | {p['median']:.4f} | {p['best_of_60']:.4f} | "
            f"{p['noise_low']:.4f} to {p['noise_high']:.4f} | {p['rank_3']:.2f} ({p['rank_3_best_fifth']:.2f}) | "
            f"{p['rank_9']:.2f} ({p['rank_9_best_fifth']:.2f}) |"
        )
    return "\n".join(lines) + "\n"


def _work(jobs: list[tuple[str, str, int, int]], processes: int) -> Iterable[dict[str, Any]]:
    if processes <= 1:
        for job in jobs:
            yield one(*job)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(one, *zip(*jobs, strict=True))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--functions", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--full-trainings", type=int, default=FULL_TRAININGS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="3 seeds, 15 full trainings, the cheap methods")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    methods, seeds, full = list(args.methods), args.seeds, args.full_trainings
    if args.quick:
        methods, seeds, full = [m for m in methods if m in QUICK], min(seeds, 3), min(full, 15)
    try:
        import optuna  # noqa: F401
    except ImportError:
        skipped = [m for m in methods if m.startswith("tpe")]
        methods = [m for m in methods if m not in skipped]
        if skipped:
            print(f"skipped {', '.join(skipped)}: optuna is not installed (pip install 'naslib_autokd[optuna]')")

    args.out.mkdir(parents=True, exist_ok=True)
    lines = args.out / "optimizers.jsonl"
    done = load(lines)
    jobs = [
        (function, method, seed, full)
        for method in sorted(methods, key=list(METHODS).index)
        for function in args.functions
        for seed in range(seeds)
        if (function, method, seed, full) not in done
    ]
    if not args.table:
        with open(lines, "a") as file:
            for index, record in enumerate(_work(jobs, args.jobs), start=1):
                done[(record["function"], record["method"], record["seed"], full)] = record
                file.write(json.dumps(record) + "\n")
                file.flush()
                if sys.stderr.isatty() or index % 20 == 0:
                    print(f"{index}/{len(jobs)} {record['function']} {record['method']}", file=sys.stderr)

    measured = {name: properties(FUNCTIONS[name]) for name in args.functions}
    rows = summarise(done, full)
    text = markdown(rows, measured, full)
    print(text)
    if full == FULL_TRAININGS and not args.quick:
        from importlib.metadata import PackageNotFoundError, version

        versions = environment()
        try:
            versions["optuna"] = version("optuna")
        except PackageNotFoundError:
            versions["optuna"] = "missing"
        versions["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "unset")
        report = {"versions": versions, "full_trainings": full, "functions": measured, "table": rows}
        (args.out / "optimizers.json").write_text(json.dumps(report, indent=1) + "\n")
        (args.out / "optimizers.md").write_text(text)


if __name__ == "__main__":
    main()
