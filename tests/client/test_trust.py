"""Whom alice believes what is said of her reply: the drafter that she asked, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsdnode.client import asking
from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.errors import NoPipeline
from dsdnode.net.rpc import Rpc
from dsdnode.swarm.pings import PING_TIMEOUT_S
from dsdnode.wire import replies
from dsdnode.wire.codec import encode_body
from dsdnode.wire.numbers import pack_tokens
from tests.node.mallory import EXPECTED, PROMPT, REQUEST, id_of, request_of, rest
from tests.node.swarm import FakeSwarm
from tests.node.test_drafter_host import some, story


def lie(mallory: Rpc, alice: Client, index: int) -> None:
    """A piece of the reply, and its end."""
    request, told = request_of(alice), replies.Statistics(completion_tokens=index + 1)
    mallory.notify(id_of(alice), replies.Piece(request, index, 0), [pack_tokens([1]), b"!"])
    mallory.notify(id_of(alice), replies.Finished(request, "stop"), [encode_body(told)])


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
    monkeypatch.setattr(asking, "MAX_QUEUED_NOTICES", 200)

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


def test_a_drafter_that_does_not_even_answer_a_ping_is_not_waited_for(tmp_path: Path) -> None:
    """It has ten seconds for a prompt and a lookup, and is gone. Either of the two may be asked first."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, "dora", "dan")
        alice = await swarm.client()
        swarm.hub.cuts.add(frozenset((id_of(alice), swarm.members["dora"].node.peer_id)))  # type: ignore[attr-defined]
        loop = asyncio.get_running_loop()
        for _ in range(6):
            asked_s, tokens = loop.time(), list[int]()
            await rest(alice.generate(REQUEST), tokens)
            assert tokens == EXPECTED
            assert loop.time() - asked_s < PING_TIMEOUT_S
            alice._pings._silent.clear()

    story(tmp_path, tell)


# --- a drafter that lies


async def asked_of(swarm: FakeSwarm, says: Sequence[tuple[Any, list[bytes]]]) -> Client:
    """Alice, in a swarm whose only drafter is mallory: she accepts, and then says this, all at once."""
    await swarm.add("sam", layers=(0, 4))
    mallory = await swarm.add("mallory", drafts=True)
    rpc = mallory.node.rpc

    async def generate(peer: bytes, message: replies.Generate, buffers: list[bytes]) -> Any:
        for told, buffer in says:
            named = msgspec.structs.replace(told, request=message.request)
            asyncio.get_running_loop().call_later(0.1, rpc.notify, peer, named, buffer)
        assert mallory.draft is not None
        return replies.Accepted(message.request, mallory.draft.shard.model_id), [pack_tokens(list(PROMPT))]

    rpc.on_request(replies.Generate, generate)
    return await swarm.client()


def test_a_drafter_s_words_are_shown_without_what_would_move_the_cursor(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice = await asked_of(swarm, [(replies.Finished(bytes(16), "", "NoPipeline", "gone\x1b[2J"), [])])
        with pytest.raises(NoPipeline, match=r"^gone\?\[2J$"):
            await rest(alice.generate(REQUEST), [])

    story(tmp_path, tell)


def test_why_it_ended_is_shown_so_too(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        told = encode_body(replies.Statistics(completion_tokens=0))
        alice = await asked_of(swarm, [(replies.Finished(bytes(16), "stop\x1b[2J"), [told])])
        assert (await rest(alice.generate(REQUEST), [])).reason == "stop?[2J"

    story(tmp_path, tell)


@pytest.mark.parametrize(("limit", "each"), [("MAX_QUEUED_NOTICES", 1), ("MAX_QUEUED_BYTES", 5)])
def test_a_drafter_cannot_fill_the_memory_of_a_client_that_does_not_read(tmp_path: Path, limit: str, each: int) -> None:
    most = 50

    async def tell(swarm: FakeSwarm, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(asking, limit, most * each)
        says = [(replies.Piece(bytes(16), index, 0), [pack_tokens([1]), b"!"]) for index in range(4 * most)]
        alice = await asked_of(swarm, says)
        events = alice.generate(GenerateRequest(prompt_tokens=PROMPT, max_tokens=500))
        await some(events, 1)
        await asyncio.sleep(1)
        [inbox] = alice._askings.inboxes.values()
        assert inbox.notices.qsize() == most
        await events.aclose()

    with pytest.MonkeyPatch.context() as patch:
        story(tmp_path, lambda swarm: tell(swarm, patch))


def test_a_drafter_s_words_do_not_fill_a_screen(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        says: list[tuple[Any, list[bytes]]] = [(replies.Waiting(bytes(16), f"for {n}"), []) for n in range(200)]
        alice, heard = await asked_of(swarm, says), list[str]()
        with pytest.raises(NoPipeline):
            async for _ in alice.generate(REQUEST, heard.append):
                pass
        assert 1 <= sum(words.startswith("for") for words in heard) <= 2  # he is asked twice

    story(tmp_path, tell)


@pytest.mark.parametrize("num_before", [0, 2])
def test_a_drafter_that_sends_text_without_end_is_left(tmp_path: Path, num_before: int) -> None:
    """It would never be over: text is no progress, and silence there is none."""

    async def tell(swarm: FakeSwarm) -> None:
        says = [(replies.Piece(bytes(16), index, 0), [pack_tokens([1]), b"!"]) for index in range(num_before)]
        says += [(replies.Piece(bytes(16), num_before, 0), [b"", b"and so on, "])] * 300
        alice, texts = await asked_of(swarm, says), list[str]()
        with pytest.raises(NoPipeline, match="gap" if num_before else "after the end of the reply"):
            async for event in alice.generate(REQUEST):
                assert isinstance(event, Piece)
                texts += [event.text] if not event.tokens else []
        assert len(texts) == (num_before > 0)  # what comes before any token is not shown

    story(tmp_path, tell)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_a_drafter_that_gives_more_than_was_asked_for_is_left(tmp_path: Path, at_once: int) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        ids = pack_tokens([1] * at_once)
        says = [(replies.Piece(bytes(16), index, 0), [ids, b"!"]) for index in range(0, 300, at_once)]
        alice, num = await asked_of(swarm, says), 0
        with pytest.raises(NoPipeline):
            async for event in alice.generate(REQUEST):
                assert isinstance(event, Piece)
                num += len(event.tokens)
        assert num <= REQUEST.max_tokens

    story(tmp_path, tell)


@pytest.mark.parametrize("size_bytes", [20_000, 1 << 22])
def test_a_drafter_that_sends_a_book_with_a_token_is_left(tmp_path: Path, size_bytes: int) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        says = [(replies.Piece(bytes(16), index, 0), [pack_tokens([1]), b"x" * size_bytes]) for index in range(5)]
        alice = await asked_of(swarm, says)
        with pytest.raises(NoPipeline, match="more text than"):
            await rest(alice.generate(REQUEST), [])

    story(tmp_path, tell)
