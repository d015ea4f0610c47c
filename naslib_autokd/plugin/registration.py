"""`register` makes NASLib know AutoKD, HNAG and the KD objective by name; `unregister` takes all of it back.

NASLib has no plugin mechanism: its factories are if-chains. So `register` puts functions of ours in their place that
answer for our names and hand every other name to NASLib's own. Line by line:

===========================================  ===========================================  ============================
What is replaced or added in NASLib          Why, and what it does for our names          For every other name
===========================================  ===========================================  ============================
``search_spaces.get_search_space``           if-chain over four families. Names in        NASLib's own function
                                             `SPACES`: an `HNAGSearchSpace` for the task
``search_spaces.supported_search_spaces``    dict that others read: our names are added   entries are as before
``search_spaces.dataset_n_classes``,         dicts: classes and channels of our tasks     entries are as before
``search_spaces.dataset_to_channels``
``search_spaces.HNAGSearchSpace``            attribute added, like NASLib's own spaces    -
``utils.get_dataset_api``                    if-chain. Names in `SPACES`: a               NASLib's own function
                                             `KDDatasetAPI` that trains on ``dataset``,
                                             or asks its benchmark instead
``utils.get_train_val_loaders``              if-chain over datasets. Our tasks (not       NASLib's own function
                                             cifar10 and cifar100, which NASLib has):
                                             `loaders.data_loaders`
``optimizers.AutoKD``                        attribute added, like NASLib's own           -
``optimizers.BasePredictor``,                one method of each cannot work, see          repaired for every space
``optimizers.Npenas``                        `plugin.optimizers.REPAIRS`
``defaults.trainer.Trainer.evaluate``        the test split is closed during a search: a  the same call, unchanged
                                             ``dataset_api`` that is a `KDDatasetAPI` is
                                             passed on as ``dataset_api.final()``
===========================================  ===========================================  ============================

A function is replaced in every loaded module of NASLib that holds it (``from naslib.utils import get_dataset_api`` in
``nasbench101.graph`` is one), and modules loaded later take the new one. No file of NASLib is touched.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.search_spaces import HNAG_PRESETS
from naslib_autokd.tasks import TASKS, Task, TaskError, did_you_mean, get_task

PRESETS = {name: None if name == "hnag" else name for name in HNAG_PRESETS}
SPACES: dict[str, tuple[str | None, str]] = {
    name + suffix: (preset, mode)
    for name, preset in PRESETS.items()
    for suffix, mode in (("", "family"), ("-individual", "individual"))
}
"""Name in NASLib -> (preset, mode). ``hnag`` takes the preset that the task prefers."""

_undo: list[Callable[[], None]] = []
"""What `unregister` does, last first; empty while nothing is registered."""


_answers: dict[str, bool] = {"benchmark": False}
"""Who answers the queries of a ``dataset_api``: trainings, or the dataset's benchmark."""


def register(*, benchmark: bool = False) -> None:
    """Make NASLib know our search spaces, tasks and optimizer. A second call changes ``benchmark`` alone.

    Args:
        benchmark: NASLib's ``get_dataset_api`` answers from the dataset's benchmark
            (`evaluators.benchmark.KDBenchmark`), in milliseconds, instead of training. A dataset without one is then
            an error (`BenchmarkError`).

    Raises:
        NASLibError: If there is no NASLib; says how to get it.
    """
    if not isinstance(benchmark, bool):
        raise ValueError(f"benchmark must be True or False, got {benchmark!r}")
    load_naslib()
    _answers["benchmark"] = benchmark
    if _undo:
        return
    try:
        _replace("naslib.search_spaces", "get_search_space", _get_search_space)
        _replace("naslib.utils.get_dataset_api", "get_dataset_api", _get_dataset_api)
        _replace("naslib.utils.dataset", "get_train_val_loaders", _get_train_val_loaders)
        spaces: Any = importlib.import_module("naslib.search_spaces")
        hnag: Any = importlib.import_module("naslib_autokd.plugin.hnag")
        _add(spaces.supported_search_spaces, dict.fromkeys(SPACES, hnag.HNAGSearchSpace))
        known = {name: task for name, task in TASKS.items() if task.n_classes}
        _add(spaces.dataset_n_classes, {name: task.n_classes for name, task in known.items()})
        _add(spaces.dataset_to_channels, {name: task.in_channels for name, task in known.items()})
        _add(vars(spaces), {"HNAGSearchSpace": hnag.HNAGSearchSpace})
        optimizers: Any = importlib.import_module("naslib_autokd.plugin.optimizers")
        _add(vars(importlib.import_module("naslib.optimizers")), {"AutoKD": optimizers.AutoKD})
        for owner, name, repaired in optimizers.REPAIRS:
            _set(owner, name, repaired)
        _open_test_split_in_evaluate()
    except BaseException:
        unregister()
        raise


def unregister() -> None:
    """Put NASLib back as it was. Does nothing if nothing is registered."""
    while _undo:
        _undo.pop()()
    _answers["benchmark"] = False


def _replace(module: str, name: str, make: Callable[[Any], Any]) -> None:
    """Put ``make(original)`` wherever a module of NASLib holds the function ``module.name``."""
    original = getattr(importlib.import_module(module), name)
    ours = functools.wraps(original)(make(original))
    _put(name, original, ours)
    _undo.append(lambda: _put(name, ours, original))


def _put(name: str, old: Any, new: Any) -> None:
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] == "naslib" and vars(module).get(name) is old:
            setattr(module, name, new)


def _add(table: dict[str, Any], entries: dict[str, Any]) -> None:
    new = {key: value for key, value in entries.items() if key not in table}
    table.update(new)

    def remove() -> None:
        for key in new:
            table.pop(key, None)

    _undo.append(remove)


def _get_search_space(original: Any) -> Any:
    def get_search_space(name: str, dataset: str) -> Any:
        if not _is_ours(name):
            return original(name, dataset)
        task = _task_of(dataset)
        preset, mode = _known(name)
        hnag: Any = importlib.import_module("naslib_autokd.plugin.hnag")
        space = hnag.HNAGSearchSpace(preset=preset or task.preset, mode=mode, task=task)
        space.space.check(task)
        return space

    return get_search_space


def _get_dataset_api(original: Any) -> Any:
    def get_dataset_api(search_space: Any = None, dataset: Any = None) -> Any:
        if not _is_ours(search_space):
            return original(search_space, dataset)
        _known(search_space)
        from naslib_autokd.plugin.evaluation import KDDatasetAPI

        task = _task_of(dataset)
        if _answers["benchmark"]:
            from naslib_autokd.evaluators.benchmark import KDBenchmark

            return KDDatasetAPI(KDBenchmark(task))
        return KDDatasetAPI(task=dataset)

    return get_dataset_api


def _get_train_val_loaders(original: Any) -> Any:
    def get_train_val_loaders(config: Any, mode: str = "train") -> Any:
        from naslib_autokd.plugin.loaders import data_loaders, is_task_of_ours

        return data_loaders(config, mode) if _undo and is_task_of_ours(config.dataset) else original(config, mode)

    return get_train_val_loaders


def _open_test_split_in_evaluate() -> None:
    from naslib.defaults.trainer import Trainer

    from naslib_autokd.plugin.evaluation import KDDatasetAPI

    original = Trainer.evaluate

    @functools.wraps(original)
    def evaluate(
        self: Any,
        retrain: bool = True,
        search_model: str = "",
        resume_from: str = "",
        best_arch: Any = None,
        dataset_api: Any = None,
        metric: Any = None,
    ) -> Any:
        if isinstance(dataset_api, KDDatasetAPI):
            dataset_api = dataset_api.final()
        return original(self, retrain, search_model, resume_from, best_arch, dataset_api, metric)

    _set(Trainer, "evaluate", evaluate)


def _set(owner: Any, name: str, value: Any) -> None:
    original = vars(owner)[name]
    setattr(owner, name, value)
    _undo.append(lambda: setattr(owner, name, original))


def _is_ours(name: Any) -> bool:
    # a function that was imported while it was ours is NASLib's own again after `unregister`
    return bool(_undo) and isinstance(name, str) and name.lower().startswith("hnag")


def _known(name: str) -> tuple[str | None, str]:
    if name.lower() not in SPACES:
        raise ValueError(f"unknown search space {name!r}{did_you_mean(name.lower(), SPACES)}")
    return SPACES[name.lower()]


def _task_of(dataset: Any) -> Task:
    """The task that a dataset's name means.

    Raises:
        TaskError: If there is none (with the nearest names).
    """
    if not isinstance(dataset, (str, Task)):
        raise TaskError(f"dataset must be the name of a task ({', '.join(TASKS)}) or a task file, got {dataset!r}")
    return get_task(dataset)
