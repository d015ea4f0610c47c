"""Frozen teachers: uint8 images in, logits out, always in eval mode; alone or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from naslib_autokd.data.images import normalise
from naslib_autokd.tasks import Task
from naslib_autokd.teachers.networks import InputAdapter, NetworkInput

PREDICT_PIXELS = 250 * 64 * 64
"""Of the images of one batch, at most; 250 images of up to 64 pixels."""


class Teacher(nn.Module):
    """A frozen network with its normalisation: uint8 images in, logits out; always in eval mode.

    Args:
        network: Takes normalised float32 images; an `InputAdapter` normalises by itself (mean 0, std 1 here).
        mean: Per channel, of pixels in [0, 1]: what the network was trained with.
        std: Likewise.
        info: What is known of it (architecture, stated accuracy, classes, notes on its loading); JSON values.
    """

    def __init__(
        self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], info: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = tuple(mean), tuple(std)
        self.info = dict(info or {})
        self.requires_grad_(False)
        self.train()

    @classmethod
    def of(cls, network: nn.Module, given: NetworkInput, task: Task, info: Mapping[str, Any] | None = None) -> Teacher:
        """A teacher for the images of ``task``, which are adapted to what the network was made for."""
        if is_plain(given, task):
            return cls(network, given.mean, given.std, info)
        return cls(InputAdapter(network, given), *PIXELS, info)

    @property
    def members(self) -> tuple[nn.Module, ...]:
        """The networks of an ensemble; else the one network, without its adapter."""
        if isinstance(self.network, Ensemble):
            return tuple(self.network)
        return (self.network.network if isinstance(self.network, InputAdapter) else self.network,)

    def input_for(self, task: Task) -> NetworkInput:
        """What the network takes when it is shown images of ``task``."""
        if isinstance(self.network, InputAdapter):
            return replace(self.network.input, size=self.network.input.size or task.image_size)
        return NetworkInput(self.mean, self.std, task.in_channels, task.image_size)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode, whatever is asked: batch statistics would change the soft targets."""
        try:
            return super().train(False)
        except NotImplementedError:  # torch.export's modules have one mode
            return self

    def settle(self) -> Teacher:
        """Put back into eval mode what somebody has put into training mode (a part of the network, or one that ignores
        ``train(False)``): accuracy does not show it."""
        if any(module.training for module in self.modules()):
            self.train()
            for module in self.modules():
                module.training = False
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        self.settle()
        return self.network(normalise(images, self.mean, self.std))

    def predict(self, images: Tensor, batch_size: int | None = None) -> Tensor:
        """Logits ``(n, classes)`` of uint8 ``images``; batches are smaller for larger images."""
        batch_size = batch_size or predict_batch(self.network, images.shape[-1])
        return torch.cat([self(part) for part in images.split(batch_size)])


PIXELS = ((0.0,), (1.0,))
"""Mean and standard deviation with which images become pixels in [0, 1]."""


def predict_batch(network: nn.Module, image_size: int) -> int:
    """Images of one batch of predictions, so that a batch of large ones fits into memory."""
    sizes = [module.input.size or 0 for module in network.modules() if isinstance(module, InputAdapter)]
    return max(8, min(250, PREDICT_PIXELS // max(image_size, *sizes, 1) ** 2))


def is_plain(given: NetworkInput, task: Task) -> bool:
    """Whether the task's images need no more than normalisation, and the answer no reordering."""
    as_it_is = given.channels == task.in_channels and given.size in (None, task.image_size) and given.crop == 1
    return as_it_is and not given.order


class Ensemble(nn.ModuleList):
    """Networks behind their inputs; the logits are the mean of theirs.

    That is the geometric mean of their predictions, at every temperature alike, which the mean of the probabilities is
    at one temperature only. Hinton et al. 2015, arXiv:1503.02531, section 1, name both.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of pixels in [0, 1], float32 ``(batch, channels, height, width)``."""
        return torch.stack([network(pixels) for network in self]).mean(dim=0)
