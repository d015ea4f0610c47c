"""Searches in Optuna's storage and DeepCAVE's tables, read back by the packages themselves where they are installed."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_folders import final, write_comparison, write_search

from naslib_autokd.cli import main
from naslib_autokd.records import Trial, TrialStore
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.search_spaces.hnag.parameters import Candidate
from naslib_autokd.shipping.searches import DEEPCAVE_TABLES, JOURNAL, export_runs

FAILURES = {4: ("error", "no, this\nfailed"), 6: ("timeout", "slow"), 7: ("refused", "too large")}


@pytest.fixture(scope="module", params=[("error",), ("error", "macs")], ids=["error", "front"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a run"
    return write_search(folder, 20, failures=FAILURES, objectives=request.param)


def of(run: Path) -> tuple[list[Trial], list[dict[str, Any]], HNAGSpace]:
    """Trials of a run and their settings."""
    trials = list(TrialStore(run / "trials.jsonl"))
    space = HNAGSpace("hnag-small", search_size="macs" in (run / "run.yaml").read_text())
    return trials, [space.values(Candidate.from_dict(trial.candidate)) for trial in trials], space


def test_optuna_opens_the_search(run: Path, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    trials, settings, space = of(run)
    (path,) = export_runs([run], "optuna", tmp_path / "out")
    assert export_runs([run], "optuna", tmp_path / "out") == [path]  # again, in place of the first
    assert [each.name for each in path.parent.iterdir()] == [JOURNAL]
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    study = optuna.load_study(storage=storage, study_name="a run")
    several = len(study.directions) > 1
    assert study.user_attrs["task"] == "cluttered-digits"
    assert study.user_attrs["optimizer"] == "autokd"
    assert len(study.trials) == len(trials)
    configspace = space.configuration_space()
    for found, trial, values in zip(study.trials, trials, settings, strict=True):
        state = "FAIL" if not trial.succeeded else "COMPLETE" if trial.budget_epochs == 9 else "PRUNED"
        assert found.state.name == state
        if state == "COMPLETE":
            assert found.values == [trial.cost, trial.macs][: len(study.directions)]
        if not several and trial.succeeded:
            assert found.intermediate_values == {trial.budget_epochs: trial.cost}
        assert found.params == pytest.approx(values)
        assert {name: found.user_attrs.get(name) for name in ("message", "n_params", "candidate_digest", "seed")} == {
            name: getattr(trial, name) for name in ("message", "n_params", "candidate_digest", "seed")
            if getattr(trial, name) is not None or name == "n_params"
        }  # fmt: skip
        assert found.duration.total_seconds() == pytest.approx(trial.total_s)
    growth = next(t.distributions["channel_growth"] for t in study.trials)
    assert (growth.low, growth.high, growth.log) == (
        configspace["channel_growth"].lower, configspace["channel_growth"].upper, True,
    )  # fmt: skip
    best = min((t for t in trials if t.succeeded and t.budget_epochs == 9), key=lambda t: t.cost)
    chosen = min(study.best_trials, key=lambda t: t.values[0]) if several else study.best_trial
    assert chosen.user_attrs["number"] == best.number


def test_optunas_importance_of_an_export_is_about_our_hyperparameters(run: Path, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    (path,) = export_runs([run], "optuna", tmp_path)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    study = optuna.load_study(storage=storage, study_name="a run")
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.MeanDecreaseImpurityImportanceEvaluator(n_trees=4, seed=0),
        target=lambda trial: trial.values[0], params=["channel_growth", "kd_weight"],
    )  # fmt: skip
    assert set(found) == {"channel_growth", "kd_weight"}


def tables(folder: Path) -> Iterator[list[dict[str, str]]]:
    for name in DEEPCAVE_TABLES:
        with open(folder / name, newline="") as file:
            yield list(csv.DictReader(file))


def test_deepcaves_tables_have_every_trial_and_range(run: Path, tmp_path: Path) -> None:
    trials, settings, space = of(run)
    (folder,) = export_runs([run], "deepcave", tmp_path)
    hyperparameters, rows = tables(folder)
    configspace = space.configuration_space()
    assert [row["name"] for row in hyperparameters] == list(configspace)
    labels = {row["name"]: [v for k, v in row.items() if k.startswith("item_") and v] for row in hyperparameters}
    for row in hyperparameters:
        own = configspace[row["name"]]
        if row["type"] == "categorical":
            assert len(labels[row["name"]]) == own.size
            assert row["default"] in labels[row["name"]]
            assert all(re.search("[a-z]", label) for label in labels[row["name"]]), "pandas would make numbers of them"
        else:
            assert (float(row["lower"]), float(row["upper"]), row["log"]) == (own.lower, own.upper, str(own.log))
    for row, trial, values in zip(rows, trials, settings, strict=True):
        for name in configspace:
            if labels[name]:
                assert row[name] in labels[name]
                assert name not in values or row[name].removeprefix(f"{name}=") == str(values[name])
            else:
                assert float(row[name]) == pytest.approx(values.get(name, configspace[name].default_value))
        assert (row["status"] == "SUCCESS") == trial.succeeded
        assert row["budget"] == str(trial.budget_epochs)
        cost = row["metric:error [0; 1] (minimize)"]
        assert cost == (repr(trial.cost) if trial.succeeded else "")
        assert row["trial_message"] == trial.message
    assert {row["status"] for row in rows} == {"SUCCESS", "FAILED", "TIMEOUT", "NOT_EVALUATED"}
    assert len({(row["config_id"], row["budget"], row["seed"]) for row in rows}) == len(rows)
    ends = [float(row["end_time"]) for row in rows]
    assert [float(row["start_time"]) for row in rows] == [0.0, *ends[:-1]]


def test_deepcave_reads_its_tables(run: Path, tmp_path: Path) -> None:
    converters = pytest.importorskip("deepcave.runs.converters.dataframe")  # for Python 3.10 at most
    trials, _, space = of(run)
    (folder,) = export_runs([run], "deepcave", tmp_path)
    assert converters.DataFrameRun.is_valid_run(str(folder))
    found = converters.DataFrameRun.from_path(folder)
    names = ["error", "macs"] if "macs" in (run / "run.yaml").read_text() else ["error"]
    assert [objective.name for objective in found.get_objectives()] == [*names, "Time"]
    assert set(found.configspace) == set(space.configuration_space())
    assert len(found.history) == len(trials)
    for row, trial in zip(found.history, trials, strict=True):
        assert row.budget == trial.budget_epochs
        costs = [trial.cost, trial.macs][: len(names)] if trial.succeeded else [None] * len(names)
        assert row.costs[: len(names)] == pytest.approx(costs)  # pandas reads the last digit as it likes


def another_space(run: Path) -> Path:
    run.mkdir()
    with TrialStore(run / "trials.jsonl") as store:
        for number, (edges, merge) in enumerate([(3, "None"), (1, "sum"), (3, "None")]):
            candidate = {"edges": edges, "merge": merge, "seed": [0.5, 2][number % 2], "fixed": 7}
            told = {"candidate": candidate, "candidate_digest": f"f{number % 2}", "budget_epochs": 9, "seed": number}
            store.append(Trial(number=number, **told, cost=0.5, val_accuracy=0.5, student_epochs=9.0))
    return run


def test_a_space_of_another_kind_has_the_ranges_that_were_observed(tmp_path: Path) -> None:
    run = another_space(tmp_path / "run")
    (folder,) = export_runs([run], "deepcave", tmp_path / "out")
    hyperparameters, rows = tables(folder)
    described = {row["name"]: (row["type"], row["lower"], row["upper"]) for row in hyperparameters}
    assert described == {
        "edges": ("integer", "1", "3"),
        "merge": ("categorical", "", ""),
        "seed_": ("float", "0.5", "2"),
    }
    assert [row["merge"] for row in rows] == ["merge=None", "sum", "merge=None"]
    assert [(row["config_id"], row["seed"]) for row in rows] == [("0", "0"), ("1", "0"), ("0", "1")]


def test_optuna_has_the_choices_of_another_space(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    (path,) = export_runs([another_space(tmp_path / "run")], "optuna", tmp_path / "out")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    study = optuna.load_study(storage=storage, study_name="run")
    assert [trial.params["merge"] for trial in study.trials] == ["None", "sum", "None"]
    assert [trial.params["edges"] for trial in study.trials] == [3, 1, 3]


def test_a_comparisons_searches_are_exported_one_by_one(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "comparison", 2)
    names = [path.name for path in export_runs([folder], "deepcave", tmp_path / "out")]
    assert names == ["comparison-autokd-seed-0", "comparison-autokd-seed-1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tensorboard", "x"], "--export writes for optuna or deepcave, got 'tensorboard'"),
        (["deepcave", "file"], "--export deepcave file is a file; give a folder"),
        (["deepcave", "x"], "empty has no trials to export; give the folder of a search"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("empty").mkdir()
    assert main(["report", "empty", "--export", *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_the_command_says_what_to_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_search(tmp_path / "run", 2, finals=[final(0, 0.9)])
    words = ["report", str(run), "--export", "deepcave", str(tmp_path / "out")]
    assert main(words) == 0
    assert f"for deepcave: {tmp_path / 'out' / 'run'}" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exported"] == [str(tmp_path / "out" / "run")]
