from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from scripts import script
from torch.nn import functional as F

from naslib_autokd import cli
from naslib_autokd.commands.compare_kd import conclusions, published_gain, published_table, report, results_table
from naslib_autokd.distillation import feature_losses
from naslib_autokd.distillation.baselines import (
    DKD_WARM_UP,
    TERMS,
    TITLES,
    BaselineObjective,
    LossSettings,
    TeacherFeatures,
    published_results,
)
from naslib_autokd.evaluators.kd import FinalResult, KDEvaluator
from naslib_autokd.runners import baselines
from naslib_autokd.runners.baselines import FAMILY, BaselineComparison, Training, compare, make_rows, read_family
from naslib_autokd.runners.engine import InProcessEngine
from naslib_autokd.search_spaces import get_search_space
from naslib_autokd.search_spaces.hnag import KDSettings
from naslib_autokd.tasks import get_task
from naslib_autokd.teachers.names import TeacherError
from naslib_autokd.teachers.zoo import ZOO, build, features

STUDENT = "resnet8x0.5"


@pytest.fixture(scope="module")
def task(cluttered_teacher):
    """The embedded task with few images; its teacher is trained already."""
    return get_task("cluttered-digits", n_train=64, n_val=100, n_test=100, min_budget_epochs=1, max_budget_epochs=1)


@pytest.fixture(scope="module")
def evaluator(task):
    return baselines.BaselineEvaluator(task)


def trained(evaluator, settings, name=STUDENT, seed=3):
    model, result = evaluator.train_final(lambda: build(name, 1, 10), settings, seed)
    return model.state_dict(), result


def same_weights(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# --- the loss of a training -----------------------------------------------------------------------------------------


def test_plain_kd_is_the_evaluators_own_training(evaluator, task):
    ours, result = trained(evaluator, LossSettings("kd", temperature=3.0, kd_weight=0.7))
    theirs, expected = trained(KDEvaluator(task), KDSettings(temperature=3.0, kd_weight=0.7))
    assert same_weights(ours, theirs)
    assert result.val_accuracy == expected.val_accuracy
    assert (result.temperature, result.kd_weight) == (3.0, 0.7)


def test_a_loss_of_ones_own_stands_in_its_place(evaluator):
    own = LossSettings.parse("naslib_autokd.distillation.losses:distillation_loss", temperature=3.0, kd_weight=0.7)
    assert own.key == "naslib_autokd.distillation.losses:distillation_loss"
    assert own.used_weight is None
    ours, _ = trained(evaluator, own)
    assert same_weights(ours, trained(evaluator, LossSettings("kd", temperature=3.0, kd_weight=0.7))[0])
    with pytest.raises(ValueError, match="has no term to weigh"):
        LossSettings.parse(f"{own.key}=2")
    with pytest.raises(ValueError, match="cannot be imported"):
        LossSettings.parse("nowhere:loss")


@pytest.mark.parametrize("loss", TERMS)
def test_a_term_of_weight_0_changes_nothing(evaluator, loss):
    """So the losses are paired: same initial weights, same batches, no draw from the global random state."""
    plain, _ = trained(evaluator, LossSettings("kd"))
    weighted, _ = trained(evaluator, LossSettings(loss, weight=0.0))
    assert same_weights(plain, weighted)
    assert not same_weights(plain, trained(evaluator, LossSettings(loss))[0])


def make_objective(evaluator, settings, model, **kwargs):
    return BaselineObjective(
        settings, model, evaluator.data, evaluator.teacher, evaluator.soft_targets.train, epochs=1, seed=0, **kwargs
    )


def one_batch(evaluator, n=8):
    data, index = evaluator.data, torch.arange(n)
    view = index % data.train_views.shape[0]
    return data.normalise(data.train_views[view, index]), data.train_labels[index], view, index


def test_the_loss_is_hintons_and_the_weighted_term(evaluator):
    torch.manual_seed(0)
    model = build(STUDENT, 1, 10).eval()
    images, labels, view, index = one_batch(evaluator)
    plain = make_objective(evaluator, LossSettings("kd"), model)(model, images, labels, view, index, 0.5)[1]
    taught = features(evaluator.teacher, evaluator.data.train_views[view, index])
    student = features(model, images)
    for name, term in {
        "at": feature_losses.attention_loss(student.maps, taught.maps),
        "sp": feature_losses.similarity_loss(student.maps[-1], taught.maps[-1]),
        "pkt": feature_losses.probabilistic_loss(student.pooled, taught.pooled),
        "nst": feature_losses.selectivity_loss(student.maps, taught.maps),
    }.items():
        objective = make_objective(evaluator, LossSettings(name), model)
        logits, loss = objective(model, images, labels, view, index, 0.5)
        torch.testing.assert_close(loss, plain + feature_losses.WEIGHTS[name] * term)
        assert torch.equal(logits, student.logits)
        assert list(objective.parameters()) == []
    for name in ("fitnet", "vid", "ft", "crd"):
        assert len(list(make_objective(evaluator, LossSettings(name), model).parameters())) > 0


def test_dkd_takes_hintons_place_and_is_faded_in(evaluator):
    torch.manual_seed(0)
    model = build(STUDENT, 1, 10).eval()
    images, labels, view, index = one_batch(evaluator)
    objective = make_objective(evaluator, LossSettings("dkd"), model)
    logits, first = objective(model, images, labels, view, index, 0.0)
    torch.testing.assert_close(first, F.cross_entropy(logits, labels))
    term = feature_losses.decoupled_loss(logits, evaluator.soft_targets.train[view, index], labels)
    half = objective(model, images, labels, view, index, DKD_WARM_UP / 2)[1]
    late = objective(model, images, labels, view, index, 0.9)[1]
    torch.testing.assert_close(half, first + 0.5 * term)
    torch.testing.assert_close(late, first + term)
    labels_only = make_objective(evaluator, LossSettings("ce"), model)(model, images, labels, view, index, 0.0)[1]
    torch.testing.assert_close(labels_only, first)


def test_teachers_features_are_the_same_from_memory_and_live(evaluator):
    kept = TeacherFeatures(evaluator.teacher, evaluator.data, [1, 2])
    live = TeacherFeatures(evaluator.teacher, evaluator.data, [1, 2], max_bytes=0)
    assert kept.in_memory
    assert not live.in_memory
    n_values = 32 * 6 * 6 + 32 * 3 * 3 + 32 + 10
    assert kept.n_bytes == 4 * 2 * 64 * n_values  # two views of 64 images, float32
    view, index = torch.tensor([1, 0, 1]), torch.tensor([5, 63, 5])
    a, b = kept(view, index), live(view, index)
    assert [tuple(x.shape) for x in a.maps] == [(3, 32, 6, 6), (3, 32, 3, 3)]
    for x, y in zip((*a.maps, a.pooled, a.logits), (*b.maps, b.pooled, b.logits), strict=True):
        torch.testing.assert_close(x, y)
    assert torch.equal(a.maps[0][0], a.maps[0][2])


@pytest.mark.slow
def test_attention_transfer_brings_the_maps_closer(task):
    task = get_task(task, n_train=128, max_budget_epochs=6)
    evaluator = baselines.BaselineEvaluator(task)
    distance = {}
    for settings in (LossSettings("kd"), LossSettings("at", weight=100.0)):
        model, _ = evaluator.train_final(lambda: build("resnet8", 1, 10), settings, 0)
        images = evaluator.data.val_images
        with torch.no_grad():
            maps = features(model.eval(), evaluator.data.normalise(images)).maps
            distance[settings.loss] = feature_losses.attention_loss(maps, features(evaluator.teacher, images).maps)
    assert distance["at"] < 0.7 * distance["kd"]


@pytest.mark.parametrize("name", ["vgg8", "mobilenet_v2", "shufflenet_v2"])
def test_students_with_other_stages_than_the_teachers(evaluator, name):
    """More maps, other resolutions (down to 1x1): pairs are counted from the last stage."""
    for loss in ("fitnet", "vid", "nst"):
        torch.manual_seed(0)
        model = build(name, 1, 10)
        objective = make_objective(evaluator, LossSettings(loss), model)
        _, value = objective(model, *one_batch(evaluator), 0.0)
        value.backward()
        assert math.isfinite(value.detach())


def test_loss_settings():
    assert LossSettings.parse("at=500").used_weight == 500
    assert LossSettings.parse(" AT ").key == "at"
    assert LossSettings.parse("at").used_weight == feature_losses.WEIGHTS["at"]
    assert LossSettings.parse("kd").used_weight is None
    for text, message in (
        ("fitnets", "did you mean 'fitnet'"),
        ("at=x", "NAME=WEIGHT"),
        ("at=-1", "at least 0"),
        ("kd=2", "set kd_weight instead"),
    ):
        with pytest.raises(ValueError, match=message):
            LossSettings.parse(text)
    with pytest.raises(ValueError, match="temperature"):
        LossSettings("kd", temperature=0)
    assert set(TITLES) == {"ce", "kd", "dkd", *TERMS}
    assert set(feature_losses.WEIGHTS) == {"dkd", *TERMS}


# --- the comparison -------------------------------------------------------------------------------------------------


def count_trainings(monkeypatch) -> list[tuple[str, int]]:
    ran, real = [], baselines.train_one

    def count(evaluator, job):
        ran.append((job["student"], job["seed"]))
        return real(evaluator, job)

    monkeypatch.setattr(baselines, "train_one", count)
    return ran


def test_comparison_goes_on_where_it_stopped(task, tmp_path, monkeypatch):
    ran = count_trainings(monkeypatch)
    said: list[str] = []
    first = compare(task, [STUDENT], ["kd", "sp"], seeds=[0], out=tmp_path, workers=1, watch=said.append)
    assert len(ran) == 2
    assert said[1] == f"{STUDENT}, kd, seed 0: epoch 1 of {task.max_budget_epochs}"
    assert said[-1].startswith(f"{STUDENT}, sp, seed 0: {task.max_budget_epochs} of {task.max_budget_epochs} epochs, ")
    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == ["kd", "sp"]
    path.write_text(lines[0] + "\n" + lines[1][:40])  # killed while it wrote
    again = compare(task, [STUDENT], ["kd", "sp"], seeds=[0], out=tmp_path, workers=1)
    assert ran[2:] == [(STUDENT, 0)]
    assert [t.test_accuracy for t in again.trainings] == [t.test_accuracy for t in first.trainings]
    longer = compare(task, [STUDENT], ["kd"], seeds=[0, 1], out=tmp_path, workers=1)
    assert ran[3:] == [(STUDENT, 1)]
    assert [row.loss for row in longer.rows] == ["kd"]
    with pytest.raises(ValueError, match="belongs to another run"):
        compare(task, [STUDENT], ["kd"], seeds=[0], out=tmp_path, workers=1, temperature=2.0)


def test_the_folder_of_a_refused_teacher_is_free_for_the_right_one(task, tmp_path, monkeypatch):
    count_trainings(monkeypatch)
    with pytest.raises(TeacherError):
        compare(task, [STUDENT], ["kd"], seeds=[0], out=tmp_path, workers=1, teacher="gone.safetensors")
    assert compare(task, [STUDENT], ["kd"], seeds=[0], out=tmp_path, workers=1).trainings


@pytest.mark.slow
def test_workers_and_a_family_give_the_same_results(task, tmp_path):
    family = get_search_space("hnag-small").default_candidate()
    results = [
        compare(task, [STUDENT], ["kd"], seeds=[0], out=tmp_path / str(workers), workers=workers, family=family)
        for workers in (1, 2)
    ]
    for one, two in zip(results[0].trainings, results[1].trainings, strict=True):
        assert (one.student, one.loss, one.seed) == (two.student, two.loss, two.seed)
        assert replace(one.result, seconds=0.0) == replace(two.result, seconds=0.0)
    row = results[0].row(FAMILY, "kd")
    assert row is not None
    assert row.n_params <= task.max_params
    assert results[0].trainings[0].result.temperature == family.kd.temperature


@pytest.mark.slow
def test_a_searched_family_learns_with_feature_losses_too(task, tmp_path):
    default = get_search_space("hnag-small").default_candidate()
    family = replace(default, kd=KDSettings(temperature=2.0, kd_weight=0.5))
    losses = ["at=0", "fitnet", "at", "vid", "ft"]
    found = compare(task, [], [], seeds=[0], out=tmp_path, workers=1, family=family, family_losses=[*losses, "kd"])
    assert not found.failures
    assert [row.loss for row in found.rows] == ["kd", *losses]
    plain, nothing, *others = (training.result for training in found.trainings)
    # a term of weight 0 is plain KD with the settings that belong to the family, up to rounding (the maps are kept)
    assert nothing.curve == pytest.approx(plain.curve, rel=1e-4)
    assert (nothing.temperature, nothing.kd_weight) == (plain.temperature, plain.kd_weight) == (2.0, 0.5)
    assert len({each.curve for each in (plain, *others)}) == len(losses)
    assert all(row.gain is not None and row.behind_family is None for row in found.rows[1:])
    with pytest.raises(ValueError, match="need a family"):
        compare(task, [STUDENT], ["kd"], seeds=[0], out=tmp_path / "other", family_losses=["at"])


def test_a_failing_training_is_reported_and_not_kept(task, tmp_path, monkeypatch):
    def fail(evaluator, job):
        raise RuntimeError("no room")

    monkeypatch.setattr(baselines, "train_one", fail)
    found = compare(task, [STUDENT], ["kd"], seeds=[0], out=tmp_path, workers=1)
    assert found.failures == ((STUDENT, "kd", 0, "RuntimeError: no room"),)
    assert found.trainings == ()
    assert "Not finished: resnet8x0.5, kd, seed 0: RuntimeError: no room" in report(found)


def training(student: str, loss: str, seed: int, test: float, val: float | None = None) -> Training:
    return Training(
        student,
        loss,
        seed,
        FinalResult(
            name=student,
            seed=seed,
            status="success",
            message="",
            epochs=9.0,
            val_accuracy=test if val is None else val,
            teacher_agreement=0.9,
            n_params=20_000,
            macs=10**6,
            train_memory_bytes=10**6,
            seconds=1.0,
            test_accuracy=test,
            test_agreement=0.9,
        ),
    )


def comparison(trainings: list[Training]) -> BaselineComparison:
    seeds = tuple(dict.fromkeys(t.seed for t in trainings))
    teacher = training("teacher", "kd", 0, 0.92).result
    return BaselineComparison("toy", seeds, 9, 0.9, teacher, tuple(make_rows(trainings)), tuple(trainings), ())


NOISE = (0.00, 0.01, -0.01, 0.02)


def some_results(family: float) -> BaselineComparison:
    trainings = []
    for seed, noise in enumerate(NOISE):
        trainings += [
            training("a", "kd", seed, 0.80 + noise),
            training("a", "at", seed, 0.85 + noise + 0.001 * (seed % 2)),
            training("a", "sp", seed, 0.80 + noise + 0.02 * (-1) ** seed, val=0.95),
            training(FAMILY, "kd", seed, family + noise + 0.001 * (seed % 3)),
        ]
    return comparison(trainings)


def test_differences_are_paired_by_seed():
    found = some_results(family=0.9)
    at, sp, family = found.row("a", "at"), found.row("a", "sp"), found.row(FAMILY, "kd")
    assert at is not None
    assert at.gain is not None
    assert at.gain.difference.mean == pytest.approx(0.0505)  # the noise that the seeds share cancels
    assert at.gain.difference.high - at.gain.difference.low < 0.003
    assert at.test_accuracy.high - at.test_accuracy.low > 0.03
    assert found.row("a", "kd").gain is None
    assert family.gain is None
    assert family.behind_family is None
    assert sp.behind_family.difference.mean == pytest.approx(0.9 + 0.00075 - 0.8)
    assert found.best_advanced is sp  # chosen by validation accuracy, not by test accuracy


def test_unmatched_seeds_are_left_out_of_differences():
    found = comparison([training("a", "kd", 0, 0.7), training("a", "kd", 1, 0.9), training("a", "at", 1, 0.95)])
    assert found.row("a", "at").gain.difference.n == 1
    assert found.row("a", "at").gain.difference.mean == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("family", "verdict"),
    [
        (0.90, "the claim holds in this run"),
        (0.70, "the claim does not hold in this run"),
        (0.80, "the claim is neither shown nor refuted"),
    ],
)
def test_conclusions_follow_the_intervals(family, verdict):
    text = "\n".join(conclusions(some_results(family)))
    assert verdict in text
    assert text.count("the claim") == 1
    assert "Helps: a AT (p = " in text
    assert "Cannot be told from plain KD: a SP" in text
    assert "Holm's correction for 2 comparisons" in text
    assert "What this cannot show" in text


def test_one_seed_shows_nothing():
    found = comparison([training("a", "kd", 0, 0.8), training("a", "at", 0, 0.9), training(FAMILY, "kd", 0, 0.99)])
    text = "\n".join(conclusions(found))
    assert "One seed: no difference can be judged" in text
    assert "on one seed, which shows nothing" in text


def test_report_shows_published_numbers_and_their_protocol():
    found = comparison([training("resnet20", "kd", s, 0.8) for s in (0, 1)])
    text = report(found)
    assert "70.66" in text  # resnet56 -> resnet20, KD
    assert "71.97" in text  # DKD, of mdistiller
    flat = " ".join(text.split())
    for part in ("another task, another protocol", "no validation split", "HobbitLong/RepDistiller", "b84f547"):
        assert part in flat, part
    assert "every loss keeps the Hinton term" in flat
    assert "labels only" in report(replace(found, kd_weight=0.0))
    assert published_table(["resnet8"]).rows == []
    assert len(results_table(found).rows) == 2


def test_published_results_are_those_of_the_sources():
    rows = published_results()
    value = {(row.teacher, row.student, row.loss): row.top1 for row in rows}
    assert len(value) == len(rows) == 180
    # spot checks against RepDistiller's README at b84f547 and mdistiller's at a08d46f
    assert value["resnet32x4", "resnet8x4", "crd"] == 75.51
    assert value["wrn_40_2", "wrn_16_2", "fitnet"] == 73.58
    assert value["resnet50", "mobilenet_v2", "at"] == 58.58
    assert value["wrn_40_2", "shufflenet_v1", "dkd"] == 76.70
    assert {row.student for row in rows} <= set(ZOO)
    assert {row.loss for row in rows} == {"teacher", *TITLES}
    assert all(len(row.commit) == 40 for row in rows)
    gains = [value[t, s, "at"] - value[t, s, "kd"] for t, s, loss in value if loss == "at"]
    assert published_gain("at=7") == f"{sum(gains) / 13:+.1f} ({min(gains):+.1f} to {max(gains):+.1f})"
    assert published_gain("kd") == ""


def test_family_is_read_from_a_file_and_from_a_search(tmp_path):
    candidate = get_search_space("hnag-small").default_candidate()
    file = tmp_path / "family.yaml"
    file.write_text(json.dumps(candidate.to_dict()))
    assert read_family(file) == candidate
    with pytest.raises(ValueError, match="search is not finished"):
        read_family(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"candidate": candidate.to_dict(), "n_trials": 3}))
    assert read_family(tmp_path) == candidate
    with pytest.raises(ValueError, match="does not exist"):
        read_family(tmp_path / "nothing.yaml")
    file.write_text("3")
    with pytest.raises(ValueError, match="holds no family"):
        read_family(file)


# --- the command ----------------------------------------------------------------------------------------------------


def test_command_prints_its_table_and_keeps_everything(task, tmp_path, capsys):
    task.to_yaml(tmp_path / "task.yaml")
    out = tmp_path / "run"
    arguments = ["compare-kd", "--task", str(tmp_path / "task.yaml"), "--student", STUDENT, "--losses", "kd,at=10"]
    arguments += ["--seeds", "1", "--workers", "1", "--out", str(out)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert "AT, weight 10" in printed.out
    assert "[2/2]" in printed.err
    assert (out / "table.txt").read_text().strip() == printed.out.strip()
    assert cli.main([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["loss"] for row in shown["rows"]] == ["kd", "at=10"]
    assert shown == json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "resnet9"], "unknown network 'resnet9'; did you mean"),
        (["--losses", "kd,fitnets"], "did you mean 'fitnet'"),
        (["--losses", ""], "--losses must be a text that is not empty"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--family", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--student", "resnet8", "--student", "resnet8"], "students must differ"),
        (["--task", "cifar10", "--data-dir", "/nowhere"], "does not exist"),
        (["--workers", "0"], "workers must be at least 1"),
    ],
)
def test_command_refuses_bad_input_before_any_work(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(baselines, "BaselineEvaluator", None)  # nothing may be loaded
    out = tmp_path / "run"
    try:
        code = cli.main(["compare-kd", "--out", str(out), *arguments])
    except SystemExit as stopped:  # the parser's own way
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


# --- the example ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example():
    return script("examples/claim_kd_variants.py")


def test_example_tests_the_claim(example, task, tmp_path, capsys, monkeypatch):
    family = get_search_space("hnag-small").default_candidate()
    monkeypatch.setattr(example, "search_family", lambda options, out: family)
    task.to_yaml(tmp_path / "task.yaml")
    arguments = ["--task", str(tmp_path / "task.yaml"), "--losses", "kd,sp", "--seeds", "2", "--workers", "1"]
    assert example.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    for part in (FAMILY.split()[0], "The best advanced loss by validation accuracy", "the claim", "cannot show"):
        assert part in printed
    assert (tmp_path / "run" / "table.txt").read_text().strip() in printed
    assert read_family(tmp_path / "run" / "family.yaml") == family


def test_example_searches_a_family(example, task, tmp_path, monkeypatch):
    from naslib_autokd.runners import engine, search

    monkeypatch.setattr(engine, "DaskEngine", lambda factory, **_: InProcess(factory()))
    monkeypatch.setattr(search, "search", partial(search.search, max_failures=1))
    task.to_yaml(tmp_path / "task.yaml")
    options = example.parse(["--task", str(tmp_path / "task.yaml"), "--trials", "2"])
    found = example.search_family(options, tmp_path / "search")
    assert found.kd.temperature > 0
    assert len((tmp_path / "search" / "trials.jsonl").read_text().splitlines()) == 2


class InProcess(InProcessEngine):
    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_example_refuses_bad_input(example, tmp_path, capsys):
    assert example.main(["--losses", "fitnets", "--out", str(tmp_path / "run")]) == 2
    assert "did you mean 'fitnet'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
