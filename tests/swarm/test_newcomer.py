"""Alice has a laptop to spare, and wonders what it would bring."""

from __future__ import annotations

from dsdnode.placement.pipelines import View
from dsdnode.swarm.newcomer import newcomer
from tests.placement.offers import replace, shard

BOB, CAROL, ERIN = shard(7, 0, 4, fixed_ms=4.0), shard(8, 4, 8, fixed_ms=40.0), shard(9, 0, 4, fixed_ms=4.0)
FAR = View.of({BOB.peer_id: 0.01, CAROL.peer_id: 0.01, ERIN.peer_id: 0.01})


def test_what_nobody_hosts_comes_first_and_nothing_comes_before() -> None:
    found = newcomer([BOB], (), 1, FAR)
    assert (found.layers, found.roles, found.without) == ((4, 8), ("drafter", "shard"), None)
    assert found.with_it is not None and found.with_it > 0 and "4 of 8" in found.why


def test_who_is_gone_is_not_counted() -> None:
    assert newcomer([BOB, CAROL], [CAROL.peer_id], 1, FAR).layers == (4, 8)
    alone = newcomer([BOB], [BOB.peer_id], 1, FAR)
    assert alone.layers == (0, 4) and alone.with_it is None, "one more would not do"


def test_of_a_whole_model_the_layers_that_the_fewest_host() -> None:
    found = newcomer([BOB, CAROL, ERIN], (), 1, FAR)
    assert found.layers == (4, 8) and found.without is not None and found.with_it is not None
    assert found.with_it > found.without, "carol is slow, and the newcomer as fast as most"


def test_peers_that_have_measured_nothing_promise_no_speed() -> None:
    unmeasured = [replace(one, fixed_ms=0.0, slope_ms=0.0) for one in (BOB, CAROL)]
    found = newcomer(unmeasured, (), 2, View.of({}))
    assert found.layers is not None and found.without != float("inf")
