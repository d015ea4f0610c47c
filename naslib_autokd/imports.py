"""Objects of the user's own by the name ``module:attribute``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


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
