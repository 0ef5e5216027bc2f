from __future__ import annotations

import itertools
import random
from dataclasses import replace as replace_view
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdnode.errors import NoPipeline
from dsdnode.pacing.tuning import TUNING
from dsdnode.placement.coverage import longest_context
from dsdnode.placement.pipelines import View, choose_pipeline, predict, speed, with_usual_speeds
from dsdnode.wire.records import ProviderRecord

from .offers import bytes_of, replace, shard, swarm, trips

RANGES = st.tuples(st.integers(0, 5), st.integers(1, 6)).filter(lambda r: r[0] < r[1])
NOWHERE = View.of({})


def ranges(records: list[ProviderRecord], exclude: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    places = choose_pipeline(records, 8, NOWHERE, exclude=[bytes_of(who) for who in exclude])
    return [(place.start, place.end) for place in places]


def test_ranges_end_to_end_make_a_pipeline() -> None:
    places = choose_pipeline(swarm((5, 8), (0, 2), (2, 5)), 8, NOWHERE)
    assert [(place.start, place.end) for place in places] == [(0, 2), (2, 5), (5, 8)]
    assert places[0].peer == bytes_of(2)
    assert places[0].contact.addresses == ("tcp://127.0.0.1:1002",)


def test_fewer_hops_when_all_else_is_equal() -> None:
    assert ranges(swarm((0, 4), (4, 8), (0, 8))) == [(0, 8)]


def test_two_near_peers_before_one_far_away() -> None:
    offers = swarm((0, 4), (4, 8), (0, 8))
    rtt_s = {bytes_of(1): 0.01, bytes_of(2): 0.01, bytes_of(3): 0.3}
    assert len(choose_pipeline(offers, 8, View.of(rtt_s))) == 2
    assert len(choose_pipeline(offers, 8, View.of(rtt_s | {bytes_of(3): 0.015}))) == 1


def test_two_fast_peers_before_a_slow_one() -> None:
    offers = [shard(1, 0, 4), shard(2, 4, 8), shard(3, 0, 8, fixed_ms=500.0)]
    assert ranges(offers) == [(0, 4), (4, 8)]


def test_a_full_peer_is_the_last_resort() -> None:
    full, free = shard(1, 0, 8, free=0), [shard(2, 0, 4), shard(3, 4, 8)]
    assert ranges([full, *free]) == [(0, 4), (4, 8)]
    assert ranges([full]) == [(0, 8)]


def test_who_lost_something_comes_behind_others_and_who_lost_more_behind_him() -> None:
    offers = [shard(1, 0, 8), shard(2, 0, 8, fixed_ms=50.0), shard(3, 0, 4, free=0), shard(4, 4, 8)]

    def chosen(**lost: int) -> list[int]:
        broken = {(bytes_of(int(who[1:])),) * 2: num for who, num in lost.items()}
        view = replace_view(NOWHERE, broken=broken)
        return [place.record.public_key[0] for place in choose_pipeline(offers, 8, view)]

    assert chosen() == [1]
    assert chosen(p1=1) == [2]
    assert chosen(p1=1, p2=1) == [3, 4]
    assert chosen(p1=2, p2=1, p4=2) == [2]


def test_who_just_failed_is_replaced() -> None:
    offers = swarm((0, 4), (4, 8), (4, 8))
    assert choose_pipeline(offers, 8, NOWHERE, exclude=[bytes_of(2)])[1].peer == bytes_of(3)


def test_nobody_is_taken_twice_for_what_he_hosted_once() -> None:
    """Of two records of one peer, an old one and one from after its restart, the new one counts, or it is missing."""
    before, after = shard(1, 0, 4, sequence=1), shard(1, 4, 8, sequence=2)
    with pytest.raises(NoPipeline, match="layers 0:4"):
        ranges([before, after])
    with pytest.raises(NoPipeline, match="layers 0:4"):
        ranges([after, before])
    assert ranges([after, before, shard(2, 0, 4)]) == [(0, 4), (4, 8)]
    for first, second in ((0, 4), (4, 0)):  # mallory says both at once
        with pytest.raises(NoPipeline):
            ranges([shard(1, first, first + 4), shard(1, second, second + 4)])


def test_who_says_nothing_of_its_speed_is_as_fast_as_is_usual() -> None:
    known = [shard(who, 0, 4, fixed_ms=fixed_ms, slope_ms=1.0) for who, fixed_ms in ((1, 8.0), (2, 12.0), (3, 80.0))]
    silent = shard(4, 4, 6)
    *same, usual = with_usual_speeds([*known, silent])
    assert same == known
    assert (usual.fixed_ms, usual.slope_ms) == (6.0, 0.5), "two layers, of 3 ms each"
    assert with_usual_speeds([silent]) == [silent], "nobody has measured anything"


def test_cost_0_draws_nobody_away_from_the_fast() -> None:
    offers = [shard(1, 0, 8, fixed_ms=5.0), shard(2, 0, 8, fixed_ms=50.0), shard(3, 0, 8, fixed_ms=60.0)]
    liar = shard(4, 0, 8)
    [place] = choose_pipeline(with_usual_speeds([*offers, liar]), 8, NOWHERE)
    assert place.peer == bytes_of(1)
    [place] = choose_pipeline([*offers, liar], 8, NOWHERE)
    assert place.peer == bytes_of(4), "or it would"


def test_the_context_is_that_of_the_roomiest_pipeline() -> None:
    roomy = [shard(1, 0, 4, context_tokens=100), shard(2, 4, 8, context_tokens=80)]
    assert longest_context(roomy, 8) == 80
    assert longest_context([*roomy, shard(3, 0, 8, context_tokens=1)], 8) == 80
    assert longest_context([*roomy, shard(3, 4, 8, context_tokens=999)], 8) == 100
    assert longest_context([*roomy, shard(3, 0, 2, context_tokens=999)], 8) == 80, "of no pipeline"
    assert longest_context(roomy[:1], 8) == 0
    assert longest_context([], 8) == 0


def test_equals_are_told_apart_by_their_ids_whatever_the_order() -> None:
    offers = swarm((0, 4), (0, 4), (4, 8), (4, 8))
    chosen = {
        tuple(place.peer for place in choose_pipeline(order, 8, NOWHERE)) for order in itertools.permutations(offers)
    }
    assert chosen == {(min(bytes_of(1), bytes_of(2)), min(bytes_of(3), bytes_of(4)))}


REMEDY = ": `dsdnode start --role shard --join ...` takes what is missing"


@pytest.mark.parametrize(
    ("offers", "exclude", "words"),
    [
        (swarm((0, 3), (6, 8)), (), "layers 3:6 of demo-target are hosted by nobody" + REMEDY),
        (swarm((2, 3), (5, 6)), (), "layers 0:2, 3:5, 6:8 of demo-target are hosted by nobody" + REMEDY),
        ([], (), "layers 0:8 of the model are hosted by nobody" + REMEDY),
        (
            swarm((0, 4), (4, 8)),
            (2,),
            "layers 4:8 of demo-target are hosted by nobody (1 that did just failed)" + REMEDY,
        ),
        (
            swarm((0, 5), (3, 8)),
            (),
            "layers 0:3 of demo-target lack a host with just that range: "
            "the ranges offered, 0:5, 3:8, overlap but do not join end to end",
        ),
    ],
)
def test_what_is_missing_is_named(offers: list[ProviderRecord], exclude: tuple[int, ...], words: str) -> None:
    with pytest.raises(NoPipeline) as raised:
        ranges(offers, exclude)
    assert str(raised.value) == words


def test_drafters_and_shards_of_other_models_do_not_count() -> None:
    whole = shard(1, 0, 8)
    with pytest.raises(NoPipeline):
        ranges([replace(whole, role="drafter")])
    with pytest.raises(NoPipeline):
        choose_pipeline([whole], 16, NOWHERE)


# --- speed --------------------------------------------------------------------------------------------------------

LOSS = 1 - TUNING.prior_rate**3


def cost_s(line: tuple[ProviderRecord, ...], view: View) -> float:
    """Speculation section 3 by hand: tau / (1 - alpha^b) + P, blocks of 3."""
    paces = []
    for offer in line:
        others = max(offer.queue, view.sessions.get(offer.peer_id, 0) / 2)
        pace_ms = (offer.fixed_ms + offer.slope_ms * 3 * (1 + others)) * (1 + min(1.0, others) / 2)
        paces.append(pace_ms / 1e3 * view.slowness.get(offer.peer_id, 1.0))
    ring_s = (view.rtt_s[line[0].peer_id] + view.rtt_s[line[-1].peer_id]) / 2
    for one, other in itertools.pairwise(line):
        known = [trip.rtt_ms / 1e3 for trip in one.round_trips if trip.peer == other.peer_id[:4]]
        known += [trip.rtt_ms / 1e3 for trip in other.round_trips if trip.peer == one.peer_id[:4]]
        ring_s += (known or [max(view.rtt_s[one.peer_id], view.rtt_s[other.peer_id])])[-1] / 2
    return sum(paces) + TUNING.handling_s * len(line) + ring_s + max(paces) / LOSS


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.lists(RANGES, max_size=8), st.integers(0, 2**32))
def test_no_pipeline_is_better_than_the_chosen(parts: list[tuple[int, int]], seed: int) -> None:
    rng = random.Random(seed)
    offers = []
    for offer in swarm(*parts, num_layers=6):
        pairs = {f"p{rng.randint(1, 8)}": rng.choice([1.0, 10.0, 200.0]) for _ in range(2)}
        costs = {"fixed_ms": rng.choice([1.0, 20.0, 80.0]), "slope_ms": rng.choice([0.1, 5.0])}
        offers.append(replace(offer, **costs, queue=rng.choice([0.0, 0.5, 3.0]), round_trips=trips(**pairs)))
    ids = [offer.peer_id for offer in offers]
    rtt_s = {peer: rng.choice([0.01, 0.02, 0.5]) for peer in ids}
    view = View(rtt_s, {peer: 4.0 for peer in ids[::3]}, {peer: 2 for peer in ids[::2]})

    def tiles(line: tuple[ProviderRecord, ...]) -> bool:
        return [0, *(offer.end for offer in line)] == [*(offer.start for offer in line), 6]

    every = [line for num in range(1, 7) for line in itertools.permutations(offers, num) if tiles(line)]
    if not every:
        with pytest.raises(NoPipeline, match="demo-target" if offers else "the model"):
            choose_pipeline(offers, 6, view)
        return
    places = choose_pipeline(offers, 6, view)
    chosen = tuple(place.record for place in places)
    assert tiles(chosen)
    assert cost_s(chosen, view) == pytest.approx(min(cost_s(line, view) for line in every))
    assert speed(places, view) == pytest.approx(1 / (1 - TUNING.prior_rate) / cost_s(chosen, view))


def test_a_link_that_peers_have_measured_decides_between_replicas() -> None:
    """Alice is 40 ms from all three; bob is next door to carol, and dave as far from her as from Alice."""
    bob, carol, dave = shard(1, 0, 4), shard(2, 4, 8), shard(3, 4, 8)
    view = View.of({bob.peer_id: 0.04, carol.peer_id: 0.042, dave.peer_id: 0.04})
    assert choose_pipeline([bob, carol, dave], 8, view)[1].peer == dave.peer_id
    near = trips(p2=2.0, p3=40.0)
    places = choose_pipeline([replace(bob, round_trips=near), carol, dave], 8, view)
    assert places[1].peer == carol.peer_id
    assert predict(places, view).network_s == pytest.approx((0.04 + 0.002 + 0.042) / 2)
    told_by_carol = [bob, replace(carol, round_trips=trips(p1=2.0)), dave]
    assert choose_pipeline(told_by_carol, 8, view)[1].peer == carol.peer_id


def test_the_ring_goes_round_by_the_short_way() -> None:
    """Two pairs of neighbours, 60 ms between the pairs: who sits beside whom decides who serves which half."""
    offers = [shard(1, 0, 4), shard(2, 0, 4), shard(3, 4, 8), shard(4, 4, 8)]
    view = View.of({offer.peer_id: 0.05 for offer in offers})
    links = {1: trips(p3=60.0, p4=60.0), 2: trips(p3=60.0, p4=1.0), 3: (), 4: ()}
    linked = [replace(offer, round_trips=links[who]) for who, offer in enumerate(offers, start=1)]
    assert [place.peer for place in choose_pipeline(linked, 8, view)] == [bytes_of(2), bytes_of(4)]


def test_of_replicas_the_one_with_the_shortest_queue() -> None:
    offers = [
        shard(who, 0, 8, fixed_ms=10.0, slope_ms=1.0, queue=queue) for who, queue in ((1, 3.0), (2, 0.5), (3, 4.0))
    ]
    assert choose_pipeline(offers, 8, NOWHERE)[0].peer == bytes_of(2)
    own = View({}, {}, {bytes_of(2): 7})
    assert choose_pipeline(offers, 8, own)[0].peer == bytes_of(1)
    slow = [*offers[:1], shard(2, 0, 8, fixed_ms=50.0, slope_ms=5.0)]
    assert choose_pipeline(slow, 8, NOWHERE)[0].peer == bytes_of(1)  # a queue at a fast peer is shorter than none


def test_a_stream_is_as_fast_as_its_slowest_stage() -> None:
    """One peer alone has the shorter pass; two peers, at work at the same time, give more tokens a second."""
    offers = [shard(1, 0, 8, fixed_ms=60.0), shard(2, 0, 4, fixed_ms=35.0), shard(3, 4, 8, fixed_ms=35.0)]
    view = View.of({offer.peer_id: 0.001 for offer in offers})
    assert [place.peer for place in choose_pipeline(offers, 8, view)] == [bytes_of(2), bytes_of(3)]


def test_a_peer_seen_to_be_slow_is_gone_round() -> None:
    offers = [shard(1, 0, 8, fixed_ms=10.0), shard(2, 0, 8, fixed_ms=20.0)]
    assert choose_pipeline(offers, 8, NOWHERE)[0].peer == bytes_of(1)
    view = View({}, {bytes_of(1): 5.0}, {})
    assert choose_pipeline(offers, 8, view)[0].peer == bytes_of(2)
    expected = predict(choose_pipeline(offers[:1], 8, view), view)
    assert [stage.fixed_s for stage in expected.stages] == [0.05]


def test_sessions_spread_over_peers_that_are_about_as_good() -> None:
    offers = [shard(who, 0, 8, fixed_ms=20.0 + who / 100) for who in range(1, 5)] + [shard(5, 0, 8, fixed_ms=30.0)]
    chosen = [choose_pipeline(offers, 8, View({}, {}, {}, bytes([n])))[0].peer for n in range(64)]
    assert sorted(set(chosen)) == sorted(bytes_of(who) for who in range(1, 5))
    assert max(chosen.count(peer) for peer in chosen) < 32
    assert chosen == [choose_pipeline(offers, 8, View({}, {}, {}, bytes([n])))[0].peer for n in range(64)]


def test_sixty_four_stages_of_many_replicas() -> None:
    rng = random.Random(1)
    offers = []
    for who in range(1, 2001):
        at = who % 64
        offer = shard(1, at, at + 1, 64, fixed_ms=rng.uniform(5, 50), slope_ms=1.0)
        offers.append(replace(offer, public_key=who.to_bytes(32, "big")))
    view = View.of({offer.peer_id: rng.uniform(0.001, 0.1) for offer in offers})
    places = choose_pipeline(offers, 64, view)
    assert [place.start for place in places] == list(range(64))
    rng.shuffle(offers)
    assert choose_pipeline(offers, 64, view) == places


# --- by way of relays

RATE = 2.5e6
"""Bytes a second."""


def offers_of(bob: dict[str, Any], carol: dict[str, Any], **alice: Any) -> list[ProviderRecord]:
    """Alice has the first half of a model of usual width; bob and carol, each in his own way, the second."""
    parts = shard(1, 0, 4, **alice), shard(2, 4, 8, **bob), shard(3, 4, 8, **carol)
    return [replace(one, width=4096) for one in parts]


def second(offers: list[ProviderRecord], **rtt_s: float) -> int:
    """Who comes behind alice."""
    known = {bytes_of(int(who[1:])): seconds for who, seconds in rtt_s.items()}
    [stage] = choose_pipeline(offers, 8, View.of(known))[1:]
    return {bytes_of(2): 2, bytes_of(3): 3}[stage.peer]


def test_who_is_called_directly_comes_before_who_is_called_by_way_of_a_relay() -> None:
    """All else being equal, whoever stands first by name; not where the way round is shorter all the same."""
    relayed, near = {"relay_bytes_per_s": RATE}, {"p1": 0.02, "p2": 0.02, "p3": 0.02}
    assert second(offers_of({}, relayed), **near) == 2 and second(offers_of(relayed, {}), **near) == 3
    assert second(offers_of(relayed, {}), p1=0.02, p2=0.02, p3=0.2) == 2
    assert second(offers_of(relayed, {})) == 3, "nothing is measured yet"


def test_a_way_to_a_relayed_stage_is_taken_for_long_until_somebody_has_measured_it() -> None:
    quick = {"relay_bytes_per_s": 1e12}
    assert second(offers_of(quick, {}), p1=0.02, p2=0.02, p3=0.03) == 3
    measured = {"round_trips": trips(p2=15.0, p3=30.0)}
    assert second(offers_of(quick, {}, **measured), p1=0.02, p2=0.02, p3=0.03) == 2, "the detour is in it"


def test_a_prompt_goes_no_faster_than_the_relay_lets_it() -> None:
    relayed, direct = (
        [replace(one, width=4096) for one in (shard(1, 0, 4), shard(2, 4, 8, relay_bytes_per_s=rate))]
        for rate in (RATE, 0.0)
    )
    known = View.of({bytes_of(1): 0.02, bytes_of(2): 0.02})
    costs, without = (predict(choose_pipeline(offers, 8, known), known) for offers in (relayed, direct))
    late_s = costs.pass_s(1000) - without.pass_s(1000)
    assert late_s == pytest.approx(1000 * 4096 * 2 / RATE + (costs.network_s - without.network_s))
    first = [replace(shard(1, 0, 8, relay_bytes_per_s=RATE), width=4096)]
    assert predict(choose_pipeline(first, 8, known), known).payload_s == 0.0, "token ids weigh nothing"
    assert speed(choose_pipeline(relayed, 8, known), known) < speed(choose_pipeline(direct, 8, known), known)
