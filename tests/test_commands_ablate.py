"""``naslib-autokd ablate`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from naslib_autokd.cli import main

STUDY = """\
name: tiny
title: Tiny
question: Does the command work?
benchmark: cluttered-digits
full_trainings: 6
seeds: 2
methods:
  - {label: Random search, optimizer: random_search}
  - {label: Evolution, optimizer: regularized_evolution, options: {population_size: 4, sample_size: 2}}
  - {label: Nobody, optimizer: no_such_optimizer, optional: true}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(STUDY)
    return tmp_path


def test_a_study_is_run_reported_and_continued(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "tiny.yaml", "--workers", "1"]) == 0
    captured = capsys.readouterr()
    text = captured.out
    assert "Does the command work?" in text
    assert "4 of 4 runs" in captured.err
    assert "left out: Nobody: unknown optimizer 'no_such_optimizer'" in text
    out = folder / "runs" / "ablations" / "tiny-cluttered-digits"
    assert {"study.yaml", "run.yaml", "runs.jsonl", "report.md"} <= {path.name for path in out.iterdir()}
    assert f"report: {out.relative_to(folder)}" in text
    arguments = [
        "ablate",
        "tiny.yaml",
        "--workers",
        "0",
        "--seeds",
        "3",
        "--methods",
        "Evolution,random_search",
        "--json",
    ]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert printed["failures"] == printed["left_out"] == []
    assert len(printed["files"]) > 3
    assert "6 of 6 runs" in captured.err
    lines = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert sorted((line["method"], line["seed"]) for line in lines) == [
        (label, seed) for label in ("Evolution", "Random search") for seed in range(3)
    ]
    assert main(["ablate", "tiny.yaml", "--student-epochs", "90", "--workers", "0"]) == 2
    assert "student_epochs: 54.0 there, 90.0 asked for" in capsys.readouterr().err


def test_studies_are_listed_and_printed_to_be_edited(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 7
    assert any(line.startswith("optimizers ") and line.endswith("?") for line in listed)
    assert main(["ablate", "optimizers", "--print"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("#")  # comments and all
    (folder / "mine.yaml").write_text(printed)
    assert main(["ablate", "mine.yaml", "--print"]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a study, one of family-vs-individual, "),
        (["optimizer"], "unknown study 'optimizer'; did you mean 'optimizers'"),
        (["none.yaml"], "study file none.yaml does not exist"),
        (["tiny.yaml", "--seeds", "0"], "--seeds must be at least 1, got '0'"),
        (["tiny.yaml", "--methods", "Evoluton"], "unknown method 'Evoluton'; did you mean 'Evolution'"),
        (["tiny.yaml", "--student-epochs", "5"], "must pay one full training (9 epochs), got 5"),
        (["tiny.yaml", "--workers", "-1"], "--workers must be at least 0, got '-1'"),
        (["tiny.yaml", "--task", "clutered-digits"], "did you mean 'cluttered-digits'"),
        (["tiny.yaml", "--benchmark", "none.npz"], "none.npz"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(["ablate", *arguments])
    except SystemExit as refused:  # of numbers that are out of range
        status = refused.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "runs").exists()


def test_failed_runs_are_reported_in_the_exit_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "faulty_search.py").write_text(
        "from naslib_autokd.optimizers.random_search import RandomSearch\n"
        "class Faulty(RandomSearch):\n"
        "    def tell(self, trial):\n"
        "        if self.seed == 1:\n"
        "            raise RuntimeError('lost my way')\n"
        "        super().tell(trial)\n"
    )
    (folder / "tiny.yaml").write_text(
        STUDY.replace(
            "optimizer: regularized_evolution, options: {population_size: 4, sample_size: 2}",
            "optimizer: 'faulty_search:Faulty'",
        )
    )
    assert main(["ablate", "tiny.yaml", "--workers", "1", "--out", "out"]) == 1
    assert "failed: Evolution, seed 1: RuntimeError: lost my way" in capsys.readouterr().out
