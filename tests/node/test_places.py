"""Places at stages and drafters: no more are promised than there are, and whoever holds one gives it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.config import DEFAULT_PATIENCE_S, parse_layers
from dsdnode.node.batching.culprits import REFUSED
from dsdnode.node.drafter.conversations import Conversation
from dsdnode.node.offers import REPEAT_S
from dsdnode.node.shard import host
from dsdnode.node.shard.host import MAX_LEASE_S, MAX_PARKED_S, StageHost
from dsdnode.node.shard.room import IDLE_S
from dsdnode.wire.messages import Block, Close, Opened, Park, Refused
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.replies import Accepted, Cancel, Generate
from tests.node.mallory import PROMPT, REQUEST, Mallory, rest, ring, sessions_at
from tests.node.swarm import FakeSwarm, Member
from tests.node.test_drafter_host import all_free, some, story
from tests.node.test_drafter_trust import body
from tests.node.test_faults import assert_nothing_is_held


def name(mallory: Mallory, number: int) -> bytes:
    """Of a session of hers."""
    return number.to_bytes(8, "big") + mallory.id[:8]


async def stage(swarm: FakeSwarm, max_sessions: int = 2) -> tuple[Member, Mallory]:
    return await swarm.add("sam", layers=(0, 4), max_sessions=max_sessions), Mallory(swarm)


# --- at a stage


def test_a_stage_opens_as_many_sessions_as_it_has(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await stage(swarm)
        answers = [await mallory.opens(sam, name(mallory, number)) for number in range(3)]
        assert answers == [Opened(), Opened(), Refused("all 2 sessions are taken", retry=True)]
        mallory.says(sam, Close(name(mallory, 0)))
        await asyncio.sleep(1)
        assert await mallory.opens(sam, name(mallory, 2)) == Opened()

    story(tmp_path, tell)


def test_sessions_that_are_idle_beyond_a_fair_share_are_announced_as_free(tmp_path: Path) -> None:
    """Mallory holds all four of sam's, and does nothing: two are anybody else's. Whoever works keeps what they have."""

    async def announced(swarm: FakeSwarm) -> int:
        found = await (await swarm.client()).survey(10, 1)
        return next(record.free_sessions for record in found[0] if record.role == "shard")

    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await stage(swarm, max_sessions=4)
        for number in range(4):
            assert await mallory.opens(sam, name(mallory, number)) == Opened()
        assert sam.node._stage is not None
        sessions = sam.node._stage._sessions
        assert sam.node._stage.num_free_sessions == 0
        await asyncio.sleep(IDLE_S + 1)
        assert sam.node._stage.num_free_sessions == 2
        await asyncio.sleep(REPEAT_S + 6)
        assert await announced(swarm) == 2
        for session in sessions:
            session.machine.worked_s = asyncio.get_running_loop().time()
        assert sam.node._stage.num_free_sessions == 0
        mallory.says(sam, Close(name(mallory, 0)))
        await asyncio.sleep(1)
        assert sam.node._stage.num_free_sessions == 1

    story(tmp_path, tell)


def test_a_stage_promises_no_position_twice(tmp_path: Path) -> None:
    """The cache has 4096."""

    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await stage(swarm, max_sessions=3)
        assert await mallory.opens(sam, name(mallory, 0), max_positions=2100) == Opened()
        full = Refused("the cache is reserved by other sessions", retry=True)
        assert await mallory.opens(sam, name(mallory, 1), max_positions=2100) == full
        assert await mallory.opens(sam, name(mallory, 2), max_positions=1996) == Opened()
        assert await mallory.opens(sam, name(mallory, 0), max_positions=2101, route=1) == full  # nor for another turn
        again = await mallory.opens(sam, name(mallory, 0), max_positions=1)  # and what is in use stays reserved
        assert again == Refused("another reply of this session takes a higher route", retry=True)
        assert await mallory.opens(sam, name(mallory, 0), max_positions=1, route=1) == Opened()

    story(tmp_path, tell)


def test_stages_that_are_no_model_are_refused(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sue, mallory = await swarm.add("sue", layers=(2, 4), max_sessions=2), Mallory(swarm)
        no_model = Refused("the stages do not make up the model, one after the other")
        for text in ("2:4", "0:1 2:4", "0:3 2:4", "2:4 0:2", "0:2 2:4 4:5", "0:2 3:4 2:4"):
            spans = [parse_layers(span) for span in text.split()]
            stages = [(sue.contact if span == (2, 4) else mallory.contact, *span) for span in spans]
            assert await mallory.opens_as(sue, name(mallory, 0), stages) == no_model

    story(tmp_path, tell)


@pytest.mark.parametrize("fault", ["chunk_of", "_done"])
def test_a_run_that_nobody_answers_for_keeps_no_place(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong around it, in a way that nobody thought of: once it is told, the second time it is over."""

    def bug(*_: object) -> None:
        raise AssertionError("so it was not thought of")

    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await stage(swarm)
        monkeypatch.setattr(host if fault == "chunk_of" else StageHost, fault, bug)
        for number in range(5):
            session = name(mallory, number)
            for route in range(2):
                assert await mallory.opens(sam, session, route=route) == Opened()
                block = Block(session, route, 1, 0, 0, 0, 2, 0, 0)
                mallory.says(sam, block, bytes(24), pack_tokens([1, 2]))
                await asyncio.sleep(0.1)
            assert await mallory.opens(sam, session, route=2) == Refused(REFUSED)
            assert sam.node.status().sessions.shard == 0
        assert_nothing_is_held(sam)

    story(tmp_path, tell)


def test_what_a_session_held_is_there_for_the_next(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await stage(swarm)
        for number in range(5):
            assert await mallory.opens(sam, name(mallory, number)) == Opened()
            mallory.says(sam, Close(name(mallory, number)))
            await asyncio.sleep(0.1)
        assert sam.node.status().sessions.shard == 0

    story(tmp_path, tell)


def test_who_rests_makes_room_before_another_is_let_in(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await stage(swarm)
        for number in range(2):
            await mallory.opens(sam, name(mallory, number))
            mallory.says(sam, Park(name(mallory, number), 0, 60.0))
        await asyncio.sleep(1)
        assert await mallory.opens(sam, name(mallory, 2), max_positions=4096) == Opened()
        assert [session.id for session in sessions_at(sam)] == [name(mallory, 2)]

    story(tmp_path, tell)


def test_a_park_that_comes_twice_counts_once(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await stage(swarm)
        await mallory.opens(sam, name(mallory, 0))
        for _ in range(2):
            mallory.says(sam, Park(name(mallory, 0), 0, 60.0))
        await asyncio.sleep(1)
        assert await mallory.opens(sam, name(mallory, 0), route=1) == Opened()

    story(tmp_path, tell)


def test_a_session_without_a_word_is_over_after_a_minute_whatever_its_owner_asked_for(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await stage(swarm)
        assert await mallory.opens(sam, name(mallory, 0), lease_s=3600.0) == Opened()
        await asyncio.sleep(MAX_LEASE_S + 1)
        assert sessions_at(sam) == []

    story(tmp_path, tell)


def test_a_parked_session_is_over_after_ten_minutes_whatever_its_owner_asked_for(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await stage(swarm)
        await mallory.opens(sam, name(mallory, 0))
        mallory.says(sam, Park(name(mallory, 0), 0, 3600.0))
        await asyncio.sleep(MAX_PARKED_S - 1)
        assert len(sessions_at(sam)) == 1
        await asyncio.sleep(2)
        assert sessions_at(sam) == []

    story(tmp_path, tell)


def test_an_owner_that_waits_for_one_stage_holds_no_place_at_another(tmp_path: Path) -> None:
    """Sue is full for a while. Sam's places are for those who can use them meanwhile."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=1)
        alice, mallory = await swarm.client(), Mallory(swarm)
        sam, sue = swarm.members["sam"], swarm.members["sue"]
        assert await mallory.opens(sue, name(mallory, 0)) == Opened()
        asking = asyncio.create_task(rest(alice.generate(REQUEST), []))
        held = 0
        for _ in range(100):
            await asyncio.sleep(0.05)
            held += sam.node.status().sessions.shard
        assert held < 20
        mallory.says(sue, Close(name(mallory, 0)))
        async with asyncio.timeout(DEFAULT_PATIENCE_S):
            await asking
        await all_free(swarm, within_s=1)

    story(tmp_path, tell)


# --- at a drafter


def test_a_drafter_takes_as_many_replies_as_it_has_places(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=2)
        dora, mallory = swarm.members["dora"], Mallory(swarm)
        names = [bytes(15) + bytes([number]) for number in range(3)]
        answers = [(await mallory.asks(dora, Generate(one), body()))[0] for one in names]
        assert [type(answer) for answer in answers] == [Accepted, Accepted, Refused]
        assert answers[-1] == Refused("all 2 replies here are taken", retry=True)
        for one in names:
            mallory.says(dora, Cancel(one))
        await all_free(swarm, within_s=1)

    story(tmp_path, tell)


def conversations(drafter: Member) -> list[Conversation]:
    """Those in progress, and those that rest."""
    host = drafter.node._drafter
    assert host is not None
    known = host._conversations
    return [*known._talking.values(), *known._resting.values()]


async def turn(alice: Client, request: GenerateRequest) -> int:
    """How many draft tokens were right."""
    return (await rest(alice.generate(request), [])).stats.accepted


@pytest.mark.slow
def test_a_drafter_s_cache_is_not_promised_twice(tmp_path: Path) -> None:
    """Of 4096 positions four long conversations take more: the oldest goes, and the newest is drafted for."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm)
        alice, dora = await swarm.client(), swarm.members["dora"]
        for number in range(4):
            prompt = tuple((number + 7 * i) % 96 + 1 for i in range(1100))
            asked = replace(REQUEST, prompt_tokens=prompt, window="hedged:2:8:2", ignore_eos=True, keep=True)
            assert await turn(alice, asked) > 0
            assert sum(len(one.tokens) for one in conversations(dora)) <= 4096

    story(tmp_path, tell)


def test_a_gateway_s_users_keep_their_conversations_and_take_nobody_else_s(tmp_path: Path) -> None:
    """One client with many users, beside alice: while there is room all rest, then its own go first."""

    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=6)
        alice, gateway, dora = await swarm.client(), await swarm.client(), swarm.members["dora"]
        await turn(alice, replace(REQUEST, prompt_tokens=PROMPT * 3, max_tokens=20, keep=True))
        (hers,) = conversations(dora)
        for number in range(8):
            prompt = tuple((number + 7 * i) % 96 + 1 for i in range(20))
            await turn(gateway, replace(REQUEST, prompt_tokens=prompt, max_tokens=20, keep=True))
            assert len(conversations(dora)) == min(number + 2, 6) and hers in conversations(dora)

    story(tmp_path, tell)


async def one_at_a_time(events: AsyncGenerator[Piece | Finished, None]) -> None:
    await some(events, 5)
    await events.aclose()


@pytest.mark.parametrize("keep", [False, True])
def test_a_reply_cut_short_gives_its_place_back(tmp_path: Path, keep: bool) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await ring(swarm, max_sessions=1)
        alice = await swarm.client()
        for _ in range(3):
            asked = replace(
                REQUEST, prompt_tokens=(*PROMPT, *range(1, 30)), max_tokens=2000, ignore_eos=True, keep=keep
            )
            await one_at_a_time(alice.generate(asked))
            await asyncio.sleep(1)
            assert swarm.members["dora"].node.status().sessions.drafter == 0
        assert await turn(alice, REQUEST) > 0  # its slot in the draft engine, too

    story(tmp_path, tell)
