"""Finding NASLib, its shims and the doctor: what holds without NASLib, and that every shim is needed or left out."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from naslib_autokd.cli import main
from naslib_autokd.plugin import doctor
from naslib_autokd.plugin.loader import HOME, TESTED_COMMIT, NASLibError, find_naslib, naslib_missing

needs_naslib = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_home_that_is_no_checkout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME, str(tmp_path))
    with pytest.raises(NASLibError, match="is no checkout of NASLib") as error:
        find_naslib()
    assert str(tmp_path) in str(error.value)
    assert "git clone https://github.com/automl/NASLib.git" in str(error.value)
    assert "no checkout" in (naslib_missing() or "")


def test_a_home_goes_before_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tmp_path / "naslib" / "search_spaces" / "core" / "graph.py"
    graph.parent.mkdir(parents=True)
    graph.touch()
    monkeypatch.setenv(HOME, str(tmp_path))
    assert find_naslib() == (tmp_path / "naslib").resolve()


ENTRIES = [
    "import naslib_autokd; naslib_autokd.register()",
    "from naslib_autokd.plugin import HNAGSearchSpace",
    "from naslib_autokd.plugin import KDDatasetAPI, KDTrainer",
    "from naslib_autokd.plugin import AutoKD",
    "from naslib_autokd.search_spaces import get_search_space; get_search_space('nasbench201').graph()",
    "from naslib_autokd.optimizers.base import get_optimizer; get_optimizer('naslib-bananas')",
    "from naslib_autokd.optimizers.base import get_one_shot_method; get_one_shot_method('naslib-darts')",
]


def test_without_naslib_every_entry_says_how_to_get_it() -> None:
    """NASLIB_HOME is unset and the package hidden, whether NASLib is here or not."""
    code = f"""
import os, sys
os.environ.pop("NASLIB_HOME", None)
sys.modules["naslib"] = None
from naslib_autokd.plugin.loader import NASLibError
for entry in {ENTRIES!r}:
    try:
        exec(entry)
    except NASLibError as error:
        assert "NASLib is not installed and NASLIB_HOME is not set" in str(error), entry
        assert "git clone https://github.com/automl/NASLib.git" in str(error), entry
    else:
        raise AssertionError(entry)
from naslib_autokd.plugin.runner import main
raise SystemExit(main(["--config-file", "hnag-rs.yaml"]))
"""
    done = run(code)
    assert done.returncode == 2, done.stderr
    assert "NASLib is not installed and NASLIB_HOME is not set" in done.stderr


@needs_naslib
def test_loading_leaves_the_process_as_it_was() -> None:
    """The command line, the order of sys.path, and no top-level name of NASLib's folders in front."""
    code = """
import sys
sys.argv += ["--config-file", "nowhere.yaml"]
before = list(sys.path)
from naslib_autokd.plugin.loader import load_naslib
info = load_naslib()
assert load_naslib() is info
assert sys.path[:len(before)] == before, sys.path
assert sys.argv[1:] == ["--config-file", "nowhere.yaml"]
import naslib.utils
assert naslib.utils.parse_args().config_file == "nowhere.yaml"
sys.argv[1:] = ["--config-file", "elsewhere.yaml"]
assert naslib.utils.parse_args().config_file == "elsewhere.yaml"
assert naslib.utils.parse_args(args=["--config-file", "given.yaml"]).config_file == "given.yaml"
print(info.commit, *info.shims)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == TESTED_COMMIT


@needs_naslib
@pytest.mark.parametrize(
    "before", ["", "from naslib_autokd.plugin.shims import before_import; before_import(); import naslib.utils"]
)
def test_a_script_of_naslibs_gets_its_command_line(before: str, tmp_path: Path) -> None:
    """Whoever imports NASLib first, us or the script: its file, its pairs and its options count."""
    (tmp_path / "mine.yaml").write_text(
        f"seed: 1\ndataset: cifar10\nsearch_space: nasbench201\noptimizer: re\nout_dir: {tmp_path}\n"
        "search: {epochs: 3, seed: 0}\nevaluation: {epochs: 2}\n"
    )
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
sys.path.append({str(find_naslib().parent)!r})
sys.argv[1:] = ["--config-file", {str(tmp_path / "mine.yaml")!r}, "--resume", "seed", "5", "search.epochs", "42"]
{before}
import naslib_autokd
naslib_autokd.register()
from naslib.utils import get_config_from_args
config = get_config_from_args(config_type="nas")
print(config.seed, config.search.epochs, config.search.seed, config.resume, config.save)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5", "42", "5", "True", f"{tmp_path}/nasbench201/cifar10/re/5"]


@needs_naslib
@pytest.mark.parametrize(
    ("shim", "arrange"),
    [
        ("tensorwatch", "import types; sys.modules['tensorwatch'] = types.ModuleType('tensorwatch')"),
        ("collections.Iterable", "import collections; collections.Iterable = collections.abc.Iterable"),
    ],
)
def test_a_shim_that_is_not_needed_is_left_out(shim: str, arrange: str) -> None:
    code = f"""
import sys, collections.abc
{arrange}
from naslib_autokd.plugin.shims import before_import
print(*before_import())
"""
    without = run(code)
    assert without.returncode == 0, without.stderr
    assert shim not in without.stdout.split()
    assert shim in run(code.replace(arrange, "")).stdout.split()


@needs_naslib
def test_the_parameter_count_is_naslibs() -> None:
    code = """
from naslib_autokd.plugin.loader import load_naslib
load_naslib()
import torch
from naslib import utils
from naslib.optimizers.discrete.re import optimizer
model = torch.nn.Sequential(torch.nn.Linear(10, 5), torch.nn.Linear(5, 2))
model.add_module("auxiliary_head", torch.nn.Linear(5, 5))
assert utils.count_parameters_in_MB(model) == 67 / 1e6
assert optimizer.count_parameters_in_MB is utils.count_parameters_in_MB
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_the_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def version(name: str) -> str:
        if name == "smac":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.delenv(HOME, raising=False)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "it needs smac" in printed
    assert "pip install" in printed
    assert "something that is needed is missing" in printed


def test_the_doctor_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["works"] is True
    findings = {finding["what"]: finding for finding in content["findings"]}
    assert findings["torch"]["state"] == "ok"
    assert findings["data of cluttered-digits"]["detail"] == "embedded"
    assert findings["NASLib"]["state"] == ("ok" if naslib_missing() is None else "optional")
    if naslib_missing() is not None:
        assert "git clone" in findings["NASLib"]["fix"]


def test_the_doctor_knows_the_packages_of_naslib() -> None:
    required = doctor._required("naslib")
    assert {"fvcore", "GraKeL", "xgboost"} <= set(required)
    assert "smac" in doctor._required(None)
    assert not set(required) & set(doctor._required(None))
