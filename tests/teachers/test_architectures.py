"""Networks by name, published weights from a cache, state dicts from files; teachers that adapt their input."""

from __future__ import annotations

import sys
import urllib.error
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from naslib_autokd.data.dataset import data_from_dataset
from naslib_autokd.distillation.training import seeded
from naslib_autokd.teachers.check import IMAGENET, check_teacher
from naslib_autokd.teachers.load import as_teacher, load_teacher, read_checkpoint, write_checkpoint
from naslib_autokd.teachers.names import (
    ArchitectureName,
    TeacherError,
    few,
    known_names,
    parse_architecture,
    split_teachers,
    timm_library,
    torchvision_models,
    with_weights,
)
from naslib_autokd.teachers.networks import (
    LUMA,
    InputAdapter,
    NetworkInput,
    build_network,
    published_input,
    published_weights,
)
from naslib_autokd.teachers.teacher import Ensemble, Teacher
from naslib_autokd.teachers.training import train_teacher

COLOURS = np.random.RandomState(3).randint(40, 216, size=(6, 3))
SMALLEST = "squeezenet1_1"  # torchvision's network with the smallest file


def coloured_images(n, channels=3, seed=0, noise=12):
    """Noisy 16x16 images in the colour of their class; only the first channel is left with ``channels=1``."""
    rng = np.random.RandomState(seed)
    labels = np.arange(n) % 6
    images = COLOURS[labels][:, :channels, None, None] + rng.normal(scale=noise, size=(n, channels, 16, 16))
    pixels = torch.from_numpy(images.clip(0, 255).astype(np.uint8))
    return [(image, int(label)) for image, label in zip(pixels, labels, strict=True)]


class NearestColour(nn.Module):
    """Names the class whose colour is nearest, in the normalisation that it was made for: right, and quick to make."""

    def __init__(self, mean, std, colours=COLOURS):
        super().__init__()
        colours = torch.as_tensor(np.array(colours) / 255, dtype=torch.float32)
        self.colours = nn.Parameter((colours - torch.tensor(mean)) / torch.tensor(std))

    def forward(self, images):
        found = images.mean(dim=(2, 3))
        return 20 * (2 * found @ self.colours.T - (self.colours**2).sum(dim=1))


@pytest.fixture(scope="module")
def colours():
    classes = ("ash", "bay", "cob", "dun", "elm", "fir")
    return data_from_dataset(
        coloured_images(240), coloured_images(60, seed=1), name="colours", classes=classes, n_val=90
    )


# --- what a teacher is fed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thorough", [False, True])
def test_a_right_teacher_passes(colours, thorough):
    teacher = Teacher(NearestColour(colours.mean, colours.std), colours.mean, colours.std)
    assert check_teacher(teacher, colours, thorough=thorough) > 0.97


@pytest.mark.parametrize(
    ("made_for", "said"),
    [
        (
            ((0.0,) * 3, (1.0,) * 3),
            r"with pixels in \[0, 1\] as input it reaches 100.0%.*--mean 0 --std 1, if",
        ),
        (((0.5,) * 3, (0.5,) * 3), r"with pixels in \[-1, 1\] as input"),
        (((0.0,) * 3, (1 / 255,) * 3), r"with pixels in 0\.\.255 as input.*--std 0.00392157, if"),
        (IMAGENET, "with ImageNet's normalisation as input"),
    ],
)
def test_the_scale_that_a_network_was_made_for_is_named(colours, made_for, said):
    """Also where the teacher is above the floor, which is 2/6 here: nothing else would tell."""
    with pytest.raises(TeacherError, match=said):
        load_teacher(colours, NearestColour(*made_for))


def test_a_wrong_scale_is_told_above_the_floor_too(colours):
    network = NearestColour((0.45,) * 3, (0.9,) * 3)  # shifted against [0, 1]: about half of the images stay right
    teacher = Teacher(network, (0.2,) * 3, (0.9,) * 3)
    reached = (teacher.predict(colours.val_images).argmax(dim=1) == colours.val_labels).float().mean().item()
    assert 2 / 6 < reached < 0.9
    right = Teacher(network, (0.45,) * 3, (0.9,) * 3)
    assert check_teacher(right, colours, thorough=True) > 0.97
    wrong = Teacher(NearestColour((0.0,) * 3, (1.0,) * 3), (0.0,) * 3, (1.5,) * 3)
    reached = (wrong.predict(colours.val_images).argmax(dim=1) == colours.val_labels).float().mean().item()
    assert 2 / 6 < reached < 0.9
    with pytest.raises(TeacherError, match=r"correctly, but with pixels in \[0, 1\] as input it reaches 100.0%"):
        check_teacher(wrong, colours, thorough=True)


def test_two_exchanged_classes_are_told_above_the_floor(colours):
    swapped = NearestColour(colours.mean, colours.std, COLOURS[[0, 1, 3, 2, 4, 5]])
    with pytest.raises(
        TeacherError, match=r"correctly, but with its classes permuted \(2->3, 3->2\) it would reach 100"
    ):
        load_teacher(colours, swapped)


def test_an_order_that_helps_less_than_it_should_is_told_with_what_else_it_may_be(colours):
    """Four classes in another order, and a network that is right on half of the images besides."""
    images = [one for one in coloured_images(360) if one[1] < 4]
    few = data_from_dataset(images[60:], images[:60], name="few", classes=("ash", "bay", "cob", "dun"), n_val=90)
    right = NearestColour(few.mean, few.std, COLOURS[[2, 3, 1, 0]])

    class Half(nn.Module):
        def forward(self, images):
            wrong = (images.mean(dim=(1, 2, 3)) * 1e5).long() % 20 < 9
            logits = right(images)
            return torch.where(wrong[:, None], logits[:, [1, 0, 3, 2]], logits)

    with pytest.raises(TeacherError, match=r"it would reach 5\d.*state theirs .*or it has learned too little"):
        load_teacher(few, Half())


def test_red_and_blue_exchanged_is_told(colours):
    class BlueFirst(NearestColour):
        def forward(self, images):
            return super().forward(images.flip(1))

    with pytest.raises(TeacherError, match="blue, green, red as input it reaches"):
        load_teacher(colours, Teacher(BlueFirst((0.0,) * 3, (1.0,) * 3), (0.0,) * 3, (1.0,) * 3))


@pytest.mark.parametrize("seed", range(8))
def test_a_mediocre_teacher_is_not_accused(colours, seed):
    """40 to 75% right, mistakes anywhere: neither a renaming of classes nor another scale explains them."""

    class Distracted(NearestColour):
        def forward(self, images):
            logits = super().forward(images)
            rng = np.random.RandomState(seed)
            table = torch.from_numpy(rng.normal(size=(997, logits.shape[1])).astype(np.float32))
            blind = torch.from_numpy(rng.uniform(size=997) < 0.45)
            place = (images[:, 0].flatten(1).argmax(dim=1) * 31 + images[:, 1].flatten(1).argmax(dim=1)) % 997
            return torch.where(blind[place, None], table[place], logits)

    reached = check_teacher(
        Teacher(Distracted(colours.mean, colours.std), colours.mean, colours.std), colours, thorough=True
    )
    assert 0.4 < reached < 0.8


def test_a_teacher_that_learned_too_little_is_not_called_untrained(colours):
    demanding = replace(colours, task=replace(colours.task, min_teacher_accuracy=0.9))
    weak = NearestColour(colours.mean, colours.std, [*COLOURS[:5], COLOURS[0]])  # one class is never named
    with pytest.raises(TeacherError, match="has learned this task, but not well enough"):
        load_teacher(demanding, weak)


def test_an_adapter_resizes_repeats_and_normalises():
    pixels = torch.rand(3, 1, 8, 8)
    given = NetworkInput((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), channels=3, size=16)
    seen = InputAdapter(nn.Identity(), given)(pixels)
    grey = F.interpolate(pixels, size=(16, 16), mode="bilinear", antialias=True)
    for channel, (mean, std) in enumerate(zip(given.mean, given.std, strict=True)):
        torch.testing.assert_close(seen[:, channel], (grey[:, 0] - mean) / std)
    colour = torch.rand(2, 3, 8, 8)
    seen = InputAdapter(nn.Identity(), NetworkInput((0.0,), (1.0,), channels=1, size=None))(colour)
    torch.testing.assert_close(seen[:, 0], 0.299 * colour[:, 0] + 0.587 * colour[:, 1] + 0.114 * colour[:, 2])


def test_an_impossible_input_is_an_error():
    with pytest.raises(TeacherError, match="mean has 2 values, the network 3 channels"):
        NetworkInput((0.1, 0.2), (1.0,), 3, None)
    with pytest.raises(TeacherError, match="std must be positive"):
        NetworkInput((0.1,), (0.0,), 3, None)


def test_the_input_that_a_checkpoint_states_is_used(colours, tmp_path):
    """Trained on 24 grey pixels, used on a task of 16 in colour, and the other way round."""
    with seeded(0):
        network, _ = build_network(parse_architecture("resnet-small"), 1, 6)
    trained = Teacher.of(network, NetworkInput((0.4,), (0.3,), 1, 24), colours.task, {"architecture": "resnet-small"})
    write_checkpoint(trained, tmp_path / "t.safetensors", colours)
    again = read_checkpoint(tmp_path / "t.safetensors", colours)
    assert again.input_for(colours.task) == NetworkInput((0.4,), (0.3,), 1, 24)
    images = colours.val_images[:9]
    torch.testing.assert_close(again(images), trained(images), rtol=1e-4, atol=1e-4)
    grey = F.interpolate(
        (images / 255 * torch.tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True),
        size=(24, 24),
        mode="bilinear",
        antialias=True,
    )
    torch.testing.assert_close(again(images), network((grey - 0.4) / 0.3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b1", "vit_b_16", "regnet_y_16gf", "swin_t"])
@pytest.mark.parametrize("picture_size", [224, 180])
def test_a_square_picture_is_prepared_as_torchvision_does_it_within_rounding(name, picture_size):
    """Pillow rounds to grey levels after each of its two passes; we do not round."""
    architecture = parse_architecture(f"torchvision:{name}@pretrained")
    models, given = torchvision_models(), published_input(architecture)
    rng = np.random.RandomState(0)
    picture = Image.fromarray(rng.randint(256, size=(picture_size, picture_size, 3), dtype=np.uint8))
    theirs = models.get_model_weights(name)["DEFAULT"].transforms()(picture)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    ours = InputAdapter(nn.Identity(), given)(pixels)[0]
    assert ours.shape == theirs.shape
    grey_levels = (ours - theirs).abs() * torch.tensor(given.std).view(3, 1, 1) * 255
    assert grey_levels.max() < 1.3
    assert grey_levels.mean() < 0.5


def test_the_centre_of_the_picture_is_what_a_network_with_a_crop_share_sees(colours):
    given = NetworkInput((0.0,), (1.0,), 3, 8, crop=0.5)
    pixels = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(InputAdapter(nn.Identity(), given)(pixels), pixels[:, :, 4:12, 4:12])
    assert given.preparation(16) == "the central 8 (50.0% of the side) cut out"
    assert given.preparation(32) == "resized from 32 to 16 pixels (bilinear), the central 8 (50.0% of the side) cut out"
    assert NetworkInput((0.0,), (1.0,), 3, 16).preparation(16) == ""
    bordered = NetworkInput((0.0,), (1.0,), 3, 20, crop=1.25)
    torch.testing.assert_close(InputAdapter(nn.Identity(), bordered)(pixels), F.pad(pixels, (2, 2, 2, 2)))
    assert bordered.preparation(16) == "in a black border up to 20"
    assert NetworkInput((0.5,), (0.5,), 3, 176, crop=0.875).resized_to(32) == 201  # timm rounds down
    with pytest.raises(TeacherError, match="crop share must be above 0 and at most 2, got 0"):
        NetworkInput((0.0,), (1.0,), 3, 8, crop=0.0)
    with pytest.raises(TeacherError, match="interpolation must be bilinear or bicubic, got 'lanczos'"):
        NetworkInput((0.0,), (1.0,), 3, 8, interpolation="lanczos")


def test_what_is_stated_of_crop_and_interpolation_is_kept_in_files(colours, tmp_path):
    with seeded(0):
        network, _ = build_network(parse_architecture("resnet-small"), 3, 6)
    given = NetworkInput((0.4,), (0.3,), 3, 24, crop=0.75, interpolation="bicubic")
    teacher = Teacher.of(network, given, colours.task, {"architecture": "resnet-small"})
    write_checkpoint(teacher, tmp_path / "t.safetensors", colours)
    again = read_checkpoint(tmp_path / "t.safetensors", colours)
    assert again.input_for(colours.task) == given
    torch.testing.assert_close(again(colours.val_images[:5]), teacher(colours.val_images[:5]), rtol=1e-4, atol=1e-4)


# --- the order of the classes ---------------------------------------------------------------------------------------


def test_classes_in_another_order_are_brought_into_the_tasks_exactly_and_this_is_told(colours, tmp_path):
    own = ("fir", "ash", "elm", "bay", "dun", "cob")
    order = [colours.classes.index(name) for name in own]
    network = NearestColour(colours.mean, colours.std, COLOURS[order])
    teacher = Teacher(network, colours.mean, colours.std, {"architecture": "mine", "classes": own})
    said: list[str] = []
    loaded = load_teacher(colours, teacher, report=said.append)
    images = colours.val_images[:9]
    there = [own.index(name) for name in colours.classes]
    in_its_order = Teacher(InputAdapter(network, replace(loaded.input_for(colours.task), order=())), (0.0,), (1.0,))
    assert torch.equal(loaded(images), in_its_order(images)[:, there])
    torch.testing.assert_close(loaded(images), teacher(images)[:, there], rtol=1e-4, atol=1e-4)
    assert "its outputs were reordered by name: ash is its output 1, bay is its output 3" in said[0]
    assert check_teacher(loaded, colours) > 0.97
    again = load_teacher(colours, [loaded, teacher])  # also in an ensemble, and not twice
    torch.testing.assert_close(again(images), loaded(images), rtol=1e-4, atol=1e-4)


def test_a_reordered_teacher_is_saved_with_its_own_order(colours, tmp_path):
    with seeded(0):
        network, _ = build_network(parse_architecture("resnet-small"), 3, 6)
    own = list(reversed(colours.classes))
    save_file(network.state_dict(), tmp_path / "a.safetensors", {"class_names": ",".join(own)})
    first = as_teacher(f"resnet-small@{tmp_path / 'a.safetensors'}", colours)
    images = colours.val_images[:5]
    torch.testing.assert_close(first(images), network.eval()(colours.normalise(images)).flip(1))
    write_checkpoint(first, tmp_path / "b.safetensors", colours)
    second = as_teacher(tmp_path / "b.safetensors", colours)
    torch.testing.assert_close(second(images), first(images))


def test_other_classes_are_refused_by_name(colours):
    own = ["ash", "bay", "cob", "dun", "oak", "yew"]
    teacher = Teacher(NearestColour(colours.mean, colours.std), colours.mean, colours.std, {"classes": own})
    with pytest.raises(TeacherError, match=r"it alone has oak, yew, the task alone has elm, fir; rename the folders"):
        load_teacher(colours, teacher)


# --- ensembles ------------------------------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_the_logits_each_on_its_own_scale(colours):
    ours = Teacher(NearestColour(colours.mean, colours.std), colours.mean, colours.std)
    theirs = Teacher.of(NearestColour((0.5,) * 3, (0.5,) * 3), NetworkInput((0.5,), (0.5,), 3, 32), colours.task)
    both = load_teacher(colours, [ours, theirs])
    images = colours.val_images[:7]
    torch.testing.assert_close(both(images), (ours(images) + theirs(images)) / 2, rtol=1e-4, atol=1e-4)
    assert isinstance(both.network, Ensemble)
    assert len(both.members) == 2
    with pytest.raises(TeacherError, match="an ensemble is not one file"):
        write_checkpoint(both, "nowhere.safetensors", colours)


def test_a_bad_member_of_an_ensemble_is_named(colours, tmp_path):
    for seed, name in ((0, "a"), (1, "b")):
        with seeded(seed):
            network, _ = build_network(parse_architecture("resnet-small"), 3, 6)
        torch.save(network.state_dict(), tmp_path / f"{name}.pt")
    with pytest.raises(TeacherError, match=r"a\.pt in the ensemble: .*untrained"):
        load_teacher(colours, f"resnet-small@{tmp_path / 'a.pt'}, resnet-small@{tmp_path / 'b.pt'}")


def test_a_comma_in_the_name_of_a_file_separates_nothing(colours, tmp_path):
    folder = tmp_path / "a,b"
    folder.mkdir()
    with seeded(0):
        network, _ = build_network(parse_architecture("resnet-small"), 3, 6)
    one, other = folder / "x,y.pt", folder / "z.pt"
    torch.save(network.state_dict(), one)
    torch.save({"net": network.state_dict()}, other)
    assert split_teachers(f"{one}") == [str(one)]
    assert split_teachers(f"resnet-small@{one}, {other}#net,resnet-medium") == [
        f"resnet-small@{one}",
        f"{other}#net",
        "resnet-medium",
    ]
    assert split_teachers("a.pt,b.pt,") == ["a.pt", "b.pt"]
    for first in ("resnet-medium", str(one), f"own:build@{one}", "gone.pt"):  # the second one's file is there
        assert split_teachers(f"{first},own:build@{other}") == [first, f"own:build@{other}"]
    assert with_weights("resnet-small", f"{one},{other}") == f"resnet-small@{one},resnet-small@{other}"
    read = as_teacher(f"resnet-small@{one}", colours)
    torch.testing.assert_close(read(colours.val_images[:3]), network.eval()(colours.normalise(colours.val_images[:3])))


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_have_a_source_and_weights():
    assert parse_architecture("resnet-small") == ArchitectureName("ours", "resnet-small")
    assert parse_architecture("resnet8x0.5") == ArchitectureName("zoo", "resnet8x0.5")
    assert parse_architecture("zoo:WRN-16-2").full == "zoo:wrn_16_2"
    assert parse_architecture("resnet18@pretrained") == ArchitectureName("torchvision", "resnet18", "pretrained")
    assert parse_architecture("torchvision:vgg11").source == "torchvision"
    assert parse_architecture("vgg11").source == "zoo"
    assert str(parse_architecture("torchvision:vgg11@a/b.pth")) == "torchvision:vgg11@a/b.pth"
    assert with_weights("resnet18", "my.pth") == "torchvision:resnet18@my.pth"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvison:resnet18", "unknown source of networks 'torchvison'; did you mean 'torchvision'"),
        ("torchvision:resnet19", "torchvision has no network 'resnet19'; did you mean 'resnet18'"),
        ("zoo:resnet21", "zoo has no network 'resnet21'; did you mean 'resnet32' or 'resnet20'"),
        ("resnet-smal", "unknown network 'resnet-smal'; did you mean 'resnet-small'"),
        ("torchvision:resnet18@IMAGENET", "has no weights 'IMAGENET'; did you mean 'IMAGENET1K_V1'"),
        ("zoo:resnet20@pretrained", "no published weights of zoo:resnet20"),
        ("resnet-small@", "names no weights after the @; give NAME, NAME@pretrained or NAME@FILE"),
        ("@model.pth", "names no network before the @"),
        ("model.pth@resnet18", "has the file before the @; give resnet18@model.pth"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, message):
    with pytest.raises(TeacherError, match=message):
        published_weights(parse_architecture(name))


def test_names_with_commas_are_told_apart():
    assert few(["ship, big", "9"]) == "'ship, big', 9"
    assert few(range(7)) == "0, 1, 2, 3, 4, ... (7)"


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'pip install "naslib_autokd\[timm\]"'):
        parse_architecture("timm:resnet10t")
    with pytest.raises(TeacherError, match=r"unknown network 'resnet10tt'.*; timm is not installed"):
        parse_architecture("resnet10tt")
    assert "pip install" in known_names()["timm"]
    assert SMALLEST in known_names()["torchvision"]


@pytest.fixture(scope="module")
def weights_of_squeezenet():
    with seeded(5):
        network, channels = build_network(parse_architecture(f"torchvision:{SMALLEST}"), 3, 1000)
    assert channels == 3
    return network.state_dict()


@pytest.fixture
def hub(tmp_path, monkeypatch, weights_of_squeezenet):
    """torch's cache of published weights, with a file of random weights under the published name; and no network."""

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(weights_of_squeezenet, folder / "squeezenet1_1-b8a52dc0.pth")
    return folder


def test_published_weights_are_read_from_the_cache_with_their_input(hub, weights_of_squeezenet, colours):
    name = parse_architecture(f"torchvision:{SMALLEST}@pretrained")
    found = published_weights(name)
    assert all(torch.equal(found.state[key], value) for key, value in weights_of_squeezenet.items())
    assert found.input == published_input(name) == NetworkInput(*IMAGENET, channels=3, size=224, crop=0.875)
    assert (len(found.classes), found.classes[0]) == (1000, "tench")
    with pytest.raises(TeacherError, match=r"published for 1000 classes, 'colours' has 6: train it on the task first"):
        load_teacher(colours, f"torchvision:{SMALLEST}")


def test_unreachable_weights_say_what_was_tried_and_where_to_put_the_file(hub):
    (file,) = hub.iterdir()
    file.unlink()
    with pytest.raises(TeacherError) as error:
        published_weights(parse_architecture(f"torchvision:{SMALLEST}@pretrained"))
    for part in (
        "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        "Name or service",
        str(file),
        "@FILE",
    ):
        assert part in str(error.value)


def test_training_from_published_weights_makes_the_classifier_anew(hub, colours, weights_of_squeezenet):
    kept = []
    small = replace(
        colours, task=replace(colours.task, n_teacher=64, n_train=64), teacher_views=colours.teacher_views[:, :64]
    )
    small = replace(small, teacher_labels=colours.teacher_labels[:64])
    teacher = train_teacher(
        small, epochs=1, architecture=f"{SMALLEST}@pretrained", input_size=32, keep=lambda better: kept.append(better)
    )
    assert teacher.info["notes"] == [
        "the classifier (classifier.1.weight, classifier.1.bias) is made anew for 6 classes"
    ]
    assert teacher.input_for(small.task) == NetworkInput(*IMAGENET, channels=3, size=32)
    trained = teacher.members[0].state_dict()
    moved = (trained["features.0.weight"] - weights_of_squeezenet["features.0.weight"]).norm()
    assert 0 < moved < 0.5 * weights_of_squeezenet["features.0.weight"].norm()
    assert trained["classifier.1.weight"].shape[0] == 6
    assert kept[-1].info["val_accuracy"] == pytest.approx(teacher.info["val_accuracy"])


def test_weights_of_another_network_are_refused(colours, weights_of_squeezenet, tmp_path):
    torch.save(weights_of_squeezenet, tmp_path / "s.pth")
    with pytest.raises(TeacherError, match=r"checkpoint .*s\.pth does not fit zoo:resnet8x0\.5"):
        train_teacher(colours, architecture=f"resnet8x0.5@{tmp_path / 's.pth'}", epochs=1)


def test_images_too_small_for_a_network_are_told_before_training(colours):
    with pytest.raises(TeacherError, match=r"torchvision:alexnet cannot take images of 16 pixels.*--input-size"):
        train_teacher(colours, architecture="torchvision:alexnet", epochs=1)


def test_timm_networks_are_built_and_their_input_known(colours, monkeypatch):
    try:
        timm = timm_library()
    except ImportError as error:
        pytest.skip(str(error).splitlines()[0])
    name = parse_architecture("timm:resnet10t")
    assert published_input(name) == NetworkInput(*IMAGENET, 3, 176, crop=0.875, interpolation="bicubic")
    network, channels = build_network(name, 1, 6)
    assert channels == 1
    assert network.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 6)
    made = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no network")
        return made(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(TeacherError, match=r"tried hf-hub:timm/resnet10t\.c3_in1k, which failed \(no network\)"):
        published_weights(parse_architecture("timm:resnet10t@pretrained"))


# --- training -------------------------------------------------------------------------------------------------------


def test_a_network_of_the_zoo_is_trained_on_first_use_and_kept(colours, monkeypatch, tmp_path):
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    short = replace(colours, task=replace(colours.task, teacher_epochs=2))
    said: list[str] = []
    first = load_teacher(short, "zoo:resnet8x0.5", report=said.append)
    assert "training the teacher" in said[0]
    assert first.info["architecture"] == "zoo:resnet8x0.5"
    said.clear()
    again = load_teacher(short, "resnet8x0.5", report=said.append)
    assert all("it names no validation image of" in line for line in said)  # after two epochs
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())


def test_the_best_epoch_is_kept_and_the_training_stays_the_same(colours):
    kept: list[Teacher] = []
    seen: list[float] = []
    plain = train_teacher(colours, epochs=3, architecture="resnet8x0.5")
    best = train_teacher(
        colours,
        epochs=3,
        architecture="resnet8x0.5",
        keep=kept.append,
        progress=lambda epoch, loss, reached: seen.append(reached),
    )
    assert len(seen) == 3
    assert best.info["val_accuracy"] == max(seen)
    so_far = np.maximum.accumulate(seen)
    assert [t.info["val_accuracy"] for t in kept] == [
        now for now, most in zip(seen, so_far, strict=True) if now == most
    ]
    if best.info["epoch"] == 3:
        assert all(torch.equal(value, best.state_dict()[key]) for key, value in plain.state_dict().items())
    assert plain.info["val_accuracy"] == pytest.approx(seen[-1])


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [("t.pt2", "falls back to unpickling"), ("t.pkl", "runs whatever"), ("t.onnx", "not the weights of another")],
)
def test_files_that_are_not_safe_are_refused_unread(tmp_path, colours, name, why):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(TeacherError, match=f"is not read: .*{why}"):
        load_teacher(colours, f"resnet-small@{tmp_path / name}")


def test_a_file_is_read_as_the_architecture_that_is_given_or_that_it_states(colours, tmp_path):
    with seeded(1):
        network, _ = build_network(parse_architecture("zoo:resnet8x0.5"), 3, 6)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "m.pth")
    read = as_teacher(f"resnet8x0.5@{tmp_path / 'm.pth'}", colours)
    images = colours.val_images[:5]
    torch.testing.assert_close(read(images), network.eval()(colours.normalise(images)))
    assert [note.partition(": ")[2][:15] for note in read.info["notes"]] == [
        "the state dict ",
        "the prefix 'mod",
        "it does not sta",
    ]
    stated = {"architecture": "zoo:resnet8x0.5", "mean": "[0.5, 0.5, 0.5]", "std": "[0.25, 0.25, 0.25]"}
    save_file(network.state_dict(), tmp_path / "m.safetensors", stated)  # the name as plain text, not as JSON
    read = as_teacher(tmp_path / "m.safetensors", colours)
    torch.testing.assert_close(read(images), network((images / 255 - 0.5) / 0.25), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        TeacherError, match=r"does not fit resnet-medium with 6 classes: it lacks stem\.weight, .* it has besides"
    ):
        as_teacher(tmp_path / "m.pth", colours)  # states nothing: the task's, which it is not
    save_file(network.state_dict(), tmp_path / "n.safetensors", {"classes": '["a", "b"]', **stated})
    with pytest.raises(TeacherError, match=r"trained for 2 classes \(a, b\), 'colours' has 6 \(ash, bay"):
        as_teacher(tmp_path / "n.safetensors", colours)


def test_a_torchvision_file_that_states_no_input_gets_the_published_one_and_this_is_told(colours, tmp_path):
    with seeded(2):
        network, _ = build_network(parse_architecture(f"torchvision:{SMALLEST}"), 3, 6)
    torch.save(network.state_dict(), tmp_path / "s.pth")
    read = as_teacher(f"torchvision:{SMALLEST}@{tmp_path / 's.pth'}", colours)
    assert read.input_for(colours.task) == NetworkInput(*IMAGENET, channels=3, size=224, crop=0.875)
    assert "taken to be as published for torchvision:squeezenet1_1: mean 0.485" in read.info["notes"][0]
    assert "resized from 16 to 256 pixels (bilinear), the central 224 (87.5% of the side)" in read.info["notes"][0]


def test_factories_are_found_in_the_working_directory(colours, tmp_path, monkeypatch):
    source = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(6))\n"
    (tmp_path / "my_own_network.py").write_text(source.replace("LazyLinear(6)", "Linear(768, 6)"))
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert isinstance(as_teacher("my_own_network:build", colours).network, nn.Sequential)
    assert sys.path == before
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(768, 6), nn.Linear(6, 6)).state_dict(), "deeper.pth")
    with pytest.raises(TeacherError, match=r"does not fit my_own_network:build: it has besides 2\.weight"):
        as_teacher("my_own_network:build@deeper.pth", colours)
