"""Strangers who only stand in the door: bob's newcomers get in all along."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import zmq
from zmq.utils import z85

from dsdnode.addresses import parse_address
from dsdnode.identity import Identity
from dsdnode.net import lobby, router
from dsdnode.net.door import Door, leads_here
from dsdnode.net.rpc import Rpc
from dsdnode.wire.codec import decode, encode
from dsdnode.wire.messages import Refused
from dsdnode.wire.replies import Cancel

Start = Callable[..., Awaitable[Rpc]]
BOB, MALLORY = (Identity(name * 32) for name in (b"b", b"m"))


@pytest.fixture
async def bob(start: Start) -> Rpc:
    return await start(b"b")


def inside(rpc: Rpc) -> Any:
    """The transport, to look into."""
    return rpc.transport


@contextlib.asynccontextmanager
async def callers(bob: Rpc, num: int, first: bytes = b"") -> AsyncIterator[list[asyncio.StreamReader]]:
    """So many TCP connections to bob, over which nothing comes but `first`."""
    host, port = parse_address(bob.transport.contact.addresses[0])
    made = [await asyncio.open_connection(host, port) for _ in range(num)]
    for _, writer in made:
        writer.write(first)
    try:
        yield [reader for reader, _ in made]
    finally:
        for _, writer in made:
            writer.close()


@pytest.mark.parametrize(
    "first", [b"", b"GET / HTTP/1.1\r\n", b"\xff" + bytes(8) + b"\x7f", b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE"]
)
async def test_silent_connections_keep_nobody_out(start: Start, bob: Rpc, first: bytes) -> None:
    async with callers(bob, 450, first):
        for name in (b"c", b"d"):
            carol = await start(name)
            carol.transport.introduce(bob.transport.contact)
            await carol.ping(BOB.peer_id, timeout_s=5)
        door = inside(bob)._router.lobby
        assert door.num_waiting <= lobby.MAX_WAITING and door.num_peers == 2


async def test_who_says_nothing_is_ended(bob: Rpc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "GREETING_S", 0.3)
    monkeypatch.setattr(router, "SWEEP_S", 0.05)
    async with callers(bob, 3) as readers, asyncio.timeout(4):  # libzmq itself waits five seconds
        for reader in readers:
            while await reader.read(100):
                pass


@pytest.fixture
def stranger(bob: Rpc) -> Iterator[zmq.Socket[bytes]]:
    """A bare libzmq socket with mallory's key, connected to bob: past CURVE, but no HELLO."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.curve_serverkey = z85.encode(BOB.curve_public_key)
    dealer.curve_publickey = z85.encode(MALLORY.curve_public_key)
    dealer.curve_secretkey = z85.encode(MALLORY.curve_secret_key)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    dealer.connect(bob.transport.contact.addresses[0])
    yield dealer
    context.destroy(0)


@contextlib.contextmanager
def watching(dealer: zmq.Socket[bytes]) -> Iterator[zmq.Socket[bytes]]:
    monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    yield monitor
    dealer.disable_monitor()
    monitor.close(0)


async def test_past_curve_and_no_greeting_is_ended_too(
    bob: Rpc, stranger: zmq.Socket[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats alone would keep such a connection for ever."""
    monkeypatch.setattr(lobby, "GREETING_S", 0.3)
    monkeypatch.setattr(router, "SWEEP_S", 0.05)
    with watching(stranger) as monitor:
        assert await asyncio.to_thread(monitor.poll, 4000)


async def test_chatter_that_is_no_greeting_is_ended(bob: Rpc, stranger: zmq.Socket[bytes]) -> None:
    with watching(stranger) as monitor:
        for _ in range(lobby.MAX_MESSAGES + 1):
            stranger.send_multipart(encode(Cancel(bytes(16))))
        assert await asyncio.to_thread(monitor.poll, 4000)


async def test_one_greeting_is_refused_once_and_the_connection_ended(
    start: Start, bob: Rpc, stranger: zmq.Socket[bytes]
) -> None:
    alice = await start(b"a")
    hello = inside(alice)._handshake.hello(BOB.public_key, bulk=False)  # not mallory's
    with watching(stranger) as monitor:
        for _ in range(10):
            stranger.send_multipart(encode(hello))
        assert await asyncio.to_thread(stranger.poll, 4000)
        assert isinstance(decode(stranger.recv_multipart()).message, Refused)
        assert await asyncio.to_thread(monitor.poll, 4000)
        assert not stranger.poll(0)


async def test_bob_has_places_for_peers_of_many_networks(
    start: Start, bob: Rpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When all are taken, a newcomer is told so, and may come again."""
    monkeypatch.setattr(lobby, "MAX_CONNECTIONS", 2)
    for name in (b"c", b"d", b"e"):
        carol = await start(name)
        carol.transport.introduce(bob.transport.contact)
        if name == b"e":
            with pytest.raises(Exception, match="as many connections as it can have"):
                await carol.ping(BOB.peer_id, timeout_s=5)
            assert not carol.transport.refused_by(BOB.peer_id)
        else:
            await carol.ping(BOB.peer_id, timeout_s=5)


# --- descriptors


def test_a_descriptor_that_is_another_connection_s_by_now_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as caller:
        accepted, _ = server.accept()
        door = Door.at(accepted.fileno())
        assert door is not None and door.host == "127.0.0.1"
        with socket.create_connection(server.getsockname()) as other:
            second, _ = server.accept()
            os.dup2(second.fileno(), accepted.fileno())  # what libzmq's thread may do at any time
            door.close()
            second.sendall(b"still there")
            assert other.recv(100) == b"still there"
        accepted.close()
        second.close()
        assert caller.recv(1) == b"", "the first was closed when its number became the second's"


def test_what_is_no_connection_is_none_and_leaves_nothing_open() -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with open(os.devnull) as file:
        assert Door.at(file.fileno()) is None
    ours, worker_s = socket.socketpair()  # it has taken the number of one that has hung up
    with ours, worker_s:
        assert Door.at(ours.fileno()) is None
    assert Door.at(9999) is None
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)


def test_which_addresses_are_this_machine_s() -> None:
    assert leads_here("127.0.0.1")
    assert not leads_here("192.0.2.1") and not leads_here("2001:db8::1")
