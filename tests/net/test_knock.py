"""Mallory has alice call her at doors that open, and where nobody says a word: what she holds up is her own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import zmq
from zmq.utils import z85

from dsdnode.identity import Identity
from dsdnode.net import knock
from dsdnode.net.dials import PER_TEACHER_AND_TARGET
from dsdnode.net.knock import Knocks
from dsdnode.net.rpc import Rpc
from dsdnode.net.zmq import CLOSE_TIMEOUT_S
from dsdnode.wire.messages import Contact

Start = Callable[..., Awaitable[Rpc]]
ALICE, BOB, CAROL, MALLORY = (Identity(name * 32) for name in (b"a", b"b", b"c", b"m"))
NUM_KNOCKS = 4


@contextmanager
def tar_pit() -> Iterator[str]:
    """Whoever is there proves mallory's key, and answers no greeting."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.curve_server, router.curve_secretkey = True, z85.encode(MALLORY.curve_secret_key)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    yield f"tcp://127.0.0.1:{port}"
    context.destroy(0)


class Mute:
    """Doors that take connections, and say nothing."""

    def __init__(self) -> None:
        self.called = asyncio.Semaphore(0)
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def opens(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        for writer in self._writers:
            writer.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.called.release()


async def knows(alice: Rpc, *others: Rpc) -> None:
    for other in others:
        other.transport.introduce(alice.transport.contact)
        await other.ping(ALICE.peer_id, timeout_s=5)


async def test_who_proves_his_key_and_says_nothing_pays_for_the_calls(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsdnode.net.call.ATTEMPT_TIMEOUT_S", 0.3)
    alice, carol = await start(b"a"), await start(b"c")
    await knows(alice, carol)
    with tar_pit() as where:
        alice.transport.introduce(Contact(MALLORY.public_key, (where,)), CAROL.peer_id)
        called = [await alice.transport.reach(MALLORY.peer_id, where) for _ in range(PER_TEACHER_AND_TARGET + 1)]
    assert called == [True] * PER_TEACHER_AND_TARGET + [False]


async def test_bob_is_called_while_mallory_holds_all_the_calls_that_she_can(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """She waits for more of them, and was there before him."""
    monkeypatch.setattr(knock, "MAX_KNOCKS", NUM_KNOCKS)
    monkeypatch.setattr(knock, "LASTING_S", 0.05)
    alice, bob, carol, mallory = [await start(name) for name in (b"a", b"b", b"c", b"m")]
    await knows(alice, carol, mallory)
    doors, visit = Mute(), alice.transport.visit
    async with doors.opens() as one, doors.opens() as other, doors.opens() as third:
        claimed = Contact(MALLORY.public_key, (one,)), Contact(MALLORY.public_key, (other, third))
        hers = [asyncio.create_task(visit(claimed[number % 2], MALLORY.peer_id)) for number in range(2 * NUM_KNOCKS)]
        try:
            async with asyncio.timeout(4):  # a call of hers takes 5 s
                for _ in range(NUM_KNOCKS):
                    await doors.called.acquire()
                await visit(bob.transport.contact, CAROL.peer_id)
            assert sum(not task.done() for task in hers) >= NUM_KNOCKS - 1
        finally:
            for task in hers:
                task.cancel()
            await asyncio.gather(*hers, return_exceptions=True)


@pytest.mark.parametrize("is_late", [False, True], ids=["a call under way", "one that is given up only then"])
async def test_who_looks_for_somebody_ends_in_no_time(
    start: Start, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """Nobody waits for a call that is made for its own sake, and libzmq ends once all sockets are closed."""
    alice, called = await start(b"a"), asyncio.Event()
    if is_late:
        monkeypatch.setattr(Knocks, "close", lambda self: None)
        monkeypatch.setattr("dsdnode.net.call.ATTEMPT_TIMEOUT_S", 0.2)
    mute = await asyncio.start_server(lambda reader, writer: called.set(), "127.0.0.1", 0)
    async with mute, asyncio.timeout(CLOSE_TIMEOUT_S - 1):
        where = {f"tcp://127.0.0.1:{mute.sockets[0].getsockname()[1]}": None}
        looking = asyncio.create_task(alice.transport.look_for_twin(where))
        await called.wait()
        await alice.close()
        await looking
