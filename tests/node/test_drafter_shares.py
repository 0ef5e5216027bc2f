"""Mallory fills a drafter: its places, its reader of texts, its memory of conversations. Alice and carol are served."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from dsdnode.accounts import ASKED_S, TURN_S
from dsdnode.client.client import Client
from dsdnode.engine.fake import FakeTextEngine
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import Message, WireSampling
from dsdnode.wire.replies import Accepted, Finished, Generate, GenerateBody
from tests.node.mallory import EXPECTED, PROMPT, REQUEST, Mallory, rest, ring
from tests.node.swarm import TARGET, FakeSwarm, Member
from tests.node.test_accounts import ELSEWHERE, HERS, names
from tests.node.test_drafter_host import some, story


async def talkers(
    swarm: FakeSwarm, dora: Member, hers: list[Mallory], number: int, max_tokens: int = 4000
) -> list[Message]:
    """Replies that go on and on, each of another name; what the names are told at the end of theirs."""
    told: list[Message] = []
    for index in range(number):
        one = hers[index % len(hers)]
        one.rpc.on_notice(Finished, lambda peer, message, _: told.append(message))
        model_id = TARGET.shard(0, 4).model_id
        asked = GenerateBody((), "", PROMPT, (), model_id, WireSampling(), max_tokens, (), 4, ignore_eos=True)
        answer, _ = await one.asks(dora, Generate(index.to_bytes(16, "big")), encode_body(asked))
        assert isinstance(answer, Accepted)
    return told


def come_from(client: Client, source: str) -> Client:
    client._rpc.transport.source = source  # type: ignore[attr-defined]
    return client


def test_alice_and_her_neighbours_get_places_at_a_drafter_that_one_name_has_filled(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=4)
        dora = swarm.members["dora"]
        told = await talkers(swarm, dora, names(swarm, 1), 4)
        for source in (ELSEWHERE, HERS):
            tokens: list[int] = []
            await rest(come_from(await swarm.client(), source).generate(REQUEST), tokens)
            assert tokens == EXPECTED
        assert isinstance(told[0], Finished) and told[0].error == "Overloaded"
        assert told[0].message == "others have asked for their share of this drafter"
        assert dora.node.status().sessions.drafter >= 2  # who is not in the way goes on

    story(tmp_path, tell)


def test_mallory_s_long_texts_wait_for_each_other_and_alice_for_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly(self: FakeTextEngine, text: str, parse_special: bool = False) -> list[int]:
        async with self._busy:
            await asyncio.sleep(1)
        return [1 + ord(character) % 90 for character in text]

    monkeypatch.setattr(FakeTextEngine, "tokenize", slowly)

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=8)
        dora, alice, hers = swarm.members["dora"], Mallory(swarm, "alice", ELSEWHERE), names(swarm, 4)
        model_id = TARGET.shard(0, 4).model_id

        async def ask(one: Mallory, text: str) -> tuple[Message, object]:
            asked = encode_body(GenerateBody((), text, (), (), model_id, WireSampling(), 5, (), 4))
            message = Generate(one.id[:16])
            return await one.rpc.request(dora.node.peer_id, message, [asked], timeout_s=20)

        texts = [asyncio.create_task(ask(one, "x" * 2000)) for one in hers]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(2.5):
            answer, _ = await ask(alice, "hello")
        assert isinstance(answer, Accepted)
        await asyncio.gather(*texts)

    story(tmp_path, tell)


def test_a_text_that_fits_no_context_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    async def reads(self: FakeTextEngine, text: str, parse_special: bool = False) -> list[int]:
        read.append(len(text))
        return [1 + ord(character) % 90 for character in text]

    monkeypatch.setattr(FakeTextEngine, "tokenize", reads)

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        dora, mallory, model_id = swarm.members["dora"], Mallory(swarm), TARGET.shard(0, 4).model_id
        assert dora.draft is not None
        most = 4096 * (await dora.draft.vocabulary()).longest_bytes
        for text in ("x" * (most + 1), "hello"):
            asked = encode_body(GenerateBody((), text, (), (), model_id, WireSampling(), 5, (), 4))
            answer, _ = await mallory.asks(dora, Generate(text[:1].encode() * 16), asked)
            if len(text) > most:
                assert isinstance(answer, Finished) and answer.error == "BadInput"
                assert f"the prompt is {most + 1} bytes long" in answer.message and "4096 tokens" in answer.message
        assert isinstance(answer, Accepted)
        assert read == [5]

    story(tmp_path, tell)


def test_long_replies_of_one_network_are_few_while_another_one_asks(tmp_path: Path) -> None:
    """Each is slower for all that is in the caches."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=8)
        dora, hers = swarm.members["dora"], names(swarm, 3)
        model_id = TARGET.shard(0, 4).model_id

        async def ask(one: Mallory) -> Message:
            asked = GenerateBody((), "", PROMPT, (), model_id, WireSampling(), 1500, (), 4, ignore_eos=True)
            answer, _ = await one.asks(dora, Generate(one.id[:16]), encode_body(asked))
            return answer

        alice = come_from(await swarm.client(), ELSEWHERE)
        await rest(alice.generate(REQUEST), [])
        assert isinstance(await ask(hers[0]), Accepted)
        refused = await ask(hers[1])
        assert isinstance(refused, Finished) and refused.error == "Overloaded"
        assert "while others ask" in refused.message
        tokens: list[int] = []
        await rest(come_from(await swarm.client(), HERS).generate(REQUEST), tokens)
        assert tokens == EXPECTED  # a neighbour's is short
        await asyncio.sleep(ASKED_S)
        assert isinstance(await ask(hers[1]), Accepted)

    story(tmp_path, tell, cost=lambda num: 0.02)


@pytest.mark.parametrize("source", [HERS, ELSEWHERE])
def test_many_names_have_a_drafter_s_places_for_their_turn(tmp_path: Path, source: str) -> None:
    """All of one network, or each of one of its own, as alice is."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=2)
        hers = names(swarm, 2)
        if source == ELSEWHERE:
            hers = [Mallory(swarm, f"mallory {index}", f"198.51.{index}.1") for index in range(2)]
        await talkers(swarm, swarm.members["dora"], hers, 2, max_tokens=1500)
        begun_s = asyncio.get_running_loop().time()
        reply = come_from(await swarm.client(patience_s=200.0), source).generate(REQUEST)
        assert await some(reply, 4) == EXPECTED[:4]
        assert TURN_S - 20 < asyncio.get_running_loop().time() - begun_s < TURN_S + 10
        await reply.aclose()

    story(tmp_path, tell, cost=lambda num: 0.3)


def test_a_client_that_asks_for_all_the_cache_does_not_keep_its_drafter_s_others_out(tmp_path: Path) -> None:
    """All of a drafter's sessions are one owner's to a stage."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=4)
        told = await talkers(swarm, swarm.members["dora"], names(swarm, 1), 1)
        await asyncio.sleep(1)
        tokens: list[int] = []
        async with asyncio.timeout(10):
            await rest((await swarm.client()).generate(replace(REQUEST, max_tokens=500)), tokens)
        assert tokens[:60] == EXPECTED
        assert not told  # hers goes on

    story(tmp_path, tell)


def test_resting_conversations_go_by_who_has_most(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=3)
        alice, mallory = [come_from(await swarm.client(), source) for source in (ELSEWHERE, HERS)]
        for number, client in enumerate((alice, *[mallory] * 4)):
            prompt = tuple((number + 7 * i) % 96 + 1 for i in range(20))
            asked = replace(REQUEST, prompt_tokens=prompt, max_tokens=20, keep=True, ignore_eos=True)
            await rest(client.generate(asked), [])
        again = replace(REQUEST, prompt_tokens=tuple((7 * i) % 96 + 1 for i in range(20)), keep=True, max_tokens=5)
        finished = await rest(alice.generate(again), [])
        assert finished.stats.prompt_tokens_reused  # hers is there, though it is the oldest

    story(tmp_path, tell)
