"""The training loop, on one screen and without hooks, and prediction in large batches.

Nothing here draws from a global random state: one `torch.Generator` per training shuffles and picks views, so the
same seed gives the same weights, bit for bit, on the same machine with the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.distillation.data import TaskData
from naslib_autokd.distillation.losses import distillation_loss

PREDICT_BATCH = 250
"""Images of one batch of predictions; fewer of more than 64 x 64 pixels, so that a batch of them fits into memory."""


class KDLike(Protocol):
    """The KD settings of a candidate; `search_spaces.hnag.KDSettings` is one."""

    @property
    def temperature(self) -> float: ...

    @property
    def kd_weight(self) -> float: ...


class Objective(Protocol):
    """What `train` minimises, where it is not the KD loss of the logits."""

    def parameters(self) -> Iterable[Tensor]:
        """Trained together with the model's."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, view: Tensor, index: Tensor, done: float
    ) -> tuple[Tensor, Tensor]:
        """Run the model: its logits and the loss.

        Args:
            images: Normalised, ``(batch, channels, size, size)``: ``data.train_views[view, index]``.
            done: Share of the training's steps that lie behind, in [0, 1).
        """


@dataclass(frozen=True)
class TrainingSettings:
    """How every student is trained. Defaults: a recipe for short trainings, the same for all methods."""

    lr: float = 0.1
    """Peak of the triangular schedule."""
    momentum: float = 0.9
    """Nesterov's."""
    weight_decay: float = 5e-4
    peak: float = 0.2
    """Share of the training after which the learning rate is highest."""
    max_grad_norm: float = 5.0
    divergence_factor: float = 4.0
    """A training has diverged when an epoch's mean loss exceeds this many times the loss of its first batch."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to; failures that the student caused are results too."""

    status: str
    """``success``, ``diverged`` or ``timeout``."""
    message: str
    epochs: float
    """Epochs trained, also of a training that ended early."""
    curve: tuple[float, ...]
    """Mean loss of each epoch, in nats; finite values only."""
    train_accuracy: float | None
    """Share of the last epoch's training images that were named correctly in passing."""
    seconds: float


def train(
    model: nn.Module,
    data: TaskData,
    teacher_logits: Tensor | None,  # (n_views, n_train, classes)
    *,
    kd: KDLike | None,
    epochs: int,
    seed: int,
    settings: TrainingSettings | None = None,
    time_limit_s: float | None = None,
    progress: Callable[[int, float], None] | None = None,
    objective: Objective | None = None,
) -> TrainingResult:
    """Train ``model`` in place on the students' images; plain cross-entropy without ``teacher_logits`` or ``kd``.

    Args:
        objective: Takes the place of both losses; ``teacher_logits`` and ``kd`` are not read then.
        epochs: The schedule spans exactly these, so every budget sees a whole one. Each epoch drops the last partial
            batch, and shows each image in the next of its views (start drawn per image).
        progress: Called with (epochs done, mean loss) after each epoch.
    """
    settings = settings or TrainingSettings()
    views, labels, device = data.train_views, data.train_labels, data.device
    n_views, n = views.shape[:2]
    batch_size = min(data.task.batch_size, n)
    steps_per_epoch = n // batch_size
    rng = torch.Generator().manual_seed(seed)
    first_view = torch.randint(n_views, (n,), generator=rng)
    model.to(device)
    own = [] if objective is None else objective.parameters()
    torch_optimizer = NesterovSGD([*model.parameters(), *own], settings)
    start, curve, first_loss = time.perf_counter(), list[float](), None
    status, message, train_accuracy = "success", "", None
    for epoch in range(epochs):
        model.train()
        order = torch.randperm(n, generator=rng)
        shown = ((first_view[order] + epoch) % n_views).to(device)
        order = order.to(device)
        total, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        for step in range(steps_per_epoch):
            batch = slice(step * batch_size, (step + 1) * batch_size)
            view, index = shown[batch], order[batch]
            images = data.normalise(views[view, index])
            if objective is not None:
                done = (epoch * steps_per_epoch + step) / (epochs * steps_per_epoch)
                logits, loss = objective(model, images, labels[index], view, index, done)
            elif teacher_logits is None or kd is None:
                logits = model(images)
                loss = F.cross_entropy(logits, labels[index])
            else:
                logits = model(images)
                loss = distillation_loss(
                    logits,
                    teacher_logits[view, index],
                    labels[index],
                    temperature=kd.temperature,
                    kd_weight=kd.kd_weight,
                )
            loss.backward()
            torch_optimizer.step(triangular_lr(epoch * steps_per_epoch + step, epochs * steps_per_epoch, settings))
            detached = loss.detach()
            first_loss = detached if first_loss is None else first_loss
            total += detached
            correct += (logits.detach().argmax(dim=1) == labels[index]).sum()
        mean_loss = float(total) / steps_per_epoch  # once per epoch: the only wait for the device
        if not math.isfinite(mean_loss):
            status, message = "diverged", f"training loss was {mean_loss} in epoch {epoch + 1} of {epochs}"
            epochs = epoch + 1
            break
        curve.append(mean_loss)
        train_accuracy = float(correct) / (steps_per_epoch * batch_size)
        if progress is not None:
            progress(epoch + 1, mean_loss)
        if mean_loss > settings.divergence_factor * float(first_loss if first_loss is not None else math.inf):
            status = "diverged"
            message = f"training loss rose from {float(first_loss or 0):.3g} to {mean_loss:.3g} in epoch {epoch + 1}"
        elif time_limit_s is not None and time.perf_counter() - start > time_limit_s and epoch + 1 < epochs:
            status, message = "timeout", f"stopped after epoch {epoch + 1} of {epochs}, over {time_limit_s:g} s"
        if status != "success":
            epochs = epoch + 1
            break
    return TrainingResult(status, message, float(epochs), tuple(curve), train_accuracy, time.perf_counter() - start)


class NesterovSGD:
    """SGD with Nesterov momentum, weight decay and clipping of the gradients' joint norm, as torch has them.

    Making a `torch.optim.SGD` imports torch._dynamo (822 modules, 2 s in every process, torch 2.13); this does not.
    """

    def __init__(self, parameters: Iterable[Tensor], settings: TrainingSettings) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.settings = settings
        self._velocity = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the parameters and drop their gradients; those without a gradient stay."""
        moved = [(p, p.grad, v) for p, v in zip(self.parameters, self._velocity, strict=True) if p.grad is not None]
        if not moved:
            return
        parameters, gradients, velocity = (list(column) for column in zip(*moved, strict=True))
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (self.settings.max_grad_norm / (norm + 1e-6)).clamp(max=1))
        torch._foreach_add_(gradients, parameters, alpha=self.settings.weight_decay)
        torch._foreach_mul_(velocity, self.settings.momentum)
        torch._foreach_add_(velocity, gradients)
        torch._foreach_add_(gradients, velocity, alpha=self.settings.momentum)
        torch._foreach_add_(parameters, gradients, alpha=-lr)
        for parameter in parameters:
            parameter.grad = None


def triangular_lr(step: int, n_steps: int, settings: TrainingSettings) -> float:
    """Rises linearly to ``settings.lr`` over the first ``settings.peak`` of the steps, then falls to zero.

    Taken at the middle of the step, so that neither the first nor the last step has rate 0.
    """
    position = (step + 0.5) / n_steps
    return settings.lr * min(position / settings.peak, (1 - position) / (1 - settings.peak))


@torch.no_grad()
def predict(model: nn.Module, data: TaskData, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Logits ``(n, classes)`` of uint8 ``images``; the model is left in eval mode."""
    if batch_size is None:
        batch_size = max(8, min(PREDICT_BATCH, PREDICT_BATCH * 64**2 // data.task.image_size**2))
    model.eval()
    return torch.cat([model(data.normalise(part)) for part in images.split(batch_size)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest logit is at the label (or at another model's prediction)."""
    return int((logits.argmax(dim=1) == labels).sum()) / len(labels)


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Run torch on ``threads`` CPU threads inside the block, and on as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block (modules draw their weights from it), and put it back after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
