"""A transport within one process, for tests: everything arrives, in order, unless the hub is told otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dsdnode.dht.ids import network_of
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import peer_id
from dsdnode.net.port import Priority
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
    """Implements net/port.py's Transport. Closing it is what killing its process would be to the others."""

    def __init__(self, hub: MemoryHub, contact: Contact) -> None:
        self.contact = contact
        self._hub = hub
        self._id = peer_id(contact.public_key)
        self._inbox = Inbox()
        self._contacts: dict[bytes, Contact] = {}
        self.source = "127.0.0.1"
        """Where others see it call from."""
        self.banned: set[bytes] = set()
        self._lost: list[Callable[[bytes, str], None]] = []

    def introduce(self, contact: Contact) -> None:
        self._contacts[peer_id(contact.public_key)] = contact

    def contact_of(self, peer: bytes) -> Contact | None:
        return self._contacts.get(peer)

    def source_of(self, peer: bytes) -> str:
        known = self._hub.transports.get(peer)
        return "" if known is None else known.source

    def refused_by(self, peer: bytes) -> bool:
        return False

    def trouble_with(self, peer: bytes) -> str:
        return ""

    def on_peer_lost(self, callback: Callable[[bytes, str], None]) -> None:
        self._lost.append(callback)

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        target = self._hub.transports.get(peer)
        if target is None or self._id not in self._hub.transports:
            raise PeerUnavailable("nobody of that name is here")
        target.introduce(self.contact)
        if self._id not in target.banned:
            asyncio.get_running_loop().call_soon(target._inbox.put, self._id, frames, network_of(self.source))

    async def receive(self) -> tuple[bytes, list[bytes]]:
        return await self._inbox.get()

    def ban(self, peer: bytes, duration_s: float) -> None:
        self.banned.add(peer)

    async def close(self) -> None:
        if self._hub.transports.pop(self._id, None) is not None:
            for other in self._hub.transports.values():
                for callback in other._lost:
                    callback(self._id, "gone")
