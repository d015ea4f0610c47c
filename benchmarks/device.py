"""A search for the device: students at equal latency in ONNX Runtime, searched, hand-designed and pruned.

    OMP_NUM_THREADS=1 python benchmarks/device.py --seeds 10    # an hour on one core; continues, takes more seeds
    OMP_NUM_THREADS=1 python benchmarks/device.py --seeds 3 --presets hnag-device --long
    OMP_NUM_THREADS=1 python benchmarks/device.py --seeds 10 --presets hnag-device --limits 0.34 \\
        --teacher resnet20.safetensors --task benchmarks/results/cifar10/task.yaml --data-dir IMAGES
    python benchmarks/device.py --table                         # what is there

A task without a limit of parameters that matters: students may take ``--limits`` of their teacher's latency
at batch 1. Both are timed in turns, and the least of many calls counts, so that other work changes little.
For each limit and seed:

    hnag-device, hnag-small  AutoKD searches this space (12 trials), and a student of what it found is trained
    ..., default    a student of the space's default family
    rivals          `runners.rivals`: resnet8, resnet14, MobileNetV2, ShuffleNetV2, the pruned teacher (needs
                    torch-pruning), each in the width that keeps the limit
    narrow teacher  the pruned teacher's network with new weights: what its shape alone is worth

All learn from the same teacher, in the task's full budget; rivals at T = 4 and weight 0.9. ``--long``: the families of
the first space and the rivals also in as many epochs as fit into the modelled CPU seconds of the search and training of
this family. Channels are multiples of ``--multiple``. The folder of pictures and the teacher are those of
``benchmarks/cifar10.py``.

``results/device.jsonl`` has a line for each training, ``results/device.json`` the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from naslib_autokd.distillation import latency_model
from naslib_autokd.distillation.baselines import LossSettings
from naslib_autokd.distillation.latency_model import least_seconds
from naslib_autokd.distillation.runtime import Latency, OnnxSession, Runtime, onnx_file
from naslib_autokd.evaluators.student_limits import LimitError, StudentLimits
from naslib_autokd.records import derive_seed, environment
from naslib_autokd.runners import rivals
from naslib_autokd.runners.baselines import BaselineEvaluator
from naslib_autokd.runners.search import search
from naslib_autokd.runners.statistics import mean_interval, paired_difference
from naslib_autokd.search_spaces import get_search_space
from naslib_autokd.search_spaces.hnag import Candidate, Student
from naslib_autokd.tasks import get_task

RESULTS = Path(__file__).parent / "results"
NAMES = ("resnet8", "resnet14", "mobilenet_v2", "shufflenet_v2", rivals.PRUNED)
MAX_PARAMS = 200_000
N_TRIALS = 12
BATCHES = (1, 64)
SPACES = ("hnag-device", "hnag-small")
LONG, DEFAULT = ", long", ", default"
Key = tuple[str, float]
"""Task and limit."""


class OfTeachers(BaselineEvaluator):
    """Latencies are shares of the teacher's, which is timed in turns with the student."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._teachers = {batch: self._session(self.teacher.network, batch) for batch in BATCHES}
        self._known: dict[Any, float] = {}
        model = latency_model.calibrated(self.image_shape, Runtime(), print)
        seconds = least_seconds([self._teachers[1]], self.image_shape)[0]
        self._model = _Share(model, seconds, lambda spec: self.build_student(spec, 0).eval())

    def _session(self, network: nn.Module, batch: int) -> OnnxSession:
        n = self.task.in_channels
        return OnnxSession(onnx_file(network.eval(), self.image_shape, (0.5,) * n, (0.25,) * n), Runtime(batch=batch))

    def share(self, network: nn.Module, batch: int = 1) -> float:
        own, teachers = least_seconds([self._session(network, batch), self._teachers[batch]], self.image_shape)
        return own / teachers

    def _latency(self, student: nn.Module) -> Latency:
        spec = student.spec if isinstance(student, Student) else None
        if spec is None or spec not in self._known:
            self._known[spec] = self.share(student)
        return Latency(self._known[spec], "as a share of the teacher's, in ONNX Runtime at batch 1")

    def _predictor(self) -> Any:
        return self._model


class _Share:
    """A latency model in shares of the teacher's latency."""

    def __init__(self, model: Any, seconds: float, build: Callable[[Any], Any]) -> None:
        self._model, self._seconds, self._build, self.error = model, seconds, build, model.error

    def predict(self, spec: Any) -> float:
        return float(self._model.predict(self._build(spec)) / self._seconds)


def narrow(evaluator: OfTeachers, name: str) -> nn.Module:
    """The network of a pruned teacher with new weights."""
    network = rivals.network(evaluator, name)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()
    return network


def trainings(
    evaluator: OfTeachers, options: argparse.Namespace, seed: int, fits: dict[str, Any], done: set[str]
) -> Iterator[dict[str, Any]]:
    task, limit = evaluator.task, evaluator.limits.max_latency_s
    assert limit is not None
    key, fit = (task.name, limit), f"{task.name}, {limit}"
    if fit not in fits:
        print(f"rivals at {limit} of the teacher's latency", flush=True)
        fitted, left_out = rivals.fitted(evaluator, NAMES, lambda _: task.max_budget_epochs, print)
        fits[fit] = {"rivals": [one.name for one in fitted.values()], "left_out": left_out}
        print(fits[fit], flush=True)
    weights = derive_seed(seed, "baselines")  # as in compare-kd: all networks of a seed see the same batches

    def line(arm: str, make: Callable[[], nn.Module], kd: Any, epochs: int, **more: Any) -> dict[str, Any]:
        model, result = evaluator.train_final(make, kd, weights, epochs)
        result = evaluator.judge(model, result)
        shares = [evaluator.share(model, batch) for batch in BATCHES]
        row = {
            "task": task.name,
            "limit": limit,
            "seed": seed,
            "arm": arm,
            "test_accuracy": result.test_accuracy,
            "val_accuracy": result.val_accuracy,
            "n_params": result.n_params,
            "macs": result.macs,
            "epochs": epochs,
            "model_s": round(result.training_seconds or 0, 2),
            "seconds": round(result.seconds, 2),
            "share_of_teacher": [round(share, 3) for share in shares],
        }
        return row | more

    def of(candidate: Any) -> Callable[[], nn.Module]:
        spec = evaluator.student_spec(candidate, weights)
        return lambda: evaluator.build_student(spec, weights)

    for name in options.presets:
        space = get_search_space(name)
        if name not in done:
            result = search(task, "autokd", evaluator=evaluator, space=space, n_trials=N_TRIALS, seed=seed)
            refused = sum(trial.refused for trial in result.trials)
            about = {"search_s": round(result.training_seconds, 1), "refused": refused, "trials": len(result.trials)}
            found: Any = result.candidate
            about |= {"candidate": found.to_dict()}
            yield line(name, of(found), found.kd, task.max_budget_epochs, **about)
        if name + DEFAULT not in done:
            try:
                default = space.default_candidate()
                yield line(name + DEFAULT, of(default), default.kd, task.max_budget_epochs)
            except LimitError as error:
                fits[fit]["left_out"][name + DEFAULT] = str(error)

    first = options.presets[0]

    def long_epochs(made: nn.Module) -> int:
        return rivals.epochs_in(evaluator, time_of(key, seed, first))(made)

    if options.long and first + LONG not in done:
        found = Candidate.from_dict(row_of(key, seed, first)["candidate"])
        yield line(first + LONG, of(found), found.kd, long_epochs(of(found)()))
    made_by: dict[str, Callable[[], nn.Module]] = {}
    for name in fits[fit]["rivals"]:
        made_by[name] = partial(rivals.network, evaluator, name)
        if name.startswith(rivals.PRUNED):
            made_by["narrow teacher"] = partial(narrow, evaluator, name)
    for arm, make in made_by.items():
        if arm not in done:
            yield line(arm, make, LossSettings("kd"), task.max_budget_epochs)
        if options.long and arm + LONG not in done:
            yield line(arm + LONG, make, LossSettings("kd"), long_epochs(make()))


def rows() -> list[dict[str, Any]]:
    path = RESULTS / "device.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def row_of(key: Key, seed: int, space: str) -> dict[str, Any]:
    """Of the family that a search of this space found."""
    return next(row for row in rows() if (*key_of(row), row["seed"], row["arm"]) == (*key, seed, space))


def key_of(row: dict[str, Any]) -> Key:
    return row["task"], row["limit"]


def time_of(key: Key, seed: int, space: str) -> float:
    """Modelled CPU seconds of the search in this space and of the final training of what it found."""
    row = row_of(key, seed, space)
    return float(row["search_s"] + row["model_s"])


def table() -> list[dict[str, Any]]:
    """One entry for each task, limit and arm: means over the seeds, and the paired difference to the families' of the
    first of `SPACES` that is there.

    Of what was trained long to the family's student that was, where there is one.
    """
    groups: dict[tuple[Key, str], dict[int, dict[str, Any]]] = {}
    for row in rows():
        groups.setdefault((key_of(row), row["arm"]), {})[row["seed"]] = row
    found = []
    for (key, arm), own in groups.items():
        length = LONG if arm.endswith(LONG) else ""
        reference = next(name for name in SPACES if (key, name + length) in groups) + length
        family = groups[key, reference]
        seeds = sorted(set(own) & set(family))
        own_tests, family_tests = ([side[seed]["test_accuracy"] for seed in seeds] for side in (own, family))
        paired = paired_difference(own_tests, family_tests)
        mean = {
            name: float(np.mean([row[name] for row in own.values()]))
            for name in ("n_params", "macs", "epochs", "model_s", "seconds")
        }
        shares = np.mean([row["share_of_teacher"] for row in own.values()], axis=0)
        found.append(
            {
                "task": key[0],
                "limit": key[1],
                "arm": arm,
                "n": len(own),
                "test": _percent(mean_interval([row["test_accuracy"] for row in own.values()])),
                "minus_family": _percent(paired.difference) if arm != reference else None,
                "pairs": len(seeds),
                "p": paired.p_value if arm != reference else None,
                **{name: round(value, 2) for name, value in mean.items()},
                "share_of_teacher": [round(float(share), 3) for share in shares],
            }
        )
    return found


def _percent(interval: Any) -> list[float | None]:
    return [None if value is None else round(100 * value, 2) for value in (interval.mean, interval.low, interval.high)]


def show(entries: list[dict[str, Any]]) -> None:
    def ranged(values: list[float | None] | None, sign: str = "") -> str:
        if values is None:
            return ""
        mean, low, high = values
        return f"{mean:{sign}.1f}" + ("" if low is None else f" [{low:{sign}.1f}, {high:{sign}.1f}]")

    for task, limit in dict.fromkeys(map(key_of, entries)):
        print(f"\n{task}, at most {limit} of the teacher's latency at batch 1\n")
        print("| | test, % | minus the family's | seeds | parameters | MMACs | of the teacher's time | epochs | s |")
        print("|---|---|---|---|---|---|---|---|---|")
        for entry in sorted(entries, key=lambda entry: -entry["test"][0]):
            if key_of(entry) == (task, limit):
                shares = ", ".join(f"{share:.2f}" for share in entry["share_of_teacher"])
                print(
                    f"| {entry['arm']} | {ranged(entry['test'])} | {ranged(entry['minus_family'], '+')} | "
                    f"{entry['n']} | {entry['n_params']:,.0f} | {entry['macs'] / 1e6:.2f} | {shares} | "
                    f"{entry['epochs']:.0f} | {entry['model_s']:.1f} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="cluttered-digits", help="name or file (default: %(default)s)")
    parser.add_argument("--data-dir", help="folder of the pictures, if the task has one")
    parser.add_argument("--teacher", help="file of the teacher (default: the task's own)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: %(default)s)")
    parser.add_argument("--limits", default="0.95")
    parser.add_argument("--multiple", type=int, default=16)
    parser.add_argument("--presets", nargs="+", choices=SPACES, default=SPACES, help="spaces that are searched")
    parser.add_argument("--long", action="store_true", help="also at the time of the first space's search")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path, summary = RESULTS / "device.jsonl", RESULTS / "device.json"
    kept = json.loads(summary.read_text()) if summary.exists() else {"fits": {}}
    limits = [] if options.table else [float(text) for text in options.limits.split(",")]
    task = get_task(
        options.task,
        max_params=MAX_PARAMS,
        width_multiple=options.multiple,
        **({"data_dir": options.data_dir} if options.data_dir else {}),
    )
    evaluators = [OfTeachers(task, teacher=options.teacher, limits=StudentLimits(max_latency_s=one)) for one in limits]
    for seed in range(options.first, options.first + options.seeds):
        for evaluator, limit in zip(evaluators, limits, strict=True):
            key = (evaluator.task.name, limit)
            done = {row["arm"] for row in rows() if (*key_of(row), row["seed"]) == (*key, seed)}
            for row in trainings(evaluator, options, seed, kept["fits"], done):
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(*key, seed, row["arm"], f"{100 * row['test_accuracy']:.1f}", row["share_of_teacher"], flush=True)
            kept |= {"table": table(), "environment": environment()}
            summary.write_text(json.dumps(kept, indent=1) + "\n")
    show(table())


if __name__ == "__main__":
    main()
