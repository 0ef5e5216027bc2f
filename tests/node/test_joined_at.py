"""The join string that alice's node tells, and an invitation: where others reach her, as soon as they have said so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import NoReturn

import pytest

from dsdnode.config import NodeConfig
from dsdnode.identity import Identity
from dsdnode.net.memory import MemoryHub
from dsdnode.node.node import Node
from dsdnode.node.organs import Organs
from dsdnode.swarm.discovery import Discovery
from dsdnode.wire.joins import parse_join
from dsdnode.wire.messages import Contact

HOUSE, PUBLIC, RELAYED = "tcp://192.168.1.5:29170", "tcp://11.1.1.10:29170", "tcp://12.2.2.10:41234"


async def no_engine(discovery: Discovery | None = None) -> NoReturn:
    raise AssertionError("a bootstrap has none")


@pytest.fixture
async def alice(tmp_path: Path) -> AsyncIterator[Node]:
    identity = Identity(b"alice".ljust(32))
    transport = MemoryHub().transport(Contact(identity.public_key, (HOUSE, PUBLIC)))
    config = NodeConfig(roles=("bootstrap",), data_dir=tmp_path, swarm_keys=("correct horse",))
    node = Node(config, identity, transport, Organs(no_engine, no_engine, disk=False), Random(1))
    await node.run([])
    yield node
    await node.close()


def hear(alice: Node, reached: tuple[str, ...]) -> None:
    """Bob, far away, has called all her addresses."""
    own = alice._transport.contact.addresses
    alice.discovery.reach.heard(asyncio.get_running_loop().time(), "bob's", own, reached, own, far=True)
    alice.discovery._relocated()


def told(alice: Node) -> tuple[str, ...]:
    return parse_join(alice.join).addresses


async def test_the_join_string_names_no_address_in_vain(alice: Node) -> None:
    assert told(alice) == (HOUSE, PUBLIC), "nobody has said a word: any may be the one"
    hear(alice, (PUBLIC,))
    assert told(alice) == (PUBLIC,) == (alice.address,) == (alice.status().address,)
    assert parse_join(alice.status().join).addresses == (PUBLIC,)
    hear(alice, ())
    assert told(alice) == (HOUSE, PUBLIC), "none of them is any better"


async def test_it_is_told_again_once_others_reach_her_elsewhere(alice: Node) -> None:
    again = asyncio.create_task(alice.reached_elsewhere(alice.join))
    hear(alice, ())
    hear(alice, (PUBLIC,))  # which was told
    alice._transport.contact = Contact(alice._transport.contact.public_key, (HOUSE, RELAYED))  # type: ignore[misc]
    alice.discovery._relocated()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not again.done(), "a relay has given it, and nobody has called it yet"
    hear(alice, (RELAYED,))
    async with asyncio.timeout(5):
        assert parse_join(await again).addresses == (RELAYED,)


async def test_an_invitation_says_whether_she_is_reached(alice: Node) -> None:
    unknown = await alice.inviting()
    assert (len(unknown.joins), unknown.is_reached, unknown.swarm_keys) == (1, False, ("correct horse",))
    hear(alice, (PUBLIC,))
    reached = await alice.inviting()
    assert reached.is_reached and parse_join(reached.joins[0]).addresses == (PUBLIC,)


async def test_it_names_others_where_they_have_answered_her(alice: Node) -> None:
    bob = Contact(Identity(b"bob".ljust(32)).public_key, ("tcp://13.3.3.10:29170", "tcp://192.168.1.9:29170"))
    hub = alice._transport._hub  # type: ignore[attr-defined]
    hub.transport(bob)
    alice._transport.introduce(bob)
    alice.discovery.seen(bob)
    assert len((await alice.inviting()).joins) == 1, "she has not called him yet"
    await alice._transport.reach(Identity(b"bob".ljust(32)).peer_id, bob.addresses[0])
    hear(alice, (PUBLIC,))
    assert [parse_join(join) for join in (await alice.inviting()).joins] == [
        Contact(alice._transport.contact.public_key, (PUBLIC,)),
        bob,
    ]
