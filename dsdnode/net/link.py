"""Links to peers: Dealer (we dialled) and Inbound (we were dialled). Either carries messages both ways.

A link is `ready` once HELLO was answered by WELCOME. Until then, and while libzmq's own queue is full, messages wait in
the link's queue, by priority. A link that is `closed` never comes back: its owner makes another.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import zmq

from dsdnode.addresses import Nearness, is_ip, nearness, parse_address
from dsdnode.errors import PeerMisbehaved, PeerUnavailable
from dsdnode.identity import Identity, curve_public_key, peer_id
from dsdnode.net.dials import Teacher
from dsdnode.net.handshake import Handshake
from dsdnode.net.port import ATTEMPT_TIMEOUT_S, Priority
from dsdnode.net.queues import SendQueue
from dsdnode.net.sockets import Frames, Names, Pump, events, open_dealer, open_monitor, receive_event
from dsdnode.wire.codec import MAX_BUFFERS, decode, encode, printable
from dsdnode.wire.messages import Hello, Refused, Welcome

RESOLVE_TIMEOUT_S = 3.0
_ENDINGS = (
    zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


@dataclass(frozen=True, slots=True)
class Way:
    """An address to be dialled, and on whose word; `teacher` None: on nobody's, and at no cost."""

    address: str
    near: Nearness = Nearness.HERE
    """A name that leads to anything nearer is not followed."""
    teacher: Teacher | None = None
    name: str = ""
    """What was resolved to `address`."""
    host: str = ""
    """The IP address that has answered."""

    @property
    def told(self) -> str:
        """The address as it was told."""
        return self.name or self.address


class Link:
    """What both kinds share: a queue before a socket."""

    def __init__(self, peer: bytes, bulk: bool) -> None:
        self.peer = peer
        self.bulk = bulk
        self.ready = False
        self.closed = False
        self.queue = SendQueue()

    def send(self, frames: list[bytes], priority: Priority) -> None:
        """Now if that is possible, else when it is. Raises Overloaded."""
        if not (self.ready and not self.queue and self._transmit(frames)):
            self.queue.push(frames, priority)

    def flush(self) -> None:
        while self.ready and (first := self.queue.first()) is not None:
            frames, priority = first
            if not self._transmit(frames):
                return
            self.queue.pop(priority)

    def _transmit(self, frames: list[bytes]) -> bool:
        """False: libzmq's queue is full."""
        raise NotImplementedError


class Inbound(Link):
    """A connection that a peer made to our router. Its routing id stays between us and libzmq."""

    def __init__(
        self,
        router: zmq.Socket[bytes],
        pump: Pump,
        routing_id: bytes,
        hello: Hello,
        user: str,
        descriptor: int,
        host: str,
    ) -> None:
        """`host`: the IP address that it comes from ("": gone before that was seen)."""
        super().__init__(peer_id(hello.contact.public_key), hello.bulk)
        self.contact = hello.contact
        self.host = host
        self._router = router
        self._pump = pump
        self.routing_id = routing_id
        self.user = user
        self.descriptor = descriptor
        self.num_seen_bytes = 0
        """Of what came over it, in whole messages."""
        self.ready = True

    def _transmit(self, frames: list[bytes]) -> bool:
        try:
            self._router.send_multipart([self.routing_id, *frames], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return True  # just gone: the monitor tells in a moment, and the message is lost with it
        self._pump.sent()
        return True


class DealerOwner(Protocol):
    """What a dealer asks of, and tells, whoever made it."""

    context: zmq.Context[zmq.Socket[bytes]]
    names: Names
    identity: Identity
    handshake: Handshake
    resolving: asyncio.Semaphore

    def may_dial(self, way: Way) -> bool:
        """Is there anything left of what strangers may have us dial? Then it is paid for."""

    def received(self, link: Link, frames: list[bytes]) -> None: ...

    def dealer_ready(self, dealer: Dealer) -> None: ...

    def dealer_ended(self, dealer: Dealer, was_ready: bool, why: str) -> None:
        """The dealer is closed; its queue is for the owner to move or drop."""


def _is_far_enough(ip: str, least: Nearness) -> bool:
    near = nearness(ip.partition("%")[0])
    return near is not None and near >= least


class Dealer(Link):
    """A connection that we make: one address after the other until one answers, then HELLO, then messages."""

    def __init__(self, owner: DealerOwner, peer: bytes, public_key: bytes, bulk: bool, ways: Sequence[Way]) -> None:
        super().__init__(peer, bulk)
        self._owner = owner
        self._public_key = public_key
        self._ways = list(ways)
        self._hello: Hello | None = None
        self._why = "no address"
        self._attempt = 0
        self.refused = False
        """The peer itself said no, and will say so again."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._resolution: asyncio.Task[None] | None = None
        self._pumps: list[Pump] = []
        self.way = Way("")
        self.failed: list[str] = []
        """Addresses, as they were told, where the peer did not answer."""
        self.proven = False
        """Whoever answered had the peer's key, whatever was said then."""
        self.nonce = b""
        """Of the greeting."""
        self._next()

    def close(self) -> None:
        self.closed, self.ready = True, False
        self._drop_socket()
        if self._resolution is not None:
            self._resolution.cancel()

    def _drop_socket(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._pumps:
            self._socket.disable_monitor()
        for pump in self._pumps:
            pump.close()
        self._pumps.clear()
        self._hello = None

    # --- finding an address that answers

    def _next(self) -> None:
        self._drop_socket()
        self.proven = False
        if self.way.address:
            self.failed.append(self.way.told)
        while self._ways:
            self.way = self._ways.pop(0)
            if self._owner.may_dial(self.way):
                return self._dial()
            self._why = f"{self.address} is not dialled now: too much of what its teacher named led nowhere"
        self.way = Way("")
        self._loop.call_soon(self._end)  # its owner may not have it in its books yet

    def _dial(self) -> None:
        host, port = parse_address(self.address)
        if is_ip(host):
            self._connect()
        else:
            self._resolution = self._loop.create_task(self._resolve(host, port))

    @property
    def address(self) -> str:
        return self.way.address

    async def _resolve(self, host: str, port: int) -> None:
        """Ask for a name's addresses here: libzmq would, in the thread that serves every connection."""
        self._why = f"{host} cannot be found"
        named, self.way = self.way, Way("")
        with contextlib.suppress(OSError, TimeoutError, UnicodeError):
            async with self._owner.resolving, asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await self._loop.getaddrinfo(host, port, type=1)
            hosts = [ip for ip in dict.fromkeys(str(entry[4][0]) for entry in found) if _is_far_enough(ip, named.near)]
            if found and not hosts:
                self._why = f"{host} leads to an address that nobody far away may name"
            ips = [f"[{ip}]" if ":" in ip else ip for ip in hosts]
            self._ways[:0] = [replace(named, address=f"tcp://{ip}:{port}", name=named.address) for ip in ips][:4]
        if not self._ways or self._ways[0].name != named.address:
            self.failed.append(named.address)
        self._next()

    def _connect(self) -> None:
        owner = self._owner
        self._why = f"no answer from {self.address}"
        self._timer = self._loop.call_later(ATTEMPT_TIMEOUT_S, self._next)
        try:
            self._socket = open_dealer(owner.context, owner.identity, curve_public_key(self._public_key), self.address)
            self._monitor = open_monitor(owner.context, self._socket, owner.names, _ENDINGS)
            self._frames = Frames(self._socket, most=1 + MAX_BUFFERS)
            self._pumps = [Pump(self._monitor, self._take_event), Pump(self._socket, self._take, self._idle)]
            self._socket.connect(self.address)
        except zmq.ZMQError as error:  # no descriptors left, say
            self._why = f"{self.address}: {error.strerror}"
            self._loop.call_soon(self._next)

    def _end(self) -> None:
        if self.closed:
            return
        was_ready = self.ready
        self.close()
        self._owner.dealer_ended(self, was_ready, self._why)

    # --- the connection

    def _take_event(self) -> None:
        event, value = receive_event(self._monitor)
        if self.ready:
            self._why = "the connection was closed"
            self._end()
            return
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._why = f"{self.address} refused the connection (banned, or it has too many)"
        elif event == zmq.EVENT_CLOSED:
            self._why = f"nobody listens at {self.address}"
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:  # so ends, too, who is killed just then
            key = self._public_key.hex()[:12]
            self._why = f"{self.address} hung up: it does not have the key {key}…, is no dsdnode, or was just ended"
        elif event != zmq.EVENT_DISCONNECTED:
            self._why = f"{self.address} does not have the key {self._public_key.hex()[:12]}…, or is no dsdnode"
        elif value and self._hello is not None:
            self._why = f"{self.address} closed the connection"
        if event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:  # more follows: DISCONNECTED
            self._next()

    def _idle(self) -> None:
        """Nothing more to read; perhaps something can be written."""
        if self.ready:
            self.flush()
        elif self._hello is None and events(self._socket) & zmq.POLLOUT:
            self.proven = True
            self._hello = self._owner.handshake.hello(self._public_key, self.bulk, self._attempt)
            self.nonce = self._hello.nonce
            self._transmit(encode(self._hello))

    def _take(self) -> None:
        frames = self._frames.receive()
        if frames is None:
            return
        raw = [frame.bytes for frame in frames]
        if self.ready:
            self._owner.received(self, raw)
        elif self._hello is not None:
            self._answered(raw, self._hello)

    def _answered(self, raw: list[bytes], hello: Hello) -> None:
        """The peer's first message: WELCOME or REFUSED."""
        try:
            answer = decode(raw).message
            if isinstance(answer, Refused):
                self.refused = not answer.retry
                raise PeerUnavailable(printable(answer.reason))
            if not isinstance(answer, Welcome):
                raise PeerMisbehaved("it did not answer the greeting")
            self._owner.handshake.check(answer, hello, self._public_key)
        except (PeerUnavailable, PeerMisbehaved) as error:
            self._why = f"{self.address} refused: {error}"
            if self.refused and self._attempt + 1 < self._owner.handshake.num_greetings:
                self._attempt += 1  # it may not know our newest swarm key yet
                self._ways.insert(0, self.way)
                self.way = Way("")
                self._next()
                return
            self._end()  # whoever has this key says no: other addresses would lead to the same
            return
        assert self._timer is not None
        self._timer.cancel()
        self.ready = True
        self._owner.dealer_ready(self)
        self.flush()

    def _transmit(self, frames: list[bytes]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._pumps[1].sent()
        return True
