"""The comparison: rows from known results, and the real thing, small, with resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from scipy import stats

from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.optimizers.darts import DARTS, DARTSResult
from naslib_autokd.records import RecordWarning
from naslib_autokd.reports.comparison import LiveComparison, table_text, write_csv
from naslib_autokd.reports.conclusions import what_it_shows
from naslib_autokd.runners.comparison import (
    AUTOKD_VS_DARTS,
    Comparison,
    CPUSeconds,
    JobProgress,
    JobResult,
    Method,
    compare,
    method_rows,
    run_job,
)
from naslib_autokd.runners.run_folder import CheckpointFile, RunFolder, RunFolderError
from naslib_autokd.search_spaces import get_search_space
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
    # p = 0.04 of one of two comparisons, the other says nothing: 0.08 after Holm's correction
    chance = [job("AutoKD", s, (0.8,)) for s in range(4)]
    chance += [job("DARTS with KD", s, (0.8 - d,)) for s, d in enumerate((0.01, 0.02, 0.03, 0.045))]
    chance += [job("DARTS", s, (0.8 + d,)) for s, d in enumerate((0.01, -0.01, 0.02, -0.02))]
    said = what_it_shows(comparison(chance))[0]
    assert said.startswith(
        "AutoKD and DARTS with KD cannot be told apart: the interval lies above 0 (4 paired seeds, p = 0.0"
    )
    assert "but one of 2 comparisons may do so by chance (p = 0.0" in said
    equal = [job(m, s, (0.8 + 0.05 * ((s + k) % 2),)) for s in range(4) for k, m in enumerate(("AutoKD", "DARTS"))]
    assert "cannot be told apart" in " ".join(what_it_shows(comparison(equal)))
    assert "one seed, no interval" in " ".join(what_it_shows(comparison(equal[:2])))


@pytest.mark.parametrize("n", [2, 5, 8, 20])
def test_sentences_about_equals_claim_a_difference_at_most_at_the_nominal_rate(n: int) -> None:
    rng, claimed = np.random.default_rng(n), 0
    for _ in range(100):
        accuracies = rng.integers(330, 370, size=(3, n)) / 400
        jobs = [
            job(m.label, s, (own[s],)) for m, own in zip(AUTOKD_VS_DARTS, accuracies, strict=True) for s in range(n)
        ]
        claimed += any(" is ahead of " in line or " is behind " in line for line in what_it_shows(comparison(jobs)))
    assert stats.binomtest(claimed, 100, 0.05, alternative="greater").pvalue > 1e-3


def test_a_search_that_does_not_beat_random_draws_or_the_default_is_told_so() -> None:
    methods = (
        Method("AutoKD", "search", "autokd"),
        Method("random search", "search", "random_search"),
        Method("default family", "default"),
    )

    def said(default: float) -> str:
        jobs = [job("AutoKD", s, (0.9 + s / 1000,), details={"is_default": s == 0}) for s in range(4)]
        details = {"optimizer": "random_search", "is_default": True}
        jobs += [job("random search", s, (0.9 - s / 1000,), details=details) for s in range(4)]
        nothing = {"n_students": 0, "curve": (), "one_shot": False, "details": {"optimizer": "default"}}
        jobs += [job("default family", s, (default - s / 1000,), **nothing) for s in range(4)]
        rows = tuple(method_rows(jobs, methods))
        return " ".join(what_it_shows(replace(comparison(jobs), rows=rows)))

    both = "nothing here shows that AutoKD pays: it is not ahead of random search nor of default family."
    assert both in said(0.9)
    assert "not ahead of random search." in said(0.8)
    assert "AutoKD kept the space's default family, which it trains first, in 1 of 4 runs." in said(0.8)
    assert "cannot tell the optimizer from" not in said(0.8)  # random search is there, and is compared


def test_a_table_has_every_cost_and_what_is_not_known_is_empty() -> None:
    jobs = [job("AutoKD", s, (0.8,), training_seconds=12.34, final_training_seconds=1.5) for s in range(2)]
    jobs += [job("DARTS", s, (0.7,)) for s in range(2)]  # of an older version
    result = replace(comparison(jobs), budget=20.0, budget_unit="training_seconds")
    assert "over 2 seeds, 20 modelled seconds of training for each search" in table_text(result)
    autokd, darts = (next(t for t in table_text(result).splitlines() if t.startswith(f"  {m} ")) for m in
                     ("AutoKD", "DARTS"))  # fmt: skip
    assert autokd.split()[-5:] == ["1.5", "27", "12.3", "10", "5"]
    assert darts.split()[-3:] == ["27", "10", "5"]
    assert JobResult.from_dict(json.loads(json.dumps(asdict(jobs[0])))) == jobs[0]


def test_what_cannot_be_compared_in_seconds_is_said_before_any_work(tmp_path: Path) -> None:
    more: dict[str, Any] = {"seeds": [0], "budget": 20, "out": tmp_path / "run"}
    with pytest.raises(ValueError, match="did you mean 'training_seconds'"):
        compare("cluttered-digits", budget_unit="training_second", **more)
    with pytest.raises(ValueError, match="budget must be"):
        compare("cluttered-digits", **(more | {"budget": 0}), budget_unit="training_seconds")
    assert not (tmp_path / "run").exists()


def test_limits_of_a_comparison_hold_for_searched_and_default_families_and_are_part_of_it(tmp_path: Path) -> None:
    task = get_task("cluttered-digits", n_train=64, teacher_epochs=1, min_teacher_accuracy=0.2, **SMALL)
    limits = StudentLimits(max_macs=300_000)
    more: dict[str, Any] = {"seeds": [0], "budget": 4, "n_finals": 1, "workers": 1, "student_limits": limits}
    with pytest.raises(ValueError, match="DARTS: cells keep max_params alone"):
        compare(task, [Method("DARTS", "one-shot", "darts")], out=tmp_path / "none", **more)
    assert not (tmp_path / "none").exists()
    family = get_search_space("hnag-small").sample(np.random.default_rng(0)).to_dict()
    with pytest.raises(ValueError, match="mean 'family'"):
        compare(task, [Method("mine", "famly", options=family)], out=tmp_path / "none", **more)
    methods = [Method("default", "default"), Method("mine", "family", options=family)]
    found = compare(task, methods, out=tmp_path / "run", **more)
    assert [job.macs <= 300_000 for job in found.jobs] == [True, True]
    assert [job.details["optimizer"] for job in found.jobs] == ["default", "family"]
    assert found.jobs[1].details["candidate"] == family != found.jobs[0].details["candidate"]
    with pytest.raises(RunFolderError, match="student_limits"):
        compare(task, methods, out=tmp_path / "run", **(more | {"student_limits": StudentLimits(max_macs=400_000)}))


def test_table_and_csv_show_every_row(tmp_path: Path) -> None:
    result = comparison([job(m.label, s, (0.8, 0.82)) for m in AUTOKD_VS_DARTS for s in range(2)])
    text = table_text(result)
    for name in ("AutoKD", "DARTS with KD", "DARTS", "teacher"):
        assert f"\n  {name} " in text
    assert "over 2 seeds" in text
    assert "mean student: " in text
    single = table_text(comparison([job(m.label, s, (0.8,)) for m in AUTOKD_VS_DARTS for s in range(2)]))
    assert "mean student" not in single, "no legend of a column that is not there"
    write_csv(result, tmp_path / "results.csv")
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 7


def test_progress_in_a_log_counts_the_jobs() -> None:
    console = Console(file=StringIO(), width=120, force_terminal=False)
    live = LiveComparison(AUTOKD_VS_DARTS[:2], [0, 1], console)
    live._clock = iter(range(0, 100, 10)).__next__  # ten seconds a look
    with live:
        live.update(JobProgress("teacher", None, 1.0, "95.0%"))
        live.update(JobProgress("AutoKD", 0, 0.5, "trial 3"))
        live.update(JobProgress("AutoKD", 0, 1.0, "test accuracy 91.0%"))
        live.update(JobProgress("DARTS with KD", 0, 0.2, "epoch 1"))
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "teacher: 95.0%"
    assert any(line.startswith("AutoKD, seed 0: trial 3") for line in lines)
    assert "[1/4] AutoKD, seed 0: test accuracy 91.0%" in lines
    assert any(line.startswith("1/4 jobs, about ") for line in lines)


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


ONE_SHOT = asdict(
    Method(
        "DARTS",
        "one-shot",
        "darts",
        "kd",
        {"operations": ["skip_connect", "sep_conv_3x3"], "n_nodes": 1, "init_channels": 4, "step_cost": 2.0},
    )
)
SETTINGS = {"budget": 3.0, "n_finals": 2, "device": "cpu", "teacher": None}


@pytest.fixture(scope="module")
def one_shot(tmp_path_factory: pytest.TempPathFactory, cache_folder: str) -> tuple[Callable[[Path], Any], Path]:
    """A job with a small one-shot search, and the folder of an uninterrupted one."""
    task = get_task(
        "digits", n_train=64, n_teacher=400, n_val=64, n_test=64, min_budget_epochs=1, max_budget_epochs=1,
        max_params=4000, teacher_epochs=4, min_teacher_accuracy=0.0,
    )  # fmt: skip

    def run(out: Path, seed: int = 0, told: list[str] | None = None) -> Any:
        told = [] if told is None else told
        return run_job(ONE_SHOT, seed, task.to_dict(), SETTINGS, str(out), lambda message: told.append(message["text"]))

    whole = tmp_path_factory.mktemp("one-shot")
    run(whole)
    return run, whole


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if not key.endswith(("_s", "seconds"))}
    return [timeless(inner) for inner in value] if isinstance(value, list | tuple) else value


def test_a_one_shot_search_that_is_over_is_not_repeated(
    one_shot: tuple[Callable[[Path], Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second final student: what the search found, its costs and the first student are kept."""
    run, whole = one_shot
    trained: list[int] = []
    train_final = KDEvaluator.train_final

    def stopping(self: Any, build: Any, kd: Any, seed: int, **options: Any) -> Any:
        if trained:
            raise KeyboardInterrupt
        trained.append(seed)
        return train_final(self, build, kd, seed, **options)

    monkeypatch.setattr(KDEvaluator, "train_final", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(KDEvaluator, "train_final", train_final)
    found = json.loads((tmp_path / "search.json").read_text())
    first = (tmp_path / "finals.jsonl").read_bytes()
    monkeypatch.setattr(DARTS, "search", None)
    result = run(tmp_path)
    assert result["search_cpu_s"] == found["search_cpu_s"] > 0
    assert (tmp_path / "finals.jsonl").read_bytes().startswith(first)
    assert timeless(result) == timeless(json.loads((whole / "result.json").read_text()))
    for name in ("student-0.safetensors", "student-1.safetensors"):
        ours, theirs = (load_file(folder / "students" / name) for folder in (tmp_path, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda text: text.replace('"val_accuracy": 0.', '"val_accuracy": 1.', 1), "it is not what was written"),
        (lambda text: text[: len(text) // 2], "search.json: .*; the search is made again"),
        (lambda text: "", "search.json: .*; the search is made again"),
        (lambda text: "[1, 2]", "search.json: .*; the search is made again"),
        (lambda text: text.replace('"sha256"', '"sha265"'), "there is no 'sha256'"),
    ],
)
def test_a_damaged_search_is_made_again_with_a_word(
    one_shot: tuple[Callable[[Path], Any], Path], tmp_path: Path, damage: Callable[[str], str], text: str
) -> None:
    _, whole = one_shot
    content = (whole / "search.json").read_text()
    recipe = json.loads(content)["recipe"]
    folder = RunFolder(tmp_path)
    assert folder.found(recipe, dict) is None, "nothing is there, nothing is said"
    (tmp_path / "search.json").write_text(content)
    assert folder.found(recipe, dict) == {k: v for k, v in json.loads(content).items() if k not in ("recipe", "sha256")}
    with pytest.warns(RecordWarning, match="it is another search's; the search is made again"):
        assert folder.found("another", dict) is None
    (tmp_path / "search.json").write_text(damage(content))
    with pytest.warns(RecordWarning, match=text):
        assert folder.found(recipe, dict) is None


def test_a_one_shot_search_that_was_killed_goes_on_from_its_last_epoch(
    one_shot: tuple[Callable[[Path], Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = one_shot
    write = CheckpointFile.write

    def ending(self: CheckpointFile, content: bytes) -> None:
        write(self, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointFile, "write", ending)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(CheckpointFile, "write", write)
    told: list[str] = []
    assert timeless(run(tmp_path, told=told)) == timeless(json.loads((whole / "result.json").read_text()))
    assert not (tmp_path / "search.checkpoint").exists()
    n_epochs = len(json.loads((whole / "search.json").read_text())["history"])
    assert sum(text.startswith("supernet") for text in told) == n_epochs - 1


def test_a_damaged_checkpoint_is_passed_over_with_a_word(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert CheckpointFile(folder, "this").read() is None
    CheckpointFile(folder, "this").write(b"state")
    assert CheckpointFile(folder, "this").read() == b"state"
    with pytest.warns(RecordWarning, match=r"search.checkpoint is not what this search has written; it begins anew"):
        assert CheckpointFile(folder, "another").read() is None
    content = (tmp_path / "search.checkpoint").read_bytes()
    for damaged in (b"", content[:-1], content.replace(b"state", b"stale")):
        (tmp_path / "search.checkpoint").write_bytes(damaged)
        with pytest.warns(RecordWarning, match="begins anew"):
            assert CheckpointFile(folder, "this").read() is None


def test_another_seeds_search_is_not_believed(
    one_shot: tuple[Callable[..., Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = one_shot
    (tmp_path / "search.json").write_bytes((whole / "search.json").read_bytes())

    def search(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DARTS, "search", search)
    with pytest.warns(RecordWarning, match="it is another search's"), pytest.raises(KeyboardInterrupt):
        run(tmp_path, seed=1)


def test_what_darts_found_is_read_as_it_was_written(one_shot: tuple[Callable[..., Any], Path]) -> None:
    _, whole = one_shot
    content = json.loads((whole / "search.json").read_text())
    values = {key: value for key, value in content.items() if key not in ("recipe", "sha256", "search_cpu_s")}
    assert json.loads(json.dumps(DARTSResult.from_dict(values).to_dict())) == values


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("test_accuracy", 7.0, r"test_accuracy must be in \[0, 1\], got 7.0"),
        ("val_accuracies", [0.5, -0.1], r"val_accuracies must be in \[0, 1\], got -0.1"),
        ("search_cpu_s", float("nan"), "search_cpu_s must be finite and not negative"),
        ("n_params", "many", "n_params must be int, got 'many'"),
    ],
)
def test_results_that_no_job_has_are_not_believed(name: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        JobResult.from_dict({**asdict(job("AutoKD", 0, (0.8,))), name: value})


def test_cpu_seconds_are_those_of_all_sessions(tmp_path: Path) -> None:
    with RunFolder.own(tmp_path) as folder:
        folder.write("cpu.json", '{"search_cpu_s": 100.0}')
        assert 100 <= CPUSeconds(folder).keep() < 101
        assert 100 <= CPUSeconds(folder).so_far < 102
        folder.write("cpu.json", '{"search_cpu_s": "NaN"}')
        assert CPUSeconds(folder).so_far < 1


def test_the_folder_of_a_refused_teacher_is_free_for_the_right_one(tmp_path: Path) -> None:
    task = get_task("digits", n_train=64, n_teacher=200, n_val=64, n_test=64)
    with pytest.raises(ValueError, match=r"gone.safetensors does not exist"):
        compare(task, seeds=[1], budget=50, out=tmp_path, teacher="gone.safetensors")
    assert not (tmp_path / "run.yaml").exists()


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
