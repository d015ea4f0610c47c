"""A teacher's training after some epochs, on disk: what a killed one goes on from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from naslib_autokd.distillation.training import Checkpoint
from naslib_autokd.files import write_whole
from naslib_autokd.teachers.names import TeacherError


@dataclass
class Best:
    """The epoch that was best on the validation split so far (of equal ones the latest)."""

    val_accuracy: float = -1.0
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Unfinished:
    """Everything that the rest of a training depends on."""

    checkpoint: Checkpoint
    best: Best

    def write(self, path: Path, recipe: str) -> None:
        """Whole or not at all; ``recipe`` is the digest of what the training depends on."""
        now, best = self.checkpoint, self.best
        velocity = {str(index): tensor for index, tensor in enumerate(now.velocity)}
        groups = {"model": now.model, "best": best.weights, "velocity": velocity}
        tensors = {
            f"{group}/{name}": tensor.cpu().contiguous().clone()
            for group, named in groups.items()
            for name, tensor in named.items()
        }
        about = {
            "recipe": recipe,
            "epochs": now.epochs,
            "seed": now.seed,
            "first_loss": now.first_loss,
            "val_accuracy": best.val_accuracy,
            "epoch": best.epoch,
        }
        write_whole(path, to_safetensors(tensors, {"unfinished": json.dumps(about)}))

    @classmethod
    def read(cls, path: Path, recipe: str) -> Unfinished | None:
        """None if there is no file.

        Raises:
            TeacherError: If it is damaged, or of a training with other settings, data or versions.
        """
        if not path.exists():
            return None
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "velocity": {}}
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["unfinished"])
                names = list(file.keys())
                for key in names:
                    group, _, name = key.partition("/")
                    groups[group][name] = file.get_tensor(key)
            velocity = tuple(groups["velocity"][str(index)] for index in range(len(groups["velocity"])))
            best = Best(float(about["val_accuracy"]), int(about["epoch"]), groups["best"])
            start = Checkpoint(
                int(about["epochs"]), int(about["seed"]), groups["model"], velocity, float(about["first_loss"])
            )
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise TeacherError(
                f"the unfinished training in {path} is damaged ({error}); delete it to start anew"
            ) from error
        if about["recipe"] != recipe:
            raise TeacherError(
                f"{path} is an unfinished training with other settings, images or versions; continue it as it was "
                "begun, or delete it to start anew"
            )
        return cls(start, best)
