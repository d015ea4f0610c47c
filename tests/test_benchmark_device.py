from __future__ import annotations

import json

import pytest
from scripts import script

TESTS = {
    "hnag-device": (0.80, 0.84, 0.85),
    "hnag-small": (0.83, 0.83, 0.83),
    "a": (0.81, 0.86, 0.85),
    "b": (0.90,),
    "hnag-device, long": (0.9,),
    "b, long": (0.88,),
}
OF_ANOTHER_TASK = {"hnag-small": (0.5, 0.6), "a": (0.7, 0.7)}


@pytest.fixture
def device(tmp_path, monkeypatch):
    module = script("benchmarks/device.py")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    costs = {"n_params": 10, "macs": 2 * 10**6, "epochs": 9, "model_s": 2.0, "seconds": 3.0}
    rows = [
        {"task": task, "limit": 1.0, "seed": seed, "arm": arm, "test_accuracy": test, **costs}
        | {"share_of_teacher": [0.5 + seed, 0.7]}
        for task, arms in (("digits", TESTS), ("photos", OF_ANOTHER_TASK))
        for arm, tests in arms.items()
        for seed, test in enumerate(tests)
    ]
    for row in rows:
        row |= {"search_s": 5.0} if row["arm"] in module.SPACES else {}
    (tmp_path / "device.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return module


def test_arms_are_paired_with_the_family_of_their_task_by_seed(device, capsys):
    family, small, a, b, family_long, long, alone, other = device.table()
    assert family["minus_family"] is None
    assert family["test"][0] == 83.0
    assert small["minus_family"][0] == 0.0
    assert a["minus_family"][0] == 1.0
    assert a["minus_family"][1] < 0 < a["minus_family"][2]
    assert b["minus_family"] == [10.0, None, None]
    assert (a["pairs"], b["pairs"]) == (3, 1)
    assert a["share_of_teacher"] == [1.5, 0.7]
    assert family_long["minus_family"] is None
    assert long["minus_family"][0] == -2.0  # of the family that was trained as long
    assert alone["minus_family"] is None  # hnag-device was not searched there
    assert other["minus_family"][0] == 15.0
    assert device.time_of(("digits", 1.0), 0, "hnag-device") == 7.0
    device.show(device.table())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[1:]][:2] == ["b", "hnag-device, long"]
    assert "| +10.0 | 1 | 10 | 2.00 | 0.50, 0.70 | 9 | 2.0 |" in lines[1]
