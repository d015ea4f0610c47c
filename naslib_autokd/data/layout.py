"""What lies in an image folder: its splits, classes and pictures, and what is left out and why.

Nothing is guessed in silence: a folder that could be read in two ways is refused with the reason.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from naslib_autokd.data.decoding import why_no_picture
from naslib_autokd.tasks import TaskError

SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
}
FLEXIBLE = ("eval", "evaluation")
"""Validation, or the test where another folder is validation."""
FILLERS = ("set", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos", "split", "seg", "folder")
"""Words beside the split's, as in ``seg_train``, ``TrainSet`` or ``val_images``."""
LEFT_BEHIND = (
    "__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "#recycle", "@recycle",
    "#snapshot", "system volume information", "lost+found", "__pycache__", "network trash folder", "temporary items",
)  # fmt: skip
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".tmp")
BY_TOOLS = "hidden, or left by systems and tools"
IN_NO_CLASS = "in no class folder"
NAMED = 5
"""Names that a message shows."""


@dataclass
class Layout:
    """An image folder; names are relative to ``root``, with slashes."""

    root: Path
    classes: tuple[str, ...] = ()
    files: dict[str, list[list[str]]] = field(default_factory=dict)
    """``train``, ``val`` and ``test``, or ``all`` if the folder has no splits -> the files of each class, sorted."""
    folders: dict[str, str] = field(default_factory=dict)
    """The same splits -> their folders."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Why -> files and folders that are not used."""
    notes: list[str] = field(default_factory=list)
    """How the folder was read, where that is not plain to see."""

    def leave_out(self, why: str, names: Iterable[str]) -> None:
        if names := list(names):
            self.left_out.setdefault(why, []).extend(names)

    def lines_left_out(self) -> list[str]:
        """A line for each reason, but for what no user has put there."""
        return [
            f"left out: {counted(len(names), 'file')} ({why}): {some(names)}"
            for why, names in self.left_out.items()
            if why != BY_TOOLS
        ]


def read_layout(root: Path) -> Layout:
    """Splits, classes and pictures of ``root``; reads names, and the content of files whose suffix says nothing.

    Raises:
        TaskError: If there are fewer than two classes, one is empty, the splits have different classes or lack the
            training or the test pictures, or it is not clear which folder is a split and which a class.
    """
    layout = Layout(root)
    top = _descend(layout)
    layout.leave_out(IN_NO_CLASS, top.pictures)
    splits = {f: role for f in top.folders.values() if (role := role_of(f.name)) and _has_classes(f)}
    if not splits:
        _refuse_hidden_splits(layout, top)
    chosen = _read_splits(layout, top, splits) if splits else {"all": top}
    layout.folders = {split: folder.path for split, folder in chosen.items()}
    _read_classes(layout, chosen)
    return layout


def pictures_below(root: Path) -> tuple[list[str], list[str]]:
    """Names of all pictures in a folder and below, sorted, and `Layout.lines_left_out`."""
    layout = Layout(root)
    return sorted(_Folder(layout, "").walk()), layout.lines_left_out()


def role_of(name: str) -> str | None:
    """``train``, ``val`` or ``test`` if a folder is named as people name these splits, in any case and spelling."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    known = {word: role for role, many in SPLIT_WORDS.items() for word in many}
    glued = {word + filler: role for word, role in known.items() for filler in FILLERS}
    roles = [role for word in words if (role := known.get(word) or glued.get(word))]
    rest = [word for word in words if word not in known and word not in glued and word not in FILLERS]
    return roles[0] if len(roles) == 1 and not rest else None


# --- one folder -----------------------------------------------------------------------------------------------------


class _Folder:
    """A folder below the root: what lies directly in it is listed when it is asked for."""

    def __init__(self, layout: Layout, path: str) -> None:
        self.layout, self.path, self.name = layout, path, path.rpartition("/")[2]
        self._listed: tuple[dict[str, _Folder], list[str]] | None = None

    def _list(self) -> tuple[dict[str, _Folder], list[str]]:
        if self._listed is None:
            folders: dict[str, _Folder] = {}
            pictures: list[str] = []
            for entry in sorted(os.scandir(self.layout.root / self.path), key=lambda entry: entry.name):
                name = f"{self.path}/{entry.name}" if self.path else entry.name
                if is_left_behind(entry.name):
                    self.layout.leave_out(BY_TOOLS, [name])
                elif entry.is_dir():
                    folders[entry.name] = _Folder(self.layout, name)
                elif not entry.is_file():
                    self.layout.leave_out("links to nothing" if entry.is_symlink() else "no files", [name])
                elif why := why_no_picture(entry.path):
                    self.layout.leave_out(why, [name])
                else:
                    pictures.append(name)
            self._listed = folders, pictures
        return self._listed

    @property
    def folders(self) -> dict[str, _Folder]:
        return self._list()[0]

    @property
    def pictures(self) -> list[str]:
        return self._list()[1]

    def walk(self, inside: tuple[str, ...] = ()) -> Iterator[str]:
        """All pictures in it and below; a link to a folder above it is not followed in circles."""
        real = os.path.realpath(self.layout.root / self.path)
        if real in inside:
            return
        yield from self.pictures
        for folder in self.folders.values():
            yield from folder.walk((*inside, real))


def _has_classes(folder: _Folder) -> bool:
    """Whether folders stand in it that may be classes; a few images beside them do not matter."""
    return len(folder.folders) > (1 if folder.pictures else 0)


def is_left_behind(name: str) -> bool:
    """Hidden, or one of the files and folders that operating systems, editors and browsers leave in folders."""
    low = name.lower()
    return name.startswith((".", "~$")) or low in LEFT_BEHIND or low.endswith(UNFINISHED)


def _descend(layout: Layout) -> _Folder:
    """The folder itself, or the only one in it, as archives often have it."""
    top = _Folder(layout, "")
    while len(top.folders) == 1 and not top.pictures:
        (only,) = top.folders.values()
        if role_of(only.name) or not only.folders or only.pictures:
            break
        top = only
        layout.notes.append(f"the images are taken from {only.path}/, the only folder in it")
    return top


# --- splits ---------------------------------------------------------------------------------------------------------


def _read_splits(layout: Layout, top: _Folder, splits: Mapping[_Folder, str]) -> dict[str, _Folder]:
    chosen: dict[str, _Folder] = {}
    where = layout.root / top.path
    for folder, role in sorted(splits.items(), key=lambda item: _words(item[0].name) & set(FLEXIBLE) != set()):
        if role in chosen and _words(folder.name) & set(FLEXIBLE) and "test" not in splits.values():
            role = "test"
        if role in chosen:
            raise TaskError(
                f"{where}: {chosen[role].name}/ and {folder.name}/ both look like the {role} split; keep one, or put "
                "their images together"
            )
        chosen[role] = folder
    found = ", ".join(f"{folder.name}/" for folder in splits)
    if "train" not in chosen:
        raise TaskError(
            f"{where} has {found} but no training images: name their folder train, or put the class folders directly "
            "into the folder, which is then split"
        )
    chosen = {role: _inner_split(folder) for role, folder in chosen.items()}
    if len(chosen) == 2 and "val" in chosen:  # as is usual with ImageNet: validation is taken from train
        chosen["test"] = chosen.pop("val")
        layout.notes.append(f"{chosen['test'].name}/ is the test split; validation images are taken from train")
    classes = set(chosen["train"].folders)
    for folder in top.folders.values():
        if folder in splits:
            continue
        if shared := sorted((set(folder.folders) | {folder.name}) & classes):
            raise TaskError(
                f"{where}: {found} look like splits, and {folder.name}/ beside them like "
                f"{'a class' if folder.name in classes else 'another'} ({some(shared)}); name it val or test, or "
                "move it away"
            )
        named = role_of(folder.name) is not None
        if named and folder.pictures and len(chosen) == 1:
            raise TaskError(f"{where}: {folder.name}/ has no class folders; put its images into one folder per class")
        why = "in no class folder, so nothing tells their class" if named else "in none of the splits"
        layout.leave_out(why, folder.walk())
    if "test" not in chosen:
        raise TaskError(
            f"{where} has {found} but neither val/ nor test/: nothing is held out for the final test; add test/, or "
            f"put the class folders of {chosen['train'].name}/ directly into the folder, which is then split"
        )
    for folder in chosen.values():
        layout.leave_out(IN_NO_CLASS, folder.pictures)
    return {role: chosen[role] for role in SPLIT_WORDS if role in chosen}


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.lower()))


def _inner_split(folder: _Folder) -> _Folder:
    """``seg_train/seg_train/`` is unpacked twice."""
    while len(folder.folders) == 1 and role_of(next(iter(folder.folders))):
        (folder,) = folder.folders.values()
    return folder


def _refuse_hidden_splits(layout: Layout, top: _Folder) -> None:
    """Of folders that seem to be classes: splits without class folders, below the classes, or of unknown names."""
    where = layout.root / top.path
    named = [folder for folder in top.folders.values() if role_of(folder.name)]
    if named and len(named) == len(top.folders):
        raise TaskError(
            f"{where}: {some(f'{f.name}/' for f in named)} are named as splits, but have no class folders; put the "
            "images of each into one folder per class"
        )
    if odd := [folder for folder in named if role_of(folder.name) != "train"]:
        raise TaskError(
            f"{where}: {odd[0].name}/ is named as a split, but has no class folders and stands beside folders that "
            "look like classes; move it away, or rename it if it is a class"
        )
    if named:
        layout.notes.append(f"{named[0].name}/ is taken as a class, since it stands beside other class folders")
    nested = [set(folder.folders) for folder in top.folders.values()]
    if below := sorted({name for names in nested for name in names if role_of(name)}):
        raise TaskError(
            f"{where}: class folders hold {some(f'{name}/' for name in below)}; splits must stand above the classes: "
            "train/CLASS/..., test/CLASS/..."
        )
    alike = len(nested) > 1 and len(nested[0]) > 1 and all(names == nested[0] for names in nested)
    years = alike and all(name.isdigit() for name in nested[0])
    if alike and not years and not any(folder.pictures for folder in top.folders.values()):
        raise TaskError(
            f"{where}: {some(f'{name}/' for name in top.folders)} all hold the folders {some(sorted(nested[0]))}: if "
            "those are the classes, name the folders above them train, val and test; if not, put the images of each "
            "class directly into its folder"
        )


LISTS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xml", ".parquet")
"""Suffixes of files that may say which image is of which class."""


# --- classes --------------------------------------------------------------------------------------------------------


def _read_classes(layout: Layout, chosen: Mapping[str, _Folder]) -> None:
    found: dict[str, list[str]] = {}
    deep: list[str] = []
    for split, folder in chosen.items():
        where = layout.root / folder.path
        found[split] = list(folder.folders)
        if len(found[split]) < 2:
            loose = f" (and {counted(len(folder.pictures), 'image')} in no folder)" if folder.pictures else ""
            lists = [name for names in layout.left_out.values() for name in names if Path(name).suffix in LISTS]
            hint = (
                f"; a list of labels ({some(lists)}) is not read: put each image into a folder named as its class, or "
            )
            hint += "give a torch dataset (data_from_dataset)"
            raise TaskError(
                f"{where} needs one subfolder of images per class, at least two; found {len(found[split])}{loose}"
                f"{hint if lists else ''}"
            )
        _refuse_the_same_twice(where, found[split])
        layout.files[split] = []
        for name, one in folder.folders.items():
            files = sorted(one.walk(), key=lambda file: file.split("/"))
            if not files:
                raise TaskError(
                    f"class folder {where / name} has no images{_instead(layout, one.path)}; add some, or remove the "
                    "folder"
                )
            layout.files[split].append(files)
            deep += list(one.folders)
    first, *others = found
    for other in others:
        if odd := sorted(set(found[other]) ^ set(found[first])):
            names = f"{layout.folders[first]}/ and {layout.folders[other]}/"
            alone = {split: [name for name in odd if name in found[split]] for split in (first, other)}
            lacking = "; ".join(f"{some(own)} in {layout.folders[split]}/ alone" for split, own in alone.items() if own)
            raise TaskError(f"{layout.root}: {names} have different classes: {lacking}{_only_case(odd)}")
    layout.classes = tuple(found[first])
    if deep:
        layout.notes.append(f"images in folders below a class folder count to the class ({some(sorted(set(deep)))})")


def _instead(layout: Layout, path: str) -> str:
    """What a class folder without pictures has."""
    parts = [
        f"{counted(len(inside), 'file')}, {why}"
        for why, names in layout.left_out.items()
        if (inside := [name for name in names if name.startswith(f"{path}/")])
    ]
    return f" (but {'; '.join(parts)})" if parts else ""


def _same_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


def _refuse_the_same_twice(where: Path, names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if other := seen.get(_same_name(name)):
            raise TaskError(
                f"{where}: the class folders {other!r} and {name!r} differ only in how they are written; put their "
                "images together, or rename one"
            )
        seen[_same_name(name)] = name


def _only_case(odd: list[str]) -> str:
    """Said of different classes of which some are the same but for capitals."""
    same = {_same_name(name) for name in odd}
    return "; they differ only in how they are written: rename one" if 2 * len(same) == len(odd) else ""


def counted(n: int, what: str) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def some(names: Iterable[str], between: str = ", ") -> str:
    """The first of them, as a line shows them, and how many there are."""
    names = list(names)
    shown = between.join(name if name.isprintable() else ascii(name)[1:-1] for name in names[:NAMED])
    return shown + (f"{between}... ({len(names):,} in all)" if len(names) > NAMED else "")
