"""Runs a search from a configuration in NASLib's format: its optimizers and spaces, and ours, on our tasks.

    python -m naslib_autokd.plugin.runner --config-file hnag-autokd.yaml [KEY VALUE ...]

Any optimizer runs in `KDTrainer`, NASLib's Trainer with a record: a run that was killed is continued by the same
command, and nothing that was trained is trained again. A one-shot search is one training: killed in its supernet it
begins again, killed later its finals go on. The folder ``out_dir/search_space/dataset/optimizer/seed`` holds NASLib's
files (``errors.json``, ``log.log``, ``search/``), ``config.yaml`` and ``result.json``, and where students are trained
``task.yaml``, ``run.yaml``, ``trials.jsonl`` (of one-shot methods ``search.json``), ``finals.jsonl`` and ``students/``.
A file name without a folder that does not exist here is looked for among the configurations that
come with the package (``--list`` names them).

Search spaces: ``hnag``, ``hnag-wide``, ``hnag-small``, ``hnag-small-untuned``, ``hnag-device``, each also as
``...-individual``; ``nasbench101``, ``nasbench201``, ``nasbench301``, ``simple_cell``. Datasets: our tasks (students
are trained with the teacher), a task file, ``module:Class`` of a NASLib ``CustomDataset``; any other name is a
benchmark's and answered by NASLib's tables.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from naslib_autokd.files import write_whole
from naslib_autokd.imports import imported
from naslib_autokd.optimizers.base import OPTIMIZERS, nearest
from naslib_autokd.plugin.config import ConfigError, fidelity_note, load_config, save_folder
from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.runners.run_folder import FINALS, FOUND, RESULT, TRIALS, RunFolder
from naslib_autokd.tasks import TASKS, get_task

CONFIGS = Path(__file__).parent / "configs"

DISCRETE = {
    "rs": "RandomSearch",
    "re": "RegularizedEvolution",
    "ls": "LocalSearch",
    "bananas": "Bananas",
    "npenas": "Npenas",
    "bp": "BasePredictor",
}
"""NASLib's short names, and its classes."""

ONE_SHOT = ("darts", "gdas", "drnas")

ZERO_COST_PREDICTORS = ("lgb", "ngb", "rf", "xgb")
"""Predictors of NASLib's that take zero-cost scores."""

FILES = ("errors.json", TRIALS, FOUND, FINALS, RESULT, "log.log")
"""What a run may leave, for the last line."""

SPACES_OF_NASLIB = ("nasbench101", "nasbench201", "nasbench301", "simple_cell")


@dataclass(frozen=True)
class RunResult:
    """What a run found."""

    folder: Path
    architecture: dict[str, Any]
    """As plain data (the candidate, or what a one-shot optimizer found)."""
    test_accuracy: float
    """Percent: mean of the final students, or the table's."""
    students: list[dict[str, Any]]
    """Results of the final trainings; empty with a table."""
    n_trainings: int
    """Students (or supernets) trained by the search, those of earlier starts of this run included."""


def run(config: dict[str, Any], progress: Callable[[str], None] = lambda _: None) -> RunResult:
    """Search and evaluate as a checked configuration says (`config.load_config`).

    Raises:
        ValueError: Before any training, for names and values that cannot work (names the nearest).
        NASLibError: If there is no NASLib.
    """
    names = [*DISCRETE, *ONE_SHOT, *OPTIMIZERS]
    if config["optimizer"] not in names:
        raise ConfigError(nearest(config["optimizer"], names, "optimizer"))
    if (zc := _zero_cost(config)) and not config["search"]["zc_names"]:
        raise ConfigError(f"search.{zc} needs search.zc_names, for example [synflow, jacov]")
    if zc and config["search"]["predictor_type"] not in ZERO_COST_PREDICTORS:
        raise ConfigError(
            f"search.{zc} goes with predictor_type {', '.join(ZERO_COST_PREDICTORS)}; NASLib's "
            f"{config['search']['predictor_type']!r} takes no zero-cost scores"
        )
    if config["options"] and config["optimizer"] not in OPTIMIZERS:
        raise ConfigError(f"options are for our optimizers ({', '.join(OPTIMIZERS)}); NASLib's are keys of search")
    load_naslib()
    from naslib_autokd.plugin.registration import SPACES

    if config["search_space"] not in (known := [*SPACES, *SPACES_OF_NASLIB]):
        raise ConfigError(nearest(config["search_space"], known, "search space"))
    folder = save_folder(config)
    for name in ("search", "eval"):  # NASLib's Trainer writes there and does not make them
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    with _log_file(folder / "log.log"):
        result = (_run_one_shot if config["optimizer"] in ONE_SHOT else _run_discrete)(config, folder, progress)
    content = {
        "architecture": result.architecture,
        "test_accuracy": result.test_accuracy,
        "students": result.students,
        "n_trainings": result.n_trainings,
    }
    write_whole(folder / RESULT, (json.dumps(content, indent=1) + "\n").encode())
    return result


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """What NASLib logs goes to ``path`` inside the block."""
    logger = logging.getLogger("naslib")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s] %(message)s", "%m/%d %H:%M:%S"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]


def naslib_config(config: dict[str, Any]) -> Any:
    """The configuration as NASLib's ``CfgNode``, with what its own parser adds."""
    load_naslib()
    from fvcore.common.config import CfgNode

    content = {key: value for key, value in config.items() if key not in ("kd", "options")}
    content["search"] = {**content["search"], "seed": config["seed"]}
    content["evaluation"] = dict(content["evaluation"])
    return CfgNode({**content, "save": str(save_folder(config)), "gpu": None, "eval_only": False, "resume": False})


def _zero_cost(config: dict[str, Any]) -> str:
    """The key that asks this optimizer of NASLib's for zero-cost scores; empty if none does."""
    key = {"bananas": "zc", "npenas": "zc_ensemble"}.get(config["optimizer"], "")
    return key if key and config["search"][key] else ""


def _run_discrete(config: dict[str, Any], folder: Path, progress: Callable[[str], None]) -> RunResult:
    from naslib.utils import get_train_val_loaders, set_seed

    from naslib_autokd.plugin.loaders import data_loaders
    from naslib_autokd.plugin.trainer import KDTrainer

    node = naslib_config(config)
    api = _dataset_api(config, progress)
    if api is not None:
        node.dataset = api.task.name
    space = _search_space(config, api)
    table = _table(config) if api is None else None
    node.search.fidelity = _fidelity(config, api, table, progress)
    set_seed(config["seed"])
    optimizer = _optimizer(config, node)
    zero_cost, optimizer.zc = getattr(optimizer, "zc", None), None
    optimizer.adapt_search_space(space, dataset_api=table if api is None else api)
    if zero_cost:  # NASLib's own loaders do not know our data
        optimizer.zc = zero_cost
        optimizer.train_loader = get_train_val_loaders(node)[0] if api is None else data_loaders(node, data=api.data)[0]
    trainer = KDTrainer(optimizer, node, lightweight_output=True, dataset_api=api)

    def after_epoch(epoch: int) -> None:
        progress(
            f"{epoch + 1} of {trainer.epochs} epochs, validation accuracy "
            f"{trainer.search_trajectory.valid_acc[-1]:.2f}%"
        )

    trainer.search(after_epoch=after_epoch)
    best = optimizer.get_final_architecture()
    accuracy = trainer.evaluate(best_arch=best, dataset_api=table if api is None else api)
    if api is None:
        return RunResult(folder, {"hash": json.loads(json.dumps(best.get_hash(), default=str))}, accuracy, [], 0)
    candidate = best.candidate
    students = [result.to_dict() for result in api.final_students(candidate).results]
    return RunResult(folder, candidate.to_dict(), accuracy, students, len(api.store))


def _run_one_shot(config: dict[str, Any], folder: Path, progress: Callable[[str], None]) -> RunResult:
    from functools import partial

    from naslib_autokd.plugin.one_shot import NASLibOneShot
    from naslib_autokd.records import content_digest, derive_seed
    from naslib_autokd.runners.finals import train_finals
    from naslib_autokd.runners.run_folder import open_run

    search, kd = config["search"], config["kd"]
    names = (
        *("learning_rate", "learning_rate_min", "momentum", "weight_decay", "grad_clip"),
        *("arch_learning_rate", "arch_weight_decay", "tau_max", "tau_min"),
    )
    method = NASLibOneShot(
        config["optimizer"],
        objective=kd["objective"],
        space=config["search_space"],
        **{name: search[name] for name in names},
    )
    api = _dataset_api(config, progress)
    if api is None:
        raise ConfigError(
            f"{config['optimizer']} trains a supernet, so dataset must be a task ({', '.join(TASKS)}), "
            f"a task file or module:Class, and cifar10 and cifar100 need data: FOLDER; got {config['dataset']!r}"
        )
    task, evaluator = api.task, api.evaluator
    settings = {"host": "naslib", "optimizer": config["optimizer"], "search": search, "kd": kd, "seed": config["seed"]}
    open_run(folder, task, json.loads(json.dumps(settings)))
    budget = kd["budget"]
    if not budget:
        n = len(evaluator.data.train_labels)
        batch = min(task.batch_size, n // 2)
        steps = search["epochs"] * max(1, (n // 2) // batch)
        budget = (steps + 0.5) * method.search_step_cost(task) / max(1, evaluator.data.n_shown // task.batch_size)
    recipe = content_digest([json.loads(json.dumps(settings)), task.to_dict(), budget])
    with RunFolder.own(folder) as own:
        found = own.found(recipe, lambda values: method.restore(values, task))
        if found is not None:
            progress(f"the search is over: {folder / FOUND}")
        else:
            found = method.search(
                evaluator,
                budget,
                config["seed"],
                lambda share, text: progress(f"{100 * share:.0f}% of the search, {text}"),
            )
            own.keep_found(found.to_dict(), recipe)
    seeds = [derive_seed(config["seed"], "final", index) for index in range(kd["n_finals"])]
    students = [(partial(found.build, derive_seed(seed, "weights")), seed) for seed in seeds]
    label = f"{task.name}/{content_digest(found.architecture)}"
    finals = train_finals(evaluator, students, kd=method.kd, label=label, out=folder)
    accuracy = 100.0 * sum(finals.test_accuracies) / len(finals.test_accuracies)
    errors = {
        "train_acc": [],
        "valid_acc": [100.0 * accuracy for _, accuracy in found.curve],
        "test_acc": [accuracy],
        "runtime": [found.search_s],
        "train_time": [],
        "params": found.supernet.all_params() / 1e6,
    }
    (folder / "errors.json").write_text(json.dumps([naslib_config(config), errors]), encoding="utf-8")
    return RunResult(folder, found.architecture, accuracy, [r.to_dict() for r in finals.results], found.n_students)


def _fidelity(config: dict[str, Any], api: Any, table: Any, progress: Callable[[str], None]) -> int:
    """What NASLib's optimizers get as ``search.fidelity``, so that all evaluate at the same number of epochs.

    With our tasks that is the full training, which the ``dataset_api`` was given. With a table NASLib's RandomSearch
    takes the number as an index into the learning curve of NAS-Bench-201 (its other spaces have none); its other
    optimizers do not read it, which is said.
    """
    asked: int = config["search"]["fidelity"]
    if api is not None or asked < 1:
        return -1
    from naslib_autokd.plugin.tabular import TabularEvaluator

    full = max(TabularEvaluator(table, config["search_space"], config["dataset"]).budgets)
    if config["search_space"] != "nasbench201" or asked >= full:
        progress(f"search.fidelity {asked}: {config['search_space']} is asked for its {full} epochs")
        return -1
    name = DISCRETE.get(config["optimizer"])
    if name not in (None, "RandomSearch"):
        progress(
            f"note: NASLib's {name} does not read search.fidelity and asks for all {full} epochs; RandomSearch and the "
            f"optimizers of naslib_autokd evaluate at {asked}. They compare with search.fidelity -1"
        )
    return asked - 1 if name == "RandomSearch" else asked


def _dataset_api(config: dict[str, Any], progress: Callable[[str], None]) -> Any:
    """A `KDDatasetAPI` of the configuration's task; None if a benchmark's table answers.

    NASLib's spaces on cifar10 and cifar100 have tables, which are asked unless ``data`` names a folder of images.
    """
    from naslib_autokd.plugin.evaluation import KDDatasetAPI
    from naslib_autokd.plugin.loaders import NASLIB_DATASETS

    kd, fidelity = config["kd"], config["search"]["fidelity"]
    options: dict[str, Any] = {
        "seed": config["seed"],
        "n_finals": kd["n_finals"],
        "device": kd["device"],
        "threads": kd["threads"],
        "objective": kd["objective"],
    }

    def api_of(most_epochs: int, **which: Any) -> Any:
        if fidelity > most_epochs:
            progress(fidelity_note(fidelity, most_epochs))
        return KDDatasetAPI(budget_epochs=min(fidelity, most_epochs) if fidelity > 0 else None, **which, **options)

    if kd["teacher"]:
        options["teacher"] = kd["teacher"]
    dataset = config["dataset"]
    if dataset in NASLIB_DATASETS and config["search_space"] in SPACES_OF_NASLIB and not config["data"]:
        return None
    if dataset in TASKS or dataset.endswith((".yaml", ".yml")):
        overrides = {"data_dir": config["data"]} if config["data"] else {}
        task = get_task(dataset, **overrides)
        return api_of(task.max_budget_epochs, task=task)
    if ":" in dataset:
        from naslib_autokd.plugin.custom_data import task_from_custom_dataset

        try:
            found = imported(dataset)
        except ImportError as error:
            raise ConfigError(f"dataset {error}") from error
        node = naslib_config({**config, "dataset": dataset.partition(":")[2]})
        data = task_from_custom_dataset(found, node)
        return api_of(data.task.max_budget_epochs, data=data)
    if config["search_space"] not in SPACES_OF_NASLIB:
        raise ConfigError(nearest(dataset, list(TASKS), "dataset"))
    return None


def _table(config: dict[str, Any]) -> Any:
    from naslib_autokd.plugin.tabular import load_benchmark

    return load_benchmark(config["search_space"], config["dataset"])


def _search_space(config: dict[str, Any], api: Any) -> Any:
    from naslib_autokd.plugin.registration import SPACES

    name, kd = config["search_space"], config["kd"]
    search_kd = kd["search_kd"] and kd["objective"] != "ce"  # which does not read the KD settings
    if name in SPACES:
        from naslib_autokd.plugin.hnag import HNAGSearchSpace

        preset, mode = SPACES[name]
        space = HNAGSearchSpace(preset=preset or api.task.preset, mode=mode, task=api.task, search_kd=search_kd)
        space.space.check(api.task)
        return space
    if api is None:
        from naslib.search_spaces import get_search_space

        return get_search_space(name, config["dataset"])
    from naslib_autokd.plugin.spaces import NASLibSpace

    space_of_naslib = NASLibSpace(name, search_kd=search_kd)
    space_of_naslib.check(api.task)
    return space_of_naslib.graph(api.task)


def _optimizer(config: dict[str, Any], node: Any) -> Any:
    name = config["optimizer"]
    from naslib import optimizers

    from naslib_autokd.plugin import optimizers as ours
    from naslib_autokd.plugin.optimizers import AskTellOptimizer, AutoKD

    if name in DISCRETE:
        return getattr(ours if name in ("bananas", "bp", "npenas") else optimizers, DISCRETE[name])(node)
    if name == "autokd":
        return AutoKD(node, **config["options"])
    return AskTellOptimizer(node, name, **config["options"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 is success, 2 a wrong configuration, 130 an interruption."""
    parser = argparse.ArgumentParser(
        prog="python -m naslib_autokd.plugin.runner",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", metavar="FILE", help="YAML file in NASLib's format")
    parser.add_argument("--list", action="store_true", help="name the configurations that come with the package")
    parser.add_argument("--seed", type=int, help="another seed than the file's")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="for example: search.epochs 50")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(sorted(path.name for path in CONFIGS.glob("*.yaml"))))
        return 0
    try:
        if options.config_file is None:
            raise ConfigError("give --config-file FILE (--list names those that come with the package)")
        config = load_config(find_config(options.config_file), options.overrides)
        if options.seed is not None:
            config["seed"] = options.seed
        print(f"run folder: {save_folder(config)}", file=sys.stderr)
        result = run(config, lambda text: print(text, file=sys.stderr))
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    students = f", {len(result.students)} trained in full" if result.students else ""
    print(f"test accuracy {result.test_accuracy:.2f}%{students}; {result.n_trainings} trainings in the search")
    print(f"in {result.folder}: {', '.join(name for name in FILES if (result.folder / name).exists())}")
    return 0


def find_config(name: str) -> Path:
    """The file of this name, here or among those that come with the package."""
    path = Path(name)
    shipped = CONFIGS / name
    return shipped if not path.exists() and path.parent == Path(".") and shipped.is_file() else path


if __name__ == "__main__":
    sys.exit(main())
