"""Peers that call one another's addresses, and say which were answered: how a node learns where others reach it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import structlog
from cachetools import LRUCache

from dsdnode.addresses import may_name, network, parse_address
from dsdnode.dht.ids import is_dialable, node_id
from dsdnode.dht.table import Table
from dsdnode.errors import DsdError, PeerMisbehaved
from dsdnode.identity import short_id
from dsdnode.net.nat import Kind, Nat
from dsdnode.net.places import is_plain_ip, may_lead
from dsdnode.net.port import REACH, RELAY, Transport
from dsdnode.net.rpc import Response, Rpc
from dsdnode.swarm.homes import Homes
from dsdnode.swarm.info import AddressInfo, ReachInfo
from dsdnode.swarm.queries import Tasks
from dsdnode.swarm.reach import Reach, Verdict
from dsdnode.swarm.relaying import Relaying, own_networks
from dsdnode.swarm.shortcuts import Shortcuts
from dsdnode.swarm.visits import Visits
from dsdnode.wire.messages import Contact, FindMe, Reached, Refused
from dsdnode.wire.records import ProviderRecord

MAX_ASKED = 3
"""At once, each of another network where there are so many."""
MAX_ASKERS = 16
MAX_LINKED = 256
"""Peers of whom it is known that they have called us."""
MAX_TOLD = 16
"""Peers that are asked at once when we are reached where our greetings did not name it: so they learn of it."""
CALLED_S = 5.5
"""So long an address that nobody answers is called (ATTEMPT_TIMEOUT_S), and a little more."""
ANSWERED_S = 8.0

ROUTERS = {
    Kind.UNKNOWN: "",
    Kind.SAME: "; its router shows one port to all whom it calls",
    Kind.COUNTING: "; its router takes the next port for each call",
    Kind.RANDOM: "; its router takes any port for each call",
}

log = structlog.get_logger(__name__)


class Checks:
    """`changed` is called when others are to be told other addresses of ours than before."""

    def __init__(
        self,
        rpc: Rpc,
        table: Table,
        homes: Homes,
        tasks: Tasks,
        changed: Callable[[], None],
        rng: random.Random,
        relay_bytes_per_s: float,
    ) -> None:
        self._rpc = rpc
        self._table = table
        self._homes = homes
        self._tasks = tasks
        self._changed = changed
        self.reach = Reach(_now())
        self._usable = asyncio.Event()
        """`is_usable`, since the last tick."""
        self._direct = set(self._own_direct)
        """All that were ours in this place: of too many those that relays give take the place of some."""
        self._named = rpc.transport.contact.addresses
        self._news: set[str] = set()
        """Of them those that were not named when we greeted whom we are linked to."""
        self._asked: LRUCache[bytes, None] = LRUCache(MAX_LINKED)
        """Who have called what is named now."""
        self._known_ways = True, 0.0
        self.is_said = False
        """Somebody else says how others reach us at first: so it is not logged as well."""
        self._askers: LRUCache[bytes, None] = LRUCache(MAX_ASKERS)
        """Who have asked us: where nobody else can be dialled they can be asked all the same."""
        self._seen_at: LRUCache[str, str] = LRUCache(MAX_ASKERS)
        """IP addresses that we are seen at, by whose word it is."""
        self._relaying = Relaying(rpc, table, tasks, self.reach, rng, relay_bytes_per_s)
        self._visits = Visits(rpc, tasks, rng)
        self._shortcuts = Shortcuts(rpc, tasks, self._reached_without_relays)
        rpc.on_request(FindMe, self._on_find_me)

    @property
    def contact(self) -> Contact:
        """What is told of us: our key, and of our addresses those where others reach us."""
        own = self._rpc.transport.contact
        return Contact(own.public_key, self.reach.told(own.addresses))

    @property
    def nat(self) -> Nat:
        """What is between us and the world, and how the port that we listen on looks from there."""
        outlook = self._rpc.transport.outlook
        return outlook.nat if outlook is not None else Nat()

    @property
    def given(self) -> tuple[str, ...]:
        """Addresses of ours that relays have given us."""
        return self._rpc.transport.given

    @property
    def is_callable(self) -> bool:
        """May others reach us, by way of relays or without? Not if those who were asked say no, and nobody has called
        all the same."""
        return self.reach.verdict is not Verdict.UNREACHED or self._rpc.transport.is_called

    def as_reached(self, records: Iterable[ProviderRecord]) -> list[ProviderRecord]:
        """What is to be announced of them: nothing, where nobody can call us. How much relays let through is filled in
        here."""
        is_callable, rate = self._ways
        called = records if is_callable else ()
        return [msgspec.structs.replace(record, relay_bytes_per_s=rate) for record in called]

    @property
    def _discounted(self) -> tuple[str, ...]:
        """Addresses where some reach us, but perhaps not all, or not without a relay."""
        outlook = self._rpc.transport.outlook
        return self.given if outlook is not None and outlook.is_open else (*self.given, self._rpc.transport.seen)

    @property
    def _ways(self) -> tuple[bool, float]:
        """May others reach us, and what do our relays let through, if those far away need them (0: they do not)?"""
        return self.is_callable, self._rpc.transport.relay_bytes_per_s if self.reach.is_cut_off else 0.0

    @property
    def is_usable(self) -> bool:
        """Do others reach us, and not our neighbours alone, or those whom we have called, while there are others?"""
        reach = self.reach
        return reach.verdict is Verdict.REACHED and (not reach.is_cut_off or any(map(reach.is_reached, self.given)))

    async def until_usable(self) -> None:
        await self._usable.wait()

    @property
    def _own_direct(self) -> tuple[str, ...]:
        others = (*self.given, self._rpc.transport.seen)
        return tuple(one for one in self._rpc.transport.contact.addresses if one not in others)

    @property
    def _to_name(self) -> tuple[str, ...]:
        """What our greetings name: whoever is greeted calls it, to have us in its table of the DHT. So nothing that
        relays have given us, which would carry all of that, and nothing where most have called in vain."""
        discounted = self._discounted
        direct = tuple(one for one in self._rpc.transport.contact.addresses if one not in discounted)
        heard = tuple(one for one in direct if not self.reach.is_unreached(one))
        return heard or (direct if self._rpc.transport.is_called else ())

    def info(self) -> ReachInfo:
        """What is known, for people."""
        transport, reach = self._rpc.transport, self.reach
        held = transport.relays.held if transport.relays is not None else {}
        by = {address: peer.hex() for peer, addresses in held.items() for address in addresses}
        peers = list(map(node_id, self._table.contacts()))
        return ReachInfo(
            addresses=tuple(
                AddressInfo(
                    one, True if reach.is_reached(one) else False if reach.was_called(one) else None, by.get(one, "")
                )
                for one in transport.contact.addresses
            ),
            is_known=reach.verdict is not Verdict.UNKNOWN,
            is_far=reach.is_far,
            is_cut_off=reach.is_cut_off,
            seen_at=tuple(sorted(set(self._seen_at.values()))),
            seen=transport.seen,
            nat=self.nat.kind.value if transport.outlook is not None and transport.outlook.is_translated else "",
            why_no_port=transport.why_no_port,
            why_no_relay=self._relaying.why_none,
            num_peers=len(peers),
            num_able=sum(transport.can(peer, RELAY) for peer in peers),
            relays=transport.relays is not None and bool(transport.relays.port),
            twin=transport.twin,
        )

    def _reached_without_relays(self) -> tuple[str, ...]:
        """By all, whether we have called them or not."""
        others = self._discounted
        own = [one for one in self._rpc.transport.contact.addresses if one not in others]
        return () if self.reach.is_cut_off else tuple(filter(self.reach.is_reached, own))

    def moved(self, now: float) -> None:
        """We have other addresses than before: what was said of another place counts no more."""
        own = set(self._own_direct)
        if own <= self._direct:
            self.reach.ask_now(now, self._rpc.transport.contact.addresses)
        else:
            self._direct = own
            self._seen_at.clear()
            self.reach.moved(now, self.given)
            self._shortcuts.moved()

    def tick(self, now: float) -> None:
        """Ask, if it is time to and anybody is there."""
        if self._rpc.transport.contact.addresses and self.reach.due(now) and (voices := self._choose()):
            self.reach.asking(now)
            for voice, peer in voices.items():
                self._tasks.spawn(self._ask(peer, voice))
        outlook = self._rpc.transport.outlook
        if outlook is not None and outlook.is_due(now):
            outlook.look(now, self._peers())
        self.reach.discount(self._discounted)
        self._relaying.tick(now)
        self._shortcuts.tick(now)
        if self._named != (named := self._to_name):
            self._news = {one for one in named if one in self._news or one not in self._named}
            self._named = named
            self._asked.clear()
            self._rpc.transport.greet_as(named)
        if any(map(self.reach.is_reached, self._news)):
            self._news = {one for one in self._news if not self.reach.is_reached(one)}
            for peer in self._unasked():
                self._tasks.spawn(self._ask(peer, self._voice_of(peer)))
        if self._known_ways != (ways := self._ways):
            self._known_ways = ways
            self._changed()
        if self.is_usable:
            self._usable.set()
        else:
            self._usable.clear()

    def _choose(self) -> dict[str, bytes]:
        """Whom to ask, by whose word it is: the public network that one is seen in, or, nearby, the peer itself."""
        transport = self._rpc.transport
        voices: dict[str, bytes] = {}
        for peer in self._peers():
            if transport.can(peer, REACH):
                voices.setdefault(self._voice_of(peer), peer)
            if len(voices) == MAX_ASKED:
                break
        return voices

    def _voice_of(self, peer: bytes) -> str:
        return network(self._rpc.transport.source_of(peer)) or peer.hex()

    def _unasked(self) -> list[bytes]:
        """Those who know us by a greeting that does not name what is reached now: who is asked calls it."""
        transport = self._rpc.transport
        others = [peer for peer in transport.linked() if peer not in self._asked and transport.can(peer, REACH)]
        return others[:MAX_TOLD]

    def _peers(self) -> Iterator[bytes]:
        yield from map(node_id, self._table.contacts())
        yield from self._askers

    async def _ask(self, peer: bytes, voice: str) -> None:
        own = self._rpc.transport.contact.addresses
        try:
            answer, _ = await self._rpc.request(peer, FindMe(own), timeout_s=ANSWERED_S)
        except DsdError as error:
            log.debug("not told whether we are reached", reason=str(error))
            return
        if not isinstance(answer, Reached) or own != self._rpc.transport.contact.addresses:
            return
        self._asked[peer] = None
        if is_plain_ip(answer.source):
            self._seen_at[voice] = answer.source
        told, verdict = self.contact, self.reach.verdict
        near = (None, *own_networks(self._own_direct))
        far = network(self._rpc.transport.source_of(peer)) not in near
        called = [one for one in own if may_name(self._rpc.transport.sighting(peer).near, one)]
        is_left = not {*answer.tried, *answer.reached}.issuperset(called)
        self.reach.heard(_now(), voice, own, answer.reached, answer.tried, far, is_left)
        if self.reach.verdict is not verdict and not (self.is_said and verdict is Verdict.UNKNOWN):
            self._say(own)
        if self.contact != told:
            self._changed()
        outlook = self._rpc.transport.outlook
        if outlook is not None and self.reach.is_unreached(self._rpc.transport.seen):
            outlook.shut()

    def _say(self, own: Sequence[str]) -> None:
        if self.reach.verdict is Verdict.UNREACHED:
            relays = self._rpc.transport.relays
            say = log.warning if relays is None or relays.is_last_resort else log.info  # one that relays is looked for
            say(f"{Verdict.UNREACHED.value}: {why_unreached(self._rpc.transport)}")
        else:
            log.info(self.reach.verdict.value, addresses=self.reach.told(own))

    async def _on_find_me(self, peer: bytes, message: FindMe, buffers: Sequence[bytes]) -> Response:
        known = self._rpc.transport.contact_of(peer)
        if known is None:
            return Refused("nothing is known of this peer", retry=True), ()
        self._askers[peer] = None
        contact = Contact(known.public_key, message.addresses)
        if not is_dialable(contact):
            raise PeerMisbehaved("an address that is none")
        self._rpc.transport.introduce(contact, teacher=peer)
        called = await self._homes.tried(contact, CALLED_S)
        sighting = self._rpc.transport.sighting(peer)
        reached = tuple(one for one in called if one in sighting.reached)
        tried = tuple(one for one in called if one in reached or may_lead(parse_address(one)[0]))
        self._visits.ask_for(_now(), peer, reached)
        return Reached(self._rpc.transport.source_of(peer), reached, tried), ()


def in_words(reach: Reach, transport: Transport) -> str:
    """Whether others reach this node, where, and by way of whom; or why not."""
    own, relays = transport.contact.addresses, transport.relays
    held = relays.held if relays is not None else {}
    by = {one: f" by way of the relay {short_id(peer)}" for peer, addresses in held.items() for one in addresses}
    looks = relays is not None
    by_user = [one for one in own if one not in by] if relays is not None and relays.is_last_resort else []
    told = {
        Verdict.REACHED: ", ".join(address + by.get(address, "") for address in reach.told(own)),
        Verdict.UNREACHED: "no member that relays is found yet, and " * looks + why_unreached(transport),
        Verdict.UNKNOWN: "no other peer was there to try",
    }
    said = f"{reach.verdict.value}: {told[reach.verdict]}"
    if reach.verdict is Verdict.REACHED and reach.is_cut_off and not any(map(reach.is_reached, by)):
        is_seen = reach.is_reached(transport.seen)
        said += ", perhaps by those alone whom it has called" if is_seen else ", in this house alone"
        said += "; no member that relays is found yet" * (looks and not by_user)
    elif reach.verdict is Verdict.REACHED and by_user and not any(map(reach.is_reached, by_user)):
        said += f", but not where --advertise says: {', '.join(by_user)}"
    if transport.outlook is not None and transport.outlook.is_translated:
        said += ROUTERS[transport.outlook.nat.kind]
    if relays is not None and relays.port:
        said += f"; it relays for those that are not reached (circuits now: {relays.num_circuits})"
    return said


def why_unreached(transport: Transport) -> str:
    """What keeps them away, and what to do."""
    relays = transport.relays
    own = [one for one in transport.contact.addresses if relays is None or one not in relays.given]
    if relays is not None and relays.is_last_resort:
        port = transport.here[0].rpartition(":")[2]
        return (
            f"nobody answered them at {', '.join(own)}, which --advertise says. Is that this machine, or a router that "
            f"passes the port on to TCP port {port} of this machine? If not, leave --advertise out"
        )
    port = own[0].rpartition(":")[2] if own else ""
    asked = f" (asked for it, {transport.why_no_port})" if transport.why_no_port else ""
    return (
        f"nobody answered them at {', '.join(own)}. A router or firewall keeps them out: have it pass TCP port {port} "
        f"on to this machine{asked}, and say --advertise tcp://PUBLIC_ADDRESS:PORT"
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
