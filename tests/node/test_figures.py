"""What the last line of a reply says is so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dsdnode.client.client import GenerateRequest
from tests.node import jumping
from tests.node.rough import RoughHub
from tests.node.swarm import fake_swarm, tokens_of

pytestmark = pytest.mark.slow

REQUEST = GenerateRequest(prompt_tokens=(5, 17, 42, 8), max_tokens=200)


@pytest.mark.parametrize("window", ["fixed", "awc", "throughput", "stream:1:8", "hedged:2:8:1"])
def test_plain_decoding_is_as_fast_as_its_estimate(tmp_path: Path, window: str) -> None:
    """Alice is told what speculation gained; here she can check it, on links of 10 ms."""

    async def tell() -> None:
        async with fake_swarm(tmp_path, hub=RoughHub(0.01), cost=lambda num: 0.014 + 0.003 * num) as swarm:
            await swarm.add("dora", drafts=True)
            await swarm.add("sam", layers=(0, 2))
            await swarm.add("sue", layers=(2, 4))
            client = await swarm.client()
            _, drafted = await tokens_of(client, replace(REQUEST, window=window))
            _, plain = await tokens_of(client, replace(REQUEST, draft_max=0))
            estimate, measured = drafted.stats.plain_tokens_per_second, plain.stats.tokens_per_second
            assert estimate == pytest.approx(measured, rel=0.1)
            assert plain.stats.plain_tokens_per_second == pytest.approx(measured, rel=0.03)

    jumping.run(tell())


@pytest.mark.parametrize(("byte_s", "low", "high"), [(0.0, 0.0, 0.02), (1e-4, 0.1, 0.5)])
def test_links_are_called_the_limit_where_they_are(tmp_path: Path, byte_s: float, low: float, high: float) -> None:
    """A state of 64 bytes takes 6.4 ms on a link of 80 kbit/s, on which all else that a pass sends takes 0.1 s."""
    prompt = tuple(range(1, 61))

    async def tell() -> None:
        async with fake_swarm(tmp_path, hub=RoughHub(0.01, byte_s), cost=lambda num: 0.014 + 0.003 * num) as swarm:
            await swarm.add("dora", drafts=True)
            await swarm.add("sam", layers=(0, 2))
            await swarm.add("sue", layers=(2, 4))
            client = await swarm.client()
            for draft_max in (0, 4):
                asked = replace(REQUEST, prompt_tokens=prompt, max_tokens=40, draft_max=draft_max, window="fixed")
                _, told = await tokens_of(client, asked)
                assert told.stats.wire == "f32" and told.stats.links_share is not None
                assert low <= told.stats.links_share <= high

    jumping.run(tell())
