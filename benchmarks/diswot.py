"""Whether DisWOT's training-free score says something of students that one does not know anyway.

    python benchmarks/diswot.py score TABLE         # scores of every training of a table; 0.02 s each
    python benchmarks/diswot.py analyse TABLE       # what they are worth; a few minutes

TABLE is a folder with the ``trials.jsonl`` of ``naslib-autokd bench build``. ``score`` writes ``TABLE/diswot.npz``, one
entry per training in the order of its ``number``: ``score`` (`KDEvaluator.training_free_score` of its candidate and
seed, that is, of the very student that was trained, before training), its parts ``semantic`` and ``relation`` (M_s and
M_r), the other readings of the paper that are compared (``random_*``, ``code``), ``family`` (mean score of four other
students of the family) and ``score_s``, ``epoch_s`` (CPU seconds of the score and of an epoch; a few trainings only).
``analyse`` writes ``results/diswot.json`` and ``results/diswot.md``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naslib_autokd.records import Trial, TrialStore, content_digest, derive_seed, environment
from naslib_autokd.runners.bench import STAGES, stage_of
from naslib_autokd.search_spaces.hnag import Candidate, HNAGSpace
from naslib_autokd.tasks import get_task

Array = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results"
N_FAMILY = 4
"""Students whose mean score is a family's."""
N_TIMED = 40
N_KERNEL = 300


# --- score ----------------------------------------------------------------------------------------------------------


def score_table(folder: Path, task: str, out: Path) -> None:
    from naslib_autokd.distillation.diswot import compare, last_features
    from naslib_autokd.distillation.training import limited_threads, seeded, train
    from naslib_autokd.evaluators.kd import KDEvaluator

    evaluator = KDEvaluator(task)
    trials = sorted(TrialStore(folder / "trials.jsonl"), key=lambda trial: trial.number)
    images, teacher = evaluator.images_to_score()
    random_teacher = copy.deepcopy(evaluator.teacher.network).train()
    with seeded(0):
        for module in random_teacher.modules():
            if (reset := getattr(module, "reset_parameters", None)) is not None:
                reset()
    untrained = last_features(random_teacher, images)
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    families: dict[str, float] = {}
    start = time.process_time()
    with limited_threads(1):
        for index, trial in enumerate(trials):
            candidate = Candidate.from_dict(trial.candidate)
            before = time.process_time()
            student = evaluator.build_student(evaluator.student_spec(candidate, trial.seed), trial.seed).train()
            features = last_features(student, images)
            ours = compare(teacher, features)
            score_s = time.process_time() - before
            theirs = compare(untrained, features)
            family = Candidate(candidate.generator, candidate.kd)
            if family.digest not in families:
                scores = [evaluator.training_free_score(family, derive_seed("family", k)) for k in range(N_FAMILY)]
                families[family.digest] = float(np.mean([score.value for score in scores]))
            epoch_s = math.nan
            if index % max(1, len(trials) // N_TIMED) == 0:
                before = time.process_time()
                train(student, evaluator.data, evaluator.soft_targets.train, kd=candidate.kd, epochs=1, seed=0)
                epoch_s = time.process_time() - before
            row = {
                "score": ours.value,
                "semantic": -ours.semantic,
                "relation": -ours.relation,
                "code": -(ours.semantic**2) - ours.relation**2 / len(images),
                "random_score": theirs.value,
                "random_semantic": -theirs.semantic,
                "random_relation": -theirs.relation,
                "random_code": -(theirs.semantic**2) - theirs.relation**2 / len(images),
                "family": families[family.digest],
                "score_s": score_s,
                "epoch_s": epoch_s,
            }
            for name, value in row.items():
                columns[name].append(value)
    price = evaluator.training_free_score(family, 0).student_epochs
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns.items()}
    arrays |= {"number": np.array([trial.number for trial in trials]), "student_epochs": np.array(price)}
    np.savez(out, **arrays)
    print(f"{len(trials)} trainings scored in {time.process_time() - start:.0f} CPU s: {out}")


COLUMNS = {
    "score": "the score: -(M_s + M_r)",
    "semantic": "-M_s, class activation maps",
    "relation": "-M_r, sample relations",
    "code": "the sum with the published code's weights",
    "random_score": "the score with an untrained teacher",
    "random_semantic": "-M_s with an untrained teacher",
    "random_relation": "-M_r with an untrained teacher",
    "random_code": "the published code's sum, untrained teacher",
    "family": f"mean score of {N_FAMILY} other students of the family",
    "score_s": "",
    "epoch_s": "",
}


# --- analyse --------------------------------------------------------------------------------------------------------


def family_of(trial: Trial) -> str:
    return content_digest({**trial.candidate, "wiring_seed": None})


def kendall(a: Array, b: Array) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic)


def taus(columns: Mapping[str, Array], accuracy: Array, n_bootstrap: int = 200) -> dict[str, dict[str, Any]]:
    """Kendall tau of each column with the accuracy, of all rows and of the best fifth, with 95% bootstrap intervals."""
    best = accuracy >= np.quantile(accuracy, 0.8)
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, Any]] = {}
    for name, values in columns.items():
        found[name] = {}
        for where, rows in (("all", np.arange(len(accuracy))), ("best_fifth", np.flatnonzero(best))):
            rows = rows[np.isfinite(values[rows])]
            drawn = [rng.choice(rows, len(rows)) for _ in range(n_bootstrap)]
            interval = np.quantile([kendall(values[d], accuracy[d]) for d in drawn], [0.025, 0.975])
            found[name][where] = {
                "n": len(rows),
                "tau": kendall(values[rows], accuracy[rows]),
                "interval": interval.tolist(),
            }
    return found


def within_families(columns: Mapping[str, Array], accuracy: Array, groups: Sequence[str]) -> dict[str, Any]:
    """Correlation of each column with the accuracy among the students of a family, pooled over families with several.

    With the 95% interval of a bootstrap over families; empty if fewer than ten families have several students.
    """
    members: dict[str, list[int]] = {}
    for index, name in enumerate(groups):
        members.setdefault(name, []).append(index)
    several = [np.array(rows) for rows in members.values() if len(rows) > 1]
    if len(several) < 10:
        return {}
    rng = np.random.default_rng(0)

    def pooled(values: Array, families: Sequence[Array]) -> float:
        a = np.concatenate([values[rows] - values[rows].mean() for rows in families])
        b = np.concatenate([accuracy[rows] - accuracy[rows].mean() for rows in families])
        return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))

    found: dict[str, Any] = {"n_families": len(several), "n_trainings": sum(map(len, several))}
    for name, values in columns.items():
        drawn = [[several[i] for i in rng.integers(len(several), size=len(several))] for _ in range(500)]
        interval = np.quantile([pooled(values, families) for families in drawn], [0.025, 0.975])
        found[name] = {"correlation": pooled(values, several), "interval": interval.tolist()}
    return found


def gaussian_process(x: Array, y: Array) -> Callable[[], Any]:
    """Makes models with one kernel for all folds, fitted to at most `N_KERNEL` of all rows."""
    from scipy.optimize import minimize
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0) * Matern(np.ones(x.shape[1]), (1e-2, 1e3), nu=2.5) + WhiteKernel(0.1)

    def shortly(objective: Any, start: Array, bounds: Array) -> tuple[Array, float]:
        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 20})
        return found.x, found.fun

    rows = np.random.default_rng(0).permutation(len(y))[:N_KERNEL]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound
        model = GaussianProcessRegressor(kernel, optimizer=shortly, normalize_y=True, random_state=0)
        fitted = model.fit(x[rows], y[rows]).kernel_
    return lambda: GaussianProcessRegressor(fitted, optimizer=None, normalize_y=True)


def forest(x: Array, y: Array) -> Callable[[], Any]:
    from sklearn.ensemble import RandomForestRegressor

    return lambda: RandomForestRegressor(100, min_samples_leaf=2, max_features=0.5, random_state=0)


Maker = Callable[[Array, Array], Callable[[], Any]]


def out_of_fold(maker: Maker, x: Array, y: Array, groups: Sequence[str], seeds: Sequence[int]) -> list[Array]:
    """Predictions of rows by models that saw no row of their families; five folds, drawn by each seed."""
    model = maker(x, y)
    return [_one_round(model, x, y, groups, seed) for seed in seeds]


def _one_round(model: Callable[[], Any], x: Array, y: Array, groups: Sequence[str], seed: int) -> Array:
    names = sorted(set(groups))
    fold_of = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % 5, strict=True))
    folds = np.array([fold_of[name] for name in groups])
    predicted = np.empty(len(y))
    for fold in range(5):
        train, held_out = folds != fold, folds == fold
        predicted[held_out] = model().fit(x[train], y[train]).predict(x[held_out])
    return predicted


def added_value(
    base: Array, extras: Mapping[str, Array], y: Array, groups: Sequence[str], n_repeats: int
) -> dict[str, Any]:
    """Out-of-fold R2 (and that on the best fifth's ranks) with hyperparameters alone, and with columns beside them."""
    found: dict[str, Any] = {}
    best = y >= np.quantile(y, 0.8)
    for name, maker in (("gaussian process", gaussian_process), ("forest", forest)):
        runs: dict[str, list[tuple[float, float, float]]] = {}
        for extra, columns in {"hyperparameters": np.empty((len(y), 0)), **extras}.items():
            scaled = (columns - columns.mean(axis=0)) / columns.std(axis=0)
            for predicted in out_of_fold(maker, np.hstack([base, scaled]), y, groups, range(n_repeats)):
                r2 = 1 - float(np.mean((y - predicted) ** 2) / np.var(y))
                runs.setdefault(extra, []).append((r2, kendall(predicted, y), kendall(predicted[best], y[best])))
        found[name] = {}
        for extra, values in runs.items():
            r2s, all_taus, best_taus = (np.array(column) for column in zip(*values, strict=True))
            gain = r2s - np.array([value[0] for value in runs["hyperparameters"]])
            found[name][extra] = {
                "r2": float(r2s.mean()),
                "gain": float(gain.mean()),
                "gain_min": float(gain.min()),
                "gain_max": float(gain.max()),
                "tau": float(all_taus.mean()),
                "tau_best_fifth": float(best_taus.mean()),
            }
    return found


def analyse(folder: Path, task: str, scores: Path, n_repeats: int) -> dict[str, Any]:
    from naslib_autokd.evaluators.surrogate import FamilyEncoding

    stored = np.load(scores)
    row_of = {int(number): row for row, number in enumerate(stored["number"])}
    trials = list(TrialStore(folder / "trials.jsonl"))
    largest = max(trial.budget_epochs for trial in trials)
    short: dict[tuple[str, int], float] = {}
    for trial in trials:
        if trial.budget_epochs < largest:
            short.setdefault((family_of(trial), trial.budget_epochs), trial.val_accuracy or 0.0)
    scored = sorted((t for t in trials if t.budget_epochs == largest and t.number in row_of), key=lambda t: t.number)
    full = [trial for trial in scored if trial.succeeded]
    failed = len(scored) - len(full)
    families = [family_of(trial) for trial in full]
    accuracy = np.array([trial.val_accuracy for trial in full], float)
    rows = np.array([row_of[trial.number] for trial in full])
    of_score = {name: stored[name][rows] for name, text in COLUMNS.items() if text}
    known = {
        "n_params": np.array([trial.n_params for trial in full], float),
        "macs": np.array([trial.macs for trial in full], float),
        "-depth": -np.array([trial.depth for trial in full], float),
        "width": np.array([trial.channels[0] for trial in full], float),
    }
    budgets = sorted({trial.budget_epochs for trial in trials} - {largest})
    for budget in budgets:
        name = f"{budget}-epoch accuracy"
        known[name] = np.array([short.get((family, budget), math.nan) for family in families])

    encoding = FamilyEncoding(HNAGSpace("hnag-small"), get_task(task))
    base = np.array([encoding.features(encoding.values(Candidate.from_dict(trial.candidate))) for trial in full])
    extras = {
        "+ score": np.stack([of_score["semantic"], of_score["relation"]], axis=1),
        "+ family score": of_score["family"][:, None],
        "+ random numbers": np.random.default_rng(1).normal(size=(len(full), 2)),
    }
    complete = np.ones(len(full), bool)
    if budgets:
        short_accuracies = np.stack([known[f"{budget}-epoch accuracy"] for budget in budgets], axis=1)
        complete = np.isfinite(short_accuracies).all(axis=1)
        for index, budget in enumerate(budgets):
            extras[f"+ {budget}-epoch accuracy"] = short_accuracies[:, [index]]
    groups = [family for family, use in zip(families, complete, strict=True) if use]
    extras = {name: values[complete] for name, values in extras.items()}
    y, base = accuracy[complete], base[complete]
    residual = y - out_of_fold(gaussian_process, base, y, groups, [0])[0]
    partial = {}
    for name in ("score", "semantic", "relation", "family"):
        column = of_score[name][complete]
        partial[name] = kendall(column - out_of_fold(gaussian_process, base, column, groups, [0])[0], residual)

    timed = np.isfinite(stored["epoch_s"])
    return {
        "n_trainings": len(full),
        "n_families": len(set(families)),
        "n_failed": failed,
        "budget_epochs": largest,
        "stages": {name: sum(stage_of(trial) == name for trial in full) for name in STAGES},
        "tau": taus({**of_score, **known}, accuracy),
        "cross_validation": {
            "n": len(y),
            "n_repeats": n_repeats,
            "models": added_value(base, extras, y, groups, n_repeats),
        },
        "partial_tau": partial,
        "within_families": within_families(
            {name: of_score[name] for name in ("score", "semantic", "relation")}, accuracy, families
        ),
        "cost": {
            "charged_student_epochs": float(stored["student_epochs"]),
            "measured_student_epochs": float(stored["score_s"][timed].sum() / stored["epoch_s"][timed].sum()),
            "score_cpu_s": float(stored["score_s"].mean()),
            "n_timed": int(timed.sum()),
        },
        "environment": environment(),
    }


def report(found: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{n} {name}" for name, n in found["stages"].items() if n)
    lines = [
        "# DisWOT's training-free score: is it worth using?",
        "",
        f"Made by `python benchmarks/diswot.py score TABLE` and `analyse TABLE` from {found['n_trainings']} full "
        f"trainings ({found['budget_epochs']} epochs; {found['n_families']} families; stages: {stages}; "
        f"{found['n_failed']} failed and are left out). Scores are those of the very students that were trained, "
        "before training.",
        "",
        "Kendall tau with the validation accuracy after the full training (95% bootstrap interval), over all trainings "
        "and over the best fifth of them:",
        "",
        "| | all | best fifth |",
        "| --- | --- | --- |",
    ]
    for name, where in found["tau"].items():
        cells = [f"{w['tau']:+.2f} [{w['interval'][0]:+.2f}, {w['interval'][1]:+.2f}]" for w in where.values()]
        lines.append(f"| {COLUMNS.get(name) or name} | {cells[0]} | {cells[1]} |")
    validation = found["cross_validation"]
    lines += [
        "",
        f"What it adds to the hyperparameters: out-of-fold R2 of the accuracy (five folds by family, {validation['n']} "
        f"trainings, {validation['n_repeats']} repeats; gain over hyperparameters alone, least and largest of the "
        "repeats), and Kendall tau of the predictions:",
        "",
        "| model | features | R2 | gain | tau | best fifth |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model, sets in validation["models"].items():
        for name, v in sets.items():
            gain = "" if name == "hyperparameters" else f"{v['gain']:+.3f} [{v['gain_min']:+.3f}, {v['gain_max']:+.3f}]"
            lines.append(f"| {model} | {name} | {v['r2']:.3f} | {gain} | {v['tau']:.3f} | {v['tau_best_fifth']:+.3f} |")
    partial = ", ".join(f"{COLUMNS[name]} {value:+.2f}" for name, value in found["partial_tau"].items())
    cost = found["cost"]
    within = dict(found["within_families"])
    lines += ["", f"Kendall tau of what a Gaussian process of the hyperparameters leaves of both: {partial}.", ""]
    if within:
        n_families, n_trainings = within.pop("n_families"), within.pop("n_trainings")
        texts = [
            f"{COLUMNS[name]} {v['correlation']:+.2f} [{v['interval'][0]:+.2f}, {v['interval'][1]:+.2f}]"
            for name, v in within.items()
        ]
        lines += [
            f"Among the students of one family ({n_families} families with several, {n_trainings} trainings), "
            f"correlation with the accuracy: {', '.join(texts)}.",
            "",
        ]
    lines += [
        f"A score costs {cost['measured_student_epochs']:.4f} epochs of the student's training "
        f"({1000 * cost['score_cpu_s']:.0f} CPU ms; measured on {cost['n_timed']} students) and is charged "
        f"{cost['charged_student_epochs']:.4f}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("score", "analyse"))
    parser.add_argument("table", type=Path)
    parser.add_argument("--task", default="cluttered-digits")
    parser.add_argument("--scores", type=Path, help="default: diswot.npz in TABLE")
    parser.add_argument("--repeats", type=int, default=3, help="of the cross-validation")
    options = parser.parse_args()
    scores = options.scores or options.table / "diswot.npz"
    if options.what == "score":
        score_table(options.table, options.task, scores)
        return
    found = analyse(options.table, options.task, scores, options.repeats)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "diswot.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "diswot.md").write_text(report(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
