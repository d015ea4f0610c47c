"""`register` and `unregister`: NASLib knows our names, and is as before for all others, and afterwards."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_cases import JudgedTable, config, random_states

import naslib_autokd
from naslib_autokd.plugin.loader import find_naslib, naslib_missing
from naslib_autokd.tasks import TaskError, get_task

needs_naslib = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")


@pytest.fixture
def naslib() -> Any:
    """NASLib with the plugin registered."""
    import importlib

    naslib_autokd.register()
    yield importlib.import_module("naslib")
    naslib_autokd.unregister()


def surface() -> dict[str, Any]:
    """Everything of NASLib that registration may touch, by identity or content."""
    from naslib import optimizers, search_spaces
    from naslib.defaults.trainer import Trainer

    names = ("get_search_space", "get_dataset_api", "get_train_val_loaders")
    functions = {
        f"{module}.{name}": id(vars(sys.modules[module])[name])
        for module in sorted(sys.modules)
        if module.split(".")[0] == "naslib"
        for name in names
        if name in vars(sys.modules[module])
    }
    tables = {
        name: dict(vars(search_spaces)[name])
        for name in ("supported_search_spaces", "dataset_n_classes", "dataset_to_channels")
    }
    attributes = {module.__name__: sorted(vars(module)) for module in (optimizers, search_spaces)}
    methods = {
        "evaluate": Trainer.evaluate,
        "train_statistics": optimizers.BasePredictor.train_statistics,
        "_get_best_candidates": optimizers.Npenas._get_best_candidates,
    }
    return functions | tables | attributes | methods


@needs_naslib
def test_naslib_knows_our_names(naslib):
    from naslib.optimizers import AutoKD
    from naslib.search_spaces import HNAGSearchSpace, dataset_n_classes, get_search_space, supported_search_spaces
    from naslib.utils import get_dataset_api

    from naslib_autokd import plugin

    assert AutoKD is plugin.AutoKD
    assert HNAGSearchSpace is plugin.HNAGSearchSpace is supported_search_spaces["hnag"]
    assert dataset_n_classes["cluttered-digits"] == 10
    space = get_search_space("hnag", "cluttered-digits")
    assert (space.space.name, space.mode, space.task.name) == ("hnag-small", "family", "cluttered-digits")
    wide = get_search_space("HNAG-wide-individual", "digits")
    assert (wide.space.name, wide.mode, wide.task.name) == ("hnag-wide", "individual", "digits")
    api = get_dataset_api("hnag", "digits")
    assert isinstance(api, plugin.KDDatasetAPI)
    assert api.task == get_task("digits")


@needs_naslib
def test_names_that_were_taken_before_registration_reach_ours_too(naslib):
    from naslib.search_spaces.nasbench101 import graph
    from naslib.utils.get_dataset_api import get_dataset_api

    from naslib_autokd.plugin import KDDatasetAPI

    assert isinstance(graph.get_dataset_api("hnag", "digits"), KDDatasetAPI)
    assert isinstance(get_dataset_api("hnag", "digits"), KDDatasetAPI)


@needs_naslib
def test_other_names_are_naslibs_own(naslib, tmp_path):
    from naslib.search_spaces import NasBench201SearchSpace, get_search_space
    from naslib.utils import get_dataset_api, get_train_val_loaders

    assert type(get_search_space("nasbench201", "cifar10")) is NasBench201SearchSpace
    assert get_dataset_api("test") is None
    assert get_dataset_api(search_space="test", dataset="cifar10") is None
    with pytest.raises(NotImplementedError):
        get_dataset_api("nonsense")
    with pytest.raises(KeyError, match="nonsense"):
        get_search_space("nonsense", "cifar10")
    settings = config(tmp_path, dataset="nonsense", batch_size=4, train_portion=0.5)
    settings.data = str(tmp_path)
    with pytest.raises(ValueError, match="Unknown dataset: nonsense"):
        get_train_val_loaders(settings)


@needs_naslib
def test_unknown_names_of_ours_say_the_nearest(naslib):
    from naslib.search_spaces import get_search_space
    from naslib.utils import get_dataset_api

    with pytest.raises(ValueError, match="unknown search space 'hnag-smal'; did you mean 'hnag-small'"):
        get_search_space("hnag-smal", "digits")
    with pytest.raises(ValueError, match="did you mean 'hnag-wide'"):
        get_dataset_api("hnag-wid", "digits")
    with pytest.raises(TaskError, match="unknown task 'digit'; did you mean 'digits'"):
        get_dataset_api("hnag", "digit")
    with pytest.raises(TaskError, match="dataset must be the name of a task"):
        get_search_space("hnag", None)


@needs_naslib
def test_registering_twice_is_registering_once_and_all_is_taken_back():
    from naslib_autokd.plugin import load_naslib

    load_naslib()
    before = surface()
    naslib_autokd.register()
    once = surface()
    naslib_autokd.register()
    assert surface() == once != before
    from naslib.search_spaces import get_search_space

    naslib_autokd.unregister()
    assert surface() == before
    naslib_autokd.unregister()
    assert surface() == before
    with pytest.raises(KeyError, match="hnag"):
        get_search_space("hnag", "digits")  # taken while it was ours, and NASLib's own again


@needs_naslib
def test_a_failed_registration_leaves_nothing_behind(monkeypatch):
    from naslib_autokd.plugin import load_naslib, registration

    load_naslib()
    before = surface()

    def fail() -> None:
        raise RuntimeError("as told")

    monkeypatch.setattr(registration, "_open_test_split_in_evaluate", fail)
    with pytest.raises(RuntimeError, match="as told"):
        naslib_autokd.register()
    assert surface() == before


@needs_naslib
def test_loaders_of_our_tasks(naslib, tmp_path, monkeypatch, tiny_data):
    from naslib.utils import get_train_val_loaders

    from naslib_autokd.plugin import loaders

    data = replace(tiny_data, test_reads=0)
    monkeypatch.setattr(loaders, "task_data", lambda task: data)
    settings = config(tmp_path, batch_size=10)
    before = random_states()
    train, valid, test, train_transform, valid_transform = get_train_val_loaders(settings, mode="train")
    seen = [label.tolist() for _, label in train]
    assert len(train) == len(seen) == 6  # of 64 images, the last partial batch is dropped
    assert sum(len(labels) for _, labels in valid) == 200
    images, labels = next(iter(train))
    assert tuple(images.shape) == (10, 1, 12, 12)
    assert images.dtype.is_floating_point
    assert labels.dtype.is_floating_point is False
    assert abs(float(images.mean())) < 0.3
    assert train_transform(data.val_images[:2]).equal(valid_transform(data.val_images[:2]))
    assert [label.tolist() for _, label in train] != seen  # another order in every pass
    again = get_train_val_loaders(settings, mode="train")[0]
    assert [label.tolist() for _, label in again] == seen  # the same for the same seed
    assert data.test_reads == 0
    assert sum(len(labels) for _, labels in test) == 200
    assert data.test_reads == 1
    assert random_states() == before  # NASLib's own reset numpy's seed
    settings.evaluation.batch_size = 50
    assert len(get_train_val_loaders(settings, mode="val")[1]) == 4


@needs_naslib
def test_naslibs_trainer_opens_the_test_split_in_evaluate_only(naslib, tmp_path):
    from naslib.defaults.trainer import Trainer
    from naslib.optimizers import RandomSearch
    from naslib.search_spaces import get_search_space

    from naslib_autokd.plugin import KDDatasetAPI
    from naslib_autokd.plugin.evaluation import Metric

    (tmp_path / "search").mkdir()
    settings = config(tmp_path, epochs=2)
    api = KDDatasetAPI(JudgedTable())
    optimizer = RandomSearch(settings)
    optimizer.adapt_search_space(get_search_space("hnag", "cluttered-digits"), dataset_api=api)
    trainer = Trainer(optimizer, settings)
    trainer.search()
    assert trainer.search_trajectory.test_acc == [-1.0, -1.0]
    assert trainer.evaluate(dataset_api=api) == 50.0
    assert trainer.evaluate(dataset_api=api, metric=Metric.VAL_ACCURACY) == trainer.search_trajectory.valid_acc[-1]
    naslib_autokd.unregister()
    assert trainer.evaluate(dataset_api=api) == -1.0


@needs_naslib
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("BasePredictor", {"epochs": 20}),
        ("BasePredictor", {"epochs": 5}),
        ("Bananas", {"epochs": 5, "zc": True, "zc_names": ["jacov"]}),
        ("Npenas", {"epochs": 5, "zc_ensemble": True, "zc_names": ["jacov"]}),
    ],
)
@pytest.mark.parametrize("space", ["hnag", "hnag-individual"])
def test_naslibs_optimizers_run_on_hnag_in_naslibs_trainer(naslib, tmp_path, name, options, space):
    """After `register` alone: BasePredictor's statistics, zero-cost scores of students that nobody has parsed."""
    from naslib import optimizers
    from naslib.defaults.trainer import Trainer
    from naslib.search_spaces import get_search_space

    from naslib_autokd.plugin import KDDatasetAPI

    gc.freeze()  # NASLib's measures collect garbage every time, half a second each
    common = {"predictor_type": "xgb", "num_ensemble": 2, "encoding_type": "path", "debug_predictor": False, "k": 1}
    common |= {"acq_fn_type": "its", "acq_fn_optimization": "mutation", "num_candidates": 2, "num_init": 3}
    common |= {"num_arches_to_mutate": 2, "max_mutations": 1, "batch_size": 8}
    settings = config(tmp_path, **(common | options))
    for folder in ("search", "eval"):
        (tmp_path / folder).mkdir()
    api = KDDatasetAPI(JudgedTable())
    optimizer = getattr(optimizers, name)(settings)
    optimizer.adapt_search_space(get_search_space(space, "cluttered-digits"), dataset_api=api)
    trainer = Trainer(optimizer, settings, lightweight_output=True)
    trainer.search()
    gc.unfreeze()
    assert api.n_trained == options["epochs"]
    assert trainer.evaluate(dataset_api=api) == 50.0
    assert trainer.search_trajectory.train_time == [3.0] * options["epochs"]
    if "zc_names" in options:
        scores = [model.zc_scores["jacov"] for model in optimizer.train_data]
        # families that differ in their distillation alone have the same student
        assert len(set(scores)) == len({repr(model.arch.student_spec()) for model in optimizer.train_data})
        assert -1e8 not in scores


OWN_TESTS = ("nb201_search_space", "nb101_search_space", "optimizer_factory", "simple_cell_search_space", "utils")
RUN = """
import sys
import naslib_autokd
from naslib_autokd.plugin import load_naslib
load_naslib()
if sys.argv[1] == "with":
    naslib_autokd.register()
import pytest
sys.argv = sys.argv[:1]
files = [f"test_{name}.py" for name in %r]
pytest.main(["-q", "-rA", "--tb=no", "-p", "no:cacheprovider", *files])
"""


def own_test_results(mode: str) -> dict[str, str]:
    folder = find_naslib().parent / "tests"
    done = subprocess.run(
        [sys.executable, "-c", RUN % (OWN_TESTS,), mode],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    found = re.findall(r"^(PASSED|FAILED|ERROR) (\S+::\S+)", done.stdout, flags=re.MULTILINE)
    return {name: result for result, name in found}


@pytest.mark.slow  # 40 s each way: NASLib's tests of its spaces, optimizers and utilities
@pytest.mark.timeout(600)
@needs_naslib
def test_naslibs_own_tests_pass_and_fail_as_without_the_plugin():
    if not (find_naslib().parent / "tests" / "test_utils.py").is_file():
        pytest.skip("this NASLib comes without its tests")
    without, with_plugin = own_test_results("without"), own_test_results("with")
    for name in OWN_TESTS:
        results = [result for test, result in with_plugin.items() if f"test_{name}.py" in test]
        print(f"{name}: {results.count('PASSED')} passed, {len(results) - results.count('PASSED')} failed")
    assert with_plugin == without
    assert list(without.values()).count("PASSED") >= 30


def test_without_naslib_there_is_one_clear_error(tmp_path: Path):
    code = """
import naslib_autokd
try:
    naslib_autokd.register()
except ImportError as error:
    print(type(error).__name__, error)
naslib_autokd.unregister()
"""
    env = {key: value for key, value in os.environ.items() if key != "NASLIB_HOME"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    if not done.stdout and done.returncode == 0:
        pytest.skip("a NASLib is installed")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("NASLibError NASLib is not installed and NASLIB_HOME is not set")
    assert "git clone https://github.com/automl/NASLib.git" in done.stdout


def test_the_names_are_loaded_lazily():
    code = "import sys, naslib_autokd, naslib_autokd.plugin; print('torch' in sys.modules, 'naslib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert {"register", "unregister"} <= set(naslib_autokd.__all__)
    from naslib_autokd import plugin

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        plugin.nothing  # noqa: B018


@needs_naslib
def test_every_public_name_of_the_plugin_loads():
    from naslib_autokd import plugin

    for name in plugin.__all__:
        assert getattr(plugin, name) is not None
