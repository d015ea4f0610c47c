"""Ctrl-C and SIGTERM in commands: what runs is finished and saved, exit status 130, one line, and the same goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from naslib_autokd import cli
from naslib_autokd.reports.terminal import Live

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_study_finishes_the_running_search_and_goes_on_later(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY)
    command = ["ablate", str(tmp_path / "tiny.yaml"), "--workers", "1", "--out", str(tmp_path / "run")]
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

    for name in ("reports.run_data.read_run", "runners.export.kept_student", "commands.status._finished"):
        monkeypatch.setattr(f"naslib_autokd.{name}", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main([word.replace("RUN", str(tmp_path)) for word in command]) == 130
    assert capsys.readouterr().err == "interrupted; what finished is saved, the same command continues\n"
    assert signal.getsignal(signal.SIGTERM) is before
