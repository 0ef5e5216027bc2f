"""The owner's stream: alice drafts ahead of the verdicts, and hedges where her draft model is unsure."""

from __future__ import annotations

from typing import Any

import pytest

from dsdnode.speculation.actions import Draft, DraftToken, Emit, SendBlock
from dsdnode.speculation.controller import FixedRounds
from dsdnode.speculation.plan import Plan

from .alice import Alice, numbers


class Steady(FixedRounds):
    """One plan, to be changed by the test."""

    def __init__(self, now: Plan) -> None:
        self.now = now

    def plan(self) -> Plan:
        return self.now


class Streaming(Alice):
    """Alice with the prompt decided: 20 committed, the epoch 1 has sent it; `draft` answers whatever she asked for."""

    def __init__(self, plan: Plan, **config: Any) -> None:
        super().__init__(**config)
        self.window = self.machine._window = Steady(plan)
        self.sent: list[SendBlock] = []
        self.asked: Draft | None = None

    def did(self, actions: list[Any]) -> list[Any]:
        for action in actions:
            if isinstance(action, SendBlock):
                self.sent.append(action)
            elif isinstance(action, Draft):
                self.asked = action
        return super().did(actions)

    def begin(self) -> Streaming:
        self.start()
        self.verdict(3, 20)
        return self

    def draft_token(self, *draft_tokens: int | DraftToken) -> list[Any]:
        return self.did(
            self.machine.on_draft(
                self.now, tuple(g if isinstance(g, DraftToken) else DraftToken(g, 0.9) for g in draft_tokens)
            )
        )

    def last(self) -> tuple[int, ...]:
        return numbers(self.sent[-1])


STREAM = Plan("stream", 2, 4)
HEDGED = Plan("hedged", 2, 8, hedges=1)


@pytest.fixture
def alice() -> Streaming:
    return Streaming(STREAM).begin()


def in_flight(alice: Streaming) -> None:
    """31 32 | 33 34 behind the 20."""
    alice.draft_token(70)  # made while the prompt was read, and wrong
    alice.draft_token(31, 32)
    alice.draft_token(33, 34)


def test_what_is_decided_leaves_at_once_and_draft_tokens_follow_in_blocks(alice: Streaming) -> None:
    assert alice.sent[-1].tokens == (20,)
    in_flight(alice)
    assert [sent.tokens for sent in alice.sent[-3:]] == [(20,), (31, 32), (33, 34)]
    assert [numbers(sent)[3:] for sent in alice.sent[-2:]] == [(4, 0, 2), (6, 0, 2)]


def test_no_more_than_the_window_is_in_flight_and_a_block_more_is_drafted(alice: Streaming) -> None:
    in_flight(alice)
    assert [type(action) for action in alice.draft_token(35, 36)] == []
    emit, sent, draft = alice.verdict(6, 33)  # 31 32 stand, and 33 is what the judge would say itself
    assert emit == Emit((31, 32, 33), 3)
    assert (sent.tokens, draft.tokens) == ((35, 36), (36,))


def test_a_verdict_that_contradicts_a_draft_token_in_flight_starts_over_at_once(alice: Streaming) -> None:
    in_flight(alice)
    emit, sent = alice.verdict(6, 50)  # the judge has not even seen 33
    assert emit == Emit((31, 32, 50), 2)
    assert (sent.tokens, numbers(sent)) == ((50,), (2, 1, 6, 6, 1, 0))
    assert alice.verdict(6, 50, epoch=1) == []  # the closing of the old epoch says the same again


def test_the_drafter_goes_on_from_the_correction(alice: Streaming) -> None:
    in_flight(alice)
    alice.draft_token(35, 36)
    alice.verdict(6, 50)
    assert alice.asked is not None and alice.asked.tokens == (50,)
    assert alice.asked.position == 6  # 3 of the prompt, 20 31 32 are cached; 33 is not wanted any more


def test_what_was_drafted_while_it_was_decided_is_used_if_it_begins_so(alice: Streaming) -> None:
    in_flight(alice)
    assert alice.asked is not None and alice.asked.tokens == (34,)
    alice.verdict(8, 35)  # all four stand, and 35 is the next
    (sent, *_) = alice.draft_token(35, 36)
    assert sent.tokens == (36,)  # nothing else is in flight but the 35, so it does not wait for a full block


def test_stale_draft_tokens_are_forgotten(alice: Streaming) -> None:
    in_flight(alice)
    alice.verdict(4, 50)
    before = len(alice.sent)
    (draft,) = alice.draft_token(35, 36)  # behind 34, which is no more
    assert isinstance(draft, Draft) and draft.tokens == (50,)
    assert len(alice.sent) == before


def test_where_no_token_may_stand_the_engine_has_heard_of_nothing(alice: Streaming) -> None:
    """As where a constrained reply's line has gone another way: then the engine was not asked, and is fed it later."""
    in_flight(alice)
    assert alice.asked is not None and (alice.asked.position, alice.asked.tokens) == (7, (34,))
    alice.draft_token()
    alice.verdict(8, 35)
    assert alice.asked is not None and (alice.asked.position, alice.asked.tokens) == (7, (34, 35))


def test_plain_again_when_the_plan_says_so(alice: Streaming) -> None:
    in_flight(alice)
    alice.window.now = Plan("plain", 0, 0)
    emit, sent = alice.verdict(4, 50)
    assert (emit, sent.tokens) == (Emit((50,), 0), (50,))
    alice.draft_token(35, 36)
    emit, sent = alice.verdict(5, 51)
    assert (emit, sent.tokens) == (Emit((51,), 0), (51,))


def hedging() -> Streaming:
    """31 32 in flight in epoch 1; of the 32 the drafter was not sure: 42 might be it, and 43 after that."""
    alice = Streaming(HEDGED).begin()
    alice.draft_token(70)
    alice.draft_token(31, DraftToken(32, 0.4, 42, 0.55))
    for _ in range(4):
        if alice.asked is not None and alice.asked.source is not None:
            break
        alice.draft_token(DraftToken(33, 0.3), DraftToken(34, 0.3))
    return alice


def test_a_second_choice_rides_along_where_the_draft_is_unsure() -> None:
    alice = hedging()
    assert alice.asked == Draft(1, 0, 5, (42,), 1)  # a copy of 3 of the prompt, 20 and 31
    alice.draft_token(43)
    assert alice.sent[-1].tokens == (42, 43)
    assert alice.last() == (2, 1, 5, 5, 0, 2)
    assert alice.sent[-1].block.floor == 1


def test_a_rejection_that_a_hedge_covers_costs_no_round_trip() -> None:
    alice = hedging()
    alice.draft_token(43)
    before = len(alice.sent)
    emit, *rest = alice.verdict(5, 42, epoch=1)
    assert emit == Emit((31, 42), 1)
    assert not any(isinstance(action, SendBlock) and action.block.num_given for action in rest)
    assert alice.main == 2
    emit, *_ = alice.verdict(7, 44)
    assert emit == Emit((43, 44), 1)
    assert alice.machine.log.statistics().covered == 1
    assert all(sent.block.epoch == 2 and sent.block.floor == 2 for sent in alice.sent[before:])


def test_a_hedge_falls_when_the_first_choice_stands() -> None:
    alice = hedging()
    alice.draft_token(43)
    alice.verdict(6, 33, epoch=1)
    assert alice.main == 1
    assert alice.verdict(5, 32, epoch=2) == []  # its own closing: old news
    assert alice.machine.log.statistics().covered == 0


def test_relaxed_the_judges_token_waits_while_a_draft_token_for_its_place_is_in_flight() -> None:
    alice = Streaming(STREAM, relaxed=True).begin()
    in_flight(alice)
    emit, *_ = alice.verdict(6, 50)  # 33 may be good enough, though the judge would say 50
    assert emit == Emit((31, 32), 2)
    emit, *_ = alice.verdict(8, 51)
    assert emit == Emit((33, 34, 51), 2)


def test_relaxed_a_rejection_commits_it() -> None:
    alice = Streaming(STREAM, relaxed=True).begin()
    in_flight(alice)
    alice.verdict(6, 50)
    emit, sent, *_ = alice.verdict(6, 50)  # of the block 33 34: not good enough
    assert emit == Emit((50,), 0)
    assert sent.tokens == (50,)
