"""Networks by name, with fresh or published weights, and the input that each was made for."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.data.images import normalise
from naslib_autokd.tasks import did_you_mean
from naslib_autokd.teachers.names import (
    ARCHITECTURES,
    PUBLISHED,
    ArchitectureName,
    TeacherError,
    is_file_name,
    timm_library,
    torchvision_models,
)

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R 601-2, as Pillow has them)."""


AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Classifiers that are used in training only, in whose files they may or may not be: networks are built without."""


@dataclass(frozen=True)
class NetworkInput:
    """What a network takes, normalised float32 images, and in which order it answers."""

    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    channels: int
    size: int | None
    """Height and width; None: whatever the task has."""
    crop: float = 1.0
    """Share of the picture's side that is shown: the centre of the picture resized to `resized_to`. Above 1 (a few of
    timm's) the picture is smaller than the input, in a black border."""
    interpolation: str = "bilinear"
    """One of `INTERPOLATIONS`, antialiased."""
    order: tuple[int, ...] = ()
    """Which of its outputs is the task's first class, second class, ...; empty: they come in the task's order."""

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise TeacherError(f"{name} has {len(values)} values, the network {self.channels} channels")
        if not all(value > 0 for value in self.std):
            raise TeacherError(f"std must be positive, got {self.std}")
        if not 0 < self.crop <= 2:
            raise TeacherError(f"the crop share must be above 0 and at most 2, got {self.crop:g}")
        if self.interpolation not in INTERPOLATIONS:
            raise TeacherError(f"the interpolation must be {' or '.join(INTERPOLATIONS)}, got {self.interpolation!r}")

    def resized_to(self, image_size: int) -> int:
        """Side to which pictures are resized before their centre is cut out, in timm's rounding."""
        return math.floor((self.size or image_size) / self.crop + 1e-6)

    def preparation(self, image_size: int) -> str:
        """How pictures of ``image_size`` pixels become the network's, in words; empty if they stay as they are."""
        size, resized = self.size or image_size, self.resized_to(image_size)
        parts = []
        if resized != image_size:
            parts.append(f"resized from {image_size} to {resized} pixels ({self.interpolation})")
        if resized > size:
            parts.append(f"the central {size} ({self.crop:.1%} of the side) cut out")
        elif resized < size:
            parts.append(f"in a black border up to {size}")
        return ", ".join(parts)


INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Published:
    """Published weights of an architecture."""

    state: Mapping[str, Tensor]
    classes: tuple[str, ...]
    """Names, in the order of the outputs; empty if they are not published with the weights."""
    input: NetworkInput


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, downsample: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if downsample else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network for small images: a 3x3 stem, then one block per entry of ``channels``.

    The resolution is halved (maximum pooling) before every block but the first. Plain He initialisation.
    """

    def __init__(self, in_channels: int, n_classes: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(channels[0])
        widths = (channels[0], *channels)
        self.blocks = nn.Sequential(
            *(_ResidualBlock(widths[i], widths[i + 1], downsample=i > 0) for i in range(len(channels)))
        )
        self.head = nn.Linear(channels[-1], n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem_bn(self.stem(images)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))


def resize(pixels: Tensor, size: int, interpolation: str) -> Tensor:
    """Square pictures ``(batch, channels, side, side)`` with values in [0, 1] in another size, antialiased."""
    if interpolation == "bilinear":
        return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    for shape in ((pixels.shape[-2], size), (size, size)):  # it overshoots, which Pillow cuts off after each pass
        pixels = F.interpolate(pixels, size=shape, mode=interpolation, antialias=True).clamp(0, 1)
    return pixels


class InputAdapter(nn.Module):
    """A network behind the input it was made for: takes pixels in [0, 1] of any size, grey or colour.

    Grey becomes colour by repetition, colour grey by `LUMA`; pictures are resized, with antialiasing, and their centre
    is cut out, as torchvision and timm do it with a square picture; then the network's own normalisation. Its outputs
    are brought into the task's order.
    """

    def __init__(self, network: nn.Module, given: NetworkInput) -> None:
        super().__init__()
        self.network = network
        self.input = given

    def extra_repr(self) -> str:
        return repr(self.input)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of float32 ``pixels`` ``(batch, channels, height, width)``, or what else the network returns."""
        wanted = self.input
        if pixels.shape[1] != wanted.channels:
            if wanted.channels == 1:
                pixels = (pixels * torch.tensor(LUMA, device=pixels.device).view(-1, 1, 1)).sum(dim=1, keepdim=True)
            else:
                pixels = pixels.expand(-1, wanted.channels, -1, -1)
        size, resized = wanted.size or pixels.shape[-1], wanted.resized_to(pixels.shape[-1])
        if pixels.shape[-1] != resized:
            pixels = resize(pixels, resized, wanted.interpolation)
        if resized > size:
            start = round((resized - size) / 2)
            pixels = pixels[..., start : start + size, start : start + size]
        elif resized < size:
            before = (size - resized) // 2
            pixels = F.pad(pixels, (before, size - resized - before) * 2)
        output: Any = self.network(normalise(pixels * 255, wanted.mean, wanted.std))
        return output[:, list(wanted.order)] if wanted.order and isinstance(output, Tensor) else output


def build_network(architecture: ArchitectureName, in_channels: int, n_classes: int) -> tuple[nn.Module, int]:
    """A network with fresh weights from torch's global generator, and the channels that it takes.

    Raises:
        TeacherError: If the library cannot build it.
    """
    source, name = architecture.source, architecture.name
    if source == "ours":
        return SmallResNet(in_channels, n_classes, ARCHITECTURES[name]), in_channels
    if source == "zoo":
        from naslib_autokd.teachers.zoo import build

        return build(name, in_channels, n_classes), in_channels
    try:
        if source == "torchvision":
            options = {"init_weights": True, "aux_logits": False} if name in AUXILIARY else {}  # they warn without
            return torchvision_models().get_model(name, weights=None, num_classes=n_classes, **options), 3
        made = timm_library().create_model(name, pretrained=False, num_classes=n_classes, in_chans=in_channels)
        return made, in_channels
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise TeacherError(f"{architecture.full} cannot be built for {n_classes} classes: {error}") from error


def is_auxiliary(architecture: ArchitectureName, tensor: str) -> bool:
    """Whether a tensor belongs to a classifier that only the training uses (`AUXILIARY`)."""
    return tensor.startswith(AUXILIARY.get(architecture.name, ()))


def published_weights(architecture: ArchitectureName) -> Published:
    """The weights that the library publishes, from its cache or the network; never unpickled.

    Raises:
        TeacherError: If there are none, or they cannot be fetched: says from where, and where to put the file.
    """
    published_classes(architecture)
    return _timm_weights(architecture) if architecture.source == "timm" else _torchvision_weights(architecture)


def published_input(architecture: ArchitectureName) -> NetworkInput | None:
    """The input of the published weights, which needs no download; None for networks of ours."""
    if architecture.source == "torchvision":
        return _torchvision_input(_torchvision_set(architecture), architecture.name)
    return _timm_input(_timm_config(architecture)) if architecture.source == "timm" else None


def published_classes(architecture: ArchitectureName) -> int:
    """How many classes the published weights have, which needs no download.

    Raises:
        TeacherError: If there are no published weights.
    """
    if architecture.source == "torchvision":
        return len(_torchvision_set(architecture).meta.get("categories", ()))
    if architecture.source == "timm":
        return int(_timm_config(architecture)["num_classes"])
    raise TeacherError(
        f"there are no published weights of {architecture.full}; without @{architecture.weights} it is trained on the "
        f"task, and {architecture.full}@FILE reads yours"
    )


def _torchvision_set(architecture: ArchitectureName) -> Any:
    enum = torchvision_models().get_model_weights(architecture.name)
    wanted = (
        "DEFAULT"
        if architecture.weights in ("", PUBLISHED) or is_file_name(architecture.weights)
        else architecture.weights
    )
    if wanted not in enum.__members__:
        raise TeacherError(f"{architecture.full} has no weights {wanted!r}{did_you_mean(wanted, enum.__members__)}")
    return enum[wanted]


def _torchvision_input(weights: Any, name: str) -> NetworkInput:
    preset = weights.transforms()
    # with their weights torchvision sets transform_input, which makes ImageNet's normalisation one to [-1, 1]
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name in AUXILIARY else (tuple(preset.mean), tuple(preset.std))
    size, resized = preset.crop_size[0], preset.resize_size[0]
    return NetworkInput(mean, std, 3, size, size / resized, preset.interpolation.value)


def _torchvision_weights(architecture: ArchitectureName) -> Published:
    weights = _torchvision_set(architecture)
    file = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(weights.url)
    try:
        state = torch.hub.load_state_dict_from_url(
            weights.url, progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except Exception as error:  # URLError, HTTPError, time-outs, a wrong hash, a damaged file
        raise TeacherError(_unreachable(architecture, f"{weights.url} into {file}", error, str(file))) from error
    categories = tuple(weights.meta.get("categories", ()))
    return Published(state, categories, _torchvision_input(weights, architecture.name))


def _timm_name(architecture: ArchitectureName) -> str:
    if architecture.weights in ("", PUBLISHED) or is_file_name(architecture.weights):
        return architecture.name
    return f"{architecture.name.partition('.')[0]}.{architecture.weights}"


def _timm_config(architecture: ArchitectureName) -> Mapping[str, Any]:
    name = _timm_name(architecture)
    config = timm_library().get_pretrained_cfg(name)
    if config is None:
        raise TeacherError(f"timm has no weights {name!r}")
    found: Mapping[str, Any] = config.to_dict()
    return found


def _timm_input(config: Mapping[str, Any]) -> NetworkInput:
    channels, size, _ = config["input_size"]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return NetworkInput(mean, std, channels, size, config["crop_pct"], config["interpolation"])


def _timm_weights(architecture: ArchitectureName) -> Published:
    config = _timm_config(architecture)
    place = f"hf-hub:{config.get('hf_hub_id')}" if config.get("hf_hub_id") else str(config.get("url"))
    try:
        network = timm_library().create_model(_timm_name(architecture), pretrained=True)
    except Exception as error:  # what huggingface_hub raises has no common base but this
        raise TeacherError(_unreachable(architecture, place, error, None)) from error
    return Published(network.state_dict(), (), _timm_input(config))


def _unreachable(architecture: ArchitectureName, tried: str, error: Exception, cache: str | None) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    put = f"put the file at {cache}, or " if cache else ""
    return (
        f"the published weights of {architecture.full} cannot be had: tried {tried}, which failed ({reason}). On a "
        f"machine with a network fetch them there, then here {put}name it: {architecture.full}@FILE"
    )
