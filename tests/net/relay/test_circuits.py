"""Alice reaches bob, whom nobody can dial, through rose's relay: whole transports at both ends, CURVE between them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable

import pytest

from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.relay.connection import Connection
from dsdnode.net.relay.server import Relay
from dsdnode.net.relay.tunnel import Tunnel
from dsdnode.net.rpc import Rpc
from dsdnode.wire.messages import Announce, Contact, Stored
from tests.net.relay.ends import ALICE, BOB, CAROL, PATIENCE_S, Bare, Callee, circuit, contact_of

Start = Callable[..., Awaitable[Rpc]]
OpenRelay = Callable[..., Awaitable[Relay]]
Reserve = Callable[..., Awaitable[Callee]]
TEXT = b"the slow brown fox sleeps under the lazy dog"


def port_of(rpc: Rpc) -> int:
    return int(rpc.transport.here[0].rpartition(":")[2])


def caller_port(rpc: Rpc) -> int:
    """Of the one connection that its router has."""
    [descriptor] = rpc.transport._router._by_descriptor  # type: ignore[attr-defined]
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        return int(copy.getpeername()[1])


async def through(relay: Relay, alice: Rpc, callee: Identity) -> Tunnel:
    """Alice knows of the callee nothing but her own door to it."""
    tunnel = await Tunnel.open(ALICE, contact_of(relay), callee.peer_id)
    alice.transport.introduce(Contact(callee.public_key, (tunnel.address,)))
    return tunnel


def lost(rpc: Rpc) -> asyncio.Future[str]:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    rpc.transport.on_peer_lost(lambda peer, why: None if future.done() else future.set_result(why))
    return future


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> bytearray:
    """Whatever the relay, and both ends of the circuit, hand on."""
    seen, write = bytearray(), Connection._write

    def tapped(self: Connection, data: bytes) -> None:
        seen.extend(data)
        write(self, data)

    monkeypatch.setattr(Connection, "_write", tapped)
    return seen


async def test_alice_reaches_bob_under_her_own_name_and_the_relay_reads_nothing(
    start: Start, open_relay: OpenRelay, reserve: Reserve, carried: bytearray
) -> None:
    alice, bob, relay = await start(b"a", listen=None), await start(b"b"), await open_relay()
    heard: list[tuple[bytes, list[bytes]]] = []

    async def echo(peer: bytes, message: Announce, buffers: list[bytes]) -> tuple[Stored, list[bytes]]:
        heard.append((peer, buffers))
        return Stored(), buffers

    bob.on_request(Announce, echo)
    callee = await reserve(BOB, relay, port_of(bob))
    assert callee.terms is not None and callee.terms.lease_s == 3600
    await through(relay, alice, BOB)
    reply, buffers = await alice.request(BOB.peer_id, Announce(bytes(32)), [TEXT], timeout_s=5)
    assert (reply, buffers) == (Stored(), [TEXT])
    assert heard == [(ALICE.peer_id, [TEXT])]
    assert callee.hosts == {caller_port(bob): "127.0.0.1"} and callee.asked == ["127.0.0.1"]
    for secret in (TEXT, ALICE.public_key, BOB.public_key, ALICE.curve_public_key, BOB.curve_public_key):
        assert len(carried) > 1000 and secret not in carried


async def test_the_same_ear_hears_what_is_sent_in_clear(open_relay: OpenRelay, carried: bytearray) -> None:
    relay = await open_relay()
    control = await Bare.open(relay.port)
    await control.reserve(BOB)
    near, far = await circuit(relay.port, ALICE, BOB, control)
    near.say(TEXT)
    assert await far.read(len(TEXT)) == TEXT and TEXT in carried
    far.say(TEXT[::-1])
    assert await near.read(len(TEXT)) == TEXT[::-1]
    near.close()
    assert await far.rest() == b""
    for one in (control, far):
        one.close()


async def test_large_messages_pass_both_ways(start: Start, open_relay: OpenRelay, reserve: Reserve) -> None:
    alice, bob, relay = (
        await start(b"a", listen=None),
        await start(b"b"),
        await open_relay(bytes_per_s=1e9, circuit_bytes_per_s=1e9),
    )

    async def echo(peer: bytes, message: Announce, buffers: list[bytes]) -> tuple[Stored, list[bytes]]:
        return Stored(), buffers

    bob.on_request(Announce, echo)
    await reserve(BOB, relay, port_of(bob))
    await through(relay, alice, BOB)
    big = [bytes([number]) * 1_000_000 for number in range(4)]
    assert (await alice.request(BOB.peer_id, Announce(bytes(32)), big, timeout_s=PATIENCE_S))[1] == big


async def test_a_relay_that_connects_alice_to_carol_instead_is_not_believed(
    start: Start, open_relay: OpenRelay, reserve: Reserve
) -> None:
    alice, carol, relay = await start(b"a", listen=None), await start(b"c"), await open_relay()
    callee = await reserve(CAROL, relay, port_of(carol))
    relay.book._reserved[BOB.peer_id] = relay.book._reserved[CAROL.peer_id]
    await through(relay, alice, BOB)
    async with asyncio.timeout(4):
        with pytest.raises(PeerUnavailable, match="does not have the key"):
            await alice.ping(BOB.peer_id, timeout_s=60)
    assert callee.num_spliced == 1


async def test_when_the_relay_ends_both_ends_know_at_once(
    start: Start, open_relay: OpenRelay, reserve: Reserve
) -> None:
    alice, bob, relay = await start(b"a", listen=None), await start(b"b"), await open_relay()
    callee = await reserve(BOB, relay, port_of(bob))
    tunnel = await through(relay, alice, BOB)
    await alice.ping(BOB.peer_id, timeout_s=5)
    ends = [lost(rpc) for rpc in (alice, bob)]
    await relay.close()
    async with asyncio.timeout(2):
        await asyncio.gather(*ends, tunnel.over)
    await callee.next_news()
    assert callee.terms is None and "closed the connection" in callee.why
    assert callee.hosts == {}


async def test_nobody_is_reached_who_has_no_reservation_and_alice_is_told_why(open_relay: OpenRelay) -> None:
    relay = await open_relay()
    with pytest.raises(PeerUnavailable, match="this peer has no reservation here"):
        await Tunnel.open(ALICE, contact_of(relay), BOB.peer_id)


async def test_bob_does_not_call_back_for_whom_he_does_not_admit(open_relay: OpenRelay, reserve: Reserve) -> None:
    relay = await open_relay(answer_s=0.1)
    callee = await reserve(BOB, relay, 1)
    callee.admitting = False
    with pytest.raises(PeerUnavailable, match="the peer does not answer"):
        await Tunnel.open(ALICE, contact_of(relay), BOB.peer_id)
    while not callee.asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert callee.asked == ["127.0.0.1"] and callee.num_spliced == 0


STRANGER = "import socket, sys; sys.exit(socket.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(1) != b'')"


async def test_another_process_gets_nothing_at_alice_s_door_and_she_still_comes_in(
    start: Start, open_relay: OpenRelay, reserve: Reserve
) -> None:
    alice, bob, relay = await start(b"a", listen=None), await start(b"b"), await open_relay()
    await reserve(BOB, relay, port_of(bob))
    tunnel = await through(relay, alice, BOB)
    port = tunnel.address.rpartition(":")[2]
    stranger = await asyncio.create_subprocess_exec(sys.executable, "-IS", "-c", STRANGER, port)
    async with asyncio.timeout(PATIENCE_S):
        assert await stranger.wait() == 0
    await alice.ping(BOB.peer_id, timeout_s=5)
    with pytest.raises(OSError):
        await Bare.open(int(port))


async def test_a_door_that_nobody_takes_is_closed_with_its_circuit(
    monkeypatch: pytest.MonkeyPatch, open_relay: OpenRelay, reserve: Reserve, start: Start
) -> None:
    monkeypatch.setattr("dsdnode.net.relay.tunnel.COME_S", 0.05)
    bob, relay = await start(b"b"), await open_relay()
    await reserve(BOB, relay, port_of(bob))
    tunnel = await Tunnel.open(ALICE, contact_of(relay), BOB.peer_id)
    async with asyncio.timeout(PATIENCE_S):
        await tunnel.over
    with pytest.raises(OSError):
        await Bare.open(int(tunnel.address.rpartition(":")[2]))


async def test_strangers_who_come_again_and_again_end_it(
    monkeypatch: pytest.MonkeyPatch, open_relay: OpenRelay, reserve: Reserve, start: Start
) -> None:
    bob, relay = await start(b"b"), await open_relay()
    await reserve(BOB, relay, port_of(bob))
    tunnel = await Tunnel.open(ALICE, contact_of(relay), BOB.peer_id)
    monkeypatch.setattr("dsdnode.net.relay.tunnel.has_connection", lambda here, there: False)
    async with asyncio.timeout(PATIENCE_S):
        while not tunnel.over.done():
            with contextlib.suppress(OSError):
                assert await (await Bare.open(int(tunnel.address.rpartition(":")[2]))).rest() == b""
        await tunnel.over


async def test_where_the_system_does_not_tell_whose_a_connection_is_the_first_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, open_relay: OpenRelay, reserve: Reserve, start: Start
) -> None:
    alice, bob, relay = await start(b"a", listen=None), await start(b"b"), await open_relay()
    await reserve(BOB, relay, port_of(bob))
    monkeypatch.setattr("dsdnode.net.relay.tunnel.has_connection", lambda here, there: None)
    await through(relay, alice, BOB)
    await alice.ping(BOB.peer_id, timeout_s=5)
