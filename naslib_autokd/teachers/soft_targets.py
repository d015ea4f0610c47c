"""A teacher's logits, computed once and read by every student."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.training import limited_threads
from naslib_autokd.files import cache_place, file_name, locked, write_whole
from naslib_autokd.records import content_digest
from naslib_autokd.teachers.teacher import Teacher, predict_batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's logits, computed once and read by every student."""

    train: Tensor
    """``(n_views, n_train + n_unlabelled, classes)``, float32, of `TaskData.student_views`."""
    val: Tensor
    """``(n_val, classes)``, float32."""

    @classmethod
    def of(cls, teacher: Teacher, data: TaskData) -> SoftTargets:
        views = data.student_views
        batch_size = predict_batch(teacher.network, data.task.image_size)
        train = torch.cat([teacher(part) for part in views.batches(batch_size)]).unflatten(0, views.shape[:2])
        return cls(train.float().contiguous(), teacher.predict(data.val_images).float())

    @classmethod
    def cached(
        cls, teacher: Teacher, data: TaskData, *, threads: int = 1, report: Callable[[str], None] | None = None
    ) -> SoftTargets:
        """As `of`, computed once on this machine and kept in `cache_folder` beside the teachers.

        The file's name depends on the teacher's weights, the images, and all that changes the rounding. It states the
        digest of its content: a file that is damaged or not of this name is computed again, and ``report`` told; so is
        one that is not what the teacher answers, whose code may have changed with the weights as they were. What was
        just written is read back, so that the first use and later ones are the same tensors, mapped from the file.
        """
        with limited_threads(threads):
            path = soft_targets_path(teacher, data, threads)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with locked(path):  # workers that start together: one computes, the others wait
                    if path.exists():
                        try:
                            found = cls._read(path, data)
                            found._check_answers(teacher, data)
                            return found
                        except (SafetensorError, ValueError) as error:
                            (report or log.warning)(f"the cached soft targets {path} are computed again: {error}")
                    else:
                        (report or log.info)(f"computing the teacher's soft targets of {data.n_shown:,} images (once)")
                    made = cls.of(teacher, data)
                    tensors = {"train": made.train.cpu(), "val": made.val.cpu()}
                    write_whole(path, to_safetensors(tensors, {"for": path.stem, "content": _digest(tensors)}))
                    return cls._read(path, data)
            except OSError:  # no cache folder, or no room in it
                return cls.of(teacher, data)

    @classmethod
    def _read(cls, path: Path, data: TaskData) -> SoftTargets:
        """Raises ValueError, or safetensors' error, if the file is not what `cached` wrote under this name."""
        with safe_open(path, framework="pt") as file:
            stated = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if stated.get("for") != path.stem:
            raise ValueError(f"they were made for {stated.get('for', 'something that the file does not state')}")
        if stated.get("content") != _digest(tensors):
            raise ValueError("the content does not have the digest that the file states; it is damaged")
        return cls(tensors["train"].to(data.device), tensors["val"].to(data.device))

    def _check_answers(self, teacher: Teacher, data: TaskData) -> None:
        """Raises ValueError if the teacher answers some validation images otherwise now, beyond rounding."""
        known = self.val[:32]
        if float((teacher.predict(data.val_images[:32]) - known).abs().max()) > 0.01 * float(known.std(correction=0)):
            raise ValueError("the teacher answers otherwise now, with the same weights: its code has changed")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.numpy().data)
    return content.hexdigest()


def soft_targets_path(teacher: Teacher, data: TaskData, threads: int) -> Path:
    """Where `SoftTargets.cached` keeps the logits of this teacher for these images."""
    content = hashlib.sha256(str(teacher.network).encode())
    for name, tensor in sorted(teacher.network.state_dict().items()):
        content.update(f"{name} {tensor.stride()}".encode())  # the memory format decides on the kernels, which round
        content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    content.update(data.val_images.cpu().contiguous().numpy().tobytes())
    recipe: dict[str, Any] = {
        "teacher_and_val": content.hexdigest(),
        "data": data.digest,
        "n_train": data.n_shown,
        "moments": [teacher.mean, teacher.std],
        "rounding": [str(torch.__version__), data.device.type, threads],
    }
    if data.unlabelled_views is not None:
        recipe["unlabelled"] = [data.task.n_train, data.unlabelled_digest]
    return cache_place("soft-targets") / f"{file_name(data.task.name)}-{content_digest(recipe)}.safetensors"
