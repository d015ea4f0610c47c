"""What a network returns: logits are found by their shape and told from probabilities by their values."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from small_tasks import Readout, bars
from torch import Tensor, nn

from naslib_autokd.distillation.costs import train_memory
from naslib_autokd.distillation.losses import distillation_loss
from naslib_autokd.teachers.check import check_teacher
from naslib_autokd.teachers.load import as_teacher, load_teacher
from naslib_autokd.teachers.names import TeacherError
from naslib_autokd.teachers.outputs import (
    LOG_PROBABILITIES,
    LOGITS,
    PROBABILITIES,
    SIGMOIDS,
    find_logits,
    kind_of,
    shown,
)
from naslib_autokd.teachers.soft_targets import SoftTargets
from naslib_autokd.teachers.teacher import Teacher
from naslib_autokd.teachers.training import train_teacher
from naslib_autokd.teachers.weights import UNSTATED


class Returns(nn.Module):
    """A good network whose logits are put into something else."""

    def __init__(self, form: Any, gain: float = 8.0) -> None:
        super().__init__()
        self.network, self.form = Readout(4, gain=gain), form

    def forward(self, images: Tensor) -> Any:
        return self.form(self.network(images))


class Named(NamedTuple):
    scores: Tensor
    aux_logits: Tensor


@dataclass
class ModelOutput:
    """As Hugging Face's: attributes."""

    loss: Tensor | None
    logits: Tensor


class Slots:
    """An object without a dictionary."""

    __slots__ = ("scores",)

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores


DYNAMIC = ({0: torch.export.Dim("batch")},)

FORMS: dict[str, tuple[Any, str]] = {
    "tuple": (lambda z: (z, torch.zeros_like(z)), "output[0]"),
    "list with features": (lambda z: [torch.zeros(len(z), 64), z], "output[1]"),
    "named tuple": (lambda z: Named(z, -z), "output[0]"),
    "dict": (lambda z: {"loss": torch.zeros(()), "logits": z}, "output['logits']"),
    "dict with probabilities": (lambda z: {"probabilities": z.softmax(1), "scores": z}, "output['scores']"),
    "ordered dict": (lambda z: OrderedDict(out=z[:, :, None, None]), "output['out']"),
    "object": (lambda z: ModelOutput(None, z), "output.logits"),
    "slots": (Slots, "output.scores"),
    "nested": (lambda z: (torch.zeros(3), {"head": [z]}), "output[1]['head'][0]"),
    "spatial": (lambda z: z[:, :, None, None], "which is taken as the logits"),
}


@pytest.fixture(scope="module")
def data() -> Any:
    return bars((60, 60, 60, 60))


@pytest.mark.parametrize("name", FORMS)
def test_logits_are_taken_out_of_what_a_network_returns(name: str, data: Any) -> None:
    form, where = FORMS[name]
    said: list[str] = []
    teacher = load_teacher(data, Returns(form), report=said.append)
    plain = SoftTargets.of(Teacher(Returns(lambda z: z), data.mean, data.std), data)
    found = SoftTargets.of(teacher, data)
    assert torch.equal(found.train, plain.train)
    assert torch.equal(found.val, plain.val)
    of_input, taken = said
    assert "it does not state its input: taken to be the task's" in of_input
    assert where in taken
    assert said == teacher.info["notes"]
    assert check_teacher(teacher, data) > 0.9
    assert teacher.info["notes"] == said, "said once"


PROBABILISTIC = {
    "softmax": (lambda z: z.softmax(1), "its outputs are probabilities"),
    "log_softmax": (lambda z: z.log_softmax(1), "its outputs are log-probabilities"),
    "softmax in a tuple": (lambda z: (z.softmax(1),), "its outputs are probabilities"),
}


@pytest.mark.parametrize("name", PROBABILISTIC)
@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
def test_probabilities_teach_as_the_logits_do(name: str, temperature: float, data: Any) -> None:
    form, note = PROBABILISTIC[name]
    teacher = load_teacher(data, Returns(form))
    assert any(note in line for line in teacher.info["notes"])
    plain = Teacher(Returns(lambda z: z), data.mean, data.std)
    student = torch.randn(len(data.val_labels), 4, generator=torch.Generator().manual_seed(0))
    losses = [
        distillation_loss(
            student, one.predict(data.val_images), data.val_labels, temperature=temperature, kd_weight=1.0
        )
        for one in (teacher, plain)
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
    raw = distillation_loss(
        student,
        plain.predict(data.val_images).softmax(1),
        data.val_labels,
        temperature=temperature,
        kd_weight=1.0,
    )
    assert abs(raw.item() - losses[1].item()) > 1e-3, "taken for logits they teach something else"


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            lambda z: (40 * z).softmax(1),
            r"returns probabilities .* and .*% of them are 0, .*return what goes into the soft",
        ),
        (lambda z: nn.functional.one_hot(z.argmax(1), 4).float(), "75.00% of them are 0"),
        (lambda z: (z / 8).softmax(1).half(), "they are rounded to float16"),
        (lambda z: z.sigmoid(), "a probability for each class by itself .*: return what goes into the sigmoid"),
        (lambda z: (40 * z).softmax(1).log(), "minus infinity .* log_softmax"),
        (
            lambda z: {"features": z[:, :3], "n": 5},
            r"returns a dict \(output\['features'\] \(2, 3\)\), but logits are a",
        ),
        (lambda z: None, r"returns a NoneType \(without tensors\), but logits are a tensor \(2, 4\)"),
        (lambda z: z[:, :, None, None].expand(-1, -1, 2, 2), r"answers with shape \(240, 4, 2, 2\)"),
        (lambda z: z.nope, "cannot take the images of 'bars' .*nope"),
        (lambda z: z.argmax(1), r"returns class indices \(shape \(240,\) .* return logits, 4 for each image"),
        (lambda z: z.argmax(1, keepdim=True).float(), r"returns class indices \(shape \(240, 1\)"),
        (lambda z: z.round().long(), "answers with numbers of type int64, but logits are floats"),
    ],
)
def test_what_cannot_be_logits_is_refused_with_what_to_return(form: Any, message: str, data: Any) -> None:
    with pytest.raises(TeacherError, match=message):
        load_teacher(data, Returns(form))


def test_a_sigmoid_is_seen_with_few_validation_images_too() -> None:
    data = bars((60, 60, 60, 60), (5, 5, 5, 5))
    with pytest.raises(TeacherError, match="what goes into the sigmoid"):
        load_teacher(data, Returns(lambda z: z.sigmoid()))


@pytest.mark.slow  # torch.export imports for seconds
def test_a_network_that_torch_has_exported_is_a_teacher(data: Any) -> None:
    exported = torch.export.export(Returns(lambda z: z), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=DYNAMIC).module()
    teacher = load_teacher(data, exported)
    expected = Teacher(Returns(lambda z: z), data.mean, data.std)
    assert (teacher.predict(data.val_images) - expected.predict(data.val_images)).abs().max() < 1e-4


@pytest.mark.parametrize(("name", "message"), [("broken", "ZeroDivisionError"), ("missing", "cannot be imported")])
def test_a_function_that_fails_is_told_in_one_line(name: str, message: str, data: Any) -> None:
    with pytest.raises(TeacherError, match=message):
        load_teacher(data, f"{__name__}:{name}")


def broken() -> nn.Module:
    raise ZeroDivisionError


def test_one_output_for_two_classes_is_told() -> None:
    with pytest.raises(TeacherError, match=r"return two logits, those of the one output z are \(0, z\)"):
        load_teacher(bars((60, 60)), nn.Sequential(Readout(2), nn.Linear(2, 1)))


def test_members_of_an_ensemble_may_return_anything(data: Any) -> None:
    forms = (lambda z: z, lambda z: (z, z), lambda z: z.softmax(1))
    both = load_teacher(data, [Returns(form) for form in forms])
    plain = Teacher(Returns(lambda z: z), data.mean, data.std)
    expected = plain.predict(data.val_images)
    found = both.predict(data.val_images)
    assert (found.softmax(1) - expected.softmax(1)).abs().max() < 1e-5
    assert sum("taken as the logits" in note for note in both.info["notes"]) == 1


def test_outputs_are_reordered_by_name_whatever_they_come_in(data: Any) -> None:
    names = ["c", "a", "d", "b"]
    order = [names.index(name) for name in data.classes]
    inverse = [order.index(index) for index in range(4)]
    network = Returns(lambda z: (z[:, inverse].softmax(1), None))
    teacher = load_teacher(data, Teacher(network, data.mean, data.std, {"classes": names}))
    expected = Returns(lambda z: z)(data.normalise(data.val_images)).softmax(1)
    assert (teacher.predict(data.val_images).softmax(1) - expected).abs().max() < 1e-5


def test_a_network_behind_an_adapter_may_return_anything(data: Any) -> None:
    class Wide(Returns):
        def forward(self, images: Tensor) -> Any:
            return super().forward(images[:, :1])

    from naslib_autokd.teachers.networks import NetworkInput

    given = NetworkInput(data.mean * 3, data.std * 3, 3, None)
    teacher = Teacher.of(Wide(lambda z: (z.softmax(1), z[:, :2])), given, data.task)
    assert check_teacher(teacher, data) > 0.9
    assert len(teacher.info["notes"]) == 2
    assert teacher.members[0].network.network.weight.shape == (4, 8)


rng = torch.Generator().manual_seed(0)
randn, rand = partial(torch.randn, generator=rng), partial(torch.rand, generator=rng)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (randn(50, 5), LOGITS),
        (rand(50, 5) * 3, LOGITS),
        (torch.full((50, 5), 0.2), LOGITS),  # constant rows: one answer for all images
        (torch.zeros(50, 5), LOGITS),
        (torch.tensor([0.9, 0.1]).expand(50, 2), LOGITS),
        (rand(1, 5), LOGITS),  # too few to say
        (rand(30, 2), LOGITS),
        (randn(50, 5).softmax(1), PROBABILITIES),
        (randn(50, 5).softmax(1).bfloat16(), PROBABILITIES),
        (100 * randn(50, 5).softmax(1), PROBABILITIES),  # in percent
        (randn(50, 5).abs(), LOGITS),
        (randn(1, 5).softmax(1), PROBABILITIES),
        (randn(50, 5).log_softmax(1), LOG_PROBABILITIES),
        (-rand(50, 5) * 3, LOGITS),  # all below 0
        (randn(50, 5).sigmoid(), SIGMOIDS),
        (randn(50, 5).softmax(1) - 0.05, LOGITS),
        (randn(50, 5) + torch.inf, LOGITS),
        (rand(50, 1), LOGITS),
    ],
)
def test_the_values_tell_what_outputs_are(rows: Tensor, kind: str) -> None:
    assert kind_of(rows) == kind


def test_of_several_tensors_the_logits_are_found() -> None:
    z, features = torch.randn(3, 5), torch.randn(3, 7)
    path = find_logits({"a": features, "b": (z.softmax(1), z)}, 3, 5)
    assert path is not None
    assert shown(path) == "['b'][1]"
    assert shown(find_logits({"first": z, "logits": z}, 3, 5) or ()) == "['logits']"
    assert find_logits((features, "text", None), 3, 5) is None


def test_networks_of_libraries_that_return_logits_are_left_alone(
    cluttered_teacher: Teacher, cluttered_data: Any
) -> None:
    own = as_teacher(cluttered_teacher.network, cluttered_data)
    check_teacher(own, cluttered_data, thorough=True)
    assert own.network is cluttered_teacher.network
    assert [note for note in own.info["notes"] if UNSTATED not in note] == []


class WithAuxiliary(nn.Module):
    """Returns a second classifier's outputs in training, as torchvision's googlenet and inception_v3 do."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.aux = nn.Linear(64, 4), nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Any:
        flat = images.flatten(1)
        return Named(self.main(flat), self.aux(flat)) if self.training else self.main(flat)


@pytest.mark.parametrize("n_val", [None, (1, 0, 0, 0)])
def test_a_network_with_auxiliary_outputs_is_trained(n_val: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naslib_autokd.teachers.training.build_network", lambda *_: (WithAuxiliary(), 1))
    data = bars((60, 60, 60, 60), n_val, noise=10.0)
    kept: list[Teacher] = []
    teacher = train_teacher(data, epochs=6, architecture="resnet-small", keep=kept.append)
    assert check_teacher(teacher, data) > 0.9
    assert "in training it returns more than logits: output[0] is trained" in teacher.info["notes"][0]
    assert set(kept[-1].network.state_dict()) == set(WithAuxiliary().state_dict())
    assert train_memory(WithAuxiliary(), (1, 8, 8), 8) > train_memory(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), (1, 8, 8), 8
    )
