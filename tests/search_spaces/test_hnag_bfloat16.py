"""The kernels in bfloat16: each instruction against torch in float64 on inputs that are bfloat16 numbers, so that what
differs is the rounding of what is written and the order of the sums; and whole students."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_hnag_execution import DENSE, SPECS, images_of
from test_hnag_student import randomised, spec_of
from torch import Tensor
from torch.nn import functional as F

from naslib_autokd.distillation import training
from naslib_autokd.distillation.costs import train_memory
from naslib_autokd.distillation.training import TrainingSettings, train
from naslib_autokd.search_spaces.hnag import HNAGSpace, execution, fit_width
from naslib_autokd.search_spaces.hnag.execution import Map
from naslib_autokd.search_spaces.hnag.student import Student

REASON = execution.without_bfloat16()
needs_bfloat16 = pytest.mark.skipif(bool(REASON), reason=f"no bfloat16 kernels: {REASON}")

HALF_STEP = 2.0**-8
"""Largest relative error of rounding to 8 significant bits."""
SUMMED = 2.0**-18
"""What sums of thousands of products in float32 may be off, relative to the sum of their magnitudes."""
SHAPE = {"in_channels": 1, "image_size": 12, "n_classes": 10}
SIZES = [(1, 3, 3, 5, 7), (3, 5, 8, 9, 4), (17, 6, 13, 6, 6), (33, 35, 18, 5, 5), (16, 64, 33, 3, 8), (64, 2, 48, 4, 3)]
"""(images, channels in, channels out, height, width)"""


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """bfloat16 numbers, in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().double()


class Block:
    """Values in the kernels' layout, and single instructions run on them."""

    def __init__(self, n_images: int, places: int = 60_000) -> None:
        engine = execution.kernels(torch.bfloat16)
        assert engine is not None
        self.engine, self.n_images = engine, n_images
        self.vectors = -(-n_images // engine.lanes)
        shape = (places, self.vectors, engine.lanes, 2)
        self.block = torch.full(shape, torch.nan, dtype=torch.bfloat16)
        self.used = 0
        self.padding = 0.0

    def map(self, channels: int, height: int, width: int) -> Map:
        made = Map(channels, height, width, paired=True)
        made.start, self.used = self.used, self.used + made.size
        assert self.used <= len(self.block)
        return made

    def put(self, value: Tensor, padding: float = 7.0) -> Map:
        """A map with these numbers (images, channels, height, width); ``padding``: in lanes without an image."""
        n, channels, height, width = value.shape
        made = self.map(channels, height, width)
        for channel in range(channels + channels % 2):
            start = made.start + channel // 2 * made.stride
            slab = self.block[start : start + made.places].reshape(made.places, -1, 2)
            slab[:, :, channel % 2] = padding if channel < channels else 0.0
            if channel < channels:
                slab[:, :n, channel % 2] = value[:, channel].reshape(n, -1).T.bfloat16()
        return made

    def get(self, made: Map) -> Tensor:
        channels = []
        for channel in range(made.channels + made.channels % 2):
            start = made.start + channel // 2 * made.stride
            slab = self.block[start : start + made.places].reshape(made.places, -1, 2)[:, :, channel % 2]
            if channel == made.channels:
                assert not slab.any(), "the neighbour of an odd last channel is zero"
                break
            channels.append(slab[:, : self.n_images].T.reshape(self.n_images, made.height, made.width))
        return torch.stack(channels, 1).double()

    def run(self, name: str, *operands: Any, **pointers: Any) -> None:
        code = execution.Code([[name, *operands]]).at(self.vectors)
        kept, fields = [], dict[str, Any]()
        for field, value in pointers.items():
            if isinstance(value, Tensor):
                kept.append(value)
                fields[field] = value.data_ptr()
            elif isinstance(value, list):
                kept.append((ctypes.c_void_p * len(value))(*[None if t is None else t.data_ptr() for t in value]))
                fields[field] = ctypes.addressof(kept[-1])
            elif isinstance(value, tuple):
                kept.append((ctypes.c_int64 * len(value))(*value))
                fields[field] = ctypes.addressof(kept[-1])
            else:
                fields[field] = value
        fields = {"threads": 1, "eps": 1e-5, "momentum": 0.1} | fields
        run = execution._Run(arena=self.block.data_ptr(), images_n=self.n_images, nv=self.vectors, **fields)
        self.engine(run, code)


def slab(made: Map) -> tuple[Map, execution.Scaled]:
    return made, execution.Scaled(made.stride)


def close(found: Tensor, exact: Tensor, magnitude: Tensor) -> None:
    """Rounded once, from sums that are off by a small part of the sum of the magnitudes of what was added."""
    assert found.shape == exact.shape
    allowed = HALF_STEP * exact.abs() + SUMMED * magnitude + 1e-30
    worst = ((found.double() - exact).abs() / allowed).max()
    assert worst <= 1, f"{worst:.3g} times the allowed error"


@pytest.fixture(params=["tiles", "vectors"])
def unit(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tile unit, and the vectors that take its place where there is none."""
    engine = execution.kernels(torch.bfloat16)
    assert engine is not None
    if request.param == "tiles" and not engine.tiles:
        pytest.skip("no AMX, or the system does not allow it")
    engine.use_tiles(request.param == "tiles")
    yield
    engine.use_tiles(True)


def conv_operands(x: Map, y: Map, weight: Tensor, step: int, depthwise: bool, add: bool) -> list[Any]:
    sizes = (x.channels, y.channels, x.height, x.width, y.height, y.width, *weight.shape[2:])
    return [0, x, y, execution.Scaled(x.stride), execution.Scaled(y.stride), *sizes, step, int(depthwise), int(add)]


@needs_bfloat16
@pytest.mark.usefixtures("unit")
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["", "step 2", "depthwise"])
def test_convolutions(size: tuple[int, ...], kernel: int, kind: str) -> None:
    threads = 1 + size[0] % 2
    n, n_in, n_out, height, width = size
    step, groups = 2 if kind == "step 2" else 1, n_in if kind == "depthwise" else 1
    n_out = n_in if groups > 1 else n_out
    block = Block(n)
    x, weight = numbers(n, n_in, height, width), numbers(n_out, n_in // groups, kernel, kernel, seed=1)
    x.requires_grad_()
    weight.requires_grad_()
    y = F.conv2d(x, weight, stride=step, padding=kernel // 2, groups=groups)
    dy, before = numbers(*y.shape, seed=2), numbers(*x.shape, seed=3)
    dx, dw = torch.autograd.grad(y, (x, weight), dy)
    sizes = [tensor.detach().abs().requires_grad_() for tensor in (x, weight)]
    absolute = F.conv2d(*sizes, stride=step, padding=kernel // 2, groups=groups)
    dx_size, dw_size = torch.autograd.grad(absolute, sizes, dy.abs())
    x, weight, single = x.detach(), weight.detach(), weight.detach().float().contiguous()
    own, target, gradient = block.put(x), block.map(*y.shape[1:]), block.put(dy, padding=0.0)
    pointers = {"weights": [single], "threads": threads}
    rest = (single, step, groups > 1)
    block.run("conv", *conv_operands(own, target, *rest, add=False), **pointers)
    close(block.get(target), y.detach(), absolute.detach())
    found = torch.full_like(single, torch.nan)
    block.run("conv_weight", *conv_operands(own, gradient, *rest, add=False), weight_gradients=[found], **pointers)
    assert ((found - dw).abs() <= SUMMED * dw_size + 1e-30).all()
    target = block.put(before)
    block.run("conv_input", *conv_operands(target, gradient, *rest, add=True), **pointers)
    close(block.get(target), dx + before, dx_size + before.abs())
    target = block.map(*x.shape[1:])
    block.run("conv_input", *conv_operands(target, gradient, *rest, add=False), **pointers)
    close(block.get(target), dx, dx_size)


# --- batch norm, merges, poolings, head -------------------------------------------------------------------------------

BATCHES = [(1, 3, 5, 7), (3, 5, 9, 4), (17, 6, 6, 6), (33, 1, 5, 5), (64, 4, 8, 9), (16, 3, 16, 16)]
"""(images, channels, height, width)"""


class Norms:
    """The batch norms of one value: what a run reads and writes of them."""

    def __init__(self, channels: int, training: bool, seed: int = 5) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.weight, self.bias, self.mean = (torch.randn(channels, generator=rng) for _ in range(3))
        self.var = 0.5 + torch.rand(channels, generator=rng)
        self.coefficients = torch.full((4, channels), torch.nan)
        self.training = training
        self.before = self.mean.double().clone(), self.var.double().clone()

    def pointers(self) -> dict[str, Any]:
        return {
            "norm_weight": self.weight,
            "norm_bias": self.bias,
            "running_mean": self.mean,
            "running_var": self.var,
            "coefficients": self.coefficients,
            "n_norm": len(self.weight),
            "batch_statistics": int(self.training),
            "update": int(self.training),
        }

    def __call__(self, x: Tensor) -> Tensor:
        running = [tensor.clone() for tensor in self.before]
        return F.batch_norm(x, *running, self.weight.double(), self.bias.double(), self.training, 0.1, 1e-5)

    def set_from(self, x: Tensor) -> None:
        """The coefficients that `statistics` finds, in float64 and rounded once."""
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0) if self.training else self.before[::-1]
        inverse = (var + 1e-5).rsqrt()
        scale = inverse * self.weight
        self.coefficients[:] = torch.stack([mean, inverse, scale, self.bias - scale * mean])


@needs_bfloat16
@pytest.mark.parametrize("size", BATCHES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_statistics(size: tuple[int, ...], training: bool) -> None:
    n, channels = size[:2]
    x, norms, block = numbers(*size) + 3, Norms(channels, training), Block(n)
    x = x.bfloat16().double()
    made = block.put(x)
    block.run("statistics", 0, *slab(made), channels, made.places, **norms.pointers())
    found, expected = norms.coefficients.clone(), Norms(channels, training)
    expected.set_from(x)
    torch.testing.assert_close(found, expected.coefficients, rtol=1e-5, atol=1e-5)
    if training:
        mean, var = expected.before
        F.batch_norm(x, mean, var, training=True, momentum=0.1)
        torch.testing.assert_close(norms.mean.double(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(norms.var.double(), var, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(norms.var.double(), norms.before[1])


@needs_bfloat16
def test_the_mean_of_equal_values_is_exact() -> None:
    block, norms = Block(20), Norms(3, training=True)
    made = block.put(torch.full((20, 3, 5, 4), 300.0).double())
    block.run("statistics", 0, *slab(made), 3, made.places, **norms.pointers())
    assert torch.equal(norms.coefficients[0], torch.full((3,), 300.0))


@needs_bfloat16
@pytest.mark.parametrize("size", BATCHES, ids=str)
@pytest.mark.parametrize("relu", [True, False])
def test_merges(size: tuple[int, ...], relu: bool) -> None:
    n, channels, height, width = size
    values = [numbers(*size, seed=seed) for seed in range(3)]
    block, norms, gates = Block(n), Norms(channels, training=True), torch.tensor([0.3, 0.8])
    norms.set_from(values[1])
    scale, shift = (row.double()[:, None, None] for row in norms.coefficients[2:])
    exact = 0.3 * values[0] + 0.8 * (scale * values[1] + shift) + values[2] / 4
    magnitude = 0.3 * values[0].abs() + 0.8 * ((scale * values[1]).abs() + shift.abs()) + values[2].abs() / 4
    terms = [(-1, 0), (0, 1), (-1, -4)]
    reads = [3, *[x for v, rest in zip(values, terms, strict=True) for x in (*slab(block.put(v)), *rest)]]
    target = block.map(*size[1:])
    block.run("linear", *slab(target), channels, height * width, int(relu), *reads, gates=gates, **norms.pointers())
    close(block.get(target), exact.relu() if relu else exact, magnitude)


@needs_bfloat16
@pytest.mark.parametrize("size", BATCHES, ids=str)
@pytest.mark.parametrize("kind", ["norm, train", "norm, eval", "no norm", "in place"])
def test_gradients_of_merges(size: tuple[int, ...], kind: str) -> None:
    n, channels, height, width = size
    norm, training = 0 if kind != "no norm" else -1, kind in ("norm, train", "in place")
    x = numbers(*size).requires_grad_()
    gates = torch.tensor([0.3, 0.8], dtype=torch.float64).requires_grad_()
    gradients = [numbers(*size, seed=seed) for seed in (1, 2, 3)]
    block, norms = Block(n), Norms(channels, training)
    norms.set_from(x.detach())
    weight, bias = (tensor.double().requires_grad_() for tensor in (norms.weight, norms.bias))
    running = [tensor.clone() for tensor in norms.before]
    value = x if norm < 0 else F.batch_norm(x, *running, weight, bias, training, 0.1, 1e-5)
    outputs = [gates[0] * value, gates[1] * value, value / 3]
    wanted = [x, gates, *([weight, bias] if norm == 0 else [])]
    exact, exact_gates, *exact_norms = torch.autograd.grad(outputs, wanted, gradients)
    before = numbers(*size, seed=9)
    own = block.put(x.detach())
    target = own if kind == "in place" else block.put(before, padding=0.0)
    add = kind != "in place"
    reads: list[Any] = [3]
    for gradient, gate in zip(gradients, (0, 1, -3), strict=True):
        reads += [*slab(block.put(gradient, padding=0.0)), gate]
    found = {
        name: torch.full_like(tensor, torch.nan)
        for name, tensor in norms.pointers().items()
        if name.startswith("norm_")
    }
    found_gates, single = torch.zeros(2), gates.detach().float()
    block.run(
        *("gather", own, *slab(target), channels, height * width, norm, int(add), *reads),
        **norms.pointers(),
        gates=single,
        gate_gradients=found_gates,
        norm_weight_gradient=found["norm_weight"],
        norm_bias_gradient=found["norm_bias"],
    )
    coefficients = norms.coefficients.double() if norm == 0 else torch.tensor([[0.0], [1], [1], [0]]).double()
    mean, inverse, scale, _ = (row[:, None, None].abs() for row in coefficients)
    through = sum(abs(g) * d.abs() for g, d in zip((0.3, 0.8, 1 / 3), gradients, strict=True)) * scale
    normal = (x.detach().abs() + mean) * inverse
    size_of_means = through.mean((0, 2, 3), keepdim=True) + normal * (through * normal).mean((0, 2, 3), keepdim=True)
    close(block.get(target), exact + before * add, through + size_of_means + before.abs() * add)
    torch.testing.assert_close(found_gates.double(), exact_gates, rtol=1e-4, atol=1e-4)
    for name, expected in zip(("norm_weight", "norm_bias"), exact_norms, strict=False):
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-4, atol=1e-4)
    empty = slab(target)[0]
    start = empty.start
    lanes = block.block[start : start + empty.places].reshape(empty.places, -1, 2)[:, n:]
    assert not lanes.any(), "lanes without an image stay zero in gradients"


@needs_bfloat16
@pytest.mark.parametrize("size", BATCHES, ids=str)
def test_attention(size: tuple[int, ...]) -> None:
    n, channels, height, width = size
    block, norms = Block(n), Norms(channels, training=True)
    values = [numbers(*size, seed=seed).requires_grad_() for seed in range(3)]
    gates = torch.tensor([0.4, 0.3, 0.8], dtype=torch.float64).requires_grad_()
    norms.set_from(values[1].detach())
    scale, shift = (row.double()[:, None, None] for row in norms.coefficients[2:])
    inner = gates[1] * (scale * values[1] + shift) + gates[2] * values[2]
    y = (gates[0] + values[0].sigmoid()) * inner
    dy = numbers(*size, seed=7)
    of_mask, of_inner, exact_gates = torch.autograd.grad(y, (values[0], inner, gates), dy)
    reads: list[Any] = [3]
    for value, norm, gate in zip(values, (-1, 0, -1), (0, 1, 2), strict=True):
        reads += [*slab(block.put(value.detach())), norm, gate]
    target, side, single = block.map(*size[1:]), block.map(*size[1:]), gates.detach().float()
    rest = (execution.Scaled(target.stride), channels, height * width, *reads)
    block.run("attention", target, target, *rest, gates=single, **norms.pointers())
    magnitude = 2 * (0.3 * ((scale * values[1]).abs() + shift.abs()) + 0.8 * values[2].abs()).detach()
    close(block.get(target), y.detach(), magnitude)
    target, found = block.put(dy, padding=0.0), torch.zeros(3)
    block.run("attention_backward", target, side, *rest, gates=single, gate_gradients=found, **norms.pointers())
    close(block.get(target), of_inner, 2 * dy.abs())
    close(block.get(side), of_mask, dy.abs() * magnitude)
    assert found[0] == pytest.approx(float(exact_gates[0]), rel=1e-4, abs=1e-4)


@needs_bfloat16
def test_the_mask_of_an_attention_saturates() -> None:
    block, norms = Block(4), Norms(1, training=True)
    x = torch.tensor([-1e30, -100, -88, 0, 88, 100, 1e30, torch.nan]).bfloat16().double().reshape(4, 1, 2, 1)
    made, ones, target = block.put(x), block.put(torch.ones_like(x)), block.map(1, 2, 1)
    reads = [2, *slab(made), -1, 0, *slab(ones), -1, 1]
    sizes = (execution.Scaled(target.stride), 1, 2)
    block.run("attention", target, target, *sizes, *reads, gates=torch.tensor([0.0, 1.0]), **norms.pointers())
    torch.testing.assert_close(block.get(target), x.sigmoid(), rtol=2**-8, atol=1e-37, equal_nan=True)


@needs_bfloat16
@pytest.mark.parametrize("size", [(3, 5, 9, 4), (33, 4, 7, 8)], ids=str)
@pytest.mark.parametrize("shape", [(2, 2, 0), (3, 1, 1)], ids=["halving", "in a graph"])
@pytest.mark.parametrize("maximum", [True, False])
def test_poolings(size: tuple[int, ...], shape: tuple[int, int, int], maximum: bool) -> None:
    n = size[0]
    block, x = Block(n), numbers(*size).mul(2).round().requires_grad_()  # with equal maxima
    y = (F.max_pool2d if maximum else F.avg_pool2d)(x, *shape)
    dy, before = numbers(*y.shape, seed=1), numbers(*size, seed=2)
    (exact,) = torch.autograd.grad(y, x, dy)
    own, target, gradient, sums = block.put(x.detach()), block.map(*y.shape[1:]), block.put(dy), block.put(before)

    def operands(x: Map, y: Map, dy: Map, dx: Map, add: int) -> list[Any]:
        sizes = (dx.channels, dx.height, dx.width, dy.height, dy.width, *shape)
        return [x, y, dy, dx, int(maximum), add, *sizes, execution.Scaled(dx.stride), execution.Scaled(dy.stride)]

    block.run("pool", *operands(own, target, target, own, 0))
    close(block.get(target), y.detach(), 9 * y.detach().abs())
    for add in (1, 0):
        block.run("pool_backward", *operands(own, target, gradient, sums, add))
        close(block.get(sums), exact + before * add, 9 * exact.abs() + before.abs() * add + 1)


@needs_bfloat16
@pytest.mark.parametrize("size", BATCHES, ids=str)
def test_images_means_and_relus(size: tuple[int, ...]) -> None:
    n, channels, height, width = size
    block, images = Block(n), numbers(*size)
    made, single = block.map(*size[1:]), images.float()
    rest = {"images": single, "image_strides": single.stride()}
    block.run("images", *slab(made), channels, height, width, **rest)
    assert torch.equal(block.get(made), images)
    back = torch.full_like(single, torch.nan)
    block.run("images_backward", *slab(made), channels, height, width, image_gradient=back, **rest)
    assert torch.equal(back, single)
    features = torch.full((n, channels), torch.nan)
    block.run("mean", *slab(made), channels, height * width, features=features)
    torch.testing.assert_close(features.double(), images.mean((2, 3)), rtol=1e-6, atol=1e-6)
    block.run("mean_backward", *slab(made), channels, height * width, features=features)
    exact = (features.double() / (height * width))[:, :, None, None].expand(size)
    close(block.get(made), exact, exact.abs())
    gradient = block.put(numbers(*size, seed=3))
    block.run("relu_backward", block.put(images), *slab(gradient), channels, height * width)
    assert torch.equal(block.get(gradient), numbers(*size, seed=3) * (images > 0))


@needs_bfloat16
@pytest.mark.parametrize(("size", "hidden", "part"), [((3, 5, 4, 3), 7, 8), ((33, 18, 5, 5), 41, 16)], ids=str)
def test_the_head(size: tuple[int, ...], hidden: int, part: int) -> None:
    n, channels, height, width = size
    block, norms = Block(n), Norms(hidden, training=True)
    z, weight = numbers(*size).relu().requires_grad_(), numbers(hidden, channels, 1, 1, seed=1).requires_grad_()
    features = norms(F.conv2d(z, weight)).relu().mean((2, 3))
    gradient = numbers(n, hidden, seed=2)
    of_z, of_weight = torch.autograd.grad(features, (z, weight), gradient)
    own, target, work = block.put(z.detach()), block.map(*size[1:]), block.map(2 * part, height, width)
    single, found = weight.detach().float().contiguous(), torch.full((n, hidden), torch.nan)
    operands = [0, own, target, work, execution.Scaled(own.stride), channels, hidden, height * width, 0, part]
    block.run("head", *operands, weights=[single], features=found, **norms.pointers())
    assert relative(found, features.detach()) < 2 * HALF_STEP
    back, norm_gradients = torch.full_like(single, torch.nan), [torch.zeros(hidden), torch.zeros(hidden)]
    pointers = norms.pointers() | {"update": 0}
    pointers |= {"norm_weight_gradient": norm_gradients[0], "norm_bias_gradient": norm_gradients[1]}
    rest = {"features": gradient.float(), "weights": [single], "weight_gradients": [back]}
    block.run("head_backward", *operands, **rest, **pointers)
    assert relative(block.get(target), of_z) < 8 * HALF_STEP
    assert relative(back, of_weight) < 8 * HALF_STEP


def relative(found: Tensor, exact: Tensor) -> float:
    """Length of the difference, relative to that of the exact numbers."""
    return float((found.double() - exact).norm() / exact.norm())


# --- whole students ---------------------------------------------------------------------------------------------------


def gradients(student: Student, images: Tensor, autocast: bool = False) -> Tensor:
    """Of everything, images included, with running statistics and logits, as one vector."""
    own, images = copy.deepcopy(student), images.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = own(images)
    target = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * target.to(logits.dtype)).sum().backward()
    found = [images.grad, *[p.grad for p in own.parameters()], *own.buffers(), logits.detach()]
    return torch.cat([tensor.double().flatten() for tensor in found if tensor is not None])


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


SHALLOW = ("disconnected", "an empty stage", "no first stage", "one node")


@needs_bfloat16
@pytest.mark.usefixtures("unit")
@pytest.mark.parametrize("name", SPECS)
def test_steps_of_students_are_as_near_to_float64_as_autocast(name: str, ran: list[str]) -> None:
    # The difference in float64 is what batch norms make of the rounding of each value to 8 bits, most in deep students.
    student = randomised(SPECS[name], seed=4).train()
    for n in (3, 17, 33) if name in SHALLOW else (17, 33):
        images = images_of(SPECS[name], n)
        student.execution = "steps"
        exact = gradients(student, images)
        half = copy.deepcopy(student).float()
        library = cosine(gradients(half, images.float(), autocast=True), exact)
        assert not ran
        half.execution, half.precision = "plan", "bfloat16"
        ours = cosine(gradients(half, images.float()), exact)
        assert ran == ["forward", "backward"]
        assert ours > (0.99 if name in SHALLOW else library - 0.1)
        ran.clear()


@needs_bfloat16
def test_two_threads_and_repetition_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "NUMBERS_PER_THREAD", 1)
    student = Student(SPECS["everything 21"]).train()
    student.precision = "bfloat16"
    images = images_of(student.spec, 33, torch.float32)
    before, found = torch.get_num_threads(), []
    for threads in (1, 1, 2):
        torch.set_num_threads(threads)
        found.append(gradients(student, images))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_bfloat16
def test_all_but_training_is_in_float32(ran: list[str]) -> None:
    student = Student(SPECS["one node"]).train()
    images = images_of(student.spec, 16, torch.float32)
    exact = [student.train()(images), student.eval()(images)]
    student.precision = "bfloat16"
    assert torch.equal(student(images), exact[1])
    with torch.no_grad():
        assert torch.equal(student.train()(images), exact[0])
    logits = student(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact[0])
    torch.testing.assert_close(logits, exact[0], rtol=0.02, atol=0.02)
    assert student.double()(images.double()).dtype == torch.float64
    assert len(ran) == 6  # all on the plan


@needs_bfloat16
def test_memory_of_a_training_step_is_at_most_0_65_of_float32(ran: list[str]) -> None:
    student = Student(spec_of(DENSE, 0, image_size=16, channels=(8, 10, 13)))
    exact, half = (train_memory(student, (2, 16, 16), 32, bfloat16=precision) for precision in (False, True))
    assert half < 0.65 * exact
    assert ran


@pytest.mark.skipif(not any(map(execution.shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
def test_where_nothing_can_compile_or_multiply_it_training_says_why_and_is_in_float32(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Any
) -> None:
    spec = fit_width(HNAGSpace("hnag-small").default_candidate().sample_wiring(0), 3000, **SHAPE)
    exact = Student(spec)
    result = train(exact, tiny_data, None, kd=None, epochs=1, seed=0)
    assert (result.precision, result.precision_reason) == ("float32", "")

    def trained(precision: str, why: str) -> None:
        execution._kernels.cache_clear()
        student = Student(spec)
        settings = TrainingSettings(precision=precision)
        result = train(student, tiny_data, None, kd=None, epochs=1, seed=0, settings=settings)
        assert result.precision == "float32"
        assert why in result.precision_reason
        assert student.precision == "float32"
        torch.testing.assert_close(student.classifier_weight, exact.classifier_weight, rtol=1e-3, atol=1e-3)
        execution._kernels.cache_clear()

    with monkeypatch.context() as patched:
        patched.setattr(execution, "_processor_flags", lambda: {"avx2", "fma"})
        trained("bfloat16", "no bfloat16 products")
        trained("auto", "no bfloat16 products")
    with monkeypatch.context() as patched:
        patched.setattr(execution, "_processor_flags", lambda: execution.BFLOAT16_FLAGS)
        patched.setattr(execution, "FLAGS", ("-O0", "-shared", "-fPIC"))
        patched.setattr(execution, "TUNED", ("-O0",))  # a compiler that knows no such instructions
        execution._kernels.cache_clear()
        assert "no bfloat16 products" in execution.without_bfloat16()
        patched.setattr(execution.shutil, "which", lambda name: None)
        trained("auto", "no C compiler")
    monkeypatch.setenv("NASLIB_AUTOKD_KERNELS", "0")
    trained("bfloat16", "NASLIB_AUTOKD_KERNELS=0")


@needs_bfloat16
def test_training_in_bfloat16_learns_as_in_float32_and_auto_says_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Any
) -> None:
    spec = fit_width(HNAGSpace("hnag-small").default_candidate().sample_wiring(0), 6000, **SHAPE)
    curves = {}
    for precision in ("float32", "bfloat16"):
        student = Student(spec)
        settings = TrainingSettings(precision=precision)
        result = train(student, tiny_data, None, kd=None, epochs=6, seed=0, settings=settings)
        assert result.precision == precision
        curves[precision] = result.curve
        assert all(p.dtype == torch.float32 for p in student.parameters())
    assert curves["bfloat16"] != curves["float32"]
    assert curves["bfloat16"] == pytest.approx(curves["float32"], rel=0.1)
    for faster in ("float32", "bfloat16"):
        seconds = {"float32": 0.01, "bfloat16": 0.012, faster: 0.005}
        monkeypatch.setattr(training, "step_seconds", lambda step, batch, graph, seconds=seconds: seconds)
        settings = TrainingSettings(precision="auto")
        result = train(Student(spec), tiny_data, None, kd=None, epochs=1, seed=0, settings=settings)
        assert result.precision == faster
        assert f"5 ms a step in {faster}" in result.precision_reason
