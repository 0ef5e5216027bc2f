"""Alice asks a swarm in which one peer is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from dsdnode.client.client import Client, GenerateRequest
from dsdnode.dht.ids import MODELS_KEY
from dsdnode.errors import NoPipeline
from dsdnode.identity import Identity
from dsdnode.net.port import Priority
from dsdnode.net.zmq import ZmqTransport
from dsdnode.wire.joins import format_join
from dsdnode.wire.messages import Contact, Refused
from dsdnode.wire.records import sign_record
from dsdnode.wire.replies import Generate
from tests.node import jumping
from tests.swarm.test_joining import Member
from tests.swarm.town import Refusing, Town

SLOW_S = 1.0
NODE = Identity(b"n" * 32)


class Slow(Refusing):
    """What bob, the first of the town, has to say takes a second."""

    def send(self, peer: bytes, frames: list[bytes], priority: Priority) -> None:
        if self.contact.public_key == Identity((1).to_bytes(32, "big")).public_key:
            asyncio.get_running_loop().call_later(SLOW_S, super().send, peer, frames, priority)
        else:
            super().send(peer, frames, priority)


async def says_no(peer: bytes, message: Generate, buffers: Sequence[bytes]) -> Any:
    return Refused("dave says no"), ()


def test_a_drafter_that_only_a_slow_peer_knows_of_is_asked_before_alice_hears_that_there_is_none() -> None:
    async def story() -> None:
        async with Town(kind=Slow) as town:
            bob = town.begin("bob", offers=False)
            carol = town.begin("carol", "bob", offers=False)
            carol.discovery.provide(lambda: [carol.offer(0, 8)])
            dave = town.begin("dave", offers=False)
            dave.rpc.on_request(Generate, says_no)
            await asyncio.sleep(20)
            drafts = msgspec.structs.replace(dave.offer(0, 2, "ef" * 32), role="drafter", sequence=1)
            now = asyncio.get_running_loop().time()
            bob.transport.introduce(dave.contact)
            await bob.rpc.ping(dave.id, timeout_s=3)  # he knows where dave lives
            bob.discovery.store.put(MODELS_KEY, [(drafts, sign_record(dave.identity, drafts))], now)

            alice = Identity(b"a" * 32)
            transport = Slow(town.hub, Contact(alice.public_key, ()))
            transport.silent, transport.rng = town.silent, town.rng
            town.hub.transports[alice.peer_id] = transport
            client = Client.over(transport, alice, [carol.contact], town.rng)
            await client.join([carol.contact])
            try:
                with pytest.raises(NoPipeline, match="dave says no"):
                    async for _ in client.generate(GenerateRequest(prompt="hello")):
                        raise AssertionError("dave has nothing else to say")
            finally:
                await client.close()

    jumping.run(story())


def test_alice_asks_all_whom_she_was_to_join_before_she_hears_that_there_is_no_model() -> None:
    """Carol answers first, and knows nobody."""

    async def story() -> None:
        async with Town(kind=Slow) as town:
            bob = town.begin("bob", offers=False)
            carol = town.begin("carol", offers=False)
            bob.discovery.provide(lambda: [bob.offer(0, 8)])
            await asyncio.sleep(20)
            alice = Identity(b"a" * 32)
            transport = Slow(town.hub, Contact(alice.public_key, ()))
            transport.silent, transport.rng = town.silent, town.rng
            town.hub.transports[alice.peer_id] = transport
            client = Client.over(transport, alice, [carol.contact, bob.contact], town.rng)
            await client.join([carol.contact, bob.contact])
            try:
                with pytest.raises(NoPipeline, match="no drafter with the tokenizer"):
                    async for _ in client.generate(GenerateRequest(prompt="hello")):
                        raise AssertionError("there is nobody who drafts")
            finally:
                await client.close()

    jumping.run(story())


async def test_a_guest_asks_the_node_that_he_is_a_guest_of() -> None:
    """And nobody else has one that he asks each time."""
    node = Member(NODE, await ZmqTransport.open(NODE, listen="tcp://127.0.0.1:0"))
    try:
        for identity, home in ((Identity(b"a" * 32), node.contact.public_key), (None, None)):
            client = await Client.connect([format_join(node.contact)], identity=identity)
            asks = client._discovery.home
            assert (asks and asks.public_key) == home
            await client.close()
    finally:
        await node.close()
