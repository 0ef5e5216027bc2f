"""The stage's rules, one by one: bob is a stage in the middle, carol the judge, alice the owner who hears them."""

from __future__ import annotations

from typing import Any

import pytest

from dsdnode.errors import PeerMisbehaved
from dsdnode.speculation.actions import (
    ForwardBlock,
    RunChunk,
    TruncateSequence,
)
from dsdnode.speculation.stage.machine import LOST_S
from dsdnode.wire.messages import Nack

from .stages import LINE, SESSION, Stage, block, told


def test_bob_passes_states_on_and_hides_the_given_tokens(bob: Stage) -> None:
    (forward,) = bob.receive(LINE[:6], 0, num_draft=2)
    assert isinstance(forward, ForwardBlock)
    assert forward.tokens == LINE[4:6]  # the draft alone
    assert len(forward.states) == 6
    assert forward.block.stage_ms == (2.0,)


def test_a_duplicate_gets_the_kept_output_and_no_second_run(bob: Stage) -> None:
    first = bob.receive(LINE[:6], 0)
    again = bob.receive(LINE[:6], 0)
    assert again == first
    assert sum(isinstance(call, RunChunk) for call in bob.calls) == 1


def test_a_duplicate_whose_output_is_no_longer_kept_is_nacked_with_the_length(bob: Stage) -> None:
    for end in range(1, 11):
        bob.receive(LINE[:end], end - 1)
    assert told(bob.receive(LINE[:1], 0)) == [Nack(SESSION, 0, 1, 1, 10)]


def test_a_duplicate_of_the_block_that_runs_is_dropped(bob: Stage) -> None:
    bob.hold = True
    assert bob.receive(LINE[:6], 0) == bob.receive(LINE[:6], 0) == []
    assert len(bob.held) == 1
    assert len(bob.finish()) == 1


def test_what_went_to_the_next_stage_of_late_goes_again_when_the_link_to_it_has_broken(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:4], 0)
    first = bob.finish(now=1.0)
    bob.receive(LINE[:6], 4)
    again = bob.finish(now=2.0)
    assert bob.machine.on_link_broken(2.0) == [*first, *again]
    assert bob.machine.on_link_broken(1.0 + LOST_S + 0.5) == again
    assert bob.machine.on_link_broken(2.0 + LOST_S + 0.5) == []
    bob.machine.on_engine_lost(2.0)
    assert bob.machine.on_link_broken(2.0) == []


def test_a_block_ahead_waits_for_the_one_before(bob: Stage) -> None:
    assert bob.receive(LINE[:6], 4) == []
    assert bob.held == []
    positions = [action.block.position for action in bob.receive(LINE[:4], 0)]
    assert positions == [0, 4]


def test_a_block_that_waited_in_vain_is_nacked_with_the_length(bob: Stage) -> None:
    bob.receive(LINE[:3], 0)
    bob.receive(LINE[:6], 4, now=5.0)
    assert bob.machine.next_wakeup() == 6.0
    assert bob.machine.tick(5.9) == []
    assert told(bob.machine.tick(6.0)) == [Nack(SESSION, 0, 1, 1, 3)]
    assert bob.machine.tick(7.0) == []


def test_what_waits_is_bounded(bob: Stage) -> None:
    for end in range(3, 11):
        assert bob.receive(LINE[:end], end - 1) == []
    assert len(told(bob.machine.tick(1.0))) == 4


def test_another_digest_is_nacked_with_0_and_nothing_runs(bob: Stage) -> None:
    bob.receive(LINE[:4], 0)
    other = (*LINE[:3], 16, 5, 9)
    assert told(bob.receive(other, 4)) == [Nack(SESSION, 0, 1, 1, 0)]
    assert bob.engine.cells[0] == bob.engine.cells[0][:4]


def test_recovery_finds_the_tokens_in_whatever_epoch_has_them(bob: Stage) -> None:
    bob.receive(LINE[:6], 0)
    assert len(bob.receive(LINE[:8], 4, epoch=9, base=4, floor=9)) == 1
    assert bob.calls[-2:-1] == [TruncateSequence(bob.calls[0].sequence, 4)]


def test_recovery_on_tokens_that_are_not_here_is_nacked_at_once(bob: Stage) -> None:
    bob.receive(LINE[:6], 0)
    other = (*LINE[:3], 16, 5, 9)
    assert told(bob.receive(other, 4, epoch=9, base=4)) == [Nack(SESSION, 0, 9, 1, 0)]


def test_a_block_says_how_long_it_lay_and_who_else_waited(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:4], 0, now=1.0)
    was_busy = bob.machine.busy
    states: Any = (1, 2, 3, 4)
    (forward,) = bob.machine.on_output(1.5, states, (), 0.1, queue=3)
    assert was_busy and not bob.machine.busy
    assert forward.block.stage_ms == pytest.approx((100.0,))
    assert forward.block.waited_ms == pytest.approx((400.0,))
    assert forward.block.queue == (3,)


@pytest.mark.parametrize(
    "numbers",
    [{"base": 5}, {"floor": 2}, {"parent": 1}, {"parent": 7}],
    ids=["base beyond position", "floor above epoch", "its own parent", "parent after it"],
)
def test_numbers_that_no_owner_sends_are_refused(bob: Stage, numbers: dict[str, int]) -> None:
    with pytest.raises(PeerMisbehaved):
        bob.receive(LINE[:6], 4, **numbers)


def test_buffers_that_do_not_fit_are_refused(bob: Stage) -> None:
    message, digests, _ = block(LINE[:4], 0)
    states: Any = (1, 2, 3, 4)
    for wrong in ((digests[:-1], (), states), (digests, (1,), states), (digests, (), states[:3]), (digests, (), None)):
        with pytest.raises(PeerMisbehaved):
            bob.machine.on_block(0.0, message, *wrong)
    with pytest.raises(PeerMisbehaved):  # more positions than were reserved
        bob.receive(tuple(range(16)) * 5, 0)
