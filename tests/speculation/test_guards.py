"""Guards whose loss costs time but no text, one by one (watch.py and calm.py look for them in random schedules)."""

from __future__ import annotations

from dataclasses import replace

from dsdnode.speculation.actions import SendBlock
from dsdnode.speculation.controller import FixedRounds
from dsdnode.speculation.owner.session import SessionMachine
from dsdnode.wire.messages import Nack

from .alice import END, Alice
from .test_stream import STREAM, Streaming, hedging


def test_a_hedge_that_a_stage_refuses_is_dropped() -> None:
    alice = hedging()
    alice.draft_token(43)
    assert [epoch.number for epoch in alice.machine._epochs.live] == [1, 2]
    hedge = alice.sent[-1].block
    alice.did(alice.machine.on_nack(alice.now, Nack(hedge.session, hedge.route, 2, 0, 0)))
    assert [epoch.number for epoch in alice.machine._epochs.live] == [1]


def test_a_hedge_refused_below_its_base_brings_the_main_epoch_again() -> None:
    alice = hedging()
    alice.draft_token(43)
    main = alice.machine._epochs.main
    assert main is not None
    lost, hedge = main.flights[0].action, alice.sent[-1].block
    again = alice.did(alice.machine.on_nack(alice.now, Nack(hedge.session, hedge.route, 2, 0, lost.block.position)))
    assert again[0] == lost  # and no hedge behind it is refused in turn, until the stage itself is suspected
    assert [epoch.number for epoch in alice.machine._epochs.live] == [1]


def test_draft_tokens_for_a_line_that_fell_are_not_taken_for_the_new_one() -> None:
    alice = Streaming(STREAM).begin()
    alice.draft_token(70)  # made while the prompt was read, and wrong
    alice.draft_token(31, 32)  # on their way; the engine goes on behind them
    alice.verdict(4, 50)
    alice.verdict(5, 51)
    alice.verdict(6, 52)
    alice.draft_token(52, 34)  # it was 52, but not behind 31 32
    main = alice.machine._epochs.main
    assert main is not None and main.draft_tokens == []


def test_numbers_of_epochs_and_routes_never_come_again() -> None:
    alice = Alice(drafter=False)
    alice.start()
    alice.verdict(3, END)
    before, config = alice.machine, alice.machine._config
    bob = SessionMachine(replace(config, carried=before.carry()), (1, 2, 3), FixedRounds(0), drafter=False)
    bob.start(0.0)
    assert bob.route > before.route
    [sent] = bob.on_route(0.0, bob.route, [0])
    assert isinstance(sent, SendBlock) and sent.block.epoch > alice.main > 0
