"""The student made of torch's layers, for tools that look for layers: NASLib's zero-cost measures do.

`Student` calls torch's functions on lists of parameters, which is fastest; a measure that visits every ``nn.Conv2d``
would find none in it, add up nothing, and answer 0 for every architecture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from naslib_autokd.search_spaces.hnag.steps import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, weighted_sum
from naslib_autokd.search_spaces.hnag.student import Student


class LayeredStudent(nn.Module):
    """The same function of the same parameters as a `Student`, whose values it copies.

    Only the memory layout differs (channels come first: some measures take views). Draws no random numbers.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.spec, self.plan = student.spec, student.plan
        self.layers = nn.ModuleDict()
        """By the number of the value that a layer makes."""
        first = 0
        starts = []
        for channels in self.plan.norm_channels:
            starts.append(first)
            first += channels
        for step in self.plan.steps:
            layer: nn.Module
            if step.kind == "conv":
                stride, padding, groups = step.detail
                weight = student.convs[step.slot]
                n_out, n_in, height, width = weight.shape
                shape = (n_in * groups, n_out, (height, width), stride, padding)
                layer = conv = skip_init(nn.Conv2d, *shape, groups=groups, bias=False)
                _copy({conv.weight: weight})
            elif step.kind == "norm":
                channels = self.plan.norm_channels[step.slot]
                layer = nn.BatchNorm2d(channels, BATCH_NORM_EPS, BATCH_NORM_MOMENTUM)
                part = slice(starts[step.slot], starts[step.slot] + channels)
                assert layer.running_mean is not None
                assert layer.running_var is not None
                _copy(
                    {
                        layer.weight: student.norm_weight[part],
                        layer.bias: student.norm_bias[part],
                        layer.running_mean: student.running_mean[part],
                        layer.running_var: student.running_var[part],
                    }
                )
            elif step.kind == "relu":
                layer = nn.ReLU()
            elif step.kind == "average":
                layer = nn.AvgPool2d(*step.detail)
            elif step.kind == "max":
                layer = nn.MaxPool2d(*step.detail)
            else:
                continue
            self.layers[str(step.target)] = layer
        merge = student.merge_weights
        self.merge_weights = None if merge is None else nn.Parameter(merge.detach().clone())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = skip_init(nn.Linear, self.plan.features, student.spec.n_classes)
        _copy({self.classifier.weight: student.classifier_weight, self.classifier.bias: student.classifier_bias})

    def features(self, images: Tensor) -> Tensor:
        """What the global pooling reads: (batch, channels, height, width)."""
        plan = self.plan
        gates: Any = () if self.merge_weights is None else torch.sigmoid(self.merge_weights).unbind()
        values: list[Any] = [None] * plan.n_values
        values[0] = images
        for step, dead in zip(plan.steps, plan.dead, strict=True):
            x, i = values[step.sources[0]], step.slot
            inputs = [values[source] for source in step.sources]
            if step.kind == "sum":
                y = weighted_sum(inputs, gates[i : i + len(inputs)])
            elif step.kind == "attention":
                y = (gates[i] + torch.sigmoid(x)) * weighted_sum(inputs[1:], gates[i + 1 : i + len(inputs)])
            elif step.kind == "concat":
                y = torch.cat(inputs, dim=1)
            elif step.kind == "mean":
                y = sum(inputs[1:], start=x) / len(inputs)
            elif step.kind == "layout":
                y = x
            else:
                y = self.layers[str(step.target)](x)
            values[step.target] = y
            for source in dead:
                values[source] = None
        result: Tensor = values[plan.output]
        return result

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, n_classes) of images (batch, in_channels, image_size, image_size)."""
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def without_batch_norms(network: nn.Module) -> nn.Module:
    """The network, changed: its batch norms pass their input on, as NASLib's measures ask for (synflow)."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.forward = _identity  # type: ignore[assignment, method-assign]
    return network


def _identity(images: Tensor) -> Tensor:
    return images


@torch.no_grad()
def _copy(values: dict[Tensor, Tensor]) -> None:
    for target, source in values.items():
        target.copy_(source)
