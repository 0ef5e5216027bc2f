"""How our ports look from outside: peers that we call from them say where they see us.

From the port that we listen on such calls are kept, so that a router keeps what it has given that port. Where two peers
do not see the same, two calls that are begun at once from another port show whether ports can be guessed.

Who does not listen, a client, has its ports looked at once a relay carries what it says for longer than a short reply
takes: then it is worth knowing from where both can call each other at once (holes.py).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence

import structlog
from cachetools import LRUCache

from dsdnode.addresses import Nearness, is_ip, nearness, network, parse_address
from dsdnode.net.door import leads_here
from dsdnode.net.link import Inbound
from dsdnode.net.links import Links
from dsdnode.net.listener import socket_from
from dsdnode.net.nat import Kind, Nat, judged, stepped
from dsdnode.net.peers import Peer
from dsdnode.net.port import OBSERVE
from dsdnode.net.views import Met, Place, View, seen_in

MAX_LOOKS = 3
"""Peers that are called, each of another network."""
LOOK_AGAIN_S = 600.0
"""At a peer that has seen nothing; and, where ports are not the same for all, at any. So long an address where nobody
reaches us is not told, either."""
LOST_S = 30.0
"""Before a peer that has closed such a call, or two that do not agree with each other, are called again."""
DETOUR_S = 2.0
"""So long a relay carries a client's link before its ports are looked at: a short reply is over by then."""
MAX_LEFT_ALONE = 256
MAX_STRANGERS = 8
"""Networks: who is next door is none."""

log = structlog.get_logger(__name__)


class Outlook:
    """`changed` is called when `nat` is another one."""

    def __init__(self, links: Links, listens: tuple[str, int], changed: Callable[[], None]) -> None:
        """`listens`: the host (any of ours) and the port; port 0: we do not."""
        self.nat = Nat()
        self.witnesses: tuple[bytes, ...] = ()
        """Who have seen our ports last: they can be asked how another one looks."""
        self._links = links
        self._listens = listens
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._views: dict[str, View | Met] = {}
        """Kept, by the network of who was called."""
        self._calls: LRUCache[bytes, Inbound] = LRUCache(MAX_LEFT_ALONE)
        """Of peers that look at themselves."""
        self._strangers: LRUCache[str, None] = LRUCache(MAX_STRANGERS)
        """Networks of hosts that have called us though we had not called them."""
        self._shut: asyncio.TimerHandle | None = None
        """While nobody reaches us where we are seen."""
        self._own: socket.socket | None = None
        """Of who does not listen: it keeps the port that is looked at."""
        self._looking: asyncio.Task[None] | None = None
        self._rests_until_s = float("-inf")
        self._resting: LRUCache[bytes, float] = LRUCache(MAX_LEFT_ALONE)

    def is_due(self, now: float) -> bool:
        """Is there need of peers that look?"""
        if not self.listens and not self._links.has_detour(now - DETOUR_S):
            return False
        for where, view in list(self._views.items()):
            if isinstance(view, Met) and view.inbound.closed:
                del self._views[where]
        is_looking = self._looking is not None and not self._looking.done()
        return not is_looking and len(self._views) < MAX_LOOKS and now >= self._rests_until_s

    def look(self, now: float, peers: Iterable[bytes]) -> None:
        """Call some of these peers, where any can be."""
        places = self._choose(now, peers)
        if places:
            self._looking = self._loop.create_task(self._look(now, places), name="look at ourselves")

    def moved(self) -> None:
        """We are in another network, perhaps: nothing is known. (`changed` is not called.)"""
        self._stop()
        self._rests_until_s = float("-inf")
        self._resting.clear()
        self._strangers.clear()
        self.nat, self.witnesses = Nat(), ()
        self._open()

    @property
    def listens(self) -> bool:
        return bool(self._listens[1])

    def free_port(self) -> int:
        """The port that was looked at, given up for a listener. Raises OSError."""
        port = self._port()
        if self._own is not None:
            self._own.close()
            self._own = None
        return port

    async def listen(self, port: int) -> None:
        """We do, from now on. Return when it has been looked at."""
        self._listens = self.host, port
        self._stop()
        now = self._loop.time()
        places = self._choose(now, self.witnesses)
        if places:
            await self._look(now, places)

    @property
    def host(self) -> str:
        """Of this machine, that calls leave from."""
        return self._listens[0]

    @property
    def address(self) -> str:
        """Where others may reach us, as we look from there ("": nowhere that we know of)."""
        return "" if self._shut is not None else self.nat.address

    def shut(self) -> None:
        """Nobody reaches us there: for a while it does not take the place of another address."""
        if self._shut is None:
            self._shut = self._loop.call_later(LOOK_AGAIN_S, self._reopen)
            self._changed()

    def _open(self) -> None:
        if self._shut is not None:
            self._shut.cancel()
        self._shut = None

    def _reopen(self) -> None:
        self._open()
        self._changed()

    @property
    def is_translated(self) -> bool:
        """Is what others see another address than ours, or another one each time?"""
        return not (self.nat.address and leads_here(parse_address(self.nat.address)[0]))

    @property
    def is_open(self) -> bool:
        """Do those get through, too, whom we have not called before? What others are told is of use to them then."""
        own = network(parse_address(self.nat.address)[0]) if self.nat.address else None
        return own is not None and any(one != own for one in self._strangers)

    def came(self, inbound: Inbound) -> None:
        """Somebody has called us, without a relay."""
        self.called_by(inbound.host)
        if inbound.is_look:  # we may have tried to call it just then, over the same two ports
            self._calls[inbound.peer] = inbound
            self._resting.pop(inbound.peer, None)

    def called_by(self, host: str) -> None:
        """Somebody has got through to us from there. (What IPv6 lets in says nothing of IPv4.)"""
        where = network(host) if is_ip(host) and ":" not in host else None
        if where is not None and host not in self._links.called:
            self._strangers[where] = None

    async def close(self) -> None:
        self._open()
        self._stop()
        if self._looking is not None:
            await asyncio.gather(self._looking, return_exceptions=True)

    async def view(self, peer: bytes, port: int) -> View | None:
        """How a port of ours looks to a peer; to be closed. Two that are begun at once call one just after the other.
        None: it does not say."""
        place = self._place(peer)
        return await self._view(place, port) if place is not None else None

    # --- choosing

    def _choose(self, now: float, peers: Iterable[bytes]) -> list[Place]:
        found: dict[str, Place] = {}
        for peer in peers:
            place = self._place(peer) if self._resting.get(peer, now) <= now else None
            if place is not None and place.network not in self._views:
                found.setdefault(place.network, place)
            if len(found) + len(self._views) == MAX_LOOKS:
                break
        return list(found.values())

    def _place(self, peer: bytes) -> Place | None:
        """Of IPv4 alone: nobody translates IPv6."""
        known = self._links.book.get(peer)
        if known is None or OBSERVE not in known.capabilities:
            return None
        return next((Place(peer, *where) for where in _answering(known)), None)

    # --- looking

    async def _look(self, now: float, places: Sequence[Place]) -> None:
        await asyncio.gather(*(self._keep(now, place) for place in places))
        kept = list(self._views.values())
        nat = judged(view.seen for view in kept)
        agree = nat is not None
        if nat is None:
            nat = await self._stepped(kept[0].place, kept[1].place)
        if not agree or (len(kept) > 1 and not self.listens):  # nobody is to come to a port where nobody listens
            self._rests_until_s = now + (LOST_S if nat.kind is Kind.UNKNOWN else LOOK_AGAIN_S)
            self._leave()
        self.witnesses = tuple(view.place.peer for view in kept)
        if len(kept) > 1:
            self._set(nat)

    def _port(self) -> int:
        """That is looked at. Raises OSError."""
        if self.listens:
            return self._listens[1]
        if self._own is None:
            self._own = socket_from(self._listens[0], 0, "0.0.0.0")
        return int(self._own.getsockname()[1])

    async def _keep(self, now: float, place: Place) -> None:
        try:
            view = await self._view(place, self._port())
        except OSError:  # no port is left
            view = None
        met = self._calls.get(place.peer)
        if view is not None:
            self._views[place.network] = view
        elif met is not None and self.listens and not met.closed and seen_in(met.capabilities):
            self._views[place.network] = Met(place, met)
        else:
            self._resting[place.peer] = now + LOOK_AGAIN_S

    async def _stepped(self, *places: Place) -> Nat:
        views: dict[Place, View | None] = {}

        async def look_at(place: Place) -> None:
            views[place] = await self._view(place, port)

        try:
            with socket_from(self._listens[0], 0, "0.0.0.0") as other:
                port = int(other.getsockname()[1])
                await asyncio.gather(*map(look_at, places))
        except OSError as error:
            log.debug("not looked at from another port", reason=str(error))
        finally:
            seen = [view.seen for view in map(views.get, places) if view is not None]
            for view in views.values():
                if view is not None:
                    view.close()
        return stepped(*seen) if len(seen) == 2 else Nat()

    async def _view(self, place: Place, port: int) -> View | None:
        known, view = self._links.book.get(place.peer), View(self._links, place, self._view_ended)
        try:
            if known is not None:
                await view.open((self._listens[0], port), known.public_key)
        except (OSError, TimeoutError) as error:
            log.debug("not looked at", host=place.host, reason=str(error))
        except BaseException:  # we have moved, perhaps just when it was answered
            view.close()
            raise
        if not view.seen:
            view.close()
        return view if view.seen else None

    def _view_ended(self, view: View) -> None:
        if self._views.get(view.place.network) is view:
            del self._views[view.place.network]
            self._resting[view.place.peer] = self._loop.time() + LOST_S

    def _set(self, nat: Nat) -> None:
        if nat != self.nat:
            log.info("how ports of this machine look from outside", kind=nat.kind.value, address=nat.address)
            self.nat = nat
            self._open()
            self._changed()

    def _stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._leave()
        if self._own is not None:
            self._own.close()
            self._own = None

    def _leave(self) -> None:
        for view in self._views.values():
            view.close()
        self._views.clear()


def _answering(peer: Peer) -> Iterable[tuple[str, int]]:
    """Where it has answered in the world of IPv4, the last one first."""
    for way in reversed(peer.reached.values()):
        is_world = nearness(way.host) is Nearness.WORLD and is_ip(way.host) and ":" not in way.host
        if is_world and not way.relayed:
            yield way.host, parse_address(way.told)[1]
