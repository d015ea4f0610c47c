"""Teachers that are ONNX files: logits for soft targets; no gradients, no features.

An ONNX file is safe to read where TorchScript and ``.pt2`` files are not: it is a list of computations on tensors,
without pickles, and no standard one reads or writes files. Needs onnx and onnxruntime (extra ``onnx``).
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from naslib_autokd.data.images import TaskData
from naslib_autokd.files import write_whole
from naslib_autokd.teachers.names import TeacherError, few
from naslib_autokd.teachers.networks import NetworkInput
from naslib_autokd.teachers.weights import as_json, stated_classes, stated_input

SUFFIX = ".onnx"


class OnnxNetwork(nn.Module):
    """A network that onnxruntime runs, on the CPU: normalised float32 images in, logits out.

    Args:
        content: The file's bytes.
        n_classes: Of several outputs, the one with so many columns is taken.
        n_weights: Learned numbers in it; what counts parameters finds as many.

    Raises:
        TeacherError: If it is no ONNX file that takes ``(batch, channels, height, width)``, or answers with no logits.
    """

    content: Tensor

    def __init__(self, content: bytes, n_classes: int, n_weights: int = 0) -> None:
        super().__init__()
        self.register_buffer("content", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        # not the weights: these are in the content. It is counted, and gives what measures a training a gradient
        self.weights = nn.Parameter(torch.zeros(1).expand(n_weights))
        self._session: Any = None
        self._threads = 0
        session = self._running()
        self.input_name, shape = _input(session)
        self.output_name = _output(session, n_classes)
        self.n_classes = n_classes
        sizes = [size if isinstance(size, int) else None for size in shape]
        self.batch, self.channels, self.height, self.width = sizes
        found = session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = {key: as_json(value) for key, value in found.items()}

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes)``."""
        if images.is_meta:
            raise RuntimeError("an ONNX file does not tell them")
        parts = [images] if self.batch is None else list(images.split(self.batch))
        logits = torch.cat([self._run(part) for part in parts])
        return logits.to(images.device) + self.weights[:0].sum()

    def extra_repr(self) -> str:
        return f"{len(self.content)} bytes"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_session": None}  # it is opened again where it is needed

    def _run(self, images: Tensor) -> Tensor:
        given, missing = images.detach().cpu(), (self.batch or 0) - len(images)
        if missing > 0:  # made for batches of one size only
            given = torch.cat([given, given[-1:].expand(missing, -1, -1, -1)])
        try:
            (found,) = self._running().run([self.output_name], {self.input_name: given.contiguous().numpy()})
        except Exception as error:  # onnxruntime's have no common base but this
            raise RuntimeError(_first_line(error)) from error
        return torch.from_numpy(found)[: len(images)].reshape(len(images), -1)

    def _running(self) -> Any:
        """The session; with as many threads as torch has."""
        if self._session is None or self._threads != torch.get_num_threads():
            runtime = _package("onnxruntime")
            options = runtime.SessionOptions()
            options.intra_op_num_threads = self._threads = torch.get_num_threads()
            options.log_severity_level = 4  # what is wrong is raised
            content = self.content.cpu().numpy().tobytes()
            try:
                self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise TeacherError(f"it cannot be loaded as an ONNX network: {_first_line(error)}") from error
        return self._session


def read_onnx(path: Path, data: TaskData) -> tuple[OnnxNetwork, NetworkInput, dict[str, Any]]:
    """The network of a file, its input, and what is known of it (`Teacher.info`).

    The size is the graph's. ``input_range`` in its metadata (our own exports have it) says that the normalisation is
    inside; else ``mean`` and ``std`` are taken from there, or to be the task's, which is said.

    Raises:
        TeacherError: If the file is missing or cannot serve; says why.
    """
    if not path.is_file():
        raise TeacherError(f"teacher {path} does not exist")
    try:
        content, n_weights = _content(path)
        network = OnnxNetwork(content, data.task.n_classes, n_weights)
        size = _size(network)
        classes = stated_classes(network.metadata)
        given, notes = _stated(network, size, data)
    except TeacherError as error:
        raise TeacherError(f"{path}: {error}") from error
    notes = ["it is an ONNX file: it gives soft targets, but no features of its layers and no gradients", *notes]
    info: dict[str, Any] = {"architecture": "ONNX file", "notes": [f"{path}: {note}" for note in notes]}
    if classes is not None:
        info["classes"] = list(classes)
    if "val_accuracy" in network.metadata:
        info["val_accuracy"] = network.metadata["val_accuracy"]
    return network, given, info


def write_onnx(network: OnnxNetwork, metadata: Mapping[str, Any], path: Path) -> None:
    """The file again, as one, with what is known of its input in its metadata."""
    onnx = _package("onnx")
    model = onnx.load_from_string(network.content.cpu().numpy().tobytes())
    kept = {key: value for key, value in network.metadata.items() if key != "input_range"}
    stated = {key: json.dumps(value) for key, value in {**kept, **metadata}.items()}
    onnx.helper.set_model_props(model, stated)
    write_whole(path, model.SerializeToString())


def require_layers(teacher: nn.Module, what: str) -> None:
    """Refuse a teacher whose layers cannot be seen.

    Raises:
        TeacherError: If it, or a member of an ensemble, is an ONNX file.
    """
    if any(isinstance(module, OnnxNetwork) for module in teacher.modules()):
        raise TeacherError(
            f"{what} needs the layers of the teacher, and an ONNX file gives its answers only: give the network itself "
            "(NAME@FILE with its weights, or module:function)"
        )


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TeacherError(f'.onnx files need {name} ({error}): pip install "naslib_autokd[onnx]"') from error


def _content(path: Path) -> tuple[bytes, int]:
    """The file with the weights that it keeps in files beside it, as torch's exporter leaves them; their number."""
    onnx = _package("onnx")
    try:
        model = onnx.load(str(path))
        content = model.SerializeToString()
    except Exception as error:  # protobuf's and onnx's have no common base but this
        raise TeacherError(f"it cannot be loaded as an ONNX network: {_first_line(error)}") from error
    learned = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.INT8)
    return content, sum(math.prod(one.dims) for one in model.graph.initializer if one.data_type in learned)


def _input(session: Any) -> tuple[str, list[Any]]:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise TeacherError(f"it takes {len(inputs)} inputs ({few(one.name for one in inputs)}), not images alone")
    (one,) = inputs
    if one.type != "tensor(float)" or len(one.shape) != 4:
        raise TeacherError(
            f"it takes {one.type} of shape {one.shape}, not float32 (batch, channels, height, width): export it so, "
            "without what turns bytes or other layouts into that (its scale is then told by --mean and --std)"
        )
    if isinstance(one.shape[1], int) and one.shape[1] not in (1, 3):
        last = " (the channels come last: export it with the channels before height and width)"
        raise TeacherError(f"it takes images of shape {one.shape[1:]}{last if one.shape[3] in (1, 3) else ''}")
    return one.name, list(one.shape)


def _output(session: Any, n_classes: int) -> str:
    outputs = session.get_outputs()
    of_classes = [one for one in outputs if len(one.shape) >= 2 and one.shape[1] in (n_classes, None)]
    fitting = [one for one in of_classes if one.name == "logits"] or of_classes
    if len(outputs) == 1:
        fitting = outputs
    if len(fitting) != 1:
        shapes = few(f"{one.name} {one.shape}" for one in outputs)
        raise TeacherError(f"which of its outputs are the logits of {n_classes} classes cannot be told: {shapes}")
    return str(fitting[0].name)


def _size(network: OnnxNetwork) -> int | None:
    if network.height != network.width:
        raise TeacherError(f"it takes images of {network.height}x{network.width}, and only squares can be given to it")
    return network.height


def _stated(network: OnnxNetwork, size: int | None, data: TaskData) -> tuple[NetworkInput, list[str]]:
    channels = network.channels or data.task.in_channels
    metadata = {key: value for key, value in network.metadata.items() if key != "input"}  # the graph says it
    if "input_range" in metadata:
        try:
            low, high = (float(value) for value in metadata["input_range"])
            metadata |= {"mean": [(0.0 - low) / (high - low)], "std": [1 / (high - low)]}
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise TeacherError(f"its metadata input_range cannot be read: {error}") from error
    elif channels != data.task.in_channels and "mean" not in metadata:
        raise TeacherError(
            f"it takes {channels} channels, {data.task.name!r} has {data.task.in_channels}, and it does not state its "
            "normalisation: state it (naslib-autokd teacher check --mean ... --std ... --out stated.onnx)"
        )
    return stated_input(metadata, NetworkInput(data.mean, data.std, channels, size), "the task's", data.task)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
