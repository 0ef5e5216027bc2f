"""Peers that were seen to be slower than their records say: remembered for a while, so that others are asked. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cachetools import LRUCache

from dsdnode.cost import CostLine
from dsdnode.wire.records import ProviderRecord

HALF_LIFE_S = 60.0
MAX_PEERS = 256
BLOCK_POSITIONS = 3
"""Of a usual block."""
MIN_FACTOR = 1.05


class Slowness:
    """By peer id: what a block was seen to take, and when."""

    def __init__(self) -> None:
        self._seen: LRUCache[bytes, tuple[float, float]] = LRUCache(MAX_PEERS)

    def note(self, peer: bytes, cost: CostLine, now: float) -> None:
        """Its cost line seems to be this one."""
        self._seen[peer] = cost.at(BLOCK_POSITIONS), now

    def factors(self, records: Iterable[ProviderRecord], now: float) -> dict[bytes, float]:
        """How many times slower than its record each is likely to be still; a record that owns up adds nothing."""
        factors = {}
        for record in records:
            seen_s, noted_s = self._seen.get(record.peer_id, (0.0, now))
            recorded_s = record.cost.at(BLOCK_POSITIONS)
            if recorded_s > 0 and seen_s > recorded_s:
                factor = 1 + (seen_s / recorded_s - 1) * 0.5 ** ((now - noted_s) / HALF_LIFE_S)
                if factor > MIN_FACTOR:
                    factors[record.peer_id] = factor
        return factors
