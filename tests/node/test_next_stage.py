"""Whom a stage calls because an owner says that it comes next: peers that it has heard of, where these say they are."""

from __future__ import annotations

from pathlib import Path

from dsdnode.dht.ids import model_key
from dsdnode.identity import Identity, peer_id
from dsdnode.wire.codec import encode_body
from dsdnode.wire.messages import (
    Contact,
    Message,
    Open,
    Opened,
    OpenStages,
    Refused,
    StagePlace,
    WireSampling,
    session_of,
)
from tests.node.mallory import Mallory
from tests.node.swarm import FakeSwarm, Member
from tests.node.test_drafter_host import story

VICTIM = "tcp://127.0.0.1:4444"
UNHEARD_OF = Refused("nobody here has heard of the next stage", retry=True)


async def opens(mallory: Mallory, sam: Member, number: int, then: Contact) -> Message:
    """At sam, layers 0:2, with `then` behind him."""
    assert sam.shard is not None
    stages = OpenStages((StagePlace(sam.contact, 0, 2), StagePlace(then, 2, 4)))
    session = session_of(mallory.id, number.to_bytes(8, "big"))
    model_id = sam.shard.shard.model_id
    message = Open(session, 0, 0, model_id, mallory.contact, WireSampling(), 100, 60.0, "f32")
    answer, _ = await mallory.asks(sam, message, encode_body(stages), b"")
    return answer


def test_who_is_unknown_is_not_called_whatever_the_address(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await swarm.add("sam", layers=(0, 2)), Mallory(swarm)
        transport = swarm.hub.transports[sam.node.peer_id]
        for number, address in enumerate((VICTIM, "tcp://localhost:4444", "tcp://8.8.8.8:29170")):
            nobody = Contact(Identity(b"%32d" % number).public_key, (address,) * 4)
            assert await opens(mallory, sam, number, nobody) == UNHEARD_OF
            assert transport.contact_of(peer_id(nobody.public_key)) is None
        assert sam.node._stage is not None and sam.node._stage.num_sessions == 0

    story(tmp_path, tell)


def test_a_false_address_of_a_known_stage_changes_nothing(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, sue = await swarm.add("sam", layers=(0, 2)), await swarm.add("sue", layers=(2, 4))
        mallory, transport = Mallory(swarm), swarm.hub.transports[sam.node.peer_id]
        assert await opens(mallory, sam, 1, Contact(sue.contact.public_key, (VICTIM,))) == Opened()
        assert transport.contact_of(sue.node.peer_id) == sue.contact

    story(tmp_path, tell)


def test_a_stage_that_is_only_on_record_is_looked_up(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, sue = await swarm.add("sam", layers=(0, 2)), await swarm.add("sue", layers=(2, 4))
        assert sam.shard is not None
        mallory, transport = Mallory(swarm), swarm.hub.transports[sam.node.peer_id]
        assert await sam.node.discovery.find_providers(model_key(sam.shard.shard.model_id))
        transport._contacts.pop(sue.node.peer_id)
        assert await opens(mallory, sam, 1, Contact(sue.contact.public_key, (VICTIM,))) == Opened()
        assert transport.contact_of(sue.node.peer_id) == sue.contact

    story(tmp_path, tell)


def test_many_opens_of_the_unknown_are_one_lookup(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam, mallory = await swarm.add("sam", layers=(0, 2)), Mallory(swarm)
        stage, looks = sam.node._stage, []
        assert stage is not None

        async def look() -> None:
            looks.append(1)

        stage._neighbours._look = look
        for number in range(8):
            nobody = Contact(Identity(b"%32d" % number).public_key, (VICTIM,))
            assert await opens(mallory, sam, number, nobody) == UNHEARD_OF
        assert len(looks) == 1

    story(tmp_path, tell)
