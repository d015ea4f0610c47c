"""Objects of the user's own by the name ``module:attribute``."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parent


def imported(text: str) -> Any:
    """What ``module:attribute`` names; modules of the working directory count.

    Raises:
        ImportError: Whatever went wrong: the module is the user's and may raise anything.
    """
    module, _, attribute = text.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)  # an installed command does not look there by itself
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ImportError(f"{text!r} cannot be imported: {error}") from error
    finally:
        sys.path.remove(here)


def place_in_own_code(error: BaseException) -> str:
    """Where an error came last through code that is neither of this package, nor installed, nor Python's own, as
    `` (in file.py, line 7)``; empty if nowhere."""
    others = (_PACKAGE, *(Path(path) for path in sysconfig.get_paths().values()))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(other) for other in others):
            return f" (in {path.name}, line {frame.lineno})"
    return ""
