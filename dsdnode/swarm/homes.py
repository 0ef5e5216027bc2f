"""Where peers live, as calls of our own have shown: of what they say of themselves, that alone is passed on.

Whoever looks for a model calls those whom we name. An address that only its claimant vouches for has them call a victim
or, in the place of an honest peer that lives there, use up what they may try.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from cachetools import LRUCache

from dsdnode.addresses import Nearness, may_name, nearness, network
from dsdnode.dht.ids import is_dialable, node_id
from dsdnode.dht.store import MAX_TOTAL
from dsdnode.net.port import Transport
from dsdnode.swarm.queries import Tasks, wait_until
from dsdnode.wire.messages import MAX_ADDRESSES, Contact
from dsdnode.wire.records import ProviderRecord

MAX_VERIFYING = 64
"""Peers that are called at once, each at so many of the addresses that it claims:"""
MAX_CALLED = 2 * MAX_ADDRESSES
MAX_OF_A_PLACE = 16
"""Of those peers so many of one network, or of one machine nearby: names are free."""
MAX_CLAIMED = 4096
VERIFY_AGAIN_S, MOST_AGAIN_S = 30.0, 960.0
CONFIRM_S = 1800.0
"""An address that did not answer may do so later, and is called after twice as long each time, unless its peer asks for
it; and a peer may claim another at any time."""
SETTLED_S = 1.0
"""After one address has answered, for others that do: by way of a relay a call takes 0.6 s from home to home. A silent
one takes as long as we have patience."""
ANNOUNCED_S = 2.0
"""So long an announcement waits for its address to be called: it is to be found as soon as it is held. Its sender waits
for 3 s."""


@dataclass(frozen=True, slots=True)
class _Called:
    """When an address that a peer claims was called last, and how long it need not be called again."""

    at_s: float
    pause_s: float = VERIFY_AGAIN_S / 2


@dataclass(slots=True)
class _Calls:
    """Of one peer: the addresses that are being called, and what is set when one of these calls has ended."""

    place: str = ""
    """Where it was seen to be; "": nobody knows, or on this machine."""
    under_way: dict[str, None] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Homes:
    """`answered` is told of a peer that answers a call of ours, for the first time or again."""

    def __init__(self, transport: Transport, tasks: Tasks, answered: Callable[[Contact], Awaitable[None]]) -> None:
        self._transport = transport
        self._tasks = tasks
        self._answered = answered
        self._calling: dict[bytes, _Calls] = {}
        self._claimed: LRUCache[tuple[bytes, str], _Called] = LRUCache(MAX_CLAIMED)
        self._silent: LRUCache[tuple[bytes, str], float] = LRUCache(MAX_CLAIMED)
        """When such a call was over, and had been in vain."""
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
        """Have the peer called where it claims to be and has not answered, unless that was done just now. `anew`: it
        has answered at others, or may not answer any more; so it is called wherever no connection leads."""
        peer = node_id(contact)
        place = _place(self._transport.source_of(peer))
        if (peer not in self._calling and not self._has_room(place)) or not (anew or is_dialable(contact)):
            return
        answering = self._transport.sighting(peer).reached
        for address in dict.fromkeys((*contact.addresses, *answering)) if anew else contact.addresses:
            calls = self._calling.get(peer) or _Calls(place)
            last = self._claimed.get((peer, address)) or _Called(float("-inf"))
            is_due = _now() >= last.at_s + (VERIFY_AGAIN_S if anew else last.pause_s)
            is_new = address not in calls.under_way and (anew or address not in answering)
            if is_due and is_new and len(calls.under_way) < MAX_CALLED:
                self._calling[peer] = calls
                calls.under_way[address] = None
                self._claimed[peer, address] = _Called(_now(), min(2 * last.pause_s, MOST_AGAIN_S))
                self._tasks.spawn(self._call(contact, address, anew, calls))

    def _has_room(self, place: str) -> bool:
        """For calls of one more peer that is there."""
        num_there = sum(calls.place == place for calls in self._calling.values()) if place else 0
        return num_there < MAX_OF_A_PLACE and len(self._calling) < MAX_VERIFYING

    def heard(self, contact: Contact, reached: Collection[str]) -> None:
        """A peer has spoken, and has answered at `reached`: what it claims besides is called soon; the rest now and
        then, for it speaks over connections of its own, too."""
        answering, claimed = frozenset(reached), frozenset(contact.addresses)
        if answering != claimed:
            self.call_soon(contact, anew=not answering <= claimed)
        elif self._is_to_confirm(contact):
            self.call_soon(contact, anew=True)

    def _is_to_confirm(self, contact: Contact) -> bool:
        """Was any of its addresses called long ago? (Asked of every message: what is not known yet is noted here.)"""
        peer, now = node_id(contact), _now()
        for address in contact.addresses:
            last = self._claimed.get((peer, address))
            if last is None:
                self._claimed[peer, address] = _Called(now)
            elif now >= last.at_s + CONFIRM_S:
                return True
        return False

    async def announced(self, peer: bytes, records: Collection[ProviderRecord]) -> None:
        """It has announced these: call it where they say, and return when that is done or takes too long."""
        for contact in [record.contact for record in records if not record.withdrawn]:
            await self.called(contact, ANNOUNCED_S)

    async def called(self, contact: Contact, patience_s: float) -> None:
        """Return when all that a peer claims has been called, or after `patience_s`."""
        until_s = _now() + patience_s
        if not all(self._is_home(node_id(contact), address) for address in contact.addresses):
            self.call_soon(contact)
            while await self._ended(contact, until_s):
                """There may be more."""

    async def tried(self, contact: Contact, patience_s: float) -> tuple[str, ...]:
        """Call a peer anew wherever it claims to be: where has it been called of late, whether it has answered there or
        not? Return when all that is over, or after `patience_s`; but soon after it has answered somewhere."""
        peer, until_s = node_id(contact), _now() + patience_s
        self.call_soon(contact, anew=True)
        is_going_on = True
        while is_going_on:
            if any(self._answers_now(peer, address) for address in contact.addresses):
                until_s = min(until_s, _now() + SETTLED_S)
            is_going_on = await self._ended(contact, until_s)
        since_s = _now() - VERIFY_AGAIN_S
        silent = [one for one in contact.addresses if self._silent.get((peer, one), float("-inf")) >= since_s]
        return tuple(one for one in contact.addresses if one in silent or self._answers_now(peer, one))

    async def _ended(self, contact: Contact, until_s: float) -> bool:
        """Wait for the end of a call of what a peer claims. False: there is none any more, or it is too late."""
        calls = self._calling.get(node_id(contact))
        if calls is None or calls.under_way.keys().isdisjoint(contact.addresses) or _now() >= until_s:
            return False
        calls.news.clear()
        await wait_until(calls.news, until_s)
        return True

    def may_show(self, record: ProviderRecord, asker: bytes) -> bool:
        """Does it lead the asker to nobody but its provider? (A tombstone leads nowhere.)"""
        near = self._transport.sighting(asker).near
        return record.withdrawn or all(
            self._is_home(record.peer_id, address) or not may_name(near, address) for address in record.addresses
        )

    def _answers(self, peer: bytes, address: str) -> bool:
        return address in self._transport.sighting(peer).reached

    def _answers_now(self, peer: bytes, address: str) -> bool:
        """What is being called anew may have answered for the last time."""
        return self._answers(peer, address) and address not in (self._calling.get(peer) or _Calls()).under_way

    def _is_home(self, peer: bytes, address: str) -> bool:
        home = (peer, address)
        if peer == node_id(self._transport.contact) or self._answers(peer, address):
            self._proven[home] = None
        return home in self._proven

    async def _call(self, contact: Contact, address: str, anew: bool, calls: _Calls) -> None:
        peer = node_id(contact)
        try:
            was_called = await self._transport.reach(peer, address, anew)
            self._is_home(peer, address)
            if was_called and not self._answers(peer, address):
                self._silent[peer, address] = _now()
        finally:
            del calls.under_way[address]
            if not calls.under_way:
                del self._calling[peer]
            calls.news.set()
        if self._answers(peer, address):
            await self._answered(contact)


def _place(source: str) -> str:
    return "" if nearness(source) in (None, Nearness.HERE) else network(source) or source


def _now() -> float:
    return asyncio.get_running_loop().time()
