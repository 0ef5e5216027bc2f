"""Shards that start without --layers, at once or nearly so: no two sit on the same layers while others are missing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from dsdnode.client.client import GenerateRequest
from dsdnode.dht.ids import model_key
from dsdnode.engine.fake import fake_text
from dsdnode.node.shard.claiming import claim_layers
from dsdnode.placement.ranges import Range
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.records import ProviderRecord
from tests.node import jumping
from tests.node.swarm import TARGET, fake_swarm, tokens_of
from tests.swarm.town import Member, Town, demo_id

pytestmark = pytest.mark.slow

MODEL = "ab" * 32


async def newcomer(town: Town, member: Member, capacity: int, after_s: float) -> Range:
    await asyncio.sleep(after_s)
    span = await claim_layers(member.discovery, member.offer(0, 8, MODEL), capacity)
    member.discovery.provide(lambda: [member.offer(*span, MODEL)])
    return span


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spread_s", [0.0, 0.3, 3.0])
def test_four_newcomers_cover_the_model(seed: int, spread_s: float) -> None:
    async def story() -> list[Range]:
        async with Town(seed) as town:
            rng = Random(seed)
            town.begin("old", offers=False)
            members = [town.begin(f"new {number}", "old", offers=False) for number in range(4)]
            await asyncio.sleep(3)
            work = (newcomer(town, member, 2, rng.uniform(0, spread_s)) for member in members)
            return sorted(await asyncio.gather(*work))

    assert jumping.run(story()) == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_who_is_alone_does_not_wait() -> None:
    async def story() -> None:
        async with Town() as town:
            alone = town.begin("alone", offers=False)
            assert await newcomer(town, alone, 2, 0.0) == (0, 2)
            assert asyncio.get_running_loop().time() == 0

    jumping.run(story())


def test_who_has_room_for_all_layers_stays_beside_the_other() -> None:
    async def story() -> None:
        async with Town() as town:
            one, two = town.begin("one", offers=False), town.begin("two", "one", offers=False)
            await asyncio.sleep(3)
            begun = asyncio.get_running_loop().time()
            spans = await asyncio.gather(newcomer(town, one, 8, 0.0), newcomer(town, two, 9, 0.0))
            assert list(spans) == [(0, 8), (0, 8)]
            assert asyncio.get_running_loop().time() - begun < 1

    jumping.run(story())


def test_a_claim_is_announced_and_serves_nobody_yet() -> None:
    async def story() -> None:
        async with Town() as town:
            one, two = town.begin("one", offers=False), town.begin("two", "one", offers=False)
            await asyncio.sleep(3)
            span = await claim_layers(two.discovery, two.offer(0, 8, MODEL), 2)
            [record] = await one.discovery.find_providers(model_key(demo_id(MODEL)))
            assert (record.start, record.end) == span
            assert record.settled
            assert record.free_sessions == 0

    jumping.run(story())


def test_what_an_earlier_life_offered_is_not_another_peer() -> None:
    async def story() -> None:
        async with Town() as town:
            one, two = town.begin("one", offers=False), town.begin("two", "one", offers=False)
            two.discovery.provide(lambda: [two.offer(0, 4, MODEL)])
            await asyncio.sleep(5)
            assert len(await one.discovery.find_providers(model_key(demo_id(MODEL)))) == 1
            assert await claim_layers(two.discovery, two.offer(0, 8, MODEL), 4) == (0, 4)

    jumping.run(story())


def test_a_reply_waits_for_a_shard_that_has_claimed_its_layers_and_is_starting(tmp_path: Path) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path) as swarm:
            await swarm.add("dora", drafts=True)
            await swarm.add("sam", layers=(0, 2))
            shard, loop = TARGET.shard(2, 4), asyncio.get_running_loop()

            async def load(discovery: Discovery) -> None:
                key, addresses = discovery.contact.public_key, discovery.contact.addresses
                record = ProviderRecord(
                    key, addresses, "shard", shard.weights_hash, shard.architecture, shard.model_name, shard.start,
                    shard.end, shard.num_layers, shard.tokenizer_hash, shard.vocab_size, shard.width,
                    shard.context_tokens, 0,
                )  # fmt: skip
                await discovery.publish(record)
                await asyncio.sleep(5)

            starting = asyncio.create_task(swarm.add("sue", layers=(2, 4), before=load))
            alice = await swarm.client()
            await asyncio.sleep(1)
            begun = loop.time()
            tokens, _ = await tokens_of(alice, GenerateRequest(prompt_tokens=(5, 17, 42), max_tokens=8, draft_max=2))
            assert tokens == fake_text(TARGET, (5, 17, 42), 8)
            assert 3 < loop.time() - begun < 10
            await starting

    jumping.run(story())
