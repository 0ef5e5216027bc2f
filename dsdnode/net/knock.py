"""A call for its own sake: does the owner of a key answer at an address? Nothing else is said, and we hang up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from dsdnode.addresses import may_name
from dsdnode.identity import peer_id
from dsdnode.net.call import Way
from dsdnode.net.dials import Teacher
from dsdnode.net.link import Dealer, Link
from dsdnode.net.links import Links
from dsdnode.net.peers import Peer
from dsdnode.net.port import LOOK
from dsdnode.wire.messages import Contact, Hello

MAX_KNOCKS = 64
"""At once; more wait."""


class Knocks:
    """Calls beside the links that there are. What one shows of a peer's addresses is remembered with the peer."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._slots = asyncio.Semaphore(MAX_KNOCKS)
        self._calling: dict[Dealer, bool] = {}
        """Calls under way, and whether we have heard them ourselves."""

    async def reach(self, peer: Peer, address: str, anew: bool = False) -> bool:
        """Call at an address of the peer that has not answered yet; `anew`: or did, if no link leads there now. Was it
        called?"""
        linked = [dealer.way.told for dealer in peer.dealers.values() if dealer.ready]
        answering = linked if anew else peer.sighting().reached
        way = next((way for way in peer.ways() if way.address == address and address not in answering), None)
        if way is None:
            return False
        dealer, _ = await self._call(peer.public_key, way, peer)
        return bool(dealer.proven or dealer.failed)

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
        """Does somebody else answer there who has our own key, whatever he says?"""
        dealer, is_ours = await self._call(self._links.identity.public_key, way, None)
        return bool(dealer.proven) and not is_ours

    def is_ours(self, hello: Hello) -> bool:
        """Has one of these calls led to ourselves? Then it is no twin's."""
        caller = next((dealer for dealer in self._calling if dealer.nonce == hello.nonce), None)
        if caller is not None:
            self._calling[caller] = True
        return caller is not None

    async def _call(self, public_key: bytes, way: Way, peer: Peer | None) -> tuple[Dealer, bool]:
        """What came of it, and whether we have called ourselves."""
        async with self._slots:
            knock = _Knock(self._links, peer)
            dealer = Dealer(knock, peer_id(public_key), public_key, False, [way])
            self._calling[dealer] = False
            try:
                await knock.over
            finally:
                self._links.settle(peer, dealer)
                dealer.close()
                is_ours = self._calling.pop(dealer)
            return dealer, is_ours


class _Knock:
    """Implements DealerOwner for one call; `over`: it was answered, or cannot be."""

    def __init__(self, links: Links, peer: Peer | None) -> None:
        """`peer` None: whoever answers has our own key, or is to say nothing."""
        self._hear = links.received if peer is not None else None
        self.context, self.names, self.resolver = links.context, links.names, links.resolver
        self.identity, own = links.identity, links.handshake
        self.handshake = replace(own, capabilities=(*own.capabilities, LOOK))  # else it is talked to
        self.may_dial = links.may_dial
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def received(self, link: Link, frames: list[bytes]) -> None:
        """The newest of our links is the one that a peer answers by."""
        if self._hear is not None:
            self._hear(link, frames)

    def dealer_ready(self, dealer: Dealer) -> None:
        self._end()

    def dealer_ended(self, dealer: Dealer, was_ready: bool, why: str) -> None:
        self._end()

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)
