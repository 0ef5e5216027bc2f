"""A stage that becomes slow in mid-reply: gone round where that pays, with the same text."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.engine.fake import fake_text
from dsdnode.speculation.sampling import Sampling
from tests.node import jumping
from tests.node.swarm import TARGET, FakeSwarm, fake_swarm

pytestmark = pytest.mark.slow

PROMPT = (5, 17, 42, 8)
REQUEST = GenerateRequest(prompt_tokens=PROMPT, max_tokens=80, seed=3, temperature=0.5, draft_max=2)
EXPECTED = fake_text(TARGET, PROMPT, 80, Sampling(temperature=0.5, seed=3))


def cost(num_positions: int) -> float:
    return 0.01 + 0.002 * num_positions


def slow(num_positions: int) -> float:
    return 5 * cost(num_positions)


async def reply(
    swarm: FakeSwarm, client: Client, slow_after: int | None = None
) -> tuple[list[int], Finished, set[str]]:
    """A whole reply; its first stage becomes slow in the middle."""
    tokens: list[int] = []
    async for event in client.generate(REQUEST):
        if isinstance(event, Finished):
            peers = {stage.peer_id for stage in event.stats.pipeline}
            return tokens, event, {name for name, m in swarm.members.items() if m.node.peer_id.hex() in peers}
        assert isinstance(event, Piece)
        tokens.extend(event.tokens)
        if slow_after is not None and len(tokens) >= slow_after:
            for name in ("sam", "sid"):
                member = swarm.members.get(name)
                if member is not None and member.node.status().sessions.shard:
                    assert member.shard is not None
                    member.shard._cost = slow
            slow_after = None
    raise AssertionError("a reply ends with Finished")


def test_a_stage_becomes_five_times_slower_and_its_replica_takes_over(tmp_path: Path) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path, cost=cost) as swarm:
            await swarm.add("dora", drafts=True)
            for name, layers in (("sam", (0, 2)), ("sid", (0, 2)), ("sue", (2, 4))):
                await swarm.add(name, layers=layers)
            alice = await swarm.client()
            tokens, finished, used = await reply(swarm, alice, slow_after=20)
            assert tokens == EXPECTED
            assert finished.stats.recoveries == 1
            [slowed] = [name for name in ("sam", "sid") if swarm.members[name].shard._cost is slow]
            assert slowed not in used
            for _ in range(4):  # and is remembered
                assert slowed not in (await reply(swarm, alice))[2]

    jumping.run(story())


def test_a_slow_stage_without_a_replica_is_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path, cost=cost) as swarm:
            await swarm.add("dora", drafts=True)
            for name, layers in (("sam", (0, 2)), ("sue", (2, 4))):
                await swarm.add(name, layers=layers)
            tokens, finished, used = await reply(swarm, await swarm.client(), slow_after=20)
            assert tokens == EXPECTED
            assert finished.stats.recoveries == 0
            assert used == {"sam", "sue"}

    jumping.run(story())
