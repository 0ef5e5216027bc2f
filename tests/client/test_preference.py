from __future__ import annotations

from typing import Any

import msgspec

from dsdnode.client.preference import by_preference
from dsdnode.wire.records import ProviderRecord
from tests.placement.offers import shard


def drafter(who: int, **more: Any) -> ProviderRecord:
    return msgspec.structs.replace(shard(who, 0, 8), role="drafter", **({"fixed_ms": 10.0, "free_sessions": 4} | more))


def order(
    *drafters: ProviderRecord, last: int | None = None, joined: tuple[int, ...] = (), silent: tuple[int, ...] = ()
) -> list[int]:
    """Who, first to last."""
    names = {one.peer_id: one.public_key[0] for one in drafters}
    peers = {who: peer for peer, who in names.items()}
    found = by_preference(
        drafters,
        b"" if last is None else peers[last],
        [peers[who] for who in joined],
        lambda peer: names[peer] in silent,
    )
    return [names[one.peer_id] for one in found]


def test_a_fast_drafter_is_asked_before_a_slow_one_that_is_freer() -> None:
    slow, fast = drafter(1, fixed_ms=100.0, free_sessions=8), drafter(2, fixed_ms=9.0, slope_ms=1.0, free_sessions=1)
    assert order(slow, fast) == [2, 1]
    assert order(slow, msgspec.structs.replace(fast, free_sessions=0)) == [1, 2]
    assert order(slow, msgspec.structs.replace(fast, queue=20.0)) == [1, 2]


def test_of_drafters_about_as_fast_the_freest_is_asked() -> None:
    assert order(drafter(1, fixed_ms=10.0), drafter(2, fixed_ms=19.0, free_sessions=5)) == [2, 1]
    assert order(drafter(1, fixed_ms=0.0, free_sessions=5), drafter(2)) == [1, 2], "it has not measured itself yet"
    unmeasured = drafter(1, fixed_ms=0.0, free_sessions=9)
    assert order(unmeasured, drafter(2), drafter(3, fixed_ms=100.0), drafter(4, fixed_ms=250.0)) == [2, 1, 3, 4]
    strangers_word = drafter(3, fixed_ms=1e-9, free_sessions=1)
    assert order(drafter(1, fixed_ms=1.0), drafter(2, fixed_ms=1.9, free_sessions=5), strangers_word) == [2, 1, 3]


def test_a_thousand_free_sessions_are_as_good_as_eight() -> None:
    first, second = sorted([drafter(1), drafter(2)], key=lambda one: one.peer_id)
    crowded = msgspec.structs.replace(second, free_sessions=1 << 30)
    roomy = msgspec.structs.replace(first, free_sessions=8)
    assert order(crowded, roomy) == [first.public_key[0], second.public_key[0]]


def test_ones_own_and_the_last_go_first_and_the_silent_last() -> None:
    swarm = drafter(1, fixed_ms=1.0), drafter(2, fixed_ms=100.0), drafter(3, fixed_ms=50.0)
    assert order(*swarm) == [1, 3, 2]
    assert order(*swarm, joined=(2,)) == [2, 1, 3]
    assert order(*swarm, joined=(2,), last=3) == [3, 2, 1]
    assert order(*swarm, joined=(2,), last=3, silent=(3, 2)) == [1, 3, 2]
    assert order() == []
