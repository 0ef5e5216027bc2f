"""A call for its own sake: does the owner of a key answer at an address? Nothing else is said, and we hang up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field

from cachetools import LRUCache

from dsdnode.accounts import Account, Shares
from dsdnode.addresses import may_name
from dsdnode.identity import peer_id
from dsdnode.net.call import Way
from dsdnode.net.dials import Teacher
from dsdnode.net.handshake import Handshake
from dsdnode.net.link import Dealer, Link
from dsdnode.net.links import Links
from dsdnode.net.peers import Peer
from dsdnode.net.port import LOOK
from dsdnode.wire.messages import Contact, Hello

MAX_KNOCKS = 64
"""At once; more wait, and of these who has fewest under way goes first."""
LASTING_S = 1.0
"""A call that has lasted so long gives way to one of somebody who has less than a share of them. By way of a relay an
answer takes 0.6 s; who proves his key and does not answer then holds a call for 5 s, and longer."""
MAX_NONCES = 1024
"""Of greetings of our own key. Who carries one to us may hold it for GREETING_S (lobby.py); of those that others
have us make, 32 begin a second."""


class Knocks:
    """Calls beside the links that there are. What one shows of a peer's addresses is remembered with the peer."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._waiting: dict[_Place, None] = {}
        self._held: dict[_Place, None] = {}
        """Calls under way, the first begun first."""
        self._timer: asyncio.TimerHandle | None = None
        self._own: LRUCache[bytes, _Knock] = LRUCache(MAX_NONCES)
        """Greetings to whoever has our own key, by nonce; also of calls that are over."""

    def close(self) -> None:
        """End those that are under way: nobody has their sockets closed otherwise."""
        if self._timer is not None:
            self._timer.cancel()
        for place in (*self._waiting, *self._held):
            place.knock.end()
            place.turn.set()

    async def reach(self, peer: Peer, address: str, anew: bool = False) -> bool:
        """Call at an address of the peer that has not answered yet; `anew`: or did, if no link leads there now. Was it
        called?"""
        linked = [dealer.way.told for dealer in peer.dealers.values() if dealer.ready]
        answering = linked if anew else peer.sighting().reached
        way = next((way for way in peer.ways() if way.address == address and address not in answering), None)
        if way is None:
            return False
        dealer, _ = await self._call(peer.public_key, way, peer)
        return bool(dealer.answering or dealer.failed)

    async def visit(self, contact: Contact, teacher: Teacher) -> None:
        """Call whoever has that key, so that he sees us come. Nothing is learned, and it is no link."""
        for address in contact.addresses:
            if may_name(teacher.near, address):
                await self._call(contact.public_key, Way(address, teacher.near, teacher), None)

    async def twins(self, places: Mapping[str, Teacher | None]) -> list[str]:
        """At which of these addresses somebody else has our own key; each with who has named it."""
        ways = []
        for address, teacher in places.items():
            if teacher is None:
                ways.append(Way(address))
            elif may_name(teacher.near, address):
                ways.append(Way(address, teacher.near, teacher))
        are_twins = await asyncio.gather(*map(self.is_twin, ways))
        return [way.address for way, is_twin in zip(ways, are_twins, strict=True) if is_twin]

    async def is_twin(self, way: Way) -> bool:
        """Does somebody else answer there who has our own key, whatever he says? (Whoever says nothing may be a wire
        that leads to ourselves, and loses our greeting.)"""
        dealer, knock = await self._call(self._links.identity.public_key, way, None)
        return bool(dealer.answering) and not knock.is_ours

    def is_ours(self, hello: Hello) -> bool:
        """Has one of these calls led to ourselves? Then it is no twin's."""
        knock = self._own.get(hello.nonce)
        if knock is not None:
            knock.is_ours = True
        return knock is not None

    async def _call(self, public_key: bytes, way: Way, peer: Peer | None) -> tuple[Dealer, _Knock]:
        """What came of it, when there is room for it: on the account of who has named the address, or lives there."""
        by = way.teacher or (peer.as_teacher if peer is not None else None)
        knock = _Knock(self._links, peer, self._own if public_key == self._links.identity.public_key else {})
        place = _Place(Account(b"", by.account if by is not None else ""), knock)
        self._waiting[place] = None
        try:
            self._begin()
            await place.turn.wait()
            dealer = Dealer(knock, peer_id(public_key), public_key, False, [way])
            try:
                await knock.over
            finally:
                self._links.settle(peer, dealer)
                dealer.close()
            return dealer, knock
        finally:
            self._waiting.pop(place, None)
            self._held.pop(place, None)
            self._begin()

    def _begin(self) -> None:
        """Those for which there is room."""
        now = asyncio.get_running_loop().time()
        while self._waiting:
            num_held = Counter(one.account for one in self._held)
            place = min(self._waiting, key=lambda one: num_held[one.account])
            if len(self._held) >= MAX_KNOCKS and not self._make_room(place.account, now):
                return
            del self._waiting[place]
            self._held[place] = None
            place.begun_s = now
            place.turn.set()

    def _make_room(self, asker: Account, now: float) -> bool:
        """End a call of somebody who has more than a share of them, while this one has less. False: not yet."""
        over = Shares(MAX_KNOCKS, ((one.account, 1) for one in self._held)).over(asker, 1)
        giving = [one for one in self._held if one.account in over]
        lasting = [one for one in giving if now >= one.begun_s + LASTING_S]
        if lasting:
            place = min(lasting, key=lambda one: over.index(one.account))
            del self._held[place]
            place.knock.end()
        elif giving:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(giving[0].begun_s + LASTING_S, self._begin)
        return bool(lasting)


@dataclass(slots=True, eq=False)
class _Place:
    """Of one call, among all that there are at once."""

    account: Account
    knock: _Knock
    begun_s: float = 0.0
    turn: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, repr=False)
class _Noting(Handshake):
    """Says what is to be known again when we hear it ourselves."""

    note: Callable[[bytes], None] = field(kw_only=True)

    def hello(self, callee: bytes, bulk: bool, attempt: int = 0) -> Hello:
        hello = Handshake.hello(self, callee, bulk, attempt)
        self.note(hello.nonce)
        return hello


class _Knock:
    """Implements DealerOwner for one call; `over`: it was answered, or cannot be."""

    def __init__(self, links: Links, peer: Peer | None, said: MutableMapping[bytes, _Knock]) -> None:
        """`peer` None: whoever answers has our own key, or is to say nothing. `said`: takes the nonces of greetings."""
        self._hear = links.received if peer is not None else None
        self.context, self.names, self.resolver = links.context, links.names, links.resolver
        self.identity, own = links.identity, links.handshake
        look = (*own.capabilities, LOOK)  # else it is talked to
        self.handshake: Handshake = _Noting(own.contact, own.swarm_keys, own.version, look, own.named, note=self._note)
        self._said = said
        self.may_dial = links.may_dial
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_ours = False
        """We have heard the greeting ourselves."""

    def _note(self, nonce: bytes) -> None:
        self._said[nonce] = self

    def received(self, link: Link, frames: list[bytes]) -> None:
        """The newest of our links is the one that a peer answers by."""
        if self._hear is not None:
            self._hear(link, frames)

    def dealer_ready(self, dealer: Dealer) -> None:
        self.end()

    def dealer_ended(self, dealer: Dealer, was_ready: bool, why: str) -> None:
        self.end()

    def end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)
