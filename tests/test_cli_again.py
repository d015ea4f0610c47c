"""The command that a report prints repeats the run."""

from __future__ import annotations

import inspect
import json
import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from naslib_autokd.cli import build_parser, main
from naslib_autokd.commands._again import LIMIT_OPTIONS, command_of, comparison_code
from naslib_autokd.distillation.runtime import Runtime
from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.records import GIVEN
from naslib_autokd.runners import comparison
from naslib_autokd.runners.comparison import AUTOKD_VS_DARTS
from naslib_autokd.runners.run_folder import RUN, TASK, TRAININGS
from naslib_autokd.runners.setup import check_budget, run_settings, space_of_run
from naslib_autokd.tasks import Task, get_task

FULL = get_task("digits").max_budget_epochs


def parsed(command: str) -> dict[str, Any]:
    name, *words = shlex.split(command)
    assert name == "naslib-autokd"
    return vars(build_parser().parse_args(words))


def folder_of(place: Path, task: Task, **changed: Any) -> Path:
    """The run folder of a search that was made from Python, before its first trial."""
    values: dict[str, Any] = {"seed": 0, "options": {}, "n_trials": 24, "objectives": ("error",)}
    values |= {"planned_epochs": check_budget(task, 24)} | changed
    evaluation = values.get("evaluation") or {}
    space = space_of_run(task, values.pop("space", None), values["objectives"], evaluation.get("objective", "kd"))
    place.mkdir(exist_ok=True)
    (place / TASK).write_text(task.to_yaml())
    (place / RUN).write_text(yaml.safe_dump(run_settings(values.pop("optimizer", "autokd"), space, **values)))
    return place


def test_what_run_yaml_says_of_a_search_is_in_its_command(tmp_path: Path) -> None:
    limits = StudentLimits(2_000_000, 16 * 2**20, 2**19, 0.0025)
    assert {field.name for field in fields(StudentLimits)} == set(LIMIT_OPTIONS)
    evaluation = {"objective": "ce", "teacher": "t.pt", "limits": asdict(limits), "continue_from_checkpoint": True}
    evaluation |= {"precision": "auto", "cuda_graph": False}
    evaluation["runtime"] = asdict(Runtime(threads=2, batch=8))
    asked: dict[str, Any] = {
        "optimizer": "tpe",
        "space": "hnag-wide",
        "seed": 7,
        "options": {"fidelity": "full", "gamma": 1e-05, "widths": [1, "two"]},
        "objectives": ("error", "macs"),
        "n_trials": 30,
        "student_epochs": 150.0,
        "training_seconds": 99.5,
        "wall_s": 3600.5,
        "target_cost": 1 - 0.9,
        "evaluation": evaluation,
        "planned_epochs": 150.0,
    }
    assert set(inspect.signature(run_settings).parameters) == {*asked, "start_with_default"}, "a new setting"
    task = get_task("digits", max_params=9000, max_budget_epochs=10)
    folder = folder_of(tmp_path / "a run", task, **asked)
    options = parsed(command_of(folder))
    assert get_task(options["task"]) == task
    expected = {"preset": "hnag-wide", "optimizer": "tpe", "seed": 7, "objectives": "error,macs", "trials": 30}
    expected |= {
        "student_epochs": 150.0,
        "training_seconds": 99.5,
        "max_seconds": 3600.5,
        "target_accuracy": 0.9,
        "objective": "ce",
    }
    expected |= {"teacher": "t.pt", "continue_from_checkpoint": True, "out": Path(f"{folder}-again")}
    expected |= {"max_macs": 2_000_000, "max_memory": "16777216", "max_inference_memory": "524288"}
    expected |= {"max_latency_ms": 2.5, "latency_batch": 8, "latency_threads": 2, "latency_provider": "cpu"}
    expected |= {"precision": "auto", "no_cuda_graph": True}
    assert {name: options[name] for name in expected} == expected
    assert [shlex.split(word) for word in options["option"]]
    assert sorted(options["option"]) == ['fidelity="full"', "gamma=1e-05", 'widths=[1, "two"]']


def test_a_task_as_it_is_shipped_goes_by_its_name(tmp_path: Path) -> None:
    assert parsed(command_of(folder_of(tmp_path / "run", get_task("digits"))))["task"] == "digits"


def test_what_no_command_can_ask_for_has_none(tmp_path: Path) -> None:
    assert command_of(folder_of(tmp_path / "a", get_task("digits"), start_with_default=False)) == ""
    folder = folder_of(tmp_path / "b", get_task("digits"))
    content = yaml.safe_load((folder / RUN).read_text())
    content["space"]["search_kd"] = False
    (folder / RUN).write_text(yaml.safe_dump(content))
    assert command_of(folder) == ""
    given = {"evaluation": {"objective": "kd", "teacher": f"Net{GIVEN}"}}
    assert command_of(folder_of(tmp_path / "c", get_task("digits"), **given)) == ""
    images = folder_of(tmp_path / "d", get_task("imagefolder", name="from Python", n_classes=3))
    assert command_of(images) == ""
    assert command_of(tmp_path) == ""


@pytest.mark.parametrize(
    ("planned", "first"),
    [
        (check_budget(get_task("digits"), 60), {"trials": 60, "student_epochs": None}),
        (float(FULL * 7 + 1), {"trials": None, "student_epochs": FULL * 7 + 1}),
        (None, {"trials": None, "student_epochs": None}),
    ],
)
def test_a_budget_that_was_changed_is_planned_for_first(
    planned: float | None, first: dict[str, Any], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "run", get_task("digits"), planned_epochs=planned)
    before, after = map(parsed, command_of(folder).split(" && "))
    assert {name: before[name] for name in first} == first
    assert before["max_seconds"] == 1
    task = get_task("digits")
    assert check_budget(task, before["trials"], before["student_epochs"], before["max_seconds"]) == planned
    assert (after["trials"], after["max_seconds"], after["out"]) == (24, None, before["out"])


def test_the_lines_that_repeat_a_comparison_have_all_that_decides_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"budget": 81.0, "budget_unit": "training_seconds", "n_finals": 2, "device": "cpu", "teacher": "t.pt"}
    limits = StudentLimits(max_macs=1000)
    elsewhere = {"workers", "scheduler", "cluster", "limits", "progress"}  # where jobs run, not what they give
    assert set(inspect.signature(comparison.compare).parameters) == {
        *settings,
        *elsewhere,
        "student_limits",
        "task",
        "methods",
        "seeds",
        "out",
    }
    asked: list[Any] = []
    monkeypatch.setattr(comparison, "compare", lambda *given, **named: asked.extend([given, named]))
    methods = json.loads(json.dumps([asdict(method) for method in AUTOKD_VS_DARTS]))
    exec(
        comparison_code(
            tmp_path,
            {**settings, "methods": methods, "student_limits": asdict(limits)},
            get_task("digits").to_dict(),
            [3, 4],
        ),
        {},
    )
    assert asked == [
        ("digits", list(AUTOKD_VS_DARTS)),
        {"seeds": [3, 4], **settings, "student_limits": limits, "out": f"{tmp_path}-again"},
    ]


def test_a_study_is_repeated_with_the_methods_and_seeds_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("naslib_autokd.reports.ablation.write_study_report", lambda result, out: [out / "report.md"])
    lines = ["name: two", "title: t", "question: q", "benchmark: cluttered-digits", "seeds: 2", "full_trainings: 2"]
    methods = [f"  - {{label: '{name}', optimizer: random_search}}" for name in ("A b", "C", "D")]
    Path("two.yaml").write_text("\n".join([*lines, "methods:", *methods]) + "\n")
    for name in ("A b", "D"):  # two commands on one folder
        assert main(["ablate", "two.yaml", "--workers", "0", "--methods", name, "--out", "x", "--json"]) == 0
    assert main([*shlex.split(command_of("x"))[1:], "--json"]) == 0
    runs, again = (
        {(run["method"], run["seed"]): run for run in map(results, Path(folder, "runs.jsonl").read_text().splitlines())}
        for folder in ("x", "x-again")
    )
    assert len(runs) == 4
    assert again == runs
    capsys.readouterr()


def results(line: str) -> dict[str, Any]:
    found = json.loads(line)
    return {name: value for name, value in found.items() if not name.endswith("_s")}


def test_the_losses_students_and_seeds_of_all_commands_on_a_folder_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "kd"
    folder.mkdir()
    typed = "compare-kd --losses kd,AT=500 --kd-weight 0.5 --family runs/first --seeds 2 --out"
    from naslib_autokd.commands import _config

    _config.keep(build_parser().parse_args([*typed.split(), str(folder)]), folder)
    jobs = [("resnet8", "kd", 0), ("resnet8", "at=500", 2), ("vgg8", "crd", 0), ("searched family", "sp", 0)]
    lines = [json.dumps({"student": student, "loss": loss, "seed": seed}) for student, loss, seed in jobs]
    (folder / TRAININGS).write_text("\n".join(lines) + "\n")
    options = parsed(command_of(folder))
    assert (options["losses"], options["family_losses"]) == ("kd,AT=500,crd", "sp")
    assert (options["student"], options["seeds"]) == (["resnet8", "vgg8"], 3)
    assert (options["kd_weight"], options["family"], options["out"]) == (
        0.5,
        Path("runs/first"),
        Path(f"{folder}-again"),
    )


@pytest.mark.slow  # 2 searches of trained students
@pytest.mark.parametrize("by_command", [True, False])
def test_the_printed_command_repeats_the_trials(
    by_command: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(
        "dataset: cluttered-digits\nname: small\nn_train: 64\nn_teacher: 800\nn_val: 300\nn_test: 300\n"
        "min_budget_epochs: 1\nmax_budget_epochs: 3\nteacher_epochs: 3\nmin_teacher_accuracy: 0.0\n"
    )
    typed = "search --task small.yaml --max-macs 400000 --max-params 9000 --finals 2 --seed 3 --option n_initial=2"
    assert main([*typed.split(), "--trials", "2", "--out", "run", "--json"]) == 0
    assert main([*typed.split(), "--trials", "5", "--out", "run", "--json"]) == 0
    Path("small.yaml").unlink()  # the folder has all
    if not by_command:
        Path("run/config.yaml").unlink()
    for command in command_of("run").split(" && "):
        assert "--max-macs 400000" in command
        assert "--finals 2" in command
        assert main([*shlex.split(command)[1:], "--json"]) == 0
    capsys.readouterr()
    first, again = (
        [results(line) for line in Path(folder, "trials.jsonl").read_text().splitlines()]
        for folder in ("run", "run-again")
    )
    assert len(first) == 5
    changing = ("crc32", "finished_at", "host")
    assert [{k: v for k, v in t.items() if k not in changing} for t in again] == [
        {k: v for k, v in t.items() if k not in changing} for t in first
    ]
