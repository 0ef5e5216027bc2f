from __future__ import annotations

import itertools
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdnode.errors import NoPipeline
from dsdnode.placement import HOP_S, choose_layers, choose_pipeline
from dsdnode.wire.records import ProviderRecord

replace = msgspec.structs.replace


def shard(who: int, start: int, end: int, num_layers: int = 8, free: int = 1, fixed_ms: float = 0.0) -> ProviderRecord:
    return ProviderRecord(
        public_key=bytes([who]) * 32,
        addresses=(f"tcp://127.0.0.1:{1000 + who}",),
        role="shard",
        model_id="ab" * 32,
        model_name="demo-target",
        start=start,
        end=end,
        num_layers=num_layers,
        tokenizer_hash="cd" * 32,
        vocab_size=8,
        width=8,
        context_tokens=8,
        free_sessions=free,
        fixed_ms=fixed_ms,
    )


def swarm(*ranges: tuple[int, int], num_layers: int = 8) -> list[ProviderRecord]:
    return [shard(who, start, end, num_layers) for who, (start, end) in enumerate(ranges, start=1)]


def ranges(records: list[ProviderRecord], exclude: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    places = choose_pipeline(records, 8, {}, exclude=[bytes_of(who) for who in exclude])
    return [(place.start, place.end) for place in places]


def bytes_of(who: int) -> bytes:
    return shard(who, 0, 1).peer_id


# --- choose_pipeline ----------------------------------------------------------------------------------------------


def test_ranges_end_to_end_make_a_pipeline() -> None:
    places = choose_pipeline(swarm((5, 8), (0, 2), (2, 5)), 8, {})
    assert [(place.start, place.end) for place in places] == [(0, 2), (2, 5), (5, 8)]
    assert places[0].peer == bytes_of(2)
    assert places[0].contact.addresses == ("tcp://127.0.0.1:1002",)


def test_fewer_hops_when_all_else_is_equal() -> None:
    assert ranges(swarm((0, 4), (4, 8), (0, 8))) == [(0, 8)]


def test_two_near_peers_before_one_far_away() -> None:
    offers = swarm((0, 4), (4, 8), (0, 8))
    rtt_s = {bytes_of(1): 0.01, bytes_of(2): 0.01, bytes_of(3): 0.3}
    assert len(choose_pipeline(offers, 8, rtt_s)) == 2
    assert len(choose_pipeline(offers, 8, rtt_s | {bytes_of(3): 0.015})) == 1


def test_two_fast_peers_before_a_slow_one() -> None:
    offers = [shard(1, 0, 4), shard(2, 4, 8), shard(3, 0, 8, fixed_ms=500.0)]
    assert ranges(offers) == [(0, 4), (4, 8)]


def test_a_full_peer_is_the_last_resort() -> None:
    full, free = shard(1, 0, 8, free=0), [shard(2, 0, 4), shard(3, 4, 8)]
    assert ranges([full, *free]) == [(0, 4), (4, 8)]
    assert ranges([full]) == [(0, 8)]


def test_who_just_failed_is_replaced() -> None:
    offers = swarm((0, 4), (4, 8), (4, 8))
    assert choose_pipeline(offers, 8, {}, exclude=[bytes_of(2)])[1].peer == bytes_of(3)


def test_equals_are_told_apart_by_their_ids_whatever_the_order() -> None:
    offers = swarm((0, 4), (0, 4), (4, 8), (4, 8))
    chosen = {tuple(place.peer for place in choose_pipeline(order, 8, {})) for order in itertools.permutations(offers)}
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
        choose_pipeline([whole], 16, {})


RANGES = st.tuples(st.integers(0, 5), st.integers(1, 6)).filter(lambda r: r[0] < r[1])


@settings(deadline=None, max_examples=200)
@given(st.lists(RANGES, max_size=8), st.integers(0, 2**32))
def test_no_pipeline_is_better_than_the_chosen(parts: list[tuple[int, int]], seed: int) -> None:
    rng = random.Random(seed)
    offers = swarm(*parts, num_layers=6)
    rtt_s = {offer.peer_id: rng.choice([0.01, 0.02, 0.5]) for offer in offers}

    def cost_s(line: tuple[ProviderRecord, ...]) -> float:
        return sum(HOP_S + rtt_s[offer.peer_id] for offer in line)

    def tiles(line: tuple[ProviderRecord, ...]) -> bool:
        return [0, *(offer.end for offer in line)] == [*(offer.start for offer in line), 6]

    every = [line for num in range(1, 7) for line in itertools.permutations(offers, num) if tiles(line)]
    if not every:
        with pytest.raises(NoPipeline, match="demo-target" if offers else "the model"):
            choose_pipeline(offers, 6, rtt_s)
        return
    chosen = tuple(place.record for place in choose_pipeline(offers, 6, rtt_s))
    assert tiles(chosen)
    assert cost_s(chosen) == pytest.approx(min(map(cost_s, every)))


# --- choose_layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "capacity", "chosen"),
    [
        ([], 8, (0, 8)),
        ([], 100, (0, 8)),
        ([], 3, (0, 3)),
        ([], 5, (0, 4)),
        ([(0, 3)], 8, (3, 8)),
        ([(0, 3)], 3, (3, 6)),
        ([(0, 2), (4, 6)], 2, (2, 4)),
        ([(0, 3), (6, 8)], 3, (3, 6)),
        ([(0, 1), (4, 8)], 8, (1, 4)),
        ([(0, 5), (3, 8)], 8, (0, 3)),
        ([(0, 4), (4, 8)], 8, (0, 4)),
        ([(0, 4), (4, 8), (0, 4)], 8, (4, 8)),
        ([(0, 4), (4, 8), (1, 5)], 8, (0, 4)),
        ([(0, 6), (6, 8)], 4, (0, 3)),
        ([(0, 6), (6, 8), (0, 3)], 4, (3, 6)),
        ([(0, 6), (6, 8), (0, 3), (3, 6)], 4, (6, 8)),
        ([(0, 8)], 4, (0, 4)),
        ([(0, 8), (0, 4)], 4, (4, 8)),
        ([(0, 8), (0, 4), (4, 8)], 4, (0, 4)),
    ],
)
def test_a_newcomer_hosts_what_is_needed_most(
    parts: list[tuple[int, int]], capacity: int, chosen: tuple[int, int]
) -> None:
    assert choose_layers(swarm(*parts), 8, capacity) == chosen


def test_no_room_is_said() -> None:
    with pytest.raises(ValueError, match="no room"):
        choose_layers([], 8, 0)


@settings(deadline=None, max_examples=200)
@given(st.lists(RANGES, max_size=4), st.lists(st.integers(1, 6), min_size=20, max_size=20))
def test_newcomers_one_after_another_close_every_gap_and_then_double(
    parts: list[tuple[int, int]], capacities: list[int]
) -> None:
    offers = swarm(*parts, num_layers=6)
    for who, capacity in enumerate(capacities, start=100):
        start, end = choose_layers(offers, 6, capacity)
        assert 0 <= start < end <= 6
        assert end - start <= capacity
        offers.append(shard(who, start, end, num_layers=6))
    for offer in offers:
        choose_pipeline(offers, 6, {}, exclude={offer.peer_id})
