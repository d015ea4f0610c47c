"""The student: exactly the predicted size, and the function that an independent recursion in numpy computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hnag_generator import MIXED, PUBLISHED, SMALL, generators
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from naslib_autokd.distillation.training import channels_last
from naslib_autokd.search_spaces.hnag.generator import ErdosRenyi, Generator, WattsStrogatz
from naslib_autokd.search_spaces.hnag.graphs import Graph
from naslib_autokd.search_spaces.hnag.steps import BATCH_NORM_EPS, weighted_sum
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.search_spaces.hnag.wiring import OPERATIONS, StudentSpec

EVERYTHING = Generator(
    WattsStrogatz(7, 2, 0.5),
    ErdosRenyi(3, 0.5),
    WattsStrogatz(4, 2, 0.5),
    channel_growth=1.5,
    operations={name: 1 / len(OPERATIONS) for name in OPERATIONS},  # type: ignore[arg-type]
    top_merges={"sum": 0.4, "concat": 0.3, "attention": 0.3},  # type: ignore[arg-type]
    mid_merges={"sum": 0.4, "concat": 0.3, "attention": 0.3},  # type: ignore[arg-type]
    bottom_merges={"sum": 0.4, "concat": 0.3, "attention": 0.3},  # type: ignore[arg-type]
    head_ratio=1.5,
)


def spec_of(
    generator: Generator, seed: int = 0, channels: tuple[int, int, int] = (3, 4, 5), **kwargs: Any
) -> StudentSpec:
    values = {"in_channels": 2, "image_size": 8, "n_classes": 4, "stem": "small"} | kwargs
    return StudentSpec(generator.sample_wiring(seed), channels, **values)


def measured(spec: StudentSpec) -> tuple[int, int]:
    """Parameters and MACs of the module by torch's own counting, without memory for the tensors."""
    with torch.device("meta"):
        student = Student(spec)
        images = torch.empty(1, spec.in_channels, spec.image_size, spec.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = student.eval()(images)
    assert logits.shape == (1, spec.n_classes)
    return sum(p.numel() for p in student.parameters()), counter.get_total_flops() // 2


@settings(max_examples=30, deadline=None)
@given(
    generator=generators(6, 3, 4),
    seed=st.integers(0, 2**31),
    channels=st.tuples(*[st.integers(1, 9)] * 3),
    in_channels=st.sampled_from([1, 3]),
    image_size=st.integers(16, 40),
    n_classes=st.integers(2, 12),
    stem=st.sampled_from(["small", "large"]),
)
def test_parameters_and_macs_are_those_predicted(generator: Generator, seed: int, **kwargs: Any) -> None:
    spec = spec_of(generator, seed, **kwargs)
    assert measured(spec) == (spec.n_params, spec.macs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("generator", [SMALL, MIXED])
def test_macs_are_those_of_fvcore(generator: Generator) -> None:
    from fvcore.nn import FlopCountAnalysis

    spec = spec_of(generator, image_size=12)
    analysis = FlopCountAnalysis(Student(spec).eval(), torch.zeros(1, 2, 12, 12))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = analysis.by_operator()
    assert by_operator["conv"] + by_operator["linear"] == spec.macs


def test_published_sizes_count_like_the_performance_notes() -> None:
    # 200 nodes, all 3x3 convolutions (setting L); 1,000 for the largest of the space.
    assert PUBLISHED.sample_wiring(0).n_operations == 200
    largest = Generator(WattsStrogatz(10, 5, 0.9), ErdosRenyi(10, 0.2), WattsStrogatz(10, 5, 0.1))
    assert largest.sample_wiring(0).n_operations == 1000


class Reference:
    """The definition of `wiring`'s docstring as a recursion over float64 arrays (batch, channels, height, width)."""

    def __init__(self, student: Student, training: bool) -> None:
        self.spec, self.training = student.spec, training
        self.convs = iter([p.detach().numpy() for p in student.convs])
        self.norms = self._norms(student)
        self.n_merges = 0
        self.merge_weights = [] if student.merge_weights is None else student.merge_weights.detach().numpy()
        self.student = student

    @staticmethod
    def _norms(student: Student) -> Iterator[tuple[np.ndarray, ...]]:
        tensors = (student.norm_weight, student.norm_bias, student.running_mean, student.running_var)
        start = 0
        for n in student.plan.norm_channels:
            yield tuple(t.detach().numpy()[start : start + n, None, None].copy() for t in tensors)
            start += n

    def conv(self, x: np.ndarray, stride: int = 1, depthwise: bool = False) -> np.ndarray:
        weight = next(self.convs)
        n_out, _, kh, kw = weight.shape
        padded = np.pad(x, ((0, 0), (0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2)))
        height, width = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
        out = np.zeros((len(x), n_out, height, width))
        for i in range(kh):
            for j in range(kw):
                window = padded[:, :, i : i + x.shape[2] : stride, j : j + x.shape[3] : stride]
                if depthwise:
                    out += window * weight[:, 0, i, j][:, None, None]
                else:
                    out += np.einsum("ncyx,oc->noyx", window, weight[:, :, i, j])
        return out

    def norm(self, x: np.ndarray) -> np.ndarray:
        weight, bias, mean, var = next(self.norms)
        if self.training:
            mean, var = x.mean(axis=(0, 2, 3), keepdims=True), x.var(axis=(0, 2, 3), keepdims=True)
        return (x - mean) / np.sqrt(var + BATCH_NORM_EPS) * weight + bias

    def pool(self, x: np.ndarray, kind: str, kernel: int) -> np.ndarray:
        fill = 0.0 if kind == "average" else -np.inf
        r = kernel // 2
        padded = np.pad(x, ((0, 0), (0, 0), (r, r), (r, r)), constant_values=fill)
        windows = [padded[:, :, i : i + x.shape[2], j : j + x.shape[3]] for i in range(kernel) for j in range(kernel)]
        return np.mean(windows, axis=0) if kind == "average" else np.max(windows, axis=0)

    def halve(self, x: np.ndarray, times: int) -> np.ndarray:
        for _ in range(times):
            even = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
            corners = [even[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
            average = self.spec.wiring.downsampling == "average"
            x = np.mean(corners, axis=0) if average else np.max(corners, axis=0)
        return x

    def merge(self, merge: str, inputs: list[np.ndarray]) -> np.ndarray:
        if len(inputs) == 1:
            assert merge == "single"
            return inputs[0]
        if merge == "concat":
            return self.conv(np.concatenate(inputs, axis=1))
        gates = [sigmoid(w) for w in self.merge_weights[self.n_merges : self.n_merges + len(inputs)]]
        self.n_merges += len(inputs)
        weighted = [g * x for g, x in zip(gates, inputs, strict=True)]
        if merge == "sum":
            return np.sum(weighted, axis=0)
        return (gates[0] + sigmoid(inputs[0])) * np.sum(weighted[1:], axis=0)

    def graph(self, graph: Graph, x: Any, node: Any) -> list[np.ndarray]:
        ends: list[np.ndarray] = []
        for index in range(graph.n_nodes):
            before = [a for a, b in graph.edges if b == index]
            ends.append(node(index, [ends[a] for a in before] if before else [x]))
        return ends

    def mean_of_ends(self, graph: Graph, ends: list[np.ndarray]) -> np.ndarray:
        return np.mean([end for i, end in enumerate(ends) if all(a != i for a, _ in graph.edges)], axis=0)

    def operation(self, name: str, x: np.ndarray) -> np.ndarray:
        x = np.maximum(x, 0)
        if "pool" in name:
            return self.norm(self.pool(x, "average" if name.startswith("avg") else "max", int(name[-1])))
        if name.startswith("separable"):
            x = self.conv(x, depthwise=True)
        return self.norm(self.conv(x))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        spec, wiring = self.spec, self.spec.wiring
        if spec.stem == "small":
            stem = self.norm(self.conv(images))
        else:
            stem = self.norm(self.conv(images, stride=2))
            stem = self.norm(self.conv(np.maximum(stem, 0), stride=2))

        def bottom_graph(bottom: Any, x: np.ndarray) -> np.ndarray:
            def node(i: int, inputs: list[np.ndarray]) -> np.ndarray:
                return self.operation(bottom.operations[i], self.merge(bottom.merges[i], inputs))

            return self.mean_of_ends(bottom.graph, self.graph(bottom.graph, x, node))

        def cell(top: int, inputs: list[np.ndarray]) -> np.ndarray:
            stage, before = wiring.stages[top], [a for a, b in wiring.graph.edges if b == top]
            sources = [wiring.stages[a] for a in before] if before else [0]
            inputs = [self.halve(x, stage - s) for x, s in zip(inputs, sources, strict=True)]
            if wiring.merges[top] != "concat":
                inputs = [x if s == stage else self.conv(x) for x, s in zip(inputs, sources, strict=True)]
            merged, inner = self.merge(wiring.merges[top], inputs), wiring.cells[top]

            def mid(i: int, inputs: list[np.ndarray]) -> np.ndarray:
                return bottom_graph(inner.nodes[i], self.merge(inner.merges[i], inputs))

            return self.mean_of_ends(inner.graph, self.graph(inner.graph, merged, mid))

        ends = self.graph(wiring.graph, stem, cell)
        outputs, last = [], wiring.stages[-1]
        for node in wiring.graph.outputs:
            x = self.halve(ends[node], last - wiring.stages[node])
            outputs.append(x if wiring.stages[node] == last else self.conv(x))
        x = np.maximum(np.mean(outputs, axis=0), 0)
        if wiring.head_ratio > 0:
            x = np.maximum(self.norm(self.conv(x)), 0)
        assert next(self.convs, None) is None
        assert next(self.norms, None) is None
        assert self.n_merges == len(self.merge_weights)
        weight, bias = self.student.classifier_weight.detach().numpy(), self.student.classifier_bias.detach().numpy()
        return x.mean(axis=(2, 3)) @ weight.T + bias


def sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))


def randomised(spec: StudentSpec, seed: int = 0) -> Student:
    """A student in float64 whose parameters and statistics are all away from their initial values."""
    student = Student(spec, seed=seed).double()
    rng = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for tensor in [*student.parameters(), student.running_mean]:
            tensor += 0.3 * torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
        student.running_var.copy_(torch.rand(student.running_var.shape, generator=rng, dtype=torch.float64) + 0.5)
    return student


CASES = {
    "everything": spec_of(EVERYTHING, 0),
    "everything, another draw": spec_of(EVERYTHING, 3, stem="large", image_size=21, in_channels=1),
    "max pooling, odd size": spec_of(
        Generator(WattsStrogatz(6, 4, 0.6), ErdosRenyi(2, 0.5), WattsStrogatz(3, 2), downsampling="max"),
        1,
        image_size=11,
    ),
    "disconnected": spec_of(Generator(WattsStrogatz(5, 2, 0.9), ErdosRenyi(4, 0.0), WattsStrogatz(2, 1)), 2),
    "an empty stage": spec_of(
        Generator(WattsStrogatz(4, 2, 0.5), ErdosRenyi(1), WattsStrogatz(1, 0), stage_ratios=(1.0, 0.0, 1.0)), 0
    ),
    "no first stage": spec_of(
        Generator(WattsStrogatz(4, 2, 0.5), ErdosRenyi(1), WattsStrogatz(1, 0), stage_ratios=(0.0, 1.0, 0.0)), 0
    ),
    "one node": spec_of(Generator(WattsStrogatz(1, 0), ErdosRenyi(1), WattsStrogatz(1, 0)), 0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_forward_is_the_definition_in_numpy(case: str, training: bool) -> None:
    spec = CASES[case]
    student = randomised(spec).train(training)
    images = torch.randn(3, spec.in_channels, spec.image_size, spec.image_size, dtype=torch.float64)
    expected = Reference(student, training)(images.numpy())
    with torch.no_grad():
        torch.testing.assert_close(student(images), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_everything_contains_everything() -> None:
    used: set[str] = set()
    for case in CASES.values():
        used.update(case.wiring.merges)
        for cell in case.wiring.cells:
            used.update(cell.merges)
            for node in cell.nodes:
                used.update(node.merges, node.operations)
    assert used == {"single", "sum", "concat", "attention", *OPERATIONS}


@pytest.mark.parametrize("case", ["everything", "max pooling, odd size"])
def test_gradients_reach_every_parameter_and_agree_with_differences(case: str) -> None:
    student = randomised(CASES[case]).train()  # batch norm keeps the values in a range where differences are exact
    images = torch.randn(4, 2, CASES[case].image_size, CASES[case].image_size, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return student(images).square().sum()

    loss().backward()
    rng = torch.Generator().manual_seed(5)
    step = 1e-8  # small, so that few ReLUs and maxima change sides
    for parameter in student.parameters():
        assert parameter.grad is not None
        direction = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        with torch.no_grad():
            parameter += step * direction
            above = loss()
            parameter -= 2 * step * direction
            below = loss()
            parameter += step * direction
        slope = (parameter.grad * direction).sum()
        torch.testing.assert_close((above - below) / (2 * step), slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["everything", "everything, another draw"])
def test_the_logits_of_an_image_do_not_depend_on_its_batch(case: str) -> None:
    # The authors' attention merge scales by the extremes of the whole batch (trap 9).
    spec = CASES[case]
    student = randomised(spec).eval()
    images = torch.randn(5, spec.in_channels, spec.image_size, spec.image_size, dtype=torch.float64)
    with torch.no_grad():
        together = student(images)
        alone = torch.cat([student(image[None]) for image in images])
        constant = student(torch.zeros_like(images[:1]))
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    assert constant.isfinite().all()


def test_weights_depend_on_the_seed_alone_and_leave_torch_as_it_was() -> None:
    spec = CASES["everything"]
    before = torch.random.get_rng_state()
    first, other = Student(spec, seed=3), Student(spec, seed=4)
    first(torch.zeros(2, 2, 8, 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(77)
    again = Student(spec, seed=3)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.convs[0], other.convs[0])


def test_initial_convolutions_are_the_identity_plus_half_of_he() -> None:
    generator = Generator(WattsStrogatz(3, 2), ErdosRenyi(1), WattsStrogatz(1, 0), channel_growth=1.0)
    student = Student(spec_of(generator, channels=(64, 64, 64)))
    node = student.convs[1].detach().clone()
    diagonal = torch.arange(64)
    assert abs(float(node[diagonal, diagonal, 1, 1].mean()) - 1.0) < 0.05
    node[diagonal, diagonal, 1, 1] -= 1.0
    assert float(node.std()) == pytest.approx(0.5 * (2 / (64 * 9)) ** 0.5, rel=0.03)
    stem = student.convs[0].detach()
    assert float(stem.std()) == pytest.approx((2 / (2 * 9)) ** 0.5, rel=0.1)
    assert student.merge_weights is not None
    assert torch.sigmoid(student.merge_weights).tolist() == pytest.approx([0.731] * 2, abs=1e-3)


def test_a_student_learns() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(32) % 4
    images = torch.randn(32, 1, 8, 8, generator=rng) * 0.3
    for i, label in enumerate(labels):
        images[i, 0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1.0
    # Position alone tells the classes apart, which a pooled head sees through the padding and the poolings.
    student = Student(spec_of(SMALL, in_channels=1, channels=(8, 8, 8)))
    torch_optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(student(images), labels)
        torch_optimizer.zero_grad()
        loss.backward()
        torch_optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_a_student_survives_its_state_dict_and_its_specification() -> None:
    spec = CASES["everything"]
    student = Student(spec, seed=1).eval()
    copy = Student(StudentSpec.from_dict(spec.to_dict()), seed=2).eval()
    copy.load_state_dict(student.state_dict(), strict=True)
    images = torch.randn(2, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(student(images), copy(images))
    assert all(tensor.is_contiguous() for tensor in student.state_dict().values())  # as safetensors wants them


def test_weighted_sum() -> None:
    values = [torch.full((2, 3), float(i)) for i in range(1, 4)]
    weights = torch.tensor([0.5, 0.25, 1.0]).unbind()
    assert torch.equal(weighted_sum(values, weights), torch.full((2, 3), 0.5 + 0.5 + 3.0))


class Mixed(TorchDispatchMode):
    """Operations on floating-point values that differ in their type, as GPUs' autocast would promote them."""

    def __init__(self) -> None:
        super().__init__()
        self.n_merges, self.found = 0, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("addcmul", "mul", "cat"):
            values = args[0] if name == "cat" else args
            self.n_merges += 1
            if len({value.dtype for value in values if isinstance(value, torch.Tensor)}) > 1:
                self.found.add(name)
        return func(*args, **(kwargs or {}))


def test_merges_under_autocast_have_one_type() -> None:
    spec = spec_of(EVERYTHING, 2)
    student = Student(spec).train()
    images = torch.randn(4, 2, 8, 8)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), Mixed() as mode:
            assert student(images).dtype == (torch.bfloat16 if enabled else torch.float32)
        assert mode.n_merges > 10
        assert not mode.found


@pytest.mark.parametrize("execution", ["steps", "plan"])
def test_weights_in_channels_last_compute_the_same(execution: str) -> None:
    outputs = []
    for in_channels_last in (False, True):
        student = Student(spec_of(EVERYTHING, 2)).double().train()
        student.execution = execution
        if in_channels_last:
            channels_last(student)
            assert any(not conv.is_contiguous() for conv in student.convs)
        logits = student(torch.randn(16, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        logits.square().sum().backward()
        outputs.append([logits.detach(), *(parameter.grad for parameter in student.parameters())])
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other)
