"""How alice's prompt goes out: in chunks that keep her stages busy, and again in the same ones."""

from __future__ import annotations

from typing import Any

import pytest

from dsdnode.cost import CostLine, PipelineCost
from dsdnode.speculation.actions import SendBlock
from dsdnode.speculation.controller import FixedRounds
from dsdnode.speculation.owner.prefill import (
    MAX_POSITIONS_IN_FLIGHT,
    MAX_SINGLES_POSITIONS,
    Prefill,
    best_chunk,
    prefill_s,
)
from dsdnode.speculation.owner.session import SessionConfig, SessionMachine
from dsdnode.speculation.plan import Continuation
from dsdnode.wire.messages import Verdict

SESSION = b"0123456789abcdef"
VOLUNTEERS = PipelineCost((CostLine(0.014, 0.006),) * 4, 0.05)
CARDS = PipelineCost((CostLine(0.0097, 0.0003),) * 4, 0.05)


def sizes(prefill: Prefill, start: int, end: int) -> list[int]:
    """Of the blocks in which [start, end) goes out."""
    found = []
    while start < end:
        found.append(prefill.next_size(start, end))
        start += found[-1]
    return found


def simulated_s(num_tokens: int, chunk: int, costs: PipelineCost) -> float:
    """The pipeline, chunk by chunk and stage by stage."""
    ready_s = [0.0] * -(-num_tokens // chunk)
    for stage in costs.stages:
        free_s = 0.0
        for index, start in enumerate(range(0, num_tokens, chunk)):
            free_s = max(free_s, ready_s[index]) + stage.at(min(chunk, num_tokens - start))
            ready_s[index] = free_s
    return ready_s[-1] + costs.network_s


UNLIKE = PipelineCost((CostLine(0.01, 0.001), CostLine(0.05, 0.002)), 0.2)


@pytest.mark.parametrize("costs", [VOLUNTEERS, CARDS, UNLIKE])
@pytest.mark.parametrize("num_tokens", [20, 512, 700, 3000])
def test_the_chunk_is_the_one_that_is_through_first(costs: PipelineCost, num_tokens: int) -> None:
    chunk = best_chunk(num_tokens, costs, 256)
    assert chunk in (16, 32, 64, 128, 256)
    fastest_s = min(simulated_s(num_tokens, size, costs) for size in (16, 32, 64, 128, 256))
    assert simulated_s(num_tokens, chunk, costs) <= fastest_s * 1.05


@pytest.mark.parametrize("chunk", [16, 100, 256, 600])
def test_what_a_prefill_is_said_to_take_it_takes(chunk: int) -> None:
    for costs in (VOLUNTEERS, CARDS):
        assert prefill_s(512, chunk, costs) == pytest.approx(simulated_s(512, chunk, costs), rel=0.1)


def test_one_stage_gets_whole_chunks_and_so_does_a_strict_engine() -> None:
    alone = PipelineCost((CostLine(0.056, 0.024),), 0.02)
    assert best_chunk(512, alone, 256) == 256
    assert best_chunk(512, VOLUNTEERS, 60) in (16, 32, 60)  # of states as wide as a frame carries 60
    strict = Prefill(600, 256, fixed=True)
    strict.begin_route(0, 4, VOLUNTEERS)
    assert sizes(strict, 0, 600) == [256, 256, 88]


def test_a_stage_that_is_filled_again_gets_the_same_chunks_and_then_what_is_rounded_like_single_tokens() -> None:
    prefill = Prefill(200, 64)
    prefill.begin_route(10, 4, None)  # of the turn before, ten positions are there
    first = sizes(prefill, 10, 200)
    assert first == [64, 64, 62]
    prefill.begin_route(0, 2, VOLUNTEERS)
    again = sizes(prefill, 74, 250)
    assert again[:2] == first[1:]
    assert again[2:] == [16, 16, 16, 2]
    assert sizes(prefill, 0, 74) == [10, 64]
    assert sizes(prefill, 100, 200)[1:] == first[2:]  # what was cut short ends where it ended before


def test_enough_is_in_flight_for_long_links_and_never_more_than_a_stage_lets_wait() -> None:
    fast = PipelineCost((CostLine(0.001, 0.0001),) * 4, 0.25)
    prefill = Prefill(4096, 256)
    prefill.begin_route(0, 4, fast)
    chunk = prefill.next_size(0, 4096)
    assert prefill.max_blocks * (0.001 + 0.0001 * chunk) >= 0.25
    assert sum(sent.block.num_given for sent in opened(tuple(range(1, 100)) * 60, fast)) <= MAX_POSITIONS_IN_FLIGHT


def machine(prompt: tuple[int, ...], **config: Any) -> SessionMachine:
    settings: dict[str, Any] = {"secret": b"alice's", "max_tokens": 500, "max_positions": 9000, "vocab_size": 100}
    return SessionMachine(SessionConfig(SESSION, **settings | config), prompt, FixedRounds(0), drafter=False)


def opened(prompt: tuple[int, ...], costs: PipelineCost | None) -> list[SendBlock]:
    alice = machine(prompt)
    alice.start(0.0)
    return [action for action in alice.on_route(0.0, 0, (0, 0), costs) if isinstance(action, SendBlock)]


def test_a_reply_on_another_route_is_replayed_as_it_was_made() -> None:
    alice = machine(tuple(range(40)), chunk_positions=32)
    alice.start(0.0)
    first = [sent for sent in alice.on_route(0.0, 0, (0, 0)) if isinstance(sent, SendBlock)]
    assert [sent.block.num_given for sent in first] == [32, 8]
    for position in range(40, 75):
        alice.on_verdict(0.1, Verdict(SESSION, 0, 1, position, 7))
    alice.on_peer_lost(0.2, (0,))
    sizes = []
    actions = alice.on_route(0.3, 1, (0, 20))
    while actions:
        sizes += [sent.block.num_given for sent in actions if isinstance(sent, SendBlock)]
        actions = alice.on_verdict(0.4, Verdict(SESSION, 1, 2, sum(sizes[: len(sizes) - 3]), 7))
        if sum(sizes) == 75:
            break
    assert sizes == [32, 8, 16, 16, 3]
    assert max(sizes[2:]) <= MAX_SINGLES_POSITIONS


def test_what_a_resumed_reply_had_already_goes_out_like_the_rest_of_the_reply() -> None:
    alice = machine(tuple(range(70)), chunk_positions=32, num_resumed=20)
    alice.start(0.0)
    sent = [action for action in alice.on_route(0.0, 0, (0,) * 4) if isinstance(action, SendBlock)]
    assert [one.block.num_given for one in sent] == [32, 18, 16, 4]


def test_the_next_turn_goes_on_with_the_numbers_and_sends_only_what_is_new() -> None:
    alice = machine(tuple(range(40)))
    alice.start(0.0)
    alice.on_route(0.0, 0, (0, 0))
    alice.on_verdict(0.1, Verdict(SESSION, 0, 1, 40, 7))
    alice.cancel(0.2, "stop")
    carried = alice.carry()
    assert carried == Continuation(1, 1, ((),) * 4)
    again = machine((*range(40), 7, 8, 9), carried=carried)
    assert [action.route for action in again.start(1.0)] == [1]
    [sent] = again.on_route(1.0, 1, (41, 40))
    assert isinstance(sent, SendBlock)
    assert (sent.block.epoch, sent.block.floor, sent.block.position, sent.block.num_given) == (2, 2, 40, 3)
    again.on_verdict(1.1, Verdict(SESSION, 1, 2, 43, 5))
    statistics = again.log.statistics()
    assert (statistics.prompt_tokens, statistics.prompt_tokens_reused) == (43, 40)
