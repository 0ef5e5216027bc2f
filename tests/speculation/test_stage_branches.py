"""What carol judges, what a rejection closes, and which branches and epochs bob keeps or drops."""

from __future__ import annotations

import msgspec

from dsdnode.speculation.actions import (
    BroadcastClosed,
    CopySequence,
    ForwardBlock,
    ReleaseSequence,
    RunChunk,
    SendToOwner,
    TruncateSequence,
)
from dsdnode.wire.messages import Closed, Nack, Verdict

from .stages import LINE, SESSION, Stage, digests_of, own_token, told


def test_carol_accepts_what_she_draws_herself(carol: Stage) -> None:
    right = own_token(LINE[:4])
    (verdict,) = told(carol.receive((*LINE[:4], right), 0, num_draft=1))
    assert isinstance(verdict, Verdict)
    assert (verdict.epoch, verdict.decided) == (1, 5)
    assert verdict.token == own_token((*LINE[:4], right))


def test_a_rejection_closes_the_epoch_everywhere(carol: Stage, bob: Stage) -> None:
    right = own_token(LINE[:4])
    wrong = (*LINE[:4], (right + 1) % 16, 7)
    actions = carol.receive(wrong, 0, num_draft=2)
    assert told(actions) == [Verdict(SESSION, 0, 1, 4, right, (2.0,), (0.0,), (0,))]
    (closed,) = [action for action in actions if isinstance(action, BroadcastClosed)]
    assert closed == BroadcastClosed(Closed(SESSION, 0, 1, 4, right), digests_of(wrong)[4])
    bob.receive(wrong, 0, num_draft=2)
    bob.machine.on_closed(0.0, msgspec.structs.replace(closed.message, seal=b"carol's"))
    for stage in (carol, bob):  # a late block: no run, the closing verdict once more
        num_runs = len(stage.calls)
        (verdict,) = told(stage.receive((*wrong, 8), 6, num_draft=1))
        assert (verdict.epoch, verdict.decided, verdict.token) == (1, 4, right)
        assert verdict.seal == (b"" if stage is carol else b"carol's")  # for alice, who knows that bob does not judge
        assert len(stage.calls) == num_runs


def test_children_beyond_a_closing_fall_with_it_and_siblings_live(bob: Stage) -> None:
    bob.receive(LINE[:4], 0)
    bob.receive(LINE[:8], 4, num_draft=4)
    bob.receive((*LINE[:7], 16), 7, num_draft=1, epoch=2, parent=1, base=7)
    bob.machine.on_closed(0.0, Closed(SESSION, 0, 1, 5, 12, seal=b"carol's"))
    (verdict,) = told(bob.receive((*LINE[:7], 16, 1), 8, num_draft=1, epoch=2, parent=1, base=7))
    assert (verdict.epoch, verdict.decided, verdict.token) == (2, 5, 12)
    (unseen,) = told(bob.receive((*LINE[:6], 16), 6, num_draft=1, epoch=3, parent=1, base=6))
    assert (unseen.epoch, unseen.decided, unseen.seal) == (3, 5, b"carol's")
    (forward,) = bob.receive((*LINE[:5], 12), 5, num_draft=1, epoch=4, parent=1, base=5)
    assert isinstance(forward, ForwardBlock)


def test_a_branch_is_a_copy_while_its_parent_may_be_needed(bob: Stage) -> None:
    bob.receive(LINE[:6], 0, num_draft=2)
    bob.receive((*LINE[:5], 16), 5, num_draft=1, epoch=2, parent=1, base=5)
    assert CopySequence(0, 1, 5) in bob.calls
    assert isinstance(bob.receive(LINE[:7], 6, num_draft=1)[0], ForwardBlock)  # the parent goes on
    bob.machine.on_closed(0.0, Closed(SESSION, 0, 1, 6, 2))
    bob.receive((*LINE[:6], 2), 6, epoch=3, parent=1, base=6)
    assert bob.calls[-2] == TruncateSequence(0, 6)  # closed right there: taken over


def test_a_rejected_draft_token_does_not_come_back_in_a_childs_name(carol: Stage) -> None:
    """Epoch 1 was closed at 4; a child of epoch 2, unknown here, claims a base with that same draft token in it."""
    right = own_token(LINE[:4])
    wrong = (*LINE[:4], (right + 1) % 16)
    carol.receive(wrong, 0, num_draft=1)
    assert told(carol.receive((*wrong, 7), 5, num_draft=1, epoch=3, parent=2, base=5)) == []
    assert told(carol.machine.tick(1.0)) == [Nack(SESSION, 0, 3, 2, 0)]


def test_carol_judges_nothing_without_a_draw_of_her_own(carol: Stage) -> None:
    carol.receive(LINE[:6], 0)  # draws behind the last given token only
    (nack,) = told(carol.receive((*LINE[:3], 7), 3, num_draft=1, epoch=2, base=3))
    assert nack == Nack(SESSION, 0, 2, 2, 2)


def test_the_floor_frees_and_a_late_block_under_it_is_dropped(bob: Stage) -> None:
    bob.receive(LINE[:4], 0)
    bob.receive((*LINE[:3], 16), 3, num_draft=1, epoch=2, parent=1, base=3)
    bob.receive((*LINE[:3], 16, 8), 4, num_draft=1, epoch=2, parent=1, base=3, floor=2)
    assert bob.calls[-2] == ReleaseSequence(0)
    assert bob.receive(LINE[:5], 4) == []
    assert bob.machine.tick(2.0) == []


def test_more_branches_than_sequences_evict_the_oldest(bob: Stage) -> None:
    bob.receive(LINE[:4], 0)
    for epoch in range(2, 8):
        line = (*LINE[:3], epoch)
        assert isinstance(bob.receive(line, 3, num_draft=1, epoch=epoch, parent=epoch - 1, base=3)[0], ForwardBlock)


def test_one_sequence_is_enough_for_one_line() -> None:
    bob = Stage(1, num_sequences=1)
    bob.receive(LINE[:6], 0, num_draft=2)
    assert len(bob.receive((*LINE[:5], 16), 5, epoch=2, parent=1, base=5, floor=2)) == 1


def test_a_draft_token_that_is_known_to_be_wrong_is_not_run(carol: Stage, bob: Stage) -> None:
    """Her own draw behind the block before says so. Its sibling, which draft tokens that draw, goes on from there."""
    right = own_token(LINE[:4])
    carol.receive(LINE[:4], 0)
    actions = carol.receive((*LINE[:4], (right + 1) % 16, 7), 4, num_draft=2)
    assert told(actions) == [Verdict(SESSION, 0, 1, 4, right)]
    assert actions[1:] == [BroadcastClosed(Closed(SESSION, 0, 1, 4, right), digests_of(LINE)[4])]
    other = carol.receive((*LINE[:4], (right + 2) % 16), 4, num_draft=1, epoch=2, parent=1, base=4)
    assert told(other) == [Verdict(SESSION, 0, 2, 4, right)]
    assert [call.position for call in carol.calls if isinstance(call, RunChunk)] == [0]
    (verdict,) = told(carol.receive((*LINE[:4], right), 4, num_draft=1, epoch=3, parent=1, base=4))
    assert (verdict.epoch, verdict.decided) == (3, 5)
    bob.receive(LINE[:4], 0)
    assert len(bob.receive((*LINE[:4], (right + 1) % 16, 7), 4, num_draft=2)) == 1  # only the judge knows


def test_what_waits_under_a_floor_is_dropped_unrun(bob: Stage) -> None:
    """The owner has a verdict on all that the new branch begins with, so bob has run it or is at it."""
    bob.hold = True
    bob.receive(LINE[:4], 0)
    bob.receive(LINE[:6], 4)
    bob.receive(LINE[:8], 6)
    bob.receive((*LINE[:4], 12, 13), 4, epoch=2, parent=1, base=4, floor=2)
    bob.hold = False
    passed_on = [(action.block.epoch, action.block.position) for action in bob.finish()]
    assert passed_on == [(1, 0), (2, 4)]


def test_what_is_still_being_run_is_lent_to_nobody(bob: Stage) -> None:
    """It may fail."""
    bob.receive(LINE[:4], 0)
    bob.hold = True
    bob.receive(LINE[:8], 4)
    line = digests_of(LINE)
    assert bob.machine.lends(line) == (4, 0)
    bob.finish()
    assert bob.machine.lends(line) == (8, 0)
    bob.machine.on_close(0.0)
    assert bob.machine.lends(line)[0] == 0


def test_what_a_judge_borrowed_stands_for_a_second_epoch_too() -> None:
    """The first block was lost; the next epoch begins where that began, as its child."""
    judge = Stage(2)
    judge.engine.run(3, 0, judge._states(LINE[:4]))
    judge.carry_out(judge.machine.borrow(3, digests_of(LINE[:4])))
    assert judge.machine.on_open(0.0, 1, 2, 3, 60.0, b"".join(digests_of(LINE))) == 4
    answers = judge.receive(LINE[:8], 4, epoch=2, parent=1, base=4, route=1, floor=2)
    assert any(isinstance(action, SendToOwner) and isinstance(action.message, Verdict) for action in answers)


def test_a_session_that_borrows_goes_on_from_there(bob: Stage) -> None:
    """Its first block continues the copy, in its place."""
    digests = digests_of(LINE[:4])
    bob.engine.run(3, 0, bob._states(LINE[:4]))
    assert bob.carry_out(bob.machine.borrow(3, digests)) == []
    assert bob.calls == [CopySequence(3, 0, 4)]
    assert bob.machine.on_open(0.0, 1, 1, 3, 60.0, b"".join(digests_of(LINE))) == 4
    (forward,) = bob.receive(LINE[:8], 4, base=4, route=1, floor=1)
    assert isinstance(forward, ForwardBlock)
    fresh = Stage(1)
    (expected,) = fresh.receive(LINE[:8], 0)
    assert forward.states == expected.states[4:]
