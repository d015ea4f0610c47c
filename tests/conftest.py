"""Shared by all tests: a cache folder of their own, and the embedded task with its teacher, trained once."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: there is a test process for each core

gc.disable()  # until all tests are collected: a third of that time goes into looking through what stays anyway


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped, one line for each reason."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    for reason, n in reasons.items():
        terminalreporter.write_line(f"{n} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The user's cache is neither read nor written; the test processes of a run and their children share this one."""
    before = os.environ.get("NASLIB_AUTOKD_CACHE")
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    folder = str(cache)
    os.environ["NASLIB_AUTOKD_CACHE"] = folder
    yield folder
    if before is None:
        del os.environ["NASLIB_AUTOKD_CACHE"]
    else:
        os.environ["NASLIB_AUTOKD_CACHE"] = before


@pytest.fixture(autouse=True)
def no_terminal_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """readline, which pytest imports, exports the size of a terminal that is not there."""
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module", autouse=True)
def naslib_is_loaded(request: pytest.FixtureRequest) -> None:
    """Tests against NASLib may import it at once, whichever of them runs first."""
    from naslib_autokd.plugin.loader import load_naslib, naslib_missing

    if request.module.__name__.startswith(("test_naslib_", "test_plugin_")) and naslib_missing() is None:
        load_naslib()


@pytest.fixture(scope="session")
def cluttered_data(cache_folder):
    """The images of the task ``cluttered-digits``."""
    from naslib_autokd.data.load import load_data

    return load_data("cluttered-digits")


@pytest.fixture(scope="session")
def cluttered_teacher(cluttered_data):
    """Its teacher, trained once (8 s) and then cached for child processes too."""
    from naslib_autokd.teachers.load import load_teacher

    return load_teacher(cluttered_data)


@pytest.fixture(scope="session")
def tiny_data(cluttered_data):
    """64 training and 200 validation canvases: trainings take a moment."""
    from naslib_autokd.data.load import load_data

    return load_data(cluttered_task(n_train=64, n_teacher=64, n_val=200, n_test=200))


def cluttered_task(**overrides):
    from naslib_autokd.tasks import get_task

    return get_task("cluttered-digits", **overrides)


def small_cnn(channels=(16, 32, 64), in_channels=1, n_classes=10):
    """A plain CNN with as many parameters as the students of ``cluttered-digits`` (24k)."""
    from torch import nn

    layers: list[nn.Module] = []
    for index, width in enumerate(channels):
        if index:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        in_channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, n_classes))


@pytest.fixture(scope="session")
def make_cnn():
    return small_cnn


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whether the kernels of students ran: one entry for each pass."""
    from naslib_autokd.search_spaces.hnag import execution

    calls: list[str] = []
    for name in ("forward", "backward"):
        original = getattr(execution.Pass, name)

        def counted(self, *args, name=name, original=original, **kwargs):
            calls.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(execution.Pass, name, counted)
    return calls


SMALL_TASK = """\
dataset: cluttered-digits
n_train: 160
n_val: 300
n_test: 300
min_budget_epochs: 1
max_budget_epochs: 2
"""


@pytest.fixture
def small_task(tmp_path: Path) -> str:
    """File of a task whose trainings take moments; its teacher is that of ``cluttered_teacher``."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_TASK)
    return str(path)
