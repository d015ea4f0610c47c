"""Optuna's Gaussian-process sampler (``GPSampler``: Matern kernel, log expected improvement), full trainings only.

For comparison: everything but the sampler is as in `tpe`, an optional dependency: ``pip install
'naslib_autokd[optuna]'``. Inactive hyperparameters of conditional spaces are drawn independently by Optuna.
"""

from __future__ import annotations

from typing import Any

from naslib_autokd.optimizers.tpe import TPE
from naslib_autokd.records import derive_seed


class OptunaGP(TPE):
    """Optuna's ``GPSampler`` with its defaults, asked and told; arguments as `tpe.TPE`."""

    def _sampler(self, optuna: Any) -> Any:
        return optuna.samplers.GPSampler(seed=derive_seed(self.seed, "optuna-gp"), warn_independent_sampling=False)
