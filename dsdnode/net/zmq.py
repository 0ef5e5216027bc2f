"""The transport of the real swarm: CURVE on every link, verified peer ids on every frame, limits on everything.

One ROUTER that others dial, at most one DEALER for control and one for bulk to each peer that we dial, and links that
serve both ways. Settings and their reasons: sockets.py. Who may connect: zap.py. Who is believed: handshake.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import structlog

from dsdnode.addresses import ANY_HOST, Nearness, parse_address
from dsdnode.errors import BadInput, PeerUnavailable
from dsdnode.identity import Identity, peer_id, short_id
from dsdnode.net.dials import Teacher
from dsdnode.net.door import leads_here
from dsdnode.net.handshake import CAPABILITIES, Handshake, derive_swarm_key, swarm_names
from dsdnode.net.house import House
from dsdnode.net.interfaces import AddressWatch, Own
from dsdnode.net.knock import Knocks
from dsdnode.net.link import Inbound, Link
from dsdnode.net.links import Links
from dsdnode.net.meter import Meter
from dsdnode.net.outlook import Outlook
from dsdnode.net.paths import Paths
from dsdnode.net.places import advertised, here_of, is_anywhere
from dsdnode.net.port import MAX_DIALLED, LinkKind, Priority, Sighting, listed
from dsdnode.net.queues import Inbox
from dsdnode.net.relays import Circuits, Relays
from dsdnode.net.router import Router
from dsdnode.net.sockets import Names, open_context
from dsdnode.net.watch import MemoryWatch
from dsdnode.net.zap import Gate, ZapServer
from dsdnode.wire.codec import printable
from dsdnode.wire.messages import PROTOCOL_VERSION, Contact, Hello, Refused, Welcome

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
        self._gate, self._inbox = Gate(), Inbox()
        self._callbacks: list[Callable[[bytes, str, float], None]] = []
        self._on_broken: list[Callable[[bytes, bool, float], None]] = []
        self._on_moved: list[Callable[[], None]] = []
        self._left: dict[bytes, None] = {}
        """Peers that we were linked to in a network that we have left, to be called from the next one."""
        self._router: Router | None = None
        self._zap: ZapServer | None = None
        self._closed = False
        self._names, self._identity, self.meter = Names(), identity, Meter()
        self.relays: Relays | None = None
        self._follows = ""
        """Where it listens, if what it tells others may change."""
        self._advertise = tuple(advertise)
        self.here: tuple[str, ...] = ()
        self._listens = (ANY_HOST[0] if listen is None else ""), 0
        """On any host, and a port; port 0: it does not; host "": on a certain one."""
        addresses, port = tuple[str, ...](), 0
        if listen is not None:
            addresses, port = self._listen(listen, advertise, swarm_keys)
        keys = tuple(map(derive_swarm_key, swarm_keys))
        self._handshake = Handshake(Contact(identity.public_key, addresses), keys, version)
        more = self._gate, self._inbox, self._lost, self._broken
        self._links = Links(self._context, self._names, identity, self._handshake, *more)
        self._knocks, self._links.meter = Knocks(self._links), self.meter
        self._watch = MemoryWatch(memory_limit_bytes, self._drop_fillers, self._too_much_memory)
        self._addresses = AddressWatch(self._moved)
        self.outlook = Outlook(self._links, self._listens, self._relocate) if self._listens[0] else None
        """How our ports look from outside, and how that is found out for others."""
        self._is_anywhere = is_anywhere([own.host for own in self._addresses.addresses])
        self.twin, self.is_stranded = "", False
        self.paths = Paths(self._links, self._router, self.outlook, self.relays, self._open_router)
        self._house: House | None = None
        if self._follows and not advertise:
            self._house = House(port, self.contact, swarm_names(swarm_keys), self._relocate, identity)

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

    def _listen(self, listen: str, advertise: Sequence[str], keys: Sequence[str]) -> tuple[tuple[str, ...], int]:
        """What others are told, and the port. Raises BadInput."""
        circuits = Circuits()
        try:
            router = self._open_router(listen, circuits)
            addresses = advertised(listen, advertise, router.port)
        except BadInput:
            self._stop_listening()
            self._context.term()
            raise
        self.here = here_of(listen, router.port, addresses)
        host, _ = parse_address(listen, lowest_port=0)
        if host in ANY_HOST:
            self._follows = listen
            self._listens = host, router.port
            more = self._relocate, bool(advertise)
            self.relays = Relays(self._identity, keys, self._listens, self._gate, circuits, *more)
            self.relays.meter = self.meter
        return addresses, router.port

    def _open_router(self, listen: str, circuits: Circuits) -> Router:
        """Raises BadInput. (A client's own is opened when somebody is to call it, and told to nobody else.)"""
        self._zap = self._zap or ZapServer(self._context, self._gate)
        self._router = Router(self, self._context, self._names, self._identity, listen, circuits)
        return self._router

    def _stop_listening(self) -> None:
        if self._router is not None:
            self._router.close()
        if self._zap is not None:
            self._zap.close()

    async def close(self) -> None:
        """Drops what is queued. Bounded in time."""
        if self._closed:
            return
        self._closed = True
        self._watch.close()
        self._addresses.close()
        if self._house is not None:
            await self._house.close()
        if self.relays is not None:
            await self.relays.close()
        if self.outlook is not None:
            await self.outlook.close()
        self._links.close()
        self._knocks.close()
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

    @property
    def given(self) -> tuple[str, ...]:
        return self.relays.given if self.relays is not None else ()

    @property
    def relay_bytes_per_s(self) -> float:
        return self.relays.bytes_per_s if self.relays is not None else 0.0

    @property
    def is_called(self) -> bool:
        return self._router is not None and self._router.is_called

    def greet_as(self, addresses: Sequence[str]) -> None:
        self._handshake = self._links.handshake = replace(self._handshake, named=tuple(addresses))

    def introduce(self, contact: Contact, teacher: bytes | Teacher | None = None) -> None:
        if contact.public_key == self.contact.public_key or not contact.addresses:
            return
        try:
            peer = self._links.book.meet(contact.public_key)
        except ValueError:
            return  # a key that nobody can have
        if teacher is not None:
            by, now = teacher if isinstance(teacher, Teacher) else self._as_teacher(teacher), self._loop.time()
            if peer.hear(contact, by, lambda *call: self._links.dials.has_left(now, *call)):
                peer.retry_at = 0.0
        elif peer.given != contact:
            peer.given, peer.retry_at, peer.leads_nowhere = contact, 0.0, False

    def _as_teacher(self, peer: bytes) -> Teacher:
        if peer == self._identity.peer_id:
            return Teacher(Nearness.HERE, peer.hex())
        known = self._links.book.get(peer)
        return (known and known.as_teacher) or Teacher(Nearness.WORLD, peer.hex())

    def sighting(self, peer: bytes) -> Sighting:
        known = self._links.book.get(peer)
        return known.sighting() if known is not None else Sighting(near=Nearness.WORLD)

    async def reach(self, peer: bytes, address: str, anew: bool = False) -> bool:
        known = self._links.book.get(peer)
        return known is not None and not self._closed and await self._knocks.reach(known, address, anew)

    async def visit(self, contact: Contact, teacher: bytes) -> None:
        await self._knocks.visit(contact, self._as_teacher(teacher))

    def linked(self) -> Iterator[bytes]:
        return self._links.book.linked()

    async def look_for_twin(self, places: Mapping[str, bytes | None]) -> None:
        named = {address: self._as_teacher(by) if by is not None else None for address, by in places.items()}
        for address in await self._knocks.twins(named):
            self._meet_twin(address)

    def _meet_twin(self, where: str) -> None:
        """`where`: an address, or as much as is known of it."""
        if where != self.twin:
            self.twin = where
            log.error("this node's identity is in use twice: another process has the same key", where=where)

    def contact_of(self, peer: bytes) -> Contact | None:
        return known.contact() if (known := self._links.book.get(peer)) is not None else None

    def can(self, peer: bytes, capability: str) -> bool:
        known = self._links.book.get(peer)
        own = CAPABILITIES if peer == self._identity.peer_id else ()  # one node with several roles
        return capability in (own if known is None else known.capabilities)

    def source_of(self, peer: bytes) -> str:
        return "" if (known := self._links.book.get(peer)) is None else known.source

    def refused_by(self, peer: bytes) -> bool:
        return (known := self._links.book.get(peer)) is not None and known.refused

    def leads_nowhere(self, peer: bytes) -> bool:
        known = self._links.book.get(peer)
        if known is None or any(link.ready for link in known.links()):
            return False
        return known.leads_nowhere or any(dealer.leads_nowhere for dealer in known.dealers.values())

    def trouble_with(self, peer: bytes) -> str:
        known = self._links.book.get(peer)
        if known is None or any(link.ready for link in known.links()):
            return ""
        return known.why_lost or "; ".join(dict.fromkeys(dealer.why for dealer in known.dealers.values()))

    def on_peer_lost(self, callback: Callable[[bytes, str, float], None]) -> Callable[[], None]:
        return listed(self._callbacks, callback)

    def on_broken(self, callback: Callable[[bytes, bool, float], None]) -> Callable[[], None]:
        return listed(self._on_broken, callback)

    def on_moved(self, callback: Callable[[], None]) -> None:
        self._on_moved.append(callback)

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if peer == self._identity.peer_id and not self._closed:  # one node with several roles
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
        self._lost(peer, f"peer {short_id(peer)}: banned here", self._loop.time())

    # --- what the parts tell

    def greeted(self, hello: Hello, curve_key: bytes, host: str, circuit: int) -> Welcome | Refused:
        answer = self._handshake.answer(hello, curve_key)
        if isinstance(answer, Welcome) and hello.contact.public_key == self.contact.public_key:
            answer = Refused("this identity is in use here")
            if not self._knocks.is_ours(hello):
                self._meet_twin(printable(" ".join(hello.contact.addresses)) or f"{host}, at a port that is not known")
        if self._gate.is_banned(self._loop.time(), curve_key):
            answer = Refused("banned here")
        if isinstance(answer, Refused):
            self._gate.refused(self._loop.time(), host, circuit)
            log.info("greeting refused", peer=short_id(peer_id(hello.contact.public_key)), reason=answer.reason)
        return answer

    def inbound_ready(self, inbound: Inbound, curve_key: bytes) -> None:
        self._gate.know(curve_key)
        if self.outlook is not None and inbound.kind in (LinkKind.DIRECT, LinkKind.REVERSED):
            self.outlook.came(inbound)
        if not inbound.is_look:
            self._links.inbound_ready(inbound)

    def inbound_ended(self, inbound: Inbound) -> None:
        self._links.inbound_ended(inbound)

    def received(self, link: Link, frames: list[bytes]) -> None:
        self._links.received(link, frames)

    def _lost(self, peer: bytes, why: str, at_s: float) -> None:
        for callback in () if self._closed else list(self._callbacks):
            callback(peer, why, at_s)

    def doubt(self, peer: bytes) -> None:
        known = self._links.book.get(peer)
        if known is not None and not self._closed:
            self._links.doubt(known)

    def _broken(self, peer: bytes, bulk: bool, since_s: float) -> None:
        for callback in () if self._closed else list(self._on_broken):
            callback(peer, bulk, since_s)

    def on_neighbour(self, callback: Callable[[Contact], None]) -> bool:
        if self._house is not None:
            self._house.on_neighbour(callback)
        return self._house is not None

    @property
    def seen(self) -> str:
        address = self.outlook.address if self.outlook is not None else ""
        is_other = address and self._house is not None and address != self._house.address
        return address if is_other and not leads_here(parse_address(address)[0]) else ""

    @property
    def why_no_port(self) -> str:
        return self._house.why_no_port if self._house is not None else ""

    def _relocate(self) -> None:
        """Say where we are reached from now on, if that has changed."""
        if not self._follows or self._router is None or self._closed:
            return
        mapped = self._house.address if self._house is not None else ""
        given = [one for one in (mapped, self.seen, *self.given) if one]
        addresses = advertised(self._follows, self._advertise, self._router.port, given)
        if addresses == self.contact.addresses:
            return
        log.info("reached at other addresses from now on, perhaps", addresses=addresses)
        self._handshake = replace(self._handshake, contact=Contact(self.contact.public_key, addresses))
        self._links.handshake = self._handshake
        self.here = here_of(self._follows, self._router.port, addresses)
        if self._house is not None:
            self._house.say(self.contact)
        for callback in self._on_moved:
            callback()

    def _moved(self, found: Sequence[Own]) -> None:
        """This machine has other addresses: connections from those that are gone will never bring anything again."""
        hosts = {own.host for own in found}
        if self._house is not None:
            self._house.moved()
        if self.outlook is not None:
            self.outlook.moved()
        circuits = self.relays is not None and self.relays.moved(hosts)
        self._relocate()
        left = self._router.leave_all_but(hosts, circuits) if self._router is not None else []
        self._left.update(dict.fromkeys([*left, *self._links.leave_all_but(hosts)]))
        was_anywhere, self._is_anywhere = self._is_anywhere, is_anywhere(hosts)
        self.is_stranded = (was_anywhere or self.is_stranded) and not self._is_anywhere
        if not self._is_anywhere:
            return
        called, self._left = list(self._left)[:MAX_DIALLED], {}
        for peer in filter(None, map(self._links.book.get, called)):
            self._links.call(peer)

    def _drop_fillers(self) -> bool:
        """False: it cannot be told who they are."""
        network = self._router.drop_fillers() if self._router is not None else None
        if network is not None:
            self._gate.lock(self._loop.time(), network)
        return network is not None

    def _too_much_memory(self) -> None:
        log.warning("memory limit reached: all connections are dropped, and strangers stay out for a while")
        self._gate.lock(self._loop.time())
        self._links.interrupt("dropped, for memory was short")
        if self.outlook is not None:
            self.outlook.moved()
        if self._router is not None:
            self._router.rebind()
