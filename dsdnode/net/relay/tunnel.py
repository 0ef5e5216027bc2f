"""The dialling end of a circuit: an address on this machine that leads to a peer, for one connection of our own.

Whoever else on this machine finds the port first gets nothing: a connection that is none of this process is dropped.
Where the system does not tell whose it is, the first one is taken. Then a stranger on this machine may use up the
circuit under a key of his own: CURVE is between him and the peer, so he learns nothing and is not taken for us.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.door import has_connection
from dsdnode.net.relay import frames
from dsdnode.net.relay.book import Limits
from dsdnode.net.relay.calls import Call, Splice, granted
from dsdnode.net.relay.connection import Connection
from dsdnode.wire.messages import Contact

OPEN_S = Limits.preamble_s + Limits.answer_s
"""For the relay, and for the callee to call back."""
COME_S = 5.0
"""For our own connection: the circuit stands, and is held for nobody else."""
MAX_STRANGERS = 8
"""Looking whose a connection is goes through all that we have: after so many that are not ours the tunnel ends."""


class Tunnel:
    """Made by `open` in a running loop. `over`: the circuit has ended, or was never used."""

    def __init__(self, far: Connection) -> None:
        self._far = far
        self._loop = asyncio.get_running_loop()
        self._near: asyncio.Future[Connection] = self._loop.create_future()
        self._server: asyncio.Server | None = None
        self._num_strangers = 0
        self._door = 0

    @classmethod
    async def open(
        cls,
        identity: Identity,
        relay: Contact,
        callee: bytes,
        *,
        swarm_keys: Sequence[bytes] = (),
        timeout_s: float = OPEN_S,
    ) -> Tunnel:
        """A circuit to the peer of this id, which has a reservation at the relay. Raises PeerUnavailable, in words."""
        try:
            async with asyncio.timeout(timeout_s):
                call, challenge = await Call.greeted(relay)
                asked = frames.dial(identity, swarm_keys, relay.public_key, challenge.challenge, callee)
                tunnel = cls(await granted(call, asked))
        except TimeoutError:
            raise PeerUnavailable("the relay does not answer") from None
        try:
            await tunnel._listen()
        except OSError as error:
            tunnel._far.drop()
            raise PeerUnavailable(f"no circuit can be taken: {error.strerror or error}") from error
        return tunnel

    async def _listen(self) -> None:
        server = await self._loop.create_server(lambda: Connection(self), "127.0.0.1", 0, backlog=1)
        self._door = int(server.sockets[0].getsockname()[1])
        self.over: asyncio.Task[None] = self._loop.create_task(self._serve())
        self._server = server
        self.over.add_done_callback(lambda over: self._end())  # a task that is cancelled at once never runs

    @property
    def address(self) -> str:
        """What the one connection is to be made to."""
        return f"tcp://127.0.0.1:{self._door}"

    async def close(self) -> None:
        self.over.cancel()
        await asyncio.gather(self.over, return_exceptions=True)

    async def _serve(self) -> None:
        with contextlib.suppress(TimeoutError, PeerUnavailable):
            async with asyncio.timeout(COME_S):
                near = await self._near
            self._stop_listening()
            await Splice(self._far, near).over

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()

    def _end(self) -> None:
        self._stop_listening()
        self._far.drop()
        if self._near.done() and not self._near.cancelled() and self._near.exception() is None:
            self._near.result().drop()

    # --- implements Owner: of what comes to our door

    def arrived(self, connection: Connection) -> None:
        connection.hold(True)
        if self._near.done() or self._is_strangers(connection):
            connection.drop()
            self._num_strangers += 1
            if self._num_strangers == MAX_STRANGERS and not self._near.done():
                self._near.set_exception(PeerUnavailable("others of this machine keep us from our own circuit"))
            return
        self._near.set_result(connection)

    def _is_strangers(self, connection: Connection) -> bool:
        return has_connection(("127.0.0.1", connection.port), ("127.0.0.1", self._door)) is False

    def heard(self, connection: Connection, body: bytes) -> None:
        """It is held until it is joined."""

    def carried(self, connection: Connection, num_bytes: int) -> None:
        """Nothing is joined to it yet."""

    def lost(self, connection: Connection) -> None:
        """Before it was joined: then the splice ends at once."""
