"""The benchmark: answers like a live evaluator's, repeatable, with the noise that it says, from sound files."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from table_cases import BUDGETS, SPACE, TASK, training, trainings

from naslib_autokd.cli import main
from naslib_autokd.evaluators.base import Benchmark
from naslib_autokd.evaluators.benchmark import (
    BENCHMARKS,
    BUDGET_CORRELATION,
    BenchmarkError,
    KDBenchmark,
    agreement,
    fit_files,
    get_benchmark,
    read_files,
)
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.records import Proposal, Trial
from naslib_autokd.runners.bench import STAGE_SIZE, STAGES
from naslib_autokd.search_spaces.hnag import Candidate, HNAGSpace, KDSettings, fit_width
from naslib_autokd.search_spaces.hnag.individual import WiringCandidate, mutate
from naslib_autokd.tasks import get_task

FAMILY = SPACE.candidate(
    {"top_nodes": 6, "top_k": 2, "top_p": 0.8, "bottom_nodes": 2, "channel_growth": 1.3, "downsampling": "max"}
    | {"temperature": 4.0, "kd_weight": 0.9}
)


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark that was fitted to a table whose truth is known."""
    path = tmp_path_factory.mktemp("benchmark") / "toy.npz"
    trials, stages = trainings(n_families=60)
    fit_files(trials, stages, TASK, SPACE, path, seed=0)
    return path


@pytest.fixture(scope="session")
def toy(toy_file: Path) -> KDBenchmark:
    return KDBenchmark(path=toy_file)


@pytest.fixture(scope="session")
def shipped() -> KDBenchmark:
    return KDBenchmark()


def proposal(candidate: Any = FAMILY, budget: int = 3, seed: int = 0, number: int = 0) -> Proposal:
    return Proposal(candidate, budget, seed, number)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_it_is_a_benchmark(toy, shipped):
    for benchmark in (toy, shipped):
        assert isinstance(benchmark, Benchmark)
    assert toy.budgets == BUDGETS
    assert (shipped.budgets, shipped.name, shipped.task) == (
        (1, 3, 9),
        "cluttered-digits-v1",
        get_task("cluttered-digits"),
    )
    assert get_benchmark("cluttered-digits").name == shipped.name
    assert get_benchmark(toy) is toy


def test_the_trial_is_that_of_the_live_evaluator_where_that_is_known(toy):
    trial = toy.evaluate(proposal(seed=5, number=3))
    wiring = FAMILY.sample_wiring(trial.wiring_seed)
    spec = fit_width(wiring, TASK.max_params, in_channels=1, image_size=12, n_classes=10, min_channels=4)
    told = (trial.wiring, trial.channels, trial.n_params, trial.macs, trial.depth)
    assert told == (wiring.digest, spec.channels, spec.n_params, spec.macs, spec.depth)
    assert (trial.number, trial.seed, trial.candidate_digest) == (3, 5, FAMILY.digest)
    assert (trial.status, trial.budget_epochs, trial.student_epochs) == ("success", 3, 3.0)
    assert trial.cost == pytest.approx(1 - trial.val_accuracy)
    assert (trial.cost * TASK.n_val) == pytest.approx(round(trial.cost * TASK.n_val)), "a share of 3000 images"
    assert trial.train_s == pytest.approx(1.5, rel=0.1)
    assert 0.5 * trial.macs < trial.train_memory_bytes < 6 * trial.macs
    assert len(trial.curve) == len(trial.info["val_curve"]) == 3
    assert trial.info["val_curve"][-1] == trial.val_accuracy
    assert trial.info["benchmark"] == "toy"
    assert 0 <= trial.train_accuracy <= 1
    assert 0 <= trial.teacher_agreement <= 1
    assert Trial.from_dict(json.loads(trial.to_json())) == trial
    assert "test" not in trial.to_json().replace(trial.message, ""), "the test split is for final evaluations"


def test_no_answer_is_better_than_the_best_training(toy):
    good = toy.best_candidate
    full = (toy.table["budget_epochs"] == 3) & np.isin(toy.table["stage"], ("space", "nested"))
    lowest = float(toy.table["cost"][full].min())
    costs = [toy.evaluate(proposal(good, seed=seed)).cost for seed in range(400)]
    drawn = [toy.draw_error(good, seed) for seed in range(400)]
    assert min(costs) == pytest.approx(lowest), "some are as good"
    assert costs == drawn
    assert min(toy.draw_error(good, seed, "test") for seed in range(400)) == pytest.approx(
        1 - float(toy.table["test_accuracy"][full].max())
    )
    assert KDBenchmark()._models[9].lowest == (0.0, 0.0), "a file of before, whose answers stay"


def test_live_and_benchmark_draw_the_same_student(shipped, cluttered_teacher, cluttered_data):
    from naslib_autokd.evaluators.kd import KDEvaluator

    live = KDEvaluator("cluttered-digits", data=cluttered_data, teacher=cluttered_teacher)
    for seed in (0, 7):
        spec = live.student_spec(FAMILY, seed)
        trial = shipped.evaluate(proposal(budget=9, seed=seed))
        assert (trial.wiring, trial.n_params, trial.macs) == (spec.wiring.digest, spec.n_params, spec.macs)


def test_answers_are_functions_of_candidate_budget_and_seed(toy, toy_file):
    other = KDBenchmark(path=toy_file)
    for budget in BUDGETS:
        first = toy.evaluate(proposal(budget=budget, seed=3))
        assert other.evaluate(proposal(budget=budget, seed=3, number=8)).outcome() == {**first.outcome(), "number": 8}
        assert toy.evaluate(proposal(budget=budget, seed=4)).cost != first.cost
    another = Candidate(FAMILY.generator, KDSettings(4.0, 0.91))
    assert toy.evaluate(proposal(another, seed=3)).cost != toy.evaluate(proposal(seed=3)).cost
    assert toy.final_test_error(FAMILY, 3) == other.final_test_error(FAMILY, 3) != toy.final_test_error(FAMILY, 4)
    copy = pickle.loads(pickle.dumps(toy))  # workers get it like this
    assert copy.evaluate(proposal(seed=3)) == toy.evaluate(proposal(seed=3))


@pytest.mark.parametrize("budget", BUDGETS)
def test_draws_have_the_mean_and_the_noise_that_are_told(toy, budget):
    costs = [toy.evaluate(proposal(budget=budget, seed=seed)).cost for seed in range(1500)]
    sd = math.hypot(*toy.noise_sd(FAMILY, budget))
    expected = KDBenchmark(path=toy.path, noise=False).evaluate(proposal(budget=budget)).cost
    assert np.mean(costs) == pytest.approx(expected, abs=4 * sd / math.sqrt(1500))
    assert np.std(costs) == pytest.approx(sd, rel=0.1)
    if budget == 3:
        assert toy.true_cost(FAMILY) == pytest.approx(expected)
        assert toy.draw_error(FAMILY, 17) == costs[17]


def test_test_errors_share_the_training_but_not_the_split(toy):
    val = np.array([toy.draw_error(FAMILY, seed) for seed in range(1500)])
    test = np.array([toy.final_test_error(FAMILY, seed) for seed in range(1500)])
    assert test.mean() == pytest.approx(toy.true_test_error(FAMILY), abs=0.002)
    split = math.sqrt(2 * val.mean() * (1 - val.mean()) / 3000)
    assert (test - val).std() == pytest.approx(split, rel=0.3)
    assert np.corrcoef(val, test)[0, 1] > 0.7
    assert toy.test_accuracy(FAMILY, 0) == 1 - toy.final_test_error(FAMILY, 0)


def test_a_wiring_keeps_its_effect_over_seeds_kd_settings_and_budgets(toy):
    wirings = [replace(FAMILY, wiring_seed=seed) for seed in range(300)]
    wiring_sd, weights_sd = toy.noise_sd(FAMILY, 3)
    effects = np.array([toy.true_cost(wiring) for wiring in wirings]) - toy.true_cost(FAMILY)
    assert effects.std() == pytest.approx(wiring_sd, rel=0.15)
    assert effects.mean() == pytest.approx(0, abs=4 * wiring_sd / math.sqrt(300))
    for wiring, effect in zip(wirings[:2], effects, strict=False):
        costs = [toy.draw_error(wiring, seed) for seed in range(800)]
        assert np.mean(costs) - toy.true_cost(FAMILY) == pytest.approx(effect, abs=4 * weights_sd / math.sqrt(800))
        assert np.std(costs) == pytest.approx(weights_sd, rel=0.12), "the wiring is fixed"
    # the test split sees the same wirings
    tests = np.array([toy.true_test_error(wiring) for wiring in wirings]) - toy.true_test_error(FAMILY)
    assert tests == pytest.approx(effects)
    # other KD settings: the same effect in units of that family's noise
    other = Candidate(FAMILY.generator, KDSettings(2.0, 0.5))
    scaled = [toy.true_cost(replace(other, wiring_seed=s)) - toy.true_cost(other) for s in range(300)]
    assert np.array(scaled) / toy.noise_sd(other, 3)[0] == pytest.approx(effects / wiring_sd)
    # budgets share most of it
    quiet = KDBenchmark(path=toy.path, noise=False)
    low = [quiet.evaluate(proposal(wiring, 1)).cost for wiring in wirings]
    assert np.corrcoef(low, effects)[0, 1] == pytest.approx(BUDGET_CORRELATION, abs=0.1)


def test_a_family_of_one_wiring_has_no_wiring_noise(toy):
    values = {**SPACE.values(FAMILY), "top_nodes": 5, "top_k": 4, "bottom_nodes": 1}
    single = SPACE.candidate(values)
    assert len({single.sample_wiring(seed).digest for seed in range(20)}) == 1
    assert toy.noise_sd(single, 3)[0] == 0.0
    assert toy.true_cost(replace(single, wiring_seed=3)) == toy.true_cost(single)


def test_edited_wirings_are_answered(toy):
    rng = np.random.default_rng(0)
    first = WiringCandidate.draw(FAMILY, 0)
    second = mutate(first, HNAGSpace("hnag-small", search_kd=False), rng)
    for wiring in (first, second):
        trial = toy.evaluate(proposal(wiring))
        assert (trial.wiring, trial.wiring_seed) == (wiring.wiring.digest, None)
    assert toy.true_cost(first) != toy.true_cost(second) != toy.true_cost(FAMILY)


def test_without_noise_the_expectation_is_told(toy_file):
    quiet = KDBenchmark(path=toy_file, noise=False)
    costs = {quiet.evaluate(proposal(seed=seed)).cost for seed in range(5)}
    assert costs == {quiet.true_cost(FAMILY)}
    assert quiet.final_test_error(FAMILY, 1) == quiet.true_test_error(FAMILY)


@pytest.mark.parametrize("mode", ["family", "individual"])
def test_other_spaces_inside_it_are_searched(toy_file, mode):
    space = HNAGSpace("hnag-small", mode=mode, search_kd=False, kd=KDSettings(4.0, 1.0))
    benchmark = KDBenchmark(path=toy_file, space=space)
    assert benchmark.space is space
    rng = np.random.default_rng(0)
    for seed in range(5):
        assert benchmark.evaluate(proposal(space.sample(rng), seed=seed)).succeeded


def test_what_cannot_be_answered_is_said(toy):
    with pytest.raises(BenchmarkError, match="has trainings of 1, 3 epochs, not of 2: each budget has its own"):
        toy.evaluate(proposal(budget=2))
    wide = HNAGSpace("hnag-wide").default_candidate()
    with pytest.raises(BenchmarkError, match=r"no answer: candidate .* is not in the space hnag-small"):
        toy.evaluate(proposal(wide))
    with pytest.raises(BenchmarkError, match="no answer for a str"):
        toy.true_cost("family")
    with pytest.raises(BenchmarkError, match=r"no benchmark of 'cluttered-digit'.*cluttered-digits"):
        get_benchmark("cluttered-digit")
    with pytest.raises(BenchmarkError, match="of another task: its trainings have n_train 1500 and not 99"):
        KDBenchmark(get_task("cluttered-digits", n_train=99))


def test_students_of_another_size_are_refused(toy):
    with pytest.raises(BenchmarkError, match="full parameter limit"):
        toy.evaluate(proposal(replace(FAMILY, size=0.5)))


def test_a_training_free_score_is_that_of_the_real_student(shipped, cluttered_teacher, cluttered_data):
    live = KDEvaluator(cluttered_data.task, data=cluttered_data, teacher=cluttered_teacher.network)
    score = shipped.training_free_score(FAMILY, 3)
    assert score == live.training_free_score(FAMILY, 3)
    assert 0 < score.student_epochs < 0.1


def test_the_best_family_is_the_best_of_many(toy, shipped):
    rng = np.random.default_rng(3)
    for benchmark in (toy, shipped):
        assert benchmark.true_test_error(benchmark.best_candidate) == pytest.approx(benchmark.best_test_error)
        found = min(benchmark.true_test_error(SPACE.sample(rng)) for _ in range(150))
        assert benchmark.best_test_error < found


def test_failures_are_drawn_at_their_rate(toy_file, tmp_path):
    trials, stages = trainings(n_families=60, n_nested=0, n_held_out=0, budgets=(3,))
    failed = [
        replace(t, status="diverged", cost=1.0, val_accuracy=None) if i % 5 == 0 else t for i, t in enumerate(trials)
    ]
    fit_files(failed, stages, TASK, SPACE, tmp_path / "failing.npz")
    benchmark = KDBenchmark(path=tmp_path / "failing.npz")
    trials = [benchmark.evaluate(proposal(seed=seed)) for seed in range(400)]
    assert np.mean([trial.status == "diverged" for trial in trials]) == pytest.approx(0.2, abs=0.07)
    for trial in trials:
        assert trial.succeeded or (trial.cost == 1.0 and trial.val_accuracy is None and trial.student_epochs == 3.0)


def test_a_search_runs_on_it(shipped, tmp_path):
    from naslib_autokd.runners.search import search

    result = search("cluttered-digits", "random_search", evaluator=shipped, n_trials=12, seed=0, out=tmp_path)
    assert shipped.true_cost(result.candidate) < 0.3
    again = search("cluttered-digits", "random_search", evaluator=KDBenchmark(), n_trials=12, seed=0)
    assert again.candidate == result.candidate


def test_a_query_imports_neither_torch_nor_scikit_learn():
    code = (
        "import sys; from naslib_autokd.evaluators.benchmark import *; from naslib_autokd.records import Proposal\n"
        "b = KDBenchmark(); b.evaluate(Proposal(b.best_candidate, 9, 0, 0)); b.table\n"
        "print([m for m in ('torch', 'sklearn', 'naslib', 'smac') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_table_is_the_trainings(toy):
    trials, stages = trainings(n_families=60)
    table = toy.table
    assert {len(column) for column in table.values()} == {len(trials)}
    i = 60
    assert (table["stage"][i], table["number"][i], table["seed"][i]) == (stages[i], i, trials[i].seed)
    assert table["cost"][i] == pytest.approx(trials[i].cost)
    assert table["test_accuracy"][i] == pytest.approx(trials[i].info["test_accuracy"])
    assert table["wiring_seed"][i] == trials[i].candidate["wiring_seed"]
    assert table["wiring"][i] == trials[i].wiring
    assert tuple(table["channels"][i]) == trials[i].channels
    values = SPACE.values(Candidate.from_dict({**trials[i].candidate, "wiring_seed": None}))
    for name in SPACE.values(FAMILY):
        known = table[name][i]
        if name in values:
            assert known == values[name]
        else:
            assert math.isnan(known)
    one = table["budget_epochs"] == 1
    assert np.isnan(table["val_curve"][one][:, 1:]).all()
    assert not np.isnan(table["val_curve"][one][:, 0]).any()
    with pytest.raises(ValueError, match="read-only"):
        table["cost"][0] = 0.0


def test_the_shipped_table_is_what_it_says(shipped):
    table, sheet = shipped.table, shipped.datasheet
    assert len(table["cost"]) == sheet["n_trainings"] == sum(sheet["stages"].values())
    assert set(table["stage"].tolist()) <= set(STAGES)
    assert (table["n_params"][table["status"] == "success"] <= 24_000).all()
    assert sheet["made"]["seed"] == 0
    size = sum((shipped.path.with_suffix(suffix)).stat().st_size for suffix in (".npz", ".json"))
    assert size < 2_000_000
    for name in BENCHMARKS:
        assert KDBenchmark(name).task == get_task(name)


@pytest.mark.slow
def test_fitting_again_gives_the_same_bytes(toy_file, tmp_path):
    trials, stages = trainings(n_families=60)
    order = np.random.default_rng(0).permutation(len(trials)).tolist()
    again = tmp_path / "toy.npz"
    fit_files([trials[i] for i in order], [stages[i] for i in order], TASK, SPACE, again, seed=0)
    assert again.read_bytes() == toy_file.read_bytes()
    assert again.with_suffix(".json").read_text() == toy_file.with_suffix(".json").read_text()


@pytest.mark.slow
def test_held_out_families_are_not_fitted(toy_file, tmp_path):
    trials, stages = trainings(n_families=60)
    worse = [
        replace(t, cost=0.99, val_accuracy=0.01) if stage == "held-out" else t
        for t, stage in zip(trials, stages, strict=True)
    ]
    fit_files(worse, stages, TASK, SPACE, tmp_path / "toy.npz", seed=0)
    assert KDBenchmark(path=tmp_path / "toy.npz").true_cost(FAMILY) == KDBenchmark(path=toy_file).true_cost(FAMILY)


def test_files_of_another_version_and_damaged_ones_are_refused(toy_file, tmp_path):
    path = tmp_path / "toy.npz"

    def made(sheet: str | None = None, tail: bytes = b"") -> Path:
        path.write_bytes(toy_file.read_bytes() + tail)
        content = toy_file.with_suffix(".json").read_text() if sheet is None else sheet
        path.with_suffix(".json").write_text(content)
        return path

    assert KDBenchmark(path=made()).name == "toy"
    sheet = json.loads(toy_file.with_suffix(".json").read_text())
    for content, text in (
        (json.dumps({**sheet, "format": 99}), "has format 99, and naslib_autokd .* reads format 1"),
        ("[]", "has format None"),
        ("{", "is damaged"),
    ):
        with pytest.raises(BenchmarkError, match=text):
            read_files(made(content))
    with pytest.raises(BenchmarkError, match="checksums differ"):
        read_files(made(tail=b"x"))
    path.with_suffix(".json").unlink()
    with pytest.raises(BenchmarkError, match=r"toy.json does not exist"):
        read_files(path)


def test_too_small_a_table_is_refused(tmp_path):
    trials, stages = trainings(n_families=12, n_nested=0, n_held_out=0)
    with pytest.raises(BenchmarkError, match="at least 20 families trained at 1 epochs, found 12"):
        fit_files(trials, stages, TASK, SPACE, tmp_path / "small.npz")
    assert not (tmp_path / "small.npz").exists()


# --- against trainings ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_agreement_with_trainings_of_the_same_truth_and_of_another(toy):
    rng = np.random.default_rng(5)
    families = [SPACE.sample(rng) for _ in range(30)]
    live = [training(family, 3, 99, 1000 + i, i) for i, family in enumerate(families)]
    live = [replace(t, candidate={**t.candidate, "wiring_seed": None}) for t in live]
    for split in ("validation", "test"):
        found = agreement(toy, live, split)
        assert found.n == 30
        for name in ("pearson", "spearman", "kendall"):
            value, low, high = found.correlations[name]
            assert low < value < high
            assert found.exact[name][0] < found.exact[name][1] <= 1
        assert found.correlations["pearson"][0] > 0.5
        assert abs(found.difference[0]) < 0.01
        assert found.coverage > 0.8
    shifted = [replace(t, cost=t.cost + 0.1) for t in live]
    assert agreement(toy, shifted).difference[1] > 0.08
    assert agreement(toy, shifted).coverage < 0.2
    shuffled = [replace(t, candidate=live[i - 7].candidate) for i, t in enumerate(live)]
    assert agreement(toy, shuffled).correlations["pearson"][0] < 0.5
    with pytest.raises(BenchmarkError, match="at least 3 trainings of 3 epochs, got 0"):
        agreement(toy, [replace(t, status="diverged") for t in live])


# --- command line -----------------------------------------------------------------------------------------------------


def test_the_commands(toy_file, tmp_path, capsys):
    """What a build left is fitted, shown and queried."""
    import yaml

    from naslib_autokd.records import TrialStore

    trials, stages = trainings(n_families=60)
    seen: dict[str, int] = {}
    folder = tmp_path / "build"
    with TrialStore(folder / "trials.jsonl") as store:
        for trial, stage in zip(trials, stages, strict=True):
            seen[stage] = seen.get(stage, -1) + 1
            store.append(replace(trial, number=STAGES.index(stage) * STAGE_SIZE + seen[stage]))
    TASK.to_yaml(folder / "task.yaml")
    out = tmp_path / "made.npz"
    assert main(["bench", "fit", str(folder), "--out", str(out)]) == 2, "no run.yaml yet"
    assert "not the folder of a build" in capsys.readouterr().err
    (folder / "run.yaml").write_text(yaml.safe_dump({"benchmark": SPACE.describe(), "seed": 0}))
    assert main(["bench", "fit", str(folder), "--out", str(out)]) == 0
    fitted = capsys.readouterr().out
    for text in ("of 84 families", "Families that were not fitted", "tau_ceiling", "Regions left out"):
        assert text in fitted
    assert main(["bench", "info", str(out)]) == 0
    assert "held-out 96" in capsys.readouterr().out
    assert main(["bench", "info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "made"
    FAMILY_FILE = tmp_path / "family.yaml"
    FAMILY_FILE.write_text(FAMILY.to_yaml())
    query = ["bench", "query", str(out), "--candidate", str(FAMILY_FILE), "--budget", "3", "--seed", "4"]
    assert main([*query, "--json"]) == 0
    assert Trial.from_dict(json.loads(capsys.readouterr().out)) == KDBenchmark(path=out).evaluate(proposal(seed=4))
    assert main(query) == 0
    assert "by weight seeds and split" in capsys.readouterr().out
    assert main([*query[:-2], "--budget", "2"]) == 2
    assert "not of 2" in capsys.readouterr().err


@pytest.mark.slow
def test_from_training_to_verification(tmp_path, capsys):
    """A benchmark of a tiny task: built, fitted, and compared with students trained afterwards."""
    sizes = {"n_train": 64, "n_teacher": 600, "n_val": 100, "n_test": 100, "teacher_epochs": 6, "batch_size": 32}
    limits = {"min_teacher_accuracy": 0.0, "max_budget_epochs": 2, "min_budget_epochs": 1}
    get_task("cluttered-digits", name="tiny", **sizes, **limits).to_yaml(tmp_path / "tiny.yaml")
    table, out, live = tmp_path / "table", tmp_path / "tiny.npz", tmp_path / "live"
    build = ["bench", "build", "--task", str(tmp_path / "tiny.yaml"), "--out", str(table), "--space-families", "20"]
    for stage in ("dense", "nested", "dense-nested", "held-out", "dense-held-out"):
        build += [f"--{stage}-families", "0"]
    assert main([*build, "--repeats", "1"]) == 0
    told = capsys.readouterr()
    assert "complete; now: naslib-autokd bench fit" in told.out
    assert "62 student-epochs in all" in told.err
    assert main(["bench", "fit", str(table), "--out", str(out)]) == 0
    assert "41 (space 40, repeats 1) of 20 families" in capsys.readouterr().out
    verify = ["bench", "verify", str(out), "--generators", "4", "--out", str(live), "--json"]
    assert main(verify) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["validation"]["n"] == found["test"]["n"] == 4
    before = (live / "trials.jsonl").read_bytes()
    assert main(verify[:-1]) == 0, "nothing is trained again"
    assert "an exact benchmark" in capsys.readouterr().out
    assert (live / "trials.jsonl").read_bytes() == before
