"""A session bears its owner's name, so that nobody can sit on it: mallory, a stage, knows alice's and is elsewhere
first."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from dsdnode.wire.messages import Opened, Refused, is_session_of, session_of
from tests.node.mallory import EXPECTED, REQUEST, Mallory, rest, session_at
from tests.node.swarm import FakeSwarm
from tests.node.test_drafter_host import some, story

ANOTHER_S = Refused("this session is another peer's")


def test_mallory_cannot_sit_on_dora_s_session_at_the_stage_that_she_will_need(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        await swarm.add("sam", layers=(0, 4))
        alice, mallory = await swarm.client(), Mallory(swarm)
        events = alice.generate(REQUEST)
        tokens = await some(events, 10)
        session = session_at(swarm.members["sam"]).id
        sid = await swarm.add("sid", layers=(0, 4))
        for owner in (mallory.contact, swarm.members["dora"].contact):
            assert await mallory.opens(sid, session, owner=owner) == ANOTHER_S
        await swarm.kill("sam")
        await rest(events, tokens)
        assert tokens == EXPECTED
        assert sid.shard is not None and sid.shard.num_positions_run >= 60

    story(tmp_path, tell)


def test_mallory_opens_sessions_of_her_own_name_as_everybody_may(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await swarm.add("sam", layers=(0, 4)), Mallory(swarm)
        assert await mallory.opens(sam, session_of(mallory.id, bytes(8)), owner=sam.contact) == ANOTHER_S
        assert await mallory.opens(sam, bytes(16)) == ANOTHER_S
        assert await mallory.opens(sam, session_of(mallory.id, bytes(8))) == Opened()

    story(tmp_path, tell)


def test_every_session_that_dora_makes_is_hers_and_new(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        dora = await swarm.add("dora", drafts=True)
        sam = await swarm.add("sam", layers=(0, 4))
        alice, found = await swarm.client(), set[bytes]()
        for _ in range(3):
            events = alice.generate(REQUEST)
            await some(events, 1)
            found.add(session_at(sam).id)
            await events.aclose()
            await asyncio.sleep(1)
        assert len(found) == 3
        assert all(is_session_of(dora.node.peer_id, session) for session in found)
        stranger = Random("mallory").randbytes(32)
        assert not any(is_session_of(stranger, session) for session in found)

    story(tmp_path, tell)
