"""The transport of the real swarm: CURVE on every link, verified peer ids on every frame, limits on everything.

One ROUTER that others dial, at most one DEALER for control and one for bulk to each peer that we dial, and links that
serve both ways. Settings and their reasons: sockets.py. Who may connect: zap.py. Who is believed: handshake.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

import structlog

from dsdnode.errors import BadInput, PeerUnavailable
from dsdnode.identity import Identity, is_ip, parse_address, peer_id, short_id
from dsdnode.net.handshake import Handshake, derive_swarm_key
from dsdnode.net.link import Inbound, Link
from dsdnode.net.links import Links
from dsdnode.net.port import Priority
from dsdnode.net.queues import Inbox
from dsdnode.net.router import Router
from dsdnode.net.sockets import Names, open_context
from dsdnode.net.watch import MemoryWatch
from dsdnode.net.zap import Gate, ZapServer
from dsdnode.wire.messages import MAX_ADDRESSES, PROTOCOL_VERSION, Contact, Hello, Refused, Welcome

MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
"""The process may grow by this before every connection is dropped."""
CLOSE_TIMEOUT_S = 5.0

log = structlog.get_logger(__name__)


class ZmqTransport:
    """Implements net/port.py's Transport. Made by `open` in a running loop."""

    def __init__(
        self,
        identity: Identity,
        listen: str | None,
        advertise: Sequence[str],
        swarm_keys: Sequence[str],
        version: int,
        memory_limit_bytes: int,
    ) -> None:
        self._context = open_context()
        self._loop = asyncio.get_running_loop()
        self._gate = Gate()
        self._inbox = Inbox()
        self._callbacks: list[Callable[[bytes, str], None]] = []
        self._router: Router | None = None
        self._zap: ZapServer | None = None
        self._closed = False
        self._own_id = identity.peer_id
        names = Names()
        addresses: tuple[str, ...] = ()
        if listen is not None:
            try:
                self._zap = ZapServer(self._context, self._gate, self._num_connections)
                self._router = Router(self, self._context, names, identity, listen)
                addresses = _advertised(listen, advertise, self._router.port)
            except BadInput:
                self._stop_listening()
                self._context.term()
                raise
        keys = tuple(map(derive_swarm_key, swarm_keys))
        self._handshake = Handshake(Contact(identity.public_key, addresses), keys, version)
        self._links = Links(self._context, names, identity, self._handshake, self._gate, self._inbox, self._lost)
        self._watch = MemoryWatch(memory_limit_bytes, self._drop_fillers, self._too_much_memory)

    @classmethod
    async def open(
        cls,
        identity: Identity,
        *,
        listen: str | None = None,
        advertise: Sequence[str] = (),
        swarm_keys: Sequence[str] = (),
        version: int = PROTOCOL_VERSION,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    ) -> ZmqTransport:
        """`listen` is tcp://IP:PORT, port 0 for any free one; without it nobody can dial us.

        `advertise` is what others are told instead. Raises BadInput, in words, when it cannot listen there.
        """
        return cls(identity, listen, advertise, swarm_keys, version, memory_limit_bytes)

    def _stop_listening(self) -> None:
        if self._router is not None:
            self._router.close()
        if self._zap is not None:
            self._zap.close()

    def _num_connections(self) -> int:
        return self._router.num_connections if self._router is not None else 0

    async def close(self) -> None:
        """Drops what is queued. Bounded in time."""
        if self._closed:
            return
        self._closed = True
        self._watch.close()
        self._links.close()
        self._stop_listening()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.to_thread(self._context.term)
        except TimeoutError:
            log.warning("libzmq does not end")

    # --- the port

    @property
    def contact(self) -> Contact:
        return self._handshake.contact

    def introduce(self, contact: Contact) -> None:
        if contact.public_key == self.contact.public_key or not contact.addresses:
            return
        try:
            peer = self._links.book.meet(contact.public_key)
        except ValueError:
            return  # a key that nobody can have
        if peer.introduced != contact:
            peer.introduced, peer.retry_at = contact, 0.0

    def contact_of(self, peer: bytes) -> Contact | None:
        known = self._links.book.get(peer)
        return (known.said or known.introduced) if known is not None else None

    def source_of(self, peer: bytes) -> str:
        known = self._links.book.get(peer)
        return "" if known is None else known.source

    def refused_by(self, peer: bytes) -> bool:
        known = self._links.book.get(peer)
        return known is not None and known.refused

    def trouble_with(self, peer: bytes) -> str:
        known = self._links.book.get(peer)
        if known is None or any(link.ready for link in known.links()):
            return ""
        return known.why_lost

    def on_peer_lost(self, callback: Callable[[bytes, str], None]) -> None:
        self._callbacks.append(callback)

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if peer == self._own_id and not self._closed:  # one node with several roles
            self._loop.call_soon(self._inbox.put, peer, frames)
            return
        known = self._links.book.get(peer)
        if known is None or self._closed:
            raise PeerUnavailable(f"peer {short_id(peer)}: no address known")
        self._links.send(known, frames, priority)

    async def receive(self) -> tuple[bytes, list[bytes]]:
        return await self._inbox.get()

    def ban(self, peer: bytes, duration_s: float) -> None:
        """Close the peer's links, and let it in no more for a while."""
        known = self._links.book.get(peer)
        if known is None:
            return
        log.warning("peer banned", peer=short_id(peer), duration_s=duration_s)
        self._gate.ban(self._loop.time(), known.curve_key, duration_s)
        self._links.drop_dealers(known)
        if self._router is not None:
            self._router.forget(peer)
        self._lost(peer, f"peer {short_id(peer)}: banned here")

    # --- what the parts tell

    def greeted(self, hello: Hello, curve_key: bytes) -> Welcome | Refused:
        answer = self._handshake.answer(hello, curve_key)
        if self._gate.is_banned(self._loop.time(), curve_key):
            answer = Refused("banned here")
        if isinstance(answer, Refused):
            log.info("greeting refused", peer=short_id(peer_id(hello.contact.public_key)), reason=answer.reason)
        return answer

    def inbound_ready(self, inbound: Inbound, hello: Hello, curve_key: bytes) -> None:
        self._gate.know(curve_key)
        self._links.inbound_ready(inbound, hello.contact)

    def inbound_ended(self, inbound: Inbound) -> None:
        self._links.inbound_ended(inbound)

    def received(self, link: Link, frames: list[bytes]) -> None:
        self._links.received(link, frames)

    def _lost(self, peer: bytes, why: str) -> None:
        if not self._closed:
            for callback in self._callbacks:
                callback(peer, why)

    def _drop_fillers(self) -> None:
        network = self._router.drop_fillers() if self._router is not None else None
        if network is not None:
            self._gate.lock(self._loop.time(), network)

    def _too_much_memory(self) -> None:
        log.warning("memory limit reached: all connections are dropped, and strangers stay out for a while")
        self._gate.lock(self._loop.time())
        self._links.interrupt("dropped, for memory was short")
        if self._router is not None:
            self._router.rebind()


def _advertised(listen: str, advertise: Sequence[str], port: int) -> tuple[str, ...]:
    """The addresses to tell others: `advertise`, else the one listened on, with the real port. Raises BadInput."""
    for address in advertise:
        try:
            parse_address(address)
        except ValueError as error:
            raise BadInput(f"cannot advertise: {error}") from error
    if len(advertise) > MAX_ADDRESSES:
        raise BadInput(f"cannot advertise {len(advertise)} addresses; at most {MAX_ADDRESSES}")
    if advertise:
        return tuple(advertise)
    host, _ = parse_address(listen, lowest_port=0)
    if host in ("0.0.0.0", "::"):
        host = _own_ip(socket.AF_INET6 if host == "::" else socket.AF_INET)
    return (f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}",)


def _own_ip(family: socket.AddressFamily) -> str:
    """The address that this machine would reach the world from (nothing is sent), else loopback."""
    v6 = family == socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("2001:db8::1" if v6 else "192.0.2.1", 9))
            own = str(probe.getsockname()[0])
        except OSError:
            own = "0.0.0.0"
    return own if is_ip(own) and own not in ("0.0.0.0", "::") else ("::1" if v6 else "127.0.0.1")
