"""The network that a genotype describes, for training from scratch, and the functions it shares with the supernet.

Source: Liu et al. 2019, arXiv:1806.09055, and its released code (``cnn/operations.py``, ``cnn/model.py``). Departures:
no auxiliary head and no drop path (they serve 600 epochs of a large network), channels are solved to a parameter
budget (`fit_width`) and need not double at a reduction, inputs of odd size are allowed, He initialisation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.search_spaces.cell.genotype import CellSpec, Edge


def depthwise_conv2d(images: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """A depthwise convolution with "same" padding; ``weight`` is ``(channels, 1, k, k)`` with odd k.

    A dilation of 2 is the plain convolution of the four interleaved half-resolution images (of the even one alone if
    the stride is 2), which is exact and, unlike oneDNN's dilated weight gradient, fast (48 channels at 12x12, batch
    32, forward and backward: 3.9 ms to 0.8 ms; torch 2.13, one thread).
    """
    channels, kernel = images.shape[1], weight.shape[-1]
    height, width = images.shape[2:]
    if dilation == 2 and stride == 2:
        return F.conv2d(images[:, :, ::2, ::2], weight, None, 1, kernel // 2, 1, channels)
    if dilation == 2 and height % 2 == 0 and width % 2 == 0:
        batch = images.shape[0]
        rows = images.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2, channels)
        phases = rows.permute(2, 4, 0, 1, 3, 5).reshape(4 * batch, height // 2, width // 2, channels)
        out = F.conv2d(phases.permute(0, 3, 1, 2), weight, None, 1, kernel // 2, 1, channels).permute(0, 2, 3, 1)
        out = out.reshape(2, 2, batch, height // 2, width // 2, channels).permute(2, 3, 0, 4, 1, 5)
        return out.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return F.conv2d(images, weight, None, stride, dilation * (kernel // 2), dilation, channels)


def halved(images: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels with even and with odd coordinates, both of the size ``ceil(size / 2)`` (zeros beyond an odd edge)."""
    odd = images[:, :, 1::2, 1::2]
    missing = images.shape[2] % 2, images.shape[3] % 2
    return images[:, :, ::2, ::2], F.pad(odd, (0, missing[1], 0, missing[0])) if any(missing) else odd


def _conv(n_in: int, n_out: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    # skip_init draws nothing from the global random state; `initialize` fills the weights.
    return nn.utils.skip_init(nn.Conv2d, n_in, n_out, kernel, padding=kernel // 2, groups=groups, bias=False)


def initialize(module: nn.Module, seed: int) -> None:
    """He normal weights for convolutions, a small normal for the classifier, identity for batch norms."""
    rng = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=math.sqrt(2 / part.weight[0].numel()), generator=rng)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5, generator=rng)
            nn.init.zeros_(part.bias)


class ReLUConvBN(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv, self.norm = _conv(n_in, n_out), nn.BatchNorm2d(n_out)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(F.relu(images)))


class FactorizedReduce(nn.Module):
    """Halves the resolution: even and odd pixels, each for half the channels."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.even = _conv(n_in, n_out // 2) if n_out > 1 else None
        self.odd, self.norm = _conv(n_in, n_out - n_out // 2), nn.BatchNorm2d(n_out)

    def forward(self, images: Tensor) -> Tensor:
        even, odd = halved(F.relu(images))
        halves = [self.odd(odd)] if self.even is None else [self.even(even), self.odd(odd)]
        return self.norm(torch.cat(halves, dim=1))


class _Depthwise(nn.Conv2d):
    """ReLU, depthwise convolution; followed by a pointwise one and batch norm in `ConvUnit`."""

    def forward(self, images: Tensor) -> Tensor:
        return depthwise_conv2d(images, self.weight, self.stride[0], self.dilation[0])


class ConvUnit(nn.Module):
    """ReLU, depthwise convolution, pointwise convolution, batch norm: a dilated one, or half a separable one."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.depthwise = nn.utils.skip_init(
            _Depthwise, channels, channels, kernel, stride=stride, dilation=dilation, groups=channels, bias=False
        )
        self.pointwise, self.norm = _conv(channels, channels), nn.BatchNorm2d(channels)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.pointwise(self.depthwise(F.relu(images))))


class _Pool(nn.Module):
    def __init__(self, kind: str, stride: int) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride

    def forward(self, images: Tensor) -> Tensor:
        return pool(images, self.kind, self.stride)


def pool(images: Tensor, kind: str, stride: int) -> Tensor:
    """3x3 maximum or average (over the pixels inside the image)."""
    if kind == "max_pool_3x3":
        return F.max_pool2d(images, 3, stride, 1)
    return F.avg_pool2d(images, 3, stride, 1, count_include_pad=False)


def operation_module(operation: str, channels: int, stride: int) -> nn.Module:
    """One of the paper's operations, as it stands in the final network (affine batch norms, none after a pool)."""
    if operation == "skip_connect":
        return FactorizedReduce(channels, channels) if stride == 2 else nn.Identity()
    if operation in ("max_pool_3x3", "avg_pool_3x3"):
        return _Pool(operation, stride)
    kernel = int(operation[-1])
    if operation.startswith("sep_conv"):
        return nn.Sequential(ConvUnit(channels, kernel, stride, 1), ConvUnit(channels, kernel, 1, 1))
    if operation.startswith("dil_conv"):
        return ConvUnit(channels, kernel, stride, 2)
    raise ValueError(f"{operation!r} is not an operation that a cell can keep")


class Cell(nn.Module):
    def __init__(
        self,
        nodes: tuple[tuple[Edge, Edge], ...],
        n_before: int,
        n_previous: int,
        channels: int,
        reduces: bool,
        input_reduces: bool,
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.before = FactorizedReduce(n_before, channels) if input_reduces else ReLUConvBN(n_before, channels)
        self.previous = ReLUConvBN(n_previous, channels)
        self.operations = nn.ModuleList(
            operation_module(operation, channels, 2 if reduces and source < 2 else 1)
            for node in nodes
            for operation, source in node
        )

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        states = [self.before(before), self.previous(previous)]
        for index, ((_, first), (_, second)) in enumerate(self.nodes):
            states.append(self.operations[2 * index](states[first]) + self.operations[2 * index + 1](states[second]))
        return torch.cat(states[2:], dim=1)


class CellNetwork(nn.Module):
    """The network of ``spec``: images ``(N, C, H, W)`` to logits ``(N, n_classes)``.

    It has exactly ``spec.n_params`` parameters. Weights are drawn from ``seed``; no global random state is read.
    """

    def __init__(self, spec: CellSpec, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.stem = nn.Sequential(_conv(spec.in_channels, spec.stem_channels, 3), nn.BatchNorm2d(spec.stem_channels))
        self.cells = nn.ModuleList(
            Cell(
                spec.genotype.reduction if cell.reduces else spec.genotype.normal,
                cell.channels_before,
                cell.channels_previous,
                cell.channels,
                cell.reduces,
                cell.input_reduces,
            )
            for cell in spec.layout
        )
        self.classifier = nn.utils.skip_init(nn.Linear, spec.genotype.n_nodes * spec.channels[2], spec.n_classes)
        initialize(self, seed)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        before = previous = self.stem(images.contiguous(memory_format=torch.channels_last))
        for cell in self.cells:
            before, previous = previous, cell(before, previous)
        return self.classifier(previous.mean(dim=(2, 3)))
