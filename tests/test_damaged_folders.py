"""A damaged run folder is read as far as it goes or refused in two lines; never a traceback (`damaged_folders`)."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from damaged_folders import damage

from naslib_autokd.cli import OWN_FAULT, main

N_FOLDERS = 250
LIMIT_S = 3.0
"""Of a refusal, in this process's time."""
COMMANDS = (
    ["status", "RUN"],
    ["status", "RUN", "--json"],
    ["sample", "--run", "RUN"],
    ["export", "RUN", "--format", "safetensors"],
    ["evaluate", "--candidate", "RUN", "--budget", "0"],
    ["report", "RUN"],
)


@pytest.fixture(scope="module")
def whole(tiny_data: Any, cluttered_teacher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: three trials, two final students."""
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.runners.finals import train_family
    from naslib_autokd.runners.search import search

    out = tmp_path_factory.mktemp("whole") / "run"
    evaluator = KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher.network)
    found = search(tiny_data.task, "random_search", evaluator=evaluator, n_trials=3, seed=0, out=out)
    finals = train_family(evaluator, found.candidate, n_students=2, seed=0, out=out)
    report = {"candidate": found.candidate.to_dict(), "finals": [result.to_dict() for result in finals.results]}
    (out / "result.json").write_text(json.dumps(report))
    return out


def numbers(content: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from numbers(value, key)
    elif isinstance(content, list):
        for value in content:
            yield from numbers(value, name)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield name, content


def complaint(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """What is wrong with the answer of a command; empty if nothing is."""
    started = time.process_time()
    try:
        status = main(words)
    except SystemExit as ended:
        status = int(ended.code or 0)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        said = capfd.readouterr()
    took, lines = time.process_time() - started, said.err.strip().splitlines()
    if OWN_FAULT in said.err or "Traceback" in said.err + said.out:
        return said.err[-600:]
    if status not in (0, 2):
        return f"status {status}: {said.err[-300:]}"
    if status == 2 and (not 1 <= len(lines) <= 2 or took > LIMIT_S or len(said.err) > 2500):
        return f"refused in {took:.1f} s, {len(lines)} lines: {said.err[:500]}"
    if status == 0 and "--json" in words:
        for name, value in numbers(json.loads(said.out)):
            if ("accuracy" in name or name == "cost") and not (math.isfinite(value) and 0 <= value <= 1):
                return f"{name} = {value} is believed"
    return ""


def complaints(
    indices: Iterable[int], whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], n: int
) -> list[str]:
    found = []
    for index in indices:
        folder = tmp_path / str(index) / "run"
        shutil.copytree(whole, folder)
        what = damage(folder, index)
        for number in range(n):
            template = COMMANDS[(index + number) % len(COMMANDS)]
            words = [str(folder) if word == "RUN" else word for word in template]
            if problem := complaint(words, capfd):
                found.append(f"folder {index} ({what}), {' '.join(template)}: {problem}")
        shutil.rmtree(folder)
    return found


def test_a_sample_of_damaged_folders_is_read_or_refused(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert complaints([*range(18), 125], whole, tmp_path, capfd, 1) == []  # 125: a report without trials


@pytest.mark.parametrize("words", [COMMANDS[0], COMMANDS[5]], ids=["status", "report"])
def test_a_possible_value_in_place_of_the_one_that_was_written_is_refused(
    words: list[str], whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    trials = tmp_path / "run" / "trials.jsonl"
    trials.write_text(re.sub(r'"val_accuracy":0\.\d+', '"val_accuracy":0.99', trials.read_text(), count=1))
    with pytest.raises(SystemExit, match="2"):
        raise SystemExit(main([str(tmp_path / "run") if word == "RUN" else word for word in words]))
    said = capfd.readouterr().err
    assert re.search(r"trials.jsonl, line \d: this is not the line that was written", said)
    assert "put back what was there, or start a new run folder" in said


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(10))
def test_all_damaged_folders_are_read_or_refused(
    part: int, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    size = N_FOLDERS // 10
    assert complaints(range(part * size, (part + 1) * size), whole, tmp_path, capfd, len(COMMANDS)) == []
