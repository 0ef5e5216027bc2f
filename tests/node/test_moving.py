"""Shards that change their layers while replies go on: production nodes, fake engines, in virtual time."""

from __future__ import annotations

import asyncio
from asyncio import Event
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dsdnode.client.client import GenerateRequest
from dsdnode.engine.fake import FakeEngine, fake_text
from dsdnode.engine.port import Chunk, Output
from dsdnode.errors import EngineLost
from dsdnode.node.node import AGAIN_S
from dsdnode.node.settling import until_needed_elsewhere
from dsdnode.placement.moving import PATIENCE_S, TURN_S
from dsdnode.placement.ranges import Range
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import Pings
from dsdnode.wire.records import ProviderRecord
from tests.node import jumping
from tests.node.swarm import TARGET, FakeSwarm, Member, fake_swarm, tokens_of

pytestmark = pytest.mark.slow

LATE_S = PATIENCE_S + 6 * TURN_S
PROMPT = (5, 17, 42)


async def free(swarm: FakeSwarm, name: str, layers: Range) -> Member:
    """A shard that may change its layers, as `--role auto` has it."""
    wanted = [layers]

    async def shard(discovery: Discovery) -> FakeEngine:
        return FakeEngine(TARGET, *wanted[-1])

    async def moves(discovery: Discovery, pings: Pings, own: ProviderRecord) -> bool:
        wanted.append(await until_needed_elsewhere(discovery, pings, own, 2, lambda *_: True))
        return True

    return await swarm.add(name, layers=layers, shard=shard, moves=moves)


def layers_of(swarm: FakeSwarm) -> dict[str, Range]:
    return {name: layers for name, member in swarm.members.items() if (layers := member.node.layers)}


async def answers(swarm: FakeSwarm) -> bool:
    alice = await swarm.client()
    tokens, _ = await tokens_of(alice, GenerateRequest(prompt_tokens=PROMPT, max_tokens=8, draft_max=2))
    return tokens == fake_text(TARGET, PROMPT, 8)


@pytest.mark.parametrize("clean", [True, False])
def test_bob_is_gone_and_one_of_the_twins_takes_his_layers_late(tmp_path: Path, clean: bool) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path) as swarm:
            await swarm.add("dora", drafts=True)
            twins = [await free(swarm, name, (0, 2)) for name in ("sam", "sue")]
            bob = await free(swarm, "bob", (2, 4))
            assert await answers(swarm)
            if clean:
                swarm.dead.append(swarm.members.pop("bob"))
                await bob.node.close()
            else:
                await swarm.kill("bob")
            await asyncio.sleep(PATIENCE_S / 2)
            assert [one.node.layers for one in twins] == [(0, 2), (0, 2)]
            await asyncio.sleep(LATE_S)
            assert sorted(layers_of(swarm).values()) == [(0, 2), (2, 4)]
            assert await answers(swarm)
            await asyncio.sleep(4 * LATE_S)
            assert sorted(layers_of(swarm).values()) == [(0, 2), (2, 4)]

    jumping.run(story())


def test_bob_is_back_in_time_and_nobody_moves(tmp_path: Path) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path) as swarm:
            await swarm.add("dora", drafts=True)
            for name in ("sam", "sue"):
                await free(swarm, name, (0, 2))
            await free(swarm, "bob", (2, 4))
            await swarm.kill("bob")
            await asyncio.sleep(PATIENCE_S / 3)
            await free(swarm, "bert", (2, 4))
            await asyncio.sleep(3 * LATE_S)
            assert layers_of(swarm) == {"sam": (0, 2), "sue": (0, 2), "bert": (2, 4)}
            assert await answers(swarm)

    jumping.run(story())


class Unmeasured(FakeEngine):
    """That is lost as soon as it is to compute something."""

    async def forward(self, chunks: Sequence[Chunk]) -> list[Output]:
        raise EngineLost("it died")


async def told(
    swarm: FakeSwarm, first: FakeEngine, then: Callable[..., FakeEngine]
) -> tuple[Member, list[FakeEngine], Event]:
    """Sam, who is to leave the engine `first` for one of another kind when that is set; all that he has had."""
    engines, leaves = list[FakeEngine](), Event()

    async def shard(discovery: Discovery) -> FakeEngine:
        engines.append(then(TARGET, 2, 4) if engines else first)
        return engines[-1]

    async def moves(discovery: Discovery, pings: Pings, own: ProviderRecord) -> bool:
        await leaves.wait()
        leaves.clear()
        return True

    return await swarm.add("sam", layers=(0, 4), shard=shard, moves=moves), engines, leaves


def test_who_is_closed_while_replies_are_still_ending_leaves_no_engine_behind(tmp_path: Path) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path, cost=lambda num_positions: 0.05) as swarm:
            await swarm.add("dora", drafts=True)
            sam, [engine], leaves = await told(swarm, FakeEngine(TARGET, 0, 4, cost=swarm.cost), FakeEngine)
            alice = await swarm.client()
            request = GenerateRequest(prompt_tokens=PROMPT, max_tokens=2000, draft_max=2)
            reply = asyncio.ensure_future(tokens_of(alice, request))
            while not sam.node.status().sessions.shard:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            leaves.set()
            while sam.node.layers is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            assert sam.node.status().sessions.shard and engine.available
            await sam.node.close()
            assert engine.quarantined == "closed" and not sam.node._stage
            reply.cancel()

    jumping.run(story())


def test_layers_that_cannot_be_hosted_are_not_offered_and_tried_again_later(tmp_path: Path) -> None:
    """Sam has not said no for good: a program that took all of his memory ends."""
    kind: list[type[FakeEngine]] = [Unmeasured]

    async def story() -> None:
        async with fake_swarm(tmp_path) as swarm:
            sam, engines, leaves = await told(swarm, FakeEngine(TARGET, 0, 4), lambda *shard: kind[0](*shard))
            leaves.set()
            await asyncio.sleep(60)
            assert [one.quarantined for one in engines] == ["closed", "closed"]
            assert not sam.node._records()
            kind[0] = FakeEngine
            await asyncio.sleep(AGAIN_S)
            assert sam.node.layers == (2, 4)
            assert [(one.start, one.end) for one in sam.node._records()] == [(2, 4)]

    jumping.run(story())
