"""Networks by name: ours, the zoo's, torchvision's and timm's, with the input that each was made for.

A name is ``[source:]name[@weights]``: ``resnet-small``, ``zoo:resnet32x4``, ``torchvision:resnet18@pretrained``,
``timm:resnet10t``, ``torchvision:resnet50@IMAGENET1K_V2``, ``torchvision:resnet18@model.pth``. Without a source ours
come first, then the zoo's, torchvision's and timm's. ``weights`` is ``pretrained`` (the library's best), the name of a
published set, or a file. timm is optional (``pip install "naslib_autokd[timm]"``).
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.distillation.data import normalise
from naslib_autokd.tasks import did_you_mean

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
"""Of files that may hold a state dict."""
REFUSED = {
    ".pt2": "a .pt2 file is a program: its loader falls back to unpickling, which runs whatever the file says",
    ".pkl": "a .pkl file runs whatever it says when it is read",
    ".pickle": "a .pickle file runs whatever it says when it is read",
    ".onnx": "an .onnx file is a finished graph without the module that training and checking need",
}
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before every name of a state dict."""
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the state dict among other things."""
PUBLISHED = "pretrained"
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R 601-2, as Pillow has them)."""
SOURCES = ("ours", "zoo", "torchvision", "timm")


class TeacherError(ValueError):
    """The teacher cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class NetworkInput:
    """What a network takes: normalised float32 images."""

    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    channels: int
    size: int | None
    """Height and width; None: whatever the task has."""

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise TeacherError(f"{name} has {len(values)} values, the network {self.channels} channels")
        if not all(value > 0 for value in self.std):
            raise TeacherError(f"std must be positive, got {self.std}")


@dataclass(frozen=True)
class Published:
    """Published weights of an architecture."""

    state: Mapping[str, Tensor]
    classes: tuple[str, ...]
    """Names, in the order of the outputs; empty if they are not published with the weights."""
    input: NetworkInput


@dataclass(frozen=True)
class ArchitectureName:
    """The parts of ``[source:]name[@weights]``."""

    source: str
    name: str
    weights: str = ""

    @property
    def full(self) -> str:
        """Without weights; what a checkpoint states."""
        return self.name if self.source == "ours" else f"{self.source}:{self.name}"

    def __str__(self) -> str:
        return f"{self.full}@{self.weights}" if self.weights else self.full


ARCHITECTURES: dict[str, tuple[int, ...]] = {
    "resnet-small": (16, 32, 32),  # 38k parameters
    "resnet-medium": (64, 128, 256),  # 1.2M parameters
}
"""Channels of the `SmallResNet` blocks of the teachers that we train ourselves."""


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


class InputAdapter(nn.Module):
    """A network behind the input it was made for: takes pixels in [0, 1] of any size, grey or colour.

    Grey becomes colour by repetition, colour grey by `LUMA`; the size is changed bilinearly, with antialiasing; then
    the network's own normalisation.
    """

    def __init__(self, network: nn.Module, given: NetworkInput) -> None:
        super().__init__()
        self.network = network
        self.input = given

    def extra_repr(self) -> str:
        return repr(self.input)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of float32 ``pixels`` ``(batch, channels, height, width)``."""
        wanted = self.input
        if pixels.shape[1] != wanted.channels:
            if wanted.channels == 1:
                pixels = (pixels * torch.tensor(LUMA, device=pixels.device).view(-1, 1, 1)).sum(dim=1, keepdim=True)
            else:
                pixels = pixels.expand(-1, wanted.channels, -1, -1)
        if wanted.size is not None and pixels.shape[-1] != wanted.size:
            pixels = F.interpolate(pixels, size=(wanted.size, wanted.size), mode="bilinear", antialias=True)
        return self.network(normalise(pixels * 255, wanted.mean, wanted.std))


# --- names ----------------------------------------------------------------------------------------------------------


def zoo_names() -> tuple[str, ...]:
    from naslib_autokd.distillation.zoo import ZOO

    return tuple(ZOO)


def torchvision_names() -> tuple[str, ...]:
    models = _torchvision_models()
    return tuple(models.list_models(module=models))


def timm_names() -> tuple[str, ...]:
    return tuple(_timm().list_models())


_NAMES: dict[str, Callable[[], Sequence[str]]] = {
    "ours": lambda: tuple(ARCHITECTURES),
    "zoo": zoo_names,
    "torchvision": torchvision_names,
    "timm": timm_names,
}


def parse_architecture(text: str) -> ArchitectureName:
    """The architecture that ``[source:]name[@weights]`` names.

    Raises:
        TeacherError: For a name that nobody knows (names the nearest), or a library that is not installed.
    """
    full, at, weights = text.partition("@")
    if not full or (at and not weights):
        missing = "names no network before" if not full else "names no weights after"
        raise TeacherError(f"{text!r} {missing} the @; give NAME, NAME@pretrained or NAME@FILE")
    if at and Path(full).suffix in SUFFIXES:
        raise TeacherError(f"{text!r} has the file before the @; give {weights}@{full}")
    source, colon, name = full.partition(":")
    if colon:
        if source not in SOURCES:
            raise TeacherError(f"unknown source of networks {source!r}{did_you_mean(source, SOURCES)}")
        found = _find(source, name)
        if found is None:
            raise TeacherError(f"{source} has no network {name!r}{_nearest(name, _NAMES[source]())}")
        return ArchitectureName(source, found, weights)
    known: list[str] = []
    for source in SOURCES:
        try:
            if (found := _find(source, full)) is not None:
                return ArchitectureName(source, found, weights)
            known += [name if source == "ours" else f"{source}:{name}" for name in _NAMES[source]()]
        except ImportError:  # a library that is not there knows no names
            continue
    raise TeacherError(f"unknown network {full!r}{_nearest(full, known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    """The nearest of so many names, also of those that begin with a source."""
    if len(known) <= 20:
        return did_you_mean(name, known)
    bare = {one.partition(":")[2] or one: one for one in known}
    hint = did_you_mean(name, bare).partition(" (known:")[0]
    return f"{hint} ({len(known)} are known; naslib-autokd teacher list shows them)"


def _find(source: str, name: str) -> str | None:
    """The name as the source writes it; timm's may have a tag (``resnet10t.c3_in1k``), the zoo's hyphens."""
    if source == "zoo":
        name = name.lower().replace("-", "_")
    known = _NAMES[source]()
    return name if (name.partition(".")[0] if source == "timm" else name) in known else None


def _torchvision_models() -> Any:
    from naslib_autokd.distillation.vision import import_torchvision

    import_torchvision()
    return importlib.import_module("torchvision.models")


def _timm() -> Any:
    from naslib_autokd.distillation.vision import import_torchvision

    import_torchvision()  # timm imports it, so its operators must be there
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ImportError(f'timm is not installed ({error}): pip install "naslib_autokd[timm]"') from error


# --- building -------------------------------------------------------------------------------------------------------


def build_network(architecture: ArchitectureName, in_channels: int, n_classes: int) -> tuple[nn.Module, int]:
    """A network with fresh weights from torch's global generator, and the channels that it takes.

    Raises:
        TeacherError: If the library cannot build it.
    """
    source, name = architecture.source, architecture.name
    if source == "ours":
        return SmallResNet(in_channels, n_classes, ARCHITECTURES[name]), in_channels
    if source == "zoo":
        from naslib_autokd.distillation.zoo import build

        return build(name, in_channels, n_classes), in_channels
    try:
        if source == "torchvision":
            options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}  # they warn without
            return _torchvision_models().get_model(name, weights=None, num_classes=n_classes, **options), 3
        made = _timm().create_model(name, pretrained=False, num_classes=n_classes, in_chans=in_channels)
        return made, in_channels
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise TeacherError(f"{architecture.full} cannot be built for {n_classes} classes: {error}") from error


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
        return _torchvision_input(_torchvision_set(architecture))
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
    enum = _torchvision_models().get_model_weights(architecture.name)
    wanted = (
        "DEFAULT"
        if architecture.weights in ("", PUBLISHED) or is_file_name(architecture.weights)
        else architecture.weights
    )
    if wanted not in enum.__members__:
        raise TeacherError(f"{architecture.full} has no weights {wanted!r}{did_you_mean(wanted, enum.__members__)}")
    return enum[wanted]


def _torchvision_input(weights: Any) -> NetworkInput:
    preset = weights.transforms()
    return NetworkInput(tuple(preset.mean), tuple(preset.std), 3, preset.crop_size[0])


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
    return Published(state, categories, _torchvision_input(weights))


def _timm_name(architecture: ArchitectureName) -> str:
    if architecture.weights in ("", PUBLISHED) or is_file_name(architecture.weights):
        return architecture.name
    return f"{architecture.name.partition('.')[0]}.{architecture.weights}"


def _timm_config(architecture: ArchitectureName) -> Mapping[str, Any]:
    name = _timm_name(architecture)
    config = _timm().get_pretrained_cfg(name)
    if config is None:
        raise TeacherError(f"timm has no weights {name!r}")
    found: Mapping[str, Any] = config.to_dict()
    return found


def _timm_input(config: Mapping[str, Any]) -> NetworkInput:
    channels, size, _ = config["input_size"]
    return NetworkInput(tuple(config["mean"]), tuple(config["std"]), channels, size)


def _timm_weights(architecture: ArchitectureName) -> Published:
    config = _timm_config(architecture)
    place = f"hf-hub:{config.get('hf_hub_id')}" if config.get("hf_hub_id") else str(config.get("url"))
    try:
        network = _timm().create_model(_timm_name(architecture), pretrained=True)
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


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateFile:
    """A state dict that was read from a file."""

    state: dict[str, Tensor]
    metadata: dict[str, Any]
    """Of safetensors; values that are no JSON stay text."""
    notes: tuple[str, ...]
    """What was changed to make the names those of a plain module."""


def read_state(path: str | Path) -> StateFile:
    """Tensors by name from a ``.safetensors`` file, or a ``.pt`` file without anything but tensors and containers.

    Nothing is unpickled. A dict under one of `WRAPPERS` is taken out, `PREFIXES` that all names share are cut off.

    Raises:
        TeacherError: If the file is missing, of a kind that is not safe to read, corrupt, or holds something else.
    """
    path = Path(path)
    if (reason := REFUSED.get(path.suffix.lower())) is not None:
        raise TeacherError(f"{path} is not read: {reason}; give a state dict (.safetensors, .pt) and its architecture")
    if not path.is_file():
        raise TeacherError(f"teacher checkpoint {path} does not exist")
    metadata: dict[str, Any] = {}
    notes: list[str] = []
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = {key: _json(value) for key, value in (file.metadata() or {}).items() if key != "format"}
                state: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise TeacherError(f"teacher checkpoint {path} is corrupt: {error}") from error
    except Exception as error:  # torch.load: UnpicklingError, EOFError, RuntimeError, ... all mean an unusable file
        raise TeacherError(
            f"teacher checkpoint {path} cannot be loaded; it must be a state dict of plain tensors: {error}"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            notes.append(f"the state dict was taken from its key {wrapper!r}")
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise TeacherError(f"teacher checkpoint {path} must hold a state dict of plain tensors")
    while prefix := next((one for one in PREFIXES if all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        notes.append(f"the prefix {prefix!r} was cut off all names")
    return StateFile(dict(state), metadata, tuple(notes))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def is_file_name(text: str) -> bool:
    """Whether ``text`` means a file: by its suffix, or because it is there."""
    path = Path(text).expanduser()
    return path.suffix.lower() in (*SUFFIXES, *REFUSED) or path.is_file()


def with_weights(architecture: str, file: str) -> str:
    """``architecture@file``, the teacher that reads ``file`` as ``architecture``."""
    return str(replace(parse_architecture(architecture), weights=file))


def known_names() -> dict[str, tuple[str, ...] | str]:
    """Names by source; why there are none where a library is not installed."""
    names: dict[str, tuple[str, ...] | str] = {}
    for source, listed in _NAMES.items():
        try:
            names[source] = tuple(listed())
        except ImportError as error:
            names[source] = str(error)
    return names
