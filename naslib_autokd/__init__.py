"""AutoKD: search for families of students that learn well from a teacher, as a plugin of NASLib.

The public names are loaded when they are first used, so that ``import naslib_autokd`` needs neither torch nor smac.

Sources: AutoKD, Eyono et al. 2021, arXiv:2111.03555; the family search space (HNAG), Ru et al. 2020 (NAGO),
arXiv:2004.01395.
"""

from __future__ import annotations

import importlib
from typing import Any

from naslib_autokd._version import __version__

_HOMES = {
    "Candidate": "naslib_autokd.search_spaces.hnag",
    "Generator": "naslib_autokd.search_spaces.hnag",
    "HNAGSpace": "naslib_autokd.search_spaces.hnag",
    "KDSettings": "naslib_autokd.search_spaces.hnag",
    "StudentSpec": "naslib_autokd.search_spaces.hnag",
    "Wiring": "naslib_autokd.search_spaces.hnag",
    "fit_width": "naslib_autokd.search_spaces.hnag",
    "Student": "naslib_autokd.search_spaces.hnag.student",
    "KDEvaluator": "naslib_autokd.evaluators.kd",
    "Method": "naslib_autokd.runners.comparison",
    "compare": "naslib_autokd.runners.comparison",
    "Proposal": "naslib_autokd.records",
    "Trial": "naslib_autokd.records",
    "TrialStore": "naslib_autokd.records",
    "register": "naslib_autokd.plugin.registration",
    "unregister": "naslib_autokd.plugin.registration",
    "load_student": "naslib_autokd.shipping.student_file",
    "search": "naslib_autokd.runners.search",
    "train_family": "naslib_autokd.runners.finals",
    "Task": "naslib_autokd.tasks",
    "get_task": "naslib_autokd.tasks",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'naslib_autokd' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
