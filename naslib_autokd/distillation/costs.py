"""What a network costs: parameters, multiply-adds, training memory, latency. All for any torch module."""

from __future__ import annotations

import copy
import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from naslib_autokd.distillation.training import NesterovSGD, TrainingSettings, logits_in_bfloat16


def count_params(model: nn.Module) -> int:
    """Learned numbers; running statistics do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds (counted once) of one image ``(channels, height, width)``: convolutions and matrix products.

    Counted with the formulas of torch's flop counter (two per multiply-add) while one blank image runs in eval mode:
    on the meta device nothing would be computed, but its kernels import torch._dynamo, which takes longer. Attention
    runs as its single matrix products: torch's formulas know none of the fused kernels of a CPU.
    """
    device, was_training = _device(model), model.training
    model.eval()
    with _no_fused_layers(), sdpa_kernel(SDPBackend.MATH), _Flops() as counter, torch.no_grad():
        model(torch.zeros(1, *image_shape, device=device))
    model.train(was_training)
    return counter.total // 2


def _device(model: nn.Module) -> torch.device:
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@contextmanager
def _no_fused_layers() -> Iterator[None]:
    """In eval mode `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` are one operation each on a CPU, in which
    nothing is seen; here they run as they do in training."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Mode(TorchDispatchMode):
    """A dispatch mode that does not import torch._dynamo (2 s in every process), as FlopCounterMode would."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Flops(_Mode):
    """FlopCounterMode's total."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


class _LiveBytes(_Mode):
    """Counts the bytes of the storages that operations return, until they are freed."""

    watches_storage_only = True
    """Tells a student that it need not run operation by operation."""

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


def train_memory(
    model: nn.Module, image_shape: tuple[int, int, int], batch_size: int, *, bfloat16: bool = False
) -> int:
    """Peak of live tensor bytes during one training step (forward, backward, SGD with momentum).

    Counted: every storage once from the operation that makes it until it is freed, so parameters, buffers, gradients,
    momentum, activations kept for backward and temporaries between operations. Not counted: work space inside an
    operation, the data set, the allocator's slack. Measured on a copy of the model by a real step on zeros (a few
    tens of milliseconds), because the number depends on the order in which tensors are freed. On the meta device there
    is no fused attention, so a weight for each pair of tokens is kept: an upper bound. ``bfloat16``: of a step with
    that precision (`training.logits_in_bfloat16`).
    """
    device = _device(model)
    twin = copy.deepcopy(model).train()
    with _LiveBytes() as memory:
        for tensor in (*twin.parameters(), *twin.buffers()):
            memory.watch(tensor)
        torch_optimizer = NesterovSGD(twin.parameters(), TrainingSettings())
        for _ in range(2):  # as the second step, all steps are
            images = torch.zeros(batch_size, *image_shape, device=device)
            outputs = tree_iter(logits_in_bfloat16(twin, images) if bfloat16 else twin(images))  # with auxiliary ones
            loss = reduce(torch.add, (o.logsumexp(dim=1).mean() for o in outputs if isinstance(o, Tensor)))
            loss.backward()
            torch_optimizer.step(lr=0.0)
            del loss
    return memory.peak


@torch.no_grad()
def inference_memory(model: nn.Module, image_shape: tuple[int, int, int], batch_size: int = 1) -> int:
    """Peak of live tensor bytes during a forward pass in eval mode, counted as in `train_memory` (weights included)."""
    device, was_training = _device(model), model.training
    model.eval()
    with _no_fused_layers(), _LiveBytes() as memory:
        for tensor in (*model.parameters(), *model.buffers()):
            memory.watch(tensor)
        model(torch.zeros(batch_size, *image_shape, device=device))
    model.train(was_training)
    return memory.peak


@torch.no_grad()
def latency_s(model: nn.Module, image_shape: tuple[int, int, int], batch_size: int = 1, repeats: int = 20) -> float:
    """Median wall seconds of one eager forward pass in eval mode, after three unmeasured ones."""
    device = _device(model)
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
