"""Cells of NAS-Bench-201: the benchmark's strings, and which are the same, against the numbers that they compute."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest

from naslib_autokd.search_spaces.nasbench201 import EDGES, N_CELLS, OPERATIONS, function_of, parse_cell

CELLS = list(itertools.product(OPERATIONS, repeat=len(EDGES)))


def outputs() -> np.ndarray:
    """What every cell makes of one input where equal operations have equal weights; ``(cells, 3)``.

    Convolutions are nonlinear and add a constant, as their batch norms do; pooling is linear.
    """
    rng = np.random.default_rng(0)
    weights = {name: (rng.normal(size=(3, 3)), rng.normal(size=3)) for name in ("nor_conv_1x1", "nor_conv_3x3")}
    pooling = rng.normal(size=(3, 3))
    x = np.broadcast_to(rng.normal(size=3), (len(CELLS), 3))
    chosen = {edge: np.array([cell[i] for cell in CELLS]) for i, edge in enumerate(EDGES)}

    def through(edge: str, source: np.ndarray) -> np.ndarray:
        on_edge, result = chosen[edge][:, None], np.zeros_like(source)
        result += np.where(on_edge == "skip_connect", source, 0.0)
        result += np.where(on_edge == "avg_pool_3x3", source @ pooling, 0.0)
        for name, (matrix, bias) in weights.items():
            result += np.where(on_edge == name, np.tanh(source @ matrix) + bias, 0.0)
        return result

    nodes = [x]
    for target in (1, 2, 3):
        nodes.append(sum(through(f"e{source}{target}", nodes[source]) for source in range(target)))  # type: ignore[arg-type]
    return nodes[3]


def test_cells_are_equal_where_they_compute_the_same() -> None:
    functions = [function_of(cell) for cell in CELLS]
    computed = np.round(outputs(), 9) + 0.0
    by_output = defaultdict(set)
    for function, values in zip(functions, computed, strict=True):
        by_output[tuple(values)].add(function)
    assert len(CELLS) == N_CELLS == 15_625
    assert all(len(found) == 1 for found in by_output.values()), "different functions computed the same"
    assert len(by_output) == len(set(functions)) == 5_269


def test_strings_are_the_benchmarks() -> None:
    cell = ("nor_conv_3x3", "none", "skip_connect", "avg_pool_3x3", "none", "nor_conv_1x1")
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
    assert parse_cell(text) == cell
    for wrong, message in (
        (text[1:], r"is written \|op~0\|\+"),
        (text.replace("none~1", "none~0"), "is written"),
        (text.replace("nor_conv_1x1", "nor_conv_1x2"), "unknown operation 'nor_conv_1x2'.*did you mean 'nor_conv_1x1'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_cell(wrong)
