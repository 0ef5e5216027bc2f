"""Whom alice believes what is said of her reply: the drafter that she asked, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dsdnode.client import client as client_module
from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.engine.fake import fake_text
from dsdnode.net.rpc import Rpc
from dsdnode.wire import replies
from dsdnode.wire.codec import encode_body
from dsdnode.wire.tensors import pack_tokens
from tests.node.swarm import TARGET, FakeSwarm
from tests.node.test_drafter_host import some, story

PROMPT = (5, 17, 42, 8)
REQUEST = GenerateRequest(prompt_tokens=PROMPT, max_tokens=60, draft_max=4)
EXPECTED = fake_text(TARGET, PROMPT, 60)


def id_of(client: Client) -> bytes:
    return client._discovery._own_id


def request_of(client: Client) -> bytes:
    """What the reply in progress is called: whoever overhears or guesses it can speak of it."""
    [request] = client._inboxes
    return request


def lie(mallory: Rpc, alice: Client, index: int) -> None:
    """A piece of the reply, and its end."""
    request, told = request_of(alice), replies.Statistics(completion_tokens=index + 1)
    mallory.notify(id_of(alice), replies.Piece(request, index, 0), [pack_tokens([1]), b"!"])
    mallory.notify(id_of(alice), replies.Finished(request, "stop"), [encode_body(told)])


async def rest(events: AsyncIterator[Piece | Finished], tokens: list[int]) -> Finished:
    async for event in events:
        if isinstance(event, Finished):
            return event
        tokens += event.tokens
    raise AssertionError("a reply ends with Finished")


async def ring(swarm: FakeSwarm, *drafters: str) -> None:
    for name in drafters:
        await swarm.add(name, drafts=True)
    await swarm.add("sam", layers=(0, 4))


def test_mallory_can_neither_write_in_alice_s_reply_nor_end_it(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice, mallory = await swarm.client(), swarm.stranger("mallory")
        events = alice.generate(REQUEST)
        tokens = await some(events, 5)
        for index in range(60):
            lie(mallory, alice, index)
        finished = await rest(events, tokens)
        assert (tokens, finished.reason, finished.stats.recoveries) == (EXPECTED, "length", 0)

    story(tmp_path, tell)


def test_mallory_leaves_and_alice_s_reply_goes_on_where_it_was(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice, mallory = await swarm.client(), swarm.stranger("mallory")
        events = alice.generate(REQUEST)
        tokens = await some(events, 5)
        lie(mallory, alice, 5)
        await mallory.close()
        finished = await rest(events, tokens)
        assert (tokens, finished.stats.recoveries) == (EXPECTED, 0)

    story(tmp_path, tell)


def test_mallory_s_words_take_no_room_from_the_drafter_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_QUEUED_NOTICES", 200)

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora")
        alice, mallory = await swarm.client(), swarm.stranger("mallory")
        events = alice.generate(REQUEST)
        tokens = await some(events, 5)
        for _ in range(100):
            lie(mallory, alice, 5)
        await asyncio.sleep(0.5)  # alice's terminal is slow: she has read nothing of it yet
        finished = await rest(events, tokens)
        assert (tokens, finished.stats.recoveries) == (EXPECTED, 0)

    story(tmp_path, tell)


def test_mallory_s_words_are_no_sign_that_the_drafter_lives(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "dan")
        alice, mallory = await swarm.client(), swarm.stranger("mallory")
        events = alice.generate(REQUEST)
        tokens = await some(events, 5)
        [owner] = [n for n in ("dora", "dan") if swarm.members[n].node.status().sessions.drafter]
        swarm.hub.cuts.add(frozenset((id_of(alice), swarm.members[owner].node.peer_id)))  # type: ignore[attr-defined]
        loop = asyncio.get_running_loop()
        talking = asyncio.create_task(_talk(mallory, alice))
        cut_s = loop.time()
        async with asyncio.timeout(60):
            finished = await rest(events, tokens)
        talking.cancel()
        assert (tokens, finished.stats.recoveries) == (EXPECTED, 1)
        assert loop.time() - cut_s < 15

    story(tmp_path, tell)


async def _talk(mallory: Rpc, alice: Client) -> None:
    while True:
        lie(mallory, alice, 999)
        await asyncio.sleep(0.5)
