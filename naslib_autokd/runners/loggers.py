"""Where the scalars of a search go besides its run folder: TensorBoard, MLflow, Weights & Biases, or one's own logger.

A logger is made with the run folder and the settings of the run, and has two methods (`Logger`). A continued run goes
on in the same MLflow or Weights & Biases run. Nothing of a logger is needed to continue a run, so one that fails is
reported once and left out.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from naslib_autokd.evaluators.results import FinalResult
from naslib_autokd.imports import imported
from naslib_autokd.runners.results import SearchProgress
from naslib_autokd.runners.run_folder import log
from naslib_autokd.settings import did_you_mean


@runtime_checkable
class Logger(Protocol):
    """Takes the scalars of one run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """After trial number ``step`` (from 1; refused families do not count), and once more at the end."""

    def finish(self) -> None:
        """The run has ended or was interrupted."""


MakeLogger = Callable[[Path, Mapping[str, Any]], Logger]
"""Makes a logger of the run folder and the settings of the run (nested dictionaries of plain values)."""


class TensorBoard:
    """Scalars in ``RUN/tensorboard``."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


class MLflow:
    """A run of MLflow where ``MLFLOW_TRACKING_URI`` says, in ``MLFLOW_EXPERIMENT_NAME`` (default: naslib_autokd)."""

    TAG = "naslib_autokd.run"

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import mlflow

        place = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "naslib_autokd"))
        self._client = mlflow.MlflowClient()
        tag = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()  # a path may hold quotes
        found = self._client.search_runs([place.experiment_id], f"tags.`{self.TAG}` = '{tag}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {self.TAG: tag}
        self._run = self._client.create_run(place.experiment_id, tags=tags, run_name=folder.name).info.run_id
        for name, value in flat(settings).items():
            self._client.log_param(self._run, name, value)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def finish(self) -> None:
        self._client.set_terminated(self._run)


class WandB:
    """A run of Weights & Biases in ``RUN/wandb``; its own environment variables say the project, and ``WANDB_MODE``
    whether anything is sent."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(id=name, resume="allow", name=folder.name, dir=str(folder), config=dict(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        self._run.finish()


LOGGERS: dict[str, MakeLogger] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


def get_logger(name: str) -> MakeLogger:
    """A logger by name, or one of one's own as ``module:attribute`` (anything that makes a `Logger`).

    Raises:
        ValueError: If there is no such logger.
        ImportError: If the user's module cannot be imported.
    """
    if ":" in name:
        make: MakeLogger = imported(name)
        return make
    if name not in LOGGERS:
        raise ValueError(f"no logger {name!r}{did_you_mean(name, LOGGERS)}; your own is MODULE:CLASS")
    return LOGGERS[name]


def logger_names(text: str) -> list[str]:
    """The loggers in a list with commas between, each of which exists.

    Raises:
        ValueError: If there is no such logger, or one is named twice.
        ImportError: If the user's module cannot be imported.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        get_logger(name)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"logger {twice[0]} is named twice; name each once")
    return names


class RunLoggers:
    """The loggers of one search: ``with RunLoggers(names, folder, settings) as log: search(..., progress=log)``.

    Raises:
        ValueError: If there is no such logger, or what makes one's own gives something else.
        ImportError: If the package of one is not installed.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        self._loggers: dict[str, Logger] = {}
        for name in names:
            try:
                logger = get_logger(name)(folder, settings)
            except ImportError as error:
                missing = f"pip install {name}" if name in LOGGERS else "is it in the working directory?"
                raise ImportError(f"logger {name}: {error} ({missing})") from error
            except TypeError as error:
                if name in LOGGERS:
                    raise
                raise ValueError(
                    f"logger {name} has to be called with a folder and settings, which gave: {error}"
                ) from error
            if not isinstance(logger, Logger):
                raise ValueError(
                    f"logger {name}: expected an object with log(values, step) and finish(), got {logger!r}"
                )
            self._loggers[name] = logger

    def __enter__(self) -> RunLoggers:
        return self

    def __exit__(self, *_: object) -> None:
        self._each(lambda logger: logger.finish())

    def __call__(self, state: SearchProgress) -> None:
        self.log(
            {
                "trial/val_accuracy": state.trial.val_accuracy,
                "trial/budget_epochs": state.trial.budget_epochs,
                "trial/seconds": state.trial.total_s,
                "search/best_val_accuracy": state.best_val_accuracy,
                "search/student_epochs": state.student_epochs,
                "search/failures": state.n_failures,
                "search/refused": state.n_refused,
            },
            state.n_trials,
        )

    def kept(self, student: FinalResult, n_trials: int) -> None:
        """The final student that is kept."""
        found = {
            "val_accuracy": student.val_accuracy,
            "test_accuracy": student.test_accuracy,
            "test_agreement": student.test_agreement,
            "n_params": student.n_params,
            "macs": student.macs,
        }
        self.log({f"kept/{name}": value for name, value in found.items()}, n_trials)

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Those values that are known and finite."""
        known = {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
        self._each(lambda logger: logger.log(known, step))

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                do(logger)
            except Exception as error:
                log.warning("logger %s is left out from here on: %s: %s", name, type(error).__name__, error)
                del self._loggers[name]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dots in their names.

    Examples:
        >>> flat({"seed": 0, "budget": {"n_trials": 24}})
        {'seed': 0, 'budget.n_trials': 24}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
