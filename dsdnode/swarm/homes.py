"""Where peers live, as calls of our own have shown: of what they say of themselves, that alone is passed on.

Whoever looks for a model calls those whom we name. An address that only its claimant vouches for has them call a victim
or, in the place of an honest peer that lives there, use up what they may try.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from cachetools import LRUCache

from dsdnode.addresses import may_name
from dsdnode.dht.ids import is_dialable, node_id
from dsdnode.dht.store import MAX_TOTAL
from dsdnode.net.port import Transport
from dsdnode.swarm.queries import Tasks, wait_until
from dsdnode.wire.messages import MAX_ADDRESSES, Contact
from dsdnode.wire.records import ProviderRecord

MAX_VERIFYING = 64
MAX_CLAIMED = 4096
VERIFY_AGAIN_S = 30.0
"""An address that did not answer may do so later; and a peer may claim another at any time."""
ANNOUNCED_S = 2.0
"""So long an announcement waits for its address to be called: it is to be found as soon as it is held. Its sender waits
for 3 s."""


class Homes:
    """`answered` is told of a peer that answers a call of ours, for the first time or again."""

    def __init__(self, transport: Transport, tasks: Tasks, answered: Callable[[Contact], Awaitable[None]]) -> None:
        self._transport = transport
        self._tasks = tasks
        self._answered = answered
        self._calling: dict[bytes, asyncio.Event] = {}
        """Peers that are being called, and what is set when that is over."""
        self._claimed: LRUCache[bytes, tuple[frozenset[str], float]] = LRUCache(MAX_CLAIMED)
        """Which addresses a peer claimed when they were called last, and when."""
        self._proven: LRUCache[tuple[bytes, str], None] = LRUCache(MAX_ADDRESSES * MAX_TOTAL)
        """Peers and their addresses that answered once: one that is gone for a while still has its records."""

    @property
    def busy(self) -> bool:
        return bool(self._calling)

    def reached(self, contact: Contact) -> tuple[str, ...]:
        """At which of its addresses a peer answers; else at which others."""
        peer = node_id(contact)
        answering = self._transport.sighting(peer).reached
        self._proven.update({(peer, address): None for address in answering})
        there = tuple(address for address in contact.addresses if address in answering)
        return there or answering[:MAX_ADDRESSES]

    def call_soon(self, contact: Contact) -> None:
        """Have all that a peer claims called, unless that was done just now."""
        peer, claimed = node_id(contact), frozenset(contact.addresses)
        known, at_s = self._claimed.get(peer, (frozenset[str](), 0.0))
        if peer in self._calling or len(self._calling) >= MAX_VERIFYING or not is_dialable(contact):
            return
        if not claimed <= known or _now() >= at_s + VERIFY_AGAIN_S:
            self._calling[peer] = asyncio.Event()
            self._claimed[peer] = claimed, _now()
            self._tasks.spawn(self._call(contact))

    async def announced(self, peer: bytes, records: Collection[ProviderRecord]) -> None:
        """It has announced these: call it where they say, and return when that is done or takes too long."""
        for contact in [record.contact for record in records if not record.withdrawn]:
            await self.called(contact, ANNOUNCED_S)

    async def called(self, contact: Contact, patience_s: float) -> None:
        """Return when all that a peer claims has been called, or after `patience_s`."""
        peer, until_s = node_id(contact), _now() + patience_s
        for _ in range(2):  # what is under way already may be calls of what it claimed before
            if all(self._is_home(peer, address) for address in contact.addresses):
                return
            self.call_soon(contact)
            over = self._calling.get(peer)
            if over is not None:
                await wait_until(over, until_s)

    def may_show(self, record: ProviderRecord, asker: bytes) -> bool:
        """Does it lead the asker to nobody but its provider? (A tombstone leads nowhere.)"""
        near = self._transport.sighting(asker).near
        return record.withdrawn or all(
            self._is_home(record.peer_id, address) or not may_name(near, address) for address in record.addresses
        )

    def _is_home(self, peer: bytes, address: str) -> bool:
        home = (peer, address)
        if peer == node_id(self._transport.contact) or address in self._transport.sighting(peer).reached:
            self._proven[home] = None
        return home in self._proven

    async def _call(self, contact: Contact) -> None:
        peer = node_id(contact)
        try:
            await self._transport.reach(peer)
            for address in contact.addresses:
                self._is_home(peer, address)
        finally:
            self._calling.pop(peer).set()
        if self._transport.sighting(peer).reached:
            await self._answered(contact)


def _now() -> float:
    return asyncio.get_running_loop().time()
