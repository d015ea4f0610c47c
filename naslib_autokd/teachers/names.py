"""Names of networks: ours, the zoo's, torchvision's and timm's.

A name is ``[source:]name[@weights]``: ``resnet-small``, ``zoo:resnet32x4``, ``torchvision:resnet18@pretrained``,
``timm:resnet10t``, ``torchvision:resnet50@IMAGENET1K_V2``, ``torchvision:resnet18@model.pth``. Without a source ours
come first, then the zoo's, torchvision's and timm's. ``weights`` is ``pretrained`` (the library's best), the name of a
published set, or a file. timm is optional (``pip install "naslib_autokd[timm]"``).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from naslib_autokd.tasks import did_you_mean

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
"""Of files that may hold a state dict."""

REFUSED = {
    ".pt2": "a .pt2 file is a program: its loader falls back to unpickling, which runs whatever it says; an .onnx "
    "file holds computations only",
    ".pkl": "a .pkl file runs whatever it says when it is read",
    ".pickle": "a .pickle file runs whatever it says when it is read",
    ".onnx": "an .onnx file is a network, not the weights of another: it is a teacher as it is (--teacher FILE.onnx)",
}

PUBLISHED = "pretrained"

SOURCES = ("ours", "zoo", "torchvision", "timm")


class TeacherError(ValueError):
    """The teacher cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class ArchitectureName:
    """The parts of ``[source:]name[@weights]``."""

    source: str
    """One of `SOURCES`, else the user's module, and ``name`` its function."""
    name: str
    weights: str = ""

    @property
    def full(self) -> str:
        """Without weights; what a checkpoint states."""
        return self.name if self.source == "ours" else f"{self.source}:{self.name}"

    def __str__(self) -> str:
        return f"{self.full}@{self.weights}" if self.weights else self.full


ARCHITECTURES: dict[str, tuple[int, ...]] = {
    "resnet-small": (16, 32, 32),  # 38k parameters
    "resnet-medium": (64, 128, 256),  # 1.2M parameters
}
"""Channels of the `SmallResNet` blocks of the teachers that we train ourselves."""


def zoo_names() -> tuple[str, ...]:
    from naslib_autokd.teachers.zoo import ZOO

    return tuple(ZOO)


def zoo_aliases() -> dict[str, str]:
    from naslib_autokd.teachers.zoo import REPDISTILLER_NAMES

    return REPDISTILLER_NAMES


def torchvision_names() -> tuple[str, ...]:
    models = torchvision_models()
    return tuple(models.list_models(module=models))


def timm_names() -> tuple[str, ...]:
    return tuple(timm_library().list_models())


_NAMES: dict[str, Callable[[], Sequence[str]]] = {
    "ours": lambda: tuple(ARCHITECTURES),
    "zoo": zoo_names,
    "torchvision": torchvision_names,
    "timm": timm_names,
}


def parse_architecture(text: str, *, own: bool = False) -> ArchitectureName:
    """The architecture that ``[source:]name[@weights]`` names.

    Args:
        own: Of other sources, too: ``module:function``, the user's own network. Only of what the user has typed, never
            of what a file states, for the module will be run.

    Raises:
        TeacherError: For a name that nobody knows (names the nearest), or a library that is not installed.
    """
    full, at, weights = text.partition("@")
    if not full or (at and not weights):
        missing = "names no network before" if not full else "names no weights after"
        raise TeacherError(f"{text!r} {missing} the @; give NAME, NAME@pretrained or NAME@FILE")
    if at and Path(full).suffix in SUFFIXES:
        raise TeacherError(f"{text!r} has the file before the @; give {weights}@{full}")
    source, colon, name = full.partition(":")
    if colon:
        if source not in SOURCES:
            if own:
                return ArchitectureName(source, name, weights)
            raise TeacherError(f"unknown source of networks {source!r}{did_you_mean(source, SOURCES)}")
        found = _find(source, name, explicit=True)
        if found is None:
            raise TeacherError(f"{source} has no network {name!r}{nearest_name(name, _NAMES[source]())}")
        return ArchitectureName(source, found, weights)
    known: list[str] = []
    missing = ""
    for source in SOURCES:
        try:
            if (found := _find(source, full, explicit=False)) is not None:
                return ArchitectureName(source, found, weights)
            known += [name if source == "ours" else f"{source}:{name}" for name in _NAMES[source]()]
        except ImportError as error:  # a library that is not there knows no names
            missing += f"; {error}"
    raise TeacherError(f"unknown network {full!r}{nearest_name(full, known)}{missing}")


def nearest_name(name: str, known: Sequence[str]) -> str:
    """The nearest of so many names, also of those that begin with a source."""
    if len(known) <= 20:
        return did_you_mean(name, known)
    bare = {one.partition(":")[2] or one: one for one in known}
    hint = did_you_mean(name, bare).partition(" (known:")[0]
    return f"{hint} ({len(known)} are known; naslib-autokd teacher list shows them)"


def _find(source: str, name: str, explicit: bool) -> str | None:
    """The name as the source writes it; timm's may have a tag (``resnet10t.c3_in1k``), the zoo's hyphens.

    ``explicit``: it came as ``source:name``.
    """
    if source == "zoo":
        name = name.lower().replace("-", "_")
        name = zoo_aliases().get(name, name) if explicit else name
    known = _NAMES[source]()
    return name if (name.partition(".")[0] if source == "timm" else name) in known else None


def torchvision_models() -> Any:
    from naslib_autokd.data.vision import import_torchvision

    import_torchvision()
    return importlib.import_module("torchvision.models")


def timm_library() -> Any:
    from naslib_autokd.data.vision import import_torchvision

    import_torchvision()  # timm imports it, so its operators must be there
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ImportError(f'timm is not installed ({error}): pip install "naslib_autokd[timm]"') from error


def is_file_name(text: str) -> bool:
    """Whether ``text`` means a file (``FILE`` or ``FILE#KEY``): by its suffix, or because it is there."""
    path = Path(split_key(text)[0]).expanduser()
    return path.suffix.lower() in (*SUFFIXES, *REFUSED) or path.is_file()


def split_key(text: str) -> tuple[str, str]:
    """File and key of ``FILE#KEY``; a file whose name has a # is a file."""
    file, _, key = text.rpartition("#")
    return (file, key) if file and not Path(text).expanduser().is_file() else (text, "")


def with_weights(architecture: str, file: str) -> str:
    """``architecture@file``, the teacher that reads ``file`` as ``architecture``; of several files each."""
    name = parse_architecture(architecture, own=True)
    return ",".join(str(replace(name, weights=one)) for one in split_teachers(file))


def split_teachers(text: str) -> list[str]:
    """The teachers in ``A,B,...``; a comma in the name of a file that exists separates nothing."""
    parts, found = text.split(","), []
    while parts:
        joined = (",".join(parts[:count]) for count in range(len(parts), 0, -1))
        taken = next((one for one in joined if "," not in one or _exists(one)), parts[0])
        parts = parts[taken.count(",") + 1 :]
        if taken.strip():
            found.append(taken.strip())
    return found


def _exists(text: str) -> bool:
    """Whether ``FILE``, ``FILE#KEY`` or either after ``NAME@`` is a file that exists."""
    name, _, after = text.partition("@")
    candidates = (split_key(one.strip()) for one in (text, "" if "," in name else after))  # names have no commas
    return any(file and "," not in key and Path(file).expanduser().is_file() for file, key in candidates)


def known_names() -> dict[str, tuple[str, ...] | str]:
    """Names by source; why there are none where a library is not installed."""
    names: dict[str, tuple[str, ...] | str] = {}
    for source, listed in _NAMES.items():
        try:
            names[source] = tuple(listed())
        except ImportError as error:
            names[source] = str(error)
    return names


def few(names: Any, count: int = 5) -> str:
    """The first ``count``; those with a comma in quotes."""
    shown = [repr(name) if "," in str(name) and isinstance(name, str) else str(name) for name in names]
    return ", ".join(shown[:count]) + (f", ... ({len(shown)})" if len(shown) > count else "")


def other_number_of_classes(own: Sequence[str], wanted: Sequence[str], task: str) -> str:
    """``own`` classes of a teacher against those that are ``wanted``, and what to do if it has these and more."""
    told = f"{len(own)} classes ({few(own)}), {task!r} has {len(wanted)} ({few(wanted)})"
    if not set(wanted) < set(own):
        return f"{told}; give a teacher for these classes, or train one (naslib-autokd teacher train)"
    places = [list(own).index(name) for name in wanted]
    return (
        f"{told}, which are its outputs {few(places, 30)}: give a module of your own that returns these alone "
        "(module:function; docs/teachers_and_data.md, A teacher of more classes)"
    )


def shown_numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
