"""The supernet of DARTS: every edge is a mixture of all operations, weighted by the softmax of its alphas.

What the paper computes edge by edge is computed here node by node, exactly: all edges that leave a node share one
ReLU, one maximum and one average pool with their batch norms, and run their depthwise convolutions and batch norms in
one call each. An operation's weight is the weight of its last batch norm, so scaling costs nothing, and ``none`` costs
nothing at all.

Source: Liu et al. 2019, arXiv:1806.09055, sections 2.1 and 2.2; batch norms without learned scale during the search, as
in its section 3.1. Departure: batch norm statistics are only tracked where asked (`Supernet.track`), so that passes at
perturbed weights leave no trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.search_spaces.cell.genotype import OPERATIONS, SMALL_OPERATIONS, CellLayout, cell_layout
from naslib_autokd.search_spaces.cell.network import depthwise_conv2d, halved, pool

POOLS = ("max_pool_3x3", "avg_pool_3x3")


def n_edges(n_nodes: int) -> int:
    """Edges of a cell: node i reads both inputs and all nodes before it."""
    return sum(2 + node for node in range(n_nodes))


class _WeightedSum(torch.autograd.Function):
    """``sum_k coefficients[k] * tensors[k]``, plus the tensors beyond; keeps no products; differentiable twice."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(coefficients, *tensors[: len(coefficients)])
        # Reading numbers costs nothing on a CPU, but would wait for a GPU.
        values: list[Any] = list(coefficients.unbind()) if coefficients.is_cuda else coefficients.tolist()
        out = tensors[0] * values[0] if values else tensors[0].clone()
        for index, tensor in enumerate(tensors[1:], start=1):
            if index >= len(values):
                out.add_(tensor)
            elif coefficients.is_cuda:
                out.addcmul_(tensor, values[index])
            else:
                out.add_(tensor, alpha=values[index])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        coefficients, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        flat = grad.permute(0, 2, 3, 1).reshape(-1)
        dots = [torch.dot(flat, t.permute(0, 2, 3, 1).reshape(-1)) for t in tensors] if wanted[0] else []
        n = len(tensors)
        scaled = [grad * c if want else None for c, want in zip(coefficients.unbind(), wanted[1 : n + 1], strict=True)]
        plain = [grad if want else None for want in wanted[n + 1 :]]
        return (torch.stack(dots) if dots else None, *scaled, *plain)


class _Norm(nn.Module):
    """Batch norm whose scale is given at each call (or 1)."""

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.track = True

    def forward(self, images: Tensor, scale: Tensor | None = None) -> Tensor:
        used = self.track or not self.training
        mean, var = (self.mean, self.var) if used else (None, None)
        return F.batch_norm(images, mean, var, scale, None, self.training, 0.1, 1e-5)


class _Unit(nn.Module):
    """ReLU, depthwise, pointwise, batch norm for several edges at once: channels ``(edge, channel)``."""

    def __init__(self, channels: int, n_targets: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.stride, self.dilation, self.n_targets = stride, dilation, n_targets
        width = channels * n_targets
        self.depthwise = nn.Parameter(torch.empty(width, 1, kernel, kernel))
        self.pointwise = nn.Parameter(torch.empty(width, channels, 1, 1))
        self.norm = _Norm(width)

    def forward(self, rectified: Tensor, scale: Tensor | None = None) -> Tensor:
        images = depthwise_conv2d(rectified, self.depthwise, self.stride, self.dilation)
        return self.norm(F.conv2d(images, self.pointwise, groups=self.n_targets), scale)


class _Source(nn.Module):
    """All operations on all edges that leave one node."""

    def __init__(self, operations: Sequence[str], channels: int, n_targets: int, stride: int) -> None:
        super().__init__()
        self.operations, self.channels, self.n_targets, self.stride = tuple(operations), channels, n_targets, stride
        self.units = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        for operation in operations:
            if operation in POOLS:
                self.norms[operation] = _Norm(channels)
            elif operation.startswith("sep_conv"):
                kernel = int(operation[-1])
                units = [_Unit(channels, n_targets, kernel, s, 1) for s in (stride, 1)]
                self.units[operation] = nn.ModuleList(units)
            elif operation.startswith("dil_conv"):
                unit = _Unit(channels, n_targets, int(operation[-1]), stride, 2)
                self.units[operation] = nn.ModuleList([unit])
            elif operation == "skip_connect" and stride == 2:
                self.even = nn.Parameter(torch.empty(n_targets * (channels // 2), channels, 1, 1))
                self.odd = nn.Parameter(torch.empty(n_targets * (channels - channels // 2), channels, 1, 1))
                self.norms[operation] = _Norm(n_targets * channels)

    def forward(self, state: Tensor, weights: Tensor) -> tuple[list[tuple[int, Tensor]], list[Tensor]]:
        """``weights`` is ``(n_targets, n_operations)``.

        Returns:
            Tensors that every target scales itself, with the index of their operation; and tensors of all targets,
            ``(N, n_targets * channels, H, W)``, already scaled.
        """
        shared: list[tuple[int, Tensor]] = []
        scaled: list[Tensor] = []
        repeated: Tensor | None = None
        for index, operation in enumerate(self.operations):
            if operation == "none":
                continue
            if operation in POOLS:
                shared.append((index, self.norms[operation](pool(state, operation, self.stride))))
                continue
            if operation == "skip_connect" and self.stride == 1:
                shared.append((index, state))
                continue
            scale = weights[:, index].repeat_interleave(self.channels)
            if operation == "skip_connect":
                scaled.append(self.norms[operation](self._reduce(F.relu(state)), scale))
                continue
            if repeated is None:
                repeated = F.relu(state)
                if self.n_targets > 1:
                    repeated = repeated.repeat(1, self.n_targets, 1, 1).contiguous(memory_format=torch.channels_last)
            *first, last = self.units[operation].children()
            out = repeated
            for unit in first:
                out = F.relu(unit(out))
            scaled.append(last(out, scale))
        return shared, scaled

    def _reduce(self, rectified: Tensor) -> Tensor:
        """FactorizedReduce of all targets: half the channels of each from the even pixels, half from the odd."""
        even, odd = halved(rectified)
        halves = []
        for images, weight in ((even, self.even), (odd, self.odd)):
            if len(weight):
                out = F.conv2d(images, weight)
                halves.append(out.unflatten(1, (self.n_targets, -1)))
        return torch.cat(halves, dim=2).flatten(1, 2).contiguous(memory_format=torch.channels_last)


class _Reduce(nn.Module):
    """Preprocessing of a cell's input: ReLU, 1x1 convolution (FactorizedReduce where sizes differ), batch norm."""

    def __init__(self, n_in: int, n_out: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        sizes = (n_out // 2, n_out - n_out // 2) if halve else (n_out,)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(size, n_in, 1, 1)) for size in sizes if size)
        self.norm = _Norm(n_out)

    def forward(self, images: Tensor) -> Tensor:
        rectified = F.relu(images)
        parts = halved(rectified) if self.halve else (rectified,)
        outs = [F.conv2d(p, w) for p, w in zip(parts[-len(self.weights) :], self.weights, strict=True)]
        return self.norm(outs[0] if len(outs) == 1 else torch.cat(outs, dim=1))


class _SuperCell(nn.Module):
    def __init__(self, layout: CellLayout, n_nodes: int, operations: Sequence[str]) -> None:
        super().__init__()
        self.n_nodes, self.channels = n_nodes, layout.channels
        self.before = _Reduce(layout.channels_before, layout.channels, layout.input_reduces)
        self.previous = _Reduce(layout.channels_previous, layout.channels, False)
        # Inputs 0 and 1 feed all nodes, node i those after it; the last node feeds none.
        self.sources = nn.ModuleList(
            _Source(
                operations,
                layout.channels,
                n_nodes - max(0, source - 1),
                2 if layout.reduces and source < 2 else 1,
            )
            for source in range(n_nodes + 1)
        )

    def forward(self, before: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        """``weights`` is ``(n_edges, n_operations)``, edges ordered by target, then source."""
        states = [self.before(before), self.previous(previous)]
        shared: list[list[tuple[int, Tensor]]] = []
        scaled: list[list[tuple[Tensor, ...]]] = []
        for node in range(self.n_nodes):
            while len(shared) < len(states):
                source = len(shared)
                first = max(0, source - 1)
                rows = [edge_index(target, source) for target in range(first, self.n_nodes)]
                alone, together = self.sources[source](states[source], weights[rows])
                shared.append(alone)
                scaled.append([tensor.split(self.channels, dim=1) for tensor in together])
            terms = [
                (weights[edge_index(node, source), index], tensor)
                for source in range(len(states))
                for index, tensor in shared[source]
            ]
            parts = [chunks[node - max(0, source - 1)] for source in range(len(states)) for chunks in scaled[source]]
            coefficients = torch.stack([c for c, _ in terms]) if terms else weights.new_empty(0)
            states.append(_WeightedSum.apply(coefficients, *(t for _, t in terms), *parts))
        return torch.cat(states[2:], dim=1)


def edge_index(node: int, source: int) -> int:
    """Position of the edge from ``source`` to intermediate ``node`` (0-based) among a cell's edges."""
    return n_edges(node) + source


class Supernet(nn.Module):
    """The one-shot model: images ``(N, C, H, W)`` to logits, given its own alphas.

    Args:
        channels: Channels of a node before, between and after the two reduction cells.
        seed: Draws weights and alphas; no global random state is read.
    """

    def __init__(
        self,
        *,
        n_cells: int,
        stem_channels: int,
        channels: Sequence[int],
        n_nodes: int,
        in_channels: int,
        image_size: int,
        n_classes: int,
        operations: Sequence[str] = SMALL_OPERATIONS,
        seed: int = 0,
    ) -> None:
        super().__init__()
        unknown = sorted(set(operations) - set(OPERATIONS))
        if unknown:
            raise ValueError(f"unknown operation {', '.join(unknown)} (known: {', '.join(OPERATIONS)})")
        if not set(operations) - {"none"} or len(set(operations)) != len(operations):
            raise ValueError(f"operations must be different and hold more than none, got {', '.join(operations)}")
        self.operations, self.n_nodes = tuple(operations), n_nodes
        self.layout = cell_layout(n_cells, stem_channels, channels, n_nodes, image_size)
        self.image_size = image_size
        self.stem = nn.Parameter(torch.empty(stem_channels, in_channels, 3, 3))
        self.stem_norm = _Norm(stem_channels)
        self.cells = nn.ModuleList(_SuperCell(cell, n_nodes, operations) for cell in self.layout)
        self.classifier = nn.Parameter(torch.empty(n_classes, n_nodes * channels[2]))
        self.bias = nn.Parameter(torch.zeros(n_classes))
        rng = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.dim() == 4:
                nn.init.normal_(parameter, std=math.sqrt(2 / parameter[0].numel()), generator=rng)
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        nn.init.normal_(self.classifier, std=self.classifier.shape[1] ** -0.5, generator=rng)
        shape = n_edges(n_nodes), len(self.operations)
        # 1e-3 as in the released code: all operations start (almost) equal.
        self.alphas = nn.ParameterDict(
            {name: nn.Parameter(1e-3 * torch.randn(shape, generator=rng)) for name in ("normal", "reduction")}
        )

    @property
    def weights(self) -> list[nn.Parameter]:
        """All parameters but the alphas."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("alphas.")]

    def track(self, on: bool) -> None:
        """Whether forward passes in training mode update the running statistics of the batch norms."""
        for module in self.modules():
            if isinstance(module, _Norm):
                module.track = on

    def forward(self, images: Tensor) -> Tensor:
        normal, reduction = (F.softmax(self.alphas[name], dim=1) for name in ("normal", "reduction"))
        images = images.contiguous(memory_format=torch.channels_last)
        before = previous = self.stem_norm(F.conv2d(images, self.stem, padding=1))
        for cell, layout in zip(self.cells, self.layout, strict=True):
            before, previous = previous, cell(before, previous, reduction if layout.reduces else normal)
        return F.linear(previous.mean(dim=(2, 3)), self.classifier, self.bias)
