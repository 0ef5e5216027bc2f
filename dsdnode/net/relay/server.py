"""The relay: strangers' connections, and circuits between them whose bytes it cannot read. book.py decides.

A callee says on the relay's own port that it wants to be called, and gets another port for it. Whoever connects to that
one is its caller, and need not know that there is a relay: nothing of what he says is read before his circuit stands.
Garbage, a wrong signature and a token that is none are closed without a word; a request in good order that is not
granted is told why.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random, SystemRandom

import structlog

from dsdnode.errors import BadInput, Overloaded, PeerMisbehaved
from dsdnode.identity import Identity, short_id, verify
from dsdnode.net.handshake import derive_swarm_key
from dsdnode.net.relay import frames
from dsdnode.net.relay.book import Book, Circuit, Limits, Reservation, limits_for
from dsdnode.net.relay.connection import Connection
from dsdnode.net.relay.frames import Accept, Challenge, Greet, Incoming, No, Ok, Ping, Pong, Reserve

TICK_S = 0.01
"""So often turns are given while a rate holds somebody up."""
SWEEP_S = 1.0
FIRST_PORT, NUM_PORTS = 16384, 16384
"""Of reservations: below those that systems give to whoever calls."""
QUEUE = 64
"""Connections to a port that the loop has not looked at yet."""
CLOSE_S = 2.0
ENOUGH_DESCRIPTORS = 1 << 20
"""Where the system has no limit."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Guest:
    """Who has not been served yet. `challenge`: what it is to sign, once it has greeted."""

    timer: asyncio.TimerHandle
    challenge: bytes = b""


@dataclass(slots=True)
class _Ends:
    """Of a circuit; it begins as a call to be answered. `timer` ends it if it is not."""

    caller: Connection
    timer: asyncio.TimerHandle
    callee: Connection | None = None


class Relay:
    """Made by `open` in a running loop."""

    def __init__(self, identity: Identity, swarm_keys: Sequence[bytes], limits: Limits, rng: Random) -> None:
        self._identity = identity
        self._swarm_keys = tuple(swarm_keys)
        self._limits = limits
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self.book = Book(limits, rng, self._loop.time())
        self._host = ""
        self.port = 0
        self._listening: dict[int, asyncio.Task[asyncio.Server]] = {}
        """By port: our own, and those of reservations."""
        self._called: dict[int, Reservation] = {}
        """Whose port it is."""
        self._closed = False
        self._connections: dict[Connection, None] = {}
        self._empty = asyncio.Event()
        self._guests: dict[Connection, _Guest] = {}
        self._reservations: dict[Connection, Reservation] = {}
        self._controls: dict[Reservation, Connection] = {}
        self._circuits: dict[Connection, Circuit] = {}
        self._ends: dict[Circuit, _Ends] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    @classmethod
    async def open(
        cls,
        identity: Identity,
        host: str,
        port: int,
        *,
        swarm_keys: Sequence[str] = (),
        limits: Limits | None = None,
        rng: Random | None = None,
    ) -> Relay:
        """Listens there, port 0 for any free one. Raises BadInput, in words, when it cannot.

        Unless told otherwise it has the usual limits, as far as this process may have descriptors.
        """
        limits = limits or limits_of()
        if limits.circuits < 1:
            raise BadInput("a relay needs more open files than this process may have: raise the limit (ulimit -n 2048)")
        relay = cls(identity, tuple(map(derive_swarm_key, swarm_keys)), limits, rng or SystemRandom())
        try:
            relay._host, relay.port = host, relay._listen(host, port)
        except OSError as error:
            await relay.close()
            raise BadInput(f"cannot relay on {host}, port {port}: {error.strerror or error}") from error
        return relay

    def _listen(self, host: str, port: int) -> int:
        """The port: 0 is any free one. `::` listens for IPv4, too, and where there is no IPv6, for that alone. Raises
        OSError."""
        both = host == "::" and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = socket.create_server((host, port), family=family, backlog=QUEUE, dualstack_ipv6=both)
        except OSError:
            if host != "::":
                raise
            listening = socket.create_server(("0.0.0.0", port), backlog=QUEUE)
        port = int(listening.getsockname()[1])
        serving = self._loop.create_server(lambda: Connection(self), sock=listening, backlog=QUEUE)
        self._listening[port] = self._loop.create_task(serving)
        return port

    def _listen_for(self, public_key: bytes) -> int:
        """Whoever has reserved once, and does so again, from another network or after our own end, is called where it
        was called before, if nobody else has that port. Raises OSError."""
        with contextlib.suppress(OSError):
            return self._listen(self._host, usual_port(self._identity.public_key, public_key))
        return self._listen(self._host, 0)

    def _stop_listening(self, port: int) -> None:
        """At once, where that can be: it may be listened on again."""
        listening = self._listening.pop(port, None)
        if listening is not None and listening.done():
            listening.result().close()
        elif listening is not None:
            listening.add_done_callback(lambda done: done.result().close())

    async def close(self) -> None:
        """Ends every circuit. Bounded in time."""
        self._closed = True
        for timer in (self._ticker, self._sweeper):
            if timer is not None:
                timer.cancel()
        for port in list(self._listening):
            self._stop_listening(port)
        for connection in list(self._connections):
            connection.drop()
        if not self._connections:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._empty.wait()
        except TimeoutError:
            log.warning("connections of the relay do not end")

    # --- guests

    def arrived(self, connection: Connection) -> None:
        self._connections[connection] = None
        reservation = self._called.get(connection.local_port)
        if self._closed or (reservation is None and connection.local_port != self.port):  # it has just ended
            return connection.drop()
        if reservation is not None:
            return self._dialled(connection, reservation)
        try:
            other = self.book.arrived(self._loop.time(), connection, connection.host)
        except Overloaded:
            return connection.drop()
        self._guests[connection] = _Guest(self._loop.call_later(self._limits.preamble_s, connection.drop))
        if isinstance(other, Connection):
            other.drop()

    def _settle(self, connection: Connection) -> None:
        """It is served, or gone, or was told no."""
        guest = self._guests.pop(connection, None)
        if guest is not None:
            guest.timer.cancel()
            self.book.settled(connection)

    def heard(self, connection: Connection, body: bytes) -> None:
        try:
            if (guest := self._guests.get(connection)) is not None:
                self._preamble(connection, guest, body)
            elif (reservation := self._reservations.get(connection)) is not None:
                self._control(connection, reservation, body)
        except PeerMisbehaved as error:
            log.debug("no frame for a relay", address=connection.host, reason=str(error))
            connection.drop()
        except Overloaded as error:
            log.debug("refused at the relay", address=connection.host, reason=str(error))
            self._deny(connection, str(error))

    def _deny(self, connection: Connection, reason: str) -> None:
        self._settle(connection)
        connection.send(No(reason))
        connection.finish()

    def _preamble(self, connection: Connection, guest: _Guest, body: bytes) -> None:
        asked = frames.unpack(body, *((Reserve,) if guest.challenge else (Greet, Accept)))
        if isinstance(asked, Reserve):
            self._reserve(connection, asked, guest.challenge)
        elif isinstance(asked, Accept):
            self._accept(connection, asked)
        elif isinstance(asked, Greet):
            self._greeted(connection, guest, asked)

    def _greeted(self, connection: Connection, guest: _Guest, greet: Greet) -> None:
        if greet.version != frames.RELAY_VERSION:
            raise Overloaded(f"version {greet.version} meets a relay of version {frames.RELAY_VERSION}")
        guest.challenge = self._rng.randbytes(32)
        connection.send(Challenge(frames.RELAY_VERSION, guest.challenge, connection.host))

    def _check(self, asked: Reserve, message: bytes) -> None:
        """Raises PeerMisbehaved: it is not whom it says it is. Overloaded: it is a stranger."""
        if not verify(asked.public_key, message, asked.signature):
            raise PeerMisbehaved("a wrong signature")
        if not frames.is_member(self._swarm_keys, asked.proofs, message):
            raise Overloaded("this relay serves a private swarm: its key is needed (--swarm-key)")

    # --- reservations

    def _reserve(self, connection: Connection, asked: Reserve, challenge: bytes) -> None:
        self._check(asked, frames.to_reserve(self._identity.public_key, challenge, asked.public_key))
        reservation, ended = self.book.reserve(self._loop.time(), asked.public_key, connection.host)
        for one in ended:
            self._end_reservation(one, "another connection has this reservation now")
            if one.peer == reservation.peer:  # it has moved, or has lost us: nothing comes over its circuits any more
                for circuit in self.book.circuits_to(one):
                    self._end_circuit(circuit)
        try:
            reservation.port = self._listen_for(asked.public_key)
        except OSError as error:
            self.book.release(reservation)
            raise Overloaded(f"no port is left for it: {error.strerror or error}") from error
        self._settle(connection)
        self._called[reservation.port] = reservation
        self._reservations[connection] = reservation
        self._controls[reservation] = connection
        connection.send(self.book.terms(reservation.port))
        log.debug("reserved", peer=short_id(reservation.peer), address=connection.host)

    def _control(self, connection: Connection, reservation: Reservation, body: bytes) -> None:
        """Whoever has this connection has proved the key: asking again is enough to renew."""
        asked = frames.unpack(body, Ping, Reserve)
        if not self.book.heard(self._loop.time(), reservation):
            raise PeerMisbehaved("too many frames")
        if isinstance(asked, Ping):
            connection.send(Pong())
        else:
            self.book.renew(self._loop.time(), reservation)
            connection.send(self.book.terms(reservation.port))

    def _end_reservation(self, reservation: Reservation, why: str) -> None:
        self.book.release(reservation)
        connection = self._controls.pop(reservation, None)
        if connection is not None:
            del self._reservations[connection], self._called[reservation.port]
            self._stop_listening(reservation.port)
            connection.send(No(why))
            connection.finish()
        for circuit in self.book.waiting_for(reservation):
            self._end_circuit(circuit)

    # --- circuits

    def _dialled(self, connection: Connection, callee: Reservation) -> None:
        """Nothing is read of it until the circuit stands: what it says then is the callee's to hear."""
        connection.hold(True)
        try:
            circuit, ended = self.book.dial(self._loop.time(), connection.host, callee)
        except Overloaded as error:
            log.debug("refused at the relay", address=connection.host, reason=str(error))
            return connection.drop()
        for one in ended:
            self._end_circuit(one)
        timer = self._loop.call_later(self._limits.answer_s, self._end_circuit, circuit)
        self._circuits[connection] = circuit
        self._ends[circuit] = _Ends(connection, timer)
        self._controls[circuit.callee].send(Incoming(circuit.token, connection.host))

    def _accept(self, connection: Connection, accepted: Accept) -> None:
        now, own = self._loop.time(), self._identity.public_key
        circuit = self.book.accept(now, own, accepted.token, accepted.signature)
        if circuit is None:
            raise PeerMisbehaved("no circuit waits for this")
        self._settle(connection)
        ends = self._ends[circuit]
        ends.timer.cancel()
        ends.callee = connection
        self._circuits[connection] = circuit
        connection.send(Ok())
        connection.join(ends.caller)
        ends.caller.hold(False)

    def _end_circuit(self, circuit: Circuit) -> None:
        self.book.end(self._loop.time(), circuit)
        ends = self._ends.pop(circuit, None)
        if ends is None:
            return
        ends.timer.cancel()
        for one in (ends.caller, ends.callee):
            if one is not None:
                self._circuits.pop(one, None)
                one.finish()

    def carried(self, connection: Connection, num_bytes: int) -> None:
        circuit = self._circuits.get(connection)
        if circuit is None:
            return
        ends = self._ends[circuit]
        goes_on = self.book.carried(self._loop.time(), circuit, num_bytes, connection is ends.callee)
        if self.book.is_spent(circuit):
            return self._end_circuit(circuit)
        if not goes_on or connection.chunk_bytes != circuit.flow.chunk_bytes:
            self._pace(circuit, held=not goes_on)
        if not goes_on and self._ticker is None:
            self._ticker = self._loop.call_later(TICK_S, self._tick)

    def _pace(self, circuit: Circuit, held: bool) -> None:
        ends = self._ends[circuit]
        for one in (ends.caller, ends.callee):
            if one is not None:
                one.chunk_bytes = circuit.flow.chunk_bytes
                one.hold(held)

    # --- time

    def _tick(self) -> None:
        for circuit in self.book.resumed(self._loop.time()):
            self._pace(circuit, held=False)
        self._ticker = self._loop.call_later(TICK_S, self._tick) if self.book.has_waiting else None

    def _sweep(self) -> None:
        now = self._loop.time()
        for circuit in self.book.overdue_circuits(now):
            self._end_circuit(circuit)
        for reservation in self.book.overdue_reservations(now):
            self._end_reservation(reservation, "the reservation is over")
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def lost(self, connection: Connection) -> None:
        del self._connections[connection]
        if not self._connections:
            self._empty.set()
        self._settle(connection)
        reservation = self._reservations.get(connection)
        if reservation is not None:
            self._end_reservation(reservation, "")
        circuit = self._circuits.get(connection)
        if circuit is not None:
            self._end_circuit(circuit)


def usual_port(relay_key: bytes, callee_key: bytes) -> int:
    """Where a relay has a callee called, if it can be."""
    digest = hashlib.sha256(relay_key + callee_key).digest()
    return FIRST_PORT + int.from_bytes(digest[:4], "big") % NUM_PORTS


def limits_of(bytes_per_s: float = Limits.bytes_per_s) -> Limits:
    """As far as this process may have descriptors."""
    return limits_for(_num_descriptors(), bytes_per_s)


def _num_descriptors() -> int:
    """That this process may have."""
    if sys.platform == "win32":
        return ENOUGH_DESCRIPTORS
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
