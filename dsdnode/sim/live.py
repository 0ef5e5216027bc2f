"""The swarm that is there, as a question: its records, and round trips from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dsdnode.client.client import Client
from dsdnode.errors import NoPipeline
from dsdnode.identity import short_id
from dsdnode.sim.question import Question
from dsdnode.sim.scenario import Group, LinkTerms, NetworkTerms, Pair
from dsdnode.swarm.catalogue import models_of
from dsdnode.wire.records import ID_PREFIX_BYTES, ProviderRecord

HOME = "here"
PINGS = 3
ENGINE_MS = 0.5
"""Of a hop, what a ping does not tell: there and back to the engine's process (a third of question.HANDLING_MS)."""
MAX_MODELLED = 256
"""Peers of one swarm that are simulated."""


async def ask_swarm(joins: Sequence[str], swarm_keys: tuple[str, ...], pair: Pair) -> Question:
    """Everything known of the first model that can be served. Raises NoPipeline, PeerUnavailable, BadInput."""
    client = await Client.connect(joins, swarm_keys)
    try:
        records, rtt_s = await client.survey(MAX_MODELLED, PINGS)
    finally:
        await client.close()
    return question_of(records, rtt_s, pair)


def question_of(records: Sequence[ProviderRecord], rtt_s: Mapping[bytes, float], pair: Pair) -> Question:
    """Peers that answered, each in a region of its own; a link that neither end measured is as long as the longer way
    to either of them. Raises NoPipeline."""
    there = [record for record in records if record.peer_id in rtt_s]
    shards = [record for record in there if record.role == "shard"]
    if not shards:
        raise NoPipeline("no peer of that swarm hosts layers of a model now")
    hosted = models_of(there)
    model = min(hosted, key=lambda one: one.rank(rtt_s, ()))
    shards = [record for record in shards if record.model_id == model.model_id]
    drafters = [one for one in there if one.role == "drafter" and one.tokenizer_hash == model.tokenizer_hash]
    if not drafters:
        raise NoPipeline(f"no drafter of that swarm has the tokenizer of {model.name}")
    names = {record.peer_id: short_id(record.peer_id) for record in [*shards, *drafters]}
    return Question(
        shards=tuple(_group(record, names[record.peer_id]) for record in shards),
        drafters=tuple(_group(record, names[record.peer_id]) for record in drafters),
        links=NetworkTerms(handling_ms=ENGINE_MS, between=_links([*shards, *drafters], names, rtt_s)),
        pair=Pair(model.num_layers, 2 * model.width, pair.acceptance, pair.spread, pair.second, pair.trace),
        home=HOME,
        crowded=len(dict.fromkeys(map(_host, [*shards, *drafters]))) < len(shards) + len(drafters),
    )


def _host(record: ProviderRecord) -> str:
    return record.addresses[0].rpartition(":")[0]


def _links(
    records: Sequence[ProviderRecord], names: Mapping[bytes, str], rtt_s: Mapping[bytes, float]
) -> dict[str, LinkTerms]:
    """By pair of regions, one way."""
    measured = {(one.peer_id, trip.peer): trip.rtt_ms for one in records for trip in one.round_trips}
    between = {f"{HOME}-{HOME}": LinkTerms(0.0)}
    for one, name in names.items():
        between[f"{HOME}-{name}"] = LinkTerms(500 * rtt_s[one])
        between[f"{name}-{name}"] = LinkTerms(0.0)
        for other, other_name in names.items():
            both = [measured.get((one, other[:ID_PREFIX_BYTES])), measured.get((other, one[:ID_PREFIX_BYTES]))]
            known_ms = [trip_ms for trip_ms in both if trip_ms is not None]
            trip_ms = min(known_ms) if known_ms else 1000 * max(rtt_s[one], rtt_s[other])
            if f"{other_name}-{name}" not in between:
                between.setdefault(f"{name}-{other_name}", LinkTerms(trip_ms / 2))
    return between


def _group(record: ProviderRecord, name: str) -> Group:
    drafts = record.role == "drafter"
    return Group(
        record.role,
        name=name,
        layers="" if drafts else f"{record.start}:{record.end}",
        fixed_ms=record.fixed_ms,
        position_ms=record.slope_ms,
        max_sessions=max(1, min(64, record.free_sessions)),
        regions=(name,),
    )
