"""Candidates by the thousand, counted and sized before any is trained; no module is built and torch not imported.

Examples:
    >>> from naslib_autokd.search_spaces.hnag import HNAGSpace, screen
    >>> sizes = dict(in_channels=3, image_size=32, n_classes=10)
    >>> small = [s for s in screen(HNAGSpace("hnag"), 500, max_params=500_000, **sizes) if s.macs < 70_000_000]
    >>> wiring = small[0].sample_wiring()
    >>> wiring.depth == small[0].depth
    True

A million take some five minutes on one core, and no more memory than a thousand.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

from naslib_autokd.records import derive_seed
from naslib_autokd.search_spaces.hnag._checks import check_integer
from naslib_autokd.search_spaces.hnag.generator import Generator
from naslib_autokd.search_spaces.hnag.parameters import Candidate, HNAGSpace
from naslib_autokd.search_spaces.hnag.wiring import (
    Outline,
    ParameterBudgetError,
    Wiring,
    fit_channels,
    multiply_adds,
    parameter_count,
    resolve_stem,
    stage_sizes,
)

CHUNK = 1000
"""Candidates drawn together. A part of the definition: each chunk has a stream of its own."""


class Screened(NamedTuple):
    """One wiring of a family, with its student at the parameter limit."""

    candidate: Candidate
    wiring_seed: int
    """The wiring is ``candidate.sample_wiring(wiring_seed)``."""
    channels: tuple[int, int, int]
    """Of the three stages, as `fit_width` chooses them."""
    n_params: int
    macs: int
    """Multiply-adds of one image."""
    depth: int
    """Operations on the longest path."""

    @property
    def width(self) -> int:
        """Channels of the first stage."""
        return self.channels[0]

    def sample_wiring(self) -> Wiring:
        return self.candidate.sample_wiring(self.wiring_seed)


def screen(
    families: HNAGSpace | Sequence[Generator | Candidate],
    n: int,
    seed: int = 0,
    *,
    max_params: int,
    in_channels: int,
    image_size: int,
    n_classes: int,
    stem: str = "auto",
    min_channels: int = 1,
    width_multiple: int = 1,
    max_macs: int | None = None,
    max_depth: int | None = None,
    workers: int = 1,
) -> Iterator[Screened]:
    """Draw ``n`` wirings, count them and fit their width; yield those within the limits, in the order of drawing.

    Args:
        families: A space, whose families are drawn uniformly (as `HNAGSpace.sample` does), with one wiring each; or
            families that take turns.
        n: Wirings to draw. Fewer are yielded: wirings that not even ``min_channels`` brings below ``max_params`` are
            left out, and so are those over ``max_macs`` or ``max_depth``.
        seed: Decides everything that is drawn; the number of workers does not.
        max_params: Parameter limit; a candidate's ``size`` is the share of it that its student may have.
        stem: As in `fit_width`, like the arguments around it.
        workers: Processes. More than one need the importable ``__main__`` that `multiprocessing` asks for.

    Raises:
        ValueError: If a number is outside its range, no families are given, or the images are too small for three
            stages.
    """
    n = check_integer(n, "n", 0)
    workers = check_integer(workers, "workers", 1)
    source: HNAGSpace | list[Candidate]
    if isinstance(families, HNAGSpace):
        source = families
    else:
        source = [family if isinstance(family, Candidate) else Candidate(family) for family in families]
        if not source:
            raise ValueError("no families are given")
    stem = resolve_stem(stem, image_size)
    if stage_sizes(image_size, stem)[-1] < 1:
        raise ValueError(f"image_size {image_size} is too small for three stages after the {stem} stem")
    chunk = partial(
        _chunk,
        source,
        seed,
        max_params=max_params,
        in_channels=check_integer(in_channels, "in_channels", 1),
        image_size=image_size,
        n_classes=check_integer(n_classes, "n_classes", 2),
        stem=stem,
        min_channels=check_integer(min_channels, "min_channels", 1),
        width_multiple=check_integer(width_multiple, "width_multiple", 1),
        max_macs=max_macs,
        max_depth=max_depth,
    )
    jobs = [(start, min(CHUNK, n - start)) for start in range(0, n, CHUNK)]
    if workers == 1:
        return (found for job in jobs for found in chunk(*job))
    return _in_processes(chunk, jobs, workers)


def _in_processes(chunk: partial[list[Screened]], jobs: list[tuple[int, int]], workers: int) -> Iterator[Screened]:
    """Chunks from several processes, in order; only a few are ever waiting to be read."""
    context = multiprocessing.get_context("spawn")  # forks of a process with threads can hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[Future[list[Screened]]] = deque()
        for job in jobs:
            waiting.append(pool.submit(chunk, *job))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _chunk(
    families: HNAGSpace | Sequence[Candidate],
    seed: int,
    start: int,
    n: int,
    *,
    max_params: int,
    in_channels: int,
    image_size: int,
    n_classes: int,
    stem: str,
    min_channels: int,
    width_multiple: int,
    max_macs: int | None,
    max_depth: int | None,
) -> list[Screened]:
    """Candidates ``start`` to ``start + n`` of a screening."""
    if isinstance(families, HNAGSpace):
        drawn: Iterator[Candidate] = iter(families.sample_many(n, derive_seed(seed, "screen", start)))
    else:
        drawn = (families[index % len(families)] for index in range(start, start + n))
    found = []
    for index, candidate in zip(itertools.count(start), drawn, strict=False):
        wiring_seed = derive_seed(seed, "screen wiring", index)
        if candidate.wiring_seed is not None:
            wiring_seed = candidate.wiring_seed
        generator = candidate.generator
        counts = generator.draw_counts(wiring_seed)
        if max_depth is not None and counts.depth > max_depth:
            continue
        outline = Outline(counts, generator.stages, generator.channel_growth, generator.head_ratio)
        n_params = parameter_count(outline, in_channels, n_classes, stem)
        budget = max_params if candidate.size == 1.0 else round(max_params * candidate.size)
        try:
            channels = fit_channels(
                outline, n_params, budget, in_channels, n_classes, stem, min_channels, width_multiple
            )
        except ParameterBudgetError:
            continue
        macs = multiply_adds(outline, channels, in_channels, image_size, n_classes, stem)
        if max_macs is None or macs <= max_macs:
            found.append(Screened(candidate, wiring_seed, channels, n_params(*channels), macs, counts.depth))
    return found
