"""NASLib's data loaders over the data of our tasks: what `naslib.utils.get_train_val_loaders` answers for them.

Batches are gathered from the task's images in memory and normalised as every training of ours sees them. Nothing
random here touches a global state (NASLib's own loaders reset numpy's seed when they are made).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from naslib_autokd.data.images import TaskData
from naslib_autokd.data.load import load_data
from naslib_autokd.records import derive_seed
from naslib_autokd.tasks import TASKS, Task, get_task

Batch = tuple[Tensor, Tensor]  # float32 (batch, channels, size, size), int64 (batch,)
Transform = Callable[[Tensor], Tensor]

NASLIB_DATASETS = ("cifar10", "cifar100")
"""Names of ours that NASLib has too: its own loaders answer for them, unless ours are asked for by a `TaskData`."""


def is_task_of_ours(name: object) -> bool:
    """Whether ``name`` is a task that NASLib does not know: one of `TASKS`, or a task file."""
    if not isinstance(name, str) or name in NASLIB_DATASETS:
        return False
    return name in TASKS or name.endswith((".yaml", ".yml"))


@lru_cache(maxsize=2)
def task_data(task: Task) -> TaskData:
    """The data of a task; the last two are kept, NASLib asks again for every loader."""
    return load_data(task)


class TrainImages(Dataset[Batch]):
    """Batches of the students' training images by their indices, each image in a view drawn for it."""

    def __init__(self, data: TaskData, seed: int) -> None:
        self.data = data
        self._rng = torch.Generator().manual_seed(seed)

    def __deepcopy__(self, memo: Any) -> TrainImages:
        """The images are shared (NASLib copies its loader for every architecture that it scores), the draws are not."""
        twin = TrainImages(self.data, 0)
        twin._rng.set_state(self._rng.get_state())
        return twin

    def __len__(self) -> int:
        return len(self.data.train_labels)

    def __getitem__(self, indices: list[int]) -> Batch:
        views = torch.randint(len(self.data.train_views), (len(indices),), generator=self._rng)
        return self.data.normalise(self.data.train_views[views, indices]), self.data.train_labels[indices]


class ValImages(Dataset[Batch]):
    """Batches of the validation split by their indices."""

    def __init__(self, data: TaskData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.val_labels)

    def __getitem__(self, indices: list[int]) -> Batch:
        return self.data.normalise(self.data.val_images[indices]), self.data.val_labels[indices]


class UnreadTestImages(Dataset[Batch]):
    """Batches of the test split by their indices; the split is read when the first of them is needed, or its length."""

    def __init__(self, data: TaskData) -> None:
        self.data = data
        self._split: Batch | None = None

    @property
    def split(self) -> Batch:
        if self._split is None:
            self._split = self.data.read_test()
        return self._split

    def __len__(self) -> int:
        return len(self.split[1])

    def __getitem__(self, indices: list[int]) -> Batch:
        images, labels = self.split
        return self.data.normalise(images[indices]), labels[indices]


def data_loaders(
    config: Any, mode: str = "train", data: TaskData | None = None
) -> tuple[DataLoader[Batch], DataLoader[Batch], DataLoader[Batch], Transform, Transform]:
    """Train, validation and test queue and two transforms, as NASLib's ``get_train_val_loaders`` answers.

    The validation queue is the task's validation split (``train_portion`` is not read: a task fixes its splits), both
    transforms are the task's normalisation of uint8 images. The batch size is ``config.batch_size``, else that of
    ``config.search`` (mode ``train``) or ``config.evaluation``, else the task's. The test queue reads the test split
    when it is first used, not before.

    Args:
        config: NASLib's configuration: ``dataset`` and ``search.seed`` are needed.
        data: The task's data; read by ``config.dataset`` if None.
    """
    if data is None:
        data = task_data(get_task(config.dataset))
    name = "search" if mode == "train" else "evaluation"
    part = getattr(config, name, None)
    batch_size = getattr(config, "batch_size", None) or getattr(part, "batch_size", None) or data.task.batch_size
    seed = config.search.seed

    def queue(dataset: Dataset[Batch], word: str, ordered: bool = False) -> DataLoader[Batch]:
        # its own generator: a loader without one draws from torch's global state whenever it is iterated
        rng = torch.Generator().manual_seed(derive_seed(seed, "loader", word))
        order = SequentialSampler(dataset) if ordered else RandomSampler(dataset, generator=rng)  # type: ignore[arg-type]
        batches = BatchSampler(order, batch_size, drop_last=word == "train" and len(data.train_labels) >= batch_size)
        return DataLoader(dataset, batch_size=None, sampler=batches, generator=rng)

    train = queue(TrainImages(data, derive_seed(seed, "loader", "views")), "train")
    return (
        train,
        queue(ValImages(data), "val"),
        queue(UnreadTestImages(data), "test", True),
        data.normalise,
        data.normalise,
    )
