from __future__ import annotations

import pytest

from dsdnode.cost import CostLine
from dsdnode.pacing.suspects import MAX_PEERS, SLOW_HALF_LIFE_S, Slowness
from tests.placement.offers import bytes_of, replace, shard

BOB = shard(1, 0, 8, fixed_ms=10.0, slope_ms=2.0)


def test_bob_was_seen_to_take_five_times_as_long_and_it_is_forgotten_by_and_by() -> None:
    slowness = Slowness()
    slowness.note(BOB.peer_id, CostLine.of_ms(50.0, 10.0), 100.0)
    assert slowness.factors([BOB, shard(2, 0, 8, fixed_ms=1.0)], 100.0) == {BOB.peer_id: pytest.approx(5.0)}
    assert slowness.factors([BOB], 100.0 + SLOW_HALF_LIFE_S)[BOB.peer_id] == pytest.approx(3.0)
    assert slowness.factors([BOB], 100.0 + 20 * SLOW_HALF_LIFE_S) == {}


def test_a_record_that_owns_up_costs_nothing_more() -> None:
    slowness = Slowness()
    slowness.note(BOB.peer_id, CostLine.of_ms(50.0, 10.0), 0.0)
    assert slowness.factors([replace(BOB, fixed_ms=50.0, slope_ms=10.0)], 0.0) == {}
    assert slowness.factors([replace(BOB, fixed_ms=25.0, slope_ms=5.0)], 0.0)[BOB.peer_id] == pytest.approx(2.0)


def test_it_remembers_a_bounded_number_of_peers_the_newest() -> None:
    slowness = Slowness()
    for who in range(MAX_PEERS + 5):
        slowness.note(who.to_bytes(32, "big"), CostLine.of_ms(50.0, 10.0), 0.0)
    slowness.note(BOB.peer_id, CostLine.of_ms(50.0, 10.0), 0.0)
    assert len(slowness._seen) == MAX_PEERS
    assert bytes_of(1) in slowness.factors([BOB], 0.0)
