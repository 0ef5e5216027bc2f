"""What a transport remembers of each peer: where it can be dialled and who says so, which links exist and are used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from dsdnode.addresses import Nearness, check_reachable, may_name, nearness, network
from dsdnode.identity import curve_public_key, peer_id
from dsdnode.net.call import Way
from dsdnode.net.dials import Teacher
from dsdnode.net.door import leads_here, said_by
from dsdnode.net.link import Dealer, Inbound, Link
from dsdnode.net.port import LinkKind, Sighting
from dsdnode.wire.messages import Contact

MAX_PEERS = 4096
MAX_ADDRESSES = 8
MAX_CLAIMS = 3
"""Of what others say about where a peer can be dialled. A later claim takes the place of one that proved wrong."""


def _always(teacher: Teacher, address: str) -> bool:
    return True


@dataclass(slots=True)
class _Claim:
    contact: Contact
    teacher: Teacher
    failed: bool = False

    def is_idle(self, addresses: Collection[str], can_pay: Callable[[Teacher, str], bool]) -> bool:
        """Would one of these addresses be called on its teacher's word, and cannot be, for nothing is left to him?"""
        own = [one for one in self.contact.addresses if one in addresses]
        return not self.failed and not all(can_pay(self.teacher, one) for one in own)


@dataclass(slots=True, eq=False)
class Peer:
    """Lanes: False is for control, True (bulk) for everything else. Messages keep to one link while it lives."""

    id: bytes
    public_key: bytes
    curve_key: bytes
    given: Contact | None = None
    """From our own user, or reached before."""
    said: Contact | None = None
    """From its HELLO: the key is verified, the addresses are what it claims."""
    claims: list[_Claim] = field(default_factory=list)
    """From others."""
    reached: dict[str, Way] = field(default_factory=dict)
    """Addresses at which a call of ours was answered, the last one last."""
    silent: set[str] = field(default_factory=set)
    """Those of them that did not answer when they were called last."""
    dealers: dict[bool, Dealer] = field(default_factory=dict)
    inbounds: list[Inbound] = field(default_factory=list)
    """The newest last."""
    parting: list[Dealer] = field(default_factory=list)
    """Dealers that are being left."""
    used: dict[bool, Link] = field(default_factory=dict)
    used_since_s: dict[bool, float] = field(default_factory=dict)
    borrowed: dict[bool, Link] = field(default_factory=dict)
    """Lanes that have no link of their own: the other lane's, that their messages have gone over."""
    capabilities: tuple[str, ...] = ()
    """That it has named last."""
    why_lost: str = ""
    refused: bool = False
    """It answered our last greeting with a no that is meant for good."""
    leads_nowhere: bool = False
    """When it was dialled last, each of its addresses was answered, and not by it."""
    retry_at: float = 0.0
    doubted_s: float = float("-inf")
    """When it was called anew, though there are links to it."""
    as_teacher: Teacher | None = None
    """How it counts when it names others: by where its last connection came from, or led to."""

    def links(self) -> Iterator[Link]:
        yield from self.dealers.values()
        yield from self.parting
        yield from self.inbounds

    def contact(self) -> Contact | None:
        """What it says of itself, else what it was introduced by."""
        return self.said or self.given or next((claim.contact for claim in self.claims), None)

    def hear(self, contact: Contact, teacher: Teacher, can_pay: Callable[[Teacher, str], bool] = _always) -> bool:
        """Somebody says where it can be dialled. False: that is no news, or not to be believed. `can_pay`: is anything
        left to somebody for a call there? What nobody may try on the word of who has said it keeps nothing out."""
        addresses = tuple(address for address in contact.addresses if may_name(teacher.near, address))
        idle = [claim for claim in self.claims if claim.teacher != teacher and claim.is_idle(addresses, can_pay)]
        for claim in idle:
            self.claims.remove(claim)
        if not addresses or any(claim.contact.addresses == addresses for claim in self.claims):
            return bool(idle)
        if len(self.claims) == MAX_CLAIMS:
            vain = (claim for claim in self.claims if claim.failed or claim.is_idle(claim.contact.addresses, can_pay))
            wrong = next(vain, None)
            if wrong is None:
                return False
            self.claims.remove(wrong)
        self.claims.append(_Claim(Contact(self.public_key, addresses), teacher))
        return True

    def ways(self) -> list[Way]:
        """Where it may be dialled, best first: where it answers, then what its own user, itself and others say."""
        ways = [way for way in reversed(self.reached.values()) if way.address not in self.silent]
        if self.given is not None:
            ways += [Way(address) for address in self.given.addresses if _is_reachable(address)]
        if self.said is not None and self.as_teacher is not None:
            near = self.as_teacher.near
            ways += [Way(one, near, self.as_teacher) for one in self.said.addresses if may_name(near, one)]
        for claim in sorted(self.claims, key=lambda claim: claim.failed):
            ways += [Way(one, claim.teacher.near, claim.teacher) for one in claim.contact.addresses]
        best: dict[str, Way] = {}
        for way in (*ways, *self.reached.values()):
            best.setdefault(way.address, self.reached.get(way.address, way))
        return list(best.values())[:MAX_ADDRESSES]

    def answered(self, way: Way, host: str, relayed: bool = False) -> None:
        """A call of ours led to it; `host`: the IP address."""
        self.reached.pop(way.told, None)
        self.reached[way.told] = Way(way.told, way.near, host=host, relayed=relayed, hearsay=not way.by_user)
        self.silent.discard(way.told)
        while len(self.reached) > MAX_ADDRESSES:
            first = next(iter(self.reached))
            del self.reached[first]
            self.silent.discard(first)
        self.seen_at(host)

    def unanswered(self, address: str) -> None:
        """A call of ours to one of its addresses (as it was told) led nowhere, or to somebody else."""
        if address in self.reached:
            self.silent.add(address)
        for claim in self.claims:
            claim.failed |= address in claim.contact.addresses

    def seen_at(self, host: str, relay: bytes = b"") -> None:
        """A connection with it came from, or led to, this IP address ("": not known). `relay`: that alone says so."""
        near = (Nearness.HERE if leads_here(host) else nearness(host)) if host else None
        self.as_teacher = Teacher.seen_at(host, Nearness.WORLD if near is None else near, self.id)
        if relay:
            self.as_teacher = replace(self.as_teacher, account=said_by(relay, self.as_teacher.account))

    def sighting(self) -> Sighting:
        answering = [way for way in reversed(self.reached.values()) if way.address not in self.silent]
        hosts = [way.host for way in answering] + [inbound.host for inbound in self.inbounds if not inbound.relay]
        networks = dict.fromkeys(one for one in (network(host) for host in hosts if host) if one is not None)
        near = self.as_teacher.near if self.as_teacher is not None else Nearness.WORLD
        relayed = tuple(way.address for way in answering if way.relayed)
        return Sighting(tuple(way.address for way in answering), tuple(networks), relayed, near)

    @property
    def source(self) -> str:
        """The IP address that it calls from; of one that does not, the one where it answered last ("": not known)."""
        if self.inbounds:
            return self.inbounds[-1].host
        reached = next(reversed(self.reached.values()), None)
        return "" if reached is None else reached.host

    def use(self, bulk: bool, link: Link, now: float) -> None:
        """For a lane from now on."""
        if self.used.get(bulk) is not link:
            self.used[bulk], self.used_since_s[bulk] = link, now
            link.is_stale = False

    def ready_link(self, bulk: bool) -> Link | None:
        """An open link of a lane: one that leads straight to it first, then ours before theirs, the newest of these."""
        usable = [link for link in (*self.dealers.values(), *reversed(self.inbounds)) if link.is_usable]
        usable = [link for link in usable if not link.beside] or usable
        found = [link for link in usable if link.bulk is bulk]
        return next((link for link in found if link.kind is not LinkKind.RELAYED), found[0] if found else None)

    def has_shortcut(self, bulk: bool) -> bool:
        """Is there a link of that lane that needs no relay?"""
        link = self.ready_link(bulk)
        return link is not None and not link.beside and link.kind is not LinkKind.RELAYED

    def answers_by(self, link: Link) -> bool:
        """Does it send by this one, which has just ended, as far as is known? It does by what something came over last,
        or is to come: what it has answered there may be lost, whichever link was asked by."""
        if link.is_left or (isinstance(link, Dealer) and not link.nonce):
            return False
        heard_s = max(link.heard_s, link.since_s)
        others = [one for one in self.links() if one.is_usable and one.bulk is link.bulk]
        return all(one.heard_s < heard_s for one in others)

    @property
    def is_on_detour(self) -> bool:
        """Has it called by way of a relay, and nothing leads straight to it?"""
        usable = [link for link in self.links() if link.is_usable]
        straight = {link.bulk for link in usable if link.kind is not LinkKind.RELAYED}
        detours = [link for link in self.inbounds if link.is_usable and link.kind is LinkKind.RELAYED]
        return any(link.bulk not in straight for link in detours)


class PeerBook:
    """All peers, by id; of too many, the one met longest ago that has no link is forgotten."""

    def __init__(self) -> None:
        self._peers: OrderedDict[bytes, Peer] = OrderedDict()

    def get(self, peer: bytes) -> Peer | None:
        return self._peers.get(peer)

    def meet(self, public_key: bytes) -> Peer:
        """Raises ValueError for a key that is none."""
        name = peer_id(public_key)
        known = self._peers.get(name)
        if known is None:
            known = Peer(name, public_key, curve_public_key(public_key))
            self._peers[name] = known
            self._forget()
        self._peers.move_to_end(name)
        return known

    def linked(self) -> Iterator[bytes]:
        return (peer.id for peer in list(self._peers.values()) if any(link.ready for link in peer.links()))

    def _forget(self) -> None:
        if len(self._peers) > MAX_PEERS:
            oldest = next((peer for peer in self._peers.values() if not any(peer.links())), None)
            if oldest is not None:
                del self._peers[oldest.id]


def _is_reachable(address: str) -> bool:
    try:
        check_reachable(address)
    except ValueError:
        return False
    return True
