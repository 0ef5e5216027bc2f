"""When a shard leaves its layers for others: seldom, late, and one peer for each hole.

A death re-tiles nothing: who left may be back, and a newcomer may be on its way. So a hole must be there, the same, for
a long time before somebody moves; only who is spared where it is moves, or takes what is missing next to its own layers
along; and those who could each wait for their turn, so that one of them moves and the others see it. Somebody who comes
and goes moves nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from dsdnode.placement.layers import Fits, choose_layers
from dsdnode.placement.pipelines import Range, missing, num_missing, size
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
        ranges = [(one.start, one.end) for one in others]
        holes = tuple(missing({*ranges, (own.start, own.end)}, (0, own.num_layers)))
        if holes != self._seen:
            self._seen, self._since_s = holes, now
        if not holes:
            return None
        lacking, waited_s = sum(map(size, holes)), now - self._since_s
        spared = [one for one in others if _is_spared(one, [own, *others], lacking)]
        if _is_spared(own, [own, *others], lacking):
            turn = sorted([own, *spared], key=lambda one: _turn(one, holes)).index(own)
            layers = choose_layers(others, own.num_layers, capacity_layers, fits)
        else:
            grown = _grown(own, holes, capacity_layers, fits)
            if grown is None:
                return None
            turn, layers = len(spared) + 1, grown
        return layers if waited_s >= PATIENCE_S + turn * TURN_S else None


def _is_spared(one: ProviderRecord, all_of_them: Sequence[ProviderRecord], lacking: int) -> bool:
    """Would the pipeline closest to whole lack no more without it?"""
    rest = [(other.start, other.end) for other in all_of_them if other is not one]
    return num_missing(rest, one.num_layers) == lacking


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
