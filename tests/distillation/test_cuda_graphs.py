"""Whole-step graphs: the control flow with stand-ins for CUDA's classes here, the real thing with ``-m gpu``."""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from naslib_autokd.distillation import cuda_graphs, training
from naslib_autokd.distillation.cuda_graphs import WARM_UP_STEPS, GraphedStep
from naslib_autokd.distillation.training import NesterovSGD, TrainingSettings, seeded, step_seconds, train
from naslib_autokd.search_spaces.hnag import ErdosRenyi, Generator, KDSettings, StudentSpec, WattsStrogatz
from naslib_autokd.search_spaces.hnag.student import Student


class FakeStream:
    def wait_stream(self, other):
        pass


class FakeGraph:
    """Replays the step that was "recorded": with the tensors of then, into the tensors of then."""

    def replay(self):
        for into, value in zip(self.outputs, self.work(), strict=True):
            into.copy_(value)


class Trainer:
    """A training step as `train` has it, which can be recorded without being executed.

    Faults: ``waits`` for the device; ``refused`` when it is recorded, ``invalid`` so that the capture cannot even be
    ended; ``wrong`` results; ``constant``, the label of the first image is read while it is recorded; ``memory``.
    """

    def __init__(self, fault=""):
        with seeded(0):
            self.model = nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
        self.optimizer = NesterovSGD(self.model.parameters(), TrainingSettings())
        self.graph, self.executed, self.sync_mode, self.fault = None, 0, 0, fault

    def state(self):
        return [*self.model.parameters(), *self.model.buffers(), *self.optimizer.velocity]

    def step(self, images, labels, targets, lr, *rest):
        if self.graph is None:
            return self.work(images, labels, lr)
        if self.fault in ("refused", "invalid"):
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        if self.fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        first = int(labels[0])

        def work():
            shown = images + 1.0 if self.fault == "wrong" else images
            known = torch.cat([torch.tensor([first]), labels[1:]]) if self.fault == "constant" else labels
            return self.work(shown, known, lr)

        self.graph.work, self.graph.outputs = work, (torch.zeros(len(images), 3), torch.zeros(()))
        return self.graph.outputs

    def work(self, images, labels, lr):
        self.executed += 1
        logits = self.model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        if self.fault == "waits" and self.sync_mode:
            raise RuntimeError("called a synchronizing CUDA operation")
        self.optimizer.step(lr)
        return logits.detach(), loss.detach()

    @contextmanager
    def recording(self, graph, stream):
        self.graph = graph
        try:
            yield
        finally:
            self.graph = None
        if self.fault == "invalid":
            raise RuntimeError("operation failed due to a previous error during capture")

    def set_sync_mode(self, mode):
        self.sync_mode = mode


def batches(n):
    rng = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 2, 4, generator=rng), 1 + torch.randint(2, (6,), generator=rng), None, 0.1 / (i + 1), "rest")
        for i in range(n)
    ]


@pytest.fixture
def fakes(monkeypatch):
    def use(trainer):
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream())
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        monkeypatch.setattr(torch.cuda, "graph", trainer.recording)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", trainer.set_sync_mode)
        return GraphedStep(trainer.step, trainer.state)

    monkeypatch.setattr(cuda_graphs, "_unusable", "")
    yield use
    cuda_graphs._side_stream.cache_clear()


def eager_steps(n):
    trainer = Trainer()
    return trainer, [trainer.step(*batch) for batch in batches(n)]


N = WARM_UP_STEPS + 3


def test_replays_move_the_model_as_eager_steps_do(fakes, caplog):
    eager, expected = eager_steps(N)
    trainer = Trainer()
    run = fakes(trainer)
    for index, (batch, (logits, loss)) in enumerate(zip(batches(N), expected, strict=True)):
        assert run.captured == (index > WARM_UP_STEPS)
        found = run(*batch)
        torch.testing.assert_close(found[0], logits)
        torch.testing.assert_close(found[1], loss)
    for one, other in zip(trainer.state(), eager.state(), strict=True):
        torch.testing.assert_close(one, other)
    assert trainer.executed == N + 1  # the step that the graph is compared with
    assert (run.reason, trainer.sync_mode) == ("", 0)
    assert not caplog.records


FAULTS = {
    "waits": "called a synchronizing CUDA operation",
    "refused": "operation not permitted when stream is capturing",
    "invalid": "operation not permitted when stream is capturing",
    "wrong": "tensors differ after its first step",
    "constant": "tensors differ after its first step",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_captured_or_computes_something_else_runs_eagerly(fakes, caplog, fault):
    eager, expected = eager_steps(N)
    trainer = Trainer(fault)
    run = fakes(trainer)
    with caplog.at_level(logging.WARNING):
        outputs = [run(*batch) for batch in batches(N)]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"the training runs without a CUDA graph: {run.reason}"
    assert FAULTS[fault] in run.reason
    assert not run.captured
    for (logits, _), (other, _) in zip(outputs, expected, strict=True):
        assert torch.equal(logits, other)
    for one, other in zip(trainer.state(), eager.state(), strict=True):
        assert torch.equal(one, other)
    # only a capture that could not be ended is the last one of this process
    later = fakes(Trainer())
    for batch in batches(N):
        later(*batch)
    assert later.captured == (fault != "invalid")
    assert ("a capture failed before in this process" in later.reason) == (fault == "invalid")


def test_lack_of_memory_is_no_reason_to_go_on(fakes, caplog):
    run = fakes(Trainer("memory"))
    for batch in batches(WARM_UP_STEPS):
        run(*batch)
    with pytest.raises(torch.OutOfMemoryError):
        run(*batches(1)[0])
    assert not caplog.records


def test_a_training_shorter_than_the_warm_up_says_so(fakes):
    run = fakes(Trainer())
    for batch in batches(WARM_UP_STEPS):
        run(*batch)
    assert not run.captured
    assert f"no more than {WARM_UP_STEPS} steps" in run.reason


# --- in a training: every recorded step is executed again by Python --------------------------------------------------


@pytest.fixture
def with_graphs(monkeypatch):
    """CPU trainings that take the way of those on a GPU; the precisions that were recorded."""
    recorded = []

    def record(step, batch):
        recorded.append("bfloat16" if step.bfloat16 else "float32")
        return step

    monkeypatch.setattr(training, "GRAPH_DEVICES", ("cpu",))
    monkeypatch.setattr(cuda_graphs, "_recorded", record)
    monkeypatch.setattr(cuda_graphs, "_aside", lambda device: nullcontext())
    monkeypatch.setattr(cuda_graphs, "_waiting_is_an_error", nullcontext)
    return recorded


def trained(make_cnn, data, **changes):
    with seeded(0):
        model = make_cnn((4, 8, 8))
    own = {"kd": None, "epochs": 3, "seed": 0} | changes
    settings = TrainingSettings(**own.pop("settings", {}))
    result = train(model, data, None, settings=settings, **own)
    return result, list(model.state_dict().values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_with_graphs_is_the_eager_one(with_graphs, tiny_data, make_cnn, precision):
    graph, weights = trained(make_cnn, tiny_data, settings={"precision": precision})
    assert with_graphs == [precision]
    eager, others = trained(make_cnn, tiny_data, settings={"precision": precision, "cuda_graph": False})
    assert with_graphs == [precision]
    assert (graph.cuda_graph, graph.cuda_graph_reason, graph.precision) == (True, "", precision)
    assert not eager.cuda_graph
    assert graph.curve == eager.curve
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))


def traced(step, batch):
    """The list of operations of a step, recorded on zeros and without moving anything, as a graph's kernels are."""
    before = [tensor.detach().clone() for tensor in step.state()]
    images, labels, targets, _, *rest = batch
    given = [None if tensor is None else torch.zeros_like(tensor) for tensor in (images, labels, targets)]
    operations = make_fx(lambda *batch: step(*batch, *rest))(*given, torch.zeros(()))
    with torch.no_grad():
        for tensor, value in zip(step.state(), before, strict=True):
            tensor.copy_(value)

    @torch.no_grad()
    def replay(images, labels, targets, lr, *_):
        return operations(images, labels, targets, torch.tensor(lr))

    return replay


MERGES = Generator(
    WattsStrogatz(3, 2, 0.5),
    ErdosRenyi(1),
    WattsStrogatz(3, 2, 0.5),
    top_merges={"concat": 1.0},
    bottom_merges={"sum": 0.5, "attention": 0.5},
)


@pytest.mark.parametrize("loss", ["kd", "ce", "partly labelled"])
def test_the_recorded_operations_of_a_student_are_its_step(with_graphs, tiny_data, monkeypatch, loss):
    """Nothing in them was read from the batch, the rate or the weights that they were recorded with."""
    monkeypatch.setattr(cuda_graphs, "_recorded", traced)
    data = tiny_data
    if loss == "partly labelled":
        task = replace(data.task, n_train=data.task.n_train // 2, n_unlabelled=data.task.n_train // 2)
        data = replace(data, task=task, unlabelled_views=data.train_views[:, task.n_train :])
    spec = StudentSpec(MERGES.sample_wiring(0), (4, 6, 8), 1, 12, 10)
    assert {"sum", "concat", "attention"} <= {step.kind for step in Student(spec).plan.steps}
    soft = torch.randn(*data.student_views.shape[:2], 10, generator=torch.Generator().manual_seed(0))
    curves, weights = [], []
    for cuda_graph in (True, False):
        student = Student(spec)
        student.execution = "steps"
        kd, settings = None if loss == "ce" else KDSettings(), TrainingSettings(cuda_graph=cuda_graph)
        result = train(student, data, soft, kd=kd, epochs=4, seed=0, settings=settings)
        assert result.cuda_graph == cuda_graph, result.cuda_graph_reason
        curves.append(result.curve)
        weights.append(student.state_dict())
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-5)


def test_a_training_that_cannot_be_captured_says_why_and_is_the_eager_one(
    with_graphs, tiny_data, make_cnn, monkeypatch, caplog
):
    def refuse(step, batch):
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(cuda_graphs, "_recorded", refuse)
    refused, weights = trained(make_cnn, tiny_data)
    assert (refused.cuda_graph, refused.cuda_graph_reason) == (False, "operation not permitted")
    assert len(caplog.records) == 1
    eager, others = trained(make_cnn, tiny_data, settings={"cuda_graph": False})
    assert refused.curve == eager.curve
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))
    short, _ = trained(make_cnn, tiny_data, epochs=1)
    assert short.cuda_graph_reason == f"it has no more than {WARM_UP_STEPS} steps"


def test_auto_compares_the_graphs_of_both_precisions(with_graphs, tiny_data, make_cnn):
    result, _ = trained(make_cnn, tiny_data, settings={"precision": "auto"})
    assert with_graphs == ["float32", "bfloat16", result.precision]
    assert "ms a step in bfloat16" in result.precision_reason


def test_steps_are_timed_after_their_capture(with_graphs, tiny_data, make_cnn):
    calls = []

    class Counting(training.TrainingStep):
        def __call__(self, *batch):
            calls.append(self.bfloat16)
            return super().__call__(*batch)

    with seeded(0):
        model = make_cnn((4, 8, 8))
    step = Counting(model, NesterovSGD(model.parameters(), TrainingSettings()), None, None)
    labels = tiny_data.train_labels[:8]
    batch = (tiny_data.normalise(tiny_data.train_images[:8]), labels, None, 0.1, labels, labels, 0.0)
    assert set(step_seconds(step, batch, repeats=5, graph=True)) == {"float32", "bfloat16"}
    # of each: the warm-up, the eager step and the replay that are compared, those that are timed
    assert calls.count(True) == calls.count(False) == WARM_UP_STEPS + 2 + 5


class Objective:
    def parameters(self):
        return []

    def __call__(self, model, images, labels, view, index, done):
        logits = model(images)
        return logits, nn.functional.cross_entropy(logits, labels)


def test_why_a_training_has_no_graph_is_told_on_a_gpu_alone(with_graphs, tiny_data, make_cnn, monkeypatch):
    for changes in ({"objective": Objective()}, {"kd_loss": lambda *args, **kwargs: 0.0}):
        result, _ = trained(make_cnn, tiny_data, **changes)
        assert (result.cuda_graph, with_graphs) == (False, [])
    device = torch.device("cpu")
    assert training.without_graph(device, TrainingSettings(cuda_graph=False)) == "cuda_graph=False"
    assert "of one's own" in training.without_graph(device, TrainingSettings(), Objective())
    monkeypatch.undo()
    assert training.without_graph(device, TrainingSettings()) == "cpu has none"
    result, _ = trained(make_cnn, tiny_data)
    assert (result.cuda_graph, result.cuda_graph_reason) == (False, "")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_graphed_training_is_the_eager_one_on_a_gpu(tiny_data, make_cnn, caplog, precision):
    curves = []
    for cuda_graph in (False, True):
        settings = {"precision": precision, "cuda_graph": cuda_graph}
        result, _ = trained(make_cnn, tiny_data.to("cuda"), settings=settings)
        assert result.cuda_graph == cuda_graph, result.cuda_graph_reason
        curves.append(result.curve)
    assert not caplog.records
    assert curves[1] == pytest.approx(curves[0], rel=1e-3 if precision == "float32" else 3e-2)
