"""The comparison: rows from known results, and the real thing, small, with resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from naslib_autokd.reports.comparison import anytime_figure, table_text, what_it_shows, write_csv
from naslib_autokd.runners.comparison import AUTOKD_VS_DARTS, Comparison, JobProgress, JobResult, compare, method_rows
from naslib_autokd.tasks import get_task


def job(method: str, seed: int, tests: tuple[float, ...], kept: float | None = None, **values: Any) -> JobResult:
    defaults: dict[str, Any] = {
        "val_accuracies": tests,
        "teacher_agreement": 0.9,
        "n_params": 23_000,
        "macs": 1_000_000,
        "train_memory_bytes": 2**20,
        "search_cpu_s": 10.0,
        "student_epochs": 27.0,
        "n_students": 5,
        "curve": ((9.0, 0.5), (27.0, 0.7)),
        "one_shot": method != "AutoKD",
    }
    return JobResult(method, seed, tests, tests[0] if kept is None else kept, **{**defaults, **values})


TEACHER = {"test_accuracy": 0.92, "n_params": 38_000, "macs": 1_400_000, "train_memory_bytes": 2**21}


def comparison(jobs: list[JobResult]) -> Comparison:
    seeds = tuple(sorted({j.seed for j in jobs}))
    rows = tuple(method_rows(jobs, AUTOKD_VS_DARTS))
    return Comparison("cluttered-digits", seeds, 27.0, tuple(jobs), (), TEACHER, rows, 1.0)


def test_rows_pair_by_seed_and_skip_what_is_missing() -> None:
    jobs = [job("AutoKD", s, (0.8 + s / 100, 0.9 + s / 100)) for s in range(3)]
    jobs += [job("DARTS", s, (0.7 + s / 100, 0.8 + s / 100)) for s in (2, 1)]  # seed 0 failed, order does not matter
    autokd, darts = method_rows(jobs, AUTOKD_VS_DARTS)
    assert autokd.test_accuracy.mean == pytest.approx(0.81)  # of the kept students
    assert autokd.mean_test_accuracy.mean == pytest.approx(0.86)
    assert autokd.difference is None
    assert darts.difference is not None
    assert darts.difference.difference.mean == pytest.approx(0.1)
    assert darts.difference.difference.n == 2


def test_what_is_said_follows_from_the_intervals() -> None:
    ahead = [job("AutoKD", s, (0.9 + s / 1000,)) for s in range(4)] + [
        job("DARTS", s, (0.8 - s / 1000,), details={"collapsed": s == 1, "message": "all skips"}) for s in range(4)
    ]
    text = " ".join(what_it_shows(comparison(ahead)))
    assert "AutoKD is ahead of DARTS" in text
    assert "DARTS seed 1 collapsed: all skips." in text
    assert "cannot tell the optimizer from" in text
    behind = [job("AutoKD", s, (0.7 + s / 1000,)) for s in range(4)] + [
        job("DARTS with KD", s, (0.8 - s / 1000,)) for s in range(4)
    ]
    assert "AutoKD is behind DARTS with KD" in " ".join(what_it_shows(comparison(behind)))
    equal = [job(m, s, (0.8 + 0.05 * ((s + k) % 2),)) for s in range(4) for k, m in enumerate(("AutoKD", "DARTS"))]
    assert "cannot be told apart" in " ".join(what_it_shows(comparison(equal)))
    assert "one seed, no interval" in " ".join(what_it_shows(comparison(equal[:2])))


def test_table_csv_and_figure_show_every_row(tmp_path: Path) -> None:
    result = comparison([job(m.label, s, (0.8, 0.82)) for m in AUTOKD_VS_DARTS for s in range(2)])
    text = table_text(result)
    for name in ("AutoKD", "DARTS with KD", "DARTS", "teacher"):
        assert f"\n  {name} " in text
    assert "over 2 seeds" in text
    write_csv(result, tmp_path / "results.csv")
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 7
    for suffix in ("png", "pdf", "svg"):
        anytime_figure(result, tmp_path / f"anytime.{suffix}")
        assert (tmp_path / f"anytime.{suffix}").stat().st_size > 5000


SMALL: dict[str, Any] = {"n_val": 300, "n_test": 300, "min_budget_epochs": 1, "max_budget_epochs": 2}


@pytest.mark.slow
def test_real_comparison_finishes_and_is_not_repeated(tmp_path: Path) -> None:
    task = get_task("cluttered-digits", n_train=128, **SMALL)
    messages: list[JobProgress] = []
    first = compare(task, seeds=[0], budget=12, out=tmp_path, n_finals=1, workers=2, progress=messages.append)
    assert first.failures == ()
    assert [row.label for row in first.rows] == ["AutoKD", "DARTS with KD", "DARTS"]
    for result in first.jobs:
        assert 0 < result.student_epochs <= 12.5, "the searches spend what they may, and no more"
        assert result.n_params <= task.max_params
        assert 0 < result.test_accuracy < 1
    assert {m.method for m in messages if m.seed is not None} == {row.label for row in first.rows}

    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert [j["test_accuracy"] for j in stored["jobs"]] == [j.test_accuracy for j in first.jobs]
    (tmp_path / "darts" / "seed-0" / "result.json").unlink()  # as if the run had been killed before this job's end
    again = compare(task, seeds=[0], budget=12, out=tmp_path, n_finals=1, workers=1)
    for a, b in zip(first.jobs, again.jobs, strict=True):
        assert a.test_accuracies == b.test_accuracies
        assert a.curve == b.curve


def test_bad_settings_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        compare("cluttered-digits", seeds=[], budget=50, out=tmp_path)
    with pytest.raises(ValueError, match="seeds must differ"):
        compare("cluttered-digits", seeds=[1, 1], budget=50, out=tmp_path)
    with pytest.raises(ValueError, match="at least one full training"):
        compare("cluttered-digits", seeds=[1], budget=5, out=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'cluttered-digits'"):
        compare("clutered-digits", seeds=[1], budget=50, out=tmp_path)
    assert list(tmp_path.iterdir()) == []
