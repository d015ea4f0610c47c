"""Weights as files have them: below keys and prefixes, under old names, in order, among other things; never run."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict, defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from naslib_autokd.data.vision import import_torchvision
from naslib_autokd.distillation.training import seeded
from naslib_autokd.teachers.check import IMAGENET
from naslib_autokd.teachers.names import ArchitectureName, TeacherError, parse_architecture
from naslib_autokd.teachers.networks import build_network, published_input
from naslib_autokd.teachers.weights import load_weights, order_of_tensors, read_weights, stated_classes
from naslib_autokd.teachers.zoo import ZOO, build

ANY = ArchitectureName("zoo", "resnet8")


class Small(nn.Module):
    """Batch norm, a convolution without bias, and a classifier."""

    def __init__(self, n_classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).mean(dim=(2, 3)))


def trained(make=Small, seed: int = 0):
    """A network whose every tensor, also the statistics of batch norm, differs from a fresh one's."""
    with seeded(seed):
        network = make()
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.5)
    return network.eval()


def loaded_from(content, tmp_path: Path, key: str = "", name: ArchitectureName = ANY, make=Small, **save):
    """A fresh network with the weights of a file of ``content``, and what was said."""
    torch.save(content, tmp_path / "w.pth", **save)
    file = read_weights(f"{tmp_path / 'w.pth'}{key}")
    network = make()
    notes = load_weights(network, file, name, 3)
    return network.eval(), [*file.notes, *notes]


def same(network: nn.Module, other: nn.Module, size: int = 8) -> bool:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(network(images), other(images))


def prefixed(prefix: str, network: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in network.state_dict().items()}


RIGHT = trained()


@pytest.mark.parametrize("key", ["net", "network", "student", "teacher", "params", "weights", "state_dict", "my_key"])
def test_a_state_dict_is_found_below_any_key_and_any_prefix(tmp_path, key):
    network, notes = loaded_from({key: prefixed("some.prefix.", RIGHT), "epoch": 3}, tmp_path)
    assert same(network, RIGHT)
    assert notes == [
        f"the state dict was taken from its key {key!r}",
        "the prefix 'some.prefix.' was cut off all names",
    ]
    network, notes = loaded_from({"a": {key: RIGHT.state_dict()}}, tmp_path)
    assert same(network, RIGHT)
    assert notes == [f"the state dict was taken from its key 'a.{key}'"]


def test_plain_state_dicts_say_nothing(tmp_path):
    network, notes = loaded_from(RIGHT.state_dict(), tmp_path)
    assert same(network, RIGHT)
    assert notes == []


def test_files_without_counters_of_batch_norm_load_and_those_with_counters_of_tools(tmp_path):
    bare = {key: value for key, value in RIGHT.state_dict().items() if "num_batches" not in key}
    network, notes = loaded_from(bare, tmp_path)
    assert same(network, RIGHT)
    assert notes == []
    counted = prefixed("module.", RIGHT) | {"n_averaged": torch.tensor(9), "module.body.total_ops": torch.zeros(1)}
    network, notes = loaded_from(counted, tmp_path)
    assert same(network, RIGHT)
    assert "left out" in notes[-1]
    assert "n_averaged" in notes[-1]
    assert "total_ops" in notes[-1]


def test_weights_besides_are_refused_and_those_of_other_parts_are_left_out(tmp_path):
    with pytest.raises(TeacherError, match=r"does not fit zoo:resnet8 with 3 classes: it has besides more\.weight"):
        loaded_from(RIGHT.state_dict() | {"more.weight": torch.zeros(2)}, tmp_path)
    lightning = {"state_dict": prefixed("model.", RIGHT) | {"criterion.weight": torch.zeros(3)}}
    network, notes = loaded_from(lightning, tmp_path)
    assert same(network, RIGHT)
    assert "criterion.weight" in notes[-1]


def test_a_partial_prefix_is_no_prefix(tmp_path):
    mixed = {f"module.{key}" if "body" in key else key: value for key, value in RIGHT.state_dict().items()}
    del mixed["head.bias"]
    with pytest.raises(TeacherError, match=r"it lacks body\.0\.weight, .*; it has besides module\.body"):
        loaded_from(mixed, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        lambda plain, ema: {"model": plain.state_dict(), "model_ema": prefixed("module.", ema), "epoch": 1},
        lambda plain, ema: {"model": plain.state_dict(), "ema": ema.state_dict()},
        lambda plain, ema: {"model": prefixed("net.", plain) | prefixed("net_ema.", ema)},
    ],
)
def test_of_two_copies_the_average_is_taken_and_how_to_take_the_other_is_said(tmp_path, content):
    ema = trained(seed=1)
    network, notes = loaded_from(content(RIGHT, ema), tmp_path)
    assert same(network, ema)
    assert "averaged over the training, was taken; FILE#model" in notes[0]
    other = notes[0].partition("FILE")[2].split(" ")[0]
    network, _ = loaded_from(content(RIGHT, ema), tmp_path, key=other)
    assert same(network, RIGHT)


def test_two_networks_that_fit_are_not_chosen_between(tmp_path):
    content = {"student": RIGHT.state_dict(), "teacher": trained(seed=1).state_dict()}
    with pytest.raises(TeacherError, match=r"2 different sets of weights that fit: student, teacher; .*FILE#student"):
        loaded_from(content, tmp_path)
    network, _ = loaded_from(content, tmp_path, key="#student")
    assert same(network, RIGHT)
    with pytest.raises(TeacherError, match=r"no tensors below 'studnet'; it has some below 'student', 'teacher'"):
        loaded_from(content, tmp_path, key="#studnet")
    network, _ = loaded_from({"student": RIGHT.state_dict(), "best": RIGHT.state_dict()}, tmp_path)  # the same twice
    assert same(network, RIGHT)


# --- files of training scripts --------------------------------------------------------------------------------------


class Settings:
    """What a training script may have put into its file; must never be made again on reading."""

    made = 0

    def __init__(self) -> None:
        Settings.made += 1
        self.lr = 0.1


@pytest.mark.parametrize("old_format", [False, True])
def test_files_of_training_scripts_are_read_and_nothing_else_in_them_is_made(tmp_path, old_format):
    history = defaultdict(list)
    history["loss"].append(np.float32(0.5))
    content = {
        "model": RIGHT.state_dict(),
        "args": argparse.Namespace(lr=0.1, out=Path("runs")),
        "best": np.float64(0.9),
        "history": history,
        "random": np.random.RandomState(0).get_state()[1],
        "settings": Settings(),
    }
    before = Settings.made
    network, notes = loaded_from(content, tmp_path, _use_new_zipfile_serialization=not old_format)
    assert same(network, RIGHT)
    assert Settings.made == before
    assert "it holds more than tensors" in notes[0]
    assert "argparse.Namespace" in notes[0]
    assert "nothing of it was run" in notes[0]


def test_a_module_that_was_saved_whole_gives_its_tensors(tmp_path):
    network, notes = loaded_from(nn.DataParallel(RIGHT), tmp_path)
    assert same(network, RIGHT)
    assert "test_weights.Small" in notes[0]
    network, notes = loaded_from({"ema": RIGHT, "epoch": 1}, tmp_path)
    assert same(network, RIGHT)


class Harmful:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["HARM"])),)


@pytest.mark.parametrize("old_format", [False, True])
def test_files_that_run_something_are_refused_in_one_line_that_says_how_to_save_again(
    tmp_path, monkeypatch, old_format
):
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    with pytest.raises(TeacherError) as error:
        loaded_from(
            {"model": RIGHT.state_dict(), "x": Harmful()}, tmp_path, _use_new_zipfile_serialization=not old_format
        )
    assert not (tmp_path / "harm").exists()
    assert "since it holds posix.mkdir; save the weights alone where it was made: torch.save(model.state_dict()" in str(
        error.value
    )
    assert "\n" not in str(error.value)
    assert "add_safe_globals" not in str(error.value)


def test_files_without_any_state_dict_are_refused(tmp_path):
    for content, said in (
        ([1, 2], "must hold a state dict of plain tensors"),
        ({"epoch": 3}, "must hold a state dict of plain tensors"),
        (argparse.Namespace(lr=1), r"since it holds argparse\.Namespace; save the weights alone"),
    ):
        with pytest.raises(TeacherError, match=said):
            loaded_from(content, tmp_path)
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": 1}, protocol=4) * 3)
    with pytest.raises(TeacherError, match=r"cannot be loaded; it must be a state dict of plain tensors: \S.*$"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_network_is_refused_with_the_reason(tmp_path):
    script = tmp_path / "w.pt"
    with torch.no_grad():
        torch.jit.trace(RIGHT, torch.zeros(1, 3, 8, 8)).save(str(script))
    with pytest.raises(TeacherError, match=r"TorchScript.*does what it says.*\.onnx"):
        read_weights(script)


# --- old names, other names -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    try:
        return import_torchvision().models
    except ImportError as error:
        pytest.skip(str(error))


def test_torchvisions_files_with_names_that_it_has_given_up_are_read(models, tmp_path):
    make = partial(models.DenseNet, growth_rate=4, block_config=(1, 2), num_init_features=8, bn_size=2, num_classes=3)
    right = trained(make)
    old = {key: value for key, value in right.state_dict().items() if "num_batches" not in key}
    for part in ("norm1", "norm2", "conv1", "conv2"):
        old = {key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}."): value for key, value in old.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    network, _ = loaded_from(old, tmp_path, make=make)
    assert same(network, right, 32)
    make = partial(
        models.VisionTransformer,
        image_size=32,
        patch_size=16,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
        num_classes=3,
    )
    right = trained(make)
    renamed = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in right.state_dict().items()
    }
    network, _ = loaded_from(renamed, tmp_path, make=make)
    assert same(network, right, 32)


def test_mnasnets_are_read_from_plain_dicts(models, tmp_path):
    """torchvision's loads only state dicts that carry a version, which safetensors and prefixes lose."""
    make = partial(models.MNASNet, 0.1, num_classes=3)
    right = trained(make)
    network, _ = loaded_from(dict(right.state_dict()), tmp_path, make=make)
    assert same(network, right, 32)


@pytest.mark.parametrize("with_auxiliary", [True, False])
@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_inception_networks_are_those_that_transform_their_input(models, tmp_path, name, with_auxiliary):
    """torchvision turns ImageNet's normalisation into one to [-1, 1] inside its published networks."""
    with seeded(0):
        make = models.GoogLeNet if name == "googlenet" else models.Inception3
        theirs = make(num_classes=3, aux_logits=with_auxiliary, transform_input=True, init_weights=False).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    architecture = parse_architecture(f"torchvision:{name}")
    given = published_input(architecture)
    assert given is not None
    ours, _ = build_network(architecture, 3, 3)
    notes = load_weights(ours, read_weights(tmp_path / "w.pth"), architecture, 3)
    assert [("left out" in note and "aux" in note.lower()) for note in notes] == [True] * with_auxiliary
    pixels = torch.rand(2, 3, 80, 80)

    def normalised(mean, std):
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    with torch.no_grad():
        expected, got = theirs(normalised(*IMAGENET)), ours.eval()(normalised(given.mean, given.std))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def foreign(network: nn.Module, name: ArchitectureName) -> dict[str, torch.Tensor]:
    """The state dict of a network of the zoo in the literature's order, under names that say nothing."""
    state, numbers = network.state_dict(), {}
    return {
        f"layer{numbers.setdefault(key.rpartition('.')[0], len(numbers))}.{key.rpartition('.')[2]}": state[key]
        for key in order_of_tensors(network, name)
    }


@pytest.mark.parametrize(
    "text",
    ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV2", pytest.param("ResNet50", marks=pytest.mark.slow)],
)
def test_repdistillers_teachers_are_taken_in_order(tmp_path, text):
    """Checked by hand against the networks of RepDistiller (commit b84f547c): the outputs of all 22 are equal."""
    name = parse_architecture(f"zoo:{text}")
    right = trained(partial(build, name.name, 3, 3))
    content = {"epoch": 240, "model": foreign(right, name), "accuracy": torch.tensor(0.7), "optimizer": {"state": {}}}
    network, notes = loaded_from(content, tmp_path, name=name, make=partial(build, name.name, 3, 3))
    assert same(network, right, 32)
    assert f"its names are not those of {name.full}" in notes[-1]
    assert "were taken in order" in notes[-1]


def test_repdistillers_names_of_a_residual_network_and_the_order_in_which_they_come():
    """conv1, bn1, layer1.0.(conv1, bn1, conv2, bn2, downsample.0, downsample.1), ..., fc."""
    kinds = [key.rpartition(".")[2] for key in build("resnet8", 3, 3).state_dict() if "num_batches" not in key]
    norm = ["weight", "bias", "running_mean", "running_var"]
    block = ["weight", *norm] * 2
    down = ["weight", *norm]
    assert kinds == ["weight", *norm, *block, *block, *down, *block, *down, "weight", "bias"]


@pytest.mark.parametrize("change", ["shape", "kind", "module", "count", "safetensors"])
def test_what_does_not_fit_in_order_throughout_is_refused(tmp_path, change):
    name = parse_architecture("zoo:resnet8")
    state = foreign(build("resnet8", 3, 3), name)
    if change == "shape":
        state["layer0.weight"] = state["layer0.weight"][:, :, :1]
    elif change == "kind":
        state = {key.replace("layer1.bias", "layer1.beta"): value for key, value in state.items()}
    elif change == "module":
        state = {key.replace("layer1.running_var", "layer01.running_var"): value for key, value in state.items()}
    elif change == "count":
        state["layer99.weight"] = torch.zeros(3)
    if change == "safetensors":  # which has no order of its own
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "w.safetensors")
        file = read_weights(tmp_path / "w.safetensors")
    else:
        torch.save(state, tmp_path / "w.pth")
        file = read_weights(tmp_path / "w.pth")
    with pytest.raises(TeacherError, match=r"does not fit zoo:resnet8 with 3 classes: it lacks stem\.0\.weight"):
        load_weights(build("resnet8", 3, 3), file, name, 3)


def test_a_classifier_of_other_classes_is_made_anew_where_a_training_follows(tmp_path):
    name = parse_architecture("zoo:resnet8")
    right = trained(partial(build, "resnet8", 3, 100))
    torch.save({"model": foreign(right, name)}, tmp_path / "w.pth")
    file, network = read_weights(tmp_path / "w.pth"), build("resnet8", 3, 3)
    own = network.classifier.weight.clone()
    with pytest.raises(TeacherError, match="does not fit zoo:resnet8 with 3 classes"):
        load_weights(network, file, name, 3)
    notes = load_weights(network, file, name, 3, classes_may_differ=True)
    assert "the classifier (classifier.weight, classifier.bias) is made anew for 3 classes" in notes
    assert torch.equal(network.classifier.weight, own)
    assert torch.equal(network.stem[0].weight, right.stem[0].weight)


def test_names_of_repdistiller_are_known_with_the_source_and_hide_no_other():
    assert parse_architecture("zoo:ResNet50").full == "zoo:resnet50_cifar"
    assert parse_architecture("zoo:ShuffleV1").name == "shufflenet_v1"
    assert parse_architecture("resnet50").full == "torchvision:resnet50"
    assert "resnet50_cifar" in ZOO


# --- classes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        {"classes": ["ash", "bay", "cob"]},
        {"class_names": "ash, bay,cob"},
        {"class_names": "ash\nbay\ncob\n"},
        {"class_names": '["ash", "bay", "cob"]'},
        {"class_to_idx": {"bay": 1, "cob": 2, "ash": 0}},
        {"class_to_idx": '{"bay": 1, "cob": 2, "ash": 0}'},
        {"idx_to_class": OrderedDict([("2", "cob"), ("0", "ash"), ("1", "bay")])},
        {"id2label": {2: "cob", 0: "ash", 1: "bay"}},
    ],
)
def test_names_of_classes_are_read_in_every_usual_form(metadata):
    assert stated_classes(metadata) == ("ash", "bay", "cob")


@pytest.mark.parametrize("metadata", [{}, {"classes": 3}, {"classes": "animals"}, {"classes": torch.zeros(3)}])
def test_what_names_no_classes_is_no_statement(metadata):
    assert stated_classes(metadata) is None


def test_names_that_cannot_be_right_are_refused():
    with pytest.raises(TeacherError, match="name a class twice: bay"):
        stated_classes({"class_names": "ash,bay,bay"})
    with pytest.raises(TeacherError, match="indices of the file's class_to_idx are not 0 to 1"):
        stated_classes({"class_to_idx": {"ash": 1, "bay": 2}})


def test_classes_of_a_training_scripts_file_are_read(tmp_path):
    torch.save({"model": RIGHT.state_dict(), "class_to_idx": {"b": 1, "a": 0}, "mean": [1.0]}, tmp_path / "w.pth")
    assert stated_classes(read_weights(tmp_path / "w.pth").metadata) == ("a", "b")
