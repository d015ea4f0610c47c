"""Options that commands share, defined once so that the same thing has the same name everywhere, and what they make."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslib_autokd.commands._types import SEED, NumberOr, objective, positive, whole

if TYPE_CHECKING:
    from naslib_autokd.distillation.runtime import Runtime
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.evaluators.student_limits import StudentLimits
    from naslib_autokd.runners.engine import DaskEngine, LimitedEngine
    from naslib_autokd.runners.limits import Limits
    from naslib_autokd.search_spaces.hnag import Candidate
    from naslib_autokd.tasks import Task

INTERRUPTED = 130
"""Exit status after Ctrl-C."""

Group = Any
"""A parser or one of its groups; argparse has no public name for both."""


PRECISIONS = ("float32", "bfloat16", "auto")  # as in `distillation.training`, which takes torch

DEFAULT_TASK = "cluttered-digits"

OPTIONS: dict[str, dict[str, Any]] = {
    # task
    "--task": {"default": DEFAULT_TASK, "help": "what is learned: the name of a task, or your YAML file"},
    "--data-dir": {"type": Path, "metavar": "DIR", "help": "folder of the images, for tasks that are not embedded"},
    "--unlabelled": {
        "type": Path,
        "metavar": "DIR",
        "help": "folder of pictures without labels, on which students learn from the teacher's answers alone",
    },
    "--teacher": {
        "help": "instead of the task's: name of a network ('teacher list' shows them), file (.safetensors, .pt), "
        "NAME@FILE, module:function, or several with commas between",
    },
    "--objective": {
        "type": objective,
        "metavar": "OBJECTIVE",
        "default": "kd",
        "help": "what students learn from: the teacher (kd), the labels alone (ce), or the teacher by your own loss "
        "(module:function)",
    },
    # space
    "--preset": {
        "help": "preset of the search space: hnag, hnag-wide, hnag-small, hnag-small-untuned, hnag-device (default: "
        "the task's)"
    },
    "--candidate": {
        "type": Path,
        "metavar": "FILE",
        "help": "family: its YAML or JSON file, or the run folder of its search",
    },
    # budget
    "--seed": {"type": SEED, "default": 0, "help": "everything random follows from it"},
    "--seeds": {"type": whole(1, 10_000), "metavar": "N", "help": "number of paired seeds, from 0 on"},
    "--student-epochs": {
        "type": positive(1e12),
        "metavar": "N",
        "help": "epochs of student training that a search may spend",
    },
    "--training-seconds": {
        "type": positive(1e12),
        "metavar": "S",
        "help": "CPU seconds of training that a search may spend, by a model that says the same on every machine",
    },
    "--finals": {"type": whole(1, 10_000), "default": 1, "metavar": "N", "help": "final students of the family"},
    "--budget": {"type": whole(), "metavar": "EPOCHS", "help": "epochs of the training (default: a full training)"},
    # where it runs
    "--device": {
        "default": "cpu",
        "help": "torch device; several, with commas between, are given to the workers in turn, and cuda stands for all "
        "GPUs",
    },
    "--threads": {"type": whole(1, 1024), "default": 1, "metavar": "N", "help": "CPU threads of one training"},
    "--precision": {
        "choices": PRECISIONS,
        "default": "float32",
        "help": "of the trainings: bfloat16, where this processor can (else float32, which is told); auto: the faster "
        "one of both, timed for each network, so that results depend on the machine",
    },
    "--workers": {"type": whole(1, 4096), "metavar": "N", "help": "processes that work at the same time"},
    # output
    "--out": {"type": Path, "metavar": "DIR", "help": "run folder; an existing one is continued"},
    "--json": {"action": "store_true", "help": "print the result as JSON on stdout, everything else on stderr"},
}


def add_option(group: Group, name: str, *, default_text: str = "", **changes: Any) -> None:
    """Add a shared option; ``default_text`` says what its absence means, where that differs between commands."""
    settings = {**OPTIONS[name], **changes}
    if default_text:
        settings["help"] += f" (default: {default_text})"
    group.add_argument(name, **settings)


def add_task_options(parser: argparse.ArgumentParser, *names: str, task: dict[str, Any] | None = None) -> Any:
    """The group of options that say what is learned and from whom: ``--task``, ``--data-dir`` and ``names``.

    ``task``: what is other for ``--task`` (`add_option`).
    """
    group = parser.add_argument_group("task", "docs/teachers_and_data.md tells more")
    add_option(group, "--task", **(task or {}))
    for name in ("--data-dir", *names):
        add_option(group, name)
    return group


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """Hard limits of every student: it gets the largest width that keeps them, before it is trained."""
    group = parser.add_argument_group("limits of a student", "each gets the largest width that keeps them")
    add_max_params(group)
    group.add_argument(
        "--width-multiple",
        type=NumberOr(int, 1, 1024, word="auto"),
        metavar="N",
        help="channels are multiples of it, or fewer; 16 suits ONNX Runtime, auto measures (default: the task's)",
    )
    group.add_argument("--max-macs", type=whole(1, 10**15), metavar="N", help="multiply-adds per image")
    group.add_argument("--max-memory", metavar="SIZE", help="live tensors of a training step, for example 64MB")
    group.add_argument("--max-inference-memory", metavar="SIZE", help="the same for one image in inference")
    group.add_argument(
        "--max-latency-ms",
        type=positive(),
        metavar="MS",
        help="a call in ONNX Runtime, of one image on one thread unless --latency-* say otherwise",
    )


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Where the latency of a student is measured."""
    group = parser.add_argument_group("latency", "measured in ONNX Runtime; docs/shipping.md tells more")
    group.add_argument("--latency-threads", type=whole(1, 1024), default=1, metavar="N", help="threads of ONNX Runtime")
    group.add_argument("--latency-batch", type=whole(1, 2**16), default=1, metavar="N", help="images in one call")
    group.add_argument(
        "--latency-provider",
        default="cpu",
        metavar="NAME",
        help="where it runs: cpu, cuda, tensorrt, openvino, coreml or xnnpack",
    )


def runtime_from_options(options: argparse.Namespace) -> Runtime:
    """The runtime of `add_runtime_options`.

    Raises:
        ValueError: If there is no such provider.
    """
    from naslib_autokd.distillation.runtime import Runtime

    return Runtime(options.latency_threads, options.latency_batch, options.latency_provider)


def add_max_params(group: Group) -> None:
    group.add_argument(
        "--max-params", type=whole(1, 10**12), metavar="N", help="parameters (default: the task's limit)"
    )


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """The options that say where trials run and what each may take."""
    group = parser.add_argument_group("workers and limits of a trial", "docs/scaling.md tells more")
    add_option(group, "--device")
    add_option(group, "--threads")
    add_option(group, "--workers", default_text="1")
    group.add_argument("--scheduler", metavar="ADDRESS", help="running Dask scheduler, for example tcp://host:8786")
    group.add_argument("--cluster", type=Path, metavar="FILE", help="SLURM, PBS, ...: YAML file with kind and options")
    group.add_argument(
        "--trial-seconds", type=positive(), metavar="S", help="a trial that takes longer is killed, and a failure"
    )
    group.add_argument("--trial-memory", metavar="SIZE", help="the same for its process's memory, for example 2GB")
    group.add_argument(
        "--max-failures", type=whole(), default=10, metavar="N", help="failed trials in a row that end the work"
    )


def print_json(content: Any) -> None:
    """One line of JSON on stdout; what JSON has no number for (nan, infinity) becomes null."""
    print(json.dumps(json.loads(json.dumps(content), parse_constant=lambda _: None)))


def task_from_options(options: argparse.Namespace) -> Task:
    """The task that the command line describes."""
    from naslib_autokd.tasks import get_task

    overrides: dict[str, Any] = {}
    if getattr(options, "data_dir", None) is not None:
        overrides["data_dir"] = str(options.data_dir)
    if getattr(options, "unlabelled", None) is not None:
        overrides["unlabelled_dir"] = str(options.unlabelled)
    if getattr(options, "preset", None) is not None:
        overrides["preset"] = options.preset
    for name in ("max_params", "width_multiple"):
        if getattr(options, name, None) is not None:
            overrides[name] = getattr(options, name)
    if overrides.get("width_multiple") == "auto":
        overrides["width_multiple"] = measured_multiple(options)
    return get_task(options.task, **overrides)


def measured_multiple(options: argparse.Namespace) -> int:
    """What ``--width-multiple auto`` is: that of the run folder which is continued, else measured.

    Raises:
        ValueError: If the search has no latency as limit or objective.
    """
    from naslib_autokd.runners.run_folder import TASK, read_task

    if not asks_for_latency(options):
        raise ValueError(
            "--width-multiple auto is measured where a latency is: give --max-latency-ms, or latency among --objectives"
        )
    if (options.out / TASK).is_file():
        return int(read_task(options.out).get("width_multiple", 1))
    from naslib_autokd.distillation.latency_model import block_of

    runtime = runtime_from_options(options)
    found = block_of(runtime)
    print(f"--width-multiple {found}, measured in ONNX Runtime ({runtime})", file=sys.stderr)
    return found


def tell_of_images(task: Task) -> None:
    """On stderr, before any work: what the folder of a task ``imagefolder`` holds and what is left out."""
    if task.dataset == "imagefolder":
        from naslib_autokd.data.check import summary

        for line in summary(task):
            print(line, file=sys.stderr)


def parse_size(text: str, what: str = "size") -> int:
    """Bytes of ``2GB``, ``512 MiB`` or ``1.5e9``; the units are powers of 1024. ``what`` is named in the error.

    Raises:
        ValueError: If it is no size, less than a byte, or more than any machine has.
    """
    match = re.fullmatch(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[0-9]+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if match is None:
        raise ValueError(f"{what} must be a number with a unit, for example 2GB or 512MB, got {text!r}")
    size = float(match[1]) * 1024 ** " kmgt".index(match[2] or " ")
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"{what} must be from 1 byte to {MAX_SIZE / 2**40:g} TB, got {text!r}")
    return int(size)


MAX_SIZE = 2.0**60
"""Bytes; no machine has more."""


def student_limits(options: argparse.Namespace) -> StudentLimits:
    """The limits that the command line describes, besides the number of parameters (`task_from_options`).

    Raises:
        ValueError: If one is no size or not positive.
    """
    from naslib_autokd.evaluators.student_limits import StudentLimits

    train = _size(options, "max_memory")
    inference = _size(options, "max_inference_memory")
    latency = None if options.max_latency_ms is None else options.max_latency_ms / 1e3
    return StudentLimits(options.max_macs, train, inference, latency)


def check_places(options: argparse.Namespace) -> None:
    """Refuse what `engine_from_options` would, before anything is loaded."""
    from naslib_autokd.runners.engine import read_cluster

    trial_limits(options)
    if options.cluster is not None:
        read_cluster(options.cluster)
    if options.scheduler is not None and (options.workers is not None or options.cluster is not None):
        raise ValueError("a running scheduler has its own workers: give --scheduler alone")
    alone = (options.workers or 1) == 1 and options.scheduler is None and options.cluster is None
    if alone and "," in options.device:
        raise ValueError(f"several devices need --workers, got --device {options.device} for one trial at a time")


def trial_limits(options: argparse.Namespace) -> Limits:
    from naslib_autokd.runners.limits import Limits

    return Limits(options.trial_seconds, _size(options, "trial_memory"))


def _size(options: argparse.Namespace, name: str) -> int | None:
    text: str | None = getattr(options, name)
    return None if text is None else parse_size(text, f"--{name.replace('_', '-')}")


def engine_from_options(
    options: argparse.Namespace, task: Task, on_message: Callable[[str], None] | None = None
) -> DaskEngine | LimitedEngine | None:
    """The workers that the command line describes; None: one trial at a time in this process."""
    from naslib_autokd.runners.engine import DaskEngine, LimitedEngine, read_cluster

    limits = trial_limits(options)
    several = (options.workers or 1) > 1 or options.scheduler is not None or options.cluster is not None
    if not several and not limits:
        return None
    from naslib_autokd.distillation.losses import get_loss
    from naslib_autokd.evaluators.kd import KDEvaluator

    if ":" in options.objective:
        get_loss(options.objective)  # what is wrong is told here, not by each worker
    factory = partial(
        KDEvaluator,
        task,
        threads=options.threads,
        objective=options.objective,
        teacher=options.teacher,
        **evaluation_options(options),
    )
    devices = tuple(options.device.split(","))
    if not several:
        return LimitedEngine(factory, limits, devices, on_message)
    return DaskEngine(
        factory,
        workers=options.workers,
        scheduler=options.scheduler,
        cluster=None if options.cluster is None else read_cluster(options.cluster),
        devices=devices,
        limits=limits,
        on_message=on_message,
    )


def asks_for_latency(options: argparse.Namespace) -> bool:
    """Whether a search has a latency as limit or objective.

    Raises:
        ValueError: If it has none, but says where one is measured.
    """
    if options.max_latency_ms is not None or "latency" in getattr(options, "objectives", "").split(","):
        return True
    if (options.latency_threads, options.latency_batch, options.latency_provider) != (1, 1, "cpu"):
        raise ValueError(
            "--latency-threads, --latency-batch and --latency-provider say where a latency is measured, and this "
            "search measures none: give --max-latency-ms, or latency among --objectives"
        )
    return False


def evaluation_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the evaluator of a search keeps and measures besides the training; nothing for other commands."""
    if not hasattr(options, "objectives"):
        return {}
    from naslib_autokd.records import MEASURED_OBJECTIVES

    measure = tuple(name for name in MEASURED_OBJECTIVES if name in options.objectives.split(","))
    found: dict[str, Any] = {"limits": student_limits(options), "measure": measure}
    if asks_for_latency(options):
        found["runtime"] = runtime_from_options(options)
    if getattr(options, "continue_from_checkpoint", False):
        found["continue_from_checkpoint"] = options.out.resolve() / "checkpoints"
    if getattr(options, "precision", "float32") != "float32" or getattr(options, "no_cuda_graph", False):
        from naslib_autokd.distillation.training import TrainingSettings

        found["settings"] = TrainingSettings(precision=options.precision, cuda_graph=not options.no_cuda_graph)
    return found


def asked_evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """`KDEvaluator.asked` of the evaluator that `evaluator_from_options` will make."""
    found: dict[str, Any] = {"objective": options.objective, "teacher": options.teacher}
    if limits := student_limits(options):
        found["limits"] = asdict(limits)
    if asks_for_latency(options):
        found["runtime"] = asdict(runtime_from_options(options))
    if options.continue_from_checkpoint:
        found["continue_from_checkpoint"] = True
    if options.precision != "float32":
        found["precision"] = options.precision
    if options.no_cuda_graph:
        found["cuda_graph"] = False
    return found


def evaluator_from_options(
    options: argparse.Namespace, task: Task, report: Callable[[str], None] | None = None
) -> KDEvaluator:
    """The evaluator that the command line describes; ``report`` is told what takes long (stderr by default)."""
    from naslib_autokd.evaluators.kd import KDEvaluator

    return KDEvaluator(
        task,
        device=options.device.split(",")[0],
        threads=options.threads,
        objective=options.objective,
        teacher=options.teacher,
        **evaluation_options(options),
        report=report or (lambda text: print(text, file=sys.stderr)),
    )


def read_candidate(path: Path) -> Candidate:
    """A family: a YAML or JSON file (the ``candidate`` of a trial record, what ``sample --json`` prints), or a run.

    Of a run folder it is the family that the search found; of an unfinished one the best that it observed.

    Raises:
        ValueError: If there is none.
    """
    from naslib_autokd.records import TrialStore
    from naslib_autokd.runners.run_folder import RESULT, TRIALS
    from naslib_autokd.search_spaces.hnag import Candidate
    from naslib_autokd.search_spaces.hnag.generator import from_document
    from naslib_autokd.settings import read_document

    try:
        if path.is_dir() and not (path / RESULT).is_file():
            best = TrialStore(path / TRIALS).incumbent() if (path / TRIALS).is_file() else None
            if best is None:
                raise ValueError("a run folder has result.json, or trials.jsonl with a full training")
            return Candidate.from_dict(best.candidate)
        document = read_document(path / RESULT if path.is_dir() else path)
        content = document.values
        if isinstance(content, dict) and "candidate" in content:
            return Candidate.from_dict(content["candidate"])
        return from_document(document, Candidate.from_dict)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no candidate: {error}") from error


def parse_options(pairs: Sequence[str | tuple[str, Any]]) -> dict[str, Any]:
    """Keyword arguments from ``NAME=VALUE`` (YAML), or from the pairs of a configuration file."""
    from naslib_autokd.settings import read_yaml

    parsed = {}
    for pair in pairs:
        if isinstance(pair, tuple):
            parsed[pair[0]] = pair[1]
            continue
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ValueError(f"--option needs NAME=VALUE, got {pair!r}")
        parsed[name.replace("-", "_")] = read_yaml(value, f"--option {name}").values
    return parsed
