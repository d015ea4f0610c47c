"""NASLib's one-shot optimizers (DARTS, GDAS, DrNAS) on the project's tasks, with cross-entropy or the KD loss.

NASLib's optimizers are used as they are: their ``step`` is called with batches of the task, and the loss is the one
attribute that is replaced. What NASLib's Trainer does around them is done here without its data loaders: epochs, the
cosine schedule, and random states. The spaces are those of `supernets`. The found architecture is built anew, as the
graph that NASLib hands out keeps batch norms without statistics, and is trained like every other method's.

Handled here, as upstream does not (Develop, 0b51bc18): GDAS draws for ever once an architecture weight is not a number;
all three go to the first GPU wherever torch sees one.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslib_autokd.distillation.losses import distillation_loss
from naslib_autokd.distillation.training import limited_threads, seeded
from naslib_autokd.distillation.training_cost import cost_of, module_work
from naslib_autokd.optimizers.base import nearest
from naslib_autokd.optimizers.darts import bilevel_batches, forward_work, reference_work
from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.records import derive_seed
from naslib_autokd.search_spaces.hnag import KDSettings
from naslib_autokd.tasks import Task

NASLIB = load_naslib()

from naslib.optimizers import DARTSOptimizer, DrNASOptimizer, GDASOptimizer  # noqa: E402

from naslib_autokd.plugin.networks import NetworkSize  # noqa: E402
from naslib_autokd.plugin.supernets import SPACES, Architecture, DARTSSupernet, supernet_from_dict  # noqa: E402

OPTIMIZERS: dict[str, type] = {"darts": DARTSOptimizer, "gdas": GDASOptimizer, "drnas": DrNASOptimizer}
OBJECTIVES = ("kd", "ce")

Progress = Callable[[float, str], None]
"""Told the share of the search that is done, in [0, 1], and a line of text."""


# The loss -------------------------------------------------------------------------------------------------------------


class Diverged(Exception):
    """A loss or an architecture gradient is not finite."""


class BatchLoss(nn.Module):
    """What NASLib calls as ``loss(logits, labels)``: cross-entropy, or the KD loss with the batch's teacher logits.

    NASLib passes the labels of the batch on as the tensor that it was given, so that tensor tells which batch it is.
    """

    def __init__(self, kd: KDSettings | None) -> None:
        super().__init__()
        self.kd = kd
        self.batches: tuple[tuple[Tensor, Tensor], ...] = ()
        """``(labels, teacher logits)`` of the step's batches."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.kd is None:
            loss = F.cross_entropy(logits, labels)
        else:
            teacher = next(teacher for known, teacher in self.batches if known is labels)
            loss = distillation_loss(
                logits, teacher, labels, temperature=self.kd.temperature, kd_weight=self.kd.kd_weight
            )
        if not math.isfinite(float(loss.detach())):
            raise Diverged(f"a loss is {float(loss.detach())}")
        return loss


def _check_gradients(torch_optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in torch_optimizer.param_groups:
        for alpha in group["params"]:
            if alpha.grad is not None and not bool(torch.isfinite(alpha.grad).all()):
                raise Diverged("the gradient of an architecture weight is not finite")


# Results --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SupernetEpoch:
    """One pass over the images that train the weights."""

    epoch: int
    student_epochs: float
    """Charged so far."""
    train_loss: float
    val_loss: float
    """DrNAS's with its regulariser."""
    val_accuracy: float
    """Of the supernet on the images that train the architecture, in passing."""
    architecture: Architecture
    """What would be found if the search ended here."""
    alphas: list[list[float]]
    """Per edge and operation; DrNAS's concentrations are ``elu(alpha) + 1``."""


@dataclass(frozen=True)
class NASLibOneShotResult:
    """What a search found. A supernet that diverged is a result, too: the architecture of its last finite epoch."""

    optimizer: str
    space: str
    op_indices: Architecture
    """An operation for each edge; of nasbench301 NASLib's compact tuple."""
    task: Task
    supernet: NetworkSize | DARTSSupernet
    history: tuple[SupernetEpoch, ...]
    student_epochs: float
    step_cost: float
    """Student steps charged per search step."""
    search_s: float
    step_cpu_s: float
    """CPU seconds that a search step took."""
    training_seconds: float = 0.0
    """The same as ``student_epochs`` in modelled CPU seconds (`distillation.training_cost`)."""
    status: str = "success"
    """``success`` or ``diverged``."""
    collapsed: bool = False
    message: str = ""
    """Why it diverged or counts as collapsed."""

    @property
    def architecture(self) -> dict[str, Any]:
        return SPACES[self.space].described(self.op_indices, self.task)

    @property
    def curve(self) -> list[tuple[float, float]]:
        return [(epoch.student_epochs, epoch.val_accuracy) for epoch in self.history]

    @property
    def n_students(self) -> int:
        """Networks trained: the supernet."""
        return 1

    @property
    def info(self) -> dict[str, Any]:
        return {
            "host": f"NASLib {(NASLIB.commit or 'of unknown commit')[:8]}",
            "optimizer": self.optimizer,
            "supernet": asdict(self.supernet),
            **{
                name: getattr(self, name)
                for name in ("status", "collapsed", "message", "step_cost", "step_cpu_s", "search_s")
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], task: Task) -> NASLibOneShotResult:
        """Inverse of `to_dict`, for a search on this task."""
        space = values["architecture"]["space"]
        plain = ("optimizer", "student_epochs", "status", "collapsed", "message", "step_cost", "step_cpu_s", "search_s")
        return cls(
            space=space,
            op_indices=SPACES[space].architecture(values["architecture"]),
            task=task,
            supernet=supernet_from_dict(values["supernet"]),
            history=tuple(
                SupernetEpoch(**row | {"architecture": _tuples(row["architecture"])}) for row in values["history"]
            ),
            **{name: values[name] for name in plain},
            training_seconds=values.get("training_seconds", 0.0),
        )

    def build(self, seed: int = 0) -> nn.Module:
        """The found network with new weights."""
        return SPACES[self.space].network(self.op_indices, self.task, seed)

    def outcome(self) -> dict[str, Any]:
        """Everything but the times: equal, bit for bit, for the same seed."""
        return {name: value for name, value in self.to_dict().items() if name not in ("search_s", "step_cpu_s")}

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.info,
            "architecture": self.architecture,
            "student_epochs": self.student_epochs,
            "training_seconds": self.training_seconds,
            "history": [{**asdict(epoch), "architecture": list(epoch.architecture)} for epoch in self.history],
        }


def collapse(space: str, architecture: Architecture) -> str:
    """Why the (normal) cell counts as collapsed, or "" if it does not: mostly skip or none, or no weights at all."""
    return SPACES[space].collapse(architecture)


# The search -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NASLibOneShot:
    """One of NASLib's one-shot optimizers, as a `OneShotMethod`.

    Args:
        optimizer: ``"darts"``, ``"gdas"`` or ``"drnas"``.
        objective: ``"kd"``: the distillation loss in both levels; ``"ce"``: cross-entropy.
        space: ``"nasbench201"``, ``"nasbench301"`` (DARTS's own) or ``"simple_cell"``.
        kd: Temperature and weight of the distillation loss, in the search and in the final training.
        step_cost: Student steps charged per search step; by default see `search_step_cost`.

    The others are NASLib's options by its names. Its rates (0.025 and 3e-4) are for the 19,500 steps of 50 epochs on
    CIFAR-10; the defaults here are those of `optimizers.darts.DARTS`, for searches of a few hundred steps.
    """

    optimizer: str
    objective: str = "kd"
    space: str = "nasbench201"
    kd: KDSettings = field(default_factory=KDSettings)
    learning_rate: float = 0.1
    learning_rate_min: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    arch_learning_rate: float = 0.03
    arch_weight_decay: float = 1e-3
    tau_max: float = 10.0
    tau_min: float = 0.1
    step_cost: float | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("NASLib one-shot optimizer", self.optimizer, OPTIMIZERS),
            ("objective", self.objective, OBJECTIVES),
            ("NASLib space", self.space, SPACES),
        ):
            if value not in known:
                raise ValueError(nearest(value, known, name))
        for name in ("learning_rate", "grad_clip", "arch_learning_rate", "tau_max", "tau_min"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.step_cost is not None and not self.step_cost > 0:
            raise ValueError(f"step_cost must be positive, got {self.step_cost}")

    def search(
        self,
        evaluator: Any,
        budget_student_epochs: float | None,
        seed: int,
        progress: Progress | None = None,
        budget_training_seconds: float | None = None,
    ) -> NASLibOneShotResult:
        """Search within the budget; the same seed gives the same result.

        One half of the training images trains the weights, the other the architecture; the validation split is not
        read. Global random states are as before afterwards.

        Args:
            evaluator: Gives ``data``, ``soft_targets`` and ``threads`` (`KDEvaluator`); its test split is not read.
            budget_training_seconds: The budget in modelled CPU seconds instead (`distillation.training_cost`).

        Raises:
            ValueError: If the budget does not pay one search step, the space does not suit the task's images, or its
                heaviest architecture cannot fit the parameter budget.
        """
        data = evaluator.data
        task, device = data.task, data.device
        SPACES[self.space].check(task)
        with limited_threads(evaluator.threads), _only_device(device), _global_seed(seed, device):
            return self._search(evaluator, budget_student_epochs, budget_training_seconds, seed, progress)

    def restore(self, values: Mapping[str, Any], task: Task) -> NASLibOneShotResult:
        """What a search found, from its `NASLibOneShotResult.to_dict`."""
        return NASLibOneShotResult.from_dict(values, task)

    def _search(
        self, evaluator: Any, epochs: float | None, seconds: float | None, seed: int, progress: Progress | None
    ) -> NASLibOneShotResult:
        start = time.perf_counter()
        data = evaluator.data
        task, n = data.task, data.train_labels.shape[0]
        batch_size = min(task.batch_size, n // 2)
        student_steps = max(1, data.n_shown // task.batch_size)
        step_cost = self.search_step_cost(task)
        step_seconds = self.search_step_seconds(task)
        if (epochs is None) == (seconds is None):
            raise ValueError("give a budget in student-epochs or in training seconds, not both")
        budget, price, unit = epochs or 0.0, step_cost / student_steps, "student-epochs"
        if seconds is not None:
            budget, price, unit = seconds, step_seconds, "seconds"
        n_steps = int(budget / price)
        if n_steps < 1:
            raise ValueError(
                f"a budget of {budget:g} {unit} does not pay one step of NASLib's {self.optimizer} on {self.space}, "
                f"which costs {price:.2g}; raise the budget"
            )
        rng = torch.Generator().manual_seed(derive_seed(seed, "batches"))
        inner, outer, epoch_steps = bilevel_batches(evaluator, batch_size, rng, soft=self.objective == "kd")
        n_epochs = math.ceil(n_steps / epoch_steps)

        space = SPACES[self.space]
        supernet = space.supernet(task)
        optimizer = self.naslib_optimizer(supernet, n_epochs, data.device)
        loss = optimizer.loss
        optimizer.before_training()
        # NASLib's Trainer moves along the cosine by epoch; these searches have few
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer.op_optimizer, n_steps, eta_min=self.learning_rate_min
        )
        architecture = space.strongest(optimizer)
        history: list[SupernetEpoch] = []
        status, message, done, start_cpu = "success", "", 0, time.process_time()
        while done < n_steps and status == "success":
            optimizer.new_epoch(len(history))
            steps = min(epoch_steps, n_steps - done)
            train_total = val_total = correct = 0.0
            for _ in range(steps):
                images, teacher, labels = next(inner)
                val_images, val_teacher, val_labels = next(outer)
                loss.batches = ((labels, teacher), (val_labels, val_teacher))
                done += 1
                try:
                    _, val_logits, train_loss, val_loss = optimizer.step((images, labels), (val_images, val_labels))
                except Diverged as error:
                    status, message = "diverged", f"{error} in step {done} of {n_steps}"
                    break
                schedule.step()
                train_total += float(train_loss.detach())
                val_total += float(val_loss.detach())
                correct += int((val_logits.argmax(dim=1) == val_labels).sum())
            else:
                architecture = space.strongest(optimizer)
                history.append(
                    SupernetEpoch(
                        epoch=len(history) + 1,
                        student_epochs=done * step_cost / student_steps,
                        train_loss=train_total / steps,
                        val_loss=val_total / steps,
                        val_accuracy=correct / (steps * batch_size),
                        architecture=architecture,
                        alphas=[alpha.detach().tolist() for alpha in optimizer.architectural_weights],
                    )
                )
                if progress is not None:
                    kept = space.kept(architecture)
                    empty = sum(operation in ("skip_connect", "none") for operation in kept) / len(kept)
                    progress(
                        done / n_steps,
                        f"supernet {history[-1].val_accuracy:.1%}, skips and nones {empty:.0%}",
                    )
        step_cpu_s = (time.process_time() - start_cpu) / done
        if status == "success":
            optimizer.after_training()
            with warnings.catch_warnings():  # NASLib gives torch's tensors to numpy's argmax
                warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)
                architecture = space.found(optimizer)
        why = collapse(self.space, architecture)
        return NASLibOneShotResult(
            optimizer=self.optimizer,
            space=self.space,
            op_indices=architecture,
            task=task,
            supernet=supernet,
            history=tuple(history),
            student_epochs=done * step_cost / student_steps,
            training_seconds=done * step_seconds,
            step_cost=step_cost,
            search_s=time.perf_counter() - start,
            step_cpu_s=step_cpu_s,
            status=status,
            collapsed=bool(why),
            message="; ".join(filter(None, (message, why))),
        )

    def naslib_optimizer(self, supernet: NetworkSize | DARTSSupernet, n_epochs: int, device: torch.device) -> Any:
        """NASLib's optimizer with the supernet in it and our loss; weights come from torch's global generator."""
        optimizer = OPTIMIZERS[self.optimizer](
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            grad_clip=self.grad_clip,
            arch_learning_rate=self.arch_learning_rate,
            arch_weight_decay=self.arch_weight_decay,
            epochs=n_epochs,
            tau_max=self.tau_max,
            tau_min=self.tau_min,
        )
        optimizer.device = device
        optimizer.adapt_search_space(supernet.graph(), self.space)
        optimizer.loss = BatchLoss(self.kd if self.objective == "kd" else None)
        optimizer.arch_optimizer.register_step_pre_hook(_check_gradients)
        return optimizer

    def search_step_cost(self, task: Task) -> float:
        """Student steps that one search step is charged: two forward and backward passes of the supernet.

        By `forward_work`, as our own DARTS; but NASLib's optimizers compute the gradients of the weights in the
        architecture's pass, too. GDAS runs one operation per edge; it is charged for each equally often. On the task
        cluttered-digits a step of DARTS costs 5 on NAS-Bench-201 and 19 on the simple cell. On one CPU thread it takes
        some 1.5 times that, GDAS on NAS-Bench-201 2.4 times (small operations, max pooling): to the rival's advantage,
        and told by ``step_cpu_s``.
        """
        if self.step_cost is not None:
            return self.step_cost
        shape = (task.in_channels, task.image_size, task.image_size)
        return 2 * self._of_pass(task, lambda graph: forward_work(graph, shape)) / reference_work(task)

    def search_step_seconds(self, task: Task) -> float:
        """Modelled CPU seconds of one search step, as of a supernet of ours with the same work: not calibrated on
        NASLib's (the one that was timed, DARTS on NAS-Bench-201, took 0.6 of it)."""
        shape, batch_size = (task.in_channels, task.image_size, task.image_size), task.batch_size

        def seconds(graph: Any) -> float:
            return cost_of(module_work(graph, shape, batch_size), "supernet", batch_size).step

        return self._of_pass(task, seconds)

    def _of_pass(self, task: Task, measure: Callable[[Any], float]) -> float:
        """What ``measure`` says of the supernet, on average over what the optimizer may draw."""
        with seeded(0):
            optimizer = self.naslib_optimizer(SPACES[self.space].supernet(task), 1, torch.device("cpu"))
        graph, n_ops = optimizer.graph, len(SPACES[self.space].operations)
        every, one = [torch.full((n_ops,), 1 / n_ops)], list(torch.eye(n_ops))
        draws = {"darts": every, "drnas": every, "gdas": one}[self.optimizer]
        total = 0.0
        for weights in draws:

            def set_weights(edge: Any, weights: Tensor = weights) -> None:
                edge.data.set("sampled_arch_weight", weights, shared=True)

            graph.update_edges(set_weights, scope=optimizer.scope, private_edge_data=False)
            total += measure(graph) / len(draws)
        return total


@contextlib.contextmanager
def _only_device(device: torch.device) -> Iterator[None]:
    """Keep NASLib on ``device``: it asks torch whether there is a GPU, and then uses the current one."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
        return
    asked = torch.cuda.is_available
    torch.cuda.is_available = lambda: False
    try:
        yield
    finally:
        torch.cuda.is_available = asked


@contextlib.contextmanager
def _global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which NASLib draws from, inside the block, and put them back after it."""
    own, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  # NASLib draws from it
    gpus = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        random.seed(derive_seed(seed, "naslib", "random"))
        np.random.seed(derive_seed(seed, "naslib", "numpy"))  # noqa: NPY002
        torch.manual_seed(derive_seed(seed, "naslib", "torch"))
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(legacy)  # noqa: NPY002


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


# Factories ------------------------------------------------------------------------------------------------------------


def _make(optimizer: str, options: dict[str, Any]) -> NASLibOneShot:
    known = [f.name for f in fields(NASLibOneShot) if f.name != "optimizer"]
    for name in options:
        if name not in known:
            raise ValueError(nearest(name, known, f"option of NASLib's {optimizer}"))
    return NASLibOneShot(optimizer, **options)


def darts(**options: Any) -> NASLibOneShot:
    """NASLib's DARTS; options are those of `NASLibOneShot`, by name."""
    return _make("darts", options)


def gdas(**options: Any) -> NASLibOneShot:
    """NASLib's GDAS; options are those of `NASLibOneShot`, by name."""
    return _make("gdas", options)


def drnas(**options: Any) -> NASLibOneShot:
    """NASLib's DrNAS; options are those of `NASLibOneShot`, by name."""
    return _make("drnas", options)
