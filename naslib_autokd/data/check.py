"""What a folder of images holds, told before anything is trained on it."""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from naslib_autokd.data.decoding import Look, look_at, seconds_a_picture
from naslib_autokd.data.folders import TOLD, ImageFiles, decided, layout_of, split_files
from naslib_autokd.data.layout import BY_TOOLS, Layout, counted, pictures_below, some
from naslib_autokd.data.load import resolve
from naslib_autokd.data.unlabelled import others, too_few
from naslib_autokd.files import cache_folder
from naslib_autokd.tasks import Task, TaskError

FEW = 10
"""Images of a class, fewer of which are too few to learn from."""
UNEVEN = 3.0
"""Times as many images of the largest class as of the smallest, from which on it is said."""

UNKNOWN = -1
"""The label of unlabelled images."""

Splits = dict[str, ImageFiles]


def summary(task: Task) -> list[str]:
    """Lines on the folder of a task ``imagefolder``: classes, counts, splits, what is left out. Decodes nothing.

    What they say is not logged again when the folder is loaded.

    Raises:
        TaskError: As `layout.read_layout`, or if the task wants more images than there are.
    """
    layout = layout_of(task)
    splits = _splits(task, layout)
    counts = _counts(layout, splits)
    parts = ", ".join(f"{len(files.names):,} for {_PURPOSE[split]}" for split, files in splits.items())
    total = sum(map(sum, counts.values()))
    first = f"{layout.root}: {len(layout.classes)} classes, {counted(total, 'image')} ({parts}; {_drawn(layout)})"
    warnings = _uneven(counts) + _too_few(counts)
    left_out = [f"{layout.root}: {line}" for line in layout.lines_left_out()]
    TOLD.update(left_out)
    return [first, *left_out, *(f"{layout.root}: {line}" for line in (*layout.notes, *warnings))]


def check_folder(task: Task, report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Everything there is to know of the folder of a task ``imagefolder``; reads every file once. JSON values.

    ``problem`` is None if the images are ``usable``: then a search would read them.

    Args:
        report: Gets a line now and then.

    Raises:
        TaskError: As `layout.read_layout`, for tasks of another kind, or if the task wants more images than there are.
    """
    if task.dataset != "imagefolder":
        raise TaskError(f"only folders of images are looked at, and task {task.name!r} is read as {task.dataset}")
    resolve(task)
    layout = layout_of(task)
    splits = _splits(task, layout)
    pictures = [(split, name, int(label)) for split, files in splits.items() for name, label in _labelled(files)]
    n_labelled = len(pictures)
    pictures += [("unlabelled", name, UNKNOWN) for name in _unlabelled(task, layout, pictures)]
    looks = _look(layout.root, [name for _, name, _ in pictures], report)
    readable = {name: look for name, look in looks.items() if not look.problem}
    unreadable = [f"{name}: {look.problem}" for name, look in looks.items() if look.problem]
    if task.skip_unreadable:
        splits = {split: _readable(files, readable) for split, files in splits.items()}
        pictures = [picture for picture in pictures if picture[1] in readable]
        n_labelled = sum(len(files.names) for files in splits.values())
    counts = _counts(layout, splits)
    shorter = sorted(min(look.width, look.height) for look in readable.values())
    shapes = [max(look.width, look.height) / min(look.width, look.height) for look in readable.values()]
    estimate = _estimate(task, [layout.root / name for name in readable], len(pictures))
    problem = None
    if unreadable and not task.skip_unreadable:
        problem = (
            f"{len(unreadable):,} of {counted(len(looks), 'image')} cannot be read, such as {unreadable[0]}; mend or "
            "remove them, or set skip_unreadable: true in the task to leave such out"
        )
    elif untaught := [name for name, of in counts.items() if not of[0] and not task.n_teacher]:
        problem = f"no training image of class {some(untaught)} is left; add images or remove the class"
    elif task.unlabelled_dir is not None:
        problem = too_few(task, len(pictures) - n_labelled)
    return {
        "folder": str(layout.root),
        "n_classes": len(layout.classes),
        "n_images": n_labelled,
        "n_unlabelled": len(pictures) - n_labelled,
        "classes": {name: dict(zip(splits, of, strict=True)) for name, of in counts.items()},
        "splits": {split: len(files.names) for split, files in splits.items()},
        "splits_from": _drawn(layout),
        "shorter_side": [shorter[0], median(shorter), shorter[-1]] if shorter else None,
        "longest_shape": max(shapes, default=None),
        "formats": dict(Counter(look.format for look in readable.values()).most_common()),
        "left_out": {why: sorted(left) for why, left in layout.left_out.items()},
        "unreadable": unreadable,
        "duplicates": _duplicates(pictures, readable),
        "majority_share": max(map(sum, counts.values())) / max(1, n_labelled),
        **estimate,
        "notes": layout.notes,
        "warnings": _uneven(counts) + _too_few(counts) + _unfit(task, readable, estimate),
        "usable": problem is None,
        "problem": problem,
    }


def _look(root: Path, names: list[str], report: Callable[[str], None]) -> dict[str, Look]:
    looks: dict[str, Look] = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, look in zip(names, pool.map(look_at, [root / name for name in names]), strict=True):
            looks[name] = look
            if len(looks) % 5000 == 0:
                report(f"{len(looks):,} of {len(names):,} images looked at")
    return looks


def _unlabelled(task: Task, layout: Layout, pictures: list[tuple[str, str, int]]) -> list[str]:
    """Absolute paths of the files of ``unlabelled_dir``, but for those that have labels, and copies of them.

    Raises:
        TaskError: If the folder is not there.
    """
    if task.unlabelled_dir is None:
        return []
    root = Path(task.unlabelled_dir).expanduser()
    names = others(root, pictures_below(root)[0], [layout.root / picture[1] for picture in pictures])
    return [os.path.abspath(root / name) for name in names]


def _estimate(task: Task, paths: list[Path], n: int) -> dict[str, Any]:
    """What decoding ``n`` images, of which ``paths`` are readable, takes and needs, and what there is."""
    each = seconds_a_picture(paths, task.image_size, task.in_channels) if paths else 0.0
    return {
        "array_bytes": n * task.in_channels * task.image_size**2,
        "decode_seconds": each * n / (os.cpu_count() or 1),
        "disk_free_bytes": shutil.disk_usage(_existing(cache_folder())).free,
    }


def _be(n: int) -> str:
    return "is" if n == 1 else "are"


def _unfit(task: Task, readable: dict[str, Look], estimate: dict[str, Any]) -> list[str]:
    """Pictures that say less than they should, and too little room."""
    lines = []
    if small := sum(min(look.width, look.height) < task.image_size for look in readable.values()):
        be = _be(small)
        lines.append(
            f"{counted(small, 'image')} {be} smaller than the task's {task.image_size} pixels and {be} enlarged"
        )
    if guesses := [f"{name}: {look.guess}" for name, look in readable.items() if look.guess]:
        n = len(guesses)
        lines.append(f"{counted(n, 'image')} {_be(n)} 16-bit grey without a stated range, such as {guesses[0]}")
    size, free = estimate["array_bytes"], estimate["disk_free_bytes"]
    if size > free:
        lines.append(f"decoded they need {size / 1e9:.1f} GB, and {cache_folder()} has {free / 1e9:.1f} GB free")
    return lines


def lines_of(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What `check_folder` found, for people: names and texts."""
    sizes = {name: sum(of.values()) for name, of in found["classes"].items()}
    largest, smallest = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
    balance = "even" if sizes[largest] == sizes[smallest] else f"most of {largest}, fewest of {smallest}"
    splits = ", ".join(f"{n:,} for {_PURPOSE[split]}" for split, n in found["splits"].items())
    lines = [
        ("folder", f"{found['folder']}: {counted(found['n_images'], 'image')}"),
        ("classes", f"{found['n_classes']}: {some(f'{name} {n:,}' for name, n in sizes.items())}"),
        ("balance", f"{balance}: {found['majority_share']:.1%} in the largest class"),
        ("splits", f"{splits}; {found['splits_from']}"),
    ]
    if found["n_unlabelled"]:
        lines.append(("unlabelled", counted(found["n_unlabelled"], "image")))
    if found["shorter_side"] is not None:
        low, middle, high = found["shorter_side"]
        shape = f"up to {found['longest_shape']:.1f} times as long"
        lines.append(("sizes", f"shorter side {low} to {high} pixels, median {middle:g}; the longer {shape}"))
    lines.append(("formats", ", ".join(f"{name} {n:,}" for name, n in found["formats"].items()) or "none"))
    size, free = (f"{found[name] / 1e6:,.1f} MB" for name in ("array_bytes", "disk_free_bytes"))
    lines.append(("decoded", f"once, in about {found['decode_seconds']:,.0f} s, to {size} in the cache ({free} free)"))
    lines += [("note", text) for text in found["notes"]]
    lines += [
        ("left out", f"{len(names):,} ({why}): {some(names)}")
        for why, names in sorted(found["left_out"].items(), key=lambda item: item[0] == BY_TOOLS)
    ]
    if found["unreadable"]:
        lines.append(("unreadable", f"{len(found['unreadable']):,}: {some(found['unreadable'])}"))
    for kind, what in _DUPLICATES.items():
        if groups := found["duplicates"][kind]:
            exact = sum(group["same_file"] for group in groups)
            pairs = some((" = ".join(group["files"]) for group in groups), "; ")
            n = counted(len(groups), "image")
            lines.append(("duplicates", f"{n} {what} ({exact:,} as the same file): {pairs}"))
    return lines + [("warning", text) for text in found["warnings"]]


_PURPOSE = {"train": "training", "val": "validation", "test": "test"}
_DUPLICATES = {
    "between_splits": "in more than one split",
    "in_two_classes": "in more than one class",
    "within_a_split": "twice in one split",
}


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _splits(task: Task, layout: Layout) -> Splits:
    train, val, test = decided(task, *split_files(task, layout))
    return {"train": train, "val": val, "test": test}


def _drawn(layout: Layout) -> str:
    if "all" in layout.folders:
        return "validation and test are drawn, by class"
    own = ", ".join(f"{folder}/" for folder in layout.folders.values())
    return f"{own} of the folder" + ("" if "val" in layout.folders else ", validation drawn from training, by class")


def _readable(files: ImageFiles, readable: dict[str, Look]) -> ImageFiles:
    return files.part(np.asarray([index for index, name in enumerate(files.names) if name in readable], dtype=np.int64))


def _labelled(files: ImageFiles) -> list[tuple[str, int]]:
    return list(zip(files.names, files.labels, strict=True))


def _counts(layout: Layout, splits: Splits) -> dict[str, list[int]]:
    """Images of each class in each split."""
    numbers = {split: Counter(files.labels.tolist()) for split, files in splits.items()}
    return {name: [numbers[split][index] for split in splits] for index, name in enumerate(layout.classes)}


def _uneven(counts: dict[str, list[int]]) -> list[str]:
    sizes = sorted(map(sum, counts.values()))
    if sizes[-1] < UNEVEN * max(sizes[0], 1):
        return []
    return [
        f"uneven: the largest class has {sizes[-1] / max(sizes[0], 1):.1f} times the images of the smallest, and who "
        f"always answers with it is right on {sizes[-1] / sum(sizes):.1%}"
    ]


def _too_few(counts: dict[str, list[int]]) -> list[str]:
    lines = [
        f"no {purpose} image of {some(missing)}"
        for index, purpose in enumerate(_PURPOSE.values())
        if (missing := [name for name, of in counts.items() if not of[index]])
    ]
    few = [f"{name} ({of[0]})" for name, of in counts.items() if 0 < of[0] < FEW]
    return lines + ([f"fewer than {FEW} training images of {some(few)}"] if few else [])


def _duplicates(names: list[tuple[str, str, int]], looks: dict[str, Look]) -> dict[str, list[dict[str, Any]]]:
    """Groups of files with the same prepared pixels, by what is wrong with them."""
    groups: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for split, name, label in names:
        if name in looks:
            groups[looks[name].pixels].append((split, name, label))
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _DUPLICATES}
    for group in groups.values():
        if len(group) == 1:
            continue
        content = {looks[name].content for _, name, _ in group}
        one = {"files": [name for _, name, _ in group], "same_file": len(content) < len(group)}
        splits, classes = ({member[place] for member in group} - {UNKNOWN} for place in (0, 2))
        if len(splits) > 1:
            found["between_splits"].append(one)
        if len(classes) > 1:
            found["in_two_classes"].append(one)
        if len(splits) == 1 and len(classes) < 2:
            found["within_a_split"].append(one)
    return found
