from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from naslib_autokd.distillation import training
from naslib_autokd.distillation.costs import count_params, train_memory
from naslib_autokd.distillation.training import (
    GPU_PREDICT_PIXELS,
    PREDICT_LEAST,
    PREDICT_PIXELS,
    NesterovSGD,
    TrainingSettings,
    accuracy,
    limited_threads,
    predict,
    seeded,
    train,
    triangular_lr,
)


@dataclass(frozen=True)
class KD:
    temperature: float = 4.0
    kd_weight: float = 0.9


def new_cnn(make_cnn, seed=0):
    with seeded(seed):
        return make_cnn((4, 8, 8))


def test_sgd_moves_exactly_like_torchs_with_clipping():
    torch.manual_seed(0)
    ours, theirs = (nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    settings = TrainingSettings(max_grad_norm=0.5, weight_decay=0.01)
    mine = NesterovSGD(ours.parameters(), settings)
    reference = torch.optim.SGD(theirs.parameters(), 1.0, settings.momentum, weight_decay=0.01, nesterov=True)
    clipped = 0
    for step in range(30):
        inputs = torch.randn(4, 5, dtype=torch.float64)
        lr = triangular_lr(step, 30, settings)
        for model in (ours, theirs):
            model(inputs).square().sum().backward()
        clipped += nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item() > 0.5
        reference.param_groups[0]["lr"] = lr
        reference.step()
        reference.zero_grad()
        mine.step(lr)
    assert 0 < clipped < 30  # both cases happened
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
        assert a.grad is None


def test_convolutions_train_in_channels_last_and_move_like_torchs():
    ours, theirs = (nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(80, 2)).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    training.channels_last(ours)
    layouts = [parameter.stride() for parameter in ours.parameters()]
    settings = TrainingSettings(max_grad_norm=1e9)
    mine = NesterovSGD(ours.parameters(), settings)
    reference = torch.optim.SGD(theirs.parameters(), 0.01, settings.momentum, weight_decay=5e-4, nesterov=True)
    for seed in range(5):
        inputs = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for model in (ours, theirs):
            model(inputs).square().mean().backward()
        reference.step()
        reference.zero_grad()
        mine.step(0.01)
        assert [parameter.stride() for parameter in ours.parameters()] == layouts
        assert ours[0](inputs).is_contiguous(memory_format=torch.channels_last)  # so are all later feature maps
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def random_mlp(widths, seed):
    with seeded(seed):
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.ModuleList(layers).double()


@settings(max_examples=20, deadline=None)
@given(
    used=st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=8),
    seed=st.integers(0, 99),
    tensor=st.booleans(),
    joined=st.sampled_from([1, 12, 10**6]),
)
def test_flat_sgd_is_torchs_whichever_parameters_have_a_gradient(used, seed, tensor, joined):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "JOINED", joined)  # one tensor for each, several, all in one
        check_flat_sgd(used, seed, tensor)


def check_flat_sgd(used, seed, tensor):
    ours, theirs = random_mlp((3, 5, 2, 4, 1), seed), random_mlp((3, 5, 2, 4, 1), seed)
    recipe = TrainingSettings(max_grad_norm=1.5, weight_decay=0.01)
    mine = NesterovSGD(ours.parameters(), recipe)
    reference = torch.optim.SGD(theirs.parameters(), 0.1, recipe.momentum, weight_decay=0.01, nesterov=True)
    rng = torch.Generator().manual_seed(seed)
    for layers in used:
        for layer in layers:
            gradients = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in ours[layer].parameters()]
            for model in (ours, theirs):
                for parameter, gradient in zip(model[layer].parameters(), gradients, strict=True):
                    parameter.grad = gradient.clone()
        nn.utils.clip_grad_norm_(theirs.parameters(), recipe.max_grad_norm)
        reference.step()
        reference.zero_grad()
        mine.step(torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_step_of_the_optimizer_takes_as_many_operations_for_many_parameters_as_for_few():
    class Counter(TorchDispatchMode):
        names: ClassVar[list[str]] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func._overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    counts = []
    for n in (2, 40):
        parameters = [nn.Parameter(torch.ones(3, 2)) for _ in range(n)]
        optimizer = NesterovSGD(parameters, TrainingSettings())
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.ones(3, 2)
            Counter.names = []
            with Counter():
                optimizer.step(0.1)
        counts.append([name for name in Counter.names if name not in ("view", "reshape", "_unsafe_view", "detach")])
    assert counts[0] == counts[1]
    assert len(counts[0]) <= 15


def test_a_step_of_the_optimizer_holds_large_networks_little_more_than_three_times():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1500), *(nn.Linear(1500, 1500) for _ in range(3)))
    parameters_bytes = 4 * count_params(model)
    assert train_memory(model, (3, 2, 2), 2) < 3.7 * parameters_bytes  # parameters, velocities, gradients, one joined


def test_sgd_refuses_parameters_that_do_not_fit_into_one_tensor():
    with pytest.raises(ValueError, match="one dtype and on one device"):
        NesterovSGD([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2).double())], TrainingSettings())


def test_trained_parameters_have_their_own_memory(tiny_data, make_cnn):
    model = new_cnn(make_cnn)
    before = dict(model.named_parameters())
    train(model, tiny_data, None, kd=None, epochs=1, seed=0)
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert parameter.untyped_storage().nbytes() == 4 * parameter.numel()


def test_sgd_leaves_parameters_without_gradient_alone():
    used, unused, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), torch.ones(2)
    used.sum().backward()
    optimizer = NesterovSGD([used, unused, frozen], TrainingSettings())
    optimizer.step(0.1)
    optimizer.step(0.1)  # nothing has a gradient now
    assert used[0] != 1
    assert unused[0] == frozen[0] == 1


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    settings = TrainingSettings(lr=0.1, peak=0.2)
    rates = [triangular_lr(step, 1000, settings) for step in range(1000)]
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert rates.index(max(rates)) in (199, 200)
    assert sum(rates) / 1000 == pytest.approx(0.05, rel=1e-3)  # a triangle's mean height
    assert 0 < rates[0] < 0.001
    assert 0 < rates[-1] < 0.001


def test_same_seed_gives_the_same_weights_and_another_seed_others(tiny_data, make_cnn):
    def weights(seed):
        model = new_cnn(make_cnn)
        result = train(model, tiny_data, None, kd=None, epochs=2, seed=seed)
        return result, torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])

    (first, a), (second, b), (third, c) = weights(1), weights(1), weights(2)
    assert torch.equal(a, b)
    assert first.curve == second.curve != third.curve
    assert not torch.equal(a, c)


def test_training_touches_no_global_random_state_and_no_data(tiny_data, make_cnn):
    state, views = torch.get_rng_state(), tiny_data.teacher_views.drawn.clone()
    train(new_cnn(make_cnn), tiny_data, None, kd=None, epochs=1, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(tiny_data.teacher_views.drawn, views)


def test_kd_weight_0_trains_exactly_like_cross_entropy(tiny_data, make_cnn):
    teacher_logits = torch.randn(2, 64, 10, generator=torch.Generator().manual_seed(0))
    curves = [
        train(new_cnn(make_cnn), tiny_data, logits, kd=kd, epochs=3, seed=5).curve
        for logits, kd in ((None, None), (teacher_logits, KD(kd_weight=0.0)), (teacher_logits, None))
    ]
    assert curves[0] == curves[1] == curves[2]


class Recorder(nn.Module):
    """Writes down the images that it is shown; its logits do not depend on them."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(10))
        self.batches = []

    def forward(self, images):
        self.batches.append(images)
        return self.bias.expand(len(images), 10)


def test_each_image_is_shown_once_per_epoch_in_its_next_view(tiny_data):
    recorder = Recorder()
    train(recorder, tiny_data, None, kd=None, epochs=2, seed=0)
    assert [len(batch) for batch in recorder.batches] == [32] * 4
    views = tiny_data.normalise(tiny_data.train_views.drawn.flatten(0, 1))
    shown = []
    for epoch in (0, 1):
        images = torch.cat(recorder.batches[2 * epoch : 2 * epoch + 2])
        distances = torch.cdist(images.flatten(1), views.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        assert distances.min(dim=1).values.max() < 1e-4
        shown.append(distances.argmin(dim=1))
        assert sorted((shown[-1] % 64).tolist()) == list(range(64))
    assert set(torch.cat(shown).tolist()) == set(range(128))  # both views of every image
    assert 10 < int((shown[0] < 64).sum()) < 54  # which of them comes first is drawn


def test_soft_targets_follow_sample_and_view(tiny_data):
    # Targets that only a model which gets the view's own row can match: each (view, sample) has its own one-hot.
    codes = torch.arange(128).view(2, 64)

    class Oracle(Recorder):
        def forward(self, images):
            super().forward(images)
            views = tiny_data.normalise(tiny_data.train_views.drawn.flatten(0, 1)).flatten(1)
            row = torch.cdist(images.flatten(1), views).argmin(dim=1)
            return self.bias * 0 + 100.0 * nn.functional.one_hot(row % 10, 10)

    targets = 100.0 * nn.functional.one_hot(codes % 10, 10).float()
    result = train(Oracle(), tiny_data, targets, kd=KD(1.0, 1.0), epochs=2, seed=0)
    assert max(result.curve) < 1e-6


def test_a_last_partial_batch_is_dropped(tiny_data):
    recorder = Recorder()
    data = replace(tiny_data, task=replace(tiny_data.task, batch_size=48))
    assert train(recorder, data, None, kd=None, epochs=1, seed=0).status == "success"
    assert [len(batch) for batch in recorder.batches] == [48]


def test_loss_that_is_not_a_number_ends_the_training_as_diverged(tiny_data):
    class Broken(Recorder):
        def forward(self, images):
            logits = super().forward(images)
            return logits * math.nan if len(self.batches) > 4 else logits

    result = train(Broken(), tiny_data, None, kd=None, epochs=9, seed=0)
    assert (result.status, result.epochs, len(result.curve)) == ("diverged", 3, 2)
    assert "nan in epoch 3 of 9" in result.message


def test_exploding_loss_ends_the_training_as_diverged(tiny_data):
    class Exploding(Recorder):
        def forward(self, images):
            logits = super().forward(images)
            noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(len(self.batches)))
            return logits + noise * 3.0 ** len(self.batches)

    result = train(Exploding(), tiny_data, None, kd=None, epochs=9, seed=0)
    assert result.status == "diverged"
    assert "loss rose from" in result.message
    assert result.epochs < 9
    assert all(map(math.isfinite, result.curve))


def test_time_limit_ends_the_training_after_an_epoch(tiny_data):
    result = train(Recorder(), tiny_data, None, kd=None, epochs=9, seed=0, time_limit_s=0.0)
    assert (result.status, result.epochs) == ("timeout", 1)


WAITS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__")
"""What makes the host wait for a GPU."""


@pytest.mark.parametrize("kd", [None, KD()])
def test_the_device_is_waited_for_once_per_epoch(tiny_data, make_cnn, monkeypatch, kd):
    waits = []

    def counted(name):
        original = getattr(torch.Tensor, name)

        def wrapper(self, *args, **kwargs):
            waits.append(name)
            return original(self, *args, **kwargs)

        return wrapper

    targets = torch.randn(2, 64, 10, generator=torch.Generator().manual_seed(0))
    model, made = new_cnn(make_cnn), []
    tensor = torch.tensor
    with monkeypatch.context() as patches:
        for name in WAITS:
            patches.setattr(torch.Tensor, name, counted(name))
        # a tensor made of Python's numbers is a copy to the device that the host waits for
        patches.setattr(torch, "tensor", lambda *args, **kwargs: made.append(args) or tensor(*args, **kwargs))
        train(model, tiny_data, targets, kd=kd, epochs=3, seed=0)
    assert waits == ["tolist"] * 3
    assert not made


@pytest.mark.parametrize("kd", [None, KD()])
@pytest.mark.parametrize("cut", [1, 3])
def test_a_continued_training_is_bit_for_bit_the_uninterrupted_one(tiny_data, make_cnn, cut, kd):
    targets = torch.randn(2, 64, 10, generator=torch.Generator().manual_seed(0))
    common = {"kd": kd, "seed": 3}
    whole, first, second = (new_cnn(make_cnn, seed) for seed in (0, 0, 1))  # the second starts with other weights
    all_of_it = train(whole, tiny_data, targets, epochs=4, **common)
    kept = []
    before = train(first, tiny_data, targets, epochs=cut, schedule_epochs=4, keep=kept.append, **common)
    (checkpoint,) = kept
    after = train(second, tiny_data, targets, epochs=4, start=checkpoint, **common)
    assert before.curve + after.curve == all_of_it.curve
    assert (before.epochs, after.epochs) == (cut, 4 - cut)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), checkpoint.model.values(), strict=True))


def test_only_a_training_that_succeeds_is_kept(tiny_data):
    kept = []
    train(Recorder(), tiny_data, None, kd=None, epochs=9, seed=0, time_limit_s=0.0, keep=kept.append)
    assert not kept


def test_what_cannot_be_trained_is_told_before_any_work(tiny_data, make_cnn):
    model, kept = new_cnn(make_cnn), []
    train(model, tiny_data, None, kd=None, epochs=2, seed=0, keep=kept.append)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for wrong, message in (
        ({"epochs": 2}, "epochs=2 must be more than the 2 that are done"),
        ({"epochs": 5, "schedule_epochs": 4}, "at most schedule_epochs=4"),
        ({"epochs": 4, "seed": 1}, "has seed 0, got seed=1"),
        (
            {"epochs": 4, "settings": TrainingSettings(precision="auto"), "objective": object()},
            "precision='auto' goes with",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train(model, tiny_data, None, **{"kd": None, "seed": 0, "start": kept[0], **wrong})
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_precisions_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, auto, got 'half'"):
        TrainingSettings(precision="half")


def test_bfloat16_is_used_kept_from_the_weights_and_learns_about_the_same(tiny_data, make_cnn):
    results, models = {}, {}
    for precision in ("float32", "bfloat16"):
        models[precision] = new_cnn(make_cnn)
        recipe = TrainingSettings(precision=precision)
        results[precision] = train(models[precision], tiny_data, None, kd=None, epochs=8, seed=0, settings=recipe)
        assert results[precision].precision == precision
    exact, half = results["float32"].curve, results["bfloat16"].curve
    assert exact != half
    assert half == pytest.approx(exact, rel=0.1)
    weights = list(models["bfloat16"].parameters())
    assert all(weight.dtype == torch.float32 for weight in weights)
    # moved by float32 steps, not rounded to bfloat16
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights)


class SlowIn(nn.Module):
    """A linear model that takes its time in one precision."""

    def __init__(self, slow):
        super().__init__()
        self.linear, self.slow = nn.Linear(144, 10), slow

    def forward(self, images):
        if ("bfloat16" if torch.is_autocast_enabled("cpu") else "float32") == self.slow:
            end = time.process_time() + 0.05
            while time.process_time() < end:
                pass
        return self.linear(images.flatten(1))


@pytest.mark.parametrize(("slow", "faster"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_auto_takes_the_precision_whose_step_is_faster_and_trains_as_with_that(tiny_data, slow, faster):
    trained = {}
    for precision in ("auto", faster):
        with seeded(0):
            trained[precision] = SlowIn(slow)
        recipe = TrainingSettings(precision=precision)
        result = train(trained[precision], tiny_data, None, kd=None, epochs=1, seed=0, settings=recipe)
        assert result.precision == faster
    assert torch.equal(trained["auto"].linear.weight, trained[faster].linear.weight)  # timing changed nothing


def test_training_learns_and_reports_it(tiny_data, make_cnn):
    model, seen = new_cnn(make_cnn), []
    result = train(model, tiny_data, None, kd=None, epochs=30, seed=0, progress=lambda *args: seen.append(args))
    assert result.train_accuracy > 0.6
    assert result.curve[-1] < 0.7 * result.curve[0]
    assert seen == list(enumerate(result.curve, start=1))


def test_prediction_does_not_depend_on_the_batches(tiny_data, make_cnn):
    model = new_cnn(make_cnn)
    train(model, tiny_data, None, kd=None, epochs=1, seed=0)
    whole, parts = (predict(model, tiny_data, tiny_data.val_images, size) for size in (200, 7))
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    assert not model.training
    expected = (whole.argmax(1) == tiny_data.val_labels).double().mean().item()
    assert accuracy(whole, tiny_data.val_labels) == pytest.approx(expected)


class Small(nn.Module):
    """Takes no more than ``most`` images at once."""

    def __init__(self, most):
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, images):
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.flatten(1)[:, :10]


def test_predictions_without_memory_are_made_in_smaller_batches_and_told(tiny_data, caplog):
    images = tiny_data.val_images[:100]
    expected = predict(Small(100), tiny_data, images)
    model = Small(PREDICT_LEAST + 5)
    assert torch.equal(predict(model, tiny_data, images, 64), expected)
    assert model.seen[:3] == [64, 32, 16]
    assert model.seen[3:] == [PREDICT_LEAST] * 12 + [4]
    assert [record.getMessage() for record in caplog.records] == [
        f"no memory for predictions in batches of {size}: half as many are tried" for size in (64, 32, 16)
    ]
    with pytest.raises(torch.OutOfMemoryError):
        predict(Small(PREDICT_LEAST - 1), tiny_data, images)


def test_a_gpu_predicts_in_large_batches(tiny_data):
    """Shapes alone: the model is on the device ``meta``, which is no CPU."""
    images = torch.empty(GPU_PREDICT_PIXELS // tiny_data.task.image_size**2 + 1, 1, 12, 12, device="meta")
    model = Small(10**9)
    predict(model, tiny_data.to("meta"), images)
    assert model.seen == [len(images) - 1, 1]
    assert model.seen[0] * 12**2 > 0.9 * GPU_PREDICT_PIXELS > 10 * PREDICT_PIXELS


def test_threads_and_seeds_are_put_back():
    before, state = torch.get_num_threads(), torch.get_rng_state()

    def fail():
        with limited_threads(before + 1), seeded(3):
            assert torch.get_num_threads() == before + 1
            torch.rand(3)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)
