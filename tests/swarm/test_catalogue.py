"""Which models there are, whatever strangers say of them; and who is there now, or only was."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection
from hashlib import sha256
from typing import Any

import pytest

from dsdnode.swarm.catalogue import (
    called,
    describe_models,
    describe_peers,
    models_of,
    preferred,
    wholly_hosted,
)
from dsdnode.swarm.pings import Pings
from dsdnode.wire.records import ProviderRecord
from tests.node import jumping
from tests.placement.offers import bytes_of, replace, shard
from tests.swarm.town import Town, Wire

HONEST = [shard(7, 0, 4, context_tokens=100), shard(8, 4, 8, context_tokens=80)]
ID = HONEST[0].model_id


def stranger(**lies: Any) -> ProviderRecord:
    """Mallory, who has the lowest key and the lowest peer id that she could make."""
    return replace(shard(1, 0, 8), **lies)


SHAPES: list[dict[str, Any]] = [
    {"num_layers": 1, "end": 1},
    {"num_layers": 512, "end": 512},
    {"vocab_size": 5},
    {"width": 1},
    {"architecture": "other"},
    {"tokenizer_hash": "0" * 64},
    {"weights_hash": "0" * 64},
]
LABELS: list[dict[str, Any]] = [
    {"context_tokens": 1},
    {"context_tokens": 0},
    {"model_name": "mine"},
    {"model_name": ""},
    {"context_tokens": 1, "start": 2, "end": 3},
    {"start": 0, "end": 1, "free_sessions": 1 << 30},
]


@pytest.mark.parametrize("lies", SHAPES, ids=str)
def test_who_says_otherwise_of_a_model_speaks_of_another(lies: dict[str, Any]) -> None:
    [alone] = models_of(HONEST)
    for order in itertools.permutations([*HONEST, stranger(**lies)]):
        by_id = {model.model_id: model for model in models_of(order)}
        assert len(by_id) == 2
        mine = by_id[ID]
        assert set(mine.shards) == set(HONEST)
        assert (mine.coverage, mine.num_layers, mine.vocab_size, mine.context_tokens) == (
            alone.coverage, 8, 8, 80,
        )  # fmt: skip


@pytest.mark.parametrize("lies", LABELS, ids=str)
def test_one_record_changes_nothing_of_a_model_but_one_more_host(lies: dict[str, Any]) -> None:
    for order in itertools.permutations([*HONEST, stranger(**lies)]):
        [model] = models_of(order)
        assert (model.name, model.context_tokens) == ("demo-target", 80)
        assert model.complete
        assert [one.model_id for one in called([model], "demo-target")] == [ID]


def test_a_context_larger_than_anybody_s_is_one_pipeline_s_own() -> None:
    [model] = models_of([*HONEST, stranger(context_tokens=1 << 20)])
    assert model.context_tokens == 1 << 20, "a reply is told what its own pipeline has (tests/node/test_context.py)"
    [model] = models_of([HONEST[0]])
    assert (model.complete, model.context_tokens) == (False, 100)


def test_names_are_labels_and_ids_are_ids() -> None:
    impostor = stranger(weights_hash="0" * 64)
    models = models_of([*HONEST, impostor])
    assert {model.model_id for model in called(models, "demo-target")} == {ID, impostor.model_id}
    assert [model.model_id for model in called(models, ID)] == [ID]
    assert [model.model_id for model in called(models, ID[:12])] == [ID]
    assert called(models, ID[:7]) == [], "so short a beginning is found by trying"
    for name in (ID, ID[:8]):  # and nobody takes an id by calling a model so
        models = models_of([*HONEST, stranger(weights_hash="0" * 64, model_name=name)])
        assert [model.model_id for model in called(models, name)] == [ID]


def test_of_two_models_of_one_name_the_one_that_is_there_and_most_hosted_comes_first() -> None:
    impostor = [stranger(num_layers=1, end=1)]
    everybody = [bytes_of(who) for who in range(1, 250)]
    first, second = models_of([*HONEST, *impostor])

    def best(answering: list[bytes], trusted: tuple[bytes, ...] = ()) -> str:
        return min(first, second, key=lambda model: model.rank(answering, trusted)).model_id

    assert best(everybody) == ID
    assert best([bytes_of(1)]) == impostor[0].model_id
    crowd = [replace(shard(who, 0, 1, 1), weights_hash="0" * 64) for who in range(100, 200)]
    first, second = models_of([*HONEST, *crowd])
    assert best([bytes_of(7), bytes_of(8), bytes_of(100)]) == ID, "records are cheap: only who answers counts"
    far = [replace(one, addresses=(f"tcp://{8 + at}.8.8.8:1",)) for at, one in enumerate(HONEST)]
    first, second = models_of([*far, *(replace(one, addresses=("tcp://9.9.9.9:1",)) for one in crowd)])
    assert best(everybody) == ID, "a hundred peers of one network are one network"
    first, second = models_of([shard(7, 0, 8), replace(shard(1, 0, 8), weights_hash="0" * 64)])
    for who, weights_hash in ((7, "ab" * 32), (1, "0" * 64)):
        chosen = best(everybody, (bytes_of(who),))
        assert chosen == replace(shard(7, 0, 8), weights_hash=weights_hash).model_id, "whom we joined hosts it"


class Asked:
    """Pings, whose peers answer if they are `there`; some have answered before."""

    def __init__(self, there: Collection[bytes], known: Collection[bytes] = ()) -> None:
        self.there, self.known = there, known
        self.asked: list[bytes] = []
        self.lots: dict[bytes, int] = {}
        """Of some; the others have none before them."""

    def has_answered(self, peer: bytes) -> bool:
        return peer in self.known

    def lot(self, name: bytes) -> bytes:
        return self.lots.get(name, 0).to_bytes(4, "big") + sha256(name).digest()

    async def survey(self, peers: list[bytes], within_s: float, spare_s: float = 0.0) -> dict[bytes, float]:
        """In two seconds for each 64 of them, if any is silent; no more of them than that leaves time for."""
        peers = peers[: 64 * (1 + int(within_s / 2))]
        await asyncio.sleep(2.0 * -(-len(peers) // 64) if set(peers) - set(self.there) else 0.1)
        self.asked += peers
        return {peer: 0.1 for peer in peers if peer in self.there}


def ghosts(num: int, **what: Any) -> list[ProviderRecord]:
    """Mallory's: each in a network of its own, by its own word, with a key below everybody's; none of them is there."""
    shards = [replace(shard(2, *((0, 4) if number % 2 else (4, 8))), **what) for number in range(num)]
    return [
        replace(one, public_key=b"%032d" % number, addresses=(f"tcp://{number % 200 + 20}.{number // 200}.1.1:1",))
        for number, one in enumerate(shards)
    ]


def test_of_a_model_with_hundreds_of_records_some_of_each_network_are_asked() -> None:
    """Mallory's, in one network, come before all others by lot, too."""
    crowd = [replace(one, addresses=("tcp://9.9.9.9:1",), start=0, end=8) for one in ghosts(400)]
    honest = [replace(shard(who, 0, 8), addresses=(f"tcp://{who}.8.8.8:1",)) for who in (7, 8)]
    other = replace(shard(3, 0, 8), weights_hash="0" * 64)
    pings = Asked([bytes_of(7), bytes_of(8)])
    pings.lots = dict.fromkeys((one.peer_id for one in honest), 1)
    chosen, second = jumping.run(preferred(models_of([*crowd, *honest, other]), pings))  # type: ignore[arg-type]
    assert (chosen.model_id, second.model_id) == (ID, other.model_id)
    assert len(set(pings.asked)) < 64 * 4
    assert pings.asked.index(bytes_of(3)) < 2, "models take turns, too"


def test_whom_we_know_is_asked_however_many_records_stand_before_him() -> None:
    ghosts = [replace(shard(who, 0, 8), addresses=(f"tcp://{who}.9.9.9:1",)) for who in range(10, 210)]
    [model] = models_of([*ghosts, shard(250, 0, 8)])
    assert jumping.run(wholly_hosted([model], Asked([bytes_of(250)], [bytes_of(250)]))) == [model]  # type: ignore[arg-type]


def prefers(pings: Asked, records: list[ProviderRecord], joined: Collection[bytes] = ()) -> str:
    first, *_ = jumping.run(preferred(models_of(records), pings, joined))  # type: ignore[arg-type]
    return first.model_id


RIVAL = replace(shard(1, 0, 8), weights_hash="0" * 64, addresses=("tcp://5.5.5.5:1",))
"""Mallory's model of the same name, which is there."""


@pytest.mark.parametrize(("num_ghosts", "num_hosts", "are_last"), [(60, 6, False), (60, 6, True), (400, 40, False)])
def test_ghosts_beside_the_hosts_of_a_model_do_not_keep_them_from_being_asked(
    num_ghosts: int, num_hosts: int, are_last: bool
) -> None:
    hosts = [
        replace(shard(100 + who, *((0, 4) if who % 2 else (4, 8))), addresses=(f"tcp://{who + 20}.8.8.8:1",))
        for who in range(num_hosts)
    ]
    pings = Asked([one.peer_id for one in (*hosts, RIVAL)])
    pings.lots = dict.fromkeys((one.peer_id for one in hosts), int(are_last))
    assert prefers(pings, [*ghosts(num_ghosts), RIVAL, *hosts]) == ID


@pytest.mark.parametrize("is_joined", [False, True])
def test_models_that_mallory_calls_so_do_not_keep_the_one_that_is_there_from_being_asked(is_joined: bool) -> None:
    """Three hundred of them, with lower ids. Whom alice joined comes before them all."""
    made = (replace(shard(2, 0, 8), weights_hash=f"{number:064x}") for number in itertools.count())
    hashes = [one.weights_hash for one in itertools.islice((one for one in made if one.model_id < ID), 300)]
    fakes = [replace(one, weights_hash=name, start=0, end=8) for one, name in zip(ghosts(300), hashes, strict=True)]
    records = [*fakes, *HONEST]
    pings = Asked([one.peer_id for one in HONEST])
    pings.lots = {one.model_id.encode(): 1 for one in fakes} if not is_joined else {ID.encode(): 1}
    assert prefers(pings, records, [HONEST[0].peer_id] if is_joined else []) == ID


def test_mallory_s_many_ranges_of_one_network_hide_nobody() -> None:
    """Nor do her models take the place of one whose hosts missed a single ping."""
    ranges = [(start, end) for start in range(20) for end in range(start + 1, 21)]
    ghosts = [
        replace(shard(100, 0, 1), public_key=b"%32d" % number, num_layers=40, start=start, end=end,
                addresses=("tcp://9.9.9.9:1",))
        for number, (start, end) in enumerate(ranges)
    ]  # fmt: skip
    honest = [
        replace(
            shard(who, 0, 1), num_layers=40, start=20 * half, end=20 * half + 20, addresses=(f"tcp://{who}.8.8.8:1",)
        )
        for half in (0, 1)
        for who in (30 + half, 40 + half, 50 + half)
    ]
    [model] = models_of([*ghosts, *honest])
    there = [one.peer_id for one in honest]
    assert jumping.run(wholly_hosted([model], Asked(there))) == [model]  # type: ignore[arg-type]


def test_a_host_of_each_range_is_asked_at_least() -> None:
    """Many have the first half, and few the other; or each has one layer."""
    halves = [*(shard(who, 0, 4) for who in range(10, 50)), shard(60, 4, 8), shard(61, 4, 8)]
    layers = [replace(shard(who, 0, 1), num_layers=40, start=who - 100, end=who - 99) for who in range(100, 140)]
    for shards in (halves, layers):
        [model] = models_of(shards)
        pings = Asked([one.peer_id for one in shards])
        assert jumping.run(wholly_hosted([model], pings)) == [model]  # type: ignore[arg-type]


def test_who_is_gone_is_told_from_who_is_there() -> None:
    async def story() -> None:
        async with Town(kind=Wire) as town:
            alice = town.begin("alice", offers=False)
            for name, (start, end) in {"bob": (0, 4), "carol": (4, 8), "cleo": (4, 8)}.items():
                one = town.begin(name, "alice", offers=False)
                one.discovery.provide(lambda one=one, start=start, end=end: [one.offer(start, end)])  # type: ignore[misc]
            dora = town.begin("dora", "alice", offers=False)
            dora.discovery.provide(lambda: [replace(dora.offer(), role="drafter")])
            await asyncio.sleep(10)
            pings = Pings(alice.rpc)
            [model] = await describe_models(alice.discovery, pings)
            assert (model.complete, model.once_complete, model.missing) == (True, True, "")
            assert [(one.layers, one.replicas, one.answering) for one in model.coverage] == [
                ((0, 4), 1, 1), ((4, 8), 2, 2),
            ]  # fmt: skip
            town.silent.add(town.members["cleo"].id)
            await asyncio.sleep(30)
            [model] = await describe_models(alice.discovery, pings)
            assert model.complete
            assert [one.answering for one in model.coverage] == [1, 1]
            town.silent.add(town.members["carol"].id)
            await asyncio.sleep(30)
            [model] = await describe_models(alice.discovery, pings)
            assert (model.complete, model.once_complete, model.drafters) == (False, True, 1)
            assert "layers 4:8 of demo are hosted by nobody" in model.missing
            assert f"{town.members['carol'].id.hex()[:12]} (4:8, heard of " in model.missing
            peers = {peer.peer_id: peer for peer in await describe_peers(alice.discovery, pings)}
            bob, carol = (peers[town.members[name].id.hex()] for name in ("bob", "carol"))
            assert bob.rtt_ms is not None and bob.seen_s == 0
            assert carol.rtt_ms is None and carol.seen_s is not None and 30 <= carol.seen_s < 60
            await pings.close()

    jumping.run(story())
