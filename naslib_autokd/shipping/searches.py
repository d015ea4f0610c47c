"""Searches as other tools open them: a storage of Optuna (its dashboard), the tables of DeepCAVE.

Both get every trial with its settings, budget and costs, failures too. Settings that are inactive in a family are left
out for Optuna, whose spaces are conditional, and have their default in DeepCAVE's tables, whose are not. Of a space
other than HNAG's families the ranges are those that were observed.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from naslib_autokd.files import file_name, write_whole
from naslib_autokd.records import Trial, TrialStore, objective_value
from naslib_autokd.runners.run_folder import BUDGETS, RUN, TRIALS, read_settings, read_task
from naslib_autokd.runners.searched import Hyperparameter, SearchedSettings, Values

JOURNAL = "optuna.journal"
DEEPCAVE_TABLES = ("configspace.csv", "trials.csv")

MEASURED = ("val_accuracy", "train_accuracy", "teacher_agreement", "n_params", "macs", "depth", "train_memory_bytes")
KEPT = ("number", "candidate_digest", "budget_epochs", "seed", "status", "message", *MEASURED, "student_epochs")
"""What of a trial is kept beside its settings and costs."""


@dataclass(frozen=True)
class Exportable:
    """A search that is exported."""

    name: str
    folder: Path
    trials: tuple[Trial, ...]
    settings: Mapping[str, Any]
    """Of ``run.yaml``."""
    searched: SearchedSettings

    @property
    def objectives(self) -> tuple[str, ...]:
        return tuple(self.settings.get("objectives") or ("error",))

    @property
    def full_epochs(self) -> int:
        """Of a full training: the largest budget."""
        return max((trial.budget_epochs for trial in self.trials), default=0)

    def costs(self, trial: Trial) -> list[float] | None:
        """By objective, all to be minimised; None of a failure, or where one was not measured."""
        known = [value for name in self.objectives if (value := objective_value(trial, name)) is not None]
        return known if trial.succeeded and len(known) == len(self.objectives) else None

    def rows(self) -> Iterator[tuple[Trial, Values, list[float] | None, tuple[float, float]]]:
        """Trials with their values, costs, and start and end in seconds: as if one had followed the other, for only
        durations are recorded."""
        end = 0.0
        for trial, values in zip(self.trials, self.searched.values, strict=True):
            start, end = end, end + trial.total_s
            yield trial, values, self.costs(trial), (start, end)


def export_runs(folders: Sequence[Path], tool: str, out: Path) -> list[Path]:
    """Write the searches in run folders for another tool into the folder ``out`` (made if missing).

    Args:
        folders: Of searches, or of comparisons, whose searches are exported one by one.
        tool: A name in `TOOLS`.

    Returns:
        What the tool opens: Optuna's storage, or of each search a folder of DeepCAVE.

    Raises:
        ValueError: Before any work, for a folder without trials, or another tool; if ``out`` is a file.
        ImportError: If the package optuna is needed and missing.
    """
    if tool not in TOOLS:
        raise ValueError(f"--export writes for {' or '.join(TOOLS)}, got {tool!r}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--export {tool} {out} is a file; give a folder")
    found = [search for folder in folders for search in searches_in(folder)]
    named = Counter(search.name for search in found)
    if twice := [name for name, n in named.items() if n > 1]:
        raise ValueError(f"two runs are called {twice[0]!r}; export them one by one")
    return TOOLS[tool](found, out)


def searches_in(folder: Path) -> list[Exportable]:
    """The searches with trials in a run folder.

    Raises:
        ValueError: If there is none.
    """
    own = folder.resolve().name
    places = {own: folder} if (folder / TRIALS).is_file() else {}
    jobs = sorted(folder.glob(f"*/seed-*/{TRIALS}"), key=lambda path: (path.parts[-3], int(path.parts[-2][5:])))
    places |= {f"{own}/{path.parts[-3]}/{path.parts[-2]}": path.parent for path in jobs}
    found = []
    for name, place in places.items():
        trials = tuple(TrialStore(place / TRIALS))
        if trials:
            settings = read_settings(place)
            found.append(Exportable(name, place, trials, settings, SearchedSettings.of(trials, settings.get("space"))))
    if not found:
        raise ValueError(
            f"{folder} has no trials to export; give the folder of a search, or of a comparison (a study keeps none)"
        )
    return found


# --- Optuna ---------------------------------------------------------------------------------------------------------


def write_optuna(searches: Sequence[Exportable], out: Path) -> list[Path]:
    """One storage with a study a search: ``optuna-dashboard optuna.journal``, or `optuna.load_study`.

    A full training is a complete trial, one at a lower budget a pruned one, as Optuna has it of Hyperband, and a
    failure a failed one. The error is an intermediate value, too, at the trial's epochs; not with several objectives.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    out.mkdir(parents=True, exist_ok=True)
    path = out / JOURNAL
    new = out / f"{JOURNAL}.tmp"
    new.unlink(missing_ok=True)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # names of metrics
            storage = JournalStorage(JournalFileBackend(str(new)))
            for search in searches:
                directions = ["minimize"] * len(search.objectives)
                study = optuna.create_study(storage=storage, study_name=search.name, directions=directions)
                study.set_metric_names(list(search.objectives))
                for name, value in _about(search).items():
                    study.set_user_attr(name, value)
                study.add_trials(_optuna_trials(search))
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
        optuna.logging.set_verbosity(verbosity)
    return [path]


def _about(search: Exportable) -> dict[str, Any]:
    task = read_task(search.folder)
    wanted = ("optimizer", "options", "seed", "evaluation", *BUDGETS)
    settings = {name: search.settings[name] for name in wanted if search.settings.get(name) is not None}
    return {"task": task.get("name", ""), **settings, "full_training_epochs": search.full_epochs}


def _optuna_trials(search: Exportable) -> list[Any]:
    from optuna.trial import TrialState, create_trial

    distributions = {each.name: _distribution(each) for each in search.searched.hyperparameters}
    begun = datetime.fromtimestamp(
        (search.folder / (RUN if (search.folder / RUN).exists() else TRIALS)).stat().st_mtime
    )
    found = []
    for trial, values, costs, (start, end) in search.rows():
        done = TrialState.COMPLETE if trial.budget_epochs >= search.full_epochs else TrialState.PRUNED
        one = len(search.objectives) == 1 and trial.succeeded
        made = create_trial(
            state=TrialState.FAIL if costs is None else done,
            values=costs if done == TrialState.COMPLETE else None,
            params={name: _within(value, distributions[name]) for name, value in values.items()},
            distributions={name: distributions[name] for name in values},
            user_attrs={name: value for name in KEPT if (value := getattr(trial, name)) is not None},
            intermediate_values={trial.budget_epochs: trial.cost} if one else None,
        )
        made.datetime_start, made.datetime_complete = (begun + timedelta(seconds=s) for s in (start, end))
        found.append(made)
    return found


def _distribution(own: Hyperparameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if own.choices:
        return CategoricalDistribution(own.choices)
    kind = IntDistribution if own.whole else FloatDistribution
    return kind(own.low, own.high, log=own.log)


def _within(value: Any, distribution: Any) -> Any:
    """Within the range, of which a quotient of recorded shares may miss the last digit; words as the range has them."""
    if hasattr(distribution, "choices"):
        return value if value in distribution.choices else str(value)
    return min(max(value, distribution.low), distribution.high)


# --- DeepCAVE -------------------------------------------------------------------------------------------------------

_STATUS = {"success": "SUCCESS", "timeout": "TIMEOUT", "out_of_memory": "MEMORYOUT", "refused": "NOT_EVALUATED"}
_FIXED = ("budget", "seed", "start_time", "end_time", "status")


def write_deepcave(searches: Sequence[Exportable], out: Path) -> list[Path]:
    """Of each search a folder with DeepCAVE's tables ``configspace.csv`` and ``trials.csv`` (its "DataFrame" run).

    ``seed`` counts the trainings of equal settings with an equal budget, for DeepCAVE keeps one of each.
    """
    folders = []
    for search in searches:
        folder = out / file_name(search.name.replace("/", "-"))
        folder.mkdir(parents=True, exist_ok=True)
        tables = (_space_table(search.searched.hyperparameters), _trial_table(search))
        for name, rows in zip(DEEPCAVE_TABLES, tables, strict=True):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            write_whole(folder / name, text.getvalue().encode())
        folders.append(folder)
    return folders


def _column(own: Hyperparameter) -> str:
    """Its name, or another where DeepCAVE has a column of that name."""
    taken = own.name in (*_FIXED, "config_id") or own.name.startswith("metric")
    return f"{own.name}_" if taken else own.name


def _label(own: Hyperparameter, value: Any) -> str:
    """A choice as a word: pandas, which reads the tables, would take ``2`` for a number and ``None`` for nothing."""
    text = str(value)
    try:
        float(text)
    except ValueError:
        if text.lower() not in ("", "none", "null", "n/a", "na", "<na>", "#n/a", "true", "false"):
            return text
    return f"{own.name}={text}"


def _cell(own: Hyperparameter, values: Mapping[str, Any]) -> Any:
    value = values.get(own.name, own.default)
    return _label(own, value) if own.choices else min(max(value, own.low), own.high)


def _space_table(hyperparameters: Sequence[Hyperparameter]) -> list[list[Any]]:
    n_items = max((len(each.choices) for each in hyperparameters), default=0)
    header = ["name", "type", "lower", "upper", "default", "log", "ordered", *(f"item_{k}" for k in range(n_items))]
    rows: list[list[Any]] = [header]
    for own in hyperparameters:
        kind = "categorical" if own.choices else "integer" if own.whole else "float"
        ends = [None, None] if own.choices else [own.low, own.high]
        # beside words the default of a whole number would be read as text, and refused
        default = "" if own.whole else _cell(own, {})
        items = [*(_label(own, choice) for choice in own.choices), *[""] * (n_items - len(own.choices))]
        rows.append([_column(own), kind, *ends, default, own.log, False, *items])
    return rows


def _trial_table(search: Exportable) -> list[list[Any]]:
    hyperparameters = search.searched.hyperparameters
    metrics = []
    for index, name in enumerate(search.objectives):
        costs = [found[index] for trial in search.trials if (found := search.costs(trial)) is not None]
        metrics.append(f"metric:{name} [0; {_decimal(1.0 if name == 'error' else max(costs, default=1.0))}] (minimize)")
    header = ["config_id", *map(_column, hyperparameters), *metrics, *_FIXED, *(f"trial_{name}" for name in KEPT)]
    rows: list[list[Any]] = [header]
    ids: dict[tuple[Any, ...], int] = {}
    repeats: Counter[tuple[int, int]] = Counter()
    for trial, values, found, times in search.rows():
        cells = [_cell(own, values) for own in hyperparameters]
        config = ids.setdefault(tuple(cells), len(ids))
        seed = repeats[config, trial.budget_epochs]
        repeats[config, trial.budget_epochs] += 1
        own_costs: Sequence[Any] = found or [""] * len(metrics)
        fixed = [trial.budget_epochs, seed, *(f"{second:.3f}" for second in times), _STATUS.get(trial.status, "FAILED")]
        rows.append([config, *cells, *own_costs, *fixed, *(getattr(trial, name) for name in KEPT)])
    return rows


def _decimal(value: float) -> str:
    """Without an exponent, which DeepCAVE does not read; rounded up."""
    return f"{value:.0f}" if value == int(value) else f"{value * (1 + 1e-9):.12f}"


TOOLS: dict[str, Callable[[Sequence[Exportable], Path], list[Path]]] = {
    "optuna": write_optuna,
    "deepcave": write_deepcave,
}
"""Tool -> what writes for it: (searches, folder) to the paths that the tool opens."""
