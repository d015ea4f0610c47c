"""Answers proposals from NASLib's benchmark data instead of training, where that data is present."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from naslib_autokd.plugin.candidates import ArchitectureCandidate, ArchitectureSpace
from naslib_autokd.plugin.spaces import NASLibSpace
from naslib_autokd.plugin.students import DrawnArchitecture
from naslib_autokd.records import Proposal, Trial, derive_seed
from naslib_autokd.tasks import did_you_mean

DATASETS = {
    "nasbench101": ("cifar10",),
    "nasbench201": ("cifar10", "cifar100", "ImageNet16-120", "ninapro"),
    "nasbench301": ("cifar10",),
}
"""Data sets of NASLib's benchmarks, by space. The simple cell space has no benchmark."""


class BenchmarkDataError(ValueError):
    """NASLib's data of a benchmark is missing; the text says which file NASLib looks for."""


def load_benchmark(space: str, dataset: str) -> dict[str, Any]:
    """NASLib's ``get_dataset_api`` of a space.

    Raises:
        BenchmarkDataError: If the space has no benchmark on this data set, or a file or package of it is missing.
        NASLibError: If NASLib is missing.
    """
    check_benchmark(space, dataset)
    from naslib_autokd.plugin.loader import load_naslib

    load_naslib()
    from naslib.utils import get_dataset_api

    try:
        api: dict[str, Any] = get_dataset_api(space, dataset)
    except (AssertionError, OSError, ImportError) as error:
        raise BenchmarkDataError(
            f"the benchmark data of {space} on {dataset} is not there: {' '.join(str(error).split())}. Students can be "
            "trained with KD without it: evaluator=KDEvaluator(task)"
        ) from error
    return api


def check_benchmark(space: str, dataset: str) -> None:
    """Raise `BenchmarkDataError` if NASLib has no benchmark of this space on this data set."""
    if space not in DATASETS:
        raise BenchmarkDataError(f"there is no benchmark of the space {space!r}{did_you_mean(space, DATASETS)}")
    if dataset not in DATASETS[space]:
        raise BenchmarkDataError(
            f"there is no benchmark of {space} on {dataset!r}{did_you_mean(dataset, DATASETS[space])}"
        )


class TabularEvaluator:
    """Answers with the validation accuracy that NASLib's benchmark has for an architecture at a number of epochs.

    KD settings take no part (give the space ``search_kd=False``), nor does the task but for its budgets, which must be
    epochs that the benchmark has (`budgets`): 1 to 200 in NAS-Bench-201, 4, 12, 36 and 108 in NAS-Bench-101 (108 alone
    in the file that NASLib names) and 100 in NAS-Bench-301, whose surrogate knows the end only. A budget in between is
    refused, not rounded: ``get_task(..., min_budget_epochs=4, max_budget_epochs=108)`` gives Hyperband those rungs.

    NAS-Bench-101 holds three trainings of each cell and NAS-Bench-301 adds noise: the proposal's seed draws them, so
    that the same proposal has the same answer. Test accuracies are not read here (in NAS-Bench-201 and -301 NASLib's
    test accuracy is the validation accuracy).

    Args:
        dataset_api: What NASLib's ``get_dataset_api`` returned; None loads it (`load_benchmark`).
        space: Name of the space, or the space.
        dataset: One of `DATASETS`.

    Raises:
        BenchmarkDataError: If there is no such benchmark, its data is missing, or ``dataset_api`` is of another.
    """

    def __init__(
        self,
        dataset_api: dict[str, Any] | None = None,
        space: str | ArchitectureSpace = "nasbench201",
        dataset: str = "cifar10",
    ) -> None:
        name = space if isinstance(space, str) else space.name
        check_benchmark(name, dataset)
        self.dataset_api = load_benchmark(name, dataset) if dataset_api is None else dataset_api
        self.space, self.dataset = NASLibSpace(name, search_kd=False), dataset
        key = {"nasbench101": "nb101_data", "nasbench201": "nb201_data", "nasbench301": "nb301_model"}[name]
        if not isinstance(self.dataset_api, dict) or key not in self.dataset_api:
            raise BenchmarkDataError(
                f"dataset_api must be what NASLib's get_dataset_api({name!r}, {dataset!r}) returns, a dict with "
                f"{key!r}; got {_keys(self.dataset_api)}"
            )
        self.budgets: Collection[int] = self._budgets()
        """Epochs that the benchmark can answer for."""

    def _budgets(self) -> Collection[int]:
        if self.space.name == "nasbench101":
            return tuple(sorted(self.dataset_api["nb101_data"].valid_epochs))
        if self.space.name == "nasbench301":
            return (100,)
        name = nasbench201_name(self.dataset)
        some: dict[str, Any] = next(iter(self.dataset_api["nb201_data"].values()), {})
        if name not in some:
            raise BenchmarkDataError(f"dataset_api holds no results on {name}, only {', '.join(some) or 'nothing'}")
        return range(1, len(some[name]["eval_acc1es"]) + 1)

    def evaluate(self, proposal: Proposal) -> Trial:
        """Look the proposal up.

        Raises:
            ValueError: If the benchmark has no results at this budget, or not for this candidate.
        """
        budget, candidate = proposal.budget_epochs, proposal.candidate
        if not isinstance(candidate, ArchitectureCandidate) or candidate.space != self.space.name:
            raise ValueError(f"not a candidate of {self.space.name}: {candidate!r}")
        if budget not in self.budgets:
            raise ValueError(
                f"{self.space.name} has no results after {budget} epochs, only after {_epochs(self.budgets)}; set "
                "min_budget_epochs and max_budget_epochs of the task to these"
            )
        try:
            with _drawn_by(derive_seed(proposal.seed, "benchmark")):
                found = self._look_up(candidate, budget)
        except KeyError as error:
            raise ValueError(
                f"the benchmark data of {self.space.name} has no architecture {candidate.architecture} ({error})"
            ) from error
        accuracy = found.pop("val_accuracy")
        good = math.isfinite(accuracy)
        return Trial.of(
            proposal,
            status="success" if good else "diverged",
            message="" if good else f"the benchmark's validation accuracy is {accuracy}",
            student_epochs=float(budget),
            wiring=DrawnArchitecture(candidate.space, candidate.architecture).digest,
            **({"val_accuracy": accuracy, "cost": 1 - accuracy} if good else {}),
            **found,
        )

    def _look_up(self, candidate: ArchitectureCandidate, budget: int) -> dict[str, Any]:
        """Fields of the trial; accuracies as fractions, ``val_accuracy`` always."""
        from naslib_autokd.plugin.graphs import graph_class

        graph = graph_class(self.space.name)(self.space)
        graph.set_spec(candidate.architecture)
        info = {"benchmark": self.space.name, "dataset": self.dataset}
        if self.space.name == "nasbench101":  # NASLib's own query answers for 108 epochs, whatever is asked
            api = self.dataset_api["nb101_data"]
            row = api.query(self.dataset_api["api"].ModelSpec(**graph.spec), epochs=budget)
            return {
                "val_accuracy": float(row["validation_accuracy"]),
                "train_accuracy": float(row["train_accuracy"]),
                "n_params": int(row["trainable_parameters"]),
                "info": info | {"benchmark_train_s": float(row["training_time"])},
            }
        from naslib.search_spaces.core.query_metrics import Metric

        def query(metric: Any, epoch: int) -> float:
            return float(graph.query(metric, self.dataset, epoch=epoch, dataset_api=self.dataset_api))

        if self.space.name == "nasbench301":
            return {"val_accuracy": query(Metric.VAL_ACCURACY, -1) / 100, "info": info}
        return {
            "val_accuracy": query(Metric.VAL_ACCURACY, budget - 1) / 100,
            "train_accuracy": query(Metric.TRAIN_ACCURACY, budget - 1) / 100,
            "info": info,
        }


def nasbench201_name(dataset: str) -> str:
    """NASLib answers for CIFAR-10 from the training on half of it, as NAS-Bench-201 recommends for a search."""
    return "cifar10-valid" if dataset == "cifar10" else dataset


def _epochs(budgets: Collection[int]) -> str:
    if isinstance(budgets, range):
        return f"{budgets[0]} to {budgets[-1]}"
    return ", ".join(map(str, budgets))


def _keys(api: Any) -> str:
    return f"a dict with {', '.join(map(repr, api))}" if isinstance(api, dict) else repr(api)


@contextlib.contextmanager
def _drawn_by(seed: int) -> Iterator[None]:
    """Seed the global streams that the benchmarks draw from, and put them back after."""
    before, numpy_before = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)  # noqa: NPY002
