from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from naslib_autokd.distillation.costs import count_macs, count_params, latency_s, train_memory

SHAPE = (1, 12, 12)


def test_macs_and_parameters_of_a_hand_counted_network():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(576, 10)
    )
    assert count_params(model) == 36 + 8 + 5770
    assert count_macs(model, SHAPE) == 36 * 144 + 5760


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fvcore's, at import
def test_macs_agree_with_fvcore_and_torch(make_cnn):
    from fvcore.nn import FlopCountAnalysis

    model = make_cnn().eval()
    analysis = FlopCountAnalysis(model, torch.zeros(1, *SHAPE)).unsupported_ops_warnings(False)
    theirs = analysis.by_operator()
    assert count_macs(model, SHAPE) == theirs["conv"] + theirs["linear"]
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *SHAPE))
    assert 2 * count_macs(model, SHAPE) == counter.get_total_flops()


def test_counting_leaves_the_model_as_it_was(make_cnn):
    model = make_cnn().train()
    before = copy.deepcopy(model.state_dict())
    count_macs(model, SHAPE)
    train_memory(model, SHAPE, 8)
    latency_s(model, SHAPE, repeats=1)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_training_memory_of_a_hand_counted_network():
    # float32. Parameters, gradients and momentum of Linear(144, 10) are 1450 numbers each; the batch is 8 x 144.
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    counted = train_memory(model, SHAPE, batch_size=8)
    lower = 4 * (3 * 1450 + 8 * 144)
    assert lower <= counted <= lower + 4 * (1450 + 8 * 144 + 5 * 8 * 10) + 64


def test_training_memory_has_a_fixed_part_and_one_per_image():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(800, 10)
    )
    by_batch = {size: train_memory(model, SHAPE, size) for size in (64, 128, 256)}
    per_image = (by_batch[128] - by_batch[64]) / 64
    assert (by_batch[256] - by_batch[128]) / 128 == pytest.approx(per_image, rel=0.01)
    kept_for_backward = 4 * (8 * 144 + 8 * 100)
    assert kept_for_backward < per_image < 4 * kept_for_backward


def test_training_memory_counts_freed_tensors_once():
    class Wasteful(nn.Module):
        def __init__(self, times):
            super().__init__()
            self.linear, self.times = nn.Linear(144, 10), times

        def forward(self, images):
            with torch.no_grad():
                for _ in range(self.times):
                    (images * 2).sum()  # freed at once
            return self.linear(images.flatten(1))

    once, often = (train_memory(Wasteful(times), SHAPE, 64) for times in (1, 20))
    assert once == often


def test_latency_is_positive(make_cnn):
    assert 0 < latency_s(make_cnn(), SHAPE, repeats=3) < 1
