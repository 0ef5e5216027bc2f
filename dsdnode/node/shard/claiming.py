"""Which layers a newcomer hosts.

Several may start in the same second: each says what it means to take, looks again after a moment, and gives way where
others were first, or have the lower id (placement/layers.py).
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from dsdnode.dht.ids import model_key
from dsdnode.errors import ModelRefused
from dsdnode.placement.layers import Fits, choose_in_turn, choose_layers
from dsdnode.placement.ranges import Range
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.records import ProviderRecord

log = structlog.get_logger(__name__)

MIN_PAUSE_S = 0.5
MAX_PAUSE_S = 1.0
"""Longer than an announcement takes to arrive: of two claims, at least the later one sees the other."""
MAX_ROUNDS = 6


async def claim_layers(
    discovery: Discovery,
    offer: ProviderRecord,
    capacity_layers: int,
    fits: Fits = lambda *_: True,
    wanted: Range | None = None,
) -> Range:
    """The layers [start, end) to host, at most `capacity_layers`; the swarm has been told. `wanted`: those that were
    chosen already; others may want them at the same time.

    Raises ModelRefused where so few cannot be hosted by themselves.

    `offer` is of the whole model; what is announced of it has no free session yet.
    """
    start, end = wanted or choose_layers(await _shards(discovery, offer), offer.num_layers, capacity_layers, fits)
    if end - start > capacity_layers:
        raise ModelRefused(
            f"{offer.model_name}: layers {start}:{end} have to stay together, and no more than {capacity_layers} fit "
            "--max-memory"
        )
    if end - start == offer.num_layers or not discovery.known_peers():
        return start, end
    claim = msgspec.structs.replace(offer, start=start, end=end, free_sessions=0, settled=False)
    for _ in range(MAX_ROUNDS):
        await discovery.publish(claim)
        await asyncio.sleep(discovery.rng.uniform(MIN_PAUSE_S, MAX_PAUSE_S))
        start, end = choose_in_turn(await _shards(discovery, offer), claim, capacity_layers, fits)
        if (start, end) == (claim.start, claim.end):
            break
        log.info("another peer takes these layers", layers=f"{claim.start}:{claim.end}", instead=f"{start}:{end}")
        claim = msgspec.structs.replace(claim, start=start, end=end)
    await discovery.publish(msgspec.structs.replace(claim, settled=True))
    return start, end


async def _shards(discovery: Discovery, offer: ProviderRecord) -> list[ProviderRecord]:
    """Of the others: what an earlier life of this peer offered is gone."""
    found = await discovery.find_providers(model_key(offer.model_id))
    return [
        record
        for record in found
        if record.role == "shard" and record.model_id == offer.model_id and record.public_key != offer.public_key
    ]
