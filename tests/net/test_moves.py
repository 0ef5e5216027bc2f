"""Alice and bob talk by way of a slow detour; bob calls her straight, and not a message is lost or overtaken."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from dsdnode.identity import Identity
from dsdnode.net import moves
from dsdnode.net.links import Links
from dsdnode.net.port import LinkKind, Priority
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.codec import decode, encode
from dsdnode.wire.messages import Contact, Pong
from tests.net.detours import Detour, router_of

ALICE, BOB = (Identity(name * 32) for name in (b"a", b"b"))
CLASSES = (Priority.CONTROL, Priority.VERIFY, Priority.BULK)
PATIENCE_S = 20.0


class Talker:
    """Says numbered messages of each class, and notes what the other one says."""

    def __init__(self, transport: ZmqTransport, other: bytes, rng: Random) -> None:
        self.transport = transport
        self._other = other
        self._rng = rng
        self.said = dict.fromkeys(CLASSES, 0)
        self.heard: dict[Priority, list[int]] = {priority: [] for priority in CLASSES}
        self._task = asyncio.create_task(self._listen())
        self.news = asyncio.Event()

    async def talk(self, num: int) -> None:
        for _ in range(num):
            priority = CLASSES[sum(self.said.values()) % 3] if num == 9 else self._rng.choice(CLASSES)
            padding = bytes(self._rng.choice((0, 10, 1000, 20_000)))
            number = self.said[priority]
            self.transport.send(self._other, [bytes([priority]), number.to_bytes(4, "big"), padding], priority)
            self.said[priority] = number + 1
            if self._rng.random() < 0.2:
                await asyncio.sleep(self._rng.choice((0, 0, 0.001, 0.004)))

    async def _listen(self) -> None:
        while True:
            _, frames = await self.transport.receive()
            if len(frames) == 1:  # as everybody answers it
                asked = decode(frames)
                pong = encode(Pong(), request_id=asked.request_id, reply=True)
                self.transport.send(self._other, pong, Priority.CONTROL)
                continue
            kind, number, _ = frames
            self.heard[Priority(kind[0])].append(int.from_bytes(number, "big"))
            self.news.set()

    async def heard_all(self, said: dict[Priority, int]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while any(len(self.heard[priority]) < said[priority] for priority in CLASSES):
                self.news.clear()
                await self.news.wait()
        assert self.heard == {priority: list(range(num)) for priority, num in said.items()}

    def close(self) -> None:
        self._task.cancel()


async def play(seed: int) -> None:
    """A straight link comes while both talk. Alice may have opened one lane only, and bob may have called her, too."""
    rng = Random(seed)
    out, back = Detour(rng), Detour(rng)
    async with out.begin() as to_bob, back.begin() as to_alice:
        alice = await ZmqTransport.open(ALICE, listen="tcp://127.0.0.1:0")
        bob = await ZmqTransport.open(BOB, listen="tcp://127.0.0.1:0")
        (out.address,), (back.address,) = bob.contact.addresses, alice.contact.addresses
        out.circuits, back.circuits = router_of(bob)._circuits, router_of(alice)._circuits
        talkers = Talker(alice, BOB.peer_id, rng), Talker(bob, ALICE.peer_id, rng)
        alice.introduce(Contact(BOB.public_key, (to_bob,)))
        if rng.random() < 0.5:  # each calls the other
            bob.introduce(Contact(ALICE.public_key, (to_alice,)))
            await asyncio.gather(*(one.talk(9) for one in talkers))
            while not bob.paths.kind(ALICE.peer_id):  # noqa: ASYNC110 (nobody tells of that)
                await asyncio.sleep(0.001)
        else:
            await talkers[0].talk(9)
            await talkers[1].heard_all(talkers[0].said)
        for _ in range(rng.randint(1, 2)):
            talks = [asyncio.create_task(one.talk(rng.randint(0, 150))) for one in talkers]
            await asyncio.sleep(rng.choice((0, 0.002, 0.01, 0.03)))
            calls = [bob.paths.call(ALICE.peer_id, alice.contact.addresses)]
            if rng.random() < 0.3:  # at the same time
                calls.append(alice.paths.call(BOB.peer_id, bob.contact.addresses))
            assert any(await asyncio.gather(*calls))
            await asyncio.gather(*talks)
            assert bob.paths.kind(ALICE.peer_id) is LinkKind.REVERSED
        await talkers[0].heard_all(talkers[1].said)
        await talkers[1].heard_all(talkers[0].said)
        async with asyncio.timeout(PATIENCE_S):
            for detour in (out, back):
                while detour.num_open:
                    detour.news.clear()
                    await detour.news.wait()
        assert alice.paths.kind(BOB.peer_id) is LinkKind.REVERSED
        for one in talkers:
            one.close()
        await alice.close()
        await bob.close()


@pytest.mark.parametrize("seed", range(5))
async def test_a_straight_link_takes_over_while_both_talk(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(Links, "_follow", lambda *_: None)  # the detours are none of their addresses
    await play(seed)


async def test_a_link_that_a_peer_goes_on_to_use_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alice has lost the better one just when she is asked to leave the other."""
    monkeypatch.setattr(Links, "_follow", lambda *_: None)
    monkeypatch.setattr(moves, "MOVE_S", 0.05)
    alice = await ZmqTransport.open(ALICE, listen="tcp://127.0.0.1:0")
    bob = await ZmqTransport.open(BOB, listen="tcp://127.0.0.1:0")
    alice.introduce(Contact(BOB.public_key, bob.contact.addresses))
    alice.send(BOB.peer_id, [b"", b"hello"], Priority.CONTROL)
    await bob.receive()
    used = alice._links.book.get(BOB.peer_id).used[False]
    monkeypatch.setattr(alice._links.moves, "leave", lambda *_: None)
    assert await bob.paths.call(ALICE.peer_id, alice.contact.addresses)
    bob.send(ALICE.peer_id, [b"", b"over the better one"], Priority.CONTROL)
    await asyncio.wait_for(alice.receive(), PATIENCE_S)
    await asyncio.sleep(2 * moves.MOVE_S)  # when it would have been closed
    alice.send(BOB.peer_id, [b"", b"as before"], Priority.CONTROL)
    assert await asyncio.wait_for(bob.receive(), PATIENCE_S) == (ALICE.peer_id, [b"", b"as before"])
    assert not used.closed
    await alice.close()
    await bob.close()


async def test_a_link_that_its_peer_does_not_leave_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it goes over the better one then."""
    monkeypatch.setattr(Links, "_follow", lambda *_: None)
    monkeypatch.setattr(moves, "MOVE_S", 0.01)
    alice = await ZmqTransport.open(ALICE, listen="tcp://127.0.0.1:0")
    bob = await ZmqTransport.open(BOB, listen="tcp://127.0.0.1:0")
    monkeypatch.setattr(alice._links.moves, "heard", lambda peer, link, frames: len(frames) == 1)
    alice.introduce(Contact(BOB.public_key, bob.contact.addresses))
    alice.send(BOB.peer_id, [b"", b"hello"], Priority.CONTROL)
    await bob.receive()
    assert await bob.paths.call(ALICE.peer_id, alice.contact.addresses)
    bob.send(ALICE.peer_id, [b"", b"over the better one"], Priority.CONTROL)
    assert await asyncio.wait_for(alice.receive(), PATIENCE_S) == (BOB.peer_id, [b"", b"over the better one"])
    await alice.close()
    await bob.close()


@pytest.mark.parametrize("seed", range(3))
async def test_a_lane_that_gets_its_own_link_does_not_overtake_what_went_over_the_other_ones(seed: int) -> None:
    """Alice cannot be called, and has opened a lane by a slow way. Bob answers all over it; then she opens the other
    one, by a fast way."""
    rng = Random(seed)
    slow = Detour(rng)
    bob = await ZmqTransport.open(BOB, listen="tcp://127.0.0.1:0")
    alice = await ZmqTransport.open(ALICE)
    (slow.address,) = bob.contact.addresses
    async with slow.begin() as address:
        alice.introduce(Contact(BOB.public_key, (address,)))
        talkers = Talker(alice, BOB.peer_id, rng), Talker(bob, ALICE.peer_id, rng)
        first = rng.choice((Priority.CONTROL, Priority.BULK))
        alice.send(BOB.peer_id, [bytes([first]), bytes(4), b""], first)
        talkers[0].said[first] += 1
        await talkers[1].heard_all(talkers[0].said)
        talks = asyncio.create_task(talkers[1].talk(200))
        await asyncio.sleep(0.005)
        alice._links.book.get(BOB.peer_id).reached.clear()
        alice.introduce(bob.contact)
        await talkers[0].talk(9)
        await talks
        await talkers[0].heard_all(talkers[1].said)
        await talkers[1].heard_all(talkers[0].said)
        assert not bob._links.moves._marks and len(alice._links._dealers) == 2
        for one in talkers:
            one.close()
        await alice.close()
        await bob.close()
