"""The benchmark of GPUs: its control flow on the CPU, and what it says of results."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from naslib_autokd.distillation import cuda_graphs, training

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


@pytest.fixture
def quick(tmp_path: Path) -> list[str]:
    return ["--device", "cpu", "--quick", "--out", str(tmp_path / "gpu.json")]


def content(words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(words[-1]).read_text())
    return found


def test_all_of_it_runs_and_is_not_measured_twice(
    gpu: ModuleType,
    quick: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    daemon, said = tmp_path / "nvidia-cuda-mps-control", tmp_path / "said"
    daemon.write_text(f'#!/bin/sh\n[ "$1" = -d ] || read -r line\necho "$1$line $CUDA_MPS_PIPE_DIRECTORY" >> {said}\n')
    daemon.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gpu.main(["--mps", *quick]) == 0
    found = content(quick)
    names = {part: list(rows) for part, rows in found["parts"].items()}
    assert names == {
        "step": ["S"],
        "exactness": ["S"],
        "trial": ["S"],
        "parallel": ["1", "2", "2 MPS"],
        "memory": ["S"],
    }
    assert not [row for rows in found["parts"].values() for row in rows.values() if "error" in row]
    (start, where), (end, same) = (line.split() for line in said.read_text().splitlines())
    assert (start, end, where) == ("-d", "quit", same)
    assert not Path(where).exists()
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    parts = found["parts"]
    assert set(parts["step"]["S"]["seconds"]) == set(gpu.MODES)
    assert parts["step"]["S"]["to_eager"]["eager"] == [1.0, 1.0, 1.0]
    assert parts["exactness"]["S"]["float32"]["difference"] == parts["exactness"]["S"]["cpu_difference"] == 0.0
    assert parts["exactness"]["S"]["float32"]["reason"] == "no CUDA device"
    assert 0 < parts["trial"]["S"]["graph"]["validation"] < 1
    assert parts["parallel"]["2"]["per_hour"] > 0
    assert parts["memory"]["S"]["told"]
    assert parts["memory"]["S"]["after"] == "success"
    assert capsys.readouterr().out.count(" s: {") == 7
    assert gpu.main(["--mps", *quick]) == 0
    assert " s: {" not in capsys.readouterr().out
    assert content(quick) == found


def test_rows_that_failed_or_were_left_are_measured_later(
    gpu: ModuleType, quick: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = ["--parts", "step", *quick]
    assert gpu.main(["--minutes", "0", *step]) == 0
    assert "1 rows are left for want of time" in capsys.readouterr().out
    assert not Path(quick[-1]).exists()
    with monkeypatch.context() as patch:
        patch.setattr(gpu.Bench, "step", lambda bench, size: 1 / 0)
        assert gpu.main(step) == 0
    assert content(quick)["parts"] == {"step": {"S": {"error": "ZeroDivisionError: division by zero"}}}
    assert gpu.main(step) == 0
    measured = content(quick)
    assert "seconds" in measured["parts"]["step"]["S"]
    with monkeypatch.context() as patch:  # on another machine
        patch.setattr(gpu, "hardware", lambda device: {"device": "another"})
        patch.setattr(gpu.Bench, "step", lambda bench, size: 1 / 0)
        assert gpu.main(step) == 0
    assert "error" in content(quick)["parts"]["step"]["S"]


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_graphs_whose_losses_move_away_are_found_out(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """Recorded steps are executed again by Python; their losses are multiplied after the self-check."""

    def record(step: Any, batch: Any) -> Any:
        calls: list[int] = []

        def replay(images: Any, labels: Any, targets: Any, lr: float, *rest: Any) -> Any:
            calls.append(1)
            logits, loss = step(images, labels, targets, lr, *rest)
            return logits, loss * (factor if len(calls) > 1 else 1.0)

        return replay

    monkeypatch.setattr(training, "GRAPH_DEVICES", ("cpu",))
    monkeypatch.setattr(cuda_graphs, "_recorded", record)
    monkeypatch.setattr(cuda_graphs, "_aside", lambda device: nullcontext())
    monkeypatch.setattr(cuda_graphs, "_waiting_is_an_error", nullcontext)
    row = gpu.Bench("cpu", gpu.QUICK, True, mps=False).exactness("S")
    assert row["float32"]["captured"]
    assert row["bfloat16"]["captured"]
    assert row["float32"]["exact"] == (factor == 1.0)
    assert row["float32"]["difference"] == pytest.approx(factor - 1, abs=1e-6)
    assert row["bfloat16"]["exact"]  # within what bfloat16 may differ


def test_targets(gpu: ModuleType) -> None:
    def said(parts: dict[str, Any]) -> dict[str, tuple[Any, bool]]:
        return {target.what: (target.value, target.met) for target in gpu.targets(parts)}

    assert set(said({}).values()) == {(None, False)}
    parts: dict[str, Any] = {
        "step": {"L": {"to_eager": {"graph": [0.19, 0.1, 0.3]}}},
        "trial": {"L": {"graph": {"validation": 0.11}}},
        "parallel": {"1": {"per_hour": 100.0}, "4": {"per_hour": 250.0}, "8": {"error": "no"}},
        "memory": {"S": {"told": True, "after": "error"}},
    }
    assert said(parts) == {
        "S: lack of memory": (False, False),
        "L: a step, graph / eager": (0.19, True),
        "L: validation / trial": (0.11, False),
        "trials per hour, several / one at a time": (2.5, False),
    }
    parts["parallel"]["8"] = {"per_hour": 300.0}
    assert said(parts)["trials per hour, several / one at a time"] == (3.0, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
@pytest.mark.parametrize(
    ("words", "said"),
    [([], "torch finds no CUDA device here"), (["--device", "cpu", "--quick"], "only whole runs on a GPU")],
)
def test_results_are_those_of_gpus(
    gpu: ModuleType, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu.main(words)
    assert said in capsys.readouterr().err
    if gpu.RESULTS.exists():
        assert json.loads(gpu.RESULTS.read_text())["environment"]["device"] != "cpu"
