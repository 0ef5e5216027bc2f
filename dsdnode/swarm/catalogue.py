"""What the provider records of a swarm add up to: which models, how well covered, with how many drafters.

A model is its id. Names are labels, which anybody may put on anything: each is remembered, none decides.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import msgspec

from dsdnode.accounts import Account, in_turn
from dsdnode.dht.ids import MODELS_KEY, ip_groups
from dsdnode.identity import peer_id, short_id
from dsdnode.placement.coverage import hosting, longest_context, why_none
from dsdnode.placement.ranges import is_covered, missing
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.info import Coverage, ModelInfo, PeerInfo
from dsdnode.swarm.pings import Pings
from dsdnode.wire.records import ProviderRecord

MIN_PREFIX = 8
"""Of a model's id, as a name for it: shorter ones are found by trying, and so might be a name in use."""
MAX_ASKED_HOSTS = 32
"""Of one of several models that could be meant: they are asked whether they are there."""
MAX_ASKED_RANGES = 128
"""And so many more, of ranges that these lack."""
CHOICE_S, SPARE_S = 3.0, 60.0
"""A reply waits so long, at most, to know which of several models is there; who was silent is not asked for so long."""
MAX_SILENT_TOLD = 4
MAX_ESTIMATES = 16
"""Models of which is told what a newcomer would bring: those that most answer for. Anybody invents some."""


@dataclass(frozen=True, slots=True)
class Model:
    """A target that somebody hosts layers of. `complete`: some of them make a pipeline; if not, `missing` says why."""

    model_id: str
    name: str
    """What most of its hosts call it."""
    num_layers: int
    width: int
    vocab_size: int
    tokenizer_hash: str
    context_tokens: int
    """Of the pipeline with the most room, or where there is none, of the shard with the most. A reply has what its own
    pipeline has."""
    coverage: tuple[tuple[int, int, int], ...]
    """(start, end, replicas), by start."""
    drafters: int
    missing: str
    shards: tuple[ProviderRecord, ...] = ()
    text_hash: str = ""
    """As in records (wire/records.py)."""

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def names(self) -> set[str]:
        return {shard.model_name for shard in self.shards}

    def is_whole(self, answering: Collection[bytes]) -> bool:
        """By those of its hosts alone."""
        there = ((shard.start, shard.end) for shard in self.shards if shard.peer_id in answering)
        return is_covered(there, self.num_layers)

    def rank(self, answering: Collection[bytes], trusted: Collection[bytes]) -> tuple[bool, int, int, bool, str]:
        """The least is to be preferred, of several that could be meant: what is whole, and hosted in the most networks,
        by the most peers, by one of the `trusted` ones. Only those `answering` count: any number of records can be
        made."""
        living = [shard for shard in self.shards if shard.peer_id in answering]
        networks = {network for shard in living for network in ip_groups(shard.addresses) or ("",)}
        joined = any(shard.peer_id in trusted for shard in living)
        return not self.is_whole(answering), -len(networks), -len(living), not joined, self.model_id


def models_of(records: Iterable[ProviderRecord]) -> list[Model]:
    """Every model with a shard among `records`, by name then id."""
    shards: dict[str, list[ProviderRecord]] = {}
    drafters: Counter[str] = Counter()
    for record in records:
        if record.role == "shard":
            shards.setdefault(record.model_id, []).append(record)
        else:
            drafters[record.tokenizer_hash] += 1
    models = [_model(offers, drafters) for offers in shards.values()]
    return sorted(models, key=lambda model: (model.name, model.model_id))


def called(models: Iterable[Model], name: str) -> list[Model]:
    """Those whose id begins with `name`, or else those that anybody calls so."""
    models = list(models)
    by_id = [model for model in models if len(name) >= MIN_PREFIX and model.model_id.startswith(name)]
    return by_id or [model for model in models if name in model.names]


def _model(offers: list[ProviderRecord], drafters: Mapping[str, int]) -> Model:
    first, names = offers[0], Counter(record.model_name for record in offers)
    replicas = Counter((record.start, record.end) for record in offers)
    name = min(names, key=lambda name: (-names[name], name))
    shards = hosting(offers, first.num_layers)
    whole = is_covered(((one.start, one.end) for one in shards), first.num_layers)
    return Model(
        model_id=first.model_id,
        name=name,
        num_layers=first.num_layers,
        width=first.width,
        vocab_size=first.vocab_size,
        tokenizer_hash=first.tokenizer_hash,
        text_hash=first.text_hash,
        context_tokens=longest_context(offers, first.num_layers) or max(record.context_tokens for record in offers),
        coverage=tuple((start, end, count) for (start, end), count in sorted(replicas.items())),
        drafters=drafters.get(first.tokenizer_hash, 0),
        missing="" if whole else why_none(shards, first.num_layers, name, num_failed=0),
        shards=tuple(offers),
    )


async def survey(
    discovery: Discovery, pings: Pings, max_records: int, num_pings: int
) -> tuple[list[ProviderRecord], dict[bytes, float]]:
    """What is offered, and the round trips, s, to those of the peers that answered `num_pings`. Nobody's word alone
    counts: all that hold records of models are asked."""
    records = (await discovery.find_providers(MODELS_KEY, thorough=True))[:max_records]
    return records, await pings.survey([record.peer_id for record in records], num_pings)


async def preferred(models: Sequence[Model], pings: Pings, trusted: Collection[bytes] = ()) -> list[Model]:
    """By rank, the one to be preferred first; where there is a choice, those that are said to host them are asked."""
    if len(models) < 2:
        return list(models)
    answering = await _answering(models, pings, trusted)
    return sorted(models, key=lambda model: model.rank(answering, trusted))


async def wholly_hosted(models: Sequence[Model], pings: Pings) -> list[Model]:
    """Those that are whole by those of their hosts who answer."""
    answering = await _answering(models, pings, ())
    return [model for model in models if model.is_whole(answering)]


async def _answering(models: Sequence[Model], pings: Pings, trusted: Collection[bytes]) -> Collection[bytes]:
    """Models take turns, those of hosts that we joined by first; where most of a model's are silent, the rest of them
    have a turn, too. Whoever was silent just now, and never anything else, is asked where nobody answers."""
    ends_s = asyncio.get_running_loop().time() + CHOICE_S

    async def ask(hosts: Iterable[Sequence[bytes]], spare_s: float = 0.0) -> dict[bytes, float]:
        peers = [peer for turn in zip_longest(*hosts) for peer in turn if peer is not None]
        left_s = ends_s - asyncio.get_running_loop().time()
        return await pings.survey(peers, within_s=left_s, spare_s=spare_s) if peers and left_s > 0 else {}

    def key(model: Model) -> tuple[bool, bytes]:
        return all(shard.peer_id not in trusted for shard in model.shards), pings.lot(model.model_id.encode())

    orders = [_in_order(model, pings, trusted) for model in sorted(models, key=key)]
    answers = await ask((first for first, _ in orders), SPARE_S)
    more = [rest for first, rest in orders if 2 * sum(peer in answers for peer in first) < len(first)]
    answers |= await ask(more, SPARE_S)
    return answers or await ask([first for first, _ in orders])


def _in_order(model: Model, pings: Pings, trusted: Collection[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Some of its hosts, networks in turn and else by lot, for records cost nothing: whom we know, then others, and
    then one more of each range that nobody of these has. And the others."""
    order = _in_turn(sorted(model.shards, key=lambda one: pings.lot(one.peer_id)))
    known = [one for one in order if one.peer_id in trusted or pings.has_answered(one.peer_id)]
    known.sort(key=lambda one: one.peer_id not in trusted)
    asked = {one.peer_id: one for one in (*known[:MAX_ASKED_HOSTS], *order[:MAX_ASKED_HOSTS])}
    covered = {(one.start, one.end) for one in asked.values()}
    lacking: dict[tuple[int, int], ProviderRecord] = {}
    for one in order:
        if (one.start, one.end) not in covered:
            lacking.setdefault((one.start, one.end), one)
    first = [*asked, *[one.peer_id for one in lacking.values()][:MAX_ASKED_RANGES]]
    there = frozenset(first)
    return first, [one.peer_id for one in order if one.peer_id not in there]


def _in_turn(shards: Sequence[ProviderRecord]) -> list[ProviderRecord]:
    return in_turn(shards, lambda one: Account(one.peer_id, min(ip_groups(one.addresses), default="")))


# --- for people: who of them answers now


async def describe_models(discovery: Discovery, pings: Pings) -> list[ModelInfo]:
    """Every model that there are records of; their peers are pinged now."""
    from dsdnode.placement.pipelines import View  # numpy, which commands that only ask for a reply need not wait for
    from dsdnode.swarm.newcomer import newcomer

    records = await discovery.find_providers(MODELS_KEY)
    rtts_s = await _answers(discovery, pings, records)
    silent = {peer for peer, rtt_s in rtts_s.items() if rtt_s is None}
    there = [record for record in records if record.peer_id not in silent]
    living = {one.model_id: one for one in models_of(there)}
    drafters = Counter(record.tokenizer_hash for record in there if record.role == "drafter")

    def seen_s(peer: bytes) -> float | None:
        return _seen_s(peer, discovery, pings)

    def ways(model: Model) -> dict[str, int]:
        drafting = [one for one in there if one.role == "drafter" and one.tokenizer_hash == model.tokenizer_hash]
        peers = dict.fromkeys(one.peer_id for one in (*model.shards, *drafting) if one.peer_id not in silent)
        return dict(sorted(Counter(filter(None, map(pings.link, peers))).items()))

    view = View.of({peer: rtt_s for peer, rtt_s in rtts_s.items() if rtt_s is not None})
    models = models_of(records)
    told = [_told(one, living.get(one.model_id), drafters, silent, seen_s, ways(one)) for one in models]
    num_answering = [sum(one.answering for one in model.coverage) for model in told]
    order = sorted(range(len(models)), key=lambda place: -num_answering[place])
    for place in order[:MAX_ESTIMATES]:
        found = newcomer(models[place].shards, silent, told[place].drafters, view)
        told[place] = msgspec.structs.replace(told[place], newcomer=found)
        await asyncio.sleep(0)  # whoever looks may serve replies, too
    return told


def _told(
    model: Model,
    living: Model | None,
    drafters: Counter[str],
    silent: Collection[bytes],
    seen_s: Callable[[bytes], float | None],
    ways: dict[str, int],
) -> ModelInfo:
    """As it is with those who answer, `living`; and who of the others was there."""
    answering = {} if living is None else {(start, end): count for start, end, count in living.coverage}
    lacks = f"nobody who answers hosts layers of {model.name}" if living is None else living.missing
    gone = [shard for shard in model.shards if shard.peer_id in silent] if lacks else []
    if gone:
        told = [
            f"{short_id(shard.peer_id)} ({shard.start}:{shard.end}, {_ago(seen_s(shard.peer_id))})"
            for shard in gone[:MAX_SILENT_TOLD]
        ]
        more = f" and {len(gone) - MAX_SILENT_TOLD} more" if len(gone) > MAX_SILENT_TOLD else ""
        lacks += f"; no answer of {', '.join(told)}{more}"
    return ModelInfo(
        name=model.name,
        model_id=model.model_id,
        num_layers=model.num_layers,
        coverage=tuple(
            Coverage((start, end), count, answering.get((start, end), 0)) for start, end, count in model.coverage
        ),
        drafters=drafters[model.tokenizer_hash],
        complete=not lacks,
        missing=lacks,
        once_complete=model.complete,
        ways=ways,
        holes=tuple(missing(answering, (0, model.num_layers))),
    )


def _ago(seen_s: float | None) -> str:
    return "never heard of" if seen_s is None else f"heard of {seen_s:.0f} s ago"


async def _answers(discovery: Discovery, pings: Pings, records: Iterable[ProviderRecord]) -> dict[bytes, float | None]:
    """Round trips in seconds, by peer; None: no answer. Ourselves we do not ask."""
    peers = dict.fromkeys(record.peer_id for record in records)
    rtts_s = await pings.survey([peer for peer in peers if peer != discovery.own_id])
    return {peer: 0.0 if peer == discovery.own_id else rtts_s.get(peer) for peer in peers}


def _seen_s(peer: bytes, discovery: Discovery, pings: Pings) -> float | None:
    """How long ago it answered us last; None: it never did."""
    times_s = [at_s for at_s in (pings.answered_at(peer), discovery.answered_at(peer)) if at_s is not None]
    return round(asyncio.get_running_loop().time() - max(times_s), 1) if times_s else None


async def describe_peers(discovery: Discovery, pings: Pings) -> list[PeerInfo]:
    """Every peer we know of, pinged now: who it is, what it offers, its round trip (None: no answer), when it was
    heard of."""
    offers: dict[bytes, list[ProviderRecord]] = {}
    records = await discovery.find_providers(MODELS_KEY)  # of whom it asks we know more then
    contacts = {peer_id(contact.public_key): contact for contact in discovery.known_peers()}
    for record in records:
        offers.setdefault(record.peer_id, []).append(record)
        contacts.setdefault(record.peer_id, record.contact)
    order = sorted(contacts)
    rtts_s = await pings.survey(order)
    return [
        PeerInfo(
            peer_id=peer.hex(),
            addresses=contacts[peer].addresses,
            roles=tuple(record.role for record in offers.get(peer, [])),
            layers=next(((r.start, r.end) for r in offers.get(peer, []) if r.role == "shard"), None),
            model=", ".join(dict.fromkeys(record.model_name for record in offers.get(peer, []))),
            free_sessions=sum(record.free_sessions for record in offers.get(peer, [])),
            rtt_ms=None if rtt_s is None else round(1e3 * rtt_s, 2),
            seen_s=_seen_s(peer, discovery, pings) if rtt_s is None else 0.0,
            name=next((record.nickname for record in offers.get(peer, []) if record.nickname), ""),
            link=pings.link(peer),
            model_ids=tuple(dict.fromkeys(record.model_id for record in offers.get(peer, []))),
            **_figures(offers.get(peer, [])),
        )
        for peer, rtt_s in ((peer, rtts_s.get(peer)) for peer in order)
    ]


def _figures(offers: list[ProviderRecord]) -> dict[str, float]:
    """Of a shard before those of a drafter."""
    for record in sorted(offers, key=lambda record: record.role, reverse=True)[:1]:
        return {"fixed_ms": record.fixed_ms, "slope_ms": record.slope_ms, "queue": record.queue}
    return {}
