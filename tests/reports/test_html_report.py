"""Reading run folders into tables, and the page that is made of them, as text: no browser."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from report_folders import (
    NASTY,
    TEACHER,
    Text,
    counts,
    final,
    write_baselines,
    write_comparison,
    write_search,
    write_study,
)
from scipy import stats

from naslib_autokd.cli import main
from naslib_autokd.records import Trial, TrialStore, derive_seed
from naslib_autokd.reports.conclusions import what_was_found
from naslib_autokd.reports.html import embedded_json, write_report
from naslib_autokd.reports.html._page import ratio
from naslib_autokd.reports.results import read_run, trial_tables
from naslib_autokd.reports.tables import front_table, objective
from naslib_autokd.runners.statistics import calibration_error, wilson_interval
from naslib_autokd.runners.trial_importance import analysed
from naslib_autokd.search_spaces.hnag import Candidate
from naslib_autokd.tasks import get_task

FINALS = [final(0, 0.91), final(1, 0.92, test_accuracy=0.905, test_counts=counts(errors=19)), final(2, 0.9)]


def page_of(*folders: Path) -> Text:
    return Text(write_report(folders, folders[0].parent / "page.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    failures = {4: ("diverged", "loss is nan"), 7: ("out_of_memory", "2 GB"), 8: ("diverged", "loss is nan")}
    return write_search(tmp_path_factory.mktemp("runs") / "finished", 30, finals=FINALS, failures=failures)


@pytest.fixture(scope="module")
def finished_page(finished: Path) -> Text:
    return page_of(finished)


def test_tables_hold_the_records(finished: Path) -> None:
    found = read_run(finished)
    trials = list(TrialStore(finished / "trials.jsonl"))
    assert found.kind == "search"
    assert found.state == "finished"
    assert found.problem == ""
    for row, trial in zip(found.table("trials"), trials, strict=True):
        for name in ("number", "budget_epochs", "status", "message", "val_accuracy", "n_params", "macs", "depth"):
            assert row[name] == getattr(trial, name)
        assert row["family"] == trial.candidate_digest
    assert found.table("trials")[-1]["spent_epochs"] == sum(trial.student_epochs for trial in trials)
    assert found.table("failures") == [
        {"status": "diverged", "message": "loss is nan", "n": 2},
        {"status": "out_of_memory", "message": "2 GB", "n": 1},
    ]
    best = TrialStore(finished / "trials.jsonl").incumbent()
    assert best is not None
    assert found.table("anytime")[-1]["accuracy"] == best.val_accuracy
    assert found.table("anytime")[-1]["student_epochs"] == found.table("trials")[-1]["spent_epochs"]
    settings = found.table("settings")[3]
    assert settings["temperature"] == trials[3].candidate["kd"]["temperature"]
    assert settings["top_nodes"] == trials[3].candidate["generator"]["top"]["n_nodes"]
    assert "bottom_k" not in settings or settings["bottom_nodes"] >= 5, "inactive settings have no value"


def test_the_documented_columns_are_those_of_the_tables(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    documented = {
        (cells[1].split("`")[1], cells[1].partition(",")[2].strip()): set(re.findall(r"`(\w+)`", cells[2]))
        for cells in (line.split("|") for line in text.splitlines() if line.startswith("| `"))
    }
    runs = [
        write_search(
            tmp_path / "search", 30, finals=FINALS, objectives=("error", "macs"), failures={3: ("error", "x")}
        ),
        write_comparison(tmp_path / "comparison", 6, failed=("DARTS", 1, "ValueError: x")),
        write_baselines(tmp_path / "baselines"),
        write_study(tmp_path / "study"),
    ]
    seen = set()
    for run in (read_run(folder, analyse=folder.name == "search") for folder in runs):
        for name, rows in run.tables.items():
            key = (name, run.kind) if (name, run.kind) in documented else (name, "")
            seen.add(key)
            for row in rows:
                assert set(row) >= documented[key], (key, row)
                assert name in ("settings", "front") or set(row) == documented[key], (key, row)
    assert seen == set(documented)


def test_answer_is_the_student_kept_by_validation_against_the_teacher(finished: Path) -> None:
    found = read_run(finished, analyse=False)
    student = found.answer["student"]
    assert student["test_accuracy"] == 0.905
    assert [row["kept"] for row in found.table("finals")] == [False, True, False]
    interval = stats.binomtest(181, 200).proportion_ci(method="wilson")
    assert (student["test_accuracy_low"], student["test_accuracy_high"]) == pytest.approx((interval.low, interval.high))
    assert student["params_ratio"] == pytest.approx(TEACHER["n_params"] / 23_456)
    assert student["memory_ratio"] == pytest.approx(0.8)
    tests = [line["test_accuracy"] for line in FINALS]
    assert found.answer["family_accuracy"] == pytest.approx(np.mean(tests))
    half = stats.t.ppf(0.975, 2) * np.std(tests, ddof=1) / math.sqrt(3)
    assert found.answer["family_accuracy_high"] == pytest.approx(np.mean(tests) + half)
    # 9 images only the teacher has right, none only the student: the paired difference over 200 images
    assert student["difference"] == pytest.approx(-9 / 200)
    assert student["difference_low"] == pytest.approx(-9 / 200 - 1.96 * math.sqrt(9 - 81 / 200) / 200)


def test_numbers_of_the_page_are_those_of_the_records(finished: Path, finished_page: Text) -> None:
    text = finished_page.text
    low, high = wilson_interval(0.905, 200)
    assert f"90.5% [{100 * low:.1f}, {100 * high:.1f}], 95% interval over 200 test images" in text
    assert "2x fewer than the teacher's" in text
    assert "1.2x the teacher's" in text  # memory
    assert f"naslib-autokd export {finished} --format onnx" in text
    assert "3 failed" in text
    assert "loss is nan" in text
    (table,) = finished_page.payload["tables"].values()
    trials = list(TrialStore(finished / "trials.jsonl"))
    labels = [column["label"] for column in table["columns"]]
    for row, trial in zip(table["rows"], trials, strict=True):
        shown = dict(zip(labels, row, strict=True))
        assert shown["trial"] == trial.number
        assert shown["validation, %"] == (None if trial.val_accuracy is None else round(100 * trial.val_accuracy, 4))
        assert shown["reason"] == trial.message


def test_the_page_says_that_the_default_family_was_kept(tmp_path: Path) -> None:
    said = "The default family, with which the search began, was kept: no other family was trained in full."
    text = page_of(write_search(tmp_path / "run", 1, finals=FINALS)).text
    assert said in text
    assert " 1 trial. The incumbent family is marked." in text
    assert "interval over weight seeds: every wiring of this family is the same network" in text
    assert "The only wiring of the family" in text


def test_equal_wirings_are_drawn_once(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "run", 1, finals=FINALS)
    result = json.loads((folder / "result.json").read_text())
    graph = {"n_nodes": 3, "k": 2, "p": 0.5}
    result["candidate"]["generator"] |= {"top": graph, "mid": {"n_nodes": 2, "p": 0.5}}
    (folder / "result.json").write_text(json.dumps(result))
    page = page_of(folder)
    assert "Wirings of the family" in page.text
    (picture,) = (c for part in page.payload["charts"].values() for c in part if c["spec"]["usermeta"].get("fixed"))
    named = re.findall(r"seed (\d+)", picture["spec"]["description"])
    generator = Candidate.from_dict(result["candidate"]).generator
    digests = [generator.sample_wiring(derive_seed("report", index)).digest for index in range(6)]
    assert len(named) == len(set(digests)) == 4


def test_only_an_optimizer_with_a_model_expects_an_accuracy(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "run", 12, finals=FINALS)
    assert "it chose by this expectation, not by the luckiest training" in page_of(folder).text
    result = json.loads((folder / "result.json").read_text())
    own = [trial.cost for trial in TrialStore(folder / "trials.jsonl") if trial.candidate == result["candidate"]]
    (folder / "result.json").write_text(json.dumps({**result, "expected_cost": min(own)}))  # as random search leaves it
    text = page_of(folder).text
    assert "luckiest" not in text
    assert "by the observed mean of its full trainings" in text


@pytest.mark.parametrize(
    ("expected", "head"), [((), "validation error (%)"), ((0.1,), "expected validation error (%)")]
)
def test_the_front_says_whether_its_errors_are_expected(tmp_path: Path, expected: tuple[float, ...], head: str) -> None:
    folder = write_search(tmp_path / "run", 8, finals=FINALS, objectives=("error", "macs"))
    result = json.loads((folder / "result.json").read_text())
    result["front"] = [{"candidate_digest": "abc", "objectives": {"error": e, "macs": 999_990.0}} for e in expected]
    (folder / "result.json").write_text(json.dumps(result))
    shown = front_table(read_run(folder, analyse=False).table("front"))
    assert list(shown.columns) == ["family", head, "MMACs"]
    assert {row[2] for row in shown.rows} == {"1.00"}  # not 1.000 of what is a little below


def test_a_family_of_many_wirings_is_judged_over_wirings() -> None:
    answer = {"family_accuracy": 0.9, "family_accuracy_low": 0.88, "family_accuracy_high": 0.92, "family_accuracy_n": 3}
    (said,) = what_was_found({**answer, "one_wiring": False})
    assert said.endswith("90.0% [88.0, 92.0] test accuracy, mean and 95% interval over wirings and weight seeds.")


def test_every_part_is_there_in_the_order_of_the_page(finished_page: Text) -> None:
    order = ["answer", "anytime", "trials", "family", "settings", "importance", "front", "calibration", "confusion"]
    assert [name for name in finished_page.ids if name in [*order, "reproduce"]] == [*order, "reproduce"]
    assert (
        "naslib-autokd search --task cluttered-digits --optimizer autokd --trials 30 --finals 3 --seed 0"
        in finished_page.text
    )
    assert "so there is no Pareto front" in finished_page.text
    fixed = [chart[0]["spec"]["usermeta"].get("fixed") for chart in finished_page.payload["charts"].values()]
    assert fixed.count(True) == 1  # the picture of the family; its kept student has no file here
    assert "The kept student cannot be drawn" in finished_page.text


def test_page_refers_to_nothing_outside(finished: Path) -> None:
    source = write_report([finished], finished.parent / "page.html").read_text(encoding="utf-8")
    outside = re.sub(r"<script[^>]*>.*?</script>", "", source, flags=re.DOTALL)
    assert not re.search(r"""(src|href|action)\s*=\s*["']?(https?:)?//""", outside)
    assert "default-src &#x27;none&#x27;" in source
    assert len(source) < 1_500_000


def test_no_trials_yet(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "begun", 0, state="interrupted")
    found = read_run(folder)
    assert found.problem.startswith("No trial has finished yet")
    text = page_of(folder).text
    assert "No trial has finished yet" in text
    assert "Nothing has been found yet" in text


def test_a_folder_without_a_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run: neither run.yaml, trials.jsonl nor study.yaml; give the folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [("interrupted", "was interrupted"), ("failed", "ended with an error"), ("running", "was stopped")],
)
def test_unfinished_run_says_so_first(tmp_path: Path, state: str, words: str) -> None:
    folder = write_search(tmp_path / "run", 8, state=state)  # "running", but its process is gone
    if state == "running":
        import os
        import time

        old = time.time() - 3600
        os.utime(folder / "status.json", (old, old))
    with open(folder / "trials.jsonl", "a") as file:
        file.write('{"number": 9, "cand')  # killed while writing
    found = read_run(folder)
    assert words in found.problem
    assert len(found.table("trials")) == 8
    page = page_of(folder)
    problem = page.text.index(words)
    assert problem < page.text.index("The answer")
    assert "No student has been judged on the test images yet" in page.text
    assert "It takes at least 20 successful trainings" in page.text


def test_run_without_a_success(tmp_path: Path) -> None:
    failures = {number: ("error", f"reason {number % 2}") for number in range(-1, 5)}
    folder = write_search(tmp_path / "run", 6, state="failed", failures=failures)
    page = page_of(folder)
    assert "Nothing has been found yet" in page.text
    assert "6 failed" in page.text
    assert "reason 1" in page.text
    assert "No trial has succeeded yet." in page.text


def test_user_text_is_text(tmp_path: Path) -> None:
    task = get_task("cluttered-digits", data_dir=NASTY)
    classes = (NASTY, *"123456789")
    lines = [final(0, 0.9, test_counts=counts(classes), message=NASTY)]
    name = "run <b>bold</b> & 'so'"
    folder = write_search(tmp_path / name, 6, finals=lines, failures={2: ("error", NASTY)}, task=task)
    source = write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
    page = Text(source)
    assert page.tags.count("script") == 4
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert "onerror" not in "".join(re.findall(r"<[a-z]+ [^>]*>", source[: source.index("report-data")]))
    assert " ".join(NASTY.split()) in page.text
    assert name in page.text
    (trials,) = (table for table in page.payload["tables"].values() if table["name"] == "trials")
    assert NASTY in [row[-1] for row in trials["rows"]]
    cells = [row for table in page.payload["data"].values() if "said" in table["columns"] for row in table["rows"]]
    assert NASTY in [cell for row in cells for cell in row]


def test_embedded_json_cannot_end_its_script() -> None:
    content: dict[str, Any] = {NASTY: [NASTY, math.nan, math.inf, 1.5], "<!--": "]]>"}
    text = embedded_json(content)
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == {NASTY: [NASTY, None, None, 1.5], "<!--": "]]>"}


@pytest.mark.slow
def test_importance_finds_what_the_errors_were_made_of(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "run", 240)
    found = read_run(folder)
    rows = found.table("importance")
    assert {row["hyperparameter"] for row in rows[:2]} == {"kd_weight", "channel_growth"}
    assert rows[0]["n"] == 81
    curve = [row for row in found.table("dependence") if row["hyperparameter"] == "kd_weight"]
    assert curve[0]["mean"] > curve[-1]["mean"] + 0.02, "the error falls with the weight of the teacher"
    assert read_run(folder, analyse=False).table("importance") == []


def test_what_matters_is_told_of_all_budgets_where_full_trainings_are_few(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "run", 24)  # the default; 9 full trainings
    rows = read_run(folder).table("importance")
    assert {row["n"] for row in rows} == {24}
    assert "24 trainings at all budgets (each error relative to the mean of its budget)" in page_of(folder).text
    trials = list(TrialStore(folder / "trials.jsonl"))
    _, costs, _ = analysed(trials)
    means = [np.mean([c for c, t in zip(costs, trials, strict=True) if t.budget_epochs == b]) for b in (3, 9)]
    assert means[0] == pytest.approx(means[1]), "else the budget would matter"
    assert [c for c, t in zip(costs, trials, strict=True) if t.budget_epochs == 9] == [
        t.cost for t in trials if t.budget_epochs == 9
    ]


def test_front_of_several_objectives(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "run", 20, objectives=("error", "macs"))
    rows = read_run(folder).table("front")
    full = [t for t in TrialStore(folder / "trials.jsonl") if t.budget_epochs == 9]
    assert [(row["error"], row["macs"]) for row in rows] == [(t.cost, t.macs) for t in full]
    for row in rows:
        beaten = any(other["error"] <= row["error"] and other["macs"] <= row["macs"] and other != row for other in rows)
        assert row["on_front"] != beaten
    assert "Families that no other beats" in page_of(folder).text


def test_measured_latencies_are_shown_with_what_was_measured(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "run", 12, objectives=("error", "latency"))
    trials = list(TrialStore(folder / "trials.jsonl"))
    for index, trial in enumerate(trials):
        trial.info.update(latency=4.5678e-5 * (1 + index), latency_of="some runtime, batch 1")
    (folder / "trials.jsonl").write_text("".join(trial.to_json() + "\n" for trial in trials))
    page = page_of(folder)
    (table,) = (table for table in page.payload["tables"].values() if table["name"] == "trials")
    place = [column["label"] for column in table["columns"]].index("latency, ms")
    assert [row[place] for row in table["rows"]] == pytest.approx([1e3 * t.info["latency"] for t in trials], abs=1e-6)
    assert "Latency: some runtime, batch 1." in page.text
    digest = min((t for t in trials if t.budget_epochs == 9), key=lambda t: t.cost).candidate_digest
    assert f"naslib-autokd export {folder} --family {digest}" in page.text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("error", 0.115, "11.50"),
        ("latency", 4.671e-5, "0.0467"),
        ("params", 11_179_100, "11,179"),
        ("macs", 506_900, "0.507"),
        ("macs", 0, "0.00"),
    ],
)
def test_objectives_are_shown_with_three_digits(name: str, value: float, text: str) -> None:
    assert objective(name, value) == text


def test_a_front_that_is_not_there_yet_is_not_said_to_be_none(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "run", 0, objectives=("error", "macs"))
    assert "the error alone" not in page_of(folder).text


def test_final_students_that_were_not_judged_are_shown(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "run", 1, finished=False)
    for path in folder.glob("*/seed-0"):
        line = final(0, 0.9, test_accuracy=None, test_agreement=None, test_counts={})
        (path / "finals.jsonl").write_text(json.dumps(line) + "\n")
        (path / "result.json").unlink()
    assert "0 (kept) 90.0% not known" in page_of(folder).text


def test_trials_of_another_space_are_read_as_they_are(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "run", 0)
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump({**settings, "space": "nasbench201"}))
    rng = np.random.default_rng(0)
    with TrialStore(folder / "trials.jsonl") as store:
        for number in range(30):
            edges = rng.integers(5, size=3).tolist()
            cost = 0.1 + 0.05 * edges[1] + 0.001 * rng.random()
            candidate = {"operations": edges, "merge": ["sum", "cat"][number % 2], "fixed": 7}
            store.append(
                Trial(
                    number=number,
                    candidate=candidate,
                    candidate_digest=f"family-{number}",
                    budget_epochs=9,
                    seed=number,
                    cost=cost,
                    val_accuracy=1 - cost,
                    student_epochs=9.0,
                )
            )
    found = read_run(folder)
    assert [row["name"] for row in found.table("hyperparameters")] == [
        "operations.0", "operations.1", "operations.2", "merge",
    ]  # fmt: skip
    assert found.table("importance")[0]["hyperparameter"] == "operations.1"
    assert found.command.split("--space ")[1].startswith("nasbench201 ")
    page = page_of(folder)
    assert page.tags.count("svg") == 0
    assert "operations.1" in str(page.payload["charts"])
    assert "Partial dependence needs the space that was searched" in page.text


def test_calibration_error_of_the_bins(finished: Path) -> None:
    rows = [row for row in read_run(finished, analyse=False).table("calibration") if row["who"] == "student"]
    expected = (19 * 0.63 + 181 * 0.03) / 200
    assert calibration_error(rows) == pytest.approx(expected)
    assert math.isnan(calibration_error([]))


def test_comparison_pairs_ranks_and_tests(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "comparison", 6)
    found = read_run(folder)
    assert found.kind == "comparison"
    assert found.problem == ""
    assert len(found.table("finals")) == 36
    results = [json.loads(path.read_text()) for path in folder.glob("*/seed-*/result.json")]
    means = {(r["method"], r["seed"]): np.mean(r["test_accuracies"]) for r in results}
    ours, theirs = ([means[label, seed] for seed in range(6)] for label in ("AutoKD", "DARTS"))
    (row,) = (row for row in found.table("tests") if row["method"] == "DARTS")
    assert row["difference"] == pytest.approx(np.mean(np.subtract(ours, theirs)))
    assert row["p_value"] == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert row["p_wilcoxon"] == pytest.approx(stats.wilcoxon(ours, theirs).pvalue)
    assert row["p_holm"] == pytest.approx(min(1.0, 2 * row["p_value"]))
    assert {r["method"]: r["average_rank"] for r in found.table("ranks")}["DARTS"] == 3.0
    page = page_of(folder)
    assert "AutoKD is ahead of DARTS" in page.text
    assert "Paired differences" in page.text
    assert page.ids.index("statistics") > page.ids.index("confusion")
    assert sum(row["n"] for row in found.table("agreement") if row["method"] == "AutoKD") == 6 * 200


@pytest.mark.parametrize("best", ["AutoKD", "DARTS with KD"])
def test_the_answer_of_a_comparison_is_the_best_methods_student(best: str, tmp_path: Path) -> None:
    found = read_run(write_comparison(tmp_path / "comparison", 2, best=best))
    assert found.answer["student_method"] == best
    own = [row for row in found.table("finals") if row["method"] == best]
    assert found.answer["student"]["test_accuracy"] in {row["test_accuracy"] for row in own}
    assert found.table("ranks") == []  # two seeds of three methods agree by chance in one of six studies
    assert "so many seeds" in found.missing["ranks"]


def test_unfinished_comparison_with_a_failed_job(tmp_path: Path) -> None:
    failed = ("DARTS", 1, f"ValueError: {NASTY}")
    folder = write_comparison(tmp_path / "comparison", 2, finished=False, failed=failed)
    found = read_run(folder)
    assert "is not finished (5 finished jobs)" in found.problem
    assert "1 job failed: DARTS, seed 1" in found.problem
    assert found.teacher is not None
    assert found.teacher["test_accuracy"] == pytest.approx(0.95), "from what was counted beside the students"
    page = page_of(folder)
    assert " ".join(failed[2].split()) in page.text
    assert "The comparison is not finished" in page.text[: page.text.index("The answer")]
    for path in folder.glob("darts*/*/result.json"):
        path.unlink()
    (folder / "autokd" / "seed-1" / "result.json").unlink()
    assert "(1 finished job, begun and not finished: AutoKD, seed 1; DARTS with KD, seed 0;" in read_run(folder).problem


def test_a_comparison_of_losses_has_a_report(tmp_path: Path) -> None:
    folder = write_baselines(tmp_path / "losses")
    found = read_run(folder)
    assert found.kind == "baselines"
    assert found.problem == "1 training failed: the same command tries again."
    assert found.answer["best"] == "resnet8, FitNet hints"
    tests = {row["method"]: row for row in found.table("tests")}
    accuracies = {
        label: [row["test_accuracy"] for row in found.table("finals") if row["method"] == label]
        for label in found.methods
    }
    plain = accuracies["resnet8, KD"]
    for label, row in tests.items():
        assert row["difference"] == pytest.approx(np.mean(np.subtract(accuracies[label], plain)))
        assert row["p_value"] == pytest.approx(stats.ttest_rel(accuracies[label], plain).pvalue)
    page = page_of(folder)
    assert "No trial has finished yet" not in page.text
    assert "resnet8, FitNet hints" in page.text
    assert "out of luck" in page.text
    unfinished = read_run(write_baselines(tmp_path / "begun", 1, finished=False))
    assert "The comparison is not finished (3 trainings so far)" in unfinished.problem
    assert unfinished.table("tests")[0]["low"] is None


def test_study_says_what_its_report_says(tmp_path: Path) -> None:
    found = read_run(write_study(tmp_path / "study"))
    assert found.kind == "study"
    first, second = found.table("methods")
    assert first["regret"] == pytest.approx(0.0045)
    assert second["regret"] == pytest.approx(0.0145)
    assert found.table("tests")[0]["difference"] == pytest.approx(0.01)
    page = page_of(tmp_path / "study")
    assert "Which of the two?" in page.text
    assert "First is ahead of Second" in page.text


def test_a_study_without_its_reference_is_of_the_methods_that_have_run(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study")
    lines = (folder / "runs.jsonl").read_text().splitlines()
    (folder / "runs.jsonl").write_text("".join(f"{line}\n" for line in lines if '"Second"' in line))
    found = read_run(folder)
    assert found.state == "finished"
    assert found.problem == "Without any run: First; ablate without --methods adds those that can be used here."
    assert found.answer["reference"] == "Second"
    assert [row["method"] for row in found.table("methods")] == ["Second"]
    assert "There is nothing to pair" in page_of(folder).text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1.6, "1.6x fewer than the teacher's"),
        (1.02, "about the teacher's"),
        (0.97, "about the teacher's"),
        (0.5, "2x the teacher's"),
        (948.0, "948x fewer than the teacher's"),
        (None, ""),
    ],
)
def test_ratios_are_said_as_they_are(value: float | None, said: str) -> None:
    assert ratio(value, "fewer") == said


def test_several_runs_in_one_page(tmp_path: Path, finished: Path) -> None:
    other = write_search(tmp_path / "second", 6)
    page = page_of(other, finished)
    assert "2 runs" in page.text
    for prefix in ("run0-", "run1-"):
        assert f"{prefix}answer" in page.ids
    own = [name for name in page.ids if name]
    assert len(set(own)) == len(own)


def test_the_command_writes_and_refuses(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "page.html"
    assert main(["report", str(finished), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(out)
    assert printed["runs"] == [{"run": str(finished), "kind": "search", "state": "finished"}]
    assert out.stat().st_size > 900_000
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    for folder, words in (("missing", "is no folder"), ("other", "holds no run")):
        assert main(["report", str(tmp_path / folder)]) == 2
        assert words in capsys.readouterr().err
    assert main(["report", str(finished), "--out", str(tmp_path)]) == 2
    assert "is a folder; give a file" in capsys.readouterr().err


def test_reading_and_writing_loads_no_plotting_package(tmp_path: Path) -> None:
    import subprocess
    import sys

    folder = write_search(tmp_path / "run", 6)
    code = (
        "import sys; from naslib_autokd.reports.results import read_run; read_run(sys.argv[1]); "
        "assert not {'torch', 'altair', 'vl_convert'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_settings_that_do_not_vary_are_said_to(tmp_path: Path) -> None:
    text = page_of(write_search(tmp_path / "run", 1)).text
    assert "All full trainings so far have the same settings." in text


def test_of_very_many_trials_a_sample_is_shown_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_search(tmp_path / "run", 60, finals=FINALS)
    everything = read_run(folder, analyse=False)
    monkeypatch.setattr(trial_tables, "MOST_SHOWN", 10)
    sampled = read_run(folder, analyse=False)
    rows = sampled.tables["trials"]
    assert 10 <= len(rows) < 30
    assert all(row in everything.tables["trials"] for row in rows), "sums are of all trials"
    for name in ("anytime", "failures", "budget_agreement", "finals"):
        assert sampled.tables[name] == everything.tables[name]
    assert sampled.answer == everything.answer
    assert f"{len(rows)} of {len(everything.tables['trials'])}" in sampled.problem
    assert everything.problem == ""
