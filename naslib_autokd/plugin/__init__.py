"""The plugin of NASLib (automl/NASLib): the only place that imports it.

Needs NASLib's source (``NASLIB_HOME``) and ``pip install -e ".[naslib]"``; without them every name here raises one
error that says so (`loader.NASLibError`), and the rest of naslib_autokd works. The names are loaded when they are
first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "ArchitectureCandidate": "spaces",
    "AskTellOptimizer": "optimizers",
    "AutoKD": "optimizers",
    "BasePredictor": "optimizers",
    "FinalAPI": "evaluation",
    "HNAGSearchSpace": "hnag",
    "KDDatasetAPI": "evaluation",
    "KDTrainer": "trainer",
    "NASLibError": "loader",
    "NASLibOneShot": "one_shot",
    "NASLibOptimizer": "optimizers",
    "NASLibSpace": "spaces",
    "load_naslib": "loader",
    "register": "registration",
    "task_from_custom_dataset": "custom_data",
    "unregister": "registration",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'naslib_autokd.plugin' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"naslib_autokd.plugin.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
