"""A small third-party search space in both worlds: three numbers, as ours (ConfigSpace) and as NASLib's (a graph).

What a space must have for the suite in test_naslib_optimizers.py, and no more: copy it for your own. It needs torch
but not NASLib, whose discrete optimizers ask for these members alone (no ``Graph``).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from naslib_autokd.records import Proposal, Trial, content_digest

NAMES = ("x", "y", "z")


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    z: float

    @property
    def digest(self) -> str:
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {"x": self.x, "y": self.y, "z": self.z}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Point:
        return cls(**values)


class ToySpace:
    """The unit cube."""

    name = "toy"

    def configuration_space(self) -> Any:
        from ConfigSpace import ConfigurationSpace, Float

        space = ConfigurationSpace()
        space.add([Float(name, (0.0, 1.0)) for name in NAMES])
        return space

    def candidate(self, values: Mapping[str, Any]) -> Point:
        return Point(**{name: float(values[name]) for name in NAMES})

    def values(self, candidate: Point) -> dict[str, Any]:
        return candidate.to_dict()

    def graph(self) -> ToyGraph:
        return ToyGraph()


class ToyGraph(torch.nn.Module):
    """NASLib's side of it."""

    QUERYABLE = True
    OPTIMIZER_SCOPE = "all"
    space_name = "toy"
    instantiate_model = False
    space = ToySpace()

    def __init__(self) -> None:
        super().__init__()
        self.point: tuple[float, ...] | None = None

    @property
    def candidate(self) -> Point:
        assert self.point is not None
        return Point(*self.point)

    def clone(self) -> ToyGraph:
        clone = ToyGraph()
        clone.point = self.point
        return clone

    def sample_random_architecture(self, dataset_api: Any = None, load_labeled: bool = False) -> None:
        self.point = tuple(float(value) for value in np.random.random(3))  # noqa: NPY002 - as NASLib draws

    def mutate(self, parent: ToyGraph, dataset_api: Any = None) -> None:
        assert parent.point is not None
        point = list(parent.point)
        point[np.random.randint(3)] = float(np.random.random())  # noqa: NPY002
        self.point = tuple(point)

    def get_nbhd(self, dataset_api: Any = None) -> list[torch.nn.Module]:
        assert self.point is not None
        neighbours = []
        for index in range(3):
            for step in (-0.1, 0.1):
                neighbour = torch.nn.Module()
                neighbour.arch = self.clone()
                point = list(self.point)
                point[index] = min(max(point[index] + step, 0.0), 1.0)
                neighbour.arch.point = tuple(point)
                neighbours.append(neighbour)
        random.shuffle(neighbours)
        return neighbours

    def get_type(self) -> str:
        return "toy"

    def get_hash(self) -> tuple[float, ...]:
        assert self.point is not None
        return self.point

    def get_spec(self) -> dict[str, Any]:
        return self.candidate.to_dict()

    def set_spec(self, spec: Mapping[str, Any], dataset_api: Any = None) -> None:
        point = Point.from_dict(spec)
        self.point = (point.x, point.y, point.z)

    def encode(self, encoding_type: Any = None) -> list[float]:
        return list(self.get_hash())

    def query(
        self,
        metric: Any,
        dataset: str | None = None,
        path: str | None = None,
        epoch: int = -1,
        full_lc: bool = False,
        dataset_api: Any = None,
    ) -> float:
        answer: float = dataset_api.query(self, metric, dataset, epoch=epoch, full_lc=full_lc)
        return answer


def accuracy(point: Mapping[str, Any], budget: int = 9) -> float:
    """In percent, at most 92."""
    values = [point[name] for name in NAMES]
    error = 0.08 + 0.3 * sum((value - target) ** 2 for value, target in zip(values, (0.3, 0.7, 0.5), strict=True))
    return 100.0 * (1.0 - error - 0.2 / budget)


class ToyAPI:
    """A ``dataset_api`` that computes; counts what it was asked for."""

    def __init__(self, max_budget: int = 9) -> None:
        self.budget_epochs = max_budget
        self.evaluated: list[tuple[tuple[float, ...], int]] = []

    def __deepcopy__(self, memo: Any) -> ToyAPI:
        return self

    def query(self, arch: Any, metric: Any, dataset: Any = None, epoch: int = -1, full_lc: bool = False) -> float:
        budget = self.budget_epochs if epoch == -1 else epoch
        if metric.name == "VAL_ACCURACY":
            self.evaluated.append((arch.get_hash(), budget))
        return {"TEST_ACCURACY": -1.0, "TRAIN_TIME": 2.0 * budget}.get(metric.name, accuracy(arch.get_spec(), budget))


class ToyEvaluator:
    """The same for our runner."""

    def evaluate(self, proposal: Proposal) -> Trial:
        return answer(proposal)


def answer(proposal: Proposal, status: str = "success") -> Trial:
    value = accuracy(proposal.candidate.to_dict(), proposal.budget_epochs) / 100.0
    return Trial.of(
        proposal,
        status=status,
        cost=1.0 - value if status == "success" else 1.0,
        message="" if status == "success" else status,
        val_accuracy=value if status == "success" else None,
        student_epochs=float(proposal.budget_epochs),
    )
