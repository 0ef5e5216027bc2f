"""What this node offers, made known: signed, announced to the peers closest to each key, again before it expires.

The sequence number starts at 0 with every process; peers that still hold a record of an earlier life show it to us
(in lookups, or in answer to an announcement), and we count on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Final

import msgspec
import structlog

from dsdnode.dht.ids import K, distance, node_id
from dsdnode.dht.store import Place, Store, record_keys
from dsdnode.dht.table import Table
from dsdnode.errors import DsdError, Overloaded
from dsdnode.identity import Identity, short_id
from dsdnode.swarm.queries import LOOKUP_TIMEOUT_S, Queries
from dsdnode.wire.messages import Announce, Contact, FindProviders, Stored
from dsdnode.wire.records import MAX_TTL_S, ProviderRecord, open_record, sign_record

log = structlog.get_logger(__name__)

RecordFactory = Callable[[], Sequence[ProviderRecord]]

ANNOUNCE_EVERY_S = 180.0
LOOK_UP_EVERY_S = 150.0
"""An announcement in between goes to the holders that were found last."""
MIN_GAP_S = 1.0
CHANGE_GAP_S = 5.0
"""Between two announcements, however often the offer changes."""
PARALLELISM = 10
WITHDRAW_S = 1.0
MAX_OFFERS = 8


class Phase(Enum):
    QUIET = "nothing is being told: an announcement may be due, or news for peers that came"
    TELLING = "an announcement is under way"
    OVER = "the offer is taken back, for good"


NEXT: Final[Mapping[tuple[Phase, str], Phase]] = {
    (Phase.QUIET, "tell"): Phase.TELLING,
    (Phase.TELLING, "told"): Phase.QUIET,
    (Phase.QUIET, "withdraw"): Phase.OVER,
    (Phase.TELLING, "withdraw"): Phase.OVER,
}
"""What is not here changes nothing: an announcement that was under way when the offer was taken back ends with it."""


class Announcer:
    """Everything here happens when `tick` or `withdraw` is called."""

    def __init__(self, identity: Identity, table: Table, store: Store, rng: random.Random, queries: Queries) -> None:
        self._identity = identity
        self._table = table
        self._store = store
        self._rng = rng
        self._queries = queries
        self._make: RecordFactory = tuple
        self.done = asyncio.Event()
        """What was last to be provided has been announced once. (Another event for each thing to provide.)"""
        self._sequence = 0
        self._announce_at = float("inf")
        self._look_up_at = float("-inf")
        self._announced_at = float("-inf")
        self._news = False
        self.phase = Phase.QUIET
        self._signed: dict[Place, tuple[ProviderRecord, bytes]] = {}
        self._holders: dict[bytes, dict[bytes, Contact]] = {}
        self._slots = asyncio.Semaphore(PARALLELISM)

    def provide(self, make: RecordFactory) -> None:
        """Announce what `make` returns, now and again; sequence and life of the records are filled in here."""
        self._make, self.done = make, asyncio.Event()
        self._announce_at = self._announced_at + MIN_GAP_S

    def changed(self, now: float) -> None:
        """The offer is another one: announce it again soon."""
        self._announce_at = min(self._announce_at, max(now, self._announced_at + CHANGE_GAP_S))

    def met(self, peer: bytes) -> None:
        """A peer came (back) to life: if it is close to a key of ours it should hold our record, at once."""
        self._news = True
        for holders in self._holders.values():
            holders.pop(peer, None)

    def due(self, now: float) -> bool:
        """Is there anything for `tick` to do?"""
        is_due = now >= self._announce_at or (self._news and bool(self._signed))
        return self.phase is Phase.QUIET and is_due

    async def tick(self, now: float) -> None:
        """An announcement, or a word to the peers that we met since the last one. One at a time."""
        if not self.due(now):
            return
        self._step("tell")
        try:
            if now >= self._announce_at:
                await self._announce(now)
            else:
                self._news = False
                await self._spread({key: self._lacking(key) for key in self._keys()})
        finally:
            self._step("told")

    async def withdraw(self) -> None:
        """Tell the holders, as far as they answer within a second, that the offer is over; announce no more."""
        self._step("withdraw")
        self._sign([])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WITHDRAW_S):
                await self._spread({key: list(held.values()) for key, held in self._holders.items()})

    def _step(self, event: str) -> None:
        self.phase = NEXT.get((self.phase, event), self.phase)

    async def _announce(self, now: float) -> None:
        self._announced_at = now
        self._announce_at = now + ANNOUNCE_EVERY_S * self._rng.uniform(0.9, 1.0)
        self._news = False
        done, records = self.done, list(self._make())[:MAX_OFFERS]
        keys = list(dict.fromkeys([*(key for record in records for key in record_keys(record)), *self._keys()]))
        if now >= self._look_up_at or any(key not in self._holders for key in keys):
            await self._find_holders(keys, now)
        if self.phase is Phase.OVER:
            return
        self._sign(records)
        await self._spread({key: list(self._holders[key].values()) for key in keys})
        self._signed = {place: pair for place, pair in self._signed.items() if not pair[0].withdrawn}
        # Whoever came while we were looking up got nothing yet.
        self._news = True
        done.set()

    async def _find_holders(self, keys: Sequence[bytes], now: float) -> None:
        lookups = await asyncio.gather(
            *(self._queries.lookup(key, FindProviders(key), LOOKUP_TIMEOUT_S) for key in keys)
        )
        self._look_up_at = now + LOOK_UP_EVERY_S
        self._count_on(record for lookup in lookups for record in lookup.records)
        closest = [{node_id(contact): contact for contact in lookup.closest} for lookup in lookups]
        self._holders = dict(zip(keys, closest, strict=True))

    def _sign(self, records: Sequence[ProviderRecord]) -> None:
        """The offer with the next sequence number; what was offered before and is not any more is taken back."""
        self._sequence += 1
        offer = {record.place: msgspec.structs.replace(record, ttl_s=MAX_TTL_S) for record in records}
        for place, (record, _) in self._signed.items():
            offer.setdefault(place, msgspec.structs.replace(record, ttl_s=0.0))
        numbered = [msgspec.structs.replace(record, sequence=self._sequence) for record in offer.values()]
        self._signed = {record.place: (record, sign_record(self._identity, record)) for record in numbered}
        now = asyncio.get_running_loop().time()
        for record, data in self._signed.values():
            for key in record_keys(record):
                with contextlib.suppress(Overloaded):
                    self._store.put(key, record, data, now)

    def _keys(self) -> list[bytes]:
        return list(dict.fromkeys(key for record, _ in self._signed.values() for key in record_keys(record)))

    def _lacking(self, key: bytes) -> list[Contact]:
        """Peers that we know to be close to `key`, among the K closest, and not to hold our records."""
        held = self._holders.get(key, {})
        reach = sorted(distance(key, peer) for peer in held)[K - 1 : K]
        known = {node_id(contact): contact for contact in self._table.closest(key, K)}
        return [
            contact
            for peer, contact in known.items()
            if peer not in held and (not reach or distance(key, peer) < reach[0])
        ]

    async def _spread(self, targets: dict[bytes, list[Contact]]) -> None:
        errands = [
            (key, contact, data)
            for key, contacts in targets.items()
            for contact in contacts
            for record, data in self._signed.values()
            if key in record_keys(record)
        ]
        await asyncio.gather(*(self._tell(*errand) for errand in errands))

    async def _tell(self, key: bytes, contact: Contact, data: bytes) -> None:
        """A peer counts as a holder from before it is told, so that it also hears of the end; not so if it refuses."""
        async with self._slots:
            if data not in (signed for _, signed in self._signed.values()):
                return
            holders = self._holders.setdefault(key, {})
            holders[node_id(contact)] = contact
            try:
                answer, buffers = await self._queries.request(contact, Announce(key), (data,))
                if isinstance(answer, Stored):
                    self._count_on_rival(buffers, data)
                else:
                    holders.pop(node_id(contact), None)
            except DsdError as error:
                holders.pop(node_id(contact), None)
                log.debug("announce_failed", peer=short_id(node_id(contact)), reason=str(error))

    def _count_on(self, records: Iterable[ProviderRecord]) -> None:
        own = (record.sequence for record in records if record.public_key == self._identity.public_key)
        self._sequence = max(self._sequence, max(own, default=0))

    def _count_on_rival(self, buffers: Sequence[bytes], data: bytes) -> None:
        """A holder keeps another record of ours, as new as this one: of an earlier life. Announce a newer one soon."""
        rivals = [open_record(buffer) for buffer in buffers[:1] if buffer != data]
        self._count_on(rivals)
        if any(rival.sequence >= open_record(data).sequence for rival in rivals):
            self._announce_at = self._announced_at + MIN_GAP_S
