"""Which drafter a client asks first, by what was seen of them; what one says of itself can only put it last. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import log2
from random import Random
from statistics import median_high

from cachetools import LRUCache

from dsdnode.accounts import Account, in_turn
from dsdnode.cost import UNKNOWN
from dsdnode.wire.records import NO_HASH, ProviderRecord

SPEED_CLASS = 2.0
"""Times slower than is usual: less than that is as good."""
MAX_CLASS = 64
"""Who says that he takes next to no time makes others slower than any number."""

MAX_DOUBTED = 256
ENOUGH = 2
"""Networks: of two drafters that contradict each other either may lie."""


class Doubts:
    """Which drafters began replies, with whose tokens or texts others did not agree."""

    def __init__(self) -> None:
        self._contradicted: LRUCache[bytes, tuple[str, ...]] = LRUCache(MAX_DOUBTED)
        """From which networks."""

    def note(self, giver: bytes, network: str) -> None:
        known = self._contradicted.get(giver, ())
        self._contradicted[giver] = tuple(dict.fromkeys((*known, network)))[:ENOUGH]

    def forget(self, giver: bytes) -> None:
        self._contradicted.pop(giver, None)

    def is_doubted(self, giver: bytes) -> bool:
        """By one of them, at least."""
        return giver in self._contradicted

    def is_caught(self, giver: bytes) -> bool:
        return len(self._contradicted.get(giver, ())) >= ENOUGH


def by_lot(
    drafters: Sequence[ProviderRecord], network_of: Callable[[ProviderRecord], str], rng: Random
) -> list[ProviderRecord]:
    """Networks take turns, since names cost nothing: a thousand drafters in one of them have one lot."""
    by_network: dict[str, list[ProviderRecord]] = {}
    for record in sorted(drafters, key=lambda record: record.peer_id):
        by_network.setdefault(network_of(record), []).append(record)
    networks = sorted(by_network)
    rng.shuffle(networks)
    for members in by_network.values():
        rng.shuffle(members)
    lots = [record for network in networks for record in by_network[network]]
    return in_turn(lots, lambda record: Account(record.peer_id, network_of(record)))


def by_preference(
    drafters: Sequence[ProviderRecord],
    last: bytes,
    joined: Collection[bytes],
    shunned: Callable[[bytes], int],
    rank: Callable[[bytes], int],
    network_of: Callable[[ProviderRecord], str] = lambda record: "",
) -> list[ProviderRecord]:
    """In a conversation the `last` one, or the peers that we joined; else those that have a draft model and are not
    slower than is usual, and of these in the order of `rank`, by what they gave. The order in which they come decides
    between equals.

    Those that are `shunned` (0: not at all) come behind the others, the less the sooner, and before them those that say
    that they are full. Who says that it is fast, or has places for a thousand, is as good as the usual one: anybody can
    say so. What is usual is the middle network's, as names cost nothing.
    """
    measured_s: dict[str, list[float]] = {}
    for one in drafters:
        if one.cost != UNKNOWN:
            measured_s.setdefault(network_of(one), []).append(one.cost.at(1))
    usual_s = median_high(map(median_high, measured_s.values())) if measured_s else 0.0

    def key(record: ProviderRecord) -> tuple[int, bool, bool, bool, bool, int, int]:
        slower = record.cost.at(1) * (1 + record.queue) / usual_s if usual_s else 1.0
        return (
            shunned(record.peer_id),
            record.peer_id != last,
            record.peer_id not in joined,
            record.weights_hash == NO_HASH,
            record.free_sessions == 0,
            int(min(MAX_CLASS, log2(max(1.0, slower)) / log2(SPEED_CLASS))),
            rank(record.peer_id),
        )

    return sorted(drafters, key=key)
