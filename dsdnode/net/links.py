"""Which link a message takes: made on demand, bounded in number, the least recently used closed.

A lane (control, or bulk: everything else) keeps to one link while that lives, so that messages stay in order.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

import zmq
from cachetools import LRUCache

from dsdnode.addresses import is_address, machine_of, nearness, network_of, parse_address
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import Identity, short_id
from dsdnode.net.call import Way
from dsdnode.net.dials import Dials, first_to_go
from dsdnode.net.handshake import Handshake
from dsdnode.net.link import Dealer, Inbound, Link
from dsdnode.net.meter import Meter
from dsdnode.net.moves import Arrivals, Moves
from dsdnode.net.peers import Peer, PeerBook
from dsdnode.net.places import is_gone
from dsdnode.net.port import ATTEMPT_TIMEOUT_S, MAX_DIALLED, RELAYED, RETRY_S, LinkKind, Priority
from dsdnode.net.queues import Inbox
from dsdnode.net.resolver import Resolver
from dsdnode.net.sockets import Names
from dsdnode.net.zap import Gate

MAX_CALLED = 4096
"""Hosts that are remembered to have been called."""
DOUBT_EVERY_S = 10.0
"""A peer that is slow would be called again and again."""
LAST_WORD_S = 0.5
"""A straight link that is doubted may say something yet when a relayed one is ready: who is slow answers by both."""
BLOCKED_RETRY_S = 0.005
"""libzmq does not tell which of a router's connections has room again."""


class Links:
    """All links of one transport. `on_lost(peer, why, at_s)`: a peer had none any more, then. `on_broken(peer, bulk,
    since_s)`: the one that a lane has kept to since then has ended, and there is another; or the one that the peer
    answers by, whenever it was asked."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        names: Names,
        identity: Identity,
        handshake: Handshake,
        gate: Gate,
        inbox: Inbox,
        on_lost: Callable[[bytes, str, float], None],
        on_broken: Callable[[bytes, bool, float], None],
    ) -> None:
        self.context = context
        self.names = names
        self.identity = identity
        self.handshake = handshake
        self.resolver, self.meter = Resolver(), Meter()
        self.book = PeerBook()
        self.dials = Dials()
        self.called: LRUCache[str, None] = LRUCache(MAX_CALLED)
        """Hosts that we have called, whatever came of it: a router may let them in, and nobody else."""
        self._gate = gate
        self._inbox = inbox
        self._on_lost = on_lost
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._dealers: OrderedDict[Dealer, Peer] = OrderedDict()
        self._spares: dict[Dealer, None] = {}
        """Of them those that are to take the place of a link that may be dead."""
        self.moves = Moves(self._drop, self._retry_soon)
        self.arrivals = Arrivals()
        self.on_detour: list[Callable[[bytes], None]] = []
        self._blocked: dict[Link, None] = {}
        self._blocked_timer: asyncio.TimerHandle | None = None

    def send(self, peer: Peer, frames: list[bytes], priority: Priority) -> None:
        """Raises PeerUnavailable or Overloaded."""
        bulk = priority is not Priority.CONTROL
        link = peer.used.get(bulk)
        if link is None or link.closed:
            link = self._choose(peer, bulk)
        if isinstance(link, Dealer):
            self._dealers.move_to_end(link)
        if not link.send(frames, priority):
            self._retry_soon(link)

    def received(self, link: Link, frames: list[bytes]) -> None:
        link.heard_s = self._loop.time()
        if isinstance(link, Dealer) and link in self._dealers:  # (a knock is not)
            self._dealers.move_to_end(link)
        known = self.book.get(link.peer)
        if known is not None and self.moves.heard(known, link, frames):
            return
        source = known.source if known is not None else ""
        self._inbox.put(link.peer, frames, network_of(source), machine_of(source))

    def drop_dealers(self, peer: Peer) -> None:
        for dealer in [*peer.dealers.values(), *peer.parting]:
            self._drop(dealer)

    def close(self) -> None:
        self.moves.close()
        if self._blocked_timer is not None:
            self._blocked_timer.cancel()
        for dealer in list(self._dealers):
            self._drop(dealer)

    def interrupt(self, why: str) -> None:
        """Close everything that we dialled; peers without another link are lost."""
        for dealer, peer in list(self._dealers.items()):
            self._drop(dealer)
            self._ended(peer, dealer, why)

    def leave_all_but(self, hosts: Collection[str]) -> list[bytes]:
        """Close what we dialled from an address that is none of ours any more: whom. Those that we are just calling are
        dialled anew from those that are ours, for a call from nowhere takes seconds to fail."""
        left = []
        for dealer, peer in list(self._dealers.items()):
            if is_gone(dealer.local, hosts):
                self._drop(dealer)
                self._ended(peer, dealer, "this machine has another address now")
                left.append(peer.id)
            elif dealer in self._spares:
                self._drop(dealer)
            elif not dealer.ready:
                self._drop(dealer)
                anew = self._dial(peer, dealer.bulk)
                if anew is not None:
                    dealer.queue.move_to(anew.queue)
        return left

    def call(self, peer: Peer) -> None:
        """Have a link to a peer, for it cannot know where to dial us now."""
        if not any(peer.dealers.values()) and not self._gate.is_banned(self._loop.time(), peer.curve_key):
            peer.retry_at = 0.0
            self._dial(peer, bulk=False)

    def doubt(self, peer: Peer) -> None:
        """Make a link beside each that is used, and leave that when the other is ready."""
        now = self._loop.time()
        if now < peer.doubted_s + DOUBT_EVERY_S or self._gate.is_banned(now, peer.curve_key):
            return
        peer.doubted_s = now
        for bulk, used in list(peer.used.items()):
            doubted = used.way.told if isinstance(used, Dealer) else ""
            ways = sorted(peer.ways(), key=lambda way: way.told == doubted)
            if used.ready and ways:
                self._spares[self._begin(peer, bulk, ways)] = None

    def _is_worse(self, peer: Peer, spare: Dealer) -> bool:
        """Does a relay lead to it, while what is used leads straight to the peer?"""
        used = peer.used.get(spare.bulk)
        is_straight = used is not None and used.is_usable and used.kind is not LinkKind.RELAYED
        return is_straight and spare.kind is LinkKind.RELAYED

    def _choose_spare(self, peer: Peer, spare: Dealer) -> None:
        """Unless what is used has said a word since it was doubted: then it lives."""
        if spare not in self._spares:
            return
        used = peer.used.get(spare.bulk)
        if used is not None and self._is_worse(peer, spare) and used.heard_s >= peer.doubted_s:
            del self._spares[spare]
            peer.parting.append(spare)
            self.moves.leave(peer, [spare])  # the peer may use it already
        else:
            self._replace(peer, spare)

    def _replace(self, peer: Peer, spare: Dealer) -> None:
        del self._spares[spare]
        used, own = peer.used.get(spare.bulk), peer.dealers.get(spare.bulk)
        if own is not None:
            self._drop(own)
        peer.dealers[spare.bulk] = spare
        peer.use(spare.bulk, spare, self._loop.time())
        for link in dict.fromkeys(filter(None, (used, own))):
            link.queue.move_to(spare.queue)
        if used is not None:
            self._loop.call_soon(self._on_broken, peer.id, spare.bulk, float("-inf"))

    # --- choosing

    def _choose(self, peer: Peer, bulk: bool) -> Link:
        link = peer.ready_link(bulk) or peer.dealers.get(bulk)
        now = self._loop.time()
        if link is None and self._gate.is_banned(now, peer.curve_key):  # its links were closed when it was banned
            raise PeerUnavailable(f"peer {short_id(peer.id)}: banned here")
        if link is None and now >= peer.retry_at:
            link = self._dial(peer, bulk)
        if link is None:
            other = peer.ready_link(not bulk)  # who cannot be dialled gets everything over the one that it made
            if other is None:
                raise PeerUnavailable(f"peer {short_id(peer.id)}: {peer.why_lost or 'it cannot be dialled'}")
            peer.borrowed[bulk] = other
            return other
        peer.use(bulk, link, now)
        return link

    def _dial(self, peer: Peer, bulk: bool) -> Dealer | None:
        if ways := peer.ways():
            peer.dealers[bulk] = self._begin(peer, bulk, ways)
        return peer.dealers.get(bulk)

    def _begin(self, peer: Peer, bulk: bool, ways: Sequence[Way]) -> Dealer:
        self._make_room(1)
        dealer = Dealer(self, peer.id, peer.public_key, bulk, ways)
        dealer.meter = self.meter
        self.moves.waits(peer, dealer)
        self._dealers[dealer] = peer
        return dealer

    def _make_room(self, num: int) -> None:
        """For so many more. Who waits for a call that is given up for them is told."""
        while len(self._dealers) + num > MAX_DIALLED:
            first = first_to_go(self._dealers, lambda one: not one.ready)
            if first.ready:
                self._drop(first)
            else:
                self.dealer_ended(first, False, "given up for others: too many are called at once")

    def _drop(self, dealer: Dealer) -> None:
        dealer.close()
        peer = self._dealers.pop(dealer, None) or self.book.get(dealer.peer)
        if peer is None:
            return
        if dealer in peer.parting:
            peer.parting.remove(dealer)
        if peer.dealers.get(dealer.bulk) is dealer:  # not, if the peer has left it before it was adopted
            del peer.dealers[dealer.bulk]
        self._spares.pop(dealer, None)
        self.moves.gone(peer, dealer)

    def adopt(self, peer: Peer, dealers: Sequence[Dealer]) -> None:
        """Links that lead straight to a peer: the other ones are left for them."""
        self._make_room(len(dealers))
        for spare in [one for one in self._spares if self._dealers[one] is peer]:
            self._drop(spare)
        others = [link for link in peer.links() if link.is_usable]
        idle = [dealer for dealer in peer.dealers.values() if not dealer.ready]
        peer.parting += peer.dealers.values()
        peer.dealers = {dealer.bulk: dealer for dealer in dealers}
        for dealer in dealers:
            dealer.owner, dealer.meter = self, self.meter
            self._dealers[dealer] = peer
            self.moves.waits(peer, dealer)
            self.dealer_ready(dealer)
        self.moves.leave(peer, others)
        for dealer in idle:
            self.moves.requeue(peer, dealer)
            if not dealer.nonce:  # else the peer may use it already: it is left when it is ready
                self._drop(dealer)

    def may_dial(self, way: Way) -> bool:
        allowed = way.teacher is None or self.dials.allow(self._loop.time(), way.teacher, way.address)
        if allowed:
            self.called[parse_address(way.address)[0]] = None
        return allowed

    # --- what becomes of them

    def settle(self, peer: Peer | None, dealer: Dealer) -> None:
        """What a call has shown of a peer's addresses: at `dealer.way` it answered (or refused us), elsewhere not."""
        if peer is not None and dealer.kind is not LinkKind.PUNCHED:
            for address in dealer.failed:
                peer.unanswered(address)
            if dealer.ready:
                host, _ = parse_address(dealer.way.address)
                peer.answered(dealer.way, host, relayed=RELAYED in dealer.capabilities)
        told = [(way.teacher, one) for way in dealer.answering if way.teacher for one in (way.address, way.told)]
        for teacher, address in dict.fromkeys(told):
            self.dials.answered(self._loop.time(), teacher, address)

    def dealer_ready(self, dealer: Dealer) -> None:
        peer = self._dealers[dealer]
        self._loop.call_soon(self._retry_soon, dealer)
        if dealer in self._spares:
            if self._is_worse(peer, dealer):
                self._loop.call_later(LAST_WORD_S, self._choose_spare, peer, dealer)
                return self.settle(peer, dealer)
            self._replace(peer, dealer)
        peer.why_lost, peer.refused, peer.leads_nowhere, peer.retry_at = "", False, False, 0.0
        peer.capabilities = dealer.capabilities
        self.settle(peer, dealer)
        if dealer in peer.parting or (dealer.kind is LinkKind.RELAYED and peer.has_shortcut(dealer.bulk)):
            self.moves.leave(peer, [dealer])  # a straight one came up while it was being called

    def dealer_ended(self, dealer: Dealer, was_ready: bool, why: str) -> None:
        peer, is_spare = self._dealers[dealer], dealer in self._spares
        self._drop(dealer)
        if is_spare:
            return self.settle(peer, dealer)
        if not was_ready:
            self.settle(peer, dealer)
            peer.retry_at = self._loop.time() + RETRY_S
        peer.why_lost, peer.refused = why, dealer.refused
        peer.leads_nowhere = dealer.leads_nowhere and not was_ready
        self.moves.requeue(peer, dealer)
        self._ended(peer, dealer, why)
        self._look_at(peer)

    def inbound_ready(self, inbound: Inbound) -> None:
        """The newest connection of a lane is the one surely alive; what waited for another goes over it."""
        peer, inbound.meter = self.book.meet(inbound.contact.public_key), self.meter
        if not inbound.beside:
            self._follow(peer, inbound)
        peer.said, peer.why_lost, peer.retry_at = inbound.contact, "", 0.0
        peer.capabilities = inbound.capabilities
        peer.seen_at(inbound.host, inbound.relay)
        self.moves.waits(peer, inbound)
        peer.inbounds.append(inbound)
        self.arrivals.came(inbound)
        used = peer.used.get(inbound.bulk)
        if not inbound.beside and (used is None or not used.ready or self._replaces(inbound, used)):
            peer.use(inbound.bulk, inbound, self._loop.time())
            if used is not None:
                used.is_stale = True
                used.queue.move_to(inbound.queue)
                inbound.flush()
                self._retry_soon(inbound)
        self._look_at(peer)

    def _replaces(self, inbound: Inbound, used: Link) -> bool:
        """(A call by way of a relay may have been under way when a straight link came up.)"""
        is_fresh = self._loop.time() < used.since_s + ATTEMPT_TIMEOUT_S
        is_late = is_fresh and used.kind is not LinkKind.RELAYED and inbound.kind is LinkKind.RELAYED
        return isinstance(used, Inbound) and not is_late

    def _follow(self, peer: Peer, inbound: Inbound) -> None:
        """It says that it lives elsewhere now than where we have called it: nobody may have told us that it left.

        (A peer may well be reached where it does not say so: by a name, or by a port that its router passes on.)
        """
        addresses = inbound.contact.addresses
        nears = [nearness(parse_address(one)[0]) for one in addresses if is_address(one)]
        for dealer in list(peer.dealers.values()):
            told = dealer.way.told
            if dealer.kind is LinkKind.PUNCHED:  # at a port that its router has chosen
                continue
            if dealer.ready and told not in addresses and nearness(parse_address(told)[0]) in nears:
                self._drop(dealer)
                dealer.queue.move_to(inbound.queue)
                self._ended(peer, dealer, "the peer lives elsewhere now", inbound)

    def inbound_ended(self, inbound: Inbound) -> None:
        peer = self.book.get(inbound.peer)
        if peer is not None and inbound in peer.inbounds:
            peer.inbounds.remove(inbound)
            if peer.inbounds:  # of two with one key, say, one is gone
                peer.said = peer.inbounds[-1].contact
            peer.why_lost = "the connection was closed"
            self.moves.gone(peer, inbound)
            self._ended(peer, inbound, peer.why_lost)
            self._look_at(peer)

    def _ended(self, peer: Peer, link: Link, why: str, other: Link | None = None) -> None:
        """`other`: one that is there, and not in the book yet."""
        if other is None and not any(peer.links()):
            peer.used.clear()
            self._loop.call_soon(self._on_lost, peer.id, f"peer {short_id(peer.id)}: {why}", self._loop.time())
            return
        lost = {bulk: since_s for bulk, since_s in peer.used_since_s.items() if peer.used.get(bulk) is link}
        if peer.answers_by(link):
            lost = {False: float("-inf"), True: float("-inf")}
        for bulk, since_s in lost.items():
            self._loop.call_soon(self._on_broken, peer.id, bulk, since_s)

    def has_detour(self, since_s: float) -> bool:
        """Has a call of ours by way of a relay been used since then?"""
        return any(one.kind is LinkKind.RELAYED and one.is_usable and one.since_s <= since_s for one in self._dealers)

    def called_by_detour(self) -> list[bytes]:
        """Peers that we call by way of a relay, and have no other link to."""
        relayed = [peer for one, peer in self._dealers.items() if one.kind is LinkKind.RELAYED and one.is_usable]
        return [peer.id for peer in dict.fromkeys(relayed) if not peer.has_shortcut(False)]

    def _look_at(self, peer: Peer) -> None:
        """Is a relay all that there is between us, which it alone does not know?"""
        for callback in self.on_detour if peer.is_on_detour else ():
            callback(peer.id)

    # --- blocked links

    def _retry_soon(self, link: Link) -> None:
        """If there is anything to be sent that could not be."""
        if not link.has_work:
            return
        self._blocked[link] = None
        if self._blocked_timer is None:
            self._blocked_timer = self._loop.call_later(BLOCKED_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._blocked_timer = None
        links, self._blocked = list(self._blocked), {}
        have_sent = {link: link.flush() for link in links}
        for link in sorted(links, key=have_sent.__getitem__):  # where a meter lets few pass they take turns
            self._retry_soon(link)
