"""Fixed augmented views of images: where each lies is drawn once, its pixels are cut out when a batch is used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from naslib_autokd.data.cache import content_of
from naslib_autokd.records import derive_seed
from naslib_autokd.tasks import Task

DRAWN_BYTES = 2**26
"""Views that take no more are cut out ahead: cutting is 13% of a step of a small student at 12 pixels, and less than a
thousandth at 32 and 224 (``benchmarks/pictures.py views``)."""
DIGESTED_BYTES = 2**30
"""Stores of more have a digest of their own already; that of all views would take minutes."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Views:
    """uint8 ``(n_views, n, channels, size, size)``, indexed as a tensor: ``views[view, index]`` is a batch.

    Only the images are held, or mapped, once; a view of them is two offsets and whether it is mirrored.
    """

    sources: tuple[npt.NDArray[np.uint8], ...]
    """Images ``(n_i, channels, size, size)``, one part after the other; nobody writes to them."""
    places: npt.NDArray[np.int16]
    """``(n_views, n, 3)``: row and column of the image at which the view begins (may lie before it), and
    whether it is mirrored."""
    zeros: bool = False
    """What lies around an image: zeros, else its border is repeated."""
    drawn: Tensor | None = None
    """All views, where they were cut out ahead."""
    device: torch.device = CPU
    """Of the batches."""

    @classmethod
    def given(cls, views: Tensor) -> Views:
        """Views that exist already, ``(n_views, n, channels, size, size)``."""
        return cls((), np.zeros((*views.shape[:2], 3), dtype=np.int16), drawn=views, device=views.device)

    @property
    def shape(self) -> tuple[int, ...]:
        image = self.sources[0].shape[1:] if self.drawn is None else self.drawn.shape[2:]
        return (*self.places.shape[:2], *image)

    @property
    def nbytes(self) -> int:
        """Of all views, were they cut out."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: Any) -> Any:
        """``[view, index]``: a batch of uint8 images (tensors or lists of equal length); ``[:, start:stop]``: views of
        some samples; ``[0]``: all images in this view."""
        if isinstance(key, int):
            if key == 0 and self.drawn is None and len(self.sources) == 1:
                return as_tensor(self.sources[0]).to(self.device)
            return self[[key] * self.shape[1], list(range(self.shape[1]))] if self.drawn is None else self.drawn[key]
        view, index = key
        if isinstance(index, slice):
            return self._part(index)
        if self.drawn is not None:
            return self.drawn[view, index]
        return self._cut(torch.as_tensor(view).tolist(), torch.as_tensor(index).tolist()).to(self.device)

    def _part(self, index: slice) -> Views:
        drawn = None if self.drawn is None else self.drawn[:, index]
        if len(self.sources) > 1:
            raise IndexError("views of several sources are not divided; divide those they were joined of")
        return replace(
            self, sources=tuple(one[index] for one in self.sources), places=self.places[:, index], drawn=drawn
        )

    def _cut(self, views: Sequence[int], indices: Sequence[int]) -> Tensor:
        """A loop of slices: at 32 pixels and more it takes a fifth of what torch's indexing or gathering takes."""
        size = self.shape[-1]
        out = np.zeros((len(indices), *self.shape[2:]), dtype=np.uint8)
        places = self.places[views, indices].tolist()
        for own, index, (top, left, mirrored) in zip(out, indices, places, strict=True):
            target = own[:, :, ::-1] if mirrored else own
            rows, columns = (slice(max(-start, 0), size - max(start, 0)) for start in (top, left))
            target[:, rows, columns] = self._image(index)[
                :, max(top, 0) : size + min(top, 0), max(left, 0) : size + min(left, 0)
            ]
            if not self.zeros:
                target[:, : rows.start], target[:, rows.stop :] = target[:, [rows.start]], target[:, [rows.stop - 1]]
                target[:, :, : columns.start] = target[:, :, [columns.start]]
                target[:, :, columns.stop :] = target[:, :, [columns.stop - 1]]
        return torch.from_numpy(out)

    def _image(self, index: int) -> npt.NDArray[np.uint8]:
        for source in self.sources:
            if index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(f"index {index} is out of range")

    def batches(self, size: int) -> Iterator[Tensor]:
        """All views of all samples, view by view, ``size`` at a time."""
        n_views, n = self.shape[:2]
        for start in range(0, n_views * n, size):
            flat = torch.arange(start, min(start + size, n_views * n))
            yield self[(flat // n).to(self.device), (flat % n).to(self.device)]

    def content(self) -> Iterator[bytes | memoryview]:
        """What tells these views from others: the pixels of all; of large stores their digests, and the places."""
        stores = [content_of(source) for source in self.sources if source.nbytes > DIGESTED_BYTES]
        if stores and None not in stores and len(stores) == len(self.sources):
            yield f"{stores} {self.zeros}".encode()
            yield self.places.tobytes()
        else:
            yield from (batch.cpu().contiguous().numpy().data for batch in self.batches(1024))

    def cut_ahead(self) -> Views:
        """The same views as one tensor."""
        if self.drawn is not None:
            return self
        drawn = torch.empty(self.shape, dtype=torch.uint8, device=self.device)
        flat, start = drawn.flatten(0, 1), 0
        for batch in self.batches(1024):
            flat[start : start + len(batch)] = batch
            start += len(batch)
        return replace(self, drawn=drawn)

    def to(self, device: torch.device) -> Views:
        """On a GPU with room for all of them, views are cut out ahead; else batches are sent there one by one."""
        if self.drawn is not None:
            return replace(self, drawn=self.drawn.to(device), device=device)
        there = replace(self, device=device)
        fits = device.type == "cuda" and self.nbytes < _free_bytes(device) // 2
        return there.cut_ahead() if fits else there

    def with_more(self, n_views: int, task: Task) -> Views:
        """The same images in so many views of the task, drawn as by `draw_views`: the first of them are its own."""
        (images,) = self.sources
        places = _draw_places(len(images), images.shape[-1], n_views, task, "views")
        return replace(self, places=places, drawn=None).to(self.device)

    def joined(self, other: Views) -> Views:
        """These samples and, after them, others."""
        places = np.concatenate([self.places, other.places], axis=1)
        if self.drawn is not None and other.drawn is not None:
            return Views.given(torch.cat([self.drawn, other.drawn], dim=1))
        return replace(self, sources=self.sources + other.sources, places=places, drawn=None)


def _free_bytes(device: torch.device) -> int:
    """Memory that this process may still take of a GPU: a worker's share may be less than what is free."""
    free, total = torch.cuda.mem_get_info(device)
    share = int(total * torch.cuda.get_per_process_memory_fraction(device.index))
    return min(free, share - torch.cuda.memory_reserved(device))


def draw_views(images: npt.NDArray[np.uint8], task: Task, purpose: str = "views") -> Views:
    """The task's views of images ``(n, channels, size, size)``; view 0 is the image itself, the others are drawn once
    per sample.

    ``shift``: moved by up to ``max_shift`` pixels in each direction (by at least one), the border is repeated.
    ``crop-flip``: cut out of the image with ``max_shift`` zeros around it, and mirrored with probability one half.
    """
    places = _draw_places(len(images), images.shape[-1], task.n_views, task, purpose)
    views = Views((images,), places, zeros=task.augmentation == "crop-flip")
    return views.cut_ahead() if views.nbytes <= DRAWN_BYTES else views


def _draw_places(n: int, size: int, n_views: int, task: Task, purpose: str) -> npt.NDArray[np.int16]:
    # RandomState's streams are frozen for good, those of numpy's newer Generator may change between versions.
    rng = np.random.RandomState(derive_seed(task.dataset, task.split_seed, purpose))
    margin = task.max_shift
    places, n_places = np.zeros((n_views, n, 3), dtype=np.int16), (2 * margin + 1) ** 2
    for view in places[1:]:
        place = rng.randint(1 if task.augmentation == "shift" else 0, n_places, size=n)  # 0 is the middle
        view[:, 0], view[:, 1] = np.divmod((place + n_places // 2) % n_places, 2 * margin + 1)
        view[:, :2] -= margin
        outside = size - (task.augmentation == "shift")  # as far as that, nothing more changes
        view[:, :2] = view[:, :2].clip(-outside, outside)
        if task.augmentation == "crop-flip":
            view[:, 2] = rng.uniform(size=n) < 0.5
    return places


def as_tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """The array's memory as a tensor, also of a file that is mapped for reading: nobody may write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(images)
