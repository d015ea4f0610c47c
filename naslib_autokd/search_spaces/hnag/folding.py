"""A trained student as its inference needs it: convolutions, sums, ReLUs and poolings, and nothing that is 1 or 0.

In eval mode a batch norm is a scale and a shift per channel, and a merge weight is a number. Both go into the
convolutions, exactly:

* A batch norm goes into the convolution before it; one after an average pooling makes that a depthwise convolution.
* A convolution of concatenated values is a sum of convolutions, one for each.
* ReLU, pooling and convolution commute with positive factors, so each value may be kept multiplied by one. Factors are
  chosen along a spanning forest of the graph of values and merges, which makes the weights along it 1: a merge of these
  is a plain sum. The weights that are left are depthwise 1x1 convolutions, which runtimes fuse with the addition.

Folding is done in float64. `onnx_file` in `distillation.runtime` writes what comes out.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from naslib_autokd.search_spaces.hnag.steps import BATCH_NORM_EPS, Step

if TYPE_CHECKING:
    from naslib_autokd.search_spaces.hnag.student import Student

Array = npt.NDArray[np.float64]


@dataclass(eq=False)
class Op:
    """One operation; its output is known by it."""

    kind: str
    """``images``, ``conv``, ``relu``, ``sum``, ``max``, ``average``, ``sigmoid``, ``product``, ``mean`` (over the
    pixels), ``linear``."""
    inputs: list[Op]
    channels: int
    weight: Array | None = None
    """Of a convolution ``(out, in / groups, height, width)``, of ``linear`` ``(classes, channels)``, of a sum one
    factor for each input."""
    bias: Array | None = None
    detail: Any = None
    """Of a convolution (stride, padding, groups); of a pooling (kernel, stride, padding)."""


@dataclass
class Linear:
    """A value that is not computed yet: ``sum of factor * op``, plus ``bias`` per channel."""

    terms: list[tuple[Op, float | Array]]
    """A factor is a positive number, or one of any sign for each channel."""
    bias: Array | float = 0.0


BLOCKS = (8, 16)
"""Channels are filled up to 8, or to multiples of 16. ONNX Runtime computes in blocks of 16 (8 without AVX-512) and
reorders memory around layers whose channels are no multiple: students of 20 to 23 channels took 0.8 of the time. Up to
8 channels it has a kernel that does not fill up what is read, and 16 took 1.2 times as long."""


def fold(student: Student, fill: bool = False) -> list[Op]:
    """The operations of a student in eval mode, in order; the last one gives the logits.

    Args:
        fill: Give values more channels, of zeros, as `BLOCKS` says.
    """
    return _Folding(student, fill).ops


class _Folding:
    def __init__(self, student: Student, fill: bool) -> None:
        self.plan = plan = student.plan

        def numbers(tensor: Any) -> Array:
            return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)

        self.convs = [numbers(weight) for weight in student.convs]
        starts = np.cumsum(plan.norm_channels)[:-1]
        parts = (student.norm_weight, student.norm_bias, student.running_mean, student.running_var)
        weight, bias, mean, var = (np.split(numbers(part), starts) for part in parts)
        scales = [w / np.sqrt(v + BATCH_NORM_EPS) for w, v in zip(weight, var, strict=True)]
        self.norms = [(s, b - m * s) for s, b, m in zip(scales, bias, mean, strict=True)]
        gates = student.merge_weights
        self.gates = np.empty(0) if gates is None else 1 / (1 + np.exp(-numbers(gates)))
        self.readers = Counter(source for step in plan.steps for source in step.sources)
        self.readers[plan.output] += 1
        self.values: dict[int, Op | Linear] = {}
        self.concats: dict[int, list[Op]] = {}
        self.ops: list[Op] = []
        self.values[0] = self._op("images", [], plan.spec.in_channels)
        for step in plan.steps:
            self._step(step)
        pooled = self._op("mean", [self._made(plan.output)], plan.features)
        classifier = numbers(student.classifier_weight), numbers(student.classifier_bias)
        self._op("linear", [pooled], plan.spec.n_classes, *classifier)
        self.ops = _scaled(_used(self.ops))
        if fill:
            _fill_up(self.ops)

    def _op(self, kind: str, inputs: list[Op], channels: int, *rest: Any) -> Op:
        self.ops.append(Op(kind, inputs, channels, *rest))
        return self.ops[-1]

    def _step(self, step: Step) -> None:
        kind, i, source = step.kind, step.slot, step.sources[0]
        value: Op | Linear
        if kind == "layout":
            value = self.values[source]
        elif kind == "conv":
            value = self._conv(step)
        elif kind == "norm":
            value = self._norm(self.values[source], *self.norms[i])
        elif kind == "sum":
            value = self._sum(step.sources, self.gates[i : i + len(step.sources)])
        elif kind == "mean":
            value = self._sum(step.sources, np.full(len(step.sources), 1 / len(step.sources)))
        elif kind == "attention":
            rest = self._compute(self._sum(step.sources[1:], self.gates[i + 1 : i + len(step.sources)]))
            mask = self._op("sigmoid", [self._made(source)], rest.channels)
            product = self._op("product", [mask, rest], rest.channels)
            value = Linear([(product, 1.0), (rest, float(self.gates[i]))])
        elif kind == "concat":
            self.concats[step.target] = [self._made(s) for s in step.sources]  # its one reader is a convolution
            return
        elif kind == "relu":
            made = self._made(source)
            value = self._op("relu", [made], made.channels)
        else:
            made = self._made(source)
            value = self._op(kind, [made], made.channels, None, None, step.detail)
        # what several read is computed once
        if isinstance(value, Linear) and self.readers[step.target] > 1:
            value = self._compute(value)
        self.values[step.target] = value

    def _conv(self, step: Step) -> Op | Linear:
        weight, source = self.convs[step.slot], self.concats.get(step.sources[0])
        inputs = [self._made(step.sources[0])] if source is None else source
        parts = np.split(weight, np.cumsum([op.channels for op in inputs])[:-1], axis=1) if source else [weight]
        convs = [
            self._op("conv", [op], len(part), part, np.zeros(len(part)), step.detail)
            for op, part in zip(inputs, parts, strict=True)
        ]
        return convs[0] if len(convs) == 1 else Linear([(conv, 1.0) for conv in convs])

    def _norm(self, value: Op | Linear, scale: Array, shift: Array) -> Op | Linear:
        value = self._compute(value) if isinstance(value, Linear) else value
        if value.kind == "conv":  # a convolution that has a batch norm has no other reader
            assert value.weight is not None
            assert value.bias is not None
            value.weight = value.weight * scale[:, None, None, None]
            value.bias = value.bias * scale + shift
            return value
        if value.kind == "average" and value.detail[1] == 1:
            kernel, _, padding = value.detail
            weight = np.tile(scale[:, None, None, None] / kernel**2, (1, 1, kernel, kernel))
            (source,) = value.inputs
            return self._op("conv", [source], len(scale), weight, shift, (1, (padding, padding), len(scale)))
        return Linear([(value, scale)], shift)

    def _sum(self, sources: tuple[int, ...], weights: Array) -> Linear:
        terms: dict[Op, float | Array] = {}
        bias: Array | float = 0.0
        for source, weight in zip(sources, weights.tolist(), strict=True):
            value = self.values[source]
            if isinstance(value, Op):
                value = Linear([(value, 1.0)])
            for op, factor in value.terms:
                terms[op] = terms.get(op, 0.0) + weight * factor
            bias = bias + weight * value.bias
        return Linear(list(terms.items()), bias)

    def _made(self, value: int) -> Op:
        found = self.values[value]
        if isinstance(found, Linear):
            found = self.values[value] = self._compute(found)
        return found

    def _compute(self, value: Linear) -> Op:
        """A sum whose inputs have positive numbers as factors; what has other factors, or the bias, is a depthwise
        convolution."""
        inputs, factors = [], []
        bias = value.bias
        for op, factor in value.terms:
            if isinstance(factor, np.ndarray):
                op = self._op("conv", [op], op.channels, factor[:, None, None, None], np.zeros(op.channels) + bias,
                              (1, (0, 0), op.channels))  # fmt: skip
                bias, factor = 0.0, 1.0
            inputs.append(op)
            factors.append(factor)
        if len(inputs) == 1 and factors == [1.0]:
            return inputs[0]
        assert not np.any(bias)
        return self._op("sum", inputs, inputs[0].channels, np.array(factors))


def _used(ops: list[Op]) -> list[Op]:
    """Those that the last one needs, in their order."""
    needed, todo = set[Op](), [ops[-1]]
    while todo:
        op = todo.pop()
        if op not in needed:
            needed.add(op)
            todo += op.inputs
    return [op for op in ops if op in needed]


class _Factors:
    """The logarithms of the factors that values are multiplied by: known up to a constant in each group."""

    def __init__(self, ops: list[Op]) -> None:
        self._group = {op: index for index, op in enumerate(ops)}
        self._members = [[op] for op in ops]
        self._log = dict.fromkeys(ops, 0.0)

    def tie(self, op: Op, other: Op, log_ratio: float) -> None:
        """Make the factor of ``op`` that of ``other`` times ``exp(log_ratio)``, if both are not fixed to each other."""
        group, into = self._group[op], self._group[other]
        if group == into:
            return
        shift = self._log[other] + log_ratio - self._log[op]
        if len(self._members[group]) > len(self._members[into]):
            group, into, shift = into, group, -shift
        for member in self._members[group]:
            self._log[member] += shift
            self._group[member] = into
        self._members[into] += self._members[group]
        self._members[group] = []

    def of(self, fixed: list[Op]) -> dict[Op, float]:
        """The factors, with those of ``fixed`` 1 and those of other groups around 1."""
        ones = {self._group[op]: self._log[op] for op in fixed}
        middle = [float(np.median([self._log[op] for op in members])) if members else 0.0 for members in self._members]
        return {op: math.exp(log - ones.get(self._group[op], middle[self._group[op]])) for op, log in self._log.items()}


def _scaled(ops: list[Op]) -> list[Op]:
    """The same with factors of values such that as many sums as possible are plain; the others get convolutions."""
    factors, fixed = _Factors(ops), [ops[0]]
    for op in ops:
        if op.kind in ("relu", "max", "average", "mean"):
            factors.tie(op, op.inputs[0], 0.0)
        elif op.kind == "product":
            factors.tie(op, op.inputs[1], 0.0)
        elif op.kind in ("sigmoid", "linear"):
            fixed.append(op)
    fixed += [op.inputs[0] for op in ops if op.kind == "sigmoid"]
    for op in fixed[1:]:
        factors.tie(op, fixed[0], 0.0)
    for op in ops:
        if op.kind == "sum":
            assert op.weight is not None
            for source, weight in zip(op.inputs, op.weight.tolist(), strict=True):
                factors.tie(op, source, -math.log(weight))
    factor = factors.of(fixed[:1])
    found: list[Op] = []
    for op in ops:
        if op.kind in ("conv", "linear"):
            assert op.weight is not None
            assert op.bias is not None
            op.weight = op.weight * (factor[op] / factor[op.inputs[0]])
            op.bias = op.bias * factor[op]
        elif op.kind == "sum":
            assert op.weight is not None
            left = [w * factor[op] / factor[source] for source, w in zip(op.inputs, op.weight.tolist(), strict=True)]
            for index, weight in enumerate(left):
                if abs(weight - 1) > 1e-9:
                    kernel = np.full((op.channels, 1, 1, 1), weight)
                    detail = (1, (0, 0), op.channels)
                    scaled = Op("conv", [op.inputs[index]], op.channels, kernel, np.zeros(op.channels), detail)
                    found.append(scaled)
                    op.inputs[index] = scaled
            op.weight = None
        found.append(op)
    return found


def _fill_up(ops: list[Op]) -> None:
    """Channels of zeros; not for the images and the classes."""
    least, multiple = BLOCKS
    for op in ops:
        if op.kind == "images":
            continue
        if op.kind != "linear":
            op.channels = least if op.channels <= least else -(-op.channels // multiple) * multiple
        if op.weight is None or op.bias is None:
            continue
        shape = [op.channels, op.inputs[0].channels, *op.weight.shape[2:]]
        if op.kind == "conv" and op.detail[2] > 1:
            shape[1] = 1
            op.detail = (*op.detail[:2], op.channels)
        missing = [(0, new - old) for old, new in zip(op.weight.shape, shape, strict=True)]
        op.weight, op.bias = np.pad(op.weight, missing), np.pad(op.bias, missing[:1])
