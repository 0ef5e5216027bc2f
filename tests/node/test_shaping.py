"""Penalties, biases and log-probabilities through whole nodes: what the whole model would say, whatever is drafted and
whoever is lost on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dsdnode.client.client import Client, Finished, GenerateRequest
from dsdnode.wire.logprobs import SaidPosition
from tests.node.shaped import shaped_reply
from tests.node.swarm import TARGET, FakeSwarm, fake_swarm

PROMPT = (5, 17, 42, 8, 17, 23)
ASKED = GenerateRequest(
    prompt_tokens=PROMPT, max_tokens=60, temperature=0.6, seed=4, draft_max=8, ignore_eos=True,
    presence_penalty=0.8, frequency_penalty=0.3, repetition_penalty=1.4, logit_bias={7: 1.5, 9: -100.0, 11: 0.5},
    logprobs=3,
)  # fmt: skip
ALONE = {
    "presence": replace(ASKED, frequency_penalty=0.0, repetition_penalty=1.0, logit_bias={}),
    "frequency": replace(ASKED, presence_penalty=0.0, repetition_penalty=1.0, logit_bias={}),
    "repetition": replace(ASKED, presence_penalty=0.0, frequency_penalty=0.0, logit_bias={}),
    "the last 5": replace(ASKED, presence_penalty=0.0, frequency_penalty=0.0, repeat_last_n=5, logit_bias={}),
    "bias": replace(ASKED, presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0),
    "negative": replace(ASKED, presence_penalty=-0.5, frequency_penalty=-0.2, repetition_penalty=0.9, temperature=0.0),
    "all": ASKED,
}


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[FakeSwarm]:
    async with fake_swarm(tmp_path) as made:
        yield made


async def said(client: Client, request: GenerateRequest) -> tuple[list[int], list[SaidPosition]]:
    tokens: list[int] = []
    positions: list[SaidPosition] = []
    async for event in client.generate(request):
        if not isinstance(event, Finished):
            tokens.extend(event.tokens)
            positions.extend(event.logprobs)
    return tokens, positions


def check(request: GenerateRequest, tokens: list[int], positions: list[SaidPosition]) -> None:
    expected, logprobs = shaped_reply(TARGET, request)
    assert tokens == expected
    assert [one.said.token for one in positions] == expected
    for one, all_of_them in zip(positions, logprobs, strict=True):
        likeliest = sorted(all_of_them, key=lambda token: (-all_of_them[token], token))[: request.logprobs]
        assert [other.token for other in one.top] == likeliest
        for other in (one.said, *one.top):
            assert other.logprob == pytest.approx(all_of_them[other.token], abs=1e-4)


@pytest.mark.parametrize("name", ALONE)
async def test_alice_gets_the_shaped_text_with_every_window(swarm: FakeSwarm, name: str) -> None:
    await swarm.add("dora", drafts=True)
    await swarm.add("sam", layers=(0, 2))
    await swarm.add("sue", layers=(2, 4))
    alice = await swarm.client()
    plain = replace(ALONE[name], presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0, logit_bias={})
    assert shaped_reply(TARGET, ALONE[name])[0] != shaped_reply(TARGET, plain)[0], "or this would show nothing"
    for window, policy in ((0, ""), (8, "fixed"), (8, "stream:3:8"), (8, "hedged:2:8:2")):
        request = replace(ALONE[name], draft_max=window, window=policy)
        check(request, *await said(alice, request))
