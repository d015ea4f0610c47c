"""A task fixes what every method of a comparison shares: data, splits, views, teacher, limits and budgets.

`Task` is frozen plain data without torch; `TASKS` holds the ones we ship, `get_task` finds them by name, and a YAML
file describes your own: any field left out is taken from the task of the same ``dataset``.

Examples:
    >>> get_task("cluttered-digits", n_train=1000).n_train
    1000
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from naslib_autokd.records import content_digest
from naslib_autokd.settings import did_you_mean as did_you_mean
from naslib_autokd.settings import read_yaml, read_yaml_file

AUGMENTATIONS = ("none", "shift", "crop-flip")


class TaskError(ValueError):
    """The task cannot be used: a wrong setting, a missing or empty data folder."""


@dataclass(frozen=True)
class Task:
    """Everything that is fixed before a search starts. Sizes count images; 0 means "all there are"."""

    name: str
    dataset: str
    """One of `TASKS`: which loader reads the images."""
    n_classes: int
    """0 for ``imagefolder`` until ``data.load.resolve`` has counted the folders."""
    in_channels: int
    image_size: int
    """Height and width in pixels."""
    max_params: int
    """Parameter budget of a student."""
    n_train: int
    """Images that students train on; the first of the teacher's."""
    n_teacher: int
    """Images that the teacher trains on."""
    n_val: int
    n_test: int
    min_channels: int = 4
    """Fewest channels of a stage: starved students train badly (2 to 3 channels: 38 to 68% on cluttered-digits)."""
    width_multiple: int = 1
    """Students of the HNAG space have multiples of so many channels in a stage, or fewer: 16 fits vector units, which
    take twice the time for 17 (`fit_width`; docs/performance.md). 1 allows all."""
    min_budget_epochs: int = 3
    max_budget_epochs: int = 9
    batch_size: int = 32
    stem: str = "auto"
    preset: str = "hnag-small"
    """Search space that the command line takes by default."""
    augmentation: str = "none"
    """How views are drawn: ``none``, ``shift`` (up to ``max_shift`` pixels) or ``crop-flip`` (also mirrored)."""
    max_shift: int = 1
    n_views: int = 1
    """Fixed views per training image; view 0 is the image itself. Soft targets are cached by (sample, view)."""
    split_seed: int = 0
    """Draws the splits, the canvases and the views: the same task always sees the same images."""
    teacher: str = "resnet-small"
    """Architecture of the teacher that is trained on first use; see ``teachers.names``."""
    teacher_epochs: int = 10
    min_teacher_accuracy: float = 0.0
    """Validation accuracy below which a teacher is refused; never less than twice chance."""
    data_dir: str | None = None
    """Folder of the images; the embedded tasks need none."""
    download: bool = False
    """Let torchvision fetch CIFAR into ``data_dir`` if it is not there."""
    skip_unreadable: bool = False
    """Leave out image files that cannot be read, counted and listed, instead of stopping at the first."""
    unlabelled_dir: str | None = None
    """Folder of pictures without labels, on which students learn from the teacher's answers alone."""
    n_unlabelled: int = 0
    """How many of them (0: all); without ``unlabelled_dir``, how many of the teacher's images beyond ``n_train``
    students see without their labels (0: none)."""

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            raise TaskError(f"unknown dataset {self.dataset!r}{did_you_mean(self.dataset, DATASETS)}")
        if self.augmentation not in AUGMENTATIONS:
            raise TaskError(
                f"unknown augmentation {self.augmentation!r}{did_you_mean(self.augmentation, AUGMENTATIONS)}"
            )
        if self.image_size < 4:
            raise TaskError(f"image_size must be at least 4 (three stages, each half as large), got {self.image_size}")
        if self.in_channels not in (1, 3):
            raise TaskError(f"in_channels must be 1 (grey) or 3 (colour), got {self.in_channels}")
        if not 1 <= self.min_budget_epochs <= self.max_budget_epochs:
            raise TaskError(
                "budgets must satisfy 1 <= min_budget_epochs <= max_budget_epochs, "
                f"got {self.min_budget_epochs} and {self.max_budget_epochs}"
            )
        for field, smallest in POSITIVE_FIELDS.items():
            if getattr(self, field) < smallest:
                raise TaskError(f"{field} must be at least {smallest}, got {getattr(self, field)}")
        for field, kind in _TYPES.items():
            largest = LARGEST.get(field, 10**12)
            if kind == "int" and abs(getattr(self, field)) > largest:
                raise TaskError(f"{field} must be at most {largest}, got {getattr(self, field)}")
        if not self.name.strip():
            raise TaskError("name must not be empty")
        if self.augmentation == "none" and self.n_views != 1:
            raise TaskError(f"augmentation 'none' has one view, got n_views={self.n_views}")
        if self.augmentation == "shift" and self.max_shift < 1:
            raise TaskError(f"augmentation 'shift' needs max_shift of at least 1, got {self.max_shift}")
        if self.n_teacher and self.n_train > self.n_teacher:
            raise TaskError(f"students see {self.n_train} of the teacher's {self.n_teacher} images; raise n_teacher")
        if self.unlabelled_dir is None and self.n_teacher and self.n_train + self.n_unlabelled > self.n_teacher:
            raise TaskError(
                f"n_unlabelled={self.n_unlabelled} of the teacher's images beyond n_train={self.n_train}, but it has "
                f"{self.n_teacher}; raise n_teacher, lower n_train or name a folder in unlabelled_dir"
            )
        if not 0 <= self.min_teacher_accuracy <= 1:
            raise TaskError(f"min_teacher_accuracy is a fraction in [0, 1], got {self.min_teacher_accuracy}")

    @property
    def digest(self) -> str:
        """Hash of everything that decides results; where the data lie and how they are fetched does not count."""
        values = {k: v for k, v in self.to_dict().items() if k not in ("data_dir", "download")}
        return content_digest(values | ({"unlabelled_dir": "given"} if self.unlabelled_dir else {}))

    def to_dict(self) -> dict[str, Any]:
        """All fields but those of `LATER_FIELDS` at their default: what older versions wrote stays the same task."""
        return {k: v for k, v in asdict(self).items() if k not in LATER_FIELDS or v != LATER_FIELDS[k]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Task:
        """Inverse of `to_dict`; fields left out come from the task of the same ``dataset``.

        Raises:
            TaskError: For an unknown key (names the nearest) or a value of the wrong type.
        """
        for key in values:
            if key not in _TYPES:
                raise TaskError(f"unknown key {key!r}{did_you_mean(key, _TYPES)}")
        base = values.get("dataset", values.get("name", ""))
        if base not in TASKS:
            raise TaskError(f"a task names its dataset, got {base!r}{did_you_mean(base, TASKS)}")
        return replace(TASKS[base], **{key: _typed(key, value) for key, value in values.items()})

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The task as YAML, also written to ``path`` if one is given."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_yaml(cls, source: str | Path) -> Task:
        """Read a task from YAML: a path, or the text itself if it has a newline.

        Raises:
            TaskError: For an unknown key (names the key, its line and the nearest key) or a wrong value.
        """
        if isinstance(source, str) and "\n" in source:
            document = read_yaml(source, "task", error=TaskError)
        else:
            document = read_yaml_file(source, error=TaskError, what="task file")
        where, values = document.where, document.values
        if not isinstance(values, dict):
            raise TaskError(f"{where}: a task is a mapping of keys to values, such as 'dataset: cluttered-digits'")
        for key, value in values.items():
            try:
                if key not in _TYPES:
                    raise TaskError(f"unknown key {key!r}{did_you_mean(key, _TYPES)}")
                _typed(key, value)
            except TaskError as error:
                raise TaskError(f"{document.place((str(key),))}: {error}") from error
        try:
            return cls.from_dict(values)
        except TaskError as error:
            raise TaskError(f"{where}: {error}") from error

    def dataset_folder(self) -> Path:
        """The folder that holds the files of ``mit67`` or ``flowers102`` (`FILES_OF`): ``data_dir`` or one in it.

        Raises:
            TaskError: If a file is missing; says which, where to get it and where to put it.
        """
        source, inner, files = FILES_OF[self.dataset]
        root = self.require_data_dir(f"{', '.join(files)} of {self.dataset} ({source})")
        folder = root / inner if (root / inner).is_dir() else root
        if absent := [name for name in files if not (folder / name).exists()]:
            raise TaskError(
                f"{self.dataset} not found: {folder} has no {', no '.join(absent)}. "
                f"Get {', '.join(files)} from {source} and put them into {folder}"
            )
        return folder

    def require_data_dir(self, content: str) -> Path:
        """``data_dir`` as an existing folder (it may be missing if the data are downloaded).

        Raises:
            TaskError: If it is not given or not there; ``content`` says what should be in it.
        """
        if self.data_dir is None:
            from_python = "; images that came from Python (data_from_dataset) are read there alone"
            raise TaskError(
                f"task {self.name!r} needs data_dir (--data-dir): the folder with {content}"
                f"{from_python if self.dataset == 'imagefolder' else ''}"
            )
        root = Path(self.data_dir).expanduser()
        if not root.is_dir() and not self.download:
            where = "" if root.is_absolute() else f" in {Path.cwd()}"
            raise TaskError(f"data_dir {root} does not exist{where}; it should be a folder with {content}")
        return root


POSITIVE_FIELDS = {
    "n_classes": 0,
    "max_params": 1,
    "n_train": 0,
    "n_teacher": 0,
    "n_val": 0,
    "n_test": 0,
    "n_unlabelled": 0,
    "min_channels": 1,
    "width_multiple": 1,
    "batch_size": 2,
    "max_shift": 0,
    "n_views": 1,
    "teacher_epochs": 1,
}
LARGEST = {"image_size": 2**20, "max_budget_epochs": 10**6, "teacher_epochs": 10**6, "batch_size": 2**20}
"""Beyond these a number is a mistake; whether the memory holds the images is told when they are loaded."""
CIFAR_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html (python version)"
CIFAR_FOLDERS = {"cifar10": ("cifar-10-batches-py", "data_batch_1"), "cifar100": ("cifar-100-python", "train")}
FILES_OF = {
    "mit67": (
        "http://web.mit.edu/torralba/www/indoor.html",
        "indoor",
        ("Images", "TrainImages.txt", "TestImages.txt"),
    ),
    "flowers102": (
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        "flowers-102",
        ("jpg", "imagelabels.mat", "setid.mat"),
    ),
}
"""Where large-image datasets are published, a folder inside ``data_dir`` that may hold them, and what must be there."""
DATASETS = ("cluttered-digits", "digits", "cifar10", "cifar100", "mit67", "flowers102", "imagefolder")
LATER_FIELDS = {"skip_unreadable": False, "width_multiple": 1, "unlabelled_dir": None, "n_unlabelled": 0}
"""Fields that tasks did not have from the start, with the value that means what was done before."""

_TYPES: dict[str, str] = {f.name: str(f.type) for f in fields(Task)}


def _typed(key: str, value: Any) -> Any:
    """``value`` if it has the type of the field ``key`` (an int passes as a float)."""
    expected = _TYPES[key]
    allowed: dict[str, tuple[Any, ...]] = {
        "str": (str,),
        "int": (int,),
        "bool": (bool,),
        "float": (int, float),
        "str | None": (str, type(None)),
    }
    if not isinstance(value, allowed[expected]) or (isinstance(value, bool) and expected != "bool"):
        raise TaskError(f"{key} must be {expected}, got {value!r}")
    return float(value) if expected == "float" else value


_CIFAR10 = Task(
    name="cifar10",
    dataset="cifar10",
    n_classes=10,
    in_channels=3,
    image_size=32,
    max_params=500_000,
    n_train=45_000,
    n_teacher=45_000,
    n_val=5_000,
    n_test=10_000,
    min_budget_epochs=10,
    max_budget_epochs=30,
    batch_size=64,
    preset="hnag-wide",
    augmentation="crop-flip",
    max_shift=4,
    n_views=4,
    teacher="resnet-medium",
    teacher_epochs=30,
    min_teacher_accuracy=0.8,
)

# Photographs at the size that published teachers take; students get the large stem (a quarter of the resolution).
_LARGE = replace(
    _CIFAR10,
    image_size=224,
    max_params=1_000_000,
    n_train=0,
    n_teacher=0,
    n_test=0,
    batch_size=32,
    max_shift=28,
    n_views=2,
    teacher="torchvision:resnet18@pretrained",
)

# Test accuracy: teacher 92.3% (8 CPU s), CNN of 24k parameters 83.7% alone and 87.3% with it (n=5).
_CLUTTERED_DIGITS = Task(
    name="cluttered-digits",
    dataset="cluttered-digits",
    n_classes=10,
    in_channels=1,
    image_size=12,
    max_params=24_000,
    n_train=1500,
    n_teacher=6000,
    n_val=3000,
    n_test=3000,
    augmentation="shift",
    n_views=2,
    teacher_epochs=6,
    min_teacher_accuracy=0.85,
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _CLUTTERED_DIGITS,
        replace(
            _CLUTTERED_DIGITS,
            name="cluttered-digits-12",
            preset="hnag-small-untuned",
            min_budget_epochs=4,
            max_budget_epochs=12,
        ),
        # 200 images: with all 900, students reach 98.7% without a teacher and KD gains 0.4 points.
        Task(
            name="digits",
            dataset="digits",
            n_classes=10,
            in_channels=1,
            image_size=8,
            max_params=24_000,
            n_train=200,
            n_teacher=900,
            n_val=300,
            n_test=597,
            min_budget_epochs=9,
            max_budget_epochs=27,
            augmentation="shift",
            n_views=4,
            min_teacher_accuracy=0.95,
        ),
        _CIFAR10,
        replace(_CIFAR10, name="cifar100", dataset="cifar100", n_classes=100, min_teacher_accuracy=0.5),
        # 67 rooms, 80 images of each for training and 20 for test by the official lists; 10 are held out here.
        replace(
            _LARGE,
            name="mit67",
            dataset="mit67",
            n_classes=67,
            n_val=670,
            min_teacher_accuracy=0.5,
        ),
        # The official splits: 10 images a class for training, 10 for validation, 6,149 for test.
        replace(
            _LARGE,
            name="flowers102",
            dataset="flowers102",
            n_classes=102,
            n_val=1020,
            n_views=4,
            max_budget_epochs=60,
            teacher_epochs=60,
            min_teacher_accuracy=0.7,
        ),
        replace(
            _CIFAR10,
            name="imagefolder",
            dataset="imagefolder",
            n_classes=0,
            n_train=0,
            n_teacher=0,
            n_val=0,
            n_test=0,
            batch_size=32,
            min_teacher_accuracy=0.0,
        ),
    )
}


def get_task(task: str | Task, **overrides: Any) -> Task:
    """A task by name, by path of a YAML file (``*.yaml``), or as it is; ``overrides`` replace single fields.

    Raises:
        TaskError: For an unknown name or field (names the nearest) or an illegal value.
    """
    if isinstance(task, str):
        if task.endswith((".yaml", ".yml")):
            if not Path(task).is_file():
                raise TaskError(f"task file {task} does not exist")
            task = Task.from_yaml(Path(task))
        elif task in TASKS:
            task = TASKS[task]
        else:
            raise TaskError(f"unknown task {task!r}{did_you_mean(task, TASKS)}")
    for key in overrides:
        if key not in _TYPES:
            raise TaskError(f"unknown field of a task {key!r}{did_you_mean(key, _TYPES)}")
    return replace(task, **{key: _typed(key, value) for key, value in overrides.items()})
