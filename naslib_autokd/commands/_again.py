"""The command that repeats a run: every option that it was given, from what its folder keeps."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from naslib_autokd.commands import _config
from naslib_autokd.commands._parser import leaves
from naslib_autokd.commands._types import name_of, settings_of
from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.records import GIVEN
from naslib_autokd.runners.run_folder import (
    BUDGETS,
    FINALS,
    RIVALS,
    RUN,
    STUDY,
    STUDY_RUNS,
    TASK,
    TRAININGS,
    read_json,
    read_settings,
    read_task,
    read_yaml,
)
from naslib_autokd.runners.setup import check_budget, described_space, space_of_run
from naslib_autokd.search_spaces import SEARCH_SPACES
from naslib_autokd.tasks import Task, TaskError, get_task

ALWAYS = ("task", "study", "optimizer", "seed", "seeds")
"""Options that are told even where they have their default."""
BUDGET_OPTIONS = {
    "n_trials": "trials",
    "student_epochs": "student_epochs",
    "training_seconds": "training_seconds",
    "wall_s": "max_seconds",
}
LIMIT_OPTIONS = {
    "max_macs": ("max_macs", 1),
    "max_train_memory": ("max_memory", 1),
    "max_inference_memory": ("max_inference_memory", 1),
    "max_latency_s": ("max_latency_ms", 1000),
}
"""Field of `StudentLimits` -> option, and its units in one of the field's."""


def command_of(folder: str | Path) -> str:
    """The shell command that repeats the run in ``folder`` (a search, a study, a ``compare-kd``), into another folder.

    Of a run that was made from Python it is made of what ``run.yaml`` says. Two commands in a row where a budget was
    changed later: the optimizer plans by the first one. Empty if no command gives this run: a space or an optimizer
    that is no name, a folder without records of what was asked for.
    """
    folder = Path(folder) if Path(folder).name else Path(folder).resolve()
    if (folder / STUDY).is_file():
        return _study_command(folder)
    if (folder / TRAININGS).is_file():
        return _compare_kd_command(folder)
    return _search_command(folder) if (folder / RUN).is_file() else ""


def words(parser: argparse.ArgumentParser, values: Mapping[str, Any]) -> list[str]:
    """What to type for a command with these values of its options, by argparse's names."""
    found = parser.prog.split()
    for action in settings_of(parser):
        value = values.get(action.dest)
        if value is None or value is False or value == []:
            continue
        if value != action.default or action.dest in ALWAYS:
            found += _words(action, value)
    return found


def _words(action: argparse.Action, value: Any) -> list[str]:
    name = name_of(action)
    if not action.option_strings:
        return [_text(value)]
    if action.nargs == 0:
        return [name]
    if not isinstance(action, argparse._AppendAction):
        texts = [_text(value)]
    elif _config.is_mapping(action):
        texts = [f"{key}={json.dumps(inner)}" for key, inner in _pairs(value)]
    else:
        texts = [_text(each) for each in value]
    return [word for text in texts for word in ([f"{name}={text}"] if text.startswith("-") else [name, text])]


def _pairs(given: Sequence[str | tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    from naslib_autokd.commands._options import parse_options

    return parse_options(given).items()


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return ",".join(map(_text, value)) if isinstance(value, tuple) else str(value)


def _parser(command: str) -> argparse.ArgumentParser:
    from naslib_autokd.cli import build_parser

    return next(parser for parser in leaves(build_parser()) if parser.prog.partition(" ")[2] == command)


def _asked(folder: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What ``config.yaml`` says; nothing if it is not there, or of another version or command."""
    path = folder / _config.FILE
    try:
        return _config.read(path, parser) if path.is_file() else {}
    except _config.ConfigFileError:
        return {}


def _line(parser: argparse.ArgumentParser, values: Mapping[str, Any], folder: Path) -> str:
    return shlex.join(words(parser, {**values, "out": f"{folder}-again"}))


# --- a search -------------------------------------------------------------------------------------------------------


def _search_command(folder: Path) -> str:
    parser, settings, task = _parser("search"), read_settings(folder), read_task(folder)
    asked = _asked(folder, parser)
    if any(asked.get(name, parser.get_default(name)) != settings.get(name) for name in ("seed", "optimizer")):
        asked = {}  # another run's, or edited
    values = asked or _values(folder, settings, task)
    if not values:
        return ""
    values |= {"task": _task_word(folder, task, asked.get("task"))}
    budget = {option: settings.get(name) for name, option in BUDGET_OPTIONS.items()}
    target = settings.get("target_cost")
    if target is None or 1 - values.get("target_accuracy", -1) != target:  # what was typed has fewer digits
        budget["target_accuracy"] = None if target is None else round(1 - target, 12)
    values |= budget
    lines = [_line(parser, values, folder)]
    if (first := _planned_budget(settings, task)) is not None:
        lines.insert(0, _line(parser, {**values, **dict.fromkeys(budget), **first}, folder))
    return " && ".join(lines)


def task_of_run(folder: Path) -> str:
    """What ``--task`` takes for the task of a run."""
    return _task_word(folder, read_task(folder), None)


def _task_word(folder: Path, task: Mapping[str, Any], typed: str | None) -> str:
    """The name of a task as it is shipped, or with what else was typed; else the file in the run folder."""
    if typed is not None and not (task and typed.endswith((".yaml", ".yml"))):
        return typed
    try:
        shipped = get_task(str(task.get("name")))
    except (TaskError, OSError, ValueError):
        return str(folder / TASK)
    return shipped.name if json.loads(json.dumps(shipped.to_dict())) == dict(task) else str(folder / TASK)


def _values(folder: Path, settings: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a search that ``run.yaml`` describes; empty if no command gives it."""
    space = settings.get("space")
    name = space.get("name") if isinstance(space, Mapping) else space
    evaluation = settings.get("evaluation") or {}
    objectives = settings.get("objectives") or ["error"]
    objective = evaluation.get("objective") or "kd"
    teacher = evaluation.get("teacher")
    if not settings.get("start_with_default", True) or not task or str(teacher).endswith(GIVEN):
        return {}
    if task.get("dataset") == "imagefolder" and task.get("data_dir") is None:  # `data_from_dataset`
        return {}
    try:
        described = described_space(space_of_run(Task.from_dict(dict(task)), str(name), objectives, objective))
    except ValueError:
        return {}  # given as an object
    except ImportError:  # NASLib's, which is not here
        described = space
    if isinstance(space, Mapping) and described != space:
        return {}
    of_hnag = name in SEARCH_SPACES
    values = {
        "preset": name if of_hnag and name != task.get("preset") else None,
        "space": None if of_hnag else name,
        "optimizer": settings.get("optimizer"),
        "option": list((settings.get("options") or {}).items()),
        "objectives": ",".join(objectives),
        "objective": objective,
        "teacher": teacher,
        "continue_from_checkpoint": bool(evaluation.get("continue_from_checkpoint")),
        "precision": evaluation.get("precision"),
        "no_cuda_graph": evaluation.get("cuda_graph") is False,
        "seed": settings.get("seed"),
        "finals": len((folder / FINALS).read_bytes().splitlines()) or None if (folder / FINALS).is_file() else None,
    }
    for name, value in (evaluation.get("runtime") or {}).items():
        values[f"latency_{name}"] = value
    limits = StudentLimits(**(evaluation.get("limits") or {}))
    for field, (option, units) in LIMIT_OPTIONS.items():
        if (limit := getattr(limits, field)) is not None:
            values[option] = limit * units
    return values


def _planned_budget(settings: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options that make an optimizer plan as this run's did, if its budget was changed since; else None."""
    budget = {name: settings.get(name) for name in BUDGETS}
    if not task or "planned_epochs" not in settings:
        return None
    found, planned = Task.from_dict(dict(task)), settings["planned_epochs"]
    try:
        if check_budget(found, **budget) == planned:
            return None
    except ValueError:  # a folder that was edited
        return None
    soon: dict[str, Any] = {"max_seconds": 1}  # it ends with the default family; the second command goes on
    if planned is None:
        return soon
    n_trials = round(planned * 1.5 / found.max_budget_epochs)
    if n_trials and check_budget(found, n_trials=n_trials) == planned:
        return {"trials": n_trials, **soon}
    return {"student_epochs": planned, **soon}


# --- a comparison ---------------------------------------------------------------------------------------------------


def comparison_code(folder: Path, settings: Mapping[str, Any], task: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """Lines of Python that repeat a comparison, which has no command of its own."""
    from naslib_autokd.runners.comparison import Method

    methods = [Method(**method) for method in settings.get("methods", ())]
    names = ("budget", "budget_unit", "n_finals", "device", "teacher")
    given = {name: settings[name] for name in names if settings.get(name)}
    imports = "from naslib_autokd.runners.comparison import Method, compare"
    if limits := settings.get("student_limits"):
        given["student_limits"] = StudentLimits(**limits)
        imports += "\nfrom naslib_autokd.evaluators.student_limits import StudentLimits"
    given = {"seeds": list(seeds), **given, "out": f"{folder}-again"}
    arguments = ", ".join(f"{name}={value!r}" for name, value in given.items())
    call = f"compare({_task_word(folder, task, None)!r}, {methods!r}, {arguments})"
    return f"{imports}\n{call}"


# --- a study, a comparison of losses --------------------------------------------------------------------------------


def _study_command(folder: Path) -> str:
    parser, study = _parser("ablate"), read_yaml(folder / STUDY)
    values = _asked(folder, parser)
    name = values.get("study", str(folder / STUDY))
    file = str(folder / STUDY) if name.endswith((".yaml", ".yml")) else name
    labels = [method["label"] for method in study.get("methods", ())]
    done = {run["method"] for run in _runs(folder / STUDY_RUNS)}
    some = [label for label in labels if label in done]
    methods = ",".join(some) if some and len(some) < len(labels) else None
    return _line(parser, {**values, "study": file, "seeds": study.get("seeds"), "methods": methods}, folder)


def _compare_kd_command(folder: Path) -> str:
    """Asks for all that was trained: earlier commands on the folder may have had other students, losses and seeds."""
    from naslib_autokd.distillation.baselines import LossSettings
    from naslib_autokd.runners.baselines import FAMILY

    parser = _parser("compare-kd")
    values = {action.dest: action.default for action in settings_of(parser)} | _asked(folder, parser)
    if not values.get("out"):
        return ""
    trained = _runs(folder / TRAININGS)
    rivals = {rival["name"] for rival in (read_json(folder / RIVALS).get("rivals") or {}).values()}
    by_hand = [run for run in trained if run["student"] not in (FAMILY, *rivals)]
    of_family = [run["loss"] for run in trained if run["student"] == FAMILY and run["loss"] != "kd"]
    for name, found in (("losses", [run["loss"] for run in by_hand]), ("family_losses", of_family)):
        typed = [text for text in values[name].split(",") if text.strip()]
        known = {LossSettings.parse(text).key for text in typed}
        values[name] = ",".join([*typed, *dict.fromkeys(loss for loss in found if loss not in known)])
    values["student"] = list(dict.fromkeys([*(values["student"] or []), *(run["student"] for run in by_hand)]))
    values["seeds"] = max([values["seeds"], *(run["seed"] + 1 for run in trained)])
    return _line(parser, values, folder)


def _runs(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of runs, without those that failed."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [run for run in map(json.loads, lines) if "error" not in run]
