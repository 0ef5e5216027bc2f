"""Ranges of layers: what some of them make end to end, and what is missing to that. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import accumulate, pairwise

Range = tuple[int, int]
"""Layers [start, end)."""


def is_covered(ranges: Iterable[Range], num_layers: int) -> bool:
    """Do some of them, end to end, make the whole model?"""
    return num_layers in ends(ranges)


def num_missing(ranges: Iterable[Range], num_layers: int) -> int:
    """Layers that the pipeline closest to whole lacks."""
    return sum(map(size, missing(set(ranges), (0, num_layers))))


def missing(parts: Collection[Range], span: Range) -> list[Range]:
    """What must be added to `parts` so that some of them tile `span`: as few layers as possible, then as few stages.

    (Layers between two that parts begin or end at are taken together: whoever invents records has thousands of them.)
    """
    start, end = span
    starts = starts_of(parts)
    cuts = sorted({start, end, *(one for part in parts for one in part if start < one < end)})
    best: dict[int, tuple[int, int, tuple[Range, ...]]] = {start: (0, 0, ())}
    for before, position in pairwise(cuts):
        num, num_steps, runs = best[before]
        gap = position - before
        options = [(num + gap, num_steps + gap, (*runs, (before, position)))]
        for first in starts.get(position, ()):
            if first >= start:
                num, num_steps, runs = best[first]
                options.append((num, num_steps + 1, runs))
        best[position] = min(options)
    return joined(best[end][2])


def starts_of(ranges: Iterable[Range]) -> dict[int, list[int]]:
    """Where those begin that end at a layer, by that."""
    starts: dict[int, list[int]] = {}
    for start, end in ranges:
        starts.setdefault(end, []).append(start)
    return starts


def ends(ranges: Iterable[Range]) -> set[int]:
    """Of what some of them make, end to end, from the first layer on."""
    ends = {0}
    for start, end in sorted(ranges):
        if start in ends:
            ends.add(end)
    return ends


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Ascending ranges, those that touch as one."""
    joined: list[Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def num_hosts(ranges: Iterable[Range], num_layers: int) -> list[int]:
    """Of each layer."""
    changes = [0] * (num_layers + 1)
    for start, end in ranges:
        changes[start] += 1
        changes[end] -= 1
    return list(accumulate(changes[:-1]))


def size(part: Range) -> int:
    return part[1] - part[0]
