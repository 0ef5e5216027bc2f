"""Over the in-memory transport; test_zmq.py repeats the essentials over sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

import pytest

from dsdnode.errors import ModelRefused, Overloaded, PeerMisbehaved, PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net import rpc as rpc_module
from dsdnode.net.memory import MemoryHub
from dsdnode.net.port import Priority
from dsdnode.net.rpc import MAX_SERVED_PER_PEER, STRIKES, STRIKES_WINDOW_S, Rpc, Strikes
from dsdnode.wire.codec import encode
from dsdnode.wire.messages import Announce, Contact, FindNode, Message, Nodes, Ping, Pong, Refused, Stored
from dsdnode.wire.replies import Cancel

ALICE, BOB, MALLORY = (Identity(name * 32) for name in (b"a", b"b", b"m"))


@pytest.fixture
async def hub() -> MemoryHub:
    return MemoryHub()


@pytest.fixture
async def alice(hub: MemoryHub) -> AsyncIterator[Rpc]:
    rpc = Rpc(hub.transport(Contact(ALICE.public_key)), Random(1))
    rpc.start()
    yield rpc
    await rpc.close()


@pytest.fixture
async def bob(hub: MemoryHub) -> AsyncIterator[Rpc]:
    rpc = Rpc(hub.transport(Contact(BOB.public_key)), Random(2))
    rpc.start()
    yield rpc
    await rpc.close()


@pytest.fixture
async def mallory(hub: MemoryHub) -> AsyncIterator[Rpc]:
    rpc = Rpc(hub.transport(Contact(MALLORY.public_key)), Random(3))
    rpc.start()
    yield rpc
    await rpc.close()


async def ask(alice: Rpc, message: Message | None = None, timeout_s: float = 5.0) -> Message:
    reply, _ = await alice.request(BOB.peer_id, message or FindNode(bytes(32)), timeout_s=timeout_s)
    return reply


async def test_alice_asks_bob(alice: Rpc, bob: Rpc) -> None:
    async def find(peer: bytes, message: FindNode, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        assert peer == ALICE.peer_id and message.target == b"t" * 32
        return Nodes(), [*reversed(buffers)]

    bob.on_request(FindNode, find)
    reply = await alice.request(BOB.peer_id, FindNode(b"t" * 32), [b"1", b"2"], timeout_s=5)
    assert reply == (Nodes(), [b"2", b"1"])


async def test_each_answer_finds_its_question(alice: Rpc, bob: Rpc) -> None:
    gates = [asyncio.Event() for _ in range(5)]

    async def slow(peer: bytes, message: FindNode, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        await gates[message.target[0]].wait()
        return Nodes(), [message.target]

    bob.on_request(FindNode, slow)
    asked = [
        asyncio.ensure_future(alice.request(BOB.peer_id, FindNode(bytes([i]) * 32), timeout_s=5)) for i in range(5)
    ]
    await asyncio.sleep(0)
    for gate in reversed(gates):
        gate.set()
    for index, (_, buffers) in enumerate(await asyncio.gather(*asked)):
        assert buffers == [bytes([index]) * 32]


async def test_no_answer_in_time(alice: Rpc, bob: Rpc) -> None:
    cancelled = asyncio.Event()

    async def never(peer: bytes, message: FindNode, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()  # the caller's deadline travels: nobody works for nobody
        raise AssertionError

    bob.on_request(FindNode, never)
    with pytest.raises(PeerUnavailable, match="no answer to FindNode"):
        await ask(alice, timeout_s=0.02)
    async with asyncio.timeout(5):
        await cancelled.wait()


async def test_a_late_reply_is_nobodys(alice: Rpc, bob: Rpc) -> None:
    bob.transport.send(ALICE.peer_id, encode(Nodes(), (), request_id=7, reply=True), Priority.CONTROL)
    assert await bob.ping(ALICE.peer_id, timeout_s=5) >= 0


async def test_only_who_was_asked_can_answer(alice: Rpc, bob: Rpc, mallory: Rpc) -> None:
    """Mallory guesses the number of alice's question: they count up."""
    asked = asyncio.Event()

    async def slow(peer: bytes, message: FindNode, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        asked.set()
        await mallory.ping(ALICE.peer_id, timeout_s=5)  # what mallory has said before has come to alice
        return Nodes(), [b"bob's"]

    bob.on_request(FindNode, slow)
    question = asyncio.ensure_future(alice.request(BOB.peer_id, FindNode(bytes(32)), timeout_s=5))
    await asyncio.sleep(0)
    [number] = alice._pending[BOB.peer_id]
    mallory.transport.send(ALICE.peer_id, encode(Nodes(), [b"mallory's"], number, reply=True), Priority.CONTROL)
    await asked.wait()
    assert await question == (Nodes(), [b"bob's"])


async def test_bob_dies_while_alice_waits(alice: Rpc, bob: Rpc) -> None:
    started = asyncio.Event()

    async def never(peer: bytes, message: FindNode, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    bob.on_request(FindNode, never)
    asked = asyncio.ensure_future(ask(alice, timeout_s=60))
    await started.wait()
    await bob.close()
    async with asyncio.timeout(5):
        with pytest.raises(PeerUnavailable, match="gone"):
            await asked
    with pytest.raises(PeerUnavailable):
        await ask(alice)


async def test_refusals_are_replies(alice: Rpc, bob: Rpc) -> None:
    async def find(peer: bytes, message: FindNode, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        raise {b"m": ModelRefused("no such model\x1b[31m"), b"o": Overloaded("full"), b"b": KeyError("a bug")}[
            message.target[:1]
        ]

    assert await ask(alice) == Refused("FindNode is not served here")
    bob.on_request(FindNode, find)
    assert await ask(alice, FindNode(b"m" * 32)) == Refused("no such model?[31m")
    assert await ask(alice, FindNode(b"o" * 32)) == Refused("full", retry=True)
    assert await ask(alice, FindNode(b"b" * 32)) == Refused("internal error")


async def test_notices_arrive_in_order_and_survive_bugs(alice: Rpc, bob: Rpc) -> None:
    heard: list[bytes] = []

    def hear(peer: bytes, message: Cancel, buffers: list[bytes]) -> None:
        heard.append(message.request[:1])
        if len(heard) == 2:
            raise ZeroDivisionError

    bob.on_notice(Cancel, hear)
    for name in (b"1", b"2", b"3"):
        alice.notify(BOB.peer_id, Cancel(name * 16))
    alice.notify(BOB.peer_id, Ping())  # a notice that nobody handles is no harm
    await alice.ping(BOB.peer_id, timeout_s=5)
    assert heard == [b"1", b"2", b"3"]


async def test_one_peer_gets_so_much_service_and_no_more(alice: Rpc, bob: Rpc) -> None:
    release = asyncio.Event()

    async def wait(peer: bytes, message: FindNode, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        await release.wait()
        return Nodes(), []

    bob.on_request(FindNode, wait)
    asked = [asyncio.ensure_future(ask(alice)) for _ in range(MAX_SERVED_PER_PEER)]
    await asyncio.sleep(0)
    assert await ask(alice) == Refused("too many requests at once", retry=True)
    assert await alice.ping(BOB.peer_id, timeout_s=5) >= 0  # yet bob is seen to be alive
    release.set()
    assert set(await asyncio.gather(*asked)) == {Nodes()}
    assert await ask(alice) == Nodes()
    assert not bob._serving and not bob._num_served and not alice._pending


async def test_all_peers_together_get_so_much_service_and_no_more(
    alice: Rpc, bob: Rpc, mallory: Rpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_module, "MAX_SERVED", 3)
    release = asyncio.Event()

    async def wait(peer: bytes, message: FindNode, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        await release.wait()
        return Nodes(), []

    bob.on_request(FindNode, wait)
    full = Refused("too many requests at once", retry=True)
    asked = [asyncio.ensure_future(ask(mallory)) for _ in range(3)]
    await asyncio.sleep(0)
    assert await ask(mallory) == full
    of_alice = asyncio.ensure_future(ask(alice))
    assert await asked.pop() == full  # alice has nothing yet: mallory gives way
    assert await ask(mallory) == full
    release.set()
    assert set(await asyncio.gather(of_alice, *asked)) == {Nodes()}
    assert not bob._serving and not bob._num_served


async def test_pending_requests_are_bounded(alice: Rpc, bob: Rpc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "MAX_PENDING", 0)
    with pytest.raises(Overloaded):
        await ask(alice)


@pytest.mark.parametrize("kind", ["garbage", "notice", "request"])
async def test_who_misbehaves_again_and_again_is_banned(alice: Rpc, bob: Rpc, kind: str) -> None:
    def notice(peer: bytes, message: Cancel, buffers: list[bytes]) -> None:
        raise PeerMisbehaved("nonsense")

    async def request(peer: bytes, message: Announce, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        raise PeerMisbehaved("nonsense")

    bob.on_notice(Cancel, notice)
    bob.on_request(Announce, request)
    frames = {"garbage": [b"\xc1"], "notice": encode(Cancel(bytes(16))), "request": encode(Announce(bytes(32)), (), 5)}
    transport: Any = bob.transport
    for index in range(STRIKES):
        assert not transport.banned, index
        alice.transport.send(BOB.peer_id, frames[kind], Priority.CONTROL)
        await alice.ping(BOB.peer_id, timeout_s=5)
    with pytest.raises(PeerUnavailable):
        await alice.ping(BOB.peer_id, timeout_s=0.02)
    assert transport.banned == {ALICE.peer_id}


def test_strikes_are_forgiven() -> None:
    strikes = Strikes()
    for round_ in range(3):
        now = round_ * (STRIKES_WINDOW_S + 1)
        assert not any(strikes.add(b"alice", now) for _ in range(STRIKES - 1))
    assert strikes.add(b"alice", now)


async def test_ping_and_warm(alice: Rpc, bob: Rpc) -> None:
    async with asyncio.timeout(5):
        alice.warm(BOB.peer_id)
        alice.warm(b"nobody")
        assert await alice.ping(BOB.peer_id, timeout_s=5) >= 0
    assert await ask(alice, Ping()) == Pong()
    with pytest.raises(PeerUnavailable):
        await alice.ping(b"nobody", timeout_s=5)


async def test_a_ping_is_asked_again_where_a_connection_has_ended(alice: Rpc, bob: Rpc) -> None:
    """Of several, or of two members with one key: it is not said whether another one carried it."""
    asked = asyncio.ensure_future(alice.ping(BOB.peer_id, timeout_s=5))
    await asyncio.sleep(0)
    alice._broken(BOB.peer_id, False, float("-inf"))
    await asked
    assert bob.sent["Pong"].num == 2


async def test_closing_ends_what_waits(alice: Rpc, bob: Rpc) -> None:
    async def never(peer: bytes, message: Announce, buffers: list[bytes]) -> tuple[Message, Sequence[bytes]]:
        await asyncio.Event().wait()
        return Stored(), []

    bob.on_request(Announce, never)
    asked = asyncio.ensure_future(ask(alice, Announce(bytes(32)), timeout_s=60))
    await alice.ping(BOB.peer_id, timeout_s=5)
    await alice.close()
    with pytest.raises(PeerUnavailable, match="closing"):
        await asked
    await alice.close()  # twice is no harm
