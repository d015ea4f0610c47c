"""What a GPU makes of trainings: exactness, step, trial and trials per hour, in eight minutes.

    python benchmarks/gpu.py                                   # writes results/gpu.json, row by row
    python benchmarks/gpu.py --parts step parallel --mps       # some parts; several at once also under MPS
    python benchmarks/gpu.py --device cpu --quick --out FILE   # its control flow, where there is no GPU

    exactness   losses of a CUDA graph's steps against those of eager ones, beside what two eager runs differ by; the
                first loss on the CPU
    step        a training step: plain (`plain.PlainStudent`), eager, graph, and the last two in bfloat16
    trial       a trial by its parts, eager, graph, graph in bfloat16
    memory      a trial that finds too little memory on the GPU, and the next one, which finds enough
    parallel    trials per hour of 1, 4, 2 and 8 workers, as `search --workers` has them, S, M and L in turn; with
                ``--mps`` also under NVIDIA's MPS (a daemon of its own, ended afterwards)

Students S, M and L of `students.py` at 0.5M parameters, 32x32, batch 128. Steps and trials take turns, times are wall
time. A row is written when it is measured; the same command measures what is missing. Rows that would not be ready in
``--minutes`` are left for the next run. Targets: L's graph at most 0.2 of eager, validation at most 10% of its trial,
3 times the trials per hour of one at a time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from plain import PlainStudent
from students import HEAD, SETTINGS, examples, generator_of, spec_of, student_of
from torch import Tensor, nn
from trials import evaluator_32

from naslib_autokd.distillation.cuda_graphs import WARM_UP_STEPS, GraphedStep, Step
from naslib_autokd.distillation.training import (
    NesterovSGD,
    TrainingSettings,
    TrainingStep,
    channels_last,
    without_graph,
)
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.files import write_whole
from naslib_autokd.records import Proposal, Trial, environment
from naslib_autokd.runners.engine import DaskEngine
from naslib_autokd.search_spaces.hnag import Candidate, KDSettings

RESULTS = Path(__file__).parent / "results" / "gpu.json"
SIZES = ("L", "M", "S")
"""The one with the targets first."""
GRAPH_GOAL, VALIDATION_GOAL, PARALLEL_GOAL = 0.2, 0.1, 3.0
NOISE = 3.0
"""A graph's losses may differ from eager ones by so many times what those of two eager runs do, and by"""
ALLOWED = {"float32": 1e-4, "bfloat16": 1e-2}
"""of themselves."""
CPU_ALLOWED = 1e-2
"""The first loss on a GPU against the CPU's: TF32 has 11 bits."""


class Scale(NamedTuple):
    """How much is measured."""

    limit: float
    """Of the students, in million parameters."""
    batch: int
    steps: int
    """Of the comparison of losses."""
    rounds: int
    measure_s: float
    """Shortest measurement of steps."""
    images: int
    """Of the trials' task, two thirds of which are trained on."""
    epochs: int
    parallel_s: float
    """Of trials per hour, after the first of each worker."""


FULL = Scale(0.5, 128, 30, 7, 0.2, 16_000, 3, 25.0)
START_S = 60.0
"""Most that the workers take for their first trials."""
QUICK = Scale(0.1, 8, WARM_UP_STEPS + 2, 1, 0.0, 200, 1, 0.1)


class Mode(NamedTuple):
    graph: bool = False
    bfloat16: bool = False
    plain: bool = False

    def settings(self) -> TrainingSettings:
        return TrainingSettings(cuda_graph=self.graph, precision="bfloat16" if self.bfloat16 else "float32")


MODES = {
    "eager": Mode(),
    "graph": Mode(graph=True),
    "graph bfloat16": Mode(graph=True, bfloat16=True),
    "eager bfloat16": Mode(bfloat16=True),
    "plain": Mode(plain=True),
}

Row = dict[str, Any]


def capture_of(run: Step) -> Row:
    if isinstance(run, GraphedStep):
        return {"captured": run.captured, "reason": run.reason}
    return {"captured": False, "reason": "no CUDA device"}


class Bench:
    """The rows, each by its part and name, with the seconds that it takes at most."""

    def __init__(self, device: str, scale: Scale, quick: bool, mps: bool) -> None:
        self.device = torch.empty(0, device=device).device  # with its index
        self.scale, self.quick = scale, quick
        self.sizes = SIZES[-1:] if quick else SIZES
        self.rows: dict[tuple[str, str], tuple[float, Callable[[], Row]]] = {}
        workers = (1, 2) if quick else (1, 4, 2, 8)
        self._of_size(self.sizes[0])
        self._of_workers(workers[:2])
        self.rows["memory", self.sizes[-1]] = 20, partial(self.memory, self.sizes[-1])
        for size in self.sizes[1:]:
            self._of_size(size)
        self._of_workers(workers[2:])
        if mps:
            self._of_workers(workers[1:], mps=True)

    def _of_size(self, size: str) -> None:
        self.rows["step", size] = 25, partial(self.step, size)
        self.rows["exactness", size] = 40, partial(self.exactness, size)
        self.rows["trial", size] = 45, partial(self.trial, size)

    def _of_workers(self, workers: Sequence[int], mps: bool = False) -> None:
        for n in workers:
            name = f"{n} MPS" if mps else str(n)
            self.rows["parallel", name] = START_S + self.scale.parallel_s, partial(self.parallel, n, mps)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    # --- steps ------------------------------------------------------------------------------------------------------

    def run_of(self, size: str, mode: Mode) -> Step:
        """A step as in a training."""
        spec = spec_of(size, self.scale.limit)
        student = student_of(spec)
        model: nn.Module = student
        if mode.plain:
            model = plain = PlainStudent(spec)
            plain.load_from(student)
        model.to(self.device)
        if self.device.type != "cpu" and not mode.plain:
            channels_last(model)
        optimizer = NesterovSGD(model.parameters(), TrainingSettings())
        step = TrainingStep(model.train(), optimizer, KDSettings(), None, mode.bfloat16)
        return step if without_graph(self.device, mode.settings()) else step.graphed()

    def batches(self, size: str, n: int) -> list[tuple[Any, ...]]:
        """The first one, and others with its images in another order."""
        images, teacher, labels = examples(spec_of(size, self.scale.limit), self.scale.batch)
        found = []
        for shift in range(n):
            given: list[Tensor] = [torch.roll(tensor, shift, 0).to(self.device) for tensor in (images, labels, teacher)]
            found.append((*given, 1e-3, given[1], given[1], 0.0))
        return found

    def step(self, size: str) -> Row:
        (batch,) = self.batches(size, 1)
        runs = {name: self.run_of(size, mode) for name, mode in MODES.items()}
        repeats = {}
        for name, run in runs.items():
            for _ in range(WARM_UP_STEPS + 2):
                run(*batch)
            repeats[name] = max(1, round(self.scale.measure_s / self.seconds(run, batch, 1)))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(self.scale.rounds):
            for name, run in runs.items():
                seconds[name].append(self.seconds(run, batch, repeats[name]))
        row: Row = {"seconds": {name: statistics.median(own) for name, own in seconds.items()}, "to_eager": {}}
        for name, own in seconds.items():
            ratios = [a / b for a, b in zip(own, seconds["eager"], strict=True)]
            row["to_eager"][name] = [statistics.median(ratios), min(ratios), max(ratios)]
        return row | {"graphs": {name: capture_of(run) for name, run in runs.items() if MODES[name].graph}}

    def seconds(self, run: Step, batch: tuple[Any, ...], repeats: int) -> float:
        self.wait()
        started = time.perf_counter()
        for _ in range(repeats):
            run(*batch)
        self.wait()
        return (time.perf_counter() - started) / repeats

    def exactness(self, size: str) -> Row:
        batches = self.batches(size, self.scale.steps)
        row: Row = {}
        for precision in ALLOWED:
            half = precision == "bfloat16"
            eager, again = (self.losses(self.run_of(size, Mode(bfloat16=half)), batches) for _ in range(2))
            run = self.run_of(size, Mode(graph=True, bfloat16=half))
            graph = self.losses(run, batches)
            noise, difference = (float(((one - eager) / eager).abs().max()) for one in (again, graph))
            row[precision] = capture_of(run) | {"difference": difference, "noise": noise, "losses": graph.tolist()}
            agree = difference <= NOISE * noise + ALLOWED[precision]
            row[precision]["exact"] = row[precision]["captured"] and agree
            if not half:
                here = Bench("cpu", self.scale, self.quick, mps=False)
                on_cpu = here.losses(here.run_of(size, Mode()), here.batches(size, 1))
                row["cpu_difference"] = float((eager[0] / on_cpu[0] - 1).abs())
                row["as_on_cpu"] = row["cpu_difference"] <= CPU_ALLOWED
        return row

    def losses(self, run: Step, batches: list[tuple[Any, ...]]) -> Tensor:
        return torch.stack([run(*batch)[1] for batch in batches]).cpu()

    # --- trials -----------------------------------------------------------------------------------------------------

    def factory(self) -> partial[KDEvaluator]:
        """Of the evaluator of all trials."""
        epochs = {"min_budget_epochs": self.scale.epochs, "max_budget_epochs": 3 * self.scale.epochs}
        of_task = {"max_params": round(self.scale.limit * 1e6), "batch_size": self.scale.batch, **epochs}
        return partial(evaluator_32, self.scale.images, of_task)

    @cached_property
    def evaluator(self) -> KDEvaluator:
        return self.factory()(device=self.device)

    def proposal(self, size: str, seed: int = 0, epochs: int | None = None) -> Proposal:
        generator = generator_of(size, HEAD / (4 * SETTINGS[size].widths[self.scale.limit]))
        return Proposal(Candidate(generator), epochs or self.scale.epochs, seed, seed)

    def trial(self, size: str) -> Row:
        evaluator, row = self.evaluator, Row()
        for name in ("graph", "graph bfloat16", "eager"):
            evaluator.settings = MODES[name].settings()
            evaluator.evaluate(self.proposal(size, epochs=1))  # warms up
            trial = succeeded(evaluator.evaluate(self.proposal(size)))
            parts = {part: getattr(trial, part) for part in ("sample_s", "build_s", "train_s", "evaluate_s")}
            row[name] = parts | {"trial_s": trial.total_s, "validation": trial.evaluate_s / trial.total_s}
            row[name] |= {key: trial.info.get(key) for key in ("precision", "cuda_graph", "cuda_graph_reason")}
        return row

    def memory(self, size: str) -> Row:
        evaluator = self.evaluator
        evaluator.settings = TrainingSettings()
        with self.little_memory():
            without = evaluator.evaluate(self.proposal(size))
        after = evaluator.evaluate(self.proposal(size))
        told = without.status == "out_of_memory" and "--max-memory" in without.message
        return {"status": without.status, "message": without.message, "after": after.status, "told": told}

    @contextmanager
    def little_memory(self) -> Iterator[None]:
        """64 MiB more than what is in use; on a CPU a step that finds none."""
        if self.device.type == "cpu":
            with patch.object(TrainingStep, "__call__", side_effect=MemoryError("none left")):
                yield
            return
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved(self.device) + 2**26) / total, self.device
        )
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def parallel(self, n: int, under_mps: bool = False) -> Row:
        jobs = (self.proposal(size, seed) for seed, size in enumerate(itertools.cycle(self.sizes)))
        ended: list[float] = []
        seconds, began = self.scale.parallel_s, time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # the workers need it
        # threads in place of processes in a quick run
        where: dict[str, Any] = {"devices": (str(self.device),), "isolate": not self.quick}
        with mps() if under_mps else nullcontext(), DaskEngine(self.factory(), workers=n, **where) as engine:
            for job in itertools.islice(jobs, n):
                engine.submit(job)
            while len(ended) < n + 1 or ended[-1] - ended[n - 1] < seconds:
                if time.perf_counter() - began > START_S + seconds:
                    raise TimeoutError(f"{len(ended)} trials of {n} workers in {START_S + seconds:g} s")
                if (finished := engine.next_finished(1.0)) is not None:
                    succeeded(finished[1])
                    ended.append(time.perf_counter())
                    engine.submit(next(jobs))
            for _ in range(n * self.quick):  # threads cannot be ended
                engine.next_finished()
        measured = ended[-1] - ended[n - 1]  # the first of each worker loads and warms up
        return {"per_hour": 3600 * (len(ended) - n) / measured, "trials": len(ended) - n, "seconds": measured}


def succeeded(trial: Trial) -> Trial:
    if not trial.succeeded:
        raise RuntimeError(f"{trial.status}: {trial.message}")
    return trial


@contextmanager
def mps() -> Iterator[None]:
    """Processes that are started in the block share the GPU at the same time; no setting of the GPU is changed."""
    program = shutil.which("nvidia-cuda-mps-control")
    if program is None:
        raise RuntimeError("there is no nvidia-cuda-mps-control here")
    with tempfile.TemporaryDirectory() as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        with patch.dict(os.environ, places):
            subprocess.run([program, "-d"], check=True, timeout=30)
            try:
                yield
            finally:
                subprocess.run([program], input=b"quit\n", timeout=30, check=False)


# --- results ----------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    what: str
    value: float | bool | None
    """None where it was not measured."""
    goal: str
    met: bool


def targets(parts: dict[str, dict[str, Row]]) -> list[Target]:
    """What was measured beside what it should be."""

    def good(part: str) -> dict[str, Row]:
        return {name: row for name, row in parts.get(part, {}).items() if "error" not in row}

    found = []
    for size, row in good("exactness").items():
        for precision in ALLOWED:
            now = row[precision]
            found.append(Target(f"{size}, {precision}: losses", now["difference"], "as eager", now["exact"]))
        found.append(Target(f"{size}: first loss", row["cpu_difference"], "as on the CPU", row["as_on_cpu"]))
    for size, row in good("memory").items():
        told = bool(row["told"] and row["after"] == "success")
        found.append(Target(f"{size}: lack of memory", told, "told, and the next trial goes on", told))
    size, rates = SIZES[0], {name: row["per_hour"] for name, row in good("parallel").items()}
    step, trial = good("step").get(size), good("trial").get(size)
    ratio = None if step is None else step["to_eager"]["graph"][0]
    share = None if trial is None else trial["graph"]["validation"]
    one = rates.pop("1", None)
    gain = max(rates.values()) / one if one and rates else None
    met = [ratio is not None and ratio <= GRAPH_GOAL, share is not None and share <= VALIDATION_GOAL]
    met.append(gain is not None and gain >= PARALLEL_GOAL)
    found.append(Target(f"{size}: a step, graph / eager", ratio, f"<= {GRAPH_GOAL}", met[0]))
    found.append(Target(f"{size}: validation / trial", share, f"<= {VALIDATION_GOAL}", met[1]))
    found.append(Target("trials per hour, several / one at a time", gain, f">= {PARALLEL_GOAL:g}", met[2]))
    return found


class Results:
    """The file; of another machine, or other versions, it is begun anew."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.environment = path, environment() | hardware(device)
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        same = kept.get("environment") == self.environment
        self.parts: dict[str, dict[str, Row]] = kept["parts"] if same else {}

    def has(self, part: str, name: str) -> bool:
        return "error" not in self.parts.get(part, {}).get(name, {"error": ""})

    def add(self, part: str, name: str, row: Row) -> None:
        self.parts.setdefault(part, {})[name] = row
        found = [target._asdict() for target in targets(self.parts)]
        content = {"environment": self.environment, "targets": found, "parts": self.parts}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, (json.dumps(content, indent=1) + "\n").encode())


def hardware(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {"device": str(device)}
    about = torch.cuda.get_device_properties(device)
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return {"device": f"{about.name}, {about.total_memory / 2**30:.0f} GiB", "libraries": versions}


PARTS = ("exactness", "step", "trial", "memory", "parallel")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--minutes", type=float, default=8.0, help="start nothing that would take longer (default: 8)")
    parser.add_argument("--mps", action="store_true", help="several workers also under NVIDIA's MPS")
    parser.add_argument("--quick", action="store_true", help="hardly anything, to see that all of it runs")
    parser.add_argument("--again", action="store_true", help="measure also what the file has")
    parser.add_argument("--out", type=Path, help=f"default, for GPUs: {RESULTS}")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; --device cpu --quick --out FILE runs all of it")
    if options.out is None and (options.quick or not options.device.startswith("cuda")):
        parser.error("give --out: only whole runs on a GPU go into the results")
    bench = Bench(options.device, QUICK if options.quick else FULL, options.quick, options.mps)
    results, left = Results(options.out or RESULTS, bench.device), 0
    for (part, name), (most_s, measure) in bench.rows.items():
        if part not in options.parts or (results.has(part, name) and not options.again):
            continue
        if time.monotonic() + most_s > deadline:
            left += 1
            continue
        started = time.perf_counter()
        try:
            row = measure()
        except Exception as error:  # the others are measured all the same
            row = {"error": f"{type(error).__name__}: {error}"}
        results.add(part, name, row)
        print(f"{part} {name}, {time.perf_counter() - started:.0f} s: {json.dumps(row)[:400]}", flush=True)
    for target in targets(results.parts):
        value = "not measured" if target.value is None else f"{target.value:.3g}, {'met' if target.met else 'MISSED'}"
        print(f"{target.what} ({target.goal}): {value}")
    if left:
        print(f"{left} rows are left for want of time; the same command measures them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
