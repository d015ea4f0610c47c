"""Weights from files, never unpickled, and how they are fitted to a network."""

from __future__ import annotations

import json
import pickletools
import re
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from naslib_autokd.data.images import TaskData
from naslib_autokd.tasks import Task
from naslib_autokd.teachers.names import (
    REFUSED,
    SOURCES,
    ArchitectureName,
    TeacherError,
    few,
    shown_numbers,
    split_key,
)
from naslib_autokd.teachers.networks import NetworkInput, is_auxiliary, published_input

NO_WEIGHTS = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
"""Last parts of the names of counters: batch norm's, which evaluation does not use, those that thop leaves in every
module, and that of torch's `AveragedModel`."""

RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),  # torchvision's DenseNets before 0.3
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),  # its vision transformers before 0.14
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)
"""Names that a library has given up, and what they are now; its published files have the old ones."""

AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged?)([._]|$)", re.IGNORECASE)
"""In the name of a copy of the weights that was averaged over the training."""

MAX_DEPTH = 20
"""Of dicts and modules inside each other, beyond which nothing is looked for."""

CLASS_KEYS = ("classes", "class_names", "class_to_idx", "idx_to_class", "categories", "id2label")
"""Under which files state the names of their classes."""


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file, wherever they are in it."""

    what: str
    """Its name in messages."""
    places: Mapping[str, Mapping[str, Tensor]]
    """Every dict with tensors, by the keys that lead to it with dots between; "" is the file itself."""
    metadata: Mapping[str, Any]
    """What it states: of safetensors everything (values that are no JSON stay text), of others the classes."""
    notes: tuple[str, ...] = ()
    ordered: bool = True
    """Whether the tensors come in the order of the network that was saved; safetensors sorts them."""

    @classmethod
    def published(cls, name: ArchitectureName, state: Mapping[str, Tensor]) -> WeightsFile:
        """Of weights that a library publishes."""
        return cls(f"published weights of {name.full}", {"": state}, {}, ordered=False)


RUNS = re.compile(
    r"builtins\.(eval|exec|compile|open|getattr|__import__)$"
    r"|(os|posix|nt|sys|subprocess|shutil|runpy|importlib|pickle|socket|ctypes|webbrowser)\."
)
"""What no training script puts into a file. Nothing would come of it here, but such a file is not to be trusted."""


class _LeftOut:
    """Stands for whatever a file holds besides tensors and containers: keeps the attributes, and does nothing."""

    def __new__(cls, *args: Any) -> _LeftOut:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def _plain_dict(*args: Any) -> dict[Any, Any]:
    """Stands for `collections.defaultdict`."""
    return {}


def read_weights(file: str | Path) -> WeightsFile:
    """The tensors of a ``.safetensors`` file, or of one that ``torch.save`` wrote.

    That may be a state dict, alone or anywhere below keys, or a whole module.

    Nothing of the file is run. ``torch.load(weights_only=True)`` reads tensors and containers; where a file names other
    classes (a `Namespace`, numpy's scalars, the module itself), an empty class of ours takes the place of each.

    Args:
        file: ``FILE`` or ``FILE#KEY``, which takes what is below that key (``model.pth#model_ema``) and nothing else.

    Raises:
        TeacherError: If the file is missing, of a kind that is not safe to read, corrupt, or without tensors.
    """
    name, key = split_key(str(file))
    path = Path(name).expanduser()
    if (reason := REFUSED.get(path.suffix.lower())) is not None:
        raise TeacherError(f"{path} is not read: {reason}; give a state dict (.safetensors, .pt) and its architecture")
    if not path.is_file():
        raise TeacherError(f"teacher checkpoint {path} does not exist")
    notes: list[str] = []
    left_out: list[str] = []
    if path.suffix == ".safetensors":
        content, metadata = _read_safetensors(path)
    else:
        content, left_out = _read_torch(path)
        metadata = {one: content[one] for one in CLASS_KEYS if isinstance(content, dict) and one in content}
        if left_out:
            notes.append(f"it holds more than tensors ({few(left_out)}): left out, and nothing of it was run")
    places: dict[str, dict[str, Tensor]] = {}
    _collect(content, "", places)
    if key:
        below = {place: _below(key, place, tensors) for place, tensors in places.items()}
        below = {place: tensors for place, tensors in below.items() if tensors}
        if not below:
            raise TeacherError(f"{path} has no tensors below {key!r}; it has some below {few(map(repr, places))}")
        places = below
    if not places:
        plain = f"teacher checkpoint {path} must hold a state dict of plain tensors"
        raise TeacherError(_save_again(path, left_out) if left_out else plain)
    return WeightsFile(f"teacher checkpoint {path}", places, metadata, tuple(notes), path.suffix != ".safetensors")


def _below(key: str, place: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    at = f"{place}." if place else ""
    return {name: value for name, value in tensors.items() if f"{at}{name}".startswith(f"{key}.")}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: as_json(value) for key, value in (file.metadata() or {}).items() if key != "format"}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise TeacherError(f"teacher checkpoint {path} is corrupt: {error}") from error


def _read_torch(path: Path) -> tuple[Any, list[str]]:
    """What ``torch.save`` wrote, and the names of what was left out of it."""
    other: list[str] = []
    try:
        with warnings.catch_warnings(action="ignore"):  # of old formats; what cannot be read is an error
            try:
                return torch.load(path, map_location="cpu", weights_only=True), []
            except Exception:
                other = _other_globals(path)
                if not other or any(RUNS.match(name) for name in other):
                    raise
            stand_ins: list[Any] = [
                (_plain_dict if name == "collections.defaultdict" else _LeftOut, name) for name in other
            ]
            with torch.serialization.safe_globals(stand_ins):
                return torch.load(path, map_location="cpu", weights_only=True), other
    except Exception as error:  # UnpicklingError, EOFError, RuntimeError, ... all mean a file that cannot be used
        reason = str(error).partition("\n")[0] or type(error).__name__
        if "TorchScript" in str(error):
            raise TeacherError(
                f"{path} is not read: it is a TorchScript program, which does what it says when it runs (it can write "
                "files); give its state dict, or an .onnx file (torch.onnx.export), which holds computations only"
            ) from error
        if other:
            raise TeacherError(_save_again(path, [name for name in other if RUNS.match(name)] or other)) from error
        raise TeacherError(
            f"teacher checkpoint {path} cannot be loaded; it must be a state dict of plain tensors: {reason}"
        ) from error


def _save_again(path: Path, held: Sequence[str]) -> str:
    return (
        f"teacher checkpoint {path} cannot be loaded without running it, since it holds {few(held)}; save the weights "
        "alone where it was made: torch.save(model.state_dict(), 'weights.pt')"
    )


def _other_globals(path: Path) -> list[str]:
    """Classes and functions that a file names and `torch.load` does not know as safe; none if it cannot be told."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # no zip file: before torch 1.6 a file was a row of pickles, of which the fourth is the content
        try:
            with path.open("rb") as file:
                named = [arg for _ in range(4) for op, arg, _ in pickletools.genops(file) if op.name == "GLOBAL"]
        except (ValueError, EOFError, UnicodeDecodeError):
            return []
    parts = (str(name).partition(" ") for name in named)
    pairs = {(module, name) for module, _, name in parts}
    pairs = {NAME_MAPPING.get(pair, (IMPORT_MAPPING.get(pair[0], pair[0]), pair[1])) for pair in pairs}
    names = {".".join(pair) for pair in pairs}  # of Python 3: protocol 2 has those of Python 2
    return sorted(name for name in names if not name.startswith("torch.") and name != "collections.OrderedDict")


def _collect(content: Any, place: str, places: dict[str, dict[str, Tensor]], depth: int = 0) -> None:
    """Note each dict with tensors, and what whole modules hold as their state dict would have it."""
    if isinstance(content, _LeftOut):
        content = _state_of(content) if "_modules" in vars(content) else vars(content)
    if not isinstance(content, dict) or depth > MAX_DEPTH:
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        places[place] = tensors
    for key, value in content.items():
        if isinstance(value, dict | _LeftOut):
            _collect(value, f"{place}.{key}" if place else str(key), places, depth + 1)


def _state_of(module: _LeftOut, depth: int = 0) -> dict[str, Any]:
    """The state dict of a module that was saved whole, in its order."""
    held = vars(module) if depth <= MAX_DEPTH else {}
    temporary = held.get("_non_persistent_buffers_set") or set()
    state = {**(held.get("_parameters") or {}), **(held.get("_buffers") or {})}
    state = {name: value for name, value in state.items() if value is not None and name not in temporary}
    for name, child in (held.get("_modules") or {}).items():
        if isinstance(child, _LeftOut):
            state |= {f"{name}.{key}": value for key, value in _state_of(child, depth + 1).items()}
    return state


def as_json(text: str) -> Any:
    """The value that a text of metadata states; text that is no JSON stays text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


# --- fitting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    """A state dict for a network that was found in a file."""

    place: str
    prefix: str
    state: Mapping[str, Tensor]
    in_order: bool = False

    @property
    def key(self) -> str:
        """What takes it: ``FILE#key``."""
        return f"{self.place}.{self.prefix}".strip(".")


def load_weights(
    network: nn.Module, file: WeightsFile, name: ArchitectureName, n_classes: int, *, classes_may_differ: bool = False
) -> list[str]:
    """Give a network the weights of a file, in which its names may be anywhere; what was done, to be told.

    The names are looked for below every key and every prefix. A copy that was averaged over the training is preferred
    to the other one. Where no names fit, the tensors of a place are taken in order, if kinds (weight, bias,
    running_mean, ...), shapes, and where one module ends and the next begins are the network's throughout.

    Args:
        classes_may_differ: Keep the network's own tensors where those of the file are of another number of classes.

    Raises:
        TeacherError: If the weights do not fit (says which names or shapes), or several sets of them fit.
    """
    own = network.state_dict()
    wanted = {key: own[key] for key in order_of_tensors(network, name) if not _is_counter(key)}
    places = {
        place: {_current_name(key): value for key, value in found.items()} for place, found in file.places.items()
    }
    found = [fit for place, tensors in places.items() for fit in _by_name(wanted, place, tensors)]
    found = [fit for fit in found if _shapes_fit(wanted, fit.state, n_classes, classes_may_differ)] or found
    if not found and file.ordered:
        in_order = (_in_order(wanted, place, tensors, name) for place, tensors in places.items())
        found = [
            fit for fit in in_order if fit is not None and _shapes_fit(wanted, fit.state, n_classes, classes_may_differ)
        ]
    if not found:
        raise TeacherError(_misfit(wanted, places, file.what, name, n_classes))
    fit, notes = _choose(found, file.what)
    if not fit.in_order:
        notes += _taken(fit, places[fit.place], wanted, name, file.what, n_classes)
    else:
        notes.append(
            f"its names are not those of {name.full}: its {len(wanted)} tensors were taken in order, in which shapes "
            "and kinds are the same throughout"
        )
    anew = [key for key, value in wanted.items() if fit.state[key].shape != value.shape]
    if anew and not classes_may_differ:
        raise TeacherError(_misfit(wanted, {fit.key: fit.state}, file.what, name, n_classes))
    if anew:
        notes.append(f"the classifier ({', '.join(anew)}) is made anew for {n_classes} classes")
    counters = {
        key: places[fit.place][fit.prefix + key]
        for key in own.keys() - wanted.keys()
        if not fit.in_order and fit.prefix + key in places[fit.place]
    }
    state = own | counters | {key: fit.state[key] for key in wanted if key not in anew}
    state._metadata = own._metadata  # type: ignore[attr-defined]  # MNASNets refuse a state dict without a version
    network.load_state_dict(state)
    return notes


def order_of_tensors(network: nn.Module, name: ArchitectureName) -> list[str]:
    """Names of a network's state dict; those of the zoo's in the order of the literature's files."""
    keys = list(network.state_dict())
    if name.full != "zoo:shufflenet_v2":
        return keys
    first = {block: keys.index(key) for key in reversed(keys) for block in [_block(key)]}
    return sorted(keys, key=lambda key: (first[_block(key)], ".left." not in key, keys.index(key)))  # ours: right, left


def _block(key: str) -> str:
    return key.partition(".left.")[0].partition(".right.")[0]


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] in NO_WEIGHTS


def _current_name(key: str) -> str:
    for pattern, replacement in RENAMED:
        key = pattern.sub(replacement, key)
    return key


def _by_name(wanted: Mapping[str, Tensor], place: str, tensors: Mapping[str, Tensor]) -> list[_Fit]:
    first = next(iter(wanted))
    prefixes = [key.removesuffix(first) for key in tensors if key == first or key.endswith(f".{first}")]
    return [
        _Fit(place, prefix, {key: tensors[prefix + key] for key in wanted})
        for prefix in prefixes
        if all(prefix + key in tensors for key in wanted)
    ]


def _in_order(
    wanted: Mapping[str, Tensor], place: str, tensors: Mapping[str, Tensor], name: ArchitectureName
) -> _Fit | None:
    there = {key: value for key, value in tensors.items() if not _is_counter(key) and not is_auxiliary(name, key)}
    if _structure(list(there)) != _structure(list(wanted)):
        return None
    return _Fit(place, "", dict(zip(wanted, there.values(), strict=True)), in_order=True)


def _structure(keys: Sequence[str]) -> list[tuple[str, bool]]:
    """Kind of each tensor, and whether it begins a new module."""
    modules = [key.rpartition(".")[0] for key in keys]
    begins = [True, *(before != after for before, after in pairwise(modules))]
    return [(key.rpartition(".")[2], new) for key, new in zip(keys, begins, strict=False)]


def _shapes_fit(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], n_classes: int, classes_may_differ: bool
) -> bool:
    other = [(value.shape, state[key].shape) for key, value in wanted.items() if value.shape != state[key].shape]
    return not other or (
        classes_may_differ and all(own[:1] == (n_classes,) and own[1:] == its[1:] for own, its in other)
    )


def _choose(found: Sequence[_Fit], what: str) -> tuple[_Fit, list[str]]:
    """The one that fits, or of a copy that was averaged over the training and another one the former."""
    different: list[_Fit] = []
    for fit in found:
        if not any(all(torch.equal(value, one.state[key]) for key, value in fit.state.items()) for one in different):
            different.append(fit)
    if len(different) == 1:
        return different[0], []
    averaged = [fit for fit in different if AVERAGED.search(fit.key)]
    if len(different) == 2 and len(averaged) == 1:
        (other,) = (fit for fit in different if fit is not averaged[0])
        otherwise = f"FILE#{other.key} takes the other" if other.key else "the other is at the top of the file"
        taken = f"{averaged[0].key!r}, averaged over the training, was taken"
        return averaged[0], [f"it holds two copies of the weights: {taken}; {otherwise}"]
    keys = [fit.key for fit in different]
    raise TeacherError(
        f"{what} holds {len(keys)} different sets of weights that fit: {few(keys)}; say which one: FILE#{keys[0]}"
    )


def _taken(
    fit: _Fit,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    name: ArchitectureName,
    what: str,
    n_classes: int,
) -> list[str]:
    """How the names became the network's; refuses weights besides, for which the network has no place."""
    notes = [f"the state dict was taken from its key {fit.place!r}"] if fit.place else []
    if fit.prefix:
        notes.append(f"the prefix {fit.prefix!r} was cut off all names")
    used = {fit.prefix + key for key in wanted}
    besides = [key for key in tensors if key not in used and not key.endswith("num_batches_tracked")]
    no_place = [
        key.removeprefix(fit.prefix)
        for key in besides
        if key.startswith(fit.prefix) and not _is_counter(key) and not is_auxiliary(name, key.removeprefix(fit.prefix))
    ]
    if no_place:
        raise TeacherError(f"{what} does not fit {_with_classes(name, n_classes)}: it has besides {few(no_place, 3)}")
    if besides:
        notes.append(f"left out, since {name.full} has no use for them: {few(besides, 3)}")
    return notes


def _misfit(
    wanted: Mapping[str, Tensor],
    places: Mapping[str, Mapping[str, Tensor]],
    what: str,
    name: ArchitectureName,
    n_classes: int,
) -> str:
    """In what the place that fits best differs, with and without what all its names begin with."""
    tried = [one for tensors in places.values() for one in (tensors, _without_prefix(tensors))]
    best = max(tried, key=lambda one: (len(one.keys() & wanted.keys()), len(one)))
    other = [key for key, value in best.items() if key in wanted and wanted[key].shape != value.shape]
    wrong = {
        "lacks": [key for key in wanted if key not in best],
        "has besides": [key for key in best if key not in wanted and not _is_counter(key)],
        "has in other shapes": [f"{key} {tuple(best[key].shape)} for {tuple(wanted[key].shape)}" for key in other],
    }
    listed = "; ".join(f"it {word} {few(names, 3)}" for word, names in wrong.items() if names)
    return f"{what} does not fit {_with_classes(name, n_classes)}: {listed}"


def _with_classes(name: ArchitectureName, n_classes: int) -> str:
    """A network of somebody's own has as many as it was written with."""
    return name.full + (f" with {n_classes} classes" if name.source in SOURCES else "")


def _without_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    paths = [key.split(".")[:-1] for key in tensors if not _is_counter(key)]
    shared = 0
    while paths and all(path[shared : shared + 1] == paths[0][shared : shared + 1] != [] for path in paths):
        shared += 1
    cut = "".join(f"{part}." for part in paths[0][:shared]) if paths else ""
    return {key.removeprefix(cut): value for key, value in tensors.items()}


# --- what a file states ---------------------------------------------------------------------------------------------


def stated_classes(metadata: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes in the order of the outputs, under any of `CLASS_KEYS`; None if they are not stated.

    A list of names, text with commas or newlines between them, index to name, or name to index.

    Raises:
        TeacherError: If a name comes twice, or the indices are not 0, 1, 2, ...
    """
    for key in CLASS_KEYS:
        names = _class_names(metadata.get(key), key)
        if len(names) > 1:
            if len(set(names)) < len(names):
                twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
                raise TeacherError(f"the file's {key} name a class twice: {few(twice)}")
            return names
    return None


def _class_names(value: Any, key: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = as_json(value)
    if isinstance(value, str):
        value = [name.strip() for name in re.split(r"\n" if "\n" in value else ",", value) if name.strip()]
    if isinstance(value, Mapping):
        by_name = all(isinstance(one, int) for one in value.values())
        indices = {str(index): str(name) for name, index in value.items()} if by_name else value
        names = {str(index): str(name) for index, name in indices.items()}
        if set(names) != {str(index) for index in range(len(value))}:
            raise TeacherError(f"the indices of the file's {key} are not 0 to {len(value) - 1}: {few(names)}")
        value = [names[str(index)] for index in range(len(names))]
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def default_input(name: ArchitectureName, data: TaskData) -> tuple[NetworkInput, str]:
    """What a network is fed whose file does not state it, and where that comes from, in words."""
    published = published_input(name)
    if published is None:
        return NetworkInput(data.mean, data.std, data.task.in_channels, None), "the task's"
    return published, f"as published for {name.full}"


def stated_input(
    metadata: Mapping[str, Any], default: NetworkInput, source: str, task: Task
) -> tuple[NetworkInput, list[str]]:
    """The input that a file states, or what is taken for granted, and that said.

    Metadata ``mean``, ``std``, ``input`` (channels and size), ``crop``, ``interpolation``: see `NetworkInput`.
    """
    if "mean" in metadata or "input" in metadata:  # a file that states these and no crop was made without one
        default = replace(default, crop=1.0, interpolation="bilinear")
    shape = metadata.get("input", [default.channels, default.size])
    try:
        mean, std = (tuple(float(v) for v in metadata.get(key, getattr(default, key))) for key in ("mean", "std"))
        size = None if shape[1] is None else int(shape[1])
        crop = float(metadata.get("crop", default.crop))
        interpolation = str(metadata.get("interpolation", default.interpolation))
        given = NetworkInput(mean, std, int(shape[0]), size, crop, interpolation)
    except (TypeError, ValueError, IndexError) as error:
        raise TeacherError(f"the file's metadata mean, std, input or crop cannot be read: {error}") from error
    return given, [] if "mean" in metadata else [f"{UNSTATED}: taken to be {source}: {shown_input(given, task)}"]


UNSTATED = "it does not state its input"


def shown_input(given: NetworkInput, task: Task) -> str:
    """What a network takes of the images of ``task``, in words."""
    shown = f"mean {shown_numbers(given.mean)}, standard deviation {shown_numbers(given.std)}"
    return ", ".join(
        filter(None, (shown, f"{given.size or task.image_size} pixels", given.preparation(task.image_size)))
    )
