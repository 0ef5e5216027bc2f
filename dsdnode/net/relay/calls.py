"""Calls of a relay, by a peer that cannot be dialled; and how one is joined to another connection."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TypeVar

from dsdnode.addresses import parse_address
from dsdnode.errors import PeerMisbehaved, PeerUnavailable
from dsdnode.net.relay import frames
from dsdnode.net.relay.connection import Connection
from dsdnode.net.relay.frames import Challenge, Frame, Greet, Incoming, No, Ok, Pong, Reserved
from dsdnode.wire.codec import printable
from dsdnode.wire.messages import Contact

MAX_HEARD = 32
"""Frames that nobody has looked at yet: two for each circuit that a callee may have."""
_ANSWERS = (Challenge, Reserved, Incoming, Ok, No, Pong)

T = TypeVar("T", bound=Frame)


class Call:
    """A connection of ours to a relay. Its frames are heard in order; raises PeerUnavailable where it has ended."""

    def __init__(self, address: str) -> None:
        self.connection = Connection(self)
        self._name = f"the relay at {address}"
        self._frames: deque[Frame] = deque()
        self._news = asyncio.Event()
        self._why = f"{self._name} closed the connection"

    @classmethod
    async def open(cls, relay: Contact) -> Call:
        """At its first address that answers. Whoever calls this bounds the time, and has seen that it may be called."""
        why = "it has no address"
        for address in relay.addresses:
            call = cls(address)
            try:
                await asyncio.get_running_loop().create_connection(call._begin, *parse_address(address))
                return call
            except (OSError, ValueError) as error:
                why = f"{call._name} cannot be reached: {error}"
        raise PeerUnavailable(why)

    def _begin(self) -> Connection:
        return self.connection

    @classmethod
    async def greeted(cls, relay: Contact) -> tuple[Call, Challenge]:
        call = await cls.open(relay)
        try:
            call.connection.send(Greet(frames.RELAY_VERSION))
            return call, await call.hear(Challenge)
        except BaseException:
            call.connection.drop()
            raise

    async def hear(self, kind: type[T]) -> T:
        """The next frame, which must be of this kind. A refusal is raised as PeerUnavailable, in the relay's words."""
        frame = await self.hear_any()
        if not isinstance(frame, kind):
            self.connection.drop()
            raise PeerUnavailable(f"{self._name} answered by a {type(frame).__name__}")
        return frame

    async def hear_any(self) -> Frame:
        while not self._frames:
            if self.connection.closed:
                raise PeerUnavailable(self._why)
            self._news.clear()
            await self._news.wait()
        frame = self._frames.popleft()
        if isinstance(frame, No):
            self.connection.drop()
            raise PeerUnavailable(f"{self._name} refused: {printable(frame.reason)}")
        return frame

    # --- implements Owner

    def arrived(self, connection: Connection) -> None:
        """We have called."""

    def heard(self, connection: Connection, body: bytes) -> None:
        try:
            frame = frames.unpack(body, *_ANSWERS)
            if len(self._frames) >= MAX_HEARD:
                raise PeerMisbehaved("it says more than can be heard")
        except PeerMisbehaved as error:
            self._why = f"{self._name} is none: {error}"
            return connection.drop()
        if isinstance(frame, Ok):
            connection.hold(True)  # what follows is not the relay's
        self._frames.append(frame)
        self._news.set()

    def carried(self, connection: Connection, num_bytes: int) -> None:
        """Nothing is joined to it yet."""

    def lost(self, connection: Connection) -> None:
        self._news.set()


class Splice:
    """Two connections, joined for good. `over`: both have ended."""

    def __init__(self, one: Connection, two: Connection) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ends = one, two
        for end in self._ends:
            end.owner = self
        one.join(two)
        for end in self._ends:
            end.hold(False)
        self._look()

    def close(self) -> None:
        for end in self._ends:
            end.drop()

    def _look(self) -> None:
        if all(end.closed for end in self._ends) and not self.over.done():
            self.over.set_result(None)

    # --- implements Owner

    def arrived(self, connection: Connection) -> None:
        """Long ago."""

    def heard(self, connection: Connection, body: bytes) -> None:
        """What follows is bytes."""

    def carried(self, connection: Connection, num_bytes: int) -> None:
        """As much as comes."""

    def lost(self, connection: Connection) -> None:
        self._look()


async def granted(call: Call, asked: Frame) -> Connection:
    """The circuit that was asked for; what comes over it waits to be joined."""
    try:
        call.connection.send(asked)
        await call.hear(Ok)
    except BaseException:
        call.connection.drop()
        raise
    return call.connection


async def held(own: socket.socket) -> Connection:
    """A connected socket of ours, as a connection; what comes over it waits to be joined."""
    connection = Call("a connection of ours").connection
    connection.hold(True)
    await asyncio.get_running_loop().create_connection(lambda: connection, sock=own)
    return connection
