"""The benchmark of students: its tables, its counting, and (slow) a small run of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from naslib_autokd.distillation.training import limited_threads

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def students(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import students

    return students


def test_tables_stand_beside_their_goals_and_go_into_a_page(students: ModuleType, tmp_path: Path) -> None:
    timed = {"plain_s": 2.0, "optimised_s": 1.2, "ratio": 0.6, "low": 0.5, "high": 0.7, "goal": 0.58}
    stored = {
        "step": {"rows": {"M 0.1M": timed, "S 0.5M": timed | {"ratio": 0.4}, "S 0.1M steps": timed, "S 0.1M": timed}},
        "memory": {"rows": {"S 0.1M": {"ratio": 0.31, "goal": 0.55}}},
    }
    path = tmp_path / "students.json"
    path.write_text(json.dumps(stored))
    ((title, columns, rows),) = students.tables(students.Results(path))
    assert [row[0] for row in rows] == ["S 0.1M steps", "S 0.1M", "M 0.1M", "S 0.5M"]  # limit, setting, as measured
    assert dict(zip(columns, rows[1], strict=True))["step / plain"] == "0.60 (missed)"
    assert dict(zip(columns, rows[3], strict=True))["step / plain"] == "0.40"
    assert rows[1][columns.index("memory / plain")] == "0.31"
    page = tmp_path / "page.md"
    page.write_text(f"before\n{students.START}\nold\n{students.END}\nafter\n")
    for _ in range(2):
        assert students.main(["--json", str(path), "--markdown", str(page)]) == 0
        text = page.read_text()
        assert "old" not in text
        assert "| M 0.1M | 0.60 (missed) | 0.50-0.70 | 0.58 |" in text
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert text.count(title) == 1
    page.write_text("no place")
    with pytest.raises(SystemExit, match="no place for the tables"):
        students.main(["--json", str(path), "--markdown", str(page)])


def test_the_documentation_has_a_place_for_the_tables(students: ModuleType) -> None:
    text = (BENCHMARKS.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    assert text.count(students.START) == text.count(students.END) == 1


def test_convolutions_found_are_those_that_are_counted(students: ModuleType) -> None:
    spec = students.spec_of("S", 0.1)
    found = students.convolutions(spec, 2)
    assert sum(found["rest"].values()) == 2  # stem and head
    flops = 0.0
    for call, n in (found["body"] + found["rest"]).items():
        out, per_group, height, width = call.weight
        assert call.stride == (1, 1)
        passes = 3 if call.needs_input_gradient else 2
        flops += 2.0 * n * passes * call.images[0] * call.images[2] * call.images[3] * out * per_group * height * width
    classifier = 3 * 2 * 2.0 * students.HEAD * students.CLASSES
    assert flops + classifier == students.flops_of(spec, 2)
    assert students.unavoidable_bytes(spec, 4) == 2 * students.unavoidable_bytes(spec, 2)


def test_bytes_of_a_student_by_hand(students: ModuleType) -> None:
    from naslib_autokd.search_spaces.hnag import ErdosRenyi, Generator, StudentSpec, WattsStrogatz

    # Two cells of one operation in stage 0, one after the other; no merge, no mean: 3 batch norms with the stem's.
    generator = Generator(WattsStrogatz(2, 1), ErdosRenyi(1), WattsStrogatz(1, 0), stage_ratios=(1, 0, 0))
    spec = StudentSpec(generator.sample_wiring(0), (5, 5, 5), 3, 8, 10)
    assert students.unavoidable_bytes(spec, 2) == 4 * 2 * 3 * 7 * 5 * 64
    # Complete graphs of 3 operations: one merge of two inputs more than chains.
    generator = Generator(WattsStrogatz(1, 0), ErdosRenyi(1), WattsStrogatz(3, 2), stage_ratios=(1, 0, 0))
    spec = StudentSpec(generator.sample_wiring(0), (5, 5, 5), 3, 8, 10)
    assert students.unavoidable_bytes(spec, 1) == 4 * (4 * 7 + 2 * 3) * 5 * 64


def test_interval_of_a_median(students: ModuleType) -> None:
    assert students.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)  # too few for 95%
    assert students.median_interval([float(n) for n in range(1, 11)]) == (2.0, 9.0)


@pytest.mark.parametrize("wrong", [["--settings", "Q"], ["--limits", "0.2"], ["--sections", "steps"]])
def test_what_is_unknown_is_refused(students: ModuleType, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        students.main(wrong)
    assert "unknown" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_run(students: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "students.json"
    few = ["--settings", "S", "--limits", "0.1", "--pairs", "1", "--json", str(path)]
    with limited_threads(1):  # puts back what the benchmark sets
        assert students.main([*few, "--sections", "step,memory,roofline,evaluate"]) == 0
        assert students.main([*few, "--sections", "wirings"]) == 0
    stored = json.loads(path.read_text())
    assert set(stored) >= {"step", "memory", "roofline", "evaluate", "wirings"}
    assert set(stored["wirings"]["rows"]) == {"S", "uniform"}
    assert 0 < stored["step"]["rows"]["S 0.1M"]["ratio"] < 5
    assert stored["step"]["environment"]["threads"] == 1
    assert "S 0.1M" in capsys.readouterr().out


@pytest.mark.slow
def test_latencies_are_measured(students: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    import latency

    with limited_threads(1):
        latency.main(["--cases", "demo", "--rounds", "1"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    found = {row[1]: row for row in rows}
    folded, by_torch, in_c = (found[f"student, {name}"] for name in ("folded", "torch", "C"))
    assert int(folded[4]) < int(by_torch[4])
    assert int(folded[5]) <= 1 < int(by_torch[5])
    assert float(in_c[-1]) < float(by_torch[-1])
    assert {"student, folded, int8", "student, C, native", "teacher, int8"} <= set(found)
