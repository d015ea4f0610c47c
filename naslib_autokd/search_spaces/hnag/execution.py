"""A faster walk through a student's plan on the CPU: the same function, gradients and running statistics.

`student.Student` is the definition; this module computes the same in one autograd function for the whole body, and is
chosen by it where it applies (float images on the CPU, training with gradients or evaluation without). What it saves,
measured on students of 24k parameters with 12x12 images in batches of 32 (``benchmarks/students.py``):

* Autograd's cost per operation: the plan is walked forward and backward by hand, gradients are added up in place.
* Batch norm in channels-last is not vectorised by the library below 16 channels: here it is arithmetic on a 2-D view
  with rows of ``lcm(channels, 16)`` numbers, and its ReLU works in place.
* In evaluation the batch norms are folded into the convolutions.

Gradients of gradients are not supported; the definition has them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

if TYPE_CHECKING:
    from naslib_autokd.search_spaces.hnag.student import Plan

VECTOR = 16
"""Numbers of a vector register (AVX-512, float32): rows of batch norm are a multiple of it."""


class Instruction(NamedTuple):
    """One step with the ReLU that follows it, if nobody else reads what is between."""

    kind: str
    sources: tuple[int, ...]
    target: int
    slot: int
    detail: Any
    relu: bool
    folded: bool
    """A batch norm that evaluation folds into the convolution before it, or that convolution."""
    dead: tuple[int, ...]
    """Values that nobody reads after this instruction."""


class Program:
    """The instructions of a plan, and the constants of its batch norms."""

    def __init__(self, plan: Plan, eps: float, momentum: float) -> None:
        self.eps, self.momentum = eps, momentum
        self.n_values, self.output = plan.n_values, plan.output
        self.norm_channels = plan.norm_channels
        # every value here is channels-last, so the steps that only change the layout fall away
        alias = list(range(plan.n_values))
        steps = []
        for step in plan.steps:
            if step.kind == "layout":
                alias[step.target] = alias[step.sources[0]]
            else:
                steps.append(step._replace(sources=tuple(alias[source] for source in step.sources)))
        readers: dict[int, list[int]] = {}
        for index, step in enumerate(steps):
            for source in set(step.sources):
                readers.setdefault(source, []).append(index)
        fused: set[int] = set()
        joined: list[tuple[Any, int, bool, bool]] = []
        norm_of_conv = {
            step.sources[0]: step for step in steps if step.kind == "norm" and len(readers[step.sources[0]]) == 1
        }
        makers = {step.target: step for step in steps}
        for index, step in enumerate(steps):
            if index in fused:
                continue
            target, relu = step.target, False
            after = readers.get(target, [])
            if step.kind in ("norm", "sum", "mean") and len(after) == 1 and steps[after[0]].kind == "relu":
                fused.add(after[0])
                target, relu = steps[after[0]].target, True
            folded = step.kind == "conv" and target in norm_of_conv
            if step.kind == "norm":
                maker = makers.get(step.sources[0])
                folded = maker is not None and maker.kind == "conv" and maker.target in norm_of_conv
            joined.append((step, target, relu, folded))
        last_use = {source: i for i, (step, *_) in enumerate(joined) for source in step.sources}
        self.instructions = [
            Instruction(
                step.kind,
                step.sources,
                target,
                step.slot,
                step.detail,
                relu,
                folded,
                tuple({s for s in step.sources if last_use[s] == i}),
            )
            for i, (step, target, relu, folded) in enumerate(joined)
        ]
        self.norm_after = {
            norm_of_conv[i.target].sources[0]: norm_of_conv[i.target].slot
            for i in self.instructions
            if i.kind == "conv" and i.folded
        }
        self._unbias: dict[tuple[tuple[int, ...], torch.dtype], Tensor] = {}

    def unbias(self, counts: list[int], dtype: torch.dtype) -> Tensor:
        """``n / (n - 1)`` for every channel of every batch norm: running variances are unbiased, as in torch."""
        key = (tuple(counts), dtype)
        if key not in self._unbias:
            parts = [
                torch.full((c,), n / max(n - 1, 1), dtype=dtype)
                for c, n in zip(self.norm_channels, counts, strict=True)
            ]
            self._unbias = {key: torch.cat(parts)}  # one batch size at a time
        return self._unbias[key]


def rows_of(x: Tensor) -> tuple[Tensor, int]:
    """A channels-last tensor as rows of whole vectors, and how often the channels repeat in a row."""
    channels = x.shape[1]
    repeats = VECTOR // math.gcd(channels, VECTOR)
    pixels = x.numel() // channels
    if pixels % repeats:
        repeats = 1
    return x.permute(0, 2, 3, 1).reshape(pixels // repeats, channels * repeats), repeats


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _images(rows: Tensor, like: Tensor) -> Tensor:
    n, channels, height, width = like.shape
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


def _per_channel(sums: Tensor, repeats: int) -> Tensor:
    return sums if repeats == 1 else sums.view(repeats, -1).sum(0)


def _repeated(x: Tensor, repeats: int) -> Tensor:
    return x if repeats == 1 else x.expand(repeats, -1).reshape(-1)


def _flat(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1)


def _weighted(values: list[Tensor], weights: list[float]) -> Tensor:
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total.add_(value, alpha=weight)
    return total


class Body(torch.autograd.Function):
    """Images to the last feature maps, in training mode; updates the running statistics."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        program: Program,
        images: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        gates: Tensor,
        *convs: Tensor,
    ) -> Tensor:
        channels = program.norm_channels
        weights, biases = norm_weight.split(channels), norm_bias.split(channels)
        gate = gates.tolist()
        values: list[Any] = [None] * program.n_values
        values[0] = channels_last(images)
        saved: list[Any] = [None] * len(program.instructions)
        means, variances, counts = [None] * len(channels), [None] * len(channels), [0] * len(channels)
        for index, step in enumerate(program.instructions):
            kind, slot = step.kind, step.slot
            x = values[step.sources[0]]
            if kind == "conv":
                stride, padding, groups = step.detail
                y = channels_last(F.conv2d(x, convs[slot], None, stride, padding, 1, groups))
            elif kind == "norm":
                rows, repeats = rows_of(x)
                n = x.numel() // channels[slot]
                mean = _per_channel(rows.sum(0), repeats) / n
                var = (_per_channel((rows * rows).sum(0), repeats) / n - mean * mean).clamp_(min=0.0)
                invstd = (var + program.eps).rsqrt_()
                scale = weights[slot] * invstd
                shift = biases[slot] - mean * scale
                out = torch.addcmul(_repeated(shift, repeats), rows, _repeated(scale, repeats))
                y = _images(out.relu_() if step.relu else out, x)
                saved[index] = (mean, invstd, scale)
                means[slot], variances[slot], counts[slot] = mean, var, n  # type: ignore[call-overload]
            elif kind == "sum":
                y = _weighted([values[s] for s in step.sources], gate[slot : slot + len(step.sources)])
                y = y.relu_() if step.relu else y
            elif kind == "relu":
                y = torch.relu(x)
            elif kind == "mean":
                y = x + values[step.sources[1]]
                for source in step.sources[2:]:
                    y.add_(values[source])
                y.mul_(1.0 / len(step.sources))
                y = y.relu_() if step.relu else y
            elif kind == "max":
                y, saved[index] = torch.ops.aten.max_pool2d_with_indices(x, *_pool(step.detail))
                y = channels_last(y)
            elif kind == "average":
                y = channels_last(F.avg_pool2d(x, *step.detail))
            elif kind == "concat":
                y = channels_last(torch.cat([values[s] for s in step.sources], dim=1))
            elif kind == "attention":
                mask = torch.sigmoid(x)
                rest = [values[s] for s in step.sources[1:]]
                total = _weighted(rest, gate[slot + 1 : slot + len(step.sources)])
                y = (mask + gate[slot]) * total
                saved[index] = (mask, total)
            else:
                raise AssertionError(f"unknown step {kind}")
            values[step.target] = y
        with torch.no_grad():
            running_mean.lerp_(torch.cat(means), program.momentum)  # type: ignore[arg-type]
            unbiased = torch.cat(variances).mul_(program.unbias(counts, running_var.dtype))  # type: ignore[arg-type]
            running_var.lerp_(unbiased, program.momentum)
        output = values[program.output]
        values[program.output] = None  # kept by save_for_backward: a reference from ctx would be a cycle
        ctx.program, ctx.values, ctx.saved, ctx.gate = program, values, saved, gate
        ctx.save_for_backward(output, *convs)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        program: Program = ctx.program
        values, saved, gate = ctx.values, ctx.saved, ctx.gate
        output, *convs = ctx.saved_tensors
        values[program.output] = output
        grads: list[Any] = [None] * program.n_values
        grads[program.output] = channels_last(grad_output)
        conv_grads: list[Any] = [None] * len(convs)
        weight_grads: list[Any] = [None] * len(program.norm_channels)
        bias_grads: list[Any] = [None] * len(program.norm_channels)
        gate_grads: list[Any] = [None] * len(gate)

        def add(source: int, grad: Tensor) -> None:
            """``grad`` must be new: it is kept, and added to in place."""
            if grads[source] is None:
                grads[source] = grad
            else:
                grads[source].add_(grad)

        def add_weighted(sources: tuple[int, ...], slot: int, grad: Tensor) -> None:
            flat = _flat(grad)
            for i, source in enumerate(sources):
                gate_grads[slot + i] = torch.dot(flat, _flat(values[source]))
                if grads[source] is None:
                    grads[source] = grad * gate[slot + i]
                else:
                    grads[source].add_(grad, alpha=gate[slot + i])

        for index in range(len(program.instructions) - 1, -1, -1):
            step = program.instructions[index]
            kind, slot, source = step.kind, step.slot, step.sources[0]
            grad = grads[step.target]
            grads[step.target] = None
            if step.relu or kind == "relu":
                grad = torch.ops.aten.threshold_backward(grad, values[step.target], 0)
            values[step.target] = None
            if kind == "conv":
                stride, padding, groups = step.detail
                needed = [source != 0, True, False]
                x_grad, conv_grads[slot], _ = torch.ops.aten.convolution_backward(
                    grad,
                    values[source],
                    convs[slot],
                    None,
                    [stride, stride],
                    list(padding),
                    [1, 1],
                    False,
                    [0, 0],
                    groups,
                    needed,
                )
                if source != 0:
                    add(source, channels_last(x_grad))
            elif kind == "norm":
                mean, invstd, scale = saved[index]
                rows, repeats = rows_of(values[source])
                grad_rows, _ = rows_of(grad)
                n = rows.numel() // len(mean)
                bias_grad = _per_channel(grad_rows.sum(0), repeats)
                product = _per_channel((grad_rows * rows).sum(0), repeats)
                weight_grad = (product - mean * bias_grad).mul_(invstd)
                slope = scale * invstd * weight_grad * (-1.0 / n)
                constant = (scale * bias_grad * (-1.0 / n)).sub_(slope * mean)
                x_grad = torch.addcmul(_repeated(constant, repeats), rows, _repeated(slope, repeats))
                x_grad.addcmul_(grad_rows, _repeated(scale, repeats))
                weight_grads[slot], bias_grads[slot] = weight_grad, bias_grad
                add(source, _images(x_grad, grad))
            elif kind == "sum":
                add_weighted(step.sources, slot, grad)
            elif kind == "relu":
                add(source, grad)
            elif kind == "mean":
                share = 1.0 / len(step.sources)
                for s in step.sources:
                    add(s, grad * share)
            elif kind == "max":
                x = values[source]
                kernel, stride, padding, dilation, ceil = _pool(step.detail)
                add(
                    source,
                    torch.ops.aten.max_pool2d_with_indices_backward(
                        grad, x, kernel, stride, padding, dilation, ceil, saved[index]
                    ),
                )
            elif kind == "average":
                kernel, stride, padding, *_ = _pool(step.detail)
                add(
                    source,
                    torch.ops.aten.avg_pool2d_backward(
                        grad, values[source], kernel, stride, padding, False, True, None
                    ),
                )
            elif kind == "concat":
                sizes = [values[s].shape[1] for s in step.sources]
                for s, part in zip(step.sources, grad.split(sizes, dim=1), strict=True):
                    add(s, part.clone(memory_format=torch.channels_last))
            else:  # attention
                mask, total = saved[index]
                mask_grad = grad * total
                gate_grads[slot] = mask_grad.sum()
                add(source, mask_grad.mul_(mask).mul_(1 - mask))
                add_weighted(step.sources[1:], slot + 1, (mask + gate[slot]).mul_(grad))
            saved[index] = None
        gates_grad = torch.stack(gate_grads) if gate_grads else None
        return (None, None, None, None, torch.cat(weight_grads), torch.cat(bias_grads), gates_grad, *conv_grads)


def _pool(detail: tuple[int, int, int]) -> tuple[list[int], list[int], list[int], list[int], bool]:
    kernel, stride, padding = detail
    return [kernel, kernel], [stride, stride], [padding, padding], [1, 1], False


def evaluate_body(
    program: Program,
    images: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    gates: Tensor,
    convs: list[Tensor],
) -> Tensor:
    """Images to the last feature maps in evaluation mode, without gradients."""
    channels = program.norm_channels
    scale = norm_weight * (running_var + program.eps).rsqrt()
    scales, shifts = scale.split(channels), (norm_bias - running_mean * scale).split(channels)
    gate = gates.tolist()
    values: list[Any] = [None] * program.n_values
    values[0] = channels_last(images)
    for step in program.instructions:
        kind, slot = step.kind, step.slot
        x = values[step.sources[0]]
        if kind == "conv":
            stride, padding, groups = step.detail
            weight, bias = convs[slot], None
            if step.folded:
                norm = program.norm_after[step.target]
                weight, bias = weight * scales[norm].view(-1, 1, 1, 1), shifts[norm]
            y = channels_last(F.conv2d(x, weight, bias, stride, padding, 1, groups))
        elif kind == "norm":
            y = x if step.folded else x * scales[slot].view(-1, 1, 1) + shifts[slot].view(-1, 1, 1)
            y = y.relu_() if step.relu else y  # a folded convolution's output has no other reader
        elif kind == "sum":
            y = _weighted([values[s] for s in step.sources], gate[slot : slot + len(step.sources)])
            y = y.relu_() if step.relu else y
        elif kind == "relu":
            y = torch.relu(x)
        elif kind == "mean":
            y = torch.stack([values[s] for s in step.sources]).mean(0)
            y = y.relu_() if step.relu else y
        elif kind == "max":
            y = F.max_pool2d(x, *step.detail)
        elif kind == "average":
            y = F.avg_pool2d(x, *step.detail)
        elif kind == "concat":
            y = torch.cat([values[s] for s in step.sources], dim=1)
        else:  # attention
            rest = [values[s] for s in step.sources[1:]]
            y = (torch.sigmoid(x) + gate[slot]) * _weighted(rest, gate[slot + 1 : slot + len(step.sources)])
        values[step.target] = y
        for source in step.dead:
            if source != program.output:
                values[source] = None
    output: Tensor = values[program.output]
    return output
