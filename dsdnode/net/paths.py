"""How a peer is linked, and straight links in the place of those that go by way of a relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from dsdnode.addresses import may_name
from dsdnode.net.call import Way
from dsdnode.net.link import Dealer, Link
from dsdnode.net.links import Links
from dsdnode.net.peers import Peer
from dsdnode.net.port import BESIDE, LinkKind


class Paths:
    def __init__(self, links: Links) -> None:
        self._links = links

    def on_detour(self, callback: Callable[[bytes], None]) -> None:
        """Have `callback(peer)` called when a peer calls by way of a relay, and nothing leads straight to it."""
        self._links.on_detour(callback)

    def kind(self, peer: bytes) -> LinkKind | None:
        """How the link leads that short messages take; None: there is none."""
        known = self._links.book.get(peer)
        link = (known.ready_link(False) or known.ready_link(True)) if known is not None else None
        return link.kind if link is not None else None

    def is_on_detour(self, peer: bytes) -> bool:
        known = self._links.book.get(peer)
        return known is not None and known.is_on_detour

    async def call(self, peer: bytes, addresses: Sequence[str]) -> bool:
        """Call it where it says that it is reached; the links take over from all others that there are. False: nobody
        answered."""
        known = self._links.book.get(peer)
        teacher = known.as_teacher if known is not None else None
        if known is None or teacher is None:
            return False
        ways = [Way(one, teacher.near, teacher) for one in addresses if may_name(teacher.near, one)]
        return bool(ways) and await self._take(known, ways)

    async def _take(self, peer: Peer, ways: Sequence[Way]) -> bool:
        beside = [_Beside(self._links, peer, bulk, ways) for bulk in (False, True)]
        try:
            for one in beside:
                if not await one.over:
                    return False
            dealers = [one.dealer for one in beside]
            if not all(dealer.ready for dealer in dealers):
                return False
            self._links.adopt(peer, dealers)
            return True
        finally:
            for one in beside:
                one.close()


class _Beside:
    """Implements DealerOwner for one call beside the links that there are; `over`: was it answered?"""

    def __init__(self, links: Links, peer: Peer, bulk: bool, ways: Sequence[Way]) -> None:
        self._links = links
        self._peer = peer
        self.context, self.names, self.resolving = links.context, links.names, links.resolving
        self.identity, self.may_dial = links.identity, links.may_dial
        own = links.handshake
        self.handshake = replace(own, capabilities=(*own.capabilities, BESIDE))
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.dealer = Dealer(self, peer.id, peer.public_key, bulk, ways)
        self.dealer.kind = LinkKind.REVERSED

    def close(self) -> None:
        """Unless it was adopted."""
        if self.dealer.owner is self:
            self._links.settle(self._peer, self.dealer)
            self.dealer.close()

    def received(self, link: Link, frames: list[bytes]) -> None:
        self._links.received(link, frames)

    def dealer_ready(self, dealer: Dealer) -> None:
        self._end(dealer.kind is not LinkKind.RELAYED)

    def dealer_ended(self, dealer: Dealer, was_ready: bool, why: str) -> None:
        self._end(False)

    def _end(self, answered: bool) -> None:
        if not self.over.done():
            self.over.set_result(answered)
