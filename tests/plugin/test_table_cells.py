"""Tables of cells and NASLib: its optimizers search the table's rows, its pickles are a benchmark. Needs NASLib."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest

from naslib_autokd.evaluators.foreign import Training, TrainingTable
from naslib_autokd.records import Trial
from naslib_autokd.runners.ablation import simulate
from naslib_autokd.runners.study import StudyMethod
from naslib_autokd.search_spaces.nasbench201 import EDGES, OPERATIONS
from naslib_autokd.search_spaces.table import RowCandidate, TableSpace

pytestmark = pytest.mark.skipif(not os.environ.get("NASLIB_HOME"), reason="needs NASLib (NASLIB_HOME)")


def error_of(cell: tuple[str, ...]) -> float:
    """The more convolutions the better; an idle output is at chance."""
    worth = {"nor_conv_3x3": 0.1, "nor_conv_1x1": 0.07, "skip_connect": 0.03}
    return 0.9 - sum(worth.get(operation, 0.0) for operation in cell)


@pytest.fixture(scope="module")
def table() -> TrainingTable:
    cells = itertools.product(OPERATIONS, repeat=len(EDGES))
    rows = [(RowCandidate.of(dict(zip(EDGES, cell, strict=True))), error_of(cell)) for cell in cells]
    trainings = tuple(Training(row, 200.0, error, error, 0.0) for row, error in rows)
    return TrainingTable("all-cells", trainings, {200: 200.0}, cells="nasbench201")


@pytest.mark.parametrize("name", ["naslib-bananas", "naslib-npenas", "naslib-local_search"])
def test_naslibs_optimizers_search_a_table_of_cells(name: str, table: TrainingTable) -> None:
    options = {} if name == "naslib-local_search" else {"predictor_type": "bayes_lin_reg", "num_candidates": 50}
    run = simulate(table, StudyMethod(name, name, options), 0, student_epochs=30 * 200)
    assert run.n_trials == 30
    assert run.test_error[-1] < run.test_error[0]
    again = simulate(table, StudyMethod(name, name, options), 0, student_epochs=30 * 200)
    assert again.candidate == run.candidate


def test_a_graph_of_a_table_holds_its_rows(table: TrainingTable) -> None:
    from naslib_autokd.plugin.optimizers import NASLibOptimizer, graph_of, with_candidate

    graph = graph_of(table.space)
    row = table.space.rows[4711]
    held = with_candidate(graph, row.to_dict())
    assert held.candidate == row
    assert held.clone().candidate == row
    on_edges = dict(row.architecture)
    naslibs = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")  # in the order of its indices
    assert [naslibs[i] for i in held.get_hash()] == [on_edges[e] for e in ("e01", "e02", "e03", "e12", "e13", "e23")]
    optimizer = NASLibOptimizer("regularized_evolution", table.space, max_budget_epochs=200)
    optimizer.tell(Trial(7, row.to_dict(), row.digest, 200, 0, cost=0.2))  # of a warm start
    assert optimizer.incumbent() == row


def test_tables_that_are_no_graph_say_why(table: TrainingTable) -> None:
    from naslib_autokd.plugin.optimizers import graph_of

    some = table.space.rows[:9]
    taught = [RowCandidate(row.architecture, (("method", "kd"),)) for row in some]
    for space, message in (
        (TableSpace("t", some), r"the table 't' has no NASLib graph: .*\(space: nasbench201\)"),
        (TableSpace("t", some, "nasbench201"), "it has 9 of 15625 cells"),
        (TableSpace("t", taught, "nasbench201"), "it has KD columns"),
    ):
        with pytest.raises(ValueError, match=message):
            graph_of(space)


def test_naslibs_pickles_are_a_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    from naslib_autokd.plugin import table_cells

    asked = []

    def load(space: str, dataset: str) -> dict[str, Any]:
        asked.append((space, dataset))
        cells = itertools.product(("none", "nor_conv_3x3"), repeat=6)
        data = {}
        for a, b, c, d, e, f in cells:
            end = 100 * (1 - error_of((a, b, c, d, e, f)))
            curve = [end * (epoch + 1) / 200 for epoch in range(200)]
            name = "cifar10-valid" if dataset == "cifar10" else dataset
            data[f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"] = {name: {"eval_acc1es": curve}}
        return {"nb201_data": data}

    monkeypatch.setattr(table_cells, "load_benchmark", load)
    for of_dataset, dataset in ((table_cells.cifar10, "cifar10"), (table_cells.cifar100, "cifar100")):
        made = of_dataset()
        assert asked.pop() == ("nasbench201", dataset)
        assert (made.name, made.budgets, len(made.space.rows)) == (f"nasbench201-{dataset}", (12, 25, 50, 100, 200), 64)
        assert made.best_candidate == RowCandidate.of(dict.fromkeys(EDGES, "nor_conv_3x3"))
        assert made.best_test_error == pytest.approx(0.3)
        run = simulate(made, "two-stage-random", 0, student_epochs=10 * 200)
        assert run.n_trials == 133 + 2


def test_without_the_pickle_the_file_that_naslib_looks_for_is_named() -> None:
    from naslib_autokd.plugin import table_cells
    from naslib_autokd.plugin.tabular import BenchmarkDataError

    with pytest.raises(BenchmarkDataError, match="the benchmark data of nasbench201 on ninapro is not there"):
        table_cells.ninapro()
