"""DARTS: from alphas to cells, and whole searches on a few small images."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.training_cost import network_cost
from naslib_autokd.optimizers.base import get_one_shot_method
from naslib_autokd.optimizers.darts import (
    DARTS,
    collapse,
    discretise,
    forward_work,
    mean_entropy,
    none_share,
    reference_work,
)
from naslib_autokd.search_spaces.cell import CellSpec, Genotype
from naslib_autokd.tasks import get_task
from naslib_autokd.teachers.soft_targets import SoftTargets

OPERATIONS = ("none", "skip_connect", "sep_conv_3x3")
SMALL: dict[str, Any] = {"operations": OPERATIONS, "n_nodes": 2, "init_channels": 4, "step_cost": 2.0, "n_searches": 1}


def evaluator(n: int = 128, seed: int = 0) -> Any:
    """Two bright pixels, three apart: side by side (class 0) or one above the other (class 1); no test split."""
    task = get_task(
        "digits", n_classes=2, n_train=n, n_teacher=n, n_val=n, image_size=8, batch_size=16, n_views=1,
        augmentation="none", max_params=4000, min_budget_epochs=1, max_budget_epochs=2,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (2 * n,), generator=rng)
    images = torch.randint(40, (2 * n, 1, 8, 8), generator=rng, dtype=torch.uint8)
    places = torch.randint(5, (2 * n, 2), generator=rng)
    for image, label, (row, column) in zip(images, labels.tolist(), places.tolist(), strict=True):
        image[0, row, column] = 255
        image[0, row + 3 * label, column + 3 * (1 - label)] = 255

    def make_test() -> Any:
        raise AssertionError("a search must not read the test split")

    data = TaskData(
        task, images[None, :n], labels[:n], images[n:], labels[n:], ("0", "1"), (0.1,), (0.2,), make_test
    )  # fmt: skip
    logits = 4 * torch.nn.functional.one_hot(labels, 2).float()
    return SimpleNamespace(data=data, task=task, soft_targets=SoftTargets(logits[None, :n], logits[n:]), threads=1)


def table(rows: dict[int, tuple[float, ...]], n_edges: int = 5) -> list[list[float]]:
    return [list(rows.get(edge, (0.0, 0.0, 0.0))) for edge in range(n_edges)]


def test_every_node_keeps_its_two_strongest_edges():
    # Edges 0, 1 lead to node 0, edges 2, 3, 4 to node 1; columns none, skip_connect, sep_conv_3x3.
    normal = table({0: (0, 1, 0), 1: (9, 0, 1), 2: (0, 3, 0), 3: (0, 0, 4), 4: (0, 2, 1)})
    genotype = discretise(normal, table({}), OPERATIONS, 2)
    assert genotype.normal == (
        (("skip_connect", 0), ("sep_conv_3x3", 1)),  # none is the strongest on edge 1, but is never kept
        (("skip_connect", 0), ("sep_conv_3x3", 1)),  # edge 4 is the weakest of the three
    )


def test_a_strong_none_weakens_its_edge():
    # As in the paper the weight of the best operation is taken after the softmax over all operations, none included.
    normal = table({2: (9, 2, 0), 3: (0, 1, 0), 4: (0, 0, 1)})
    assert discretise(normal, table({}), OPERATIONS, 2).normal[1] == (("skip_connect", 1), ("sep_conv_3x3", 2))


def test_ties_go_to_the_lower_index():
    assert discretise(table({}), table({}), OPERATIONS, 2).normal == ((("skip_connect", 0), ("skip_connect", 1)),) * 2


def test_alphas_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        discretise(table({0: (float("nan"), 0, 0)}), table({}), OPERATIONS, 2)


def test_entropy_and_none_share():
    assert mean_entropy(table({})) == pytest.approx(1.0)
    assert mean_entropy(table(dict.fromkeys(range(5), (0, 1000.0, 0)))) == pytest.approx(0.0)
    assert none_share(table({0: (1, 0, 0), 1: (0, 1, 0)}), OPERATIONS) == pytest.approx(4 / 5)  # ties count as none


@pytest.mark.parametrize(
    ("strong", "text"),
    [
        (dict.fromkeys(range(5), (0, 5, 0)), "4 of 4 edges of the normal cell are skip connections"),
        ({0: (0, 5, 0), 1: (0, 5, 0), 2: (0, 5, 0), 3: (0, 0, 5)}, "3 of 4 edges"),
        ({0: (0, 5, 0), 1: (0, 0, 5), 2: (0, 5, 0), 3: (0, 0, 5)}, ""),
    ],
)
def test_collapse_into_skip_connections_is_seen(strong, text):
    skips = dict.fromkeys(range(5), (0.0, 5.0, 0.0))
    genotype = discretise(table(strong), table(skips), OPERATIONS, 2)
    assert collapse(genotype).startswith(text)
    assert bool(collapse(genotype)) == bool(text)


def test_a_cell_without_weights_has_collapsed_and_reduction_cells_of_pools_have_not():
    pools = ((("max_pool_3x3", 0), ("avg_pool_3x3", 1)),)
    convolutions = ((("max_pool_3x3", 0), ("sep_conv_3x3", 1)),)
    assert "has weights" in collapse(Genotype(pools, pools))
    assert collapse(Genotype(convolutions, pools)) == ""


@pytest.mark.parametrize(
    ("order", "data", "objective"),
    [("first", "half", "kd"), ("first", "validation", "ce"), ("second", "validation", "kd")],
)
def test_a_search_keeps_its_budget_and_repeats_bit_for_bit(order, data, objective):
    darts = DARTS(order=order, architecture_data=data, objective=objective, **SMALL)
    told: list[tuple[float, str]] = []
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = darts.search(evaluator(), 2.6, seed=7, progress=lambda fraction, text: told.append((fraction, text)))
    assert torch.equal(before, torch.get_rng_state())
    # 128 images, batches of 16: 8 student steps per epoch, 2 of them per search step: 10 steps, and 0.1 does not pay 11
    assert found.student_epochs == 2.5
    assert found.status == "success"
    steps = 4 if data == "half" else 8
    assert len(found.history) == -(-10 // steps)
    assert [fraction for fraction, _ in told] == pytest.approx(
        [min(1.0, (i + 1) * steps / 10) for i in range(len(told))]
    )
    assert found.history[-1].student_epochs == 2.5
    assert found.spec.n_params <= 4000
    again = DARTS(order=order, architecture_data=data, objective=objective, **SMALL).search(evaluator(), 2.6, seed=7)
    assert again.outcome() == found.outcome()
    assert darts.search(evaluator(), 1, seed=8).history[0].alphas != found.history[0].alphas
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.slow
def test_another_process_finds_the_same():
    code = (
        "import json; from test_darts import DARTS, SMALL, evaluator; "
        "print(json.dumps(DARTS(**SMALL).search(evaluator(), 2, seed=3).outcome()))"
    )
    here = DARTS(**SMALL).search(evaluator(), 2, seed=3).outcome()
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert json.loads(run.stdout) == json.loads(json.dumps(here))


def test_search_prefers_the_operation_that_helps():
    # Pixels three apart are beyond the stem's 3x3; only a convolution in a cell can bring them together.
    darts = DARTS(**(SMALL | {"step_cost": 1.0, "alpha_lr": 0.03, "n_nodes": 1}))
    found = darts.search(evaluator(192), 5, seed=0)
    rows = found.history[-1].alphas["normal"]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    assert mean[2] > mean[0] + 0.1
    assert mean[2] > mean[1] + 0.1
    assert found.history[-1].val_accuracy > 0.7
    assert not found.collapsed


def test_divergence_is_a_result_with_a_reason():
    broken = evaluator()
    broken.soft_targets = SoftTargets(broken.soft_targets.train * float("nan"), broken.soft_targets.val)
    found = DARTS(**SMALL).search(broken, 5, seed=0)
    assert found.status == "diverged"
    assert "nan" in found.message
    assert found.history == ()
    assert found.student_epochs == pytest.approx(1.0)  # stopped after the first pass
    assert found.spec.n_params <= 4000
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.slow
def test_the_best_of_several_searches_is_chosen_by_validation():
    asked: list[tuple[int, int | None]] = []

    def train_final(build: Any, kd: Any, seed: int, epochs: int | None = None) -> tuple[Any, Any]:
        asked.append((build().spec.n_params, epochs))
        return None, SimpleNamespace(val_accuracy=[0.5, 0.8, 0.6][len(asked) - 1])

    judged = evaluator()
    judged.train_final = train_final
    found = DARTS(**(SMALL | {"n_searches": 3, "selection_epochs": 1})).search(judged, 12, seed=0)
    assert [epochs for _, epochs in asked] == [1, 1, 1]
    assert found.student_epochs == 12.0  # three times three of search and one of training
    assert found.genotype == Genotype.from_dict(found.choices[1]["genotype"])
    assert found.choices[0]["seed"] == 0
    alone = DARTS(**SMALL).search(evaluator(), 3, seed=0)
    assert alone.genotype == Genotype.from_dict(found.choices[0]["genotype"])


def test_a_small_budget_pays_one_search():
    found = DARTS(**(SMALL | {"n_searches": 2, "selection_epochs": 1})).search(evaluator(), 7, seed=0)
    assert found.choices == ()
    assert found.student_epochs == 7.0


def test_a_budget_in_seconds_pays_steps_and_the_choice_among_searches():
    alone = DARTS(**SMALL)
    price = alone.search_step_seconds(evaluator().task)
    found = alone.search(evaluator(), None, seed=0, budget_training_seconds=12.5 * price)
    assert found.training_seconds == pytest.approx(12 * price)
    small, trained = evaluator(), []

    def train_final(build: Any, kd: Any, seed: int, epochs: int) -> Any:
        cost = network_cost(build(), (1, 8, 8), 16)
        trained.append(cost.seconds(epochs * 8, 128))
        return None, SimpleNamespace(val_accuracy=0.5, training_seconds=trained[-1])

    small.train_final = train_final
    twice = DARTS(**(SMALL | {"n_searches": 2, "selection_epochs": 1}))
    choice = twice.heaviest_training_seconds(small, 1)
    budget = 8.5 * choice
    found = twice.search(small, None, seed=0, budget_training_seconds=budget)
    assert len(trained) == 2
    assert max(trained) <= choice
    steps = 2 * int((budget / 2 - choice) / price)
    assert found.training_seconds == pytest.approx(steps * price + sum(trained))
    assert found.training_seconds <= budget
    with pytest.raises(ValueError, match="not both"):
        alone.search(evaluator(), 5.0, seed=0, budget_training_seconds=5.0)


def test_a_result_builds_the_network_of_its_spec():
    darts = DARTS(**SMALL)
    found = darts.search(evaluator(), 1, seed=0)
    build = pickle.loads(pickle.dumps(darts.builder(found, evaluator(), 3)))
    network = build()
    assert sum(p.numel() for p in network.parameters()) == found.spec.n_params
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), found.build(3).parameters(), strict=True))
    assert CellSpec.from_dict(found.architecture) == found.spec


def test_steps_are_charged_by_a_fixed_model_of_their_cost():
    task = get_task("cluttered-digits")
    darts = DARTS()
    cost = darts.search_step_cost(task)
    assert cost == darts.search_step_cost(task)
    assert replace(darts, order="second").search_step_cost(task) == pytest.approx(cost * (9 + 4.8) / 5.4)
    assert replace(darts, init_channels=8).search_step_cost(task) < cost
    assert replace(darts, step_cost=3.5).search_step_cost(task) == 3.5
    # Not a measurement: a supernet pass writes many times what a student's does, on any machine.
    assert forward_work(darts.supernet(task, 0), (1, 12, 12)) > 3 * reference_work(task)


def test_counting_the_work_leaves_no_trace():
    net = DARTS(**SMALL).supernet(evaluator().task, 0).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert forward_work(net, (1, 8, 8)) == forward_work(net, (1, 8, 8))
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"objective": "mse"}, "objective must be one of kd, ce"),
        ({"order": "third"}, "order must be one of first, second"),
        ({"architecture_data": "test"}, "architecture_data must be one of half, validation"),
        ({"operations": ("conv",)}, "unknown operation conv"),
        ({"n_searches": 0}, "n_searches must be at least 1"),
        ({"alpha_lr": 0.0}, "alpha_lr must be positive"),
        ({"step_cost": -1.0}, "step_cost must be positive"),
    ],
)
def test_bad_options_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        DARTS(**options)


class Memory:
    """A checkpoint; the search is ended in its ``end_in``-th writing from now, which is on disk or lost."""

    def __init__(self, lost: bool) -> None:
        self.content: bytes | None = None
        self.lost, self.end_in = lost, 0

    def read(self) -> bytes | None:
        return self.content

    def write(self, content: bytes) -> None:
        self.end_in -= 1
        if self.end_in or not self.lost:
            self.content = content
        if not self.end_in:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        ({"n_searches": 2, "selection_epochs": 1}, False),
        pytest.param({"n_searches": 2, "selection_epochs": 1}, True, marks=pytest.mark.slow),
        pytest.param({"architecture_data": "validation", "objective": "ce"}, False, marks=pytest.mark.slow),
        pytest.param({"order": "second"}, True, marks=pytest.mark.slow),
    ],
)
def test_a_killed_search_goes_on_from_its_last_epoch_to_the_same_end(options: dict[str, Any], lost: bool) -> None:
    """Ended in every second writing, again and again: what was written is not computed again, the end is the same."""
    told: list[str] = []
    trained: list[int] = []

    def train_final(build: Any, kd: Any, seed: int, epochs: int) -> Any:
        trained.append(seed)
        return None, SimpleNamespace(val_accuracy=(seed % 7) / 7, training_seconds=0.5)

    small = evaluator(n=36)
    small.train_final = train_final
    method = DARTS(**{**SMALL, "n_nodes": 1, "step_cost": 2.5, **options})

    def search(checkpoint: Memory | None) -> Any:
        found = method.search(small, 8, seed=5, progress=lambda _, text: told.append(text), checkpoint=checkpoint)
        return found.outcome()

    whole, n_told, n_trained = search(None), len(told), len(trained)
    assert n_told >= 3
    told.clear()
    trained.clear()
    memory, ends, found = Memory(lost), 0, None
    while found is None:
        memory.end_in = 2
        try:
            found = search(memory)
        except KeyboardInterrupt:
            ends += 1
    assert found == whole
    assert ends >= n_told // 2 - 1
    assert len(told) + len(trained) == n_told + n_trained + lost * ends


def test_a_budget_below_one_step_is_refused():
    with pytest.raises(ValueError, match="does not pay one step"):
        DARTS(**SMALL).search(evaluator(), 0.1, seed=0)


def test_darts_is_found_by_name():
    assert isinstance(get_one_shot_method("darts")(objective="ce"), DARTS)
