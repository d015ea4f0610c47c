"""What a student would take in ONNX Runtime, from the shapes of its folded operations: no file, no session, no timing.

A model is a sum: each operation has a few numbers (multiply-adds, rows of pixels, values written, one for itself), each
number has a price in seconds, and the prices are fitted to graphs that were measured on this machine (non-negative
least squares of relative errors). Which numbers: what ONNX Runtime's kernels for x86 loop over. They compute blocks of
16 output channels (`BLOCK`), four of them at a time; additions and ReLUs after a convolution that has one reader are
fused into it; values of at most 8 channels stay in the plain layout, and each that a convolution reads is reordered.
Prices hold for all batches: they are fitted to batches of at most `LARGEST_BATCH`.

``benchmarks/latency.py --only model`` tells how well unseen students are predicted.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from naslib_autokd.distillation.runtime import OnnxSession, Runtime, clock_of, onnx_file, runtime_version
from naslib_autokd.files import cache_place, locked, write_whole
from naslib_autokd.records import content_digest, derive_seed, environment
from naslib_autokd.search_spaces.hnag.folding import Op, fold
from naslib_autokd.search_spaces.hnag.parameters import PRESETS, HNAGSpace
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec, resolve_stem

BLOCK, PLAIN = 16, 8
"""Channels that are computed together; up to how many are kept in the plain layout."""
CACHES = (2**18, 2**21)
"""Bytes: what is read after so many others were written comes from a farther cache. Without this, graphs of hundreds of
operations were predicted at two thirds of what they take from graphs of dozens."""
VERSION = 3
"""Of the numbers: a model that was kept with others is not used."""


class _Node(NamedTuple):
    """What ONNX Runtime has for an operation; a sum of n values is n - 1 nodes."""

    op: Op
    inputs: tuple[int, ...]


def _nodes(ops: Sequence[Op]) -> list[_Node]:
    """The nodes of filled operations, equal ones once, as ONNX Runtime's optimiser has them."""
    nodes: list[_Node] = []
    places: dict[tuple[Any, ...], int] = {}
    made: dict[Op, int] = {}
    for op in ops:
        inputs = [made[source] for source in op.inputs]
        parts: list[list[int]] = [inputs]
        if op.kind == "sum":
            made[op] = inputs[0]
            parts = [[other] for other in inputs[1:]]
        for rest in parts:
            part = (made[op], *rest) if op.kind == "sum" else tuple(rest)
            key = (op.kind, part, op.detail, op if op.weight is not None else None)
            if key not in places:
                nodes.append(_Node(op, part))
                places[key] = len(nodes) - 1
            made[op] = places[key]
    return nodes


def features(ops: Sequence[Op], image_size: int, batch: int) -> dict[str, float]:
    """The numbers of a student's filled operations (``fold(student, fill=True)``), summed over them by name."""
    nodes = _nodes(ops)
    found: Counter[str] = Counter(call=1)
    readers: list[list[Op]] = [[] for _ in nodes]
    for node in nodes:
        for source in node.inputs:
            readers[source].append(node.op)
    sizes: list[int] = []
    written: list[tuple[int, int]] = []
    traffic = n_weights = 0  # bytes that were written so far
    open_ends = set[int]()  # what an addition or a function may still be fused into: it has one reader

    for place, (op, inputs) in enumerate(nodes):
        for source in inputs:
            values, then = written[source]
            found.update({f"reads over {cache}": values for cache in CACHES if traffic - then > cache})
        size = sizes[inputs[0]] if inputs else image_size
        alone = len(readers[place]) == 1
        plain = bool(op.inputs) and op.inputs[0].channels <= PLAIN
        if op.kind == "conv":
            size = _conv(found, op, size, batch, plain)
            if alone:
                open_ends.add(place)
        elif op.kind in ("max", "average"):
            kernel, stride, padding = op.detail
            size = (size + 2 * padding - kernel) // stride + 1
        values = batch * size**2 * -(-op.channels // BLOCK) * BLOCK
        if op.kind in ("max", "average"):
            found.update({"pooled": values * op.detail[0] ** 2, "nodes": 1})
        elif op.kind == "sum":
            into = [one for one in inputs if one in open_ends and nodes[one].op.kind == "conv"]
            found.update({"fused sums": values} if into else {"sums": values, "nodes": 1})
            if into and alone:
                open_ends.add(place)
        elif op.kind in ("relu", "sigmoid"):
            if inputs[0] not in open_ends:
                found.update({f"{op.kind}s": values, "nodes": 1})
        elif op.kind == "product":
            found.update({"sums": values, "nodes": 1})
        elif op.kind == "mean":
            found["mean"] += batch * size**2 * op.channels
        elif op.kind == "linear":
            found["linear"] += batch * op.channels * op.inputs[0].channels
        plainly = [r for r in readers[place] if r.kind in ("max", "average") or (r.kind == "conv" and r.detail[2] == 1)]
        if op.channels <= PLAIN and op.kind not in ("images", "linear") and plainly:
            found.update({"reordered": batch * size**2 * op.channels, "nodes": 1})
        traffic += 4 * values
        sizes.append(size)
        written.append((values, traffic))
        n_weights += 0 if op.weight is None else op.weight.size
    found.update({f"weights over {cache}": n_weights for cache in CACHES if traffic > cache})
    return dict(found)


def _conv(found: Counter[str], op: Op, size: int, batch: int, plain: bool) -> int:
    """Add the numbers of a convolution; returns the height of its output."""
    assert op.weight is not None
    (height, width), n_in = op.weight.shape[2:], op.inputs[0].channels
    stride, (padding, _), groups = op.detail
    size = (size + 2 * padding - height) // stride + 1
    blocks = -(-op.channels // BLOCK)
    values, sets = batch * size**2 * blocks * BLOCK, -(-blocks // 4)
    rows = batch * size * height
    kernel = height * width
    found.update({"nodes": 1, "written": values})
    if groups > 1:
        kind = f"{'scale' if kernel == 1 else 'depthwise'}{' plain' if plain else ''}"
        found.update({kind: values * kernel, f"{kind} rows": rows * blocks})
    elif op.inputs[0].kind == "images":
        found.update({"stem": values * kernel * n_in, "stem rows": rows * n_in * sets})
    elif plain:
        found.update({"plain": values * kernel * n_in, "plain rows": rows * n_in * sets})
    else:
        found.update({"products": values * kernel * n_in, "reads": batch * size**2 * kernel * n_in * sets})
        found["rows" if kernel > 1 else "pointwise rows"] += rows * -(-n_in // BLOCK) * sets
    return size


@dataclass(frozen=True)
class LatencyModel:
    """Prices of `features`, of one runtime on one machine."""

    runtime: Runtime
    prices: Mapping[str, float]
    """Seconds."""
    error: float
    """Relative error that 9 of 10 graphs keep that the prices were not fitted to."""
    n_graphs: int
    """That they were fitted to."""

    def predict(self, student: Student) -> float:
        """Seconds of a call."""
        found = numbers(student, self.runtime.batch)
        return sum(self.prices.get(name, 0.0) * value for name, value in found.items())


def fitted(runtime: Runtime, found: Sequence[Mapping[str, float]], seconds: Sequence[float]) -> LatencyModel:
    """The model of measured graphs: their `features` and what they took.

    The error is that of ten-fold cross-validation.
    """
    names = sorted({name for one in found for name in one})
    table = np.array([[one.get(name, 0.0) for name in names] for one in found])
    times = np.array(seconds)
    scale = table.max(axis=0)

    def prices(rows: np.ndarray) -> np.ndarray:
        solution, _ = nnls(table[rows] / scale / times[rows, None], np.ones(len(rows)))
        return np.asarray(solution / scale)

    fold_of = np.arange(len(times)) % 10
    errors = np.empty(len(times))
    for part in range(10):
        out = fold_of == part
        errors[out] = np.abs(table[out] @ prices(np.flatnonzero(~out)) / times[out] - 1)
    final = prices(np.arange(len(times)))
    return LatencyModel(
        runtime,
        {name: float(price) for name, price in zip(names, final, strict=True) if price},
        float(np.quantile(errors, 0.9)),
        len(times),
    )


# --- calibration ----------------------------------------------------------------------------------------------------

N_GRAPHS, ROUNDS = 160, 5
"""Graphs that a model is fitted to, and how often each is timed, in turns; the least counts, for all else on a machine
adds to it."""
CALLS_S = 5e-3
"""Seconds of calls in each turn, at least one call."""
LARGEST_BATCH = 16
"""Images in a call of the graphs that are measured for a larger batch."""
SMALL = replace(PRESETS["hnag-wide"], top_nodes=(3, 6), mid_nodes=(1, 2), bottom_nodes=(1, 4), max_operations=16)
LARGE = replace(PRESETS["hnag-wide"], top_nodes=(4, 8), mid_nodes=(2, 8), bottom_nodes=(3, 8), max_operations=50)
"""All operations and merges; one graph in `EACH_LARGE` is large, with up to 400 operations."""
EACH_LARGE = 3
WIDEST = 96
"""Channels of the widest stage."""


def kept(image_shape: Sequence[int], runtime: Runtime) -> LatencyModel | None:
    """The model of this machine that is in the cache folder, for images ``(channels, size, size)``."""
    try:
        content = json.loads(_place(image_shape, runtime).read_text(encoding="utf-8"))
        prices = {str(name): float(price) for name, price in content["prices"].items()}
        return LatencyModel(runtime, prices, float(content["error"]), int(content["n_graphs"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _place(image_shape: Sequence[int], runtime: Runtime) -> Path:
    processor = environment()["processor"]
    key = content_digest([VERSION, N_GRAPHS, list(image_shape), asdict(runtime), runtime_version(), processor])
    return cache_place("latency") / f"{key}.json"


def calibrated(
    image_shape: Sequence[int], runtime: Runtime, report: Callable[[str], None] | None = None
) -> LatencyModel:
    """The model of this machine: measured once, then `kept`."""
    path = _place(image_shape, runtime)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if (model := kept(image_shape, runtime)) is not None:
            return model
        start = time.perf_counter()
        if report is not None:
            report(f"measuring {N_GRAPHS} small graphs in {runtime_version()} ({runtime}), once on this machine")
        model = calibrate(image_shape, runtime)
        write_whole(path, json.dumps({**asdict(model), "prices": dict(model.prices)}, indent=1).encode())
    if report is not None:
        report(
            f"latencies are now predicted to {model.error:.0%} (9 of 10 graphs; measured in "
            f"{time.perf_counter() - start:.0f} s); those near the limit are measured"
        )
    return model


def calibrate(image_shape: Sequence[int], runtime: Runtime, n_graphs: int = N_GRAPHS) -> LatencyModel:
    """Measure graphs and fit a model to them."""
    students = calibration_students(image_shape, n_graphs)
    at = measured_at(runtime)
    seconds = least_seconds([session_of(student, at) for student in students], image_shape)
    return fitted(runtime, [numbers(student, at.batch) for student in students], seconds)


def measured_at(runtime: Runtime) -> Runtime:
    return replace(runtime, batch=min(runtime.batch, LARGEST_BATCH))


def session_of(student: Student, runtime: Runtime) -> OnnxSession:
    n, size = student.spec.in_channels, student.spec.image_size
    return OnnxSession(onnx_file(student, (n, size, size), (0.5,) * n, (0.25,) * n), runtime)


def numbers(student: Student, batch: int) -> dict[str, float]:
    return features(fold(student, fill=True), student.spec.image_size, batch)


def least_seconds(sessions: Sequence[OnnxSession], image_shape: Sequence[int], rounds: int = ROUNDS) -> list[float]:
    """Least seconds of a call of each session over several rounds, in each of which all have their turn."""
    rng = np.random.default_rng(0)
    batches = {session.runtime.batch for session in sessions}
    images = {batch: rng.random((batch, *image_shape), dtype=np.float32) for batch in batches}
    clock = clock_of(sessions[0].runtime)
    least = [float("inf")] * len(sessions)
    for _ in range(rounds):
        for index, session in enumerate(sessions):
            batch = images[session.runtime.batch]
            session(batch)  # what it needs is in the caches again
            spent = 0.0
            while spent < CALLS_S:
                start = clock()
                session(batch)
                seconds = clock() - start
                spent += seconds
                least[index] = min(least[index], seconds)
    return least


def block_of(runtime: Runtime) -> int:
    """16 or 8, if channels up to the next multiple of it cost the same in this runtime, as exported; else 1.

    Students of 16, 20, 24 and 32 channels are timed in turns.
    """
    wiring = HNAGSpace("hnag-small").default_candidate().sample_wiring(0)
    specs = [StudentSpec(wiring, (n, n, n), 1, 16, 10) for n in (16, 20, 24, 32)]
    sessions = [session_of(Student(spec).eval(), runtime) for spec in specs]
    return _block(*least_seconds(sessions, (1, 16, 16), 2 * ROUNDS))


def _block(of_16: float, of_20: float, of_24: float, of_32: float) -> int:
    """The block of which these are the times, by number of channels."""

    def most(low: float, value: float, high: float) -> bool:
        return value - low > 0.75 * (high - low) > 0

    return 16 if most(of_16, of_24, of_32) else 8 if most(of_16, of_20, of_24) else 1


def calibration_students(image_shape: Sequence[int], n: int) -> list[Student]:
    """Students of random families and widths, the same ones every time."""
    rng = np.random.default_rng(derive_seed("latency model", VERSION))
    small, large = HNAGSpace(SMALL), HNAGSpace(LARGE)
    students = []
    for index in range(n):
        wiring = (small if index % EACH_LARGE else large).sample(rng).sample_wiring(index)
        widest = 2 ** rng.uniform(2, np.log2(WIDEST))
        channels = tuple(max(1, round(widest * 2 ** -rng.uniform(0, 2))) for _ in range(3))
        stem = resolve_stem("auto", image_shape[1])
        spec = StudentSpec(wiring, (channels[0], channels[1], channels[2]), image_shape[0], image_shape[1], 10, stem)
        students.append(Student(spec, seed=index).eval())
    return students
