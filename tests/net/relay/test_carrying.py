"""What a circuit carries: all of it, in order, no faster and no more than it may, and no more than is taken from it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from dsdnode.errors import BadInput
from dsdnode.net.relay.book import Limits
from dsdnode.net.relay.frames import No, Reserved
from dsdnode.net.relay.rates import BURST_S, CHUNK_BYTES
from dsdnode.net.relay.server import Relay
from tests.net.relay.ends import BOB, PATIENCE_S, Bare, circuit

OpenRelay = Callable[..., Awaitable[Relay]]


async def both_ends(relay: Relay) -> tuple[Bare, Bare]:
    control = await Bare.open(relay.port)
    assert isinstance(await control.reserve(BOB), Reserved)
    ends = await circuit(relay.port, BOB, control)
    control.close()
    return ends


async def test_bytes_pass_no_faster_than_they_may(open_relay: OpenRelay) -> None:
    rate = 2e6
    near, far = await both_ends(await open_relay(bytes_per_s=rate))
    begun_s, data = asyncio.get_running_loop().time(), bytes(range(256)) * 3000
    near.say(data)
    assert await far.read(len(data)) == data
    took_s = asyncio.get_running_loop().time() - begun_s
    assert took_s >= (len(data) - CHUNK_BYTES) / rate - BURST_S > 0.05
    near.close()
    assert await far.rest() == b""
    far.close()


async def test_a_circuit_ends_when_it_has_carried_what_it_may(open_relay: OpenRelay) -> None:
    relay = await open_relay(circuit_bytes=200_000)
    near, far = await both_ends(relay)
    near.say(bytes(500_000))
    assert 200_000 <= len(await far.rest()) <= 200_000 + CHUNK_BYTES
    assert await near.rest() == b"" and relay.book.num_circuits == 0
    near.close()
    far.close()


async def test_what_bob_does_not_take_waits_with_alice(open_relay: OpenRelay) -> None:
    """He gets all of it, in order; the relay keeps next to nothing meanwhile."""
    relay = await open_relay(bytes_per_s=1e9, circuit_bytes_per_s=1e9)
    near, far = await both_ends(relay)
    far.writer.transport.pause_reading()  # type: ignore[attr-defined]
    descriptor = near.writer.get_extra_info("socket").fileno()
    data, sent, still = bytes(range(251)) * 1000, 0, 0
    while still < 5:
        try:
            begin = sent % len(data)
            sent += os.write(descriptor, data[begin:])
            still = 0
        except BlockingIOError:
            still += 1
            await asyncio.sleep(0.01)
    kept = [one._transport.get_write_buffer_size() for one in relay._circuits]
    assert len(kept) == 2 and 0 < max(kept) <= 2 * CHUNK_BYTES and sent > 4 * CHUNK_BYTES
    far.writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE_S):
        got = await far.reader.readexactly(sent)
    assert got == (data * (1 + sent // len(data)))[:sent]
    near.close()
    assert await far.rest() == b""
    far.close()


async def test_what_alice_said_last_gets_through_when_she_leaves(open_relay: OpenRelay) -> None:
    relay = await open_relay(bytes_per_s=1e9, circuit_bytes_per_s=1e9)
    near, far = await both_ends(relay)
    near.say(b"x" * 100_000, b"goodbye")
    near.close()
    assert (await far.rest()).endswith(b"goodbye")
    far.close()


KERNEL_S = 3.0
"""Sooner than a system ends a connection whose other end takes nothing."""


async def test_who_does_not_take_what_is_left_for_him_holds_nothing_for_long(
    open_relay: OpenRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsdnode.net.relay.connection.LINGER_S", 0.05)
    relay = await open_relay(bytes_per_s=1e9, circuit_bytes_per_s=1e9)
    near, far = await both_ends(relay)
    far.writer.transport.pause_reading()  # type: ignore[attr-defined]
    near.say(bytes(20_000_000))
    async with asyncio.timeout(PATIENCE_S):
        while not any(one._full for one in relay._circuits):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    [circuit_of_theirs] = relay._ends
    relay._end_circuit(circuit_of_theirs)
    async with asyncio.timeout(KERNEL_S):
        while relay._connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    far.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len(await far.rest()) < 20_000_000
    near.close()
    far.close()


async def test_an_idle_circuit_and_a_silent_reservation_are_ended(
    open_relay: OpenRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsdnode.net.relay.server.SWEEP_S", 0.01)
    near, far = await both_ends(await open_relay(idle_s=0.02))
    assert (await near.rest(), await far.rest()) == (b"", b"")
    control = await Bare.open((await open_relay(silent_s=0.02)).port)
    assert isinstance(await control.reserve(BOB), Reserved)
    assert await control.hear() == No("the reservation is over")
    assert await control.hear() is None
    for one in (near, far, control):
        one.close()


async def test_a_relay_by_default_has_room_for_what_its_process_does_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsdnode.net.relay.server._num_descriptors", lambda: 1024)
    relay = await Relay.open(BOB, "127.0.0.1", 0)
    assert relay.book.limits == Limits(circuits=66)
    with pytest.raises(BadInput, match=f"cannot relay on 127.0.0.1, port {relay.port}"):
        await Relay.open(BOB, "127.0.0.1", relay.port)
    await relay.close()
    monkeypatch.setattr("dsdnode.net.relay.server._num_descriptors", lambda: 256)
    with pytest.raises(BadInput, match="ulimit -n"):
        await Relay.open(BOB, "127.0.0.1", 0)
