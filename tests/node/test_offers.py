"""What a shard says of itself follows what it is: dave reads the records that sam announces."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dsdnode.client.client import Client, GenerateRequest
from dsdnode.dht.ids import model_key
from dsdnode.engine.fake import FakeEngine, FakeModel
from dsdnode.node.batching.batcher import Batcher
from dsdnode.node.offers import REPEAT_S, Offer, measure_links
from dsdnode.swarm.pings import Pings
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import MAX_ROUND_TRIPS, ProviderRecord, RoundTrip
from tests.node import jumping
from tests.node.swarm import FakeSwarm, fake_swarm, tokens_of
from tests.swarm.town import Town

pytestmark = pytest.mark.slow

REQUEST = GenerateRequest(prompt_tokens=(5, 17, 42), max_tokens=60, seed=3, temperature=0.5, draft_max=2)


def cost(num_positions: int) -> float:
    return 0.01 + 0.002 * num_positions


async def record_of_sam(swarm: FakeSwarm) -> ProviderRecord:
    sam, dora = swarm.members["sam"], swarm.members["dora"]
    assert sam.shard is not None
    found = await dora.node.discovery.find_providers(model_key(sam.shard.shard.model_id))
    return next(record for record in found if record.peer_id == sam.node.peer_id and record.role == "shard")


def test_sam_becomes_slower_and_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path, cost=cost) as swarm:
            await swarm.add("dora", drafts=True)
            sam = await swarm.add("sam", layers=(0, 4))
            await asyncio.sleep(1)
            first = await record_of_sam(swarm)
            assert (first.fixed_ms, first.slope_ms) == pytest.approx((10.0, 2.0))
            assert sam.shard is not None
            sam.shard._cost = lambda num_positions: 5 * cost(num_positions)
            alice = await swarm.client()
            for _ in range(4):
                await tokens_of(alice, REQUEST)
            await asyncio.sleep(REPEAT_S)
            then = await record_of_sam(swarm)
            assert then.fixed_ms + 3 * then.slope_ms == pytest.approx(5 * 16.0, rel=0.2)

    jumping.run(story())


async def talk(client: Client) -> None:
    while True:
        await tokens_of(client, REQUEST)


def test_a_busy_shard_says_so_and_takes_it_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path, cost=cost) as swarm:
            await swarm.add("dora", drafts=True)
            await swarm.add("sam", layers=(0, 4))
            talking = [asyncio.create_task(talk(await swarm.client())) for _ in range(4)]
            await asyncio.sleep(REPEAT_S + 6)
            assert (await record_of_sam(swarm)).queue > 1
            for task in talking:
                task.cancel()
            await asyncio.sleep(4 * REPEAT_S)
            assert (await record_of_sam(swarm)).queue < 0.6

    jumping.run(story())


def test_links_are_measured_to_those_before_and_after() -> None:
    async def story() -> None:
        async with Town() as town:
            engine = FakeEngine(FakeModel(num_layers=8), 2, 4)
            own = town.begin("own", offers=False)
            ranges = {"before": (0, 2), "after": (4, 8), "twin": (2, 4), "far": (6, 8)}
            for name, (start, end) in ranges.items():
                other = town.begin(name, "own", offers=False)
                offer = other.offer_of(engine.shard, start, end)
                other.discovery.provide(lambda offer=offer: [offer])  # type: ignore[misc]
            await asyncio.sleep(10)
            trips = await measure_links(own.rpc, own.discovery, Pings(own.rpc), engine)
            near = {town.members[name].id[:4] for name in ("before", "after")}
            assert {trip.peer for trip in trips} == near
            assert all(10 < trip.rtt_ms < 40 for trip in trips)
            town.silent.add(town.members["after"].id)
            [trip] = await measure_links(own.rpc, own.discovery, Pings(own.rpc), engine)
            assert trip.peer == town.members["before"].id[:4]

    jumping.run(story())


def test_of_many_neighbours_a_few_and_always_the_same() -> None:
    async def story() -> None:
        async with Town() as town:
            engine = FakeEngine(FakeModel(num_layers=8), 0, 4)
            own = town.begin("own", offers=False)
            for number in range(MAX_ROUND_TRIPS + 6):
                other = town.begin(f"n{number}", "own", offers=False)
                offer = other.offer_of(engine.shard, 4, 8)
                other.discovery.provide(lambda offer=offer: [offer])  # type: ignore[misc]
            await asyncio.sleep(20)
            first, second = [await measure_links(own.rpc, own.discovery, Pings(own.rpc), engine) for _ in range(2)]
            assert len(first) == MAX_ROUND_TRIPS
            assert [trip.peer for trip in first] == [trip.peer for trip in second]

    jumping.run(story())


def test_small_changes_are_no_news_and_news_waits_its_turn() -> None:
    engine = FakeEngine(FakeModel())
    offer, batcher = Offer(engine, "shard"), Batcher(engine)
    offer.batcher = batcher
    busy = [0.0]
    batcher.mean_busy = lambda: busy[0]  # type: ignore[method-assign]
    contact = Contact(bytes(32), ("tcp://127.0.0.1:1",))
    assert not offer.outdated(0.0, 1)
    offer.round_trips = (RoundTrip(b"sara", 10.0),)
    offer.record(contact, 1, 0.0)
    busy[0] = 0.4
    offer.round_trips = (RoundTrip(b"sara", 11.0),)
    assert not offer.outdated(REPEAT_S, 1)
    for more, trips in ((3.0, (RoundTrip(b"sara", 30.0),)), (3.0, ()), (6.5, ())):
        offer.record(contact, 1, 100.0)
        busy[0], offer.round_trips = more, trips
        assert not offer.outdated(100.0 + REPEAT_S / 2, 1)
        assert offer.outdated(100.0 + REPEAT_S, 1)
