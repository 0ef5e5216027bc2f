"""Routing tables as after long acquaintance: for swarms in which thousands of joins would cost more than they tell."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from random import Random

from dsdnode.dht.ids import ID_BITS, K, as_int, node_id
from dsdnode.dht.table import CHECK_AFTER_S, REFRESH_AFTER_S, Table
from dsdnode.wire.messages import Contact


class Acquaintance:
    """All `contacts` of a swarm, in the order of their ids."""

    def __init__(self, contacts: Sequence[Contact]) -> None:
        pairs = sorted((as_int(node_id(contact)), contact) for contact in contacts)
        self._numbers = [number for number, _ in pairs]
        self._contacts = [contact for _, contact in pairs]

    def fill(self, table: Table, own_id: bytes, now: float, rng: Random) -> None:
        """Up to K random nodes in each bucket, met at random moments of the last minute; no refresh is overdue."""
        own = as_int(own_id)
        for bit in range(ID_BITS - 1, -1, -1):
            start, end = self._range((own ^ 1 << bit) >> bit << bit, bit)
            for index in rng.sample(range(start, end), min(K, end - start)):
                table.seen(self._contacts[index], now - 0.9 * CHECK_AFTER_S * rng.random())
            start, end = self._range(own >> bit << bit, bit)
            if end - start <= 1:
                break
        table.refresh_targets(now - 0.9 * REFRESH_AFTER_S * rng.random(), rng)

    def _range(self, low: int, bit: int) -> tuple[int, int]:
        """Those with ids in [low, low + 2^bit)."""
        return bisect_left(self._numbers, low), bisect_left(self._numbers, low + (1 << bit))
