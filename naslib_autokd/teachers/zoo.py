"""The hand-designed networks of the distillation literature, for small images, and the features of any network.

ResNets (He et al. 2016, section 4.2), wide ResNets (Zagoruyko & Komodakis 2016), VGG (Simonyan & Zisserman 2015),
MobileNetV2 (Sandler et al. 2018), ShuffleNetV1 and V2 (Zhang et al. 2018, Ma et al. 2018) in the sizes that the
literature's CIFAR-100 tables use (the protocol of RepDistiller and mdistiller). Parameters are counted for 100 classes
and three input channels in the tests and equal those of RepDistiller's networks.

`build` makes one by name, for any number of input channels and classes; all take images of any size from 8x8. `SCALED`
are made in any width (``resnet14x0.37``), for comparisons under limits.
`features` gives the feature maps of the stages, the pooled features and the logits of these networks, of HNAG
students, of the teachers, and of torchvision's and most other networks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from naslib_autokd.tasks import did_you_mean


class StagedNetwork(nn.Module):
    """Stem, stages, neck, mean over the places, linear classifier.

    Args:
        stem: Takes ``(batch, in_channels, size, size)``.
        stages: Their outputs are the network's feature maps.
        neck: Between the last stage and the mean.
        n_features: Channels after the neck.
    """

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], neck: nn.Module, n_features: int, n_classes: int
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.neck = neck
        self.classifier = nn.Linear(n_features, n_classes)
        self.feature_points = tuple(f"stages.{index}" for index in range(len(stages)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, n_classes)``."""
        return self.classifier(self.neck(self.stages(self.stem(images))).mean(dim=(2, 3)))


def _conv_norm(
    n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True, bias: bool = False
) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(n_out),
    ]
    return [*layers, nn.ReLU()] if relu else layers


# --- residual networks ----------------------------------------------------------------------------------------------


class _BasicBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(*_conv_norm(n_in, n_out, 3, stride), *_conv_norm(n_out, n_out, 3, relu=False))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(*_conv_norm(n_in, n_out, 1, stride, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


def resnet(depth: int, width: float, in_channels: int, n_classes: int) -> StagedNetwork:
    """CIFAR ResNet of ``6n + 2`` layers; stages of ``width`` times 16, 32, 64 channels, projection shortcuts.

    The stem has ``width`` times 16 channels, but at most 32: RepDistiller's resnet8x4 and resnet32x4 have 32.
    """
    n_blocks, rest = divmod(depth - 2, 6)
    if rest or n_blocks < 1:
        raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, ...), got depth {depth}")
    channels = [max(1, round(width * base)) for base in (16, 32, 64)]
    before = min(channels[0], 32)
    stem = nn.Sequential(*_conv_norm(in_channels, before, 3))
    stages = _residual_stages(_BasicBlock, before, channels, n_blocks)
    return StagedNetwork(stem, stages, nn.Identity(), channels[-1], n_classes)


class _Bottleneck(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        hidden = n_out // 4
        self.residual = nn.Sequential(
            *_conv_norm(n_in, hidden, 1),
            *_conv_norm(hidden, hidden, 3, stride),
            *_conv_norm(hidden, n_out, 1, relu=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(*_conv_norm(n_in, n_out, 1, stride, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


def resnet50(in_channels: int, n_classes: int) -> StagedNetwork:
    """ResNet-50 with a 3x3 stem without stride and pooling, as the literature takes it for images of 32 pixels."""
    stem = nn.Sequential(*_conv_norm(in_channels, 64, 3))
    stages: list[nn.Module] = []
    n_in = 64
    for index, (n_blocks, n_out) in enumerate(((3, 256), (4, 512), (6, 1024), (3, 2048))):
        stride = 2 if index else 1
        blocks = [_Bottleneck(n_out if i else n_in, n_out, 1 if i else stride) for i in range(n_blocks)]
        stages.append(nn.Sequential(*blocks))
        n_in = n_out
    return StagedNetwork(stem, stages, nn.Identity(), n_in, n_classes)


class _WideBlock(nn.Module):
    """Pre-activation; where the channels change, the activated input goes into the shortcut too."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(n_in), nn.ReLU())
        self.residual = nn.Sequential(
            *_conv_norm(n_in, n_out, 3, stride), nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        )
        self.shortcut = None if n_in == n_out else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.before(x)
        return self.residual(activated) + (x if self.shortcut is None else self.shortcut(activated))


def wide_resnet(depth: int, width: int, in_channels: int, n_classes: int) -> StagedNetwork:
    """WRN-depth-width: ``6n + 4`` layers in pre-activation blocks, stages of ``width`` times 16, 32, 64 channels."""
    n_blocks, rest = divmod(depth - 4, 6)
    if rest or n_blocks < 1:
        raise ValueError(f"a wide ResNet has 6n + 4 layers (10, 16, 22, ...), got depth {depth}")
    channels = [base * width for base in (16, 32, 64)]
    stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
    stages = _residual_stages(_WideBlock, 16, channels, n_blocks)
    neck = nn.Sequential(nn.BatchNorm2d(channels[-1]), nn.ReLU())
    return StagedNetwork(stem, stages, neck, channels[-1], n_classes)


def _residual_stages(
    block: Callable[[int, int, int], nn.Module], n_in: int, channels: Sequence[int], n_blocks: int
) -> list[nn.Module]:
    stages: list[nn.Module] = []
    for index, n_out in enumerate(channels):
        stride = 2 if index else 1
        blocks = [block(n_out if i else n_in, n_out, 1 if i else stride) for i in range(n_blocks)]
        stages.append(nn.Sequential(*blocks))
        n_in = n_out
    return stages


# --- VGG ------------------------------------------------------------------------------------------------------------

VGG_LAYERS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""3x3 convolutions in each of the five stages."""


def vgg(depth: int, in_channels: int, n_classes: int) -> StagedNetwork:
    """VGG with batch norm and without hidden fully connected layers; stages of 64, 128, 256, 512, 512 channels.

    The resolution is halved after the first three stages, as in the distillation literature (4x4 left of 32x32).
    """
    stages: list[nn.Module] = []
    n_in = in_channels
    for index, (n_layers, n_out) in enumerate(zip(VGG_LAYERS[depth], (64, 128, 256, 512, 512), strict=True)):
        layers: list[nn.Module] = [nn.MaxPool2d(2, ceil_mode=True)] if 1 <= index <= 3 else []
        for _ in range(n_layers):
            layers += _conv_norm(n_in, n_out, 3, bias=True)
            n_in = n_out
        stages.append(nn.Sequential(*layers))
    return StagedNetwork(nn.Identity(), stages, nn.Identity(), n_in, n_classes)


# --- mobile networks ------------------------------------------------------------------------------------------------


class _InvertedResidual(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = n_in * expansion
        self.layers = nn.Sequential(
            *_conv_norm(n_in, hidden, 1),  # also with expansion 1, unlike the paper
            *_conv_norm(hidden, hidden, 3, stride, groups=hidden),
            *_conv_norm(hidden, n_out, 1, relu=False),
        )
        self.is_residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.is_residual else y


MOBILENET_V2 = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
"""(expansion, channels, blocks, stride of the first), by resolution. Sandler et al. 2018, table 2, has stride 2 also in
the second group; the literature's variant for 32x32 images has not."""


def mobilenet_v2(width: float, in_channels: int, n_classes: int) -> StagedNetwork:
    """MobileNetV2 of the distillation literature: channels times ``width`` (it uses 0.5), neck of 1280 channels."""
    return _mobilenet_v2(lambda base: int(base * width), 2, int(1280 * max(1.0, width)), in_channels, n_classes)


def _mobilenet_v2(
    wide: Callable[[int], int], stem_stride: int, n_features: int, in_channels: int, n_classes: int
) -> StagedNetwork:
    n_in = wide(32)
    stem = nn.Sequential(*_conv_norm(in_channels, n_in, 3, stem_stride))
    stages: list[nn.Module] = []
    for groups in MOBILENET_V2:
        blocks: list[nn.Module] = []
        for expansion, channels, n_blocks, stride in groups:
            n_out = wide(channels)
            for index in range(n_blocks):
                blocks.append(_InvertedResidual(n_in, n_out, 1 if index else stride, expansion))
                n_in = n_out
        stages.append(nn.Sequential(*blocks))
    return StagedNetwork(stem, stages, nn.Sequential(*_conv_norm(n_in, n_features, 1)), n_features, n_classes)


def _shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels of different groups in turn: ``(batch, groups * n, ...)`` read as ``groups x n`` and transposed."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class _ShuffleV1Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        n_new = n_out - n_in if stride == 2 else n_out  # a strided block concatenates its pooled input
        hidden = n_new // 4
        self.reduce = nn.Sequential(*_conv_norm(n_in, hidden, 1, groups=first_groups))
        self.spatial = nn.Sequential(*_conv_norm(hidden, hidden, 3, stride, groups=hidden))
        self.expand = nn.Sequential(*_conv_norm(hidden, n_new, 1, groups=groups, relu=False))
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None
        self.first_groups = first_groups

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.spatial(_shuffle(self.reduce(x), self.first_groups)))
        return torch.relu(x + y if self.pool is None else torch.cat([y, self.pool(x)], dim=1))


def shufflenet_v1(in_channels: int, n_classes: int) -> StagedNetwork:
    """ShuffleNet with 3 groups: 240, 480, 960 channels in 4, 8, 4 blocks; 1x1 stem of 24 channels without stride.

    As in RepDistiller: the depthwise convolutions are followed by a ReLU, which the paper's are not.
    """
    groups, n_in = 3, 24
    stem = nn.Sequential(*_conv_norm(in_channels, n_in, 1))
    stages: list[nn.Module] = []
    for n_out, n_blocks in ((240, 4), (480, 8), (960, 4)):
        first_groups = 1 if n_in == 24 else groups
        blocks: list[nn.Module] = [_ShuffleV1Block(n_in, n_out, 2, groups, first_groups)]
        blocks += [_ShuffleV1Block(n_out, n_out, 1, groups, groups) for _ in range(n_blocks - 1)]
        stages.append(nn.Sequential(*blocks))
        n_in = n_out
    return StagedNetwork(stem, stages, nn.Identity(), n_in, n_classes)


class _ShuffleV2Block(nn.Module):
    """Stride 1: half of the channels pass; stride 2: both halves are made from all channels."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        half = n_out // 2
        n_right = n_in if stride == 2 else half
        self.right = nn.Sequential(
            *_conv_norm(n_right, half, 1),
            *_conv_norm(half, half, 3, stride, groups=half, relu=False),
            *_conv_norm(half, half, 1),
        )
        self.left: nn.Module | None = None
        if stride == 2:
            self.left = nn.Sequential(
                *_conv_norm(n_in, n_in, 3, 2, groups=n_in, relu=False), *_conv_norm(n_in, half, 1)
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.left is not None:
            left, right = self.left(x), x
        else:
            left, right = x.chunk(2, dim=1)
        return _shuffle(torch.cat([left, self.right(right)], dim=1), 2)


def shufflenet_v2(in_channels: int, n_classes: int) -> StagedNetwork:
    """ShuffleNetV2 1x: 116, 232, 464 channels in 4, 8, 4 blocks; 1x1 stem without stride, neck of 1024 channels."""
    return _shufflenet_v2((116, 232, 464), 24, 1024, in_channels, n_classes)


def _shufflenet_v2(
    channels: Sequence[int], n_in: int, n_features: int, in_channels: int, n_classes: int, stem_kernel: int = 1
) -> StagedNetwork:
    stem = nn.Sequential(*_conv_norm(in_channels, n_in, stem_kernel))
    stages: list[nn.Module] = []
    for n_out, n_blocks in zip(channels, (4, 8, 4), strict=True):
        blocks = [_ShuffleV2Block(n_in, n_out, 2), *(_ShuffleV2Block(n_out, n_out, 1) for _ in range(n_blocks - 1))]
        stages.append(nn.Sequential(*blocks))
        n_in = n_out
    return StagedNetwork(stem, stages, nn.Sequential(*_conv_norm(n_in, n_features, 1)), n_features, n_classes)


# --- in any width ---------------------------------------------------------------------------------------------------

LEAST_CHANNELS = 4
"""Of a layer of a scaled network."""
SCALED = ("resnet8", "resnet14", "resnet20", "mobilenet_v2", "shufflenet_v2")


def scaled(
    name: str, width: float, in_channels: int, n_classes: int, multiple: int = 1, large_images: bool = False
) -> StagedNetwork:
    """A network of `SCALED` whose channels are ``width`` times those of its paper, neck and stem too.

    Small images are not halved by the stem (MobileNetV2's 3x3 has no stride then, nor has ShuffleNetV2's, which is 3x3
    as in the paper); large ones are quartered by it, in a convolution and a pooling as in the ResNets for ImageNet.

    Args:
        multiple: Channels are multiples of it.
    """

    def wide(base: int) -> int:
        return max(LEAST_CHANNELS, multiple, round(base * width / multiple) * multiple)

    def even(base: int) -> int:
        return -(-wide(base) // 2) * 2  # ShuffleNetV2 splits them

    if name == "mobilenet_v2":
        network = _mobilenet_v2(wide, 1, wide(1280), in_channels, n_classes)
    elif name == "shufflenet_v2":
        channels = [even(base) for base in (116, 232, 464)]
        network = _shufflenet_v2(channels, even(24), wide(1024), in_channels, n_classes, stem_kernel=3)
    else:
        channels = [wide(base) for base in (16, 32, 64)]
        stem = nn.Sequential(*_conv_norm(in_channels, channels[0], 3))
        n_blocks = (int(name.removeprefix("resnet")) - 2) // 6
        stages = _residual_stages(_BasicBlock, channels[0], channels, n_blocks)
        network = StagedNetwork(stem, stages, nn.Identity(), channels[-1], n_classes)
    if large_images:
        first = network.stem.get_submodule("0")
        assert isinstance(first, nn.Conv2d)
        first.stride = (2, 2)
        network.stem.append(nn.MaxPool2d(3, 2, 1))  # type: ignore[operator]
    return network


# --- by name --------------------------------------------------------------------------------------------------------

ZOO: dict[str, Callable[[int, int], StagedNetwork]] = {
    **{
        f"resnet{depth}{suffix}": partial(resnet, depth, width)
        for suffix, width in (("", 1.0), ("x0.5", 0.5), ("x2", 2.0), ("x4", 4.0))
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{
        f"wrn_{depth}_{width}": partial(wide_resnet, depth, width)
        for depth, width in ((16, 1), (16, 2), (40, 1), (40, 2))
    },
    "resnet50_cifar": resnet50,
    **{f"vgg{depth}": partial(vgg, depth) for depth in VGG_LAYERS},
    "mobilenet_v2": partial(mobilenet_v2, 0.5),
    "shufflenet_v1": shufflenet_v1,
    "shufflenet_v2": shufflenet_v2,
}
"""``ZOO[name](in_channels, n_classes)``. The halves (``x0.5``) are ours: for tasks with few parameters."""

REPDISTILLER_NAMES = {
    "resnet50": "resnet50_cifar",
    "mobilenetv2": "mobilenet_v2",
    "shufflev1": "shufflenet_v1",
    "shufflev2": "shufflenet_v2",
}
"""How RepDistiller calls them, for ``zoo:NAME@FILE``; without a source, resnet50 is torchvision's."""


def known(name: str) -> str:
    """The name as the zoo has it (``WRN-16-2`` is ``wrn_16_2``), or as `width_in` reads it.

    Raises:
        ValueError: For an unknown name (names the nearest).
    """
    key = name.lower().replace("-", "_")
    if key not in ZOO and width_in(key) is None:
        raise ValueError(f"unknown network {name!r}{did_you_mean(key, ZOO)}")
    return key


def width_in(name: str) -> tuple[str, float] | None:
    """``("resnet14", 0.37)`` of ``resnet14x0.37``; None if it is no name of a scaled network."""
    found = re.fullmatch(rf"({'|'.join(SCALED)})x(\d+(?:\.\d+)?)", name)
    return (found[1], float(found[2])) if found and float(found[2]) > 0 else None


def build(name: str, in_channels: int, n_classes: int, multiple: int = 1, large_images: bool = False) -> StagedNetwork:
    """A network of the zoo, or one of `SCALED` in another width; its weights are drawn from torch's global generator.

    Args:
        multiple: Of `scaled`; the zoo's own networks are what they are.
        large_images: The same.

    Raises:
        ValueError: For an unknown name (names the nearest).
    """
    key = known(name)
    if key in ZOO:
        return ZOO[key](in_channels, n_classes)
    found = width_in(key)
    assert found is not None
    return scaled(*found, in_channels, n_classes, multiple, large_images)


# --- features -------------------------------------------------------------------------------------------------------


class Features(NamedTuple):
    """What a network makes of a batch on its way to the logits."""

    maps: tuple[Tensor, ...]
    """One per stage, from early to late: ``(batch, channels, height, width)``."""
    pooled: Tensor
    """``(batch, n_features)``: what the last linear layer reads."""
    logits: Tensor
    """``(batch, n_classes)``."""

    def detach(self) -> Features:
        return Features(tuple(x.detach() for x in self.maps), self.pooled.detach(), self.logits.detach())


class FeaturePoints(NamedTuple):
    """Names of modules: where `features` looks."""

    maps: tuple[str, ...]
    """Their outputs are the maps."""
    pooled: str | None
    """Its input is ``pooled``; None: the mean of the last map over its places."""


_POINTS: WeakKeyDictionary[nn.Module, FeaturePoints] = WeakKeyDictionary()


def features(model: nn.Module, images: Tensor) -> Features:
    """Run ``model`` and keep the outputs of its stages.

    A module that names its stages in ``feature_points`` (and what reads the pooled features in ``pooled_point``) is
    believed: the networks of the zoo and HNAG students do.
    Otherwise the maps are the outputs of the last block at each resolution, where a block is a module that is reached
    from the model through `nn.Sequential` and modules that do not return maps themselves: the residual stages of a
    ResNet, torchvision's too. The points are looked up once a model, with one blank image.

    Raises:
        ValueError: If the model has no module with feature maps.
    """
    points = _POINTS.get(model)
    if points is None:
        points = _POINTS[model] = find_points(model, images)
    caught: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Any, Any, Any], None]:
        return lambda module, inputs, output: caught.__setitem__(name, output)

    def keep_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        caught["pooled"] = inputs[0]

    with ExitStack() as hooks:
        for name in points.maps:
            hooks.callback(model.get_submodule(name).register_forward_hook(keep(f"map {name}")).remove)
        if points.pooled is not None:
            hooks.callback(model.get_submodule(points.pooled).register_forward_pre_hook(keep_input).remove)
        logits = model(images)
    maps = tuple(caught[f"map {name}"] for name in points.maps)
    return Features(maps, caught["pooled"] if points.pooled is not None else maps[-1].mean(dim=(2, 3)), logits)


@torch.no_grad()
def find_points(model: nn.Module, images: Tensor) -> FeaturePoints:
    """Where the maps and the pooled features of a model are; the model's state is left as it was.

    Args:
        images: Of the kind that the model takes; only their shape and type count.

    Raises:
        ValueError: If there is no module with feature maps.
    """
    outputs: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[[Any, Any, Any], None]:
        return lambda module, inputs, output: outputs.append((name, output)) if isinstance(output, Tensor) else None

    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with ExitStack() as hooks:
            for name, module in model.named_modules():
                hooks.callback(module.register_forward_hook(note(name)).remove)
            model(torch.zeros_like(images[:1]))
    finally:
        for module, mode in training.items():
            module.training = mode
    modules = dict(model.named_modules())
    linear = [name for name, _ in outputs if isinstance(modules[name], nn.Linear)]
    pooled = linear[-1] if linear else None
    for name, module in reversed(modules.items()):
        if isinstance(getattr(module, "feature_points", None), tuple):
            prefix = f"{name}." if name else ""
            own = getattr(module, "pooled_point", None)
            maps = tuple(prefix + point for point in module.feature_points)
            return FeaturePoints(maps, prefix + own if isinstance(own, str) else pooled)
    is_map = {name for name, output in outputs if output.ndim == 4}

    def is_block(name: str) -> bool:
        parts = name.split(".")
        above = [".".join(parts[:n]) for n in range(1, len(parts))]
        return not any(parent in is_map and not isinstance(modules[parent], nn.Sequential) for parent in above)

    last: dict[int, str] = {}
    for name, output in outputs:
        if output.ndim == 4 and output.shape[-1] > 1 and is_block(name):
            last[output.shape[-1]] = name
    if not last:
        raise ValueError(f"{type(model).__name__} has no module with feature maps; name them in its feature_points")
    return FeaturePoints(tuple(name for _, name in sorted(last.items(), reverse=True)), pooled)
