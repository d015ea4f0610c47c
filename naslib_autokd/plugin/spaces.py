"""NASLib's own search spaces for our optimizers: NAS-Bench-101, -201, -301 (DARTS) and the simple cell space.

A point of a `NASLibSpace` is an `ArchitectureCandidate` (`candidates`). Students are trained with KD by
`evaluators.kd.KDEvaluator`, or the benchmark's table answers where its data is present (`tabular.TabularEvaluator`).
NASLib is imported only where one of its graphs or networks is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from naslib_autokd.plugin.candidates import ArchitectureCandidate, ArchitectureSpace

if TYPE_CHECKING:
    from naslib_autokd.tasks import Task


class NASLibSpace(ArchitectureSpace):
    """One of NASLib's search spaces as our optimizers see it, with NASLib's graph; see `ArchitectureSpace`."""

    def graph(self, task: Task | None = None) -> Any:
        """A fresh KD-aware NASLib ``Graph`` of this space (`graphs.graph_class`), for NASLib's own optimizers.

        Args:
            task: What its networks are built for, which NASLib's zero-cost measures take apart; None: NASLib's own.

        Raises:
            NASLibError: If NASLib is missing.
        """
        from naslib_autokd.plugin.graphs import graph_class

        return graph_class(self.name)(self, task)


def nasbench101(**options: Any) -> NASLibSpace:
    """NAS-Bench-101 (423,624 distinct cells); ``options`` are those of `NASLibSpace`, as in the other three."""
    return NASLibSpace("nasbench101", **options)


def nasbench201(**options: Any) -> NASLibSpace:
    """NAS-Bench-201 (15,625 cells)."""
    return NASLibSpace("nasbench201", **options)


def nasbench301(**options: Any) -> NASLibSpace:
    """NAS-Bench-301: DARTS cells (1.1e18)."""
    return NASLibSpace("nasbench301", **options)


def simple_cell(**options: Any) -> NASLibSpace:
    """NASLib's simple cell space (9,765,625 pairs of cells)."""
    return NASLibSpace("simple_cell", **options)


def candidate_of(graph: Any) -> ArchitectureCandidate:
    """The candidate that a NASLib graph holds: ours (with its KD settings) or NASLib's own (default KD settings).

    Raises:
        ValueError: If the graph is of another space, or was not sampled yet.
    """
    own = getattr(graph, "candidate", None)
    if isinstance(own, ArchitectureCandidate):
        return own
    from naslib_autokd.plugin.graphs import architecture_of

    return ArchitectureCandidate(*architecture_of(graph))
