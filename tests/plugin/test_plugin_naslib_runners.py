"""NASLib's own runners with one line more: script, configuration and command line are as they were, and so are results.

Each runner is run as NASLib ships it (with the shims that today's packages need, see `plugin.shims`) and with
``naslib_autokd.register()`` as its first line, from one command line that changes the file's values. The benchmark's
file is a made-up one (`fake_nasbench201`); NASLib's source is linked, not copied.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_nasbench201 import Table

import naslib_autokd
from naslib_autokd.plugin.loader import HOME, find_naslib, naslib_missing

pytestmark = [
    pytest.mark.slow,  # each runner imports NASLib twice
    pytest.mark.timeout(1800),
    pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}"),
]

OURS = "import naslib_autokd; naslib_autokd.register()"

SHIMS_ALONE = """
from naslib_autokd.plugin import shims; shims.before_import()
import naslib.utils; naslib.utils.count_parameters_in_MB = shims.count_parameters_in_mb
"""
"""What NASLib needs to run at all, and nothing of the plugin."""

NO_IMAGES = """
import torchvision.datasets
torchvision.datasets.CIFAR10 = lambda *_, transform, **__: torchvision.datasets.FakeData(64, (3, 32, 32), 10, transform)
"""
"""The runner of zero-cost measures makes data loaders, although it asks a table."""

LACKING = {"bbo": "use_zc_api: False", "nas_predictors/oneshot_runner.py": "seed: 7"}
"""Keys that these runners read and their own files lack."""

CHEAP = ["search.predictor_type", "xgb", "search.num_init", "3", "search.k", "2", "search.num_candidates", "6"]
RUNNERS: dict[str, tuple[str, list[str], str]] = {
    "nas": (
        "defaults/darts_defaults.yaml",
        ["optimizer", "re", "search.epochs", "5", *CHEAP],
        "nasbench201/cifar10/re",
    ),
    "bbo": (
        "runners/bbo/discrete_config.yaml",
        ["optimizer", "bananas", "search.epochs", "5", *CHEAP],
        "nasbench201/cifar10/bananas/config_0",
    ),
    "nas_predictors": (
        "runners/nas_predictors/discrete_config.yaml",
        ["optimizer", "npenas", "search.epochs", "5", *CHEAP],
        "cifar10/nas_predictors/nasbench201/xgb",
    ),
    "nas_predictors/oneshot_runner.py": (
        "runners/nas_predictors/nas_predictor_config.yaml",
        ["optimizer", "bananas", "search_space", "nasbench201", "search.epochs", "5", *CHEAP],
        "cifar10/nas_predictors/nasbench201/xgb",
    ),
    "predictors": (
        "runners/predictors/predictor_config.yaml",
        ["predictor", "bayes_lin_reg", "test_size", "5", "train_size_single", "6"],
        "cifar10/predictors/bayes_lin_reg",
    ),
    "statistics": (
        "runners/statistics/statistics_config.yaml",
        ["max_set_size", "20", "run_nbhd_size", "0", "run_autocorr", "0"],
        "nasbench201/cifar10/statistics",
    ),
    "zc": (
        "runners/zc/zc_config.yaml",
        ["predictor", "synflow", "test_size", "4", "train_portion", "0.7"],
        "zc_example/nasbench201/cifar10/synflow",
    ),
}
"""Runner -> (NASLib's configuration, command line, folder below ``out_dir`` that it leads to, without the seed)."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NASLib's source with a benchmark in its ``data``."""
    home = tmp_path_factory.mktemp("checkout")
    package = home / "naslib"
    package.mkdir()
    for path in find_naslib().iterdir():
        if path.name not in ("data", "runners", "__pycache__"):
            (package / path.name).symlink_to(path)
    shutil.copytree(find_naslib() / "runners", package / "runners")
    (package / "data").mkdir()
    with open(package / "data" / "nb201_cifar10_full_training.pickle", "wb") as file:
        pickle.dump(Table(), file)
    scores = {
        str((index % 5, index // 5, 2, 3, 4, 0)): {
            "val_accuracy": 60.0 + index,
            **{name: {"score": float(index**2 % 11)} for name in ("synflow", "jacov", "params", "flops")},
        }
        for index in range(10)
    }
    (package / "data" / "zc_nasbench201.json").write_text(json.dumps({"cifar10": scores}))
    return home


def outcome(checkout: Path, runner: str, first_line: str, out: Path) -> dict[str, Any]:
    """What a runner leaves in its JSON files, without times; its script is NASLib's with a line before it."""
    script = runner if runner.endswith(".py") else f"{runner}/runner.py"
    source = (checkout / "naslib" / "runners" / script).read_text(encoding="utf-8")
    changed = out / "runner.py"
    out.mkdir()
    changed.write_text("\n".join([first_line, *([NO_IMAGES] if runner == "zc" else []), source]), encoding="utf-8")
    config, words, folder = RUNNERS[runner]
    file = out / "config.yaml"
    file.write_text((find_naslib() / config).read_text(encoding="utf-8"), encoding="utf-8")
    if runner in LACKING:
        text = file.read_text(encoding="utf-8").replace("search:\n", f"search:\n  {LACKING[runner]}\n", 1)
        file.write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        str(changed),
        "--config-file",
        str(file),
        "seed",
        "7",
        "out_dir",
        str(out / "run"),
        *words,
    ]
    path = [str(Path(naslib_autokd.__file__).parents[1]), str(Path(__file__).parent), str(checkout)]
    path += filter(None, [os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        command,
        env={**os.environ, HOME: str(checkout), "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    save = out / "run" / folder / "7"
    assert save.is_dir(), [str(found) for found in (out / "run").rglob("*") if found.is_dir()]
    files = {str(found.relative_to(save)): json.loads(found.read_text()) for found in save.rglob("*.json")}
    assert files
    return {name: without_times(content, str(out)) for name, content in files.items()}


def without_times(content: Any, out: str) -> Any:
    if isinstance(content, dict):
        return {key: without_times(value, out) for key, value in content.items() if "time" not in key}
    if isinstance(content, list):
        return [without_times(value, out) for value in content]
    return content.replace(out, "OUT") if isinstance(content, str) else content


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_runner_of_naslibs_with_one_line_more_does_what_it_did(runner: str, checkout: Path, tmp_path: Path) -> None:
    if runner == "bbo":
        pytest.importorskip("tensorboard")
    without = outcome(checkout, runner, SHIMS_ALONE, tmp_path / "without")
    assert outcome(checkout, runner, OURS, tmp_path / "with") == without
