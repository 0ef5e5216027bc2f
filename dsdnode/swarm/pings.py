"""Who hosts a model, who of them answers now, and how fast: those that are gone hold nobody up.

A machine that vanished stays in everybody's records until these expire, which takes minutes: a reply that began by
waiting for its answer would pay for it each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from dsdnode.dht.ids import model_key
from dsdnode.errors import DsdError
from dsdnode.net.rpc import Rpc
from dsdnode.placement.layers import is_covered
from dsdnode.swarm.catalogue import Model
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.queries import Tasks, wait_until
from dsdnode.wire.records import ProviderRecord

TIMEOUT_S = 2.0
GRACE_S = 1.0
"""So long everybody is waited for, and twice as long as it took those that are enough."""
MAX_SILENT = 1024
MAX_REMEMBERED = 64
"""Models."""
RECENT_S = 10.0
"""Whom a lookup found so shortly ago a new reply need not look for again; whether they live is asked each time."""


class Pings:
    """`close` it at the end."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._tasks = Tasks()
        self._silent: dict[bytes, None] = {}
        """Peers that did not answer when they were asked last."""

    async def close(self) -> None:
        await self._tasks.close()

    def is_silent(self, peer: bytes) -> bool:
        return peer in self._silent

    def lost(self, peer: bytes) -> None:
        """It did not answer."""
        self._silent[peer] = None
        if len(self._silent) > MAX_SILENT:
            del self._silent[next(iter(self._silent))]

    async def ping(self, peer: bytes) -> float:
        """Round trip in seconds. Raises PeerUnavailable or Overloaded."""
        try:
            rtt_s = await self._rpc.ping(peer, timeout_s=TIMEOUT_S)
        except DsdError:
            self.lost(peer)
            raise
        self._silent.pop(peer, None)
        return rtt_s

    async def round_trips(
        self, peers: Collection[bytes], enough: Callable[[Collection[bytes]], bool]
    ) -> dict[bytes, float]:
        """In seconds, of the peers that answer.

        Once those that did are `enough`, nobody waits for peers that were silent last time, nor much longer than these
        took for others. They are asked all the same: next time their answer counts, and their link is warm.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        ends_s = began_s + 2 * TIMEOUT_S
        answers: dict[bytes, float | None] = {}
        changed = asyncio.Event()
        awaited = [peer for peer in peers if not self.is_silent(peer)]
        for peer in peers:
            self._tasks.spawn(self._ask(peer, answers, changed))
        is_enough = False
        while len(answers) < len(peers) and loop.time() < ends_s:
            if not is_enough and enough([peer for peer in peers if answers.get(peer) is not None]):
                is_enough = True
                ends_s = max(began_s + GRACE_S, 2 * loop.time() - began_s)
            if is_enough and all(peer in answers for peer in awaited):
                break
            changed.clear()
            await wait_until(changed, ends_s)
        found = {peer: answers.get(peer) for peer in peers}
        return {peer: rtt_s for peer, rtt_s in found.items() if rtt_s is not None}

    async def _ask(self, peer: bytes, answers: dict[bytes, float | None], changed: asyncio.Event) -> None:
        answers[peer] = await _answer(self.ping(peer))
        changed.set()


class Living:
    """The hosts of models. `close` it at the end."""

    def __init__(self, rpc: Rpc, discovery: Discovery) -> None:
        self._rpc = rpc
        self._discovery = discovery
        self._pings = Pings(rpc)
        self._remembered: dict[str, tuple[float, list[ProviderRecord]]] = {}
        """When and who was found last, by model: a reply that lost a stage need not wait for a lookup."""

    async def close(self) -> None:
        await self._pings.close()

    async def ping(self, peer: bytes) -> float | None:
        """Round trip in seconds; None: no answer."""
        return await _answer(self._pings.ping(peer))

    async def look(self, model_id: str) -> None:
        """Find out who hosts a model, unless somebody has just done so."""
        found_s, _ = self._remembered.get(model_id, (float("-inf"), []))
        if asyncio.get_running_loop().time() > found_s + RECENT_S:
            await self._look_up(model_id)

    async def hosts(
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
        self._remembered.pop(model_id, None)
        self._remembered[model_id] = asyncio.get_running_loop().time(), shards
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]


async def _answer(ping: Awaitable[float]) -> float | None:
    """None: no answer."""
    try:
        return await ping
    except DsdError:
        return None
