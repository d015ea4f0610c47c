"""NASLib's one-shot optimizers on small tasks: what they are given, what they charge and what they find."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.losses import distillation_loss
from naslib_autokd.optimizers.base import get_one_shot_method
from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.tasks import get_task
from naslib_autokd.teachers.soft_targets import SoftTargets

pytestmark = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

OPTIMIZERS = ("darts", "gdas", "drnas")
SPACES = ("nasbench201", "simple_cell")


def evaluator(n: int = 64, seed: int = 0, **overrides: Any) -> Any:
    """Two bright pixels, three apart: side by side (class 0) or one above the other (class 1); no test split.

    The teacher is sure of itself, and its logits differ from image to image and from view to view.
    """
    settings: dict[str, Any] = {
        "n_classes": 2, "n_train": n, "n_teacher": n, "n_val": n, "image_size": 8, "batch_size": 16, "n_views": 2,
        "max_params": 7000, "min_channels": 2, "min_budget_epochs": 1, "max_budget_epochs": 2,
    }  # fmt: skip
    task = get_task("digits", **(settings | overrides))
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (2 * n,), generator=rng)
    images = torch.randint(40, (2, 2 * n, 1, 8, 8), generator=rng, dtype=torch.uint8)
    places = torch.randint(5, (2 * n, 2), generator=rng)
    for i, (label, (row, column)) in enumerate(zip(labels.tolist(), places.tolist(), strict=True)):
        images[:, i, 0, row, column] = 255
        images[:, i, 0, row + 3 * label, column + 3 * (1 - label)] = 255

    def make_test() -> Any:
        raise AssertionError("a search must not read the test split")

    data = TaskData(
        task, images[:, :n], labels[:n], images[0, n:], labels[n:], ("0", "1"), (0.1,), (0.2,), make_test
    )  # fmt: skip
    logits = 4 * F.one_hot(labels, 2).float() + torch.rand((2, 2 * n, 2), generator=rng)
    return SimpleNamespace(data=data, task=task, soft_targets=SoftTargets(logits[:, :n], logits[0, n:]), threads=1)


def method(optimizer: str, **options: Any) -> Any:
    return get_one_shot_method(f"naslib-{optimizer}")(**({"step_cost": 2.0} | options))


class Spy:
    """Writes down what NASLib's optimizer was given and what it asked of the loss."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from naslib_autokd.plugin import one_shot

        self.optimizer: Any = None
        self.losses: list[tuple[Tensor, Tensor, float]] = []
        self.steps: list[tuple[Any, ...]] = []
        self.alpha_gradients: list[list[Tensor]] = []
        self.before: dict[str, Tensor] = {}
        build, call = one_shot.NASLibOneShot.naslib_optimizer, one_shot.BatchLoss.forward

        def spied_build(*arguments: Any) -> Any:
            optimizer = build(*arguments)
            step = optimizer.step

            def spied_step(train: Any, val: Any) -> Any:
                result = step(train, val)
                self.steps.append((train, val, result[0].detach(), result[1].detach()))
                return result

            optimizer.step = spied_step
            optimizer.arch_optimizer.register_step_pre_hook(
                lambda *_: self.alpha_gradients.append([a.grad.clone() for a in optimizer.architectural_weights])
            )
            self.optimizer = optimizer
            self.before = {name: p.detach().clone() for name, p in optimizer.graph.named_parameters()}
            return optimizer

        def spied_call(loss: Any, logits: Tensor, labels: Tensor) -> Tensor:
            value: Tensor = call(loss, logits, labels)
            self.losses.append((logits.detach(), labels, float(value.detach())))
            return value

        monkeypatch.setattr(one_shot.NASLibOneShot, "naslib_optimizer", spied_build)
        monkeypatch.setattr(one_shot.BatchLoss, "forward", spied_call)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("objective", ["kd", "ce"])
def test_every_optimizer_learns_on_every_space(optimizer: str, space: str, objective: str, spy: Spy) -> None:
    given = evaluator()
    found = method(optimizer, space=space, objective=objective).search(given, 2.0, seed=0)
    assert found.status == "success"
    assert len(spy.steps) == 4
    after = dict(spy.optimizer.graph.named_parameters())
    moved = [name for name, before in spy.before.items() if not torch.equal(before, after[name])]
    # GDAS trains the operations that it draws, four of up to five
    assert len(moved) >= (0.5 if optimizer == "gdas" else 0.95) * len(spy.before)
    gradients = [torch.stack(step) for step in spy.alpha_gradients]
    assert gradients[0].shape == (6 if space == "nasbench201" else 10, 5)
    assert bool((torch.stack(gradients).abs().sum(dim=0) > 0).all())

    # the criterion gets the architecture's batch, then the weights', each with the teacher's logits of its own rows
    images = given.data.normalise(torch.cat(list(given.data.train_views.batches(1024))))  # view by view
    teacher, labels = given.soft_targets.train.flatten(0, 1), given.data.train_labels.repeat(2)
    used: dict[str, set[int]] = {"train": set(), "val": set()}
    for index, (train, val, train_logits, val_logits) in enumerate(spy.steps):
        for level, (batch, target), logits, call in (
            ("val", val, val_logits, spy.losses[2 * index]),
            ("train", train, train_logits, spy.losses[2 * index + 1]),
        ):
            rows = [int((images == image).flatten(1).all(dim=1).nonzero().item()) for image in batch]
            used[level].update(row % 64 for row in rows)
            assert torch.equal(call[0], logits)
            assert torch.equal(labels[rows], target)
            expected = F.cross_entropy(logits, labels[rows])
            if objective == "kd":
                expected = distillation_loss(logits, teacher[rows], labels[rows], temperature=4.0, kd_weight=0.9)
            assert call[2] == pytest.approx(float(expected), rel=1e-6)
    assert len(spy.losses) == 8
    assert len(used["train"]) == len(used["val"]) == 32
    assert not used["train"] & used["val"]

    network = found.build(3)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 2)
    assert sum(p.numel() for p in network.parameters()) <= given.task.max_params
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(norm.affine and norm.track_running_stats for norm in norms)
    again = found.build(3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_seed_finds_the_same_and_leaves_no_trace(optimizer: str) -> None:
    def states() -> list[Any]:
        legacy = np.random.get_state(legacy=False)  # noqa: NPY002
        return [random.getstate(), legacy["state"]["key"].tolist(), torch.get_rng_state().tolist()]

    told: list[tuple[float, str]] = []
    searched = method(optimizer)
    before = states()
    found = searched.search(evaluator(), 2.0, seed=7, progress=lambda *message: told.append(message))
    assert states() == before
    torch.manual_seed(99)
    random.seed(99)
    assert method(optimizer).search(evaluator(), 2.0, seed=7).outcome() == found.outcome()
    other = method(optimizer).search(evaluator(), 1.0, seed=8)
    assert other.history[0].alphas != found.history[0].alphas
    # 64 images in batches of 16: 4 student steps an epoch, 2 of them per search step, 2 search steps a pass
    assert found.student_epochs == 2.0
    assert [fraction for fraction, _ in told] == [0.5, 1.0]
    assert found.curve == [(epoch.student_epochs, epoch.val_accuracy) for epoch in found.history]
    assert [epoch.student_epochs for epoch in found.history] == [1.0, 2.0]
    strongest = tuple(row.index(max(row)) for row in found.history[-1].alphas)
    assert found.op_indices == found.history[-1].architecture == strongest
    assert found.n_students == 1


def test_a_budget_is_spent_to_the_last_step_that_it_pays(spy: Spy) -> None:
    found = method("gdas").search(evaluator(), 2.9, seed=0)
    assert len(spy.steps) == 5
    assert found.student_epochs == 2.5
    rates = spy.optimizer.op_optimizer.param_groups[0]["lr"]
    assert rates == pytest.approx(0.0)  # the cosine ends with the budget
    assert float(spy.optimizer.tau_curr) == pytest.approx(0.1, abs=1e-5)  # and so does GDAS's temperature
    with pytest.raises(ValueError, match="does not pay one step of NASLib's gdas on nasbench201"):
        method("gdas").search(evaluator(), 0.4, seed=0)


def test_steps_are_charged_by_a_fixed_model_of_their_cost() -> None:
    task = get_task("cluttered-digits")
    costs = {
        (optimizer, space): method(optimizer, space=space, step_cost=None).search_step_cost(task)
        for optimizer in OPTIMIZERS
        for space in SPACES
    }
    for space in SPACES:
        assert costs["drnas", space] == pytest.approx(costs["darts", space], rel=1e-3)  # no softmax
        # a fifth of the operations, and all that is not a choice
        assert costs["darts", space] / 5 < costs["gdas", space] < costs["darts", space] / 2
    torch.manual_seed(5)
    assert method("gdas", step_cost=None).search_step_cost(task) == costs["gdas", "nasbench201"]
    assert costs["darts", "nasbench201"] == pytest.approx(5, abs=1)
    assert costs["darts", "simple_cell"] == pytest.approx(19, abs=4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_operation_that_is_clearly_the_best_wins(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A supernet in which every operation but the first returns noise, on bright and dark images.
    from naslib.search_spaces.core.primitives import AbstractPrimitive

    from naslib_autokd.plugin import networks, supernets

    class Noise(AbstractPrimitive):
        def __init__(self) -> None:
            super().__init__(locals())

        def forward(self, x: Tensor, edge_data: Any = None) -> Tensor:
            return torch.randn_like(x)

        def get_embedded_ops(self) -> None:
            return None

    build = networks.NetworkSize.graph

    def noisy(size: Any) -> Any:
        graph = build(size)
        for cell in graph._get_child_graphs():
            for _, _, data in cell.edges.data():
                data.set("op", [data.op[0], *(Noise() for _ in range(4))])
        return graph

    monkeypatch.setattr(networks.NetworkSize, "graph", noisy)
    monkeypatch.setattr(supernets, "architecture_of", lambda *_: (0,) * 6)  # it does not know the name of noise
    given = evaluator(192)
    given.data.teacher_views.drawn[:, given.data.teacher_labels == 1] += 60
    gdas = optimizer == "gdas"  # sees one operation of an edge at a time
    found = method(optimizer, step_cost=1.0).search(given, 10 if gdas else 6, seed=0)
    alphas = torch.tensor(found.history[-1].alphas).mean(dim=0)
    assert float(alphas[0]) > float(alphas[1:].max()) + 0.2
    assert found.history[-1].architecture.count(0) >= (3 if gdas else 5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.timeout(60)  # NASLib's GDAS alone draws for ever from alphas that are not numbers
def test_divergence_is_a_result_with_a_reason(optimizer: str) -> None:
    broken = evaluator()
    broken.soft_targets = SoftTargets(broken.soft_targets.train * float("nan"), broken.soft_targets.val)
    found = method(optimizer).search(broken, 5, seed=0)
    assert found.status == "diverged"
    assert "a loss is nan in step 1 of 10" in found.message
    assert found.history == ()
    assert found.student_epochs == 0.5
    assert found.build(0)(torch.zeros(1, 1, 8, 8)).shape == (1, 2)
    json.dumps(found.to_dict(), allow_nan=False)


def test_gradients_that_are_not_finite_end_the_search_before_they_reach_the_alphas(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from naslib_autokd.plugin.one_shot import BatchLoss

    plain = BatchLoss.forward

    def poisoned(loss: Any, logits: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = plain(loss, logits, labels)
        logits.register_hook(lambda gradient: gradient * float("inf"))
        return value

    monkeypatch.setattr(BatchLoss, "forward", poisoned)
    found = method("gdas").search(evaluator(), 5, seed=0)
    assert found.status == "diverged"
    assert "gradient of an architecture weight" in found.message
    assert all(bool(alpha.isfinite().all()) for alpha in spy.optimizer.architectural_weights)


def test_a_gpu_that_is_not_the_evaluators_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # With torch's answer taken as it is, NASLib would move to a GPU that this torch does not have, and fail.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = torch.cuda.is_available
    for optimizer in OPTIMIZERS:
        assert method(optimizer).search(evaluator(), 0.5, seed=0).status == "success"
    assert torch.cuda.is_available is asked


@pytest.mark.parametrize(
    ("space", "architecture", "text"),
    [
        ("nasbench201", (0, 0, 1, 2, 1, 2), "4 of 6 edges of the cell are skip connections or none"),
        ("nasbench201", (0, 0, 1, 2, 2, 3), ""),
        ("nasbench201", (4, 4, 4, 4, 0, 0), "none of the 6 edges of the cell has weights"),
        ("simple_cell", (0, 0, 0, 3, 4, 3, 3, 3, 3, 3), "3 of 5 edges of the normal cell are skip connections or none"),
        ("simple_cell", (3, 3, 3, 3, 3, 0, 0, 0, 0, 0), ""),
    ],
)
def test_collapse_is_seen(space: str, architecture: tuple[int, ...], text: str) -> None:
    from naslib_autokd.plugin.one_shot import collapse

    assert collapse(space, architecture) == text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"objective": "mse"}, "unknown objective 'mse'"),
        ({"space": "nasbench101"}, r"unknown NASLib space 'nasbench101'; did you mean 'nasbench301' or 'nasbench201'"),
        ({"learning_rte": 1.0}, "unknown option of NASLib's darts 'learning_rte'; did you mean 'learning_rate'"),
        ({"arch_learning_rate": 0.0}, "arch_learning_rate must be positive"),
        ({"step_cost": -1.0}, "step_cost must be positive"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        method("darts", **options)


def test_tasks_that_cannot_be_searched_are_refused_before_any_work(spy: Spy) -> None:
    given = evaluator()
    for overrides, text in (({"image_size": 10}, "multiple of 4"), ({"max_params": 3000}, "raise max_params")):
        given.data.task = replace(given.task, **overrides)
        with pytest.raises(ValueError, match=text):
            method("darts").search(given, 5, seed=0)
    assert spy.optimizer is None


def test_a_comparison_with_naslibs_optimizers(tmp_path: Path) -> None:
    from naslib_autokd.runners.comparison import Method, compare

    task = get_task(
        "digits", n_train=64, n_val=100, n_test=100, min_budget_epochs=1, max_budget_epochs=1, max_params=24_000,
        teacher_epochs=3, min_teacher_accuracy=0.0,
    )  # fmt: skip
    methods = (
        Method("random search", "search", "random_search"),
        Method("NASLib DARTS", "one-shot", "naslib-darts"),
        Method("NASLib GDAS", "one-shot", "naslib-gdas", "ce", {"space": "simple_cell"}),
    )
    result = compare(task, methods, seeds=[0], budget=8, out=tmp_path, n_finals=1, workers=1)
    assert result.failures == ()
    assert [row.label for row in result.rows] == ["random search", "NASLib DARTS", "NASLib GDAS"]
    for job in result.jobs[1:]:
        assert job.one_shot
        assert 4 < job.student_epochs <= 8
        assert job.n_params <= 24_000
        assert job.details["host"].startswith("NASLib ")
    assert (tmp_path / "naslib-darts" / "seed-0" / "search.json").exists()


# --- DARTS's own space


@pytest.mark.slow  # NASLib builds and clones this supernet for seconds
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("objective", ["kd", "ce"])
def test_nasbench301_is_searched_with_the_teacher(optimizer: str, objective: str, spy: Spy) -> None:
    """Two steps: the loss is the one asked for, weights and alphas move, and the found cells are built and learn."""
    from naslib_autokd.plugin.one_shot import NASLibOneShotResult

    task_of = evaluator(n=32, batch_size=8)
    found = method(optimizer, objective=objective, space="nasbench301").search(task_of, 2 * 2.0 / 4, seed=3)
    assert len(spy.steps) == 2
    assert (found.status, len(found.history)) == ("success", 1)
    assert all(bool(gradient.abs().sum() > 0) for gradient in spy.alpha_gradients[0])
    after = dict(spy.optimizer.graph.named_parameters())
    assert any(not torch.equal(after[name], before) for name, before in spy.before.items())
    logits, labels, loss = spy.losses[0]
    plain = float(F.cross_entropy(logits, labels))
    assert (loss == pytest.approx(plain, rel=1e-4)) == (objective == "ce")
    assert (
        NASLibOneShotResult.from_dict(json.loads(json.dumps(found.to_dict())), found.task).outcome() == found.outcome()
    )
    network = found.build(1)
    assert sum(p.numel() for p in network.parameters()) <= found.task.max_params
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_is_found_on_nasbench301_is_what_naslib_finds() -> None:
    """Alphas of many values, against NASLib's own discretisation, which deletes edges of its graph."""
    from naslib.search_spaces.nasbench301.conversions import convert_naslib_to_compact

    from naslib_autokd.plugin.architectures import ARCHITECTURES
    from naslib_autokd.plugin.supernets import SPACES as KNOWN

    space: Any = KNOWN["nasbench301"]
    optimizer = method("darts", space="nasbench301").naslib_optimizer(
        space.supernet(evaluator().task), 1, torch.device("cpu")
    )
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for alpha in optimizer.architectural_weights:
            alpha.copy_(torch.randn(alpha.shape, generator=rng))
            alpha[1] += 2  # "none" would win often
    ours = space.strongest(optimizer)
    theirs = ARCHITECTURES["nasbench301"].canonical(convert_naslib_to_compact(optimizer.get_final_architecture()))
    assert ours == theirs
    assert len(set(space.kept(ours))) > 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_supernet_of_nasbench301_has_the_size_of_naslibs() -> None:
    """At NASLib's widths it is NASLib's graph, without the auxiliary head."""
    from naslib.optimizers import DARTSOptimizer
    from naslib.search_spaces import NasBench301SearchSpace

    from naslib_autokd.plugin.supernets import DARTSSupernet

    theirs = DARTSOptimizer()
    theirs.adapt_search_space(NasBench301SearchSpace(auxiliary=False), "cifar10")
    n_params = sum(p.numel() for name, p in theirs.graph.named_parameters() if "alpha" not in name)
    assert DARTSSupernet((16, 32, 64), 3, 10).all_params() == n_params
    with pytest.raises(ValueError, match=r"must be a multiple of 4; .* image_size=10: change it to 12"):
        method("darts", space="nasbench301").search(evaluator(image_size=10), 2, seed=0)
