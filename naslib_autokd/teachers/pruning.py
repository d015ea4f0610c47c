"""A teacher with fewer channels: what torch-pruning leaves of it, to be distilled further."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from naslib_autokd.data.images import TaskData
from naslib_autokd.teachers.names import TeacherError
from naslib_autokd.teachers.networks import InputAdapter
from naslib_autokd.teachers.onnx import OnnxNetwork
from naslib_autokd.teachers.teacher import Ensemble, Teacher

LEAST_CHANNELS = 4
"""Of a layer; fewer only where the teacher has fewer."""


class OfNormalised(nn.Module):
    """A network of pixels in [0, 1], for images that are normalised as students get them."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std)).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images * self.std + self.mean)


def library() -> Any:
    """torch-pruning.

    Raises:
        ImportError: If it is not installed; says how to install it.
    """
    try:
        return importlib.import_module("torch_pruning")
    except ModuleNotFoundError as error:
        raise ImportError(
            f'pruning the teacher needs torch-pruning ({error}): pip install "naslib_autokd[pruning]"'
        ) from error


def pruned(teacher: Teacher, data: TaskData, share: float, multiple: int = 1) -> nn.Module:
    """A copy of the teacher's network, trainable, with about ``share`` of the channels of each layer.

    Those of the smallest L2 norm over all weights that belong to a channel go (Li et al. 2017; Fang et al. 2023,
    "DepGraph", which finds what hangs together); the classes stay. Takes images that are normalised as students' are.

    Args:
        share: In (0, 1]; 1 is the whole network. No layer gets fewer than `LEAST_CHANNELS`.
        multiple: Channels are multiples of it, or all that a layer has.

    Raises:
        ImportError: Without torch-pruning.
        TeacherError: For an ensemble or an ONNX file, or a network that the library cannot follow.
    """
    if isinstance(teacher.network, Ensemble) or isinstance(teacher.members[0], OnnxNetwork):
        kind = "an ensemble" if isinstance(teacher.network, Ensemble) else "an ONNX file"
        raise TeacherError(f"the teacher is {kind}, which cannot be pruned")
    tp = library()
    network = copy.deepcopy(teacher.network).cpu().requires_grad_(True)
    core = network.network if isinstance(network, InputAdapter) else network
    size = data.task.image_size
    channels = data.task.in_channels
    if isinstance(network, InputAdapter):
        size, channels = network.input.size or size, network.input.channels
    example = torch.zeros(2, channels, size, size)

    def kept(channels: int) -> int:
        wanted = max(LEAST_CHANNELS, multiple, round(share * channels / multiple) * multiple)
        return min(channels, wanted)

    layers = {module: module.out_channels for module in core.modules() if isinstance(module, nn.Conv2d)}
    ratios = {layer: 1 - (kept(n) + 0.5) / n for layer, n in layers.items() if kept(n) < n}  # it takes int(n (1 - r))
    heads = [module for module in core.modules() if isinstance(module, nn.Linear)][-1:]
    if ratios:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns of parameters that belong to no layer
                tp.pruner.MagnitudePruner(
                    core.eval(),
                    example,
                    importance=tp.importance.GroupMagnitudeImportance(p=2),
                    pruning_ratio=0.0,
                    pruning_ratio_dict=ratios,
                    ignored_layers=heads,
                ).step()
                core(example)
        except Exception as error:  # it traces the user's network, and what it raises has no common base
            raise TeacherError(f"torch-pruning cannot prune the teacher: {type(error).__name__}: {error}") from error
    if isinstance(network, InputAdapter):
        network = OfNormalised(network, data.mean, data.std)
    elif (tuple(teacher.mean), tuple(teacher.std)) != (tuple(data.mean), tuple(data.std)):
        own = InputAdapter(network, teacher.input_for(data.task))
        network = OfNormalised(own, data.mean, data.std)
    return network.to(data.device).train()
