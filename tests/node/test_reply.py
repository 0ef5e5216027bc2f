"""Replies through whole nodes: client, drafter and shards of an in-memory swarm, on the deterministic fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.engine.fake import fake_text
from dsdnode.errors import NoPipeline
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
    request = GenerateRequest(prompt_tokens=PROMPT, max_tokens=40, temperature=temperature, seed=7, draft_max=window)
    tokens, finished = await tokens_of(alice, request)
    expected = fake_text(TARGET, PROMPT, 40, Sampling(temperature=temperature, seed=7))
    if 0 in expected:  # the fake's end of a reply
        expected = expected[: expected.index(0)]
    assert tokens == expected
    assert len(finished.stats.pipeline) == num_shards
    assert (finished.stats.drafted > 0) == (window > 0)


async def ring(swarm: FakeSwarm, *extra: tuple[str, tuple[int, int]]) -> None:
    await swarm.add("dora", drafts=True, patience_s=10.0)
    await swarm.add("sam", layers=(0, 2))
    await swarm.add("sue", layers=(2, 4))
    for name, layers in extra:
        await swarm.add(name, layers=layers)


REQUEST = GenerateRequest(prompt_tokens=PROMPT, max_tokens=60, seed=3, temperature=0.5, draft_max=4)
EXPECTED = fake_text(TARGET, PROMPT, 60, Sampling(temperature=0.5, seed=3))


async def hurt_after(
    client: Client, num_tokens: int, hurt: Callable[[], Awaitable[None]]
) -> tuple[list[int], Finished]:
    """A whole reply, with `hurt` awaited once in its middle."""
    tokens: list[int] = []
    done = False
    async for event in client.generate(REQUEST):
        if isinstance(event, Finished):
            assert done
            return tokens, event
        tokens.extend(event.tokens)
        if len(tokens) >= num_tokens and not done:
            done = True
            await hurt()
    raise AssertionError("a reply ends with Finished")


@pytest.mark.parametrize("victim", ["sam", "sue"])
async def test_a_stage_dies_and_its_replica_goes_on_with_the_same_text(swarm: FakeSwarm, victim: str) -> None:
    await ring(swarm, ("sid", (0, 2)), ("sol", (2, 4)))
    alice = await swarm.client()
    serving: dict[str, str] = {}

    async def kill_the_one_that_serves() -> None:
        [name] = [n for n, m in swarm.members.items() if m.shard and m.shard.num_cells and n in PLACES[victim]]
        serving["name"] = name
        await swarm.kill(name)

    tokens, finished = await hurt_after(alice, 20, kill_the_one_that_serves)
    assert tokens == EXPECTED
    assert finished.stats.recoveries >= 1
    assert serving["name"] not in swarm.members


PLACES = {"sam": ("sam", "sid"), "sue": ("sue", "sol")}


async def test_a_stage_dies_and_nobody_covers_its_layers(swarm: FakeSwarm) -> None:
    await ring(swarm)
    alice = await swarm.client(patience_s=2.0)
    tokens: list[int] = []
    with pytest.raises(NoPipeline, match="2:4"):
        async for event in alice.generate(REQUEST):
            if isinstance(event, Piece):
                tokens.extend(event.tokens)
            if len(tokens) >= 20 and "sue" in swarm.members:
                await swarm.kill("sue")
    assert len(tokens) >= 20
    assert tokens == EXPECTED[: len(tokens)]


async def test_a_worker_dies_under_a_stage_that_lives(swarm: FakeSwarm) -> None:
    await ring(swarm)
    alice = await swarm.client()

    async def abort() -> None:
        engine = swarm.members["sam"].shard
        assert engine is not None
        engine.die()

    tokens, finished = await hurt_after(alice, 20, abort)
    assert tokens == EXPECTED
    assert finished.stats.recoveries >= 1


async def test_the_draft_worker_dies_and_the_reply_goes_on(swarm: FakeSwarm) -> None:
    await ring(swarm)
    alice = await swarm.client()

    async def abort() -> None:
        engine = swarm.members["dora"].draft
        assert engine is not None
        engine.die()

    tokens, finished = await hurt_after(alice, 20, abort)
    assert tokens == EXPECTED
    assert finished.stats.recoveries == 0


async def test_the_drafter_dies_and_another_one_goes_on_with_the_same_text(swarm: FakeSwarm) -> None:
    await ring(swarm)
    await swarm.add("dan", drafts=True)
    alice = await swarm.client()

    async def kill_the_owner() -> None:
        [owner] = [n for n in ("dora", "dan") if swarm.members[n].node.status().sessions.drafter]
        await swarm.kill(owner)

    tokens, finished = await hurt_after(alice, 20, kill_the_owner)
    assert tokens == EXPECTED
    assert finished.stats.recoveries >= 1


async def test_the_last_drafter_dies(swarm: FakeSwarm) -> None:
    await ring(swarm)
    alice = await swarm.client(patience_s=2.0)
    with pytest.raises(NoPipeline, match="no drafter is left"):
        await hurt_after(alice, 20, lambda: swarm.kill("dora"))


async def test_stages_are_free_again_when_replies_are_over_or_left(swarm: FakeSwarm) -> None:
    await ring(swarm)
    alice = await swarm.client()
    await tokens_of(alice, REQUEST)
    async for event in alice.generate(REQUEST):
        if isinstance(event, Piece):
            break  # alice walks away
    nodes = [member.node for member in swarm.members.values()]
    async with asyncio.timeout(5):
        await asyncio.gather(*(node.drain() for node in nodes))
    for member in swarm.members.values():
        for engine in (member.shard, member.draft):
            assert engine is None or engine.num_cells == 0


async def test_several_clients_at_once_each_get_their_own_text(swarm: FakeSwarm) -> None:
    await ring(swarm)
    clients = [await swarm.client() for _ in range(4)]
    requests = [replace(REQUEST, seed=seed) for seed in range(4)]
    replies = await asyncio.gather(*(tokens_of(c, r) for c, r in zip(clients, requests, strict=True)))
    for seed, (tokens, _) in enumerate(replies):
        expected = fake_text(TARGET, PROMPT, 60, Sampling(temperature=0.5, seed=seed))
        assert tokens == (expected[: expected.index(0)] if 0 in expected else expected)


async def test_a_stop_string_ends_the_reply_and_is_not_shown(swarm: FakeSwarm) -> None:
    await ring(swarm)
    alice = await swarm.client()
    text = "".join([e.text async for e in alice.generate(REQUEST) if isinstance(e, Piece)])
    stop = text[20:23]
    stopped = replace(REQUEST, stop=(stop,))
    events = [event async for event in alice.generate(stopped)]
    shown = "".join(event.text for event in events if isinstance(event, Piece))
    assert shown == text[: text.index(stop)]
    assert isinstance(events[-1], Finished) and events[-1].reason == "stop"


async def test_a_reply_may_ignore_its_end_tokens(swarm: FakeSwarm) -> None:
    await ring(swarm)
    alice = await swarm.client()
    sampling = Sampling(temperature=1.5, seed=11)
    expected = fake_text(TARGET, PROMPT, 300, sampling)
    assert 0 in expected
    request = GenerateRequest(
        prompt_tokens=PROMPT, max_tokens=300, temperature=sampling.temperature, seed=sampling.seed, ignore_eos=True
    )
    tokens, finished = await tokens_of(alice, request)
    assert (tokens, finished.reason) == (expected, "length")
