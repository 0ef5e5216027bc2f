"""How a peer's links are left for better ones, so that nothing is lost and all stays in order.

Who leaves a link says so over it (Move), behind all that it has sent there. The other one answers there when it has
come so far (Moved), and leaves it, too. Until then what is sent over the peer's other links waits before them. When
both have moved, whoever has made the connection closes it.

A lane without a link borrows the other lane's, and gets its own later. What has gone over the borrowed one has been
taken when a Ping that follows it is answered: so long the new link waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from random import SystemRandom

from dsdnode.errors import Overloaded, PeerMisbehaved
from dsdnode.net.link import Dealer, Inbound, Link
from dsdnode.net.peers import Peer
from dsdnode.net.port import LinkKind, Priority
from dsdnode.wire.codec import decode, encode
from dsdnode.wire.messages import Ping
from dsdnode.wire.paths import Move, Moved

MOVE_S = 30.0
"""A peer that does not say after so long that it has moved does not move: the link is closed."""
MAX_MOVE_BYTES = 16
"""Of Move and Moved, however they are encoded, and of the answer to a Ping."""
_MOVE, _MOVED = encode(Move()), encode(Moved())


class Moves:
    def __init__(self, drop: Callable[[Dealer], None], push: Callable[[Link], None]) -> None:
        """`drop`: close a dealer. `push`: try again soon to send what waits before a link."""
        self._drop = drop
        self._push = push
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Link, asyncio.TimerHandle] = {}
        self._marks: dict[int, tuple[Peer, Link, Link, asyncio.TimerHandle]] = {}
        """By the number of a Ping: whom it was sent to, over which link, which one waits for its answer, and until when
        at most."""

    def close(self) -> None:
        for timer in (*self._timers.values(), *(timer for *_, timer in self._marks.values())):
            timer.cancel()

    def leave(self, peer: Peer, links: Collection[Link]) -> None:
        """For those that remain, of which there must be a usable one."""
        for link in links:
            link.leaving = True
            if isinstance(link, Dealer) and peer.dealers.get(link.bulk) is link:
                del peer.dealers[link.bulk]
                peer.parting.append(link)
            for bulk in [bulk for bulk, used in peer.used.items() if used is link]:
                del peer.used[bulk]
        for link in links:
            for other in peer.links():
                if not (other.leaving or link.is_stale):
                    other.waits_for[link] = None
            self.requeue(peer, link)
            self._say(link, _MOVE)
            self._timers[link] = self._loop.call_later(MOVE_S, self._hang_up, link)

    def waits(self, peer: Peer, link: Link) -> None:
        """A link is new: it waits for those that are being left, as the others do."""
        link.waits_for.update({one: None for one in peer.links() if one.leaving and not (one.is_over or one.is_stale)})
        lent = peer.borrowed.pop(link.bulk, None)
        if lent is not None and any(one is lent for one in peer.links()) and lent not in link.waits_for:
            link.waits_for[lent] = None
            self._mark(peer, lent, link)

    def _mark(self, peer: Peer, lent: Link, link: Link) -> None:
        """Behind all that has been sent over `lent`, and waits before it."""
        number = SystemRandom().getrandbits(62) | 1
        self._marks[number] = peer, lent, link, self._loop.call_later(MOVE_S, self._answered, number)
        with contextlib.suppress(Overloaded):
            lent.queue.push(encode(Ping(), request_id=number, deadline_ms=round(1e3 * MOVE_S)), Priority.BULK)
        lent.flush()
        self._push(lent)

    def _answered(self, number: int) -> None:
        _, lent, link, timer = self._marks.pop(number)
        timer.cancel()
        if link.waits_for.pop(lent, link) is None:
            link.flush()
            self._push(link)

    def requeue(self, peer: Peer, link: Link) -> None:
        """What waits before a link goes over others."""
        while (first := link.queue.first()) is not None:
            frames, priority = first
            link.queue.pop(priority)
            bulk = priority is not Priority.CONTROL
            other = peer.ready_link(bulk) or peer.ready_link(not bulk)
            if other is not None:
                with contextlib.suppress(Overloaded):
                    other.queue.push(frames, priority)
        for other in peer.links():
            other.flush()
            self._push(other)

    def heard(self, peer: Peer, link: Link, frames: list[bytes]) -> bool:
        """Is this about the link itself?"""
        if len(frames) != 1 or len(frames[0]) > MAX_MOVE_BYTES:
            return False
        try:
            envelope = decode(frames)
        except PeerMisbehaved:
            return False
        message, number = envelope.message, envelope.request_id
        if envelope.reply and number in self._marks and self._marks[number][0] is peer:
            self._answered(number)
            return True
        if isinstance(message, Move) and not link.is_left:
            self._left(peer, link)
        elif isinstance(message, Moved) and link.leaving and not link.is_over:
            link.is_over = True
            self.gone(peer, link)
            self._look(link)
        return isinstance(message, Move | Moved)

    def _left(self, peer: Peer, link: Link) -> None:
        link.is_left = True
        self._say(link, _MOVED)
        for other in peer.links():
            other.beside = False
        relayed = [one for one in peer.dealers.values() if one.is_usable and one.kind is LinkKind.RELAYED]
        links = [one for one in dict.fromkeys((link, *relayed)) if not one.leaving]
        if any(one.is_usable and one not in links for one in peer.links()):
            self.leave(peer, links)
        self._look(link)

    def gone(self, peer: Peer, link: Link) -> None:
        """Nobody waits for this link any more: the peer has taken all, or it has ended."""
        timer = self._timers.pop(link, None)
        if timer is not None:
            timer.cancel()
        self._release(peer, link)

    def _release(self, peer: Peer, link: Link) -> None:
        for other in peer.links():
            if link in other.waits_for:
                del other.waits_for[link]
                other.flush()
                self._push(other)

    def _say(self, link: Link, frames: list[bytes]) -> None:
        link.say(frames)
        self._push(link)

    def _look(self, link: Link) -> None:
        if isinstance(link, Dealer) and link.is_over and link.is_left:
            self._drop(link)

    def _hang_up(self, link: Link) -> None:
        if isinstance(link, Dealer):
            self._drop(link)
        elif isinstance(link, Inbound):
            link.hang_up()


class Arrivals:
    """Connections that are waited for: those that a peer makes beside others."""

    def __init__(self) -> None:
        self._awaited: dict[tuple[bytes, bool], asyncio.Future[None]] = {}

    def awaited(self, peer: bytes, bulk: bool) -> asyncio.Future[None]:
        """Until the peer has made one of that lane; to be cancelled by who waits no more."""
        lane = peer, bulk
        if lane not in self._awaited or self._awaited[lane].done():
            self._awaited[lane] = asyncio.get_running_loop().create_future()
            self._awaited[lane].add_done_callback(lambda one: self._over(lane, one))
        return self._awaited[lane]

    def came(self, inbound: Inbound) -> None:
        awaited = self._awaited.get((inbound.peer, inbound.bulk)) if inbound.beside else None
        if awaited is not None and not awaited.done():
            awaited.set_result(None)

    def _over(self, lane: tuple[bytes, bool], awaited: asyncio.Future[None]) -> None:
        if self._awaited.get(lane) is awaited:
            del self._awaited[lane]
