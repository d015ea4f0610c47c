from __future__ import annotations

import copy
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load
from torch import nn

from naslib_autokd.cli import build_parser
from naslib_autokd.commands._again import command_of
from naslib_autokd.commands._options import asked_evaluation, evaluation_options
from naslib_autokd.distillation.training import (
    PRECISIONS,
    TrainingResult,
    TrainingSettings,
    accuracy,
    limited_threads,
    predict,
    train,
)
from naslib_autokd.evaluators import kd
from naslib_autokd.evaluators.kd import FinalResult, KDEvaluator
from naslib_autokd.evaluators.student_limits import StudentLimits
from naslib_autokd.records import Proposal, TrialStore, derive_seed, is_out_of_memory
from naslib_autokd.runners.limits import attempt
from naslib_autokd.runners.run_folder import RunFolderError
from naslib_autokd.runners.search import search
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.search_spaces.hnag.execution import without_bfloat16
from naslib_autokd.search_spaces.hnag.wiring import fit_width
from naslib_autokd.shipping.members import train_member
from naslib_autokd.tasks import TaskError
from naslib_autokd.teachers.load import is_trained_here, write_checkpoint
from naslib_autokd.teachers.names import TeacherError


@dataclass(frozen=True)
class KD:
    temperature: float = 4.0
    kd_weight: float = 0.9


@dataclass(frozen=True)
class FakeCandidate:
    kd: KD = field(default_factory=KD)
    digest: str = "fake"

    def to_dict(self):
        return {"fake": True}


class FakeEvaluator(KDEvaluator):
    """Trains whatever ``network`` makes, so that tests decide what a student does."""

    network = None

    def student_spec(self, candidate, seed):
        wiring = SimpleNamespace(digest=f"wiring-{derive_seed(seed, 'wiring')}")
        return SimpleNamespace(wiring=wiring, channels=(4, 4, 4), n_params=12_000, macs=34, depth=3)

    def build_student(self, spec, seed):
        torch.manual_seed(derive_seed(seed, "weights"))
        return self.network()


@pytest.fixture
def evaluator(tiny_data, cluttered_teacher, make_cnn):
    data = replace(tiny_data, test_reads=0)  # other tests share it, and may have read the split
    made = FakeEvaluator(data.task, data=data, teacher=cluttered_teacher)
    made.network = make_cnn
    return made


def proposal(budget=2, seed=7, number=3, candidate=None):
    return Proposal(candidate or FakeCandidate(), budget, seed, number)


# --- trials ---------------------------------------------------------------------------------------------------------


def test_a_trial_reports_everything(evaluator):
    trial = evaluator.evaluate(proposal())
    assert (trial.status, trial.message, trial.number, trial.seed) == ("success", "", 3, 7)
    assert trial.wiring_seed == derive_seed(7, "wiring")
    assert trial.wiring == f"wiring-{trial.wiring_seed}"
    assert (trial.n_params, trial.macs, trial.depth, trial.channels) == (12_000, 34, 3, (4, 4, 4))
    assert trial.budget_used == 0.5
    assert trial.student_epochs == 2
    assert len(trial.curve) == 2
    assert trial.cost == 1 - trial.val_accuracy
    assert 0 <= trial.teacher_agreement <= 1
    assert 0 < trial.train_accuracy <= 1
    assert trial.train_memory_bytes > 3 * 4 * 24_000
    assert min(trial.build_s, trial.train_s, trial.evaluate_s) > 0
    assert json.loads(trial.to_json())["candidate"] == {"fake": True}
    assert evaluator.data.test_reads == 0


def test_validation_accuracy_and_agreement_are_those_of_the_trained_student(evaluator, make_cnn):
    kept = []
    evaluator.network = lambda: kept.append(make_cnn()) or kept[-1]
    trial = evaluator.evaluate(proposal())
    logits = predict(kept[0], evaluator.data, evaluator.data.val_images)
    assert trial.val_accuracy == accuracy(logits, evaluator.data.val_labels)
    teacher = evaluator.teacher.predict(evaluator.data.val_images).argmax(1)
    assert trial.teacher_agreement == accuracy(logits, teacher)


def test_the_objective_decides_whether_the_teacher_is_heard(tiny_data, cluttered_teacher, make_cnn):
    curves = {}
    for objective in ("kd", "ce"):
        for weight in (0.0, 0.9):
            made = FakeEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher, objective=objective)
            made.network = make_cnn
            curves[objective, weight] = made.evaluate(proposal(candidate=FakeCandidate(KD(kd_weight=weight)))).curve
    assert curves["ce", 0.0] == curves["ce", 0.9] == curves["kd", 0.0] != curves["kd", 0.9]


def test_a_budget_over_the_maximum_is_the_callers_mistake(evaluator):
    with pytest.raises(ValueError, match=r"budget_epochs=10 is larger than the maximum of task 'cluttered-digits', 9"):
        evaluator.evaluate(proposal(budget=10))


def test_a_trial_is_validated_once_when_its_budget_ends(evaluator, monkeypatch):
    seen = []
    monkeypatch.setattr(kd, "predict", lambda model, data, images: seen.append(images) or predict(model, data, images))
    assert evaluator.evaluate(proposal(budget=3)).succeeded
    assert [images is evaluator.data.val_images for images in seen] == [True]


# --- promoted trials that continue ----------------------------------------------------------------------------------


@pytest.fixture
def continuing(tiny_data, cluttered_teacher, make_cnn, tmp_path):
    """Makes evaluators that share a folder of checkpoints."""

    def make(folder=tmp_path / "checkpoints", **options):
        made = FakeEvaluator(
            tiny_data.task, data=tiny_data, teacher=cluttered_teacher, continue_from_checkpoint=folder, **options
        )
        made.network = make_cnn
        return made

    return make


def test_a_promoted_trial_goes_on_with_the_student_of_the_lower_budget(continuing):
    evaluator = continuing()
    low, middle, top = (
        evaluator.evaluate(proposal(budget, seed, number))
        for number, (budget, seed) in enumerate([(1, 7), (3, 8), (9, 9)])
    )
    assert [trial.info["continued_from"] for trial in (low, middle, top)] == [
        None,
        {"number": 0, "budget_epochs": 1, "student_seed": 7},
        {"number": 1, "budget_epochs": 3, "student_seed": 7},
    ]
    assert [trial.student_epochs for trial in (low, middle, top)] == [1, 2, 6]
    assert [len(trial.curve) for trial in (low, middle, top)] == [1, 2, 6]
    assert [trial.seed for trial in (low, middle, top)] == [7, 8, 9]  # what was asked for
    assert {(trial.wiring, trial.wiring_seed) for trial in (low, middle, top)} == {
        (low.wiring, derive_seed(7, "wiring"))
    }
    assert len(list(evaluator.checkpoints.folder.iterdir())) == 2  # a full training leaves none


def test_a_continued_trial_is_the_training_that_the_checkpoint_describes(continuing, make_cnn):
    evaluator, kept = continuing(), []
    evaluator.network = lambda: kept.append(make_cnn()) or kept[-1]
    evaluator.evaluate(proposal(budget=1, number=0))
    evaluator.evaluate(proposal(budget=3, seed=8, number=1))
    torch.manual_seed(derive_seed(7, "weights"))
    model, states = make_cnn(), []
    common = {"kd": KD(), "seed": derive_seed(7, "batches")}
    with limited_threads(evaluator.threads):
        train(model, evaluator.data, evaluator.soft_targets.train, epochs=1, keep=states.append, **common)
        train(model, evaluator.data, evaluator.soft_targets.train, epochs=3, start=states[0], **common)
    for name, tensor in kept[-1].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_trial_that_is_run_again_has_the_same_outcome(continuing):
    low, top = proposal(budget=1, number=0), proposal(budget=3, seed=8, number=1)
    first = continuing()
    outcomes = [first.evaluate(asked).outcome() for asked in (low, top)]
    (file,) = (path for path in first.checkpoints.folder.iterdir() if "-1-0." in path.name)
    content = file.read_bytes()
    second = continuing()  # another process: nothing but the folder is left
    assert second.evaluate(top).outcome() == outcomes[1]
    assert second.evaluate(low).outcome() == outcomes[0]
    assert file.read_bytes() == content


def test_checkpoints_of_other_trainings_are_not_taken(continuing):
    continuing().evaluate(proposal(budget=1, number=0))
    for evaluator, candidate in (
        (continuing(objective="ce"), FakeCandidate()),
        (continuing(settings=TrainingSettings(lr=0.05)), FakeCandidate()),
        (continuing(), FakeCandidate(digest="other")),
    ):
        trial = evaluator.evaluate(proposal(budget=2, number=1, candidate=candidate))
        assert trial.info["continued_from"] is None
        assert trial.student_epochs == 2
    (file,) = (path for path in continuing().checkpoints.folder.iterdir() if "-fake-1-0." in path.name)
    file.write_bytes(file.read_bytes()[:100])  # of a disk that was full
    assert continuing().evaluate(proposal(budget=2, number=1)).info["continued_from"] is None


def test_students_that_fail_leave_no_checkpoint(continuing):
    evaluator = continuing()
    evaluator.network = lambda: Faulty(lambda logits: logits * float("nan"))
    assert evaluator.evaluate(proposal(budget=1, number=0)).status == "diverged"
    evaluator.network = lambda: Faulty(lambda logits: logits)
    assert evaluator.evaluate(proposal(budget=2, number=1)).info["continued_from"] is None


def test_a_folder_that_cannot_be_made_is_told_before_any_work(continuing, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="checkpoints cannot be kept in"):
        continuing(tmp_path / "file")


def test_without_the_option_every_trial_trains_a_student_of_its_own(evaluator):
    low, top = (
        evaluator.evaluate(proposal(budget=1, number=0)),
        evaluator.evaluate(proposal(budget=3, seed=8, number=1)),
    )
    assert "continued_from" not in top.info
    assert top.student_epochs == 3
    assert top.wiring != low.wiring


def test_precision_is_an_option_and_in_every_record(tiny_data, cluttered_teacher, tmp_path):
    parse = build_parser().parse_args
    assert "settings" not in evaluation_options(parse(["search", "--out", str(tmp_path / "run")]))
    asked = replace(proposal(budget=1), candidate=HNAGSpace("hnag-small").default_candidate())
    for precision in PRECISIONS:
        options = parse(["search", "--precision", precision, "--out", str(tmp_path / "run")])
        own = KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher, **evaluation_options(options))
        assert own.settings.precision == precision
        trial = own.evaluate(asked)
        assert trial.status == "success"
        spec = own.student_spec(asked.candidate, 0)
        _, final = own.train_final(lambda own=own, spec=spec: own.build_student(spec, 0), None, 0, epochs=1)
        used = trial.info["precision"], final.precision
        if precision == "auto":
            assert set(used) <= {"float32", "bfloat16"}
        else:
            expected = "float32" if without_bfloat16() else precision
            assert used == (expected, expected)
        assert ("precision_reason" in trial.info) == (precision == "auto" or trial.info["precision"] != precision)


@pytest.mark.parametrize(
    "typed",
    [
        [],
        ["--max-macs", "900000", "--max-memory", "6MB", "--precision", "auto", "--no-cuda-graph"],
        ["--objective", "ce", "--max-latency-ms", "5", "--latency-batch", "2", "--continue-from-checkpoint"],
        ["--objectives", "error,latency"],
    ],
)
def test_an_evaluator_says_of_itself_what_the_command_writes_of_it(tiny_data, cluttered_teacher, tmp_path, typed):
    """So a search from Python can be continued by the command, and the other way round."""
    options = build_parser().parse_args(["search", *typed, "--out", str(tmp_path / "run")])
    file = tmp_path / "teacher.safetensors"
    write_checkpoint(cluttered_teacher, file, tiny_data)
    options.teacher = str(file)
    made = KDEvaluator(
        tiny_data.task,
        data=tiny_data,
        objective=options.objective,
        teacher=options.teacher,
        **evaluation_options(options),
    )
    assert made.asked == asked_evaluation(options)


def test_a_run_from_python_keeps_limits_and_says_that_its_teacher_is_an_object(tiny_data, cluttered_teacher, tmp_path):
    out = tmp_path / "run"

    def run(trials, **settings):
        evaluator = KDEvaluator(tiny_data.task, data=tiny_data, **{"teacher": cluttered_teacher} | settings)
        search(tiny_data.task, "random_search", evaluator=evaluator, n_trials=trials, out=out)

    run(1, limits=StudentLimits(max_macs=900_000))
    asked = yaml.safe_load((out / "run.yaml").read_text())["evaluation"]
    assert (asked["teacher"], asked["limits"]["max_macs"]) == ("Teacher (given in Python)", 900_000)
    assert command_of(out) == ""  # would search with the task's own teacher
    with pytest.raises(RunFolderError, match="max_macs: 900000 there, 800000 asked for"):
        run(2, limits=StudentLimits(max_macs=800_000))
    with pytest.raises(TeacherError, match="which only Python can give again"):
        train_member(out, next(iter(TrialStore(out / "trials.jsonl"))).candidate_digest)


def test_graphs_are_the_default_of_a_gpu_can_be_switched_off_and_are_told_there(
    tiny_data, cluttered_teacher, tmp_path, make_cnn, monkeypatch
):
    parse = build_parser().parse_args
    options = parse(["search", "--no-cuda-graph", "--out", str(tmp_path / "run")])
    assert evaluation_options(options)["settings"] == TrainingSettings(cuda_graph=False)
    assert TrainingSettings().cuda_graph
    own = FakeEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher)
    own.network = make_cnn
    assert "cuda_graph" not in own.evaluate(proposal(budget=1)).info
    result = TrainingResult("success", "", 1.0, (), None, 0.0, cuda_graph_reason="it waits")
    monkeypatch.setattr(own, "device", torch.device("cuda"))
    assert own._how(result) == {"precision": "float32", "cuda_graph": False, "cuda_graph_reason": "it waits"}
    assert own._how(replace(result, cuda_graph=True, cuda_graph_reason="")) == {
        "precision": "float32",
        "cuda_graph": True,
    }


def test_checkpoints_do_not_depend_on_whether_steps_are_graphs(tiny_data, cluttered_teacher):
    keys = {
        KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher, settings=settings)._training_key()
        for settings in (TrainingSettings(), TrainingSettings(cuda_graph=False), TrainingSettings(lr=0.2))
    }
    assert len(keys) == 2


def test_the_search_command_keeps_checkpoints_in_its_run_folder(tmp_path):
    parse = build_parser().parse_args
    with_option = parse(["search", "--continue-from-checkpoint", "--out", str(tmp_path / "run")])
    assert evaluation_options(with_option)["continue_from_checkpoint"] == tmp_path / "run" / "checkpoints"
    assert "continue_from_checkpoint" not in evaluation_options(parse(["search", "--out", str(tmp_path / "run")]))


@pytest.mark.slow
def test_a_search_that_continues_students_can_be_killed_and_continued(continuing, tmp_path, tiny_data):
    def outcomes(folder, *n_trials):
        for n in n_trials:
            result = search(
                tiny_data.task,
                "hyperband",
                evaluator=continuing(tmp_path / folder / "checkpoints"),
                n_trials=n,
                seed=1,
                out=tmp_path / folder,
                start_with_default=False,
                options={"fidelity": "hyperband-2"},
            )
        return [trial.outcome() for trial in result.trials]

    whole = outcomes("whole", 12)
    continued = [outcome["info"]["continued_from"] for outcome in whole]
    assert any(continued)
    assert all(c["number"] < n for n, c in enumerate(continued) if c is not None)
    assert outcomes("parts", 10, 12) == whole


# --- faults of a student are results --------------------------------------------------------------------------------


class Faulty(nn.Module):
    def __init__(self, fault, after=0):
        super().__init__()
        self.linear, self.fault, self.left = nn.Linear(144, 10), fault, after

    def forward(self, images):
        self.left -= 1
        logits = self.linear(images.flatten(1))
        return logits if self.left >= 0 else self.fault(logits)


def raising(error):
    def fault(logits):
        raise error

    return fault


@pytest.mark.parametrize("after", [0, 2, 3])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("boom"), "error"),
        (RuntimeError("shape mismatch"), "error"),
        (AssertionError(), "error"),
        (MemoryError("too much"), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory"),
    ],
)
def test_exceptions_of_a_student_become_trials(evaluator, error, status, after):
    evaluator.network = lambda: Faulty(raising(error), after)
    threads = torch.get_num_threads()
    trial = evaluator.evaluate(proposal())
    assert (trial.status, trial.cost, trial.val_accuracy) == (status, 1.0, None)
    assert trial.message.startswith(type(error).__name__)
    assert str(error) in trial.message
    assert trial.wiring  # what was known before is kept
    assert torch.get_num_threads() == threads
    json.loads(trial.to_json())


def test_a_student_of_nan_is_diverged(evaluator):
    evaluator.network = lambda: Faulty(lambda logits: logits * float("nan"))
    trial = evaluator.evaluate(proposal())
    assert (trial.status, trial.cost, trial.student_epochs) == ("diverged", 1.0, 1)
    assert "nan" in trial.message
    json.loads(trial.to_json())


def test_a_student_that_breaks_in_validation_is_diverged(evaluator):
    class BreaksInEval(Faulty):
        def forward(self, images):
            return self.linear(images.flatten(1)) * (1.0 if self.training else float("inf"))

    evaluator.network = lambda: BreaksInEval(None)
    trial = evaluator.evaluate(proposal())
    assert (trial.status, trial.cost) == ("diverged", 1.0)
    assert "not finite" in trial.message


def test_an_absurd_learning_rate_is_survived(tiny_data, cluttered_teacher, make_cnn):
    settings = TrainingSettings(lr=1e8, max_grad_norm=1e8)
    made = FakeEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher, settings=settings)
    made.network = lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 10))
    trial = made.evaluate(proposal(budget=9))
    assert trial.status == "diverged"
    assert trial.student_epochs < 9


def test_a_time_limit_is_a_timeout(tiny_data, cluttered_teacher, make_cnn):
    made = FakeEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher, time_limit_s=0.0)
    made.network = make_cnn
    trial = made.evaluate(proposal())
    assert (trial.status, trial.cost, trial.student_epochs) == ("timeout", 1.0, 1)


def test_an_interrupt_passes(evaluator):
    evaluator.network = lambda: Faulty(raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate(proposal())


def test_out_of_memory_is_recognised_by_type_and_by_words():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(torch.OutOfMemoryError("no room"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("sizes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no more")])
def test_lack_of_memory_says_what_to_do_and_whose_it_is(evaluator, error):
    evaluator.network = lambda: Faulty(raising(error), after=3)
    advice = f"lower the task's batch_size ({evaluator.task.batch_size})"
    trial = evaluator.evaluate(proposal())
    assert trial.status == "out_of_memory"
    assert str(error) in trial.message
    assert advice in trial.message
    assert f"a step takes {trial.train_memory_bytes / 2**20:.0f} MiB" in trial.message
    with pytest.raises(MemoryError, match=r"final student 2 of a family: .*--max-memory") as raised:
        evaluator.train_final(evaluator.network, None, 0, 1, name="a family", what="final student 2")
    assert advice in str(raised.value)
    outcome = attempt(
        lambda job, _: evaluator.train_final(evaluator.network, None, 0, 1, name=job), "job", lambda _: None
    )
    assert outcome.status == "out_of_memory"


def test_other_faults_of_a_final_student_stay_what_they_are(evaluator):
    evaluator.network = lambda: Faulty(raising(RuntimeError("sizes do not match")), after=3)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        evaluator.train_final(evaluator.network, None, 0, 1)


# --- a loss of one's own --------------------------------------------------------------------------------------------


def test_a_loss_by_name_takes_the_place_of_hintons(tiny_data, cluttered_teacher, make_cnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_losses.py").write_text(
        "from naslib_autokd.distillation.losses import distillation_loss\n"
        "def hinton(*logits, **kd): return distillation_loss(*logits, **kd)\n"
        "def twice(*logits, **kd): return 2 * hinton(*logits, **kd)\n"
    )

    def trial(objective):
        made = FakeEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher, objective=objective)
        made.network = make_cnn
        return made.evaluate(Proposal(FakeCandidate(), 1, 5, 0))

    usual, same, other = map(trial, ("kd", "some_losses:hinton", "some_losses:twice"))
    assert (same.curve, same.cost) == (usual.curve, usual.cost)
    assert other.curve[0] > 1.5 * usual.curve[0]
    assert other.info["objective"] == "some_losses:twice"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("other = 1", "loss 'bad_losses:loss' cannot be imported: module 'bad_losses' has no attribute 'loss'"),
        ("def loss(a, b): return a", "loss 'bad_losses:loss' cannot be used: TypeError: .* it is called as loss"),
        ("def loss(a, b, labels, **kd): return a", "cannot be used: RuntimeError: .*returns a number"),
        ("def loss(a, b, labels, **kd): return a.sum() / 0", "not finite, or without a gradient"),
        ("def loss(a, b, labels, **kd): return b.sum().requires_grad_()", "not finite, or without a gradient"),
        ("1 / 0", "cannot be imported: division by zero"),
    ],
)
def test_a_loss_that_cannot_be_used_is_an_error_before_any_work(code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_losses", raising=False)
    (tmp_path / "bad_losses.py").write_text(code)
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=message):
        KDEvaluator("cluttered-digits", objective="bad_losses:loss")


# --- bad arguments --------------------------------------------------------------------------------------------------


def test_bad_arguments_are_errors_before_any_work(tiny_data, cluttered_teacher):
    with pytest.raises(ValueError, match="unknown objective 'kl'"):
        KDEvaluator(tiny_data.task, data=tiny_data, objective="kl")
    with pytest.raises(ValueError, match="threads must be at least 1"):
        KDEvaluator(tiny_data.task, data=tiny_data, threads=0)
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        KDEvaluator(tiny_data.task, data=tiny_data, device="gpu")
    with pytest.raises(TeacherError, match="does not exist"):
        KDEvaluator(tiny_data.task, data=tiny_data, teacher="nowhere.pt")


# --- the common final protocol --------------------------------------------------------------------------------------


def test_final_training_validates_and_only_the_judge_reads_the_test_split(evaluator, make_cnn, tmp_path):
    model, result = evaluator.train_final(make_cnn, KD(), seed=5, name="cnn")
    assert evaluator.data.test_reads == 0
    assert (result.status, result.epochs, result.name, result.test_accuracy) == ("success", 9, "cnn", None)
    assert (result.temperature, result.kd_weight) == (4.0, 0.9)
    assert result.n_params == sum(parameter.numel() for parameter in model.parameters())
    assert result.val_accuracy == accuracy(
        predict(model, evaluator.data, evaluator.data.val_images), evaluator.data.val_labels
    )
    judged = evaluator.judge(model, result)
    assert evaluator.data.test_reads == 1
    images, labels = evaluator.data.read_test()
    logits = predict(model, evaluator.data, images)
    assert judged.test_accuracy == accuracy(logits, labels)
    assert judged.test_agreement == accuracy(logits, evaluator.teacher.predict(images).argmax(1))
    assert FinalResult.from_dict(json.loads(json.dumps(judged.to_dict()))) == judged
    with pytest.raises(ValueError, match="unknown fields surprise"):
        FinalResult.from_dict(judged.to_dict() | {"surprise": 1})

    evaluator.save_student(model, judged, tmp_path / "students" / "s.safetensors")
    with safe_open(tmp_path / "students" / "s.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["result"])["test_accuracy"] == judged.test_accuracy
        assert set(file.keys()) == set(model.state_dict())
    model.again = model[0]  # a module that stands there twice, as in cells of NASLib
    assert len(load(evaluator.student_file(model, judged))) == len(model.state_dict())


def test_final_training_depends_on_its_seed_alone(evaluator, make_cnn):
    results = []
    for noise, seed in ((1, 5), (2, 5), (3, 6)):
        torch.manual_seed(noise)
        results.append(evaluator.train_final(make_cnn, KD(), seed=seed, epochs=2)[1].curve)
    assert results[0] == results[1] != results[2]


def test_a_diverged_final_training_has_accuracy_0(evaluator):
    model, result = evaluator.train_final(lambda: Faulty(lambda logits: logits * float("nan")), KD(), seed=0)
    assert (result.status, result.val_accuracy) == ("diverged", 0.0)
    assert evaluator.judge(model, result).test_accuracy == 0.0


def test_the_teacher_has_a_row_of_its_own(evaluator):
    row = evaluator.teacher_row()
    assert row.test_accuracy > 0.85
    assert row.test_agreement == row.teacher_agreement == 1.0
    assert row.macs > 0
    assert row.train_memory_bytes > row.n_params * 12
    assert not any(parameter.requires_grad for parameter in evaluator.teacher.parameters())


# --- with real students ---------------------------------------------------------------------------------------------


ONE_TRIAL = """
import json, random, numpy, torch
random.seed(2); numpy.random.seed(2); torch.manual_seed(2)
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.records import Proposal
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.tasks import get_task
candidate = HNAGSpace("hnag-small").sample(numpy.random.default_rng(11))
trial = KDEvaluator(get_task("cluttered-digits", n_train=320)).evaluate(Proposal(candidate, 2, 17, 0))
print(json.dumps(trial.outcome()))
"""


def test_the_same_seed_gives_the_same_trial_in_a_new_process(cluttered_teacher, capsys):
    env = os.environ | {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-c", ONE_TRIAL], env=env, capture_output=True, text=True, check=True, timeout=120
    )
    exec(ONE_TRIAL.replace("seed(2)", "seed(1)"), {})
    here = capsys.readouterr().out
    assert json.loads(here)["status"] == "success"
    assert here == child.stdout


def test_a_real_candidate_fills_the_record(tiny_data, cluttered_teacher):
    evaluator = KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher)
    candidate = HNAGSpace("hnag-small").sample(np.random.default_rng(0))
    trial = evaluator.evaluate(Proposal(candidate, 1, 5, 0))
    assert trial.status == "success", trial.message
    spec = fit_width(
        candidate.sample_wiring(derive_seed(5, "wiring")),
        24_000,
        in_channels=1,
        image_size=12,
        n_classes=10,
        min_channels=4,
    )
    assert (trial.wiring, trial.n_params, trial.macs) == (spec.wiring.digest, spec.n_params, spec.macs)
    assert trial.candidate == candidate.to_dict()


def test_a_family_too_large_for_the_budget_is_a_failed_trial_that_says_the_smallest(tiny_data, cluttered_teacher):
    evaluator = KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher)
    evaluator.task = evaluator.task.__class__(**{**evaluator.task.to_dict(), "max_params": 100})
    trial = evaluator.evaluate(Proposal(HNAGSpace("hnag-small").sample(np.random.default_rng(0)), 1, 5, 0))
    assert (trial.status, trial.student_epochs) == ("refused", 0)
    assert any(word.isdigit() and int(word) > 100 for word in trial.message.replace(",", " ").split())


@pytest.mark.gpu
def test_everything_runs_on_a_gpu(tiny_data, cluttered_teacher, make_cnn):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    evaluator = KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher, device="cuda")
    trial = evaluator.evaluate(Proposal(HNAGSpace("hnag-small").sample(np.random.default_rng(0)), 3, 5, 0))
    assert trial.status == "success", trial.message
    assert trial.info["cuda_graph"], trial.info
    model, result = evaluator.train_final(make_cnn, KD(), seed=0, epochs=1)
    assert evaluator.judge(model, result).test_accuracy is not None
    evaluator.teacher.to("cpu")


def test_a_teacher_whose_costs_cannot_be_counted_is_a_row_all_the_same(cluttered_teacher, tiny_data):
    class Untrainable(nn.Module):
        """It has no gradient."""

        def __init__(self):
            super().__init__()
            self.network = cluttered_teacher.network

        def forward(self, images):
            return self.network(images).detach()

    row = KDEvaluator(tiny_data.task, data=tiny_data, teacher=Untrainable()).teacher_row()
    assert row.test_accuracy > 0.85
    assert row.macs > 0
    assert row.train_memory_bytes == 0
    assert row.message.startswith("its costs are not counted: ")


def test_a_run_is_continued_with_the_teacher_that_it_began_with(tiny_data, cluttered_teacher, tmp_path):
    """A file of weights that was replaced has the same name."""
    file, out = tmp_path / "teacher.safetensors", tmp_path / "run"
    write_checkpoint(cluttered_teacher, file, tiny_data)

    def run(trials, teacher=str(file)):
        evaluator = KDEvaluator(tiny_data.task, data=tiny_data, teacher=teacher, threads=1)
        found = {"evaluator": evaluator, "space": HNAGSpace("hnag-small"), "n_trials": trials}
        search(tiny_data.task, "random_search", **found, out=out, evaluation={"teacher": teacher})

    run(1)
    before = file.read_bytes()
    other = copy.deepcopy(cluttered_teacher)
    with torch.no_grad():
        other.network.head.bias[3] += 0.1
    write_checkpoint(other, file, tiny_data)
    with pytest.raises(TaskError, match="the teacher has the same name as when this run began, but other weights"):
        run(2)
    with pytest.raises(TaskError, match="the teacher has the same name"):
        train_member(out, next(iter(TrialStore(out / "trials.jsonl"))).candidate_digest)
    file.write_bytes(before)
    run(2)
    assert len(TrialStore(out / "trials.jsonl")) == 2
    # one that is trained when it is not there may have other digits on another machine
    assert is_trained_here("resnet-small")
    assert is_trained_here("zoo:wrn_40_2")
    assert not any(map(is_trained_here, (str(file), f"resnet-small@{file}", "module:function", cluttered_teacher)))
