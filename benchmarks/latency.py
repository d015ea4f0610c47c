"""What students take in ONNX Runtime, beside networks that an engineer would take instead; before and after folding.

    OMP_NUM_THREADS=1 python benchmarks/latency.py                  # ten minutes
    python benchmarks/latency.py --rounds 3 --cases demo
    python benchmarks/latency.py --only model                       # ten minutes

Three cases. ``demo``: the default student of cluttered-digits (24,000 parameters, 12x12), its teacher, and a resnet8 of
as many multiply-adds. ``large``: a student of 200 operations (setting L of students.py, 0.5M parameters, 32x32; and of
2M with channels in multiples of 16) and a resnet8 of as many multiply-adds. ``wide``: students of few operations with
channels in multiples of 16, 32x32: the default families of two spaces with so many parameters.

"torch" is the file that torch's exporter writes of the same module, "folded" is what `export` writes, "int8" the
same in 8 bits, "C" what `export --format c` writes, compiled by cc -O3 ("native": and -march=native). Weights are
random; they do not change the time. Every round measures all files, in an order of its
own, on one thread; told is the median of CPU seconds, which other work on the machine changes little.

``--only model``: how well `latency_model` predicts students that it was not fitted to, 15 of each space, of random
families and sizes, 3x32x32. Both are timed in the same rounds.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import torch
from students import generator_of
from torch import nn

from naslib_autokd.distillation import latency_model, runtime
from naslib_autokd.distillation.costs import count_macs, count_params
from naslib_autokd.distillation.runtime import OnnxSession, Runtime, onnx_file
from naslib_autokd.search_spaces.hnag import HNAGSpace, Student, Wiring, fit_width
from naslib_autokd.search_spaces.hnag.wiring import ParameterBudgetError
from naslib_autokd.shipping.c_file import CSession, c_file
from naslib_autokd.shipping.int8 import quantised
from naslib_autokd.teachers.names import parse_architecture
from naslib_autokd.teachers.networks import build_network
from naslib_autokd.teachers.zoo import resnet

BATCHES = (1, 64)
C_FLAGS = {"C": ("-O3",), "C, native": ("-O3", "-march=native")}


def resnet8_of(macs: int, shape: tuple[int, int, int]) -> nn.Module:
    """The resnet8 whose width brings it nearest to so many multiply-adds."""
    found = [resnet(8, width / 16, shape[0], 10) for width in range(2, 128)]
    return min(found, key=lambda network: abs(count_macs(network, shape) - macs)).eval()


def student_of(wiring: Wiring, max_params: int, shape: tuple[int, int, int], multiple: int = 1) -> Student:
    return Student(
        fit_width(wiring, max_params, in_channels=shape[0], image_size=shape[1], n_classes=10, width_multiple=multiple)
    ).eval()


def networks(case: str) -> tuple[tuple[int, int, int], dict[str, nn.Module]]:
    if case == "demo":
        shape, space = (1, 12, 12), HNAGSpace("hnag-small")
        student = student_of(space.default_candidate().sample_wiring(0), 24_000, shape)
        teacher, _ = build_network(parse_architecture("resnet-small"), shape[0], 10)
        return shape, {"student": student, "teacher": teacher.eval(), "resnet8": resnet8_of(student.spec.macs, shape)}
    shape, wiring = (3, 32, 32), generator_of("L").sample_wiring(0)
    if case == "wide":
        return shape, {
            f"{preset} of {max_params:,}": student_of(
                HNAGSpace(preset).default_candidate().sample_wiring(0), max_params, shape, 16
            )
            for preset, max_params in (("hnag-device", 52_900), ("hnag-device", 110_000), ("hnag-small", 78_000))
        }
    student = student_of(wiring, 500_000, shape)
    wide = student_of(wiring, 2_000_000, shape, 16)
    return shape, {
        "student": student,
        "resnet8": resnet8_of(student.spec.macs, shape),
        "student, multiples of 16": wide,
        "resnet8 of as many multiply-adds as that": resnet8_of(wide.spec.macs, shape),
    }


def written(network: nn.Module, shape: tuple[int, int, int], folded: bool) -> bytes:
    mean, std = (0.5,) * shape[0], (0.25,) * shape[0]
    if folded:
        return onnx_file(network, shape, mean, std)
    with patch.object(runtime, "Student", ()):  # nothing is one
        return onnx_file(network, shape, mean, std)


def in_8_bits(network: nn.Module, shape: tuple[int, int, int], content: bytes) -> bytes:
    """The file in 8 bits, with the scales of noise, which do not change the time."""
    if isinstance(network, Student):
        content = onnx_file(network, shape, (0.5,) * shape[0], (0.25,) * shape[0], fill=False)
    return quantised(content, np.random.default_rng(0).random((32, *shape), dtype=np.float32))


def in_c(student: Student, shape: tuple[int, int, int]) -> tuple[int, dict[str, CSession]]:
    """Bytes of the C file, and what the compiler makes of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.c"
        path.write_bytes(c_file(student, shape, (0.5,) * shape[0], (0.25,) * shape[0]))
        return path.stat().st_size, {name: CSession(path, flags) for name, flags in C_FLAGS.items()}


def nodes(content: bytes) -> Counter[str]:
    """What ONNX Runtime runs, after its own optimisation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        OnnxSession(content, save_optimized=str(path))
        return Counter(node.op_type for node in onnx.load(path).graph.node)


def measure(
    sessions: Mapping[str, runtime.Session], shape: tuple[int, int, int], batch: int, rounds: int
) -> dict[str, float]:
    """Median milliseconds of a call, over rounds in which each has its turn, in any order: who comes first after a file
    that needs much memory finds the caches full of that."""
    rng = np.random.default_rng(0)
    images = rng.random((batch, *shape), dtype=np.float32)
    repeats = max(4, 64 // batch)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for each in range(rounds + 1):
        for name in rng.permutation(list(sessions)):
            session = sessions[name]
            start = time.process_time()
            for _ in range(repeats):
                session(images)
            if each:
                times[name].append(1e3 * (time.process_time() - start) / repeats)
    return {name: statistics.median(found) for name, found in times.items()}


def unseen_students(n: int) -> dict[str, list[Student]]:
    """Random students of each space, of random sizes."""
    rng, found = np.random.default_rng(1), {preset: list[Student]() for preset in ("hnag-small", "hnag", "hnag-wide")}
    for preset, students in found.items():
        while len(students) < n:
            wiring = HNAGSpace(preset).sample(rng).sample_wiring(len(students))
            max_params, multiple = int(np.exp(rng.uniform(*np.log((20_000, 400_000))))), int(rng.choice([1, 1, 8, 16]))
            try:
                students.append(student_of(wiring, max_params, (3, 32, 32), multiple))
            except ParameterBudgetError:
                continue
    return found


def tell_of_the_model(n: int, rounds: int, batches: Sequence[int]) -> None:
    shape = (3, 32, 32)
    unseen = unseen_students(n)
    all_unseen = [student for students in unseen.values() for student in students]
    print("| batch | students | median error | 90th percentile | largest | median ratio | own estimate (90th) |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for batch in batches:
        at = Runtime(batch=batch)
        known = latency_model.calibration_students(shape, latency_model.N_GRAPHS)
        there = latency_model.measured_at(at)
        sessions = [latency_model.session_of(one, there) for one in known]
        sessions += [latency_model.session_of(one, at) for one in all_unseen]
        seconds = latency_model.least_seconds(sessions, shape, rounds)
        numbers = [latency_model.numbers(one, there.batch) for one in known]
        model = latency_model.fitted(at, numbers, seconds[: len(known)])
        ratios = np.array([model.predict(one) for one in all_unseen]) / seconds[len(known) :]
        parts = {preset: ratios[n * index : n * (index + 1)] for index, preset in enumerate(unseen)}
        for name, part in {**parts, "all": ratios}.items():
            errors = np.abs(part - 1)
            middle, ninth = np.quantile(errors, (0.5, 0.9))
            own = f"{model.error:.1%}" if name == "all" else ""
            cells = [str(batch), name, f"{middle:.1%}", f"{ninth:.1%}", f"{errors.max():.1%}"]
            print("|", " | ".join([*cells, f"{np.median(part):.2f}", own]), "|", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="demo,large,wide")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", choices=("model",))
    parser.add_argument("--students", type=int, default=15, help="unseen ones of each space")
    parser.add_argument("--batches", default="1,64")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.only == "model":
        tell_of_the_model(options.students, min(options.rounds, 10), [int(one) for one in options.batches.split(",")])
        return
    print("| case | network | parameters | MMACs | nodes | reorders | KB | batch 1, ms | batch 64, ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in options.cases.split(","):
        shape, found = networks(case)
        files: dict[str, bytes] = {}
        for name, network in found.items():
            if isinstance(network, Student):
                files[f"{name}, folded"] = written(network, shape, folded=True)
            files[f"{name}, torch" if isinstance(network, Student) else name] = written(network, shape, folded=False)
        for name in [name for name in files if not name.endswith(", torch")]:
            base = found[name.removesuffix(", folded")]
            files[f"{name}, int8"] = in_8_bits(base, shape, files[name])
        sessions: dict[str, runtime.Session] = {name: OnnxSession(content) for name, content in files.items()}
        sizes = {name: len(content) for name, content in files.items()}
        for base, network in found.items():
            if isinstance(network, Student):
                size, compiled = in_c(network, shape)
                for name, session in compiled.items():
                    sessions[f"{base}, {name}"], sizes[f"{base}, {name}"] = session, size
        times = [measure(sessions, shape, batch, options.rounds) for batch in BATCHES]
        for name in sessions:
            network = found[re.sub("(, (folded|torch|int8|C|native))*$", "", name)]
            kinds = nodes(files[name]) if name in files else Counter()
            reorders = sum(n for kind, n in kinds.items() if kind.startswith("Reorder"))
            cells = [case, name, f"{count_params(network):,}", f"{count_macs(network, shape) / 1e6:.2f}"]
            cells += [str(kinds.total() or ""), str(reorders) if kinds else "", f"{sizes[name] / 1024:.0f}"]
            print("|", " | ".join([*cells, *(f"{ms[name]:.3f}" for ms in times)]), "|", flush=True)


if __name__ == "__main__":
    main()
