"""Keeps a port of our home's router mapped to us: the sockets and the clock around `Mapping`.

Nothing is asked of machines other than the gateway of the default route, and heard from no others.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import structlog

from dsdnode.identity import LABEL, Identity
from dsdnode.net.mapping import Mapped, Mapping
from dsdnode.net.pcp import ANNOUNCE_GROUP, ANNOUNCE_PORT, MAX_ANSWER_BYTES, NONCE_BYTES, SERVER_PORT, Request
from dsdnode.net.port import MAX_TURN

log = structlog.get_logger(__name__)

ROUTES = Path("/proc/net/route")
REMOVAL_WAITS_S = (0.1, 0.3)
"""For the router to say that it has taken a port back. It does anyway when the lease is over."""
_UP_AND_GATEWAY = 0x3
_ASKED = LABEL + b"port of a router 1\n"


class PortMapper:
    """Of one TCP port, from `start` to `close`. `on_change` is told what is mapped now; None: nothing any more."""

    def __init__(
        self,
        port: int,
        on_change: Callable[[Mapped | None], None],
        router: tuple[str, int] | None = None,
        announce_port: int = ANNOUNCE_PORT,
        identity: Identity | None = None,
    ) -> None:
        """`router`: None, for the gateway of the default route, whatever that is when `start` is called. `identity`:
        whose the port is, also after its process was killed; None: nobody's."""
        self._port, self._on_change = port, on_change
        self._router, self._announce_port = router, announce_port
        self._loop = asyncio.get_running_loop()
        self._mapping: Mapping | None = None
        self._identity = identity or Identity.generate()
        self._sock: socket.socket | None = None
        self._announcements: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._told: Mapped | None = None
        self._settled = asyncio.Event()
        self._removed: asyncio.Event | None = None
        """There while we wait for it."""
        self._why_not = ""

    @property
    def mapped(self) -> Mapped | None:
        return self._mapping.mapped if self._mapping else None

    @property
    def why_not(self) -> str:
        """In words, once it is known that nothing is mapped."""
        return self._mapping.why_not if self._mapping else self._why_not

    @property
    def announce_port(self) -> int | None:
        """Where a router's news is heard; None: another program has that port for itself."""
        return self._announcements.getsockname()[1] if self._announcements else None

    def start(self) -> None:
        """Also after `stop`, when our network is another one: the router may be, too."""
        host = gateway()
        router = self._router or ((host, SERVER_PORT) if host else None)
        if router is None:
            return self._settle("no gateway is known on this system")
        try:
            self._sock = self._connect(router)
        except OSError as error:
            return self._settle(f"the router at {router[0]} cannot be asked: {error.strerror or error}")
        own_ip = self._sock.getsockname()[0]
        nonce = _nonce(self._identity, router, own_ip)
        self._mapping = Mapping(Request(own_ip, self._port, nonce), self._loop.time())
        self._announcements = self._hear_announcements(own_ip)
        self._go_on()

    def stop(self) -> None:
        """Forgets the router, which keeps the mapping until its lease is over. Nothing is told."""
        if self._timer:
            self._timer.cancel()
        for sock in filter(None, (self._sock, self._announcements)):
            self._loop.remove_reader(sock)
            sock.close()
        self._sock = self._announcements = self._mapping = self._told = None
        self._settled.clear()
        self._why_not = ""

    async def settled(self) -> Mapped | None:
        """What there is, once that is known: within seconds."""
        await self._settled.wait()
        return self.mapped

    async def close(self) -> None:
        """Gives the port back."""
        try:
            if self._mapping and (removal := self._mapping.removal()):
                await self._remove(removal)
        finally:
            self._removed = None
            self.stop()
            self._settled.set()  # nobody waits any longer

    async def _remove(self, removal: list[bytes]) -> None:
        self._removed = asyncio.Event()
        for wait_s in REMOVAL_WAITS_S:
            self._send(removal)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._removed.wait(), wait_s)
                return

    def _connect(self, router: tuple[str, int]) -> socket.socket:
        """Connected: so the kernel drops what others send there, and tells when nobody listens."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(router)
        except OSError:
            sock.close()
            raise
        self._loop.add_reader(sock, self._readable)
        return sock

    def _hear_announcements(self, own_ip: str) -> socket.socket | None:
        sock: socket.socket | None = None
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", self._announce_port))
            group = socket.inet_aton(ANNOUNCE_GROUP) + socket.inet_aton(own_ip)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        except OSError as error:
            log.debug("routers' announcements are not heard", reason=str(error))
            if sock is not None:
                sock.close()
            return None
        self._loop.add_reader(sock, self._announced)
        return sock

    def _readable(self) -> None:
        assert self._mapping and self._sock
        try:
            for data, _ in _datagrams(self._sock):
                if self._removed:
                    if self._mapping.is_removed(data):
                        self._removed.set()
                else:
                    self._mapping.heard(self._loop.time(), data)
        except OSError:
            self._mapping.refused(self._loop.time())
        self._go_on()

    def _announced(self) -> None:
        assert self._mapping and self._sock and self._announcements
        router = self._sock.getpeername()[0]
        with suppress(OSError):
            for data, sender in _datagrams(self._announcements):
                if sender[0] == router:
                    self._mapping.announced(self._loop.time(), data)
        self._go_on()

    def _go_on(self) -> None:
        """Say what is to be said now, tell what has changed, and come back when something is due."""
        if self._removed:
            return
        assert self._mapping
        self._send(self._mapping.tick(self._loop.time()))
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._mapping.due, self._go_on)
        if self._mapping.is_settled:
            self._settle(self._mapping.why_not)

    def _send(self, messages: list[bytes]) -> None:
        assert self._mapping and self._sock
        for message in messages:
            try:
                self._sock.send(message)
            except BlockingIOError:
                return
            except OSError:
                return self._mapping.refused(self._loop.time())

    def _settle(self, why_not: str) -> None:
        if not self._settled.is_set() or _place(self._told) != _place(self.mapped):
            if self.mapped:
                log.info("the router passes a port on to this node", host=self.mapped.host, port=self.mapped.port)
            else:
                log.info("the router passes no port on to this node", reason=why_not)
        self._why_not = why_not
        self._settled.set()
        before, self._told = self._told, self.mapped
        if _place(before) != _place(self._told):
            self._on_change(self._told)


def _nonce(identity: Identity, router: tuple[str, int], own_ip: str) -> bytes:
    """By which a router knows, until the lease is over, whose a mapping is: it says no to another one. The same when
    this identity asks that router from that address again, and nobody else can tell what it is."""
    where = f"{router[0]} {router[1]} {own_ip}"
    return hashlib.sha256(identity.sign(_ASKED + where.encode())).digest()[:NONCE_BYTES]


def gateway_of(routes: str) -> str | None:
    """The default route's, of what /proc/net/route says; of several the nearest."""
    found: list[tuple[int, str]] = []
    for line in routes.splitlines()[1:]:
        with suppress(ValueError, IndexError):
            words = line.split()
            destination, gateway, flags, metric, mask = words[1], words[2], int(words[3], 16), int(words[6]), words[7]
            if int(destination, 16) == int(mask, 16) == 0 and flags & _UP_AND_GATEWAY == _UP_AND_GATEWAY:
                found.append((metric, socket.inet_ntoa(int(gateway, 16).to_bytes(4, sys.byteorder))))
    return min(found)[1] if found else None


def gateway() -> str:
    """Of the default route ("": there is none, or this system does not say)."""
    try:
        return gateway_of(ROUTES.read_text()) or ""
    except OSError:
        return ""


def _datagrams(sock: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """Those that have come, so many a turn. One that is too long is cut, and is no answer then."""
    with suppress(BlockingIOError):
        for _ in range(MAX_TURN):
            yield sock.recvfrom(MAX_ANSWER_BYTES + 1)


def _place(mapped: Mapped | None) -> tuple[str, int] | None:
    return (mapped.host, mapped.port) if mapped else None
