"""What this node offers, as it is today: its engines' cost lines, load and links follow what they are seen to be.

Records are announced again when one of these has changed by more than a little, but not more often than REPEAT_S.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from dsdnode.cost import UNKNOWN, CostLine
from dsdnode.dht.ids import model_key
from dsdnode.engine.cage import Protection
from dsdnode.engine.port import Engine
from dsdnode.identity import peer_id
from dsdnode.net.rpc import Rpc
from dsdnode.node.batching.batcher import Batcher
from dsdnode.node.engines import record_of
from dsdnode.node.status import EngineStatus
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import Pings
from dsdnode.wire.messages import Contact, Message, Open, Refused
from dsdnode.wire.records import ID_PREFIX_BYTES, MAX_ROUND_TRIPS, ProviderRecord, RoundTrip
from dsdnode.wire.replies import Generate

LOOK_S = 5.0
REPEAT_S = 15.0
CHANGE = 0.3
"""A cost line or a link that is slower or faster by more than this share is news."""
MIN_CHANGE_MS = 2.0
QUEUE_CHANGE = 0.5
FIRST_LINKS_S = 2.0
LINKS_EVERY_S = 120.0
NUM_PINGS = 2
ASKED: dict[str, type[Message]] = {"shard": Open, "drafter": Generate}
"""What each role is asked for at first."""


class Host(Protocol):
    """Of one role."""

    @property
    def num_sessions(self) -> int: ...

    @property
    def num_free_sessions(self) -> int: ...


class Offer:
    """One engine, with the cost line that was measured at the start, before anybody was served."""

    def __init__(self, engine: Engine, role: str, source: str = "") -> None:
        """`source`: where others may fetch its model."""
        self.engine = engine
        self.tokenizer_hash = engine.shard.tokenizer_hash
        """A drafter's: that of the models it drafts for."""
        self.measured = UNKNOWN
        self.batcher: Batcher | None = None
        """Where replies share it: how busy it is, and what it really costs."""
        self.decodes: Batcher | None = None
        """For whoever looks at it."""
        self.round_trips: tuple[RoundTrip, ...] = ()
        self._role = role
        self._source = source
        self._said: ProviderRecord | None = None
        self._said_s = 0.0

    @property
    def cost(self) -> CostLine:
        return self.measured if self.batcher is None else self.batcher.cost.line

    def record(self, contact: Contact, free_sessions: int, now: float) -> ProviderRecord:
        """What is to be announced now."""
        self._said_s, self._said = now, self.described(contact, free_sessions)
        return self._said

    def described(self, contact: Contact, free_sessions: int) -> ProviderRecord:
        """As it is now."""
        record = record_of(
            self.engine, self._role, self.cost, free_sessions, contact, self._queue(), self.round_trips, self._source
        )
        return msgspec.structs.replace(record, tokenizer_hash=self.tokenizer_hash)

    def outdated(self, now: float, free_sessions: int) -> bool:
        """Does the record that was made last say something that is not so any more? (Sessions become idle unasked.)"""
        if self._said is None or now < self._said_s + REPEAT_S:
            return False
        said = self._said
        return (
            self.cost.differs(said.cost, CHANGE)
            or abs(self._queue() - said.queue) > QUEUE_CHANGE * max(1.0, said.queue)
            or _links_differ(self.round_trips, said.round_trips)
            or (free_sessions == 0) != (said.free_sessions == 0)
        )

    def _queue(self) -> float:
        return 0.0 if self.batcher is None else round(self.batcher.mean_busy(), 2)

    @property
    def protection(self) -> Protection | None:
        """Of its worker process; None: it has none."""
        return getattr(self.engine, "protection", None)

    def status(self) -> EngineStatus:
        shard = self.engine.shard
        return EngineStatus(
            role=self._role,
            model=shard.model_name,
            model_id=shard.model_id,
            tokenizer_hash=self.tokenizer_hash,
            worker_pid=getattr(self.engine, "pid", None),
            context_tokens=shard.context_tokens,
            fixed_ms=round(1e3 * self.cost.fixed_s, 3),
            slope_ms=round(1e3 * self.cost.slope_s, 3),
            queue=self._queue(),
            num_deaths=getattr(self.engine, "num_deaths", 0),
            last_death=getattr(self.engine, "last_death", ""),
            quarantined=self.engine.quarantined,
            num_waiting=self.decodes.num_waiting if self.decodes else 0,
            num_decodes=self.decodes.num_decodes if self.decodes else 0,
            num_positions=self.decodes.num_positions if self.decodes else 0,
        )


def told(
    offers: Mapping[str, Offer], hosts: Mapping[str, Host | None], contact: Contact, name: str, *, rests: bool
) -> list[ProviderRecord]:
    """What others are told. `rests`: of what is in use alone, and that it has no place."""
    records, now = [], asyncio.get_running_loop().time()
    for role, offer in offers.items():
        host = hosts[role]
        is_idle = host is None or not host.num_sessions  # who has a reply in progress looks for us at need
        if offer.engine.quarantined or (is_idle and rests):
            continue
        record = offer.record(contact, host.num_free_sessions if host and not rests else 0, now)
        records.append(msgspec.structs.replace(record, nickname=name))
    return records


def told_at_home(
    offers: Mapping[str, Offer], hosts: Mapping[str, Host | None], contact: Contact
) -> list[ProviderRecord]:
    usable = [(offer, hosts[role]) for role, offer in offers.items() if not offer.engine.quarantined]
    return [offer.described(contact, host.num_free_sessions) for offer, host in usable if host is not None]


async def keep_current(
    offer: Offer, rpc: Rpc, discovery: Discovery, pings: Pings, free_sessions: Callable[[], int]
) -> None:
    """For ever: look at a shard's neighbours now and then, and announce what has changed."""
    loop = asyncio.get_running_loop()
    pause_s = FIRST_LINKS_S
    links_at = loop.time() + pause_s
    while True:
        await asyncio.sleep(min(LOOK_S, pause_s))
        if loop.time() >= links_at:
            offer.round_trips = await measure_links(rpc, discovery, pings, offer.engine)
            pause_s = min(2 * pause_s, LINKS_EVERY_S)
            links_at = loop.time() + pause_s
        if offer.outdated(loop.time(), free_sessions()):
            discovery.changed()


async def measure_links(rpc: Rpc, discovery: Discovery, pings: Pings, engine: Engine) -> tuple[RoundTrip, ...]:
    """Round trips to peers whose layers end where ours begin, or begin where ours end; of many, a few.

    Each peer picks others, and both ends publish: so most links of a swarm of some dozens are known to owners.
    """
    shard, own = engine.shard, peer_id(rpc.transport.contact.public_key)
    found = await discovery.find_providers(model_key(shard.model_id))
    near = {record.peer_id: record for record in found if shard.start == record.end or shard.end == record.start}
    near.pop(own, None)
    picked = sorted(near, key=lambda peer: hashlib.sha256(own + peer).digest())[:MAX_ROUND_TRIPS]
    rtts_s = await asyncio.gather(*(pings.rtt_s(peer, NUM_PINGS) for peer in picked))
    trips = zip(picked, rtts_s, strict=True)
    return tuple(RoundTrip(peer[:ID_PREFIX_BYTES], round(1e3 * rtt_s, 2)) for peer, rtt_s in trips if rtt_s is not None)


def _links_differ(now: Sequence[RoundTrip], said: Sequence[RoundTrip]) -> bool:
    before = {trip.peer: trip.rtt_ms for trip in said}
    if {trip.peer for trip in now} != before.keys():
        return True
    changes = ((trip.rtt_ms, before[trip.peer]) for trip in now)
    return any(abs(one - other) > max(MIN_CHANGE_MS, CHANGE * other) for one, other in changes)


async def starting(peer: bytes, message: Open | Generate, buffers: list[bytes]) -> tuple[Refused, list[bytes]]:
    """What it offers is in the records, the engine is not there yet: who asks waits for it.

    Generate without a buffer asks for a reply that is in progress: those of an earlier life are not.
    """
    return Refused("this peer is starting", retry=bool(buffers)), []
