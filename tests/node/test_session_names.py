"""A session bears its owner's name, so that nobody can sit on it: mallory, a stage, knows alice's and is elsewhere
first."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from dsdnode.client.client import GenerateRequest
from dsdnode.engine.fake import fake_text
from dsdnode.net.rpc import Rpc
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import (
    Contact,
    Open,
    Opened,
    OpenStages,
    Refused,
    StagePlace,
    WireSampling,
    is_session_of,
    session_of,
)
from tests.node.swarm import TARGET, FakeSwarm, Member
from tests.node.test_drafter_host import some, story

PROMPT = (5, 17, 42, 8)
REQUEST = GenerateRequest(prompt_tokens=PROMPT, max_tokens=60, draft_max=4)
EXPECTED = fake_text(TARGET, PROMPT, 60)


async def opened(sender: Rpc, stage: Member, session: bytes, owner: Contact, start: int = 0) -> Opened | Refused:
    """What the stage says to an Open of this session."""
    assert stage.shard is not None
    stages = OpenStages((StagePlace(stage.contact, start, stage.shard.shard.end),))
    model_id = stage.shard.shard.model_id
    message = Open(session, 0, 0, model_id, owner, WireSampling(), 100, 60.0, "f32")
    answer, _ = await sender.request(stage.node.peer_id, message, [encode_body(stages), b""], timeout_s=2)
    assert isinstance(answer, Opened | Refused)
    return answer


def session_at(stage: Member) -> bytes:
    assert stage.node._stage is not None
    [session] = stage.node._stage._sessions
    return session.id


def test_mallory_cannot_sit_on_dora_s_session_at_the_stage_that_she_will_need(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("dora", drafts=True)
        await swarm.add("sam", layers=(0, 4))
        alice, mallory = await swarm.client(), swarm.stranger("mallory")
        events = alice.generate(REQUEST)
        tokens = await some(events, 10)
        session = session_at(swarm.members["sam"])
        sid = await swarm.add("sid", layers=(0, 4))
        mine, dora_s = mallory.transport.contact, swarm.members["dora"].contact
        for owner in (mine, dora_s):
            assert await opened(mallory, sid, session, owner) == Refused("this session is another peer's")
        await swarm.kill("sam")
        async for event in events:
            tokens += getattr(event, "tokens", ())
        assert tokens == EXPECTED
        assert sid.shard is not None and sid.shard.num_positions_run >= 60

    story(tmp_path, tell)


def test_mallory_opens_sessions_of_her_own_name_as_everybody_may(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await swarm.add("sam", layers=(0, 4)), swarm.stranger("mallory")
        mine = mallory.transport.contact
        name = next(peer for peer, known in swarm.hub.transports.items() if known is mallory.transport)
        assert await opened(mallory, sam, session_of(name, bytes(8)), mine) == Opened()
        assert await opened(mallory, sam, bytes(16), mine) == Refused("this session is another peer's")

    story(tmp_path, tell)


def test_every_session_that_dora_makes_is_hers_and_new(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        dora = await swarm.add("dora", drafts=True)
        sam = await swarm.add("sam", layers=(0, 4))
        alice, found = await swarm.client(), set()
        for _ in range(3):
            events = alice.generate(REQUEST)
            await some(events, 1)
            found.add(session_at(sam))
            await events.aclose()
            await asyncio.sleep(1)
        assert len(found) == 3
        assert all(is_session_of(dora.node.peer_id, session) for session in found)
        stranger = Random("mallory").randbytes(32)
        assert not any(is_session_of(stranger, session) for session in found)

    story(tmp_path, tell)
