"""`KDTrainer` and NASLib's own Trainer on HNAG: what is written, what a kill costs, what is judged."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from api_cases import JudgedTable, TableEvaluator, config

from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.records import TrialStore
from naslib_autokd.runners.run_folder import ReplayError, RunFolderError

pytestmark = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")


@pytest.fixture(scope="module")
def plugin() -> Any:
    from naslib_autokd import plugin

    plugin.load_naslib()
    return plugin


def searched(
    save: Path, evaluator: Any, optimizer: str = "RegularizedEvolution", trainer: Any = None, **keys: Any
) -> Any:
    """A trainer of the real NASLib that has searched HNAG."""
    from naslib import optimizers

    made = prepared(save, evaluator, getattr(optimizers, optimizer), trainer, **keys)
    made.search()
    return made


def prepared(save: Path, evaluator: Any, optimizer: Any, trainer: Any = None, **keys: Any) -> Any:
    from naslib_autokd.plugin import HNAGSearchSpace, KDDatasetAPI, KDTrainer

    settings = config(save, **keys)
    chosen = optimizer(settings)
    api = KDDatasetAPI(evaluator) if not isinstance(evaluator, KDDatasetAPI) else evaluator
    chosen.adapt_search_space(HNAGSearchSpace(), dataset_api=api)
    return (trainer or KDTrainer)(chosen, settings)


def trajectory(save: Path) -> dict[str, Any]:
    content = json.loads((save / "errors.json").read_text())
    return {key: value for key, value in content.items() if key != "runtime"}


def outcomes(save: Path) -> list[dict[str, Any]]:
    return [trial.outcome() for trial in TrialStore(save / "trials.jsonl")]


# --- a discrete search ----------------------------------------------------------------------------------------------


def test_folders_exist_and_both_records_are_written(plugin, tmp_path):
    trainer = searched(tmp_path / "new" / "run", TableEvaluator(), epochs=8)
    save = tmp_path / "new" / "run"
    names = {path.name for path in save.iterdir()}
    assert {"search", "eval", "errors.json", "trials.jsonl", "task.yaml", "run.yaml"} <= names
    assert (save / "search" / "model_final.pth").exists()
    found = trajectory(save)
    trials = list(TrialStore(save / "trials.jsonl"))
    assert len(found["valid_acc"]) == 8
    assert found["valid_acc"][-1] == max(100 * trial.val_accuracy for trial in trials)
    assert found["test_acc"] == [-1.0] * 8  # closed during a search
    settings = (save / "run.yaml").read_text()
    assert all(text in settings for text in ("optimizer: RegularizedEvolution", "hnag-small", "sample_size: 3"))
    best = trainer.dataset_api.store.trajectory()[-1][1]
    assert best.val_accuracy == max(trial.val_accuracy for trial in trials)


def test_lightweight_output_is_naslibs(plugin, tmp_path):
    trainer = prepared(tmp_path, TableEvaluator(), naslib_optimizer("RandomSearch"), epochs=2)
    trainer.lightweight_output = True
    trainer.search()
    stored_config, curves = json.loads((tmp_path / "errors.json").read_text())
    assert stored_config["dataset"] == "cluttered-digits"
    assert "train_loss" not in curves


def test_pythons_random_is_seeded_too(plugin, tmp_path):
    # spaces of NASLib's shuffle neighbourhoods with it, and NASLib's Trainer leaves it alone
    drawn = []
    for name in ("a", "b"):
        trainer = prepared(tmp_path / name, TableEvaluator(), naslib_optimizer("RandomSearch"), epochs=2, seed=4)
        random.seed(name)
        trainer.search(after_epoch=lambda epoch: drawn.append(random.random()))
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def naslib_optimizer(name: str) -> Any:
    from naslib import optimizers

    return getattr(optimizers, name)


def test_the_same_as_naslibs_own_trainer(plugin, tmp_path):
    from naslib.defaults.trainer import Trainer

    for name in ("RandomSearch", "LocalSearch"):
        ours, theirs = tmp_path / f"ours-{name}", tmp_path / f"theirs-{name}"
        (theirs / "search").mkdir(parents=True)
        searched(ours, TableEvaluator(), name, epochs=8, seed=3)
        random.seed(3)  # NASLib's Trainer leaves it unseeded
        other = searched(theirs, TableEvaluator(), name, Trainer, epochs=8, seed=3)
        assert trajectory(ours) == trajectory(theirs)
        assert outcomes(ours) == [trial.outcome() for trial in other.optimizer.dataset_api.store]


CHILD = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from api_cases import TableEvaluator
from naslib_autokd.plugin import load_naslib
from test_plugin_trainer import searched
load_naslib()
searched(Path(sys.argv[1]), TableEvaluator(killed_at=9), epochs=16)
"""


def test_a_killed_search_goes_on_as_if_nothing_had_happened(plugin, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code = CHILD.format(folder=str(Path(__file__).parent))
    child = subprocess.run([sys.executable, "-c", code, str(cut)], capture_output=True, text=True)
    assert child.returncode == -9, child.stderr
    reference = TableEvaluator()
    searched(whole, reference, epochs=16)
    assert outcomes(cut) == outcomes(whole)[:9]
    evaluator = TableEvaluator()
    searched(cut, evaluator, epochs=16)
    assert trajectory(cut) == trajectory(whole)
    assert outcomes(cut) == outcomes(whole)
    assert evaluator.n_calls == reference.n_calls - 9


@pytest.mark.parametrize("optimizer", ["RegularizedEvolution", "LocalSearch", "RandomSearch"])
def test_killed_at_every_epoch_in_turn(plugin, tmp_path, optimizer):
    class Stopped(Exception):
        pass

    def stop(epoch: int) -> None:
        raise Stopped

    searched(tmp_path / "whole", TableEvaluator(), optimizer, epochs=8)
    n_trained = 0
    for _ in range(12):  # every start gets one epoch further, then dies after it
        evaluator = TableEvaluator()
        trainer = prepared(tmp_path / "cut", evaluator, naslib_optimizer(optimizer), epochs=8)
        known = len(TrialStore(tmp_path / "cut" / "trials.jsonl"))
        try:
            trainer.search(after_epoch=lambda epoch: stop(epoch) if len(trainer.dataset_api.store) > known else None)  # noqa: B023
            break
        except Stopped:
            n_trained += evaluator.n_calls
    else:
        pytest.fail("the search never ended")
    assert trajectory(tmp_path / "cut") == trajectory(tmp_path / "whole")
    assert n_trained == len(outcomes(tmp_path / "whole"))


def test_a_longer_search_continues_a_shorter_one(plugin, tmp_path):
    searched(tmp_path / "a", TableEvaluator(), epochs=6)
    evaluator = TableEvaluator()
    searched(tmp_path / "a", evaluator, epochs=10)
    searched(tmp_path / "b", TableEvaluator(), epochs=10)
    assert trajectory(tmp_path / "a") == trajectory(tmp_path / "b")
    assert evaluator.n_calls == len(outcomes(tmp_path / "a")) - len(outcomes(tmp_path / "b")[:6])


def test_another_search_in_the_same_folder_is_refused(plugin, tmp_path):
    searched(tmp_path, TableEvaluator(), epochs=3)
    with pytest.raises(RunFolderError, match="optimizer: 'RegularizedEvolution' there, 'RandomSearch' asked for"):
        searched(tmp_path, TableEvaluator(), "RandomSearch", epochs=3)


def test_a_search_that_does_not_repeat_its_record_is_refused(plugin, tmp_path):
    searched(tmp_path, TableEvaluator(), epochs=4)
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["candidate_digest"] = "000000000000"
    del first["crc32"]  # a run of an older version
    (tmp_path / "trials.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    evaluator = TableEvaluator()
    with pytest.raises(ReplayError, match="start in a new folder"):
        searched(tmp_path, evaluator, epochs=4)
    assert evaluator.n_calls == 0


# --- evaluate -------------------------------------------------------------------------------------------------------


def test_evaluate_judges_and_works_in_a_fresh_process(plugin, tmp_path):
    trainer = searched(tmp_path, JudgedTable(), epochs=4)
    assert trainer.evaluate() == 50.0
    evaluator = JudgedTable()
    fresh = prepared(tmp_path, evaluator, naslib_optimizer("RegularizedEvolution"), epochs=4)
    assert fresh.evaluate() == 50.0  # NASLib's own would fail: its checkpoint holds no architecture
    assert evaluator.n_calls == 0
    metric = plugin.evaluation.Metric.VAL_ACCURACY
    assert fresh.evaluate(metric=metric) == trajectory(tmp_path)["valid_acc"][-1]
    new = prepared(tmp_path / "new", JudgedTable(), naslib_optimizer("RegularizedEvolution"), epochs=4)
    with pytest.raises(RuntimeError, match=r"call search\(\) first"):
        new.evaluate()


@pytest.mark.parametrize("trainer", ["KDTrainer", "Trainer"])
def test_students_are_trained_and_the_test_split_is_read_once(plugin, tmp_path, trainer, tiny_data, cluttered_teacher):
    """The real thing, small: NASLib's RandomSearch on HNAG, each architecture trained with the teacher."""
    import naslib_autokd
    from naslib_autokd.plugin import KDDatasetAPI

    data = replace(tiny_data, test_reads=0)
    api = KDDatasetAPI(KDEvaluator(data.task, data=data, teacher=cluttered_teacher), budget_epochs=1)
    naslib_autokd.register()  # NASLib's Trainer then opens the test split in evaluate()
    try:
        from naslib.defaults.trainer import Trainer

        (tmp_path / "search").mkdir()
        kind = Trainer if trainer == "Trainer" else plugin.KDTrainer
        made = prepared(tmp_path, api, naslib_optimizer("RandomSearch"), kind, epochs=3)
        made.search()
        assert data.test_reads == 0
        assert [trial.status for trial in api.store] == ["success"] * 3
        assert trajectory(tmp_path)["valid_acc"][-1] == max(100 * trial.val_accuracy for trial in api.store)
        assert all(trial.teacher_agreement is not None for trial in api.store)
        accuracy = made.evaluate(dataset_api=api)
        assert made.evaluate(dataset_api=api) == accuracy
    finally:
        naslib_autokd.unregister()
    assert data.test_reads == 1
    assert type(accuracy) is float
    assert 0 < accuracy <= 100
    if trainer == "KDTrainer":
        rows = [json.loads(line) for line in (tmp_path / "finals.jsonl").read_text().splitlines()]
        assert [row["epochs"] for row in rows] == [9]
        assert accuracy == 100 * rows[0]["test_accuracy"]


# --- optimizers with a supernet -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")  # NASLib: numpy on tensors
def test_darts_runs_on_our_loaders_and_its_cell_is_judged(plugin, tmp_path, tiny_data, cluttered_teacher):
    from naslib.optimizers import DARTSOptimizer

    from naslib_autokd.plugin.networks import fit_supernet

    data = replace(tiny_data, test_reads=0)
    evaluator = KDEvaluator(data.task, data=data, teacher=cluttered_teacher)
    keys = {"batch_size": 32, "learning_rate": 0.025, "learning_rate_min": 0.001, "momentum": 0.9}
    keys |= {"weight_decay": 3e-4, "grad_clip": 5, "unrolled": False}
    settings = config(tmp_path, epochs=1, **keys)
    torch.manual_seed(0)
    optimizer = DARTSOptimizer(**settings.search)
    optimizer.adapt_search_space(fit_supernet("simple_cell", data.task).graph(), settings.dataset)
    trainer = plugin.KDTrainer(optimizer, settings, dataset_api=plugin.KDDatasetAPI(evaluator, budget_epochs=1))
    with pytest.raises(RuntimeError, match=r"call search\(\) first"):
        trainer.evaluate()
    trainer.search()
    found = trajectory(tmp_path)
    assert len(found["train_acc"]) == len(found["valid_acc"]) == 1
    assert data.test_reads == 0
    accuracy = trainer.evaluate()
    assert data.test_reads == 1
    assert 0 < accuracy <= 100
    row = json.loads((tmp_path / "finals.jsonl").read_text())
    assert (row["epochs"], row["kd_weight"] is not None) == (9, True)


def test_fewer_than_five_classes(plugin, tmp_path):
    trainer = prepared(tmp_path, TableEvaluator(), naslib_optimizer("RandomSearch"), epochs=1)
    trainer._store_accuracies(torch.eye(3), torch.tensor([0, 1, 1]), "train")
    assert trainer.train_top1.avg == pytest.approx(200 / 3)
    assert trainer.train_top5.avg == 100.0


# --- wrong input ----------------------------------------------------------------------------------------------------


def test_a_missing_key_is_named(plugin, tmp_path):
    settings = config(tmp_path / "run")
    optimizer = naslib_optimizer("RandomSearch")(settings)
    del settings.search["checkpoint_freq"]
    with pytest.raises(ValueError, match=r"the configuration lacks search\.checkpoint_freq"):
        plugin.KDTrainer(optimizer, settings)
    assert not (tmp_path / "run").exists()


def test_the_dataset_must_be_the_apis(plugin, tmp_path):
    with pytest.raises(
        ValueError, match=r"config\.dataset is 'digits', but the dataset_api trains on 'cluttered-digits'"
    ):
        prepared(tmp_path, TableEvaluator(), naslib_optimizer("RandomSearch"), dataset="digits")
