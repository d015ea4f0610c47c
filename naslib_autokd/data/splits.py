"""Which image is for what: stratified, fixed by the task's seed, kept in the run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from naslib_autokd.data.images import Indices, Labels, Members, TaskData
from naslib_autokd.files import write_whole
from naslib_autokd.records import derive_seed
from naslib_autokd.tasks import Task, TaskError

HELD_OUT_SHARES = {"val": 0.15, "test": 0.2}
"""Of an image folder, or a dataset, that says nothing itself."""

SPLITS_FILE = "splits.json"
"""Written by `save_splits`."""


def split_rng(task: Task, purpose: str) -> np.random.RandomState:
    # RandomState's streams are frozen for good, those of numpy's newer Generator may change between versions.
    return np.random.RandomState(derive_seed(task.dataset, task.split_seed, purpose))


def stratified_order(labels: Labels, rng: np.random.RandomState) -> npt.NDArray[np.int64]:
    """A random order of the samples in which every contiguous part has each class in proportion, give or take two."""
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + rng.uniform()) / len(members)
    return np.argsort(position, kind="stable")


def hold_out(labels: Labels, among: Indices, count: int, task: Task, purpose: str) -> tuple[Indices, Indices]:
    """``(rest, held out)`` of the samples ``among``: ``count`` held out, stratified; both in stratified order."""
    if not 0 < count < len(among):
        raise TaskError(f"{task.name}: cannot hold out {count} of {len(among)} images for {purpose}")
    order = among[stratified_order(labels[among], split_rng(task, f"hold out {purpose}"))]
    return order[count:], order[:count]


def first_stratified(labels: Labels, among: Indices, count: int, task: Task, purpose: str) -> Indices:
    """The first ``count`` (all if 0) of the samples ``among`` in stratified order."""
    if count > len(among):
        raise TaskError(f"{task.name}: {purpose} has {len(among)} images, the task wants {count}")
    return among[stratified_order(labels[among], split_rng(task, f"order {purpose}"))[: count or None]]


def members_of(indices: Indices) -> Members:
    return tuple(indices.tolist())


def save_splits(data: TaskData, folder: str | Path, teacher: str = "") -> Path:
    """Keep in ``folder`` which image is in which split, or check that a run that began there has the same ones.

    ``splits.json``: ``task``, ``task_digest``, ``data_digest``, ``classes``, ``splits`` (`TaskData.members`) and
    ``skipped``, to which those of the test split are added when it has been read and this is called again. File names
    are relative to the data folder, so the folder may be moved.

    Args:
        teacher: Digest of the teacher that students learn from on these images, kept with them; empty: of no matter.

    Raises:
        TaskError: If the splits that are kept there are others: says which images came, went or changed; if the teacher
            is another.
    """
    path = Path(folder) / SPLITS_FILE
    content = _content(data, teacher)
    if path.exists():
        kept = _checked(path, content)
        content = {**({"teacher": kept["teacher"]} if "teacher" in kept else {}), **content}
        if set(content["skipped"]) <= set(kept.get("skipped", ())):
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1).encode())
    return path


def check_splits(data: TaskData, folder: str | Path, teacher: str = "") -> None:
    """Raise TaskError if splits or teacher kept in ``folder`` are not these (`save_splits`); writes nothing."""
    path = Path(folder) / SPLITS_FILE
    if path.exists():
        _checked(path, _content(data, teacher))


def _content(data: TaskData, teacher: str) -> dict[str, Any]:
    return {
        **({"teacher": teacher} if teacher else {}),
        "task": data.task.name,
        "task_digest": data.task.digest,
        "data_digest": data.digest,
        "classes": list(data.classes),
        "splits": {split: list(members) for split, members in data.members.items()},
        "skipped": list(data.skipped),
    }


def _checked(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """What the file says, if its splits are those of ``content``."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        splits = {split: list(members) for split, members in kept["splits"].items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise TaskError(f"{path} is damaged: {error}; remove it if the images have not changed") from error
    before, now = (
        [member for members in every.values() for member in members] for every in (splits, content["splits"])
    )
    if set(before) != set(now):  # one picture less draws all splits anew: it is to be named, not what they exchanged
        raise TaskError(f"{path}: {_what_changed('the images', before, now)}")
    for split, members in content["splits"].items():
        if splits.get(split) != members:
            raise TaskError(
                f"{path}: {_what_changed(f'the images of split {split!r}', splits.get(split, []), members)}"
            )
    if kept.get("data_digest") != content["data_digest"]:
        raise TaskError(
            f"{path}: the files are the same as when this run began, but the pixels of some, or the way they are "
            "drawn, have changed; give another folder for the run, or the images as they were"
        )
    if len({kept.get("teacher"), content.get("teacher")} - {None}) > 1:
        raise TaskError(
            f"{path}: the teacher has the same name as when this run began, but other weights or another input; give "
            "another folder for the run, or the teacher as it was"
        )
    return kept


def _what_changed(which: str, before: Sequence[object], now: Sequence[object]) -> str:
    gone, new = ([str(m) for m in one if m not in others] for one, others in ((before, set(now)), (now, set(before))))
    parts = [
        f"{len(part)} {word} ({', '.join(part[:3])}{', ...' if len(part) > 3 else ''})"
        for part, word in ((gone, "went"), (new, "came"))
        if part
    ]
    what = " and ".join(parts) or "the order is another"
    return (
        f"{which} are not those with which this run began: {what}; "
        "give another folder for the run, or the images as they were"
    )


def require_every_class(task: Task, labels: Labels, classes: tuple[str, ...]) -> None:
    if empty := [name for index, name in enumerate(classes) if not (labels == index).any()]:
        raise TaskError(
            f"{task.name}: no training image is left of class {', '.join(map(repr, empty[:5]))} once validation and "
            "test images are held out (and unreadable ones left out); add images or remove the class"
        )
