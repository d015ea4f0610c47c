"""Ctrl-C and SIGTERM in commands: what runs is finished and saved, exit status 130, one line, and the same goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty import FormulaEvaluator

from naslib_autokd import cli
from naslib_autokd.evaluators.kd import FinalResult
from naslib_autokd.reports.terminal import Live
from naslib_autokd.runners import baselines
from naslib_autokd.runners.engine import InProcessEngine

STUDY = """\
name: tiny
title: Tiny
question: Is anything lost?
benchmark: cluttered-digits
full_trainings: 4
seeds: 3
methods:
  - {label: Random search, optimizer: random_search}
"""


def signal_at(monkeypatch: pytest.MonkeyPatch, number: int, show: int, times: int = 1) -> list[str]:
    """Send this process a signal when a command shows its progress for the ``show``-th time; what it has shown."""
    shown: list[str] = []

    def stop(live: Live, fraction: float, text: str, *_: object) -> None:
        shown.append(text)
        if len(shown) == show:
            for _ in range(times):
                os.kill(os.getpid(), number)

    monkeypatch.setattr(Live, "show", stop)
    return shown


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_study_finishes_the_running_search_and_goes_on_later(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY)
    command = ["ablate", str(tmp_path / "tiny.yaml"), "--workers", "0", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        signal_at(patched, number, 1)
        assert cli.main(command) == 130
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == "interrupted; stopped after 1 of 3 runs; the same command continues"
    assert len((tmp_path / "run" / "runs.jsonl").read_text().splitlines()) == 1
    with monkeypatch.context() as patched:
        monkeypatch.setattr("naslib_autokd.reports.ablation.write_study_report", lambda *_: [Path("report.md")])
        assert len(signal_at(patched, number, 99)) == 0
        assert cli.main(command) == 0
    assert len((tmp_path / "run" / "runs.jsonl").read_text().splitlines()) == 3


class StandIn:
    """Instead of the evaluator of a comparison of losses: a teacher, and nothing to load."""

    teacher = None

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes what the evaluator takes."""

    def teacher_row(self) -> FinalResult:
        return replace(TRAINED, seed=0, test_accuracy=0.9)


TRAINED = FinalResult("resnet8", 0, "success", "", 3, 0.7, 0.8, 2000, 100_000, 4096, 1.0, test_accuracy=0.6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_comparison_of_losses_finishes_the_running_training_and_goes_on_later(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(baselines, "BaselineEvaluator", StandIn)
    monkeypatch.setattr(baselines, "train_one", lambda _, job: replace(TRAINED, seed=job["seed"]).to_dict())
    command = ["compare-kd", "--task", "digits", "--losses", "kd,dkd", "--seeds", "2", "--workers", "1"]
    command += ["--out", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        signal_at(patched, number, 1)
        assert cli.main(command) == 130
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == "interrupted; stopped after 1 of 4 trainings; the same command continues"
    results = tmp_path / "run" / "results.jsonl"
    first = results.read_bytes()
    assert first.count(b"\n") == 1
    with monkeypatch.context() as patched:
        assert len(signal_at(patched, number, 99)) == 0
        assert cli.main(command) == 0
    assert results.read_bytes().startswith(first)
    assert results.read_bytes().count(b"\n") == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_finishes_the_running_training_and_goes_on_later(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("naslib_autokd.commands.bench.recording_engine", lambda *_: InProcessEngine(FormulaEvaluator()))
    command = ["bench", "build", "--space-families", "2", "--out", str(tmp_path / "run")]
    command += [f"--{name}-families=0" for name in ("nested", "dense", "dense-nested", "held-out", "dense-held-out")]
    with monkeypatch.context() as patched:
        signal_at(patched, number, 2)
        assert cli.main(command) == 130
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == f"stopped; what was trained is in {tmp_path / 'run'}, the same command goes on"
    trials = tmp_path / "run" / "trials.jsonl"
    first = trials.read_bytes()
    assert first.count(b"\n") == 2
    with monkeypatch.context() as patched:
        signal_at(patched, number, 999)
        assert cli.main(command) == 0
    assert trials.read_bytes().startswith(first)
    assert len({json.loads(line)["number"] for line in trials.read_text().splitlines()}) == trials.read_bytes().count(
        b"\n"
    )


def test_a_second_signal_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY)
    shown = signal_at(monkeypatch, signal.SIGTERM, 1, times=2)
    assert cli.main(["ablate", str(tmp_path / "tiny.yaml"), "--workers", "1", "--out", str(tmp_path / "run")]) == 130
    assert len(shown) == 1


@pytest.mark.parametrize("command", [["report", "RUN"], ["export", "RUN"], ["status", "RUN"]])
def test_commands_with_nothing_to_finish_end_in_order_at_sigterm(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Callable[..., None]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    for name in ("reports.results.read_run", "shipping.export.kept_student", "commands.status._finished"):
        monkeypatch.setattr(f"naslib_autokd.{name}", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main([word.replace("RUN", str(tmp_path)) for word in command]) == 130
    assert capsys.readouterr().err == "interrupted; what finished is saved, the same command continues\n"
    assert signal.getsignal(signal.SIGTERM) is before
