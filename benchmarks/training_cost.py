"""Calibrates the model of training time (`distillation.training_cost`) on measured trainings, and says how good it is.

    OMP_NUM_THREADS=1 python benchmarks/training_cost.py measure     # 15 minutes of one core; goes on where it stopped
    python benchmarks/training_cost.py fit                           # coefficients from what was measured, and errors

Measured: CPU seconds of a step of `training.train` (of supernets: of a step of the DARTS search) on synthetic images,
one thread, the median of several epochs in two rounds, networks in random order. A fixed training runs before and after
each; what it took scales the times, so that a machine that others use for a while changes less. Students of HNAG run by
the compiled plan, everything else by torch.

Fitted: non-negative coefficients of the counts of a step's work, by least squares of relative errors, for each
execution. Errors are of networks that were held out, a third at a time; the shipped coefficients are of all.
Writes ``results/training_cost.jsonl`` (what was measured) and ``naslib_autokd/distillation/training_cost.json``.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.training import TrainingSettings, train
from naslib_autokd.distillation.training_cost import COEFFICIENTS, module_work, plan_work
from naslib_autokd.optimizers.darts import ALPHA_PASS, DARTS, WEIGHT_PASS
from naslib_autokd.records import environment
from naslib_autokd.search_spaces import get_search_space
from naslib_autokd.search_spaces.cell.genotype import OPERATIONS, SMALL_OPERATIONS, Genotype
from naslib_autokd.search_spaces.cell.network import CellNetwork
from naslib_autokd.search_spaces.hnag import KDSettings, ParameterBudgetError, StudentSpec, fit_width
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.tasks import Task, get_task
from naslib_autokd.teachers import zoo

RESULTS = Path(__file__).parent / "results" / "training_cost.jsonl"
EPOCHS, ROUNDS = 3, 2
SMALL = {"size": 12, "channels": 1, "params": 24_000, "batch": 32}
LARGE = {"size": 32, "channels": 3, "params": 100_000, "batch": 64}
LARGER = {**LARGE, "params": 500_000}

Item = dict[str, Any]


def items() -> Iterator[Item]:
    """What is measured."""
    for space in ("hnag-small", "hnag", "hnag-wide"):
        for shape, n in ((SMALL, 16), (LARGE, 14), (LARGER, 5), ({**SMALL, "params": 60_000}, 4)):
            yield from ({"kind": "family", "space": space, "seed": seed, **shape} for seed in range(n))
    yield from ({"kind": "cell", "seed": seed, **SMALL} for seed in range(12))
    yield from ({"kind": "cell", "seed": seed, **LARGE} for seed in range(100, 109))
    names = ("resnet8x0.5", "resnet8", "resnet14x0.5", "resnet14", "resnet20x0.5", "resnet20", "resnet32", "wrn_16_1")
    names += ("wrn_16_2", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2", "resnet56", "wrn_40_1", "resnet8x2")
    for name in names:
        yield {"kind": "zoo", "name": name, **LARGE}
    for name in ("resnet8x0.5", "resnet8", "resnet14x0.5", "resnet20", "mobilenet_v2", "shufflenet_v2", "vgg8"):
        yield {"kind": "zoo", "name": name, **SMALL}
    supernets = [
        {},
        {"init_channels": 8},
        {"init_channels": 24},
        {"n_nodes": 2},
        {"n_nodes": 4},
        {"n_cells": 5},
        {"channel_growth": 2.0},
        {"operations": OPERATIONS},
        {"operations": SMALL_OPERATIONS[:4]},
        {"order": "second"},
    ]
    for options in supernets:
        yield {"kind": "supernet", "options": options, **SMALL}
    for options in supernets[:5]:
        yield {"kind": "supernet", "options": options, **LARGE, "batch": 16}


def task_of(item: Item) -> Task:
    base = "cluttered-digits" if item["channels"] == 1 else "cifar10"
    more = {"in_channels": item["channels"], "image_size": item["size"], "max_params": item["params"]}
    return get_task(base, batch_size=item["batch"], min_channels=4, **more)


def spec_of(item: Item) -> StudentSpec | None:
    """The student of a family; None where it does not fit."""
    task = task_of(item)
    rng = np.random.default_rng([item["seed"], item["size"], item["params"]])
    candidate = get_search_space(item["space"]).sample(rng)
    sizes = {"in_channels": task.in_channels, "image_size": task.image_size, "n_classes": 10, "stem": task.stem}
    try:
        return fit_width(candidate.sample_wiring(item["seed"]), task.max_params, **sizes, min_channels=4)
    except ParameterBudgetError:
        return None


def genotype_of(seed: int) -> Genotype:
    rng = np.random.default_rng(seed)
    operations = [name for name in OPERATIONS if name != "none"]

    def cell() -> tuple[Any, ...]:
        edges = ((sorted(rng.choice(node + 2, 2, replace=False)), rng.choice(operations, 2)) for node in range(3))
        return tuple(tuple((str(op), int(source)) for source, op in zip(*both, strict=True)) for both in edges)

    return Genotype(normal=cell(), reduction=cell())


def network_of(item: Item) -> nn.Module | None:
    if item["kind"] == "family":
        spec = spec_of(item)
        return None if spec is None else Student(spec, 0)
    torch.manual_seed(0)
    if item["kind"] == "zoo":
        return zoo.build(item["name"], item["channels"], 10)
    darts = DARTS(**item.get("options", {}))
    if item["kind"] == "supernet":
        return darts.supernet(task_of(item), 0)
    return CellNetwork(darts.fit(genotype_of(item["seed"]), task_of(item)), 0)


def images_of(item: Item, n_batches: int) -> tuple[TaskData, torch.Tensor]:
    n, rng = n_batches * item["batch"], torch.Generator().manual_seed(0)
    task = replace(task_of(item), n_train=n, n_teacher=n, n_views=2, augmentation="shift", max_shift=1)
    shape = (2, n, item["channels"], item["size"], item["size"])
    views = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
    labels = torch.randint(10, (n,), generator=rng)
    channels = (0.5,) * item["channels"]
    data = TaskData(task, views, labels, views[0], labels, tuple("0123456789"), channels, channels, lambda: ([], []))
    return data, torch.randn(2, n, 10, generator=rng)


def step_seconds(item: Item, n_batches: int, epochs: int = EPOCHS) -> list[float]:
    """CPU seconds of a step, of each of several epochs after one that is not counted."""
    model, (data, logits) = network_of(item), images_of(item, n_batches)
    assert model is not None
    if item["kind"] == "supernet":
        darts = DARTS(**item["options"], n_searches=1, step_cost=1.0)
        evaluator = SimpleNamespace(data=data, soft_targets=SimpleNamespace(train=logits, val=logits[0]), threads=1)
        return [darts.search(evaluator, 1.0, seed).step_cpu_s for seed in range(epochs)]
    marks: list[float] = []
    settings = TrainingSettings(lr=1e-4)
    more = {"kd": KDSettings(), "epochs": epochs + 1, "seed": 0, "settings": settings}
    train(model, data, logits, **more, progress=lambda *_: marks.append(time.process_time()))
    return [(after - before) / n_batches for before, after in itertools.pairwise(marks)]


REFERENCES = (
    ({"kind": "family", "space": "hnag-small", "seed": 0, **SMALL}, 5),
    ({"kind": "zoo", "name": "resnet8x0.5", **SMALL}, 5),
)


def reference_seconds() -> float:
    return sum(min(step_seconds(item, n_batches, 2)) for item, n_batches in REFERENCES)


def measure(limit: int | None) -> None:
    torch.set_num_threads(1)
    known = {json.dumps([row["item"], row["round"]], sort_keys=True) for row in read()}
    for number in range(ROUNDS):
        chosen = list(items())
        order = np.random.default_rng(number).permutation(len(chosen))
        for index in order[:limit]:
            item = json.loads(json.dumps(chosen[index]))
            if json.dumps([item, number], sort_keys=True) in known:
                continue
            if item["kind"] == "family" and spec_of(item) is None:
                continue
            before = reference_seconds()
            small = item["size"] == SMALL["size"]
            n_batches = (4 if small else 2) if item["kind"] == "supernet" else 10 if small else 2
            seconds = step_seconds(item, n_batches)
            row = {"item": item, "round": number, "seconds": seconds, "reference": [before, reference_seconds()]}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            gc.collect()
            print(item, f"{1e3 * statistics.median(seconds):.2f} ms", file=sys.stderr, flush=True)


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


# --- fitting --------------------------------------------------------------------------------------------------------

COMMON = ("steps", "operations", "parameters", "images", "dense_macs", "pointwise_macs", "depthwise_macs")
FITTED = {
    "plan": (*COMMON, "norm_values", "relu_values", "merge_values", "average_values", "max_values"),
    "torch": (
        *(*COMMON, "grouped_macs", "dense_values", "norm_values", "relu_values", "pool_values", "other_values"),
        *("depthwise_operations", "pointwise_operations", "depthwise_values", "pointwise_values"),
    ),
    "supernet": ("operations", "grouped_macs", "values"),
}
"""Counts that have a coefficient, by execution."""
VALIDATION = {"plan": 0.2, "torch": 0.15}
"""An image in validation, as a share of one in training: medians of 24 students (0.10 to 0.44) and 11 networks (0.10 to
0.31) at 12 and 32 pixels."""
SHRINK = 0.5
"""Power of the reference by which times are scaled: it varies by as much itself."""


class Measured(NamedTuple):
    item: Item
    seconds: float
    work: dict[str, float]

    @property
    def group(self) -> str:
        item = self.item
        return f"{item.get('space', item['kind'])} {item['size']}x{item['size']}"

    @property
    def execution(self) -> str:
        return {"family": "plan", "supernet": "supernet"}.get(self.item["kind"], "torch")


def usual_reference(rows: Sequence[dict[str, Any]]) -> float:
    """Median seconds of the references."""
    return statistics.median(second for row in rows for second in row["reference"])


def measured(rows: Sequence[dict[str, Any]], usual: float) -> list[Measured]:
    """The networks of these rows, scaled to a machine on which the references take ``usual`` seconds."""
    found: dict[str, list[float]] = {}
    for row in rows:
        scale = (usual / statistics.mean(row["reference"])) ** SHRINK
        found.setdefault(json.dumps(row["item"]), []).append(scale * statistics.median(row["seconds"]))
    result = []
    for text, seconds in found.items():
        item = json.loads(text)
        shape, batch = (item["channels"], item["size"], item["size"]), item["batch"]
        spec = spec_of(item) if item["kind"] == "family" else None
        network = None if spec is not None else network_of(item)
        work = plan_work(spec, batch) if network is None else module_work(network, shape, batch)
        per_step = PASSES[item.get("options", {}).get("order", "first")]
        result.append(Measured(item, statistics.median(seconds) / per_step, work))
    return result


PASSES = {"first": 1.0, "second": (3 * WEIGHT_PASS + 2 * ALPHA_PASS) / (WEIGHT_PASS + ALPHA_PASS)}


def fitted(networks: Sequence[Measured], names: Sequence[str]) -> dict[str, float]:
    """Non-negative coefficients, by least squares of relative errors."""
    work = np.array([[each.work.get(name, 0.0) for name in names] for each in networks])
    relative = work / np.array([[each.seconds] for each in networks])
    scale = relative.max(axis=0) + 1e-300
    found, _ = nnls(relative / scale, np.ones(len(networks)), maxiter=10_000)
    return {name: float(f"{value:.4g}") for name, value in zip(names, found / scale, strict=True) if value > 0}


def error(network: Measured, coefficients: dict[str, float]) -> float:
    """Relative, of the model."""
    return sum(value * network.work.get(name, 0.0) for name, value in coefficients.items()) / network.seconds - 1


def fit() -> None:
    rows = read()
    networks = measured(rows, usual_reference(rows))
    rng = np.random.default_rng(0)
    seconds, held_out, kinds = {}, list[tuple[Measured, float]](), Counter[str]()
    for execution, names in FITTED.items():
        own = [network for network in networks if network.execution == execution]
        kinds[execution] = len(own)
        seconds[execution] = fitted(own, names)
        fold = rng.permutation(len(own)) % 3
        for part in range(3):
            of_others = fitted([each for each, f in zip(own, fold, strict=True) if f != part], names)
            held_out += [(each, error(each, of_others)) for each, f in zip(own, fold, strict=True) if f == part]
    groups: dict[str, list[float]] = {}
    for network, relative in held_out:
        for name in (network.group, f"all, {network.execution}"):
            groups.setdefault(name, []).append(abs(relative))
    print("| held out (three parts in turn) | n | median error | 90% are below |\n|---|---|---|---|")
    quality = {}
    for name, errors in sorted(groups.items()):
        quality[name] = [len(errors), round(float(np.median(errors)), 3), round(float(np.quantile(errors, 0.9)), 3)]
        print(f"| {name} | {len(errors)} | {np.median(errors):.0%} | {np.quantile(errors, 0.9):.0%} |")
    about = environment()
    content = {
        "machine": f"{about['processor']}, one thread, torch {about['torch']}",
        "networks": dict(kinds),
        "seconds": seconds,
        "validation": VALIDATION,
        "held_out": quality,
    }
    COEFFICIENTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "fit"))
    parser.add_argument("--limit", type=int, help="measure only so many networks")
    options = parser.parse_args()
    fit() if options.what == "fit" else measure(options.limit)
