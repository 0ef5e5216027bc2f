"""Shards that take other layers: late, one for a hole, and nobody because of who comes and goes."""

from __future__ import annotations

from random import Random

import pytest

from dsdnode.placement.moving import PATIENCE_S, TURN_S, Holes, _needed
from dsdnode.placement.ranges import Range, num_missing
from dsdnode.wire.records import ProviderRecord
from tests.placement.offers import replace, swarm

LOOK_S = 10.0
LATE_S = PATIENCE_S + 10 * TURN_S


def any_cut(start: int, end: int) -> bool:
    return True


class Village:
    """All shards of a model, each with eyes of its own, that do as they see fit."""

    def __init__(self, *ranges: Range, capacity: int = 4) -> None:
        self.shards = swarm(*ranges)
        self.moved: list[tuple[float, Range, Range]] = []
        self._capacity = capacity
        self._eyes: dict[bytes, Holes] = {}
        self._now = 0.0

    def pass_s(self, seconds: float) -> None:
        until_s = self._now + seconds
        while self._now < until_s:
            self._now += LOOK_S
            for own in list(self.shards):
                self._look(own)

    def _look(self, own: ProviderRecord) -> None:
        others = [one for one in self.shards if one is not own]
        eyes = self._eyes.setdefault(own.public_key, Holes())
        span = eyes.look(self._now, own, others, self._capacity, any_cut)
        if span is not None:
            self.moved.append((self._now, (own.start, own.end), span))
            self.shards[self.shards.index(own)] = replace(own, start=span[0], end=span[1])

    @property
    def ranges(self) -> list[Range]:
        return sorted((one.start, one.end) for one in self.shards)


def test_one_leaves_and_one_of_two_that_are_alike_takes_its_place_late() -> None:
    village = Village((0, 2), (2, 4), (4, 6), (6, 8), (0, 2), (2, 4))
    village.shards.pop(2)
    village.pass_s(PATIENCE_S - LOOK_S)
    assert village.moved == []
    village.pass_s(LATE_S)
    [(at_s, before, after)] = village.moved
    assert at_s >= PATIENCE_S and before in [(0, 2), (2, 4)] and after == (4, 6)
    village.pass_s(10 * LATE_S)
    assert len(village.moved) == 1


def test_one_comes_and_nobody_else_moves() -> None:
    village = Village((0, 2), (2, 4), (4, 6), (6, 8), (0, 2))
    gone = village.shards.pop(3)
    village.pass_s(PATIENCE_S / 2)
    village.shards.append(replace(gone, public_key=bytes([9]) * 32))
    village.pass_s(10 * LATE_S)
    assert village.moved == []


def test_who_comes_and_goes_moves_nobody() -> None:
    """Mallory hosts what nobody else does, and is gone and back all the time."""
    village = Village((0, 2), (2, 4), (4, 6), (0, 2))
    [mallory] = swarm((6, 8))
    for _ in range(30):
        village.shards.append(replace(mallory, public_key=bytes([9]) * 32))
        village.pass_s(2 * LOOK_S)
        village.shards.pop()
        village.pass_s(PATIENCE_S - 2 * LOOK_S)
    assert village.moved == []


def test_two_holes_are_filled_by_two() -> None:
    village = Village((0, 2), (4, 6), (0, 2), (4, 6), (0, 2))
    village.pass_s(3 * LATE_S)
    assert len(village.moved) == 2
    assert {after for _, _, after in village.moved} == {(2, 4), (6, 8)}


def test_who_has_room_takes_the_hole_beside_its_own_layers_along() -> None:
    village = Village((0, 2), (2, 4), (4, 8))
    village.shards.pop(1)
    village.pass_s(2 * LATE_S)
    assert village.ranges == [(0, 4), (4, 8)] and len(village.moved) == 1


def test_twins_who_look_at_once_do_not_both_move() -> None:
    """Neither has seen yet that the other moves."""
    twins, bob = swarm((0, 2), (0, 2)), swarm((2, 4), (4, 6))
    eyes = [Holes(), Holes()]
    moved = []
    for now in range(0, int(LATE_S), int(LOOK_S)):
        for mine, own in zip(eyes, twins, strict=True):
            others = [*(one for one in twins if one is not own), *bob_s(bob)]
            moved.append(mine.look(now, own, others, 4, any_cut))
        if any(moved):
            break
    assert [one for one in moved if one] == [(6, 8)]


def bob_s(shards: list[ProviderRecord]) -> list[ProviderRecord]:
    return [replace(one, public_key=bytes([20 + index]) * 32) for index, one in enumerate(shards)]


@pytest.mark.parametrize("ranges", [((0, 4),), ((0, 4), (6, 8)), ((0, 2), (2, 4))])
def test_who_is_needed_and_has_no_room_stays(ranges: tuple[Range, ...]) -> None:
    village = Village(*ranges, capacity=3 if len(ranges) == 1 else 2)
    village.pass_s(5 * LATE_S)
    assert village.moved == []


def test_who_is_needed_is_found_as_if_each_were_taken_out_in_turn() -> None:
    """Without doing so: strangers make up thousands of records, and whoever looks at them serves replies."""
    rng = Random(1)
    for _ in range(300):
        num_layers = rng.randrange(1, 9)
        starts = [rng.randrange(num_layers) for _ in range(rng.randrange(1, 9))]
        ranges = [(start, rng.randrange(start + 1, num_layers + 1)) for start in starts]
        least = num_missing(ranges, num_layers)
        rests = [[*ranges[:one], *ranges[one + 1 :]] for one in range(len(ranges))]
        needed = {one for one, rest in zip(ranges, rests, strict=True) if num_missing(rest, num_layers) > least}
        assert _needed(ranges, num_layers) == needed
