"""What waits at a stage is bounded for all sessions together."""

from __future__ import annotations

import numpy as np

from dsdnode.speculation.stage.arrivals import Arrival, Pool, StageLimits, WaitingBlocks
from dsdnode.wire.messages import Block

WIDTH = 4
POSITION_BYTES = 4 * WIDTH


def arrival(position: int, num_positions: int = 10) -> Arrival:
    block = Block(bytes(16), 0, 1, 0, 0, position, num_positions, 0, 0)
    states = np.zeros((num_positions, WIDTH), np.float32)
    return Arrival(block, (b"",) * (num_positions + 1), (), states, 0.0)


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


def test_a_session_that_is_over_gives_its_room_back() -> None:
    pool = Pool(20 * POSITION_BYTES)
    alice, bob = (WaitingBlocks(StageLimits(pool=pool)) for _ in range(2))
    alice.put(arrival(0))
    alice.put(arrival(10))
    del alice
    bob.put(arrival(0))
    bob.put(arrival(10))
    assert len(bob.items) == 2
