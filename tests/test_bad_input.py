"""What is wrong is refused: at once, in two lines, without a traceback, and nothing is left behind (`bad_input`)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_input import Case, case

from naslib_autokd.cli import OWN_FAULT, main

N_CASES = 1500
LIMIT_S = 3.0
"""Of this process's time, with the packages loaded."""


@pytest.fixture(scope="module")
def loaded() -> None:
    """The heavy packages are there."""
    import smac  # noqa: F401
    import torch  # noqa: F401

    import naslib_autokd.evaluators.kd
    import naslib_autokd.runners.search  # noqa: F401


class Stuck(BaseException):
    """A command that should have been refused works."""


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Stuck

    before = signal.signal(signal.SIGPROF, stop)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def complaint(case: Case, folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What is wrong with how a case is refused; empty if nothing is."""
    folder.mkdir()
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    os.chdir(folder)
    started, status = time.process_time(), -1
    signal.setitimer(signal.ITIMER_PROF, 30)  # of processor time: the machine may be busy
    try:
        status = main(case.words)
    except SystemExit as ended:
        status = int(ended.code or 0)
    except Stuck:
        return "was not refused within 30 s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        said = capfd.readouterr()
    took = time.process_time() - started
    lines = said.err.strip().splitlines()
    if status != 2:
        return f"status {status}: {said.out[-200:]} {said.err[-300:]}"
    if not 1 <= len(lines) <= 2 or not lines[-1].startswith("naslib-autokd: error: "):
        return f"{len(lines)} lines: {said.err[:600]}"
    if OWN_FAULT in said.err or "Traceback" in said.err:
        return said.err
    if not said.err.replace("\n", "").isprintable() or len(said.err) > 2500:
        return f"cannot be read: {said.err[:300]!r}"
    if took > LIMIT_S:
        return f"took {took:.1f} s"
    left = {path.name for path in folder.iterdir()} - set(case.files)
    return f"left behind: {left}" if left else ""


def complaints(indices: range, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> list[str]:
    here = Path.cwd()
    found = []
    try:
        for index in indices:
            one = case(index)
            if problem := complaint(one, tmp_path / str(index), capfd):
                found.append(f"case {index}, {' '.join(one.words)[:150]!r} ({one.wrong}): {problem}")
    finally:
        os.chdir(here)
    return found


def test_a_sample_of_bad_input_is_refused(loaded: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert complaints(range(40), tmp_path, capfd) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(10))
def test_all_bad_input_is_refused(part: int, loaded: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    size = N_CASES // 10
    assert complaints(range(part * size, (part + 1) * size), tmp_path, capfd) == []
