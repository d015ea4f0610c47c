from __future__ import annotations

import json

import pytest
from scripts import script

TESTS = {
    "family": (0.80, 0.84, 0.85),
    "a": (0.81, 0.86, 0.85),
    "b": (0.90,),
    "family, long": (0.9,),
    "b, long": (0.88,),
}


@pytest.fixture
def device(tmp_path, monkeypatch):
    module = script("benchmarks/device.py")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    costs = {"n_params": 10, "macs": 2 * 10**6, "epochs": 9, "model_s": 2.0, "seconds": 3.0}
    rows = [
        {"limit": 1.0, "seed": seed, "arm": arm, "test_accuracy": test, **costs, "share_of_teacher": [0.5 + seed, 0.7]}
        for arm, tests in TESTS.items()
        for seed, test in enumerate(tests)
    ]
    for row in rows:
        row |= {"search_s": 5.0} if row["arm"] == "family" else {}
    (tmp_path / "device.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return module


def test_arms_are_paired_with_the_family_by_seed(device, capsys):
    family, a, b, family_long, long = device.table()
    assert family["minus_family"] is None
    assert family["test"][0] == 83.0
    assert a["minus_family"][0] == 1.0
    assert a["minus_family"][1] < 0 < a["minus_family"][2]
    assert b["minus_family"] == [10.0, None, None]
    assert a["share_of_teacher"] == [1.5, 0.7]
    assert family_long["minus_family"][0] == 10.0
    assert long["minus_family"][0] == -2.0  # of the family that was trained as long
    assert device.time_of(1.0, 0) == 7.0
    device.show(device.table())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[1:]] == ["b", "family, long", "b, long", "a", "family"]
    assert "| +10.0 | 10 | 2.00 | 0.50, 0.70 | 9 | 2.0 |" in lines[1]
