"""Whole-step graphs: the control flow with stand-ins for CUDA's classes here, the real thing with ``-m gpu``."""

from __future__ import annotations

import logging
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from naslib_autokd.distillation.cuda_graphs import WARM_UP_STEPS, capture
from naslib_autokd.distillation.training import NesterovSGD, TrainingSettings, seeded, train


class FakeStream:
    def wait_stream(self, other):
        pass


class FakeGraph:
    """Replays the step that was "recorded": with the tensors of then, into the tensors of then."""

    def replay(self):
        for into, value in zip(self.outputs, self.work(), strict=True):
            into.copy_(value)


class Trainer:
    """A training step as `train` has it, which can be recorded without being executed."""

    def __init__(self, *, broken=False, wrong=False):
        with seeded(0):
            self.model = nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
        self.optimizer = NesterovSGD(self.model.parameters(), TrainingSettings())
        self.graph, self.executed, self.broken, self.wrong = None, 0, broken, wrong

    def state(self):
        return [*self.model.parameters(), *self.model.buffers(), *self.optimizer.velocity]

    def step(self, images, labels, targets, lr, *rest):
        if self.graph is None:
            return self.work(images, labels, lr)
        if self.broken:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        graph, self.graph = self.graph, None
        graph.work = lambda: self.work(images + 1.0 if self.wrong else images, labels, lr)
        graph.outputs = torch.zeros(len(images), 3), torch.zeros(())
        return graph.outputs

    def work(self, images, labels, lr):
        self.executed += 1
        logits = self.model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        self.optimizer.step(lr)
        return logits.detach(), loss.detach()

    @contextmanager
    def recording(self, graph):
        self.graph = graph
        try:
            yield
        finally:
            self.graph = None


def batches(n):
    rng = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 2, 4, generator=rng), torch.randint(3, (6,), generator=rng), None, 0.1 / (i + 1), "rest")
        for i in range(n)
    ]


def fakes(monkeypatch, trainer):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: trainer.recording(None))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", trainer.recording)


def eager_weights(n):
    trainer = Trainer()
    outputs = [trainer.step(*batch) for batch in batches(n)]
    return trainer, outputs


def test_replays_move_the_model_as_eager_steps_do(monkeypatch, caplog):
    eager, expected = eager_weights(4)
    trainer = Trainer()
    fakes(monkeypatch, trainer)
    run = capture(trainer.step, trainer.state, batches(4)[0])
    assert trainer.executed == WARM_UP_STEPS + 2  # those, the reference, the replay that is compared with it
    outputs = [run(*batch) for batch in batches(4)]
    for (logits, loss), (other_logits, other_loss) in zip(outputs, expected, strict=True):
        torch.testing.assert_close(logits, other_logits)
        torch.testing.assert_close(loss, other_loss)
    for one, other in zip(trainer.state(), eager.state(), strict=True):
        torch.testing.assert_close(one, other)
    assert not caplog.records


@pytest.mark.parametrize(
    ("fault", "said"),
    [("broken", "operation not permitted when stream is capturing"), ("wrong", "tensors differ after the first step")],
)
def test_what_cannot_be_captured_or_computes_something_else_runs_eagerly(monkeypatch, caplog, fault, said):
    eager, expected = eager_weights(3)
    trainer = Trainer(**{fault: True})
    fakes(monkeypatch, trainer)
    with caplog.at_level(logging.WARNING):
        run = capture(trainer.step, trainer.state, batches(3)[0])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the training runs without a CUDA graph: ")
    assert said in line
    assert "\n" not in line
    assert run == trainer.step
    for batch, (logits, _) in zip(batches(3), expected, strict=True):
        assert torch.equal(run(*batch)[0], logits)
    for one, other in zip(trainer.state(), eager.state(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
def test_a_graphed_training_is_the_eager_one_on_a_gpu(tiny_data, make_cnn, caplog):
    curves = []
    for cuda_graph in (False, True):
        with seeded(0):
            model = make_cnn((4, 8, 8))
        result = train(
            model,
            tiny_data.to("cuda"),
            None,
            kd=None,
            epochs=3,
            seed=0,
            settings=TrainingSettings(cuda_graph=cuda_graph),
        )
        curves.append(result.curve)
    assert not caplog.records
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
