"""DARTS, the rival: bilevel search of a cell on a supernet, then the two strongest edges of every node.

Source: Liu et al. 2019, DARTS: Differentiable Architecture Search, arXiv:1806.09055 (equations are cited by
number), and its released code. Beyond the paper: the objective may be the distillation loss (``objective="kd"``), and
settings that the paper chose for 19,500 steps on CIFAR-10 are scaled to searches of a few hundred steps.
"""

from __future__ import annotations

import functools
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from naslib_autokd.distillation.losses import distillation_loss
from naslib_autokd.distillation.training import limited_threads
from naslib_autokd.distillation.training_cost import cost_of, module_work, network_cost
from naslib_autokd.evaluators.base import LimitsThreads
from naslib_autokd.optimizers.base import Checkpoint
from naslib_autokd.records import derive_seed
from naslib_autokd.search_spaces.cell.genotype import (
    OPERATIONS,
    PARAMETER_FREE,
    SMALL_OPERATIONS,
    CellSpec,
    Edge,
    Genotype,
    fit_width,
)
from naslib_autokd.search_spaces.cell.network import CellNetwork
from naslib_autokd.search_spaces.cell.supernet import Supernet, edge_index
from naslib_autokd.search_spaces.hnag import ErdosRenyi, Generator, KDSettings, WattsStrogatz
from naslib_autokd.search_spaces.hnag import fit_width as fit_student_width
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.tasks import Task

ORDERS = ("first", "second")
ARCHITECTURE_DATA = ("half", "validation")

Loss = Callable[[], Tensor]
"""Computes a loss afresh from the current values of weights and alphas."""


# Gradients of the architecture ------------------------------------------------------------------------------------


def first_order_gradient(val_loss: Loss, alphas: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The validation loss and its gradient by the alphas at the present weights (xi = 0 in the paper).

    Weight gradients are not computed at all, which saves a fifth of the pass.
    """
    loss = val_loss()
    return loss.detach(), list(torch.autograd.grad(loss, list(alphas)))


def second_order_gradient(
    train_loss: Loss,
    val_loss: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    xi: float,
    radius: float = 0.01,
) -> tuple[Tensor, list[Tensor]]:
    """The gradient by the alphas of ``L_val(w - xi * grad_w L_train(w, alpha), alpha)``, and the loss there.

    Equations 7 and 8: the Hessian-vector product is a difference of two gradients at ``w +- epsilon * v`` with
    ``v = grad_w' L_val`` and ``epsilon = radius / |v|``. Weights are changed in place and put back bit for
    bit. Departure from the released code, which unrolls a step with momentum and weight decay: the paper's plain step.

    Args:
        radius: Length of the difference's step in weight space. The paper's 0.01 crosses kinks of ReLU and maximum in
            tiny networks, where the error can exceed the term (``tests/science/test_darts_gradients.py``).
    """
    weights, alphas = list(weights), list(alphas)
    before = [w.detach().clone() for w in weights]

    def move(directions: Sequence[Tensor], by: float) -> None:
        with torch.no_grad():
            for weight, start, direction in zip(weights, before, directions, strict=True):
                weight.copy_(start).add_(direction, alpha=by)

    move(torch.autograd.grad(train_loss(), weights), -xi)
    loss = val_loss()
    gradients = torch.autograd.grad(loss, weights + alphas)
    vector, direct = gradients[: len(weights)], gradients[len(weights) :]
    norm = math.sqrt(sum(float(v.double().square().sum()) for v in vector))
    epsilon = radius / norm if norm > 0 else 0.0
    total = list(direct)
    if 0 < epsilon < math.inf:
        move(vector, epsilon)
        above = torch.autograd.grad(train_loss(), alphas)
        move(vector, -epsilon)
        below = torch.autograd.grad(train_loss(), alphas)
        total = [d - xi * (a - b) / (2 * epsilon) for d, a, b in zip(direct, above, below, strict=True)]
    with torch.no_grad():
        for weight, start in zip(weights, before, strict=True):
            weight.copy_(start)
    return loss.detach(), total


# From alphas to a cell ----------------------------------------------------------------------------------------------

Table = Sequence[Sequence[float]]
"""One row per edge, one column per operation."""


def softmax_rows(alphas: Table) -> list[list[float]]:
    """The weights of the operations on every edge.

    Raises:
        ValueError: If an alpha is not finite.
    """
    rows = []
    for row in alphas:
        if not all(map(math.isfinite, row)):
            raise ValueError(f"alphas must be finite, got {list(row)}")
        powers = [math.exp(alpha - max(row)) for alpha in row]
        rows.append([power / sum(powers) for power in powers])
    return rows


def discretise(normal: Table, reduction: Table, operations: Sequence[str], n_nodes: int) -> Genotype:
    """Section 2.4: every node keeps its two strongest edges, by the weight of each edge's strongest operation but none.

    Ties go to the lower index of the operation, then to the lower input.
    """

    def cell(alphas: Table) -> tuple[tuple[Edge, Edge], ...]:
        weights = softmax_rows(alphas)
        nodes = []
        for node in range(n_nodes):
            edges = []
            for source in range(node + 2):
                row = weights[edge_index(node, source)]
                index = max((i for i, name in enumerate(operations) if name != "none"), key=lambda i: (row[i], -i))
                edges.append((-row[index], source, operations[index]))
            first, second = sorted(sorted(edges)[:2], key=lambda edge: edge[1])
            nodes.append(((first[2], first[1]), (second[2], second[1])))
        return tuple(nodes)

    return Genotype(normal=cell(normal), reduction=cell(reduction))


def mean_entropy(alphas: Table) -> float:
    """Mean entropy of the edges' weights as a share of the largest possible: 1 is undecided, 0 is decided."""
    if len(alphas[0]) < 2:
        return 0.0
    entropies = [-sum(w * math.log(w) for w in row if w > 0) / math.log(len(row)) for row in softmax_rows(alphas)]
    return sum(entropies) / len(entropies)


def none_share(alphas: Table, operations: Sequence[str]) -> float:
    """Share of the edges on which none is the strongest."""
    if "none" not in operations:
        return 0.0
    index = list(operations).index("none")
    return sum(max(row) == row[index] for row in alphas) / len(alphas)


def collapse(genotype: Genotype) -> str:
    """Why the normal cell counts as collapsed, or "" if it does not.

    DARTS is known to end in skip connections, which train fastest (Zela et al. 2020, arXiv:1909.09656; Liang et al.
    2019, arXiv:1909.06035). Reduction cells of pools are normal: the paper's own has no convolution at all.
    """
    kept = [operation for node in genotype.normal for operation, _ in node]
    skips = kept.count("skip_connect")
    if 2 * skips > len(kept):
        return f"{skips} of {len(kept)} edges of the normal cell are skip connections"
    if all(operation in PARAMETER_FREE for operation in kept):
        return f"none of the {len(kept)} edges of the normal cell has weights"
    return ""


# What it costs ------------------------------------------------------------------------------------------------------

MACS_PER_ELEMENT = 30
"""An element that an operation writes takes the time of so many multiply-adds: 16 channels at 12x12, batch 32, forward
and backward, one CPU thread: convolution 3x3 0.91 ms, 1x1 0.28, depthwise 0.32, batch norm 0.20, ReLU 0.06."""

WEIGHT_PASS, ALPHA_PASS = 3.0, 2.4
"""Forward and backward, in forward passes; a pass without weight gradients was measured at 0.8 of one with them."""


class _Elements(TorchDispatchMode):
    """Counts the elements that operations write; views write none."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple) else out
        if isinstance(first, Tensor) and not func.is_view:
            self.written += first.numel()
        return out


def forward_work(model: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Deterministic cost of one image's forward pass, in multiply-adds: those done, plus 30 per element written.

    Multiply-adds alone would charge a supernet, which is mostly depthwise convolutions, pools and batch norms, a
    fraction of its time.
    """
    batch, training = 4, model.training
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    elements, macs = _Elements(), FlopCounterMode(display=False)
    model.train()
    with torch.no_grad(), macs, elements:
        model(torch.zeros(batch, *image_shape))
    for name, buffer in model.named_buffers():
        buffer.copy_(state[name])
    model.train(training)
    return (macs.get_total_flops() / 2 + MACS_PER_ELEMENT * elements.written) / batch


# The search -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchEpoch:
    """One pass over the images that train the weights, and what the cell would be if the search ended here."""

    epoch: int
    student_epochs: float
    """Charged so far."""
    train_loss: float
    val_loss: float
    val_accuracy: float
    """Of the supernet on the images that train the architecture, in passing; not of the network that it implies."""
    skip_share: float
    """Of the kept edges of both cells."""
    none_share: float
    """Edges of both cells on which none is the strongest."""
    entropy: float
    """See `mean_entropy`."""
    genotype: Genotype
    alphas: dict[str, list[list[float]]]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "genotype": self.genotype.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchEpoch:
        """Inverse of `to_dict`."""
        return cls(**{**values, "genotype": Genotype.from_dict(values["genotype"])})


@dataclass(frozen=True)
class DARTSResult:
    """What a search found. A supernet that diverged is a result, too: the cell of its last finite epoch."""

    spec: CellSpec
    """The found cells at the largest width within the task's parameter budget."""
    history: tuple[SearchEpoch, ...]
    student_epochs: float
    """Charged in total, trainings for the choice among several searches included."""
    step_cost: float
    """Student steps charged per search step."""
    search_s: float
    step_cpu_s: float = 0.0
    """CPU seconds that a search step took: divided by a student step's, what ``step_cost`` stands for."""
    training_seconds: float = 0.0
    """The same as ``student_epochs`` in modelled CPU seconds (`distillation.training_cost`)."""
    status: str = "success"
    """``success`` or ``diverged``."""
    collapsed: bool = False
    message: str = ""
    """Why it diverged or counts as collapsed."""
    choices: tuple[dict[str, Any], ...] = ()
    """With ``n_searches`` > 1: genotype, seed and validation accuracy of each search."""

    @property
    def genotype(self) -> Genotype:
        return self.spec.genotype

    @property
    def architecture(self) -> dict[str, Any]:
        return self.spec.to_dict()

    @property
    def curve(self) -> list[tuple[float, float]]:
        return [(epoch.student_epochs, epoch.val_accuracy) for epoch in self.history]

    @property
    def n_students(self) -> int:
        """Networks trained: the supernet, or a supernet and its cell for each of several searches."""
        return 2 * len(self.choices) or 1

    @property
    def info(self) -> dict[str, Any]:
        return {
            name: getattr(self, name)
            for name in ("status", "collapsed", "message", "step_cost", "step_cpu_s", "search_s", "choices")
        }

    def build(self, seed: int = 0) -> CellNetwork:
        """The found network with new weights."""
        return CellNetwork(self.spec, seed)

    def outcome(self) -> dict[str, Any]:
        """Everything but the times: equal, bit for bit, for the same seed."""
        return {name: value for name, value in self.to_dict().items() if name not in ("search_s", "step_cpu_s")}

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.info,
            "spec": self.spec.to_dict(),
            "student_epochs": self.student_epochs,
            "training_seconds": self.training_seconds,
            "history": [epoch.to_dict() for epoch in self.history],
            "choices": list(self.choices),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DARTSResult:
        """Inverse of `to_dict`; raises ValueError, KeyError or TypeError if no search found this."""
        read = {
            "spec": CellSpec.from_dict(values["spec"]),
            "history": tuple(SearchEpoch.from_dict(epoch) for epoch in values["history"]),
            "choices": tuple(values["choices"]),
        }
        return cls(**{**values, **read})


Progress = Callable[[float, str], None]
"""Told the share of the search that is done, in [0, 1], and a line of text."""


@dataclass(frozen=True)
class DARTS:
    """DARTS on the task of an evaluator, as a `OneShotMethod`.

    Args:
        objective: ``"kd"``: the distillation loss in both levels; ``"ce"``: cross-entropy, as published.
        kd: Temperature and weight of the distillation loss, in the search and in the final training.
        order: ``"first"`` (xi = 0) or ``"second"`` (unrolled; 2.5 times the cost of a step).
        architecture_data: What the alphas learn from: ``"half"`` of the training images, the weights from the other
            half, as published; or the ``"validation"`` split, the weights from all training images.
        n_searches: Searches that share the budget; each result is trained ``selection_epochs`` and the best by
            validation is kept (the paper keeps the best of four). Fewer where the choice would cost more than a
            quarter of the budget; 1 spends everything on one.
        step_cost: Student steps charged per search step; by default from `forward_work`, as a
            multiple of `reference_work`.

    Channels grow by ``channel_growth`` in each reduction cell of the supernet, ``final_channel_growth`` in the final
    network; the stem has ``stem_multiplier`` times as many as the first cell. The paper has 2, 2 and 3.
    """

    objective: str = "kd"
    kd: KDSettings = field(default_factory=KDSettings)
    order: str = "first"
    architecture_data: str = "half"
    operations: tuple[str, ...] = SMALL_OPERATIONS
    n_nodes: int = 3
    n_cells: int = 3
    init_channels: int = 16
    channel_growth: float = 1.0
    stem_multiplier: float = 1.0
    # cluttered-digits, 24k parameters, one searched and one random cell, one training of 9 epochs each: 5 cells 1.7
    # points below 3; growth 0.7, 1, 1.5, 2 and 2 with a stem of 3 within a point (91.1, 91.0, 91.2, 90.2, 90.9), and
    # 1.5 in half the time of 1.
    final_cells: int = 3
    final_channel_growth: float = 1.5
    final_stem_multiplier: float = 1.0
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 3e-4
    max_grad_norm: float = 5.0
    # The paper's 3e-4 lets an alpha move by 5.9 in its 19,500 steps; 0.03 lets it move by 5 in 170. cluttered-digits,
    # 54 student-epochs, 3 seeds, KD: 0.01 90.2 +- 1.7, 0.03 90.5 +- 0.9; 0.01 and architecture_data="validation"
    # 90.5 +- 0.6. None of these differences is significant, so the published data split stays.
    alpha_lr: float = 0.03
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_weight_decay: float = 1e-3
    # 54 student-epochs, alpha_lr 0.01, KD, seeds 1 and 2: two searches 91.5 and 91.1, one 88.4 and 90.3.
    n_searches: int = 2
    selection_epochs: int | None = None
    """None: the task's largest budget."""
    step_cost: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        for name, value, allowed in (
            ("objective", self.objective, ("kd", "ce")),
            ("order", self.order, ORDERS),
            ("architecture_data", self.architecture_data, ARCHITECTURE_DATA),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        unknown = sorted(set(self.operations) - set(OPERATIONS))
        if unknown:
            raise ValueError(f"unknown operation {', '.join(unknown)} (known: {', '.join(OPERATIONS)})")
        for name in ("n_nodes", "init_channels", "n_searches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "alpha_lr", "max_grad_norm", "channel_growth", "final_channel_growth"):
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
        checkpoint: Checkpoint | None = None,
        budget_training_seconds: float | None = None,
    ) -> DARTSResult:
        """Search within the budget; the same seed gives the same result, bit for bit, in any process.

        Args:
            evaluator: Gives ``data``, ``soft_targets`` and ``threads`` (`KDEvaluator`); its test split is not read.
            budget_training_seconds: The budget in modelled CPU seconds instead (`distillation.training_cost`). The
                choice among several searches is charged what their cells cost, and what the heaviest cell would cost
                is set aside for it.
            checkpoint: Written after each epoch of a supernet; a search that was killed goes on from its last one, to
                the same result bit for bit.

        Raises:
            ValueError: If the budget does not pay one search step, or the cells cannot fit the parameter budget.
        """
        start = time.perf_counter()
        task = evaluator.data.task
        selection = self.selection_epochs or task.max_budget_epochs
        if (budget_student_epochs is None) == (budget_training_seconds is None):
            raise ValueError("give a budget in student-epochs or in training seconds, not both")
        budget, choice = budget_student_epochs or 0.0, float(selection)
        if budget_training_seconds is not None:
            budget = budget_training_seconds
            choice = self.heaviest_training_seconds(evaluator, selection) if self.n_searches > 1 else 0.0
        n_searches = max(1, min(self.n_searches, int(budget // (4 * choice)))) if choice else 1
        share = budget / n_searches - (choice if n_searches > 1 else 0)
        in_seconds = budget_training_seconds is not None
        now = _Unfinished.read(checkpoint)
        results, choices = now.results, now.choices
        for index in range(len(choices), n_searches):

            def tell(fraction: float, text: str, index: int = index) -> None:
                if progress is not None:
                    prefix = f"search {index + 1} of {n_searches}, " if n_searches > 1 else ""
                    progress((index + fraction) / n_searches, prefix + text)

            own_seed = seed if index == 0 else derive_seed(seed, "search", index)
            if index == len(results):
                with limited_threads(evaluator.threads if isinstance(evaluator, LimitsThreads) else 1):
                    results.append(self._search_once(evaluator, share, own_seed, tell, now, in_seconds))
                if n_searches > 1:
                    now.keep(None)
            if n_searches > 1:
                final_seed = derive_seed(own_seed, "selection")
                build = self.builder(results[-1], evaluator, derive_seed(final_seed, "weights"))
                _, final = evaluator.train_final(build, self.kd, final_seed, epochs=selection)
                choices.append(
                    {
                        "seed": own_seed,
                        "genotype": results[-1].genotype.to_dict(),
                        "val_accuracy": final.val_accuracy,
                        "student_epochs": results[-1].student_epochs + selection,
                        "training_seconds": results[-1].training_seconds + (final.training_seconds or 0.0),
                    }
                )
                now.keep(None)
        best = 0
        if choices:
            best = max(range(len(choices)), key=lambda i: (choices[i]["val_accuracy"] or 0.0, -i))
        chosen = results[best]
        spent, seconds = (
            sum(choice.get(cost, 0.0) for choice in choices) if choices else getattr(chosen, cost)
            for cost in ("student_epochs", "training_seconds")
        )
        return DARTSResult(
            spec=chosen.spec,
            history=chosen.history,
            student_epochs=spent,
            training_seconds=seconds,
            step_cost=chosen.step_cost,
            search_s=now.before_s + time.perf_counter() - start,
            step_cpu_s=chosen.step_cpu_s,
            status=chosen.status,
            collapsed=chosen.collapsed,
            message=chosen.message,
            choices=tuple(choices),
        )

    def restore(self, values: Mapping[str, Any], task: Task) -> DARTSResult:
        """What a search found, from its `DARTSResult.to_dict`."""
        found = DARTSResult.from_dict(values)
        if found.spec != self.fit(found.genotype, task):
            raise ValueError("the cells are not of the size that the task's parameter budget gives them")
        return found

    def builder(self, found: DARTSResult, evaluator: Any, seed: int) -> Callable[[], CellNetwork]:
        """What `KDEvaluator.train_final` builds: the found network, weights drawn from ``seed``. Can be pickled."""
        return functools.partial(CellNetwork, found.spec, seed)

    def fit(self, genotype: Genotype, task: Task) -> CellSpec:
        """The final network of ``genotype`` at the largest width within the task's parameter budget."""
        return fit_width(
            genotype,
            task.max_params,
            in_channels=task.in_channels,
            image_size=task.image_size,
            n_classes=task.n_classes,
            n_cells=self.final_cells,
            channel_growth=self.final_channel_growth,
            stem_multiplier=self.final_stem_multiplier,
        )

    def supernet(self, task: Task, seed: int) -> Supernet:
        """The one-shot model for the task's images."""
        channels = [max(1, round(self.init_channels * self.channel_growth**stage)) for stage in range(3)]
        return Supernet(
            n_cells=self.n_cells,
            stem_channels=max(1, round(self.init_channels * self.stem_multiplier)),
            channels=channels,
            n_nodes=self.n_nodes,
            in_channels=task.in_channels,
            image_size=task.image_size,
            n_classes=task.n_classes,
            operations=self.operations,
            seed=seed,
        )

    def search_step_cost(self, task: Task) -> float:
        """Student steps that one search step (both levels, batches of the task's size) is charged."""
        if self.step_cost is not None:
            return self.step_cost
        passes = WEIGHT_PASS + ALPHA_PASS
        if self.order == "second":
            passes = 3 * WEIGHT_PASS + 2 * ALPHA_PASS
        shape = (task.in_channels, task.image_size, task.image_size)
        return passes * forward_work(self.supernet(task, 0), shape) / (WEIGHT_PASS * reference_work(task))

    def search_step_seconds(self, task: Task) -> float:
        """Modelled CPU seconds of one search step."""
        shape = (task.in_channels, task.image_size, task.image_size)
        step = cost_of(module_work(self.supernet(task, 0), shape, task.batch_size), "supernet", task.batch_size).step
        passes = 3 * WEIGHT_PASS + 2 * ALPHA_PASS if self.order == "second" else WEIGHT_PASS + ALPHA_PASS
        return step * passes / (WEIGHT_PASS + ALPHA_PASS)

    def heaviest_training_seconds(self, evaluator: Any, epochs: int) -> float:
        """Modelled CPU seconds of training the cell whose every edge has the costliest operation, and validating it."""
        data, task = evaluator.data, evaluator.data.task
        shape = (task.in_channels, task.image_size, task.image_size)
        n_steps = epochs * (data.n_shown // min(task.batch_size, data.n_shown))
        found = []
        for operation in self.operations:
            if operation != "none":
                cell = (((operation, 0), (operation, 1)),) * self.n_nodes
                network = CellNetwork(self.fit(Genotype(normal=cell, reduction=cell), task), 0)
                found.append(network_cost(network, shape, task.batch_size).seconds(n_steps, len(data.val_labels)))
        return max(found)

    def _search_once(
        self,
        evaluator: Any,
        budget: float,
        seed: int,
        progress: Progress,
        unfinished: _Unfinished,
        in_seconds: bool = False,
    ) -> DARTSResult:
        start = time.perf_counter()
        data, task = evaluator.data, evaluator.data.task
        batch_size = min(task.batch_size, data.train_labels.shape[0] // 2)
        student_steps = max(1, data.n_shown // task.batch_size)
        step_cost = self.search_step_cost(task)
        step_seconds = self.search_step_seconds(task)
        price, unit = (step_seconds, "seconds") if in_seconds else (step_cost / student_steps, "student-epochs")
        n_steps = int(budget / price)
        if n_steps < 1:
            raise ValueError(
                f"a budget of {budget:g} {unit} does not pay one step of a DARTS search, which costs {price:.2g}; "
                "raise the budget"
            )
        net = self.supernet(task, derive_seed(seed, "supernet")).to(data.device)
        weights, alphas = net.weights, list(net.alphas.values())
        torch_optimizer = torch.optim.SGD(weights, self.lr, self.momentum, weight_decay=self.weight_decay, fused=True)
        alpha_optimizer = torch.optim.Adam(
            alphas, self.alpha_lr, betas=self.alpha_betas, weight_decay=self.alpha_weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(torch_optimizer, n_steps)
        history: list[SearchEpoch] = []
        done, cpu_s, seconds = 0, 0.0, 0.0
        stateful: dict[str, Any] = {
            "net": net,
            "weights": torch_optimizer,
            "alphas": alpha_optimizer,
            "schedule": schedule,
        }
        if (before := unfinished.supernet) is not None:
            done, cpu_s, seconds = before["done"], before["cpu_s"], before["seconds"]
            history = [SearchEpoch.from_dict(epoch) for epoch in before["history"]]
            for name, part in stateful.items():
                part.load_state_dict(before[name])
        rng = torch.Generator().manual_seed(derive_seed(seed, "batches"))
        inner, outer, epoch_steps = bilevel_batches(
            evaluator, batch_size, rng, architecture_data=self.architecture_data, soft=self.objective == "kd", done=done
        )

        status, message = "success", ""
        table = {name: alpha.detach().tolist() for name, alpha in net.alphas.items()}
        genotype = discretise(table["normal"], table["reduction"], self.operations, self.n_nodes)
        start_cpu = time.process_time()
        while done < n_steps:
            steps = min(epoch_steps, n_steps - done)
            train_total = val_total = correct = torch.zeros((), device=data.device)
            for _ in range(steps):
                images, targets, labels = next(inner)
                val_images, val_targets, val_labels = next(outer)
                scores: list[Tensor] = []

                def train_loss() -> Tensor:
                    return self._loss(net(images), targets, labels)  # noqa: B023  # called inside this iteration

                def val_loss() -> Tensor:
                    logits = net(val_images)  # noqa: B023
                    scores.append(logits.detach())  # noqa: B023
                    return self._loss(logits, val_targets, val_labels)  # noqa: B023

                net.track(False)
                if self.order == "first":
                    loss, gradients = first_order_gradient(val_loss, alphas)
                else:
                    xi = float(schedule.get_last_lr()[0])
                    loss, gradients = second_order_gradient(train_loss, val_loss, weights, alphas, xi)
                for alpha, gradient in zip(alphas, gradients, strict=True):
                    alpha.grad = gradient
                alpha_optimizer.step()
                val_total = val_total + loss
                correct = correct + (scores[0].argmax(dim=1) == val_labels).sum()

                net.track(True)
                loss = train_loss()
                for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    weight.grad = gradient
                nn.utils.clip_grad_norm_(weights, self.max_grad_norm)
                torch_optimizer.step()
                schedule.step()
                train_total = train_total + loss.detach()
            done += steps
            spent = done * step_cost / student_steps
            means = float(train_total) / steps, float(val_total) / steps
            latest = {name: alpha.detach().tolist() for name, alpha in net.alphas.items()}
            finite = all(math.isfinite(a) for rows in latest.values() for row in rows for a in row)
            if not (finite and all(map(math.isfinite, means))):
                status = "diverged"
                message = (
                    f"losses {means[0]:.3g} (weights) and {means[1]:.3g} (architecture) in step {done} of {n_steps}"
                )
                break
            table = latest
            genotype = discretise(table["normal"], table["reduction"], self.operations, self.n_nodes)
            rows = table["normal"] + table["reduction"]
            history.append(
                SearchEpoch(
                    epoch=len(history) + 1,
                    student_epochs=spent,
                    train_loss=means[0],
                    val_loss=means[1],
                    val_accuracy=float(correct) / (steps * batch_size),
                    skip_share=genotype.skip_share,
                    none_share=none_share(rows, self.operations),
                    entropy=mean_entropy(rows),
                    genotype=genotype,
                    alphas=table,
                )
            )
            progress(
                done / n_steps,
                f"supernet {history[-1].val_accuracy:.1%}, skips {genotype.skip_share:.0%}, "
                f"entropy {history[-1].entropy:.2f}",
            )
            if done < n_steps:
                unfinished.keep(
                    {
                        "done": done,
                        "cpu_s": cpu_s + time.process_time() - start_cpu,
                        "seconds": seconds + time.perf_counter() - start,
                        "history": [epoch.to_dict() for epoch in history],
                        **{name: part.state_dict() for name, part in stateful.items()},
                    }
                )
        why = collapse(genotype)
        return DARTSResult(
            spec=self.fit(genotype, task),
            history=tuple(history),
            student_epochs=done * step_cost / student_steps,
            training_seconds=done * step_seconds,
            step_cost=step_cost,
            search_s=seconds + time.perf_counter() - start,
            step_cpu_s=(cpu_s + time.process_time() - start_cpu) / done,
            status=status,
            collapsed=bool(why),
            message="; ".join(filter(None, (message, why))),
        )

    def _loss(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        if self.objective == "ce":
            return F.cross_entropy(logits, labels)
        return distillation_loss(
            logits, teacher_logits, labels, temperature=self.kd.temperature, kd_weight=self.kd.kd_weight
        )


class _Unfinished:
    """What a search goes on from: searches and choices that are over, and the supernet after its last epoch."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._checkpoint, self._started = checkpoint, time.perf_counter()
        self.before_s = 0.0
        self.results: list[DARTSResult] = []
        self.choices: list[dict[str, Any]] = []
        self.supernet: dict[str, Any] | None = None

    @classmethod
    def read(cls, checkpoint: Checkpoint | None) -> _Unfinished:
        """From the checkpoint, if there is one with something in it, of this version of torch."""
        found = cls(checkpoint)
        content = None if checkpoint is None else checkpoint.read()
        if content is not None:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if state["torch"] != str(torch.__version__):
                return found
            found.before_s, found.choices, found.supernet = state["seconds"], state["choices"], state["supernet"]
            found.results = [DARTSResult.from_dict(each) for each in state["results"]]
        return found

    def keep(self, supernet: dict[str, Any] | None) -> None:
        """Write all to the checkpoint, if there is one."""
        self.supernet = supernet
        if self._checkpoint is None:
            return
        state = {
            "torch": str(torch.__version__),
            "seconds": self.before_s + time.perf_counter() - self._started,
            "choices": self.choices,
            "results": [result.to_dict() for result in self.results],
            "supernet": supernet,
        }
        content = io.BytesIO()
        torch.save(state, content)
        self._checkpoint.write(content.getvalue())


def bilevel_batches(
    evaluator: Any,
    batch_size: int,
    rng: torch.Generator,
    *,
    architecture_data: str = "half",
    soft: bool = True,
    done: int = 0,
) -> tuple[Iterator[Batch], Iterator[Batch], int]:
    """Endless batches for the weights and for the alphas, and the steps of one pass of the weights' images.

    Args:
        architecture_data: As of `DARTS`.
        soft: Whether batches carry the teacher's logits.
        done: Steps that were taken before: as many batches are passed over.
    """
    data = evaluator.data
    n = data.train_labels.shape[0]
    order = torch.randperm(n, generator=rng)
    if architecture_data == "half":
        inner, outer = order[: n // 2], order[n // 2 :]
    else:
        inner, outer = order, torch.arange(data.val_labels.shape[0])
    seeds = [int(torch.randint(2**31, (), generator=rng)) for _ in range(2)]
    targets = evaluator.soft_targets if soft else None
    train = (data.train_views, data.train_labels, None if targets is None else targets.train)
    val = (data.val_images[None], data.val_labels, None if targets is None else targets.val[None])

    def endless(source: tuple[Tensor, Tensor, Tensor | None], index: Tensor, seed: int) -> Iterator[Batch]:
        views, labels, logits = source
        own = torch.Generator().manual_seed(seed)
        passed = 0
        while True:
            for part in index[torch.randperm(len(index), generator=own)].split(batch_size):
                if len(part) == min(batch_size, len(index)):
                    view = torch.randint(views.shape[0], part.shape, generator=own).to(views.device)
                    passed += 1
                    if passed <= done:
                        continue
                    part = part.to(views.device)
                    target = labels[part] if logits is None else logits[view, part]
                    yield data.normalise(views[view, part]), target, labels[part]

    outer_source = train if architecture_data == "half" else val
    return endless(train, inner, seeds[0]), endless(outer_source, outer, seeds[1]), max(1, len(inner) // batch_size)


Batch = tuple[Tensor, Tensor, Tensor]
"""Normalised images, teacher's logits (the labels again under cross-entropy), labels."""


@functools.lru_cache(maxsize=8)
def reference_work(task: Task) -> float:
    """`forward_work` of the student that a search step is compared with: ten 3x3 convolutions of equal width.

    A middling student of the demo's space, at the task's parameter budget.
    """
    family = Generator(WattsStrogatz(5, 4, 0.5), ErdosRenyi(1, 0.5), WattsStrogatz(2, 1, 0.5), channel_growth=1.0)
    shape = (task.in_channels, task.image_size, task.image_size)
    spec = fit_student_width(
        family.sample_wiring(0),
        task.max_params,
        in_channels=task.in_channels,
        image_size=task.image_size,
        n_classes=task.n_classes,
        stem=task.stem,
    )
    return forward_work(Student(spec), shape)
