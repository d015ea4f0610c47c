"""Kill a command before any file operation, or at any moment: the same command goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kills import COMMANDS

KILLS = Path(__file__).with_name("kills.py")


def experiment(folder: Path, *arguments: str) -> dict[str, object]:
    command = [sys.executable, str(KILLS), str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("command", ["search", "finals"])
def test_a_few_kills_lose_nothing_and_leave_nothing(command: str, tmp_path: Path) -> None:
    found = experiment(tmp_path / "kills", command, "2", "--seed", "5")
    assert (found["kills"], found["problems"]) == (2, {})


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("options", [(), ("--cold",), ("--moments",), ("--moments", "--cold")], ids=" ".join)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_hundred_kills_lose_nothing_and_leave_nothing(command: str, options: tuple[str, ...], tmp_path: Path) -> None:
    assert experiment(tmp_path / "kills", command, "100", *options)["problems"] == {}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_random_processes_of_a_tree_of_workers_are_killed(tmp_path: Path) -> None:
    assert experiment(tmp_path / "kills", "workers", "100")["problems"] == {}
