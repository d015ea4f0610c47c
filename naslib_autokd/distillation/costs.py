"""What a network costs: parameters, multiply-adds, training memory, latency. All for any torch module."""

from __future__ import annotations

import copy
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode


def count_params(model: nn.Module) -> int:
    """Learned numbers; running statistics do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds (counted once) of one image ``(channels, height, width)``: convolutions and matrix products.

    Counted by torch's FlopCounterMode on the meta device, so nothing is computed. torch counts two per multiply-add.
    """
    twin = _on_meta(model).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        twin(torch.empty(1, *image_shape, device="meta"))
    return counter.get_total_flops() // 2


def _on_meta(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        twin = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin
    return copy.deepcopy(model, memo)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._seen: set[int] = set()

    def watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size).atexit = False

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, Tensor):
                self.watch(leaf)
        return result


def train_memory(model: nn.Module, image_shape: tuple[int, int, int], batch_size: int) -> int:
    """Peak of live tensor bytes during one training step (forward, backward, SGD with momentum).

    Counted: every storage once from the operation that makes it until it is freed, so parameters, buffers, gradients,
    momentum, activations kept for backward and temporaries between operations. Not counted: work space inside an
    operation, the data set, the allocator's slack. Measured on a copy of the model by a real step on zeros (a few
    tens of milliseconds), because the number depends on the order in which tensors are freed.
    """
    device = next(model.parameters()).device
    twin = copy.deepcopy(model).train()
    with _LiveBytes() as memory:
        for tensor in (*twin.parameters(), *twin.buffers()):
            memory.watch(tensor)
        torch_optimizer = torch.optim.SGD(twin.parameters(), lr=0.0, momentum=0.9, nesterov=True, fused=True)
        for _ in range(2):  # the first step makes the momentum, the second is like all others
            loss = twin(torch.zeros(batch_size, *image_shape, device=device)).logsumexp(dim=1).mean()
            torch_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch_optimizer.step()
            del loss
    return memory.peak


@torch.no_grad()
def latency_s(model: nn.Module, image_shape: tuple[int, int, int], batch_size: int = 1, repeats: int = 20) -> float:
    """Median wall seconds of one eager forward pass in eval mode, after three unmeasured ones."""
    device = next(model.parameters()).device
    images = torch.zeros(batch_size, *image_shape, device=device)
    was_training = model.training
    model.eval()
    times = []
    for index in range(repeats + 3):
        start = time.perf_counter()
        model(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 3:
            times.append(time.perf_counter() - start)
    model.train(was_training)
    return statistics.median(times)
