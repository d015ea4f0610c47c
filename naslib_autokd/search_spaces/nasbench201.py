"""The cells of NAS-Bench-201 (Dong and Yang 2020, arXiv:2001.00326) as plain data, and which of them are the same.

A cell is an operation on each of the six edges between four nodes: 5^6 = 15,625 of them. Many compute the same function
of their weights, so that their trainings are repeats of one network in disguise: `function_of` tells which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from naslib_autokd.settings import did_you_mean

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("e01", "e02", "e12", "e03", "e13", "e23")
"""``e01`` goes from node 0 to node 1; in the order of the benchmark's own strings."""

N_CELLS = len(OPERATIONS) ** len(EDGES)

_STRING = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")


def parse_cell(text: str) -> tuple[str, ...]:
    """The operations, in the order of `EDGES`, of a cell as the benchmark writes it.

    Raises:
        ValueError: If it is no such text, or an operation is unknown (names the nearest).

    Examples:
        >>> parse_cell("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|")
        ('nor_conv_3x3', 'none', 'skip_connect', 'none', 'none', 'nor_conv_1x1')
    """
    match = _STRING.fullmatch(text)
    if match is None:
        raise ValueError(f"a cell of NAS-Bench-201 is written |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, got {text!r}")
    return tuple(checked_operation(name) for name in match.groups())


def checked_operation(name: str) -> str:
    """``name`` itself; raises ValueError if it is none of `OPERATIONS` (names the nearest)."""
    if name not in OPERATIONS:
        raise ValueError(f"unknown operation {name!r} of NAS-Bench-201{did_you_mean(name, OPERATIONS)}")
    return name


def function_of(operations: Sequence[str]) -> str:
    """What a cell computes, as text: equal for cells that are the same function of their input and weights.

    Nodes are sums of terms. A skip connection repeats the terms of its node, "none" and what is pooled from nothing
    have none, and pooling, which is linear, is done term by term. A convolution of nothing is kept: its batch norm adds
    a constant. This finds more than the paper's ``to_unique_str`` (6,466 cells), which keeps sums in brackets.

    Args:
        operations: One for each of `EDGES`.

    Examples:
        >>> function_of(("nor_conv_3x3", "none", "none", "none", "skip_connect", "none"))
        'nor_conv_3x3(x)'
        >>> function_of(("none", "nor_conv_3x3", "none", "none", "none", "skip_connect"))
        'nor_conv_3x3(x)'
    """
    nodes = [Counter({"x": 1})]
    on_edge = dict(zip(EDGES, operations, strict=True))
    for target in (1, 2, 3):
        terms: Counter[str] = Counter()
        for source in range(target):
            operation, incoming = on_edge[f"e{source}{target}"], nodes[source]
            if operation == "skip_connect":
                terms.update(incoming)
            elif operation == "avg_pool_3x3":
                terms.update({f"{operation}({term})": n for term, n in incoming.items()})
            elif operation != "none":
                terms[f"{operation}({_sum(incoming)})"] += 1
        nodes.append(terms)
    return _sum(nodes[3])


def _sum(terms: Counter[str]) -> str:
    return " + ".join(sorted(terms.elements()))
