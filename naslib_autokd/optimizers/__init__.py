"""Optimizers: each in one file. Importing this package imports neither smac nor torch."""

from naslib_autokd.optimizers.base import (
    ONE_SHOT_METHODS,
    OPTIMIZERS,
    OneShotMethod,
    OneShotResult,
    Optimizer,
    ReplayMismatch,
    SearchSpaceLike,
    get_one_shot_method,
    get_optimizer,
    replay,
)

__all__ = [
    "ONE_SHOT_METHODS",
    "OPTIMIZERS",
    "OneShotMethod",
    "OneShotResult",
    "Optimizer",
    "ReplayMismatch",
    "SearchSpaceLike",
    "get_one_shot_method",
    "get_optimizer",
    "replay",
]
