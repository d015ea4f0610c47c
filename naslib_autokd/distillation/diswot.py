"""DisWOT: how well an untrained student suits a teacher, from one batch of images.

Two distances between student and teacher, of their last feature maps on the same images: how the activation maps of
the classes correlate (semantic similarity, M_s), and how the images correlate (relation similarity, M_r). The score is
minus their sum, higher is better; no weight is ever changed.

Source: Dong, Li and Wei, CVPR 2023, arXiv:2303.15678, the definitions of M_s and M_r; the normalisation of the matrices
as in the core code that the authors publish (README of lliai/DisWOT-CVPR2023, ``channel_similarity`` and
``batch_similarity``). Departures:

* That code correlates the channels of the gradient of the last layer's weights, which needs a student with as many
  channels as the teacher. Class activation maps have one channel per class whatever the network, and are used here:
  Grad-CAM's (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2 without the ReLU), which are those of class
  activation mapping where a network ends in global average pooling and a linear layer.
* That code takes the mean of squares over different numbers of entries, so that M_r is `SCORE_BATCH` times too small to
  matter in the sum. Here both are L2 norms, the root mean square length of the difference of two matrix rows.
* The teacher is the trained one, not a random network of its architecture.

The second and third agree better, or as well, with the accuracy after training (``benchmarks/results/diswot.md``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SCORE_BATCH = 64
"""Images of one score; the batch size of the authors' search."""

SCORE_COST = 0.5
"""What a score costs per image, as a share of training with the image once: a forward pass (a third), the gradient of
the head, and building the student. Measured 0.44 to 0.6 for the students of cluttered-digits
(``benchmarks/diswot.py``), the larger on a busy machine."""


class DisWOTError(ValueError):
    """A network has no last feature map that class activation maps can be taken from."""


class LastFeatures(NamedTuple):
    """What a network sees of a batch just before it pools and classifies."""

    maps: Tensor
    """``(batch, channels, height, width)``: the last feature map."""
    class_weights: Tensor
    """``(batch, classes, channels)``: mean over positions of the gradient of each logit with respect to ``maps``."""


class DisWOTScore(NamedTuple):
    """Distances between student and teacher, both in [0, 2]."""

    semantic: float
    """M_s."""
    relation: float
    """M_r."""

    @property
    def value(self) -> float:
        """``-(M_s + M_r)``: higher is better, 0 for a student that is the teacher."""
        return -(self.semantic + self.relation)


def class_activation_maps(features: LastFeatures) -> Tensor:  # (batch, classes, height, width)
    """The channels of the last feature map, added up with the weights that each class gives them.

    Source: DisWOT's class activation map of class n, ``G_n = sum over channels c of w_nc * A_c``; Grad-CAM, equation 2.
    """
    return torch.einsum("bnc,bchw->bnhw", features.class_weights, features.maps)


def normalised_gram(rows: Tensor) -> Tensor:  # (..., n, n)
    """Inner products of the rows of ``(..., n, d)``; each row of the result has Euclidean length 1 (or is 0)."""
    return F.normalize(rows @ rows.transpose(-2, -1), dim=-1)


def class_correlations(activation_maps: Tensor) -> Tensor:  # (batch, classes, classes)
    """Correlation of the classes' activation maps ``(batch, classes, height, width)``, of each image by itself."""
    return normalised_gram(activation_maps.flatten(2))


def sample_relations(maps: Tensor) -> Tensor:  # (batch, batch)
    """Correlation of the images by their feature maps ``(batch, channels, height, width)``."""
    return normalised_gram(maps.flatten(1))


def row_distance(ours: Tensor, theirs: Tensor) -> Tensor:  # ()
    """Root mean square length of the difference of the rows of two matrices, in [0, 2] for rows of length 1."""
    return (ours - theirs).square().sum(dim=-1).mean().sqrt()


def semantic_distance(teacher: LastFeatures, student: LastFeatures) -> Tensor:  # ()
    """M_s, over all classes of all images: `row_distance` of the class correlations."""
    ours, theirs = (class_correlations(class_activation_maps(each)) for each in (student, teacher))
    return row_distance(ours, theirs)


def relation_distance(teacher: LastFeatures, student: LastFeatures) -> Tensor:  # ()
    """M_r, over all images: `row_distance` of the sample relations."""
    return row_distance(sample_relations(student.maps), sample_relations(teacher.maps))


def compare(teacher: LastFeatures, student: LastFeatures) -> DisWOTScore:
    """Both distances, of the same images.

    Raises:
        DisWOTError: If a value is not finite, so that the student's activations overflow before any training.
    """
    distances = torch.stack([semantic_distance(teacher, student), relation_distance(teacher, student)])
    if not bool(torch.isfinite(distances).all()):
        raise DisWOTError("the features of the untrained student are not finite")
    semantic, relation = distances.tolist()
    return DisWOTScore(semantic, relation)


def last_features(network: nn.Module, images: Tensor) -> LastFeatures:
    """The last feature map of ``network`` and the weights of the classes on it; the network is not changed.

    The last feature map is the last tensor ``(batch, channels, height, width)`` with more than one position that the
    forward pass makes after its first convolution; if there is none with more than one, the last with one. It is found
    by watching torch's functions, so the network may have any modules, or none. Its mode (training or not) is the
    caller's choice. (`zoo.features` asks another question: the outputs of a network's stages, which are modules.)

    Args:
        images: ``(batch, channels, size, size)``, as the network takes them.

    Raises:
        DisWOTError: If no convolution is seen (other kinds of networks, and scripted ones), the network goes on with
            tokens after its last feature map (transformers), or the logits do not depend on it.
    """
    buffers = [buffer.clone() for buffer in network.buffers()]
    watch, inputs = _Watch(len(images)), images.detach().clone().requires_grad_(True)
    try:
        with torch.enable_grad(), watch:
            logits = network(inputs)
    finally:
        for buffer, before in zip(network.buffers(), buffers, strict=True):
            buffer.data.copy_(before)  # running statistics of batch norms in training mode
    maps = watch.last if watch.last is not None else watch.last_of_one_position
    if maps is None:
        raise DisWOTError(
            f"no convolution was seen in {type(network).__name__}; class activation maps are defined for convolutional "
            "networks, and a scripted network hides its own: give the plain module"
        )
    if watch.tokens:
        raise DisWOTError(
            f"{type(network).__name__} classifies from tokens, not from a feature map (batch, channels, height, "
            "width); class activation maps are defined for convolutional networks"
        )
    if not maps.requires_grad or logits.ndim != 2:
        raise DisWOTError(f"the logits of {type(network).__name__} do not depend on its last feature map")
    weights = []
    for total in logits.sum(dim=0):
        (gradient,) = torch.autograd.grad(total, maps, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise DisWOTError(f"the logits of {type(network).__name__} do not depend on its last feature map")
        weights.append(gradient.mean(dim=(2, 3)))
    return LastFeatures(maps.detach(), torch.stack(weights, dim=1))


def watched_features(network: nn.Module, images: Tensor) -> Tensor:  # (batch, channels, height, width)
    """The last feature map that the forward pass makes; see `last_features`.

    Raises:
        DisWOTError: If no convolution is seen.
    """
    watch = _Watch(len(images))
    with watch:
        network(images)
    maps = watch.last if watch.last is not None else watch.last_of_one_position
    if maps is None:
        raise DisWOTError(f"no convolution was seen in {type(network).__name__}")
    return maps


class _Watch(TorchFunctionMode):
    """Keeps the last feature map of a batch that torch's functions return."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.convolved = False
        self.last: Tensor | None = None
        self.last_of_one_position: Tensor | None = None
        self.tokens = False
        """Whether a linear layer was applied to tokens ``(batch, tokens, width)`` after the last feature map."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.convolved = self.convolved or func is F.conv2d
        if not self.convolved or not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if result.ndim == 4 and len(result) == self.batch:
            if result.shape[2] * result.shape[3] > 1:
                self.last, self.tokens = result, False
            else:
                self.last_of_one_position = result
        elif func is F.linear and result.ndim == 3:
            self.tokens = True
        return result
