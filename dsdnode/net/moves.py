"""How a peer's links are left for better ones, so that nothing is lost and all stays in order.

Who leaves a link says so over it (Move), behind all that it has sent there. The other one answers there when it has
come so far (Moved), and leaves it, too. Until then what is sent over the peer's other links waits before them. When
both have moved, whoever has made the connection closes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from dsdnode.errors import Overloaded, PeerMisbehaved
from dsdnode.net.link import Dealer, Inbound, Link
from dsdnode.net.peers import Peer
from dsdnode.net.port import LinkKind, Priority
from dsdnode.wire.codec import decode, encode
from dsdnode.wire.paths import Move, Moved

MOVE_S = 30.0
"""A peer that does not say after so long that it has moved does not move: the link is closed."""
MAX_MOVE_BYTES = 16
"""Of Move and Moved, however they are encoded; requests and their answers are longer."""
_MOVE, _MOVED = encode(Move()), encode(Moved())


class Moves:
    def __init__(self, drop: Callable[[Dealer], None], push: Callable[[Link], None]) -> None:
        """`drop`: close a dealer. `push`: try again soon to send what waits before a link."""
        self._drop = drop
        self._push = push
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Link, asyncio.TimerHandle] = {}

    def close(self) -> None:
        for timer in self._timers.values():
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
            message = decode(frames).message
        except PeerMisbehaved:
            return False
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
