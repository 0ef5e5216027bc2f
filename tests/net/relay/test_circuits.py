"""Alice reaches bob, whom nobody can dial, through rose's relay: whole transports at both ends, CURVE between them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.relay.connection import Connection
from dsdnode.net.relay.server import Relay
from dsdnode.net.rpc import Rpc
from dsdnode.wire.messages import Announce, Contact, Stored
from tests.net.relay.ends import ALICE, BOB, CAROL, PATIENCE_S, Bare, Callee, circuit

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


def through(callee: Callee, alice: Rpc, identity: Identity = BOB) -> None:
    """Alice knows of bob nothing but where he is called."""
    assert callee.terms is not None
    alice.transport.introduce(Contact(identity.public_key, (f"tcp://127.0.0.1:{callee.terms.port}",)))


def lost(rpc: Rpc) -> asyncio.Future[str]:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    rpc.transport.on_peer_lost(lambda peer, why, at_s: None if future.done() else future.set_result(why))
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
    through(callee, alice)
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
    near, far = await circuit(relay.port, BOB, control)
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
    through(await reserve(BOB, relay, port_of(bob)), alice)
    big = [bytes([number]) * 1_000_000 for number in range(4)]
    assert (await alice.request(BOB.peer_id, Announce(bytes(32)), big, timeout_s=PATIENCE_S))[1] == big


async def test_a_relay_that_connects_alice_to_carol_instead_is_not_believed(
    start: Start, open_relay: OpenRelay, reserve: Reserve
) -> None:
    alice, carol, relay = await start(b"a", listen=None), await start(b"c"), await open_relay()
    callee = await reserve(CAROL, relay, port_of(carol))
    through(callee, alice)
    async with asyncio.timeout(4):
        with pytest.raises(PeerUnavailable, match="does not have the key"):
            await alice.ping(BOB.peer_id, timeout_s=60)
    assert callee.num_spliced == 1


async def test_when_the_relay_ends_both_ends_know_at_once(
    start: Start, open_relay: OpenRelay, reserve: Reserve
) -> None:
    alice, bob, relay = await start(b"a", listen=None), await start(b"b"), await open_relay()
    callee = await reserve(BOB, relay, port_of(bob))
    through(callee, alice)
    await alice.ping(BOB.peer_id, timeout_s=5)
    ends = [lost(rpc) for rpc in (alice, bob)]
    await relay.close()
    async with asyncio.timeout(2):
        await asyncio.gather(*ends)
    await callee.next_news()
    assert callee.terms is None and "closed the connection" in callee.why
    assert callee.hosts == {}


async def test_bob_does_not_call_back_for_whom_he_does_not_admit(open_relay: OpenRelay, reserve: Reserve) -> None:
    relay = await open_relay(answer_s=0.1)
    callee = await reserve(BOB, relay, 1)
    callee.admitting = False
    assert callee.terms is not None
    assert await (await Bare.open(callee.terms.port)).rest() == b""
    assert callee.asked == ["127.0.0.1"] and callee.num_spliced == 0
