"""State dicts from files, never unpickled, and how they are fitted to a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from naslib_autokd.data.images import TaskData
from naslib_autokd.tasks import Task
from naslib_autokd.teachers.names import REFUSED, ArchitectureName, TeacherError, few, shown_numbers
from naslib_autokd.teachers.networks import NetworkInput, published_input

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before every name of a state dict."""

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the state dict among other things."""


@dataclass(frozen=True)
class StateFile:
    """A state dict that was read from a file."""

    state: dict[str, Tensor]
    metadata: dict[str, Any]
    """Of safetensors; values that are no JSON stay text."""
    notes: tuple[str, ...]
    """What was changed to make the names those of a plain module."""


def read_state(path: str | Path) -> StateFile:
    """Tensors by name from a ``.safetensors`` file, or a ``.pt`` file without anything but tensors and containers.

    Nothing is unpickled. A dict under one of `WRAPPERS` is taken out, `PREFIXES` that all names share are cut off.

    Raises:
        TeacherError: If the file is missing, of a kind that is not safe to read, corrupt, or holds something else.
    """
    path = Path(path)
    if (reason := REFUSED.get(path.suffix.lower())) is not None:
        raise TeacherError(f"{path} is not read: {reason}; give a state dict (.safetensors, .pt) and its architecture")
    if not path.is_file():
        raise TeacherError(f"teacher checkpoint {path} does not exist")
    metadata: dict[str, Any] = {}
    notes: list[str] = []
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = {key: _json(value) for key, value in (file.metadata() or {}).items() if key != "format"}
                state: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise TeacherError(f"teacher checkpoint {path} is corrupt: {error}") from error
    except Exception as error:  # torch.load: UnpicklingError, EOFError, RuntimeError, ... all mean an unusable file
        raise TeacherError(
            f"teacher checkpoint {path} cannot be loaded; it must be a state dict of plain tensors: {error}"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            notes.append(f"the state dict was taken from its key {wrapper!r}")
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise TeacherError(f"teacher checkpoint {path} must hold a state dict of plain tensors")
    while prefix := next((one for one in PREFIXES if all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        notes.append(f"the prefix {prefix!r} was cut off all names")
    return StateFile(dict(state), metadata, tuple(notes))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def load_strictly(
    network: nn.Module, state: Mapping[str, Tensor], what: str, name: ArchitectureName, task: Task
) -> None:
    own = network.state_dict()
    shapes = [key for key, value in state.items() if key in own and own[key].shape != value.shape]
    wrong = {
        "lacks": [key for key in own if key not in state],
        "has besides": [key for key in state if key not in own],
        "has in other shapes": [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in shapes],
    }
    if any(wrong.values()):
        listed = "; ".join(f"it {word} {few(names, 3)}" for word, names in wrong.items() if names)
        raise TeacherError(f"{what} does not fit {name.full} with {task.n_classes} classes: {listed}")
    network.load_state_dict(dict(state), strict=True)


def stated_input(metadata: Mapping[str, Any], name: ArchitectureName, data: TaskData) -> tuple[NetworkInput, list[str]]:
    """The input that a file states (``mean``, ``std``, ``input``), or what is taken for granted, and that said."""
    task = data.task
    default = published_input(name)
    notes = []
    if default is None:
        default = NetworkInput(data.mean, data.std, task.in_channels, None)
    elif "mean" not in metadata:
        notes.append(
            f"it does not state its input: taken to be as published for {name.full}: mean "
            f"{shown_numbers(default.mean)}, standard deviation {shown_numbers(default.std)}, "
            f"{default.size or task.image_size} pixels"
        )
    shape = metadata.get("input", [default.channels, default.size])
    try:
        mean, std = (tuple(float(v) for v in metadata.get(key, getattr(default, key))) for key in ("mean", "std"))
        size = None if shape[1] is None else int(shape[1])
        return NetworkInput(mean, std, int(shape[0]), size), notes
    except (TypeError, ValueError, IndexError) as error:
        raise TeacherError(f"the file's metadata mean, std or input cannot be read: {error}") from error
