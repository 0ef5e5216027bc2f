"""What waits at a stage, and what it keeps, is bounded: for a session, and for all of them together."""

from __future__ import annotations

import numpy as np
import pytest

from dsdnode.accounts import Account
from dsdnode.errors import PeerMisbehaved
from dsdnode.speculation.actions import ForwardBlock
from dsdnode.speculation.stage.arrivals import Arrival, KeptOutputs, Pool, StageLimits, WaitingBlocks, arrive
from dsdnode.speculation.stage.cache import BranchCache, Closing
from dsdnode.wire.messages import Block

WIDTH = 4
POSITION_BYTES = 4 * WIDTH


def arrival(position: int, num_positions: int = 10) -> Arrival:
    block = Block(bytes(16), 0, 1, 0, 0, position, num_positions, 0, 0)
    states = np.zeros((num_positions, WIDTH), np.float32)
    return Arrival(block, (b"",) * (num_positions + 1), (), states, 0.0)


@pytest.mark.parametrize(("num_given", "num_draft"), [(0, 65), (1, 1000), (961, 64), (1024, 1)])
def test_one_block_is_no_more_than_any_owner_sends(num_given: int, num_draft: int) -> None:
    """Bob's judge runs all that mallory drafted at once, and alice waits: for 64 draft tokens, not for a thousand."""

    def comes(num_given: int, num_draft: int) -> Arrival:
        block, num = Block(bytes(16), 0, 1, 0, 0, 0, num_given, num_draft, 0), num_given + num_draft
        return arrive(0.0, block, bytes(8 * (num + 1)), (7,) * num, None, first=True, max_positions=4096)

    assert comes(960, 64).num_positions == comes(1024, 0).num_positions == 1024
    with pytest.raises(PeerMisbehaved):
        comes(num_given, num_draft)


def test_alice_and_bob_share_the_room_for_waiting_blocks() -> None:
    pool = Pool(50 * POSITION_BYTES)
    alice, bob = (WaitingBlocks(StageLimits(pool=pool)) for _ in range(2))
    for number in range(6):
        alice.put(arrival(10 * number))
    assert [item.block.position for item in alice.items] == [0, 10, 20, 30, 40]  # the newest was dropped
    bob.put(arrival(0))
    bob.put(arrival(10))
    assert [item.block.position for item in bob.items] == [0]  # one block, or he would never go on
    alice.items.clear()
    bob.put(arrival(10))
    assert len(bob.items) == 2


def test_who_lets_most_wait_loses_what_came_last_when_alice_s_blocks_come() -> None:
    pool = Pool(50 * POSITION_BYTES)
    hers, elsewhere = "198.51.100.0/24", "192.0.2.0/24"
    mallory = [WaitingBlocks(StageLimits(pool=pool, account=Account(b"mallory %d" % name, hers))) for name in range(2)]
    alice = WaitingBlocks(StageLimits(pool=pool, account=Account(b"alice", elsewhere)))
    for number in range(5):
        mallory[number % 2].put(arrival(10 * number))
    for number in range(4):
        alice.put(arrival(10 * number))
    assert len(alice.items) == 2 and sum(len(one.items) for one in mallory) == 3
    mallory[1].put(arrival(90))
    assert len(alice.items) == 2


def test_one_session_has_so_many_blocks_and_positions_waiting() -> None:
    alice = WaitingBlocks(StageLimits(max_waiting_blocks=3, max_waiting_positions=35))
    for number in range(6):
        alice.put(arrival(number, 1))
    assert len(alice.items) == 3
    alice.items.pop()
    alice.put(arrival(90, 34))  # 36 with what is there
    assert len(alice.items) == 2
    alice.put(arrival(90, 33))
    assert len(alice.items) == 3


def output(position: int, num_positions: int = 10) -> ForwardBlock:
    made = arrival(position, num_positions)
    assert made.states is not None
    return ForwardBlock(made.block, b"", (), made.states)


def test_outputs_are_kept_for_a_while_the_last_ones() -> None:
    for limits in (StageLimits(max_kept_blocks=2), StageLimits(max_kept_positions=29)):
        kept = KeptOutputs(limits)
        for number in range(4):
            kept.put(output(10 * number), float(number))
        assert [number for number in range(4) if kept.get((1, 10 * number)) is not None] == [2, 3]
        assert [one.block.position for one in kept.since(3.0)] == [30] and len(kept.since(0.0)) == 2


def test_of_many_closings_the_highest_epochs_are_remembered() -> None:
    cache = BranchCache(range(4), max_closings=3)
    for epoch in range(1, 8):
        cache.close(epoch, Closing(5, 1, ()))
    assert [epoch for epoch in range(1, 8) if cache.closing_of(epoch, 0, 0) is not None] == [5, 6, 7]


def test_a_session_that_is_over_gives_its_room_back() -> None:
    pool = Pool(20 * POSITION_BYTES)
    alice, bob = (WaitingBlocks(StageLimits(pool=pool)) for _ in range(2))
    alice.put(arrival(0))
    alice.put(arrival(10))
    del alice
    bob.put(arrival(0))
    bob.put(arrival(10))
    assert len(bob.items) == 2
