"""A network where it is used: as an ONNX file, in ONNX Runtime. The file, its session, its latency.

Students are written from their folded operations (`search_spaces.hnag.folding`): in 20 ms, by onnx alone, in opsets
that runtimes of years ago read, and without one operation that ONNX Runtime could fold away or would have to reorder
memory for. Other networks go through torch's exporter, which needs onnxscript and takes seconds.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from naslib_autokd.distillation.costs import latency_s as eager_latency_s
from naslib_autokd.search_spaces.hnag.folding import Op, fold
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.tasks import did_you_mean

OPSET, IR_VERSION = 17, 8
"""Of onnx 1.12 (2022): ONNX Runtime 1.12 and newer read it."""
OLDEST_OPSET, OLDEST_IR_VERSION = 11, 4
"""The operations of students have not changed since; older intermediate representations want weights as inputs."""
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
"""Short names of ONNX Runtime's execution providers; those that are installed can be used."""


class RuntimeUnavailableError(ImportError):
    """A package is missing; says which, and how to install it."""


@dataclass(frozen=True)
class Runtime:
    """Where and how a network runs once it is shipped.

    Raises:
        ValueError: If a number is not positive or the provider has no such name.
    """

    threads: int = 1
    batch: int = 1
    """Images in one call."""
    provider: str = "cpu"
    """A name in `PROVIDERS`."""

    def __post_init__(self) -> None:
        for name in ("threads", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.provider not in PROVIDERS:
            raise ValueError(f"unknown provider {self.provider!r}{did_you_mean(self.provider, PROVIDERS)}")

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"batch {self.batch}, {threads}, {self.provider}"


def missing_packages(*names: str) -> list[str]:
    """Which of the packages (by default those that students need) are not installed."""
    return [name for name in names or ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]


def check_available(runtime: Runtime) -> None:
    """Raise ValueError if the onnxruntime that is installed has no such provider; nothing if none is installed."""
    if missing_packages("onnxruntime"):
        return
    import onnxruntime

    provider, available = PROVIDERS[runtime.provider], onnxruntime.get_available_providers()
    if provider not in available:
        here = [short for short, long in PROVIDERS.items() if long in available]
        raise ValueError(f"onnxruntime here has no {provider}: install a build that has, or take {', '.join(here)}")


def require_packages(*names: str) -> None:
    """Raise RuntimeUnavailableError if one is not installed."""
    if missing := missing_packages(*names):
        raise RuntimeUnavailableError(f"ONNX needs {', '.join(missing)}: pip install {' '.join(missing)}")


# --- the file -------------------------------------------------------------------------------------------------------


def onnx_file(
    network: nn.Module,
    image_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    opset: int = OPSET,
    ir_version: int = IR_VERSION,
    fill: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """A network as an ONNX file, with the normalisation of its images inside.

    Input ``images``: float32 ``(batch, channels, height, width)`` with values in [0, 1]; the first axis is named
    ``batch`` and of any length. Output ``logits``: float32 ``(batch, classes)``.

    Args:
        network: In eval mode, for images of this mean and standard deviation per channel. A `Student` is folded; any
            other module goes through torch's exporter.
        opset: Of ONNX's operations, from `OLDEST_OPSET`.
        ir_version: Of the file format, from `OLDEST_IR_VERSION`. ONNX Runtime 1.15 reads opset 19 and version 9.
        fill: Give students channels of zeros where that is faster in float32 (`folding.BLOCKS`).
        metadata: Kept in the file, each value as JSON.

    Raises:
        RuntimeUnavailableError: If onnx (for other networks than students onnxscript) is not installed.
        ValueError: If onnx has no such opset or version.
    """
    require_packages("onnx")
    import onnx

    for name, value, low, high in (
        ("opset", opset, OLDEST_OPSET, onnx.defs.onnx_opset_version()),
        ("IR version", ir_version, OLDEST_IR_VERSION, onnx.IR_VERSION),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high} (of onnx {onnx.__version__}), got {value}")
    if isinstance(network, Student):
        model = _Writer(fold(network, fill), image_shape, mean, std).model(opset)
    else:
        model = _by_torch(network, image_shape, mean, std, opset)
    model.ir_version = ir_version
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in (metadata or {}).items()})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _Writer:
    """Folded operations as an ONNX graph."""

    def __init__(
        self, ops: Sequence[Op], image_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.shape, self.n_classes = tuple(image_shape), ops[-1].channels
        self.mean = np.array(mean).reshape(1, -1, 1, 1)
        self.std = np.array(std).reshape(1, -1, 1, 1)
        names: dict[Op, str] = {}
        for op in ops:
            names[op] = self._write(op, [names[source] for source in op.inputs])
        self.nodes[-1].output[0] = "logits"

    def model(self, opset: int) -> Any:
        from onnx import TensorProto, helper

        images, logits = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
            for name, shape in (("images", self.shape), ("logits", (self.n_classes,)))
        )
        graph = helper.make_graph(self.nodes, "student", [images], [logits], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="naslib_autokd")

    def _node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        from onnx import helper

        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        name = f"{name}_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
        return name

    def _write(self, op: Op, inputs: list[str]) -> str:
        if op.kind == "images":  # the standard deviation is in the convolutions that read them
            return self._node("Sub", ["images", self._constant("mean", self.mean)])
        if op.kind == "conv":
            assert op.weight is not None
            stride, (high, wide), groups = op.detail
            weight = op.weight / self.std if op.inputs[0].kind == "images" else op.weight
            constants = [self._constant("weight", weight), self._constant("bias", op.bias)]
            shape = {"kernel_shape": weight.shape[2:], "strides": [stride] * 2, "pads": [high, wide, high, wide]}
            return self._node("Conv", [*inputs, *constants], group=groups, **shape)
        if op.kind == "sum":
            total = inputs[0]
            for other in inputs[1:]:
                total = self._node("Add", [total, other])
            return total
        if op.kind in ("max", "average"):
            kernel, stride, padding = op.detail
            shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
            if op.kind == "max":
                return self._node("MaxPool", inputs, **shape)
            return self._node("AveragePool", inputs, count_include_pad=1, **shape)
        if op.kind == "mean":
            return self._node("Flatten", [self._node("GlobalAveragePool", inputs)])
        if op.kind == "linear":
            constants = [self._constant("weight", op.weight), self._constant("bias", op.bias)]
            return self._node("Gemm", [*inputs, *constants], transB=1)
        return self._node({"relu": "Relu", "sigmoid": "Sigmoid", "product": "Mul"}[op.kind], inputs)


class Normalised(nn.Module):
    """``network((images - mean) / std)`` for images with values in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std)).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Any:
        return self.network((images - self.mean) / self.std)


def exported_program(network: nn.Module, image_shape: Sequence[int]) -> Any:
    """``torch.export`` of a network for batches of any length."""
    example = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(1))
    with quiet_exporters():
        return torch.export.export(network, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})


def _by_torch(
    network: nn.Module, image_shape: Sequence[int], mean: Sequence[float], std: Sequence[float], opset: int
) -> Any:
    require_packages("onnxscript")
    whole = Normalised(network, mean, std).eval()
    with quiet_exporters():
        program = torch.onnx.export(
            exported_program(whole, image_shape),
            input_names=["images"],
            output_names=["logits"],
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    return program.model_proto  # type: ignore[union-attr]


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """torch's exporters warn of their own internals and log each step."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# --- running it -----------------------------------------------------------------------------------------------------


class OnnxSession:
    """An ONNX file in ONNX Runtime; call it with float32 images ``(batch, channels, height, width)``.

    Raises:
        RuntimeUnavailableError: If onnxruntime is not installed.
        ValueError: If the provider is not part of it, or the file cannot be loaded.
    """

    def __init__(self, content: bytes, runtime: Runtime | None = None, *, save_optimized: str = "") -> None:
        require_packages("onnxruntime")
        import onnxruntime

        self.runtime = runtime = runtime or Runtime()
        check_available(runtime)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = runtime.threads, 1
        options.log_severity_level = 4  # what is wrong is raised
        if save_optimized:
            options.optimized_model_filepath = save_optimized
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=[PROVIDERS[runtime.provider]])
        except Exception as error:  # onnxruntime's have no common base but this
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"onnxruntime {onnxruntime.__version__} cannot load it: {first}") from error
        found = self._session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, str] = dict(found)
        """As the file has it: our own files keep JSON."""
        self.input_name: str = self._session.get_inputs()[0].name

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits ``(batch, classes)``."""
        logits: np.ndarray = self._session.run(None, {self.input_name: np.ascontiguousarray(images)})[0]
        return logits


class Session(Protocol):
    """What has a latency."""

    runtime: Runtime

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


LEAST_S, LEAST_CALLS, WARM_UP = 0.1, 20, 3
"""A latency is the median of so many calls, and of so many seconds of them, after some that are not measured."""
LONG_S, LONG_CALLS = 1.0, 5
"""So many calls are enough if they took so long."""


def clock_of(runtime: Runtime) -> Callable[[], float]:
    """On one thread of a CPU its CPU seconds, which other work on the machine changes little; else wall seconds."""
    return time.thread_time if (runtime.threads, runtime.provider) == (1, "cpu") else time.perf_counter


def session_latency_s(session: Session, image_shape: Sequence[int]) -> float:
    """Median seconds of one call of a session, with the batch of its runtime (`clock_of`)."""
    runtime = session.runtime
    clock = clock_of(runtime)
    images = np.random.default_rng(0).random((runtime.batch, *image_shape), dtype=np.float32)
    times: list[float] = []
    warm_up = 0.0
    for _ in range(WARM_UP):
        if warm_up < LONG_S:
            warm_up -= clock()
            session(images)
            warm_up += clock()
    while sum(times) < LEAST_S or (
        len(times) < LEAST_CALLS and not (len(times) >= LONG_CALLS and sum(times) >= LONG_S)
    ):
        start = clock()
        session(images)
        times.append(clock() - start)
    return statistics.median(times)


BATCHES = (1, 64)
"""Images in a call of which model cards tell the latency."""


def latencies_ms(content: bytes, image_shape: Sequence[int]) -> tuple[float, ...]:
    """Of an ONNX file: milliseconds of a call with `BATCHES` images, on one thread."""
    sessions = (OnnxSession(content, Runtime(batch=batch)) for batch in BATCHES)
    return tuple(1e3 * session_latency_s(session, image_shape) for session in sessions)


@dataclass(frozen=True)
class Latency:
    """Seconds of a call, and of what in which words."""

    seconds: float
    measured: str
    """"onnxruntime 1.32.0, batch 1, 1 thread, cpu", or "eager PyTorch 2.13.0 (...)" with the reason."""


def latency(network: nn.Module, image_shape: tuple[int, int, int], runtime: Runtime | None = None) -> Latency:
    """What a call of a network takes once it is shipped: of its ONNX file in ONNX Runtime.

    Where a package is missing, or torch cannot export the network, it is that of eager PyTorch on one thread, which
    ranks networks otherwise, and `Latency.measured` says so.
    """
    runtime = runtime or Runtime()
    channels = image_shape[0]
    was_training = network.training
    try:
        content = onnx_file(network.eval(), image_shape, (0.5,) * channels, (0.25,) * channels)
        session = OnnxSession(content, runtime)
    except RuntimeUnavailableError as error:
        reason = str(error)
    except ValueError:
        raise
    except Exception as error:  # torch's exporter has many, of networks that are not ours
        reason = f"torch cannot export it: {type(error).__name__}"
    else:
        seconds = session_latency_s(session, image_shape)
        return Latency(seconds, f"{runtime_version()}, {runtime}")
    finally:
        network.train(was_training)
    return Latency(
        eager_latency_s(network, image_shape, runtime.batch),
        f"eager PyTorch {torch.__version__}, batch {runtime.batch} ({reason})",
    )


def runtime_version() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"
