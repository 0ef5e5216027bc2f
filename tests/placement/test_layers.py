from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsdnode.errors import NoPipeline
from dsdnode.placement.layers import choose_in_turn, choose_layers
from dsdnode.placement.pipelines import View, choose_pipeline
from dsdnode.placement.ranges import is_covered, num_missing
from dsdnode.wire.records import ProviderRecord

from .offers import shard, swarm

pytestmark = pytest.mark.slow

RANGES = st.tuples(st.integers(0, 5), st.integers(1, 6)).filter(lambda r: r[0] < r[1])
NOWHERE = View.of({})


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


@pytest.mark.parametrize(
    ("parts", "capacity", "chosen"),
    [
        ([], 5, (0, 4)),
        ([], 3, (0, 4)),
        ([(0, 4)], 3, (4, 8)),
        ([(0, 4), (8, 12)], 4, (4, 8)),
        ([(0, 12)], 7, (0, 4)),
        ([(0, 4), (4, 12), (0, 4)], 4, (4, 8)),
    ],
)
def test_layers_that_have_to_stay_together_do(
    parts: list[tuple[int, int]], capacity: int, chosen: tuple[int, int]
) -> None:
    """Cut at multiples of four alone: less than four is not to be had, however little room there is."""
    swarmed = swarm(*parts, num_layers=12)
    assert choose_layers(swarmed, 12, capacity, lambda start, end: start % 4 == end % 4 == 0) == chosen


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
        choose_pipeline(offers, 6, NOWHERE, exclude={offer.peer_id})


# --- several at once ----------------------------------------------------------------------------------------------


def claim(who: int, start: int, end: int) -> ProviderRecord:
    return shard(who, start, end, free=0, settled=False)


def in_turn(records: list[ProviderRecord], capacity: int = 2) -> list[tuple[int, int]]:
    """What each of those that are not settled takes, in order of their ids; all see the same."""
    claims = sorted((record for record in records if not record.settled), key=lambda record: record.peer_id)
    return [choose_in_turn([other for other in records if other is not own], own, capacity) for own in claims]


def test_four_that_start_in_the_same_second_share_the_layers_out() -> None:
    assert in_turn([claim(who, 0, 2) for who in range(1, 5)]) == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_a_claim_gives_way_to_one_that_is_settled() -> None:
    settled = [shard(who, 0, 2) for who in range(1, 9)]
    assert all(in_turn([settled[i], claim(9, 0, 2)]) == [(2, 4)] for i in range(8))


def test_a_claim_that_touches_no_other_stays() -> None:
    assert in_turn([shard(1, 0, 2), claim(2, 6, 8)]) == [(6, 8)]
    moved = in_turn([claim(1, 0, 2), claim(2, 0, 2), claim(3, 4, 6)])
    assert sorted(moved) == [(0, 2), (2, 4), (4, 6)]


def test_replicas_are_shared_out_when_nothing_is_missing() -> None:
    assert in_turn([shard(1, 0, 4), shard(2, 4, 8), claim(3, 0, 4), claim(4, 0, 4)], 4) == [(0, 4), (4, 8)]
    assert sorted(in_turn([claim(who, 0, 4) for who in range(1, 5)], 4)) == [(0, 4), (0, 4), (4, 8), (4, 8)]
    assert sorted(in_turn([claim(1, 0, 4), claim(2, 4, 8), claim(3, 0, 4), claim(4, 4, 8)], 4))[1:3] == [(0, 4), (4, 8)]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(RANGES, max_size=2))
@example([3, 5], [(0, 2), (1, 4)])
@example([3, 5], [(0, 3), (1, 4)])
@example([5], [(0, 4), (2, 6)])
def test_giving_way_brings_a_pipeline_closer_or_covers_no_less(
    claims: list[int], settled: list[tuple[int, int]]
) -> None:
    """Ranges must tile: a layer that somebody covers is worth nothing beside one that a pipeline lacks."""
    records = [shard(who, *part) for who, part in enumerate(settled, start=1)]
    records += [claim(who, start, start + 2) for who, start in enumerate(claims, start=50)]
    before = [(record.start, record.end) for record in records]
    after = [(record.start, record.end) for record in records if record.settled] + in_turn(records)
    assert (num_missing(after, 8), -num_covered(after)) <= (num_missing(before, 8), -num_covered(before))


def num_covered(ranges: list[tuple[int, int]]) -> int:
    return len({layer for start, end in ranges for layer in range(start, end)})


@given(st.lists(RANGES, max_size=6))
def test_a_model_is_covered_when_a_pipeline_can_be_chosen(parts: list[tuple[int, int]]) -> None:
    try:
        choose_pipeline(swarm(*parts, num_layers=6), 6, NOWHERE)
    except NoPipeline:
        assert not is_covered(parts, 6)
    else:
        assert is_covered(parts, 6)
