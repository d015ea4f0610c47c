from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from naslib_autokd.data.vision import import_torchvision
from naslib_autokd.distillation.costs import count_macs, count_params
from naslib_autokd.search_spaces import get_search_space
from naslib_autokd.teachers.networks import SmallResNet
from naslib_autokd.teachers.teacher import Teacher
from naslib_autokd.teachers.zoo import ZOO, build, features, resnet, wide_resnet

# Parameters for CIFAR-100. Counted in RepDistiller's networks (github.com/HobbitLong/RepDistiller, models/, commit
# b84f547c5db6a35318d4671d7d5c4de74c822403, imported and summed), whose accuracies the literature's tables hold.
REPDISTILLER = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet50_cifar": 23_705_252,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,  # torchdistill's wide_resnet40_2 as well
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "mobilenet_v2": 812_836,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
}

# Printed in the papers, for CIFAR-10, in millions: He et al. 2016, arXiv:1512.03385, table 6 (identity shortcuts, which
# have no parameters, so ours have 2,752 more), and Zagoruyko & Komodakis 2016, arXiv:1605.07146, table 4.
PAPERS = {
    "resnet20": 0.27,
    "resnet32": 0.46,
    "resnet44": 0.66,
    "resnet56": 0.85,
    "resnet110": 1.7,
    "wrn_40_1": 0.6,
    "wrn_40_2": 2.2,
}


@pytest.mark.parametrize("name", REPDISTILLER)
def test_parameters_are_those_of_the_literatures_networks(name):
    assert count_params(build(name, 3, 100)) == REPDISTILLER[name]


@pytest.mark.parametrize("name", PAPERS)
def test_parameters_are_those_that_the_papers_print(name):
    n_params = count_params(build(name, 3, 10)) - (2_752 if name.startswith("resnet") else 0)
    digits = len(str(PAPERS[name]).split(".")[1])
    assert abs(n_params / 1e6 - PAPERS[name]) <= 10**-digits  # He et al. cut off, and Zagoruyko & Komodakis round


# MACs of one 32x32 image, counted by the same function in RepDistiller's networks (strides and poolings are in them, of
# which the number of parameters says nothing).
MACS = {
    "resnet8x4": 177_071_104,
    "wrn_16_2": 101_118_464,
    "vgg8": 96_192_512,
    "mobilenet_v2": 6_523_648,
    "shufflenet_v1": 38_691_456,
    "shufflenet_v2": 44_504_448,
}


@pytest.mark.parametrize("name", MACS)
def test_macs_are_those_of_the_literatures_networks(name):
    assert count_macs(build(name, 3, 100), (3, 32, 32)) == MACS[name]


SMALL = ("resnet8", "resnet8x0.5", "wrn_16_1", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2")


@pytest.mark.parametrize("name", SMALL)
def test_networks_train_on_the_embedded_task(name):
    torch.manual_seed(0)
    model, images = build(name, 1, 10), torch.randn(4, 1, 12, 12)
    found = features(model, images)
    assert found.logits.shape == (4, 10)
    found.logits.logsumexp(dim=1).sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet20", [(16, 32), (32, 16), (64, 8)]),
        ("resnet8x4", [(64, 32), (128, 16), (256, 8)]),
        ("wrn_16_2", [(32, 32), (64, 16), (128, 8)]),
        ("vgg8", [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
        ("mobilenet_v2", [(12, 16), (16, 8), (48, 4), (160, 2)]),
        ("shufflenet_v1", [(240, 16), (480, 8), (960, 4)]),
        ("shufflenet_v2", [(116, 16), (232, 8), (464, 4)]),
    ],
)
def test_maps_are_the_stages_that_the_literature_distils(name, shapes):
    """The shapes of RepDistiller's ``feat[1:-1]``."""
    found = features(build(name, 3, 100), torch.zeros(2, 3, 32, 32))
    assert [(x.shape[1], x.shape[2]) for x in found.maps] == shapes


def consistent(model: nn.Module, images: torch.Tensor) -> list[tuple[int, ...]]:
    """Check what holds for the features of every network; the shapes of its maps."""
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = features(model, images)
    torch.testing.assert_close(found.logits, model(images), rtol=1e-5, atol=1e-5)  # hooks run the readable steps
    assert found.pooled.shape[0] == len(images)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train()
    features(model, images)
    assert all(module.training for module in model.modules()) or isinstance(model, Teacher)
    return [tuple(x.shape[1:]) for x in found.maps]


def test_looking_for_the_points_leaves_statistics_and_modes_alone():
    model = SmallResNet(1, 10, (4, 8))
    model.blocks[0].eval()
    features(model, torch.randn(2, 1, 12, 12))
    assert not model.blocks[0].training
    assert model.blocks[1].training
    assert int(model.stem_bn.num_batches_tracked) == 1  # the call itself, not the search for the points


def test_features_of_our_teachers_and_of_a_teacher_with_its_normalisation():
    network = SmallResNet(1, 10, (16, 32, 32))
    assert consistent(network, torch.randn(2, 1, 12, 12)) == [(16, 12, 12), (32, 6, 6), (32, 3, 3)]
    images = torch.randint(256, (2, 1, 12, 12), dtype=torch.uint8)
    assert consistent(Teacher(network, (0.5,), (0.2,)), images) == [(16, 12, 12), (32, 6, 6), (32, 3, 3)]
    assert not features(Teacher(network, (0.5,), (0.2,)), images).logits.requires_grad
    of_zoo = Teacher(build("resnet8", 1, 10), (0.5,), (0.2,))
    assert consistent(of_zoo, images) == [(16, 12, 12), (32, 6, 6), (64, 3, 3)]


def test_features_of_searched_students():
    from naslib_autokd.search_spaces.hnag.student import Student
    from naslib_autokd.search_spaces.hnag.wiring import fit_width

    space = get_search_space("hnag-small")
    for seed in range(3):
        candidate = space.default_candidate() if seed == 0 else space.sample(np.random.default_rng(seed))
        spec = fit_width(
            candidate.sample_wiring(seed), 24_000, in_channels=1, image_size=12, n_classes=10, min_channels=4
        )
        model, images = Student(spec), torch.randn(2, 1, 12, 12)
        channels = [spec.channels[stage] for stage in sorted(set(spec.wiring.stages))]
        assert [shape[0] for shape in consistent(model, images)] == channels
        found = features(model, images)
        rebuilt = nn.functional.linear(found.pooled, model.classifier_weight, model.classifier_bias)
        assert torch.equal(rebuilt, found.logits)
        if spec.wiring.head_ratio == 0:
            torch.testing.assert_close(found.maps[-1].mean(dim=(2, 3)), found.pooled)


def test_pooled_is_what_the_classifier_reads():
    model = build("mobilenet_v2", 3, 10).eval()
    found = features(model, torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(model.classifier(found.pooled), found.logits)
    assert found.pooled.shape == (2, 1280)


def test_features_of_torchvisions_networks():
    try:
        torchvision = import_torchvision()
    except ImportError as error:
        pytest.skip(str(error))
    images = torch.randn(2, 3, 64, 64)
    found = features(torchvision.models.resnet18().eval(), images)
    assert [tuple(x.shape[1:]) for x in found.maps] == [
        (64, 32, 32),
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
        (512, 2, 2),
    ]
    found = features(torchvision.models.mobilenet_v2().eval(), images)
    # the last block at each resolution, and not the expansion inside the first block of the next
    assert [x.shape[1] for x in found.maps] == [16, 24, 32, 96, 1280]


def test_a_network_without_maps_is_named():
    with pytest.raises(ValueError, match="Sequential has no module with feature maps"):
        features(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2))


def test_unknown_names_and_depths():
    with pytest.raises(ValueError, match="did you mean 'mobilenet_v2'"):
        build("MobileNetV2", 3, 10)
    assert build("WRN-16-1", 1, 2).classifier.out_features == 2
    with pytest.raises(ValueError, match=r"6n \+ 2 layers"):
        resnet(21, 1.0, 3, 10)
    with pytest.raises(ValueError, match=r"6n \+ 4 layers"):
        wide_resnet(20, 1, 3, 10)


def test_halves_and_doubles_scale_the_stages():
    for name, channels in (("resnet8x0.5", (8, 16, 32)), ("resnet14x2", (32, 64, 128))):
        assert tuple(x.shape[1] for x in features(build(name, 1, 7), torch.zeros(1, 1, 8, 8)).maps) == channels
    assert set(REPDISTILLER) <= set(ZOO)
