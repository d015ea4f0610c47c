"""The design of a benchmark's table and its build: the same trainings however often it is stopped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faulty import FormulaEvaluator

from naslib_autokd.data.load import load_data
from naslib_autokd.evaluators.recording import RecordingEvaluator
from naslib_autokd.records import Trial, TrialStore
from naslib_autokd.runners.bench import (
    STAGE_SIZE,
    STAGES,
    BuildPlan,
    BuildProgress,
    Design,
    build,
    stage_of,
    train_fresh,
    uniform_families,
)
from naslib_autokd.runners.engine import InProcessEngine
from naslib_autokd.runners.run_folder import RunFolderError
from naslib_autokd.runners.tally import TooManyFailures
from naslib_autokd.search_spaces.hnag import Candidate, HNAGSpace
from naslib_autokd.tasks import get_task

TASK = get_task("cluttered-digits")
SPACE = HNAGSpace("hnag-small")
SMALL = BuildPlan(n_space=12, n_dense=5, n_nested=3, n_dense_nested=2, n_held_out=4, n_dense_held_out=3, n_repeats=10)


def run(out: Path, plan: BuildPlan = SMALL, **options: Any) -> bool:
    return build(TASK, SPACE, InProcessEngine(FormulaEvaluator()), out, plan, **options)


def trials_in(out: Path) -> list[Trial]:
    return sorted(TrialStore(out / "trials.jsonl"), key=lambda trial: trial.number)


def stages_of(plan: BuildPlan, found: list[Trial]) -> dict[str, list[Any]]:
    return dict(Design(TASK, SPACE, plan).stages(lambda stage: [t for t in found if stage_of(t) == stage]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build")
    assert run(out)
    return out


def test_each_stage_has_its_trainings(whole):
    trials = trials_in(whole)
    sizes = Counter(stage_of(trial) for trial in trials)
    # 3 budgets; nested 3 wirings x 2 seeds; held out: once at each lower budget and 3 times in full
    assert sizes == {
        "space": 36,
        "held-out": 20,
        "nested": 18,
        "dense": 15,
        "dense-held-out": 15,
        "dense-nested": 12,
        "repeats": 10,
    }
    assert sum(trial.budget_epochs for trial in trials) == SMALL.student_epochs(TASK)
    assert len({trial.seed for trial in trials}) == len(trials)
    for stage in STAGES:
        numbers = [trial.number for trial in trials if stage_of(trial) == stage]
        first = STAGES.index(stage) * STAGE_SIZE
        assert numbers == list(range(first, first + len(numbers)))
    assert all(trial.candidate["wiring_seed"] is not None for trial in trials)
    for trial in trials:
        SPACE.values(family(trial))


def family(trial: Trial) -> Candidate:
    return Candidate.from_dict({**trial.candidate, "wiring_seed": None})


def test_nested_families_cross_wirings_with_weight_seeds(whole):
    for stage, n_families in (("nested", 3), ("dense-nested", 2)):
        families: dict[str, list[Trial]] = {}
        for trial in trials_in(whole):
            if stage_of(trial) == stage:
                assert trial.budget_epochs == 9
                families.setdefault(family(trial).digest, []).append(trial)
        assert len(families) == n_families
        for trials in families.values():
            wirings = Counter(trial.candidate["wiring_seed"] for trial in trials)
            assert sorted(wirings.values()) == [2, 2, 2]
            assert len({trial.seed for trial in trials}) == 6


def test_kd_settings_are_crossed_with_generators_on_equal_seeds(tmp_path):
    plan = BuildPlan(
        **{name: getattr(SMALL, name) for name in ("n_space", "n_dense", "n_held_out", "n_dense_held_out")},
        **{"n_nested": 0, "n_dense_nested": 0, "n_dense_trainings": 3},
        **{"n_kd": 3, "n_kd_held_out": 2, "n_kd_settings": 4},
    )
    assert run(tmp_path, plan)
    trials = trials_in(tmp_path)
    assert sum(trial.budget_epochs for trial in trials) == plan.student_epochs(TASK)
    settings = set()
    for stage, source, n in (("kd", "dense", 3), ("kd-held-out", "dense-held-out", 2)):
        own = [trial for trial in trials if stage_of(trial) == stage]
        assert {trial.budget_epochs for trial in own} == {9}
        assert len(own) == n * 4 * 3
        generators = {family(trial).generator for trial in own}
        assert generators <= {family(trial).generator for trial in trials if stage_of(trial) == source}
        for generator in generators:
            cells = Counter(
                (family(t).kd, t.candidate["wiring_seed"], t.seed) for t in own if family(t).generator == generator
            )
            kd, seeds = {key[0] for key in cells}, {key[1:] for key in cells}
            assert set(cells) == {(one, *both) for one in kd for both in seeds}, "each setting with each pair of seeds"
            assert (len(kd), len(seeds)) == (4, 3)
            settings.add(frozenset(kd))
    assert len(settings) == 1, "of all generators the same"
    dense = Counter(family(t).digest for t in trials if stage_of(t) == "dense" and t.budget_epochs == 9)
    assert set(dense.values()) == {3}


@pytest.mark.parametrize("sizes", [{"n_kd": 301}, {"n_kd_held_out": 13}, {"n_kd": 2, "n_kd_settings": 1}])
def test_impossible_crossings_are_refused(sizes):
    with pytest.raises(ValueError, match="n_kd"):
        BuildPlan(**sizes)


def test_held_out_families_are_in_no_other_stage(whole):
    held_out, fitted = set(), set()
    for trial in trials_in(whole):
        (held_out if "held-out" in stage_of(trial) else fitted).add(family(trial).digest)
    assert len(held_out) == 7
    assert not held_out & fitted


def test_a_stopped_build_goes_on_to_the_same_trainings(whole, tmp_path):
    while not run(tmp_path, stop=StopAfter(13)):
        pass
    stopped, direct = trials_in(tmp_path), trials_in(whole)
    assert [trial.outcome() for trial in stopped] == [trial.outcome() for trial in direct]


class StopAfter:
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self) -> bool:
        self.n -= 1
        return self.n < 0


def test_a_larger_plan_keeps_the_trainings_of_the_smaller(tmp_path):
    small = BuildPlan(n_space=6, n_dense=0, n_nested=2, n_dense_nested=0, n_held_out=2, n_dense_held_out=0, n_repeats=0)
    large = BuildPlan(
        n_space=70, n_dense=0, n_nested=4, n_dense_nested=0, n_held_out=5, n_dense_held_out=0, n_repeats=0
    )
    assert run(tmp_path, small)
    before = {trial.number: trial for trial in trials_in(tmp_path)}
    larger = {p.number: p for proposals in stages_of(large, []).values() for p in proposals}
    for number, trial in before.items():
        assert larger[number].candidate.digest == trial.candidate_digest
        assert (larger[number].seed, larger[number].budget_epochs) == (trial.seed, trial.budget_epochs)
    assert run(tmp_path, large)
    assert {t.number for t in trials_in(tmp_path)} == set(larger)


def test_the_dense_stage_depends_on_the_results_of_space_alone(whole):
    trials = trials_in(whole)
    space = [trial for trial in trials if stage_of(trial) == "space"]
    assert stages_of(SMALL, trials) == stages_of(SMALL, space)
    worst_first = [Trial.from_dict({**t.to_dict(), "cost": 1 - t.cost}) for t in space]
    assert stages_of(SMALL, worst_first)["dense"] != stages_of(SMALL, space)["dense"]
    # of a larger table, those of this plan count
    beyond = [Trial.from_dict({**space[-1].to_dict(), "number": 36 + i, "cost": 0.0}) for i in range(3)]
    assert stages_of(SMALL, [*space, *beyond]) == stages_of(SMALL, space)


def test_dense_families_lie_near_the_best(whole):
    trials = [t for t in trials_in(whole) if stage_of(t) == "space" and t.budget_epochs == 9]
    best = sorted(trials, key=lambda t: t.cost)[:3]
    near = {(family(t).generator.top.n_nodes, family(t).generator.bottom.n_nodes) for t in best}
    many = BuildPlan(**{**SMALL.__dict__, "n_dense": 60})
    dense = stages_of(many, trials_in(whole))["dense"]
    sizes = [(p.candidate.generator.top.n_nodes, p.candidate.generator.bottom.n_nodes) for p in dense]
    share = sum(min(abs(a - c) + abs(b - d) for c, d in near) <= 1 for a, b in sizes) / len(sizes)
    uniform = uniform_families(SPACE, 60, 3)
    other = [(c.generator.top.n_nodes, c.generator.bottom.n_nodes) for c in uniform]
    assert share > sum(min(abs(a - c) + abs(b - d) for c, d in near) <= 1 for a, b in other) / len(other)


def test_the_shipped_design_is_not_renumbered():
    """A build of days goes on with a later version: the first trainings are pinned."""
    first = next(iter(Design(TASK, SPACE, BuildPlan()).stages(lambda _: [])))
    assert (first[0], len(first[1])) == ("space", 1536)
    told = [(p.number, p.candidate.wiring_seed, p.budget_epochs, p.seed) for p in first[1][:2]]
    assert told == [(0, 35825, 1, 1680867310), (1, 7341, 3, 691496854)]
    generator = first[1][0].candidate.generator
    assert (generator.top.n_nodes, generator.top.k, generator.bottom.n_nodes, generator.downsampling) == (
        6,
        4,
        3,
        "max",
    )
    assert (generator.top.p, generator.channel_growth) == pytest.approx((0.1462916318327, 1.8569365486342))


def test_a_folder_of_another_plan_is_refused_before_any_training(whole, tmp_path):
    before = trials_in(whole)
    other = BuildPlan(**{**SMALL.__dict__, "n_wirings": 2})
    with pytest.raises(RunFolderError, match=r"stage held-out\) is candidate"):
        run(whole, other)
    with pytest.raises(RunFolderError):
        run(whole, BuildPlan(**{**SMALL.__dict__, "seed": 1}))
    assert trials_in(whole) == before


def test_when_everything_fails_the_build_ends(tmp_path):
    engine = InProcessEngine(FormulaEvaluator(faults={"all": "raise"}))  # type: ignore[dict-item]
    with pytest.raises(TooManyFailures, match=r"4 trainings in a row failed.*a broken student"):
        build(TASK, SPACE, engine, tmp_path, SMALL, max_failures=4)
    assert len(trials_in(tmp_path)) == 4


def test_single_failures_are_rows_of_the_table(tmp_path):
    engine = InProcessEngine(FormulaEvaluator(faults={1: "diverge", 4: "raise"}))
    plan = BuildPlan(n_space=3, n_dense=0, n_nested=0, n_dense_nested=0, n_held_out=0, n_dense_held_out=0, n_repeats=3)
    assert build(TASK, SPACE, engine, tmp_path, plan)
    assert Counter(trial.status for trial in trials_in(tmp_path)) == {"success": 10, "diverged": 1, "error": 1}


def test_progress_counts_earlier_sessions(tmp_path):
    assert not run(tmp_path, stop=StopAfter(10))
    states: list[BuildProgress] = []
    assert run(tmp_path, progress=states.append)
    assert states[-1].epochs_done == states[-1].epochs_of == SMALL.student_epochs(TASK)
    assert (states[0].stage, states[0].done, states[0].of) == ("space", len(trials_in(tmp_path)) - len(states) + 1, 36)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"n_space": 0}, "at least one family"),
        ({"n_dense": -1}, "n_dense must not be negative, got -1"),
        ({"n_seeds": 1}, "at least 2 wirings and 2 weight seeds"),
    ],
)
def test_plans_that_cannot_work(sizes, text):
    with pytest.raises(ValueError, match=text):
        BuildPlan(**sizes)


def test_budgets():
    assert BuildPlan().budgets_of(TASK) == (1, 3, 9)
    assert BuildPlan(budgets=(9, 2)).budgets_of(TASK) == (2, 9)
    with pytest.raises(ValueError, match="include it"):
        BuildPlan(budgets=(1, 3)).budgets_of(TASK)


def test_fresh_families_are_trained_once(tmp_path, whole):
    evaluator = FormulaEvaluator(journal=tmp_path / "journal")
    args = (TASK, SPACE, InProcessEngine(evaluator), tmp_path / "fresh", 5)
    assert len(train_fresh(*args, seed=0, stop=StopAfter(4))) < 5
    trials = train_fresh(*args, seed=0)
    assert [trial.number for trial in trials] == list(range(5))
    assert {trial.budget_epochs for trial in trials} == {9}
    assert len((tmp_path / "journal").read_text().splitlines()) == 5
    assert not {t.candidate_digest for t in trials} & {family(t).digest for t in trials_in(whole)}
    with pytest.raises(RunFolderError):
        train_fresh(*args, seed=1)
    with pytest.raises(ValueError, match="at least 3 families, got 2"):
        train_fresh(*args[:-1], 2, seed=0)


def test_a_real_build_records_curves_and_tests(tmp_path, tiny_data, cluttered_teacher):
    task = get_task(tiny_data.task, min_budget_epochs=1, max_budget_epochs=2)
    evaluator = RecordingEvaluator(task, data=load_data(task), teacher=cluttered_teacher)
    plan = BuildPlan(n_space=2, n_dense=1, n_nested=0, n_dense_nested=0, n_held_out=0, n_dense_held_out=0, n_repeats=1)
    assert build(task, SPACE, InProcessEngine(evaluator), tmp_path, plan)
    trials = trials_in(tmp_path)
    assert Counter(trial.budget_epochs for trial in trials) == {1: 3, 2: 4}
    for trial in trials:
        assert trial.succeeded
        assert len(trial.info["val_curve"]) == len(trial.curve) == trial.budget_epochs
        assert trial.info["val_curve"][-1] == pytest.approx(trial.val_accuracy), "all 200 images make the curve here"
        assert 0 <= trial.info["test_accuracy"] <= 1
