"""Find the peers that host a model, see which of them live, choose a pipeline and open it for one reply."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog

from dsdnode.dht.ids import model_key
from dsdnode.errors import DsdError, NoPipeline, Overloaded, PeerUnavailable
from dsdnode.identity import peer_id
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.catalogue import Model
from dsdnode.node.discovery import Discovery
from dsdnode.placement import Place, choose_pipeline
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import Contact, Open, Opened, OpenStages, Refused, StagePlace, WireSampling
from dsdnode.wire.records import ProviderRecord

log = structlog.get_logger(__name__)

PING_TIMEOUT_S = 2.0
OPEN_TIMEOUT_S = 4.0
PATIENCE_S = 30.0
"""Peers that are full, or whose worker restarts, are asked again for so long."""
RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class Route:
    """An opened pipeline; `lengths` as the stages answered (speculation/actions.py, NeedRoute)."""

    places: tuple[Place, ...]
    peers: tuple[bytes, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """What every stage of a reply is told, whatever the route."""

    session: bytes
    target: Model
    sampling: WireSampling
    max_positions: int
    lease_s: float
    wire: str


class Router:
    """Opens pipelines for the replies of one owner."""

    def __init__(self, rpc: Rpc, discovery: Discovery) -> None:
        self._rpc = rpc
        self._discovery = discovery
        self._remembered: dict[str, list[ProviderRecord]] = {}
        """Last found, by model: a reply that lost a stage need not wait for a lookup."""

    async def open(
        self, terms: Terms, number: int, digests: bytes, avoid: Collection[bytes], touched: dict[bytes, None]
    ) -> Route:
        """The best pipeline of peers that answer now, opened. `avoid`: peers to do without where there is another way.

        Every peer that may have opened is added to `touched`: the reply closes them.

        Raises NoPipeline (layers named), Overloaded (all full for PATIENCE_S).
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        unfit: set[bytes] = set()
        fresh = number == 0
        while True:
            records, rtt_s = await self._live_providers(terms.target, fresh)
            try:
                places = _choose(terms.target, records, rtt_s, unfit, avoid)
            except NoPipeline:
                if fresh and (not unfit or loop.time() > deadline):
                    raise
                if fresh:
                    await asyncio.sleep(RETRY_S)
                unfit.clear()
                fresh = True
                continue
            touched.update((peer_id(place.contact.public_key), None) for place in places)
            answers = await self._open_all(terms, number, digests, places)
            failed = [peer for peer, answer in answers.items() if not isinstance(answer, Opened)]
            if not failed:
                lengths = tuple(answer.length for answer in answers.values() if isinstance(answer, Opened))
                return Route(places, tuple(answers), lengths)
            reasons = {answers[peer] for peer in failed}
            if loop.time() > deadline:
                raise Overloaded("; ".join(sorted(str(getattr(reason, "reason", reason)) for reason in reasons)))
            unfit.update(failed)

    async def _live_providers(self, target: Model, fresh: bool) -> tuple[list[ProviderRecord], dict[bytes, float]]:
        """Shards of the model whose peers answer a ping, and their round trips in seconds."""
        if fresh or target.model_id not in self._remembered:
            found = await self._discovery.find_providers(model_key(target.model_id))
            shards = [record for record in found if record.role == "shard" and record.model_id == target.model_id]
            self._remembered[target.model_id] = shards
        records = self._remembered[target.model_id]
        peers = {peer_id(record.public_key): record for record in records}
        for record in records:
            self._rpc.transport.introduce(Contact(record.public_key, record.addresses))
        round_trips = await asyncio.gather(*(self.ping(peer) for peer in peers))
        rtt_s = {peer: rtt for peer, rtt in zip(peers, round_trips, strict=True) if rtt is not None}
        return [record for record in records if peer_id(record.public_key) in rtt_s], rtt_s

    async def ping(self, peer: bytes) -> float | None:
        """Round trip in seconds; None: no answer."""
        try:
            return await self._rpc.ping(peer, timeout_s=PING_TIMEOUT_S)
        except PeerUnavailable:
            return None

    async def _open_all(
        self, terms: Terms, number: int, digests: bytes, places: Sequence[Place]
    ) -> dict[bytes, Opened | Refused | DsdError]:
        stages = tuple(StagePlace(place.contact, place.start, place.end) for place in places)
        body = encode_body(OpenStages(stages))

        async def ask(index: int, peer: bytes) -> Opened | Refused | DsdError:
            message = Open(
                terms.session, number, index, terms.target.model_id, self._rpc.transport.contact, terms.sampling,
                terms.max_positions, terms.lease_s, terms.wire,
            )  # fmt: skip
            try:
                answer, _ = await self._rpc.request(
                    peer, message, [body, digests], timeout_s=OPEN_TIMEOUT_S, priority=Priority.CONTROL
                )
            except DsdError as error:
                return error
            return answer if isinstance(answer, Opened | Refused) else Refused("no answer to Open")

        peers = [peer_id(place.contact.public_key) for place in places]
        answers = await asyncio.gather(*(ask(index, peer) for index, peer in enumerate(peers)))
        return dict(zip(peers, answers, strict=True))


def _choose(
    target: Model,
    records: list[ProviderRecord],
    rtt_s: dict[bytes, float],
    unfit: set[bytes],
    avoid: Collection[bytes],
) -> tuple[Place, ...]:
    """Without the peers to avoid if that can be, else with them (they answered a ping)."""
    try:
        return choose_pipeline(records, target.num_layers, rtt_s, exclude=unfit | set(avoid))
    except NoPipeline:
        return choose_pipeline(records, target.num_layers, rtt_s, exclude=unfit)
