"""The execution plan: a student's body as one autograd function that runs a flat program over one block of memory.

`student.Student` defines what is computed, step by step, and remains the reference; this module computes the same
function, gradients and running statistics with less time and memory:

* Only outputs of convolutions and poolings are kept for the backward pass. Merges, ReLUs and batch norms are recomputed
  there; a batch norm's output is never written at all, its readers apply scale and shift while they read.
* A merge of k inputs with their batch norms and the ReLU is one pass over memory. In the backward pass a value's
  gradient is gathered from all its readers in one pass that also finds the gradients of the merge weights and of the
  batch norm.
* All values live in one block whose layout is planned once per wiring: every value has its place from its first to its
  last use, over forward and backward pass together.
* The head's 1x1 convolution, batch norm, ReLU and pooling exist for a few channels at a time.

`Program` compiles a `student.Plan` into instructions. `kernels` runs them: C, compiled at first use with the system's
compiler (`execution.c`, where the memory layout is explained), one call for a whole pass.
"""

from __future__ import annotations

import bisect
import ctypes
import functools
import hashlib
import logging
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as module_hooks
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode

from naslib_autokd.search_spaces.hnag.student import (
    BATCH_NORM_EPS,
    BATCH_NORM_MOMENTUM,
    Plan,
    Step,
    Student,
    run_steps,
)

logger = logging.getLogger(__name__)

HEAD_PART = 24
"""Channels of the head that exist at a time."""

OPS = {
    name: number
    for number, name in enumerate(
        "end images conv statistics linear attention pool head mean gather relu_backward conv_weight conv_input "
        "attention_backward pool_backward head_backward mean_backward images_backward".split()
    )
}
"""Numbers of the instructions, as in execution.c."""


# --- the program ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Map:
    """A value's place in memory: ``channels`` maps of ``height`` x ``width``, perhaps part of another's channels."""

    channels: int
    height: int
    width: int
    whole: Map | None = None
    first_channel: int = 0
    start: int = -1
    """In places (one place holds one number of every image)."""
    end: int = -1
    """The last instruction that names it, counted over both passes."""

    @property
    def places(self) -> int:
        return self.height * self.width

    @property
    def stride(self) -> int:
        """Between channels; not a multiple of 16, because caches want addresses that differ in their low bits."""
        return self.places + (self.places % 16 == 0)

    @property
    def owner(self) -> Map:
        return self if self.whole is None else self.whole

    @property
    def address(self) -> int:
        return self.owner.start + self.first_channel * self.stride

    def like(self) -> Map:
        return Map(self.channels, self.height, self.width)


@dataclass(frozen=True)
class Scaled:
    """A stride in an instruction, in places."""

    value: int


@dataclass(eq=False)
class Node:
    """A value that is written to memory, and how."""

    kind: str
    step: Step | None
    shape: tuple[int, int, int]
    sources: list[Node] = field(default_factory=list)
    terms: list[tuple[Node, int, int]] = field(default_factory=list)
    """What a merge reads: (node, first channel of the batch norm on the way or -1, gate). A gate of 0 and above is the
    number of a merge weight; one below 0 stands for the constant weight 1 / -gate."""
    relu: bool = False
    part_of: tuple[Node, int] | None = None
    """Of a concatenation, and from which channel on."""
    parts: list[Node] = field(default_factory=list)
    map: Map | None = None
    gradient: Map | None = None
    side: Map | None = None
    """Gradient of an attention's first input."""
    readers: list[tuple[int, Node, int, bool]] = field(default_factory=list)
    """(first norm, linear reader, gate, is an attention's first input)."""


class Program:
    """The instructions of one plan for images of one size.

    Args:
        backward: With a backward pass, for which outputs of convolutions and poolings keep their places.
        image_gradient: Whether the backward pass goes down to the images.
    """

    def __init__(self, plan: Plan, height: int, width: int, *, backward: bool, image_gradient: bool = False) -> None:
        self._plan, self._instructions = plan, list[list[Any]]()
        self._nodes: dict[int, Node] = {}
        self._order: list[Node] = []
        self._maker = {step.target: step for step in plan.steps}
        self._readers: dict[int, list[Step]] = {}
        for step in plan.steps:
            for source in step.sources:
                self._readers.setdefault(source, []).append(step)
        self._norm_start = np.concatenate([[0], np.cumsum(plan.norm_channels, dtype=np.int64)]).tolist()
        self._image_gradient = image_gradient
        self._forward(height, width)
        self.smallest = min(_area(node) for node in self._order)
        """Places of the smallest map."""
        n_forward = len(self._instructions)
        if backward:
            self._backward()
        self.n_places = self._place()
        """Of the block: times the images (padded to whole vectors), the numbers that it holds."""
        self.forward = Code(self._instructions[:n_forward])
        self.backward = Code(self._instructions[n_forward:])
        del self._instructions, self._nodes, self._order, self._maker, self._readers

    # Forward. A batch norm is no node: who reads one takes the node below and the norm's scale and shift.

    def _forward(self, height: int, width: int) -> None:
        plan = self._plan
        self._alias = {0: 0}
        images = self._new("images", None, (plan.spec.in_channels, height, width))
        self._nodes[0] = images
        steps = plan.steps
        self._head: tuple[Step, int] | None = None
        if plan.convs[-1].role == "head":
            self._head = steps[-3], self._norm_start[steps[-2].slot]
            steps = steps[:-3]
        for step in steps:
            kind = step.kind
            if kind == "layout":
                self._nodes[step.target] = self._node(step.sources[0])
            elif kind == "norm":
                node = self._node(step.sources[0])
                self._emit("statistics", self._norm_start[step.slot], *self._slab(node.map), node.shape[0], _area(node))
            elif kind == "relu":
                (source,) = step.sources
                fused = self._fused(source)
                terms = self._terms(self._maker[source]) if fused else [(*self._term(source), -1)]
                self._nodes[step.target] = self._linear(terms, relu=True)
            elif kind in ("sum", "mean"):
                if not self._fused(step.target):
                    self._nodes[step.target] = self._linear(self._terms(step))
            elif kind == "attention":
                terms = [(*self._term(s), step.slot + i) for i, s in enumerate(step.sources)]
                self._nodes[step.target] = self._new("attention", step, terms[0][0].shape, terms=terms)
            elif kind == "concat":
                parts = [self._term(s) for s in step.sources]
                shape = (sum(node.shape[0] for node, _ in parts), *parts[0][0].shape[1:])
                whole = self._new("concat", step, shape)
                start = 0
                for node, norm in parts:
                    whole.parts.append(self._linear([(node, norm, -1)], part_of=(whole, start)))
                    start += node.shape[0]
                self._nodes[step.target] = whole
            else:
                self._nodes[step.target] = self._windowed(step, self._node(step.sources[0]))
        last = steps[-1].target
        self._last = self._node(last)
        self._end("")

    def _end(self, suffix: str) -> None:
        """The head, or the mean over the map; in the backward pass the gradient of the last map."""
        node = self._last
        target = node.map if not suffix else node.gradient
        assert target is not None
        if self._head is None:
            self._emit("mean" + suffix, *self._slab(target), target.channels, target.places)
            return
        step, norm = self._head
        hidden = self._plan.convs[step.slot].shape[0]
        part = min(HEAD_PART, hidden)
        work = Map(2 * part, target.height, target.width)
        shape = (Scaled(target.stride), target.channels, hidden, target.places, norm, part)
        self._emit("head" + suffix, step.slot, node.map, target, work, *shape)

    def _fused(self, value: int) -> bool:
        """Whether a merge is computed together with its only reader, a ReLU."""
        step = self._maker.get(value)
        readers = self._readers[value]
        return step is not None and step.kind in ("sum", "mean") and len(readers) == 1 and readers[0].kind == "relu"

    def _term(self, value: int) -> tuple[Node, int]:
        step = self._maker.get(value)
        if step is not None and step.kind == "norm":
            return self._node(step.sources[0]), self._norm_start[step.slot]
        return self._node(value), -1

    def _terms(self, step: Step) -> list[tuple[Node, int, int]]:
        gates = [step.slot + i if step.kind == "sum" else -len(step.sources) for i in range(len(step.sources))]
        return [(*self._term(s), gate) for s, gate in zip(step.sources, gates, strict=True)]

    def _node(self, value: int) -> Node:
        if value not in self._nodes:  # a batch norm whose output has to exist, for a convolution or a pooling
            self._nodes[value] = self._linear([(*self._term(value), -1)])
        return self._nodes[value]

    def _linear(
        self, terms: list[tuple[Node, int, int]], *, relu: bool = False, part_of: tuple[Node, int] | None = None
    ) -> Node:
        return self._new("linear", None, terms[0][0].shape, terms=terms, relu=relu, part_of=part_of)

    def _windowed(self, step: Step, source: Node) -> Node:
        channels, height, width = source.shape
        if step.kind == "conv":
            channels, _, *kernel = self._plan.convs[step.slot].shape
            stride, padding, _ = step.detail
        else:
            size, stride, pad = step.detail
            kernel, padding = [size, size], (pad, pad)
        height = (height + 2 * padding[0] - kernel[0]) // stride + 1
        width = (width + 2 * padding[1] - kernel[1]) // stride + 1
        return self._new(step.kind, step, (channels, height, width), sources=[source])

    def _new(self, kind: str, step: Step | None, shape: tuple[int, int, int], **rest: Any) -> Node:
        node = Node(kind, step, shape, **rest)
        for index, (source, norm, gate) in enumerate(node.terms):
            source.readers.append((norm, node, gate, kind == "attention" and index == 0))
        self._order.append(node)
        self._compute(node)
        return node

    def _compute(self, node: Node) -> None:
        """Emit the instruction that writes a node."""
        if node.part_of is not None:
            whole, start = node.part_of
            assert whole.map is not None
            node.map = Map(*node.shape, whole=whole.map, first_channel=start)
        else:
            node.map = Map(*node.shape)
        own, area = node.map, _area(node)
        if node.kind == "images":
            self._emit("images", *self._slab(own), *node.shape)
        elif node.kind == "conv":
            self._emit("conv", *self._conv(node, node.sources[0].map, own), 0)
        elif node.kind in ("average", "max"):
            x = node.sources[0].map
            self._emit("pool", *self._pool(node, x, own, own, x, 0))
        elif node.kind == "linear":
            self._emit("linear", *self._slab(own), node.shape[0], area, int(node.relu), *self._reads(node))
        elif node.kind == "attention":
            self._emit("attention", own, own, Scaled(own.stride), node.shape[0], area, *self._reads(node))

    def _reads(self, node: Node) -> list[Any]:
        reads: list[Any] = [len(node.terms)]
        for source, norm, gate in node.terms:
            reads += [*self._slab(source.map), norm, gate]
        return reads

    def _conv(self, node: Node, x: Map | None, y: Map | None) -> list[Any]:
        assert node.step is not None and x is not None and y is not None
        shape = self._plan.convs[node.step.slot].shape
        stride, _, groups = node.step.detail
        sizes = (x.channels, y.channels, x.height, x.width, y.height, y.width, *shape[2:])
        return [node.step.slot, x, y, Scaled(x.stride), Scaled(y.stride), *sizes, stride, int(groups > 1)]

    def _pool(self, node: Node, x: Map | None, y: Map | None, dy: Map | None, dx: Map | None, add: int) -> list[Any]:
        assert node.step is not None and dy is not None and dx is not None
        kernel, stride, padding = node.step.detail
        shape = (dx.channels, dx.height, dx.width, dy.height, dy.width, kernel, stride, padding)
        return [x, y, dy, dx, int(node.kind == "max"), add, *shape, Scaled(dx.stride), Scaled(dy.stride)]

    # Backward, in the reverse order of the nodes: when a node's turn comes, all its readers have had theirs.

    def _backward(self) -> None:
        for node in self._order:
            if node.kind not in ("conv", "average", "max"):
                node.map = None
        last = self._last
        self._ensure(last)
        assert last.map is not None
        last.gradient = last.map.like()
        self._end("_backward")
        for node in reversed(self._order):
            self._gather(node)
            if node.part_of is not None:
                whole, start = node.part_of
                assert whole.gradient is not None
                node.gradient = Map(*node.shape, whole=whole.gradient, first_channel=start)
            gradient = node.gradient
            if gradient is None:  # the images
                continue
            if node.kind == "linear" and node.relu:
                self._ensure(node)
                self._emit("relu_backward", node.map, *self._slab(gradient), node.shape[0], _area(node))
            elif node.kind == "images":
                self._emit("images_backward", *self._slab(gradient), *node.shape)
            elif node.kind == "attention":
                for source, _, _ in node.terms:
                    self._ensure(source)
                node.side = gradient.like()
                sizes = (Scaled(gradient.stride), node.shape[0], _area(node))
                self._emit("attention_backward", gradient, node.side, *sizes, *self._reads(node))
            elif node.sources:
                (source,) = node.sources
                if node.kind == "conv":
                    self._ensure(source)
                    self._emit("conv_weight", *self._conv(node, source.map, gradient), 0)
                    if source.kind != "images" or self._image_gradient:
                        target, add = self._target(source)
                        self._emit("conv_input", *self._conv(node, target, gradient), add)
                else:
                    target, add = self._target(source)
                    if node.kind == "max":
                        self._ensure(source)
                    x, y = (source.map, node.map) if node.kind == "max" else (target, gradient)
                    self._emit("pool_backward", *self._pool(node, x, y, gradient, target, add))

    def _target(self, node: Node) -> tuple[Map, int]:
        """Where a node's gradient is written or, if there is one already, added."""
        if node.gradient is not None:
            return node.gradient, 1
        node.gradient = Map(*node.shape)
        return node.gradient, 0

    def _gather(self, node: Node) -> None:
        """The gradient that linear readers give, for each batch norm between them and the node."""
        norms = sorted({norm for norm, *_ in node.readers})
        for norm in norms:
            readers = [(reader, gate, first) for n, reader, gate, first in node.readers if n == norm]
            gates = [-1 if first else gate for _, gate, first in readers]
            in_place = node.kind == "conv" and norms == [norm] and norm >= 0 and node.gradient is None
            if norm >= 0 or max(gates) >= 0:
                self._ensure(node)
            if in_place:
                node.gradient = node.map
            target, add = (node.map, 0) if in_place else self._target(node)
            assert target is not None
            x = node.map if norm >= 0 or max(gates) >= 0 else target
            reads: list[Any] = [len(readers)]
            for (reader, _, first), gate in zip(readers, gates, strict=True):
                reads += [*self._slab(reader.side if first else reader.gradient), gate]
            self._emit("gather", x, *self._slab(target), node.shape[0], _area(node), norm, add, *reads)

    def _ensure(self, node: Node) -> None:
        """Recompute a node that was not kept."""
        if node.map is not None:
            return
        for source in (*node.sources, *(source for source, _, _ in node.terms)):
            self._ensure(source)
        self._compute(node)
        for part in node.parts:
            part.map = None
            self._ensure(part)

    # Places in the block

    def _emit(self, name: str, *operands: Any) -> None:
        self._instructions.append([name, *operands])

    @staticmethod
    def _slab(map_: Map | None) -> tuple[Map, Scaled]:
        assert map_ is not None
        return map_, Scaled(map_.stride)

    def _place(self) -> int:
        """Give every map its place, from the first instruction that names it to the last: first fit."""
        first: dict[Map, int] = {}
        last: dict[Map, int] = {}
        for index, instruction in enumerate(self._instructions):
            for operand in instruction:
                if isinstance(operand, Map):
                    first.setdefault(operand.owner, index)
                    last[operand.owner] = index
        ends: dict[int, list[Map]] = {}
        for map_, index in last.items():
            ends.setdefault(index, []).append(map_)
        starts: dict[int, list[Map]] = {}
        for map_, index in first.items():
            starts.setdefault(index, []).append(map_)
        taken: list[tuple[int, int]] = []  # (start, end), sorted
        total = 0
        for index in range(len(self._instructions)):
            for map_ in starts.get(index, ()):
                size, at = map_.channels * map_.stride, 0
                for start, end in taken:
                    if start - at >= size:
                        break
                    at = end
                map_.start = at
                bisect.insort(taken, (at, at + size))
                total = max(total, at + size)
            for map_ in ends.get(index, ()):
                map_.end = index
                taken.remove((map_.start, map_.start + map_.channels * map_.stride))
        return total


def _area(node: Node) -> int:
    return node.shape[1] * node.shape[2]


class Code:
    """Instructions as numbers; addresses and strides are multiplied by the vectors per place when these are known."""

    def __init__(self, instructions: list[list[Any]]) -> None:
        self.instructions = instructions
        numbers: list[int] = []
        scaled: list[int] = []
        for name, *operands in instructions:
            numbers += [OPS[name], 2 + len(operands)]
            for operand in operands:
                if isinstance(operand, Map):
                    scaled.append(len(numbers))
                    numbers.append(operand.address)
                elif isinstance(operand, Scaled):
                    scaled.append(len(numbers))
                    numbers.append(operand.value)
                else:
                    numbers.append(operand)
        self._numbers = np.array([*numbers, OPS["end"], 2], dtype=np.int64)
        self._scaled = np.array(scaled, dtype=np.int64)
        self._finished: dict[int, np.ndarray] = {}

    def at(self, vectors: int) -> np.ndarray:
        if vectors not in self._finished:
            numbers = self._numbers.copy()
            numbers[self._scaled] *= vectors
            self._finished[vectors] = numbers
        return self._finished[vectors]


# --- compiled kernels -----------------------------------------------------------------------------------------------


class _Run(ctypes.Structure):
    """As in execution.c."""

    _fields_ = (
        *[
            (name, ctypes.c_void_p)
            for name in "arena images image_gradient image_strides weights weight_gradients norm_weight norm_bias gates "
            "running_mean running_var norm_weight_gradient norm_bias_gradient gate_gradients coefficients features".split()
        ],
        ("momentum", ctypes.c_double),
        ("eps", ctypes.c_double),
        *[(name, ctypes.c_int64) for name in "n_norm images_n nv batch_statistics update threads".split()],
    )


class Kernels:
    """The compiled kernels of one data type."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        loaded.lanes.restype = ctypes.c_int64
        loaded.run_program.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        loaded.run_program.restype = None
        self.lanes: int = loaded.lanes()
        """Images in one vector."""
        self._run_program = loaded.run_program

    def __call__(self, run: _Run, code: np.ndarray) -> None:
        self._run_program(ctypes.addressof(run), code.ctypes.data)


REALS = {torch.float32: "float", torch.float64: "double"}


def kernels(dtype: torch.dtype) -> Kernels | None:
    """The compiled kernels, or None: switched off (``NASLIB_AUTOKD_KERNELS=0``), no compiler, or another data type."""
    if dtype not in REALS or os.environ.get("NASLIB_AUTOKD_KERNELS") == "0":
        return None
    return _kernels(REALS[dtype])


@functools.cache
def _kernels(real: str) -> Kernels | None:
    try:
        return Kernels(compiled(real, cache_folder() / "kernels"))
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("students run on torch's operations: the kernels could not be compiled (%s)", error)
        return None


def cache_folder() -> Path:
    """As `distillation.teachers.cache_folder` (which is above this layer)."""
    if own := os.environ.get("NASLIB_AUTOKD_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "naslib_autokd"


def compiled(real: str, folder: Path) -> Path:
    """Path of the compiled library in ``folder``, which is filled at the first call; safe with many processes.

    Raises:
        OSError: If there is no compiler, or the folder cannot be written.
        subprocess.SubprocessError: If the compiler fails, or takes over two minutes.
    """
    source = Path(__file__).with_suffix(".c")
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler: neither cc, gcc nor clang")
    flags = ["-O3", "-march=native", "-shared", "-fPIC", f"-DREAL={real}"]
    key = hashlib.sha256(
        b"\0".join([source.read_bytes(), " ".join(flags).encode(), compiler.encode(), _processor().encode()])
    ).hexdigest()[:16]
    library = folder / f"execution-{key}.so"
    if library.is_file():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        made = Path(own) / library.name
        for openmp in (["-fopenmp"], []):  # without it on one thread
            command = [compiler, *flags, *openmp, str(source), "-lm", "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                break
        else:
            raise subprocess.SubprocessError(done.stderr[-500:])
        os.replace(made, library)
    return library


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = [line for line in lines if line.startswith(("model", "flags", "Features", "CPU"))]
    return platform.machine() + "".join(sorted(set(kept)))


# --- the same instructions on torch's operations --------------------------------------------------------------------


class Library:
    """Stands for torch's operations where the kernels are meant otherwise."""


class LibraryPass:
    """Runs a program without a compiler: channels-last tensors, each freed after its last use.

    Everything per channel is arithmetic on a view of rows: torch's batch norm is slow in channels-last with few
    channels, and rows of at least 16 numbers are vectorised.
    """

    def __init__(self, setting: _Setting, inputs: Sequence[Tensor], *, backward: bool) -> None:
        self.setting, self.images = setting, inputs[0].detach()
        height, width = self.images.shape[2:]
        wanted = inputs[0].requires_grad
        self.program = program_of(setting.plan, height, width, backward=backward, image_gradient=wanted)
        self.gates, self.norm_weight, self.norm_bias, *self.convs = [tensor.detach() for tensor in inputs[1:]]
        self.gate_values = self.gates.tolist()
        self.values: dict[Map, Tensor] = {}
        self.coefficients = self.images.new_empty(4, len(self.norm_weight))
        self.results: dict[str, Any] = {}
        self.update = False

    def forward(self, *, update: bool) -> Tensor:
        self.update = update
        self._run(self.program.forward.instructions, 0)
        features: Tensor = self.results.pop("features")
        return features

    def backward(self, gradient: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        self.wanted, self.gradient = wanted, gradient
        self.conv_gradients: list[Tensor | None] = [None] * len(self.convs)
        self.others = [torch.zeros_like(t) for t in (self.gates, self.norm_weight, self.norm_bias)]
        self._run(self.program.backward.instructions, len(self.program.forward.instructions))
        others = [tensor if want else None for tensor, want in zip(self.others, wanted[1:4], strict=True)]
        return [self.results.pop("images", None), *others, *self.conv_gradients]

    def _run(self, instructions: list[list[Any]], start: int) -> None:
        for index, (name, *operands) in enumerate(instructions, start):
            getattr(self, "_" + name)(*operands)
            for operand in operands:
                if isinstance(operand, Map) and operand.owner.end == index:
                    self.values.pop(operand.owner, None)

    # Tensors of maps

    def _get(self, map_: Map) -> Tensor:
        owner = self.values[map_.owner]
        return owner if map_.whole is None else owner.narrow(1, map_.first_channel, map_.channels)

    def _empty(self, map_: Map) -> Tensor:
        shape = (len(self.images), map_.channels, map_.height, map_.width)
        return torch.empty(shape, dtype=self.images.dtype, memory_format=torch.channels_last)

    def _put(self, map_: Map, value: Tensor, add: int = 0) -> None:
        if map_.whole is not None:
            if map_.whole not in self.values:
                self.values[map_.whole] = self._empty(map_.whole)
            self._get(map_).copy_(value)
        elif add:
            self.values[map_].add_(value)
        else:
            self.values[map_] = value

    def _repeats(self, tensor: Tensor) -> int:
        """Places in a row of the view; one row has all channels of each."""
        channels, places = tensor.shape[1], tensor.numel() // tensor.shape[1]
        return next(n for n in (16 // math.gcd(channels, 16), 8, 4, 2, 1) if places % n == 0)

    def _rows(self, tensor: Tensor) -> Tensor:
        rows = tensor.permute(0, 2, 3, 1).contiguous()
        return rows.view(-1, self._repeats(tensor) * tensor.shape[1])

    def _sum(self, rows: Tensor, channels: int) -> Tensor:
        return rows.sum(dim=0).view(-1, channels).sum(dim=0)

    def _norm(self, norm: int, channels: int) -> Tensor:
        """Mean, 1 / standard deviation, scale and shift of a batch norm, each (channels,)."""
        return self.coefficients[:, norm : norm + channels]

    def _gate(self, gate: int) -> float:
        return float(self.gate_values[gate]) if gate >= 0 else -1.0 / gate

    # Instructions, named as in `OPS`

    def _images(self, target: Map, *_: Any) -> None:
        self._put(target, self.images.contiguous(memory_format=torch.channels_last))

    def _images_backward(self, source: Map, *_: Any) -> None:
        self.results["images"] = self._get(source).clone(memory_format=torch.contiguous_format)

    def _conv_arguments(self, slot: int, kernel: tuple[int, int], stride: int, depthwise: int) -> tuple[Any, ...]:
        weight = self.convs[slot]
        padding = (kernel[0] // 2, kernel[1] // 2)
        return weight, None, (stride, stride), padding, (1, 1), False, (0, 0), len(weight) if depthwise else 1

    def _conv(self, slot: int, x: Map, y: Map, *shape: Any) -> None:
        *_, kh, kw, stride, depthwise, _add = shape
        arguments = self._conv_arguments(slot, (kh, kw), stride, depthwise)
        out = torch.ops.aten.convolution(self._get(x), *arguments)
        self._put(y, out.contiguous(memory_format=torch.channels_last))

    def _conv_weight(self, slot: int, x: Map, dy: Map, *shape: Any) -> None:
        *_, kh, kw, stride, depthwise, _add = shape
        if self.wanted[4 + slot]:
            arguments = self._conv_arguments(slot, (kh, kw), stride, depthwise)
            found = _convolution_backward(self._get(dy), self._get(x), *arguments, (False, True, False))
            self.conv_gradients[slot] = found[1].contiguous()

    def _conv_input(self, slot: int, dx: Map, dy: Map, *shape: Any) -> None:
        *_, kh, kw, stride, depthwise, add = shape
        arguments = self._conv_arguments(slot, (kh, kw), stride, depthwise)
        gradient = self._get(dy)
        like = gradient.new_empty(1).expand(len(gradient), dx.channels, dx.height, dx.width)
        found = _convolution_backward(gradient, like, *arguments, (True, False, False))
        self._put(dx, found[0].contiguous(memory_format=torch.channels_last), add)

    def _statistics(self, norm: int, x: Map, _: Scaled, channels: int, places: int) -> None:
        self._find_statistics(norm, self._get(x))

    def _find_statistics(self, norm: int, x: Tensor) -> None:
        channels = x.shape[1]
        here = slice(norm, norm + channels)
        running_mean, running_var = (tensor[here] for tensor in self.setting.running)
        if self.setting.training:
            rows, count = self._rows(x), x.numel() // channels
            mean = self._sum(rows, channels) / count
            centred = rows - mean.repeat(rows.shape[1] // channels)
            var = self._sum(centred.square_(), channels) / count
            if self.update:
                running_mean.lerp_(mean, BATCH_NORM_MOMENTUM)
                running_var.lerp_(var * (count / (count - 1)), BATCH_NORM_MOMENTUM)
        else:
            mean, var = running_mean, running_var
        inverse = torch.rsqrt(var + BATCH_NORM_EPS)
        scale = inverse * self.norm_weight[here]
        torch.stack([mean, inverse, scale, self.norm_bias[here] - scale * mean], out=self._norm(norm, channels))

    def _terms(self, terms: Sequence[Any]) -> list[tuple[Tensor, int, float]]:
        return [
            (self._get(terms[i]), terms[i + 2], self._gate(terms[i + 3])) for i in range(0, len(terms), 4)
        ]

    def _weighted(self, terms: list[tuple[Tensor, int, float]]) -> Tensor:
        """Sum of gate (scale x + shift)."""
        first = terms[0][0]
        channels, repeats = first.shape[1], self._repeats(first)
        total: Tensor | None = None
        shift = first.new_zeros(channels)
        for x, norm, gate in terms:
            if norm >= 0:
                scale, own = self._norm(norm, channels)[2:]
                shift.add_(own, alpha=gate)
        start = shift.repeat(repeats)
        for x, norm, gate in terms:
            rows = self._rows(x)
            factor = (
                (self._norm(norm, channels)[2] * gate).repeat(repeats) if norm >= 0 else first.new_full((1,), gate)
            )
            total = torch.addcmul(start, rows, factor) if total is None else total.addcmul_(rows, factor)
        assert total is not None
        shape = (len(first), first.shape[2], first.shape[3], channels)
        return total.view(shape).permute(0, 3, 1, 2)

    def _linear(self, y: Map, _: Scaled, channels: int, places: int, relu: int, n: int, *terms: Any) -> None:
        total = self._weighted(self._terms(terms))
        self._put(y, total.relu_() if relu else total)

    def _attention(self, y: Map, side: Map, _: Scaled, channels: int, places: int, n: int, *terms: Any) -> None:
        (x, norm, gate), *rest = self._terms(terms)
        self._put(y, self._weighted(rest).mul_(self._weighted([(x, norm, 1.0)]).sigmoid_().add_(gate)))

    def _attention_backward(
        self, gradient: Map, side: Map, _: Scaled, channels: int, places: int, n: int, *terms: Any
    ) -> None:
        (x, norm, gate), *rest = self._terms(terms)
        mask, d = self._weighted([(x, norm, 1.0)]).sigmoid_(), self._get(gradient)
        from_mask = self._weighted(rest).mul_(d)
        self.others[0][terms[3]] = from_mask.sum()
        self._put(side, from_mask.mul_(mask * (1 - mask)))
        self._put(gradient, d * mask.add_(gate))

    def _pool(self, x: Map, y: Map, dy: Map, dx: Map, maximum: int, add: int, *shape: Any) -> None:
        window = shape[5:8]
        self._put(y, (F.max_pool2d if maximum else F.avg_pool2d)(self._get(x), *window))

    def _pool_backward(self, x: Map, y: Map, dy: Map, dx: Map, maximum: int, add: int, *shape: Any) -> None:
        kernel, stride, padding = shape[5:8]
        gradient = self._get(dy)
        if maximum:
            source = self._get(x)
            window = ((kernel, kernel), (stride, stride), (padding, padding), (1, 1), False)
            indices = torch.ops.aten.max_pool2d_with_indices(source, *window)[1]
            found = torch.ops.aten.max_pool2d_with_indices_backward(gradient, source, *window, indices)
        else:
            like = self._empty(dx)
            window = ((kernel, kernel), (stride, stride), (padding, padding), False, True, None)
            found = torch.ops.aten.avg_pool2d_backward(gradient, like, *window)
        self._put(dx, found.contiguous(memory_format=torch.channels_last), add)

    def _gather(
        self, x: Map, out: Map, _: Scaled, channels: int, places: int, norm: int, add: int, n: int, *readers: Any
    ) -> None:
        gradients = [(self._rows(self._get(readers[i])), readers[i + 2]) for i in range(0, len(readers), 3)]
        total = None
        if norm < 0:
            for rows, gate in gradients:
                if gate >= 0:
                    self.others[0][gate] = (rows * self._rows(self._get(x))).sum()
                total = rows * self._gate(gate) if total is None else total.add_(rows, alpha=self._gate(gate))
        else:
            own = self._get(x)
            mean, inverse, scale, _shift = self._norm(norm, channels)
            repeats, count = self._repeats(own), own.numel() // channels
            centred = self._rows(own) - mean.repeat(repeats)
            sums, products = own.new_zeros(channels), own.new_zeros(channels)
            for rows, gate in gradients:
                one, two, weight = self._sum(rows, channels), self._sum(rows * centred, channels), self._gate(gate)
                sums.add_(one, alpha=weight)
                products.add_(two, alpha=weight)
                if gate >= 0:
                    bias = self.norm_bias[norm : norm + channels]
                    self.others[0][gate] = torch.dot(scale, two) + torch.dot(bias, one)
            self.others[1][norm : norm + channels] = products * inverse
            self.others[2][norm : norm + channels] = sums
            if self.setting.training:
                slope = (-scale * inverse.square() * products / count).repeat(repeats)
                total = centred.mul_(slope).add_((-scale * sums / count).repeat(repeats))
            else:
                total = centred.zero_()
            for rows, gate in gradients:
                total.addcmul_(rows, (scale * self._gate(gate)).repeat(repeats))
        assert total is not None
        shape = (len(self.images), out.height, out.width, channels)
        self._put(out, total.view(shape).permute(0, 3, 1, 2), add)

    def _relu_backward(self, z: Map, gradient: Map, *_: Any) -> None:
        self._put(gradient, torch.ops.aten.threshold_backward(self._get(gradient), self._get(z), 0))

    def _mean(self, z: Map, *_: Any) -> None:
        self.results["features"] = self._get(z).mean(dim=(2, 3))

    def _mean_backward(self, gradient: Map, *_: Any) -> None:
        spread = (self.gradient / gradient.places)[:, :, None, None].expand(-1, -1, gradient.height, gradient.width)
        self._put(gradient, spread.contiguous(memory_format=torch.channels_last))

    def _head_parts(self, slot: int, z: Map, norm: int) -> Iterator[tuple[slice, int, Tensor, Tensor]]:
        """Of some channels of the head at a time: which, their first norm, weight, convolution output."""
        weight, source = self.convs[slot], self._get(z)
        for first in range(0, len(weight), LIBRARY_HEAD_PART):
            here = slice(first, min(len(weight), first + LIBRARY_HEAD_PART))
            yield here, norm + first, weight[here], F.conv2d(source, weight[here])

    def _head(self, slot: int, z: Map, dz: Map, work: Map, _: Scaled, n_in: int, hidden: int, *rest: int) -> None:
        features = self.images.new_empty(len(self.images), hidden)
        for here, norm, _weight, h in self._head_parts(slot, z, rest[1]):
            self._find_statistics(norm, h)
            features[:, here] = self._weighted([(h, norm, 1.0)]).relu_().mean(dim=(2, 3))
        self.results["features"] = features

    def _head_backward(
        self, slot: int, z: Map, dz: Map, work: Map, _: Scaled, n_in: int, hidden: int, *rest: int
    ) -> None:
        source = self._get(z)
        gradient = self._empty(dz).zero_()
        found = self.convs[slot].new_empty(self.convs[slot].shape)
        for here, norm, weight, h in self._head_parts(slot, z, rest[1]):
            h = h.contiguous(memory_format=torch.channels_last)
            y = self._weighted([(h, norm, 1.0)])
            d = (self.gradient[:, here] / z.places)[:, :, None, None] * (y > 0)
            maps = [Map(h.shape[1], z.height, z.width) for _ in range(3)]
            for map_, value in zip(maps, (h, d.contiguous(memory_format=torch.channels_last)), strict=False):
                self.values[map_] = value
            self._gather(maps[0], maps[2], Scaled(0), h.shape[1], z.places, norm, 0, 1, maps[1], Scaled(0), -1)
            dh = self._get(maps[2])
            for map_ in maps:
                del self.values[map_]
            arguments = (weight, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1)
            one, two, _bias = _convolution_backward(dh, source, *arguments, (True, True, False))
            gradient.add_(one)
            found[here] = two
        self._put(dz, gradient)
        if self.wanted[4 + slot]:
            self.conv_gradients[slot] = found


LIBRARY_HEAD_PART = 128


def _convolution_backward(dy: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> Any:
    *arguments, mask = rest
    bias_sizes, *arguments = arguments
    return torch.ops.aten.convolution_backward(dy, x, weight, bias_sizes, *arguments, mask)


# --- choosing -------------------------------------------------------------------------------------------------------


MIN_BATCH_SHARE = 4
"""Fewer images than a vector holds are padded to a whole one; below this part of it the steps are faster."""


def chosen(student: Student, images: Tensor) -> Kernels | Library | None:
    """What runs the student's body; None: the readable steps.

    The steps run where single operations have to be seen (hooks on feature maps, dispatch and function modes, tracing,
    `torch.func`, forward-mode derivatives), where types differ (autocast, other devices), and where they raise the
    error that the inputs deserve.
    """
    tensors = (images, *student.parameters())
    if (
        images.dim() != 4
        or images.dtype not in REALS
        or any(
            tensor.dtype != images.dtype or tensor.device.type != "cpu" or type(tensor) not in (Tensor, nn.Parameter)
            for tensor in tensors
        )
        or _watched(student)
    ):
        return None
    engine = kernels(images.dtype)
    if engine is not None and student.execution == "auto" and len(images) * MIN_BATCH_SHARE < engine.lanes:
        return None
    smallest = program_of(student.plan, *images.shape[2:], backward=False).smallest * len(images)
    if images.shape[1] != student.spec.in_channels or smallest < (2 if student.training else 1):
        return None
    return engine or Library()


def _watched(student: Student) -> bool:
    """Whether somebody wants to see single operations."""
    mode = _get_current_dispatch_mode()
    function_mode = torch.overrides._get_current_function_mode()
    return (
        (mode is not None and not getattr(mode, "watches_storage_only", False))
        or (function_mode is not None and not isinstance(function_mode, DeviceContext))
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
        or any(_hooked(module) for module in student.stage_maps)
        or bool(module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks)
    )


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or type(module) is not nn.Identity


# --- running it -----------------------------------------------------------------------------------------------------


def body(
    plan: Plan,
    engine: Kernels | Library,
    images: Tensor,
    *,
    convs: Sequence[Tensor],
    norm_weight: Tensor,
    norm_bias: Tensor,
    running: tuple[Tensor, Tensor],
    gates: Tensor,
    training: bool,
) -> Tensor:
    """Pooled features (batch, features) of images, as `student.run_steps`; updates the running statistics."""
    inputs = (images, gates, norm_weight, norm_bias, *convs)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Body.apply(_Setting(plan, engine, running, training), *inputs)  # type: ignore[no-any-return]
    setting = _Setting(plan, engine, running, training)
    if training:
        return _start(setting, inputs, backward=False).forward(update=True)
    parts = images.split(EVALUATION_BATCH)  # fewer images at a time stay in cache
    return torch.cat([_start(setting, (part, *inputs[1:]), backward=False).forward(update=False) for part in parts])


EVALUATION_BATCH = 64


@dataclass(frozen=True, eq=False)
class _Setting:
    plan: Plan
    engine: Kernels | Library
    running: tuple[Tensor, Tensor]
    training: bool


class KernelPass:
    """One forward pass, and what its backward pass needs: the block of values and the batch norms' coefficients."""

    def __init__(self, engine: Kernels, setting: _Setting, inputs: Sequence[Tensor], *, backward: bool) -> None:
        self.engine, self.setting = engine, setting
        images = inputs[0]
        self.program = program_of(
            setting.plan, images.shape[2], images.shape[3], backward=backward, image_gradient=images.requires_grad
        )
        self.vectors = -(-len(images) // engine.lanes)
        size = self.program.n_places * self.vectors * engine.lanes
        self.block = setting.plan.programs.take(size, images.dtype)
        self.coefficients = torch.empty(4 * len(inputs[2]), dtype=images.dtype)
        self.inputs: Sequence[Tensor] = [tensor.detach().contiguous() for tensor in inputs[1:]]
        self.images = images.detach()

    def _run(self, features: Tensor, update: bool) -> tuple[_Run, list[Any]]:
        setting, images = self.setting, self.images
        gates, norm_weight, norm_bias, *convs = self.inputs
        weights = (ctypes.c_void_p * len(convs))(*[conv.data_ptr() for conv in convs])
        strides = (ctypes.c_int64 * 4)(*images.stride())
        run = _Run(
            arena=self.block.data_ptr(),
            images=images.data_ptr(),
            image_strides=ctypes.addressof(strides),
            weights=ctypes.addressof(weights),
            norm_weight=norm_weight.data_ptr(),
            norm_bias=norm_bias.data_ptr(),
            gates=gates.data_ptr(),
            running_mean=setting.running[0].data_ptr(),
            running_var=setting.running[1].data_ptr(),
            coefficients=self.coefficients.data_ptr(),
            features=features.data_ptr(),
            momentum=BATCH_NORM_MOMENTUM,
            eps=BATCH_NORM_EPS,
            n_norm=len(norm_weight),
            images_n=len(images),
            nv=self.vectors,
            batch_statistics=int(setting.training),
            update=int(update),
            threads=torch.get_num_threads(),
        )
        return run, [weights, strides]  # to be kept alive

    def forward(self, *, update: bool) -> Tensor:
        features = torch.empty(len(self.images), self.setting.plan.features, dtype=self.images.dtype)
        run, _kept = self._run(features, update)
        self.engine(run, self.program.forward.at(self.vectors))
        return features

    def backward(self, gradient: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        """Gradients of the images, the gates, the norms' weight and bias, and the convolutions; uses the block up."""
        images_wanted, gates_wanted, *norms_wanted = wanted[:4]
        gradient = gradient.contiguous()
        run, _kept = self._run(gradient, False)
        convs = [conv for conv, want in zip(self.inputs[3:], wanted[4:], strict=True) if want]
        flat = torch.empty(sum(conv.numel() for conv in convs), dtype=gradient.dtype)
        own = iter(torch._C._nn.unflatten_dense_tensors(flat, convs))
        conv_gradients = [next(own) if want else None for want in wanted[4:]]
        others = [
            torch.zeros_like(self.inputs[0]) if gates_wanted else None,
            *[torch.empty_like(self.inputs[1 + i]) if want else None for i, want in enumerate(norms_wanted)],
        ]
        table = (ctypes.c_void_p * len(conv_gradients))(*[None if g is None else g.data_ptr() for g in conv_gradients])
        run.weight_gradients = ctypes.addressof(table)
        names = ("gate_gradients", "norm_weight_gradient", "norm_bias_gradient")
        for name, tensor in zip(names, others, strict=True):
            setattr(run, name, None if tensor is None else tensor.data_ptr())
        images = None
        if images_wanted:
            images = torch.empty_strided(self.images.shape, self.images.stride(), dtype=gradient.dtype)
            run.image_gradient = images.data_ptr()
        self.engine(run, self.program.backward.at(self.vectors))
        self.setting.plan.programs.spare = [self.block]
        return [images, *others, *conv_gradients]


def _start(setting: _Setting, inputs: Sequence[Tensor], *, backward: bool) -> KernelPass | LibraryPass:
    if isinstance(setting.engine, Kernels):
        return KernelPass(setting.engine, setting, inputs, backward=backward)
    return LibraryPass(setting, inputs, backward=backward)


class _Body(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, setting: _Setting, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.setting, ctx.done = setting, _start(setting, inputs, backward=True)
        features: Tensor = ctx.done.forward(update=setting.training)
        return features

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        setting, inputs, wanted = ctx.setting, ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # of the gradient, too, one is wanted
            return (None, *_differentiable(setting, inputs, gradient, wanted))
        done, ctx.done = ctx.done, None
        if done is None:  # backward used the block up before (retain_graph)
            done = _start(setting, inputs, backward=True)
            done.forward(update=False)
        return (None, *done.backward(gradient, wanted))


def _differentiable(
    setting: _Setting, inputs: Sequence[Tensor], gradient: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The same gradients by the readable steps, with a graph of their own."""
    images, gates, norm_weight, norm_bias, *convs = inputs
    features = run_steps(
        setting.plan,
        images,
        convs=convs,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        running=(setting.running[0].clone(), setting.running[1].clone()),
        gates=gates,
        training=setting.training,
    )
    needed = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(features, needed, gradient, create_graph=True))
    return [next(found) if want else None for want in wanted]


def program_of(plan: Plan, height: int, width: int, *, backward: bool, image_gradient: bool = False) -> Program:
    """The program of a plan, compiled once per size of the images."""
    if plan.programs is None:
        plan.programs = Programs()
    compiled = plan.programs.compiled
    key = (height, width, backward, backward and image_gradient)
    if key not in compiled:
        compiled[key] = Program(plan, height, width, backward=backward, image_gradient=key[-1])
    return compiled[key]


class Programs:
    """What a plan was compiled to, and the block of its last training step; a copy of a student starts without.

    The block is kept from one training step for the next: as fresh memory, its pages would be mapped and cleared by the
    system in every step, which took a third of the forward pass. `student.Student.train` drops it for evaluation.
    """

    def __init__(self) -> None:
        self.compiled: dict[tuple[int, int, bool, bool], Program] = {}
        self.spare: list[Tensor] = []

    def take(self, size: int, dtype: torch.dtype) -> Tensor:
        try:
            block = self.spare.pop()
        except IndexError:
            block = torch.empty(0)
        if block.dtype == dtype and block.numel() >= size:
            return block
        del block  # before the new one
        return torch.empty(size, dtype=dtype)

    def __deepcopy__(self, memo: Any) -> Programs:
        return Programs()

    def __reduce__(self) -> Any:
        return Programs, ()
