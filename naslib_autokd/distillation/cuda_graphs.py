"""A training step as one CUDA graph.

A small student's step is a thousand kernels of a few microseconds, each of which the host takes longer to launch; the
graph is launched once. Written for `training.train`; not run on a GPU by its authors yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UP_STEPS = 3
"""Eager steps before the capture, in which libraries choose their algorithms and allocate their work space."""
TOLERANCE = 1e-2
"""Of the self-check, relative to the norm of each tensor: kernels that add atomically do not repeat themselves."""

log = logging.getLogger(__name__)

Step = Callable[..., tuple[Tensor, Tensor]]
"""``step(images, labels, targets, lr, *rest) -> (logits, loss)``; moves the model."""


def capture(step: Step, state: Callable[[], Sequence[Tensor]], first: Sequence[Any]) -> Step:
    """``step`` as a CUDA graph; ``step`` itself, with one line in the log, where it cannot be one.

    The graph's first step is compared with an eager one: logits, loss, and all that the step moved. Both are undone.

    Args:
        step: Does the same operations on tensors of the same shapes every time; what ``rest`` holds is not looked at
            after the capture.
        state: All tensors that a step changes and the next one reads; asked again after each step.
        first: Arguments of the first step.
    """
    images, labels, targets, lr, *rest = first
    before = [tensor.detach().clone() for tensor in state()]

    @torch.no_grad()
    def undo() -> None:
        for tensor, value in zip(state(), before, strict=True):
            tensor.copy_(value)

    static = [images.clone(), labels.clone(), None if targets is None else targets.clone()]
    static_lr = torch.full((), lr, device=images.device)
    try:
        here, side = torch.cuda.current_stream(images.device), torch.cuda.Stream(images.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                step(*static, static_lr, *rest)
        here.wait_stream(side)
        undo()
        expected = [*step(*static, static_lr, *rest), *(tensor.detach().clone() for tensor in state())]
        undo()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits, loss = step(*static, static_lr, *rest)
        graph.replay()
        differ = [not _agree(one, other) for one, other in zip((logits, loss, *state()), expected, strict=True)]
        reason = f"{sum(differ)} of {len(differ)} tensors differ after the first step" if any(differ) else ""
    except RuntimeError as error:  # what cannot be captured: a wait for the device, an operation without a kernel
        reason = " ".join(str(error).split())
    undo()
    if reason:
        log.warning("the training runs without a CUDA graph: %s", reason)
        return step

    def replay(images: Tensor, labels: Tensor, targets: Tensor | None, lr: float, *_: Any) -> tuple[Tensor, Tensor]:
        for own, given in zip(static, (images, labels, targets), strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        static_lr.fill_(lr)
        graph.replay()
        return logits.clone(), loss.clone()

    return replay


def _agree(one: Tensor, other: Tensor) -> bool:
    """False also where something is not a number."""
    distance, size = (torch.linalg.vector_norm(tensor.detach().double()) for tensor in (one - other, other))
    return bool(distance <= TOLERANCE * size + 1e-6)
