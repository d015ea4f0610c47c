"""A task of moments: images of 8 pixels in which a bright column is the class, and a network that reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from naslib_autokd.data.images import TaskData
from naslib_autokd.tasks import get_task


def bars(
    counts: tuple[int, ...], n_val: tuple[int, ...] | None = None, noise: float = 30.0, **changes: Any
) -> TaskData:
    """``counts`` training images of each class, as many for validation (or ``n_val``); up to 8 classes."""
    rng = torch.Generator().manual_seed(0)

    def images(numbers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        labels = torch.cat([torch.full((n,), index) for index, n in enumerate(numbers)])
        pixels = 100 + noise * torch.randn(len(labels), 1, 8, 8, generator=rng)
        pixels[torch.arange(len(labels)), 0, :, labels] += 60
        return pixels.clamp(0, 255).byte(), labels

    (train, train_labels), (val, val_labels) = images(counts), images(n_val or counts)
    task = replace(
        get_task("cluttered-digits"),
        name="bars",
        n_classes=len(counts),
        image_size=8,
        n_train=len(train_labels),
        n_teacher=len(train_labels),
        n_val=len(val_labels),
        **{"min_teacher_accuracy": 0.0, **changes},
    )
    return TaskData(
        task=task,
        teacher_views=train[None],
        teacher_labels=train_labels,
        val_images=val,
        val_labels=val_labels,
        classes=tuple("abcdefgh"[: len(counts)]),
        mean=(100 / 255,),
        std=(60 / 255,),
        make_test=lambda: (val.numpy(), val_labels.numpy()),
    )


class Readout(nn.Linear):
    """The mean of each column, times ``gain``; ``bias`` is that of class 0."""

    def __init__(self, n_classes: int, gain: float = 8.0, bias: float = 0.0) -> None:
        super().__init__(8, n_classes)
        with torch.no_grad():
            self.weight.copy_(gain * torch.eye(8)[:n_classes])
            self.bias.zero_()
            self.bias[0] = bias

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mean(dim=(1, 2)))
