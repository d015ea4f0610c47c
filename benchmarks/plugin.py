"""What the plugin costs per evaluated architecture, everything but training, beside NASLib's own NAS-Bench-201.

    NASLIB_HOME=/path/to/NASLib python benchmarks/plugin.py --epochs 500

Each optimizer runs with answers that take no time: on HNAG in `KDTrainer` through `KDDatasetAPI` with its record on
disk, and on NASLib's NAS-Bench-201 in NASLib's Trainer with a table of random accuracies in NASLib's format. CPU
milliseconds per epoch of the first and of the last fifth of the run, their ratio, and the memory that the run added
after its first fifth. NASLib's Trainer slows down by itself, as it writes all of errors.json after every epoch;
AutoKD's model learns from more and more trials.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import torch

from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.records import Proposal, Trial, environment
from naslib_autokd.tasks import get_task

load_naslib()

from fvcore.common.config import CfgNode  # noqa: E402
from naslib import optimizers  # noqa: E402
from naslib.defaults.trainer import Trainer  # noqa: E402
from naslib.search_spaces import NasBench201SearchSpace  # noqa: E402
from naslib.search_spaces.nasbench201.conversions import convert_op_indices_to_str  # noqa: E402

from naslib_autokd.plugin.evaluation import KDDatasetAPI  # noqa: E402
from naslib_autokd.plugin.hnag import HNAGSearchSpace  # noqa: E402
from naslib_autokd.plugin.optimizers import AskTellOptimizer, AutoKD  # noqa: E402
from naslib_autokd.plugin.trainer import KDTrainer  # noqa: E402


class ConstantTime:
    """An evaluator without training: the cost follows the candidate's digest."""

    task = get_task("cluttered-digits")

    def evaluate(self, proposal: Proposal) -> Trial:
        accuracy = int(proposal.candidate.digest[:6], 16) / 16**6
        return Trial.of(
            proposal,
            cost=1.0 - accuracy,
            val_accuracy=accuracy,
            train_accuracy=accuracy,
            student_epochs=float(proposal.budget_epochs),
            curve=(1.0,) * proposal.budget_epochs,
        )


def table() -> dict[str, Any]:
    """All of NAS-Bench-201 in NASLib's format, with random accuracies (constant along the 200 epochs)."""
    rng = np.random.default_rng(0)
    data = {}
    for indices in itertools.product(range(5), repeat=6):
        curve = [float(rng.uniform(10.0, 94.0))] * 200
        names = ("train_acc1es", "eval_acc1es", "train_losses", "eval_losses", "train_times", "eval_times")
        data[convert_op_indices_to_str(indices)] = {
            "cifar10-valid": {**dict.fromkeys(names, curve), "cost_info": {"train_time": 1.0}}
        }
    return {"nb201_data": data}


def config(folder: str, epochs: int, dataset: str) -> Any:
    search = {
        "epochs": epochs,
        "seed": 0,
        "checkpoint_freq": 10 * epochs,
        "fidelity": -1,
        "sample_size": 10,
        "population_size": 30,
        "num_init": 10,
    }
    for name in ("search", "eval"):
        Path(folder, name).mkdir(parents=True, exist_ok=True)
    content = {"save": folder, "dataset": dataset, "seed": 0, "search": search, "save_arch_weights": False}
    return CfgNode(content)


def run(
    make: Callable[[Any], Any], space: Any, api: Any, epochs: int, dataset: str, trainer_class: type = Trainer
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(api, type):
            api = api(ConstantTime(), out=Path(folder, "record"))
        settings = config(folder, epochs, dataset)
        optimizer = make(settings)
        optimizer.adapt_search_space(space, dataset_api=api)
        trainer = trainer_class(optimizer, settings, lightweight_output=True)
        process = psutil.Process()
        times, memory = [time.process_time()], [process.memory_info().rss]

        def after_epoch(_: int) -> None:
            times.append(time.process_time())
            memory.append(process.memory_info().rss)

        with contextlib.redirect_stdout(io.StringIO()):
            trainer.search(after_epoch=after_epoch)
    each = [1000 * (after - before) for before, after in itertools.pairwise(times)]
    fifth = max(1, epochs // 5)
    first, last = statistics.median(each[:fifth]), statistics.median(each[-fifth:])
    return {
        "first_ms": first,
        "last_ms": last,
        "last_to_first": last / first,
        "mean_ms": sum(each) / len(each),
        "memory_mb": (memory[-1] - memory[min(fifth, epochs)]) / 1e6,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    rows = {}
    discrete = {
        "RandomSearch": optimizers.RandomSearch,
        "RegularizedEvolution": optimizers.RegularizedEvolution,
        "LocalSearch": optimizers.LocalSearch,
    }
    ours = {"Hyperband": partial(AskTellOptimizer, optimizer="hyperband"), "AutoKD": AutoKD}
    task = "cluttered-digits"
    for name, make in {**discrete, **ours}.items():
        rows[f"{name} on HNAG"] = run(make, HNAGSearchSpace(), KDDatasetAPI, options.epochs, task, KDTrainer)
    evolution = discrete["RegularizedEvolution"]
    individual = HNAGSearchSpace(mode="individual")
    rows["RegularizedEvolution on single wirings"] = run(
        evolution, individual, KDDatasetAPI, options.epochs, task, KDTrainer
    )
    rows["RegularizedEvolution on HNAG, NASLib's Trainer"] = run(
        evolution, HNAGSearchSpace(), KDDatasetAPI, options.epochs, task
    )
    random_table = table()
    for light in (False, True):
        space = NasBench201SearchSpace()
        space.instantiate_model = not light
        label = "NAS-Bench-201 (indices only)" if light else "NAS-Bench-201 (NASLib's default)"
        for name, make in discrete.items():
            epochs = options.epochs if light else min(options.epochs, 30)  # its graphs take half a second each
            if name == "LocalSearch" and not light:
                continue  # 24 graphs a neighbourhood
            rows[f"{name} on {label}"] = run(make, space, random_table, epochs, "cifar10")
    print(f"CPU ms per epoch, {options.epochs} epochs, answers that take no time")
    print(f"{'':55} {'first fifth':>12} {'last fifth':>12} {'ratio':>7} {'added MB':>9}")
    for label, row in rows.items():
        print(
            f"{label:55} {row['first_ms']:12.2f} {row['last_ms']:12.2f} {row['last_to_first']:7.2f} "
            f"{row['memory_mb']:9.1f}"
        )
    if options.out is not None:
        content = {"epochs": options.epochs, "rows": rows, "environment": environment()}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
