"""Run folders as searches, comparisons and studies leave them: real records with invented values, in a moment."""

from __future__ import annotations

import json
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from naslib_autokd.records import Proposal, Trial, TrialStore, derive_seed, environment
from naslib_autokd.runners.comparison import AUTOKD_VS_DARTS, JobResult
from naslib_autokd.runners.run_folder import open_run
from naslib_autokd.runners.setup import run_settings
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.tasks import Task, get_task

NASTY = '</script><script>alert(1)</script><img src=x onerror="alert(2)"> & \u2028 "quoted" `${1}`'
"""What a report must show as it is."""


def error_of(candidate: Any, budget: int, rng: np.random.Generator) -> float:
    g, kd = candidate.generator, candidate.kd
    error = 0.1 + 0.1 * abs(g.channel_growth - 1.2) + 0.08 * (1 - kd.kd_weight) + 0.01 * abs(g.top.n_nodes - 6)
    return float(error + 0.3 * (1 / budget - 1 / 9) + 0.01 * rng.normal())


def trial_of(space: HNAGSpace, number: int, budget: int, failure: tuple[str, str] | None = None) -> Trial:
    rng = np.random.default_rng(number + 10)
    candidate = space.default_candidate() if number < 0 else space.sample(rng)
    proposal = Proposal(candidate, budget, derive_seed(0, "trial", number), number)
    if failure is not None:
        return Trial.of(proposal, status=failure[0], message=failure[1], student_epochs=1.0)
    error = error_of(candidate, budget, rng)
    return Trial.of(
        proposal,
        cost=error,
        val_accuracy=1 - error,
        train_accuracy=1 - error / 2,
        teacher_agreement=min(1.0, 1.02 - error),
        student_epochs=float(budget),
        wiring=f"{number:012x}",
        n_params=22_000 + number,
        macs=1_000_000 + 7 * number,
        depth=5,
        train_memory_bytes=4_000_000,
        train_s=3.5,
        evaluate_s=0.2,
    )


def counts(classes: tuple[str, ...] = tuple("0123456789"), n: int = 200, errors: int = 20) -> dict[str, Any]:
    """As `evaluators.judgement` makes them: of ``n`` images ``errors`` are wrong, the teacher's half as many."""
    k = len(classes)

    def side(wrong: int) -> dict[str, Any]:
        confusion = np.diag([n // k] * k)
        for index in range(wrong):
            i = index % k
            confusion[i, i] -= 1
            confusion[i, (i + 1) % k] += 1
        bins: list[dict[str, Any]] = [{"n": 0, "confidence": None, "accuracy": None} for _ in range(15)]
        bins[9] = {"n": wrong, "confidence": 0.63, "accuracy": 0.0}
        bins[14] = {"n": n - wrong, "confidence": 0.97, "accuracy": 1.0}
        return {"confusion": confusion.tolist(), "calibration": bins}

    agreement = {"both": n - errors, "student": 0, "teacher": errors // 2, "same_error": errors // 2, "other_error": 0}
    return {
        "n": n,
        "classes": list(classes),
        "student": side(errors),
        "teacher": side(errors // 2),
        "agreement": agreement,
    }


def final(seed: int, accuracy: float, **changes: Any) -> dict[str, Any]:
    """A line of ``finals.jsonl`` (`evaluators.kd.FinalResult`)."""
    return {
        "name": "task/family",
        "seed": seed,
        "status": "success",
        "message": "",
        "epochs": 9.0,
        "val_accuracy": accuracy,
        "teacher_agreement": 0.93,
        "n_params": 23_456,
        "macs": 1_234_567,
        "train_memory_bytes": 5 * 2**20,
        "seconds": 8.25,
        "temperature": 4.0,
        "kd_weight": 0.9,
        "curve": [2.0, 1.0],
        "test_accuracy": 0.9,
        "test_agreement": 0.925,
        "test_counts": counts(),
        **changes,
    }


TEACHER = {"test_accuracy": 0.95, "n_params": 46_912, "macs": 2_469_134, "train_memory_bytes": 4 * 2**20}


def write_search(
    folder: Path,
    n: int = 30,
    *,
    finals: list[dict[str, Any]] | None = None,
    failures: dict[int, tuple[str, str]] | None = None,
    state: str = "finished",
    task: Task | None = None,
    objectives: tuple[str, ...] = ("error",),
    low_budget: int = 3,
) -> Path:
    """A search of ``n`` trials: every third at 9 epochs, the default first; with ``finals`` it has a result."""
    space = HNAGSpace("hnag-small", search_size=len(objectives) > 1)
    task = task or get_task("cluttered-digits")
    asked: dict[str, Any] = {"seed": 0, "options": {}, "n_trials": n, "objectives": objectives}
    planned = max(1.0, n * 2 / 3) * task.max_budget_epochs
    open_run(folder, task, run_settings("autokd", space, **asked, planned_epochs=planned))
    trials = []
    with TrialStore(folder / "trials.jsonl") as store:
        for number in range(-1, n - 1):
            budget = 9 if number < 0 or number % 3 == 0 else low_budget
            trials.append(trial_of(space, number, budget, (failures or {}).get(number)))
            if n <= 200:
                store.append(trials[-1])
    if n > 200:  # one write for all: each of its own is synced
        (folder / "trials.jsonl").write_text("".join(trial.to_json() + "\n" for trial in trials))
    status = {"state": state, "pid": 0, "host": "elsewhere", "budget": {"n_trials": n}, "elapsed_s": 123.0}
    (folder / "status.json").write_text(json.dumps({**status, "stop_reason": "n_trials", "message": ""}))
    if finals:
        (folder / "finals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in finals))
        best = min((t for t in trials if t.succeeded and t.budget_epochs == 9), key=lambda t: t.cost)
        result = {
            "candidate": best.candidate,
            "candidate_digest": best.candidate_digest,
            "expected_cost": best.cost + 0.005,
            "search_s": 120.0,
            "stop_reason": "n_trials",
            "agreement": [{"low": 3, "high": 9, "n": 5, "kendall_tau": 0.6}],
            "teacher": {**TEACHER, "name": "teacher"},
        }
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_comparison(
    folder: Path,
    seeds: int = 4,
    *,
    finished: bool = True,
    failed: tuple[str, int, str] | None = None,
    best: str = "AutoKD",
) -> Path:
    """AutoKD against both DARTS on ``seeds`` seeds; AutoKD is ahead of DARTS without KD by 3 points.

    The students of the method ``best`` have the highest validation accuracies.
    """
    task = get_task("cluttered-digits")
    settings = {"methods": [asdict(method) for method in AUTOKD_VS_DARTS], "budget": 45.0, "n_finals": 2}
    open_run(folder, task, json.loads(json.dumps({**settings, "device": "cpu", "teacher": None})))
    gains = {"AutoKD": 0.0, "DARTS with KD": -0.002, "DARTS": -0.03}
    jobs = []
    for method in AUTOKD_VS_DARTS:
        for seed in range(seeds):
            path = folder / method.slug / f"seed-{seed}"
            if failed is not None and (method.label, seed) == failed[:2]:
                path.mkdir(parents=True)
                (path / "error.txt").write_text(f"Traceback (most recent call last):\n  somewhere\n{failed[2]}\n")
                continue
            lines = []
            values = tuple(0.89 + 0.001 * index + 0.01 * (method.label == best) for index in range(2))
            for index in range(2):
                test = 0.9 + gains[method.label] + 0.004 * np.sin(seed + 2 * index + len(method.label))
                lines.append(final(seed, values[index], test_accuracy=round(float(test), 6)))
            if method.kind == "search":
                write_search(path, 7, finals=lines)
                (path / "result.json").unlink()
            else:
                path.mkdir(parents=True)
                (path / "finals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            tests = tuple(line["test_accuracy"] for line in lines)
            job = JobResult(
                method=method.label,
                seed=seed,
                test_accuracies=tests,
                test_accuracy=tests[1],
                val_accuracies=values,
                teacher_agreement=0.925,
                n_params=23_456,
                macs=1_234_567,
                train_memory_bytes=5 * 2**20,
                search_cpu_s=30.0,
                student_epochs=45.0,
                n_students=7,
                curve=((9.0, 0.8 + 0.01 * seed), (27.0, 0.85), (45.0, 0.88)),
                one_shot=method.kind != "search",
            )
            jobs.append(job)
            (path / "result.json").write_text(json.dumps(asdict(job)))
    if finished:
        failures = [list(failed)] if failed else []
        content = {"task": task.name, "teacher": TEACHER, "failures": failures, "wall_s": 100.0}
        (folder / "comparison.json").write_text(json.dumps(content))
    return folder


def write_baselines(folder: Path, seeds: int = 3, *, finished: bool = True) -> Path:
    """compare-kd: two losses and labels only on one student."""
    about = {"baselines": {"temperature": 4.0, "kd_weight": 0.9}, "family": None}
    open_run(folder, get_task("cluttered-digits"), {**about, "evaluation": {"objective": "kd", "teacher": None}})
    lines = []
    for loss, gain in (("kd", 0.0), ("ce", -0.03), ("fitnet", 0.005)):
        for seed in range(seeds):
            test = round(0.88 + gain + 0.004 * float(np.sin(seed + 100 * gain)), 3)
            result = final(seed, 0.9 + gain, test_accuracy=test)
            lines.append(json.dumps({"student": "resnet8", "loss": loss, "seed": seed, "result": result}))
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    if finished:
        teacher = final(0, 0.96, test_accuracy=0.95)
        failures = [["resnet8", "at", 0, "ValueError: out of luck"]]
        (folder / "summary.json").write_text(json.dumps({"teacher": teacher, "failures": failures}))
    return folder


def write_study(folder: Path, seeds: int = 6) -> Path:
    """Two methods on a benchmark; the second is worse by a point."""
    study = {
        "name": "two",
        "title": "Two methods",
        "question": "Which of the two?",
        "benchmark": "cluttered-digits",
        "student_epochs": 27.0,
        "seeds": seeds,
        "reference": "First",
        "methods": [{"label": "First", "optimizer": "autokd"}, {"label": "Second", "optimizer": "random_search"}],
    }
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    about = {"name": "cluttered-digits-v1", "budgets": [1, 3, 9], "best_test_error": 0.09}
    (folder / "run.yaml").write_text(yaml.safe_dump({"benchmark": about, "environment": environment()}))
    lines = []
    for index, label in enumerate(("First", "Second")):
        for seed in range(seeds):
            end = 0.092 + 0.001 * seed + 0.01 * index
            run = {"method": label, "seed": seed, "student_epochs": [9.0, 18.0, 27.0], "trials": [1, 2, 3]}
            run |= {"test_error": [0.13, end + 0.01, end], "cost": [0.13, end, end], "candidate": {}}
            lines.append(json.dumps({**run, "n_trials": 3, "cpu_s": 0.5}))
    (folder / "runs.jsonl").write_text("\n".join(lines) + "\n")
    return folder


class Text(HTMLParser):
    """Texts and tags of a page outside its scripts and styles, and the data of its charts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.data = ""
        self._inside = ""
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())
        self.payload = json.loads(self.data)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attributes)
        self.ids.append(found.get("id") or "")
        self._inside = "data" if found.get("id") == "report-data" else tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data += data
        elif not self._inside:
            self.words.append(data)
