"""The DHT among hostile peers, and what their records add up to: bounded, in time, and nothing that nobody signed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache, cached_property, partial
from typing import Any

import msgspec

from dsdnode.cli import render
from dsdnode.client.preference import by_preference
from dsdnode.dht import lookup, store, table
from dsdnode.dht.ids import MODELS_KEY, model_key, tokenizer_key
from dsdnode.dht.table import MAX_SPARES
from dsdnode.errors import DsdError, NoPipeline, PeerMisbehaved
from dsdnode.pacing.tuning import TUNING
from dsdnode.placement import layers, pipelines
from dsdnode.placement.coverage import longest_context
from dsdnode.placement.pipelines import View, choose_pipeline, predict, speed, with_usual_speeds
from dsdnode.swarm import announcer, catalogue, discovery, queries
from dsdnode.swarm.catalogue import called, models_of
from dsdnode.swarm.discovery import FIND_TIMEOUT_S, Discovery
from dsdnode.swarm.visits import PER_MINUTE
from dsdnode.wire import messages as wire
from dsdnode.wire.codec import Envelope, decode_body, encode_body
from dsdnode.wire.messages import Refused
from dsdnode.wire.records import ProviderRecord, RoundTrip, pack_contacts, sign_record
from tests.fuzz.clients import MODEL, shard_of
from tests.fuzz.hostile import Game, Person, person, play
from tests.fuzz.mutate import WORDS, Mutator
from tests.fuzz.parser import Case, Parser
from tests.fuzz.shards import seed

NAMES = ("alice", "bob", "carol", "dan", "eve", "fay", "gus", "mallory")
MAX_EVENTS, SLACK_S = 20, 5.0
MAX_VISITS = 2 * PER_MINUTE
"""At once, and while a game is watched."""
LONG_SHARE = 0.02
"""Of games, are watched until the last record has expired."""
ADDRESSES = (
    *(one for one in WORDS if one.startswith("tcp")),
    "tcp://127.0.0.1:22",
    "http://x",
    "",
    "tcp://9.9.9.9:29170",
)
COSTS = (0.0, 1.0, 1e6, 5e-324)


@cache
def _signed(name: str, sequence: int, role: str, layer: int, ttl_s: float) -> bytes:
    who = person(name)
    said = dict(sequence=sequence, role=role, ttl_s=ttl_s)
    return sign_record(who.identity, shard_of(who, layer, layer + 2, **said))


class DhtGame(Game):
    names = NAMES

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        shard = MODEL.shard(0, 4)
        return MODELS_KEY, model_key(shard.model_id), tokenizer_key(shard.tokenizer_hash), bytes(32), self.transport.id

    async def story(self) -> None:
        rng = self.rng
        self.dht = dht = Discovery(self.rpc, person("host").identity, rng)
        dht.start()
        self.rpc.start()
        events = (
            self._find, self._find, self._announce, self._announce, self._announce, self._look, self._look, self._lose,
            self._offer, self._join, self._long, self._find_me, self._visit,
        )  # fmt: skip
        tasks = []
        for _ in range(rng.randrange(MAX_EVENTS)):
            work = events[int(rng.random() * (9 if rng.random() < 0.9 else len(events)))]()
            if work is not None:
                tasks.append(asyncio.ensure_future(work))
            await asyncio.sleep(rng.choice((0, 0, 0.01, 0.3, 2.0)))
            assert len(dht.store) <= len(NAMES) * store.MAX_KEYS_PER_PROVIDER + 3, "records without end"
            for key in self.keys:
                roles = [(record.public_key, record.role) for record, _ in dht.store.get(key, self.loop.time())]
                assert len(roles) == len(set(roles)), "two records of a role"
            assert len(dht.table.known()) <= len(NAMES), "peers that never answered"
            assert len(self.transport.visited) <= MAX_VISITS, "visits without end"
        self.silent = True
        await asyncio.gather(*tasks)
        if rng.random() < 0.3:
            await dht.withdraw()
        await asyncio.sleep(700 if rng.random() < LONG_SHARE else 11)
        left = [record for key in self.keys for record, _ in dht.store.get(key, self.loop.time() + 600)]
        assert not left, "records are left"
        await dht.close()
        self.check_rpc()
        for bucket in dht.table._buckets.values():
            assert len(bucket.spares) <= MAX_SPARES

    # --- what they ask

    def _find(self) -> None:
        who, target = person(self.rng.choice(NAMES)), self.rng.choice(self.keys)
        self.asks(who, self.rng.choice((wire.FindNode(target), wire.FindProviders(target), wire.Ping())))

    def _announce(self) -> None:
        who = person(self.rng.choice(NAMES))
        self.asks(
            who, wire.Announce(self.rng.choice(self.keys)), *self._records(who.name, self.rng.choice((1, 1, 2, 3, 0)))
        )

    def _records(self, name: str, num: int) -> list[bytes]:
        rng = self.rng
        said = []
        for _ in range(num):
            name = name if rng.random() < 0.95 else rng.choice(NAMES)
            role, sequence = rng.choice(("shard", "drafter")), rng.choice((0, 1, 1, 5, (1 << 62) - 1))
            one = _signed(name, sequence, role, rng.choice((0, 2)), rng.choice((600.0, 600.0, 0.0, 1.0)))
            said.append(one if rng.random() < 0.95 else self.mutator.scratched(one))
        return said

    def _find_me(self) -> None:
        addresses = tuple(self.rng.choices(ADDRESSES, k=self.rng.choice((1, 2, 4))))
        self.asks(person(self.rng.choice(NAMES)), wire.FindMe(addresses))

    def _visit(self) -> None:
        rng, who = self.rng, person(self.rng.choice(NAMES))
        for _ in range(rng.choice((1, 1, 30))):
            key = rng.choice((person(rng.choice(NAMES)).identity.public_key, bytes(32), b"\xff" * 32))
            self.says(who, wire.Visit(key, rng.choice(ADDRESSES)))

    def _lose(self) -> None:
        self.transport.lose(person(self.rng.choice(NAMES)).id)

    # --- what we do

    async def _look(self) -> None:
        began_s, thorough, key = self.loop.time(), self.rng.random() < 0.3, self.rng.choice(self.keys)
        found = await self.dht.find_providers(key, thorough=thorough)
        assert all(key in store.record_keys(record) for record in found), "records of another key"
        assert self.loop.time() <= began_s + FIND_TIMEOUT_S + SLACK_S, "a lookup takes too long"
        assert not any(record.withdrawn for record in found)
        providers = {record.public_key for record in found}
        assert len(found) <= 2 * len(providers), "more than a record a role"

    async def _join(self) -> None:
        contacts = [person(name).contact for name in self.rng.sample(NAMES, 2)]
        try:
            await self.dht.join(contacts, timeout_s=10.0)
        except DsdError as error:
            assert str(error).isprintable()

    async def _offer(self) -> None:
        self.dht.provide(lambda: [shard_of(person("host"), 0, 4)])

    async def _long(self) -> None:
        await asyncio.sleep(self.rng.choice((5, 60)))

    def asked(self, who: Person, envelope: Envelope) -> None:
        rng, message = self.rng, envelope.message
        if rng.random() < 0.1:
            return
        answer: wire.Message = rng.choice((Refused("no"), wire.Pong(), wire.Nodes(), wire.Providers(), wire.Stored()))
        buffers: list[bytes] = []
        if isinstance(message, wire.FindNode | wire.FindProviders) and rng.random() < 0.9:
            buffers = [pack_contacts(self._contacts())]
            answer = wire.Nodes() if isinstance(message, wire.FindNode) else wire.Providers()
            if isinstance(message, wire.FindProviders):
                buffers.append(encode_body(self._records(rng.choice(NAMES), rng.choice((0, 1, 2, 8)))))
        elif isinstance(message, wire.FindMe) and rng.random() < 0.8:
            said = tuple(rng.choices((*message.addresses, "tcp://192.0.2.1:1024", "\x1b[2J"), k=rng.choice((0, 1, 4))))
            answer = wire.Reached(rng.choice(("", "192.0.2.1", "\x1b[2J")), said, rng.choice((said, message.addresses)))
        elif isinstance(message, wire.FindRelay) and rng.random() < 0.8:
            hosts = rng.choices(("192.0.2.1", "11.1.1.1", "127.0.0.1", "2a11::1", "a.example", "\x1b[2J", ""), k=2)
            answer = wire.RelayAt(rng.choice((1, 1023, 1024, 65535)), tuple(hosts))
        elif isinstance(message, wire.Announce) and rng.random() < 0.8:
            answer, buffers = wire.Stored(), self._records(who.name, rng.choice((0, 0, 1, 2)))
        wait_s = rng.choice((0, 0, 0.05, 1.0, 4.0))
        self.loop.call_later(wait_s, self._answer, who, envelope.request_id, answer, buffers)

    def _answer(self, who: Person, request_id: int, answer: wire.Message, buffers: Sequence[bytes]) -> None:
        if not self.silent:
            self.answers(who, request_id, answer, *buffers)

    def _contacts(self) -> list[wire.Contact]:
        rng, known = self.rng, []
        for _ in range(rng.choice((0, 1, 3, 8, 40))):
            name = rng.choice((*NAMES, "host", "nobody"))
            contact = person(name).contact if name != "nobody" else wire.Contact(rng.randbytes(32), ())
            if rng.random() < 0.2:
                contact = wire.Contact(
                    contact.public_key, tuple(rng.choice(ADDRESSES) for _ in range(rng.randrange(5)))
                )
            known.append(contact)
        return known


# --- what records add up to

_PLAIN = [decode_body(encode_body(shard_of(person(name), 0, 4)), list[Any]) for name in NAMES]


def _catalogue(mutator: Mutator) -> Case:
    """Records of one model or several, right in their types: with numbers that lie."""
    rng, plain = mutator.rng, []
    for _ in range(mutator.any_of((1, 2, 3, 5, 8, 12))):
        start = mutator.below(4)
        round_trips = tuple(RoundTrip(person(mutator.any_of(NAMES)).id[:4], mutator.any_of(COSTS)) for _ in range(3))
        said: dict[str, Any] = dict(
            fixed_ms=mutator.any_of(COSTS), slope_ms=mutator.any_of(COSTS), queue=mutator.any_of((0.0, 65536.0)),
            context_tokens=mutator.any_of((0, 4096, 1 << 30)), free_sessions=mutator.any_of((0, 3, 1 << 30)),
            round_trips=round_trips, settled=rng.random() < 0.9, sequence=mutator.below(3),
            role="shard" if rng.random() < 0.9 else "drafter",
        )  # fmt: skip
        end = min(4, start + 1 + mutator.below(4))
        record = decode_body(encode_body(shard_of(person(mutator.any_of(NAMES)), start, end, **said)), list[Any])
        plain.append(mutator.changed(record) if rng.random() < 0.4 else record)
    try:
        return (encode_body(plain), bytes([mutator.below(256)]))
    except (OverflowError, UnicodeEncodeError):
        return (encode_body(_PLAIN), b"\0")


def _add_up(case: Case) -> None:
    """As a client, an owner and a peer that looks for layers see them."""
    records = []
    for plain in decode_body(case[0], list[Any]):
        try:
            records.append(decode_body(encode_body(plain), ProviderRecord))
        except PeerMisbehaved:
            continue
    models = models_of(records)
    assert len({model.model_id for model in models}) == len(models)
    for model in models:
        assert model in called(models, model.model_id) and called(models, model.name)
        peers = {shard.peer_id for shard in model.shards}
        model.rank(peers, ())
        assert max(shard.context_tokens for shard in model.shards) >= model.context_tokens >= 0
        _choose(with_usual_speeds(model.shards), model.num_layers, case[1][0])
        _take_layers(model.shards, model.num_layers, 1 + case[1][0] % 5)
    drafters = [record for record in records if record.role == "drafter"]
    order = by_preference(drafters, bytes(32), (), lambda peer: peer[0] % 2 == 0, lambda peer: peer[1] % 3)
    assert sorted(map(id, order)) == sorted(map(id, drafters)), "a drafter is missing"


def _choose(shards: Sequence[ProviderRecord], num_layers: int, taste: int) -> None:
    rtts_s = {shard.peer_id: 0.01 * (taste % 7) for shard in shards[::2]}
    view = View(rtts_s, {shard.peer_id: 1e3 for shard in shards[:1]}, {}, bytes([taste]), TUNING)
    try:
        places = choose_pipeline(shards, num_layers, view)
    except NoPipeline as error:
        assert render.clean(str(error)) == str(error), "it would end on a terminal"
        return
    ends = [0, *(place.end for place in places)]
    assert [place.start for place in places] == ends[:-1] and ends[-1] == num_layers, "no pipeline"
    assert speed(places, view) >= 0 and predict(places, view).network_s >= 0
    room = min(wire.MAX_POSITIONS, *(place.record.context_tokens for place in places))
    assert longest_context(shards, num_layers) >= room


def _take_layers(shards: Sequence[ProviderRecord], num_layers: int, capacity: int) -> None:
    """A newcomer takes layers that there are, and so do those that all come at once."""
    start, end = layers.choose_layers(shards, num_layers, capacity)
    assert 0 <= start < end <= num_layers and end - start <= capacity
    own = msgspec.structs.replace(shards[0], settled=False)
    start, end = layers.choose_in_turn(shards[1:], own, max(capacity, own.end - own.start))
    assert 0 <= start < end <= num_layers


DHT = (discovery.Discovery, queries.Queries, announcer.Announcer, store, table, lookup)
PARSERS = (
    Parser("dht", seed, partial(play, DhtGame), (), DHT),
    Parser(
        "catalogue", _catalogue, _add_up, (PeerMisbehaved,),
        (catalogue.Model, models_of, called, catalogue._model, pipelines, layers, by_preference),
        lambda case: len(case[0]) <= 1 << 20,
    ),
)  # fmt: skip
