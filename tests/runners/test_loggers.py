"""Loggers: the real packages where they are installed, offline; and what a search does when one fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from naslib_autokd.cli import main
from naslib_autokd.records import TrialStore
from naslib_autokd.runners.loggers import RunLoggers, get_logger, logger_names

SEARCH = ["search", "--optimizer", "random_search", "--finals", "1", "--trials"]


class Memory:
    """Keeps what it is told in ``RUN/memory.jsonl``."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / "memory.jsonl"
        self.keep(settings["task"]["name"], settings["seed"])

    def keep(self, *values: Any) -> None:
        with self.path.open("a") as file:
            print(json.dumps(values), file=file)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.keep(step, dict(values))

    def finish(self) -> None:
        self.keep("finished")


class Broken(Memory):
    def log(self, values: Mapping[str, float], step: int) -> None:
        raise ConnectionError("no network")


def not_a_logger(folder: Path, settings: Mapping[str, Any]) -> str:
    return "nothing"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for searches that log nowhere else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path / "run"


def search(run: Path, task: str, trials: int, *loggers: str) -> int:
    return main([*SEARCH, str(trials), "--task", task, "--loggers", ",".join(loggers), "--out", str(run)])


def test_a_logger_of_ones_own_hears_of_every_trial_and_a_broken_one_stops_nothing(small_task: str, run: Path) -> None:
    names = (f"{__name__}:Memory", f"{__name__}:Broken")
    assert search(run, small_task, 2, *names) == 0
    trials = list(TrialStore(run / "trials.jsonl"))
    said = [json.loads(line) for line in (run / "memory.jsonl").read_text().splitlines()]
    assert said.pop(0) == said.pop(0)  # each is made with the settings
    assert said.pop() == ["finished"], "the broken one is left out"
    kept = said.pop()
    assert [(step, values["trial/val_accuracy"]) for step, values in said] == [
        (number, trial.val_accuracy) for number, trial in enumerate(trials, 1)
    ]
    result = json.loads((run / "result.json").read_text())
    assert kept == [2, {**kept[1], "kept/test_accuracy": result["finals"][0]["test_accuracy"]}]
    log = (run / "search.log").read_text()
    assert log.count("Broken is left out from here on: ConnectionError: no network") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "no logger 'tensorbord'; did you mean 'tensorboard'?"),
        (f"{__name__}:not_a_logger", "expected an object with log(values, step) and finish(), got 'nothing'"),
        ("json:dumps", "logger json:dumps has to be called with a folder and settings, which gave: dumps() takes 1"),
        ("tensorboard, tensorboard", "logger tensorboard is named twice"),
        ("mlflow,", "no logger ''"),
        (" nowhere:Logger", "'nowhere:Logger' cannot be imported: No module named 'nowhere'"),
    ],
)
def test_what_is_no_logger_is_refused_before_any_work(
    name: str, message: str, small_task: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(run, small_task, 2, name) == 2
    assert message in capsys.readouterr().err
    assert not (run / "trials.jsonl").exists()


def test_names_may_have_spaces_around_them() -> None:
    assert logger_names(f" mlflow , {__name__}:Memory") == ["mlflow", f"{__name__}:Memory"]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ImportError, match=r"logger wandb: .*pip install wandb"):
        RunLoggers(["wandb"], tmp_path, {})
    with pytest.raises(ValueError, match="did you mean 'mlflow'"):
        get_logger("mlfow")


def test_tensorboard_has_the_scalars(small_task: str, run: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert search(run, small_task, 2, "tensorboard") == 0
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    trials = [trial.val_accuracy for trial in TrialStore(run / "trials.jsonl")]
    assert [event.value for event in events.Scalars("trial/val_accuracy")] == pytest.approx(trials)
    assert [event.step for event in events.Scalars("trial/val_accuracy")] == [1, 2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # its packages' own
def test_mlflow_has_one_run_also_of_a_search_that_was_continued(small_task: str, run: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    for n_trials in (2, 3):
        assert search(run, small_task, n_trials, "mlflow") == 0
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("naslib_autokd").experiment_id])
    assert (found.info.status, found.data.params["optimizer"]) == ("FINISHED", "random_search")
    history = client.get_metric_history(found.info.run_id, "trial/val_accuracy")
    trials = [trial.val_accuracy for trial in TrialStore(run / "trials.jsonl")]
    assert [(one.step, one.value) for one in history] == list(enumerate(trials, 1))
    assert 0 < found.data.metrics["kept/test_accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_writes_its_offline_run(small_task: str, run: Path) -> None:
    pytest.importorskip("wandb")

    assert search(run, small_task, 2, "wandb") == 0
    (path,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    written = path.read_bytes()
    assert written.count(b"trial/val_accuracy") >= 2
    for trial in TrialStore(run / "trials.jsonl"):
        assert json.dumps(trial.val_accuracy).encode() in written
