from __future__ import annotations

import pytest
from scripts import script

from naslib_autokd.reports.tables import write_csv

ACCURACIES = {
    "one": {
        "autokd": {0: (0.70, 0.72), 1: (0.74,)},
        "random search": {0: (0.70,), 1: (0.72,)},
        "resnet8": {0: (0.69,)},
    },
    "two": {"autokd": {0: (0.80,)}, "random search": {0: (0.79, 0.77)}, "resnet8": {0: (0.77, 0.79)}},
}


@pytest.fixture
def cifar10(tmp_path):
    module = script("benchmarks/cifar10.py")
    for block, methods in ACCURACIES.items():
        rows = [
            [name, "kd", seed, index, accuracy, 0.5, 50_000, 12_000_000]
            for name, seeds in methods.items()
            for seed, accuracies in seeds.items()
            for index, accuracy in enumerate(accuracies)
        ]
        (tmp_path / block).mkdir()
        write_csv(tmp_path / block / "trainings.csv", module.COLUMNS, rows)
    return module


def test_methods_are_paired_by_teacher_and_search(cifar10, tmp_path):
    lines = cifar10.table(sorted(tmp_path.glob("*/trainings.csv"))).splitlines()
    cells = {cell[0]: cell[2:] for line in lines[2:5] if (cell := [part.strip() for part in line.split("|")[1:-1]])}
    assert cells["autokd"] == ["72.5", "80.0", "", "3", "4", "50k", "12.0"]
    # .71 - .70, .74 - .72, .80 - .78: mean 1 2/3, standard error 1/3, t(2) 4.303
    assert cells["random search"] == ["71.0", "78.0", "+1.7 [+0.2, +3.1]", "3", "4", "50k", "12.0"]
    # .71 - .69, .74 - .69, .80 - .78
    assert cells["resnet8"][:4] == ["69.0", "78.0", "+3.0 [-1.3, +7.3]", "3"]
