"""A host of the simulated network: the production node's Transport over latency, jitter, bandwidth, loss and cuts.

A pair of peers has one connection a lane (control, bulk), made when the first message needs it and kept until one of
them dies or it is evicted; within a lane messages keep their order. A message leaves when the sender's uplink is free
(control never waits for bulk), takes the link's latency, and is received when the receiver's downlink is free. A
segment lost is sent again, as TCP does, and holds up what is behind it; what is on its way into a cut is gone. What
reaches a machine that was away meanwhile is gone, too, and the connection with it: of two lanes that one is broken.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from dsdnode.addresses import machine_of, network_of, parse_address
from dsdnode.errors import PeerUnavailable
from dsdnode.identity import peer_id
from dsdnode.net.dials import Teacher, first_to_go
from dsdnode.net.port import ATTEMPT_TIMEOUT_S, MAX_DIALLED, RETRY_S, SILENT_S, Priority, Sighting, listed
from dsdnode.net.queues import Inbox
from dsdnode.sim.links import HANDSHAKE_ROUND_TRIPS, SimLink, SimRelay, Traffic, arrival_s, size_of
from dsdnode.sim.network import Network
from dsdnode.wire.messages import Contact


class SimTransport:
    """Implements net/port.py's Transport. `close` is what the end of its process is to the others.

    A new host of `network`; 0 bytes a second: without limit. Others cannot call it if it is not `dialable`, or they
    do by way of its `relay`, which has given it the addresses that it has; it is seen to call from the IP address
    `source` (that of its address, if it is not said).
    """

    def __init__(
        self,
        network: Network[SimTransport],
        contact: Contact,
        region: str = "",
        *,
        up_bytes_s: float = 0.0,
        down_bytes_s: float = 0.0,
        dialable: bool = True,
        relay: SimRelay | None = None,
        source: str = "",
    ) -> None:
        self.contact = contact
        self.dialable, self.relay = dialable, relay
        self.given = contact.addresses if relay is not None else ()
        self.relay_bytes_per_s = relay.bytes_per_s if relay is not None else 0.0
        self._greets = Contact(contact.public_key, () if relay is not None else contact.addresses)
        self.source = source or (parse_address(contact.addresses[0])[0] if contact.addresses else "")
        self.here = contact.addresses
        self.twin = ""
        self.why_no_port = self.seen = ""
        self.relays = self.outlook = self.paths = None
        self.id = peer_id(contact.public_key)
        self.region = region
        self.traffic = Traffic()
        self._network = network
        self._up_bytes_s = up_bytes_s
        self._down_bytes_s = down_bytes_s
        self._up_free_s = [0.0, 0.0]
        self._down_free_s = [0.0, 0.0]
        self._inbox = Inbox()
        self._contacts: dict[bytes, Contact] = {}
        """As others have told."""
        self._said: dict[bytes, Contact] = {}
        """In their greetings."""
        self._links: OrderedDict[tuple[bytes, bool], SimLink] = OrderedDict()
        self._num_dialled = 0
        self._reached: dict[bytes, Sighting] = {}
        self._retry_s: dict[bytes, float] = {}
        self._banned: dict[bytes, float] = {}
        self._newer: dict[tuple[bytes, bool], SimLink] = {}
        """Made by peers beside those that we have dialled, which are dead without our knowing."""
        self._lost: list[tuple[contextvars.Context, Callable[[bytes, str, float], None]]] = []
        self._broken: list[tuple[contextvars.Context, Callable[[bytes, bool, float], None]]] = []
        self.num_in_vain = 0
        """Calls that nobody answered."""
        self.closed = False
        network.add(self)

    def has_called(self, contacts: Iterable[Contact]) -> None:
        """As after long acquaintance (warm.py): where nobody has answered is nobody to be told of."""
        for peer in (peer_id(contact.public_key) for contact in contacts):
            self._reached[peer] = _seen(self._network.hosts[peer])

    # --- the port

    @property
    def is_called(self) -> bool:
        return self.relay is None and any(link.callee == self.id for link in self._links.values())

    def greet_as(self, addresses: Sequence[str]) -> None:
        self._greets = Contact(self.contact.public_key, tuple(addresses))

    def introduce(self, contact: Contact, teacher: bytes | Teacher | None = None) -> None:
        peer = peer_id(contact.public_key)
        if contact.addresses and peer != self.id and not self.links_to(peer):
            self._contacts[peer] = contact

    def sighting(self, peer: bytes) -> Sighting:
        return self._reached.get(peer, Sighting())

    async def reach(self, peer: bytes, address: str, anew: bool = False) -> bool:
        """At once: the ping that follows takes the time of a call. In vain it takes that itself."""
        host = self._network.hosts.get(peer)
        if host is None or self._network.is_cut(self.id, peer):
            return True
        if host.dialable:
            self._reached[peer] = _seen(host)
        elif self._has_address(peer):
            self.num_in_vain += 1
            await asyncio.sleep(ATTEMPT_TIMEOUT_S)
            self._reached.pop(peer, None)
        return True

    async def visit(self, contact: Contact, teacher: bytes) -> None:
        """Everybody is reached here."""

    def linked(self) -> Iterator[bytes]:
        return iter(())

    async def look_for_twin(self, places: Mapping[str, bytes | None]) -> None:
        """Every host of a simulation has a key of its own."""

    def contact_of(self, peer: bytes) -> Contact | None:
        return self._said.get(peer) or self._contacts.get(peer)

    def can(self, peer: bytes, capability: str) -> bool:
        return True

    def source_of(self, peer: bytes) -> str:
        known = self._network.hosts.get(peer)
        return "" if known is None else known.source

    def refused_by(self, peer: bytes) -> bool:
        return False

    def leads_nowhere(self, peer: bytes) -> bool:
        return False

    def trouble_with(self, peer: bytes) -> str:
        return ""

    def on_peer_lost(self, callback: Callable[[bytes, str, float], None]) -> Callable[[], None]:
        return listed(self._lost, (contextvars.copy_context(), callback))

    def on_broken(self, callback: Callable[[bytes, bool, float], None]) -> Callable[[], None]:
        return listed(self._broken, (contextvars.copy_context(), callback))

    def doubt(self, peer: bytes) -> None:
        """They die with their machines, and are made anew when these are back."""

    @property
    def is_stranded(self) -> bool:
        return False

    def on_neighbour(self, callback: Callable[[Contact], None]) -> bool:
        return False

    def on_moved(self, callback: Callable[[], None]) -> None:
        """Nobody moves here."""

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if self.closed:
            raise PeerUnavailable("this node is closed")
        network, now = self._network, self._network.loop.now
        if peer == self.id:  # one node with several roles
            network.loop.at(now, self._inbox.put, peer, frames)
            return
        bulk = priority is not Priority.CONTROL
        link = self._links.get((peer, bulk)) or self._dial(peer, bulk)
        size_bytes = size_of(frames, network.state_bytes)
        leaves_s = max(now, self._up_free_s[0], self._up_free_s[bulk])
        if self._up_bytes_s:
            leaves_s += size_bytes / self._up_bytes_s
        self._up_free_s[bulk] = leaves_s
        way = network.way(self.id, peer, link.relay)
        arrives_s = arrival_s(link, max(leaves_s, link.ready_s), size_bytes, way, network.rng)
        arrives_s = link.arrived_s[peer] = max(arrives_s, link.arrived_s.get(peer, 0.0))
        self._count(priority, size_bytes)
        network.loop.at(arrives_s, self._arrive, link, peer, frames, size_bytes, priority, now)

    async def receive(self) -> tuple[bytes, list[bytes]]:
        return await self._inbox.get()

    def ban(self, peer: bytes, duration_s: float) -> None:
        self._banned[peer] = self._network.loop.now + duration_s
        for link in self.links_to(peer):
            self._network.break_link(link, "banned", 0.0, 0.0)

    async def close(self) -> None:
        self.end()

    # --- the world

    def end(self, silent: bool = False) -> None:
        """The process ends, and its connections break; `silent`: so does the machine, and nobody is told. What is sent
        there is lost until silence is noticed, and calls are not even refused."""
        if self.closed:
            return
        network, self.closed = self._network, True
        del network.hosts[self.id]
        network.ended[self.id] = silent
        for link in list(self._links.values()):
            link.broken = True
            if silent:
                late_s = network.loop.now + SILENT_S
                network.loop.at(late_s, network.break_link, link, "nothing is acknowledged", 0.0, 0.0)
            else:
                late_s = network.spec(self.id, link.other(self.id)).latency_s
                network.break_link(link, "the connection is closed", late_s, late_s)

    def links_to(self, peer: bytes) -> list[SimLink]:
        return [self._links[key] for key in ((peer, False), (peer, True)) if key in self._links]

    def peers(self) -> list[bytes]:
        return list(dict.fromkeys(peer for peer, _ in self._links))

    def unlink(self, link: SimLink) -> bool:
        """Was it the one that is used?"""
        lane = link.other(self.id), link.bulk
        if self._newer.get(lane) is link:
            del self._newer[lane]
        if self._links.get(lane) is not link:
            return False
        del self._links[lane]
        self._num_dialled -= link.caller == self.id
        if lane in self._newer:
            self._links[lane] = self._newer.pop(lane)
        return True

    def lose(self, link: SimLink, why: str) -> None:
        if self.closed or self.id in link.ended:
            return
        link.ended[self.id] = None
        peer, network = link.other(self.id), self._network
        was_used = self.unlink(link)
        if not self.links_to(peer):
            for context, callback in self._lost:
                network.loop.at(network.loop.now, context.copy().run, self._tell_lost, callback, peer, why)
        elif was_used:
            for broken_context, on_broken in self._broken:
                network.loop.at(network.loop.now, broken_context.copy().run, self._tell_broken, on_broken, peer, link)

    def _tell_lost(self, callback: Callable[[bytes, str, float], None], peer: bytes, why: str) -> None:
        callback(peer, why, self._network.loop.time())

    def _tell_broken(self, callback: Callable[[bytes, bool, float], None], peer: bytes, link: SimLink) -> None:
        callback(peer, link.bulk, self._network.loop.clocked(link.made_s))

    def meet(self, link: SimLink, contact: Contact) -> None:
        """Somebody has dialled us. What we have dialled ourselves is left for that when it is seen to be dead."""
        lane, network = (link.caller, link.bulk), self._network
        known = self._links.get(lane)
        self._said[link.caller] = contact
        if known is not None and known.broken and known.caller == self.id:
            self._newer[lane] = link
            if self.id in known.unheard:
                late_s = network.loop.now + network.round_trip_s(self.id, link.caller)
                network.loop.at(late_s, self.lose, known, "the connection was reset")
            return
        if known is not None:
            self.unlink(known)
        self._links[lane] = link

    # --- inside

    def _count(self, priority: Priority, size_bytes: int) -> None:
        for traffic in (self.traffic, self._network.traffic[priority]):
            traffic.num_messages += 1
            traffic.size_bytes += size_bytes

    def _arrive(
        self, link: SimLink, peer: bytes, frames: list[bytes], size_bytes: int, priority: Priority, sent_s: float
    ) -> None:
        network = self._network
        target = network.hosts.get(peer)
        if target is None:
            link.unheard[self.id] = None
            return
        if network.is_cut(self.id, peer):
            return
        if link.broken:  # that machine is back, knows nothing of the connection, and says so
            late_s = network.loop.now + network.spec(peer, self.id).latency_s
            network.loop.at(late_s, self.lose, link, "the connection was reset")
            return
        now = network.loop.now
        if target._down_bytes_s:
            bulk = link.bulk
            free_s = max(now, target._down_free_s[0], target._down_free_s[bulk]) + size_bytes / target._down_bytes_s
            target._down_free_s[bulk] = free_s
            network.loop.at(free_s, target._receive, self.id, frames, priority, sent_s)
        else:
            target._receive(self.id, frames, priority, sent_s)

    def _receive(self, sender: bytes, frames: list[bytes], priority: Priority, sent_s: float) -> None:
        self._network.traffic[priority].flight_s += self._network.loop.now - sent_s
        source = self.source_of(sender)
        self._inbox.put(sender, frames, network_of(source), machine_of(source))

    def _dial(self, peer: bytes, bulk: bool) -> SimLink:
        """A new connection, whose first message waits for the handshake. Raises PeerUnavailable."""
        other = self._links.get((peer, not bulk))
        network, now = self._network, self._network.loop.now
        if not self._has_address(peer):
            if other is None:
                raise PeerUnavailable("it cannot be dialled")
            return other
        if now < self._retry_s.get(peer, 0.0):
            raise PeerUnavailable("it could not be reached just now")
        target = network.hosts.get(peer)
        relay = target.relay if target is not None else None
        shaken_s = HANDSHAKE_ROUND_TRIPS * network.round_trip_s(self.id, peer, relay)
        link = SimLink(self.id, peer, bulk, now + shaken_s, relay, made_s=now)
        self._links[peer, bulk] = link
        self._num_dialled += 1
        if self._num_dialled > MAX_DIALLED:
            self._evict()
        if (
            target is None
            or not target.dialable
            or network.is_cut(self.id, peer)
            or target._banned.get(self.id, 0.0) > now
        ):
            self.num_in_vain += 1
            link.in_vain = True
            refused = target is None and not network.ended.get(peer) and not network.is_cut(self.id, peer)
            later_s = network.round_trip_s(self.id, peer) if refused else ATTEMPT_TIMEOUT_S
            network.loop.at(now + later_s, self._give_up, link)
        else:
            self._reached[peer] = _seen(target)
            target.meet(link, self._greets)
        return link

    def _has_address(self, peer: bytes) -> bool:
        told = (contacts.get(peer) for contacts in (self._contacts, self._said))
        return peer in self._reached or any(contact.addresses for contact in told if contact is not None)

    def _give_up(self, link: SimLink) -> None:
        peer = link.other(self.id)
        self._reached.pop(peer, None)
        self._retry_s[peer] = self._network.loop.now + RETRY_S
        if self._links.get((peer, link.bulk)) is link:
            self._network.break_link(link, "nobody answers there", 0.0, 0.0)

    def _evict(self) -> None:
        """Close a connection of ours: of those that are alike the one that was dialled longest ago."""
        now, ours = self._network.loop.now, [link for link in self._links.values() if link.caller == self.id]
        link = first_to_go(ours, lambda one: one.in_vain or one.ready_s > now)
        self.unlink(link)
        peer = self._network.hosts.get(link.callee)
        if peer is not None:
            late_s = now + self._network.spec(self.id, link.callee).latency_s
            self._network.loop.at(late_s, peer.lose, link, "closed")


def _seen(host: SimTransport) -> Sighting:
    addresses = host.contact.addresses
    return Sighting(addresses, relayed=host.given)
