"""Configurations in NASLib's format and the runner: every shipped one runs, and what is wrong with one is named."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from naslib_autokd.plugin.config import DEFAULTS, ConfigError, check_config, load_config, save_folder
from naslib_autokd.plugin.loader import find_naslib, naslib_missing
from naslib_autokd.plugin.runner import CONFIGS, DISCRETE, ONE_SHOT, find_config, main
from naslib_autokd.records import RecordWarning

needs_naslib = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

MINIMAL = {"search_space": "hnag", "dataset": "cluttered-digits", "optimizer": "rs"}
SHIPPED = sorted(path.name for path in CONFIGS.glob("*.yaml"))


def written(folder: Path, content: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


# --- configurations, without NASLib


@pytest.mark.parametrize("key", ["search_space", "dataset", "optimizer"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    content = {name: value for name, value in MINIMAL.items() if name != key}
    with pytest.raises(ConfigError, match=f"key '{key}' is missing"):
        load_config(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({**MINIMAL, "optimiser": "rs"}, "unknown key 'optimiser'.*optimizer"),
        ({**MINIMAL, "search": {"epoch": 3}}, "unknown key search.epoch.*epochs"),
        ({**MINIMAL, "search": {"epochs": "many"}}, "search.epochs must be of type int, got 'many'"),
        ({**MINIMAL, "search": {"epochs": True}}, "search.epochs must be of type int, got True"),
        ({**MINIMAL, "search": 3}, "search must be a section with keys, got 3"),
        ({**MINIMAL, "seed": "zero"}, "seed must be of type int"),
        ("just text", "holds no configuration"),
        ("a: [", "line 1: not valid YAML"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, content: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_config(written(tmp_path, content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_overrides_go_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, {**MINIMAL, "seed": 1, "search": {"epochs": 7}})
    config = load_config(path, ["seed", "5", "search.epochs", "9", "search.learning_rate", "1", "kd.teacher", "t.pt"])
    assert (config["seed"], config["search"]["epochs"], config["kd"]["teacher"]) == (5, 9, "t.pt")
    assert isinstance(config["search"]["learning_rate"], float)
    assert config["search"]["sample_size"] == DEFAULTS["search"]["sample_size"]
    with pytest.raises(ConfigError, match="pairs of KEY VALUE, got 3 words"):
        load_config(path, ["seed", "5", "search.epochs"])
    with pytest.raises(ConfigError, match=r"unknown key search\.epoch"):
        load_config(path, ["search.epoch", "5"])


def test_naslibs_own_keys_without_a_meaning_are_let_through() -> None:
    config = check_config({**MINIMAL, "search": {"budgets": 50000000, "data_size": 25000, "warm_start_epochs": 0}})
    assert "budgets" not in config["search"]


def test_defaults_are_not_shared() -> None:
    check_config(MINIMAL)["search"]["epochs"] = -1
    assert check_config(MINIMAL)["search"]["epochs"] == 100


def test_the_folder_is_naslibs() -> None:
    config = check_config({**MINIMAL, "seed": 3, "out_dir": "out"})
    assert save_folder(config) == Path("out/hnag/cluttered-digits/rs/3")
    assert save_folder({**config, "dataset": "some/where/task.yaml"}) == Path("out/hnag/task/rs/3")
    assert save_folder({**config, "dataset": "my.data:Flowers"}) == Path("out/hnag/Flowers/rs/3")


def test_every_optimizer_has_a_configuration_on_hnag() -> None:
    configs = [load_config(CONFIGS / name) for name in SHIPPED]
    assert {c["optimizer"] for c in configs if c["search_space"] == "hnag"} >= {*DISCRETE, "autokd", "hyperband"}
    assert {c["optimizer"] for c in configs} >= set(ONE_SHOT)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_is_valid_and_says_how_it_is_run(name: str) -> None:
    config = load_config(find_config(name))
    assert config["out_dir"] == "runs"
    assert f"--config-file {name}" in (CONFIGS / name).read_text(encoding="utf-8")


def test_the_command_line_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == SHIPPED


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "give --config-file FILE"),
        (["--config-file", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--config-file", "hnag-rs.yaml", "optimizer", "autokdd"], "unknown optimizer 'autokdd'.*autokd"),
        (["--config-file", "hnag-rs.yaml", "options.eta", "3"], "options are for our optimizers"),
    ],
)
def test_errors_are_one_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    assert main(arguments) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert re.search(f"error: .*{text}", printed)


# --- runs, with NASLib


@pytest.fixture(scope="module")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of moments, with a teacher that is trained once."""
    from naslib_autokd.tasks import get_task

    path = tmp_path_factory.mktemp("task") / "tiny.yaml"
    sizes = {
        "n_train": 64,
        "n_teacher": 600,
        "n_val": 100,
        "n_test": 100,
        "teacher_epochs": 6,
        "min_teacher_accuracy": 0.0,
    }
    task = get_task("cluttered-digits", **sizes, name="tiny", max_budget_epochs=3, min_budget_epochs=1)
    task.to_yaml(path)
    return path


def small(name: str, task: Path, out: Path, **more: Any) -> list[str]:
    """The command line of a shipped configuration, cut down to a few trainings."""
    search = load_config(CONFIGS / name)
    overrides: dict[str, Any] = {
        "dataset": task,
        "out_dir": out,
        "search.epochs": 5,
        "search.num_init": 2,
        "search.population_size": 2,
        "search.sample_size": 2,
        "search.k": 2,
        "search.num_candidates": 8,
        "kd.n_finals": 1,
        **({"kd.budget": 20.0} if search["optimizer"] in ONE_SHOT else {}),
        **more,
    }
    return ["--config-file", name, *(str(word) for pair in overrides.items() for word in pair)]


@needs_naslib
@pytest.mark.filterwarnings("ignore")  # NASLib's, and those of the packages of its predictors
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "nasbench301-darts.yaml" else name for name in SHIPPED],
)
def test_every_shipped_configuration_runs(
    name: str, tiny_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(small(name, tiny_task, tmp_path)) == 0, capsys.readouterr().err
    config = load_config(CONFIGS / name)
    folder = tmp_path / config["search_space"] / "tiny" / config["optimizer"] / "0"
    result = json.loads((folder / "result.json").read_text())
    assert math.isfinite(result["test_accuracy"])
    assert [student["test_accuracy"] for student in result["students"]] == [result["test_accuracy"] / 100]
    ours = {"config.yaml", "task.yaml", "run.yaml", "finals.jsonl", "result.json"}
    assert ours <= {path.name for path in folder.iterdir()}
    errors = json.loads((folder / "errors.json").read_text())[1]
    if config["optimizer"] in ONE_SHOT:
        assert (folder / "search.json").exists()
        assert result["n_trainings"] == 1
    else:
        trials = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
        assert len(trials) == result["n_trainings"] <= 5
        assert len(errors["valid_acc"]) == 5
        full = [t["val_accuracy"] for t in trials if t["status"] == "success" and t["budget_epochs"] == 3]
        assert (folder / "log.log").read_text().count("Epoch") >= 5
        if config["optimizer"] not in ("autokd", "hyperband"):  # these report the incumbent by their model
            assert errors["valid_acc"][-1] == pytest.approx(100 * max(full))


@needs_naslib
@pytest.mark.filterwarnings("ignore")
def test_the_same_command_again_trains_nothing(tiny_task: Path, tmp_path: Path) -> None:
    arguments = small("hnag-re.yaml", tiny_task, tmp_path)
    folder = tmp_path / "hnag" / "tiny" / "re" / "0"
    assert main(arguments) == 0
    before = {name: (folder / name).read_bytes() for name in ("trials.jsonl", "finals.jsonl", "result.json")}
    assert main(arguments) == 0
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert main([*arguments, "search.epochs", "6"]) == 0  # a longer one goes on
    assert (folder / "trials.jsonl").read_bytes().startswith(before["trials.jsonl"])
    assert len((folder / "trials.jsonl").read_bytes()) > len(before["trials.jsonl"])


@needs_naslib
@pytest.mark.filterwarnings("ignore")
def test_another_configuration_is_not_mixed_into_a_run(
    tiny_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(small("hnag-rs.yaml", tiny_task, tmp_path)) == 0
    assert main(small("hnag-rs.yaml", tiny_task, tmp_path, **{"kd.search_kd": False})) == 2
    assert "belongs to another run" in capsys.readouterr().err


NASLIBS = {
    "runners/nas/discrete_config.yaml": "re",
    "runners/bbo/discrete_config.yaml": "re",
    "runners/nas_predictors/discrete_config.yaml": "bananas",
    "defaults/darts_defaults.yaml": "darts",
}
"""Configurations of a search that NASLib ships."""


@needs_naslib
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NASLIBS)
def test_naslibs_own_configurations_run(
    name: str, tiny_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another data set and fewer epochs: their fidelities of 108 and 200 are those of NASLib's tables."""
    asked = yaml.safe_load((find_naslib() / name).read_text())
    # steps enough to leave chance: answers that are all equal end NASLib's predictor, which divides by their spread
    task = tmp_path / "tiny.yaml"
    task.write_text(re.sub("batch_size: .*", "batch_size: 4", tiny_task.read_text()))
    changes = {"dataset": task, "out_dir": tmp_path, "search.epochs": 3, "search.num_init": 2}
    changes |= {"search.predictor_type": "xgb", "search.num_candidates": 2, "kd.budget": 20.0}
    words = [str(word) for pair in changes.items() for word in pair]
    assert main(["--config-file", str(find_naslib() / name), *words]) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    which = ["config_0"] if "bbo" in name else []
    folder = Path(tmp_path, "nasbench201", "tiny", NASLIBS[name], *which, str(asked["seed"]))
    assert (folder / "result.json").exists()
    if asked["search"]["fidelity"] > 3:
        assert f"search.fidelity is {asked['search']['fidelity']}, but a full training has 3 epochs" in printed.err
    named = printed.out.splitlines()[-1].rpartition(": ")[2].split(", ")
    assert all((folder / file).exists() for file in named)
    assert ("search.json" if NASLIBS[name] == "darts" else "trials.jsonl") in named


@pytest.mark.slow
@needs_naslib
@pytest.mark.filterwarnings("ignore")
def test_zero_cost_scores_of_naslibs_space_are_those_of_the_tasks_networks(tiny_task: Path, tmp_path: Path) -> None:
    zc = {"search.zc": True, "search.zc_names": "[jacov]", "search.batch_size": 8, "search.num_candidates": 4}
    assert main(small("hnag-bananas.yaml", tiny_task, tmp_path, search_space="nasbench201", **zc)) == 0
    trials = (tmp_path / "nasbench201" / "tiny" / "bananas" / "0" / "trials.jsonl").read_text().splitlines()
    assert 3 <= len(trials) <= 5  # a mutation may be known


@needs_naslib
@pytest.mark.filterwarnings("ignore")
def test_a_one_shot_search_that_is_over_is_not_repeated(
    tiny_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in its final students: they go on from what the search found."""
    from naslib_autokd.plugin.one_shot import NASLibOneShot, NASLibOneShotResult
    from naslib_autokd.tasks import get_task

    arguments = small("nasbench201-darts.yaml", tiny_task, tmp_path)
    folder = tmp_path / "nasbench201" / "tiny" / "darts" / "0"
    assert main(arguments) == 0
    found = json.loads((folder / "search.json").read_text())
    result = (folder / "result.json").read_bytes()
    restored = NASLibOneShotResult.from_dict(found, get_task(str(tiny_task)))
    assert json.loads(json.dumps(restored.to_dict())) == {k: found[k] for k in found if k not in ("recipe", "sha256")}
    (folder / "result.json").unlink()
    (folder / "finals.jsonl").unlink()
    monkeypatch.setattr(NASLibOneShot, "search", None)
    assert main(arguments) == 0
    assert "the search is over: " in capsys.readouterr().err
    assert json.loads((folder / "result.json").read_bytes())["architecture"] == json.loads(result)["architecture"]
    assert json.loads((folder / "result.json").read_bytes())["test_accuracy"] == json.loads(result)["test_accuracy"]
    (folder / "search.json").write_text("[]")
    monkeypatch.undo()
    with pytest.warns(RecordWarning, match="the search is made again"):
        assert main(arguments) == 0
    assert json.loads((folder / "result.json").read_bytes())["architecture"] == json.loads(result)["architecture"]


@needs_naslib
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"search_space": "nasbench210"}, "unknown search space 'nasbench210'.*nasbench201"),
        ({"dataset": "cluttered-digit"}, "unknown dataset 'cluttered-digit'.*cluttered-digits"),
        ({"search_space": "nasbench201", "dataset": "cifar10"}, "nb201_cifar10_full_training.pickle"),
        ({"dataset": "nowhere:Data"}, "cannot be imported"),
        ({"optimizer": "bananas", "search.zc": True}, r"search\.zc needs search\.zc_names"),
        (
            {
                "optimizer": "npenas",
                "search.zc_ensemble": True,
                "search.zc_names": "[jacov]",
                "search.predictor_type": "gp",
            },
            "search.zc_ensemble goes with predictor_type lgb, ngb, rf, xgb",
        ),
        ({"kd.device": "cuda:77"}, "cuda:77"),
    ],
)
def test_names_that_cannot_work(
    overrides: dict[str, Any], text: str, tiny_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main(small("hnag-rs.yaml", tiny_task, tmp_path, **overrides)) == 2
    assert re.search(f"error: .*{text}", capsys.readouterr().err, re.DOTALL)


@needs_naslib
@pytest.mark.filterwarnings("ignore")
def test_our_command_line_searches_naslibs_spaces_with_naslibs_optimizers(
    tiny_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from naslib_autokd.cli import main as command

    arguments = ["search", "--task", str(tiny_task), "--space", "nasbench201", "--out", str(tmp_path), "--json"]
    options = ["--optimizer", "naslib-regularized_evolution", "--option", "population_size=2", "--option"]
    assert command([*arguments, *options, "sample_size=1", "--trials", "3", "--finals", "1"]) == 0
    assert json.loads(capsys.readouterr().out)
    trials = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert {trial["candidate"]["space"] for trial in trials} == {"nasbench201"}
    assert [trial["number"] for trial in trials] == [-1, 0, 1]
    assert command([*arguments, "--optimizer", "naslib-random_searc", "--trials", "3"]) == 2
    assert "naslib-random_search" in capsys.readouterr().err


@needs_naslib
@pytest.mark.filterwarnings("ignore")
def test_a_custom_dataset_of_naslibs_is_searched(
    tiny_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's file has NASLib's CustomDataset and a teacher of the user's own."""
    (tmp_path / "my_data.py").write_text(
        """
import torch
from naslib.utils.custom_dataset import CustomDataset
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

class Digits(CustomDataset):
    def get_transforms(self, config):
        return None, None

    def get_data(self, data, train_transform, valid_transform):
        digits = load_digits()
        images = torch.tensor(digits.images * 15, dtype=torch.uint8)[:, None]
        labels = torch.tensor(digits.target)
        return TensorDataset(images[:120], labels[:120]), TensorDataset(images[120:200], labels[120:200])

def teacher():
    torch.manual_seed(0)
    images, labels = zip(*Digits.get_data(None, None, None, None)[0])
    images = torch.stack(images).float()
    mean, std = images.mean(), images.std()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model((images - mean) / std), torch.stack(labels)).backward()
        optimizer.step()
    return model
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    more = {"search.epochs": 3, "search.fidelity": 1, "search.train_portion": 0.85, "kd.teacher": "my_data:teacher"}
    arguments = small("hnag-rs.yaml", tiny_task, tmp_path, **more, dataset="my_data:Digits", search_space="hnag-small")
    assert main(arguments) == 0
    folder = tmp_path / "hnag-small" / "Digits" / "rs" / "0"
    assert len((folder / "trials.jsonl").read_text().splitlines()) == 3
