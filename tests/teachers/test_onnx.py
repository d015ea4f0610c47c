"""ONNX files as teachers: the logits of the network that was exported, safely, and a clear no to all else."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, load, numpy_helper, save

from naslib_autokd.commands.teacher import examine
from naslib_autokd.data.dataset import data_from_dataset
from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.baselines import BaselineObjective, LossSettings
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.optimizers.diswot import DisWOT
from naslib_autokd.search_spaces import get_search_space
from naslib_autokd.teachers.load import load_teacher, write_checkpoint
from naslib_autokd.teachers.names import TeacherError
from naslib_autokd.teachers.networks import NetworkInput
from naslib_autokd.teachers.onnx import OnnxNetwork
from naslib_autokd.teachers.soft_targets import SoftTargets, soft_targets_path
from naslib_autokd.teachers.teacher import Ensemble, Teacher
from naslib_autokd.teachers.zoo import build

COLOURS = np.random.RandomState(3).randint(40, 216, size=(6, 3))
CLASSES = ("ash", "bay", "cob", "dun", "elm", "fir")


@pytest.fixture(scope="module")
def colours() -> TaskData:
    rng, labels = np.random.RandomState(0), np.arange(300) % 6
    images = COLOURS[labels][:, :, None, None] + rng.normal(scale=12, size=(300, 3, 16, 16))
    pixels = torch.from_numpy(images.clip(0, 255).astype(np.uint8))
    items = [(image, int(label)) for image, label in zip(pixels, labels, strict=True)]
    return data_from_dataset(items[:240], items[240:], name="colours", classes=CLASSES, n_val=60)


def nearest_colour(
    path: Path,
    made_for=((0.0,) * 3, (1.0,) * 3),
    shape=("batch", 3, "height", "width"),
    order=range(6),
    softmax=False,
    **metadata,
) -> Path:
    """Write a graph that names the class of the nearest colour, made for this normalisation."""
    weights = ((COLOURS[list(order)] / 255 - np.array(made_for[0])) / np.array(made_for[1])).astype(np.float32)
    channels_last = shape[1] not in (1, 3)
    weights = weights[:, : shape[3 if channels_last else 1]]
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["found"], keepdims=0),
        helper.make_node("Gemm", ["found", "weight", "bias"], ["logits"], transB=1, alpha=40.0, beta=20.0),
    ]
    if softmax:
        nodes[1].output[0] = "inside"
        nodes.append(helper.make_node("Softmax", ["inside"], ["logits"], axis=1))
    constants = [
        numpy_helper.from_array(np.array([1, 2] if channels_last else [2, 3]), "axes"),
        numpy_helper.from_array(weights, "weight"),
        numpy_helper.from_array(-(weights**2).sum(axis=1), "bias"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, list(shape))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], len(weights)])
    graph = helper.make_graph(nodes, "nearest", [images], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    save(model, str(path))
    return path


def expected(images: torch.Tensor, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    """What the graph answers to pixels in [0, 1], normalised with ``mean`` and ``std``, in float64."""
    colours = (torch.from_numpy(COLOURS / 255) - mean) / std
    found = ((images.double() / 255).mean(dim=(2, 3)) - mean) / std
    return 20 * (2 * found @ colours.T - (colours**2).sum(dim=1))


@pytest.mark.parametrize("batch", ["batch", 1, 7])
def test_an_export_of_ours_is_fed_pixels_and_gives_its_logits(colours, tmp_path, batch):
    shape = (batch, 3, 16, 16)
    path = nearest_colour(
        tmp_path / "t.onnx", shape=shape, input_range=[0.0, 1.0], mean=[0.4], std=[0.2], input=["batch", *shape]
    )
    said: list[str] = []
    teacher = load_teacher(colours, str(path), report=said.append)
    images = colours.val_images[:9]
    torch.testing.assert_close(teacher(images).double(), expected(images), rtol=1e-4, atol=1e-4)
    assert (
        said[0] == f"{path}: it is an ONNX file: it gives soft targets, but no features of its layers and no gradients"
    )
    assert not any("does not state its input" in line for line in said)
    targets = SoftTargets.of(teacher, colours)
    torch.testing.assert_close(targets.val.double(), expected(colours.val_images), rtol=1e-4, atol=1e-4)


def test_what_it_does_not_state_is_the_tasks_and_this_is_told(colours, tmp_path):
    right = nearest_colour(tmp_path / "right.onnx", (colours.mean, colours.std))
    said: list[str] = []
    load_teacher(colours, right, report=said.append)
    assert "does not state its input: taken to be the task's: mean" in said[1]
    wrong = nearest_colour(tmp_path / "wrong.onnx")
    with pytest.raises(TeacherError, match=r"with pixels in \[0, 1\] as input it reaches"):
        load_teacher(colours, wrong)


def test_a_graph_of_one_size_gets_pictures_of_it(colours, tmp_path):
    path = nearest_colour(tmp_path / "t.onnx", shape=("n", 3, 24, 24), input_range=[0, 1], crop=0.8)
    teacher = load_teacher(colours, path)
    given = teacher.input_for(colours.task)
    assert (given.size, given.crop, given.resized_to(16)) == (24, 0.8, 30)
    worse = Teacher.of(teacher.members[0], given, colours.task)
    torch.testing.assert_close(worse(colours.val_images[:4]), teacher(colours.val_images[:4]))


def test_classes_in_another_order_are_reordered(colours, tmp_path):
    order = [3, 1, 0, 2, 5, 4]
    path = nearest_colour(
        tmp_path / "t.onnx", order=order, input_range=[0, 1], classes=[CLASSES[place] for place in order]
    )
    teacher = load_teacher(colours, path)
    torch.testing.assert_close(
        teacher(colours.val_images[:9]).double(), expected(colours.val_images[:9]), rtol=1e-4, atol=1e-4
    )


def test_copies_pickles_and_cache_keys_know_its_content(colours, tmp_path):
    teacher = load_teacher(colours, nearest_colour(tmp_path / "t.onnx", input_range=[0, 1]))
    images = colours.val_images[:5]
    for again in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        assert torch.equal(again(images), teacher(images))
    other = load_teacher(colours, nearest_colour(tmp_path / "o.onnx", input_range=[0, 1], note="another"))
    assert soft_targets_path(other, colours, 1) != soft_targets_path(teacher, colours, 1)


def test_it_can_be_a_member_of_an_ensemble_but_what_needs_layers_is_refused(colours, tmp_path):
    path = nearest_colour(tmp_path / "t.onnx", input_range=[0, 1])
    one = load_teacher(colours, path)
    both = load_teacher(colours, f"{path},{path}")
    assert isinstance(both.network, Ensemble)
    torch.testing.assert_close(both(colours.val_images[:4]), one(colours.val_images[:4]))
    for teacher in (one, both):
        with pytest.raises(TeacherError, match=r"the loss fitnet needs the layers of the teacher, and an ONNX file"):
            BaselineObjective(
                LossSettings("fitnet"), build("resnet8", 3, 6), colours, teacher, torch.zeros(1), epochs=1, seed=0
            )
    evaluator = KDEvaluator(colours.task, data=colours, teacher=one)
    with pytest.raises(TeacherError, match="DisWOT needs the layers of the teacher"):
        evaluator.images_to_score()
    with pytest.raises(TeacherError, match="DisWOT needs the layers of the teacher"):
        DisWOT(get_search_space("hnag-small"), max_budget_epochs=9).attach(evaluator)
    row = evaluator.teacher_row()
    assert row.val_accuracy > 0.97


def test_a_graph_that_ends_in_a_softmax_is_taken_back_to_logits_and_restated_too(colours, tmp_path):
    path = nearest_colour(tmp_path / "t.onnx", softmax=True, input_range=[0, 1], classes=list(reversed(CLASSES)))
    with pytest.raises(TeacherError):  # the order that it states is wrong
        load_teacher(colours, path)
    one = load_teacher(colours, nearest_colour(path, softmax=True, input_range=[0, 1]))
    images = colours.val_images[:9]
    wanted = expected(images).log_softmax(dim=1)
    torch.testing.assert_close(one(images).double(), wanted, rtol=1e-3, atol=1e-3)
    write_checkpoint(one, tmp_path / "stated.onnx", colours)
    torch.testing.assert_close(load_teacher(colours, tmp_path / "stated.onnx")(images), one(images))


def test_what_it_was_made_for_is_stated_once_and_kept(colours, tmp_path):
    path = nearest_colour(tmp_path / "t.onnx", ((0.5,) * 3, (0.25,) * 3))
    network = OnnxNetwork(path.read_bytes(), 6)
    given = NetworkInput((0.5,), (0.25,), 3, None)
    write_checkpoint(Teacher.of(network, given, colours.task), tmp_path / "stated.onnx", colours)
    said: list[str] = []
    again = load_teacher(colours, tmp_path / "stated.onnx", report=said.append)
    images = colours.val_images[:9]
    torch.testing.assert_close(again(images).double(), expected(images, 0.5, 0.25), rtol=1e-3, atol=1e-3)
    assert len(said) == 1
    with pytest.raises(TeacherError, match=r"this teacher is saved as a \.onnx file"):
        write_checkpoint(again, tmp_path / "t.safetensors", colours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.graph.input[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 5),
            "cannot be loaded|shape",
        ),
        (lambda m: m.graph.node[0].__setattr__("op_type", "NoSuchOperator"), "cannot be loaded as an ONNX network"),
        (lambda m: m.graph.node[0].__setattr__("domain", "mine"), "cannot be loaded as an ONNX network"),
    ],
)
def test_graphs_that_cannot_serve_are_refused_in_one_line(colours, tmp_path, change, message):
    path = nearest_colour(tmp_path / "t.onnx")
    model = load(str(path))
    change(model)
    save(model, str(path))
    with pytest.raises(TeacherError, match=message) as error:
        load_teacher(colours, path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("n", 16, 16, 3), "the channels come last"),
        (("n", 3, 16, 24), "images of 16x24, and only squares"),
        (("n", 1, "h", "w"), "takes 1 channels, 'colours' has 3, and it does not state its normalisation"),
    ],
)
def test_inputs_that_are_no_square_pictures_are_refused(colours, tmp_path, shape, message):
    with pytest.raises(TeacherError, match=message):
        load_teacher(colours, nearest_colour(tmp_path / "t.onnx", shape=shape))


def test_files_that_are_none_are_refused(colours, tmp_path):
    (tmp_path / "t.onnx").write_bytes(b"no graph")
    with pytest.raises(TeacherError, match=r"t\.onnx: it cannot be loaded as an ONNX network"):
        load_teacher(colours, tmp_path / "t.onnx")
    with pytest.raises(TeacherError, match=r"gone\.onnx does not exist"):
        load_teacher(colours, tmp_path / "gone.onnx")
    with pytest.raises(TeacherError, match="not the weights of another: it is a teacher as it is"):
        load_teacher(colours, f"resnet-small@{nearest_colour(tmp_path / 't.onnx')}")


def test_weights_in_a_file_beside_it_are_read_from_anywhere(colours, tmp_path, monkeypatch):
    path = nearest_colour(tmp_path / "t.onnx", input_range=[0, 1])
    before = load_teacher(colours, path)(colours.val_images[:9])
    save(load(str(path)), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(load_teacher(colours, path)(colours.val_images[:9]), before)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(TeacherError, match=r"t\.onnx: it cannot be loaded as an ONNX network: .*weights\.bin"):
        load_teacher(colours, path)


def test_the_command_says_what_it_is_fed_and_what_is_not_counted(colours, tmp_path):
    found = examine(load_teacher(colours, nearest_colour(tmp_path / "t.onnx", input_range=[0, 1])), colours)
    assert found["usable"]
    assert found["val_accuracy"] > 0.97
    assert found["mean"] == [0.0]
    assert found["n_params"] == 6 * 3 + 6
    assert "macs" not in found
    assert any("multiply-adds and memory are not counted: an ONNX file does not tell them" in n for n in found["notes"])
