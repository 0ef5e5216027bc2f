"""Alice makes a connection to bob herself, from the port that she listens on; libzmq carries messages over it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from dsdnode.addresses import parse_address
from dsdnode.identity import Identity
from dsdnode.net import passage as passages
from dsdnode.net.call import Call, Way
from dsdnode.net.handshake import Handshake
from dsdnode.net.listener import CAN_SHARE, socket_from
from dsdnode.net.passage import Passage
from dsdnode.net.sockets import Names, open_context
from dsdnode.wire.codec import decode
from dsdnode.wire.messages import Contact, Message, Welcome
from tests.net.conftest import Start

ALICE, BOB = (Identity(name * 32) for name in (b"a", b"b"))


class Caller:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.heard: asyncio.Future[Message] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()

    def call_proven(self, call: Call) -> None:
        call.greet(Handshake(Contact(ALICE.public_key, ())).hello(BOB.public_key, bulk=False))

    def call_heard(self, call: Call, frames: list[bytes]) -> None:
        call.take()
        self.heard.set_result(decode(frames).message)

    def call_idle(self) -> None:
        pass

    def call_ended(self, call: Call, why: str) -> None:
        self.ended.set_result(why)


async def connected(own: socket.socket, address: str) -> socket.socket:
    await asyncio.get_running_loop().sock_connect(own, parse_address(address))
    return own


@pytest.mark.skipif(not CAN_SHARE, reason="this system does not share ports")
async def test_bob_welcomes_alice_who_comes_from_her_listening_port_and_both_hear_the_end(start: Start) -> None:
    alice, bob = await start(b"a"), await start(b"b")
    (address,), (own,) = bob.transport.contact.addresses, alice.transport.contact.addresses
    raw = await connected(socket_from(*parse_address(own), "127.0.0.1"), address)
    context, caller = open_context(), Caller()
    way = Way(address, passage=Passage(raw))
    call = Call(caller, context, Names(), ALICE, BOB.public_key, way)
    assert isinstance(await asyncio.wait_for(caller.heard, 5), Welcome)
    assert call.local == "127.0.0.1" and bob.transport.source_of(ALICE.peer_id) == "127.0.0.1"
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    bob.transport.on_peer_lost(lambda *_: lost.set_result(None))
    way.passage.close()
    await asyncio.wait_for(lost, 5)
    await asyncio.wait_for(caller.ended, 5)
    await asyncio.to_thread(context.term)


async def test_a_passage_that_nobody_takes_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "ATTEMPT_TIMEOUT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as door:
        own = socket.socket()
        own.setblocking(False)
        passage = Passage(await connected(own, f"tcp://127.0.0.1:{door.getsockname()[1]}"))
        there, _ = door.accept()
        with there:
            assert await asyncio.wait_for(asyncio.to_thread(there.recv, 1), 5) == b""
        with pytest.raises(OSError):
            await asyncio.open_connection(*parse_address(passage.endpoint))
