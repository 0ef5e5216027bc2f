"""What this node offers, made known: signed, announced to the peers closest to each key, again before it expires.

All offers have one sequence number, and go to a holder together: what it held of us before is void then, whatever it
was of. Only where nothing of ours belongs any more (a key of another model, say) the offer is taken back in so many
words, that of an earlier life too. Numbers go up from life to life; where a life does not know its number, peers that
still hold records of an earlier one show them (in lookups, or in answer to an announcement), and we count on from
there.
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

from dsdnode.dht.ids import MODELS_KEY, K, distance, node_id
from dsdnode.dht.store import Signed, Store, record_keys
from dsdnode.dht.table import Table
from dsdnode.errors import DsdError, Overloaded
from dsdnode.identity import Identity, short_id
from dsdnode.swarm.queries import LOOKUP_TIMEOUT_S, Queries
from dsdnode.wire.messages import MAX_ROLES, Announce, Contact, FindProviders, Stored
from dsdnode.wire.records import MAX_TTL_S, ProviderRecord, open_record, sign_record

log = structlog.get_logger(__name__)

RecordFactory = Callable[[], Sequence[ProviderRecord]]

ANNOUNCE_EVERY_S = 180.0
LOOK_UP_EVERY_S = 150.0
"""An announcement in between goes to the holders that were found last."""
MIN_GAP_S = 1.0
CHANGE_GAP_S = 5.0
"""Between two announcements, however often the offer changes."""
TELL_AGAIN_S = 5.0
"""After so long who lives and did not take an offer is told again, then after twice as long: it may just be busy, and
shows what it had before to those who ask it."""
PARALLELISM = 10
WITHDRAW_S = 1.0
MAX_PAST = 8
"""Models of earlier offers that are remembered until they are taken back."""
LIFE_BITS = 32
"""Of a sequence number, for the announcements of one life."""


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

    def __init__(
        self, identity: Identity, table: Table, store: Store, rng: random.Random, queries: Queries, life: int = 0
    ) -> None:
        self._identity = identity
        self._table = table
        self._store = store
        self._rng = rng
        self._queries = queries
        self._make: RecordFactory = tuple
        self.make_own: RecordFactory = tuple
        """What this machine's own user may find here, and nobody else hears of."""
        self.done = asyncio.Event()
        """What was last to be provided has been announced once. (Another event for each thing to provide.)"""
        self._sequence = life << LIFE_BITS
        self._announce_at = float("inf")
        self._look_up_at = float("-inf")
        self._announced_at = float("-inf")
        self._news_at = float("inf")
        """When peers that lack the offer are to be told it."""
        self._again_s = TELL_AGAIN_S
        self.phase = Phase.QUIET
        self._told: dict[bytes, tuple[Signed, ...]] = {}
        """What was said last, by key."""
        self._past: dict[tuple[str, str], ProviderRecord] = {}
        """What was offered before, by role and model."""
        self._failed = False
        """Somebody did not take it."""
        self._outdone = False
        """A holder has something newer of an earlier life."""
        self._holders: dict[bytes, dict[bytes, Contact]] = {}
        self._slots = asyncio.Semaphore(PARALLELISM)

    def provide(self, make: RecordFactory) -> None:
        """Announce what `make` returns, now and again; sequence and life of the records are filled in here."""
        self._make, self.done = make, asyncio.Event()
        self._announce_at = self._announced_at + MIN_GAP_S

    def own(self, key: bytes) -> list[Signed]:
        """Newer than whatever others are told."""
        records = [record for record in self.make_own() if key in record_keys(record)]
        return [self._signed(record, MAX_TTL_S, self._sequence + 1) for record in records]

    def changed(self, now: float) -> None:
        """The offer is another one: announce it again soon."""
        self._announce_at = min(self._announce_at, max(now, self._announced_at + CHANGE_GAP_S))

    def relocated(self, now: float) -> None:
        """We are reached elsewhere, or serve nobody new: until it is announced, what others have of us leads
        nowhere."""
        self._announce_at = min(self._announce_at, max(now, self._announced_at + MIN_GAP_S))

    def met(self, peer: bytes) -> None:
        """A peer came (back) to life: if it is close to a key of ours it should hold our record, at once."""
        self._news_at = float("-inf")
        for holders in self._holders.values():
            holders.pop(peer, None)

    def due(self, now: float) -> bool:
        """Is there anything for `tick` to do?"""
        is_due = now >= self._announce_at or (now >= self._news_at and bool(self._told))
        return self.phase is Phase.QUIET and is_due

    async def tick(self, now: float) -> None:
        """An announcement, or a word to the peers that we met since the last one. One at a time."""
        if not self.due(now):
            return
        self._step("tell")
        self._failed = False
        try:
            if now >= self._announce_at:
                await self._announce(now)
            else:
                self._news_at = float("inf")
                await self._spread({key: self._lacking(key) for key in self._told})
        finally:
            self._step("told")
            if self._failed:
                self._news_at = min(self._news_at, asyncio.get_running_loop().time() + self._again_s)
                self._again_s = min(2 * self._again_s, ANNOUNCE_EVERY_S)

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
        self._news_at, self._again_s = float("inf"), TELL_AGAIN_S
        done, records = self.done, {record.role: record for record in self._make()}
        keys = [*(key for record in records.values() for key in record_keys(record)), *self._told]
        if now >= self._look_up_at or any(key not in self._holders for key in keys):
            self._look_up_at = now + LOOK_UP_EVERY_S
            self._holders.clear()
            await self._find_holders([*keys, MODELS_KEY])
        if self.phase is Phase.OVER:
            return
        self._sign(records.values())
        await self._find_holders([key for key in self._told if key not in self._holders])
        self._outdone = False
        await self._spread({key: list(self._holders.get(key, {}).values()) for key in self._told})
        self._told = {key: said for key, said in self._told.items() if not all(one.withdrawn for one, _ in said)}
        # Whoever came while we were looking up got nothing yet.
        self._news_at = float("-inf")
        if not self._outdone:
            done.set()

    async def _find_holders(self, keys: Iterable[bytes]) -> None:
        """Of earlier lives' offers there, too."""
        keys = list(dict.fromkeys(keys))
        lookups = await asyncio.gather(
            *(self._queries.lookup(key, FindProviders(key), LOOKUP_TIMEOUT_S) for key in keys)
        )
        self._count_on(record for lookup in lookups for record in lookup.records)
        closest = [{node_id(contact): contact for contact in lookup.closest} for lookup in lookups]
        self._holders |= zip(keys, closest, strict=True)

    def _sign(self, records: Iterable[ProviderRecord]) -> None:
        """The offer with the next sequence number; where none is left of what was offered before, that is taken
        back."""
        self._sequence += 1
        told: dict[bytes, dict[str, Signed]] = {}
        offer = [self._signed(record, MAX_TTL_S, self._sequence) for record in records]
        for signed in offer:
            for key in record_keys(signed[0]):
                told.setdefault(key, {})[signed[0].role] = signed
        current = frozenset(told)
        for record in self._past.values():
            for key in [key for key in record_keys(record) if key not in current]:
                told.setdefault(key, {})[record.role] = self._signed(record, 0.0, self._sequence)
        self._told = {key: tuple(said.values()) for key, said in told.items()}
        self._past = {(record.role, record.model_id): record for record, _ in offer}
        now = asyncio.get_running_loop().time()
        for key, said in self._told.items():
            with contextlib.suppress(Overloaded):
                self._store.put(key, said, now)

    def _signed(self, record: ProviderRecord, ttl_s: float, sequence: int) -> Signed:
        numbered = msgspec.structs.replace(record, ttl_s=ttl_s, sequence=sequence)
        return numbered, sign_record(self._identity, numbered)

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
        errands = [(key, contact) for key, contacts in targets.items() for contact in contacts]
        await asyncio.gather(*(self._tell(*errand, self._told.get(errand[0], ())) for errand in errands))

    async def _tell(self, key: bytes, contact: Contact, said: tuple[Signed, ...]) -> None:
        """A peer counts as a holder from before it is told, so that it also hears of the end; not so if it refuses."""
        async with self._slots:
            if not said or self._told.get(key) is not said:
                return
            mine = [data for _, data in said]
            holders = self._holders.setdefault(key, {})
            holders[node_id(contact)] = contact
            try:
                answer, buffers = await self._queries.request(contact, Announce(key), mine)
                if isinstance(answer, Stored):
                    self._count_on_rival(key, buffers, mine)
                else:
                    raise Overloaded(f"it answers {type(answer).__name__}")
            except DsdError as error:
                holders.pop(node_id(contact), None)
                self._failed = True
                log.debug("announce_failed", peer=short_id(node_id(contact)), reason=str(error))

    def _count_on(self, records: Iterable[ProviderRecord]) -> None:
        for record in records:
            if record.public_key == self._identity.public_key:
                self._sequence = max(self._sequence, record.sequence)
                if not record.withdrawn and len(self._past) < MAX_PAST:
                    self._past.setdefault((record.role, record.model_id), record)

    def _count_on_rival(self, key: bytes, buffers: Sequence[bytes], mine: Sequence[bytes]) -> None:
        """A holder keeps something else of ours under that key, as new as this: of an earlier life. Announce something
        newer soon."""
        shown = [open_record(buffer) for buffer in buffers[:MAX_ROLES] if buffer not in mine]
        own = [record for record in shown if record.public_key == self._identity.public_key]
        rivals = [record for record in own if key in record_keys(record)]
        self._count_on(rivals)
        if any(rival.sequence >= open_record(mine[0]).sequence for rival in rivals):
            self._outdone = True
            self._announce_at = self._announced_at + MIN_GAP_S
