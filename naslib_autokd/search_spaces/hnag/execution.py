"""The execution plan: a student's body as one autograd function that runs a flat program over one block of memory.

`steps.run_steps` defines what is computed, step by step, and remains the reference; this module computes the same
function, gradients and running statistics with less time and memory:

* Only outputs of convolutions and poolings are kept for the backward pass. Merges, ReLUs and batch norms are recomputed
  there; a batch norm's output is never written at all, its readers apply scale and shift while they read.
* A merge of k inputs with their batch norms and the ReLU is one pass over memory. In the backward pass a value's
  gradient is gathered from all its readers in one pass that also finds the gradients of the merge weights and of the
  batch norm.
* All values live in one block whose layout is planned once per wiring: every value has its place from its first to its
  last use, over forward and backward pass together.
* The head's 1x1 convolution, batch norm, ReLU and pooling exist for a few channels at a time.

`Program` compiles a `steps.Plan` into instructions. `Kernels` run them: C, compiled at first use with the system's
compiler (`execution.c`, where the memory layout is explained), one call for a whole pass. Without a compiler, and where
single operations have to be seen, the steps run.

Measured (training step, one thread of a 4th-generation EPYC with AVX-512, batch 64, 32x32, against one module per node
and edge): 0.1 to 0.3 of the time at 0.1M parameters, 0.15 to 0.5 at 0.5M, with 0.32 to 0.36 of the memory.

* Images innermost, instead of channels: convolutions of 5 channels and more reach 95 to 125 GFLOP/s, where the
  library's reach 5 to 60 below 16 channels, and nothing depends on multiples of 16.
* Keeping the block from step to step: a third of the step of large wirings was the system clearing fresh pages.
* Dropped: the same program on torch's channels-last operations, with batch norms on two-dimensional views (1.15 to 1.4
  times the time of the steps for 0.35 of their memory; 2.5 times for students of 12x12 images, where calls cost more
  than arithmetic); the Gram matrix for the head's statistics (recomputing a part of the channels at a time is simpler
  and needs no more memory); six outputs by one input at a time in weight gradients (a quarter slower than four by two
  for few channels).
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import functools
import hashlib
import itertools
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as module_hooks
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode

from naslib_autokd.files import cache_place, locked, ours_alone, private_folder, write_whole
from naslib_autokd.search_spaces.hnag.steps import (
    BATCH_NORM_EPS,
    BATCH_NORM_MOMENTUM,
    Plan,
    Step,
    run_steps,
)
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec

logger = logging.getLogger(__name__)

HEAD_PART, PAIRED_HEAD_PART = 24, 128
"""Channels of the head that exist at a time; in bfloat16 more, since each part's gradient is rounded into the sum."""

OPS = {
    name: number
    for number, name in enumerate(
        (
            *("end", "images", "conv", "statistics", "linear", "attention", "pool", "head", "mean"),
            *("gather", "relu_backward", "conv_weight", "conv_input", "attention_backward", "pool_backward"),
            *("head_backward", "mean_backward", "images_backward"),
        )
    )
}
"""Numbers of the instructions, as in execution.c."""


# --- the program ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Map:
    """A value's place in memory: ``channels`` maps of ``height`` x ``width``, perhaps part of another's channels. Two
    channels share a slab where values are ``paired``; parts then start with a slab of their own."""

    channels: int
    height: int
    width: int
    whole: Map | None = None
    first_channel: int = 0
    paired: bool = False
    start: int = -1
    """In places (one place holds one number of every image, or of a pair of channels two)."""

    @property
    def places(self) -> int:
        return self.height * self.width

    @property
    def stride(self) -> int:
        """Between slabs; not a multiple of 16, because caches want addresses that differ in their low bits."""
        return self.places + (self.places % 16 == 0)

    @property
    def owner(self) -> Map:
        return self if self.whole is None else self.whole

    @property
    def address(self) -> int:
        return self.owner.start + _slabs(self.first_channel, self.paired) * self.stride

    @property
    def size(self) -> int:
        return _slabs(self.channels, self.paired) * self.stride

    def like(self) -> Map:
        return Map(self.channels, self.height, self.width, paired=self.paired)


def _slabs(channels: int, paired: bool) -> int:
    return (channels + 1) // 2 if paired else channels


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
        paired: For values in bfloat16, where two channels lie together.
    """

    def __init__(
        self,
        plan: Plan,
        height: int,
        width: int,
        *,
        backward: bool,
        image_gradient: bool = False,
        paired: bool = False,
    ) -> None:
        self._plan, self._instructions = plan, list[list[Any]]()
        self._paired = paired
        self.gaps: dict[int, tuple[int, list[int]]] = {}
        """Of convolutions of concatenated values with odd numbers of channels, if paired: the number of input channels
        with gaps, and where among them each channel is."""
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
                channels = [node.shape[0] for node, _ in parts]
                starts = list(itertools.accumulate([n + n % 2 if self._paired else n for n in channels], initial=0))
                whole = self._new("concat", step, (starts[-1], *parts[0][0].shape[1:]))
                for (node, norm), start in zip(parts, starts, strict=False):
                    whole.parts.append(self._linear([(node, norm, -1)], part_of=(whole, start)))
                if starts[-1] > sum(channels):
                    (reader,) = self._readers[step.target]
                    places = [at + i for at, n in zip(starts, channels, strict=False) for i in range(n)]
                    self.gaps[reader.slot] = starts[-1], places
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
        part = min(PAIRED_HEAD_PART, hidden + hidden % 2) if self._paired else min(HEAD_PART, hidden)
        work = self._map((2 * part, target.height, target.width))
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
            node.map = self._map(node.shape, whole=whole.map, first_channel=start)
        else:
            node.map = self._map(node.shape)
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
        assert node.step is not None
        assert x is not None
        assert y is not None
        shape = self._plan.convs[node.step.slot].shape
        stride, _, groups = node.step.detail
        sizes = (x.channels, y.channels, x.height, x.width, y.height, y.width, *shape[2:])
        return [node.step.slot, x, y, Scaled(x.stride), Scaled(y.stride), *sizes, stride, int(groups > 1)]

    def _pool(self, node: Node, x: Map | None, y: Map | None, dy: Map | None, dx: Map | None, add: int) -> list[Any]:
        assert node.step is not None
        assert dy is not None
        assert dx is not None
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
                node.gradient = self._map(node.shape, whole=whole.gradient, first_channel=start)
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
        node.gradient = self._map(node.shape)
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

    def _map(self, shape: tuple[int, int, int], **rest: Any) -> Map:
        return Map(*shape, paired=self._paired, **rest)

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
                size, at = map_.size, 0
                for start, end in taken:
                    if start - at >= size:
                        break
                    at = end
                map_.start = at
                bisect.insort(taken, (at, at + size))
                total = max(total, at + size)
            for map_ in ends.get(index, ()):
                taken.remove((map_.start, map_.start + map_.size))
        return total


def _area(node: Node) -> int:
    return node.shape[1] * node.shape[2]


class Code:
    """Instructions as numbers; addresses and strides are multiplied by the vectors per place when these are known."""

    def __init__(self, instructions: list[list[Any]]) -> None:
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
        *[(name, ctypes.c_void_p) for name in ("arena", "images", "image_gradient", "image_strides")],
        *[(name, ctypes.c_void_p) for name in ("weights", "weight_gradients", "norm_weight", "norm_bias", "gates")],
        *[(name, ctypes.c_void_p) for name in ("running_mean", "running_var")],
        *[(name, ctypes.c_void_p) for name in ("norm_weight_gradient", "norm_bias_gradient", "gate_gradients")],
        *[(name, ctypes.c_void_p) for name in ("coefficients", "features")],
        *[(name, ctypes.c_double) for name in ("momentum", "eps")],
        *[(name, ctypes.c_int64) for name in ("n_norm", "images_n", "nv", "batch_statistics", "update", "threads")],
    )


class Kernels:
    """The compiled kernels of one data type of the values in the block."""

    def __init__(self, library: Path, dtype: torch.dtype = torch.float32) -> None:
        self.library, self.dtype = library, dtype
        loaded = ctypes.CDLL(str(library))
        loaded.lanes.restype = ctypes.c_int64
        loaded.run_program.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        loaded.run_program.restype = None
        self.lanes: int = loaded.lanes()
        """Images in one vector."""
        self._run_program = loaded.run_program
        self.tiles = False
        """Whether the processor's tile unit (AMX) multiplies."""
        if self.paired:
            loaded.use_tiles.argtypes = (ctypes.c_int64,)
            loaded.use_tiles.restype = ctypes.c_int64
            self._use_tiles = loaded.use_tiles
            self.use_tiles(True)

    @property
    def paired(self) -> bool:
        return self.dtype == torch.bfloat16

    def use_tiles(self, wanted: bool) -> None:
        """With tiles, where the system allows it, or without: the same products, in another order."""
        self.tiles = bool(self._use_tiles(int(wanted)))

    def __call__(self, run: _Run, code: np.ndarray) -> None:
        self._run_program(ctypes.addressof(run), code.ctypes.data)


FLAGS = ("-O3", "-shared", "-fPIC")
TUNED = ("-march=native", "-mcpu=native", "-O3")
"""For this processor, the first that the compiler takes: clang on ARM may know the second alone, or neither."""
REALS = {torch.float32: "float", torch.float64: "double"}
"""What images and parameters are."""
DEFINED = {torch.float32: "-DREAL=float", torch.float64: "-DREAL=double", torch.bfloat16: "-DBFLOAT16"}
"""What the values in the block are."""


SWITCH = "NASLIB_AUTOKD_KERNELS"


def kernels(dtype: torch.dtype) -> Kernels | None:
    """The compiled kernels, or None: switched off (``NASLIB_AUTOKD_KERNELS=0``), no compiler, or another data type."""
    if dtype not in DEFINED or os.environ.get(SWITCH) == "0":
        return None
    found = _kernels(dtype)
    return found if isinstance(found, Kernels) else None


def without_bfloat16() -> str:
    """Why students on this processor are not trained in bfloat16; empty where they can be."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    found = _kernels(torch.bfloat16)
    return "" if isinstance(found, Kernels) else found


def path_of_students() -> tuple[bool, str]:
    """Whether the compiled kernels run here, and in words: with which flags and from where, or why not."""
    if os.environ.get(SWITCH) == "0":
        return False, f"{SWITCH}=0: students run on torch's operations"
    found = _kernels(torch.float32)
    if not isinstance(found, Kernels):
        return False, f"students run on torch's operations, which is slower: {found}"
    half = _kernels(torch.bfloat16)
    words = f"no bfloat16 ({half})" if isinstance(half, str) else f"bfloat16 with{'' if half.tiles else 'out'} AMX"
    return True, f"{' '.join(FLAGS)}, {found.lanes} images in a vector, {words}, {found.library}"


@functools.cache
def _kernels(dtype: torch.dtype) -> Kernels | str:
    """The kernels, or why there are none. In a cache that is not this user's alone they are kept elsewhere."""
    if dtype == torch.bfloat16 and not BFLOAT16_FLAGS.issubset(_processor_flags()):
        return "the processor has no bfloat16 products (avx512_bf16)"
    reasons = []
    for place in (cache_place, lambda name: private_folder() / name):
        try:
            return Kernels(compiled(dtype, place("kernels")), dtype)
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(str(error))
    logger.debug("students run on torch's operations: the kernels could not be compiled (%s)", reasons[0])
    return reasons[0]


def compiled(dtype: torch.dtype, folder: Path) -> Path:
    """Path of the compiled library in ``folder``, which is filled at the first call; safe with many processes.

    Its name has the digest of its content: one that is damaged is compiled again, not loaded.

    Raises:
        OSError: If there is no compiler, the folder cannot be written, or another user can write into it.
        subprocess.SubprocessError: If the compiler fails, or takes over two minutes.
    """
    source = Path(__file__).with_suffix(".c")
    compiler = c_compiler()
    flags = [*FLAGS, DEFINED[dtype]]
    parts = [source.read_bytes(), source.with_name("bfloat16.h").read_bytes()]
    parts += [" ".join([*TUNED, *flags]).encode(), compiler.encode(), _processor().encode()]
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not ours_alone(folder):
        with contextlib.suppress(OSError):  # made when nobody asked
            folder.chmod(0o700)
        if not ours_alone(folder):
            raise PermissionError(f"{folder} can be written by other users: no code is loaded from it")
    if (library := _whole_library(folder, key)) is not None:
        return library
    with locked(folder / "execution") as alone:
        if (library := _whole_library(folder, key)) is not None:  # another process made it meanwhile
            return library
        if alone:
            for left in folder.glob("*tmp*"):  # of processes that were killed while they compiled
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        content = _library(compiler, [*flags, str(source)], folder)
        library = folder / f"execution-{key}-{_digest(content)}.so"
        write_whole(library, content, mode=0o600)
    return library


def c_compiler() -> str:
    """Path of the system's C compiler.

    Raises:
        FileNotFoundError: If there is none.
    """
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return path
    raise FileNotFoundError("no C compiler: neither cc, gcc nor clang")


def _whole_library(folder: Path, key: str) -> Path | None:
    """The library that was compiled before; damaged ones are removed."""
    for library in sorted(folder.glob(f"execution-{key}-*.so")):
        with contextlib.suppress(OSError):
            if ours_alone(library) and library.stem.endswith(f"-{_digest(library.read_bytes())}"):
                return library
            library.unlink()
    return None


def _library(compiler: str, arguments: Sequence[str], folder: Path) -> bytes:
    """What the compiler makes, with OpenMP where it can; in a temporary folder in ``folder``."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        made = Path(own) / "execution.so"
        for tuned, openmp in itertools.product(TUNED, (["-fopenmp"], [])):  # without it on one thread
            command = [compiler, "-Wfatal-errors", tuned, *arguments, *openmp, "-lm", "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                break
        else:
            raise subprocess.SubprocessError(done.stderr[-500:])
        return made.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = [line for line in lines if line.startswith(("model", "flags", "Features", "CPU"))]
    return platform.machine() + "".join(sorted(set(kept)))


BFLOAT16_FLAGS = frozenset({"avx512_bf16", "avx512bw"})


def _processor_flags() -> set[str]:
    """As Linux names them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


# --- choosing -------------------------------------------------------------------------------------------------------


STEP_MACS = 400_000
"""What an operation of the steps takes besides its arithmetic, in multiply-adds of the kernels."""


def worth_padding(n_images: int, lanes: int, spec: StudentSpec, n_steps: int) -> bool:
    """Whether the kernels are faster than the steps for a batch whose last vector is not full.

    They take the time of whole vectors; the steps that of their operations, and for an image more, the fewer the
    channels: the library's convolutions reached 0.12, 0.3, 0.57 and 0.94 of the kernels' rate with 3, 12, 24 and 68
    channels in the first stage. The rule agrees with both, timed for batches of 1 to 17 in training and evaluation.
    """
    padded = -(-n_images // lanes) * lanes
    library = min(1.0, 0.05 + spec.channels[0] / 40)
    return padded * spec.macs <= n_images * spec.macs / library + STEP_MACS * n_steps


class Body(Protocol):
    """What `chosen` looks at: a `student.Student`."""

    plan: Plan
    training: bool
    stage_maps: nn.ModuleList
    convs: nn.ParameterList
    _parameters: dict[str, nn.Parameter | None]

    @property
    def spec(self) -> StudentSpec: ...

    @property
    def execution(self) -> str: ...

    @property
    def precision(self) -> str: ...


def chosen(student: Body, images: Tensor) -> Kernels | None:
    """What runs the student's body; None: the readable steps.

    The steps run where single operations have to be seen (hooks on feature maps, dispatch and function modes, tracing,
    `torch.func`, forward-mode derivatives), where types differ (autocast, other devices), and where they raise the
    error that the inputs deserve.
    """
    # `parameters()` took 60 microseconds, a seventh of a pass for one image
    own = (*student._parameters.values(), *student.convs._parameters.values())
    tensors = (images, *(tensor for tensor in own if tensor is not None))
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
    if engine is not None and student.execution == "auto":
        worth = worth_padding(len(images), engine.lanes, student.spec, len(student.plan.steps))
        engine = engine if worth else None
    if (
        student.precision == "bfloat16"
        and images.dtype == torch.float32
        and student.training
        and torch.is_grad_enabled()
        and (half := kernels(torch.bfloat16)) is not None
    ):
        engine = half
    if engine is None:
        return None
    smallest = program_of(student.plan, *images.shape[2:], backward=False).smallest * len(images)
    if images.shape[1] != student.spec.in_channels or smallest < (2 if student.training else 1):
        return None
    return engine


def _watched(student: Body) -> bool:
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
    engine: Kernels,
    images: Tensor,
    *,
    convs: Sequence[Tensor],
    norm_weight: Tensor,
    norm_bias: Tensor,
    running: tuple[Tensor, Tensor],
    gates: Tensor,
    training: bool,
) -> Tensor:
    """Pooled features (batch, features) of images, as `steps.run_steps`; updates the running statistics."""
    inputs = (images, gates, norm_weight, norm_bias, *convs)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Body.apply(_Setting(plan, engine, running, training), *inputs)
    setting = _Setting(plan, engine, running, training)
    if training:
        return Pass(setting, inputs, backward=False).forward(update=True)
    parts = images.split(EVALUATION_BATCH)  # fewer images at a time stay in cache
    return torch.cat([Pass(setting, (part, *inputs[1:]), backward=False).forward(update=False) for part in parts])


EVALUATION_BATCH = 64
NUMBERS_PER_THREAD = 2**20
"""In the block; the maps of small students are too small to be shared out. A guess: two free cores were not at hand."""


@dataclass(frozen=True, eq=False)
class _Setting:
    plan: Plan
    engine: Kernels
    running: tuple[Tensor, Tensor]
    training: bool


class Pass:
    """One forward pass, and what its backward pass needs: the block of values and the batch norms' coefficients."""

    def __init__(self, setting: _Setting, inputs: Sequence[Tensor], *, backward: bool) -> None:
        self.setting = setting
        images = inputs[0]
        engine = setting.engine
        self.program = program_of(
            *(setting.plan, images.shape[2], images.shape[3]),
            backward=backward,
            image_gradient=images.requires_grad,
            paired=engine.paired,
        )
        self.vectors = -(-len(images) // engine.lanes)
        size = self.program.n_places * self.vectors * engine.lanes * (2 if engine.paired else 1)
        self.block = setting.plan.programs.take(size, engine.dtype)
        self.coefficients = torch.empty(4 * len(inputs[2]), dtype=images.dtype)
        self.inputs: Sequence[Tensor] = [tensor.detach().contiguous() for tensor in inputs[1:]]
        self.images = images.detach()
        if not images.is_contiguous(memory_format=torch.channels_last):
            self.images = self.images.contiguous()  # its gradient takes its strides: no place may be there twice
        self.convs = list(self.inputs[3:])
        for slot, (width, columns) in self.program.gaps.items():
            weight = self.convs[slot]
            self.convs[slot] = weight.new_zeros(len(weight), width, *weight.shape[2:])
            self.convs[slot][:, columns] = weight

    def _run(self, features: Tensor, update: bool) -> tuple[_Run, list[Any]]:
        setting, images = self.setting, self.images
        gates, norm_weight, norm_bias = self.inputs[:3]
        weights = (ctypes.c_void_p * len(self.convs))(*[conv.data_ptr() for conv in self.convs])
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
            threads=min(torch.get_num_threads(), 1 + self.block.numel() // NUMBERS_PER_THREAD),
        )
        return run, [weights, strides]  # to be kept alive

    def forward(self, *, update: bool) -> Tensor:
        features = torch.empty(len(self.images), self.setting.plan.features, dtype=self.images.dtype)
        run, _kept = self._run(features, update)
        self.setting.engine(run, self.program.forward.at(self.vectors))
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
        written = list(conv_gradients)
        for slot in self.program.gaps:
            written[slot] = None if written[slot] is None else torch.empty_like(self.convs[slot])
        table = (ctypes.c_void_p * len(written))(*[None if g is None else g.data_ptr() for g in written])
        run.weight_gradients = ctypes.addressof(table)
        names = ("gate_gradients", "norm_weight_gradient", "norm_bias_gradient")
        for name, tensor in zip(names, others, strict=True):
            setattr(run, name, None if tensor is None else tensor.data_ptr())
        images = None
        if images_wanted:
            images = torch.empty_strided(self.images.shape, self.images.stride(), dtype=gradient.dtype)
            run.image_gradient = images.data_ptr()
        self.setting.engine(run, self.program.backward.at(self.vectors))
        for slot, (_, columns) in self.program.gaps.items():
            own_gradient, with_gaps = conv_gradients[slot], written[slot]
            if own_gradient is not None and with_gaps is not None:
                own_gradient.copy_(with_gaps[:, columns])
        self.setting.plan.programs.spare = [self.block]
        return [images, *others, *conv_gradients]


class _Body(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, setting: _Setting, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.setting, ctx.done = setting, Pass(setting, inputs, backward=True)
        features: Tensor = ctx.done.forward(update=setting.training)
        return features

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        setting, inputs, wanted = ctx.setting, ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # of the gradient, too, one is wanted
            return (None, *_differentiable(setting, inputs, gradient, wanted))
        done, ctx.done = ctx.done, None
        if done is None:  # backward used the block up before (retain_graph)
            done = Pass(setting, inputs, backward=True)
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


def program_of(
    plan: Plan, height: int, width: int, *, backward: bool, image_gradient: bool = False, paired: bool = False
) -> Program:
    """The program of a plan, compiled once per size of the images."""
    if plan.programs is None:
        plan.programs = Programs()
    compiled = plan.programs.compiled
    key = (height, width, backward, backward and image_gradient, paired)
    if key not in compiled:
        compiled[key] = Program(plan, height, width, backward=backward, image_gradient=key[3], paired=paired)
    return compiled[key]


class Programs:
    """What a plan was compiled to, and the block of its last training step; a copy of a student starts without.

    The block is kept from one training step for the next: as fresh memory, its pages would be mapped and cleared by the
    system in every step, which took a third of the forward pass. `student.Student.train` drops it for evaluation.
    """

    def __init__(self) -> None:
        self.compiled: dict[tuple[int, int, bool, bool, bool], Program] = {}
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
