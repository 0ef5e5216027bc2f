"""Which drafter a client asks first, by what drafters say of themselves and what was seen of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import log2
from statistics import median

from dsdnode.cost import UNKNOWN
from dsdnode.wire.records import ProviderRecord

MAX_FREE = 8
"""Free sessions: more are as good, whatever a record says."""
SPEED_CLASS = 2.0
"""Times slower: less than that is as good, and who has more free sessions is preferred."""
FAST_MS = 1.0
"""A token, as announced: faster ones are alike, so that no stranger's record makes all others slow."""


def by_preference(
    drafters: Sequence[ProviderRecord], last: bytes, joined: Collection[bytes], is_silent: Callable[[bytes], bool]
) -> list[ProviderRecord]:
    """In a conversation the `last` one, or the peers that we joined; else the fast ones, the freest of them first.

    Those that were silent lately come behind the others, and before them those that are full. Who has not measured
    itself yet is as fast as is usual.
    """
    measured_s = [one.cost.at(1) for one in drafters if one.cost != UNKNOWN]
    usual_s = median(measured_s) if measured_s else 0.0
    costs_s = [usual_s if one.cost == UNKNOWN else one.cost.at(1) for one in drafters]
    times_ms = [max(FAST_MS, 1e3 * cost_s * (1 + one.queue)) for one, cost_s in zip(drafters, costs_s, strict=True)]
    fastest_ms = min(times_ms, default=FAST_MS)

    def key(pair: tuple[ProviderRecord, float]) -> tuple[bool, bool, bool, bool, int, int, bytes]:
        record, time_ms = pair
        return (
            is_silent(record.peer_id),
            record.peer_id != last,
            record.peer_id not in joined,
            record.free_sessions == 0,
            int(log2(time_ms / fastest_ms) / log2(SPEED_CLASS)),
            -min(record.free_sessions, MAX_FREE),
            record.peer_id,
        )

    return [record for record, _ in sorted(zip(drafters, times_ms, strict=True), key=key)]
