from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from naslib_autokd import cli
from naslib_autokd.commands._again import command_of
from naslib_autokd.commands.compare_kd import conclusions, recommendation, report, summary
from naslib_autokd.distillation.costs import count_macs, count_params
from naslib_autokd.evaluators.kd import FinalResult
from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.runners import baselines, rivals
from naslib_autokd.runners.baselines import (
    FAMILY,
    BaselineComparison,
    BaselineEvaluator,
    Training,
    compare,
    make_rows,
    read_comparison,
)
from naslib_autokd.runners.rivals import PRUNED, SHARES, WIDTHS, Rival, chosen, epochs_in, fitted, network
from naslib_autokd.runners.run_folder import RunFolderError
from naslib_autokd.search_spaces import get_search_space
from naslib_autokd.tasks import get_task
from naslib_autokd.teachers.names import TeacherError, timm_library
from naslib_autokd.teachers.networks import InputAdapter, NetworkInput, Published
from naslib_autokd.teachers.pruning import pruned
from naslib_autokd.teachers.teacher import PIXELS, Ensemble, Teacher
from naslib_autokd.teachers.zoo import SCALED, build, known


@pytest.fixture(scope="module")
def task(cluttered_teacher):
    return get_task("cluttered-digits", n_train=64, n_val=100, n_test=100, min_budget_epochs=1, max_budget_epochs=1)


@pytest.fixture(scope="module")
def evaluator(task):
    return BaselineEvaluator(task)


def limited(evaluator, **limits) -> BaselineEvaluator:
    """The same data and teacher, with limits."""
    return BaselineEvaluator(
        evaluator.task, data=evaluator.data, teacher=evaluator.teacher, limits=StudentLimits(**limits)
    )


def one_epoch(_: nn.Module) -> int:
    return 1


# --- widths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALED)
def test_a_network_in_any_width(name):
    sizes = [count_params(build(f"{name}x{width}", 1, 10)) for width in (0.1, 0.37, 0.74, 1.5)]
    assert sizes == sorted(set(sizes))
    made = build(f"{name}x0.37", 3, 7, multiple=8)
    channels = {m.out_channels for m in made.modules() if isinstance(m, nn.Conv2d)}
    assert all(n % (4 if name == "shufflenet_v2" else 8) == 0 for n in channels)  # it splits its channels in halves
    assert made(torch.rand(2, 3, 12, 12)).shape == (2, 7)
    small, large = (build(f"{name}x0.52", 3, 7, large_images=large) for large in (False, True))
    images = torch.rand(1, 3, 64, 64)
    assert small.stem(images).shape[-1] == 64
    assert large.stem(images).shape[-1] == 16


def test_width_1_is_the_papers_network():
    for depth in (8, 20):
        zoo, ours = build(f"resnet{depth}", 3, 10), build(f"resnet{depth}x1.0", 3, 10)
        assert {k: v.shape for k, v in zoo.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    assert known("ResNet14x0.37") == "resnet14x0.37"
    for wrong in ("resnet14x0", "resnet14x", "vgg8x0.37", "resnet9x0.3"):
        with pytest.raises(ValueError, match="unknown network"):
            known(wrong)


@pytest.mark.parametrize("name", SCALED)
def test_rivals_are_the_widest_that_keep_the_limits(evaluator, name):
    for limits in ({}, {"max_macs": 250_000}):
        under = limited(evaluator, **limits)
        (rival,) = fitted(under, [name], one_epoch)[0].values()
        base, _, width = rival.name.rpartition("x")
        wider = WIDTHS[WIDTHS.index(float(width)) + 5]  # 5% more, and the bisection stops at 2% of the parameters
        n_params, macs = zip(
            *(
                (count_params(made), count_macs(made, under.image_shape))
                for made in (network(under, rival.name), network(under, f"{base}x{wider:g}"))
            ),
            strict=True,
        )
        max_macs = limits.get("max_macs", float("inf"))
        assert n_params[0] <= under.task.max_params
        assert macs[0] <= max_macs
        assert n_params[1] > under.task.max_params or macs[1] > max_macs


def test_a_limit_of_latency_is_measured_on_the_rival(evaluator, monkeypatch):
    under = limited(evaluator, max_latency_s=0.3)
    seen = []

    def cost_of(sized, cost):
        assert cost == "latency"
        seen.append(sized.name)
        return sized.macs / 1e6

    monkeypatch.setattr(under, "cost_of", cost_of)
    (rival,) = fitted(under, ["resnet8"], one_epoch)[0].values()
    assert rival.name in seen
    assert 0.25e6 < count_macs(network(under, rival.name), under.image_shape) <= 0.3e6


def test_what_cannot_keep_a_limit_is_left_out_with_the_reason(evaluator):
    found, left_out = fitted(limited(evaluator, max_macs=20_000), ["resnet8", "mobilenet_v2"], one_epoch)
    assert not found
    assert "max_macs=20000, but its narrowest form needs" in left_out["resnet8"]
    tight = limited(evaluator)
    tight.task = replace(evaluator.task, max_params=3000)
    assert "max_params=3,000" in fitted(tight, ["mobilenet_v2"], one_epoch)[1]["mobilenet_v2"]


def test_equal_time_gives_cheap_networks_more_epochs(evaluator):
    cheap, dear = network(evaluator, "resnet8x0.3"), network(evaluator, "mobilenet_v2x0.05")
    assert epochs_in(evaluator, 10.0)(cheap) > 2 * epochs_in(evaluator, 10.0)(dear)
    assert epochs_in(evaluator, 10.0)(cheap) == pytest.approx(2 * epochs_in(evaluator, 5.0)(cheap), abs=1)
    assert epochs_in(evaluator, 1e-9)(cheap) == 1


def test_names_of_rivals():
    assert chosen(["resnet8", "mobilenet-v2"]) == ["resnet8", "mobilenet_v2"]
    for names, message in ((["resnet9"], "did you mean 'resnet8'"), (["resnet8", "resnet8"], "must differ")):
        with pytest.raises(ValueError, match=message):
            chosen(names)
    assert chosen(["all"])[: len(SCALED)] == list(SCALED)


# --- the pruned teacher ---------------------------------------------------------------------------------------------


def test_without_the_library_pruning_says_what_to_install(evaluator, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ImportError, match=r"naslib_autokd\[pruning\]"):
        chosen([PRUNED])
    left_out = fitted(evaluator, [PRUNED], one_epoch)[1]
    assert "pip install" in left_out[PRUNED]  # what "all" makes of it


def test_teachers_that_cannot_be_pruned_are_refused(evaluator):
    both = Teacher(Ensemble([evaluator.teacher.network]), *PIXELS)
    with pytest.raises(TeacherError, match="is an ensemble, which cannot be pruned"):
        pruned(both, evaluator.data, 0.5)


def test_the_whole_teacher_answers_as_the_teacher(evaluator):
    pytest.importorskip("torch_pruning")
    images = evaluator.data.val_images[:50]
    expected = evaluator.teacher(images)
    given = NetworkInput(evaluator.data.mean, evaluator.data.std, 1, None)
    adapted = Teacher(InputAdapter(evaluator.teacher.network, given), *PIXELS)
    for teacher in (evaluator.teacher, adapted):
        whole = pruned(teacher, evaluator.data, 1.0)
        assert all(parameter.requires_grad for parameter in whole.parameters())
        assert whole.training
        torch.testing.assert_close(whole.eval()(evaluator.data.normalise(images)), expected, rtol=1e-4, atol=1e-4)


def test_a_pruned_teacher_has_fewer_of_its_own_channels(evaluator):
    pytest.importorskip("torch_pruning")
    before = {name: tensor.clone() for name, tensor in evaluator.teacher.state_dict().items()}
    sizes = []
    for multiple, wanted in ((1, [8, 16]), (8, [8, 16]), (16, [16])):
        made = pruned(evaluator.teacher, evaluator.data, 0.5, multiple)
        assert sorted({m.out_channels for m in made.modules() if isinstance(m, nn.Conv2d)}) == wanted
        images = evaluator.data.normalise(evaluator.data.val_images)
        logits = made.eval()(images)
        assert logits.shape == (len(images), 10)
        sizes.append(count_params(made))
        again = pruned(evaluator.teacher, evaluator.data, 0.5, multiple).eval()
        torch.testing.assert_close(again(images), logits)  # each seed starts from the same network
        kept = next(m for m in made.modules() if isinstance(m, nn.Conv2d)).weight
        own = next(m for m in evaluator.teacher.modules() if isinstance(m, nn.Conv2d)).weight
        assert all(any(torch.equal(channel, other) for other in own) for channel in kept)
    assert sizes[0] == sizes[1] < sizes[2] < count_params(evaluator.teacher)
    assert all(torch.equal(before[name], tensor) for name, tensor in evaluator.teacher.state_dict().items())
    (rival,) = fitted(evaluator, [PRUNED], one_epoch)[0].values()
    share = float(rival.name.removeprefix(f"{PRUNED}x"))
    assert count_params(network(evaluator, rival.name)) <= evaluator.task.max_params
    wider = SHARES[SHARES.index(share) + 3]
    assert count_params(network(evaluator, f"{PRUNED}x{wider:g}")) > evaluator.task.max_params
    assert "learned from 6,000 images; the others learn from 64" in rival.note


# --- timm -----------------------------------------------------------------------------------------------------------


def test_the_small_one_of_timm_is_looked_for_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'timm is not installed .*pip install "naslib_autokd\[timm\]"'):
        chosen(["timm"])


needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@needs_timm
def test_a_small_network_of_timm(evaluator, monkeypatch):
    roomy = limited(evaluator, max_macs=10**12)
    roomy.task = replace(evaluator.task, max_params=400_000)

    def unreachable(architecture):
        raise TeacherError("no network here")

    monkeypatch.setattr(rivals, "published_weights", unreachable)
    (rival,) = fitted(roomy, ["timm"], one_epoch)[0].values()
    assert rival.name == "timm:test_resnet.r160_in1k"
    assert rival.note == "trained from scratch: no network here"
    assert network(roomy, rival.name)(torch.rand(2, 1, 12, 12)).shape == (2, 10)
    assert "the smallest, test_efficientnet.r160_in1k, has" in fitted(evaluator, ["timm"], one_epoch)[1]["timm"]


@needs_timm
def test_published_weights_are_taken_where_they_can_be_had(evaluator, monkeypatch):
    source = timm_library().create_model("test_efficientnet", num_classes=1000)
    given = NetworkInput((0.5,) * 3, (0.25,) * 3, 3, 160, 0.9)
    monkeypatch.setattr(rivals, "published_weights", lambda _: Published(source.state_dict(), (), given))
    roomy = limited(evaluator, max_macs=10**12)
    roomy.task = replace(evaluator.task, max_params=200_000)
    (rival,) = fitted(roomy, ["timm"], one_epoch)[0].values()
    assert rival == Rival("timm:test_efficientnet.r160_in1k@pretrained", 1, "from published weights")
    made = network(roomy, rival.name)
    assert torch.equal(made.network.network.conv_stem.weight, source.conv_stem.weight)
    assert made(torch.rand(2, 1, 12, 12)).shape == (2, 10)


# --- the comparison -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def family():
    return get_search_space("hnag-small").default_candidate()


def test_a_comparison_with_rivals_continues_in_the_same_widths(task, family, tmp_path, monkeypatch):
    limits = StudentLimits(max_macs=400_000)
    asked = {"out": tmp_path, "workers": 1, "family": family, "limits": limits}
    said = []
    first = compare(task, [], [], seeds=[0], rivals=["resnet8"], rival_epochs=2, watch=said.append, **asked)
    assert said[0] == "loading the images and the teacher"
    assert said[-1] == "measuring milliseconds in ONNX Runtime"
    assert not first.failures
    (rival,) = first.rivals
    assert [(row.student, row.loss) for row in first.rows] == [(FAMILY, "kd"), (rival.name, "kd")]
    trained = {training.student: training.result for training in first.trainings}
    assert trained[rival.name].epochs == 2
    assert trained[FAMILY].epochs == 1
    assert all(result.macs <= 400_000 for result in trained.values())
    assert set(first.latencies_ms) == {FAMILY, rival.name, "teacher"}
    assert all(len(times) == 2 and 0 < times[0] < times[1] for times in first.latencies_ms.values())
    monkeypatch.setattr(rivals, "_widest", None)  # what is fitted stays as it is
    longer = compare(task, [], [], seeds=[0, 1], rivals=["resnet8"], rival_epochs=2, **asked)
    assert longer.rivals == first.rivals
    assert longer.trainings[:2] == first.trainings
    with pytest.raises(RunFolderError, match="other epochs"):
        compare(task, [], [], seeds=[0], rivals=["resnet8"], rival_epochs=3, **asked)
    with pytest.raises(ValueError, match="rivals are compared with a family"):
        compare(task, [], [], seeds=[0], rivals=["resnet8"], out=tmp_path / "other")
    read = read_comparison(tmp_path)
    assert (read.family_is_default, first.family_is_default) == (True, True)
    assert read.rivals == first.rivals
    assert {row.student for row in read.rival_rows} == {rival.name}


@pytest.mark.slow
def test_workers_train_rivals_alike(task, family, tmp_path):
    found = [
        compare(task, [], [], seeds=[0], rivals=["resnet8"], out=tmp_path / str(n), workers=n, family=family)
        for n in (1, 2)
    ]
    one, two = ([replace(t.result, seconds=0.0) for t in each.trainings] for each in found)
    assert one == two


# --- which student? -------------------------------------------------------------------------------------------------


def training(student: str, seed: int, test: float, val: float, macs: int = 10**6) -> Training:
    costs = {"n_params": 20_000, "macs": macs, "train_memory_bytes": 10**6, "seconds": 1.0}
    shares = {"val_accuracy": val, "teacher_agreement": 0.9, "test_accuracy": test, "test_agreement": 0.9}
    result = FinalResult(name=student, seed=seed, status="success", message="", epochs=9.0, **costs, **shares)
    return Training(student, "kd", seed, result)


def comparison(accuracies: dict[str, list[float]], latencies=None, macs=None) -> BaselineComparison:
    trainings = [
        training(name, seed, test, test, (macs or {}).get(name, 10**6))
        for name, values in accuracies.items()
        for seed, test in enumerate(values)
    ]
    seeds = tuple(range(len(accuracies[FAMILY])))
    others = tuple(Rival(name, 9) for name in accuracies if name != FAMILY)
    teacher = training("teacher", 0, 0.95, 0.95).result
    rows = tuple(make_rows(trainings))
    times = {name: (ms, 64 * ms) for name, ms in (latencies or {}).items()}
    return BaselineComparison(
        "toy", seeds, 9, 0.9, teacher, rows, tuple(trainings), (), others, {}, {"teacher": (1, 64), **times}
    )


SPREAD = (0.900, 0.910, 0.895, 0.905, 0.892)


def shifted(by: float, jitter: float = 0.001) -> list[float]:
    return [value + by + jitter * (seed % 3 - 1) for seed, value in enumerate(SPREAD)]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_family_ahead_of_all_is_taken(n):
    found = comparison({FAMILY: list(SPREAD[:n]), "a": shifted(-0.5)[:n], "b": shifted(-0.3)[:n]})
    text = " ".join(recommendation(found))
    assert text.startswith("Take the searched family: it is ahead of every rival.")
    assert f"Paired t tests over {n} seeds" in text
    assert "Holm's correction for 2." in text
    unsearched = replace(found, family_is_default=True)  # without --family
    assert recommendation(unsearched)[0].startswith("Take the default family: it is ahead of every rival.")
    assert FAMILY not in report(unsearched)


def test_a_rival_that_is_ahead_is_taken_whatever_its_latency():
    found = comparison(
        {FAMILY: list(SPREAD), "a": shifted(0.05), "b": shifted(0.03), "c": shifted(-0.1)},
        {FAMILY: 0.01, "a": 0.5, "b": 0.1, "c": 0.1},
    )
    text = " ".join(recommendation(found))
    assert text.startswith("Take a: the family is behind it, -5.0 [")
    assert "behind b, too, whose validation accuracy is no higher" in text
    assert "The family is ahead of c (+10.0 [" in text


def test_of_those_that_cannot_be_told_apart_the_fastest_is_taken():
    accuracies = {FAMILY: list(SPREAD), "a": shifted(0.0002), "b": shifted(-0.1)}
    text = " ".join(recommendation(comparison(accuracies, {FAMILY: 0.2, "a": 0.1, "b": 0.01})))
    assert "a (p = " in text
    assert "cannot be told from the searched family by accuracy. Take a: of these it has the fewest milli" in text
    assert "0.50 of the family's" in text
    text = " ".join(recommendation(comparison(accuracies, {FAMILY: 0.1, "a": 0.2, "b": 0.01})))
    assert "Take the searched family: of these" in text
    text = " ".join(recommendation(comparison(accuracies, macs={FAMILY: 2 * 10**6})))  # nothing was timed
    assert "Take a: of these it has the fewest millions of multiply-adds (1, 0.50 of the family's)" in text
    close = {FAMILY: 0.1, "a": 0.099, "b": 0.01}
    text = " ".join(recommendation(comparison({**accuracies, "a": shifted(-0.0005)}, close)))
    assert "Take the searched family: of these it is among those with" in text  # its validation accuracy is higher


def test_one_seed_recommends_nothing():
    found = comparison({FAMILY: [0.9], "a": [0.99]})
    text = " ".join(conclusions(found))
    assert "One seed shows nothing" in text
    assert "Take" not in text
    same = comparison({FAMILY: [0.9, 0.8], "a": [0.95, 0.85]})
    assert "2 seeds that all differ by the same show nothing" in " ".join(conclusions(same))


@pytest.mark.parametrize("n", [2, 5, 10])
def test_false_alarms(n):
    """Four rivals that are as good as the family: the sentence may name one as better or worse in 5% of studies."""
    rng, alarms, studies = np.random.default_rng(n), 0, 300
    for _ in range(studies):
        draws = rng.normal(0.9, 0.01, (5, n)).clip(0, 1).tolist()
        text = recommendation(comparison(dict(zip((FAMILY, "a", "b", "c", "d"), draws, strict=True))))[0]
        alarms += "cannot be told" not in text or "ahead" in text
    assert alarms <= 0.05 * studies + 3 * (0.05 * 0.95 * studies) ** 0.5


def test_the_table_and_the_summary_have_it_all():
    found = comparison({FAMILY: list(SPREAD), "resnet8x0.3": shifted(-0.1)}, {FAMILY: 0.04, "resnet8x0.3": 0.03})
    found = replace(found, left_out={"timm": "too large"}, rivals=(replace(found.rivals[0], note="has a note"),))
    text = " ".join(report(found).split())
    for part in ("which student?", "family minus it", "0.03 1.92", "has a note.", "Without timm: too large."):
        assert part in text, part
    assert "minus plain KD" not in text  # no losses are compared
    assert summary(found)["conclusions"] == conclusions(found)


# --- the command ----------------------------------------------------------------------------------------------------


def test_command_with_rivals_of_a_run(task, family, tmp_path, capsys):
    """The limits, and the task's own, are those of the search; what is typed goes before."""
    run = tmp_path / "search"
    run.mkdir()
    task = replace(task, name="digits of mine", max_params=15_000, width_multiple=2)
    task.to_yaml(run / "task.yaml")
    limits = {"max_macs": 300_000, "max_train_memory": 10**9, "max_inference_memory": None, "max_latency_s": None}
    (run / "run.yaml").write_text(json.dumps({"evaluation": {"objective": "kd", "limits": limits}}))
    (run / "result.json").write_text(json.dumps({"candidate": family.to_dict()}))
    out = tmp_path / "run"
    arguments = ["compare-kd", "--family", str(run), "--rivals", "resnet8"]  # of the run's task
    arguments += ["--seeds", "1", "--workers", "1", "--max-params", "12000", "--out", str(out)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "which student?" in printed
    content = json.loads((out / "summary.json").read_text())
    assert [row["student"] for row in content["rows"]] == [FAMILY, content["rivals"][0]["name"]]
    assert all(row["n_params"] <= 12_000 and row["macs"] <= 300_000 for row in content["rows"])
    again = command_of(out)
    assert "--rivals resnet8" in again
    assert "--max-macs 300000" in again
    assert "--student" not in again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rivals", "resnet9"], "unknown rival 'resnet9'; did you mean 'resnet8'"),
        (["--rivals", "resnet8", "--rival-epochs", "time"], "give its run folder as --family"),
        (["--rivals", "resnet8", "--rival-epochs", "0"], "--rival-epochs must be"),
        (["--rivals", "resnet8", "--max-macs", "0"], "--max-macs must be at least 1"),
        (["--rivals", "resnet8", "--latency-batch", "8"], "say where a latency is measured"),
    ],
)
def test_command_refuses_bad_rivals_before_any_work(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(baselines, "BaselineEvaluator", None)
    try:
        code = cli.main(["compare-kd", "--out", str(tmp_path / "run"), *arguments])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_run_on_another_task_is_refused(task, family, tmp_path, capsys):
    replace(task, name="photos").to_yaml(tmp_path / "task.yaml")
    (tmp_path / "run.yaml").write_text("{}")
    (tmp_path / "result.json").write_text(json.dumps({"candidate": family.to_dict()}))
    arguments = ["compare-kd", "--rivals", "resnet8", "--family", str(tmp_path), "--out", str(tmp_path / "run")]
    assert cli.main([*arguments, "--task", "cluttered-digits"]) == 2
    assert "is a search on 'photos', not on 'cluttered-digits'" in capsys.readouterr().err
