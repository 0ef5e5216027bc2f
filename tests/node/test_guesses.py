"""Sue has the last layers, and a block behind them that guesses at what comes next: dora, who has no draft model, asks
her for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from dsdnode.client.client import GenerateRequest
from dsdnode.engine.fake import FakeEngine, fake_text
from dsdnode.swarm.discovery import Discovery
from tests.node.swarm import fake_swarm, tokens_of
from tests.node.test_nodraft import SAM_S
from tests.node.test_texts import READS

pytestmark = pytest.mark.usefixtures("quiet")
PROMPT = (3, 1, 4, 1, 5)
ASKED = GenerateRequest(prompt_tokens=PROMPT, max_tokens=60, ignore_eos=True)
RIGHT_OF_TEN = 7


def guesses(tokens: Sequence[int], num: int) -> list[int]:
    """Seven of ten are right."""
    right = fake_text(SAM_S, tokens, num)
    dice = sha256(repr(tokens[-3:]).encode()).digest()
    return [
        token if die % 10 < RIGHT_OF_TEN else (token + 1) % SAM_S.vocab_size
        for token, die in zip(right, dice, strict=False)
    ]


async def sue(discovery: Discovery) -> FakeEngine:
    return FakeEngine(SAM_S, 2, 4, guess=guesses)


def test_what_sue_guesses_makes_fewer_passes(tmp_path: Path) -> None:
    async def tell() -> None:
        async with fake_swarm(tmp_path) as swarm, asyncio.timeout(60):
            await swarm.add("sam", layers=(0, 2), target=SAM_S)
            await swarm.add("sue", layers=(2, 4), target=SAM_S, shard=sue)
            await swarm.add("dora", drafts=True, texts=READS, no_draft_model=True)
            client = await swarm.client()
            tokens, finished = await tokens_of(client, ASKED)
            print(finished.stats)
            assert tokens == fake_text(SAM_S, PROMPT, 60)
            assert finished.stats.passes < 40

    asyncio.run(tell())
