"""The command ``naslib-autokd``: parser, errors, exit status. The commands are the modules of `naslib_autokd.commands`.

Heavy packages are imported by the commands that need them, so that ``--help`` and errors are quick. Errors that a
user can mend are one line on stderr and exit status 2; ``--debug`` shows the traceback.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from naslib_autokd._version import __version__
from naslib_autokd.commands import MODULES
from naslib_autokd.commands._options import INTERRUPTED, parse_size, task_from_options
from naslib_autokd.commands._parser import Parser, epilog, leaves, shortened, walk
from naslib_autokd.commands._types import settings_of
from naslib_autokd.imports import place_in_own_code

__all__ = ["INTERRUPTED", "build_parser", "exit_status", "main", "parse_size", "task_from_options"]

DESCRIPTION = "Search for families of small students that learn well from a big teacher (AutoKD)."
EXIT_CODES = """\
exit status: 0 done, 1 failed while working, 2 bad input or refused, 3 too many failed trials in a row, 4 no room to \
save results, 130 interrupted. After 1, 3, 4 and 130 the same command continues.
shell completion: naslib-autokd completion --help. Help of one command: naslib-autokd COMMAND --help."""
FEW = 5
"""Commands with fewer settings take no configuration file."""
OWN_FAULT = "this should not have happened"
EXTRAS = {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "optuna": "optuna", "timm": "timm"}
EXTRAS |= {"dask_jobqueue": "cluster", "tensorboard": "tensorboard"}
"""Package -> the extra of ours that brings it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status.

    0 done, 1 failed while working, 2 bad input or refused, 3 too many failed trials in a row, 4 no room to save
    results, 130 interrupted. After 1, 3, 4 and 130 the same command continues a search.

    Raises:
        SystemExit: As argparse: after ``--help`` and ``--version``, and with 2 for words that are no command line.
    """
    for stream in (sys.stdout, sys.stderr):  # of a sign that it cannot encode its number, not an error
        if getattr(stream, "errors", None) == "strict" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        with terminate_as_interrupt(), plain_warnings():
            return int(options.run(options) or 0)
    except KeyboardInterrupt as error:
        print(f"interrupted; {str(error) or 'what finished is saved, the same command continues'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has gone: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        print(f"naslib-autokd: error: {error_text(error)}", file=sys.stderr)
        return exit_status(error)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """What we warn of is a line for people, without the place in our code that others' warnings have."""
    from naslib_autokd.records import RecordWarning

    usual = warnings.formatwarning

    def plain(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, RecordWarning):
            return f"naslib-autokd: warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM as Ctrl-C, so that every command leaves in order; commands that finish what runs first ask for it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_status(error: Exception) -> int:
    """What scripts are told of an error (see `main`)."""
    from naslib_autokd.records import StoreLockedError, StoreWriteError
    from naslib_autokd.runners.tally import TooManyFailures

    if isinstance(error, TooManyFailures):
        return 3
    if isinstance(error, StoreWriteError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return 4
    return 2 if isinstance(error, ValueError | OSError | StoreLockedError | ImportError) else 1


def error_text(error: Exception) -> str:
    """What was wrong and what to do, in one line (but for commands to type, which stay on theirs)."""
    if isinstance(error, ModuleNotFoundError) and error.name and str(error).startswith("No module named"):
        package = error.name.partition(".")[0]
        extra = EXTRAS.get(package)
        what = f'"naslib_autokd[{extra}]"' if extra else package
        return f"this needs the package {package}, which is not installed: pip install {what}"
    if isinstance(error, ImportError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"not enough memory: {shortened(str(error)) or 'an array does not fit'}; give it less to hold"
    place = place_in_own_code(error)
    if not isinstance(error, ValueError | OSError | RuntimeError):
        what = f"{type(error).__name__}: {shortened(str(error))}"
        return f"{what}{place}" if place else f"{OWN_FAULT}: {what}; --debug shows where, please report it"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        hints = {
            FileNotFoundError: "does not exist",
            PermissionError: "may not be read or written by you; choose another place or change its permissions",
            IsADirectoryError: "is a folder; give a file",
            NotADirectoryError: "is not in a folder; give a folder",
            FileExistsError: "is there already, and no folder; give another",
        }
        return f"{os.fsdecode(error.filename)} {hints.get(type(error), f'cannot be used: {error.strerror}')}"
    return shortened(str(error)) + place


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="naslib-autokd",
        description=DESCRIPTION,
        epilog=epilog(
            "naslib-autokd search --task cluttered-digits --trials 24 --out runs/first",
            "naslib-autokd sample --preset hnag --count 6 --draw wirings.png",
            note=EXIT_CODES,
        ),
    )
    parser.add_argument("--version", action="version", version=f"naslib-autokd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in MODULES:
        importlib.import_module(f"naslib_autokd.commands.{name}").add(commands)
    for command in leaves(parser):
        command.set_defaults(command_parser=command)
        if len(settings_of(command)) >= FEW:
            command.add_argument(
                "--config", metavar="FILE", help="YAML file with any of these options; the command line overrides it"
            )
    for each in walk(parser):
        # before or after the command, so only the first parser has a default
        default = False if each is parser else argparse.SUPPRESS
        each.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")
        # the options of all commands stand last
        each._action_groups.remove(each._optionals)
        each._action_groups.append(each._optionals)
    return parser


if __name__ == "__main__":
    sys.exit(main())
