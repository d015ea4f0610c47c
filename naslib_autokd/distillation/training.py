"""The training loop, on one screen and without hooks, and prediction in large batches.

Nothing here draws from a global random state: one `torch.Generator` per training shuffles and picks views, so the
same seed gives the same weights, bit for bit, on the same machine with the same number of threads.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors
from torch.nn import functional as F

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.cuda_graphs import BFLOAT16_TOLERANCE, TOLERANCE, WARM_UP_STEPS, GraphedStep, Step
from naslib_autokd.distillation.losses import KDLoss, distillation_loss, partly_labelled_loss
from naslib_autokd.records import is_out_of_memory

log = logging.getLogger(__name__)

PREDICT_PIXELS = 2**17
"""Pixels of one batch of predictions: 910 images of 12x12, 128 of 32x32. On one thread that many gave most images per
second, to 3% (``benchmarks/trials.py``), and a feature map of 64 channels takes 32 MiB; `PREDICT_LEAST` at any size."""
PREDICT_LEAST = 8
GPU_PREDICT_PIXELS = 2**21
"""The same on a GPU: 2,048 images of 32x32 (a feature map of 64 channels takes 512 MiB), since launching the kernels of
a small student takes longer than running them on 128 images."""
CHUNK_PIXELS = 2**18
"""Values that are gathered and made floats at once (1 MiB, a cache's worth), if one batch has not more."""
GPU_CHUNK_PIXELS = 2**24
"""The same on a GPU: some forty batches of 128 images of 3x32x32."""

JOINED = 2**20
"""Numbers that `NesterovSGD` joins into one tensor; larger networks make several."""

PRECISIONS = ("float32", "bfloat16", "auto")


class KDLike(Protocol):
    """The KD settings of a candidate; `search_spaces.hnag.KDSettings` is one."""

    @property
    def temperature(self) -> float: ...

    @property
    def kd_weight(self) -> float: ...


@runtime_checkable
class HasBFloat16(Protocol):
    """A module with a bfloat16 of its own on CPUs (`search_spaces.hnag.student.Student`)."""

    precision: str
    """``float32`` or ``bfloat16``: of its next pass in training."""

    @property
    def without_bfloat16(self) -> str:
        """Why it cannot; empty where it can."""

    def __call__(self, images: Tensor) -> Tensor: ...


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
    cuda_graph: bool = True
    """On a CUDA device, replay the whole step as one CUDA graph where it can be one (`cuda_graphs`); else, and where
    False, its kernels are launched one by one (`TrainingResult.cuda_graph_reason` says why). On a CPU nothing."""
    precision: str = "float32"
    """``bfloat16``: values between operations are rounded to 8 bits; parameters, statistics, sums, loss and optimizer
    stay in float32, and so does all that is not training. On a CPU students have kernels of their own for it, and
    train in float32 where these do not run (`TrainingResult.precision_reason` says why); other models, and GPUs, take
    ``torch.autocast``. ``auto``: that where a step of this model on this machine takes less time so
    (`step_seconds`)."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")


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
    """Share of the last epoch's labelled images that were named correctly in passing."""
    seconds: float
    precision: str = "float32"
    """``float32`` or ``bfloat16``: what it ran in."""
    precision_reason: str = ""
    """Why, where another precision than float32 was asked for: what was measured, or what is missing."""
    cuda_graph: bool = False
    """Whether its steps were replayed as a CUDA graph."""
    cuda_graph_reason: str = ""
    """Why not, on a CUDA device."""


@dataclass(frozen=True)
class Checkpoint:
    """A training after some epochs, with everything that its continuation depends on."""

    epochs: int
    """Epochs done."""
    seed: int
    """Of the training: orders and views of the epochs to come follow from it."""
    model: dict[str, Tensor]
    """Its state dict."""
    velocity: tuple[Tensor, ...]
    """The optimizer's, of the parameters that are trained, in their order."""
    first_loss: float
    """Mean loss of the first batch."""


def train(
    model: nn.Module,
    data: TaskData,
    teacher_logits: Tensor | None,  # (n_views, n_train + n_unlabelled, classes)
    *,
    kd: KDLike | None,
    epochs: int,
    seed: int,
    settings: TrainingSettings | None = None,
    time_limit_s: float | None = None,
    progress: Callable[[int, float], None] | None = None,
    progress_within: Callable[[float], None] | None = None,
    objective: Objective | None = None,
    kd_loss: KDLoss | None = None,
    schedule_epochs: int | None = None,
    start: Checkpoint | None = None,
    keep: Callable[[Checkpoint], None] | None = None,
) -> TrainingResult:
    """Train ``model`` in place on the students' images; plain cross-entropy without ``teacher_logits`` or ``kd``.

    Where the task has pictures without labels, an epoch passes over them too; on them the loss is the divergence from
    the teacher alone. Trainings that cannot learn from them (plain cross-entropy, an ``objective``) see labelled images
    in their place, so that an epoch takes as many steps.
    The device is waited for once per epoch, at its end, and when a graph is captured.

    Args:
        objective: Takes the place of both losses; ``teacher_logits`` and ``kd`` are not read then.
        kd_loss: Takes the place of the KD loss.
        epochs: After so many the training ends, those of ``start`` included. Each epoch drops the last partial batch,
            and shows each image in the next of its views (start drawn per image).
        progress: Called with (epochs done, mean loss) after each epoch.
        progress_within: Called every few steps with the epochs done, as a fraction.
        schedule_epochs: What the learning rate's schedule spans; by default exactly ``epochs``, so that every budget
            sees a whole one.
        start: Continue this training of a model like ``model``, which gets its weights; ``seed`` must be its seed. With
            the same ``schedule_epochs`` the weights become, bit for bit, those of a training that was not interrupted.
        keep: Called with the state after the last epoch of a training that succeeds.

    Raises:
        ValueError: If there is nothing left to train, ``start`` is of a training with another seed, or another
            precision than float32 is asked for with an ``objective``.
    """
    settings = settings or TrainingSettings()
    schedule_epochs = epochs if schedule_epochs is None else schedule_epochs
    done = 0 if start is None else start.epochs
    if not done < epochs <= schedule_epochs:
        raise ValueError(
            f"epochs={epochs} must be more than the {done} that are done and at most schedule_epochs={schedule_epochs}"
        )
    if start is not None and start.seed != seed:
        raise ValueError(f"the training to continue has seed {start.seed}, got seed={seed}")
    soft = teacher_logits if kd is not None and objective is None else None
    views, labels = (data.train_views, data.train_labels) if soft is None else (data.student_views, data.student_labels)
    n_labelled, device = len(data.train_labels), data.device
    if settings.precision != "float32" and objective is not None:
        raise ValueError(f"precision={settings.precision!r} goes with the KD loss or cross-entropy")
    n_views, n = len(views), data.n_shown
    batch_size = min(data.task.batch_size, n)
    steps_per_epoch = n // batch_size
    rng = torch.Generator().manual_seed(seed)
    first_view = torch.randint(n_views, (n,), generator=rng)
    for _ in range(done):
        torch.randperm(n, generator=rng)
    model.to(device)
    if (device.type == "cpu") != isinstance(model, HasBFloat16):
        # on CPUs students have kernels of their own, on GPUs activations in this layout
        channels_last(model)
    own = [] if objective is None else objective.parameters()
    torch_optimizer = NesterovSGD([*model.parameters(), *own], settings)
    if start is not None:
        model.load_state_dict(start.model)
        torch_optimizer.load_velocity(start.velocity)
    partly_labelled = soft is not None and n > n_labelled
    reason = "" if settings.precision == "float32" else without_bfloat16(model, device)
    step = TrainingStep(
        *(model, torch_optimizer, kd, objective, settings.precision == "bfloat16" and not reason),
        kd_loss=kd_loss or (partly_labelled_loss if partly_labelled else distillation_loss),
    )
    run: Step | None = None
    no_graph = without_graph(device, settings, objective, kd_loss)
    started, curve = time.perf_counter(), list[float]()
    first = None if start is None else torch.tensor(start.first_loss, device=device)
    status, message, train_accuracy = "success", "", None
    n_shown, n_steps = steps_per_epoch * batch_size, schedule_epochs * steps_per_epoch
    chunk = CHUNK_PIXELS if device.type == "cpu" else GPU_CHUNK_PIXELS
    per_chunk = batch_size * max(1, chunk // (batch_size * math.prod(views.shape[2:])))
    for epoch in range(done, epochs):
        model.train()
        order = torch.randperm(n, generator=rng)[:n_shown]
        shown = ((first_view[order] + epoch) % n_views).to(device)
        if soft is None:
            order %= n_labelled
        order = order.to(device)
        hard = labels[order]
        # a tensor that stays for each step would tear holes into the memory that large batches come back to
        losses, correct, done_steps = torch.zeros(steps_per_epoch, device=device), torch.zeros((), device=device), 0
        for begin in range(0, n_shown, per_chunk):
            part = slice(begin, begin + per_chunk)
            columns = [data.normalise(views[shown[part], order[part]]), hard[part], shown[part], order[part]]
            columns += [] if soft is None else [soft[shown[part], order[part]]]
            outputs: list[tuple[Tensor, Tensor]] = []
            in_batches = (column.split(batch_size) for column in columns)
            for images, now_hard, view, index, *now_soft in zip(*in_batches, strict=True):
                at = epoch * steps_per_epoch + done_steps + len(outputs)
                lr = triangular_lr(at, n_steps, settings)
                batch = (images, now_hard, now_soft[0] if now_soft else None, lr, view, index, at / n_steps)
                if run is None:
                    if settings.precision == "auto" and not reason:
                        seconds_of = step_seconds(step, batch, graph=not no_graph)
                        step = replace(step, bfloat16=seconds_of["bfloat16"] < seconds_of["float32"])
                        reason = ", ".join(f"{1e3 * s:.3g} ms a step in {name}" for name, s in seconds_of.items())
                    run = step if no_graph else step.graphed()
                outputs.append(run(*batch))
            correct += (torch.cat([logits for logits, _ in outputs]).argmax(dim=1) == hard[part]).sum()
            losses[done_steps : done_steps + len(outputs)] = torch.stack([loss for _, loss in outputs])
            done_steps += len(outputs)
            if progress_within is not None:
                progress_within(epoch + done_steps / steps_per_epoch)
        first = losses[0].clone() if first is None else first
        figures = torch.stack((losses.sum(), correct, (hard >= 0).sum(), first))
        total, n_correct, n_answers, first_loss = figures.tolist()  # once per epoch: the only wait for the device
        mean_loss = total / steps_per_epoch
        if not math.isfinite(mean_loss):
            status, message = "diverged", f"training loss was {mean_loss} in epoch {epoch + 1} of {epochs}"
            epochs = epoch + 1
            break
        curve.append(mean_loss)
        train_accuracy = n_correct / max(1, n_answers)
        if progress is not None:
            progress(epoch + 1, mean_loss)
        if mean_loss > settings.divergence_factor * first_loss:
            status = "diverged"
            message = f"training loss rose from {first_loss:.3g} to {mean_loss:.3g} in epoch {epoch + 1}"
        elif time_limit_s is not None and time.perf_counter() - started > time_limit_s and epoch + 1 < epochs:
            status, message = "timeout", f"stopped after epoch {epoch + 1} of {epochs}, over {time_limit_s:g} s"
        if status != "success":
            epochs = epoch + 1
            break
    torch_optimizer.part()
    if keep is not None and status == "success":
        weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        keep(Checkpoint(epochs, seed, weights, tuple(torch_optimizer.velocity), first_loss))
    seconds = time.perf_counter() - started
    graph = isinstance(run, GraphedStep) and run.captured
    return TrainingResult(
        status=status,
        message=message,
        epochs=float(epochs - done),
        curve=tuple(curve),
        train_accuracy=train_accuracy,
        seconds=seconds,
        precision="bfloat16" if step.bfloat16 else "float32",
        precision_reason=reason,
        cuda_graph=graph,
        cuda_graph_reason=run.reason if isinstance(run, GraphedStep) else no_graph if device.type == "cuda" else "",
    )


@dataclass(frozen=True)
class TrainingStep:
    """Forward pass, loss, backward pass and optimizer step of one batch."""

    model: nn.Module
    optimizer: NesterovSGD
    kd: KDLike | None
    objective: Objective | None
    bfloat16: bool = False
    kd_loss: KDLoss = distillation_loss
    """Of the teacher's logits, where there are any."""

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        lr: float | Tensor,
        view: Tensor,
        index: Tensor,
        done: float,
    ) -> tuple[Tensor, Tensor]:
        """Logits and loss, without gradient; ``view``, ``index`` and ``done`` are the objective's (`Objective`)."""
        if self.objective is not None:
            logits, loss = self.objective(self.model, images, labels, view, index, done)
        else:
            logits = logits_in_bfloat16(self.model, images) if self.bfloat16 else self.model(images)
            if targets is None or (kd := self.kd) is None:
                loss = F.cross_entropy(logits, labels)
            else:
                loss = self.kd_loss(logits, targets, labels, temperature=kd.temperature, kd_weight=kd.kd_weight)
        loss.backward()
        self.optimizer.step(lr)
        return logits.detach(), loss.detach()

    def state(self) -> list[Tensor]:
        """What a step changes."""
        return [*self.model.parameters(), *self.model.buffers(), *self.optimizer.velocity]

    def graphed(self) -> GraphedStep:
        """The same steps, as a CUDA graph where they can be one."""
        return GraphedStep(self, self.state, BFLOAT16_TOLERANCE if self.bfloat16 else TOLERANCE)


GRAPH_DEVICES = ("cuda",)
"""Kinds of devices that have graphs."""


def without_graph(
    device: torch.device, settings: TrainingSettings, objective: Objective | None = None, kd_loss: KDLoss | None = None
) -> str:
    """Why steps are not replayed as a CUDA graph; empty where that is tried."""
    if device.type not in GRAPH_DEVICES:
        return f"{device} has none"
    if not settings.cuda_graph:
        return "cuda_graph=False"
    if objective is not None or kd_loss is not None:
        return "a loss or an objective of one's own may change from step to step"
    return ""


def without_bfloat16(model: nn.Module, device: torch.device) -> str:
    """Why ``model`` is not trained in bfloat16 on this device; empty where it can be."""
    return model.without_bfloat16 if device.type == "cpu" and isinstance(model, HasBFloat16) else ""


def logits_in_bfloat16(model: nn.Module, images: Tensor) -> Tensor:
    """Logits, in float32, of a pass in training: in the model's own bfloat16 on a CPU where it has one, else under
    ``torch.autocast``."""
    if images.device.type == "cpu" and isinstance(model, HasBFloat16):
        before, model.precision = model.precision, "bfloat16"
        try:
            logits: Tensor = model(images)
        finally:
            model.precision = before
    else:
        # a graph may not read what was cached outside of it
        with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=images.device.type == "cpu"):
            logits = model(images)
    return logits.float()


def step_seconds(
    step: TrainingStep, batch: tuple[Any, ...], repeats: int = 2, *, graph: bool = False
) -> dict[str, float]:
    """Seconds of a step in ``float32`` and ``bfloat16`` on this machine: the shortest of ``repeats`` steps of a copy
    after one that is not counted (with ``graph`` after its capture); time of the processor, on a GPU of the clock.
    Where both take about as long, which is shorter may differ from run to run."""
    clock = time.process_time if batch[0].device.type == "cpu" else time.perf_counter
    seconds = {}
    for precision in ("float32", "bfloat16"):
        model = copy.deepcopy(step.model).train()
        optimizer = NesterovSGD(model.parameters(), step.optimizer.settings)
        own = replace(step, model=model, optimizer=optimizer, bfloat16=precision == "bfloat16")
        run: Step = own.graphed() if graph else own
        taken = []
        for _ in range(1 + repeats + WARM_UP_STEPS * graph):
            started = clock()
            loss = run(*batch)[1]
            loss.item()  # waits for the device
            taken.append(clock() - started)
        seconds[precision] = min(taken[-repeats:])
    return seconds


class _Joined(NamedTuple):
    """Parameters as one tensor."""

    indices: list[int]
    values: Tensor
    velocity: Tensor


class NesterovSGD:
    """SGD with Nesterov momentum, weight decay and clipping of the gradients' joint norm, as torch has them.

    Works on flat tensors of up to `JOINED` numbers, whatever the number of parameters, which are views of them from the
    first `step` to `part`: some 13 operations a step in place of several for each parameter. Their gradients are joined
    tensor by tensor, so that parameters, velocities and gradients exist once, but for one tensor's.

    Making a `torch.optim.SGD` imports torch._dynamo (822 modules, 2 s in every process, torch 2.13); this does not.

    Raises:
        ValueError: If the parameters are of several dtypes, or on several devices.
    """

    def __init__(self, parameters: Iterable[Tensor], settings: TrainingSettings) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.settings = settings
        self.velocity = [torch.zeros_like(parameter, requires_grad=False) for parameter in self.parameters]
        self._joined: list[_Joined] = []
        if len(kinds := {(parameter.dtype, parameter.device) for parameter in self.parameters}) > 1:
            raise ValueError(f"parameters must be of one dtype and on one device, got {sorted(map(str, kinds))}")

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Move the parameters and drop their gradients; those without a gradient stay.

        Args:
            lr: Learning rate; a tensor ``()`` on the parameters' device where a captured graph reads it.
        """
        moved = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        if not moved:
            return
        if moved != [index for joined in self._joined for index in joined.indices]:
            self._join(moved)
        gradients = [self._take_gradients(joined.indices) for joined in self._joined]
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        settings = self.settings
        # the coefficient of torch.nn.utils.clip_grad_norm_
        coefficient = norm.add_(1e-6).reciprocal_().mul_(settings.max_grad_norm).clamp_(max=1)
        for joined, gradient in zip(self._joined, gradients, strict=True):
            gradient.mul_(coefficient).add_(joined.values, alpha=settings.weight_decay)
            joined.velocity.mul_(settings.momentum).add_(gradient)
            joined.values.sub_(gradient.add_(joined.velocity, alpha=settings.momentum).mul_(lr))

    def _take_gradients(self, indices: Sequence[int]) -> Tensor:
        parameters = [self.parameters[index] for index in indices]
        flat = _flatten_dense_tensors([_rows(p.grad, p) for p in parameters if p.grad is not None])
        for index in indices:
            self.parameters[index].grad = None
        return flat

    def _join(self, moved: Sequence[int]) -> None:
        """Make these parameters, and their velocities, views of a few tensors."""
        self._joined, indices, size = [], list[int](), 0
        for index in moved:
            if indices and size + self.parameters[index].numel() > JOINED:
                self._joined.append(self._join_some(indices))
                indices, size = [], 0
            indices.append(index)
            size += self.parameters[index].numel()
        self._joined.append(self._join_some(indices))

    def _join_some(self, indices: list[int]) -> _Joined:
        parameters = [self.parameters[index] for index in indices]
        sizes = [parameter.numel() for parameter in parameters]
        values = torch.cat([_rows(parameter.detach(), parameter).reshape(-1) for parameter in parameters])
        velocity = torch.cat([_rows(self.velocity[index], self.parameters[index]).reshape(-1) for index in indices])
        for index, own, own_velocity in zip(indices, values.split(sizes), velocity.split(sizes), strict=True):
            parameter = self.parameters[index]
            parameter.data, self.velocity[index] = _unrolled(own, parameter), _unrolled(own_velocity, parameter)
        return _Joined(indices, values, velocity)

    def part(self) -> None:
        """Give each parameter a memory of its own again, as checkpoints and copies of single parameters want it."""
        for joined in self._joined:
            for index in joined.indices:
                self.parameters[index].data = self.parameters[index].detach().clone()
        self._joined = []

    @torch.no_grad()
    def load_velocity(self, velocity: Sequence[Tensor]) -> None:
        """Go on with these velocities, one for each parameter."""
        for own, given in zip(self.velocity, velocity, strict=True):
            own.copy_(given)


def channels_last(network: nn.Module) -> None:
    """Weights in channels_last: a step takes 0.6 to 0.9 of the time that it takes in the default layout (CPU)."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _is_channels_last(tensor: Tensor) -> bool:
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return channels_last and not tensor.is_contiguous()


def _rows(tensor: Tensor, parameter: Tensor) -> Tensor:
    """``tensor`` with its dimensions in the order in which ``parameter`` lies in memory."""
    return tensor.permute(0, 2, 3, 1) if _is_channels_last(parameter) else tensor


def _unrolled(flat: Tensor, parameter: Tensor) -> Tensor:
    """A view of ``flat`` with the shape and the memory layout of ``parameter``."""
    if not _is_channels_last(parameter):
        return flat.view_as(parameter)
    return flat.view(_rows(parameter, parameter).shape).permute(0, 3, 1, 2)


def triangular_lr(step: int, n_steps: int, settings: TrainingSettings) -> float:
    """Rises linearly to ``settings.lr`` over the first ``settings.peak`` of the steps, then falls to zero.

    Taken at the middle of the step, so that neither the first nor the last step has rate 0.
    """
    position = (step + 0.5) / n_steps
    return settings.lr * min(position / settings.peak, (1 - position) / (1 - settings.peak))


@torch.no_grad()
def predict(model: nn.Module, data: TaskData, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Logits ``(n, classes)`` of uint8 ``images``; the model is left in eval mode.

    Args:
        batch_size: By default what `PREDICT_PIXELS` allow, on a GPU `GPU_PREDICT_PIXELS`. Where memory does not
            suffice, half as many are tried, down to `PREDICT_LEAST`, and the log says so.
    """
    if batch_size is None:
        pixels = PREDICT_PIXELS if images.device.type == "cpu" else GPU_PREDICT_PIXELS
        batch_size = max(PREDICT_LEAST, pixels // data.task.image_size**2)
    model.eval()
    while True:
        try:
            return torch.cat([model(data.normalise(part)) for part in images.split(batch_size)])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or batch_size <= PREDICT_LEAST:
                raise
        log.warning("no memory for predictions in batches of %d: half as many are tried", batch_size)
        batch_size = max(PREDICT_LEAST, batch_size // 2)  # the exception, which holds tensors, is gone


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
