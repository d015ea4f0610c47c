"""Where the logits are in what a network returns, and whether they are logits: the values tell, not the names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from naslib_autokd.data.images import TaskData, normalise
from naslib_autokd.teachers.names import TeacherError
from naslib_autokd.teachers.networks import InputAdapter
from naslib_autokd.teachers.teacher import Ensemble, Teacher

Place = tuple[tuple[str, Any], ...]
"""Steps from an output to a tensor in it: ``("item", key)`` or ``("attribute", name)``."""

ROUNDING = 1e-2
"""How far the sum of a row of probabilities may be from 1; half precision needs as much."""

ENOUGH_VALUES = 200
"""So many values that are all in [0, 1], or none below 0 with the same sum for every image, are no accident."""

LOGITS, PROBABILITIES, LOG_PROBABILITIES, SIGMOIDS = "logits", "probabilities", "log-probabilities", "sigmoids"

DEPTH = 3


class LogitsOf(nn.Module):
    """A network that returns its logits in something larger, or probabilities, as one that returns logits.

    Args:
        path: Where they are in an output that is no tensor.
        probabilities: Whether these are probabilities. Their logarithm is then taken, which is the logits up to a
            constant of each row, and so the same soft targets at every temperature.
    """

    def __init__(self, network: nn.Module, path: Place = (), *, probabilities: bool = False) -> None:
        super().__init__()
        self.network, self.path, self.probabilities = network, path, probabilities

    def extra_repr(self) -> str:
        return f"output{shown(self.path)}, probabilities={self.probabilities}"

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of normalised images."""
        output = self.network(images)
        for kind, key in () if isinstance(output, Tensor) else self.path:
            output = output[key] if kind == "item" else getattr(output, key)
        logits: Tensor = output.flatten(1)
        return logits.clamp_min(torch.finfo(logits.dtype).tiny).log() if self.probabilities else logits


def shown(path: Place) -> str:
    """A path as Python writes it: ``[0].logits``."""
    return "".join(f"[{key!r}]" if kind == "item" else f".{key}" for kind, key in path)


def tensors_in(output: Any, path: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    """The tensors of an output, in order: of tuples, lists, mappings and objects with attributes."""
    if isinstance(output, Tensor):
        yield path, output
    elif len(path) < DEPTH:
        steps: list[tuple[str, Any, Any]] = []
        if isinstance(output, Mapping):
            steps = [("item", key, value) for key, value in output.items()]
        elif isinstance(output, (tuple, list)):
            steps = [("item", index, value) for index, value in enumerate(output)]
        else:
            names = [*getattr(output, "__dict__", ()), *getattr(type(output), "__slots__", ())]
            steps = [("attribute", name, getattr(output, name, None)) for name in names]
        for kind, key, value in steps:
            yield from tensors_in(value, (*path, (kind, key)))


def find_logits(output: Any, n_images: int, n_classes: int) -> Place | None:
    """Where the logits are: the first tensor ``(n_images, n_classes)``, or with dimensions of one position after these.

    Of several, one that is named logits, else the first that is not probabilities: those may be there beside them.
    """
    fitting = [
        (path, tensor)
        for path, tensor in tensors_in(output)
        if tensor.shape[:2] == (n_images, n_classes) and tensor.numel() == n_images * n_classes
    ]
    named = [path for path, _ in fitting if path and path[-1][1] == "logits"]
    plain = [path for path, tensor in fitting if kind_of(tensor.flatten(1)) != PROBABILITIES]
    return next(iter((*named, *plain, *(path for path, _ in fitting))), None)


def kind_of(outputs: Tensor) -> str:
    """What rows ``(n, classes)`` are, by their values: logits unless all of them say otherwise.

    A network that answers every image alike says nothing of its outputs.
    """
    values = outputs.detach().double()
    if values.numel() < 2 or values.shape[1] < 2 or not bool(torch.isfinite(values).all()):
        return LOGITS
    if len(values) > 1 and bool((values == values[0]).all()):
        return LOGITS
    enough = values.numel() >= ENOUGH_VALUES
    if values.min() >= -1e-6:
        total = float(values.sum(dim=1).mean())
        even = total > 0 and bool(((values.sum(dim=1) / total - 1).abs() <= ROUNDING).all())
        if even and (enough or abs(total - 1) <= ROUNDING):  # some are in percent
            return PROBABILITIES
        return SIGMOIDS if enough and values.max() <= 1 else LOGITS
    if values.max() <= ROUNDING and bool((values.logsumexp(dim=1).abs() <= ROUNDING).all()):
        return LOG_PROBABILITIES
    return LOGITS


def take_logits(teacher: Teacher, data: TaskData) -> None:
    """Let ``teacher`` answer with the logits that its network returns inside something else; says so in its notes.

    Nothing is changed of a network that returns a tensor ``(batch, classes)``.

    Raises:
        TeacherError: If no tensor in the output is of that shape; names those that are there.
    """
    n_classes = data.task.n_classes
    images = data.val_images[: 3 if n_classes == 2 else 2]  # not as many as classes: other tensors may be square
    output = _raw(teacher, images)
    if isinstance(output, Tensor) and (output.ndim == 2 or output.numel() != len(images) * n_classes):
        return  # logits, or of a wrong shape, which the check of a teacher tells
    path = find_logits(output, len(images), n_classes)
    if path is None:
        found = ", ".join(f"output{shown(at)} {tuple(tensor.shape)}" for at, tensor in tensors_in(output))
        raise TeacherError(
            f"the teacher returns a {type(output).__name__} ({found or 'without tensors'}), but logits are a tensor "
            f"({len(images)}, {n_classes}) for {len(images)} images of {n_classes} classes; return them alone"
        )
    _wrap(teacher, LogitsOf(_inner(teacher), path))
    what = f"a {type(output).__name__}, of which output{shown(path)} is" if path else f"{tuple(output.shape)}, which is"
    add_note(teacher, f"it returns {what} taken as the logits")


def as_logits(teacher: Teacher, outputs: Tensor, data: TaskData) -> Tensor:
    """The logits that ``outputs`` ``(n, classes)`` of ``teacher`` mean; it answers with these from now on.

    Where these are few, those of some training images are looked at, too.

    Raises:
        TeacherError: If they are probabilities that have lost what the logits said.
    """
    if isinstance(teacher.network, Ensemble):  # its members are looked at one by one
        return outputs
    inner = _inner(teacher)
    if isinstance(inner, LogitsOf) and inner.probabilities:
        return outputs
    seen = outputs
    if outputs.numel() < ENOUGH_VALUES:
        seen = torch.cat([outputs, teacher.predict(some_training_images(data, ENOUGH_VALUES)[0])])
    kind = kind_of(seen)
    if kind == SIGMOIDS:
        raise TeacherError(
            "the teacher returns a probability for each class by itself (all values are from 0 to 1, and do not sum to "
            "1 over the classes), as a sigmoid does: return what goes into the sigmoid, the logits"
        )
    if kind == LOG_PROBABILITIES:
        add_note(
            teacher,
            "its outputs are log-probabilities, which are logits up to a constant of each image: used as they are",
        )
    if kind != PROBABILITIES:
        return outputs
    lost = float((seen < torch.finfo(outputs.dtype).tiny).float().mean())
    if lost or outputs.dtype not in (torch.float32, torch.float64):
        why = f"{lost:.2%} of them are 0" if lost else f"they are rounded to {outputs.dtype}".replace("torch.", "")
        raise TeacherError(
            f"the teacher returns probabilities (no value below 0, and the same sum for every image), and {why}, so "
            "what it knows of small ones is lost: return what goes into the softmax, the logits, or log_softmax of them"
        )
    add_note(
        teacher,
        "its outputs are probabilities (no value below 0, and the same sum for every image): their logarithm is taken, "
        "which is the logits up to a constant of each image",
    )
    wrapped = LogitsOf(inner, probabilities=True)
    if isinstance(inner, LogitsOf):
        wrapped = LogitsOf(inner.network, inner.path, probabilities=True)
    _wrap(teacher, wrapped)
    return outputs.log()


def some_training_images(data: TaskData, wanted: int) -> tuple[Tensor, Tensor]:
    """Up to ``wanted`` with their labels, evenly spread (folders are sorted by class); no others are read."""
    n = len(data.train_labels)
    chosen = torch.linspace(0, n - 1, min(n, wanted), device=data.device).long()
    return data.train_views[torch.zeros_like(chosen), chosen], data.train_labels[chosen]


def add_note(teacher: Teacher, note: str) -> None:
    """One more thing that is worth telling of a teacher, once."""
    notes = list(teacher.info.get("notes", ()))
    if note not in notes:
        teacher.info["notes"] = [*notes, note]


def _raw(teacher: Teacher, images: Tensor) -> Any:
    """What the network itself returns, before its adapter puts the classes into order."""
    returned: list[Any] = []
    hook = _inner(teacher).register_forward_hook(lambda module, inputs, output: returned.append(output))
    try:
        with torch.no_grad():
            teacher.network(normalise(images, teacher.mean, teacher.std))
    except Exception:
        if not returned:
            raise
    finally:
        hook.remove()
    return returned[0]


def _inner(teacher: Teacher) -> nn.Module:
    network = teacher.network
    return network.network if isinstance(network, InputAdapter) else network


def _wrap(teacher: Teacher, network: LogitsOf) -> None:
    """Behind its adapter, if it has one."""
    if isinstance(teacher.network, InputAdapter):
        teacher.network.network = network
    else:
        teacher.network = network
    teacher.train()
