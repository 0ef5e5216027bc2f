"""Where peers live, as calls of our own have shown: of what they say of themselves, that alone is passed on.

Whoever looks for a model calls those whom we name. An address that only its claimant vouches for has them call a victim
or, in the place of an honest peer that lives there, use up what they may try.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

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
VERIFY_AGAIN_S, MOST_AGAIN_S = 30.0, 960.0
CONFIRM_S = 1800.0
"""An address that did not answer may do so later, and is called after twice as long each time, unless its peer asks for
it; and a peer may claim another at any time."""
ANNOUNCED_S = 2.0
"""So long an announcement waits for its address to be called: it is to be found as soon as it is held. Its sender waits
for 3 s."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """Which addresses a peer claimed when they were called last, when, and how long they need not be called again."""

    addresses: frozenset[str]
    called_s: float
    pause_s: float = VERIFY_AGAIN_S / 2


class Homes:
    """`answered` is told of a peer that answers a call of ours, for the first time or again."""

    def __init__(self, transport: Transport, tasks: Tasks, answered: Callable[[Contact], Awaitable[None]]) -> None:
        self._transport = transport
        self._tasks = tasks
        self._answered = answered
        self._calling: dict[bytes, asyncio.Event] = {}
        """Peers that are being called, and what is set when that is over."""
        self._claimed: LRUCache[bytes, _Claim] = LRUCache(MAX_CLAIMED)
        self._proven: LRUCache[tuple[bytes, str], None] = LRUCache(MAX_ADDRESSES * MAX_TOTAL)
        """Peers and their addresses that answered once: one that is gone for a while still has its records."""

    @property
    def busy(self) -> bool:
        return bool(self._calling)

    def reached(self, contact: Contact) -> tuple[str, ...]:
        """At which of its addresses a peer answers without a relay; else at which others."""
        peer = node_id(contact)
        sighting = self._transport.sighting(peer)
        self._proven.update({(peer, address): None for address in sighting.reached})
        answering = tuple(address for address in sighting.reached if address not in sighting.relayed)
        there = tuple(address for address in contact.addresses if address in answering)
        return there or answering[:MAX_ADDRESSES]

    def call_soon(self, contact: Contact, anew: bool = False) -> None:
        """Have all that a peer claims called, unless that was done just now. `anew`: it has answered at others, or may
        not answer any more; so all are called where no connection leads."""
        peer, claimed = node_id(contact), frozenset(contact.addresses)
        if peer in self._calling or len(self._calling) >= MAX_VERIFYING or not (anew or is_dialable(contact)):
            return
        claim = self._claimed.get(peer)
        if claim is None or not claimed <= claim.addresses:
            claim = _Claim(claimed, float("-inf"))
        if _now() >= claim.called_s + (VERIFY_AGAIN_S if anew else claim.pause_s):
            self._calling[peer] = asyncio.Event()
            self._claimed[peer] = _Claim(claimed, _now(), min(2 * claim.pause_s, MOST_AGAIN_S))
            self._tasks.spawn(self._call(contact, anew))

    def heard(self, contact: Contact, reached: Collection[str]) -> None:
        """A peer has spoken, and has answered at `reached`: what it claims besides is called soon; the rest now and
        then, for it speaks over connections of its own, too."""
        answering, claimed = frozenset(reached), frozenset(contact.addresses)
        if answering != claimed:
            self.call_soon(contact, anew=not answering <= claimed)
        elif (
            claimed
            and _now() >= self._claimed.setdefault(node_id(contact), _Claim(claimed, _now())).called_s + CONFIRM_S
        ):
            self.call_soon(contact, anew=True)

    async def announced(self, peer: bytes, records: Collection[ProviderRecord]) -> None:
        """It has announced these: call it where they say, and return when that is done or takes too long."""
        for contact in [record.contact for record in records if not record.withdrawn]:
            await self.called(contact, ANNOUNCED_S)

    async def called(self, contact: Contact, patience_s: float, anew: bool = False) -> None:
        """Return when all that a peer claims has been called, or after `patience_s`. `anew`: what has answered, too."""
        peer, until_s = node_id(contact), _now() + patience_s
        for _ in range(2):  # what is under way already may be calls of what it claimed before
            if not anew and all(self._is_home(peer, address) for address in contact.addresses):
                return
            self.call_soon(contact, anew)
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

    async def _call(self, contact: Contact, anew: bool) -> None:
        peer = node_id(contact)
        try:
            await self._transport.reach(peer, anew)
            for address in contact.addresses:
                self._is_home(peer, address)
        finally:
            self._calling.pop(peer).set()
        if self._transport.sighting(peer).reached:
            await self._answered(contact)


def _now() -> float:
    return asyncio.get_running_loop().time()
