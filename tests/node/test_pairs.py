"""A draft model with other rows than the target's: padding, in the one or the other, changes no text."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from dsdnode.client.client import GenerateRequest
from dsdnode.engine.fake import FakeModel, fake_text
from tests.node.swarm import DRAFT, TARGET, FakeSwarm, fake_swarm, tokens_of

PROMPT = (5, 17, 42, 8)
REQUEST = GenerateRequest(prompt_tokens=PROMPT, max_tokens=80, draft_max=4, ignore_eos=True)


def padded(model: FakeModel, rows: int) -> FakeModel:
    return replace(model, vocab_size=model.vocab_size + rows, padding=rows)


async def answer(swarm: FakeSwarm, target: FakeModel, draft: FakeModel, request: GenerateRequest) -> list[int]:
    await swarm.add("alice", layers=(0, 4), target=target)
    await swarm.add("bob", drafts=True, draft=draft)
    tokens, finished = await tokens_of(await swarm.client(), request)
    assert finished.stats.drafted > 0
    return tokens


@pytest.mark.parametrize(("in_target", "in_draft"), [(0, 1), (1, 0), (30, 0), (0, 300), (9, 40)])
def test_padding_changes_no_text(in_target: int, in_draft: int, tmp_path: Path, quiet: None) -> None:
    """Engines whose padding is as likely as anything: both meet ids that the other does not have."""
    target, draft = padded(TARGET, in_target), padded(DRAFT, in_draft)

    async def told() -> None:
        async with fake_swarm(tmp_path) as swarm:
            assert await answer(swarm, target, draft, REQUEST) == fake_text(target, PROMPT, 80)

    asyncio.run(told())


def test_a_longer_draft_vocabulary_names_no_key_tokens_that_the_target_lacks(tmp_path: Path, quiet: None) -> None:
    """Relaxed: the bitmap of key tokens is the drafter's, and a stage takes none longer than its own vocabulary."""
    relaxed = replace(REQUEST, threshold=0.3)

    async def told() -> None:
        async with fake_swarm(tmp_path) as swarm:
            assert len(await answer(swarm, TARGET, padded(DRAFT, 300), relaxed)) == 80

    asyncio.run(told())


def test_a_stranger_s_model_of_the_same_name_keeps_no_drafter_from_starting(tmp_path: Path, quiet: None) -> None:
    """Whichever of the models of that name comes last, some tokenizer of it is hers."""

    async def told() -> None:
        async with fake_swarm(tmp_path) as swarm:
            await swarm.add("sam", layers=(0, 4))
            for number in range(4):
                await swarm.add(f"mallory {number}", layers=(0, 4), target=FakeModel(vocab_size=50 + number))
            await swarm.add("dora", drafts=True)

    asyncio.run(told())
