"""What the provider records of a swarm add up to: which models, how well covered, with how many drafters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from dsdnode.dht.ids import MODELS_KEY
from dsdnode.errors import NoPipeline
from dsdnode.identity import peer_id
from dsdnode.net.rpc import Rpc
from dsdnode.placement.pipelines import View, choose_pipeline
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.info import Coverage, ModelInfo, PeerInfo
from dsdnode.swarm.pings import Pings
from dsdnode.wire.records import ProviderRecord


@dataclass(frozen=True, slots=True)
class Model:
    """A target that somebody hosts layers of. `complete`: some of them make a pipeline; if not, `missing` says why."""

    model_id: str
    name: str
    num_layers: int
    width: int
    vocab_size: int
    tokenizer_hash: str
    context_tokens: int
    coverage: tuple[tuple[int, int, int], ...]
    """(start, end, replicas), by start."""
    drafters: int
    missing: str

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def info(self) -> ModelInfo:
        """What of it is for users."""
        coverage = tuple(Coverage((start, end), count) for start, end, count in self.coverage)
        return ModelInfo(
            self.name, self.model_id, self.num_layers, coverage, self.drafters, self.complete, self.missing
        )


def models_of(records: Iterable[ProviderRecord]) -> list[Model]:
    """Every model with a shard among `records`, by name then id."""
    shards: dict[str, list[ProviderRecord]] = {}
    drafters: dict[str, int] = {}
    for record in records:
        if record.role == "shard":
            shards.setdefault(record.model_id, []).append(record)
        else:
            drafters[record.tokenizer_hash] = drafters.get(record.tokenizer_hash, 0) + 1
    models = [_model(offers, drafters) for offers in shards.values()]
    return sorted(models, key=lambda model: (model.name, model.model_id))


def _model(offers: list[ProviderRecord], drafters: dict[str, int]) -> Model:
    first = min(offers, key=lambda record: record.public_key)
    replicas: dict[tuple[int, int], int] = {}
    for record in offers:
        replicas[record.start, record.end] = replicas.get((record.start, record.end), 0) + 1
    try:
        choose_pipeline(offers, first.num_layers, View.of({}))
        missing = ""
    except NoPipeline as error:
        missing = str(error)
    return Model(
        model_id=first.model_id,
        name=first.model_name,
        num_layers=first.num_layers,
        width=first.width,
        vocab_size=first.vocab_size,
        tokenizer_hash=first.tokenizer_hash,
        context_tokens=min(record.context_tokens for record in offers),
        coverage=tuple((start, end, count) for (start, end), count in sorted(replicas.items())),
        drafters=drafters.get(first.tokenizer_hash, 0),
        missing=missing,
    )


async def describe_peers(rpc: Rpc, discovery: Discovery, pings: Pings) -> list[PeerInfo]:
    """Every peer we know of, pinged now: who it is, what it offers, its round trip (None: no answer)."""
    contacts = {peer_id(contact.public_key): contact for contact in discovery.known_peers()}
    offers: dict[bytes, list[ProviderRecord]] = {}
    for record in await discovery.find_providers(MODELS_KEY):
        offers.setdefault(record.peer_id, []).append(record)
        contacts.setdefault(record.peer_id, record.contact)
        rpc.transport.introduce(record.contact)

    order = sorted(contacts)
    rtts_s = await asyncio.gather(*(pings.rtt_s(peer) for peer in order))
    return [
        PeerInfo(
            peer_id=peer.hex(),
            addresses=contacts[peer].addresses,
            roles=tuple(record.role for record in offers.get(peer, [])),
            layers=next(((r.start, r.end) for r in offers.get(peer, []) if r.role == "shard"), None),
            model=", ".join(dict.fromkeys(record.model_name for record in offers.get(peer, []))),
            free_sessions=sum(record.free_sessions for record in offers.get(peer, [])),
            rtt_ms=None if rtt_s is None else round(1e3 * rtt_s, 2),
        )
        for peer, rtt_s in zip(order, rtts_s, strict=True)
    ]
