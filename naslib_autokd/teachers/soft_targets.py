"""A teacher's logits, computed once and read by every student."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import filelock
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from naslib_autokd.data.images import TaskData
from naslib_autokd.distillation.training import limited_threads
from naslib_autokd.files import cache_folder, write_whole
from naslib_autokd.records import content_digest
from naslib_autokd.teachers.teacher import Teacher


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's logits, computed once and read by every student."""

    train: Tensor
    """``(n_views, n_train, classes)``, float32."""
    val: Tensor
    """``(n_val, classes)``, float32."""

    @classmethod
    def of(cls, teacher: Teacher, data: TaskData) -> SoftTargets:
        views = data.train_views
        train = teacher.predict(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return cls(train.float().contiguous(), teacher.predict(data.val_images).float())

    @classmethod
    def cached(cls, teacher: Teacher, data: TaskData, *, threads: int = 1) -> SoftTargets:
        """As `of`, computed once on this machine and kept in `cache_folder` beside the teachers.

        The file's name depends on the teacher's weights, the images, and all that changes the rounding. What is read
        is checked against the teacher itself on one batch; a file that is damaged or wrong is computed again.
        """
        with limited_threads(threads):
            path = soft_targets_path(teacher, data, threads)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with filelock.FileLock(f"{path}.lock"):  # workers that start together: one computes, the others wait
                    found = cls._read(path, teacher, data)
                    if found is None:
                        found = cls.of(teacher, data)
                        tensors = {"train": found.train.cpu(), "val": found.val.cpu()}
                        write_whole(path, to_safetensors(tensors))
                    return found
            except OSError:  # no cache folder, or no room in it
                return cls.of(teacher, data)

    @classmethod
    def _read(cls, path: Path, teacher: Teacher, data: TaskData) -> SoftTargets | None:
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                train, val = (file.get_tensor(name).to(data.device) for name in ("train", "val"))
        except SafetensorError:
            return None
        n, views = len(data.val_images), data.train_views
        right = train.shape[:2] == views.shape[:2] and len(val) == n and bool(torch.isfinite(train).all())
        now = teacher.predict(data.val_images[:250]).float()
        right = right and val[:250].shape == now.shape and torch.allclose(val[:250], now, rtol=1e-3, atol=1e-3)
        return cls(train, val) if right else None


def soft_targets_path(teacher: Teacher, data: TaskData, threads: int) -> Path:
    """Where `SoftTargets.cached` keeps the logits of this teacher for these images."""
    content = hashlib.sha256(str(teacher.network).encode())
    for name, tensor in sorted(teacher.network.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    content.update(data.val_images.cpu().contiguous().numpy().tobytes())
    recipe = {
        "teacher_and_val": content.hexdigest(),
        "data": data.digest,
        "n_train": data.task.n_train,
        "moments": [teacher.mean, teacher.std],
        "rounding": [str(torch.__version__), data.device.type, threads],
    }
    return cache_folder() / "soft-targets" / f"{data.task.name}-{content_digest(recipe)}.safetensors"
