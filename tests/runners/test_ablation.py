"""Studies: what a simulated search is charged, what is recorded, and that a study is the same however it is run."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import Broken, Synthetic, Witness

from naslib_autokd.cli import main
from naslib_autokd.evaluators.benchmark import KDBenchmark
from naslib_autokd.optimizers import get_optimizer
from naslib_autokd.records import Proposal, StoreLockedError, Trial, derive_seed
from naslib_autokd.runners.ablation import (
    GRID_POINTS,
    SimulatedRun,
    StudyFolderError,
    StudyProgress,
    _Schedule,
    grid,
    make_optimizer,
    run_study,
    simulate,
    variant,
)
from naslib_autokd.runners.search import search
from naslib_autokd.runners.study import Study, StudyError, StudyMethod, get_study, study_names, study_text
from naslib_autokd.runners.tally import TooManyFailures
from naslib_autokd.search_spaces.frozen import FrozenSpace
from naslib_autokd.search_spaces.hnag import HNAGSpace, KDSettings

FULL = 9


def outcome(run: SimulatedRun) -> SimulatedRun:
    """A run without its time, and with text for nan, which is not equal to itself."""
    curves = {name: tuple(map(repr, getattr(run, name))) for name in ("test_error", "cost")}
    return replace(run, cpu_s=0.0, **curves)


# --- what is charged


@pytest.mark.parametrize("optimizer", ["random_search", "hyperband", "regularized_evolution", "autokd"])
@pytest.mark.parametrize("start_with_default", [False, True])
def test_a_simulation_trains_charges_and_chooses_what_a_search_does(optimizer: str, start_with_default: bool) -> None:
    """`runners.search` is the reference; a third of the space fails and is charged a third of its budget."""
    budget = 100.0
    simulated, searched = Synthetic(fails_below=1.0), Synthetic(fails_below=1.0)
    run = simulate(
        simulated, optimizer, 5, student_epochs=budget, min_budget_epochs=3, start_with_default=start_with_default
    )
    result = search(
        "cluttered-digits",
        optimizer,
        evaluator=searched,
        space=searched.space,
        student_epochs=budget,
        seed=5,
        start_with_default=start_with_default,
        max_failures=None,
    )
    assert simulated.proposals == searched.proposals
    assert any(not trial.succeeded for trial in result.trials)
    assert run.n_trials == len(result.trials) == run.trials[-1]
    assert run.candidate == result.candidate.to_dict()
    assert run.test_error[-1] == simulated.true_test_error(result.candidate)
    assert run.cost[-1] == simulated.true_cost(result.candidate)
    assert run.student_epochs[-1] == budget


class Recorded(KDBenchmark):
    """The embedded benchmark, which remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.proposals: list[Proposal] = []

    def evaluate(self, proposal: Proposal) -> Trial:
        self.proposals.append(proposal)
        return super().evaluate(proposal)


@pytest.mark.parametrize("optimizer", ["hyperband", "autokd"])
def test_a_simulation_at_equal_time_is_the_search_with_so_many_training_seconds(optimizer: str) -> None:
    simulated, searched, full = Recorded(), Recorded(), 9
    default = Proposal(simulated.space.default_candidate(), full, derive_seed(0, "reference", 0), 0)
    seconds = simulated.training_seconds(default)
    run = simulate(simulated, optimizer, 5, student_epochs=8.0 * full, budget_unit="training_seconds")
    result = search(
        "cluttered-digits",
        optimizer,
        evaluator=searched,
        space=searched.space,
        training_seconds=8 * seconds,
        seed=5,
        start_with_default=False,
    )
    assert simulated.proposals == searched.proposals
    assert run.n_trials == len(result.trials)
    assert run.candidate == result.candidate.to_dict()
    charged = sum(map(simulated.training_seconds, simulated.proposals))
    assert charged == pytest.approx(result.training_seconds)
    assert 7 * seconds < charged <= 8 * seconds
    epochs = sum(proposal.budget_epochs for proposal in simulated.proposals)
    assert abs(epochs - 8 * full) > 1  # students that take longer or shorter than the default's


def test_a_benchmark_that_does_not_know_time_is_refused() -> None:
    study = replace(get_study("optimizers"), budget_unit="training_seconds", benchmark=Synthetic())
    with pytest.raises(StudyError, match="synthetic does not tell what a training takes"):
        run_study(study, seeds=1)


class Scripted:
    """Proposes budgets from a list, over and over; its incumbent is what it was told last, and it counts who asks."""

    def __init__(self, space: Any, *, seed: int, budgets: tuple[int, ...] = (9,), extra: float = 0.0, **_: Any) -> None:
        self.space, self.seed, self.budgets, self.extra = space, seed, budgets, extra
        self.extra_student_epochs = 0.0
        self.attached: Any = None
        self.n_asked = self.n_incumbents = 0
        self.last: Any = None
        self.told: list[Trial] = []
        self.pending: Any = None

    def attach(self, evaluator: Any) -> None:
        assert self.n_asked == 0
        self.attached = evaluator

    def ask(self) -> Proposal:
        number = self.n_asked
        self.n_asked += 1
        self.extra_student_epochs += self.extra
        import numpy as np

        self.pending = self.space.sample(np.random.default_rng([self.seed, number]))
        seed = derive_seed(self.seed, number)
        return Proposal(self.pending, self.budgets[number % len(self.budgets)], seed, number)

    def tell(self, trial: Trial) -> None:
        self.last = self.pending
        self.told.append(trial)

    def incumbent(self) -> Any:
        self.n_incumbents += 1
        return self.last


def scripted(**options: Any) -> tuple[StudyMethod, list[Scripted]]:
    made: list[Scripted] = []

    def factory(space: Any, **given: Any) -> Scripted:
        made.append(Scripted(space, **given))
        return made[-1]

    return StudyMethod("scripted", factory, options=options), made


def test_points_of_the_grid_show_what_was_known_when_their_epochs_were_spent() -> None:
    benchmark = Synthetic()
    method, (*_,) = scripted(budgets=(9, 3, 1, 9))
    run = simulate(benchmark, method, 0, student_epochs=40)
    # spent after each trial: 9 12 13 22 31 34 35; the eighth would make it 44
    assert run.student_epochs == (9, 18, 27, 36, 40)
    assert run.trials == (1, 3, 4, 7, 7)
    assert run.n_trials == 7
    errors = [benchmark.true_test_error(proposal.candidate) for proposal in benchmark.proposals]
    assert run.test_error == tuple(errors[n - 1] for n in run.trials)
    assert run.cost == pytest.approx([error - 0.02 for error in run.test_error])
    assert run.candidate == benchmark.proposals[-1].candidate.to_dict()


def test_what_an_optimizer_spends_itself_is_charged_and_it_is_given_the_benchmark() -> None:
    benchmark = Synthetic()
    method, made = scripted(extra=2.0)
    run = simulate(benchmark, method, 0, student_epochs=40)
    # each ask costs 2 and each trial 9: 11, 22, 33 are spent, and a fourth ask makes it 35
    assert run.n_trials == 3
    assert run.trials == (0, 1, 2, 3, 3)
    assert made[0].attached is benchmark
    assert math.isnan(run.test_error[0])
    assert not math.isnan(run.test_error[1])


def test_the_incumbent_is_asked_for_at_the_points_of_the_grid_only() -> None:
    method, made = scripted()
    run = simulate(Synthetic(), method, 0, student_epochs=FULL * 1000)
    assert run.n_trials == 1000
    assert made[0].n_incumbents == len(run.student_epochs) <= GRID_POINTS + 1


def test_a_failure_that_costs_nothing_does_not_go_on_for_ever() -> None:
    class Free(Synthetic):
        def evaluate(self, proposal: Proposal) -> Trial:
            return Trial.of(proposal, status="error", message="no such student")

    with pytest.raises(TooManyFailures, match="no such student"):
        simulate(Free(), "random_search", 0, student_epochs=90)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 81), st.floats(1, 6000))
def test_the_grid_ascends_ends_with_the_budget_and_is_short(full: int, trainings: float) -> None:
    total = full * trainings
    points = grid(total, full)
    assert all(low < high for low, high in itertools.pairwise(points))
    assert points[-1] == total
    assert len(points) <= GRID_POINTS + 1
    if trainings >= 2:
        assert points[0] == full
    if trainings <= GRID_POINTS:
        assert len(points) == math.ceil(total / full) or total // full != total / full


@pytest.mark.parametrize("optimizer", ["autokd", "smac-rf", "local_search", "reinforce", "hyperband"])
def test_being_watched_changes_no_proposal(optimizer: str) -> None:
    """The incumbent is asked for in between, which may fit a model: nothing later may depend on it."""
    watched, alone = Synthetic(), Synthetic()
    simulate(watched, optimizer, 1, student_epochs=FULL * 14, min_budget_epochs=3)
    blind = get_optimizer(optimizer)(
        alone.space, seed=1, max_budget_epochs=FULL, min_budget_epochs=3, total_budget_epochs=float(FULL * 14)
    )
    for _ in watched.proposals:
        blind.tell(alone.evaluate(blind.ask()))
    assert watched.proposals == alone.proposals


_SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from synthetic import Synthetic
from naslib_autokd.runners.ablation import simulate
for optimizer in ("random_search", "regularized_evolution"):
    print(simulate(Synthetic(), optimizer, 3, student_epochs=130).to_json().rsplit(',"cpu_s"', 1)[0])
"""


@pytest.mark.slow
def test_a_seed_gives_the_same_run_in_another_process_with_another_hash_seed() -> None:
    script = _SCRIPT.format(folder=str(Path(__file__).parent))
    printed = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        printed.append(done.stdout)
    assert printed[0].count("\n") == 2
    assert printed[0] == printed[1]


def test_a_method_alone_may_say_its_budget() -> None:
    run = simulate(Synthetic(), StudyMethod("r", "random_search", full_trainings=3), 0, student_epochs=900)
    assert (run.n_trials, run.student_epochs) == (3, (9, 18, 27))
    with pytest.raises(ValueError, match="give a budget"):
        simulate(Synthetic(), "random_search", 0)
    with pytest.raises(ValueError, match="does not pay one full training"):
        simulate(Synthetic(), "random_search", 0, student_epochs=8)


def test_other_seeds_are_other_runs() -> None:
    first, again, other = (simulate(Synthetic(), "random_search", seed, student_epochs=90) for seed in (0, 0, 1))
    assert outcome(first) == outcome(again)
    assert first.test_error != other.test_error


def test_a_run_survives_json_with_its_nan() -> None:
    run = SimulatedRun("m", 2, (9.0, 18.0), (0, 1), (math.nan, 0.1), (math.nan, 0.2), {"kd": {"x": 1}}, 1, 0.5)
    back = SimulatedRun.from_dict(json.loads(run.to_json()))
    assert outcome(back) == outcome(run)
    assert "NaN" not in run.to_json()


# --- variants of the space


def test_variants_change_what_is_searched_and_nothing_else() -> None:
    space = HNAGSpace("hnag-small", kd=KDSettings(3.0, 0.8))
    whole = set(space.configuration_space())
    assert variant(space, {}) is space
    assert set(variant(space, {"mode": "individual"}).configuration_space()) == whole | {"wiring_seed"}
    for changes, kd in (
        ({"search_kd": False}, KDSettings(3.0, 0.8)),
        ({"kd": {"temperature": 2.0, "kd_weight": 0.5}}, KDSettings(2.0, 0.5)),
        ({"kd": "none"}, KDSettings(3.0, 0.0)),
    ):
        changed = variant(space, changes)
        assert set(changed.configuration_space()) == whole - {"temperature", "kd_weight"}
        assert changed.default_candidate().kd == kd  # type: ignore[attr-defined]
    frozen = variant(space, {"mode": "individual", "freeze": {"downsampling": "max"}})
    assert isinstance(frozen, FrozenSpace)
    assert set(frozen.configuration_space()) == (whole | {"wiring_seed"}) - {"downsampling"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "single"}, "unknown mode 'single'"),
        ({"kd": {"temprature": 2}}, "did you mean 'temperature'"),
        ({"kd": "none", "search_kd": True}, "give one of them"),
        ({"freeze": {"topnodes": 3}}, "did you mean 'top_nodes'"),
    ],
)
def test_impossible_variants_say_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant(HNAGSpace("hnag-small"), changes)


def test_kd_settings_of_another_space_are_frozen_by_name() -> None:
    frozen = FrozenSpace(HNAGSpace("hnag-small"), {"top_p": 0.5})
    with pytest.raises(ValueError, match=r"change HNAG spaces only.*use freeze"):
        variant(frozen, {"search_kd": False})


# --- studies


def small_study(**changes: Any) -> Study:
    methods = (
        StudyMethod("Random", "random_search"),
        StudyMethod("Evolution", "regularized_evolution", options={"population_size": 5, "sample_size": 2}),
        StudyMethod("Frozen", "random_search", space={"freeze": {"top_nodes": "default"}}, full_trainings=12),
    )
    content = {"benchmark": Synthetic(fails_below=0.8), "full_trainings": 8, "seeds": 3, "methods": methods}
    return Study("small", "Small", "Does it work?", **{**content, **changes})


@pytest.fixture(scope="module")
def expected() -> list[SimulatedRun]:
    """The small study, run in this process."""
    return [outcome(run) for run in run_study(small_study(), workers=0).runs]


def outcomes(result: Any) -> list[SimulatedRun]:
    return [outcome(run) for run in result.runs]


def test_the_results_do_not_depend_on_the_workers(expected: list[SimulatedRun], tmp_path: Path) -> None:
    assert [(run.method, run.seed) for run in expected] == [
        (label, seed) for label in ("Random", "Evolution", "Frozen") for seed in range(3)
    ]
    assert outcomes(run_study(small_study(), tmp_path / "two", workers=2)) == expected


def test_methods_have_budgets_of_their_own(expected: list[SimulatedRun]) -> None:
    assert {(run.method, run.student_epochs[-1]) for run in expected} == {
        ("Random", 72.0),
        ("Evolution", 72.0),
        ("Frozen", 108.0),
    }


def test_a_folder_is_continued_and_more_seeds_and_methods_only_add(
    expected: list[SimulatedRun], tmp_path: Path
) -> None:
    study = small_study()
    first = run_study(study, tmp_path, workers=0, seeds=2, methods=["Random", "Frozen"])
    assert outcomes(first) == [run for run in expected if run.method != "Evolution" and run.seed < 2]
    before = (tmp_path / "runs.jsonl").read_text()
    seen: list[StudyProgress] = []
    assert outcomes(run_study(study, tmp_path, workers=0, progress=seen.append)) == expected
    assert (tmp_path / "runs.jsonl").read_text().startswith(before)
    assert [state.done for state in seen] == [5, 6, 7, 8, 9]
    assert {state.of for state in seen} == {9}
    assert seen[-1].left_s == 0
    seen.clear()
    fewer = run_study(study, tmp_path, workers=0, seeds=1, methods=["regularized_evolution"], progress=seen.append)
    assert outcomes(fewer) == [run for run in expected if (run.method, run.seed) == ("Evolution", 0)]
    assert fewer.study.reference == "Evolution"
    assert not seen
    stored = yaml.safe_load((tmp_path / "study.yaml").read_text())
    assert stored["seeds"] == 3
    assert [method["label"] for method in stored["methods"]] == ["Random", "Evolution", "Frozen"]
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["environment"]["numpy"]


def test_a_torn_last_line_is_run_again(expected: list[SimulatedRun], tmp_path: Path) -> None:
    run_study(small_study(), tmp_path, workers=0)
    path = tmp_path / "runs.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    seen: list[StudyProgress] = []
    assert outcomes(run_study(small_study(), tmp_path, workers=0, progress=seen.append)) == expected
    assert len(seen) == 1
    assert len(path.read_text().splitlines()) == 9
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(StudyFolderError, match="line 1: not a run"):
        run_study(small_study(), tmp_path, workers=0)


def test_a_study_that_is_killed_goes_on_to_the_same_results(expected: list[SimulatedRun], tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_ablation import small_study, run_study\n"
        "import time\n"
        f"run_study(small_study(), {str(tmp_path)!r}, workers=1, progress=lambda state: time.sleep(0.3))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    path = tmp_path / "runs.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not path.exists() or path.read_bytes().count(b"\n") < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(StoreLockedError, match="being written by another process"):
            run_study(small_study(), tmp_path, workers=0)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    n_before = path.read_bytes().count(b"\n")
    assert n_before < 9
    seen: list[StudyProgress] = []
    assert outcomes(run_study(small_study(), tmp_path, workers=0, progress=seen.append)) == expected
    assert len(seen) == 9 - n_before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"full_trainings": 9}, "student_epochs: 72.0 there, 81.0 asked for"),
        ({"start_with_default": True}, "start_with_default: None there, True asked for"),
        (
            {"methods": (StudyMethod("Random", "random_search", space={"mode": "individual"}),)},
            "space of method 'Random': None there, {'mode': 'individual'} asked for",
        ),
    ],
)
def test_another_study_in_the_folder_is_refused_with_the_difference(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run_study(small_study(), tmp_path, workers=0, seeds=1)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StudyFolderError) as caught:
        run_study(small_study(**changes), tmp_path, workers=0)
    assert message in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_another_benchmark_of_the_same_name_is_refused(tmp_path: Path) -> None:
    run_study(small_study(), tmp_path, workers=0, seeds=1)
    other = Synthetic(fails_below=0.8)
    other.best_test_error = 0.11  # type: ignore[misc]
    with pytest.raises(StudyFolderError, match=r"0\.12.*there.*0\.11.*now"):
        run_study(small_study(benchmark=other), tmp_path, workers=0, seeds=1)


def test_titles_questions_and_references_may_change(tmp_path: Path) -> None:
    run_study(small_study(), tmp_path, workers=0, seeds=1)
    result = run_study(replace(small_study(), title="New", reference="Frozen"), tmp_path, workers=0, seeds=1)
    assert len(result.runs) == 3
    assert yaml.safe_load((tmp_path / "study.yaml").read_text())["title"] == "New"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_job_that_fails_is_reported_and_tried_again(workers: int, tmp_path: Path) -> None:
    marker = tmp_path / "fixed"
    options = {"bad_seed": 1, "unless": str(marker), "die": workers > 0}
    study = small_study(methods=(StudyMethod("Random", "random_search"), StudyMethod("Broken", Broken, options)))
    seen: list[StudyProgress] = []
    result = run_study(study, tmp_path / "out", workers=workers, progress=seen.append)
    assert [(failure.method, failure.seed) for failure in result.failures] == [("Broken", 1)]
    assert ("exit code 7" if workers else "out of luck") in result.failures[0].error
    assert len(result.runs) == 5
    assert [state.error for state in seen if state.error] == [result.failures[0].error]
    marker.touch()
    seen.clear()
    again = run_study(study, tmp_path / "out", workers=workers, progress=seen.append)
    assert len(seen) == 1
    assert not again.failures
    assert len(again.runs) == 6


def test_a_study_of_which_every_job_fails_says_why() -> None:
    method = StudyMethod("Broken", Broken, {"bad_seed": 0, "unless": "/nowhere", "die": False})
    with pytest.raises(RuntimeError, match="all 1 runs of the study failed: RuntimeError: out of luck"):
        run_study(small_study(methods=(method,), seeds=1), workers=0)


def test_optional_methods_that_cannot_be_built_are_left_out_with_a_reason() -> None:
    methods = (
        StudyMethod("Missing", "no_such_optimizer", optional=True),
        StudyMethod("Wrong", "random_search", options={"colour": 1}, optional=True),
        StudyMethod("Random", "random_search"),
    )
    result = run_study(small_study(methods=methods, seeds=1), workers=0)
    assert [method.label for method in result.study.methods] == ["Random"]
    assert result.study.reference == "Random"
    assert result.left_out[0].startswith("Missing: unknown optimizer 'no_such_optimizer'")
    assert "colour" in result.left_out[1]
    for method in methods[:2]:
        with pytest.raises(StudyError, match=f"method '{method.label}' cannot be used"):
            run_study(small_study(methods=(replace(method, optional=False),)), workers=0)
    with pytest.raises(StudyError, match="no method of the study can be used"):
        run_study(small_study(methods=methods[:1]), workers=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": -1}, "workers must be at least 0"),
        ({"seeds": 0}, "seeds must be a whole number, at least 1, got 0"),
        ({"methods": ["Randm"]}, "unknown method 'Randm'; did you mean 'Random'"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_study(small_study(), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_budgets_that_pay_no_training_are_refused() -> None:
    with pytest.raises(StudyError, match=r"student_epochs of the study must pay one full training \(9 epochs\), got 8"):
        run_study(small_study(full_trainings=None, student_epochs=8), workers=0)
    with pytest.raises(StudyError, match="of method 'Short' must pay"):
        run_study(small_study(methods=(StudyMethod("Short", "random_search", full_trainings=0.5),)), workers=0)
    with pytest.raises(StudyError, match="min_budget_epochs=10 exceeds"):
        run_study(small_study(min_budget_epochs=10), workers=0)


def test_slow_methods_are_started_first() -> None:
    methods = [StudyMethod(label, "random_search") for label in ("quick", "slow", "middle")]
    schedule = _Schedule([(method, seed) for method in methods for seed in range(3)], (), workers=2)
    order = []
    seconds = {"quick": 0.1, "slow": 10.0, "middle": 1.0}
    while schedule:
        method, seed = schedule.next()
        order.append((method.label, seed))
        schedule.ended(method.label, seconds[method.label])
    assert order[:3] == [("quick", 0), ("slow", 0), ("middle", 0)]
    assert [label for label, _ in order[3:]] == ["slow"] * 2 + ["middle"] * 2 + ["quick"] * 2


def test_the_expected_time_counts_waiting_and_running_jobs() -> None:
    methods = [StudyMethod(label, "random_search") for label in ("a", "b")]
    schedule = _Schedule([(method, seed) for method in methods for seed in range(5)], (), workers=2)
    for label, seconds in (("a", 3.0), ("b", 1.0)):
        assert schedule.next()[0].label == label
        schedule.ended(label, seconds)
    assert schedule.left_s() == pytest.approx((4 * 3.0 + 4 * 1.0) / 2)
    assert schedule.next()[0].label == "a"
    assert schedule.left_s() == pytest.approx((3.5 * 3.0 + 4 * 1.0) / 2)


@pytest.mark.slow
def test_workers_have_one_thread_each_and_load_the_benchmark_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    journal = tmp_path / "journal"
    methods = (StudyMethod("Random", "random_search"),)
    run_study(small_study(benchmark=Witness(str(journal)), methods=methods, seeds=6), workers=2)
    lines = [line.split() for line in journal.read_text().splitlines()]
    assert len(lines) == len({pid for pid, _ in lines}) <= 2
    assert {threads for _, threads in lines} == {"1"}


# --- YAML


GOOD = """\
name: mine
title: Mine
question: Which one?
benchmark: cluttered-digits
full_trainings: 30
seeds: 5
reference: Random
methods:
  - label: Random
    optimizer: random_search
  - optimizer: autokd
    options:
      fidelity: full
    space:
      freeze: {top_nodes: default}
    student_epochs: 99
    optional: true
"""


def test_yaml_is_read_and_written() -> None:
    study = Study.from_yaml(GOOD)
    assert study.methods[1] == StudyMethod(
        "autokd", "autokd", {"fidelity": "full"}, {"freeze": {"top_nodes": "default"}}, 99, optional=True
    )
    assert (study.seeds, study.full_trainings, study.student_epochs, study.reference) == (5, 30, None, "Random")
    assert Study.from_yaml(study.to_yaml()) == study
    resolved = study.resolved(Synthetic())
    assert (resolved.student_epochs, resolved.full_trainings) == (270.0, None)
    assert [resolved.epochs_of(method) for method in resolved.methods] == [270.0, 99.0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: 5", "seads: 5", "line 6: unknown key 'seads' in a study; did you mean 'seeds'"),
        ("seeds: 5", "seeds: many", "line 6: seeds must be a whole number, at least 1, got 'many'"),
        ("seeds: 5", "title: Twice", "line 6: key 'title' appears twice"),
        ("seeds: 5", "student_epochs: 5", "line 5: give student_epochs or full_trainings, not both"),
        ("full_trainings: 30", "full_trainings: -1", "line 5: full_trainings must be a positive number, got -1"),
        ("full_trainings: 30\n", "", "study: a study needs a budget"),
        ("reference: Random", "reference: Randm", "line 7: reference must be a method's label, got 'Randm'; did you"),
        ("  - optimizer: autokd", "  - label: Random\n    optimizer: autokd", "line 11: label 'Random' appears twice"),
        ("    optimizer: random_search\n", "", "line 9: a method lacks 'optimizer'"),
        ("      fidelity: full", "      fidelity", "line 12: options must be a mapping, got 'fidelity'"),
        ("freeze:", "frees:", "line 15: unknown key 'frees' in space; did you mean 'freeze'"),
        ("optional: true", "optional: maybe", "line 17: optional must be true or false, got 'maybe'"),
        ("optional: true", "optionl: true", "line 17: unknown key 'optionl' in a method; did you mean 'optional'"),
        ("student_epochs: 99", "student_epochs: 1e3x", "line 16: student_epochs must be a positive number"),
        ("benchmark: cluttered-digits", "benchmark: 3", "line 4: benchmark must be a name or a file, got 3"),
        ("question: Which one?\n", "", "study: a study lacks 'question'"),
        ("seeds: 5", "seeds: [", "not valid YAML"),
        (
            "seeds: 5",
            "seeds: 5\nbudget_unit: training_second",
            "line 7: unknown budget_unit 'training_second'; did you",
        ),
    ],
)
def test_what_is_wrong_in_yaml_is_told_with_its_line(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(StudyError) as caught:
        Study.from_yaml(GOOD.replace(old, new, 1))
    assert message in str(caught.value)


def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    for text in ("- a\n- b\n", "\n"):
        with pytest.raises(StudyError, match="a study must be a mapping"):
            Study.from_yaml(text)
    with pytest.raises(StudyError, match="does not exist"):
        get_study(str(tmp_path / "none.yaml"))
    with pytest.raises(StudyError, match="did you mean 'optimizers'"):
        get_study("optimizer")
    (tmp_path / "mine.yaml").write_text(GOOD)
    assert get_study(tmp_path / "mine.yaml") == get_study(str(tmp_path / "mine.yaml")) == Study.from_yaml(GOOD)


# --- the studies that come with the package


def test_the_studies_of_the_paper_are_there() -> None:
    assert study_names() == [
        "family-vs-individual",
        "fidelity",
        "kd-settings",
        "levels",
        "model-free",
        "optimizers",
        "sample-efficiency",
    ]


@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_can_be_run(name: str) -> None:
    study = get_study(name)
    assert study.name == name
    assert study.question.endswith("?")
    resolved = study.resolved(Synthetic())
    for method in study.methods:
        assert "," not in method.label  # --methods a,b
        if method.optional:
            continue
        make_optimizer(Synthetic(), method, 0, student_epochs=resolved.epochs_of(resolved.methods[0]))


def test_every_optimizer_is_in_the_study_of_optimizers() -> None:
    from naslib_autokd.optimizers import OPTIMIZERS

    assert {method.optimizer for method in get_study("optimizers").methods} >= set(OPTIMIZERS)


def test_shipped_yaml_is_its_own_copy() -> None:
    for name in study_names():
        assert Study.from_yaml(study_text(name)) == get_study(name)


def test_an_optimizer_of_a_module_is_found_by_its_path(
    tmp_path: Path, small_task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_search.py").write_text(
        "from naslib_autokd.optimizers.random_search import RandomSearch\nclass Mine(RandomSearch): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert get_optimizer("my_own_search:Mine").__name__ == "Mine"
    for wrong in ("my_own_search:Yours", "nobody:Mine"):
        with pytest.raises(ValueError, match="cannot be imported"):
            get_optimizer(wrong)
    study = small_study(methods=(StudyMethod("Mine", "my_own_search:Mine"), StudyMethod("Random", "random_search")))
    result = run_study(study, tmp_path / "out", seeds=1, workers=1)
    assert result.runs[0].test_error == result.runs[1].test_error
    assert "optimizer: my_own_search:Mine" in (tmp_path / "out" / "study.yaml").read_text()
    command = ["search", "--task", small_task, "--optimizer", "my_own_search:Mine", "--trials", "1", "--finals", "1"]
    assert main([*command, "--out", "run"]) == 0
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["optimizer"] == "my_own_search:Mine"


# --- the documentation


DOCS = Path(__file__).parents[2] / "docs" / "ablations.md"


def blocks(language: str) -> Iterator[str]:
    inside, lines = False, []
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if inside:
                yield "\n".join(lines) + "\n"
            inside, lines = line == f"```{language}", []
        elif inside:
            lines.append(line)


def test_the_code_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"benchmark": Synthetic()}
    sources = list(blocks("python"))
    assert sources
    for source in sources:
        exec(compile(source, str(DOCS), "exec"), namespace)
    assert len(namespace["result"].runs) > 0


def test_the_yaml_of_the_documentation_is_a_study() -> None:
    (text,) = blocks("yaml")
    study = Study.from_yaml(text)
    keys = {line.split(":")[0].strip(" -") for line in text.splitlines() if ":" in line}
    known = {*Study.__dataclass_fields__, *StudyMethod.__dataclass_fields__}
    assert known - keys <= {"student_epochs"}  # of the two ways to say a budget one is shown
    assert len(study.methods) >= 2
