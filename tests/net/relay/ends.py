"""Whom a relay meets in tests: alice, who calls bob by way of rose's relay, and strangers with a bare socket."""

from __future__ import annotations

import asyncio
import os

from dsdnode.errors import PeerMisbehaved
from dsdnode.identity import Identity
from dsdnode.net.relay import frames
from dsdnode.net.relay.agent import Agent
from dsdnode.net.relay.frames import Accept, Challenge, Frame, Greet, Incoming, No, Ok, Ping, Pong, Reserved
from dsdnode.net.relay.server import Relay
from dsdnode.wire.messages import Contact

ALICE, BOB, CAROL, MALLORY = (Identity(name * 32) for name in (b"a", b"b", b"c", b"m"))
ROSE = Identity(os.getpid().to_bytes(32, "big"))
"""Another one in each process: relay and callee say at which port he is called, and tests run side by side."""
PATIENCE_S = 10.0
"""Of a test that would fail then; nothing takes so long."""


def contact_of(relay: Relay, identity: Identity = ROSE) -> Contact:
    return Contact(identity.public_key, (f"tcp://127.0.0.1:{relay.port}",))


class Callee:
    """Whom an agent works for: it notes all that it is told."""

    def __init__(self) -> None:
        self.agent: Agent
        self.terms: Reserved | None = None
        self.why = ""
        self.hosts: dict[int, str] = {}
        """Callers, by the ports of their splices, while these last."""
        self.num_spliced = 0
        self.asked: list[str] = []
        self.admitting = True
        self._news = asyncio.Event()

    async def next_news(self) -> None:
        """Of the reservation."""
        async with asyncio.timeout(PATIENCE_S):
            await self._news.wait()
        self._news.clear()

    def reserved(self, relay: Contact, terms: Reserved) -> None:
        self.terms, self.why = terms, ""
        self._news.set()

    def unreserved(self, relay: Contact, why: str) -> None:
        self.terms, self.why = None, why
        self._news.set()

    def admits(self, host: str) -> bool:
        self.asked.append(host)
        return self.admitting

    def spliced(self, port: int, host: str) -> None:
        self.num_spliced += 1
        self.hosts[port] = host

    def parted(self, port: int) -> None:
        del self.hosts[port]


class Bare:
    """A bare connection to a relay, or to anybody."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.called = 0
        """Where who has reserved by this connection is called."""

    @classmethod
    async def open(cls, port: int) -> Bare:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def say(self, *sent: Frame | bytes) -> None:
        self.writer.write(b"".join(one if isinstance(one, bytes) else frames.pack(one) for one in sent))

    async def hear(self) -> Frame | None:
        """The next frame; None: the connection has ended, without another word."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                head = await self.reader.readexactly(frames.HEAD_BYTES)
                body = await self.reader.readexactly(frames.body_bytes(head))
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                assert not getattr(error, "partial", b""), "half a frame"
                return None
        return frames.unpack(body, Challenge, Reserved, Incoming, Ok, No, Pong)

    async def read(self, num_bytes: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(num_bytes)

    async def rest(self) -> bytes:
        """Whatever comes until the connection ends."""
        got = b""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while data := await self.reader.read(1 << 16):
                    got += data
            except ConnectionError:
                pass
        return got

    async def challenge(self) -> bytes:
        self.say(Greet(frames.RELAY_VERSION))
        answer = await self.hear()
        assert isinstance(answer, Challenge)
        return answer.challenge

    async def reserve(self, identity: Identity, *swarm_keys: bytes) -> Frame | None:
        self.say(frames.reserve(identity, swarm_keys, ROSE.public_key, await self.challenge()))
        terms = await self.hear()
        self.called = terms.port if isinstance(terms, Reserved) else 0
        return terms

    def accept(self, identity: Identity, token: bytes) -> None:
        self.say(Accept(token, identity.sign(frames.to_accept(ROSE.public_key, token))))

    def close(self) -> None:
        self.writer.close()


async def answers(control: Bare) -> bool:
    """Does a reservation stand?"""
    try:
        control.say(Ping())
        return isinstance(await control.hear(), Pong)
    except PeerMisbehaved:
        return False


async def circuit(port: int, callee: Identity, control: Bare) -> tuple[Bare, Bare]:
    """Both ends of one that stands; `control`: the callee's reservation."""
    near = await Bare.open(control.called)
    incoming = await control.hear()
    assert isinstance(incoming, Incoming)
    far = await Bare.open(port)
    far.accept(callee, incoming.token)
    assert await far.hear() == Ok()
    return near, far
