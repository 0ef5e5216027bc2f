"""A transport within one process, for tests: everything arrives, in order, unless the hub is told otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from dsdnode.addresses import machine_of, network_of
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import peer_id
from dsdnode.net.dials import Teacher
from dsdnode.net.port import Priority, Sighting, listed
from dsdnode.net.queues import Inbox
from dsdnode.wire.messages import Contact


class MemoryHub:
    """Where the transports of one test meet."""

    def __init__(self) -> None:
        self.transports: dict[bytes, MemoryTransport] = {}

    def transport(self, contact: Contact) -> MemoryTransport:
        transport = self.transports[peer_id(contact.public_key)] = MemoryTransport(self, contact)
        return transport


class MemoryTransport:
    """Implements net/port.py's Transport, and believes what it is told.

    Closing it is what killing its process would be to the others.
    """

    def __init__(self, hub: MemoryHub, contact: Contact) -> None:
        self.contact = contact
        self.here = contact.addresses
        self.twin = ""
        self.why_no_port = self.seen = ""
        self.relays = self.outlook = self.paths = None
        self.given: tuple[str, ...] = ()
        self.relay_bytes_per_s = 0.0
        self.is_called = False
        self._hub = hub
        self._id = peer_id(contact.public_key)
        self._inbox = Inbox()
        self._contacts: dict[bytes, Contact] = {}
        self.source = "127.0.0.1"
        """Where others see it call from."""
        self._called: set[bytes] = set()
        """By whom: a message to them needs no call of ours."""
        self._reached: set[bytes] = set()
        self._greets: Contact | None = None
        self.banned: set[bytes] = set()
        self._lost: list[Callable[[bytes, str, float], None]] = []

    def greet_as(self, addresses: Sequence[str]) -> None:
        self._greets = Contact(self.contact.public_key, tuple(addresses))

    def introduce(self, contact: Contact, teacher: bytes | Teacher | None = None) -> None:
        self._contacts[peer_id(contact.public_key)] = contact

    def sighting(self, peer: bytes) -> Sighting:
        contact = self._contacts.get(peer)
        return Sighting(contact.addresses) if contact is not None and peer in self._reached else Sighting()

    async def reach(self, peer: bytes, address: str, anew: bool = False) -> bool:
        if peer in self._hub.transports:
            self._reached.add(peer)
        return True

    async def visit(self, contact: Contact, teacher: bytes) -> None:
        """Everybody is reached here."""

    def linked(self) -> Iterator[bytes]:
        return iter(())

    async def look_for_twin(self, places: Mapping[str, bytes | None]) -> None:
        """Of one name there is one here."""

    def contact_of(self, peer: bytes) -> Contact | None:
        return self._contacts.get(peer)

    def can(self, peer: bytes, capability: str) -> bool:
        return True

    def source_of(self, peer: bytes) -> str:
        known = self._hub.transports.get(peer)
        return "" if known is None else known.source

    def refused_by(self, peer: bytes) -> bool:
        return False

    def leads_nowhere(self, peer: bytes) -> bool:
        return False

    def trouble_with(self, peer: bytes) -> str:
        return ""

    def on_peer_lost(self, callback: Callable[[bytes, str, float], None]) -> Callable[[], None]:
        return listed(self._lost, callback)

    def on_broken(self, callback: Callable[[bytes, bool, float], None]) -> Callable[[], None]:
        """There are no connections."""
        return lambda: None

    def doubt(self, peer: bytes) -> None:
        """Nor do they die without anybody's knowing."""

    @property
    def is_stranded(self) -> bool:
        return False

    def on_neighbour(self, callback: Callable[[Contact], None]) -> bool:
        return False

    def on_moved(self, callback: Callable[[], None]) -> None:
        """Nobody moves here."""

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        target = self._hub.transports.get(peer)
        if target is None or self._id not in self._hub.transports:
            raise PeerUnavailable("nobody of that name is here")
        self.calls(peer)
        target.called_by(self._greets or self.contact)
        if self._id not in target.banned:
            where = network_of(self.source), machine_of(self.source)
            asyncio.get_running_loop().call_soon(target._inbox.put, self._id, frames, *where)

    def calls(self, peer: bytes) -> None:
        """We send to somebody: over the connection that it has made, else over one of ours, which reaches it."""
        if peer not in self._called:
            self._reached.add(peer)

    def called_by(self, contact: Contact) -> None:
        """Somebody has sent us something."""
        self.introduce(contact)
        self._called.add(peer_id(contact.public_key))

    async def receive(self) -> tuple[bytes, list[bytes]]:
        return await self._inbox.get()

    def ban(self, peer: bytes, duration_s: float) -> None:
        self.banned.add(peer)

    async def close(self) -> None:
        if self._hub.transports.pop(self._id, None) is not None:
            for other in self._hub.transports.values():
                for callback in list(other._lost):
                    callback(self._id, "gone", asyncio.get_running_loop().time())
