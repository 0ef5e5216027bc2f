"""Relaxed replies through whole nodes: lax where alice allows it, and every token the model did not say is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dsdnode.client.client import GenerateRequest
from dsdnode.engine.fake import FakeTextEngine, fake_text
from dsdnode.speculation.acceptance import NUM_TOP, KeyTokens
from dsdnode.speculation.sampling import Sampling, draw
from tests.node.swarm import DRAFT, TARGET, FakeSwarm, fake_swarm, tokens_of

pytestmark = pytest.mark.slow

PROMPT = (5, 17, 42, 8)
REQUEST = GenerateRequest(prompt_tokens=PROMPT, max_tokens=300, seed=7, draft_max=4, threshold=0.5)


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[FakeSwarm]:
    async with fake_swarm(tmp_path) as made:
        await made.add("dora", drafts=True)
        await made.add("sam", layers=(0, 2))
        await made.add("sue", layers=(2, 4))
        yield made


def strangers(tokens: list[int], sampling: Sampling) -> dict[int, np.ndarray]:
    """Positions of the reply whose token the model would not have said there, with its logits."""
    found: dict[int, np.ndarray] = {}
    hashes: tuple[int, ...] = ()
    line = [*PROMPT, *tokens]
    for position, token in enumerate(line[:-1], 1):
        hashes = TARGET.step(hashes, 0, TARGET.num_layers, token)
        logits = TARGET.logits(hashes[-1])
        if position >= len(PROMPT) and draw(logits, position, sampling) != line[position]:
            found[position - len(PROMPT)] = logits
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("seed", range(3))
async def test_the_text_is_the_models_own_but_for_the_tokens_that_are_counted(
    swarm: FakeSwarm, temperature: float, seed: int
) -> None:
    alice = await swarm.client()
    request = replace(REQUEST, temperature=temperature, seed=seed)
    tokens, finished = await tokens_of(alice, request)
    relaxed = strangers(tokens, Sampling(temperature, seed=seed))
    assert finished.stats.relaxed == len(relaxed)
    keys = KeyTokens((await FakeTextEngine(DRAFT).vocabulary()).key_tokens)
    for index, logits in relaxed.items():
        assert tokens[index] not in keys
        assert np.exp(logits[tokens[index]] - logits.max()) >= 1 - (request.threshold or 0.0)
        assert (logits > logits[tokens[index]]).sum() < NUM_TOP


async def test_something_was_relaxed(swarm: FakeSwarm) -> None:
    """Or the tests above would show nothing."""
    alice = await swarm.client()
    relaxed = [(await tokens_of(alice, replace(REQUEST, seed=seed)))[1].stats.relaxed for seed in range(3)]
    assert sum(relaxed) > 0


async def test_without_a_threshold_nothing_is(swarm: FakeSwarm) -> None:
    alice = await swarm.client()
    tokens, finished = await tokens_of(alice, replace(REQUEST, threshold=0.0))
    expected = fake_text(TARGET, PROMPT, 300, Sampling(seed=7))
    assert tokens == (expected[: expected.index(0)] if 0 in expected else expected)
    assert finished.stats.relaxed == 0


async def test_who_names_no_key_tokens_gets_the_exact_text(swarm: FakeSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsdnode.engine.tokenizer.key_tokens", lambda *_: b"")
    alice = await swarm.client()
    tokens, finished = await tokens_of(alice, REQUEST)
    expected = fake_text(TARGET, PROMPT, 300, Sampling(seed=7))
    assert tokens == (expected[: expected.index(0)] if 0 in expected else expected)
    assert finished.stats.relaxed == 0
