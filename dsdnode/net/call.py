"""One address, called: a connection, and a greeting when whoever answers has the peer's key. A Dealer makes several."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Protocol

import zmq

from dsdnode.addresses import Nearness, nearness, parse_address
from dsdnode.identity import Identity, curve_public_key
from dsdnode.net.dials import Teacher
from dsdnode.net.door import Door, is_cut_off_from
from dsdnode.net.passage import Passage
from dsdnode.net.port import ATTEMPT_TIMEOUT_S
from dsdnode.net.sockets import (
    CONNECT_TIMEOUT_S,
    Farewell,
    Frames,
    Names,
    Pump,
    endpoint_from,
    events,
    open_dealer,
    open_monitor,
    receive_event,
    transmit,
)
from dsdnode.wire.codec import MAX_BUFFERS, encode
from dsdnode.wire.messages import Hello

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
    passage: Passage | None = None
    """A connection to `address` that has been made already, and is to be taken."""
    relayed: bool = False
    """By way of a relay, as whoever answered has said."""

    source_port: int = 0
    """Of ours, that it is called from (0: any)."""
    hearsay: bool = False
    """Others have named it, though it may be at no cost by now."""

    @property
    def by_user(self) -> bool:
        """Has our own named it?"""
        return self.teacher is None and not self.hearsay

    def may_lead_to(self, ip: str) -> bool:
        """Of its name, where it has one."""
        near = nearness(ip)
        return near is not None and near >= self.near

    @property
    def endpoint(self) -> str:
        """For libzmq."""
        if self.passage is not None:
            return self.passage.endpoint
        return endpoint_from(self.source_port, self.address) if self.source_port else self.address

    @property
    def told(self) -> str:
        """The address as it was told."""
        return self.name or self.address


class Caller(Protocol):
    """What a call tells whoever made it."""

    def call_proven(self, call: Call) -> None:
        """Whoever answered has the peer's key, and waits for a greeting."""

    def call_heard(self, call: Call, frames: list[bytes]) -> None:
        """A message; the first one answers the greeting."""

    def call_idle(self) -> None:
        """Nothing more to read from the call that was taken; perhaps something can be written."""

    def call_ended(self, call: Call, why: str) -> None:
        """It is closed, and will not come back."""


class Call:
    """Ends by itself if it is not `taken` in time."""

    def __init__(
        self,
        caller: Caller,
        context: zmq.Context[zmq.Socket[bytes]],
        names: Names,
        identity: Identity,
        public_key: bytes,
        way: Way,
    ) -> None:
        """`public_key`: of the peer that must answer."""
        self.way = way
        self.is_proven = False
        self.hello: Hello | None = None
        self.taken = False
        """Its greeting was answered well: it carries messages from now on."""
        self.is_known = False
        """Why it has ended was told by the machine there, or by ours. Silence may mean anything."""
        self._caller = caller
        self._public_key = public_key
        self._loop = asyncio.get_running_loop()
        self._pumps: list[Pump] = []
        self._closed = False
        self._door: Door | None = None
        """The connection, while there is one."""
        self._why = f"no answer from {way.address}"
        self._began_s = self._connected_s = self._loop.time()
        self._await_answer()
        try:
            self._socket = open_dealer(context, identity, curve_public_key(public_key), way.endpoint)
            self._monitor = open_monitor(context, self._socket, names, zmq.EVENT_CONNECTED | _ENDINGS)
            self._frames = Frames(self._socket, most=1 + MAX_BUFFERS)
            self._pumps = [Pump(self._monitor, self._take_event), Pump(self._socket, self._take, self._idle)]
            self._socket.connect(way.endpoint)
        except zmq.ZMQError as error:  # no descriptors left, say
            self._loop.call_soon(self._end, f"{way.address}: {error.strerror}")

    def _await_answer(self) -> None:
        self._timer = self._loop.call_later(ATTEMPT_TIMEOUT_S, self._give_up)

    def _give_up(self) -> None:
        self._end(self.why.removesuffix(" yet"))

    @property
    def hears_nothing(self) -> bool:
        """Did somebody take the connection a while ago, and has not said a byte? A dsdnode does at once."""
        late = self._door is not None and self._loop.time() - self._connected_s >= CONNECT_TIMEOUT_S
        if self._door is None or not late or self.is_proven:
            return False
        with contextlib.suppress(OSError):  # a system that does not tell
            return self._door.num_received_bytes() == 0
        return False

    @property
    def why(self) -> str:
        """What keeps it, in words."""
        address = self.way.address
        if self.hears_nothing:
            return f"whoever listens at {address} takes the connection and says nothing: no dsdnode"
        return f"no answer from {address} yet"

    def greet(self, hello: Hello) -> None:
        self.hello = hello
        self._timer.cancel()
        self._await_answer()
        self.transmit(encode(hello))

    def take(self) -> None:
        self._timer.cancel()
        self.taken = True

    def close(self) -> None:
        self._timer.cancel()
        self._closed = True
        if self._pumps:
            events, messages = self._pumps
            with contextlib.suppress(zmq.ZMQError):  # the news of the connection may be on their way
                while True:
                    self._take_event()
            with contextlib.suppress(zmq.ZMQError):  # the context has ended, and waits for this socket
                self._socket.disable_monitor()
            events.close()
            messages.stop()
            Farewell(self._socket, [self._door] if self._door is not None else [])
        self._pumps.clear()

    def transmit(self, frames: list[bytes]) -> bool:
        """False: libzmq's queue is full."""
        try:
            transmit(self._socket, *frames)
        except zmq.Again:
            return False
        self._pumps[1].sent()
        return True

    @property
    def is_connected(self) -> bool:
        return self._door is not None

    @property
    def local(self) -> str:
        """The IP address that it is made from ("": there is no connection)."""
        if self._door is None:
            return ""
        return self.way.passage.local if self.way.passage is not None else self._door.local

    def _end(self, why: str) -> None:
        if not self._closed:
            self.close()
            self._caller.call_ended(self, why)

    def _take_event(self) -> None:
        event, value = receive_event(self._monitor)
        address = self.way.address
        if event == zmq.EVENT_CONNECTED:
            self._door, self._connected_s = Door.at(value), self._loop.time()
            return
        if event == zmq.EVENT_DISCONNECTED:
            self._door = None
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._why = f"{address} refused the connection (banned, or it has too many)"
        elif event == zmq.EVENT_CLOSED:
            self._not_connected()
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:  # so ends, too, who is killed just then
            key = self._public_key.hex()[:12]
            self._why = f"{address} hung up: it does not have the key {key}…, is no dsdnode, or was just ended"
            self.is_known = True
        elif event != zmq.EVENT_DISCONNECTED:
            self._why = f"{address} does not have the key {self._public_key.hex()[:12]}…, or is no dsdnode"
            self.is_known = True
        elif value and self.hello is not None:
            self._why = f"{address} closed the connection"
        if self.taken or event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:  # more follows: DISCONNECTED
            self._end(self._why)

    def _not_connected(self) -> None:
        """libzmq does not say why; that nothing came back it says when its time is over."""
        address = self.way.address
        if self._loop.time() - self._began_s >= CONNECT_TIMEOUT_S:
            return
        self.is_known = True
        if is_cut_off_from(parse_address(address)[0]):
            self._why = f"there is no way from this machine to {address}: it is offline, perhaps"
        else:
            self._why = f"nobody listens at {address}"

    def _idle(self) -> None:
        if self.taken:
            self._caller.call_idle()
        elif not self.is_proven and events(self._socket) & zmq.POLLOUT:
            self.is_proven = True
            self._caller.call_proven(self)

    def _take(self) -> None:
        frames = self._frames.receive()
        if frames is not None and (self.taken or self.hello is not None):
            self._caller.call_heard(self, [frame.bytes for frame in frames])
