"""Where the time of a trial goes, and what trains most students per hour.

    OMP_NUM_THREADS=1 python benchmarks/trials.py                     # all (some 40 minutes on two quiet cores)
    python benchmarks/trials.py --only outside objective --pairs 3

    outside     share of a trial's time that is not forward pass, backward pass or optimizer step of its training, and
                two parts of it by wall time: ``validation`` (forward passes too) and ``build`` (mostly two steps that
                measure memory)
    objective   the same trial with KD (cached targets) against plain cross-entropy
    bfloat16    accuracy and time of ten trials in bfloat16 against float32, of four families
    teacher     a training step with cached targets against one that runs the teacher
    predict     images per second of predictions by batch size
    parallel    students per hour: one process, two threads in one process, two processes (wall time: quiet cores!)
    promotion   trials that continue from a lower budget's checkpoint: how families rank, what is saved

Ratios are medians of pairs that alternate within one run, in CPU seconds of the process unless said otherwise. Two
tasks: ``cluttered-digits`` with its default family, and 32x32 colour images of 10 synthetic classes with students of
100,000 parameters. Each part writes its section of ``results/trials.json`` and leaves the others as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.data.dataset import data_from_dataset
from naslib_autokd.distillation import training
from naslib_autokd.distillation.losses import distillation_loss
from naslib_autokd.distillation.training import TrainingSettings, limited_threads, predict, train
from naslib_autokd.evaluators.benchmark import KDBenchmark
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.records import Proposal, derive_seed, environment
from naslib_autokd.runners.engine import trial_handler
from naslib_autokd.runners.limits import WorkerProcess, pickled
from naslib_autokd.runners.statistics import mean_interval
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.teachers.names import parse_architecture
from naslib_autokd.teachers.networks import build_network

RESULTS = Path(__file__).parent / "results" / "trials.json"

IMAGES_32 = 600


class Templates(nn.Module):
    """A teacher of the synthetic images: compares with each class's mean image."""

    def __init__(self, templates: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(templates[0].numel(), len(templates), bias=False)
        self.linear.weight = nn.Parameter(templates.flatten(1) / 20)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def evaluator_32(n_images: int = IMAGES_32, of_task: Mapping[str, Any] | None = None, **options: Any) -> KDEvaluator:
    """On images of 3x32x32 pixels, each its class's smooth random pattern under noise; ``of_task`` changes the task."""
    rng = np.random.RandomState(0)
    coarse = torch.from_numpy(rng.normal(size=(10, 3, 4, 4)).astype(np.float32))
    patterns = F.interpolate(coarse, size=32, mode="bilinear", align_corners=False)
    labels = np.arange(n_images) % 10
    noise = torch.from_numpy(rng.normal(size=(n_images, 3, 32, 32)).astype(np.float32))
    images = (128 + 30 * patterns[labels] + 50 * noise).clamp(0, 255).to(torch.uint8)
    data = data_from_dataset(
        list(zip(images, labels.tolist(), strict=True)),
        name="synthetic-32",
        **{
            "max_params": 100_000,
            "batch_size": 64,
            "min_budget_epochs": 3,
            "max_budget_epochs": 9,
            "augmentation": "crop-flip",
            "max_shift": 4,
            "n_views": 2,
            **(of_task or {}),
        },
    )
    return KDEvaluator(data.task, data=data, teacher=Templates(patterns), **options)


MAKERS: dict[str, Callable[..., KDEvaluator]] = {
    "cluttered-digits": partial(KDEvaluator, "cluttered-digits"),
    "synthetic-32": evaluator_32,
}


Tasks = Sequence[str]


def proposal_for(evaluator: KDEvaluator, epochs: int, seed: int = 1) -> Proposal:
    """The default family of the task's own space."""
    return Proposal(HNAGSpace(evaluator.task.preset).default_candidate(), epochs, seed, seed)


def median(values: list[float]) -> float:
    return float(statistics.median(values))


# --- outside forward, backward and optimizer ------------------------------------------------------------------------


@contextmanager
def steps_watched(seconds: list[float]) -> Iterator[None]:
    """Add the CPU time of each step of a training to ``seconds`` (not of those that measure memory)."""
    step = training.TrainingStep.__call__

    def timed(self: training.TrainingStep, *batch: Any) -> tuple[Tensor, Tensor]:
        started = time.process_time()
        result = step(self, *batch)
        seconds.append(time.process_time() - started)
        return result

    with mock.patch.object(training.TrainingStep, "__call__", timed):
        yield


def outside(pairs: int, tasks: Tasks) -> list[dict[str, Any]]:
    rows = []
    for name in tasks:
        evaluator = MAKERS[name]()
        for epochs in (evaluator.task.min_budget_epochs, evaluator.task.max_budget_epochs):
            found: dict[str, list[float]] = {key: [] for key in ("trial_s", "outside", "validation", "build")}
            for number in range(pairs + 1):
                seconds: list[float] = []
                with steps_watched(seconds):
                    started = time.process_time()
                    trial = evaluator.evaluate(proposal_for(evaluator, epochs))
                    whole = time.process_time() - started
                assert trial.succeeded, trial.message
                if number == 0:
                    continue  # warms up
                found["trial_s"].append(whole)
                found["outside"].append(1 - sum(seconds) / whole)
                found["validation"].append(trial.evaluate_s / trial.total_s)
                found["build"].append((trial.sample_s + trial.build_s) / trial.total_s)
            row = {"task": name, "epochs": epochs, "n": pairs}
            rows.append(row | {key: median(values) for key, values in found.items()})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def alternating(variants: dict[str, Callable[[], object]], pairs: int) -> dict[str, list[float]]:
    """CPU seconds of each variant, run in turn (and once before, to warm up); every other round in reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(pairs + 1):
        for name in list(variants)[:: -1 if number % 2 else 1]:
            started = time.process_time()
            variants[name]()
            if number:
                seconds[name].append(time.process_time() - started)
    return seconds


# --- KD against cross-entropy, cached against live teacher ------------------------------------------------------------


def ratios(seconds: dict[str, list[float]], of: str, to: str) -> dict[str, Any]:
    each = [a / b for a, b in zip(seconds[of], seconds[to], strict=True)]
    return {"ratio": median(each), "lowest": min(each), "highest": max(each), "n": len(each)}


def objective(pairs: int, tasks: Tasks) -> list[dict[str, Any]]:
    rows = []
    for name in tasks:
        evaluators = {kind: MAKERS[name](objective=kind) for kind in ("kd", "ce")}
        epochs = evaluators["kd"].task.min_budget_epochs
        variants = {
            kind: partial(evaluator.evaluate, proposal_for(evaluator, epochs)) for kind, evaluator in evaluators.items()
        }
        seconds = alternating(variants, pairs)
        rows.append({"task": name, "epochs": epochs, **ratios(seconds, "kd", "ce"), "seconds": median(seconds["kd"])})
        print(json.dumps(rows[-1]), flush=True)
    return rows


DRAWN = 3
"""Families besides the default one whose accuracy in bfloat16 is measured on the embedded task."""


def bfloat16(_: int, tasks: Tasks) -> list[dict[str, Any]]:
    """Validation accuracy, in points, and time of ten students of a family trained in bfloat16 against the same in
    float32."""
    rows = []
    for name in tasks:
        settings = {precision: TrainingSettings(precision=precision) for precision in ("float32", "bfloat16")}
        evaluators = {precision: MAKERS[name](settings=own) for precision, own in settings.items()}
        task = evaluators["float32"].task
        embedded, space = name == "cluttered-digits", HNAGSpace(task.preset)
        epochs = task.max_budget_epochs if embedded else task.min_budget_epochs
        rng = np.random.default_rng(0)
        families = [space.default_candidate(), *[space.sample(rng) for _ in range(DRAWN if embedded else 0)]]
        for index, family in enumerate(families):
            accuracies: dict[str, list[float]] = {precision: [] for precision in settings}
            seconds: dict[str, list[float]] = {precision: [] for precision in settings}
            for seed in range(10):
                for precision, evaluator in evaluators.items():
                    started = time.process_time()
                    trial = evaluator.evaluate(Proposal(family, epochs, seed, seed))
                    seconds[precision].append(time.process_time() - started)
                    assert trial.val_accuracy is not None, trial.message
                    assert trial.info["precision"] == precision, trial.info
                    accuracies[precision].append(100 * trial.val_accuracy)
            differences = [b - a for a, b in zip(accuracies["float32"], accuracies["bfloat16"], strict=True)]
            found = mean_interval(differences)
            row = {"task": name, "family": index, "generator": family.to_dict(), "epochs": epochs}
            row |= {"accuracy": accuracies, "difference": [found.mean, found.low, found.high]}
            rows.append(row | {"time": ratios(seconds, "bfloat16", "float32")})
            print(json.dumps(rows[-1]), flush=True)
    return rows


class LiveTeacher:
    """The KD loss with the teacher's logits computed for every batch."""

    def __init__(self, teacher: nn.Module, settings: Any) -> None:
        self.teacher, self.kd = teacher.eval(), settings

    def parameters(self) -> list[Tensor]:
        return []

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, view: Tensor, index: Tensor, done: float
    ) -> tuple[Tensor, Tensor]:
        logits = model(images)
        with torch.no_grad():
            targets = self.teacher(images)
        kd = self.kd
        return logits, distillation_loss(logits, targets, labels, temperature=kd.temperature, kd_weight=kd.kd_weight)


TEACHERS = {"cluttered-digits": ("resnet-small",), "synthetic-32": ("resnet-medium",)}
"""Architectures; only their time counts, so they are untrained."""


def teacher(pairs: int, tasks: Tasks) -> list[dict[str, Any]]:
    rows = []
    for name in tasks:
        evaluator = MAKERS[name]()
        task, data = evaluator.task, evaluator.data
        proposal = proposal_for(evaluator, 1)
        settings: Any = proposal.candidate.kd  # type: ignore[attr-defined]
        student = evaluator.build_student(evaluator.student_spec(proposal.candidate, 1), 1)
        for architecture in TEACHERS[name]:
            network = build_network(parse_architecture(architecture), task.in_channels, task.n_classes)[0]
            common: dict[str, Any] = {"kd": settings, "epochs": 1, "seed": 0}
            variants: dict[str, Callable[[], object]] = {
                "cached": partial(train, student, data, evaluator.soft_targets.train, **common),
                "live": partial(train, student, data, None, objective=LiveTeacher(network, settings), **common),
            }
            with limited_threads(1):
                seconds = alternating(variants, pairs)
            row = {"task": name, "teacher": architecture, **ratios(seconds, "live", "cached")}
            rows.append(row | {"cached_epoch_s": median(seconds["cached"])})
            print(json.dumps(rows[-1]), flush=True)
    return rows


# --- predictions ----------------------------------------------------------------------------------------------------


def prediction(pairs: int, tasks: Tasks) -> list[dict[str, Any]]:
    rows = []
    for name in tasks:
        evaluator = MAKERS[name]()
        proposal = proposal_for(evaluator, 1)
        student = evaluator.build_student(evaluator.student_spec(proposal.candidate, 1), 1)
        images = evaluator.data.train_images[:1000]
        sizes = (8, 32, 128, 250, 500, 1000)
        variants = {str(size): partial(predict, student, evaluator.data, images, size) for size in sizes}
        with limited_threads(1):
            seconds = alternating(variants, pairs)
        per_second = {size: len(images) / median(values) for size, values in seconds.items()}
        rows.append({"task": name, "n": pairs, "images_per_s": per_second})
        print(json.dumps(rows[-1]), flush=True)
    return rows


# --- several students at once ---------------------------------------------------------------------------------------


class Worker:
    """A process that trains students one after the other, with ``threads`` threads."""

    def __init__(self, name: str, threads: int) -> None:
        self.process = WorkerProcess(pickled(partial(trial_handler, partial(MAKERS[name], threads=threads), (), 0)))

    def train(self, job: dict[str, Any]) -> None:
        outcome = self.process.run(job)
        assert outcome.status == "success", outcome.message
        assert outcome.value["status"] == "success", outcome.value["message"]


STUDENTS_PER_ROUND = {"cluttered-digits": 10, "synthetic-32": 2}
"""Some ten seconds: a process that waited for its turn finds its memory cold at first."""
LAYOUTS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}


def parallel(pairs: int, tasks: Tasks) -> list[dict[str, Any]]:
    """Wall time for each student, start-up not counted: every process trains the same students in a round, in another
    order, so that none waits for a longer training of its neighbour."""
    rows = []
    for name in tasks:
        evaluator = MAKERS[name]()
        jobs = []
        for seed in range(1, 1 + STUDENTS_PER_ROUND[name]):
            proposal = proposal_for(evaluator, evaluator.task.min_budget_epochs, seed)
            jobs.append(
                {
                    "candidate_type": type(proposal.candidate),
                    "candidate": proposal.candidate.to_dict(),
                    "budget_epochs": proposal.budget_epochs,
                    "seed": seed,
                    "number": seed,
                }
            )
        del evaluator
        crews = {layout: [Worker(name, threads) for _ in range(n)] for layout, (n, threads) in LAYOUTS.items()}
        seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
        try:
            for number in range(pairs + 1):
                for layout in list(LAYOUTS)[:: -1 if number % 2 else 1]:
                    crew = crews[layout]

                    def work(worker: Worker, own: list[dict[str, Any]]) -> None:
                        for job in own:
                            worker.train(job)

                    runs = [
                        threading.Thread(target=work, args=(worker, jobs[:: -1 if index else 1]))
                        for index, worker in enumerate(crew)
                    ]
                    started = time.perf_counter()
                    for run in runs:
                        run.start()
                    for run in runs:
                        run.join()
                    if number:
                        seconds[layout].append((time.perf_counter() - started) / (len(jobs) * len(crew)))
        finally:
            for crew in crews.values():
                for worker in crew:
                    worker.process.close()
        one, threads, two = LAYOUTS
        row = {
            "task": name,
            "students_per_hour": {layout: 3600 / median(values) for layout, values in seconds.items()},
            "2 processes against 1": ratios(seconds, one, two),
            "2 processes against 2 threads": ratios(seconds, threads, two),
        }
        rows.append(row)
        print(json.dumps(rows[-1]), flush=True)
    return rows


# --- promoted trials that continue ----------------------------------------------------------------------------------


LOW, TOP = 3, 9


def table_families() -> list[tuple[int, Any, float]]:
    """``(number, candidate, true error)`` of the families that the table of cluttered-digits holds several full
    trainings of; the true error is the mean of theirs, on validation and test images."""
    benchmark = KDBenchmark("cluttered-digits")
    table, space = benchmark.table, benchmark.table_space
    hyperparameters = space.configuration_space()
    families = []
    for stage in ("nested", "held-out"):
        for number in np.unique(table["family"][table["stage"] == stage]):
            rows = table["family"] == number
            values = {}
            for name, hyperparameter in dict(hyperparameters).items():
                value = table[name][rows][0]
                if value == value:  # nan where it has no effect
                    values[name] = type(hyperparameter.default_value)(value)
            full = rows & (table["budget_epochs"] == TOP)
            error = float((1 + table["cost"][full] - table["test_accuracy"][full]).mean()) / 2
            families.append((int(number), space.candidate(values), error))
    return families


def promotion(_: int, tasks: Tasks) -> dict[str, Any]:
    """One student of each family, trained five ways; all of them see the same batches in the same order.

    ``low``: in 3 epochs. ``continued``: that, and on to 9 in the schedule of 9. ``restarted``: that, and 6 epochs with
    a schedule of their own. ``full``: in 9 epochs. ``early``: the full training as it is after 3 epochs.
    """
    evaluator = KDEvaluator("cluttered-digits")
    data, targets = evaluator.data, evaluator.soft_targets.train
    rows: list[dict[str, Any]] = []
    for number, candidate, truth in table_families():
        seed = derive_seed(0, "promotion", number)
        spec = evaluator.student_spec(candidate, seed)
        common: dict[str, Any] = {"kd": candidate.kd, "seed": derive_seed(seed, "batches")}
        row: dict[str, Any] = {"family": number, "truth": truth}
        kept: list[training.Checkpoint] = []

        def error(name: str, student: nn.Module, row: dict[str, Any] = row) -> None:
            row[name] = 1 - training.accuracy(predict(student, data, data.val_images), data.val_labels)

        def trained(name: str, epochs: int, spec: Any = spec, seed: int = seed, **options: Any) -> None:
            student = evaluator.build_student(spec, seed)
            if name == "full":
                options["progress"] = lambda epoch, _: error("early", student) if epoch == LOW else None
            train(student, data, targets, epochs=epochs, **options)
            error(name, student)

        with limited_threads(1):
            trained("low", LOW, keep=kept.append, **common)
            trained("continued", TOP, start=kept[0], **common)
            trained("restarted", TOP - LOW, start=replace(kept[0], epochs=0), **common)
            trained("full", TOP, **common)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return {"rows": rows, "summary": summary(rows)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Kendall's tau with the truth and with the same student's full training; errors against that; shared noise.

    ``noise_shared_with_low``: correlation of what is left of two errors once the truth is regressed out.
    """
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    truth = np.stack([np.ones(len(rows)), columns["truth"]], axis=1)

    def rest(name: str) -> Any:
        return columns[name] - truth @ np.linalg.lstsq(truth, columns[name], rcond=None)[0]

    found = {}
    for name in ("low", "early", "continued", "restarted", "full"):
        more = columns[name] - columns["full"]
        found[name] = {
            "mean_error": float(columns[name].mean()),
            "tau_truth": float(kendalltau(columns[name], columns["truth"])[0]),
            "tau_full": float(kendalltau(columns[name], columns["full"])[0]),
            "above_full": float(more.mean()),
            "above_full_se": float(more.std(ddof=1) / len(rows) ** 0.5),
            "noise_shared_with_low": float(np.corrcoef(rest(name), rest("low"))[0, 1]),
        }
    return {"n": len(rows), **found}


PARTS: dict[str, Callable[[int, Tasks], Any]] = {
    "outside": outside,
    "objective": objective,
    "teacher": teacher,
    "predict": prediction,
    "bfloat16": bfloat16,
    "parallel": parallel,
    "promotion": promotion,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    parser.add_argument("--pairs", type=int, default=9, help="repetitions of each comparison (default: 9)")
    parser.add_argument("--tasks", nargs="+", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"default: {RESULTS}")
    options = parser.parse_args(arguments)
    if options.pairs < 1:
        parser.error(f"--pairs must be at least 1, got {options.pairs}")
    for name in options.only or PARTS:
        rows = PARTS[name](options.pairs, options.tasks)
        found: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
        found[name] = (rows if isinstance(rows, dict) else {"rows": rows}) | {"environment": environment()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
