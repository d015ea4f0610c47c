"""The cell space of DARTS (Liu et al. 2019): genotypes as data, their networks, and the supernet.

`genotype` imports no torch; import `network.CellNetwork` and `supernet.Supernet` from their modules.
"""

from naslib_autokd.search_spaces.cell.genotype import (
    OPERATIONS,
    SMALL_OPERATIONS,
    CellSpec,
    Genotype,
    fit_width,
)
from naslib_autokd.search_spaces.hnag.wiring import ParameterBudgetError

__all__ = ["OPERATIONS", "SMALL_OPERATIONS", "CellSpec", "Genotype", "ParameterBudgetError", "fit_width"]
