"""libzmq's sockets, set as measured (the reasons stand beside the settings), and how asyncio hears of them.

Nothing here knows of peers. The event loop must have `add_reader` (on Windows: the selector loop).
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import sys
from collections.abc import Callable, Iterable
from functools import cache

import zmq
from zmq.utils import z85

from dsdnode.addresses import ANY_HOST, LOWEST_PORT, is_ip, nearness, parse_address
from dsdnode.errors import BadInput
from dsdnode.identity import Identity
from dsdnode.net.door import Door
from dsdnode.net.listener import listen_on
from dsdnode.net.port import MAX_TURN, PROBE_AFTER_S, PROBE_EVERY_S, UNACKNOWLEDGED_S
from dsdnode.wire.codec import MAX_FRAME_BYTES

ZAP_DOMAIN = b"dsdnode"
CONNECT_TIMEOUT_S = 2.0
"""From a call to the first packet that comes back."""
FAREWELL_S = 1.0
"""For libzmq to see that a connection of ours has ended: milliseconds, where its thread gets to run."""
FAREWELL_LOOK_S = 0.002
_NOW, _NOW_AND_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_READABLE, _EVENTS = int(zmq.POLLIN), int(zmq.EVENTS)
"""Numbers: what is done with enumerations takes longer than what libzmq does then."""
_CURVE_BYTES = 33
"""Added to each frame: command name, flags, nonce, authenticator."""


@cache
def seed_libzmq() -> None:
    """libzmq draws routing ids from the C library's generator and never seeds it: every process would use the same."""
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    library.srand(int.from_bytes(os.urandom(4), "little"))


def open_context() -> zmq.Context[zmq.Socket[bytes]]:
    seed_libzmq()
    return zmq.Context()


def bind_router(
    context: zmq.Context[zmq.Socket[bytes]], identity: Identity, listen: str
) -> tuple[zmq.Socket[bytes], int]:
    """The one socket that others dial (bound only), and its port. Raises BadInput, in words."""
    try:
        host, port = parse_address(listen, lowest_port=0)
    except ValueError as error:
        raise BadInput(f"cannot listen: {error}") from error
    if not is_ip(host):
        raise BadInput(f"cannot listen on {host!r}: give an IP address, 0.0.0.0 for all")
    if host not in ANY_HOST and nearness(host) is None:
        raise BadInput(f"cannot listen on {host}: it is not the address of one machine (0.0.0.0: on all of this one)")
    router = context.socket(zmq.ROUTER)
    _set_common(router, identity, ipv6=":" in host)
    router.setsockopt(zmq.CURVE_SERVER, 1)
    router.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it, a dead ZAP handler would let everybody in
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a peer that is gone is an error, not silence
    router.setsockopt(zmq.ROUTER_HANDOVER, 0)  # nobody takes over another's routing id
    router.setsockopt(zmq.CONNECT_TIMEOUT, 2000)  # of calls that are made just when we are called (Router.call)
    router.setsockopt(zmq.RECONNECT_IVL, -1)
    router.setsockopt(zmq.IMMEDIATE, 1)
    try:
        return router, listen_on(router, host, port)
    except (OSError, zmq.ZMQError) as error:
        router.close()
        raise BadInput(_why_not_bound(listen, port, error)) from error


def _why_not_bound(listen: str, port: int, error: OSError | zmq.ZMQError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use: stop what uses it, or choose another with --listen tcp://HOST:PORT"
    if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return f"cannot listen on {listen}: this machine has no such address"
    if error.errno == errno.EACCES:
        return f"cannot listen on port {port}: those below {LOWEST_PORT} are for administrators; choose a higher one"
    return f"cannot listen on {listen}: {error.strerror}"


def endpoint_from(port: int, address: str) -> str:
    """For a call that leaves from a port of ours: no socket listens on it, and all that use it may share it."""
    return f"tcp://{'[::]' if '[' in address else '0.0.0.0'}:{port};{address.removeprefix('tcp://')}"


def open_dealer(
    context: zmq.Context[zmq.Socket[bytes]], identity: Identity, server_key: bytes, address: str
) -> zmq.Socket[bytes]:
    """A socket, to be connected to this one endpoint, whose owner must prove `server_key` (X25519, raw)."""
    dealer = context.socket(zmq.DEALER)
    _set_common(dealer, identity, ipv6="[" in address)
    dealer.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(identity.curve_public_key))
    dealer.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(server_key))
    dealer.setsockopt(zmq.IMMEDIATE, 1)  # writable means connected and proven
    dealer.setsockopt(zmq.CONNECT_TIMEOUT, round(1e3 * CONNECT_TIMEOUT_S))
    dealer.setsockopt(zmq.HANDSHAKE_IVL, 10000)  # the call's own timer ends it before, and says what it was
    # A second connection would begin without HELLO: the link closes this socket and dials anew instead.
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    return dealer


def _set_common(socket: zmq.Socket[bytes], identity: Identity, ipv6: bool) -> None:
    socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(identity.curve_secret_key))
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 64)
    socket.setsockopt(zmq.RCVHWM, 64)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + _CURVE_BYTES)  # counts each frame alone
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 0)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, PROBE_AFTER_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, PROBE_EVERY_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, round(UNACKNOWLEDGED_S / PROBE_EVERY_S))
    socket.setsockopt(zmq.TCP_MAXRT, round(1e3 * UNACKNOWLEDGED_S))
    socket.setsockopt(zmq.IPV6, int(ipv6))


class Names:
    """Monitors' names, unique within a context. (pyzmq makes them of descriptors, which are used again too soon.)"""

    def __init__(self) -> None:
        self._num = 0

    def next(self) -> str:
        self._num += 1
        return f"inproc://monitor-{self._num}"


def open_monitor(
    context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes], names: Names, events: int
) -> zmq.Socket[bytes]:
    """A socket that tells of the other's connections."""
    address = names.next()
    socket.monitor(address, events)
    monitor = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.LINGER, 0)
    monitor.connect(address)
    return monitor


def receive_event(monitor: zmq.Socket[bytes]) -> tuple[int, int]:
    """Event and its value. Raises zmq.Again when there is none."""
    body, _ = monitor.recv_multipart(zmq.NOBLOCK)
    return int.from_bytes(body[:2], sys.byteorder), int.from_bytes(body[2:6], sys.byteorder)


def events(socket: zmq.Socket[bytes]) -> int:
    """POLLIN, POLLOUT; asking also makes libzmq look at what happened."""
    return int(socket.getsockopt(_EVENTS))


def transmit(socket: zmq.Socket[bytes], *frames: bytes) -> None:
    """One message. Raises zmq.Again where the queue is full: that is asked with the first frame."""
    for frame in frames[:-1]:
        socket.send(frame, _NOW_AND_MORE)
    socket.send(frames[-1], _NOW)


class Pump:
    """Calls `take` until nothing is left to read, or it raises zmq.Again, then `idle`, whenever something may have
    happened to a socket.

    A libzmq descriptor tells of changes only once, so whoever hears of one must take everything, and whoever sends must
    call `sent`: sending swallows the notice too. All of it is synchronous, so that nothing can be cancelled half-way.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], take: Callable[[], None], idle: Callable[[], None] | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._take = take
        self._idle = idle
        self._poked = False
        self._closed = False
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self._run)
        self.poke()

    def poke(self) -> None:
        if not self._poked:
            self._poked = True
            self._loop.call_soon(self._run)

    def sent(self) -> None:
        if events(self._socket) & _READABLE:
            self.poke()

    def stop(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """Also closes the socket, once: see Farewell for sockets that have connections."""
        self.stop()
        self._socket.close(0)

    def _run(self) -> None:
        self._poked = False
        try:
            for _ in range(MAX_TURN):
                if self._closed:
                    return
                self._take()
                if not (self._closed or events(self._socket) & _READABLE):  # (a third of what an error costs)
                    break
            else:
                return self.poke()
        except zmq.Again:
            pass
        except zmq.ContextTerminated:  # nothing will ever be read from it again
            return self.stop()
        except Exception:
            if not self._closed:
                self.poke()
            raise
        if self._idle is not None:
            self._idle()


class Farewell:
    """Ends connections, and closes their socket when libzmq has seen that, or after FAREWELL_S.

    libzmq ends the whole process ("Resource temporarily unavailable (session_base.cpp)") where a connection breaks just
    while its socket is being closed and a message of several frames is half sent. Whoever is at the other end could
    bring that about; so nobody's connection is there any more when a socket is closed.
    """

    def __init__(self, socket: zmq.Socket[bytes], doors: Iterable[Door]) -> None:
        """`socket`: neither watched nor monitored any more."""
        self._socket = socket
        self._left = list(doors)
        self._loop = asyncio.get_running_loop()
        self._until_s = self._loop.time() + FAREWELL_S
        for door in self._left:
            door.close()
        self._look()

    def _look(self) -> None:
        """libzmq closes a connection's descriptor when it has done with it."""
        self._left = [door for door in self._left if door.is_open()]
        if not self._left or self._loop.time() >= self._until_s:
            self._socket.close(0)
        else:
            self._loop.call_later(FAREWELL_LOOK_S, self._look)


class Frames:
    """Receives whole messages of at most `most` frames; longer ones are dropped as they come, a few frames a turn."""

    def __init__(self, socket: zmq.Socket[bytes], most: int) -> None:
        self._socket = socket
        self._most = most
        self._dropping = False

    def receive(self) -> list[zmq.Frame] | None:
        """One message, or None when it was, or is being, dropped. Raises zmq.Again when there is none."""
        if self._dropping:
            self._dropping = self._socket.recv(_NOW, copy=False).more
            return None
        frames = [self._socket.recv(_NOW, copy=False)]
        while frames[-1].more:
            if len(frames) == self._most:
                self._dropping = True
                return None
            frames.append(self._socket.recv(_NOW, copy=False))
        return frames
