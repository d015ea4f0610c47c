"""``naslib-autokd doctor``: what is there, what is missing, and the commands that fix it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from naslib_autokd._version import __version__
from naslib_autokd.plugin.loader import (
    HOME,
    HOW_TO_GET,
    TESTED_COMMIT,
    NASLibError,
    commit_of,
    find_naslib,
    naslib_missing,
)

OK, OPTIONAL, MISSING = "ok", "optional", "missing"

INSTALL = "pip install -c constraints.txt -e ."
INSTALL_NASLIB = 'pip install -c constraints.txt -e ".[naslib]"'


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    state: str
    """``ok``, ``optional`` (not there, and only needed for what the detail says), or ``missing`` (needed)."""
    detail: str
    fix: str = ""
    """Commands that put it right; empty if nothing is wrong."""


def examine() -> list[Finding]:
    """Look at this installation; imports torch and torchvision, but not NASLib."""
    return [*_packages(), *_torch(), *_kernels(), *_naslib(), *_datasets(), *_benchmarks(), *_teachers()]


def report(findings: list[Finding]) -> dict[str, Any]:
    """The findings as JSON can hold them."""
    return {"works": works(findings), "findings": [asdict(finding) for finding in findings]}


def works(findings: list[Finding]) -> bool:
    """Whether nothing is missing that the product needs; NASLib, a GPU and data are optional."""
    return all(finding.state != MISSING for finding in findings)


def _required(extra: str | None) -> list[str]:
    """Distributions that the installed naslib_autokd asks for, always or for an extra."""
    names = []
    for requirement in requires("naslib_autokd") or []:
        text, _, marker = requirement.partition(";")
        wanted = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        if (wanted.group(1) if wanted else None) == extra:
            names.append(re.split(r"[<>=!~\[ ]", text.strip(), maxsplit=1)[0])
    return names


def _absent(names: list[str]) -> list[str]:
    def is_absent(name: str) -> bool:
        try:
            version(name)
        except PackageNotFoundError:
            return True
        return False

    return [name for name in names if is_absent(name)]


def _packages() -> Iterator[Finding]:
    text = f"{__version__} on Python {platform.python_version()}"
    try:
        absent = _absent(_required(None))
    except PackageNotFoundError:
        yield Finding("naslib_autokd", MISSING, f"{text}, not installed: entry points are not known", INSTALL)
        return
    if absent:
        yield Finding("naslib_autokd", MISSING, f"{text}; it needs {', '.join(absent)}", INSTALL)
    else:
        yield Finding("naslib_autokd", OK, text)


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", MISSING, str(error), INSTALL)
        return
    yield Finding("torch", OK, str(torch.__version__))
    from naslib_autokd.data.vision import import_torchvision

    try:
        yield Finding("torchvision", OK, str(import_torchvision().__version__))
    except ImportError as error:
        yield Finding("torchvision", OPTIONAL, f"{error} (for CIFAR, image folders and NASLib)", INSTALL)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding("GPU", OK, ", ".join(names))
    else:
        reason = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
        yield Finding("GPU", OPTIONAL, f"{reason}; everything runs on the CPU ({os.cpu_count()} cores)")


def _kernels() -> Iterator[Finding]:
    try:
        from naslib_autokd.search_spaces.hnag.execution import path_of_students
    except ImportError:  # said above
        return
    compiled, detail = path_of_students()
    if compiled:
        yield Finding("compiled kernels", OK, detail)
    else:
        yield Finding("compiled kernels", OPTIONAL, detail)


def _naslib() -> Iterator[Finding]:
    try:
        package = find_naslib()
    except NASLibError:
        yield Finding("NASLib", OPTIONAL, f"{naslib_missing()} (only the plugin needs it)", HOW_TO_GET)
        return
    commit = commit_of(package.parent)
    where = f"{package.parent} ({HOME})" if os.environ.get(HOME) else str(package.parent)
    if commit is None:
        yield Finding("NASLib", OK, f"{where}, commit unknown; tested with {TESTED_COMMIT[:8]}")
    elif commit == TESTED_COMMIT:
        yield Finding("NASLib", OK, f"{where}, commit {commit[:8]}")
    else:
        fix = f"git -C {package.parent} checkout {TESTED_COMMIT[:8]}"
        yield Finding("NASLib", OK, f"{where}, commit {commit[:8]}; tested with {TESTED_COMMIT[:8]}", fix)
    try:
        absent = _absent(_required("naslib"))
    except PackageNotFoundError:  # said above
        return
    if absent:
        yield Finding("packages of NASLib", OPTIONAL, f"missing: {', '.join(absent)}", INSTALL_NASLIB)
    else:
        yield Finding("packages of NASLib", OK, "all there")


def _datasets() -> Iterator[Finding]:
    from naslib_autokd.tasks import TASKS

    for name, task in TASKS.items():
        if task.dataset in ("cluttered-digits", "digits"):
            yield Finding(f"data of {name}", OK, "embedded")
        else:
            yield Finding(f"data of {name}", OPTIONAL, "not embedded", f"--task {name} --data-dir FOLDER")


def _benchmarks() -> Iterator[Finding]:
    """Tables of NASLib's benchmarks: only for querying them; without them the students are trained with KD."""
    try:
        folder = find_naslib() / "data"
    except NASLibError:
        return
    files = {
        "NAS-Bench-101": ["nasbench_only108.pkl"],
        "NAS-Bench-201": [
            f"nb201_{name}_full_training.pickle" for name in ("cifar10", "cifar100", "ImageNet16", "ninapro")
        ],
        "NAS-Bench-301": ["nb301_full_training.pickle"],
    }
    for benchmark, names in files.items():
        there = [name for name in names if (folder / name).exists()]
        if there:
            yield Finding(f"table of {benchmark}", OK, ", ".join(there))
        else:
            fix = f"NASLib's README links its files; put {names[0]} into {folder}"
            yield Finding(f"table of {benchmark}", OPTIONAL, "not there: queries are answered by training with KD", fix)


def _teachers() -> Iterator[Finding]:
    from naslib_autokd.files import cache_place

    folder: Path = cache_place("teachers")
    found = sorted(path.stem for path in folder.glob("*.safetensors"))
    text = f"{', '.join(found)} in {folder}" if found else f"none yet in {folder}; trained on first use"
    yield Finding("trained teachers", OK, text)


def print_report(findings: list[Finding], write: Callable[[str], None] = print) -> None:
    """One line a finding, and after it the commands that put right what is not there."""
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        write(f"{finding.state:8}  {finding.what:{width}}  {finding.detail}")
    for finding in findings:
        if finding.fix:
            lines = [line.strip() for line in finding.fix.splitlines()]
            write(f"\n{finding.what}:\n" + "\n".join(f"    {line}" for line in lines))
    write("\neverything that is needed is there" if works(findings) else "\nsomething that is needed is missing")
