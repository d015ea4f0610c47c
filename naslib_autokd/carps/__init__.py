"""CARP-S (``carps``): the benchmarks of families as its tasks, the optimizers of this package as its optimizers.

Its ``+task/autokd=...`` and ``+optimizer/autokd=...``, found by
``hydra.searchpath=[pkg://naslib_autokd.carps.configs]`` (docs/ablations.md).
"""
