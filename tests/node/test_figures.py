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
