"""Any family that a search has tried is trained, exported and judged as the kept one is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from naslib_autokd.cli import main
from naslib_autokd.distillation.runtime import Runtime
from naslib_autokd.records import Proposal, Trial, TrialStore
from naslib_autokd.runners.run_folder import TRIALS
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.shipping import members
from naslib_autokd.shipping.members import find_family, train_member
from naslib_autokd.shipping.student_file import ExportError


@pytest.fixture
def tried(tmp_path):
    """A run folder with trials of three families."""
    rng, space = np.random.default_rng(0), HNAGSpace("hnag-small")
    families = [space.default_candidate(), space.sample(rng), space.sample(rng)]
    with TrialStore(tmp_path / TRIALS) as store:
        for number, family in enumerate([*families, families[0]]):
            trial = Trial.of(Proposal(family, 1, number, number), n_params=1000 + number, cost=0.1 * (number + 1))
            store.append(trial)
    return tmp_path, families


def test_the_first_digits_are_enough(tried):
    folder, families = tried
    for family in families:
        assert find_family(folder, family.digest) == find_family(folder, family.digest[:6]) == family


def test_what_is_no_family_of_the_run_is_refused_with_some_that_are(tried, tmp_path):
    folder, families = tried
    with pytest.raises(ExportError, match=rf"no family begins so; the best are {families[1].digest}, .*trials.jsonl"):
        find_family(folder, "ffffff")
    with pytest.raises(ExportError, match="give at least 4 digits"):
        find_family(folder, families[0].digest[:3])
    with pytest.raises(ExportError, match="is no run folder of a search"):
        train_member(tmp_path / "nowhere", families[0].digest)


def test_the_error_names_three_of_many_families_and_where_the_others_stand(tmp_path):
    space, rng = HNAGSpace("hnag-small"), np.random.default_rng(0)
    families = [space.sample(rng) for _ in range(9)]
    with TrialStore(tmp_path / TRIALS) as store:
        for number, family in enumerate(families):
            store.append(Trial.of(Proposal(family, 1, number, number), cost=0.9 - 0.1 * number))
    with pytest.raises(ExportError) as refused:
        find_family(tmp_path, "zzzz")
    said = str(refused.value)
    assert [family.digest for family in families if family.digest in said] == [one.digest for one in families[6:]]
    assert "and 6 more" in said
    assert f"in {tmp_path / TRIALS}" in said


def test_options_of_a_training_without_one_are_refused(tried, capsys):
    for words in (["--finals", "2"], ["--device", "cpu"], ["--threads", "2"]):
        assert main(["export", str(tried[0]), *words]) == 2
        assert "are of the training of a --family" in capsys.readouterr().err


TASK = """\
dataset: cluttered-digits
name: small
image_size: 12
in_channels: 1
n_classes: 10
n_train: 64
n_teacher: 600
n_val: 100
n_test: 100
max_params: 24000
preset: hnag-small
n_views: 1
batch_size: 32
min_budget_epochs: 1
max_budget_epochs: 2
teacher_epochs: 6
min_teacher_accuracy: 0.0
"""


def test_another_family_is_trained_by_the_runs_settings_exported_and_judged(tmp_path, capsys, monkeypatch):
    (tmp_path / "small.yaml").write_text(TASK)
    run = tmp_path / "run"
    search = ["search", "--task", str(tmp_path / "small.yaml"), "--max-params", "9000", "--objective", "kd"]
    search += ["--max-latency-ms", "1000", "--latency-batch", "3"]
    assert main([*search, "--trials", "2", "--finals", "2", "--out", str(run)]) == 0
    result = json.loads((run / "result.json").read_text())
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    other = next(trial for trial in trials if trial["candidate_digest"] != result["candidate_digest"])
    runtimes, make = [], members.KDEvaluator
    monkeypatch.setattr(
        members, "KDEvaluator", lambda *args, **more: runtimes.append(more["runtime"]) or make(*args, **more)
    )
    assert main(["export", str(run), "--family", other["candidate_digest"][:6]]) == 0
    member = run / "families" / other["candidate_digest"]
    (final,) = [json.loads(line) for line in (member / "finals.jsonl").read_text().splitlines()]
    assert final["name"] == f"small/{other['candidate_digest']}"
    assert final["temperature"] == other["candidate"]["kd"]["temperature"]
    assert final["n_params"] <= 9000  # the search's limit
    assert runtimes == [Runtime(batch=3)]  # its latencies are measured where the search's were
    capsys.readouterr()
    for file in (member, member / "export" / "student.onnx"):
        assert main(["test", str(file), "--json"]) == 0
        verdict = json.loads(capsys.readouterr().out)
        assert verdict["own_test_split"]
        assert verdict["accuracy"] == verdict["stated_accuracy"] == final["test_accuracy"]
    card = (member / "export" / "model_card.md").read_text()
    assert f"{100 * final['test_accuracy']:.1f} %" in card
    assert f'"temperature": {final["temperature"]}' in card  # of this family, not of the kept one
    assert "students of the same family" not in card
    # the kept family is there already
    assert main(["export", str(run), "--family", result["candidate_digest"]]) == 0
    assert "students of the same family" in (run / "export" / "model_card.md").read_text()
    assert [path.name for path in (run / "families").iterdir()] == [other["candidate_digest"]]
