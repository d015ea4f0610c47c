"""Students as they were after a lower budget, for the trials of their families that are promoted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from naslib_autokd.distillation.training import Checkpoint
from naslib_autokd.files import write_whole
from naslib_autokd.records import Proposal


@dataclass(frozen=True)
class KeptStudent:
    """A student that a trial left, and how it was made."""

    number: int
    """Of the trial."""
    student_seed: int
    """Draws its wiring and its first weights: the seed of the first trial of the chain."""
    checkpoint: Checkpoint

    @property
    def about(self) -> dict[str, int]:
        """For a trial's record."""
        return {"number": self.number, "budget_epochs": self.checkpoint.epochs, "student_seed": self.student_seed}


class CheckpointFolder:
    """Checkpoints of trials, one file each; several processes may use a folder at the same time.

    A file appears whole or not at all, and a trial that is run again writes the same file again.

    Args:
        folder: Made if it is missing.
        key: Of everything that a training depends on besides family, seed and budget. Files of another key are passed
            over.

    Raises:
        ValueError: If the folder cannot be written.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.folder, self.key = Path(folder), key
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"checkpoints cannot be kept in {folder}: {error.strerror or error}") from error

    def save(self, proposal: Proposal, student_seed: int, checkpoint: Checkpoint) -> None:
        """Keep what the trial of ``proposal`` came to."""
        tensors = {f"model.{name}": tensor.cpu() for name, tensor in checkpoint.model.items()}
        tensors |= {f"velocity.{index}": tensor.cpu() for index, tensor in enumerate(checkpoint.velocity)}
        about = {
            "student_seed": student_seed,
            "seed": checkpoint.seed,
            "epochs": checkpoint.epochs,
            "first_loss": checkpoint.first_loss,
        }
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        name = f"{self.key}-{proposal.candidate.digest}-{proposal.budget_epochs}-{proposal.number}.safetensors"
        write_whole(self.folder / name, to_safetensors(tensors, {"checkpoint": json.dumps(about)}))

    def best(self, candidate_digest: str, below: int) -> KeptStudent | None:
        """The family's student with the largest budget under ``below``; of several the one of the earliest trial.

        A file that is damaged is passed over.
        """
        found = []
        for path in self.folder.glob(f"{self.key}-{candidate_digest}-*.safetensors"):
            budget, _, trial = path.stem.removeprefix(f"{self.key}-{candidate_digest}-").partition("-")
            if int(budget) < below:
                found.append((-int(budget), int(trial), path))
        for _, number, path in sorted(found):
            try:
                with safe_open(path, framework="pt") as file:
                    about = json.loads(file.metadata()["checkpoint"])
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            except (SafetensorError, OSError):
                continue
            model = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
            velocity = tuple(tensors[f"velocity.{index}"] for index in range(len(tensors) - len(model)))
            checkpoint = Checkpoint(about["epochs"], about["seed"], model, velocity, about["first_loss"])
            return KeptStudent(number, about["student_seed"], checkpoint)
        return None
