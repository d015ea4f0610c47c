from __future__ import annotations

import builtins
import subprocess
import sys

import pytest

from naslib_autokd.data import vision


def test_torchvision_datasets_are_usable_whatever_its_build():
    assert vision.import_torchvision().datasets.CIFAR10 is not None


def test_missing_torchvision_says_so(monkeypatch):
    real = builtins.__import__

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(vision.importlib, "import_module", missing)
    with pytest.raises(ImportError, match="torchvision, which reads CIFAR and has networks, is not installed"):
        vision.import_torchvision()
    assert builtins.__import__ is real


def test_nothing_else_imports_torchvision():
    code = (
        "import sys, naslib_autokd.evaluators.kd as kd; from naslib_autokd.data.load import load_data;"
        "load_data('digits'); sys.exit('torchvision' in sys.modules or 'torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
