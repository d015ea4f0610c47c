"""The study of docs/nasbench201.md on a small table: run, continued, reported; local search until the best row."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import ModuleType

import pytest
import scripts


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = scripts.script("benchmarks/tables.py")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "REFERENCE", "Random search")
    return module


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [f"{w},{d},{e},{0.5 + 0.01 * w + 0.001 * d * e},1" for w in range(9) for d in range(9) for e in (1, 4)]
    (tmp_path / "small.csv").write_text("\n".join(["width,depth,epochs,valid,s", *rows]) + "\n")
    path = tmp_path / "small.yaml"
    path.write_text(
        "name: small\ncsv: small.csv\narchitecture: [width, depth]\nfidelity: {column: epochs}\n"
        "validation_accuracy: valid\ntest_accuracy: valid\n"
    )
    return path


def call(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["tables.py", *words])
    script.main()


def test_a_small_study_is_run_continued_and_reported(
    script: ModuleType, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    common = (str(table), "--out", str(out), "--budgets", "5,12", "--workers", "0", "--seeds", "3")
    for methods in ("random_search", "random_search,two-stage-random"):
        call(script, monkeypatch, "run", *common, "--methods", methods)
    lines = [json.loads(line) for line in (out / "small-5" / "runs.jsonl").read_text().splitlines()]
    assert [(line["method"], line["seed"]) for line in lines] == [
        (label, seed) for label in ("Random search", "Two-stage random search") for seed in range(3)
    ]
    call(script, monkeypatch, "report", *common)
    rows = list(csv.DictReader((tmp_path / "results" / "small.csv").read_text().splitlines()))
    assert [(row["full_trainings"], row["method"], row["n"]) for row in rows] == [
        (budget, label, "3") for budget in ("5", "12") for label in ("Random search", "Two-stage random search")
    ]
    best = 1 - (0.5 + 0.08 + 0.032)
    finals = [100 * (line["test_error"][-1] - best) for line in lines[:3]]
    assert float(rows[0]["regret"]) == pytest.approx(sum(finals) / 3)
    assert int(rows[0]["n_optimum"]) == sum(value < 1e-9 for value in finals)
    assert rows[0]["p_holm"] == ""
    assert 0 < float(rows[1]["p_holm"]) <= 1
    assert "| Random search |" in (tmp_path / "results" / "small.md").read_text()

    # another machine adds a method: what it has no runs of stays, but for Holm's correction, now of two p values
    (other := tmp_path / "other" / "small-5").mkdir(parents=True)
    kept = {**lines[0], "method": "Local search"}
    found = [*lines[:3], *({**kept, "seed": seed} for seed in range(3))]
    (other / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
    call(script, monkeypatch, "report", str(table), "--out", str(other.parent), "--budgets", "5")
    added = list(csv.DictReader((tmp_path / "results" / "small.csv").read_text().splitlines()))
    assert [row["method"] for row in added] == ["Random search", "Two-stage random search", "Local search"]
    assert {**added[1], "p_holm": ""} == {**rows[1], "p_holm": ""}
    assert min(float(row["p_holm"]) for row in added[1:]) == min(
        1.0, 2 * min(float(row["p_value"]) for row in added[1:])
    )


def test_local_search_is_run_until_the_best_row(
    script: ModuleType, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(script, monkeypatch, "optimum", str(table), "--seeds", "4")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("trainings in the mean, median" in line and "(n = 4)" in line for line in lines)
    assert script.until_optimum(script.get_benchmark(table), 0, limit=1) != 1.0
