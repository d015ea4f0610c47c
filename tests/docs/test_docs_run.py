"""Code and commands of README and docs run, in the order of the page, in one folder and one namespace a page.

The embedded task is exchanged for one of moments (`TINY`), nothing else. Where each command is executed stands in
`COMMANDS`; one that is not there fails.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from docs_pages import PAGES, ROOT, Block, blocks, commands, commands_in, inline_commands, name_of, text_of
from PIL import Image
from scripts import script

from naslib_autokd import unregister
from naslib_autokd.cli import build_parser, main
from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.runners.study import Study
from naslib_autokd.search_spaces.hnag import Candidate, HNAGSpace
from naslib_autokd.tasks import TASKS, Task

TINY = {
    "n_train": 64,
    "n_teacher": 600,
    "n_val": 200,
    "n_test": 200,
    "teacher_epochs": 6,
    "min_teacher_accuracy": 0.0,
    "batch_size": 32,
    "min_budget_epochs": 1,
    "max_budget_epochs": 3,
}
REAL_TASK = ("docs/benchmark.md", "docs/extend_optimizer.md")
"""Pages that only ask the benchmark, which is of the task as it is."""
SLOW_PAGES = (
    "README.md",
    "docs/ablations.md",
    "docs/command_line.md",
    "docs/extend_loss.md",
    "docs/extend_space.md",
    "docs/objectives.md",
    "docs/report.md",
    "docs/reproduction.md",
    "docs/shipping.md",
    "docs/start.md",
    "docs/tutorial.md",
)
"""Those that take more than some five seconds; `.ci/run` runs them too."""
PYTHON_ELSEWHERE = {
    "docs/naslib.md": "tests/plugin/test_plugin_docs.py::test_the_page_runs",
    "docs/ablations.md": "tests/runners/test_ablation.py::test_the_code_of_the_documentation_runs",
    "docs/foreign_tables.md": "tests/evaluators/test_foreign.py::test_the_search_of_the_page_runs",
}
"""Pages whose Python needs more than a small task, and the test that has it."""

# --- where each command is executed ---------------------------------------------------------------------------------


class Here(str):
    """Executed with its page, as it stands but for the words of this string, which make it smaller."""


HERE = Here("")
CI = ".ci/run"
"""Installing and checking: in a fresh environment."""
EXAMPLE = "tests/test_examples.py::test_autokd_vs_darts_prints_its_table_and_keeps_everything"
SHIPPED = "tests/test_ship_a_student.py::test_from_a_folder_and_a_torchvision_model_to_an_onnx_student"
JUDGED = "tests/shipping/test_judge.py::test_accuracy_classes_and_calibration_are_those_of_the_module"
INT8 = "tests/shipping/test_int8.py::test_a_student_that_loses_too_much_is_refused_and_nothing_is_written"
PHOTO_IN_C = "tests/shipping/test_c_file.py::test_a_picture_gets_the_students_logits"
MEMBER = "tests/shipping/test_members.py::test_another_family_is_trained_by_the_runs_settings_exported_and_judged"
BENCH = "tests/evaluators/test_benchmark.py::test_from_training_to_verification"
RUNNER = "tests/plugin/test_plugin_runner.py::test_every_shipped_configuration_runs"
NASLIB_SEARCH = (
    "tests/plugin/test_plugin_runner.py::test_our_command_line_searches_naslibs_spaces_with_naslibs_optimizers"
)
ZERO_COST = "tests/plugin/test_plugin_zero_cost.py::test_scores_come_first_are_charged_and_are_replayed"
WORKERS = "tests/test_cli.py::test_workers_find_what_one_worker_finds_and_their_limits_hold"
DEVICES = "tests/runners/test_engine.py::test_each_worker_has_its_device"
DATA_CHECK = "tests/test_commands_data.py::test_the_command"
DASK = "tests/runners/test_engine.py::test_a_dask_worker_that_disappears_costs_its_own_trial_only"
TLS = "tests/runners/test_hosts.py::test_a_tls_scheduler_is_used_with_certificates_and_refused_without"
SLURM = "tests/runners/test_engine.py::test_the_example_makes_a_slurm_script"
KD_VARIANTS = "tests/runners/test_baselines.py::test_example_tests_the_claim"
TEACHER_CLAIM = "tests/test_examples_claims.py"
NASBENCH201 = "tests/plugin/test_table_cells.py::test_naslibs_pickles_are_a_benchmark"
TABLES = "tests/test_benchmark_tables.py::test_a_small_study_is_run_continued_and_reported"
LOGGER = "tests/runners/test_loggers.py::test_a_logger_of_ones_own_hears_of_every_trial_and_a_broken_one_stops_nothing"
CARPS = "tests/runners/test_carps.py::test_the_commands"
CARPS_RUN = "python -m carps.run 'hydra.searchpath=[pkg://naslib_autokd.carps.configs]'"
USER = "nothing of ours"
"""Cloning, exporting a variable, starting Dask."""
OWN_OPTIMIZER = "tests/runners/test_ablation.py::test_an_optimizer_of_a_module_is_found_by_its_path"
SMALL_STUDY = Here("--seeds 1 --student-epochs 18 --workers 1 --methods autokd")

COMMANDS: dict[str, str] = {
    # installation
    "python3 -m venv .venv": CI,
    "pip install -q -c constraints.txt -e .": CI,
    "pip install -q -c constraints.txt -e '.[test]'": CI,
    "pip install -q -c constraints.txt -e '.[test,docs]'": CI,
    "pip install -c constraints.txt -e '.[naslib]'": USER,
    "pytest -n auto --dist worksteal": CI,
    "ruff check .": CI,
    "ruff format --check .": CI,
    "mypy": CI,
    "mkdocs build --strict": CI,
    "git clone https://github.com/automl/NASLib.git": USER,
    "git -C NASLib checkout 0b51bc18": USER,
    "git clone '<this' 'repository>' naslib_autokd": USER,
    "cd naslib_autokd": USER,
    "export 'NASLIB_HOME=$PWD/NASLib'": USER,
    "naslib-autokd doctor": "tests/plugin/test_plugin_loader.py::test_the_doctor_names_what_is_missing",
    # measurements
    "python benchmarks/latency.py": "tests/test_benchmark_students.py::test_latencies_are_measured",
    "naslib-autokd teacher train --task benchmarks/results/cifar10/task.yaml --data-dir images "
    "--out resnet20.safetensors": USER,
    "python benchmarks/cifar10.py --data-dir images --teacher resnet20.safetensors --out runs/teacher-90 "
    "--seeds 2": "tests/test_benchmark_cifar10.py::test_methods_are_paired_by_teacher_and_search",
    "python benchmarks/int8.py": "tests/test_benchmark_int8.py::"
    "test_fine_tuning_wins_back_what_longer_training_does_not",
    "python benchmarks/device.py --seeds 10": "tests/test_benchmark_device.py::"
    "test_arms_are_paired_with_the_family_of_their_task_by_seed",
    "python benchmarks/device.py --seeds 3 --presets hnag-device --long": "tests/test_benchmark_device.py::"
    "test_arms_are_paired_with_the_family_of_their_task_by_seed",
    "python benchmarks/device.py --seeds 10 --presets hnag-device --limits 0.34 --teacher resnet20.safetensors "
    "--task benchmarks/results/cifar10/task.yaml --data-dir images": "tests/test_benchmark_device.py::"
    "test_arms_are_paired_with_the_family_of_their_task_by_seed",
    "python benchmarks/tables.py run nasbench201-cifar100.yaml nasbench201-cifar10.yaml --out runs/tables": TABLES,
    "python benchmarks/tables.py report nasbench201-cifar100.yaml nasbench201-cifar10.yaml --out runs/tables": TABLES,
    # searches
    "naslib-autokd search --task cluttered-digits --trials 24 --seed 0 --out runs/first": HERE,
    "naslib-autokd status runs/first": HERE,
    "naslib-autokd sample --task cifar10 --candidate family.yaml --seed 2 --draw wiring.svg": HERE,
    "naslib-autokd sample --task cifar10 --candidate family.yaml --seed 2 --count 6 --draw family.svg": HERE,
    "naslib-autokd export runs/first --format safetensors": HERE,
    "naslib-autokd search --task cluttered-digits --trials 8 --finals 2 --out runs/small": HERE,
    "naslib-autokd export runs/small": HERE,
    "naslib-autokd export runs/small --format c": HERE,
    "cc -O3 -DSTUDENT_MAIN runs/small/export/student.c -o student": PHOTO_IN_C,
    "./student photo.f32": PHOTO_IN_C,
    "naslib-autokd export runs/small --int8": Here("--max-drop 20"),
    "naslib-autokd export runs/small --int8 --max-drop 0.5": INT8,
    "naslib-autokd export runs/small --int8 --int8-fine-tune 5": Here("--int8-fine-tune 1 --max-drop 20"),
    "naslib-autokd test runs/small": HERE,
    "naslib-autokd search --task cluttered-digits --objectives error,latency --trials 6 --finals 1 "
    "--out runs/front": HERE,
    "naslib-autokd export runs/front --family 3fe21d958456": MEMBER,
    "naslib-autokd test runs/small/export/student.onnx digits": JUDGED,
    "naslib-autokd test runs/photos/export/student.onnx new_photos": SHIPPED,
    "naslib-autokd search --task cluttered-digits --trials 60 --workers 4 --out runs/four": WORKERS,
    "naslib-autokd search --task mine.yaml --trials 200 --workers 8 --device cuda --out runs/gpus": DEVICES,
    "naslib-autokd search --task mine.yaml --trials 200 --workers 4 --device cuda:0,cuda:1 --out runs/two": DEVICES,
    "dask scheduler": USER,
    "dask worker tcp://host:8786 --nthreads 1 --nworkers 4": USER,
    "naslib-autokd search ... --scheduler tcp://host:8786 --out runs/cluster": DASK,
    "dask scheduler --protocol tls": USER,
    "naslib-autokd search ... --scheduler tls://host:8786 --out runs/cluster": TLS,
    "naslib-autokd search ... --cluster examples/cluster-slurm.yaml --out runs/slurm": SLURM,
    "naslib-autokd search --config search.yaml --out runs/configured": HERE,
    "naslib-autokd search --config search.yaml --trials 12 --out runs/configured": HERE,
    "naslib-autokd sample --preset hnag-small --seed 0 --count 3 --json > families.jsonl": HERE,
    "naslib-autokd status runs/configured --json > status.json": HERE,
    "naslib-autokd completion bash > completion.sh": HERE,
    "naslib-autokd search --task cluttered-digits --trials 8 --finals 2 --out runs/seen": HERE,
    "naslib-autokd report runs/seen": HERE,
    "naslib-autokd report runs/seen --out seen.html --figures figures": HERE,
    "naslib-autokd sample --candidate runs/seen --seed 0 --count 6 --draw family.svg": HERE,
    "naslib-autokd sample --run runs/seen --draw student.svg": HERE,
    "naslib-autokd sample --run runs/first --draw student.svg": HERE,
    "naslib-autokd report runs/first": HERE,
    "naslib-autokd report runs/seen --export deepcave exported": HERE,
    "naslib-autokd search --task cluttered-digits --trials 4 --finals 1 --loggers mylogger:Lines "
    "--out runs/logged": LOGGER,
    "naslib-autokd search --objective mylosses:logit_matching --optimizer random_search --trials 4 "
    "--out runs/matching": HERE,
    "naslib-autokd search --optimizer promote:Promote --option group=2 --trials 6 --finals 1 --out runs/promote": (
        OWN_OPTIMIZER
    ),
    "naslib-autokd compare-kd --student resnet8x0.5 --losses kd,mylosses:logit_matching --seeds 2 "
    "--out runs/losses": HERE,
    "naslib-autokd search --task cluttered-digits --max-params 12000 --max-macs 800000 --max-memory 4MB --trials 6 "
    "--finals 1 --out runs/limited": HERE,
    "naslib-autokd compare-kd --family runs/limited --rivals all --seeds 5 --out runs/rivals": Here(
        "--rivals resnet8 --seeds 1 --workers 1"
    ),
    "naslib-autokd search --task cluttered-digits --objectives error,macs --trials 12 --finals 1 "
    "--out runs/front": HERE,
    # teachers, data and students
    "naslib-autokd data check photos": DATA_CHECK,
    "naslib-autokd data check --task photos.yaml": HERE,
    "naslib-autokd teacher train --task photos.yaml --architecture resnet-small --epochs 6 "
    "--out teacher.safetensors": HERE,
    "naslib-autokd teacher check --task photos.yaml --teacher teacher.safetensors": HERE,
    "naslib-autokd teacher check --task photos.yaml --teacher teacher.safetensors --teacher-architecture resnet-small "
    "--mean 0.47,0.49,0.60 --std 0.21,0.16,0.20 --out restated.safetensors": HERE,
    "naslib-autokd teacher check --task cluttered-digits --teacher mynet:build": HERE,
    "naslib-autokd teacher train --task imagefolder --data-dir photos --architecture torchvision:resnet18 "
    "--out teacher.safetensors": SHIPPED,
    "naslib-autokd teacher check --task imagefolder --data-dir photos --teacher teacher.safetensors": SHIPPED,
    "naslib-autokd search --task imagefolder --data-dir photos --teacher teacher.safetensors --max-params 300000 "
    "--max-memory 500MB --trials 24 --out runs/photos": SHIPPED,
    "naslib-autokd export runs/photos --format onnx": SHIPPED,
    "python examples/run_exported_student.py runs/photos/export/student.onnx photo.jpg": SHIPPED,
    # studies and the benchmark
    f"{CARPS_RUN} +optimizer/autokd=config +task/autokd=multifidelity seed=1": CARPS,
    f"{CARPS_RUN} +optimizer/smac20=multifidelity +task/autokd=multifidelity seed=1": CARPS,
    "naslib-autokd ablate --list": HERE,
    "naslib-autokd ablate optimizers --task cluttered-digits --seeds 20": SMALL_STUDY,
    "naslib-autokd ablate sample-efficiency": SMALL_STUDY,
    "naslib-autokd ablate optimizers --budget-unit training_seconds": Here(
        "--methods random_search,hyperband --seeds 1 --student-epochs 18 --workers 1"
    ),
    "naslib-autokd ablate optimizers --budget-unit training_seconds --seeds 40": SMALL_STUDY,
    "naslib-autokd ablate kd-settings": Here("--seeds 1 --student-epochs 18 --workers 1"),
    "naslib-autokd ablate model-free --methods random_search,reinforce": Here(
        "--seeds 1 --student-epochs 18 --workers 1"
    ),
    "naslib-autokd ablate kd-settings --print > my.yaml": HERE,
    "naslib-autokd ablate my.yaml --workers 4 --out runs/mine": Here("--seeds 1 --student-epochs 18 --workers 1"),
    "naslib-autokd ablate optimizers --benchmark nasbench201-cifar100": NASBENCH201,
    "naslib-autokd ablate optimizers --benchmark table.yaml --student-epochs 270": Here(
        "--seeds 1 --student-epochs 4 --workers 1 --methods random_search"
    ),
    "naslib-autokd bench correlations table.yaml": HERE,
    "naslib-autokd bench query cluttered-digits --candidate family.yaml --budget 9 --seed 0": HERE,
    "naslib-autokd bench info cluttered-digits": HERE,
    "naslib-autokd bench build --task my-task.yaml --workers 8 --out runs/table": BENCH,
    "naslib-autokd bench fit runs/table --out my-task-v1.npz": BENCH,
    "naslib-autokd bench verify my-task-v1.npz --generators 30 --seed 1 --out runs/verify": BENCH,
    # examples
    "python examples/run_autokd_vs_darts.py": EXAMPLE,
    "python examples/run_autokd_vs_darts.py --budget 140 --seeds 5": EXAMPLE,
    "python examples/run_autokd_vs_darts.py --seeds 5 --task cluttered-digits --unit student_epochs "
    "--labels-only": EXAMPLE,
    "python examples/claim_kd_variants.py --seeds 8": KD_VARIANTS,
    "python examples/claim_kd_variants.py --task cifar10 --data-dir data --device cuda "
    "--students resnet20,wrn_16_1": KD_VARIANTS,
    "python examples/claim_teacher_accuracy.py": TEACHER_CLAIM,
    "python examples/claim_teacher_accuracy.py --task cifar10 --data-dir data --teacher wrn_40_2 "
    "--trainings 60": TEACHER_CLAIM,
    # NASLib
    "naslib-autokd search --optimizer naslib-bananas --option num_init=8 --option k=4 --trials 24 "
    "--out runs/bananas": NASLIB_SEARCH,
    "naslib-autokd search --optimizer naslib-zerocost:jacov --option n_scored=100 --trials 12 "
    "--out runs/jacov": ZERO_COST,
    "python -m naslib_autokd.plugin.runner --list": CI,
    "python -m naslib_autokd.plugin.runner --config-file hnag-autokd.yaml seed 3 search.epochs 40": RUNNER,
}


def words_of(command: str) -> list[str]:
    return [word for word in shlex.split(command) if word != "..."]


ALL = sorted({(name_of(page), command.replace("'>'", ">")) for page in PAGES for command in commands(page)})


def test_every_command_has_a_place_where_it_is_executed() -> None:
    unknown = sorted({f"{page}: {command}" for page, command in ALL if command not in COMMANDS})
    assert not unknown, "say in COMMANDS where these are executed:\n" + "\n".join(unknown)
    gone = sorted(set(COMMANDS) - {command for _, command in ALL})
    assert not gone, "no page has these any more:\n" + "\n".join(gone)


PLACES = {place for place in COMMANDS.values() if not isinstance(place, Here) and place != USER}


@pytest.mark.parametrize("place", sorted({*PLACES, *PYTHON_ELSEWHERE.values()}))
def test_the_places_are_there(place: str) -> None:
    path, _, test = place.partition("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    if test:
        names = {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
        assert test in names, f"{path} has no {test}"


def test_what_ci_executes_is_in_it() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command, place in COMMANDS.items():
        if place == CI:
            program = shlex.split(command)[0]
            last = shlex.split(command)[-1] if program == "python" else program
            assert last in script or program in ("python3", "pip", "pytest"), command


# --- they are parsed by the real parsers ----------------------------------------------------------------------------


def find_parser(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of a command's innermost subcommand, and the words that it is given."""
    parser = build_parser()
    while words:
        nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not nested:
            break
        assert words[0] in nested[0].choices, f"{words[0]!r} is no command of {parser.prog}"
        parser, words = nested[0].choices[words[0]], words[1:]
    return parser, words


def unknown_options(words: list[str]) -> list[str]:
    parser, rest = find_parser(words)
    given = [word.partition("=")[0] for word in rest if word.startswith("--")]
    return [option for option in given if option not in parser._option_string_actions]


def test_options_of_all_commands_exist() -> None:
    ours = {c for _, c in ALL} | {c for page in PAGES for c in inline_commands(page)}
    wrong = {c: bad for c in ours if c.startswith("naslib-autokd ") and (bad := unknown_options(words_of(c)[1:]))}
    assert not wrong


def test_an_option_that_is_gone_is_found() -> None:
    assert unknown_options(["search", "--trial", "3", "--out", "x"]) == ["--trial"]
    with pytest.raises(AssertionError, match="'serach' is no command"):
        unknown_options(["serach"])


@pytest.mark.parametrize("command", sorted({c for _, c in ALL if c.startswith("naslib-autokd ")}))
def test_commands_are_parsed(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search.yaml").write_text("trials: 3\n")
    build_parser().parse_args(words_of(command.partition(" > ")[0])[1:])


def example_commands() -> list[str]:
    """Of the pages, and of the examples' own docstrings; a script that takes words in order has nothing to parse."""
    found = {command for _, command in ALL}
    for path in (ROOT / "examples").glob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found |= set(re.findall(r"^ *(python examples/[^#\n]*[^#\s])", docstring, re.MULTILINE))
    return sorted(c for c in found if c.startswith("python examples/") and "run_exported_student" not in c)


@pytest.mark.parametrize("command", example_commands())
def test_options_of_examples_exist(command: str) -> None:
    _, path, *words = words_of(command)
    module = script(path)
    if hasattr(module, "parse"):
        module.parse(words)
    else:
        assert not words, f"{path} takes no options"


SCRIPT_COMMANDS = sorted(
    {
        (name_of(page), script, tuple(re.findall(r"--[a-z-]+", words)))
        for page in PAGES
        for script, words in re.findall(r"python ((?:benchmarks|examples)/\w+\.py)([^\n`#]*)", text_of(page))
    }
)
"""Wherever they stand in a page: ``(page, script, options)``."""


@pytest.mark.parametrize(("page", "script", "options"), SCRIPT_COMMANDS)
def test_scripts_are_there_and_have_the_options(page: str, script: str, options: tuple[str, ...]) -> None:
    source = (ROOT / script).read_text(encoding="utf-8")
    if "task_from_options" in source or "add_task_options" in source:
        source += (ROOT / "naslib_autokd" / "commands" / "_options.py").read_text(encoding="utf-8")
    assert not [option for option in options if f'"{option}"' not in source]


# --- yaml and toml --------------------------------------------------------------------------------------------------


def config_blocks() -> list[tuple[str, Block]]:
    return [(name_of(page), block) for page in PAGES for block in blocks(page) if block.kind in ("yaml", "toml")]


@pytest.mark.parametrize(("page", "block"), config_blocks(), ids=lambda value: value if isinstance(value, str) else "")
def test_files_that_are_shown_are_valid(page: str, block: Block) -> None:
    if block.kind == "toml":
        groups = tomllib.loads(block.text)["project"]["entry-points"]
        assert all(group.startswith("naslib_autokd.") for group in groups)
        return
    content = yaml.safe_load(block.text)
    if "dataset" in content:
        Task.from_yaml(block.text)
    elif "trials" in content:  # options of a search; what is wrong in one is an error, see the page's command
        known = {action.dest.replace("_", "-") for action in find_parser(["search"])[0]._actions}
        assert content.keys() <= known
    elif "generator" in content:
        Candidate.from_yaml(block.text)
    elif "methods" in content:
        Study.from_yaml(block.text)
    else:  # its keys are checked by tests/evaluators/test_foreign.py::test_the_shipped_descriptions_are_read
        assert "csv" in content, f"{page}: nobody says what this file is"


# --- the pages run --------------------------------------------------------------------------------------------------


def write_photos(root: Path) -> None:
    """40 noisy pictures of unequal size for each of three colours."""
    rng = np.random.RandomState(0)
    for name, colour in (("ash", (190, 80, 90)), ("bay", (60, 180, 160)), ("cob", (110, 120, 210))):
        (root / name).mkdir(parents=True)
        for number in range(40):
            size = (*rng.randint(36, 60, size=2), 3)
            pixels = (np.array(colour) + rng.normal(scale=25, size=size)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03d}.jpg")


TABLE = """\
name: made
csv: table.csv
architecture: [width, depth]
kd: [method]
fidelity: {column: share}
validation_accuracy: valid
test_accuracy: test
reference: {method: kd, share: 1}
"""


def write_table(root: Path) -> None:
    lines = ["width,depth,method,share,valid,test"]
    for width in (8, 16, 24, 32):
        for depth in (2, 3, 4):
            for method, gain in (("kd", 0.05), ("none", 0.0)):
                for share, loss in (("1/3", 0.2), ("1", 0.0)):
                    accuracy = 0.5 + width / 100 + depth / 50 + gain - loss
                    lines.append(f"{width},{depth},{method},{share},{accuracy:.3f},{accuracy - 0.01:.3f}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    (root / "table.yaml").write_text(TABLE)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what the pages presume; registries and modules are as before afterwards."""
    from naslib_autokd.distillation import baselines, feature_losses
    from naslib_autokd.teachers import zoo

    registries: list[dict[str, Any]] = [TASKS, baselines.TERMS, baselines.TITLES, feature_losses.WEIGHTS, zoo.ZOO]
    before, modules = [dict(registry) for registry in registries], set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_table(tmp_path)
    (tmp_path / "family.yaml").write_text(HNAGSpace("hnag-small").default_candidate().to_yaml())
    yield tmp_path
    unregister()
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def run_command(command: str, place: Here) -> None:
    """In this process; what a page sends into a file goes there."""
    before, _, file = command.partition(" > ")
    program, *words = [*words_of(before), *shlex.split(place)]
    assert program == "naslib-autokd"
    said = io.StringIO()
    with contextlib.redirect_stdout(said) if file else contextlib.nullcontext():
        assert main(words) == 0, command
    if file:
        Path(file).write_text(said.getvalue())


ALONE: set[str] = set()
"""Studies that were executed: they depend on no page, so once is enough."""


def is_run(page: Path) -> bool:
    here = any(isinstance(COMMANDS.get(command), Here) for command in commands(page))
    return here or (name_of(page) not in PYTHON_ELSEWHERE and any(block.kind == "python" for block in blocks(page)))


def check_teachers(said: str, folder: Path) -> None:
    assert "these images can be used" in said
    assert "classes        3: ash 40, bay 40, cob 40" in said
    assert said.count("this teacher can be used for 'photos'") == 3
    assert "61 11 ('dark', 'grey', 'light')" in said
    assert "torch.Size([14, 3]) 2" in said
    assert (folder / "restated.safetensors").is_file()
    assert (folder / "runs" / "shades" / "splits.json").is_file()


def check_benchmark(said: str, folder: Path) -> None:
    for line in (r"validation error 0\.\d+, \d+ parameters", r"regret \d+\.\d\d points"):
        assert re.search(line, said), said
    mean, expected = re.findall(r"mean of 200 trainings (\S+), expected (\S+)", said)[0]
    assert abs(float(mean) - float(expected)) < 0.01


def check_tutorial(said: str, folder: Path) -> None:
    assert "n_trials after 24 trials" in said
    assert (folder / "family.png").is_file()
    assert said.count("kept") == 1
    assert re.search(r"autokd: \d+\.\d\d points above", said)


def check_concepts(said: str, folder: Path) -> None:
    """The pictures that are shown are those that the page's commands draw."""
    for name in ("wiring.svg", "family.svg"):
        drawn, shown = ((place / name).read_text() for place in (folder, ROOT / "docs" / "images"))
        drawn, shown = (set(re.findall(r">([^<]+)</text>", each)) for each in (drawn, shown))
        assert drawn == shown != set()


def check_command_line(said: str, folder: Path) -> None:
    assert len((folder / "families.jsonl").read_text().splitlines()) == 3
    assert json.loads((folder / "status.json").read_text())["n_trials"] == 12
    assert "complete" in (folder / "completion.sh").read_text()


def check_objectives(said: str, folder: Path) -> None:
    trials = [json.loads(line) for line in (folder / "runs" / "limited" / "trials.jsonl").read_text().splitlines()]
    assert all(trial["n_params"] <= 12_000 and trial["macs"] <= 800_000 for trial in trials if trial["n_params"])
    assert (folder / "runs" / "front" / "front.csv").is_file()
    assert (folder / "runs" / "front" / "hypervolume.csv").is_file()


def check_report(said: str, folder: Path) -> None:
    for file in ("runs/seen/report.html", "seen.html", "family.svg", "student.svg"):
        assert (folder / file).stat().st_size > 1000
    assert {".pdf", ".png", ".csv"} <= {path.suffix for path in (folder / "figures").rglob("*.*")}
    assert len((folder / "exported/seen/trials.csv").read_text().splitlines()) == 9


CHECKS: dict[str, Callable[[str, Path], None]] = {
    "docs/teachers_and_data.md": check_teachers,
    "docs/benchmark.md": check_benchmark,
    "docs/concepts.md": check_concepts,
    "docs/command_line.md": check_command_line,
    "docs/objectives.md": check_objectives,
    "docs/report.md": check_report,
    "docs/tutorial.md": check_tutorial,
}
"""What a page must have said and left behind, where running to the end is not enough."""

PAGE_CASES = [
    pytest.param(page, marks=[pytest.mark.slow] if name_of(page) in SLOW_PAGES else [], id=name_of(page))
    for page in PAGES
    if is_run(page)
]


@pytest.mark.parametrize("page", PAGE_CASES)
def test_the_page_runs(page: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = name_of(page)
    if name not in REAL_TASK:
        TASKS["cluttered-digits"] = replace(TASKS["cluttered-digits"], **TINY)  # type: ignore[arg-type]
    if name == "docs/teachers_and_data.md":
        write_photos(workplace / "photos")
    module = types.ModuleType("documented")
    sys.modules["documented"] = module
    for block in blocks(page):
        if block.kind == "python" and block.title:
            Path(block.title).write_text(block.text)
        elif block.kind == "python" and name not in PYTHON_ELSEWHERE:
            if "naslib" in block.text.replace("naslib_autokd", "") and naslib_missing() is not None:
                continue  # the last thing a page does: nothing after it depends on it
            exec(compile(block.text, name, "exec"), module.__dict__)
        elif block.kind == "yaml" and block.text.startswith("# "):
            Path(block.text.splitlines()[0].removeprefix("# ")).write_text(block.text)
        elif block.kind == "bash":
            for command in commands_in(block):
                command = command.replace("'>'", ">")
                place = COMMANDS.get(command, USER)  # an unknown one has a test of its own
                if isinstance(place, Here) and command not in ALONE:
                    run_command(command, place)
                    ALONE.update({command} if " ablate " in command and ".yaml" not in command else ())
    check = CHECKS.get(name)
    if check is not None:
        check(capsys.readouterr().out, workplace)
