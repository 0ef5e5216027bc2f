"""Alice has a laptop to spare, and wonders what it would bring."""

from __future__ import annotations

from collections.abc import Sequence

from dsdnode.placement.pipelines import View
from dsdnode.swarm.info import Newcomer
from dsdnode.swarm.newcomer import MAX_SHARDS, newcomer
from dsdnode.wire.records import ProviderRecord
from tests.placement.offers import replace, shard

BOB, CAROL, ERIN = shard(7, 0, 4, fixed_ms=4.0), shard(8, 4, 8, fixed_ms=40.0), shard(9, 0, 4, fixed_ms=4.0)
FAR = View.of({BOB.peer_id: 0.01, CAROL.peer_id: 0.01, ERIN.peer_id: 0.01})


def told(*shards: ProviderRecord, silent: Sequence[bytes] = (), drafters: int = 1, view: View = FAR) -> Newcomer:
    found = newcomer(shards, silent, drafters, view)
    assert found is not None
    return found


def test_what_nobody_hosts_comes_first_and_nothing_comes_before() -> None:
    found = told(BOB)
    assert (found.layers, found.roles, found.without) == ((4, 8), ("drafter", "shard"), None)
    assert found.with_it is not None and found.with_it > 0 and "4 of 8" in found.why


def test_who_is_gone_is_not_counted() -> None:
    assert told(BOB, CAROL, silent=[CAROL.peer_id]).layers == (4, 8)
    alone = told(BOB, silent=[BOB.peer_id])
    assert alone.layers == (0, 4) and alone.with_it is None, "one more would not do"


def test_of_a_whole_model_the_layers_that_the_fewest_host() -> None:
    found = told(BOB, CAROL, ERIN)
    assert found.layers == (4, 8) and found.without is not None and found.with_it is not None
    assert found.with_it > found.without, "carol is slow, and the newcomer as fast as most"


def test_peers_that_have_measured_nothing_promise_no_speed() -> None:
    unmeasured = [replace(one, fixed_ms=0.0, slope_ms=0.0) for one in (BOB, CAROL)]
    found = told(*unmeasured, drafters=2, view=View.of({}))
    assert found.layers is not None and found.without != float("inf")


def test_models_that_mallory_invents_cost_a_look_next_to_nothing() -> None:
    """Minutes, in which no reply went on: of thousands of layers each, and in as many ranges as there may be."""
    invented = [replace(BOB, start=layer, end=layer + 1, num_layers=4096) for layer in range(400)]
    for one in invented:
        assert told(one).without is None
    ranges = [(start, end) for start in range(16) for end in range(start + 1, 17)][: MAX_SHARDS // 2]
    many = [
        replace(BOB, public_key=bytes([num]) * 32, start=start * 256, end=end * 256, num_layers=4096)
        for num, (start, end) in enumerate(2 * ranges)
    ]
    assert told(*many).layers is not None
    assert newcomer([*many, CAROL], (), 1, FAR) is None, "one more would not be missed"
