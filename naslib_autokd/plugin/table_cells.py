"""Tables of cells (`search_spaces.table.TableSpace` with ``cells``) as NASLib graphs, and NASLib's own as tables.

A graph of a table is NASLib's, with the table's row as its candidate, so that NASLib's optimizers (BANANAS, NPENAS ...)
take part in studies of the table. `nasbench201` makes a benchmark of NASLib's pickles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from naslib_autokd.evaluators.foreign import Training, TrainingTable
from naslib_autokd.plugin.architectures import ARCHITECTURES, NASBENCH201_EDGES
from naslib_autokd.plugin.graphs import graph_class
from naslib_autokd.plugin.spaces import NASLibSpace
from naslib_autokd.plugin.tabular import DATASETS, load_benchmark, nasbench201_name
from naslib_autokd.search_spaces.nasbench201 import EDGES, N_CELLS, parse_cell
from naslib_autokd.search_spaces.table import RowCandidate, TableSpace

EPOCHS = (12, 25, 50, 100, 200)
"""Budgets of `nasbench201`: points of the learning curves, of which NASLib's pickles have all 200."""

_EDGE_NAMES = {f"e{i - 1}{j - 1}": f"edge_{i}_{j}" for i, j in NASBENCH201_EDGES}
"""Ours to NASLib's, whose nodes count from 1."""


def table_graph(space: TableSpace) -> Any:
    """A fresh NASLib graph whose candidates are the rows of ``space``.

    Raises:
        ValueError: If the table's architectures are no cells of a space of NASLib, it has KD columns, or cells are
            missing: NASLib's optimizers propose any cell, and nothing else.
    """
    problem = None
    if space.cells is None:
        problem = "its YAML file names no space of NASLib (space: nasbench201)"
    elif space.rows[0].kd:
        problem = "it has KD columns, which NASLib's optimizers do not search"
    elif len(space.rows) < N_CELLS:
        problem = f"it has {len(space.rows)} of {N_CELLS} cells, and NASLib's optimizers propose any of them"
    if problem is not None:
        raise ValueError(f"the table {space.name!r} has no NASLib graph: {problem}")
    graph = _table_graph_class(str(space.cells))(NASLibSpace(str(space.cells), search_kd=False))
    graph.table = space
    return graph


@cache
def _table_graph_class(cells: str) -> Any:
    upstream = graph_class(cells)
    architectures = ARCHITECTURES[cells]

    class TableGraph(upstream):  # type: ignore[misc, valid-type]
        table: TableSpace

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            twin = super().__deepcopy__(memo)
            twin.table = self.table
            return twin

        @property
        def candidate(self) -> RowCandidate:
            values = architectures.values(self.architecture)
            return self.table.candidate({ours: values[naslibs] for ours, naslibs in _EDGE_NAMES.items()})

        def set_spec(self, spec: Any, dataset_api: Any = None) -> None:
            """As NASLib's; a row of the table (its ``to_dict()``) is taken, too."""
            if isinstance(spec, Mapping) and isinstance(spec.get("architecture"), Mapping):
                row = self.table.values(RowCandidate.from_dict(spec))
                spec = architectures.architecture({naslibs: row[ours] for ours, naslibs in _EDGE_NAMES.items()})
            super().set_spec(spec, dataset_api)

    return TableGraph


def nasbench201(dataset: str = "cifar10") -> TrainingTable:
    """NAS-Bench-201 as a benchmark, from the pickles that NASLib names (``naslib/data``), at `EPOCHS`.

    The accuracy after 12 epochs is that of a training of 200 at its 12th. NASLib's pickles hold one accuracy of each
    epoch, so that the test error is the validation error.

    Args:
        dataset: "cifar10" (trained on half of its training images), "cifar100", "ImageNet16-120" or "ninapro".

    Raises:
        BenchmarkDataError: If there is no such data set, or its file is missing.
        NASLibError: If NASLib is missing.
    """
    data = load_benchmark("nasbench201", dataset)["nb201_data"]
    trainings = []
    for cell, results in data.items():
        candidate = RowCandidate.of(dict(zip(EDGES, parse_cell(cell), strict=True)))
        found = results[nasbench201_name(dataset)]
        for epochs in EPOCHS:
            error = 1.0 - found["eval_acc1es"][epochs - 1] / 100.0
            trainings.append(Training(candidate, float(epochs), error, error, seconds=0.0))
    budgets = {epochs: float(epochs) for epochs in EPOCHS}
    return TrainingTable(f"nasbench201-{dataset}", tuple(trainings), budgets, cells="nasbench201")


def _benchmark(dataset: str) -> Callable[[], TrainingTable]:
    return lambda: nasbench201(dataset)


cifar10, cifar100, imagenet16_120, ninapro = map(_benchmark, DATASETS["nasbench201"])
