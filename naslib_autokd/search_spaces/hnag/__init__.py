"""The HNAG space: families of hierarchical random graphs (NAGO, arXiv:2004.01395; AutoKD, arXiv:2111.03555).

``generator`` describes and samples families, ``wiring`` counts what was drawn and fits its width, ``parameters`` is the
space that an optimizer searches, ``screening`` counts candidates by the thousand; none of them imports torch.
``student`` builds the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from naslib_autokd.search_spaces.hnag.generator import ErdosRenyi, Generator, WattsStrogatz
from naslib_autokd.search_spaces.hnag.parameters import PRESETS, Candidate, HNAGSpace, KDSettings, Preset
from naslib_autokd.search_spaces.hnag.screening import Screened, screen
from naslib_autokd.search_spaces.hnag.wiring import ParameterBudgetError, StudentSpec, Wiring, fit_width

if TYPE_CHECKING:
    from naslib_autokd.search_spaces.hnag.student import Student

__all__ = [
    "PRESETS",
    "Candidate",
    "ErdosRenyi",
    "Generator",
    "HNAGSpace",
    "KDSettings",
    "ParameterBudgetError",
    "Preset",
    "Screened",
    "Student",
    "StudentSpec",
    "WattsStrogatz",
    "Wiring",
    "fit_width",
    "screen",
]


def __getattr__(name: str) -> Any:
    if name == "Student":  # imports torch
        from naslib_autokd.search_spaces.hnag.student import Student

        return Student
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
