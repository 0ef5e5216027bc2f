"""The owner's machine: alice owns a reply; bob and carol are the stages she hears of."""

from __future__ import annotations

import pytest

from dsdnode.speculation.actions import Draft, Emit, Finish, NeedRoute, SendBlock
from dsdnode.speculation.digest import DIGEST_BYTES
from dsdnode.speculation.owner.session import MAX_NACKS

from .alice import END, PROMPT, Alice, drafting, numbers


def test_the_prompt_goes_out_in_chunks_while_the_draft_engine_reads_it() -> None:
    prompt = tuple(range(1, 19))
    alice = Alice(prompt)
    assert alice.did(alice.machine.start(0.0)) == [NeedRoute(0, "start", (), alice.actions[0].digests)]
    assert len(alice.actions[0].digests) == DIGEST_BYTES * 19
    *blocks, draft = alice.open(0, 0)
    assert [numbers(sent)[3:] for sent in blocks] == [(start, 4, 0) for start in (0, 4, 8, 12)]
    assert draft == drafting(0, prompt, 4)
    (sent,) = alice.verdict(4, 50)  # answers the first chunk; its token is the prompt's business
    assert numbers(sent)[3:] == (16, 2, 0)
    assert alice.text == []


def test_draft_tokens_made_during_the_prompt_are_used_if_the_first_was_right(alice: Alice) -> None:
    alice.start()
    assert alice.draft(20, 31, 32, 33) == []
    emit, sent = alice.verdict(3, 20)
    assert emit == Emit((20,), 0)
    assert sent.tokens == (20, 31, 32, 33)
    assert numbers(sent) == (1, 0, 0, 3, 1, 3)


def test_what_was_drafted_and_not_sent_is_none_of_the_accepted(alice: Alice) -> None:
    """The judge came to it by itself: else more would be accepted than was drafted."""
    alice.start()
    alice.draft(20, 31, 32, 33)
    alice.verdict(3, 20)
    figures = alice.machine.log.statistics()
    assert (figures.drafted, figures.judged, figures.accepted, figures.by_position) == (3, 0, 0, ())
    assert alice.machine.log.passes[-1].num_accepted == 1, "a policy learns from it all the same"
    alice.verdict(7, 40)
    figures = alice.machine.log.statistics()
    assert (figures.drafted, figures.judged, figures.accepted) == (3, 3, 3)


def test_all_accepted_the_epoch_goes_on(alice: Alice) -> None:
    alice.in_a_round()
    emit, draft = alice.verdict(7, 40)
    assert emit == Emit((31, 32, 33, 40), 3)
    assert draft == drafting(6, (33, 40), 3)  # its engine never was fed its own last draft token
    (sent,) = alice.draft(41, 42, 43)
    assert numbers(sent) == (1, 0, 0, 7, 1, 3)


def test_a_rejection_begins_an_epoch_at_the_wrong_token(alice: Alice) -> None:
    alice.in_a_round()
    emit, draft = alice.verdict(5, 77)
    assert emit == Emit((31, 77), 1)
    assert draft == drafting(5, (77,), 3)
    (sent,) = alice.draft(1, 2, 3)
    assert numbers(sent) == (2, 1, 5, 5, 1, 3)
    assert sent.block.floor == 2
    assert len(sent.digests) == DIGEST_BYTES * 5


def test_window_0_is_plain_decoding_by_the_same_loop() -> None:
    alice = Alice(window=0)
    (sent,) = alice.start()
    for position in range(3, 6):
        emit, sent = alice.verdict(position, position)
        assert emit == Emit((position,), 0)
        assert numbers(sent) == (1, 0, 0, position, 1, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"decided": 6, "token": 5, "epoch": 0},
        {"decided": 6, "token": 5, "epoch": 2},
        {"decided": 6, "token": 5, "route": 1},
        {"decided": 8, "token": 5},
        {"decided": 6, "token": 100},
        {"decided": 3, "token": 20},
    ],
    ids=["older epoch", "newer epoch", "other route", "beyond what was sent", "no such token", "once more"],
)
def test_a_verdict_that_is_not_of_this_pass_commits_nothing(alice: Alice, wrong: dict[str, int]) -> None:
    alice.in_a_round()
    assert alice.verdict(**wrong) == []
    assert alice.text == [20]


def test_the_end_token_ends_the_reply_also_among_accepted_ones(alice: Alice) -> None:
    alice.start()
    alice.draft(20, 31, END, 33)
    alice.verdict(3, 20)
    assert alice.verdict(7, 40) == [Emit((31,), 1), Finish("stop")]
    assert alice.machine.finished == "stop"
    assert alice.verdict(8, 41) == alice.did(alice.machine.cancel(0.0, "late")) == []


def test_max_tokens_cut_and_nothing_is_drafted_beyond() -> None:
    alice = Alice(max_tokens=3)
    alice.start()
    alice.draft(20, 31, 32)
    _, sent = alice.verdict(3, 20)
    assert sent.tokens == (20, 31)
    assert alice.verdict(5, 32) == [Emit((31, 32), 1), Finish("length")]


def test_a_full_context_ends_the_reply() -> None:
    alice = Alice(max_positions=4)
    alice.start()
    assert alice.verdict(3, 20) == [Emit((20,), 0), Finish("context")]
    assert Alice(max_positions=3).machine.start(0.0) == [Finish("context")]
    assert Alice(max_tokens=0).machine.start(0.0) == [Finish("length")]


def test_silence_is_met_by_a_resend_then_an_epoch_then_a_route_with_growing_patience(alice: Alice) -> None:
    sent = alice.in_a_round()
    assert alice.machine.tick(0.99) == []
    assert alice.wake() == [sent]
    assert alice.now == 1.0
    (again,) = alice.wake()
    assert alice.now == 3.0
    assert (numbers(again), again.tokens) == ((2, 1, 3, 3, 1, 3), sent.tokens)
    (need,) = alice.wake()
    assert alice.now == 7.0
    assert (need.route, need.reason, need.suspects) == (1, "timeout", ())
    assert alice.machine.next_wakeup() is None


def test_a_pipeline_slower_than_the_timeout_is_given_twice_the_time_it_takes(alice: Alice) -> None:
    alice.in_a_round()
    alice.wake()
    alice.now = 1.5
    alice.verdict(7, 40)
    (sent,) = alice.draft(1, 2, 3)
    assert alice.wake() == [sent]
    assert alice.now == 1.5 + 2 * 1.5


def test_a_nack_where_a_block_in_flight_begins_has_it_sent_again_once() -> None:
    alice = Alice(tuple(range(1, 13)))
    sent = [action for action in alice.start() if isinstance(action, SendBlock)]
    assert alice.nack(4) == sent[1:]
    assert alice.nack(4) == []


def test_a_nack_elsewhere_begins_an_epoch_there(alice: Alice) -> None:
    alice.in_a_round()
    (sent,) = alice.nack(1)
    assert numbers(sent) == (2, 1, 1, 1, 3, 3)
    (sent,) = alice.nack(0)
    assert numbers(sent) == (3, 0, 0, 0, 4, 3)
    assert alice.machine.log.statistics().recoveries == 2


def test_a_nack_of_somebody_who_has_it_all_is_noise_until_it_was_sent_again(alice: Alice) -> None:
    alice.in_a_round()
    assert alice.nack(7) == []
    alice.wake()
    (sent,) = alice.nack(7)
    assert numbers(sent)[:4] == (2, 1, 3, 3)


def test_who_refuses_again_and_again_is_suspected(alice: Alice) -> None:
    alice.in_a_round()
    for i in range(MAX_NACKS):
        assert isinstance(alice.nack(1 + i % 2)[0], SendBlock)
    (need,) = alice.nack(1)
    assert (need.reason, need.suspects) == ("nack", (1,))


def test_who_refuses_what_was_judged_before_is_suspected_though_it_is_judged_again() -> None:
    """Somebody on the way spoils every second block: the first four positions of the prompt are judged each time."""
    alice = Alice(tuple(range(1, 13)))
    alice.start()
    for _ in range(MAX_NACKS):
        alice.verdict(4, 0)
        assert isinstance(alice.nack(0)[0], SendBlock)
    alice.verdict(4, 0)
    (need,) = alice.nack(0)
    assert (need.reason, need.suspects) == ("nack", (1,))


def test_what_is_judged_for_the_first_time_is_a_step_forward_between_two_refusals() -> None:
    alice = Alice(tuple(range(1, 101)), max_positions=200)
    alice.start()
    for end in range(4, 4 * (MAX_NACKS + 3), 4):
        alice.verdict(end, 0)
        assert isinstance(alice.nack(end - 2)[0], SendBlock)
        alice.verdict(end, 0)


def test_a_new_route_goes_on_where_all_its_stages_can(alice: Alice) -> None:
    alice.in_a_round()
    (need,) = alice.did(alice.machine.on_peer_lost(0.0, [1]))
    assert (need.route, need.reason, need.suspects) == (1, "peer_lost", (1,))
    assert len(need.digests) == DIGEST_BYTES * 5
    assert alice.verdict(7, 40) == []  # the old route's
    assert alice.did(alice.machine.on_route(0.0, 0, (4, 4))) == []
    (sent,) = alice.open(4, 2)
    assert numbers(sent) == (2, 0, 2, 2, 2, 3)
    assert sent.block.route == 1
    assert alice.machine.log.statistics().recoveries == 1


def test_a_new_route_that_has_it_all_is_given_the_last_token(alice: Alice) -> None:
    alice.in_a_round()
    alice.did(alice.machine.on_session_lost(0.0, 0))
    (sent,) = alice.open(9, 4)
    assert numbers(sent) == (2, 0, 3, 3, 1, 3)


def test_what_was_on_its_way_when_a_link_broke_is_sent_again_at_once(alice: Alice) -> None:
    """The stage is there, by another link: no other route is wanted. What is answered already is not sent again."""
    sent = [alice.in_a_round()]
    assert alice.did(alice.machine.on_link_broken(0.0)) == sent
    alice.did(alice.machine.on_peer_lost(0.0, [1]))
    assert alice.did(alice.machine.on_link_broken(0.0)) == [], "a route is being looked for"


def test_nobody_is_missed_in_a_route_that_is_being_replaced(alice: Alice) -> None:
    alice.in_a_round()
    (need,) = alice.did(alice.machine.on_peer_lost(0.0, [1]))
    assert (need.route, need.suspects) == (1, (1,))
    assert alice.did(alice.machine.on_peer_lost(0.0, [0])) == []


def test_without_the_draft_engine_the_reply_goes_on_plainly_until_it_is_back(alice: Alice) -> None:
    alice.in_a_round()
    alice.verdict(7, 40)
    (sent,) = alice.did(alice.machine.on_drafter_lost(0.0))
    assert sent.tokens == (40,)
    assert alice.draft(1, 2, 3) == []  # an answer from beyond the grave
    assert [type(action) for action in alice.verdict(8, 41)] == [Emit, SendBlock]
    (draft,) = alice.did(alice.machine.on_drafter_back(0.0))
    assert draft == drafting(0, (*PROMPT, 20, 31, 32, 33, 40, 41), 4)  # and one more, for the token on its way


def test_an_engine_without_a_draft_token_is_not_asked_twice(alice: Alice) -> None:
    alice.in_a_round()
    alice.verdict(7, 40)
    (sent,) = alice.draft()
    assert sent.tokens == (40,)
    _, draft = alice.verdict(8, 41)
    assert isinstance(draft, Draft)


def test_cancel_finishes_at_once(alice: Alice) -> None:
    alice.in_a_round()
    assert alice.did(alice.machine.cancel(0.0, "cancelled")) == [Finish("cancelled")]
    assert alice.machine.next_wakeup() is None
    assert alice.draft(1) == alice.open(0, 0) == alice.nack(0) == []


def test_the_log_counts_what_run_shows(alice: Alice) -> None:
    alice.in_a_round()
    alice.now = 2.0
    alice.verdict(5, 77)
    alice.draft(1, 2, 3)
    alice.now = 4.0
    alice.verdict(9, 50)
    figures = alice.machine.log.statistics()
    assert (figures.prompt_tokens, figures.completion_tokens, figures.passes) == (3, 7, 3)
    assert (figures.drafted, figures.accepted, figures.acceptance_rate) == (6, 4, 4 / 5)
    assert figures.acceptance_length_mean == 3.0
    assert figures.by_position == ((2, 2), (2, 1), (1, 1))
    assert (figures.time_to_first_token_s, figures.tokens_per_second) == (0.0, 1.5)
    event = alice.machine.log.passes[-1]
    assert (event.position, event.num_draft, event.num_accepted, event.num_committed) == (6, 3, 3, 4)
    assert (event.stage_s, event.window, event.mode) == ((0.002, 0.003), 3, "rounds")
