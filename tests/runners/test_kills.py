"""Kill a command before any file operation, or at any moment: the same command goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kills import COMMANDS, TREES

KILLS = Path(__file__).with_name("kills.py")


def experiments(folder: Path, *arguments: str) -> list[dict[str, object]]:
    command = [sys.executable, str(KILLS), str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_few_kills_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    (found,) = experiments(tmp_path, "finals", "2", "--seed", "5")
    assert (found["kills"], found["problems"]) == (2, {})


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_hundred_kills_lose_nothing_and_leave_nothing(command: str, tmp_path: Path) -> None:
    found = experiments(tmp_path, command, "25", "--each")
    assert len(found) == 4
    assert [each["problems"] for each in found] == [{}] * 4


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"one-shot"}))  # a worker's job, killed with its command
def test_a_signal_at_any_moment_ends_a_command_in_order(command: str, tmp_path: Path) -> None:
    (found,) = experiments(tmp_path, command, "10", "--moments", "--signal", "SIGTERM")
    assert (found["kills"], found["problems"]) == (10, {})


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("tree", TREES)
def test_random_processes_of_a_tree_of_workers_are_killed(tree: str, tmp_path: Path) -> None:
    (found,) = experiments(tmp_path, tree, "50")
    assert (found["kills"], found["problems"]) == (50, {})
    assert found["in_trainings"] >= 10  # kills that met nothing but loading workers would show little
