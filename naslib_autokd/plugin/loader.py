"""Finds and imports NASLib: installed, or a source checkout named by the environment variable ``NASLIB_HOME``.

NASLib is not on PyPI and its setup.py refuses Python above 3.9, but its source runs on today's packages with the few
shims of `shims`. Every module of the plugin that uses NASLib starts with ``load_naslib()``; nothing else imports it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HOME = "NASLIB_HOME"
TESTED_COMMIT = "0b51bc184622a98317ea1048b2daf7dd1150f243"

HOW_TO_GET = f"""\
    git clone https://github.com/automl/NASLib.git
    git -C NASLib checkout {TESTED_COMMIT[:8]}
    export {HOME}=$PWD/NASLib
    pip install -e ".[naslib]"    # in the folder of naslib_autokd: the packages that NASLib's modules import"""


class NASLibError(ImportError):
    """NASLib is missing or cannot be used; the text says how to get it."""


@dataclass(frozen=True)
class NASLibInfo:
    """Where NASLib comes from."""

    path: Path
    """The package directory ``naslib``."""
    commit: str | None
    """Of the checkout, 40 hexadecimal digits; None for an installed package or without git."""
    shims: tuple[str, ...]
    """Those that were needed (see `shims`)."""


_LOADED: NASLibInfo | None = None


def find_naslib() -> Path:
    """The package directory of NASLib, without importing it.

    ``NASLIB_HOME`` goes before an installed package, so that a checkout can be tried.

    Raises:
        NASLibError: If there is none, or ``NASLIB_HOME`` is no checkout of NASLib.
    """
    home = os.environ.get(HOME)
    if home:
        package = Path(home).expanduser() / "naslib"
        if not (package / "search_spaces" / "core" / "graph.py").is_file():
            raise NASLibError(
                f"{HOME}={home} is no checkout of NASLib (there is no naslib/search_spaces/core/graph.py in it); "
                f"point it to one:\n{HOW_TO_GET}"
            )
        return package.resolve()
    spec = importlib.util.find_spec("naslib")
    if spec is None or not spec.submodule_search_locations:
        raise NASLibError(
            f"NASLib is not installed and {HOME} is not set. It is not on PyPI; get its source:\n{HOW_TO_GET}"
        )
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def load_naslib() -> NASLibInfo:
    """Import NASLib with the shims that it needs here; at once if it is loaded.

    NASLib's import puts two of its own folders at the front of ``sys.path``, so that a plain ``import utils`` would
    find NASLib's. They are moved to the end.

    Raises:
        NASLibError: If there is no NASLib, or a package that its modules import is missing.
    """
    global _LOADED
    if _LOADED is not None:
        return _LOADED
    package = find_naslib()
    root = str(package.parent)
    if "naslib" in sys.modules:
        loaded = Path(sys.modules["naslib"].__file__ or "").resolve().parent
        if loaded != package:
            raise NASLibError(f"NASLib is loaded from {loaded} already, but {HOME} names {package}; use one of them")
    from naslib_autokd.plugin import shims

    before = list(sys.path)
    try:
        applied = shims.before_import()
        if root not in sys.path:
            sys.path.append(root)
            before.append(root)
        importlib.import_module("naslib.utils")
        applied += shims.after_utils()
        for name in ("naslib.search_spaces", "naslib.optimizers", "naslib.defaults.trainer"):
            importlib.import_module(name)
    except ImportError as error:
        for name in [name for name in sys.modules if name.split(".")[0] == "naslib"]:
            del sys.modules[name]
        raise NASLibError(
            f"NASLib at {package.parent} cannot be imported: {error}. Install the packages that its modules import, in "
            'the folder of naslib_autokd:\n    pip install -e ".[naslib]"'
        ) from error
    finally:
        sys.path[:] = before + [entry for entry in sys.path if entry not in before]
    _LOADED = NASLibInfo(package, commit_of(package.parent), tuple(applied))
    return _LOADED


def commit_of(checkout: Path) -> str | None:
    """The commit of a git checkout, or None."""
    if not (checkout / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=30
    )
    return done.stdout.strip() or None if done.returncode == 0 else None


def naslib_missing() -> str | None:
    """Why NASLib cannot be used, in one line, or None; looks for it without importing it."""
    try:
        find_naslib()
    except NASLibError as error:
        return str(error).split(":\n")[0].split(". ")[0]
    return None
