"""What NASLib (Develop, 0b51bc18) needs to run on today's packages: five shims, each applied only where it is needed.

None changes a file of NASLib. They are applied by `loader.load_naslib`, never by ``import naslib_autokd``:

1. ``collections.Iterable``, gone since Python 3.10, is the one in ``collections.abc`` again (NASLib's Weisfeiler-Lehman
   kernel uses it when it is called, so it stays).
2. A module ``tensorwatch`` with ``ModelStats``: NASLib imports it for two of its zero-cost measures only. A stub that
   says what to install stands in where the package is missing.
3. ``naslib.utils.count_parameters_in_MB`` hands a generator to ``np.sum``, which numpy refuses since 2.4. Replaced by
   the same sum before ``naslib.optimizers`` takes the name from there.
4. The operators of a torchvision that was built for another torch (`data.vision`).
5. ``naslib.utils.parse_args`` keeps the command line of the moment in which NASLib was imported, for the whole process.
   It reads the one that stands when it is called, so that it does not matter who imports NASLib, and when.
"""

from __future__ import annotations

import collections
import collections.abc
import functools
import importlib.util
import inspect
import sys
from types import ModuleType
from typing import Any

from naslib_autokd.data.vision import import_torchvision


def before_import() -> list[str]:
    """Shims 1, 2 and 4; must run before NASLib is imported. Returns the names of those that were needed."""
    applied = []
    if "Iterable" not in vars(collections):
        collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]
        applied.append("collections.Iterable")
    if "tensorwatch" not in sys.modules and importlib.util.find_spec("tensorwatch") is None:
        sys.modules["tensorwatch"] = _tensorwatch_stub()
        applied.append("tensorwatch")
    import_torchvision()
    return applied


def after_utils() -> list[str]:
    """Shims 3 and 5; must run after ``naslib.utils`` and before ``naslib.optimizers``. Returns those needed."""
    import torch
    from naslib import utils

    applied = []
    try:
        utils.count_parameters_in_MB(torch.nn.Linear(1, 1))
    except TypeError:
        utils.count_parameters_in_MB = count_parameters_in_mb
        applied.append("count_parameters_in_MB")
    if isinstance(inspect.signature(utils.parse_args).parameters["args"].default, list):
        utils.parse_args = _with_the_command_line_of_now(utils.parse_args)
        applied.append("parse_args")
    return applied


def _with_the_command_line_of_now(parse_args: Any) -> Any:
    @functools.wraps(parse_args)
    def parse(*given: Any, **named: Any) -> Any:
        if len(given) < 2:
            named.setdefault("args", sys.argv[1:])
        return parse_args(*given, **named)

    return parse


def count_parameters_in_mb(model: Any) -> float:
    """Millions of parameters outside auxiliary heads (NASLib calls it MB)."""
    return sum(value.numel() for name, value in model.named_parameters() if "auxiliary" not in name) / 1e6


def _tensorwatch_stub() -> ModuleType:
    class ModelStats:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise ImportError(
                "NASLib's measures 'params' and 'flops' need tensorwatch: pip install tensorwatch tornado"
            )

    module = ModuleType("tensorwatch", "Stands in for tensorwatch, which is not installed.")
    module.__dict__["ModelStats"] = ModelStats
    return module
