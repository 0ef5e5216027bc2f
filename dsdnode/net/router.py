"""The listening end: one bound ROUTER, who stands behind each of its connections, and what they send."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import structlog
import zmq

from dsdnode.addresses import Nearness, nearness, network
from dsdnode.errors import BadInput, PeerMisbehaved
from dsdnode.identity import Identity, peer_id
from dsdnode.net import filling
from dsdnode.net.door import Door, leads_here
from dsdnode.net.link import Inbound, Link
from dsdnode.net.lobby import Lobby
from dsdnode.net.places import is_gone, to_address
from dsdnode.net.port import PUNCHED, RELAYED, SEEN, LinkKind, Priority
from dsdnode.net.relays import Circuits
from dsdnode.net.sockets import Farewell, Frames, Names, Pump, bind_router, endpoint_from, open_monitor, receive_event
from dsdnode.wire.codec import MAX_BUFFERS, decode, encode
from dsdnode.wire.messages import Hello, Refused, Welcome

REBIND_S = 0.05
SWEEP_S = 0.5
"""So often those that do not greet are looked for, while there are any."""

log = structlog.get_logger(__name__)


class RouterOwner(Protocol):
    """What a router asks of, and tells, its transport."""

    def greeted(self, hello: Hello, curve_key: bytes, host: str, circuit: int) -> Welcome | Refused:
        """The answer to a caller from there that proved to own this X25519 key; `circuit`: the port of ours that it
        comes from by way of a relay (0: it needs none)."""

    def inbound_ready(self, inbound: Inbound, curve_key: bytes) -> None: ...

    def inbound_ended(self, inbound: Inbound) -> None: ...

    def received(self, link: Link, frames: list[bytes]) -> None: ...


class Router:
    """Raises BadInput when it cannot listen there."""

    def __init__(
        self,
        owner: RouterOwner,
        context: zmq.Context[zmq.Socket[bytes]],
        names: Names,
        identity: Identity,
        listen: str,
        circuits: Circuits,
    ) -> None:
        self._owner = owner
        self._context = context
        self._names = names
        self._identity = identity
        self._circuits = circuits
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._bind(listen)

    def _bind(self, listen: str) -> None:
        socket, self.port = bind_router(self._context, self._identity, listen)
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED
        try:
            self._monitor = open_monitor(self._context, socket, self._names, events)
        except zmq.ZMQError:
            socket.close(linger=0)
            raise
        self._socket, self._is_open = socket, True
        self._listen = f"{listen.rpartition(':')[0]}:{self.port}"
        self.lobby = Lobby()
        self._doors: dict[int, tuple[Door, float]] = {}
        """Connections by descriptor, and when they began."""
        self._by_routing_id: dict[bytes, Inbound] = {}
        self._by_descriptor: dict[int, Inbound] = {}
        self._frames = Frames(self._socket, most=2 + MAX_BUFFERS)
        self._events = Pump(self._monitor, self._take_event)
        self._pump = Pump(self._socket, self._take)

    def close(self) -> None:
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._sweeper = None
        if not self._is_open:  # and not bound again yet
            return
        self._is_open = False
        with contextlib.suppress(zmq.ZMQError):
            self._take_events()
        self._socket.disable_monitor()
        self._events.close()
        self._pump.stop()
        with contextlib.suppress(zmq.ZMQError):
            self._socket.unbind(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        Farewell(self._socket, [door for door, _ in self._doors.values()])

    def rebind(self) -> None:
        """Drop every connection, and whatever they have half sent, and listen again."""
        self.close()
        for inbound in list(self._by_routing_id.values()):
            self._end(inbound)
        self._timer = self._loop.call_later(REBIND_S, self._bind_again)

    def _bind_again(self) -> None:
        try:
            self._bind(self._listen)
        except (BadInput, zmq.ZMQError) as error:  # libzmq still closes the old one; or no descriptor is left
            log.debug("cannot listen again yet", reason=str(error))
            self._timer = self._loop.call_later(REBIND_S, self._bind_again)

    def drop_fillers(self) -> str | None:
        """Hang up on those who fill our memory with what is no message yet. Their network; None: it cannot be told.

        libzmq sees the connections end, and frees what it holds of them.
        """
        with contextlib.suppress(zmq.ZMQError):
            self._take_events()
        connections: list[filling.Unseen] = []
        for descriptor, (door, begun_s) in self._doors.items():
            inbound = self._by_descriptor.get(descriptor)
            num_seen_bytes = inbound.num_seen_bytes if inbound is not None else 0
            with contextlib.suppress(OSError):
                connections.append(filling.look(door, num_seen_bytes, self._loop.time() - begun_s))
        culprits = filling.culprits(connections)
        for one in culprits:
            log.warning("memory is short: a connection that filled it is closed", network=one.network)
            one.door.close()
        return culprits[0].network if culprits else None

    def forget(self, peer: bytes) -> None:
        """End this peer's connections; what may still come over them is a stranger's."""
        for inbound in [inbound for inbound in self._by_routing_id.values() if inbound.peer == peer]:
            self._end(inbound)
            self._close(inbound.descriptor)

    @property
    def is_called(self) -> bool:
        """From another machine, without a relay?"""
        return any(
            inbound.kind in (LinkKind.DIRECT, LinkKind.REVERSED) and inbound.host and not leads_here(inbound.host)
            for inbound in self._by_routing_id.values()
        )

    def call(self, port: int, addresses: Sequence[str]) -> None:
        """Call from a port of ours, just when we are called from there: then it is a connection as all others."""
        if self._is_open:
            for address in addresses:
                with contextlib.suppress(zmq.ZMQError):
                    self._socket.connect(endpoint_from(port, address))

    def is_connected(self, addresses: Collection[str]) -> bool:
        with contextlib.suppress(zmq.ZMQError):
            self._take_events()
        return any(to_address(door.host, door.port) in addresses for door, _ in self._doors.values())

    def call_no_more(self, port: int, addresses: Sequence[str]) -> None:
        """Those where nobody answered."""
        for address in addresses:
            if self._is_open and not self.is_connected([address]):
                with contextlib.suppress(zmq.ZMQError):
                    self._socket.disconnect(endpoint_from(port, address))

    def leave_all_but(self, hosts: Collection[str], circuits: bool) -> list[bytes]:
        """End the connections that lead to an address of ours that is none any more: nothing else would. The peers.
        `circuits`: those by way of relays, too."""
        left = [
            descriptor
            for descriptor, (door, _) in self._doors.items()
            if is_gone(door.local, hosts) or (circuits and door.caller != door.host)
        ]
        for descriptor in left:
            self._close(descriptor)
        return [self._by_descriptor[descriptor].peer for descriptor in left if descriptor in self._by_descriptor]

    # --- what comes in

    def _take(self) -> None:
        frames = self._frames.receive()
        if frames is None or len(frames) < 2:
            return
        routing_id, user = frames[0].bytes, str(frames[1].get("User-Id"))
        raw = [frame.bytes for frame in frames[1:]]
        inbound = self._by_routing_id.get(routing_id)
        # A routing id alone proves nothing: a caller may choose it. The User-Id is the key that CURVE has verified.
        if inbound is not None and inbound.user == user:
            inbound.num_seen_bytes += filling.sent_for(raw)
            if not inbound.is_look:
                self._owner.received(inbound, raw)
            return
        descriptor = int(str(frames[1].get("__fd")))
        if self.lobby.hears(descriptor):
            self._greet(routing_id, user, descriptor, raw)

    def _greet(self, routing_id: bytes, user: str, descriptor: int, raw: list[bytes]) -> None:
        """The first message of a connection: HELLO, or it is dropped."""
        try:
            hello = decode(raw).message
        except PeerMisbehaved as error:
            log.debug("no greeting", reason=str(error))
            return
        if not isinstance(hello, Hello):
            return
        self._take_events()  # what ended before this began must not be taken for its end
        door, _ = self._doors.get(descriptor, (None, 0.0))
        if door is None or not door.host:
            return  # over already: nobody can tell where it came from, nor would tell us of its end
        host = door.caller
        curve_key, peer = bytes.fromhex(user), peer_id(hello.contact.public_key)
        answer = self._owner.greeted(hello, curve_key, host, door.port if self._circuits.has(door) else 0)
        source = door.share(self._source(host, peer))
        if isinstance(answer, Welcome) and not self.lobby.admits(source):
            answer = Refused("this peer has as many connections as it can have", retry=True)
        hang_up = partial(self._close, descriptor)
        inbound = Inbound(self._socket, self._pump, routing_id, hello, user, descriptor, host, hang_up)
        if self._circuits.has(door):
            inbound.kind, inbound.relay = LinkKind.RELAYED, door.relay
        elif inbound.beside:
            inbound.kind = LinkKind.PUNCHED if PUNCHED in hello.capabilities else LinkKind.REVERSED
        if isinstance(answer, Welcome):
            answer = self._welcome(answer, inbound)
        inbound.send(encode(answer), Priority.CONTROL)
        if isinstance(answer, Refused):
            self.lobby.refused(self._loop.time(), descriptor)
            return
        self._by_routing_id[routing_id] = self._by_descriptor[descriptor] = inbound
        self._close(self.lobby.greeted(descriptor, source, peer))
        self._owner.inbound_ready(inbound, curve_key)

    def _welcome(self, answer: Welcome, inbound: Inbound) -> Welcome:
        """With what its caller cannot know of this connection."""
        said = list(answer.capabilities)
        if inbound.kind is LinkKind.RELAYED:
            said.append(RELAYED)
        if inbound.is_look:
            said += self._seen(inbound.descriptor)
        return Welcome(answer.version, tuple(said), answer.proof)

    def _seen(self, descriptor: int) -> tuple[str, ...]:
        """Where a caller is seen to come from, in words of Welcome; nothing: it comes by way of a relay, or is gone."""
        door, _ = self._doors.get(descriptor, (None, 0.0))
        if door is None or not door.host or self._circuits.has(door):
            return ()
        return (SEEN + to_address(door.host, door.port),)

    def _source(self, host: str, peer: bytes) -> str:
        """Whose share of the connections one takes: its network's; its machine's, nearby; on this machine its own."""
        return peer.hex() if nearness(host) in (None, Nearness.HERE) else network(host) or host

    # --- who comes and goes

    def _take_event(self) -> None:
        event, descriptor = receive_event(self._monitor)
        if event in (zmq.EVENT_ACCEPTED, zmq.EVENT_CONNECTED):
            self._arrived(descriptor)
            return
        self.lobby.left(descriptor)
        self._doors.pop(descriptor, None)
        inbound = self._by_descriptor.get(descriptor)
        if inbound is not None:
            self._end(inbound)

    def _arrived(self, descriptor: int) -> None:
        door = Door.at(descriptor)
        if door is None:
            return  # and gone: the news of that follow
        now, (caller, relay) = self._loop.time(), self._circuits.caller(door)
        door = replace(door, caller=caller, relay=relay)
        self._doors[descriptor] = door, now
        if not door.host:
            return  # the same, but libzmq is not through with it
        self._close(self.lobby.arrived(now, descriptor, door.share(network(caller) or caller)))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        for descriptor in self.lobby.overdue(self._loop.time()):
            self._close(descriptor)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep) if self.lobby.num_waiting else None

    def _close(self, descriptor: int | None) -> None:
        known = self._doors.get(descriptor) if descriptor is not None else None
        if known is not None:
            known[0].close()

    def _take_events(self) -> None:
        try:
            while True:
                self._take_event()
        except zmq.Again:
            return

    def _end(self, inbound: Inbound) -> None:
        inbound.closed, inbound.ready = True, False
        self._by_routing_id.pop(inbound.routing_id, None)
        if self._by_descriptor.get(inbound.descriptor) is inbound:
            del self._by_descriptor[inbound.descriptor]
        self._owner.inbound_ended(inbound)
