"""Verdicts never wait behind hidden states: two lanes a peer, seen through a link far too slow for the blocks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from dsdnode.addresses import parse_address
from dsdnode.identity import Identity
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.wire.messages import Block, Closed, Contact, Message, Nack, Verdict

Start = Callable[..., Awaitable[Rpc]]
ALICE, BOB = (Identity(name * 32) for name in (b"a", b"b"))
SESSION = bytes(16)
BLOCK = Block(SESSION, 0, 1, 0, 0, 0, 4, 0, 0)
URGENT: tuple[Message, ...] = (Verdict(SESSION, 0, 1, 4, 7), Closed(SESSION, 0, 1, 4, 7), Nack(SESSION, 0, 1, 0, 4))
STATES = bytes(1 << 20)
NUM_BLOCKS = 8
TRICKLE_BYTES = 256 * 1024
"""Greetings and everything urgent are less, one block is more."""


@dataclass
class SlowRelay:
    """Everybody's way to one address. Of each connection it lets a trickle through, the rest when `open` is set."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """A connection has had its trickle and wants to say more."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def before(self, address: str) -> AsyncIterator[str]:
        """The address to dial in its place."""
        host, port = parse_address(address)

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(host, port)
            for source, target in ((reader, far_writer), (far_reader, writer)):
                self._tasks.add(asyncio.create_task(self._carry(source, target)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        try:
            yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        num_bytes = 0
        with contextlib.suppress(OSError), contextlib.closing(target):
            while piece := await source.read(1 << 14):
                num_bytes += len(piece)
                if num_bytes > TRICKLE_BYTES:
                    self.held.set()
                    await self.open.wait()
                target.write(piece)
                await target.drain()


class Ear:
    """What a peer hears, in order."""

    def __init__(self, rpc: Rpc) -> None:
        self.heard: list[str] = []
        self._more = asyncio.Event()
        for kind in (Block, Verdict, Closed, Nack):
            rpc.on_notice(kind, self._hear)

    def _hear(self, peer: bytes, message: Message, buffers: list[bytes]) -> None:
        self.heard.append(type(message).__name__)
        self._more.set()

    async def until(self, num: int) -> list[str]:
        async with asyncio.timeout(20):
            while len(self.heard) < num:
                self._more.clear()
                await self._more.wait()
        return self.heard[:num]


def say_all(speaker: Rpc, listener: Identity) -> None:
    """Eight megabytes of hidden states, then what is urgent."""
    for _ in range(NUM_BLOCKS):
        speaker.notify(listener.peer_id, BLOCK, [b"", b"", STATES], priority=Priority.VERIFY)
    for message in URGENT:
        speaker.notify(listener.peer_id, message)


async def connect(alice: Rpc, address: str) -> None:
    """Before that, messages would wait in alice's own queue, which is ordered by priority."""
    alice.transport.introduce(Contact(BOB.public_key, (address,)))
    for priority in (Priority.CONTROL, Priority.VERIFY):
        await alice.ping(BOB.peer_id, timeout_s=5, priority=priority)


async def check(speaker: Rpc, listener: Rpc, name: Identity, relay: SlowRelay) -> None:
    ear = Ear(listener)
    say_all(speaker, name)
    urgent = [type(message).__name__ for message in URGENT]
    assert await ear.until(len(URGENT)) == urgent  # nothing else comes before the relay opens
    await relay.held.wait()
    relay.open.set()
    assert await ear.until(len(URGENT) + NUM_BLOCKS) == urgent + ["Block"] * NUM_BLOCKS


async def test_what_alice_sends_over_connections_that_she_made(start: Start) -> None:
    alice, bob, relay = await start(b"a"), await start(b"b"), SlowRelay()
    async with relay.before(bob.transport.contact.addresses[0]) as address:
        await connect(alice, address)
        await check(alice, bob, BOB, relay)


async def test_what_bob_sends_over_connections_that_alice_made(start: Start) -> None:
    alice, bob, relay = await start(b"a", listen=None), await start(b"b"), SlowRelay()
    async with relay.before(bob.transport.contact.addresses[0]) as address:
        await connect(alice, address)
        await check(bob, alice, ALICE, relay)
