"""A training step as one CUDA graph.

A small student's step is a thousand kernels of a few microseconds, each of which the host takes longer to launch; the
graph is launched once. Written for `training.train`; not run on a GPU by its authors yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from naslib_autokd.records import is_out_of_memory

WARM_UP_STEPS = 3
"""Eager steps before the capture, in which libraries choose their algorithms and allocate their work space."""
TOLERANCE, BFLOAT16_TOLERANCE = 1e-2, 1e-1
"""Of the self-check, relative to the norm of each tensor: kernels that add atomically do not repeat themselves, and
batch norms amplify all rounding."""

log = logging.getLogger(__name__)

Step = Callable[..., tuple[Tensor, Tensor]]
"""``step(images, labels, targets, lr, *rest) -> (logits, loss)``; moves the model."""

_unusable = ""
"""Why this process captures no more: after a capture that could not be ended, torch promises nothing for the next."""


class GraphedStep:
    """``step``, called with batches of one shape; from the call after `WARM_UP_STEPS` on a CUDA graph of it.

    The call that captures takes two steps in place of one: the graph's is compared with an eager one of the same batch
    (logits, loss, and all that the step moved). It is recorded on zeros, so that values that were read in passing, and
    are constants of the graph, are found out. Where the step cannot be captured, or differs, all its calls are eager,
    `reason` says why, and so does one line in the log. Lack of memory is not such a reason, it is raised.

    Args:
        step: Does the same operations on tensors of the same shapes every time; what ``rest`` holds is not looked at
            after the capture, and neither are Python's variables.
        state: All tensors that a step changes and the next one reads; asked again after each step.
        tolerance: Of the comparison, relative to the norm of each tensor.
    """

    def __init__(self, step: Step, state: Callable[[], Sequence[Tensor]], tolerance: float = TOLERANCE) -> None:
        self.step, self.state, self.tolerance = step, state, tolerance
        self.reason = _unusable or f"it has no more than {WARM_UP_STEPS} steps"
        self._eager_steps = 0
        self._replay: Step | None = None

    @property
    def captured(self) -> bool:
        return self._replay is not None

    def __call__(
        self, images: Tensor, labels: Tensor, targets: Tensor | None, lr: float, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        batch = (images, labels, targets, lr, *rest)
        if self._replay is not None:
            return self._replay(*batch)
        self._eager_steps += 1
        if _unusable or self._eager_steps > WARM_UP_STEPS + 1:
            return self.step(*batch)
        with _aside(images.device):
            return self.step(*batch) if self._eager_steps <= WARM_UP_STEPS else self._capture(batch)

    def _capture(self, batch: Sequence[Any]) -> tuple[Tensor, Tensor]:
        before = [tensor.detach().clone() for tensor in self.state()]

        @torch.no_grad()
        def undo() -> None:
            for tensor, value in zip(self.state(), before, strict=True):
                tensor.copy_(value)
                tensor.grad = None  # of a backward pass that was broken off

        try:
            with _waiting_is_an_error():
                logits, loss = self.step(*batch)
            expected = [logits, loss, *(tensor.detach().clone() for tensor in self.state())]
            undo()
            replay = _recorded(self.step, batch)
            found = [*replay(*batch), *self.state()]
            pairs = zip(found, expected, strict=True)
            differ = int(torch.stack([_differ(one, other, self.tolerance) for one, other in pairs]).sum())
            self.reason = f"{differ} of {len(expected)} tensors differ after its first step" if differ else ""
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.reason = " ".join(str(error).split())
        if not self.reason:
            self._replay = replay
            return found[0], found[1]
        log.warning("the training runs without a CUDA graph: %s", self.reason)
        undo()
        return self.step(*batch)


def _recorded(step: Step, batch: Sequence[Any]) -> Step:
    """The graph of a step like that of ``batch``, which is not executed here; the current stream must not be the
    default one."""
    images, labels, targets, _, *rest = batch
    static = [torch.zeros_like(images), torch.zeros_like(labels)]
    static_targets = None if targets is None else torch.zeros_like(targets)
    static_lr = torch.zeros((), device=images.device)
    graph, failed = torch.cuda.CUDAGraph(), None
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(images.device)):
            try:
                logits, loss = step(*static, static_targets, static_lr, *rest)
            except RuntimeError as error:  # an operation that waits for the device, or that has no kernel for this
                failed = error
    except RuntimeError as error:
        global _unusable
        _unusable = "a capture failed before in this process: " + " ".join(str(failed or error).split())
        _failed_graphs.append(graph)
        raise (failed or error) from None
    if failed is not None:
        raise failed

    def replay(images: Tensor, labels: Tensor, targets: Tensor | None, lr: float, *_: Any) -> tuple[Tensor, Tensor]:
        static[0].copy_(images)
        static[1].copy_(labels)
        if static_targets is not None and targets is not None:
            static_targets.copy_(targets)
        static_lr.fill_(lr)
        graph.replay()
        return logits.clone(), loss.clone()

    return replay


_failed_graphs: list[Any] = []
"""Kept, since torch's allocator may still ask them which of its allocations are theirs."""


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps a work space for each stream."""
    return torch.cuda.Stream(device)


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Run on another stream than the default one, which can be captured, in the order of the program."""
    here, side = torch.cuda.current_stream(device), _side_stream(device)
    side.wait_stream(here)
    try:
        with torch.cuda.stream(side):
            yield
    finally:
        here.wait_stream(side)


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    """Operations that wait for the device raise RuntimeError: the same in a capture would leave it unusable."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _differ(one: Tensor, other: Tensor, tolerance: float) -> Tensor:
    """Whether they do, on their device; also where something is not a number."""
    norm, one, other = torch.linalg.vector_norm, one.detach().double(), other.double()
    return ~(norm(one - other) <= tolerance * norm(other) + 1e-6)
