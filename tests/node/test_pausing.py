"""A machine whose user wants it for himself: it takes nothing new, and leaves nobody in the middle of a reply."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dsdnode.client.client import Finished
from dsdnode.dht.ids import MODELS_KEY
from dsdnode.errors import NoPipeline, Overloaded
from tests.node.swarm import FakeSwarm, Member, tokens_of
from tests.node.test_drafter_host import EXPECTED, REQUEST, some, story


async def offers(asker: Member, of: Member) -> set[str]:
    """Roles of `of` that others find."""
    records = await asker.node.discovery.find_providers(MODELS_KEY)
    return {record.role for record in records if record.peer_id == of.node.peer_id}


def test_sam_pauses_in_mid_reply_and_it_ends_as_if_he_had_not(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        dora = await swarm.add("dora", drafts=True)
        sam = await swarm.add("sam", layers=(0, 4))
        events = (await swarm.client()).generate(REQUEST)
        tokens = await some(events, 10)
        sam.node.volunteering.rest("user", "a game")
        assert sam.node.status().resting == "a game"
        async for event in events:
            if isinstance(event, Finished):
                assert event.stats.recoveries == 0
            else:
                tokens += event.tokens
        assert tokens == EXPECTED
        await asyncio.sleep(2)
        assert not await offers(dora, sam)
        sam.node.volunteering.rest("user", "")
        await asyncio.sleep(2)
        assert await offers(dora, sam) == {"shard"}
        assert (await tokens_of(await swarm.client(), REQUEST))[0] == EXPECTED

    story(tmp_path, tell)


def test_a_new_reply_goes_round_a_stage_and_a_drafter_that_have_just_paused(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam = await swarm.add("sam", layers=(0, 4), drafts=True)
        sue = await swarm.add("sue", layers=(0, 4), drafts=True)
        alice = await swarm.client()
        assert (await tokens_of(alice, REQUEST))[0] == EXPECTED
        for paused, other in ((sam, sue), (sue, sam)):
            other.node.volunteering.rest("user", "")
            await asyncio.sleep(2)
            paused.node.volunteering.rest("user", "a game")
            paused.node.volunteering.rest("user", "a game")
            events, begun_s = alice.generate(REQUEST), asyncio.get_running_loop().time()
            tokens = await some(events, 1)
            assert asyncio.get_running_loop().time() < begun_s + 1
            assert paused.node.status().sessions.shard == paused.node.status().sessions.drafter == 0
            async for event in events:
                tokens += () if isinstance(event, Finished) else event.tokens
            assert tokens == EXPECTED

    story(tmp_path, tell)


def test_a_stage_that_has_paused_computes_nothing_more_and_alice_is_told(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam = await swarm.add("sam", layers=(0, 4))
        await swarm.add("dora", drafts=True)
        alice = await swarm.client(patience_s=5)
        sam.node.volunteering.rest("user", "a game")
        with pytest.raises(Overloaded, match="this peer is paused") as told:
            await tokens_of(alice, REQUEST)
        assert "game" not in str(told.value)

    story(tmp_path, tell)


def test_a_drafter_that_has_paused_says_so(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        dora = await swarm.add("dora", layers=(0, 4), drafts=True)
        alice = await swarm.client(patience_s=5)
        dora.node.volunteering.rest("user", "a game")
        with pytest.raises(Overloaded, match="this peer is paused"):
            await tokens_of(alice, REQUEST)

    story(tmp_path, tell)


def test_on_battery_a_laptop_serves_its_own_user_and_nobody_else(tmp_path: Path) -> None:
    """Sam's has a drafter and layers, and others find neither; a game he wants it for himself, and pauses it."""

    async def tell(swarm: FakeSwarm) -> None:
        sam = await swarm.add("sam", layers=(0, 4), drafts=True)
        other = await swarm.add("other", layers=(4, 8))
        sam.node.volunteering.rest("battery", "on battery")
        await asyncio.sleep(5)
        alice, guest = await swarm.client(patience_s=5), await swarm.client(patience_s=5, guest_of=sam)
        with pytest.raises((NoPipeline, Overloaded)):
            await tokens_of(alice, REQUEST)
        assert not await offers(other, sam)
        assert (await tokens_of(guest, REQUEST))[0] == EXPECTED
        assert [one.complete for one in await guest.models()] == [True]
        assert (sam.node.status().resting, str(sam.node.volunteering.why_not_its_user)) == ("on battery", "")
        assert not await offers(other, sam)
        sam.node.volunteering.rest("user", "a game")
        assert sam.node.volunteering.why_not_its_user == "on battery; a game"
        with pytest.raises((NoPipeline, Overloaded)):
            await tokens_of(guest, REQUEST)
        sam.node.volunteering.rest("user", "")
        assert (await tokens_of(guest, REQUEST))[0] == EXPECTED
        sam.node.volunteering.rest("battery", "")
        await asyncio.sleep(5)
        assert await offers(other, sam) == {"shard", "drafter"}
        assert (await tokens_of(alice, REQUEST))[0] == EXPECTED

    story(tmp_path, tell)
