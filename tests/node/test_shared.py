"""Many people, one system prompt, one drafter: what a stage has of a line that begins alike, it computes once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from dsdnode.client.client import Client, GenerateRequest
from dsdnode.client.request import ReplyStats
from dsdnode.engine.fake import FakeEngine, fake_text
from dsdnode.engine.port import Chunk, Output
from dsdnode.node.shard.sessions import SHARED_STEP
from dsdnode.node.shard.terms import Asked
from dsdnode.speculation import digest
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.messages import Refused
from tests.node.swarm import TARGET, FakeSwarm, Member, fake_swarm, tokens_of

pytestmark = pytest.mark.usefixtures("quiet")
SYSTEM = tuple(7 * index % 89 for index in range(200))
"""Three whole steps, and some."""
WHOLE = 200 // SHARED_STEP * SHARED_STEP


def story(folder: Path, tell: Callable[[FakeSwarm], Awaitable[None]]) -> None:
    async def told() -> None:
        async with fake_swarm(folder) as swarm, asyncio.timeout(60):
            await swarm.add("sam", layers=(0, 2))
            await swarm.add("sue", layers=(2, 4))
            await swarm.add("dora", drafts=True)
            await tell(swarm)

    asyncio.run(told())


def asks(person: int, *, keep: bool = True) -> GenerateRequest:
    prompt = (*SYSTEM, person, 3, person)
    return GenerateRequest(prompt_tokens=prompt, max_tokens=30, draft_max=4, ignore_eos=True, keep=keep)


async def answer(client: Client, request: GenerateRequest) -> ReplyStats:
    """It is the text that it would be for one who is alone."""
    tokens, finished = await tokens_of(client, request)
    assert tokens == fake_text(TARGET, request.prompt_tokens or (), 30)
    return finished.stats


def positions(swarm: FakeSwarm) -> list[int]:
    """That each stage has run."""
    return [member.shard.num_positions_run for member in swarm.members.values() if member.shard is not None]


def test_eight_people_have_it_computed_once(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        people = [await swarm.client() for _ in range(8)]
        first = await answer(people[0], asks(0))
        assert first.prompt_tokens_reused == 0
        before = positions(swarm)
        for person, client in enumerate(people[1:], 1):
            assert (await answer(client, asks(person))).prompt_tokens_reused == WHOLE
        for now, then in zip(positions(swarm), before, strict=True):
            assert now - then < 7 * (len(SYSTEM) + 3 - WHOLE + 30 * 3)

    story(tmp_path, tell)


def test_users_of_one_gateway_keep_their_conversations(tmp_path: Path) -> None:
    """To the drafter they are one client: bob's first words do not take alice's cache away."""

    async def tell(swarm: FakeSwarm) -> None:
        gateway = await swarm.client()
        said = {}
        for person in range(4):
            reused = (await answer(gateway, asks(person))).prompt_tokens_reused
            assert reused == (WHOLE if person else 0)
            said[person] = fake_text(TARGET, asks(person).prompt_tokens or (), 30)
        for person, told in said.items():
            line = (*(asks(person).prompt_tokens or ()), *told, 5, 5)
            stats = await answer(gateway, replace(asks(person), prompt_tokens=line))
            assert stats.prompt_tokens_reused is not None and stats.prompt_tokens_reused >= len(line) - 4

    story(tmp_path, tell)


def test_while_the_first_reply_is_still_going_on_the_next_begins_with_it(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice, bob = await swarm.client(), await swarm.client()
        events = alice.generate(replace(asks(0), max_tokens=400))
        await anext(events)
        assert (await answer(bob, asks(1))).prompt_tokens_reused == WHOLE
        await events.aclose()

    story(tmp_path, tell)


def test_bob_goes_on_when_alice_is_gone(tmp_path: Path) -> None:
    """He has a copy, not her cache."""

    async def tell(swarm: FakeSwarm) -> None:
        alice, bob = await swarm.client(), await swarm.client()
        events = alice.generate(replace(asks(0), max_tokens=400))
        await anext(events)
        told = bob.generate(replace(asks(1), max_tokens=60))
        first = await anext(told)
        await events.aclose()
        tokens = [*first.tokens]
        async for event in told:
            tokens += getattr(event, "tokens", ())
        assert tokens == fake_text(TARGET, (*SYSTEM, 1, 3, 1), 60)

    story(tmp_path, tell)


def test_less_than_a_step_is_nobody_else_s_business(tmp_path: Path) -> None:
    """Else mallory could guess alice's prompt, a token at a time, by what was reused."""

    async def tell(swarm: FakeSwarm) -> None:
        alice, mallory, other = [await swarm.client() for _ in range(3)]
        secret = SYSTEM[: SHARED_STEP - 1]
        request = replace(asks(0), prompt_tokens=(*secret, 5, 6, 7))
        await answer(alice, request)
        guess = replace(request, prompt_tokens=(*secret[:40], 8, 8, 8))
        assert (await answer(mallory, guess)).prompt_tokens_reused == 0
        assert (await answer(other, replace(request, prompt_tokens=(*secret, 9)))).prompt_tokens_reused == 0

    story(tmp_path, tell)


def test_two_drafters_share_nothing(tmp_path: Path) -> None:
    """A stage that is asked by another owner begins anew, whatever that one says that it has."""

    async def tell(swarm: FakeSwarm) -> None:
        dora = swarm.members["dora"]
        dave = await swarm.add("dave", drafts=True)
        for drafter, person in ((dora, 0), (dave, 1)):
            client = await swarm.client()
            client._drafters.joined = (drafter.node.peer_id,)
            assert (await answer(client, asks(person))).prompt_tokens_reused == 0

    story(tmp_path, tell)


def test_what_was_rounded_on_its_way_is_not_lent_to_who_wants_it_exact(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice, bob, carol = [await swarm.client() for _ in range(3)]
        await answer(alice, replace(asks(0), wire="q8"))
        assert (await answer(bob, asks(1))).prompt_tokens_reused == 0
        assert (await answer(carol, replace(asks(2), wire="q8"))).prompt_tokens_reused == WHOLE

    story(tmp_path, tell)


def test_what_came_another_way_is_forgotten(tmp_path: Path) -> None:
    """Alice's conversation goes on in another wire type, and back again: what is kept, and lent, is of the last one."""

    async def tell(swarm: FakeSwarm) -> None:
        alice = await swarm.client()
        for wire in ("q8", "f32", "q8"):
            assert (await answer(alice, replace(asks(0), wire=wire))).prompt_tokens_reused == 0
        assert (await answer(await swarm.client(), asks(1))).prompt_tokens_reused == 0
        assert (await answer(await swarm.client(), replace(asks(2), wire="q8"))).prompt_tokens_reused == WHOLE

    story(tmp_path, tell)


def spoils(member: Member) -> None:
    """What it gives for the beginning of a line is wrong."""
    assert member.shard is not None
    honest = member.shard.forward

    async def forward(chunks: Sequence[Chunk]) -> list[Output]:
        outputs = await honest(chunks)
        spoiled = [None if one.states is None else (one.states + 1) % 16 for one in outputs]
        pairs = zip(chunks, outputs, spoiled, strict=True)
        return [one if chunk.position else replace(one, states=wrong) for chunk, one, wrong in pairs]

    member.shard.forward = forward  # type: ignore[method-assign]


def test_mallory_spoils_alice_s_text_no_longer_than_she_is_on_the_route(tmp_path: Path) -> None:
    """Sid, in her place from then on, has a beginning like it of bob's: sue's, that came by mallory, must not stay."""

    async def told() -> None:
        async with fake_swarm(tmp_path) as swarm, asyncio.timeout(60):
            spoils(await swarm.add("mallory", layers=(0, 2), max_sessions=1))
            await swarm.add("sue", layers=(2, 4))
            await swarm.add("dora", drafts=True)
            events = (await swarm.client()).generate(replace(asks(0), max_tokens=400))
            told = [*(await anext(events)).tokens]
            await swarm.add("sid", layers=(0, 2))
            await answer(await swarm.client(), asks(1))
            await swarm.kill("mallory")
            async for event in events:
                told += getattr(event, "tokens", None) or ()
            line = (*(asks(0).prompt_tokens or ()), *told[:-60])
            assert told[-60:] == fake_text(TARGET, line, 60), "it goes on as an honest route goes on from there"

    asyncio.run(told())


def test_who_was_asked_and_had_no_place_has_no_part_in_the_text(tmp_path: Path) -> None:
    """Mallory serves one conversation and refuses all others: sue, asked at once with her, began as if by her."""

    async def told() -> None:
        async with fake_swarm(tmp_path) as swarm, asyncio.timeout(60):
            mallory = await swarm.add("mallory", layers=(0, 2))
            spoils(mallory)
            await swarm.add("sue", layers=(2, 4))
            await swarm.add("dora", drafts=True)
            async with aclosing((await swarm.client()).generate(replace(asks(0), max_tokens=400))) as events:
                await anext(events)
                await swarm.add("sid", layers=(0, 2))
                assert mallory.node._stage is not None
                sessions = mallory.node._stage._sessions
                [alice_s], serves = list(sessions), sessions.refusal

                def refusal(owner: bytes, asked: Asked) -> Refused | None:
                    return serves(owner, asked) if asked.message.session == alice_s.id else Refused("full", retry=True)

                sessions.refusal = refusal  # type: ignore[method-assign]
                for person in range(1, 9):
                    await answer(await swarm.client(), asks(person))

    asyncio.run(told())


def test_what_came_by_other_stages_is_not_lent(tmp_path: Path) -> None:
    """Mallory's states were before sue's; bob's route has sid in that place, and nothing of mallory's."""

    async def told() -> None:
        async with fake_swarm(tmp_path) as swarm, asyncio.timeout(60):
            await swarm.add("mallory", layers=(0, 2))
            sue = await swarm.add("sue", layers=(2, 4))
            await swarm.add("dora", drafts=True)
            await answer(await swarm.client(), asks(0))
            await swarm.kill("mallory")
            await swarm.add("sid", layers=(0, 2))
            await answer(await swarm.client(), asks(1))
            assert sue.node._stage is not None
            sessions = sue.node._stage._sessions
            of_alice, of_bob = sorted(sessions, key=lambda one: one.since_s)
            assert of_alice.machine.lends(digest.split(of_bob.asked.digests))[0] == len(SYSTEM)
            assert len(sessions.lender(of_bob)[1]) == 1, "nothing is common but the beginning"

    asyncio.run(told())


def test_what_would_be_computed_anew_is_not_lent(tmp_path: Path) -> None:
    """Sam's layers have states that run on. What bob's prompt has in common with alice's is run in his own turns."""

    async def recurrent(discovery: Discovery) -> FakeEngine:
        engine = FakeEngine(TARGET, 0, 2)
        engine._shard = replace(engine._shard, is_recurrent=True)
        return engine

    async def told() -> None:
        async with fake_swarm(tmp_path) as swarm, asyncio.timeout(60):
            sam = await swarm.add("sam", layers=(0, 2), shard=recurrent)
            await swarm.add("sue", layers=(2, 4))
            await swarm.add("dora", drafts=True)
            await answer(await swarm.client(), asks(0))
            assert (await answer(await swarm.client(), asks(1))).prompt_tokens_reused == 0
            assert sam.node._stage is not None
            sessions = sam.node._stage._sessions
            assert [len(sessions.lender(one)[1]) for one in sessions] == [1, 1], "nothing but the beginning"

    asyncio.run(told())


def test_an_edited_prompt_that_two_of_would_not_fit_goes_on_where_it_parts(tmp_path: Path) -> None:
    """Else the lender would have to make room before it has lent anything, and all would be computed again."""

    async def told() -> None:
        async with fake_swarm(tmp_path) as swarm, asyncio.timeout(60):
            for name, layers in (("sam", (0, 2)), ("sue", (2, 4))):
                await swarm.add(name, layers=layers, context_tokens=400)
            await swarm.add("dora", drafts=True)
            alice = await swarm.client()
            await answer(alice, asks(0))
            stats = await answer(alice, asks(1))
            assert stats.prompt_tokens_reused is not None and stats.prompt_tokens_reused >= len(SYSTEM)

    asyncio.run(told())


def test_a_strict_reply_shares_nothing(tmp_path: Path) -> None:
    """Its rounding must not depend on what others asked."""

    async def told() -> None:
        async with fake_swarm(tmp_path) as swarm, asyncio.timeout(60):
            await swarm.add("sam", layers=(0, 4))
            await swarm.add("dora", drafts=True, strict=True)
            alice, bob = await swarm.client(), await swarm.client()
            events = alice.generate(replace(asks(0), max_tokens=400))
            await anext(events)
            assert (await answer(bob, asks(1))).prompt_tokens_reused == 0
            await events.aclose()

    asyncio.run(told())


def test_a_stage_that_died_between_lends_nothing_that_it_has_not(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        alice, bob = await swarm.client(), await swarm.client()
        await answer(alice, asks(0))
        sue = swarm.members["sue"].shard
        assert sue is not None
        sue.die()
        assert (await answer(bob, asks(1))).prompt_tokens_reused == 0
        assert (await answer(await swarm.client(), asks(2))).prompt_tokens_reused == WHOLE

    story(tmp_path, tell)
