from __future__ import annotations

from scripts import script

from naslib_autokd.evaluators.kd import KDEvaluator


def test_fine_tuning_wins_back_what_longer_training_does_not(cluttered_data, cluttered_teacher, monkeypatch, capsys):
    module = script("benchmarks/int8.py")
    evaluator = KDEvaluator(cluttered_data.task, data=cluttered_data, teacher=cluttered_teacher.network)
    monkeypatch.setattr(module, "KDEvaluator", lambda task: evaluator)
    module.main(["--families", "12, 15, 19", "--seeds", "1", "--epochs", "1"])
    *_, seed, mean = capsys.readouterr().out.splitlines()
    assert seed.replace("| 0 |", "| mean |") == mean
    whole, calibrated, tuned, longer = (float(cell.split(",")[0]) for cell in mean.split("|")[3:-1])
    assert calibrated < whole - 10
    assert tuned > calibrated + 5
    assert longer < tuned - 5
