"""One TCP connection of a relay, or to one: frames at first, and once it is joined to another one, that one's bytes.

A frame is read to its last byte and no further, so what follows it is never mixed up with it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol, cast

from dsdnode.errors import PeerMisbehaved
from dsdnode.net.port import PROBE_AFTER_S, PROBE_EVERY_S, UNACKNOWLEDGED_S
from dsdnode.net.relay.frames import HEAD_BYTES, MAX_RELAY_FRAME_BYTES, Frame, body_bytes, pack
from dsdnode.net.relay.rates import CHUNK_BYTES

LINGER_S = 5.0
"""For what is written already to get through, when the other end has gone."""
MAX_UNREAD_BYTES = 16 * 1024
"""Of frames: whoever reads none of them is hung up on."""
_PROBES = {
    "TCP_NODELAY": 1,
    "TCP_KEEPIDLE": PROBE_AFTER_S,
    "TCP_KEEPALIVE": PROBE_AFTER_S,
    "TCP_KEEPINTVL": PROBE_EVERY_S,
    "TCP_KEEPCNT": round(UNACKNOWLEDGED_S / PROBE_EVERY_S),
    "TCP_USER_TIMEOUT": round(1e3 * UNACKNOWLEDGED_S),
}
_OPTIONS = [(getattr(socket, name), value) for name, value in _PROBES.items() if hasattr(socket, name)]
"""As of links: whichever of two ends vanishes without a word, the other one is to miss it as soon as if there were no
relay between them."""
_SCRATCH = memoryview(bytearray(CHUNK_BYTES))
"""Where each connection reads to: the loop fills it and tells so before it looks at another one."""


class Owner(Protocol):
    """What a connection tells whoever it belongs to."""

    def arrived(self, connection: Connection) -> None: ...

    def heard(self, connection: Connection, body: bytes) -> None:
        """A frame has come. One more may come at once, unless the connection is joined or dropped."""

    def carried(self, connection: Connection, num_bytes: int) -> None:
        """So much has come from this end, and was passed on."""

    def lost(self, connection: Connection) -> None:
        """It has ended, by whomever."""


class Connection(asyncio.BufferedProtocol):
    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.host = ""
        """The IP address at the other end, without a zone."""
        self.local, self.local_port = "", 0
        """Ours."""
        self.chunk_bytes = CHUNK_BYTES
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frame = memoryview(bytearray(MAX_RELAY_FRAME_BYTES))
        self._num_read, self._wanted, self._in_body = 0, HEAD_BYTES, False
        self._other: Connection | None = None
        self._held = self._full = self._paused = False
        self._lingering: asyncio.TimerHandle | None = None

    # --- frames

    def send(self, frame: Frame) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(pack(frame))
        if transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.drop()

    def finish(self) -> None:
        """End it, when what was written has got through; that has its time, too."""
        if self._transport is not None and not self.closed and self._lingering is None:
            self._lingering = self._loop.call_later(LINGER_S, self._transport.abort)
            self._transport.close()

    def drop(self) -> None:
        """End it now, without a word."""
        if self._transport is not None:
            self._transport.abort()

    # --- bytes

    def join(self, other: Connection) -> None:
        """From now on what comes from either is the other's. If one is gone, or has spoken too early, both end."""
        for one in (self, other):
            if one.closed or one._num_read or one._in_body:
                self.drop()
                other.drop()
                return
        self._other, other._other = other, self
        self._look()
        other._look()

    def hold(self, held: bool) -> None:
        """Read nothing for a while."""
        self._held = held
        self._look()

    def _look(self) -> None:
        """Read, unless that is not wanted now, or the other end cannot take it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        paused = self._held or (self._other is not None and self._other._full)
        if paused != self._paused:
            self._paused = paused
            if paused:
                transport.pause_reading()
            else:
                transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # --- asyncio's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=CHUNK_BYTES)
        own = self._transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _OPTIONS:
            own.setsockopt(socket.IPPROTO_TCP, option, value)
        peer = self._transport.get_extra_info("peername")
        if peer:
            self.host = str(peer[0]).partition("%")[0].removeprefix("::ffff:")
            own = self._transport.get_extra_info("sockname")
            self.local, self.local_port = str(own[0]).removeprefix("::ffff:"), int(own[1])
        self._look()
        self.owner.arrived(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._other is not None:
            return _SCRATCH[: self.chunk_bytes]
        return self._frame[self._num_read : self._wanted]

    def buffer_updated(self, nbytes: int) -> None:
        if self._other is not None:
            self._other._write(bytes(_SCRATCH[:nbytes]))
            self.owner.carried(self, nbytes)
            return
        self._num_read += nbytes
        if self._num_read == self._wanted:
            read = bytes(self._frame[: self._wanted])
            self._num_read, self._in_body = 0, not self._in_body
            self._whole(read)

    def _whole(self, read: bytes) -> None:
        """A head, or the body behind it."""
        if not self._in_body:
            self._wanted = HEAD_BYTES
            self.owner.heard(self, read)
            return
        try:
            self._wanted = body_bytes(read)
        except PeerMisbehaved:
            self.drop()

    def pause_writing(self) -> None:
        self._full = True
        if self._other is not None:
            self._other._look()

    def resume_writing(self) -> None:
        self._full = False
        if self._other is not None:
            self._other._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._lingering is not None:
            self._lingering.cancel()
        if self._other is not None:
            self._other.finish()
        self.owner.lost(self)
