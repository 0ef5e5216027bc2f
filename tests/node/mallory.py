"""Mallory, a member of the swarm who knows all names of alice's reply and has no part in it; and who she speaks to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.engine.fake import fake_text
from dsdnode.net.rpc import Rpc
from dsdnode.node.drafter.reply import Reply
from dsdnode.node.shard.sessions import StageSession
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import Contact, Message, Open, Opened, OpenStages, Refused, StagePlace, WireSampling
from tests.node.swarm import TARGET, FakeSwarm, Member

PROMPT = (5, 17, 42, 8)
REQUEST = GenerateRequest(prompt_tokens=PROMPT, max_tokens=60, draft_max=4)
EXPECTED = fake_text(TARGET, PROMPT, 60)


class Mallory:
    """`says` to somebody what she likes; `opens` sessions as everybody may. She has as many names as she likes."""

    def __init__(self, swarm: FakeSwarm, name: str = "mallory", source: str = "127.0.0.1") -> None:
        self.rpc: Rpc = swarm.stranger(name)
        self.rpc.transport.source = source  # type: ignore[attr-defined]
        self.identity = swarm._identity(name)[0]
        self.id = next(peer for peer, one in swarm.hub.transports.items() if one is self.rpc.transport)

    @property
    def contact(self) -> Contact:
        return self.rpc.transport.contact

    def says(self, member: Member, message: Message, *buffers: bytes) -> None:
        self.rpc.notify(member.node.peer_id, message, buffers)

    async def opens(
        self,
        stage: Member,
        session: bytes,
        *,
        owner: Contact | None = None,
        max_positions: int = 100,
        lease_s: float = 60.0,
        route: int = 0,
    ) -> Opened | Refused:
        assert stage.shard is not None
        shard = stage.shard.shard
        contact, own = stage.contact, self.contact
        places = ((own, 0, shard.start), (contact, shard.start, shard.end), (own, shard.end, shard.num_layers))
        stages = [place for place in places if place[1] < place[2]]
        return await self.opens_as(
            stage, session, stages, owner=owner, max_positions=max_positions, lease_s=lease_s, route=route
        )

    async def opens_as(
        self,
        stage: Member,
        session: bytes,
        stages: Sequence[tuple[Contact, int, int]],
        *,
        owner: Contact | None = None,
        max_positions: int = 100,
        lease_s: float = 60.0,
        route: int = 0,
        wire: str = "f32",
    ) -> Opened | Refused:
        """In a route of these `stages`, (contact, start, end) each, where it has its own layers last."""
        assert stage.shard is not None
        shard = stage.shard.shard
        index = max(index for index, place in enumerate(stages) if place[1:] == (shard.start, shard.end))
        message = Open(
            session, route, index, shard.model_id, owner or self.contact, WireSampling(), max_positions, lease_s, wire
        )
        places = OpenStages(tuple(StagePlace(*place) for place in stages))
        answer, _ = await self.asks(stage, message, encode_body(places), b"")
        assert isinstance(answer, Opened | Refused)
        return answer

    async def asks(self, member: Member, message: Message, *buffers: bytes) -> tuple[Message, Sequence[bytes]]:
        return await self.rpc.request(member.node.peer_id, message, buffers, timeout_s=2)


async def ring(swarm: FakeSwarm, **options: Any) -> None:
    """Dora drafts, sam and sue are her stages."""
    await swarm.add("dora", drafts=True, **options)
    await swarm.add("sam", layers=(0, 2), **options)
    await swarm.add("sue", layers=(2, 4), **options)


def sessions_at(stage: Member) -> list[StageSession]:
    assert stage.node._stage is not None
    return list(stage.node._stage._sessions)


def session_at(stage: Member) -> StageSession:
    [session] = sessions_at(stage)
    return session


def reply_of(drafter: Member) -> Reply:
    """The one in progress."""
    assert drafter.node._drafter is not None
    [reply] = drafter.node._drafter._by_session.values()
    return reply


def id_of(client: Client) -> bytes:
    return client._discovery.own_id


def request_of(client: Client) -> bytes:
    """What the reply in progress is called."""
    [request] = client._askings.inboxes
    return request


async def rest(events: AsyncIterator[Piece | Finished], tokens: list[int]) -> Finished:
    """Read the reply to its end, into `tokens`."""
    async for event in events:
        if isinstance(event, Finished):
            return event
        tokens += event.tokens
    raise AssertionError("a reply ends with Finished")
