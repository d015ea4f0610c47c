"""Subcommands of ``naslib-autokd``, one module each, with ``add(commands)``, which makes its parsers.

Shared by them: `_parser` (help and errors), `_options` (options of the same name everywhere), `_config` (files).
"""

MODULES: tuple[str, ...] = (
    "search",
    "status",
    "report",
    "export",
    "test",
    "sample",
    "evaluate",
    "ablate",
    "bench",
    "compare_kd",
    "teacher",
    "data",
    "doctor",
    "completion",
)
"""In the order of ``--help``. They import heavy packages only when a command runs."""
