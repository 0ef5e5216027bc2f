"""How a peer is linked, and straight links in the place of those that go by way of a relay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from dsdnode.addresses import LOWEST_PORT, Nearness, is_ip, may_name, parse_address
from dsdnode.errors import BadInput
from dsdnode.net.call import Way
from dsdnode.net.holes import POKED_PORT, Hole, dig, dig_v6, own_v6, poke
from dsdnode.net.link import STAGGER_S, Dealer, Inbound, Link
from dsdnode.net.links import Links
from dsdnode.net.nat import Kind
from dsdnode.net.outlook import Outlook
from dsdnode.net.peers import Peer
from dsdnode.net.places import to_address
from dsdnode.net.port import ATTEMPT_TIMEOUT_S, BESIDE, PUNCHED, LinkKind
from dsdnode.net.relays import Circuits, Relays
from dsdnode.net.router import Router

TRY_S = 0.7
"""For two calls to meet, and a little more; then they are begun anew."""

log = structlog.get_logger(__name__)


class Paths:
    def __init__(
        self,
        links: Links,
        router: Router | None,
        outlook: Outlook | None,
        relays: Relays | None,
        open_router: Callable[[str, Circuits], Router],
    ) -> None:
        self._links = links
        self._router = router
        self._outlook = outlook
        self._relays = relays
        self._open_router = open_router

    def on_detour(self, callback: Callable[[bytes], None]) -> None:
        """Have `callback(peer)` called when a peer calls by way of a relay, and nothing leads straight to it."""
        self._links.on_detour.append(callback)

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

    async def _take(self, peer: Peer, ways: Sequence[Way], kind: LinkKind = LinkKind.REVERSED) -> bool:
        beside = [Beside(self._links, peer, bulk, ways, kind) for bulk in (False, True)]
        try:
            for one in beside:
                if not await one.over:
                    return False
            return self.adopt(peer.id, beside)
        finally:
            for one in beside:
                one.close()

    def adopt(self, peer: bytes, beside: Sequence[Beside]) -> bool:
        """Let them take over. False: one of them has ended. Where the peer does the same just now, one of us gives way,
        or each would leave what the other one has made."""
        known, dealers = self._links.book.get(peer), [one.dealer for one in beside]
        if known is None or not all(dealer.ready for dealer in dealers):
            return False
        if self._links.identity.peer_id > peer and any(map(self._has_come_beside, known.inbounds)):
            return True
        self._links.adopt(known, dealers)
        return True

    def _has_come_beside(self, inbound: Inbound) -> bool:
        is_fresh = asyncio.get_running_loop().time() < inbound.since_s + ATTEMPT_TIMEOUT_S
        return is_fresh and inbound.is_usable and inbound.kind in (LinkKind.REVERSED, LinkKind.PUNCHED)

    # --- calls of both at once

    @property
    def at(self) -> str:
        """How the port that we listen on looks from outside, if that is the same for all ("": not, or not known)."""
        return self._outlook.nat.address if self._outlook is not None and self._outlook.listens else ""

    @property
    def insight(self) -> tuple[Kind, bool]:
        """What is between us and the world, and whether anybody says how a port of ours looks: if this is another one,
        what could not be tried may be tried now."""
        return (self._outlook.nat.kind, bool(self._witnesses)) if self._outlook is not None else (Kind.UNKNOWN, False)

    @property
    def _witnesses(self) -> tuple[bytes, ...]:
        held = self._relays.held if self._relays is not None else ()
        return (*held, *(self._outlook.witnesses if self._outlook is not None else ()))

    def called_by_detour(self) -> list[bytes]:
        """Whom we call by way of a relay, which they know."""
        return self._links.called_by_detour()

    async def listen(self) -> None:
        """Somebody is to call us whose ports nobody can tell: a client begins to listen, where that may be of use.
        Nobody else is told of it."""
        outlook = self._outlook
        if outlook is None or self._router is not None or outlook.nat.kind is not Kind.SAME:
            return
        try:
            self._router = self._open_router(f"tcp://{outlook.host}:{outlook.free_port()}", Circuits())
        except (BadInput, OSError) as error:
            log.debug("a client cannot listen", reason=str(error))
            return
        await outlook.listen(self._router.port)

    @property
    def can_meet_in_v6(self) -> bool:
        """May our router call just when it is called, in IPv6?"""
        return self._outlook is not None and self._outlook.host == "::" and bool(own_v6())

    async def dig(self, v6: bool = False) -> Hole | None:
        """A port of ours, and how it looks. None: nobody tells."""
        if v6:
            return dig_v6()
        if self._outlook is None:
            return None
        return await dig(self._outlook, dict.fromkeys(self._witnesses))

    def may_call(self, peer: bytes, host: str, ports: Sequence[int]) -> bool:
        """May it name these to us? Only the world's."""
        return all(map(_is_far, _to(host, ports or (LOWEST_PORT,))))

    def _is_paid(self, peer: Peer, address: str) -> bool:
        teacher = peer.as_teacher
        return teacher is not None and self._links.may_dial(Way(address, teacher.near, teacher))

    def _was_right(self, peer: Peer, address: str) -> None:
        if peer.as_teacher is not None:
            self._links.dials.answered(asyncio.get_running_loop().time(), peer.as_teacher, address)

    async def open(self, peer: bytes, bulk: bool, hole: Hole, host: str, ports: Sequence[int]) -> bool:
        """Call a peer from there just when it calls us. Has it made a link?"""
        known, addresses = self._links.book.get(peer), _to(host, ports)
        if known is None or self._router is None or not self.may_call(peer, host, ports):
            return False
        if not self._is_paid(known, addresses[0]):
            return False
        came = self._links.arrivals.awaited(peer, bulk)
        self._router.call(hole.port, addresses)
        try:
            if not await _in_time(TRY_S, came) and self._router.is_connected(addresses):
                await _in_time(ATTEMPT_TIMEOUT_S, came)
        finally:
            self._router.call_no_more(hole.port, addresses)
            found = not came.cancel()
        if found:
            self._was_right(known, addresses[0])
        return found

    async def call_from(self, peer: bytes, bulk: bool, hole: Hole, host: str, ports: Sequence[int]) -> Beside | None:
        """The same, of whoever makes the link."""
        known, addresses = self._links.book.get(peer), _to(host, ports)
        if known is None or not self._is_paid(known, addresses[0]):
            return None
        ways = [Way(one, source_port=hole.port) for one in addresses]
        beside = Beside(self._links, known, bulk, ways, LinkKind.PUNCHED)
        found = False
        try:
            if not await _in_time(TRY_S, beside.over) and beside.dealer.is_connected:
                await beside.over
            found = beside.over.done() and beside.over.result()
        finally:
            if not found:
                beside.close()
        if found:
            self._was_right(known, addresses[0])
        return beside if found else None

    async def call_punched(self, peer: bytes, address: str) -> bool:
        """Call it where it listens, which its router lets us do now, perhaps."""
        known = self._links.book.get(peer)
        if known is None or not _is_far(address) or not self._is_paid(known, address):
            return False
        found = await self._take(known, [Way(address)], LinkKind.PUNCHED)
        if found:
            self._was_right(known, address)
        return found

    async def is_called(self, peer: bytes) -> bool:
        """Does it make both links in time?"""
        known = self._links.book.get(peer)
        if known is None:
            return False
        came = [self._links.arrivals.awaited(peer, bulk) for bulk in (False, True)]
        try:
            await _in_time(ATTEMPT_TIMEOUT_S, *came)
        finally:
            found = [not one.cancel() for one in came]
        return all(found)

    def poke(self, peer: bytes, host: str) -> None:
        known, address = self._links.book.get(peer), to_address(host, POKED_PORT)
        if known is not None and self.may_call(peer, host, ()) and self._is_paid(known, address):
            poke(host, POKED_PORT)


class Beside:
    """Implements DealerOwner for one call beside the links that there are; `over`: was it answered?"""

    def __init__(self, links: Links, peer: Peer, bulk: bool, ways: Sequence[Way], kind: LinkKind) -> None:
        self._links = links
        self._peer = peer
        self.context, self.names, self.resolver = links.context, links.names, links.resolver
        self.identity, self.may_dial = links.identity, links.may_dial
        own = links.handshake
        said = (BESIDE, PUNCHED) if kind is LinkKind.PUNCHED else (BESIDE,)
        self.handshake = replace(own, capabilities=(*own.capabilities, *said))
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        stagger_s = 0.0 if kind is LinkKind.PUNCHED else STAGGER_S
        self.dealer = Dealer(self, peer.id, peer.public_key, bulk, ways, stagger_s)
        self.dealer.kind = kind

    def close(self) -> None:
        """Unless it was adopted."""
        if self.dealer.owner is self:
            self._links.settle(self._peer, self.dealer)
            self.dealer.close()
            self._links.moves.gone(self._peer, self.dealer)

    def received(self, link: Link, frames: list[bytes]) -> None:
        self._links.received(link, frames)

    def dealer_ready(self, dealer: Dealer) -> None:
        self._end(dealer.kind is not LinkKind.RELAYED)

    def dealer_ended(self, dealer: Dealer, was_ready: bool, why: str) -> None:
        self._end(False)

    def _end(self, answered: bool) -> None:
        if not self.over.done():
            self.over.set_result(answered)


def _is_far(address: str) -> bool:
    """Is it an IP address of the world? A name leads to our own machine as soon as its owner likes."""
    return may_name(Nearness.WORLD, address) and is_ip(parse_address(address)[0])


def _to(host: str, ports: Sequence[int]) -> list[str]:
    return [to_address(host, port) for port in ports]


async def _in_time(timeout_s: float, *futures: asyncio.Future[Any]) -> bool:
    """Are they all done? They go on in any case."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for one in futures:
                await asyncio.shield(one)
    return all(one.done() for one in futures)
