"""`KDDatasetAPI`: what NASLib gets to hear, what is trained for it, and what is kept."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from api_cases import JudgedTable, TableEvaluator, random_states

from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.records import Proposal, StoreLockedError, TrialStore, derive_seed
from naslib_autokd.runners.run_folder import ReplayError, RunFolderError
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.tasks import get_task

pytestmark = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

LOSSES = ("VAL_LOSS", "TEST_LOSS", "TEST_TIME", "TEST_ACCURACY")


@pytest.fixture(scope="module")
def evaluation() -> Any:
    from naslib_autokd.plugin import evaluation

    return evaluation


def arch(seed: int = 0) -> Any:
    """Anything that holds a candidate is an architecture."""
    return SimpleNamespace(candidate=HNAGSpace("hnag-small").sample(np.random.default_rng(seed)))


@pytest.fixture
def table(evaluation):
    return evaluation.KDDatasetAPI(TableEvaluator())


@pytest.fixture(scope="module")
def trained(evaluation, tiny_data, cluttered_teacher, tmp_path_factory):
    """One student of the default family, trained for two epochs with the teacher."""
    evaluator = KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher)
    api = evaluation.KDDatasetAPI(evaluator, budget_epochs=2, seed=5, out=tmp_path_factory.mktemp("run"))
    one = SimpleNamespace(candidate=HNAGSpace("hnag-small").default_candidate())
    api.query(one, evaluation.Metric.VAL_ACCURACY, "cluttered-digits")
    return api, one


# --- answers --------------------------------------------------------------------------------------------------------


def test_every_metric_has_an_answer_that_json_and_naslib_can_hold(evaluation, trained):
    api, one = trained
    answers = {metric.name: api.query(one, metric, "cluttered-digits") for metric in evaluation.Metric}
    json.dumps(answers, allow_nan=False)
    for name, answer in answers.items():
        assert type(answer) is (dict if name in ("RAW", "ALL", "HP") else float), name
    trial = api.store[0]
    assert len(api.store) == api.n_trained == 1
    assert answers["VAL_ACCURACY"] == 100 * trial.val_accuracy > 0
    assert answers["TRAIN_ACCURACY"] == 100 * trial.train_accuracy
    assert answers["TRAIN_LOSS"] == trial.curve[-1]
    assert answers["TRAIN_TIME"] == trial.train_s > 0
    assert answers["VAL_TIME"] == trial.evaluate_s > 0
    assert answers["PARAMETERS"] == trial.n_params / 1e6 < 0.024
    assert answers["FLOPS"] == trial.macs / 1e6
    assert answers["EPOCH"] == 2
    assert answers["RAW"] == trial.to_dict()
    assert {name: answers[name] for name in LOSSES} == dict.fromkeys(LOSSES, -1.0)
    assert set(answers["ALL"]) == {metric.name for metric in evaluation.Metric} - {"ALL", "RAW"}
    assert all(answers["ALL"][name] == answers[name] for name in ("VAL_ACCURACY", "FLOPS", "LATENCY"))
    assert {"flops", "params", "latency", "train_time"} < set(answers["HP"])  # what NASLib's lcsvr reads


def test_latency_is_measured_once(evaluation, trained):
    api, one = trained
    first = api.query(one, evaluation.Metric.LATENCY)
    assert 0 < first < 1
    assert api.query(one, evaluation.Metric.LATENCY) == first


def test_learning_curves(evaluation, trained):
    api, one = trained
    metric, before = evaluation.Metric, random_states()
    losses = api.query(one, metric.TRAIN_LOSS, full_lc=True)
    accuracies = api.query(one, metric.VAL_ACCURACY, full_lc=True)
    val_losses = api.query(one, metric.VAL_LOSS, full_lc=True)
    assert [len(losses), len(accuracies), len(val_losses)] == [2, 2, 2]
    assert losses == list(api.store[0].curve)
    # the training was repeated bit for bit: the curve ends where the trial ended
    assert accuracies[-1] == api.query(one, metric.VAL_ACCURACY)
    assert api.n_repeated == 1
    assert len(api.store) == 1
    assert all(math.isfinite(value) for value in val_losses)
    assert random_states() == before
    with pytest.raises(ValueError, match="no learning curve of FLOPS; TRAIN_LOSS, VAL_ACCURACY and VAL_LOSS have one"):
        api.query(one, metric.FLOPS, full_lc=True)


def test_a_validation_curve_that_the_evaluator_kept_is_used(evaluation):
    class Curves(TableEvaluator):
        def evaluate(self, proposal):
            trial = super().evaluate(proposal)
            trial.info["val_curve"] = [0.25, 0.5]
            return trial

    metric = evaluation.Metric.VAL_ACCURACY
    assert evaluation.KDDatasetAPI(Curves()).query(arch(), metric, full_lc=True) == [25.0, 50.0]
    with pytest.raises(ValueError, match="TableEvaluator does not say how validation went per epoch"):
        evaluation.KDDatasetAPI(TableEvaluator()).query(arch(), metric, full_lc=True)


def test_a_failed_training_is_the_worst_finite_answer(evaluation):
    api = evaluation.KDDatasetAPI(TableEvaluator(fails=True))
    for name, expected in {"VAL_ACCURACY": 0.0, "TRAIN_ACCURACY": 0.0, "TRAIN_LOSS": -1.0, "FLOPS": -1.0}.items():
        assert api.query(arch(), evaluation.Metric[name]) == expected
    assert api.query(arch(), evaluation.Metric.RAW)["status"] == "diverged"
    assert api.query(arch(), evaluation.Metric.VAL_ACCURACY, full_lc=True) == [0.0]


# --- what is trained ------------------------------------------------------------------------------------------------


def test_once_per_architecture_and_epochs(evaluation, table):
    metric, first, second = evaluation.Metric.VAL_ACCURACY, arch(1), arch(2)
    full = table.query(first, metric)
    for _ in range(3):
        assert table.query(copy.deepcopy(first), metric) == full
    assert table.query(first, metric, epoch=9) == full
    for _ in range(2):
        assert table.query(first, metric, epoch=3) == pytest.approx(full / 3)
    table.query(second, metric)
    assert [(t.candidate_digest, t.budget_epochs) for t in table.store] == [
        (first.candidate.digest, 9),
        (first.candidate.digest, 3),
        (second.candidate.digest, 9),
    ]
    assert [t.seed for t in table.store] == [derive_seed(0, "trial", number) for number in range(3)]


def test_the_test_split_needs_no_training_to_be_closed(evaluation, table):
    assert table.query(arch(), evaluation.Metric.TEST_ACCURACY, "cluttered-digits") == -1.0
    assert len(table.store) == 0


def test_proposals_keep_their_number_seed_and_budget(evaluation, table):
    candidate = arch().candidate
    proposals = [Proposal(candidate, 3, 17, 4), Proposal(candidate, 3, 18, 5), Proposal(candidate, 9, 19, 6)]
    trials = [table.evaluate_proposal(proposal) for proposal in proposals]
    assert [(t.budget_epochs, t.seed, t.number) for t in trials] == [(3, 17, 4), (3, 18, 5), (9, 19, 6)]
    assert [table.evaluate_proposal(proposal) for proposal in proposals] == trials
    assert table.n_trained == 3
    assert table.evaluate(candidate, 3) is trials[0]  # a query is answered by the first training of that budget
    assert table.evaluate(arch(9).candidate).number == 7


def test_queries_leave_the_global_random_states_alone(evaluation, tiny_data, cluttered_teacher):
    api = evaluation.KDDatasetAPI(TableEvaluator())
    before = random_states()
    api.query(arch(), evaluation.Metric.VAL_ACCURACY)
    assert random_states() == before
    lazy = evaluation.KDDatasetAPI(data=replace(tiny_data), teacher=cluttered_teacher, budget_epochs=1)
    lazy.query(arch(), evaluation.Metric.LATENCY)
    assert lazy.n_trained == 1
    lazy.final().query(arch(), evaluation.Metric.TEST_ACCURACY)
    assert random_states() == before


def test_nothing_is_copied(table):
    space = SimpleNamespace(dataset_api=table, final=JudgedTable())
    clone = copy.deepcopy(space)
    assert clone.dataset_api is table
    assert copy.copy(table) is table


# --- the record -----------------------------------------------------------------------------------------------------


def test_the_record_answers_after_a_restart(evaluation, tmp_path):
    def ask(seeds: range) -> tuple[Any, list[float]]:
        api = evaluation.KDDatasetAPI(TableEvaluator(), out=tmp_path / "run", seed=3)
        answers = [api.query(arch(seed), evaluation.Metric.VAL_ACCURACY) for seed in seeds]
        api.close()
        return api, answers

    first, answers = ask(range(4))
    second, again = ask(range(6))
    assert again[:4] == answers
    assert (first.n_trained, second.n_trained) == (4, 2)
    stored = list(TrialStore(tmp_path / "run" / "trials.jsonl"))
    assert [trial.number for trial in stored] == list(range(6))
    assert stored[5].seed == derive_seed(3, "trial", 5)
    settings = (tmp_path / "run" / "run.yaml").read_text()
    assert "host: naslib" in settings
    assert (tmp_path / "run" / "task.yaml").exists()


def test_a_folder_of_another_run_is_refused(evaluation, tmp_path):
    evaluation.KDDatasetAPI(TableEvaluator(), out=tmp_path, seed=3)
    with pytest.raises(RunFolderError, match="seed: 3 there, 4 asked for"):
        evaluation.KDDatasetAPI(TableEvaluator(), out=tmp_path, seed=4)
    api = evaluation.KDDatasetAPI(TableEvaluator())
    api.evaluate(arch().candidate)
    with pytest.raises(ValueError, match="1 trials were made before the run folder"):
        api.open(tmp_path / "late")


def test_a_second_writer_is_refused_before_it_trains(evaluation, tmp_path):
    code = f"""
import sys, time
from naslib_autokd.records import TrialStore
store = TrialStore({str(tmp_path / "trials.jsonl")!r})
store.lock()
print("locked", flush=True)
sys.stdin.read()
"""
    api = evaluation.KDDatasetAPI(TableEvaluator(), out=tmp_path)
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(StoreLockedError, match="being written by another process"):
        api.evaluate(arch().candidate)
    assert api._evaluator.n_calls == 0
    other.communicate("")
    api.evaluate(arch().candidate)
    api.close()


def test_what_another_process_added_meanwhile_is_used(evaluation, tmp_path):
    apis = [evaluation.KDDatasetAPI(TableEvaluator(), out=tmp_path) for _ in range(2)]
    for seed, api in enumerate(apis):
        api.evaluate(arch(0).candidate)
        api.evaluate(arch(1 + seed).candidate)
        api.close()
    assert [api.n_trained for api in apis] == [2, 1]
    assert [trial.number for trial in TrialStore(tmp_path / "trials.jsonl")] == [0, 1, 2]


def test_a_search_that_leaves_the_record_is_an_error(evaluation, tmp_path):
    first = evaluation.KDDatasetAPI(TableEvaluator(), out=tmp_path)
    for seed in (0, 1):
        first.evaluate(arch(seed).candidate)
    first.close()
    second = evaluation.KDDatasetAPI(TableEvaluator(), out=tmp_path)
    with second.replaying():
        second.evaluate(arch(0).candidate)
        with pytest.raises(ReplayError, match="has not asked for trial 1"):
            second.evaluate(arch(2).candidate)
        second.evaluate(arch(1).candidate)
        second.evaluate(arch(2).candidate)
    second.close()


# --- the final evaluation -------------------------------------------------------------------------------------------


def test_the_final_view_judges_each_architecture_once(evaluation, tiny_data, cluttered_teacher, tmp_path):
    data = replace(tiny_data, test_reads=0)
    metric, one, two = evaluation.Metric.TEST_ACCURACY, arch(1), arch(2)

    def api() -> Any:
        evaluator = KDEvaluator(data.task, data=data, teacher=cluttered_teacher)
        return evaluation.KDDatasetAPI(evaluator, out=tmp_path, n_finals=2, budget_epochs=1)

    final = api().final()
    answers = [final.query(one, metric), final.query(two, metric)]
    reads = data.test_reads
    assert reads == 4  # two architectures with two students each
    assert all(0 < answer <= 100 for answer in answers)
    assert [final.query(one, metric), api().final().query(two, metric)] == answers
    # the finals of the first were put aside by those of the second, and are found in another process too
    assert api().final().query(one, metric) == answers[0]
    assert data.test_reads == reads
    rows = [json.loads(line) for line in (tmp_path / "finals.jsonl").read_text().splitlines()]
    assert answers[1] == pytest.approx(50 * sum(row["test_accuracy"] for row in rows))
    assert [row["epochs"] for row in rows] == [9, 9]  # in full, whatever the budget of the search
    assert (tmp_path / "students" / "student-1.safetensors").exists()
    assert final.query(one, evaluation.Metric.VAL_ACCURACY, epoch=1) >= 0


def test_an_evaluator_that_trains_nothing_can_be_judged_if_it_says_so(evaluation):
    final = evaluation.KDDatasetAPI(JudgedTable()).final()
    assert final.query(arch(), evaluation.Metric.TEST_ACCURACY) == 50.0
    assert final.final() is final
    with pytest.raises(TypeError, match="TableEvaluator cannot train final students"):
        evaluation.KDDatasetAPI(TableEvaluator()).final()


# --- wrong input ----------------------------------------------------------------------------------------------------


def test_wrong_queries_are_errors_before_any_training(evaluation, table):
    metric = evaluation.Metric
    with pytest.raises(ValueError, match="unknown metric 'VAL_ACC'; did you mean 'VAL_ACCURACY'"):
        table.query(arch(), "VAL_ACC")
    with pytest.raises(ValueError, match="dataset 'cifar10' is asked for, but this dataset_api trains on 'cluttered"):
        table.query(arch(), metric.VAL_ACCURACY, "cifar10")
    for epoch in (0, -2, 2.5, True):
        with pytest.raises(
            ValueError, match=r"epoch must be a number of training epochs, at least 1 \(the full .* 9\)"
        ):
            table.query(arch(), metric.VAL_ACCURACY, epoch=epoch)
    with pytest.raises(ValueError, match="SimpleNamespace is no architecture that can be trained here"):
        table.query(SimpleNamespace(), metric.VAL_ACCURACY)
    with pytest.raises(TypeError, match="it is no table with 'nb201_data'"):
        table["nb201_data"]
    assert len(table.store) == 0
    assert table.query(arch(), metric.VAL_ACCURACY, "cluttered-digits", path="individual") > 0


def test_naslibs_fidelities_are_the_full_training_and_lower_ones_are_said(evaluation, table, caplog):
    """108 and 200 stand in NASLib's files, for its tables; what is said, is said once."""
    metric = evaluation.Metric
    full = table.query(arch(), metric.VAL_ACCURACY)
    for epoch in (108, 200, 108, 9):
        assert table.query(arch(), metric.VAL_ACCURACY, epoch=epoch) == full
    assert [trial.budget_epochs for trial in table.store] == [9]
    assert [text.split(",")[0] for text in caplog.messages] == ["search.fidelity is 108", "search.fidelity is 200"]
    assert "a full training has 9 epochs: 9 it is" in caplog.text
    caplog.clear()
    for _ in range(2):
        table.query(arch(), metric.VAL_ACCURACY, epoch=3)
    assert len(caplog.messages) == 1
    assert "train 3 of 9 epochs, its other optimizers all 9, so that they do not compare" in caplog.text


def test_naslibs_own_spaces_are_told_what_to_do_instead(evaluation, table):
    from naslib.search_spaces import NasBench201SearchSpace

    graph = NasBench201SearchSpace()
    graph.instantiate_model = False
    graph.set_op_indices([2, 3, 1, 0, 4, 3])
    with pytest.raises(TypeError, match=r"trained through naslib_autokd\.plugin\.spaces"):
        graph.query(evaluation.Metric.RAW, "cluttered-digits", dataset_api=table)
    # asked directly, the api knows what the graph stands for
    assert table.query(graph, evaluation.Metric.VAL_ACCURACY) >= 0
    assert table.store[0].candidate["space"] == "nasbench201"


def test_a_space_that_holds_nothing_is_an_error(evaluation, table):
    from naslib_autokd.plugin.hnag import HNAGSearchSpace

    with pytest.raises(ValueError, match="sample it first"):
        table.query(HNAGSearchSpace(), evaluation.Metric.VAL_ACCURACY)


def test_wrong_settings_are_errors_before_any_work(evaluation):
    api = evaluation.KDDatasetAPI
    with pytest.raises(ValueError, match="give a task"):
        api()
    with pytest.raises(ValueError, match="unknown option 'devise'; did you mean 'device'"):
        api(task="digits", devise="cpu")
    with pytest.raises(ValueError, match="task is 'digits', but the evaluator is for 'cluttered-digits'"):
        api(TableEvaluator(), task="digits")
    with pytest.raises(ValueError, match="an evaluator is given, so device must be given to it"):
        api(TableEvaluator(), device="cpu")
    with pytest.raises(ValueError, match=r"budget_epochs must be in \[1, 27\]"):
        api(task="digits", budget_epochs=28)
    with pytest.raises(ValueError, match="n_finals must be at least 1"):
        api(task="digits", n_finals=0)
    assert api(task=get_task("digits", max_budget_epochs=4, min_budget_epochs=1)).budget_epochs == 4
