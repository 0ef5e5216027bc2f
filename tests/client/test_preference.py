from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import msgspec

from dsdnode.client.preference import by_lot, by_preference
from dsdnode.wire.records import NO_HASH, ProviderRecord
from tests.placement.offers import shard


def drafter(who: int, **more: Any) -> ProviderRecord:
    return msgspec.structs.replace(shard(who, 0, 8), role="drafter", **({"fixed_ms": 10.0, "free_sessions": 4} | more))


def order(
    *drafters: ProviderRecord,
    last: int | None = None,
    joined: tuple[int, ...] = (),
    silent: tuple[int, ...] = (),
    ranks: dict[int, int] | None = None,
    neighbours: tuple[int, ...] = (),
) -> list[int]:
    """Who, first to last."""
    names = {one.peer_id: one.public_key[0] for one in drafters}
    peers = {who: peer for peer, who in names.items()}
    found = by_preference(
        drafters,
        b"" if last is None else peers[last],
        [peers[who] for who in joined],
        lambda peer: names[peer] in silent,
        lambda peer: (ranks or {}).get(names[peer], 1),
        lambda one: "" if one.public_key[0] in neighbours else one.peer_id.hex(),
    )
    return [names[one.peer_id] for one in found]


def test_who_is_slower_than_is_usual_or_full_is_asked_later() -> None:
    slow, usual, fast = drafter(1, fixed_ms=100.0), drafter(2, fixed_ms=30.0), drafter(3, fixed_ms=9.0, slope_ms=1.0)
    assert order(slow, usual, fast) == [2, 3, 1]
    assert order(slow, msgspec.structs.replace(usual, free_sessions=0), fast) == [3, 1, 2]
    assert order(slow, usual, msgspec.structs.replace(fast, queue=20.0)) == [2, 1, 3]


def test_what_a_drafter_says_of_itself_puts_it_before_nobody() -> None:
    """Mallory is fast, has a thousand places, or has not measured herself."""
    for boast in ({"fixed_ms": 1e-9}, {"free_sessions": 1 << 30}, {"fixed_ms": 0.0, "slope_ms": 0.0}):
        mallory = drafter(9, **boast)
        assert order(drafter(1), mallory) == [1, 9]
        assert order(drafter(1), drafter(2), mallory) == [1, 2, 9]


def test_a_crowd_that_boasts_in_one_network_makes_nobody_slow() -> None:
    crowd = tuple(range(10, 20))
    boasters = [drafter(who, fixed_ms=1e-3, slope_ms=0.0) for who in crowd]
    assert order(drafter(1), *boasters, drafter(2), drafter(3), neighbours=crowd) == [1, *crowd, 2, 3]


def test_next_to_no_time_is_a_time() -> None:
    """What the others take is so many times as much that no number says it."""
    boasters = [drafter(who, fixed_ms=1e-310, slope_ms=0.0) for who in (7, 8, 9)]
    assert order(drafter(1), *boasters) == [7, 8, 9, 1]


def test_a_draft_model_comes_before_none() -> None:
    none, full, usual = drafter(1, weights_hash=NO_HASH), drafter(2, free_sessions=0), drafter(3)
    assert order(none, full, usual) == [3, 2, 1]
    assert order(none, usual, joined=(1,)) == [1, 3]


def test_a_thousand_drafters_of_one_network_have_one_lot() -> None:
    crowd = [drafter(number) for number in range(20)]
    alone = [drafter(number) for number in (100, 101)]
    firsts = Counter(
        by_lot([*crowd, *alone], lambda one: "" if one in crowd else one.peer_id.hex(), Random(seed))[0].public_key[0]
        for seed in range(300)
    )
    assert min(firsts[100], firsts[101]) > 70
    assert by_lot(alone, lambda one: "", Random(1)) == by_lot(alone[::-1], lambda one: "", Random(1))


def test_ones_own_and_the_last_go_first_and_the_silent_last() -> None:
    swarm = drafter(1, fixed_ms=10.0), drafter(2, fixed_ms=100.0), drafter(3, fixed_ms=10.0)
    assert order(*swarm) == [1, 3, 2]
    assert order(*swarm, joined=(2,)) == [2, 1, 3]
    assert order(*swarm, joined=(2,), last=3) == [3, 2, 1]
    assert order(*swarm, joined=(2,), last=3, silent=(3, 2)) == [1, 3, 2]
    assert order() == []
