from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from naslib_autokd.distillation.costs import count_macs, count_params, inference_memory, latency_s, train_memory

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


def published_macs(name):
    """A network of torchvision on the meta device, the shape of its images and its published multiply-adds."""
    from naslib_autokd.teachers.names import torchvision_models

    try:
        models = torchvision_models()
    except ImportError as error:
        pytest.skip(str(error))
    weights = next(iter(models.get_model_weights(name)))
    size = weights.transforms().crop_size[0]
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    options |= {"image_size": size} if name.startswith("vit") else {}
    return models.get_model(name, **options).to("meta"), (3, size, size), weights.meta["_ops"] * 1e9


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "convnext_tiny", "resnet18"])
def test_macs_are_those_that_torchvision_publishes(name):
    network, shape, published = published_macs(name)
    assert count_macs(network, shape) == pytest.approx(published, abs=1e6)  # published in billions, three decimals


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inception_v3's, about its initialisation
@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "convnext_small", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet"),
        *("inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf"),
        *("regnet_y_400mf", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_v2_t"),
        *("vgg11_bn", "vit_b_32", "vit_l_16", "wide_resnet50_2"),
    ],
)
def test_macs_of_every_family_are_those_that_torchvision_publishes(name):
    network, shape, published = published_macs(name)
    assert count_macs(network, shape) == pytest.approx(published, abs=1e6)


class Attentive(nn.Module):
    """Attention over 36 patches of 4 pixels, as torch's layer or its functional form has it."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.patches, self.head = kind, nn.Conv2d(1, 16, 2, stride=2), nn.Linear(16, 10)
        if kind == "layer":
            self.attention = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        elif kind == "attention":
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT.contiguous()
        if self.kind == "layer":
            tokens = self.attention(tokens)
        elif self.kind == "attention":
            tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        else:
            heads = tokens.unflatten(2, (2, 8)).transpose(1, 2)
            tokens = nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return self.head(tokens.mean(dim=1))


@pytest.mark.parametrize("kind", ["layer", "attention", "function"])
def test_fused_attention_is_counted_on_a_cpu_too(kind):
    ends = 36 * 4 * 16 + 160  # patches and head
    products = 2 * 36 * 36 * 16
    by_hand = {"function": 0, "attention": 4 * 36 * 16 * 16, "layer": 4 * 36 * 16 * 16 + 2 * 36 * 16 * 32}[kind]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    for device in ("cpu", "meta"):
        assert count_macs(Attentive(kind).to(device), SHAPE) == ends + products + by_hand
    assert torch.backends.mha.get_fastpath_enabled() == fastpath


def test_fused_layers_hide_no_memory():
    """Queries, keys and values of 36 tokens exist at once, which the fused layer of a CPU does not show."""
    model = Attentive("attention")
    weights = 4 * count_params(model)
    assert inference_memory(model, SHAPE, 64) >= weights + 4 * 64 * 36 * 16 * 4


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
