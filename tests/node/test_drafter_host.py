"""What a drafter owes its clients at the edges: limits, words, places that are freed, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsdnode.client.client import Finished, GenerateRequest, Piece
from dsdnode.engine.fake import FakeModel, FakeTextEngine, fake_text
from dsdnode.errors import BadInput, DsdError, NoPipeline, Overloaded
from dsdnode.node.status import Sessions
from tests.node import jumping
from tests.node.rough import RoughHub
from tests.node.swarm import DRAFT, TARGET, FakeSwarm, fake_swarm, tokens_of

PROMPT = (5, 17, 42, 8)
REQUEST = GenerateRequest(prompt_tokens=PROMPT, max_tokens=60, draft_max=4)
EXPECTED = fake_text(TARGET, PROMPT, 60)


def story(folder: Path, tell: Callable[[FakeSwarm], Awaitable[None]], **options: Any) -> None:
    """In virtual time, on a network with latency, engines that take theirs."""

    async def told() -> None:
        options.setdefault("cost", lambda num: 0.01 + 0.002 * num)
        async with fake_swarm(folder, hub=RoughHub(), **options) as swarm:
            await tell(swarm)

    jumping.run(told())


async def all_free(swarm: FakeSwarm, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while any(member.node.status().sessions != Sessions() for member in swarm.members.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    for member in swarm.members.values():
        for engine in (member.shard, member.draft):
            assert engine is None or engine.num_cells == 0


async def some(events: AsyncIterator[Piece | Finished], num_tokens: int) -> list[int]:
    """The beginning of a reply."""
    tokens: list[int] = []
    while len(tokens) < num_tokens:
        piece = await anext(events)
        assert isinstance(piece, Piece)
        tokens += piece.tokens
    return tokens


def test_one_node_with_both_roles_answers_alone(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("ann", drafts=True, layers=(0, 4))
        tokens, finished = await tokens_of(await swarm.client(), REQUEST)
        assert tokens == EXPECTED
        assert finished.reason == "length"
        assert finished.stats.recoveries == 0
        await all_free(swarm, within_s=1)

    story(tmp_path, tell)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"prompt_tokens": tuple([7] * 4096)}, BadInput, "4096 tokens long; the context of fake here is 4096"),
        ({"prompt_tokens": (1, 97)}, BadInput, "token ids below 97"),
        ({"prompt_tokens": None, "prompt": ""}, BadInput, "empty"),
        ({"stop": ("x" * 257,)}, BadInput, "cannot be asked"),
        ({"prompt_tokens": None, "messages": [{"role": "user", "content": "x" * (1 << 20)}]}, BadInput, "too long"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(
    tmp_path: Path, changes: dict[str, Any], error: type[DsdError], words: str
) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("ann", drafts=True, layers=(0, 4))
        client = await swarm.client()
        with pytest.raises(error, match=words):
            await tokens_of(client, replace(REQUEST, **changes))
        await all_free(swarm, within_s=1)

    story(tmp_path, tell)


def test_a_prompt_of_one_token_and_one_that_leaves_room_for_three(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("ann", drafts=True, layers=(0, 4))
        client = await swarm.client()
        tokens, _ = await tokens_of(client, replace(REQUEST, prompt_tokens=(9,), max_tokens=10))
        assert tokens == fake_text(TARGET, (9,), 10)
        long = tuple(1 + i % 90 for i in range(4093))
        tokens, finished = await tokens_of(client, replace(REQUEST, prompt_tokens=long, draft_max=64))
        assert tokens == fake_text(TARGET, long, 3)
        assert finished.reason == "context"

    story(tmp_path, tell)


def test_a_client_that_falls_silent_is_noticed(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("ann", drafts=True, layers=(0, 4))
        client = await swarm.client()
        events = client.generate(REQUEST)
        await some(events, 1)
        swarm.hub.cuts.add(frozenset((client._rpc.transport._id, swarm.members["ann"].node.peer_id)))  # type: ignore[attr-defined]
        await all_free(swarm, within_s=11)
        await events.aclose()

    story(tmp_path, tell, cost=lambda num: 1.0)  # the reply takes half a minute


def test_a_client_that_hung_goes_on_where_it_was(tmp_path: Path) -> None:
    """As with Ctrl-Z and fg: what was sent meanwhile is lost, the text is not."""

    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("ann", drafts=True, layers=(0, 4))
        client = await swarm.client()
        events = client.generate(REQUEST)
        tokens = await some(events, 10)
        cut = frozenset((client._rpc.transport._id, swarm.members["ann"].node.peer_id))  # type: ignore[attr-defined]
        swarm.hub.cuts.add(cut)  # type: ignore[attr-defined]
        asyncio.get_running_loop().call_later(0.5, swarm.hub.cuts.discard, cut)  # type: ignore[attr-defined]
        async for event in events:
            if isinstance(event, Finished):
                assert event.stats.recoveries == 1
                assert event.stats.completion_tokens == 60
                assert event.stats.prompt_tokens == len(PROMPT)
            else:
                tokens += event.tokens
        assert tokens == EXPECTED

    story(tmp_path, tell)


def test_a_client_that_leaves_frees_everything_at_once(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        await swarm.add("sam", layers=(0, 2))
        await swarm.add("sue", layers=(2, 4))
        client = await swarm.client()
        for num_tokens in (0, 1, 30):
            task = asyncio.create_task(tokens_of(client, replace(REQUEST, max_tokens=2000)))
            await asyncio.sleep(0.02 * num_tokens)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await all_free(swarm, within_s=1)

    story(tmp_path, tell)


def test_an_owner_that_dies_does_not_hold_its_places_for_a_minute(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        for name in ("dora", "dan"):
            await swarm.add(name, drafts=True)
        await swarm.add("sam", layers=(0, 4), max_sessions=1)
        client = await swarm.client()
        events = client.generate(REQUEST)
        tokens = await some(events, 10)
        [owner] = [n for n in ("dora", "dan") if swarm.members[n].node.status().sessions.drafter]
        await swarm.kill(owner)
        loop = asyncio.get_running_loop()
        killed_s = loop.time()
        tokens += await some(events, 1)
        assert loop.time() - killed_s < 5
        async for event in events:
            tokens += event.tokens if isinstance(event, Piece) else ()
        assert tokens == EXPECTED

    story(tmp_path, tell)


@pytest.mark.slow
def test_more_replies_than_places_take_turns(tmp_path: Path) -> None:
    """Two owners each holding what the other waits for would wait for ever."""

    async def tell(swarm: FakeSwarm) -> None:
        for name in ("dora", "dan", "dee"):
            await swarm.add(name, drafts=True, max_sessions=2)
        await swarm.add("sam", layers=(0, 2), max_sessions=1)
        await swarm.add("sue", layers=(2, 4), max_sessions=1)
        clients = [await swarm.client() for _ in range(6)]
        replies = await asyncio.gather(*(tokens_of(client, REQUEST) for client in clients))
        assert all(tokens == EXPECTED for tokens, _ in replies)
        await all_free(swarm, within_s=1)

    story(tmp_path, tell)


def test_places_that_stay_taken_are_called_so(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True, patience_s=30.0)
        await swarm.add("sam", layers=(0, 4), max_sessions=1)
        alice, bob = await swarm.client(), await swarm.client(patience_s=30.0)
        events = alice.generate(replace(REQUEST, max_tokens=4000))
        await some(events, 10)
        with pytest.raises(Overloaded, match="sessions are taken"):
            await tokens_of(bob, REQUEST)
        await events.aclose()

    story(tmp_path, tell, cost=lambda num: 0.2)


def test_a_drafter_that_is_told_to_stop_ends_its_reply_and_sends_the_next_elsewhere(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        for name in ("dora", "dan"):
            await swarm.add(name, drafts=True)
        await swarm.add("sam", layers=(0, 4))
        client = await swarm.client()
        events = client.generate(REQUEST)
        tokens = await some(events, 10)
        [owner] = [n for n in ("dora", "dan") if swarm.members[n].node.status().sessions.drafter]
        drain = asyncio.create_task(swarm.members[owner].node.drain())
        other, _ = await tokens_of(await swarm.client(), REQUEST)
        async for event in events:
            tokens += event.tokens if isinstance(event, Piece) else ()
        assert tokens == other == EXPECTED
        async with asyncio.timeout(1):
            await drain

    story(tmp_path, tell)


def test_a_draft_worker_that_restarts_or_stays_away_holds_nobody_up(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        await swarm.add("sam", layers=(0, 4))
        draft = swarm.members["dora"].draft
        assert draft is not None
        client = await swarm.client()
        events = client.generate(REQUEST)
        tokens = await some(events, 10)
        for _ in range(3):
            draft.die()
            tokens += await some(events, 5)
        await draft.close()
        async for event in events:
            tokens += event.tokens if isinstance(event, Piece) else ()
        assert tokens == EXPECTED

    story(tmp_path, tell)


def test_a_reply_begins_while_the_draft_worker_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads its text is another process."""

    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        await swarm.add("sam", layers=(0, 4))
        client = await swarm.client()
        prompt = await FakeTextEngine(DRAFT).render([("user", "hello")])
        monkeypatch.setattr(FakeTextEngine, "available", False)
        request = GenerateRequest(messages=({"role": "user", "content": "hello"},), max_tokens=8)
        tokens, finished = await tokens_of(client, request)
        assert tokens == fake_text(TARGET, prompt, 8) and finished.stats.drafted == 0

    story(tmp_path, tell)


def test_two_models_in_one_swarm(tmp_path: Path) -> None:
    other = FakeModel(vocab_size=90, num_layers=2)

    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("ann", drafts=True, layers=(0, 4))
        await swarm.add("abe", layers=(0, 4))
        await swarm.add("bob", drafts=True, layers=(0, 2), target=other, draft=replace(DRAFT, vocab_size=90))
        client = await swarm.client()
        for name in (None, "fake"):
            tokens, _ = await tokens_of(client, replace(REQUEST, model=name))
            assert tokens == EXPECTED, "what most host; both are called so"
        by_size = {model.num_layers: model.model_id for model in await client.models()}
        for size, model in ((4, TARGET), (2, other)):
            tokens, _ = await tokens_of(client, replace(REQUEST, model=by_size[size][: 8 * size]))
            expected = fake_text(model, PROMPT, 60)
            assert tokens == (expected[: expected.index(0)] if 0 in expected else expected)
        await swarm.kill("bob")
        with pytest.raises(NoPipeline):
            await tokens_of(client, replace(REQUEST, model=by_size[2]))

    story(tmp_path, tell)
