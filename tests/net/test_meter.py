"""A home's line is shared with whoever lives there: what a node sends in bulk keeps to the rate that was set."""

from __future__ import annotations

import asyncio

import pytest

from dsdnode.identity import peer_id
from dsdnode.net.link import Link
from dsdnode.net.meter import Meter
from dsdnode.net.port import Priority
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.messages import Close, Message, Park
from tests.net.conftest import Start

RATE = 1_000_000


@pytest.mark.parametrize("frame_bytes", [500, 40_000, 1_000_000])
def test_over_a_minute_no_more_passes_than_was_said_and_hardly_less(frame_bytes: int) -> None:
    meter, sent, now = Meter(), 0, 0.0
    meter.hold(now, RATE)
    while now < 60:
        while meter.passes(now):
            meter.took(now, [bytes(30), bytes(frame_bytes)])
            sent += 30 + frame_bytes
        now += 0.005
    assert 0.8 * RATE * 60 < sent < 1.05 * RATE * 60
    if frame_bytes > 2_000:  # of small ones most is what is put round them
        assert sent > 0.95 * RATE * 60


def test_what_is_relayed_and_what_is_urgent_is_paid_for_by_the_rest() -> None:
    meter = Meter()
    meter.hold(0.0, RATE)
    meter.relayed(0.0, 3 * RATE)
    assert not meter.passes(2.7)
    assert meter.passes(2.8)
    assert Meter().passes(0.0)


class Wire(Link):
    """Takes all."""

    def __init__(self) -> None:
        super().__init__(b"alice", bulk=False)
        self.ready = True
        self.sent: list[bytes] = []

    def _transmit(self, frames: list[bytes]) -> bool:
        self.sent += frames
        return True


async def test_what_is_urgent_leaves_at_once_before_bulk_that_waits() -> None:
    """It waited for the next look at who waits."""
    wire, now = Wire(), asyncio.get_running_loop().time()
    wire.meter.hold(now, RATE)
    wire.meter.took(now, [bytes(RATE)])
    assert not wire.send([b"states"], Priority.VERIFY)
    wire.send([b"verdict"], Priority.CONTROL)
    assert wire.sent == [b"verdict"]


async def test_bob_s_bulk_takes_its_time_to_alice_and_carol_alike_and_a_verdict_does_not_wait_for_it(
    start: Start,
) -> None:
    bob, loop, all_here = await start(b"b"), asyncio.get_running_loop(), asyncio.Event()
    assert isinstance(bob.transport, ZmqTransport)
    came: list[tuple[bytes, bool]] = []

    async def meet(name: bytes) -> bytes:
        def heard(peer: bytes, message: Message, buffers: list[bytes]) -> None:
            came.append((name, isinstance(message, Close)))
            if len(came) == 33:
                all_here.set()

        rpc = await start(name)
        rpc.on_notice(Close, heard)
        rpc.on_notice(Park, heard)
        bob.transport.introduce(rpc.transport.contact)
        peer = peer_id(rpc.transport.contact.public_key)
        for priority in (Priority.CONTROL, Priority.VERIFY):
            await bob.ping(peer, timeout_s=30, priority=priority)
        return peer

    peers = [await meet(b"a"), await meet(b"c")]
    bob.transport.meter.hold(loop.time(), RATE)
    begun_s = loop.time()
    for _ in range(16):
        for peer in peers:
            bob.notify(peer, Park(bytes(16), 0, 1.0), [bytes(50_000)], priority=Priority.VERIFY)
    bob.notify(peers[1], Close(bytes(16)))
    async with asyncio.timeout(60):
        await all_here.wait()
    assert 1_600_000 / (loop.time() - begun_s) < 1.25 * RATE  # a quarter of a second's worth goes at once
    assert {name for name, _ in came[-6:]} == {b"a", b"c"}
    assert came.index((b"c", True)) < 20
