"""Replies through whole nodes: client, drafter and shards of an in-memory swarm, on the deterministic fake engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dsdnode.engine.fake import fake_text
from dsdnode.node.client import GenerateRequest
from dsdnode.speculation.sampling import Sampling
from tests.node.swarm import TARGET, FakeSwarm, fake_swarm, tokens_of

PROMPT = (5, 17, 42, 8)


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[FakeSwarm]:
    async with fake_swarm(tmp_path) as made:
        yield made


@pytest.mark.parametrize("num_shards", [1, 2, 4])
@pytest.mark.parametrize("window", [0, 1, 4, 8])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_alice_gets_what_the_whole_model_would_say(
    swarm: FakeSwarm, num_shards: int, window: int, temperature: float
) -> None:
    await swarm.add("dora", drafts=True)
    size = TARGET.num_layers // num_shards
    for i in range(num_shards):
        await swarm.add(f"shard {i}", layers=(i * size, (i + 1) * size))
    alice = await swarm.client()
    request = GenerateRequest(
        prompt_tokens=PROMPT, max_tokens=40, temperature=temperature, seed=7, draft_max=window
    )
    tokens, finished = await tokens_of(alice, request)
    expected = fake_text(TARGET, PROMPT, 40, Sampling(temperature=temperature, seed=7))
    if 0 in expected:  # the fake's end of a reply
        expected = expected[: expected.index(0)]
    assert tokens == expected
    assert len(finished.stats["pipeline"]) == num_shards
    assert (finished.stats["drafted"] > 0) == (window > 0)
