"""A peer that nobody can dial: it has a reservation at a relay, calls back for circuits, and takes them to its router.

For the router such a circuit is a connection from this machine. Who calls in truth says the relay, and is told before
the router sees it: by the local port that the circuit comes from.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import structlog

from dsdnode.accounts import Credits
from dsdnode.errors import PeerMisbehaved, PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.places import is_plain_ip
from dsdnode.net.relay import frames
from dsdnode.net.relay.book import Limits
from dsdnode.net.relay.calls import Call, Splice, granted, held
from dsdnode.net.relay.connection import Connection
from dsdnode.net.relay.frames import Accept, Incoming, Ping, Pong, Reserved
from dsdnode.wire.messages import Contact

MAX_MISSED = 2
"""Pings in a row without an answer: then the relay is dead."""
MAX_FRAMES = 256
"""From one ping to the next: a relay that says more than that of itself is left."""
MAX_TAKEN = 72
"""Circuits of one relay at once, those that are called back for included, whatever it says. A few more than it has of
one callee: one that it has ended for another's sake is still there for a moment."""
CALLS_BURST, CALLS_PER_S = Limits.calls_burst, Limits.calls_per_s
"""That a relay may tell of. All of them come to the router from 127.0.0.1, which it gives 32 a second (zap.py): so with
three relays that lie there is still something left for who is there in truth."""

log = structlog.get_logger(__name__)


class Callee(Protocol):
    """Whom an agent works for."""

    def reserved(self, relay: Contact, terms: Reserved) -> None:
        """We can be dialled by way of this relay."""

    def unreserved(self, relay: Contact, why: str) -> None:
        """Not any more, or not yet. The agent tries again."""

    def admits(self, host: str) -> bool:
        """May somebody from this IP address come in now? The relay says that it is there; nothing else proves it."""

    def spliced(self, port: int, host: str) -> None:
        """Whoever comes to the router from this port of ours comes from `host`; it has not come yet."""

    def parted(self, port: int) -> None:
        """It is over: the port will be another's."""


@dataclass(frozen=True, slots=True)
class Patience:
    ping_s: float = 20.0
    """NATs forget a connection without traffic after minutes."""
    answer_s: float = Limits.answer_s
    """For the relay's words, and for our calling back."""
    pause_s: float = 1.0
    """Before it is tried again; each time twice as long, and up to half less by chance."""
    most_pause_s: float = 60.0


class Agent:
    """Keeps one reservation, from `start` to `close`."""

    def __init__(
        self,
        callee: Callee,
        identity: Identity,
        relay: Contact,
        router: tuple[str, int],
        rng: Random,
        *,
        swarm_keys: Sequence[bytes] = (),
        patience: Patience | None = None,
    ) -> None:
        """`router`: IP address and port where our own one listens on this machine. `swarm_keys`: derived."""
        self._callee = callee
        self._identity = identity
        self._relay = relay
        self._router = router
        self._rng = rng
        self._swarm_keys = tuple(swarm_keys)
        self._patience = patience or Patience()
        self._loop = asyncio.get_running_loop()
        self._circuits: dict[asyncio.Task[None], None] = {}
        self._calls = Credits(CALLS_BURST, CALLS_PER_S)
        self._runs: dict[asyncio.Task[None], None] = {}
        """The last one, and those that are just ending."""
        self.local = ""
        """The IP address that its connection is made from ("": there is none)."""

    def start(self) -> None:
        run = self._loop.create_task(self._run())
        self._runs[run] = None
        run.add_done_callback(self._runs.pop)

    def begin_again(self) -> None:
        """This machine has moved, and nothing comes over its old connections any more: reserve anew, now."""
        self._end()
        self.local = ""
        self.start()

    async def close(self) -> None:
        """The reservation and all circuits end."""
        await asyncio.gather(*self._end(), return_exceptions=True)

    def _end(self) -> list[asyncio.Task[None]]:
        tasks = [*self._circuits, *self._runs]
        for task in tasks:
            task.cancel()
        return tasks

    async def _run(self) -> None:
        patience, pause_s = self._patience, self._patience.pause_s
        while True:
            since_s = self._loop.time()
            why = await self._hold()
            self._callee.unreserved(self._relay, why)
            log.debug("no reservation", relay=self._relay.addresses, reason=why)
            if self._loop.time() - since_s > patience.most_pause_s:
                pause_s = patience.pause_s
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, patience.most_pause_s)

    # --- the reservation

    async def _hold(self) -> str:
        """Reserve, and stay as long as that goes. Why it went no longer."""
        call: Call | None = None
        try:
            async with asyncio.timeout(self._patience.answer_s):
                call, challenge = await Call.greeted(self._relay)
                self.local = call.connection.local
                ask = frames.reserve(self._identity, self._swarm_keys, self._relay.public_key, challenge.challenge)
                call.connection.send(ask)
                terms = await call.hear(Reserved)
            self._callee.reserved(self._relay, terms)
            await self._stay(call, ask, terms)
        except (PeerUnavailable, PeerMisbehaved) as error:
            return str(error)
        except TimeoutError:
            return "the relay does not answer"
        finally:
            if call is not None:
                call.connection.drop()
        return "the relay does not answer our pings"

    async def _stay(self, call: Call, ask: frames.Reserve, terms: Reserved) -> None:
        """Until too many pings in a row were not answered; half-way through a lease the next one is asked for."""
        renew_s = self._loop.time() + terms.lease_s / 2
        num_missed = 0
        while num_missed < MAX_MISSED:
            num_missed += 1
            if self._loop.time() >= renew_s:
                renew_s += terms.lease_s / 2
                call.connection.send(ask)
            call.connection.send(Ping())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience.ping_s):
                    for _ in range(MAX_FRAMES):
                        frame = await call.hear_any()
                        if isinstance(frame, Incoming):
                            self._called(frame)
                        num_missed = 0 if isinstance(frame, Pong) else num_missed
                    raise PeerMisbehaved(f"the relay said more than {MAX_FRAMES} things between two pings")

    # --- circuits

    def _called(self, incoming: Incoming) -> None:
        if not is_plain_ip(incoming.host) or len(self._circuits) >= MAX_TAKEN:
            return
        if not self._calls.spend(b"", self._loop.time()) or not self._callee.admits(incoming.host):
            return
        task = self._loop.create_task(self._take(incoming))
        self._circuits[task] = None
        task.add_done_callback(self._circuits.pop)

    async def _take(self, incoming: Incoming) -> None:
        """From our call back to the end of the circuit."""
        signature = self._identity.sign(frames.to_accept(self._relay.public_key, incoming.token))
        far: Connection | None = None
        try:
            async with asyncio.timeout(self._patience.answer_s):
                call = await Call.open(self._relay)
                far = await granted(call, Accept(incoming.token, signature))
            await self._splice(far, incoming.host)
        except (PeerUnavailable, PeerMisbehaved, OSError, TimeoutError) as error:
            log.debug("a circuit was not taken", reason=str(error))
        finally:
            if far is not None:
                far.drop()

    async def _splice(self, far: Connection, host: str) -> None:
        """Raises OSError where the router does not listen, or no descriptor is left."""
        family = socket.AF_INET6 if ":" in self._router[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as own:
            own.setblocking(False)
            own.bind((self._router[0], 0))
            port = int(own.getsockname()[1])
            self._callee.spliced(port, host)
            try:
                async with asyncio.timeout(self._patience.answer_s):
                    await self._loop.sock_connect(own, self._router)
                await self._carry(far, own)
            finally:
                self._callee.parted(port)

    async def _carry(self, far: Connection, own: socket.socket) -> None:
        splice = Splice(far, await held(own))
        try:
            await splice.over
        finally:
            splice.close()
