"""What comes not from alice or bob: wrong keys, lies, garbage, floods. Bob stays up and talks to alice all along."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import psutil
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zmq.utils import z85

from dsdnode.addresses import parse_address
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net import handshake
from dsdnode.net.port import Priority
from dsdnode.net.rpc import STRIKES, Rpc
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.codec import MAX_FRAME_BYTES, encode
from dsdnode.wire.messages import Contact, Hello, Message, Ping, Refused
from dsdnode.wire.replies import Cancel

Start = Callable[..., Awaitable[Rpc]]
ALICE, BOB, MALLORY = (Identity(name * 32) for name in (b"a", b"b", b"m"))


@pytest.fixture
async def bob(start: Start) -> Rpc:
    return await start(b"b")


@pytest.fixture
async def alice(start: Start, bob: Rpc) -> AsyncIterator[Rpc]:
    """On the way out, bob still answers her."""
    rpc = await start(b"a")
    rpc.transport.introduce(bob.transport.contact)
    await rpc.ping(BOB.peer_id, timeout_s=5)
    yield rpc
    await rpc.ping(BOB.peer_id, timeout_s=5)


@pytest.fixture
def stranger(bob: Rpc) -> Iterator[zmq.Socket[bytes]]:
    """A bare libzmq socket with mallory's key, connected to bob: past CURVE, but no HELLO."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield dial(context, bob)
    context.destroy(0)


def dial(context: zmq.Context[zmq.Socket[bytes]], bob: Rpc, routing_id: bytes = b"") -> zmq.Socket[bytes]:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(BOB.curve_public_key))
    dealer.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(MALLORY.curve_public_key))
    dealer.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(MALLORY.curve_secret_key))
    if routing_id:
        dealer.setsockopt(zmq.ROUTING_ID, routing_id)
    dealer.connect(bob.transport.contact.addresses[0])
    return dealer


async def refused(rpc: Rpc, contact: Contact) -> str:
    rpc.transport.introduce(contact)
    async with asyncio.timeout(4):
        with pytest.raises(PeerUnavailable) as error:
            await rpc.ping(BOB.peer_id, timeout_s=60)
    return str(error.value)


def inside(rpc: Rpc) -> Any:
    """The transport, to look into."""
    return rpc.transport


# --- who lies


async def test_a_wrong_swarm_key_gets_nothing_and_is_told(start: Start) -> None:
    bob = await start(b"b", swarm_keys=("ours",))
    friend = await start(b"a", swarm_keys=("ours",))
    friend.transport.introduce(bob.transport.contact)
    await friend.ping(BOB.peer_id, timeout_s=5)
    for keys, words in ((("theirs",), "refused: wrong swarm key"), ((), "refused: this swarm is private")):
        mallory = await start(b"m", swarm_keys=keys)
        assert words in await refused(mallory, bob.transport.contact)
        assert mallory.transport.refused_by(BOB.peer_id)
    assert not friend.transport.refused_by(BOB.peer_id)
    assert bob.transport.contact_of(MALLORY.peer_id) is None
    with pytest.raises(PeerUnavailable):
        await bob.ping(MALLORY.peer_id, timeout_s=5)


async def test_a_callee_without_the_key_is_not_believed(start: Start) -> None:
    """Mallory answers WELCOME to everybody; alice will not have it."""
    mallory = await start(b"b")
    inside(mallory)._handshake = replace(inside(mallory)._handshake, swarm_keys=(b"guess",))
    transport = inside(mallory)
    answer = transport._handshake.answer
    transport.greeted = lambda hello, curve_key, *_: answer(replace_proof(hello), curve_key)
    alice = await start(b"a", swarm_keys=("ours",))
    assert "does not know the swarm key" in await refused(alice, mallory.transport.contact)


def replace_proof(hello: Hello) -> Hello:
    proof = handshake._proof(b"guess", b"hello", hello.contact.public_key, BOB.public_key, hello.nonce)
    return msgspec.structs.replace(hello, proof=proof)


async def test_another_key_at_bobs_address(start: Start) -> None:
    """Carol's address in bob's name: whoever answers there cannot prove it."""
    alice, carol = await start(b"a"), await start(b"c")
    words = await refused(alice, Contact(BOB.public_key, carol.transport.contact.addresses))
    assert f"does not have the key {BOB.public_key.hex()[:12]}" in words


async def test_who_calls_herself_alice_without_alices_key_is_refused(start: Start, bob: Rpc) -> None:
    mallory = await start(b"m")
    lie = replace(inside(mallory)._handshake, contact=Contact(ALICE.public_key, ("tcp://10.0.0.1:1",)))
    inside(mallory)._links.handshake = lie
    assert "not the one that the connection proved" in await refused(mallory, bob.transport.contact)
    assert bob.transport.contact_of(ALICE.peer_id) is None


async def test_another_protocol_version_is_refused_in_words(start: Start, bob: Rpc) -> None:
    words = await refused(await start(b"m", version=1), bob.transport.contact)
    assert "version 2" in words and "version 1" in words


async def test_a_borrowed_routing_id_is_worth_nothing(alice: Rpc, bob: Rpc) -> None:
    """Mallory's connection bears the routing id under which bob knows alice; the key that was verified still counts."""
    heard: list[bytes] = []
    bob.on_notice(Cancel, lambda peer, message, buffers: heard.append(peer))
    router = inside(bob)._router
    known = next(iter(router._by_routing_id.values()))
    router._by_routing_id[b"borrowed"] = known
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        mallory = dial(context, bob, routing_id=b"borrowed")
        mallory.send_multipart(encode(Cancel(bytes(16))))
        mallory.send_multipart(encode(inside(alice)._handshake.hello(BOB.public_key, bulk=False)))
        while not await asyncio.to_thread(mallory.poll, 20):
            pass
        assert b"proved" in mallory.recv()
    finally:
        context.destroy(0)
    assert heard == []
    alice.notify(BOB.peer_id, Cancel(bytes(16)))
    await alice.ping(BOB.peer_id, timeout_s=5)
    assert heard == [ALICE.peer_id]


# --- garbage


async def test_garbage_before_a_greeting(alice: Rpc, bob: Rpc, stranger: zmq.Socket[bytes]) -> None:
    heard: list[bytes] = []
    bob.on_notice(Cancel, lambda peer, message, buffers: heard.append(peer))
    for frames in (
        [b""],
        [b"\xc1" * 100],
        encode(Cancel(bytes(16))),
        encode(Ping(), request_id=1),
        [bytes(100)] * 10,
        [b""] * 5000,
        [bytes(MAX_FRAME_BYTES)] * 3,
    ):
        stranger.send_multipart(frames)
    hello = inside(alice)._handshake.hello(BOB.public_key, bulk=False)
    stranger.send_multipart(encode(hello))  # bob has read everything before when he answers this
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(stranger.poll, 50):
            pass
    assert heard == []


async def test_a_frame_over_the_limit_ends_the_connection(alice: Rpc, stranger: zmq.Socket[bytes]) -> None:
    monitor = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    stranger.send(bytes(MAX_FRAME_BYTES + 1))
    assert await asyncio.to_thread(monitor.poll, 5000)
    stranger.disable_monitor()
    monitor.close(0)


async def test_a_member_that_sends_garbage_is_banned(alice: Rpc, start: Start, bob: Rpc) -> None:
    mallory = await start(b"m")
    mallory.transport.introduce(bob.transport.contact)
    await mallory.ping(BOB.peer_id, timeout_s=5)
    for _ in range(STRIKES):
        mallory.transport.send(BOB.peer_id, [b"\xc1"], Priority.CONTROL)
    with pytest.raises(PeerUnavailable):
        await mallory.ping(BOB.peer_id, timeout_s=0.2)
    with pytest.raises(PeerUnavailable, match="banned"):
        await bob.ping(MALLORY.peer_id, timeout_s=5)


async def test_who_is_banned_cannot_greet_again_over_the_connection_that_she_has(start: Start, bob: Rpc) -> None:
    """What she has sent before it ended may be read after it."""
    mallory = await start(b"m")
    mallory.transport.introduce(bob.transport.contact)
    await mallory.ping(BOB.peer_id, timeout_s=5)
    heard: list[bytes] = []
    bob.on_notice(Cancel, lambda peer, message, buffers: heard.append(peer))
    answers: asyncio.Queue[Message] = asyncio.Queue()
    greeted = inside(bob).greeted

    def listen(*words: Any) -> Message:
        answer: Message = greeted(*words)
        answers.put_nowait(answer)
        return answer

    inside(bob).greeted = listen
    inside(bob)._router._close = lambda _: None  # her connection stays
    bob.transport.ban(MALLORY.peer_id, 60.0)
    hello = inside(mallory)._handshake.hello(BOB.public_key, bulk=False)
    for message in (hello, Cancel(bytes(16)), hello):
        mallory.transport.send(BOB.peer_id, encode(message), Priority.CONTROL)
    async with asyncio.timeout(5):
        assert await answers.get() == Refused("banned here")
    assert heard == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), greeting=st.booleans())
def test_raw_bytes_from_plain_tcp(data: bytes, greeting: bool) -> None:
    async def throw() -> None:
        async with asyncio.timeout(20):
            bob = Rpc(await ZmqTransport.open(BOB, listen="tcp://127.0.0.1:0"))
            bob.start()
            host, port = parse_address(bob.transport.contact.addresses[0])
            _, writer = await asyncio.open_connection(host, port)
            zmtp = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15 + 32) if greeting else b""
            writer.write(zmtp + data)
            await writer.drain()
            alice = Rpc(await ZmqTransport.open(ALICE))
            alice.start()
            alice.transport.introduce(bob.transport.contact)
            await alice.ping(BOB.peer_id, timeout_s=5)
            writer.close()
            await alice.close()
            await bob.close()

    asyncio.run(throw())


async def test_without_curve_nobody_comes_in(alice: Rpc, bob: Rpc) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    plain = context.socket(zmq.DEALER)
    monitor = plain.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | 0x0800)
    plain.connect(bob.transport.contact.addresses[0])
    assert await asyncio.to_thread(monitor.poll, 5000)
    event = int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder)
    plain.disable_monitor()
    monitor.close(0)
    context.destroy(0)
    assert event != zmq.EVENT_HANDSHAKE_SUCCEEDED


# --- memory

FLOOD = """
import sys, zmq
from zmq.utils import z85
server, public, secret, address = sys.argv[1:]
dealer = zmq.Context().socket(zmq.DEALER)
dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = (x.encode() for x in (server, public, secret))
dealer.connect(address)
piece = bytes(1 << 20)
for _ in range(800):
    dealer.send(piece, zmq.SNDMORE)  # one message, never whole until the end
dealer.send(b"")
dealer.recv()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures the memory of a process")
@pytest.mark.parametrize("told", [True, False])
async def test_a_message_of_endless_frames_does_not_fill_the_memory(
    start: Start, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mallory alone loses her connection; alice does where the system does not tell whose bytes they are."""
    limit_bytes, process = 48 << 20, psutil.Process()
    bob = await start(b"b", memory_limit_bytes=limit_bytes)
    if not told:
        monkeypatch.setattr("dsdnode.net.door._TCP_INFO", 9999)
    alice = await start(b"a")
    alice.transport.introduce(bob.transport.contact)
    await alice.ping(BOB.peer_id, timeout_s=5)
    before = process.memory_info().rss
    lost = asyncio.Event()
    alice.transport.on_peer_lost(lambda peer, why, at_s: lost.set())
    keys = (BOB.curve_public_key, MALLORY.curve_public_key, MALLORY.curve_secret_key)
    flood = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FLOOD, *(z85.encode(key).decode() for key in keys), bob.transport.contact.addresses[0]
    )
    try:
        async with asyncio.timeout(20):
            while not inside(bob)._gate.is_locked(asyncio.get_running_loop().time(), "127.0.0.1"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            if not told:
                await lost.wait()  # bob dropped everybody, and what they had half sent
            while True:
                try:
                    await alice.ping(BOB.peer_id, timeout_s=1)  # but alice, whom he knew, is let in again
                    break
                except PeerUnavailable:
                    await asyncio.sleep(0.05)
        most = process.memory_info().rss - before
        carol = await start(b"c")  # whom he did not
        assert "too many" in await refused(carol, bob.transport.contact)
    finally:
        flood.kill()
        await flood.wait()
    assert most < 200 << 20
    assert lost.is_set() != told
