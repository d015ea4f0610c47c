"""How fast students train: against the plain module, against what the processor can do, and wirings per second.

    OMP_NUM_THREADS=1 python benchmarks/students.py                               # everything on one thread (an hour)
    python benchmarks/students.py --settings S,M --limits 0.1 --pairs 3 --sections step
    python benchmarks/students.py --markdown docs/performance.md                  # the table of the stored results

Sections:

    step      time of a training step (forward, loss, backward, optimizer), optimised / plain, in interleaved pairs
    memory    peak bytes of live tensors during a step, optimised / plain
    roofline  what the library's convolutions alone take, stem and head, and unavoidable traffic, as shares of the
              plain step; and what all convolutions would take at the rate of a large dense one
    evaluate  time of a forward pass in evaluation mode, optimised / plain
    bfloat16  the step in bfloat16 (``TrainingSettings.precision``) against float32, plain in channels-last, and plain;
              and its memory
    shapes    the step at other batch sizes and image sizes, and the default student of cluttered-digits
    space     the step of students drawn from the presets, at several limits, batch and image sizes
    widths    the step of hardware-shaped students (``width_multiple=16``) against that of the unshaped ones
    wirings   wirings sampled, counted and width-solved per second

"Plain" is `plain.PlainStudent`, "optimised" is `Student` as the package trains it. All ratios compare the same function
with the same widths, batch and optimizer, in one process. Times are CPU time of the process, so other work on the
machine changes them only through shared caches and memory. docs/performance.md explains the columns. GPUs: `gpu.py`.

Writes ``results/students.json`` after every cell: a broken-off run loses one, a later run replaces what it measures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from plain import PlainStudent
from scipy import stats
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from naslib_autokd.distillation.costs import train_memory
from naslib_autokd.distillation.training import NesterovSGD, TrainingSettings, TrainingStep, without_bfloat16
from naslib_autokd.records import environment
from naslib_autokd.search_spaces.hnag import (
    ErdosRenyi,
    Generator,
    HNAGSpace,
    KDSettings,
    Screened,
    StudentSpec,
    WattsStrogatz,
    fit_width,
    screen,
)
from naslib_autokd.search_spaces.hnag.parameters import PUBLISHED_HEAD_RATIO
from naslib_autokd.search_spaces.hnag.student import EXECUTIONS, Student
from naslib_autokd.tasks import get_task

RESULTS = Path(__file__).parent / "results" / "students.json"
SECTIONS = ("step", "memory", "roofline", "evaluate", "bfloat16", "shapes", "space", "widths", "wirings")
BATCH, IMAGE, CLASSES = 64, 32, 10
HEAD = 1280
MIN_SECONDS = 0.05
"""Steps are repeated until a measurement takes this long: the clock of CPU time has a resolution, too."""


class Setting(NamedTuple):
    top: tuple[int, int, float]
    mid: tuple[int, float]
    bottom: tuple[int, int, float]
    widths: dict[float, int]
    """Channels of stage 0 by parameter limit in millions, by the rule of NAGO's authors."""


SETTINGS = {
    "S": Setting((3, 2, 0.5), (1, 0.5), (5, 4, 0.5), {0.1: 10, 0.5: 24, 4: 68}),
    "S10": Setting((3, 2, 0.5), (1, 0.5), (10, 4, 0.75), {0.1: 7, 0.5: 17, 4: 49}),
    "CH": Setting((10, 2, 0.2), (1, 0.5), (3, 2, 0.5), {0.1: 8, 0.5: 18, 4: 52}),
    "M": Setting((5, 2, 0.5), (3, 0.5), (5, 2, 0.5), {0.1: 5, 0.5: 12, 4: 35}),
    "MD": Setting((4, 3, 0.7), (10, 0.8), (3, 2, 0.5), {0.1: 4, 0.5: 9, 4: 26}),
    "L": Setting((8, 5, 0.3), (5, 0.5), (5, 4, 0.3), {0.1: 3, 0.5: 6, 4: 19}),
    "LW": Setting((6, 4, 0.5), (6, 0.4), (8, 4, 0.5), {0.1: 2, 0.5: 5, 4: 14}),
    "XL": Setting((10, 5, 0.9), (10, 0.2), (10, 5, 0.1), {0.1: 1, 0.5: 2, 4: 8}),
}
"""Graphs of the three levels (nodes, k, p); stages in equal shares, channels 1:2:4, 3x3 convolutions, weighted sums."""

STEP_GOALS = {
    **{(name, 0.1): 0.58 for name in SETTINGS},
    **{(name, 0.5): 0.62 for name in ("S10", "CH", "MD", "XL")},
    **{(name, 0.5): 0.68 for name in ("M", "L", "LW")},
    ("S", 0.5): 0.72,
    ("L", 4.0): 0.65,
    ("M", 4.0): 0.75,
    ("S", 4.0): 0.82,
}
EVERYWHERE_GOAL = 0.9
MEMORY_GOAL = 0.55
BFLOAT16_GOAL = 0.65
"""Of time and of memory, against float32."""
WIRINGS_GOAL = 1500.0
DRAWN_PRESETS, DRAWN = ("hnag", "hnag-wide", "hnag-small"), 4
"""Students of each preset and shape in the section on the space."""
WIDTH_LIMITS = (0.3, 0.5, 0.6, 1.0)
"""Of the section on hardware-shaped widths: what they bring depends on where the limit puts the free widths."""


# --- students and steps ---------------------------------------------------------------------------------------------


def generator_of(name: str, head_ratio: float = 0.0) -> Generator:
    setting = SETTINGS[name]
    return Generator(
        WattsStrogatz(*setting.top), ErdosRenyi(*setting.mid), WattsStrogatz(*setting.bottom), head_ratio=head_ratio
    )


def spec_of(name: str, limit: float, image: int = IMAGE) -> StudentSpec:
    width = SETTINGS[name].widths[limit]
    wiring = generator_of(name, HEAD / (4 * width)).sample_wiring(0)
    return StudentSpec(wiring, (width, 2 * width, 4 * width), 3, image, CLASSES)


def both(spec: StudentSpec, execution: str = "auto", device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    student = student_of(spec, execution)
    twin = PlainStudent(spec)
    twin.load_from(student)
    return twin.to(device), student.to(device)


def student_of(spec: StudentSpec, execution: str = "auto") -> Student:
    student = Student(spec, 0)
    student.execution = "auto" if execution == "library" else execution
    return student


@contextmanager
def kernels(execution: str) -> Iterator[None]:
    """Inside the block, "library" runs students without compiled kernels, as where there is no compiler."""
    with patch.dict(os.environ, {"NASLIB_AUTOKD_KERNELS": "0"} if execution == "library" else {}):
        yield


def training_step(
    model: nn.Module,
    spec: StudentSpec,
    batch: int,
    bfloat16: bool = False,
    channels_last: bool = False,
) -> Callable[[], None]:
    """A step as in a trial, with soft targets; the small learning rate keeps a long benchmark from diverging."""
    images, teacher, labels = examples(spec, batch)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    step = TrainingStep(
        model.train(), NesterovSGD(model.parameters(), TrainingSettings()), KDSettings(), None, bfloat16
    )
    arguments = (images, labels, teacher, 1e-3, labels, labels, 0.0)

    def work() -> None:
        step(*arguments)

    return work


def evaluation_pass(model: nn.Module, spec: StudentSpec, batch: int) -> Callable[[], None]:
    images = examples(spec, batch)[0]
    model.eval()

    @torch.no_grad()
    def forward() -> None:
        model(images)

    return forward


def examples(spec: StudentSpec, batch: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(batch, spec.in_channels, spec.image_size, spec.image_size, generator=rng)
    teacher = 3 * torch.randn(batch, spec.n_classes, generator=rng)
    labels = torch.randint(spec.n_classes, (batch,), generator=rng)
    return images.to(device), teacher.to(device), labels.to(device)


def flops_of(spec: StudentSpec, batch: int) -> float:
    """Floating-point operations of a step in convolutions: two per multiply-add, forward and both gradients (the
    images need none)."""
    stem = 9 * spec.in_channels * spec.channels[0] * spec.sizes[0] ** 2
    return 2.0 * batch * (3 * spec.macs - stem)


# --- measuring ------------------------------------------------------------------------------------------------------


def cpu_seconds(work: Callable[[], None], repeats: int = 1) -> float:
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


def repeats_for(work: Callable[[], None], seconds: Callable[..., float] = cpu_seconds) -> int:
    """How often one measurement repeats the work; also the warm-up."""
    work()
    return max(1, round(MIN_SECONDS / max(seconds(work), 1e-6)))


def pairs(
    plain: Callable[[], None],
    optimised: Callable[[], None],
    n: int,
    seconds: Callable[..., float] = cpu_seconds,
) -> dict[str, Any]:
    """Both measured ``n`` times, one after the other, the first in turn."""
    n_plain, n_optimised = repeats_for(plain, seconds), repeats_for(optimised, seconds)
    plain_s, optimised_s = list[float](), list[float]()
    for index in range(n):
        order = ((plain, n_plain, plain_s), (optimised, n_optimised, optimised_s))
        for work, repeats, times in order if index % 2 == 0 else order[::-1]:
            times.append(seconds(work, repeats))
    ratios = [b / a for a, b in zip(plain_s, optimised_s, strict=True)]
    low, high = median_interval(ratios)
    return {
        "plain_s": statistics.median(plain_s),
        "optimised_s": statistics.median(optimised_s),
        "ratio": statistics.median(ratios),
        "low": low,
        "high": high,
        "pairs": n,
        "ratios": ratios,
    }


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of the median by order statistics; the whole range where there are too few values for one."""
    interval = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    low, high = float(interval.low), float(interval.high)
    return (low if low == low else min(values)), (high if high == high else max(values))


class Convolution(NamedTuple):
    """A convolution as the module calls it: all that its time depends on."""

    images: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    needs_input_gradient: bool = True


class _Convolutions(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Convolution] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding, _, _, _, groups = args
            self.calls[
                Convolution(
                    tuple(x.shape), tuple(weight.shape), tuple(stride), tuple(padding), groups, bool(x.requires_grad)
                )
            ] += 1
        return func(*args, **(kwargs or {}))


def convolutions(spec: StudentSpec, batch: int) -> dict[str, Counter[Convolution]]:
    """The convolutions of a student with their number, of the body and of stem and head apart."""
    model = PlainStudent(spec)
    found: dict[str, Counter[Convolution]] = {"body": Counter(), "rest": Counter()}
    x = torch.zeros(batch, spec.in_channels, spec.image_size, spec.image_size)
    with torch.no_grad():
        for part, module in (("rest", model.stem), ("body", model.body), ("rest", model.head)):
            with _Convolutions() as recorder:
                x = module(x)
            for call, n in recorder.calls.items():
                found[part][call._replace(needs_input_gradient=module is not model.stem)] += n
    return found


def convolution_seconds(call: Convolution) -> dict[str, float]:
    """CPU seconds of forward and both gradients alone: contiguous, channels-last, and the best layout of each."""
    times: dict[str, list[float]] = {}
    for layout, memory_format in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        x = torch.randn(call.images).contiguous(memory_format=memory_format)
        weight = torch.randn(call.weight).contiguous(memory_format=memory_format)
        rest = (call.stride, call.padding, (1, 1), False, (0, 0), call.groups)
        y = torch.ops.aten.convolution(x, weight, None, *rest)
        gradient = torch.randn(y.shape).contiguous(memory_format=memory_format)

        def backward(
            mask: tuple[bool, ...],
            x: Tensor = x,
            weight: Tensor = weight,
            gradient: Tensor = gradient,
            rest: Any = rest,
        ) -> Callable[[], None]:
            return lambda: torch.ops.aten.convolution_backward(gradient, x, weight, None, *rest, mask)

        def forward(x: Tensor = x, weight: Tensor = weight, rest: Any = rest) -> None:
            torch.ops.aten.convolution(x, weight, None, *rest)

        works: list[Callable[[], None]] = [forward, backward((False, True, False))]
        if call.needs_input_gradient:
            works.append(backward((True, False, False)))
        times[layout] = []
        for work in works:
            repeats = repeats_for(work)
            times[layout].append(min(cpu_seconds(work, repeats) for _ in range(2)))
    best = [min(pair) for pair in zip(*times.values(), strict=True)]
    return {name: sum(values) for name, values in times.items()} | {"best": sum(best)}


def dense_gflops() -> float:
    """GFLOP/s of a large 3x3 convolution, forward and both gradients: what a step could at most reach."""
    call = Convolution((32, 128, 32, 32), (128, 128, 3, 3), (1, 1), (1, 1), 1)
    return 3 * 2 * 32 * 128 * 128 * 9 * 32 * 32 / convolution_seconds(call)["best"] / 1e9


def copy_rates() -> dict[str, float]:
    """Bytes read and written per second by a copy, within a cache (2 MiB) and in memory (256 MiB)."""
    rates = {}
    for name, size in (("cache", 2**20), ("memory", 2**27)):
        source = torch.zeros(size // 4)
        target = torch.zeros(size // 4)

        def work(target: Tensor = target, source: Tensor = source) -> None:
            target.copy_(source)

        repeats = repeats_for(work)
        rates[name] = 2 * size / min(cpu_seconds(work, repeats) for _ in range(5))
    return rates


def unavoidable_bytes(spec: StudentSpec, batch: int) -> float:
    """Bytes that an ideally fused exact step moves outside the convolutions (4 per number).

    Tensors of a value's size: 7 per batch norm (forward: statistics read the convolution's output, its reader's input
    is written; backward: output and gradient are read for the two sums, then both again, and the result is written)
    and 3 per input of a merge or mean (forward: read; backward: its reader's gradient and mask are read). A pooling
    between stages reads and writes 1.25 each way. The head's hidden layer counts nothing: it need not be stored.
    """
    student = Student(spec)
    plan = student.plan
    numbers: dict[int, float] = {0: float(spec.in_channels * spec.image_size**2)}  # of each value, per image
    sides: dict[int, int] = {0: spec.image_size}
    total = 0.0
    head = max((slot for slot, conv in enumerate(plan.convs) if conv.role == "head"), default=-1)
    in_head: set[int] = set()
    for step in plan.steps:
        source, side = step.sources[0], sides[step.sources[0]]
        size = numbers[source]
        if step.kind == "conv":
            side = (side - 1) // step.detail[0] + 1
            size = float(plan.convs[step.slot].shape[0] * side * side)
            if step.slot == head:
                in_head.add(step.target)
        elif step.kind in ("average", "max"):
            kernel, stride, padding = step.detail
            after = (side + 2 * padding - kernel) // stride + 1
            size, side = size / side**2 * after**2, after
            total += 2 * (numbers[source] + size)
        elif step.kind == "concat":
            size = sum(numbers[s] for s in step.sources)
        if source in in_head and step.kind in ("norm", "relu"):
            in_head.add(step.target)
        elif step.kind == "norm":
            total += 7 * size
        elif step.kind in ("sum", "attention", "mean", "concat"):
            total += 3 * sum(numbers[s] for s in step.sources)
        numbers[step.target], sides[step.target] = size, side
    return 4 * batch * total


# --- sections -------------------------------------------------------------------------------------------------------


def step(name: str, limit: float, options: argparse.Namespace) -> dict[str, Any]:
    spec = spec_of(name, limit)
    plain, student = both(spec, options.execution)
    row = pairs(training_step(plain, spec, BATCH), training_step(student, spec, BATCH), options.pairs)
    gflop = flops_of(spec, BATCH) / 1e9
    return row | {
        "width": spec.channels[0],
        "params": spec.n_params,
        "macs": spec.macs,
        "plain_gflops": gflop / row["plain_s"],
        "optimised_gflops": gflop / row["optimised_s"],
        "dense_gflops": options.dense_gflops,
        "goal": STEP_GOALS.get((name, limit), EVERYWHERE_GOAL),
    }


def memory(name: str, limit: float, options: argparse.Namespace) -> dict[str, Any]:
    spec = spec_of(name, limit)
    shape = (spec.in_channels, spec.image_size, spec.image_size)
    plain, optimised = (train_memory(model, shape, BATCH) for model in both(spec, options.execution))
    return {
        "plain_mib": plain / 2**20,
        "optimised_mib": optimised / 2**20,
        "ratio": optimised / plain,
        "goal": MEMORY_GOAL,
    }


def roofline(name: str, limit: float, options: argparse.Namespace) -> dict[str, Any]:
    """Convolutions of the body, of stem and head, and traffic, as shares of a plain step measured between them."""
    spec = spec_of(name, limit)
    work = training_step(both(spec)[0], spec, BATCH)
    work()
    plain_s = [cpu_seconds(work)]
    parts = {}
    for part, calls in convolutions(spec, BATCH).items():
        seconds = Counter[str]()
        for call, n in calls.items():
            for layout, value in convolution_seconds(call).items():
                seconds[layout] += n * value
        parts[part] = seconds
        plain_s.append(cpu_seconds(work))
    plain = statistics.median(plain_s)
    traffic = unavoidable_bytes(spec, BATCH)
    rates = copy_rates()
    seconds_of_traffic = statistics.mean(traffic / rate for rate in rates.values())
    shares = {f"convolutions_{layout}": value / plain for layout, value in parts["body"].items()}
    shares |= {"stem_and_head": parts["rest"]["best"] / plain, "traffic": seconds_of_traffic / plain}
    bound = shares["convolutions_best"] + shares["stem_and_head"] + shares["traffic"]
    shares["arithmetic"] = flops_of(spec, BATCH) / 1e9 / options.dense_gflops / plain
    return shares | {"bound": bound, "plain_s": plain, "traffic_bytes": traffic, "bytes_per_s": rates}


def evaluate(name: str, limit: float, options: argparse.Namespace) -> dict[str, Any]:
    spec = spec_of(name, limit)
    plain, student = both(spec, options.execution)
    return pairs(evaluation_pass(plain, spec, BATCH), evaluation_pass(student, spec, BATCH), options.pairs)


def half(name: str, limit: float, options: argparse.Namespace) -> dict[str, Any]:
    """Four steps in turn: plain, plain in channels-last, optimised, and optimised in bfloat16."""
    spec = spec_of(name, limit)
    plain, student = both(spec, options.execution)
    if reason := without_bfloat16(student, torch.device("cpu")):
        raise SystemExit(f"bfloat16 cannot be measured here: {reason}")
    last = PlainStudent(spec).to(memory_format=torch.channels_last)
    works = {
        "plain": training_step(plain, spec, BATCH),
        "channels_last": training_step(last, spec, BATCH, channels_last=True),
        "float32": training_step(student, spec, BATCH),
        "bfloat16": training_step(student_of(spec, options.execution), spec, BATCH, bfloat16=True),
    }
    repeats = {kind: repeats_for(work) for kind, work in works.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in works}
    for index in range(options.pairs):
        for kind in list(works)[:: 1 if index % 2 == 0 else -1]:
            seconds[kind].append(cpu_seconds(works[kind], repeats[kind]))

    def ratios(kind: str, to: str) -> list[float]:
        return [a / b for a, b in zip(seconds[kind], seconds[to], strict=True)]

    found = {f"{kind}_to_plain": statistics.median(ratios(kind, "plain")) for kind in works}
    against = ratios("bfloat16", "float32")
    low, high = median_interval(against)
    shape = (spec.in_channels, spec.image_size, spec.image_size)
    memory = [train_memory(student_of(spec), shape, BATCH, bfloat16=precision) for precision in (False, True)]
    found |= {"ratio": statistics.median(against), "low": low, "high": high, "ratios": against}
    found |= {"memory_ratio": memory[1] / memory[0], "memory_mib": memory[1] / 2**20, "goal": BFLOAT16_GOAL}
    return found | {f"{kind}_s": statistics.median(values) for kind, values in seconds.items()}


def shapes(name: str, limit: float, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    for image, batch in ((IMAGE, 16), (IMAGE, 32), (IMAGE, 128), (12, 32), (12, 64)):
        spec = spec_of(name, limit, image)
        plain, student = both(spec)
        row = pairs(training_step(plain, spec, batch), training_step(student, spec, batch), options.pairs)
        yield f"{name} {limit:g}M {image}x{image} batch {batch}", row | {"image": image, "batch": batch}


def default_student(options: argparse.Namespace) -> dict[str, Any]:
    """The default family of cluttered-digits, seed 0: against the plain module, and against its own readable steps."""
    task = get_task("cluttered-digits")
    spec = fit_width(
        HNAGSpace(task.preset).default_candidate().sample_wiring(0),
        task.max_params,
        in_channels=task.in_channels,
        image_size=task.image_size,
        n_classes=task.n_classes,
        min_channels=task.min_channels,
    )
    plain, student = both(spec)
    optimised = training_step(student, spec, task.batch_size)
    row = pairs(training_step(plain, spec, task.batch_size), optimised, options.pairs)
    row |= {"image": task.image_size, "batch": task.batch_size, "params": spec.n_params, "channels": spec.channels}
    readable = student_of(spec, "steps")
    against = pairs(training_step(readable, spec, task.batch_size), optimised, options.pairs)
    return row | {"steps_s": against["plain_s"], "ratio_to_steps": against["ratio"]}


def space(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Students drawn from the presets: other operations, merges, stages and shapes than those of `SETTINGS`."""
    shapes = itertools.product(DRAWN_PRESETS, (("0.03M", 32, 12), ("0.1M", 64, 16), ("0.5M", 64, 32)))
    for preset, (limit, batch, image) in shapes:
        values = {"in_channels": 3, "image_size": image, "n_classes": CLASSES}
        max_params = round(1e6 * float(limit.removesuffix("M")))
        drawn = itertools.islice(screen(HNAGSpace(preset), 100, 0, max_params=max_params, **values), DRAWN)
        for index, one in enumerate(drawn):
            spec = StudentSpec(one.sample_wiring(), one.channels, **values)
            plain, student = both(spec, options.execution)
            works = [training_step(model, spec, batch) for model in (plain, student)]
            row = pairs(works[0], works[1], min(options.pairs, 5)) | {"goal": EVERYWHERE_GOAL, "params": spec.n_params}
            row |= {"channels": spec.channels, "n_operations": spec.wiring.n_operations}
            yield f"{preset} {index}, {limit}, {image}x{image} batch {batch}", row


def widths(name: str, limit: float, options: argparse.Namespace) -> dict[str, Any]:
    """Two students within the same limit: widths of any number of channels, and hardware-shaped ones."""
    wiring = generator_of(name, PUBLISHED_HEAD_RATIO).sample_wiring(0)
    free, shaped = (
        fit_width(
            wiring, round(limit * 1e6), in_channels=3, image_size=IMAGE, n_classes=CLASSES, width_multiple=multiple
        )
        for multiple in (1, 16)
    )
    both_ways = {}
    for execution in ("auto", "library"):
        works = [training_step(student_of(spec), spec, BATCH) for spec in (free, shaped)]
        with kernels(execution):
            both_ways[execution] = pairs(works[0], works[1], options.pairs)
    return both_ways["auto"] | {
        "library": both_ways["library"],
        "channels": free.channels,
        "shaped_channels": shaped.channels,
        "params_ratio": shaped.n_params / free.n_params,
        "macs_ratio": shaped.macs / free.macs,
    }


def wirings(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Wirings per second of CPU time: drawn, counted and fitted by `screen`, and one by one with the wiring built."""
    values = {"max_params": 500_000, "in_channels": 3, "image_size": IMAGE, "n_classes": CLASSES}
    sources: dict[str, Any] = {name: [generator_of(name, PUBLISHED_HEAD_RATIO)] for name in options.settings}
    for name, source in (sources | {"uniform": HNAGSpace("hnag")}).items():
        some = list(screen(source, 100, **values))

        def screened(n: int, seed: int, source: Any = source) -> int:
            return sum(1 for _ in screen(source, n, seed, **values))

        def built(n: int, seed: int, some: list[Screened] = some) -> int:
            for index in range(n):
                spec = fit_width(some[index % len(some)].candidate.sample_wiring(seed * n + index), **values)
                assert spec.n_params + spec.macs + spec.depth
            return n

        row: dict[str, Any] = {}
        for kind, work in (("rate", screened), ("built_rate", built)):
            start = time.process_time()
            work(100, 0)
            n = max(100, min(2000, round(100 * 0.4 / (time.process_time() - start))))
            rates = []
            for seed in range(1, 6):
                start = time.process_time()
                work(n, seed)
                rates.append(n / (time.process_time() - start))
            row |= {kind: statistics.median(rates), f"{kind}s": rates}
        yield name, row | ({"goal": WIRINGS_GOAL} if name == "uniform" else {})


# --- results and command line ---------------------------------------------------------------------------------------


class Results:
    """The JSON file: sections of rows, each section with the machine it was measured on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sections: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def add(self, section: str, key: str, row: dict[str, Any]) -> None:
        part = self.sections.setdefault(section, {"rows": {}})
        part["environment"] = environment() | {
            "threads": torch.get_num_threads(),
            "load_average": list(os.getloadavg()),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }
        part["rows"][key] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.sections, indent=1) + "\n", encoding="utf-8")

    def rows(self, section: str) -> dict[str, Any]:
        rows: dict[str, Any] = self.sections.get(section, {}).get("rows", {})
        return rows


def estimate_s(cells: Iterable[tuple[str, float]], options: argparse.Namespace) -> float:
    """Roughly, from the dense convolution's rate: the plain step of few channels reaches a small part of it."""
    total = 0.0
    for name, limit in cells:
        spec = spec_of(name, limit)
        width = spec.channels[0]
        plain = flops_of(spec, BATCH) / 1e9 / (0.8 * options.dense_gflops * width / (width + 25))
        sections = options.sections
        total += 1.65 * plain * (options.pairs + 2) * ("step" in sections)
        total += 1.65 * plain * 4 * ("memory" in sections) + 6 * plain * ("roofline" in sections)
        total += 0.6 * plain * (options.pairs + 2) * ("evaluate" in sections)
        total += 2.5 * plain * (options.pairs + 2) * ("bfloat16" in sections)
        total += 6.5 * plain * (options.pairs + 2) * ("shapes" in sections and in_shapes(name, limit))
    total += 6 * (options.pairs + 2) * ("widths" in sections)
    total += 45 * (min(options.pairs, 5) + 2) * ("space" in sections)
    return total + 3 * len(options.settings) * ("wirings" in sections)


def in_shapes(name: str, limit: float) -> bool:
    return limit == 0.5 and name in ("S", "M", "L")


def measure(results: Results, options: argparse.Namespace) -> None:
    cells = [(name, limit) for limit in options.limits for name in options.settings]
    if any(section != "wirings" for section in options.sections):
        options.dense_gflops = dense_gflops()
        print(f"a dense convolution runs at {options.dense_gflops:.1f} GFLOP/s on {torch.get_num_threads()} thread(s)")
        print(f"this will take about {max(1, round(estimate_s(cells, options) / 60))} min of CPU time", flush=True)
    simple: dict[str, Callable[..., dict[str, Any]]] = {
        "step": step,
        "memory": memory,
        "roofline": roofline,
        "evaluate": evaluate,
        "bfloat16": half,
    }
    for section in options.sections:
        start = time.perf_counter()
        if section == "shapes":
            results.add("shapes", "default student of cluttered-digits", default_student(options))
            for name, limit in cells:
                if in_shapes(name, limit):
                    for key, row in shapes(name, limit, options):
                        results.add("shapes", key, row)
        elif section == "widths":
            for name in ("S10", "CH"):
                for limit in WIDTH_LIMITS:
                    results.add("widths", f"{name} {limit:g}M", widths(name, limit, options))
        elif section in ("space", "wirings"):
            for key, row in (space if section == "space" else wirings)(options):
                results.add(section, key, row)
        elif section in simple:
            for name, limit in cells:
                key = f"{name} {limit:g}M" + (f" {options.execution}" if options.execution != "auto" else "")
                results.add(section, key, simple[section](name, limit, options))
                print(f"  {section} {name} {limit:g}M done, {time.perf_counter() - start:.0f} s", flush=True)


Table = tuple[str, list[str], list[list[str]]]


def tables(results: Results) -> list[Table]:
    """Title, column names and cells of every section that has results."""
    found: list[Table] = []
    step_rows, memory_rows, roofline_rows = (results.rows(name) for name in ("step", "memory", "roofline"))
    keys = sorted(dict.fromkeys([*step_rows, *memory_rows, *roofline_rows]), key=_place)
    if keys:
        columns = ["student", "step / plain", "95% interval", "goal", "bound", "at the dense rate"]
        columns += ["memory / plain", "goal"]
        columns += ["GFLOP/s plain", "optimised", "dense", "plain ms", "optimised ms"]
        rows = []
        for key in keys:
            timed, peak, bound = (part.get(key, {}) for part in (step_rows, memory_rows, roofline_rows))
            rows.append(
                [
                    key,
                    _met(timed),
                    f"{timed['low']:.2f}-{timed['high']:.2f}" if timed else "-",
                    _number(timed, "goal"),
                    _number(bound, "bound"),
                    _number(bound, "arithmetic"),
                    _met(peak),
                    _number(peak, "goal"),
                    *[_number(timed, name, 1) for name in ("plain_gflops", "optimised_gflops", "dense_gflops")],
                    *[_number(timed, name, 0, 1000) for name in ("plain_s", "optimised_s")],
                ]
            )
        found.append(("A training step against the plain module (batch 64, 32x32)", columns, rows))
    if roofline_rows:
        names = ["convolutions_contiguous", "convolutions_channels_last", "convolutions_best", "stem_and_head"]
        names += ["traffic", "bound", "arithmetic"]
        columns = ["student", "convolutions contiguous", "channels-last", "best", "stem and head", "traffic", "bound"]
        columns.append("at the dense rate")
        rows = [[key, *[_number(roofline_rows[key], n) for n in names]] for key in sorted(roofline_rows, key=_place)]
        found.append(("Roofline, as shares of the plain step", columns, rows))
    for section, title in (
        ("evaluate", "A forward pass in evaluation mode (batch 64)"),
        ("shapes", "A training step at other shapes"),
        ("space", "A training step of students drawn from the presets (goal: 0.9)"),
    ):
        if rows_of := results.rows(section):
            columns = ["student", "time / plain", "95% interval", "plain ms", "optimised ms"]
            rows = [
                [
                    key,
                    _met(row),
                    f"{row['low']:.2f}-{row['high']:.2f}",
                    _number(row, "plain_s", 1, 1000),
                    _number(row, "optimised_s", 1, 1000)
                    + (f" ({row['ratio_to_steps']:.2f} of the readable steps)" if "ratio_to_steps" in row else ""),
                ]
                for key, row in sorted(rows_of.items(), key=lambda item: _place(item[0]))
            ]
            found.append((title, columns, rows))
    if rows_of := results.rows("bfloat16"):
        columns = ["student", "bfloat16 / float32", "95% interval", "its memory", "goal", "bfloat16 / plain"]
        columns += ["float32 / plain", "channels-last / plain", "float32 ms", "bfloat16 ms"]
        rows = [
            [
                key,
                _met(row),
                f"{row['low']:.2f}-{row['high']:.2f}",
                _met({"ratio": row["memory_ratio"], "goal": row["goal"]}),
                _number(row, "goal"),
                *[_number(row, f"{kind}_to_plain") for kind in ("bfloat16", "float32", "channels_last")],
                *[_number(row, f"{kind}_s", 0, 1000) for kind in ("float32", "bfloat16")],
            ]
            for key, row in sorted(rows_of.items(), key=lambda item: _place(item[0]))
        ]
        found.append(("A training step in bfloat16 (batch 64, 32x32)", columns, rows))
    if rows_of := results.rows("widths"):
        columns = ["student", "channels", "width_multiple=16", "time", "95% interval", "without compiled kernels"]
        columns += ["parameters", "multiply-adds"]
        rows = [
            [
                key,
                "-".join(map(str, row["channels"])),
                "-".join(map(str, row["shaped_channels"])),
                _number(row, "ratio"),
                f"{row['low']:.2f}-{row['high']:.2f}",
                _number(row["library"], "ratio"),
                _number(row, "params_ratio"),
                _number(row, "macs_ratio"),
            ]
            for key, row in rows_of.items()
        ]
        found.append(("Hardware-shaped students against those with free widths, same limit (ratios)", columns, rows))
    if rows_of := results.rows("wirings"):
        columns = ["family", "screened / s", "goal", "one by one, built / s"]
        rows = [
            [key, _number(r, "rate", 0), _number(r, "goal", 0), _number(r, "built_rate", 0)]
            for key, r in rows_of.items()
        ]
        found.append(("Wirings drawn, counted and width-solved on one core", columns, rows))
    return found


def _place(key: str) -> tuple[float, int]:
    """Order of the rows: by limit, then by setting, then as they were measured."""
    name, _, rest = key.partition(" ")
    limit = rest.partition("M")[0]
    known = name in SETTINGS
    return float(limit) if known and limit else -1.0, list(SETTINGS).index(name) if known else -1


def _number(row: dict[str, Any], name: str, digits: int = 2, factor: float = 1.0) -> str:
    return f"{factor * row[name]:.{digits}f}" if name in row else "-"


def _met(row: dict[str, Any]) -> str:
    """The ratio, marked where it misses its goal."""
    if not row:
        return "-"
    return f"{row['ratio']:.2f}" + (" (missed)" if "goal" in row and row["ratio"] > row["goal"] else "")


def show(found: list[Table]) -> str:
    lines = []
    for title, columns, rows in found:
        widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
        lines += ["", title]
        lines += ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in (columns, *rows)]
    return "\n".join(lines)


def markdown(found: list[Table]) -> str:
    lines = []
    for title, columns, rows in found:
        lines += ["", f"**{title}**", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines).strip()


START, END = "<!-- benchmarks/students.py --markdown: start -->", "<!-- benchmarks/students.py --markdown: end -->"


def write_markdown(path: Path, text: str) -> None:
    """Put the tables between the two marks of a page."""
    page = path.read_text(encoding="utf-8")
    before, found, rest = page.partition(START)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise SystemExit(f"{path} has no place for the tables: it needs the lines {START!r} and {END!r}")
    path.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default=",".join(SETTINGS), help="comma-separated (default: all eight)")
    parser.add_argument("--limits", default="0.1,0.5,4", help="parameter limits in millions (default: 0.1,0.5,4)")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of measurements per ratio (default: 10)")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="comma-separated (default: all)")
    parser.add_argument(
        "--execution",
        default="auto",
        choices=(*EXECUTIONS, "library"),
        help="of the optimised student; library: auto without compiled kernels",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help=f"results (default: {RESULTS.name})")
    parser.add_argument(
        "--markdown", type=Path, metavar="PAGE", help="measure nothing; put the stored tables into PAGE"
    )
    options = parser.parse_args(arguments)
    for name, known in (("settings", SETTINGS), ("sections", SECTIONS), ("limits", (0.1, 0.5, 4.0))):
        chosen = [float(v) if name == "limits" else v for v in getattr(options, name).split(",")]
        if unknown := [value for value in chosen if value not in known]:
            parser.error(f"unknown {name}: {', '.join(map(str, unknown))} (known: {', '.join(map(str, known))})")
        setattr(options, name, chosen)
    results = Results(options.json)
    if options.markdown:
        write_markdown(options.markdown, markdown(tables(results)))
        return 0
    torch.set_num_threads(options.threads)
    with kernels(options.execution):
        measure(results, options)
    print(show(tables(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
