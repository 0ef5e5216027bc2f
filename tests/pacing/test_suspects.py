"""Alice, bob and carol pass blocks on; mallory does not. Who is suspected, and for how long."""

from __future__ import annotations

import pytest

from dsdnode.pacing.suspects import HERE, NOT_COME, PASSED_ON, SUSPECT_S, Suspects, lost_at

ALICE, BOB, CAROL, MALLORY = b"alice", b"bob", b"carol", b"mallory"


@pytest.mark.parametrize(
    ("reached", "place"),
    [
        ([PASSED_ON, PASSED_ON, NOT_COME], (1, 2)),
        ([PASSED_ON, NOT_COME, NOT_COME], (0, 1)),
        ([NOT_COME, NOT_COME, NOT_COME], (0, 0)),
        ([PASSED_ON, HERE, NOT_COME], (1, 1)),
        ([PASSED_ON, None, NOT_COME], (1, 1)),
        ([PASSED_ON, None, PASSED_ON], (1, 1)),
        ([PASSED_ON, PASSED_ON, PASSED_ON], (2, 2)),
        ([PASSED_ON], (0, 0)),
        ([None], (0, 0)),
    ],
)
def test_where_a_block_is(reached: list[int | None], place: tuple[int, int]) -> None:
    assert lost_at(reached) == place


def test_a_pair_is_avoided_before_either_of_its_peers() -> None:
    suspects = Suspects()
    suspects.note(ALICE, MALLORY, 0.0)
    assert suspects.links(1.0) == {(ALICE, MALLORY): 1}
    assert suspects.peers(1.0) == []


def test_who_loses_blocks_of_two_others_is_avoided_and_they_are_not() -> None:
    suspects = Suspects()
    suspects.note(ALICE, MALLORY, 0.0)
    suspects.note(MALLORY, BOB, 1.0)
    assert suspects.peers(2.0) == [MALLORY]


def test_who_is_suspected_alone_is_avoided_at_once() -> None:
    suspects = Suspects()
    suspects.note(MALLORY, MALLORY, 0.0)
    assert suspects.peers(1.0) == [MALLORY]


def test_what_a_block_passed_is_cleared_and_the_rest_after_ten_minutes() -> None:
    suspects = Suspects()
    for one, other in ((ALICE, BOB), (BOB, BOB), (BOB, CAROL), (ALICE, CAROL)):
        suspects.note(one, other, 0.0)
    suspects.passed([ALICE, BOB, CAROL])
    assert suspects.links(1.0) == {(ALICE, CAROL): 1}
    assert suspects.links(SUSPECT_S - 1) == {(ALICE, CAROL): 1}
    assert suspects.links(SUSPECT_S + 1) == {}


def test_all_of_a_route_that_failed_are_suspected_until_they_work_elsewhere() -> None:
    suspects = Suspects()
    suspects.failed([ALICE, MALLORY], 0.0)
    suspects.failed([BOB, MALLORY], 1.0)
    assert suspects.links(2.0) == {(ALICE, ALICE): 1, (MALLORY, MALLORY): 2, (BOB, BOB): 1}
    suspects.passed([ALICE, BOB])
    assert suspects.peers(2.0) == [MALLORY]


def test_who_failed_ten_minutes_ago_begins_anew() -> None:
    suspects = Suspects()
    suspects.failed([MALLORY], 0.0)
    suspects.failed([MALLORY], SUSPECT_S + 1)
    assert suspects.links(SUSPECT_S + 2) == {(MALLORY, MALLORY): 1}
