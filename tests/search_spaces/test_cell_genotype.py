"""Genotypes and the width solver: plain data, counted without torch."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest

from naslib_autokd.search_spaces.cell import OPERATIONS, CellSpec, Genotype, ParameterBudgetError, fit_width

KEPT = tuple(operation for operation in OPERATIONS if operation != "none")
SIZES = {"in_channels": 1, "image_size": 12, "n_classes": 10}


def random_genotype(seed: int, n_nodes: int = 3, operations: tuple[str, ...] = KEPT) -> Genotype:
    rng = random.Random(seed)

    def cell() -> tuple[tuple[tuple[str, int], tuple[str, int]], ...]:
        nodes = []
        for node in range(n_nodes):
            first, second = sorted(rng.sample(range(node + 2), 2))
            nodes.append(((rng.choice(operations), first), (rng.choice(operations), second)))
        return tuple(nodes)

    return Genotype(cell(), cell())


# DARTS_V2 of the released code (cnn/genotypes.py): the cells that the paper reports.
DARTS_V2 = Genotype(
    normal=(
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 1), ("skip_connect", 0)),
        (("skip_connect", 0), ("dil_conv_3x3", 2)),
    ),
    reduction=(
        (("max_pool_3x3", 0), ("max_pool_3x3", 1)),
        (("skip_connect", 2), ("max_pool_3x3", 1)),
        (("max_pool_3x3", 0), ("skip_connect", 2)),
        (("skip_connect", 2), ("max_pool_3x3", 1)),
    ),
)


def test_parameters_of_the_published_network_are_those_the_paper_reports():
    # CIFAR-10: 20 cells, 36 channels, 3.3M parameters (paper, table 1); the auxiliary head does not count.
    spec = CellSpec(DARTS_V2, 20, 108, (36, 72, 144), 3, 32, 10)
    assert spec.n_params == pytest.approx(3.35e6, rel=0.01)


def test_round_trip_is_exact_and_the_digest_does_not_change():
    genotype = random_genotype(0)
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype
    spec = fit_width(genotype, 24_000, **SIZES)
    again = CellSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)
    # Printed by the first version: a change would orphan stored runs.
    assert DARTS_V2.digest == "872eb926b28e"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("growth", [0.7, 1.0, 2.0])
def test_width_is_the_largest_that_fits(seed, growth):
    genotype = random_genotype(seed)
    spec = fit_width(genotype, 24_000, channel_growth=growth, stem_multiplier=1.0, **SIZES)
    assert spec.n_params <= 24_000
    # Independent of the solver: no real width on a fine grid has more parameters and still fits.
    for step in range(1, 4000):
        width = step / 40
        stem, *channels = (max(1, int(width * ratio + 0.5)) for ratio in (1.0, 1.0, growth, growth**2))
        other = replace(spec, stem_channels=stem, channels=tuple(channels))
        if other.n_params > 24_000:
            break
        assert other.n_params <= spec.n_params
    else:
        pytest.fail("the grid ended below the budget")


def test_the_budget_is_used_to_95_percent():
    used = [
        fit_width(random_genotype(seed), 24_000, channel_growth=growth, stem_multiplier=1.0, **SIZES).n_params / 24_000
        for seed in range(60)
        for growth in (0.7, 1.0, 1.5, 2.0)
    ]
    # One channel of the last stage is the finest step, and can be more than 5% where that stage is 40 wide.
    assert min(used) > 0.93
    assert sum(share >= 0.95 for share in used) >= 0.95 * len(used)


def test_a_budget_that_is_too_small_names_the_smallest_network():
    genotype = random_genotype(0)
    with pytest.raises(ParameterBudgetError) as caught:
        fit_width(genotype, 500, min_channels=4, **SIZES)
    smallest = caught.value.smallest
    assert str(smallest) in str(caught.value)
    assert fit_width(genotype, smallest, min_channels=4, **SIZES).n_params == smallest


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"normal": ((("none", 0), ("skip_connect", 1)),)}, "not an operation"),
        ({"normal": ((("conv", 0), ("skip_connect", 1)),)}, "not an operation"),
        ({"normal": ((("skip_connect", 0), ("skip_connect", 2)),)}, "inputs 0 to 1"),
        ({"normal": ()}, "no nodes"),
        ({"normal": ((("skip_connect", 0), ("skip_connect", 1)),) * 2}, "same number of nodes"),
        ({"normal": ((("skip_connect", 0),),)}, "two edges"),
    ],
)
def test_bad_genotypes_are_refused(change, text):
    good = {"normal": ((("skip_connect", 0), ("skip_connect", 1)),)}
    with pytest.raises(ValueError, match=text):
        Genotype(**({"reduction": good["normal"]} | good | change))


def test_unknown_keys_and_sizes_are_refused():
    with pytest.raises(ValueError, match="normal and reduction"):
        Genotype.from_dict({"normal": [], "reduced": []})
    for change, text in (({"n_cells": 2}, "n_cells"), ({"image_size": 3}, "image_size")):
        with pytest.raises(ValueError, match=text):
            replace(CellSpec(DARTS_V2, 3, 4, (4, 4, 4), 1, 12, 10), **change)
    with pytest.raises(ValueError, match="channel_growth"):
        fit_width(DARTS_V2, 24_000, channel_growth=0.0, **SIZES)


def test_genotypes_need_no_torch():
    code = "import sys, naslib_autokd.search_spaces.cell; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
