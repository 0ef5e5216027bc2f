"""Who hosts a model, and who of them answers now."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from cachetools import LRUCache

from dsdnode.dht.ids import model_key
from dsdnode.net.rpc import Rpc
from dsdnode.placement.layers import is_covered
from dsdnode.swarm.catalogue import Model
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import Pings
from dsdnode.wire.records import ProviderRecord

MAX_MODELS = 64
FOUND_S = 10.0
"""Whom a lookup found so shortly ago a new reply need not look for again; whether they live is asked each time."""


class Hosts:
    """Of models, as the owner of replies sees them."""

    def __init__(self, rpc: Rpc, discovery: Discovery, pings: Pings) -> None:
        self._rpc = rpc
        self._discovery = discovery
        self._pings = pings
        self._remembered: LRUCache[str, tuple[float, list[ProviderRecord]]] = LRUCache(MAX_MODELS)
        """When and who was found last, by model: a reply that lost a stage need not wait for a lookup."""

    async def look(self, model_id: str) -> None:
        """Find out who hosts a model, unless somebody has just done so."""
        found_s, _ = self._remembered.get(model_id, (float("-inf"), []))
        if asyncio.get_running_loop().time() > found_s + FOUND_S:
            await self._look_up(model_id)

    async def alive(
        self, target: Model, fresh: bool, avoid: Collection[bytes]
    ) -> tuple[list[ProviderRecord], dict[bytes, float]]:
        """Shards of the model whose peers answer a ping, and their round trips in seconds.

        `fresh`: by a lookup of now; `avoid`: peers without which the others should make the whole model.
        """
        if fresh or target.model_id not in self._remembered:
            await self._look_up(target.model_id)
        _, records = self._remembered[target.model_id]
        for record in records:
            self._rpc.transport.introduce(record.contact)

        def enough(peers: Collection[bytes]) -> bool:
            usable = set(peers).difference(avoid)
            return is_covered(((one.start, one.end) for one in records if one.peer_id in usable), target.num_layers)

        rtt_s = await self._pings.round_trips(dict.fromkeys(one.peer_id for one in records), enough)
        return [record for record in records if record.peer_id in rtt_s], rtt_s

    async def _look_up(self, model_id: str) -> None:
        found = await self._discovery.find_providers(model_key(model_id))
        shards = [record for record in found if record.role == "shard" and record.model_id == model_id]
        self._remembered[model_id] = asyncio.get_running_loop().time(), shards
