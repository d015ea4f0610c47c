"""NASLib's config format, read and checked before NASLib is loaded.

The names are NASLib's (``search_space``, ``optimizer``, ``dataset``, ``seed``, ``search.*``, ``evaluation.*``); what is
left out takes the value of `DEFAULTS`, which are NASLib's own (``naslib/defaults/darts_defaults.yaml`` and
``naslib/runners/nas/discrete_config.yaml``) unless a comment says why not. Two sections are new, for what NASLib has
no name for: ``kd``, and ``options`` of our own optimizers. NASLib's parser ignores ``--seed`` and evaluates unknown
keys as Python; this one does neither.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from naslib_autokd.settings import did_you_mean, read_yaml, read_yaml_file

REQUIRED = ("search_space", "dataset", "optimizer")

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "search_space": None,
    "dataset": None,
    "optimizer": None,
    "out_dir": "run",
    "config_id": -1,  # of NASLib's bbo runner: a folder more, config_0; -1: none
    "data": "",  # folder of the images; NASLib always takes its own
    "save_arch_weights": False,  # NASLib's Trainer fails where it is missing
    "plot_arch_weights": False,
    "search": {
        "epochs": 100,
        "checkpoint_freq": 1000,
        "fidelity": -1,  # epochs of a training; -1, or beyond the full one (NASLib's files: 108, 200): in full
        "equal_cost": False,  # an epoch of our optimizers costs one full training, whatever their budgets
        # RegularizedEvolution
        "sample_size": 10,
        "population_size": 30,
        # LocalSearch, Bananas, Npenas
        "num_init": 10,
        # Bananas, Npenas, BasePredictor
        "k": 10,
        "num_ensemble": 3,
        "predictor_type": "xgb",  # NASLib: var_sparse_gp, a minute for each fit
        "acq_fn_type": "its",
        "acq_fn_optimization": "mutation",
        "encoding_type": "adjacency_one_hot",
        "num_arches_to_mutate": 5,
        "max_mutations": 1,
        "num_candidates": 200,
        "debug_predictor": False,
        # zero-cost scores beside the encoding: Bananas, Npenas
        "zc": False,
        "zc_ensemble": False,  # the same, for Npenas
        "zc_names": [],
        "zc_only": False,
        "use_zc_api": False,
        "load_labeled": False,
        # one-shot optimizers: rates of `one_shot.NASLibOneShot`, for hundreds of steps (NASLib: for 19,500)
        "learning_rate": 0.1,
        "learning_rate_min": 0.0,
        "momentum": 0.9,
        "weight_decay": 0.0003,
        "grad_clip": 5.0,
        "unrolled": False,
        "arch_learning_rate": 0.03,
        "arch_weight_decay": 0.001,
        "tau_max": 10.0,
        "tau_min": 0.1,
        "cutout": False,
        "cutout_length": 16,
        "cutout_prob": 1.0,
        "drop_path_prob": 0.0,
        # loaders
        "batch_size": 64,
        "train_portion": 0.5,
    },
    "evaluation": {
        "checkpoint_freq": 30,
        "batch_size": 96,
        "learning_rate": 0.025,
        "learning_rate_min": 0.0,
        "momentum": 0.9,
        "weight_decay": 0.0003,
        "epochs": 600,
        "grad_clip": 5,
        "train_portion": 1.0,
        "cutout": True,
        "cutout_length": 16,
        "cutout_prob": 1.0,
        "drop_path_prob": 0.2,
        "auxiliary_weight": 0.4,
    },
    "kd": {
        "objective": "kd",  # or "ce": the labels alone
        "search_kd": True,  # temperature and weight are searched
        "teacher": "",  # checkpoint or module:function; empty: the task's own
        "device": "cpu",
        "threads": 1,
        "n_finals": 1,  # students trained in full and judged at the end
        "budget": 0.0,  # of one-shot optimizers, in student-epochs; 0: search.epochs epochs of the supernet
    },
    "options": {},  # of our optimizers, by their names: {eta: 3, n_initial: 9}
}

IGNORED = {  # in NASLib's files, without a meaning there or here
    "search": {
        *("budgets", "data_size", "warm_start_epochs", "output_weights", "seed"),
        *("threshold", "normalization", "normalization_exponent"),  # of its GSparsity, which is not offered
    },
    "evaluation": {"data_size", "warm_start_epochs"},
}


class ConfigError(ValueError):
    """A key is missing, unknown, or of the wrong type; the text names it."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The checked configuration of a YAML file, with ``KEY VALUE`` pairs from the command line over it.

    Args:
        path: YAML file in NASLib's format.
        overrides: ``["seed", "3", "search.epochs", "50"]``; values are read as YAML.

    Raises:
        ConfigError: If the file cannot be read, or a key is missing, unknown or of the wrong type.
    """
    content = read_yaml_file(path, error=ConfigError, what="--config-file").values
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no configuration: expected keys such as search_space, dataset, optimizer")
    if len(overrides) % 2:
        raise ConfigError(f"overrides are pairs of KEY VALUE, got {len(overrides)} words: {' '.join(overrides)}")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        section, dot, name = key.partition(".")
        if not dot:
            content[section] = read_yaml(value, key, error=ConfigError).values
        else:
            content.setdefault(section, {})
            if not isinstance(content[section], dict):
                raise ConfigError(f"{section} must be a section with keys, so that {key} can be set")
            content[section][name] = read_yaml(value, key, error=ConfigError).values
    return check_config(content, str(path))


def check_config(content: Mapping[str, Any], where: str = "the configuration") -> dict[str, Any]:
    """``content`` over `DEFAULTS`, checked.

    Raises:
        ConfigError: If a key is missing, unknown (names the nearest) or of the wrong type.
    """
    config = copy.deepcopy(DEFAULTS)
    for key, value in content.items():
        if key not in DEFAULTS:
            raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(str(key), list(DEFAULTS))}")
        if not isinstance(DEFAULTS[key], dict):
            config[key] = _checked(key, DEFAULTS[key], value, where)
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {key} must be a section with keys, got {value!r}")
        for name, inner in value.items():
            if key == "options":  # checked by the optimizer that takes them
                config[key][name] = inner
                continue
            if name in IGNORED.get(key, ()):
                continue
            if name not in DEFAULTS[key]:
                raise ConfigError(f"{where}: unknown key {key}.{name}{did_you_mean(str(name), list(DEFAULTS[key]))}")
            config[key][name] = _checked(f"{key}.{name}", DEFAULTS[key][name], inner, where)
    for key in REQUIRED:
        if config[key] is None:
            raise ConfigError(f"{where}: key {key!r} is missing; give one, for example {_EXAMPLES[key]}")
    return config


_EXAMPLES = {
    "search_space": "search_space: hnag",
    "dataset": "dataset: cluttered-digits",
    "optimizer": "optimizer: autokd",
}


def _checked(key: str, default: Any, value: Any, where: str) -> Any:
    kind = str if default is None else type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where}: {key} must be of type {kind.__name__}, got {value!r}")
    return value


def save_folder(config: Mapping[str, Any]) -> Path:
    """Where a run writes, as NASLib's runners: ``out_dir/search_space/dataset/optimizer[/config_ID]/seed``.

    Of a task file the name without its folder counts, of ``module:Class`` the class.
    """
    dataset = Path(config["dataset"]).stem if config["dataset"].endswith((".yaml", ".yml")) else config["dataset"]
    dataset = dataset.rpartition(":")[2]
    which = [f"config_{config['config_id']}"] if config["config_id"] >= 0 else []
    return Path(config["out_dir"], config["search_space"], dataset, config["optimizer"], *which, str(config["seed"]))


def fidelity_note(asked: int, full: int) -> str:
    """What is to be said where a configuration's ``search.fidelity`` is not the ``full`` training's epochs."""
    if asked > full:
        return f"search.fidelity is {asked}, but a full training has {full} epochs: {full} it is, for every optimizer"
    return (
        f"search.fidelity is {asked}: NASLib's RandomSearch and the optimizers of naslib_autokd train {asked} of "
        f"{full} epochs, its other optimizers all {full}, so that they do not compare; take -1 for all, or "
        f"KDDatasetAPI(budget_epochs={asked}), for which {asked} epochs are a full training"
    )
