"""The driver of the DHT: joins, answers, looks up, announces and keeps the table fresh. Decisions are dht/'s.

One loop ticks four times a second and at once when there is news; whatever it starts is bounded and ends by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import structlog
from cachetools import LRUCache

from dsdnode.addresses import may_name
from dsdnode.config import RELAY_BITS_PER_S
from dsdnode.dht.ids import K, node_id
from dsdnode.dht.lookup import MAX_PROVIDERS
from dsdnode.dht.store import Store
from dsdnode.dht.table import Table
from dsdnode.errors import BadInput, DsdError, PeerMisbehaved, PeerUnavailable
from dsdnode.identity import Identity
from dsdnode.net.rpc import Response, Rpc
from dsdnode.swarm import joining
from dsdnode.swarm.announcer import Announcer, RecordFactory
from dsdnode.swarm.checks import Checks
from dsdnode.swarm.homes import Homes
from dsdnode.swarm.inviting import members_to_name
from dsdnode.swarm.joining import Joining, Tell
from dsdnode.swarm.queries import LOOKUP_TIMEOUT_S, Queries, Tasks, wait_until
from dsdnode.swarm.reach import Reach, Verdict
from dsdnode.wire.messages import (
    MAX_ROLES,
    Announce,
    Contact,
    FindNode,
    FindProviders,
    Nodes,
    Providers,
    Refused,
    Stored,
)
from dsdnode.wire.records import MAX_RECORDS, Newest, ProviderRecord, open_record, pack_contacts, pack_records

log = structlog.get_logger(__name__)

TICK_S = 0.25
FIND_TIMEOUT_S = 5.0
PUBLISH_TIMEOUT_S = 10.0
SELF_LOOKUP_GAP_S = 2.0
MAX_OWN_PLACES = 256
MAX_KNOWN = 64
HOUSE_S = 1.5
"""For a neighbour to hear our second question, where the first one was lost, and for our call of it."""


class Discovery:
    """Finds providers and makes this node found. Call `start`, then `join`; `close` (after `withdraw`) at the end."""

    def __init__(
        self, rpc: Rpc, identity: Identity, rng: random.Random, life: int = 0, relay_bits_per_s: int = RELAY_BITS_PER_S
    ) -> None:
        """`life`: how many times this identity has been started; 0: nobody has counted. `relay_bits_per_s`: for those
        that others do not reach."""
        self._rpc = rpc
        self.own_id = identity.peer_id
        self.rng = rng
        self.table = Table(self.own_id)
        self.store = Store()
        self._tasks = Tasks()
        self._queries = Queries(rpc, self.own_id, self.table, self._tasks, self._heard_from)
        self._announcer = Announcer(identity, self.table, self.store, rng, self._queries, life)
        self._joining = Joining(
            rpc.transport, self.own_id, self.table, self._queries, self._tasks, rng, self._look_around_now
        )
        self._is_own: Callable[[bytes], bool] = lambda peer: False
        self.home: Contact | None = None
        """Our own user's node, where we are his client: it tells us what it tells nobody else (keep_back), and is
        asked each time, for it may be far from a key."""
        self._wake = asyncio.Event()
        self._look_around_at = float("inf")
        self._looked_around_at = float("-inf")
        self._homes = Homes(rpc.transport, self._tasks, self._queries.ping)
        self.checks = Checks(rpc, self.table, self._homes, self._tasks, self._relocated, rng, relay_bits_per_s / 8)
        self._own_places: LRUCache[str, None] = LRUCache(MAX_OWN_PLACES)
        """Addresses where we were said to be, which have been looked at."""
        self._refreshing = False
        self._asks_the_house = False
        self.relocated = asyncio.Event()
        """Others are told that it is reached elsewhere. Whoever waits for that clears it."""

    @property
    def contact(self) -> Contact:
        """What others are told of where this node is reached."""
        return self.checks.contact

    @property
    def joined_at(self) -> Contact:
        """What a newcomer is told of it."""
        own = self._rpc.transport.contact
        return Contact(own.public_key, self.reach.worth_calling(own.addresses))

    @property
    def inviting(self) -> list[Contact]:
        """Whom an invitation names."""
        sighting = self._rpc.transport.sighting
        others = []
        for contact in self.table.contacts():
            answering = sighting(node_id(contact)).reached
            if here := tuple(address for address in contact.addresses if address in answering):
                others.append(Contact(contact.public_key, here))
        is_reached = self.reach.verdict is not Verdict.UNREACHED
        return members_to_name(self.joined_at, is_reached, others, self.checks.given)

    @property
    def reach(self) -> Reach:
        return self.checks.reach

    # --- what the node calls --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Answer others, and keep house until `close`."""
        self._rpc.on_request(FindNode, self._on_find_node)
        self._rpc.on_request(FindProviders, self._on_find_providers)
        self._rpc.on_request(Announce, self._on_announce)
        self._rpc.transport.on_peer_lost(lambda peer, *_: self.forget(peer))
        self._rpc.transport.on_moved(self._moved)
        self._asks_the_house = self._rpc.transport.on_neighbour(self._met)
        self._tasks.spawn(self._keep_house())

    async def close(self) -> None:
        await self._tasks.close()

    async def join(
        self,
        contacts: Sequence[Contact],
        timeout_s: float,
        told: Tell | None = None,
        starting_s: float = joining.STARTING_S,
    ) -> None:
        """Return when one of `contacts` has answered. The others, and those that are not up yet, are tried on and on.

        Raises BadInput when somebody else has our identity, PeerUnavailable when nobody answered in time, all said no
        for good, or it is plain that they are not there, after `starting_s`: the node goes on trying all the same.
        `told` hears in words what is tried. Where all `contacts` are ourselves, the swarm begins here.
        """
        if not contacts:
            raise PeerUnavailable("no peer to join is named")
        own = [contact for contact in contacts if node_id(contact) == self.own_id]
        self._queries.elsewhere.update({address: None for contact in own for address in contact.addresses})
        for contact in contacts:
            if contact not in own:
                self._joining.add(contact)
        self._wake.set()
        await self._joining.wait(timeout_s, told or log.info, starting_s)
        await self._look_for_twin()
        self._check_twin()

    async def joined_in_the_house(self) -> bool:
        """Is anybody of this swarm in the house that we are in? Who is has answered in HOUSE_S."""
        return await self._joining.wait_for_any(HOUSE_S if self._asks_the_house else 0.0)

    async def joined_all(self, timeout_s: float) -> None:
        """Return when each of the peers to join has answered once, or failed: the first may be a hermit, or a liar."""
        await self._joining.wait_for_all(timeout_s)

    async def check_identity(self) -> None:
        """Raises BadInput when our key has answered elsewhere: two of one name spoil each other's replies.

        The peers around our id know of another one that has it; the first to be joined need not.
        """
        if len(self.table):
            await self._queries.lookup(self.own_id, FindNode(self.own_id), FIND_TIMEOUT_S)
        await self._look_for_twin()
        self._check_twin()

    def _check_twin(self) -> None:
        if self._rpc.transport.twin:
            raise BadInput(
                f"this node's identity is in use already, at {self._rpc.transport.twin}: its key was copied, with a "
                "folder or a machine perhaps. Stop that one, or give this one another --identity or --data-dir"
            )

    async def _look_for_twin(self) -> None:
        places = {address: by for address, by in self._queries.elsewhere.items() if address not in self._own_places}
        self._queries.elsewhere.clear()
        self._own_places.update(dict.fromkeys(places))
        if places:
            await self._rpc.transport.look_for_twin(places)

    async def find_providers(self, key: bytes, *, thorough: bool = False) -> list[ProviderRecord]:
        """Whoever is known under `key` here or at the peers closest to it; what each offers now, verified.

        Peers that are slow to answer are waited for only where nobody else knew of a provider, or if `thorough`: the
        others may not know of all. When time is up: what has been found so far.
        """
        looking = self._queries.lookup(key, FindProviders(key), FIND_TIMEOUT_S, settle=not thorough)
        at_home: list[ProviderRecord] = []
        if self.home is None:
            lookup = await looking
        else:
            lookup, at_home = await asyncio.gather(looking, self._found_at_home(self.home, key))
        newest = Newest(2 * MAX_PROVIDERS)
        newest.add(record for record, _ in self.store.get(key, self._now()))
        newest.add(lookup.records)
        newest.add(at_home)
        newest.add(record for record, _ in self._announcer.own(key))
        return [record for record in newest.records if not record.withdrawn]

    async def _found_at_home(self, home: Contact, key: bytes) -> list[ProviderRecord]:
        try:
            return await self._queries.records(home, key)
        except DsdError as error:
            log.debug("our own node does not say what it offers us", reason=str(error))
            return []

    def provide(self, make: RecordFactory) -> None:
        """Announce the records that `make` returns, on schedule, after `changed`, and to new peers."""
        self._announcer.provide(lambda: self.checks.as_reached(make()))
        self._wake.set()

    def keep_back(self, make: RecordFactory, is_own: Callable[[bytes], bool]) -> None:
        """Records that are found here alone: by this node itself, and by those peers."""
        self._announcer.make_own, self._is_own = make, is_own

    async def publish(self, record: ProviderRecord) -> None:
        """Provide this record alone, and return when others know."""
        self.provide(lambda: [record])
        await self.announced()

    async def announced(self) -> None:
        """Return when what is provided now has been announced once, or could not be in PUBLISH_TIMEOUT_S."""
        await wait_until(self._announcer.done, self._now() + PUBLISH_TIMEOUT_S)

    def changed(self, at_once: bool = False) -> None:
        """`at_once`: what others have of it would send them here in vain."""
        if at_once:
            self._announcer.relocated(self._now())
            self._wake.set()
        else:
            self._announcer.changed(self._now())

    async def reached_elsewhere(self, known: Sequence[str]) -> None:
        """Until others reach us at an address that is not among those."""
        while True:
            self.relocated.clear()
            where = filter(self.reach.is_reached, self._rpc.transport.contact.addresses)
            if not set(where).issubset(known):
                return
            await self.relocated.wait()

    def _relocated(self) -> None:
        self.relocated.set()
        self._announcer.relocated(self._now())

    async def withdraw(self) -> None:
        """Take the offer back at a clean stop: takes a second at most."""
        await self._announcer.withdraw()

    def seen(self, contact: Contact, networks: Sequence[str] = ()) -> None:
        """A peer, verified, answered us at these addresses; `networks`: where it was seen to be."""
        if self.table.seen(contact, self._now(), networks):
            peer = node_id(contact)
            self._announcer.met(peer)
            if contact in self.table.closest(self.own_id, K):
                self._look_around_at = min(self._look_around_at, self._looked_around_at + SELF_LOOKUP_GAP_S)
            self._joining.come_in()
            self._wake.set()

    def forget(self, peer: bytes) -> None:
        """A peer is gone, or seems to be: tell nobody about it until it answers again."""
        self.table.failed(peer, self._now())

    def answered_at(self, peer: bytes) -> float | None:
        """When it answered a question of ours last, on the loop's clock; None: not that we know."""
        return self.table.seen_at(peer)

    def known_peers(self) -> list[Contact]:
        """For the next start, the best first."""
        return self.table.known()[:MAX_KNOWN]

    # --- what others ask ------------------------------------------------------------------------------------------

    async def _on_find_node(self, peer: bytes, message: FindNode, buffers: Sequence[bytes]) -> Response:
        self._heard_from(peer)
        return Nodes(), (pack_contacts(self._closest(message.target, peer)),)

    def _closest(self, target: bytes, asker: bytes) -> list[Contact]:
        """Without what the asker cannot use, and without itself, unless its key answers elsewhere, too."""
        near, known = self._rpc.transport.sighting(asker).near, self._rpc.transport.contact_of(asker)
        here = set(known.addresses) if known is not None else set()
        contacts = [
            Contact(contact.public_key, tuple(one for one in contact.addresses if may_name(near, one)))
            for contact in self.table.closest(target, K)
            if node_id(contact) != asker or not here.issuperset(contact.addresses)
        ]
        return [contact for contact in contacts if contact.addresses]

    async def _on_find_providers(self, peer: bytes, message: FindProviders, buffers: Sequence[bytes]) -> Response:
        self._heard_from(peer)
        contacts = self._closest(message.key, peer)
        held = self.store.get(message.key, self._now())
        records = [data for record, data in held if self._homes.may_show(record, peer)]
        if self._is_own(peer):
            records = [*(data for _, data in self._announcer.own(message.key)), *records][:MAX_RECORDS]
        return Providers(), (pack_contacts(contacts), pack_records(records))

    async def _on_announce(self, peer: bytes, message: Announce, buffers: Sequence[bytes]) -> Response:
        self._heard_from(peer)
        records = [(open_record(data), data) for data in buffers[: MAX_ROLES + 1]]
        if any(record.peer_id != peer for record, _ in records):
            raise PeerMisbehaved("a provider speaks only for its own key")
        if not self._rpc.transport.contact.addresses or not self.checks.is_callable:
            return Refused("this peer is a client: it holds no records"), ()
        for record, _ in records:
            self._rpc.transport.introduce(record.contact, teacher=peer)
        held = self.store.put(message.key, records, self._now(), self._rpc.transport.source_of(peer))
        await self._homes.announced(peer, [record for record, _ in records])
        return Stored(), () if held == list(buffers) else held

    def _heard_from(self, peer: bytes) -> None:
        """A peer spoke to us, so it lives. Where it can be dialled only calls of our own can show."""
        contact = self._rpc.transport.contact_of(peer)
        if contact is None:
            return
        reached = self._homes.reached(contact)
        if reached:
            self.seen(Contact(contact.public_key, reached), self._rpc.transport.sighting(peer).networks)
        else:
            self.table.leave(peer, self._now())
        self._homes.heard(contact, reached)

    def _met(self, neighbour: Contact) -> None:
        """In our own house, by its own word: joined, while there are not too many of them."""
        if node_id(neighbour) != self.own_id and self._joining.meet(neighbour):
            self._wake.set()

    def _moved(self) -> None:
        """This machine has other addresses: others hear of it, and those that we joined by are called again."""
        now = self._now()
        self.checks.moved(now)
        self._joining.moved()
        self._look_around_at = now
        self.changed()
        self._wake.set()

    # --- keeping house --------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        chores = self.store.expire, self._joining.tick, self._ping, self._look_around, self.checks.tick, self._announce
        while True:
            now = self._now()
            for chore in chores:
                try:
                    chore(now)
                except Exception:  # or a bug in one of them would end all others, for good
                    log.exception("bug in keeping house")
            self._wake.clear()
            await wait_until(self._wake, now + TICK_S)

    def _ping(self, now: float) -> None:
        for contact in self.table.due(now):
            self._tasks.spawn(self._queries.ping(contact))

    def _announce(self, now: float) -> None:
        if self._queries.elsewhere and self._joining.is_in:
            self._tasks.spawn(self._look_for_twin())
        if self._announcer.due(now):
            self._tasks.spawn(self._announcer.tick(now))

    def _look_around_now(self) -> None:
        self._look_around_at = self._now()

    def _look_around(self, now: float) -> None:
        """Around our own place after news, and into buckets that saw no lookup for long; one after the other."""
        if self._refreshing:
            return
        targets = self.table.refresh_targets(now, self.rng)
        if now >= self._look_around_at:
            self._look_around_at, self._looked_around_at = float("inf"), now
            targets.insert(0, self.own_id)
        if targets:
            self._refreshing = True
            self._tasks.spawn(self._refresh(targets))

    async def _refresh(self, targets: Sequence[bytes]) -> None:
        try:
            for target in targets:
                await self._queries.lookup(target, FindNode(target), LOOKUP_TIMEOUT_S)
        finally:
            self._refreshing = False

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
