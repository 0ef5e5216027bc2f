"""Many users of one swarm, in virtual time: engines shared by all, drafts too, and nobody left waiting."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.engine.fake import fake_text
from dsdnode.pacing.fits import SHARED_POSITIONS
from dsdnode.speculation.sampling import Sampling
from tests.node import jumping
from tests.node.swarm import TARGET, FakeSwarm, fake_swarm

pytestmark = pytest.mark.slow

NUM = 16
MAX_TOKENS = 60
PROMPT = (5, 17, 42)


def cost(num_positions: int) -> float:
    """Seconds: a volunteer's CPU, with a model of its size."""
    return 0.010 + 0.002 * num_positions


def expected(prompt: tuple[int, ...], seed: int, max_tokens: int = MAX_TOKENS) -> list[int]:
    text = fake_text(TARGET, prompt, max_tokens, Sampling(temperature=0.5, seed=seed))
    return text[: text.index(0)] if 0 in text else text


async def reply(client: Client, seed: int, prompt: tuple[int, ...] = PROMPT) -> list[float]:
    """When each token came, after the start."""
    loop = asyncio.get_running_loop()
    begun, times, tokens = loop.time(), [], list[int]()
    request = GenerateRequest(
        prompt_tokens=prompt, max_tokens=MAX_TOKENS, seed=seed, temperature=0.5, draft_max=3
    )  # fmt: skip
    async for event in client.generate(request):
        if isinstance(event, Piece):
            tokens += event.tokens
            times += [loop.time() - begun] * len(event.tokens)
        elif isinstance(event, Finished):
            assert tokens == expected(prompt, seed)
    return times


async def grow(swarm: FakeSwarm) -> None:
    await swarm.add("dora", drafts=True, max_sessions=NUM)
    for name, layers in (("sam", (0, 2)), ("sue", (2, 4))):
        await swarm.add(name, layers=layers, max_sessions=NUM)


def test_sixteen_at_once_get_alike_and_together_far_more_than_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path, cost=cost) as swarm:
            await grow(swarm)
            clients = [await swarm.client() for _ in range(NUM)]
            alone = await reply(clients[0], 1)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            seeds = [seed for seed in range(1, 200) if len(expected(PROMPT, seed)) == MAX_TOKENS][:NUM]
            many = await asyncio.gather(*(reply(clients[i], seed) for i, seed in enumerate(seeds)))
            took_s = loop.time() - begun
            speeds = [len(times) / times[-1] for times in many]
            jain = sum(speeds) ** 2 / (NUM * sum(speed**2 for speed in speeds))
            together = sum(map(len, many)) / took_s
            print(f"alone {len(alone) / alone[-1]:.1f} tok/s, {NUM} together {together:.1f} tok/s, Jain {jain:.4f}")
            assert jain > 0.95
            assert together > 2.5 * len(alone) / alone[-1]

    jumping.run(story())


@pytest.mark.parametrize("num_prompt", [300, 1000])
def test_three_who_chat_hardly_notice_a_long_prompt(num_prompt: int, tmp_path: Path) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path, cost=cost) as swarm:
            await grow(swarm)
            clients = [await swarm.client() for _ in range(4)]
            calm = await asyncio.gather(*(reply(clients[i], i + 1) for i in range(3)))
            long = tuple(1 + i % 90 for i in range(num_prompt))
            *busy, heavy = await asyncio.gather(
                *(reply(clients[i], i + 1) for i in range(3)), reply(clients[3], 9, long)
            )  # fmt: skip
            for before, now in zip(calm, busy, strict=True):
                worst_s = max(later - sooner for sooner, later in pairwise(now))
                print(f"longest gap {worst_s:.3f} s, whole reply {now[-1]:.2f} s (calm {before[-1]:.2f} s)")
                assert worst_s < 3 * 2 * cost(SHARED_POSITIONS)  # at each engine: the decode in progress, the own
            print(f"first token of the long prompt {heavy[0]:.2f} s")

    jumping.run(story())


def test_replies_spread_over_replicas(tmp_path: Path) -> None:
    async def story() -> None:
        async with fake_swarm(tmp_path, cost=cost) as swarm:
            await grow(swarm)
            await swarm.add("sid", layers=(0, 2), max_sessions=NUM)
            await swarm.add("sol", layers=(2, 4), max_sessions=NUM)
            clients = [await swarm.client() for _ in range(8)]
            replies = asyncio.gather(*(reply(client, 1) for client in clients))
            await asyncio.sleep(0.5)
            for one, other in (("sam", "sid"), ("sue", "sol")):
                counts = [swarm.members[name].node.status().sessions.shard for name in (one, other)]
                assert sum(counts) == 8
                assert min(counts) >= 2
            await replies

    jumping.run(story())
