"""Dora has no draft model: she reads with sam's tokenizer, and proposes what the text has said before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from dsdnode.client.client import Client, GenerateRequest
from dsdnode.engine.fake import fake_text
from dsdnode.engine.nodraft import NoDraft
from dsdnode.errors import DsdError
from dsdnode.node.drafter import pairing
from dsdnode.swarm.catalogue import Model
from dsdnode.swarm.pings import Pings
from dsdnode.wire.records import NO_HASH
from tests.node.swarm import TARGET, FakeSwarm, fake_swarm, tokens_of
from tests.node.test_texts import READS, TALK, Hosts, honest, model_of, prompt_of, said

pytestmark = pytest.mark.usefixtures("quiet")
TOLD = said(ends=[0])
SAM_S = replace(TARGET, text=TOLD)
SAYS = 11
PROMPT = (3, 1, 4, 1, 5)
REPEATS = GenerateRequest(prompt_tokens=PROMPT, max_tokens=60, ignore_eos=True)


def story(folder: Path, tell: Callable[[FakeSwarm], Awaitable[None]]) -> None:
    async def told() -> None:
        async with fake_swarm(folder) as swarm, asyncio.timeout(60):
            await tell(swarm)

    asyncio.run(told())


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():  # noqa: ASYNC110 (nobody tells of these)
        await asyncio.sleep(0.02)


async def offered(client: Client) -> bool:
    return any(model.drafters for model in await client.models())


async def shards(swarm: FakeSwarm) -> None:
    await swarm.add("sam", layers=(0, 2), target=SAM_S)
    await swarm.add("sue", layers=(2, 4), target=SAM_S)


def test_a_conversation_is_read_and_answered(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await shards(swarm)
        await swarm.add("dora", drafts=True, texts=READS, no_draft_model=True)
        tokens, finished = await tokens_of(await swarm.client(), replace(TALK, ignore_eos=True, draft_max=-1))
        assert tokens == fake_text(TARGET, await prompt_of(TOLD, tmp_path), 60)
        assert finished.stats.drafted == 0

    story(tmp_path, tell)


def test_what_repeats_itself_takes_fewer_passes(tmp_path: Path) -> None:
    """A bias that leaves one token: the text is the same as without, and most of it was copied."""

    async def tell(swarm: FakeSwarm) -> None:
        await shards(swarm)
        await swarm.add("dora", drafts=True, texts=READS, no_draft_model=True)
        client = await swarm.client()
        asked = replace(REPEATS, logit_bias={SAYS: 100.0})
        tokens, finished = await tokens_of(client, asked)
        plain, unaided = await tokens_of(client, replace(asked, draft_max=0))
        assert tokens == plain == [SAYS] * 60
        assert finished.stats.copied_accepted == finished.stats.accepted > 30
        assert finished.stats.passes < unaided.stats.passes / 2
        assert unaided.stats.copied_judged == 0

    story(tmp_path, tell)


def test_dora_came_before_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "LOOK_S", 0.01)

    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True, texts=READS, no_draft_model=True)
        await shards(swarm)
        client = await swarm.client()
        await until(lambda: offered(client))
        tokens, _ = await tokens_of(client, REPEATS)
        assert tokens == fake_text(TARGET, PROMPT, 60)

    story(tmp_path, tell)


def test_of_shards_that_give_no_tokenizer_dora_is_told_so(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("sam", layers=(0, 4))
        with pytest.raises(DsdError, match="no tokenizer can be had of fake"):
            await swarm.add("dora", drafts=True, texts=READS, no_draft_model=True)

    story(tmp_path, tell)


def test_who_has_a_draft_model_is_asked_first(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await shards(swarm)
        await swarm.add("dora", drafts=True, texts=READS, no_draft_model=True)
        await swarm.add("dave", drafts=True, texts=READS)
        client = await swarm.client()
        client._drafters.joined = ()
        for _ in range(4):
            _, finished = await tokens_of(client, replace(REPEATS, draft_max=4, max_tokens=12, window="fixed"))
            assert finished.stats.drafted > 0

    story(tmp_path, tell)


def test_without_a_draft_model_a_target_that_is_gone_makes_room_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the first look that misses it. Mallory's, which names no tokenizer, keeps dora from nothing."""
    for name in ("LOOK_S", "FOLLOW_S"):
        monkeypatch.setattr(pairing, name, 0.0)

    async def tell(swarm: FakeSwarm) -> None:
        hashes = [replace(TARGET, padding=number).shard(0, 4).tokenizer_hash for number in (1, 2)]
        by_hash = {sha256(said(one)).hexdigest(): honest(said(one)) for one in hashes}
        hosts = Hosts(swarm, tmp_path, lambda asked: by_hash[asked.text_hash](asked))
        old, new = (replace(model_of(said(one), *hosts.rpcs), tokenizer_hash=one) for one in hashes)
        mallory_s = replace(old, model_id="m", tokenizer_hash=NO_HASH, text_hash="")
        looks = [[], [mallory_s, old], [old, new], [new], [old, new], [new], [new], [new]]
        heard: list[str] = []

        async def look() -> list[Model]:
            if not looks:
                raise EOFError
            return looks.pop(0)

        texts = hosts.texts
        texts.tokenizer_hash = NO_HASH
        with pytest.raises(EOFError):
            draft = NoDraft(4096, 32)
            pings = Pings(hosts.dora)
            await pairing.follow_targets(texts, pings, draft, False, look, lambda: heard.append(texts.tokenizer_hash))
        assert heard == hashes

    story(tmp_path, tell)


def test_a_target_whose_records_alone_are_there_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory renews his, and hosts nothing."""
    for name in ("LOOK_S", "FOLLOW_S"):
        monkeypatch.setattr(pairing, name, 0.0)

    async def tell(swarm: FakeSwarm) -> None:
        hashes = [replace(TARGET, padding=number).shard(0, 4).tokenizer_hash for number in (1, 2)]
        hosts = Hosts(swarm, tmp_path, honest(said(hashes[1])))
        mallory = swarm.stranger("mallory")
        await mallory.close()
        old = replace(model_of(said(hashes[0]), mallory, name="mallory's"), tokenizer_hash=hashes[0])
        new = replace(model_of(said(hashes[1]), *hosts.rpcs), tokenizer_hash=hashes[1])

        async def look() -> list[Model]:
            return [old, new]

        texts = hosts.texts
        texts.tokenizer_hash = hashes[0]
        assert await pairing.wait_for_target(texts, Pings(hosts.dora), NoDraft(4096, 32).shard, look)
        assert texts.tokenizer_hash == hashes[1]

    story(tmp_path, tell)


@pytest.mark.parametrize("is_partly_there", [False, True])
def test_dora_keeps_her_target_while_nothing_else_can_be_drafted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_partly_there: bool
) -> None:
    """Her own network is gone, say; or of another model one half is there."""
    for name in ("LOOK_S", "FOLLOW_S"):
        monkeypatch.setattr(pairing, name, 0.0)

    async def tell(swarm: FakeSwarm) -> None:
        hashes = [replace(TARGET, padding=number).shard(0, 4).tokenizer_hash for number in (1, 2)]
        hosts = Hosts(swarm, tmp_path, *(honest(said(one)) for one in hashes))
        mine, other = (
            replace(model_of(said(one), rpc), tokenizer_hash=one, model_id=name)
            for one, rpc, name in zip(hashes, hosts.rpcs, "za", strict=True)
        )
        if is_partly_there:
            other = replace(other, num_layers=other.num_layers + 1)
        texts, looks = hosts.texts, 0
        for model in (mine, other):
            await texts.fit(model)  # both files are on the disk, from better days
        texts.tokenizer_hash = hashes[0]
        for rpc in hosts.rpcs[: 1 if is_partly_there else 2]:
            await rpc.close()

        async def look() -> list[Model]:
            nonlocal looks
            looks += 1
            if looks > 2 * pairing.MAX_MISSED:
                raise EOFError
            return [mine, other]

        with pytest.raises(EOFError):
            await pairing.wait_for_target(texts, Pings(hosts.dora), NoDraft(4096, 32).shard, look)
        assert texts.tokenizer_hash == hashes[0]

    story(tmp_path, tell)
