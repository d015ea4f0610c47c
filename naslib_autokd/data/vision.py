"""The one place that imports torchvision: lazily, and also where its build does not match torch's."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_STUBS: list[object] = []
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> ModuleType:
    """torchvision with its datasets and networks.

    A torchvision wheel built for another torch (the default wheel beside a CPU torch) fails at import with "operator
    torchvision::nms does not exist". Its datasets and classifiers need no operator at all, so the two operators
    that it describes at import are declared, without an implementation, and the import is tried again. A matching build
    is left alone.

    Raises:
        ImportError: If torchvision is not installed or cannot be used; says what to install.
    """
    try:
        return _import()
    except ModuleNotFoundError as error:
        raise ImportError(f"torchvision, which reads CIFAR and has networks, is not installed: {error}") from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _STUBS.append(library)  # a library's operators live as long as it does
    try:
        return _import()
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"torchvision does not match torch {torch.__version__} ({error}); install both from the same index"
        ) from error


def _import() -> ModuleType:
    try:
        importlib.import_module("torchvision.datasets")
        return importlib.import_module("torchvision")
    except Exception:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        raise
