"""When a shard leaves its layers for others: seldom, late, and one peer for each hole.

A death re-tiles nothing: who left may be back, and a newcomer may be on its way. So a hole must be there, the same, for
a long time before somebody moves; only who is spared where it is moves, or takes what is missing next to its own layers
along; and those who could each wait for their turn, so that one of them moves and the others see it. Somebody who comes
and goes moves nobody.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from dsdnode.placement.layers import Fits, choose_layers
from dsdnode.placement.ranges import Range, missing, size, starts_of
from dsdnode.wire.records import ProviderRecord

PATIENCE_S = 180.0
"""A machine that restarts is back sooner, a record of who went without a word lives about as long."""
TURN_S = 30.0
"""Between those who could move: longer than a claim takes to be seen by all."""


class Holes:
    """Those of one model, as one of its shards sees them: `look` now and then."""

    def __init__(self) -> None:
        self._seen: tuple[Range, ...] = ()
        self._since_s = 0.0

    def look(
        self, now: float, own: ProviderRecord, others: Sequence[ProviderRecord], capacity_layers: int, fits: Fits
    ) -> Range | None:
        """Layers [start, end) to host from now on, at most `capacity_layers`; None: the same as before. `others`:
        records of the model's other shards, of those that answer."""
        ranges = [(one.start, one.end) for one in (own, *others)]
        holes = tuple(missing({*ranges}, (0, own.num_layers)))
        if holes != self._seen:
            self._seen, self._since_s = holes, now
        if not holes or now < self._since_s + PATIENCE_S:
            return None
        needed = _needed(ranges, own.num_layers)
        spared = [one for one in others if (one.start, one.end) not in needed]
        if (own.start, own.end) in needed:
            turn, layers = len(spared) + 1, _grown(own, holes, capacity_layers, fits)
        else:
            turn = sorted([own, *spared], key=lambda one: _turn(one, holes)).index(own)
            layers = choose_layers(others, own.num_layers, capacity_layers, fits)
        return layers if now >= self._since_s + PATIENCE_S + turn * TURN_S else None


def _turn(one: ProviderRecord, holes: Sequence[Range]) -> bytes:
    """Another order for each hole, the same for all who see it."""
    return hashlib.sha256(repr(holes).encode() + one.peer_id).digest()


def _grown(own: ProviderRecord, holes: Sequence[Range], capacity_layers: int, fits: Fits) -> Range | None:
    """With the hole before its layers, or the one behind them, where all of that fits."""
    for start, end in holes:
        if own.start == end or own.end == start:
            both = min(start, own.start), max(end, own.end)
            if size(both) <= capacity_layers and fits(*both):
                return both
    return None


def _needed(ranges: Iterable[Range], num_layers: int) -> set[Range]:
    """Those that one peer alone offers, and without which the pipeline closest to whole would lack more.

    All pipelines that lack as little are counted, up to each layer and from each on: one that is in all of them is
    needed. (Of thousands of ranges, which strangers make up, none is taken out to see what is left without it.)
    """
    counts = Counter(ranges)
    starts, backwards = starts_of(counts), starts_of((-end, -start) for start, end in counts)
    before = _closest(starts, range(num_layers + 1))
    behind = _closest(backwards, range(-num_layers, 1))
    least, num_closest = before[num_layers]

    def is_in_all(start: int, end: int) -> bool:
        (left, num_left), (right, num_right) = before[start], behind[-end]
        return left + right == least and num_left * num_right == num_closest

    return {one for one, count in counts.items() if count == 1 and is_in_all(*one)}


def _closest(starts: Mapping[int, Collection[int]], positions: range) -> dict[int, tuple[int, int]]:
    """Up to each position: how few layers can be lacking, and in how many ways."""
    found = {positions[0]: (0, 1)}
    for position in positions[1:]:
        lacking, num_ways = found[position - 1]
        options = [(lacking + 1, num_ways), *(found[one] for one in starts.get(position, ()))]
        least = min(lacking for lacking, _ in options)
        found[position] = least, sum(num_ways for lacking, num_ways in options if lacking == least)
    return found
