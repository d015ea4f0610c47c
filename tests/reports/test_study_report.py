"""The report of a study: its numbers against the statistics they are made of, its sentences, its files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from naslib_autokd.reports.ablation import print_study, write_study_report
from naslib_autokd.reports.conclusions import conclusions
from naslib_autokd.reports.tables import latex, latex_table, markdown_table
from naslib_autokd.runners.ablation import JobFailure, SimulatedRun, Study, StudyMethod, StudyResult
from naslib_autokd.runners.statistics import signed_rank_test, speed_up
from naslib_autokd.runners.study_summary import anytime_curves, rank_curves, summary

BEST = 0.1


def run_of(method: str, seed: int, errors: Sequence[float], full: float = 9.0, trials_each: int = 1) -> SimulatedRun:
    """A run that is looked at after each full training."""
    n = len(errors)
    return SimulatedRun(
        method=method,
        seed=seed,
        student_epochs=tuple(full * (k + 1) for k in range(n)),
        trials=tuple(trials_each * (k + 1) for k in range(n)),
        test_error=tuple(errors),
        cost=tuple(error + 0.01 for error in errors),
        candidate={},
        n_trials=trials_each * n,
        cpu_s=1.5,
    )


def study_of(labels: Sequence[str], runs: Sequence[SimulatedRun], **changes: object) -> StudyResult:
    study = Study(
        name="test",
        title="Optimizers on a toy",
        question="Which is best?",
        benchmark="toy",
        student_epochs=9.0 * 60,
        seeds=20,
        methods=tuple(StudyMethod(label, "random_search") for label in labels),
    )
    return replace(StudyResult(study, BEST, tuple(runs)), **changes)  # type: ignore[arg-type]


def random_study(
    labels: Sequence[str], speeds: Sequence[float], n_seeds: int = 20, n: int = 60, seed: int = 0
) -> StudyResult:
    """Incumbents of random search whose draws come ``speeds`` times as fast."""
    rng = np.random.default_rng(seed)
    runs = []
    for label, speed in zip(labels, speeds, strict=True):
        for s in range(n_seeds):
            draws = BEST + 0.02 * rng.gamma(2.0, size=math.ceil(n * speed))
            best = np.minimum.accumulate(draws)[(np.arange(1, n + 1) * speed).astype(int).clip(1) - 1]
            runs.append(run_of(label, s, best.tolist(), trials_each=3))
    return study_of(labels, runs)


@pytest.fixture
def svg_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """One format is enough to see that a chart can be drawn."""
    monkeypatch.setattr("naslib_autokd.reports.paper.DEFAULT_FORMATS", ("svg",))


@pytest.fixture(scope="module")
def result() -> StudyResult:
    return random_study(["AutoKD", "random search", "twin", "slow"], [8.0, 1.0, 8.0, 0.2])


def text_of(result: StudyResult, width: int = 150) -> str:
    console = Console(width=width, file=StringIO(), force_terminal=False)
    print_study(result, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_summary_is_what_the_statistics_say_of_the_finals(result: StudyResult) -> None:
    found = summary(result)
    assert found.reference == "AutoKD"
    finals = {
        label: [r.test_error[-1] - BEST for r in result.runs if r.method == label] for label in ("AutoKD", "slow")
    }
    slow = found.methods[3]
    assert (slow.label, slow.n, slow.n_without, slow.n_trials, slow.full_trainings) == ("slow", 20, 0, 180, 60)
    assert slow.regret == pytest.approx(np.mean(finals["slow"]))
    assert slow.median_regret == pytest.approx(np.median(finals["slow"]))
    assert slow.regret_low is not None
    assert slow.regret_high is not None
    assert slow.regret_low < slow.regret < slow.regret_high
    assert slow.test == signed_rank_test(finals["slow"], finals["AutoKD"])
    others = [method.test.p_value for method in found.methods if method.test is not None]
    assert slow.p_holm == pytest.approx(min(1.0, 3 * slow.test.p_value))  # the smallest of three
    assert min(others) == slow.test.p_value
    assert found.methods[0].test is None
    assert found.methods[0].p_holm is None


def test_speed_up_is_that_of_the_reference_over_each_method(result: StudyResult) -> None:
    found = summary(result)
    grid = np.arange(1, 61) * 9.0
    curves = {
        label: np.array([r.test_error for r in result.runs if r.method == label]) - BEST
        for label in ("AutoKD", "random search")
    }
    expected = speed_up(curves["AutoKD"], curves["random search"], grid)
    assert found.methods[1].speed_up_epochs == expected
    assert 3 < expected.ratio < 20
    trials = found.methods[1].speed_up_trials
    assert trials is not None
    assert trials.ratio == pytest.approx(expected.ratio)  # all trainings cost the same here
    assert trials.spent == 180
    assert found.methods[0].speed_up_epochs is None


def test_differences_within_one_trainings_noise_are_said_to_be(result: StudyResult) -> None:
    regret = {method.label: method.regret for method in summary(result).methods}
    apart = abs(regret["twin"] - regret["AutoKD"])
    assert not any("noise" in line for line in conclusions(summary(result)))
    for sd, said in ((1.01 * apart, True), (0.99 * apart, False)):
        lines = conclusions(summary(replace(result, noise_sd=sd, noise="of 3 groups")))
        assert any("One full training's noise in this table is of 3 groups" in line for line in lines)
        assert any("less than one training's noise from" in line and "twin" in line for line in lines) == said


def test_ranks_are_one_per_seed_and_count_ties() -> None:
    runs = [run_of("a", s, [0.3, 0.2]) for s in range(4)] + [run_of("b", s, [0.3, 0.3]) for s in range(4)]
    grid, averages, n = rank_curves(study_of(["a", "b"], runs))
    np.testing.assert_array_equal(grid, [9.0, 18.0])
    np.testing.assert_array_equal(averages["a"], [1.5, 1.0])
    np.testing.assert_array_equal(averages["b"], [1.5, 2.0])
    assert n == 4


def test_curves_end_where_the_method_ends() -> None:
    runs = [run_of("a", s, [0.3, 0.2]) for s in range(3)] + [run_of("b", s, [0.4, 0.3, 0.2, 0.1]) for s in range(3)]
    curves = anytime_curves(study_of(["a", "b"], runs))
    np.testing.assert_array_equal(curves["a"].grid, [9.0, 18.0])
    np.testing.assert_allclose(curves["b"].band.centre, [0.3, 0.2, 0.1, 0.0], atol=1e-12)


def test_verdicts_name_what_is_ahead_and_what_cannot_be_told_apart(result: StudyResult) -> None:
    lines = conclusions(summary(result))
    assert any(line.startswith("AutoKD is ahead of random search (lower regret in ") for line in lines)
    assert any(line.startswith("AutoKD cannot be told apart from twin (") for line in lines)
    assert any("so many times fewer student-epochs: random search " in line for line in lines)
    assert any(line.startswith("Average ranks over 20 seeds differ") and "from it: AutoKD (" in line for line in lines)
    turned = replace(result, study=replace(result.study, reference="slow"))
    lines = conclusions(summary(turned))
    assert any(line.startswith("slow is behind AutoKD (lower regret in 0 of 20 seeds; p = ") for line in lines)
    assert any(line.startswith("slow does not reach the mean regret") and "AutoKD (below " in line for line in lines)


def test_sentences_about_equals_claim_a_difference_at_most_at_the_nominal_rate() -> None:
    claimed = 0
    for seed in range(60):
        equals = random_study(["a", "b", "c"], [1, 1, 1], n_seeds=10, n=8, seed=seed)
        claimed += any("ahead" in line or "behind" in line for line in conclusions(summary(equals)))
    assert claimed <= 9  # P(more of 60 at 5%) = 0.001


def test_too_few_seeds_are_said_to_be_too_few() -> None:
    few = random_study(["a", "b", "c"], [20, 1, 1], n_seeds=5)
    lines = conclusions(summary(few))
    assert any("5 paired seeds cannot show a difference at the 5% level in 2 comparisons" in line for line in lines)
    assert any("take at least 7." in line for line in lines)  # 2 * 2**-6 = 0.031, with six 0.0625
    assert not any("is ahead of" in line for line in lines)
    one = random_study(["a", "b"], [20, 1], n_seeds=1)
    assert any("one seed says nothing about the next" in line for line in conclusions(summary(one)))
    assert summary(one).methods[0].regret_low is None


def test_missing_seeds_are_paired_and_failures_are_told(result: StudyResult) -> None:
    runs = tuple(r for r in result.runs if not (r.method == "slow" and r.seed < 5))
    failures = tuple(JobFailure("slow", s, "out of luck") for s in range(5))
    found = summary(replace(result, runs=runs, failures=failures, left_out=("npenas: NASLib is missing",)))
    slow = found.methods[3]
    assert slow.test is not None
    assert (slow.n, slow.test.n) == (15, 15)
    assert found.friedman is not None
    assert found.friedman.n == 15
    lines = conclusions(found)
    assert "Missing: slow, seed 3: out of luck." in lines
    assert "Missing: left out: npenas: NASLib is missing." in lines


def test_runs_without_an_incumbent_are_the_worst_and_not_in_the_mean() -> None:
    nan = float("nan")
    runs = [run_of("a", s, [nan, 0.3, 0.2]) for s in range(8)]
    runs += [run_of("b", s, [nan, nan, nan] if s < 3 else [nan, 0.3, 0.15]) for s in range(8)]
    result = study_of(["a", "b"], runs)
    found = summary(result)
    b = found.methods[1]
    assert (b.n, b.n_without) == (8, 3)
    assert b.regret == pytest.approx(0.05)
    assert b.average_rank == pytest.approx((3 * 2 + 5 * 1) / 8)
    assert b.test is not None
    assert b.test.share_better == 5 / 8
    assert any("b: 3 of 8 runs ended without an incumbent" in line for line in conclusions(found))
    np.testing.assert_allclose(anytime_curves(result)["b"].band.centre, [nan, 0.2, 0.05])


def test_different_budgets_are_told() -> None:
    runs = [run_of("a", s, [0.3, 0.2]) for s in range(8)] + [run_of("b", s, [0.3, 0.3, 0.2]) for s in range(8)]
    lines = conclusions(summary(study_of(["a", "b"], runs)))
    assert any("different budgets in student-epochs (a 18; b 27)" in line for line in lines)


EXPECTED = {
    "report.md",
    "summary.json",
    "summary.csv",
    "tables.tex",
    "final_regret.csv",
    *(f"tests.{suffix}" for suffix in ("csv", "vl.json", "png", "pdf")),
    *(
        f"{name}.{suffix}"
        for name in ("regret_over_student_epochs", "regret_over_trials")
        for suffix in ("csv", "vl.json", "png", "pdf")
    ),
    *(
        f"{name}.{suffix}"
        for name in ("average_rank", "critical_difference")
        for suffix in ("csv", "vl.json", "png", "pdf")
    ),
    "final_regret.vl.json",
    "final_regret.png",
    "final_regret.pdf",
}


def test_report_has_every_figure_and_the_numbers_behind_it(result: StudyResult, tmp_path: Path) -> None:
    files = write_study_report(result, tmp_path / "new" / "folder")
    assert {path.name for path in files} == EXPECTED
    assert len(files) == len(EXPECTED)
    assert files[0].name == "report.md"
    folder = files[0].parent
    found = json.loads((folder / "summary.json").read_text())
    assert found["methods"][1]["speed_up_epochs"]["ratio"] == summary(result).methods[1].speed_up_epochs.ratio  # type: ignore[union-attr]
    with open(folder / "regret_over_student_epochs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "slow"]
    assert len(rows) == 60
    assert float(rows[-1]["regret"]) == pytest.approx(found["methods"][3]["regret"])
    assert float(rows[-1]["low"]) == pytest.approx(found["methods"][3]["regret_low"])
    with open(folder / "final_regret.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 80
    report = (folder / "report.md").read_text()
    assert all(f"({path.name})" in report for path in files if path.suffix == ".png")
    assert "| random search |" in report
    for a, b in zip(files, write_study_report(result, tmp_path / "again"), strict=True):
        assert a.suffix == ".pdf" or a.read_bytes() == b.read_bytes(), a.name


@pytest.mark.parametrize(
    ("labels", "n_seeds", "ranked"),
    # two seeds of three methods agree by chance in one of six studies: their ranks say nothing
    [
        (["alone"], 6, False),
        (["alone"], 1, False),
        (["a", "b"], 1, False),
        (list("abc"), 2, False),
        (list("abc"), 3, True),
    ],
)
@pytest.mark.usefixtures("svg_only")
def test_small_studies_are_reported(labels: list[str], n_seeds: int, ranked: bool, tmp_path: Path) -> None:
    small = random_study(labels, [1.0] * len(labels), n_seeds=n_seeds, n=4)
    files = write_study_report(small, tmp_path)
    assert ("average_rank.svg" in {path.name for path in files}) == ranked
    assert labels[0] in text_of(small)


@pytest.mark.usefixtures("svg_only")
def test_studies_with_nothing_to_draw_are_reported(tmp_path: Path) -> None:
    nan = float("nan")
    nothing = study_of(["a", "b"], [run_of(label, s, [nan, nan]) for label in ("a", "b") for s in range(3)])
    assert "3 of 3 runs ended without an incumbent" in text_of(nothing, width=300)
    assert "regret_over_trials.svg" not in {path.name for path in write_study_report(nothing, tmp_path)}
    # all find the optimum at once: zero regret, and below the best known (a wiring better than its family)
    for value in (BEST, BEST - 0.01):
        flat = study_of(["a", "b"], [run_of(label, s, [value] * 3) for label in ("a", "b") for s in range(6)])
        assert "cannot be told apart" in text_of(flat, width=300)
    write_study_report(flat, tmp_path)
    # disjoint seeds: nothing to pair
    apart = study_of(["a", "b"], [run_of("a", s, [0.2]) for s in range(3)] + [run_of("b", s, [0.2]) for s in (7, 8)])
    assert summary(apart).friedman is None
    write_study_report(apart, tmp_path)
    with pytest.raises(ValueError, match="no finished run"):
        summary(study_of(["a"], []))


@pytest.mark.usefixtures("svg_only")
def test_labels_are_escaped_in_every_format(tmp_path: Path) -> None:
    labels = ["50% [a_b] & $x$ #1", "AutoKD|{gp}^2"]
    odd = random_study(labels, [1, 2], n_seeds=6, n=5)
    write_study_report(odd, tmp_path)
    tex = (tmp_path / "tables.tex").read_text()
    assert r"50\% [a\_b] \& \$x\$ \#1" in tex
    assert r"AutoKD\textbar{}\{gp\}\textasciicircum{}2" in tex
    assert r"| AutoKD\|{gp}^2 |" in (tmp_path / "report.md").read_text()
    assert "50% [a_b] & $x$ #1" in text_of(odd)
    assert latex("a\\b~c<d") == r"a\textbackslash{}b\textasciitilde{}c$<$d"


def test_tables_have_a_cell_for_every_column() -> None:
    text = latex_table(["method", "n"], [["a", "1"], ["b", "2"]], "Of it.")
    assert r"\begin{tabular}{lr}" in text
    assert r"    a & 1 \\" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert markdown_table(["m", "n"], [["a", "1"]]) == "| m | n |\n| --- | ---: |\n| a | 1 |\n"
