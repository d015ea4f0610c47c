"""Subcommands of ``naslib-autokd`` in modules of their own; each has ``add(commands)``, which makes its parsers."""

MODULES: tuple[str, ...] = ("ablate", "bench", "compare_kd", "export", "teacher")
"""In the order of ``--help``. They import heavy packages only when a command runs."""
