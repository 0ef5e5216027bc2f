"""The stage's rules, one by one: bob is a stage in the middle, carol the judge, alice the owner who hears them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dsdnode.errors import PeerMisbehaved
from dsdnode.speculation import digest
from dsdnode.speculation.acceptance import Exact
from dsdnode.speculation.actions import (
    BroadcastClosed,
    CopySequence,
    ForwardBlock,
    Gone,
    ReleaseSequence,
    RunChunk,
    SendToOwner,
    TruncateSequence,
)
from dsdnode.speculation.arrivals import StageLimits
from dsdnode.speculation.stage import StageMachine
from dsdnode.wire.messages import Block, Closed, Nack, SessionLost, Verdict

from .toy import ToyEngine, draw

SESSION = b"0123456789abcdef"
SECRET = b"alice's"
LINE = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8)


def digests_of(line: Sequence[int]) -> list[bytes]:
    start = digest.first(SECRET)
    return [start, *digest.extend(SECRET, start, line)]


def block(
    line: Sequence[int], position: int, num_draft: int = 0, **numbers: int
) -> tuple[Block, bytes, tuple[int, ...]]:
    """The line's tokens from `position` on as one block of epoch 1, the last `num_draft` of them drafts."""
    fields = {"route": 0, "epoch": 1, "parent": 0, "base": 0, "floor": 0} | numbers
    num_given = len(line) - position - num_draft
    message = Block(session=SESSION, position=position, num_given=num_given, num_draft=num_draft, **fields)
    return message, b"".join(digests_of(line)[position:]), tuple(line[position:])


class Stage:
    """A stage machine with a toy engine; `hold` leaves the runs in flight until `finish`."""

    def __init__(self, index: int, num_stages: int = 3, num_sequences: int = 4) -> None:
        limits = StageLimits(hop_timeout_s=1.0, max_waiting_blocks=4, max_kept_blocks=8)
        self.machine = StageMachine(SESSION, range(num_sequences), max_positions=64, limits=limits)
        self.engine = ToyEngine(index, num_sequences)
        self.index, self.last = index, index == num_stages - 1
        self.num_stages = num_stages
        self.hold = False
        self.held: list[RunChunk] = []
        self.calls: list[Any] = []
        assert self.machine.on_open(0.0, 0, index, num_stages, 60.0, b"") == 0

    def receive(
        self, line: Sequence[int], position: int, num_draft: int = 0, now: float = 0.0, **numbers: int
    ) -> list[Any]:
        message, digests, tokens = block(line, position, num_draft, **numbers)
        if self.index == 0:
            return self.carry_out(self.machine.on_block(now, message, digests, tokens, None))
        draft = tokens[len(tokens) - num_draft :]
        return self.carry_out(self.machine.on_block(now, message, digests, draft, self._states(line)[position:]))

    def _states(self, line: Sequence[int]) -> Any:
        values = tuple(line)
        for stage in range(self.index):
            values = ToyEngine(stage, 1).run(0, 0, values)
        return values

    def carry_out(self, actions: list[Any]) -> list[Any]:
        """Engine actions at once; what goes to others is returned."""
        outside = []
        for action in actions:
            if isinstance(action, RunChunk):
                self.held.append(action)
                if not self.hold:
                    outside += self.finish()
            elif isinstance(action, CopySequence):
                self.calls.append(action)
                self.engine.copy(action.source, action.target, action.position)
            elif isinstance(action, TruncateSequence):
                self.calls.append(action)
                self.engine.truncate(action.sequence, action.position)
            elif isinstance(action, ReleaseSequence):
                self.calls.append(action)
                self.engine.release(action.sequence)
            else:
                outside.append(action)
        return outside

    def finish(self, now: float = 0.0) -> list[Any]:
        run = self.held.pop(0)
        self.calls.append(run)
        states = self.engine.run(run.sequence, run.position, run.tokens if run.states is None else run.states)
        end = run.position + len(states)
        draws = [draw(states[p - 1 - run.position], p, 0) for p in range(end - run.num_draws + 1, end + 1)]
        if self.last:
            return self.carry_out(self.machine.on_output(now, None, tuple(draws), 0.002))
        return self.carry_out(self.machine.on_output(now, states, (), 0.002))


def told(actions: list[Any]) -> list[Any]:
    """What alice hears."""
    return [action.message for action in actions if isinstance(action, SendToOwner)]


def own_token(line: Sequence[int]) -> int:
    """What carol draws behind this line."""
    carol = Stage(2)
    return told(carol.receive(line, 0))[0].token


@pytest.fixture
def bob() -> Stage:
    return Stage(1)


@pytest.fixture
def carol() -> Stage:
    return Stage(2)


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
    (closed,) = [action.message for action in actions if isinstance(action, BroadcastClosed)]
    assert closed == Closed(SESSION, 0, 1, 4, right)
    bob.receive(wrong, 0, num_draft=2)
    bob.machine.on_closed(0.0, closed)
    for stage in (carol, bob):  # a late block: no run, the closing verdict once more
        num_runs = len(stage.calls)
        (verdict,) = told(stage.receive((*wrong, 8), 6, num_draft=1))
        assert (verdict.epoch, verdict.decided, verdict.token) == (1, 4, right)
        assert len(stage.calls) == num_runs


def test_children_beyond_a_closing_fall_with_it_and_siblings_live(bob: Stage) -> None:
    bob.receive(LINE[:4], 0)
    bob.receive(LINE[:8], 4, num_draft=4)
    bob.receive((*LINE[:7], 16), 7, num_draft=1, epoch=2, parent=1, base=7)
    bob.machine.on_closed(0.0, Closed(SESSION, 0, 1, 5, 12))
    (verdict,) = told(bob.receive((*LINE[:7], 16, 1), 8, num_draft=1, epoch=2, parent=1, base=7))
    assert (verdict.epoch, verdict.decided, verdict.token) == (2, 5, 12)
    (unseen,) = told(bob.receive((*LINE[:6], 16), 6, num_draft=1, epoch=3, parent=1, base=6))
    assert (unseen.epoch, unseen.decided) == (3, 5)
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


def test_a_rejected_guess_does_not_come_back_in_a_childs_name(carol: Stage) -> None:
    """Epoch 1 was closed at 4; a child of epoch 2, unknown here, claims a base with that same guess in it."""
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


def test_closed_while_it_runs_the_output_goes_nowhere(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:6], 0, num_draft=2)
    assert bob.machine.on_closed(0.0, Closed(SESSION, 0, 1, 4, 16)) == []
    assert bob.finish() == []


def test_close_while_it_runs_lets_go_afterwards(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:6], 0)
    assert bob.machine.on_close(0.0) == []
    assert bob.machine.next_wakeup() is None
    assert bob.finish() == [Gone()]
    assert not any(bob.engine.cells)
    assert bob.receive(LINE[:8], 6) == []


def test_after_its_worker_died_bob_says_so_until_he_is_opened_again(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:6], 0)
    bob.engine.lose()
    lost = told(bob.machine.on_engine_lost(0.0))
    assert [type(message) for message in lost] == [SessionLost]
    bob.held.clear()
    bob.hold = False
    assert told(bob.receive(LINE[:8], 6)) == [SessionLost(SESSION, 1, "its cache is gone", 0)]
    assert bob.machine.on_open(1.0, 1, 1, 3, 60.0, b"".join(digests_of(LINE))) == 0
    assert len(bob.receive(LINE[:6], 0, route=1, epoch=2)) == 1


def test_a_refused_run_leaves_nothing_behind(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:4], 0)
    bob.finish()
    bob.receive(LINE[:6], 4)
    run = bob.held.pop()
    bob.engine.run(run.sequence, 4, (1,))  # a part of it was decoded
    assert bob.carry_out(bob.machine.on_run_failed(0.0)) == []
    bob.hold = False
    (forward,) = bob.receive(LINE[:6], 4)
    assert isinstance(forward, ForwardBlock)


def test_opened_again_bob_knows_how_much_of_the_line_he_has(bob: Stage) -> None:
    bob.receive(LINE[:8], 0)
    line = (*LINE[:5], 16, 16, 16, 16)
    assert bob.machine.on_open(0.0, 3, 1, 3, 60.0, b"".join(digests_of(line))) == 5
    assert bob.receive(LINE[:9], 8) == []  # the old route is no more
    assert bob.machine.on_open(0.0, 2, 1, 3, 60.0, b"") is None
    assert len(bob.receive(line, 5, route=3, epoch=7, base=5, floor=7)) == 1


def test_a_run_of_the_old_route_stays_cached_but_is_not_passed_on(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:8], 0)
    assert bob.machine.on_open(0.0, 1, 1, 3, 60.0, b"".join(digests_of(LINE))) == 8
    assert bob.finish() == []


def test_a_guess_that_is_known_to_be_wrong_is_not_run(carol: Stage, bob: Stage) -> None:
    """Her own draw behind the block before says so. Its sibling, which guesses that draw, goes on from there."""
    right = own_token(LINE[:4])
    carol.receive(LINE[:4], 0)
    actions = carol.receive((*LINE[:4], (right + 1) % 16, 7), 4, num_draft=2)
    assert told(actions) == [Verdict(SESSION, 0, 1, 4, right)]
    assert actions[1:] == [BroadcastClosed(Closed(SESSION, 0, 1, 4, right))]
    other = carol.receive((*LINE[:4], (right + 2) % 16), 4, num_draft=1, epoch=2, parent=1, base=4)
    assert told(other) == [Verdict(SESSION, 0, 2, 4, right)]
    assert [call.position for call in carol.calls if isinstance(call, RunChunk)] == [0]
    (verdict,) = told(carol.receive((*LINE[:4], right), 4, num_draft=1, epoch=3, parent=1, base=4))
    assert (verdict.epoch, verdict.decided) == (3, 5)
    bob.receive(LINE[:4], 0)
    assert len(bob.receive((*LINE[:4], (right + 1) % 16, 7), 4, num_draft=2)) == 1  # only the judge knows


def test_what_waits_under_a_floor_is_dropped_unrun_but_for_what_the_new_branch_needs(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:4], 0)
    bob.receive(LINE[:6], 4)
    bob.receive(LINE[:8], 6)
    bob.receive((*LINE[:6], 12, 13), 6, epoch=2, parent=1, base=6, floor=2)
    bob.hold = False
    passed_on = [(action.block.epoch, action.block.position) for action in bob.finish()]
    assert passed_on == [(1, 0), (1, 4), (2, 6)]


def test_a_block_says_how_long_it_lay_and_who_else_waited(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:4], 0, now=1.0)
    assert bob.machine.busy
    states: Any = (1, 2, 3, 4)
    (forward,) = bob.machine.on_output(1.5, states, (), 0.1, queue=3)
    assert not bob.machine.busy
    assert forward.block.stage_ms == pytest.approx((100.0,))
    assert forward.block.waited_ms == pytest.approx((400.0,))
    assert forward.block.queue == (3,)


def test_the_lease_runs_out(bob: Stage) -> None:
    bob.receive(LINE[:4], 0, now=10.0)
    assert bob.machine.next_wakeup() == 70.0
    actions = bob.carry_out(bob.machine.tick(70.0))
    assert [type(message) for message in told(actions)] == [SessionLost]
    assert actions[-1] == Gone()
    assert not any(bob.engine.cells)


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


def test_a_parked_session_keeps_its_cache_but_takes_no_more_blocks_of_its_route(bob: Stage) -> None:
    bob.receive(LINE[:6], 0)
    bob.machine.on_park(1.0, 300.0)
    assert bob.machine.next_wakeup() == 301.0
    assert bob.receive(LINE[:8], 6) == []
    assert bob.machine.on_open(2.0, 1, 1, 3, 60.0, b"".join(digests_of(LINE))) == 6
    (forward,) = bob.receive(LINE[:8], 6, route=1, epoch=2, base=6, floor=2)
    assert forward.block.position == 6


@pytest.mark.parametrize("still_running", [False, True])
def test_what_was_drawn_for_the_last_reply_does_not_judge_the_next(carol: Stage, still_running: bool) -> None:
    carol.hold = still_running
    carol.receive(LINE[:6], 0)
    carol.machine.on_park(1.0, 300.0)
    carol.machine.on_turn(64, Exact())
    assert carol.machine.on_open(2.0, 1, 2, 3, 60.0, b"".join(digests_of(LINE))) == 6
    if still_running:
        assert carol.finish() == []
    carol.hold = False
    guess = carol.receive(LINE[:8], 6, num_draft=2, route=1, epoch=2, base=6, floor=2)
    assert told(guess) == [Nack(SESSION, 1, 2, 2, 5)]


def test_a_parked_session_whose_time_is_over_frees_everything(bob: Stage) -> None:
    bob.receive(LINE[:6], 0)
    bob.machine.on_park(1.0, 300.0)
    assert any(isinstance(action, Gone) for action in bob.machine.tick(301.0))
